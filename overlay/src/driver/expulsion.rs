//! Members that are members no longer: revocations heard, spread and recalled, and what the core is told of those cut.

use libp2p::swarm::ConnectionId;
use tracing::{info, warn};

use super::{
    overlay::{RevokeError, View},
    run::Driver,
};
use crate::{
    core::{Command, Input, Op},
    membership::{Revocation, Taken},
};

impl Driver {
    /// A record that says that it is a revocation was spread by some node.
    pub(super) fn on_revocation(&mut self, record: &[u8]) {
        let Ok(revocation) = Revocation::from_bytes(record) else { return };
        match self.swarm.behaviour_mut().links.revoke(revocation) {
            Some(Ok(Taken::New)) => {
                info!(what = ?revocation.what, "somebody's place was taken back");
                self.share_gate();
            }
            Some(Ok(Taken::NoRoom)) => warn!("there is no room for more revocations"),
            Some(Err(why)) => warn!(%why, "a revocation was spread that is not believed"),
            Some(Ok(Taken::Known)) | None => {}
        }
    }

    /// This node's operator takes a place back.
    pub(super) fn revoke(&mut self, revocation: Revocation) -> Result<(), RevokeError> {
        match self.swarm.behaviour_mut().links.revoke(revocation) {
            None => Err(RevokeError::Open),
            Some(Err(why)) => Err(why.into()),
            Some(Ok(Taken::NoRoom)) => Err(RevokeError::NoRoom),
            Some(Ok(Taken::New | Taken::Known)) => {
                self.share_gate();
                self.spread_revocation(&revocation);
                Ok(())
            }
        }
    }

    /// Puts the latest revocations of an earlier life among the records that others pull from here.
    pub(super) fn recall_revocations(&mut self) {
        self.share_gate();
        let mut known = self.swarm.behaviour().links.gate().revocations();
        known.sort_by_key(|revocation| std::cmp::Reverse(revocation.issued));
        known.truncate(RECALLED);
        known.iter().rev().for_each(|revocation| self.spread_revocation(revocation));
    }

    /// A peer's certificate ended: the core forgets it before its link goes, so as not to dial it again.
    pub(super) fn on_expelled(&mut self, connection: ConnectionId) {
        if let Some(peer) = self.roads.owner(connection) {
            self.feed(Input::Unreachable(peer));
        }
    }

    /// Lets those who read it see the gate as it is now.
    pub(super) fn share_gate(&mut self) {
        let gate = self.swarm.behaviour().links.gate();
        let view = gate.membership().map(|own| View {
            own: *own,
            revocations: gate.revocations().into(),
            known: gate.known().into(),
        });
        self.shared.set_membership(view);
    }

    fn spread_revocation(&mut self, revocation: &Revocation) {
        // Counted down, where the handle counts up: nobody waits for the outcome.
        self.own_ops += 1;
        let op = Op(u64::MAX - self.own_ops);
        self.feed(Input::Command { op, command: Command::Spread(revocation.to_bytes().into()) });
    }
}

/// Revocations that a node offers to others from its earlier life: a quarter of the records kept by default. `[guess]`
const RECALLED: usize = 256;
