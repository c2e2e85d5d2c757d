//! What any hosts can show, for a file that names no other claims: every program runs, and every client, by its own resolver, finds each
//! origin's names and gets all their files, byte for byte: through the nodes if there are any that serve DNS, else from the origin itself.
//! How far, how soon and how often the origins were asked are figures.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    flash_crowd::origin_log,
    outcome::{Wanted, percent, quantile},
    stage::{Stage, clients, http, look_up, ms, named, nodes, say_aside},
};
use crate::{
    address::HostId,
    error::Error,
    lab::Lab,
    measure::{Answer, fetch},
    programs::origin_content,
    scenario::{Host, OriginFile, Role},
};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let begun = Instant::now();
    let lab = stage.up(|_| ())?;
    stage.figure("up_after", begun.elapsed().as_secs_f64(), "s");
    let is_served = |role: &Role| matches!(role, Role::Node { dns: true, .. });
    let zone = lab.scenario().with_role(is_served).next().map(|_| lab.scenario().zone.as_str());
    if !nodes(&lab).is_empty() {
        let settled = stage.wait_for_clusters(&lab)?;
        stage.figure("clusters_after", settled, "s");
    }
    let sites = sites(&lab, zone);
    let visitors: Vec<&Host> = clients(&lab).into_iter().filter(|client| client.resolver.is_some()).collect();
    if !sites.is_empty() && !visitors.is_empty() {
        let first = each(&visitors, |client| find(&lab, client, &sites));
        let took: Vec<f64> = first.iter().flatten().filter_map(|found| Some(ms(found.as_ref()?.took))).collect();
        stage.figure("first_lookup_p50", quantile(&took, 0.5), "ms");
        if zone.is_some() {
            // Until what was answered to strangers has lapsed.
            stage.wait(stage.refresh())?;
        }
        claim_visits(stage, &lab, &visitors, &sites, zone.is_some());
    }
    let hosts = lab.status().hosts;
    let up = hosts.iter().filter(|host| host.alive != Some(false)).count();
    stage.claim("hosts_up", up as f64, "", Wanted::Exactly(hosts.len() as f64));
    Ok(())
}

/// A name that clients ask for, and what is to be had there.
struct Site<'l> {
    /// Without a final dot.
    name: String,
    files: &'l [OriginFile],
}

/// The names of all origins that have files, under the zone if there is one.
fn sites<'l>(lab: &'l Lab, zone: Option<&str>) -> Vec<Site<'l>> {
    let of = |host: &'l Host| match &host.role {
        Role::Origin { names, files } => Some((names, files.as_slice())),
        _ => None,
    };
    let origins = lab.scenario().hosts.iter().filter_map(of).filter(|(_, files)| !files.is_empty());
    let under = |name: &String| zone.map_or_else(|| name.clone(), |zone| format!("{name}.{zone}"));
    origins.flat_map(|(names, files)| names.iter().map(move |name| Site { name: under(name), files })).collect()
}

/// What all clients do, at once.
fn each<'l, T: Send>(visitors: &[&'l Host], work: impl Fn(&'l Host) -> Vec<T> + Sync) -> Vec<Vec<T>> {
    std::thread::scope(|scope| {
        let work = &work;
        let working: Vec<_> = visitors.iter().map(|client| scope.spawn(move || work(client))).collect();
        working.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
    })
}

/// What a client is answered about each site.
fn find(lab: &Lab, client: &Host, sites: &[Site<'_>]) -> Vec<Option<Answer>> {
    let look_up = |site: &Site<'_>| match look_up(lab, client, &format!("{}.", site.name)) {
        Ok(answer) if !answer.addresses.is_empty() => Some(answer),
        Ok(answer) => {
            say_aside(&format!("  {}: {} without an address for {}", client.name, answer.code, site.name));
            None
        }
        Err(error) => {
            say_aside(&format!("  {}: {}: {error}", client.name, site.name));
            None
        }
    };
    sites.iter().map(look_up).collect()
}

/// One client's visit to one site.
#[derive(Default)]
struct Visit {
    /// Whom it was sent to.
    to: Option<IpAddr>,
    /// How long each file took that came whole, in milliseconds.
    took: Vec<f64>,
    /// Files that did not.
    failed: usize,
}

fn claim_visits(stage: &mut Stage<'_>, lab: &Lab, visitors: &[&Host], sites: &[Site<'_>], by_nodes: bool) {
    let visits = each(visitors, |client| {
        let found = find(lab, client, sites);
        sites.iter().zip(found).map(|(site, found)| visit(lab, client, site, found.as_ref())).collect()
    });
    let all: Vec<(&Host, &Visit)> =
        visitors.iter().zip(&visits).flat_map(|(client, visits)| visits.iter().map(|one| (*client, one))).collect();
    let answered = all.iter().filter(|(_, visit)| visit.to.is_some()).count();
    stage.claim("answered", percent(answered, all.len()), "%", Wanted::Exactly(100.0));
    let took: Vec<f64> = all.iter().flat_map(|(_, visit)| visit.took.iter().copied()).collect();
    let files = took.len() + all.iter().map(|(_, visit)| visit.failed).sum::<usize>();
    stage.claim("served_whole", percent(took.len(), files), "%", Wanted::Exactly(100.0));
    stage.figure("fetch_p50", quantile(&took, 0.5), "ms");
    stage.figure("fetch_p96", quantile(&took, 0.96), "ms");
    let scenario = lab.scenario();
    let to = all.iter().filter_map(|(client, visit)| Some((client.id, HostId::owner(visit.to?)?)));
    let to: Vec<(HostId, HostId)> = to.filter(|(_, to)| to.index() < scenario.hosts.len()).collect();
    let rtts: Vec<f64> = to.iter().map(|(client, to)| ms(scenario.rtt(*client, *to))).collect();
    stage.figure("rtt_p50", quantile(&rtts, 0.5), "ms");
    if by_nodes {
        let is_node = |host: &HostId| nodes(lab).iter().any(|node| node.id == *host);
        let sent = to.iter().filter(|(_, to)| is_node(to)).count();
        stage.claim("sent_to_nodes", percent(sent, all.len()), "%", Wanted::Exactly(100.0));
        let best = |client: &&Host| nodes(lab).iter().map(|node| ms(scenario.rtt(client.id, node.id))).reduce(f64::min);
        stage.figure("best_rtt_p50", quantile(&visitors.iter().filter_map(best).collect::<Vec<_>>(), 0.5), "ms");
    }
    let mut origins: BTreeMap<&str, usize> = BTreeMap::new();
    for host in scenario.with_role(|role| matches!(role, Role::Origin { .. })) {
        origins.insert(&host.name, origin_log(lab, host).map_or(0, |log| log.len()));
    }
    for (name, requests) in origins {
        stage.figure(format!("requests/{name}"), requests as f64, "");
    }
    if by_nodes {
        stage.figures_of_nodes(lab);
    }
}

/// Fetches every file of a site from the first address that serves it.
fn visit(lab: &Lab, client: &Host, site: &Site<'_>, found: Option<&Answer>) -> Visit {
    let addresses: Vec<IpAddr> =
        found.map(|found| found.addresses.iter().map(|one| one.0).collect()).unwrap_or_default();
    let mut visit = Visit { to: addresses.first().copied(), ..Visit::default() };
    let get = |file: &OriginFile| {
        let longest = usize::try_from(file.size.0).unwrap_or(usize::MAX).saturating_add(HEAD);
        addresses.iter().find_map(|address| {
            let fetched = fetch(http(*address), &site.name, &file.path, PATIENCE, longest).ok()?;
            // A page names the images beside it, so its bytes do not follow from its path.
            let page = file.path.ends_with(".html");
            let whole = fetched.status == 200 && (page || fetched.body == origin_content(&file.path, file.size));
            whole.then(|| ms(fetched.took))
        })
    };
    let took: Vec<Option<f64>> = lab
        .within(&client.name, || site.files.iter().map(get).collect())
        .unwrap_or_else(|_| vec![None; site.files.len()]);
    visit.failed = took.iter().filter(|took| took.is_none()).count();
    visit.took = took.into_iter().flatten().collect();
    if visit.failed > 0 {
        let (client, name) = (&client.name, &site.name);
        let served = found.map(|found| named(found).len());
        say_aside(&format!("  {client}: {} files of {name} did not come; nodes named: {served:?}", visit.failed));
    }
    visit
}

/// How long a client waits for a file.
const PATIENCE: Duration = Duration::from_secs(40);
/// What a response's head, and what is written around a page's images, may add.
const HEAD: usize = 65_536;
