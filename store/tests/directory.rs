//! What a store keeps in its directory: what a restart finds, what goes first when it is full, whose the directory is, and
//! what becomes of files that are damaged, unknown or gone.

use atoll_store::{
    ByteSize, Config, DiskState, Head, OpenError, PurgeKind, PurgeNumber, ReadError, Selector, Store, StoreError, Tags,
    Tier,
};

use crate::{body, head, key, on_disk, put, run, whole};

/// Opens the store, runs `first`, drops it as a crash would, opens it again and runs `then`.
pub(crate) fn across_a_restart<F, G>(config: &Config, first: impl FnOnce(Store) -> F, then: impl FnOnce(Store) -> G)
where
    F: Future<Output = ()>,
    G: Future<Output = ()>,
{
    run(async { first(Store::open(config.clone()).await.unwrap()).await });
    run(async { then(Store::open(config.clone()).await.unwrap()).await });
}

#[test]
fn what_was_committed_is_there_after_a_restart_closed_or_not() {
    for close in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let first = async |store: Store| {
            for (n, length) in [(1, 0), (2, 100), (3, 300_000), (4, (5 << 20) + 3), (5, 10), (6, 10)] {
                put(&store, head(n, &store), &body(length)).await;
            }
            put(&store, head(5, &store), &body(11)).await;
            store.freshen(&key(2), "fresh".into(), None).await.unwrap();
            store.freshen(&key(4), "fresh run".into(), None).await.unwrap();
            store.remove(&key(6)).await.unwrap();
            if close {
                store.close().await;
            }
        };
        across_a_restart(&on_disk(directory.path()), first, async |store| {
            assert_eq!(store.stats().objects, 5);
            for (n, length) in [(1, 0), (2, 100), (3, 300_000), (4, (5 << 20) + 3), (5, 11)] {
                let object = store.get(&key(n)).await.unwrap();
                assert_eq!((object.tier(), object.head().tags), (Tier::Disk, Tags([1, 2, 3, 4])));
                assert_eq!(whole(&object).await, body(length), "{n}");
            }
            assert_eq!(store.get(&key(2)).await.unwrap().head().metadata, "fresh");
            assert_eq!(store.get(&key(2)).await.unwrap().tier(), Tier::Memory);
            assert_eq!(store.get(&key(4)).await.unwrap().head().metadata, "fresh run");
            assert!(store.get(&key(6)).await.is_none());
        });
    }
}

#[test]
fn purges_hold_across_a_restart_and_numbers_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let first = async |store: Store| {
        for n in 1..=4 {
            put(&store, Head { directory: u64::from(n), ..head(n, &store) }, &body(100)).await;
        }
        store.purge(Selector::Key(key(1)), PurgeKind::Hard).await.unwrap();
        store.purge(Selector::Directory(2), PurgeKind::Soft).await.unwrap();
        let tags = Selector::Tags { directory: Some(3), mask: 1, value: 1, filter: Some("x".into()) };
        store.purge(tags, PurgeKind::Hard).await.unwrap();
    };
    across_a_restart(&on_disk(directory.path()), first, async |store| {
        assert_eq!(store.purge_number(), PurgeNumber(3));
        assert!(store.get(&key(1)).await.is_none());
        assert!(store.get(&key(2)).await.unwrap().soft_purged());
        assert!(store.get(&key(3)).await.is_none());
        assert!(!store.get(&key(4)).await.unwrap().soft_purged());
        assert_eq!(store.purge(Selector::All, PurgeKind::Hard).await.unwrap(), PurgeNumber(4));
        assert!(store.get(&key(4)).await.is_none());
    });
}

#[test]
fn an_object_three_times_a_segment_is_stored_and_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let body = body(12 << 20);
    let first = async |store: Store| {
        let object = put(&store, head(1, &store), &body).await;
        assert_eq!(whole(&object).await, body);
    };
    across_a_restart(&on_disk(directory.path()), first, async |store| {
        let object = store.get(&key(1)).await.unwrap();
        assert_eq!(object.read((7 << 20) + 5, 3).await.unwrap(), body[(7 << 20) + 5..(7 << 20) + 8]);
        assert_eq!(whole(&object).await, body);
    });
}

#[test]
fn the_oldest_segments_go_first_but_not_what_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    // Without a RAM tier every get is a disk read.
    let config = Config { memory: ByteSize(0), ..on_disk(directory.path()) };
    run(async {
        let store = Store::open(config).await.unwrap();
        put(&store, head(0, &store), &body(50_000)).await;
        store.freshen(&key(0), "fresh".into(), None).await.unwrap().unwrap();
        for n in 1..=255 {
            put(&store, head(n, &store), &body(500_000)).await;
            assert_eq!(whole(&store.get(&key(0)).await.unwrap()).await, body(50_000), "after {n}");
            assert!(store.stats().disk_bytes <= 64 << 20);
        }
        assert_eq!(store.get(&key(0)).await.unwrap().head().metadata, "fresh");
        assert!(store.get(&key(1)).await.is_none() && store.get(&key(255)).await.is_some());
        assert!(store.stats().disk_evictions > 100);
    });
}

#[test]
fn a_reader_keeps_a_dropped_segment_alive() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config { memory: ByteSize(0), ..on_disk(directory.path()) };
    run(async {
        let store = Store::open(config).await.unwrap();
        put(&store, head(1, &store), &body(3 << 20)).await;
        let old = store.get(&key(1)).await.unwrap();
        let first = old.read(0, 1000).await.unwrap();
        for n in 2..=255 {
            put(&store, head(n, &store), &body(500_000)).await;
            assert!(store.stats().disk_bytes <= 64 << 20);
        }
        assert!(store.get(&key(1)).await.is_none());
        assert_eq!(first, body(3 << 20)[..1000]);
        assert_eq!(whole(&old).await, body(3 << 20));
    });
}

#[test]
fn the_capacity_holds_with_fills_under_way() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let store = Store::open(on_disk(directory.path())).await.unwrap();
        let mut fills: Vec<_> = (0..20).map(|n| Some(store.writer(head(n, &store)).unwrap())).collect();
        let mut refused = 0;
        for _ in 0..40 {
            for fill in &mut fills {
                let Some(writer) = fill else { continue };
                if let Err(error) = writer.append(body(200_000)).await {
                    assert!(matches!(error, StoreError::NoRoom { .. }), "{error}");
                    refused += 1;
                    *fill = None;
                }
                let stats = store.stats();
                assert!(stats.disk_bytes <= 64 << 20 && stats.fill_bytes <= 24 << 20, "{stats:?}");
            }
        }
        let written: u64 =
            std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(written <= 64 << 20, "{written} bytes in files");
        assert!(refused > 0);
        for writer in fills.into_iter().flatten() {
            writer.commit(None).await.unwrap();
        }
    });
}

#[test]
fn one_process_holds_a_directory_and_the_other_is_told_which() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let held = Store::open(on_disk(directory.path())).await.unwrap();
        let Err(OpenError::Locked { directory: named }) = Store::open(on_disk(directory.path())).await else {
            panic!("two stores in one directory");
        };
        assert_eq!(named, directory.path());
        drop(held);
        Store::open(on_disk(directory.path())).await.unwrap();
    });
}

#[test]
fn a_directory_of_another_version_or_of_something_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let format = directory.path().join("format");
    run(async {
        Store::open(on_disk(directory.path())).await.unwrap();
        let ours = std::fs::read_to_string(&format).unwrap();
        std::fs::write(&format, ours.replace("store 1", "store 2")).unwrap();
        let newer = Store::open(on_disk(directory.path())).await;
        assert!(matches!(newer, Err(OpenError::Version { found: 2, supported: 1, .. })));
        std::fs::write(&format, "something else").unwrap();
        assert!(matches!(Store::open(on_disk(directory.path())).await, Err(OpenError::Foreign { .. })));
        std::fs::write(&format, ours).unwrap();
        Store::open(on_disk(directory.path())).await.unwrap();
    });
}

#[test]
fn another_segment_size_and_less_capacity_take_over_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let store = Store::open(on_disk(directory.path())).await.unwrap();
        for n in 0..100 {
            put(&store, head(n, &store), &body(500_000)).await;
        }
        store.close().await;
        let smaller = Config { segment: ByteSize::mib(8), capacity: ByteSize::mib(32), ..on_disk(directory.path()) };
        let store = Store::open(smaller).await.unwrap();
        put(&store, head(200, &store), &body(500_000)).await;
        assert!(store.stats().disk_bytes <= 32 << 20);
        for n in [99, 200] {
            assert_eq!(whole(&store.get(&key(n)).await.unwrap()).await, body(500_000));
        }
    });
}

#[test]
fn a_removed_directory_is_misses_and_a_count_and_ram_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let store = Store::open(on_disk(directory.path())).await.unwrap();
        put(&store, head(1, &store), &body(1000)).await;
        std::fs::remove_dir_all(directory.path()).unwrap();
        for n in 2..=100 {
            put(&store, head(n, &store), &body(150_000)).await;
            assert_eq!(whole(&store.get(&key(n)).await.unwrap()).await, body(150_000));
        }
        let large = Head { length: Some(5 << 20), ..head(101, &store) };
        assert_eq!(whole(&put(&store, large, &body(5 << 20)).await).await, body(5 << 20));
        assert!(store.stats().disk_errors > 0);
        assert_eq!(store.stats().disk, DiskState::Failed);
        assert!(store.purge(Selector::All, PurgeKind::Hard).await.is_ok() || store.get(&key(100)).await.is_none());
    });
}

#[test]
fn unknown_files_in_the_directory_are_left_alone_and_damaged_ones_are_misses() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let first = async |store: Store| {
        for n in 0..40 {
            put(&store, head(n, &store), &body(500_000)).await;
        }
        store.close().await;
    };
    run(async { first(Store::open(on_disk(path)).await.unwrap()).await });
    let mut segments: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|file| file.extension().is_some_and(|it| it == "segment"));
    segments.sort();
    std::fs::write(path.join("notes.txt"), "mine").unwrap();
    std::fs::write(path.join("00000000000000ff.segment"), "too short").unwrap();
    std::fs::remove_file(&segments[0]).unwrap();
    let cut = std::fs::OpenOptions::new().write(true).open(&segments[1]).unwrap();
    cut.set_len(1_200_000).unwrap();
    let mut noise = std::fs::read(&segments[2]).unwrap();
    (1_000_000..1_000_100).for_each(|at| noise[at] ^= 0xff);
    std::fs::write(&segments[2], noise).unwrap();
    run(async {
        let store = Store::open(on_disk(path)).await.unwrap();
        let mut there = 0;
        for n in 0..40 {
            let Some(object) = store.get(&key(n)).await else { continue };
            match object.read(0, 1).await {
                Ok(_) => there += 1,
                Err(error) => assert!(matches!(error, ReadError::Corrupt), "{error}"),
            }
            if store.get(&key(n)).await.is_some() {
                assert_eq!(whole(&store.get(&key(n)).await.unwrap()).await, body(500_000));
            }
        }
        // Eight to a segment: one segment is gone, one keeps its first two, one lost the one with the noise.
        assert_eq!(there, 40 - 8 - 6 - 1);
        assert_eq!(store.stats().checksum_failures, 1);
    });
    assert_eq!(std::fs::read_to_string(path.join("notes.txt")).unwrap(), "mine");
}
