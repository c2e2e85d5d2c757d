//! The whole store on the storage double: purges that are settled while the disk fails, disks that are given up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::append::Draft;
use crate::disks::Place;
use crate::double::{Double, Plan};
use crate::key::{Head, Key, Tags};
use crate::purge::{PurgeKind, Selector};
use crate::record::{Header, Kind};
use crate::{ByteSize, Config, DiskState, Store, StoreError};

fn key(n: u8) -> Key {
    Key::from_bytes([n; 20])
}

fn config() -> Config {
    Config {
        directory: Some("double".into()),
        capacity: ByteSize::mib(8),
        segment: ByteSize::mib(1),
        slice: ByteSize::kib(256),
        memory: ByteSize(0),
        purge_limit: 16,
        sweep_percent: 100,
        disk_failures: 3,
        disk_retry: Duration::from_millis(100),
        ..Config::default()
    }
}

fn places(disks: &[&Double]) -> Vec<Place> {
    let place = |(number, disk): (usize, &&Double)| (format!("disk {number}").into(), Arc::new((*disk).clone()) as _);
    disks.iter().enumerate().map(place).collect()
}

fn run<T>(scenario: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(scenario)
}

async fn put(store: &Store, n: u8) -> Result<(), StoreError> {
    let (tags, born) = (Tags::default(), store.purge_number());
    let head = Head { key: key(n), directory: 1, tags, expires: None, metadata: Bytes::new(), length: None, born };
    let mut writer = store.writer(head)?;
    writer.append(Bytes::from(vec![n; 300])).await?;
    writer.commit(None).await.map(drop)
}

async fn shows(store: &Store, n: u8) -> bool {
    let Some(object) = store.get(&key(n)).await else { return false };
    assert_eq!(object.read(0, 1000).await.unwrap(), vec![n; 300]);
    true
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !holds() {
        assert!(Instant::now() < deadline, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Thirty objects, of which twelve are purged one by one, enough for the purges to be settled; those that were acknowledged.
async fn purge_twelve(disk: &Double) -> Vec<u8> {
    let store = Store::open_on(places(&[disk]), config()).await.unwrap();
    for n in 0..30 {
        put(&store, n).await.unwrap();
    }
    // What is sealed outlives a power cut, so that a purged object could come back.
    store.clone().close().await;
    let mut purged = Vec::new();
    disk.resume();
    for n in 0..12 {
        if store.purge(Selector::Key(key(n)), PurgeKind::Hard).await.is_ok() {
            purged.push(n);
        }
    }
    until("the sweep has ended", || !store.tiers.sweeps.is_running()).await;
    purged
}

#[test]
fn settling_that_fails_at_any_call_brings_no_purged_object_back_and_loses_no_other() {
    let sound = Double::default();
    sound.hold(Plan::Sound);
    assert_eq!(run(purge_twelve(&sound)).len(), 12);
    let (calls, _) = sound.seen();
    assert!(sound.files().iter().any(|(name, _)| name.ends_with(".dead")), "nothing was settled");
    assert!(calls > 40);
    for call in 0..calls {
        let disk = Double::default();
        disk.hold(Plan::FailFrom(call));
        let purged = run(purge_twelve(&disk));
        for next in [disk.after_kill(), disk.after_power_cut(|_| false), disk.after_power_cut(|n| n.is_multiple_of(2))]
        {
            run(async {
                let store = Store::open_on(places(&[&next]), config()).await.unwrap();
                for n in 0..30 {
                    let there = shows(&store, n).await;
                    assert!(!there || !purged.contains(&n), "{n} is back, call {call}");
                    assert!(there || n < 12, "{n} is lost, call {call}");
                }
            });
        }
    }
}

#[test]
fn a_segment_whose_dead_are_not_known_is_dropped_rather_than_returned() {
    let disk = Double::default();
    assert_eq!(run(purge_twelve(&disk)).len(), 12);
    let dead = disk.files().into_iter().find(|(name, _)| name.ends_with(".dead")).unwrap().0;
    for damage in [
        |disk: &Double, name: &str| disk.damage(name, 33, 1),
        |disk: &Double, name: &str| {
            crate::disk::Disk::remove(disk, name).unwrap();
        },
    ] {
        let next = disk.after_kill();
        damage(&next, &dead);
        run(async {
            let store = Store::open_on(places(&[&next]), config()).await.unwrap();
            for n in 0..30 {
                assert!(!shows(&store, n).await, "{n}");
            }
            put(&store, 1).await.unwrap();
            assert!(shows(&store, 1).await);
        });
    }
}

#[test]
fn a_disk_that_fails_again_and_again_is_given_up_and_remembered_by_the_others() {
    let (well, ill) = (Double::drawn(1000), Double::drawn(2000));
    run(async {
        let ram = Config { memory: ByteSize::mib(8), ..config() };
        let store = Store::open_on(places(&[&well, &ill]), ram).await.unwrap();
        for n in 0..40 {
            put(&store, n).await.unwrap();
        }
        let share = store.tiers.disks.iter().map(|it| it.index.objects()).max().unwrap();
        assert!((20..35).contains(&share), "{share} of 40 on one of two disks");
        ill.plan(Plan::FailFrom(0));
        let mut n = 40;
        while store.stats().disk != DiskState::Bad {
            n += 1;
            put(&store, n).await.unwrap();
            assert!(shows(&store, n).await, "RAM goes on");
            ill.pass(Duration::from_secs(1));
            assert!(n < 200, "never given up");
        }
    });
    // It answers again, but is not to be trusted until it is empty.
    let (well, back) = (well.after_kill(), ill.after_kill());
    run(async {
        let store = Store::open_on(places(&[&well, &back]), config()).await.unwrap();
        assert_eq!(store.stats().disk, DiskState::Bad);
        for n in 0..40 {
            put(&store, n).await.unwrap();
            assert!(shows(&store, n).await, "all keys live on the disk that is left");
        }
    });
    let emptied = Double::drawn(3000);
    run(async {
        let store = Store::open_on(places(&[&well.after_kill(), &emptied]), config()).await.unwrap();
        assert_eq!(store.stats().disk, DiskState::Working);
    });
}

#[test]
fn a_disk_that_cannot_be_opened_is_left_out_and_ram_serves() {
    let disk = Double::default();
    disk.plan(Plan::FailFrom(0));
    run(async {
        let ram = Config { memory: ByteSize::mib(8), ..config() };
        let store = Store::open_on(places(&[&disk]), ram).await.unwrap();
        assert_eq!(store.stats().disk, DiskState::Failed);
        put(&store, 1).await.unwrap();
        assert!(shows(&store, 1).await);
        let refused = Double::default();
        refused.plan(Plan::FailOnce(0, std::io::ErrorKind::PermissionDenied));
        assert!(Store::open_on(places(&[&refused]), config()).await.is_err(), "an operator's mistake is told");
    });
}

#[test]
fn gets_from_ram_go_on_while_a_write_hangs() {
    let disk = Double::default();
    run(async {
        let ram = Config { memory: ByteSize::mib(8), ..config() };
        let store = Store::open_on(places(&[&disk]), ram).await.unwrap();
        put(&store, 1).await.unwrap();
        disk.hang(true);
        let writing = tokio::spawn({
            let store = store.clone();
            async move { put(&store, 2).await }
        });
        for _ in 0..100 {
            assert!(shows(&store, 1).await);
            tokio::task::yield_now().await;
        }
        assert!(!writing.is_finished());
        disk.hang(false);
        writing.await.unwrap().unwrap();
        assert!(shows(&store, 2).await);
    });
}

/// One object, and then five that come while the disk hangs, under this plan; whether each was stored, and how many calls the
/// five took.
async fn crowd(disk: &Double, plan: Plan) -> (Vec<bool>, u64) {
    let store = Store::open_on(places(&[disk]), config()).await.unwrap();
    put(&store, 0).await.unwrap();
    store.tiers.disks.at(0).unwrap().finish_chores();
    disk.plan(plan);
    disk.hang(true);
    let puts: Vec<_> = (1..6)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { put(&store, n).await.is_ok() })
        })
        .collect();
    // Each task runs until it waits for the disk.
    tokio::task::yield_now().await;
    disk.hang(false);
    let mut stored = vec![true];
    for put in puts {
        stored.push(put.await.unwrap());
    }
    (stored, disk.seen().0)
}

#[test]
fn objects_that_come_together_are_written_together_and_cut_anywhere_none_is_lost_that_was_acknowledged() {
    let sound = Double::default();
    let (stored, calls) = run(crowd(&sound, Plan::Sound));
    assert_eq!(stored, [true; 6]);
    assert!(calls <= 2, "{calls} calls: whoever comes first, and the others");
    let (_, written) = sound.seen();
    // All over the records' heads, bodies and ends; `crash_tests` cuts single records at every byte.
    for cut in (0..=written).step_by(13).chain([written - 1, written]) {
        let disk = Double::default();
        let (stored, _) = run(crowd(&disk, Plan::CutAt(cut)));
        let next = disk.after_kill();
        run(async {
            let store = Store::open_on(places(&[&next]), config()).await.unwrap();
            for (n, stored) in (0..).zip(&stored) {
                assert!(shows(&store, n).await || !stored, "{n} is lost, cut at {cut}");
            }
            put(&store, 9).await.unwrap();
            assert!(shows(&store, 9).await);
        });
        assert_eq!(stored.contains(&false), cut < written, "cut at {cut}");
    }
}

#[test]
fn a_put_that_nobody_waits_for_gives_its_room_back_and_the_next_goes_on() {
    let disk = Double::default();
    run(async {
        let store = Store::open_on(places(&[&disk]), config()).await.unwrap();
        disk.hang(true);
        for n in 0..3 {
            let given_up = tokio::spawn({
                let store = store.clone();
                async move { put(&store, n).await }
            });
            tokio::task::yield_now().await;
            given_up.abort();
            assert!(given_up.await.unwrap_err().is_cancelled());
        }
        assert_eq!(store.stats().fill_bytes, 900, "what waits is counted");
        disk.hang(false);
        until("the room is given back", || store.stats().fill_bytes == 0).await;
        put(&store, 9).await.unwrap();
        assert!(shows(&store, 9).await);
    });
}

#[test]
fn a_store_goes_on_after_the_runtime_ends_that_was_writing() {
    let disk = Double::default();
    let first = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = first.block_on(async {
        let store = Store::open_on(places(&[&disk]), config()).await.unwrap();
        disk.hang(true);
        for n in 0..3 {
            let store = store.clone();
            tokio::spawn(async move { put(&store, n).await });
        }
        tokio::task::yield_now().await;
        store
    });
    first.shutdown_background();
    disk.hang(false);
    run(async {
        // Who waited for the runtime that ended is told so; and so may be who comes before it is quite gone.
        let deadline = Instant::now() + Duration::from_secs(120);
        while put(&store, 9).await.is_err() {
            assert!(Instant::now() < deadline, "still refused");
        }
        assert!(shows(&store, 9).await);
    });
}

#[test]
fn puts_go_on_while_full_segments_are_synced_and_closing_waits_for_that() {
    let disk = Double::default();
    run(async {
        let store = Store::open_on(places(&[&disk]), config()).await.unwrap();
        disk.hang_syncs(true);
        for n in 0..12 {
            let (tags, born) = (Tags::default(), store.purge_number());
            let head =
                Head { key: key(n), directory: 1, tags, expires: None, metadata: Bytes::new(), length: None, born };
            let mut writer = store.writer(head).unwrap();
            writer.append(Bytes::from(vec![n; 250_000])).await.unwrap();
            writer.commit(None).await.unwrap();
        }
        assert!(disk.files().len() > 4, "several segments were filled");
        let closing = tokio::spawn(store.clone().close());
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!closing.is_finished());
        disk.hang_syncs(false);
        closing.await.unwrap();
        let cut = Arc::new(disk.after_power_cut(|_| false));
        let store = Store::open_on(vec![("cut".into(), cut)], config()).await.unwrap();
        for n in 0..12 {
            assert_eq!(store.get(&key(n)).await.unwrap().len(), 250_000, "{n}");
        }
    });
}

#[test]
fn what_is_put_while_its_forerunner_is_freshened_keeps_its_own_metadata() {
    let disk = Double::default();
    run(async {
        let store = Store::open_on(places(&[&disk]), config()).await.unwrap();
        put(&store, 1).await.unwrap();
        let tiers = Arc::clone(&store.tiers);
        let old = store.get(&key(1)).await.unwrap().head().clone();
        let forerunner = old.metadata.clone();
        // The first look finds what is meant; then it is put over.
        let overtaken = move |now: &Bytes| {
            let is_meant = *now == forerunner;
            if is_meant {
                let head = Head { metadata: "newer".into(), length: Some(3), ..old.clone() };
                let header = Header::new(Kind::Whole, &head, 3, crate::disk::now(), 0);
                let newer = ["new".into()];
                tiers.disks.at(0).unwrap().put(Draft::new(header, &head.metadata, &newer)).unwrap();
            }
            is_meant
        };
        let born = store.purge_number();
        let fresh = store.freshen_tagged(&key(1), "fresh".into(), None, born, None, overtaken).await.unwrap();
        assert!(fresh.is_none());
        assert_eq!(store.get(&key(1)).await.unwrap().head().metadata, "newer");
    });
}

#[test]
fn a_key_that_shares_its_hash_with_another_is_a_miss_and_never_the_others_bytes() {
    let disk = Double::default();
    run(async {
        let store = Store::open_on(places(&[&disk]), config()).await.unwrap();
        put(&store, 1).await.unwrap();
        let engine = store.tiers.disks.at(0).unwrap();
        let spot = engine.index.get(engine.hash(&key(1))).unwrap();
        // As if both keys had the 40 bits in common that the index keeps of a hash.
        engine.index.insert(engine.hash(&key(2)), spot);
        assert!(store.get(&key(2)).await.is_none());
        assert!(store.freshen(&key(2), "fresh".into(), None).await.unwrap().is_none());
        assert!(shows(&store, 1).await);
        assert_eq!(store.stats().checksum_failures, 0, "nothing is wrong with what is there");
        put(&store, 2).await.unwrap();
        assert!(shows(&store, 2).await);
    });
}
