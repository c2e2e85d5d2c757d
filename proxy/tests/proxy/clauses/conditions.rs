//! RFC 9110 13, RFC 9111 4.3.2: conditions of clients, answered out of the store.

use super::{HOUR, OLD};
use crate::script::{Ask, check_sites, get};

/// A stored answer with these fields; then a request with that one, which must get this status, out of the store.
fn row(stored: &[&str], asked: &'static str, code: u16) -> (&'static str, Vec<Ask>) {
    let first = get(&[&[HOUR], stored].concat());
    (asked, vec![first, get(&[]).with(&[asked]).stored(0).code(code)])
}

const TAG: &str = "ETag: \"a\"";
const WEAK: &str = "ETag: W/\"a\"";

// RFC 9110 8.8.3, 13.1.2
#[tokio::test]
async fn tags_are_compared_weakly_and_byte_by_byte() {
    check_sites(vec![
        row(&[TAG], "If-None-Match: \"A\"", 200),
        row(&[TAG], "If-None-Match: \"a \"", 200),
        row(&[TAG], "If-None-Match: \"aa\"", 200),
        row(&[TAG], "If-None-Match: a", 200),
        row(&[TAG], "If-None-Match: 'a'", 200),
        row(&[TAG], "If-None-Match: \"a", 200),
        row(&[TAG], "If-None-Match: w/\"a\"", 200),
        row(&[TAG], "If-None-Match: W/\"b\"", 200),
        row(&[TAG], "If-None-Match: \"*\"", 200),
        row(&[TAG], "If-None-Match: ", 200),
        row(&[TAG], "If-None-Match: *", 304),
        row(&[TAG], "If-None-Match:  \t\"a\"\t", 304),
        row(&[WEAK], "If-None-Match: \"a\"", 304),
        row(&[WEAK], "If-None-Match: *", 304),
        row(&["ETag: \"\""], "If-None-Match: \"\"", 304),
        row(&["ETag: \"\""], "If-None-Match: \"a\"", 200),
        row(&["ETag: \"a,b\""], "If-None-Match: \"a\", \"b\"", 200),
        row(&["ETag: \"a,b\""], "If-None-Match: \"x\", \"a,b\"", 304),
        row(&["ETag: \"W/a\""], "If-None-Match: \"a\"", 200),
        row(&["ETag: a"], "If-None-Match: \"a\"", 200),
        row(&["ETag: a\\b"], "If-None-Match: a\\b", 304),
        row(&["ETag: \"a\\\""], "If-None-Match: \"a\\\"", 304),
        row(&["X: no tag"], "If-None-Match: \"a\"", 200),
        row(&["X: no tag"], "If-None-Match: *", 304),
    ])
    .await;
}

#[tokio::test]
async fn a_list_of_tags_has_one_that_fits_or_none() {
    check_sites(vec![
        row(&[TAG], "If-None-Match: \"a\",\"b\",\"c\"", 304),
        row(&[TAG], "If-None-Match: \"b\",\"a\",\"c\"", 304),
        row(&[TAG], "If-None-Match: \"b\"\t,\t\"c\" , \"a\"", 304),
        row(&[TAG], "If-None-Match: ,,\"a\",", 304),
        row(&[TAG], "If-None-Match: W/\"b\", W/\"a\"", 304),
        row(&[TAG], "If-None-Match: \"b\"\r\nIf-None-Match: \"a\"", 304),
        row(&[TAG], "If-None-Match: \"b\"\r\nIf-None-Match: \"c\"", 200),
        row(&[TAG], "If-None-Match: b, \"a\"", 304),
        row(&[TAG], "If-None-Match: \"b,\"a\",c\"", 200),
        row(&[WEAK], "If-None-Match: \"b\", \"a\", \"c\"", 304),
    ])
    .await;
}

// RFC 9110 13.1.3
#[tokio::test]
async fn dates_of_change_are_compared_as_moments() {
    check_sites(vec![
        row(&[OLD], "If-Modified-Since: Wed, 18 Aug 2010 02:01:18 GMT", 304),
        row(&[OLD], "If-Modified-Since: Wed, 18 Aug 2010 02:01:19 GMT", 304),
        row(&[OLD], "If-Modified-Since: Wed, 18 Aug 2010 02:01:17 GMT", 200),
        row(&[OLD], "If-Modified-Since: Wed Aug 18 02:01:18 2010", 304),
        row(&[OLD], "If-Modified-Since: wed, 18 aug 2010 02:01:18 gmt", 304),
        row(&[OLD], "If-Modified-Since: Thu, 18 Aug 2050 02:01:18 GMT", 304),
        row(&[OLD], "If-Modified-Since: foo", 200),
        row(&[OLD], "If-Modified-Since: 0", 200),
        row(&[OLD], "If-Modified-Since: ", 200),
        row(&[OLD], "If-Modified-Since: Wed, 18 Aug 2010 02:01:18 EST", 200),
        row(
            &[OLD],
            "If-Modified-Since: Wed, 18 Aug 2010 02:01:18 GMT\r\nIf-Modified-Since: Wed, 18 Aug 2010 02:01:19 GMT",
            200,
        ),
        row(&["Last-Modified: foo"], "If-Modified-Since: Wed, 18 Aug 2010 02:01:18 GMT", 200),
        row(&[OLD], "If-Modified-Since: *", 200),
        row(&["X: no date"], "If-Modified-Since: Wed, 18 Aug 2010 02:01:18 GMT", 200),
        row(&["X: no date"], "If-Modified-Since: Thu, 18 Aug 2050 02:01:18 GMT", 304),
        row(&["Last-Modified: Thu, 18 Aug 2050 02:01:18 GMT"], "If-Modified-Since: Thu, 18 Aug 2011 02:01:18 GMT", 200),
    ])
    .await;
}

// RFC 9110 13.2.2
#[tokio::test]
async fn conditions_come_in_their_order() {
    let since = "If-Modified-Since: Thu, 18 Aug 2011 02:01:18 GMT";
    let both = |tag: &'static str, code| {
        let first = get(&[HOUR, TAG, OLD]);
        (tag, vec![first, get(&[]).with(&[tag, since]).stored(0).code(code)])
    };
    check_sites(vec![
        both("If-None-Match: \"a\"", 304),
        both("If-None-Match: \"b\"", 200),
        both("If-None-Match: foo", 200),
        both("If-None-Match: \"b\"\r\nRange: bytes=2-4", 206),
        both("If-None-Match: \"a\"\r\nRange: bytes=2-4", 304),
        (
            "on a HEAD",
            vec![get(&[HOUR, TAG]), get(&[]).method("HEAD").with(&["If-None-Match: \"a\""]).stored(0).code(304)],
        ),
        (
            "on a HEAD in vain",
            vec![get(&[HOUR, TAG]), get(&[]).method("HEAD").with(&["If-None-Match: \"b\""]).stored(0).code(200)],
        ),
        (
            "with If-Range",
            vec![
                get(&[HOUR, TAG]),
                get(&[]).with(&["If-None-Match: \"b\"", "If-Range: \"a\"", "Range: bytes=2-4"]).stored(0).given("234"),
            ],
        ),
    ])
    .await;
}

// RFC 9110 15.4.5
#[tokio::test]
async fn a_304_has_what_its_200_would_have() {
    let first = get(&[
        HOUR,
        TAG,
        OLD,
        "Vary: Foo",
        "Content-Location: /y",
        "Expires: Thu, 18 Aug 2050 02:01:18 GMT",
        "Date: Thu, 18 Aug 2050 02:01:18 GMT",
        "Content-Type: a/b",
    ]);
    let again = get(&[]).with(&["If-None-Match: \"a\""]).stored(0).code(304);
    let again = again
        .has("etag", "\"a\"")
        .has("cache-control", "max-age=3600")
        .has("vary", "Foo")
        .has("content-location", "/y")
        .has("expires", "Thu, 18 Aug 2050 02:01:18 GMT")
        .has("date", "Thu, 18 Aug 2050 02:01:18 GMT")
        .lacks("content-length")
        .lacks("transfer-encoding");
    check_sites(vec![("all of it", vec![first, again])]).await;
}

// RFC 9110 13.2.1: conditions are for what would have been a success.
#[tokio::test]
async fn conditions_matter_to_successes_alone() {
    let mut cases = Vec::new();
    for (status, code) in [("203 X", 304), ("404 X", 404), ("301 X", 301), ("410 X", 410), ("500 X", 500)] {
        let first = get(&[HOUR, TAG, OLD]).status(status);
        for field in ["If-None-Match: \"a\"", "If-None-Match: *", "If-Modified-Since: Thu, 18 Aug 2011 02:01:18 GMT"] {
            cases.push((status, vec![first.clone(), get(&[]).with(&[field]).stored(0).code(code)]));
        }
    }
    check_sites(cases).await;
}

// RFC 9110 13.1: where nothing is stored, the origin compares; its answer is what is right for that request.
#[tokio::test]
async fn what_the_origin_makes_of_a_client_s_condition_is_for_that_client() {
    let asked = |field: &'static str| get(&[HOUR, "ETag: \"b\""]).with(&[field]);
    check_sites(vec![
        ("If-None-Match", vec![asked("If-None-Match: \"a\"").saw("If-None-Match: \"a\""), get(&[]).stored(0)]),
        (
            "If-Modified-Since",
            vec![asked("If-Modified-Since: Thu, 18 Aug 2011 02:01:18 GMT"), get(&[]).stored(0).has("etag", "\"b\"")],
        ),
        (
            "a 304 is not stored",
            vec![asked("If-None-Match: \"b\"").status("304 X").code(304), get(&[HOUR]).code(200), get(&[]).stored(1)],
        ),
        (
            "a 412 is not stored",
            vec![
                asked("If-Match: \"a\"").status("412 X").saw("If-Match: \"a\"").code(412),
                get(&[HOUR]).code(200),
                get(&[]).stored(1),
            ],
        ),
        (
            "a 412 by date is not stored",
            vec![
                asked("If-Unmodified-Since: Thu, 18 Aug 2011 02:01:18 GMT").status("412 X").code(412),
                get(&[HOUR]).code(200),
            ],
        ),
        ("a 412 that nobody asked for is an answer", vec![get(&[HOUR]).status("412 X"), get(&[]).stored(0).code(412)]),
        ("one that has it already", vec![asked("If-None-Match: \"b\"").code(304), get(&[]).stored(0).code(200)]),
    ])
    .await;
}

// RFC 9110 13.1.1, 13.1.4, RFC 9111 4.3.2: these are the origin's to judge, whatever is stored.
#[tokio::test]
async fn whether_a_client_s_answer_is_still_the_one_only_the_origin_knows() {
    let old = || get(&[HOUR, TAG, OLD]);
    let asked = |answer: &[&str], field: &'static str| get(answer).with(&[field]).saw(field);
    check_sites(vec![
        (
            "in vain",
            vec![
                old(),
                asked(&[HOUR, "ETag: \"b\""], "If-Match: \"a\"").status("412 X").code(412),
                get(&[]).stored(0).has("etag", "\"a\""),
            ],
        ),
        (
            "with what came after the stored one",
            vec![
                old(),
                asked(&[HOUR, "ETag: \"b\""], "If-Match: \"b\"").body("abc").given("abc"),
                get(&[]).stored(1).given("abc"),
            ],
        ),
        (
            "by date",
            vec![old(), asked(&[], "If-Unmodified-Since: Thu, 18 Aug 2005 02:01:18 GMT").status("412 X").code(412)],
        ),
        (
            "with a range",
            vec![
                old(),
                get(&[HOUR, TAG])
                    .with(&["If-Match: \"a\"", "Range: bytes=2-4"])
                    .saw("If-Match: \"a\"")
                    .code(206)
                    .given("234"),
            ],
        ),
        (
            "beside one for caches",
            vec![
                old(),
                get(&[HOUR, TAG])
                    .with(&["If-Match: \"a\"", "If-None-Match: \"a\""])
                    .saw("If-None-Match: \"a\"")
                    .status("304 X")
                    .code(304),
                get(&[]).stored(0),
            ],
        ),
        ("on a HEAD", vec![old(), asked(&[HOUR, TAG], "If-Match: \"b\"").method("HEAD").status("412 X").code(412)]),
        (
            "of what is stale",
            vec![
                get(&["Cache-Control: max-age=60", "Age: 120", TAG]),
                asked(&[], "If-Match: \"c\"").unseen("If-None-Match").status("412 X").code(412),
            ],
        ),
    ])
    .await;
}

// RFC 9110 13.1.2, RFC 9111 4.3: what is stale is asked about by its own tag, and the client's is compared after that.
#[tokio::test]
async fn a_client_s_condition_on_what_is_stale_is_judged_when_it_is_known() {
    let stale = || get(&["Cache-Control: max-age=60", "Age: 120", TAG]);
    let asked = |fields: &[&str], field: &'static str| get(fields).with(&[field]);
    check_sites(vec![
        (
            "confirmed, and the client has it",
            vec![
                stale(),
                asked(&[HOUR], "If-None-Match: \"a\"").status("304 X").saw("If-None-Match: \"a\"").code(304),
                get(&[]).stored(1).code(200).given("0123456789"),
            ],
        ),
        (
            "confirmed, and the client has another",
            vec![
                stale(),
                asked(&[HOUR], "If-None-Match: \"b\"").status("304 X").gets(200).given("0123456789"),
                get(&[]).stored(1),
            ],
        ),
        (
            "replaced by what the client has",
            vec![
                stale(),
                asked(&[HOUR, "ETag: \"b\""], "If-None-Match: \"b\"").code(304),
                get(&[]).stored(1).code(200).has("etag", "\"b\""),
            ],
        ),
        (
            "replaced by another",
            vec![
                stale(),
                asked(&[HOUR, "ETag: \"c\""], "If-None-Match: \"b\"").code(200),
                get(&[]).stored(1).has("etag", "\"c\""),
            ],
        ),
        (
            "a date",
            vec![
                get(&["Cache-Control: max-age=60", "Age: 120", OLD]),
                asked(&[HOUR], "If-Modified-Since: Thu, 18 Aug 2011 02:01:18 GMT").status("304 X").code(304),
            ],
        ),
    ])
    .await;
}
