//! Who may fetch a key: one entry per key, at the key's root and, as a copy, at the root's next-closest nodes. This file holds
//! the state and the order of leases; `root.rs` holds what a root says and does, `copies.rs` what it has others hold.
//!
//! A root grants only after its next-closest nodes hold the lease. So when it dies, or a nearer node joins, the new root finds the
//! old lease either in its own copy or in the answer to its own first question for copies, and goes on with it.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    Key, Lease, Marker, NodeId,
    core::{
        Contact, Peer,
        message::{LeaseState, Pointer},
        pointers::Why,
        time::Instant,
    },
};

/// All keys that somebody fetches, or whose fetch was marked.
#[derive(Debug)]
pub(in crate::core) struct Leases {
    entries: BTreeMap<Key, Entry>,
    limit: usize,
}

/// One key.
#[derive(Debug)]
pub(super) struct Entry {
    /// The highest epoch seen.
    pub(super) epoch: u64,
    /// The highest counter granted or seen within it.
    pub(super) counter: u64,
    pub(super) state: State,
    /// Why nobody fetches, if nobody does.
    pub(super) idle: Why,
    /// Leases that were given back, each with who held it, oldest first: beats of them that come late count for nothing.
    released: VecDeque<(Lease, NodeId)>,
    /// For whom this copy is kept; none if this node is the root.
    pub(super) root: Option<Contact>,
    /// Askers that wait for a grant or a probe to end.
    pub(super) waiters: Vec<Waiter>,
    /// When it last changed.
    pub(super) touched: Instant,
}

/// How it stands with a key.
#[derive(Debug)]
pub(super) enum State {
    /// Nobody fetches.
    Idle,
    /// A grant waits for its copies.
    Granting(Granting),
    /// Somebody fetches.
    Leased(Leased),
    /// The last fetch could not be shared.
    Marked { marker: Marker, until: Instant },
}

/// A grant that waits for its copies.
#[derive(Debug)]
pub(super) struct Granting {
    pub(super) lease: Lease,
    pub(super) holder: Reference,
    pub(super) why: Why,
    /// Nodes asked to hold a copy that have not answered.
    pub(super) asked: Vec<Peer>,
    /// The same that take long: others are asked beside them.
    pub(super) slow: Vec<Peer>,
    /// Nodes the root stands in for: they are asked, and not waited for.
    pub(super) passed: Vec<NodeId>,
    /// Nodes that failed the asker: they are asked as if they took long already.
    pub(super) doubted: Vec<NodeId>,
    /// Nodes that were asked at all.
    pub(super) tried: Vec<Peer>,
    /// Copies held.
    pub(super) held: usize,
    /// Pointers that the nodes holding copies have under the key.
    pub(super) known: Vec<Pointer>,
}

/// A lease that was granted.
#[derive(Debug)]
pub(super) struct Leased {
    pub(super) lease: Lease,
    pub(super) holder: Reference,
    /// When the holder was last heard of; or a moment's grace for it to find a new root.
    pub(super) beaten: Instant,
    /// When it was really.
    pub(super) heard: Instant,
    /// When the copies were last renewed.
    pub(super) copied: Instant,
}

/// A fetcher's own pointer.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    pub(super) pointer: Pointer,
    pub(super) expires: Instant,
}

/// An asker that waits.
#[derive(Debug, Clone)]
pub(in crate::core) struct Waiter {
    pub(super) asker: Contact,
    /// The number of its question.
    pub(super) id: u64,
    pub(super) arrived: Instant,
    /// Its own reference, should it be granted the fetch.
    pub(super) reference: Pointer,
    pub(super) failed: Vec<NodeId>,
    /// Nodes this one stands in for: a lease that one of them holds ends, once.
    pub(super) passed: Vec<NodeId>,
}

impl Leases {
    pub(in crate::core) const fn new(limit: usize) -> Self {
        Self { entries: BTreeMap::new(), limit }
    }

    /// The entry of a key, made if there is room; none if there is not.
    pub(super) fn entry(&mut self, now: Instant, key: Key) -> Option<&mut Entry> {
        if !self.entries.contains_key(&key) && self.entries.len() >= self.limit {
            return None;
        }
        Some(self.entries.entry(key).or_insert_with(|| Entry::new(now)))
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        self.entries.get_mut(key)
    }

    /// Whether any lease is held.
    pub(in crate::core) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets what has ended: leases not beaten for long, markers that ran out. Terms are remembered for a while, so that a
    /// lease granted anew is higher than the old one.
    pub(in crate::core) fn sweep(&mut self, now: Instant) {
        self.entries.retain(|_, entry| {
            let ended = match &entry.state {
                State::Idle => true,
                State::Granting(_) => false,
                State::Leased(leased) => leased.holder.expires <= now,
                State::Marked { until, .. } => *until <= now,
            };
            !ended || !entry.waiters.is_empty() || now.since(entry.touched) < TERM_KEPT
        });
    }
}

impl Entry {
    const fn new(now: Instant) -> Self {
        Self {
            epoch: 1,
            counter: 0,
            state: State::Idle,
            idle: Why::First,
            released: VecDeque::new(),
            root: None,
            waiters: Vec::new(),
            touched: now,
        }
    }

    /// The lease, while its holder is heard of. A copy lives as long as its reference: only the root hears the beats.
    pub(super) fn live(&self, now: Instant, limit: std::time::Duration) -> Option<&Leased> {
        match &self.state {
            State::Leased(leased) => {
                let heard = self.root.is_some() || now.since(leased.beaten) < limit;
                (heard && leased.holder.expires > now).then_some(leased)
            }
            State::Idle | State::Granting(_) | State::Marked { .. } => None,
        }
    }

    /// The same for a while after it was last heard of: the fetch may have ended well, and the word of that be on its way still.
    pub(super) fn lately_live(&self, now: Instant, limit: std::time::Duration) -> Option<&Leased> {
        self.live(now, limit * LAPSED)
    }

    /// The marker, until it runs out.
    pub(super) fn marked(&self, now: Instant) -> Option<(&Marker, Instant)> {
        match &self.state {
            State::Marked { marker, until } if *until > now => Some((marker, *until)),
            State::Idle | State::Granting(_) | State::Leased(_) | State::Marked { .. } => None,
        }
    }

    /// What is to be said of it to another node; none if there is nothing that lives.
    pub(super) fn told(&self, now: Instant, limit: std::time::Duration) -> Option<LeaseState> {
        if let Some((marker, until)) = self.marked(now) {
            return Some(LeaseState::Marked { marker: marker.clone(), ttl: until.since(now) });
        }
        self.live(now, limit).map(|leased| LeaseState::Leased { lease: leased.lease, holder: leased.holder.told(now) })
    }

    /// Nobody fetches any more.
    pub(super) fn end(&mut self, now: Instant, why: Why) {
        (self.state, self.idle, self.touched) = (State::Idle, why, now);
    }

    /// Why the next fetch is granted.
    pub(super) const fn why(&self) -> Why {
        match &self.state {
            State::Idle | State::Granting(_) => self.idle,
            State::Leased(_) => Why::Lapsed,
            State::Marked { .. } => Why::MarkerOver,
        }
    }

    /// When the holder of the lease was last heard of.
    pub(super) const fn heard(&self) -> Option<Instant> {
        match &self.state {
            State::Leased(leased) => Some(leased.heard),
            State::Idle | State::Granting(_) | State::Marked { .. } => None,
        }
    }

    /// Takes over what another node told.
    pub(super) fn take(&mut self, now: Instant, state: LeaseState) {
        self.touched = now;
        match state {
            LeaseState::Leased { lease, holder } => {
                self.saw(&lease);
                let holder = Reference::new(now, holder);
                self.state = State::Leased(Leased { lease, holder, beaten: now, heard: now, copied: now });
            }
            LeaseState::Marked { marker, ttl } => {
                self.state = State::Marked { marker, until: now + ttl.min(Pointer::TTL_LIMIT) };
            }
        }
    }

    /// Another root's copy becomes this root's own, in a term of its own, so that next-closest nodes tell its grants from the old
    /// root's. The holder has one beat's grace to find it.
    pub(super) fn take_over(&mut self, now: Instant) {
        if self.root.take().is_some() {
            (self.epoch, self.counter) = (self.epoch + 1, 0);
            self.touched = now;
            if let State::Leased(leased) = &mut self.state {
                leased.beaten = now;
            }
        }
    }

    /// Takes a lease back, if this node holds it; whether it was the one that lived. It is never taken on again.
    pub(super) fn release(&mut self, now: Instant, lease: Lease, holder: NodeId) -> bool {
        if !self.is_released(&lease, holder) {
            if self.released.len() >= RELEASED {
                self.released.pop_front();
            }
            self.released.push_back((lease, holder));
        }
        self.saw(&lease);
        self.touched = now;
        let current = matches!(&self.state, State::Leased(live) if live.lease == lease && live.holder.pointer.holder.id == holder);
        if current {
            self.end(now, Why::GivenBack);
        }
        current
    }

    /// Whether this node gave this lease back.
    pub(super) fn is_released(&self, lease: &Lease, holder: NodeId) -> bool {
        self.released.contains(&(*lease, holder))
    }

    /// Remembers the highest term seen.
    pub(super) fn saw(&mut self, lease: &Lease) {
        if (lease.epoch, lease.counter) > (self.epoch, self.counter) {
            // A neighbour that lies about terms must not push the count to its end.
            (self.epoch, self.counter) = (lease.epoch.min(u64::MAX / 2), lease.counter.min(u64::MAX / 2));
        }
    }
}

impl Granting {
    /// A node that was asked is not waited for any more.
    pub(super) fn answered(&mut self, peer: Peer) {
        self.asked.retain(|one| *one != peer);
        self.slow.retain(|one| *one != peer);
    }

    /// Some that were asked may still answer.
    pub(super) const fn is_waiting(&self) -> bool {
        !self.asked.is_empty() || !self.slow.is_empty()
    }
}

impl Reference {
    pub(super) fn new(now: Instant, pointer: Pointer) -> Self {
        let expires = now + pointer.ttl.min(Pointer::TTL_LIMIT);
        Self { pointer, expires }
    }

    /// The pointer with what remains of its time.
    pub(super) fn told(&self, now: Instant) -> Pointer {
        Pointer { ttl: self.expires.since(now), ..self.pointer.clone() }
    }
}

/// Of two fetchers that meet, the lower goes on. Equal terms can only come from roots that did not see each other; then the
/// holders' ids decide, which both sides know.
pub(super) fn rank(lease: &Lease, holder: NodeId) -> (u64, u64, NodeId) {
    (lease.epoch, lease.counter, holder)
}

/// A holder is still named for so many times the limit of silence, to all that do not say it failed them.
const LAPSED: u32 = 5;

/// Leases given back that an entry remembers. A beat is on its way for less than a second, in which no key is granted as often.
const RELEASED: usize = 8;

/// How long the term of a key is remembered after its lease ended.
const TERM_KEPT: std::time::Duration = std::time::Duration::from_secs(60);
