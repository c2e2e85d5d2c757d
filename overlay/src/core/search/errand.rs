//! What is said to the root of a key alone: acquire, beat and pass. The root is found by asking the nearest node known, which
//! acts or names nearer ones; each errand is its own search, so that a known root costs one round trip.
//!
//! Beside a node that takes long the next nearest is asked, to which it is named as unreached; that one sees for itself before it acts as
//! root, and says so if it finds that the slow one lives. What comes first counts. A node that is late is asked once more itself (a lost
//! message). A refusal counts only where no nearer node may still answer.

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
    /// Why one that stood in for a nearer one would not.
    refused: Option<IndexError>,
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
    /// It takes long: the next one is asked beside it.
    Slow,
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
            refused: None,
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
                State::Slow | State::AskedAgain if late.len() < LATE_LIMIT => {
                    late.push(one.contact.id);
                    continue;
                }
                State::Asked | State::Slow | State::AskedAgain => return Step::Wait,
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
            Reply::Refused(refusal) => self.on_refusal(from, IndexError::Refused(refusal.to_string())),
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
        match self.candidates.iter().find(|one| one.contact == from).map(|one| one.state) {
            Some(State::Asked) => {
                self.mark(from, State::Again);
                self.ask_namers();
            }
            Some(State::Slow) => self.mark(from, State::Again),
            Some(State::New | State::Again | State::AskedAgain | State::Elsewhere | State::Failed) | None => {}
        }
    }

    pub(super) fn on_slow(&mut self, from: Contact) {
        if self.candidates.iter().any(|one| one.contact == from && one.state == State::Asked) {
            self.mark(from, State::Slow);
            self.ask_namers();
        }
    }

    /// One will not, whatever nearer ones say.
    fn on_refusal(&mut self, from: Contact, error: IndexError) {
        let waits = |one: &Candidate| matches!(one.state, State::Slow | State::Again | State::AskedAgain);
        if self.candidates.iter().take_while(|one| one.contact != from).any(waits) {
            self.mark(from, State::Failed);
            self.refused = Some(error);
        } else {
            self.ending = Some(self.fail(error));
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
        self.fail(self.refused.clone().unwrap_or(IndexError::Timeout(self.deadline)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Peer, message::Refusal};

    fn node(number: u8) -> Contact {
        Contact { peer: Peer(u32::from(number)), id: Key::from_bytes([number; Key::BYTES]).into() }
    }

    fn asks(errand: &mut Errand) -> Option<(u32, usize)> {
        match errand.next() {
            Step::Ask(to, Request::Acquire { unreached, .. }) => Some((to.peer.0, unreached.len())),
            Step::Wait => None,
            other @ (Step::Ask(..) | Step::Done(_)) => panic!("{other:?}"),
        }
    }

    /// An acquire of node 9 that knows of 1, the root, and 2.
    fn begun() -> Errand {
        let key = Key::ZERO;
        let acquire = Acquire { key, reference: Bytes::new(), ttl: Duration::ZERO, failed: Vec::new() };
        let mut errand = Errand::new(node(9), ErrandKind::Acquire(acquire), Duration::from_millis(600));
        assert_eq!(asks(&mut errand), Some((9, 0)));
        errand.on_reply(node(9), Reply::Acquired(Acquisition::Elsewhere(vec![node(2), node(1)])));
        assert_eq!((asks(&mut errand), asks(&mut errand)), (Some((1, 0)), None));
        errand
    }

    #[test]
    fn a_root_that_takes_long_is_asked_again_only_once_it_is_late() {
        let mut errand = begun();
        errand.on_slow(node(1));
        assert_eq!((asks(&mut errand), asks(&mut errand)), (Some((2, 1)), None));
        errand.on_late(node(1));
        assert_eq!((asks(&mut errand), asks(&mut errand)), (Some((1, 0)), None));
    }

    #[test]
    fn a_refusal_of_who_was_asked_beside_the_root_does_not_keep_the_root_from_granting() {
        let mut errand = begun();
        errand.on_slow(node(1));
        assert_eq!(asks(&mut errand), Some((2, 1)));
        errand.on_reply(node(2), Reply::Refused(Refusal::Busy));
        assert_eq!((asks(&mut errand), asks(&mut errand)), (Some((9, 1)), None), "the asker itself, which knows of 2");
        let lease = Lease { epoch: 1, counter: 1, key: Key::ZERO };
        errand.on_reply(node(1), Reply::Acquired(Acquisition::Granted(lease)));
        let ending = errand.next();
        assert!(matches!(ending, Step::Done(Ending::Outcome(Outcome::Acquire(Ok(_))))), "{ending:?}");
    }

    #[test]
    fn a_refusal_of_the_root_counts_whoever_else_was_asked() {
        let mut errand = begun();
        errand.on_slow(node(1));
        assert_eq!(asks(&mut errand), Some((2, 1)));
        errand.on_reply(node(1), Reply::Refused(Refusal::Busy));
        let ending = errand.next();
        assert!(
            matches!(&ending, Step::Done(Ending::Outcome(Outcome::Acquire(Err(IndexError::Refused(_)))))),
            "{ending:?}"
        );
    }
}
