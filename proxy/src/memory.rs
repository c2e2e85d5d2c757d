//! Small things remembered for a while, bounded: failures, pass marks, scheme upgrades, shunned peers. The oldest goes first.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// A map whose entries end, each at its own time, and which forgets its oldest entry when it is full.
#[derive(Debug)]
pub(crate) struct Memory<K, V> {
    inner: Mutex<Inner<K, V>>,
    limit: usize,
    /// Whether anything was ever put: what is asked with every request, and mostly empty, costs no lock then.
    used: AtomicBool,
}

#[derive(Debug)]
struct Inner<K, V> {
    entries: HashMap<K, (V, Instant, u64)>,
    /// Keys by age with the serial of the entry they were written for; entries written again leave theirs behind.
    order: VecDeque<(K, u64)>,
    serial: u64,
}

impl<K: Hash + Eq + Clone, V: Clone> Memory<K, V> {
    /// A memory of at most `limit` entries.
    pub(crate) fn new(limit: usize) -> Self {
        let inner = Inner { entries: HashMap::new(), order: VecDeque::new(), serial: 0 };
        Self { inner: Mutex::new(inner), limit: limit.max(1), used: AtomicBool::new(false) }
    }

    /// Whether nothing was ever remembered.
    pub(crate) fn is_unused(&self) -> bool {
        !self.used.load(Ordering::Acquire)
    }

    /// What is remembered under a key.
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        if self.is_unused() {
            return None;
        }
        self.get_at(key, Instant::now())
    }

    fn get_at(&self, key: &K, now: Instant) -> Option<V> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.entries.get(key).filter(|(_, until, _)| *until > now).map(|(value, _, _)| value.clone())
    }

    /// Remembers a value for so long, in place of what was under the key.
    pub(crate) fn put(&self, key: K, value: V, span: Duration) {
        self.used.store(true, Ordering::Release);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.serial += 1;
        let serial = inner.serial;
        inner.entries.insert(key.clone(), (value, Instant::now() + span, serial));
        inner.order.push_back((key, serial));
        // Stale places in the order are dropped as they surface; twice the limit bounds them.
        while inner.entries.len() > self.limit || inner.order.len() > 2 * self.limit {
            let Some((key, serial)) = inner.order.pop_front() else { break };
            if inner.entries.get(&key).is_some_and(|(_, _, written)| *written == serial) {
                inner.entries.remove(&key);
            }
        }
    }

    /// The keys that are remembered now, in no order.
    pub(crate) fn keys(&self) -> Vec<K> {
        let (inner, now) = (self.inner.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        let live = inner.entries.iter().filter(|(_, (_, until, _))| *until > now);
        live.map(|(key, _)| key.clone()).collect()
    }

    /// Forgets one key.
    pub(crate) fn forget(&self, key: &K) {
        if self.is_unused() {
            return;
        }
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_end_and_the_oldest_makes_room() {
        let memory = Memory::new(2);
        memory.put("a", 1, Duration::from_secs(1));
        memory.put("b", 2, Duration::from_secs(9));
        memory.put("b", 3, Duration::from_secs(9));
        memory.put("c", 4, Duration::from_secs(9));
        assert_eq!((memory.get(&"a"), memory.get(&"b"), memory.get(&"c")), (None, Some(3), Some(4)));
        memory.put("d", 5, Duration::from_secs(1));
        let later = Instant::now() + Duration::from_secs(2);
        assert_eq!((memory.get_at(&"c", later), memory.get_at(&"d", later)), (Some(4), None));
        for _ in 0..100 {
            memory.put("d", 6, Duration::from_secs(1));
        }
        let inner = memory.inner.lock().unwrap();
        assert!(inner.order.len() <= 4 && inner.entries.len() <= 2);
    }
}
