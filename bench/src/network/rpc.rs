//! Lookups between two nodes while bulk flows between them, beside the same lookups alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use atoll_overlay::{Index as _, Key, Level, Levels, driver::Overlay};
use tokio::time::sleep;

use super::{
    node::{CARRIERS, overlays},
    peer::copied,
    percentile, told,
};
use crate::{
    report::{Report, Row},
    rounds::median,
};

pub(super) async fn measure(report: &mut Report, rounds: usize) -> Result<(), String> {
    for (carrier, listen) in CARRIERS {
        let nodes = overlays(listen, 2).await?;
        let [one, other] = &nodes[..] else { return Err("two nodes".to_owned()) };
        lookups(one, 0).await?;
        let (mut idle, mut busy, mut speeds) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            idle.push(percentile(&mut lookups(one, 2 * round as u64 + 1).await?, 0.95));
            let (from, to, came) = (other.clone(), one.clone(), Arc::new(AtomicU64::default()));
            let counted = Arc::clone(&came);
            let flow = tokio::spawn(async move {
                loop {
                    if let Err(error) = copied(&from, &to, FLOW, &counted).await {
                        return error;
                    }
                }
            });
            let flowed = async |least: u64| {
                while came.load(Ordering::Relaxed) < least && !flow.is_finished() {
                    sleep(Duration::from_millis(1)).await;
                }
                came.load(Ordering::Relaxed)
            };
            let (before, began) = (flowed(BEGUN).await, Instant::now());
            let figures = lookups(one, 2 * round as u64 + 2).await;
            speeds.push((came.load(Ordering::Relaxed) - before) as f64 / 1e6 / began.elapsed().as_secs_f64());
            if flow.is_finished() {
                return Err(flow.await.map_err(told)?);
            }
            flow.abort();
            busy.push(percentile(&mut figures?, 0.95));
        }
        let row = Row::new(&format!("rpc_p95_{carrier}_beside_bulk"), median(&mut busy), "us");
        report.add(row.against("idle", median(&mut idle)));
        report.note(format!("rpc, {carrier}: beside {:.0} MB/s of bulk", median(&mut speeds)));
        for node in &nodes {
            node.stop().await;
        }
    }
    Ok(())
}

/// Gets of keys that nobody has, one after the other: microseconds of each.
async fn lookups(node: &Overlay, round: u64) -> Result<Vec<f64>, String> {
    let mut figures = Vec::new();
    for number in 0..LOOKUPS {
        let key = Key::of(&[round.to_be_bytes(), number.to_be_bytes()].concat());
        let began = Instant::now();
        node.get(key, Levels::Only(Level::GLOBAL)).await.map_err(told)?;
        figures.push(began.elapsed().as_secs_f64() * 1e6);
    }
    Ok(figures)
}

/// Lookups a round.
const LOOKUPS: u64 = 5_000;

/// Bytes of bulk that are past before lookups are measured beside it.
const BEGUN: u64 = 32 << 20;

/// Bytes of one bulk stream; one follows the other.
const FLOW: u64 = 1_000_000_000;
