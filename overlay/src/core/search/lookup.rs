//! One iterative search. Coral's way (NSDI'04 4.1) corrects a few wrong bits per hop: it asks the node nearest to a spliced
//! target, not to the key, so that lookups of a hot key do not all run over the nodes around it. Kademlia's greedy way is the
//! same machine with the target at the key from the start.
//!
//! Departure: an answer also names the two known nodes nearest to the key itself, so that the last hops through a thinly
//! occupied part of the id space are not lost; they are asked only when the target gets there.

use super::{Ending, Step};
use crate::{
    Key, Level,
    core::{
        Contact,
        id::Distance,
        message::{Reply, Request, Want},
    },
};

/// What `next` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hop {
    /// Ask this node for nodes near the aim.
    Ask(Contact, Key),
    /// Nothing before an answer or a time-out.
    Wait,
    /// The closest have answered.
    Done,
}

/// The search.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) level: Level,
    pub(super) key: Key,
    /// Where the search stands in the id space: Coral's t.
    at: Key,
    bits: u8,
    /// How many of the nodes nearest the key must have answered.
    closest: usize,
    window: usize,
    /// By distance to the key, nearest first.
    candidates: Vec<Candidate>,
    asked: usize,
}

/// How a search goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) struct Way {
    /// Bits to correct per hop; none: straight for the key.
    pub(in crate::core) bits: Option<u8>,
    /// How many of the nodes nearest the key must have answered.
    pub(in crate::core) closest: usize,
    /// Questions under way at once.
    pub(in crate::core) window: usize,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    distance: Distance,
    contact: Contact,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Asked,
    Late,
    Answered,
    /// It answered when it was asked for the nodes nearest the key itself.
    AnsweredWhole,
    Failed,
}

impl State {
    const fn has_answered(self) -> bool {
        matches!(self, Self::Answered | Self::AnsweredWhole)
    }
}

impl Lookup {
    /// A search that starts at this node itself.
    pub(super) fn new(me: Contact, level: Level, key: Key, way: Way) -> Self {
        let at = if way.bits.is_some() { me.id.key() } else { key };
        let mut lookup = Self {
            level,
            key,
            at,
            bits: way.bits.unwrap_or(1),
            closest: way.closest.max(1),
            window: way.window.max(1),
            candidates: Vec::new(),
            asked: 0,
        };
        lookup.add(me);
        lookup
    }

    /// The same search in a wider cluster, on from the closest nodes reached: the id space is walked once.
    pub(super) fn widen(&self, me: Contact, level: Level, way: Way) -> Self {
        let mut wider = Self::new(me, level, self.key, way);
        for reached in self.answered().take(way.closest.max(1)) {
            if way.bits.is_some() {
                let common = usize::from(reached.id.key().common_bits(&self.key));
                let at = self.key.splice(&me.id.key(), common);
                if at.distance(&self.key) < wider.at.distance(&self.key) {
                    wider.at = at;
                }
            }
            wider.add(reached);
        }
        wider
    }

    pub(super) fn next(&mut self) -> Hop {
        let waiting = self.candidates.iter().filter(|one| one.state == State::Asked).count();
        while self.at != self.key {
            let at = self.at;
            let usable = |one: &&mut Candidate| !matches!(one.state, State::Failed | State::Late);
            let nearest =
                self.candidates.iter_mut().filter(usable).min_by_key(|one| one.contact.id.key().distance(&at));
            let Some(nearest) = nearest else { break };
            match nearest.state {
                State::New if waiting == 0 && self.asked < ASKED_LIMIT => {
                    nearest.state = State::Asked;
                    self.asked += 1;
                    return Hop::Ask(nearest.contact, self.key.nearer(&at, self.bits).unwrap_or(self.key));
                }
                State::New | State::Asked if waiting > 0 => return Hop::Wait,
                State::New | State::Asked | State::Late | State::Answered | State::AnsweredWhole | State::Failed => {
                    self.at = self.key.nearer(&at, self.bits).unwrap_or(self.key);
                }
            }
        }
        self.converge(waiting)
    }

    /// The target is the key: ask the nearest until enough of them have answered.
    fn converge(&mut self, waiting: usize) -> Hop {
        let mut nearest = self.candidates.iter().filter(|one| one.state != State::Failed).take(self.closest);
        if nearest.all(|one| one.state.has_answered()) {
            return self.look_around_the_failed();
        }
        // The more are late, the more are asked beside them.
        let late = self.candidates.iter().filter(|one| one.state == State::Late).count();
        let (key, room) = (self.key, waiting < self.window + late.min(self.window) && self.asked < ASKED_LIMIT);
        let hopeful = |one: &&mut Candidate| !matches!(one.state, State::Failed | State::Late);
        let mut best = self.candidates.iter_mut().filter(hopeful).take(self.closest.max(self.window));
        if let Some(fresh) = best.find(|one| one.state == State::New).filter(|_| room) {
            fresh.state = State::Asked;
            self.asked += 1;
            return Hop::Ask(fresh.contact, key);
        }
        let open = self.candidates.iter().any(|one| matches!(one.state, State::Asked | State::Late));
        if open { Hop::Wait } else { Hop::Done }
    }

    /// Keeps so many questions under way from now on.
    pub(super) const fn hurry(&mut self, window: usize) {
        self.window = window;
    }

    /// Those nearest the key that were named have all failed, so the nearest that answered, asked for another aim before, are asked
    /// who else is near the key.
    fn look_around_the_failed(&mut self) -> Hop {
        let failed = self.candidates.iter().position(|one| one.state == State::Failed);
        let answered = self.candidates.iter().position(|one| one.state.has_answered());
        let shadowed = failed.zip(answered).is_some_and(|(failed, answered)| failed < answered);
        let mut nearest = self.candidates.iter_mut().filter(|one| one.state.has_answered()).take(self.closest);
        let partial = nearest.find(|one| one.state == State::Answered);
        match partial.filter(|_| shadowed && self.asked < ASKED_LIMIT) {
            Some(one) => {
                one.state = State::Asked;
                self.asked += 1;
                Hop::Ask(one.contact, self.key)
            }
            None => Hop::Done,
        }
    }

    /// Whether enough of the nearest have answered, but for some that are late: a search may go on elsewhere meanwhile.
    pub(super) fn is_answered_but_for_the_late(&self) -> bool {
        let prompt = self.candidates.iter().filter(|one| !matches!(one.state, State::Failed | State::Late));
        self.at == self.key && prompt.take(self.closest).all(|one| one.state.has_answered())
    }

    /// Whether so many of those nearest the key have answered, the late among them.
    pub(super) fn is_answered_by_nearest(&self, count: usize) -> bool {
        self.at == self.key && self.hoped_for().take(count).all(|one| one.state.has_answered())
    }

    /// So many of the nodes nearest the key that have not failed.
    pub(super) fn nearest(&self, count: usize) -> impl Iterator<Item = Contact> {
        self.hoped_for().take(count).map(|one| one.contact)
    }

    fn hoped_for(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter().filter(|one| one.state != State::Failed)
    }

    /// Goes on until so many of the nodes nearest the key have answered. Whether that is more than before.
    pub(super) fn insist(&mut self, closest: usize) -> bool {
        let more = closest > self.closest;
        self.closest = self.closest.max(closest);
        more
    }

    pub(super) fn on_nodes(&mut self, from: Contact, nodes: &[Contact]) {
        let whole = self.at == self.key || self.state(from) == Some(State::AnsweredWhole);
        self.mark(from, if whole { State::AnsweredWhole } else { State::Answered });
        nodes.iter().for_each(|node| self.add(*node));
    }

    pub(super) fn on_late(&mut self, from: Contact) {
        if self.state(from) == Some(State::Asked) {
            self.mark(from, State::Late);
        }
    }

    pub(super) fn on_failure(&mut self, from: Contact) {
        self.mark(from, State::Failed);
    }

    /// The nodes that answered, nearest the key first.
    pub(super) fn answered(&self) -> impl Iterator<Item = Contact> {
        self.candidates.iter().filter(|one| one.state.has_answered()).map(|one| one.contact)
    }

    fn state(&self, contact: Contact) -> Option<State> {
        self.candidates.iter().find(|one| one.contact == contact).map(|one| one.state)
    }

    fn mark(&mut self, contact: Contact, state: State) {
        if let Some(one) = self.candidates.iter_mut().find(|one| one.contact == contact) {
            one.state = state;
        }
    }

    fn add(&mut self, contact: Contact) {
        let distance = contact.id.key().distance(&self.key);
        let place = self.candidates.binary_search_by_key(&(distance, contact), |one| (one.distance, one.contact));
        let Err(at) = place else { return };
        self.candidates.insert(at, Candidate { distance, contact, state: State::New });
        if self.candidates.len() > CANDIDATE_LIMIT {
            // The farthest that was never asked: one under way must stay to take its answer.
            if let Some(out) = self.candidates.iter().rposition(|one| one.state == State::New) {
                self.candidates.remove(out);
            }
        }
    }
}

/// A search of the node's own, to fill its tables.
#[derive(Debug)]
pub(in crate::core) struct Search(Lookup);

impl Search {
    pub(in crate::core) fn new(me: Contact, level: Level, key: Key, way: Way) -> Self {
        Self(Lookup::new(me, level, key, way))
    }

    pub(super) fn next(&mut self) -> Step {
        match self.0.next() {
            Hop::Ask(to, aim) => {
                Step::Ask(to, Request::Step { level: self.0.level, key: self.0.key, aim, want: Want::Nodes })
            }
            Hop::Wait => Step::Wait,
            Hop::Done => Step::Done(Ending::Searched),
        }
    }

    pub(super) fn on_reply(&mut self, from: Contact, reply: Reply) {
        if let Reply::Step { nodes, .. } = reply { self.0.on_nodes(from, &nodes) } else { self.0.on_failure(from) }
    }

    pub(super) fn on_late(&mut self, from: Contact) {
        self.0.on_late(from);
    }

    pub(super) fn on_failure(&mut self, from: Contact) {
        self.0.on_failure(from);
    }
}

/// Nodes a search remembers at most.
const CANDIDATE_LIMIT: usize = 64;

/// Nodes a search asks at most: twice the hops of a lookup with b = 1 among 2^32 nodes.
const ASKED_LIMIT: usize = 64;

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
