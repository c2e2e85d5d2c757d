//! Those who are slow, clients and origins, over either version: what is merely slow is served, what drips or stalls is given up in
//! time (H14, O07), and each is blamed for its own slowness alone.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_proxy::Proxy;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
};

use crate::{
    sites::Sink,
    support::{Do, Origin, alone, config, config_site, exchange, get, noise, ok, site_of, soon, until},
    two::{GET, block, certificate, frame, secure, speak},
};

/// Waits until the proxy has found so many connections idle, one after the other: what was under way before is older than that.
async fn idles(proxy: &Proxy, count: usize) {
    for _ in 0..count {
        let mut stream = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
        let _ = soon(stream.read_to_end(&mut Vec::new())).await;
    }
}

#[tokio::test]
async fn an_answer_over_http_2_may_take_longer_than_an_idle_connection_lives() {
    let (gate, body) = (Arc::new(Semaphore::new(0)), noise(100_000));
    let (held, sent) = (Arc::clone(&gate), body.clone());
    let origin = Origin::start(move |_, _| {
        let mut steps = ok("Cache-Control: max-age=60\r\n", &sent.slice(..50_000));
        let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 100000\r\n\r\n";
        steps[0] = Do::Send(head.into());
        steps.extend([Do::Wait(Arc::clone(&held)), Do::Send(sent.slice(50_000..))]);
        steps
    })
    .await;
    let mut config = config_site(&origin);
    // Its own connection has to ask before it is idle.
    config.timeouts.keep_alive = Duration::from_millis(500);
    config.timeouts.send = Duration::from_millis(500);
    let proxy = alone(config).await;
    let mut two = speak(TcpStream::connect(proxy.local_addrs()[0]).await.unwrap()).await;
    let request = Request::get("http://own.test/").body(http_body_util::Full::default()).unwrap();
    let response = soon(two.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut whole = response.into_body();
    let mut got = soon(whole.frame()).await.unwrap().unwrap().into_data().unwrap().to_vec();
    idles(&proxy, 3).await;
    gate.add_permits(1);
    while let Some(frame) = soon(whole.frame()).await {
        got.extend_from_slice(frame.expect("the connection was cut").data_ref().unwrap());
    }
    assert!(got == body, "{} bytes", got.len());
}

#[tokio::test]
async fn a_connection_that_is_let_go_is_not_cut_while_its_client_takes_what_is_left() {
    // A machine that is busy elsewhere for too long makes a client late that was not.
    let (soon, late) = (Duration::from_millis(500), Duration::from_secs(6));
    assert!(taken_in_steps(soon).await || taken_in_steps(late).await, "it was cut");
}

/// Whether a client gets all of an answer that it takes for three times as long as any wait may last.
async fn taken_in_steps(send: Duration) -> bool {
    const STEPS: usize = 12;
    let body = noise(10 + 10 * STEPS);
    let origin = Origin::with_body(body.clone()).await;
    let mut config = config_site(&origin);
    (config.timeouts.keep_alive, config.timeouts.send) = (Duration::from_millis(300), send);
    config.limits.slowest_client = 0;
    let proxy = alone(config).await;
    // Stored, it is handed on whole.
    get(&proxy, "own.test", "/").await;
    until(|| proxy.stats().flights == 0).await;
    let mut stream = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
    // A window of ten bytes for each stream.
    let settings = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[0, 4, 0, 0, 0, 10])].concat();
    stream.write_all(&[settings, frame(1, 5, 1, &block(&GET))].concat()).await.unwrap();
    let (mut got, mut told) = (Vec::new(), false);
    while got.len() < 10 || !told {
        match next_frame(&mut stream).await {
            Some((0, 1, data)) => got.extend(data),
            Some((7, ..)) => told = true,
            Some(_) => {}
            None => return false,
        }
    }
    let mut pace = tokio::time::interval(send / 4);
    for _ in 0..STEPS {
        pace.tick().await;
        if stream.write_all(&frame(8, 0, 1, &10_u32.to_be_bytes())).await.is_err() {
            return false;
        }
        let before = got.len();
        while got.len() == before {
            match next_frame(&mut stream).await {
                Some((0, 1, data)) => got.extend(data),
                Some(_) => {}
                None => return false,
            }
        }
    }
    got == body
}

/// The next frame: its kind, its stream, what it says.
async fn read_frame(stream: &mut TcpStream) -> (u8, u32, Vec<u8>) {
    next_frame(stream).await.expect("the connection ended")
}

/// The same, unless the connection ends.
async fn next_frame(stream: &mut TcpStream) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    soon(stream.read_exact(&mut head)).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    soon(stream.read_exact(&mut payload)).await.ok()?;
    Some((head[3], u32::from_be_bytes(head[5..].try_into().unwrap()), payload))
}

// H14: the window of one stream stays shut.
#[tokio::test]
async fn a_stream_that_its_client_lets_wait_is_reset_and_the_others_go_on() {
    let origin = Origin::start(|_, head| {
        let size = if head.starts_with("GET /large ") { 1_000_000 } else { 8 };
        ok("Cache-Control: max-age=60\r\n", &noise(size))
    })
    .await;
    let mut config = config_site(&origin);
    config.timeouts.send = Duration::from_millis(300);
    let proxy = alone(config).await;
    let mut stream = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    // A window of ten bytes for each stream.
    stream.write_all(&frame(4, 0, 0, &[0, 4, 0, 0, 0, 10])).await.unwrap();
    let mut large = GET;
    large[3] = (":path", "/large");
    stream.write_all(&frame(1, 5, 1, &block(&large))).await.unwrap();
    let (mut given, mut reset) = (0, false);
    while !reset {
        match read_frame(&mut stream).await {
            (0, 1, data) => given += data.len(),
            (3, 1, _) => reset = true,
            (7, ..) => panic!("all of the connection ends"),
            _ => {}
        }
    }
    assert_eq!(given, 10);
    stream.write_all(&frame(1, 5, 3, &block(&GET))).await.unwrap();
    while !matches!(read_frame(&mut stream).await, (0, 3, data) if data.len() == 8) {}
}

#[tokio::test]
async fn what_http_2_clients_may_do_is_as_configured() {
    let origin = Origin::with_body(noise(10)).await;
    let mut config = config_site(&origin);
    (config.http2.streams, config.http2.window, config.limits.head) = (7, 100_000, 9_000);
    let proxy = alone(config).await;
    let mut stream = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    let (kind, _, settings) = read_frame(&mut stream).await;
    assert_eq!(kind, 4);
    for (id, value) in [(3_u16, 7_u32), (4, 100_000), (6, 9_000)] {
        let setting = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
        assert!(settings.chunks(6).any(|found| found == setting), "{id}: {settings:?}");
    }
    // A connection begins with 65,535 bytes [RFC 9113 6.9.2]; an upload that nobody takes does not fill it.
    let opened = loop {
        match read_frame(&mut stream).await {
            (8, 0, more) => break u32::from_be_bytes(more.try_into().unwrap()),
            (kind, ..) => assert_ne!(kind, 7, "it ends"),
        }
    };
    assert_eq!(opened + 65_535, 4 * 100_000);
}

// H14: it takes a byte at a time, always before any wait would be too long.
#[tokio::test]
async fn a_client_that_takes_next_to_nothing_is_cut() {
    let origin = Origin::with_body(noise(16 << 20)).await;
    let mut config = config_site(&origin);
    config.timeouts.send = Duration::from_millis(500);
    config.limits.slowest_client = 1 << 30;
    let proxy = alone(config).await;
    let mut stream = narrow(proxy.local_addrs()[0]).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: own.test\r\n\r\n").await.unwrap();
    let mut got = 0;
    // What the systems on the way hold by then is not read.
    while soon(stream.read_u8()).await.is_ok() && proxy.stats().connections > 0 {
        got += 1;
        assert!(got < 16 << 20, "it was given all of it");
    }
    until(|| proxy.stats().connections == 0).await;
}

// O07: an origin that sends a byte now and then.
#[tokio::test]
async fn an_origin_that_drips_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4_096]).await;
                let head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 1000000\r\n\r\n";
                let _ = stream.write_all(head).await;
                let mut drips = tokio::time::interval(Duration::from_millis(20));
                while stream.write_all(b"x").await.is_ok() {
                    drips.tick().await;
                }
            });
        }
    });
    let mut config = config();
    let origin = atoll_proxy::SiteOrigin::One(format!("http://{address}"));
    config.sites.insert("*".to_owned(), atoll_proxy::Site { origin, ..atoll_proxy::Site::default() });
    config.timeouts.origin_slow = Duration::from_millis(400);
    config.limits.slowest_origin = 1_000;
    let proxy = alone(config).await;
    let answer = get(&proxy, "own.test", "/").await;
    assert!(answer.status == 200 && !answer.complete && answer.body.len() < 10_000, "{}", answer.body.len());
    until(|| proxy.stats().flights == 0).await;
}

#[tokio::test]
async fn an_upload_may_take_longer_than_an_origin_to_answer() {
    // A machine that is busy elsewhere for so long makes an origin late that was not.
    let (soon, late) = (Duration::from_millis(500), Duration::from_secs(8));
    assert!(upload_over_http_1(soon).await || upload_over_http_1(late).await, "HTTP/1.1: it was given up");
    assert!(upload_over_http_2(soon).await || upload_over_http_2(late).await, "HTTP/2: it was given up");
}

/// A proxy before a sink, whose origins have to answer within a span.
async fn impatient(sink: &Sink, first_byte: Duration) -> Proxy {
    let mut config = sink.config();
    config.timeouts.first_byte = first_byte;
    alone(config).await
}

/// As long as an origin of that proxy may take to answer: one that does not is given up.
async fn beyond_first_byte(proxy: &Proxy) {
    assert_eq!(get(proxy, "own.test", "/silent").await.status, 504);
}

/// Whether a body is taken that comes no sooner than an answer would have to.
async fn upload_over_http_1(first_byte: Duration) -> bool {
    let sink = Sink::start().await;
    let proxy = impatient(&sink, first_byte).await;
    let mut stream = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
    stream.write_all(b"POST /a HTTP/1.1\r\nHost: own.test\r\nContent-Length: 8\r\n\r\nbody ").await.unwrap();
    until(|| sink.got().ends_with("body ")).await;
    beyond_first_byte(&proxy).await;
    stream.write_all(b"END").await.unwrap();
    let mut answer = [0; 12];
    soon(stream.read_exact(&mut answer)).await.unwrap();
    &answer == b"HTTP/1.1 201"
}

/// The same.
async fn upload_over_http_2(first_byte: Duration) -> bool {
    let sink = Sink::start().await;
    let proxy = impatient(&sink, first_byte).await;
    let (to, body) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(1);
    let pieces = futures::stream::unfold(body, |mut body| async { body.recv().await.map(|piece| (piece, body)) });
    let stream = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut two, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://own.test/b").body(StreamBody::new(Box::pin(pieces))).unwrap();
    let answer = tokio::spawn(two.send_request(request));
    to.send(Ok(Frame::data(Bytes::from_static(b"more ")))).await.unwrap();
    until(|| sink.got().contains("more ")).await;
    beyond_first_byte(&proxy).await;
    let _ = to.send(Ok(Frame::data(Bytes::from_static(b"END")))).await;
    drop(to);
    soon(answer).await.unwrap().is_ok_and(|answer| answer.status() == 201)
}

#[tokio::test]
async fn a_client_whose_body_does_not_come_is_told_so_and_the_origin_is_not_blamed() {
    let sink = Sink::start().await;
    let mut config = sink.config();
    config.timeouts.send = Duration::from_millis(500);
    config.timeouts.first_byte = Duration::from_secs(60);
    // An origin that was blamed would not be asked again.
    config.breaker.failures = 1;
    (config.breaker.pause_first, config.breaker.pause_most) = (Duration::from_secs(3_600), Duration::from_secs(3_600));
    let proxy = alone(config).await;
    for framing in ["Content-Length: 8", "Transfer-Encoding: chunked"] {
        let body = if framing.starts_with('C') { "body " } else { "5\r\nbody \r\n" };
        let request = format!("POST /a HTTP/1.1\r\nHost: own.test\r\n{framing}\r\n\r\n{body}");
        let mut stream = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("http_request_error"), "{framing}: {text}");
    }
    let whole = b"POST /a HTTP/1.1\r\nHost: own.test\r\nConnection: close\r\nContent-Length: 3\r\n\r\nEND";
    let good = async || exchange(proxy.local_addrs()[0], whole).await.starts_with(b"HTTP/1.1 201 ");
    // On a busy machine this one too may seem to be late.
    soon(async { while !good().await {} }).await;
    assert_eq!(proxy.stats().circuits_open, 0);
}

/// Connects with little room for what is received.
async fn narrow(to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(to).await.unwrap()
}

// TLS holds back what the socket has no room for, and has to be told to go on.
#[tokio::test]
async fn a_slow_client_over_tls_gets_the_last_byte_of_a_hit_without_asking_for_more() {
    let body = noise(1 << 20);
    let origin = Origin::with_body(body.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let (files, root) = certificate(folder.path(), "own.test");
    let mut config = config_site(&origin);
    config.sites.insert("own.test".to_owned(), site_of(&origin));
    config.listen_tls = vec!["127.0.0.1:0".parse().unwrap()];
    config.certificates = vec![files];
    // A connection that hangs would be flushed when it is found idle.
    config.timeouts.keep_alive = Duration::from_secs(3_600);
    let proxy = alone(config).await;
    let to = proxy.tls_addrs()[0];
    let request = b"GET / HTTP/1.1\r\nHost: own.test\r\n\r\n";
    for hit in [false, true] {
        let tcp = narrow(to).await;
        let mut stream = secure(tcp, "own.test", std::slice::from_ref(&root), b"http/1.1").await.unwrap();
        stream.write_all(request).await.unwrap();
        if hit {
            until(|| proxy.stats().requests >= 2).await;
        }
        let mut got = Vec::new();
        let began = Instant::now();
        let mut piece = vec![0; 4_096];
        let whole = |got: &[u8]| {
            let head = got.windows(4).position(|four| four == b"\r\n\r\n");
            head.is_some_and(|head| got.len() == head + 4 + body.len())
        };
        while !whole(&got) {
            let count = soon(stream.read(&mut piece)).await.unwrap();
            assert!(count > 0, "closed after {} bytes and {:?}", got.len(), began.elapsed());
            got.extend_from_slice(&piece[..count]);
        }
        assert!(got.ends_with(&body));
        until(|| proxy.stats().flights == 0).await;
    }
}
