//! Pointers that expire. Defines full and loaded (NSDI'04 4.2):
//!
//! - **full** for a new value: l values are stored for the key whose remaining times are all at least half the new one's.
//! - **loaded**: beta store-intents for the key were let go on from here within the past minute. That is how "more requests than
//!   the maximum leakage rate" makes a node claim to be loaded for all but one attempt in five seconds, as the paper says.
//! - In mode `paper` that goes for one node of each digit that leads to the same next node (`leak.rs`). The others are loaded as soon as
//!   more than one intent came within a minute.
//!
//! In mode `best` a node that is about to be asked to store counts the place as taken for a moment: else the first of a crowd, who
//! all find it empty, all come back to store. And no more than half of beta intents go on within five seconds.
//!
//! In mode `best` a putter has one value under a key, which a new one replaces. In mode `paper` two values are two, whoever put them:
//! so a node that puts ever new ones fills those that nobody else passes by.
//!
//! What is over a cap is refused with a reason; nothing that is stored is thrown out for it.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    time::Duration,
};

use bytes::Bytes;

use crate::{
    Config, Key, Level, Mode,
    core::{
        Contact, Peer,
        message::{Pointer, Refusal, Room, Verdict},
        time::Instant,
    },
};

/// What a node stores for others.
#[derive(Debug)]
pub(in crate::core) struct Values {
    /// In boxes, as those asked for are: a map keeps room for eleven once it has held one.
    slots: BTreeMap<(Key, Level), Box<Slot>>,
    /// Store-intents for keys without values: at most [`ASKED`] keys.
    asked: BTreeMap<(Key, Level), Box<Intents>>,
    bytes: usize,
    /// Pointers of each putter.
    per_peer: BTreeMap<Peer, usize>,
    limits: Limits,
    swept: Instant,
}

/// Caps and Coral's two numbers.
#[derive(Debug, Clone, Copy)]
struct Limits {
    values_per_key: usize,
    leak_per_minute: usize,
    keys: usize,
    bytes: usize,
    per_peer: usize,
    /// A putter has one value under a key.
    one_per_holder: bool,
}

/// What is stored for one key at one level.
#[derive(Debug, Default)]
struct Slot {
    values: Vec<Kept>,
    intents: Intents,
    /// The nodes that were closest to the key when this one last looked.
    closest: Vec<Peer>,
}

/// What is remembered of store-intents.
#[derive(Debug, Default)]
struct Intents {
    /// When some were let go on, oldest first, at most beta of them.
    leaks: VecDeque<Instant>,
    /// Who was told of a free place here, and when; at most l.
    promised: Vec<(Peer, Instant)>,
    /// When the last came that another node of this one's digit is to let go on.
    others: Option<Instant>,
}

/// A store-intent.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct Intent {
    /// Whose.
    pub(in crate::core) from: Peer,
    /// The time to live of the value to come.
    pub(in crate::core) ttl: Duration,
    /// This node is one of those nearest the key, where the value is to be stored.
    pub(in crate::core) near: bool,
    /// Free places are promised, and a putter's own value counts as one.
    pub(in crate::core) promise: bool,
    /// This node is the one of its digit that lets intents for a loaded key go on; see `leak.rs`.
    pub(in crate::core) leaks: bool,
}

#[derive(Debug)]
struct Kept {
    holder: Contact,
    clusters: Vec<Key>,
    value: Bytes,
    expires: Instant,
}

impl Values {
    pub(in crate::core) const fn new(config: &Config) -> Self {
        let limits = Limits {
            values_per_key: config.values_per_key,
            leak_per_minute: config.leak_per_minute,
            keys: config.keys,
            bytes: config.value_bytes,
            per_peer: config.values_per_peer,
            one_per_holder: matches!(config.mode, Mode::Best),
        };
        Self {
            slots: BTreeMap::new(),
            asked: BTreeMap::new(),
            bytes: 0,
            per_peer: BTreeMap::new(),
            limits,
            swept: Instant::START,
        }
    }

    /// Answers a store-intent, and counts it if it is let go on.
    pub(in crate::core) fn room(&mut self, now: Instant, level: Level, key: Key, intent: Intent) -> Room {
        self.expire(now, (key, level));
        let (intents, values) = match self.slots.get_mut(&(key, level)) {
            Some(slot) => (&mut slot.intents, slot.values.as_slice()),
            // Asking must not fill memory: past the cap keys without values are not counted.
            None if self.asked.len() >= ASKED && !self.asked.contains_key(&(key, level)) => {
                return Room { loaded: false, count: 0, soonest: Duration::ZERO };
            }
            None => (&mut **self.asked.entry((key, level)).or_default(), [].as_slice()),
        };
        let beta = self.limits.leak_per_minute;
        // All that come within moments bring values of one age: half as many keep those near the key fresh.
        let at_once = if intent.promise { beta.div_ceil(2) } else { beta };
        let loaded = if intent.leaks { intents.leak(now, beta, at_once) } else { intents.pass(now) };
        let others = values.iter().filter(|kept| !intent.promise || kept.holder.peer != intent.from);
        let soonest = others.clone().map(|kept| kept.expires.since(now)).min();
        let count = u32::try_from(others.count()).unwrap_or(u32::MAX);
        let mut room = Room { loaded, count, soonest: soonest.unwrap_or_default() };
        if intent.promise && (intent.near || loaded) {
            let promised = intents.promise(now, &intent, self.limits.values_per_key.saturating_sub(values.len()));
            if promised > 0 {
                // Values to come stay as long as the asker's own.
                room.soonest = soonest.unwrap_or(intent.ttl);
                room.count = room.count.saturating_add(promised);
            }
        }
        room
    }

    /// Stores a pointer: in place of the holder's old one (in mode `paper` of the same value alone), in a free place, or in place of
    /// the one that would go first, unless the key is full for it.
    pub(in crate::core) fn store(
        &mut self,
        now: Instant,
        level: Level,
        key: Key,
        pointer: Pointer,
    ) -> Result<Verdict, Refusal> {
        if pointer.value.len() > Pointer::LIMIT || pointer.ttl > Pointer::TTL_LIMIT {
            return Err(Refusal::TooLong);
        }
        self.expire(now, (key, level));
        if !self.slots.contains_key(&(key, level)) && self.is_at_key_limit(now) {
            return Err(Refusal::Keys);
        }
        let (length, peer) = (cost(&pointer.value), pointer.holder.peer);
        let values = self.slots.get(&(key, level)).map_or(&[][..], |slot| &slot.values);
        let replaces =
            |kept: &Kept| kept.holder.peer == peer && (self.limits.one_per_holder || kept.value == pointer.value);
        let out = if let Some(own) = values.iter().position(replaces) {
            Some(own)
        } else if values.len() < self.limits.values_per_key {
            None
        } else {
            let first = values.iter().enumerate().min_by_key(|(_, kept)| kept.expires);
            match first {
                Some((at, kept)) if kept.expires.since(now) < pointer.ttl / 2 => Some(at),
                Some(_) | None => return Ok(Verdict::Full),
            }
        };
        let freed = out.and_then(|at| values.get(at)).map(|kept| (kept.holder.peer, cost(&kept.value)));
        let (freed_peer, freed_bytes) = freed.map_or((None, 0), |(peer, bytes)| (Some(peer), bytes));
        if self.bytes - freed_bytes + length > self.limits.bytes {
            return Err(Refusal::Bytes);
        }
        let of_peer = self.per_peer.get(&peer).copied().unwrap_or(0) - usize::from(freed_peer == Some(peer));
        if of_peer >= self.limits.per_peer {
            return Err(Refusal::Sender);
        }
        let Pointer { holder, clusters, value, ttl } = pointer;
        let intents = self.asked.remove(&(key, level)).map(|intents| *intents).unwrap_or_default();
        let slot = self.slots.entry((key, level)).or_insert_with(|| Slot { intents, ..Slot::default() }.into());
        slot.intents.promised.retain(|(to, _)| *to != peer);
        if let Some(at) = out {
            slot.values.swap_remove(at);
        }
        slot.values.push(Kept { holder, clusters, value, expires: now + ttl });
        self.bytes = self.bytes - freed_bytes + length;
        if let Some(freed) = freed_peer {
            self.uncount(freed);
        }
        *self.per_peer.entry(peer).or_default() += 1;
        Ok(Verdict::Accepted)
    }

    /// The unexpired pointers under a key at a level.
    pub(in crate::core) fn get(&self, now: Instant, level: Level, key: Key) -> Vec<Pointer> {
        let kept = self.slots.get(&(key, level)).map_or(&[][..], |slot| &slot.values);
        let live = kept.iter().filter(|kept| kept.expires > now);
        live.map(|kept| Pointer {
            holder: kept.holder,
            clusters: kept.clusters.clone(),
            value: kept.value.clone(),
            ttl: kept.expires.since(now),
        })
        .collect()
    }

    /// Keys and levels after this one, at most so many.
    pub(in crate::core) fn page(&self, after: Option<(Key, Level)>, count: usize) -> Vec<(Key, Level)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.slots.range((from, Bound::Unbounded)).map(|(at, _)| *at).take(count).collect()
    }

    /// Notes which nodes are closest to a key now; which were when last noted.
    pub(in crate::core) fn seeded(&mut self, level: Level, key: Key, closest: &[Contact]) -> Vec<Peer> {
        let now: Vec<Peer> = closest.iter().map(|one| one.peer).collect();
        let Some(slot) = self.slots.get_mut(&(key, level)) else { return now };
        let before = std::mem::replace(&mut slot.closest, now.clone());
        if before.is_empty() { now } else { before }
    }

    /// A node that was noted as one of the closest does not have a key after all. Whether it was noted.
    pub(in crate::core) fn unseeded(&mut self, level: Level, key: Key, node: Peer) -> bool {
        let Some(slot) = self.slots.get_mut(&(key, level)) else { return false };
        let before = slot.closest.len();
        slot.closest.retain(|one| *one != node);
        slot.closest.len() < before
    }

    /// Drops a holder's pointers under a key, at every level.
    pub(in crate::core) fn withdraw(&mut self, key: Key, holder: Peer) {
        let levels: Vec<_> = self.slots.range((key, Level(0))..=(key, Level(u8::MAX))).map(|(at, _)| *at).collect();
        levels.into_iter().for_each(|at| self.retain(at, |kept| kept.holder.peer != holder));
    }

    /// Drops all that has expired.
    pub(in crate::core) fn sweep(&mut self, now: Instant) {
        self.swept = now;
        let all: Vec<_> = self.slots.keys().copied().collect();
        all.into_iter().for_each(|at| self.expire(now, at));
        self.slots.retain(|_, slot| !slot.values.is_empty());
        let lately = |at: &Instant| now.since(*at) < MINUTE;
        self.asked.retain(|_, intents| {
            intents.leaks.back().is_some_and(lately) || intents.others.as_ref().is_some_and(lately)
        });
        // Nor does an empty one keep any room.
        if self.slots.is_empty() {
            (self.slots, self.per_peer) = (BTreeMap::new(), BTreeMap::new());
        }
        if self.asked.is_empty() {
            self.asked = BTreeMap::new();
        }
    }

    /// Keys that have values, at each level.
    pub(in crate::core) fn keys(&self) -> usize {
        self.slots.len()
    }

    /// Keys without values whose store-intents are counted.
    #[cfg(test)]
    pub(in crate::core) fn asked(&self) -> usize {
        self.asked.len()
    }

    /// Pointers stored.
    pub(in crate::core) fn len(&self) -> usize {
        self.per_peer.values().sum()
    }

    /// Whether no further key fits, after a sweep if there was none lately.
    fn is_at_key_limit(&mut self, now: Instant) -> bool {
        if self.slots.len() >= self.limits.keys && now.since(self.swept) >= SWEEP_PAUSE {
            self.sweep(now);
        }
        self.slots.len() >= self.limits.keys
    }

    fn expire(&mut self, now: Instant, at: (Key, Level)) {
        self.retain(at, |kept| kept.expires > now);
    }

    fn retain(&mut self, at: (Key, Level), keep: impl Fn(&Kept) -> bool) {
        let Some(slot) = self.slots.get_mut(&at) else { return };
        let out: Vec<Kept> = slot.values.extract_if(.., |kept| !keep(kept)).collect();
        for kept in out {
            self.bytes -= cost(&kept.value);
            self.uncount(kept.holder.peer);
        }
    }

    fn uncount(&mut self, peer: Peer) {
        if let Some(count) = self.per_peer.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.per_peer.remove(&peer);
            }
        }
    }
}

impl Intents {
    /// Whether beta were let go on within the past minute, or so many within moments; if not, one more is.
    fn leak(&mut self, now: Instant, beta: usize, at_once: usize) -> bool {
        while self.leaks.front().is_some_and(|leak| now.since(*leak) >= MINUTE) {
            self.leaks.pop_front();
        }
        let late = self.leaks.iter().rev().take_while(|leak| now.since(**leak) < MOMENTS).count();
        let loaded = self.leaks.len() >= beta || late >= at_once;
        if !loaded {
            self.leaks.push_back(now);
        }
        loaded
    }

    /// Whether one came within the past minute that another node is to let go on: then it does, and this one need not.
    fn pass(&mut self, now: Instant) -> bool {
        self.others.replace(now).is_some_and(|last| now.since(last) < MINUTE)
    }

    /// Promises the asker one of so many free places, if one is left. How many are promised to others.
    fn promise(&mut self, now: Instant, intent: &Intent, free: usize) -> u32 {
        self.promised.retain(|(to, at)| *to != intent.from && now.since(*at) < PROMISED);
        let others = self.promised.len();
        if others < free {
            self.promised.push((intent.from, now));
        }
        u32::try_from(others).unwrap_or(u32::MAX)
    }
}

/// Bytes a value counts for: its own and those of keeping it.
const fn cost(value: &Bytes) -> usize {
    value.len() + OVERHEAD
}

const MINUTE: Duration = Duration::from_secs(60);

/// Intents that come within this time are one crowd's. [NSDI'04 4.2: one attempt in five seconds goes on]
const MOMENTS: Duration = Duration::from_secs(5);

/// How long a free place is kept for who was told of it: a few round trips. Longer: who changed its mind keeps others out.
const PROMISED: Duration = Duration::from_secs(2);

/// Keys without values whose store-intents are counted at most.
const ASKED: usize = 4_096;

/// Bytes around a value: holder, cluster ids, expiry, allocation.
const OVERHEAD: usize = 128;

/// Sweeps for want of room come at most this often.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
