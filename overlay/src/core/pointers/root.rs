//! What the root of a key says to `acquire`, `beat` and `pass` (design: one origin fetch); what it has its next-closest nodes hold
//! stands in `copies.rs`. A node acts as root only if it knows no live node nearer the key; told that the nearer one does not answer,
//! it sees for itself first.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Values, Why,
    copies::COPY_TRIES,
    lease::{Granting, Reference, State, Waiter, rank},
};
use crate::{
    Key, Lease, Level, Marker, NodeId,
    core::{
        Contact, Node, Peer,
        message::{Acquisition, Beaten, LeaseState, Pointer, Refusal, Reply, Request},
        search::Purpose,
        time::Instant,
    },
};

/// A question put off until it is known whether a node nearer the key lives.
#[derive(Debug)]
pub(in crate::core) struct Deferred {
    nearer: Peer,
    asked: Asked,
}

/// A question to the root of a key.
#[derive(Debug)]
pub(in crate::core) struct Asked {
    pub(in crate::core) from: Contact,
    /// The number of the question.
    pub(in crate::core) id: u64,
    pub(in crate::core) arrived: Instant,
    /// Nodes nearer the key that the asker could not reach.
    pub(in crate::core) unreached: Vec<NodeId>,
    /// Those of them that did not answer this node either.
    pub(in crate::core) silent: Vec<NodeId>,
    pub(in crate::core) what: Errand,
}

/// What is asked of a root.
#[derive(Debug)]
pub(in crate::core) enum Errand {
    Acquire { key: Key, reference: Bytes, ttl: Duration, failed: Vec<NodeId> },
    Beat { lease: Lease, reference: Bytes, ttl: Duration },
    Pass { lease: Lease, marker: Marker },
}

impl Errand {
    const fn key(&self) -> Key {
        match self {
            Self::Acquire { key, .. } => *key,
            Self::Beat { lease, .. } | Self::Pass { lease, .. } => lease.key,
        }
    }
}

/// Whether this node is the root of a key.
enum Place {
    /// It is, and stands in for these nearer ones if there are any: neither the asker nor this node reaches them in time.
    Root(Vec<NodeId>),
    /// These live nodes are nearer.
    Nearer(Vec<Contact>),
    /// Only these are, and the asker could not reach them.
    Doubtful(Vec<Contact>),
}

impl Node {
    /// Answers what is asked of a root, now or later.
    pub(in crate::core) fn on_root_request(&mut self, now: Instant, asked: Asked) {
        let Asked { from, id, arrived, .. } = asked;
        let (asked, passed) = match self.place(now, &asked) {
            Place::Root(passed) => match self.once_joined(now, asked) {
                Some(asked) => (asked, passed),
                None => return,
            },
            Place::Nearer(nodes) => {
                let reply = match asked.what {
                    Errand::Beat { .. } => Reply::Beaten(Beaten::Elsewhere(nodes)),
                    Errand::Acquire { .. } | Errand::Pass { .. } => Reply::Acquired(Acquisition::Elsewhere(nodes)),
                };
                return self.reply(now, from, id, arrived, reply);
            }
            Place::Doubtful(nodes) => return self.defer(now, &nodes, asked),
        };
        match asked.what {
            Errand::Acquire { key, reference, ttl, mut failed } => {
                let reference = self.pointer_of(from, reference, ttl.min(self.config.reference_ttl));
                // Who does not answer the asker is no source for it either.
                failed.extend(asked.unreached.into_iter().take(Request::FAILED_LIMIT));
                let waiter = Waiter { asker: from, id, arrived, reference, failed, passed };
                self.look_at_failed(now, &key, &waiter.failed);
                self.decide(now, key, waiter);
            }
            Errand::Beat { lease, ttl, .. } if ttl.is_zero() => {
                self.on_release(now, from, lease);
                self.reply(now, from, id, arrived, Reply::Beaten(Beaten::Kept));
            }
            Errand::Beat { lease, reference, ttl } => {
                let pointer = self.pointer_of(from, reference, ttl.min(self.config.reference_ttl));
                let beaten = self.on_beat(now, lease, pointer, &passed);
                self.reply(now, from, id, arrived, beaten);
            }
            Errand::Pass { lease, marker } => {
                let reply = self.on_pass(now, from, lease, marker);
                self.reply(now, from, id, arrived, reply);
            }
        }
    }

    /// Puts a question off until it is known whether the nearest of these nodes lives.
    fn defer(&mut self, now: Instant, nearer: &[Contact], asked: Asked) {
        let Some(nearest) = nearer.first().copied() else { return };
        let (from, id) = (asked.from, asked.id);
        if self.deferred.len() >= self.config.waiters {
            return self.reply(now, from, id, asked.arrived, Reply::Refused(Refusal::Busy));
        }
        // If the nearest is gone, it is known of the next as soon.
        for node in nearer.iter().take(DOUBTED) {
            if !self.exchanges.is_asked(node.peer, Purpose::Nearer) {
                self.ask(now, *node, Request::Ping, Purpose::Nearer);
            }
        }
        self.reply(now, from, id, now, Reply::Wait);
        self.deferred.push(Deferred { nearer: nearest.peer, asked });
    }

    /// A node that stood between this one and a key has answered, or is gone.
    pub(in crate::core) fn on_nearer(&mut self, now: Instant, nearer: Contact, lives: bool) {
        if !lives {
            for Deferred { asked, .. } in &mut self.deferred {
                if asked.unreached.contains(&nearer.id) && !asked.silent.contains(&nearer.id) {
                    asked.silent.push(nearer.id);
                }
            }
        }
        let waiting: Vec<Deferred> = self.deferred.extract_if(.., |one| one.nearer == nearer.peer).collect();
        for Deferred { mut asked, .. } in waiting {
            if lives {
                // Alive for this node, not for the asker: it is named again, and the asker may find another way.
                asked.unreached.clear();
            }
            self.on_root_request(now, asked);
        }
    }

    /// A holder that failed an asker has answered, or has not.
    pub(in crate::core) fn on_holder(&mut self, now: Instant, holder: Contact, key: Key, lives: bool) {
        let stands = self.peers.get(holder).is_some_and(|known| known.linked()) && !self.is_dead(holder);
        let Some(entry) = self.leases.get_mut(&key) else { return };
        let current = matches!(&entry.state, State::Leased(leased) if leased.holder.pointer.holder == holder);
        if !lives && current {
            let heard = entry.heard().map_or(Duration::MAX, |at| now.since(at));
            if stands && heard < self.config.beat_limit * 3 / 4 {
                // One answer may be lost, or a process stand still for a moment: two beats missing say more.
                self.ask(now, holder, Request::Ping, Purpose::Holder(key));
                return;
            }
            entry.end(now, Why::Silent);
        }
        if lives && current {
            let told = entry.told(now, self.config.beat_limit);
            let waiters = std::mem::take(&mut entry.waiters);
            if let Some(LeaseState::Leased { holder, .. }) = told {
                for waiter in waiters {
                    let references = Acquisition::References(vec![holder.clone()]);
                    self.reply(now, waiter.asker, waiter.id, waiter.arrived, Reply::Acquired(references));
                }
                return;
            }
            if let Some(entry) = self.leases.get_mut(&key) {
                entry.waiters = waiters;
            }
        }
        self.decide_all(now, key);
    }

    fn place(&self, now: Instant, asked: &Asked) -> Place {
        let key = asked.what.key();
        let mine = self.contact.id.key().distance(&key);
        let mut nearer = self.peers.closest(Level::GLOBAL, &key, Reply::NODES);
        nearer.retain(|node| node.id.key().distance(&key) < mine);
        let (doubtful, reachable): (Vec<Contact>, Vec<Contact>) =
            nearer.into_iter().partition(|node| asked.unreached.contains(&node.id));
        if !reachable.is_empty() {
            return Place::Nearer(reachable);
        }
        let passed = |node: &Contact| asked.silent.contains(&node.id) || self.is_out_of_reach(now, *node);
        let (passed, doubtful): (Vec<Contact>, Vec<Contact>) = doubtful.into_iter().partition(passed);
        if doubtful.is_empty() {
            // Whoever was silent may be out of the tables by now; what it holds ends with it all the same.
            let silent = asked.silent.iter().copied().filter(|id| passed.iter().all(|node| node.id != *id));
            Place::Root(passed.iter().map(|node| node.id).chain(silent).collect())
        } else {
            Place::Doubtful(doubtful)
        }
    }

    /// Whether a node was so far lately that no answer comes within the time of an acquire: it need not be asked whether it lives.
    fn is_out_of_reach(&self, now: Instant, node: Contact) -> bool {
        let Some(known) = self.peers.get(node) else { return false };
        let fresh = known.rtt.sampled(now).is_some_and(|at| now.since(at) < self.config.rtt_window);
        fresh && known.distance().is_some_and(|distance| distance >= self.config.acquire_deadline)
    }

    /// Sees whether holders that failed an asker live, so that the dead are not named to the next one.
    fn look_at_failed(&mut self, now: Instant, key: &Key, failed: &[NodeId]) {
        if failed.is_empty() {
            return;
        }
        for pointer in self.values.get(now, Level::GLOBAL, *key) {
            let holder = pointer.holder;
            if failed.contains(&holder.id)
                && holder != self.contact
                && !self.exchanges.is_asked(holder.peer, Purpose::Probe)
            {
                self.ask(now, holder, Request::Ping, Purpose::Probe);
            }
        }
    }

    /// Says to one asker what the key's state asks for.
    fn decide(&mut self, now: Instant, key: Key, mut waiter: Waiter) {
        let limit = self.config.beat_limit;
        let waiters = self.config.waiters;
        let references = self.references(now, &key, &waiter);
        let holder = self.leases.get(&key).and_then(|entry| entry.live(now, limit));
        let gone = holder.is_some_and(|leased| waiter.passed.contains(&leased.holder.pointer.holder.id));
        let Some(entry) = self.leases.entry(now, key) else {
            return self.reply(now, waiter.asker, waiter.id, waiter.arrived, Reply::Refused(Refusal::Keys));
        };
        entry.take_over(now);
        if gone {
            // It does not answer in time: to ask it once more would cost an asker as long again.
            waiter.passed.clear();
            entry.end(now, Why::RootSilent);
        }
        let says = if let Some((marker, _)) = entry.marked(now) {
            Acquisition::Marked(marker.clone())
        } else if let Some(leased) = entry.live(now, limit) {
            let holder = leased.holder.pointer.holder;
            if holder == waiter.asker {
                Acquisition::Granted(leased.lease)
            } else if !references.is_empty() {
                Acquisition::References(references)
            } else if entry.waiters.len() < waiters {
                let (asker, id) = (waiter.asker, waiter.id);
                entry.waiters.push(waiter);
                self.reply(now, asker, id, now, Reply::Wait);
                if !self.exchanges.is_asked(holder.peer, Purpose::Holder(key)) {
                    self.ask(now, holder, Request::Ping, Purpose::Holder(key));
                }
                return;
            } else {
                return self.reply(now, waiter.asker, waiter.id, waiter.arrived, Reply::Refused(Refusal::Busy));
            }
        } else if matches!(entry.state, State::Granting(_)) {
            if entry.waiters.len() < waiters {
                let (asker, id) = (waiter.asker, waiter.id);
                entry.waiters.push(waiter);
                return self.reply(now, asker, id, now, Reply::Wait);
            }
            return self.reply(now, waiter.asker, waiter.id, waiter.arrived, Reply::Refused(Refusal::Busy));
        } else if !references.is_empty() {
            Acquisition::References(references)
        } else {
            return self.grant(now, key, waiter);
        };
        self.reply(now, waiter.asker, waiter.id, waiter.arrived, Reply::Acquired(says));
    }

    /// Says it to all that wait and still listen.
    pub(super) fn decide_all(&mut self, now: Instant, key: Key) {
        let Some(entry) = self.leases.get_mut(&key) else { return };
        for waiter in std::mem::take(&mut entry.waiters) {
            if now.since(waiter.arrived) < self.config.acquire_deadline {
                self.decide(now, key, waiter);
            }
        }
    }

    /// Begins a grant: the next-closest nodes are to hold it first.
    fn grant(&mut self, now: Instant, key: Key, waiter: Waiter) {
        let copies = self.values.get(now, Level::GLOBAL, key);
        let Some(entry) = self.leases.get_mut(&key) else { return };
        let has_failed = entry.why() == Why::First && copies.iter().any(|copy| copy.holder != waiter.asker);
        let why = if has_failed { Why::CopiesFailed } else { entry.why() };
        entry.counter += 1;
        entry.touched = now;
        let lease = Lease { epoch: entry.epoch, counter: entry.counter, key };
        let holder = Reference::new(now, waiter.reference.clone());
        let (asker, id, passed, doubted) = (waiter.asker, waiter.id, waiter.passed.clone(), waiter.failed.clone());
        entry.waiters.push(waiter);
        entry.state = State::Granting(Granting {
            lease,
            holder,
            why,
            asked: Vec::new(),
            slow: Vec::new(),
            passed,
            doubted,
            tried: Vec::new(),
            held: 0,
            known: Vec::new(),
        });
        self.seek_copies(now, key);
        let waits = self.leases.get(&key).is_some_and(|entry| matches!(entry.state, State::Granting(_)));
        if waits {
            self.reply(now, asker, id, now, Reply::Wait);
        }
    }

    /// Whether an asker may stream from this holder: never from itself, from who failed it, or from who is known dead.
    pub(super) fn is_useful(&self, pointer: &Pointer, waiter: &Waiter) -> bool {
        pointer.holder != waiter.asker && !waiter.failed.contains(&pointer.holder.id) && !self.is_dead(pointer.holder)
    }

    fn on_beat(&mut self, now: Instant, lease: Lease, pointer: Pointer, passed: &[NodeId]) -> Reply {
        let limit = self.config.beat_limit;
        let copy_every = self.config.copy_every;
        let Some(entry) = self.leases.entry(now, lease.key) else { return Reply::Refused(Refusal::Keys) };
        if entry.marked(now).is_some() {
            return Reply::Beaten(Beaten::Kept);
        }
        let holder = pointer.holder.id;
        if entry.is_released(&lease, holder) {
            // It was on its way while the lease was given back.
            let other = entry.live(now, limit).filter(|live| live.holder.pointer.holder.id != holder);
            return Reply::Beaten(other.map_or(Beaten::Kept, |live| Beaten::Superseded(live.holder.told(now))));
        }
        if let Some(live) = entry.live(now, limit) {
            let theirs = rank(&live.lease, live.holder.pointer.holder.id);
            if theirs < rank(&lease, holder) {
                return Reply::Beaten(Beaten::Superseded(live.holder.told(now)));
            }
        }
        let copied = match &entry.state {
            State::Leased(live) if live.lease == lease && entry.root.is_none() => live.copied,
            State::Leased(_) | State::Idle | State::Granting(_) | State::Marked { .. } => Instant::START,
        };
        if entry.root.is_some_and(|root| passed.contains(&root.id)) {
            // The root may live: its copy is kept fresh here, and stays a copy.
            entry.take(now, LeaseState::Leased { lease, holder: pointer });
            return Reply::Beaten(Beaten::Kept);
        }
        entry.take_over(now);
        entry.take(now, LeaseState::Leased { lease, holder: pointer.clone() });
        if let State::Leased(leased) = &mut entry.state {
            leased.copied = copied;
        }
        if copied == Instant::START || now.since(copied) >= copy_every {
            if let State::Leased(leased) = &mut entry.state {
                leased.copied = now;
            }
            self.copy(now, lease.key, &LeaseState::Leased { lease, holder: pointer });
        }
        self.decide_all(now, lease.key);
        Reply::Beaten(Beaten::Kept)
    }

    /// The fetch under a lease has ended and left nothing: who waits, or asks next, is granted it. One said late, or twice, takes
    /// nothing from who was granted it since.
    fn on_release(&mut self, now: Instant, from: Contact, lease: Lease) {
        let Some(entry) = self.leases.entry(now, lease.key) else { return };
        entry.take_over(now);
        if !entry.release(now, lease, from.id) {
            return;
        }
        let state = LeaseState::Leased { lease, holder: self.pointer_of(from, Bytes::new(), Duration::ZERO) };
        // All that may have been asked to hold it, also where another was late. Their answers must not count for the next grant's.
        for node in self.peers.closest(Level::GLOBAL, &lease.key, COPY_TRIES) {
            self.ask(now, node, Request::Hold { key: lease.key, state: state.clone() }, Purpose::Probe);
        }
        self.decide_all(now, lease.key);
    }

    fn on_pass(&mut self, now: Instant, from: Contact, lease: Lease, marker: Marker) -> Reply {
        let limit = self.config.beat_limit;
        let Some(entry) = self.leases.entry(now, lease.key) else { return Reply::Refused(Refusal::Keys) };
        // Only who fetches knows that it cannot be shared.
        if entry.live(now, limit).is_some_and(|live| live.holder.pointer.holder != from) {
            return Reply::Done;
        }
        let ttl = match &marker {
            Marker::Pass(ttl) => (*ttl).clamp(PASS_SHORTEST, PASS_LONGEST),
            Marker::Vary(_) => PASS_LONGEST,
        };
        let state = LeaseState::Marked { marker, ttl };
        entry.take_over(now);
        entry.take(now, state.clone());
        self.copy(now, lease.key, &state);
        self.decide_all(now, lease.key);
        Reply::Done
    }

    /// What an asker may stream from: complete copies first, in random order, so that not all go to one; then the fetch under
    /// way, or that ended a moment ago: its holder's announcement takes longer to come than a beat.
    fn references(&mut self, now: Instant, key: &Key, waiter: &Waiter) -> Vec<Pointer> {
        let mut stored = Values::get(&self.values, now, Level::GLOBAL, *key);
        stored.retain(|pointer| self.is_useful(pointer, waiter));
        let entry = self.leases.get(key).and_then(|entry| entry.lately_live(now, self.config.beat_limit));
        let lease = entry.map(|leased| leased.holder.told(now)).filter(|pointer| self.is_useful(pointer, waiter));
        self.rng.shuffle(&mut stored);
        stored.sort_by_key(|pointer| pointer.ttl <= self.config.reference_ttl);
        if let Some(lease) = lease {
            // A complete copy at the holder says more than its lease; a reference to its fetch says less.
            stored.retain(|one| one.holder != lease.holder || one.ttl > lease.ttl.max(self.config.reference_ttl));
            stored.truncate(Reply::VALUES - 1);
            if stored.iter().all(|one| one.holder != lease.holder) {
                stored.push(lease);
            }
        }
        stored.truncate(Reply::VALUES);
        stored
    }

    /// The lease that lives here, and who holds it.
    #[cfg(test)]
    pub(in crate::core) fn live_lease(&self, now: Instant, key: &Key) -> Option<(Lease, NodeId)> {
        let live = self.leases.get(key)?.live(now, self.config.beat_limit)?;
        Some((live.lease, live.holder.pointer.holder.id))
    }

    /// A pointer to a node as it is known here.
    pub(in crate::core) fn pointer_of(&self, holder: Contact, value: Bytes, ttl: Duration) -> Pointer {
        Pointer { holder, clusters: self.clusters_of(holder), value, ttl }
    }
}

/// Nodes that an asker could not reach and that are asked at once whether they live: an asker may name as many as it likes.
const DOUBTED: usize = 2;

/// A Pass marker stays at least this long.
const PASS_SHORTEST: Duration = Duration::from_secs(30);

/// A marker stays at most this long without being renewed.
const PASS_LONGEST: Duration = Duration::from_secs(120);
