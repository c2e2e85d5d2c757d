//! What a quiet network costs: nobody asks for anything, and nodes look after their tables and clusters.

use std::time::Duration;

use super::{
    Progress, Scenario, Setup,
    report::{Bound, Report, count, wide},
    setup::Churn,
};

pub(super) fn idle(setup: &Setup, progress: Progress<'_>) -> Report {
    let nodes = setup.nodes(Scenario::Idle);
    let mut sim = setup.warm(setup.config(), nodes);
    sim.run_for(Duration::from_secs(60));
    sim.weigh();
    let sums = |sim: &crate::sim::Sim| {
        let counters = (0..sim.len()).map(|node| sim.counters(node));
        counters.fold((0, 0), |(sent, bytes), one| (sent + one.sent, bytes + one.sent_bytes))
    };
    let before = sums(&sim);
    let seconds = 60 * setup.minutes(Scenario::Idle);
    let start = sim.now();
    let mut churn = setup.churn.then(|| Churn::new(&sim, Duration::from_secs(3_600), setup.seed));
    for second in 1..=seconds {
        let until = start + Duration::from_secs(second);
        match &mut churn {
            Some(churn) => churn.run_until(&mut sim, until),
            None => sim.run_until(until),
        }
        progress(wide(second) / wide(seconds), sim.events());
    }
    let after = sums(&sim);
    let per_node = |sum: u64| wide(sum) / count(nodes) / wide(seconds);
    let mut report = Report::default();
    report.hold("bytes_per_node_s", per_node(after.1 - before.1), Bound::AtMost(600.0));
    report.hold("messages_per_node_s", per_node(after.0 - before.0), Bound::AtMost(1.0));
    report.close(&sim);
    report
}
