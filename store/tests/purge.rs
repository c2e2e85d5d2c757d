//! What a purge takes is counted, cleared away, and forgotten without taking anything else.

use std::time::{Duration, Instant};

use atoll_store::{ByteSize, Config, Head, PurgeKind, PurgeNumber, PurgeProgress, Selector, Store, StoreError, Tags};

use crate::directory::across_a_restart;
use crate::{body, check, head, in_ram, key, on_disk, put, run, try_put, whole};

/// Waits until a condition holds, far longer than it should take.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !holds() {
        assert!(Instant::now() < deadline, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn swept(store: &Store, number: PurgeNumber) -> PurgeProgress {
    until("the sweep is done", || store.purge_progress(number).is_some_and(|it| it.done)).await;
    store.purge_progress(number).unwrap()
}

fn tagged(n: u8, store: &Store) -> Head {
    Head { tags: Tags([u16::from(n % 2), 0, 0, 0]), directory: u64::from(n % 4), ..head(n, store) }
}

#[test]
fn a_sweep_counts_what_each_purge_took_and_clears_it_away() {
    check(async |store| {
        let mut odd = 0;
        for n in 0..40u8 {
            let length = if n == 5 { 3 << 20 } else { 100 * usize::from(n) };
            put(&store, tagged(n, &store), &body(length)).await;
            odd += if n % 2 == 1 { length + format!("metadata {n}").len() } else { 0 };
        }
        let tags = Selector::Tags { directory: None, mask: 0xffff, value: 1, filter: None };
        let number = store.purge(tags, PurgeKind::Hard).await.unwrap();
        assert!(store.get(&key(5)).await.is_none(), "in force at once");
        let progress = swept(&store, number).await;
        let bytes = u64::try_from(odd).unwrap();
        assert_eq!(progress, PurgeProgress { examined: 40, removed: 20, bytes, done: true });
        assert_eq!(store.stats().objects, 20);
        // Of the 20 that are left every one is in directory 0 or 2.
        let soft = store.purge(Selector::Directory(2), PurgeKind::Soft).await.unwrap();
        assert_eq!(swept(&store, soft).await.removed, 10);
        assert!(store.get(&key(2)).await.unwrap().soft_purged());
        let hard = store.purge(Selector::Key(key(2)), PurgeKind::Hard).await.unwrap();
        assert_eq!(swept(&store, hard).await, PurgeProgress { examined: 1, removed: 1, bytes: 210, done: true });
        let none = store.purge(Selector::Key(key(2)), PurgeKind::Hard).await.unwrap();
        assert_eq!(swept(&store, none).await, PurgeProgress { done: true, ..PurgeProgress::default() });
        let all = store.purge(Selector::All, PurgeKind::Hard).await.unwrap();
        assert_eq!(swept(&store, all).await.removed, 19);
        assert_eq!(store.stats().objects, 0);
        assert_eq!(store.purge_progress(PurgeNumber(99)), None);
    });
}

#[test]
fn purges_beyond_the_limit_are_settled_and_take_nothing_that_they_were_not_for() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config { purge_limit: 16, sweep_percent: 100, ..on_disk(directory.path()) };
    let first = async |store: Store| {
        for n in 0..200 {
            put(&store, head(n, &store), &body(1000)).await;
        }
        for n in 0..100 {
            if n == 40 {
                // What was freshened stands on a record that an older purge is for.
                store.purge(Selector::Key(key(150)), PurgeKind::Soft).await.unwrap();
                store.freshen(&key(150), "fresh".into(), None).await.unwrap().unwrap();
            }
            store.purge(Selector::Key(key(n)), PurgeKind::Hard).await.unwrap();
            until("the table is settled", || store.stats().purges <= 8).await;
        }
        assert_eq!(store.purge_number(), PurgeNumber(101));
        // A fill that began before all of that may be meant by a purge that is forgotten.
        put(&store, Head { born: PurgeNumber(3), ..head(7, &store) }, &body(10)).await;
        assert!(store.get(&key(7)).await.is_none());
        put(&store, head(8, &store), &body(10)).await;
    };
    across_a_restart(&config, first, async |store| {
        assert_eq!(store.purge_number(), PurgeNumber(101));
        for n in 0..200 {
            let there = store.get(&key(n)).await;
            assert_eq!(there.is_some(), n == 8 || n >= 100, "{n}");
        }
        assert_eq!(store.get(&key(150)).await.unwrap().head().metadata, "fresh");
        assert_eq!(whole(&store.get(&key(150)).await.unwrap()).await, body(1000));
        assert!(store.stats().purges <= 8);
    });
}

#[test]
fn purges_beyond_the_limit_are_settled_in_ram_too() {
    run(async {
        let store = Store::open(Config { purge_limit: 16, ..in_ram() }).await.unwrap();
        for n in 0..100 {
            put(&store, head(n, &store), &body(1000)).await;
        }
        for n in 0..50 {
            store.purge(Selector::Key(key(n)), PurgeKind::Hard).await.unwrap();
            until("the table is settled", || store.stats().purges <= 8).await;
        }
        for n in 0..100 {
            assert_eq!(store.get(&key(n)).await.is_some(), n >= 50, "{n}");
        }
    });
}

#[test]
fn purging_while_objects_come_in_and_are_settled_never_shows_a_purged_one() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config { purge_limit: 64, memory: ByteSize::mib(2), sweep_percent: 100, ..on_disk(directory.path()) };
    run(async {
        let store = Store::open(config).await.unwrap();
        let tasks: Vec<_> = (0..4u8)
            .map(|task| {
                let store = store.clone();
                tokio::spawn(async move {
                    for round in 0..100u16 {
                        let n = task * 10 + u8::try_from(round % 10).unwrap();
                        // Each object names the purge it was born at; whatever is shown is as young as the last purge.
                        let born = store.purge_number();
                        let head = Head { metadata: round.to_string().into(), ..head(n, &store) };
                        match try_put(&store, Head { born, ..head }, &body(20_000)).await {
                            Ok(_) | Err(StoreError::NoRoom { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                        if round % 3 == 0 {
                            store.purge(Selector::Key(key(n)), PurgeKind::Hard).await.unwrap();
                            assert!(store.get(&key(n)).await.is_none(), "{n} in round {round}");
                        } else {
                            let object = store.get(&key(n)).await.unwrap();
                            assert_eq!(object.head().metadata, round.to_string());
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        until("the table is settled", || store.stats().purges <= 32).await;
    });
}
