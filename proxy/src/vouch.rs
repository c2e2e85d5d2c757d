//! What a fetcher vouches for: the head of an answer and, piece by piece, its body. Whoever passes a copy on passes these words on
//! with it, so that nobody has to believe the one in the middle.
//!
//! | statement | covers |
//! |---|---|
//! | head | [`HEAD`], key, BLAKE3 of URL, status, validator, [`AsOf`] and fields, the latter by name |
//! | chunks | [`CHUNKS`], key, validator, then the [`Group`]'s bytes without its proof |
//!
//! A group is a stretch of the body as chunks of at most 64 KiB with a digest each ([`crate::digest`]); the last one says that the
//! body ends there, so that none can be cut short. Groups stand for themselves: a copy that goes on from another source has the words of both.
//! Who signs has talked to the origin: the first fetcher, whoever took over from it, and for a head whoever had it confirmed.
//! Signed with a head is as of when it is ([`AsOf`]): the purges that its signer had applied before it asked the origin, so that no
//! relay can pass on what was purged since, and the moment by its clock. Clocks differ, so that says no more than that an answer is not
//! younger than this by more than [`SKEW`]; within that its age is what each node says that passes it on.
//!
//! Layout of a group: start (u64), flags (u8; 1: the body ends with it), count (u16), for each chunk length (u32) and digest (32
//! bytes), then the proof ([`Streams::sign`]). Big endian.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use atoll_overlay::{Key, NodeId, Streams};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::{
    meta::Meta,
    purge::{Heads, unix_millis},
};

/// What a copy's head and body are vouched for by, as it is kept beside them. The default: this node has them from the origin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Vouched {
    /// The proof of the head; empty if this node vouches for it.
    pub(crate) head: Bytes,
    /// As of when the head is.
    pub(crate) as_of: AsOf,
    /// Where the body's groups are.
    pub(crate) body: Groups,
}

/// What was known to whoever had a head from the origin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct AsOf {
    /// When the answer was of age zero, by its signer's clock: milliseconds since the Unix epoch. Not set before it is signed.
    pub(crate) made: u64,
    /// The purges applied before the origin was asked.
    pub(crate) heads: Heads,
}

impl Vouched {
    /// By this node, which had applied these purges before it asked the origin.
    pub(crate) fn from_origin(heads: Heads) -> Self {
        Self { as_of: AsOf { made: 0, heads }, ..Self::default() }
    }

    /// The head is confirmed by the origin, to this node, which had applied these purges before it asked.
    pub(crate) fn confirmed(self, heads: Heads) -> Self {
        Self { body: self.body, ..Self::from_origin(heads) }
    }
}

/// Where the groups of a stored body are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Groups {
    /// Nowhere: this node vouches for the body.
    #[default]
    Own,
    /// Here, as [`Entry::encode_all`] writes them.
    Inline(Bytes),
    /// In an object of their own, since they are many.
    Beside,
}

/// What is signed of a stretch of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// Its first byte's place.
    pub(crate) start: u64,
    /// Whether the body ends with it.
    pub(crate) last: bool,
    /// Its chunks.
    pub(crate) chunks: Vec<Chunk>,
    /// Who says so.
    pub(crate) proof: Bytes,
}

/// One chunk of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// 1 to [`CHUNK`] bytes.
    pub(crate) length: u32,
    /// Of these bytes at this place.
    pub(crate) digest: blake3::Hash,
}

/// The copy that a group is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) key: Key,
    pub(crate) validator: [u8; 16],
}

impl Copied {
    /// A group of this copy, signed by this node.
    pub(crate) fn sign(self, streams: &dyn Streams, start: u64, last: bool, chunks: Vec<Chunk>) -> Option<Group> {
        let mut group = Group { start, last, chunks, proof: Bytes::new() };
        group.proof = streams.sign(&self.statement(&group))?;
        Some(group)
    }

    /// Who vouches for a group of this copy.
    pub(crate) fn signer(self, streams: &dyn Streams, group: &Group) -> Option<NodeId> {
        streams.signer(&self.statement(group), &group.proof)
    }

    fn statement(self, group: &Group) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        group.put(&mut bytes);
        [CHUNKS, self.key.as_bytes(), &self.validator, &bytes].concat()
    }
}

/// Has this node vouch for a head that it has from the origin.
pub(crate) fn sign_head(streams: &dyn Streams, key: Key, meta: &mut Meta) -> Option<()> {
    let made = meta.received.checked_sub(meta.initial_age).unwrap_or(UNIX_EPOCH);
    meta.vouched.as_of.made = unix_millis(made);
    meta.vouched.head = streams.sign(&head_statement(key, meta))?;
    Some(())
}

/// How old an answer is at least, by its signer's clock, as far as that is to be trusted.
pub(crate) fn age_at_least(meta: &Meta, now: SystemTime) -> Duration {
    Duration::from_millis(unix_millis(now).saturating_sub(meta.vouched.as_of.made)).saturating_sub(SKEW)
}

/// Who vouches for a head that came with its proof.
pub(crate) fn head_signer(streams: &dyn Streams, key: Key, meta: &Meta) -> Option<NodeId> {
    streams.signer(&head_statement(key, meta), &meta.vouched.head)
}

fn head_statement(key: Key, meta: &Meta) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    let mut take = |part: &[u8]| {
        hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(part);
    };
    take(meta.url.as_bytes());
    take(&meta.status.as_u16().to_be_bytes());
    take(&meta.validator);
    take(&meta.vouched.as_of.made.to_be_bytes());
    take(&encode_heads(&meta.vouched.as_of.heads));
    let mut names: Vec<_> = meta.fields.keys().collect();
    names.sort_unstable_by_key(|name| name.as_str());
    for name in names {
        for value in meta.fields.get_all(name) {
            take(name.as_str().as_bytes());
            take(value.as_bytes());
        }
    }
    [HEAD, key.as_bytes(), hasher.finalize().as_bytes()].concat()
}

/// Heads as they are signed, kept and sent: id (20) and number (8) of each signer, in their order.
pub(crate) fn encode_heads(heads: &Heads) -> Bytes {
    let mut bytes = BytesMut::with_capacity(28 * heads.len());
    for (signer, head) in heads {
        bytes.extend_from_slice(signer.key().as_bytes());
        bytes.put_u64(*head);
    }
    bytes.freeze()
}

/// The way back; of more signers than anybody remembers nothing.
pub(crate) fn decode_heads(mut bytes: Bytes) -> Option<Heads> {
    let mut heads = Heads::new();
    while bytes.has_remaining() {
        let mut id = [0; 20];
        bytes.try_copy_to_slice(&mut id).ok()?;
        let ordered = heads.insert(Key::from_bytes(id).into(), bytes.try_get_u64().ok()?).is_none();
        if !ordered || heads.len() > SIGNERS {
            return None;
        }
    }
    Some(heads)
}

impl Group {
    /// One past its last byte's place.
    pub(crate) fn end(&self) -> u64 {
        self.chunks.iter().fold(self.start, |end, chunk| end.saturating_add(u64::from(chunk.length)))
    }

    /// Its chunks that are not all before a place, each with where it begins.
    pub(crate) fn chunks_from(&self, at: u64) -> impl Iterator<Item = (u64, Chunk)> {
        let mut end = self.start;
        let placed = self.chunks.iter().map(move |chunk| {
            let start = end;
            end = end.saturating_add(u64::from(chunk.length));
            (start, *chunk)
        });
        placed.filter(move |(start, chunk)| start.saturating_add(u64::from(chunk.length)) > at)
    }

    /// As bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        self.put(&mut bytes);
        bytes.extend_from_slice(&self.proof);
        bytes.freeze()
    }

    fn put(&self, bytes: &mut BytesMut) {
        bytes.put_u64(self.start);
        bytes.put_u8(u8::from(self.last));
        bytes.put_u16(u16::try_from(self.chunks.len()).unwrap_or(u16::MAX));
        for chunk in &self.chunks {
            bytes.put_u32(chunk.length);
            bytes.extend_from_slice(chunk.digest.as_bytes());
        }
    }

    /// Reads a group; believes nothing yet.
    pub(crate) fn decode(mut bytes: Bytes) -> Option<Self> {
        let start = bytes.try_get_u64().ok()?;
        let last = match bytes.try_get_u8().ok()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let count = usize::from(bytes.try_get_u16().ok()?);
        if count > CHUNKS_MOST || (count == 0 && !last) {
            return None;
        }
        let mut chunks = Vec::with_capacity(count);
        for _ in 0..count {
            let length = bytes.try_get_u32().ok()?;
            let mut digest = [0; 32];
            bytes.try_copy_to_slice(&mut digest).ok()?;
            if length == 0 || length > CHUNK {
                return None;
            }
            chunks.push(Chunk { length, digest: blake3::Hash::from_bytes(digest) });
        }
        let group = Self { start, last, chunks, proof: bytes };
        (group.proof.len() <= PROOF_LIMIT && start.checked_add(SPAN_LIMIT).is_some()).then_some(group)
    }
}

/// The words that hold for a body from one of its bytes on, until others do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where they begin to hold. A source that was changed to may have promised again what was there already.
    pub(crate) from: u64,
    pub(crate) group: Arc<Group>,
}

impl Entry {
    /// Of entries in their order, the one that holds for the byte at a place, or for the end there: which, and up to where.
    pub(crate) fn find(entries: &[Self], at: u64) -> Option<(usize, &Self, u64)> {
        let after = entries.partition_point(|entry| entry.from <= at);
        let place = after.checked_sub(1)?;
        let entry = entries.get(place)?;
        let end = entry.group.end();
        let covers = entry.group.start <= at && (at < end || (entry.group.last && at == end));
        let until = entries.get(after).map_or(end, |next| next.from.min(end));
        covers.then_some((place, entry, until))
    }

    /// Entries as they are kept: each from (u64) and its group, after the length of both (u16).
    pub(crate) fn encode_all(entries: &[Self]) -> Bytes {
        let mut all = BytesMut::new();
        for Self { from, group } in entries {
            let bytes = group.encode();
            all.put_u16(u16::try_from(8 + bytes.len()).unwrap_or(u16::MAX));
            all.put_u64(*from);
            all.extend_from_slice(&bytes);
        }
        all.freeze()
    }

    /// The way back.
    pub(crate) fn decode_all(mut bytes: Bytes) -> Option<Vec<Self>> {
        let mut entries: Vec<Self> = Vec::new();
        while bytes.has_remaining() {
            let length = usize::from(bytes.try_get_u16().ok()?);
            if length > bytes.len() {
                return None;
            }
            let mut one = bytes.split_to(length);
            let from = one.try_get_u64().ok()?;
            let ordered = entries.last().is_none_or(|last| last.from <= from);
            entries.push(Self { from, group: Arc::new(Group::decode(one).filter(|_| ordered)?) });
        }
        Some(entries)
    }
}

/// Bytes of a chunk at most [design 4]. Chunks end at multiples of it, but where their fetcher had no more to sign.
pub(crate) const CHUNK: u32 = 64 << 10;

/// Chunks of a group at most: one signature a half MiB where bytes come fast.
pub(crate) const CHUNKS_MOST: usize = 8;

/// Bytes of a group's encoding at most.
pub(crate) const GROUP_LIMIT: usize = 11 + 36 * CHUNKS_MOST + PROOF_LIMIT;

/// Bytes of a proof at most [the overlay's limit].
const PROOF_LIMIT: usize = 512;

/// No group reaches further.
const SPAN_LIMIT: u64 = 1 << 32;

/// Signers of purges that a head may name.
const SIGNERS: usize = 1_024;

/// How far clocks may be apart: a day, as for certificates [bad-inputs P11].
const SKEW: Duration = Duration::from_secs(86_400);

const HEAD: &[u8] = b"atoll head 2\0";
const CHUNKS: &[u8] = b"atoll chunks 2\0";

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        let chunk = |length| Chunk { length, digest: blake3::hash(&[1]) };
        Group { start: 10, last: true, chunks: vec![chunk(5), chunk(7), chunk(1)], proof: Bytes::from_static(b"me") }
    }

    #[test]
    fn groups_read_back_alone_and_together() {
        assert_eq!(Group::decode(group().encode()), Some(group()));
        let entry = |from, group| Entry { from, group: Arc::new(group) };
        let all = [entry(10, group()), entry(17, Group { start: 12, ..group() })];
        assert_eq!(Entry::decode_all(Entry::encode_all(&all)).as_deref(), Some(&all[..]));
        let held = |at| Entry::find(&all, at).map(|(place, _, until)| (place, until));
        assert_eq!(
            [9, 10, 16, 17, 25, 26].map(held),
            [None, Some((0, 17)), Some((0, 17)), Some((1, 25)), Some((1, 25)), None]
        );
        assert_eq!(Entry::decode_all(Entry::encode_all(&[all[1].clone(), all[0].clone()])), None, "out of order");
        assert!(group().encode().len() <= GROUP_LIMIT);
        let places: Vec<u64> = group().chunks_from(15).map(|(start, _)| start).collect();
        assert_eq!((group().end(), places), (23, vec![15, 22]));
    }

    #[test]
    fn what_a_chunk_or_a_group_may_not_be_is_refused() {
        let chunk = |length| Chunk { length, digest: blake3::hash(&[1]) };
        for bad in [
            Group { chunks: vec![chunk(0)], ..group() },
            Group { chunks: vec![chunk(CHUNK + 1)], ..group() },
            Group { chunks: vec![chunk(1); CHUNKS_MOST + 1], ..group() },
            Group { chunks: Vec::new(), last: false, ..group() },
            Group { start: u64::MAX, ..group() },
            Group { proof: vec![0; PROOF_LIMIT + 1].into(), ..group() },
        ] {
            assert_eq!(Group::decode(bad.encode()), None, "{bad:?}");
        }
    }

    #[test]
    fn foreign_bytes_are_no_groups() {
        let heads: Heads = [(9, 1), (3, u64::MAX)].map(|(by, head)| (Key::from_bytes([by; 20]).into(), head)).into();
        assert_eq!(decode_heads(encode_heads(&heads)), Some(heads));
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            let bytes = Bytes::copy_from_slice(bytes);
            decode_heads(bytes.clone());
            if let Some(group) = Group::decode(bytes.clone()) {
                assert_eq!(group.encode(), bytes);
                group.chunks_from(group.end()).for_each(drop);
            }
            if let Some(entries) = Entry::decode_all(bytes.clone()) {
                assert_eq!(Entry::encode_all(&entries), bytes);
            }
        });
    }
}
