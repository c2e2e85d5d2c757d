//! The life of one request, from its head to its answer; [`crate::lookup`] tells where that is found.
//!
//! ```text
//! Receive -> (health, robots.txt) -> Lookup -> Hit ----------------------------> Respond
//!                |                      |-> Pass: a flight of its own ------------> ^
//!                |                      '-> Miss: join or lead a flight ----------'
//!                '-> Forward: other methods, with their bodies --------------------^
//! ```

use std::{sync::Arc, time::Instant};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::{Body as _, Incoming};

use crate::{
    admit,
    body::Body,
    cache::Cache,
    deliver::{CACHE_STATUS, refuse, text},
    forward,
    found::Found,
    gate::Refusal,
    log::Entry,
    lookup::lookup,
    metered::metered,
    purge::purge_method,
    reason::{Failure, Forwarded, Source},
    receive::{Asked, Origin, Received, receive},
    respond::respond,
    site::Own,
    stats::Way,
    tally::{Outcome, Tally},
    trace::{self, ATOLL_TRACE, READABLE, TRACES, Tracer},
};

/// Answers one request of a client.
pub(crate) async fn handle(cache: Arc<Cache>, request: Request<Option<Incoming>>) -> Response<Body> {
    let from = request.extensions().get::<Origin>();
    let entry = cache.log.as_ref().map(|log| Entry::of(log, &request, from.map(|from| from.client.ip())));
    let (began, way) = (Instant::now(), Way::of(&request));
    let Ok(place) = Arc::clone(&cache.places).try_acquire_owned() else {
        cache.counters.refused();
        let response = refuse(Failure::Busy, "too many requests at once", None);
        return tallied(&cache, response, (began, way), Some(&Told::default()), entry);
    };
    let interim = from.and_then(|from| from.interim.clone());
    if let Some(interim) = &interim {
        interim.open();
    }
    let (response, told) = answer(&cache, request).await;
    if let Some(interim) = &interim {
        interim.close();
    }
    drop(place);
    tallied(&cache, response, (began, way), told.as_ref(), entry)
}

/// The answer to a head that HTTP/2's parser let pass and the gate does not: counted and logged as any other.
pub(crate) fn turned_away<B>(cache: &Arc<Cache>, request: &Request<B>, refusal: Refusal) -> Response<Body> {
    cache.counters.head_refused(refusal.status());
    let mut response = refuse(Failure::Request, &refusal.to_string(), None);
    *response.status_mut() = refusal.status();
    let from = request.extensions().get::<Origin>();
    let entry = cache.log.as_ref().map(|log| Entry::of(log, request, from.map(|from| from.client.ip())));
    tallied(cache, response, (Instant::now(), Way::of(request)), None, entry)
}

/// A response that is counted as it goes out.
fn tallied(
    cache: &Cache,
    response: Response<Body>,
    (began, way): (Instant, Way),
    told: Option<&Told>,
    mut entry: Option<Entry>,
) -> Response<Body> {
    if let Some(told) = told {
        cache.counters.answered(way, response.status(), told, began.elapsed());
    }
    if let Some(entry) = &mut entry {
        entry.answered(response.status(), response.headers());
    }
    let mut tally = Tally::new(Arc::clone(&cache.counters), told.map(Outcome::of), began, entry);
    if response.body().is_end_stream() {
        tally.completed();
    }
    response.map(|body| Body::Tallied(Box::new((body, tally))))
}

/// What is counted of a response.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub(crate) source: Option<Source>,
    pub(crate) collapsed: bool,
    pub(crate) stale: bool,
    /// Stored, and confirmed by the origin now.
    pub(crate) revalidated: bool,
    /// Not for the store.
    pub(crate) passed: bool,
    pub(crate) tenant: Tenant,
}

/// Whose an answer is, in the words of the metrics: these come from the configuration alone.
#[derive(Debug, Clone, Default)]
pub(crate) enum Tenant {
    /// Nobody's that is known.
    #[default]
    Nobody,
    /// A Coralized name's.
    Coralized,
    /// An own site's.
    Site(Arc<Own>),
}

impl Tenant {
    pub(crate) const CORALIZED: &str = "coralized";

    pub(crate) fn word(&self) -> metrics::SharedString {
        match self {
            Self::Nobody => "none".into(),
            Self::Coralized => Self::CORALIZED.into(),
            Self::Site(own) => Arc::clone(&own.tenant).into(),
        }
    }
}

async fn answer(cache: &Arc<Cache>, mut request: Request<Option<Incoming>>) -> (Response<Body>, Option<Told>) {
    if request.method().as_str() == "PURGE" {
        return (Box::pin(purge_method(cache, request)).await, None);
    }
    if request.uri().path() == HEALTH {
        return (text(StatusCode::OK, "ok\n"), None);
    }
    if request.headers().contains_key(&ATOLL_TRACE)
        && let Some(response) = traced(cache, &mut request)
    {
        return (response, None);
    }
    let mut asked = match receive(cache, request) {
        Ok(Received::Asked(asked)) => asked,
        Ok(Received::Robots) => return (text(StatusCode::OK, "User-agent: *\nDisallow: /\n"), None),
        Ok(Received::Linked(location)) => {
            let mut response = text(StatusCode::FOUND, "");
            response.headers_mut().insert(header::LOCATION, location);
            return (response, Some(Told::default()));
        }
        Ok(Received::TakenDown(response)) => {
            cache.counters.refused();
            return (*response, Some(Told::default()));
        }
        Err((failure, why)) => {
            cache.counters.refused();
            return (refuse(failure, &why, None), Some(Told::default()));
        }
    };
    let tenant = asked.site.clone().map_or(Tenant::Coralized, Tenant::Site);
    if let Some(response) = admit::admit(cache, &mut asked) {
        return (response, Some(Told { tenant, ..Told::default() }));
    }
    let tab = asked.tab.clone();
    let (response, told) = served(cache, asked).await;
    (metered(response, tab), told.map(|told| Told { tenant, ..told }))
}

async fn served(cache: &Arc<Cache>, asked: Box<Asked>) -> (Response<Body>, Option<Told>) {
    if !matches!(asked.method, Method::GET | Method::HEAD) {
        return Box::pin(forward::forward(cache, *asked, Forwarded::Method, None)).await;
    }
    asked.trace.note("request", || format!("{} {}, key {}", asked.method, asked.url, asked.url.key()));
    let found = lookup(cache, &asked).await;
    if let Found::AskHead(forwarded, stale) = found {
        asked.trace.note("origin", || "nothing is here and a HEAD is cheaper than all of it: passed on".to_owned());
        return Box::pin(forward::forward(cache, *asked, forwarded, stale)).await;
    }
    if let Found::Failed(failure, _) = found
        && let Some(response) = admit::failed(cache, &asked, failure)
    {
        return (response, Some(Told::default()));
    }
    let trace = asked.trace.clone();
    let (response, told) = respond(cache, asked, found).await;
    trace.note("answer", || described(&response));
    (response, told)
}

/// A request with a good pass is traced, or reads a trace. Any other is one like all.
fn traced(cache: &Cache, request: &mut Request<Option<Incoming>>) -> Option<Response<Body>> {
    let nonce = trace::passed(cache.streams.as_ref(), request.headers())?;
    if request.uri().path() == TRACES {
        let told = cache.traces.get(&nonce)?.read(cache.index.me().id);
        let mut response = Response::new(Body::Whole(serde_json::to_vec(&told).unwrap_or_default().into()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return Some(response);
    }
    let (tracer, trace) = Tracer::begin();
    cache.traces.put(nonce, trace, READABLE);
    request.extensions_mut().insert(tracer);
    None
}

/// A response's head in a few words.
fn described(response: &Response<Body>) -> String {
    let word = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
    format!("{}, Cache-Status: {}", response.status(), word(CACHE_STATUS))
}

/// Answered by every node on every name: what dnssrv and monitors ask.
pub(crate) const HEALTH: &str = "/.well-known/atoll/health";
