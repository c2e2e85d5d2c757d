//! Scenario 2: after its second resolution a resolver's refreshes go to the servers it was referred to, and every answer is of the
//! cluster its delegation was made for.
//!
//! The router notes the referrals that each resolver is given, and counts each question by the one that led to its server, as the
//! asker held it at that moment: a delegation that is made anew names other servers. The cluster is that of the server which the
//! referral to the deepest zone names first, as it says itself, at that zone's level: servers of wider clusters come after it. It is
//! looked at when the delegation was made, and again at each answer, for clusters are left and joined while a delegation holds for an
//! hour. A resolver that asks for the whole name at once is told the first zone only: of it, that server's cluster at any level above
//! 0 will do.

use std::collections::{BTreeMap, BTreeSet};

use hickory_proto::rr::Name;

use super::{
    outcome::{Wanted, percent},
    stage::{Clusters, Stage, clients, look_up_all, named, nodes, say_aside},
    why,
};
use crate::{address::HostId, error::Error, lab::Lab, router::Watch, scenario::Host};

/// The deepest zone that a client's resolver was referred to.
#[derive(Default)]
struct Delegation {
    /// Its servers as they were named.
    servers: Vec<HostId>,
    level: usize,
}

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.go_on()?;
    stage.wait_for_clusters(&lab)?;
    let name = format!("www.site.test.{}.", lab.scenario().zone);
    let mut then = Clusters::default();
    for _ in 0..2 {
        look_up_all(&lab, &name);
        then = Clusters::of(&lab);
        stage.wait(stage.refresh())?;
    }
    let delegated: BTreeMap<&str, Delegation> =
        clients(&lab).into_iter().map(|client| (client.name.as_str(), delegation_of(&lab, client))).collect();
    let before = lab.watch();
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
            if named.is_empty() || ![&then, &clusters].iter().any(|clusters| clusters.are_of(&named, delegation)) {
                strayed += 1;
                let node = |node: &HostId| lab.scenario().hosts[node.index()].name.as_str();
                let (named, level) = (named.iter().map(node).collect::<Vec<_>>(), delegation.level);
                let servers: Vec<&str> = delegation.servers.iter().map(node).collect();
                say_aside(&format!("  {}: {named:?} are not of the level-{level} cluster of {servers:?}", client.name));
                why::say(&lab, &client.name, "site");
            }
        }
    }
    let (own, aside) = refreshes(&lab, &before);
    stage.claim("failed_refreshes", f64::from(failed), "", Wanted::Exactly(0.0));
    // At short scale clusters are still being found on a busy machine, and delegations outlive them.
    let wanted = stage.by_scale(Wanted::Nothing, Wanted::AtLeast(100.0));
    stage.claim("answers_of_the_delegations_cluster", percent(answers - strayed, answers), "%", wanted);
    stage.claim("questions_to_own_servers", percent(own, own + aside), "%", stage.share(100.0));
    let now = lab.watch();
    // A question to a server that is gone has no reply: the two figures tell load from loss.
    for (what, before, now) in
        [("queries", &before.questions, &now.questions), ("replies", &before.replies, &now.replies)]
    {
        let mut at: BTreeMap<HostId, u64> = BTreeMap::new();
        for ((_, server), count) in since(&lab, before, now) {
            *at.entry(server).or_default() += count;
        }
        for node in nodes(&lab) {
            stage.figure(format!("{what}/{}", node.name), at.get(&node.id).copied().unwrap_or(0) as f64, "");
        }
    }
    Ok(())
}

/// The deepest referral that a client's resolver holds.
fn delegation_of(lab: &Lab, client: &Host) -> Delegation {
    let zone = Name::from_ascii(format!("{}.", lab.scenario().zone)).unwrap_or_default();
    let held = client.resolver.map(|resolver| lab.watch().held(resolver, &zone)).unwrap_or_default();
    let level = |cut: &Name| usize::from(cut.num_labels() - zone.num_labels()) - 1;
    let deepest = held.last().map(|(cut, servers)| Delegation { servers: servers.clone(), level: level(cut) });
    deepest.unwrap_or_default()
}

/// The questions of resolvers to nodes since then: how many went to servers that a referral to a zone below the apex had led the asker
/// to, as it held them at that moment, and how many elsewhere. Of a delegation that lapsed the apex is asked, and that is elsewhere.
fn refreshes(lab: &Lab, before: &Watch) -> (usize, usize) {
    let (mut own, mut aside) = (0, 0);
    let (now, zone) = (lab.watch(), Name::from_ascii(format!("{}.", lab.scenario().zone)).unwrap_or_default());
    for client in clients(lab) {
        let Some(resolver) = client.resolver else { continue };
        for node in nodes(lab) {
            let pair = (resolver, node.id);
            let led = |watch: &Watch| {
                let (inside, outside): (Vec<_>, Vec<_>) =
                    watch.led.get(&pair).into_iter().flatten().partition(|(cut, _)| zone.zone_of(cut) && **cut != zone);
                [inside, outside].map(|zones| zones.into_iter().map(|(_, count)| *count).sum::<usize>())
            };
            let ([own_then, aside_then], [own_now, aside_now]) = (led(before), led(&now));
            own += own_now - own_then;
            let strayed = aside_now - aside_then;
            aside += strayed;
            if strayed > 0 {
                // A cut among them says that a delegation lapsed. New ones first: which of the others was asked again is not noted.
                let names = |watch: &Watch| watch.names.get(&pair).cloned().unwrap_or_default();
                let (then, now) = (names(before), names(&now));
                let names: Vec<String> =
                    now.difference(&then).chain(now.intersection(&then)).map(Name::to_ascii).collect();
                let of = format!(
                    "{strayed} questions to {}, which is not one of its servers, of {}",
                    node.name,
                    names.join(", ")
                );
                say_aside(&format!("  {}: {of}", client.name));
                why::say(lab, &client.name, "site");
            }
        }
    }
    (own, aside)
}

/// By asker and server.
type Counts = BTreeMap<(HostId, HostId), u64>;

/// How much each count of a node has grown, where it has.
fn since(lab: &Lab, before: &Counts, now: &Counts) -> Counts {
    let nodes: BTreeSet<HostId> = nodes(lab).iter().map(|node| node.id).collect();
    let of_nodes = now.iter().filter(|((_, server), _)| nodes.contains(server));
    let grown = of_nodes.map(|(pair, count)| (*pair, count - before.get(pair).copied().unwrap_or(0)));
    grown.filter(|(_, by)| *by > 0).collect()
}

impl Clusters {
    /// Whether all of these are of the cluster a delegation was made for.
    fn are_of(&self, named: &[HostId], delegation: &Delegation) -> bool {
        let Delegation { servers, level } = delegation;
        let Some(first) = servers.first() else { return false };
        // One that was only ever led to the outermost level is held to what is nearer; level 0 is everybody's and says nothing.
        let levels = if *level > 0 { vec![*level] } else { vec![2, 1] };
        levels.into_iter().any(|level| {
            let cluster = self.at(*first, level);
            cluster.is_some() && named.iter().all(|node| self.at(*node, level) == cluster)
        })
    }
}
