//! The split of a cluster whose members were near and are no longer: of one that formed on wrong round trips, or whose network grew.
//! NSDI'04 has none, and there such a cluster dissolves: whoever finds it too far is alone, and looks for company anew. IPTPS'03
//! split around a centre, into clusters named beforehand. Here each part has a centre of its own: the nodes of one part name their new
//! cluster by the old one and by whichever of them lies closest to its id, so they meet there without a word, each at its own time.
//!
//! Only who stands clearly in a part splits: some members near, the others far, hardly any between. Else a node leaves by itself, as
//! before. `cluster.rs` says when a cluster is too wide.

use std::time::Duration;

use super::{
    Age, Contact, Node,
    cluster::Membership,
    message::{ClusterTag, Request},
    peers::Known,
    search::Purpose,
    time::Instant,
};
use crate::{Key, Level, NodeId};

/// The members of a cluster as one node measured them.
#[derive(Debug, Default)]
struct Parts {
    /// The ids of those near, this node's own among them.
    near: Vec<NodeId>,
    /// Members measured.
    all: usize,
    /// Of these, those neither near nor clearly far.
    between: usize,
}

impl Parts {
    fn of(me: NodeId, members: impl Iterator<Item = (NodeId, Duration)>, limit: Duration) -> Self {
        let mut parts = Self { near: vec![me], all: 0, between: 0 };
        for (id, distance) in members {
            parts.all += 1;
            if distance < limit {
                parts.near.push(id);
            } else if distance < limit * FAR_PERCENT / 100 {
                parts.between += 1;
            }
        }
        parts
    }

    /// Whether the one that measured stands in a part that is worth a cluster.
    const fn are_clear(&self) -> bool {
        let company = self.near.len() - 1;
        company * 100 >= self.all * PART_PERCENT
            && company >= PART_LEAST
            && company < self.all
            && self.between * 100 <= self.all * BETWEEN_PERCENT
    }

    /// The clusters that nodes of this part may have named, the one this node would name first.
    fn named(&self, cluster: &Key) -> Vec<Key> {
        let mut near = self.near.clone();
        near.sort_unstable_by_key(|id| id.key().distance(cluster));
        near.into_iter().map(|centre| successor(cluster, centre)).collect()
    }
}

/// The cluster that a part of another one becomes.
fn successor(cluster: &Key, centre: NodeId) -> Key {
    Key::of(&[b"split".as_slice(), cluster.as_bytes(), centre.key().as_bytes()].concat())
}

impl Node {
    /// Whether a cluster that a near node is in is a part of this node's own, split off lately by somebody near: it is better then
    /// whatever their sizes, since nobody comes back from there.
    pub(super) fn is_own_part(&self, now: Instant, own: &Membership, part: &ClusterTag) -> bool {
        let Some(limit) = self.config.threshold(own.level) else { return false };
        // Seldom past here: hashes take time.
        if part.age.span() > SPLIT_LATELY || part.age.span() >= own.age(now) || part.id == own.id {
            return false;
        }
        let near = |known: &&Known| known.distance().is_some_and(|distance| distance < limit);
        let mut centres = self.peers.iter().filter(near).map(|known| known.contact().id);
        centres.any(|centre| successor(&own.id, centre) == part.id) || successor(&own.id, self.contact.id) == part.id
    }

    /// Where this node's part of its cluster at a level goes: to the part's cluster of which most are near, or to one that nobody is
    /// in yet. None if there are no parts, or it was there before.
    fn own_part(&self, now: Instant, level: Level) -> Option<ClusterTag> {
        let (limit, membership) = (self.config.threshold(level)?, self.membership(level)?);
        let members = self.peers.members(level);
        let measured = members.filter_map(|known| Some((known.contact().id, known.distance()?)));
        let parts = Parts::of(self.contact.id, measured, limit);
        if !parts.are_clear() || membership.since(now) < GROWN {
            return None;
        }
        let named = parts.named(&membership.id);
        let near = |known: &&Known| known.live() && known.distance().is_some_and(|distance| distance < limit);
        let tags: Vec<Key> =
            self.peers.iter().filter(near).filter_map(|known| known.tag(level)).map(|tag| tag.id).collect();
        let there = |id: &Key| tags.iter().filter(|tag| *tag == id).count();
        // Of several with as many the first, which this node would have named.
        let id = named.iter().rev().max_by_key(|id| there(id))?;
        let size = u32::try_from(there(id)).unwrap_or(u32::MAX);
        (!membership.was_in(id)).then_some(ClusterTag { id: *id, age: Age::NEW, size })
    }

    /// A cluster is too wide: whether that is because it is in parts. Then all members known are measured anew, since minima are
    /// slow to forget, and if it is still so after that, this node goes with its part.
    pub(super) fn splits(&mut self, now: Instant, level: Level) -> bool {
        let Some(part) = self.own_part(now, level) else { return false };
        let Some(membership) = self.membership_mut(level) else { return false };
        match membership.parting {
            None => {
                membership.parting = Some(now);
                let members: Vec<Contact> = self.peers.members(level).map(|known| known.contact()).collect();
                for member in members.into_iter().take(MEASURED) {
                    self.ask(now, member, Request::Ping, Purpose::Probe);
                }
            }
            Some(since) if now.since(since) < MEASURE_TIME => {}
            Some(_) => {
                self.enter_cluster(now, level, part, part.size > 0);
                self.note_parted(now, level);
            }
        }
        true
    }

    /// The cluster that this node has just left is in parts.
    pub(super) fn note_parted(&mut self, now: Instant, level: Level) {
        let until = now + self.config.hold_down;
        if let Some(membership) = self.membership_mut(level) {
            membership.note_parted(until);
        }
    }
}

/// For how long after it split off a part takes in those of its members that did not find the cluster too wide: as the others went,
/// it was not any more.
const SPLIT_LATELY: Duration = Duration::from_secs(900);

/// Members measured anew at most.
const MEASURED: usize = 128;

/// How long that takes: two round trips over links that stand, and a lost packet.
const MEASURE_TIME: Duration = Duration::from_secs(2);

/// Past so many percent of the threshold a member is clearly far. `[guess]`
const FAR_PERCENT: u32 = 150;

/// A part has so many percent of the members at least. `[guess]`
const PART_PERCENT: usize = 15;

/// And as many other nodes at least, in a cluster that this node was in for so long: while clusters form, and for one or two nodes
/// between others, it is enough to leave. \[measured: of 490 nodes' clusters at eight seeds, one got too wide without\]
const PART_LEAST: usize = 2;
const GROWN: Duration = Duration::from_secs(60);

/// So many percent of the members may stand between near and far. `[guess]`
const BETWEEN_PERCENT: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> NodeId {
        Key::of(&[number]).into()
    }

    fn parts(me: u8, members: &[(u8, u64)]) -> Parts {
        let members = members.iter().map(|(number, millis)| (id(*number), Duration::from_millis(*millis)));
        Parts::of(id(me), members, Duration::from_millis(20))
    }

    #[test]
    fn a_cluster_has_parts_only_if_hardly_anybody_stands_between() {
        assert!(parts(0, &[(1, 5), (2, 5), (3, 90), (4, 90)]).are_clear());
        assert!(!parts(0, &[(1, 5), (2, 25), (3, 90), (4, 90)]).are_clear(), "one of four is neither near nor far");
        assert!(!parts(0, &[(1, 5), (2, 5), (3, 5)]).are_clear(), "all are near");
        assert!(!parts(0, &[(1, 90), (2, 90)]).are_clear(), "nobody is: a node that is alone is no part");
        let crowd: Vec<(u8, u64)> = (1..=20).map(|number| (number, if number == 1 { 5 } else { 90 })).collect();
        assert!(!parts(0, &crowd).are_clear(), "two of twenty-one are no part either");
    }

    #[test]
    fn nodes_of_one_part_name_one_cluster_and_those_of_the_other_another() {
        let old = Key::of(b"old");
        let (one, other) = ([0, 1, 2, 3_u8], [4, 5, 6, 7_u8]);
        let named = |me: u8| {
            let part = if one.contains(&me) { one } else { other };
            let members: Vec<(u8, u64)> = (0..8)
                .filter(|member| *member != me)
                .map(|member| (member, if part.contains(&member) { 5 } else { 90 }))
                .collect();
            parts(me, &members).named(&old)[0]
        };
        assert!(one.iter().all(|me| named(*me) == named(0)) && other.iter().all(|me| named(*me) == named(4)));
        assert!(named(0) != named(4) && named(0) != old);
    }
}
