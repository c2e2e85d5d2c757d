//! What nodes say to each other. Messages are one-way frames: a request carries a number, its reply echoes it with the time the
//! responder spent, so that every exchange measures the round trip. Every message carries the cluster header of NSDI'04 4.4.
//! The byte layout and its caps are in [`super::wire`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{Age, Contact, Peer, Tags};
use crate::{Key, Lease, Level, Marker, NodeId, NodeInfo};

/// One message between two nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The clusters the sender is in; the same for many of its messages.
    pub header: Arc<Header>,
    /// What it says.
    pub body: Body,
}

/// The sender's clusters, level 1 first; level 0 is the same for all. At most [`Header::LEVELS`].
#[derive(Debug, Clone)]
pub struct Header {
    /// One tag per non-global level.
    pub clusters: Tags,
    /// Who says so, as the receiver knows; of a message just read, nobody.
    pub(crate) of: Contact,
    /// What that node said of itself, if it has.
    pub(crate) info: Option<Arc<NodeInfo>>,
}

/// A cluster as one of its members sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterTag {
    /// Its id, chosen at random by its founder.
    pub id: Key,
    /// How long ago it was founded, or up to a minute less.
    pub age: Age,
    /// How many members the sender thinks it has.
    pub size: u32,
}

/// The two halves of an exchange, and what needs no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Who the sender is: first message on a link, repeated when it changes.
    Hello(Box<Hello>),
    /// The sender is about to stop; the receiver forgets it without waiting for a time-out.
    Goodbye,
    /// A record for every node, flooded.
    Spread(SpreadRecord),
    /// A question.
    Request {
        /// The asker's number for it.
        id: u64,
        /// What is asked.
        request: Request,
    },
    /// Its answer.
    Reply {
        /// The number of the request.
        id: u64,
        /// Time between the request's arrival and this reply, to the microsecond.
        spent: Duration,
        /// What is answered.
        reply: Reply,
    },
}

/// A node's description of itself. Its id and RTT are ignored: the receiver knows better.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The description; the same for all who are told.
    pub info: Arc<NodeInfo>,
    /// XOR of the first eight bytes of the keys of all spread records the sender has; one that differs is a reason to pull.
    pub spreads: u64,
}

/// A record on its way to every node. Its key is the SHA-1 of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpreadRecord {
    /// The node that first sent it.
    pub signer: NodeId,
    /// At most [`SpreadRecord::LIMIT`] bytes, opaque.
    pub record: Bytes,
}

/// What one node asks of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Are you there, and how far?
    Ping,
    /// Which nodes do you know in your cluster at this level? Answered with [`Reply::Nodes`].
    Neighbours {
        /// The level meant: the receiver's own cluster there.
        level: Level,
        /// The nearest by RTT, and some as far as the asker; otherwise a random sample.
        nearest: bool,
    },
    /// One hop of a lookup. Honoured only in a cluster that both share. Answered with [`Reply::Step`].
    Step {
        /// The level searched.
        level: Level,
        /// The key looked for.
        key: Key,
        /// The point nearest to which nodes are wanted (Coral's spliced target).
        aim: Key,
        /// What else to say about the key.
        want: Want,
    },
    /// Find values under this key for somebody else: say them if you have some, else hand the question on to a node nearer the
    /// key, in this level's cluster or, past its closest node, in a wider one. Answered with [`Reply::Sought`].
    Seek {
        /// The level to search next.
        level: Level,
        /// The widest level to search.
        widest: Level,
        /// The key looked for.
        key: Key,
        /// Who wants to know: its own values are no news to it.
        seeker: NodeId,
        /// How often it may still be handed on.
        hops: u8,
    },
    /// Keep these pointers that I keep: you are one of the nodes closest to the key now. Honoured only from a node near the key.
    /// Answered with [`Reply::Done`] or [`Reply::Refused`].
    Copy {
        /// The level.
        level: Level,
        /// The key.
        key: Key,
        /// At most [`Reply::VALUES`].
        values: Vec<Pointer>,
    },
    /// Keep this pointer to the sender. Answered with [`Reply::Stored`] or [`Reply::Refused`].
    Store {
        /// The level to store at.
        level: Level,
        /// Under which key.
        key: Key,
        /// At most [`Pointer::LIMIT`] bytes.
        value: Bytes,
        /// How long, to the millisecond.
        ttl: Duration,
    },
    /// Drop the sender's pointers under this key, at every level. Answered with [`Reply::Done`].
    Withdraw {
        /// The key.
        key: Key,
    },
    /// Asked of the root: references, or the right to fetch. Answered with [`Reply::Acquired`].
    Acquire {
        /// What is wanted.
        key: Key,
        /// The asker's own reference.
        reference: Bytes,
        /// How long it stays.
        ttl: Duration,
        /// Holders that failed the asker. At most [`Request::FAILED_LIMIT`].
        failed: Vec<NodeId>,
        /// Nodes nearer the key that the asker could not reach. At most [`Request::FAILED_LIMIT`].
        unreached: Vec<NodeId>,
    },
    /// Sent to the root by a fetcher. Answered with [`Reply::Beaten`].
    Beat {
        /// The lease.
        lease: Lease,
        /// The newer reference.
        reference: Bytes,
        /// How long it stays; zero: the fetch has ended and leaves nothing, so the lease is given back.
        ttl: Duration,
        /// Nodes nearer the key that the fetcher could not reach.
        unreached: Vec<NodeId>,
    },
    /// Sent to the root: replaces the lease by a marker. Answered with [`Reply::Done`] or [`Reply::Acquired`] (not root).
    Pass {
        /// The lease.
        lease: Lease,
        /// What comes in its place.
        marker: Marker,
    },
    /// Sent by the root to its next-closest nodes: hold this for me, or tell me what you hold. Answered with [`Reply::Held`].
    Hold {
        /// The key.
        key: Key,
        /// The root's state of it.
        state: LeaseState,
    },
    /// The keys of the spread records you have, from this position on. Answered with [`Reply::SpreadKeys`].
    SpreadKeys {
        /// How many of them to skip.
        from: u32,
    },
    /// One spread record. Answered with [`Reply::Spread`] or [`Reply::Done`] if unknown.
    SpreadGet {
        /// First eight bytes of its key.
        short: u64,
    },
}

/// What a lookup step wants to know about its key besides nearer nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Nothing.
    Nodes,
    /// The values.
    Values,
    /// Whether a value of this remaining time could be stored: a store-intent, which counts towards `loaded`.
    Room {
        /// The time to live of the value to come.
        ttl: Duration,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Here.
    Pong,
    /// The answer will come under the same number: the responder asks others first. So a busy root is told apart from a dead one.
    Wait,
    /// Nodes known, in no order. At most [`Reply::NODES`].
    Nodes(Vec<Contact>),
    /// One hop of a lookup.
    Step {
        /// What the responder has under the key.
        seen: Seen,
        /// Nodes nearest the aim, and the nearest to the key. At most [`Reply::NODES`].
        nodes: Vec<Contact>,
    },
    /// What came of a question that was handed on.
    Sought {
        /// The level at which there were values.
        level: Level,
        /// The values, a random selection; none if nobody on the way had any. At most [`Reply::VALUES`].
        values: Vec<Pointer>,
    },
    /// What became of a store.
    Stored(Verdict),
    /// Done, or nothing to do.
    Done,
    /// What the root says to an acquire.
    Acquired(Acquisition),
    /// What the root says to a beat.
    Beaten(Beaten),
    /// What a next-closest node says to the root.
    Held(Held),
    /// First eight bytes of the keys of spread records, in the responder's order. At most [`Reply::SPREAD_KEYS`].
    SpreadKeys {
        /// The short keys.
        shorts: Vec<u64>,
        /// There are more after these.
        more: bool,
    },
    /// A spread record.
    Spread(SpreadRecord),
    /// Not done.
    Refused(Refusal),
}

/// What a node has under the key of a lookup step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Not asked, or nothing.
    Nothing,
    /// These values, a random selection. At most [`Reply::VALUES`].
    Values(Vec<Pointer>),
    /// How it stands with storing.
    Room(Room),
}

/// Coral's answer to a store-intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// More store-intents for the key than beta went on from here within the past minute.
    pub loaded: bool,
    /// Values stored under the key at this level.
    pub count: u32,
    /// The shortest remaining time among them; zero if there are none.
    pub soonest: Duration,
}

/// A pointer as stored and returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    /// Who put it.
    pub holder: Contact,
    /// The holder's clusters, level 1 first, when it put it.
    pub clusters: Vec<Key>,
    /// What it put.
    pub value: Bytes,
    /// What remains of its time.
    pub ttl: Duration,
}

/// What became of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Stored.
    Accepted,
    /// Enough values whose time is at least half the new one's are here already.
    Full,
}

/// What the root says to an acquire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquisition {
    /// Live references. At most [`Reply::VALUES`].
    References(Vec<Pointer>),
    /// The asker fetches.
    Granted(Lease),
    /// No lease is kept for this key.
    Marked(Marker),
    /// The responder is not the root; these are nearer the key.
    Elsewhere(Vec<Contact>),
}

/// What the root says to a beat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beaten {
    /// The lease lives on.
    Kept,
    /// A lower lease lives, held by this one.
    Superseded(Pointer),
    /// The responder is not the root; these are nearer the key.
    Elsewhere(Vec<Contact>),
}

/// A key's lease or marker as its root keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseState {
    /// Somebody fetches.
    Leased {
        /// Epoch and counter.
        lease: Lease,
        /// Who, with its reference; with one that stays no longer: it gave the lease back.
        holder: Pointer,
    },
    /// The last fetch could not be shared.
    Marked {
        /// Why.
        marker: Marker,
        /// What remains of the marker's time.
        ttl: Duration,
    },
}

/// What a next-closest node says when asked to hold a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// It holds it, and has these pointers under the key: a root that is new there may know of none.
    Yes(Vec<Pointer>),
    /// It holds another one, from another root, which still lives.
    Other(LeaseState),
}

/// Why something was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Sender and receiver share no cluster at that level.
    NotInCluster,
    /// The receiver has as many keys as it may.
    Keys,
    /// The receiver has as many bytes of values as it may.
    Bytes,
    /// The receiver keeps as many pointers of this sender as it may.
    Sender,
    /// The time to live is longer than allowed, or the value longer.
    TooLong,
    /// Too many are waiting for this already.
    Busy,
}

impl Message {
    /// Bytes a message stays under where it can, so that it fits a datagram.
    pub const AIM: usize = 1_200;
    /// Bytes no message may exceed; checked before anything is allocated.
    pub const LIMIT: usize = 4_096;
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Header>() <= 96, "a header takes more than it may");

impl Header {
    /// Non-global levels at most.
    pub const LEVELS: usize = 7;
}

impl Default for Header {
    fn default() -> Self {
        let nobody = Contact { peer: Peer(u32::MAX), id: NodeId::from(Key::ZERO) };
        Self { clusters: Tags::default(), of: nobody, info: None }
    }
}

/// By what is said; who says it is known by the link.
impl PartialEq for Header {
    fn eq(&self, other: &Self) -> bool {
        self.clusters == other.clusters
    }
}

impl Eq for Header {}

impl SpreadRecord {
    /// Bytes of a record at most.
    pub const LIMIT: usize = 1_024;

    /// The key of the record.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::of(&self.record)
    }
}

impl Pointer {
    /// Bytes of a value at most.
    pub const LIMIT: usize = 256;
    /// How long a pointer may stay at most.
    pub const TTL_LIMIT: Duration = Duration::from_secs(24 * 3_600);
}

impl Request {
    /// Whether it is handed on through nearer levels before the widest.
    pub(super) fn is_through_levels(&self) -> bool {
        matches!(self, Self::Seek { level, widest, .. } if level != widest)
    }

    /// The level it is about, the widest where it is about none, and whether whoever is asked hands it on.
    pub(super) const fn reach(&self) -> (Level, bool) {
        match self {
            Self::Seek { level, .. } => (*level, true),
            Self::Step { level, .. }
            | Self::Store { level, .. }
            | Self::Copy { level, .. }
            | Self::Neighbours { level, .. } => (*level, false),
            Self::Ping
            | Self::Withdraw { .. }
            | Self::Acquire { .. }
            | Self::Beat { .. }
            | Self::Pass { .. }
            | Self::Hold { .. }
            | Self::SpreadKeys { .. }
            | Self::SpreadGet { .. } => (Level::GLOBAL, false),
        }
    }

    /// Node ids a request may list at most.
    pub const FAILED_LIMIT: usize = 8;
    /// How often a question may be handed on at most.
    pub const HOPS: u8 = 24;
}

impl Reply {
    /// Nodes a reply may name at most.
    pub const NODES: usize = 8;
    /// Values a reply may carry at most.
    pub const VALUES: usize = 4;
    /// Short keys a reply may carry at most.
    pub const SPREAD_KEYS: usize = 100;
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotInCluster => "it shares no cluster with this node at that level",
            Self::Keys => "it has as many keys as it may",
            Self::Bytes => "it has as many bytes of values as it may",
            Self::Sender => "it keeps as many pointers of this node as it may",
            Self::TooLong => "the value or its time to live is longer than allowed",
            Self::Busy => "it has too many waiting already",
        })
    }
}
