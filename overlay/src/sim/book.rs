//! How simulated nodes name each other on the wire, and what they say of themselves.

use bytes::Bytes;

use super::world::{Simulated, usize_of};
use crate::{
    NodeId, NodeInfo, Roles,
    core::{Book, Contact, Peer},
};

/// How simulated nodes are written: by their number, as long as a real record with a peer id, a serial and an address.
pub(super) struct Handles<'a>(pub(super) &'a [Simulated]);

impl Book for Handles<'_> {
    fn record(&self, peer: Peer) -> Option<Bytes> {
        let mut record = vec![0; RECORD_BYTES];
        record.get_mut(..4)?.copy_from_slice(&peer.0.to_be_bytes());
        Some(record.into())
    }

    fn intern(&mut self, record: &[u8]) -> Option<Contact> {
        let number = u32::from_be_bytes(*record.first_chunk()?);
        self.0.get(usize_of(number)).map(|node| node.core.contact())
    }
}

/// What a simulated node says of itself.
pub(super) fn describe(id: NodeId) -> NodeInfo {
    NodeInfo::new(id, Roles::PROXY.with(Roles::DNSSRV))
}

/// Bytes of a contact record.
const RECORD_BYTES: usize = 64;
