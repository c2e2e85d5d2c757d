//! Fills on the storage double whose disk hangs or fails while more of the body comes.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::double::{Double, Plan};
use crate::key::{Head, Key, Tags};
use crate::{ByteSize, Config, Partial, Store, StoreError, Writer};

pub(crate) const SLICE: usize = 256 << 10;

pub(crate) fn config() -> Config {
    Config {
        directory: Some("double".into()),
        capacity: ByteSize::mib(16),
        segment: ByteSize::mib(1),
        slice: ByteSize(SLICE as u64),
        memory: ByteSize(0),
        write_behind: ByteSize(2 * SLICE as u64),
        ..Config::default()
    }
}

pub(crate) async fn open(disk: &Double, config: Config) -> Store {
    Store::open_on(vec![("double".into(), Arc::new(disk.clone()))], config).await.unwrap()
}

pub(crate) fn head(store: &Store, n: u8) -> Head {
    let (tags, born, key) = (Tags::default(), store.purge_number(), Key::from_bytes([n; 20]));
    Head { key, directory: 1, tags, expires: None, metadata: Bytes::new(), length: None, born }
}

fn writer(store: &Store, n: u8) -> Writer {
    store.writer(head(store, n)).unwrap()
}

pub(crate) fn run<T>(scenario: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(scenario)
}

/// Bytes of a body, from this one on.
pub(crate) fn bytes(from: usize, count: usize) -> Bytes {
    (from..from + count).map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap()).collect()
}

/// Whether it is done without waiting for anything.
async fn at_once<T>(future: impl Future<Output = Result<T, StoreError>>) -> bool {
    let mut future = pin!(future);
    poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(done) => done.map(|_| true).unwrap(),
            Poll::Pending => false,
        })
    })
    .await
}

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !holds().await {
        assert!(Instant::now() < deadline, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn whole(partial: &Partial) -> Vec<u8> {
    let mut all = Vec::new();
    while (all.len() as u64) < partial.len() {
        all.extend_from_slice(&partial.read(all.len() as u64, 1 << 20).await.unwrap());
    }
    all
}

#[test]
fn a_body_comes_on_and_is_read_while_its_disk_hangs_until_so_much_waits_for_it() {
    let disk = Double::default();
    run(async {
        let store = open(&disk, config()).await;
        disk.hang(true);
        let (mut writer, half) = (writer(&store, 1), SLICE / 2);
        let partial = writer.partial();
        for number in 0..6 {
            assert!(at_once(writer.append(bytes(number * half, half))).await, "chunk {number}");
            tokio::task::yield_now().await;
        }
        assert_eq!(whole(&partial).await, bytes(0, 6 * half));
        let mut over = Box::pin(writer.append(bytes(6 * half, half)));
        for _ in 0..100 {
            let waits = poll_fn(|cx| Poll::Ready(over.as_mut().poll(cx).is_pending())).await;
            assert!(waits, "more waits for the disk than may");
            tokio::task::yield_now().await;
        }
        assert_eq!(store.stats().fill_bytes, 7 * half as u64);
        assert_eq!(whole(&partial).await, bytes(0, 7 * half));
        disk.hang(false);
        over.await.unwrap();
        let object = writer.commit(None).await.unwrap();
        assert_eq!((object.len(), store.stats().fill_bytes), (7 * half as u64, 0));
        let read = object.read(6 * half as u64, 10).await.unwrap();
        assert_eq!((read, whole(&partial).await), (bytes(6 * half, 10), bytes(0, 7 * half).to_vec()));
    });
}

#[test]
fn what_waits_is_written_though_nothing_more_comes_and_what_the_disk_refuses_then_fails_the_fill() {
    let disk = Double::default();
    run(async {
        let store = open(&disk, config()).await;
        let mut writer = writer(&store, 1);
        writer.append(bytes(0, 2 * SLICE + 1_000)).await.unwrap();
        until("all but the last slice is on disk", async || store.stats().fill_bytes == 1_000).await;
        store.tiers.disks.at(0).unwrap().finish_chores();
        disk.plan(Plan::FailOnce(0, std::io::ErrorKind::PermissionDenied));
        assert!(at_once(writer.append(bytes(2 * SLICE + 1_000, SLICE))).await, "nobody knows yet");
        let mut at = 3 * SLICE + 1_000;
        until("an append is refused", async || {
            at += 1;
            let appended = writer.append(bytes(at - 1, 1)).await;
            assert!(matches!(appended, Ok(()) | Err(StoreError::Disk(_))), "{appended:?}");
            appended.is_err()
        })
        .await;
        assert_eq!(whole(&writer.partial()).await, bytes(0, at), "what came is still read");
        assert!(matches!(writer.append(bytes(at, 1)).await, Err(StoreError::Broken)));
        assert!(matches!(writer.commit(None).await, Err(StoreError::Broken)));
        assert_eq!(store.stats().fill_bytes, 0);
        assert!(store.get(&Key::from_bytes([1; 20])).await.is_none());
    });
}

#[test]
fn a_commit_waits_for_what_is_on_its_way_and_is_refused_with_it() {
    for sound in [true, false] {
        let disk = Double::default();
        run(async {
            let store = open(&disk, config()).await;
            let mut writer = writer(&store, 1);
            writer.append(bytes(0, SLICE + 1_000)).await.unwrap();
            until("the first slice is on disk", async || store.stats().fill_bytes == 1_000).await;
            disk.hang(true);
            assert!(at_once(writer.append(bytes(SLICE + 1_000, 2 * SLICE))).await);
            if !sound {
                disk.plan(Plan::FailFrom(0));
            }
            let mut committed = pin!(writer.commit(None));
            for _ in 0..100 {
                assert!(poll_fn(|cx| Poll::Ready(committed.as_mut().poll(cx).is_pending())).await);
                tokio::task::yield_now().await;
            }
            assert!(store.get(&Key::from_bytes([1; 20])).await.is_none());
            disk.hang(false);
            assert_eq!(committed.await.is_ok(), sound);
            assert_eq!(store.get(&Key::from_bytes([1; 20])).await.is_some(), sound);
        });
    }
}

#[test]
fn fills_that_hold_half_of_what_they_may_wait_for_the_disk_as_if_nothing_could_wait() {
    let disk = Double::default();
    run(async {
        let half_held = Config { fill_memory: ByteSize(4 * SLICE as u64), ..config() };
        let store = open(&disk, half_held).await;
        disk.hang(true);
        let (mut one, mut other) = (writer(&store, 1), writer(&store, 2));
        assert!(at_once(one.append(bytes(0, 2 * SLICE))).await);
        assert!(at_once(other.append(bytes(0, SLICE))).await, "a slice need not go to disk");
        let mut over = pin!(other.append(bytes(SLICE, 1)));
        assert!(poll_fn(|cx| Poll::Ready(over.as_mut().poll(cx).is_pending())).await);
        disk.hang(false);
        over.await.unwrap();
    });
}

#[test]
fn what_is_given_up_while_the_disk_hangs_counts_until_it_is_written_and_what_waits_behind_it_does_not() {
    let disk = Double::default();
    run(async {
        // One call at a time: the others wait for their right to one.
        let limit = 8 * SLICE as u64;
        let store = open(&disk, Config { io_depth: 1, fill_memory: ByteSize(limit), ..config() }).await;
        disk.hang(true);
        for round in 0..40 {
            let mut writer = writer(&store, round);
            assert!(at_once(writer.append(bytes(0, 2 * SLICE))).await, "round {round}");
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            writer.abort();
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert_eq!(store.stats().fill_bytes, SLICE as u64, "the slice that hangs, round {round}");
        }
        // What is held is refused to others, also while nobody but the disk has it.
        let mut last = writer(&store, 100);
        let held =
            |error| matches!(error, StoreError::NoRoom { held, limit: of } if held == SLICE as u64 && of == limit);
        assert!(last.append(bytes(0, 8 * SLICE)).await.is_err_and(held));
        drop(last);
        disk.hang(false);
        until("all is given back", async || store.stats().fill_bytes == 0).await;
    });
}

#[test]
fn bytes_that_have_not_come_take_no_room_and_a_body_without_room_for_its_first_is_refused_at_once() {
    run(async {
        let limit = ByteSize::mib(1);
        let store = open(&Double::default(), Config { fill_memory: limit, ..config() }).await;
        let announced = |n| Head { length: Some(64 << 10), ..head(&store, n) };
        let slow: Vec<Writer> = (0..100).map(|n| store.writer(announced(n)).unwrap()).collect();
        assert_eq!(store.stats().fill_bytes, 0);
        let mut fast: Vec<Writer> = Vec::new();
        for n in 100..116 {
            let mut writer = store.writer(announced(n)).unwrap();
            writer.append(bytes(0, if n < 115 { 64 << 10 } else { 1 })).await.unwrap();
            fast.push(writer);
        }
        assert!(matches!(store.writer(announced(200)), Err(StoreError::NoRoom { .. })));
        assert!(store.writer(Head { length: Some(10), ..head(&store, 201) }).is_ok());
        drop((slow, fast));
        assert_eq!(store.stats().fill_bytes, 0);
    });
}
