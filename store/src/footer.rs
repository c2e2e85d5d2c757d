//! What stands at a segment's two ends: its header, and once it is sealed, a footer of one entry a record.
//!
//! ```text
//! header, 64 bytes   0 8 magic "AtolSeg1" | 8 8 number | 16 8 salt | 24 8 seed of the index | 32 8 bytes of the file
//!                    40 8 newest purge | 48 12 zero | 60 4 CRC-32 of bytes 0..60
//! records            each at a multiple of 16 bytes, see `record`
//! entries, 24 bytes  0 8 hash of the key | 8 4 offset in 16 bytes | 12 4 bytes | 16 1 kind | 17 7 zero
//!                    a record that replaces one place alone is followed by that place: 8 segment, 4 offset, 12 zero
//! trailer, 48 bytes  at the file's end: 0 8 magic "AtolEnd1" | 8 8 number | 16 8 salt | 24 4 entries, places included
//!                    28 4 CRC-32 of the entries | 32 8 newest purge any record was born at | 40 4 zero
//!                    44 4 CRC-32 of bytes 0..44
//! ```
//!
//! The entries end where the trailer begins. Numbers are little-endian.

use std::io;

use crate::disk::DiskFile;
use crate::record::{Cursor, DecodeError, Kind, Place};

/// Bytes before the first record.
pub(crate) const SEGMENT_HEADER: usize = 64;
/// Bytes of a footer behind its entries.
pub(crate) const TRAILER: usize = 48;
const ENTRY: usize = 24;
/// Bytes of a footer that are written together.
const PART: usize = 32 << 10;
const HEADER_MAGIC: &[u8; 8] = b"AtolSeg1";
const TRAILER_MAGIC: &[u8; 8] = b"AtolEnd1";

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) number: u64,
    pub(crate) salt: u64,
    /// Seed of the hash that entries and the index hold.
    pub(crate) seed: u64,
    pub(crate) size: u64,
    /// The newest purge when the segment was opened.
    pub(crate) purge: u64,
}

/// What a footer says of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) hash: u64,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) kind: Kind,
    /// The only record it stands in for, if it does not stand in for any.
    pub(crate) replaces: Place,
}

/// What a footer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) entries: Vec<Entry>,
    /// The newest purge number that any record was born at.
    pub(crate) purge: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER);
        bytes.extend_from_slice(HEADER_MAGIC);
        for number in [self.number, self.salt, self.seed, self.size, self.purge] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes.first_chunk().copied().unwrap_or([0; SEGMENT_HEADER])
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor(checked::<SEGMENT_HEADER>(bytes)?);
        if cursor.take::<8>()? != *HEADER_MAGIC {
            return Err(DecodeError::Magic);
        }
        let [number, salt] = [cursor.u64()?, cursor.u64()?];
        Ok(Self { number, salt, seed: cursor.u64()?, size: cursor.u64()?, purge: cursor.u64()? })
    }
}

impl Entry {
    /// Bytes it takes in a footer.
    pub(crate) fn bytes(&self) -> u64 {
        let places = if self.replaces == Place::default() { 1 } else { 2 };
        places * ENTRY as u64
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.hash.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        let replaces = self.replaces != Place::default();
        out.extend_from_slice(&[self.kind as u8, u8::from(replaces), 0, 0, 0, 0, 0, 0]);
        if replaces {
            out.extend_from_slice(&self.replaces.segment.to_le_bytes());
            out.extend_from_slice(&self.replaces.offset.to_le_bytes());
            out.extend_from_slice(&[0; 12]);
        }
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let (hash, offset, length) = (cursor.u64()?, cursor.u32()?, cursor.u32()?);
        let [kind, replaces, ..] = cursor.take::<8>()?;
        let kind = Kind::decode(kind)?;
        let mut place = Place::default();
        if replaces != 0 {
            place = Place { segment: cursor.u64()?, offset: cursor.u32()? };
            cursor.take::<12>()?;
        }
        if offset == 0 { Err(DecodeError::Field) } else { Ok(Self { hash, offset, length, kind, replaces: place }) }
    }
}

impl Footer {
    /// How many bytes of entries stand before this trailer, the checksum they have, and the newest purge.
    fn decode_trailer(bytes: &[u8], header: &SegmentHeader) -> Result<(usize, u32, u64), DecodeError> {
        let mut cursor = Cursor(checked::<TRAILER>(bytes)?);
        if cursor.take::<8>()? != *TRAILER_MAGIC {
            return Err(DecodeError::Magic);
        }
        if cursor.u64()? != header.number || cursor.u64()? != header.salt {
            return Err(DecodeError::Salt);
        }
        let count = usize::try_from(cursor.u32()?).map_err(|_| DecodeError::Field)?;
        let entries = count.checked_mul(ENTRY).ok_or(DecodeError::Field)?;
        let room = header.size.saturating_sub((SEGMENT_HEADER + TRAILER) as u64);
        if entries as u64 > room {
            return Err(DecodeError::Field);
        }
        Ok((entries, cursor.u32()?, cursor.u64()?))
    }

    fn decode_entries(bytes: &[u8], sum: u32) -> Result<Vec<Entry>, DecodeError> {
        if crc32fast::hash(bytes) != sum {
            return Err(DecodeError::Checksum);
        }
        let mut cursor = Cursor(bytes);
        let mut entries = Vec::with_capacity(bytes.len() / ENTRY);
        while !cursor.0.is_empty() {
            entries.push(Entry::decode(&mut cursor)?);
        }
        Ok(entries)
    }
}

/// The entries and the trailer, as they stand at the end of the file, in parts.
pub(crate) fn footer_parts<'e>(
    entries: impl Iterator<Item = &'e Entry>,
    purge: u64,
    header: &SegmentHeader,
) -> Vec<Vec<u8>> {
    let (mut parts, mut part) = (Vec::new(), Vec::with_capacity(PART));
    let (mut sum, mut length) = (crc32fast::Hasher::new(), 0);
    for entry in entries {
        if part.len() + 2 * ENTRY > PART {
            sum.update(&part);
            length += part.len();
            parts.push(std::mem::replace(&mut part, Vec::with_capacity(PART)));
        }
        entry.encode(&mut part);
    }
    sum.update(&part);
    length += part.len();
    let mut trailer = Vec::with_capacity(TRAILER);
    trailer.extend_from_slice(TRAILER_MAGIC);
    trailer.extend_from_slice(&header.number.to_le_bytes());
    trailer.extend_from_slice(&header.salt.to_le_bytes());
    trailer.extend_from_slice(&u32::try_from(length / ENTRY).unwrap_or(u32::MAX).to_le_bytes());
    trailer.extend_from_slice(&sum.finalize().to_le_bytes());
    trailer.extend_from_slice(&purge.to_le_bytes());
    trailer.extend_from_slice(&[0; 4]);
    trailer.extend_from_slice(&crc32fast::hash(&trailer).to_le_bytes());
    part.extend_from_slice(&trailer);
    parts.push(part);
    parts
}

/// The footer of a file; `None` if it has no sound one.
pub(crate) fn read_footer(file: &dyn DiskFile, header: &SegmentHeader) -> io::Result<Option<Footer>> {
    let Some(at) = header.size.checked_sub(TRAILER as u64) else { return Ok(None) };
    let mut trailer = [0; TRAILER];
    file.read_at(&mut trailer, at)?;
    let Ok((length, sum, purge)) = Footer::decode_trailer(&trailer, header) else { return Ok(None) };
    let mut entries = vec![0; length];
    file.read_at(&mut entries, at - length as u64)?;
    Ok(Footer::decode_entries(&entries, sum).ok().map(|entries| Footer { entries, purge }))
}

/// The first `N` bytes, if the last four of them are the CRC-32 of the rest; without those four.
fn checked<const N: usize>(bytes: &[u8]) -> Result<&[u8], DecodeError> {
    let bytes = bytes.first_chunk::<N>().ok_or(DecodeError::Short)?;
    let (rest, sum) = bytes.split_last_chunk::<4>().ok_or(DecodeError::Short)?;
    if crc32fast::hash(rest) == u32::from_le_bytes(*sum) { Ok(rest) } else { Err(DecodeError::Checksum) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    const HEADER: SegmentHeader = SegmentHeader { number: 5, salt: 0x5a17, seed: 0x5eed, size: 4096, purge: 3 };

    fn footer() -> Footer {
        let plain = Entry { hash: 0xabcd, offset: 4, length: 200, kind: Kind::Whole, replaces: Place::default() };
        let replaces = Place { segment: 2, offset: 9 };
        Footer { entries: vec![plain, Entry { offset: 17, kind: Kind::Freshen, replaces, ..plain }], purge: 8 }
    }

    fn encode(footer: &Footer, header: &SegmentHeader) -> Vec<u8> {
        footer_parts(footer.entries.iter(), footer.purge, header).concat()
    }

    fn decode(bytes: &[u8]) -> Result<Footer, DecodeError> {
        let trailer = bytes.len().checked_sub(TRAILER).ok_or(DecodeError::Short)?;
        let (length, sum, purge) = Footer::decode_trailer(&bytes[trailer..], &HEADER)?;
        let begin = trailer.checked_sub(length).ok_or(DecodeError::Short)?;
        Ok(Footer { entries: Footer::decode_entries(&bytes[begin..trailer], sum)?, purge })
    }

    #[test]
    fn header_and_footer_are_read_as_they_were_written_and_no_flipped_bit_passes() {
        assert_eq!(SegmentHeader::decode(&HEADER.encode()), Ok(HEADER));
        let bytes = encode(&footer(), &HEADER);
        assert_eq!(decode(&bytes), Ok(footer()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "bit {bit} of the footer");
        }
        for bit in 0..SEGMENT_HEADER * 8 {
            let mut flipped = HEADER.encode();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&flipped).is_err(), "bit {bit} of the header");
        }
    }

    #[test]
    fn a_footer_of_many_parts_is_read_as_it_was_written() {
        let replaces = |n| Place { segment: u64::from(n % 2), offset: n };
        let entries: Vec<_> =
            (1..=5000).map(|n| Entry { offset: n, replaces: replaces(n), ..footer().entries[0] }).collect();
        let header = SegmentHeader { size: 1 << 20, ..HEADER };
        let parts = footer_parts(entries.iter(), 8, &header);
        assert!(parts.len() > 1 && parts.iter().all(|part| part.len() <= PART + TRAILER));
        let bytes = parts.concat();
        let (length, sum, purge) = Footer::decode_trailer(&bytes[bytes.len() - TRAILER..], &header).unwrap();
        assert_eq!((length, purge), (bytes.len() - TRAILER, 8));
        assert_eq!(Footer::decode_entries(&bytes[..length], sum), Ok(entries));
    }

    #[test]
    fn the_layout_does_not_change_by_accident() {
        let bytes = [HEADER.encode().to_vec(), encode(&footer(), &HEADER)].concat();
        let lines: Vec<String> =
            bytes.chunks(16).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
        expect![[r#"
            41746f6c536567310500000000000000
            175a000000000000ed5e000000000000
            00100000000000000300000000000000
            000000000000000000000000b4d4b1af
            cdab00000000000004000000c8000000
            0100000000000000cdab000000000000
            11000000c80000000401000000000000
            02000000000000000900000000000000
            000000000000000041746f6c456e6431
            0500000000000000175a000000000000
            0300000032f8e9890800000000000000
            00000000517066a7"#]]
        .assert_eq(&lines.join("\n"));
    }

    #[test]
    fn foreign_bytes_never_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = SegmentHeader::decode(bytes);
            drop(decode(bytes));
            // With checksums made right, so that the fields are reached.
            drop(Footer::decode_entries(bytes, crc32fast::hash(bytes)));
            let mut trailer = bytes.to_vec();
            trailer.resize(TRAILER - 4, 0);
            trailer[..24].copy_from_slice(&encode(&footer(), &HEADER)[72..96]);
            trailer.extend_from_slice(&crc32fast::hash(&trailer).to_le_bytes());
            if let Ok((length, ..)) = Footer::decode_trailer(&trailer, &HEADER) {
                assert!(length < 4096);
            }
        });
    }
}
