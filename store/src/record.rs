//! One object, or one part of one, on disk: the only byte layout of records.
//!
//! ```text
//!  0  4  magic "AtR1"                        72  8  born, purge number
//!  4  4  CRC-32 of bytes 8..144              80  8  generation: tells a body from every other
//!  8  8  salt of the segment                 88  8  bytes of the object's whole body
//! 16  1  kind  17 1 flags  18 2 zero         96  4  bytes of metadata
//! 20 20  key                                100  4  bytes of body in this record
//! 40  8  directory                          104  4  CRC-32 of metadata and checksums
//! 48  8  tags                               108  4  bytes of a slice (run)
//! 56  8  expires, ms since 1970, or 2^64-1  112 16  place of the body named (freshen): segment 8, offset 4, zero 4
//! 64  8  stored, ms since 1970              128 16  place this record replaces, if only that: likewise
//! 144 metadata | CRC-32 of each 64 KiB piece of the body | body | zeros to the next 16 bytes
//! ```
//!
//! Numbers are little-endian, offsets in files count 16 bytes. The salt is drawn anew for each segment, so that bytes
//! in a body never pass for a record when a torn segment is scanned. The body is checked piece by piece: a range
//! costs no more than the pieces it touches.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::config::PIECE;
use crate::key::{Head, Key, PurgeNumber, Tags};

/// Bytes of a record before its metadata.
pub(crate) const HEADER: usize = 144;
/// What offsets in a segment count in, in bytes.
pub(crate) const UNIT: u64 = 16;
const MAGIC: &[u8; 4] = b"AtR1";
const NEVER: u64 = u64::MAX;
const FLAG_SOFT: u8 = 1;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An object with its body.
    Whole = 1,
    /// An object whose body is a run of slices.
    Run = 2,
    /// One slice of a body, under the slice's key.
    Slice = 3,
    /// New metadata for the body of another record.
    Freshen = 4,
    /// The object under this key was removed.
    Tombstone = 5,
}

/// A record's place: the number of its segment, and its offset there in [`UNIT`]s. All zero is nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    pub(crate) offset: u32,
}

/// What a record says before its metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) soft_purged: bool,
    pub(crate) key: Key,
    pub(crate) directory: u64,
    pub(crate) tags: Tags,
    pub(crate) expires: Option<SystemTime>,
    pub(crate) stored: SystemTime,
    pub(crate) born: PurgeNumber,
    pub(crate) generation: u64,
    /// Bytes of the object's whole body.
    pub(crate) length: u64,
    /// Bytes of a slice, for a run.
    pub(crate) slice: u32,
    pub(crate) metadata_length: u32,
    pub(crate) body_length: u32,
    /// The body's record, for a freshen.
    pub(crate) body_at: Place,
    /// The only record this one stands in for; nowhere if it stands in for any.
    pub(crate) replaces: Place,
    pub(crate) metadata_sum: u32,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("the record is cut short")]
    Short,
    #[error("no record begins here")]
    Magic,
    #[error("a checksum does not match")]
    Checksum,
    #[error("the record belongs to another segment")]
    Salt,
    #[error("a field has a value it cannot have")]
    Field,
}

impl Header {
    /// The header of an object under `head`, its body `length` bytes, all in this record if it is `Whole`.
    pub(crate) fn new(kind: Kind, head: &Head, length: u64, stored: SystemTime, generation: u64) -> Self {
        Self {
            kind,
            soft_purged: false,
            key: head.key,
            directory: head.directory,
            tags: head.tags,
            expires: head.expires,
            stored,
            born: head.born,
            generation,
            length,
            slice: 0,
            metadata_length: 0,
            body_length: 0,
            body_at: Place::default(),
            replaces: Place::default(),
            metadata_sum: 0,
        }
    }

    /// The object's head, with the metadata that stood beside this header.
    pub(crate) fn head(&self, metadata: Bytes) -> Head {
        Head {
            key: self.key,
            directory: self.directory,
            tags: self.tags,
            expires: self.expires,
            metadata,
            length: Some(self.length),
            born: self.born,
        }
    }

    /// Bytes from the record's beginning to its metadata's end.
    pub(crate) fn sums_begin(&self) -> u64 {
        HEADER as u64 + u64::from(self.metadata_length)
    }

    /// Bytes from the record's beginning to its body.
    pub(crate) fn body_begin(&self) -> u64 {
        self.sums_begin() + 4 * self.pieces()
    }

    /// Bytes of the record, padding included.
    pub(crate) fn record_length(&self) -> u64 {
        (self.body_begin() + u64::from(self.body_length)).next_multiple_of(UNIT)
    }

    /// Pieces of the body in this record.
    pub(crate) fn pieces(&self) -> u64 {
        u64::from(self.body_length).div_ceil(PIECE)
    }

    /// Reads the header at the beginning of `bytes`, if it belongs to the segment of this salt.
    pub(crate) fn decode(bytes: &[u8], salt: u64) -> Result<Self, DecodeError> {
        let header = bytes.first_chunk::<HEADER>().ok_or(DecodeError::Short)?;
        let mut cursor = Cursor(header);
        if cursor.take::<4>()? != *MAGIC {
            return Err(DecodeError::Magic);
        }
        let sum = cursor.u32()?;
        if crc32fast::hash(cursor.0) != sum {
            return Err(DecodeError::Checksum);
        }
        if cursor.u64()? != salt {
            return Err(DecodeError::Salt);
        }
        let [kind, flags, _, _] = cursor.take::<4>()?;
        let header = Self {
            kind: Kind::decode(kind)?,
            soft_purged: flags & FLAG_SOFT != 0,
            key: Key::from_bytes(cursor.take()?),
            directory: cursor.u64()?,
            tags: Tags::from_bits(cursor.u64()?),
            expires: Some(cursor.u64()?).filter(|ms| *ms != NEVER).map(time).transpose()?,
            stored: time(cursor.u64()?)?,
            born: PurgeNumber(cursor.u64()?),
            generation: cursor.u64()?,
            length: cursor.u64()?,
            metadata_length: cursor.u32()?,
            body_length: cursor.u32()?,
            metadata_sum: cursor.u32()?,
            slice: cursor.u32()?,
            body_at: cursor.place()?,
            replaces: cursor.place()?,
        };
        let sound = match header.kind {
            Kind::Whole => header.length == u64::from(header.body_length),
            Kind::Run => header.body_length == 0 && header.slice > 0 && u64::from(header.slice) % PIECE == 0,
            Kind::Slice => header.metadata_length == 0 && header.body_length > 0,
            Kind::Freshen | Kind::Tombstone => header.body_length == 0,
        };
        if sound { Ok(header) } else { Err(DecodeError::Field) }
    }

    /// Checks what stands between header and body, and takes it apart: the metadata, and the checksum of each piece.
    pub(crate) fn decode_front(&self, front: &Bytes) -> Result<(Bytes, Vec<u32>), DecodeError> {
        let begin = usize::try_from(self.sums_begin()).map_err(|_| DecodeError::Field)?;
        let end = usize::try_from(self.body_begin()).map_err(|_| DecodeError::Field)?;
        let rest = front.get(HEADER..end).ok_or(DecodeError::Short)?;
        if crc32fast::hash(rest) != self.metadata_sum {
            return Err(DecodeError::Checksum);
        }
        let sums = front.get(begin..end).ok_or(DecodeError::Short)?;
        let (sums, _) = sums.as_chunks::<4>();
        let sums = sums.iter().map(|sum| u32::from_le_bytes(*sum)).collect();
        Ok((front.slice(HEADER..begin), sums))
    }
}

/// The CRC-32 of each piece.
pub(crate) fn sums(pieces: &[Bytes]) -> Vec<u32> {
    pieces.iter().map(|piece| crc32fast::hash(piece)).collect()
}

/// Encodes everything of a record but its body, setting the header's lengths and checksums; `sums` are the pieces'.
pub(crate) fn encode(header: &mut Header, metadata: &[u8], pieces: &[Bytes], sums: &[u32], salt: u64) -> Vec<u8> {
    let body: usize = pieces.iter().map(Bytes::len).sum();
    header.metadata_length = u32::try_from(metadata.len()).unwrap_or(u32::MAX);
    header.body_length = u32::try_from(body).unwrap_or(u32::MAX);
    let mut rest = Vec::with_capacity(metadata.len() + 4 * pieces.len());
    rest.extend_from_slice(metadata);
    sums.iter().for_each(|sum| rest.extend_from_slice(&sum.to_le_bytes()));
    header.metadata_sum = crc32fast::hash(&rest);

    let mut fields = Vec::with_capacity(HEADER);
    fields.extend_from_slice(&salt.to_le_bytes());
    fields.extend_from_slice(&[header.kind as u8, if header.soft_purged { FLAG_SOFT } else { 0 }, 0, 0]);
    fields.extend_from_slice(header.key.as_bytes());
    for number in [
        header.directory,
        header.tags.bits(),
        header.expires.map_or(NEVER, milliseconds),
        milliseconds(header.stored),
        header.born.0,
        header.generation,
        header.length,
    ] {
        fields.extend_from_slice(&number.to_le_bytes());
    }
    for number in [header.metadata_length, header.body_length, header.metadata_sum, header.slice] {
        fields.extend_from_slice(&number.to_le_bytes());
    }
    for place in [header.body_at, header.replaces] {
        fields.extend_from_slice(&place.segment.to_le_bytes());
        fields.extend_from_slice(&place.offset.to_le_bytes());
        fields.extend_from_slice(&[0; 4]);
    }
    let mut front = Vec::with_capacity(HEADER + rest.len());
    front.extend_from_slice(MAGIC);
    front.extend_from_slice(&crc32fast::hash(&fields).to_le_bytes());
    front.extend_from_slice(&fields);
    front.extend_from_slice(&rest);
    front
}

/// The time to the millisecond, as records keep it; before 1970 is 1970.
pub(crate) fn to_millisecond(time: SystemTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds(time))
}

/// Milliseconds since 1970, rounded down; 0 before.
pub(crate) fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(NEVER - 1)
}

fn time(milliseconds: u64) -> Result<SystemTime, DecodeError> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds)).ok_or(DecodeError::Field)
}

impl Kind {
    pub(crate) fn decode(byte: u8) -> Result<Self, DecodeError> {
        [Self::Whole, Self::Run, Self::Slice, Self::Freshen, Self::Tombstone]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
            .ok_or(DecodeError::Field)
    }
}

/// Takes little-endian numbers off the front of foreign bytes.
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl Cursor<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.take().map(u64::from_le_bytes)
    }

    fn place(&mut self) -> Result<Place, DecodeError> {
        let place = Place { segment: self.u64()?, offset: self.u32()? };
        self.take::<4>()?;
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn header() -> Header {
        let head = Head {
            key: Key::from_bytes(*b"twenty bytes of key."),
            directory: 0x0102_0304_0506_0708,
            tags: Tags([1, 2, 3, 0xffff]),
            expires: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)),
            metadata: Bytes::new(),
            length: None,
            born: PurgeNumber(9),
        };
        let stored = SystemTime::UNIX_EPOCH + Duration::from_millis(1_600_000_000_456);
        let replaces = Place { segment: 3, offset: 4 };
        Header { replaces, ..Header::new(Kind::Whole, &head, 11, stored, 0xfeed) }
    }

    fn record(salt: u64) -> (Header, Bytes) {
        let mut header = header();
        let pieces = [Bytes::from("hello world")];
        let mut bytes = encode(&mut header, b"meta", &pieces, &sums(&pieces), salt);
        bytes.extend_from_slice(&pieces[0]);
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        (header, bytes.into())
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let (header, bytes) = record(7);
        let decoded = Header::decode(&bytes, 7).unwrap();
        assert_eq!(decoded, header);
        assert_eq!(decoded.record_length(), bytes.len() as u64);
        let (metadata, sums) = decoded.decode_front(&bytes).unwrap();
        assert_eq!(metadata, "meta");
        assert_eq!(sums, [crc32fast::hash(b"hello world")]);
        assert_eq!(Header::decode(&bytes, 8), Err(DecodeError::Salt));
    }

    #[test]
    fn any_flipped_bit_before_the_body_is_noticed() {
        let (header, bytes) = record(7);
        let front = usize::try_from(header.body_begin()).unwrap();
        for bit in 0..front * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let flipped = Bytes::from(flipped);
            let seen = Header::decode(&flipped, 7).and_then(|header| header.decode_front(&flipped));
            assert!(seen.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_layout_does_not_change_by_accident() {
        let (_, bytes) = record(0x1122_3344_5566_7788);
        let lines: Vec<String> =
            bytes.chunks(16).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
        expect![[r#"
            417452311438d89b8877665544332211
            010000007477656e7479206279746573
            206f66206b65792e0807060504030201
            010002000300ffff7b68e5cf8b010000
            c8816e87740100000900000000000000
            edfe0000000000000b00000000000000
            040000000b000000174ce77000000000
            00000000000000000000000000000000
            03000000000000000400000000000000
            6d65746185114a0d68656c6c6f20776f
            726c6400000000000000000000000000"#]]
        .assert_eq(&lines.join("\n"));
    }

    #[test]
    fn foreign_bytes_never_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            // Both as they come, and with the checksum made right so that the fields are reached.
            let mut dressed = bytes.to_vec();
            dressed.resize(dressed.len().max(HEADER), 0);
            dressed[..4].copy_from_slice(MAGIC);
            dressed[8..16].copy_from_slice(&7u64.to_le_bytes());
            let sum = crc32fast::hash(&dressed[8..HEADER]);
            dressed[4..8].copy_from_slice(&sum.to_le_bytes());
            for bytes in [Bytes::copy_from_slice(bytes), dressed.into()] {
                if let Ok(header) = Header::decode(&bytes, 7) {
                    assert!(header.record_length() >= HEADER as u64);
                    drop(header.decode_front(&bytes));
                }
            }
        });
    }
}
