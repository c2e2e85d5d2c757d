//! Where the bytes of one flight may come from: near peers, farther peers, then the origin, raced within a budget.
//!
//! `acquire` and the near lookup start together. Every holder they name is tried, one after the other: the next at once when one
//! fails, beside it when half of its budget is spent without progress. When all of it is, the root is asked again, told who failed:
//! it probes them and grants the fetch, or names others. A budget is 250 ms; less for a whole copy at a node whose distance is known,
//! more at one that is far, whose connection may have to be made first; little at one so far that no answer comes in time. Signs of
//! life from a fill under way count as progress: waiting on a slow origin is no failure. Who has the whole copy has nothing to wait for.
//!
//! | event | then |
//! |---|---|
//! | a peer sends a head that is vouched for | stream from it |
//! | a peer is busy | those it names, at once; it again a little later |
//! | granted, nobody is being tried | the origin, at once |
//! | granted while peers are tried | the origin when their budget is spent, at once if it is |
//! | the root does not answer | the origin once no peer is left, ungranted |
//! | a peer that was busy before falls silent | the root is asked anew: whom it still names is asked again |
//! | the root keeps naming those that failed, or ever more that fail | the origin when patience ends, ungranted |

use std::{collections::VecDeque, sync::Arc, time::Duration};

use atoll_overlay::{Acquire, Acquired, Found, IndexError, Lease, Level, Levels, Marker, NodeId, Value};
use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, OptionFuture},
    stream::FuturesUnordered,
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    cache::Cache,
    frames::Abort,
    peer::{Candidate, Life, PeerError, PeerFill, PeerRequest, ask},
    reason::Failure,
    reference::Reference,
    trace::{Tracer, acquired_in_words, found_in_words, short},
};

/// Where to go on.
pub(crate) enum Step {
    /// This peer is sending.
    Peer(Box<PeerFill>),
    /// The origin; without a lease the index did not grant it.
    Origin(Option<Lease>),
    /// The origin: there is nobody else.
    Alone,
    /// The key is marked: not shareable, or standing under variants.
    Marked(Marker),
    /// A fetcher that shares asked the origin and it failed.
    Failed(Failure),
}

/// The search of one flight; asked again when a source is lost.
pub(crate) struct Seek {
    cache: Arc<Cache>,
    request: PeerRequest,
    trace: Tracer,
    me: NodeId,
    queue: VecDeque<Candidate>,
    /// Being tried or tried before.
    tried: Vec<NodeId>,
    /// Of these, those that gave nothing.
    failed: Vec<NodeId>,
    /// Those that answered, if only that they were busy.
    heard: Vec<NodeId>,
    /// Those being tried.
    asking: Vec<NodeId>,
    /// Named, and not asked for what they did before.
    untrusted: Vec<NodeId>,
    near: Option<BoxFuture<'static, Result<Found, IndexError>>>,
    root: Option<BoxFuture<'static, Result<Acquired, IndexError>>>,
    attempts: FuturesUnordered<BoxFuture<'static, (Candidate, Result<PeerFill, PeerError>)>>,
    lease: Option<Lease>,
    life: Life,
    /// How long those being tried may make no progress: what the farthest of them may.
    budget: Duration,
    /// When the wait for progress began.
    waiting: Instant,
    /// When it was first in vain.
    spent: Option<Instant>,
    /// When the search for this source began.
    since: Instant,
    /// How often the root was asked within it.
    asked: u32,
    /// Whether the root's last word was none.
    rootless: bool,
    /// How often a holder was busy.
    busy: u32,
    /// Nobody was asked anything.
    alone: bool,
    /// Peers contradict each other.
    origin_only: bool,
}

impl Seek {
    /// What it came to so far, for the log.
    pub(crate) fn in_words(&self) -> String {
        let (asked, took) = (self.asked, self.since.elapsed().as_millis());
        let list = |nodes: &[NodeId]| nodes.iter().map(|node| short(*node)).collect::<Vec<_>>().join(" ");
        let (tried, failed) = (list(&self.tried), list(&self.failed));
        format!("for {took} ms, root asked {asked} times, tried [{tried}], failed [{failed}]")
    }

    /// Starts the near lookup and the acquire.
    pub(crate) fn new(cache: &Arc<Cache>, request: PeerRequest, trace: Tracer) -> Self {
        let me = cache.company.me();
        let mut seek = Self {
            cache: Arc::clone(cache),
            request,
            trace,
            me,
            queue: VecDeque::new(),
            tried: Vec::new(),
            failed: Vec::new(),
            heard: Vec::new(),
            asking: Vec::new(),
            untrusted: Vec::new(),
            near: None,
            root: None,
            attempts: FuturesUnordered::new(),
            lease: None,
            life: Life::new(),
            budget: Duration::ZERO,
            waiting: Instant::now(),
            spent: None,
            since: Instant::now(),
            asked: 0,
            rootless: false,
            busy: 0,
            alone: cache.index.is_alone(),
            origin_only: false,
        };
        if !seek.alone {
            seek.look_near();
            seek.ask_root(Reference::fetching());
        }
        seek
    }

    /// The source, this holder or the origin, was lost after so many bytes of this copy: others are sought for the rest.
    pub(crate) fn lost(&mut self, holder: Option<NodeId>, from: Option<(u64, [u8; 16])>, reference: Reference) {
        if let Some(holder) = holder {
            self.doubted(holder);
        }
        self.request.from = from;
        // What was raced with the lost source was asked for other bytes.
        self.attempts.clear();
        self.asking.clear();
        self.busy = 0;
        self.begin_anew();
        self.ask_root(reference);
    }

    /// Patience and questions to the root begin anew.
    fn begin_anew(&mut self) {
        self.spent = None;
        self.since = Instant::now();
        self.asked = 0;
        self.rootless = false;
    }

    /// One more holder, first to be tried.
    pub(crate) fn prefer(&mut self, value: Value) {
        self.spent = None;
        self.since = Instant::now();
        if let Some(candidate) = Candidate::of(value) {
            self.queue.push_front(candidate);
        }
    }

    /// The next source. Never fails to name one within its budgets.
    pub(crate) async fn next(&mut self) -> Step {
        if std::mem::take(&mut self.alone) {
            return Step::Alone;
        }
        loop {
            if self.failed.len() >= FAILED_MOST || self.origin_only {
                return Step::Origin(self.lease.take());
            }
            if self.attempts.is_empty() {
                self.budget = Duration::ZERO;
                if let Some(candidate) = self.queue.pop_front() {
                    self.attempt(candidate);
                } else if self.lease.is_some() {
                    return Step::Origin(self.lease.take());
                } else if self.root.is_none() {
                    if self.rootless || self.asked >= ASKS {
                        return Step::Origin(None);
                    }
                    self.ask_root(Reference::fetching());
                }
            }
            let (hedge, rival) = (self.progress() + self.budget, self.progress() + self.budget / 2);
            // One beside the first; more once the budget is spent.
            let rivals = self.attempts.len() == 1 && !self.queue.is_empty() && self.spent.is_none();
            tokio::select! {
                biased;
                Some((candidate, result)) = self.attempts.next(), if !self.attempts.is_empty() => {
                    if let Some(step) = self.attempted(candidate, result) {
                        return step;
                    }
                }
                Some(found) = OptionFuture::from(self.near.as_mut()) => self.found(found),
                Some(acquired) = OptionFuture::from(self.root.as_mut()) => {
                    self.root = None;
                    if let Some(step) = self.acquired(acquired) {
                        return step;
                    }
                }
                () = sleep_until(rival), if rivals => {
                    if self.progress().elapsed() >= self.budget / 2 && let Some(candidate) = self.queue.pop_front() {
                        self.attempt(candidate);
                    }
                }
                () = sleep_until(hedge), if !self.attempts.is_empty() => {
                    if let Some(step) = self.no_progress() {
                        return step;
                    }
                }
            }
        }
    }

    /// One more holder of this very copy, as near as the one that sends it, once there is one and it is wanted; what is answered meanwhile
    /// is taken in, wanted or not: it may be a lease. Nothing is lost if it is not waited for.
    pub(crate) async fn another(&mut self, like: &Candidate, wanted: bool) -> Candidate {
        let (cache, url) = (Arc::clone(&self.cache), &self.request.url.clone());
        let is_one = |other: &Candidate| {
            let (this, that) = (&other.reference, &like.reference);
            // Others may have found it wanting since it was named.
            cache.trusts(other.value.holder, url)
                && other.value.level >= like.value.level
                && this.digest == that.digest
                && this.validator == that.validator
        };
        loop {
            let place = self.queue.iter().position(is_one).filter(|_| wanted);
            if let Some(candidate) = place.and_then(|place| self.queue.remove(place)) {
                self.tried.push(candidate.value.holder);
                return candidate;
            }
            tokio::select! {
                Some(found) = OptionFuture::from(self.near.as_mut()) => self.found(found),
                Some(acquired) = OptionFuture::from(self.root.as_mut()) => {
                    self.root = None;
                    match acquired {
                        Ok(Acquired::Granted(lease)) => self.lease = Some(lease),
                        Ok(Acquired::References(values)) => self.enqueue(values),
                        // A copy comes, whatever the root makes of the key.
                        Ok(Acquired::Marked(_)) | Err(_) => {}
                    }
                }
                else => std::future::pending().await,
            }
        }
    }

    /// One of several that sent a copy had no time for a part of it: it may be asked again.
    pub(crate) fn put_back(&mut self, candidate: Option<Candidate>) {
        let Some(candidate) = candidate else { return };
        self.tried.retain(|holder| *holder != candidate.value.holder);
        self.queue.push_back(candidate);
    }

    /// No peer is asked any more.
    pub(crate) fn ask_only_the_origin(&mut self) {
        self.origin_only = true;
    }

    /// One of several that sent a copy sends no more of it.
    pub(crate) fn gave_up(&mut self, holder: NodeId) {
        self.failed(holder);
    }

    /// The near lookup ended.
    fn found(&mut self, found: Result<Found, IndexError>) {
        self.near = None;
        self.trace.note("index", || format!("near lookup: {}", found_in_words(&found)));
        self.cache.counters.near_lookup(matches!(found, Ok(Found::Values { .. })));
        if let Ok(Found::Values { values, .. }) = found {
            self.enqueue(values);
        }
    }

    /// An attempt ended.
    fn attempted(&mut self, candidate: Candidate, result: Result<PeerFill, PeerError>) -> Option<Step> {
        let holder = candidate.value.holder;
        self.asking.retain(|other| *other != holder);
        if let Err(error) = &result {
            self.trace.note("peer", || format!("{}: {error}", short(holder)));
        }
        match result {
            Ok(fill) => {
                if self.spent.is_some() {
                    self.cache.counters.hedge("peer");
                }
                // Rivals are let go; the lease, if any, is kept beating by the caller through `take_lease`.
                self.trace.note("peer", || format!("{} sends", short(holder)));
                self.attempts.clear();
                self.asking.clear();
                return Some(Step::Peer(Box::new(fill)));
            }
            Err(PeerError::Aborted(Abort::Origin(failure))) if self.request.from.is_none() => {
                return Some(Step::Failed(failure));
            }
            // Clients wait for the rest, which may be had elsewhere all the same.
            Err(PeerError::Aborted(Abort::Origin(_))) => self.cache.counters.peer_fetch("refused"),
            Err(PeerError::Aborted(Abort::Busy(others))) => {
                self.busy(candidate, others);
                return None;
            }
            Err(PeerError::Aborted(Abort::Broken)) => {
                self.cache.counters.peer_fetch("refused");
                self.doubted(holder);
                return None;
            }
            Err(PeerError::Stale) => self.cache.counters.peer_fetch("stale"),
            Err(PeerError::Absent | PeerError::Contradicts | PeerError::Aborted(Abort::NotShared)) => {
                self.cache.counters.peer_fetch("refused");
            }
            Err(PeerError::Lost | PeerError::Slow) => {
                self.cache.counters.peer_fetch("timeout");
                if self.heard.contains(&holder) {
                    self.fell_silent(holder);
                    return None;
                }
            }
            Err(PeerError::Misbehaved) => {
                self.cache.counters.peer_fetch("refused");
                self.cache.lied(holder, "its answer is no copy that anybody vouches for");
            }
        }
        self.failed(holder);
        None
    }

    fn acquired(&mut self, acquired: Result<Acquired, IndexError>) -> Option<Step> {
        self.trace.note("index", || format!("acquire: {}", acquired_in_words(&acquired)));
        match acquired {
            // It was asked because nothing came, and nothing has come since.
            Ok(Acquired::Granted(lease)) if self.spent.is_some_and(|spent| self.life.last() < spent) => {
                self.cache.counters.hedge("origin");
                return Some(Step::Origin(Some(lease)));
            }
            Ok(Acquired::Granted(lease)) => self.lease = Some(lease),
            Ok(Acquired::References(values)) => self.enqueue(values),
            // What others make of it by now is nothing to clients that have the first half.
            Ok(Acquired::Marked(_)) if self.request.from.is_some() => return Some(Step::Origin(None)),
            Ok(Acquired::Marked(marker)) => return Some(Step::Marked(marker)),
            Err(error) => {
                tracing::debug!(key = %self.request.key, %error, "the root of the key does not answer");
                self.rootless = true;
            }
        }
        None
    }

    /// Nothing came from any peer within the budget, unless a sign of life did while the clock ran.
    fn no_progress(&mut self) -> Option<Step> {
        if self.progress().elapsed() < self.budget {
            return None;
        }
        self.trace.note("peer", || format!("no progress for {} ms", self.budget.as_millis()));
        if self.lease.is_some() {
            self.cache.counters.hedge("origin");
            return Some(Step::Origin(self.lease.take()));
        }
        self.waiting = Instant::now();
        self.spent.get_or_insert(self.waiting);
        let more = self.queue.pop_front().map(|candidate| self.attempt(candidate)).is_some();
        if self.root.is_none() && !self.rootless && self.asked < ASKS {
            self.ask_root(Reference::fetching());
        } else if !more && self.root.is_none() && self.is_over() {
            self.cache.counters.hedge("origin");
            return Some(Step::Origin(None));
        }
        None
    }

    /// When something last came, or its budget began.
    fn progress(&self) -> Instant {
        self.life.last().max(self.waiting)
    }

    /// How long a holder may make no progress.
    fn budget_of(&self, candidate: &Candidate) -> Duration {
        let (peers, Value { holder, level, .. }) = (&self.cache.config.peers, &candidate.value);
        let most = if *level == Level::GLOBAL { peers.hedge + peers.far } else { peers.hedge };
        match self.cache.streams.distance(*holder).filter(|_| candidate.reference.whole().is_some()) {
            // Not even an answer can come in time: it is asked, and hardly waited for.
            Some(distance) if distance >= most => peers.near.min(most),
            Some(distance) => most.min(peers.near + TRIPS * distance),
            None => most,
        }
    }

    /// Whether peers that the root stands by were waited for long enough since the last sign of life: not at all when there is no root to
    /// ask. One that answered before has all of its own time.
    fn is_over(&self) -> bool {
        let heard = self.asking.iter().any(|holder| self.heard.contains(holder));
        let silence = self.since.max(self.life.last()).elapsed();
        self.rootless || (!heard && silence >= self.cache.config.peers.patience)
    }

    /// Whether the root of the key has not answered.
    pub(crate) const fn is_rootless(&self) -> bool {
        self.rootless
    }

    /// A lease that was granted while a peer was faster; its holder is this node, so it must be kept beating.
    pub(crate) fn take_lease(&mut self) -> Option<Lease> {
        self.lease.take()
    }

    fn look_near(&mut self) {
        if self.cache.company.is_near(self.cache.index.as_ref()) {
            let (index, key) = (Arc::clone(&self.cache.index), self.request.key);
            let teller = self.trace.is_on().then(|| self.trace.teller("near lookup"));
            let near = async move {
                match teller {
                    Some(teller) => index.get_told(key, Levels::UpTo(Level(1)), teller).await,
                    None => index.get(key, Levels::UpTo(Level(1))).await,
                }
            };
            self.near = Some(near.boxed());
        }
    }

    fn ask_root(&mut self, reference: Reference) {
        self.asked += 1;
        let mut failed = self.failed.clone();
        failed.sort_unstable();
        failed.dedup();
        // Those still silent count as failed too: the root's probe says who is right. Last come those that were not asked.
        failed.extend(self.tried.iter().filter(|holder| !self.failed.contains(holder)));
        failed.extend(self.untrusted.iter().filter(|holder| !self.tried.contains(holder)));
        failed.truncate(FAILED_NAMED);
        let acquire = Acquire {
            key: self.request.key,
            reference: reference.value(),
            ttl: self.cache.config.peers.reference_fill,
            failed,
        };
        let index = Arc::clone(&self.cache.index);
        let teller = self.trace.is_on().then(|| self.trace.teller("acquire"));
        // What the root says may change with a beat or a marker that is under way: the last question waits for it.
        let pause = if self.asked == ASKS { self.cache.config.peers.hedge } else { Duration::ZERO };
        let acquired = async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            match teller {
                Some(teller) => index.acquire_told(acquire, teller).await,
                None => index.acquire(acquire).await,
            }
        };
        self.root = Some(acquired.boxed());
    }

    fn enqueue(&mut self, values: Vec<Value>) {
        let url = &self.request.url;
        // Whoever is not asked, for what it did before, is no source either: the root is to name others.
        for value in values.iter().filter(|value| value.holder != self.me && !self.cache.trusts(value.holder, url)) {
            if self.untrusted.len() < FAILED_NAMED && !self.untrusted.contains(&value.holder) {
                self.untrusted.push(value.holder);
            }
        }
        let wanted = self.request.from.map(|(_, validator)| validator);
        let known: Vec<_> = values
            .into_iter()
            .filter(|value| value.holder != self.me && !self.tried.contains(&value.holder))
            .filter(|value| self.cache.trusts(value.holder, url))
            .filter_map(Candidate::of)
            .filter(|candidate| {
                let held = &candidate.reference.validator;
                wanted.is_none_or(|validator| held.is_empty() || held.as_ref() == validator)
            })
            .collect();
        for candidate in known {
            if self.queue.len() < CANDIDATES
                && !self.queue.iter().any(|other| other.value.holder == candidate.value.holder)
            {
                self.queue.push_back(candidate);
            }
        }
        // Nearest first; among equals whole copies first. The index gave them in random order.
        self.queue
            .make_contiguous()
            .sort_by_key(|candidate| (std::cmp::Reverse(candidate.value.level), candidate.reference.digest.is_empty()));
    }

    fn attempt(&mut self, candidate: Candidate) {
        self.attempt_after(candidate, Duration::ZERO);
    }

    fn attempt_after(&mut self, candidate: Candidate, pause: Duration) {
        self.tried.push(candidate.value.holder);
        self.asking.push(candidate.value.holder);
        self.trace.note("peer", || {
            let Value { holder, level, .. } = &candidate.value;
            let whole = if candidate.reference.digest.is_empty() { "a growing copy" } else { "a whole copy" };
            format!("asks {}, level {level}, for {whole}", short(*holder))
        });
        if self.attempts.is_empty() {
            self.waiting = Instant::now();
        }
        self.budget = self.budget.max(self.budget_of(&candidate));
        let (cache, request, life) = (Arc::clone(&self.cache), self.request.clone(), self.life.clone());
        // A stream, its handshake and the head: silence beyond patience is a dead peer whatever the distance.
        let stall = self.cache.config.peers.patience;
        let attempt = async move {
            sleep(pause).await;
            let result = ask(cache, candidate.clone(), request, life, stall).await;
            (candidate, result)
        };
        self.attempts.push(attempt.boxed());
    }

    /// The holder lives and gives to others: these are asked at once, and it again a little later.
    fn busy(&mut self, candidate: Candidate, others: Vec<NodeId>) {
        // It is there and grows: patience begins anew, as often as holders may be busy.
        (self.waiting, self.spent) = (Instant::now(), None);
        self.since = self.waiting;
        let Value { level, ttl, holder, .. } = candidate.value;
        if !self.heard.contains(&holder) {
            self.heard.push(holder);
        }
        let value = Reference::fetching().value();
        let others = others.into_iter().map(|holder| Value { holder, level, value: value.clone(), ttl });
        self.enqueue(others.collect());
        for _ in 0..ASKED_INSTEAD {
            if let Some(other) = self.queue.pop_front() {
                self.attempt(other);
            }
        }
        self.busy += 1;
        if self.busy <= BUSY_MOST {
            self.attempt_after(candidate, BUSY_PAUSE * self.busy);
        } else {
            self.failed(holder);
        }
    }

    fn failed(&mut self, holder: NodeId) {
        if !self.tried.contains(&holder) {
            self.tried.push(holder);
        }
        self.failed.push(holder);
    }

    /// The holder answered before, so that it is there and what is lost is on the way: a line full of copies loses the first packet of a
    /// connection as any other, and that one is sent again after a second or three. Who is that far is asked again if the root stands by it.
    fn fell_silent(&mut self, holder: NodeId) {
        self.doubted(holder);
        self.begin_anew();
        self.waiting = self.since;
    }

    /// The holder broke off. The root sees whether it lives: one that stumbled, or has itself lost its source and found another,
    /// is named again and tried again, since its fetch is the one that the others wait for.
    fn doubted(&mut self, holder: NodeId) {
        self.failed(holder);
        if self.failed.iter().filter(|other| **other == holder).count() < CHANCES {
            self.tried.retain(|other| *other != holder);
        }
    }
}

/// How often the root is asked within one budget.
const ASKS: u32 = 3;

/// Round trips until the first bytes of a copy come, where a connection must be made first: three for TCP and Noise, one for the
/// certificates, one for the request.
const TRIPS: u32 = 5;

/// Failed holders named to the root [the index's limit].
const FAILED_NAMED: usize = 8;

/// Of those that a busy holder names, so many are asked at once.
const ASKED_INSTEAD: usize = 2;

/// Times that holders may be busy before one of them counts as failed, each a pause longer than the last: 3 s in all. \[guess\]
pub(crate) const BUSY_MOST: u32 = 5;
pub(crate) const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// How often one holder may break off.
const CHANCES: usize = 3;

/// Failures of holders in one flight after which the origin is asked, whoever else is named.
const FAILED_MOST: usize = 16;

/// Holders queued at most.
const CANDIDATES: usize = 16;
