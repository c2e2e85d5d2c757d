//! The proxy's settings. A duration is written as `"20s"` or `"300ms"` (ns, us, ms, s, m, h, d), a size as a number of bytes
//! or `"8MiB"` (B, KiB, MiB, GiB, TiB). Each field says what worsens in each direction and where its default comes from.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use atoll_units::{maybe_span, size, span};
use serde::Deserialize;

use crate::{
    breaker::BreakerConfig, cache, error::StartError, fairness::FairnessConfig, guard::Range, http2::Http2Config,
    limits::Limits, plan::SlicesConfig, purge::Purging, site::Sites, takedown::Takedown, url::UrlError, zone::Zone,
};

/// Everything the proxy may be told.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where clients are served in clear, HTTP/1.1 and, where a client begins with it, HTTP/2. All are bound or the start fails. Port 0 takes a free one. \[guess\]
    pub listen: Vec<SocketAddr>,
    /// Where clients are served over TLS, HTTP/1.1 and HTTP/2. Needs certificates. \[guess\]
    pub listen_tls: Vec<SocketAddr>,
    /// Certificate chains with their keys, PEM files; chosen by the name that a client asks for, the first if none fits. Read
    /// again within 10 s when a file changes. \[guess\]
    pub certificates: Vec<Certificate>,
    /// The zone whose names are Coralized: `www.example.com.ZONE` is served from `www.example.com`. No leading dot.
    pub zone: String,
    /// The network's name, sent as `atoll-NETWORK` in CDN-Loop. Two networks of one name would break each other's chains
    /// [RFC 8586 2].
    pub network: String,
    /// Which origins Coralized names may reach. Empty: none, so that a node is no open proxy by accident.
    pub origins: Origins,
    /// Own host names: `"www.site.test" = { origin = "http://10.0.0.5:8080" }`; `"*"` is every host that is no other's. Their
    /// origins are exempt from the guard.
    pub sites: BTreeMap<String, Site>,
    /// Addresses of names that are not asked of DNS, for tests, demos and split horizons. The guard applies.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
    /// Resolvers to ask instead of the system's. Empty: the system's.
    pub nameservers: Vec<SocketAddr>,
    /// Prefixes (`"127.0.0.0/8"`) that origins may lie in although they are not public. More: more of the inside is exposed.
    pub allow_ranges: Vec<Range>,
    /// Addresses with port that are never dialled as origins: the admin API, other nodes' listeners. The own listeners and those of
    /// neighbours are always refused.
    pub protected: Vec<SocketAddr>,
    /// Files of PEM certificates trusted for origins beside the system's.
    pub ca_files: Vec<PathBuf>,
    /// Where origins and the blocked can complain: a URL or an address, sent to origins in User-Agent. Empty: only the network's name
    /// is.
    pub contact: String,
    /// A file of hosts and URLs that are answered 451; read again within 10 s when it changes. Unset: none. [RFC 7725]
    pub takedown: Option<PathBuf>,
    /// The URL of who blocks what the list names no one for, in Link. Empty: it is not said. [RFC 7725 4]
    pub blocked_by: String,
    /// The access log.
    pub access_log: AccessLogConfig,
    /// Ceilings for clients, flights and origins.
    pub limits: Limits,
    /// How long each wait may last.
    pub timeouts: Timeouts,
    /// What HTTP/2 clients may do.
    pub http2: Http2Config,
    /// Who may have how much.
    pub fairness: FairnessConfig,
    /// When an origin that fails is left alone.
    pub breaker: BreakerConfig,
    /// How what is large is cut for ranges.
    pub slices: SlicesConfig,
    /// When answers count as fresh.
    pub freshness: FreshnessConfig,
    /// How peers are used.
    pub peers: Peers,
    /// How purges are passed on and kept.
    pub purges: Purging,
    /// Whether the round trips of clients' handshakes are told to the index, by prefix and once a minute at most: the DNS servers
    /// lead clients by them. \[measured\]
    pub observe: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8080))],
            listen_tls: Vec::new(),
            certificates: Vec::new(),
            zone: "nyud.example".to_owned(),
            network: "default".to_owned(),
            origins: Origins::default(),
            sites: BTreeMap::new(),
            hosts: BTreeMap::new(),
            nameservers: Vec::new(),
            allow_ranges: Vec::new(),
            protected: Vec::new(),
            ca_files: Vec::new(),
            contact: String::new(),
            takedown: None,
            blocked_by: String::new(),
            access_log: AccessLogConfig::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            http2: Http2Config::default(),
            fairness: FairnessConfig::default(),
            breaker: BreakerConfig::default(),
            slices: SlicesConfig::default(),
            freshness: FreshnessConfig::default(),
            peers: Peers::default(),
            purges: Purging::default(),
            observe: true,
        }
    }
}

impl Config {
    /// Whether a proxy could start with these settings: zone, origins and sites well formed.
    pub fn check(&self) -> Result<(), StartError> {
        let setting = |(setting, source)| StartError::Setting { setting, source };
        Zone::new(&self.zone).map_err(|source| setting(("zone".to_owned(), source)))?;
        Sites::new(self).map_err(setting)?;
        if !self.listen_tls.is_empty() && self.certificates.is_empty() {
            return Err(StartError::NoCertificate);
        }
        cache::OriginRules::new(&self.origins).map_err(setting)?;
        if let Some(wrong) = self.purges.believed.iter().find(|id| id.parse::<atoll_overlay::Key>().is_err()) {
            return Err(StartError::Setting {
                setting: "purges.believed".to_owned(),
                source: UrlError::Malformed(wrong.clone()),
            });
        }
        self.takedown_list()?;
        Ok(())
    }
}

impl Config {
    /// The takedown list, read.
    pub(crate) fn takedown_list(&self) -> Result<Takedown, StartError> {
        let bad = |source| StartError::Takedown { file: self.takedown.clone().unwrap_or_default(), source };
        Takedown::load(self.takedown.as_deref(), &self.blocked_by).map_err(bad)
    }
}

pub use atoll_tls::Files as Certificate;

/// Which origins Coralized names may reach.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "origins are \"any\" or a list of hosts such as \"www.example.com\", \"*.example.com:8080\""
)]
pub enum Origins {
    /// `"any"`: every public host, on ports 80, 443 and 8000-8999.
    Any(Any),
    /// These, each `host` (ports 80 and 443), `host:port`, `*.domain` or `*.domain:port`. A listed host that is no pattern is
    /// exempt from the guard.
    Listed(Vec<String>),
}

/// The word `any`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Any {
    /// `"any"`.
    Any,
}

impl Default for Origins {
    fn default() -> Self {
        Self::Listed(Vec::new())
    }
}

/// Where a line goes for each answer to a client.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessLogConfig {
    /// A file to append to, opened anew on SIGUSR1. Unset: no access log.
    pub file: Option<PathBuf>,
    /// What a line looks like.
    pub format: AccessFormat,
    /// Lines that wait to be written; past it they are dropped and counted. More: more memory while a disk is slow. \[guess\]
    pub waiting: usize,
}

impl Default for AccessLogConfig {
    fn default() -> Self {
        Self { file: None, format: AccessFormat::Json, waiting: 8_192 }
    }
}

/// A form of access logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessFormat {
    /// One JSON object a line.
    Json,
    /// The combined log format.
    Clf,
    /// W3C's extended log format.
    W3c,
}

/// One own host name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Site {
    /// Scheme, host and port of where it is fetched, without a path: `"http://10.0.0.5:8080"`; or several, each asked when no
    /// connection to those before can be made. 1 to 8.
    pub origin: SiteOrigin,
    /// The Host that the origin is sent. Unset: what the client sent.
    pub host: Option<String>,
    /// What becomes of queries, in the key as on the way to the origin. Less kept: more hits, and more that look alike.
    pub query: Query,
    /// Parameters left out of queries: names, or beginnings such as `"utm_*"`. Up to 64.
    pub ignore_query: Vec<String>,
    /// Cookies taken out of requests before anything is made of them: names, or beginnings such as `"_ga*"`; `"*"` is all. What is left
    /// alone decides whether an answer may be stored, and reaches the origin. Up to 64.
    pub ignore_cookies: Vec<String>,
    /// Whether answers that set cookies are stored. [RFC 9111 7.3]
    pub set_cookie: SetCookie,
    /// Whether Cache-Control, If-Match and If-Unmodified-Since of requests count. Off: no client can make the origin be asked.
    /// [RFC 9111 4.3.2, 5.2.1]
    pub client_directives: bool,
    /// What a range costs the origin that is not here yet.
    pub ranges: Ranges,
    /// Freshness of a 404, 405, 410, 414 or 501 of which neither the origin nor a Last-Modified says how long it holds; never more than
    /// `freshness.negative_most`. Zero: the origin is asked every time. Without effect where `freshness.heuristic` is zero; a longer
    /// `freshness.default` counts in its place. [RFC 9111 4.2.2]
    #[serde(with = "span")]
    pub negative: Duration,
    /// Least freshness of what the origin lets be fresh at all. Up to 365d; unset: the origin's word. \[guess\]
    #[serde(with = "maybe_span")]
    pub ttl_least: Option<Duration>,
    /// Most freshness, whatever the origin says. Up to 365d; unset: the origin's word. \[guess\]
    #[serde(with = "maybe_span")]
    pub ttl_most: Option<Duration>,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            origin: SiteOrigin::Many(Vec::new()),
            host: None,
            query: Query::Keep,
            ignore_query: Vec::new(),
            ignore_cookies: Vec::new(),
            set_cookie: SetCookie::Obey,
            client_directives: true,
            ranges: Ranges::Part,
            negative: Duration::ZERO,
            ttl_least: None,
            ttl_most: None,
        }
    }
}

/// One origin or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "an origin is \"http://HOST:PORT\" or a list of these")]
pub enum SiteOrigin {
    /// One.
    One(String),
    /// The later ones stand in for the earlier.
    Many(Vec<String>),
}

impl SiteOrigin {
    /// As a list.
    #[must_use]
    pub fn list(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// What becomes of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Query {
    /// As it is.
    Keep,
    /// Parameters sorted, so that their order makes no difference.
    Sort,
    /// Left out.
    Drop,
}

/// What a client's range makes of a body that is not here yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ranges {
    /// The origin is asked for that range, by this node alone.
    Part,
    /// The whole is fetched as for everybody else, from peers if they have it; the range is cut out of it.
    Whole,
}

/// What becomes of answers that set cookies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SetCookie {
    /// Stored with their cookies where the origin says how long they are fresh, never by a guess.
    Obey,
    /// Never stored.
    Private,
}

/// How long each wait may last. Shorter cuts off the slow, longer lets them hold room.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// From accept, or a following head's first byte, to the end of the head. \[guess\]
    #[serde(with = "span")]
    pub head: Duration,
    /// Idle between two requests of a connection. \[guess\]
    #[serde(with = "span")]
    pub keep_alive: Duration,
    /// A client takes no byte, or sends none of a body, for so long; or takes so much longer than `limits.slowest_client` asks. \[guess\]
    #[serde(with = "span")]
    pub send: Duration,
    /// TCP and TLS to an origin, all its addresses together; and for a range that is half-way, room for its next slice. \[guess\]
    #[serde(with = "span")]
    pub connect: Duration,
    /// From the end of the request, with its body, to an origin's response head. \[guess\]
    #[serde(with = "span")]
    pub first_byte: Duration,
    /// Between two pieces of an origin's body, or before it takes more of a request's. \[guess\]
    #[serde(with = "span")]
    pub origin_idle: Duration,
    /// How much longer an origin's body may take in all than `limits.slowest_origin` asks. Shorter: streams of events with little in
    /// them are cut, and begin anew, sooner; longer: an origin that drips holds its readers for longer. [bad-inputs O07]
    #[serde(with = "span")]
    pub origin_slow: Duration,
    /// An answer to POST that is for GET as well is read for so long before its client has any of it, and GETs of its URL wait for it;
    /// past that it is passed on as it comes, and not stored. Shorter: slow answers are not stored, longer: both wait longer. \[guess\]
    #[serde(with = "span")]
    pub posted: Duration,
    /// An unused connection to an origin is kept this long. \[guess\]
    #[serde(with = "span")]
    pub origin_keep_alive: Duration,
    /// One name looked up. \[guess\]
    #[serde(with = "span")]
    pub resolve: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            keep_alive: Duration::from_secs(60),
            send: Duration::from_secs(60),
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(30),
            origin_idle: Duration::from_secs(30),
            origin_slow: Duration::from_secs(600),
            posted: Duration::from_secs(2),
            origin_keep_alive: Duration::from_secs(30),
            resolve: Duration::from_secs(5),
        }
    }
}

/// When answers count as fresh: the origin's word first, these where it says nothing.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FreshnessConfig {
    /// Freshness of an answer that says nothing, at least, whatever its Last-Modified lets guess. Coral: 12 h. Zero: revalidated every time. [RFC 9111 4.2.2]
    #[serde(with = "span")]
    pub default: Duration,
    /// Least freshness of anything stored. Coral: 5 min. Above zero the origin's word is overruled. \[design\]
    #[serde(with = "span")]
    pub minimum: Duration,
    /// Most heuristic freshness: a tenth of the age since Last-Modified, at most this. Zero: nothing is guessed, nor are refusals that say
    /// nothing kept. [RFC 9111 4.2.2]
    #[serde(with = "span")]
    pub heuristic: Duration,
    /// A stale copy may stand in for a failing origin this long, unless the answer forbids it. Coral: 24 h. [Coral C.4]
    #[serde(with = "span")]
    pub stale_if_error: Duration,
    /// First pause after an origin failed; doubles per failure. Shorter: more load on the failing, longer: later recovery. [users C4]
    #[serde(with = "span")]
    pub negative_first: Duration,
    /// Longest pause after failures. [users C4]
    #[serde(with = "span")]
    pub negative_most: Duration,
    /// How long an answer is kept past its freshness, for revalidation and stale-if-error. \[guess\]
    #[serde(with = "span")]
    pub keep: Duration,
    /// Keys whose answers cannot be shared are fetched one by one for so long (30-120 s). \[design\]
    #[serde(with = "span")]
    pub pass: Duration,
}

impl Default for FreshnessConfig {
    fn default() -> Self {
        Self {
            default: Duration::ZERO,
            minimum: Duration::ZERO,
            heuristic: Duration::from_secs(24 * 3600),
            stale_if_error: Duration::from_secs(24 * 3600),
            negative_first: Duration::from_secs(1),
            negative_most: Duration::from_secs(30),
            keep: Duration::from_secs(7 * 24 * 3600),
            pass: Duration::from_secs(60),
        }
    }
}

/// How peers are used.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Peers {
    /// A source without progress for so long gets a rival, and then the root is asked. Shorter: more needless requests, longer:
    /// slower than no CDN when peers are. [design 4]
    #[serde(with = "span")]
    pub hedge: Duration,
    /// Beyond five round trips, how long a whole copy at a holder whose distance is known may take to begin; never longer than `hedge`
    /// and `far`, and all there is for one that is farther than these. Shorter: the origin is asked because a peer's machine was busy, longer: silent peers cost more. \[guess\]
    #[serde(with = "span")]
    pub near: Duration,
    /// Added to `hedge` for a holder of level 0: it is 60 ms away or more, and a connection that has first to be made takes five
    /// round trips. Shorter: the origin is asked although a far copy is on its way, longer: dead far peers cost more. \[guess\]
    #[serde(with = "span")]
    pub far: Duration,
    /// From the request to the origin when peers that the root still names deliver nothing. [design 4]
    #[serde(with = "span")]
    pub patience: Duration,
    /// A source under way that sends nothing, not even a sign of life, for so long is left. Shorter than a stream takes that has lost
    /// packets on a thin line (1 s and more), and a chain of nodes breaks up and asks the origin; longer: clients wait for a peer that
    /// died without a word. \[measured: docs/lab.md, large-file\]
    #[serde(with = "span")]
    pub stall: Duration,
    /// Bytes a second that a peer's whole copy must come with, at least, from its first `hedge` on; slower, it is left for another
    /// source. Of a copy that still grows the origin sets the pace. Less: slower than no CDN when peers are, more: peers behind thin
    /// lines are of no use. \[guess\]
    #[serde(with = "size")]
    pub slowest: u64,
    /// How often the rest of an answer of which clients have a part is asked of the origin again, when it breaks off, refuses or
    /// cannot be reached after the peer was lost that the part came from: after 250 ms, then twice that, and so on. Less: downloads
    /// break off with an origin's hiccup, more: an origin that is down is asked more often. \[guess\]
    pub resumes: u32,
    /// How often a fetcher beats its lease. Longer: a dead holder is noticed later. [design 2]
    #[serde(with = "span")]
    pub beat: Duration,
    /// TTL of a reference at the first byte. [Coral C.2]
    #[serde(with = "span")]
    pub reference_fill: Duration,
    /// TTL of a reference to a whole object. [Coral C.2]
    #[serde(with = "span")]
    pub reference_whole: Duration,
    /// Announcements and renewals a second, first ones not counted. [design 4]
    pub puts_per_second: u32,
    /// Announced keys remembered, for renewal. Past it the rest lapses and is announced at its next hit. \[guess\]
    pub announced: usize,
    /// Announcements and withdrawals under way at a time; each holds a task and an RPC. Fewer: what is new is told of later, more:
    /// memory and traffic in a burst. \[guess\]
    pub puts_at_once: usize,
    /// Keys remembered that are to be withdrawn, or were in the last 30 s; what peers merely asked for in vain takes half of them at
    /// most. Fewer: references stand until they lapse, more: memory, 64 bytes or so each. \[guess\]
    pub withdrawn: usize,
    /// A peer that failed is not asked for so long. [users C6]
    #[serde(with = "span")]
    pub shun: Duration,
    /// A peer that lied is neither asked nor believed for so long. Shorter: it lies again sooner, longer: what was a broken disk is
    /// punished long after. \[guess\]
    #[serde(with = "span")]
    pub liar: Duration,
    /// A peer whose signed copies the origins of so many sites contradict lied everywhere; of fewer, for these hosts alone, since an
    /// origin may answer each asker differently. Fewer: origins have honest peers accused, more: a peer that lies is found out for
    /// one host after the other. \[guess\]
    pub contradicted: usize,
    /// Peers that one growing copy over 1 MiB is given to at a time: to half of them at once, to the others as long as those keep up; 0:
    /// to all that ask. Fewer: longer chains of peers, and more of them to begin anew when one dies; more: the line is shared among
    /// many. [bad-inputs P13] \[guess\]
    pub uploads: usize,
    /// Peers that a large copy, which they have whole, is fetched from at a time; 1: one. A slice for each is held in memory. Fewer: as
    /// slow as the slowest line, more: more memory, and more connections for one copy. \[Kraken\]
    pub sources: usize,
    /// Bytes of copies from several peers that may come before their turn and are held in memory, over all copies. Less: peers wait for
    /// each other, more: more memory. \[guess\]
    #[serde(with = "size")]
    pub ahead: u64,
    /// Copies, and parts of copies, that are given to peers at a time before whoever asks for a part is told to ask others. Fewer: large
    /// copies come from few, more: the line is shared among many. \[guess\]
    pub parts: usize,
    /// Of so many copies from peers one is compared with the origin's, later. 0: none. Fewer: more requests to origins, more: a
    /// fetcher that lies is found out later. \[guess\]
    pub recheck_one_in: u32,
    /// How much later, at least; twice that at most. Shorter: these requests fall into the crowd, longer: lies live longer. \[guess\]
    #[serde(with = "span")]
    pub recheck_after: Duration,
    /// This node fetches from peers and gives them nothing but what it fetches under a lease: for a machine whose line out is thin
    /// or dear. \[Coral\]
    pub upstream_only: bool,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            hedge: Duration::from_millis(250),
            near: Duration::from_millis(150),
            far: Duration::from_millis(500),
            patience: Duration::from_millis(1_500),
            stall: Duration::from_secs(3),
            slowest: 32 << 10,
            resumes: 3,
            beat: Duration::from_millis(300),
            reference_fill: Duration::from_secs(20),
            reference_whole: Duration::from_secs(3600),
            puts_per_second: 20,
            announced: 65_536,
            puts_at_once: 256,
            withdrawn: 4_096,
            shun: Duration::from_secs(30),
            liar: Duration::from_secs(3_600),
            contradicted: 3,
            uploads: 32,
            sources: 4,
            ahead: 128 << 20,
            parts: 16,
            recheck_one_in: 1_000,
            recheck_after: Duration::from_secs(30),
            upstream_only: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::{
        Deserialize as _,
        de::{IntoDeserializer, value::Error},
    };

    use super::*;

    #[test]
    fn origins_are_any_or_a_list() {
        let any: Result<Origins, Error> = Origins::deserialize("any".into_deserializer());
        assert_eq!(any, Ok(Origins::Any(Any::Any)));
        let listed: Result<Origins, Error> = Origins::deserialize(vec!["a.test"].into_deserializer());
        assert_eq!(listed, Ok(Origins::Listed(vec!["a.test".to_owned()])));
        assert!(Origins::deserialize(IntoDeserializer::<Error>::into_deserializer("all")).is_err());
    }
}
