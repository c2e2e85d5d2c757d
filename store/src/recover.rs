//! Rebuilds the index from what is in the directory, after any stop.
//!
//! A sealed segment tells its records in its footer. Any other is scanned record by record (`torn`), and then sealed. Of two records under one key the later counts, unless it only
//! stands in for one that something else had replaced by then. Files of other names are left alone.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::dead;
use crate::disk::{Disk, DiskFile};
use crate::engine::{Engine, Found, Shape};
use crate::footer::{Entry, Footer, SEGMENT_HEADER, SegmentHeader};
use crate::index::{Index, Spot};
use crate::purge_frame::Contents;
use crate::purge_log::{Book, Source};
use crate::record::{Kind, Place};
use crate::segment::{Room, Segment, name, number};
use crate::torn;

/// Why a directory was not opened.
#[derive(Debug)]
pub(crate) enum Refusal {
    Locked,
    Version(u64),
    Foreign(String),
    /// The disk was given up before and is remembered as bad.
    Bad,
    Disk(&'static str, io::Error),
}

/// What a directory holds, before it is known whether its purges are all known.
pub(crate) struct Finding {
    disk: Arc<dyn Disk>,
    lock: Box<dyn Any + Send + Sync>,
    names: Vec<String>,
    seed: Option<u64>,
    contents: Contents,
}

/// The version of everything in the directory.
pub(crate) const VERSION: u64 = 1;
const FORMAT: &str = "format";
const NEW_FORMAT: &str = "format.new";
/// A disk that was given up has a file of this name, and the others have one with its seed behind it.
const BAD: &str = "bad";
/// Entries gathered before the index is told of them: some 12 MB. [measured: docs/store.md]
const GATHERED: usize = 1 << 18;

/// Takes the directory: locks it, checks its version, reads its purge log.
pub(crate) fn find(disk: Arc<dyn Disk>) -> Result<Finding, Refusal> {
    let lock = disk.lock().map_err(|error| Refusal::Disk("taking the lock", error))?.ok_or(Refusal::Locked)?;
    let names = disk.list().map_err(|error| Refusal::Disk("listing", error))?;
    let seed = read_format(&*disk, &names)?;
    if names.iter().any(|name| name == BAD) {
        return Err(Refusal::Bad);
    }
    let contents = Contents::load(&*disk).map_err(|error| Refusal::Disk("reading the purge log", error))?;
    Ok(Finding { disk, lock, names, seed, contents })
}

impl Finding {
    /// Whether this disk remembers that one as bad.
    pub(crate) fn distrusts(&self, other: &Self) -> bool {
        other.seed.is_some_and(|seed| self.names.contains(&bad_name(seed)))
    }
}

/// Notes in a directory that it, or with a seed the disk of that seed, was given up.
pub(crate) fn write_bad(disk: &dyn Disk, seed: Option<u64>, place: &str) -> io::Result<()> {
    let name = seed.map_or_else(|| BAD.to_owned(), bad_name);
    let file: Arc<dyn DiskFile> = disk.create(&name, 0)?;
    let text = format!("{place} failed again and again and is not used. Once it is well, empty it.\n");
    file.write_at(text.as_bytes(), 0)?;
    file.sync()?;
    disk.sync_names()
}

/// Opens what was found: rebuilds each index, goes on with the purge logs. With an error comes the place of its directory.
pub(crate) fn open(findings: Vec<Finding>, shape: Shape, book: &Arc<Book>) -> Result<Vec<Engine>, (usize, Refusal)> {
    let (mut found, mut sources) = (Vec::new(), Vec::new());
    for (place, finding) in findings.into_iter().enumerate() {
        let (one, source) = rebuild(finding).map_err(|refusal| (place, refusal))?;
        found.push(one);
        sources.push(source);
    }
    let disks: Vec<_> = sources.iter().map(|source| Arc::clone(&source.disk)).collect();
    let sound = book.open(sources).map_err(|error| (0, Refusal::Disk("writing the purge log", error)))?;
    if !sound {
        tracing::error!("purges may be lost: the store begins empty rather than return what was purged");
    }
    let mut engines = Vec::new();
    for (place, (disk, mut found)) in disks.into_iter().zip(found).enumerate() {
        if !sound {
            found.begin_empty(&*disk).map_err(|error| (place, Refusal::Disk("removing a segment", error)))?;
        }
        engines.push(Engine::new(disk, shape, Arc::clone(book), found, place));
    }
    Ok(engines)
}

/// Rebuilds the index of one directory.
fn rebuild(finding: Finding) -> Result<(Found, Source), Refusal> {
    let Finding { disk, lock, names, seed, contents } = finding;
    let mut recovery = Recovery::new(&*disk, seed, &contents.dead);
    let mut numbers: Vec<u64> = names.iter().filter_map(|file| number(file)).collect();
    numbers.sort_unstable();
    numbers.into_iter().for_each(|number| recovery.take(number));
    recovery.enter_all();
    recovery.take_out_the_dead();
    let Recovery { index, segments, ledger, seed: known, purge: witnessed, dead_files, .. } = recovery;
    for orphan in names.iter().filter_map(|file| dead::number(file)).filter(|number| !segments.contains_key(number)) {
        drop(disk.remove(&dead::name(orphan)));
    }
    let seed = known.unwrap_or_else(|| disk.random());
    if names.iter().all(|name| name != FORMAT) {
        write_format(&*disk, seed).map_err(|error| Refusal::Disk("writing the format file", error))?;
    }
    let newest = segments.keys().chain(&contents.dead).max().copied().unwrap_or_default();
    let found = Found { seed, index, segments, ledger: Arc::clone(&ledger), lock, newest, dead: dead_files };
    Ok((found, Source { disk, ledger, contents, witnessed }))
}

impl Found {
    /// Gives up everything that was found.
    fn begin_empty(&mut self, disk: &dyn Disk) -> io::Result<()> {
        for number in std::mem::take(&mut self.segments).into_keys() {
            disk.remove(&name(number))?;
        }
        for number in std::mem::take(&mut self.dead).into_keys() {
            disk.remove(&dead::name(number))?;
        }
        self.index = Index::new();
        Ok(())
    }
}

struct Recovery<'d> {
    disk: &'d dyn Disk,
    seed: Option<u64>,
    /// Segments that the purge log names as having dead.
    named: &'d BTreeSet<u64>,
    index: Index,
    segments: BTreeMap<u64, Arc<Segment>>,
    ledger: Arc<AtomicU64>,
    /// What the shards of the index are yet to be told.
    waiting: Vec<Waiting>,
    /// Entries in all of `waiting`.
    gathered: usize,
    /// By segment, the hash and offset of each record that purges took for good.
    dead: Vec<(u64, Vec<(u64, u32)>)>,
    dead_files: BTreeMap<u64, Room>,
    /// The newest purge that any segment knows of.
    purge: u64,
}

/// Entries of segments that one shard of the index is yet to be told, in their order. Gathered, so that a shard's table
/// is met many entries at a time, and by as many threads as there are cores.
#[derive(Default)]
struct Waiting {
    entries: Vec<(u64, Entry)>,
    /// Hashes of keys whose last record so far is a tombstone.
    removed: HashSet<u64>,
}

impl<'d> Recovery<'d> {
    fn new(disk: &'d dyn Disk, seed: Option<u64>, named: &'d BTreeSet<u64>) -> Self {
        Self {
            disk,
            seed,
            named,
            index: Index::new(),
            segments: BTreeMap::new(),
            ledger: Arc::default(),
            waiting: (0..Index::SHARDS).map(|_| Waiting::default()).collect(),
            gathered: 0,
            dead: Vec::new(),
            dead_files: BTreeMap::new(),
            purge: 0,
        }
    }

    /// Takes a segment's records into the index; removes the file if there is nothing to be had from it.
    fn take(&mut self, number: u64) {
        match self.reopen(number) {
            Ok(Some((segment, footer))) => {
                self.purge = self.purge.max(segment.header.purge).max(footer.purge);
                match self.dead_of(&segment, &footer) {
                    Ok(true) => {}
                    Ok(false) => {
                        tracing::warn!(number, "a segment is dropped: which of its records were purged is not known");
                        return drop(self.disk.remove(&name(number)));
                    }
                    Err(error) => return tracing::warn!(%error, number, "a segment is left out"),
                }
                self.gather(number, footer.entries);
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
        let footer = torn::scan(&segment, length.min(header.size))?;
        if footer.entries.is_empty() {
            return Ok(None);
        }
        if let Err(error) = segment.write_footer(&footer) {
            tracing::warn!(%error, number, "a scanned segment could not be sealed");
        }
        Ok(Some((segment, footer)))
    }

    /// Notes which of a segment's records purges took for good; false if they are not known.
    fn dead_of(&mut self, segment: &Segment, footer: &Footer) -> io::Result<bool> {
        let number = segment.header.number;
        let Some(offsets) = dead::read(self.disk, &segment.header)? else { return Ok(!self.named.contains(&number)) };
        self.dead_files.insert(number, Room::take(&self.ledger, dead::length(offsets.len())));
        let is_dead = |entry: &&Entry| offsets.binary_search(&entry.offset).is_ok();
        let dead = footer.entries.iter().filter(is_dead).map(|entry| (entry.hash, entry.offset)).collect();
        self.dead.push((number, dead));
        Ok(true)
    }

    /// What purges took for good leaves the index, unless something else stands under its key by now.
    fn take_out_the_dead(&mut self) {
        let newest = self.segments.keys().next_back().copied().unwrap_or_default();
        for (segment, dead) in std::mem::take(&mut self.dead) {
            for (hash, offset) in dead {
                let there = self.index.get(hash).filter(|spot| spot.place(newest) == Place { segment, offset });
                there.map(|spot| self.index.remove(hash, spot));
            }
        }
    }

    fn gather(&mut self, segment: u64, entries: Vec<Entry>) {
        self.gathered += entries.len();
        for entry in entries {
            self.waiting[Index::shard_of(entry.hash)].entries.push((segment, entry));
        }
        if self.gathered >= GATHERED {
            self.enter_all();
        }
    }

    /// Tells the index what was gathered.
    fn enter_all(&mut self) {
        self.gathered = 0;
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let (index, share) = (&self.index, Index::SHARDS.div_ceil(cores));
        std::thread::scope(|scope| {
            for shards in self.waiting.chunks_mut(share) {
                scope.spawn(move || shards.iter_mut().for_each(|shard| shard.enter(index)));
            }
        });
    }
}

impl Waiting {
    fn enter(&mut self, index: &Index) {
        for (segment, entry) in std::mem::take(&mut self.entries) {
            self.enter_one(index, segment, &entry);
        }
    }

    fn enter_one(&mut self, index: &Index, segment: u64, entry: &Entry) {
        let here = Place { segment, offset: entry.offset };
        if entry.kind == Kind::Tombstone {
            index.get(entry.hash).map(|spot| index.remove(entry.hash, spot));
            self.removed.insert(entry.hash);
            return;
        }
        if entry.replaces != Place::default() {
            let counts = match index.get(entry.hash) {
                Some(spot) => spot.place(segment) <= entry.replaces,
                None => entry.kind != Kind::Freshen && !self.removed.contains(&entry.hash),
            };
            if !counts {
                return;
            }
        }
        if !self.removed.is_empty() {
            self.removed.remove(&entry.hash);
        }
        let (slice, freshen) = (entry.kind == Kind::Slice, entry.kind == Kind::Freshen);
        index.insert(entry.hash, Spot::new(here, u64::from(entry.length), slice, freshen));
    }
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

fn bad_name(seed: u64) -> String {
    format!("{BAD}-{seed:016x}")
}
