//! RFC 9111 as pure functions of headers and times, with RFC 5861's two stale extensions: what may be stored, how long it is
//! fresh, how old it is, and what may be done with it once it is stale. Storage is decided by the origin's headers alone, never by
//! names or extensions.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, StatusCode, header};

use crate::{config::FreshnessConfig, directives::Directives, reason::Reason};

/// How long an answer may be used in which way, counted from the origin's own moment (age zero).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lifetime {
    /// Used without asking.
    pub(crate) fresh: Duration,
    /// Beyond that: used while it is revalidated.
    pub(crate) while_revalidate: Duration,
    /// Beyond `fresh`: used while the origin fails.
    pub(crate) if_error: Duration,
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

    /// The lifetime of an answer [RFC 9111 4.2.1].
    pub(crate) fn of(status: StatusCode, headers: &HeaderMap, received: SystemTime, config: &FreshnessConfig) -> Self {
        let directives = directives(headers);
        let explicit = explicit(&directives, headers, received);
        let fresh = match explicit {
            _ if directives.no_cache => Duration::ZERO,
            Some(fresh) => fresh,
            None if is_negative(status) => config.negative_most,
            None => heuristic(headers, received, config),
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
        }
    }
}

/// Whether a shared cache may store the answer to a GET [RFC 9111 3]; why not otherwise.
pub(crate) fn storable(status: StatusCode, headers: &HeaderMap, authorised: bool) -> Result<(), Reason> {
    let directives = directives(headers);
    if directives.no_store && !(directives.must_understand && is_understood(status)) {
        return Err(Reason::NoStore);
    }
    if directives.private {
        return Err(Reason::Private);
    }
    if headers.contains_key(header::SET_COOKIE) {
        return Err(Reason::SetCookie);
    }
    if authorised && !(directives.public || directives.s_maxage.is_some() || directives.must_revalidate) {
        return Err(Reason::Authorization);
    }
    if status.is_server_error() || status.is_informational() || !is_understood(status) {
        return Err(Reason::Status);
    }
    let explicit = directives.public
        || directives.max_age.is_some()
        || directives.s_maxage.is_some()
        || headers.contains_key(header::EXPIRES);
    if !explicit && !is_heuristic(status) {
        return Err(Reason::Status);
    }
    match Vary::of(headers) {
        Vary::Star => Err(Reason::VaryStar),
        Vary::Nothing | Vary::Names(_) => Ok(()),
    }
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
        names.sort_unstable();
        names.dedup();
        match names.len() {
            0 => Self::Nothing,
            1..=VARY_NAMES => Self::Names(names),
            _ => Self::Star,
        }
    }
}

/// The request fields that a stored answer varies by.
pub(crate) fn varies_by(headers: &HeaderMap) -> Vec<String> {
    match Vary::of(headers) {
        Vary::Names(names) => names,
        Vary::Nothing | Vary::Star => Vec::new(),
    }
}

/// How old an answer was when it arrived [RFC 9111 4.2.3], from an origin whose clock may differ from ours.
pub(crate) fn initial_age(headers: &HeaderMap, asked: SystemTime, received: SystemTime) -> Duration {
    let apparent = date(headers, &header::DATE).and_then(|date| received.duration_since(date).ok()).unwrap_or_default();
    let delay = received.duration_since(asked).unwrap_or_default();
    apparent.max(age_field(headers) + delay)
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
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

/// The stored answer's fields after a 304 [RFC 9111 3.2]: those the 304 brings replace theirs, but what describes the body stays.
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

/// Whether a failure may be answered with a stale copy.
pub(crate) fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// The directives that count for us: those targeted at CDNs where there are any that parse, else everybody's [RFC 9213 2.2].
fn directives(headers: &HeaderMap) -> Directives {
    for name in [&ATOLL_CACHE_CONTROL, &CDN_CACHE_CONTROL] {
        if is_dictionary(headers, name)
            && let Some(directives) = Directives::of(headers, name)
        {
            return directives;
        }
    }
    Directives::of(headers, &header::CACHE_CONTROL).unwrap_or_default()
}

/// Whether targeted directives are present and at least look like a dictionary of RFC 9651; malformed ones are ignored.
fn is_dictionary(headers: &HeaderMap, name: &HeaderName) -> bool {
    let mut any = false;
    for value in headers.get_all(name) {
        let Ok(value) = value.to_str() else { return false };
        for member in value.split(',').map(str::trim) {
            let (key, argument) = member.split_once('=').map_or((member, None), |(key, rest)| (key, Some(rest)));
            let plain = |text: &str| {
                !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.*?\"".contains(&byte))
            };
            if !key.starts_with(|first: char| first.is_ascii_lowercase() || first == '*')
                || !plain(key)
                || !argument.is_none_or(plain)
            {
                return false;
            }
            any = true;
        }
    }
    any
}

/// The freshness the origin states: s-maxage, max-age, or Expires, which counts only where no targeted directives stand.
fn explicit(directives: &Directives, headers: &HeaderMap, received: SystemTime) -> Option<Duration> {
    if let Some(fresh) = directives.s_maxage.or(directives.max_age) {
        return Some(fresh);
    }
    if is_dictionary(headers, &ATOLL_CACHE_CONTROL) || is_dictionary(headers, &CDN_CACHE_CONTROL) {
        return None;
    }
    headers.get(header::EXPIRES)?;
    // A date that is none, such as "0", lies in the past.
    let Some(expires) = date(headers, &header::EXPIRES) else { return Some(Duration::ZERO) };
    let from = date(headers, &header::DATE).unwrap_or(received);
    Some(expires.duration_since(from).unwrap_or_default())
}

/// A tenth of the time since the last change [RFC 9111 4.2.2].
fn heuristic(headers: &HeaderMap, received: SystemTime, config: &FreshnessConfig) -> Duration {
    let from = date(headers, &header::DATE).unwrap_or(received);
    date(headers, &header::LAST_MODIFIED)
        .and_then(|changed| from.duration_since(changed).ok())
        .map_or(config.default, |since| (since / 10).min(config.heuristic).max(config.default))
}

/// Heuristically cacheable [RFC 9110 15.1]; partial content apart, which is not stored as such.
fn is_heuristic(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414)
}

fn is_understood(status: StatusCode) -> bool {
    is_heuristic(status) || matches!(status.as_u16(), 302 | 303 | 307 | 400 | 403 | 451)
}

/// Answers that say no and are remembered for a short time.
fn is_negative(status: StatusCode) -> bool {
    status.is_client_error()
}

/// Directives for this network alone.
static ATOLL_CACHE_CONTROL: HeaderName = HeaderName::from_static("atoll-cache-control");

/// Directives for every CDN [RFC 9213 3].
static CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// What a 304 may not change: it describes the body that is stored.
static KEPT_BY_304: [HeaderName; 6] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::CONTENT_RANGE,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
];

/// Names a Vary may list before it counts as `*`.
const VARY_NAMES: usize = 10;

/// The largest age, as for any delta [RFC 9111 1.2.2].
const LARGEST_AGE: u64 = 1 << 31;

#[cfg(test)]
#[path = "freshness_tests.rs"]
mod tests;
