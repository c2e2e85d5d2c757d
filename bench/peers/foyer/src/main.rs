//! foyer, and plain file calls, under the same load as the store's bench puts on the store: one measurement a run, its
//! figures on standard output, separated by spaces.
//!
//! ```text
//! memory OBJECTS THREADS SECONDS            gets a second from foyer's in-memory tier, objects of 16 B to 4 KiB, Zipf 1.0
//! put DIRECTORY BYTES BODY                  bytes a second that foyer's disk tier took, closing included
//! read FILE BODY SECONDS WAY DEPTH          reads a second and CPU time each; WAY as in reads.rs
//! ```

mod reads;
#[path = "../../../src/store/stream.rs"]
#[allow(dead_code, reason = "each program uses a part of it")]
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use foyer::{
    BlockEngineConfig, Cache, CacheBuilder, DeviceBuilder, FsDeviceBuilder, HybridCacheBuilder, HybridCachePolicy,
    RecoverMode, S3FifoConfig,
};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["memory", objects, threads, seconds] => memory(objects.parse()?, threads.parse()?, seconds.parse()?),
        ["put", directory, bytes, body] => runtime()?.block_on(put(directory, bytes.parse()?, body.parse()?)),
        ["read", file, body, seconds, way, depth] => {
            reads::run(file, body.parse()?, Duration::from_secs_f64(seconds.parse()?), way, depth.parse()?)
        }
        _ => Err("memory OBJECTS THREADS SECONDS | put DIRECTORY BYTES BODY | read FILE BODY SECONDS WAY DEPTH".into()),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Everything fits: what is measured is a hit.
fn memory(objects: u32, threads: u64, seconds: f64) -> Result<(), Failure> {
    let cache: Cache<[u8; 20], Bytes> = CacheBuilder::new(1 << 30)
        .with_shards(64)
        .with_eviction_config(S3FifoConfig::default())
        .with_weighter(|_, body: &Bytes| body.len())
        .build();
    for n in 0..u64::from(objects) {
        cache.insert(stream::key(n), Bytes::from(vec![1; stream::size(n)]));
    }
    let zipf = stream::Zipf::new(objects, 1.0);
    let done = Arc::new(AtomicU64::new(0));
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let mut chance = stream::Chance::new(thread + 1);
            let asked: Vec<_> = (0..1 << 20).map(|_| stream::key(zipf.draw(&mut chance))).collect();
            let (cache, done) = (&cache, &done);
            scope.spawn(move || {
                let end = end.max(Instant::now() + Duration::from_secs_f64(seconds));
                let mut count = 0;
                'all: loop {
                    for keys in asked.chunks(1024) {
                        for key in keys {
                            let found = cache.get(key).map_or(0, |entry| entry.value().len());
                            std::hint::black_box(found);
                        }
                        count += keys.len() as u64;
                        if Instant::now() >= end {
                            break 'all;
                        }
                    }
                }
                done.fetch_add(count, Ordering::Relaxed);
            });
        }
    });
    println!("{}", done.load(Ordering::Relaxed) as f64 / seconds);
    Ok(())
}

async fn put(directory: &str, bytes: u64, body: usize) -> Result<(), Failure> {
    let device = FsDeviceBuilder::new(directory).with_capacity(2 * usize::try_from(bytes)?).build()?;
    let statistics = Arc::clone(device.statistics());
    let engine = BlockEngineConfig::new(device).with_block_size(64 << 20).with_buffer_pool_size(128 << 20);
    let cache = HybridCacheBuilder::<u64, Bytes>::new()
        .with_policy(HybridCachePolicy::WriteOnInsertion)
        .memory(64 << 20)
        .with_weighter(|_: &u64, body: &Bytes| body.len())
        .storage()
        .with_engine_config(engine.with_submit_queue_size_threshold(256 << 20))
        .with_recover_mode(RecoverMode::None)
        .build()
        .await?;
    let begun = Instant::now();
    let load = Bytes::from((0..body).map(|at| (at % 251) as u8).collect::<Vec<_>>());
    for n in 0..bytes / body as u64 {
        // What is queued beyond its bound it drops: it is given the time to write instead.
        while n * (body as u64) > statistics.disk_write_bytes() as u64 + (64 << 20) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        cache.insert(n, Bytes::copy_from_slice(&load));
    }
    cache.close().await?;
    for entry in std::fs::read_dir(directory)? {
        std::fs::File::open(entry?.path())?.sync_data()?;
    }
    println!("{}", statistics.disk_write_bytes() as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}
