//! `kill -9` at a random moment of a mixed load, again and again: what was acknowledged is there, nothing else is.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use atoll_store::{ByteSize, Config, Head, Key, PurgeKind, Selector, Store};
use bytes::Bytes;

use crate::{body, on_disk, run, whole};

/// What a key shows: the version of its body, and how often, counted over all, it was freshened. `None`: nothing.
type Shown = Option<(u32, u32)>;

/// What is known of a key: what it must show, and what else it may show because something was under way.
#[derive(Clone, Debug, Default)]
struct Known {
    must: Shown,
    may: Vec<Shown>,
}

const TASKS: u16 = 4;
const KEYS: u16 = 40;
/// Rounds between which the directory is emptied, so that nothing is ever evicted.
const ROUNDS_A_DIRECTORY: u32 = 8;

fn key(n: u16) -> Key {
    let mut bytes = [3; 20];
    bytes[..2].copy_from_slice(&n.to_le_bytes());
    Key::from_bytes(bytes)
}

/// The body of a version: mostly short, now and then longer than a slice.
fn body_of(n: u16, version: u32) -> Bytes {
    let chance = (u32::from(n) * 31 + version).wrapping_mul(0x9e37_79b9) >> 16;
    let length = match chance % 100 {
        0 => 2_500_000,
        1..5 => 200_000,
        _ => chance % 5000,
    };
    body(usize::try_from(length + chance % 7).unwrap()).slice(usize::try_from(chance % 7).unwrap()..)
}

fn config(directory: &Path) -> Config {
    Config { capacity: ByteSize::gib(1), memory: ByteSize::mib(8), ..on_disk(directory) }
}

/// The test below runs this one in a process of its own, and kills it: not a test by itself.
#[test]
fn load_that_is_killed() {
    let Some(directory) = std::env::var_os("ATOLL_STORE_KILLED") else { return };
    let version: u32 = std::env::var("ATOLL_STORE_VERSION").unwrap().parse().unwrap();
    run(async {
        let store = Store::open(config(Path::new(&directory))).await.unwrap();
        let tasks: Vec<_> = (0..TASKS).map(|task| tokio::spawn(load(store.clone(), task, version))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

/// Changes the keys of one task without end, saying each time what will be done, and again when it is.
async fn load(store: Store, task: u16, mut version: u32) {
    let mut chance = version.wrapping_mul(2_654_435_761) ^ u32::from(task);
    loop {
        version += 1;
        chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let n = task + TASKS * (u16::try_from(chance >> 16).unwrap() % (KEYS / TASKS));
        let what = match (chance >> 8) % 100 {
            0..65 => "put",
            65..80 => "freshen",
            80..90 => "remove",
            90..98 => "purge",
            _ => "directory",
        };
        say(&format!("begin {what} {n} {version}"));
        match what {
            "put" => {
                let born = store.purge_number();
                let metadata = format!("{version} 0").into();
                let (key, tags, directory) = (key(n), atoll_store::Tags::default(), u64::from(task));
                let head = Head { key, directory, tags, expires: None, metadata, length: None, born };
                let mut writer = store.writer(head).unwrap();
                for chunk in body_of(n, version).chunks(300_000) {
                    writer.append(Bytes::copy_from_slice(chunk)).await.unwrap();
                }
                writer.commit(None).await.unwrap();
            }
            "freshen" => {
                let there = store.get(&key(n)).await;
                let Some((body, _)) = there.and_then(|object| parse(&object.head().metadata)) else { continue };
                store.freshen(&key(n), format!("{body} {version}").into(), None).await.unwrap();
            }
            "remove" => drop(store.remove(&key(n)).await.unwrap()),
            "purge" => drop(store.purge(Selector::Key(key(n)), PurgeKind::Hard).await.unwrap()),
            _ => drop(store.purge(Selector::Directory(u64::from(task)), PurgeKind::Hard).await.unwrap()),
        }
        say(&format!("done {what} {n} {version}"));
    }
}

/// The parent counts on what is said here, as a client would on an answer.
fn say(line: &str) {
    use std::io::Write as _;
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn parse(metadata: &[u8]) -> Option<(u32, u32)> {
    let (body, fresh) = str::from_utf8(metadata).ok()?.split_once(' ')?;
    Some((body.parse().ok()?, fresh.parse().ok()?))
}

#[test]
fn nothing_that_was_acknowledged_is_lost_and_no_wrong_byte_is_read_after_kill_9() {
    let rounds = if std::env::var_os("ATOLL_TEST_LONG").is_some() { 1000 } else { 24 };
    let (mut directory, mut known) = (tempfile::tempdir().unwrap(), BTreeMap::new());
    let mut version = 0;
    for round in 0..rounds {
        if round % ROUNDS_A_DIRECTORY == 0 {
            (directory, known) = (tempfile::tempdir().unwrap(), BTreeMap::new());
        }
        let mut child = spawn(directory.path(), version);
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let moment = 1 + (round.wrapping_mul(2_654_435_761) >> 16) % 400;
        // After the kill the rest of what it had said is still read.
        for (count, line) in lines.enumerate() {
            version = version.max(learn(&mut known, &line.unwrap()));
            if count == usize::try_from(moment).unwrap() {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        run(verify(directory.path(), &mut known, round));
    }
    assert!(version > rounds, "hardly anything was done");
}

fn spawn(directory: &Path, version: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed::load_that_is_killed", "--nocapture"])
        .env("ATOLL_STORE_KILLED", directory)
        .env("ATOLL_STORE_VERSION", version.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Takes in what the child said; the version it spoke of. A line that the kill cut short says nothing.
fn learn(known: &mut BTreeMap<u16, Known>, line: &str) -> u32 {
    let words: Vec<&str> = line.split(' ').collect();
    let [when, what, n, version] = words[..] else { return 0 };
    let (Ok(n), Ok(version)) = (n.parse::<u16>(), version.parse::<u32>()) else { return 0 };
    let keys: Vec<u16> =
        if what == "directory" { (0..KEYS).filter(|it| it % TASKS == n % TASKS).collect() } else { vec![n] };
    for n in keys {
        let known = known.entry(n).or_default();
        let after = match what {
            "put" => Some((version, 0)),
            "freshen" => known.must.map(|(body, _)| (body, version)),
            "remove" | "purge" | "directory" => None,
            _ => return 0,
        };
        if when == "begin" {
            known.may = vec![after];
        } else {
            *known = Known { must: after, may: Vec::new() };
        }
    }
    version
}

async fn verify(directory: &Path, known: &mut BTreeMap<u16, Known>, round: u32) {
    let store = Store::open(config(directory)).await.unwrap();
    for (n, known) in known {
        let object = store.get(&key(*n)).await;
        let shown = object.as_ref().map(|object| parse(&object.head().metadata).unwrap());
        assert!(shown == known.must || known.may.contains(&shown), "round {round}: {n} shows {shown:?}, {known:?}");
        if let (Some(object), Some((version, _))) = (object, shown) {
            assert_eq!(whole(&object).await, body_of(*n, version), "round {round}: the body of {n}");
        }
        *known = Known { must: shown, may: Vec::new() };
    }
    let stats = store.stats();
    assert_eq!((stats.checksum_failures, stats.disk_errors, stats.disk_evictions), (0, 0, 0), "round {round}");
}
