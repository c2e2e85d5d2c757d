//! In step with others: a peer is asked now and then what it has purged, and everybody who has not applied a purge is told until
//! they have. A node that nobody answers is in doubt.
//!
//! That is known by what was asked in vain, not by the time alone: a machine that is busy is late with questions and answers alike,
//! and its doubts would cost the origin. Two rounds of questions that nobody answered, and some seconds since the last answer, are a
//! node that is cut off; a node that did not even come to ask doubts once it is long overdue.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use atoll_overlay::{Level, NodeId, NodesQuery, Roles, membership::Statement};
use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _,
    stream::{self, FuturesUnordered},
};
use rand::seq::IndexedRandom as _;
use tokio::{
    sync::{Notify, broadcast::error::RecvError},
    time::{Instant, sleep, timeout},
};

use super::{
    config::Purging,
    ledger::{Floor, Heads, Ledger},
    purges::{Purges, unix_millis},
    talk,
};
use crate::clock;

/// Where this node stands with others.
pub(super) struct Step {
    began: Instant,
    /// The same by the clock on the wall: what was received before it may have been purged while this node was off.
    started: SystemTime,
    /// Milliseconds since `began` until which nothing is doubted.
    sure_until: AtomicU64,
    /// The same for a node that asked in vain.
    unheard_until: AtomicU64,
    /// Rounds of questions since the last answer that nobody answered.
    in_vain: AtomicU32,
    /// From the last answer to doubt: without questions in vain, and with.
    spans: (Duration, Duration),
    /// When it was last in step with some peer, in seconds since the Unix epoch; 0 if never.
    synced: AtomicU64,
    /// Whether what is stored may be from before a gap that nobody can fill.
    unknown: Mutex<Option<&'static str>>,
    wake: Notify,
    others: Mutex<BTreeMap<NodeId, Heard>>,
    /// Since when something is missing between purges that are here.
    gap_since: Mutex<Option<Instant>>,
    /// When there was last a neighbour.
    company: Mutex<Instant>,
}

/// What another node has said of itself.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    /// What it has applied.
    pub(super) heads: Heads,
    pub(super) at: Instant,
}

impl Step {
    /// A node that was last in step at `known`, if it has known anything before, that holds something, and has heard purges of
    /// others.
    pub(super) fn new(known: Option<u64>, (holds, heard): (bool, bool), config: &Purging) -> Self {
        let now = unix_millis(clock::now()) / 1_000;
        let unknown = match known {
            None if holds => Some("there is a store without the purges known to it"),
            Some(synced) if synced > 0 && synced.saturating_add(config.keep.as_secs()) < now => Some(AWAY),
            Some(_) | None => None,
        };
        // One that was killed before it had been in step once may have heard of a purge all the same: then there are others.
        let sure = unknown.is_none() && known.unwrap_or(0) == 0 && !heard;
        Self {
            began: Instant::now(),
            started: clock::now(),
            sure_until: AtomicU64::new(if sure { u64::MAX } else { 0 }),
            unheard_until: AtomicU64::new(0),
            in_vain: AtomicU32::new(0),
            spans: ((config.exchange + config.patience) * MISSES, config.unheard),
            synced: AtomicU64::new(known.unwrap_or(0)),
            unknown: Mutex::new(unknown),
            wake: Notify::new(),
            others: Mutex::default(),
            gap_since: Mutex::default(),
            company: Mutex::new(Instant::now()),
        }
    }

    /// Asks somebody now.
    pub(super) fn hurry(&self) {
        self.wake.notify_one();
    }

    pub(super) fn synced(&self) -> u64 {
        self.synced.load(Ordering::Relaxed)
    }

    /// Whether a copy received then is to be confirmed: while others may have purged unheard, one that is not `young` any
    /// more, or is from before the node was off.
    pub(super) fn doubts(&self, received: SystemTime, young: Duration) -> bool {
        if !self.in_doubt() {
            return false;
        }
        received < self.started || clock::now().duration_since(received).is_ok_and(|age| age >= young)
    }

    fn in_doubt(&self) -> bool {
        let until = self.sure_until.load(Ordering::Relaxed);
        if until == u64::MAX {
            return false;
        }
        let now = self.now();
        now >= until
            || self.in_vain.load(Ordering::Relaxed) >= IN_VAIN && now >= self.unheard_until.load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Nothing was missed up to this moment, in milliseconds since `began`.
    fn is_sure_since(&self, moment: u64) {
        let after = |span: Duration| moment.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        let (long, unheard) = self.spans;
        self.unheard_until.store(after(unheard), Ordering::Relaxed);
        self.sure_until.store(after(long), Ordering::Relaxed);
        self.in_vain.store(0, Ordering::Relaxed);
    }

    /// A round of questions that nobody answered.
    fn asked_in_vain(&self) {
        let more = self.in_vain.load(Ordering::Relaxed).saturating_add(1);
        self.in_vain.store(more, Ordering::Relaxed);
    }

    /// Whether the last round was answered, or is yet to come.
    fn is_heard(&self) -> bool {
        self.in_vain.load(Ordering::Relaxed) == 0
    }

    /// What others have said, as of now.
    pub(super) fn others(&self) -> MutexGuard<'_, BTreeMap<NodeId, Heard>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, peer: NodeId, heads: Heads, limit: usize) {
        let mut others = self.others();
        if others.len() >= limit
            && !others.contains_key(&peer)
            && let Some(oldest) = others.iter().min_by_key(|(_, heard)| heard.at).map(|(id, _)| *id)
        {
            others.remove(&oldest);
        }
        others.insert(peer, Heard { heads, at: Instant::now() });
    }
}

impl Purges {
    /// Hears what is spread and keeps in step. Never returns.
    pub(crate) async fn run(self: Arc<Self>) {
        let hearing = Arc::clone(&self);
        tokio::join!(hearing.listen(), self.keep_in_step());
    }

    async fn listen(&self) {
        let mut spreads = self.index.spreads();
        loop {
            match spreads.recv().await {
                Ok(spread) => self.heard(&spread.record).await,
                Err(RecvError::Lagged(_)) => self.step.hurry(),
                // The index has stopped: nothing more is spread.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    async fn heard(&self, record: &[u8]) {
        if Statement::is_one(record) {
            self.hear(record).await;
            if self.ledger().has_gap() {
                self.step.hurry();
            }
        }
    }

    async fn keep_in_step(&self) {
        loop {
            if self.forgive().await {
                self.meet().await;
            }
            let hurried = self.step.in_doubt() || !self.step.is_heard();
            let pause = if hurried { self.config.exchange.min(IN_DOUBT) } else { self.config.exchange };
            // Woken or not, it is time.
            let _ = timeout(pause, self.step.wake.notified()).await;
        }
    }

    /// Has everything revalidated where that is due; false if it could not be done yet.
    async fn forgive(&self) -> bool {
        let why = *lock(&self.step.unknown);
        let Some(why) = why else { return true };
        if let Err(error) = self.revalidate(why, |_| {}).await {
            tracing::warn!(%error, "what is stored could not be marked");
            sleep(IN_DOUBT).await;
            return false;
        }
        *lock(&self.step.unknown) = None;
        if self.step.synced() == 0 {
            self.step.sure_until.store(u64::MAX, Ordering::Relaxed);
        } else {
            // Whatever was missed until now no longer matters.
            self.step.synced.store(unix_millis(clock::now()) / 1_000, Ordering::Relaxed);
        }
        true
    }

    /// Compares with some peer.
    async fn meet(&self) {
        let peers = self.peers();
        // As of when it was asked: what is ordered while an answer is on its way, that answer need not know.
        let asked = self.step.now();
        if peers.is_empty() {
            if lock(&self.step.company).elapsed() >= self.config.alone {
                self.step.is_sure_since(asked);
            } else {
                self.step.asked_in_vain();
            }
            return;
        }
        *lock(&self.step.company) = Instant::now();
        let (synced, now) = (self.step.synced(), unix_millis(clock::now()) / 1_000);
        if synced > 0 && synced.saturating_add(self.config.keep.as_secs()) < now {
            *lock(&self.step.unknown) = Some(AWAY);
            return self.step.hurry();
        }
        if self.is_answered_by_some(&peers).await {
            self.step.is_sure_since(asked);
            if self.step.synced.swap(unix_millis(clock::now()) / 1_000, Ordering::Relaxed) == 0 {
                // It is written down at once: a node that is killed now must know that there are others to compare with.
                self.note_change();
            }
        } else {
            self.step.asked_in_vain();
        }
        self.mind_the_gap().await;
    }

    /// Compares with a few of these, the next a little after the one before, until one has answered.
    async fn is_answered_by_some(&self, peers: &[NodeId]) -> bool {
        let chosen: Vec<NodeId> = peers.sample(&mut rand::rng(), TRIES).copied().collect();
        let mut exchanges = FuturesUnordered::new();
        for (peer, turn) in chosen.into_iter().zip(0..) {
            let exchange = async move {
                sleep(self.config.patience / LATER * turn).await;
                self.exchange(peer).await
            };
            exchanges.push(exchange.boxed());
        }
        while let Some(answered) = exchanges.next().await {
            if answered {
                return true;
            }
        }
        false
    }

    /// Looks for what is missing for a while, then goes on without.
    async fn mind_the_gap(&self) {
        let since = if self.ledger().has_gap() {
            *lock(&self.step.gap_since).get_or_insert_with(Instant::now)
        } else {
            *lock(&self.step.gap_since) = None;
            return;
        };
        let jump = |ledger: &mut Ledger| {
            ledger.jump();
        };
        if since.elapsed() >= self.config.gap
            && let Err(error) = self.revalidate("nobody has a purge that was made between others", jump).await
        {
            tracing::warn!(%error, "what is stored could not be marked");
        }
    }

    /// Compares with one peer until neither has anything that the other lacks. False if it does not answer.
    pub(super) async fn exchange(&self, peer: NodeId) -> bool {
        let known = self.step.others().get(&peer).map(|heard| heard.heads.clone());
        let mut theirs = known;
        for _ in 0..ROUNDS {
            let heads = self.heads();
            let pushed = theirs.as_ref().map_or_else(Vec::new, |theirs| self.lacked_by(theirs));
            let streams = Arc::clone(&self.streams);
            let Some(told) = talk::ask(streams, peer, &heads, &pushed, self.config.patience).await else {
                return false;
            };
            self.step.note(peer, told.heads.clone(), self.config.nodes);
            if !self.take_floors(&told.floors).await {
                return false;
            }
            let came = !(told.records.is_empty() && told.floors.is_empty());
            for record in &told.records {
                self.hear(record).await;
            }
            let unmoved = theirs.as_ref() == Some(&told.heads);
            let lacking = !self.lacked_by(&told.heads).is_empty();
            theirs = Some(told.heads);
            // What the other does not take once, it does not take twice.
            let push = lacking && (pushed.is_empty() || !unmoved);
            if !(push || (told.more && came && self.heads() != heads)) {
                return true;
            }
        }
        true
    }

    fn lacked_by(&self, heads: &Heads) -> Vec<Bytes> {
        talk::fitting(self.ledger().lacking(heads).map(|entry| entry.signed.clone()))
    }

    /// A peer has forgotten what this node never knew, if their signers' own words show that these were made. False if what is stored
    /// could not be marked.
    async fn take_floors(&self, floors: &[Bytes]) -> bool {
        let now = unix_millis(clock::now());
        let mut missed = Vec::new();
        for signed in floors.iter().take(self.config.signers) {
            match self.read(signed) {
                Ok((signer, purge)) if self.ledger().misses(signer, purge.number, now) => {
                    missed.push((signer, Floor { number: purge.number, signed: signed.clone() }));
                }
                Ok(_) => {}
                Err(error) => Self::refuse(&error),
            }
        }
        if missed.is_empty() {
            return true;
        }
        let done = self.revalidate("peers have forgotten purges that this node never heard of", |ledger| {
            ledger.miss(&missed, now);
        });
        done.await.inspect_err(|error| tracing::warn!(%error, "what is stored could not be marked")).is_ok()
    }

    /// The proxies this node knows, itself left out.
    pub(crate) fn peers(&self) -> Vec<NodeId> {
        let me = self.index.me().id;
        let query = NodesQuery { level: Level::GLOBAL, count: self.config.nodes, target: None, services: Roles::PROXY };
        let near = self.index.levels().into_iter().flat_map(|level| level.neighbours);
        let near = near.filter(|node| node.roles.contain(Roles::PROXY));
        let mut peers: Vec<NodeId> = self.index.nodes(&query).into_iter().chain(near).map(|node| node.id).collect();
        peers.sort_unstable();
        peers.dedup();
        peers.retain(|peer| *peer != me);
        peers
    }

    /// Those who are to apply a purge: the proxies known, and those that answered lately.
    pub(super) fn audience(&self) -> Vec<NodeId> {
        let mut all = self.peers();
        let lately = |heard: &Heard| heard.at.elapsed() < LATELY;
        all.extend(self.step.others().iter().filter(|(_, heard)| lately(heard)).map(|(peer, _)| *peer));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Tells everybody of a signer's purge until all have applied it, or time is over.
    pub(super) async fn tell_all(&self, signer: NodeId, number: u64, wait: Duration) {
        let round = async {
            loop {
                let waiting = self.waiting(signer, number);
                if waiting.is_empty() {
                    return;
                }
                let tell = async |peer| {
                    self.exchange(peer).await;
                };
                stream::iter(waiting).for_each_concurrent(self.config.at_once, tell).await;
                sleep(BETWEEN).await;
            }
        };
        // Whoever has not answered by then is listed as missing.
        let _ = timeout(wait, round).await;
    }

    fn waiting(&self, signer: NodeId, number: u64) -> Vec<NodeId> {
        let audience = self.audience();
        let others = self.step.others();
        let applied = |peer: &NodeId| {
            others.get(peer).is_some_and(|heard| heard.heads.get(&signer).is_some_and(|head| *head >= number))
        };
        audience.into_iter().filter(|peer| !applied(peer)).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const AWAY: &str = "this node was away for longer than purges are kept";

/// Between two attempts of a node in doubt, or that was not answered the last time.
const IN_DOUBT: Duration = Duration::from_millis(200);

/// Exchanges that may be due and not made before a node doubts: a busy machine is late now and then, and doubt costs the origin.
const MISSES: u32 = 5;

/// Rounds of questions in a row that nobody answers, if a node is cut off.
const IN_VAIN: u32 = 2;

/// Peers asked in one round, each so part of the patience after the one before.
const TRIES: usize = 3;
const LATER: u32 = 4;

/// Questions to one peer, one after the other.
const ROUNDS: usize = 64;

/// Between two rounds of telling those who have not applied a purge.
const BETWEEN: Duration = Duration::from_millis(50);

/// A node that answered within this is still expected to apply what is purged.
const LATELY: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use super::*;

    // C10, P08: the time alone tells a node that is cut off too late, one question alone a busy one too soon.
    #[test]
    fn a_node_is_cut_off_that_asked_twice_in_vain_and_heard_nobody_for_a_while() {
        let doubts = |unheard: Duration, rounds: u32| {
            let config = Purging { unheard, exchange: Duration::from_secs(3_600), ..Purging::default() };
            let step = Step::new(Some(1), (true, true), &config);
            step.is_sure_since(step.now());
            (0..rounds).for_each(|_| step.asked_in_vain());
            let doubts = step.doubts(clock::now(), Duration::ZERO);
            step.is_sure_since(step.now() + 1_000);
            assert!(!step.doubts(clock::now(), Duration::ZERO), "an answer ends it");
            doubts
        };
        let (soon, late) = (Duration::ZERO, Duration::from_secs(3_600));
        assert_eq!((doubts(soon, 0), doubts(soon, 1), doubts(soon, 2), doubts(late, 9)), (false, false, true, false));
    }

    // P03: killed before it had compared with anybody, it knows of others by their purges.
    #[test]
    fn a_node_that_heard_a_purge_of_another_doubts_what_it_held_before_even_if_it_was_never_in_step() {
        let config = Purging::default();
        let before = clock::now() - Duration::from_millis(1);
        assert!(Step::new(Some(0), (true, true), &config).doubts(before, config.doubt));
        assert!(!Step::new(Some(0), (true, false), &config).doubts(before, config.doubt), "a node by itself");
    }
}
