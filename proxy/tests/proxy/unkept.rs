//! Why an answer was not stored: each one counts once, under the one word that is why (issue 7).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use atoll_overlay::Level;
use atoll_proxy::{Proxy, PurgeTarget};
use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::support::{
    Do, Net, Origin, Response, alone, alone_with, config_for, config_site, get, get_with, noise, ok, raw, soon, until,
};

/// A request to an own site, what the origin answers, and the word.
struct Case {
    word: &'static str,
    method: &'static str,
    asks: &'static str,
    answer: Vec<Do>,
}

fn case(word: &'static str, asks: &'static str, fields: &str) -> Case {
    Case { word, method: "GET", asks, answer: ok(fields, &Bytes::from_static(b"body")) }
}

/// All that can be said once the head is there, and of bodies that do not come as they should.
fn cases() -> Vec<Case> {
    let raw = |word, asks, answer| Case { answer: raw(answer), ..case(word, asks, "") };
    let fresh = "Cache-Control: max-age=60\r\n";
    vec![
        case("no-store", "", "Cache-Control: no-store\r\n"),
        case("private", "", "Cache-Control: private\r\n"),
        case("set-cookie", "", "Set-Cookie: a=b\r\nLast-Modified: Thu, 01 Jan 2015 00:00:00 GMT\r\n"),
        case("cookie", "Cookie: a=b\r\n", "Last-Modified: Thu, 01 Jan 2015 00:00:00 GMT\r\n"),
        case("authorization", "Authorization: Basic eDp5\r\n", fresh),
        case("vary-star", "", "Cache-Control: max-age=60\r\nVary: *\r\n"),
        case("request-no-store", "Cache-Control: no-store\r\n", fresh),
        raw("status", "", "HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n"),
        raw("status", "", "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
        raw(
            "partial",
            "Range: bytes=0-1\r\n",
            "HTTP/1.1 206 Part\r\nCache-Control: max-age=60\r\nContent-Range: noise\r\nContent-Length: 2\r\n\r\nbo",
        ),
        Case { method: "POST", ..case("method", "Content-Length: 0\r\n", fresh) },
        // Announced, and found out only as it comes.
        Case { answer: ok(fresh, &noise(CAP + 1)), ..case("too-large", "", "") },
        Case { answer: chunked(CAP + 1, true), ..case("too-large", "", "") },
        Case { answer: chunked(10, false), ..case("incomplete", "", "") },
        case("digest-mismatch", "", &format!("{fresh}Repr-Digest: sha-256=:{}:\r\n", "A".repeat(43))),
        raw("incomplete", "", "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 9\r\n\r\nshort"),
    ]
}

/// Bytes of the largest object that is taken.
const CAP: usize = 100_000;

/// A body in chunks, with or without its end.
fn chunked(length: usize, whole: bool) -> Vec<Do> {
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = [format!("{length:x}\r\n").as_bytes(), &noise(length), b"\r\n"].concat();
    let mut steps = vec![Do::Send(head.into()), Do::Send(chunk.into())];
    steps.push(if whole { Do::Send(Bytes::from_static(b"0\r\n\r\n")) } else { Do::Close });
    steps
}

fn counted(word: &'static str) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([(word, 1)])
}

#[tokio::test]
async fn every_answer_that_is_not_stored_counts_once_under_its_reason() {
    for (number, Case { word, method, asks, answer }) in cases().into_iter().enumerate() {
        let origin = Origin::start(move |_, _| answer.clone()).await;
        let mut config = config_site(&origin);
        config.limits.object = CAP as u64;
        config.peers.resumes = 0;
        let proxy = alone(config).await;
        let _ = try_get(&proxy, method, asks).await;
        until(|| proxy.stats().flights == 0).await;
        assert_eq!(proxy.stats().not_stored, counted(word), "case {number}");
    }
}

/// What comes back, if it is an answer.
async fn try_get(proxy: &Proxy, method: &str, fields: &str) -> Vec<u8> {
    let request = format!("{method} /x HTTP/1.1\r\nHost: own.test\r\nConnection: close\r\n{fields}\r\n");
    crate::support::exchange(proxy.local_addrs()[0], request.as_bytes()).await
}

#[tokio::test]
async fn what_is_stored_counts_nowhere() {
    let origin = Origin::with_body(noise(10)).await;
    let proxy = alone(config_site(&origin)).await;
    for _ in 0..2 {
        assert_eq!(get(&proxy, "own.test", "/x").await.status, 200);
        until(|| proxy.stats().flights == 0).await;
    }
    assert_eq!((origin.count(), proxy.stats().not_stored), (1, BTreeMap::new()));
}

#[tokio::test]
async fn a_refusal_beside_a_good_copy_counts_as_such() {
    let origin = Origin::start(|number, _| match number {
        0 => ok("Cache-Control: max-age=0\r\nETag: \"1\"\r\n", &Bytes::from_static(b"good")),
        _ => raw("HTTP/1.1 404 No\r\nCache-Control: max-age=60\r\nContent-Length: 0\r\n\r\n"),
    })
    .await;
    let proxy = alone(config_site(&origin)).await;
    for status in [200, 404] {
        assert_eq!(get(&proxy, "own.test", "/x").await.status, status);
        until(|| proxy.stats().flights == 0).await;
    }
    assert_eq!(proxy.stats().not_stored, counted("kept-good"));
}

#[tokio::test]
async fn what_an_unsafe_method_or_a_purge_overtakes_counts_as_such() {
    for word in ["overtaken", "purged", "softly"] {
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let origin = Origin::start(move |number, _| {
            let mut steps = ok("Cache-Control: max-age=60\r\n", &Bytes::from_static(b"body"));
            if number == 0 {
                steps.insert(1, Do::Wait(Arc::clone(&held)));
            }
            steps
        })
        .await;
        let proxy = Arc::new(alone(config_site(&origin)).await);
        let slow = tokio::spawn({
            let proxy = Arc::clone(&proxy);
            async move { get(&proxy, "own.test", "/x").await }
        });
        until(|| origin.count() == 1).await;
        let before = if word == "overtaken" {
            assert_eq!(get_with(&proxy, "DELETE", "own.test", "/x", "").await.status, 200);
            1
        } else {
            let target = PurgeTarget::Url("http://own.test/x".to_owned());
            proxy.purge(target, word == "purged", Duration::ZERO).await.unwrap();
            0
        };
        gate.add_permits(1);
        let answer: Response = soon(slow).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"body"[..]));
        until(|| proxy.stats().flights == 0).await;
        let mut expected = if word == "softly" { BTreeMap::new() } else { counted(word) };
        if before == 1 {
            expected.insert("method", 1);
        }
        assert_eq!(proxy.stats().not_stored, expected);
    }
}

#[tokio::test]
async fn what_has_no_room_counts_as_such() {
    let origin = Origin::with_body(noise(30_000)).await;
    // Half of the memory is for fills.
    let config = atoll_store::Config { memory: atoll_store::ByteSize::mib(2), ..atoll_store::Config::default() };
    let store = atoll_store::Store::open(config).await.unwrap();
    let proxy = alone_with(config_site(&origin), store.clone());
    let head = || atoll_store::Head {
        key: atoll_store::Key::from_bytes([1; 20]),
        directory: 0,
        tags: atoll_store::Tags::default(),
        expires: None,
        metadata: Bytes::new(),
        length: None,
        born: store.purge_number(),
    };
    let mut others = [store.writer(head()).unwrap(), store.writer(head()).unwrap()];
    for other in &mut others {
        other.append(noise((512 << 10) - 500)).await.unwrap();
    }
    let passed = get(&proxy, "own.test", "/x").await;
    assert!(passed.cache_status().ends_with("no-room"), "{}", passed.cache_status());
    assert_eq!(proxy.stats().not_stored, counted("no-room"));
}

/// FIPS 180's digest of "abc".
const ABC: &str = "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:";

// RFC 9530: what an origin says of its body is held against the body, where it says anything. A client checks for itself.
#[tokio::test]
async fn a_body_that_is_not_what_its_digest_says_is_passed_on_and_not_kept() {
    for field in ["Repr-Digest", "Content-Digest"] {
        for (length, chunks) in [(3, false), (3, true), (80_000, false), (80_000, true)] {
            let fields = format!("Cache-Control: max-age=60\r\n{field}: {ABC}\r\n");
            let wrong = noise(length);
            let (right, first) = (Bytes::from_static(b"abc"), wrong.clone());
            let origin = Origin::start(move |number, _| match (number, chunks) {
                (0, true) => in_chunks(&fields, &first),
                (0, false) => ok(&fields, &first),
                _ => ok(&fields, &right),
            })
            .await;
            let proxy = alone(config_site(&origin)).await;
            let got = get(&proxy, "own.test", "/x").await;
            assert_eq!(
                (got.status, got.complete, got.field(&field.to_ascii_lowercase()).as_deref()),
                (200, true, Some(ABC))
            );
            assert_eq!(got.body, wrong, "{field} {length} {chunks}");
            until(|| proxy.stats().flights == 0).await;
            assert_eq!(proxy.stats().not_stored, counted("digest-mismatch"));
            for _ in 0..2 {
                let right = get(&proxy, "own.test", "/x").await;
                assert!(right.complete && right.body == b"abc"[..], "{field}: {}", right.cache_status());
                until(|| proxy.stats().flights == 0).await;
            }
            assert_eq!(origin.count(), 2, "{field}");
        }
    }
}

fn in_chunks(fields: &str, body: &Bytes) -> Vec<Do> {
    let head = format!("HTTP/1.1 200 OK\r\n{fields}Transfer-Encoding: chunked\r\n\r\n");
    let chunk = [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n0\r\n\r\n"].concat();
    vec![Do::Send(head.into()), Do::Send(chunk.into())]
}

// As with any 200 that is not stored.
#[tokio::test]
async fn a_mismatch_leaves_the_stale_copy() {
    let origin = Origin::start(|number, _| {
        let fields =
            format!("Cache-Control: max-age=0, stale-if-error=60\r\nETag: \"{number}\"\r\nRepr-Digest: {ABC}\r\n");
        match number {
            0 => ok(&fields, &Bytes::from_static(b"abc")),
            1 => ok(&fields, &Bytes::from_static(b"abd")),
            _ => raw("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
        }
    })
    .await;
    let proxy = alone(config_site(&origin)).await;
    for body in ["abc", "abd", "abc"] {
        let got = get(&proxy, "own.test", "/x").await;
        assert_eq!((got.status, got.complete, &got.body[..]), (200, true, body.as_bytes()));
        until(|| proxy.stats().flights == 0).await;
    }
    assert_eq!(proxy.stats().not_stored.get("digest-mismatch"), Some(&1));
}

// RFC 9530 3, RFC 9111 4.3.4: a 304's Repr-Digest is that of what a 200 would bring. Its own content is empty (RFC 9530 2).
#[tokio::test]
async fn a_304_with_the_digest_of_something_else_renews_nothing() {
    let sha256 = |byte: &str| format!("Repr-Digest: sha-256=:{}:\r\n", byte.repeat(43));
    let same = format!("Repr-Digest: {ABC}\r\n");
    let by_sha512 = "Repr-Digest: sha-512=:3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qms\
                     lPpUyknw==:\r\n";
    let of_content = format!("Content-Digest: {ABC}\r\n");
    let of_nothing = "Content-Digest: sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:\r\n".to_owned();
    let other_content = sha256("A").replace("Repr", "Content");
    for (stored, said, good) in [
        (&same, &sha256("A"), false),
        (&of_content, &sha256("A"), false),
        (&same, &same, true),
        // There is nothing to hold it against.
        (&String::new(), &sha256("A"), true),
        (&String::new(), &same, true),
        (&same, &by_sha512.to_owned(), true),
        (&same, &other_content, true),
        (&of_content, &of_nothing, true),
    ] {
        let (first, update) = (stored.clone(), said.clone());
        let origin = Origin::start(move |number, head| {
            let fields = |age| format!("Cache-Control: max-age=60, must-revalidate\r\nETag: \"a\"\r\nAge: {age}\r\n");
            match number {
                0 => ok(&(fields(120) + &first), &Bytes::from_static(b"abc")),
                _ if head.to_ascii_lowercase().contains("if-none-match") => {
                    raw(&format!("HTTP/1.1 304 X\r\n{}{update}\r\n", fields(0)))
                }
                _ => ok(&fields(0), &Bytes::from_static(b"new")),
            }
        })
        .await;
        let proxy = alone(config_site(&origin)).await;
        let (body, asked) = if good { ("abc", 2) } else { ("new", 3) };
        for (body, asked) in [("abc", 1), (body, asked), (body, asked)] {
            let got = get(&proxy, "own.test", "/x").await;
            let found = (got.status, String::from_utf8_lossy(&got.body).into_owned(), origin.count());
            assert_eq!(found, (200, body.to_owned(), asked), "{stored}{said}");
            if good && stored.starts_with("Content") {
                assert_eq!(got.field("content-digest").as_deref(), Some(ABC), "of the copy, not of the 304");
            }
            until(|| proxy.stats().flights == 0).await;
        }
    }
}

// A node that streams what another still fetches holds it against the same, also where the rest comes from the origin.
#[tokio::test]
async fn a_mismatch_from_a_peer_is_not_kept_either() {
    for lost in [false, true] {
        let body = noise(2_000_000);
        let gate = Arc::new(Semaphore::new(0));
        let (served, held) = (body.clone(), Arc::clone(&gate));
        let origin = Origin::start(move |number, _| {
            let mut steps = ok(&format!("Cache-Control: max-age=60\r\nRepr-Digest: {ABC}\r\n"), &served);
            if number == 0 {
                steps.truncate(1);
                steps.push(Do::Send(served.slice(..1_000_000)));
                steps.push(Do::Wait(Arc::clone(&held)));
                steps.push(Do::Send(served.slice(1_000_000..)));
            }
            steps
        })
        .await;
        let net = Net::new(Level(1));
        let one = Arc::new(net.proxy(1, config_for(&origin)).await);
        let two = Arc::new(net.proxy(2, config_for(&origin)).await);
        let ask = |proxy: &Arc<Proxy>| {
            let (proxy, host) = (Arc::clone(proxy), origin.host());
            tokio::spawn(async move { get(&proxy, &host, "/").await })
        };
        let _first = ask(&one);
        until(|| one.stats().origin_bytes >= 1_000_000).await;
        let second = ask(&two);
        until(|| two.stats().peer_bytes >= 900_000).await;
        if lost {
            net.kill(1);
            one.stop().await;
        } else {
            gate.add_permits(1);
        }
        let got = soon(second).await.unwrap();
        assert!(got.complete && got.body == body, "wrong bytes");
        until(|| two.stats().flights == 0).await;
        assert_eq!(two.stats().not_stored, counted("digest-mismatch"));
        assert_eq!(origin.count(), if lost { 2 } else { 1 });
    }
}
