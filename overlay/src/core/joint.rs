//! The same question by several callers of this node at once is asked once, and the answer to one that many ask is kept for a
//! while: a hot key is hot on every node, and its root must not hear of it from each as often as it is asked there.

use std::time::Duration;

use super::{Node, Op, Outcome, Output, time::Instant};
use crate::{Found, Key, Levels, Mode, Put};

/// What is under way, told by what is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flight {
    Get(Key, Levels),
    Put(Put),
}

/// An operation under way and who else waits for it.
#[derive(Debug)]
pub(super) struct Joint {
    task: u64,
    flight: Flight,
    others: Vec<Op>,
}

/// What a get that several callers waited for has found.
#[derive(Debug)]
pub(super) struct Answer {
    key: Key,
    levels: Levels,
    found: Found,
    at: Instant,
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
            self.joints.push(Joint { task: self.next_task, flight, others: Vec::new() });
        }
    }

    /// Says an answer once more that several callers waited for a moment ago. Whether there is one.
    pub(super) fn answer_again(&mut self, now: Instant, op: Op, key: Key, levels: Levels) -> bool {
        self.answers.retain(|one| now.since(one.at) < KEPT);
        let Some(answer) = self.answers.iter().find(|one| one.key == key && one.levels == levels) else { return false };
        let age = now.since(answer.at);
        let mut found = answer.found.clone();
        if let Found::Values { values, .. } = &mut found {
            values.retain(|value| value.ttl > age);
            values.iter_mut().for_each(|value| value.ttl -= age);
            if values.is_empty() {
                return false;
            }
        }
        self.done(op, Outcome::Get(Ok(found)));
        true
    }

    /// An operation is over, or was never begun: those who waited for it are told as well.
    pub(super) fn arrive(&mut self, now: Instant, task: u64, outcome: &Outcome) {
        let Some(at) = self.joints.iter().position(|one| one.task == task) else { return };
        let joint = self.joints.swap_remove(at);
        for op in &joint.others {
            self.outbox.push_back(Output::Done { op: *op, outcome: outcome.clone() });
        }
        if let (Flight::Get(key, levels), Outcome::Get(Ok(found @ Found::Values { .. })), false) =
            (joint.flight, outcome, joint.others.is_empty())
        {
            self.answers.retain(|one| one.key != key || one.levels != levels);
            if self.answers.len() >= ANSWERS {
                self.answers.remove(0);
            }
            self.answers.push(Answer { key, levels, found: found.clone(), at: now });
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

/// How long an answer is kept. Shorter: more questions for hot keys; longer: holders that came meanwhile are named later.
const KEPT: Duration = Duration::from_secs(15);

/// Answers kept at most.
const ANSWERS: usize = 64;
