//! What a node sent and received, in numbers: what the scenarios measure.

use crate::core::message::{Body, Reply, Request, Want};

/// What one node has received and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Messages sent.
    pub sent: u64,
    /// Bytes sent, if messages travel as bytes.
    pub sent_bytes: u64,
    /// Messages received.
    pub received: u64,
    /// Store-intents of puts received.
    pub store_intents: u64,
    /// Stores received.
    pub stores: u64,
    /// Lookup steps for values received.
    pub gets: u64,
    /// Acquires received.
    pub acquires: u64,
    /// Messages of gets received: steps for values and questions handed on, and the answers to both.
    pub searches: u64,
}

impl Counters {
    pub(super) fn count(&mut self, body: &Body) {
        self.received += 1;
        if let Body::Reply { reply: Reply::Sought { .. }, .. } = body {
            self.searches += 1;
        }
        if let Body::Request { request, .. } = body {
            match request {
                Request::Step { want: Want::Room { .. }, .. } => self.store_intents += 1,
                Request::Step { want: Want::Values, .. } => {
                    self.gets += 1;
                    // And the answer that it will have.
                    self.searches += 2;
                }
                Request::Seek { .. } => {
                    self.gets += 1;
                    self.searches += 1;
                }
                Request::Store { .. } => self.stores += 1,
                Request::Acquire { .. } => self.acquires += 1,
                Request::Step { want: Want::Nodes, .. }
                | Request::Ping
                | Request::Neighbours { .. }
                | Request::Withdraw { .. }
                | Request::Copy { .. }
                | Request::Beat { .. }
                | Request::Pass { .. }
                | Request::Hold { .. }
                | Request::SpreadKeys { .. }
                | Request::SpreadGet { .. } => {}
            }
        }
    }
}
