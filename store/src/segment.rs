//! An append-only file of records: opened, filled, sealed by a footer, dropped whole.
//!
//! Its layout is `footer`'s and `record`'s. Space is given out under a lock, written without one; with the last record of a
//! closed segment it falls due to be sealed.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::footer::{Entry, Footer, SEGMENT_HEADER, SegmentHeader, TRAILER, footer_parts, read_footer};
use crate::record::UNIT;

/// Entries that are kept together.
const BLOCK: usize = 1024;
const SUFFIX: &str = ".segment";
/// Bytes written after which the disk is told to begin with them, so that the sync at the segment's end finds little
/// left to do and the disk does not stand idle between two segments. [measured: docs/store.md]
const AHEAD: u64 = 8 << 20;

/// One segment file. While anybody holds it, its bytes can be read, also once it was dropped from the store.
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    file: Arc<dyn DiskFile>,
    filling: Mutex<Filling>,
    /// After `file`, so that room is given back once the file is closed.
    _room: Room,
}

/// Bytes taken from the directory's capacity, given back when dropped.
pub(crate) struct Room {
    ledger: Arc<AtomicU64>,
    bytes: u64,
}

#[derive(Default)]
struct Filling {
    open: bool,
    next: u64,
    /// Bytes of footer that the entries will take.
    footer: u64,
    pending: usize,
    /// Up to where the disk was told to begin.
    begun: u64,
    entries: Entries,
    purge: u64,
}

/// What the records written so far say, `None` for one that counts for nothing. In blocks of one size: what a sealed
/// segment gives back, the next takes, where vectors that grow left holes of every size behind. [measured: 225 MB
/// resident after two million small objects, of which the index has 28, against 54]
#[derive(Default)]
struct Entries(Vec<Vec<Option<Entry>>>);

/// What is to be done after some records were written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    /// The segment is full and all of it written: it is to be sealed.
    pub(crate) seal: bool,
    /// The disk is to begin with what was written from there, so many bytes.
    pub(crate) ahead: Option<(u64, u64)>,
}

/// Space for one record in a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reserved {
    pub(crate) offset: u32,
    slot: usize,
}

impl Room {
    pub(crate) fn take(ledger: &Arc<AtomicU64>, bytes: u64) -> Self {
        ledger.fetch_add(bytes, Ordering::Relaxed);
        Self { ledger: Arc::clone(ledger), bytes }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.ledger.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Segment {
    /// A new segment file. Its name is yet to be made to last.
    pub(crate) fn create(disk: &dyn Disk, header: SegmentHeader, room: Room) -> io::Result<Self> {
        let name = name(header.number);
        let file = disk.create(&name, header.size)?;
        if let Err(error) = file.write_at(&header.encode(), 0) {
            drop(disk.remove(&name));
            return Err(error);
        }
        let filling = Filling { open: true, next: SEGMENT_HEADER as u64, ..Filling::default() };
        Ok(Self { header, file, filling: Mutex::new(filling), _room: room })
    }

    /// A segment file that is there, closed.
    pub(crate) fn reopened(header: SegmentHeader, file: Arc<dyn DiskFile>, room: Room) -> Self {
        Self { header, file, filling: Mutex::default(), _room: room }
    }

    /// Space for a record of `length` bytes; `None` if the segment is closed or has not that much left.
    pub(crate) fn reserve(&self, length: u64, mut entry: Entry, born: u64) -> Option<Reserved> {
        let mut filling = self.filling();
        let footer = filling.footer + entry.bytes();
        let end = filling.next.checked_add(length)?;
        if !filling.open || end + footer + TRAILER as u64 > self.header.size {
            return None;
        }
        entry.offset = u32::try_from(filling.next / UNIT).ok()?;
        entry.length = u32::try_from(length).ok()?;
        let reserved = Reserved { offset: entry.offset, slot: filling.entries.push(entry) };
        filling.next = end.next_multiple_of(UNIT);
        filling.footer = footer;
        filling.pending += 1;
        filling.purge = filling.purge.max(born);
        Some(reserved)
    }

    /// Says that reserved records were written, or were not and count for nothing; what is to be done now.
    pub(crate) fn complete(&self, reserved: impl Iterator<Item = Reserved>, written: bool) -> Due {
        let mut filling = self.filling();
        for Reserved { slot, .. } in reserved {
            if !written {
                filling.entries.forget(slot);
            }
            filling.pending -= 1;
        }
        let (begun, next) = (filling.begun, filling.next);
        let ahead = (filling.open && next - begun >= AHEAD).then_some((begun, next - begun));
        if ahead.is_some() {
            filling.begun = next;
        }
        Due { seal: !filling.open && filling.pending == 0, ahead }
    }

    /// Has the disk begin with what was written there.
    pub(crate) fn begin_writing(&self, from: u64, length: u64) -> io::Result<()> {
        self.file.begin_writing(from, length)
    }

    /// Takes back what a complete record said: it lost its place to another. Too late once sealed.
    pub(crate) fn disown(&self, reserved: Reserved) {
        self.filling().entries.forget(reserved.slot);
    }

    /// Gives out no more space. True: seal the segment now.
    pub(crate) fn close(&self) -> bool {
        let mut filling = self.filling();
        std::mem::replace(&mut filling.open, false) && filling.pending == 0
    }

    /// Writes the footer and syncs the file. Entries stay in RAM if that fails.
    pub(crate) fn seal(&self) -> io::Result<()> {
        let parts = {
            let filling = self.filling();
            footer_parts(filling.entries.iter(), filling.purge, &self.header)
        };
        self.write_parts(&parts)?;
        self.filling().entries = Entries::default();
        Ok(())
    }

    /// Writes a footer and syncs the file.
    pub(crate) fn write_footer(&self, footer: &Footer) -> io::Result<()> {
        self.write_parts(&footer_parts(footer.entries.iter(), footer.purge, &self.header))
    }

    fn write_parts(&self, parts: &[Vec<u8>]) -> io::Result<()> {
        let length: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let mut at = self.header.size.checked_sub(length).ok_or(io::ErrorKind::InvalidData)?;
        for part in parts {
            self.file.write_at(part, at)?;
            at += part.len() as u64;
        }
        self.file.sync()
    }

    /// What is in the segment: from RAM while it is there, else from the footer; `None` if that is unsound.
    pub(crate) fn footer(&self) -> io::Result<Option<Footer>> {
        {
            let filling = self.filling();
            if filling.open || !filling.entries.is_empty() {
                let entries = filling.entries.iter().copied().collect();
                return Ok(Some(Footer { entries, purge: filling.purge }));
            }
        }
        read_footer(&*self.file, &self.header)
    }

    pub(crate) fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut buffer = vec![0; length];
        self.file.read_at(&mut buffer, offset)?;
        Ok(buffer.into())
    }

    /// As `read`, if that needs no wait for the disk.
    pub(crate) fn read_cached(&self, offset: u64, length: usize) -> io::Result<Option<Bytes>> {
        let mut buffer = vec![0; length];
        Ok(self.file.read_cached(&mut buffer, offset)?.then(|| buffer.into()))
    }

    pub(crate) fn write(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_parts_at(parts, offset)
    }

    fn filling(&self) -> MutexGuard<'_, Filling> {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    /// Adds one; its slot.
    fn push(&mut self, entry: Entry) -> usize {
        if self.0.last().is_none_or(|block| block.len() == BLOCK) {
            self.0.push(Vec::with_capacity(BLOCK));
        }
        if let Some(last) = self.0.last_mut() {
            last.push(Some(entry));
        }
        self.0.len().saturating_sub(1) * BLOCK + self.0.last().map_or(0, |last| last.len().saturating_sub(1))
    }

    fn forget(&mut self, slot: usize) {
        if let Some(entry) = self.0.get_mut(slot / BLOCK).and_then(|block| block.get_mut(slot % BLOCK)) {
            *entry = None;
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().flatten().flatten()
    }
}

/// The file name of a segment.
pub(crate) fn name(number: u64) -> String {
    format!("{number:016x}{SUFFIX}")
}

/// The number in a segment's file name; `None` if it is none of ours.
pub(crate) fn number(file: &str) -> Option<u64> {
    let digits = file.strip_suffix(SUFFIX)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (name(number) == file).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Kind, Place};

    #[test]
    fn what_is_forgotten_is_left_out_and_the_rest_keeps_its_order() {
        let mut entries = Entries::default();
        for offset in 1..=5000 {
            let entry = Entry { hash: 7, offset, length: 200, kind: Kind::Whole, replaces: Place::default() };
            assert_eq!(entries.push(entry) + 1, offset as usize);
        }
        [0, 1023, 1024, 4999].into_iter().for_each(|slot| entries.forget(slot));
        let kept: Vec<u32> = entries.iter().map(|entry| entry.offset).collect();
        let expected: Vec<u32> = (1..=5000).filter(|offset| ![1, 1024, 1025, 5000].contains(offset)).collect();
        assert_eq!(kept, expected);
    }

    #[test]
    fn names_are_ours_or_not() {
        assert_eq!(number(&name(0xab)), Some(0xab));
        for foreign in
            ["ab.segment", "00000000000000AB.segment", "00000000000000ab", "00000000000000abc.segment", "lock"]
        {
            assert_eq!(number(foreign), None, "{foreign}");
        }
    }
}
