//! What one zone's server knows and shares between its sockets, timers and errands: the zone, who is there, who asks, and the queues
//! of what is to be found out. `respond.rs` answers out of it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use atoll_overlay::{Index, Level, Prefix};
use rand::RngExt as _;
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::{
    Config, ServeError, Source, Stats,
    atlas::{Atlas, SHOWN},
    client::Clients,
    config::secret,
    cookie::Cookies,
    deck::Deck,
    dnssec::Signer,
    gap::Gaps,
    heat::Heat,
    limit::Limiter,
    near::{Near, TOLD_FOR},
    overrides::Overrides,
    roster::{Family, Proxy, Roster},
    site::Site,
    stats::Counters,
    waiters::Waiters,
    zone::Zone,
};

/// One zone's redirector.
pub(crate) struct Redirector {
    pub(crate) config: Config,
    pub(crate) index: Arc<dyn Index>,
    pub(crate) counters: Counters,
    pub(crate) leaving: AtomicBool,
    /// Rings when the roster is to be made anew.
    pub(crate) refresh: Notify,
    zone: RwLock<Arc<Zone>>,
    clients: Mutex<Clients>,
    gaps: Mutex<Gaps>,
    roster: RwLock<Arc<Roster>>,
    pub(crate) cookies: Cookies,
    pub(crate) signer: Option<Signer>,
    pub(crate) overrides: Arc<Overrides>,
    pub(crate) limiter: Limiter,
    pub(crate) heat: Heat,
    pub(crate) atlas: Atlas,
    version: AtomicU64,
    /// Of what this server last said of a prefix.
    pub(crate) epoch: AtomicU64,
    /// Proxies of other clusters that answers lately named, and when: this server looks for itself whether they are there. As many as
    /// are looked at per level; past it those named first stay until nobody has named them for as long as a pointer holds.
    foreign: Mutex<BTreeMap<SocketAddr, Instant>>,
    /// When this server started, by both clocks: what wall time it is follows from how long it runs, so that no step of the
    /// system's clock makes a cookie of ours too old or too young.
    began: (Instant, Duration),
    probes: mpsc::Sender<Probe>,
    errands: mpsc::Sender<Errand>,
    /// Questions that wait until more is known of a prefix.
    waiters: Mutex<Waiters>,
    /// Places for these, whichever way they come.
    pub(crate) waiting: Arc<Semaphore>,
    /// Lines of the query log; nobody takes them unless there is one.
    pub(crate) log: OnceLock<mpsc::Sender<String>>,
}

/// A wish to know how far a resolver is.
#[derive(Debug)]
pub(crate) struct Probe {
    /// Whom to probe.
    pub(crate) address: IpAddr,
    /// Whether scouts are to go there, too, wherever it is; to what turns out to be near they go anyway.
    pub(crate) search: bool,
}

/// What scouts are sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quest {
    /// The address they are to measure.
    pub(crate) address: IpAddr,
    /// The resolver for whose sake.
    pub(crate) resolver: Prefix,
    /// Whether a question waits for it here, rather than at the server that sent this one as a scout. Scouts of the first search
    /// look among their own neighbours before they answer; those of theirs do not, or all would wait for each other.
    pub(crate) first: bool,
}

/// Something to do in the index.
#[derive(Debug)]
pub(crate) enum Errand {
    /// Ask who is near a prefix.
    Ask(Prefix),
    /// The same in a moment, when others have had the time to say so.
    AskSoon(Prefix),
    /// Say that this server's cluster is.
    Tell(Prefix, Near),
    /// Find the cluster nearest to an address's prefix.
    Search(Quest),
    /// The same of an address whose distance is not known yet, among servers of clusters far apart.
    Ahead(IpAddr),
}

/// Where a prefix is served and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Whose.
    pub prefix: Prefix,
    /// The level it is served at.
    pub level: Level,
    /// The least RTT from each source that has one.
    pub measured: Vec<(Source, Duration)>,
    /// The foreign cluster it is handed to, with the RTT measured there, if one is nearer than this server's.
    pub near: Option<(atoll_overlay::Key, Duration)>,
    /// How far nodes are from it by their own measurements.
    pub nodes: Vec<(IpAddr, Duration)>,
    /// Whether this is known well enough for answers to be kept long.
    pub settled: bool,
}

impl Redirector {
    /// A redirector that knows nobody yet, and what it wants done.
    pub(crate) fn new(
        config: Config,
        index: Arc<dyn Index>,
    ) -> Result<(Self, mpsc::Receiver<Probe>, mpsc::Receiver<Errand>), ServeError> {
        config.check_values()?;
        let (probes, to_probe) = mpsc::channel(config.probe.queue.max(1));
        let (errands, to_do) = mpsc::channel(config.probe.queue.max(1));
        let now = Instant::now();
        let mut random = rand::rng();
        let mut zone = Zone::new(&config)?;
        let signer = Signer::configured(&config, zone.origin(), random.random())?;
        if let Some(signer) = &signer {
            zone.hold_key(signer.dnskey());
        }
        let levels = config.thresholds.len() + 1;
        let waiting = Arc::new(Semaphore::new(config.limits.waiting.min(Semaphore::MAX_PERMITS)));
        let overrides = Arc::new(Overrides::new(config.overrides.clone(), levels, config.limits.overrides)?);
        let redirector = Self {
            signer,
            cookies: Cookies::new(secret(&config.cookie_secret).unwrap_or_else(|| random.random())),
            heat: Heat::new(now, config.hot),
            atlas: Atlas::new(config.limits.map),
            version: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            foreign: Mutex::default(),
            limiter: Limiter::new(config.rate_limit.clone(), now, random.random()),
            began: (now, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
            zone: RwLock::new(Arc::new(zone)),
            clients: Mutex::new(
                Clients::new(config.thresholds.clone(), config.probe.clone(), config.limits.prefixes.max(1))
                    .with_overrides(&overrides),
            ),
            overrides,
            gaps: Mutex::new(Gaps::new(config.limits.awaited.max(1))),
            roster: RwLock::default(),
            counters: Counters::default(),
            leaving: AtomicBool::new(false),
            refresh: Notify::new(),
            config,
            index,
            probes,
            errands,
            waiters: Mutex::default(),
            waiting,
            log: OnceLock::new(),
        };
        Ok((redirector, to_probe, to_do))
    }

    /// The zone as it is now.
    pub(crate) fn zone(&self) -> Arc<Zone> {
        Arc::clone(&self.zone.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes up other plain records. What cannot be used changes nothing; a serial that does not rise with them is told in the log.
    pub(crate) fn reload(&self, config: &Config) -> Result<(), ServeError> {
        let records = Config {
            records: config.records.clone(),
            zone_file: config.zone_file.clone(),
            serial: config.serial,
            ..self.config.clone()
        };
        let mut zone = Zone::new(&records)?;
        if let Some(signer) = &self.signer {
            zone.hold_key(signer.dnskey());
        }
        // Large zones take long to compare, and whoever is to be answered reads the zone.
        let current = self.zone();
        if let Some(wrong) = current.wrong_serial(&zone) {
            tracing::warn!(serial = zone.serial(), was = current.serial(), "{wrong}");
        }
        *self.zone.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(zone);
        // Here the old one is freed, if nobody reads it any more.
        drop(current);
        self.version.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Seconds since 1970.
    pub(crate) fn wall(&self, now: Instant) -> u32 {
        // The 32 bits of a cookie wrap in 2106, as RFC 9018 4.3 allows for.
        u32::try_from(self.wall_span(now).as_secs() & u64::from(u32::MAX)).unwrap_or_default()
    }

    /// Time since 1970, by the clock as it was at the start.
    pub(crate) fn wall_span(&self, now: Instant) -> Duration {
        let (began, wall) = self.began;
        wall + now.saturating_duration_since(began)
    }

    /// An answer names proxies of another cluster.
    pub(crate) fn names_foreign(&self, now: Instant, near: &Near) {
        let mut foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        for target in near.proxies.iter().flat_map(Proxy::targets).filter(|target| self.may_dial(target.ip())) {
            if foreign.len() >= self.config.health.candidates && !foreign.contains_key(&target) {
                let oldest = foreign.iter().min_by_key(|(_, named)| **named).map(|(target, _)| *target);
                oldest.map(|oldest| foreign.remove(&oldest));
            }
            foreign.insert(target, now);
        }
    }

    /// Proxies of other clusters that answers named within the time a pointer holds.
    pub(crate) fn foreign(&self, now: Instant) -> Vec<SocketAddr> {
        let mut foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        foreign.retain(|_, named| now.saturating_duration_since(*named) < TOLD_FOR);
        foreign.keys().copied().collect()
    }

    /// Who is there from now on.
    pub(crate) fn set_roster(&self, roster: Roster) {
        let mut current = self.roster.write().unwrap_or_else(PoisonError::into_inner);
        // Whoever was slow to make his picture must not put it in place of a later one.
        if roster.epoch < current.epoch {
            metrics::counter!("atoll_dns_plans_refused_total").increment(1);
            return;
        }
        let clusters = roster.rings.iter().map(|ring| ring.cluster).collect();
        let company = roster.company;
        *current = Arc::new(roster);
        drop(current);
        let mut known = self.clients();
        known.set_clusters(clusters);
        known.set_company(Instant::now(), company);
        drop(known);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Changes whenever the roster or the zone does.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The level a prefix is served at, if that is settled and it is not handed to a cluster of others; and what there is to choose
    /// from, if not all of the level's live proxies are near enough to it. And what placed it there.
    pub(crate) fn own_place(&self, now: Instant, prefix: Prefix) -> Option<(Level, Option<[Deck; 2]>, &'static str)> {
        let mut clients = self.clients();
        clients.is_used(prefix);
        let placement = clients.placement(now, prefix, self.config.sources.hints);
        drop(clients);
        let roster = self.roster();
        let live = &roster.rings.get(usize::from(placement.level.0))?.live;
        let is_own = placement.near.is_none() && (placement.rtt.is_some() || placement.placed);
        if !placement.settled || !is_own || live.is_empty() {
            return None;
        }
        let asked = self.asked_at(&roster, &placement);
        let near = placement.distances.nearest(placement.level, &self.config.thresholds, live, asked, &roster.mute);
        let all = near.len() == live.len();
        let decks = (!all).then(|| [Family::V4, Family::V6].map(|family| Deck::of(&near, family)));
        Some((placement.level, decks, self.placed_by(now, prefix, &placement)))
    }

    /// Whether a resolver's question for a site may follow something sent to it, and so measure it.
    pub(crate) fn is_expecting(&self, now: Instant, resolver: IpAddr, site: Site) -> bool {
        self.gaps().is_expecting(now, resolver, site)
    }

    /// Who is there.
    pub(crate) fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.roster.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The counters now.
    pub(crate) fn stats(&self) -> Stats {
        let live = self.roster().rings.iter().map(|ring| ring.live.len()).collect();
        Stats { live, map: self.atlas.most(SHOWN), ..self.counters.read() }
    }

    /// Whether this node is leaving.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Leaves an errand; false if there is no room.
    pub(crate) fn errand(&self, errand: Errand) -> bool {
        let left = self.errands.try_send(errand).is_ok();
        if !left {
            metrics::counter!("atoll_dns_errands_dropped_total").increment(1);
        }
        left
    }

    /// Where wishes for a measurement go.
    pub(crate) const fn probes(&self) -> &mpsc::Sender<Probe> {
        &self.probes
    }

    /// What is known of prefixes; held for no longer than a look.
    pub(crate) fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who waits to know more of prefixes.
    pub(crate) fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many prefixes and replies to resolvers are kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> (usize, usize) {
        (self.clients().count(), self.gaps().count())
    }

    /// What was sent to resolvers that a question may follow.
    pub(crate) fn gaps(&self) -> MutexGuard<'_, Gaps> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number of a prefix, by which a hot site's clients are spread over its proxies.
pub(crate) fn turn(prefix: Prefix) -> u64 {
    match prefix.address() {
        IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32,
        IpAddr::V6(v6) => u64::try_from(v6.to_bits() >> 80).unwrap_or(0).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32,
    }
}
