//! Lookups between two nodes while bulk flows between them, beside the same lookups alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use atoll_overlay::{Index as _, Key, Level, Levels, driver::Overlay};
use tokio::time::{sleep, timeout};

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
            let mut flow = tokio::spawn(async move {
                loop {
                    if let Err(error) = copied(&from, &to, FLOW, &counted).await {
                        return error;
                    }
                }
            });
            tokio::select! {
                error = &mut flow => return Err(error.map_err(told)?),
                begun = begun(&came, PATIENCE) => begun?,
            }
            let (before, began) = (came.load(Ordering::Relaxed), Instant::now());
            let figures = lookups(one, 2 * round as u64 + 2).await;
            speeds.push((came.load(Ordering::Relaxed) - before) as f64 / 1e6 / began.elapsed().as_secs_f64());
            if flow.is_finished() {
                return Err(flow.await.map_err(told)?);
            }
            flow.abort();
            busy.push(percentile(&mut figures?, 0.95));
        }
        let (idle, worst) = (median(&mut idle), busy.iter().copied().fold(f64::NAN, f64::max));
        for (name, figure) in [("beside_bulk", median(&mut busy)), ("beside_bulk_worst_round", worst)] {
            report.add(Row::new(&format!("rpc_p95_{carrier}_{name}"), figure, "us").against("idle", idle));
        }
        report.note(format!("rpc, {carrier}: beside {:.0} MB/s of bulk", median(&mut speeds)));
        for node in &nodes {
            node.stop().await;
        }
    }
    Ok(())
}

/// Waits until bulk flows; an error if it does not within the limit.
async fn begun(came: &AtomicU64, limit: Duration) -> Result<(), String> {
    let begun = async {
        while came.load(Ordering::Relaxed) < BEGUN {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let late = |_| format!("{} of {BEGUN} bytes of bulk came in {limit:?}", came.load(Ordering::Relaxed));
    timeout(limit, begun).await.map_err(late)
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

/// How long these may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of one bulk stream; one follows the other.
const FLOW: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bulk_that_stands_still_is_told_of() {
        let error = begun(&AtomicU64::new(7), Duration::ZERO).await.unwrap_err();
        assert_eq!(error, "7 of 33554432 bytes of bulk came in 0ns");
        begun(&AtomicU64::new(BEGUN), Duration::ZERO).await.unwrap();
    }
}
