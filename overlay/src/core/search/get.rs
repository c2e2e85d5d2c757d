//! Hierarchical get (NSDI'04 4.3): the near cluster first, then wider ones, on from where the search stood, until a node has
//! values. Three ways, one after the other as they are needed:
//!
//! - **Handed on** (mode `best`): the question goes from node to node over links that stand, each nearer the key, and the answer
//!   comes back the same way. On the PlanetLab matrix that costs half the time and half the messages of asking every hop oneself.
//!   If the way through nearer levels is late, it is handed on once more, by another node and straight at the widest level.
//! - **Asked hop by hop** (mode `paper`, and once the first way is late or fails): slower, and in this node's own hands.
//! - **Thoroughly**: a get repeated at once says that the answer was of no use, so that some node on the way lied or was out of
//!   date. Then no single answer ends the search: those that have values are heard until as many as are to keep a value name the
//!   same one, else all of them, and what most of them say comes first. Beside that the question is handed on, over links that stand:
//!   each answer to it counts as one node's.

use std::time::Duration;

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
    /// Nodes that have it while a thorough search goes on: it waits for none of them.
    beside: Vec<Contact>,
    found: Option<(Level, Vec<Pointer>)>,
    thorough: Option<Heard>,
    deadline: Duration,
}

/// What a thorough get has heard.
#[derive(Debug, Default)]
struct Heard {
    level: Option<Level>,
    /// Each pointer and how many nodes named it.
    pointers: Vec<(u32, Pointer)>,
    /// So many naming the same one are enough.
    enough: u32,
}

impl Heard {
    fn is_enough(&self) -> bool {
        self.pointers.iter().any(|(times, _)| *times >= self.enough)
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
    /// No single answer ends the search, but so many that name the same pointer do; none if one answer is enough.
    pub(in crate::core) thorough: Option<u32>,
    pub(in crate::core) deadline: Duration,
}

impl Get {
    /// Levels from the nearest on; at least one.
    pub(in crate::core) fn new(me: Contact, key: Key, levels: &[Level], plan: Plan) -> Self {
        let mut wider: Vec<Level> = levels.iter().rev().copied().collect();
        let level = wider.pop().unwrap_or(Level::GLOBAL);
        let Plan { way, insist, own_counts, hand: mut handed, wide, thorough, deadline } = plan;
        handed.reverse();
        let patient = handed.last().is_some_and(|(_, request)| request.is_through_levels());
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
            beside: Vec::new(),
            found: None,
            thorough: thorough.map(|enough| Heard { enough, ..Heard::default() }),
            deadline,
        };
        if get.thorough.is_some() {
            get.hurry();
        }
        get
    }

    pub(super) fn next(&mut self) -> Step {
        loop {
            if let Some((level, found)) = self.found.take() {
                return Step::Done(Ending::Found(level, found));
            }
            if self.thorough.as_ref().is_some_and(Heard::is_enough) {
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
                self.beside.push(to);
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
                (Hop::Wait, _) if self.has_heard() && self.lookup.is_answered_but_for_the_late() => {
                    return Step::Done(self.conclude(Ok(Found::Nothing)));
                }
                (Hop::Wait, _) => return Step::Wait,
                // After deaths, those that have it may not be the very closest any more.
                (Hop::Done, last) if (last || self.hurried) && self.lookup.insist(self.insist) => {}
                (Hop::Done, true) => return Step::Done(self.conclude(Ok(Found::Nothing))),
                // All that have it in the widest level were heard, and there it began: the nearer ones would say the same.
                (Hop::Done, false) if self.has_heard() => return Step::Done(self.conclude(Ok(Found::Nothing))),
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

    fn has_heard(&self) -> bool {
        self.thorough.as_ref().is_some_and(|heard| heard.level.is_some())
    }

    /// On to the next wider level.
    fn widen(&mut self) {
        let level = self.wider.pop().unwrap_or(Level::GLOBAL);
        self.lookup = self.lookup.widen(self.me, level, self.way);
    }

    pub(super) fn on_reply(&mut self, from: Contact, reply: Reply) {
        match reply {
            Reply::Sought { level, values } => {
                let values = self.foreign(values);
                self.beside.retain(|one| *one != from);
                if self.thorough.is_some() {
                    self.hear(level, values);
                } else if !values.is_empty() {
                    self.found = Some((level, values));
                } else if self.waiting.contains(&from) {
                    // One word for it is not enough that there is nothing: this node looks for itself.
                    self.take_back();
                    self.denied = self.content;
                }
            }
            Reply::Step { seen, nodes } => {
                self.lookup.on_nodes(from, &nodes);
                if let Seen::Values(values) = seen {
                    let values = self.foreign(values);
                    self.hear(self.lookup.level, values);
                }
            }
            Reply::Refused(_)
            | Reply::Pong
            | Reply::Wait
            | Reply::Nodes(_)
            | Reply::Stored(_)
            | Reply::Done
            | Reply::Acquired(_)
            | Reply::Beaten(_)
            | Reply::Held(_)
            | Reply::SpreadKeys { .. }
            | Reply::Spread(_) => self.on_failure(from),
        }
    }

    /// A question handed on is late: it is handed on once more, then this node goes on by itself, and takes whatever comes first.
    pub(super) fn on_late(&mut self, from: Contact) {
        if self.waiting.contains(&from) {
            if std::mem::take(&mut self.patient) {
                self.again = true;
                return;
            }
            self.take_back();
            // Somebody on the way is dead: others may be as well, and there is no time to find that out one after the other.
            self.hurry();
        } else if !self.beside.contains(&from) {
            self.lookup.on_late(from);
        }
    }

    pub(super) fn on_failure(&mut self, from: Contact) {
        if self.waiting.contains(&from) {
            self.waiting.retain(|one| *one != from);
        } else if self.beside.contains(&from) {
            self.beside.retain(|one| *one != from);
        } else {
            self.lookup.on_failure(from);
        }
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

    fn hear(&mut self, level: Level, values: Vec<Pointer>) {
        if values.is_empty() {
            return;
        }
        let Some(heard) = &mut self.thorough else {
            self.found = Some((level, values));
            return;
        };
        heard.level.get_or_insert(level);
        for value in values {
            let same = |one: &&mut (u32, Pointer)| one.1.holder == value.holder && one.1.value == value.value;
            let room = heard.pointers.len() < HEARD_LIMIT;
            match heard.pointers.iter_mut().find(same) {
                Some((times, _)) => *times += 1,
                None if room => heard.pointers.push((1, value)),
                None => {}
            }
        }
    }

    /// Ends with what a thorough search heard, else like this.
    fn conclude(&mut self, otherwise: Result<Found, IndexError>) -> Ending {
        let mut heard = self.thorough.take().unwrap_or_default();
        let Some(level) = heard.level else { return Ending::Outcome(Outcome::Get(otherwise)) };
        heard.pointers.sort_by_key(|(times, _)| std::cmp::Reverse(*times));
        Ending::Found(level, heard.pointers.into_iter().map(|(_, pointer)| pointer).collect())
    }
}

/// Pointers a thorough get keeps at most.
const HEARD_LIMIT: usize = 64;

#[cfg(test)]
#[path = "get_tests.rs"]
mod tests;
