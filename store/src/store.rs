//! The store's handle: finds objects, takes them in, purges them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use bytes::Bytes;

use crate::config::Config;
use crate::disk;
use crate::error::{OpenError, StoreError};
use crate::key::{Head, Key, PurgeNumber};
use crate::memory::{Memory, OVERHEAD, Value};
use crate::object::{Object, Pieces, Whole};
use crate::purge::{Filter, PurgeKind, Purges, Selector, Subject, Verdict};
use crate::stats::{DiskState, Stats};
use crate::writer::{Budget, Writer};

/// A handle on a store; clones are the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What all handles, writers and objects share.
pub(crate) struct Inner {
    config: Config,
    memory: Memory,
    purges: RwLock<Purges>,
    /// The newest purge's number, so that a hit need not ask the table.
    latest: AtomicU64,
    filter: Mutex<Option<Arc<Filter>>>,
    pub(crate) budget: Budget,
}

impl Store {
    /// Opens the store that `config` describes.
    #[expect(clippy::unused_async, reason = "the index is rebuilt from disk")]
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        config.check()?;
        let memory = Memory::new(config.memory.0, config.eviction, config.small_queue_percent);
        let purges = Purges::new(usize::try_from(config.purge_limit).unwrap_or(usize::MAX));
        let budget = Budget::new(config.memory.0 / 2);
        let inner = Inner {
            memory,
            latest: AtomicU64::new(purges.latest().0),
            purges: RwLock::new(purges),
            filter: Mutex::new(None),
            budget,
            config,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Begins to take an object in. Refuses what is known to be too large, metadata over the limit, and any more while
    /// fills under way hold all they may.
    pub fn writer(&self, head: Head) -> Result<Writer, StoreError> {
        Writer::new(Arc::clone(&self.inner), head)
    }

    /// The object under `key`; `None` also if it was purged, has expired, or cannot be read.
    #[expect(clippy::unused_async, reason = "an object on disk is waited for")]
    pub async fn get(&self, key: &Key) -> Option<Object> {
        self.inner.get_memory(key)
    }

    /// Whether the index has `key`. Reads no disk, so it may be wrong about what was purged, has expired, or shares its
    /// place in the index with another.
    #[expect(clippy::unused_async, reason = "the index answers at once, another engine's may not")]
    pub async fn contains(&self, key: &Key) -> bool {
        self.inner.memory.contains(key)
    }

    /// Gives the object new metadata and a new expiry, as of now: a soft purge before now no longer marks it. Its body
    /// and [`Object::stored`] stay. `None` if it is not there.
    pub async fn freshen(
        &self,
        key: &Key,
        metadata: Bytes,
        expires: Option<SystemTime>,
    ) -> Result<Option<Object>, StoreError> {
        self.freshen_since(key, metadata, expires, self.purge_number()).await
    }

    /// As [`Store::freshen`], as of the purge number known when the origin was asked: a purge since then holds.
    #[expect(clippy::unused_async, reason = "the record on its way to disk is waited for")]
    pub async fn freshen_since(
        &self,
        key: &Key,
        metadata: Bytes,
        expires: Option<SystemTime>,
        born: PurgeNumber,
    ) -> Result<Option<Object>, StoreError> {
        self.inner.check_metadata(&metadata)?;
        Ok(self.inner.freshen_memory(key, metadata, expires, born))
    }

    /// Gives up the object under `key`; false if there was none. A purge by key also reaches a fill under way.
    #[expect(clippy::unused_async, reason = "the record on its way to disk is waited for")]
    pub async fn remove(&self, key: &Key) -> Result<bool, StoreError> {
        Ok(self.inner.memory.remove(key))
    }

    /// Purges what `selector` selects and was born before now; when this returns, no later read returns it, also
    /// after a restart.
    #[expect(clippy::unused_async, reason = "the log on its way to disk is waited for")]
    pub async fn purge(&self, selector: Selector, kind: PurgeKind) -> Result<PurgeNumber, StoreError> {
        let mut purges = self.inner.purges.write().unwrap_or_else(PoisonError::into_inner);
        let purge = purges.next(selector, kind);
        let number = purge.number;
        purges.add(purge);
        self.inner.latest.store(number.0, Ordering::Release);
        Ok(number)
    }

    /// The number of the newest purge: what an object is born at if its request begins now.
    pub fn purge_number(&self) -> PurgeNumber {
        PurgeNumber(self.inner.latest.load(Ordering::Acquire))
    }

    /// Sets who evaluates the opaque selector of a purge by tags: (filter, metadata) to whether the object is meant.
    /// Without one, such a purge takes every object whose bits match.
    pub fn set_filter(&self, filter: Arc<Filter>) {
        *self.inner.filter.lock().unwrap_or_else(PoisonError::into_inner) = Some(filter);
    }

    /// What the store holds and has met.
    pub fn stats(&self) -> Stats {
        let holdings = self.inner.memory.holdings();
        Stats {
            objects: holdings.objects,
            memory_objects: holdings.objects,
            memory_bytes: holdings.bytes,
            fill_bytes: self.inner.budget.held(),
            memory_evictions: holdings.evicted,
            purges: self.inner.purges.read().unwrap_or_else(PoisonError::into_inner).len() as u64,
            disk_bytes: 0,
            disk_evictions: 0,
            checksum_failures: 0,
            disk_errors: 0,
            disk: DiskState::Absent,
        }
    }

    /// Seals and syncs what is on disk. Other handles may go on reading.
    #[expect(clippy::unused_async, reason = "the disk is waited for")]
    pub async fn close(self) {}
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn check_metadata(&self, metadata: &Bytes) -> Result<(), StoreError> {
        let limit = usize::try_from(self.config.metadata_limit.0).unwrap_or(usize::MAX);
        let length = metadata.len();
        if length > limit { Err(StoreError::MetadataTooLong { length, limit }) } else { Ok(()) }
    }

    pub(crate) fn check_length(&self, length: u64) -> Result<(), StoreError> {
        let limit = (self.config.memory.0 / 2).saturating_sub(self.config.metadata_limit.0 + OVERHEAD);
        if length > limit { Err(StoreError::TooLarge { length, limit }) } else { Ok(()) }
    }

    /// In RAM alone, fills and the tier share one bound.
    pub(crate) fn fills_changed(&self) {
        self.memory.reserve(self.budget.held());
    }

    pub(crate) fn take_in(&self, head: Head, pieces: Arc<Pieces>) -> Object {
        let whole = Arc::new(Whole {
            head: Arc::new(head),
            stored: disk::now(),
            soft_purged: false,
            pieces,
            checked: AtomicU64::new(0),
        });
        let verdict = self.verdict(&whole.head);
        if verdict != Verdict::Hard {
            self.memory.insert(whole.head.key, Value::Object(Arc::clone(&whole)));
        }
        Object::in_memory(&whole, verdict == Verdict::Soft)
    }

    fn get_memory(&self, key: &Key) -> Option<Object> {
        let Value::Object(whole) = self.memory.get(key)? else { return None };
        let verdict = self.verdict_of(&whole);
        if verdict == Verdict::Hard || whole.head.expires.is_some_and(|expires| expires <= disk::now()) {
            self.forget(key, &whole);
            return None;
        }
        Some(Object::in_memory(&whole, verdict == Verdict::Soft))
    }

    fn freshen_memory(
        &self,
        key: &Key,
        metadata: Bytes,
        expires: Option<SystemTime>,
        born: PurgeNumber,
    ) -> Option<Object> {
        let Value::Object(old) = self.memory.get(key)? else { return None };
        if self.verdict_of(&old) == Verdict::Hard {
            self.forget(key, &old);
            return None;
        }
        let born = born.max(old.head.born);
        let head = Arc::new(Head { metadata, expires, born, ..Head::clone(&old.head) });
        let pieces = Arc::clone(&old.pieces);
        let fresh =
            Arc::new(Whole { head, stored: old.stored, soft_purged: false, pieces, checked: AtomicU64::new(0) });
        // Only in place of the object that was looked at: a newer one has its own metadata.
        let value = Value::Object(Arc::clone(&fresh));
        if !self.memory.insert_if(*key, value, || self.still(key, &old)) {
            return None;
        }
        Some(Object::in_memory(&fresh, self.verdict(&fresh.head) == Verdict::Soft))
    }

    fn forget(&self, key: &Key, whole: &Arc<Whole>) {
        self.memory.remove_if(key, || self.still(key, whole));
    }

    fn still(&self, key: &Key, whole: &Arc<Whole>) -> bool {
        matches!(self.memory.get(key), Some(Value::Object(now)) if Arc::ptr_eq(&now, whole))
    }

    /// As `verdict`, remembered with the object until the next purge.
    fn verdict_of(&self, whole: &Whole) -> Verdict {
        let marked = if whole.soft_purged { Verdict::Soft } else { Verdict::Clean };
        let latest = self.latest.load(Ordering::Acquire);
        if whole.checked.load(Ordering::Relaxed) == latest {
            return marked;
        }
        let verdict = self.verdict(&whole.head);
        if verdict == Verdict::Clean {
            whole.checked.store(latest, Ordering::Relaxed);
        }
        verdict.max(marked)
    }

    fn verdict(&self, head: &Head) -> Verdict {
        if head.born.0 >= self.latest.load(Ordering::Acquire) {
            return Verdict::Clean;
        }
        let filter = self.filter.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let subject = Subject {
            key: &head.key,
            directory: head.directory,
            tags: head.tags,
            born: head.born,
            metadata: &head.metadata,
        };
        self.purges.read().unwrap_or_else(PoisonError::into_inner).verdict(subject, filter.as_deref())
    }
}
