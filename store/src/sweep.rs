//! What purges took is cleared away, and counted, behind everybody's back.
//!
//! A purge is in force the moment it stands in the table; nobody waits for this. One pass goes through the heads of all
//! records, oldest segment first, for all purges that wait; it rests between short bouts, so that readers notice next to
//! nothing. A purge of one key needs no pass.
//!
//! When the table is crowded, a pass also settles it: each record that any purge takes is written down as dead (`dead`), and
//! then the purges are forgotten. Three things make that safe:
//!
//! ```text
//! what was let in before the pass began    is waited for: the pass finds it (`Book::let_in`)
//! what asks to come in after that          is held against every purge the pass is for, or the floor that replaces them
//! a record whose head cannot be read       for good: it cannot be returned either; because the disk failed: no settling
//! ```
//!
//! Soft purges are settled as hard ones: what they marked leaves, rather than lose its mark.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::dead;
use crate::engine::{Engine, slice_key};
use crate::footer::Entry;
use crate::index::Spot;
use crate::key::{Head, PurgeNumber};
use crate::load::Fault;
use crate::purge::{Filter, Purge, PurgeProgress, Selector, Subject, Verdict};
use crate::record::{Header, Kind, Place};
use crate::segment::Room;
use crate::tiers::Tiers;
use crate::walk::{HeadRead, Walk};

/// Purges that wait for a pass, and how far those are that had one.
#[derive(Debug)]
pub(crate) struct Sweeps {
    state: Mutex<State>,
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    /// The store is closing: passes end where they are.
    closed: bool,
    waiting: Vec<Purge>,
    progress: BTreeMap<PurgeNumber, PurgeProgress>,
}

/// One pass, between its bouts.
struct Pass {
    purges: Vec<Purge>,
    counts: Vec<PurgeProgress>,
    filter: Option<Arc<Filter>>,
    /// Every purge up to this one is settled by this pass; `None` if it only counts.
    settles: Option<PurgeNumber>,
    /// Segments still to go through: the disk, and the segment's number.
    segments: std::vec::IntoIter<(usize, u64)>,
    walk: Option<(usize, Walk)>,
    /// The dead of the segment under way.
    dead: Vec<u32>,
}

/// Records between two rests.
const BOUT: usize = 256;
/// A rest is never longer.
const LONGEST_REST: Duration = Duration::from_millis(100);

impl Sweeps {
    pub(crate) fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), limit }
    }

    /// Notes a purge that waits for a pass. True: nobody is at it, run one.
    pub(crate) fn wait(&self, purge: Purge) -> bool {
        let mut state = self.state();
        state.closed = false;
        state.note(purge.number, PurgeProgress::default(), self.limit);
        if state.waiting.len() < self.limit {
            state.waiting.push(purge);
        }
        !std::mem::replace(&mut state.running, true)
    }

    /// Notes a purge that needs no pass.
    pub(crate) fn done(&self, number: PurgeNumber, progress: PurgeProgress) {
        self.state().note(number, PurgeProgress { done: true, ..progress }, self.limit);
    }

    /// Whether the table is to be settled and nobody is at it: run a pass.
    pub(crate) fn settle(&self) -> bool {
        let mut state = self.state();
        state.closed = false;
        !std::mem::replace(&mut state.running, true)
    }

    pub(crate) fn progress(&self, number: PurgeNumber) -> Option<PurgeProgress> {
        self.state().progress.get(&number).copied()
    }

    /// Whether purged objects wait to be found.
    pub(crate) fn is_running(&self) -> bool {
        self.state().running
    }

    /// Ends passes where they are. What they had to clear away is found again when it is read, or by the next.
    pub(crate) fn close(&self) {
        self.state().closed = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, number: PurgeNumber, progress: PurgeProgress, limit: usize) {
        self.progress.insert(number, progress);
        while self.progress.len() > limit {
            self.progress.pop_first();
        }
    }
}

/// Runs passes until no purge waits, the store closes or nobody has it open any more. Blocks, mostly resting.
pub(crate) fn run(store: &Weak<Tiers>) {
    let mut broken_off = BrokenOff(Some(store));
    // What could not be settled is tried again with the next purge, not over and over.
    let mut settling = true;
    while let Some(mut pass) = store.upgrade().and_then(|tiers| Pass::begin(&tiers, settling)) {
        let was_to_settle = pass.settles.is_some();
        loop {
            let Some(tiers) = store.upgrade() else { return };
            if tiers.sweeps.state().closed {
                return;
            }
            let begun = Instant::now();
            let more = pass.bout(&tiers);
            pass.tell(&tiers, !more);
            let rest = begun.elapsed() * (100 - u32::from(tiers.config.sweep_percent).min(100));
            let rest = rest / u32::from(tiers.config.sweep_percent).max(1);
            drop(tiers);
            if !more {
                break;
            }
            std::thread::sleep(rest.min(LONGEST_REST));
        }
        settling &= !was_to_settle || pass.settles.is_some();
    }
    // Whoever found nothing to do has said so already, under the lock that the next purge takes.
    broken_off.0 = None;
}

/// Says that nobody is at it any more if a run ends half-way.
struct BrokenOff<'s>(Option<&'s Weak<Tiers>>);

impl Drop for BrokenOff<'_> {
    fn drop(&mut self) {
        if let Some(tiers) = self.0.and_then(Weak::upgrade) {
            tiers.sweeps.state().running = false;
        }
    }
}

impl Pass {
    /// The next pass, its part in RAM done; `None` if there is nothing to do.
    fn begin(tiers: &Arc<Tiers>, settling: bool) -> Option<Self> {
        let settles = tiers.book.settles_to().filter(|_| settling);
        let purges = {
            let mut state = tiers.sweeps.state();
            if state.waiting.is_empty() && settles.is_none() {
                state.running = false;
                return None;
            }
            std::mem::take(&mut state.waiting)
        };
        if settles.is_some() {
            tiers.book.let_in();
        }
        let segments: Vec<_> = tiers.disks.iter().flat_map(Engine::numbered_segments).collect();
        let counts = vec![PurgeProgress::default(); purges.len()];
        let (filter, segments) = (tiers.book.filter(), segments.into_iter());
        let mut pass = Self { purges, counts, filter, settles, segments, walk: None, dead: Vec::new() };
        pass.sweep_memory(tiers);
        Some(pass)
    }

    /// Goes on for a moment; false if the pass is over.
    fn bout(&mut self, tiers: &Tiers) -> bool {
        for _ in 0..BOUT {
            let Some((number, walk)) = &mut self.walk else { return self.next_segment(tiers) };
            let Some(engine) = tiers.disks.at(*number) else { return false };
            match walk.next() {
                Some((entry, head)) => {
                    let here = Place { segment: walk.segment.header.number, offset: entry.offset };
                    self.meet(tiers, engine, here, &entry, head);
                }
                None => self.end_segment(tiers),
            }
        }
        true
    }

    /// Begins the next segment; false if that was the last.
    fn next_segment(&mut self, tiers: &Tiers) -> bool {
        let Some((disk, number)) = self.segments.next() else {
            self.end(tiers);
            return false;
        };
        let segment = tiers.disks.at(disk).and_then(|engine| engine.segment_numbered(number));
        // One that is gone by now was reclaimed, and with it all that could be found there.
        let Some(segment) = segment else { return true };
        match Walk::new(segment) {
            Ok(Some(walk)) => self.walk = Some((disk, walk)),
            Ok(None) | Err(_) => self.settles = None,
        }
        true
    }

    /// Looks at one record, and clears it away if a purge takes it.
    fn meet(&mut self, tiers: &Tiers, engine: &Engine, here: Place, entry: &Entry, head: HeadRead) {
        if matches!(entry.kind, Kind::Slice | Kind::Tombstone) {
            return;
        }
        let (header, metadata) = match head {
            Ok(head) => head,
            Err(Fault::Io(_)) => return self.settles = None,
            Err(Fault::Corrupt(_) | Fault::Other) => return,
        };
        let length = u64::from(header.metadata_length) + header.length;
        let head = header.head(metadata);
        let verdict = tiers.book.verdict(&head);
        let there = engine.index.get(entry.hash).filter(|spot| engine.place(*spot) == here);
        if there.is_some() {
            self.count(&head, verdict, length);
        }
        let dead = verdict == Verdict::Hard || (self.settles.is_some() && verdict == Verdict::Soft);
        if !dead {
            return;
        }
        if self.settles.is_some() {
            self.dead.push(entry.offset);
        }
        if let Some(spot) = there {
            tiers.clear(engine, &header, entry.hash, spot);
        }
    }

    fn count(&mut self, head: &Head, verdict: Verdict, length: u64) {
        self.counts.iter_mut().for_each(|count| count.examined += 1);
        if verdict == Verdict::Clean {
            return;
        }
        let filter = self.filter.as_deref();
        let taken = self.purges.iter().zip(&mut self.counts).find(|(it, _)| it.matches(Subject::of(head), filter));
        if let Some((_, count)) = taken {
            count.removed += 1;
            count.bytes += length;
        }
    }

    /// Writes down the dead of the segment that was gone through.
    fn end_segment(&mut self, tiers: &Tiers) {
        let dead = std::mem::take(&mut self.dead);
        let Some((disk, walk)) = self.walk.take() else { return };
        if self.settles.is_none() || dead.is_empty() {
            return;
        }
        let written = tiers.disks.at(disk).is_some_and(|engine| engine.bury_records(&walk, dead));
        if !written {
            self.settles = None;
        }
    }

    /// The purges that all dead are written down for are forgotten.
    fn end(&mut self, tiers: &Tiers) {
        let Some(number) = self.settles else { return };
        let lasting = tiers.disks.iter().all(|engine| engine.disk.sync_names().is_ok());
        if !lasting {
            return self.settles = None;
        }
        let dead = tiers.disks.iter().map(Engine::segments_with_dead).collect();
        if let Err(error) = tiers.book.settle(number, dead) {
            self.settles = None;
            tracing::warn!(%error, "the settled purges could not be written down");
        }
    }

    /// Objects in RAM: those that are on disk too are counted there.
    fn sweep_memory(&mut self, tiers: &Tiers) {
        for objects in (0..).map_while(|part| tiers.memory.part(part)) {
            for whole in objects {
                let (head, verdict) = (&whole.head, tiers.book.verdict(&whole.head));
                let on_disk = tiers.disks.of(&head.key).is_some_and(|it| it.index.get(it.hash(&head.key)).is_some());
                if !on_disk {
                    self.count(head, verdict, head.metadata.len() as u64 + whole.len());
                }
                let marked = whole.soft_purged || verdict == Verdict::Soft;
                if verdict == Verdict::Hard || (self.settles.is_some() && marked) {
                    tiers.memory.remove_if(&head.key, || tiers.still(&head.key, &whole));
                }
            }
        }
    }

    /// Tells how far the purges of this pass are.
    fn tell(&self, tiers: &Tiers, done: bool) {
        let mut state = tiers.sweeps.state();
        for (purge, count) in self.purges.iter().zip(&self.counts) {
            if let Some(progress) = state.progress.get_mut(&purge.number) {
                *progress = PurgeProgress { done, ..*count };
            }
        }
    }
}

impl Tiers {
    /// Has a new purge swept: one of a key at once, any other by a pass. Blocks. True: run one.
    pub(crate) fn sweep(&self, purge: Purge) -> bool {
        let Selector::Key(key) = &purge.selector else { return self.sweeps.wait(purge) };
        let mut progress = PurgeProgress::default();
        let in_memory = self.memory.peek_object(key);
        let filter = self.book.filter();
        let mut meet = |head: &Head, length: u64| {
            progress.examined = 1;
            if purge.matches(Subject::of(head), filter.as_deref()) {
                (progress.removed, progress.bytes) = (1, length);
            }
        };
        if let Some(whole) = &in_memory {
            meet(&whole.head, whole.head.metadata.len() as u64 + whole.len());
        }
        if let Some(engine) = self.disks.of(key)
            && let Ok(Some(loaded)) = engine.load(key)
        {
            meet(&loaded.head, loaded.head.metadata.len() as u64 + loaded.header.length);
            if self.book.verdict(&loaded.head) == Verdict::Hard {
                self.clear(engine, &loaded.header, engine.hash(key), loaded.spot);
            }
        }
        if let Some(whole) = in_memory.filter(|whole| self.book.verdict(&whole.head) == Verdict::Hard) {
            self.memory.remove_if(key, || self.still(key, &whole));
        }
        self.sweeps.done(purge.number, progress);
        self.book.is_crowded() && self.sweeps.settle()
    }

    /// Takes a purged object out of the index and out of RAM, its slices with it.
    fn clear(&self, engine: &Engine, header: &Header, hash: u64, spot: Spot) {
        if !engine.index.remove(hash, spot) {
            return;
        }
        engine.counts.purged.fetch_add(1, Ordering::Relaxed);
        if header.kind != Kind::Run {
            return;
        }
        for number in 0..header.length.div_ceil(u64::from(header.slice).max(1)) {
            let key = slice_key(&header.key, header.generation, number);
            let hash = engine.hash(&key);
            engine.index.get(hash).map(|spot| engine.index.remove(hash, spot));
            self.memory.remove(&key);
        }
    }
}

impl Engine {
    /// The segments there are, oldest first, each with this disk's number.
    fn numbered_segments(&self) -> Vec<(usize, u64)> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.keys().map(|segment| (self.number, *segment)).collect()
    }

    fn segments_with_dead(&self) -> BTreeSet<u64> {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Writes down which records of a segment are dead, those known before included; whether that is done.
    fn bury_records(&self, walk: &Walk, mut offsets: Vec<u32>) -> bool {
        let header = &walk.segment.header;
        let mut write = || {
            offsets.extend(dead::read(&*self.disk, header)?.unwrap_or_default());
            offsets.sort_unstable();
            offsets.dedup();
            dead::write(&*self.disk, header, &offsets)
        };
        match write() {
            Ok(bytes) => {
                let room = Room::take(&self.ledger, bytes);
                self.dead.lock().unwrap_or_else(PoisonError::into_inner).insert(header.number, room);
                true
            }
            Err(error) => {
                self.note_error("settle", &error);
                false
            }
        }
    }
}
