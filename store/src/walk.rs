//! The heads of a segment's records, one after another, in the order they stand on disk.
//!
//! Short records are read many at a time, of long ones no more than the head. What a purge sweeps, and what is verified or
//! exported, walks here.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::footer::Entry;
use crate::load::Fault;
use crate::record::{HEADER, Header, UNIT};
use crate::segment::Segment;

/// A walk through one segment, as its footer stood when it began.
pub(crate) struct Walk {
    pub(crate) segment: Arc<Segment>,
    entries: std::vec::IntoIter<Entry>,
    window: Bytes,
    /// Where the window begins in the file.
    at: u64,
}

/// A record's header and metadata, or why they cannot be read.
pub(crate) type HeadRead = Result<(Header, Bytes), Fault>;

/// Bytes read at a time where records are short, and of a long one.
const WINDOW: u64 = 256 << 10;
const FRONT: u64 = 4 << 10;

impl Walk {
    /// A walk through `segment`; `None` if it has no sound footer.
    pub(crate) fn new(segment: Arc<Segment>) -> io::Result<Option<Self>> {
        let Some(mut footer) = segment.footer()? else { return Ok(None) };
        footer.entries.sort_unstable_by_key(|entry| entry.offset);
        Ok(Some(Self { segment, entries: footer.entries.into_iter(), window: Bytes::new(), at: 0 }))
    }

    /// The next record's entry, and its head and metadata if these are sound.
    pub(crate) fn next(&mut self) -> Option<(Entry, HeadRead)> {
        let entry = self.entries.next()?;
        let head = self.head(&entry);
        Some((entry, head))
    }

    fn head(&mut self, entry: &Entry) -> HeadRead {
        let begin = u64::from(entry.offset) * UNIT;
        let most = if u64::from(entry.length) <= FRONT { WINDOW } else { FRONT };
        let bytes = self.bytes(begin, HEADER as u64, most)?;
        let header = Header::decode(&bytes, self.segment.header.salt).map_err(Fault::Corrupt)?;
        let front = self.bytes(begin, header.body_begin(), header.body_begin())?;
        let (metadata, _) = header.decode_front(&front).map_err(Fault::Corrupt)?;
        Ok((header, metadata))
    }

    /// At least `length` bytes from `begin` on: out of the window, or else a new one of up to `most`.
    fn bytes(&mut self, begin: u64, length: u64, most: u64) -> Result<Bytes, Fault> {
        let end = self.at + self.window.len() as u64;
        if begin < self.at || begin + length > end {
            let left = self.segment.header.size.saturating_sub(begin);
            let count =
                usize::try_from(most.max(length).min(left)).map_err(|error| Fault::Io(io::Error::other(error)))?;
            self.window = self.segment.read(begin, count).map_err(Fault::Io)?;
            self.at = begin;
        }
        let from = usize::try_from(begin - self.at).unwrap_or(usize::MAX);
        Ok(self.window.slice(from.min(self.window.len())..))
    }
}
