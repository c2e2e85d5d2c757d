//! One table of k-buckets per cluster (Kademlia 2.2). Only nodes with which this node has itself exchanged messages enter, so
//! that links that do not carry both ways, or do not exist, lead no lookup astray.
//!
//! A table is a mark on some of the known nodes, not a list of its own. These stand in the order of their ids, so a bucket, and
//! all that share some bits with a point, is one stretch of them.

use std::ops::Range;

use super::{
    Contact,
    id::Distance,
    peers::{Bucket, Buckets, Known, Peers},
};
use crate::{Key, Level, Prefix};

/// What an insertion did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Insertion {
    /// It is in.
    Entered,
    /// It was in already.
    Present,
    /// Its bucket is full of nodes that are nearer, or it is not known.
    Full,
    /// It is in, in place of this one, which was farther.
    Replaced(Contact),
}

impl Peers {
    /// Takes a known node in; into a full bucket only in place of one that is farther (proximity neighbour selection), or that is of
    /// a network too many of it are of.
    pub(super) fn enter(&mut self, level: Level, contact: Contact) -> Insertion {
        let bit = bit_of(level);
        let Ok(place) = self.place(contact.id) else { return Insertion::Full };
        let at = usize::from(self.me.key().common_bits(&contact.id.key()));
        let Some(known) = self.all.get(place).filter(|_| at < Key::BITS && bit != 0) else { return Insertion::Full };
        if known.tables & bit != 0 {
            return Insertion::Present;
        }
        if self.fill(level, at) < self.buckets.size {
            self.mark(place, level, at);
            return Insertion::Entered;
        }
        // Most that come are as far as those that are in, and that shows without a look at these.
        let plain = known.operator == 0 && known.prefix().is_none();
        if plain && !may_be_nearer(known.cost(), self.farthest(level, at)) {
            return Insertion::Full;
        }
        let stretch = self.bucket_at(at);
        let start = stretch.start;
        let members = self.all.get(stretch).unwrap_or_default().iter().enumerate();
        let members: Vec<(usize, &Known)> = members.filter(|(_, one)| one.tables & bit != 0).collect();
        let farthest = members.iter().map(|(_, one)| one.cost()).max().unwrap_or(0);
        let way = gives_way(&members, known, self.buckets).map(|(out, farthest)| (out, farthest.contact()));
        self.set_farthest(level, at, farthest);
        let Some((out, out_contact)) = way else { return Insertion::Full };
        self.unmark(start + out, level, at);
        self.mark(place, level, at);
        Insertion::Replaced(out_contact)
    }

    /// Whether a node with this id would find room without anybody leaving.
    pub(super) fn has_room(&self, level: Level, contact: Contact) -> bool {
        let at = usize::from(self.me.key().common_bits(&contact.id.key()));
        at < Key::BITS && self.fill(level, at) < self.buckets.size
    }

    /// Takes a node out of one table. Whether it was in.
    pub(super) fn leave(&mut self, level: Level, contact: Contact) -> bool {
        let Ok(place) = self.place(contact.id) else { return false };
        let is_in = self.all.get(place).is_some_and(|known| known.tables & bit_of(level) != 0);
        if is_in {
            self.unmark(place, level, usize::from(self.me.key().common_bits(&contact.id.key())));
        }
        is_in
    }

    /// Takes a node out of every table. Whether it was in any.
    pub(super) fn leave_all(&mut self, contact: Contact) -> bool {
        let levels = 0..u8::try_from(self.tables.len()).unwrap_or(0);
        levels.filter(|level| self.leave(Level(*level), contact)).count() > 0
    }

    /// Empties a table.
    pub(super) fn clear(&mut self, level: Level) {
        let bit = bit_of(level);
        self.all.iter_mut().for_each(|known| known.tables &= !bit);
        if let Some(buckets) = self.tables.get_mut(usize::from(level.0)) {
            buckets.clear();
        }
        self.loosen();
        self.estimate_anew(level);
    }

    /// Whether there is such a level.
    pub(super) fn has_level(&self, level: Level) -> bool {
        usize::from(level.0) < self.tables.len()
    }

    /// The members of a level's table, in the order of their ids.
    pub(super) fn members(&self, level: Level) -> impl Iterator<Item = &Known> {
        let bit = bit_of(level);
        self.all.iter().filter(move |known| known.tables & bit != 0)
    }

    /// How many members a level's table has.
    pub(super) fn count(&self, level: Level) -> usize {
        let buckets = self.tables.get(usize::from(level.0));
        buckets.map_or(0, |buckets| buckets.iter().map(|one| usize::from(one.count)).sum())
    }

    /// The members of a level's table nearest to a point, nearest first; this node itself is not among them.
    pub(super) fn closest(&self, level: Level, to: &Key, count: usize) -> Vec<Contact> {
        let mut found = Vec::with_capacity(count);
        if count > 0 {
            self.collect(bit_of(level), to, 0..self.all.len(), 0, count, &mut found);
            found.truncate(count);
        }
        found.into_iter().map(|(_, contact)| contact).collect()
    }

    /// How many nodes the cluster has, this one included: exact while no bucket is full; else the nodes that share as many bits
    /// with this one as the first bucket that is not full, scaled up by the part of the id space they stand for.
    pub(super) fn estimate(&self, level: Level) -> u32 {
        self.estimates.get(usize::from(level.0)).copied().unwrap_or(1)
    }

    /// It is asked for with every message, so it is kept.
    fn estimate_anew(&mut self, level: Level) {
        let estimate = self.estimated(level);
        if let Some(kept) = self.estimates.get_mut(usize::from(level.0)) {
            *kept = estimate;
        }
    }

    fn estimated(&self, level: Level) -> u32 {
        let Some(buckets) = self.tables.get(usize::from(level.0)) else { return 1 };
        let full = buckets.iter().take_while(|one| usize::from(one.count) >= self.buckets.size).count();
        let count =
            |from: usize| buckets.iter().skip(from).map(|one| u32::from(one.count)).sum::<u32>().saturating_add(1);
        let scale = 1_u32.checked_shl(u32::try_from(full).unwrap_or(31).min(31)).unwrap_or(u32::MAX);
        count(full).saturating_mul(scale).max(count(0))
    }

    /// Adds the members within a stretch, whose ids share `bit` bits, nearest first, until there are enough.
    fn collect(
        &self,
        table: u8,
        to: &Key,
        stretch: Range<usize>,
        bit: usize,
        count: usize,
        found: &mut Vec<(Distance, Contact)>,
    ) {
        if stretch.len() <= SORTED_AT_ONCE || bit >= Key::BITS {
            let from = found.len();
            let members = self.all.get(stretch).unwrap_or_default().iter().filter(|one| one.tables & table != 0);
            found.extend(members.map(|one| (one.contact().id.key().distance(to), one.contact())));
            if let Some(new) = found.get_mut(from..) {
                new.sort_unstable();
            }
            return;
        }
        let ones = self.split(stretch.clone(), bit);
        let (zeros, ones) = (stretch.start..ones, ones..stretch.end);
        let (near, far) = if to.bit(bit) { (ones, zeros) } else { (zeros, ones) };
        self.collect(table, to, near, bit + 1, count, found);
        if found.len() < count {
            self.collect(table, to, far, bit + 1, count, found);
        }
    }

    /// Where, in a stretch of ids that share the bits before it, those begin that have this bit set.
    fn split(&self, stretch: Range<usize>, bit: usize) -> usize {
        let start = stretch.start;
        if bit < HEAD_BITS {
            let heads = self.heads.get(stretch).unwrap_or_default();
            return start + heads.partition_point(|head| head & (1 << (HEAD_BITS - 1 - bit)) == 0);
        }
        let known = self.all.get(stretch).unwrap_or_default();
        start + known.partition_point(|one| !one.contact().id.key().bit(bit))
    }

    /// The stretch of known nodes whose ids share exactly this many bits with this node's.
    fn bucket_at(&self, at: usize) -> Range<usize> {
        let aim = self.me.key().flipped(at);
        let mut stretch = 0..self.all.len();
        for bit in 0..=at {
            let ones = self.split(stretch.clone(), bit);
            if aim.bit(bit) { stretch.start = ones } else { stretch.end = ones }
        }
        stretch
    }

    fn fill(&self, level: Level, at: usize) -> usize {
        self.bucket(level, at).map_or(0, |bucket| usize::from(bucket.count))
    }

    /// A node that is in tables may cost more now.
    pub(super) fn note_cost(&mut self, contact: Contact) {
        let Some(known) = self.get(contact) else { return };
        let (cost, tables) = (known.cost(), known.tables);
        let at = usize::from(self.me.key().common_bits(&contact.id.key()));
        let levels = 0..u8::try_from(self.tables.len()).unwrap_or(0);
        for level in levels.map(Level).filter(|level| tables & bit_of(*level) != 0) {
            self.set_farthest(level, at, cost.max(self.farthest(level, at)));
        }
    }

    /// What no node in a bucket costs more than.
    fn farthest(&self, level: Level, at: usize) -> u64 {
        let farthest = self.bucket(level, at).map_or(0, |bucket| bucket.farthest);
        if farthest == u32::MAX { u64::MAX } else { u64::from(farthest) }
    }

    fn set_farthest(&mut self, level: Level, at: usize, cost: u64) {
        if let Some(bucket) = self.bucket_mut(level, at) {
            bucket.farthest = u32::try_from(cost).unwrap_or(u32::MAX);
        }
    }

    fn bucket(&self, level: Level, at: usize) -> Option<&Bucket> {
        self.tables.get(usize::from(level.0)).and_then(|buckets| buckets.get(at))
    }

    /// The bucket, made if it is new.
    fn bucket_mut(&mut self, level: Level, at: usize) -> Option<&mut Bucket> {
        let buckets = self.tables.get_mut(usize::from(level.0))?;
        if buckets.len() <= at {
            buckets.resize(at + 1, Bucket::default());
        }
        buckets.get_mut(at)
    }

    fn mark(&mut self, place: usize, level: Level, at: usize) {
        let Some(known) = self.all.get_mut(place) else { return };
        known.tables |= bit_of(level);
        let cost = u32::try_from(known.cost()).unwrap_or(u32::MAX);
        let Some(bucket) = self.bucket_mut(level, at) else { return };
        bucket.farthest = bucket.farthest.max(cost);
        bucket.count += 1;
        self.estimate_anew(level);
    }

    fn unmark(&mut self, place: usize, level: Level, at: usize) {
        let Some(known) = self.all.get_mut(place) else { return };
        known.tables &= !bit_of(level);
        self.loosen();
        if let Some(bucket) = self.bucket_mut(level, at) {
            bucket.count = bucket.count.saturating_sub(1);
        }
        self.estimate_anew(level);
    }
}

/// Who of a full bucket leaves it for a newcomer: the farthest, if it is farther by a fifth at least, or neighbours would change
/// places for nothing. Networks that have more than `per_prefix` nodes in it give way to others whatever the distance, and get no
/// further place from them: whoever has many addresses of one network, and so many nodes, must not be all that a node knows. The
/// same goes for operators, whoever they are that admitted more than `per_operator` of its nodes.
fn gives_way<'a>(members: &[(usize, &'a Known)], newcomer: &Known, buckets: Buckets) -> Option<(usize, &'a Known)> {
    let Buckets { per_prefix, per_operator, .. } = buckets;
    let prefix = newcomer.prefix();
    let count = |of: Option<Prefix>| members.iter().filter(|(_, one)| one.prefix() == of).count();
    let farthest = |of: &dyn Fn(&Known) -> bool| {
        members.iter().filter(|(_, one)| of(one)).max_by_key(|(_, one)| one.cost()).copied()
    };
    let crowded = count(prefix) >= per_prefix;
    let operator = newcomer.operator;
    let admitted = |by: u8| members.iter().filter(|(_, one)| one.operator == by).count();
    let ruling = operator != 0 && admitted(operator) >= per_operator;
    if operator != 0 && !ruling && !(crowded && prefix.is_some()) {
        let operators = members.iter().map(|(_, one)| one.operator).filter(|one| *one != 0);
        let most = operators.max_by_key(|one| (admitted(*one), *one));
        if let Some(most) = most.filter(|most| admitted(*most) > per_operator) {
            return farthest(&|one| one.operator == most);
        }
    }
    let fair = |one: &Known| !ruling || one.operator == operator;
    if !crowded && prefix.is_some() {
        let most = members.iter().map(|(_, one)| one.prefix()).max_by_key(|one| (count(*one), *one));
        let most = most.filter(|most| count(*most) > per_prefix);
        if let Some(out) = most.and_then(|most| farthest(&|one| one.prefix() == most && fair(one))) {
            return Some(out);
        }
    }
    let out = farthest(&|one| (!crowded || one.prefix() == prefix) && fair(one))?;
    may_be_nearer(newcomer.cost(), out.1.cost()).then_some(out)
}

/// Whether what costs this much is nearer by enough to change places for.
const fn may_be_nearer(cost: u64, than: u64) -> bool {
    cost.saturating_mul(5) < than.saturating_mul(4)
}

/// The mark of a level's table.
pub(crate) const fn bit_of(level: Level) -> u8 {
    if level.0 < 8 { 1 << level.0 } else { 0 }
}

/// A stretch of so many is sorted rather than split further.
const SORTED_AT_ONCE: usize = 16;

/// Bits of a head; see [`Key::head`].
const HEAD_BITS: usize = 32;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use std::{net::Ipv4Addr, sync::Arc};

    use super::*;
    use crate::{
        NodeInfo, Roles,
        core::{Peer, time::Instant},
    };

    fn contact(number: u32) -> Contact {
        Contact { peer: Peer(number), id: Key::of(&number.to_be_bytes()).into() }
    }

    /// Known nodes, the even ones in the table of level 1, some of them at a distance.
    fn peers(numbers: &[u32], bucket: usize) -> Peers {
        let mut peers =
            Peers::new(contact(u32::MAX).id, 2, Buckets { size: bucket, per_prefix: 4, per_operator: 8 }, 1_000);
        for number in numbers {
            let known = peers.entry(contact(*number)).unwrap();
            known.rtt.sample(Instant::START, Duration::from_millis(1 + u64::from(number % 97)), Duration::MAX);
            if number % 2 == 0 {
                peers.enter(Level(1), contact(*number));
            }
        }
        peers
    }

    proptest! {
        /// The table against a list that is sorted anew each time.
        #[test]
        fn the_closest_are_those_that_a_full_sort_puts_first(numbers in prop::collection::vec(0_u32..500, 0..300), to in any::<u32>(), count in 0_usize..20) {
            let peers = peers(&numbers, 1_000);
            let to = Key::of(&to.to_le_bytes());
            let mut all: Vec<Contact> = peers.members(Level(1)).map(|known| known.contact()).collect();
            all.sort_by_key(|one| one.id.key().distance(&to));
            all.truncate(count);
            prop_assert_eq!(peers.closest(Level(1), &to, count), all);
        }

        #[test]
        fn a_bucket_never_holds_more_than_it_may_and_keeps_the_near(numbers in prop::collection::vec(0_u32..500, 0..300), bucket in 1_usize..6) {
            let peers = peers(&numbers, bucket);
            let mut counts = vec![0; Key::BITS];
            for known in peers.members(Level(1)) {
                counts[usize::from(peers.me.key().common_bits(&known.contact().id.key()))] += 1;
            }
            prop_assert!(counts.iter().all(|count| *count <= bucket));
            prop_assert_eq!(counts.iter().sum::<usize>(), peers.count(Level(1)));
            // Whoever is out is hardly nearer than the farthest of its full bucket.
            for out in peers.iter().filter(|known| known.contact().peer.0.is_multiple_of(2) && known.tables == 0) {
                let common = |one: &Known| peers.me.key().common_bits(&one.contact().id.key());
                let farthest = peers.members(Level(1)).filter(|one| common(one) == common(out)).map(Known::cost).max();
                prop_assert!(out.cost() * 5 >= farthest.unwrap() * 4);
            }
        }

        /// However near the many of one network are, and whoever comes first; one operator has admitted all, so that it is no
        /// reason for anything.
        #[test]
        fn in_a_full_bucket_one_network_leaves_room_for_all_others(order in Just((0_u32..240).collect::<Vec<_>>()).prop_shuffle()) {
            let mut peers = Peers::new(contact(u32::MAX).id, 2, Buckets { size: 16, per_prefix: 4, per_operator: 8 }, 1_000);
            // 200 nodes at 1 ms of one /24, and 40 at 50 ms of one each.
            let network = |number: u32| if number < 200 { [192, 0, 2, 1] } else { [198, 51, u8::try_from(number - 200).unwrap(), 1] };
            for number in order {
                let known = peers.entry(contact(number)).unwrap();
                let far = Duration::from_millis(if number < 200 { 1 } else { 50 });
                known.rtt.sample(Instant::START, far, Duration::MAX);
                let info = NodeInfo { v4: vec![Ipv4Addr::from(network(number))], ..NodeInfo::new(contact(number).id, Roles::NONE) };
                known.describe(Arc::new(info));
                known.operator = 1;
                peers.enter(Level(1), contact(number));
            }
            let common = |one: &Known| peers.me.key().common_bits(&one.contact().id.key());
            for at in 0..4 {
                let members = peers.members(Level(1)).filter(|one| common(one) == at);
                let (many, others): (Vec<_>, Vec<_>) = members.partition(|one| one.contact().peer.0 < 200);
                let there = (200..240).filter(|number| usize::from(peers.me.key().common_bits(&contact(*number).id.key())) == usize::from(at)).count();
                prop_assert!(others.len() >= there.min(12), "{} of one network, {} of {there} others", many.len(), others.len());
            }
        }

        /// However near one operator's many are, and whoever comes first.
        #[test]
        fn in_a_full_bucket_one_operator_leaves_half_the_room_for_all_others(order in Just((0_u32..240).collect::<Vec<_>>()).prop_shuffle()) {
            let buckets = Buckets { size: 16, per_prefix: 4, per_operator: 8 };
            let mut peers = Peers::new(contact(u32::MAX).id, 2, buckets, 1_000);
            // 200 nodes at 1 ms of one operator, and 40 at 50 ms of two others.
            let operator = |number: u32| if number < 200 { 0 } else { 1 + number % 2 };
            for number in order {
                let by = peers.operator(Key::of(&operator(number).to_be_bytes()));
                let known = peers.entry(contact(number)).unwrap();
                let far = Duration::from_millis(if number < 200 { 1 } else { 50 });
                known.rtt.sample(Instant::START, far, Duration::MAX);
                known.operator = by;
                peers.enter(Level(1), contact(number));
            }
            let common = |one: &Known| usize::from(peers.me.key().common_bits(&one.contact().id.key()));
            for at in 0..4 {
                let members = peers.members(Level(1)).filter(|one| common(one) == at);
                let (many, others): (Vec<_>, Vec<_>) = members.partition(|one| one.contact().peer.0 < 200);
                let there = peers.iter().filter(|one| one.contact().peer.0 >= 200 && common(one) == at).count();
                prop_assert!(others.len() >= there.min(8), "{} of one operator, {} of {there} others", many.len(), others.len());
            }
        }

        /// The one found last stands elsewhere once others came or went.
        #[test]
        fn whoever_is_known_is_found_however_others_came_and_went(numbers in prop::collection::vec(0_u32..200, 1..100)) {
            let mut peers = Peers::new(contact(u32::MAX).id, 2, Buckets { size: 4, per_prefix: 4, per_operator: 8 }, 40);
            for number in &numbers {
                peers.entry(contact(*number)).unwrap();
                for asked in [numbers[0], *number] {
                    let found = peers.get(contact(asked)).map(|known| known.contact());
                    let there = peers.iter().map(|known| known.contact()).find(|one| *one == contact(asked));
                    prop_assert_eq!(found, there);
                }
            }
            peers.prune(Instant::at(Duration::from_secs(1_000)), Duration::ZERO);
            prop_assert!(numbers.iter().all(|number| peers.get(contact(*number)).is_none()));
        }

        #[test]
        fn taking_out_what_was_put_in_leaves_nothing(numbers in prop::collection::vec(0_u32..500, 0..100)) {
            let mut peers = peers(&numbers, 4);
            for number in &numbers {
                peers.leave_all(contact(*number));
            }
            prop_assert_eq!((peers.count(Level(1)), peers.estimate(Level(1))), (0, 1));
        }
    }
}
