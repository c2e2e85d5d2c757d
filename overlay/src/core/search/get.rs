//! Hierarchical get (NSDI'04 4.3): the near cluster first, then wider ones, on from where the search stood, until a node has
//! values. Three ways, one after the other as they are needed:
//!
//! - **Handed on** (mode `best`): the question goes from node to node over links that stand, each nearer the key, and the answer
//!   comes back the same way. On the PlanetLab matrix that costs half the time and half the messages of asking every hop oneself.
//!   If the way through nearer levels is late, it is handed on once more, by another node and straight at the widest level.
//! - **Asked hop by hop** (mode `paper`, and once the first way is late or fails): slower, and in this node's own hands.
//! - **Thoroughly**: a get repeated at once says that the answer was of no use, so that some node on the way lied or was out of
//!   date. Then no single answer ends the search. In a nearer cluster it ends if those nearest the key there all name the same
//!   pointer. In the widest one those that have values are heard until enough name the same one and those nearest the key have spoken,
//!   who would know better, the late among them: strangers, to whom a link must be dialled, know best. Else all are heard. What most of
//!   them say comes first. Beside that the question is handed on, over links that stand. A node has one voice however often it names a
//!   pointer, and so has all that comes back of the question handed on: the same node may have said it all.

use std::time::Duration;

use super::{Ending, Hop, Lookup, Manner, Step, lookup::Way};
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
    /// So many of the nodes nearest the key must say that they have nothing before that is believed.
    insist: usize,
    /// What this node put itself ends the search as well.
    own_counts: bool,
    /// A question handed on was late.
    hurried: bool,
    /// The question goes through levels: at its first delay it is handed on once more, at its second it is late.
    patient: bool,
    /// It is to be handed on a second time.
    again: bool,
    /// One word that there is nothing is enough.
    content: bool,
    /// That word was heard.
    denied: bool,
    /// Levels still to be searched, the next one last.
    wider: Vec<Level>,
    lookup: Lookup,
    /// Nodes to hand the question to, best last, and those that have it.
    handed: Vec<(Contact, Request)>,
    /// The same at the widest level, for when the way through the nearer ones takes long.
    wide: Vec<(Contact, Request)>,
    waiting: Vec<Contact>,
    found: Option<(Level, Vec<Pointer>)>,
    thorough: Option<Heard>,
    deadline: Duration,
}

/// What a thorough get has heard.
#[derive(Debug, Default)]
struct Heard {
    named: Vec<Named>,
    /// So many naming the same pointer are enough, once as many of those nearest the key have answered.
    enough: usize,
}

/// A pointer that was named.
#[derive(Debug)]
struct Named {
    pointer: Pointer,
    /// The level at which it was named first.
    level: Level,
    voices: Vec<Voice>,
}

/// Who named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Voice {
    /// A node that was asked for what it knows itself.
    Node(Contact),
    /// Somebody that the question was handed to, whoever it was.
    Relayed,
}

impl Heard {
    fn is_enough(&self) -> bool {
        self.named.iter().any(|one| one.voices.len() >= self.enough)
    }

    /// These nodes all name the same pointer.
    fn is_named_by_all(&self, nodes: &[Contact]) -> bool {
        self.named.iter().any(|one| nodes.iter().all(|node| one.voices.contains(&Voice::Node(*node))))
    }

    /// A node that was asked itself has values.
    fn is_firsthand(&self) -> bool {
        self.named.iter().any(|one| one.voices.iter().any(|voice| *voice != Voice::Relayed))
    }

    fn add(&mut self, voice: Voice, level: Level, pointer: Pointer) {
        let same = |one: &&mut Named| one.pointer.holder == pointer.holder && one.pointer.value == pointer.value;
        let room = self.named.len() < HEARD_LIMIT;
        match self.named.iter_mut().find(same) {
            Some(one) if one.voices.contains(&voice) => {}
            Some(one) => one.voices.push(voice),
            None if room => self.named.push(Named { pointer, level, voices: vec![voice] }),
            None => {}
        }
    }
}

/// How a get goes about it.
#[derive(Debug)]
pub(in crate::core) struct Plan {
    pub(in crate::core) way: Way,
    /// So many of the nodes nearest the key must say that they have nothing before that is believed.
    pub(in crate::core) insist: usize,
    /// What this node put itself ends the search as well: by the paper a node that stores the key asks nobody.
    pub(in crate::core) own_counts: bool,
    /// Nodes to hand the question to, best first, with what they are asked; none to ask hop by hop.
    pub(in crate::core) hand: Vec<(Contact, Request)>,
    /// The same at the widest level, to be handed on a second time; none if that is where the first begins.
    pub(in crate::core) wide: Vec<(Contact, Request)>,
    /// No single answer ends the search, but so many that name the same pointer do, once as many of those nearest the key have
    /// answered; none if one answer is enough.
    pub(in crate::core) thorough: Option<usize>,
    pub(in crate::core) deadline: Duration,
}

impl Get {
    /// Levels from the nearest on; at least one.
    pub(in crate::core) fn new(me: Contact, key: Key, levels: &[Level], plan: Plan) -> Self {
        let mut wider: Vec<Level> = levels.iter().rev().copied().collect();
        let level = wider.pop().unwrap_or(Level::GLOBAL);
        let Plan { mut way, insist, own_counts, hand: mut handed, wide, thorough, deadline } = plan;
        handed.reverse();
        let patient = handed.last().is_some_and(|(_, request)| request.is_through_levels());
        if thorough.is_some() {
            way.window *= THOROUGH_WINDOWS;
        }
        let mut get = Self {
            me,
            way,
            insist,
            own_counts,
            hurried: false,
            patient,
            again: false,
            content: false,
            denied: false,
            wider,
            lookup: Lookup::new(me, level, key, way),
            handed,
            wide,
            waiting: Vec::new(),
            found: None,
            thorough: thorough.map(|enough| Heard { enough, ..Heard::default() }),
            deadline,
        };
        get.lookup = Lookup::new(me, level, key, get.way_here());
        get
    }

    pub(super) fn next(&mut self) -> Step {
        loop {
            if let Some((level, found)) = self.found.take() {
                return Step::Done(Ending::Found(level, found));
            }
            if self.is_agreed() {
                return Step::Done(self.conclude(Ok(Found::Nothing)));
            }
            if self.denied {
                return Step::Done(Ending::Outcome(Outcome::Get(Ok(Found::Nothing))));
            }
            if let Some((to, request)) = self.second() {
                self.waiting.push(to);
                return Step::Ask(to, request);
            }
            if self.thorough.is_some()
                && let Some((to, request)) = self.handed.pop()
            {
                return Step::Ask(to, request);
            }
            if self.waiting.is_empty()
                && let Some((to, request)) = self.handed.pop()
            {
                self.waiting.push(to);
                return Step::Ask(to, request);
            }
            if !self.waiting.is_empty() {
                return Step::Wait;
            }
            match (self.lookup.next(), self.wider.is_empty()) {
                (Hop::Ask(to, aim), _) => {
                    let (level, key) = (self.lookup.level, self.lookup.key);
                    return Step::Ask(to, Request::Step { level, key, aim, want: Want::Values });
                }
                // A node that is late holds up no wider search.
                (Hop::Wait, false) if !self.hurried && self.lookup.is_answered_but_for_the_late() => self.widen(),
                (Hop::Wait, true) if self.lookup.is_answered_but_for_the_late() && self.lookup.insist(self.insist) => {}
                // What was heard from all others is enough.
                (Hop::Wait, _) if self.has_heard_nearest() && self.lookup.is_answered_but_for_the_late() => {
                    return Step::Done(self.conclude(Ok(Found::Nothing)));
                }
                (Hop::Wait, _) => return Step::Wait,
                // After deaths, those that have it may not be the very closest any more.
                (Hop::Done, last) if (last || self.hurried) && self.lookup.insist(self.insist) => {}
                (Hop::Done, true) => return Step::Done(self.conclude(Ok(Found::Nothing))),
                (Hop::Done, false) => self.widen(),
            }
        }
    }

    /// Looks in the widest level first, since all that is in the nearer ones is there as well, but for what is hot or was meant for
    /// these alone: to walk them all now would take longer than the whole way of a question handed on.
    fn hurry(&mut self) {
        self.hurried = true;
        self.way.window *= 2;
        if !self.wider.is_empty() {
            let widest = self.wider.remove(0);
            self.wider.push(self.lookup.level);
            self.lookup = self.lookup.widen(self.me, widest, self.way);
        }
        self.lookup.hurry(self.way.window);
    }

    /// The question once more, once the first way is late: straight at the widest level, by another node.
    fn second(&mut self) -> Option<(Contact, Request)> {
        if !self.again {
            return None;
        }
        self.again = false;
        let first = &self.waiting;
        let at = self.wide.iter().position(|(to, _)| !first.contains(to))?;
        Some(std::mem::take(&mut self.wide).swap_remove(at))
    }

    /// From now on one word that there is nothing is enough.
    pub(super) const fn be_content(&mut self) {
        self.content = true;
    }

    /// This search itself came to nodes that have values, and those nearest the key have spoken. What came back of the question handed
    /// on may be one node's lie.
    fn has_heard_nearest(&self) -> bool {
        let heard = self.thorough.as_ref().filter(|heard| heard.is_firsthand());
        heard.is_some_and(|heard| self.lookup.is_answered_by_nearest(heard.enough))
    }

    /// Enough name the same pointer, and those that should know have spoken; in a nearer level all of these name it, since whoever has it
    /// may be elsewhere.
    fn is_agreed(&self) -> bool {
        let Some(heard) = &self.thorough else { return false };
        if self.wider.is_empty() {
            return heard.is_enough() && self.lookup.is_answered_by_nearest(heard.enough);
        }
        let nearest: Vec<Contact> = self.lookup.nearest(heard.enough).collect();
        nearest.len() >= heard.enough && heard.is_named_by_all(&nearest)
    }

    /// How the level at hand is searched: a thorough search hears many in the widest alone.
    fn way_here(&self) -> Way {
        let near = self.thorough.as_ref().filter(|_| !self.wider.is_empty());
        Way { closest: near.map_or(self.way.closest, |heard| heard.enough), ..self.way }
    }

    /// On to the next wider level.
    fn widen(&mut self) {
        let level = self.wider.pop().unwrap_or(Level::GLOBAL);
        self.lookup = self.lookup.widen(self.me, level, self.way_here());
    }

    /// The level being searched.
    pub(super) const fn level(&self) -> Level {
        self.lookup.level
    }

    pub(super) fn on_reply(&mut self, from: Contact, manner: Manner, reply: Reply) {
        match (manner, reply) {
            (Manner::HandedOn, Reply::Sought { level, values }) => {
                let values = self.foreign(values);
                if self.thorough.is_some() {
                    self.hear(Voice::Relayed, level, values);
                } else if !values.is_empty() {
                    self.found = Some((level, values));
                } else if self.waiting.contains(&from) {
                    // One word for it is not enough that there is nothing: this node looks for itself.
                    self.take_back();
                    self.denied = self.content;
                }
            }
            (Manner::Directly, Reply::Step { seen, nodes }) => {
                self.lookup.on_nodes(from, &nodes);
                if let Seen::Values(values) = seen {
                    let values = self.foreign(values);
                    self.hear(Voice::Node(from), self.lookup.level, values);
                }
            }
            (
                Manner::Directly | Manner::HandedOn,
                Reply::Refused(_)
                | Reply::Pong
                | Reply::Wait
                | Reply::Nodes(_)
                | Reply::Step { .. }
                | Reply::Sought { .. }
                | Reply::Stored(_)
                | Reply::Done
                | Reply::Acquired(_)
                | Reply::Beaten(_)
                | Reply::Held(_)
                | Reply::SpreadKeys { .. }
                | Reply::Spread(_),
            ) => self.on_failure(from, manner),
        }
    }

    /// A question handed on is late: it is handed on once more, then this node goes on by itself, and takes whatever comes first.
    pub(super) fn on_late(&mut self, from: Contact, manner: Manner) {
        if self.waiting.contains(&from) {
            if std::mem::take(&mut self.patient) {
                self.again = true;
                return;
            }
            self.take_back();
            // Somebody on the way is dead: others may be as well, and there is no time to find that out one after the other.
            self.hurry();
        } else if self.bears_on_search(manner) {
            self.lookup.on_late(from);
        }
    }

    pub(super) fn on_failure(&mut self, from: Contact, manner: Manner) {
        if self.waiting.contains(&from) {
            self.waiting.retain(|one| *one != from);
        } else if self.bears_on_search(manner) {
            self.lookup.on_failure(from);
        }
    }

    /// A thorough search asks nodes itself that have the question to hand on as well: the one says nothing of the other. Else a
    /// question handed on was asked before, and who was silent then need not be asked again.
    fn bears_on_search(&self, manner: Manner) -> bool {
        self.thorough.is_none() || manner == Manner::Directly
    }

    /// Waits for no question handed on any more.
    fn take_back(&mut self) {
        self.waiting.clear();
        self.handed.clear();
        self.wide.clear();
    }

    pub(super) fn expire(mut self) -> Ending {
        let late = Err(IndexError::Timeout(self.deadline));
        self.conclude(late)
    }

    /// What this node put itself is no news to it.
    fn foreign(&self, mut values: Vec<Pointer>) -> Vec<Pointer> {
        values.retain(|value| self.own_counts || value.holder != self.me);
        values
    }

    fn hear(&mut self, voice: Voice, level: Level, values: Vec<Pointer>) {
        if values.is_empty() {
            return;
        }
        let Some(heard) = &mut self.thorough else {
            self.found = Some((level, values));
            return;
        };
        values.into_iter().for_each(|value| heard.add(voice, level, value));
    }

    /// Ends with what a thorough search heard, else like this.
    fn conclude(&mut self, otherwise: Result<Found, IndexError>) -> Ending {
        let mut named = self.thorough.take().unwrap_or_default().named;
        named.sort_by_key(|one| std::cmp::Reverse(one.voices.len()));
        let Some(level) = named.first().map(|one| one.level) else { return Ending::Outcome(Outcome::Get(otherwise)) };
        Ending::Found(level, named.into_iter().map(|one| one.pointer).collect())
    }
}

/// A thorough get keeps so many times as many questions under way: strangers, to whom a link is dialled, are asked beside each other.
/// \[measured: at 2 the slowest thousandth under loss takes 50 to 200 ms longer; at 8 less is found among liars\]
const THOROUGH_WINDOWS: usize = 4;

/// Pointers a thorough get keeps at most.
const HEARD_LIMIT: usize = 64;

#[cfg(test)]
#[path = "get_tests.rs"]
mod tests;
