//! The life of one request of a client at the manager: to the program itself, led to a peer, or served here.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Instant, SystemTime},
};

use atoll_proxy::Early;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::{
    control,
    explain::{self, Explained},
    metalink,
    office::Office,
    roster::{Choice, Wish},
};
use crate::front::{
    body::{self, FrontBody, text, typed, whole},
    listen::{Client, Desk},
    quick,
    record::truncated,
    service::{Service, refused},
};

impl Desk for Office {
    fn service(&self) -> &Service {
        &self.service
    }

    fn decide(&self, client: Client, target: &str, head: &mut Vec<u8>) -> Early {
        if !is_plain(target) {
            return Early::Later;
        }
        if self.alone.load(Ordering::Relaxed) || is_small(self, target) {
            return Early::Stored;
        }
        match lead(self, client, target, &[]) {
            Some(answer) => {
                quick::write(&answer, SystemTime::now(), head);
                Early::Told
            }
            None => Early::Stored,
        }
    }

    async fn answer(&self, client: Client, request: Request<Incoming>) -> Response<FrontBody> {
        let path = request.uri().path();
        if path == "/_log" || path.starts_with("/_atoll/") || path == "/_atoll" {
            return control::answer(self, client, request).await;
        }
        if path == "/_ws" || path.starts_with("/_ws/") {
            return text(
                StatusCode::GONE,
                "machines join with `atoll peer --manager URL --token T`; see docs/manager.md",
            );
        }
        if let Some(refused) = refused(&request) {
            return refused;
        }
        serve_client(self, client, &request.map(|_| ())).await
    }
}

async fn serve_client(office: &Office, client: Client, request: &Request<()>) -> Response<FrontBody> {
    if request.uri().path() == HEALTH {
        return health(office);
    }
    if is_loop(office, request) {
        return loop_found();
    }
    let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let asked = Asked::read(target, |said| office.roster().names(said));
    if let Some(form) = asked.list {
        return mirror_list(office, client, &asked, form, request);
    }
    if let Some(answer) = metalink::answer(office, client, &asked.file).await {
        return answer;
    }
    asked.not.iter().for_each(|not| office.roster().complain(not));
    if !is_small(office, &asked.file)
        && let Some(answer) = lead(office, client, &asked.file, &asked.not)
    {
        return answer.map(|()| whole(""));
    }
    office.service.answer(client, &asked.file, request).await
}

/// Whether a target can be nothing but a file's: nothing in it is meant for the manager.
fn is_plain(target: &str) -> bool {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let own = target.starts_with("/_") || path == HEALTH || target.ends_with(metalink::SUFFIX);
    !own && !query.contains("not=") && !query.contains("mirrorlist")
}

/// Whether a file is one that is served here, whoever is live.
fn is_small(office: &Office, file: &str) -> bool {
    let above = office.rules.redirect_above;
    above > 0 && office.catalogue.size(file).is_some_and(|size| size <= above)
}

/// What a client wants, and whom it may be led to: one that came over TLS stays there.
fn wish<'w>(office: &Office, client: Client, file: &'w str, not: &'w [String]) -> Wish<'w> {
    Wish { file, client: client.address.ip(), not, secure: office.is_secure(client) }
}

/// The redirect of a client to a peer, if it may be led to one.
fn lead(office: &Office, client: Client, file: &str, not: &[String]) -> Option<Response<()>> {
    let choices = office.roster().lead(Instant::now(), &wish(office, client, file, not));
    let answer = led(office, client, file, (choices.first()?, &choices))?;
    office.totals.redirects.fetch_add(1, Ordering::Relaxed);
    Some(answer)
}

/// A redirect to the first of these. None if the path cannot stand in a header.
fn led(office: &Office, client: Client, file: &str, (first, choices): (&Choice, &[Choice])) -> Option<Response<()>> {
    let location = HeaderValue::from_str(&format!("{}{file}", first.url)).ok()?;
    let mut answer = Response::new(());
    *answer.status_mut() = office.rules.redirect_status;
    let headers = answer.headers_mut();
    headers.insert(header::LOCATION, location);
    // For this client, now.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(name) = HeaderValue::from_str(&first.name) {
        headers.insert(NODE, name);
    }
    let links = explain::duplicates(file, choices).into_iter().chain(metalink::described_by(office, client, file));
    for links in links.filter_map(|links| HeaderValue::try_from(links).ok()) {
        headers.append(header::LINK, links);
    }
    Some(answer)
}

fn mirror_list(
    office: &Office,
    client: Client,
    asked: &Asked,
    form: ListForm,
    request: &Request<()>,
) -> Response<FrontBody> {
    let now = Instant::now();
    let wish = wish(office, client, &asked.file, &asked.not);
    let (choices, views) = {
        let mut roster = office.roster();
        (roster.explain(now, &wish), roster.views(now))
    };
    let network = truncated(client.address.ip()).to_string();
    let explained = Explained::new(wish, network, &choices, views);
    if form.is_json(request.headers()) {
        return body::json(StatusCode::OK, &explained);
    }
    let mut page = typed(StatusCode::OK, "text/html; charset=utf-8", explained.page());
    let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    page
}

/// 200 while clients may come, 503 once the manager is leaving.
fn health(office: &Office) -> Response<FrontBody> {
    if office.draining.load(Ordering::Relaxed) {
        text(StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else {
        text(StatusCode::OK, "ok")
    }
}

/// Whether a node of this network sends the request: then the backend leads back to us [RFC 8586].
fn is_loop(office: &Office, request: &Request<()>) -> bool {
    let own = format!("atoll-{}", office.network.name);
    let values = request.headers().get_all("cdn-loop").iter().filter_map(|value| value.to_str().ok());
    let mut ids = values.flat_map(|value| value.split(',')).map(|id| id.split(';').next().unwrap_or_default().trim());
    ids.any(|id| id == own)
}

/// See [`is_loop`].
pub(crate) fn loop_found() -> Response<FrontBody> {
    let mut answer = text(StatusCode::LOOP_DETECTED, "the backend leads back here: this request has been here before");
    let status = HeaderValue::from_static("atoll; error=proxy_loop_detected");
    answer.headers_mut().insert(HeaderName::from_static("proxy-status"), status);
    answer
}

/// A target, with what is meant for the manager taken out of its query.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Path and query as the backend is to see them.
    pub(crate) file: String,
    /// Peers that failed this client.
    pub(crate) not: Vec<String>,
    pub(crate) list: Option<ListForm>,
}

/// How a mirror list is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListForm {
    Page,
    Json,
}

impl ListForm {
    /// Whether a client is to get JSON: it says so, or takes it.
    pub(crate) fn is_json(self, fields: &HeaderMap) -> bool {
        let accepts = fields.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        self == Self::Json || accepts.contains("application/json")
    }
}

impl Asked {
    /// Reads a target. `not=X` is the manager's only if X names a peer, and `mirrorlist` only as it stands in the manual: all else
    /// is the backend's, byte for byte. Of many `not=` the first 16 are looked at.
    pub(crate) fn read(target: &str, names: impl Fn(&str) -> bool) -> Self {
        let whole = || Self { file: target.to_owned(), not: Vec::new(), list: None };
        let Some((path, query)) = target.split_once('?') else { return whole() };
        let mut asked = whole();
        let (mut kept, mut looks) = (Vec::new(), NOTS);
        // Each costs a look at all who are known.
        let mut is_named = |said: &str| {
            let left = looks > 0;
            looks = looks.saturating_sub(1);
            left && names(said)
        };
        for part in query.split('&') {
            match part.split_once('=') {
                Some(("not", said)) if is_named(said) => asked.not.push(said.to_owned()),
                None if part == "mirrorlist" => asked.list = Some(ListForm::Page),
                Some(("mirrorlist", "json")) => asked.list = Some(ListForm::Json),
                _ => kept.push(part),
            }
        }
        if asked.not.is_empty() && asked.list.is_none() {
            return asked;
        }
        asked.file = if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) };
        asked
    }
}

/// Shares the office with the front.
pub(crate) type Shared = Arc<Office>;

/// Answered by every node on every name.
pub(crate) const HEALTH: &str = "/.well-known/atoll/health";

/// The name of the peer a client is led to, for `?not=`.
pub(crate) const NODE: HeaderName = HeaderName::from_static("atoll-node");

/// Peers a client may refuse at once: so many `not=` are looked at.
const NOTS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(target: &str) -> (String, Vec<String>, Option<ListForm>) {
        let asked = Asked::read(target, |said| said == "0123456789abcdef" || said == "10.0.0.1:5001");
        (asked.file, asked.not, asked.list)
    }

    #[test]
    fn so_many_peers_may_be_refused_at_once_and_no_more_are_looked_for() {
        let looks = std::cell::Cell::new(0);
        let nots = vec!["not=10.0.0.1:5001"; 2_700].join("&");
        let asked = Asked::read(&format!("/a?{nots}"), |_| {
            looks.set(looks.get() + 1);
            true
        });
        assert_eq!((asked.not.len(), looks.get()), (NOTS, NOTS));
        assert_eq!(asked.file.matches("not=").count(), 2_700 - NOTS, "the rest is the backend's");
    }

    #[test]
    fn only_what_is_the_managers_leaves_the_query() {
        let kept = |target: &str| assert_eq!(read(target), (target.to_owned(), Vec::new(), None));
        for target in
            ["/", "/a?", "/a?b&&c=", "/a?not=me", "/a?mirrorlist=html", "/a?x=mirrorlist", "/a?not", "/%2e%2e/?%00"]
        {
            kept(target);
        }
        let not = vec!["0123456789abcdef".to_owned(), "10.0.0.1:5001".to_owned()];
        assert_eq!(read("/a?x=1&not=0123456789abcdef&y&not=10.0.0.1:5001"), ("/a?x=1&y".into(), not, None));
        assert_eq!(read("/a?mirrorlist"), ("/a".into(), Vec::new(), Some(ListForm::Page)));
        assert_eq!(read("/a?b=1&mirrorlist=json"), ("/a?b=1".into(), Vec::new(), Some(ListForm::Json)));
    }
}
