//! An append-only file of records: opened, filled, sealed by a footer, dropped whole.
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
//! The entries end where the trailer begins. Numbers are little-endian. Space is given out under a lock, written
//! without one; with the last record of a closed segment it falls due to be sealed.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::record::{Cursor, DecodeError, Kind, Place, UNIT};

/// Bytes before the first record.
pub(crate) const SEGMENT_HEADER: usize = 64;
const ENTRY: usize = 24;
const TRAILER: usize = 48;
/// Entries that are kept together.
const BLOCK: usize = 1024;
/// Bytes of a footer that are written together.
const PART: usize = 32 << 10;
const HEADER_MAGIC: &[u8; 8] = b"AtolSeg1";
const TRAILER_MAGIC: &[u8; 8] = b"AtolEnd1";
const SUFFIX: &str = ".segment";
/// Bytes written after which the disk is told to begin with them, so that the sync at the segment's end finds little
/// left to do and the disk does not stand idle between two segments. [measured: docs/store.md]
const AHEAD: u64 = 8 << 20;

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
    fn bytes(&self) -> u64 {
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
fn footer_parts<'e>(entries: impl Iterator<Item = &'e Entry>, purge: u64, header: &SegmentHeader) -> Vec<Vec<u8>> {
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
fn read_footer(file: &dyn DiskFile, header: &SegmentHeader) -> io::Result<Option<Footer>> {
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
    fn a_footer_of_many_parts_is_read_as_it_was_written_without_what_was_forgotten() {
        let mut entries = Entries::default();
        for n in 1..=5000 {
            let replaces = Place { segment: u64::from(n % 2), offset: n };
            let slot = entries.push(Entry { offset: n, replaces, ..footer().entries[0] });
            assert_eq!(slot + 1, n as usize);
        }
        [0, 1023, 1024, 4999].into_iter().for_each(|slot| entries.forget(slot));
        let kept: Vec<Entry> = entries.iter().copied().collect();
        assert_eq!(kept.len(), 4996);
        let header = SegmentHeader { size: 1 << 20, ..HEADER };
        let parts = footer_parts(entries.iter(), 8, &header);
        assert!(parts.len() > 1 && parts.iter().all(|part| part.len() <= PART + TRAILER));
        let bytes = parts.concat();
        let (length, sum, purge) = Footer::decode_trailer(&bytes[bytes.len() - TRAILER..], &header).unwrap();
        assert_eq!((length, purge), (bytes.len() - TRAILER, 8));
        assert_eq!(Footer::decode_entries(&bytes[..length], sum), Ok(kept));
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
    fn names_are_ours_or_not() {
        assert_eq!(number(&name(0xab)), Some(0xab));
        for foreign in
            ["ab.segment", "00000000000000AB.segment", "00000000000000ab", "00000000000000abc.segment", "lock"]
        {
            assert_eq!(number(foreign), None, "{foreign}");
        }
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
