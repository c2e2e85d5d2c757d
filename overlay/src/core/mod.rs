//! The core: one node of the index as a state machine without I/O. It is told the time, the randomness and the messages, and
//! says what to send. Nothing in here reads a clock, opens a socket, or iterates over a hash map: the same seed and inputs give
//! the same outputs, byte for byte.
//!
//! ```text
//!   handle_input(now, Input) --+                    +--> Output::Send, Pin, Done, Granted, Heard
//!                              +--> Node (state) ---+
//!   handle_timeout(now) -------+                    +--> poll_timeout: when to come back
//! ```
//!
//! Other nodes are [`Peer`] handles, interned by the driver or the simulator, which alone know addresses.

#![warn(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

pub mod id;
pub mod message;
pub mod time;

mod tags;
pub use tags::{Age, Tags};

pub mod wire;
pub use wire::{Book, DecodeError};

mod node;
mod order;
pub use node::Node;

mod views;
pub use views::Counts;

mod command;
mod hear;
mod joint;
mod leak;
mod ring;
mod seek;
mod shunned;
mod site;
mod tend;

mod cluster;
mod far;
mod known;
mod met;
mod peers;
mod pins;
mod pointers;
pub use pointers::{Grant, Why};

pub(crate) mod rng;
mod routing;
mod rtt;
mod search;
mod split;

#[cfg(feature = "sim")]
mod glance;
#[cfg(feature = "sim")]
pub(crate) mod warm;

#[cfg(test)]
mod company;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod reunion;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::{
    Acquire, Acquired, Beat, Found, IndexError, Key, Lease, Levels, Marker, NodeId, NodeInfo, Prefix, Put, Question,
    Spread, Stored,
};

/// Another node as a small number. The driver maps it to addresses, for as long as the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer(pub u32);

/// Another node with its place in the id space. The driver computes the id from the certificate, never from what a peer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Contact {
    /// The handle.
    pub peer: Peer,
    /// The place.
    pub id: NodeId,
}

/// The number under which the caller of a command finds its outcome again. Chosen by the driver, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Op(pub u64);

/// What can happen to a node.
#[derive(Debug, Clone)]
pub enum Input {
    /// A link to this peer stands and both ends are authenticated.
    Connected(Contact),
    /// Who admitted this peer to the network, by a key that stands for them: said before it is connected, where admission tells.
    Admitted {
        /// Whom.
        contact: Contact,
        /// The same for all that they admitted.
        by: Key,
    },
    /// The link is gone.
    Disconnected(Peer),
    /// A message could not be delivered: no address, dial failed, stream refused.
    Unreachable(Peer),
    /// A message came over an authenticated link.
    Received {
        /// Who sent it.
        from: Contact,
        /// What it says, already decoded within its caps.
        message: Box<message::Message>,
    },
    /// These nodes may be asked to join: bootstrap seeds and persisted peers.
    Seeds(Vec<Contact>),
    /// Somebody on this node wants something.
    Command {
        /// Comes back with the outcome.
        op: Op,
        /// What.
        command: Command,
    },
    /// The questions of the command that comes next under this number are to be told.
    Watch(Op),
    /// Nobody waits for this outcome any more.
    Cancel(Op),
    /// How this node describes itself has changed.
    Describe(NodeInfo),
    /// A prefix was measured here.
    Observe {
        /// Whose.
        prefix: Prefix,
        /// How far.
        rtt: std::time::Duration,
    },
    /// The node is about to stop: tell the neighbours, so that they need no time-out to notice.
    Leave,
}

/// What may be asked of the index; see [`crate::Index`] for each.
#[derive(Debug, Clone)]
pub enum Command {
    /// Store a pointer to this node.
    Put(Put),
    /// Find pointers.
    Get(Key, Levels),
    /// Take back what this node put.
    Withdraw(Key),
    /// Find a copy or become its fetcher.
    Acquire(Acquire),
    /// The fetch goes on.
    Beat(Lease, Bytes),
    /// The fetch has ended, and there is nothing to share. Its outcome is a beat's.
    Release(Lease),
    /// The fetch cannot be shared.
    Pass(Lease, Marker),
    /// Tell every node.
    Spread(Bytes),
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Of a put.
    Put(Result<Stored, IndexError>),
    /// Of a get.
    Get(Result<Found, IndexError>),
    /// Of a withdrawal.
    Withdraw(Result<(), IndexError>),
    /// Of an acquire.
    Acquire(Result<Acquired, IndexError>),
    /// Of a beat.
    Beat(Result<Beat, IndexError>),
    /// Of a pass.
    Pass(Result<(), IndexError>),
    /// Of a spread.
    Spread(Result<(), IndexError>),
}

/// What a node wants done.
#[derive(Debug, Clone)]
pub enum Output {
    /// Deliver this; dial if there is no link, and report [`Input::Unreachable`] if that fails. Never queued without bound.
    Send {
        /// To whom.
        to: Peer,
        /// What. In a box, as it passes through many hands.
        message: Box<message::Message>,
    },
    /// Keep the link to this neighbour open, or let it go when idle.
    Pin {
        /// Which.
        peer: Peer,
        /// Whether to keep it.
        keep: bool,
    },
    /// A command is finished.
    Done {
        /// Which.
        op: Op,
        /// With what.
        outcome: Outcome,
    },
    /// A command that is watched asks a question.
    Asked(Op, Question),
    /// As the root of a key this node granted a fetch.
    Granted(Grant),
    /// A record spread by some node reached this one for the first time.
    Heard(Spread),
}
