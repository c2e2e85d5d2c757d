//! The peers worth remembering over a restart, as bytes that the node keeps in its state directory.
//! Layout (protobuf): { 1: version, now 1; 2: contact records, latest met first }. Bytes that are none are no peers: a node that has
//! forgotten everybody can still be joined.

use bytes::Bytes;
use prost::Message as _;

/// The bytes to keep.
pub(super) fn write(records: Vec<Bytes>) -> Bytes {
    SavedWire { version: VERSION, records }.encode_to_vec().into()
}

/// The contact records kept, at most this many. None if the bytes are of another version or damaged.
pub(super) fn read(bytes: &[u8], count: usize) -> Option<Vec<Bytes>> {
    if bytes.len() > LIMIT {
        return None;
    }
    let mut wire = SavedWire::decode(bytes).ok().filter(|wire| wire.version == VERSION)?;
    wire.records.truncate(count);
    Some(wire.records)
}

const VERSION: u32 = 1;

/// Bytes looked at, at most: 1,024 records of 256 bytes and their lengths.
const LIMIT: usize = 1_024 * 260;

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
        assert_eq!(read(b"", 9), None);
        bolero::check!().for_each(|bytes: &[u8]| drop(read(bytes, 9)));
    }
}
