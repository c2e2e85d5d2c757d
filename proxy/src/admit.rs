//! Whether a request is served at all, before anything is looked up for it: by the shares that are left and by what its origin says of
//! being Coralized.

use std::time::Duration;

use http::{HeaderValue, Method, Response, header};

use crate::{
    body::Body,
    cache::Cache,
    deliver::refuse,
    fairness::Leave,
    home::{self, Control},
    reason::Failure,
    receive::Asked,
};

/// The answer to a request that is not served; else notes on it what may be done for it.
pub(crate) fn admit(cache: &Cache, asked: &mut Asked) -> Option<Response<Body>> {
    if is_free(cache) {
        return None;
    }
    if asked.site.is_none() && cache.controls.get(&asked.url.authority()) == Some(Control::OptOut) {
        return Some(home::redirect(&asked.url));
    }
    match asked.tab.as_ref().map_or(Leave::All, |tab| tab.admit()) {
        Leave::All => None,
        Leave::Nothing(wait) => Some(turned_away(cache, asked, wait)),
        Leave::Stored(wait) if !matches!(asked.method, Method::GET | Method::HEAD) => {
            Some(turned_away(cache, asked, wait))
        }
        Leave::Stored(wait) => {
            asked.stored_only = Some(wait);
            None
        }
    }
}

/// Whether nothing stands between a stored answer and whoever asks for it: no share is limited, nothing is taken down, no host has
/// said anything of being Coralized. A shorter way to a hit than through here is open only then.
pub(crate) fn is_free(cache: &Cache) -> bool {
    !cache.fairness.is_limited() && cache.takedown.is_empty() && cache.controls.is_unused()
}

/// The answer to a request that could not be served after all, if it is not an error like others.
pub(crate) fn failed(cache: &Cache, asked: &Asked, failure: Failure) -> Option<Response<Body>> {
    match failure {
        Failure::OptedOut => Some(home::redirect(&asked.url)),
        Failure::OverQuota => Some(turned_away(cache, asked, asked.stored_only.unwrap_or_default())),
        _ => None,
    }
}

/// A share is used up: the client is sent to the origin where that wants it, else told when to come again.
fn turned_away(cache: &Cache, asked: &Asked, wait: Duration) -> Response<Body> {
    cache.counters.refused();
    let home = asked.site.is_none() && cache.controls.get(&asked.url.authority()) == Some(Control::RedirectHome);
    metrics::counter!("atoll_http_over_quota_total", "answer" => if home { "redirect" } else { "refused" })
        .increment(1);
    if home {
        return home::redirect(&asked.url);
    }
    let mut response = refuse(Failure::OverQuota, "more than its share has been sent; come again later", None);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    response
}
