//! Scenario 5: the world is cut in two; both sides serve what they hold, and after healing all is as before.

use std::time::{Duration, Instant};

use super::{
    flash_crowd::origin,
    outcome::{Wanted, percent},
    stage::{Stage, clients, http, look_up, named, nodes},
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
    let serve = || served(&lab, &clients, &name).len();
    let warm = stage.wait_until(Duration::from_secs(40), || serve() == clients.len())?;
    stage.claim("served_before", percent(serve(), clients.len()), "%", Wanted::Exactly(100.0));
    // What was answered to strangers lapses, so that each side has been referred to its own servers.
    if warm {
        stage.wait(stage.refresh())?;
    }
    serve();
    let before = cluster_sizes(&lab);
    let (east, west) = halves(&lab);
    lab.change(Change::Cut { from: east.clone(), to: west.clone(), one_way: false });
    stage.wait(Duration::from_secs(stage.by_scale(15, 60)))?;
    let served_now = served(&lab, &clients, &name);
    stage.figure("served_while_cut", percent(served_now.len(), clients.len()), "%");
    for (side, hosts) in [("east", &east), ("west", &west)] {
        let there = served_now.iter().filter(|client| hosts.contains(client)).count();
        stage.claim(format!("{side}_served_while_cut"), there as f64, "", Wanted::AtLeast(1.0));
    }
    lab.change(Change::HealAll);
    stage.wait_until(Duration::from_secs(30), || serve() == clients.len())?;
    stage.claim("served_30_s_after_healing", percent(serve(), clients.len()), "%", Wanted::Exactly(100.0));
    let start = Instant::now();
    let as_before = || cluster_sizes(&lab).iter().zip(&before).all(|(now, then)| now >= then);
    let settled = stage.wait_until(Duration::from_secs(60), as_before)?;
    let seconds = if settled { start.elapsed().as_secs_f64() } else { f64::NAN };
    stage.claim("clusters_as_before_after", seconds, "s", Wanted::AtMost(60.0));
    Ok(())
}

/// Of each node, how large it takes its clusters to be, level 0 first.
fn cluster_sizes(lab: &Lab) -> Vec<[u64; 3]> {
    let sizes = |node: &&Host| {
        let status = lab.node_status(&node.name).unwrap_or_default();
        [0, 1, 2].map(|level: usize| status["levels"][level]["size"].as_u64().unwrap_or(0))
    };
    nodes(lab).iter().map(sizes).collect()
}

/// The clients that are served now, all asking at once.
fn served(lab: &Lab, clients: &[&Host], name: &str) -> Vec<HostId> {
    std::thread::scope(|scope| {
        let asking: Vec<_> =
            clients.iter().map(|client| (client.id, scope.spawn(|| is_served(lab, client, name)))).collect();
        asking.into_iter().filter_map(|(id, thread)| thread.join().unwrap_or(false).then_some(id)).collect()
    })
}

fn is_served(lab: &Lab, client: &Host, name: &str) -> bool {
    let Ok((_, files)) = origin(lab) else { return false };
    let Ok(answer) = look_up(lab, client, &format!("{name}.")) else { return false };
    let get = |node: HostId| fetch(http(node.v4().into()), name, &files[0].path, Duration::from_secs(5), 1 << 20);
    let served = lab
        .within(&client.name, || named(&answer).into_iter().any(|node| get(node).is_ok_and(|got| got.status == 200)));
    served.unwrap_or(false)
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
