//! What is worth remembering over a restart, as bytes that the node keeps in its state directory: the peers met last, and the
//! revocations heard.
//! Layout of each (protobuf): { 1: version, now 1; 2: records }, the records being contacts, latest met first, or revocations. Bytes
//! that are none are nobody: a node that has forgotten everything can still be joined, and hears of revocations again.

use bytes::Bytes;
use prost::Message as _;

/// The bytes to keep.
pub(super) fn write(records: Vec<Bytes>) -> Bytes {
    SavedWire { version: VERSION, records }.encode_to_vec().into()
}

/// The records kept, at most this many. None if the bytes are of another version or damaged.
pub(super) fn read(bytes: &[u8], count: usize) -> Option<Vec<Bytes>> {
    if bytes.len() > count.saturating_mul(RECORD) {
        return None;
    }
    let mut wire = SavedWire::decode(bytes).ok().filter(|wire| wire.version == VERSION)?;
    wire.records.truncate(count);
    Some(wire.records)
}

const VERSION: u32 = 1;

/// Bytes of a record with its length, at most.
const RECORD: usize = 260;

#[derive(Clone, PartialEq, prost::Message)]
struct SavedWire {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    records: Vec<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::{Bytes, read, write};

    #[test]
    fn records_survive_and_damage_is_nobody() {
        let records = vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        let bytes = write(records.clone());
        assert_eq!(read(&bytes, 9), Some(records.clone()));
        assert_eq!(read(&bytes, 1), Some(records[..1].to_vec()));
        assert_eq!(read(&write(vec![Bytes::from_static(&[0; 100]); 3]), 1), None, "more than one can have");
        assert_eq!(read(b"", 9), None);
        bolero::check!().for_each(|bytes: &[u8]| drop(read(bytes, 9)));
    }
}
