//! Asking another manager or peer over HTTP or HTTPS: small answers, bounded in time and bytes, over a connection of its own or one
//! that is kept. Over TLS the system's roots say whom to believe, as they do for clients.

use std::{fmt, io, net::SocketAddr, time::Duration};

use atoll_proxy::Authority;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::OnceCell,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

/// Where a manager or peer is reached: `http://HOST:PORT` or `https://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    secure: bool,
    host: String,
    port: u16,
}

impl Place {
    /// Reads `http://host:port` or `https://host:port`, with or without a slash at the end, or `host:port`. Says what is wrong with
    /// others.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?} is no URL of a machine: {why}, such as http://203.0.113.5:5000");
        let secure = text.strip_prefix("https://");
        let rest = secure.or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        if rest.contains("://") {
            return Err(wrong("only http:// and https:// are spoken between managers and peers"));
        }
        let authority = Authority::parse(rest.trim_end_matches('/')).map_err(|error| wrong(&error.to_string()))?;
        let usual = if secure.is_some() { 443 } else { 80 };
        let port = authority.port().unwrap_or(usual);
        Ok(Self { secure: secure.is_some(), host: authority.host().to_owned(), port })
    }

    /// An address as a place.
    pub(crate) fn of(address: SocketAddr) -> Self {
        let host = match address.ip().to_canonical() {
            std::net::IpAddr::V4(v4) => v4.to_string(),
            std::net::IpAddr::V6(v6) => format!("[{v6}]"),
        };
        Self { secure: false, host, port: address.port() }
    }

    /// `host:port`, as a Host field says it.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Its host, a v6 address in brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Whether it is spoken to over TLS.
    pub(crate) const fn is_secure(&self) -> bool {
        self.secure
    }

    /// The same, spoken to over TLS.
    pub(crate) fn secured(&self) -> Self {
        Self { secure: true, ..self.clone() }
    }

    /// Its port.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.secure { "https" } else { "http" }, self.host, self.port)
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Bytes,
}

impl Question {
    /// A GET.
    pub(crate) fn get(target: impl Into<String>) -> Self {
        Self { method: Method::GET, target: target.into(), fields: HeaderMap::new(), body: Bytes::new() }
    }

    /// A POST of JSON.
    pub(crate) fn post(target: impl Into<String>, value: &impl serde::Serialize) -> Self {
        let body = serde_json::to_vec(value).unwrap_or_default().into();
        Self { method: Method::POST, target: target.into(), fields: HeaderMap::new(), body }
    }

    /// With one field more.
    pub(crate) fn with(mut self, name: http::HeaderName, value: &str) -> Self {
        if let Ok(value) = value.parse() {
            self.fields.insert(name, value);
        }
        self
    }
}

/// What was answered.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// The body as JSON of a type.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, AskError> {
        serde_json::from_slice(&self.body).map_err(|error| AskError::Strange(error.to_string()))
    }

    /// The body as one line of text, for people.
    pub(crate) fn line(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        crate::out::plain(text.trim()).chars().take(400).collect()
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody listens there.
    #[error("{place} cannot be reached: {reason}")]
    Unreachable {
        /// Where.
        place: String,
        /// What the system said.
        reason: String,
    },
    /// It took too long.
    #[error("{place} did not answer within {within:?}")]
    Late {
        /// Where.
        place: String,
        /// How long was waited.
        within: Duration,
    },
    /// It answers something else.
    #[error("what answers is no Atoll: {0}")]
    Strange(String),
}

/// How long and how much an answer may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) time: Duration,
    pub(crate) bytes: usize,
}

/// A connection that is kept from one question to the next, and made anew when it broke.
#[derive(Debug)]
pub(crate) struct Line {
    place: Place,
    open: Option<(SendRequest<Full<Bytes>>, Driver)>,
    round_trip: Option<Duration>,
    local: Option<SocketAddr>,
}

impl Line {
    /// A line to this place; nothing is dialled yet.
    pub(crate) const fn to(place: Place) -> Self {
        Self { place, open: None, round_trip: None, local: None }
    }

    /// How long the last connect took: one round trip, and none if nothing was dialled.
    pub(crate) const fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// The own end of the last connection: what the other side logs as its client.
    pub(crate) const fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Asks once. After an error the next question dials anew.
    pub(crate) async fn ask(&mut self, question: Question, bounds: Bounds) -> Result<Reply, AskError> {
        let late = || AskError::Late { place: self.place.to_string(), within: bounds.time };
        let late = late();
        let answer = timeout(bounds.time, self.exchange(question, bounds.bytes)).await.unwrap_or(Err(late));
        if answer.is_err() {
            self.open = None;
        }
        answer
    }

    async fn exchange(&mut self, question: Question, bytes: usize) -> Result<Reply, AskError> {
        if self.open.as_mut().is_none_or(|(sender, _)| sender.is_closed()) {
            self.open = Some(self.dial().await?);
        }
        let Some((sender, _)) = self.open.as_mut() else { return Err(AskError::Strange("no line".to_owned())) };
        let broke =
            |error: hyper::Error| AskError::Unreachable { place: self.place.to_string(), reason: error.to_string() };
        sender.ready().await.map_err(broke)?;
        let mut request = Request::builder().method(question.method).uri(question.target);
        request = request.header(header::HOST, self.place.authority());
        let mut request =
            request.body(Full::new(question.body)).map_err(|error| AskError::Strange(error.to_string()))?;
        request.headers_mut().extend(question.fields);
        let (head, body) = sender.send_request(request).await.map_err(broke)?.into_parts();
        let body = Limited::new(body, bytes).collect().await.map_err(|error| AskError::Strange(error.to_string()))?;
        Ok(Reply { status: head.status, fields: head.headers, body: body.to_bytes() })
    }

    async fn dial(&mut self) -> Result<(SendRequest<Full<Bytes>>, Driver), AskError> {
        let unreachable =
            |error: io::Error| AskError::Unreachable { place: self.place.to_string(), reason: error.to_string() };
        let begun = Instant::now();
        let stream = TcpStream::connect(self.place.authority()).await.map_err(unreachable)?;
        self.round_trip = Some(begun.elapsed());
        self.local = stream.local_addr().ok();
        // Costs a delay at worst.
        let _ = stream.set_nodelay(true);
        if !self.place.secure {
            return drive(stream).await;
        }
        let host = self.place.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(|error| AskError::Strange(error.to_string()))?;
        let connector = connector().await.map_err(unreachable)?;
        drive(connector.connect(name, stream).await.map_err(unreachable)?).await
    }
}

/// HTTP over an open stream.
async fn drive<S>(stream: S) -> Result<(SendRequest<Full<Bytes>>, Driver), AskError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| AskError::Strange(error.to_string()))?;
    let driver = tokio::spawn(async move {
        // How it ends shows at the next question.
        let _ = connection.await;
    });
    Ok((sender, Driver(driver)))
}

/// What TLS is dialled with: made once, when it is first needed, since the system's roots are some hundred files.
async fn connector() -> io::Result<TlsConnector> {
    static CONNECTOR: OnceCell<TlsConnector> = OnceCell::const_new();
    let made = CONNECTOR.get_or_try_init(|| async {
        let config = tokio::task::spawn_blocking(|| atoll_tls::client(&["http/1.1"])).await?;
        config.map(TlsConnector::from).map_err(io::Error::other)
    });
    made.await.cloned()
}

/// Asks once over a connection of its own; the reply, and how long the connect took.
pub(crate) async fn ask(place: &Place, question: Question, bounds: Bounds) -> Result<(Reply, Duration), AskError> {
    let mut line = Line::to(place.clone());
    let reply = line.ask(question, bounds).await?;
    Ok((reply, line.round_trip().unwrap_or_default()))
}

/// The task of a connection, which ends with its line.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_host_and_a_port_over_http_or_https() {
        let shown = |text: &str| Place::parse(text).map(|place| place.to_string());
        assert_eq!(shown("http://10.0.0.5:5000/").as_deref(), Ok("http://10.0.0.5:5000"));
        assert_eq!(shown("Box:5001").as_deref(), Ok("http://box:5001"));
        assert_eq!(shown("http://[2001:DB8::1]:5000").as_deref(), Ok("http://[2001:db8::1]:5000"));
        assert_eq!(shown("http://a.test").as_deref(), Ok("http://a.test:80"));
        assert_eq!(shown("https://a.test").as_deref(), Ok("https://a.test:443"));
        assert!(
            Place::parse("https://a.test").unwrap().is_secure() && !Place::parse("a.test:443").unwrap().is_secure()
        );
        for wrong in ["", "https://a.test/x", "http://a.test/x", "ftp://a", "http://u@a", "http://a:0", "http://a b"] {
            assert!(Place::parse(wrong).is_err(), "{wrong}");
        }
    }
}
