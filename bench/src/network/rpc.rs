//! Lookups between two nodes, each in a process of its own, while bulk flows between them, beside the same lookups alone.

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
    giver::{pair, take},
    node::CARRIERS,
    percentile, told,
};
use crate::{
    report::{Report, Row},
    rounds::median,
};

/// Lookups alone and beside bulk: the 95th percentile of each round, microseconds.
#[derive(Default)]
struct Figures {
    idle: Vec<f64>,
    busy: Vec<f64>,
}

pub(super) async fn measure(report: &mut Report, rounds: usize) -> Result<(), String> {
    for (carrier, listen) in CARRIERS {
        let (node, process, giver) = pair(listen).await?;
        let mut seed = 0;
        lookups(&node, &mut seed, &PACES[0]).await?;
        let (mut figures, mut speeds) = (PACES.map(|_| Figures::default()), Vec::new());
        for _ in 0..rounds {
            for (figures, pace) in figures.iter_mut().zip(&PACES) {
                figures.idle.push(percentile(&mut lookups(&node, &mut seed, pace).await?, 0.95));
            }
            let (taker, came) = (node.clone(), Arc::new(AtomicU64::default()));
            let counted = Arc::clone(&came);
            let mut flow = tokio::spawn(async move { take(&taker, giver, &counted).await });
            tokio::select! {
                error = &mut flow => return Err(error.map_err(told)?),
                begun = begun(&came, PATIENCE) => begun?,
            }
            let (before, began) = (came.load(Ordering::Relaxed), Instant::now());
            for (figures, pace) in figures.iter_mut().zip(&PACES) {
                figures.busy.push(percentile(&mut lookups(&node, &mut seed, pace).await?, 0.95));
            }
            speeds.push((came.load(Ordering::Relaxed) - before) as f64 / 1e6 / began.elapsed().as_secs_f64());
            if flow.is_finished() {
                return Err(flow.await.map_err(told)?);
            }
            flow.abort();
        }
        for (mut figures, pace) in figures.into_iter().zip(&PACES) {
            let worst = figures.busy.iter().copied().fold(f64::NAN, f64::max);
            let (idle, name) = (median(&mut figures.idle), pace.name);
            for (kind, figure) in [("", median(&mut figures.busy)), ("_worst_round", worst)] {
                let row = Row::new(&format!("rpc_p95_{carrier}{name}_beside_bulk{kind}"), figure, "us");
                report.add(row.against("idle", idle));
            }
        }
        report.note(format!("rpc, {carrier}: two processes, beside {:.0} MB/s of bulk", median(&mut speeds)));
        drop(process);
        node.stop().await;
    }
    report.note("rpc: one lookup after the other without a pause, and paced, one each millisecond".to_owned());
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
async fn lookups(node: &Overlay, seed: &mut u64, pace: &Pace) -> Result<Vec<f64>, String> {
    let mut figures = Vec::new();
    for _ in 0..pace.lookups {
        *seed += 1;
        if !pace.pause.is_zero() {
            sleep(pace.pause).await;
        }
        let began = Instant::now();
        node.get(Key::of(&seed.to_be_bytes()), Levels::Only(Level::GLOBAL)).await.map_err(told)?;
        figures.push(began.elapsed().as_secs_f64() * 1e6);
    }
    Ok(figures)
}

/// How fast lookups follow one another.
struct Pace {
    name: &'static str,
    pause: Duration,
    /// How many in a round.
    lookups: u32,
}

/// Without a pause they take as much of the processors as one thread can, and wait for their share beside bulk; messages in earnest
/// are some hundreds a second.
const PACES: [Pace; 2] = [
    Pace { name: "", pause: Duration::ZERO, lookups: 5_000 },
    Pace { name: "_paced", pause: Duration::from_millis(1), lookups: 1_000 },
];

/// Bytes of bulk that are past before lookups are measured beside it.
const BEGUN: u64 = 32 << 20;

/// How long these may take.
const PATIENCE: Duration = Duration::from_secs(60);

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
