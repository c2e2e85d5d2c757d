//! The same question by several callers of this node at once is asked once, as is one that several other nodes hand to it, and
//! the answer to one that many ask is kept for a while: a hot key is hot on every node, and its root must not hear of it from each
//! as often as it is asked there.

use std::time::Duration;

use super::{Contact, Node, Op, Outcome, Output, message::Reply, time::Instant};
use crate::{Found, Key, Level, Levels, Mode, Put};

/// What is under way, told by what is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flight {
    Get(Key, Levels),
    Put(Put),
    /// A question of other nodes, handed on.
    Seek {
        key: Key,
        level: Level,
        widest: Level,
    },
}

/// An operation under way and who else waits for it.
#[derive(Debug)]
pub(super) struct Joint {
    task: u64,
    flight: Flight,
    /// Callers of this node.
    others: Vec<Op>,
    /// Other nodes.
    askers: Vec<Asker>,
}

/// A node that waits for the answer to a question handed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    pub(super) who: Contact,
    /// The number of its question.
    pub(super) id: u64,
    pub(super) arrived: Instant,
}

/// What a question that several callers waited for came to.
#[derive(Debug)]
pub(super) struct Answer {
    flight: Flight,
    outcome: Outcome,
    at: Instant,
    /// For how long it is said again.
    kept: Duration,
    /// How often it was.
    said: usize,
}

impl Flight {
    /// How long an answer that so many others waited for is kept: of a get the longer the more it was asked for, that there is
    /// nothing for a moment and only if many asked, of a put a small part of the time for which it was stored.
    fn kept(&self, others: usize, outcome: &Outcome) -> Option<Duration> {
        match (self, outcome) {
            _ if others == 0 => None,
            (Self::Get(..), Outcome::Get(Ok(Found::Values { .. }))) if others < CROWD => Some(KEPT),
            (Self::Get(..), Outcome::Get(Ok(Found::Values { .. }))) => Some(KEPT_FOR_CROWD),
            (Self::Get(..), Outcome::Get(Ok(Found::Nothing))) => (others >= CROWD).then_some(NOTHING_KEPT),
            (Self::Put(put), Outcome::Put(Ok(_))) => Some(put.ttl / 16),
            (Self::Get(..) | Self::Put(_) | Self::Seek { .. }, _) => None,
        }
    }
}

impl Node {
    /// Lets a caller wait for what is under way. Whether the same is.
    pub(super) fn join(&mut self, op: Op, flight: &Flight) -> bool {
        let limit = self.config.operations;
        let Some(joint) = self.joints.iter_mut().find(|one| one.flight == *flight) else { return false };
        if joint.others.len() >= limit {
            return false;
        }
        joint.others.push(op);
        true
    }

    /// The next operation to begin is this one. In mode `paper` each caller asks for itself.
    pub(super) fn depart(&mut self, flight: Flight) {
        if self.config.mode == Mode::Best {
            self.joints.push(Joint { task: self.next_task, flight, others: Vec::new(), askers: Vec::new() });
        }
    }

    /// Lets another node wait for the answer to what this one hands on already. Whether the same is under way.
    pub(super) fn join_seek(&mut self, asker: Asker, flight: &Flight) -> bool {
        let limit = self.config.waiters;
        let joint = self.joints.iter_mut().find(|one| one.flight == *flight && one.askers.len() < limit);
        joint.map(|joint| joint.askers.push(asker)).is_some()
    }

    /// A question handed on has its answer, or will have none: those who waited for the same are told.
    pub(super) fn arrive_seek(&mut self, now: Instant, task: u64, answer: Option<&Reply>) {
        let Some(at) = self.joints.iter().position(|one| one.task == task) else { return };
        let joint = self.joints.swap_remove(at);
        let Some(answer) = answer else { return };
        for Asker { who, id, arrived } in joint.askers {
            self.reply(now, who, id, arrived, answer.clone());
        }
    }

    /// Whether a crowd of callers waits for an operation: then the same goes on at other nodes, and one word that there is nothing
    /// is enough until it is asked again, a moment later. Were each to make sure, all would ask the nodes nearest the key.
    pub(super) fn is_crowded(&self, now: Instant, task: u64) -> bool {
        self.joints.iter().find(|one| one.task == task).is_some_and(|one| self.company(now, one) >= CROWD)
    }

    /// How many others asked the same: those who wait, or, where answers come too soon for others to wait, those who came lately.
    fn company(&self, now: Instant, joint: &Joint) -> usize {
        let Flight::Get(key, _) = &joint.flight else { return joint.others.len() };
        let again = self.asked_again(now, key);
        if again >= CROWD { again } else { joint.others.len() }
    }

    /// Says an answer once more that several callers waited for a moment ago. Whether there is one.
    pub(super) fn answer_again(&mut self, now: Instant, op: Op, flight: &Flight) -> bool {
        self.answers.retain(|one| now.since(one.at) < one.kept);
        let Some(answer) = self.answers.iter_mut().find(|one| one.flight == *flight) else { return false };
        answer.said += 1;
        // A crowd whose first question was answered too soon for many to wait for it.
        if let Some(kept) = answer.flight.kept(answer.said, &answer.outcome) {
            answer.kept = answer.kept.max(kept);
        }
        let age = now.since(answer.at);
        let mut outcome = answer.outcome.clone();
        if let Outcome::Get(Ok(Found::Values { values, .. })) = &mut outcome {
            values.retain(|value| value.ttl > age);
            values.iter_mut().for_each(|value| value.ttl -= age);
            if values.is_empty() {
                return false;
            }
        }
        self.done(op, outcome);
        true
    }

    /// What was stored under a key is to be there no more: a put of it must go out again.
    pub(super) fn forget_puts(&mut self, key: &Key) {
        self.answers.retain(|one| !matches!(&one.flight, Flight::Put(put) if put.key == *key));
    }

    /// An operation is over, or was never begun: those who waited for it are told as well.
    pub(super) fn arrive(&mut self, now: Instant, task: u64, outcome: &Outcome) {
        let Some(at) = self.joints.iter().position(|one| one.task == task) else { return };
        let joint = self.joints.swap_remove(at);
        for op in &joint.others {
            self.outbox.push_back(Output::Done { op: *op, outcome: outcome.clone() });
        }
        if let Some(kept) = joint.flight.kept(self.company(now, &joint), outcome) {
            self.answers.retain(|one| one.flight != joint.flight);
            if self.answers.len() >= ANSWERS {
                self.answers.remove(0);
            }
            if let (Flight::Get(key, _), Outcome::Get(Ok(Found::Nothing))) = (&joint.flight, outcome) {
                // To be asked again after a moment, as if for the first time.
                self.asked.retain(|one| one.key != *key);
            }
            self.answers.push(Answer { flight: joint.flight, outcome: outcome.clone(), at: now, kept, said: 0 });
        }
    }

    /// A caller waits no more: the one of the others who takes its place; none if nobody else waits.
    pub(super) fn heir(&mut self, task: u64) -> Option<Op> {
        let joint = self.joints.iter_mut().find(|one| one.task == task)?;
        let heir = joint.others.pop();
        if heir.is_none() {
            self.joints.retain(|one| one.task != task);
        }
        heir
    }

    /// A caller that joined waits no more.
    pub(super) fn part(&mut self, op: Op) {
        self.joints.iter_mut().for_each(|one| one.others.retain(|other| *other != op));
    }
}

/// How long what a get found is kept. Shorter: more questions for hot keys; longer: holders that came meanwhile are named later.
const KEPT: Duration = Duration::from_secs(15);

/// The same where at least so many callers of one node waited for it: every node of the network may be as busy, and the key's root
/// hears from each of them.
const KEPT_FOR_CROWD: Duration = Duration::from_secs(60);
const CROWD: usize = 16;

/// How long it is kept that there is nothing, where a crowd waited for it. Longer: what is put meanwhile is found later.
const NOTHING_KEPT: Duration = Duration::from_secs(2);

/// Answers kept at most.
const ANSWERS: usize = 64;
