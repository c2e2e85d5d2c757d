//! The protobuf structs and the kinds of frame: the layout itself.

use bytes::Bytes;

use crate::Key;

/// Every message on the wire. Which fields a kind uses is what `write.rs` writes; the rest stay
/// empty and cost nothing. Field numbers are never reused.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Frame {
    /// One of [`kind`].
    #[prost(uint32, tag = "1")]
    pub(super) kind: u32,
    /// Number of the exchange.
    #[prost(uint64, tag = "2")]
    pub(super) id: u64,
    /// Microseconds the responder spent.
    #[prost(uint64, tag = "3")]
    pub(super) spent_us: u64,
    /// Cluster tags of 28 bytes: id, age in seconds, size, big endian.
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub(super) clusters: Vec<Bytes>,
    /// A key, 20 bytes.
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) key: Bytes,
    /// A point to aim at, 20 bytes.
    #[prost(bytes = "bytes", tag = "6")]
    pub(super) aim: Bytes,
    /// A level.
    #[prost(uint32, tag = "7")]
    pub(super) level: u32,
    /// A time to live in milliseconds.
    #[prost(uint64, tag = "8")]
    pub(super) ttl_ms: u64,
    /// A value, a reference, a record, or a [`WireInfo`].
    #[prost(bytes = "bytes", tag = "9")]
    pub(super) value: Bytes,
    /// Contact records.
    #[prost(bytes = "bytes", repeated, tag = "10")]
    pub(super) nodes: Vec<Bytes>,
    /// [`WirePointer`]s.
    #[prost(bytes = "bytes", repeated, tag = "11")]
    pub(super) values: Vec<Bytes>,
    /// A yes or no, or a small choice.
    #[prost(uint32, tag = "12")]
    pub(super) choice: u32,
    /// A count, a position, a short key.
    #[prost(uint64, tag = "13")]
    pub(super) number: u64,
    /// Node ids of 20 bytes, or short keys of 8, one after the other.
    #[prost(bytes = "bytes", tag = "14")]
    pub(super) ids: Bytes,
    /// Node ids of 20 bytes, one after the other.
    #[prost(bytes = "bytes", tag = "15")]
    pub(super) more_ids: Bytes,
    /// The epoch of a lease.
    #[prost(uint64, tag = "16")]
    pub(super) epoch: u64,
    /// The counter of a lease.
    #[prost(uint64, tag = "17")]
    pub(super) counter: u64,
    /// Header names of a Vary marker.
    #[prost(bytes = "bytes", repeated, tag = "18")]
    pub(super) names: Vec<Bytes>,
    /// Milliseconds of a Pass marker; zero says it is a Vary marker.
    #[prost(uint64, tag = "19")]
    pub(super) pass_ms: u64,
}

/// A pointer inside a frame.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WirePointer {
    /// The holder's contact record.
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) holder: Bytes,
    /// Cluster ids of 20 bytes, one after the other, level 1 first.
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) clusters: Bytes,
    /// The value.
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) value: Bytes,
    /// What remains of its time, in milliseconds.
    #[prost(uint64, tag = "4")]
    pub(super) ttl_ms: u64,
}

/// A node's description inside a frame. Addresses and ports stand one after the other, big endian.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireInfo {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) v4: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) v6: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) ports: Bytes,
    #[prost(uint32, tag = "4")]
    pub(super) roles: u32,
    #[prost(uint32, tag = "5")]
    pub(super) load: u32,
    #[prost(uint32, tag = "6")]
    pub(super) weight: u32,
    #[prost(uint64, optional, tag = "7")]
    pub(super) quota_left: Option<u64>,
    #[prost(bool, tag = "8")]
    pub(super) draining: bool,
    #[prost(bytes = "bytes", tag = "9")]
    pub(super) site: Bytes,
    /// Names of certificates.
    #[prost(bytes = "bytes", repeated, tag = "10")]
    pub(super) names: Vec<Bytes>,
    /// Their expiries, 8 bytes each.
    #[prost(bytes = "bytes", tag = "11")]
    pub(super) expiries: Bytes,
    #[prost(bytes = "bytes", tag = "12")]
    pub(super) version: Bytes,
}

/// The kinds of frame. Requests stand below [`kind::PONG`], replies from it on.
pub(super) mod kind {
    pub(in super::super) const HELLO: u32 = 1;
    pub(in super::super) const GOODBYE: u32 = 2;
    pub(in super::super) const SPREAD: u32 = 3;

    pub(in super::super) const PING: u32 = 16;
    pub(in super::super) const NEIGHBOURS: u32 = 17;
    pub(in super::super) const STEP: u32 = 18;
    pub(in super::super) const STORE: u32 = 19;
    pub(in super::super) const WITHDRAW: u32 = 20;
    pub(in super::super) const ACQUIRE: u32 = 21;
    pub(in super::super) const BEAT: u32 = 22;
    pub(in super::super) const PASS: u32 = 23;
    pub(in super::super) const HOLD_LEASE: u32 = 24;
    pub(in super::super) const HOLD_MARK: u32 = 25;
    pub(in super::super) const SPREAD_KEYS: u32 = 26;
    pub(in super::super) const SPREAD_GET: u32 = 27;

    pub(in super::super) const SEEK: u32 = 28;
    pub(in super::super) const COPY: u32 = 29;

    pub(in super::super) const PONG: u32 = 64;
    pub(in super::super) const NODES: u32 = 65;
    pub(in super::super) const STEP_NODES: u32 = 66;
    pub(in super::super) const STEP_VALUES: u32 = 67;
    pub(in super::super) const STEP_ROOM: u32 = 68;
    pub(in super::super) const STORED: u32 = 69;
    pub(in super::super) const DONE: u32 = 70;
    pub(in super::super) const REFERENCES: u32 = 71;
    pub(in super::super) const GRANTED: u32 = 72;
    pub(in super::super) const MARKED: u32 = 73;
    pub(in super::super) const ACQUIRE_ELSEWHERE: u32 = 74;
    pub(in super::super) const BEAT_KEPT: u32 = 75;
    pub(in super::super) const BEAT_SUPERSEDED: u32 = 76;
    pub(in super::super) const BEAT_ELSEWHERE: u32 = 77;
    pub(in super::super) const HELD: u32 = 78;
    pub(in super::super) const HELD_OTHER_LEASE: u32 = 79;
    pub(in super::super) const HELD_OTHER_MARK: u32 = 80;
    pub(in super::super) const SHORT_KEYS: u32 = 81;
    pub(in super::super) const SPREAD_REPLY: u32 = 82;
    pub(in super::super) const REFUSED: u32 = 83;
    pub(in super::super) const WAIT: u32 = 84;
    pub(in super::super) const SOUGHT: u32 = 85;
}

/// Bytes of a cluster tag: id, age, size.
pub(super) const TAG_BYTES: usize = Key::BYTES + 4 + 4;

/// Addresses of a family, ports, and certificates a description may list at most.
pub(super) const LIST_LIMIT: usize = 4;

/// Bytes of a certificate's or header's name at most.
pub(super) const NAME_LIMIT: usize = 253;

/// Names in a Vary marker at most.
pub(super) const VARY_LIMIT: usize = 16;

/// Bytes of the operator's word for a site at most.
pub(super) const SITE_LIMIT: usize = 32;

/// Bytes of a program version at most.
pub(super) const VERSION_LIMIT: usize = 64;
