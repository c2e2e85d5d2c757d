//! Telling the index what we hold: briefly at the first byte, longer when whole (Coral C.2), renewed only if asked for.
//!
//! Nothing is kept per stored object. A bounded table holds what was announced lately and how often it was asked for since; what
//! falls out of it, or was never announced since a restart, is announced at its next hit. Renewals and such late announcements
//! share a budget of puts a second, hottest first. What could not be announced is tried again a moment later, in the same way. What was
//! announced and is gone since, evicted or purged, is withdrawn: in passing, and when a peer asks for it in vain, also if it was announced
//! in an earlier life; peers may ask for anything, so of what is not in the table no more is withdrawn than the same budget allows.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use atoll_overlay::{Index, Key, Levels, Put};
use atoll_store::Store;
use tokio::{
    sync::Semaphore,
    time::{Instant, interval},
};

use crate::{cache::store_key, config::Peers, reference::Reference};

/// Announces.
pub(crate) struct Announcer {
    index: Arc<dyn Index>,
    config: Peers,
    told: Arc<Mutex<HashMap<Key, Told>>>,
    /// What is to be withdrawn, or was lately.
    gone: Arc<Mutex<HashMap<Key, Leaving>>>,
    /// Puts and withdrawals under way; more are not started.
    running: Arc<Semaphore>,
}

/// A key whose copy is here no more.
#[derive(Debug, Clone, Copy)]
struct Leaving {
    /// Whether this node remembers that it told of it. Else somebody asked in vain, and that may be anybody, for anything.
    known: bool,
    state: Gone,
}

/// How far its withdrawal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    /// It is to be withdrawn; so often that was in vain.
    Due(u32),
    /// That is under way, for the time after so many.
    Running(u32),
    /// It was: whoever asks in vain until then has an old answer of the index.
    Until(Instant),
}

/// One key in the table.
#[derive(Debug, Clone)]
struct Told {
    /// When what the index knows ends; now or earlier: it is to be told at the next round.
    until: Instant,
    /// Requests since it was told.
    hits: u32,
    /// What it is told next.
    reference: Reference,
    /// How long the copy is worth naming.
    worth: Instant,
}

impl Announcer {
    pub(crate) fn new(index: Arc<dyn Index>, config: Peers) -> Self {
        let running = Arc::new(Semaphore::new(config.puts_at_once.clamp(1, Semaphore::MAX_PERMITS)));
        Self { index, config, told: Arc::default(), gone: Arc::default(), running }
    }

    /// The first bytes of a copy are here, or it is still growing: 20 s, not counted against the budget.
    pub(crate) fn growing(&self, key: Key, reference: &Reference) {
        self.put(key, reference, self.config.reference_fill);
    }

    /// A copy is whole and stays fresh for so long.
    pub(crate) fn whole(&self, key: Key, reference: Reference, fresh: Duration) {
        let (ttl, now) = (self.ttl(fresh), Instant::now());
        self.remember(key, Told { until: now + ttl, hits: 0, reference: reference.clone(), worth: now + fresh });
        self.put(key, &reference, ttl);
    }

    /// A whole copy was asked for: renewed when its time comes, announced if it is not.
    pub(crate) fn hit(&self, key: Key, fresh: Duration, reference: impl FnOnce() -> Reference) {
        self.hits(key, 1, fresh, reference);
    }

    /// So many times.
    pub(crate) fn hits(&self, key: Key, hits: u32, fresh: Duration, reference: impl FnOnce() -> Reference) {
        let now = Instant::now();
        let mut told = lock(&self.told);
        if let Some(known) = told.get_mut(&key) {
            known.hits = known.hits.saturating_add(hits);
            known.worth = now + fresh;
            return;
        }
        drop(told);
        self.remember(key, Told { until: now, hits, reference: reference(), worth: now + fresh });
    }

    /// What stands under a key is here no more: whoever was told so is told again.
    pub(crate) fn withdraw(&self, key: Key) {
        let known = lock(&self.told).contains_key(&key);
        {
            let (mut gone, now) = (lock(&self.gone), Instant::now());
            let waits = gone.get(&key).is_some_and(|leaving| match leaving.state {
                Gone::Due(_) | Gone::Running(_) => true,
                Gone::Until(until) => until > now,
            });
            // What finds no room stays told of, and is found gone again later.
            if !known && waits || !gone.contains_key(&key) && !has_room(&mut gone, self.config.withdrawn, known, now) {
                return;
            }
            gone.insert(key, Leaving { known, state: Gone::Due(0) });
        }
        if known {
            lock(&self.told).remove(&key);
            self.take_back(key);
        }
    }

    /// Withdraws one key that waits for that, if there is room for one more.
    fn take_back(&self, key: Key) {
        let Ok(place) = Arc::clone(&self.running).try_acquire_owned() else { return };
        let tries = {
            let mut gone = lock(&self.gone);
            let Some(leaving) = gone.get_mut(&key) else { return };
            let Gone::Due(before) = leaving.state else { return };
            leaving.state = Gone::Running(before + 1);
            before + 1
        };
        let (index, gone) = (Arc::clone(&self.index), Arc::clone(&self.gone));
        tokio::spawn(async move {
            let withdrawn = index.withdraw(key).await;
            let mut gone = lock(&gone);
            // It may be here again by now, and told so.
            if let Some(leaving) = gone.get_mut(&key).filter(|leaving| leaving.state == Gone::Running(tries)) {
                leaving.state = match &withdrawn {
                    Err(_) if tries < TRIES => Gone::Due(tries),
                    Ok(()) | Err(_) => Gone::Until(Instant::now() + WITHDRAWN),
                };
            }
            if let Err(error) = withdrawn {
                tracing::debug!(%key, %error, "a reference could not be withdrawn");
            }
            drop(place);
        });
    }

    /// What waits to be withdrawn in this round: first what this node knows that it told of.
    fn to_take_back(&self, now: Instant) -> Vec<Key> {
        let mut gone = lock(&self.gone);
        gone.retain(|_, leaving| !leaving.is_over(now));
        let due = |known| {
            let waits = move |leaving: &Leaving| leaving.known == known && matches!(leaving.state, Gone::Due(_));
            gone.iter().filter(move |(_, leaving)| waits(leaving)).map(|(key, _)| *key)
        };
        due(true).chain(due(false)).take(usize::try_from(self.config.puts_per_second).unwrap_or(usize::MAX)).collect()
    }

    /// Withdraws what was evicted or purged since it was announced: a part of the table at a time.
    async fn look_at_some(&self, store: &Store, from: usize) -> usize {
        let some: Vec<Key> = {
            let table = lock(&self.told);
            let from = if from < table.len() { from } else { 0 };
            table.keys().skip(from).take(LOOKED_AT).copied().collect()
        };
        for key in &some {
            if !store.contains(&store_key(*key)).await {
                self.withdraw(*key);
            }
        }
        from + some.len()
    }

    /// Renews and announces within the budget, and withdraws what is here no more, until the proxy ends.
    pub(crate) async fn run(&self, store: &Store) {
        let mut round = interval(ROUND);
        let mut looked_at = 0;
        loop {
            round.tick().await;
            looked_at = self.look_at_some(store, looked_at).await;
            for key in self.to_take_back(Instant::now()) {
                self.take_back(key);
            }
            for (key, told) in self.due(Instant::now()) {
                let ttl = self.ttl(told.worth.saturating_duration_since(Instant::now()));
                self.put(key, &told.reference, ttl);
            }
        }
    }

    /// What is to be told in this round: asked for and about to end, hottest first. What was not asked for lapses.
    fn due(&self, now: Instant) -> Vec<(Key, Told)> {
        let mut table = lock(&self.told);
        table.retain(|_, told| told.worth > now && (told.until > now || told.hits > 0));
        let mut due: Vec<_> = table
            .iter()
            .filter(|(_, told)| told.hits > 0 && told.until <= now + RENEW_BEFORE)
            .map(|(key, told)| (told.hits, *key))
            .collect();
        due.sort_unstable_by(|one, other| other.cmp(one));
        due.truncate(usize::try_from(self.config.puts_per_second).unwrap_or(usize::MAX));
        let due = due.into_iter().filter_map(|(_, key)| {
            let told = table.get_mut(&key)?;
            let before = told.clone();
            told.hits = 0;
            told.until = now + self.ttl(told.worth.saturating_duration_since(now));
            Some((key, before))
        });
        due.collect()
    }

    fn remember(&self, key: Key, told: Told) {
        let mut table = lock(&self.told);
        if table.len() < self.config.announced || table.contains_key(&key) {
            table.insert(key, told);
        }
    }

    /// As long as the reference may stand: an hour, or less if the copy goes stale before.
    fn ttl(&self, fresh: Duration) -> Duration {
        fresh.clamp(self.config.reference_fill.min(self.config.reference_whole), self.config.reference_whole)
    }

    fn put(&self, key: Key, reference: &Reference, ttl: Duration) {
        if self.config.upstream_only {
            return;
        }
        lock(&self.gone).remove(&key);
        let Ok(place) = Arc::clone(&self.running).try_acquire_owned() else { return again(&self.told, key) };
        let put = Put { key, value: reference.value(), ttl, levels: Levels::All };
        let (index, told) = (Arc::clone(&self.index), Arc::clone(&self.told));
        tokio::spawn(async move {
            if let Err(error) = index.put(put).await {
                tracing::debug!(%key, %error, "a copy could not be announced");
                again(&told, key);
            }
            drop(place);
        });
    }
}

impl Leaving {
    fn is_over(&self, now: Instant) -> bool {
        matches!(self.state, Gone::Until(until) if until <= now)
    }
}

/// Whether one more may leave, of `most`; makes room for it. What is not known takes half of it at most, and gives way to what is.
fn has_room(gone: &mut HashMap<Key, Leaving>, most: usize, known: bool, now: Instant) -> bool {
    if gone.len() < most / 2 {
        return true;
    }
    if !known {
        gone.retain(|_, leaving| !leaving.is_over(now));
        return gone.len() < most && gone.values().filter(|leaving| !leaving.known).count() < most / 2;
    }
    if gone.len() >= most {
        gone.retain(|_, leaving| !matches!(leaving.state, Gone::Until(_)));
    }
    if gone.len() >= most
        && let Some(other) = gone.iter().find(|(_, leaving)| !leaving.known).map(|(key, _)| *key)
    {
        gone.remove(&other);
    }
    gone.len() < most
}

/// Nobody was told of this: it is to be told a moment later, as if it had been asked for.
fn again(told: &Mutex<HashMap<Key, Told>>, key: Key) {
    if let Some(told) = lock(told).get_mut(&key) {
        told.hits = told.hits.max(1);
        told.until = told.until.min(Instant::now() + RENEW_BEFORE + AGAIN);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Announced keys looked at a round: a full table takes four minutes.
const LOOKED_AT: usize = 256;

/// What could not be announced is tried again after this.
const AGAIN: Duration = Duration::from_secs(2);

/// How often a withdrawal is tried; after that the reference lapses by itself.
const TRIES: u32 = 3;

/// Who asks in vain within this of a withdrawal was told of the copy before.
const WITHDRAWN: Duration = Duration::from_secs(30);

/// How often the budget is spent: it is counted per second.
const ROUND: Duration = Duration::from_secs(1);

/// A reference is renewed this long before it ends.
const RENEW_BEFORE: Duration = Duration::from_secs(30);

/// A description of nobody in particular.
#[cfg(test)]
pub(crate) fn test_info() -> atoll_overlay::NodeInfo {
    atoll_overlay::NodeInfo::new(atoll_overlay::NodeId::from(Key::ZERO), atoll_overlay::Roles::PROXY)
}

#[cfg(test)]
mod tests {
    use atoll_overlay::Alone;

    use super::*;

    fn announcer(config: Peers) -> Announcer {
        Announcer::new(Arc::new(Alone::new(test_info())), config)
    }

    fn key(number: u32) -> Key {
        Key::of(&number.to_be_bytes())
    }

    const DAY: Duration = Duration::from_secs(86_400);

    #[tokio::test]
    async fn only_what_was_asked_for_is_renewed_hottest_first_within_the_budget() {
        let announcer = announcer(Peers { puts_per_second: 2, ..Peers::default() });
        for (number, hits) in [(0, 0), (1, 1), (2, 5), (3, 3)] {
            announcer.whole(key(number), Reference::fetching(), DAY);
            for _ in 0..hits {
                announcer.hit(key(number), DAY, Reference::fetching);
            }
        }
        let start = Instant::now();
        let due = |after: u64| {
            let due = announcer.due(start + Duration::from_secs(after));
            due.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert!(due(0).is_empty());
        assert_eq!(due(3_590), [key(2), key(3)]);
        assert_eq!(due(3_590), [key(1)]);
        assert!(due(3_590).is_empty());
        due(3_610);
        assert!(!announcer.told.lock().unwrap().contains_key(&key(0)), "what nobody asked for has lapsed");
        announcer.hit(key(0), DAY, Reference::fetching);
        assert_eq!(due(3_610), [key(0)]);
    }

    // Peers may ask for anything: what was announced is withdrawn all the same.
    #[tokio::test]
    async fn questions_for_what_never_was_keep_no_withdrawal_from_its_place() {
        const MOST: usize = 1_024;
        let announcer = announcer(Peers { puts_per_second: 1, puts_at_once: 3, withdrawn: MOST, ..Peers::default() });
        let bound = u32::try_from(MOST).unwrap();
        let count = |known| lock(&announcer.gone).values().filter(|leaving| leaving.known == known).count();
        // Nothing that is due gets under way.
        let _busy = announcer.running.clone().try_acquire_many_owned(3).unwrap();
        (0..bound).for_each(|number| announcer.withdraw(key(number)));
        assert_eq!((count(false), count(true)), (MOST / 2, 0));
        let told = bound..2 * bound + 1;
        for number in told.clone() {
            announcer.hit(key(number), DAY, Reference::fetching);
            announcer.withdraw(key(number));
            let first = lock(&announcer.gone).get(&key(bound)).is_some_and(|leaving| leaving.known);
            assert!(first);
        }
        assert_eq!((count(false), count(true)), (0, MOST));
        let next = announcer.to_take_back(Instant::now());
        assert!(next.len() == 1 && lock(&announcer.gone)[&next[0]].known);
        // The last finds no place, and is not forgotten for that.
        let left: Vec<Key> = announcer.told.lock().unwrap().keys().copied().collect();
        assert_eq!(left, [key(told.end - 1)]);
    }

    #[tokio::test]
    async fn the_table_is_bounded_and_a_reference_ends_with_its_copy() {
        let announcer = announcer(Peers { announced: 2, ..Peers::default() });
        for number in 0..5 {
            announcer.hit(key(number), DAY, Reference::fetching);
        }
        assert_eq!(announcer.told.lock().unwrap().len(), 2);
        assert_eq!(announcer.ttl(Duration::from_secs(60)), Duration::from_secs(60));
        assert_eq!(announcer.ttl(Duration::ZERO), Duration::from_secs(20));
        assert_eq!(announcer.ttl(DAY), Duration::from_secs(3_600));
    }
}
