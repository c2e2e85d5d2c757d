//! A body that comes from a peer, checked before anybody sees it: a chunk is handed on once its digest is the one that its fetcher
//! signed, and not before.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};

use crate::{
    digest,
    vouch::{Chunk, Group},
};

/// Holds at most one chunk back.
#[derive(Debug)]
pub(crate) struct Checked {
    /// Bytes of the copy that are there: checked, and handed on.
    at: u64,
    /// Chunks that are to come, each with where it begins.
    expected: VecDeque<(u64, Chunk)>,
    /// The one that is coming.
    held: BytesMut,
    /// The body ends where it was said to end.
    ends_at: Option<u64>,
}

/// The bytes are not what was signed, or nobody signed them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bytes that their fetcher did not sign")]
pub(crate) struct NotSigned;

/// A chunk that is good: where it begins, and its bytes. It may begin before what is there ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Good {
    pub(crate) start: u64,
    pub(crate) bytes: Bytes,
    pub(crate) digest: blake3::Hash,
}

impl Checked {
    /// A body of which so many bytes are there already.
    pub(crate) fn from(at: u64) -> Self {
        Self { at, expected: VecDeque::new(), held: BytesMut::new(), ends_at: None }
    }

    /// What comes next, in the words of somebody who was found to be a fetcher.
    pub(crate) fn promised(&mut self, group: &Group) -> Result<(), NotSigned> {
        // Between chunks, and without a gap: it may tell again what is there, never leave anything out.
        if !self.held.is_empty() || group.start > self.at || group.end() < self.at {
            return Err(NotSigned);
        }
        if group.last {
            self.ends_at = Some(group.end());
        }
        self.expected = group.chunks_from(self.at).collect();
        Ok(())
    }

    /// Bytes as they came; what of them is good now.
    pub(crate) fn take(&mut self, mut data: Bytes) -> Result<Vec<Good>, NotSigned> {
        let mut good = Vec::new();
        while data.has_remaining() {
            let (start, chunk) = *self.expected.front().ok_or(NotSigned)?;
            let length = usize::try_from(chunk.length).unwrap_or(usize::MAX);
            let piece = data.split_to(length.saturating_sub(self.held.len()).min(data.len()));
            let bytes = if piece.len() == length {
                piece
            } else {
                // Together, a chunk is hashed and kept in one go.
                self.held.reserve(length - self.held.len());
                self.held.extend_from_slice(&piece);
                if self.held.len() < length {
                    break;
                }
                std::mem::take(&mut self.held).freeze()
            };
            if digest::of_chunk(start, &bytes) != chunk.digest {
                return Err(NotSigned);
            }
            self.expected.pop_front();
            self.at = start + u64::from(chunk.length);
            good.push(Good { start, bytes, digest: chunk.digest });
        }
        Ok(good)
    }

    /// Whether the body is whole: its end was signed, and all before it came.
    pub(crate) fn is_whole(&self) -> bool {
        self.ends_at == Some(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(start: u64, last: bool, chunks: &[&[u8]]) -> Group {
        let mut at = start;
        let chunk = |bytes: &&[u8]| {
            let digest = digest::of_chunk(at, bytes);
            at += bytes.len() as u64;
            Chunk { length: u32::try_from(bytes.len()).unwrap(), digest }
        };
        Group { start, last, chunks: chunks.iter().map(chunk).collect(), proof: Bytes::new() }
    }

    fn bytes(good: &[Good]) -> Vec<u8> {
        good.iter().flat_map(|good| good.bytes.iter().copied()).collect()
    }

    #[test]
    fn bytes_are_good_once_their_chunk_is_whole_however_they_are_cut() {
        for cut in [1, 2, 3, 7] {
            let mut checked = Checked::from(0);
            checked.promised(&group(0, false, &[b"abc", b"de"])).unwrap();
            let mut seen = Vec::new();
            for piece in b"abcde".chunks(cut) {
                seen.extend(bytes(&checked.take(Bytes::copy_from_slice(piece)).unwrap()));
            }
            assert!(seen == b"abcde" && !checked.is_whole());
            checked.promised(&group(5, true, &[])).unwrap();
            assert!(checked.is_whole());
        }
        let mut checked = Checked::from(0);
        checked.promised(&group(0, true, &[b"abc"])).unwrap();
        assert!(checked.take(Bytes::from_static(b"ab")).unwrap().is_empty() && !checked.is_whole());
    }

    // P02
    #[test]
    fn not_a_byte_of_a_wrong_chunk_is_good() {
        let mut checked = Checked::from(0);
        checked.promised(&group(0, true, &[b"abc", b"def"])).unwrap();
        assert_eq!(bytes(&checked.take(Bytes::from_static(b"abcd")).unwrap()), b"abc");
        assert_eq!(checked.take(Bytes::from_static(b"eX")), Err(NotSigned));
        let mut nobody = Checked::from(0);
        assert_eq!(nobody.take(Bytes::from_static(b"a")), Err(NotSigned));
        let mut endless = Checked::from(0);
        endless.promised(&group(0, true, &[b"abc"])).unwrap();
        assert_eq!(endless.take(Bytes::from_static(b"abcd")), Err(NotSigned));
    }

    #[test]
    fn a_copy_goes_on_from_the_chunk_that_holds_its_next_byte_and_never_over_a_gap() {
        let mut checked = Checked::from(4);
        checked.promised(&group(0, true, &[b"abc", b"def"])).unwrap();
        let good = checked.take(Bytes::from_static(b"def")).unwrap();
        assert_eq!((good[0].start, bytes(&good), checked.is_whole()), (3, b"def".to_vec(), true));
        assert_eq!(Checked::from(4).promised(&group(5, true, &[b"x"])), Err(NotSigned));
        assert_eq!(Checked::from(4).promised(&group(0, true, &[b"abc"])), Err(NotSigned));
        let mut half = Checked::from(0);
        half.promised(&group(0, false, &[b"abc"])).unwrap();
        half.take(Bytes::from_static(b"a")).unwrap();
        assert_eq!(half.promised(&group(0, false, &[b"abc"])), Err(NotSigned));
    }
}
