//! One table of k-buckets per cluster (Kademlia 2.2). Only nodes with which this node has itself exchanged messages enter, so
//! that links that do not carry both ways, or do not exist, lead no lookup astray.

use super::{Contact, Peer, id::Distance};
use crate::{Key, Level, NodeId};

/// The members of one cluster that this node knows, by how many leading bits their id shares with its own.
#[derive(Debug, Clone)]
pub(super) struct Table {
    me: NodeId,
    /// Nodes per bucket.
    bucket: usize,
    /// Bucket i holds nodes whose id shares exactly i bits with ours. Only as long as needed.
    buckets: Vec<Vec<Contact>>,
    len: usize,
}

/// What an insertion did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Insertion {
    /// It is in.
    Entered,
    /// It was in already.
    Present,
    /// Its bucket is full of nodes that are nearer.
    Full,
    /// It is in, in place of this one, which was farther.
    Replaced(Peer),
}

impl Table {
    pub(super) const fn new(me: NodeId, bucket: usize) -> Self {
        Self { me, bucket, buckets: Vec::new(), len: 0 }
    }

    /// Takes a node in; into a full bucket only in place of one that `cost` puts farther (proximity neighbour selection).
    pub(super) fn insert(&mut self, contact: Contact, cost: impl Fn(Peer) -> u64) -> Insertion {
        let at = usize::from(self.me.key().common_bits(&contact.id.key()));
        if at >= Key::BITS {
            return Insertion::Full;
        }
        if self.buckets.len() <= at {
            self.buckets.resize(at + 1, Vec::new());
        }
        let Some(bucket) = self.buckets.get_mut(at) else { return Insertion::Full };
        if bucket.contains(&contact) {
            return Insertion::Present;
        }
        if bucket.len() < self.bucket {
            bucket.push(contact);
            self.len += 1;
            return Insertion::Entered;
        }
        let Some(farthest) = bucket.iter_mut().max_by_key(|one| cost(one.peer)) else { return Insertion::Full };
        // A fifth nearer at least, or neighbours would change places for nothing.
        if cost(contact.peer).saturating_mul(5) >= cost(farthest.peer).saturating_mul(4) {
            return Insertion::Full;
        }
        let out = std::mem::replace(farthest, contact);
        Insertion::Replaced(out.peer)
    }

    /// Whether a node with this id would find room without anybody leaving.
    pub(super) fn has_room(&self, id: NodeId) -> bool {
        let at = usize::from(self.me.key().common_bits(&id.key()));
        at < Key::BITS && self.buckets.get(at).is_none_or(|bucket| bucket.len() < self.bucket)
    }

    /// Takes a node out. Whether it was in.
    pub(super) fn remove(&mut self, contact: Contact) -> bool {
        let at = usize::from(self.me.key().common_bits(&contact.id.key()));
        let Some(bucket) = self.buckets.get_mut(at) else { return false };
        let before = bucket.len();
        bucket.retain(|one| *one != contact);
        let out = bucket.len() < before;
        self.len -= usize::from(out);
        out
    }

    pub(super) fn clear(&mut self) {
        self.buckets.clear();
        self.len = 0;
    }

    /// The known nodes nearest to a point, nearest first; this node itself is not among them.
    pub(super) fn closest(&self, to: &Key, count: usize) -> Vec<Contact> {
        let mut all: Vec<(Distance, Contact)> = self.iter().map(|one| (one.id.key().distance(to), one)).collect();
        if all.len() > count && count > 0 {
            all.select_nth_unstable(count - 1);
        }
        all.truncate(count);
        all.sort_unstable();
        all.into_iter().map(|(_, contact)| contact).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Contact> {
        self.buckets.iter().flatten().copied()
    }

    pub(super) fn contains(&self, contact: Contact) -> bool {
        let at = usize::from(self.me.key().common_bits(&contact.id.key()));
        self.buckets.get(at).is_some_and(|bucket| bucket.contains(&contact))
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// How many nodes the cluster has, this one included: exact while no bucket is full; else the nodes that share as many bits
    /// with this one as the first bucket that is not full, scaled up by the part of the id space they stand for.
    pub(super) fn estimate(&self) -> u32 {
        let full = self.buckets.iter().take_while(|bucket| bucket.len() >= self.bucket).count();
        let near: usize = self.buckets.iter().skip(full).map(Vec::len).sum();
        let near = u32::try_from(near).unwrap_or(u32::MAX).saturating_add(1);
        let known = u32::try_from(self.len).unwrap_or(u32::MAX).saturating_add(1);
        near.saturating_mul(1_u32.checked_shl(u32::try_from(full).unwrap_or(31).min(31)).unwrap_or(u32::MAX)).max(known)
    }
}

/// A node's tables, one per level, the global one first.
#[derive(Debug, Clone)]
pub(super) struct Tables(Vec<Table>);

impl Tables {
    pub(super) fn new(me: NodeId, levels: usize, bucket: usize) -> Self {
        Self((0..levels).map(|_| Table::new(me, bucket)).collect())
    }

    pub(super) fn at(&self, level: Level) -> Option<&Table> {
        self.0.get(usize::from(level.0))
    }

    pub(super) fn at_mut(&mut self, level: Level) -> Option<&mut Table> {
        self.0.get_mut(usize::from(level.0))
    }

    /// The known nodes of a level nearest to a point, nearest first.
    pub(super) fn closest(&self, level: Level, to: &Key, count: usize) -> Vec<Contact> {
        self.at(level).map_or_else(Vec::new, |table| table.closest(to, count))
    }

    /// Takes a node out of every table. Whether it was in any.
    pub(super) fn remove(&mut self, contact: Contact) -> bool {
        let out = self.0.iter_mut().filter_map(|table| table.remove(contact).then_some(())).count();
        out > 0
    }

    /// Whether a node is in any table.
    pub(super) fn contain(&self, contact: Contact) -> bool {
        self.0.iter().any(|table| table.contains(contact))
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Table> {
        self.0.iter()
    }
}
