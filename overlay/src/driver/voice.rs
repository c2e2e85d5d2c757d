//! This node's voice: what it says to every node under its key, and whom it believes.

use bytes::Bytes;

use super::{clock::Clock, identity::Identity, overlay::View};
use crate::{
    Roles,
    membership::{Forum, NotBelieved, Said, Statement, Unsaid},
};

/// The node's key, with the network it speaks in.
pub(super) struct Voice {
    identity: Identity,
    network: String,
    clock: Clock,
}

impl Voice {
    pub(super) fn new(identity: Identity, network: &str, clock: Clock) -> Self {
        Self { identity, network: network.to_owned(), clock }
    }

    /// Words under this node's signature; a view there is only in a closed network.
    pub(super) fn sign(&self, view: Option<&View>, words: &[u8], right: Roles) -> Result<Bytes, Unsaid> {
        if words.len() > Statement::WORDS {
            return Err(Unsaid::TooLong { length: words.len() });
        }
        let (now, words, sign) = (self.clock.unix(), words.to_vec(), |bytes: &[u8]| self.identity.sign(bytes));
        let statement = match view {
            None => Statement::open(&self.network, self.identity.public_key(), now, words, sign),
            Some(View { own, .. }) if own.certificate.roles().contain(right) => {
                Statement::closed(own, now, words, sign)
            }
            Some(_) => return Err(Unsaid::Right),
        };
        Ok(statement.to_bytes().into())
    }

    /// Whose words these are.
    pub(super) fn believe(&self, view: Option<&View>, signed: &[u8], right: Roles) -> Result<Said, NotBelieved> {
        let statement = Statement::from_bytes(signed).map_err(|_| NotBelieved::Malformed)?;
        let forum = view.map_or(Forum::Open(&self.network), |view| Forum::Closed(&view.own.network, &view.revocations));
        statement.believe(forum, right, self.clock.unix())
    }
}
