//! Clusters that a node does not join for now: those that were found too far, each time for twice as long, and those that it left.
//! What was measured of the far ones is kept, so that a lucky sample does not outweigh the ones before it.

use std::{collections::VecDeque, time::Duration};

use super::time::Instant;
use crate::Key;

/// What one membership remembers of other clusters.
#[derive(Debug, Default)]
pub(super) struct Shunned {
    /// Found too far.
    rejected: Vec<Rejected>,
    /// This node was in them, oldest first.
    left: VecDeque<Left>,
}

impl Shunned {
    /// Whether a cluster was found too far lately, or was left less than this long ago; each time it was left doubles that.
    pub(super) fn contains(&self, now: Instant, cluster: &Key, hold_down: Duration) -> bool {
        self.rejected.iter().any(|one| one.cluster == *cluster && one.until > now)
            || self.left.iter().any(|one| {
                one.cluster == *cluster
                    && (now.since(one.at) < hold_down * (1 << one.times)
                        || one.parted_until.is_some_and(|end| end > now))
            })
    }

    /// Whether a cluster was found too far for good: by a full sample since distances last changed, as far as is remembered.
    pub(super) fn is_far(&self, cluster: &Key) -> bool {
        self.rejected.iter().any(|one| one.cluster == *cluster && one.measured.full)
    }

    /// What was measured of a cluster that was found too far, the last few times.
    pub(super) fn measured(&self, cluster: &Key) -> Measured {
        self.rejected.iter().find(|one| one.cluster == *cluster).map(|one| one.measured).unwrap_or_default()
    }

    /// Whether this node was in a cluster, as far as it remembers.
    pub(super) fn was_left(&self, cluster: &Key) -> bool {
        self.left.iter().any(|one| one.cluster == *cluster)
    }

    /// A cluster was found too far: at first it is not tried again for so long, and for no longer than that.
    pub(super) fn reject(
        &mut self,
        now: Instant,
        cluster: Key,
        measured: Measured,
        (first, longest): (Duration, Duration),
    ) {
        let before = self.rejected.iter().find(|one| one.cluster == cluster).map(|one| one.pause);
        let pause = before.map_or(first, |before| (before * 2).max(first)).min(longest);
        self.rejected.retain(|one| one.cluster != cluster);
        if self.rejected.len() >= REMEMBERED {
            self.rejected.remove(0);
        }
        self.rejected.push(Rejected { cluster, until: now + pause, pause, measured });
    }

    /// A cluster is being left.
    pub(super) fn note_left(&mut self, now: Instant, cluster: Key) {
        let before = self.left.iter().position(|one| one.cluster == cluster).and_then(|at| self.left.remove(at));
        if self.left.len() >= REMEMBERED {
            self.left.pop_front();
        }
        let times = before.as_ref().map_or(0, |before| (before.times + 1).min(LEFT_MOST));
        let parted_until = before.and_then(|before| before.parted_until);
        self.left.push_back(Left { cluster, at: now, times, parted_until });
    }

    /// The cluster that was left last fell into parts.
    pub(super) fn note_parted(&mut self, until: Instant) {
        if let Some(left) = self.left.back_mut() {
            left.parted_until = Some(until);
        }
    }

    /// Those that were too far may be near now.
    pub(super) fn forget_far(&mut self) {
        self.rejected.clear();
    }

    /// Those that were left may be near again, but for those that fell into parts.
    pub(super) fn forget_left(&mut self) {
        self.left.retain(|one| one.parted_until.is_some());
    }
}

/// A cluster found too far.
#[derive(Debug)]
struct Rejected {
    cluster: Key,
    /// Until when it is not tried again.
    until: Instant,
    /// For how long it was not to be tried; doubles each time.
    pause: Duration,
    /// What was measured of it.
    measured: Measured,
}

/// A cluster that was left.
#[derive(Debug)]
struct Left {
    cluster: Key,
    at: Instant,
    /// How often it was left before.
    times: u32,
    /// It fell into parts: until then it is not joined again whatever has changed.
    parted_until: Option<Instant>,
}

/// How many of a cluster's members were measured, and how many of these are near.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Measured {
    pub(super) near: u32,
    pub(super) all: u32,
    /// They are a full sample, or were once: what fewer show may be chance.
    pub(super) full: bool,
}

impl Measured {
    /// With what was measured before. What was tried often counts less: a cluster changes.
    pub(super) const fn with(self, before: Self) -> Self {
        let (near, all, full) = (self.near + before.near, self.all + before.all, self.full || before.full);
        if all > MEASURED_MOST { Self { near: near / 2, all: all / 2, full } } else { Self { near, all, full } }
    }
}

/// Past so many members measured of a cluster that was tried several times half of them are forgotten. `[guess]`
const MEASURED_MOST: u32 = 96;

/// A cluster that was left doubles its hold-down so often at most.
const LEFT_MOST: u32 = 8;

/// Clusters of either kind that are remembered.
const REMEMBERED: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_that_is_lucky_once_does_not_outweigh_those_before() {
        let (now, pause) = (Instant::START, Duration::from_secs(3));
        let mut shunned = Shunned::default();
        let unlucky = Measured { near: 8, all: 12, full: true };
        shunned.reject(now, Key::ZERO, unlucky, (pause, pause));
        let both = Measured { near: 12, all: 12, full: true }.with(shunned.measured(&Key::ZERO));
        assert_eq!((both.near, both.all), (20, 24));
        let many = (0..100).fold(both, |sum, _| unlucky.with(sum));
        assert!(many.all <= MEASURED_MOST && many.near * 12 <= many.all * 8 + 24, "{many:?}");
        let other = shunned.measured(&Key::from_bytes([1; Key::BYTES]));
        assert_eq!(other.all, 0, "nothing was measured of another one");
    }
}
