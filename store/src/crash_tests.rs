//! The store against the storage double: whatever is cut, torn, forgotten or refused, what is read afterwards is what
//! was written, and what was acknowledged is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use crate::append::Draft;
use crate::disk::Disk;
use crate::double::{Double, Plan};
use crate::engine::{Engine, Shape};
use crate::key::{Head, Key, Tags};
use crate::load::LoadedBody;
use crate::object::Pieces;
use crate::purge::{PurgeKind, Selector, Verdict};
use crate::purge_log::Book;
use crate::record::{Header, Kind};
use crate::recover::{self, Refusal};
use crate::{ByteSize, Config, Store};

/// What is found under a key: metadata and body, or nothing.
type Seen = Option<(Bytes, Bytes)>;

#[derive(Clone, Copy, Debug)]
enum Op {
    Put(u8, u16),
    Freshen(u8),
    Remove(u8),
    Get(u8),
    Purge(u8),
    Reopen { kill: bool },
}

/// An engine on a double, and what may be found there.
struct Bench {
    disk: Double,
    shape: Shape,
    engine: Engine,
    book: Arc<Book>,
    /// What each key may show now, beside nothing if anything may be evicted.
    may_show: BTreeMap<u8, Vec<Seen>>,
    /// Everything that each key ever showed and no purge took.
    history: BTreeMap<u8, Vec<Seen>>,
    version: u32,
}

const LARGE: Shape =
    Shape { segment: 4096, capacity: 1 << 20, reinsertion_percent: 50, retry: Duration::from_secs(1), failures: 1000 };
/// Four segments and the purge log.
const SMALL: Shape = Shape { capacity: 5 * 4096, ..LARGE };

fn key(n: u8) -> Key {
    Key::from_bytes([n; 20])
}

fn open(disk: &Double, shape: Shape) -> Result<(Engine, Arc<Book>), Refusal> {
    let book = Arc::new(Book::new(64));
    let found = recover::find(Arc::new(disk.clone()))?;
    let mut engines = recover::open(vec![found], shape, &book).map_err(|(_, refusal)| refusal)?;
    Ok((engines.pop().expect("one disk, one engine"), book))
}

impl Bench {
    fn new(shape: Shape) -> Self {
        let disk = Double::default();
        let (engine, book) = open(&disk, shape).unwrap();
        Self { disk, shape, engine, book, may_show: BTreeMap::new(), history: BTreeMap::new(), version: 0 }
    }

    /// Does one operation and what is due after it; false if it failed. What it was to change may then be changed or not.
    fn run(&mut self, op: Op) -> bool {
        let done = self.run_one(op);
        self.engine.do_chores();
        done
    }

    fn run_one(&mut self, op: Op) -> bool {
        self.version += 1;
        match op {
            Op::Put(n, length) => {
                let version = self.version;
                let body: Bytes =
                    (0..u32::from(length)).map(|at| (at * 31 + version * 7 + at / 256).to_le_bytes()[0]).collect();
                let metadata = Bytes::from(format!("put {version}"));
                let done = self.put(n, &metadata, &body);
                self.shows(n, Some((metadata, body)), done)
            }
            Op::Freshen(n) => {
                let metadata = Bytes::from(format!("freshened {}", self.version));
                let now = self.show(n);
                let Some((_, body)) = now else { return true };
                let born = self.book.latest();
                let done = self.engine.freshen(&key(n), &metadata, (None, born, Tags::default()), &|_| true);
                match done {
                    // Its segment went while room was made for the freshen.
                    Ok(None) => self.shows(n, None, true),
                    Ok(Some(_)) | Err(_) => self.shows(n, Some((metadata, body)), done.is_ok()),
                }
            }
            Op::Remove(n) => {
                let done = self.engine.remove(&key(n)).is_ok();
                self.shows(n, None, done)
            }
            Op::Get(n) => {
                self.show(n);
                true
            }
            Op::Purge(n) => {
                let (_, written) = self.book.purge(Selector::Key(key(n)), PurgeKind::Hard);
                if written.is_ok() {
                    self.history.remove(&n);
                }
                self.shows(n, None, written.is_ok())
            }
            Op::Reopen { kill } => {
                if !kill {
                    self.book.flush().unwrap();
                    self.engine.close().unwrap();
                }
                let next = self.disk.after_kill();
                self.reopen(next);
                true
            }
        }
    }

    fn reopen(&mut self, disk: Double) {
        (self.engine, self.book) = open(&disk, self.shape).unwrap();
        self.disk = disk;
    }

    fn put(&self, n: u8, metadata: &Bytes, body: &Bytes) -> bool {
        let head = Head {
            key: key(n),
            directory: 7,
            tags: Tags::default(),
            expires: None,
            metadata: metadata.clone(),
            length: None,
            born: self.book.latest(),
        };
        let generation = self.engine.generation();
        let header = Header::new(Kind::Whole, &head, body.len() as u64, self.disk.now(), generation);
        let pieces = Pieces::new(vec![body.clone()]);
        self.engine.put(Draft::new(header, metadata, pieces.list())).is_ok()
    }

    fn shows(&mut self, n: u8, seen: Seen, done: bool) -> bool {
        let may = self.may_show.entry(n).or_insert_with(|| vec![None]);
        if done {
            may.clear();
        } else {
            may.push(None);
        }
        may.push(seen.clone());
        self.history.entry(n).or_default().push(seen);
        done
    }

    fn show(&self, n: u8) -> Seen {
        let loaded = self.engine.load(&key(n)).ok()??;
        if self.book.verdict(&loaded.head) == Verdict::Hard {
            return None;
        }
        let LoadedBody::Pieces(pieces) = loaded.body else { panic!("a small body was not read along") };
        Some((loaded.head.metadata, pieces.read(0, usize::MAX)))
    }

    /// Every key shows what it may; nothing at all too if `or_nothing`.
    fn check(&self, or_nothing: bool, context: &dyn std::fmt::Debug) {
        for (n, may) in &self.may_show {
            let seen = self.show(*n);
            let allowed = may.contains(&seen) || (or_nothing && seen.is_none());
            assert!(allowed, "key {n} shows {seen:?} where {may:?} may be, {context:?}");
        }
    }

    /// Every key shows something it once showed and no acknowledged purge took, or nothing.
    fn check_history(&self, context: &dyn std::fmt::Debug) {
        for n in self.may_show.keys() {
            let seen = self.show(*n);
            let ever = self.history.get(n).is_some_and(|ever| ever.contains(&seen));
            assert!(seen.is_none() || ever, "key {n} shows {seen:?}, {context:?}");
        }
    }
}

/// Rolls over several segments, replaces, freshens, freshens again, removes, purges, puts again.
fn script() -> Vec<Op> {
    let mut script = vec![Op::Put(1, 300), Op::Put(2, 0), Op::Put(3, 900), Op::Freshen(1), Op::Put(4, 1)];
    script.extend([Op::Remove(2), Op::Put(1, 200), Op::Freshen(3), Op::Freshen(3), Op::Purge(4), Op::Put(5, 1500)]);
    script.extend([Op::Put(4, 50), Op::Remove(5), Op::Put(5, 60), Op::Purge(1), Op::Put(6, 2000), Op::Freshen(6)]);
    script.extend([Op::Put(7, 1200), Op::Freshen(4), Op::Put(1, 10), Op::Remove(7), Op::Put(8, 700)]);
    script
}

/// The script on a new bench under this plan, up to the first failure; how many calls and bytes it took.
fn run_until_failure(shape: Shape, plan: Plan) -> (Bench, (u64, u64)) {
    let mut bench = Bench::new(shape);
    bench.disk.plan(plan);
    for op in script() {
        if !bench.run(op) {
            break;
        }
    }
    let seen = bench.disk.seen();
    (bench, seen)
}

#[test]
fn a_write_cut_at_any_byte_loses_nothing_that_was_acknowledged() {
    let (_, (_, written)) = run_until_failure(LARGE, Plan::Sound);
    assert!(written > 10_000);
    for cut in 0..written {
        let (mut bench, _) = run_until_failure(LARGE, Plan::CutAt(cut));
        let next = bench.disk.after_kill();
        bench.reopen(next);
        bench.check(false, &cut);
        assert!(bench.run(Op::Put(9, 100)), "writes go on");
        bench.check(false, &cut);
    }
}

#[test]
fn a_power_cut_at_any_call_shows_no_byte_that_was_not_written_and_keeps_purges() {
    let (_, (calls, _)) = run_until_failure(LARGE, Plan::Sound);
    for call in 0..calls {
        let (bench, _) = run_until_failure(LARGE, Plan::FailFrom(call));
        // Nothing that was not synced arrived; all of it did; some of it, in two patterns, so that writes are torn.
        let patterns: [fn(u64) -> bool; 4] =
            [|_| false, |_| true, |n| n.is_multiple_of(2), |n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62 == 1];
        for (number, pattern) in patterns.into_iter().enumerate() {
            let mut bench = Bench { disk: bench.disk.after_power_cut(pattern), ..copy(&bench) };
            let disk = bench.disk.clone();
            bench.reopen(disk);
            bench.check_history(&(call, number));
        }
    }
}

/// A bench with the same expectations, its engine and disk of no matter.
fn copy(bench: &Bench) -> Bench {
    Bench { may_show: bench.may_show.clone(), history: bench.history.clone(), ..Bench::new(bench.shape) }
}

#[test]
fn sealed_objects_outlive_a_power_cut() {
    let mut bench = Bench::new(LARGE);
    (0..50).for_each(|n| assert!(bench.run(Op::Put(n, 500))));
    bench.engine.close().unwrap();
    let next = bench.disk.after_power_cut(|_| false);
    bench.reopen(next);
    bench.check(false, &"after the cut");
}

#[test]
fn a_failure_at_any_call_is_a_miss_at_most_and_the_store_goes_on() {
    for shape in [LARGE, SMALL] {
        let (_, (calls, _)) = run_until_failure(shape, Plan::Sound);
        for call in 0..calls {
            for kind in [std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull] {
                let mut bench = Bench::new(shape);
                bench.disk.plan(Plan::FailOnce(call, kind));
                for op in script() {
                    bench.run(op);
                    bench.disk.pass(Duration::from_secs(2));
                    bench.check(true, &(call, kind, op));
                }
                bench.disk.plan(Plan::Sound);
                assert!(bench.run(Op::Put(9, 100)), "the store did not go on after {kind:?} at call {call}");
                assert!(bench.show(9).is_some());
                let next = bench.disk.after_kill();
                bench.reopen(next);
                bench.check_history(&(call, kind, "reopened"));
            }
        }
    }
}

#[test]
fn opening_that_fails_at_any_call_is_refused_or_leaves_out_and_never_invents() {
    let (bench, _) = run_until_failure(LARGE, Plan::Sound);
    let disk = bench.disk.after_kill();
    disk.plan(Plan::Sound);
    drop(open(&disk, LARGE).unwrap());
    let (calls, _) = disk.seen();
    for call in 0..calls {
        let disk = bench.disk.after_kill();
        disk.plan(Plan::FailOnce(call, std::io::ErrorKind::Other));
        if let Ok((engine, book)) = open(&disk, LARGE) {
            let bench = Bench { engine, book, disk: disk.clone(), ..copy(&bench) };
            bench.check_history(&call);
        }
    }
}

#[test]
fn any_flipped_bit_is_a_miss_and_never_another_byte() {
    let (bench, _) = run_until_failure(LARGE, Plan::Sound);
    bench.engine.close().unwrap();
    let sound = bench.disk.after_kill();
    for (name, length) in sound.files().into_iter().filter(|(name, _)| name.ends_with(".segment") || name == "purges") {
        for at in 0..length {
            let disk = sound.after_kill();
            disk.damage(&name, at, 1 << (at % 8));
            let (engine, book) = open(&disk, LARGE).unwrap();
            let bench = Bench { engine, book, disk, ..copy(&bench) };
            bench.check_history(&(&name, at));
        }
    }
}

#[test]
fn a_torn_segment_is_scanned_in_one_pass() {
    let wide = Shape { segment: 1 << 20, capacity: 8 << 20, ..LARGE };
    let mut bench = Bench::new(wide);
    (0..2000).for_each(|n| assert!(bench.run(Op::Put(u8::try_from(n % 250).unwrap(), 100))));
    let next = bench.disk.after_kill();
    bench.reopen(next);
    bench.check(false, &"after the scan");
    assert!(bench.disk.bytes_read() < 4 << 20, "{} bytes read", bench.disk.bytes_read());
}

#[test]
fn the_capacity_is_never_passed_and_a_full_disk_gives_up_the_oldest() {
    let mut bench = Bench::new(SMALL);
    for n in 0..200 {
        assert!(bench.run(Op::Put(n, 600)));
        assert!(bench.disk.bytes() <= SMALL.capacity, "{} bytes", bench.disk.bytes());
    }
    assert!(bench.show(199).is_some() && bench.show(0).is_none());
    let mut bench = Bench::new(LARGE);
    bench.disk.set_room(Some(10 * 4096));
    (0..200).for_each(|n| assert!(bench.run(Op::Put(n, 600)), "the full disk stopped the store at {n}"));
    assert!(bench.show(199).is_some());
}

#[test]
fn a_dead_disk_is_left_alone_until_the_time_to_try_again() {
    let mut bench = Bench::new(LARGE);
    assert!(bench.run(Op::Put(1, 100)));
    bench.disk.plan(Plan::FailFrom(0));
    assert!(!bench.run(Op::Put(2, 100)));
    let (calls, _) = bench.disk.seen();
    assert!(!bench.run(Op::Put(2, 100)));
    assert_eq!(bench.disk.seen().0, calls, "it was asked again at once");
    bench.disk.plan(Plan::Sound);
    bench.disk.pass(Duration::from_secs(2));
    assert!(bench.run(Op::Put(2, 100)));
    bench.check(false, &"well again");
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..12u8, 0..1500u16).prop_map(|(n, length)| Op::Put(n, length)),
        3 => (0..12u8).prop_map(Op::Freshen),
        1 => (0..12u8).prop_map(Op::Remove),
        4 => (0..12u8).prop_map(Op::Get),
        1 => (0..12u8).prop_map(Op::Purge),
        1 => any::<bool>().prop_map(|kill| Op::Reopen { kill }),
    ]
}

proptest! {
    #[test]
    fn the_store_agrees_with_a_map(ops in prop::collection::vec(op(), 1..120)) {
        let mut bench = Bench::new(LARGE);
        for op in ops {
            prop_assert!(bench.run(op));
            bench.check(false, &op);
        }
    }

    #[test]
    fn a_small_store_agrees_with_a_map_but_for_what_it_evicts(ops in prop::collection::vec(op(), 1..200)) {
        let mut bench = Bench::new(SMALL);
        for op in ops {
            prop_assert!(bench.run(op));
            bench.check(true, &op);
            prop_assert!(bench.disk.bytes() <= SMALL.capacity);
        }
    }
}

/// A large object, written slice by slice, on a disk that fails for good at each call in turn.
#[test]
fn a_large_object_cut_at_any_call_is_whole_or_not_there() {
    let config = Config {
        directory: Some("double".into()),
        capacity: ByteSize::mib(8),
        segment: ByteSize::mib(1),
        slice: ByteSize::kib(256),
        memory: ByteSize(0),
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let body: Bytes = (0..3 << 18).flat_map(|word: u32| word.to_le_bytes()).collect();
    let write = async |disk: &Double| {
        let store = Store::open_on(vec![("double".into(), Arc::new(disk.clone()))], config.clone()).await.ok()?;
        let (directory, tags, expires, metadata) = (0, Tags::default(), None, Bytes::new());
        let born = store.purge_number();
        let head = Head { key: key(1), directory, tags, expires, metadata, length: None, born };
        let mut writer = store.writer(head).ok()?;
        for chunk in body.chunks(300_000) {
            writer.append(Bytes::copy_from_slice(chunk)).await.ok()?;
        }
        let done = writer.commit(None).await.ok().map(drop);
        // So that every call was made, also what follows writing behind the writer's back.
        store.close().await;
        done
    };
    let sound = Double::default();
    assert!(runtime.block_on(write(&sound)).is_some());
    let (calls, _) = sound.seen();
    assert!(calls > 20);
    for call in 0..=calls {
        let disk = Double::default();
        disk.plan(Plan::FailFrom(call));
        let done = runtime.block_on(write(&disk)).is_some();
        assert!(done || call < calls, "call {call}");
        runtime.block_on(async {
            let next = Arc::new(disk.after_kill());
            let store = Store::open_on(vec![("double".into(), next)], config.clone()).await.unwrap();
            let Some(object) = store.get(&key(1)).await else { return assert!(!done, "call {call}") };
            let mut at = 0;
            while at < object.len() {
                let part = object.read(at, 1 << 20).await.unwrap();
                assert!(body[usize::try_from(at).unwrap()..].starts_with(&part) && !part.is_empty());
                at += part.len() as u64;
            }
            assert_eq!(at, body.len() as u64);
        });
    }
}
