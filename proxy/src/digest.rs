//! BLAKE3 of a body and of its chunks, each byte hashed once.
//!
//! A chunk that begins at a multiple of its greatest length is a whole subtree of the tree that BLAKE3 makes of the body, and its
//! digest is that subtree's chaining value; chunks that are checked make the body's digest without being read again. A chunk that
//! begins elsewhere, because its fetcher could not wait for more, has a hash of its own.

use blake3::{
    Hash, Hasher,
    hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root},
};

use crate::vouch::CHUNK;

/// The digest of 1 to [`CHUNK`] bytes that stand at a place in a body.
pub(crate) fn of_chunk(start: u64, bytes: &[u8]) -> Hash {
    if !start.is_multiple_of(u64::from(CHUNK)) || bytes.is_empty() || bytes.len() > LEAF {
        return blake3::hash(bytes);
    }
    Hash::from_bytes(leaf(start).update(bytes).finalize_non_root())
}

/// The digest of a body that comes in order.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    /// Chaining values of subtrees, the larger ones first; those that can be merged are when the next comes.
    subtrees: Vec<ChainingValue>,
    /// Leaves in them, each of [`LEAF`] bytes.
    leaves: u64,
    /// The leaf under way, with so many bytes.
    leaf: Hasher,
    held: usize,
}

impl Whole {
    /// Takes the next bytes.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.held == LEAF {
                self.settle();
            }
            if self.held == 0 && self.leaves > 0 {
                self.leaf = leaf(self.leaves * u64::from(CHUNK));
            }
            let (now, later) = bytes.split_at(bytes.len().min(LEAF - self.held));
            self.leaf.update(now);
            self.held += now.len();
            bytes = later;
        }
    }

    /// Takes the next bytes, which are a chunk with this digest [`of_chunk`].
    pub(crate) fn chunk(&mut self, bytes: &[u8], digest: &Hash) {
        // The first may turn out to be all there is, and then its digest is no chaining value.
        let aligned = bytes.len() == LEAF && (self.held == LEAF || self.held == 0 && self.leaves > 0);
        if !aligned {
            return self.update(bytes);
        }
        self.settle();
        self.push(*digest.as_bytes());
    }

    /// The digest of all of it.
    pub(crate) fn finalize(&mut self) -> Hash {
        if self.leaves == 0 {
            return self.leaf.finalize();
        }
        self.settle();
        let mut right = self.subtrees.pop().unwrap_or_default();
        while let Some(left) = self.subtrees.pop() {
            if self.subtrees.is_empty() {
                return merge_subtrees_root(&left, &right, Mode::Hash);
            }
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
        }
        Hash::from_bytes(right)
    }

    /// The leaf under way is done.
    fn settle(&mut self) {
        if std::mem::take(&mut self.held) > 0 {
            self.push(self.leaf.finalize_non_root());
        }
    }

    fn push(&mut self, value: ChainingValue) {
        // As many subtrees as the number of leaves has bits set are whole.
        while self.subtrees.len() > usize::try_from(self.leaves.count_ones()).unwrap_or(usize::MAX)
            && let (Some(right), Some(left)) = (self.subtrees.pop(), self.subtrees.pop())
        {
            self.subtrees.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
        self.subtrees.push(value);
        self.leaves += 1;
    }
}

fn leaf(start: u64) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(start);
    hasher
}

/// Bytes of a leaf: a whole chunk.
const LEAF: usize = CHUNK as usize;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_body_s_digest_is_its_blake3_whatever_its_length() {
        for length in
            [0, 1, LEAF - 1, LEAF, LEAF + 1, 2 * LEAF, 3 * LEAF + 5, 4 * LEAF, 7 * LEAF, 8 * LEAF, 17 * LEAF + 1]
        {
            let bytes = body(length);
            let (mut by_bytes, mut by_chunks, mut mixed) = (Whole::default(), Whole::default(), Whole::default());
            for (number, chunk) in bytes.chunks(LEAF).enumerate() {
                let digest = of_chunk((number * LEAF) as u64, chunk);
                by_chunks.chunk(chunk, &digest);
                by_bytes.update(chunk);
                if number % 3 == 0 { mixed.update(chunk) } else { mixed.chunk(chunk, &digest) }
            }
            let wanted = blake3::hash(&bytes);
            assert_eq!([by_bytes.finalize(), by_chunks.finalize(), mixed.finalize()], [wanted; 3], "{length}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn however_a_body_is_cut_its_digest_is_the_same(cuts in proptest::collection::vec(1..=LEAF, 1..12)) {
            let bytes = body(cuts.iter().sum());
            let (mut whole, mut at) = (Whole::default(), 0);
            for cut in cuts {
                let chunk = &bytes[at..at + cut];
                whole.chunk(chunk, &of_chunk(at as u64, chunk));
                at += cut;
            }
            prop_assert_eq!(whole.finalize(), blake3::hash(&bytes));
        }
    }

    #[test]
    fn a_chunk_s_digest_is_bound_to_its_place() {
        let chunk = body(LEAF);
        let all: std::collections::HashSet<_> =
            [0, 1, LEAF, LEAF + 7, 2 * LEAF].map(|start| *of_chunk(start as u64, &chunk).as_bytes()).into();
        // Where it is no subtree it is a hash of its own, wherever that is.
        assert_eq!(all.len(), 4);
    }
}
