//! Scenario 2: after its second resolution a resolver's refreshes go to the servers it was referred to, and every answer is of the
//! cluster its delegation was made for.

use std::{collections::BTreeMap, time::Duration};

use super::{
    outcome::{Wanted, percent},
    right_place::program,
    stage::{MIDDLE, NEAR, Stage, clients, look_up, named, nodes},
};
use crate::{
    error::Error,
    lab::Lab,
    scenario::{Host, Role},
};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.up_file("right-place", |_| ())?;
    stage.wait_for_clusters(&lab, Duration::from_secs(60))?;
    let name = format!("www.site.test.{}.", lab.scenario().zone);
    for _ in 0..2 {
        clients(&lab).iter().for_each(|client| drop(look_up(&lab, client, &name)));
        stage.wait(stage.refresh())?;
    }
    let clients = clients(&lab);
    let mut classes: BTreeMap<&str, Option<u8>> = BTreeMap::new();
    let before = queries(&lab);
    let (mut answers, mut strayed, mut failed) = (0, Vec::new(), 0);
    for _ in 0..stage.by_scale(2, 6) {
        for client in &clients {
            let Ok(answer) = look_up(&lab, client, &name) else {
                failed += 1;
                continue;
            };
            answers += 1;
            let widest = named(&answer).into_iter().map(|node| class(&lab, client, node)).max();
            let known = classes.entry(&client.name).or_insert(widest);
            if *known != widest {
                strayed.push(program(&lab, client));
            }
        }
        stage.wait(stage.refresh())?;
    }
    let after = queries(&lab);
    let asked: BTreeMap<&str, u64> =
        after.iter().map(|(node, count)| (*node, count - before.get(node).copied().unwrap_or(0).min(*count))).collect();
    let apex = nodes(&lab).into_iter().filter(|node| matches!(node.role, Role::Node { apex: true, .. }));
    // An apex server is asked by right where it is also a server of the cluster: only those near no client stand aside.
    let aside = apex.filter(|node| clients.iter().all(|client| lab.scenario().rtt(client.id, node.id) >= MIDDLE));
    let strangers: u64 = aside.map(|node| asked.get(node.name.as_str()).copied().unwrap_or(0)).sum();
    stage.claim("failed_refreshes", f64::from(failed), "", Wanted::Exactly(0.0));
    let same = percent(answers - strayed.len(), answers);
    stage.claim("answers_of_one_cluster", same, "%", Wanted::AtLeast(100.0));
    stage.figure("queries_in_all", asked.values().sum::<u64>() as f64, "");
    stage.figure("queries_at_far_apex_servers", strangers as f64, "");
    for (node, count) in &asked {
        stage.figure(format!("queries/{node}"), *count as f64, "");
    }
    Ok(())
}

/// 2, 1 or 0 turned round: how far a node is from a client, nearest first.
fn class(lab: &Lab, client: &Host, node: crate::address::HostId) -> u8 {
    match lab.scenario().rtt(client.id, node) {
        rtt if rtt < NEAR => 0,
        rtt if rtt < MIDDLE => 1,
        _ => 2,
    }
}

fn queries(lab: &Lab) -> BTreeMap<&str, u64> {
    let count = |node: &&Host| lab.node_status(&node.name).and_then(|status| status["dns"]["queries"].as_u64());
    nodes(lab).into_iter().map(|node| (node.name.as_str(), count(&node).unwrap_or(0))).collect()
}
