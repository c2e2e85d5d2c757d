//! Why and whence, in closed lists: the words of Cache-Status (RFC 9211) and Proxy-Status (RFC 9209).
//!
//! A response carries `Cache-Status: atoll; hit; ttl=N; detail=WORD` or `atoll; fwd=WORD; fwd-status=N; stored; collapsed;
//! detail=WORD`. `detail` says where the copy came from (`memory`, `disk`, `peer-l2`, `peer-l1`, `peer-l0`, `origin`), or why it
//! was not stored, or why it is stale; where both apply they are joined as `origin.set-cookie`.

use std::fmt::{self, Write as _};

use atoll_overlay::Level;
use atoll_store::StoreError;
use http::{HeaderValue, StatusCode};

/// Where the bytes of an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The own store's RAM.
    Memory,
    /// The own store's disk.
    Disk,
    /// A peer; the nearest level at which it shares a cluster with this node.
    Peer(Level),
    /// The origin.
    Origin,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Disk => f.write_str("disk"),
            Self::Peer(level) => write!(f, "peer-l{level}"),
            Self::Origin => f.write_str("origin"),
        }
    }
}

/// Why an answer was not stored, is stale, or was refused. Each such answer has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Cache-Control: no-store.
    NoStore,
    /// Cache-Control: private.
    Private,
    /// It sets cookies.
    SetCookie,
    /// The request carried cookies, and the origin does not say how long its answer is fresh.
    Cookie,
    /// The request was authorised and nothing allows sharing.
    Authorization,
    /// Vary: `*`, or more names than we follow.
    VaryStar,
    /// Its status is not stored, or not without stated freshness.
    Status,
    /// It is longer than is stored.
    TooLarge,
    /// What is coming in holds all the room that the store has for that.
    NoRoom,
    /// The key was found not shareable a moment ago.
    PassMarked,
    /// The origin fails; a stale copy stands in.
    StaleIfError,
    /// A stale copy is used while it is renewed.
    StaleWhileRevalidate,
    /// The origin failed a moment ago and is not asked again yet.
    Negative,
    /// The client asked for it although it is stale.
    MaxStale,
    /// The client asked that nothing be stored.
    RequestNoStore,
    /// The client's own condition was passed on, and holds.
    Conditional,
    /// Only a part, which cannot be joined to others.
    Partial,
    /// The method's answers are not stored.
    Method,
    /// A share is used up: nothing is fetched.
    Quota,
    /// An error of one client's, or a refusal in place of a copy that was good.
    KeptGood,
    /// It ended before it was whole, or is not what came before.
    Incomplete,
    /// A method that may have changed it came while it was fetched.
    Overtaken,
    /// It was purged while it was fetched.
    Purged,
    /// The store failed.
    StoreFailed,
    /// It is not what the origin's digest of it says.
    DigestMismatch,
}

impl Reason {
    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::SetCookie => "set-cookie",
            Self::Cookie => "cookie",
            Self::Authorization => "authorization",
            Self::VaryStar => "vary-star",
            Self::Status => "status",
            Self::TooLarge => "too-large",
            Self::NoRoom => "no-room",
            Self::PassMarked => "pass-marked",
            Self::StaleIfError => "stale-if-error",
            Self::StaleWhileRevalidate => "stale-while-revalidate",
            Self::Negative => "negative",
            Self::MaxStale => "max-stale",
            Self::RequestNoStore => "request-no-store",
            Self::Conditional => "conditional",
            Self::Partial => "partial",
            Self::Method => "method",
            Self::Quota => "quota",
            Self::KeptGood => "kept-good",
            Self::Incomplete => "incomplete",
            Self::Overtaken => "overtaken",
            Self::Purged => "purged",
            Self::StoreFailed => "store-failed",
            Self::DigestMismatch => "digest-mismatch",
        }
    }

    /// Why an answer that was being stored is not, where only the failure that ended its fetch says so.
    pub(crate) const fn of_broken(failure: Failure) -> Self {
        match failure {
            Failure::BodyTooLarge => Self::TooLarge,
            Failure::Busy => Self::NoRoom,
            _ => Self::Incomplete,
        }
    }

    /// Why the store does not take an answer in, or the rest of it.
    pub(crate) const fn of_store(error: &StoreError) -> Self {
        match error {
            StoreError::TooLarge { .. } | StoreError::MetadataTooLong { .. } => Self::TooLarge,
            StoreError::NoRoom { .. } => Self::NoRoom,
            StoreError::Length { .. } => Self::Incomplete,
            StoreError::FilterTooLong { .. } | StoreError::Broken | StoreError::Disk(_) => Self::StoreFailed,
        }
    }
}

/// Why a request went beyond the own store [RFC 9211 2.2].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forwarded {
    /// Nothing was stored for the URL.
    UriMiss,
    /// Something was, for other request fields.
    VaryMiss,
    /// What was stored is stale.
    Stale,
    /// The cache was not to be used.
    Bypass,
    /// The request's own directives wanted it.
    Request,
    /// The method is not answered from a cache.
    Method,
    /// A part of it was not stored.
    Partial,
}

/// What Cache-Status says of one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CacheStatus {
    /// Why it went on, or that it did not.
    pub(crate) forwarded: Option<Forwarded>,
    /// What the next one answered.
    pub(crate) status: Option<StatusCode>,
    /// Seconds of freshness left, negative when stale.
    pub(crate) ttl: Option<i64>,
    /// Whether the answer was stored.
    pub(crate) stored: bool,
    /// Whether the request shared another's fetch.
    pub(crate) collapsed: bool,
    /// Whence.
    pub(crate) source: Option<Source>,
    /// Why.
    pub(crate) reason: Option<Reason>,
}

impl CacheStatus {
    /// A request answered out of the own store.
    pub(crate) const fn hit(source: Source, ttl: i64, reason: Option<Reason>) -> Self {
        Self {
            forwarded: None,
            status: None,
            ttl: Some(ttl),
            stored: false,
            collapsed: false,
            source: Some(source),
            reason,
        }
    }

    /// As a field value.
    pub(crate) fn value(&self) -> HeaderValue {
        let mut text = String::with_capacity(USUAL);
        let written = write!(text, "{self}");
        written.ok().and_then(|()| HeaderValue::try_from(text).ok()).unwrap_or(HeaderValue::from_static("atoll"))
    }
}

impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("atoll")?;
        match self.forwarded {
            None => f.write_str("; hit")?,
            Some(Forwarded::UriMiss) => f.write_str("; fwd=uri-miss")?,
            Some(Forwarded::VaryMiss) => f.write_str("; fwd=vary-miss")?,
            Some(Forwarded::Stale) => f.write_str("; fwd=stale")?,
            Some(Forwarded::Bypass) => f.write_str("; fwd=bypass")?,
            Some(Forwarded::Request) => f.write_str("; fwd=request")?,
            Some(Forwarded::Partial) => f.write_str("; fwd=partial")?,
            Some(Forwarded::Method) => f.write_str("; fwd=method")?,
        }
        if let Some(status) = self.status {
            write!(f, "; fwd-status={}", status.as_u16())?;
        }
        if let Some(ttl) = self.ttl {
            write!(f, "; ttl={ttl}")?;
        }
        if self.stored {
            f.write_str("; stored")?;
        }
        if self.collapsed {
            f.write_str("; collapsed")?;
        }
        match (self.source, self.reason) {
            (Some(source), Some(reason)) => write!(f, "; detail={source}.{}", reason.word()),
            (Some(source), None) => write!(f, "; detail={source}"),
            (None, Some(reason)) => write!(f, "; detail={}", reason.word()),
            (None, None) => Ok(()),
        }
    }
}

/// Bytes that hardly any takes more of.
const USUAL: usize = 96;

/// What went wrong between us and the origin, or with the request, in the words of RFC 9209 2.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Failure {
    /// The name could not be resolved in time.
    #[error("dns_timeout")]
    DnsTimeout,
    /// The name does not resolve.
    #[error("dns_error")]
    DnsError,
    /// It resolves to an address that may not be dialled.
    #[error("destination_ip_prohibited")]
    Prohibited,
    /// No connection within the time.
    #[error("connection_timeout")]
    ConnectTimeout,
    /// The connection was refused or broke.
    #[error("connection_refused")]
    ConnectRefused,
    /// TLS failed: certificate or protocol.
    #[error("tls_certificate_error")]
    Tls,
    /// No response head, or no more body, within the time.
    #[error("http_response_timeout")]
    ResponseTimeout,
    /// The response ended early.
    #[error("http_response_incomplete")]
    ResponseIncomplete,
    /// The response is not valid HTTP, or answers something else.
    #[error("http_protocol_error")]
    Protocol,
    /// The response is larger than we take.
    #[error("http_response_body_size")]
    BodyTooLarge,
    /// The request came back to us.
    #[error("proxy_loop_detected")]
    Loop,
    /// Policy forbids it.
    #[error("http_request_denied")]
    Denied,
    /// The request is malformed.
    #[error("http_request_error")]
    Request,
    /// The method is not served.
    #[error("http_request_error")]
    Method,
    /// The client takes too long to send its body.
    #[error("http_request_error")]
    SlowBody,
    /// Only a stored answer was wanted, and there is none.
    #[error("http_request_denied")]
    OnlyIfCached,
    /// The host is none of ours.
    #[error("destination_not_found")]
    NotOurs,
    /// A ceiling was reached.
    #[error("connection_limit_reached")]
    Busy,
    /// The origin was not there again and again, and is left alone for a while.
    #[error("destination_unavailable")]
    CircuitOpen,
    /// Too many wait for a connection to the origin.
    #[error("connection_limit_reached")]
    OriginBusy,
    /// A share of what this node gives is used up.
    #[error("http_request_denied")]
    OverQuota,
    /// The origin does not want to be Coralized.
    #[error("http_request_denied")]
    OptedOut,
    /// It may not be served, for legal reasons.
    #[error("http_request_denied")]
    TakenDown,
    /// Something of ours broke.
    #[error("proxy_internal_error")]
    Internal,
}

impl Failure {
    /// The status it is answered with.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::DnsTimeout | Self::ConnectTimeout | Self::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::DnsError
            | Self::ConnectRefused
            | Self::Tls
            | Self::ResponseIncomplete
            | Self::Protocol
            | Self::BodyTooLarge => StatusCode::BAD_GATEWAY,
            Self::Prohibited | Self::Denied | Self::OptedOut => StatusCode::FORBIDDEN,
            Self::TakenDown => StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::Request => StatusCode::BAD_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::OnlyIfCached => StatusCode::GATEWAY_TIMEOUT,
            Self::NotOurs => StatusCode::MISDIRECTED_REQUEST,
            Self::Busy | Self::CircuitOpen | Self::OriginBusy | Self::OverQuota => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether the origin, not the request or this node, is at fault.
    #[must_use]
    pub const fn is_origins(self) -> bool {
        match self {
            Self::DnsTimeout
            | Self::DnsError
            | Self::ConnectTimeout
            | Self::ConnectRefused
            | Self::Tls
            | Self::ResponseTimeout
            | Self::ResponseIncomplete
            | Self::Protocol
            | Self::CircuitOpen
            | Self::OriginBusy
            | Self::BodyTooLarge => true,
            Self::Prohibited
            | Self::Loop
            | Self::Denied
            | Self::Request
            | Self::Method
            | Self::SlowBody
            | Self::OnlyIfCached
            | Self::NotOurs
            | Self::Busy
            | Self::OverQuota
            | Self::OptedOut
            | Self::TakenDown
            | Self::Internal => false,
        }
    }

    /// Whether a stale copy may stand in: also where this node has no room for an answer.
    pub(crate) const fn lets_stale_stand_in(self) -> bool {
        self.is_origins() || matches!(self, Self::Busy)
    }

    /// Whether this says something that holds for a while: not that the origin was not even asked.
    pub(crate) const fn is_remembered(self) -> bool {
        self.is_origins() && !matches!(self, Self::CircuitOpen | Self::OriginBusy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_says_and_what_a_fetch_ends_in_have_one_reason_each() {
        let disk = StoreError::Disk(std::io::Error::other("broken"));
        for (error, reason) in [
            (StoreError::NoRoom { held: 1, limit: 1 }, Reason::NoRoom),
            (StoreError::TooLarge { length: 1, limit: 1 }, Reason::TooLarge),
            (StoreError::Length { expected: 1, found: 2 }, Reason::Incomplete),
            (StoreError::Broken, Reason::StoreFailed),
            (disk, Reason::StoreFailed),
        ] {
            assert_eq!(Reason::of_store(&error), reason, "{error}");
        }
        assert_eq!(Reason::of_broken(Failure::BodyTooLarge), Reason::TooLarge);
        assert_eq!(Reason::of_broken(Failure::Busy), Reason::NoRoom);
        assert_eq!(Reason::of_broken(Failure::ResponseIncomplete), Reason::Incomplete);
    }

    #[test]
    fn cache_status_says_why_and_whence() {
        let hit = CacheStatus::hit(Source::Memory, 30, None);
        assert_eq!(hit.to_string(), "atoll; hit; ttl=30; detail=memory");
        let miss = CacheStatus {
            forwarded: Some(Forwarded::UriMiss),
            status: Some(StatusCode::OK),
            ttl: None,
            stored: true,
            collapsed: true,
            source: Some(Source::Peer(Level(2))),
            reason: None,
        };
        assert_eq!(miss.to_string(), "atoll; fwd=uri-miss; fwd-status=200; stored; collapsed; detail=peer-l2");
    }
}
