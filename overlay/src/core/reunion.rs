//! Tests: nodes that were lost for a while, as by a cut, and how they are found again.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::{
    message::{Body, Pointer, Reply, Request},
    tests::{Alone, ping, stranger},
    *,
};
use crate::{Config, Key, Level};

/// A node with so many neighbours, all linked and reached.
fn among(count: u32) -> Alone {
    let mut alone = Alone::new(Config::default());
    for number in 1..=count {
        alone.give(Input::Connected(stranger(number)));
    }
    for _ in 0..400 {
        if alone.node.levels()[0].size > count {
            break;
        }
        let outputs = alone.pass(Duration::from_millis(50));
        outputs.iter().filter_map(ping).for_each(|(Peer(number), id)| answer(&mut alone, number, id));
    }
    assert_eq!(alone.node.levels()[0].size, count + 1, "{:?}", alone.node.counts());
    alone
}

fn answer(alone: &mut Alone, number: u32, id: u64) {
    alone.hear(number, Body::Reply { id, spent: Duration::ZERO, reply: Reply::Pong });
}

/// How often each stranger is pinged.
fn pinged(outputs: &[Output]) -> BTreeMap<Peer, usize> {
    let mut times = BTreeMap::new();
    for (to, _) in outputs.iter().filter_map(ping) {
        *times.entry(to).or_default() += 1;
    }
    times
}

#[test]
fn a_probe_that_is_lost_with_its_link_is_made_again_once() {
    let mut alone = among(2);
    // Of itself it is silent for minutes: it is lost, and asked now and then.
    alone.pass(Duration::from_secs(200));
    assert_eq!(alone.node.levels()[0].size, 1);
    let is_asked = |outputs: &[Output]| pinged(outputs).contains_key(&Peer(1));
    let asked = (0..400).any(|_| is_asked(&alone.pass(Duration::from_millis(100))));
    assert!(asked, "a lost node is asked now and then");
    assert!(is_asked(&alone.give(Input::Disconnected(Peer(1)))), "the way was lost, not the node");
    assert!(!is_asked(&alone.give(Input::Disconnected(Peer(1)))), "this one went without a link");
}

#[test]
fn once_one_of_many_lost_nodes_is_back_all_are_tried_and_soon_again() {
    let count = 8;
    let mut alone = among(count);
    alone.pass(Duration::from_secs(200));
    assert_eq!(alone.node.levels()[0].size, 1);
    alone.hear(1, Body::Request { id: 9, request: Request::Ping });
    let mut outputs = Vec::new();
    for _ in 0..200 {
        for output in alone.pass(Duration::from_millis(100)) {
            if let Some((Peer(1), id)) = ping(&output) {
                answer(&mut alone, 1, id);
            }
            outputs.push(output);
        }
    }
    let times = pinged(&outputs);
    // Each may be lost on a way that still stands, or in a dial that began before.
    assert!((2..=count).all(|number| times.get(&Peer(number)).is_some_and(|times| *times >= 2)), "{times:?}");
}

/// To whom a node among twelve brings copies of a key that it is told by the one of this rank by distance to the key, within ten
/// seconds, and who is nearest.
fn copied(rank: usize) -> (BTreeMap<Peer, usize>, Vec<Peer>) {
    let mut alone = among(12);
    let key = Key::of(b"copied");
    let mut order: Vec<Contact> = (1..=12).map(stranger).collect();
    order.sort_by_key(|one| one.id.key().distance(&key));
    let from = order[rank];
    let pointer =
        Pointer { holder: from, clusters: Vec::new(), value: Bytes::from_static(b"v"), ttl: Duration::from_secs(600) };
    let request = Request::Copy { level: Level::GLOBAL, key, values: vec![pointer] };
    alone.hear(from.peer.0, Body::Request { id: 9, request });
    let mut times = BTreeMap::new();
    for _ in 0..100 {
        for output in alone.pass(Duration::from_millis(100)) {
            if let Some((Peer(number), id)) = ping(&output) {
                answer(&mut alone, number, id);
            }
            let Output::Send { to, message } = output else { continue };
            let Body::Request { id, request: Request::Copy { .. } } = message.body else { continue };
            alone.hear(to.0, Body::Reply { id, spent: Duration::ZERO, reply: Reply::Done });
            *times.entry(to).or_default() += 1;
        }
    }
    (times, order.into_iter().map(|one| one.peer).collect())
}

#[test]
fn who_is_brought_a_copy_by_one_that_does_not_know_the_nearest_brings_it_to_them_once() {
    let (times, order) = copied(11);
    assert!(order[..2].iter().all(|one| times.get(one) == Some(&1)) && times.len() <= 3, "{times:?} {order:?}");
}

#[test]
fn who_is_brought_a_copy_by_one_of_the_nearest_leaves_the_others_to_it() {
    let (times, _) = copied(0);
    assert!(times.is_empty(), "{times:?}");
}
