//! Errands in the index, one after another and at a bounded rate: asking who is near a prefix, and saying that we are.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_overlay::{Found, Levels, Prefix, Put, Value};
use tokio::sync::mpsc;

use crate::{
    client::TOLD_FOR,
    near::Near,
    redirector::{Errand, Redirector},
};

/// Does errands until nobody can leave any more.
pub(crate) async fn run(redirector: Arc<Redirector>, mut errands: mpsc::Receiver<Errand>) {
    let mut each = tokio::time::interval(pace(redirector.config.limits.index_per_second));
    each.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while let Some(errand) = errands.recv().await {
        match errand {
            Errand::Ask(prefix) => {
                // Several questions of one prefix may have left the same errand.
                if redirector.is_to_ask(Instant::now(), prefix) {
                    each.tick().await;
                    ask(&redirector, prefix).await;
                }
            }
            Errand::Tell(prefix, near) => {
                each.tick().await;
                tell(&redirector, prefix, &near).await;
            }
        }
    }
}

async fn ask(redirector: &Redirector, prefix: Prefix) {
    let index = redirector.index.as_ref();
    let (near, seen) = tokio::join!(index.get(Near::key(prefix), Levels::All), index.get(prefix.key(), Levels::All));
    let (near, seen) = match (near, seen) {
        (Ok(near), Ok(seen)) => (values(near), values(seen)),
        (Err(error), _) | (_, Err(error)) => {
            tracing::debug!(%prefix, %error, "the index did not say who is near");
            return;
        }
    };
    let near = near.iter().filter_map(|value| Some((Near::decode(&value.value)?, value.ttl)));
    // The innermost cluster, then the nearest.
    let near = near.max_by_key(|(near, _)| (near.level, std::cmp::Reverse(near.rtt)));
    let seen = seen.iter().filter_map(|value| Some((value.holder, hint(&value.value)?)));
    redirector.asked(Instant::now(), prefix, near, seen.collect());
}

fn values(found: Found) -> Vec<Value> {
    match found {
        Found::Values { values, .. } => values,
        Found::Nothing => Vec::new(),
    }
}

/// The RTT that a node observed and the index keeps under the prefix key: microseconds, 4 bytes, big-endian.
fn hint(value: &[u8]) -> Option<Duration> {
    Some(Duration::from_micros(u32::from_be_bytes(value.try_into().ok()?).into()))
}

async fn tell(redirector: &Redirector, prefix: Prefix, near: &Near) {
    let put = Put { key: Near::key(prefix), value: near.encode(), ttl: TOLD_FOR, levels: Levels::All };
    if let Err(error) = redirector.index.put(put).await {
        tracing::debug!(%prefix, %error, "the index did not take who is near");
    }
}

/// The time between two of so many a second.
pub(crate) fn pace(per_second: u32) -> Duration {
    Duration::from_secs(1) / per_second.max(1)
}
