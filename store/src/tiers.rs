//! RAM before disk: how the two tiers act as one.
//!
//! The disk's index says what is current; the RAM tier never says otherwise. A writer changes the index first and the
//! RAM tier second. A reader puts what it read from disk into the RAM tier only while the index still has what it read,
//! and looks while the RAM tier lets nobody else in:
//!
//! ```text
//! reader                               writer
//! reads record A from disk
//!                                      index: A -> B
//! locks the RAM tier, index has B,
//! leaves A out                         locks the RAM tier, puts B in
//! ```
//!
//! Had the reader locked before the index changed, A would be in the RAM tier, and the writer, which locks it after, puts
//! B in its place. When the disk fails, small objects live in RAM alone.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use bytes::Bytes;

use crate::admission::Admission;
use crate::append::Draft;
use crate::budget::Budget;
use crate::config::Config;
use crate::disk;
use crate::disks::Disks;
use crate::engine::{Engine, is_held};
use crate::error::StoreError;
use crate::group::Group;
use crate::index::Spot;
use crate::key::{Head, Key, PurgeNumber, Tags};
use crate::load::{Loaded, LoadedBody, SliceAt};
use crate::memory::{Memory, OVERHEAD, Value};
use crate::object::{Body, DiskKind, Object, OnDisk, Pieces, Tier, Whole};
use crate::pool::Pool;
use crate::purge::Verdict;
use crate::purge_log::Book;
use crate::record::{Header, Kind, to_millisecond};
use crate::sweep::Sweeps;
use crate::writer::Keep;

/// What all handles, writers and objects of a store share.
pub(crate) struct Tiers {
    pub(crate) config: Config,
    pub(crate) memory: Memory,
    pub(crate) book: Arc<Book>,
    pub(crate) disks: Disks,
    pub(crate) admission: Admission,
    pub(crate) sweeps: Sweeps,
    pub(crate) pool: Pool,
    /// Small objects on their way, by the number of their disk.
    pub(crate) groups: Box<[Arc<Group>]>,
    /// Bytes that fills under way hold in RAM.
    pub(crate) budget: Budget,
    /// Bytes that fills under way have on disk.
    pub(crate) disk_budget: Budget,
}

impl Tiers {
    pub(crate) fn new(config: Config, book: Arc<Book>, disks: Disks) -> Self {
        let in_ram = if disks.is_empty() { config.memory.0 / 2 } else { config.fill_memory.0 };
        Self {
            memory: Memory::new(config.memory.0, config.eviction, config.small_queue_percent),
            book,
            groups: disks.iter().map(|_| Arc::default()).collect(),
            disks,
            admission: Admission::new(config.admission),
            sweeps: Sweeps::new(usize::try_from(config.purge_limit).unwrap_or(usize::MAX)),
            pool: Pool::new(config.io_depth),
            budget: Budget::new(in_ram),
            disk_budget: Budget::new(config.capacity.0 / 2),
            config,
        }
    }

    pub(crate) fn check_metadata(&self, metadata: &Bytes) -> Result<(), StoreError> {
        let limit = usize::try_from(self.config.metadata_limit.0).unwrap_or(usize::MAX);
        let length = metadata.len();
        if length > limit { Err(StoreError::MetadataTooLong { length, limit }) } else { Ok(()) }
    }

    pub(crate) fn check_length(&self, length: u64) -> Result<(), StoreError> {
        let limit = if self.disks.is_empty() { self.memory_limit() } else { self.config.capacity.0 / 2 };
        if length > limit { Err(StoreError::TooLarge { length, limit }) } else { Ok(()) }
    }

    /// Bytes of the longest body that is kept in RAM alone.
    pub(crate) fn memory_limit(&self) -> u64 {
        (self.config.memory.0 / 2).saturating_sub(self.config.metadata_limit.0 + OVERHEAD)
    }

    /// Without a disk, fills and the RAM tier share one bound.
    pub(crate) fn fills_changed(&self) {
        if self.disks.is_empty() {
            self.memory.reserve(self.budget.held());
        }
    }

    /// The object under `key` if the RAM tier has it; `Err` if the disk must be asked.
    pub(crate) fn get_memory(self: &Arc<Self>, key: &Key) -> Result<Option<Object>, ()> {
        let Some((Value::Object(whole), first)) = self.memory.get(key) else { return Err(()) };
        if first && let Some(engine) = self.disks.of(key) {
            // What is hot in RAM gets its second chance on disk.
            engine.index.ask(engine.hash(key));
            if whole.is_owed() {
                self.admit_soon(*key);
            }
        }
        let verdict = self.verdict_of(&whole);
        // A sweep under way is to find what it counts: here and below, it is what removes.
        if verdict == Verdict::Hard || whole.expired(disk::now) {
            if verdict != Verdict::Hard || !self.sweeps.is_running() {
                self.memory.remove_if(key, || self.still(key, &whole));
            }
            return Err(());
        }
        Ok(Some(Object::in_memory(whole, verdict == Verdict::Soft)))
    }

    /// The object under `key` from either tier; blocks.
    pub(crate) fn get_blocking(self: &Arc<Self>, key: &Key) -> Option<Object> {
        self.get_memory(key).unwrap_or_else(|()| self.get_disk(key))
    }

    /// The object under `key` from disk; blocks. A small one is in the RAM tier afterwards.
    pub(crate) fn get_disk(self: &Arc<Self>, key: &Key) -> Option<Object> {
        let engine = self.disks.of(key)?;
        let loaded = engine.load(key).inspect_err(|fault| engine.note(fault)).ok()??;
        self.judge(engine, loaded)
    }

    /// As `get_disk`, if the disk need not be waited for; `None` says only that it must be asked.
    pub(crate) fn get_cached(self: &Arc<Self>, key: &Key) -> Option<Option<Object>> {
        let engine = self.disks.of(key)?;
        let loaded = engine.load_cached(key)?;
        Some(self.judge(engine, loaded))
    }

    /// What was loaded, unless it was purged or has expired.
    fn judge(self: &Arc<Self>, engine: &Engine, loaded: Loaded) -> Option<Object> {
        let key = &loaded.head.key;
        let verdict = self.book.verdict(&loaded.head);
        if verdict == Verdict::Hard || expired(&loaded.head) {
            if verdict != Verdict::Hard || !self.sweeps.is_running() {
                engine.index.remove(engine.hash(key), loaded.spot);
            }
            return None;
        }
        Some(self.object(engine, loaded, verdict))
    }

    /// Takes a whole object in that lives in RAM alone.
    pub(crate) fn put_resident(&self, head: Head, pieces: Arc<Pieces>) -> Result<Object, StoreError> {
        let entry = self.book.entry();
        let verdict = self.book.admit(&head, &entry);
        let stored = to_millisecond(disk::now());
        self.take_in(self.memory.house(Whole::new(head, stored, false, pieces)), verdict, None, Keep::InRam)
    }

    /// Takes a whole object in whose place on disk is known, if it was to have one.
    pub(crate) fn take_in(
        &self,
        whole: Arc<Whole>,
        verdict: Verdict,
        on_disk: Option<io::Result<Spot>>,
        keep: Keep,
    ) -> Result<Object, StoreError> {
        let object = Object::in_memory(Arc::clone(&whole), verdict == Verdict::Soft);
        if keep == Keep::OnDisk && matches!(on_disk, Some(Ok(_))) && whole.is_read_at_once() {
            // What it replaced.
            self.memory.remove(&whole.key);
            return Ok(object);
        }
        let in_memory = verdict != Verdict::Hard && self.memory.insert(whole.key, Value::Object(whole));
        match on_disk {
            Some(Err(error)) if !in_memory => Err(self.refused(error)),
            Some(_) | None => Ok(object),
        }
    }

    /// As `admit_late`, behind the caller's back.
    pub(crate) fn admit_soon(self: &Arc<Self>, key: Key) {
        let tiers = Arc::clone(self);
        drop(tokio::spawn(async move {
            drop(tiers.write(move |tiers| tiers.admit_late(&key)).await);
        }));
    }

    /// Writes to disk what the RAM tier holds under `key` and was kept off it so far; blocks.
    pub(crate) fn admit_late(&self, key: &Key) {
        let (Some(engine), Some(whole)) = (self.disks.of(key), self.memory.peek_object(key)) else { return };
        let entry = self.book.entry();
        let verdict = self.book.admit(&whole.head, &entry);
        if verdict != Verdict::Clean || engine.index.get(engine.hash(key)).is_some() {
            return;
        }
        let (length, generation) = (whole.len(), engine.generation());
        let header = Header::new(Kind::Whole, &whole.head, length, whole.stored, generation);
        let draft = Draft::new(header, &whole.head.metadata, whole.pieces.list());
        let Ok(Some(spot)) = engine.put_new(draft) else { return };
        whole.settle();
        // Something newer may have come into RAM meanwhile, and is not to be found behind this when RAM forgets it.
        if !self.still(key, &whole) && engine.still(key, spot) {
            drop(engine.remove(key).inspect_err(|error| engine.note_error("remove", error)));
        }
    }

    /// Takes one slice of a fill in, of whose pieces these are the checksums; blocks.
    pub(crate) fn put_slice(&self, key: Key, head: &Head, pieces: Arc<Pieces>, sums: &[u32]) -> Result<(), StoreError> {
        let engine = self.disks.of(&head.key).ok_or(StoreError::Broken)?;
        let head = Head { key, ..head.clone() };
        let header = Header::new(Kind::Slice, &head, pieces.len(), to_millisecond(disk::now()), 0);
        let draft = Draft { header, metadata: &[], pieces: pieces.list(), sums: sums.into() };
        engine.put(draft).map_err(|error| self.refused(error))?;
        self.memory.insert(key, Value::Slice(pieces));
        Ok(())
    }

    /// Takes an object in whose slices are all there; blocks.
    pub(crate) fn put_run(self: &Arc<Self>, head: Head, generation: u64, slices: &[Key]) -> Result<Object, StoreError> {
        let engine = self.disks.of(&head.key).ok_or(StoreError::Broken)?;
        let (stored, length) = (to_millisecond(disk::now()), head.length.unwrap_or_default());
        // The first slices may have been reclaimed before the last were written.
        let found: Option<Arc<[SliceAt]>> = slices.iter().map(|key| engine.find_slice(*key)).collect();
        let slices = found.ok_or_else(|| self.no_room())?;
        let entry = self.book.entry();
        let verdict = self.book.admit(&head, &entry);
        let slice = self.config.slice_bytes();
        if verdict != Verdict::Hard {
            let mut header = Header::new(Kind::Run, &head, length, stored, generation);
            header.slice = u32::try_from(slice).unwrap_or(u32::MAX);
            let run = engine.put(Draft::new(header, &head.metadata, &[]));
            run.map_err(|error| self.refused(error))?;
            self.memory.remove(&head.key);
        }
        let (tiers, head) = (Arc::clone(self), Head { length: Some(length), ..head });
        let found = OnDisk { tiers, head, stored, slices, kind: DiskKind::Run { slice } };
        let soft_purged = verdict == Verdict::Soft;
        Ok(Object { soft_purged, tier: Tier::Disk, body: Body::Disk(Arc::new(found)) })
    }

    /// Gives the object under `key` new metadata, if what it has `is_meant`; blocks.
    pub(crate) fn freshen(
        self: &Arc<Self>,
        key: &Key,
        metadata: &Bytes,
        (expires, born, tags): (Option<SystemTime>, PurgeNumber, Option<Tags>),
        is_meant: &dyn Fn(&Bytes) -> bool,
    ) -> Result<Option<Object>, StoreError> {
        let Some(old) = self.get_blocking(key).filter(|old| is_meant(&old.head().metadata)) else { return Ok(None) };
        let born = born.max(old.head().born);
        let expires = expires.map(to_millisecond);
        let tags = tags.unwrap_or_else(|| old.head().tags);
        let head = Head { metadata: metadata.clone(), expires, born, tags, ..old.head().clone() };
        let soft_purged = self.book.verdict(&head) == Verdict::Soft;
        let engine = self.disks.of(key);
        let on_disk = engine.and_then(|engine| self.freshen_disk(engine, &head, is_meant));
        let whole = match &old.body {
            Body::Memory(whole) => {
                let owed = on_disk.is_none() && whole.is_owed();
                self.memory.house(Whole::held(head, whole.stored, Arc::clone(&whole.pieces), owed))
            }
            Body::Disk(found) => {
                if on_disk.is_none() {
                    return Ok(None);
                }
                self.memory.remove(key);
                let kind = match (&found.kind, on_disk) {
                    (DiskKind::Run { slice }, _) => DiskKind::Run { slice: *slice },
                    (DiskKind::Whole { .. }, Some(spot)) => DiskKind::Whole { spot, loaded: Mutex::default() },
                    (DiskKind::Whole { .. }, None) => return Ok(None),
                };
                let (tiers, slices) = (Arc::clone(self), Arc::clone(&found.slices));
                let body = Body::Disk(Arc::new(OnDisk { tiers, head, stored: found.stored, slices, kind }));
                return Ok(on_disk.map(|_| Object { soft_purged, tier: old.tier, body }));
            }
        };
        let value = Value::Object(Arc::clone(&whole));
        let taken = self.memory.insert_if(*key, value, || match (engine, on_disk) {
            (Some(engine), Some(spot)) => engine.still(key, spot),
            (Some(engine), None) if engine.index.get(engine.hash(key)).is_some() => false,
            (_, None | Some(_)) => self.holds(key, &whole.pieces),
        });
        let fresh = Object { soft_purged, tier: old.tier, body: Body::Memory(whole) };
        Ok((taken || on_disk.is_some()).then_some(fresh))
    }

    /// Gives up the object under `key`; blocks.
    pub(crate) fn remove(&self, key: &Key) -> Result<bool, StoreError> {
        let on_disk = self.disks.of(key).map_or(Ok(false), |engine| engine.remove(key));
        let in_memory = self.memory.remove(key);
        if in_memory && let Some(engine) = self.disks.of(key) {
            // What admission let on the disk between the two lines above.
            engine.remove(key).map_err(StoreError::Disk)?;
        }
        Ok(on_disk.map_err(StoreError::Disk)? || in_memory)
    }

    /// Makes an object of what was loaded; a body that came along goes to the RAM tier.
    fn object(self: &Arc<Self>, engine: &Engine, loaded: Loaded, verdict: Verdict) -> Object {
        let Loaded { spot, head, header, body } = loaded;
        let key = head.key;
        let soft_purged = header.soft_purged || verdict == Verdict::Soft;
        let body = match body {
            LoadedBody::Pieces(pieces) => {
                let whole = Whole::new(head, header.stored, header.soft_purged, Arc::new(pieces));
                let whole = self.memory.house(whole);
                self.memory.insert_if(key, Value::Object(Arc::clone(&whole)), || engine.still(&key, spot));
                Body::Memory(whole)
            }
            LoadedBody::At(slices) => {
                let kind = match header.kind {
                    Kind::Run => DiskKind::Run { slice: u64::from(header.slice) },
                    Kind::Whole | Kind::Slice | Kind::Freshen | Kind::Tombstone => {
                        DiskKind::Whole { spot, loaded: Mutex::default() }
                    }
                };
                let (tiers, stored) = (Arc::clone(self), header.stored);
                Body::Disk(Arc::new(OnDisk { tiers, head, stored, slices, kind }))
            }
        };
        Object { soft_purged, tier: Tier::Disk, body }
    }

    /// Whether admission lets a body of one record on this disk. What is there already is replaced there.
    pub(crate) fn goes_to_disk(&self, engine: &Engine, key: &Key) -> bool {
        self.admission.admits(key) || engine.index.get(engine.hash(key)).is_some()
    }

    fn refused(&self, error: io::Error) -> StoreError {
        self.disks.note_bad();
        if is_held(&error) { self.no_room() } else { StoreError::Disk(error) }
    }

    fn no_room(&self) -> StoreError {
        StoreError::NoRoom { held: self.disk_budget.held(), limit: self.disk_budget.limit() }
    }

    /// What could not be replaced on disk must not come back when RAM forgets what replaced it.
    pub(crate) fn forget_older(&self, engine: &Engine, key: &Key) {
        let hash = engine.hash(key);
        engine.index.get(hash).map(|older| engine.index.remove(hash, older));
    }

    fn freshen_disk(&self, engine: &Engine, fresh: &Head, is_meant: &dyn Fn(&Bytes) -> bool) -> Option<Spot> {
        let Head { key, metadata, expires, born, tags, .. } = fresh;
        let freshened = engine.freshen(key, metadata, (*expires, *born, *tags), is_meant);
        freshened.unwrap_or_else(|fault| {
            engine.note(&fault);
            self.disks.note_bad();
            self.forget_older(engine, key);
            None
        })
    }

    pub(crate) fn still(&self, key: &Key, whole: &Arc<Whole>) -> bool {
        matches!(self.memory.peek(key), Some(Value::Object(now)) if Arc::ptr_eq(&now, whole))
    }

    fn holds(&self, key: &Key, pieces: &Arc<Pieces>) -> bool {
        matches!(self.memory.peek(key), Some(Value::Object(now)) if Arc::ptr_eq(&now.pieces, pieces))
    }

    /// As the book's verdict, remembered with the object until the next purge.
    fn verdict_of(&self, whole: &Whole) -> Verdict {
        let marked = if whole.soft_purged { Verdict::Soft } else { Verdict::Clean };
        let latest = self.book.newest().0;
        if whole.checked.load(Ordering::Relaxed) == latest {
            return marked;
        }
        let verdict = self.book.verdict(&whole.head);
        if verdict == Verdict::Clean {
            whole.checked.store(latest, Ordering::Relaxed);
        }
        verdict.max(marked)
    }
}

fn expired(head: &Head) -> bool {
    head.expires.is_some_and(|expires| expires <= disk::now())
}
