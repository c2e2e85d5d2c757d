//! Links that went silent: a question was sent, and nothing has come for so long. Where a network was cut, TCP tries again only after
//! about as long as the cut lasted, so a link that stood through it says nothing for as long once more. It is closed when the next
//! question is sent, which then goes over a new one; or when the peer, which came to the same conclusion, makes a new one.

use super::run::Driver;
use crate::core::{Peer, time::Instant};

impl Driver {
    /// A question is about to be sent to a peer.
    pub(super) fn note_question(&mut self, now: Instant, to: Peer) {
        self.close_silent(now, to);
        if let Some(member) = self.members.get_mut(&to) {
            member.unanswered.get_or_insert(now);
        }
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
            // At once: what is sent from now on goes over another.
            self.on_closed(connection, "it went silent");
        }
    }
}
