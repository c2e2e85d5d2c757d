//! What runs in a child process of the bench: one measurement of the store a run, its figures on standard output.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atoll_store::{ByteSize, Config, Head, Key, Store, Tags};
use bytes::Bytes;
use clap::Subcommand;

use super::peers::figures;
use super::{bare, index, stream, told};
use crate::report::print;

/// One measurement.
#[derive(Subcommand)]
pub(crate) enum Task {
    /// Gets a second from the RAM tier.
    Memory { objects: u32, threads: u64, seconds: f64 },
    /// Gets a second from a bare map of shared bodies: what no cache can be much faster than.
    Map { objects: u32, threads: u64, seconds: f64 },
    /// Bytes a second put to disk, so many fills at a time, closing included.
    Put { directory: PathBuf, bytes: u64, body: usize, fills: u64 },
    /// Bytes a second that a store of the same shape puts to disk at most.
    Bare { directory: PathBuf, bytes: u64, body: usize },
    /// Bytes a second that one file takes, written in order and synced: what the device can do.
    Device { directory: PathBuf, bytes: u64 },
    /// Ten million objects and what is done with them.
    #[command(flatten)]
    Index(index::Task),
}

/// Does one measurement and prints its figures.
pub(crate) fn run_task(task: Task) -> Result<(), String> {
    let figure = match task {
        Task::Memory { objects, threads, seconds } => memory(objects, threads, seconds)?,
        Task::Map { objects, threads, seconds } => map(objects, threads, seconds),
        Task::Put { directory, bytes, body, fills } => runtime()?.block_on(put(directory, bytes, body, fills))?,
        Task::Bare { directory, bytes, body } => bare::measure(&directory, bytes, body).map_err(told)?,
        Task::Device { directory, bytes } => device(&directory, bytes).map_err(told)?,
        Task::Index(task) => return runtime()?.block_on(index::run(task)),
    };
    print(&figure.to_string());
    Ok(())
}

/// The figures of a measurement in a child process.
pub(crate) fn figures_of(words: &[&str]) -> Result<Vec<f64>, String> {
    figures(command()?.args(words))
}

/// This program, about to be a child.
pub(crate) fn command() -> Result<Command, String> {
    let mut command = Command::new(std::env::current_exe().map_err(told)?);
    command.arg("store-child");
    Ok(command)
}

/// Object `n` of a bench.
pub(crate) fn head(n: u64, store: &Store) -> Head {
    Head {
        key: Key::from_bytes(stream::key(n)),
        directory: n % 1000,
        tags: Tags([u16::from(n.is_multiple_of(2)), 0, 0, 0]),
        expires: None,
        metadata: Bytes::new(),
        length: None,
        born: store.purge_number(),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(told)
}

fn memory(objects: u32, threads: u64, seconds: f64) -> Result<f64, String> {
    let runtime = runtime()?;
    let config = Config { memory: ByteSize::gib(1), ..Config::default() };
    let store = runtime.block_on(Store::open(config)).map_err(told)?;
    for n in 0..u64::from(objects) {
        let filled = async {
            let mut writer = store.writer(head(n, &store))?;
            writer.append(Bytes::from(vec![1; stream::size(n)])).await?;
            writer.commit(None).await
        };
        runtime.block_on(filled).map_err(told)?;
    }
    Ok(asking(objects, threads, seconds, |asked| {
        let local = tokio::runtime::Builder::new_current_thread().build();
        local.map(|local| local.block_on(gets(&store, asked, seconds))).unwrap_or_default()
    }))
}

fn map(objects: u32, threads: u64, seconds: f64) -> f64 {
    let bodies = (0..u64::from(objects)).map(|n| (stream::key(n), Arc::new(Bytes::from(vec![1; stream::size(n)]))));
    let map: HashMap<_, _> = bodies.collect();
    asking(objects, threads, seconds, |asked| {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        let mut count = 0;
        loop {
            for keys in asked.chunks(1024) {
                for key in keys {
                    let found = map.get(key).cloned().map_or(0, |body| body.len());
                    std::hint::black_box(found);
                }
                count += keys.len() as u64;
                if Instant::now() >= end {
                    return count;
                }
            }
        }
    })
}

/// Requests a second that `threads` make, each of keys drawn by Zipf 1.0.
fn asking(objects: u32, threads: u64, seconds: f64, ask: impl Fn(&[[u8; 20]]) -> u64 + Sync) -> f64 {
    let zipf = stream::Zipf::new(objects, 1.0);
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let mut chance = stream::Chance::new(thread + 1);
            let asked: Vec<_> = (0..1 << 20).map(|_| stream::key(zipf.draw(&mut chance))).collect();
            let (ask, done) = (&ask, &done);
            scope.spawn(move || done.fetch_add(ask(&asked), Ordering::Relaxed));
        }
    });
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = done.load(Ordering::Relaxed) as f64 / seconds;
    rate
}

async fn gets(store: &Store, asked: &[[u8; 20]], seconds: f64) -> u64 {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut count = 0;
    loop {
        for keys in asked.chunks(1024) {
            for key in keys {
                let found = store.get(&Key::from_bytes(*key)).await.map_or(0, |object| object.len());
                std::hint::black_box(found);
            }
            count += keys.len() as u64;
            if Instant::now() >= end {
                return count;
            }
        }
    }
}

/// Bodies come as the proxy hands them in: one chunk of their own each. Each fill waits until the one before it is stored.
async fn put(directory: PathBuf, bytes: u64, body: usize, fills: u64) -> Result<f64, String> {
    let config = Config {
        directory: Some(directory),
        capacity: ByteSize(2 * bytes),
        memory: ByteSize::mib(64),
        ..Config::default()
    };
    let store = Store::open(config).await.map_err(told)?;
    let load: Vec<u8> = (0..=250).cycle().take(body).collect();
    let begun = Instant::now();
    let count = bytes / body as u64;
    let step = usize::try_from(fills).map_err(told)?;
    let tasks: Vec<_> = (0..fills)
        .map(|fill| {
            let (store, load) = (store.clone(), load.clone());
            tokio::spawn(async move {
                for n in (fill..count).step_by(step) {
                    let mut writer = store.writer(head(n, &store))?;
                    writer.append(Bytes::copy_from_slice(&load)).await?;
                    writer.commit(None).await?;
                }
                Ok::<_, atoll_store::StoreError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(told)?.map_err(told)?;
    }
    store.close().await;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    Ok((count * body as u64) as f64 / begun.elapsed().as_secs_f64())
}

fn device(directory: &std::path::Path, bytes: u64) -> std::io::Result<f64> {
    use std::io::Write as _;
    let load = vec![7; 1 << 20];
    let begun = Instant::now();
    let mut file = std::fs::File::create(directory.join("device"))?;
    for _ in 0..bytes >> 20 {
        file.write_all(&load)?;
    }
    file.sync_data()?;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    Ok((bytes >> 20 << 20) as f64 / begun.elapsed().as_secs_f64())
}
