//! Questions over HTTPS (RFC 8484): GET with the message in `dns`, POST with it as body, HTTP/2 or 1.1 as the handshake says; HEAD as
//! GET, without the reply (RFC 9110 9.3.2). The path is `/dns-query`. How long a reply may be kept follows from the least TTL in it. A connection that is to end is told so first, by
//! GOAWAY or `Connection: close`, so that its client asks again what was not answered (RFC 9113 6.8).

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;

use crate::{Transport, connection, question::least_ttl, redirector::Redirector, seats::Seat};

/// Serves one connection to its end, until nothing was asked for too long, or until its place is given to another.
pub(crate) async fn serve(
    redirector: &Arc<Redirector>,
    stream: TlsStream<TcpStream>,
    from: SocketAddr,
    seat: Arc<Seat>,
) {
    let idle = redirector.config.limits.tcp_idle;
    let two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let requests = Arc::new(AtomicU64::new(0));
    let service = {
        let (redirector, requests, seat) = (Arc::clone(redirector), Arc::clone(&requests), Arc::clone(&seat));
        service_fn(move |request| {
            requests.fetch_add(1, Ordering::Relaxed);
            let (redirector, seat) = (Arc::clone(&redirector), Arc::clone(&seat));
            async move { Ok::<_, Infallible>(answer(&redirector, request, from, &seat).await) }
        })
    };
    let stream = TokioIo::new(stream);
    let over = async {
        tokio::select! {
            () = silence(&requests, idle) => {}
            () = seat.lost() => {}
        }
    };
    if two {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).max_concurrent_streams(STREAMS).max_header_list_size(HEAD);
        builder.max_pending_accept_reset_streams(RESETS).max_local_error_reset_streams(RESETS);
        let connection = builder.serve_connection(stream, service);
        until((over, seat.ended()), connection, http2::Connection::graceful_shutdown).await;
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(idle).max_buf_size(usize::try_from(HEAD).unwrap_or(8192));
        let connection = builder.serve_connection(stream, service);
        until((over, seat.ended()), connection, http1::Connection::graceful_shutdown).await;
    }
}

/// Serves a connection to its end, or until it is over; then its client is told, and what is under way may end, unless it is to end at
/// once.
async fn until<C: Future>(
    (over, ended): (impl Future<Output = ()>, impl Future<Output = ()>),
    connection: C,
    tell: impl FnOnce(Pin<&mut C>),
) {
    let mut connection = pin!(connection);
    tokio::select! {
        _ = &mut connection => return,
        () = over => {}
    }
    tell(connection.as_mut());
    // One that does not listen is cut.
    tokio::select! {
        _ = timeout(LAST_WORDS, connection) => {}
        () = ended => {}
    }
}

/// Ready once nothing was asked for a whole span.
async fn silence(requests: &AtomicU64, span: Duration) {
    loop {
        let before = requests.load(Ordering::Relaxed);
        sleep(span).await;
        if requests.load(Ordering::Relaxed) == before {
            return;
        }
    }
}

async fn answer(
    redirector: &Redirector,
    request: Request<Incoming>,
    from: SocketAddr,
    seat: &Arc<Seat>,
) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return refuse(StatusCode::NOT_FOUND);
    }
    let is_head = *request.method() == Method::HEAD;
    let query = match *request.method() {
        Method::GET | Method::HEAD => request.uri().query().and_then(asked).ok_or(StatusCode::BAD_REQUEST),
        Method::POST => body(request, redirector.config.limits.tcp_idle).await,
        _ => {
            let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
            return response;
        }
    };
    let query = match query {
        Ok(query) => query,
        Err(status) => return refuse(status),
    };
    // One whose question is still to come idles, however slowly it comes.
    let _answering = seat.answers();
    let Some(reply) = connection::reply(redirector, &query, from, Transport::Https).await else {
        return refuse(StatusCode::BAD_REQUEST);
    };
    let age = least_ttl(&reply).map_or_else(|| "no-store".to_owned(), |ttl| format!("max-age={ttl}"));
    let length = reply.len();
    let mut response = Response::new(if is_head { Full::default() } else { Full::new(Bytes::from(reply)) });
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MESSAGE));
    if let Ok(age) = HeaderValue::from_str(&age) {
        headers.insert(header::CACHE_CONTROL, age);
    }
    response
}

/// The message in a GET's query.
fn asked(query: &str) -> Option<Vec<u8>> {
    let text = query.split('&').find_map(|pair| pair.strip_prefix("dns="))?;
    decode(text).filter(|message| message.len() <= LONGEST)
}

/// The message in a POST's body.
async fn body(request: Request<Incoming>, idle: Duration) -> Result<Vec<u8>, StatusCode> {
    if !request.headers().get(header::CONTENT_TYPE).is_some_and(is_message) {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let read = timeout(idle, Limited::new(request.into_body(), LONGEST).collect()).await;
    let read = read.map_err(|_| StatusCode::REQUEST_TIMEOUT)?;
    read.map(|body| body.to_bytes().to_vec()).map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)
}

/// Whether a media type is that of messages: in whatever case, whatever its parameters (RFC 9110 8.3.1).
fn is_message(kind: &HeaderValue) -> bool {
    let name = kind.to_str().ok().and_then(|kind| kind.split(';').next());
    name.is_some_and(|name| name.trim().eq_ignore_ascii_case(MESSAGE))
}

fn refuse(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// base64url without padding (RFC 4648 5); none if it is none.
fn decode(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for byte in text.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    // What is left over is less than a byte, and zero.
    (held < 6 && bits & ((1 << held) - 1) == 0).then_some(bytes)
}

const PATH: &str = "/dns-query";
const MESSAGE: &str = "application/dns-message";
/// Bytes of a message.
const LONGEST: usize = 65_535;
/// Requests of one connection at a time. \[guess\]
const STREAMS: u32 = 100;
/// Bytes of a request's head: a message in a query has half as many more digits than bytes, and few are longer than 1 KiB.
const HEAD: u32 = 16 << 10;
/// How long a client may take to end what it has under way, once it is told that the connection ends. \[guess\]
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Streams that a client may reset before the connection ends.
const RESETS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_in_a_query_is_read_and_nothing_else_is() {
        assert_eq!(asked("dns=AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB").map(|message| message.len()), Some(33));
        assert_eq!(asked("a=b&dns=Zm9v"), Some(b"foo".to_vec()));
        for wrong in ["", "dns", "dns=Zg==", "dns=Z", "dns=Zh", "dns=Zm9v+", "dnss=Zm9v"] {
            assert_eq!(asked(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn any_text_is_decoded_or_refused() {
        bolero::check!().for_each(|bytes| {
            let _ = decode(&String::from_utf8_lossy(bytes));
        });
    }
}
