//! Errands, one after another and begun at a bounded rate: asking the index who is near a prefix, saying that we are, and sending
//! scouts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_overlay::{Found, Level, Levels, Prefix, Put, Value};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    client::TOLD_FOR,
    near::Near,
    redirector::{Errand, Redirector},
    scout,
};

/// Does errands until nobody can leave any more.
pub(crate) async fn run(redirector: Arc<Redirector>, mut errands: mpsc::Receiver<Errand>) {
    let mut each = tokio::time::interval(pace(redirector.config.limits.index_per_second));
    each.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // At the given rate, each of a few seconds, no more than a few hundred can be under way at once.
    let mut searches = JoinSet::new();
    while let Some(errand) = errands.recv().await {
        while searches.try_join_next().is_some() {}
        match errand {
            Errand::Ask(prefix) => {
                // Several questions of one prefix may have left the same errand.
                if redirector.is_to_ask(Instant::now(), prefix) {
                    each.tick().await;
                    ask(&redirector, prefix).await;
                }
            }
            Errand::AskSoon(prefix) => {
                each.tick().await;
                searches.spawn(ask_soon(Arc::clone(&redirector), prefix));
            }
            Errand::Search(address, servers) => {
                each.tick().await;
                searches.spawn(scout::search(Arc::clone(&redirector), address, servers));
            }
            Errand::Tell(prefix, near) => {
                each.tick().await;
                tell(&redirector, prefix, &near).await;
            }
        }
    }
}

async fn ask_soon(redirector: Arc<Redirector>, prefix: Prefix) {
    tokio::time::sleep(SOON).await;
    if redirector.is_to_ask(Instant::now(), prefix) {
        ask(&redirector, prefix).await;
    }
}

async fn ask(redirector: &Redirector, prefix: Prefix) {
    let index = redirector.index.as_ref();
    // Who is nearest is asked of everybody: this server's own cluster may have less to say.
    let (near, seen) =
        tokio::join!(index.get(Near::key(prefix), Levels::Only(Level::GLOBAL)), index.get(prefix.key(), Levels::All));
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

/// How long it takes until a server that finds itself near a prefix has said so in the index. \[guess\]
const SOON: Duration = Duration::from_millis(1500);

/// The time between two of so many a second.
pub(crate) fn pace(per_second: u32) -> Duration {
    Duration::from_secs(1) / per_second.max(1)
}
