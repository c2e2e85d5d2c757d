//! Hierarchical get (NSDI'04 4.3): search the near cluster, then wider ones, on from where the search stood; stop at the first
//! node that has values.

use super::{Ending, Hop, Lookup, Step, lookup::Way};
use crate::{
    Found, IndexError, Key, Level,
    core::{
        Contact, Outcome,
        message::{Pointer, Reply, Request, Seen, Want},
    },
};

/// A get under way.
#[derive(Debug)]
pub(in crate::core) struct Get {
    me: Contact,
    way: Way,
    /// Levels still to be searched, the next one last.
    wider: Vec<Level>,
    lookup: Lookup,
    found: Option<Vec<Pointer>>,
    deadline: std::time::Duration,
}

impl Get {
    /// Levels from the nearest on; at least one.
    pub(in crate::core) fn new(
        me: Contact,
        key: Key,
        levels: &[Level],
        way: Way,
        deadline: std::time::Duration,
    ) -> Self {
        let mut wider: Vec<Level> = levels.iter().rev().copied().collect();
        let level = wider.pop().unwrap_or(Level::GLOBAL);
        Self { me, way, wider, lookup: Lookup::new(me, level, key, way), found: None, deadline }
    }

    pub(super) fn next(&mut self) -> Step {
        loop {
            if let Some(found) = self.found.take() {
                return Step::Done(Ending::Found(self.lookup.level, found));
            }
            match (self.lookup.next(), self.wider.is_empty()) {
                (Hop::Ask(to, aim), _) => {
                    let (level, key) = (self.lookup.level, self.lookup.key);
                    return Step::Ask(to, Request::Step { level, key, aim, want: Want::Values });
                }
                (Hop::Wait, _) => return Step::Wait,
                (Hop::Done, true) => return Step::Done(Ending::Outcome(Outcome::Get(Ok(Found::Nothing)))),
                (Hop::Done, false) => {
                    let level = self.wider.pop().unwrap_or(Level::GLOBAL);
                    self.lookup = self.lookup.widen(self.me, level, self.way);
                }
            }
        }
    }

    pub(super) fn on_reply(&mut self, from: Contact, reply: Reply) {
        let Reply::Step { seen, nodes } = reply else { return self.lookup.on_failure(from) };
        self.lookup.on_nodes(from, &nodes);
        if let Seen::Values(mut values) = seen {
            // What this node put itself is no news to it.
            values.retain(|value| value.holder != self.me);
            if !values.is_empty() {
                self.found = Some(values);
            }
        }
    }

    pub(super) fn on_late(&mut self, from: Contact) {
        self.lookup.on_late(from);
    }

    pub(super) fn on_failure(&mut self, from: Contact) {
        self.lookup.on_failure(from);
    }

    pub(super) fn expire(self) -> Ending {
        Ending::Outcome(Outcome::Get(Err(IndexError::Timeout(self.deadline))))
    }
}
