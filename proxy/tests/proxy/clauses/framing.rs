//! RFC 9112 4-7, RFC 9111 3.3: how answers come, and what may be stored of them.

use super::{FUTURE, HOUR, MINUTE, OLD, STALE};
use crate::script::{Ask, check_sites, get};

const WHOLE: &str = "0123456789";
const TAG: &str = "ETag: \"a\"";

// RFC 9112 6.3, 8: what ends with its connection is whole, as far as anybody can know.
#[tokio::test]
async fn what_ends_with_its_connection_is_stored_as_what_says_how_long_it_is() {
    let open = |fields: &[&str]| get(fields).unframed();
    check_sites(vec![
        ("HTTP/1.1", vec![open(&[HOUR]).given(WHOLE), get(&[]).stored(0).given(WHOLE).has("content-length", "10")]),
        ("HTTP/1.0", vec![open(&[HOUR]).version("HTTP/1.0").given(WHOLE), get(&[]).stored(0).given(WHOLE)]),
        ("HTTP/1.0, framed", vec![get(&[HOUR]).version("HTTP/1.0").given(WHOLE), get(&[]).stored(0).given(WHOLE)]),
        ("nothing", vec![open(&[HOUR]).body("").given(""), get(&[]).stored(0).given("")]),
        ("Connection: close", vec![open(&[HOUR, "Connection: close"]).given(WHOLE), get(&[]).stored(0).given(WHOLE)]),
        ("a guess", vec![open(&[OLD]).given(WHOLE), get(&[]).stored(0).given(WHOLE)]),
        ("a range of it", vec![open(&[HOUR]), get(&[]).with(&["Range: bytes=2-4"]).stored(0).code(206).given("234")]),
        ("a HEAD of it", vec![open(&[HOUR]), get(&[]).method("HEAD").stored(0).has("content-length", "10")]),
        (
            "an older client's",
            vec![open(&[HOUR]).speaks("HTTP/1.0"), get(&[]).speaks("HTTP/1.0").stored(0).given(WHOLE)],
        ),
        (
            "an older client's, in chunks",
            vec![
                get(&[HOUR]).chunked().speaks("HTTP/1.0").lacks("transfer-encoding"),
                get(&[]).speaks("HTTP/1.0").stored(0).given(WHOLE),
            ],
        ),
        (
            "in place of what is stale",
            vec![
                get(&[MINUTE, STALE, TAG]).unframed(),
                open(&[HOUR, "ETag: \"b\""]).body("abc").saw("If-None-Match: \"a\"").given("abc"),
                get(&[]).stored(1).given("abc"),
            ],
        ),
        ("of an error", vec![open(&[HOUR]).status("404 X"), get(&[]).stored(0).code(404).given(WHOLE)]),
        (
            "of a variant",
            vec![
                open(&[HOUR, "Vary: Foo"]).with(&["Foo: 1"]),
                open(&[HOUR, "Vary: Foo"]).with(&["Foo: 2"]).body("abc"),
                get(&[]).with(&["Foo: 1"]).stored(0).given(WHOLE),
                get(&[]).with(&["Foo: 2"]).stored(1).given("abc"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn chunks_are_no_part_of_what_is_stored() {
    let chunked = |fields: &[&str]| get(fields).chunked();
    check_sites(vec![
        ("their sum", vec![chunked(&[HOUR]).given(WHOLE), get(&[]).stored(0).given(WHOLE).lacks("transfer-encoding")]),
        ("none", vec![chunked(&[FUTURE]).body("").given(""), get(&[]).stored(0).given("")]),
        ("a part of them", vec![chunked(&[HOUR]), get(&[]).with(&["Range: bytes=-3"]).stored(0).given("789")]),
        (
            "a HEAD, as a GET would be",
            vec![
                chunked(&[HOUR]).method("HEAD").lacks("content-length"),
                chunked(&[HOUR]).given(WHOLE),
                get(&[]).method("HEAD").stored(1).has("content-length", "10"),
            ],
        ),
        (
            "a HEAD that does not say how long it is agrees with any length",
            vec![
                get(&[MINUTE, STALE, TAG]),
                chunked(&[HOUR, TAG, "X: new"]).method("HEAD"),
                get(&[]).stored(1).given(WHOLE).has("x", "new"),
            ],
        ),
        ("without a body at all", vec![get(&[HOUR]).status("204 No Content"), get(&[]).stored(0).code(204)]),
        ("a 205", vec![get(&[HOUR]).status("205 Reset Content").body(""), get(&[]).stored(0).code(205)]),
    ])
    .await;
}

// RFC 9112 5.2: a folded line is one value, with spaces where it was folded.
#[tokio::test]
async fn folded_lines_are_one_and_hide_nothing() {
    let whole = |ask: Ask| ask.given(WHOLE);
    check_sites(vec![
        ("a value", vec![whole(get(&[HOUR, "X: a\r\n b"])).has("x", "a b"), get(&[]).stored(0).has("x", "a b")]),
        ("directives", vec![get(&["Cache-Control: foo,\r\n max-age=3600"]), get(&[]).stored(0)]),
        ("what forbids to store", vec![get(&["Cache-Control: max-age=3600,\r\n\tno-store"]), get(&[HOUR])]),
        ("a targeted field", vec![get(&["CDN-Cache-Control: max-age=3600,\r\n foo"]), get(&[]).stored(0)]),
        ("what it varies by", vec![get(&[HOUR, "Vary:\r\n Foo"]).with(&["Foo: 1"]), get(&[HOUR]).with(&["Foo: 2"])]),
        (
            "no field begins in it",
            vec![get(&[HOUR, "X: a\r\n Set-Cookie: b=c"]).lacks("set-cookie"), get(&[]).stored(0).lacks("set-cookie")],
        ),
    ])
    .await;
}

// RFC 9112 4: a reason is nobody's concern.
#[tokio::test]
async fn a_status_line_is_read_by_its_grammar() {
    check_sites(vec![
        ("no reason", vec![get(&[HOUR]).status("200 "), get(&[]).stored(0).code(200)]),
        ("nothing at all", vec![get(&[HOUR]).status("200"), get(&[]).stored(0).code(200)]),
        ("long", vec![get(&[HOUR]).status("404 This is not 200 OK"), get(&[]).stored(0).code(404)]),
        ("spaces", vec![get(&[HOUR]).status("203 a  b\tc "), get(&[]).stored(0).code(203)]),
        ("beyond ASCII", vec![get(&[HOUR]).status("410 weg \u{e9}"), get(&[]).stored(0).code(410)]),
    ])
    .await;
}
