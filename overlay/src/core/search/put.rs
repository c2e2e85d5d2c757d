//! Sloppy put (NSDI'04 4.2). Forward: from node to node nearer the key, until the closest or the first that is full and loaded;
//! all others go on a stack. Reverse: store at the top of the stack, or at the next, until enough have accepted. Then the same
//! in the next wider cluster, on from there, unless the key was full and loaded here.
//!
//! Departure: a node that puts one value over and over never fills itself, as the paper's putters of random values do (nor, in mode
//! `best`, does one that puts ever new ones, since they replace each other). Being loaded by its own puts stops it at its first step
//! all the same; it then renews what it stores itself.

use std::time::Duration;

use bytes::Bytes;

use super::{Ending, Hop, Lookup, Step, lookup::Way};
use crate::{
    IndexError, Key, Level, Stored,
    core::{
        Contact, Outcome,
        message::{Refusal, Reply, Request, Room, Seen, Verdict, Want},
    },
};

/// A put under way.
#[derive(Debug)]
pub(in crate::core) struct PutTask {
    me: Contact,
    what: What,
    way: Way,
    rules: Rules,
    /// Levels still to be stored at, the next one last.
    wider: Vec<Level>,
    lookup: Lookup,
    /// Nodes that could take the value, nearest the key first.
    stack: Vec<Contact>,
    /// Nodes that were asked to store it and have not answered.
    storing: Vec<Contact>,
    phase: Phase,
    widest: Option<Level>,
    copies: u32,
    refused: Option<Refusal>,
}

/// What is stored.
#[derive(Debug, Clone)]
pub(in crate::core) struct What {
    pub(in crate::core) key: Key,
    pub(in crate::core) value: Bytes,
    pub(in crate::core) ttl: Duration,
}

/// By which numbers.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct Rules {
    /// Coral's l.
    pub(in crate::core) values_per_key: usize,
    /// Nodes per level that are to store it.
    pub(in crate::core) copies: usize,
    /// A loaded node ends the forward phase even if it is not full: else the first of a crowd, who find all empty, go all the way.
    /// A full one is not asked to store.
    pub(in crate::core) loaded_stops: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Towards the key.
    Forward,
    /// Back down the stack.
    Reverse {
        /// Copies stored at this level so far.
        stored: usize,
        /// The forward phase ended at a node that was full and loaded: no wider level is tried.
        stopped: bool,
    },
}

impl PutTask {
    /// Levels from the nearest on; at least one.
    pub(in crate::core) fn new(me: Contact, what: What, levels: &[Level], way: Way, rules: Rules) -> Self {
        let mut wider: Vec<Level> = levels.iter().rev().copied().collect();
        let level = wider.pop().unwrap_or(Level::GLOBAL);
        let lookup = Lookup::new(me, level, what.key, way);
        Self {
            me,
            what,
            way,
            rules,
            wider,
            lookup,
            stack: Vec::new(),
            storing: Vec::new(),
            phase: Phase::Forward,
            widest: None,
            copies: 0,
            refused: None,
        }
    }

    pub(super) fn next(&mut self) -> Step {
        loop {
            match self.phase {
                Phase::Forward => match self.lookup.next() {
                    Hop::Ask(to, aim) => {
                        let want = Want::Room { ttl: self.what.ttl };
                        return Step::Ask(
                            to,
                            Request::Step { level: self.lookup.level, key: self.what.key, aim, want },
                        );
                    }
                    Hop::Wait => return Step::Wait,
                    Hop::Done => self.turn(false),
                },
                Phase::Reverse { stored, stopped } => {
                    if stored + self.storing.len() < self.rules.copies && !self.stack.is_empty() {
                        let to = self.stack.remove(0);
                        self.storing.push(to);
                        return Step::Ask(to, self.store());
                    }
                    if !self.storing.is_empty() {
                        return Step::Wait;
                    }
                    match self.wider.pop() {
                        Some(level) if !stopped => {
                            self.lookup = self.lookup.widen(self.me, level, self.way);
                            self.stack.clear();
                            self.phase = Phase::Forward;
                        }
                        Some(_) | None => return Step::Done(Ending::Outcome(Outcome::Put(self.outcome()))),
                    }
                }
            }
        }
    }

    pub(super) fn on_reply(&mut self, from: Contact, reply: Reply) {
        match (self.phase, reply) {
            (Phase::Forward, Reply::Step { seen: Seen::Room(room), nodes }) => {
                self.lookup.on_nodes(from, &nodes);
                let own = from == self.me;
                let full = self.is_full(&room);
                // A full node would refuse: its status says so.
                if own || !full {
                    self.push(from);
                }
                if room.loaded && (own || full || self.rules.loaded_stops) {
                    self.turn(true);
                }
            }
            (Phase::Reverse { stored, stopped }, Reply::Stored(verdict)) => {
                let accepted = verdict == Verdict::Accepted;
                self.storing.retain(|one| *one != from);
                self.phase = Phase::Reverse { stored: stored + usize::from(accepted), stopped };
                if accepted {
                    self.copies += 1;
                    self.widest = Some(self.lookup.level);
                }
            }
            (Phase::Reverse { .. }, Reply::Refused(refusal)) => {
                self.refused = Some(refusal);
                self.on_failure(from);
            }
            // A status that comes after the turn has lost its use.
            (Phase::Reverse { .. }, Reply::Step { .. }) => {}
            (Phase::Forward | Phase::Reverse { .. }, _) => self.on_failure(from),
        }
    }

    pub(super) fn on_late(&mut self, from: Contact) {
        self.lookup.on_late(from);
    }

    pub(super) fn on_failure(&mut self, from: Contact) {
        match self.phase {
            Phase::Forward => self.lookup.on_failure(from),
            Phase::Reverse { .. } => self.storing.retain(|one| *one != from),
        }
    }

    pub(super) fn expire(self) -> Ending {
        Ending::Outcome(Outcome::Put(self.outcome()))
    }

    fn is_full(&self, room: &Room) -> bool {
        usize::try_from(room.count).is_ok_and(|count| count >= self.rules.values_per_key)
            && room.soonest >= self.what.ttl / 2
    }

    fn push(&mut self, node: Contact) {
        let key = self.what.key;
        let distance = node.id.key().distance(&key);
        let at = self.stack.partition_point(|one| one.id.key().distance(&key) < distance);
        self.stack.insert(at, node);
    }

    /// Ends the forward phase.
    const fn turn(&mut self, stopped: bool) {
        self.phase = Phase::Reverse { stored: 0, stopped };
    }

    fn store(&self) -> Request {
        let What { key, value, ttl } = self.what.clone();
        Request::Store { level: self.lookup.level, key, value, ttl }
    }

    fn outcome(&self) -> Result<Stored, IndexError> {
        match (self.widest, self.refused) {
            (Some(widest), _) => Ok(Stored { widest, copies: self.copies }),
            (None, Some(refusal)) => Err(IndexError::Refused(refusal.to_string())),
            (None, None) => Err(IndexError::Refused("no node that answered had room for it".to_owned())),
        }
    }
}

#[cfg(test)]
#[path = "put_tests.rs"]
mod tests;
