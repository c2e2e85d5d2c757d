//! A fifth of the members do harm, a third of these each way: they drop questions, name only their own kind, return pointers to
//! nothing, of which one is the same from all of them. They hold certificates and answer probes: nothing but what they say gives them away.

use std::{sync::Arc, time::Duration};

use super::{
    Progress, Scenario, Setup,
    report::{Bound, Report, count},
    setup::{Asked, got, key, put},
};
use crate::{
    Levels,
    core::{Command, Contact},
    sim::liar::{Harm, Liar},
};

pub(super) fn adversary(setup: &Setup, progress: Progress<'_>) -> Report {
    let nodes = setup.nodes(Scenario::Adversary);
    let mut sim = setup.warm(setup.config(), nodes);
    let mut rng = setup.rng();
    let mut order: Vec<usize> = (0..nodes).collect();
    rng.shuffle(&mut order);
    let (liars, honest) = order.split_at(nodes / 5);
    let kind: Arc<[Contact]> = liars.iter().filter_map(|node| sim.contact(*node)).collect();
    for (turn, node) in liars.iter().enumerate() {
        let harm = [Harm::Drops, Harm::Misleads, Harm::Forges][turn % 3];
        let header = sim.header(*node);
        sim.corrupt(*node, Liar::new(harm, Arc::clone(&kind), header));
    }
    sim.run_for(Duration::from_secs(30));
    let holders: Vec<usize> = (0..KEYS).map(|_| honest[rng.below(honest.len())]).collect();
    for (number, holder) in holders.iter().enumerate() {
        sim.command(*holder, put(key(setup.seed, 6, number), b"here", Levels::All));
        sim.run_for(Duration::from_millis(10));
    }
    sim.run_for(Duration::from_secs(10));
    let gets = GETS * usize::try_from(setup.minutes(Scenario::Adversary)).unwrap_or(1);
    let (mut asked, mut first, mut second) = (0, 0, 0);
    let mut pending: Vec<(usize, bool, Asked)> = Vec::new();
    let mut number = 0;
    while number < gets || !pending.is_empty() {
        if number < gets {
            let (key_number, asker) = (rng.below(KEYS), honest[rng.below(honest.len())]);
            if asker != holders[key_number] {
                let op = sim.command(asker, Command::Get(key(setup.seed, 6, key_number), Levels::All));
                pending.push((asker, true, Asked { op, at: sim.now(), key: key_number }));
                asked += 1;
            }
            number += 1;
            progress(count(number) / count(gets), sim.events());
        }
        sim.run_for(Duration::from_millis(25));
        for (asker, is_first, one) in std::mem::take(&mut pending) {
            match got(&mut sim, &one) {
                None => pending.push((asker, is_first, one)),
                Some(result) => {
                    let right = sim.contact(holders[one.key]).map(|one| one.id);
                    let good = result.values.iter().any(|value| Some(value.holder) == right);
                    first += usize::from(good && is_first);
                    second += usize::from(good);
                    if !good && is_first {
                        // What was named had nothing: the caller asks once more.
                        let op = sim.command(asker, Command::Get(key(setup.seed, 6, one.key), Levels::All));
                        pending.push((asker, false, Asked { op, at: sim.now(), key: one.key }));
                    }
                }
            }
        }
    }
    let mut report = Report::default();
    report.hold("success", count(second) / count(asked), Bound::AtLeast(0.99));
    report.print("success_first_try", count(first) / count(asked));
    report.close(&sim);
    report
}

/// Keys put, and gets a virtual minute.
const KEYS: usize = 500;
const GETS: usize = 1_000;
