//! RFC 9111 3, 3.1, 3.3, 3.5 and 4.4: what is stored, whole and as it came, for whom, and what makes it invalid.

use super::{HOUR, MINUTE, OLD, STALE};
use crate::script::{Ask, check_sites, get};

// RFC 9111 3: by what is said, by `public`, or by a guess; and never otherwise.
#[tokio::test]
async fn any_final_status_is_stored_where_the_origin_says_how_long() {
    let mut cases = Vec::new();
    for status in [
        "201 X", "202 X", "205 X", "208 X", "226 X", "300 X", "305 X", "306 X", "402 X", "405 X", "406 X", "408 X",
        "409 X", "411 X", "413 X", "414 X", "415 X", "417 X", "418 X", "421 X", "422 X", "423 X", "425 X", "426 X",
        "428 X", "429 X", "431 X", "451 X", "501 X", "505 X", "507 X", "511 X", "299 Y", "399 Y", "599 Y",
    ] {
        cases.push((status, vec![get(&[HOUR]).status(status), get(&[]).stored(0)]));
        cases.push((status, vec![get(&["Cache-Control: no-store"]).status(status), get(&[]).status(status)]));
        cases
            .push((status, vec![get(&["Cache-Control: private, max-age=60"]).status(status), get(&[]).status(status)]));
    }
    // `public` lets what no clause knows be guessed of [RFC 9111 4.2.2].
    for status in ["201 X", "302 X", "307 X", "402 X", "451 X", "299 Y", "599 Y"] {
        let ask = || get(&[OLD, "Cache-Control: public"]).status(status);
        cases.push((status, vec![ask(), ask().stored(0)]));
    }
    for status in ["201 X", "206 X", "302 X", "303 X", "307 X", "402 X", "418 X", "451 X", "500 X", "299 Y", "499 Y"] {
        let ask = || get(&[OLD]).status(status);
        if status != "206 X" {
            cases.push((status, vec![ask(), ask()]));
        }
    }
    check_sites(cases).await;
}

#[tokio::test]
async fn fields_are_stored_as_they_came() {
    let long: &'static str = "a".repeat(7_000).leak();
    let longer: &'static str = "b".repeat(30_000).leak();
    let field = |name: &'static str, value: &'static str| {
        let line = format!("{name}: {value}");
        let name: &'static str = name.to_ascii_lowercase().leak();
        (name, vec![get(&[HOUR, &line]).has(name, value), get(&[]).stored(0).has(name, value)])
    };
    let many: Vec<String> = (0..60).map(|number| format!("X-{number}: {number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    check_sites(vec![
        field("X-Long", long),
        field("X-Longer", longer),
        field("X-Empty", ""),
        field("x-lower", "a"),
        field("X_Under", "a"),
        field("X-Quotes", "\"a, b\", c"),
        field("X-Tab", "a\tb"),
        field("Accept-Ranges", "bytes"),
        field("Allow", "GET"),
        field("Content-Disposition", "attachment; filename=\"a\""),
        field("Content-Language", "de, en"),
        field("Digest", "sha-256=a"),
        field("Link", "</a>; rel=preload, </b>; rel=preload"),
        field("Refresh", "1"),
        field("Retry-After", "120"),
        field("Strict-Transport-Security", "max-age=1"),
        field("Warning", "199 - \"a\""),
        field("Pragma", "foo"),
        field("X-Cache", "HIT"),
        (
            "many",
            vec![
                get(&[&[HOUR], many.as_slice()].concat()).has("x-59", "59"),
                get(&[]).stored(0).has("x-0", "0").has("x-59", "59"),
            ],
        ),
    ])
    .await;
}

// RFC 9110 5.3, 7.6.1, 15.2
#[tokio::test]
async fn lines_are_kept_apart_and_what_is_of_one_hop_or_moment_is_not_kept() {
    check_sites(vec![
        (
            "lines",
            vec![
                get(&[HOUR, "A: 1", "B: 2", "A: 3", "a: 1"]).has("a", "1, 3, 1"),
                get(&[]).stored(0).has("a", "1, 3, 1").has("b", "2"),
            ],
        ),
        (
            "cookies",
            vec![
                get(&[HOUR, "Set-Cookie: a=b; Path=/", "Set-Cookie: c=d"]),
                get(&[]).stored(0).has("set-cookie", "a=b; Path=/, c=d"),
            ],
        ),
        (
            "not of one hop",
            vec![
                get(&[HOUR, "Connection: Foo,bar ,, BAZ", "Foo: 1", "Bar: 2", "Baz: 3", "Qux: 4"])
                    .lacks("foo")
                    .lacks("bar")
                    .lacks("baz"),
                get(&[]).stored(0).lacks("foo").lacks("bar").lacks("baz").has("qux", "4"),
            ],
        ),
        (
            "not of one hop, on lines",
            vec![
                get(&[HOUR, "Connection: foo", "Connection: bar", "Foo: 1", "Bar: 2"]),
                get(&[]).stored(0).lacks("foo").lacks("bar"),
            ],
        ),
        (
            "the version",
            vec![
                get(&[HOUR]).version("HTTP/1.0").has("via", "1.0 atoll"),
                get(&[]).stored(0).has("via", "1.0 atoll"),
                get(&[HOUR]).path("/y").has("via", "1.1 atoll"),
            ],
        ),
        (
            "the version of an answer that another node had by an older one",
            vec![
                get(&[HOUR, "Via: 1.0 atoll"]).has("via", "HTTP/1.0 atoll, 1.1 atoll"),
                get(&[]).stored(0).has("via", "HTTP/1.0 atoll, 1.1 atoll"),
                get(&[HOUR, "Via: 1.0 atoll"]).path("/y").version("HTTP/1.0").has("via", "HTTP/1.0 atoll, 1.0 atoll"),
            ],
        ),
        ("an older client's", vec![get(&[HOUR]).speaks("HTTP/1.0").saw("Via: 1.0 atoll").has("via", "1.1 atoll")]),
        (
            "others' Via",
            vec![
                get(&[HOUR, "Via: 1.0 a, 2 b"]).with(&["Via: 2 c"]).has("via", "1.0 a, 2 b, 1.1 atoll").saw("Via: 2 c"),
                get(&[]).stored(0).has("via", "1.0 a, 2 b, 1.1 atoll"),
            ],
        ),
        ("the status", vec![get(&[HOUR]).status("410 Gone"), get(&[]).stored(0).code(410)]),
        (
            "nothing of an interim answer",
            vec![
                get(&[HOUR]).status("100 Continue\r\nX-Early: 1\r\n\r\nHTTP/1.1 200 OK").lacks("x-early"),
                get(&[]).stored(0).code(200).lacks("x-early").given("0123456789"),
            ],
        ),
    ])
    .await;
}

// RFC 9112 5.1
#[tokio::test]
async fn spaces_before_colons_are_taken_out_and_hide_nothing() {
    check_sites(vec![
        (
            "no space before a colon",
            vec![
                get(&[HOUR, "A : 1", "B\t: 2"]).has("a", "1").has("b", "2"),
                get(&[]).stored(0).has("a", "1").has("b", "2"),
            ],
        ),
        ("a space before a colon hides nothing", vec![get(&[HOUR, "Cache-Control : no-store"]), get(&[HOUR])]),
    ])
    .await;
}

// RFC 9111 3.3, RFC 9112 8
#[tokio::test]
async fn what_breaks_off_is_no_answer_to_anybody_else() {
    let short = |fields: &[&str]| get(fields).short();
    check_sites(vec![
        ("its length", vec![short(&[HOUR]), get(&[HOUR]).given("0123456789"), get(&[]).stored(1)]),
        ("its last chunk", vec![short(&[HOUR]).chunked(), get(&[HOUR]).given("0123456789"), get(&[]).stored(1)]),
        ("with a tag", vec![short(&[HOUR, "ETag: \"a\""]), get(&[HOUR]).unseen("if-none-match"), get(&[]).stored(1)]),
        ("a range of it", vec![short(&[HOUR, "ETag: \"a\""]), get(&[HOUR]).with(&["Range: bytes=2-4"]).given("234")]),
        ("a HEAD of it", vec![short(&[HOUR]), get(&[HOUR]).method("HEAD").saw("HEAD ")]),
        (
            "over what is stale",
            vec![
                get(&[MINUTE, STALE, "ETag: \"a\""]),
                short(&[HOUR, "ETag: \"b\""]).body("abc"),
                get(&[HOUR]).status("304 X").gets(200).saw("If-None-Match: \"a\"").given("0123456789"),
            ],
        ),
        (
            "a part",
            vec![
                get(&[HOUR, "ETag: \"a\"", "Content-Range: bytes 2-7/10"])
                    .status("206 X")
                    .body("23456")
                    .short()
                    .with(&["Range: bytes=2-7"]),
                get(&[HOUR]).with(&["Range: bytes=2-4"]),
            ],
        ),
    ])
    .await;
}

// RFC 9111 3.5
#[tokio::test]
async fn credentials_keep_answers_to_themselves_unless_they_are_said_to_be_for_all() {
    let ask = |fields: &[&str]| get(fields).with(&["Authorization: x"]);
    let row = |name, fields: &[&str], shared: bool| {
        let second = get(&[HOUR]);
        (name, vec![ask(fields), if shared { second.stored(0) } else { second }])
    };
    check_sites(vec![
        row("max-age", &[HOUR], false),
        row("Expires", &["Expires: Thu, 18 Aug 2050 02:01:18 GMT"], false),
        row("a guess", &[OLD], false),
        row("a guess of what is public", &[OLD, "Cache-Control: public"], true),
        row("public", &["Cache-Control: PUBLIC", HOUR], true),
        row("s-maxage", &["Cache-Control: s-maxage=3600"], true),
        row("must-revalidate", &["Cache-Control: must-revalidate, max-age=3600"], true),
        row("proxy-revalidate", &["Cache-Control: proxy-revalidate, max-age=3600"], false),
        row("no-transform", &["Cache-Control: no-transform, max-age=3600"], false),
        row("private beside public", &["Cache-Control: public, private, max-age=3600"], false),
        row("public within quotes", &["Cache-Control: foo=\"public\", max-age=3600"], false),
        ("what is stored is for them too", vec![get(&[HOUR]), ask(&[HOUR]).stored(0)]),
        ("another's credentials", vec![ask(&[HOUR]), get(&[HOUR]).with(&["Authorization: y"])]),
        (
            "confirmed for them",
            vec![
                get(&[MINUTE, STALE, "ETag: \"a\"", "Cache-Control: public"]),
                ask(&[HOUR, "Cache-Control: public"]).status("304 X").gets(200),
                get(&[]).stored(1),
            ],
        ),
    ])
    .await;
}

// RFC 9110 9, RFC 9111 4.4
#[tokio::test]
async fn only_what_may_change_something_makes_it_invalid_and_only_if_it_did() {
    let change = |status: &'static str| get(&[]).method("POST").with(&["Content-Length: 0"]).status(status);
    let row = |status, invalid: bool| {
        let third = get(&[HOUR]);
        (status, vec![get(&[HOUR]), change(status), if invalid { third } else { third.stored(0) }])
    };
    let named = |field: &'static str, path: &'static str, invalid: bool| {
        let change = |field| get(&[field]).method("PUT").with(&["Content-Length: 0"]).status("201 X");
        let third = get(&[HOUR]).path(path);
        (field, vec![get(&[HOUR]).path(path), change(field), if invalid { third } else { third.stored(0) }])
    };
    let mut cases = vec![
        row("200 X", true),
        row("201 X", true),
        row("202 X", true),
        row("204 X", true),
        row("299 X", true),
        row("303 X", true),
        row("302 X", true),
        row("400 X", false),
        row("404 X", false),
        row("409 X", false),
        row("500 X", false),
        row("503 X", false),
        named("Location: /y?a=1", "/y?a=1", true),
        named("Location: /y#a", "/y", true),
        named("Location: ?a=1", "/x?a=1", true),
        named("Location: y", "/y", true),
        named("Location: ./y", "/y", true),
        named("Location: ../y", "/y", true),
        named("Location: /a/./b/../../y", "/y", true),
        named("Content-Location: /a/b/..", "/a/", true),
        named("Content-Location: /a/.", "/a/", true),
        named("Content-Location: ../../../y?a=/../b", "/y?a=/../b", true),
        named("Content-Location: .y", "/.y", true),
        named("Content-Location: /..y/z", "/..y/z", true),
        named("Content-Location: //own.test.invalid/y", "/y", false),
        named("Content-Location: http://own.test.invalid/y", "/y", false),
        named("Location: ftp://a/y", "/y", false),
        named("Location: /z", "/y", false),
        named("Location: ", "/y", false),
        named("Link: </y>", "/y", false),
        named("Location: http://{host}/y", "/y", true),
        named("Content-Location: http://{host}/y?a=1#b", "/y?a=1", true),
        named("Content-Location: //{host}/y", "/y", true),
        named("Location: HTTP://{host}/y", "/y", true),
        named("Location: http://{host}.invalid/y", "/y", false),
        named("Location: http://a@{host}/y", "/y", false),
        named("Location: https://{host}:1/y", "/y", false),
        ("another query", vec![get(&[HOUR]).path("/x?a=1"), change("200 X"), get(&[]).path("/x?a=1").stored(0)]),
        ("one that does not arrive", vec![get(&[HOUR]), get(&[]).method("DELETE").cut().gets(502), get(&[]).stored(0)]),
    ];
    for method in ["FOO", "LOCK", "MKCOL", "get"] {
        cases.push((method, vec![get(&[HOUR]), get(&[]).method(method).saw(method), get(&[HOUR])]));
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "FOO"] {
        let ask = || get(&[HOUR]).method(method).with(&["Content-Length: 0"]);
        cases.push((method, vec![ask(), ask(), get(&[HOUR])]));
    }
    check_sites(cases).await;
}

/// What is asked for by one method is no answer to another.
#[tokio::test]
async fn what_is_stored_is_for_get_and_head_alone() {
    let mut cases = Vec::new();
    for method in ["POST", "PUT", "PATCH", "OPTIONS", "FOO"] {
        let own: Ask = get(&[]).method(method).with(&["Content-Length: 0"]).saw(method);
        cases.push((method, vec![get(&[HOUR]), own]));
    }
    check_sites(cases).await;
}
