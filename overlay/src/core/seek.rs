//! Questions handed on from node to node (recursive gets), and copies brought to nodes that have become one of the closest to a
//! key: both rest on this node's view of who is nearer.

use std::time::Duration;

use super::{
    Contact, Node,
    joint::{Asker, Flight},
    message::{Pointer, Refusal, Reply, Request},
    node::{Reason, Timer},
    peers::Known,
    search::{Purpose, Relay, Task},
    time::Instant,
};
use crate::{Key, Level, Mode, NodeId};

/// What this node can do about a question.
enum Way {
    /// It has values.
    Values(Level, Vec<Pointer>),
    /// These are nearer, best first.
    Onward(Vec<(Contact, Request)>),
    /// It is the closest itself.
    Nowhere,
}

/// A question for values.
#[derive(Clone, Copy)]
struct Question {
    key: Key,
    widest: Level,
    seeker: NodeId,
    hops: u8,
}

impl Node {
    /// To whom this node may hand a get of its own, best first. None if it has values itself or is the closest everywhere: then
    /// its own search ends at once as well.
    pub(super) fn hand_to(&mut self, now: Instant, key: Key, levels: &[Level]) -> Vec<(Contact, Request)> {
        let (Some(level), Some(widest)) = (levels.first(), levels.last()) else { return Vec::new() };
        let question = Question { key, widest: *widest, seeker: self.contact.id, hops: Request::HOPS };
        match self.way_of(now, *level, question, self.contact) {
            Way::Onward(next) => next,
            Way::Values(..) | Way::Nowhere => Vec::new(),
        }
    }

    /// Somebody seeks values: says them, or hands the question on.
    pub(super) fn on_seek(&mut self, now: Instant, from: Contact, id: u64, request: &Request) {
        let Request::Seek { level, widest, key, seeker, hops } = *request else { return };
        // A question comes in at the nearest level that asker and this node share, or is searched wider from here on.
        let Some(level) = (widest.0..=level.0).rev().map(Level).find(|level| self.is_in(from, *level)) else {
            return self.reply(now, from, id, now, Reply::Refused(Refusal::NotInCluster));
        };
        let question = Question { key, widest, seeker, hops };
        let answer = match self.way_of(now, level, question, from) {
            Way::Values(level, values) => Reply::Sought { level, values },
            Way::Nowhere => Reply::Sought { level: widest, values: Vec::new() },
            Way::Onward(_) if hops == 0 => Reply::Sought { level: widest, values: Vec::new() },
            Way::Onward(next) => {
                let flight = Flight::Seek { key, level, widest };
                if self.join_seek(Asker { who: from, id, arrived: now }, &flight) {
                    return;
                }
                self.depart(flight);
                let reason = Reason::Relay { asker: from, id, arrived: now };
                let (time, next_task) = (self.config.get_deadline, self.next_task);
                if self.begin(now, Some(reason), Task::Relay(Relay::new(next)), time).is_some() {
                    return;
                }
                self.arrive_seek(now, next_task, None);
                Reply::Refused(Refusal::Busy)
            }
        };
        self.reply(now, from, id, now, answer);
    }

    fn way_of(&mut self, now: Instant, level: Level, question: Question, from: Contact) -> Way {
        let Question { key, widest, seeker, hops } = question;
        let mine = self.contact.id.key().distance(&key);
        for level in (widest.0..=level.0).rev().map(Level) {
            let mut values = self.values.get(now, level, key);
            values.retain(|value| value.holder.id != seeker);
            if !values.is_empty() {
                self.rng.shuffle(&mut values);
                values.truncate(Reply::VALUES);
                return Way::Values(level, values);
            }
            let mut nearer = self.peers.closest(level, &key, NEXT);
            nearer.retain(|node| node.id.key().distance(&key) < mine && *node != from && node.id != seeker);
            // One of the r closest would have a copy if any node of this cluster had: no need to ask the others.
            let near_enough = level != widest && nearer.len() + 1 < self.config.copies();
            if nearer.is_empty() || near_enough {
                continue;
            }
            let request = Request::Seek { level, widest, key, seeker, hops: hops.saturating_sub(1) };
            nearer.sort_by_key(|node| match self.peers.get(*node) {
                Some(known) if known.linked() && known.misses() == 0 => known.cost(),
                Some(_) | None => u64::MAX,
            });
            nearer.truncate(TRIES);
            return Way::Onward(nearer.into_iter().map(|node| (node, request.clone())).collect());
        }
        Way::Nowhere
    }

    /// A node near the key says that this one is among the closest now.
    pub(super) fn on_copy(
        &mut self,
        now: Instant,
        from: Contact,
        (level, key): (Level, Key),
        values: Vec<Pointer>,
    ) -> Reply {
        if !self.is_in(from, level) || !self.peers.closest(level, &key, COPIERS).contains(&from) {
            return Reply::Refused(Refusal::NotInCluster);
        }
        let had = !self.values.get(now, level, key).is_empty();
        for value in values {
            // What does not fit is left out: the sender keeps it, and the next look at the copies tries again.
            let _ = self.values.store(now, level, key, value);
        }
        if had || self.peers.closest(level, &key, self.config.copies()).contains(&from) {
            self.note_closest(level, key);
        } else {
            // Who sent it does not know those nearer that this node knows: after a partition one comes back after the other. Were
            // they taken to have it, each would leave it to another to tell them.
            self.values.seeded(level, key, &[from]);
            self.arm_sooner(now + RESEED_PAUSE, Timer::Reseed);
        }
        Reply::Done
    }

    /// A node was to keep copies. If it does not, it counts as one that has none, and is looked at again.
    pub(super) fn on_copied(&mut self, now: Instant, to: Contact, (level, key): (Level, Key), done: bool) {
        if !done && self.values.unseeded(level, key, to.peer) {
            self.arm_sooner(now + COPY_AGAIN, Timer::Reseed);
        }
    }

    /// Notes who is closest to a key when something is stored under it: they are taken to have it too.
    pub(super) fn note_closest(&mut self, level: Level, key: Key) {
        if self.config.copies() > 1 {
            let closest = self.peers.closest(level, &key, self.config.copies());
            self.values.seeded(level, key, &closest);
        }
    }

    /// A node came into a level's table or left it: the closest sets of some keys have changed.
    pub(super) fn closest_changed(&mut self, now: Instant) {
        if self.config.mode == Mode::Best && self.config.copies() > 1 && self.values.keys() > 0 {
            self.arm_sooner(now + RESEED_PAUSE, Timer::Reseed);
        }
    }

    /// Looks at some of the keys and brings copies to nodes that have become one of the closest. The nearest of those that had
    /// the key before does it, so that not all do.
    pub(super) fn reseed(&mut self, now: Instant) {
        let copies = self.config.copies();
        let page = self.values.page(self.reseed.take(), RESEED_PAGE);
        self.reseed = page.last().copied().filter(|_| page.len() == RESEED_PAGE);
        for (key, level) in page {
            let mine = self.contact.id.key().distance(&key);
            let closest = self.peers.closest(level, &key, copies);
            let had = self.values.seeded(level, key, &closest);
            let new: Vec<Contact> = closest.iter().filter(|one| !had.contains(&one.peer)).copied().collect();
            let nearer = closest.iter().filter(|one| one.id.key().distance(&key) < mine);
            let first = nearer.clone().all(|one| new.contains(one));
            if new.is_empty() || !first {
                continue;
            }
            // This node counts among the closest if it is: then one fewer is needed.
            let rank = nearer.count();
            let wanted = if rank < copies { copies - 1 } else { copies };
            let mut values = self.values.get(now, level, key);
            values.truncate(Reply::VALUES);
            for to in closest.into_iter().take(wanted).filter(|one| new.contains(one)) {
                if !values.is_empty() && self.peers.get(to).is_some_and(Known::live) {
                    self.ask(now, to, Request::Copy { level, key, values: values.clone() }, Purpose::Copy(level, key));
                }
            }
        }
        if self.reseed.is_some() {
            self.arm_sooner(now + RESEED_NEXT, Timer::Reseed);
        }
    }
}

/// Nodes nearer the key that are looked at for the next hop.
const NEXT: usize = 2;

/// Nodes a question is handed to, one after the other, if they cannot be reached.
const TRIES: usize = 2;

/// A copy is taken from one of so many closest to the key.
const COPIERS: usize = 16;

/// How soon after a change copies are looked at: changes come together.
const RESEED_PAUSE: Duration = Duration::from_secs(2);

/// Pause before a node that did not take copies is tried again.
const COPY_AGAIN: Duration = Duration::from_secs(5);

/// Keys looked at at once, and the pause before the next ones.
const RESEED_PAGE: usize = 256;
const RESEED_NEXT: Duration = Duration::from_millis(100);
