//! RFC 9110 14, RFC 9111 3.3 and 3.4 as conversations: ranges out of wholes and parts, and parts that are joined.

use crate::script::{Ask, check, get};

const HOUR: &str = "Cache-Control: max-age=3600";
const MINUTE: &str = "Cache-Control: max-age=60";
const STALE: &str = "Age: 120";
const OLD: &str = "Last-Modified: Wed, 18 Aug 2010 02:01:18 GMT";

// RFC 9110 14, RFC 9111 3.3, 3.4
#[tokio::test]
async fn ranges_come_out_of_wholes_and_parts() {
    let whole = || get(&[HOUR, "ETag: \"a\""]);
    check(vec![
        (
            "of a whole",
            vec![whole(), ask("Range: bytes=2-4").stored(0).given("234").has("content-range", "bytes 2-4/10")],
        ),
        ("to the end", vec![whole(), ask("Range: bytes=7-").stored(0).given("789")]),
        ("the last", vec![whole(), ask("Range: bytes=-2").stored(0).given("89").has("content-range", "bytes 8-9/10")]),
        ("beyond", vec![whole(), ask("Range: bytes=10-").gets(416).has("content-range", "bytes */10")]),
        (
            "If-Range",
            vec![whole(), get(&[]).with(&["Range: bytes=2-4", "If-Range: \"b\""]).stored(0).given("0123456789")],
        ),
        ("asked on", vec![part()]),
        ("a part in chunks", vec![part().chunked(), ask("Range: bytes=3-4").stored(0).given("34")]),
        (
            "a part that is not as long as it says",
            vec![
                get(&[HOUR, "Content-Range: bytes 2-6/10"])
                    .status("206 X")
                    .chunked()
                    .body("2345678")
                    .with(&["Range: bytes=2-6"])
                    .gets(502),
                ask("Range: bytes=3-4"),
            ],
        ),
        ("a part again", vec![part(), ask("Range: bytes=2-6").stored(0).given("23456")]),
        (
            "within a part",
            vec![part(), ask("Range: bytes=3-4").stored(0).given("34").has("content-range", "bytes 3-4/10")],
        ),
        ("outside a part", vec![part(), get(&[HOUR]).with(&["Range: bytes=0-3"])]),
        ("a part is not the whole", vec![part(), get(&[HOUR]).given("0123456789")]),
        (
            "a stale part",
            vec![
                get(&[MINUTE, STALE, "Content-Range: bytes 2-6/10"])
                    .status("206 X")
                    .body("23456")
                    .with(&["Range: bytes=2-6"]),
                ask("Range: bytes=2-6"),
            ],
        ),
        (
            "a private part",
            vec![
                get(&["Cache-Control: private, max-age=60", "Content-Range: bytes 2-6/10"])
                    .status("206 X")
                    .body("23456")
                    .with(&["Range: bytes=2-6"]),
                ask("Range: bytes=2-6"),
            ],
        ),
        ("the whole where a part was asked", vec![ask("Range: bytes=2-4").given("234"), get(&[]).stored(0)]),
    ])
    .await;
}

#[tokio::test]
async fn parts_stand_beside_each_other_and_a_beginning_is_completed() {
    let last = || {
        get(&[HOUR, "ETag: \"a\"", "Content-Range: bytes 7-9/10"])
            .status("206 Partial Content")
            .body("789")
            .with(&["Range: bytes=7-9"])
            .given("789")
    };
    let begun = |tag: &str| {
        get(&[HOUR, &format!("ETag: {tag}"), "Content-Range: bytes 0-4/10"])
            .status("206 Partial Content")
            .body("01234")
            .with(&["Range: bytes=0-4"])
            .given("01234")
    };
    check(vec![
        (
            "a second part",
            vec![
                part(),
                last(),
                ask("Range: bytes=3-4").stored(0).given("34"),
                ask("Range: bytes=8-").stored(1).given("89"),
            ],
        ),
        (
            "a beginning is completed",
            vec![
                begun("\"a\""),
                get(&[HOUR, "ETag: \"a\"", "Content-Range: bytes 5-9/10"])
                    .status("206 Partial Content")
                    .body("56789")
                    .saw("Range: bytes=5-")
                    .saw("If-Range: \"a\"")
                    .has("content-length", "10")
                    .lacks("content-range")
                    .given("0123456789"),
                get(&[]).stored(1).given("0123456789"),
            ],
        ),
        (
            "a beginning by its date",
            vec![
                get(&[HOUR, OLD, "Content-Range: bytes 0-4/10"])
                    .status("206 Partial Content")
                    .body("01234")
                    .with(&["Range: bytes=0-4"]),
                get(&[HOUR, OLD, "Content-Range: bytes 5-9/10", "Date: Wed, 18 Aug 2010 02:11:18 GMT"])
                    .status("206 Partial Content")
                    .body("56789")
                    .saw("Range: bytes=5-")
                    .saw("If-Range: Wed, 18 Aug 2010 02:01:18 GMT")
                    .given("0123456789"),
            ],
        ),
        (
            "a beginning of another version",
            vec![begun("\"a\""), get(&[HOUR, "ETag: \"b\""]).body("abcdefghij").given("abcdefghij")],
        ),
        ("a beginning under a weak tag", vec![begun("W/\"a\""), get(&[HOUR]).unseen("\r\nrange:").given("0123456789")]),
    ])
    .await;
}

// RFC 9111 3.4, 3.3
#[tokio::test]
async fn parts_of_one_version_are_joined_and_the_whole_s_length_need_not_be_known() {
    let of = |tag: &str, span: &str, body: &'static str, range: &'static str| {
        get(&[HOUR, &format!("ETag: {tag}"), &format!("Content-Range: bytes {span}")])
            .status("206 Partial Content")
            .body(body)
            .with(&[range])
            .given(body)
    };
    let begun = || of("\"a\"", "0-4/10", "01234", "Range: bytes=0-4");
    let last = |tag: &str| of(tag, "7-9/10", "789", "Range: bytes=7-9");
    let unknown = || of("\"a\"", "2-6/*", "23456", "Range: bytes=2-6").has("content-range", "bytes 2-6/*");
    let whole = |ask: Ask| ask.given("0123456789").has("content-length", "10").lacks("content-range");
    let across = || ask("Range: bytes=5-8").given("5678").has("content-range", "bytes 5-8/10");
    check(vec![
        ("a range across two", vec![part(), last("\"a\""), across().stored(1)]),
        ("across two versions", vec![part(), last("\"b\""), across()]),
        ("across a gap", vec![begun(), last("\"a\""), ask("Range: bytes=3-8").given("345678")]),
        (
            "across weak tags",
            vec![begun(), of("W/\"a\"", "5-9/10", "56789", "Range: bytes=5-9"), ask("Range: bytes=3-8")],
        ),
        (
            "all of it",
            vec![
                begun(),
                of("\"a\"", "3-9/10", "3456789", "Range: bytes=3-9"),
                whole(get(&[]).stored(1)),
                ask("Range: bytes=-6").stored(1).given("456789").has("content-range", "bytes 4-9/10"),
                get(&[]).with(&["Range: bytes=1-8", "Cache-Control: only-if-cached"]).stored(1).given("12345678"),
            ],
        ),
        (
            "a beginning is completed by an older version",
            vec![
                begun(),
                whole(of("\"a\"", "5-9/10", "56789", "X: 1").version("HTTP/1.0").has("via", "1.0 atoll")),
                whole(get(&[]).stored(1).has("via", "1.0 atoll")),
            ],
        ),
        (
            "a beginning of two is completed",
            vec![
                begun(),
                of("\"a\"", "5-6/10", "56", "Range: bytes=5-6"),
                whole(of("\"a\"", "7-9/10", "789", "X: 1").saw("Range: bytes=7-").saw("If-Range: \"a\"")),
                whole(get(&[]).stored(2)),
            ],
        ),
        (
            "within one of unknown length",
            vec![
                unknown(),
                ask("Range: bytes=3-4").stored(0).given("34").has("content-range", "bytes 3-4/*"),
                ask("Range: bytes=5-"),
            ],
        ),
        ("the end of one of unknown length", vec![unknown(), ask("Range: bytes=-2").given("89")]),
        (
            "a beginning of unknown length is completed",
            vec![
                of("\"a\"", "0-4/*", "01234", "Range: bytes=0-4"),
                whole(of("\"a\"", "5-9/10", "56789", "X: 1").saw("Range: bytes=5-")),
                whole(get(&[]).stored(1)),
            ],
        ),
        (
            "nor with an answer of unknown length",
            vec![
                of("\"a\"", "0-4/*", "01234", "Range: bytes=0-4"),
                get(&[HOUR, "ETag: \"a\"", "Content-Range: bytes 5-9/*"]).status("206 X").body("56789").gets(502),
            ],
        ),
    ])
    .await;
}

/// A part as its client asked for it.
fn part() -> Ask {
    get(&[HOUR, "ETag: \"a\"", "Content-Range: bytes 2-6/10"])
        .status("206 Partial Content")
        .body("23456")
        .with(&["Range: bytes=2-6"])
        .saw("Range: bytes=2-6")
        .has("content-range", "bytes 2-6/10")
        .given("23456")
}

fn ask(range: &'static str) -> Ask {
    get(&[HOUR]).with(&[range])
}
