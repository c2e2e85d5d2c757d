//! Statements that a node signs with its key, so that who gets them second hand still knows whose they are.
//!
//! | bytes of a proof | open network | closed network |
//! |---|---|---|
//! | kind | 1: `1` | 1: `2` |
//! | who | 32: the node's public key | 235: its certificate |
//! | signature | 64 | 64 |
//!
//! It covers [`WORD`], the network's id, a zero byte and the statement. In a closed network whoever signs must be a member now;
//! in an open one anybody may be. Keys and certificates that were believed are kept, since the same few sign over and over.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use ed25519_dalek::{Signature, VerifyingKey};
use libp2p::identity::Keypair;

use super::{clock::Clock, overlay::Shared};
use crate::{
    NodeId,
    membership::{Certificate, PublicKey},
};

/// Signs as this node, and tells who signed.
pub(super) struct Notary {
    pair: Keypair,
    network: String,
    clock: Clock,
    shared: Arc<Shared>,
    believed: Mutex<VecDeque<Believed>>,
}

/// A signer that was checked once.
#[derive(Clone)]
struct Believed {
    who: Vec<u8>,
    key: VerifyingKey,
    id: NodeId,
    /// To be looked at again: it ends, or is revoked.
    certificate: Option<Certificate>,
}

impl Notary {
    pub(super) fn new(pair: Keypair, network: String, clock: Clock, shared: Arc<Shared>) -> Self {
        Self { pair, network, clock, shared, believed: Mutex::default() }
    }

    /// A proof that this node says so.
    pub(super) fn sign(&self, statement: &[u8]) -> Option<Bytes> {
        let signature = self.pair.sign(&self.covered(statement)).ok()?;
        let mut proof = match self.shared.membership() {
            Some(view) => [&[CLOSED], view.own.certificate.to_bytes().as_slice()].concat(),
            None => [&[OPEN], self.pair.public().try_into_ed25519().ok()?.to_bytes().as_slice()].concat(),
        };
        proof.extend_from_slice(&signature);
        Some(proof.into())
    }

    /// Who says so.
    pub(super) fn signer(&self, statement: &[u8], proof: &[u8]) -> Option<NodeId> {
        let (who, signature) = proof.split_last_chunk::<64>()?;
        let believed = self.known(who).or_else(|| self.meet(who))?;
        let signature = Signature::from_bytes(signature);
        believed.key.verify_strict(&self.covered(statement), &signature).ok().map(|()| believed.id)
    }

    /// A signer believed before, if it is a member still.
    fn known(&self, who: &[u8]) -> Option<Believed> {
        let mut known = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        let place = known.iter().position(|one| one.who == who)?;
        let found = known.remove(place)?;
        if let Some(certificate) = &found.certificate {
            let view = self.shared.membership()?;
            certificate.stands(self.clock.unix(), &view.revocations).ok()?;
        }
        known.push_front(found.clone());
        Some(found)
    }

    fn meet(&self, who: &[u8]) -> Option<Believed> {
        let (kind, rest) = who.split_first()?;
        let (node, id, certificate) = match (*kind, self.shared.membership()) {
            (OPEN, None) => {
                let node = PublicKey(rest.try_into().ok()?);
                (node, NodeId::of(&self.network, 0, &node.peer_id()), None)
            }
            (CLOSED, Some(view)) => {
                let certificate = Certificate::from_bytes(rest).ok()?;
                certificate.verify(&view.own.network, self.clock.unix(), &view.revocations).ok()?;
                (certificate.node, certificate.place(&view.own.network), Some(certificate))
            }
            _ => return None,
        };
        let key = VerifyingKey::from_bytes(&node.0).ok()?;
        let met = Believed { who: who.to_vec(), key, id, certificate };
        let mut known = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        known.push_front(met.clone());
        known.truncate(BELIEVED);
        Some(met)
    }

    fn covered(&self, statement: &[u8]) -> Vec<u8> {
        [WORD, self.network.as_bytes(), &[0], statement].concat()
    }
}

const OPEN: u8 = 1;
const CLOSED: u8 = 2;

/// What sets these signatures apart from all others made with the same key.
const WORD: &[u8] = b"atoll statement 1\0";

/// Signers remembered; others are checked anew, a quarter of a millisecond each.
const BELIEVED: usize = 64;
