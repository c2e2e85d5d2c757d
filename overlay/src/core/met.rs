//! Clusters that a node at home has just heard of for the first time, as when two networks meet: they may become one with its own, as
//! clusters do that are young, however long each has stood by itself.

use std::time::Duration;

use super::{Contact, Node, order::SMALL, peers::Known, time::Instant};
use crate::Key;

/// The clusters met last at one level, and when.
#[derive(Debug, Default)]
pub(super) struct Met {
    clusters: Vec<(Key, Instant)>,
}

impl Met {
    /// A cluster was heard of of which nobody known was.
    pub(super) fn note(&mut self, now: Instant, cluster: Key) {
        // Who says that a cluster is new once more gives it no more time.
        if self.clusters.iter().any(|(one, _)| *one == cluster) {
            return;
        }
        if self.clusters.len() >= REMEMBERED {
            self.clusters.remove(0);
        }
        self.clusters.push((cluster, now));
    }

    /// Whether a cluster was met so short a time ago.
    pub(super) fn holds(&self, now: Instant, cluster: &Key, span: Duration) -> bool {
        self.clusters.iter().any(|(one, at)| one == cluster && now.since(*at) < span)
    }
}

impl Node {
    /// A node that was reached said which clusters it is in as it had not said before: of those near, some are heard of for the first
    /// time, as when two networks meet.
    pub(super) fn note_met(&mut self, now: Instant, from: Contact) {
        let Some(known) = self.peers.get(from).filter(|known| known.live()) else { return };
        let Some(distance) = known.distance() else { return };
        let mut met = Vec::new();
        for own in &self.memberships {
            let near = self.config.threshold(own.level).is_some_and(|limit| distance < limit);
            let Some(tag) = known.tag(own.level).filter(|tag| near && tag.id != own.id && tag.size > SMALL) else {
                continue;
            };
            let knows =
                |one: &Known| one.contact() != from && one.tag(own.level).is_some_and(|other| other.id == tag.id);
            if own.is_home(now, own.size(now, self.seen(own.level))) && !self.peers.iter().any(knows) {
                met.push((own.level, tag.id));
            }
        }
        for (level, cluster) in met {
            if let Some(own) = self.membership_mut(level) {
                own.met.get_or_insert_default().note(now, cluster);
            }
        }
    }
}

/// Clusters that are remembered.
const REMEMBERED: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(10);

    #[test]
    fn a_cluster_is_new_for_a_while_from_the_first_word_of_it_and_the_oldest_of_too_many_is_forgotten() {
        let at = |seconds| Instant::at(Duration::from_secs(seconds));
        let key = |number: usize| Key::of(&number.to_be_bytes());
        let mut met = Met::default();
        met.note(at(1), key(0));
        met.note(at(9), key(0));
        assert!(
            met.holds(at(10), &key(0), SPAN) && !met.holds(at(11), &key(0), SPAN) && !met.holds(at(2), &key(1), SPAN)
        );
        (1..=REMEMBERED).for_each(|number| met.note(at(3), key(number)));
        assert_eq!(met.clusters.len(), REMEMBERED);
        assert!(!met.holds(at(4), &key(0), SPAN) && met.holds(at(4), &key(REMEMBERED), SPAN));
    }
}
