//! Forward and reverse, by hand: the nodes on a path, how each stands, and who stores in the end.

use super::*;
use crate::{Key, NodeId, core::Peer};

/// How a node on the path stands with the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Empty,
    Full,
    Loaded,
    FullAndLoaded,
    /// It says there is room, and is full when the store comes.
    Deceptive,
    Dead,
}

/// Nodes 0 (the putter), 1, 2, 3: each shares one more leading bit with the key, which is all ones.
fn node(number: u32) -> Contact {
    let mut id = [0; Key::BYTES];
    id[0] = u8::try_from(0xff00_u32 >> number & 0xff).unwrap();
    Contact { peer: Peer(number), id: Key::from_bytes(id).into() }
}

const KEY: Key = Key::from_bytes([0xff; Key::BYTES]);
const TTL: Duration = Duration::from_secs(100);

/// Puts over a path of nodes that stand like this; who was asked for room, who was asked to store, and what came of it.
fn put(path: &[Is], copies: usize, levels: &[Level]) -> (Vec<u32>, Vec<u32>, Result<Stored, IndexError>) {
    put_by(path, copies, levels, false)
}

/// The same by a rule of mode `best`: who is loaded ends the forward phase.
fn put_by(
    path: &[Is],
    copies: usize,
    levels: &[Level],
    loaded_stops: bool,
) -> (Vec<u32>, Vec<u32>, Result<Stored, IndexError>) {
    let what = What { key: KEY, value: Bytes::from_static(b"v"), ttl: TTL };
    let way = Way { bits: Some(1), closest: copies, window: 1 };
    let rules = Rules { values_per_key: 4, copies, loaded_stops };
    let mut task = PutTask::new(node(0), what, levels, way, rules);
    let (mut asked, mut stored) = (Vec::new(), Vec::new());
    loop {
        match task.next() {
            Step::Ask(to, request) => {
                let number = to.peer.0;
                let is = path[usize::try_from(number).unwrap()];
                let next = u32::try_from(path.len()).unwrap() - 1;
                let nodes = (0..=next).filter(|other| *other == number + 1).map(node).collect();
                if let Request::Step { .. } = request {
                    asked.push(number);
                    let full = matches!(is, Is::Full | Is::FullAndLoaded);
                    let loaded = matches!(is, Is::Loaded | Is::FullAndLoaded);
                    let count = if full { 4 } else { 3 };
                    let room = Room { loaded, count, soonest: TTL / 2 };
                    if is == Is::Dead {
                        task.on_failure(to);
                    } else {
                        task.on_reply(to, Reply::Step { seen: Seen::Room(room), nodes });
                    }
                } else {
                    assert!(matches!(request, Request::Store { .. }), "a put does not ask {request:?}");
                    stored.push(number);
                    let full = matches!(is, Is::Full | Is::Deceptive);
                    task.on_reply(to, Reply::Stored(if full { Verdict::Full } else { Verdict::Accepted }));
                }
            }
            Step::Wait => panic!("all have answered"),
            Step::Done(Ending::Outcome(Outcome::Put(result))) => return (asked, stored, result),
            Step::Done(other) => panic!("a put does not end in {other:?}"),
        }
    }
}

const L0: &[Level] = &[Level::GLOBAL];

fn accepted(copies: u32) -> Result<Stored, IndexError> {
    Ok(Stored { widest: Level::GLOBAL, copies })
}

#[test]
fn the_closest_node_stores_it_if_it_has_room() {
    assert_eq!(put(&[Is::Empty; 4], 1, L0), (vec![0, 1, 2, 3], vec![3], accepted(1)));
}

#[test]
fn a_full_and_loaded_node_ends_the_forward_phase_and_the_one_before_it_stores() {
    let path = [Is::Empty, Is::Empty, Is::FullAndLoaded, Is::Empty];
    assert_eq!(put(&path, 1, L0), (vec![0, 1, 2], vec![1], accepted(1)));
}

#[test]
fn a_node_that_is_full_but_not_loaded_does_not_end_it_and_spills_outwards() {
    let path = [Is::Empty, Is::Empty, Is::Full, Is::Full];
    assert_eq!(
        put(&path, 1, L0),
        (vec![0, 1, 2, 3], vec![1], accepted(1)),
        "nobody is asked to store who would refuse"
    );
}

#[test]
fn a_node_that_is_loaded_but_not_full_does_not_end_it_and_may_store() {
    let path = [Is::Empty, Is::Loaded, Is::Loaded, Is::Loaded];
    assert_eq!(put(&path, 1, L0), (vec![0, 1, 2, 3], vec![3], accepted(1)));
}

#[test]
fn if_others_came_first_the_next_on_the_stack_is_tried() {
    let path = [Is::Empty, Is::Empty, Is::Deceptive, Is::Deceptive];
    assert_eq!(put(&path, 1, L0), (vec![0, 1, 2, 3], vec![3, 2, 1], accepted(1)));
}

#[test]
fn if_the_stack_runs_empty_it_is_stored_nowhere_and_the_caller_is_told() {
    let (_, stored, result) = put(&[Is::Deceptive; 4], 1, L0);
    assert_eq!(stored, [3, 2, 1, 0]);
    assert!(matches!(result, Err(IndexError::Refused(_))));
}

#[test]
fn three_copies_go_to_the_three_closest_that_accept() {
    let path = [Is::Empty, Is::Empty, Is::Full, Is::Empty];
    let (_, stored, result) = put(&path, 3, L0);
    assert_eq!((stored, result), (vec![3, 1, 0], accepted(3)));
}

#[test]
fn a_dead_closest_node_leaves_the_next_closest() {
    let path = [Is::Empty, Is::Empty, Is::Empty, Is::Dead];
    // The next closest is asked once more, for who else is near the key.
    assert_eq!(put(&path, 1, L0), (vec![0, 1, 2, 3, 2], vec![2], accepted(1)));
}

#[test]
fn a_put_goes_wider_unless_the_key_was_full_and_loaded_in_the_near_cluster() {
    let both = &[Level(1), Level::GLOBAL];
    let (_, stored, result) = put(&[Is::Empty; 3], 1, both);
    assert_eq!((stored, result), (vec![2, 2], accepted(2)));
    let path = [Is::Empty, Is::FullAndLoaded, Is::Empty];
    let (_, stored, result) = put(&path, 1, both);
    assert_eq!((stored, result), (vec![0], Ok(Stored { widest: Level(1), copies: 1 })));
}

#[test]
fn a_putter_loaded_by_its_own_puts_asks_nobody_and_renews_what_it_stores_itself() {
    let path = [Is::Loaded, Is::Empty, Is::Empty];
    assert_eq!(put(&path, 1, L0), (vec![0], vec![0], accepted(1)));
}

#[test]
fn the_putters_own_distance_to_the_key_decides_where_its_path_begins() {
    let id = NodeId::from(KEY);
    assert_eq!(node(3).id.key().common_bits(&id.key()), 3);
}

#[test]
fn in_mode_best_a_loaded_node_ends_the_forward_phase_and_stores_it_if_it_has_room() {
    let path = [Is::Empty, Is::Loaded, Is::Empty, Is::Empty];
    assert_eq!(put_by(&path, 1, L0, true), (vec![0, 1], vec![1], accepted(1)));
    let path = [Is::Empty, Is::Empty, Is::FullAndLoaded, Is::Empty];
    assert_eq!(put_by(&path, 1, L0, true), (vec![0, 1, 2], vec![1], accepted(1)));
}
