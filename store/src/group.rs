//! Small objects on their way to one disk. What comes while others are written is written with the next, so that many of
//! them cost the disk few calls, and threads few hand-overs: one thread a disk writes as long as anything waits.
//!
//! Nobody is answered before what was handed in is written. Those who wait hold their share of the fills' budget, which
//! bounds the queue; and past `write_queue` an object that can do without the disk is held in RAM alone, so that a disk which does not
//! keep up costs neither room for what is coming in nor the time of those who bring it. It waits like any other where RAM cannot take it,
//! or where the disk has an older one under its key: only a record keeps that one from being back after a restart.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::oneshot;

use crate::append::Draft;
use crate::budget::Charge;
use crate::disk;
use crate::error::StoreError;
use crate::index::Spot;
use crate::key::{Head, Key};
use crate::memory::Value;
use crate::object::{Object, Pieces, Whole};
use crate::purge::Verdict;
use crate::record::{Header, Kind, to_millisecond};
use crate::tiers::Tiers;
use crate::writer::Keep;

/// Those that wait for one disk.
#[derive(Default)]
pub(crate) struct Group(Mutex<State>);

#[derive(Default)]
struct State {
    puts: VecDeque<(Put, Answer)>,
    /// What these weigh.
    weight: u64,
    /// The keys of these and of what is being written, and how many objects of each.
    keys: HashMap<Key, usize>,
    writing: bool,
}

/// An object that is to be stored.
pub(crate) struct Put {
    pub(crate) head: Head,
    pub(crate) pieces: Arc<Pieces>,
    /// The CRC-32 of each piece.
    pub(crate) sums: Vec<u32>,
    /// What it holds of the budget of fills until it is written.
    pub(crate) _charge: Charge,
    /// Whether RAM keeps it beside the disk.
    pub(crate) keep: Keep,
    /// Whether it can do without the disk if too much waits.
    pub(crate) may_be_held: bool,
}

/// Where one waits for an object to be stored.
type Answer = oneshot::Sender<Result<Object, StoreError>>;

/// What became of who came to wait.
enum Joined {
    /// Nobody is writing.
    Writes,
    Waits,
}

/// The right to write for those that wait.
struct Turn {
    group: Arc<Group>,
    /// Weak, so that a thread that is about to end keeps no store open.
    tiers: Weak<Tiers>,
    disk: usize,
    over: bool,
}

/// Bytes of bodies that are written together.
const TOGETHER: u64 = 1 << 20;
/// Bytes that an object which waits counts for at least: so much whoever waits for it may hold beside.
const LEAST: u64 = 16 << 10;

impl Group {
    /// Stores an object once it is its turn. Runs on if nobody waits for it any more.
    pub(crate) async fn put(self: &Arc<Self>, tiers: &Arc<Tiers>, disk: usize, put: Put) -> Result<Object, StoreError> {
        let over = put.may_be_held && self.is_over(&put, tiers.config.write_queue.0);
        if over && let Some(object) = tiers.hold(disk, &put) {
            return Ok(object);
        }
        let (answer, answered) = oneshot::channel();
        match self.join(put, answer) {
            Joined::Waits => {}
            Joined::Writes => {
                let turn = Turn { group: Arc::clone(self), tiers: Arc::downgrade(tiers), disk, over: false };
                // Not waited for: whoever writes answers.
                drop(tokio::task::spawn_blocking(move || turn.run()));
            }
        }
        answered.await.map_err(|error| StoreError::Disk(io::Error::other(error)))?
    }

    /// Whether more would wait with it than may.
    fn is_over(&self, put: &Put, most: u64) -> bool {
        let state = self.state();
        // What waits under its key would be stored after it, in its place.
        state.weight + put.weight() > most && !state.keys.contains_key(&put.head.key)
    }

    fn join(&self, put: Put, answer: Answer) -> Joined {
        let mut state = self.state();
        state.weight += put.weight();
        *state.keys.entry(put.head.key).or_default() += 1;
        state.puts.push_back((put, answer));
        if std::mem::replace(&mut state.writing, true) { Joined::Waits } else { Joined::Writes }
    }

    /// These are written.
    fn forget(&self, puts: &[Put]) {
        let mut state = self.state();
        for Put { head, .. } in puts {
            if let Some(count) = state.keys.get_mut(&head.key) {
                *count -= 1;
                if *count == 0 {
                    state.keys.remove(&head.key);
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    fn run(mut self) {
        // Whoever is at work on this core goes on first, where cores are few: what it hands in meanwhile is written with this. On a core
        // of its own this thread goes on at once.
        std::thread::yield_now();
        while let Some((puts, answers)) = self.next() {
            let Some(tiers) = self.tiers.upgrade() else { return };
            let results = tiers.put_together(self.disk, &puts);
            self.group.forget(&puts);
            drop(puts);
            drop(tiers);
            answers.into_iter().zip(results).for_each(|(answer, result)| drop(answer.send(result)));
        }
    }

    /// Those that are written next; at the end, the turn is over.
    fn next(&mut self) -> Option<(Vec<Put>, Vec<Answer>)> {
        let mut state = self.group.state();
        let (mut next, mut bytes) = ((Vec::new(), Vec::new()), 0);
        while bytes < TOGETHER
            && let Some((put, answer)) = state.puts.pop_front()
        {
            bytes += put.pieces.len();
            state.weight -= put.weight();
            next.0.push(put);
            next.1.push(answer);
        }
        state.writing = !next.0.is_empty();
        self.over = next.0.is_empty();
        (!self.over).then_some(next)
    }
}

impl Put {
    fn weight(&self) -> u64 {
        LEAST.max(self.pieces.len() + self.head.metadata.len() as u64)
    }
}

impl Tiers {
    /// Takes an object in that is held in RAM alone for now. Never blocks; `None`: it is to wait for the disk.
    fn hold(&self, number: usize, put: &Put) -> Option<Object> {
        let engine = self.disks.at(number).filter(|_| put.pieces.len() < self.memory_limit())?;
        // A purge that is being entered waits for the disk.
        let entry = self.book.try_entry()?;
        let (key, head) = (put.head.key, put.head.clone());
        let verdict = self.book.admit(&head, &entry);
        if verdict == Verdict::Hard {
            return None;
        }
        let owed = self.admission.admits(&key);
        let whole = self.memory.house(Whole::held(head, to_millisecond(disk::now()), Arc::clone(&put.pieces), owed));
        let object = Object::in_memory(Arc::clone(&whole), verdict == Verdict::Soft);
        let none_older = || engine.index.get(engine.hash(&key)).is_none();
        if !self.memory.insert_if(key, Value::Object(whole), none_older) {
            return None;
        }
        metrics::counter!("atoll_store_held_total").increment(1);
        Some(object)
    }

    /// Takes objects in whose home is this disk; what became of each. Blocks.
    fn put_together(self: &Arc<Self>, disk: usize, puts: &[Put]) -> Vec<Result<Object, StoreError>> {
        let stored = to_millisecond(disk::now());
        let entry = self.book.entry();
        // What is in RAM is replaced there: it was asked for again.
        let keep = |put: &Put| if self.memory.peek(&put.head.key).is_some() { Keep::InRam } else { put.keep };
        let comer = |put: &Put| {
            let whole = Whole::new(put.head.clone(), stored, false, Arc::clone(&put.pieces));
            let (keep, verdict) = (keep(put), self.book.admit(&put.head, &entry));
            (if keep == Keep::InRam { self.memory.house(whole) } else { Arc::new(whole) }, verdict, keep)
        };
        let comers: Vec<_> = puts.iter().map(comer).collect();
        let on_disk = self.write_together(disk, puts, &comers);
        let take_in = |((whole, verdict, keep), on_disk)| self.take_in(whole, verdict, on_disk, keep);
        let became = comers.into_iter().zip(on_disk).map(take_in).collect();
        drop(entry);
        self.tidy();
        became
    }

    /// Writes those of them that are to be on disk; the place of each, or why it has none.
    fn write_together(
        &self,
        disk: usize,
        puts: &[Put],
        comers: &[(Arc<Whole>, Verdict, Keep)],
    ) -> Vec<Option<io::Result<Spot>>> {
        let Some(engine) = self.disks.at(disk) else { return Vec::new() };
        let (mut drafts, mut goes) = (Vec::new(), Vec::new());
        for ((whole, verdict, _), put) in comers.iter().zip(puts) {
            let wanted = *verdict != Verdict::Hard && self.goes_to_disk(engine, &whole.key);
            // A longer one was to be a run, but the disk failed before its first slice.
            let fits = whole.len() <= self.config.slice_bytes();
            goes.push(wanted.then_some(fits));
            if wanted && fits {
                let header = Header::new(Kind::Whole, &whole.head, whole.len(), whole.stored, engine.generation());
                let (metadata, pieces) = (&whole.head.metadata, whole.pieces.list());
                drafts.push(Draft { header, metadata, pieces, sums: put.sums.as_slice().into() });
            }
        }
        let mut written = engine.put_all(drafts).into_iter();
        let place = |((whole, ..), goes): (&(Arc<Whole>, Verdict, Keep), Option<bool>)| {
            let spot = if goes? { written.next()? } else { Err(io::ErrorKind::FileTooLarge.into()) };
            if spot.is_err() {
                self.disks.note_bad();
                self.forget_older(engine, &whole.key);
            }
            Some(spot)
        };
        comers.iter().zip(goes).map(place).collect()
    }
}

impl Drop for Turn {
    /// If the runtime ended before it began, or the work failed, those that wait are told, and the next begins anew.
    fn drop(&mut self) {
        if !self.over {
            let mut state = self.group.state();
            state.writing = false;
            (state.weight, state.keys) = (0, HashMap::new());
            let left = std::mem::take(&mut state.puts);
            drop(state);
            drop(left);
        }
    }
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
