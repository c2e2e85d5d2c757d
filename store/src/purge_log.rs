//! The purges in force, and their log on disk: an acknowledged purge outlives any stop.
//!
//! ```text
//! file    "AtolPrg1", then frames
//! frame   0 4 magic "PuR1" | 4 4 CRC-32 of what follows | 8 4 ordinal | 12 2 bytes of filter | 14 1 kind | 15 1 selector
//!         16 8 number | 24 selector's fields | filter
//!         selector 0: nothing, only the number is noted   1: key 20   2: directory 8   3: directory 8, mask 8, value 8
//!         4: mask 8, value 8 (any directory)   5: everything.   Bit 7 of the kind: a filter is present
//! ```
//!
//! Each frame stands twice, so that one flipped bit loses no purge. A last frame that is in neither copy sound was never
//! acknowledged; anything else that is unsound means that purges may be lost, and then the store begins empty rather
//! than return what was purged. A log of mostly forgotten purges is written anew beside the old and renamed over it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::key::{Head, Key, PurgeNumber};
use crate::purge::{Filter, Purge, PurgeKind, Purges, Selector, Subject, Verdict};
use crate::record::{Cursor, DecodeError};
use crate::segment::Room;

/// The purges in force, their numbers and their log.
pub(crate) struct Book {
    table: RwLock<Purges>,
    /// The newest purge in force, so that a hit need not ask the table.
    newest: AtomicU64,
    /// The newest purge that is written down: what objects are born at, so that no object knows a purge that a crash
    /// forgets.
    latest: AtomicU64,
    filter: Mutex<Option<Arc<Filter>>>,
    /// Held while the log is written, by purges alone.
    log: Mutex<Option<Log>>,
}

struct Log {
    disk: Arc<dyn Disk>,
    ledger: Arc<AtomicU64>,
    file: Option<Arc<dyn DiskFile>>,
    end: u64,
    frames: usize,
    _room: Room,
}

/// What a log held.
#[derive(Debug, Default)]
struct Contents {
    purges: Vec<Purge>,
    latest: PurgeNumber,
    end: u64,
    frames: usize,
    damaged: bool,
}

/// Bytes a purge's filter may have.
pub(crate) const FILTER_LIMIT: usize = 1 << 10;
const NAME: &str = "purges";
const NEW_NAME: &str = "purges.new";
const FILE_MAGIC: &[u8; 8] = b"AtolPrg1";
const FRAME_MAGIC: &[u8; 4] = b"PuR1";
const WITH_FILTER: u8 = 0x80;
/// A log of fewer frames is never written anew.
const REWRITE_FLOOR: usize = 64;

impl Book {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            table: RwLock::new(Purges::new(limit)),
            newest: AtomicU64::new(0),
            latest: AtomicU64::new(0),
            filter: Mutex::new(None),
            log: Mutex::new(None),
        }
    }

    /// Reads the log and goes on with it. `witnessed` is the newest purge that the segments know of: a log that does not
    /// reach it lost some. False: purges may be lost, nothing stored may be returned; the log begins anew.
    pub(crate) fn open(&self, disk: Arc<dyn Disk>, ledger: Arc<AtomicU64>, witnessed: u64) -> io::Result<bool> {
        let bytes = match disk.open(NAME) {
            Ok(file) => read_all(&*file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let contents = Contents::read(&bytes);
        let sound = !contents.damaged && contents.latest.0 >= witnessed;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if sound {
            contents.purges.into_iter().for_each(|purge| table.add(purge));
        }
        table.raise_latest(contents.latest.max(PurgeNumber(witnessed)));
        self.newest.store(table.latest().0, Ordering::Release);
        self.latest.store(table.latest().0, Ordering::Release);
        let room = Room::take(&ledger, 0);
        let mut log = Log { disk, ledger, file: None, end: contents.end, frames: contents.frames, _room: room };
        if !sound || contents.end < bytes.len() as u64 || bytes.is_empty() {
            log.rewrite(&table)?;
        } else {
            log.file = Some(log.disk.open(NAME)?);
            log._room = Room::take(&log.ledger, log.end);
        }
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = Some(log);
        Ok(sound)
    }

    /// Puts a purge in force for every later read, then writes it down. An error means that it may not outlive a
    /// restart; it is in force all the same.
    pub(crate) fn purge(&self, selector: Selector, kind: PurgeKind) -> (PurgeNumber, io::Result<()>) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let purge = {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            let purge = table.next(selector, kind);
            table.add(purge.clone());
            self.newest.store(purge.number.0, Ordering::Release);
            purge
        };
        let written = match &mut *log {
            Some(log) => log.write(&purge, &self.table),
            None => Ok(()),
        };
        // Also if it could not be written down: what is born from now on is not meant.
        self.latest.store(purge.number.0, Ordering::Release);
        (purge.number, written)
    }

    /// Writes the log anew if the last purge could not be written down.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *log {
            Some(log) if log.file.is_none() => {
                let bytes = contents(&self.table.read().unwrap_or_else(PoisonError::into_inner));
                log.replace(&bytes)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The newest purge in force.
    pub(crate) fn newest(&self) -> PurgeNumber {
        PurgeNumber(self.newest.load(Ordering::Acquire))
    }

    /// What an object is born at now.
    pub(crate) fn latest(&self) -> PurgeNumber {
        PurgeNumber(self.latest.load(Ordering::Acquire))
    }

    pub(crate) fn len(&self) -> usize {
        self.table.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn set_filter(&self, filter: Arc<Filter>) {
        *self.filter.lock().unwrap_or_else(PoisonError::into_inner) = Some(filter);
    }

    /// What the purges say of the object under `head`.
    pub(crate) fn verdict(&self, head: &Head) -> Verdict {
        if head.born >= self.newest() {
            return Verdict::Clean;
        }
        let filter = self.filter.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Head { key, directory, tags, born, metadata, .. } = head;
        let subject = Subject { key, directory: *directory, tags: *tags, born: *born, metadata };
        self.table.read().unwrap_or_else(PoisonError::into_inner).verdict(subject, filter.as_deref())
    }
}

impl Log {
    fn write(&mut self, purge: &Purge, table: &RwLock<Purges>) -> io::Result<()> {
        let kept = table.read().unwrap_or_else(PoisonError::into_inner).len();
        let Some(file) = self.file.clone().filter(|_| self.frames < 2 * kept + REWRITE_FLOOR) else {
            let table = table.read().unwrap_or_else(PoisonError::into_inner);
            let bytes = contents(&table);
            drop(table);
            return self.replace(&bytes);
        };
        let frame = frame(self.frames, purge);
        let written = file.write_at(&[&frame[..], &frame[..]].concat(), self.end).and_then(|()| file.sync());
        if let Err(error) = written {
            // What is in the file now is unknown: the next purge writes it anew.
            self.file = None;
            return Err(error);
        }
        self.frames += 1;
        self.end += 2 * frame.len() as u64;
        self._room = Room::take(&self.ledger, self.end);
        Ok(())
    }

    fn rewrite(&mut self, table: &Purges) -> io::Result<()> {
        self.replace(&contents(table))
    }

    fn replace(&mut self, contents: &(Vec<u8>, usize)) -> io::Result<()> {
        let (bytes, frames) = contents;
        self.file = None;
        let file = self.disk.create(NEW_NAME, 0)?;
        file.write_at(bytes, 0)?;
        file.sync()?;
        self.disk.rename(NEW_NAME, NAME)?;
        self.disk.sync_names()?;
        self.end = bytes.len() as u64;
        self.frames = *frames;
        self._room = Room::take(&self.ledger, self.end);
        self.file = Some(file);
        Ok(())
    }
}

/// A log of what is in the table, and its number of frames.
fn contents(table: &Purges) -> (Vec<u8>, usize) {
    let mut bytes = FILE_MAGIC.to_vec();
    let latest = Framed { number: table.latest(), kind: PurgeKind::Hard, selector: None };
    let purges = table.iter().map(|it| Framed { number: it.number, kind: it.kind, selector: Some(it.selector) });
    let mut frames = 0;
    for framed in std::iter::once(latest).chain(purges) {
        let frame = framed.encode(frames);
        bytes.extend_from_slice(&frame);
        bytes.extend_from_slice(&frame);
        frames += 1;
    }
    (bytes, frames)
}

fn frame(ordinal: usize, purge: &Purge) -> Vec<u8> {
    Framed { number: purge.number, kind: purge.kind, selector: Some(purge.selector.clone()) }.encode(ordinal)
}

/// A purge in the log; without a selector it only notes a number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Framed {
    number: PurgeNumber,
    kind: PurgeKind,
    selector: Option<Selector>,
}

impl Framed {
    fn encode(&self, ordinal: usize) -> Vec<u8> {
        let mut fields = Vec::new();
        let mut numbers = |numbers: &[u64]| numbers.iter().for_each(|it| fields.extend_from_slice(&it.to_le_bytes()));
        let mut wanted = None;
        let selector = match &self.selector {
            None => 0,
            Some(Selector::Key(key)) => {
                fields.extend_from_slice(key.as_bytes());
                1
            }
            Some(Selector::Directory(directory)) => {
                numbers(&[*directory]);
                2
            }
            Some(Selector::Tags { directory, mask, value, filter }) => {
                wanted = filter.as_ref();
                match directory {
                    Some(directory) => {
                        numbers(&[*directory, *mask, *value]);
                        3
                    }
                    None => {
                        numbers(&[*mask, *value]);
                        4
                    }
                }
            }
            Some(Selector::All) => 5,
        };
        let kind = match self.kind {
            PurgeKind::Soft => 0,
            PurgeKind::Hard => 1,
        };
        let kind = if wanted.is_some() { kind | WITH_FILTER } else { kind };
        let wanted = wanted.cloned().unwrap_or_default();
        let mut rest = u32::try_from(ordinal).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        rest.extend_from_slice(&u16::try_from(wanted.len()).unwrap_or(u16::MAX).to_le_bytes());
        rest.extend_from_slice(&[kind, selector]);
        rest.extend_from_slice(&self.number.0.to_le_bytes());
        rest.extend_from_slice(&fields);
        rest.extend_from_slice(&wanted);
        [&FRAME_MAGIC[..], &crc32fast::hash(&rest).to_le_bytes(), &rest].concat()
    }

    /// The frame at the beginning of `bytes`, its ordinal and how long it is.
    fn decode(bytes: &[u8]) -> Result<(Self, u32, usize), DecodeError> {
        let mut cursor = Cursor(bytes);
        if cursor.take::<4>()? != *FRAME_MAGIC {
            return Err(DecodeError::Magic);
        }
        let sum = cursor.u32()?;
        let rest = cursor.0;
        let ordinal = cursor.u32()?;
        let wanted = usize::from(u16::from_le_bytes(cursor.take()?));
        let [kind, selector] = cursor.take()?;
        let number = PurgeNumber(cursor.u64()?);
        let with_filter = kind & WITH_FILTER != 0;
        let fields = cursor.0.len();
        let mut filter = None;
        let mut selector = match selector {
            0 => None,
            1 => Some(Selector::Key(Key::from_bytes(cursor.take()?))),
            2 => Some(Selector::Directory(cursor.u64()?)),
            3 | 4 => {
                let directory = if selector == 3 { Some(cursor.u64()?) } else { None };
                Some(Selector::Tags { directory, mask: cursor.u64()?, value: cursor.u64()?, filter: None })
            }
            5 => Some(Selector::All),
            _ => return Err(DecodeError::Field),
        };
        let fields = fields - cursor.0.len();
        if with_filter {
            filter = Some(Bytes::copy_from_slice(cursor.0.get(..wanted).ok_or(DecodeError::Short)?));
        }
        if let Some(Selector::Tags { filter: slot, .. }) = &mut selector {
            *slot = filter;
        }
        let length = 16 + fields + if with_filter { wanted } else { 0 };
        if crc32fast::hash(rest.get(..length).ok_or(DecodeError::Short)?) != sum {
            return Err(DecodeError::Checksum);
        }
        let kind = if kind & 1 == 0 { PurgeKind::Soft } else { PurgeKind::Hard };
        Ok((Self { number, kind, selector }, ordinal, length + 8))
    }
}

impl Contents {
    fn read(bytes: &[u8]) -> Self {
        let mut contents = Self::default();
        if bytes.is_empty() {
            return contents;
        }
        contents.damaged = !bytes.starts_with(FILE_MAGIC);
        let mut at = FILE_MAGIC.len();
        contents.end = at as u64;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            // Past an unsound frame: the next sound one is its copy, or something was lost.
            let Ok((framed, ordinal, length)) = Framed::decode(rest) else {
                at += 1;
                continue;
            };
            at += length;
            contents.end = at as u64;
            match u32::try_from(contents.frames).unwrap_or(u32::MAX).checked_sub(ordinal) {
                Some(0) => contents.add(framed),
                Some(1) => {}
                Some(_) | None => contents.damaged = true,
            }
        }
        contents
    }

    fn add(&mut self, framed: Framed) {
        let Framed { number, kind, selector } = framed;
        self.frames += 1;
        self.latest = self.latest.max(number);
        self.purges.extend(selector.map(|selector| Purge { number, kind, selector }));
    }
}

fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.length()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn table() -> Purges {
        let mut table = Purges::new(16);
        let tags = |directory, filter: Option<&'static str>| Selector::Tags {
            directory,
            mask: 0xff,
            value: 3,
            filter: filter.map(Bytes::from),
        };
        for (selector, kind) in [
            (Selector::All, PurgeKind::Soft),
            (Selector::Key(Key::from_bytes(*b"twenty bytes of key.")), PurgeKind::Hard),
            (Selector::Directory(0x0102), PurgeKind::Soft),
            (tags(Some(7), Some("filter")), PurgeKind::Hard),
            (tags(None, None), PurgeKind::Soft),
        ] {
            table.add(table.next(selector, kind));
        }
        table
    }

    #[test]
    fn a_log_is_read_as_it_was_written() {
        let contents = Contents::read(&contents(&table()).0);
        assert!(!contents.damaged);
        assert_eq!(contents.purges, table().iter().collect::<Vec<_>>());
        assert_eq!(contents.latest, PurgeNumber(5));
    }

    #[test]
    fn no_flipped_bit_loses_a_purge_unnoticed() {
        let (bytes, _) = contents(&table());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let contents = Contents::read(&flipped);
            assert!(contents.damaged || contents.purges.len() == 5, "bit {bit}");
        }
    }

    #[test]
    fn a_log_cut_at_any_byte_keeps_every_purge_whose_first_copy_is_whole() {
        let (bytes, _) = contents(&table());
        let mut kept = 0;
        for cut in FILE_MAGIC.len()..=bytes.len() {
            let contents = Contents::read(&bytes[..cut]);
            assert!(!contents.damaged && contents.purges.len() >= kept, "cut at {cut}");
            kept = contents.purges.len();
        }
        assert_eq!(kept, 5);
    }

    #[test]
    fn the_layout_does_not_change_by_accident() {
        let (bytes, _) = contents(&table());
        let lines: Vec<String> =
            bytes.chunks(24).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
        expect![[r#"
            41746f6c50726731507552310f2e994b0000000000000100
            0500000000000000507552310f2e994b0000000000000100
            050000000000000050755231159feec40100000000000005
            010000000000000050755231159feec40100000000000005
            0100000000000000507552319be5bb8f0200000000000101
            02000000000000007477656e7479206279746573206f6620
            6b65792e507552319be5bb8f020000000000010102000000
            000000007477656e7479206279746573206f66206b65792e
            50755231f44b79e203000000000000020300000000000000
            020100000000000050755231f44b79e20300000000000002
            030000000000000002010000000000005075523194d3d8c5
            040000000600810304000000000000000700000000000000
            ff00000000000000030000000000000066696c7465725075
            523194d3d8c5040000000600810304000000000000000700
            000000000000ff0000000000000003000000000000006669
            6c746572507552319ac53a09050000000000000405000000
            00000000ff00000000000000030000000000000050755231
            9ac53a0905000000000000040500000000000000ff000000
            000000000300000000000000"#]]
        .assert_eq(&lines.join("\n"));
    }

    #[test]
    fn foreign_bytes_never_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            drop(Contents::read(bytes));
            let dressed = [&FRAME_MAGIC[..], &crc32fast::hash(bytes).to_le_bytes(), bytes].concat();
            drop(Framed::decode(&dressed));
        });
    }
}
