//! Deaths, losses and links that carry one way only; and what a quiet network costs.

use atoll_overlay::{
    Config, Found, Key, Level, Levels, NodesQuery, Roles,
    core::Command,
    sim::{Death, Sim},
};
use bytes::Bytes;

use super::support::{get, planetlab, put, secs, started, three_regions};

#[test]
fn a_value_outlives_the_deaths_of_two_of_the_nodes_that_store_it() {
    let mut sim = three_regions(31, 30);
    sim.run_for(secs(30));
    let mut found = 0;
    for name in 0_u8..10 {
        put(&mut sim, 0, Key::of(&[name]), secs(600), Levels::All).unwrap();
    }
    (1..30).step_by(4).for_each(|node| sim.kill(node, Death::Machine));
    for name in 0_u8..10 {
        found += usize::from(matches!(get(&mut sim, 2, Key::of(&[name]), Levels::All).0, Ok(Found::Values { .. })));
    }
    assert!(found >= 9, "{found} of 10 found right after a quarter died");
}

#[test]
fn losses_stalls_and_duplicates_cost_time_and_no_answers() {
    let mut sim = started(Sim::new(Config::default(), planetlab(), 32), 40);
    let faults = sim.faults_mut();
    (faults.stalled, faults.dropped, faults.duplicated) = (30_000, 10_000, 20_000);
    sim.run_for(secs(30));
    for name in 0_u8..20 {
        put(&mut sim, 1, Key::of(&[name]), secs(600), Levels::All).unwrap();
        let (found, _) = get(&mut sim, 30, Key::of(&[name]), Levels::All);
        assert!(matches!(found, Ok(Found::Values { .. })), "{name}: {found:?}");
    }
}

#[test]
fn a_link_that_carries_one_way_only_leads_no_lookup_astray() {
    let mut sim = three_regions(33, 12);
    sim.faults_mut().block(4, 7);
    sim.run_for(secs(30));
    for name in 0_u8..10 {
        put(&mut sim, 4, Key::of(&[name]), secs(600), Levels::All).unwrap();
        let (found, _) = get(&mut sim, 7, Key::of(&[name]), Levels::All);
        assert!(matches!(found, Ok(Found::Values { .. })), "{name}: {found:?}");
    }
}

#[test]
fn the_dead_leave_the_tables_and_the_answers() {
    let mut sim = three_regions(34, 9);
    sim.run_for(secs(20));
    let query = NodesQuery { level: Level(2), count: 10, target: None, services: Roles::PROXY };
    assert_eq!(sim.node(0).unwrap().nodes(&query).len(), 3);
    sim.kill(3, Death::Process);
    sim.run_for(secs(1));
    assert_eq!(sim.node(0).unwrap().nodes(&query).len(), 2, "a closed link is noticed at once");
    sim.kill(6, Death::Machine);
    sim.run_for(secs(40));
    assert_eq!(sim.node(0).unwrap().nodes(&query).len(), 1, "silence is noticed by probes");
}

#[test]
fn a_spread_record_reaches_every_node_once_and_is_pulled_by_who_comes_later() {
    let mut sim = three_regions(35, 30);
    sim.run_for(secs(30));
    let record = Bytes::from_static(b"purge everything of site.test");
    sim.command(17, Command::Spread(record.clone()));
    sim.run_for(secs(5));
    for node in 0..30 {
        let heard = sim.heard(node);
        assert_eq!(heard.len(), 1, "node {node} heard it {} times", heard.len());
        assert_eq!(heard[0].record, record);
    }
    let late = sim.add(1, super::support::ms(1));
    sim.seeds(late, &[4]);
    sim.run_for(secs(5));
    assert_eq!(sim.heard(late).len(), 1, "pulled on the first hello");
}

#[test]
fn a_quiet_network_costs_about_a_message_a_second_and_node() {
    let mut sim = three_regions(36, 30);
    sim.run_for(secs(120));
    let before: u64 = (0..30).map(|node| sim.counters(node).sent).sum();
    sim.run_for(secs(300));
    let after: u64 = (0..30).map(|node| sim.counters(node).sent).sum();
    let per_second = (after - before) / (30 * 3);
    assert!(per_second <= 130, "{per_second} messages per node in 100 s");
}
