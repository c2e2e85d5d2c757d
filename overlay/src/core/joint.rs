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

/// What a question that several callers waited for came to.
#[derive(Debug)]
pub(super) struct Answer {
    flight: Flight,
    outcome: Outcome,
    at: Instant,
    /// For how long it is said again.
    kept: Duration,
}

impl Flight {
    /// How long the answer that so many others waited for is kept: of a get the longer the more it was asked for, of a put only a
    /// small part of the time for which it was stored.
    fn kept(&self, others: usize) -> Duration {
        match self {
            Self::Get(..) if others < CROWD => KEPT,
            Self::Get(..) => KEPT_FOR_CROWD,
            Self::Put(put) => put.ttl / 16,
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
            self.joints.push(Joint { task: self.next_task, flight, others: Vec::new() });
        }
    }

    /// Says an answer once more that several callers waited for a moment ago. Whether there is one.
    pub(super) fn answer_again(&mut self, now: Instant, op: Op, flight: &Flight) -> bool {
        self.answers.retain(|one| now.since(one.at) < one.kept);
        let Some(answer) = self.answers.iter().find(|one| one.flight == *flight) else { return false };
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
        let good = matches!(outcome, Outcome::Get(Ok(Found::Values { .. })) | Outcome::Put(Ok(_)));
        if good && !joint.others.is_empty() {
            self.answers.retain(|one| one.flight != joint.flight);
            if self.answers.len() >= ANSWERS {
                self.answers.remove(0);
            }
            let kept = joint.flight.kept(joint.others.len());
            self.answers.push(Answer { flight: joint.flight, outcome: outcome.clone(), at: now, kept });
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

/// Answers kept at most.
const ANSWERS: usize = 64;
