//! Request heads on raw sockets: rows H01, H02, H05-H09 and what surrounds them.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Origin, alone, config, config_for, exchange, get, noise, ok, soon, until};

/// Each head, with `{H}` for a good host, must get this status and the connection must close.
async fn check(rows: &[(&str, u16)]) {
    let origin = Origin::with_body(noise(10)).await;
    let proxy = alone(config_for(&origin)).await;
    for (head, status) in rows {
        let head = head.replace("{H}", &origin.host());
        // Bytes over 0x7f are written as their Latin-1 characters.
        let bytes: Vec<u8> = head.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        let answer = exchange(proxy.local_addrs()[0], &bytes).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{head:?} got {text:?}");
        assert!(text.contains("Connection: close") || text.contains("connection: close"), "{head:?}");
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{head:?}");
    }
    assert_eq!(origin.count(), 0, "something was forwarded");
}

#[tokio::test]
async fn h01_content_length_beside_transfer_encoding_is_refused() {
    check(&[
        ("GET / HTTP/1.1\r\nHost: {H}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {H}\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ])
    .await;
}

#[tokio::test]
async fn h02_content_lengths_that_are_not_one_number_are_refused() {
    let mut rows = vec![
        ("GET / HTTP/1.1\r\nHost: {H}\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: {H}\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello".to_owned(), 400),
    ];
    for value in ["5, 5", "", "+5", "-1", "0x5", "5_0", "18446744073709551616", "5 5", "five"] {
        rows.push((format!("GET / HTTP/1.1\r\nHost: {{H}}\r\nContent-Length: {value}\r\n\r\nhello"), 400));
    }
    // A single good one means a body, and none is taken here.
    for value in ["5", "010"] {
        rows.push((format!("GET / HTTP/1.1\r\nHost: {{H}}\r\nContent-Length: {value}\r\n\r\nhello"), 400));
    }
    let rows: Vec<_> = rows.iter().map(|(head, status)| (head.as_str(), *status)).collect();
    check(&rows).await;
}

#[tokio::test]
async fn transfer_codings_are_refused_in_every_spelling() {
    let mut rows = Vec::new();
    for value in [
        ",chunked",
        "chunked, identity",
        "\u{b}chunked",
        "\u{a0}chunked",
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked",
    ] {
        rows.push((format!("GET / HTTP/1.1\r\nHost: {{H}}\r\nTransfer-Encoding: {value}\r\n\r\n"), 400));
    }
    rows.push(("GET / HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: xchunked\r\n\r\n".to_owned(), 501));
    rows.push(("GET / HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding : chunked\r\n\r\n".to_owned(), 400));
    rows.push(("GET / HTTP/1.0\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), 400));
    let rows: Vec<_> = rows.iter().map(|(head, status)| (head.as_str(), *status)).collect();
    check(&rows).await;
}

#[tokio::test]
async fn h05_bytes_that_may_not_be_in_a_head_are_refused() {
    check(&[
        ("GET / HTTP/1.1\r\nHost: {H}\r\nX: a\0b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {H}\r\nX: a\rb\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {H}\r\nX: a\u{80}\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {H}\r\nX\u{e9}: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {H}\r\nX\0: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {H}\r\nX : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {H}\r\nno colon\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {H}\r\n: empty name\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n Host: {H}\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {H}\r\nX: a\r\n folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: {H}\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: {H}\nX: y\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {H}\r\n\r\rX", 400),
    ])
    .await;
}

#[tokio::test]
async fn h06_request_lines_that_are_not_three_parts_are_refused() {
    check(&[
        ("GET  / HTTP/1.1\r\nHost: {H}\r\n\r\n", 400),
        ("GET /  HTTP/1.1\r\nHost: {H}\r\n\r\n", 400),
        ("GET\t/ HTTP/1.1\r\nHost: {H}\r\n\r\n", 400),
        ("GET /\nHTTP/1.1\r\nHost: {H}\r\n\r\n", 400),
        ("GET / HTTP/1.32\r\nHost: {H}\r\n\r\n", 400),
        ("GET / HTTP/256.1\r\nHost: {H}\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: {H}\r\n\r\n", 505),
        ("GET / HTTP/1.2\r\nHost: {H}\r\n\r\n", 505),
        ("G=\":<> / HTTP/1.1\r\nHost: {H}\r\n\r\n", 400),
        ("GET /\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n", 505),
        ("GET /a#b HTTP/1.1\r\nHost: {H}\r\n\r\n", 400),
        ("GET /\u{e9} HTTP/1.1\r\nHost: {H}\r\n\r\n", 400),
        ("GET /<script> HTTP/1.1\r\nHost: {H}\r\n\r\n", 400),
        ("GET http://{H}/?a=\"<b> HTTP/1.1\r\nHost: {H}\r\n\r\n", 400),
    ])
    .await;
}

#[tokio::test]
async fn h07_the_target_s_authority_and_host_must_agree() {
    check(&[
        ("GET http://{H}/ HTTP/1.1\r\nHost: b.test.nyud.example\r\n\r\n", 400),
        ("GET http://{H}:81/ HTTP/1.1\r\nHost: {H}\r\n\r\n", 400),
        ("GET https://{H}/ HTTP/1.1\r\nHost: {H}\r\n\r\n", 400),
        ("GET {H} HTTP/1.1\r\nHost: {H}\r\n\r\n", 400),
        ("GET {H}:80 HTTP/1.1\r\nHost: {H}\r\n\r\n", 400),
        ("GET * HTTP/1.1\r\nHost: {H}\r\n\r\n", 400),
        ("GET http://user@{H}/ HTTP/1.1\r\nHost: {H}\r\n\r\n", 400),
        ("GET http:/// HTTP/1.1\r\nHost: {H}\r\n\r\n", 400),
    ])
    .await;
}

#[tokio::test]
async fn h07_an_absolute_target_that_agrees_is_the_same_object() {
    let origin = Origin::with_body(noise(10)).await;
    let proxy = alone(config_for(&origin)).await;
    let host = origin.host();
    let request = format!("GET http://{}/x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n", host.to_uppercase());
    assert!(exchange(proxy.local_addrs()[0], request.as_bytes()).await.starts_with(b"HTTP/1.1 200 "));
    assert!(get(&proxy, &host, "/x").await.cache_status().contains("hit"));
    let head = &origin.heads()[0];
    assert!(head.starts_with("GET /x HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: site.test:{}\r\n", origin.address.port())), "{head}");
}

#[tokio::test]
async fn h08_hosts_that_are_not_one_name_are_refused() {
    let long = format!("GET / HTTP/1.1\r\nHost: {}nyud.example\r\n\r\n", "a.".repeat(130));
    check(&[
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {H}\r\nHost: {H}\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {H}, {H}\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: user@{H}\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {H}:0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {H}:99999\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: {H}/x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: b\u{fc}cher.nyud.example\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: \r\n\r\n", 400),
        (long.as_str(), 400),
    ])
    .await;
}

#[tokio::test]
async fn h08_spellings_of_one_authority_are_one_object() {
    let origin = Origin::with_body(noise(10)).await;
    let proxy = alone(config_for(&origin)).await;
    let host = origin.host();
    for spelling in [host.clone(), host.to_uppercase(), format!("{host}."), format!("{host}:80"), format!("{host}:")] {
        assert_eq!(get(&proxy, &spelling, "/").await.status, 200, "{spelling}");
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn h09_only_get_and_head_are_served() {
    check(&[
        ("POST / HTTP/1.1\r\nHost: {H}\r\nContent-Length: 3\r\n\r\nabc", 405),
        ("POST / HTTP/1.1\r\nHost: {H}\r\n\r\n", 405),
        ("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", 405),
        ("TRACE / HTTP/1.1\r\nHost: {H}\r\n\r\n", 405),
        ("OPTIONS * HTTP/1.1\r\nHost: {H}\r\n\r\n", 405),
        ("PURGE / HTTP/1.1\r\nHost: {H}\r\n\r\n", 405),
        ("DELETE / HTTP/1.1\r\nHost: {H}\r\n\r\n", 405),
        ("QUERY / HTTP/1.1\r\nHost: {H}\r\n\r\n", 501),
        ("get / HTTP/1.1\r\nHost: {H}\r\n\r\n", 501),
    ])
    .await;
}

#[tokio::test]
async fn sizes_are_bounded() {
    let target = format!("GET /{} HTTP/1.1\r\nHost: {{H}}\r\n\r\n", "a".repeat(64 << 10));
    let field = format!("GET / HTTP/1.1\r\nHost: {{H}}\r\nX: {}\r\n\r\n", "a".repeat(64 << 10));
    let fields = format!("GET / HTTP/1.1\r\nHost: {{H}}\r\n{}\r\n", "X: y\r\n".repeat(500));
    // Above what most origins take [bad-inputs C03].
    let large = format!("GET / HTTP/1.1\r\nHost: {{H}}\r\nCookie: {}\r\n\r\n", "a".repeat(9_000));
    check(&[(target.as_str(), 414), (field.as_str(), 431), (fields.as_str(), 431), (large.as_str(), 431)]).await;
}

#[tokio::test]
async fn every_head_of_a_connection_is_judged_and_those_before_a_bad_one_are_answered() {
    let origin = Origin::with_body(noise(10)).await;
    let proxy = alone(config_for(&origin)).await;
    let good = format!("GET /a HTTP/1.1\r\nHost: {}\r\n\r\n", origin.host());
    let answer =
        exchange(proxy.local_addrs()[0], format!("{good}\r\n{good}{good}GET / HTTP/1.1\nHost: x\n\n{good}").as_bytes())
            .await;
    let text = String::from_utf8_lossy(&answer);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3, "{text}");
    assert_eq!(text.matches("HTTP/1.1 400 ").count(), 1, "{text}");
    assert_eq!(origin.count(), 1);
}

// H10: what follows is a request to us, whatever the first wanted to become.
#[tokio::test]
async fn an_upgrade_is_ignored_and_not_passed_on() {
    let origin = Origin::with_body(noise(10)).await;
    let proxy = alone(config_for(&origin)).await;
    let host = origin.host();
    let two = format!(
        "GET /a HTTP/1.1\r\nHost: {host}\r\nConnection: upgrade, x-foo\r\nX-Foo: 1\r\nUpgrade: x\r\n\r\nGET /b HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    );
    let answer = exchange(proxy.local_addrs()[0], two.as_bytes()).await;
    assert_eq!(String::from_utf8_lossy(&answer).matches("HTTP/1.1 200 OK").count(), 2);
    let heads = origin.heads().join("").to_ascii_lowercase();
    assert!(!heads.contains("upgrade") && !heads.contains("x-foo"), "{heads}");
}

// H13: the deadline runs from accept.
#[tokio::test]
async fn heads_that_do_not_come_are_not_waited_for() {
    let mut config = config();
    config.timeouts.head = Duration::from_millis(150);
    config.timeouts.keep_alive = Duration::from_millis(150);
    let proxy = alone(config).await;
    assert_eq!(exchange(proxy.local_addrs()[0], b"").await, b"");
    let partial = exchange(proxy.local_addrs()[0], b"GET / HTT").await;
    assert!(partial.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&partial));
    let second = exchange(
        proxy.local_addrs()[0],
        b"GET /.well-known/atoll/health HTTP/1.1\r\nHost: x.test\r\n\r\nGET / HTTP/1.1\r\nHost",
    )
    .await;
    let text = String::from_utf8_lossy(&second);
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("HTTP/1.1 408 "), "{text}");
}

#[tokio::test]
async fn connections_have_ceilings_and_places_come_back() {
    let mut config = config();
    config.limits.connections_per_client = 2;
    config.limits.connections_exempt.clear();
    let proxy = alone(config).await;
    let address = proxy.local_addrs()[0];
    let one = TcpStream::connect(address).await.unwrap();
    let two = TcpStream::connect(address).await.unwrap();
    until(|| proxy.stats().connections == 2).await;
    assert!(exchange(address, b"").await.starts_with(b"HTTP/1.1 503 "));
    drop((one, two));
    until(|| proxy.stats().connections == 0).await;
    assert_eq!(get(&proxy, "x.test", "/.well-known/atoll/health").await.status, 200);
}

#[tokio::test]
async fn who_is_exempt_from_the_ceiling_of_one_client_is_held_to_that_of_all() {
    let mut config = config();
    config.limits.connections_per_client = 1;
    config.limits.connections = 3;
    let proxy = alone(config).await;
    let address = proxy.local_addrs()[0];
    let mut held = Vec::new();
    for count in 1..=3 {
        held.push(TcpStream::connect(address).await.unwrap());
        until(|| proxy.stats().connections == count).await;
    }
    assert!(exchange(address, b"").await.starts_with(b"HTTP/1.1 503 "));
}

// H14: a client that takes nothing is let go, and holds up nobody.
#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_off() {
    let body = noise(16 << 20);
    let served = body.clone();
    let origin = Origin::start(move |_, _| ok("Cache-Control: max-age=60\r\n", &served)).await;
    let mut config = config_for(&origin);
    config.timeouts.send = Duration::from_millis(200);
    let proxy = alone(config).await;
    let mut stuck = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
    stuck.write_all(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", origin.host()).as_bytes()).await.unwrap();
    assert_eq!(get(&proxy, &origin.host(), "/").await.body, body);
    until(|| proxy.stats().connections == 0).await;
    let mut rest = Vec::new();
    let _ = soon(stuck.read_to_end(&mut rest)).await;
    assert!(rest.len() < body.len());
}
