//! Ten million objects of 64 bytes on disk: what their index costs in RAM, how long a restart takes after `kill -9`, and
//! what it is like to delete half of them by tag while others are asked for.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use atoll_store::{ByteSize, Config, Key, PurgeKind, Selector, Store, StoreError};
use bytes::Bytes;
use clap::Subcommand;

use super::child::{command, head};
use super::stream::{Chance, key};
use super::told;
use crate::report::{Report, Row, print};

/// A child's part. Each prints a line of figures and then waits to be killed.
#[derive(Subcommand)]
pub(crate) enum Task {
    /// Puts the objects; seconds, bytes resident, bytes of the index.
    Build { directory: PathBuf, objects: u64 },
    /// Opens what is there; seconds, bytes resident, objects.
    Reopen { directory: PathBuf },
    /// Deletes half by tag; milliseconds until effective, p99 of gets before, during and after in microseconds, seconds of
    /// the sweep, objects it counted.
    Purge { directory: PathBuf, objects: u64 },
}

/// Fills under way at a time while the objects are put.
const FILLERS: u64 = 32;
/// How long gets are timed before a purge, and after its sweep.
const WINDOW: Duration = Duration::from_secs(4);

pub(crate) fn measure(report: &mut Report, scratch: &Path, objects: u64) -> Result<(), String> {
    let folder = scratch.to_str().ok_or("the scratch directory is no text")?;
    let count = objects.to_string();
    let [seconds, resident, index] = killed(&["build", folder, &count])?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let each = objects as f64;
    report.add(Row::new("build", each / seconds, "puts/s"));
    report.add(Row::new("index_resident", resident / 1e6, "MB"));
    report.add(Row::new("index_resident_per_object", resident / each, "B").against("goal", 24.0));
    report.add(Row::new("index_tables_per_object", index / each, "B"));
    forget_pages(scratch)?;
    let [cold, resident, found] = killed(&["reopen", folder])?;
    report.add(Row::new("reopen_cold", cold, "s").against("goal", 10.0));
    report.add(Row::new("reopened_resident", resident / 1e6, "MB").against("goal", 240.0));
    report.note(format!("{found} of {objects} objects were there after kill -9"));
    let [warm, ..] = killed::<3>(&["reopen", folder])?;
    report.add(Row::new("reopen_warm", warm, "s").against("goal", 5.0));
    let [effective, before, during, after, sweep, counted] = killed(&["purge", folder, &count])?;
    report.add(Row::new("purge_half_effective", effective, "ms").against("goal", 10.0));
    report.add(Row::new("get_p99_while_sweeping", during, "us").against("before", before));
    report.add(Row::new("get_p99_after_sweep", after, "us").against("before", before));
    report.add(Row::new("purge_half_sweep", sweep, "s"));
    report.note(format!("the sweep counted {counted} objects of {objects}"));
    Ok(())
}

/// Does a child's part.
pub(crate) async fn run(task: Task) -> Result<(), String> {
    let figures = match task {
        Task::Build { directory, objects } => build(directory, objects).await?,
        Task::Reopen { directory } => reopen(directory).await?,
        Task::Purge { directory, objects } => purge(directory, objects).await?,
    };
    print(&figures.iter().map(f64::to_string).collect::<Vec<_>>().join(" "));
    std::future::pending().await
}

/// Asks the system to keep nothing of these files in its page cache.
pub(crate) fn forget_pages(folder: &Path) -> Result<(), String> {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    for entry in std::fs::read_dir(folder).map_err(told)? {
        let file = File::open(entry.map_err(told)?.path()).map_err(told)?;
        file.sync_all().map_err(told)?;
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).map_err(told)?;
    }
    Ok(())
}

/// Runs a child until it has printed its figures, then kills it as a power failure of the process would.
fn killed<const N: usize>(words: &[&str]) -> Result<[f64; N], String> {
    let mut child = command()?.args(words).stdout(Stdio::piped()).spawn().map_err(told)?;
    let mut line = String::new();
    let read = child.stdout.take().map_or(Ok(0), |output| BufReader::new(output).read_line(&mut line));
    child.kill().and_then(|()| child.wait()).map_err(told)?;
    read.map_err(told)?;
    let figures: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    figures.try_into().map_err(|_| format!("{words:?} printed {line:?}"))
}

fn config(directory: PathBuf) -> Config {
    Config { directory: Some(directory), capacity: ByteSize::gib(16), memory: ByteSize(0), ..Config::default() }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
async fn build(directory: PathBuf, objects: u64) -> Result<Vec<f64>, String> {
    let begun = Instant::now();
    let store = Store::open(config(directory)).await.map_err(told)?;
    let tasks: Vec<_> = (0..FILLERS)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in (task..objects).step_by(32) {
                    let mut writer = store.writer(head(n, &store))?;
                    writer.append(body(n)).await?;
                    writer.commit(None).await?;
                }
                Ok::<_, StoreError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(told)?.map_err(told)?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(vec![seconds, resident()?, store.stats().index_bytes as f64])
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
async fn reopen(directory: PathBuf) -> Result<Vec<f64>, String> {
    let begun = Instant::now();
    let store = Store::open(config(directory)).await.map_err(told)?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(vec![seconds, resident()?, store.stats().objects as f64])
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
async fn purge(directory: PathBuf, objects: u64) -> Result<Vec<f64>, String> {
    // All in the page cache: the disk's own chances are not what is measured.
    for entry in std::fs::read_dir(&directory).map_err(told)? {
        let mut file = File::open(entry.map_err(told)?.path()).map_err(told)?;
        std::io::copy(&mut file, &mut std::io::sink()).map_err(told)?;
    }
    let store = Store::open(Config { memory: ByteSize::mib(64), ..config(directory) }).await.map_err(told)?;
    let (times, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let getter = tokio::spawn(gets(store.clone(), objects, Arc::clone(&times), Arc::clone(&stop)));
    // The first window warms up, the second counts.
    tokio::time::sleep(WINDOW).await;
    take(&times);
    tokio::time::sleep(WINDOW).await;
    let before = take(&times);
    let begun = Instant::now();
    let selector = Selector::Tags { directory: None, mask: 0xffff, value: 1, filter: None };
    let number = store.purge(selector, PurgeKind::Hard).await.map_err(told)?;
    let effective = begun.elapsed().as_secs_f64() * 1e3;
    if store.get(&Key::from_bytes(key(2))).await.is_some() || store.get(&Key::from_bytes(key(3))).await.is_none() {
        return Err("the purge took other objects than it was for".to_owned());
    }
    let (sweep, progress) = loop {
        let progress = store.purge_progress(number).unwrap_or_default();
        if progress.done || begun.elapsed() > Duration::from_secs(200) {
            break (begun.elapsed().as_secs_f64(), progress);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let during = take(&times);
    tokio::time::sleep(WINDOW).await;
    let after = take(&times);
    stop.store(true, Ordering::Relaxed);
    getter.await.map_err(told)?;
    Ok(vec![effective, p99(before), p99(during), p99(after), sweep, progress.removed as f64])
}

/// One get after another, of objects drawn evenly, each timed.
async fn gets(store: Store, objects: u64, times: Arc<Mutex<Vec<u32>>>, stop: Arc<AtomicBool>) {
    let mut chance = Chance::new(3);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let found = store.get(&Key::from_bytes(key(chance.next() % objects))).await;
        std::hint::black_box(found.is_some());
        let took = u32::try_from(begun.elapsed().as_nanos()).unwrap_or(u32::MAX);
        times.lock().unwrap_or_else(PoisonError::into_inner).push(took);
    }
}

fn take(times: &Mutex<Vec<u32>>) -> Vec<u32> {
    std::mem::take(&mut times.lock().unwrap_or_else(PoisonError::into_inner))
}

/// In microseconds.
fn p99(mut times: Vec<u32>) -> f64 {
    times.sort_unstable();
    times.get(times.len() * 99 / 100).map_or(f64::NAN, |nanoseconds| f64::from(*nanoseconds) / 1e3)
}

fn body(n: u64) -> Bytes {
    let word = n.to_le_bytes();
    word.repeat(8).into()
}

/// Bytes of this process that are in RAM.
fn resident() -> Result<f64, String> {
    let text = std::fs::read_to_string("/proc/self/status").map_err(told)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse::<f64>().ok());
    kibibytes.map(|kibibytes| kibibytes * 1024.0).ok_or_else(|| "no VmRSS in /proc/self/status".to_owned())
}
