//! The disk tier: records into the open segment, records out of any, all by plain blocking calls.
//!
//! A write reserves its space under a lock and writes without one; a lookup takes one shard's lock for a moment. Only a
//! roll to the next segment, and with it reclaiming the oldest (`evict`), holds a lock across file calls, and nobody
//! but writers that need the next segment meets it. Opening is `recover`'s.

use std::any::Any;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::config::PIECE;
use crate::disk::Disk;
use crate::index::{Index, Spot};
use crate::key::{Head, Key, PurgeNumber, Tags};
use crate::object::Pieces;
use crate::purge_log::Book;
use crate::record::{self, DecodeError, HEADER, Header, Kind, Place, UNIT};
use crate::segment::{Entry, Reserved, Room, Segment, SegmentHeader};
use crate::stats::{DiskState, Stats};

/// The disk tier.
pub(crate) struct Engine {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) shape: Shape,
    pub(crate) book: Arc<Book>,
    pub(crate) index: Index,
    pub(crate) counts: Counts,
    /// Bytes of every file there is, dropped ones that are still read included.
    pub(crate) ledger: Arc<AtomicU64>,
    pub(crate) segments: RwLock<BTreeMap<u64, Arc<Segment>>>,
    /// Dropped segments whose file could not be unlinked.
    pub(crate) undead: Mutex<Vec<Arc<Segment>>>,
    active: Mutex<Option<Arc<Segment>>>,
    roller: Mutex<()>,
    /// Hashes of the slices of fills under way.
    filling: Mutex<HashSet<u64>>,
    next_number: AtomicU64,
    next_generation: AtomicU64,
    pub(crate) seed: u64,
    /// Until when nothing is written, after the disk failed.
    failed_until: Mutex<Option<SystemTime>>,
    _lock: Box<dyn Any + Send + Sync>,
}

/// How the directory is laid out and what it may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) segment: u64,
    pub(crate) capacity: u64,
    pub(crate) reinsertion_percent: u64,
    pub(crate) retry: Duration,
}

/// What happened since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) evicted: AtomicU64,
    pub(crate) corrupt: AtomicU64,
    pub(crate) errors: AtomicU64,
}

/// What recovery found.
pub(crate) struct Found {
    pub(crate) seed: u64,
    pub(crate) index: Index,
    pub(crate) segments: BTreeMap<u64, Arc<Segment>>,
    pub(crate) ledger: Arc<AtomicU64>,
    pub(crate) lock: Box<dyn Any + Send + Sync>,
}

/// An object found on disk.
pub(crate) struct Loaded {
    pub(crate) spot: Spot,
    pub(crate) head: Head,
    pub(crate) header: Header,
    pub(crate) body: LoadedBody,
}

/// A body found on disk: read along with the head if it is small.
pub(crate) enum LoadedBody {
    Pieces(Pieces),
    At(Arc<[SliceAt]>),
}

/// Where one slice of a body, or all of it, is. Keeps the segment readable.
#[derive(Clone)]
pub(crate) struct SliceAt {
    pub(crate) key: Key,
    spot: Spot,
    segment: Arc<Segment>,
    offset: u32,
}

/// A record that was written.
pub(crate) struct Written {
    pub(crate) spot: Spot,
    segment: Arc<Segment>,
    reserved: Reserved,
}

/// One record as it was read.
pub(crate) struct Read {
    pub(crate) header: Header,
    pub(crate) metadata: Bytes,
    sums: Vec<u32>,
    /// The record's bytes as far as they were read along.
    bytes: Bytes,
}

/// Readers of dropped segments hold too much of the capacity, or the open segment is full and must do.
#[derive(Debug, thiserror::Error)]
#[error("the capacity is held by readers of dropped segments")]
pub(crate) struct Held;

/// Why a record could not be read.
#[derive(Debug)]
pub(crate) enum Fault {
    Io(io::Error),
    Corrupt(DecodeError),
    /// It is sound, and another than was looked for.
    Other,
}

/// A record up to this length is read in one go.
const AT_ONCE: u64 = PIECE + (8 << 10);
/// Of a longer one this much is read for its head.
const FRONT: u64 = 4 << 10;

impl Engine {
    pub(crate) fn new(disk: Arc<dyn Disk>, shape: Shape, book: Arc<Book>, found: Found) -> Self {
        let newest = found.segments.keys().next_back().copied().unwrap_or_default();
        Self {
            next_generation: AtomicU64::new(disk.random()),
            disk,
            shape,
            book,
            index: found.index,
            counts: Counts::default(),
            ledger: found.ledger,
            segments: RwLock::new(found.segments),
            undead: Mutex::default(),
            active: Mutex::new(None),
            roller: Mutex::new(()),
            filling: Mutex::default(),
            next_number: AtomicU64::new(newest + 1),
            seed: found.seed,
            failed_until: Mutex::new(None),
            _lock: found.lock,
        }
    }

    /// The hash that the index knows a key by.
    pub(crate) fn hash(&self, key: &Key) -> u64 {
        hash(self.seed, key)
    }

    /// A number for a new body, like no other.
    pub(crate) fn generation(&self) -> u64 {
        self.next_generation.fetch_add(1, Ordering::Relaxed)
    }

    /// The object under `key`, its head read and checked, its body too if that is small.
    pub(crate) fn load(&self, key: &Key) -> Result<Option<Loaded>, Fault> {
        let hash = self.hash(key);
        let mut spot = self.index.ask(hash);
        // The record may move while it is looked for; where it moves to is asked for again, twice.
        for _ in 0..3 {
            let Some(at) = spot else { return Ok(None) };
            if let Some(segment) = self.segment(at) {
                return self.load_from(key, hash, at, &segment);
            }
            spot = self.index.ask(hash);
        }
        Ok(None)
    }

    /// Stores a whole object; any older one under its key is replaced.
    pub(crate) fn put(&self, header: &mut Header, metadata: &[u8], pieces: &Pieces) -> io::Result<Spot> {
        let written = self.write(header, metadata, pieces.list(), true)?;
        self.index.insert(self.hash(&header.key), written.spot);
        Ok(written.spot)
    }

    /// Says that a slice of a fill will be written. Until the fill is `done`, reclaiming spares it.
    pub(crate) fn begin_slice(&self, key: &Key) {
        self.filling().insert(self.hash(key));
    }

    /// Stores one slice under its own key.
    pub(crate) fn put_slice(&self, header: &mut Header, pieces: &Pieces) -> io::Result<()> {
        let written = self.write(header, &[], pieces.list(), true)?;
        self.index.insert(self.hash(&header.key), written.spot);
        Ok(())
    }

    /// The slices of a fill that is over: no longer spared, and with `abort` forgotten.
    pub(crate) fn done(&self, slices: impl Iterator<Item = Key>, abort: bool) {
        for hash in slices.map(|key| self.hash(&key)) {
            self.filling().remove(&hash);
            if abort && let Some(spot) = self.index.get(hash) {
                self.index.remove(hash, spot);
            }
        }
    }

    /// Whether a fill under way has this slice.
    pub(crate) fn is_filling(&self, hash: u64) -> bool {
        self.filling().contains(&hash)
    }

    /// Where a slice is.
    pub(crate) fn find_slice(&self, key: Key) -> Option<SliceAt> {
        let spot = self.index.ask(self.hash(&key))?;
        let segment = self.segment(spot)?;
        Some(SliceAt { key, spot, segment, offset: self.place(spot).offset })
    }

    /// Forgets a slice or a body that turned out unreadable.
    pub(crate) fn forget(&self, slice: &SliceAt) {
        self.index.remove(self.hash(&slice.key), slice.spot);
    }

    /// Whether the index still has `spot` under `key`.
    pub(crate) fn still(&self, key: &Key, spot: Spot) -> bool {
        let there = self.index.get(self.hash(key));
        there.is_some_and(|there| there.with_asked() == spot.with_asked())
    }

    /// Gives the object under `key` new metadata; `None` if it is not there or was replaced meanwhile.
    pub(crate) fn freshen(
        &self,
        key: &Key,
        metadata: &Bytes,
        expires: Option<SystemTime>,
        born: PurgeNumber,
    ) -> Result<Option<Spot>, Fault> {
        let hash = self.hash(key);
        let Some(spot) = self.index.get(hash) else { return Ok(None) };
        let Some(segment) = self.segment(spot) else { return Ok(None) };
        let place = self.place(spot);
        let old = self.read(&segment, place.offset, spot.length())?.header;
        if old.key != *key {
            return Err(Fault::Other);
        }
        let (kind, body_at) = match old.kind {
            Kind::Whole => (Kind::Freshen, place),
            Kind::Freshen => (Kind::Freshen, old.body_at),
            Kind::Run => (Kind::Run, Place::default()),
            Kind::Slice | Kind::Tombstone => return Err(Fault::Other),
        };
        let mut new = Header { kind, body_at, replaces: place, expires, born, soft_purged: false, ..old };
        let written = self.write(&mut new, metadata, &[], true).map_err(Fault::Io)?;
        Ok(self.settle(hash, spot, &written).then_some(written.spot))
    }

    /// Removes the object under `key`; whether there was one.
    pub(crate) fn remove(&self, key: &Key) -> io::Result<bool> {
        let hash = self.hash(key);
        let Some(spot) = self.index.get(hash) else { return Ok(false) };
        let head = Head {
            key: *key,
            directory: 0,
            tags: Tags::default(),
            expires: None,
            metadata: Bytes::new(),
            length: None,
            born: PurgeNumber(0),
        };
        let mut header = Header::new(Kind::Tombstone, &head, 0, self.disk.now(), 0);
        let written = self.write(&mut header, &[], &[], true);
        let removed = self.index.remove(hash, spot);
        written.map(|_| removed)
    }

    /// All of a slice or body, checked.
    pub(crate) fn read_slice(&self, slice: &SliceAt) -> Result<Pieces, Fault> {
        let read = self.read(&slice.segment, slice.offset, slice.spot.length())?;
        self.body(&slice.segment, slice.offset, &read)
    }

    /// 1 to `max` bytes at `offset` of a slice or body, checked; empty at its end.
    pub(crate) fn read_range(&self, slice: &SliceAt, offset: u64, max: usize) -> Result<Bytes, Fault> {
        let read = self.read(&slice.segment, slice.offset, slice.spot.length())?;
        let number = offset / PIECE;
        if offset >= u64::from(read.header.body_length) || max == 0 {
            return Ok(Bytes::new());
        }
        let piece = self.piece(&slice.segment, slice.offset, &read, number)?;
        let within = usize::try_from(offset % PIECE).unwrap_or_default();
        Ok(piece.slice(within.min(piece.len())..piece.len().min(within.saturating_add(max))))
    }

    /// Seals the open segment and syncs it.
    pub(crate) fn close(&self) -> io::Result<()> {
        let open = self.active().take();
        match open {
            Some(segment) if segment.close() => segment.seal(),
            Some(_) | None => Ok(()),
        }
    }

    /// Fills in what the disk tier knows.
    pub(crate) fn report(&self, stats: &mut Stats) {
        let failed = self.failed_until.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        stats.objects = self.index.objects();
        stats.index_bytes = self.index.bytes();
        stats.disk_bytes = self.ledger.load(Ordering::Relaxed);
        stats.disk_evictions = self.counts.evicted.load(Ordering::Relaxed);
        stats.checksum_failures = self.counts.corrupt.load(Ordering::Relaxed);
        stats.disk_errors = self.counts.errors.load(Ordering::Relaxed);
        stats.disk = if failed { DiskState::Failed } else { DiskState::Working };
    }

    /// Counts a fault of reading; a corrupt record is forgotten.
    pub(crate) fn note(&self, fault: &Fault) {
        match fault {
            Fault::Io(error) => self.note_error("read", error),
            Fault::Corrupt(error) => {
                self.counts.corrupt.fetch_add(1, Ordering::Relaxed);
                metrics::counter!("atoll_store_checksum_failures_total").increment(1);
                tracing::warn!(%error, "a stored record is corrupt and counts as a miss");
            }
            Fault::Other => {}
        }
    }

    pub(crate) fn note_error(&self, action: &'static str, error: &io::Error) {
        self.counts.errors.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("atoll_store_disk_errors_total", "action" => action).increment(1);
        tracing::warn!(%error, action, "the store's disk failed");
    }

    pub(crate) fn segment(&self, spot: Spot) -> Option<Arc<Segment>> {
        self.segment_numbered(self.place(spot).segment)
    }

    pub(crate) fn segment_numbered(&self, number: u64) -> Option<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    pub(crate) fn place(&self, spot: Spot) -> Place {
        // Past the newest by more than can be opened between two lines here: a spot may be newer than what was read.
        spot.place(self.next_number.load(Ordering::Relaxed) + (1 << 16))
    }

    /// Reads a record's head, and the rest along with it if it is short.
    pub(crate) fn read(&self, segment: &Segment, offset: u32, length: u64) -> Result<Read, Fault> {
        let begin = u64::from(offset) * UNIT;
        let most = segment.header.size.saturating_sub(begin);
        let first = if length <= AT_ONCE { length } else { FRONT };
        let mut bytes = read_bytes(segment, begin, first.min(most))?;
        let header = Header::decode(&bytes, segment.header.salt).map_err(Fault::Corrupt)?;
        if header.record_length() > most {
            return Err(Fault::Corrupt(DecodeError::Field));
        }
        if header.body_begin() > bytes.len() as u64 {
            bytes = read_bytes(segment, begin, header.body_begin())?;
        }
        let (metadata, sums) = header.decode_front(&bytes).map_err(Fault::Corrupt)?;
        Ok(Read { header, metadata, sums, bytes })
    }

    /// All of a record's body, checked.
    pub(crate) fn body(&self, segment: &Segment, offset: u32, read: &Read) -> Result<Pieces, Fault> {
        let pieces = (0..read.header.pieces()).map(|number| self.piece(segment, offset, read, number));
        pieces.collect::<Result<Vec<_>, _>>().map(Pieces::new)
    }

    /// Writes a record into the open segment; `may_roll` to the next one if it is full.
    pub(crate) fn write(
        &self,
        header: &mut Header,
        metadata: &[u8],
        pieces: &[Bytes],
        may_roll: bool,
    ) -> io::Result<Written> {
        self.check_working()?;
        let result = self.write_unchecked(header, metadata, pieces, may_roll);
        match &result {
            Ok(_) => *self.failed_until.lock().unwrap_or_else(PoisonError::into_inner) = None,
            // Nothing is wrong with the disk.
            Err(error) if is_held(error) => {}
            Err(error) => {
                self.note_error("write", error);
                let until = self.disk.now() + self.shape.retry;
                *self.failed_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
            }
        }
        result
    }

    /// Puts a written record in the place of exactly `old`; false if something else is there by now.
    pub(crate) fn settle(&self, hash: u64, old: Spot, written: &Written) -> bool {
        let settled = self.index.replace(hash, old, written.spot);
        if !settled {
            written.segment.disown(written.reserved);
        }
        settled
    }

    fn load_from(&self, key: &Key, hash: u64, spot: Spot, segment: &Arc<Segment>) -> Result<Option<Loaded>, Fault> {
        let loaded = self.load_sound(key, spot, segment);
        match &loaded {
            Err(Fault::Corrupt(_)) => drop(self.index.remove(hash, spot)),
            // A freshen without its body, or a run without all its slices, is of no more use.
            Ok(None) => drop(self.index.remove(hash, spot)),
            Ok(Some(_)) | Err(Fault::Io(_) | Fault::Other) => {}
        }
        loaded
    }

    fn load_sound(&self, key: &Key, spot: Spot, segment: &Arc<Segment>) -> Result<Option<Loaded>, Fault> {
        let offset = self.place(spot).offset;
        let read = self.read(segment, offset, spot.length())?;
        if read.header.key != *key {
            return Err(Fault::Other);
        }
        let head = read.header.head(read.metadata.clone());
        let at = |segment: &Arc<Segment>, offset, spot| {
            let slice = SliceAt { key: *key, spot, segment: Arc::clone(segment), offset };
            LoadedBody::At(Arc::from([slice]))
        };
        let body = match read.header.kind {
            Kind::Whole if read.header.record_length() <= AT_ONCE => {
                LoadedBody::Pieces(self.body(segment, offset, &read)?)
            }
            Kind::Whole => at(segment, offset, spot),
            Kind::Freshen => {
                let Place { segment: number, offset } = read.header.body_at;
                let Some(segment) = self.segment_numbered(number) else { return Ok(None) };
                let length = read.header.length + HEADER as u64;
                let body = self.read(&segment, offset, length)?;
                if body.header.key != *key || body.header.generation != read.header.generation {
                    return Err(Fault::Corrupt(DecodeError::Field));
                }
                if body.header.record_length() <= AT_ONCE {
                    LoadedBody::Pieces(self.body(&segment, offset, &body)?)
                } else {
                    at(&segment, offset, Spot::new(read.header.body_at, body.header.record_length(), false, false))
                }
            }
            Kind::Run => match self.slices(&read.header) {
                Some(slices) => LoadedBody::At(slices),
                None => return Ok(None),
            },
            Kind::Slice | Kind::Tombstone => return Err(Fault::Other),
        };
        Ok(Some(Loaded { spot, head, header: read.header, body }))
    }

    /// Where all slices of a run are; `None` if one is gone.
    fn slices(&self, run: &Header) -> Option<Arc<[SliceAt]>> {
        let count = run.length.div_ceil(u64::from(run.slice));
        (0..count).map(|number| self.find_slice(slice_key(&run.key, run.generation, number))).collect()
    }

    fn piece(&self, segment: &Segment, offset: u32, read: &Read, number: u64) -> Result<Bytes, Fault> {
        let begin = read.header.body_begin() + number * PIECE;
        let length = PIECE.min(u64::from(read.header.body_length).saturating_sub(number * PIECE));
        let within = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let bytes = if begin + length <= read.bytes.len() as u64 {
            read.bytes.slice(within(begin)..within(begin + length))
        } else {
            read_bytes(segment, u64::from(offset) * UNIT + begin, length)?
        };
        match usize::try_from(number).ok().and_then(|number| read.sums.get(number)) {
            Some(sum) if crc32fast::hash(&bytes) == *sum => Ok(bytes),
            Some(_) | None => Err(Fault::Corrupt(DecodeError::Checksum)),
        }
    }

    fn write_unchecked(
        &self,
        header: &mut Header,
        metadata: &[u8],
        pieces: &[Bytes],
        may_roll: bool,
    ) -> io::Result<Written> {
        let body: usize = pieces.iter().map(Bytes::len).sum();
        let length = (HEADER + metadata.len() + 4 * pieces.len() + body) as u64;
        let length = length.next_multiple_of(UNIT);
        let entry =
            Entry { hash: self.hash(&header.key), offset: 0, length: 0, kind: header.kind, replaces: header.replaces };
        let (segment, reserved) = self.reserve(length, entry, header.born.0, may_roll)?;
        let front = record::encode(header, metadata, pieces, segment.header.salt);
        let begin = u64::from(reserved.offset) * UNIT;
        let written = write_record(&segment, begin, front, pieces);
        let seal = segment.complete(reserved, written.is_ok());
        if written.is_err() {
            // Whatever is wrong with this file, the next record goes to another.
            self.retire(&segment);
        }
        if seal {
            self.seal(&segment);
        }
        written?;
        let place = Place { segment: segment.header.number, offset: reserved.offset };
        let spot = Spot::new(place, length, header.kind == Kind::Slice, header.kind == Kind::Freshen);
        Ok(Written { spot, segment, reserved })
    }

    fn reserve(&self, length: u64, entry: Entry, born: u64, may_roll: bool) -> io::Result<(Arc<Segment>, Reserved)> {
        loop {
            let open = self.active().clone();
            if let Some(segment) = &open
                && let Some(reserved) = segment.reserve(length, entry, born)
            {
                return Ok((Arc::clone(segment), reserved));
            }
            if !may_roll {
                return Err(io::Error::new(io::ErrorKind::StorageFull, Held));
            }
            if length + length / 4 > self.shape.segment {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            self.roll(open.as_ref())?;
        }
    }

    /// Opens the next segment in place of `full`, unless somebody else just did, and reclaims what is over capacity.
    fn roll(&self, full: Option<&Arc<Segment>>) -> io::Result<()> {
        let _alone = self.roller.lock().unwrap_or_else(PoisonError::into_inner);
        let open = self.active().clone();
        if open.as_ref().map(Arc::as_ptr) != full.map(Arc::as_ptr) {
            return Ok(());
        }
        self.make_room()?;
        let next = self.create_segment()?;
        self.segments.write().unwrap_or_else(PoisonError::into_inner).insert(next.header.number, Arc::clone(&next));
        *self.active() = Some(next);
        if let Some(full) = full
            && full.close()
        {
            self.seal(full);
        }
        // One segment's room stays free, so that the next roll need not drop one without a second chance.
        self.reclaim_surplus();
        Ok(())
    }

    fn create_segment(&self) -> io::Result<Arc<Segment>> {
        let mut tries = 0;
        loop {
            let header = SegmentHeader {
                number: self.next_number.fetch_add(1, Ordering::Relaxed),
                salt: self.disk.random(),
                seed: self.seed,
                size: self.shape.segment,
                purge: self.book.latest().0,
            };
            let room = Room::take(&self.ledger, header.size);
            match Segment::create(&*self.disk, header, room) {
                Ok(segment) => return Ok(Arc::new(segment)),
                // Others fill the disk too: give up our oldest rather than store nothing any more.
                Err(error) if is_full(&error) && tries < 3 && self.reclaim_oldest(false) => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn retire(&self, segment: &Arc<Segment>) {
        let mut active = self.active();
        if active.as_ref().is_some_and(|open| Arc::ptr_eq(open, segment)) {
            *active = None;
        }
        drop(active);
        if segment.close() {
            self.seal(segment);
        }
    }

    fn seal(&self, segment: &Segment) {
        if let Err(error) = segment.seal() {
            self.note_error("seal", &error);
        }
    }

    fn check_working(&self) -> io::Result<()> {
        let until = *self.failed_until.lock().unwrap_or_else(PoisonError::into_inner);
        match until {
            Some(until) if self.disk.now() < until => Err(io::Error::other("the disk failed a moment ago")),
            Some(_) | None => Ok(()),
        }
    }

    fn filling(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn active(&self) -> MutexGuard<'_, Option<Arc<Segment>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key of one slice of a body.
pub(crate) fn slice_key(key: &Key, generation: u64, number: u64) -> Key {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.as_bytes()).update(&generation.to_le_bytes()).update(&number.to_le_bytes());
    Key::from_bytes(hasher.finalize().as_bytes().first_chunk().copied().unwrap_or_default())
}

/// The hash of a key under a directory's seed.
pub(crate) fn hash(seed: u64, key: &Key) -> u64 {
    let mut secret = [0; 32];
    secret.as_chunks_mut::<8>().0.fill(seed.to_le_bytes());
    let hash = blake3::keyed_hash(&secret, key.as_bytes());
    hash.as_bytes().first_chunk().copied().map_or(0, u64::from_le_bytes)
}

/// Whether an error of writing says that the capacity is held, not that the disk failed.
pub(crate) fn is_held(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Held>)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn read_bytes(segment: &Segment, offset: u64, length: u64) -> Result<Bytes, Fault> {
    let length = usize::try_from(length).map_err(|_| Fault::Corrupt(DecodeError::Field))?;
    segment.read(offset, length).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Fault::Corrupt(DecodeError::Short),
        _ => Fault::Io(error),
    })
}

/// Small bodies go out in one call with their front, large ones piece by piece; the padding is zero already.
fn write_record(segment: &Segment, begin: u64, mut front: Vec<u8>, pieces: &[Bytes]) -> io::Result<()> {
    if let [] | [_] = pieces {
        pieces.iter().for_each(|piece| front.extend_from_slice(piece));
        return segment.write(&front, begin);
    }
    segment.write(&front, begin)?;
    let mut at = begin + front.len() as u64;
    for piece in pieces {
        segment.write(piece, at)?;
        at += piece.len() as u64;
    }
    Ok(())
}
