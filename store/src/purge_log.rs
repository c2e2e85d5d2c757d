//! The purges in force, and their log on every disk: an acknowledged purge outlives any stop.
//!
//! A purge is acknowledged once one log has it. A log that could not be written is written anew, whole, with the next
//! purge; so the log that reaches furthest is complete, and the only one that counts when the store is opened. If that does
//! not reach what the segments know of, purges may be lost, and then the store begins empty rather than return what was
//! purged. A log of mostly forgotten purges is written anew beside the old and renamed over it.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, TryLockError};

use crate::disk::{Disk, DiskFile};
use crate::key::{Head, PurgeNumber};
use crate::purge::{Filter, Purge, PurgeKind, Purges, Selector, Subject, Verdict};
use crate::purge_frame::{Contents, NAME, contents, frame};
use crate::segment::Room;

/// The purges in force, their numbers and their logs.
pub(crate) struct Book {
    table: RwLock<Purges>,
    /// The newest purge in force, so that a hit need not ask the table.
    newest: AtomicU64,
    /// The newest purge that is written down: what objects are born at, so that no object knows a purge that a crash
    /// forgets.
    latest: AtomicU64,
    filter: RwLock<Option<Arc<Filter>>>,
    /// Held while the logs are written, by purges alone. One a disk, in the disks' order.
    logs: Mutex<Vec<Log>>,
    /// Held, shared, from asking whether an object may come in until the index has it.
    gate: RwLock<()>,
}

/// A log that was found when the store is opened.
pub(crate) struct Source {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) ledger: Arc<AtomicU64>,
    pub(crate) contents: Contents,
    /// The newest purge that this disk's segments know of: a log that does not reach it lost some.
    pub(crate) witnessed: u64,
}

struct Log {
    disk: Arc<dyn Disk>,
    ledger: Arc<AtomicU64>,
    file: Option<Arc<dyn DiskFile>>,
    end: u64,
    frames: usize,
    /// Segments that have a file of their dead.
    dead: BTreeSet<u64>,
    _room: Room,
}

/// Bytes a purge's filter may have.
pub(crate) const FILTER_LIMIT: usize = 1 << 10;
const NEW_NAME: &str = "purges.new";
/// A log of fewer frames is never written anew.
const REWRITE_FLOOR: usize = 64;

impl Book {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            table: RwLock::new(Purges::new(limit)),
            newest: AtomicU64::new(0),
            latest: AtomicU64::new(0),
            filter: RwLock::new(None),
            logs: Mutex::default(),
            gate: RwLock::new(()),
        }
    }

    /// Goes on with the logs that were found. False: purges may be lost, nothing stored may be returned; the logs begin
    /// anew.
    ///
    /// # Errors
    /// No log could be written.
    pub(crate) fn open(&self, sources: Vec<Source>) -> io::Result<bool> {
        let reached = |source: &Source| (!source.contents.damaged).then_some(source.contents.latest.0);
        let furthest = sources.iter().filter_map(reached).max();
        let witnessed = sources.iter().map(|source| source.witnessed).max().unwrap_or_default();
        let sound = furthest.is_some_and(|furthest| furthest >= witnessed);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(best) = sources.iter().find(|source| sound && reached(source) == furthest) {
            best.contents.purges.iter().for_each(|purge| table.add(purge.clone()));
            table.raise_floor(best.contents.floor);
        }
        let known = sources.iter().map(|source| source.contents.latest.0).max().unwrap_or_default();
        table.raise_latest(PurgeNumber(known.max(witnessed)));
        self.newest.store(table.latest().0, Ordering::Release);
        self.latest.store(table.latest().0, Ordering::Release);
        let (mut logs, mut failed) = (Vec::new(), None);
        for source in sources {
            let goes_on = sound && reached(&source) == furthest && source.contents.length > 0;
            match Log::open(source, &table, sound, goes_on) {
                (log, Ok(())) => logs.push(log),
                (log, Err(error)) => {
                    failed = Some(error);
                    logs.push(log);
                }
            }
        }
        let written = logs.iter().any(|log| log.file.is_some());
        *self.logs() = logs;
        match failed {
            Some(error) if !written => Err(error),
            Some(_) | None => Ok(sound),
        }
    }

    /// Puts a purge in force for every later read, then writes it down. An error means that it may not outlive a
    /// restart; it is in force all the same.
    pub(crate) fn purge(&self, selector: Selector, kind: PurgeKind) -> (Purge, io::Result<()>) {
        let mut logs = self.logs();
        let purge = {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            let purge = table.next(selector, kind);
            table.add(purge.clone());
            self.newest.store(purge.number.0, Ordering::Release);
            purge
        };
        let written = each(&mut logs, |log| log.write(&purge, &self.table));
        // Also if it could not be written down: what is born from now on is not meant.
        self.latest.store(purge.number.0, Ordering::Release);
        (purge, written)
    }

    /// Writes those logs anew that the last purge could not be written to.
    pub(crate) fn flush(&self) -> io::Result<()> {
        each(&mut self.logs(), |log| if log.file.is_some() { Ok(()) } else { log.rewrite(&self.table) })
    }

    /// Forgets the purges up to `number`, of which nothing stored is left: each disk's segments with dead, in the disks'
    /// order, stand in files that last.
    pub(crate) fn settle(&self, number: PurgeNumber, dead: Vec<BTreeSet<u64>>) -> io::Result<()> {
        let mut logs = self.logs();
        self.table.write().unwrap_or_else(PoisonError::into_inner).settle(number);
        logs.iter_mut().zip(dead).for_each(|(log, dead)| log.dead = dead);
        each(&mut logs, |log| log.rewrite(&self.table))
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

    /// Whether so many purges are kept that settling them is due.
    pub(crate) fn is_crowded(&self) -> bool {
        self.table.read().unwrap_or_else(PoisonError::into_inner).is_crowded()
    }

    /// The purge to settle up to, if that is due.
    pub(crate) fn settles_to(&self) -> Option<PurgeNumber> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.is_crowded().then(|| table.settles_to()).flatten()
    }

    pub(crate) fn set_filter(&self, filter: Arc<Filter>) {
        *self.filter.write().unwrap_or_else(PoisonError::into_inner) = Some(filter);
    }

    pub(crate) fn filter(&self) -> Option<Arc<Filter>> {
        self.filter.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the purges say of the object under `head`, which is stored.
    pub(crate) fn verdict(&self, head: &Head) -> Verdict {
        if head.born >= self.newest() {
            return Verdict::Clean;
        }
        let filter = self.filter();
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.verdict(Subject::of(head), filter.as_deref())
    }

    /// The right to come in, to be held from before asking [`Book::admit`] until the index has what comes in.
    pub(crate) fn entry(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same where nobody is waited for.
    pub(crate) fn try_entry(&self) -> Option<RwLockReadGuard<'_, ()>> {
        match self.gate.try_read() {
            Ok(entry) => Some(entry),
            Err(TryLockError::Poisoned(entry)) => Some(entry.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// What the purges say of the object under `head`, which comes in while `_entry` is held.
    pub(crate) fn admit(&self, head: &Head, _entry: &RwLockReadGuard<'_, ()>) -> Verdict {
        if head.born >= self.newest() {
            return Verdict::Clean;
        }
        let filter = self.filter();
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.verdict_on_entry(Subject::of(head), filter.as_deref())
    }

    /// Returns once everything that asked to come in before now is in, or was refused.
    pub(crate) fn let_in(&self) {
        drop(self.gate.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn logs(&self) -> MutexGuard<'_, Vec<Log>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Goes on with a log as it is, or begins it anew.
    fn open(source: Source, table: &Purges, sound: bool, goes_on: bool) -> (Self, io::Result<()>) {
        let Source { disk, ledger, contents, .. } = source;
        let room = Room::take(&ledger, contents.end);
        let dead = if sound { contents.dead } else { BTreeSet::new() };
        let mut log = Self { disk, ledger, file: None, end: contents.end, frames: contents.frames, dead, _room: room };
        let opened = if goes_on && contents.end == contents.length {
            log.disk.open(NAME).map(|file| log.file = Some(file))
        } else {
            log.replace(&self::contents(table, &log.dead))
        };
        (log, opened)
    }

    fn write(&mut self, purge: &Purge, table: &RwLock<Purges>) -> io::Result<()> {
        let kept = table.read().unwrap_or_else(PoisonError::into_inner).len() + self.dead.len();
        let Some(file) = self.file.clone().filter(|_| self.frames < 2 * kept + REWRITE_FLOOR) else {
            return self.rewrite(table);
        };
        let frames = frame(self.frames, purge);
        let written = file.write_at(&frames, self.end).and_then(|()| file.sync());
        if let Err(error) = written {
            // What is in the file now is unknown: the next purge writes it anew.
            self.file = None;
            return Err(error);
        }
        self.frames += 1;
        self.end += frames.len() as u64;
        self._room = Room::take(&self.ledger, self.end);
        Ok(())
    }

    fn rewrite(&mut self, table: &RwLock<Purges>) -> io::Result<()> {
        let bytes = contents(&table.read().unwrap_or_else(PoisonError::into_inner), &self.dead);
        self.replace(&bytes)
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

/// Does something with every log; an error only if it failed with all of them.
fn each(logs: &mut [Log], mut work: impl FnMut(&mut Log) -> io::Result<()>) -> io::Result<()> {
    let (mut last, mut done) = (None, logs.is_empty());
    for log in logs {
        match work(log) {
            Ok(()) => done = true,
            Err(error) => {
                tracing::warn!(%error, "a purge log could not be written; the next purge writes it anew");
                last = Some(error);
            }
        }
    }
    match last {
        Some(error) if !done => Err(error),
        Some(_) | None => Ok(()),
    }
}
