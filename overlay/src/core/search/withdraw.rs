//! Withdrawal: the same paths as the put took, and at each node on them the sender's pointers are dropped.

use super::{Ending, Hop, Lookup, Step, lookup::Way};
use crate::{
    Key, Level,
    core::{
        Contact, Outcome,
        message::{Reply, Request, Want},
    },
};

/// A withdrawal under way.
#[derive(Debug)]
pub(in crate::core) struct Withdraw {
    me: Contact,
    way: Way,
    wider: Vec<Level>,
    lookup: Lookup,
    /// Nodes of all levels that are to be told.
    tell: Vec<Contact>,
    waiting: Vec<Contact>,
    telling: bool,
}

impl Withdraw {
    /// Levels from the nearest on; at least one.
    pub(in crate::core) fn new(me: Contact, key: Key, levels: &[Level], way: Way) -> Self {
        let mut wider: Vec<Level> = levels.iter().rev().copied().collect();
        let level = wider.pop().unwrap_or(Level::GLOBAL);
        let lookup = Lookup::new(me, level, key, way);
        Self { me, way, wider, lookup, tell: Vec::new(), waiting: Vec::new(), telling: false }
    }

    pub(super) fn next(&mut self) -> Step {
        loop {
            if self.telling {
                return match self.tell.pop() {
                    Some(to) => {
                        self.waiting.push(to);
                        Step::Ask(to, Request::Withdraw { key: self.lookup.key })
                    }
                    None if !self.waiting.is_empty() => Step::Wait,
                    None => Step::Done(Ending::Outcome(Outcome::Withdraw(Ok(())))),
                };
            }
            match self.lookup.next() {
                Hop::Ask(to, aim) => {
                    let (level, key) = (self.lookup.level, self.lookup.key);
                    return Step::Ask(to, Request::Step { level, key, aim, want: Want::Nodes });
                }
                Hop::Wait => return Step::Wait,
                Hop::Done => {
                    for node in self.lookup.answered() {
                        if !self.tell.contains(&node) {
                            self.tell.push(node);
                        }
                    }
                    match self.wider.pop() {
                        Some(level) => self.lookup = self.lookup.widen(self.me, level, self.way),
                        None => self.telling = true,
                    }
                }
            }
        }
    }

    pub(super) fn on_reply(&mut self, from: Contact, reply: Reply) {
        if let (Reply::Step { nodes, .. }, false) = (&reply, self.telling) {
            self.lookup.on_nodes(from, nodes);
        } else {
            self.on_failure(from);
        }
    }

    pub(super) fn on_late(&mut self, from: Contact) {
        self.lookup.on_late(from);
    }

    /// Also called for the answer to a withdrawal: told or not, there is nothing left to do at that node.
    pub(super) fn on_failure(&mut self, from: Contact) {
        if self.telling {
            self.waiting.retain(|one| *one != from);
        } else {
            self.lookup.on_failure(from);
        }
    }

    pub(super) fn expire(self) -> Ending {
        Ending::Outcome(Outcome::Withdraw(Ok(())))
    }
}
