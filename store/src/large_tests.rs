//! An object larger than the machine, on the hollow double: what it costs in RAM, and that nothing counts in 32 bits.

use std::sync::Arc;

use bytes::Bytes;

use crate::config::PIECE;
use crate::hollow::{Hollow, WORD};
use crate::key::{Head, Key, Tags};
use crate::{ByteSize, Config, Store};

/// Bytes of the object: past 32 bits; at full scale, 200 GiB [bad-inputs S06].
fn length() -> u64 {
    if std::env::var_os("ATOLL_TEST_LONG").is_some() { 200 << 30 } else { (5 << 30) + 12_345 }
}

/// The bytes at `offset`, up to the end of its piece: each piece is its number over and over.
fn expected(offset: u64, length: u64) -> Bytes {
    let end = length.min((offset / PIECE + 1) * PIECE);
    let word = (1 + offset / PIECE).to_le_bytes();
    let piece = word.repeat(usize::try_from(PIECE).unwrap() / WORD);
    let within = |at: u64| usize::try_from(at - offset / PIECE * PIECE).unwrap();
    piece[within(offset)..within(end)].to_vec().into()
}

async fn open(disk: &Hollow, length: u64) -> Store {
    let config = Config {
        directory: Some("hollow".into()),
        capacity: ByteSize(2 * length + ByteSize::gib(1).0),
        memory: ByteSize::mib(16),
        fill_memory: ByteSize::mib(8),
        ..Config::default()
    };
    Store::open_on(vec![("hollow".into(), Arc::new(disk.clone()))], config).await.unwrap()
}

#[test]
fn an_object_of_many_gigabytes_is_stored_and_read_in_bounded_ram_and_found_again_without_a_scan() {
    let length = length();
    let disk = Hollow::default();
    let key = Key::from_bytes([6; 20]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(&disk, length).await;
        let (tags, born, metadata) = (Tags::default(), store.purge_number(), Bytes::from("metadata"));
        let head = Head { key, directory: 1, tags, expires: None, metadata, length: Some(length), born };
        let mut writer = store.writer(head).unwrap();
        let mut at = 0;
        while at < length {
            let chunk = expected(at, length);
            at += chunk.len() as u64;
            writer.append(chunk).await.unwrap();
            assert!(store.stats().fill_bytes <= 8 << 20, "{} bytes held at {at}", store.stats().fill_bytes);
        }
        writer.commit(None).await.unwrap();
        check(&store, key, length).await;
        let stats = store.stats();
        assert_eq!((stats.objects, stats.index_objects), (1, 1));
        // Each slice is an entry of the index.
        let slices = length.div_ceil(2 << 20);
        let empty = Store::open(Config::default()).await.unwrap().stats().index_bytes;
        assert!(stats.index_bytes <= empty + (1 << 21) + 24 * slices, "{} bytes of index", stats.index_bytes);
        // Of 64 MiB, 31 slices of 2 MiB and their heads take all but the last 2.
        assert!(stats.disk_bytes > length && stats.disk_bytes < length + length / 20 + (128 << 20));
    });
    drop(runtime);
    let before = disk.bytes_read();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(&disk, length).await;
        // The last segment was not sealed and is read through; of the others, only the footers.
        let read = disk.bytes_read() - before;
        assert!(read < (128 << 20) + length / 100, "{read} bytes read to open");
        check(&store, key, length).await;
    });
}

/// Reads the object at its ends, about each power of two, and in places all over.
async fn check(store: &Store, key: Key, length: u64) {
    let object = store.get(&key).await.unwrap();
    assert_eq!((object.len(), object.head().metadata.as_ref()), (length, &b"metadata"[..]));
    let about = (16..u64::BITS - length.leading_zeros()).flat_map(|bit| [(1 << bit) - 1, 1 << bit]);
    let all_over = (0..500).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % length);
    for at in [0, length - 1].into_iter().chain(about).chain(all_over).filter(|at| *at < length) {
        let part = object.read(at, 1 << 20).await.unwrap();
        assert!(!part.is_empty() && expected(at, length).starts_with(&part), "at {at}");
    }
    assert!(object.read(length, 1).await.unwrap().is_empty());
    assert!(store.stats().memory_bytes <= 16 << 20);
    assert_eq!(store.stats().checksum_failures, 0);
}
