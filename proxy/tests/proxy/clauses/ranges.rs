//! RFC 9110 14 and 15.3.7, RFC 9111 3.3 and 3.4: ranges out of what is stored, and what is stored of parts.

use super::{HOUR, MINUTE, OLD, STALE};
use crate::script::{Ask, check_sites, get};

const TAG: &str = "ETag: \"a\"";

fn ask(range: &'static str) -> Ask {
    get(&[HOUR]).with(&[range])
}

/// A whole that is stored; then this range of it.
fn row(range: &'static str, code: u16, body: &'static str) -> (&'static str, Vec<Ask>) {
    (range, vec![get(&[HOUR, TAG]), ask(range).stored(0).code(code).given(body)])
}

/// The origin's answer to this range: these bytes, which stand there.
fn part(fields: &[&str], range: &'static str, span: &str, body: &'static str) -> Ask {
    let span = format!("Content-Range: bytes {span}");
    get(&[&[HOUR, span.as_str()], fields].concat()).status("206 Partial Content").body(body).with(&[range]).given(body)
}

const WHOLE: &str = "0123456789";

#[tokio::test]
async fn ranges_of_a_whole_are_read_by_their_grammar() {
    check_sites(vec![
        row("Range: bytes=0-0", 206, "0"),
        row("Range: bytes=0-", 206, WHOLE),
        row("Range: bytes=9-", 206, "9"),
        row("Range: bytes=9-9", 206, "9"),
        row("Range: bytes=9-100", 206, "9"),
        row("Range: bytes=-1", 206, "9"),
        row("Range: bytes=-10", 206, WHOLE),
        row("Range: bytes=-100", 206, WHOLE),
        row("Range: Bytes=2-4", 206, "234"),
        row("Range: bytes=2-4 ", 206, "234"),
        row("Range: bytes=02-004", 206, "234"),
        row("Range: bytes=2-99999999999999999999", 206, "23456789"),
        row("Range: bytes=4-2", 200, WHOLE),
        row("Range: bytes=-", 200, WHOLE),
        row("Range: bytes=", 200, WHOLE),
        row("Range: bytes", 200, WHOLE),
        row("Range: ", 200, WHOLE),
        row("Range: 2-4", 200, WHOLE),
        row("Range: items=2-4", 200, WHOLE),
        row("Range: bytes=a-4", 200, WHOLE),
        row("Range: bytes=2-b", 200, WHOLE),
        row("Range: bytes=2.0-4", 200, WHOLE),
        row("Range: bytes=-2-4", 200, WHOLE),
        row("Range: bytes=2", 200, WHOLE),
        row("Range: bytes=2-4;x", 200, WHOLE),
        row("Range: bytes=0-4,2-6", 200, WHOLE),
        row("Range: bytes=2-4\r\nRange: bytes=5-6", 200, WHOLE),
    ])
    .await;
    let none = |range: &'static str| {
        (range, vec![get(&[HOUR]), ask(range).stored(0).code(416).has("content-range", "bytes */10")])
    };
    check_sites(vec![
        none("Range: bytes=10-"),
        none("Range: bytes=10-20"),
        none("Range: bytes=99999999999999999999-"),
        none("Range: bytes=-0"),
        none("Range: bytes=20-,30-40"),
        (
            "on a HEAD",
            vec![get(&[HOUR]), ask("Range: bytes=2-4").method("HEAD").stored(0).code(200).has("content-length", "10")],
        ),
        ("of a 404", vec![get(&[HOUR]).status("404 X"), ask("Range: bytes=2-4").stored(0).code(404).given(WHOLE)]),
        ("of a 203", vec![get(&[HOUR]).status("203 X"), ask("Range: bytes=2-4").stored(0).code(203).given(WHOLE)]),
        ("of a chunked one", vec![get(&[HOUR]).chunked(), ask("Range: bytes=2-4").stored(0).given("234")]),
        (
            "an unsatisfiable one among others",
            vec![
                get(&[HOUR]),
                ask("Range: bytes=20-30,2-4").stored(0).code(206).given("234").has("content-range", "bytes 2-4/10"),
            ],
        ),
    ])
    .await;
}

// RFC 9110 15.3.7: what a 206 has beside its bytes.
#[tokio::test]
async fn a_part_of_a_whole_has_the_fields_of_the_whole() {
    let first = get(&[HOUR, TAG, OLD, "Content-Type: a/b", "Content-Location: /y", "Vary: Foo"]);
    let part = ask("Range: bytes=2-4").stored(0).code(206).given("234");
    let part = part
        .has("content-range", "bytes 2-4/10")
        .has("content-length", "3")
        .has("content-type", "a/b")
        .has("content-location", "/y")
        .has("etag", "\"a\"")
        .has("cache-control", "max-age=3600")
        .has("last-modified", "Wed, 18 Aug 2010 02:01:18 GMT")
        .has("vary", "Foo");
    check_sites(vec![("all of it", vec![first, part])]).await;
}

// RFC 9110 13.1.5
#[tokio::test]
async fn if_range_takes_a_part_of_the_very_version_alone() {
    let row = |name, stored: &[&str], field: &'static str, is_part: bool| {
        let again = get(&[]).with(&["Range: bytes=2-4", field]).stored(0);
        let again = if is_part { again.code(206).given("234") } else { again.code(200).given(WHOLE) };
        (name, vec![get(&[&[HOUR], stored].concat()), again])
    };
    let young = ["Date: Wed, 18 Aug 2010 02:01:18 GMT", "CDN-Cache-Control: max-age=2000000000", OLD];
    check_sites(vec![
        row("the tag", &[TAG], "If-Range: \"a\"", true),
        row("another", &[TAG], "If-Range: \"b\"", false),
        row("a weak one", &[TAG], "If-Range: W/\"a\"", false),
        row("weak ones", &["ETag: W/\"a\""], "If-Range: W/\"a\"", false),
        row("of a weak one", &["ETag: W/\"a\""], "If-Range: \"a\"", false),
        row("no tag", &[OLD], "If-Range: \"a\"", false),
        row("unquoted", &[TAG], "If-Range: a", false),
        row("*", &[TAG], "If-Range: *", false),
        row("a list", &[TAG], "If-Range: \"a\", \"b\"", false),
        row("the date", &[OLD], "If-Range: Wed, 18 Aug 2010 02:01:18 GMT", true),
        row("a later date", &[OLD], "If-Range: Wed, 18 Aug 2010 02:01:19 GMT", false),
        row("an earlier date", &[OLD], "If-Range: Wed, 18 Aug 2010 02:01:17 GMT", false),
        row("a date that is no validator", &young, "If-Range: Wed, 18 Aug 2010 02:01:18 GMT", false),
        row("no date of change", &[TAG], "If-Range: Wed, 18 Aug 2010 02:01:18 GMT", false),
        ("without a range", vec![get(&[HOUR, TAG]), ask("If-Range: \"a\"").stored(0).code(200).given(WHOLE)]),
    ])
    .await;
}

// RFC 9111 3.3
#[tokio::test]
async fn a_part_is_used_for_what_it_has() {
    let stored = || part(&[TAG], "Range: bytes=2-6", "2-6/10", "23456");
    let last = || part(&[TAG], "Range: bytes=-3", "7-9/10", "789");
    check_sites(vec![
        ("the same", vec![stored(), ask("Range: bytes=2-6").stored(0).code(206).given("23456")]),
        ("less", vec![stored(), ask("Range: bytes=2-2").stored(0).given("2")]),
        ("more before", vec![stored(), part(&[TAG], "Range: bytes=1-6", "1-6/10", "123456")]),
        (
            "over two parts",
            vec![
                part(&[TAG], "Range: bytes=0-4", "0-4/10", "01234"),
                part(&[TAG], "Range: bytes=5-9", "5-9/10", "56789"),
                ask("Range: bytes=1-3").stored(0).given("123"),
                ask("Range: bytes=6-8").stored(1).given("678"),
            ],
        ),
        ("more behind", vec![stored(), part(&[TAG], "Range: bytes=2-7", "2-7/10", "234567")]),
        ("to an end that is not there", vec![stored(), part(&[TAG], "Range: bytes=2-", "2-9/10", "23456789")]),
        ("the last", vec![last(), ask("Range: bytes=-3").stored(0).given("789")]),
        ("the last, told from its beginning", vec![last(), ask("Range: bytes=7-").stored(0).given("789")]),
        (
            "fewer of the last",
            vec![last(), ask("Range: bytes=-2").stored(0).given("89").has("content-range", "bytes 8-9/10")],
        ),
        ("beyond the last", vec![last(), ask("Range: bytes=8-20").stored(0).given("89")]),
        ("a HEAD", vec![stored(), get(&[HOUR]).method("HEAD").saw("HEAD ")]),
        ("its tag", vec![stored(), get(&[]).with(&["Range: bytes=3-4", "If-Range: \"a\""]).stored(0).given("34")]),
        (
            "another tag",
            vec![stored(), get(&[HOUR]).with(&["Range: bytes=3-4", "If-Range: \"b\""]).saw("If-Range: \"b\"")],
        ),
        ("asked of the origin", vec![stored(), get(&[HOUR]).with(&["Range: bytes=3-4", "Cache-Control: no-cache"])]),
        (
            "without validators",
            vec![part(&[], "Range: bytes=2-6", "2-6/10", "23456"), ask("Range: bytes=3-4").stored(0).given("34")],
        ),
        (
            "by a guess",
            vec![
                get(&[OLD, "Content-Range: bytes 2-6/10"]).status("206 X").body("23456").with(&["Range: bytes=2-6"]),
                ask("Range: bytes=3-4").stored(0).given("34"),
            ],
        ),
        (
            "other bytes than were asked for",
            vec![
                part(&[TAG], "Range: bytes=2-6", "1-3/10", "123"),
                ask("Range: bytes=2-3").stored(0).given("23"),
                ask("Range: bytes=2-6"),
            ],
        ),
        ("invalid by an unsafe method", vec![stored(), get(&[]).method("DELETE"), ask("Range: bytes=2-6")]),
        (
            "beside another's variant",
            vec![
                part(&[TAG, "Vary: Foo"], "Range: bytes=2-6", "2-6/10", "23456"),
                get(&[HOUR]).with(&["Range: bytes=2-6", "Foo: 1"]),
            ],
        ),
    ])
    .await;
}

// RFC 9110 14.4: what does not say which bytes it has is nobody else's.
#[tokio::test]
async fn a_206_that_does_not_say_what_it_is_is_not_stored() {
    let mut cases = Vec::new();
    for range in [
        "X: none",
        "Content-Range: bytes 2-4",
        "Content-Range: bytes 4-2/10",
        "Content-Range: bytes 2-10/10",
        "Content-Range: bytes */10",
        "Content-Range: items 2-4/10",
        "Content-Range: bytes=2-4/10",
        "Content-Range: 2-4/10",
        "Content-Range: bytes 2-4/10, bytes 5-6/10",
        "Content-Range: bytes 2-4/10\r\nContent-Range: bytes 5-7/10",
        "Content-Range: bytes 2-5/10",
        "Content-Type: multipart/byteranges; boundary=x",
    ] {
        let first = get(&[HOUR, TAG, range]).status("206 X").body("234").with(&["Range: bytes=2-4"]).given("234");
        cases.push((range, vec![first, ask("Range: bytes=2-4").given("234"), get(&[]).stored(1).given(WHOLE)]));
    }
    for control in [
        "Cache-Control: no-store",
        "Cache-Control: private, max-age=60",
        "Cache-Control: no-cache",
        "Cache-Control: max-age=0",
    ] {
        let first =
            get(&[control, TAG, "Content-Range: bytes 2-4/10"]).status("206 X").body("234").with(&["Range: bytes=2-4"]);
        cases.push((control, vec![first, ask("Range: bytes=2-4")]));
    }
    cases.push((
        "credentials",
        vec![
            part(&[TAG], "Range: bytes=2-4", "2-4/10", "234").with(&["Range: bytes=2-4", "Authorization: x"]),
            ask("Range: bytes=2-4"),
        ],
    ));
    check_sites(cases).await;
}

// RFC 9110 15.5.17: an answer to a range is none to all of it.
#[tokio::test]
async fn what_an_origin_says_of_a_range_is_not_said_of_the_whole() {
    let beyond = || get(&[HOUR, "Content-Range: bytes */10"]).status("416 X").with(&["Range: bytes=20-30"]);
    check_sites(vec![
        ("a 416", vec![beyond().code(416), get(&[HOUR]).code(200).given(WHOLE), get(&[]).stored(1)]),
        ("a 416, then a range", vec![beyond(), ask("Range: bytes=2-4").given("234")]),
        (
            "a 416 of what began before",
            vec![
                get(&[HOUR, "Content-Range: bytes */10"]).status("416 X").with(&["Range: bytes=-0"]).code(416),
                get(&[HOUR]).code(200),
            ],
        ),
        ("a 416 that nobody asked for is an answer", vec![get(&[HOUR]).status("416 X"), get(&[]).stored(0).code(416)]),
        ("a 404", vec![ask("Range: bytes=2-4").status("404 X").code(404), get(&[]).stored(0).code(404)]),
        (
            "a stale whole is asked about as a whole",
            vec![
                get(&[MINUTE, STALE, TAG]),
                ask("Range: bytes=20-30").status("304 X").unseen("\r\nrange:").gets(416),
                get(&[]).stored(1).given(WHOLE),
            ],
        ),
    ])
    .await;
}

// RFC 9111 3.4: only what is of one version by a strong validator.
#[tokio::test]
async fn parts_make_a_whole_only_of_one_version() {
    let begun = |fields: &[&str]| part(fields, "Range: bytes=0-4", "0-4/10", "01234");
    let rest = |fields: &[&str]| part(fields, "X: 1", "5-9/10", "56789").saw("Range: bytes=5-").gets(200).given(WHOLE);
    let all = || get(&[HOUR, "ETag: \"b\""]).body("abcdefghij").given("abcdefghij");
    check_sites(vec![
        (
            "its fields are the newest",
            vec![
                begun(&[TAG, "X: old", "Y: old"]),
                rest(&[TAG, "X: new"]).has("x", "new").has("y", "old"),
                get(&[]).stored(1).given(WHOLE).has("x", "new").lacks("content-range"),
            ],
        ),
        ("the whole of another version instead", vec![begun(&[TAG]), all().saw("If-Range: \"a\""), get(&[]).stored(1)]),
        ("a weak tag", vec![begun(&["ETag: W/\"a\""]), all().unseen("\r\nrange:"), get(&[]).stored(1)]),
        ("none", vec![begun(&[]), all().unseen("\r\nrange:"), get(&[]).stored(1)]),
        (
            "a stale beginning",
            vec![
                part(&[TAG, "Age: 7200"], "Range: bytes=0-4", "0-4/10", "01234"),
                rest(&[TAG]),
                get(&[]).stored(1).given(WHOLE),
            ],
        ),
        (
            "the rest is not to be stored",
            vec![
                begun(&[TAG]),
                get(&["Cache-Control: no-store", "ETag: \"b\""]).body("abcdefghij").given("abcdefghij"),
                all(),
            ],
        ),
        (
            "all in one part",
            vec![
                part(&[TAG], "Range: bytes=0-", "0-9/10", WHOLE),
                get(&[]).stored(0).code(200).given(WHOLE).lacks("content-range"),
            ],
        ),
        (
            "a whole takes the place of its parts",
            vec![
                part(&[TAG], "Range: bytes=2-4", "2-4/10", "234"),
                all(),
                ask("Range: bytes=2-4").stored(1).given("cde"),
            ],
        ),
    ])
    .await;
}
