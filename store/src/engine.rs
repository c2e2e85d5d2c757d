//! The disk tier: records into the open segment, by plain blocking calls. Out of any is `load`'s.
//!
//! A write reserves its space under a lock and writes without one; a lookup takes one shard's lock for a moment. Only a
//! roll to the next segment, and with it reclaiming the oldest (`evict`), holds a lock across file calls, and nobody
//! but writers that need the next segment meets it. Opening is `recover`'s.

use std::any::Any;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::disk::Disk;
use crate::index::{Index, Spot};
use crate::key::{Head, Key, PurgeNumber, Tags};
use crate::load::Fault;
use crate::object::Pieces;
use crate::purge_log::Book;
use crate::record::{self, HEADER, Header, Kind, Place, UNIT};
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
    /// Tries to write that failed, one after another.
    failures: AtomicU32,
    /// Which of the store's disks this is.
    pub(crate) number: usize,
    /// The files of segments' dead, and the room they take.
    pub(crate) dead: Mutex<BTreeMap<u64, Room>>,
    _lock: Box<dyn Any + Send + Sync>,
}

/// How the directory is laid out and what it may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) segment: u64,
    pub(crate) capacity: u64,
    pub(crate) reinsertion_percent: u64,
    pub(crate) retry: Duration,
    /// Tries to write that may fail one after another before the disk is given up.
    pub(crate) failures: u32,
}

/// What happened since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) evicted: AtomicU64,
    pub(crate) corrupt: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) purged: AtomicU64,
}

/// What recovery found.
pub(crate) struct Found {
    pub(crate) seed: u64,
    pub(crate) index: Index,
    pub(crate) segments: BTreeMap<u64, Arc<Segment>>,
    pub(crate) ledger: Arc<AtomicU64>,
    pub(crate) lock: Box<dyn Any + Send + Sync>,
    /// The newest number that a segment ever had.
    pub(crate) newest: u64,
    /// Files of segments' dead, and the room they take.
    pub(crate) dead: BTreeMap<u64, Room>,
}

/// A record that was written.
pub(crate) struct Written {
    pub(crate) spot: Spot,
    segment: Arc<Segment>,
    reserved: Reserved,
}

/// Readers of dropped segments hold too much of the capacity, or the open segment is full and must do.
#[derive(Debug, thiserror::Error)]
#[error("the capacity is held by readers of dropped segments")]
pub(crate) struct Held;

impl Engine {
    pub(crate) fn new(disk: Arc<dyn Disk>, shape: Shape, book: Arc<Book>, found: Found, number: usize) -> Self {
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
            next_number: AtomicU64::new(found.newest + 1),
            seed: found.seed,
            failed_until: Mutex::new(None),
            failures: AtomicU32::new(0),
            number,
            dead: Mutex::new(found.dead),
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

    /// Stores a whole object; any older one under its key is replaced.
    pub(crate) fn put(&self, header: &mut Header, metadata: &[u8], pieces: &Pieces) -> io::Result<Spot> {
        let written = self.write(header, metadata, pieces.list(), true)?;
        self.index.insert(self.hash(&header.key), written.spot);
        Ok(written.spot)
    }

    /// Stores a whole object if nothing is under its key; whether it did.
    pub(crate) fn put_new(&self, header: &mut Header, metadata: &[u8], pieces: &Pieces) -> io::Result<Option<Spot>> {
        let written = self.write(header, metadata, pieces.list(), true)?;
        let settled = self.index.insert_new(self.hash(&header.key), written.spot);
        if !settled {
            written.segment.disown(written.reserved);
        }
        Ok(settled.then_some(written.spot))
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

    /// Whether the index still has `spot` under `key`.
    pub(crate) fn still(&self, key: &Key, spot: Spot) -> bool {
        let there = self.index.get(self.hash(key));
        there.is_some_and(|there| there.with_asked() == spot.with_asked())
    }

    /// Gives the object under `key` new metadata; `None` if it is not there.
    pub(crate) fn freshen(
        &self,
        key: &Key,
        metadata: &Bytes,
        expires: Option<SystemTime>,
        born: PurgeNumber,
        tags: Tags,
    ) -> Result<Option<Spot>, Fault> {
        let hash = self.hash(key);
        // Writing may roll, and rolling may move the very record that is freshened: then once more from where it is now.
        for _ in 0..3 {
            let Some(spot) = self.index.get(hash) else { break };
            let Some(segment) = self.segment(spot) else { continue };
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
            let mut new = Header { kind, body_at, replaces: place, expires, born, tags, soft_purged: false, ..old };
            let written = self.write(&mut new, metadata, &[], true).map_err(Fault::Io)?;
            if self.settle(hash, spot, &written) {
                return Ok(Some(written.spot));
            }
        }
        Ok(None)
    }

    /// Removes the object under `key`; whether there was one. The index gives it up first: were the tombstone written
    /// before, the roll that may come with it could move the record, and what is removed would stand elsewhere.
    pub(crate) fn remove(&self, key: &Key) -> io::Result<bool> {
        let hash = self.hash(key);
        loop {
            let Some(spot) = self.index.get(hash) else { return Ok(false) };
            if self.index.remove(hash, spot) {
                break;
            }
        }
        let (tags, expires, metadata, born) = (Tags::default(), None, Bytes::new(), PurgeNumber(0));
        let head = Head { key: *key, directory: 0, tags, expires, metadata, length: None, born };
        let mut header = Header::new(Kind::Tombstone, &head, 0, self.disk.now(), 0);
        self.write(&mut header, &[], &[], true).map(|_| true)
    }

    /// Seals the open segment and syncs it.
    pub(crate) fn close(&self) -> io::Result<()> {
        let open = self.active().take();
        match open {
            Some(segment) if segment.close() => segment.seal(),
            Some(_) | None => Ok(()),
        }
    }

    /// Adds what this disk knows.
    pub(crate) fn report(&self, stats: &mut Stats) {
        stats.index_objects += self.index.objects();
        stats.index_bytes += self.index.bytes();
        stats.disk_bytes += self.ledger.load(Ordering::Relaxed);
        stats.disk_evictions += self.counts.evicted.load(Ordering::Relaxed);
        stats.checksum_failures += self.counts.corrupt.load(Ordering::Relaxed);
        stats.disk_errors += self.counts.errors.load(Ordering::Relaxed);
        stats.purged += self.counts.purged.load(Ordering::Relaxed);
        let failed = self.failed_until.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let state = match failed {
            true if self.is_bad() => DiskState::Bad,
            true => DiskState::Failed,
            false => DiskState::Working,
        };
        stats.disk = stats.disk.max(state);
    }

    /// Whether so many tries to write failed that the disk is given up for good.
    pub(crate) fn is_bad(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= self.shape.failures
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
            Ok(_) => {
                *self.failed_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
                self.failures.store(0, Ordering::Relaxed);
            }
            // Nothing is wrong with the disk.
            Err(error) if is_held(error) => {}
            Err(error) => {
                self.note_error("write", error);
                if !is_full(error) && error.kind() != io::ErrorKind::FileTooLarge {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                }
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
        let roller = || self.roller.lock().unwrap_or_else(PoisonError::into_inner);
        let alone = roller();
        let open = self.active().clone();
        if open.as_ref().map(Arc::as_ptr) != full.map(Arc::as_ptr) {
            return Ok(());
        }
        self.make_room()?;
        let next = self.create_segment()?;
        self.segments.write().unwrap_or_else(PoisonError::into_inner).insert(next.header.number, Arc::clone(&next));
        *self.active() = Some(next);
        // The sync takes long. Others write into the next segment meanwhile, and may need the one after it.
        drop(alone);
        if let Some(full) = full
            && full.close()
        {
            self.seal(full);
        }
        // One segment's room stays free, so that the next roll need not drop one without a second chance.
        let _alone = roller();
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
            Some(_) if self.is_bad() => Err(io::Error::other("the disk was given up")),
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
