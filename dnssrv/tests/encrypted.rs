//! Questions over TLS and over HTTPS: the same answers as over TCP, padded, kept as long as they say, and bounded.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use atoll_dnssrv::Server;
use bytes::Bytes;
use hickory_proto::rr::RecordType;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{real::run, support::*};

const NAME: &str = "www.example.com.nyud.example";

/// A server with a certificate of the test's own, and what trusts it.
struct Stage {
    server: Server,
    clear: SocketAddr,
    trusted: CertificateDer<'static>,
    folder: tempfile::TempDir,
}

async fn stage(change: impl FnOnce(&mut atoll_dnssrv::Config)) -> Stage {
    let folder = tempfile::tempdir().unwrap();
    let (files, trusted) = certificate(folder.path(), "ns.nyud.example");
    let (server, clear) = alone(|config| {
        config.listen_tls = vec![([127, 0, 0, 1], 0).into()];
        config.listen_https = vec![([127, 0, 0, 1], 0).into()];
        config.certificates = vec![files];
        change(config);
    })
    .await;
    Stage { server, clear, trusted, folder }
}

fn certificate(folder: &Path, name: &str) -> (atoll_tls::Files, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let files = atoll_tls::Files { certificate: folder.join("chain.pem"), key: folder.join("key.pem") };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    (files, made.cert.der().clone())
}

impl Stage {
    async fn connect(&self, to: SocketAddr, protocol: &str) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusted.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(to).await.unwrap();
        let name = ServerName::try_from("ns.nyud.example").unwrap();
        let stream =
            timeout(DEADLINE, TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap().unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
        stream
    }

    async fn tls(&self) -> TlsStream<TcpStream> {
        self.connect(self.server.tls_addrs()[0], "dot").await
    }

    /// One request over a connection of its own.
    async fn https(&self, protocol: &str, request: Request<Full<Bytes>>) -> Response<Bytes> {
        let stream = TokioIo::new(self.connect(self.server.https_addrs()[0], protocol).await);
        let response = if protocol == "h2" {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            timeout(DEADLINE, sender.send_request(request)).await.unwrap().unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            timeout(DEADLINE, sender.send_request(request)).await.unwrap().unwrap()
        };
        let (head, body) = response.into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }
}

async fn exchange_over(stream: &mut TlsStream<TcpStream>, query: &[u8]) -> Vec<u8> {
    stream.write_all(&[&u16::try_from(query.len()).unwrap().to_be_bytes()[..], query].concat()).await.unwrap();
    let mut length = [0; 2];
    timeout(DEADLINE, stream.read_exact(&mut length)).await.expect("a reply in time").expect("a reply");
    let mut reply = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut reply).await.unwrap();
    reply
}

fn get(query: &str) -> Request<Full<Bytes>> {
    let uri = format!("https://ns.nyud.example/dns-query{query}");
    Request::get(uri).header("host", "ns.nyud.example").body(Full::default()).unwrap()
}

fn post(kind: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    let request = Request::post("https://ns.nyud.example/dns-query").header("host", "ns.nyud.example");
    request.header("content-type", kind).body(Full::from(body)).unwrap()
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digit = |chunk: &[u8], place: usize| {
        let bits = chunk.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        char::from(DIGITS[bits >> (18 - 6 * place) & 63])
    };
    bytes.chunks(3).flat_map(|chunk| (0..=chunk.len()).map(move |place| digit(chunk, place))).collect()
}

const MESSAGE: &str = "application/dns-message";

#[tokio::test]
async fn the_same_answer_comes_over_tls_and_https_as_in_clear() {
    let stage = stage(|_| {}).await;
    let bytes = with_opt(query(NAME, RecordType::A), 0, 1232, &[]);
    let expected = exchange_tcp(stage.clear, &bytes).await;
    let mut stream = stage.tls().await;
    for _ in 0..3 {
        assert_eq!(exchange_over(&mut stream, &bytes).await, expected);
    }
    for protocol in ["h2", "http/1.1"] {
        for request in [get(&format!("?dns={}", base64url(&bytes))), post(MESSAGE, bytes.clone())] {
            let response = stage.https(protocol, request).await;
            assert_eq!(response.status(), StatusCode::OK, "{protocol}");
            assert_eq!(response.headers()["content-type"], MESSAGE);
            assert_eq!(response.headers()["cache-control"], "max-age=3600", "the alias's TTL");
            assert_eq!(response.body(), &expected, "{protocol}");
        }
        let mut head = get(&format!("?dns={}", base64url(&bytes)));
        *head.method_mut() = Method::HEAD;
        let response = stage.https(protocol, head).await;
        assert_eq!((response.status(), response.body().len()), (StatusCode::OK, 0), "{protocol}: HEAD");
        assert_eq!(response.headers()["content-length"], expected.len().to_string(), "{protocol}: as GET would say");
        assert_eq!(response.headers()["content-type"], MESSAGE);
        assert_eq!(response.headers()["cache-control"], "max-age=3600");
        for kind in
            ["Application/DNS-Message", "application/dns-message; charset=binary", "application/dns-message ;a=b"]
        {
            let response = stage.https(protocol, post(kind, bytes.clone())).await;
            assert_eq!(
                (response.status(), response.body().to_vec()),
                (StatusCode::OK, expected.clone()),
                "{protocol}: {kind}"
            );
        }
    }
    let ways: Vec<&str> = stage.server.stats().queries.keys().map(|(.., way)| *way).collect();
    assert_eq!(ways, ["https", "tcp", "tls"]);
}

#[tokio::test]
async fn a_padded_question_has_a_reply_of_whole_blocks_and_in_clear_none_has() {
    let stage = stage(|_| {}).await;
    let padded = with_opt(query(NAME, RecordType::A), 0, 1232, &[0, 12, 0, 3, 0, 0, 0]);
    let mut stream = stage.tls().await;
    let reply = exchange_over(&mut stream, &padded).await;
    assert_eq!(reply.len() % 468, 0, "RFC 8467 4.1");
    assert_eq!(message(&reply).answers.len(), 1);
    assert!(exchange_tcp(stage.clear, &padded).await.len() < 468, "RFC 7830 6: not where all can read it");
    let plain = with_opt(query(NAME, RecordType::A), 0, 1232, &[]);
    assert!(exchange_over(&mut stream, &plain).await.len() < 468, "RFC 7830 4: only where it was asked for");
}

#[tokio::test]
async fn requests_that_are_no_questions_are_refused_as_rfc_8484_has_it() {
    let stage = stage(|_| {}).await;
    let good = query(NAME, RecordType::A);
    let elsewhere = |path: &str| {
        let uri = format!("https://ns.nyud.example{path}");
        Request::get(uri).header("host", "ns.nyud.example").body(Full::default()).unwrap()
    };
    let mut put = post(MESSAGE, good.clone());
    *put.method_mut() = Method::PUT;
    for (what, request, status) in [
        ("another path", elsewhere("/"), StatusCode::NOT_FOUND),
        ("no question", get(""), StatusCode::BAD_REQUEST),
        ("no base64url", get("?dns=+++"), StatusCode::BAD_REQUEST),
        ("too short for a message", get("?dns=AAAA"), StatusCode::BAD_REQUEST),
        ("another method", put, StatusCode::METHOD_NOT_ALLOWED),
        ("another type", post("text/plain", good.clone()), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("a longer type", post("application/dns-messages", good.clone()), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (
            "a type in a parameter",
            post("text/plain;application/dns-message", good.clone()),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        ("too long", post(MESSAGE, vec![0; 65_536]), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        assert_eq!(stage.https("h2", request).await.status(), status, "{what}");
    }
    // What is wrong with a message is said by a message.
    let response = stage.https("h2", post(MESSAGE, [good, vec![0]].concat())).await;
    assert_eq!((response.status(), response.body()[3] & 15), (StatusCode::OK, 1));
}

#[tokio::test]
async fn connections_that_say_nothing_or_are_too_many_are_closed() {
    let stage = stage(|config| {
        config.limits.tcp_idle = Duration::from_millis(200);
        config.limits.tcp_per_prefix = 3;
        config.rate_limit.exempt.clear();
    })
    .await;
    for to in [stage.server.tls_addrs()[0], stage.server.https_addrs()[0]] {
        let mut silent = TcpStream::connect(to).await.unwrap();
        let ended = timeout(DEADLINE, silent.read(&mut [0; 64])).await.expect("it is closed in time");
        assert!(matches!(ended, Ok(0) | Err(_)), "no handshake: {ended:?}");
    }
    for mut idle in [stage.tls().await, stage.connect(stage.server.https_addrs()[0], "h2").await] {
        let mut rest = Vec::new();
        let ended = timeout(DEADLINE, idle.read_to_end(&mut rest)).await.expect("it is closed in time");
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof));
    }
}

#[tokio::test]
async fn all_ways_to_connect_share_one_limit() {
    let stage = stage(|config| {
        config.limits.tcp_idle = 10 * DEADLINE;
        config.limits.tcp_per_prefix = 3;
        config.rate_limit.exempt.clear();
    })
    .await;
    let mut first = TcpStream::connect(stage.clear).await.unwrap();
    let bytes = query(NAME, RecordType::A);
    first.write_all(&[&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()).await.unwrap();
    let mut length = [0; 2];
    timeout(DEADLINE, first.read_exact(&mut length)).await.expect("a reply in time").unwrap();
    first.read_exact(&mut vec![0; u16::from_be_bytes(length).into()]).await.unwrap();
    let mut crowd = vec![TcpStream::connect(stage.clear).await.unwrap()];
    for address in [stage.server.tls_addrs()[0], stage.server.https_addrs()[0]] {
        crowd.push(TcpStream::connect(address).await.unwrap());
    }
    let ended = timeout(DEADLINE, first.read(&mut [0; 1])).await.expect("the longest idle one makes room");
    assert!(matches!(ended, Ok(0) | Err(_)));
}

#[tokio::test]
async fn an_idle_connection_over_https_makes_room_like_any_other_and_is_told_so() {
    for protocol in ["h2", "http/1.1"] {
        let stage = stage(|config| {
            config.limits.tcp_idle = 10 * DEADLINE;
            config.limits.tcp_connections = 2;
        })
        .await;
        let to = stage.server.https_addrs()[0];
        let bytes = query(NAME, RecordType::A);
        let uri = format!("?dns={}", base64url(&bytes));
        let stream = TokioIo::new(stage.connect(to, protocol).await);
        // It has been answered once and idles from then on, its client listening.
        let ended = if protocol == "h2" {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            let ended = tokio::spawn(connection);
            let answer = timeout(DEADLINE, sender.send_request(get(&uri))).await.unwrap().unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            answer.into_body().collect().await.unwrap();
            (ended, Box::new(sender) as Box<dyn std::any::Any>)
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            let ended = tokio::spawn(connection);
            let answer = timeout(DEADLINE, sender.send_request(get(&uri))).await.unwrap().unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            answer.into_body().collect().await.unwrap();
            (ended, Box::new(sender) as Box<dyn std::any::Any>)
        };
        // The second and the third both find a place, and are answered.
        let mut others =
            [TcpStream::connect(stage.clear).await.unwrap(), TcpStream::connect(stage.clear).await.unwrap()];
        for other in &mut others {
            other.write_all(&[&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()).await.unwrap();
            let mut length = [0; 2];
            timeout(DEADLINE, other.read_exact(&mut length)).await.expect("a reply in time").expect("a reply");
            other.read_exact(&mut vec![0; u16::from_be_bytes(length).into()]).await.unwrap();
        }
        let (ended, _sender) = ended;
        let ended = timeout(DEADLINE, ended).await.expect("it is closed in time").unwrap();
        assert!(ended.is_ok(), "{protocol}: it was told, not cut: {ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dig_asks_over_tls_and_https() {
    let stage = stage(|_| {}).await;
    for (way, address) in [("+tls", stage.server.tls_addrs()[0]), ("+https", stage.server.https_addrs()[0])] {
        let port = address.port().to_string();
        let arguments = ["@127.0.0.1", "-p", &port, way, "+time=10", "+tries=1", NAME, "A"];
        let output = tokio::task::block_in_place(|| run("dig", &arguments, stage.folder.path()));
        assert!(output.contains("status: NOERROR") && output.contains("IN\tCNAME"), "{way}: {output}");
    }
}
