//! What is said to the root of a key alone: acquire, beat and pass. The root is found by asking the nearest node known, which
//! acts or names nearer ones; each errand is its own search, so that a known root costs one round trip.
//!
//! A node that does not answer is asked once more when it is late (a lost message), and the next nearest beside it, to which it is named
//! as unreached; that one sees for itself before it acts as root, and says so if it finds that the late one lives. What comes first counts.

use std::time::Duration;

use bytes::Bytes;

use super::{Ending, Step};
use crate::{
    Acquire, Beat, IndexError, Key, Lease, Marker, NodeId,
    core::{
        Contact, Outcome,
        id::Distance,
        message::{Acquisition, Beaten, Reply, Request},
    },
};

/// What the root is to be told.
#[derive(Debug, Clone)]
pub(in crate::core) enum ErrandKind {
    /// A copy is wanted, or the fetch.
    Acquire(Acquire),
    /// The fetch goes on.
    Beat { lease: Lease, reference: Bytes, ttl: Duration },
    /// The fetch cannot be shared.
    Pass { lease: Lease, marker: Marker },
}

/// An errand under way.
#[derive(Debug)]
pub(in crate::core) struct Errand {
    kind: ErrandKind,
    deadline: Duration,
    /// Nearest the key first.
    candidates: Vec<Candidate>,
    unreached: Vec<NodeId>,
    asked: usize,
    ending: Option<Outcome>,
    references: Option<Ending>,
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
    /// Late: to be asked once more.
    Again,
    /// Asked once more.
    AskedAgain,
    /// It is not the root.
    Elsewhere,
    Failed,
}

impl Errand {
    /// An errand that starts at this node itself.
    pub(in crate::core) fn new(me: Contact, kind: ErrandKind, deadline: Duration) -> Self {
        let mut errand = Self {
            kind,
            deadline,
            candidates: Vec::new(),
            unreached: Vec::new(),
            asked: 0,
            ending: None,
            references: None,
        };
        errand.add(me);
        errand
    }

    pub(super) fn next(&mut self) -> Step {
        if let Some(ending) = self.references.take() {
            return Step::Done(ending);
        }
        if let Some(outcome) = self.ending.take() {
            return Step::Done(Ending::Outcome(outcome));
        }
        let mut late: Vec<NodeId> = Vec::new();
        for one in &mut self.candidates {
            one.state = match one.state {
                State::New => State::Asked,
                State::Again => State::AskedAgain,
                State::AskedAgain if late.len() < LATE_LIMIT => {
                    late.push(one.contact.id);
                    continue;
                }
                State::Asked | State::AskedAgain => return Step::Wait,
                // It knows of a nearer one that lives: only a late one can be meant.
                State::Elsewhere if !late.is_empty() => return Step::Wait,
                State::Elsewhere | State::Failed => continue,
            };
            self.asked += 1;
            if self.asked > ASKED_LIMIT {
                break;
            }
            let to = one.contact;
            return Step::Ask(to, self.request(&late));
        }
        if late.is_empty() || self.asked > ASKED_LIMIT {
            return Step::Done(Ending::Outcome(self.silence()));
        }
        Step::Wait
    }

    pub(super) fn on_reply(&mut self, from: Contact, reply: Reply) {
        match reply {
            Reply::Acquired(Acquisition::Elsewhere(nodes)) | Reply::Beaten(Beaten::Elsewhere(nodes)) => {
                self.mark(from, State::Elsewhere);
                nodes.into_iter().for_each(|node| self.add(node));
            }
            Reply::Acquired(Acquisition::References(values)) => self.references = Some(Ending::References(values)),
            Reply::Acquired(Acquisition::Granted(lease)) => {
                self.ending = Some(Outcome::Acquire(Ok(crate::Acquired::Granted(lease))));
            }
            Reply::Acquired(Acquisition::Marked(marker)) => {
                self.ending = Some(Outcome::Acquire(Ok(crate::Acquired::Marked(marker))));
            }
            Reply::Beaten(Beaten::Kept) => self.ending = Some(Outcome::Beat(Ok(Beat::Kept))),
            Reply::Beaten(Beaten::Superseded(by)) => self.references = Some(Ending::Superseded(by)),
            Reply::Done => self.ending = Some(Outcome::Pass(Ok(()))),
            Reply::Refused(refusal) => self.ending = Some(self.fail(IndexError::Refused(refusal.to_string()))),
            // No answer to an errand: as good as none.
            Reply::Pong
            | Reply::Wait
            | Reply::Nodes(_)
            | Reply::Step { .. }
            | Reply::Sought { .. }
            | Reply::Stored(_)
            | Reply::Held(_)
            | Reply::SpreadKeys { .. }
            | Reply::Spread(_) => self.on_failure(from),
        }
    }

    pub(super) fn on_late(&mut self, from: Contact) {
        if self.candidates.iter().any(|one| one.contact == from && one.state == State::Asked) {
            self.mark(from, State::Again);
            self.ask_namers();
        }
    }

    pub(super) fn on_failure(&mut self, from: Contact) {
        self.mark(from, State::Failed);
        if self.unreached.len() < Request::FAILED_LIMIT && !self.unreached.contains(&from.id) {
            self.unreached.push(from.id);
        }
        self.ask_namers();
    }

    /// Those that named a node which does not answer are asked again: they may act in its place.
    fn ask_namers(&mut self) {
        for one in &mut self.candidates {
            if one.state == State::Elsewhere {
                one.state = State::New;
            }
        }
    }

    pub(super) fn expire(self) -> Ending {
        Ending::Outcome(self.silence())
    }

    const fn key(&self) -> Key {
        match &self.kind {
            ErrandKind::Acquire(acquire) => acquire.key,
            ErrandKind::Beat { lease, .. } | ErrandKind::Pass { lease, .. } => lease.key,
        }
    }

    /// What a node is told while these nearer ones are late.
    fn request(&self, late: &[NodeId]) -> Request {
        let late = late.iter().filter(|id| !self.unreached.contains(id));
        let unreached = self.unreached.iter().chain(late).take(Request::FAILED_LIMIT).copied().collect();
        match self.kind.clone() {
            ErrandKind::Acquire(Acquire { key, reference, ttl, failed }) => {
                Request::Acquire { key, reference, ttl, failed, unreached }
            }
            ErrandKind::Beat { lease, reference, ttl } => Request::Beat { lease, reference, ttl, unreached },
            ErrandKind::Pass { lease, marker } => Request::Pass { lease, marker },
        }
    }

    fn silence(&self) -> Outcome {
        self.fail(IndexError::Timeout(self.deadline))
    }

    fn fail(&self, error: IndexError) -> Outcome {
        match &self.kind {
            ErrandKind::Acquire(_) => Outcome::Acquire(Err(error)),
            ErrandKind::Beat { .. } => Outcome::Beat(Err(error)),
            ErrandKind::Pass { .. } => Outcome::Pass(Err(error)),
        }
    }

    fn mark(&mut self, contact: Contact, state: State) {
        if let Some(one) = self.candidates.iter_mut().find(|one| one.contact == contact) {
            one.state = state;
        }
    }

    fn add(&mut self, contact: Contact) {
        let distance = contact.id.key().distance(&self.key());
        if let Err(at) = self.candidates.binary_search_by_key(&(distance, contact), |one| (one.distance, one.contact)) {
            self.candidates.insert(at, Candidate { distance, contact, state: State::New });
            self.candidates.truncate(CANDIDATE_LIMIT);
        }
    }
}

/// Nodes an errand remembers at most.
const CANDIDATE_LIMIT: usize = 32;

/// Nodes that are waited for while one more is asked beside them.
const LATE_LIMIT: usize = 2;

/// Questions an errand asks at most: hops, repeats and detours around the dead.
const ASKED_LIMIT: usize = 32;
