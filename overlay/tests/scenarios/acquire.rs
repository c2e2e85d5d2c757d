//! acquire: one origin fetch.

use atoll_overlay::{
    Acquired, Beat, Key, Lease, Levels, Marker,
    core::{Command, Outcome},
    sim::{Death, Sim},
};
use bytes::Bytes;

use super::support::{acquire, acquire_command, beat, beat_for, get, id, ms, pass, put, release, secs, three_regions};

/// Who was granted a fetch, and its lease.
type Grant = (usize, Lease);

/// Lets all these nodes ask at once; the granted ones, and what the rest was told.
fn ask_all(sim: &mut Sim, nodes: impl Iterator<Item = usize>, key: Key) -> (Vec<Grant>, Vec<(usize, Acquired)>) {
    let ops: Vec<_> = nodes.map(|node| (node, sim.command(node, acquire_command(key, &[])))).collect();
    let (mut granted, mut others) = (Vec::new(), Vec::new());
    for (node, op) in ops {
        match sim.wait(op, secs(2)) {
            Some((_, Outcome::Acquire(Ok(Acquired::Granted(lease))))) => granted.push((node, lease)),
            Some((_, Outcome::Acquire(Ok(other)))) => others.push((node, other)),
            other => panic!("node {node} asked: {other:?}"),
        }
    }
    (granted, others)
}

#[test]
fn of_all_that_ask_at_once_exactly_one_is_granted_and_the_others_are_sent_to_it() {
    for seed in 0..3 {
        let mut sim = three_regions(seed, 30);
        sim.run_for(secs(20));
        for name in 0_u8..8 {
            let (granted, others) = ask_all(&mut sim, 0..30, Key::of(&[name]));
            assert_eq!(granted.len(), 1, "grants for {name} at seed {seed}");
            let holder = id(&sim, granted[0].0);
            for (node, other) in others {
                let Acquired::References(values) = other else { panic!("references for {node}: {other:?}") };
                assert!(values.iter().any(|value| value.holder == holder));
                assert!(values.iter().all(|value| value.holder != id(&sim, node)), "nobody is sent to itself");
            }
        }
    }
}

#[test]
fn a_lone_node_and_a_pair_are_granted_without_next_closest_nodes() {
    for nodes in [1, 2, 3] {
        let mut sim = three_regions(1, nodes);
        sim.run_for(secs(5));
        let (granted, _) = ask_all(&mut sim, 0..nodes, Key::of(b"few"));
        assert_eq!(granted.len(), 1, "{nodes} nodes");
    }
}

#[test]
fn while_its_holder_beats_a_lease_outlives_any_slow_origin() {
    let mut sim = three_regions(2, 9);
    sim.run_for(secs(20));
    let key = Key::of(b"slow");
    let (granted, _) = ask_all(&mut sim, 0..9, key);
    let (holder, lease) = granted[0];
    beat_for(&mut sim, holder, lease, secs(40));
    let (granted, others) = ask_all(&mut sim, (0..9).filter(|node| *node != holder), key);
    assert_eq!((granted.len(), others.len()), (0, 8));
    assert_eq!(beat(&mut sim, holder, lease), Ok(Beat::Kept));
}

#[test]
fn after_the_holder_dies_another_is_granted_within_a_second_and_a_third() {
    for (seed, death) in [(3, Death::Machine), (4, Death::Process), (5, Death::Machine), (6, Death::Machine)] {
        let mut sim = three_regions(seed, 30);
        sim.run_for(secs(20));
        let key = Key::of(b"dies");
        let (granted, _) = ask_all(&mut sim, 0..30, key);
        let (holder, lease) = granted[0];
        beat_for(&mut sim, holder, lease, secs(3));
        let failed = [id(&sim, holder)];
        sim.kill(holder, death);
        let died = sim.now();
        // One that streamed from it notices after 200 ms, and reports it until it is granted the fetch.
        sim.run_for(ms(200));
        let asker = (0..30).find(|node| *node != holder).unwrap();
        let mut granted = false;
        while !granted && sim.now().since(died) < secs(5) {
            granted = matches!(acquire(&mut sim, asker, key, &failed), Ok(Acquired::Granted(_)));
            if !granted {
                sim.run_for(ms(50));
            }
        }
        let took = sim.now().since(died);
        assert!(granted && took <= ms(1_300), "granted {granted} after {took:?}, seed {seed}");
        // And only once more.
        let rest = (0..30).filter(|node| *node != holder && *node != asker);
        assert_eq!(ask_all(&mut sim, rest, key).0.len(), 0, "seed {seed}");
    }
}

#[test]
fn a_fetch_that_ended_a_moment_ago_is_no_reason_for_another_until_its_holder_fails_somebody() {
    let mut sim = three_regions(7, 30);
    sim.run_for(secs(20));
    let key = Key::of(b"just whole");
    let (granted, _) = ask_all(&mut sim, 0..30, key);
    let (holder, lease) = granted[0];
    beat_for(&mut sim, holder, lease, secs(3));
    // The beats have ended, and the announcement of the copy is still on its way.
    sim.run_for(secs(2));
    let rest = (0..30).filter(|node| *node != holder);
    assert_eq!(ask_all(&mut sim, rest, key).0.len(), 0);
    // It was no copy after all: who found out fetches.
    let failed = [id(&sim, holder)];
    assert!(matches!(acquire(&mut sim, (holder + 1) % 30, key, &failed), Ok(Acquired::Granted(_))));
}

#[test]
fn a_lease_that_is_given_back_is_granted_to_who_asks_next_and_giving_it_back_twice_takes_it_from_nobody() {
    for (seed, nodes) in [(11, 30), (12, 30), (13, 2)] {
        let mut sim = three_regions(seed, nodes);
        sim.run_for(secs(20));
        let key = Key::of(b"for nobody else");
        let (granted, _) = ask_all(&mut sim, 0..nodes, key);
        let (holder, lease) = granted[0];
        beat_for(&mut sim, holder, lease, secs(3));
        assert_eq!(release(&mut sim, holder, lease), Ok(Beat::Kept));
        let next = (holder + 1) % nodes;
        let Ok(Acquired::Granted(second)) = acquire(&mut sim, next, key, &[]) else {
            panic!("not granted, seed {seed}")
        };
        assert!(second > lease, "{second:?} after {lease:?}");
        assert_eq!(release(&mut sim, holder, lease), Ok(Beat::Kept));
        // Nor may another give back what it does not hold.
        assert_eq!(release(&mut sim, holder, second), Ok(Beat::Kept));
        let rest = (0..nodes).filter(|node| *node != next);
        assert_eq!(ask_all(&mut sim, rest, key).0.len(), 0, "seed {seed}");
        assert_eq!(beat(&mut sim, next, second), Ok(Beat::Kept));
    }
}

#[test]
fn a_beat_that_comes_after_its_lease_was_given_back_takes_nothing_from_who_was_granted_it_since() {
    for (seed, nodes) in [(14, 30), (15, 9), (16, 2)] {
        let mut sim = three_regions(seed, nodes);
        sim.run_for(secs(20));
        let key = Key::of(b"late beat");
        let (granted, _) = ask_all(&mut sim, 0..nodes, key);
        let (holder, lease) = granted[0];
        assert_eq!(release(&mut sim, holder, lease), Ok(Beat::Kept));
        assert_eq!(beat(&mut sim, holder, lease), Ok(Beat::Kept), "nobody else fetches");
        let next = (holder + 1) % nodes;
        let Ok(Acquired::Granted(second)) = acquire(&mut sim, next, key, &[]) else {
            panic!("a late beat brought a lease back, seed {seed}")
        };
        let Ok(Beat::Superseded(by)) = beat(&mut sim, holder, lease) else { panic!("it lives again, seed {seed}") };
        assert_eq!(by.holder, id(&sim, next));
        assert_eq!(beat(&mut sim, next, second), Ok(Beat::Kept), "seed {seed}");
    }
}

/// Thirty nodes in the order of their distance to a key, the first its root; the twenty-first was granted its lease and has beaten it
/// for a second.
fn held_under_a_root(seed: u64) -> (Sim, Key, Vec<usize>, Lease) {
    let mut sim = three_regions(seed, 30);
    sim.run_for(secs(20));
    let key = Key::of(b"root");
    let mut order: Vec<usize> = (0..30).collect();
    order.sort_by_key(|node| id(&sim, *node).key().distance(&key));
    let Ok(Acquired::Granted(lease)) = acquire(&mut sim, order[20], key, &[]) else { panic!("granted") };
    beat_for(&mut sim, order[20], lease, secs(1));
    (sim, key, order, lease)
}

#[test]
fn after_the_root_dies_nobody_is_sent_to_who_gave_its_lease_back() {
    for seed in [8, 9, 10] {
        let (mut sim, key, order, lease) = held_under_a_root(seed);
        let (root, holder) = (order[0], order[20]);
        assert_eq!(release(&mut sim, holder, lease), Ok(Beat::Kept));
        sim.run_for(ms(200));
        sim.kill(root, Death::Process);
        sim.run_for(secs(1));
        let next = order[10];
        let answer = acquire(&mut sim, next, key, &[]);
        assert!(matches!(answer, Ok(Acquired::Granted(_))), "{answer:?}, seed {seed}");
    }
}

#[test]
fn a_holder_that_lives_though_an_asker_says_it_failed_keeps_its_lease() {
    let mut sim = three_regions(7, 9);
    sim.run_for(secs(20));
    let key = Key::of(b"slandered");
    let (granted, _) = ask_all(&mut sim, 0..9, key);
    let (holder, lease) = granted[0];
    let asker = (holder + 1) % 9;
    let failed = [id(&sim, holder)];
    let answer = acquire(&mut sim, asker, key, &failed);
    assert!(matches!(answer, Ok(Acquired::References(_))), "{answer:?}");
    assert_eq!(beat(&mut sim, holder, lease), Ok(Beat::Kept));
}

#[test]
fn a_holder_that_beat_and_then_stands_still_for_a_moment_keeps_its_lease() {
    for seed in 8..16 {
        let (mut sim, key, order, lease) = held_under_a_root(seed);
        let (holder, askers) = (order[20], [order[10], order[5], order[0]]);
        assert_eq!(beat(&mut sim, holder, lease), Ok(Beat::Kept));
        sim.freeze(holder, ms(600));
        sim.run_for(ms(150));
        let failed = [id(&sim, holder)];
        let ops = askers.map(|node| sim.command(node, acquire_command(key, &failed)));
        for op in ops {
            let said = sim.wait(op, secs(3));
            let granted = matches!(said, Some((_, Outcome::Acquire(Ok(Acquired::Granted(_))))));
            assert!(!granted, "seed {seed}: {said:?}; {:#?}", sim.grants_of(key));
        }
        assert_eq!(beat(&mut sim, holder, lease), Ok(Beat::Kept), "seed {seed}");
    }
}

#[test]
fn when_the_root_dies_its_next_closest_node_knows_the_lease() {
    for seed in [8, 9, 10] {
        let (mut sim, key, order, lease) = held_under_a_root(seed);
        let (root, holder) = (order[0], order[20]);
        sim.kill(root, Death::Process);
        beat_for(&mut sim, holder, lease, secs(1));
        let rest = order.iter().copied().filter(|node| *node != root && *node != holder);
        let (granted, others) = ask_all(&mut sim, rest, key);
        assert_eq!((granted.len(), others.len()), (0, 28), "seed {seed}");
    }
}

#[test]
fn when_a_nearer_node_joins_the_lease_goes_on_with_it() {
    let mut sim = three_regions(21, 12);
    sim.run_for(secs(20));
    let key = Key::of(b"newcomer");
    let Ok(Acquired::Granted(lease)) = acquire(&mut sim, 5, key, &[]) else { panic!("granted") };
    // As near as can be.
    let newcomer = sim.add_with_id(0, ms(1), key.into());
    sim.seeds(newcomer, &[0]);
    beat_for(&mut sim, 5, lease, secs(10));
    let (granted, others) = ask_all(&mut sim, [0, 1, 2, 3, newcomer].into_iter(), key);
    assert_eq!((granted.len(), others.len()), (0, 5));
}

#[test]
fn a_newcomer_grants_nothing_before_it_knows_its_neighbourhood_and_answers_all_the_same() {
    for seed in 0..8 {
        let mut sim = three_regions(seed, 30);
        sim.run_for(secs(20));
        let key = Key::of(b"newborn");
        let mut order: Vec<usize> = (0..30).collect();
        order.sort_by_key(|node| id(&sim, *node).key().distance(&key));
        let (holder, through) = (order[20], order[29]);
        let Ok(Acquired::Granted(lease)) = acquire(&mut sim, holder, key, &[]) else { panic!("granted") };
        // As near as can be; it knows one node, which knows nothing of the key and is the first to hear of it.
        let newcomer = sim.add_with_id(through, ms(1), key.into());
        sim.seeds(newcomer, &[through]);
        let mut ops = Vec::new();
        for turn in 0..100 {
            // Who has heard from nobody yet is alone.
            let askers = if turn < 10 { &[through][..] } else { &[through, newcomer] };
            for node in askers.iter().copied() {
                ops.push((turn, node, sim.command(node, acquire_command(key, &[]))));
            }
            if turn % 15 == 0 {
                sim.command(holder, Command::Beat(lease, Bytes::from_static(b"further")));
            }
            sim.run_for(ms(20));
        }
        for (turn, node, op) in ops {
            let said = sim.wait(op, secs(4));
            let sent = matches!(&said, Some((_, Outcome::Acquire(Ok(Acquired::References(values))))) if values[0].holder == id(&sim, holder));
            assert!(sent, "seed {seed}, turn {turn}, node {node}: {said:?}; {:#?}", sim.grants_of(key));
        }
    }
}

#[test]
fn of_two_fetchers_that_meet_the_lower_lease_goes_on() {
    let mut sim = three_regions(22, 9);
    sim.run_for(secs(20));
    let key = Key::of(b"two");
    let Ok(Acquired::Granted(lease)) = acquire(&mut sim, 4, key, &[]) else { panic!("granted") };
    let higher = Lease { epoch: lease.epoch, counter: lease.counter + 5, key };
    let Ok(Beat::Superseded(by)) = beat(&mut sim, 6, higher) else { panic!("the higher gives way") };
    assert_eq!(by.holder, id(&sim, 4));
    assert_eq!(beat(&mut sim, 4, lease), Ok(Beat::Kept));
}

#[test]
fn a_complete_copy_is_named_before_the_fetch_under_way() {
    let mut sim = three_regions(23, 9);
    sim.run_for(secs(20));
    let key = Key::of(b"whole");
    let Ok(Acquired::Granted(lease)) = acquire(&mut sim, 2, key, &[]) else { panic!("granted") };
    put(&mut sim, 7, key, secs(3_600), Levels::All).unwrap();
    assert_eq!(beat(&mut sim, 2, lease), Ok(Beat::Kept));
    let Ok(Acquired::References(values)) = acquire(&mut sim, 3, key, &[]) else { panic!("references") };
    let holders: Vec<_> = values.iter().map(|value| value.holder).collect();
    assert_eq!(holders, [id(&sim, 7), id(&sim, 2)]);
}

#[test]
fn what_cannot_be_shared_is_marked_and_the_mark_runs_out() {
    let mut sim = three_regions(24, 9);
    sim.run_for(secs(20));
    let key = Key::of(b"private");
    let Ok(Acquired::Granted(lease)) = acquire(&mut sim, 2, key, &[]) else { panic!("granted") };
    pass(&mut sim, 2, lease, Marker::Pass(secs(30))).unwrap();
    assert_eq!(acquire(&mut sim, 5, key, &[]), Ok(Acquired::Marked(Marker::Pass(secs(30)))));
    sim.run_for(secs(31));
    assert!(matches!(acquire(&mut sim, 5, key, &[]), Ok(Acquired::Granted(_))));
    let varies = Key::of(b"varies");
    let Ok(Acquired::Granted(lease)) = acquire(&mut sim, 2, varies, &[]) else { panic!("granted") };
    let marker = Marker::Vary(vec!["accept-encoding".to_owned()]);
    pass(&mut sim, 2, lease, marker.clone()).unwrap();
    assert_eq!(acquire(&mut sim, 8, varies, &[]), Ok(Acquired::Marked(marker)));
}

#[test]
fn an_acquire_of_a_cut_off_node_ends_by_its_deadline() {
    let mut sim = three_regions(25, 9);
    sim.run_for(secs(20));
    for node in 1..9 {
        sim.faults_mut().block(0, node);
        sim.faults_mut().block(node, 0);
    }
    let mut late = 0;
    for name in 0_u8..10 {
        let start = sim.now();
        if acquire(&mut sim, 0, Key::of(&[name]), &[]).is_err() {
            late += 1;
        }
        assert!(sim.now().since(start) <= ms(600));
    }
    assert!(late > 0, "whoever is not the root of a key and cannot reach it must be told so");
    let (found, _) = get(&mut sim, 0, Key::of(b"nothing"), Levels::All);
    assert!(found.is_ok() || found.is_err(), "a get ends as well");
}

#[test]
fn a_new_root_learns_of_copies_from_its_next_closest_nodes_before_it_grants() {
    let mut sim = three_regions(26, 12);
    sim.run_for(secs(20));
    let key = Key::of(b"cached long ago");
    put(&mut sim, 3, key, secs(3_600), Levels::All).unwrap();
    let newcomer = sim.add_with_id(1, ms(1), key.into());
    sim.seeds(newcomer, &[0]);
    sim.run_for(secs(10));
    let Ok(Acquired::References(values)) = acquire(&mut sim, 8, key, &[]) else {
        panic!("references, no second fetch")
    };
    assert_eq!(values[0].holder, id(&sim, 3));
    // Unless that copy is the one that failed.
    let failed = [id(&sim, 3)];
    assert!(matches!(acquire(&mut sim, 8, key, &failed), Ok(Acquired::Granted(_))));
}

#[test]
fn links_that_stall_and_repeat_delay_answers_and_make_no_second_grant() {
    for seed in 40..44 {
        let mut sim = three_regions(seed, 30);
        let faults = sim.faults_mut();
        (faults.stalled, faults.duplicated, faults.jitter_percent) = (20_000, 10_000, 30);
        sim.run_for(secs(30));
        for name in 0_u8..12 {
            let key = Key::of(&[name]);
            let ops: Vec<_> = (0..30).map(|node| sim.command(node, acquire_command(key, &[]))).collect();
            let outcomes: Vec<_> = ops.into_iter().filter_map(|op| sim.wait(op, secs(2))).collect();
            let granted = |outcome: &&(_, Outcome)| matches!(outcome.1, Outcome::Acquire(Ok(Acquired::Granted(_))));
            let late = |outcome: &&(_, Outcome)| matches!(outcome.1, Outcome::Acquire(Err(_)));
            assert_eq!(outcomes.len(), 30);
            assert_eq!(outcomes.iter().filter(granted).count(), 1, "{name} at seed {seed}");
            assert!(outcomes.iter().filter(late).count() <= 1, "{name} at seed {seed}");
        }
    }
}
