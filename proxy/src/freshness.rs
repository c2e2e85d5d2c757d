//! RFC 9111 as pure functions of headers and times, with RFC 5861's two stale extensions: what may be stored, how long it is
//! fresh, how old it is, and what may be done with it once it is stale. Storage is decided by the origin's headers alone, never by
//! names or extensions.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, StatusCode, header};

use crate::{
    config::FreshnessConfig, date as dates, directives::Directives, reason::Reason, site::Own, stated::CONTENT_DIGEST,
};

/// How long an answer may be used in which way, counted from the origin's own moment (age zero).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lifetime {
    /// Used without asking.
    pub(crate) fresh: Duration,
    /// Beyond that: used while it is revalidated.
    pub(crate) while_revalidate: Duration,
    /// Beyond `fresh`: used while the origin fails.
    pub(crate) if_error: Duration,
    /// A client may ask for it stale.
    pub(crate) on_request: bool,
}

/// What may be done with an answer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Used, for so long.
    Fresh(Duration),
    /// Used, and revalidated beside it.
    Refresh,
    /// Revalidated first; used if the origin fails, where allowed.
    Stale {
        /// Whether it may stand in for a failing origin.
        if_error: bool,
    },
}

impl Lifetime {
    /// What may be done at this age.
    pub(crate) fn state(self, age: Duration) -> State {
        if age < self.fresh {
            return State::Fresh(self.fresh - age);
        }
        let stale = age - self.fresh;
        if stale < self.while_revalidate { State::Refresh } else { State::Stale { if_error: stale < self.if_error } }
    }

    /// The lifetime of an answer [RFC 9111 4.2.1]; a refusal of which nothing says how long it holds is kept for the time given.
    pub(crate) fn of(
        status: StatusCode,
        headers: &HeaderMap,
        received: SystemTime,
        (config, refusal): (&FreshnessConfig, Duration),
    ) -> Self {
        let said = Said::of(headers);
        let directives = &said.directives;
        let fresh = match said.explicit(headers, received) {
            _ if directives.no_cache => Duration::ZERO,
            Some(fresh) => fresh,
            None => heuristic((status, directives.public), headers, received, (config, refusal)),
        };
        let minimum = if directives.no_cache { Duration::ZERO } else { config.minimum };
        // s-maxage implies proxy-revalidate [RFC 9111 5.2.2.10].
        let never_stale = directives.must_revalidate
            || directives.proxy_revalidate
            || directives.no_cache
            || directives.s_maxage.is_some();
        let stale = |span: Duration| if never_stale { Duration::ZERO } else { span };
        Self {
            fresh: fresh.max(minimum),
            while_revalidate: stale(directives.stale_while_revalidate.unwrap_or_default()),
            if_error: stale(directives.stale_if_error.unwrap_or(config.stale_if_error)),
            on_request: !never_stale,
        }
    }
}

/// Of what request an answer is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Asker {
    /// The request carried credentials.
    pub(crate) authorised: bool,
    /// The request carried cookies.
    pub(crate) cookies: bool,
    /// Answers that set cookies may be stored where the origin states how long: an own site's, by its rules.
    pub(crate) stores_cookies: bool,
}

impl Asker {
    /// By what is sent to the origin.
    pub(crate) fn of(sent: &HeaderMap, site: Option<&Own>) -> Self {
        Self {
            authorised: sent.contains_key(header::AUTHORIZATION),
            cookies: sent.contains_key(header::COOKIE),
            stores_cookies: site.is_some_and(Own::stores_cookies),
        }
    }
}

/// Whether a shared cache may store the answer to a GET [RFC 9111 3]; why not otherwise.
pub(crate) fn storable(status: StatusCode, headers: &HeaderMap, asker: Asker) -> Result<(), Reason> {
    let said = Said::of(headers);
    let directives = &said.directives;
    let understood = is_understood(status);
    if directives.no_store && !(directives.must_understand && understood) {
        return Err(Reason::NoStore);
    }
    if directives.private {
        return Err(Reason::Private);
    }
    let timed = directives.max_age.is_some() || directives.s_maxage.is_some() || said.expires(headers);
    // Where cookies are about, no guess is good enough.
    let said_so = timed || directives.public;
    if headers.contains_key(header::SET_COOKIE) && !(asker.stores_cookies && said_so) {
        return Err(Reason::SetCookie);
    }
    if asker.cookies && !said_so {
        return Err(Reason::Cookie);
    }
    if asker.authorised && !(directives.public || directives.s_maxage.is_some() || directives.must_revalidate) {
        return Err(Reason::Authorization);
    }
    let never = status.is_informational()
        || matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED)
        || directives.must_understand && !understood;
    if never || !(timed || directives.public || is_heuristic(status)) {
        return Err(Reason::Status);
    }
    match Vary::of(headers) {
        Vary::Star => Err(Reason::VaryStar),
        Vary::Nothing | Vary::Names(_) => Ok(()),
    }
}

/// Whether the origin says itself how long the answer may be used.
pub(crate) fn is_timed(headers: &HeaderMap) -> bool {
    let said = Said::of(headers);
    said.directives.max_age.is_some() || said.directives.s_maxage.is_some() || said.expires(headers)
}

/// Fields of a stored answer that are not sent without asking the origin, and of these those that are not stored at all
/// [RFC 9111 5.2.2.4, 5.2.2.7].
pub(crate) fn withheld(headers: &HeaderMap) -> (Vec<HeaderName>, Vec<HeaderName>) {
    let directives = Said::of(headers).directives;
    (directives.no_cache_fields, directives.private_fields)
}

/// What an answer depends on beside its URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Vary {
    /// Nothing.
    Nothing,
    /// These request fields, lower case, sorted, each once.
    Names(Vec<String>),
    /// More than we can know.
    Star,
}

impl Vary {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut names = Vec::new();
        for value in headers.get_all(header::VARY) {
            let Ok(value) = value.to_str() else { return Self::Star };
            for name in value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                if name == "*" || HeaderName::from_bytes(name.as_bytes()).is_err() {
                    return Self::Star;
                }
                names.push(name.to_ascii_lowercase());
            }
        }
        // What is coded is for those who take the coding, whether the origin says so or not [RFC 9110 12.5.3, bad-inputs C07].
        if is_coded(headers) {
            names.push(header::ACCEPT_ENCODING.as_str().to_owned());
        }
        names.sort_unstable();
        names.dedup();
        match names.len() {
            0 => Self::Nothing,
            1..=VARY_NAMES => Self::Names(names),
            _ => Self::Star,
        }
    }
}

/// Whether a body is anything but plain.
fn is_coded(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    values.any(|value| !value.is_empty() && !value.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// The request fields that a stored answer varies by.
pub(crate) fn varies_by(headers: &HeaderMap) -> Vec<String> {
    match Vary::of(headers) {
        Vary::Names(names) => names,
        Vary::Nothing | Vary::Star => Vec::new(),
    }
}

/// How old an answer was when it arrived [RFC 9111 4.2.3], from an origin whose clock may differ from ours. A Date has whole seconds:
/// what had passed of its second when the answer was made is no age.
pub(crate) fn initial_age(headers: &HeaderMap, asked: SystemTime, received: SystemTime) -> Duration {
    let since = |date| received.duration_since(date).ok();
    let apparent = date(headers, &header::DATE).and_then(since).map_or(0, |apparent| apparent.as_secs());
    let delay = received.duration_since(asked).unwrap_or_default();
    Duration::from_secs(apparent).max(age_field(headers) + delay)
}

/// What the Age field says; nothing or nonsense is zero.
pub(crate) fn age_field(headers: &HeaderMap) -> Duration {
    let seconds = headers
        .get(header::AGE)
        .and_then(|value| value.to_str().ok())
        .map(|text| text.split(',').next().unwrap_or_default().trim())
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty())
        .map_or(0, |text| text.parse::<u64>().unwrap_or(LARGEST_AGE));
    Duration::from_secs(seconds.min(LARGEST_AGE))
}

/// A date field, if it holds one date.
pub(crate) fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    // Several are one only if they are equal.
    if values.any(|other| other != value) {
        return None;
    }
    dates::parse(value.to_str().ok()?)
}

/// The stored answer's fields after a 304 [RFC 9111 3.2]: those the 304 brings replace theirs, but the length stays.
pub(crate) fn freshened(stored: &HeaderMap, update: &HeaderMap) -> HeaderMap {
    let mut fields = stored.clone();
    for name in update.keys() {
        if KEPT_BY_304.contains(name) {
            continue;
        }
        fields.remove(name);
        for value in update.get_all(name) {
            fields.append(name.clone(), value.clone());
        }
    }
    // An Age of the old answer says nothing about the new one.
    if !update.contains_key(header::AGE) {
        fields.remove(header::AGE);
    }
    fields
}

/// Whether an origin says that it failed; what is beyond all classes counts as that [RFC 9110 15].
pub(crate) fn is_server_error(status: StatusCode) -> bool {
    status.as_u16() >= 500
}

/// Whether a failure may be answered with a stale copy.
pub(crate) fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// What the origin says of caching: directives targeted at CDNs where there are any that parse, and then nothing else, or else
/// everybody's and Expires [RFC 9213 2.2].
struct Said {
    directives: Directives,
    targeted: bool,
}

impl Said {
    fn of(headers: &HeaderMap) -> Self {
        // Each look for one name is a hash of it: the names that are there are gone through instead, and most often neither is.
        let is_there = |name: &HeaderName| headers.keys().any(|there| there == name);
        let targeted = [&ATOLL_CACHE_CONTROL, &CDN_CACHE_CONTROL]
            .into_iter()
            .find_map(|name| if is_there(name) { Directives::targeted(headers, name) } else { None });
        match targeted {
            Some(directives) => Self { directives, targeted: true },
            None => Self { directives: Directives::of(headers, &header::CACHE_CONTROL), targeted: false },
        }
    }

    /// Whether there is an Expires that counts.
    fn expires(&self, headers: &HeaderMap) -> bool {
        !self.targeted && headers.contains_key(header::EXPIRES)
    }

    /// The freshness the origin states: s-maxage, max-age, or Expires.
    fn explicit(&self, headers: &HeaderMap, received: SystemTime) -> Option<Duration> {
        if let Some(fresh) = self.directives.s_maxage.or(self.directives.max_age) {
            return Some(fresh);
        }
        if !self.expires(headers) {
            return None;
        }
        // A date that is none, such as "0", lies in the past.
        let Some(expires) = date(headers, &header::EXPIRES) else { return Some(Duration::ZERO) };
        let from = date(headers, &header::DATE).unwrap_or(received);
        Some(expires.duration_since(from).unwrap_or_default())
    }
}

/// A tenth of the time since the last change [RFC 9111 4.2.2], where the status or `public` allows a guess.
fn heuristic(
    (status, public): (StatusCode, bool),
    headers: &HeaderMap,
    received: SystemTime,
    (config, refusal): (&FreshnessConfig, Duration),
) -> Duration {
    if !public && !is_heuristic(status) {
        return Duration::ZERO;
    }
    // Answers that say no are remembered for a short time; for longer only if the origin says so itself [bad-inputs C03].
    let refused = status.is_client_error() || is_server_error(status);
    let default = config.negative_most.min(config.default);
    let (silent, most) = match refused {
        false => (config.default, config.heuristic),
        true if config.heuristic.is_zero() => (default, Duration::ZERO),
        true => (refusal.max(default), config.negative_most),
    };
    let from = date(headers, &header::DATE).unwrap_or(received);
    date(headers, &header::LAST_MODIFIED)
        .and_then(|changed| from.duration_since(changed).ok())
        .map_or(silent, |since| (since / 10).min(most).max(silent.min(config.default)))
}

/// Heuristically cacheable [RFC 9110 15.1].
fn is_heuristic(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// What their caching requires is done here: what `must-understand` asks for.
fn is_understood(status: StatusCode) -> bool {
    is_heuristic(status) || matches!(status.as_u16(), 302 | 303 | 307 | 400 | 403 | 451 | 500 | 502 | 503 | 504)
}

/// Directives for this network alone.
static ATOLL_CACHE_CONTROL: HeaderName = HeaderName::from_static("atoll-cache-control");

/// Directives for every CDN [RFC 9213 3].
static CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// What a 304 may not change [RFC 9111 3.2]: the length of the body that is stored, which part of it that is, and what is of one
/// connection.
static KEPT_BY_304: [HeaderName; 5] =
    [header::CONTENT_LENGTH, header::CONTENT_RANGE, header::TRANSFER_ENCODING, header::CONNECTION, CONTENT_DIGEST];

/// Names a Vary may list before it counts as `*`.
const VARY_NAMES: usize = 10;

/// The largest age, as for any delta [RFC 9111 1.2.2].
const LARGEST_AGE: u64 = 1 << 31;

#[cfg(test)]
#[path = "freshness_tests.rs"]
mod tests;
