//! Rebuilds the index from what is in the directory, after any stop.
//!
//! A sealed segment tells its records in its footer. Any other is scanned record by record: a record counts if all of
//! it is sound; behind one that is not, the next is looked for by the segment's salt, so that a write that was under way
//! takes no later one along. Then the segment is sealed. Of two records under one key the later counts, unless it only
//! stands in for one that something else had replaced by then. Files of other names are left alone.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::config::PIECE;
use crate::disk::{Disk, DiskFile};
use crate::engine::{Engine, Found, Shape, hash};
use crate::index::{Index, Spot};
use crate::purge_log::Book;
use crate::record::{HEADER, Header, Kind, Place, UNIT};
use crate::segment::{Entry, Footer, Room, SEGMENT_HEADER, Segment, SegmentHeader, name, number};

/// Why a directory was not opened.
#[derive(Debug)]
pub(crate) enum Refusal {
    Locked,
    Version(u64),
    Foreign(String),
    Disk(&'static str, io::Error),
}

/// The version of everything in the directory.
pub(crate) const VERSION: u64 = 1;
const FORMAT: &str = "format";
const NEW_FORMAT: &str = "format.new";
/// Bytes that a scan reads at a time.
const WINDOW: u64 = 1 << 20;

/// Opens the directory: locks it, checks its version, rebuilds the index, goes on with the purge log.
pub(crate) fn open(disk: Arc<dyn Disk>, shape: Shape, book: Arc<Book>) -> Result<Engine, Refusal> {
    let lock = disk.lock().map_err(|error| Refusal::Disk("taking the lock", error))?.ok_or(Refusal::Locked)?;
    let names = disk.list().map_err(|error| Refusal::Disk("listing", error))?;
    let seed = read_format(&*disk, &names)?;
    let mut recovery = Recovery { disk: &*disk, seed, ..Recovery::new(&*disk) };
    let mut numbers: Vec<u64> = names.iter().filter_map(|file| number(file)).collect();
    numbers.sort_unstable();
    numbers.into_iter().for_each(|number| recovery.take(number));
    let Recovery { mut index, mut segments, ledger, seed: known, purge, .. } = recovery;
    let seed = known.unwrap_or_else(|| disk.random());
    if names.iter().all(|name| name != FORMAT) {
        write_format(&*disk, seed).map_err(|error| Refusal::Disk("writing the format file", error))?;
    }
    let sound = book
        .open(Arc::clone(&disk), Arc::clone(&ledger), purge)
        .map_err(|error| Refusal::Disk("reading the purge log", error))?;
    if !sound {
        tracing::error!("purges may be lost: the store begins empty rather than return what was purged");
        for number in std::mem::take(&mut segments).into_keys() {
            disk.remove(&name(number)).map_err(|error| Refusal::Disk("removing a segment", error))?;
        }
        index = Index::new();
    }
    Ok(Engine::new(disk, shape, book, Found { seed, index, segments, ledger, lock }))
}

struct Recovery<'d> {
    disk: &'d dyn Disk,
    seed: Option<u64>,
    index: Index,
    segments: BTreeMap<u64, Arc<Segment>>,
    ledger: Arc<AtomicU64>,
    /// Hashes of keys whose last record so far is a tombstone.
    removed: HashSet<u64>,
    /// The newest purge that any segment knows of.
    purge: u64,
}

impl<'d> Recovery<'d> {
    fn new(disk: &'d dyn Disk) -> Self {
        Self {
            disk,
            seed: None,
            index: Index::new(),
            segments: BTreeMap::new(),
            ledger: Arc::default(),
            removed: HashSet::new(),
            purge: 0,
        }
    }

    /// Takes a segment's records into the index; removes the file if there is nothing to be had from it.
    fn take(&mut self, number: u64) {
        match self.reopen(number) {
            Ok(Some((segment, footer))) => {
                self.purge = self.purge.max(segment.header.purge).max(footer.purge);
                footer.entries.iter().for_each(|entry| self.enter(number, entry));
                self.segments.insert(number, Arc::new(segment));
            }
            Ok(None) => {
                if let Err(error) = self.disk.remove(&name(number)) {
                    tracing::warn!(%error, number, "an empty segment stays");
                }
            }
            // It may be readable another day.
            Err(error) => tracing::warn!(%error, number, "a segment is left out"),
        }
    }

    fn reopen(&mut self, number: u64) -> io::Result<Option<(Segment, Footer)>> {
        let file = self.disk.open(&name(number))?;
        let length = file.length()?;
        let mut bytes = [0; SEGMENT_HEADER];
        if length < bytes.len() as u64 {
            return Ok(None);
        }
        file.read_at(&mut bytes, 0)?;
        let Some(header) = SegmentHeader::decode(&bytes).ok().filter(|header| header.number == number) else {
            return Ok(None);
        };
        if *self.seed.get_or_insert(header.seed) != header.seed {
            return Ok(None);
        }
        let room = Room::take(&self.ledger, length.max(header.size));
        let segment = Segment::reopened(header, Arc::clone(&file), room);
        if length >= header.size
            && let Some(footer) = segment.footer()?
        {
            return Ok(Some((segment, footer)));
        }
        let footer = scan(&segment, length.min(header.size))?;
        if footer.entries.is_empty() {
            return Ok(None);
        }
        if let Err(error) = segment.write_footer(&footer) {
            tracing::warn!(%error, number, "a scanned segment could not be sealed");
        }
        Ok(Some((segment, footer)))
    }

    fn enter(&mut self, segment: u64, entry: &Entry) {
        let here = Place { segment, offset: entry.offset };
        let there = self.index.get(entry.hash);
        if entry.kind == Kind::Tombstone {
            there.map(|spot| self.index.remove(entry.hash, spot));
            self.removed.insert(entry.hash);
            return;
        }
        if entry.replaces != Place::default() {
            let counts = match there {
                Some(spot) => spot.place(segment) <= entry.replaces,
                None => entry.kind != Kind::Freshen && !self.removed.contains(&entry.hash),
            };
            if !counts {
                return;
            }
        }
        self.removed.remove(&entry.hash);
        let (slice, freshen) = (entry.kind == Kind::Slice, entry.kind == Kind::Freshen);
        self.index.insert(entry.hash, Spot::new(here, u64::from(entry.length), slice, freshen));
    }
}

/// Finds the sound records of a segment that has no sound footer.
fn scan(segment: &Segment, end: u64) -> io::Result<Footer> {
    let mut footer = Footer::default();
    let mut at = SEGMENT_HEADER as u64;
    while at + HEADER as u64 <= end {
        let length = WINDOW.min(end - at);
        let window = segment.read(at, usize::try_from(length).map_err(io::Error::other)?)?;
        let mut within = 0;
        while let Some(bytes) = window.get(within..).filter(|bytes| bytes.len() >= HEADER) {
            if let Ok(header) = Header::decode(bytes, segment.header.salt)
                && let Some(entry) = check(segment, at + within as u64, end, &header)?
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

/// The entry of a record whose header is sound, if the rest is too.
fn check(segment: &Segment, at: u64, end: u64, header: &Header) -> io::Result<Option<Entry>> {
    let length = header.record_length();
    let (Ok(offset), Ok(entry_length)) = (u32::try_from(at / UNIT), u32::try_from(length)) else { return Ok(None) };
    if at + length > end {
        return Ok(None);
    }
    let front = segment.read(at, usize::try_from(header.body_begin()).map_err(io::Error::other)?)?;
    let Ok((_, sums)) = header.decode_front(&front) else { return Ok(None) };
    let mut left = u64::from(header.body_length);
    let mut begin = at + header.body_begin();
    for sum in sums {
        let piece = segment.read(begin, usize::try_from(left.min(PIECE)).map_err(io::Error::other)?)?;
        if crc32fast::hash(&piece) != sum {
            return Ok(None);
        }
        begin += piece.len() as u64;
        left -= piece.len() as u64;
    }
    let hash = hash(segment.header.seed, &header.key);
    Ok(Some(Entry { hash, offset, length: entry_length, kind: header.kind, replaces: header.replaces }))
}

/// The seed in the format file; `None` if there is no such file.
fn read_format(disk: &dyn Disk, names: &[String]) -> Result<Option<u64>, Refusal> {
    if names.iter().all(|name| name != FORMAT) {
        return Ok(None);
    }
    let read = || {
        let file = disk.open(FORMAT)?;
        let length = usize::try_from(file.length()?.min(4096)).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| Refusal::Disk("reading the format file", error))?;
    parse_format(&bytes)
}

fn parse_format(bytes: &[u8]) -> Result<Option<u64>, Refusal> {
    let text = str::from_utf8(bytes).unwrap_or_default();
    let mut words = text.split_whitespace();
    let version = match (words.next(), words.next(), words.next()) {
        (Some("atoll"), Some("store"), Some(version)) => version.parse::<u64>().ok(),
        _ => None,
    };
    let foreign = || Refusal::Foreign(format!("its file {FORMAT:?} is not that of a store"));
    match version {
        Some(VERSION) => match (words.next(), words.next()) {
            (Some("seed"), Some(seed)) => u64::from_str_radix(seed, 16).map(Some).map_err(|_| foreign()),
            _ => Err(foreign()),
        },
        Some(other) => Err(Refusal::Version(other)),
        None => Err(foreign()),
    }
}

fn write_format(disk: &dyn Disk, seed: u64) -> io::Result<()> {
    let file: Arc<dyn DiskFile> = disk.create(NEW_FORMAT, 0)?;
    file.write_at(format!("atoll store {VERSION}\nseed {seed:016x}\n").as_bytes(), 0)?;
    file.sync()?;
    disk.rename(NEW_FORMAT, FORMAT)?;
    disk.sync_names()
}
