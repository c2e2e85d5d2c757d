//! RFC 9111 4.1: which stored answer a request selects, by Vary.

use super::{HOUR, MINUTE, STALE};
use crate::script::{Ask, check_sites, get};

fn vary(vary: &'static str, fields: &[&str]) -> Ask {
    get(&[HOUR, vary]).with(fields)
}

#[tokio::test]
async fn vary_is_a_list_of_names_in_any_case_and_spacing() {
    let mut cases = Vec::new();
    for list in [
        "Vary: foo",
        "Vary: FOO",
        "Vary: ,Foo,",
        "Vary:\tFoo ,, foo",
        "Vary: Foo, Foo",
        "Vary: Foo, X",
        "Vary: X\r\nVary: Foo",
    ] {
        let ask = |value: &'static str| vary(list, &[value]);
        cases.push((list, vec![ask("Foo: 1"), ask("fOO: 1").stored(0), ask("Foo: 2"), ask("Foo: 1").stored(0)]));
    }
    for star in [
        "Vary: *, *",
        "Vary: ,*,",
        "Vary:\t*\t",
        "Vary: foo,*",
        "Vary: *\r\nVary: foo",
        "Vary: foo bar",
        "Vary: \"foo\"",
    ] {
        cases.push((star, vec![vary(star, &["Foo: 1"]), vary(star, &["Foo: 1"])]));
    }
    check_sites(cases).await;
}

#[tokio::test]
async fn fields_match_if_they_are_the_same_list() {
    let ask = |fields: &[&str]| vary("Vary: Foo", fields);
    let row = |name, first: &[&str], second: &[&str], stored: bool| {
        (name, vec![ask(first), if stored { ask(second).stored(0) } else { ask(second) }])
    };
    check_sites(vec![
        row("neither has it", &[], &[], true),
        row("another has another", &["Bar: 1"], &["Bar: 2"], true),
        row("empty and missing", &["Foo: "], &[], false),
        row("missing and empty", &[], &["Foo: "], false),
        row("empty twice", &["Foo: "], &["Foo:"], true),
        row("spaces around", &["Foo: 1"], &["Foo:   1  "], true),
        row("spaces in a list", &["Foo: 1,2"], &["Foo: 1 ,\t2"], true),
        row("lines", &["Foo: 1", "Foo: 2"], &["Foo: 1,2"], true),
        row("lines in another order", &["Foo: 1", "Foo: 2"], &["Foo: 2", "Foo: 1"], false),
        row("another order", &["Foo: 1, 2"], &["Foo: 2, 1"], false),
        row("another case", &["Foo: a"], &["Foo: A"], false),
        row("a prefix", &["Foo: 1"], &["Foo: 1, 2"], false),
        row("twice the same", &["Foo: 1"], &["Foo: 1, 1"], false),
        row("spaces within", &["Foo: a b"], &["Foo: ab"], false),
    ])
    .await;
}

#[tokio::test]
async fn all_that_is_named_must_match() {
    let three = |fields: &[&str]| vary("Vary: A, B, C", fields);
    let row = |name, second: &[&str], stored: bool| {
        let second = three(second);
        (name, vec![three(&["A: 1", "B: 2", "C: 3"]), if stored { second.stored(0) } else { second }])
    };
    check_sites(vec![
        row("all", &["A: 1", "B: 2", "C: 3"], true),
        row("in another order", &["C: 3", "A: 1", "B: 2"], true),
        row("more besides", &["A: 1", "B: 2", "C: 3", "D: 4"], true),
        row("the last differs", &["A: 1", "B: 2", "C: 4"], false),
        row("the last is missing", &["A: 1", "B: 2"], false),
        row("values changed places", &["A: 2", "B: 1", "C: 3"], false),
        row("two in one", &["A: 1, 2", "C: 3"], false),
        (
            "on several lines",
            vec![
                get(&[HOUR, "Vary: A", "Vary: B"]).with(&["A: 1", "B: 2"]),
                get(&[HOUR]).with(&["A: 1", "B: 2"]).stored(0),
                get(&[HOUR]).with(&["A: 1", "B: 3"]),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn variants_live_beside_each_other() {
    let foo = |value: &'static str| vary("Vary: Foo", &[value]);
    let star = || get(&[HOUR, "Vary: *"]).with(&["Foo: 2"]);
    check_sites(vec![
        (
            "three",
            vec![
                foo("Foo: 1"),
                foo("Foo: 2"),
                foo("Foo: 3"),
                foo("Foo: 1").stored(0),
                foo("Foo: 3").stored(2),
                foo("Foo: 2").stored(1),
                get(&[HOUR, "Vary: Foo"]),
                get(&[HOUR]).stored(6),
            ],
        ),
        ("a HEAD of one", vec![foo("Foo: 1"), foo("Foo: 2"), foo("Foo: 1").method("HEAD").stored(0)]),
        (
            "ranges of one",
            vec![
                foo("Foo: 1"),
                foo("Foo: 2").body("abcdefghij"),
                get(&[]).with(&["Foo: 2", "Range: bytes=2-4"]).stored(1).given("cde"),
            ],
        ),
        (
            "one is not to be stored",
            vec![
                foo("Foo: 1"),
                get(&["Cache-Control: no-store", "Vary: Foo"]).with(&["Foo: 2"]),
                foo("Foo: 1").stored(0),
                foo("Foo: 2"),
            ],
        ),
        ("one is *", vec![foo("Foo: 1"), star(), foo("Foo: 1").stored(0), star()]),
        (
            "names change",
            vec![
                foo("Foo: 1"),
                vary("Vary: Foo, Bar", &["Foo: 2", "Bar: 1"]),
                vary("Vary: Foo, Bar", &["Foo: 2", "Bar: 1"]).stored(1),
                vary("Vary: Foo, Bar", &["Foo: 2", "Bar: 2"]),
            ],
        ),
        (
            "cookies and credentials",
            vec![
                get(&["Cache-Control: public, max-age=60", "Vary: Cookie, Authorization"])
                    .with(&["Cookie: a", "Authorization: x"]),
                get(&[]).with(&["Cookie: a", "Authorization: x"]).stored(0),
                get(&[HOUR, "Vary: Cookie, Authorization"]).with(&["Cookie: b", "Authorization: x"]),
            ],
        ),
        (
            "of a 404",
            vec![
                foo("Foo: 1").status("404 X"),
                foo("Foo: 2"),
                foo("Foo: 1").stored(0).code(404),
                foo("Foo: 2").stored(1).code(200),
            ],
        ),
    ])
    .await;
}

// RFC 9111 4.3.1, 4.3.2: each has its own validators.
#[tokio::test]
async fn conditions_and_confirmations_are_of_one_variant() {
    let foo = |value: &'static str| vary("Vary: Foo", &[value]);
    check_sites(vec![
        (
            "one is stale",
            vec![
                get(&[MINUTE, STALE, "Vary: Foo", "ETag: \"a\""]).with(&["Foo: 1"]),
                get(&[HOUR, "Vary: Foo", "ETag: \"b\""]).with(&["Foo: 2"]),
                get(&[HOUR, "Vary: Foo"]).with(&["Foo: 1"]).status("304 X").gets(200).saw("If-None-Match: \"a\""),
                foo("Foo: 1").stored(2).has("etag", "\"a\""),
                foo("Foo: 2").stored(1).has("etag", "\"b\""),
            ],
        ),
        (
            "conditions on one",
            vec![
                get(&[HOUR, "Vary: Foo", "ETag: \"a\""]).with(&["Foo: 1"]),
                get(&[HOUR, "Vary: Foo", "ETag: \"b\""]).with(&["Foo: 2"]),
                get(&[]).with(&["Foo: 2", "If-None-Match: \"a\""]).stored(1).code(200),
                get(&[]).with(&["Foo: 2", "If-None-Match: \"b\""]).stored(1).code(304),
            ],
        ),
    ])
    .await;
}

// RFC 9110 12.5.4, RFC 9111 4.1: fields whose meaning is known are compared by it.
#[tokio::test]
async fn languages_are_compared_by_their_meaning() {
    let lang = |value: &'static str| vary("Vary: Accept-Language", &[value]);
    let row = |name, first, second, stored: bool| {
        (name, vec![lang(first), if stored { lang(second).stored(0) } else { lang(second) }])
    };
    check_sites(vec![
        row("lines", "Accept-Language: en\r\nAccept-Language: de", "Accept-Language: en, de", true),
        row("spaces", "Accept-Language: en;q=0.5,de", "Accept-Language: de , en ; q=0.5", true),
        row("a weight of one", "Accept-Language: en", "Accept-Language: en;q=1.000", true),
        row("another language", "Accept-Language: en", "Accept-Language: de", false),
        row("a region", "Accept-Language: en", "Accept-Language: en-gb", false),
        row("one more", "Accept-Language: en", "Accept-Language: en, de;q=0.1", false),
        row("refused", "Accept-Language: en", "Accept-Language: en;q=0", false),
    ])
    .await;
}

// RFC 9110 12.5.1, 12.5.3: of media types and codings too.
#[tokio::test]
async fn media_types_and_codings_are_compared_by_their_meaning() {
    let row = |of: &'static str, first: &'static str, second: &'static str, stored: bool| {
        let asked = vary(of, &[second]);
        (second, vec![vary(of, &[first]), if stored { asked.stored(0) } else { asked }])
    };
    let (types, codings) = ("Vary: Accept", "Vary: Accept-Encoding");
    check_sites(vec![
        row(types, "Accept: a/b, c/d;q=0.5", "Accept: C/D; q=0.50 ,a/b", true),
        row(types, "Accept: a/b\r\nAccept: c/d", "Accept: c/d, a/b", true),
        row(types, "Accept: a/b, c/d;q=0.5", "Accept: a/b;q=0.5, c/d", false),
        row(types, "Accept: a/b", "Accept: a/*", false),
        row(types, "Accept: a/b;x=Y", "Accept: a/b;x=y", false),
        row(types, "Accept: */*", "X: no Accept", false),
        row(codings, "Accept-Encoding: gzip, br", "Accept-Encoding: BR;q=0.9,GZIP", true),
        row(codings, "Accept-Encoding: gzip", "Accept-Encoding: x-gzip, identity", true),
        row(codings, "Accept-Encoding: gzip", "Accept-Encoding: gzip;q=0", false),
        row(codings, "Accept-Encoding: gzip", "Accept-Encoding: br", false),
        row(codings, "Accept-Encoding: identity", "X: no Accept-Encoding", true),
    ])
    .await;
}
