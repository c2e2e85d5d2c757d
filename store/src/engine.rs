//! The disk tier: what is in it, and what is done with it. Writing is `append`'s, with what follows it in `chores`; reading is
//! `load`'s, making room `evict`'s, opening `recover`'s.
//!
//! A lookup takes one shard's lock of the index for a moment, and no lock is held while a record is read or written.

use std::any::Any;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::append::{Draft, Written};
use crate::chores::Chores;
use crate::disk::Disk;
use crate::index::{Index, Spot};
use crate::key::{Head, Key, PurgeNumber, Tags};
use crate::load::Fault;
use crate::purge_log::Book;
use crate::record::{Header, Kind, Place};
use crate::segment::{Room, Segment};
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
    /// Held from one segment to the next, and while old ones make room.
    roller: Mutex<()>,
    pub(crate) chores: Arc<Chores>,
    /// Hashes of the slices of fills under way.
    filling: Mutex<HashSet<u64>>,
    pub(crate) next_number: AtomicU64,
    next_generation: AtomicU64,
    pub(crate) seed: u64,
    /// Until when nothing is written, after the disk failed.
    pub(crate) failed_until: Mutex<Option<SystemTime>>,
    /// Tries to write that failed, one after another.
    pub(crate) failures: AtomicU32,
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
            chores: Arc::default(),
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
    pub(crate) fn put(&self, draft: Draft<'_>) -> io::Result<Spot> {
        let hash = self.hash(&draft.header.key);
        let written = self.write(draft, true)?;
        self.index.insert(hash, written.spot);
        Ok(written.spot)
    }

    /// As `put`, several, of which a later one replaces an earlier one under its key; what became of each.
    pub(crate) fn put_all(&self, drafts: Vec<Draft<'_>>) -> Vec<io::Result<Spot>> {
        let hashes: Vec<u64> = drafts.iter().map(|draft| self.hash(&draft.header.key)).collect();
        let written = self.write_all(drafts, true).into_iter().zip(hashes);
        let enter = |(written, hash): (io::Result<Written>, u64)| {
            let spot = written?.spot;
            self.index.insert(hash, spot);
            Ok(spot)
        };
        written.map(enter).collect()
    }

    /// Stores a whole object if nothing is under its key; whether it did.
    pub(crate) fn put_new(&self, draft: Draft<'_>) -> io::Result<Option<Spot>> {
        let hash = self.hash(&draft.header.key);
        let written = self.write(draft, true)?;
        let settled = self.index.insert_new(hash, written.spot);
        if !settled {
            self.disown(&written);
        }
        Ok(settled.then_some(written.spot))
    }

    /// Says that a slice of a fill will be written. Until the fill is `done`, reclaiming spares it.
    pub(crate) fn begin_slice(&self, key: &Key) {
        self.filling().insert(self.hash(key));
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

    /// Gives the object under `key` new metadata; `None` if it is not there, or what it has is not meant. Put over meanwhile, it
    /// is looked at again.
    pub(crate) fn freshen(
        &self,
        key: &Key,
        metadata: &Bytes,
        (expires, born, tags): (Option<SystemTime>, PurgeNumber, Tags),
        is_meant: &dyn Fn(&Bytes) -> bool,
    ) -> Result<Option<Spot>, Fault> {
        let hash = self.hash(key);
        // Writing may roll, and rolling may move the very record that is freshened: then once more from where it is now.
        for _ in 0..3 {
            let Some(spot) = self.index.get(hash) else { break };
            let Some(segment) = self.segment(spot) else { continue };
            let place = self.place(spot);
            let read = self.read(&segment, place.offset, spot.length())?;
            let old = read.header;
            if old.key != *key {
                return Err(Fault::Other);
            }
            if !is_meant(&read.metadata) {
                break;
            }
            let (kind, body_at) = match old.kind {
                Kind::Whole => (Kind::Freshen, place),
                Kind::Freshen => (Kind::Freshen, old.body_at),
                Kind::Run => (Kind::Run, Place::default()),
                Kind::Slice | Kind::Tombstone => return Err(Fault::Other),
            };
            let new = Header { kind, body_at, replaces: place, expires, born, tags, soft_purged: false, ..old };
            let written = self.write(Draft::new(new, metadata, &[]), true).map_err(Fault::Io)?;
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
        let header = Header::new(Kind::Tombstone, &head, 0, self.disk.now(), 0);
        self.write(Draft::new(header, &[], &[]), true).map(|_| true)
    }

    /// Seals the open segment and syncs it, and does what is due before. Blocks.
    pub(crate) fn close(&self) -> io::Result<()> {
        self.finish_chores();
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
        stats.disk = stats.disk.max(self.state());
    }

    /// How this disk does.
    pub(crate) fn state(&self) -> DiskState {
        match self.failed_until.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            true if self.is_bad() => DiskState::Bad,
            true => DiskState::Failed,
            false => DiskState::Working,
        }
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

    fn filling(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn roller(&self) -> MutexGuard<'_, ()> {
        self.roller.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Whether an error of writing says that the disk is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
