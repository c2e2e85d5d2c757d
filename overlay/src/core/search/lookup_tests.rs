//! Laws of the search over networks of any shape in which every node knows what Kademlia promises.

use proptest::prelude::*;

use super::*;
use crate::{
    NodeId,
    core::{
        Peer,
        peers::{Buckets, Peers},
    },
};

/// Nodes, each with a table of all others as far as its buckets hold them.
fn network(ids: &[[u8; Key::BYTES]], bucket: usize) -> (Vec<Contact>, Vec<Peers>) {
    let contact = |(number, id): (usize, &[u8; Key::BYTES])| Contact {
        peer: Peer(u32::try_from(number).unwrap()),
        id: NodeId::from(Key::from_bytes(*id)),
    };
    let contacts: Vec<Contact> = ids.iter().enumerate().map(contact).collect();
    let table = |me: &Contact| {
        let mut table =
            Peers::new(me.id, 1, Buckets { size: bucket, per_prefix: bucket, per_operator: bucket }, usize::MAX);
        contacts.iter().filter(|other| *other != me).for_each(|other| {
            table.entry(*other).unwrap();
            table.enter(Level::GLOBAL, *other);
        });
        table
    };
    let tables = contacts.iter().map(table).collect();
    (contacts, tables)
}

/// Runs a search in which these nodes are dead; whom it asked, and who answered, nearest first.
fn run(net: &(Vec<Contact>, Vec<Peers>), key: Key, way: Way, dead: &[usize]) -> (Vec<Contact>, Vec<Contact>) {
    let (contacts, tables) = net;
    let mut lookup = Lookup::new(contacts[0], Level::GLOBAL, key, way);
    let mut asked = Vec::new();
    for _ in 0..1_000 {
        match lookup.next() {
            Hop::Ask(to, aim) => {
                asked.push(to);
                let number = usize::try_from(to.peer.0).unwrap();
                if dead.contains(&number) {
                    lookup.on_late(to);
                    lookup.on_failure(to);
                } else {
                    let mut nodes = tables[number].closest(Level::GLOBAL, &key, 2);
                    nodes.extend(tables[number].closest(Level::GLOBAL, &aim, 6));
                    lookup.on_nodes(to, &nodes);
                }
            }
            Hop::Wait => panic!("nothing is under way"),
            Hop::Done => return (asked, lookup.answered().collect()),
        }
    }
    panic!("a search ends")
}

fn ways() -> impl Strategy<Value = Way> {
    let bits = prop_oneof![Just(None), (1_u8..=3).prop_map(Some)];
    (bits, 1_usize..=3, 1_usize..=4).prop_map(|(bits, closest, window)| Way { bits, closest, window })
}

fn ids() -> impl Strategy<Value = Vec<[u8; Key::BYTES]>> {
    proptest::collection::btree_set(any::<[u8; Key::BYTES]>(), 1..80).prop_map(|ids| ids.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn it_ends_at_the_node_nearest_the_key(ids in ids(), key: [u8; Key::BYTES], way in ways()) {
        let key = Key::from_bytes(key);
        let net = network(&ids, 8);
        let (_, answered) = run(&net, key, way, &[]);
        let nearest = net.0.iter().min_by_key(|one| one.id.key().distance(&key)).copied();
        prop_assert_eq!(answered.first().copied(), nearest);
    }

    #[test]
    fn nobody_is_asked_twice(ids in ids(), key: [u8; Key::BYTES], way in ways()) {
        let (mut asked, _) = run(&network(&ids, 8), Key::from_bytes(key), way, &[]);
        let count = asked.len();
        asked.sort_unstable();
        asked.dedup();
        prop_assert_eq!(asked.len(), count);
    }

    #[test]
    fn whoever_is_dead_it_ends_and_only_the_living_have_answered(
        ids in ids(),
        key: [u8; Key::BYTES],
        way in ways(),
        dead in proptest::collection::vec(1_usize..80, 0..40),
    ) {
        let net = network(&ids, 8);
        let (_, answered) = run(&net, Key::from_bytes(key), way, &dead);
        prop_assert!(answered.iter().all(|one| !dead.contains(&usize::try_from(one.peer.0).unwrap())));
        prop_assert!(answered.contains(&net.0[0]));
    }

    #[test]
    fn correcting_one_bit_at_a_time_passes_over_nodes_it_knows_to_be_nearer(ids in ids(), key: [u8; Key::BYTES]) {
        // Each hop asks the node nearest the spliced target: of two nodes asked in turn on the way, the later shares at least as
        // many bits with the key.
        let key = Key::from_bytes(key);
        let way = Way { bits: Some(1), closest: 1, window: 1 };
        let (asked, _) = run(&network(&ids, 80), key, way, &[]);
        let common: Vec<u8> = asked.iter().map(|one| one.id.key().common_bits(&key)).collect();
        prop_assert!(common.is_sorted(), "{common:?}");
    }
}
