//! Telling the index what we hold: briefly at the first byte, longer when whole (Coral C.2), renewed only if asked for.
//!
//! Nothing is kept per stored object. A bounded table holds what was announced lately and how often it was asked for since; what
//! falls out of it, or was never announced since a restart, is announced at its next hit. Renewals and such late announcements
//! share a budget of puts a second, hottest first. What was announced and is gone since, evicted or purged, is withdrawn: when a peer
//! asks for it in vain, and in passing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
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
    /// Puts under way; more are not started.
    running: Arc<Semaphore>,
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
        Self { index, config, told: Arc::default(), running: Arc::new(Semaphore::new(PUTS_AT_ONCE)) }
    }

    /// The first bytes of a copy are here, or it is still growing: 20 s, not counted against the budget.
    pub(crate) fn growing(&self, key: Key, reference: &Reference) {
        self.put(key, reference, self.config.reference_fill);
    }

    /// A copy is whole and stays fresh for so long.
    pub(crate) fn whole(&self, key: Key, reference: Reference, fresh: Duration) {
        let ttl = self.ttl(fresh);
        self.put(key, &reference, ttl);
        let now = Instant::now();
        self.remember(key, Told { until: now + ttl, hits: 0, reference, worth: now + fresh });
    }

    /// A whole copy was asked for: renewed when its time comes, announced if it is not.
    pub(crate) fn hit(&self, key: Key, fresh: Duration, reference: impl FnOnce() -> Reference) {
        self.hits(key, 1, fresh, reference);
    }

    /// So many times.
    pub(crate) fn hits(&self, key: Key, hits: u32, fresh: Duration, reference: impl FnOnce() -> Reference) {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
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
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&key).is_none() {
            return;
        }
        let Ok(place) = Arc::clone(&self.running).try_acquire_owned() else { return };
        let index = Arc::clone(&self.index);
        tokio::spawn(async move {
            if let Err(error) = index.withdraw(key).await {
                tracing::debug!(%key, %error, "a reference could not be withdrawn; it lapses");
            }
            drop(place);
        });
    }

    /// Withdraws what was evicted or purged since it was announced: a part of the table at a time.
    async fn look_at_some(&self, store: &Store, from: usize) -> usize {
        let some: Vec<Key> = {
            let table = self.told.lock().unwrap_or_else(PoisonError::into_inner);
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
            for (key, told) in self.due(Instant::now()) {
                let ttl = self.ttl(told.worth.saturating_duration_since(Instant::now()));
                self.put(key, &told.reference, ttl);
            }
        }
    }

    /// What is to be told in this round: asked for and about to end, hottest first. What was not asked for lapses.
    fn due(&self, now: Instant) -> Vec<(Key, Told)> {
        let mut table = self.told.lock().unwrap_or_else(PoisonError::into_inner);
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
        let mut table = self.told.lock().unwrap_or_else(PoisonError::into_inner);
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
        let Ok(place) = Arc::clone(&self.running).try_acquire_owned() else { return };
        let put = Put { key, value: reference.value(), ttl, levels: Levels::All };
        let index = Arc::clone(&self.index);
        tokio::spawn(async move {
            if let Err(error) = index.put(put).await {
                tracing::debug!(%key, %error, "a copy could not be announced");
            }
            drop(place);
        });
    }
}

/// Puts under way at one time; each holds a task and one RPC.
const PUTS_AT_ONCE: usize = 256;

/// Announced keys looked at a round: a full table takes four minutes.
const LOOKED_AT: usize = 256;

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
