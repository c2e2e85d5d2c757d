//! A node as it would be in a network that has run for hours, for the simulator: to grow a hundred thousand nodes from one seed
//! would cost more than any experiment with them. `sim/warm.rs` works out who knows whom.

use std::{sync::Arc, time::Duration};

pub(crate) use super::routing::bit_of;
use super::{
    Contact, Node, Tags,
    message::{ClusterTag, Header},
    node::Timer,
    rtt::Rtt,
    time::{Instant, Stamp},
};
use crate::{Key, Level};

/// A neighbour that a warm node has.
pub(crate) struct Neighbour {
    /// Who it is, and its clusters.
    pub(crate) header: Arc<Header>,
    /// Its measured distance.
    pub(crate) rtt: Duration,
    /// The levels whose table it is in, a bit each: see [`bit_of`].
    pub(crate) tables: u8,
}

impl Node {
    /// Puts the node in these clusters, level 1 first, among these neighbours, all linked; its timers are spread over their
    /// periods.
    pub(crate) fn warm(&mut self, now: Instant, clusters: &[ClusterTag], neighbours: Vec<Neighbour>) {
        for (membership, tag) in self.memberships.iter_mut().zip(clusters) {
            membership.settle(now, *tag, self.config.dwell_max);
        }
        for neighbour in neighbours {
            let (contact, tables) = (neighbour.header.of, neighbour.tables);
            self.befriend(now, neighbour);
            for level in self.config.levels().filter(|level| tables & bit_of(*level) != 0) {
                self.peers.enter(level, contact);
            }
        }
        self.unrest_until = now;
        self.refreshed = 20;
        self.newborn.joined = true;
        let periods = [
            (Timer::Probe, self.config.probe_idle),
            (Timer::Check, self.config.check_every),
            (Timer::Refresh, self.config.refresh_every),
            (Timer::Pin, Duration::from_secs(30)),
            (Timer::Sweep, Duration::from_secs(10)),
        ];
        for (timer, period) in periods {
            let micros = usize::try_from(period.as_micros()).unwrap_or(usize::MAX);
            let offset = u64::try_from(self.rng.below(micros)).unwrap_or(0);
            self.arm(now + Duration::from_micros(offset), timer);
        }
    }

    /// It will know so many others.
    pub(crate) fn expect(&mut self, count: usize) {
        self.peers.make_room_for(count);
    }

    /// Knows and is linked to this node, as after hours.
    pub(crate) fn befriend(&mut self, now: Instant, neighbour: Neighbour) {
        let contact = neighbour.header.of;
        let Some(known) = self.peers.entry(contact) else { return };
        known.rtt = Rtt::known(now, neighbour.rtt);
        known.set_linked(true);
        known.set_reached();
        known.keep_here(true);
        known.keep_there(true);
        known.heard = Stamp::of(now);
        known.greet(now);
        known.identify(neighbour.header);
        if known.tables != 0 {
            self.peers.note_cost(contact);
        }
    }

    /// A level with a bucket of more than this many, if there is one.
    pub(crate) fn overfull(&self, bucket: usize) -> Option<(Level, u8)> {
        let buckets = (0..)
            .zip(&self.peers.tables)
            .flat_map(|(level, buckets)| buckets.iter().map(move |one| (Level(level), one.count)));
        buckets.into_iter().find(|(_, count)| usize::from(*count) > bucket)
    }

    /// The header of its messages.
    pub(crate) fn header_now(&mut self, now: Instant) -> Arc<Header> {
        self.header(now)
    }

    /// What this node says of itself in these clusters, to be shared by those who know it.
    pub(crate) fn saying(&self, clusters: Tags) -> Arc<Header> {
        Arc::new(Header { clusters, of: self.contact, info: Some(Arc::clone(&self.me)) })
    }

    /// Whether it stores something under a key at a level.
    pub(crate) fn stores(&self, now: Instant, level: Level, key: Key) -> bool {
        !self.values.get(now, level, key).is_empty()
    }

    /// The ids of its clusters, level 1 first.
    pub(crate) fn cluster_ids(&self) -> impl Iterator<Item = Key> {
        self.memberships.iter().map(|membership| membership.id)
    }

    /// How many of its level-0 buckets are not empty: the digits in which another node's id may differ.
    pub(crate) fn digits(&self) -> usize {
        self.peers.tables.first().map_or(0, |buckets| buckets.iter().filter(|one| one.count > 0).count())
    }

    /// Whether this node has a link to that one.
    pub(crate) fn is_linked(&self, to: Contact) -> bool {
        self.peers.get(to).is_some_and(|known| known.linked())
    }

    /// Whether this node keeps its link to that one.
    pub(crate) fn is_pinned(&self, to: Contact) -> bool {
        self.peers.get(to).is_some_and(|known| known.kept_here())
    }

    /// That one keeps its link to this node, or no more.
    pub(crate) fn note_kept(&mut self, by: Contact, keep: bool) {
        if let Some(known) = self.peers.get_mut(by) {
            known.keep_there(keep);
        }
    }

    /// The nodes it has a link to.
    pub(crate) fn links(&self) -> impl Iterator<Item = Contact> {
        self.peers.iter().filter(|known| known.linked()).map(|known| known.contact())
    }

    /// The nodes it has an unused link to that neither end keeps, and has not heard from for this long.
    pub(crate) fn idle_links(&self, now: Instant, idle: Duration) -> Vec<Contact> {
        let unused = |moment: Stamp| now.since(moment.moment(now)) >= idle;
        let links = self.peers.iter().filter(|known| known.linked() && !known.kept_here() && !known.kept_there());
        links.filter(|known| unused(known.heard) && unused(known.asked)).map(|known| known.contact()).collect()
    }
}
