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

fn seek() -> Request {
    Request::Seek { level: Level::GLOBAL, widest: Level::GLOBAL, key: KEY, seeker: node(9).id, hops: 1 }
}

fn asks(get: &mut Get) -> (u32, Manner) {
    match get.next() {
        Step::Ask(to, request) => (to.peer.0, Manner::of(&request)),
        other @ (Step::Wait | Step::Done(_)) => panic!("{other:?}"),
    }
}

/// A get that believes what three say, handed to nodes 1 and 2 beside its own search, which has asked nodes 2 to 5.
fn asked(levels: &[Level]) -> Get {
    let plan = Plan {
        way: Way { bits: None, closest: 24, window: 3 },
        insist: 24,
        own_counts: false,
        hand: vec![(node(1), seek()), (node(2), seek())],
        wide: Vec::new(),
        thorough: Some(3),
        deadline: Duration::from_secs(4),
    };
    let mut get = Get::new(node(9), KEY, levels, plan);
    assert_eq!([(); 2].map(|()| asks(&mut get)), [1, 2].map(|to| (to, Manner::HandedOn)));
    assert_eq!(asks(&mut get), (9, Manner::Directly), "its own search begins at itself");
    get.on_reply(node(9), Manner::Directly, Reply::Step { seen: Seen::Nothing, nodes: (2..6).map(node).collect() });
    assert_eq!([(); 4].map(|()| asks(&mut get)), [2, 3, 4, 5].map(|to| (to, Manner::Directly)));
    get
}

fn says(get: &mut Get, from: u32, holders: &[u32]) {
    let values: Vec<Pointer> = holders.iter().copied().map(pointer).collect();
    let seen = if values.is_empty() { Seen::Nothing } else { Seen::Values(values) };
    get.on_reply(node(from), Manner::Directly, Reply::Step { seen, nodes: Vec::new() });
}

fn relays(get: &mut Get, from: u32, holders: &[u32]) {
    let values = holders.iter().copied().map(pointer).collect();
    get.on_reply(node(from), Manner::HandedOn, Reply::Sought { level: Level::GLOBAL, values });
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
    let mut get = asked(&[Level::GLOBAL]);
    says(&mut get, 2, &[20, 21]);
    assert_eq!(found(&mut get), None);
    says(&mut get, 3, &[30, 31]);
    says(&mut get, 4, &[30]);
    assert_eq!(found(&mut get), None, "two are not enough");
    relays(&mut get, 1, &[30]);
    let found = found(&mut get).expect("three are enough");
    assert_eq!(found[0], 30);
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn a_node_has_one_voice_and_so_has_all_that_comes_back_of_the_question_handed_on() {
    let mut get = asked(&[Level::GLOBAL]);
    says(&mut get, 2, &[20, 20, 20, 20]);
    says(&mut get, 3, &[]);
    relays(&mut get, 1, &[20, 20, 20]);
    relays(&mut get, 2, &[20, 20]);
    says(&mut get, 2, &[20]);
    assert_eq!(found(&mut get), None, "node 2 alone may have said it all");
    says(&mut get, 4, &[40]);
    assert_eq!(found(&mut get), None);
    says(&mut get, 5, &[20]);
    assert_eq!(found(&mut get), Some(vec![20, 40]));
}

#[test]
fn agreement_waits_for_those_nearest_the_key_and_for_the_late_among_them() {
    let agreed = || {
        let mut get = asked(&[Level::GLOBAL]);
        says(&mut get, 4, &[40]);
        says(&mut get, 5, &[40]);
        relays(&mut get, 1, &[40]);
        says(&mut get, 3, &[]);
        assert_eq!(found(&mut get), None, "the nearest of all may know better");
        get.on_late(node(2), Manner::Directly);
        assert_eq!(found(&mut get), None, "a link to it may have to be dialled");
        get
    };
    let mut get = agreed();
    says(&mut get, 2, &[20]);
    assert_eq!(found(&mut get), Some(vec![40, 20]));
    let mut get = agreed();
    get.on_failure(node(2), Manner::Directly);
    assert_eq!(found(&mut get), Some(vec![40]));
}

#[test]
fn in_a_nearer_level_those_nearest_the_key_must_all_name_the_same_pointer() {
    let mut get = asked(&[Level(1), Level::GLOBAL]);
    says(&mut get, 2, &[20, 21]);
    says(&mut get, 3, &[21]);
    assert_eq!(found(&mut get), None);
    says(&mut get, 4, &[40, 21]);
    let Step::Done(Ending::Found(Level(1), pointers)) = get.next() else { panic!("they agree") };
    assert_eq!(pointers[0].holder, node(21));
    let mut get = asked(&[Level(1), Level::GLOBAL]);
    relays(&mut get, 1, &[20]);
    [(2, &[20][..]), (3, &[]), (4, &[20]), (5, &[20])].into_iter().for_each(|(from, what)| says(&mut get, from, what));
    let next = get.next();
    assert!(matches!(next, Step::Ask(_, Request::Step { level: Level::GLOBAL, .. })), "{next:?}");
}

#[test]
fn a_thorough_get_without_agreement_hears_all_and_waits_for_no_question_handed_on() {
    let mut get = asked(&[Level::GLOBAL]);
    for from in 2..6 {
        says(&mut get, from, &[10 * from]);
    }
    assert_eq!(found(&mut get), Some(vec![20, 30, 40, 50]));
    let mut get = asked(&[Level::GLOBAL]);
    get.on_late(node(1), Manner::HandedOn);
    get.on_failure(node(1), Manner::HandedOn);
    assert_eq!(found(&mut get), None, "its own search goes on");
}

#[test]
fn a_node_asked_both_ways_is_waited_for_or_given_up_in_each_by_itself() {
    let mut get = asked(&[Level::GLOBAL]);
    get.on_late(node(2), Manner::HandedOn);
    get.on_failure(node(2), Manner::HandedOn);
    (3..6).for_each(|from| says(&mut get, from, &[30]));
    assert_eq!(found(&mut get), None, "node 2 may still say what it has itself");
    let mut get = asked(&[Level::GLOBAL]);
    get.on_late(node(2), Manner::Directly);
    get.on_failure(node(2), Manner::Directly);
    relays(&mut get, 2, &[20]);
    (3..6).for_each(|from| says(&mut get, from, &[10 * from]));
    assert_eq!(found(&mut get), Some(vec![20, 30, 40, 50]), "nothing is left to wait for");
    // What does not fit the question is as good as no answer.
    let mut get = asked(&[Level::GLOBAL]);
    let sought = Reply::Sought { level: Level::GLOBAL, values: vec![pointer(20)] };
    get.on_reply(node(2), Manner::Directly, sought);
    (3..6).for_each(|from| says(&mut get, from, &[10 * from]));
    assert_eq!(found(&mut get), Some(vec![30, 40, 50]));
}
