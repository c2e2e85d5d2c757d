//! Small objects whose disk does not keep up, on the storage double.

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::*;
use crate::behind_tests::{bytes, config, head, open, run, until};
use crate::config::PIECE;
use crate::double::{Double, Plan};
use crate::{ByteSize, Config, Store};

const LENGTH: usize = 100;

/// A disk that goes on in the end, come what may: the runtime's end waits for who writes.
struct Slow(Double);

impl Drop for Slow {
    fn drop(&mut self) {
        self.0.hang(false);
    }
}

fn key(n: u8) -> Key {
    Key::from_bytes([n; 20])
}

/// A store that lets four objects wait for its disk.
async fn slow(disk: &Double, memory: ByteSize) -> Store {
    open(disk, Config { memory, write_queue: ByteSize(4 * LEAST), ..config() }).await
}

async fn put(store: &Store, n: u8, from: usize) -> JoinHandle<Result<Object, StoreError>> {
    let mut writer = store.writer(head(store, n)).unwrap();
    writer.append(bytes(from, LENGTH)).await.unwrap();
    tokio::spawn(writer.commit_or_hold(None, Keep::InRam))
}

/// Whether somebody writes, and how many wait.
fn state(store: &Store) -> (bool, usize) {
    let state = store.tiers.groups[0].state();
    (state.writing, state.puts.len())
}

/// Objects that are stored once the disk goes on: one is being written, four wait.
async fn fill(store: &Store, disk: &Double) -> Vec<JoinHandle<Result<Object, StoreError>>> {
    until("nobody writes", async || state(store) == (false, 0)).await;
    disk.hang(true);
    let mut stored = vec![put(store, 0, 0).await];
    until("one is being written", async || state(store) == (true, 0)).await;
    for n in 1..=4 {
        stored.push(put(store, n, 0).await);
    }
    until("four wait", async || state(store) == (true, 4)).await;
    stored
}

fn is_on_disk(store: &Store, n: u8) -> bool {
    let engine = store.tiers.disks.at(0).unwrap();
    engine.index.get(engine.hash(&key(n))).is_some()
}

async fn read(store: &Store, n: u8) -> Option<Bytes> {
    Some(store.get(&key(n)).await?.read(0, LENGTH).await.unwrap())
}

#[test]
fn what_comes_beyond_what_may_wait_is_held_in_ram_and_goes_to_disk_once_it_is_asked_for() {
    run(async {
        let slow_disk = Slow(Double::default());
        let disk = &slow_disk.0;
        let store = slow(disk, ByteSize::mib(1)).await;
        let stored = fill(&store, disk).await;
        let held = put(&store, 5, 7).await.await.unwrap().unwrap();
        assert_eq!(held.read(0, LENGTH).await.unwrap(), bytes(7, LENGTH));
        assert_eq!(store.stats().fill_bytes, 5 * LENGTH as u64, "what is held is no fill");
        // Whoever wants it written waits for that.
        let mut writer = store.writer(head(&store, 6)).unwrap();
        writer.append(bytes(0, LENGTH)).await.unwrap();
        let waits = tokio::spawn(writer.commit(None));
        until("five wait", async || state(&store) == (true, 5)).await;
        disk.hang(false);
        for stored in stored.into_iter().chain([waits]) {
            stored.await.unwrap().unwrap();
        }
        assert_eq!(
            (0..=6).map(|n| is_on_disk(&store, n)).collect::<Vec<_>>(),
            [true, true, true, true, true, false, true]
        );
        assert_eq!(read(&store, 5).await, Some(bytes(7, LENGTH)));
        until("it is on disk", async || is_on_disk(&store, 5)).await;
        let group = store.tiers.groups[0].state();
        assert_eq!((group.weight, group.keys.len()), (0, 0));
    });
}

#[test]
fn what_the_disk_has_an_older_one_of_waits_and_what_waits_comes_before_what_came_after_it() {
    run(async {
        let slow_disk = Slow(Double::default());
        let disk = &slow_disk.0;
        let store = slow(disk, ByteSize::mib(1)).await;
        put(&store, 5, 1).await.await.unwrap().unwrap();
        let mut stored = fill(&store, disk).await;
        stored.push(put(&store, 5, 2).await);
        until("it waits", async || state(&store) == (true, 5)).await;
        stored.push(put(&store, 4, 3).await);
        until("the newer one waits behind the older", async || state(&store) == (true, 6)).await;
        assert_eq!(read(&store, 5).await, Some(bytes(1, LENGTH)));
        disk.hang(false);
        for stored in stored {
            stored.await.unwrap().unwrap();
        }
        assert_eq!(read(&store, 4).await, Some(bytes(3, LENGTH)));
        let next = disk.after_kill();
        let store = slow(&next, ByteSize::mib(1)).await;
        assert_eq!(read(&store, 5).await, Some(bytes(2, LENGTH)), "the older one is back");
    });
}

#[test]
fn what_is_held_and_removed_is_not_back_after_a_restart_nor_is_what_it_replaced() {
    run(async {
        let slow_disk = Slow(Double::default());
        let disk = &slow_disk.0;
        let store = slow(disk, ByteSize::mib(1)).await;
        put(&store, 5, 1).await.await.unwrap().unwrap();
        let mut stored = fill(&store, disk).await;
        stored.push(put(&store, 5, 2).await);
        put(&store, 6, 1).await.await.unwrap().unwrap();
        disk.hang(false);
        for stored in stored {
            stored.await.unwrap().unwrap();
        }
        for n in [5, 6] {
            assert!(store.remove(&key(n)).await.unwrap());
        }
        let next = disk.after_kill();
        let store = slow(&next, ByteSize::mib(1)).await;
        assert!(read(&store, 5).await.is_none() && read(&store, 6).await.is_none());
    });
}

#[test]
fn what_ram_cannot_take_waits_for_the_disk() {
    run(async {
        let slow_disk = Slow(Double::default());
        let disk = &slow_disk.0;
        let store = slow(disk, ByteSize(0)).await;
        let mut stored = fill(&store, disk).await;
        stored.push(put(&store, 5, 7).await);
        until("five wait", async || state(&store) == (true, 5)).await;
        disk.hang(false);
        for stored in stored {
            stored.await.unwrap().unwrap();
        }
        assert_eq!(read(&store, 5).await, Some(bytes(7, LENGTH)));
    });
}

#[test]
fn a_body_that_is_whole_is_read_on_where_it_could_not_be_stored() {
    run(async {
        let disk = Double::default();
        let store = slow(&disk, ByteSize(0)).await;
        let mut writer = store.writer(head(&store, 5)).unwrap();
        writer.append(bytes(7, LENGTH)).await.unwrap();
        let partial = writer.partial();
        disk.plan(Plan::FailFrom(0));
        assert!(writer.commit_or_hold(None, Keep::InRam).await.is_err());
        assert_eq!(partial.read(0, LENGTH).await.unwrap(), bytes(7, LENGTH));
        assert_eq!(store.stats().fill_bytes, 0);
    });
}

#[test]
fn what_is_held_goes_to_disk_later_though_it_was_renewed_or_the_disk_failed_once() {
    run(async {
        let slow_disk = Slow(Double::default());
        let disk = &slow_disk.0;
        let store = slow(disk, ByteSize::mib(1)).await;
        let stored = fill(&store, disk).await;
        for n in [5, 6] {
            put(&store, n, 1).await.await.unwrap().unwrap();
        }
        disk.hang(false);
        for stored in stored {
            stored.await.unwrap().unwrap();
        }
        until("nobody writes", async || state(&store) == (false, 0)).await;
        let is_owed = |n: u8| store.tiers.memory.peek_object(&key(n)).unwrap().is_owed();
        // Renewed before it is asked for by whoever would let it on the disk.
        assert!(store.tiers.memory.get(&key(6)).is_some());
        assert!(store.freshen(&key(6), "renewed".into(), None).await.unwrap().is_some());
        assert!(!is_on_disk(&store, 6) && is_owed(6));
        assert_eq!(read(&store, 6).await, Some(bytes(1, LENGTH)));
        until("it is on disk", async || is_on_disk(&store, 6)).await;
        until("nothing more is owed", async || !is_owed(6)).await;
        disk.plan(Plan::FailOnce(0, io::ErrorKind::Other));
        store.tiers.admit_late(&key(5));
        assert!(!is_on_disk(&store, 5) && is_owed(5));
    });
}

#[test]
fn what_is_kept_on_disk_is_in_ram_once_it_is_asked_for_again() {
    run(async {
        let disk = Double::default();
        let store = slow(&disk, ByteSize::mib(1)).await;
        let store_as = async |from, length, keep| {
            let mut writer = store.writer(head(&store, 5)).unwrap();
            writer.append(bytes(from, length)).await.unwrap();
            writer.commit_or_hold(None, keep).await.unwrap()
        };
        let resident = || store.get_resident(&key(5)).is_some();
        let first = store_as(1, LENGTH, Keep::OnDisk).await;
        assert!(!resident(), "it was asked for once");
        assert_eq!(first.read(0, LENGTH).await.unwrap(), bytes(1, LENGTH));
        assert_eq!(store.stats().fill_bytes, 0);
        assert_eq!(read(&store, 5).await, Some(bytes(1, LENGTH)));
        assert!(resident());
        store_as(2, LENGTH, Keep::OnDisk).await;
        assert!(resident(), "what is hot stays so when it is renewed");
        assert_eq!(read(&store, 5).await, Some(bytes(2, LENGTH)));
        // What would take more than one read stays where it is served without any.
        let long = usize::try_from(PIECE).unwrap() + 1;
        store_as(3, long, Keep::OnDisk).await;
        assert!(resident());
        // So does what the disk did not take.
        disk.plan(Plan::FailFrom(0));
        store_as(4, LENGTH, Keep::OnDisk).await;
        assert!(resident());
        assert_eq!(read(&store, 5).await, Some(bytes(4, LENGTH)));
    });
}
