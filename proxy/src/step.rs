//! The life of one request: whose it is, what it wants, and where the answer is found.
//!
//! ```text
//! Receive -> (health, robots.txt) -> Lookup -> Hit ----------------------> Deliver
//!                                       |-> Pass: origin, not stored ------>  ^
//!                                       '-> Miss: join or lead a flight ------'
//! ```

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use atoll_overlay::Key;
use atoll_store::{Object, Tier};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};

use crate::{
    body::Body,
    cache::{Cache, Negative, Wanted, store_key},
    deliver::{Client, Given, Links, deliver, refuse, text},
    fetch::{self, Stale, fresh_for},
    flight::{Answer, Content, End, Joined, Waiter},
    freshness::{self, State},
    meta::{Meta, strip_hop_by_hop},
    origin::{OriginBody, Upstream},
    reason::{CacheStatus, Failure, Forwarded, Reason, Source},
    reference::Reference,
    url::{Authority, OriginUrl, Scheme},
};

/// Answers one request of a client.
pub(crate) async fn handle<B>(cache: Arc<Cache>, request: Request<B>) -> Response<Body> {
    let Ok(place) = Arc::clone(&cache.places).try_acquire_owned() else {
        cache.counters.refused();
        return refuse(Failure::Busy, "too many requests at once", None);
    };
    let (response, told) = answer(&cache, request).await;
    drop(place);
    if let Some(told) = told {
        cache.counters.answered(response.status(), told.source, told.collapsed, told.stale);
    }
    response
}

/// What is counted of a response.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    source: Option<Source>,
    collapsed: bool,
    stale: bool,
}

async fn answer<B>(cache: &Arc<Cache>, request: Request<B>) -> (Response<Body>, Option<Told>) {
    if request.uri().path() == HEALTH {
        return (text(StatusCode::OK, "ok\n"), None);
    }
    let asked = match receive(cache, &request) {
        Ok(Received::Asked(asked)) => asked,
        Ok(Received::Robots) => return (text(StatusCode::OK, "User-agent: *\nDisallow: /\n"), None),
        Ok(Received::Linked(location)) => {
            let mut response = text(StatusCode::FOUND, "");
            response.headers_mut().insert(header::LOCATION, location);
            return (response, Some(Told::default()));
        }
        Err((failure, why)) => {
            cache.counters.refused();
            return (refuse(failure, &why, None), Some(Told::default()));
        }
    };
    let found = lookup(cache, &asked).await;
    respond(cache, asked, found).await
}

/// A request understood.
struct Asked {
    client: Client,
    url: OriginUrl,
    upstream: Upstream,
    fields: HeaderMap,
}

enum Received {
    Asked(Box<Asked>),
    Robots,
    /// A link relative to the root of a page in the manager form: what it means stands here.
    Linked(HeaderValue),
}

/// Whose the request is and what it wants.
fn receive<B>(cache: &Cache, request: &Request<B>) -> Result<Received, (Failure, String)> {
    let bad = |error: crate::url::UrlError| {
        let failure = match error {
            crate::url::UrlError::Nested(_) => Failure::Loop,
            crate::url::UrlError::Literal(_) => Failure::Denied,
            _ => Failure::Request,
        };
        (failure, error.to_string())
    };
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
    let (url, upstream, links) = if let Some(site) = cache.sites.get(authority.host()) {
        let named = Authority::parse(authority.host()).map_err(bad)?;
        let url = OriginUrl::new(site.scheme, &named, path).map_err(bad)?;
        (url, site.clone(), Links::Site)
    } else if let Some(coralized) = cache.zone.decode(authority.host()) {
        let coralized = coralized.map_err(bad)?;
        if path == "/robots.txt" {
            return Ok(Received::Robots);
        }
        let url = coralized_url(cache, &coralized.host, coralized.port, path).map_err(bad)?;
        let upstream = permitted(cache, &url)?;
        (url, upstream, Links::Coralized(authority.port().filter(|port| *port != Scheme::Http.port())))
    } else if let Some(url) = OriginUrl::from_manager_path(path) {
        let url = upgraded(cache, url.map_err(bad)?);
        if cache.zone.covers(url.host()) {
            return Err((Failure::Loop, format!("{} is Coralized already", url.host())));
        }
        let upstream = permitted(cache, &url)?;
        (url, upstream, Links::Manager)
    } else if let Some(location) = linked(request.headers(), &authority, path) {
        return Ok(Received::Linked(location));
    } else {
        return Err((Failure::NotOurs, format!("{} is not served here", authority.host())));
    };
    let mut fields = forwarded(cache, request.headers(), &url);
    let host = cache.config.sites.get(url.host()).filter(|_| matches!(links, Links::Site));
    if let Some(host) = host.and_then(|site| site.host.as_deref()).and_then(|host| host.try_into().ok()) {
        fields.insert(header::HOST, host);
    }
    let client = Client { head: request.method() == Method::HEAD, fields: request.headers().clone(), links };
    Ok(Received::Asked(Box::new(Asked { client, url, upstream, fields })))
}

/// Where a path leads that is asked of a node's own address by a page in the manager form.
fn linked(headers: &HeaderMap, here: &Authority, path: &str) -> Option<HeaderValue> {
    let referer = headers.get(header::REFERER)?.to_str().ok()?;
    let page = OriginUrl::page_linking(referer, here)?;
    HeaderValue::from_str(&format!("{page}{path}")).ok()
}

/// The scheme of a Coralized name: https by its port label or by what its host redirected to before, else http.
fn coralized_url(cache: &Cache, host: &str, port: Option<u16>, path: &str) -> Result<OriginUrl, crate::url::UrlError> {
    let scheme = if port == Some(Scheme::Https.port()) { Scheme::Https } else { Scheme::Http };
    let authority = match port {
        Some(port) => Authority::parse(&format!("{host}:{port}"))?,
        None => Authority::parse(host)?,
    };
    Ok(upgraded(cache, OriginUrl::new(scheme, &authority, path)?))
}

fn upgraded(cache: &Cache, url: OriginUrl) -> OriginUrl {
    match url.upgraded() {
        Some(upgraded) if cache.upgraded.get(&url.host().to_owned()).is_some() => upgraded,
        Some(_) | None => url,
    }
}

fn permitted(cache: &Cache, url: &OriginUrl) -> Result<Upstream, (Failure, String)> {
    let exempt = cache.origins.permit(url).ok_or_else(|| {
        metrics::counter!("atoll_origin_denied_total", "reason" => "policy").increment(1);
        (Failure::Denied, format!("{} port {} is not among the origins served here", url.host(), url.port()))
    })?;
    Ok(Upstream::of(url, exempt))
}

/// The fields an origin sees: an allow-list, so that nothing it could answer by is missing from the key unless it says Vary.
fn forwarded(cache: &Cache, client: &HeaderMap, url: &OriginUrl) -> HeaderMap {
    let mut fields = HeaderMap::new();
    if let Ok(host) = url.authority().try_into() {
        fields.insert(header::HOST, host);
    }
    fields.insert(header::USER_AGENT, HeaderValue::from_static(concat!("atoll/", env!("CARGO_PKG_VERSION"))));
    for name in [header::ACCEPT, header::ACCEPT_LANGUAGE] {
        if let Some(value) = client.get(&name) {
            fields.insert(name, value.clone());
        }
    }
    let codings = codings(client);
    if !codings.is_empty() {
        fields.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(codings));
    }
    fields.insert(header::VIA, HeaderValue::from_static("1.1 atoll"));
    for value in client.get_all(CDN_LOOP) {
        fields.append(CDN_LOOP, value.clone());
    }
    if let Ok(id) = cache.loop_id().try_into() {
        fields.append(CDN_LOOP, id);
    }
    fields
}

/// The client's content codings as one of a few classes, so that they make few variants; garbage is none.
fn codings(client: &HeaderMap) -> &'static str {
    let mut accepted = [false; 2];
    for value in client.get_all(header::ACCEPT_ENCODING) {
        for member in value.to_str().unwrap_or_default().split(',') {
            let (name, rest) = member.split_once(';').unwrap_or((member, ""));
            let zero = rest.split_once('=').is_some_and(|(_, q)| q.trim().parse::<f32>().is_ok_and(|q| q <= 0.0));
            match name.trim().to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => accepted[0] = !zero,
                "br" => accepted[1] = !zero,
                _ => {}
            }
        }
    }
    match accepted {
        [true, true] => "br, gzip",
        [true, false] => "gzip",
        [false, true] => "br",
        [false, false] => "",
    }
}

/// Where the answer is.
enum Found {
    /// In the store.
    Stored { object: Object, meta: Meta, ttl: i64, reason: Option<Reason> },
    /// In a flight.
    Flown { waiter: Waiter, answer: Arc<Answer>, collapsed: bool, forwarded: Forwarded },
    /// At the origin, for this client alone.
    Passed { meta: Meta, feed: OriginBody, reason: Reason },
    /// A repeated error of the origin.
    Repeated(Arc<Answer>),
    /// Nowhere.
    Failed(Failure, Option<Reason>),
}

/// What the store has for a request.
struct Stocked {
    key: Key,
    copy: Option<(Object, Meta)>,
    varies: bool,
}

async fn stock(cache: &Cache, wanted: &Wanted) -> Stocked {
    let mut key = wanted.url.key();
    let mut varies = false;
    // At most two: the URL's own place, and the variant's that it points to.
    for _ in 0..2 {
        let Some(object) = cache.store.get(&store_key(key)).await else { break };
        let Some(meta) = Meta::decode_stored(&object.head().metadata) else { break };
        if meta.varies_by.is_empty() {
            let same = meta.url == wanted.url.to_string();
            return Stocked { key, copy: same.then_some((object, meta)), varies };
        }
        varies = true;
        key = wanted.variant(&meta.varies_by);
    }
    Stocked { key, copy: None, varies }
}

async fn lookup(cache: &Arc<Cache>, asked: &Asked) -> Found {
    let mut wanted = Wanted {
        key: asked.url.key(),
        url: asked.url.clone(),
        upstream: asked.upstream.clone(),
        fields: asked.fields.clone(),
    };
    for round in 1..=ROUNDS {
        if !matches!(asked.client.links, Links::Site) && wanted.url != upgraded(cache, wanted.url.clone()) {
            wanted.url = upgraded(cache, wanted.url);
            wanted.upstream = Upstream::of(&wanted.url, wanted.upstream.exempt);
            if let Ok(host) = wanted.url.authority().try_into() {
                wanted.fields.insert(header::HOST, host);
            }
        }
        let stocked = stock(cache, &wanted).await;
        wanted.key = stocked.key;
        let forwarded = match (&stocked.copy, stocked.varies) {
            (Some(_), _) => Forwarded::Stale,
            (None, true) => Forwarded::VaryMiss,
            (None, false) => Forwarded::UriMiss,
        };
        let stale = match stocked.copy {
            Some((object, meta)) => match hit(cache, &wanted, object, meta) {
                Hit::Found(found) => return found,
                Hit::Stale(stale) => Some(stale),
            },
            None => None,
        };
        if let Some(negative) = cache.negative.get(&wanted.key) {
            return match (stale, negative) {
                (Some(stale), _) if stale.if_error => stale.found(Reason::StaleIfError),
                (_, Negative::Answer(answer)) => Found::Repeated(answer),
                (_, Negative::Failure(failure)) => Found::Failed(failure, Some(Reason::Negative)),
            };
        }
        if cache.passing.get(&wanted.key).is_some() {
            match pass(cache, &wanted).await {
                Some(found) => return found,
                None => continue,
            }
        }
        match fly(cache, &wanted, stale, forwarded, round == ROUNDS).await {
            Some(found) => return found,
            None => continue,
        }
    }
    Found::Failed(Failure::Internal, None)
}

enum Hit {
    Found(Found),
    Stale(OldCopy),
}

/// A stale copy, which may have to stand in.
struct OldCopy {
    object: Object,
    meta: Meta,
    key: Key,
    ttl: i64,
    if_error: bool,
}

impl OldCopy {
    fn found(self, reason: Reason) -> Found {
        Found::Stored { object: self.object, meta: self.meta, ttl: self.ttl, reason: Some(reason) }
    }
}

/// The store has a copy: fresh, good enough while it is renewed, or stale.
fn hit(cache: &Arc<Cache>, wanted: &Wanted, object: Object, meta: Meta) -> Hit {
    let lifetime = meta.lifetime(&cache.config.freshness);
    let age = meta.age(SystemTime::now());
    let ttl = seconds(lifetime.fresh) - seconds(age);
    let state = match lifetime.state(age) {
        State::Fresh(_) if object.soft_purged() => State::Stale { if_error: lifetime.if_error > Duration::ZERO },
        state => state,
    };
    match state {
        State::Fresh(left) => {
            cache.announcer.hit(wanted.key, left, || Reference::whole_of(&meta));
            Hit::Found(Found::Stored { object, meta, ttl, reason: None })
        }
        State::Refresh => {
            if cache.negative.get(&wanted.key).is_none()
                && let Joined::Lead(lead) = cache.flights.join(wanted.key)
            {
                let stale = Stale { meta: meta.clone(), key: wanted.key };
                tokio::spawn(fetch::lead(Arc::clone(cache), lead, wanted.clone(), Some(stale)));
            }
            Hit::Found(Found::Stored { object, meta, ttl, reason: Some(Reason::StaleWhileRevalidate) })
        }
        State::Stale { if_error } => Hit::Stale(OldCopy { object, meta, key: wanted.key, ttl, if_error }),
    }
}

/// Joins the flight for the key or leads one, and waits for its head. `None`: look again.
async fn fly(
    cache: &Arc<Cache>,
    wanted: &Wanted,
    stale: Option<OldCopy>,
    forwarded: Forwarded,
    last: bool,
) -> Option<Found> {
    let (mut waiter, collapsed) = match cache.flights.join(wanted.key) {
        Joined::Full => return Some(Found::Failed(Failure::Busy, None)),
        Joined::Follow(waiter) => (waiter, true),
        Joined::Lead(lead) => {
            // A flight may have landed between our look into the store and now. Not asked in the last round: where copies go
            // stale at once, others land for ever.
            let landed = !last
                && stock(cache, wanted)
                    .await
                    .copy
                    .is_some_and(|(_, meta)| stale.as_ref().is_none_or(|stale| stale.meta != meta));
            if landed {
                lead.finish(End::Again);
                return None;
            }
            let waiter = lead.follow()?;
            let stale = stale.as_ref().map(|stale| Stale { meta: stale.meta.clone(), key: stale.key });
            tokio::spawn(fetch::lead(Arc::clone(cache), lead, wanted.clone(), stale));
            (waiter, false)
        }
    };
    let answer = match waiter.answer().await {
        Ok(answer) => answer,
        Err(End::Again | End::Whole) => return None,
        Err(End::Failed(failure)) => {
            return Some(match stale {
                Some(stale) if stale.if_error && failure.is_origins() => stale.found(Reason::StaleIfError),
                Some(_) | None => Found::Failed(failure, None),
            });
        }
    };
    if let Some(stale) = stale
        && stale.if_error
        && freshness::is_failure(answer.meta.status)
    {
        return Some(stale.found(Reason::StaleIfError));
    }
    if !answer.varies_by.is_empty() && wanted.variant(&answer.varies_by) != answer.key {
        // Somebody else's variant; the list that tells ours is known by now.
        return None;
    }
    if let Content::Direct(feed) = &answer.content {
        let feed = feed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let (meta, reason) = (answer.meta.clone(), answer.reason.unwrap_or(Reason::PassMarked));
        return match feed {
            Some(feed) => Some(Found::Passed { meta, feed, reason }),
            None => pass(cache, wanted).await,
        };
    }
    Some(Found::Flown { waiter, answer, collapsed, forwarded })
}

/// Asks the origin for this client alone. `None`: look again, under https.
async fn pass(cache: &Cache, wanted: &Wanted) -> Option<Found> {
    let asked = SystemTime::now();
    let mut answer = match cache.origin.get(&wanted.upstream, wanted.url.path(), &wanted.fields).await {
        Ok(answer) => answer,
        Err(failure) => return Some(Found::Failed(failure, Some(Reason::PassMarked))),
    };
    strip_hop_by_hop(&mut answer.fields);
    if matches!(answer.status, StatusCode::NOT_MODIFIED | StatusCode::PARTIAL_CONTENT) {
        return Some(Found::Failed(Failure::Protocol, Some(Reason::PassMarked)));
    }
    if wanted.is_sent_to_https(answer.status, &answer.fields) {
        cache.upgraded.put(wanted.url.host().to_owned(), (), fetch::UPGRADE_KEPT);
        return None;
    }
    let received = SystemTime::now();
    let meta = Meta {
        url: wanted.url.to_string(),
        status: answer.status,
        initial_age: freshness::initial_age(&answer.fields, asked, received),
        fields: answer.fields,
        received,
        validator: [0; 16],
        length: answer.length,
        digest: None,
        varies_by: Vec::new(),
    };
    let reason = freshness::storable(meta.status, &meta.fields, false).err().unwrap_or(Reason::PassMarked);
    Some(Found::Passed { meta, feed: answer.body, reason })
}

/// The response, and what is counted of it.
async fn respond(cache: &Cache, asked: Box<Asked>, found: Found) -> (Response<Body>, Option<Told>) {
    let (meta, given, status, told) = match found {
        Found::Stored { object, meta, ttl, reason } => {
            let source = if object.tier() == Tier::Memory { Source::Memory } else { Source::Disk };
            let told = Told { source: Some(source), collapsed: false, stale: reason.is_some() };
            (meta, Given::Object(object), CacheStatus::hit(source, ttl, reason), told)
        }
        Found::Flown { waiter, answer, collapsed, forwarded } => {
            let status = CacheStatus {
                forwarded: Some(forwarded),
                status: Some(answer.meta.status),
                ttl: Some(seconds(fresh_for(cache, &answer.meta))),
                stored: answer.reason.is_none(),
                collapsed,
                source: Some(answer.source),
                reason: answer.reason,
            };
            let told = Told { source: Some(answer.source), collapsed, stale: false };
            (answer.meta.clone(), Given::Flight(waiter, answer), status, told)
        }
        Found::Passed { meta, feed, reason } => {
            let status = bypass(meta.status, Some(Source::Origin), reason);
            (meta, Given::Feed(feed), status, Told { source: Some(Source::Origin), ..Told::default() })
        }
        Found::Repeated(answer) => {
            let Content::Bytes(bytes) = &answer.content else {
                return (refuse(Failure::Internal, "no answer is kept", None), Some(Told::default()));
            };
            return (repeat(&answer, bytes.clone(), asked.client.head), Some(Told::default()));
        }
        Found::Failed(failure, reason) => {
            let status = reason.map(|reason| bypass(failure.status(), None, reason));
            let why = format!("{} could not be fetched: {failure}", asked.url.host());
            return (refuse(failure, &why, status.as_ref()), Some(Told::default()));
        }
    };
    match deliver(&cache.zone, &asked.url, &asked.client, &meta, given, &status).await {
        Ok(response) => (response, Some(told)),
        Err(failure) => (refuse(failure, "the copy could not be read", Some(&status)), Some(Told::default())),
    }
}

fn bypass(code: StatusCode, source: Option<Source>, reason: Reason) -> CacheStatus {
    CacheStatus {
        forwarded: Some(Forwarded::Bypass),
        status: Some(code),
        ttl: None,
        stored: false,
        collapsed: false,
        source,
        reason: Some(reason),
    }
}

/// An origin's error again, without asking it again.
fn repeat(answer: &Answer, bytes: bytes::Bytes, head: bool) -> Response<Body> {
    let status = CacheStatus { reason: Some(Reason::Negative), ..CacheStatus::hit(Source::Memory, 0, None) };
    let mut response = text(answer.meta.status, if head { bytes::Bytes::new() } else { bytes });
    let fields = response.headers_mut();
    for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LENGTH, header::RETRY_AFTER] {
        if let Some(value) = answer.meta.fields.get(&name) {
            fields.insert(name, value.clone());
        }
    }
    fields.insert(crate::deliver::CACHE_STATUS, status.value());
    response
}

fn seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

/// Answered by every node on every name: what dnssrv and monitors ask.
const HEALTH: &str = "/.well-known/atoll/health";

/// RFC 8586.
const CDN_LOOP: header::HeaderName = header::HeaderName::from_static("cdn-loop");

/// Looks at one request at most: each ends with more known than before (a list of varying fields, https, a pass mark).
const ROUNDS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

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
            ("identity", ""),
        ] {
            assert_eq!(check(value), class, "{value}");
        }
    }
}
