//! Scenario 2: after its second resolution a resolver's refreshes go to the servers it was referred to, and every answer is of the
//! cluster its delegation was made for.
//!
//! The router notes the referrals that each resolver is given, and counts questions. The cluster is the one that most servers of
//! the deepest zone share, as they say themselves, at that zone's level. A resolver that asks for the whole name at once is told
//! the first zone only: of it, a cluster that most of its servers share at any level above 0 will do.

use std::collections::{BTreeMap, BTreeSet};

use hickory_proto::rr::Name;

use super::{
    outcome::{Wanted, percent},
    stage::{Stage, clients, look_up_all, named, nodes, say_aside},
};
use crate::{address::HostId, error::Error, lab::Lab, scenario::Host};

/// Whom a client's resolver was referred to.
#[derive(Default)]
struct Delegation {
    /// All servers of the zones it holds.
    servers: BTreeSet<HostId>,
    /// Those of the deepest one, and its level.
    deepest: (BTreeSet<HostId>, usize),
}

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.up_file("right-place", |_| ())?;
    stage.wait_for_clusters(&lab)?;
    let name = format!("www.site.test.{}.", lab.scenario().zone);
    for _ in 0..2 {
        look_up_all(&lab, &name);
        stage.wait(stage.refresh())?;
    }
    let delegated: BTreeMap<&str, Delegation> =
        clients(&lab).into_iter().map(|client| (client.name.as_str(), delegation_of(&lab, client))).collect();
    let before = lab.watch().questions;
    let (mut answers, mut strayed, mut failed) = (0, 0, 0);
    for round in 0..stage.by_scale(2, 6) {
        if round > 0 {
            stage.wait(stage.refresh())?;
        }
        let clusters = Clusters::of(&lab);
        for (client, answer) in look_up_all(&lab, &name) {
            let Ok(answer) = answer else {
                failed += 1;
                continue;
            };
            answers += 1;
            let named = named(&answer);
            let delegation = &delegated[client.name.as_str()];
            if named.is_empty() || !clusters.are_of(&named, delegation) {
                strayed += 1;
                let node = |node: &HostId| lab.scenario().hosts[node.index()].name.as_str();
                let (named, level) = (named.iter().map(node).collect::<Vec<_>>(), delegation.deepest.1);
                let servers: Vec<&str> = delegation.deepest.0.iter().map(node).collect();
                say_aside(&format!("  {}: {named:?} are not of the level-{level} cluster of {servers:?}", client.name));
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

/// The referrals that a client's resolver holds.
fn delegation_of(lab: &Lab, client: &Host) -> Delegation {
    let zone = Name::from_ascii(format!("{}.", lab.scenario().zone)).unwrap_or_default();
    let held = client.resolver.map(|resolver| lab.watch().held(resolver, &zone)).unwrap_or_default();
    let servers = held.iter().flat_map(|(_, servers)| servers.iter().copied()).collect();
    let deepest =
        held.last().map(|(cut, servers)| (servers.clone(), usize::from(cut.num_labels() - zone.num_labels()) - 1));
    Delegation { servers, deepest: deepest.unwrap_or_default() }
}

/// The questions of resolvers to nodes since then: how many went to the asker's own servers, and how many elsewhere.
fn refreshes(
    lab: &Lab,
    before: &BTreeMap<(HostId, HostId), u64>,
    delegated: &BTreeMap<&str, Delegation>,
) -> (usize, usize) {
    let (mut own, mut aside) = (0, 0);
    for client in clients(lab) {
        let (Some(resolver), delegation) = (client.resolver, &delegated[client.name.as_str()]) else { continue };
        for ((_, to), count) in asked_since(lab, before).into_iter().filter(|((from, _), _)| *from == resolver) {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            if delegation.servers.contains(&to) {
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
    let now = lab.watch().questions.into_iter().filter(|((_, to), _)| nodes.contains(to));
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

    /// Whether all of these are of the cluster a delegation was made for.
    fn are_of(&self, named: &[HostId], delegation: &Delegation) -> bool {
        let (servers, level) = &delegation.deepest;
        // One that was only ever led to the outermost level is held to what its servers share; level 0 is everybody's and says nothing.
        let levels = if *level > 0 { vec![*level] } else { vec![2, 1] };
        levels.into_iter().any(|level| {
            let shared = self.shared_by(servers, level);
            shared.is_some() && named.iter().all(|node| self.at(*node, level) == shared)
        })
    }

    /// The cluster of a level that most of these are in, and at least half.
    fn shared_by(&self, servers: &BTreeSet<HostId>, level: usize) -> Option<&str> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        servers.iter().filter_map(|server| self.at(*server, level)).for_each(|id| *counts.entry(id).or_default() += 1);
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.filter(|(_, count)| count * 2 >= servers.len()).map(|(id, _)| id)
    }
}
