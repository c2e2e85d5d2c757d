//! Clusters that a node at home has just heard of for the first time, as when two networks meet: they may become one with its own, as
//! clusters do that are young, however long each has stood by itself.

use std::time::Duration;

use super::{Contact, Node, cluster::HOME_AFTER, order::SMALL, peers::Known, time::Instant};
use crate::{Key, Level};

/// The clusters met last at one level.
#[derive(Debug, Default)]
pub(super) struct Met {
    clusters: Vec<Meeting>,
}

/// A cluster that was met.
#[derive(Debug)]
struct Meeting {
    cluster: Key,
    /// When it was met.
    at: Instant,
    /// When somebody of it was known last, as far as was looked.
    about: Instant,
    /// How often it was met again.
    times: u32,
}

impl Met {
    /// A cluster was heard of of which nobody known was. Who says once more that a cluster is new gives it no more time, unless by one
    /// who was lost and is back when nobody of it was known for long: then the network was in parts, and strangers who only pass do not
    /// count. Each time it is met again doubles that time, so that a member that comes and goes does not make it new for ever.
    pub(super) fn note(&mut self, now: Instant, cluster: Key, back: bool) {
        if let Some(one) = self.clusters.iter_mut().find(|one| one.cluster == cluster) {
            if back && now.since(one.about) >= HOME_AFTER * (1 << one.times) {
                (one.at, one.times) = (now, (one.times + 1).min(AGAIN_MOST));
            }
            one.about = now;
            return;
        }
        if self.clusters.len() >= REMEMBERED {
            let longest_gone = self.clusters.iter().enumerate().min_by_key(|(_, one)| one.about);
            self.clusters.remove(longest_gone.map_or(0, |(place, _)| place));
        }
        self.clusters.push(Meeting { cluster, at: now, about: now, times: 0 });
    }

    /// Notes of which of them somebody is known.
    pub(super) fn look(&mut self, now: Instant, is_about: impl Fn(&Key) -> bool) {
        for one in self.clusters.iter_mut().filter(|one| is_about(&one.cluster)) {
            one.about = now;
        }
    }

    /// Whether a cluster was met so short a time ago.
    pub(super) fn holds(&self, now: Instant, cluster: &Key, span: Duration) -> bool {
        self.clusters.iter().any(|one| one.cluster == *cluster && now.since(one.at) < span)
    }
}

impl Node {
    /// A node that was reached said which clusters it is in as it had not said before: of those near, some are heard of for the first
    /// time, or again from one who was lost and is back, as when two networks meet.
    pub(super) fn note_met(&mut self, now: Instant, from: Contact, back: bool) {
        let Some(known) = self.peers.get(from) else { return };
        let mut met = Vec::new();
        for own in &self.memberships {
            let Some(limit) = self.config.threshold(own.level) else { continue };
            let tag = known.tag(own.level).filter(|tag| tag.id != own.id && tag.size > SMALL);
            let Some(cluster) = tag.map(|tag| tag.id).filter(|id| is_of(known, own.level, id, limit)) else { continue };
            let knows = |one: &Known| one.contact() != from && is_of(one, own.level, &cluster, limit);
            if own.is_home(now, own.size(now, self.seen(own.level))) && !self.peers.iter().any(knows) {
                met.push((own.level, cluster));
            }
        }
        for (level, cluster) in met {
            if let Some(own) = self.membership_mut(level) {
                own.met.get_or_insert_default().note(now, cluster, back);
            }
        }
    }

    /// Looks which of the clusters that were met are still about.
    pub(super) fn look_for_met(&mut self, now: Instant) {
        let peers = &self.peers;
        for own in &mut self.memberships {
            if let (Some(limit), Some(met)) = (self.config.threshold(own.level), own.met.as_mut()) {
                met.look(now, |cluster| peers.iter().any(|one| is_of(one, own.level, cluster, limit)));
            }
        }
    }
}

/// Whether a node is alive, measured, near, and in this cluster: only such a one makes a cluster one that may be joined.
fn is_of(known: &Known, level: Level, cluster: &Key, limit: Duration) -> bool {
    let near = known.live() && known.distance().is_some_and(|distance| distance < limit);
    near && known.tag(level).is_some_and(|tag| tag.id == *cluster)
}

/// Clusters that are remembered.
const REMEMBERED: usize = 8;

/// Meeting a cluster again doubles so often at most for how long nobody of it must have been known. `[guess]`
const AGAIN_MOST: u32 = 8;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        Config,
        core::{
            message::{ClusterTag, Header},
            peers::DEAD_AFTER,
            tests::{Alone, stranger},
        },
    };

    const SPAN: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Instant {
        Instant::at(Duration::from_secs(seconds))
    }

    fn key(number: usize) -> Key {
        Key::of(&number.to_be_bytes())
    }

    #[test]
    fn a_cluster_is_new_for_a_while_from_the_first_word_of_it_and_of_too_many_the_longest_gone_is_forgotten() {
        let mut met = Met::default();
        met.note(at(1), key(0), true);
        met.note(at(9), key(0), true);
        assert!(
            met.holds(at(10), &key(0), SPAN) && !met.holds(at(11), &key(0), SPAN) && !met.holds(at(2), &key(1), SPAN)
        );
        (1..=REMEMBERED).for_each(|number| met.note(at(9 + u64::try_from(number).unwrap()), key(number), true));
        assert_eq!(met.clusters.len(), REMEMBERED);
        assert!(!met.holds(at(10), &key(0), SPAN) && met.holds(at(18), &key(REMEMBERED), SPAN));
        met.look(at(20), |one| *one == key(1));
        met.note(at(21), key(0), true);
        assert!(met.holds(at(19), &key(1), SPAN) && !met.holds(at(19), &key(2), SPAN), "one that is about stays");
    }

    #[test]
    fn a_cluster_of_which_nobody_was_known_for_long_is_met_again_and_one_that_comes_and_goes_ever_more_rarely() {
        let (home, mut met) = (HOME_AFTER.as_secs(), Met::default());
        met.note(at(0), key(0), true);
        met.look(at(1_000), |_| true);
        met.note(at(999 + home), key(0), true);
        assert!(!met.holds(at(999 + home), &key(0), SPAN), "it was about a moment too lately");
        met.note(at(999 + 2 * home), key(0), false);
        assert!(!met.holds(at(999 + 2 * home), &key(0), SPAN), "a stranger only passed by");
        met.note(at(999 + 3 * home), key(0), true);
        assert!(met.holds(at(999 + 3 * home), &key(0), SPAN));
        let mut flapping = Met::default();
        // Gone for a little longer each time than at first makes it new.
        let returns = (0..1_000).map(|number| at(number * (home + 1)));
        let renewed = returns.filter(|now| {
            flapping.note(*now, key(0), true);
            flapping.holds(*now, &key(0), SPAN)
        });
        assert_eq!(renewed.count(), 2, "the first word of it, and once more");
        flapping.note(at(1_000_000 + (home << AGAIN_MOST)), key(0), true);
        assert!(flapping.holds(at(1_000_000 + (home << AGAIN_MOST)), &key(0), SPAN), "after long it always is");
    }

    /// Whether a node at home meets a cluster by one near node of it that knows another of it so far away, dead or alive.
    fn meets(rtt: Option<u64>, misses: u8) -> bool {
        let (mut alone, now, level) = (Alone::new(Config::default()), Instant::at(HOME_AFTER), Level(2));
        for (number, rtt, misses) in [(1, Some(5), 0), (2, rtt, misses)] {
            let tag = ClusterTag { id: key(7), age: HOME_AFTER.into(), size: SMALL + 1 };
            let header = Header { clusters: [tag; 2].into_iter().collect(), of: stranger(number), info: None };
            let known = alone.node.peers.entry(stranger(number)).unwrap();
            known.hear(now, Arc::new(header));
            known.set_reached();
            known.set_misses(misses);
            if let Some(millis) = rtt {
                known.rtt.sample(now, Duration::from_millis(millis), SPAN);
            }
        }
        alone.node.peers.estimates = [SMALL + 1; crate::core::peers::LEVELS];
        alone.node.note_met(now, stranger(1), false);
        alone.node.membership(level).unwrap().met.as_ref().is_some_and(|met| met.holds(now, &key(7), SPAN))
    }

    #[test]
    fn a_cluster_is_known_by_those_alone_who_are_near_measured_and_alive() {
        assert!(!meets(Some(19), 0), "somebody else is there");
        assert!(meets(Some(21), 0) && meets(None, 0) && meets(Some(19), DEAD_AFTER), "nobody else is");
    }
}
