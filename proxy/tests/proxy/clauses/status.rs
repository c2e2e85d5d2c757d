//! RFC 9211 2: what Cache-Status says of how an answer was come by.

use super::{HOUR, MINUTE, STALE};
use crate::script::{Ask, check_sites, get};

const TAG: &str = "ETag: \"a\"";

fn stale() -> Ask {
    get(&[MINUTE, STALE, TAG])
}

fn confirmed() -> Ask {
    get(&[HOUR]).status("304 Not Modified").gets(200)
}

// RFC 9211 2.1-2.3: what the origin was asked for is no hit, and what it said need not be what the client is told.
#[tokio::test]
async fn cache_status_says_what_the_origin_answered() {
    let head = |fields: &[&str]| get(fields).method("HEAD");
    let window = "Cache-Control: max-age=60, stale-while-revalidate=3600";
    check_sites(vec![
        ("a confirmation", vec![stale(), confirmed().told("; fwd=stale; fwd-status=304; ttl=")]),
        (
            "asked for by the client",
            vec![
                get(&[HOUR, TAG]),
                confirmed().with(&["Cache-Control: no-cache"]).told("; fwd=request; fwd-status=304; ttl="),
            ],
        ),
        ("another version", vec![stale(), get(&[HOUR, "ETag: \"b\""]).told("; fwd=stale; fwd-status=200; ttl=")]),
        (
            "an error",
            vec![
                stale(),
                get(&[]).status("503 X").stored(0).told("; fwd=stale; fwd-status=503; ttl=-6"),
                get(&[]).status("503 X").stored(0).told(".stale-if-error"),
            ],
        ),
        ("no answer", vec![stale(), get(&[]).cut().stored(0).told("atoll; fwd=stale; ttl=-6")]),
        (
            "an error to a HEAD",
            vec![stale(), head(&[]).status("503 X").gets(200).told("; fwd=stale; fwd-status=503; ttl=-6")],
        ),
        (
            "no answer to a POST",
            vec![
                get(&[])
                    .method("POST")
                    .with(&["Content-Length: 0"])
                    .cut()
                    .gets(502)
                    .told("atoll; fwd=method; detail=method"),
            ],
        ),
        ("asked beside it", vec![get(&[window, STALE, TAG]), get(&[HOUR]).stored(0).told("atoll; hit; ttl=-6")]),
    ])
    .await;
}
