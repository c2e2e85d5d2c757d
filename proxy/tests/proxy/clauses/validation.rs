//! RFC 9111 3.2, 4.3.1, 4.3.3-4.3.5: what is stale is asked about, and what a 304, a HEAD or another answer makes of it.

use super::{HOUR, MINUTE, OLD, PAST, STALE};
use crate::script::{Ask, check_sites, get};

const TAG: &str = "ETag: \"a\"";

fn stale(fields: &[&str]) -> Ask {
    get(&[&[MINUTE, STALE], fields].concat())
}

/// A confirmation, which its client sees as the stored answer.
fn confirmed(fields: &[&str]) -> Ask {
    get(&[&[HOUR], fields].concat()).status("304 Not Modified").gets(200).given("0123456789")
}

#[tokio::test]
async fn what_is_stale_is_asked_about_with_all_its_validators() {
    check_sites(vec![
        (
            "both",
            vec![
                stale(&[TAG, OLD]),
                confirmed(&[]).saw("If-None-Match: \"a\"").saw("If-Modified-Since: Wed, 18 Aug 2010 02:01:18 GMT"),
                get(&[]).stored(1),
            ],
        ),
        (
            "as they were spelled",
            vec![
                stale(&["ETag: a", "Last-Modified: Wed Aug 18 02:01:18 2010"]),
                confirmed(&[]).saw("If-None-Match: a").saw("If-Modified-Since: Wed Aug 18 02:01:18 2010"),
            ],
        ),
        (
            "no-cache",
            vec![
                get(&["Cache-Control: no-cache", TAG]),
                confirmed(&["Cache-Control: no-cache"]).saw("If-None-Match: \"a\""),
                get(&[]).status("304 X").gets(200).saw("If-None-Match: \"a\"").given("0123456789"),
            ],
        ),
        ("max-age=0", vec![get(&["Cache-Control: max-age=0", TAG]), confirmed(&[]).saw("If-None-Match: \"a\"")]),
        ("expired", vec![get(&[PAST, TAG]), confirmed(&[]).saw("If-None-Match: \"a\""), get(&[]).stored(1)]),
        (
            "must-revalidate",
            vec![
                stale(&["Cache-Control: must-revalidate", TAG]),
                confirmed(&[]).saw("If-None-Match: \"a\""),
                get(&[]).stored(1),
            ],
        ),
        ("nothing said", vec![get(&[TAG]), confirmed(&[]).saw("If-None-Match: \"a\""), get(&[]).stored(1)]),
        (
            "a 404",
            vec![
                stale(&[TAG]).status("404 X"),
                confirmed(&[]).saw("If-None-Match: \"a\"").gets(404),
                get(&[]).stored(1).code(404),
            ],
        ),
        (
            "not with a client's",
            vec![
                stale(&[TAG]),
                confirmed(&[]).with(&["If-None-Match: \"c\""]).saw("If-None-Match: \"a\"").unseen("\"c\""),
            ],
        ),
        (
            "not the client's range",
            vec![stale(&[TAG]), confirmed(&[]).with(&["Range: bytes=2-4"]).gets(206).given("234").unseen("\r\nrange:")],
        ),
    ])
    .await;
}

// RFC 9111 3.2: each field that comes takes the place of those of its name; the length of the body stays.
#[tokio::test]
async fn a_304_renews_every_field_but_the_length() {
    let mut cases = Vec::new();
    for (old, new) in [
        ("Test-Header: a", "b"),
        ("Content-Foo: a", "b"),
        ("X-Content-Foo: a", "b"),
        ("Cache-Control: foo", "max-age=3600, bar"),
        ("Clear-Site-Data: a", "b"),
        ("Content-Disposition: a", "b"),
        ("Content-Encoding: a", "b"),
        ("Content-Language: a", "b"),
        ("Content-Location: /a", "/b"),
        ("Content-MD5: a", "b"),
        ("Content-Security-Policy: a", "b"),
        ("Content-Type: a/a", "b/b"),
        ("Date: Thu, 18 Aug 2050 02:01:18 GMT", "Fri, 19 Aug 2050 02:01:18 GMT"),
        ("Expires: Thu, 18 Aug 2049 02:01:18 GMT", "Thu, 18 Aug 2050 02:01:18 GMT"),
        ("Last-Modified: Tue, 18 Aug 2009 02:01:18 GMT", "Wed, 18 Aug 2010 02:01:18 GMT"),
        ("Link: <a>", "<b>"),
        ("Location: /a", "/b"),
        ("Pragma: a", "b"),
        ("Public-Key-Pins: a", "b"),
        ("Retry-After: 1", "2"),
        ("Server: a", "b"),
        ("Set-Cookie: a=a", "b=b"),
        ("Set-Cookie2: a", "b"),
        ("Strict-Transport-Security: max-age=1", "max-age=2"),
        ("Vary: Foo", "Bar"),
        ("Warning: 110 a", "199 b"),
        ("WWW-Authenticate: a", "b"),
        ("X-Frame-Options: a", "b"),
        ("X-XSS-Protection: a", "b"),
    ] {
        let name = old.split_once(':').unwrap().0;
        let field: &'static str = name.to_ascii_lowercase().leak();
        let brought = format!("{name}: {new}");
        let update = get(&[HOUR, &brought]).status("304 X").gets(200);
        let seen = if name == "Cache-Control" { "max-age=3600, max-age=3600, bar" } else { new };
        let (update, again) = (update.has(field, seen), get(&[]).stored(1).has(field, seen));
        cases.push((old, vec![stale(&[TAG, old]), update, again]));
    }
    check_sites(cases).await;
}

// RFC 9111 3.1, 3.2
#[tokio::test]
async fn a_304_adds_lines_and_names_but_nothing_that_is_not_stored() {
    check_sites(vec![
        (
            "several lines by one",
            vec![stale(&[TAG, "A: 1", "A: 2"]), confirmed(&["A: 3"]).has("a", "3"), get(&[]).stored(1).has("a", "3")],
        ),
        (
            "one by several lines",
            vec![
                stale(&[TAG, "A: 1"]),
                confirmed(&["A: 2", "A: 3"]).has("a", "2, 3"),
                get(&[]).stored(1).has("a", "2, 3"),
            ],
        ),
        ("new ones", vec![stale(&[TAG]), confirmed(&["A: 1"]).has("a", "1"), get(&[]).stored(1).has("a", "1")]),
        (
            "what does not come stays",
            vec![
                stale(&[TAG, "A: 1"]),
                confirmed(&[]).has("a", "1").has("etag", "\"a\""),
                get(&[]).stored(1).has("a", "1").has("etag", "\"a\""),
            ],
        ),
        (
            "not the length",
            vec![
                stale(&[TAG]),
                confirmed(&["Content-Length: 5"]).has("content-length", "10"),
                get(&[]).stored(1).has("content-length", "10").given("0123456789"),
            ],
        ),
        (
            "not which part it is",
            vec![
                stale(&[TAG]),
                confirmed(&["Content-Range: bytes 0-4/10"]).lacks("content-range"),
                get(&[]).stored(1).code(200).lacks("content-range").given("0123456789"),
            ],
        ),
        (
            "not those of one hop",
            vec![
                stale(&[TAG]),
                confirmed(&["Connection: A", "A: 1", "Keep-Alive: x", "Proxy-Authenticate: x", "Upgrade: x"])
                    .lacks("a"),
                get(&[]).stored(1).lacks("a").lacks("keep-alive").lacks("proxy-authenticate").lacks("upgrade"),
            ],
        ),
        (
            "not those that are private",
            vec![
                stale(&[TAG]),
                get(&["Cache-Control: max-age=3600, private=\"a\"", "A: 1", "B: 2"]).status("304 X").gets(200),
                get(&[]).stored(1).lacks("a").has("b", "2"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_304_says_anew_how_long_and_for_whom() {
    let renewed = |fields: &[&str]| get(fields).status("304 X").gets(200);
    check_sites(vec![
        ("its max-age", vec![stale(&[TAG]), renewed(&["Cache-Control: max-age=3600"]), get(&[]).stored(1)]),
        ("the stored one again", vec![stale(&[TAG]), renewed(&[]), get(&[]).stored(1)]),
        ("none", vec![stale(&[TAG]), renewed(&["Cache-Control: max-age=0"]), get(&[HOUR]).saw("If-None-Match: \"a\"")]),
        (
            "older than it may be",
            vec![stale(&[TAG]), renewed(&[HOUR, "Age: 7200"]), get(&[HOUR]).saw("If-None-Match: \"a\"")],
        ),
        ("Expires", vec![get(&[PAST, TAG]), renewed(&["Expires: Thu, 18 Aug 2050 02:01:18 GMT"]), get(&[]).stored(1)]),
        ("private", vec![stale(&[TAG]), renewed(&["Cache-Control: private, max-age=60"]), get(&[HOUR])]),
        (
            "an older date",
            vec![
                stale(&[TAG]),
                renewed(&[HOUR, "Date: Thu, 18 Aug 2005 02:01:18 GMT"]),
                get(&[HOUR]).saw("If-None-Match: \"a\""),
            ],
        ),
        (
            "Expires, where it was max-age",
            vec![stale(&[TAG]), renewed(&["Expires: Thu, 18 Aug 2050 02:01:18 GMT"]), get(&[]).stored(1)],
        ),
        (
            "again and again",
            vec![
                get(&["Cache-Control: max-age=0", TAG]),
                renewed(&[]).saw("If-None-Match: \"a\""),
                renewed(&[]).saw("If-None-Match: \"a\""),
                renewed(&[HOUR]).saw("If-None-Match: \"a\""),
                get(&[]).stored(3).given("0123456789"),
            ],
        ),
        (
            "a new tag beside the old date, then asked about by both",
            vec![
                stale(&[OLD]),
                renewed(&[MINUTE, STALE, OLD]).saw("If-Modified-Since: Wed, 18 Aug 2010 02:01:18 GMT"),
                renewed(&[HOUR]).unseen("if-none-match"),
                get(&[]).stored(2),
            ],
        ),
        (
            "no-cache",
            vec![stale(&[TAG]), renewed(&["Cache-Control: no-cache"]), get(&[HOUR]).saw("If-None-Match: \"a\"")],
        ),
    ])
    .await;
}

// RFC 9111 4.3.4: a 304 about something else changes nothing.
#[tokio::test]
async fn a_304_with_another_tag_renews_nothing() {
    let other = |tag: &str| get(&[HOUR, tag, "X: new"]).status("304 X").gets(200);
    let again = || get(&[]).with(&["Cache-Control: max-stale"]).stored(0).has("x", "old");
    check_sites(vec![
        ("strong", vec![stale(&[TAG, "X: old"]), other("ETag: \"b\""), again()]),
        ("weak", vec![stale(&[TAG, "X: old"]), other("ETag: W/\"b\""), again()]),
        ("strong of a weak one", vec![stale(&["ETag: W/\"a\"", "X: old"]), other("ETag: \"b\""), again()]),
        ("weak of a weak one", vec![stale(&["ETag: W/\"a\"", "X: old"]), other("ETag: W/\"b\""), again()]),
        ("the same, but strong", vec![stale(&["ETag: W/\"a\"", "X: old"]), other("ETag: \"a\""), again()]),
        ("strong where there was none", vec![stale(&[OLD, "X: old"]), other("ETag: \"b\""), again()]),
        ("weak where there was none", vec![stale(&[OLD, "X: old"]), other("ETag: W/\"b\""), again()]),
        (
            "the same, weak",
            vec![stale(&[TAG, "X: old"]), confirmed(&["ETag: W/\"a\"", "X: new"]), get(&[]).stored(1).has("x", "new")],
        ),
        (
            "the same, strong",
            vec![stale(&[TAG, "X: old"]), confirmed(&[TAG, "X: new"]), get(&[]).stored(1).has("x", "new")],
        ),
        ("where nothing was asked", vec![stale(&["X: old"]), get(&[]).status("304 X").gets(200).has("x", "old")]),
    ])
    .await;
}

// RFC 9111 4.3.3
#[tokio::test]
async fn a_full_answer_takes_the_place_of_what_was_asked_about() {
    check_sites(vec![
        (
            "a success",
            vec![
                stale(&[TAG]),
                get(&[HOUR, "ETag: \"b\""]).body("abc").given("abc"),
                get(&[]).stored(1).given("abc").has("etag", "\"b\""),
            ],
        ),
        (
            "that is not stored",
            vec![
                stale(&[TAG]),
                get(&["Cache-Control: no-store"]).body("abc").given("abc"),
                get(&[HOUR]).body("def").given("def"),
            ],
        ),
        (
            "with the same tag",
            vec![stale(&[TAG]), get(&[HOUR, TAG]).body("abc").given("abc"), get(&[]).stored(1).given("abc")],
        ),
        ("a redirect", vec![stale(&[TAG]), get(&[HOUR, "Location: /y"]).status("301 X"), get(&[]).stored(1).code(301)]),
        ("an empty one", vec![stale(&[TAG]), get(&[HOUR]).status("204 X"), get(&[]).stored(1).code(204)]),
    ])
    .await;
}

// RFC 9111 4.3.5
#[tokio::test]
async fn a_head_renews_what_it_agrees_with() {
    let head = |fields: &[&str]| get(fields).method("HEAD");
    check_sites(vec![
        ("by its date", vec![stale(&[OLD]), head(&[HOUR, OLD, "X: new"]), get(&[]).stored(1).has("x", "new")]),
        ("by its length alone", vec![stale(&[]), head(&[HOUR, "X: new"]), get(&[]).stored(1).has("x", "new")]),
        (
            "another date",
            vec![stale(&[OLD]), head(&[HOUR, PAST, "Last-Modified: Thu, 18 Aug 2011 02:01:18 GMT"]), get(&[HOUR])],
        ),
        ("a tag that was not there", vec![stale(&[]), head(&[HOUR, "ETag: \"b\""]), get(&[HOUR])]),
        ("not to be stored", vec![stale(&[TAG]), head(&[TAG, "Cache-Control: no-store, max-age=60"]), get(&[HOUR])]),
        ("for one alone", vec![stale(&[TAG]), head(&[TAG, "Cache-Control: private, max-age=60"]), get(&[HOUR])]),
        (
            "said to one with credentials",
            vec![
                stale(&[TAG, "X: old"]),
                head(&[HOUR, TAG, "X: new"]).with(&["Authorization: x"]),
                confirmed(&[]).saw("If-None-Match: \"a\"").has("x", "old"),
            ],
        ),
        (
            "another, said to one with credentials",
            vec![
                stale(&[TAG, "X: old"]),
                head(&[HOUR, "ETag: \"b\""]).with(&["Authorization: x"]),
                confirmed(&[]).saw("If-None-Match: \"a\"").has("x", "old"),
            ],
        ),
        (
            "another and private, said to one with cookies",
            vec![
                stale(&[TAG, "X: old"]),
                head(&["Cache-Control: private, max-age=60", "ETag: \"b\""]).with(&["Cookie: a=b"]),
                confirmed(&[]).saw("If-None-Match: \"a\"").has("x", "old"),
            ],
        ),
        (
            "said to one who wants nothing stored",
            vec![
                stale(&[TAG, "X: old"]),
                head(&[HOUR, TAG, "X: new"]).with(&["Cache-Control: no-store"]),
                confirmed(&[]).saw("If-None-Match: \"a\"").has("x", "old"),
            ],
        ),
        (
            "another, said to one who wants nothing stored",
            vec![
                stale(&[TAG, "X: old"]),
                head(&[HOUR, "ETag: \"b\""]).with(&["Cache-Control: no-store"]),
                confirmed(&[]).saw("If-None-Match: \"a\"").has("x", "old"),
            ],
        ),
        (
            "one that failed",
            vec![
                get(&["Cache-Control: max-age=60, stale-while-revalidate=3600", STALE, TAG]),
                head(&[]).status("500 X").with(&["Cache-Control: max-age=0"]).gets(200),
                get(&[HOUR]).stored(0),
            ],
        ),
        (
            "nothing to renew",
            vec![head(&[HOUR, TAG]).saw("HEAD "), head(&[HOUR, TAG]), get(&[HOUR]).given("0123456789")],
        ),
    ])
    .await;
}

// RFC 5861 4
#[tokio::test]
async fn a_stale_copy_stands_in_for_a_head_that_fails() {
    let head = |fields: &[&str]| get(fields).method("HEAD");
    check_sites(vec![("an error", vec![stale(&[TAG, "X: old"]), head(&[]).status("503 X").gets(200).has("x", "old")])])
        .await;
}

#[tokio::test]
async fn a_head_gives_up_what_it_does_not_agree_with_and_says_why_it_was_asked() {
    let head = |fields: &[&str]| get(fields).method("HEAD");
    check_sites(vec![
        ("another length", vec![stale(&[]), head(&[HOUR]).body("01234"), get(&[HOUR])]),
        (
            "another length of what is fresh",
            vec![get(&[HOUR]), head(&[HOUR]).body("01234").stored(0), get(&[]).stored(0)],
        ),
        (
            "says that what is there is stale",
            vec![
                stale(&[TAG]),
                head(&["Cache-Control: max-age=60", TAG, STALE]),
                confirmed(&[]).saw("If-None-Match: \"a\""),
            ],
        ),
        (
            "another tag, weak",
            vec![stale(&["ETag: W/\"a\""]), head(&[HOUR, "ETag: W/\"b\""]), get(&[HOUR]).unseen("if-none-match")],
        ),
        (
            "why it was asked",
            vec![
                stale(&[TAG]),
                head(&[TAG, MINUTE, STALE])
                    .has("cache-status", "atoll; fwd=stale; fwd-status=200; detail=origin.method"),
            ],
        ),
        (
            "why it was asked of nothing",
            vec![head(&[HOUR]).has("cache-status", "atoll; fwd=uri-miss; fwd-status=200; detail=origin.method")],
        ),
    ])
    .await;
}
