//! What a node that has just joined says as a root: nothing, until it knows its neighbourhood. It knows whoever it joined through, and who has
//! heard of it takes it for the root of keys near its id: were it to answer from that, it would grant fetches that others hold already.

use super::Asked;
use crate::{
    Level,
    core::{
        Node,
        message::{Refusal, Reply},
        search::{Search, Task, Way},
        time::Instant,
    },
};

/// How far a node is with joining.
#[derive(Debug, Default)]
pub(in crate::core) struct Newborn {
    /// It has asked its neighbourhood for itself once.
    pub(in crate::core) joined: bool,
    /// The search that is for that, while it runs.
    search: Option<u64>,
    /// What it was asked meanwhile as the root of a key.
    asked: Vec<Asked>,
}

impl Node {
    /// Puts off what this node would answer as a root, until it knows those near it. None: it is put off.
    pub(super) fn once_joined(&mut self, now: Instant, asked: Asked) -> Option<Asked> {
        if self.newborn.joined || self.peers.count(Level::GLOBAL) == 0 {
            return Some(asked);
        }
        if self.newborn.asked.len() >= self.config.waiters {
            self.reply(now, asked.from, asked.id, asked.arrived, Reply::Refused(Refusal::Busy));
            return None;
        }
        self.reply(now, asked.from, asked.id, now, Reply::Wait);
        self.newborn.asked.push(asked);
        if self.newborn.search.is_none() {
            let way = Way { bits: None, closest: Reply::NODES, window: self.config.window };
            let search = Search::new(self.contact, Level::GLOBAL, self.contact.id.key(), way);
            self.newborn.search = Some(self.next_task);
            // Who asked waits for as long as an acquire takes, and the grant takes its part of that.
            let time = self.config.acquire_deadline * 3 / 4;
            if self.begin(now, None, Task::Search(search), time).is_none() {
                self.on_joined(now);
            }
        }
        None
    }

    /// A search of the node's own has ended.
    pub(in crate::core) fn on_searched(&mut self, now: Instant, search: u64) {
        if !self.newborn.joined && self.newborn.search.is_none_or(|one| one == search) {
            self.on_joined(now);
        }
    }

    fn on_joined(&mut self, now: Instant) {
        (self.newborn.joined, self.newborn.search) = (true, None);
        for asked in std::mem::take(&mut self.newborn.asked) {
            self.on_root_request(now, asked);
        }
    }
}
