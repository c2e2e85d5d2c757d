//! Commands to operations, and endings to outcomes.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Command, Contact, Node, Op, Outcome,
    joint::Flight,
    message::Pointer,
    node::Reason,
    search::{Ending, Errand, ErrandKind, Get, Plan, PutTask, Rules, Task, Way, What, Withdraw},
    time::Instant,
};
use crate::{Acquired, Beat, Found, IndexError, Key, Level, Levels, Mode, Prefix, Put, Value};

impl Node {
    /// Starts what a caller wants; answers at once what needs no network.
    pub(super) fn command(&mut self, now: Instant, op: Op, command: Command) {
        let refused = IndexError::Refused("too many operations are under way on this node".to_owned());
        let (task, time, full) = match command {
            Command::Put(put) => {
                if put.value.len() > Pointer::LIMIT {
                    let error = IndexError::ValueTooLong { length: put.value.len(), limit: Pointer::LIMIT };
                    return self.done(op, Outcome::Put(Err(error)));
                }
                let flight = Flight::Put(put.clone());
                if self.join(op, &flight) || self.answer_again(now, op, &flight) {
                    return;
                }
                self.depart(flight);
                (self.put_task(put), self.config.put_deadline, Outcome::Put(Err(refused)))
            }
            Command::Get(key, levels) => {
                let flight = Flight::Get(key, levels);
                if self.join(op, &flight) || self.answer_again(now, op, &flight) {
                    return;
                }
                let task = self.get_task(now, key, levels);
                self.depart(flight);
                (task, self.config.get_deadline, Outcome::Get(Err(refused)))
            }
            Command::Withdraw(key) => {
                self.forget_puts(&key);
                let levels: Vec<Level> = self.config.levels().collect();
                let task = Withdraw::new(self.contact, key, &levels, self.put_way());
                (Task::Withdraw(task), self.config.put_deadline, Outcome::Withdraw(Err(refused)))
            }
            Command::Acquire(acquire) => {
                if acquire.reference.len() > Pointer::LIMIT {
                    let error = IndexError::ValueTooLong { length: acquire.reference.len(), limit: Pointer::LIMIT };
                    return self.done(op, Outcome::Acquire(Err(error)));
                }
                let time = self.config.acquire_deadline;
                let task = Errand::new(self.contact, ErrandKind::Acquire(acquire), time);
                (Task::Errand(task), time, Outcome::Acquire(Err(refused)))
            }
            Command::Beat(lease, reference) => {
                if reference.len() > Pointer::LIMIT {
                    let error = IndexError::ValueTooLong { length: reference.len(), limit: Pointer::LIMIT };
                    return self.done(op, Outcome::Beat(Err(error)));
                }
                let time = self.config.acquire_deadline;
                let kind = ErrandKind::Beat { lease, reference, ttl: self.config.reference_ttl };
                (Task::Errand(Errand::new(self.contact, kind, time)), time, Outcome::Beat(Err(refused)))
            }
            Command::Release(lease) => {
                let time = self.config.acquire_deadline;
                // A beat whose reference is over at once; who keeps beats alone understands that too.
                let kind = ErrandKind::Beat { lease, reference: Bytes::new(), ttl: Duration::ZERO };
                (Task::Errand(Errand::new(self.contact, kind, time)), time, Outcome::Beat(Err(refused)))
            }
            Command::Pass(lease, marker) => {
                let time = self.config.acquire_deadline;
                let task = Errand::new(self.contact, ErrandKind::Pass { lease, marker }, time);
                (Task::Errand(task), time, Outcome::Pass(Err(refused)))
            }
            Command::Spread(record) => {
                let outcome = self.spread(now, record);
                return self.done(op, Outcome::Spread(outcome));
            }
        };
        let next = self.next_task;
        if self.begin(now, Some(Reason::Command(op)), task, time).is_none() {
            self.arrive(now, next, &full);
            self.done(op, full);
        }
    }

    /// A prefix was measured: the index is told, and asked who else is near.
    pub(super) fn on_observe(&mut self, now: Instant, prefix: Prefix, rtt: Duration) {
        let (ttl, per_second) = (self.config.hint_ttl, self.config.hints_per_second);
        let Some(value) = self.hints.observe(now, prefix, rtt, (ttl, per_second)) else { return };
        let put = self.put_task(Put { key: prefix.key(), value, ttl, levels: Levels::All });
        self.begin(now, None, put, self.config.put_deadline);
        let get = self.get_task(now, prefix.key(), Levels::Only(Level::GLOBAL));
        self.begin(now, Some(Reason::Hint(prefix)), get, self.config.get_deadline);
    }

    /// What an ending means to the caller of a command; none for the node's own searches.
    pub(super) fn outcome(&self, ending: Ending) -> Option<Outcome> {
        Some(match ending {
            Ending::Outcome(outcome) => outcome,
            Ending::Found(level, pointers) => {
                let values = pointers.into_iter().map(|pointer| self.value(pointer)).collect();
                Outcome::Get(Ok(Found::Values { level, values }))
            }
            Ending::References(pointers) => {
                let values: Vec<Value> = pointers
                    .into_iter()
                    .filter(|pointer| pointer.holder != self.contact)
                    .map(|pointer| self.value(pointer))
                    .collect();
                if values.is_empty() {
                    // A root that names only the asker, or nobody: as good as none.
                    Outcome::Acquire(Err(IndexError::Timeout(self.config.acquire_deadline)))
                } else {
                    Outcome::Acquire(Ok(Acquired::References(values)))
                }
            }
            Ending::Superseded(pointer) => Outcome::Beat(Ok(Beat::Superseded(self.value(pointer)))),
            Ending::Relayed(_) | Ending::Searched => return None,
        })
    }

    /// A pointer as the caller sees it, with the nearest level shared with its holder.
    fn value(&self, pointer: Pointer) -> Value {
        let known = self.clusters_of(pointer.holder);
        // What the holder's own messages say is newer than what was stored with the pointer.
        let theirs = if known.is_empty() { &pointer.clusters } else { &known };
        Value { level: self.nearest_shared(theirs), holder: pointer.holder.id, value: pointer.value, ttl: pointer.ttl }
    }

    fn nearest_shared(&self, theirs: &[Key]) -> Level {
        let shared = self.memberships.iter().zip(theirs).filter(|(membership, id)| membership.id == **id);
        shared.map(|(membership, _)| membership.level).max().unwrap_or(Level::GLOBAL)
    }

    pub(super) fn get_task(&mut self, now: Instant, key: Key, levels: Levels) -> Task {
        let levels = self.chosen(levels);
        let deadline = self.config.get_deadline;
        let window = self.config.window;
        let plan = match self.config.mode {
            Mode::Paper => {
                let way = Way { bits: Some(self.config.bits), closest: 1, window };
                Plan { way, insist: 1, own_counts: true, hand: Vec::new(), wide: Vec::new(), thorough: None, deadline }
            }
            Mode::Best => {
                let thorough = self.is_repeated(now, key);
                let widest = levels.last().map_or(&[][..], std::slice::from_ref);
                let hand = self.hand_to(now, key, if thorough { widest } else { &levels });
                // Who begins at the widest level has no nearer ones to pass by.
                let through = hand.first().is_some_and(|(_, request)| request.is_through_levels());
                let wide = if through { self.hand_to(now, key, widest) } else { Vec::new() };
                // Those that lie name each other, and some of them are nearer than the honest ones this node knows: to get past
                // them takes many answers.
                let insist = self.config.copies() * if thorough { THOROUGH_NODES } else { 2 };
                let closest = if thorough { insist } else { self.config.copies() };
                let way = Way { bits: None, closest, window };
                // One node has two voices at most: its own, and that of a question handed to it.
                let thorough = thorough.then_some(self.config.copies().max(3));
                Plan { way, insist, own_counts: false, hand, wide, thorough, deadline }
            }
        };
        Task::Get(Get::new(self.contact, key, &levels, plan))
    }

    /// Whether this key was asked for here a moment ago: then the answer was of no use, or somebody asks over and over. So only
    /// one such get in a while is made thorough, of a key and of all.
    fn is_repeated(&mut self, now: Instant, key: Key) -> bool {
        while self.asked.front().is_some_and(|one| now.since(one.at) >= THOROUGH_AGAIN) {
            self.asked.pop_front();
        }
        let before = self.asked.iter_mut().rev().find(|one| one.key == key);
        let before = before.map(|one| {
            let (since, times) = one.again;
            one.again = if now.since(since) < REPEATED { (since, times + 1) } else { (now, 0) };
            *one
        });
        let repeated = before.is_some_and(|one| !one.thorough && now.since(one.at) < REPEATED);
        let (left, since) = self.thorough;
        let more = u32::try_from(now.since(since).as_secs() / THOROUGH_PAUSE.as_secs()).unwrap_or(u32::MAX);
        if more > 0 {
            self.thorough = (left.saturating_add(more).min(THOROUGH_BURST), now);
        }
        let thorough = repeated && self.thorough.0 > 0;
        self.thorough.0 -= u32::from(thorough);
        if thorough || before.is_none_or(|one| !one.thorough && !repeated) {
            if self.asked.len() >= REMEMBERED {
                self.asked.pop_front();
            }
            self.asked.push_back(Asked { key, at: now, thorough, again: (now, 0) });
        }
        thorough
    }

    /// How often a key was asked for again within the last moments.
    pub(super) fn asked_again(&self, now: Instant, key: &Key) -> usize {
        let again = self.asked.iter().rev().find(|one| one.key == *key).map(|one| one.again);
        let times = again.filter(|(since, _)| now.since(*since) < REPEATED).map_or(0, |(_, times)| times);
        usize::try_from(times).unwrap_or(usize::MAX)
    }

    pub(super) fn put_task(&self, put: Put) -> Task {
        let levels = self.chosen(put.levels);
        let what = What { key: put.key, value: put.value, ttl: put.ttl.min(Pointer::TTL_LIMIT) };
        let loaded_stops = self.config.mode == Mode::Best;
        let rules = Rules { values_per_key: self.config.values_per_key, copies: self.config.copies(), loaded_stops };
        Task::Put(PutTask::new(self.contact, what, &levels, self.put_way(), rules))
    }

    fn put_way(&self) -> Way {
        let window = match self.config.mode {
            // Whom to ask next depends on whether the one before was full and loaded.
            Mode::Paper => 1,
            Mode::Best => self.config.window,
        };
        Way { bits: Some(self.config.bits), closest: self.config.copies(), window }
    }

    /// The levels meant, from the nearest on; at least the global one.
    fn chosen(&self, levels: Levels) -> Vec<Level> {
        let all = self.config.levels();
        let mut chosen: Vec<Level> = match levels {
            Levels::All => all.collect(),
            Levels::Only(level) => all.filter(|one| *one == level).collect(),
            Levels::UpTo(level) => all.filter(|one| *one >= level).collect(),
        };
        if chosen.is_empty() {
            chosen.push(Level::GLOBAL);
        }
        chosen
    }

    /// Whether a node did not answer lately.
    pub(super) fn is_dead(&self, contact: Contact) -> bool {
        self.peers.may_have_dead()
            && self.peers.get(contact).is_some_and(|known| known.misses() >= super::peers::DEAD_AFTER)
    }
}

/// A key that was asked for here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) key: Key,
    at: Instant,
    /// The get was made thorough.
    thorough: bool,
    /// Since when the same was asked for again, and how often.
    again: (Instant, u32),
}

/// A get of the same key within this time is a second try.
const REPEATED: Duration = Duration::from_secs(5);

/// A key is not looked for thoroughly again within this time.
const THOROUGH_AGAIN: Duration = Duration::from_secs(180);

/// One more get may be thorough after each of these, up to so many at once.
const THOROUGH_PAUSE: Duration = Duration::from_secs(1);
pub(super) const THOROUGH_BURST: u32 = 8;

/// Nodes that a thorough get hears of those nearest the key, times the copies there are.
const THOROUGH_NODES: usize = 8;

/// Keys of gets that are remembered for that.
const REMEMBERED: usize = 64;
