//! Several directories in one store, and what is written to them at all.

use atoll_store::{Config, DiskState, PurgeKind, Selector, Store};

use crate::directory::across_a_restart;
use crate::purge::until;
use crate::{body, head, key, on_disk, put, run, whole};

#[test]
fn several_directories_share_the_keys_and_every_purge_holds_in_all() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = Config { more_directories: vec![other.path().to_owned()], ..on_disk(one.path()) };
    let first = async |store: Store| {
        for n in 0..100 {
            let length = if n == 50 { 5 << 20 } else { 70_000 };
            put(&store, head(n, &store), &body(length)).await;
        }
        store.freshen(&key(3), "fresh".into(), None).await.unwrap().unwrap();
        assert!(store.remove(&key(4)).await.unwrap());
        store.purge(Selector::Key(key(5)), PurgeKind::Hard).await.unwrap();
    };
    across_a_restart(&config, first, async |store| {
        for n in 0..100 {
            let Some(object) = store.get(&key(n)).await else {
                assert!([4, 5].contains(&n), "{n} is gone");
                continue;
            };
            assert_eq!(whole(&object).await, body(if n == 50 { 5 << 20 } else { 70_000 }));
        }
        assert_eq!(store.get(&key(3)).await.unwrap().head().metadata, "fresh");
    });
    for directory in [one.path(), other.path()] {
        let count = run(async {
            let alone = Config { memory: atoll_store::ByteSize(0), ..on_disk(directory) };
            let store = Store::open(alone).await.unwrap();
            assert!(store.get(&key(5)).await.is_none(), "both know of the purge");
            assert_eq!(store.stats().disk, DiskState::Working);
            store.stats().objects
        });
        assert!((25..75).contains(&count), "{count} of 98 in {directory:?}");
    }
}

#[test]
fn admission_writes_to_disk_what_is_asked_for_again_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config { admission: 2, ..on_disk(directory.path()) };
    let first = async |store: Store| {
        for n in 0..20 {
            assert!(store.get(&key(n)).await.is_none());
            put(&store, head(n, &store), &body(1000)).await;
        }
        assert_eq!(store.stats().index_objects, 0);
        for n in 0..10 {
            assert_eq!(whole(&store.get(&key(n)).await.unwrap()).await, body(1000));
        }
        until("ten are on disk", || store.stats().index_objects == 10).await;
        // Asked for twice before it comes: written at once. Longer than a slice: always.
        assert!(store.get(&key(30)).await.is_none() && store.get(&key(30)).await.is_none());
        put(&store, head(30, &store), &body(10)).await;
        put(&store, head(31, &store), &body(3 << 20)).await;
        assert_eq!(store.stats().index_objects, 12);
    };
    across_a_restart(&config, first, async |store| {
        for n in 0..20 {
            assert_eq!(store.get(&key(n)).await.is_some(), n < 10, "{n}");
        }
        assert!(store.get(&key(30)).await.is_some() && store.get(&key(31)).await.is_some());
    });
}
