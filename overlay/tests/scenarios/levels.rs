//! Hierarchical get and put over levels 2, 1 and 0 (NSDI'04 4.3).

use atoll_overlay::{Found, Key, Level, Levels, NodeInfo, NodesQuery, Prefix, Roles, core::Input};

use super::support::{get, id, ms, put, secs, three_regions};

#[test]
fn what_is_put_in_one_cluster_is_found_at_level_2_there_and_at_level_0_from_afar() {
    let mut sim = three_regions(11, 12);
    sim.run_for(secs(20));
    for name in 0_u8..20 {
        let key = Key::of(&[name]);
        let stored = put(&mut sim, 0, key, secs(3_600), Levels::All).unwrap();
        assert_eq!(stored.widest, Level::GLOBAL);

        let (near, took) = get(&mut sim, 3, key, Levels::All);
        let Ok(Found::Values { level, values }) = near else { panic!("found near: {near:?}") };
        assert_eq!((level, values[0].level, values[0].holder), (Level(2), Level(2), id(&sim, 0)));
        assert!(took <= ms(30), "no farther than the cluster: {took:?}");

        let (far, _) = get(&mut sim, 1, key, Levels::All);
        let Ok(Found::Values { level, values }) = far else { panic!("found from afar: {far:?}") };
        assert_eq!((level, values[0].level, values[0].holder), (Level(0), Level(0), id(&sim, 0)));
    }
}

#[test]
fn a_get_that_may_not_go_wider_finds_nothing_from_afar() {
    let mut sim = three_regions(12, 9);
    sim.run_for(secs(20));
    let key = Key::of(b"near only");
    put(&mut sim, 0, key, secs(60), Levels::UpTo(Level(1))).unwrap();
    assert!(matches!(get(&mut sim, 3, key, Levels::UpTo(Level(1))).0, Ok(Found::Values { .. })));
    assert_eq!(get(&mut sim, 1, key, Levels::All).0, Ok(Found::Nothing));
}

#[test]
fn a_value_is_gone_when_its_time_is_over_and_when_it_is_withdrawn() {
    let mut sim = three_regions(13, 9);
    sim.run_for(secs(20));
    let (brief, long) = (Key::of(b"brief"), Key::of(b"long"));
    put(&mut sim, 0, brief, secs(5), Levels::All).unwrap();
    put(&mut sim, 0, long, secs(3_600), Levels::All).unwrap();
    sim.run_for(secs(4));
    assert!(matches!(get(&mut sim, 4, brief, Levels::All).0, Ok(Found::Values { .. })));
    sim.run_for(secs(2));
    assert_eq!(get(&mut sim, 4, brief, Levels::All).0, Ok(Found::Nothing));

    assert!(matches!(get(&mut sim, 4, long, Levels::All).0, Ok(Found::Values { .. })));
    let op = sim.command(0, atoll_overlay::core::Command::Withdraw(long));
    sim.wait(op, secs(5)).unwrap();
    for asker in 1..9 {
        assert_eq!(get(&mut sim, asker, long, Levels::All).0, Ok(Found::Nothing), "asked by {asker}");
    }
}

#[test]
fn a_node_does_not_find_its_own_pointer() {
    let mut sim = three_regions(14, 9);
    sim.run_for(secs(20));
    let key = Key::of(b"mine");
    put(&mut sim, 0, key, secs(60), Levels::All).unwrap();
    assert_eq!(get(&mut sim, 0, key, Levels::All).0, Ok(Found::Nothing));
}

#[test]
fn a_measured_prefix_tells_who_is_near_it() {
    let mut sim = three_regions(15, 9);
    sim.run_for(secs(20));
    let target = "198.51.100.7".parse().unwrap();
    let prefix = Prefix::of(target);
    for (node, rtt) in [(1, 5), (4, 9), (0, 80)] {
        sim.input(node, Input::Observe { prefix, rtt: ms(rtt) });
        sim.run_for(secs(2));
    }
    let query = NodesQuery { level: Level::GLOBAL, count: 3, target: Some(target), services: Roles::PROXY };
    let near: Vec<_> = sim.node(0).unwrap().nodes(&query).into_iter().map(|info| info.id).collect();
    assert_eq!(near, [id(&sim, 1), id(&sim, 4), id(&sim, 0)], "by what each measured, not by distance from here");
    // Anybody may ask the index itself.
    let (found, _) = get(&mut sim, 8, prefix.key(), Levels::All);
    assert!(matches!(found, Ok(Found::Values { .. })), "{found:?}");
}

#[test]
fn what_a_node_says_of_itself_reaches_its_neighbours_when_it_changes() {
    let mut sim = three_regions(16, 9);
    sim.run_for(secs(20));
    let me = sim.node(3).unwrap().me();
    sim.input(3, Input::Describe(NodeInfo { load: 90, draining: true, ..me }));
    sim.run_for(secs(3));
    let query = NodesQuery { level: Level(2), count: 9, target: None, services: Roles::NONE };
    let seen = sim.node(0).unwrap().nodes(&query);
    let changed = seen.iter().find(|info| info.id == id(&sim, 3)).unwrap();
    assert_eq!((changed.load, changed.draining, changed.rtt), (90, true, Some(ms(8))));
}
