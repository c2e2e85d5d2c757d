//! A client of the demo: resolves the Coralized name through its region's resolver and fetches one path through an answered
//! proxy, from an address of its own region.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpSocket, time::timeout};

/// What a fetch brought.
#[derive(Debug)]
pub(super) struct Fetched {
    /// The HTTP status.
    pub status: u16,
    /// Where the proxy had it from, by its own `Cache-Status`.
    pub source: Option<Source>,
    /// The whole body.
    pub body: Bytes,
}

/// Where a proxy had a copy from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// Its own cache, or a fetch that was under way already.
    Local,
    /// A peer, found at this level.
    Peer(u8),
    /// The origin.
    Origin,
}

/// Fetches a path of a Coralized host from one proxy. The text of an error says what broke.
pub(super) async fn fetch(from: Ipv4Addr, proxy: IpAddr, port: u16, host: &str, path: &str) -> Result<Fetched, String> {
    timeout(PATIENCE, exchange(from, (proxy, port).into(), host, path))
        .await
        .map_err(|_| format!("{proxy} did not finish {path} within {PATIENCE:?}"))?
        .map_err(|error| format!("{path} from {proxy}: {error}"))
}

async fn exchange(from: Ipv4Addr, proxy: SocketAddr, host: &str, path: &str) -> Result<Fetched, BoxedError> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect(proxy).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request =
        Request::get(path).header(header::HOST, format!("{host}:{}", proxy.port())).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let cache_status = response.headers().get("cache-status").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let source = Source::from_cache_status(cache_status);
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    Ok(Fetched { status, source, body })
}

impl Source {
    /// Reads the last node's word (RFC 9211: the member nearest to the client comes last).
    fn from_cache_status(field: &str) -> Option<Self> {
        let member = field.rsplit(',').next()?;
        let mut parameters = member.split(';').map(str::trim).skip(1);
        let detail = parameters.clone().find_map(|parameter| parameter.strip_prefix("detail="));
        if parameters.any(|parameter| parameter == "hit" || parameter == "collapsed") {
            return Some(Self::Local);
        }
        match detail? {
            "origin" => Some(Self::Origin),
            "peer-l2" => Some(Self::Peer(2)),
            "peer-l1" => Some(Self::Peer(1)),
            "peer-l0" => Some(Self::Peer(0)),
            _ => None,
        }
    }
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// How long a fetch may take: the whole origin takes ten seconds through its line.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_member_nearest_to_the_client_decides() {
        let source = Source::from_cache_status;
        assert_eq!(source("atoll; hit; ttl=3599"), Some(Source::Local));
        assert_eq!(source("atoll; fwd=uri-miss; detail=peer-l1"), Some(Source::Peer(1)));
        assert_eq!(source("origin; hit, atoll; fwd=uri-miss; stored; detail=origin"), Some(Source::Origin));
        assert_eq!(source("atoll; fwd=uri-miss; collapsed; detail=origin"), Some(Source::Local));
        assert_eq!(source(""), None);
    }
}
