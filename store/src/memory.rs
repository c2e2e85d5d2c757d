//! The RAM tier: small objects whole, and slices of large ones, as `Bytes` that are served without a copy.
//!
//! S3-FIFO (Yang et al., SOSP 2023): what is new enters a small queue; what is asked for again moves to the main one,
//! the rest leaves and is remembered by a hash alone, and returns straight to the main queue. A hit only bumps a counter,
//! under a read lock of one shard; queues move on insertion. One departure: the small queue has a floor of
//! [`SMALL_FLOOR`] entries, because on small caches a tenth is a handful and misses rise above FIFO's. `Eviction::Fifo`
//! is the same with everything in the main queue and no second chance.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::config::Eviction;
use crate::key::Key;
use crate::mix::Mix;
use crate::object::{Pieces, Whole};
use crate::rooms::Rooms;
use crate::table::Table;

/// What the RAM tier holds under a key.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// A whole object under its own key.
    Object(Arc<Whole>),
    /// One slice of a large body, under the slice's key.
    Slice(Arc<Pieces>),
}

/// A part of the map, on a cache line of its own: two threads in two parts do not meet.
#[derive(Debug)]
#[repr(align(64))]
struct Shard(RwLock<Table>);

/// The RAM tier.
#[derive(Debug)]
pub(crate) struct Memory {
    shards: Box<[Shard]>,
    queues: Mutex<Queues>,
    rooms: Rooms,
    hasher: Mix,
    eviction: Eviction,
    capacity: u64,
    small_percent: u64,
}

#[derive(Debug, Default)]
struct Queues {
    small: Queue,
    main: Queue,
    ghosts: Ghosts,
    reserved: u64,
    next_id: u64,
    objects: u64,
    evicted: u64,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<(Key, u64)>,
    weight: u64,
    live: usize,
}

/// Hashes of what left the small queue, oldest first.
#[derive(Debug, Default)]
struct Ghosts {
    order: VecDeque<u64>,
    set: HashSet<u64>,
}

/// What the RAM tier holds, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holdings {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) evicted: u64,
}

const SHARDS: usize = 256;
/// The small queue keeps at least this many entries before it gives any up, room permitting.
const SMALL_FLOOR: usize = 64;
/// Bytes that an entry costs beside its body and metadata: the object, its pieces, the map's and the queue's slots, and what
/// the allocator adds. [measured: 468, of 100,000 objects of 16 B to 4 KiB]
pub(crate) const OVERHEAD: u64 = 480;

impl Memory {
    pub(crate) fn new(capacity: u64, eviction: Eviction, small_percent: u8) -> Self {
        let hasher = Mix::new();
        Self {
            shards: (0..SHARDS).map(|_| Shard(RwLock::default())).collect(),
            queues: Mutex::default(),
            rooms: Rooms::default(),
            hasher,
            eviction,
            capacity,
            small_percent: u64::from(small_percent),
        }
    }

    /// What is held under `key`; counts as asked for. True: the first time since it came in or was last passed over.
    pub(crate) fn get(&self, key: &Key) -> Option<(Value, bool)> {
        let (shard, hash) = self.read(key);
        let whole = shard.get(hash, key)?;
        let first = whole.ask();
        Some((Value::of(whole), first))
    }

    /// An object as this tier holds it, where hits find it soonest; not taken in yet.
    pub(crate) fn house(&self, whole: Whole) -> Arc<Whole> {
        self.rooms.enter(whole)
    }

    /// What is held under `key`; does not count as asked for.
    pub(crate) fn peek(&self, key: &Key) -> Option<Value> {
        let (shard, hash) = self.read(key);
        shard.get(hash, key).map(Value::of)
    }

    /// The object that is held under `key`; does not count as asked for.
    pub(crate) fn peek_object(&self, key: &Key) -> Option<Arc<Whole>> {
        match self.peek(key)? {
            Value::Object(whole) => Some(whole),
            Value::Slice(_) => None,
        }
    }

    /// Whether something is held under `key`; does not count as asked for.
    pub(crate) fn contains(&self, key: &Key) -> bool {
        let (shard, hash) = self.read(key);
        shard.get(hash, key).is_some()
    }

    /// Takes `value` in, in place of what was under `key`, if `still()` holds while nothing else can be taken in or
    /// removed. Others leave to make room. False if it was not taken in.
    pub(crate) fn insert_if(&self, key: Key, value: Value, still: impl FnOnce() -> bool) -> bool {
        let whole = match value {
            Value::Object(whole) => whole,
            Value::Slice(pieces) => self.house(Whole::slice(key, pieces)),
        };
        let weight = whole.weight() + OVERHEAD;
        let mut queues = self.queues();
        if !still() {
            return false;
        }
        self.take(&mut queues, &key);
        if weight.saturating_add(queues.reserved) > self.capacity {
            return false;
        }
        let id = queues.next_id;
        queues.next_id += 1;
        let known = queues.ghosts.set.contains(&self.hasher.hash(&key));
        let straight = known || self.eviction == Eviction::Fifo;
        queues.objects += u64::from(!whole.is_slice());
        whole.entry.store(id, Ordering::Relaxed);
        whole.stands(straight, 0);
        self.write(&key).insert(whole, |key| self.hash(key));
        if straight { &mut queues.main } else { &mut queues.small }.push(key, id, weight);
        self.make_room(&mut queues);
        true
    }

    /// Takes `value` in, in place of what was under `key`.
    pub(crate) fn insert(&self, key: Key, value: Value) -> bool {
        self.insert_if(key, value, || true)
    }

    /// Gives up what is held under `key` if `still()` holds while nothing else can be taken in or removed.
    pub(crate) fn remove_if(&self, key: &Key, still: impl FnOnce() -> bool) -> bool {
        let mut queues = self.queues();
        still() && self.take(&mut queues, key)
    }

    /// Gives up what is held under `key`.
    pub(crate) fn remove(&self, key: &Key) -> bool {
        self.take(&mut self.queues(), key)
    }

    /// Keeps `bytes` of the capacity free for fills under way; others leave to make room.
    pub(crate) fn reserve(&self, bytes: u64) {
        let mut queues = self.queues();
        queues.reserved = bytes;
        self.make_room(&mut queues);
    }

    /// The objects of one part of the tier; `None` past the last part.
    pub(crate) fn part(&self, number: usize) -> Option<Vec<Arc<Whole>>> {
        let shard = self.shards.get(number)?.0.read().unwrap_or_else(PoisonError::into_inner);
        let objects = shard.all().filter(|whole| !whole.is_slice()).map(Arc::clone);
        Some(objects.collect())
    }

    pub(crate) fn holdings(&self) -> Holdings {
        let queues = self.queues();
        Holdings { objects: queues.objects, bytes: queues.small.weight + queues.main.weight, evicted: queues.evicted }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of the map that has the key, and the bits of its hash that the part goes by.
    fn shard(&self, key: &Key) -> (&RwLock<Table>, u32) {
        let [high, low] = self.hasher.halves(key);
        (&self.shards[usize::try_from(high).unwrap_or_default() % SHARDS].0, low)
    }

    fn hash(&self, key: &Key) -> u32 {
        self.shard(key).1
    }

    fn read(&self, key: &Key) -> (RwLockReadGuard<'_, Table>, u32) {
        let (shard, hash) = self.shard(key);
        (shard.read().unwrap_or_else(PoisonError::into_inner), hash)
    }

    fn write(&self, key: &Key) -> RwLockWriteGuard<'_, Table> {
        self.shard(key).0.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn out(&self, key: &Key) -> Option<Arc<Whole>> {
        self.write(key).remove(key, |key| self.hash(key))
    }

    fn take(&self, queues: &mut Queues, key: &Key) -> bool {
        let Some(whole) = self.out(key) else { return false };
        queues.objects -= u64::from(!whole.is_slice());
        let queue = if whole.in_main() { &mut queues.main } else { &mut queues.small };
        queue.weight -= whole.weight() + OVERHEAD;
        queue.live -= 1;
        if queue.entries.len() > 2 * queue.live + SMALL_FLOOR {
            queue.entries.retain(|(key, id)| self.look(key, *id).is_some());
        }
        self.rooms.leave(whole);
        true
    }

    fn make_room(&self, queues: &mut Queues) {
        while queues.small.weight + queues.main.weight + queues.reserved > self.capacity {
            let small_share = self.capacity.saturating_mul(self.small_percent) / 100;
            let over_share = queues.small.weight > small_share && queues.small.live > SMALL_FLOOR;
            let moved =
                if over_share || queues.main.live == 0 { self.step_small(queues) } else { self.step_main(queues) };
            if !moved && queues.small.live == 0 && queues.main.live == 0 {
                return;
            }
        }
    }

    /// Moves the oldest of the small queue on: to the main one if asked for more than once since, else out.
    fn step_small(&self, queues: &mut Queues) -> bool {
        let Some((key, id)) = queues.small.entries.pop_front() else { return false };
        let Some((weight, asked)) = self.look(&key, id) else { return true };
        queues.small.weight -= weight;
        queues.small.live -= 1;
        if asked > 1 {
            self.note(&key, 0);
            queues.main.push(key, id, weight);
        } else {
            self.evict(queues, &key);
            let most = queues.main.live.max(SMALL_FLOOR);
            queues.ghosts.push(self.hasher.hash(&key), most);
        }
        true
    }

    /// Moves the oldest of the main queue on: back to its end if asked for since, else out.
    fn step_main(&self, queues: &mut Queues) -> bool {
        let Some((key, id)) = queues.main.entries.pop_front() else { return false };
        let Some((weight, asked)) = self.look(&key, id) else { return true };
        if asked > 0 && self.eviction == Eviction::S3Fifo {
            self.note(&key, asked - 1);
            queues.main.entries.push_back((key, id));
        } else {
            queues.main.weight -= weight;
            queues.main.live -= 1;
            self.evict(queues, &key);
        }
        true
    }

    /// What an entry weighs and how often it was asked for; `None` if it is there no more.
    fn look(&self, key: &Key, id: u64) -> Option<(u64, u8)> {
        let (shard, hash) = self.read(key);
        let whole = shard.get(hash, key).filter(|whole| whole.entry.load(Ordering::Relaxed) == id)?;
        Some((whole.weight() + OVERHEAD, whole.asked()))
    }

    /// Notes that `key` stands in the main queue, asked for this often.
    fn note(&self, key: &Key, asked: u8) {
        let (shard, hash) = self.read(key);
        if let Some(whole) = shard.get(hash, key) {
            whole.stands(true, asked);
        }
    }

    fn evict(&self, queues: &mut Queues, key: &Key) {
        queues.evicted += 1;
        if let Some(whole) = self.out(key) {
            queues.objects -= u64::from(!whole.is_slice());
            self.rooms.leave(whole);
        }
    }
}

impl Value {
    fn of(whole: &Arc<Whole>) -> Self {
        if whole.is_slice() { Self::Slice(Arc::clone(&whole.pieces)) } else { Self::Object(Arc::clone(whole)) }
    }
}

impl Queue {
    fn push(&mut self, key: Key, id: u64, weight: u64) {
        self.entries.push_back((key, id));
        self.weight += weight;
        self.live += 1;
    }
}

impl Ghosts {
    fn push(&mut self, hash: u64, most: usize) {
        if self.set.insert(hash) {
            self.order.push_back(hash);
        }
        while self.order.len() > most {
            if let Some(oldest) = self.order.pop_front() {
                self.set.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const WEIGHT: u64 = 1000;

    fn key(n: u64) -> Key {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        Key::from_bytes(bytes)
    }

    fn value() -> Value {
        let length = usize::try_from(WEIGHT - OVERHEAD).unwrap();
        Value::Slice(Arc::new(Pieces::new(vec![Bytes::from(vec![0; length])])))
    }

    fn memory(entries: u64, eviction: Eviction) -> Memory {
        Memory::new(entries * WEIGHT, eviction, 10)
    }

    /// Asks for each in turn, taking in what is missing; the share of misses.
    fn misses(memory: &Memory, asked: impl Iterator<Item = u64>) -> f64 {
        let (mut missed, mut all) = (0, 0);
        for n in asked {
            all += 1;
            if memory.get(&key(n)).is_none() {
                missed += 1;
                memory.insert(key(n), value());
            }
        }
        f64::from(missed) / f64::from(all)
    }

    /// Popularity falls with rank to the power of `alpha`; the same numbers each time.
    fn zipf(objects: u32, alpha: f64, count: usize) -> impl Iterator<Item = u64> {
        let mut sums = Vec::new();
        let mut sum = 0.0;
        for rank in 1..=objects {
            sum += f64::from(rank).powf(-alpha);
            sums.push(sum);
        }
        let mut chance: u64 = 7;
        (0..count).map(move |_| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = f64::from(u32::try_from(chance >> 32).unwrap()) / f64::from(u32::MAX) * sum;
            sums.partition_point(|below| *below < at) as u64
        })
    }

    /// The share that a strict LRU of so many entries misses.
    fn lru_misses(entries: usize, asked: impl Iterator<Item = u64>) -> f64 {
        let (mut last, mut order) = (HashMap::new(), std::collections::BTreeMap::new());
        let (mut missed, mut all) = (0, 0);
        for n in asked {
            all += 1;
            match last.insert(n, all) {
                Some(before) => drop(order.remove(&before)),
                None => missed += 1,
            }
            order.insert(all, n);
            if order.len() > entries {
                let (_, oldest) = order.pop_first().unwrap();
                last.remove(&oldest);
            }
        }
        f64::from(missed) / f64::from(all)
    }

    /// Zipf 0.9; the same with every other request part of a scan; and one where most objects come once.
    fn stream(kind: u8) -> Box<dyn Iterator<Item = u64>> {
        let often = zipf(7000, 0.9, 40_000);
        let once = (0..40_000).map(|n| 1_000_000 + n);
        match kind {
            0 => Box::new(often),
            1 => Box::new(often.zip(once).flat_map(|(often, once)| [often, once])),
            _ => Box::new(zipf(2000, 0.9, 40_000).zip(once).enumerate().flat_map(|(at, (often, once))| {
                let once = Some(once).filter(|_| at % 6 == 0);
                std::iter::once(often).chain(once)
            })),
        }
    }

    #[test]
    fn s3_fifo_misses_no_more_than_lru_and_less_than_fifo_on_every_stream() {
        for kind in 0..3 {
            for entries in [200u32, 800] {
                let ours = |eviction| misses(&memory(u64::from(entries), eviction), stream(kind));
                let (s3, fifo) = (ours(Eviction::S3Fifo), ours(Eviction::Fifo));
                let lru = lru_misses(usize::try_from(entries).unwrap(), stream(kind));
                assert!(s3 <= lru, "stream {kind}, {entries}: {s3} against LRU's {lru}");
                assert!(s3 < fifo - 0.02, "stream {kind}, {entries}: {s3} against FIFO's {fifo}");
            }
        }
    }

    #[test]
    fn what_is_asked_for_again_outlives_any_number_asked_for_once() {
        let memory = memory(500, Eviction::S3Fifo);
        memory.insert(key(0), value());
        for n in 1..10_000 {
            memory.insert(key(n), value());
            if n % 50 == 0 {
                assert!(memory.get(&key(0)).is_some(), "gone after {n}");
            }
        }
    }

    #[test]
    fn what_is_under_way_and_what_is_held_share_the_capacity() {
        let memory = memory(100, Eviction::S3Fifo);
        (0..100).for_each(|n| assert!(memory.insert(key(n), value())));
        memory.reserve(60 * WEIGHT);
        assert_eq!(memory.holdings().bytes, 40 * WEIGHT);
        memory.reserve(100 * WEIGHT);
        assert_eq!(memory.holdings().bytes, 0);
        assert!(!memory.insert(key(1), value()));
        memory.reserve(0);
        assert!(memory.insert(key(1), value()));
    }

    proptest! {
        #[test]
        fn the_bound_holds_and_what_is_held_is_the_last_taken_in(
            steps in prop::collection::vec((0..4u8, 0..60u64, 1..5u64), 1..500),
            fifo in any::<bool>(),
        ) {
            let memory = memory(20, if fifo { Eviction::Fifo } else { Eviction::S3Fifo });
            let mut last = HashMap::new();
            for (step, n, weight) in steps {
                match step {
                    0 | 1 => {
                        let bytes = Bytes::from(vec![0; usize::try_from(weight * 900).unwrap()]);
                        if memory.insert(key(n), Value::Slice(Arc::new(Pieces::new(vec![bytes])))) {
                            last.insert(n, weight);
                        }
                    }
                    2 => {
                        memory.remove(&key(n));
                        last.remove(&n);
                    }
                    _ => {
                        if let Some((Value::Slice(pieces), _)) = memory.get(&key(n)) {
                            prop_assert_eq!(Some(&(pieces.len() / 900)), last.get(&n));
                        }
                    }
                }
                let weight = |value| if let Value::Slice(pieces) = value { pieces.len() + OVERHEAD } else { u64::MAX };
                let held: Vec<_> = (0..60).filter_map(|n| memory.peek(&key(n)).map(weight)).collect();
                let bytes: u64 = held.iter().sum();
                prop_assert_eq!(memory.holdings().bytes, bytes);
                prop_assert!(bytes <= 20 * WEIGHT);
                let queues = memory.queues();
                prop_assert_eq!(queues.small.live + queues.main.live, held.len());
                prop_assert!(queues.small.entries.len() + queues.main.entries.len() <= 2 * held.len() + 3 * SMALL_FLOOR);
            }
        }
    }
}
