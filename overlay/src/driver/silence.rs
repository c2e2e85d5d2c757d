//! Links that went silent: a question was sent, and nothing has come for so long. Where a network was cut, TCP tries again only after
//! about as long as the cut lasted, so a link that stood through it says nothing for as long once more. It is closed when the next
//! question comes up, which is lost with it: what the core asks after it heard of that goes over a new one. Or when the peer, which
//! came to the same conclusion, makes a new one. Where nothing was asked over it here it stands, since it may be good, and carries no
//! more messages: `roads.rs` prefers the new one.

use super::run::Driver;
use crate::core::{Input, Peer, time::Instant};

impl Driver {
    /// A question is about to be sent to a peer.
    pub(super) fn note_question(&mut self, now: Instant, to: Peer) {
        self.close_silent(now, to);
        if let Some(member) = self.members.get_mut(&to) {
            member.unanswered.get_or_insert(now);
        }
    }

    /// Whether the core has yet to hear that a peer's link is gone, and with it all that it asks of this peer until it does. Handed over
    /// nonetheless, a question would have its effect there, a lease granted perhaps, and its answer would mean nothing here.
    pub(super) fn is_lost(&self, to: Peer) -> bool {
        self.inputs.iter().any(|input| matches!(input, Input::Disconnected(peer) if *peer == to))
    }

    /// Closes every connection to a peer that was asked and has said nothing since: bulk shares the fate of the link beside it.
    pub(super) fn close_silent(&mut self, now: Instant, peer: Peer) {
        let since = self.members.get(&peer).and_then(|member| member.unanswered);
        if since.is_none_or(|since| now.since(since) < self.config.silence) {
            return;
        }
        if let Some(member) = self.members.get_mut(&peer) {
            member.unanswered = None;
        }
        for connection in self.roads.connections_to(peer) {
            self.swarm.close_connection(connection);
            // At once: what is asked from then on goes over another.
            self.on_closed(connection, "it went silent");
        }
    }
}
