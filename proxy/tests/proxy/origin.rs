//! Which origins are reached at all: rows O01-O05, and how slow or broken ones are borne (O06, O07, O09).

use std::{sync::Arc, time::Duration};

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
    Do, Origin, alone, config, config_any, config_for, get, get_with, ok, raw, refusing, soon, until,
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
async fn tls_origin(name: &str) -> (std::net::SocketAddr, tempfile::NamedTempFile) {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
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

// O09: no fallback to http or to no check.
#[tokio::test]
async fn certificates_that_do_not_fit_are_refused() {
    let (wrong_name, authority) = tls_origin("other.test").await;
    let (unknown, _) = tls_origin("site.test").await;
    let plain = Origin::start(|_, _| ok("", &Bytes::from_static(b"plain"))).await;
    for address in [wrong_name, unknown, plain.address] {
        let mut config = config();
        config.origins = Origins::Listed(vec![format!("site.test:{}", address.port())]);
        config.ca_files = vec![authority.path().to_owned()];
        // The plain one never answers the handshake.
        config.timeouts.connect = Duration::from_millis(500);
        let proxy = alone(config).await;
        let node = proxy.local_addrs()[0].to_string();
        let response = get(&proxy, &node, &format!("/~/https/site.test:{}/", address.port())).await;
        assert!(matches!(response.status, 502 | 504), "{address} {}", response.status);
    }
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
