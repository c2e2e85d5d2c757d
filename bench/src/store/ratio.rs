//! Hit ratios of the RAM tier: the store's own, under S3-FIFO and under FIFO, and a strict LRU, on three streams.
//!
//! Every object weighs the same, so that one percent of the bytes is one percent of the objects. The streams: Zipf 0.9; the
//! same with a scan of objects that are never asked for again in every second request; and one in which 77 % of the
//! objects are asked for once, the share the S3-FIFO paper gives for short sequences of CDN traces.

use std::collections::{BTreeMap, HashMap};

use atoll_store::{ByteSize, Config, Eviction, Key, Store};
use bytes::Bytes;

use super::child::head;
use super::stream::{Chance, Zipf, key};
use super::told;
use crate::report::{Report, Row};

const OBJECTS: u32 = 100_000;
const REQUESTS: usize = 1_000_000;
/// Bytes that an object takes of the RAM tier.
const WEIGHT: u64 = 1024;
/// What the tier itself counts of that.
const OVERHEAD: u64 = 480;

pub(crate) fn measure(report: &mut Report) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(told)?;
    for (name, asked) in streams() {
        let mut objects = asked.clone();
        objects.sort_unstable();
        objects.dedup();
        for percent in [1, 10] {
            let entries = objects.len() as u64 * percent / 100;
            let ours = |eviction| runtime.block_on(misses(&asked, entries, eviction));
            let (s3, fifo) = (ours(Eviction::S3Fifo)?, ours(Eviction::Fifo)?);
            let row = Row::new(&format!("miss_{name}_{percent}_percent"), s3, "share");
            report.add(row.against("fifo", fifo).against("lru", lru(&asked, entries)));
        }
    }
    Ok(())
}

fn streams() -> [(&'static str, Vec<u64>); 3] {
    let zipf = Zipf::new(OBJECTS, 0.9);
    let mut chance = Chance::new(6);
    let plain: Vec<u64> = (0..REQUESTS).map(|_| zipf.draw(&mut chance)).collect();
    let once = (0..).map(|n| (1 << 40) + n);
    let scanned = plain.iter().take(REQUESTS / 2).zip(once.clone()).flat_map(|(often, once)| [*often, once]).collect();
    // Of ten objects 7.7 come once; the rest of the requests goes to the others by Zipf.
    let few = Zipf::new(OBJECTS / 100 * 23, 0.9);
    let mut once = once.take(usize::try_from(OBJECTS / 100 * 77).unwrap_or(usize::MAX));
    let mostly = (0..REQUESTS)
        .map(|at| if at.is_multiple_of(REQUESTS / 77_000) { once.next() } else { None })
        .map(|once| once.unwrap_or_else(|| few.draw(&mut chance)))
        .collect();
    [("zipf_0.9", plain), ("scan", scanned), ("one_hit_77", mostly)]
}

/// The share of requests that the store's RAM tier misses, a miss being followed by a fill.
#[expect(clippy::cast_precision_loss, reason = "a share")]
async fn misses(asked: &[u64], entries: u64, eviction: Eviction) -> Result<f64, String> {
    let memory = ByteSize(entries * WEIGHT);
    let config = Config { memory, eviction, metadata_limit: ByteSize(16), ..Config::default() };
    let store = Store::open(config).await.map_err(told)?;
    let body = Bytes::from(vec![0; usize::try_from(WEIGHT - OVERHEAD).map_err(told)?]);
    let mut missed = 0;
    for n in asked {
        if store.get(&Key::from_bytes(key(*n))).await.is_none() {
            missed += 1;
            let mut writer = store.writer(head(*n, &store)).map_err(told)?;
            writer.append(body.clone()).await.map_err(told)?;
            writer.commit(None).await.map_err(told)?;
        }
    }
    Ok(f64::from(missed) / asked.len() as f64)
}

/// The share that a strict LRU of as many objects misses.
#[expect(clippy::cast_precision_loss, reason = "a share")]
fn lru(asked: &[u64], entries: u64) -> f64 {
    let (mut last, mut order) = (HashMap::new(), BTreeMap::new());
    let mut missed = 0;
    for (now, n) in asked.iter().enumerate() {
        match last.insert(*n, now) {
            Some(before) => drop(order.remove(&before)),
            None => missed += 1,
        }
        order.insert(now, *n);
        if order.len() as u64 > entries
            && let Some((_, oldest)) = order.pop_first()
        {
            last.remove(&oldest);
        }
    }
    f64::from(missed) / asked.len() as f64
}
