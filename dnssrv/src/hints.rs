//! Errands, begun at a bounded rate: asking the index who is near a prefix, saying that we are, and sending
//! scouts.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_overlay::{Found, Level, Levels, Prefix, Put, Value};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    client::SAID_WITHIN,
    near::{Near, TOLD_FOR},
    redirector::{Errand, Redirector},
    scout,
};

/// Does errands until nobody can leave any more.
pub(crate) async fn run(redirector: Arc<Redirector>, mut errands: mpsc::Receiver<Errand>) {
    let mut pace = Pace::new(Instant::now(), redirector.config.limits.index_per_second);
    let mut under_way = JoinSet::new();
    // Several questions of one prefix may have left the same errand.
    let mut asking: BTreeSet<Question> = BTreeSet::new();
    while let Some(errand) = errands.recv().await {
        while let Some(done) = under_way.try_join_next() {
            forget(&mut asking, done);
        }
        if under_way.len() >= AT_ONCE
            && let Some(done) = under_way.join_next().await
        {
            forget(&mut asking, done);
        }
        let redirector = Arc::clone(&redirector);
        match errand {
            Errand::Ask(prefix) | Errand::AskSoon(prefix) => {
                let soon = matches!(errand, Errand::AskSoon(_));
                let question = Question { prefix, soon };
                if !(soon || redirector.is_to_ask(Instant::now(), prefix)) || !asking.insert(question) {
                    continue;
                }
                pace.wait().await;
                under_way.spawn(async move {
                    if soon {
                        tokio::time::sleep(SAID_WITHIN).await;
                    }
                    ask(&redirector, prefix).await;
                    Some(question)
                });
            }
            Errand::Search(quest) => {
                pace.wait().await;
                under_way.spawn(async move {
                    scout::search(redirector, quest).await;
                    None
                });
            }
            Errand::Ahead(address) => {
                pace.wait().await;
                under_way.spawn(async move {
                    scout::ahead(redirector, address).await;
                    None
                });
            }
            Errand::Tell(prefix, near) => {
                pace.wait().await;
                under_way.spawn(async move {
                    tell(&redirector, prefix, &near).await;
                    None
                });
            }
        }
    }
}

/// What the index is being asked. Who asks it at once hears nothing yet of what is found out in this moment, so that is no reason
/// not to ask soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Question {
    prefix: Prefix,
    soon: bool,
}

fn forget(asking: &mut BTreeSet<Question>, done: Result<Option<Question>, tokio::task::JoinError>) {
    match done {
        Ok(question) => {
            question.map(|question| asking.remove(&question));
        }
        // One that panicked is ours to repair; whose it was is not known any more.
        Err(_) => asking.clear(),
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
    let near: Vec<(Near, Duration)> =
        near.iter().filter_map(|value| Some((Near::decode(&value.value)?, value.ttl))).collect();
    let is_latest = |(one, _): &&(Near, Duration)| !near.iter().any(|(other, _)| one.is_before(other));
    // One that is not known to be dead, of these the innermost cluster, then the nearest.
    let roster = redirector.roster();
    let rank = |near: &Near| (roster.lives(near), near.level, std::cmp::Reverse(near.rtt));
    let near = near.iter().filter(is_latest).max_by_key(|(near, _)| rank(near));
    let near = near.cloned();
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
    // Asked of everybody, so told to everybody: a copy in a near cluster would answer alone for all that was said.
    let put = Put { key: Near::key(prefix), value: near.encode(), ttl: TOLD_FOR, levels: Levels::Only(Level::GLOBAL) };
    if let Err(error) = redirector.index.put(put).await {
        tracing::debug!(%prefix, %error, "the index did not take who is near");
    }
}

/// Errands under way at a time. \[guess\]
const AT_ONCE: usize = 64;

/// So many beginnings a second: as many at once after a quiet second, the others evenly.
#[derive(Debug)]
pub(crate) struct Pace {
    per_second: u32,
    left: f64,
    at: Instant,
}

impl Pace {
    /// At most one a second even if 0 are allowed: who asks for none asks nobody.
    pub(crate) fn new(now: Instant, per_second: u32) -> Self {
        let per_second = per_second.max(1);
        Self { per_second, left: f64::from(per_second), at: now }
    }

    /// How long the next one has to wait; it counts as begun after that.
    pub(crate) fn next(&mut self, now: Instant) -> Duration {
        let rate = f64::from(self.per_second);
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        self.left = (self.left + gained).min(rate) - 1.0;
        self.at = now.max(self.at);
        Duration::from_secs_f64((-self.left).max(0.0) / rate)
    }

    /// Whether one more may begin at once that is not urgent: half of what a second allows is left to others. If so it counts as
    /// begun.
    pub(crate) fn spare(&mut self, now: Instant) -> bool {
        let before = (self.left, self.at);
        let spare = self.next(now).is_zero() && self.left * 2.0 >= f64::from(self.per_second);
        if !spare {
            (self.left, self.at) = before;
        }
        spare
    }

    /// Waits for it.
    pub(crate) async fn wait(&mut self) {
        let time = self.next(Instant::now());
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_quiet_second_as_many_begin_at_once_and_then_evenly() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 10);
        assert!((0..10).all(|_| pace.next(start).is_zero()));
        assert_eq!(pace.next(start).as_millis(), 100);
        let later = start + Duration::from_millis(200);
        assert_eq!((pace.next(later).as_millis(), pace.next(later).as_millis()), (0, 100));
        let quiet = start + Duration::from_secs(60);
        assert_eq!((0..20).filter(|_| pace.next(quiet).is_zero()).count(), 10);
    }

    #[test]
    fn what_is_not_urgent_leaves_half_of_a_second_to_the_rest_and_waits_for_nothing() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 10);
        assert_eq!((0..20).filter(|_| pace.spare(start)).count(), 5);
        assert!((0..5).all(|_| pace.next(start).is_zero()) && !pace.next(start).is_zero());
        assert!(!pace.spare(start + Duration::from_millis(500)), "what was refused was not counted: 4 are left of 10");
        assert!(pace.spare(start + Duration::from_millis(800)));
    }
}
