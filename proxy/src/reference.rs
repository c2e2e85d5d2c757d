//! References: what an index value of ours says about a copy. At most 256 bytes, protobuf, so that versions can roll.
//!
//! Signed chunk digests come with the copy itself (`vouch.rs`), and which slices a node holds it says when it is asked for one.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use atoll_store::Object;
use bytes::Bytes;
use prost::Message as _;

use crate::meta::Meta;

/// One copy, whole or under way.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Reference {
    /// The version of this message's meaning.
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    /// Bytes of the whole object, if known.
    #[prost(uint64, optional, tag = "2")]
    pub(crate) length: Option<u64>,
    /// BLAKE3 of the whole object, once it is whole: 32 bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) digest: Bytes,
    /// What must be equal for two copies' bytes to be mixed: 16 bytes, or none before the head is known.
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) validator: Bytes,
    /// Bytes held so far.
    #[prost(uint64, tag = "5")]
    pub(crate) held: u64,
}

impl Reference {
    /// A copy that is only about to be fetched.
    pub(crate) fn fetching() -> Self {
        Self { version: VERSION, ..Self::default() }
    }

    /// A whole copy.
    pub(crate) fn whole_of(meta: &Meta) -> Self {
        Self {
            version: VERSION,
            length: meta.length,
            digest: meta.digest.map(|digest| Bytes::copy_from_slice(digest.as_bytes())).unwrap_or_default(),
            validator: Bytes::copy_from_slice(&meta.validator),
            held: meta.length.unwrap_or(0),
        }
    }

    /// The same of a copy that is at hand, should its digest have to be made.
    pub(crate) fn of_copy(meta: &Meta, copy: &Object) -> Self {
        Self::whole_of(&Meta { digest: meta.digest_of(copy), ..meta.clone() })
    }

    /// Reads a value of the index. `None`: not ours, damaged, or of a version we do not know.
    pub(crate) fn decode_value(value: &Bytes) -> Option<Self> {
        if value.len() > LIMIT {
            return None;
        }
        let found = Self::decode(value.clone()).ok()?;
        let fits = matches!(found.digest.len(), 0 | 32) && matches!(found.validator.len(), 0 | 16);
        (found.version == VERSION && fits).then_some(found)
    }

    /// As a value of the index.
    pub(crate) fn value(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// The digest of the whole, if it is whole.
    pub(crate) fn whole(&self) -> Option<blake3::Hash> {
        self.digest.as_ref().try_into().ok().map(blake3::Hash::from_bytes)
    }
}

/// The version written and read.
const VERSION: u32 = 1;

/// Bytes of an index value.
const LIMIT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_small_and_reads_back() {
        let reference = Reference {
            version: VERSION,
            length: Some(u64::MAX),
            digest: Bytes::from_static(&[7; 32]),
            validator: Bytes::from_static(&[8; 16]),
            held: u64::MAX,
        };
        let value = reference.value();
        assert!(value.len() <= 96, "{}", value.len());
        assert_eq!(Reference::decode_value(&value), Some(reference));
    }

    #[test]
    fn the_first_version_stays_readable() {
        // Golden bytes: version 1, length 5, digest of sevens, held 5.
        let mut golden = vec![0x08, 1, 0x10, 5, 0x1a, 32];
        golden.extend_from_slice(&[7; 32]);
        golden.extend_from_slice(&[0x28, 5]);
        let read = Reference::decode_value(&golden.clone().into()).unwrap();
        assert_eq!((read.length, read.held, read.digest.len()), (Some(5), 5, 32));
        assert_eq!(read.value(), golden);
    }

    #[test]
    fn foreign_bytes_are_no_reference() {
        assert_eq!(Reference::decode_value(&Bytes::new()), None);
        assert_eq!(Reference::decode_value(&Bytes::from(vec![0; 300])), None);
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            if let Some(read) = Reference::decode_value(&Bytes::copy_from_slice(bytes)) {
                assert_eq!(Reference::decode_value(&read.value()), Some(read));
            }
        });
    }
}
