//! The operator's page: one document without outside assets, and the state it shows, which needs the login.

use std::{sync::atomic::Ordering, time::Instant};

use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::{
    catalogue::Popular,
    control::is_draining,
    office::{Beside, Office},
    roster::View,
};
use crate::front::{
    body::{FrontBody, typed},
    meter::Download,
};

/// All that the page shows.
#[derive(Debug, Serialize)]
pub(crate) struct State {
    version: &'static str,
    url: String,
    origin: String,
    seconds: u64,
    draining: bool,
    peers: Vec<View>,
    /// Downloads that the manager serves itself.
    downloads: Vec<Download>,
    in_flight: usize,
    redirects: u64,
    ejected: u64,
    /// Body bytes sent to clients, by peers and by the manager.
    sent_by_peers: u64,
    sent_here: u64,
    /// Body bytes that the backend sent, to all nodes.
    from_origin: u64,
    /// What the backend did not have to send.
    saved: u64,
    files: Vec<File>,
    /// Managers beside this one.
    managers: Vec<Manager>,
}

/// A manager beside this one.
#[derive(Debug, Serialize)]
struct Manager {
    key: String,
    #[serde(flatten)]
    beside: Beside,
}

/// A file that is asked for much.
#[derive(Debug, Serialize)]
struct File {
    file: String,
    #[serde(flatten)]
    popular: Popular,
}

/// The state now.
pub(crate) fn state(office: &Office) -> State {
    let peers = office.roster().views(Instant::now());
    let from_origin =
        office.service.proxy.stats().origin_bytes + peers.iter().map(|peer| peer.origin_bytes).sum::<u64>();
    let sent_by_peers = office.totals.by_peers.load(Ordering::Relaxed);
    let sent_here = office.service.meter.sent();
    State {
        version: env!("CARGO_PKG_VERSION"),
        url: office.own.to_string(),
        origin: office.service.site.url(),
        seconds: office.started.elapsed().as_secs(),
        draining: is_draining(office),
        peers,
        downloads: office.service.meter.downloads(SHOWN),
        in_flight: office.service.meter.in_flight(),
        redirects: office.totals.redirects.load(Ordering::Relaxed),
        ejected: office.totals.ejected.load(Ordering::Relaxed),
        sent_by_peers,
        sent_here,
        from_origin,
        saved: (sent_by_peers + sent_here).saturating_sub(from_origin),
        managers: office.beside().into_iter().map(|(key, beside)| Manager { key, beside }).collect(),
        files: office.catalogue.top(SHOWN).into_iter().map(|(file, popular)| File { file, popular }).collect(),
    }
}

/// The page. It holds no secret; what it shows it asks for with the login. Its script and style run by a nonce.
pub(crate) fn page() -> Response<FrontBody> {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut answer = typed(StatusCode::OK, "text/html; charset=utf-8", PAGE.replace("NONCE", &nonce));
    let headers = answer.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    answer
}

const PAGE: &str = include_str!("page.html");

/// Downloads and files on the page.
const SHOWN: usize = 20;
