//! From a query's bytes to a reply's, out of memory alone: who asks, what is known of them, the answer, what the answer makes
//! one expect. What must wait for others (probes, the index) is left as an errand in a bounded queue and helps the next query.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use atoll_overlay::{Index, Level, NodeId, Prefix};
use hickory_proto::{op::ResponseCode, rr::DNSClass};
use rand::RngExt as _;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::{
    Config, Mode, ServeError, Source, Stats, Transport,
    answer::{Answer, View, answer},
    atlas::{Atlas, SHOWN},
    client::{Clients, Placement},
    config::secret,
    cookie::{Cookie, Cookies},
    dnssec::{Signer, Signing},
    gap::{Followed, Gaps, Sent},
    heat::Heat,
    limit::{Action, Limiter},
    near::Near,
    overrides::Overrides,
    question::{Edns, Header, Query, Refusal, Subnet},
    reply::{Frame, code_name, encode, truncated},
    roster::Roster,
    site::Site,
    stats::{Counters, kind_name},
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
    zone: Zone,
    clients: Mutex<Clients>,
    gaps: Mutex<Gaps>,
    roster: RwLock<Arc<Roster>>,
    cookies: Cookies,
    pub(crate) signer: Option<Signer>,
    pub(crate) overrides: Arc<Overrides>,
    pub(crate) limiter: Limiter,
    pub(crate) heat: Heat,
    pub(crate) atlas: Atlas,
    roster_version: AtomicU64,
    /// When this server started, by both clocks: what wall time it is follows from how long it runs, so that no step of the
    /// system's clock makes a cookie of ours too old or too young.
    began: (Instant, Duration),
    probes: mpsc::Sender<Probe>,
    errands: mpsc::Sender<Errand>,
    /// Lines of the query log; nobody takes them unless there is one.
    pub(crate) log: OnceLock<mpsc::Sender<String>>,
}

/// A wish to know how far a resolver is.
#[derive(Debug)]
pub(crate) struct Probe {
    /// Whom to probe.
    pub(crate) address: std::net::IpAddr,
    /// Told when it is known, if a question waits for it.
    pub(crate) known: Option<oneshot::Sender<()>>,
}

/// Something to do in the index.
#[derive(Debug)]
pub(crate) enum Errand {
    /// Ask who is near a prefix.
    Ask(Prefix),
    /// Say that this server's cluster is.
    Tell(Prefix, Near),
}

/// What becomes of a query.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Nothing.
    Silence,
    /// A reply.
    Reply(Vec<u8>),
    /// It is to be asked again, without waiting, once this resolves or `probe.wait` is over.
    Wait(oneshot::Receiver<()>),
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
    /// Whether this is known well enough for answers to be kept long.
    pub settled: bool,
}

impl Redirector {
    /// A redirector that knows nobody yet, and what it wants done.
    pub(crate) fn new(
        config: Config,
        index: Arc<dyn Index>,
    ) -> Result<(Self, mpsc::Receiver<Probe>, mpsc::Receiver<Errand>), ServeError> {
        config.check()?;
        let (probes, to_probe) = mpsc::channel(config.probe.queue.max(1));
        let (errands, to_do) = mpsc::channel(config.probe.queue.max(1));
        let now = Instant::now();
        let mut random = rand::rng();
        let zone = Zone::new(&config)?;
        let levels = config.thresholds.len() + 1;
        let overrides = Arc::new(Overrides::new(config.overrides.clone(), levels, config.limits.overrides)?);
        let redirector = Self {
            signer: Signer::configured(&config, zone.origin(), random.random())?,
            cookies: Cookies::new(secret(&config.cookie_secret).unwrap_or_else(|| random.random())),
            heat: Heat::new(now, config.hot),
            atlas: Atlas::new(config.limits.map),
            roster_version: AtomicU64::new(0),
            limiter: Limiter::new(config.rate_limit.clone(), now, random.random()),
            began: (now, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
            zone,
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
            log: OnceLock::new(),
        };
        Ok((redirector, to_probe, to_do))
    }

    /// The zone.
    pub(crate) const fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Answers a query. `may_wait`: whether it may be put off until a probe is back.
    pub(crate) fn respond(
        &self,
        now: Instant,
        bytes: &[u8],
        from: SocketAddr,
        transport: Transport,
        may_wait: bool,
    ) -> Outcome {
        let asked = Asked { now, bytes, from, transport };
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(Refusal::Drop) => {
                self.counters.dropped();
                return Outcome::Silence;
            }
            Err(Refusal::Malformed(header)) => return self.refuse(&asked, header, None, ResponseCode::FormErr),
            Err(Refusal::Operation(header)) => return self.refuse(&asked, header, None, ResponseCode::NotImp),
            Err(Refusal::Bare(header, edns)) => {
                return self.refuse(&asked, header, Some(edns), ResponseCode::NoError);
            }
        };
        let signing = self.signing(&asked, &query);
        let own = || signing.as_ref().and_then(Signing::own_answer);
        let (answer, scope) = match unanswerable(&query).or_else(own) {
            Some(answer) => (answer, 0),
            None => match self.resolve(now, &query, from, may_wait) {
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
            self.note(&asked, &query, &answer, &outcome);
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
        self.counters.answered(kind, code_name(answer.code), asked.transport, bytes.len());
        Outcome::Reply(bytes)
    }

    fn has_good_cookie(&self, asked: &Asked<'_>, frame: &Frame<'_>) -> bool {
        let cookie = frame.edns.and_then(|edns| edns.cookie).filter(|_| self.config.cookies);
        cookie.is_some_and(|cookie| self.cookies.is_good(&cookie, asked.from.ip(), self.wall(asked.now)))
    }

    /// Seconds since 1970.
    fn wall(&self, now: Instant) -> u32 {
        let (began, wall) = self.began;
        // The 32 bits of a cookie wrap in 2106, as RFC 9018 4.3 allows for.
        let seconds = (wall + now.saturating_duration_since(began)).as_secs() & u64::from(u32::MAX);
        u32::try_from(seconds).unwrap_or_default()
    }

    /// An RTT was measured.
    pub(crate) fn measured(&self, now: Instant, prefix: Prefix, source: Source, rtt: Duration) {
        self.clients().measured(now, prefix, source, rtt);
        self.counters.measured(source);
        self.index.observe(prefix, rtt);
    }

    /// The index was asked about a prefix: who is near, and what RTTs nodes saw (proxies, of their clients, among them). A
    /// neighbour's RTT is as good as our own at the levels we share.
    pub(crate) fn asked(
        &self,
        now: Instant,
        prefix: Prefix,
        near: Option<(Near, Duration)>,
        seen: Vec<(NodeId, Duration)>,
    ) {
        let roster = self.roster();
        let mut clients = self.clients();
        for (node, rtt) in seen {
            let shared = roster.rings.iter().rposition(|ring| ring.members.contains(&node));
            if roster.me.as_ref().is_some_and(|me| me.id == node) {
                // What this node's proxy saw of its clients.
                if self.config.sources.proxies {
                    clients.measured(now, prefix, Source::Proxy, rtt);
                }
                continue;
            }
            // At level 0 everybody is a neighbour, which says nothing.
            let Some(shared) = shared.filter(|shared| *shared > 0) else { continue };
            // Not nearer than the innermost level we share with it.
            let least = self.config.thresholds.get(shared).copied().unwrap_or_default();
            clients.measured(now, prefix, Source::Neighbour, rtt.max(least));
        }
        clients.asked(now, prefix, near);
    }

    /// Whether the index is to be asked about a prefix (again).
    pub(crate) fn is_to_ask(&self, now: Instant, prefix: Prefix) -> bool {
        self.clients().is_to_ask(now, prefix)
    }

    /// Who is there from now on.
    pub(crate) fn set_roster(&self, roster: Roster) {
        let mut current = self.roster.write().unwrap_or_else(PoisonError::into_inner);
        // Whoever was slow to make his picture must not put it in place of a later one.
        if roster.epoch < current.epoch {
            metrics::counter!("atoll_dns_plans_refused_total").increment(1);
            return;
        }
        *current = Arc::new(roster);
        drop(current);
        self.roster_version.fetch_add(1, Ordering::Release);
    }

    /// Changes whenever the roster does.
    pub(crate) fn roster_version(&self) -> u64 {
        self.roster_version.load(Ordering::Acquire)
    }

    /// The names questions are compared with: see [`Zone::wire_names`].
    pub(crate) fn wire_names(&self) -> (Vec<u8>, [Vec<u8>; 2]) {
        self.zone.wire_names()
    }

    /// See [`Zone::is_common`].
    pub(crate) fn is_common(&self, label: &[u8]) -> bool {
        self.zone.is_common(label)
    }

    /// The level a prefix is served at, if that is settled and it is not handed to a cluster of others.
    pub(crate) fn own_level(&self, now: Instant, prefix: Prefix) -> Option<Level> {
        let placement = self.clients().placement(now, prefix, self.config.sources.hints);
        (placement.settled && placement.near.is_none() && placement.rtt.is_some()).then_some(placement.level)
    }

    /// Whether a resolver's question for a site may follow something sent to it, and so measure it.
    pub(crate) fn is_expecting(&self, now: Instant, resolver: std::net::IpAddr, site: Site) -> bool {
        self.gaps().is_expecting(now, resolver, site)
    }

    /// Who is there.
    pub(crate) fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.roster.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where a prefix is served, and why.
    pub(crate) fn explain(&self, now: Instant, prefix: Prefix) -> Explanation {
        let clients = self.clients();
        let placement = clients.placement(now, prefix, self.config.sources.hints);
        Explanation {
            prefix,
            level: placement.level,
            measured: clients.minima(now, prefix),
            near: placement.near.map(|near| (near.cluster, near.rtt)),
            settled: placement.settled,
        }
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

    fn resolve(&self, now: Instant, query: &Query, from: SocketAddr, may_wait: bool) -> Resolved {
        if let Some(answer) = self.why_answer(now, &query.name, query.kind, from.ip()) {
            return Resolved::Answer(answer, 0);
        }
        let place = self.zone.locate(&query.name);
        let resolver = from.ip().to_canonical();
        let followed = self.gaps().came(now, resolver, &place, query.kind);
        if let Some(followed) = followed {
            self.learn(now, Prefix::of(resolver), followed);
        }
        let asked_for = self.asked_for(now, query, Prefix::of(resolver));
        if self.depends_on_who_asks(&place)
            && let Some(known) = self.find_out(now, &asked_for, resolver, may_wait && self.is_worth_waiting(&place))
        {
            return Resolved::Wait(known);
        }
        let AskedFor { prefix, placement, scope } = asked_for;
        let roster = self.roster();
        let may_sound = self.config.sources.referral_gap
            && prefix == Prefix::of(resolver)
            && !self.gaps().is_sounding(now, resolver);
        let below = matches!(place, Place::Cut(cut) if self.gaps().is_sent(now, resolver, Sent::Referral(cut)));
        let width = match (place, self.config.mode) {
            (Place::Target(site), _) | (Place::Public(site), Mode::Direct) => self.heat.asked(now, site),
            _ => 1,
        };
        let view = View { placement: &placement, roster: &roster, prefix, may_sound, below, width };
        let answer = answer(&self.zone, &self.config, place, &query.name, query.kind, view);
        if let Some(sent) = answer.sent {
            self.gaps().sent(now, resolver, sent, &self.zone.sites_above(&query.name));
        }
        match answer.level {
            Some(level) => {
                self.note_destination(now, prefix, level, &placement);
                self.tell(now, prefix, &placement, &roster);
                Resolved::Answer(answer, scope)
            }
            // What depends on nobody holds for everybody.
            None => Resolved::Answer(answer, 0),
        }
    }

    /// Whose distance counts: the client's if its subnet came along and something is known of it, else the resolver's.
    fn asked_for(&self, now: Instant, query: &Query, resolver: Prefix) -> AskedFor {
        let hints = self.config.sources.hints;
        let subnet = query.edns.and_then(|edns| edns.subnet).filter(|_| self.config.sources.client_subnet);
        let clients = self.clients();
        if let Some((prefix, scope)) = subnet.and_then(whole_prefix) {
            let placement = clients.placement(now, prefix, hints);
            if placement.rtt.is_some() || placement.near.is_some() {
                return AskedFor { prefix, placement, scope };
            }
            let ask = hints && clients.is_to_ask(now, prefix);
            let placement = clients.placement(now, resolver, hints);
            drop(clients);
            if ask {
                self.errand(Errand::Ask(prefix));
            }
            return AskedFor { prefix: resolver, placement, scope: 0 };
        }
        AskedFor { prefix: resolver, placement: clients.placement(now, resolver, hints), scope: 0 }
    }

    /// Has a resolver measured and the index asked, if it is time. Says what to wait for, if this question is to wait.
    fn find_out(
        &self,
        now: Instant,
        asked_for: &AskedFor,
        resolver: std::net::IpAddr,
        may_wait: bool,
    ) -> Option<oneshot::Receiver<()>> {
        let AskedFor { prefix, placement, .. } = asked_for;
        if self.config.sources.hints
            && placement.level < self.zone.innermost()
            && self.clients().is_to_ask(now, *prefix)
        {
            self.errand(Errand::Ask(*prefix));
        }
        let active = self.config.sources.tcp_connect || self.config.sources.icmp;
        if !active || placement.rtt.is_some() || *prefix != Prefix::of(resolver) {
            return None;
        }
        let (tell, known) = oneshot::channel();
        let waits = may_wait && self.config.wait && placement.near.is_none();
        // A full queue means a flood: the question is answered as it is.
        let queued = self.probes.try_send(Probe { address: resolver, known: waits.then_some(tell) }).is_ok();
        (queued && waits).then_some(known)
    }

    /// Tells the index of a prefix near this server, so that farther servers hand it over.
    fn tell(&self, now: Instant, prefix: Prefix, placement: &Placement, roster: &Roster) {
        let own = placement.level > Level::GLOBAL && placement.near.is_none();
        let (Some(rtt), true, Some(ring)) = (placement.rtt, own, roster.rings.get(usize::from(placement.level.0)))
        else {
            return;
        };
        if !self.config.sources.hints || ring.live.is_empty() || self.is_leaving() {
            return;
        }
        let servers: Vec<_> = roster.me.iter().chain(&ring.servers).take(3).cloned().collect();
        if servers.is_empty() {
            return;
        }
        let near = Near { level: placement.level, rtt, cluster: ring.cluster, servers, proxies: ring.live.clone() };
        if self.clients().is_to_tell(now, prefix, &near) {
            self.errand(Errand::Tell(prefix, near));
        }
    }

    fn learn(&self, now: Instant, resolver: Prefix, followed: Followed) {
        let (source, on) = match followed.sent {
            Sent::Alias(_) => (Source::CnameGap, self.config.sources.cname_gap),
            Sent::Referral(..) | Sent::Sounding(..) => (Source::ReferralGap, self.config.sources.referral_gap),
        };
        if on {
            self.measured(now, resolver, source, followed.gap);
        }
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

    fn errand(&self, errand: Errand) {
        if self.errands.try_send(errand).is_err() {
            metrics::counter!("atoll_dns_errands_dropped_total").increment(1);
        }
    }

    fn refuse(&self, asked: &Asked<'_>, header: Header, edns: Option<Edns>, code: ResponseCode) -> Outcome {
        self.reply(asked, &Answer::of(code), &self.frame(asked, header, edns, 0), "unread")
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

    pub(crate) fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
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

enum Resolved {
    Answer(Answer, u8),
    Wait(oneshot::Receiver<()>),
}

struct AskedFor {
    prefix: Prefix,
    placement: Placement,
    scope: u8,
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

/// The prefix a client subnet lies in, if it is no wider than we tell apart, and its bits as the answer's scope.
fn whole_prefix(subnet: Subnet) -> Option<(Prefix, u8)> {
    let address = subnet.address?;
    let unit = if address.is_ipv4() { 24 } else { 48 };
    (subnet.prefix >= unit).then(|| (Prefix::of(address), unit))
}

/// A number of a prefix, by which a hot site's clients are spread over its proxies.
pub(crate) fn turn(prefix: Prefix) -> u64 {
    match prefix.address() {
        std::net::IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32,
        std::net::IpAddr::V6(v6) => {
            u64::try_from(v6.to_bits() >> 80).unwrap_or(0).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
        }
    }
}

/// Bytes a client without EDNS takes over UDP (RFC 1035 4.2.1).
const PLAIN: u16 = 512;
