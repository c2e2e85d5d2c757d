//! Where answers went: by the prefix of whoever asked, the level and cluster it was led to, what placed it, and how often. For
//! the operator's eyes; a bounded number of prefixes, of which those that ask least are forgotten first.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use atoll_overlay::{Key, Level, Prefix};

use crate::{placement::Placement, redirector::Redirector, roster::Roster};

/// Where the answers for one prefix lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Whose answers.
    pub prefix: Prefix,
    /// The level of the proxies or servers named.
    pub level: Level,
    /// Their cluster, all zero at level 0.
    pub cluster: Key,
    /// What placed it: `override`, `hint`, `unknown`, or the source of the least RTT.
    pub source: &'static str,
    /// How many, since it was first seen.
    pub answers: u64,
}

/// All prefixes.
#[derive(Debug)]
pub(crate) struct Atlas {
    seen: Mutex<HashMap<Prefix, Destination>>,
    limit: usize,
}

impl Atlas {
    /// Nobody seen yet; of so many prefixes at most.
    pub(crate) fn new(limit: usize) -> Self {
        Self { seen: Mutex::default(), limit: limit.max(2) }
    }

    /// Answers were given: where they lead now is where the prefix belongs.
    pub(crate) fn note(&self, answer: Destination) {
        let mut seen = self.seen();
        if seen.len() >= self.limit && !seen.contains_key(&answer.prefix) {
            forget_half(&mut seen);
        }
        let before = seen.get(&answer.prefix).map_or(0, |known| known.answers);
        seen.insert(answer.prefix, Destination { answers: before + answer.answers, ..answer });
    }

    /// More of the same were given.
    pub(crate) fn more(&self, prefix: Prefix, answers: u64) {
        if let Some(known) = self.seen().get_mut(&prefix) {
            known.answers += answers;
        }
    }

    /// Those that were answered most, so many at most.
    pub(crate) fn most(&self, count: usize) -> Vec<Destination> {
        let mut all: Vec<Destination> = self.seen().values().cloned().collect();
        all.sort_by_key(|one| (std::cmp::Reverse(one.answers), one.prefix));
        all.truncate(count);
        all
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<Prefix, Destination>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Redirector {
    /// What says where a prefix belongs: `override`, `hint`, `unknown`, or the source of the least RTT.
    pub(crate) fn placed_by(&self, now: Instant, prefix: Prefix, placement: &Placement) -> &'static str {
        match &placement.near {
            _ if placement.placed => "override",
            Some(_) => "hint",
            None => self.clients().rtt(now, prefix).map_or("unknown", |(_, source)| source.name()),
        }
    }

    /// Somebody is led to proxies or servers of a level: what follows for others. Says what placed who asked.
    pub(crate) fn noted(
        &self,
        now: Instant,
        prefix: Prefix,
        level: Level,
        placement: &Placement,
        roster: &Roster,
    ) -> &'static str {
        if let Some(near) = placement.near.as_ref().filter(|_| !placement.placed) {
            self.names_foreign(now, near);
        }
        let why = self.note_destination(now, prefix, level, placement);
        self.tell(now, prefix, placement, roster);
        why
    }

    fn note_destination(&self, now: Instant, prefix: Prefix, level: Level, placement: &Placement) -> &'static str {
        let source = self.placed_by(now, prefix, placement);
        let own = || self.roster().rings.get(usize::from(level.0)).map_or(Key::ZERO, |ring| ring.cluster);
        let cluster = placement.near.as_ref().filter(|near| near.level == level).map_or_else(own, |near| near.cluster);
        self.counters.placed(level, source);
        self.atlas.note(Destination { prefix, level, cluster, source, answers: 1 });
        source
    }
}

/// Forgets those that ask least: so rarely that it costs each newcomer next to nothing.
fn forget_half(seen: &mut HashMap<Prefix, Destination>) {
    let mut all: Vec<(u64, Prefix)> = seen.values().map(|one| (one.answers, one.prefix)).collect();
    all.sort_unstable();
    for (_, prefix) in all.iter().take(all.len().div_ceil(2)) {
        seen.remove(prefix);
    }
}

/// Prefixes that are told of at a time.
pub(crate) const SHOWN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(third: u8, answers: u64) -> Destination {
        let prefix = Prefix::of([192, 0, third, 1].into());
        Destination { prefix, level: Level(1), cluster: Key::ZERO, source: "icmp", answers }
    }

    #[test]
    fn answers_add_up_and_those_who_ask_least_are_forgotten_first() {
        let atlas = Atlas::new(4);
        for third in 1..=4 {
            atlas.note(answer(third, u64::from(third)));
        }
        atlas.note(Destination { level: Level(2), ..answer(2, 10) });
        atlas.more(answer(4, 0).prefix, 5);
        atlas.more(answer(9, 0).prefix, 5);
        atlas.note(answer(5, 1));
        let most = atlas.most(9);
        let told: Vec<(Prefix, u64, u8)> = most.iter().map(|one| (one.prefix, one.answers, one.level.0)).collect();
        let of = |third| answer(third, 0).prefix;
        assert_eq!(told, [(of(2), 12, 2), (of(4), 9, 1), (of(5), 1, 1)]);
        assert_eq!(atlas.most(1).len(), 1);
    }
}
