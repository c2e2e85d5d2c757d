//! RFC 9111 5.2.1 and 5.4, RFC 5861 4: what a client asks of the cache, as it is spelled.

use super::{HOUR, MINUTE, STALE};
use crate::script::{Ask, check_sites, get};

const HALF: &str = "Age: 1800";

/// A fresh answer, half an hour old of an hour; then a request with this field.
fn half(field: &'static str, stored: bool) -> (&'static str, Vec<Ask>) {
    let second = get(&[HOUR]).with(&[field]);
    (field, vec![get(&[HOUR, HALF]), if stored { second.stored(0) } else { second }])
}

/// An answer stale for a minute, then a request with this field.
fn stale(field: &'static str, stored: bool) -> (&'static str, Vec<Ask>) {
    let second = get(&[HOUR]).with(&[field]);
    (field, vec![get(&[MINUTE, STALE]), if stored { second.stored(0) } else { second }])
}

#[tokio::test]
async fn a_client_s_directives_are_read_by_the_same_grammar() {
    check_sites(vec![
        half("Cache-Control: max-age=\"600\"", false),
        half("Cache-Control: max-age=\"3000\"", true),
        half("Cache-Control: MAX-AGE=600", false),
        half("Cache-Control: ,max-age=600,", false),
        half("Cache-Control: foo=\"max-age=0, no-cache\"", true),
        half("Cache-Control: foo=\"bar\", max-age=600", false),
        half("Cache-Control: max-age=3000, max-age=600", false),
        half("Cache-Control: max-age=600, max-age=3000", false),
        half("Cache-Control: max-age=99999999999999999999", true),
        half("Cache-Control: max-age=foo", false),
        half("Cache-Control: max-age=-1", false),
        half("Cache-Control: max-age", false),
        half("Cache-Control: s-maxage=0", true),
        half("Cache-Control: must-revalidate, private, proxy-revalidate", true),
        half("Cache-Control: No-Cache", false),
        half("Cache-Control: no-cache=\"foo\"", false),
        half("Cache-Control: no-cachex, xno-cache", true),
        half("Cache-Control: no-transform", true),
        half("Cache-Control: min-fresh=\"2000\"", false),
        half("Cache-Control: Min-Fresh=1000", true),
        half("Cache-Control: min-fresh=1000, min-fresh=2000", false),
        half("Cache-Control: min-fresh=99999999999999999999", false),
        half("Cache-Control: max-age=3000, min-fresh=2000", false),
        half("Cache-Control: max-stale, max-age=600", false),
        half("Cache-Control: only-if-cached, max-age=3000", true),
        half("Cache-Control: foo\r\nCache-Control: max-age=600", false),
        half("Pragma: No-Cache", false),
        half("Pragma: foo, no-cache", false),
        half("Pragma: foo=\"no-cache\"", true),
        half("Pragma: no-cache\r\nCache-Control: max-age=3000", true),
        half("Expires: 0", true),
        half("Age: 9999", true),
    ])
    .await;
}

// RFC 9111 5.2.1.1, 5.2.1.3: also of what came a moment ago.
#[tokio::test]
async fn what_is_new_is_not_new_enough_for_whom_no_age_is() {
    let row = |field: &'static str, stored: bool| {
        let second = get(&[HOUR]).with(&[field]);
        (field, vec![get(&[HOUR]), if stored { second.stored(0) } else { second }])
    };
    check_sites(vec![
        row("Cache-Control: max-age=0", false),
        row("Cache-Control: max-age=00", false),
        row("Cache-Control: max-age=\"0\"", false),
        row("Cache-Control: max-age=", false),
        row("Cache-Control: max-age=0, max-stale", false),
        row("Cache-Control: max-age=600", true),
        row("Cache-Control: min-fresh=3601", false),
        row("Cache-Control: min-fresh=3000", true),
        row("Cache-Control: no-cache, max-age=600", false),
        (
            "it is asked about, not fetched anew",
            vec![
                get(&[HOUR, "ETag: \"a\""]),
                get(&[HOUR])
                    .status("304 X")
                    .with(&["Cache-Control: max-age=0"])
                    .saw("If-None-Match: \"a\"")
                    .gets(200)
                    .given("0123456789"),
                get(&[]).stored(1),
            ],
        ),
        (
            "what it brings is for others",
            vec![
                get(&[HOUR]),
                get(&[HOUR]).with(&["Cache-Control: no-cache"]),
                get(&[]).stored(1),
                get(&["Cache-Control: no-store"]).with(&["Cache-Control: no-cache"]),
            ],
        ),
        (
            "a range",
            vec![
                get(&[HOUR]),
                get(&[HOUR]).with(&["Cache-Control: no-cache", "Range: bytes=2-4"]).given("234"),
                get(&[]).stored(1),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_client_takes_what_is_stale_for_as_long_as_it_says() {
    check_sites(vec![
        stale("Cache-Control: max-stale=\"3600\"", true),
        stale("Cache-Control: Max-Stale", true),
        stale("Cache-Control: max-stale=30", false),
        stale("Cache-Control: max-stale=0", false),
        stale("Cache-Control: max-stale=foo", false),
        stale("Cache-Control: max-stale=-1", false),
        stale("Cache-Control: max-stale=99999999999999999999", true),
        stale("Cache-Control: max-stale=3600, max-age=3600", true),
        stale("Cache-Control: max-stale=3600, max-age=100", false),
        stale("Cache-Control: max-stale=3600, no-cache", false),
        stale("Cache-Control: foo=\"max-stale\"", false),
        stale("Cache-Control: only-if-cached, max-stale", true),
    ])
    .await;
    let mut cases = Vec::new();
    for control in [
        "Cache-Control: max-age=60, must-revalidate",
        "Cache-Control: max-age=60, proxy-revalidate",
        "Cache-Control: max-age=60, no-cache",
        "Cache-Control: s-maxage=60",
        "CDN-Cache-Control: max-age=60, must-revalidate",
    ] {
        for field in ["Cache-Control: max-stale", "Cache-Control: max-stale=3600", "Cache-Control: stale-if-error=3600"]
        {
            cases.push((control, vec![get(&[control, STALE]), get(&[HOUR]).with(&[field])]));
            cases.push((control, vec![get(&[control, STALE]), get(&[]).with(&[field]).cut().gets(502)]));
        }
    }
    check_sites(cases).await;
}

// RFC 5861 4: a request's word for as long as the request goes.
#[tokio::test]
async fn a_client_may_take_what_is_stale_when_the_origin_fails() {
    let ten = || get(&["Cache-Control: max-age=60, stale-if-error=10", STALE]);
    let broken = |field: &'static str| get(&[]).with(&[field]).status("503 X");
    check_sites(vec![
        ("its window is longer", vec![ten(), broken("Cache-Control: stale-if-error=3600").stored(0)]),
        ("as long, quoted", vec![ten(), broken("Cache-Control: stale-if-error=\"3600\"").stored(0)]),
        ("too short too", vec![ten(), broken("Cache-Control: stale-if-error=20")]),
        ("no number", vec![ten(), broken("Cache-Control: stale-if-error=foo")]),
        ("no answer at all", vec![ten(), get(&[]).with(&["Cache-Control: stale-if-error=3600"]).cut().stored(0)]),
        ("the origin is well", vec![ten(), get(&[]).with(&["Cache-Control: stale-if-error=3600"])]),
    ])
    .await;
}

// RFC 9111 5.2.1.5: nothing of the answer is stored, not even that it confirms what is there.
#[tokio::test]
async fn what_a_client_forbids_to_store_leaves_no_trace() {
    let tagged = || get(&[MINUTE, STALE, "ETag: \"a\"", "X: old"]);
    let unstored = |fields: &[&str]| get(fields).with(&["Cache-Control: no-store"]);
    check_sites(vec![
        ("what is stored already is for it too", vec![get(&[HOUR]), unstored(&[HOUR]).stored(0), get(&[]).stored(0)]),
        (
            "an unsafe method's answer",
            vec![
                get(&[HOUR, "Content-Location: /x"])
                    .method("POST")
                    .with(&["Content-Length: 0", "Cache-Control: no-store"]),
                get(&[HOUR]),
            ],
        ),
        ("spelled", vec![get(&[HOUR]).with(&["Cache-Control: foo, No-Store"]), get(&[HOUR])]),
        ("within quotes", vec![get(&[HOUR]).with(&["Cache-Control: foo=\"no-store\""]), get(&[]).stored(0)]),
        (
            "a range",
            vec![
                unstored(&[HOUR, "Content-Range: bytes 2-4/10"])
                    .status("206 X")
                    .body("234")
                    .with(&["Range: bytes=2-4", "Cache-Control: no-store"]),
                get(&[HOUR]).with(&["Range: bytes=2-4"]),
            ],
        ),
        (
            "a confirmation",
            vec![
                tagged(),
                unstored(&[HOUR, "X: new"]).status("304 X").gets(200).has("x", "new").given("0123456789"),
                get(&[HOUR]).status("304 X").gets(200).saw("If-None-Match: \"a\"").has("x", "old"),
            ],
        ),
        ("another version", vec![tagged(), unstored(&[HOUR, "ETag: \"b\""]), get(&[HOUR]).saw("If-None-Match: \"a\"")]),
    ])
    .await;
}

// RFC 9111 5.2.1.7
#[tokio::test]
async fn only_what_is_cached_is_answered_with_504_otherwise() {
    let only = |fields: &[&str]| get(&[HOUR]).with(fields);
    let cached = "Cache-Control: only-if-cached";
    let revalidated = ["Cache-Control: max-age=60, stale-while-revalidate=3600", STALE];
    check_sites(vec![
        ("nothing", vec![only(&["Cache-Control: Only-If-Cached"]).gets(504), get(&[HOUR])]),
        ("a HEAD of nothing", vec![only(&[cached]).method("HEAD").gets(504)]),
        ("a HEAD", vec![get(&[HOUR]), only(&[cached]).method("HEAD").stored(0)]),
        ("a range of nothing", vec![only(&[cached, "Range: bytes=2-4"]).gets(504)]),
        ("a range", vec![get(&[HOUR]), only(&[cached, "Range: bytes=2-4"]).stored(0).given("234")]),
        (
            "another variant",
            vec![
                get(&[HOUR, "Vary: Foo"]).with(&["Foo: 1"]),
                only(&[cached, "Foo: 2"]).gets(504),
                only(&[cached, "Foo: 1"]).stored(0),
            ],
        ),
        ("too old", vec![get(&[HOUR, HALF]), only(&[cached, "Cache-Control: max-age=600"]).gets(504)]),
        ("stale, and to be used so", vec![get(&revalidated), only(&[cached]).stored(0)]),
    ])
    .await;
}
