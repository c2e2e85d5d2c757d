//! The experiments of `atoll sim` among few nodes, held to what the whole ones are held to.

use atoll_overlay::sim::{Scenario, Setup};

/// Runs a scenario among so many nodes. All that it is held to holds, but for what means nothing among so few.
fn check(scenario: Scenario, nodes: usize, minutes: u64, but_for: &[&str]) {
    for seed in [1, 2] {
        let setup = Setup { nodes: Some(nodes), minutes: Some(minutes), seed, ..Setup::default() };
        let report = scenario.run(&setup, &mut |_, _| {});
        assert_eq!(report.violations, Vec::<String>::new(), "{} at seed {seed}", scenario.name());
        for metric in report.metrics.iter().filter(|metric| !but_for.contains(&metric.name.as_str())) {
            let holds = metric.bound.is_none_or(|bound| bound.holds(metric.value));
            assert!(holds, "{} at seed {seed}: {metric:?}", scenario.name());
        }
    }
}

#[test]
fn gets_are_answered_by_the_nearest_level_in_time() {
    // The slowest of a hundred among so few is the one node that is far from everybody.
    check(Scenario::Lookup, 200, 1, &["l0_p95_ms", "l0_p99_ms"]);
}

#[test]
fn a_flash_crowd_fetches_each_file_once() {
    check(Scenario::FlashCrowd, 30, 1, &[]);
}

#[test]
fn under_churn_a_flash_crowd_fetches_once_for_each_fetcher_that_died() {
    for seed in [1, 2] {
        let setup = Setup { nodes: Some(30), minutes: Some(1), seed, churn: true, ..Setup::default() };
        let report = Scenario::FlashCrowd.run(&setup, &mut |_, _| {});
        let value = |name: &str| report.metrics.iter().find(|metric| metric.name == name).unwrap().value;
        assert!(value("origin_fetches") <= 12.0 + value("died_fetching"), "seed {seed}: {:?}", report.metrics);
    }
}

#[test]
fn with_a_fifth_of_the_members_doing_harm_gets_find_what_was_put() {
    check(Scenario::Adversary, 100, 1, &[]);
}

#[test]
fn under_churn_what_can_be_found_is_found() {
    check(Scenario::Churn, 80, 1, &[]);
}

#[test]
fn after_half_of_the_nodes_died_at_once_what_can_be_found_is_found() {
    check(Scenario::Kill, 150, 1, &[]);
}

#[test]
fn the_halves_of_a_network_find_each_other_again() {
    check(Scenario::Partition, 60, 2, &[]);
}

#[test]
fn clusters_are_near_and_nobody_swings() {
    check(Scenario::Clusters, 100, 2, &["share_in_l2_of_5"]);
}
