//! The word of those whose sites are Coralized by others (`Atoll-Control`), and the way to the origin itself.
//!
//! | an origin answers | then |
//! |---|---|
//! | `Atoll-Control: opt-out` | its host is not served: what is stored is given up, every request is redirected to the origin |
//! | `Atoll-Control: redirect-home` | it is served; where a share is used up its clients are redirected to the origin instead of refused |
//!
//! A redirect home carries the query `atoll-no-serve`, which an origin that redirects to Coralized names leaves alone, and which is
//! never Coralized again, so that nobody goes round in circles.

use std::time::Duration;

use atoll_store::{PurgeKind, Selector};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::{
    body::Body,
    cache::{Cache, directory},
    deliver::text,
    url::OriginUrl,
};

/// What an origin said of being Coralized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    /// Not at all.
    OptOut,
    /// With its clients sent home where they would be refused.
    RedirectHome,
}

impl Control {
    /// What the fields of an answer say. Words that are not known say nothing; opting out wins.
    pub(crate) fn of(fields: &HeaderMap) -> Option<Self> {
        let words = || {
            let values = fields.get_all(&ATOLL_CONTROL).iter().filter_map(|value| value.to_str().ok());
            values.flat_map(|value| value.split(',')).map(str::trim)
        };
        if words().any(|word| word.eq_ignore_ascii_case("opt-out")) {
            return Some(Self::OptOut);
        }
        words().any(|word| word.eq_ignore_ascii_case("redirect-home")).then_some(Self::RedirectHome)
    }
}

/// Notes what an answer of a URL says of being Coralized; true if its host opts out.
pub(crate) async fn note(cache: &Cache, url: &OriginUrl, fields: &HeaderMap) -> bool {
    let Some(control) = Control::of(fields) else { return false };
    let before = cache.controls.get(&url.authority());
    cache.controls.put(url.authority(), control, REMEMBERED);
    if control == Control::OptOut && before != Some(Control::OptOut) {
        tracing::info!(host = url.authority(), "this host opts out of being Coralized");
        // What was stored before is not served while that is remembered; it is given up for the time after.
        let selector = Selector::Directory(directory(url));
        if let Err(error) = cache.store.purge(selector, PurgeKind::Hard).await {
            tracing::warn!(%error, "what is stored of a host that opts out could not be purged for good");
        }
    }
    control == Control::OptOut
}

/// Whether a target is one that is never Coralized again.
pub(crate) fn is_marked(target: &str) -> bool {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    query.split('&').any(|pair| pair.split('=').next() == Some(NO_SERVE))
}

/// The redirect to the origin itself.
pub(crate) fn redirect(url: &OriginUrl) -> Response<Body> {
    let mark = if url.path().contains('?') { '&' } else { '?' };
    let mut response = text(StatusCode::FOUND, "");
    let fields = response.headers_mut();
    if let Ok(target) = HeaderValue::try_from(format!("{url}{mark}{NO_SERVE}")) {
        fields.insert(header::LOCATION, target);
    }
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What origins of Coralized names see as User-Agent: that it is a cache, of which network, and whom to ask about it.
pub(crate) fn agent(network: &str, contact: &str) -> HeaderValue {
    let about = if contact.is_empty() { String::new() } else { format!("; +{contact}") };
    let name = concat!("atoll/", env!("CARGO_PKG_VERSION"));
    HeaderValue::try_from(format!("{name} ({network}{about})")).unwrap_or_else(|_| HeaderValue::from_static(name))
}

/// What an origin says of being Coralized.
const ATOLL_CONTROL: HeaderName = HeaderName::from_static("atoll-control");

/// The query that says: not through the CDN.
const NO_SERVE: &str = "atoll-no-serve";

/// How long an origin's word is remembered: it is heard again with every answer.
const REMEMBERED: Duration = Duration::from_secs(24 * 3_600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_home_is_marked_and_known_again() {
        let home = |url: &str| {
            redirect(&OriginUrl::parse(url).unwrap()).headers()[header::LOCATION].to_str().unwrap().to_owned()
        };
        assert_eq!(home("http://a.test:8080/x"), "http://a.test:8080/x?atoll-no-serve");
        assert_eq!(home("https://a.test/x?y=1"), "https://a.test/x?y=1&atoll-no-serve");
        for (target, marked) in [
            ("/x?atoll-no-serve", true),
            ("/x?a=1&atoll-no-serve=&b", true),
            ("/atoll-no-serve", false),
            ("/x?atoll-no-server", false),
            ("/x?a=atoll-no-serve", false),
        ] {
            assert_eq!(is_marked(target), marked, "{target}");
        }
    }

    #[test]
    fn opting_out_wins_and_unknown_words_say_nothing() {
        let of = |value: &'static str| {
            Control::of(&HeaderMap::from_iter([(ATOLL_CONTROL, HeaderValue::from_static(value))]))
        };
        assert_eq!(of("Redirect-Home, OPT-OUT"), Some(Control::OptOut));
        assert_eq!(of("x, redirect-home"), Some(Control::RedirectHome));
        assert_eq!(of("x"), None);
    }
}
