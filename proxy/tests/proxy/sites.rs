//! Own sites on raw sockets: bodies in one framing (H01-H04, H11, H12), interim answers, several origins, several ranges (G02, G05).

use std::sync::Arc;

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::support::{
    Do, Origin, Response, alone, config, config_site, exchange, get, get_with, noise, ok, refusing, site_of, soon,
    until,
};

/// An origin that keeps the bytes after each head for itself and says what it got.
pub(crate) struct Sink {
    address: std::net::SocketAddr,
    got: Arc<std::sync::Mutex<Vec<u8>>>,
}

impl Sink {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let got = Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = Arc::clone(&got);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    let mut all = Vec::new();
                    while let Ok(1..) = stream.read_buf(&mut all).await {
                        kept.lock().unwrap().clone_from(&all);
                        if all.ends_with(b"END") || all.ends_with(b"END\r\n0\r\n\r\n") {
                            stream.write_all(b"HTTP/1.1 201 Made\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                        }
                    }
                });
            }
        });
        Self { address, got }
    }

    pub(crate) fn config(&self) -> atoll_proxy::Config {
        let mut config = config();
        let origin = atoll_proxy::SiteOrigin::One(format!("http://{}", self.address));
        config.sites.insert("own.test".to_owned(), atoll_proxy::Site { origin, ..atoll_proxy::Site::default() });
        config
    }

    pub(crate) fn got(&self) -> String {
        String::from_utf8_lossy(&self.got.lock().unwrap()).to_ascii_lowercase()
    }
}

#[tokio::test]
async fn bodies_reach_the_origin_in_one_framing_and_what_follows_is_the_next_request() {
    let sink = Sink::start().await;
    let proxy = alone(sink.config()).await;
    let next = "GET /.well-known/atoll/health HTTP/1.1\r\nHost: own.test\r\nConnection: close\r\n\r\n";
    for (fields, body) in [
        ("Content-Length: 8\r\n", "body END"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nbody \r\n3;x=y\r\nEND\r\n0\r\n\r\n"),
        ("Expect: 100-continue\r\nContent-Length: 8\r\n", "body END"),
    ] {
        let request = format!("POST /a HTTP/1.1\r\nHost: own.test\r\n{fields}\r\n{body}{next}");
        let answer = exchange(proxy.local_addrs()[0], request.as_bytes()).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("HTTP/1.1 201 ") && text.contains("HTTP/1.1 200 OK"), "{fields} {text}");
        let got = sink.got();
        assert!(got.starts_with("post /a http/1.1\r\n") && got.contains("host: own.test\r\n"), "{got}");
        let length = got.contains("content-length: 8\r\n");
        assert!(length != got.contains("transfer-encoding: chunked\r\n"), "one framing: {got}");
        assert!(!got.contains("expect") && !got.contains("x=y"), "{got}");
    }
}

// H01-H04 where bodies are taken.
#[tokio::test]
async fn ambiguous_bodies_are_refused_or_cut_and_what_follows_is_never_a_request() {
    let origin = Origin::with_body(noise(10)).await;
    let proxy = alone(config_site(&origin)).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for (fields, body, status) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", Some(400)),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", "hello", Some(400)),
        ("Content-Length: 5, 5\r\n", "hello", Some(400)),
        ("Content-Length: +5\r\n", "hello", Some(400)),
        ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n", Some(400)),
        ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", Some(501)),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", Some(400)),
        ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n", Some(400)),
        ("Expect: 200-ok\r\n", "", Some(417)),
        ("Transfer-Encoding: chunked\r\n", "0x5\r\nhello\r\n0\r\n\r\n", None),
        ("Transfer-Encoding: chunked\r\n", "5\nhello\r\n0\r\n\r\n", None),
        ("Transfer-Encoding: chunked\r\n", "5 \r\nhello\r\n0\r\n\r\n", None),
        ("Transfer-Encoding: chunked\r\n", "5;a\nb\r\nhello\r\n0\r\n\r\n", None),
        ("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n", None),
    ] {
        let request = format!("POST /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}{smuggled}");
        let answer = exchange(proxy.local_addrs()[0], request.as_bytes()).await;
        let text = String::from_utf8_lossy(&answer);
        if let Some(status) = status {
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{fields} {text}");
        }
        assert!(text.matches("HTTP/1.1 ").count() <= 1, "{fields} {body:?} {text}");
        assert!(!origin.heads().join("").contains("smuggled"), "{fields} {body:?}");
    }
}

// H11
#[tokio::test]
async fn a_get_with_a_body_is_refused_even_where_bodies_are_taken() {
    let origin = Origin::with_body(noise(10)).await;
    let proxy = alone(config_site(&origin)).await;
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 31\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n     ";
    let text = String::from_utf8_lossy(&exchange(proxy.local_addrs()[0], request).await).into_owned();
    assert!(text.starts_with("HTTP/1.1 400 ") && text.matches("HTTP/1.1").count() == 1, "{text}");
    assert_eq!(origin.count(), 0);
}

// H12: a body that never comes.
#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
    let sink = Sink::start().await;
    let mut config = sink.config();
    config.timeouts.send = std::time::Duration::from_millis(200);
    let proxy = alone(config).await;
    let head = b"POST / HTTP/1.1\r\nHost: own.test\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
    let text = String::from_utf8_lossy(&exchange(proxy.local_addrs()[0], head).await).into_owned();
    assert!(text.starts_with("HTTP/1.1 100 ") || text.is_empty() || text.starts_with("HTTP/1.1 5"), "{text}");
    until(|| proxy.stats().connections == 0).await;
}

#[tokio::test]
async fn methods_about_the_proxy_itself_and_query_are_never_passed_on() {
    let origin = Origin::with_body(noise(10)).await;
    let proxy = alone(config_site(&origin)).await;
    for (line, more, status) in [
        ("TRACE /", "", 405),
        ("PURGE /", "", 405),
        ("PRI /", "", 405),
        ("CONNECT a:443", "", 405),
        ("QUERY /", "", 501),
        ("QUERY /", "Content-Length: 1\r\n\r\nq", 501),
    ] {
        let request = format!("{line} HTTP/1.1\r\nHost: a:443\r\n{more}\r\n");
        let answer = exchange(proxy.local_addrs()[0], request.as_bytes()).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{line} {text}");
    }
    assert_eq!(origin.count(), 0);
}

// RFC 9110 7.6.2, O05
#[tokio::test]
async fn options_go_as_far_as_their_client_wants() {
    let origin = Origin::with_body(noise(10)).await;
    let proxy = alone(config_site(&origin)).await;
    let ask = async |fields: &str| get_with(&proxy, "OPTIONS", "a", "/x", fields).await.status;
    assert_eq!((ask("Max-Forwards: 0\r\n").await, origin.count()), (204, 0));
    assert_eq!((ask("Max-Forwards: 3\r\n").await, origin.count()), (200, 1));
    assert!(origin.heads()[0].contains("max-forwards: 2\r\n"), "{}", origin.heads()[0]);
}

// RFC 9110 15.2; C12
#[tokio::test]
async fn interim_answers_come_before_their_answer_and_are_not_kept() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |_, _| {
        let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-Early: 1\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n";
        let mut steps = vec![Do::Send(early.into()), Do::Wait(Arc::clone(&held))];
        steps.extend(ok("Cache-Control: max-age=60\r\n", &Bytes::from_static(b"x")));
        steps
    })
    .await;
    let proxy = alone(config_site(&origin)).await;
    let mut client = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut early = Vec::new();
    soon(async {
        while !String::from_utf8_lossy(&early).contains("102 Processing\r\n\r\n") {
            client.read_buf(&mut early).await.unwrap();
        }
    })
    .await;
    assert!(early.starts_with(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n"), "{}", String::from_utf8_lossy(&early));
    gate.add_permits(1);
    let mut rest = Vec::new();
    soon(client.read_to_end(&mut rest)).await.unwrap();
    let last = Response::read(&rest, false);
    assert_eq!((last.status, last.field("link"), last.field("x-early")), (200, None, None));
    until(|| proxy.stats().flights == 0).await;
    let again = get(&proxy, "a", "/").await;
    assert!(again.cache_status().contains("hit") && again.field("link").is_none());
}

#[tokio::test]
async fn an_origin_that_cannot_be_reached_is_stood_in_for_by_the_next() {
    let origin = Origin::with_body(noise(10)).await;
    let (gone, _taken) = refusing();
    let mut config = config();
    let origins = vec![format!("http://{gone}"), format!("http://{}", origin.address)];
    let rules = atoll_proxy::Site {
        origin: atoll_proxy::SiteOrigin::Many(origins),
        host: Some("inside.test".to_owned()),
        ..site_of(&origin)
    };
    config.sites.insert("own.test".to_owned(), rules);
    let proxy = alone(config).await;
    assert_eq!(get(&proxy, "own.test", "/").await.status, 200);
    assert!(origin.heads()[0].contains("host: inside.test\r\n"));
    assert_eq!(get(&proxy, "other.test", "/").await.status, 421);
}

// G02, G05
#[tokio::test]
async fn several_ranges_are_a_message_of_parts() {
    let body = noise(10_000);
    let served = body.clone();
    let origin = Origin::start(move |_, _| ok("Cache-Control: max-age=60\r\nContent-Type: a/b\r\n", &served)).await;
    let proxy = alone(config_site(&origin)).await;
    assert_eq!(get(&proxy, "a", "/").await.body, body);
    until(|| proxy.stats().flights == 0).await;
    let ask = async |range: &str| get_with(&proxy, "GET", "a", "/", &format!("Range: bytes={range}\r\n")).await;
    let parts = ask("500-509,0-1").await;
    assert_eq!((parts.status, parts.complete), (206, true));
    let kind = parts.field("content-type").unwrap();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut expected = Vec::new();
    for (from, to) in [(500, 510), (0, 2)] {
        let head =
            format!("\r\n--{boundary}\r\nContent-Type: a/b\r\nContent-Range: bytes {from}-{}/10000\r\n\r\n", to - 1);
        expected.extend_from_slice(head.as_bytes());
        expected.extend_from_slice(&body[from..to]);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert!(parts.body == expected, "{}", String::from_utf8_lossy(&parts.body));
    let thousand = vec!["0-"; 1_000].join(",");
    let whole = ask(&thousand).await;
    assert_eq!((whole.status, whole.body.len()), (200, 10_000));
    assert_eq!(origin.count(), 1);
}

// RFC 9110 4.3.3: an own site's client is sent to https by its origin, and follows by itself.
#[tokio::test]
async fn a_redirect_to_https_is_an_own_site_s_answer_like_any_other() {
    let moved =
        "HTTP/1.1 301 X\r\nLocation: https://own.test/x\r\nCache-Control: max-age=60\r\nContent-Length: 0\r\n\r\n";
    let origin = Origin::start(move |_, _| vec![Do::Send(moved.into())]).await;
    let proxy = alone(config_site(&origin)).await;
    for _ in 0..2 {
        let response = get(&proxy, "own.test", "/x").await;
        assert_eq!((response.status, response.field("location").as_deref()), (301, Some("https://own.test/x")));
        until(|| proxy.stats().flights == 0).await;
    }
    assert_eq!(origin.count(), 1);
}

// C14
#[tokio::test]
async fn what_came_in_clear_and_over_tls_are_two_things() {
    let origin = Origin::start(|number, _| ok("Cache-Control: max-age=60\r\n", &Bytes::from(number.to_string()))).await;
    let folder = tempfile::tempdir().unwrap();
    let (files, root) = crate::two::certificate(folder.path(), "own.test");
    let mut config = config_site(&origin);
    config.listen_tls = vec!["127.0.0.1:0".parse().unwrap()];
    config.certificates = vec![files];
    let proxy = alone(config).await;
    for round in 0..2 {
        assert_eq!(get(&proxy, "own.test", "/x").await.body, b"0", "{round}");
        let tcp = TcpStream::connect(proxy.tls_addrs()[0]).await.unwrap();
        let mut stream = crate::two::secure(tcp, "own.test", std::slice::from_ref(&root), b"http/1.1").await.unwrap();
        stream.write_all(b"GET /x HTTP/1.1\r\nHost: own.test\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        assert_eq!(Response::read(&answer, false).body, b"1", "{round}");
        until(|| proxy.stats().flights == 0).await;
    }
    let heads = origin.heads().join("").to_ascii_lowercase();
    assert!(heads.contains("x-forwarded-proto: http\r\n") && heads.contains("x-forwarded-proto: https\r\n"), "{heads}");
    // An unsafe method on the one changes both.
    assert_eq!(get_with(&proxy, "DELETE", "own.test", "/x", "").await.status, 200);
    assert_eq!(get(&proxy, "own.test", "/x").await.body, b"3");
}

// O01: an own site's origin is the operator's word, but never one of the node's own listeners.
#[tokio::test]
async fn what_the_node_listens_on_beside_the_proxy_is_never_an_origin() {
    let admin = Origin::with_body(Bytes::from_static(b"secret")).await;
    let proxy = alone(crate::support::config_for(&admin)).await;
    proxy.protect([std::net::SocketAddr::from(([0, 0, 0, 0], admin.address.port()))]);
    let response = get(&proxy, &admin.host(), "/").await;
    assert_eq!(response.status, 403);
    assert_eq!(response.field("proxy-status").as_deref(), Some("atoll; error=destination_ip_prohibited"));
    assert_eq!(admin.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
}

// The three formats, and a file that is moved away and opened anew.
#[tokio::test]
async fn every_answer_is_a_line_in_the_access_log() {
    let origin = Origin::with_body(Bytes::from_static(b"hello")).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let lines = |file: &std::path::Path| {
        std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for (format, begins, holds) in [
        (atoll_proxy::AccessFormat::Json, "{", "\"data\":{\"a\":[1]}"),
        (atoll_proxy::AccessFormat::Clf, "127.0.0.1 - - [", "] \"GET /x?y HTTP/1.1\" 200 5 \"-\" \"a \\x22b\""),
        (atoll_proxy::AccessFormat::W3c, "20", " 127.0.0.1 GET a /x?y 200 5 "),
        (atoll_proxy::AccessFormat::W3c, "20", " a+\\x22b {\\x22a\\x22:+[1]} json"),
    ] {
        let mut config = config_site(&origin);
        config.access_log.file = Some(file.clone());
        config.access_log.format = format;
        let proxy = alone(config).await;
        let fields = "User-Agent: a \"b\r\nX-Minicdn-Data: {\"a\": [1]}\r\nX-Minicdn-Type: json\r\n";
        assert_eq!(get_with(&proxy, "GET", "a", "/x?y", fields).await.status, 200);
        until(|| lines(&file).iter().any(|line| line.starts_with(begins) && line.contains(holds))).await;
        let moved = folder.path().join("moved");
        std::fs::rename(&file, &moved).unwrap();
        proxy.reopen_log();
        until(|| file.exists()).await;
        assert_eq!(get_with(&proxy, "HEAD", "a", "/x?y", "").await.status, 200);
        until(|| {
            lines(&file).iter().any(|line| line.contains("HEAD") && line.contains("hit"))
                || format == atoll_proxy::AccessFormat::Clf && lines(&file).len() == 1
        })
        .await;
        assert!(!lines(&moved).iter().any(|line| line.contains("HEAD")));
        drop(proxy);
        std::fs::remove_file(&file).unwrap();
    }
}

// C01, C11: requests with cookies share a fetch, and what turns out to be for one goes to that one.
#[tokio::test]
async fn what_is_for_one_client_is_never_given_to_another_that_waited_with_it() {
    let gate = Arc::new(Semaphore::new(0));
    for (control, shared) in [("max-age=60", true), ("private", false), ("no-store", false)] {
        let held = Arc::clone(&gate);
        let origin = Origin::start(move |_, head| {
            let head = head.to_ascii_lowercase();
            let cookie = head.split("cookie: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
            let mut steps = ok(&format!("Cache-Control: {control}\r\n"), &Bytes::from(cookie));
            steps.insert(0, Do::Wait(Arc::clone(&held)));
            steps
        })
        .await;
        let proxy = Arc::new(alone(config_site(&origin)).await);
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..20 {
            let proxy = Arc::clone(&proxy);
            clients.spawn(async move {
                let response = get_with(&proxy, "GET", "a", "/", &format!("Cookie: c={number}\r\n")).await;
                (response.status, response.body == format!("c={number}").as_bytes())
            });
        }
        until(|| proxy.stats().connections == 20 && origin.count() == 1).await;
        gate.add_permits(100);
        let mut own = 0;
        while let Some(answer) = soon(clients.join_next()).await {
            let (status, its) = answer.unwrap();
            assert_eq!(status, 200, "{control}");
            own += usize::from(its);
        }
        assert_eq!(own, if shared { 1 } else { 20 }, "{control}");
        assert_eq!(origin.count(), own, "{control}");
        until(|| proxy.stats().flights == 0).await;
        gate.forget_permits(1_000);
    }
}

// Cookies that say nothing of what is answered.
#[tokio::test]
async fn cookies_that_are_ignored_reach_no_origin_and_keep_nothing_from_being_stored() {
    let fields = "Last-Modified: Thu, 01 Jan 2015 00:00:00 GMT\r\nVary: Cookie\r\n";
    let origin = Origin::start(move |_, _| ok(fields, &noise(10))).await;
    let mut config = config_site(&origin);
    for site in config.sites.values_mut() {
        site.ignore_cookies = vec!["_ga*".to_owned()];
    }
    let proxy = alone(config).await;
    for cookies in ["_ga=1", "_ga=2; _gat_x=3", ""] {
        let cookie = if cookies.is_empty() { String::new() } else { format!("Cookie: {cookies}\r\n") };
        assert_eq!(get_with(&proxy, "GET", "a", "/x", &cookie).await.status, 200);
        until(|| proxy.stats().flights == 0).await;
    }
    assert_eq!(origin.count(), 1, "one copy for all");
    assert!(!origin.heads()[0].to_ascii_lowercase().contains("cookie"), "{}", origin.heads()[0]);
    // What is left counts as ever.
    let theirs = get_with(&proxy, "GET", "a", "/x", "Cookie: _ga=1; session=2\r\n").await;
    assert!(theirs.cache_status().ends_with("origin.cookie"), "{}", theirs.cache_status());
    assert!(origin.heads()[1].to_ascii_lowercase().contains("cookie: session=2\r\n"), "{}", origin.heads()[1]);
}
