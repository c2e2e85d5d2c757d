//! The sound records of a segment that has no sound footer: it was open when the store stopped, or its end was damaged.
//!
//! A record counts if all of it is sound. Behind one that is not, the next is looked for by the segment's salt, so that a
//! write that was under way takes no later one along.

use std::io;

use bytes::Bytes;

use crate::config::PIECE;
use crate::engine::hash;
use crate::footer::{Entry, Footer, SEGMENT_HEADER};
use crate::record::{HEADER, Header, UNIT};
use crate::segment::Segment;

/// Bytes that are read at a time.
const WINDOW: u64 = 1 << 20;

/// Finds the sound records of a segment that has no sound footer.
pub(crate) fn scan(segment: &Segment, end: u64) -> io::Result<Footer> {
    let mut footer = Footer::default();
    let mut at = SEGMENT_HEADER as u64;
    while at + HEADER as u64 <= end {
        let length = WINDOW.min(end - at);
        let window = segment.read(at, usize::try_from(length).map_err(io::Error::other)?)?;
        let mut within = 0;
        while let Some(bytes) = window.get(within..).filter(|bytes| bytes.len() >= HEADER) {
            if let Ok(header) = Header::decode(bytes, segment.header.salt)
                && let Some(entry) = check(segment, &window.slice(within..), at + within as u64, end, &header)?
            {
                footer.purge = footer.purge.max(header.born.0);
                footer.entries.push(entry);
                // Past the window's end if need be: the next one begins there.
                within += usize::try_from(entry.length).map_err(io::Error::other)?;
            } else {
                within += 16;
            }
        }
        at += within as u64;
    }
    Ok(footer)
}

/// The entry of a record whose header is sound, if the rest is too; as much of it as was read stands in `window`.
fn check(segment: &Segment, window: &Bytes, at: u64, end: u64, header: &Header) -> io::Result<Option<Entry>> {
    let length = header.record_length();
    let (Ok(offset), Ok(entry_length)) = (u32::try_from(at / UNIT), u32::try_from(length)) else { return Ok(None) };
    if at + length > end {
        return Ok(None);
    }
    let bytes = |begin: u64, length: u64| {
        let (from, length) = (usize::try_from(begin), usize::try_from(length).map_err(io::Error::other)?);
        match from {
            Ok(from) if from + length <= window.len() => Ok(window.slice(from..from + length)),
            Ok(_) | Err(_) => segment.read(at + begin, length),
        }
    };
    let front = bytes(0, header.body_begin())?;
    let Ok((_, sums)) = header.decode_front(&front) else { return Ok(None) };
    let mut left = u64::from(header.body_length);
    let mut begin = header.body_begin();
    for sum in sums {
        let piece = bytes(begin, left.min(PIECE))?;
        if crc32fast::hash(&piece) != sum {
            return Ok(None);
        }
        begin += piece.len() as u64;
        left -= piece.len() as u64;
    }
    let hash = hash(segment.header.seed, &header.key);
    Ok(Some(Entry { hash, offset, length: entry_length, kind: header.kind, replaces: header.replaces }))
}
