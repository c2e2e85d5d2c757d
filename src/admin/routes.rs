//! What is answered: `GET /`, `/health`, `/metrics`, `/status`, `/nodes`, `/explain`, `/trace`, `/purges`, `/copies`, `/warmed`, and
//! `POST /drain`, `/stop`, `/purge`, `/warmed`. Errors are problem details [RFC 9457].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Incoming};

use super::{
    gate::{Door, Refusal},
    metrics,
};
use crate::{
    purging::{Order, unescape},
    status::StatusSource,
    trace::Wanted,
    warm::Warmth,
};

/// What every request needs.
pub(super) struct Desk {
    pub(super) source: Arc<dyn StatusSource>,
    pub(super) body_limit: usize,
    pub(super) body_timeout: Duration,
}

/// What is done for one path.
type Act = fn(&Desk) -> Response<Full<Bytes>>;

/// Answers one request.
pub(super) async fn answer(desk: &Desk, door: &Door, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let answer = if let Err(refusal) = door.check_host(&head.uri, &head.headers) {
        refuse(refusal)
    } else if head.uri.path() == "/" && matches!(head.method, Method::GET | Method::HEAD) {
        page()
    } else if let Err(refusal) = door.check_asker(&head.headers) {
        refuse(refusal)
    } else if !fits(desk, body).await {
        problem(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long, or took too long; no request here needs one")
    } else if head.uri.path() == "/explain" && READ.contains(&head.method) {
        explain(desk, head.uri.query().unwrap_or_default())
    } else if head.uri.path() == "/purge" && head.method == Method::POST {
        purge(desk, head.uri.query().unwrap_or_default()).await
    } else if head.uri.path() == "/warmed" && head.method == Method::POST {
        warmed(desk, head.uri.query().unwrap_or_default())
    } else if head.uri.path() == "/copies" && READ.contains(&head.method) {
        copies(desk, head.uri.query().unwrap_or_default()).await
    } else if head.uri.path() == "/trace" && head.method == Method::GET {
        trace(desk, head.uri.query().unwrap_or_default()).await
    } else {
        route(desk, &head.method, head.uri.path())
    };
    guarded(answer)
}

fn route(desk: &Desk, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let (allowed, act): (&[Method], Act) = match path {
        "/health" => (&READ, health),
        "/metrics" => (&READ, |desk| {
            desk.source.gauge();
            text(TEXT_FORMAT, metrics::render(&desk.source.status()))
        }),
        "/nodes" => (&READ, |desk| json(StatusCode::OK, &desk.source.nodes())),
        "/status" => (&READ, |desk| json(StatusCode::OK, &desk.source.status())),
        "/purges" => (&READ, purges),
        "/purge" => (&[Method::POST], purges),
        "/warmed" => (&READ_AND_POST, |desk| json(StatusCode::OK, &desk.source.warmed())),
        "/drain" => (&[Method::POST], drain),
        "/stop" => (&[Method::POST], stop),
        "/" => (&READ, |_| page()),
        _ => return problem(StatusCode::NOT_FOUND, THERE_ARE),
    };
    if allowed.contains(method) {
        return act(desk);
    }
    let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
    let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "this method does nothing here");
    if let Ok(names) = HeaderValue::from_str(&names.join(", ")) {
        answer.headers_mut().insert(header::ALLOW, names);
    }
    answer
}

/// 200 while clients may be sent here, 503 once the node is leaving: whoever balances load sees it before the doors close.
fn health(desk: &Desk) -> Response<Full<Bytes>> {
    if desk.source.status().draining {
        json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({ "status": "draining" }))
    } else {
        json(StatusCode::OK, &serde_json::json!({ "status": "ok" }))
    }
}

/// `?name=NAME&from=ADDRESS`: why DNS answers as it does, a list of lines.
fn explain(desk: &Desk, query: &str) -> Response<Full<Bytes>> {
    let name = value(query, "name");
    let from = value(query, "from").and_then(|from| from.parse().ok());
    let (Some(name), Some(from)) = (name, from) else {
        return problem(
            StatusCode::BAD_REQUEST,
            "say what and for whom: /explain?name=www.example.com.ZONE&from=192.0.2.1",
        );
    };
    match desk.source.explain(&name, from) {
        Some(lines) => json(StatusCode::OK, &lines),
        None => problem(StatusCode::NOT_FOUND, "this node answers no DNS, or that is no domain name"),
    }
}

/// `?url=URL&from=ADDRESS&node=NODE`: one request followed, as a [`crate::trace::Report`].
async fn trace(desk: &Desk, query: &str) -> Response<Full<Bytes>> {
    let from = value(query, "from").and_then(|from| from.parse().ok());
    let (Some(url), Some(from)) = (value(query, "url"), from) else {
        return problem(
            StatusCode::BAD_REQUEST,
            "say what and for whom: /trace?url=http://www.example.com/&from=192.0.2.1",
        );
    };
    match desk.source.trace(Wanted { url, node: value(query, "node"), from }).await {
        Ok(report) => json(StatusCode::OK, &report),
        Err(why) => problem(StatusCode::BAD_REQUEST, &why),
    }
}

/// A value of the query.
fn value(query: &str, key: &str) -> Option<String> {
    let (_, value) = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key)?;
    unescape(value)
}

/// `?tag=TAG` and the like ([`Order`]): purges, and says who has applied it.
async fn purge(desk: &Desk, query: &str) -> Response<Full<Bytes>> {
    let Some(purger) = desk.source.purger() else { return no_copies() };
    let order = match Order::parse(query) {
        Ok(order) => order,
        Err(wrong) => return problem(StatusCode::BAD_REQUEST, &wrong),
    };
    match purger.purge(order).await {
        Ok(report) => json(StatusCode::OK, &report),
        Err(why) => problem(StatusCode::CONFLICT, &why),
    }
}

/// `?url=URL&node=NODE&...` ([`Warmth`]): a copy that was put into a cache, for the dashboard.
fn warmed(desk: &Desk, query: &str) -> Response<Full<Bytes>> {
    let Some(one) = Warmth::parse(|key| value(query, key)) else {
        return problem(StatusCode::BAD_REQUEST, "what is told here is told by `atoll warm`");
    };
    desk.source.note_warm(one);
    json(StatusCode::OK, &serde_json::json!({ "status": "noted" }))
}

fn purges(desk: &Desk) -> Response<Full<Bytes>> {
    desk.source.purger().map_or_else(no_copies, |purger| json(StatusCode::OK, &purger.purges()))
}

/// `?url=URL`: who holds which copies of it.
async fn copies(desk: &Desk, query: &str) -> Response<Full<Bytes>> {
    let Some(purger) = desk.source.purger() else { return no_copies() };
    let Some(url) = query.strip_prefix("url=").and_then(unescape) else {
        return problem(StatusCode::BAD_REQUEST, "say which: /copies?url=http://www.example.com/");
    };
    match purger.copies(&url).await {
        Ok(copies) => json(StatusCode::OK, &copies),
        Err(wrong) => problem(StatusCode::BAD_REQUEST, &wrong),
    }
}

fn no_copies() -> Response<Full<Bytes>> {
    problem(StatusCode::NOT_FOUND, "this node runs no proxy: it holds no copies, and purges none")
}

fn drain(desk: &Desk) -> Response<Full<Bytes>> {
    desk.source.drain();
    json(StatusCode::ACCEPTED, &serde_json::json!({ "status": "draining" }))
}

fn stop(desk: &Desk) -> Response<Full<Bytes>> {
    desk.source.stop_now();
    json(StatusCode::ACCEPTED, &serde_json::json!({ "status": "stopping" }))
}

/// The dashboard. It holds no secret; what it shows it asks for with the token. Its script and style run by a nonce.
fn page() -> Response<Full<Bytes>> {
    let nonce: String = rand::random::<[u8; 16]>().iter().map(|byte| format!("{byte:02x}")).collect();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut answer = text("text/html; charset=utf-8", DASHBOARD.replace("NONCE", &nonce));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    answer
}

fn refuse(refusal: Refusal) -> Response<Full<Bytes>> {
    match refusal {
        Refusal::ForeignHost => problem(
            StatusCode::FORBIDDEN,
            "this host name is not ours; use the address or localhost, or add the name to hosts in [admin]",
        ),
        Refusal::ForeignPage => problem(StatusCode::FORBIDDEN, "a page of another origin may not ask here"),
        Refusal::NoToken => {
            let mut answer = problem(StatusCode::UNAUTHORIZED, "send the token: Authorization: Bearer TOKEN");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            answer
        }
    }
}

/// Reads the body and forgets it; false if it is over the limit, breaks off or dawdles.
async fn fits(desk: &Desk, body: Incoming) -> bool {
    let limit = u64::try_from(desk.body_limit).unwrap_or(u64::MAX);
    if body.size_hint().lower() > limit {
        return false;
    }
    let mut body = Limited::new(body, desk.body_limit);
    let read = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(desk.body_timeout, read).await.unwrap_or(false)
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    // Our own types: strings and numbers, which always serialise.
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut answer = text("application/json", body);
    *answer.status_mut() = status;
    answer
}

fn problem(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    let title = status.canonical_reason().unwrap_or_default();
    let value = serde_json::json!({ "status": status.as_u16(), "title": title, "detail": detail });
    let mut answer = json(status, &value);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    answer
}

fn text(kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// What every answer carries: no browser keeps it, guesses its type, frames it or tells others where it was.
fn guarded(mut answer: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

const THERE_ARE: &str = "there are /, /health, /metrics, /status, /nodes, /explain, /trace, /purges, /copies, /warmed, and to POST /purge, /warmed, /drain and /stop";

const READ: [Method; 2] = [Method::GET, Method::HEAD];

const READ_AND_POST: [Method; 3] = [Method::GET, Method::HEAD, Method::POST];

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One page, no outside asset.
const DASHBOARD: &str = include_str!("dashboard.html");
