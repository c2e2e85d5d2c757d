//! Which origins are reached at all: rows O01-O05, and how slow or broken ones are borne (O06, O07, O09).

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use atoll_proxy::{Config, Origins};
use bytes::Bytes;
use futures::FutureExt as _;
use rcgen::{CertifiedIssuer, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
};

use crate::support::{
    Do, Origin, Response, alone, config, config_any, config_for, get, get_with, ok, raw, refusing, soon, until,
};

// O01, O02: the name leads inside; the listener there must not hear of it.
#[tokio::test]
async fn names_that_lead_inside_are_refused_and_nothing_is_dialled() {
    let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = inside.local_addr().unwrap().port();
    let mut config = config();
    config.allow_ranges.clear();
    let origins = ["metadata.test", "mixed.test", "mapped.test"].map(|host| format!("*.{host}:{port}"));
    config.origins = Origins::Listed(origins.to_vec());
    for (host, addresses) in [
        ("a.metadata.test", vec!["127.0.0.1"]),
        ("a.mixed.test", vec!["9.9.9.9", "127.0.0.1"]),
        ("a.mapped.test", vec!["::ffff:127.0.0.1"]),
    ] {
        config.hosts.insert(host.to_owned(), addresses.iter().map(|address| address.parse().unwrap()).collect());
    }
    let proxy = alone(config).await;
    for host in ["a.metadata.test", "a.mixed.test", "a.mapped.test"] {
        let response = get(&proxy, &format!("{host}.{port}.nyud.example"), "/").await;
        assert_eq!(response.status, 403, "{host}");
        assert_eq!(response.field("proxy-status").as_deref(), Some("atoll; error=destination_ip_prohibited"), "{host}");
    }
    assert!(inside.accept().now_or_never().is_none(), "something was dialled");
}

#[tokio::test]
async fn own_listeners_are_never_origins_even_if_the_range_is_allowed() {
    // Held, so that nobody else gets it; shared with the listener, which is told of it.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.set_reuseaddr(true).unwrap();
    held.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = held.local_addr().unwrap().port();
    let mut config = config();
    config.listen = vec![([127, 0, 0, 1], port).into()];
    config.origins = Origins::Listed(vec![format!("site.test:{port}")]);
    let proxy = alone(config).await;
    let response = get(&proxy, &format!("site.test.{port}.nyud.example"), "/").await;
    assert_eq!(response.status, 403);
    assert_eq!(proxy.stats().requests, 1, "the request came back to us");
}

// O03
#[tokio::test]
async fn addresses_as_names_are_refused() {
    let proxy = alone(config_any()).await;
    for host in ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "127-0-0-1"] {
        let response = get(&proxy, &format!("{host}.nyud.example"), "/").await;
        assert!(matches!(response.status, 400 | 403), "{host} {}", response.status);
    }
    let address = proxy.local_addrs()[0].to_string();
    for path in
        ["/~/http/127.0.0.1/", "/~/http/[::1]/", "/~/http/2130706433/", "/~/gopher/a.test/", "/~/file/etc/passwd"]
    {
        assert!(matches!(get(&proxy, &address, path).await.status, 400 | 403), "{path}");
    }
    assert_eq!(proxy.stats().origin_requests, 0);
}

// O04
#[tokio::test]
async fn other_ports_are_refused() {
    let proxy = alone(config_any()).await;
    for port in [22, 25, 53, 6379, 11211] {
        assert_eq!(get(&proxy, &format!("www.example.com.{port}.nyud.example"), "/").await.status, 403, "{port}");
    }
    for port in ["0", "65536"] {
        assert_eq!(get(&proxy, &format!("www.example.com.{port}.nyud.example"), "/").await.status, 400, "{port}");
    }
    assert_eq!(proxy.stats().origin_requests, 0);
}

// O05
#[tokio::test]
async fn loops_are_cut_at_the_first_turn() {
    let origin = Origin::with_body(Bytes::from_static(b"x")).await;
    let proxy = alone(config_for(&origin)).await;
    for host in
        ["www.example.com.nyud.example", "a.nyud.example.nyud.example.nyud.example.nyud.example", "nyud.example"]
    {
        assert_eq!(get(&proxy, &format!("{host}.nyud.example"), "/").await.status, 508, "{host}");
    }
    let address = proxy.local_addrs()[0].to_string();
    assert_eq!(get(&proxy, &address, "/~/http/a.nyud.example/").await.status, 508);
    for chain in ["atoll-default", "other; v=1, atoll-default;x=\"y\""] {
        let response = get_with(&proxy, "GET", &origin.host(), "/", &format!("CDN-Loop: {chain}\r\n")).await;
        assert_eq!(response.status, 508, "{chain}");
        assert_eq!(response.field("proxy-status").as_deref(), Some("atoll; error=proxy_loop_detected"));
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(get_with(&proxy, "GET", &origin.host(), "/", "CDN-Loop: another\r\n").await.status, 200);
    assert!(origin.heads()[0].contains("cdn-loop: another\r\ncdn-loop: atoll-default\r\n"), "{}", origin.heads()[0]);
}

// O07
#[tokio::test]
async fn silent_origins_are_given_up_in_time_and_remembered() {
    let origin = Origin::start(|_, _| vec![Do::Hang]).await;
    let mut config = config_for(&origin);
    config.timeouts.first_byte = Duration::from_millis(150);
    let proxy = alone(config).await;
    let response = get(&proxy, &origin.host(), "/").await;
    assert_eq!(response.status, 504);
    assert_eq!(response.field("proxy-status").as_deref(), Some("atoll; error=http_response_timeout"));
    let again = get(&proxy, &origin.host(), "/").await;
    assert_eq!(
        (again.status, again.cache_status().ends_with("detail=negative")),
        (504, true),
        "{}",
        again.cache_status()
    );
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up_and_its_client_cut_off() {
    let origin = Origin::start(|_, _| {
        vec![
            Do::Send("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\nhalf".into()),
            Do::Hang,
        ]
    })
    .await;
    let mut config = config_for(&origin);
    config.timeouts.origin_idle = Duration::from_millis(150);
    let proxy = alone(config).await;
    let response = get(&proxy, &origin.host(), "/").await;
    assert_eq!((response.status, response.complete), (200, false));
}

#[tokio::test]
async fn an_origin_that_is_not_there_is_a_bad_gateway() {
    let (gone, _taken) = refusing();
    let port = gone.port();
    let proxy = alone(Config { origins: Origins::Listed(vec![format!("site.test:{port}")]), ..config() }).await;
    let response = get(&proxy, &format!("site.test.{port}.nyud.example"), "/").await;
    assert_eq!(
        (response.status, response.field("proxy-status").unwrap().as_str()),
        (502, "atoll; error=connection_refused")
    );
}

#[tokio::test]
async fn an_origin_s_error_is_shared_and_not_asked_for_again_at_once() {
    let origin =
        Origin::start(|_, _| raw("HTTP/1.1 500 Broken\r\nContent-Length: 5\r\nSet-Cookie: a=b\r\n\r\noh no")).await;
    let proxy = alone(config_for(&origin)).await;
    for _ in 0..4 {
        let response = get(&proxy, &origin.host(), "/").await;
        assert_eq!((response.status, &response.body[..]), (500, &b"oh no"[..]));
        assert!(response.field("set-cookie").is_none());
    }
    assert_eq!(origin.count(), 1);
}

/// A TLS origin for `site.test`, and the file of the authority it is signed by.
async fn tls_origin(name: &str) -> (SocketAddr, tempfile::NamedTempFile) {
    tls_origin_with(name, true, |_| {}).await
}

/// The same with a certificate that is changed, or signs itself.
async fn tls_origin_with(
    name: &str,
    signed: bool,
    change: impl FnOnce(&mut rcgen::CertificateParams),
) -> (SocketAddr, tempfile::NamedTempFile) {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    change(&mut params);
    let certificate = if signed { params.signed_by(&key, &authority) } else { params.self_signed(&key) }.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = Vec::new();
                while stream.read_buf(&mut buffer).await.is_ok_and(|count| count > 0) {
                    if buffer.ends_with(b"\r\n\r\n") {
                        let answer = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 6\r\n\r\nsecret";
                        stream.write_all(answer).await.unwrap();
                        buffer.clear();
                    }
                }
            });
        }
    });
    (address, file)
}

#[tokio::test]
async fn https_origins_are_fetched_over_tls_with_the_configured_roots() {
    let (address, authority) = tls_origin("site.test").await;
    let mut config = config();
    config.origins = Origins::Listed(vec![format!("site.test:{}", address.port())]);
    config.ca_files = vec![authority.path().to_owned()];
    let proxy = alone(config).await;
    let node = proxy.local_addrs()[0].to_string();
    let response = get(&proxy, &node, &format!("/~/https/site.test:{}/", address.port())).await;
    assert_eq!((response.status, &response.body[..]), (200, &b"secret"[..]), "{:?}", response.field("proxy-status"));
}

/// A listener that reads a little, says this and closes; and the first byte of all that came to it.
async fn abrupt(says: &'static [u8]) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, firsts) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let kept = Arc::clone(&firsts);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = vec![0; 16 << 10];
            if let Ok(1..) = stream.read(&mut read).await {
                kept.lock().unwrap().push(read[0]);
                let _ = stream.write_all(says).await;
            }
        }
    });
    (address, firsts)
}

/// What an https origin at this address comes to, with this file of authorities.
async fn by_https(address: SocketAddr, authority: &std::path::Path) -> Response {
    let mut config = config();
    config.origins = Origins::Listed(vec![format!("site.test:{}", address.port())]);
    config.ca_files = vec![authority.to_owned()];
    let proxy = alone(config).await;
    let node = proxy.local_addrs()[0].to_string();
    get(&proxy, &node, &format!("/~/https/site.test:{}/", address.port())).await
}

// O09: no fallback to http or to no check.
#[tokio::test]
async fn certificates_that_do_not_fit_are_refused() {
    let date = rcgen::date_time_ymd;
    for (why, name, signed, trusted, from, until) in [
        ("another name", "other.test", true, true, 2020, 2090),
        ("an unknown authority", "site.test", true, false, 2020, 2090),
        ("signed by itself", "site.test", false, true, 2020, 2090),
        ("expired", "site.test", true, true, 2020, 2021),
        ("not valid yet", "site.test", true, true, 2089, 2090),
        ("good", "site.test", true, true, 2020, 2090),
    ] {
        let change = |params: &mut rcgen::CertificateParams| {
            (params.not_before, params.not_after) = (date(from, 1, 1), date(until, 1, 1));
        };
        let (address, own) = tls_origin_with(name, signed, change).await;
        let (_, other) = tls_origin(name).await;
        let response = by_https(address, if trusted { own.path() } else { other.path() }).await;
        if why == "good" {
            assert_eq!((response.status, &response.body[..]), (200, &b"secret"[..]), "the test's own certificates");
            continue;
        }
        assert_eq!(response.status, 502, "{why}");
        assert_eq!(response.field("proxy-status").as_deref(), Some("atoll; error=tls_certificate_error"), "{why}");
        assert_ne!(response.body, b"secret", "{why}");
    }
}

// O09
#[tokio::test]
async fn origins_that_speak_old_tls_or_none_are_refused_and_never_asked_in_clear() {
    let (_, authority) = tls_origin("site.test").await;
    // A ServerHello of TLS 1.0 with a cipher of its time.
    let old = b"\x16\x03\x01\0\x2a\x02\0\0\x26\x03\x01RandomRandomRandomRandomRandomRa\0\0\x2f\0";
    for (why, says) in [
        ("TLS 1.0", &old[..]),
        ("an alert about the version", b"\x15\x03\x01\0\x02\x02\x46"),
        ("an alert about the name", b"\x15\x03\x03\0\x02\x02\x70"),
        ("closed at the first word", b""),
        ("HTTP in clear", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain"),
        ("a redirect to clear", b"HTTP/1.1 302 Found\r\nLocation: http://site.test/\r\nContent-Length: 0\r\n\r\n"),
        ("nonsense", b"\xff\xff\xff\xff\xff\xff\xff\xff"),
    ] {
        let (address, firsts) = abrupt(says).await;
        let response = by_https(address, authority.path()).await;
        assert_eq!(response.status, 502, "{why}");
        assert_eq!(response.field("proxy-status").as_deref(), Some("atoll; error=tls_certificate_error"), "{why}");
        let firsts = firsts.lock().unwrap().clone();
        assert!(!firsts.is_empty() && firsts.iter().all(|first| *first == 0x16), "{why}: {firsts:?} is no handshake");
    }
    // One that never answers is given up in time, and is no other way.
    let plain = Origin::start(|_, _| vec![Do::Hang]).await;
    let mut config = config();
    config.origins = Origins::Listed(vec![format!("site.test:{}", plain.address.port())]);
    config.ca_files = vec![authority.path().to_owned()];
    config.timeouts.connect = Duration::from_millis(500);
    let proxy = alone(config).await;
    let node = proxy.local_addrs()[0].to_string();
    let path = format!("/~/https/site.test:{}/", plain.address.port());
    assert_eq!(get(&proxy, &node, &path).await.status, 504);
    assert_eq!(plain.count(), 0);
}

#[tokio::test]
async fn an_origin_gets_so_many_connections_at_a_time_and_its_heads_have_a_limit() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |_, head| {
        if head.starts_with("GET /large ") {
            return raw(&format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "a".repeat(100_000)));
        }
        let mut steps = ok("Cache-Control: max-age=60\r\n", &Bytes::from_static(b"x"));
        steps.insert(0, Do::Wait(Arc::clone(&held)));
        steps
    })
    .await;
    let mut config = config_for(&origin);
    config.limits.origin_connections = 2;
    let proxy = Arc::new(alone(config).await);
    let mut clients = JoinSet::new();
    for path in 0..6 {
        let (proxy, host) = (Arc::clone(&proxy), origin.host());
        clients.spawn(async move { get(&proxy, &host, &format!("/{path}")).await.status });
    }
    until(|| origin.count() == 2 && proxy.stats().flights == 6).await;
    gate.add_permits(10);
    while let Some(status) = soon(clients.join_next()).await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(get(&proxy, &origin.host(), "/large").await.status, 502);
}

// O08: more failures than are remembered push out the oldest; nothing grows.
#[tokio::test]
async fn what_is_remembered_is_bounded() {
    let origin = Origin::start(|_, _| raw("HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n")).await;
    let mut config = config_for(&origin);
    config.limits.remembered = 4;
    let proxy = alone(config).await;
    for path in 0..6 {
        assert_eq!(get(&proxy, &origin.host(), &format!("/{path}")).await.status, 500);
    }
    assert_eq!(get(&proxy, &origin.host(), "/5").await.status, 500);
    assert_eq!(origin.count(), 6);
    assert_eq!(get(&proxy, &origin.host(), "/0").await.status, 500);
    assert_eq!(origin.count(), 7, "the oldest was forgotten");
    until(|| proxy.stats().flights == 0).await;
}
