//! Role manager: the redirector for those who cannot have a zone delegated to them. It sends a client to a near, live proxy by
//! HTTP where dnssrv does so by DNS: in a node that runs both, to the very proxies that answers name to the client's network.
//!
//! | asked for | answer |
//! |---|---|
//! | `/~/https/www.example.com/x` | 302 to `http://ADDRESS:PORT/~/https/www.example.com/x` at a near proxy |
//! | the same with `names` | 302 to `http://www.example.com.443.n-ID.ZONE:PORT/x`, the name of the URL at that proxy |
//! | any path, Host `www.example.com.ZONE` | 302 to `http://ADDRESS:PORT/~/http/www.example.com/...` likewise |
//! | a path without `/~/`, Referer `http://HERE/~/SCHEME/HOST/...` | 302 to `/~/SCHEME/HOST/...` here: a root-relative link |
//! | any of the first two with `?not=NODE` | the same, elsewhere: NODE is an `Atoll-Node` of before, or `ADDRESS:PORT` |
//! | any of the first two with `?mirrorlist`, `?mirrorlist=json` | the choice explained, for people and for programs |
//! | no proxy alive | 503 with Retry-After |
//!
//! Path and query, less what is the manager's, are handed on byte for byte. A redirect is for one client now: nobody may keep it.
//! Its `Link: rel=duplicate` names two more proxies.

use std::{cell::OnceCell, io, net::SocketAddr, sync::Arc};

use atoll_dnssrv::Guide;
use atoll_overlay::{Index, Key, Level, NodeInfo, NodesQuery, Roles};
use atoll_proxy::{Authority, OriginUrl, Scheme, UrlError, Zone};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header, request};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    desk::{Asked, ListForm, NODE},
    mirrors::{self, Mirrors},
    near::{self, Nodes, Wanted},
};
use crate::{
    accept::{self, Accept, Answer, Limits},
    config::ManagerConfig,
    front::record::truncated,
    port_holder::{Protocol, bind_error},
};

/// The running redirector. Dropping it stops it.
#[derive(Debug)]
pub struct Manager {
    addresses: Vec<SocketAddr>,
    tasks: JoinSet<()>,
}

impl Manager {
    /// Opens the addresses of the configuration, or none of them. The zone may be "": then only the `/~/` form is known. With a guide,
    /// clients are led as DNS answers lead them; else by what the index says of their networks.
    pub async fn start(
        config: &ManagerConfig,
        zone: &str,
        index: Arc<dyn Index>,
        guide: Option<Guide>,
    ) -> Result<Self, ManagerError> {
        let zone = if zone.is_empty() { None } else { Some(Zone::new(zone).map_err(ManagerError::Zone)?) };
        let redirector = Redirector { index, zone: Arc::new(zone), config: Arc::new(config.clone()), guide };
        let limits = Limits { connections: config.connections, head_timeout: config.head_timeout };
        let mut manager = Self { addresses: Vec::new(), tasks: JoinSet::new() };
        for address in &config.listen {
            let listener = TcpListener::bind(address).await;
            let listener =
                listener.map_err(|error| ManagerError::Listen(bind_error(&error, *address, Protocol::Tcp)))?;
            manager.addresses.push(listener.local_addr().map_err(|error| ManagerError::Listen(error.to_string()))?);
            let listener = Door { listener, guide: redirector.guide.clone() };
            manager.tasks.spawn(accept::serve(listener, limits, redirector.clone()));
        }
        Ok(manager)
    }

    /// The addresses it listens on, with the ports it got.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops listening and cuts what is open: a redirect is one small answer, and the client asks another manager.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Why the redirector could not start.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// An address cannot be had.
    #[error("the manager cannot listen: {0}")]
    Listen(String),
    /// The zone is none.
    #[error("the manager has no zone: {0}")]
    Zone(UrlError),
}

/// Answers requests from what the index knows.
#[derive(Clone)]
struct Redirector {
    index: Arc<dyn Index>,
    zone: Arc<Option<Zone>>,
    config: Arc<ManagerConfig>,
    guide: Option<Guide>,
}

/// Where clients come in; how long their handshakes took is told to the guide.
struct Door {
    listener: TcpListener,
    guide: Option<Guide>,
}

impl Accept for Door {
    type Stream = TcpStream;
    type Client = SocketAddr;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, client) = self.listener.accept().await?;
        if let Some(guide) = &self.guide
            && let Ok(Some(handshake)) = atoll_sys::tcp::round_trip(&stream)
        {
            guide.handshake(client.ip(), handshake.smoothed);
        }
        Ok((stream, client))
    }
}

impl Answer<SocketAddr> for Redirector {
    async fn answer(&self, client: SocketAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
        // The body, if any, is left unread: hyper then closes the connection.
        let (head, _) = request.into_parts();
        self.redirect(client, &head)
    }
}

impl Redirector {
    fn redirect(&self, client: SocketAddr, head: &request::Parts) -> Response<Full<Bytes>> {
        let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let near = OnceCell::new();
        let levels = || near.get_or_init(|| self.near(client)).as_slice();
        let asked = Asked::read(target, |said| self.names(levels(), said));
        let (result, answer) = match destination(self.zone.as_ref().as_ref(), head, &asked.file) {
            Destination::Origin(url) => self.lead((client, levels()), &url, &asked, head),
            Destination::Here(page) => ("referer", found(&format!("{page}{target}"))),
            Destination::Refused(status, why) => ("refused", told(status, &why)),
        };
        metrics::counter!("atoll_manager_requests_total", "result" => result).increment(1);
        answer
    }

    /// To the best proxy for a URL, or the choice explained; with a word for the metrics.
    fn lead(
        &self,
        (client, levels): (SocketAddr, &[Nodes]),
        url: &OriginUrl,
        asked: &Asked,
        head: &request::Parts,
    ) -> (&'static str, Response<Full<Bytes>>) {
        let site = url.authority();
        let wanted = Wanted { site: &site, spread: self.config.spread, not: &asked.not };
        let order = match &self.guide {
            Some(guide) => near::led(levels, &guide.lead(url.host(), url.port(), client.ip()), wanted),
            None => near::order(levels, wanted),
        };
        let names = self.zone.as_ref().as_ref().filter(|_| self.config.names);
        if let Some(form) = asked.list {
            let mirrors = Mirrors::new(url, truncated(client.ip()).to_string(), &order, names);
            return ("mirrorlist", mirror_list(&mirrors, form, &head.headers));
        }
        let Some(first) = order.first() else { return ("no_proxy", self.nobody()) };
        let mut answer = found(&mirrors::at(first, url, names));
        let headers = answer.headers_mut();
        if let Some(Ok(id)) = first.id.map(|id| HeaderValue::try_from(id.to_string())) {
            headers.insert(NODE, id);
        }
        if let Some(Ok(links)) = mirrors::duplicates(url, &order, names).map(HeaderValue::try_from) {
            headers.insert(header::LINK, links);
        }
        ("proxy", answer)
    }

    /// The proxies near a client, level by level, the inmost first, each with the address at which it reaches them.
    fn near(&self, client: SocketAddr) -> Vec<Nodes> {
        let count = if self.guide.is_some() { GUIDED } else { CANDIDATES };
        let nodes = |level: Level| {
            let query = NodesQuery { level, count, target: Some(client.ip()), services: Roles::PROXY };
            let nodes = self.index.nodes(&query).into_iter();
            nodes.filter_map(|node| address_for(client, &node).map(|address| (node, address))).collect()
        };
        self.index.levels().iter().rev().map(|level| (level.level, nodes(level.level))).collect()
    }

    /// Whether a text names a node: any id does, also of one that has gone since; an address only of one that is known.
    fn names(&self, levels: &[Nodes], said: &str) -> bool {
        let is_one = |(node, address): &(NodeInfo, SocketAddr)| near::is_meant(said, node.id, *address);
        let address = said.strip_prefix("http://").unwrap_or(said);
        let is_led_to = |guide: &Guide| address.parse().is_ok_and(|address| guide.names(address));
        said.parse::<Key>().is_ok()
            || levels.iter().any(|(_, nodes)| nodes.iter().any(is_one))
            || self.guide.as_ref().is_some_and(is_led_to)
    }

    fn nobody(&self) -> Response<Full<Bytes>> {
        let mut answer = told(StatusCode::SERVICE_UNAVAILABLE, "no proxy is alive; ask again later");
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(self.config.retry_after.as_secs()));
        answer
    }
}

/// What a request is led to.
#[derive(Debug, PartialEq, Eq)]
enum Destination {
    /// This URL, by way of a proxy.
    Origin(OriginUrl),
    /// The same path below a page of this manager.
    Here(String),
    /// Nothing.
    Refused(StatusCode, String),
}

/// Reads a request for a path and query; pure.
fn destination(zone: Option<&Zone>, head: &request::Parts, target: &str) -> Destination {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return Destination::Refused(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are led on".to_owned());
    }
    let refused = |error: UrlError| Destination::Refused(StatusCode::BAD_REQUEST, error.to_string());
    if let Some(url) = OriginUrl::from_manager_path(target) {
        return url.map_or_else(refused, Destination::Origin);
    }
    let Some(here) = authority(&head.uri, &head.headers) else {
        return Destination::Refused(StatusCode::BAD_REQUEST, "one Host is needed".to_owned());
    };
    if let Some(coralized) = zone.and_then(|zone| zone.decode(here.host())) {
        let url = coralized.and_then(|name| {
            let scheme = if name.port == Some(Scheme::Https.port()) { Scheme::Https } else { Scheme::Http };
            let port = name.port.map_or_else(String::new, |port| format!(":{port}"));
            OriginUrl::new(scheme, &Authority::parse(&format!("{}{port}", name.host))?, target)
        });
        return url.map_or_else(refused, Destination::Origin);
    }
    let referer = head.headers.get(header::REFERER).and_then(|referer| referer.to_str().ok());
    match referer.and_then(|referer| OriginUrl::page_linking(referer, &here)) {
        Some(page) => Destination::Here(page),
        None => Destination::Refused(
            StatusCode::NOT_FOUND,
            "ask for /~/https/www.example.com/ to be led to https://www.example.com/ through a near proxy".to_owned(),
        ),
    }
}

/// The host the client asked: of the request target if that names one [RFC 9112 3.2.2], else of the one Host field.
fn authority(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    if let Some(authority) = uri.authority() {
        return Authority::parse(authority.as_str()).ok();
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return None };
    Authority::parse(host.to_str().ok()?).ok()
}

/// Where a client reaches a node: in the client's own address family if the node has one, at its first port, which is the
/// cleartext one.
fn address_for(client: SocketAddr, node: &NodeInfo) -> Option<SocketAddr> {
    let port = *node.http_ports.first()?;
    let v4 = node.v4.first().map(|v4| SocketAddr::from((*v4, port)));
    let v6 = node.v6.first().map(|v6| SocketAddr::from((*v6, port)));
    if client.ip().to_canonical().is_ipv4() { v4.or(v6) } else { v6.or(v4) }
}

fn mirror_list(mirrors: &Mirrors, form: ListForm, fields: &HeaderMap) -> Response<Full<Bytes>> {
    let mut answer = told(StatusCode::OK, "");
    let (kind, body) = if form.is_json(fields) {
        // Our own types, which always serialise.
        ("application/json", serde_json::to_vec(mirrors).unwrap_or_default())
    } else {
        ("text/html; charset=utf-8", mirrors.page().into_bytes())
    };
    *answer.body_mut() = Full::new(body.into());
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    answer
}

fn found(location: &str) -> Response<Full<Bytes>> {
    // Both forms are made of checked names and of a path of printable ASCII.
    let Ok(location) = HeaderValue::from_str(location) else {
        return told(StatusCode::BAD_REQUEST, "the path cannot be handed on");
    };
    let mut answer = told(StatusCode::FOUND, "");
    answer.headers_mut().insert(header::LOCATION, location);
    answer
}

fn told(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut answer =
        Response::new(Full::new(Bytes::from(if text.is_empty() { String::new() } else { format!("{text}\n") })));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    answer
}

/// Proxies looked at per level.
const CANDIDATES: usize = 16;
/// The same where answers may name any of as many as dnssrv looks at by default.
const GUIDED: usize = 64;

#[cfg(test)]
#[path = "redirector_tests.rs"]
mod tests;
