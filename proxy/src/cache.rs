//! What every request shares: the store, the index, the flights, the origin client, and what is remembered for a while.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use atoll_overlay::{Index, Key, NodeId, NodeInfo, Streams};
use atoll_store::{PurgeNumber, Store};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::{
    sync::{Mutex, Semaphore, watch},
    time::Instant,
};

use crate::{
    absence::Absence,
    announce::Announcer,
    company::Company,
    config::{Any, Config, Origins},
    fairness::Fairness,
    flight::{Answer, Flights},
    freshness::Lifetime,
    home::{self, Control},
    interim::Interim,
    liars::Liars,
    log::AccessLog,
    memory::Memory,
    meta::Meta,
    origin::{OriginClient, Upstream},
    peer::PeerRequest,
    plan::Cut,
    purge::{self, Purges},
    reason::Failure,
    recheck::RECHECKS,
    resolve::Resolver,
    site::{Own, Sites},
    stats::Counters,
    swarm,
    takedown::Takedown,
    trace::{TRACES_KEPT, Trace, Tracer},
    url::{Authority, OriginUrl, UrlError, Zone},
};

/// See the file's head.
pub(crate) struct Cache {
    pub(crate) config: Config,
    pub(crate) zone: Zone,
    pub(crate) sites: Arc<Sites>,
    pub(crate) origins: OriginRules,
    pub(crate) store: Store,
    pub(crate) index: Arc<dyn Index>,
    pub(crate) streams: Arc<dyn Streams>,
    pub(crate) company: Company,
    pub(crate) origin: OriginClient,
    pub(crate) flights: Arc<Flights>,
    /// Where this node listens, whatever for: never an origin.
    pub(crate) listening: Arc<RwLock<Vec<SocketAddr>>>,
    /// What is no longer to be used.
    pub(crate) purges: Arc<Purges>,
    /// Told through [`Cache::announcer`].
    pub(crate) announces: Announcer,
    pub(crate) counters: Arc<Counters>,
    /// Where answers to clients are noted.
    pub(crate) log: Option<Arc<AccessLog>>,
    /// Set when the proxy stops: fetches end at once.
    pub(crate) stop: watch::Sender<bool>,
    /// Requests being answered.
    pub(crate) places: Arc<Semaphore>,
    /// Keys whose origin failed: what to answer until it is asked again.
    negative: Memory<Key, Remembered>,
    /// The last pause after a failure, for the back-off.
    pub(crate) pauses: Memory<Key, Duration>,
    /// Keys whose answers cannot be shared.
    pub(crate) passing: Memory<Key, ()>,
    /// Hosts that redirect http to https.
    pub(crate) upgraded: Memory<String, ()>,
    /// Peers that failed.
    pub(crate) shunned: Memory<NodeId, ()>,
    /// What is not large, or cannot be cut into slices.
    pub(crate) unsliced: Memory<Key, ()>,
    /// When variants were last chosen among others of their URL.
    pub(crate) chosen: Memory<Key, Instant>,
    /// Held while a list of variants is read and written, by the first byte of its key: of two that are added at once none is lost.
    pub(crate) listing: [Mutex<()>; LISTS],
    /// What hosts said of being Coralized.
    pub(crate) controls: Memory<String, Control>,
    /// Who may have how much.
    pub(crate) fairness: Fairness,
    /// What may not be served.
    pub(crate) takedown: Arc<Takedown>,
    /// What this network calls itself to origins of Coralized names.
    pub(crate) agent: HeaderValue,
    /// Peers that lied: nothing of theirs is asked for, nor believed second hand.
    pub(crate) liars: Liars,
    /// Copies of peers that are compared with the origin's.
    pub(crate) rechecks: Arc<Semaphore>,
    /// Whole copies, or parts of them, that are being given to peers.
    pub(crate) parts: Arc<Semaphore>,
    /// Places for what comes from several peers before its turn.
    pub(crate) ahead: Arc<Semaphore>,
    /// Requests that are traced, by the nonces of their passes.
    pub(crate) traces: Memory<[u8; 16], Arc<Trace>>,
}

/// What a failing origin is answered with meanwhile.
#[derive(Debug, Clone)]
pub(crate) enum Negative {
    /// It could not be asked.
    Failure(Failure),
    /// It answered with an error, small enough to repeat.
    Answer(Arc<Answer>),
}

/// The same, and since when.
#[derive(Debug, Clone)]
struct Remembered {
    negative: Negative,
    url: Arc<str>,
    /// The store's purge number when the origin was asked: what is purged later is forgotten.
    born: PurgeNumber,
}

/// One thing wanted: all that a fetch must know, and nothing of the client.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) url: OriginUrl,
    pub(crate) upstream: Upstream,
    /// What it is looked up under: the URL's key or a variant's.
    pub(crate) key: Key,
    /// The fields sent to the origin.
    pub(crate) fields: HeaderMap,
    /// The own site it is of.
    pub(crate) site: Option<Arc<Own>>,
    /// Who wants interim answers.
    pub(crate) interim: Option<Interim>,
    /// What of it is wanted, if not all.
    pub(crate) cut: Option<Cut>,
    /// Who wants to know what is done.
    pub(crate) trace: Tracer,
}

impl Wanted {
    /// What peers are asked for it.
    pub(crate) fn of_peers(&self) -> PeerRequest {
        PeerRequest {
            key: self.key,
            url: self.url.clone(),
            site: self.site.clone(),
            from: None,
            to: None,
            absence: Absence::default(),
        }
    }

    /// The key of the variant that this request selects.
    pub(crate) fn variant(&self, names: &[String]) -> Key {
        variant(&self.url, &self.fields, names)
    }

    /// Whether an answer only sends the same URL to https.
    pub(crate) fn is_sent_to_https(&self, status: StatusCode, fields: &HeaderMap) -> bool {
        let Some(upgraded) = self.url.upgraded() else { return false };
        let target = fields.get(header::LOCATION).and_then(|value| value.to_str().ok());
        matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
            && target.and_then(|target| OriginUrl::parse(target).ok()).is_some_and(|target| target == upgraded)
    }
}

/// The key of the variant that these request fields select.
pub(crate) fn variant(url: &OriginUrl, fields: &HeaderMap, names: &[String]) -> Key {
    let mut text = url.to_string().into_bytes();
    for name in names {
        text.push(b'\n');
        text.extend_from_slice(name.as_bytes());
        text.push(b':');
        text.extend_from_slice(&normal(name, fields));
    }
    Key::of(&text)
}

/// A request field's value as variants tell it apart: several fields are one list, spaces around commas do not count, and of
/// languages only their weights do, not how these are written nor in what order [RFC 9111 4.1, RFC 9110 12.5.4]. No field at all is
/// told apart from an empty one.
fn normal(name: &str, fields: &HeaderMap) -> Vec<u8> {
    let mut members: Vec<Vec<u8>> = Vec::new();
    for value in fields.get_all(name) {
        members.extend(value.as_bytes().split(|byte| *byte == b',').map(|member| member.trim_ascii().to_vec()));
    }
    let none = members.is_empty();
    if name == "accept-language" {
        members = languages(members);
    }
    if none { b"-".to_vec() } else { [b"=", members.join(&b","[..]).as_slice()].concat() }
}

/// Languages by weight, the most wanted first. A list with a member that is none stays in its order.
fn languages(members: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let lower = members.into_iter().map(|mut member| {
        member.make_ascii_lowercase();
        member.retain(|byte| !matches!(byte, b' ' | b'\t'));
        member
    });
    let mut members: Vec<_> = lower.collect();
    let weighed = members.iter().map(|member| {
        let (range, weight) = match member.iter().position(|byte| *byte == b';') {
            Some(at) => (member.get(..at)?, weight(member.get(at..)?.strip_prefix(b";q=")?)?),
            None => (member.as_slice(), 1_000),
        };
        Some((std::cmp::Reverse(weight), range.to_vec()))
    });
    if let Some(mut weighed) = weighed.collect::<Option<Vec<_>>>() {
        weighed.sort_unstable();
        let again = weighed.into_iter().map(|(weight, range)| match weight.0 {
            1_000 => range,
            weight => [range, format!(";q={weight}").into_bytes()].concat(),
        });
        members = again.collect();
    }
    members
}

/// A weight in thousandths [RFC 9110 12.4.2].
pub(crate) fn weight(text: &[u8]) -> Option<u16> {
    let (whole, fraction) = text.split_first()?;
    let digits = match fraction {
        [] => fraction,
        [b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => digits,
        _ => return None,
    };
    let thousandths = [100, 10, 1].iter().zip(digits).map(|(place, digit)| place * u16::from(digit - b'0')).sum();
    match (whole, thousandths) {
        (b'0', thousandths) => Some(thousandths),
        (b'1', 0) => Some(1_000),
        _ => None,
    }
}

/// The configured origins, checked.
#[derive(Debug)]
pub(crate) enum OriginRules {
    /// Any public host on the ports of the design.
    Any,
    /// These.
    Listed(Vec<OriginRule>),
}

/// One line of the list.
#[derive(Debug)]
pub(crate) struct OriginRule {
    /// The host, or what follows `*.`.
    host: String,
    wild: bool,
    port: Option<u16>,
}

impl OriginRules {
    pub(crate) fn new(origins: &Origins) -> Result<Self, (String, UrlError)> {
        let lines = match origins {
            Origins::Any(Any::Any) => return Ok(Self::Any),
            Origins::Listed(lines) => lines,
        };
        let rules = lines.iter().map(|line| {
            let (wild, rest) = line.strip_prefix("*.").map_or((false, line.as_str()), |rest| (true, rest));
            let authority = Authority::parse(rest).map_err(|error| (format!("origins: \"{line}\""), error))?;
            Ok(OriginRule { host: authority.host().to_owned(), wild, port: authority.port() })
        });
        rules.collect::<Result<_, _>>().map(Self::Listed)
    }

    /// Whether the URL may be fetched: `None` if not, else whether the guard exempts it.
    pub(crate) fn permit(&self, url: &OriginUrl) -> Option<bool> {
        match self {
            Self::Any => (matches!(url.port(), 80 | 443) || ANY_PORTS.contains(&url.port())).then_some(false),
            Self::Listed(rules) => {
                let mut fits = rules.iter().filter(|rule| {
                    rule.names(url.host())
                        && rule.port.map_or_else(|| matches!(url.port(), 80 | 443), |port| port == url.port())
                });
                let first = fits.next()?;
                // A pattern lets its holder point names anywhere; only a named host is the operator's own word.
                Some(!first.wild || fits.any(|rule| !rule.wild))
            }
        }
    }

    /// Whether a URL that may not be fetched might be on another port.
    pub(crate) fn serves_host(&self, url: &OriginUrl) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(rules) => rules.iter().any(|rule| rule.names(url.host())),
        }
    }
}

impl OriginRule {
    fn names(&self, host: &str) -> bool {
        if self.wild {
            host.strip_suffix(&self.host).is_some_and(|rest| rest.ends_with('.'))
        } else {
            host == self.host
        }
    }
}

impl Cache {
    /// The shared part of a proxy that listens at these addresses.
    pub(crate) fn new(
        config: Config,
        (index, streams, store): (Arc<dyn Index>, Arc<dyn Streams>, Store),
        log: Option<Arc<AccessLog>>,
        takedown: Arc<Takedown>,
        listening: Vec<SocketAddr>,
        saved: Option<&Bytes>,
    ) -> Result<Self, (String, UrlError)> {
        let counters = Arc::new(Counters::default());
        let listening: Vec<_> = listening.into_iter().chain(config.protected.iter().copied()).collect();
        let listening = Arc::new(RwLock::new(listening));
        let (told, own) = (Arc::clone(&index), Arc::clone(&listening));
        let own = Arc::new(move || own_addresses(told.as_ref(), &own.read().unwrap_or_else(PoisonError::into_inner)));
        let resolver = Resolver::new(&config, own);
        let remembered = config.limits.remembered;
        let joined = (Arc::clone(&index), Arc::clone(&streams), store.clone());
        let purges = Arc::new(Purges::new(&config.purges, joined, saved));
        Ok(Self {
            zone: Zone::new(&config.zone).map_err(|error| ("zone".to_owned(), error))?,
            sites: Arc::new(Sites::new(&config)?),
            origins: OriginRules::new(&config.origins)?,
            origin: OriginClient::new(&config, resolver, Arc::clone(&counters)),
            flights: Flights::new(config.limits.flights, config.limits.waiters),
            announces: Announcer::new(Arc::clone(&index), config.peers.clone()),
            company: Company::of(index.as_ref()),
            places: Arc::new(Semaphore::new(config.limits.requests)),
            stop: watch::Sender::new(false),
            negative: Memory::new(remembered),
            pauses: Memory::new(remembered),
            passing: Memory::new(remembered),
            upgraded: Memory::new(remembered),
            shunned: Memory::new(remembered),
            unsliced: Memory::new(remembered),
            chosen: Memory::new(remembered),
            listing: [const { Mutex::const_new(()) }; LISTS],
            controls: Memory::new(remembered),
            fairness: Fairness::new(&config.fairness),
            takedown,
            agent: home::agent(&config.network, &config.contact),
            liars: Liars::new(remembered, &config.peers),
            rechecks: Arc::new(Semaphore::new(RECHECKS)),
            parts: Arc::new(Semaphore::new(config.peers.parts)),
            ahead: Arc::new(Semaphore::new(swarm::places(&config))),
            traces: Memory::new(TRACES_KEPT),
            counters,
            log,
            listening,
            purges,
            store,
            index,
            streams,
            config,
        })
    }

    /// Who tells the index of copies. `None`: there is nobody to be told; what somebody asks for once there is, is announced then.
    pub(crate) fn announcer(&self) -> Option<&Announcer> {
        (!self.index.is_alone()).then_some(&self.announces)
    }

    /// Where whoever changes the list of variants under this key waits for its turn.
    pub(crate) fn turn_to_list(&self, place: Key) -> &Mutex<()> {
        let [first, ..] = place.as_bytes();
        let [only, ..] = &self.listing;
        self.listing.get(usize::from(*first) % LISTS).unwrap_or(only)
    }

    /// A peer was caught: it is left alone for long, and the operator learns of it.
    pub(crate) fn lied(&self, peer: NodeId, how: &'static str) {
        tracing::warn!(%peer, how, "a peer lies");
        self.counters.liar();
        self.liars.lied(peer);
    }

    /// The origin says otherwise than what a peer signed.
    pub(crate) fn contradicted(&self, peer: NodeId, wanted: &Wanted) {
        tracing::warn!(%peer, url = %wanted.url, "a peer signed what the origin did not say to this node");
        self.counters.contradicted();
        if self.liars.contradicted(peer, wanted.url.host(), &wanted.upstream.host) {
            tracing::warn!(%peer, "the origins of several sites contradict a peer: nothing of it is believed");
            self.counters.liar();
        }
    }

    /// Whether a peer is to be asked for a URL at all.
    pub(crate) fn trusts(&self, peer: NodeId, url: &OriginUrl) -> bool {
        self.shunned.get(&peer).is_none() && self.liars.believes(peer, url.host())
    }

    /// What to answer while the origin is spared, if it failed a moment ago and no purge means that.
    pub(crate) fn spared(&self, key: &Key) -> Option<Negative> {
        let Remembered { negative, url, born } = self.negative.get(key)?;
        let purged = match &negative {
            Negative::Answer(answer) => self.purges.took(born, &answer.meta),
            Negative::Failure(_) => self.purges.took_answer(born, &url, &HeaderMap::new()),
        };
        if purged {
            self.recovered(*key);
        }
        (!purged).then_some(negative)
    }

    /// Repeats an answer for so long, unless what it is of is purged before.
    pub(crate) fn remember(&self, wanted: &Wanted, born: PurgeNumber, negative: Negative, span: Duration) {
        self.negative.put(wanted.key, Remembered { negative, url: wanted.url.to_string().into(), born }, span);
    }

    /// Remembers a failure for a while, twice as long as the last time. The origin was asked when the purge number was this.
    pub(crate) fn failed(&self, wanted: &Wanted, born: PurgeNumber, negative: Negative) {
        let key = wanted.key;
        let config = &self.config.freshness;
        let pause = self.pauses.get(&key).map_or(config.negative_first, |last| (last * 2).min(config.negative_most));
        self.pauses.put(key, pause, pause + config.negative_most);
        // Up to a quarter shorter, so that many keys of one origin do not ask in step.
        let jitter = pause.mul_f64(rand::random_range(0.0..0.25));
        self.remember(wanted, born, negative, pause - jitter);
    }

    /// Whether a key's origin failed just before; notes that it fails now.
    pub(crate) fn failing(&self, key: Key) -> bool {
        let before = self.pauses.get(&key).is_some();
        if !before {
            // Half of the first pause, so that the next failure begins with all of it.
            let config = &self.config.freshness;
            self.pauses.put(key, config.negative_first / 2, config.negative_most);
        }
        before
    }

    /// Forgets the failures of a key.
    pub(crate) fn recovered(&self, key: Key) {
        self.negative.forget(&key);
        self.pauses.forget(&key);
    }

    /// How long an answer may be used in which way.
    pub(crate) fn lifetime(&self, site: Option<&Own>, meta: &Meta) -> Lifetime {
        let lifetime = meta.lifetime(&self.config.freshness);
        site.map_or(lifetime, |site| site.bounded(lifetime))
    }

    /// The own site that a URL is of, if it was asked for by that name.
    pub(crate) fn site_of(&self, url: &str) -> Option<Arc<Own>> {
        let authority = purge::host_of(purge::place_of(url));
        Authority::parse(authority)
            .ok()
            .and_then(|authority| self.sites.find(&authority).map(|(own, _)| Arc::clone(own)))
    }

    /// What this node calls itself in CDN-Loop.
    pub(crate) fn loop_id(&self) -> String {
        format!("atoll-{}", self.config.network)
    }
}

/// Where this node listens, and where those it knows serve HTTP: never an origin.
fn own_addresses(index: &dyn Index, listening: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut own = listening.to_vec();
    let me = index.me();
    // Who listens everywhere is reached at each of its addresses.
    for everywhere in listening.iter().filter(|address| address.ip().is_unspecified()) {
        let addresses = me.v4.iter().copied().map(IpAddr::V4).chain(me.v6.iter().copied().map(IpAddr::V6));
        own.extend(addresses.map(|address| SocketAddr::new(address, everywhere.port())));
    }
    let mut add = |node: &NodeInfo| {
        for port in &node.http_ports {
            own.extend(node.v4.iter().map(|address| SocketAddr::from((*address, *port))));
            own.extend(node.v6.iter().map(|address| SocketAddr::from((*address, *port))));
        }
    };
    add(&me);
    for level in index.levels() {
        level.neighbours.iter().for_each(&mut add);
    }
    own
}

/// A store's key is an index's.
pub(crate) const fn store_key(key: Key) -> atoll_store::Key {
    atoll_store::Key::from_bytes(*key.as_bytes())
}

/// A site's directory in the store: the first bytes of its host's key.
pub(crate) fn directory(url: &OriginUrl) -> u64 {
    directory_of(url.host())
}

/// The directory of a host.
pub(crate) fn directory_of(host: &str) -> u64 {
    let key = Key::of(host.as_bytes());
    key.as_bytes().first_chunk::<8>().map_or(0, |first| u64::from_be_bytes(*first))
}

/// Lists of variants that are changed at one time, at most.
const LISTS: usize = 64;

/// Ports beside 80 and 443 that `origins = "any"` allows.
const ANY_PORTS: std::ops::RangeInclusive<u16> = 8_000..=8_999;

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> OriginUrl {
        OriginUrl::parse(text).unwrap()
    }

    // O04
    #[test]
    fn any_origin_still_means_web_ports_only() {
        for (port, allowed) in [
            (80, true),
            (443, true),
            (8000, true),
            (8999, true),
            (22, false),
            (25, false),
            (53, false),
            (6379, false),
            (9000, false),
            (11211, false),
        ] {
            let permitted = OriginRules::Any.permit(&url(&format!("http://a.test:{port}/")));
            assert_eq!(permitted, allowed.then_some(false), "{port}");
        }
    }

    #[test]
    fn listed_origins_are_met_by_host_and_port() {
        let lines = ["www.site.test", "app.site.test:3000", "*.wild.test", "*.port.test:8080"].map(str::to_owned);
        let rules = OriginRules::new(&Origins::Listed(lines.to_vec())).unwrap();
        assert_eq!(rules.permit(&url("http://www.site.test/")), Some(true));
        assert_eq!(rules.permit(&url("https://www.site.test/")), Some(true));
        assert_eq!(rules.permit(&url("http://www.site.test:8080/")), None);
        assert_eq!(rules.permit(&url("http://app.site.test:3000/")), Some(true));
        assert_eq!(rules.permit(&url("http://app.site.test/")), None);
        assert_eq!(rules.permit(&url("http://a.b.wild.test/")), Some(false));
        assert_eq!(rules.permit(&url("http://wild.test/")), None);
        assert_eq!(rules.permit(&url("http://evilwild.test/")), None);
        assert_eq!(rules.permit(&url("http://a.port.test:8080/")), Some(false));
        assert!(OriginRules::new(&Origins::Listed(vec!["a b".to_owned()])).is_err());
    }

    // RFC 9111 4.1: what means the same selects the same variant.
    #[test]
    fn request_fields_are_compared_in_their_normal_form() {
        let of = |name: &str, values: &[&str]| {
            let mut fields = HeaderMap::new();
            for value in values {
                fields.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            }
            normal(name, &fields)
        };
        assert_eq!(of("x", &["1, 2"]), of("x", &["1", " 2"]));
        assert_eq!(of("x", &["1,2"]), of("x", &["1 , 2 "]));
        assert_ne!(of("x", &["1, 2"]), of("x", &["2, 1"]));
        assert_ne!(of("x", &["a"]), of("x", &["A"]));
        assert_ne!(of("x", &[]), of("x", &[""]));
        assert_eq!(of("accept-language", &["de, EN"]), of("accept-language", &["en,de"]));
        for same in ["en;q=0.5, de", "DE , en; q=0.50", "de;q=1, en;Q=.5", "de;q=1.0,en;q=0.500"] {
            let equal = of("accept-language", &["de, en;q=0.5"]) == of("accept-language", &[same]);
            assert_eq!(equal, !same.contains("=."), "{same}");
        }
        for other in ["de, en;q=0.6", "de;q=0.5, en", "de, en", "de, en;q=2", "de, en;q=0.5000", "de, en;x=0.5"] {
            assert_ne!(of("accept-language", &["de, en;q=0.5"]), of("accept-language", &[other]), "{other}");
        }
    }

    // O06: nothing but the same URL under https is followed.
    #[test]
    fn only_the_same_url_under_https_is_followed() {
        let check = |url: &str, status: u16, target: &str| {
            let url = OriginUrl::parse(url).unwrap();
            let upstream = Upstream::of(&url, false);
            let wanted = Wanted {
                key: url.key(),
                url,
                upstream,
                fields: HeaderMap::new(),
                site: None,
                interim: None,
                cut: None,
                trace: Tracer::default(),
            };
            let fields = HeaderMap::from_iter([(header::LOCATION, target.parse().unwrap())]);
            wanted.is_sent_to_https(StatusCode::from_u16(status).unwrap(), &fields)
        };
        assert!(check("http://a.test/x?y", 301, "https://a.test/x?y"));
        assert!(check("http://a.test/x?y", 308, "HTTPS://A.test:443/x?y"));
        for other in [
            "https://a.test/x",
            "https://b.test/x?y",
            "http://a.test/x?y",
            "https://a.test:8443/x?y",
            "/x?y",
            "https://10.0.0.1/x?y",
            "file:///etc/passwd",
            "gopher://a.test/x?y",
            "",
        ] {
            assert!(!check("http://a.test/x?y", 301, other), "{other}");
        }
        assert!(!check("http://a.test/x?y", 200, "https://a.test/x?y"));
        assert!(!check("https://a.test/x?y", 301, "https://a.test/x?y"));
        assert!(!check("http://a.test:8080/x?y", 301, "https://a.test/x?y"));
    }
}
