//! Addresses are believed only after a dial-back: a peer that says where it is gets dialled there, each place once, over a connection
//! that is closed again. Until one answered the core is not told of its link and nothing is asked of it, so it enters no table; and
//! the book names it to nobody. A peer that this node dialled itself is linked at once, but told on only where it says it is.

use std::time::Duration;

use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use tracing::debug;

use super::{
    certificate::Purpose,
    run::{Dial, Driver, Target},
};
use crate::core::{Input, Peer};

impl Driver {
    /// Dials a linked peer wherever it says it is and was not found yet.
    pub(super) fn check(&mut self, peer: Peer) {
        let now = self.clock.now();
        let Some((peer_id, places)) = self.shared.book().due_test(peer, now, PAUSE) else { return };
        if let Some(member) = self.members.get_mut(&peer) {
            member.checks += places.len();
        }
        for at in places {
            let opts = DialOpts::peer_id(peer_id).condition(PeerCondition::Always).addresses(vec![at]);
            let dial = Dial { target: Target::Check(peer), other: None };
            self.begin(dial, Purpose::Check, opts.build());
        }
    }

    /// A dial-back is over.
    pub(super) fn on_checked(&mut self, peer: Peer, found: bool) {
        let Some(member) = self.members.get_mut(&peer) else { return };
        member.checks = member.checks.saturating_sub(1);
        let (last, told, id) = (member.checks == 0, member.told, member.contact.id);
        if self.shared.book().is_verified(peer) {
            self.tell_linked(peer);
        } else if last && !told {
            debug!(node = %id, found, "a node is not where it says it is");
            let dropped = self.roads.drop_waiting(peer);
            if dropped > 0 {
                self.undeliverable(peer, dropped);
            }
        }
    }

    /// Tells the core of a peer's link, once.
    pub(super) fn tell_linked(&mut self, peer: Peer) {
        let linked = self.roads.is_linked(peer);
        let Some(member) = self.members.get_mut(&peer).filter(|member| linked && !member.told) else { return };
        member.told = true;
        let (contact, operator) = (member.contact, member.operator);
        if let Some(by) = operator {
            self.feed(Input::Admitted { contact, by });
        }
        self.feed(Input::Connected(contact));
        self.roads.flush(peer);
    }
}

/// A peer that was not found where it says is not looked for again within this time, however often it connects. `[guess]`
const PAUSE: Duration = Duration::from_secs(60);
