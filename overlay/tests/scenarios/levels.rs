//! Hierarchical get and put over levels 2, 1 and 0 (NSDI'04 4.3).

use atoll_overlay::{Found, Key, Level, Levels};

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
