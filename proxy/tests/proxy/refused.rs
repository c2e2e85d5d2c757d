//! What is refused at the door, by the hundred: every spelling of a body's framing that somebody might read in another way (H03), heads
//! out of all proportion (H15), and the line that each refusal leaves in the access log.

use std::{path::Path, sync::Arc, time::Duration};

use atoll_proxy::{AccessFormat, Proxy};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
};

use crate::support::{Origin, alone, config_for, config_site, exchange, get, get_with, noise, ok, soon, until};

/// Bytes that parsers are known to disagree about.
const ODD: [u8; 13] = [0x01, 0x04, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x1f, 0x20, 0x7f, 0xa0, 0xff];

/// Places where one of them makes another field, or another value, of a Transfer-Encoding; `~` stands for it.
const PLACES: [&str; 10] = [
    "~Transfer-Encoding: chunked",
    "Transfer-Encoding~: chunked",
    "Transfer-Encoding:~chunked",
    "Transfer-Encoding: chunked~",
    "X: X~Transfer-Encoding: chunked",
    "Transfer-Encoding: chunked~X: X",
    "X: X\r~Transfer-Encoding: chunked",
    "X: X~\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r~X: X",
    "Transfer-Encoding: chunked~\nX: X",
];

/// Spellings that no single byte makes.
const SPELLINGS: [&str; 24] = [
    "Transfer-Encoding: chunked",
    "TRANSFER-ENCODING: CHUNKED",
    "tRANSFER-eNCODING: cHUNKED",
    "Transfer-Encoding:  chunked",
    "Transfer-Encoding\t:\tchunked",
    "Transfer Encoding: chunked",
    "Transfer_Encoding: chunked",
    "TRANSFER_ENCODING: chunked",
    "Transfer-Encoding:chunked, cow",
    "Transfer-Encoding: cow, chunked",
    "Transfer-Encoding: cow chunked bar",
    "Transfer-Encoding: chunk",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding: 'chunked'",
    "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding: chunked;",
    "Transfer-Encoding: ,chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding:",
    "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
    "Transfer-Encoding:\n chunked",
    "Transfer-Encoding:\r\n chunked",
];

// H03: beside a Content-Length, which is how smugglers send them, on a site that takes bodies.
#[tokio::test]
async fn every_way_to_hide_a_transfer_encoding_is_refused() {
    let origin = Origin::with_body(noise(10)).await;
    let proxy = alone(config_site(&origin)).await;
    let mut lines: Vec<Vec<u8>> = SPELLINGS.iter().map(|line| line.as_bytes().to_vec()).collect();
    for place in PLACES {
        for odd in ODD {
            // A space or tab between two words of a value is just that, to everybody.
            if place == "X: X~Transfer-Encoding: chunked" && matches!(odd, b' ' | b'\t') {
                continue;
            }
            let (before, after) = place.split_once('~').unwrap();
            lines.push([before.as_bytes(), &[odd], after.as_bytes()].concat());
        }
    }
    assert!(lines.len() > 150);
    let (smuggled, body) = ("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", "0\r\n\r\n");
    for line in lines {
        for first in [true, false] {
            let (length, host) = (format!("Content-Length: {}\r\n", body.len()), "Host: a\r\n");
            let (one, other) = if first { (host, length.as_str()) } else { (length.as_str(), host) };
            let head = [b"POST / HTTP/1.1\r\n", one.as_bytes(), &line, b"\r\n", other.as_bytes(), b"\r\n"].concat();
            let answer =
                exchange(proxy.local_addrs()[0], &[&head, body.as_bytes(), smuggled.as_bytes()].concat()).await;
            let (text, line) = (String::from_utf8_lossy(&answer), String::from_utf8_lossy(&line));
            assert!(text.starts_with("HTTP/1.1 400 ") || text.starts_with("HTTP/1.1 501 "), "{line:?} got {text}");
            assert!(text.to_ascii_lowercase().contains("connection: close\r\n"), "{line:?}");
            assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{line:?} got {text}");
        }
    }
    assert_eq!(origin.count(), 0, "{:?}", origin.heads());
}

// The same of the other field that says where a body ends, and of the one that says whose it is.
#[tokio::test]
async fn names_that_only_look_like_those_that_count_are_refused() {
    let origin = Origin::with_body(noise(10)).await;
    let proxy = alone(config_site(&origin)).await;
    for line in ["Content_Length: 5", "CONTENT_LENGTH: 0", "Content-Length : 5", "Transfer_Encoding: identity"] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
        let text = String::from_utf8_lossy(&exchange(proxy.local_addrs()[0], request.as_bytes()).await).into_owned();
        assert!(text.starts_with("HTTP/1.1 400 "), "{line} got {text}");
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(get_with(&proxy, "GET", "a", "/", "X_Y: z\r\n").await.status, 200, "others may have one");
}

// H04: pieces of a byte are passed on as they come, and none is kept: of the release build 4 us of CPU each.
#[tokio::test]
async fn a_body_of_many_small_chunks_goes_through_and_one_of_long_extensions_does_not() {
    let origin = Origin::start(|_, _| ok("Cache-Control: no-store\r\n", &Bytes::from_static(b"taken"))).await;
    let proxy = alone(config_site(&origin)).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let small = format!("{head}{}0\r\n\r\n", "1\r\na\r\n".repeat(10_000));
    let answer = exchange(proxy.local_addrs()[0], small.as_bytes()).await;
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    until(|| proxy.stats().connections == 0).await;
    let long = format!("{head}5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(1 << 20));
    let answer = exchange(proxy.local_addrs()[0], long.as_bytes()).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    until(|| proxy.stats().connections == 0).await;
}

// H15
#[tokio::test]
async fn heads_out_of_all_proportion_are_refused_and_long_paths_within_it_are_not() {
    let origin = Origin::with_body(noise(10)).await;
    let proxy = alone(config_for(&origin)).await;
    let host = origin.host();
    for (name, lines, status) in [
        ("10,000 fields", "X: y\r\n".repeat(10_000), 431),
        ("a field of 1 MB", format!("X: {}\r\n", "a".repeat(1 << 20)), 431),
        ("a name of 1 MB", format!("{}: x\r\n", "a".repeat(1 << 20)), 431),
        ("10,000 cookies", "Cookie: a=b\r\n".repeat(10_000), 431),
        ("10,000 cookies in a line", format!("Cookie: {}\r\n", "a=b; ".repeat(10_000)), 431),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n");
        let answer = exchange(proxy.local_addrs()[0], request.as_bytes()).await;
        assert!(answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{name}");
    }
    for (path, status) in
        [(format!("/{}", "a".repeat(64 << 10)), 414), ("/%2f".repeat(16 << 10), 414), ("/a".repeat(2_000), 200)]
    {
        assert_eq!(get(&proxy, &host, &path).await.status, status, "{}", path.len());
    }
    assert_eq!(origin.count(), 1);
    assert!(origin.heads()[0].starts_with(&format!("GET {} HTTP/1.1\r\n", "/a".repeat(2_000))));
}

/// What is asked, and the status that the log must have for it.
const ASKED: [(&str, u16); 13] = [
    ("GET /bad\x01 HTTP/1.1\r\nHost: {H}\r\nUser-Agent: curious\r\n\r\n", 400),
    ("\x16\x03\x01\x02\x00 nobody's protocol\r\n\r\n", 400),
    ("GET /fold HTTP/1.1\r\nHost: {H}\r\nUser-Agent: curious\r\nX : y\r\n\r\n", 400),
    ("POST /post HTTP/1.1\r\nHost: {H}\r\n\r\n", 405),
    ("TRACE /trace HTTP/1.1\r\nHost: {H}\r\n\r\n", 405),
    ("GET /slow HTTP/1.1\r\nHost: {H}\r\n", 408),
    ("GET /{LONG} HTTP/1.1\r\nHost: {H}\r\n\r\n", 414),
    ("GET /expect HTTP/1.1\r\nHost: {H}\r\nExpect: miracles\r\n\r\n", 417),
    ("GET /foreign HTTP/1.1\r\nHost: elsewhere.test\r\nConnection: close\r\n\r\n", 421),
    ("GET /large HTTP/1.1\r\nHost: {H}\r\nX: {LONG}{LONG}{LONG}\r\n\r\n", 431),
    ("GET /down HTTP/1.1\r\nHost: {H}\r\nConnection: close\r\n\r\n", 451),
    ("BREW /pot HTTP/1.1\r\nHost: {H}\r\n\r\n", 501),
    ("GET /old HTTP/3.0\r\nHost: {H}\r\n\r\n", 505),
];

fn lines(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The status that a line gives.
fn status_of(format: AccessFormat, line: &str) -> Option<u16> {
    match format {
        AccessFormat::Json => {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["status"].as_u64()?.try_into().ok()
        }
        AccessFormat::Clf => line.split("\" ").nth(1)?.split(' ').next()?.parse().ok(),
        AccessFormat::W3c => line.split(' ').nth(6)?.parse().ok(),
    }
}

#[tokio::test]
async fn every_refusal_is_a_line_in_the_access_log_in_every_format() {
    let origin = Origin::with_body(Bytes::from_static(b"hello")).await;
    let folder = tempfile::tempdir().unwrap();
    let takedown = folder.path().join("takedown");
    std::fs::write(&takedown, "site.test/down\n").unwrap();
    for format in [AccessFormat::Json, AccessFormat::Clf, AccessFormat::W3c] {
        let file = folder.path().join(format!("{format:?}.log"));
        let mut config = config_for(&origin);
        config.access_log.file = Some(file.clone());
        config.access_log.format = format;
        config.takedown = Some(takedown.clone());
        // Only one row is about time; the others have enough of it on a busy machine too.
        let mut hasty = config.clone();
        hasty.timeouts.head = Duration::from_millis(300);
        let (proxy, hasty) = (alone(config).await, alone(hasty).await);
        for (asked, status) in ASKED {
            let bytes = asked.replace("{H}", &origin.host()).replace("{LONG}", &"a".repeat(17 << 10));
            let to = if status == 408 { &hasty } else { &proxy };
            let answer = exchange(to.local_addrs()[0], bytes.as_bytes()).await;
            let start: String = bytes.chars().take(40).collect();
            assert!(
                answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()),
                "{start:?} {}",
                String::from_utf8_lossy(&answer)
            );
            // Each is there before the next is asked, so that their order tells which is which.
            let logged = || {
                lines(&file)
                    .last()
                    .is_some_and(|line| !line.starts_with('#') && status_of(format, line) == Some(status))
            };
            until(logged).await;
        }
        let own: Vec<_> = lines(&file).into_iter().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(own.len(), ASKED.len(), "{own:#?}");
        for ((asked, _), line) in ASKED.iter().zip(&own) {
            assert!(line.contains("127.0.0.1") && line.is_ascii() && !line.chars().any(char::is_control), "{line}");
            // What could be read of the request is said.
            let target =
                asked.split(' ').nth(1).filter(|target| target.starts_with('/') && !target.contains(['{', '\x01']));
            if let Some(target) = target {
                assert!(line.contains(target), "{target}: {line}");
            }
            let agent = asked.contains("curious") && !asked.contains('\x01');
            assert!(!agent || line.contains("curious"), "{line}");
        }
    }
}

// The ceilings, and HTTP/2.
#[tokio::test]
async fn what_is_turned_away_for_want_of_room_or_by_the_other_version_is_logged_too() {
    let gate = Arc::new(Semaphore::new(0));
    let origin = Origin::behind(&gate, "Cache-Control: max-age=60\r\n", b"x").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let mut config = config_site(&origin);
    config.access_log.file = Some(file.clone());
    config.limits.requests = 1;
    config.limits.connections_per_client = 2;
    config.limits.connections_exempt.clear();
    let proxy = Arc::new(alone(config).await);
    let logged = |status: u16, has: &'static str| {
        let file = file.clone();
        move || {
            lines(&file).iter().any(|line| status_of(AccessFormat::Json, line) == Some(status) && line.contains(has))
        }
    };
    let asking = Arc::clone(&proxy);
    let first = tokio::spawn(async move { get(&asking, "any.test", "/held").await });
    until(|| origin.count() == 1).await;
    assert_eq!(get(&proxy, "any.test", "/busy").await.status, 503);
    until(logged(503, "/busy")).await;
    until(|| proxy.stats().connections == 1).await;
    let second = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
    until(|| proxy.stats().connections == 2).await;
    assert!(exchange(proxy.local_addrs()[0], b"").await.starts_with(b"HTTP/1.1 503 "));
    until(logged(503, "\"method\":\"-\"")).await;
    drop(second);
    gate.add_permits(10);
    assert_eq!(soon(first).await.unwrap().status, 200);
    refused_in_two(&proxy).await;
    until(logged(417, "\"version\":\"HTTP/2.0\"")).await;
}

/// Asks by HTTP/2 what the gate does not let pass.
async fn refused_in_two(proxy: &Proxy) {
    use crate::two::{GET, block, frame};
    let fields = [&GET[..], &[("expect", "miracles")]].concat();
    let mut stream = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
    let bytes =
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..], &frame(1, 5, 1, &block(&fields))].concat();
    stream.write_all(&bytes).await.unwrap();
    // Its own SETTINGS, then the answer's head: nothing is read after that.
    let mut said = Vec::new();
    soon(async {
        while !said.windows(9).any(|it| it[3] == 1 && it[5..] == [0, 0, 0, 1]) {
            assert!(stream.read_buf(&mut said).await.unwrap() > 0, "it ended");
        }
    })
    .await;
}
