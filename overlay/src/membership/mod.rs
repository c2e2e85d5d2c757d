//! Membership: who belongs to a network, as a chain of signatures. Pure: no file, no socket, and told the time.
//!
//! ```text
//!   NetworkKey, offline, names the network (NetworkId)
//!       | grants, for 90 d at most                         both revoke: Revocation, spread to every node
//!   AdmissionKey, where nodes are admitted
//!       | admits: node's public key, serial, roles, expiry
//!   Certificate  --verify(network, now, revocations)-->  a member, or why not
//!       | signs
//!   Statement, spread to every node  --believe(forum, right, now)-->  who says it, or why it is not believed
//! ```
//!
//! Everything is Ed25519. A signature covers what it is for, the network and the bytes as they travel, so that none can be taken
//! for another, in another network. The byte layouts stand with their types: [`Grant`], [`Certificate`], [`Revocation`],
//! [`Statement`]; how keys are
//! kept in files, in `text`. Read [`Certificate`] first.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

mod certificate;
pub use certificate::{Certificate, Membership, NotMember};

mod network;
pub use network::{NetworkId, NetworkKey};

mod admission;
pub use admission::{AdmissionKey, AdmissionRequest, Grant};

mod revocation;
pub use revocation::{Limits, Revocation, Revocations, Revoked, Taken};

mod statement;
pub use statement::{Forum, NotBelieved, Said, Statement, Unsaid};

mod public_key;
pub use public_key::{NoPublicKey, PublicKey};

mod term;
pub use term::{Term, UnixTime};

mod text;
pub use text::TextError;

mod bytes;
pub use bytes::Malformed;

mod signing;
pub use signing::NoRandomness;

mod refused;
pub use refused::Refused;

#[cfg(test)]
mod tests;
