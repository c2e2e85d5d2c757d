//! Rows of foreign input that have no better place: what origins send that nobody should, names that do not resolve, descriptors
//! that run out.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use atoll_proxy::{Config, Origins};
use bytes::Bytes;
use futures::FutureExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
};

use crate::support::{
    Do, Origin, alone, config, config_any, config_for, config_site, exchange, get, get_with, noise, ok, raw, refusing,
    soon, until,
};

// RFC 9110 6.5.1: trailers may be left out, and never become fields of the head.
#[tokio::test]
async fn trailers_of_an_origin_are_left_out_and_its_connection_is_used_again() {
    let origin = Origin::start(|_, _| {
        vec![Do::Send(Bytes::from_static(
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTrailer: Cache-Control, X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
              5\r\nhello\r\n0\r\nCache-Control: max-age=86400\r\nX-Sum: 1\r\nContent-Length: 3\r\nSet-Cookie: a=b\r\n\r\n",
        ))]
    })
    .await;
    let proxy = alone(config_site(&origin)).await;
    for path in ["/a", "/b", "/a"] {
        let response = get_with(&proxy, "GET", "any.test", path, "TE: trailers\r\n").await;
        assert_eq!((response.status, &response.body[..], response.complete), (200, &b"hello"[..], true));
        assert_eq!(response.field("cache-control").as_deref(), Some("max-age=60"));
        for name in ["x-sum", "set-cookie", "trailer"] {
            assert!(response.field(name).is_none(), "{name}");
        }
        until(|| proxy.stats().flights == 0).await;
    }
    assert_eq!((origin.count(), origin.connections.load(Ordering::SeqCst)), (2, 1));
}

// C13: nothing of it is stored, nor passed on.
#[tokio::test]
async fn heads_of_origins_that_nobody_should_send_are_bad_gateways() {
    let cookies = "Set-Cookie: a=b\r\n".repeat(1_000);
    for head in [
        format!("HTTP/1.1 200 OK\r\n{cookies}Content-Length: 0\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "a".repeat(1 << 20)),
        "HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nX: a\rY: b\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_owned(),
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
    ] {
        let sent = head.clone();
        let origin = Origin::start(move |_, _| raw(&sent)).await;
        let proxy = alone(config_for(&origin)).await;
        let response = get(&proxy, &origin.host(), "/").await;
        let shown: String = head.chars().take(60).collect();
        assert_eq!(response.status, 502, "{shown:?} {:?}", response.fields);
        assert!(response.field("x").is_none() && response.field("set-cookie").is_none());
    }
}

// RFC 9112 4: a reason is nobody's to make up.
#[tokio::test]
async fn a_status_that_nobody_knows_has_no_reason() {
    let origin =
        Origin::start(|_, _| raw("HTTP/1.1 299 Odd\r\nCache-Control: max-age=60\r\nContent-Length: 0\r\n\r\n")).await;
    let proxy = alone(config_site(&origin)).await;
    for _ in 0..2 {
        let request = b"GET / HTTP/1.1\r\nHost: any.test\r\nConnection: close\r\n\r\n";
        let answer = exchange(proxy.local_addrs()[0], request).await;
        assert!(answer.starts_with(b"HTTP/1.1 299 \r\n"), "{}", String::from_utf8_lossy(&answer));
    }
}

// C12
#[tokio::test]
async fn a_body_whose_connection_is_reset_is_never_stored_nor_ended_for_its_client() {
    let origin = Origin::start(|_, _| {
        let [head, body] = <[Do; 2]>::try_from(ok("Cache-Control: max-age=60\r\n", &noise(100_000))).ok().unwrap();
        let Do::Send(mut body) = body else { panic!("a body") };
        body.truncate(50_000);
        vec![head, Do::Send(body), Do::Reset]
    })
    .await;
    let mut config = config_site(&origin);
    config.freshness.negative_first = Duration::ZERO;
    let proxy = alone(config).await;
    for turn in 1..=3 {
        let response = get(&proxy, "any.test", "/").await;
        assert!(!response.complete || response.status == 502, "{} bytes of {}", response.body.len(), response.status);
        until(|| proxy.stats().flights == 0).await;
        assert_eq!(origin.count(), turn);
    }
}

// C12: interim answers do not end, or do and are no answer.
#[tokio::test]
async fn a_storm_of_interim_answers_costs_little_and_hides_nothing() {
    let storm = Bytes::from("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(2_000));
    let origin = Origin::start(move |_, head| {
        let mut steps = ok("Cache-Control: max-age=60\r\n", &Bytes::from_static(b"after"));
        steps.insert(0, Do::Send(storm.clone()));
        if head.starts_with("GET /only ") {
            steps.truncate(1);
            steps.push(Do::Close);
        }
        steps
    })
    .await;
    let proxy = alone(config_for(&origin)).await;
    assert_eq!(get(&proxy, &origin.host(), "/").await.body, b"after");
    assert_eq!(get(&proxy, &origin.host(), "/only").await.status, 502);
}

// O06: redirects are the client's to follow, wherever they lead.
#[tokio::test]
async fn a_redirect_inside_is_passed_on_and_nothing_is_dialled() {
    let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = inside.local_addr().unwrap().port();
    for target in
        [format!("http://127.0.0.1:{port}/"), "file:///etc/passwd".to_owned(), format!("gopher://127.0.0.1:{port}/")]
    {
        let answer = format!("HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n");
        let origin = Origin::start(move |_, _| raw(&answer)).await;
        let proxy = alone(config_for(&origin)).await;
        let response = get(&proxy, &origin.host(), "/").await;
        assert_eq!((response.status, response.field("location"), origin.count()), (302, Some(target), 1));
    }
    assert!(inside.accept().now_or_never().is_none(), "a redirect was followed");
}

// O07: a head that never ends, and a body larger than any store.
#[tokio::test]
async fn dribbled_heads_are_given_up_and_endless_bodies_are_not_kept() {
    let origin = Origin::start(|_, head| {
        if head.starts_with("GET /head ") {
            return vec![Do::Send(Bytes::from_static(b"HTTP/1.1 200 OK\r\nX: ")), Do::Hang];
        }
        let head = format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {}\r\n\r\n", 3_u64 << 40);
        vec![Do::Send(head.into()), Do::Send(Bytes::from_static(b"begin")), Do::Close]
    })
    .await;
    let mut config = config_for(&origin);
    config.timeouts.first_byte = Duration::from_millis(150);
    let proxy = alone(config).await;
    let response = get(&proxy, &origin.host(), "/head").await;
    assert_eq!(
        (response.status, response.field("proxy-status").unwrap().as_str()),
        (504, "atoll; error=http_response_timeout")
    );
    let endless = get(&proxy, &origin.host(), "/body").await;
    assert_eq!((endless.status, endless.complete, &endless.body[..]), (200, false, &b"begin"[..]));
    assert!(endless.cache_status().ends_with("detail=origin.too-large"), "{}", endless.cache_status());
}

// C15: nothing is ever decoded, so nothing swells: what is coded is stored and sent as it came, whatever it would become.
#[tokio::test]
async fn a_coded_body_is_passed_on_and_stored_as_it_came() {
    // A gzip of a megabyte of zeros. Under the other names it is not what they say.
    let (begin, end) =
        (b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\xed\xc11\x01\0\0\0\xc2\xa0\xf5Om\x08_\xa0", b">\x03\x1c\xea8\xa7\0\0\x10\0");
    let zeros = [&begin[..], &[0; 1016], end].concat();
    let zeros = Bytes::from(zeros);
    let sent = zeros.clone();
    let origin = Origin::start(move |_, head| {
        let coding = head.split(['/', ' ']).nth(2).unwrap();
        ok(&format!("Cache-Control: max-age=60\r\nContent-Encoding: {coding}\r\n"), &sent)
    })
    .await;
    let proxy = alone(config_site(&origin)).await;
    for coding in ["gzip", "deflate", "br", "zstd"] {
        for _ in 0..2 {
            let response = get_with(
                &proxy,
                "GET",
                "any.test",
                &format!("/{coding}"),
                "Accept-Encoding: gzip, deflate, br, zstd\r\n",
            )
            .await;
            assert_eq!(response.field("content-encoding").as_deref(), Some(coding));
            assert!(response.complete && response.body == zeros, "{coding}");
            until(|| proxy.stats().flights == 0).await;
        }
    }
    assert_eq!(origin.count(), 4);
}

// C05: the whole query is the key, in the order it has.
#[tokio::test]
async fn five_thousand_parameters_are_one_target_and_its_order_counts() {
    let origin = Origin::start(|number, _| ok("Cache-Control: max-age=60\r\n", &Bytes::from(number.to_string()))).await;
    let proxy = alone(config_for(&origin)).await;
    let query = |numbers: &mut dyn Iterator<Item = u32>| {
        let pairs: Vec<_> = numbers.map(|number| format!("a{}", number % 10)).collect();
        format!("/?{}", pairs.join("&"))
    };
    let (up, down) = (query(&mut (0..5_000)), query(&mut (0..5_000).rev()));
    assert_eq!(get(&proxy, &origin.host(), &up).await.body, b"0");
    assert!(origin.heads()[0].starts_with(&format!("GET {up} HTTP/1.1\r\n")));
    assert_eq!(get(&proxy, &origin.host(), &down).await.body, b"1");
    for cloaked in ["/?a=1;b=2", "/?a=1&b=2", "/?b=2&a=1"] {
        get(&proxy, &origin.host(), cloaked).await;
    }
    assert_eq!(origin.count(), 5);
}

// C06: more names than can be followed are as good as `*`.
#[tokio::test]
async fn a_vary_of_more_than_ten_names_is_not_reused() {
    let names = |count: u32| (0..count).map(|number| format!("X-{number}")).collect::<Vec<_>>().join(", ");
    let origin = Origin::start(move |_, head| {
        let count = if head.starts_with("GET /ten ") { 10 } else { 11 };
        ok(&format!("Cache-Control: max-age=60\r\nVary: {}\r\n", names(count)), &Bytes::from_static(b"x"))
    })
    .await;
    let proxy = alone(config_site(&origin)).await;
    for (path, requests, why) in [("/ten", 1, "detail=memory"), ("/eleven", 3, "vary-star")] {
        get(&proxy, "any.test", path).await;
        until(|| proxy.stats().flights == 0).await;
        let again = get(&proxy, "any.test", path).await;
        assert!(
            again.cache_status().contains(why) || again.cache_status().contains("pass-marked"),
            "{}",
            again.cache_status()
        );
        assert_eq!(origin.count(), requests, "{path}");
    }
}

/// A name server that answers every A question with these addresses, or this code without any.
async fn name_server(code: u8, addresses: usize) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 4_096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            count.fetch_add(1, Ordering::SeqCst);
            let question = buffer[12..length].iter().position(|byte| *byte == 0).unwrap() + 12 + 5;
            let is_a = buffer[question - 3] == 1;
            let answers = if is_a { addresses } else { 0 };
            let mut reply = buffer[..question].to_vec();
            reply[2..4].copy_from_slice(&[0x81, 0x80 | code]);
            reply[6..8].copy_from_slice(&u16::try_from(answers).unwrap().to_be_bytes());
            reply[8..12].fill(0);
            for number in 0..answers {
                reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 1]);
                reply.push(u8::try_from(number % 250).unwrap() + 1);
            }
            let _ = socket.send_to(&reply, from).await;
        }
    });
    (address, asked)
}

// O08
#[tokio::test]
async fn names_that_do_not_resolve_are_remembered_and_of_many_addresses_few_are_dialled() {
    for code in [2, 3] {
        let (server, asked) = name_server(code, 0).await;
        let mut config = Config { nameservers: vec![server], ..config_any() };
        config.timeouts.resolve = Duration::from_secs(10);
        let proxy = alone(config).await;
        for _ in 0..3 {
            let response = get(&proxy, "www.absent.example.nyud.example", "/").await;
            assert_eq!(
                (response.status, response.field("proxy-status").unwrap().as_str()),
                (502, "atoll; error=dns_error"),
                "{code}"
            );
        }
        assert!(asked.load(Ordering::SeqCst) <= 8, "asked {} times", asked.load(Ordering::SeqCst));
    }
    let (server, _) = name_server(0, MANY).await;
    let (gone, _taken) = refusing();
    let proxy = alone(many(server, gone.port(), Duration::from_secs(10))).await;
    let host = format!("www.many.example.{}.nyud.example", gone.port());
    let response = soon(get(&proxy, &host, "/")).await;
    let error = response.field("proxy-status");
    assert_eq!((response.status, error.as_deref()), (502, Some("atoll; error=connection_refused")));
}

/// Addresses of one name, as many as a datagram holds.
const MANY: usize = 60;

/// A configuration for an origin of many addresses.
fn many(server: std::net::SocketAddr, port: u16, connect: Duration) -> Config {
    let listed = Origins::Listed(vec![format!("www.many.example:{port}")]);
    let mut config = Config { nameservers: vec![server], origins: listed, ..config() };
    config.timeouts.resolve = Duration::from_secs(10);
    config.timeouts.connect = connect;
    config
}

// O08: of so many addresses that nobody answers at, 16 are dialled, a quarter of a second after each other. The system tells which.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn of_many_addresses_that_do_not_answer_few_are_dialled() {
    let (server, _) = name_server(0, MANY).await;
    // Everything on loopback leads to this listener, whose queue is full: it answers nobody any more.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([0, 0, 0, 0], 0).into()).unwrap();
    let listener = socket.listen(0).unwrap();
    let port = listener.local_addr().unwrap().port();
    let _first = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let proxy = Arc::new(alone(many(server, port, Duration::from_millis(5_500))).await);
    let (asking, host) = (Arc::clone(&proxy), format!("www.many.example.{port}.nyud.example"));
    let asked = tokio::spawn(async move { soon(get(&asking, &host, "/")).await });
    let mut dialled = std::collections::BTreeSet::new();
    while !asked.is_finished() {
        // Remote address and port in hexadecimal, then the state: 02 is SYN_SENT.
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        for line in table.lines().skip(1) {
            let mut words = line.split_whitespace().skip(2);
            let (remote, state) = (words.next().unwrap_or_default(), words.next());
            if remote.ends_with(&format!(":{port:04X}")) && state == Some("02") {
                dialled.insert(remote.to_owned());
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let response = asked.await.unwrap();
    assert_eq!(
        (response.status, response.field("proxy-status").as_deref()),
        (504, Some("atoll; error=connection_timeout"))
    );
    assert!((2..=16).contains(&dialled.len()), "{}: {dialled:?}", dialled.len());
}

// H16: a process of its own has few descriptors; clients take them all, and give some back.
#[test]
fn a_proxy_out_of_descriptors_goes_on_when_there_are_some_again() {
    if std::env::var_os(FEW).is_some() {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(exhausted());
        return;
    }
    let name = "rows::a_proxy_out_of_descriptors_goes_on_when_there_are_some_again";
    let own = std::env::current_exe().unwrap();
    let script = format!("ulimit -n 128; exec \"$0\" --exact {name} --nocapture");
    let output = Command::new("sh").arg("-c").arg(script).arg(own).env(FEW, "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn exhausted() {
    let origin = Origin::with_body(Bytes::from_static(b"x")).await;
    let proxy = alone(config_for(&origin)).await;
    let address = proxy.local_addrs()[0];
    assert_eq!(get(&proxy, &origin.host(), "/").await.status, 200);
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect(address).await {
        held.push(stream);
        assert!(held.len() < 128, "descriptors do not run out");
    }
    // Whatever was accepted by then is served; who waited is told that there is no room, or served when there is again.
    held.truncate(8);
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", origin.host());
    for mut stream in held {
        // One that was sent away by now may be reset, and what it was told comes first.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 200 ") || text.starts_with("HTTP/1.1 503 "), "{text}");
    }
    assert_eq!(get(&proxy, &origin.host(), "/").await.status, 200);
}

/// Set in the process that has few descriptors.
const FEW: &str = "ATOLL_TEST_FEW_DESCRIPTORS";
