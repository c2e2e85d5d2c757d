//! RFC 9213 2 and 3 over RFC 9651 4.2: CDN-Cache-Control as a dictionary, what it takes the place of, and what becomes of it.

use super::{FUTURE, HOUR, OLD, PAST, STALE};
use crate::script::{check_rows, check_sites, get};

// RFC 9213 2.1: what does not parse is as good as absent; so what stands in Cache-Control counts.
#[tokio::test]
async fn one_wrong_byte_and_the_whole_field_is_ignored() {
    let mut cases = Vec::new();
    for malformed in [
        "max-age=0,",
        ",max-age=0",
        "max-age=0,,foo",
        "max-age=0 ;foo",
        "max-age=0;",
        "max-age=0; Foo",
        "max-age=0;foo=",
        "max-age=0;foo= 1",
        "max-age==0",
        "max-age=",
        "max-age = 0",
        "max-age=0 no-store",
        "max-age=0; no-store, ;",
        "Max-Age=0",
        "no-store, Foo",
        "1no-store",
        "-no-store",
        "\"no-store\"",
        "no-store, foo=\"bar",
        "no-store, foo=\"b\\ar\"",
        "no-store, foo=\"b\tr\"",
        "no-store, foo='bar'",
        "no-store, foo=?2",
        "no-store, foo=?",
        "no-store, foo=1.",
        "no-store, foo=1.2345",
        "no-store, foo=1234567890123.1",
        "no-store, foo=1234567890123456",
        "no-store, foo=--1",
        "no-store, foo=-",
        "no-store, foo=:YQ==",
        "no-store, foo=:Y!:",
        "no-store, foo=(1 2",
        "no-store, foo=(1,2)",
        "no-store, foo=(1  \"a)",
        "no-store; private; &",
        "no-store/private",
        "no-store=\u{e9}",
        "no-store, @foo",
        "?1",
        "()",
    ] {
        let field: &'static str = format!("CDN-Cache-Control: {malformed}").leak();
        let ask = move |control: &'static str| get(&[field, control]);
        cases.push((field, vec![ask(HOUR), ask(HOUR).stored(0)]));
        let path = "/y";
        let ask = move || ask("Cache-Control: no-store").path(path);
        cases.push((field, vec![ask(), ask()]));
    }
    check_sites(cases).await;
}

#[tokio::test]
async fn whatever_is_well_formed_counts_alone() {
    check_rows(&[
        (
            &["CDN-Cache-Control: max-age=3600", "Cache-Control: no-store, private, no-cache, max-age=0", "Expires: 0"],
            true,
        ),
        (&["CDN-Cache-Control: max-age=3600;foo=bar;baz", "Cache-Control: no-store"], true),
        (&["CDN-Cache-Control: max-age=3600; foo=\"a;b,c\"; baz=?0", "Cache-Control: no-store"], true),
        (&["CDN-Cache-Control: max-age=3600,foo", "Cache-Control: no-store"], true),
        (&["CDN-Cache-Control: foo\t,\tmax-age=3600", "Cache-Control: no-store"], true),
        (&["CDN-Cache-Control: foo", "CDN-Cache-Control: max-age=3600", "Cache-Control: no-store"], true),
        (&["cdn-cache-control:max-age=3600", "Cache-Control: no-store"], true),
        (&["CDN-Cache-Control: max-age=000000000003600", "Cache-Control: no-store"], true),
        (&["CDN-Cache-Control: max-age=999999999999999", "Cache-Control: no-store"], true),
        (&["CDN-Cache-Control: *foo=1, a.b-c_d*=2, max-age=3600", "Cache-Control: no-store"], true),
        (
            &["CDN-Cache-Control: a=(1 2);x, b=:YQ==:, c=1.5, d=t/o:k, e=-1, max-age=3600", "Cache-Control: no-store"],
            true,
        ),
        (&["CDN-Cache-Control: a=(), b=\"\\\"no-store\\\\\", max-age=3600", "Cache-Control: no-store"], true),
        (&["CDN-Cache-Control: foo=\"no-store, private\", max-age=3600", "Cache-Control: no-store"], true),
        (&["CDN-Cache-Control: max-age=3600", "Age: 1800", "Cache-Control: max-age=60"], true),
        (&["CDN-Cache-Control: max-age=3600", "Date: Thu, 18 Aug 2005 02:01:18 GMT", HOUR], false),
        (&["CDN-Cache-Control: s-maxage=3600, max-age=0", "Cache-Control: no-store"], true),
        (&["CDN-Cache-Control: s-maxage=0, max-age=3600", HOUR], false),
        (&["CDN-Cache-Control: max-age=3600", "Pragma: no-cache"], true),
        (&["CDN-Cache-Control: no-store", HOUR, FUTURE], false),
        (&["CDN-Cache-Control: private", HOUR, FUTURE], false),
        (&["CDN-Cache-Control: no-cache", HOUR, FUTURE], false),
        (&["CDN-Cache-Control: foo", HOUR, FUTURE], false),
        (&["CDN-Cache-Control: public", FUTURE], false),
        (&["CDN-Cache-Control: must-revalidate", OLD, "Cache-Control: no-store"], true),
        (&["CDN-Cache-Control: max-age=3600", PAST], true),
        (&["CDN-Cache-Control: no-store, must-understand, max-age=3600"], true),
    ])
    .await;
}

// RFC 9651 3.2: of a repeated key the last counts. RFC 9213 2.1: what has a directive's name and not its type gives nobody leave.
#[tokio::test]
async fn types_are_those_of_structured_fields() {
    check_rows(&[
        (&["CDN-Cache-Control: max-age=0, max-age=3600", "Cache-Control: no-store"], true),
        (&["CDN-Cache-Control: max-age=3600, max-age=0", HOUR], false),
        (&["CDN-Cache-Control: max-age=0", "CDN-Cache-Control: max-age=3600"], true),
        (&["CDN-Cache-Control: no-store, no-store=?0, max-age=3600"], true),
        (&["CDN-Cache-Control: no-store=?1, max-age=3600", HOUR], false),
        (&["CDN-Cache-Control: private=?1, max-age=3600", HOUR], false),
        (&["CDN-Cache-Control: no-cache=?1, max-age=3600", HOUR], false),
        (&["CDN-Cache-Control: no-store=1, max-age=3600", HOUR], false),
        (&["CDN-Cache-Control: no-store=\"foo\", max-age=3600", HOUR], false),
        (&["CDN-Cache-Control: no-store;foo=bar, max-age=3600", HOUR], false),
        (&["CDN-Cache-Control: max-age", HOUR], false),
        (&["CDN-Cache-Control: max-age=?1", HOUR], false),
        (&["CDN-Cache-Control: max-age=?0", HOUR], false),
        (&["CDN-Cache-Control: max-age=3600.0", HOUR], false),
        (&["CDN-Cache-Control: max-age=\"3600\"", HOUR], false),
        (&["CDN-Cache-Control: max-age=foo", HOUR], false),
        (&["CDN-Cache-Control: max-age=a3600", HOUR], false),
        (&["CDN-Cache-Control: max-age=(3600)", HOUR], false),
        (&["CDN-Cache-Control: max-age=:MzYwMA==:", HOUR], false),
        (&["CDN-Cache-Control: max-age=-1", HOUR], false),
    ])
    .await;
}

// RFC 9213 2.2: in whatever the policy matters.
#[tokio::test]
async fn it_decides_what_is_shared_what_is_stale_and_what_a_304_brings() {
    let ask = |fields: &[&str]| get(fields).with(&["Authorization: x"]);
    let (stands_in, hour) = (get(&[]).cut(), "CDN-Cache-Control: max-age=3600");
    let stale = |control: &'static str, general: &'static str| get(&[control, general, STALE, "ETag: \"a\""]);
    let minute = "CDN-Cache-Control: max-age=60";
    check_sites(vec![
        ("authorised", vec![ask(&["CDN-Cache-Control: public, max-age=3600"]), ask(&[HOUR]).stored(0)]),
        ("authorised by Cache-Control alone", vec![ask(&[hour, "Cache-Control: public"]), ask(&[hour])]),
        (
            "authorised, must-revalidate",
            vec![ask(&["CDN-Cache-Control: must-revalidate, max-age=3600"]), ask(&[]).stored(0)],
        ),
        ("stale", vec![stale(minute, "Cache-Control: must-revalidate"), stands_in.clone().stored(0)]),
        (
            "never stale",
            vec![
                stale("CDN-Cache-Control: max-age=60, must-revalidate", "Cache-Control: stale-if-error=3600"),
                stands_in.clone().gets(502),
            ],
        ),
        (
            "stale for less",
            vec![
                stale("CDN-Cache-Control: max-age=60, stale-if-error=10", "Cache-Control: stale-if-error=3600"),
                stands_in.gets(502),
            ],
        ),
        (
            "stale meanwhile",
            vec![
                stale("CDN-Cache-Control: max-age=60, stale-while-revalidate=3600", "Cache-Control: max-age=60"),
                get(&[hour]).status("304 X").stored(0),
            ],
        ),
        ("not stale meanwhile", vec![stale(minute, "Cache-Control: stale-while-revalidate=3600"), get(&[hour])]),
        (
            "renewed by a 304",
            vec![
                stale(minute, "Cache-Control: max-age=60"),
                get(&[hour, "Cache-Control: max-age=0"]).status("304 X").gets(200),
                get(&[]).stored(1),
            ],
        ),
        (
            "forbidden by a 304",
            vec![
                stale(minute, HOUR),
                get(&["CDN-Cache-Control: no-store", HOUR]).status("304 X").gets(200),
                get(&[HOUR]),
            ],
        ),
        ("cookies", vec![get(&[hour, "Set-Cookie: a=b"]), get(&[]).stored(0).has("set-cookie", "a=b")]),
        ("of a 500", vec![get(&[hour]).status("500 X"), get(&[]).stored(0).code(500)]),
        (
            "of a part",
            vec![
                get(&[hour, "Cache-Control: no-store", "Content-Range: bytes 2-4/10"])
                    .status("206 X")
                    .body("234")
                    .with(&["Range: bytes=2-4"]),
                get(&[]).with(&["Range: bytes=2-4"]).stored(0).given("234"),
            ],
        ),
    ])
    .await;
}

// RFC 9213 2.2, 3
#[tokio::test]
async fn targeted_fields_are_passed_on_and_others_targets_are_not_ours() {
    let hit = |field: &'static str, name: &'static str, value: &'static str| {
        (field, vec![get(&[HOUR, field]).has(name, value), get(&[]).stored(0).has(name, value)])
    };
    check_sites(vec![
        hit("CDN-Cache-Control: max-age=3600;a=b, foo", "cdn-cache-control", "max-age=3600;a=b, foo"),
        hit("CDN-Cache-Control: &", "cdn-cache-control", "&"),
        hit("Foo-Cache-Control: no-store", "foo-cache-control", "no-store"),
        hit("Surrogate-Control: no-store", "surrogate-control", "no-store"),
        hit("Edge-Control: no-store", "edge-control", "no-store"),
        (
            "in a request",
            vec![get(&[HOUR]), get(&[]).with(&["CDN-Cache-Control: no-cache, no-store, max-age=0"]).stored(0)],
        ),
    ])
    .await;
}
