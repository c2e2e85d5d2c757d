//! From a query's bytes to a reply's, out of memory alone: who asks, what is known of them, the answer, what the answer makes
//! one expect. What must wait for others (probes, the index) is left as an errand in a bounded queue and helps the next query.

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
use hickory_proto::{
    op::ResponseCode,
    rr::{DNSClass, RecordType},
};
use rand::RngExt as _;
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::{
    Config, Mode, ServeError, Source, Stats, Transport,
    answer::{Answer, View, answer},
    atlas::{Atlas, SHOWN},
    client::{Clients, TOLD_FOR},
    config::secret,
    cookie::{Cookie, Cookies},
    deck::Deck,
    dnssec::{Signer, Signing},
    gap::{Gaps, Sent},
    heat::Heat,
    limit::{Action, Limiter},
    near::Near,
    overrides::Overrides,
    placing::AskedFor,
    question::{Edns, Header, Query, Refusal},
    reply::{Frame, code_name, encode, truncated},
    roster::{Family, Proxy, Roster},
    site::Site,
    stats::{Counters, kind_name},
    waiters::{Patience, Waited, Waiters},
    zone::{Place, Zone},
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
    cookies: Cookies,
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

/// What becomes of a query.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Nothing.
    Silence,
    /// A reply.
    Reply(Vec<u8>),
    /// It is to be asked again, without waiting, once this is over.
    Wait(Patience),
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

    /// Takes up other plain records. What cannot be used changes nothing.
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
        *self.zone.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(zone);
        self.version.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Answers a query. `waited`: how it was put off so far until more is known of who asks; none if it may not be.
    pub(crate) fn respond(
        &self,
        now: Instant,
        bytes: &[u8],
        from: SocketAddr,
        transport: Transport,
        waited: Option<Waited>,
    ) -> Outcome {
        let asked = Asked { now, bytes, from, transport };
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(Refusal::Drop) => {
                self.counters.dropped();
                return Outcome::Silence;
            }
            Err(Refusal::Malformed(header, edns)) => return self.refuse(&asked, header, edns, ResponseCode::FormErr),
            Err(Refusal::Operation(header, edns)) => return self.refuse(&asked, header, edns, ResponseCode::NotImp),
            Err(Refusal::Bare(header, edns)) => {
                return self.refuse(&asked, header, Some(edns), ResponseCode::NoError);
            }
        };
        if transport.is_stream() && query.edns.is_some_and(|edns| edns.says_keepalive) {
            return self.refuse(&asked, query.header, query.edns, ResponseCode::FormErr);
        }
        let zone = self.zone();
        let signing = self.signing(&zone, &asked, &query);
        let own = || signing.as_ref().and_then(Signing::own_answer);
        let (answer, scope) = match unanswerable(&query).or_else(own) {
            Some(answer) => (answer, 0),
            None => match self.resolve(now, &query, from, waited) {
                Resolved::Answer(answer, scope) => (answer, scope),
                Resolved::Wait(known) => return Outcome::Wait(known),
            },
        };
        let mut answer = match &signing {
            Some(signing) => signing.signed(answer),
            None => answer,
        };
        answer.cut |= self.is_to_cut(&asked, &answer);
        let frame = self.frame(&asked, query.header, query.edns, scope);
        let outcome = self.reply(&asked, &answer, &frame, kind_name(query.kind));
        if self.is_sampled(bytes, from) {
            self.note(&asked, Some((&query.name, query.kind)), &answer, &outcome);
        }
        outcome
    }

    /// The bytes of a reply, unless the rate limit keeps it back.
    fn reply(&self, asked: &Asked<'_>, answer: &Answer, frame: &Frame<'_>, kind: &'static str) -> Outcome {
        let mut bytes = encode(answer, frame);
        let address = asked.from.ip().to_canonical();
        if asked.transport == Transport::Udp && !self.has_good_cookie(asked, frame) {
            match self.limiter.check(asked.now, address, asked.bytes.len(), bytes.len()) {
                Action::Send => {}
                Action::Slip => {
                    self.counters.limited(Action::Slip.name());
                    // Without what would make it longer than the question.
                    let edns = frame.edns.map(|edns| Edns { nsid: false, subnet: None, ..edns });
                    bytes = truncated(answer, &Frame { edns, ..*frame });
                }
                Action::Drop => {
                    self.counters.limited(Action::Drop.name());
                    return Outcome::Silence;
                }
            }
        }
        self.counters.answered((kind, code_name(answer.code)), asked.transport, bytes.len(), asked.now);
        Outcome::Reply(bytes)
    }

    fn has_good_cookie(&self, asked: &Asked<'_>, frame: &Frame<'_>) -> bool {
        let cookie = frame.edns.and_then(|edns| edns.cookie).filter(|_| self.config.cookies);
        cookie.is_some_and(|cookie| self.cookies.is_good(&cookie, asked.from.ip(), self.wall(asked.now)))
    }

    /// Seconds since 1970.
    fn wall(&self, now: Instant) -> u32 {
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

    fn resolve(&self, now: Instant, query: &Query, from: SocketAddr, waited: Option<Waited>) -> Resolved {
        if let Some(answer) = self.why_answer(now, &query.name, query.kind, from.ip()) {
            return Resolved::Answer(answer, 0);
        }
        let zone = self.zone();
        let place = zone.locate(&query.name);
        let resolver = from.ip().to_canonical();
        let followed = self.gaps().came(now, resolver, &place);
        if let Some(followed) = followed {
            self.learn(now, Prefix::of(resolver), followed);
        }
        if matches!(place, Place::Missing(_))
            && let Some(report) = self.report(now, query, resolver, waited.is_some_and(|waited| waited.times == 0))
        {
            return report;
        }
        let asked_for = self.asked_for(now, query, resolver, &place);
        if self.depends_on_who_asks(&place)
            && let Some(known) = self.find_out(now, &asked_for, waited.filter(|_| self.is_worth_waiting(&place)))
        {
            return Resolved::Wait(known);
        }
        let AskedFor { prefix, placement, scope, .. } = asked_for;
        let roster = self.roster();
        let below = matches!(place, Place::Cut(cut) if self.is_asked_below(now, resolver, query, cut));
        let width = match (place, self.config.mode) {
            (Place::Target(site), _) | (Place::Public(site), Mode::Direct) => self.heat.asked(now, site),
            _ => 1,
        };
        let view = View { placement: &placement, roster: &roster, prefix, below, width };
        let answer = answer(&zone, &self.config, place, &query.name, query.kind, view);
        if let Some(sent) = answer.sent {
            self.gaps().sent(now, resolver, sent, &zone.sites_above(&query.name));
        }
        match answer.level {
            Some(level) => {
                let why = self.noted(now, prefix, level, &placement, &roster);
                Resolved::Answer(Answer { why: Some(why), ..answer }, scope)
            }
            // What depends on nobody holds for everybody.
            None => Resolved::Answer(answer, 0),
        }
    }

    /// Whether a cut is asked for from below it: by whoever was just referred there, or for the sake of its NS themselves, as checkers
    /// of delegations do. Resolvers that minimise by NS speak EDNS.
    fn is_asked_below(&self, now: Instant, resolver: IpAddr, query: &Query, cut: Level) -> bool {
        let for_its_own_sake = query.kind == RecordType::NS && query.edns.is_none();
        for_its_own_sake || self.gaps().is_sent(now, resolver, Sent::Referral(cut))
    }

    fn depends_on_who_asks(&self, place: &Place<'_>) -> bool {
        match place {
            Place::Cut(_) | Place::Target(_) => true,
            // The CNAME depends on nobody, but who follows it will be answered soon.
            Place::Public(_) => true,
            Place::Outside | Place::Apex(_) | Place::Plain(_) | Place::Empty(_) | Place::Missing(_) => false,
            Place::Node(..) | Place::Server(..) => false,
        }
    }

    /// An alias depends on nobody; the question that follows it may wait.
    fn is_worth_waiting(&self, place: &Place<'_>) -> bool {
        self.config.mode == Mode::Direct || !matches!(place, Place::Public(_))
    }

    /// Leaves an errand; false if there is no room.
    pub(crate) fn errand(&self, errand: Errand) -> bool {
        let left = self.errands.try_send(errand).is_ok();
        if !left {
            metrics::counter!("atoll_dns_errands_dropped_total").increment(1);
        }
        left
    }

    fn refuse(&self, asked: &Asked<'_>, header: Header, edns: Option<Edns>, code: ResponseCode) -> Outcome {
        let answer = Answer::of(code);
        let outcome = self.reply(asked, &answer, &self.frame(asked, header, edns, 0), "unread");
        if self.is_sampled(asked.bytes, asked.from) {
            self.note(asked, None, &answer, &outcome);
        }
        outcome
    }

    fn frame<'a>(&'a self, asked: &Asked<'a>, header: Header, edns: Option<Edns>, scope: u8) -> Frame<'a> {
        let payload = self.config.limits.udp_payload;
        let limit = match (asked.transport, edns) {
            (Transport::Tcp | Transport::Tls | Transport::Https, _) => u16::MAX,
            (Transport::Udp, Some(edns)) => edns.payload.max(PLAIN).min(payload),
            (Transport::Udp, None) => PLAIN,
        };
        let cookie = edns.and_then(|edns| edns.cookie).filter(|_| self.config.cookies);
        let cookie = cookie
            .map(|Cookie { client, .. }| (client, self.cookies.make(client, asked.from.ip(), self.wall(asked.now))));
        let keepalive = edns.is_some_and(|edns| edns.keepalive) && asked.transport.is_stream();
        Frame {
            header,
            query: asked.bytes,
            edns,
            scope,
            cookie,
            compact: self.signs() && edns.is_some_and(|edns| edns.compact && edns.dnssec_ok),
            padded: asked.transport.is_secret() && edns.is_some_and(|edns| edns.padded),
            keepalive: keepalive.then_some(self.config.limits.tcp_idle),
            nsid: &self.config.nsid,
            payload,
            limit,
        }
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

    fn gaps(&self) -> MutexGuard<'_, Gaps> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message as it came.
pub(crate) struct Asked<'a> {
    pub(crate) now: Instant,
    pub(crate) bytes: &'a [u8],
    pub(crate) from: SocketAddr,
    pub(crate) transport: Transport,
}

/// An answer with the scope it holds for, or what to wait for first.
pub(crate) enum Resolved {
    Answer(Answer, u8),
    Wait(Patience),
}

/// What is answered whatever the name: other versions, classes and types that are no data.
fn unanswerable(query: &Query) -> Option<Answer> {
    if query.edns.is_some_and(|edns| edns.version != 0) {
        return Some(Answer::of(ResponseCode::BADVERS));
    }
    if query.class != DNSClass::IN {
        return Some(Answer::of(ResponseCode::Refused));
    }
    match u16::from(query.kind) {
        // OPT is no type to ask for.
        0 | 41 => Some(Answer::of(ResponseCode::FormErr)),
        // IXFR, AXFR: nobody has a copy of this zone.
        251 | 252 => Some(Answer::of(ResponseCode::Refused)),
        // Any other there may be records of, and if there are none, that is the answer (RFC 8906 3.1.4).
        _ => None,
    }
}

/// A number of a prefix, by which a hot site's clients are spread over its proxies.
pub(crate) fn turn(prefix: Prefix) -> u64 {
    match prefix.address() {
        IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32,
        IpAddr::V6(v6) => u64::try_from(v6.to_bits() >> 80).unwrap_or(0).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32,
    }
}

/// Bytes a client without EDNS takes over UDP (RFC 1035 4.2.1).
const PLAIN: u16 = 512;
