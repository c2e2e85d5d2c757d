//! The nodes this one has heard of: distance, liveness, clusters, and what they say of themselves. In a table or not; bounded.
//! They stand in the order of their ids, so that `routing.rs` finds the nearest to a point without looking at all.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{
    Contact, Peer,
    message::{ClusterTag, Header},
    rtt::Rtt,
    time::{Instant, Stamp},
};
use crate::{Key, Level, NodeId, NodeInfo, Prefix};

/// One other node. A hundred thousand simulated nodes know a hundred and fifty each: what is added here is paid fifteen million
/// times.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) contact: Contact,
    pub(super) rtt: Rtt,
    /// When a message from it last came; the start if never.
    pub(super) heard: Stamp,
    /// When it was last asked anything; the start if never.
    pub(super) asked: Stamp,
    /// When it was last told about this node, if `was_greeted`.
    pub(super) greeted: Stamp,
    pub(super) was_greeted: bool,
    /// A link to it stands.
    pub(super) linked: bool,
    /// It has answered a question of ours: it may be in tables.
    pub(super) reached: bool,
    /// Its link is kept.
    pub(super) pinned: bool,
    /// Questions in a row that it did not answer.
    pub(super) misses: u8,
    /// Answers in a row that put it at another level than its minimum does.
    pub(super) odd: u8,
    /// The levels whose table it is in, a bit each.
    pub(super) tables: u8,
    /// The clusters it is in, by its last message; shared with that message and others of the same sender.
    pub(super) header: Option<Arc<Header>>,
    /// What it says of itself, once it has.
    pub(super) info: Option<Arc<NodeInfo>>,
}

impl Known {
    const fn new(contact: Contact) -> Self {
        Self {
            contact,
            rtt: Rtt::NONE,
            heard: Stamp::START,
            asked: Stamp::START,
            greeted: Stamp::START,
            was_greeted: false,
            linked: false,
            reached: false,
            pinned: false,
            misses: 0,
            odd: 0,
            tables: 0,
            header: None,
            info: None,
        }
    }

    /// Its clusters, level 1 first.
    pub(super) fn tags(&self) -> &[ClusterTag] {
        self.header.as_ref().map_or(&[][..], |header| &header.clusters)
    }

    /// Its cluster at a non-global level, if it is in one.
    pub(super) fn tag(&self, level: Level) -> Option<&ClusterTag> {
        usize::from(level.0).checked_sub(1).and_then(|at| self.tags().get(at))
    }

    /// Whether it is thought alive and has been reached.
    pub(super) const fn live(&self) -> bool {
        self.reached && self.misses < DEAD_AFTER
    }

    /// How long ago it was told about this node; very long if never.
    pub(super) const fn greeted_ago(&self, now: Instant) -> Duration {
        if self.was_greeted { now.since(self.greeted.moment(now)) } else { Duration::MAX }
    }

    /// Whether it may not be forgotten.
    pub(super) const fn is_kept(&self) -> bool {
        self.pinned || self.linked || self.tables != 0
    }

    /// Its measured distance; none before the first sample.
    pub(super) fn distance(&self) -> Option<Duration> {
        self.rtt.minimum()
    }

    /// What it costs to be asked, for choosing between neighbours: its distance in microseconds, the most if unknown.
    pub(super) fn cost(&self) -> u64 {
        self.distance().map_or(u64::MAX, |distance| u64::try_from(distance.as_micros()).unwrap_or(u64::MAX))
    }

    /// The network it says it is reached in; none on loopback, or if it has not said.
    pub(super) fn prefix(&self) -> Option<Prefix> {
        let info = self.info.as_ref()?;
        let v4 = info.v4.first().copied().map(IpAddr::from);
        let address = v4.or_else(|| info.v6.first().copied().map(IpAddr::from))?;
        (!address.is_loopback()).then(|| Prefix::of(address))
    }

    /// The ids of its clusters.
    pub(super) fn clusters(&self) -> Vec<Key> {
        self.tags().iter().map(|tag| tag.id).collect()
    }
}

/// How many nodes a bucket holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buckets {
    pub(super) size: usize,
    /// Of one prefix, where there are others.
    pub(super) per_prefix: usize,
}

/// All of them.
#[derive(Debug, Clone)]
pub(super) struct Peers {
    pub(super) me: NodeId,
    /// The first four bytes of each id, in order: what a search looks at first.
    pub(super) heads: Vec<u32>,
    /// In the order of their ids.
    pub(super) all: Vec<Known>,
    /// Nodes per bucket.
    pub(super) bucket: usize,
    /// Of these, of one prefix where there are others.
    pub(super) per_prefix: usize,
    /// How full each bucket of each level's table is.
    pub(super) filled: Vec<Vec<u8>>,
    /// How large each level's cluster is thought to be.
    pub(super) estimates: [u32; LEVELS],
    limit: usize,
}

impl Peers {
    pub(super) fn new(me: NodeId, levels: usize, buckets: Buckets, limit: usize) -> Self {
        Self {
            me,
            heads: Vec::new(),
            all: Vec::new(),
            bucket: buckets.size.min(usize::from(u8::MAX)),
            per_prefix: buckets.per_prefix,
            filled: vec![Vec::new(); levels.min(LEVELS)],
            estimates: [1; LEVELS],
            limit,
        }
    }

    /// The node's entry, made if it is new. Past the limit the longest unheard that need not be kept goes; if all are kept, the
    /// newcomer gets none.
    pub(super) fn entry(&mut self, contact: Contact) -> Option<&mut Known> {
        let mut place = self.place(contact.id);
        if let Err(at) = place
            && self.all.len() >= self.limit
        {
            let idle = self.all.iter().enumerate().filter(|(_, known)| !known.is_kept());
            let (oldest, _) = idle.min_by_key(|(_, known)| known.heard)?;
            self.all.remove(oldest);
            self.heads.remove(oldest);
            place = Err(at - usize::from(oldest < at));
        }
        let at = match place {
            Ok(at) => at,
            Err(at) => {
                self.heads.insert(at, contact.id.key().head());
                self.all.insert(at, Known::new(contact));
                at
            }
        };
        let known = self.all.get_mut(at)?;
        // A driver that reuses a handle for another node has broken its promise; the old id would poison every distance.
        debug_assert_eq!(known.contact, contact, "a handle stands for one node for ever");
        Some(known)
    }

    pub(super) fn get(&self, contact: Contact) -> Option<&Known> {
        self.place(contact.id).ok().and_then(|at| self.all.get(at))
    }

    pub(super) fn get_mut(&mut self, contact: Contact) -> Option<&mut Known> {
        self.place(contact.id).ok().and_then(|at| self.all.get_mut(at))
    }

    /// The node with this handle. Looks at all: for what happens rarely.
    pub(super) fn find(&self, peer: Peer) -> Option<Contact> {
        self.all.iter().map(|known| known.contact).find(|contact| contact.peer == peer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Known> {
        self.all.iter()
    }

    /// So many of them, from a place on and around the end.
    pub(super) fn turn(&self, from: usize, count: usize) -> impl Iterator<Item = &Known> {
        self.all.iter().cycle().skip(from % self.all.len().max(1)).take(count.min(self.all.len()))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Known> {
        self.all.iter_mut()
    }

    /// Forgets those that need not be kept and that `forget` names.
    pub(super) fn prune(&mut self, forget: impl Fn(&Known) -> bool) {
        let before = self.all.len();
        self.all.retain(|known| known.is_kept() || !forget(known));
        if self.all.len() < before {
            self.heads = self.all.iter().map(|known| known.contact.id.key().head()).collect();
        }
    }

    /// Gives back room that is not used.
    #[cfg(feature = "sim")]
    pub(super) fn shrink(&mut self) {
        self.all.shrink_to_fit();
        self.heads.shrink_to_fit();
        self.filled.iter_mut().for_each(Vec::shrink_to_fit);
    }

    pub(super) const fn len(&self) -> usize {
        self.all.len()
    }

    /// See [`Known::distance`].
    pub(super) fn distance(&self, id: NodeId) -> Option<Duration> {
        self.place(id).ok().and_then(|at| self.all.get(at)).and_then(Known::distance)
    }

    /// See [`Known::cost`].
    pub(super) fn cost(&self, contact: Contact) -> u64 {
        self.get(contact).map_or(u64::MAX, Known::cost)
    }

    /// Where a node stands, or would stand.
    pub(super) fn place(&self, id: NodeId) -> Result<usize, usize> {
        let head = id.key().head();
        let from = self.heads.partition_point(|one| *one < head);
        // Hardly ever do two heads agree.
        if let Some(known) = self.all.get(from).filter(|known| known.contact.id == id) {
            debug_assert_eq!(known.contact.id.key().head(), head, "heads stand beside their nodes");
            return Ok(from);
        }
        let same = self.heads.iter().skip(from).take_while(|one| **one == head).count();
        let known = self.all.get(from..from + same).unwrap_or_default();
        known.binary_search_by_key(&id, |known| known.contact.id).map(|at| from + at).map_err(|at| from + at)
    }
}

/// Unanswered questions in a row after which a node counts as dead.
pub(super) const DEAD_AFTER: u8 = 2;

/// Levels of tables at most: as many as there are bits to note them in.
pub(super) const LEVELS: usize = 8;
