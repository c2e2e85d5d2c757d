//! A thorough get, by hand.

use bytes::Bytes;

use super::*;
use crate::core::Peer;

const KEY: Key = Key::ZERO;

fn node(number: u32) -> Contact {
    Contact { peer: Peer(number), id: Key::from_bytes([u8::try_from(number).unwrap(); Key::BYTES]).into() }
}

fn pointer(holder: u32) -> Pointer {
    let ttl = Duration::from_secs(60);
    Pointer { holder: node(holder), clusters: Vec::new(), value: Bytes::from_static(b"v"), ttl }
}

/// A get that believes what so many say, handed to node 1 beside its own search, which has asked nodes 2 to 5.
fn asked(enough: u32) -> Get {
    let seek = Request::Seek { level: Level::GLOBAL, widest: Level::GLOBAL, key: KEY, seeker: node(9).id, hops: 1 };
    let plan = Plan {
        way: Way { bits: None, closest: 24, window: 3 },
        insist: 24,
        own_counts: false,
        hand: vec![(node(1), seek)],
        wide: Vec::new(),
        thorough: Some(enough),
        deadline: Duration::from_secs(4),
    };
    let mut get = Get::new(node(9), KEY, &[Level::GLOBAL], plan);
    let asks = |get: &mut Get| match get.next() {
        Step::Ask(to, _) => to,
        other @ (Step::Wait | Step::Done(_)) => panic!("{other:?}"),
    };
    assert_eq!(asks(&mut get), node(1));
    assert_eq!(asks(&mut get), node(9), "its own search begins at itself");
    get.on_reply(node(9), Reply::Step { seen: Seen::Nothing, nodes: (2..6).map(node).collect() });
    assert_eq!([(); 4].map(|()| asks(&mut get)), [2, 3, 4, 5].map(node));
    get
}

fn says(get: &mut Get, from: u32, holders: &[u32]) {
    let values = holders.iter().copied().map(pointer).collect();
    get.on_reply(node(from), Reply::Step { seen: Seen::Values(values), nodes: Vec::new() });
}

fn found(get: &mut Get) -> Option<Vec<u32>> {
    match get.next() {
        Step::Wait => None,
        Step::Done(Ending::Found(Level::GLOBAL, pointers)) => {
            Some(pointers.iter().map(|one| one.holder.peer.0).collect())
        }
        other @ (Step::Ask(..) | Step::Done(_)) => panic!("{other:?}"),
    }
}

#[test]
fn a_thorough_get_ends_once_enough_nodes_name_the_same_pointer_and_says_that_first() {
    let mut get = asked(3);
    says(&mut get, 2, &[20, 21]);
    assert_eq!(found(&mut get), None);
    says(&mut get, 3, &[30, 31]);
    says(&mut get, 4, &[30]);
    assert_eq!(found(&mut get), None, "two are not enough");
    // What comes back of the question handed on counts as one node's word.
    get.on_reply(node(1), Reply::Sought { level: Level::GLOBAL, values: vec![pointer(30)] });
    let found = found(&mut get).expect("three are enough");
    assert_eq!(found[0], 30);
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn a_thorough_get_without_agreement_hears_all_and_waits_for_no_question_handed_on() {
    let mut get = asked(3);
    for from in 2..6 {
        says(&mut get, from, &[10 * from]);
    }
    assert_eq!(found(&mut get), Some(vec![20, 30, 40, 50]));
    let mut get = asked(3);
    get.on_late(node(1));
    get.on_failure(node(1));
    assert_eq!(found(&mut get), None, "its own search goes on");
}
