//! A network as it is after hours: clusters, tables and links worked out at once instead of grown. Documented in docs/overlay.md;
//! nothing holds it against a grown one yet.
//!
//! - Clusters: over sites, greedily by the rule that nodes join by, the largest first; then sites move to larger ones that are near, as
//!   their nodes would, until none has one to go to.
//! - Tables: each bucket holds the nearest of four times as many candidates drawn from all that belong there, and those that the
//!   tables of nearer levels hold already: no more than a node meets in a few hours.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Sim, world::usize_of};
use crate::{
    Key, Level, LevelInfo, NodeId,
    core::{
        Age, Contact, Tags,
        message::{ClusterTag, Header},
        time::Instant,
        warm::{Neighbour, bit_of},
    },
};

impl Sim {
    /// Makes the network, just added and not yet run, one that has converged.
    pub fn warm(&mut self) {
        let now = self.now();
        let levels = self.config.thresholds.len();
        let clusters: Vec<Vec<usize>> = (1..=levels).map(|level| self.cluster_sites(level)).collect();
        let ids: Vec<Vec<Key>> = clusters.iter().map(|of| of.iter().map(|_| self.rng.key()).collect()).collect();
        let members = self.members(&clusters);
        let headers: Vec<Arc<Header>> = self
            .nodes
            .iter()
            .enumerate()
            .map(|(node, one)| {
                let tag = |level: usize| {
                    let cluster = clusters[level][self.site_of(node)];
                    let size = members[level + 1].get(&cluster).map_or(1, Vec::len);
                    let size = u32::try_from(size).unwrap_or(u32::MAX);
                    ClusterTag { id: ids[level][cluster], age: GROWN, size }
                };
                one.core.saying((0..levels).map(tag).collect())
            })
            .collect();
        let chosen = (0..self.len()).map(|node| self.choose(node, &clusters, &members)).collect();
        self.introduce_all(now, chosen, &headers);
    }

    /// Whom a node has in its tables.
    fn choose(
        &mut self,
        node: usize,
        clusters: &[Vec<usize>],
        members: &[BTreeMap<usize, Vec<Contact>>],
    ) -> Vec<Chosen> {
        let Some(me) = self.contact(node) else { return Vec::new() };
        let mut chosen: BTreeMap<Contact, u8> = BTreeMap::new();
        for level in (0..members.len()).rev() {
            let cluster = if level == 0 { 0 } else { clusters[level - 1][self.site_of(node)] };
            let Some(all) = members[level].get(&cluster) else { continue };
            let level = Level(u8::try_from(level).unwrap_or(u8::MAX));
            for bucket in buckets(all, me) {
                for (_, contact) in self.nearest(node, bucket, &chosen, me) {
                    *chosen.entry(contact).or_default() |= bit_of(level);
                }
            }
        }
        chosen.into_iter().map(|(contact, tables)| Chosen { number: contact.peer.0, tables }).collect()
    }

    /// Makes the network, just added and not yet run, one in which each node has these levels, widest first, and the neighbours
    /// in them, all linked; views are in the order of the nodes' numbers. For networks that grew elsewhere: neighbours that are not
    /// among the nodes are left out, and distances are the simulator's own.
    pub fn resume(&mut self, views: &[Vec<LevelInfo>]) {
        let now = self.now();
        let contacts: BTreeMap<NodeId, Contact> =
            (0..self.len()).filter_map(|node| self.contact(node)).map(|one| (one.id, one)).collect();
        let headers: Vec<Arc<Header>> =
            self.nodes.iter().zip(views).map(|(node, view)| node.core.saying(tags(view))).collect();
        let choose = |(node, view): (usize, &Vec<LevelInfo>)| {
            let mut chosen: BTreeMap<u32, u8> = BTreeMap::new();
            for info in view {
                let known = info.neighbours.iter().filter_map(|neighbour| contacts.get(&neighbour.id));
                for contact in known.filter(|contact| usize_of(contact.peer.0) != node) {
                    *chosen.entry(contact.peer.0).or_default() |= bit_of(info.level);
                }
            }
            chosen.into_iter().map(|(number, tables)| Chosen { number, tables }).collect()
        };
        let chosen = views.iter().take(self.len()).enumerate().map(choose).collect();
        self.introduce_all(now, chosen, &headers);
    }

    /// Puts all nodes among those that they and others have chosen. Each has room for as many first, and for those that come by later:
    /// lists that grow one by one leave half as much again behind them.
    fn introduce_all(&mut self, now: Instant, chosen: Vec<Vec<Chosen>>, headers: &[Arc<Header>]) {
        let mut counts: Vec<usize> = chosen.iter().map(Vec::len).collect();
        for (node, chosen_by_it) in (0_u32..).zip(&chosen) {
            for other in chosen_by_it.iter().map(|one| usize_of(one.number)) {
                let mutual =
                    chosen.get(other).is_some_and(|of| of.binary_search_by_key(&node, |one| one.number).is_ok());
                if let Some(count) = counts.get_mut(other).filter(|_| !mutual) {
                    *count += 1;
                }
            }
        }
        for (one, count) in self.nodes.iter_mut().zip(counts) {
            one.core.expect(count + count / 16);
        }
        for (node, chosen) in chosen.into_iter().enumerate() {
            self.introduce(now, node, &chosen, headers);
        }
    }

    /// Puts a node among its neighbours.
    fn introduce(&mut self, now: Instant, node: usize, chosen: &[Chosen], headers: &[Arc<Header>]) {
        let Some(me) = self.contact(node) else { return };
        for one in chosen {
            // A link has two ends.
            let header = Arc::clone(&headers[node]);
            let neighbour = Neighbour { header, rtt: self.rtt(me.peer.0, one.number), tables: 0 };
            self.nodes[usize_of(one.number)].core.befriend(now, neighbour);
        }
        let neighbours = chosen.iter().map(|one| {
            let other = usize_of(one.number);
            let header = Arc::clone(&headers[other]);
            Neighbour { header, rtt: self.rtt(me.peer.0, one.number), tables: one.tables }
        });
        let neighbours = neighbours.collect();
        if let Some(one) = self.nodes.get_mut(node) {
            one.core.warm(now, &headers[node].clusters, neighbours);
        }
        self.rearm(me.peer.0);
    }

    /// The nearest few of a bucket's candidates.
    fn nearest(
        &mut self,
        node: usize,
        bucket: &[Contact],
        chosen: &BTreeMap<Contact, u8>,
        me: Contact,
    ) -> Vec<(Duration, Contact)> {
        let (room, common) = (self.config.bucket, |one: &Contact| one.id.key().common_bits(&me.id.key()));
        let Some(bits) = bucket.first().map(common) else { return Vec::new() };
        let mut candidates: Vec<Contact> = if bucket.len() <= CANDIDATES * room {
            bucket.to_vec()
        } else {
            let drawn = (0..CANDIDATES * room).map(|_| bucket[self.rng.below(bucket.len())]);
            drawn.chain(chosen.keys().copied().filter(|one| common(one) == bits)).collect()
        };
        candidates.sort_unstable();
        candidates.dedup();
        let number = |contact: &Contact| usize::try_from(contact.peer.0).unwrap_or(usize::MAX);
        let mut near: Vec<(Duration, Contact)> =
            candidates.into_iter().map(|one| (self.distance(node, number(&one)), one)).collect();
        near.sort_unstable();
        near.truncate(room);
        near
    }

    /// The members of each cluster in the order of their ids, by level; at level 0 the one cluster has number 0.
    fn members(&self, clusters: &[Vec<usize>]) -> Vec<BTreeMap<usize, Vec<Contact>>> {
        let mut members = vec![BTreeMap::<usize, Vec<Contact>>::new(); clusters.len() + 1];
        for node in 0..self.len() {
            let Some(contact) = self.contact(node) else { continue };
            members[0].entry(0).or_default().push(contact);
            for (level, of) in clusters.iter().enumerate() {
                members[level + 1].entry(of[self.site_of(node)]).or_default().push(contact);
            }
        }
        members.iter_mut().flat_map(BTreeMap::values_mut).for_each(|all| all.sort_unstable_by_key(|one| one.id));
        members
    }

    /// A cluster for each site: the site with the most free sites near it founds the next one, and those join, nearest first,
    /// that are near to as many of its members as one that joins must be.
    fn cluster_sites(&self, level: usize) -> Vec<usize> {
        let limit = self.config.thresholds.get(level - 1).copied().unwrap_or_default();
        let sites = (0..self.len()).map(|node| self.site_of(node)).max().unwrap_or(0) + 1;
        let near = |one: usize, other: usize| one == other || self.network.rtt(one, other) < limit * 9 / 10;
        let enough = usize::try_from(self.config.join_percent).unwrap_or(usize::MAX);
        let mut cluster = vec![usize::MAX; sites];
        for next in 0..sites {
            let free: Vec<usize> = (0..sites).filter(|site| cluster[*site] == usize::MAX).collect();
            let company = |site: &usize| free.iter().filter(|other| near(*site, **other)).count();
            let Some(founder) = free.iter().copied().max_by_key(company) else { break };
            let mut others: Vec<usize> =
                free.iter().copied().filter(|site| *site != founder && near(founder, *site)).collect();
            others.sort_by_key(|site| self.network.rtt(founder, *site));
            let mut inside = vec![founder];
            for site in others {
                let reached = inside.iter().filter(|member| near(site, **member)).count();
                if reached * 100 >= inside.len() * enough {
                    inside.push(site);
                }
            }
            inside.into_iter().for_each(|site| cluster[site] = next);
        }
        self.move_on(limit, &mut cluster);
        cluster
    }

    /// Lets sites move to larger clusters of which one site is near and most members are surely so, the largest first: what is left of
    /// a greedy pass its nodes would leave once they may.
    fn move_on(&self, limit: Duration, cluster: &mut [usize]) {
        let mut weight = vec![0_usize; cluster.len()];
        (0..self.len()).for_each(|node| weight[self.site_of(node)] += 1);
        let sites: Vec<usize> = (0..cluster.len()).filter(|site| weight[*site] > 0).collect();
        let surely = limit * self.config.near_percent / 100;
        let mut size = vec![0_usize; cluster.len()];
        sites.iter().for_each(|site| size[cluster[*site]] += weight[*site]);
        // Each move makes a large cluster larger by what it takes from a smaller one, so it ends.
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for site in sites.iter().copied() {
                let (mut near, mut seen) = (vec![0_usize; cluster.len()], vec![false; cluster.len()]);
                for other in sites.iter().copied().filter(|other| *other != site) {
                    let rtt = self.network.rtt(site, other);
                    near[cluster[other]] += if rtt < surely { weight[other] } else { 0 };
                    seen[cluster[other]] |= rtt < limit;
                }
                let own = cluster[site];
                let fits = |one: &usize| {
                    seen[*one] && size[*one] > size[own] && near[*one] * 100 >= size[*one] * IN_TIME_PERCENT
                };
                if let Some(best) = (0..size.len()).filter(fits).max_by_key(|one| (size[*one], *one)) {
                    size[own] -= weight[site];
                    size[best] += weight[site];
                    cluster[site] = best;
                    moved = true;
                }
            }
        }
    }
}

/// A node that another has in its tables.
struct Chosen {
    number: u32,
    /// In which, a bit for each level.
    tables: u8,
}

/// What a node with these levels says of its clusters.
fn tags(view: &[LevelInfo]) -> Tags {
    let clusters = view.iter().filter(|info| info.level != Level::GLOBAL);
    let tag = |info: &LevelInfo| ClusterTag { id: info.cluster, age: GROWN, size: info.size };
    clusters.map(tag).collect()
}

/// The stretches of a cluster, in the order of ids, that share exactly 0, 1, 2 ... bits with a node.
fn buckets(all: &[Contact], me: Contact) -> Vec<&[Contact]> {
    let mut buckets = Vec::new();
    let mut rest = all;
    for bit in 0..Key::BITS {
        if rest.len() <= 1 {
            break;
        }
        let ones = rest.partition_point(|one| !one.id.key().bit(bit));
        let (zeros, ones) = rest.split_at(ones);
        let (with_me, others) = if me.id.key().bit(bit) { (ones, zeros) } else { (zeros, ones) };
        buckets.push(others);
        rest = with_me;
    }
    buckets
}

/// The age of clusters that were not grown here.
const GROWN: Age = Age::of_seconds(86_400);

/// A cluster of which so many percent are near is joined in time, though that takes more of the dozen that are sampled: some sample has
/// them. \[measured: at the share that a sample must have, 90 of 490 nodes move within half an hour\]
const IN_TIME_PERCENT: usize = 80;

/// Candidates for each place in a bucket.
const CANDIDATES: usize = 4;
