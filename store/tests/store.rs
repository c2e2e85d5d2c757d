//! The store as its users see it: what each promise of the API means, in RAM alone and on disk alike.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod directory;
mod disks;
mod killed;
mod purge;

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use atoll_store::{
    ByteSize, Config, Head, Key, Object, Partial, PurgeKind, PurgeNumber, ReadError, Selector, Store, StoreError, Tags,
    Tier,
};
use bytes::Bytes;

fn key(n: u8) -> Key {
    Key::from_bytes([n; 20])
}

fn head(n: u8, store: &Store) -> Head {
    Head {
        key: key(n),
        directory: 7,
        tags: Tags([1, 2, 3, 4]),
        expires: None,
        metadata: Bytes::from(format!("metadata {n}")),
        length: None,
        born: store.purge_number(),
    }
}

fn body(length: usize) -> Bytes {
    static LONGEST: LazyLock<Bytes> =
        LazyLock::new(|| (0..12 << 20).map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap()).collect());
    LONGEST.slice(..length)
}

async fn put(store: &Store, head: Head, body: &Bytes) -> Object {
    try_put(store, head, body).await.unwrap()
}

async fn try_put(store: &Store, head: Head, body: &Bytes) -> Result<Object, StoreError> {
    let mut writer = store.writer(head)?;
    for chunk in body.chunks(100_000) {
        writer.append(Bytes::copy_from_slice(chunk)).await?;
    }
    writer.commit(None).await
}

async fn whole(object: &Object) -> Bytes {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < object.len() {
        let part = object.read(bytes.len() as u64, 1 << 20).await.unwrap();
        assert!(!part.is_empty());
        bytes.extend_from_slice(&part);
    }
    assert!(object.read(object.len(), 1).await.unwrap().is_empty());
    bytes.into()
}

async fn whole_partial(partial: &Partial) -> Result<Bytes, ReadError> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < partial.len() {
        let part = partial.read(bytes.len() as u64, 70_000).await?;
        assert!(!part.is_empty() && part.len() <= 70_000);
        bytes.extend_from_slice(&part);
    }
    assert!(partial.read(partial.len(), 1).await?.is_empty());
    Ok(bytes.into())
}

fn on_disk(directory: &Path) -> Config {
    Config {
        directory: Some(directory.to_owned()),
        capacity: ByteSize::mib(64),
        segment: ByteSize::mib(4),
        slice: ByteSize::mib(1),
        memory: ByteSize::mib(24),
        fill_memory: ByteSize::mib(24),
        ..Config::default()
    }
}

fn in_ram() -> Config {
    Config { memory: ByteSize::mib(24), ..Config::default() }
}

fn run<T>(scenario: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(scenario)
}

/// Runs `scenario` on a new store in RAM alone, on one on disk, and on one on disk whose RAM tier holds nothing.
fn check<F: Future<Output = ()>>(scenario: impl Fn(Store) -> F) {
    for memory in [None, Some(ByteSize::mib(24)), Some(ByteSize(0))] {
        let directory = tempfile::tempdir().unwrap();
        let config = memory.map_or_else(in_ram, |memory| Config { memory, ..on_disk(directory.path()) });
        run(async { scenario(Store::open(config).await.unwrap()).await });
    }
}

#[test]
fn what_is_committed_is_read_back_whole_and_in_ranges() {
    check(async |store| {
        for (n, length) in [(1, 0), (2, 1), (3, 65_536), (4, 65_537), (5, 2 << 20), (6, (5 << 20) + 17)] {
            let body = body(length);
            let made = put(&store, head(n, &store), &body).await;
            let got = store.get(&key(n)).await.unwrap();
            for object in [made, got] {
                assert_eq!(object.len(), length as u64);
                assert_eq!(whole(&object).await, body, "{length}");
                assert_eq!(object.head().length, Some(length as u64));
                assert_eq!(object.head().metadata, format!("metadata {n}"));
                assert_eq!((object.head().directory, object.head().tags), (7, Tags([1, 2, 3, 4])));
                assert!(!object.soft_purged());
            }
            let got = store.get(&key(n)).await.unwrap();
            for offset in [0, 1, length / 2, length.saturating_sub(1)] {
                let part = got.read(offset as u64, 10).await.unwrap();
                assert!(body[offset.min(length)..].starts_with(&part) && (offset >= length || !part.is_empty()));
            }
        }
        let twice = [store.get(&key(2)).await.unwrap(), store.get(&key(2)).await.unwrap()];
        let read = [twice[0].read(0, 1).await.unwrap(), twice[1].read(0, 1).await.unwrap()];
        assert_eq!(
            read[0].as_ptr() == read[1].as_ptr(),
            twice[1].tier() == Tier::Memory,
            "copied from RAM, or not read"
        );
        assert!(store.get(&key(9)).await.is_none());
        assert!(store.contains(&key(6)).await && !store.contains(&key(9)).await);
        assert_eq!(store.stats().objects, 6);
    });
}

#[test]
fn a_body_is_read_while_it_is_written_and_after() {
    check(async |store| {
        let body = body((3 << 20) + 5);
        let mut writer = store.writer(head(1, &store)).unwrap();
        let partial = writer.partial();
        let mut done = 0;
        for size in [1, 10, 1000, 65_000, 70_000, 1 << 20, 2 << 20].into_iter().cycle() {
            let end = body.len().min(done + size);
            writer.append(body.slice(done..end)).await.unwrap();
            done = end;
            assert_eq!(partial.len(), done as u64);
            assert_eq!(whole_partial(&partial).await.unwrap(), body[..done]);
            if done == body.len() {
                break;
            }
        }
        assert!(store.get(&key(1)).await.is_none(), "visible before its commit");
        writer.commit(Some("final".into())).await.unwrap();
        assert_eq!(whole_partial(&partial).await.unwrap(), body);
        assert_eq!(store.get(&key(1)).await.unwrap().head().metadata, "final");
        assert_eq!(store.stats().fill_bytes, 0);
    });
}

#[test]
fn an_aborted_or_dropped_writer_tells_its_readers_and_leaves_the_old_object() {
    check(async |store| {
        put(&store, head(1, &store), &body(10)).await;
        let mut writer = store.writer(head(1, &store)).unwrap();
        writer.append(body(20)).await.unwrap();
        let partial = writer.partial();
        writer.abort();
        assert!(matches!(partial.read(0, 1).await, Err(ReadError::Aborted)));
        let partial = store.writer(head(1, &store)).unwrap().partial();
        assert!(matches!(partial.read(0, 1).await, Err(ReadError::Aborted)));
        assert_eq!(store.get(&key(1)).await.unwrap().len(), 10);
        assert_eq!(store.stats().fill_bytes, 0);
    });
}

#[test]
fn a_commit_replaces_the_older_object_whose_readers_finish_undisturbed() {
    check(async |store| {
        put(&store, head(1, &store), &body(200_000)).await;
        let old = store.get(&key(1)).await.unwrap();
        put(&store, head(1, &store), &body(10)).await;
        assert_eq!(store.get(&key(1)).await.unwrap().len(), 10);
        assert_eq!(whole(&old).await, body(200_000));
        assert_eq!(store.stats().objects, 1);
    });
}

#[test]
fn a_body_of_another_length_than_announced_is_refused() {
    check(async |store| {
        let announced = |length| Head { length: Some(length), ..head(1, &store) };
        let mut writer = store.writer(announced(5)).unwrap();
        writer.append(body(3)).await.unwrap();
        assert!(matches!(writer.commit(None).await, Err(StoreError::Length { expected: 5, found: 3 })));
        let mut writer = store.writer(announced(5)).unwrap();
        assert!(matches!(writer.append(body(6)).await, Err(StoreError::Length { expected: 5, found: 6 })));
        assert!(matches!(writer.append(body(1)).await, Err(StoreError::Broken)));
        assert!(matches!(writer.commit(None).await, Err(StoreError::Broken)));
        assert!(store.get(&key(1)).await.is_none());
    });
}

#[test]
fn metadata_over_the_limit_is_refused_wherever_it_comes_from() {
    check(async |store| {
        let long = body((64 << 10) + 1);
        let refused = |error: StoreError| assert!(matches!(error, StoreError::MetadataTooLong { limit: 65_536, .. }));
        refused(store.writer(Head { metadata: long.clone(), ..head(1, &store) }).unwrap_err());
        refused(store.writer(head(1, &store)).unwrap().commit(Some(long.clone())).await.unwrap_err());
        refused(store.freshen(&key(1), long, None).await.unwrap_err());
    });
}

#[test]
fn an_expired_object_is_a_miss() {
    check(async |store| {
        let past = SystemTime::now() - Duration::from_secs(1);
        let future = SystemTime::now() + Duration::from_secs(3600);
        put(&store, Head { expires: Some(past), ..head(1, &store) }, &body(10)).await;
        put(&store, Head { expires: Some(future), ..head(2, &store) }, &body(10)).await;
        assert!(store.get(&key(1)).await.is_none());
        assert!(store.get(&key(2)).await.is_some());
    });
}

#[test]
fn freshen_gives_new_metadata_to_the_same_body() {
    check(async |store| {
        for (n, length) in [(1, 300), (2, 300_000), (3, 5 << 20)] {
            assert!(store.freshen(&key(n), "new".into(), None).await.unwrap().is_none());
            let stored = put(&store, head(n, &store), &body(length)).await.stored();
            let expires = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000));
            let fresh = store.freshen(&key(n), "new".into(), expires).await.unwrap().unwrap();
            for object in [fresh, store.get(&key(n)).await.unwrap()] {
                assert_eq!((object.head().metadata.as_ref(), object.head().expires), (&b"new"[..], expires));
                assert_eq!(object.stored(), stored);
                assert_eq!(object.head().directory, 7);
                assert_eq!(whole(&object).await, body(length));
            }
        }
    });
}

#[test]
fn what_took_the_place_of_what_is_meant_is_not_freshened() {
    check(async |store| {
        for (n, length) in [(1, 300), (2, 300_000), (3, 5 << 20)] {
            put(&store, head(n, &store), &body(length)).await;
            let born = store.purge_number();
            let meant = |metadata: &'static str| move |now: &Bytes| *now == metadata;
            let freshen = async |is: &'static str, new: &'static str| {
                store.freshen_tagged(&key(n), new.into(), None, born, None, meant(is)).await.unwrap()
            };
            assert!(freshen("metadata 9", "new").await.is_none());
            assert_eq!(store.get(&key(n)).await.unwrap().head().metadata, format!("metadata {n}"));
            let was: &'static str = format!("metadata {n}").leak();
            assert!(freshen(was, "new").await.is_some());
            assert!(freshen(was, "newer").await.is_none());
            let object = store.get(&key(n)).await.unwrap();
            assert_eq!(object.head().metadata, "new");
            assert_eq!(whole(&object).await, body(length));
        }
    });
}

#[test]
fn a_removed_object_is_a_miss() {
    check(async |store| {
        put(&store, head(1, &store), &body(10)).await;
        assert!(store.remove(&key(1)).await.unwrap());
        assert!(!store.remove(&key(1)).await.unwrap());
        assert!(store.get(&key(1)).await.is_none() && !store.contains(&key(1)).await);
    });
}

#[test]
fn a_hard_purge_takes_what_it_selects_and_reaches_fills_under_way() {
    check(async |store| {
        let selectors = [
            Selector::Key(key(1)),
            Selector::Directory(7),
            Selector::Tags { directory: Some(7), mask: 0xffff, value: 1, filter: None },
            Selector::Tags { directory: None, mask: 0xffff_0000, value: 0x2_0000, filter: None },
            Selector::All,
        ];
        for selector in selectors {
            put(&store, head(1, &store), &body(10)).await;
            put(&store, Head { directory: 8, tags: Tags([9; 4]), ..head(2, &store) }, &body(10)).await;
            let mut late = store.writer(head(1, &store)).unwrap();
            let before = store.purge_number();
            let number = store.purge(selector.clone(), PurgeKind::Hard).await.unwrap();
            assert_eq!((number, store.purge_number()), (PurgeNumber(before.0 + 1), number));
            assert!(store.get(&key(1)).await.is_none(), "{selector:?}");
            assert_eq!(store.get(&key(2)).await.is_some(), selector != Selector::All, "{selector:?}");
            late.append(body(10)).await.unwrap();
            late.commit(None).await.unwrap();
            assert!(store.get(&key(1)).await.is_none(), "a fill under way outlived {selector:?}");
            put(&store, head(1, &store), &body(11)).await;
            assert_eq!(store.get(&key(1)).await.unwrap().len(), 11, "born after {selector:?}");
        }
    });
}

#[test]
fn a_soft_purge_marks_until_freshened_since() {
    check(async |store| {
        put(&store, head(1, &store), &body(10)).await;
        store.purge(Selector::Directory(7), PurgeKind::Soft).await.unwrap();
        assert!(store.get(&key(1)).await.unwrap().soft_purged());
        let asked = store.purge_number();
        store.purge(Selector::Key(key(1)), PurgeKind::Soft).await.unwrap();
        let fresh = store.freshen_since(&key(1), "early".into(), None, asked).await.unwrap().unwrap();
        assert!(fresh.soft_purged() && store.get(&key(1)).await.unwrap().soft_purged());
        assert!(!store.freshen(&key(1), "now".into(), None).await.unwrap().unwrap().soft_purged());
        assert!(!store.get(&key(1)).await.unwrap().soft_purged());
        store.purge(Selector::Key(key(1)), PurgeKind::Hard).await.unwrap();
        assert!(store.freshen(&key(1), "late".into(), None).await.unwrap().is_none());
    });
}

#[test]
fn the_owner_decides_where_tag_bits_match() {
    check(async |store| {
        store.set_filter(Arc::new(|wanted, metadata| metadata.ends_with(wanted)));
        put(&store, head(1, &store), &body(10)).await;
        put(&store, head(2, &store), &body(10)).await;
        let selector = Selector::Tags { directory: Some(7), mask: 0, value: 0, filter: Some(" 2".into()) };
        store.purge(selector, PurgeKind::Hard).await.unwrap();
        assert!(store.get(&key(1)).await.is_some());
        assert!(store.get(&key(2)).await.is_none());
    });
}

#[test]
fn fills_under_way_are_bounded_in_ram() {
    check(async |store| {
        let mut fills = Vec::new();
        let refused = loop {
            let mut writer = store.writer(head(1, &store)).unwrap();
            if let Err(error) = writer.append(body(1 << 20)).await {
                break error;
            }
            fills.push(writer);
            assert!(fills.len() < 1000);
        };
        assert!(matches!(refused, StoreError::NoRoom { .. }), "{refused}");
        assert!(store.stats().fill_bytes + store.stats().memory_bytes <= 128 << 20);
        fills.clear();
        put(&store, head(1, &store), &body(10)).await;
    });
}

#[test]
fn in_ram_alone_what_does_not_fit_is_refused_and_the_tier_keeps_its_bound() {
    run(async {
        let store = Store::open(in_ram()).await.unwrap();
        let large = Head { length: Some(1 << 30), ..head(1, &store) };
        assert!(matches!(store.writer(large), Err(StoreError::TooLarge { .. })));
        let mut writer = store.writer(head(1, &store)).unwrap();
        let refused = loop {
            if let Err(error) = writer.append(body(1 << 20)).await {
                break error;
            }
        };
        assert!(matches!(refused, StoreError::TooLarge { .. }), "{refused}");
        drop(writer);
        for n in 0..100 {
            put(&store, head(n, &store), &body(1 << 20)).await;
            assert!(store.stats().memory_bytes <= 24 << 20);
        }
        assert!(store.stats().memory_evictions >= 75);
    });
}

#[test]
fn many_tasks_at_once_read_only_what_one_of_them_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config { memory: ByteSize::mib(2), ..on_disk(directory.path()) };
    run(async {
        let store = Store::open(config).await.unwrap();
        let tasks: Vec<_> = (0..8u8)
            .map(|task| {
                let store = store.clone();
                tokio::spawn(async move {
                    for round in 0..60u8 {
                        let n = (task + round) % 10;
                        let length = 1 + usize::from(round) * 30_000;
                        match round % 6 {
                            5 => drop(store.remove(&key(n)).await.unwrap()),
                            4 => {
                                drop(store.freshen(&key(n), Bytes::from(format!("metadata {n}")), None).await.unwrap())
                            }
                            3 => drop(store.purge(Selector::Key(key(n)), PurgeKind::Soft).await.unwrap()),
                            // Readers may hold so much of what was dropped that there is no room for now.
                            _ => match try_put(&store, head(n, &store), &body(length)).await {
                                Ok(_) | Err(StoreError::NoRoom { .. }) => {}
                                Err(error) => panic!("{error}"),
                            },
                        }
                        let n = (task * 3 + round) % 10;
                        let Some(object) = store.get(&key(n)).await else { continue };
                        assert_eq!(object.head().metadata, format!("metadata {n}"));
                        let length = usize::try_from(object.len()).unwrap();
                        assert_eq!(whole(&object).await, body(length));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let stats = store.stats();
        assert_eq!((stats.checksum_failures, stats.disk_errors, stats.fill_bytes), (0, 0, 0));
        assert!(stats.disk_bytes <= 64 << 20 && stats.disk_evictions > 0);
    });
}
