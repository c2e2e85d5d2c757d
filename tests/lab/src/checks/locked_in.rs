//! Scenario 2: after its second resolution a resolver's refreshes go to the servers it was referred to, and every answer is of the
//! cluster its delegation was made for.
//!
//! The servers of a resolver's delegations are read out of the resolver: the NS records it has for each cut, and their addresses.
//! The cluster is the innermost one that at least half of them share, as they say themselves. Questions are counted by the router.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use hickory_proto::rr::{RData, RecordType};

use super::{
    outcome::{Wanted, percent},
    stage::{Stage, clients, look_up_all, named, nodes, say_aside},
};
use crate::{address::HostId, error::Error, lab::Lab, measure::stub, scenario::Host};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.up_file("right-place", |_| ())?;
    stage.wait_for_clusters(&lab)?;
    let name = format!("www.site.test.{}.", lab.scenario().zone);
    for _ in 0..2 {
        look_up_all(&lab, &name);
        stage.wait(stage.refresh())?;
    }
    look_up_all(&lab, &name);
    let delegated: BTreeMap<&str, BTreeSet<HostId>> =
        clients(&lab).into_iter().map(|client| (client.name.as_str(), servers_of(&lab, client))).collect();
    let before = lab.questions();
    let (mut answers, mut strayed, mut failed) = (0, 0, 0);
    for _ in 0..stage.by_scale(2, 6) {
        stage.wait(stage.refresh())?;
        let clusters = Clusters::of(&lab);
        for (client, answer) in look_up_all(&lab, &name) {
            let Ok(answer) = answer else {
                failed += 1;
                continue;
            };
            answers += 1;
            let servers = &delegated[client.name.as_str()];
            let (level, cluster) = clusters.shared_by(servers);
            let strangers = named(&answer).into_iter().filter(|node| clusters.at(*node, level) != cluster);
            let strangers: Vec<&str> = strangers.map(|node| lab.scenario().hosts[node.index()].name.as_str()).collect();
            if !strangers.is_empty() || answer.addresses.is_empty() {
                strayed += 1;
                let strangers = strangers.join(", ");
                say_aside(&format!("  {}: not of its level-{level} cluster: {strangers}", client.name));
            }
        }
    }
    let (own, aside) = refreshes(&lab, &before, &delegated);
    stage.claim("failed_refreshes", f64::from(failed), "", Wanted::Exactly(0.0));
    stage.claim("answers_of_the_delegations_cluster", percent(answers - strayed, answers), "%", Wanted::AtLeast(100.0));
    stage.claim("questions_to_own_servers", percent(own, own + aside), "%", Wanted::AtLeast(100.0));
    let mut at: BTreeMap<HostId, u64> = BTreeMap::new();
    for ((_, to), count) in asked_since(&lab, &before) {
        *at.entry(to).or_default() += count;
    }
    for node in nodes(&lab) {
        stage.figure(format!("queries/{}", node.name), at.get(&node.id).copied().unwrap_or(0) as f64, "");
    }
    Ok(())
}

/// Who serves the cuts that a client's resolver was referred to, by what the resolver has.
fn servers_of(lab: &Lab, client: &Host) -> BTreeSet<HostId> {
    let Some(resolver) = client.resolver.map(|id| SocketAddr::from((id.v4(), 53))) else { return BTreeSet::new() };
    let ask = |name: &str, kind| lab.within(&client.name, || stub(resolver, name, kind)).ok()?.ok();
    let mut servers = BTreeSet::new();
    for cut in ["l0", "l1.l0", "l2.l1.l0"] {
        let Some(set) = ask(&format!("{cut}.{}.", lab.scenario().zone), RecordType::NS) else { continue };
        for record in &set.message.answers {
            let RData::NS(server) = &record.data else { continue };
            let found = ask(&server.0.to_string(), RecordType::A);
            servers.extend(found.iter().flat_map(named));
        }
    }
    servers
}

/// The questions of resolvers to nodes since then: how many went to the asker's own servers, and how many elsewhere.
fn refreshes(
    lab: &Lab,
    before: &BTreeMap<(HostId, HostId), u64>,
    delegated: &BTreeMap<&str, BTreeSet<HostId>>,
) -> (usize, usize) {
    let (mut own, mut aside) = (0, 0);
    for client in clients(lab) {
        let (Some(resolver), servers) = (client.resolver, &delegated[client.name.as_str()]) else { continue };
        for ((_, to), count) in asked_since(lab, before).into_iter().filter(|((from, _), _)| *from == resolver) {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            if servers.contains(&to) {
                own += count;
            } else {
                aside += count;
                let node = &lab.scenario().hosts[to.index()].name;
                say_aside(&format!("  {}: {count} questions to {node}, which is not one of its servers", client.name));
            }
        }
    }
    (own, aside)
}

fn asked_since(lab: &Lab, before: &BTreeMap<(HostId, HostId), u64>) -> BTreeMap<(HostId, HostId), u64> {
    let nodes: BTreeSet<HostId> = nodes(lab).iter().map(|node| node.id).collect();
    let now = lab.questions().into_iter().filter(|((_, to), _)| nodes.contains(to));
    let new = now.map(|(pair, count)| (pair, count - before.get(&pair).copied().unwrap_or(0)));
    new.filter(|(_, count)| *count > 0).collect()
}

/// The cluster of every node at every level, as it says itself.
struct Clusters(BTreeMap<HostId, Vec<String>>);

impl Clusters {
    fn of(lab: &Lab) -> Self {
        let clusters = |node: &&Host| {
            let status = lab.node_status(&node.name)?;
            let levels = status["levels"].as_array()?;
            let word = |level: &serde_json::Value| level["cluster"].as_str().unwrap_or_default().to_owned();
            Some((node.id, levels.iter().map(word).collect()))
        };
        Self(nodes(lab).iter().filter_map(clusters).collect())
    }

    fn at(&self, node: HostId, level: usize) -> Option<&str> {
        self.0.get(&node)?.get(level).map(String::as_str)
    }

    /// The innermost cluster that at least half of these are in, with its level.
    fn shared_by(&self, servers: &BTreeSet<HostId>) -> (usize, Option<&str>) {
        for level in [2, 1] {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            servers
                .iter()
                .filter_map(|server| self.at(*server, level))
                .for_each(|id| *counts.entry(id).or_default() += 1);
            if let Some((id, _)) =
                counts.into_iter().filter(|(_, count)| count * 2 >= servers.len()).max_by_key(|(_, n)| *n)
            {
                return (level, Some(id));
            }
        }
        (0, self.0.values().next().and_then(|levels| levels.first()).map(String::as_str))
    }
}
