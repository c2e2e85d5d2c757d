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
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;

use crate::config::Config;
use crate::disk;
use crate::engine::{Engine, is_held};
use crate::error::{ReadError, StoreError};
use crate::index::Spot;
use crate::key::{Head, Key, PurgeNumber};
use crate::load::{Fault, Loaded, LoadedBody, SliceAt};
use crate::memory::{Memory, OVERHEAD, Value};
use crate::object::{Body, DiskBody, DiskKind, Object, Pieces, Tier, Whole};
use crate::pool::Pool;
use crate::purge::Verdict;
use crate::purge_log::Book;
use crate::record::{Header, Kind, to_millisecond};
use crate::writer::Budget;

/// What all handles, writers and objects of a store share.
pub(crate) struct Tiers {
    pub(crate) config: Config,
    pub(crate) memory: Memory,
    pub(crate) book: Arc<Book>,
    pub(crate) engine: Option<Engine>,
    pub(crate) pool: Pool,
    /// Bytes that fills under way hold in RAM.
    pub(crate) budget: Budget,
    /// Bytes that fills under way have on disk.
    pub(crate) disk_budget: Budget,
}

impl Tiers {
    pub(crate) fn new(config: Config, book: Arc<Book>, engine: Option<Engine>) -> Self {
        let in_ram = if engine.is_some() { config.fill_memory.0 } else { config.memory.0 / 2 };
        Self {
            memory: Memory::new(config.memory.0, config.eviction, config.small_queue_percent),
            book,
            engine,
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
        let limit = if self.engine.is_some() { self.config.capacity.0 / 2 } else { self.memory_limit() };
        if length > limit { Err(StoreError::TooLarge { length, limit }) } else { Ok(()) }
    }

    /// Bytes of the longest body that is kept in RAM alone.
    pub(crate) fn memory_limit(&self) -> u64 {
        (self.config.memory.0 / 2).saturating_sub(self.config.metadata_limit.0 + OVERHEAD)
    }

    /// Without a disk, fills and the RAM tier share one bound.
    pub(crate) fn fills_changed(&self) {
        if self.engine.is_none() {
            self.memory.reserve(self.budget.held());
        }
    }

    /// The object under `key` if the RAM tier has it; `Err` if the disk must be asked.
    pub(crate) fn get_memory(&self, key: &Key) -> Result<Option<Object>, ()> {
        let Some((Value::Object(whole), first)) = self.memory.get(key) else { return Err(()) };
        if let Some(engine) = self.engine.as_ref().filter(|_| first) {
            // What is hot in RAM gets its second chance on disk.
            engine.index.ask(engine.hash(key));
        }
        let verdict = self.verdict_of(&whole);
        if verdict == Verdict::Hard || expired(&whole.head) {
            self.memory.remove_if(key, || self.still(key, &whole));
            return Err(());
        }
        Ok(Some(Object::in_memory(&whole, verdict == Verdict::Soft)))
    }

    /// The object under `key` from either tier; blocks.
    pub(crate) fn get_blocking(self: &Arc<Self>, key: &Key) -> Option<Object> {
        self.get_memory(key).unwrap_or_else(|()| self.get_disk(key))
    }

    /// The object under `key` from disk; blocks. A small one is in the RAM tier afterwards.
    pub(crate) fn get_disk(self: &Arc<Self>, key: &Key) -> Option<Object> {
        let engine = self.engine.as_ref()?;
        let loaded = engine.load(key).inspect_err(|fault| engine.note(fault)).ok()??;
        let verdict = self.book.verdict(&loaded.head);
        if verdict == Verdict::Hard || expired(&loaded.head) {
            engine.index.remove(engine.hash(key), loaded.spot);
            return None;
        }
        Some(self.object(engine, loaded, verdict))
    }

    /// Takes a whole object in; blocks.
    pub(crate) fn put_whole(&self, head: Head, pieces: Arc<Pieces>) -> Result<Object, StoreError> {
        let stored = to_millisecond(disk::now());
        let verdict = self.book.verdict(&head);
        let whole =
            Arc::new(Whole { head: Arc::new(head), stored, soft_purged: false, pieces, checked: AtomicU64::new(0) });
        let object = Object::in_memory(&whole, verdict == Verdict::Soft);
        if verdict == Verdict::Hard {
            return Ok(object);
        }
        let on_disk = self.engine.as_ref().map(|engine| self.write_whole(engine, &whole));
        let in_memory = self.memory.insert(whole.head.key, Value::Object(whole));
        match on_disk {
            Some(Err(error)) if !in_memory => Err(self.refused(error)),
            Some(_) | None => Ok(object),
        }
    }

    /// Takes one slice of a fill in; blocks.
    pub(crate) fn put_slice(&self, key: Key, head: &Head, pieces: Arc<Pieces>) -> Result<(), StoreError> {
        let engine = self.engine.as_ref().ok_or(StoreError::Broken)?;
        let head = Head { key, ..head.clone() };
        let mut header = Header::new(Kind::Slice, &head, pieces.len(), to_millisecond(disk::now()), 0);
        engine.put_slice(&mut header, &pieces).map_err(|error| self.refused(error))?;
        self.memory.insert(key, Value::Slice(pieces));
        Ok(())
    }

    /// Takes an object in whose slices are all there; blocks.
    pub(crate) fn put_run(self: &Arc<Self>, head: Head, generation: u64, slices: &[Key]) -> Result<Object, StoreError> {
        let engine = self.engine.as_ref().ok_or(StoreError::Broken)?;
        let (stored, length) = (to_millisecond(disk::now()), head.length.unwrap_or_default());
        // The first slices may have been reclaimed before the last were written.
        let found: Option<Arc<[SliceAt]>> = slices.iter().map(|key| engine.find_slice(*key)).collect();
        let slices = found.ok_or_else(|| self.no_room())?;
        let verdict = self.book.verdict(&head);
        let slice = self.config.slice_bytes();
        if verdict != Verdict::Hard {
            let mut header = Header::new(Kind::Run, &head, length, stored, generation);
            header.slice = u32::try_from(slice).unwrap_or(u32::MAX);
            let run = engine.put(&mut header, &head.metadata, &Pieces::default());
            run.map_err(|error| self.refused(error))?;
            self.memory.remove(&head.key);
        }
        let body = DiskBody { tiers: Arc::clone(self), slices, kind: DiskKind::Run { slice } };
        Ok(Object {
            head: Arc::new(head),
            stored,
            soft_purged: verdict == Verdict::Soft,
            length,
            tier: Tier::Disk,
            body: Body::Disk(Arc::new(body)),
        })
    }

    /// Gives the object under `key` new metadata; blocks.
    pub(crate) fn freshen(
        self: &Arc<Self>,
        key: &Key,
        metadata: &Bytes,
        expires: Option<SystemTime>,
        born: PurgeNumber,
    ) -> Result<Option<Object>, StoreError> {
        let Some(old) = self.get_blocking(key) else { return Ok(None) };
        let born = born.max(old.head.born);
        let expires = expires.map(to_millisecond);
        let head = Arc::new(Head { metadata: metadata.clone(), expires, born, ..Head::clone(&old.head) });
        let soft_purged = self.book.verdict(&head) == Verdict::Soft;
        let fresh = Object { head, soft_purged, ..old.clone() };
        let on_disk = self.engine.as_ref().and_then(|engine| self.freshen_disk(engine, &fresh));
        let Body::Memory(pieces) = &fresh.body else {
            self.memory.remove(key);
            return Ok(on_disk.map(|_| fresh));
        };
        let whole = Whole {
            head: Arc::clone(&fresh.head),
            stored: fresh.stored,
            soft_purged: false,
            pieces: Arc::clone(pieces),
            checked: AtomicU64::new(0),
        };
        let taken = self.memory.insert_if(*key, Value::Object(Arc::new(whole)), || match (&self.engine, on_disk) {
            (Some(engine), Some(spot)) => engine.still(key, spot),
            (Some(engine), None) if engine.index.get(engine.hash(key)).is_some() => false,
            (_, None | Some(_)) => self.holds(key, pieces),
        });
        Ok((taken || on_disk.is_some()).then_some(fresh))
    }

    /// Gives up the object under `key`; blocks.
    pub(crate) fn remove(&self, key: &Key) -> Result<bool, StoreError> {
        let on_disk = self.engine.as_ref().map_or(Ok(false), |engine| engine.remove(key));
        let in_memory = self.memory.remove(key);
        Ok(on_disk.map_err(StoreError::Disk)? || in_memory)
    }

    /// 1 to `max` bytes at `offset` of a slice.
    pub(crate) async fn read_slice(self: Arc<Self>, at: &SliceAt, offset: u64, max: usize) -> Result<Bytes, ReadError> {
        if let Some((Value::Slice(pieces), _)) = self.memory.get(&at.key) {
            return Ok(pieces.read(offset, max));
        }
        if offset > 0 {
            return self.read_range(at, None, offset, max).await;
        }
        let slice = at.clone();
        let pieces = Arc::clone(&self).on_disk(at, None, move |tiers, engine| {
            let pieces = Arc::new(engine.read_slice(&slice)?);
            tiers.memory.insert(slice.key, Value::Slice(Arc::clone(&pieces)));
            Ok(pieces)
        });
        Ok(pieces.await?.read(offset, max))
    }

    /// 1 to `max` bytes at `offset` of a slice or body, not kept in RAM.
    pub(crate) async fn read_range(
        self: Arc<Self>,
        at: &SliceAt,
        spot: Option<Spot>,
        offset: u64,
        max: usize,
    ) -> Result<Bytes, ReadError> {
        let slice = at.clone();
        self.on_disk(at, spot, move |_, engine| engine.read_range(&slice, offset, max)).await
    }

    /// All of a body in one record, kept in RAM while it is current.
    pub(crate) async fn promote(
        self: Arc<Self>,
        at: &SliceAt,
        spot: Spot,
        object: &Object,
    ) -> Result<Arc<Pieces>, ReadError> {
        let slice = at.clone();
        let Object { head, stored, soft_purged, .. } = object.clone();
        self.on_disk(at, Some(spot), move |tiers, engine| {
            let pieces = Arc::new(engine.read_slice(&slice)?);
            let (key, copy) = (head.key, Arc::clone(&pieces));
            let whole = Whole { head, stored, soft_purged, pieces: copy, checked: AtomicU64::new(0) };
            tiers.memory.insert_if(key, Value::Object(Arc::new(whole)), || engine.still(&key, spot));
            Ok(pieces)
        })
        .await
    }

    /// Runs a read of a slice or body; what turns out corrupt is forgotten.
    async fn on_disk<T: Send + 'static>(
        self: Arc<Self>,
        at: &SliceAt,
        spot: Option<Spot>,
        read: impl FnOnce(&Self, &Engine) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, ReadError> {
        let (tiers, slice) = (Arc::clone(&self), at.clone());
        let work = move || {
            let Some(engine) = &tiers.engine else { return Err(ReadError::Lost) };
            read(&tiers, engine).map_err(|fault| {
                engine.note(&fault);
                match fault {
                    Fault::Io(error) => ReadError::Io(error),
                    Fault::Corrupt(_) => {
                        engine.forget(&slice);
                        spot.map(|spot| engine.index.remove(engine.hash(&slice.key), spot));
                        ReadError::Corrupt
                    }
                    Fault::Other => ReadError::Lost,
                }
            })
        };
        self.pool.read(work).await.map_err(ReadError::Io)?
    }

    /// Makes an object of what was loaded; a body that came along goes to the RAM tier.
    fn object(self: &Arc<Self>, engine: &Engine, loaded: Loaded, verdict: Verdict) -> Object {
        let Loaded { spot, head, header, body } = loaded;
        let (key, head) = (head.key, Arc::new(head));
        let soft_purged = header.soft_purged || verdict == Verdict::Soft;
        let body = match body {
            LoadedBody::Pieces(pieces) => {
                let pieces = Arc::new(pieces);
                let whole = Whole {
                    head: Arc::clone(&head),
                    stored: header.stored,
                    soft_purged: header.soft_purged,
                    pieces: Arc::clone(&pieces),
                    checked: AtomicU64::new(0),
                };
                self.memory.insert_if(key, Value::Object(Arc::new(whole)), || engine.still(&key, spot));
                Body::Memory(pieces)
            }
            LoadedBody::At(slices) => {
                let kind = match header.kind {
                    Kind::Run => DiskKind::Run { slice: u64::from(header.slice) },
                    Kind::Whole | Kind::Slice | Kind::Freshen | Kind::Tombstone => {
                        DiskKind::Whole { spot, loaded: Mutex::default() }
                    }
                };
                Body::Disk(Arc::new(DiskBody { tiers: Arc::clone(self), slices, kind }))
            }
        };
        Object { head, stored: header.stored, soft_purged, length: header.length, tier: Tier::Disk, body }
    }

    fn write_whole(&self, engine: &Engine, whole: &Whole) -> io::Result<Spot> {
        let (length, generation) = (whole.pieces.len(), engine.generation());
        if length > self.config.slice_bytes() {
            // It was to be a run, but the disk failed before its first slice.
            self.forget_older(engine, &whole.head.key);
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut header = Header::new(Kind::Whole, &whole.head, length, whole.stored, generation);
        let written = engine.put(&mut header, &whole.head.metadata, &whole.pieces);
        written.inspect_err(|_| self.forget_older(engine, &whole.head.key))
    }

    fn refused(&self, error: io::Error) -> StoreError {
        if is_held(&error) { self.no_room() } else { StoreError::Disk(error) }
    }

    fn no_room(&self) -> StoreError {
        StoreError::NoRoom { held: self.disk_budget.held(), limit: self.disk_budget.limit() }
    }

    /// What could not be replaced on disk must not come back when RAM forgets what replaced it.
    fn forget_older(&self, engine: &Engine, key: &Key) {
        let hash = engine.hash(key);
        engine.index.get(hash).map(|older| engine.index.remove(hash, older));
    }

    fn freshen_disk(&self, engine: &Engine, fresh: &Object) -> Option<Spot> {
        let Head { key, metadata, expires, born, .. } = &*fresh.head;
        let freshened = engine.freshen(key, metadata, *expires, *born);
        freshened.unwrap_or_else(|fault| {
            engine.note(&fault);
            self.forget_older(engine, key);
            None
        })
    }

    fn still(&self, key: &Key, whole: &Arc<Whole>) -> bool {
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
