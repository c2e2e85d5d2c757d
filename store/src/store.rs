//! The store's handle: finds objects, takes them in, purges them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::config::Config;
use crate::disk::{Directory, Disk};
use crate::disks::{Disks, Place};
use crate::engine::Engine;
use crate::error::{OpenError, StoreError};
use crate::key::{Head, Key, PurgeNumber, Tags};
use crate::object::Object;
use crate::purge::{Filter, PurgeKind, PurgeProgress, Selector};
use crate::purge_log::{Book, FILTER_LIMIT};
use crate::scan::{Depth, Scan};
use crate::stats::{DiskState, Stats};
use crate::sweep;
use crate::tiers::Tiers;
use crate::writer::Writer;

/// A handle on a store; clones are the same store.
#[derive(Clone)]
pub struct Store {
    pub(crate) tiers: Arc<Tiers>,
}

impl Store {
    /// Opens the store that `config` describes; with a directory, finds there what was stored before, after any stop.
    ///
    /// # Errors
    /// A setting cannot work, another process holds the directory, it is of another version or no store at all, or the
    /// disk failed.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let directories = config.directory.iter().chain(&config.more_directories).cloned();
        let disk = |path: PathBuf| (path.clone(), Arc::new(Directory::new(path)) as Arc<dyn Disk>);
        let disks = directories.map(disk).collect();
        Self::open_on(disks, config).await
    }

    /// As `open`, on these disks.
    pub(crate) async fn open_on(disks: Vec<Place>, config: Config) -> Result<Self, OpenError> {
        config.check()?;
        let book = Arc::new(Book::new(usize::try_from(config.purge_limit).unwrap_or(usize::MAX)));
        let disks = if disks.is_empty() {
            Disks::default()
        } else {
            let (config, book) = (config.clone(), Arc::clone(&book));
            let directory = disks.first().map(|(path, _)| path.clone()).unwrap_or_default();
            let opened = tokio::task::spawn_blocking(move || Disks::open(disks, &config, &book)).await;
            opened.map_err(|error| OpenError::Disk {
                directory,
                action: "opening",
                source: std::io::Error::other(error),
            })??
        };
        Ok(Self { tiers: Arc::new(Tiers::new(config, book, disks)) })
    }

    /// Begins to take an object in.
    ///
    /// # Errors
    /// The object is known to be too large, its metadata is over the limit, or fills under way hold all they may.
    pub fn writer(&self, head: Head) -> Result<Writer, StoreError> {
        Writer::new(Arc::clone(&self.tiers), head)
    }

    /// The object under `key`; `None` also if it was purged, has expired, or cannot be read.
    pub async fn get(&self, key: &Key) -> Option<Object> {
        let completes = self.tiers.admission.asked(key);
        if let Ok(found) = self.tiers.get_memory(key) {
            if completes {
                self.tiers.admit_soon(*key);
            }
            return found;
        }
        let engine = self.tiers.disks.of(key)?;
        // A miss of the index costs no thread.
        engine.index.get(engine.hash(key))?;
        // What the system has in memory costs no thread either: the hand-over is dearer than the copy. [measured: docs/store.md]
        if let Some(found) = self.tiers.get_cached(key) {
            return found;
        }
        let (tiers, key) = (Arc::clone(&self.tiers), *key);
        self.tiers.pool.read(move || tiers.get_disk(&key)).await.ok().flatten()
    }

    /// The object under `key` if the RAM tier has it, as [`Store::get`] would find it there, without waiting for anything.
    pub fn get_resident(&self, key: &Key) -> Option<Object> {
        let found = self.tiers.get_memory(key).ok()??;
        if self.tiers.admission.asked(key) {
            self.tiers.admit_soon(*key);
        }
        Some(found)
    }

    /// Whether the index has `key`. Reads no disk, so it may be wrong about what was purged, has expired, or shares its
    /// place in the index with another.
    #[expect(clippy::unused_async, reason = "the seam leaves room for an index that is not all in RAM")]
    pub async fn contains(&self, key: &Key) -> bool {
        let on_disk = |engine: &Engine| engine.index.get(engine.hash(key)).is_some();
        self.tiers.memory.contains(key) || self.tiers.disks.of(key).is_some_and(on_disk)
    }

    /// Gives the object new metadata and a new expiry, as of now: a soft purge before now no longer marks it. Its body
    /// and [`Object::stored`] stay. `None` if it is not there.
    ///
    /// # Errors
    /// The metadata is over the limit, or the disk failed.
    pub async fn freshen(
        &self,
        key: &Key,
        metadata: Bytes,
        expires: Option<SystemTime>,
    ) -> Result<Option<Object>, StoreError> {
        self.freshen_since(key, metadata, expires, self.purge_number()).await
    }

    /// As [`Store::freshen`], as of the purge number known when the origin was asked: a purge since then holds.
    ///
    /// # Errors
    /// As [`Store::freshen`].
    pub async fn freshen_since(
        &self,
        key: &Key,
        metadata: Bytes,
        expires: Option<SystemTime>,
        born: PurgeNumber,
    ) -> Result<Option<Object>, StoreError> {
        self.freshen_tagged(key, metadata, expires, born, None, |_| true).await
    }

    /// As [`Store::freshen_since`], with other tags if there are any, and only if the object is the one that is meant: it is shown the
    /// metadata of what is there now, more than once where that changes meanwhile.
    ///
    /// # Errors
    /// As [`Store::freshen`].
    pub async fn freshen_tagged(
        &self,
        key: &Key,
        metadata: Bytes,
        expires: Option<SystemTime>,
        born: PurgeNumber,
        tags: Option<Tags>,
        is_meant: impl Fn(&Bytes) -> bool + Send + 'static,
    ) -> Result<Option<Object>, StoreError> {
        self.tiers.check_metadata(&metadata)?;
        let key = *key;
        if self.tiers.disks.is_empty() {
            return self.tiers.freshen(&key, &metadata, (expires, born, tags), &is_meant);
        }
        let work = move |tiers: &Arc<Tiers>| tiers.freshen(&key, &metadata, (expires, born, tags), &is_meant);
        self.tiers.write(work).await.map_err(StoreError::Disk)?
    }

    /// Gives up the object under `key`; false if there was none. Lasts over a restart once its segment is sealed; a
    /// purge by key lasts at once, and also reaches a fill under way.
    ///
    /// # Errors
    /// The disk failed: the object is gone now and may be back after a restart.
    pub async fn remove(&self, key: &Key) -> Result<bool, StoreError> {
        let key = *key;
        if self.tiers.disks.is_empty() {
            return self.tiers.remove(&key);
        }
        self.tiers.write(move |tiers| tiers.remove(&key)).await.map_err(StoreError::Disk)?
    }

    /// Purges what `selector` selects and was born before now; when this returns, no later read returns it, also
    /// after a restart.
    ///
    /// # Errors
    /// The filter is over the limit: nothing was purged. The disk failed: the purge is in force, and may not be after a
    /// restart.
    pub async fn purge(&self, selector: Selector, kind: PurgeKind) -> Result<PurgeNumber, StoreError> {
        if let Selector::Tags { filter: Some(filter), .. } = &selector
            && filter.len() > FILTER_LIMIT
        {
            return Err(StoreError::FilterTooLong { length: filter.len(), limit: FILTER_LIMIT });
        }
        let tiers = Arc::clone(&self.tiers);
        let work = move || {
            let (purge, written) = tiers.book.purge(selector, kind);
            (purge.number, written, tiers.sweep(purge))
        };
        let (number, written, pass) = self.tiers.pool.write(work).await.map_err(StoreError::Disk)?;
        if pass {
            let store = Arc::downgrade(&self.tiers);
            // Not waited for: the runtime's end does, and the last handle's.
            drop(tokio::task::spawn_blocking(move || sweep::run(&store)));
        }
        written.inspect_err(|error| self.note_error("purge", error)).map_err(StoreError::Disk)?;
        Ok(number)
    }

    /// How far the sweep for a purge of this process is; `None` if `number` is none, or is too long ago.
    pub fn purge_progress(&self, number: PurgeNumber) -> Option<PurgeProgress> {
        self.tiers.sweeps.progress(number)
    }

    /// The number of the newest purge: what an object is born at if its request begins now.
    pub fn purge_number(&self) -> PurgeNumber {
        self.tiers.book.latest()
    }

    /// Sets who evaluates the opaque selector of a purge by tags: (filter, metadata) to whether the object is meant.
    /// Without one, such a purge takes every object whose bits match.
    pub fn set_filter(&self, filter: Arc<Filter>) {
        self.tiers.book.set_filter(filter);
    }

    /// A pass over everything on disk, as it is now.
    pub fn scan(&self, depth: Depth) -> Scan {
        Scan::new(Arc::clone(&self.tiers), depth)
    }

    /// What the store holds and has met.
    pub fn stats(&self) -> Stats {
        let holdings = self.tiers.memory.holdings();
        let mut stats = Stats {
            objects: holdings.objects,
            memory_objects: holdings.objects,
            memory_bytes: holdings.bytes,
            fill_bytes: self.tiers.budget.held(),
            memory_evictions: holdings.evicted,
            purges: self.tiers.book.len() as u64,
            ..Stats::default()
        };
        self.tiers.disks.report(&mut stats);
        stats.objects = stats.objects.max(stats.index_objects);
        stats
    }

    /// The directory of each disk in use, and how it does. One that was given up before the start is not among them.
    #[must_use]
    pub fn disks(&self) -> Vec<(PathBuf, DiskState)> {
        self.tiers.disks.states()
    }

    /// Seals and syncs what is on disk. Other handles may go on, and open the next segment if they write. Without it the
    /// store is found as after a kill, and its directory is held while a full segment is being sealed.
    pub async fn close(self) {
        let tiers = Arc::clone(&self.tiers);
        let closed = self.tiers.pool.write(move || {
            tiers.sweeps.close();
            let flushed = tiers.book.flush();
            tiers.disks.iter().map(Engine::close).fold(flushed, std::io::Result::and)
        });
        if let Err(error) = closed.await.and_then(|closed| closed) {
            self.note_error("close", &error);
        }
    }

    fn note_error(&self, action: &'static str, error: &std::io::Error) {
        if let Some(engine) = self.tiers.disks.at(0) {
            engine.note_error(action, error);
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("config", &self.tiers.config).finish_non_exhaustive()
    }
}
