//! A hot key (NSDI'04 4.2 and 6.4): the load on the closest node is bounded by the leakage of its neighbours, whoever many put.

use atoll_overlay::{
    Config, Found, Key, Level, Levels, Mode,
    core::{Command, Outcome},
    sim::Sim,
};

use super::support::{ms, put_command, regions, secs, started, three_regions};

#[test]
fn no_node_receives_more_store_rpcs_for_a_hot_key_than_beta_for_each_digit_a_minute() {
    const NODES: usize = 48;
    let config = Config { mode: Mode::Paper, thresholds: Vec::new(), ..Config::default() };
    let (beta, values) = (config.leak_per_minute, config.values_per_key);
    let mut sim = started(Sim::new(config, regions(), 3), NODES);
    sim.run_for(secs(20));
    let key = Key::of(b"slashdotted");
    let closest = (0..NODES).min_by_key(|node| sim.node(*node).unwrap().id().key().distance(&key)).unwrap();

    let mut by_minute = Vec::new();
    for _minute in 0..3 {
        let counters = |sim: &Sim| (0..NODES).map(|node| sim.counters(node)).collect::<Vec<_>>();
        let before = counters(&sim);
        for _ in 0..120 {
            for node in 0..NODES {
                sim.command(node, put_command(key, b"mine", secs(600), Levels::All));
            }
            sim.run_for(ms(500));
        }
        let gained = counters(&sim).into_iter().zip(before);
        let gained = gained.map(|(now, then)| (now.store_intents - then.store_intents, now.stores - then.stores));
        by_minute.push(gained.collect::<Vec<_>>());
    }
    // Store RPCs, as the paper's bound counts them: beta for each digit in which a neighbour's id may differ. The closest node's
    // non-empty buckets are those digits here; log2 n is their expected number.
    let log2 = usize::try_from(NODES.ilog2()).unwrap() + 1;
    let bound = u64::try_from(beta * log2).unwrap();
    for (minute, nodes) in by_minute.iter().enumerate() {
        let most = nodes.iter().map(|(intents, stores)| intents + stores).max().unwrap();
        assert!(most <= bound, "{most} store RPCs in minute {minute} at one node, bound {bound}: {nodes:?}");
    }
    assert!(
        by_minute.iter().skip(1).any(|nodes| nodes[closest].0 > 0),
        "puts leak on to the closest node: {by_minute:?}"
    );

    let op = sim.command(closest, Command::Get(key, Levels::Only(Level::GLOBAL)));
    let found = sim.wait(op, secs(5)).unwrap().1;
    let Outcome::Get(Ok(Found::Values { values: list, .. })) = found else {
        panic!("the closest node has values: {found:?}")
    };
    assert!(list.len() <= values, "{} values under one key", list.len());
}

#[test]
fn what_several_callers_put_again_is_not_stored_again_until_it_is_withdrawn() {
    let mut sim = three_regions(5, 12);
    sim.run_for(secs(20));
    let key = Key::of(b"put by many");
    let intents = |sim: &Sim| (0..12).map(|node| sim.counters(node).store_intents).sum::<u64>();
    let put_twice = |sim: &mut Sim| {
        let ops = [(); 2].map(|()| sim.command(0, put_command(key, b"mine", secs(600), Levels::All)));
        for op in ops {
            let outcome = sim.wait(op, secs(10)).map(|(_, outcome)| outcome);
            assert!(matches!(outcome, Some(Outcome::Put(Ok(_)))), "{outcome:?}");
        }
    };
    put_twice(&mut sim);
    let once = intents(&sim);
    assert!(once > 0, "others are asked to store it");
    sim.run_for(secs(30));
    put_twice(&mut sim);
    assert_eq!(intents(&sim), once);
    let op = sim.command(0, Command::Withdraw(key));
    sim.wait(op, secs(20)).expect("a withdrawal ends");
    put_twice(&mut sim);
    assert!(intents(&sim) > once, "what was withdrawn is put anew");
    // A sixteenth of its time later it is stored anew as well.
    let twice = intents(&sim);
    sim.run_for(secs(38));
    put_twice(&mut sim);
    assert!(intents(&sim) > twice);
}

#[test]
fn what_a_crowd_got_is_kept_longer_than_what_two_callers_did() {
    let asked_again_after = |callers: usize, pause: u64| {
        let mut sim = three_regions(5, 12);
        sim.run_for(secs(20));
        let key = Key::of(b"wanted by many");
        let holder = sim.command(7, put_command(key, b"mine", secs(600), Levels::All));
        sim.wait(holder, secs(10)).expect("a put ends");
        // A node that keeps the value itself asks nobody.
        let gets = |sim: &Sim| (0..12).map(|node| sim.counters(node).gets).sum::<u64>();
        let asks = |sim: &mut Sim, node: usize| {
            let before = gets(sim);
            let ops = (0..callers).map(|_| sim.command(node, Command::Get(key, Levels::All))).collect::<Vec<_>>();
            for op in ops {
                let outcome = sim.wait(op, secs(10)).map(|(_, outcome)| outcome);
                assert!(matches!(outcome, Some(Outcome::Get(Ok(Found::Values { .. })))), "{outcome:?}");
            }
            gets(sim) > before
        };
        let asker = (0..12).find(|node| asks(&mut sim, *node)).expect("somebody must ask for it");
        sim.run_for(secs(pause));
        asks(&mut sim, asker)
    };
    assert!(!asked_again_after(2, 10) && asked_again_after(2, 20));
    assert!(!asked_again_after(17, 50) && asked_again_after(17, 70));
}
