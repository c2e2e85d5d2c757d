//! Questions awaiting answers, and when to give up on each. A question is first late (SRTT + 4 RTTVAR: somebody else is asked)
//! and then lost (twice that); only the second counts against the node.

use crate::{
    Key, Level,
    core::{Contact, Peer, search::Manner, time::Instant},
};

/// What a question was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum Purpose {
    /// An operation.
    Task(u64),
    /// To measure a neighbour, or to see that a newcomer answers.
    Probe,
    /// To learn members of a cluster that may be joined.
    Sample(Level),
    /// To learn of nodes near a near one.
    Explore,
    /// To have pointers kept by a node that is now one of the closest.
    Copy(Level, Key),
    /// To have a copy of a lease kept.
    Hold(Key),
    /// To see whether a holder that failed an asker lives.
    Holder(Key),
    /// To see whether a node that an asker could not reach lives.
    Nearer,
    /// To learn which spread records a node has, from this position on.
    SpreadKeys(u32),
    /// To have one of them.
    SpreadGet,
}

/// One question under way.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct Pending {
    pub(in crate::core) to: Contact,
    pub(in crate::core) sent: Instant,
    /// When it is late, or lost once it is late.
    pub(in crate::core) due: Instant,
    pub(in crate::core) late: bool,
    /// It is said once before that it is late, and said again then.
    pub(in crate::core) later: Option<Instant>,
    /// A link stood when it was sent: without one, the time holds the dialling too, and is no distance.
    pub(in crate::core) linked: bool,
    /// If it may be handed on, the answer says nothing of this node's distance, its lateness nothing of this node's health.
    pub(in crate::core) manner: Manner,
    pub(in crate::core) purpose: Purpose,
}

/// All of them, in the order of their numbers, which is that of asking.
#[derive(Debug)]
pub(in crate::core) struct Exchanges {
    pending: Vec<(u64, Pending)>,
    next: u64,
    limit: usize,
}

impl Exchanges {
    pub(in crate::core) const fn new(limit: usize) -> Self {
        Self { pending: Vec::new(), next: 1, limit }
    }

    /// A number for a new question; none if too many are under way.
    pub(in crate::core) fn open(&mut self, pending: Pending) -> Option<u64> {
        if self.pending.len() >= self.limit {
            return None;
        }
        let id = self.next;
        self.next += 1;
        self.pending.push((id, pending));
        Some(id)
    }

    /// Ends the question with this number, if it was asked of this node.
    pub(in crate::core) fn close(&mut self, id: u64, from: Peer) -> Option<Pending> {
        let at = self.place(id)?;
        self.pending.get(at).filter(|(_, pending)| pending.to.peer == from)?;
        Some(self.remove(at))
    }

    /// Ends the question with this number.
    pub(in crate::core) fn drop(&mut self, id: u64) -> Option<Pending> {
        self.place(id).map(|at| self.remove(at))
    }

    pub(in crate::core) fn get_mut(&mut self, id: u64) -> Option<&mut Pending> {
        let at = self.place(id)?;
        self.pending.get_mut(at).map(|(_, pending)| pending)
    }

    /// Ends all questions to a node.
    pub(in crate::core) fn drop_to(&mut self, peer: Peer) -> Vec<(u64, Pending)> {
        self.pending.extract_if(.., |(_, pending)| pending.to.peer == peer).collect()
    }

    /// Whether a question for this purpose is under way to this node.
    pub(in crate::core) fn is_asked(&self, peer: Peer, purpose: Purpose) -> bool {
        self.pending.iter().any(|(_, pending)| pending.to.peer == peer && pending.purpose == purpose)
    }

    /// Whether a probe of this node is under way that was sent over a link.
    pub(in crate::core) fn is_probed_over_link(&self, peer: Peer) -> bool {
        let is_probe = |pending: &Pending| pending.linked && pending.purpose == Purpose::Probe;
        self.pending.iter().any(|(_, pending)| pending.to.peer == peer && is_probe(pending))
    }

    /// See `glance.rs`.
    #[cfg(feature = "sim")]
    pub(in crate::core) fn glance(&self) -> usize {
        self.pending.first().map_or(0, |(_, pending)| usize::from(pending.late))
    }

    pub(in crate::core) const fn len(&self) -> usize {
        self.pending.len()
    }

    /// No room is kept when none is left.
    fn remove(&mut self, at: usize) -> Pending {
        let (_, pending) = self.pending.remove(at);
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
        pending
    }

    fn place(&self, id: u64) -> Option<usize> {
        self.pending.binary_search_by_key(&id, |(one, _)| *one).ok()
    }
}
