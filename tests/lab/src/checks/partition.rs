//! Scenario 5: the world is cut in two; both sides serve what they hold, and after healing all is as before.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    flash_crowd::origin,
    outcome::{Wanted, percent},
    stage::{Clusters, NEAR, Stage, clients, http, look_up, named, nodes},
};
use crate::{
    address::HostId,
    error::Error,
    lab::Lab,
    measure::fetch,
    router::Change,
    scenario::{Host, Role},
};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.up_file("flash-crowd", |_| ())?;
    stage.wait_for_clusters(&lab)?;
    let name = format!("www.site.test.{}", lab.scenario().zone);
    let clients = clients(&lab);
    let before = served_within(Duration::from_secs(40), stage, &lab, &name)?;
    stage.claim("served_before", before, "%", Wanted::Exactly(100.0));
    // What was answered to strangers lapses, so that each side has been referred to its own servers.
    stage.wait(stage.refresh())?;
    let answers = served(&lab, &clients, &name);
    let sizes = cluster_sizes(&lab);
    let (east, west) = halves(&lab);
    lab.change(Change::Cut { from: east.clone(), to: west.clone(), one_way: false });
    stage.wait(Duration::from_secs(stage.by_scale(15, 60)))?;
    let served_now = served(&lab, &clients, &name);
    stage.figure("served_while_cut", percent(served_now.len(), clients.len()), "%");
    for (side, hosts) in [("east", &east), ("west", &west)] {
        let there = served_now.keys().filter(|client| hosts.contains(client)).count();
        stage.claim(format!("{side}_served_while_cut"), there as f64, "", Wanted::AtLeast(1.0));
    }
    lab.change(Change::HealAll);
    let healed = Instant::now();
    let after = served_within(Duration::from_secs(30), stage, &lab, &name)?;
    stage.claim("served_30_s_after_healing", after, "%", Wanted::Exactly(100.0));
    // Within the rest of the 30 s, when what was answered meanwhile lapses: as near as before, or not much farther.
    let like = |then: &Duration, now: &Duration| *now <= then.mul_f64(1.3).max(*then + SLACK).max(NEAR);
    let mut same = 0;
    stage.wait_until(Duration::from_secs(30).saturating_sub(healed.elapsed()), || {
        let now = served(&lab, &clients, &name);
        same = answers.iter().filter(|(client, then)| now.get(client).is_some_and(|now| like(then, now))).count();
        same == answers.len()
    })?;
    let wanted = stage.by_scale(Wanted::Nothing, Wanted::AtLeast(90.0));
    stage.claim("answers_as_near_as_before", percent(same, answers.len()), "%", wanted);
    let whole = || cluster_sizes(&lab).iter().zip(&sizes).all(|([now, ..], [then, ..])| now >= then);
    let whole = stage.wait_until(CLUSTERS.saturating_sub(healed.elapsed()), whole)?;
    let since = |holds: bool| if holds { healed.elapsed().as_secs_f64() } else { f64::NAN };
    stage.claim("whole_after", since(whole), "s", Wanted::AtMost(CLUSTERS.as_secs_f64()));
    let as_before =
        || cluster_sizes(&lab).iter().zip(&sizes).all(|(now, then)| now.iter().zip(then).all(|(n, t)| n >= t));
    let patience = stage.by_scale(Duration::from_secs(20), CLUSTERS.saturating_sub(healed.elapsed()));
    let settled = stage.wait_until(patience, as_before)?;
    let wanted = stage.by_scale(Wanted::Nothing, Wanted::AtMost(CLUSTERS.as_secs_f64()));
    stage.claim("clusters_as_before_after", since(settled), "s", wanted);
    Ok(())
}

/// Waits until all clients are served; the share that is at the end, in per cent.
fn served_within(patience: Duration, stage: &Stage<'_>, lab: &Lab, name: &str) -> Result<f64, Error> {
    let clients = clients(lab);
    let mut count = 0;
    stage.wait_until(patience, || {
        count = served(lab, &clients, name).len();
        count == clients.len()
    })?;
    Ok(percent(count, clients.len()))
}

/// Of each node, how large it takes its clusters to be, level 0 first.
fn cluster_sizes(lab: &Lab) -> Vec<[u64; 3]> {
    let clusters = Clusters::of(lab);
    nodes(lab).iter().map(|node| clusters.sizes(node.id)).collect()
}

/// The clients that are served now, all asking at once, and how far each is from the node that served it.
fn served(lab: &Lab, clients: &[&Host], name: &str) -> BTreeMap<HostId, Duration> {
    std::thread::scope(|scope| {
        let asking: Vec<_> =
            clients.iter().map(|client| (client.id, scope.spawn(|| server_of(lab, client, name)))).collect();
        let served = asking.into_iter().filter_map(|(id, thread)| Some((id, thread.join().unwrap_or_default()?)));
        served.map(|(client, node)| (client, lab.scenario().rtt(client, node))).collect()
    })
}

fn server_of(lab: &Lab, client: &Host, name: &str) -> Option<HostId> {
    let (_, files) = origin(lab).ok()?;
    let answer = look_up(lab, client, &format!("{name}.")).ok()?;
    let get = |node: &HostId| fetch(http(node.v4().into()), name, &files[0].path, Duration::from_secs(5), 1 << 20);
    let serves = |node: &HostId| get(node).is_ok_and(|got| got.status == 200);
    lab.within(&client.name, || named(&answer).into_iter().find(serves)).ok()?
}

/// Whoever is nearer to the first node is east, whoever is nearer to the node farthest from it is west; the lab's own names go with
/// the east, so that the west lives by what its resolvers remember.
fn halves(lab: &Lab) -> (Vec<HostId>, Vec<HostId>) {
    let scenario = lab.scenario();
    let nodes: Vec<&Host> = scenario.with_role(|role| matches!(role, Role::Node { .. })).collect();
    let first = nodes[0].id;
    let far = nodes.iter().map(|node| node.id).max_by_key(|node| scenario.rtt(first, *node)).unwrap_or(first);
    let is_east = |host: &&Host| match host.role {
        Role::Root(_) | Role::Tld(..) | Role::Nameserver(..) => true,
        _ => scenario.rtt(host.id, first) <= scenario.rtt(host.id, far),
    };
    let (east, west): (Vec<&Host>, Vec<&Host>) = scenario.hosts.iter().partition(is_east);
    let ids = |side: Vec<&Host>| side.into_iter().map(|host| host.id).collect();
    (ids(east), ids(west))
}

/// What an answer may be farther by than before: several nodes are as good.
const SLACK: Duration = Duration::from_millis(10);
/// Within what time of the healing clusters must be as before.
const CLUSTERS: Duration = Duration::from_secs(60);
