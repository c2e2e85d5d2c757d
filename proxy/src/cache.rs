//! What every request shares: the store, the index, the flights, the origin client, and what is remembered for a while.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use atoll_overlay::{Index, Key, NodeId, NodeInfo, Streams};
use atoll_store::{PurgeNumber, Store};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::{
    sync::{Mutex, Semaphore, watch},
    time::Instant,
};

use crate::{
    announce::Announcer,
    company::Company,
    config::{Any, Config, Origins},
    fairness::Fairness,
    flight::{Answer, Flights},
    freshness::Lifetime,
    home::{self, Control},
    liars::Liars,
    log::AccessLog,
    memory::Memory,
    meta::Meta,
    origin::OriginClient,
    purge::{self, Purges},
    reason::Failure,
    recheck::RECHECKS,
    resolve::Resolver,
    site::{Own, Sites},
    stats::Counters,
    swarm,
    takedown::Takedown,
    trace::{TRACES_KEPT, Trace},
    url::{Authority, OriginUrl, UrlError},
    wanted::Wanted,
    zone::Zone,
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
        let config = &self.config.freshness;
        match site {
            Some(site) => site.bounded(meta.lifetime(config, site.rules.negative.min(config.negative_most))),
            None => meta.lifetime(config, config.negative_most),
        }
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
}
