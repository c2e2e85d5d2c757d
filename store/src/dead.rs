//! Which records of a segment purges took for good, so that the purges themselves can be forgotten.
//!
//! ```text
//! file NUMBER.dead   0 8 magic "AtolDed1" | 8 8 number of the segment | 16 8 its salt | 24 4 count | 28 4 CRC-32 of the rest
//!                    32 offsets, 4 bytes each, rising, in 16 bytes
//! ```
//!
//! Written beside, synced, renamed. Recovery enters such a record as any other, since a freshen may stand on it, and takes
//! it out in the end if it is what its key then leads to. The purge log names the segments that have such a file: one that
//! is named and whose file is gone or unsound is dropped, rather than return what was purged.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::io;

use crate::disk::Disk;
use crate::footer::SegmentHeader;
use crate::record::{Cursor, DecodeError};

const MAGIC: &[u8; 8] = b"AtolDed1";
const NEW_NAME: &str = "dead.new";
const SUFFIX: &str = ".dead";
const FRONT: usize = 32;

/// The dead of the segment under `header`, by offset.
pub(crate) fn read(disk: &dyn Disk, header: &SegmentHeader) -> io::Result<Option<Vec<u32>>> {
    let file = match disk.open(&name(header.number)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // No segment has more records than this.
    let most = FRONT as u64 + header.size / 4;
    let length = usize::try_from(file.length()?.min(most)).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_at(&mut bytes, 0)?;
    Ok(decode(&bytes, header).ok())
}

/// Writes the dead of a segment; bytes of the file. The name lasts once names are synced.
pub(crate) fn write(disk: &dyn Disk, header: &SegmentHeader, offsets: &[u32]) -> io::Result<u64> {
    let bytes = encode(header, offsets);
    let file = disk.create(NEW_NAME, 0)?;
    file.write_at(&bytes, 0)?;
    file.sync()?;
    disk.rename(NEW_NAME, &name(header.number))?;
    Ok(bytes.len() as u64)
}

/// Bytes of a file of so many dead.
pub(crate) fn length(count: usize) -> u64 {
    (FRONT + 4 * count) as u64
}

/// The file name for a segment's dead.
pub(crate) fn name(segment: u64) -> String {
    format!("{segment:016x}{SUFFIX}")
}

/// The segment that a file of the dead belongs to; `None` if it is none.
pub(crate) fn number(file: &str) -> Option<u64> {
    let number = u64::from_str_radix(file.strip_suffix(SUFFIX)?, 16).ok()?;
    (name(number) == file).then_some(number)
}

fn encode(header: &SegmentHeader, offsets: &[u32]) -> Vec<u8> {
    let mut rest = u32::try_from(offsets.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    offsets.iter().for_each(|offset| rest.extend_from_slice(&offset.to_le_bytes()));
    let (count, offsets) = rest.split_at(4);
    let sum = crc32fast::hash(&rest);
    [&MAGIC[..], &header.number.to_le_bytes(), &header.salt.to_le_bytes(), count, &sum.to_le_bytes(), offsets].concat()
}

fn decode(bytes: &[u8], header: &SegmentHeader) -> Result<Vec<u32>, DecodeError> {
    let mut cursor = Cursor(bytes);
    if cursor.take::<8>()? != *MAGIC {
        return Err(DecodeError::Magic);
    }
    if cursor.u64()? != header.number || cursor.u64()? != header.salt {
        return Err(DecodeError::Salt);
    }
    let (count, sum) = (cursor.take::<4>()?, cursor.u32()?);
    if crc32fast::hash(&[&count[..], cursor.0].concat()) != sum {
        return Err(DecodeError::Checksum);
    }
    let (offsets, rest) = cursor.0.as_chunks::<4>();
    if !rest.is_empty() || usize::try_from(u32::from_le_bytes(count)) != Ok(offsets.len()) {
        return Err(DecodeError::Field);
    }
    Ok(offsets.iter().map(|offset| u32::from_le_bytes(*offset)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader = SegmentHeader { number: 5, salt: 0x5a17, seed: 0x5eed, size: 4096, purge: 3 };

    #[test]
    fn the_dead_are_read_as_they_were_written_and_no_flipped_bit_passes() {
        let bytes = encode(&HEADER, &[4, 19, 77]);
        assert_eq!(decode(&bytes, &HEADER), Ok(vec![4, 19, 77]));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, &HEADER).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut], &HEADER).is_err(), "cut at {cut}");
        }
        assert_eq!(decode(&bytes, &SegmentHeader { salt: 1, ..HEADER }), Err(DecodeError::Salt));
        assert_eq!(number(&name(0xab)), Some(0xab));
        assert_eq!(number("00000000000000ab.segment"), None);
    }

    #[test]
    fn foreign_bytes_never_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            drop(decode(bytes, &HEADER));
            let sum = crc32fast::hash(bytes).to_le_bytes();
            let (count, rest) = bytes.split_at(bytes.len().min(4));
            let front = [&MAGIC[..], &HEADER.number.to_le_bytes(), &HEADER.salt.to_le_bytes(), count, &sum].concat();
            drop(decode(&[&front[..], rest].concat(), &HEADER));
        });
    }
}
