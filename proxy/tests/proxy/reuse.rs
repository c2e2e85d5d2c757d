//! RFC 9111 3, 4.3 and RFC 9110 13 as conversations: what of an answer is stored and sent again, for whom, and how it is validated.

use std::time::Duration;

use atoll_overlay::Level;
use bytes::Bytes;

use crate::{
    script::{Ask, check, check_with, get},
    support::{Do, Net, Origin, alone, config_site, get as get_from, get_with, ok, until},
};

const HOUR: &str = "Cache-Control: max-age=3600";
const MINUTE: &str = "Cache-Control: max-age=60";
const STALE: &str = "Age: 120";

#[tokio::test]
async fn fields_of_one_hop_are_neither_stored_nor_passed_on() {
    let mut cases = Vec::new();
    for field in [
        "Connection: x-foo",
        "Keep-Alive: x",
        "Proxy-Authenticate: x",
        "Proxy-Authentication-Info: x",
        "Proxy-Authorization: x",
        "Proxy-Connection: x",
        "TE: x",
        "Upgrade: x",
    ] {
        let name = field.split(':').next().unwrap().to_ascii_lowercase();
        let name: &'static str = name.leak();
        let second = get(&[HOUR]).stored(0);
        cases.push((field, vec![get(&[HOUR, field]), if name == "connection" { second } else { second.lacks(name) }]));
    }
    cases.push((
        "listed in Connection",
        vec![get(&[HOUR, "Connection: a, B", "A: 1", "B: 2"]).lacks("a"), get(&[HOUR]).stored(0).lacks("a").lacks("b")],
    ));
    cases.push((
        "of the request",
        vec![
            get(&[HOUR])
                .with(&["Connection: close, x-foo", "X-Foo: 1", "TE: trailers", "Keep-Alive: 1", "X-Bar: 2"])
                .saw("x-bar: 2")
                .unseen("x-foo")
                .unseen("\r\nte:")
                .unseen("keep-alive"),
        ],
    ));
    check(cases).await;
}

#[tokio::test]
async fn all_other_fields_are_stored_and_sent_again() {
    let mut cases = Vec::new();
    for field in [
        "Test-Header: a",
        "X-Content-Foo: a",
        "Content-Encoding: a",
        "Content-Location: /a",
        "Content-MD5: a",
        "Content-Range: a",
        "Content-Security-Policy: a",
        "Content-Type: a/b",
        "Clear-Site-Data: a",
        "ETag: \"a\"",
        "Public-Key-Pins: a",
        "Set-Cookie: a=b",
        "Set-Cookie2: a",
        "X-Frame-Options: a",
        "X-XSS-Protection: a",
    ] {
        let (name, value) = field.split_once(": ").unwrap();
        let name: &'static str = name.to_ascii_lowercase().leak();
        cases.push((field, vec![get(&[HOUR, field]), get(&[HOUR]).stored(0).has(name, value)]));
    }
    check(cases).await;
}

#[tokio::test]
async fn fields_named_in_no_cache_or_private_are_withheld() {
    let mut cases = Vec::new();
    for control in [
        "Cache-Control: max-age=3600, no-cache=\"a, B\"",
        "Cache-Control: no-cache=\"b\",no-cache=a, max-age=3600",
        "Cache-Control: max-age=3600, private=\"A,  b\"",
        "CDN-Cache-Control: max-age=3600, private=\"a,b\"",
    ] {
        let first = get(&[control, "A: 1", "B: 2", "C: 3"]).has("a", "1");
        cases.push((control, vec![first, get(&[HOUR]).stored(0).has("c", "3").lacks("a").lacks("b")]));
    }
    check(cases).await;
}

// C01, RFC 9111 3.5
#[tokio::test]
async fn authorised_answers_are_shared_only_where_the_origin_says_so() {
    let mut cases = Vec::new();
    for (control, shared) in [
        ("Cache-Control: max-age=3600", false),
        ("Cache-Control: max-age=3600, public", true),
        ("Cache-Control: max-age=3600, must-revalidate", true),
        ("Cache-Control: s-maxage=3600", true),
    ] {
        let ask = || get(&[control]).with(&["Authorization: x"]).saw("Authorization: x");
        let second = get(&[control]).with(&["Authorization: x"]);
        cases.push((control, vec![ask(), if shared { second.stored(0) } else { second }]));
    }
    cases.push((
        "cookies of requests",
        vec![get(&[HOUR]).with(&["Cookie: a=b"]).saw("Cookie: a=b"), get(&[HOUR]).stored(0)],
    ));
    cases.push((
        "a guess is not enough for cookies",
        vec![get(&["Set-Cookie: a=b", "Last-Modified: Thu, 18 Aug 2005 02:01:18 GMT"]), get(&[])],
    ));
    check(cases).await;
}

// RFC 9110 13
#[tokio::test]
async fn conditions_are_answered_out_of_the_store() {
    let tagged = |tag: &'static str| get(&[HOUR, tag]);
    let asks = |condition: &'static str| get(&[HOUR]).with(&[condition]);
    let dated = || get(&[HOUR, "Last-Modified: Wed, 18 Aug 2010 02:01:18 GMT"]);
    let undated = || get(&["Cache-Control: max-age=3600", "Date: Thu, 18 Aug 2050 02:01:18 GMT"]);
    let row = |name, first: Ask, condition, status| (name, vec![first, asks(condition).gets(status)]);
    check(vec![
        row("strong", tagged("ETag: \"a\""), "If-None-Match: \"a\"", 304),
        row("weak", tagged("ETag: W/\"a\""), "If-None-Match: W/\"a\"", 304),
        row("weakly equal", tagged("ETag: \"a\""), "If-None-Match: W/\"a\"", 304),
        row("first of several", tagged("ETag: \"a\""), "If-None-Match: \"a\", \"b\"", 304),
        row("last of several", tagged("ETag: \"a\""), "If-None-Match: \"b,c\" ,\"a\"", 304),
        row("none of several", tagged("ETag: \"a\""), "If-None-Match: \"b\", \"c\"", 200),
        row("opaque bytes", tagged("ETag: \"a\u{e9}\""), "If-None-Match: \"a\u{e9}\"", 304),
        row("same date", dated(), "If-Modified-Since: Wed, 18 Aug 2010 02:01:18 GMT", 304),
        row("later date", dated(), "If-Modified-Since: Thu, 18 Aug 2011 02:01:18 GMT", 304),
        row("earlier date", dated(), "If-Modified-Since: Tue, 18 Aug 2009 02:01:18 GMT", 200),
        row("another format", dated(), "If-Modified-Since: Wednesday, 18-Aug-10 02:01:18 GMT", 304),
        row("no date of change", undated(), "If-Modified-Since: Thu, 18 Aug 2050 02:01:18 GMT", 304),
    ])
    .await;
}

#[tokio::test]
async fn stale_answers_are_validated_with_what_they_have() {
    let tagged = || get(&[MINUTE, STALE, "ETag: \"a\"", "X: old"]);
    let weak = || get(&[MINUTE, STALE, "ETag: W/\"a\""]);
    let changed = "Last-Modified: Wed, 18 Aug 2010 02:01:18 GMT";
    let not = |fields: &[&str]| get(fields).status("304 Not Modified").gets(200);
    check(vec![
        (
            "strong",
            vec![tagged(), not(&[HOUR, "X: new"]).saw("If-None-Match: \"a\"").has("x", "new"), get(&[]).stored(1)],
        ),
        ("weak", vec![weak(), not(&[HOUR]).saw("If-None-Match: W/\"a\"")]),
        (
            "by date",
            vec![get(&[MINUTE, STALE, changed]), not(&[HOUR]).saw("If-Modified-Since: Wed, 18 Aug 2010 02:01:18 GMT")],
        ),
        ("neither", vec![get(&[MINUTE, STALE]), get(&[HOUR]).unseen("if-none-match").unseen("if-modified-since")]),
        (
            "the length stays, all else is renewed",
            vec![
                tagged(),
                not(&[HOUR, "Content-Length: 3", "Content-Type: c/d", "Y: 1"])
                    .given("0123456789")
                    .has("content-length", "10"),
                get(&[]).stored(1).has("content-type", "c/d").has("y", "1").has("content-length", "10"),
            ],
        ),
        (
            "the same by a date that is strong",
            vec![
                get(&[MINUTE, STALE, "ETag: \"a\"", changed]),
                not(&[HOUR, "ETag: \"b\"", changed]).has("etag", "\"b\""),
                get(&[]).stored(1).has("etag", "\"b\""),
            ],
        ),
        ("another's", vec![tagged(), get(&["ETag: \"b\"", "X: new"]).status("304 X").gets(200).has("x", "old")]),
        ("no longer shared", vec![tagged(), not(&["Cache-Control: no-store"]), get(&[HOUR])]),
        (
            "a client's own condition",
            vec![
                get(&[HOUR]).status("304 X").with(&["If-None-Match: \"c\""]).saw("If-None-Match: \"c\"").gets(304),
                get(&[HOUR]),
                get(&[HOUR]).stored(1),
            ],
        ),
    ])
    .await;
}

// RFC 9111 4.3.4: such a 304 confirms nothing that is stored, so all is asked for, also where nothing stale may be used.
#[tokio::test]
async fn what_a_304_about_something_else_leaves_open_is_asked_for_without_conditions() {
    for another in ["\"b\"", "W/\"b\""] {
        let origin = Origin::start(move |number, head| {
            if head.contains("\r\nif-none-match: \"a\"\r\n") {
                return vec![Do::Send(format!("HTTP/1.1 304 X\r\nETag: {another}\r\n\r\n").into())];
            }
            let (tag, age) = if number == 0 { ("\"a\"", 120) } else { (another, 0) };
            let fields = format!("Cache-Control: max-age=60, must-revalidate\r\nETag: {tag}\r\nAge: {age}\r\n");
            ok(&fields, &Bytes::from(number.to_string()))
        })
        .await;
        let proxy = alone(config_site(&origin)).await;
        for (body, asked) in [(b"0", 1), (b"2", 3), (b"2", 3)] {
            let response = get_from(&proxy, "a", "/x").await;
            assert_eq!((response.status, &response.body[..], origin.count()), (200, &body[..], asked), "{another}");
            until(|| proxy.stats().flights == 0).await;
        }
    }
}

// RFC 9110 13.1: it is about one request, and the next to ask is granted the fetch at once.
#[tokio::test]
async fn what_one_client_s_condition_comes_to_passes_nothing_by_in_the_network() {
    let origin = Origin::start(|_, head| {
        if head.contains("\r\nif-none-match: ") {
            return vec![Do::Send("HTTP/1.1 304 X\r\nETag: \"a\"\r\n\r\n".into())];
        }
        ok("Cache-Control: max-age=60\r\nETag: \"a\"\r\n", &Bytes::from_static(b"all"))
    })
    .await;
    let net = Net::new(Level(1));
    let (one, _other) = (net.proxy(1, config_site(&origin)).await, net.proxy(2, config_site(&origin)).await);
    assert_eq!(get_with(&one, "GET", "a", "/x", "If-None-Match: \"a\"\r\n").await.status, 304);
    until(|| one.stats().flights == 0 && net.standing() == (0, 0)).await;
    assert_eq!((net.granted(), origin.count()), (1, 1));
}

// RFC 9111 4.3.5
#[tokio::test]
async fn head_is_answered_from_get_and_confirms_or_refutes_it() {
    let tagged = || get(&[MINUTE, STALE, "ETag: \"a\""]);
    check(vec![
        (
            "fresh",
            vec![get(&[HOUR]), get(&[]).method("HEAD").stored(0).has("content-length", "10"), get(&[]).stored(0)],
        ),
        ("asked on", vec![get(&[HOUR]).method("HEAD").saw("HEAD "), get(&[HOUR])]),
        (
            "confirmed",
            vec![tagged(), get(&[HOUR, "ETag: \"a\"", "X: new"]).method("HEAD"), get(&[]).stored(1).has("x", "new")],
        ),
        ("refuted by tag", vec![tagged(), get(&[HOUR, "ETag: \"b\""]).method("HEAD"), get(&[HOUR])]),
        ("refuted by length", vec![tagged(), get(&[HOUR]).method("HEAD").body("012"), get(&[HOUR])]),
        ("gone", vec![tagged(), get(&[HOUR]).method("HEAD").status("410 Gone"), get(&[HOUR])]),
    ])
    .await;
}

#[tokio::test]
async fn queries_tell_objects_apart_by_the_site_s_rules() {
    let ask = |path: &'static str| get(&[HOUR]).path(path);
    check(vec![("as written", vec![ask("/x?a=1&b=2"), ask("/x?b=2&a=1"), ask("/x"), ask("/x?a=1&b=2").stored(0)])])
        .await;
    let rules = |query| {
        move |config: &mut atoll_proxy::Config| {
            let site = config.sites.get_mut("*").unwrap();
            site.query = query;
            site.ignore_query = vec!["utm_*".to_owned()];
        }
    };
    let sorted = vec![ask("/x?b=2&utm_x=1&a=1").saw("GET /x?a=1&b=2 "), ask("/x?a=1&b=2&utm_y=3").stored(0)];
    check_with(vec![("sorted", sorted)], rules(atoll_proxy::Query::Sort)).await;
    let dropped = vec![ask("/x?b=2").saw("GET /x "), ask("/x?a=1").stored(0)];
    check_with(vec![("dropped", dropped)], rules(atoll_proxy::Query::Drop)).await;
}

// C02, C03
#[tokio::test]
async fn nothing_that_is_not_in_the_key_says_where_or_how_a_request_was_made() {
    let tricks = [
        "X-Forwarded-Host: evil",
        "X-Forwarded-Port: 1",
        "X-Forwarded-Proto: evil",
        "Forwarded: host=evil",
        "X-Original-URL: /evil",
        "X-Rewrite-URL: /evil",
        "X-HTTP-Method-Override: DELETE",
        "X-Forwarded-For: evil",
    ];
    check(vec![
        ("tricks", vec![get(&[HOUR]).with(&tricks).unseen("evil").unseen("delete").saw("x-forwarded-for: 127.0.0.1")]),
        (
            "an error keeps the good copy",
            vec![
                get(&[MINUTE, STALE]),
                get(&[HOUR]).status("500 X").stored(0),
                get(&[]).status("400 Bad").gets(400),
                get(&[HOUR]).status("404 Gone"),
                // For half a minute at most.
                get(&[]).stored(3),
            ],
        ),
    ])
    .await;
    let refused = |status| {
        vec![
            get(&[MINUTE, STALE, "ETag: \"a\""]),
            get(&[HOUR]).status(status),
            get(&[HOUR]).status("304 X").saw("If-None-Match: \"a\"").gets(200).given("0123456789"),
        ]
    };
    let statuses = ["400 X", "403 X", "404 X", "410 X", "414 X", "431 X"];
    // Nothing is repeated: what is seen is what is stored.
    check_with(statuses.map(|status| (status, refused(status))).to_vec(), |config| {
        config.freshness.negative_most = Duration::ZERO;
    })
    .await;
}
