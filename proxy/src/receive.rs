//! Whose a request is and what it wants: from its head to the URL, the origin, and the fields that go there.

use std::{borrow::Cow, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version, header};
use hyper::body::Incoming;

use crate::{
    body::Body,
    cache::Cache,
    deliver::{Client, Links},
    fairness::Tab,
    home,
    interim::Interim,
    meta::strip_hop_by_hop,
    origin::Upstream,
    reason::Failure,
    site::Own,
    trace::Tracer,
    url::{Authority, OriginUrl, Scheme, UrlError, is_literal},
    wanted::weight,
    wish::Wish,
};

/// A request understood.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) client: Client,
    pub(crate) url: OriginUrl,
    pub(crate) upstream: Upstream,
    /// What the origin is sent.
    pub(crate) fields: Arc<HeaderMap>,
    pub(crate) site: Option<Arc<Own>>,
    pub(crate) wish: Wish,
    /// It carries credentials: its answer is for one alone unless it says otherwise. (Cookies go with most requests, and most
    /// answers to these are shared: they join a flight, and look again if its answer turns out to be for another.)
    pub(crate) personal: bool,
    pub(crate) interim: Option<Interim>,
    /// Notes what is done for it.
    pub(crate) trace: Tracer,
    /// What was sent with it; only own sites take any.
    pub(crate) body: Option<Incoming>,
    /// What its answer is charged to.
    pub(crate) tab: Option<Tab>,
    /// What is fetched for its range, and more than it takes, is charged to this.
    pub(crate) unearned: Option<Tab>,
    /// Nothing is fetched for it, for so long: a share is nearly used up.
    pub(crate) stored_only: Option<Duration>,
}

pub(crate) enum Received {
    Asked(Box<Asked>),
    Robots,
    /// It may not be served.
    TakenDown(Box<Response<Body>>),
    /// A link relative to the root of a page in the manager form: what it means stands here.
    Linked(HeaderValue),
}

/// Where a request came from, as the server says beside it.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) client: SocketAddr,
    /// It came over TLS.
    pub(crate) secure: bool,
    /// Where interim answers can be written.
    pub(crate) interim: Option<Interim>,
}

impl Origin {
    /// How the client came.
    pub(crate) const fn scheme(&self) -> Scheme {
        if self.secure { Scheme::Https } else { Scheme::Http }
    }
}

/// What a request is for.
struct Meant {
    url: OriginUrl,
    upstream: Upstream,
    links: Links,
    site: Option<Arc<Own>>,
}

/// Reads a request.
pub(crate) fn receive(cache: &Cache, request: Request<Option<Incoming>>) -> Result<Received, (Failure, String)> {
    // The gate saw to it that target and Host agree.
    let authority = match request.uri().authority() {
        Some(authority) => Authority::parse(authority.as_str()),
        None => Authority::parse(
            request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
        ),
    }
    .map_err(bad)?;
    let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let loops = request.headers().get_all(CDN_LOOP).iter().filter_map(|value| value.to_str().ok());
    if loops
        .flat_map(|value| value.split(','))
        .any(|id| id.split(';').next().unwrap_or_default().trim() == cache.loop_id())
    {
        metrics::counter!("atoll_origin_denied_total", "reason" => "loop").increment(1);
        return Err((Failure::Loop, "this request has been here before".to_owned()));
    }
    let meant = if let Some((site, named)) = cache.sites.find(&authority) {
        let from = request.extensions().get::<Origin>();
        own(site, named, (&authority, from), path).map_err(bad)?
    } else if let Some(coralized) = cache.zone.decode(authority.host()) {
        let coralized = coralized.map_err(bad)?;
        if path == "/robots.txt" {
            return Ok(Received::Robots);
        }
        let here = request.extensions().get::<Origin>().map_or(Scheme::Http, Origin::scheme);
        let url = coralized_url(cache, &coralized.host, coralized.port, here, path).map_err(bad)?;
        let upstream = permitted(cache, &url)?;
        let links = Links::Coralized(here, authority.port().filter(|port| *port != here.port()));
        Meant { url, upstream, links, site: None }
    } else if let Some(url) = OriginUrl::from_manager_path(path) {
        let url = upgraded(cache, url.map_err(bad)?);
        if cache.zone.covers(url.host()) {
            return Err((Failure::Loop, format!("{} is Coralized already", url.host())));
        }
        let upstream = permitted(cache, &url)?;
        Meant { url, upstream, links: Links::Manager, site: None }
    } else if let Some(location) = linked(request.headers(), &authority, path) {
        return Ok(Received::Linked(location));
    } else if path == "/robots.txt" && is_literal(authority.host()) {
        return Ok(Received::Robots);
    } else {
        return Err((Failure::NotOurs, format!("{} is not served here", authority.host())));
    };
    if let Some(answer) = cache.takedown.answer(&meant.url) {
        return Ok(Received::TakenDown(Box::new(answer)));
    }
    understood(cache, request, meant).map(|asked| Received::Asked(Box::new(asked)))
}

/// What follows from knowing what a request is for.
fn understood(cache: &Cache, request: Request<Option<Incoming>>, meant: Meant) -> Result<Asked, (Failure, String)> {
    let Meant { url, upstream, links, site } = meant;
    let (parts, body) = request.into_parts();
    let client = Client { head: parts.method == Method::HEAD, fields: parts.headers, links };
    let from = parts.extensions.get::<Origin>();
    let fields = match &site {
        Some(own) => sent_on(cache, own, &parts.method, (&client.fields, parts.version), &url, from),
        None if matches!(parts.method, Method::GET | Method::HEAD) => {
            allowed(cache, (&client.fields, parts.version), &url)
        }
        None => return Err((Failure::Method, "only GET and HEAD are served".to_owned())),
    };
    let wish = match &site {
        Some(own) if own.rules.client_directives => Wish::of(&client.fields),
        Some(_) | None => Wish { only_if_cached: Wish::of(&client.fields).only_if_cached, ..Wish::default() },
    };
    // Only HTTP/1.1 knows interim answers here.
    let interim = from.filter(|_| parts.version == Version::HTTP_11).and_then(|from| from.interim.clone());
    let interim = interim.filter(|_| site.is_some());
    let tab = cache.fairness.open((&upstream.host, upstream.port), from.map(|from| from.client.ip()));
    let ranged = client.fields.contains_key(header::RANGE);
    let unearned = cache.fairness.open_unearned(from.filter(|_| ranged).map(|from| from.client.ip()));
    let personal = site.is_some() && client.fields.contains_key(header::AUTHORIZATION);
    let trace = parts.extensions.get::<Tracer>().cloned().unwrap_or_default();
    let (method, stored_only) = (parts.method, None);
    Ok(Asked {
        method,
        client,
        url,
        upstream,
        fields: Arc::new(fields),
        site,
        wish,
        personal,
        interim,
        trace,
        body,
        tab,
        unearned,
        stored_only,
    })
}

fn bad(error: UrlError) -> (Failure, String) {
    let failure = match error {
        UrlError::Nested(_) => Failure::Loop,
        UrlError::Literal(_) => Failure::Denied,
        _ => Failure::Request,
    };
    (failure, error.to_string())
}

/// A site with a name to itself has one key whatever port of ours was named; the others are told apart by all of it. What came in clear
/// and what came over TLS are two things [RFC 9110 4.3.3], and the origin is told which was asked for.
fn own(
    site: &Arc<Own>,
    named: bool,
    (authority, from): (&Authority, Option<&Origin>),
    path: &str,
) -> Result<Meant, UrlError> {
    let scheme = from.map_or(site.upstream.scheme, Origin::scheme);
    let url = OriginUrl::of_site(scheme, authority, named, &site.target(path))?;
    Ok(Meant { url, upstream: site.upstream.clone(), links: Links::Site, site: Some(Arc::clone(site)) })
}

/// Where a path leads that is asked of a node's own address by a page in the manager form.
fn linked(headers: &HeaderMap, here: &Authority, path: &str) -> Option<HeaderValue> {
    let referer = headers.get(header::REFERER)?.to_str().ok()?;
    let page = OriginUrl::page_linking(referer, here)?;
    HeaderValue::from_str(&format!("{page}{path}")).ok()
}

/// The scheme of a Coralized name: https by its port label, by how the client came if there is none, or by what its host
/// redirected to before, else http.
fn coralized_url(
    cache: &Cache,
    host: &str,
    port: Option<u16>,
    here: Scheme,
    path: &str,
) -> Result<OriginUrl, UrlError> {
    let scheme = match port {
        Some(443) => Scheme::Https,
        Some(_) => Scheme::Http,
        None => here,
    };
    let authority = match port {
        Some(port) => Authority::parse(&format!("{host}:{port}"))?,
        None => Authority::parse(host)?,
    };
    Ok(upgraded(cache, OriginUrl::new(scheme, &authority, path)?))
}

/// The URL under https, if its host sends everybody there.
pub(crate) fn upgraded(cache: &Cache, url: OriginUrl) -> OriginUrl {
    match url.upgraded() {
        Some(upgraded) if cache.upgraded.get(&url.host().to_owned()).is_some() => upgraded,
        Some(_) | None => url,
    }
}

fn permitted(cache: &Cache, url: &OriginUrl) -> Result<Upstream, (Failure, String)> {
    if home::is_marked(url.path()) {
        return Err((Failure::Loop, "this was sent to its origin, which sent it back".to_owned()));
    }
    let exempt = cache.origins.permit(url).ok_or_else(|| {
        let reason = if cache.origins.serves_host(url) { "port" } else { "policy" };
        metrics::counter!("atoll_origin_denied_total", "reason" => reason).increment(1);
        (Failure::Denied, format!("{} port {} is not among the origins served here", url.host(), url.port()))
    })?;
    Ok(Upstream::of(url, exempt))
}

/// On Coralized names an origin sees an allow-list, so that nothing it could answer by is missing from the key unless it says
/// Vary.
fn allowed(cache: &Cache, (client, version): (&HeaderMap, Version), url: &OriginUrl) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(header::USER_AGENT, cache.agent.clone());
    for name in [header::ACCEPT, header::ACCEPT_LANGUAGE, TRACEPARENT, TRACESTATE] {
        if let Some(value) = client.get(&name) {
            fields.insert(name, value.clone());
        }
    }
    marked((client, version), url.authority(), &mut fields);
    for value in client.get_all(CDN_LOOP) {
        fields.append(CDN_LOOP, value.clone());
    }
    looped(cache, &mut fields);
    fields
}

/// An own site's origin sees what the client sent, but for what concerns one hop, what this cache answers itself, and what would
/// let a client say where it is.
fn sent_on(
    cache: &Cache,
    site: &Own,
    method: &Method,
    (client, version): (&HeaderMap, Version),
    url: &OriginUrl,
    from: Option<&Origin>,
) -> HeaderMap {
    let mut fields = client.clone();
    strip_hop_by_hop(&mut fields);
    let judged_here = matches!(*method, Method::GET | Method::HEAD);
    let is_judged = |name: &HeaderName| judged_here && (CONDITIONS.contains(name) || *name == header::RANGE);
    let not_sent: Vec<_> = fields.keys().filter(|name| misleads(name) || is_judged(name)).cloned().collect();
    for name in &not_sent {
        fields.remove(name);
    }
    site.strip_cookies(&mut fields);
    if let Some(from) = from {
        if let Ok(address) = HeaderValue::from_str(&from.client.ip().to_canonical().to_string()) {
            fields.insert(X_FORWARDED_FOR, address);
        }
        fields.insert(X_FORWARDED_PROTO, HeaderValue::from_static(from.scheme().name()));
    }
    marked((client, version), site.host.clone().unwrap_or_else(|| url.authority()), &mut fields);
    looped(cache, &mut fields);
    fields
}

/// What every request of ours says.
fn marked((client, version): (&HeaderMap, Version), host: String, fields: &mut HeaderMap) {
    if let Ok(host) = host.try_into() {
        fields.insert(header::HOST, host);
    }
    fields.remove(header::ACCEPT_ENCODING);
    let codings = codings(client);
    if !codings.is_empty() {
        fields.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(codings));
    }
    let via = match version {
        Version::HTTP_09 => "0.9 atoll",
        Version::HTTP_10 => "1.0 atoll",
        Version::HTTP_2 => "2 atoll",
        _ => "1.1 atoll",
    };
    fields.append(header::VIA, HeaderValue::from_static(via));
}

fn looped(cache: &Cache, fields: &mut HeaderMap) {
    if let Ok(id) = cache.loop_id().try_into() {
        fields.append(CDN_LOOP, id);
    }
}

/// The client's content codings as one of a few classes, so that they make few variants; garbage is none.
fn codings(client: &HeaderMap) -> &'static str {
    let values = client.get_all(header::ACCEPT_ENCODING).iter().map(|value| value.to_str().unwrap_or_default());
    CODINGS.get(coding_class(values)).copied().unwrap_or_default()
}

/// The classes of content codings.
pub(crate) const CODINGS: [&str; 4] = ["", "gzip", "br", "br, gzip"];

/// Which of [`CODINGS`] the values of Accept-Encoding come to.
pub(crate) fn coding_class<'v>(values: impl Iterator<Item = &'v str>) -> usize {
    let (mut gzip, mut br) = (false, false);
    for member in values.flat_map(|value| value.split(',')) {
        let (name, rest) = member.split_once(';').unwrap_or((member, ""));
        let said = rest.trim();
        let q = said.get(..2).filter(|q| q.eq_ignore_ascii_case("q="));
        // A weight that is none is no yes.
        let taken =
            said.is_empty() || q.and_then(|q| weight(said.get(q.len()..)?.as_bytes())).is_some_and(|weight| weight > 0);
        let name = name.trim();
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            gzip = taken;
        } else if name.eq_ignore_ascii_case("br") {
            br = taken;
        }
    }
    usize::from(gzip) + 2 * usize::from(br)
}

/// RFC 8586.
const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What makes a request conditional.
pub(crate) static CONDITIONS: [HeaderName; 5] =
    [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_MATCH, header::IF_UNMODIFIED_SINCE, header::IF_RANGE];

/// Whether an origin could read a field as another host, path, method or address than the ones that are in the key, or as framing,
/// which is made anew [bad-inputs C02]. Many servers read `_` in a name as `-`.
fn misleads(name: &HeaderName) -> bool {
    let plain =
        if name.as_str().contains('_') { name.as_str().replace('_', "-").into() } else { Cow::Borrowed(name.as_str()) };
    let named = &*plain;
    let of_a_hop = named != name.as_str() && OF_A_HOP.contains(&named);
    of_a_hop || NOT_SENT_ON.contains(&named) || BEGINNINGS.iter().any(|beginning| named.starts_with(beginning))
}

/// How the names begin of what proxies tell the servers behind them.
const BEGINNINGS: [&str; 3] = ["x-forwarded", "x-original-", "x-rewrite-"];

/// What no origin is sent by us in a client's name.
const NOT_SENT_ON: [&str; 20] = [
    "atoll-trace",
    "client-ip",
    "content-length",
    "expect",
    "forwarded",
    "forwarded-for",
    "front-end-https",
    "max-forwards",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarder-for",
    "x-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-originating-ip",
    "x-real-ip",
    "x-scheme",
    "x-url-scheme",
];

/// What must not come back in by another spelling.
const OF_A_HOP: [&str; 7] = ["cdn-loop", "connection", "host", "te", "transfer-encoding", "upgrade", "via"];

#[cfg(test)]
mod tests {
    use super::*;

    // C02
    #[test]
    fn no_spelling_of_what_misleads_an_origin_is_sent_on() {
        for name in [
            "x-forwarded-host",
            "X_Forwarded_Host",
            "x-forwarded-anything",
            "x-forwarded",
            "forwarded",
            "x-original-url",
            "x_rewrite_url",
            "transfer_encoding",
            "content_length",
            "true-client-ip",
            "x-http-method-override",
            "host_",
        ] {
            let misleads = misleads(&HeaderName::from_bytes(name.as_bytes()).unwrap());
            assert_eq!(misleads, name != "host_", "{name}");
        }
        for name in ["accept", "cookie", "x-foo", "x_foo", "authorization", "x-requested-with"] {
            assert!(!misleads(&HeaderName::from_static(name)), "{name}");
        }
    }

    // C07
    #[test]
    fn codings_fall_into_few_classes() {
        let check = |value: &str| codings(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, value.parse().unwrap())]));
        for (value, class) in [
            ("gzip, deflate, br, zstd", "br, gzip"),
            ("br;q=1.0, GZIP;q=0.8", "br, gzip"),
            ("gzip;q=0, br", "br"),
            ("gzip; q=0.000", ""),
            ("*;q=0", ""),
            ("garbage/;;==,,", ""),
            ("gzip;q=nan, br;q=-1", ""),
            ("gzip;q=0.0001", ""),
            ("gzip;x=0;q=1", ""),
            ("gzip;Q=0.001", "gzip"),
            ("identity", ""),
        ] {
            assert_eq!(check(value), class, "{value}");
        }
    }
}
