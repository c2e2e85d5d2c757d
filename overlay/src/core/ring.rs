//! Whom a node names to one that asks who is near. Its own nearest are near whoever is near itself, and tell others nothing: nodes
//! that are far from all the rest but near each other would hear of each other by chance alone. But two that are near each other are
//! about as far from any third, so half of the answer are nodes as far from here as the asker is (Meridian's rings, SIGCOMM'05 3).

use super::{Contact, Node, message::Reply, peers::Known};
use crate::Level;

impl Node {
    /// Some nodes of a level's cluster, drawn at random, or those that may be near the asker.
    pub(super) fn neighbours(&mut self, from: Contact, level: Level, nearest: bool) -> Vec<Contact> {
        let others = self.peers.members(level).filter(|known| known.contact() != from);
        let mut nodes: Vec<(u64, Contact)> = others.map(|known| (known.cost(), known.contact())).collect();
        self.rng.shuffle(&mut nodes);
        if nearest {
            nodes.sort_by_key(|(cost, _)| *cost);
        }
        nodes.truncate(Reply::NODES);
        let mut nodes: Vec<Contact> = nodes.into_iter().map(|(_, contact)| contact).collect();
        if nearest && level == Level::GLOBAL {
            let mut alike = self.as_far_as(from);
            alike.retain(|one| !nodes.iter().take(Reply::NODES - ALIKE).any(|node| node == one));
            nodes.truncate(Reply::NODES - alike.len());
            nodes.retain(|node| !alike.contains(node));
            nodes.extend(alike);
        }
        nodes
    }

    /// A few of the live nodes that are as far from here as another one, give or take half the round trip of the nearest level, drawn at
    /// random; none before that one was measured.
    fn as_far_as(&mut self, from: Contact) -> Vec<Contact> {
        let Some(limit) = self.config.thresholds.last().copied() else { return Vec::new() };
        let Some(far) = self.peers.get(from).and_then(Known::distance) else { return Vec::new() };
        let is_alike = |known: &&Known| known.distance().is_some_and(|one| one.abs_diff(far) < limit / 2);
        let live = self.peers.iter().filter(|known| known.live() && known.contact() != from);
        let mut alike: Vec<Contact> = live.filter(is_alike).map(|known| known.contact()).collect();
        self.rng.shuffle(&mut alike);
        alike.truncate(ALIKE);
        alike
    }
}

/// So many of those named are as far as the asker; the others are the nearest. \[measured: of 490 nodes that grow from one seed nine in
/// ten are in their last clusters after 29 to 172 s at eight seeds, after 163 to 602 s without this and what `cluster.rs` says of homes\]
const ALIKE: usize = Reply::NODES / 2;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        Config,
        core::{
            Input, Output, Peer,
            message::{Body, Request},
            tests::{Alone, ping, stranger},
        },
    };

    /// What one of 30 strangers is told: the first four answer after 150 ms, the others at once.
    fn named(asker: u32) -> Vec<u32> {
        let (far, near) = (1..=4_u32, 5..=30);
        let mut alone = Alone::new(Config::default());
        far.clone().chain(near).for_each(|number| drop(alone.give(Input::Connected(stranger(number)))));
        let mut waiting: Vec<(u32, u64, u32)> = Vec::new();
        for step in 0..400 {
            let pings = alone.pass(Duration::from_millis(5));
            let due = |to: u32| step + if far.contains(&to) { 30 } else { 1 };
            waiting.extend(pings.iter().filter_map(ping).map(|(Peer(to), id)| (to, id, due(to))));
            for (to, id, _) in waiting.extract_if(.., |(_, _, at)| *at <= step).collect::<Vec<_>>() {
                let more = alone.hear(to, Body::Reply { id, spent: Duration::ZERO, reply: Reply::Pong });
                waiting.extend(more.iter().filter_map(ping).map(|(Peer(to), id)| (to, id, due(to))));
            }
        }
        let request = Request::Neighbours { level: Level::GLOBAL, nearest: true };
        let outputs = alone.hear(asker, Body::Request { id: 7, request });
        let told = outputs.into_iter().find_map(|output| {
            let Output::Send { message, .. } = output else { return None };
            let Body::Reply { id: 7, reply: Reply::Nodes(nodes), .. } = message.body else { return None };
            Some(nodes)
        });
        told.expect("an answer").into_iter().map(|node| node.peer.0).collect()
    }

    #[test]
    fn who_is_far_is_told_of_others_as_far_and_of_the_nearest() {
        let told = named(1);
        assert!([2, 3, 4].iter().all(|far| told.contains(far)), "150 ms from here as the asker is: {told:?}");
        assert!(!told.contains(&1), "the asker knows itself: {told:?}");
    }

    #[test]
    fn who_is_near_is_told_of_near_ones_alone() {
        let told = named(5);
        assert!(told.iter().all(|node| *node > 5), "{told:?}");
    }
}
