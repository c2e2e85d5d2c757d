//! RFC 9111 3, 4.1, 4.3, 4.4 and RFC 9110 13-15 as conversations: what of an answer is stored and sent again, variants, validation,
//! parts, what makes stored answers invalid.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
};

use crate::{
    script::{Ask, check, check_with, get},
    support::{Do, Origin, Response, SOON, alone, config_site, get as get_from, get_with, noise, ok, soon, until},
};

const HOUR: &str = "Cache-Control: max-age=3600";
const MINUTE: &str = "Cache-Control: max-age=60";
const STALE: &str = "Age: 120";
const OLD: &str = "Last-Modified: Wed, 18 Aug 2010 02:01:18 GMT";

#[tokio::test]
async fn variants_are_selected_by_what_their_fields_mean() {
    let foo = |value: &'static str| get(&[HOUR, "Vary: Foo"]).with(&[value]);
    let two = |fields: &[&str]| get(&[HOUR, "Vary: Foo, Bar"]).with(fields);
    let lang = |value: &'static str| get(&[HOUR, "Vary: Accept-Language"]).with(&[value]);
    check(vec![
        ("match", vec![foo("Foo: 1"), foo("Foo: 1").stored(0)]),
        ("other", vec![foo("Foo: 1"), foo("Foo: 2")]),
        ("omitted", vec![foo("Foo: 1"), get(&[HOUR, "Vary: Foo"])]),
        ("added", vec![get(&[HOUR, "Vary: Foo"]), foo("Foo: 1")]),
        ("both kept", vec![foo("Foo: 1"), foo("Foo: 2"), foo("Foo: 1").stored(0), foo("Foo: 2").stored(1)]),
        ("spaces", vec![foo("Foo: 1,2"), foo("Foo: 1 , 2").stored(0)]),
        ("lines are a list", vec![foo("Foo: 1, 2"), get(&[HOUR, "Vary: Foo"]).with(&["Foo: 1", "Foo: 2"]).stored(0)]),
        ("two", vec![two(&["Foo: 1", "Bar: a"]), two(&["Bar: a", "Foo: 1"]).stored(0)]),
        ("two, one other", vec![two(&["Foo: 1", "Bar: a"]), two(&["Foo: 1", "Bar: b"])]),
        ("two, one omitted", vec![two(&["Foo: 1", "Bar: a"]), two(&["Foo: 1"])]),
        ("languages in another case", vec![lang("Accept-Language: en, de"), lang("Accept-Language: eN, De").stored(0)]),
        (
            "languages by their weights",
            vec![lang("Accept-Language: en, de;q=0.5"), lang("Accept-Language: de; q=0.50, EN;q=1").stored(0)],
        ),
        (
            "languages of other weights",
            vec![lang("Accept-Language: en, de;q=0.5"), lang("Accept-Language: de, en;q=0.5")],
        ),
        ("languages in another order", vec![lang("Accept-Language: en, de"), lang("Accept-Language: de,en").stored(0)]),
        ("empty", vec![get(&[HOUR, "Vary: "]), get(&[HOUR]).stored(0)]),
    ])
    .await;
}

// C06
#[tokio::test]
async fn variants_of_one_url_are_bounded_and_the_oldest_goes() {
    let of = |value: usize| get(&[HOUR, "Vary: Foo"]).with(&[format!("Foo: {value}").as_str()]);
    let mut asks: Vec<_> = (0..5).map(of).collect();
    asks.push(of(4).stored(4));
    asks.push(of(1).stored(1));
    asks.push(of(0));
    check_with(vec![("five where four may be", asks)], |config| config.limits.variants = 4).await;
}

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

// RFC 9111 4.4
#[tokio::test]
async fn unsafe_methods_make_stored_answers_invalid_unless_they_fail() {
    let mut cases = Vec::new();
    for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"] {
        let change = || get(&[]).method(method).with(&["Content-Length: 0"]).saw(method);
        cases.push((method, vec![get(&[HOUR]), change(), get(&[HOUR]), get(&[HOUR]).stored(2)]));
        cases.push((method, vec![get(&[HOUR]), change().status("500 X"), get(&[HOUR]).stored(0)]));
    }
    for method in ["OPTIONS", "QUERY", "PROPFIND"] {
        cases.push((method, vec![get(&[HOUR]), get(&[HOUR]).method(method), get(&[HOUR]).stored(0)]));
    }
    for field in ["Location: /y", "Content-Location: y", "Content-Location: ./y"] {
        let change = get(&[field]).method("POST").with(&["Content-Length: 0"]);
        cases.push((field, vec![get(&[HOUR]).path("/y"), change, get(&[HOUR]).path("/y")]));
    }
    let elsewhere = get(&["Location: http://other.test/y"]).method("POST").with(&["Content-Length: 0"]);
    cases.push(("elsewhere", vec![get(&[HOUR]).path("/y"), elsewhere, get(&[HOUR]).path("/y").stored(0)]));
    let foo = |value: &'static str| get(&[HOUR, "Vary: Foo"]).with(&[value]);
    cases.push((
        "all variants",
        vec![
            foo("Foo: 1"),
            foo("Foo: 2"),
            get(&[]).method("DELETE"),
            foo("Foo: 1"),
            foo("Foo: 2"),
            foo("Foo: 1").stored(3),
        ],
    ));
    check(cases).await;
}

// RFC 9111 4.4: also variants that nobody lists any more.
#[tokio::test]
async fn no_variant_outlives_an_unsafe_method_whatever_is_remembered_of_it() {
    let foo = |value: &'static str| get(&[HOUR, "Vary: Foo"]).with(&[value]);
    check(vec![
        (
            "its list was another's meanwhile",
            vec![
                foo("Foo: 1"),
                get(&[HOUR, "Vary: Bar"]).with(&["Foo: 2", "Bar: 1"]),
                get(&[]).method("DELETE"),
                foo("Foo: 3"),
                foo("Foo: 1"),
            ],
        ),
        (
            "its answer did not say what it varies by",
            vec![
                foo("Foo: 1"),
                get(&[HOUR]).with(&["Foo: 2"]),
                get(&[HOUR]).with(&["Foo: 2"]).stored(1),
                get(&[]).method("POST").with(&["Content-Length: 0"]),
                foo("Foo: 3"),
                foo("Foo: 2"),
                foo("Foo: 1"),
                foo("Foo: 2").stored(5),
            ],
        ),
    ])
    .await;
}

// RFC 9111 4.4: what is asked for before the method is answered after it.
#[tokio::test]
async fn a_variant_that_is_being_fetched_is_overtaken_by_an_unsafe_method() {
    for personal in ["", "Authorization: x\r\n"] {
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let origin = Origin::start(move |number, _| {
            let fields = "Cache-Control: max-age=60, public\r\nVary: Foo\r\n";
            let mut steps = ok(fields, &Bytes::from(number.to_string()));
            if number == 1 {
                steps.insert(0, Do::Wait(Arc::clone(&held)));
            }
            steps
        })
        .await;
        let proxy = Arc::new(alone(config_site(&origin)).await);
        assert_eq!(get_with(&proxy, "GET", "a", "/x", "Foo: 1\r\n").await.body, b"0");
        until(|| proxy.stats().flights == 0).await;
        let slow = tokio::spawn({
            let (proxy, fields) = (Arc::clone(&proxy), format!("Foo: 2\r\n{personal}"));
            async move { get_with(&proxy, "GET", "a", "/x", &fields).await.body }
        });
        until(|| origin.count() == 2).await;
        assert_eq!(get_with(&proxy, "DELETE", "a", "/x", "").await.body, b"2");
        gate.add_permits(1);
        assert_eq!(soon(slow).await.unwrap(), b"1", "who asked before gets what was so before");
        assert_eq!(get_with(&proxy, "GET", "a", "/x", "Foo: 2\r\n").await.body, b"3");
    }
}

#[tokio::test]
async fn variants_that_come_at_once_are_all_kept() {
    let gate = Arc::new(Semaphore::new(0));
    let origin = Origin::behind(&gate, "Cache-Control: max-age=60\r\nVary: Foo\r\n", b"x").await;
    let proxy = Arc::new(alone(config_site(&origin)).await);
    gate.add_permits(1);
    let ask = |number: usize| {
        let proxy = Arc::clone(&proxy);
        async move { get_with(&proxy, "GET", "a", "/x", &format!("Foo: {number}\r\n")).await.status }
    };
    assert_eq!(ask(0).await, 200);
    let mut clients = tokio::task::JoinSet::new();
    (1..9).for_each(|number| drop(clients.spawn(ask(number))));
    until(|| origin.count() == 9).await;
    gate.add_permits(8);
    while let Some(status) = soon(clients.join_next()).await {
        assert_eq!(status.unwrap(), 200);
    }
    until(|| proxy.stats().flights == 0).await;
    for number in 0..9 {
        assert_eq!(ask(number).await, 200);
    }
    assert_eq!(origin.count(), 9);
}

// C07
#[tokio::test]
async fn a_coding_is_sent_to_those_who_take_it_whatever_the_origin_says_it_varies_by() {
    let gzip = || get(&[HOUR, "Content-Encoding: gzip"]).with(&["Accept-Encoding: gzip"]);
    let plain = |accepts: &'static str| get(&[HOUR]).with(&[accepts]);
    check(vec![
        (
            "gzip first",
            vec![
                gzip(),
                plain("Accept-Encoding: identity"),
                gzip().stored(0),
                plain("X: no Accept-Encoding").stored(1),
                plain("Accept-Encoding: gzip;q=0").stored(1),
                plain("Accept-Encoding: gzip;q=nan").stored(1),
                get(&[HOUR, "Content-Encoding: br"]).with(&["Accept-Encoding: br"]),
            ],
        ),
        ("plain first", vec![plain("Accept-Encoding: br"), gzip().stored(0), plain("X: 1").stored(0)]),
        (
            "a 304 that says of what it varies",
            vec![
                get(&[MINUTE, STALE, "ETag: \"a\""]).with(&["Foo: 1"]),
                get(&[HOUR, "Vary: Foo"]).status("304 X").with(&["Foo: 1"]).gets(200),
                get(&[HOUR, "Vary: Foo"]).with(&["Foo: 2"]),
                get(&[HOUR]).with(&["Foo: 2"]).stored(2),
            ],
        ),
    ])
    .await;
}

// C06
#[tokio::test]
async fn of_too_many_variants_the_one_least_used_goes() {
    let of = |value: &'static str| get(&[HOUR, "Vary: Foo"]).with(&[value]);
    let asks = vec![
        of("Foo: 0"),
        of("Foo: 1"),
        of("Foo: 2"),
        of("Foo: 0").stored(0),
        of("Foo: 2").stored(2),
        of("Foo: 3"),
        of("Foo: 0").stored(0),
        of("Foo: 2").stored(2),
        of("Foo: 1"),
    ];
    check_with(vec![("one is never asked for again", asks)], |config| config.limits.variants = 3).await;
}

// RFC 9110 9.3.3
#[tokio::test]
async fn answers_to_post_are_stored_for_get_only_where_they_say_that_they_are_what_get_would_bring() {
    let post = |fields: &[&str]| get(fields).method("POST").with(&["Content-Length: 0", "If-None-Match: *"]);
    let said = "Content-Location: /x";
    let mut cases = Vec::new();
    for named in ["/x", "x", "./x"] {
        let said = format!("Content-Location: {named}");
        cases
            .push(("said", vec![post(&[HOUR, &said]).given("0123456789"), get(&[HOUR]).stored(0).given("0123456789")]));
    }
    cases.push(("in chunks", vec![post(&[HOUR, said]).chunked(), get(&[HOUR]).stored(0).given("0123456789")]));
    for (name, fields) in [
        ("unsaid", ["X: 1", HOUR]),
        ("another URL", ["Content-Location: /y", HOUR]),
        ("another's URL", ["Content-Location: http://other.test/x", HOUR]),
        ("no freshness", [said, "Last-Modified: Wed, 18 Aug 2010 02:01:18 GMT"]),
        ("private", [said, "Cache-Control: max-age=60, private"]),
        ("varies", [said, "Cache-Control: max-age=60\r\nVary: Foo"]),
    ] {
        cases.push((name, vec![post(&fields), get(&[HOUR])]));
    }
    cases.push(("an error", vec![post(&[HOUR, said]).status("404 X"), get(&[HOUR])]));
    cases.push(("invalid by the next", vec![post(&[HOUR, said]), get(&[]).method("DELETE"), get(&[HOUR])]));
    check(cases).await;
}

// Its client gets all of it, however slow or long it turns out to be, and nobody who asks meanwhile waits for that.
#[tokio::test]
async fn an_answer_to_post_that_is_slow_or_long_holds_nobody_up_and_loses_no_byte() {
    for (first, posted) in [(200_000, Duration::from_millis(50)), (1_200_000, SOON)] {
        let body = noise(1_300_000);
        let gate = Arc::new(Semaphore::new(0));
        let (sent, held) = (body.clone(), Arc::clone(&gate));
        let origin = Origin::start(move |_, head| {
            if head.starts_with("GET ") {
                return ok("Cache-Control: no-store\r\n", &Bytes::from_static(b"got"));
            }
            let chunk = |bytes: &[u8]| {
                let size = format!("{:x}\r\n", bytes.len());
                Do::Send([size.as_bytes(), bytes, b"\r\n"].concat().into())
            };
            let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Location: /x\r\nTransfer-Encoding: chunked\r\n\r\n";
            let wait = Do::Wait(Arc::clone(&held));
            vec![Do::Send(head.into()), chunk(&sent[..first]), wait, chunk(&sent[first..]), Do::Send("0\r\n\r\n".into())]
        })
        .await;
        let mut config = config_site(&origin);
        config.timeouts.posted = posted;
        let proxy = alone(config).await;
        let (host, begun) = (origin.address.to_string(), Arc::new(AtomicBool::new(false)));
        let mut stream = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
        let request = format!("POST /x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let seen = Arc::clone(&begun);
        let client = tokio::spawn(async move {
            let mut answer = vec![0; 1];
            stream.read_exact(&mut answer).await.unwrap();
            seen.store(true, Ordering::SeqCst);
            stream.read_to_end(&mut answer).await.unwrap();
            Response::read(&answer, false)
        });
        // It is being read, or was.
        until(|| proxy.stats().flights == 1 || begun.load(Ordering::SeqCst)).await;
        assert_eq!(get_from(&proxy, &host, "/x").await.body, b"got");
        gate.add_permits(1);
        let response = soon(client).await.unwrap();
        assert!(response.complete && response.body == body, "{} bytes", response.body.len());
        assert_eq!(get_from(&proxy, &host, "/x").await.body, b"got", "what was passed on is not stored");
    }
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
