//! HTTP/2, in clear and over TLS: rows H17 and H18, and certificates that change while they serve.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use atoll_proxy::{Certificate, Proxy};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{Origin, alone, config_for, config_site, get, noise, soon, until};

pub(crate) type Sender = http2::SendRequest<Full<Bytes>>;

pub(crate) async fn speak<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static>(
    stream: S,
) -> Sender {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(sender: &mut Sender, request: http::request::Builder, body: &'static [u8]) -> (StatusCode, String, Bytes) {
    let request = request.body(Full::from(body)).unwrap();
    let response = soon(sender.send_request(request)).await.unwrap();
    let status = response.headers().get("cache-status").map(|it| it.to_str().unwrap().to_owned()).unwrap_or_default();
    (response.status(), status, response.into_body().collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn one_port_speaks_both_versions_in_clear() {
    let body = noise(300_000);
    let origin = Origin::with_body(body.clone()).await;
    let proxy = alone(config_site(&origin)).await;
    let mut two = speak(TcpStream::connect(proxy.local_addrs()[0]).await.unwrap()).await;
    let first = ask(&mut two, Request::get("http://own.test/a"), b"").await;
    assert!(first.0 == 200 && first.2 == body, "{first:?}");
    until(|| proxy.stats().flights == 0).await;
    let again = ask(&mut two, Request::get("http://own.test/a"), b"").await;
    assert!(again.1.contains("hit") && again.2 == body);
    assert!(get(&proxy, "own.test", "/a").await.cache_status().contains("hit"), "one object for both");
    let posted = ask(&mut two, Request::post("http://own.test/a"), b"hello").await;
    assert_eq!(posted.0, 200);
    assert!(origin.heads()[1].contains("content-length: 5\r\n"), "{}", origin.heads()[1]);
}

// H18, the gate's half: what HTTP/1 heads may not say is refused, and nothing reaches the origin.
#[tokio::test]
async fn heads_are_judged_by_the_same_rules() {
    let origin = Origin::with_body(noise(10)).await;
    let proxy = alone(config_for(&origin)).await;
    let host = origin.host();
    let url = format!("http://{host}/");
    let mut two = speak(TcpStream::connect(proxy.local_addrs()[0]).await.unwrap()).await;
    for (request, body, status) in [
        (Request::get(&url).header("host", "other.test"), b"".as_slice(), 400),
        (Request::get(&url).header("x", "\u{e9}"), b"", 400),
        (Request::get(&url).header("expect", "x"), b"", 417),
        (Request::get(&url).header("content-length", "5"), b"hello", 400),
        (Request::get(&url), b"hello", 400),
        (Request::post(&url), b"hello", 405),
        (Request::delete(&url), b"", 405),
        (Request::get(format!("http://{host}/{}", "a".repeat(20_000))), b"", 414),
        (Request::get("http://own:80@x/"), b"", 400),
        (Request::get(format!("http://{host}/%00")).header("x", "y"), b"", 200),
    ] {
        assert_eq!(ask(&mut two, request, body).await.0, status);
    }
    assert_eq!(origin.count(), 1);
}

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A block of literal fields.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

pub(crate) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "own.test"), (":path", "/")];

/// Sends frames after the preface until the other side has had enough; what it said of why.
pub(crate) async fn flood(proxy: &Proxy, frames: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let stream = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    let read = tokio::spawn(async move {
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all).await;
        all
    });
    to.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    to.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    for frame in frames {
        if to.write_all(&frame).await.is_err() {
            break;
        }
    }
    soon(read).await.unwrap()
}

/// The error of each GOAWAY among frames.
pub(crate) fn goaways(mut bytes: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    while bytes.len() >= 9 {
        let length = usize::from(bytes[1]) << 8 | usize::from(bytes[2]) | usize::from(bytes[0]) << 16;
        if bytes[3] == 7 && bytes.len() >= 17 {
            found.push(u32::from_be_bytes(bytes[13..17].try_into().unwrap()));
        }
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    found
}

// H17
#[tokio::test]
async fn floods_of_frames_end_their_connection() {
    let origin = Origin::with_body(noise(10)).await;
    let mut config = config_site(&origin);
    config.timeouts.keep_alive = Duration::from_secs(1);
    config.timeouts.send = Duration::from_secs(5);
    let proxy = alone(config).await;
    let resets = (0..100_000u32).map(|number| {
        let stream = number * 2 + 1;
        [frame(1, 5, stream, &block(&GET)), frame(3, 0, stream, &[0, 0, 0, 8])].concat()
    });
    assert!(goaways(&flood(&proxy, resets).await).contains(&11), "rapid resets: ENHANCE_YOUR_CALM");
    let opened = std::iter::once(frame(1, 1, 1, &block(&GET)));
    let continued = opened.chain((0..100_000).map(|_| frame(9, 0, 1, &block(&[("x", "y")]))));
    assert!(goaways(&flood(&proxy, continued).await).iter().any(|error| *error != 0), "endless header blocks");
    let bomb = std::iter::once(frame(1, 5, 1, &vec![0x40; 20_000]));
    assert!(goaways(&flood(&proxy, bomb).await).iter().any(|error| *error != 0), "a frame over the limit");
    let window = std::iter::repeat_n(frame(8, 0, 0, &0x7fff_ffff_u32.to_be_bytes()), 10);
    assert!(goaways(&flood(&proxy, window).await).contains(&3), "a window over 2^31");
    until(|| proxy.stats().connections == 0).await;
}

// H18, the parser's half.
#[tokio::test]
async fn malformed_heads_are_stream_errors_and_never_reach_the_origin() {
    let origin = Origin::with_body(noise(10)).await;
    let mut config = config_site(&origin);
    config.timeouts.keep_alive = Duration::from_millis(300);
    config.timeouts.send = Duration::from_millis(300);
    let proxy = alone(config).await;
    for extra in [
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("X-Upper", "1"),
        ("x", "a\r\nGET /smuggled"),
        ("x\r\ny", "a"),
        ("", "a"),
        ("x", " padded "),
        (":path", "/other"),
    ] {
        let mut fields = GET.to_vec();
        fields.push(extra);
        let answer = flood(&proxy, std::iter::once(frame(1, 5, 1, &block(&fields)))).await;
        assert!(!answer.windows(3).any(|three| three == b"200"), "{extra:?}");
        assert_eq!(origin.count(), 0, "{extra:?}");
    }
    // More DATA than content-length says.
    let mut fields = vec![(":method", "POST"), (":scheme", "http"), (":authority", "own.test"), (":path", "/")];
    fields.push(("content-length", "3"));
    let frames = [frame(1, 4, 1, &block(&fields)), frame(0, 1, 1, b"hello")];
    let answer = flood(&proxy, frames.into_iter()).await;
    assert!(answer.windows(9).any(|it| it[3] == 3) || !goaways(&answer).is_empty(), "an error was said");
}

// H18: a path without a leading slash is none, or somebody else's authority once it is written into an HTTP/1 head.
#[tokio::test]
async fn paths_that_begin_with_no_slash_are_refused_and_never_reach_the_origin() {
    let body = noise(1_000);
    let origin = Origin::with_body(body.clone()).await;
    let mut config = config_site(&origin);
    config.timeouts.keep_alive = Duration::from_millis(300);
    config.timeouts.send = Duration::from_millis(300);
    let proxy = alone(config).await;
    for path in ["x", "", "*", "?a", ".evil.test/", "@evil.test/", ":80/", "http://evil.test/", "\\x", " /x", "/x y"] {
        let mut fields = GET;
        fields[3].1 = path;
        let answer = flood(&proxy, std::iter::once(frame(1, 5, 1, &block(&fields)))).await;
        assert_eq!(origin.count(), 0, "{path:?}: {}", origin.heads().join(""));
        assert!(!answer.windows(body.len()).any(|bytes| bytes == body), "{path:?}");
    }
    let answer = flood(&proxy, std::iter::once(frame(1, 5, 1, &block(&GET)))).await;
    assert!(answer.windows(body.len()).any(|bytes| bytes == body), "a good one is served");
}

/// A certificate for a name, in files.
pub(crate) fn certificate(folder: &std::path::Path, name: &str) -> (Certificate, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let files =
        Certificate { certificate: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let der = CertificateDer::from_pem_file(&files.certificate).unwrap();
    (files, der)
}

async fn dial(to: SocketAddr) -> TcpStream {
    TcpStream::connect(to).await.unwrap()
}

pub(crate) async fn secure(
    stream: TcpStream,
    name: &'static str,
    roots: &[CertificateDer<'static>],
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name).unwrap(), stream).await
}

#[tokio::test]
async fn tls_serves_both_versions_by_the_name_asked_for_and_new_certificates_at_once() {
    let origin = Origin::with_body(noise(100)).await;
    let folder = tempfile::tempdir().unwrap();
    let (one, one_root) = certificate(folder.path(), "one.test");
    let (two, two_root) = certificate(folder.path(), "two.test");
    let mut config = config_site(&origin);
    config.listen_tls = vec!["127.0.0.1:0".parse().unwrap()];
    config.certificates = vec![one, two];
    let proxy = alone(config).await;
    let to = proxy.tls_addrs()[0];
    let mut sender = speak(secure(dial(to).await, "two.test", &[two_root], b"h2").await.unwrap()).await;
    assert_eq!(ask(&mut sender, Request::get("https://two.test/"), b"").await.0, 200);
    assert!(origin.heads()[0].contains("x-forwarded-proto: https\r\n"), "{}", origin.heads()[0]);
    let mut old = secure(dial(to).await, "one.test", std::slice::from_ref(&one_root), b"http/1.1").await.unwrap();
    old.write_all(b"GET /x HTTP/1.1\r\nHost: one.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(old.read_to_end(&mut answer)).await;
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!(
        secure(dial(to).await, "three.test", std::slice::from_ref(&one_root), b"h2").await.is_err(),
        "no certificate fits"
    );
    // A bad file changes nothing, a good one does.
    std::fs::write(folder.path().join("one.test.key"), "nonsense").unwrap();
    assert!(!proxy.reload_certificates());
    assert!(secure(dial(to).await, "one.test", std::slice::from_ref(&one_root), b"h2").await.is_ok());
    let (_, new_root) = certificate(folder.path(), "one.test");
    assert!(proxy.reload_certificates());
    assert!(secure(dial(to).await, "one.test", &[new_root], b"h2").await.is_ok());
    assert!(secure(dial(to).await, "one.test", &[one_root], b"h2").await.is_err());
}
