//! Laws of a whole network, whatever befalls it: properties over random lives of a few nodes. A failure shrinks to the shortest life
//! that breaks the law.

use std::time::Duration;

use atoll_overlay::{
    Config, Found, Key, Lease, Level, Levels, Marker, Mode, NodeId,
    core::{Command, Op},
    sim::{Death, Network, Sim},
};
use bytes::Bytes;
use proptest::prelude::*;

use super::support::{acquire_command, at, get, id, ms, put, put_command, regions, secs, started};

/// Something that befalls a network.
#[derive(Debug, Clone, Copy)]
enum Befalls {
    /// A node's caller wants something, by number, of a key.
    Want(usize, u8, u8),
    /// So many milliseconds pass.
    Pass(u64),
    /// Messages per million from now on: dropped, stalled, sent twice, overtaken.
    Faults([u32; 4]),
    /// A node dies, and another starts at its place.
    Restart(usize, bool),
    /// A node's process stands still.
    Freeze(usize, u64),
    /// Messages from one node to another stop, or go again.
    Block(usize, usize, bool),
    /// A node's distances change.
    Move(usize, usize),
}

fn befalls() -> impl Strategy<Value = Befalls> {
    let (who, rate) = (0_usize..12, 0_u32..200_000);
    prop_oneof![
        8 => (who.clone(), 0_u8..8, 0_u8..6).prop_map(|(who, what, key)| Befalls::Want(who, what, key)),
        6 => (0_u64..3_000).prop_map(Befalls::Pass),
        1 => [rate.clone(), rate.clone(), rate.clone(), rate].prop_map(Befalls::Faults),
        1 => (who.clone(), any::<bool>()).prop_map(|(who, gone)| Befalls::Restart(who, gone)),
        1 => (who.clone(), 100_u64..5_000).prop_map(|(who, millis)| Befalls::Freeze(who, millis)),
        1 => (who.clone(), who.clone(), any::<bool>()).prop_map(|(from, to, stop)| Befalls::Block(from, to, stop)),
        1 => (who, 0_usize..3).prop_map(|(who, to)| Befalls::Move(who, to)),
    ]
}

/// A network, and the commands of its callers with the nodes they were given to.
struct Life {
    sim: Sim,
    asked: Vec<(usize, Op)>,
}

fn live(seed: u64, nodes: usize, life: &[Befalls]) -> Life {
    let mut sim = started(Sim::new(Config::default(), regions(), seed).through_the_wire(), nodes);
    sim.run_until(at(5));
    let mut asked = Vec::new();
    for event in life {
        // Whoever is meant has died: its like among the living does.
        let one = |sim: &Sim, who: usize| {
            (0..sim.len()).cycle().skip(who).take(sim.len()).find(|node| sim.is_alive(*node)).unwrap_or(0)
        };
        match *event {
            Befalls::Want(who, what, about) => {
                let (node, key) = (one(&sim, who), Key::of(&[about]));
                // As a root grants it first: where it has, this is a late, a foreign or a true holder's.
                let lease = Lease { epoch: 1, counter: 1, key };
                let command = match what {
                    0 => put_command(key, b"here", secs(30), Levels::All),
                    1 => Command::Get(key, Levels::All),
                    2 => Command::Withdraw(key),
                    3 => Command::Beat(lease, Bytes::from_static(b"further")),
                    4 => Command::Release(lease),
                    5 => Command::Pass(lease, Marker::Pass(secs(30))),
                    _ => acquire_command(key, &[]),
                };
                asked.push((node, sim.command(node, command)));
            }
            Befalls::Pass(millis) => sim.run_for(ms(millis)),
            Befalls::Faults([dropped, stalled, duplicated, reordered]) => {
                let faults = sim.faults_mut();
                (faults.dropped, faults.stalled) = (dropped, stalled);
                (faults.duplicated, faults.reordered) = (duplicated, reordered);
            }
            Befalls::Restart(who, gone) => {
                let node = one(&sim, who);
                let site = sim.site_of(node);
                sim.kill(node, if gone { Death::Machine } else { Death::Process });
                let next = sim.add(site, ms(1));
                let seed = one(&sim, 0);
                sim.seeds(next, &[seed]);
            }
            Befalls::Freeze(who, millis) => {
                let node = one(&sim, who);
                sim.freeze(node, ms(millis));
            }
            Befalls::Block(from, to, true) => sim.faults_mut().block(from, to),
            Befalls::Block(from, to, false) => sim.faults_mut().unblock(from, to),
            Befalls::Move(who, site) => {
                let node = one(&sim, who);
                sim.relocate(node, site);
            }
        }
    }
    sim.run_for(secs(90));
    Life { sim, asked }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Laws 2, 4 and 6: the simulator notes each command that ends twice, each cap passed and each node left without a timer.
    #[test]
    fn whatever_befalls_a_network_each_command_of_the_living_ends_once_and_no_cap_is_passed(
        seed in 0_u64..1_000,
        nodes in 2_usize..12,
        life in prop::collection::vec(befalls(), 0..60),
    ) {
        let Life { mut sim, asked } = live(seed, nodes, &life);
        prop_assert_eq!(sim.violations(), &[] as &[String]);
        for (node, op) in asked {
            prop_assert!(sim.outcome(op).is_some() || !sim.is_alive(node), "{op:?} at node {node}");
        }
    }

    /// Law 7.
    #[test]
    fn the_same_seed_and_the_same_life_leave_the_same_trace(
        seed in 0_u64..1_000,
        nodes in 2_usize..8,
        life in prop::collection::vec(befalls(), 0..30),
    ) {
        prop_assert_eq!(live(seed, nodes, &life).sim.trace_hash(), live(seed, nodes, &life).sim.trace_hash());
    }

    /// Recursive and iterative gets differ in how they ask, not in what they find.
    #[test]
    fn handed_on_or_asked_hop_by_hop_a_get_finds_the_same(seed in 0_u64..1_000, holder in 0_usize..24, asker in 0_usize..24, name in any::<u32>()) {
        prop_assume!(holder != asker);
        let found = |mode| {
            let config = Config { mode, thresholds: Vec::new(), ..Config::default() };
            let apart = |one: usize, other: usize| Duration::from_millis(10 + 7 * u64::try_from(one.abs_diff(other)).unwrap_or(0));
            let mut sim = started(Sim::new(config, Network::Function(Box::new(apart)), seed), 24);
            sim.run_until(at(30));
            let key = Key::of(&name.to_be_bytes());
            put(&mut sim, holder, key, secs(600), Levels::All).unwrap();
            let holders = |found: Found| -> Vec<NodeId> {
                match found {
                    Found::Values { level: Level::GLOBAL, values } => values.iter().map(|value| value.holder).collect(),
                    other => panic!("{other:?}"),
                }
            };
            (holders(get(&mut sim, asker, key, Levels::All).0.unwrap()), id(&sim, holder))
        };
        let ((best, holder), (paper, _)) = (found(Mode::Best), found(Mode::Paper));
        prop_assert_eq!(&best, &[holder]);
        prop_assert_eq!(best, paper);
    }
}
