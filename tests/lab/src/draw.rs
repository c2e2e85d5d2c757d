//! The picture of a scenario: hosts gathered by distance, then who asks whom. Drawn from the same distances the router uses.

use std::{fmt::Write, time::Duration};

use crate::{
    address::HostId,
    scenario::{Host, Role, Scenario},
    units::millis,
};

/// Draws a scenario as lines of text.
pub fn draw(scenario: &Scenario) -> String {
    let mut picture = String::new();
    let all: Vec<HostId> = scenario.hosts.iter().map(|host| host.id).collect();
    line(
        &mut picture,
        &format!("lab {}: {} hosts, each a network namespace, joined by one router", scenario.name, all.len()),
    );
    line(&mut picture, "wan (198.18.0.0/15, 2001:db8::/32; no way out)");
    let regions = gather(scenario, &all, REGION);
    for (at, region) in regions.iter().enumerate() {
        let last = at + 1 == regions.len();
        let (branch, rail) = if last { ("└", " ") } else { ("├", "│") };
        line(&mut picture, &format!("{branch}─ under {} ms of each other", millis(REGION)));
        let sites = gather(scenario, region, SITE);
        for (at, site) in sites.iter().enumerate() {
            let (branch, inner) = if at + 1 == sites.len() { ("└", " ") } else { ("├", "│") };
            line(&mut picture, &format!("{rail}  {branch}─ under {} ms", millis(SITE)));
            for host in site {
                let host = &scenario.hosts[host.index()];
                line(&mut picture, &format!("{rail}  {inner}    {}", describe(scenario, host)));
            }
        }
    }
    line(&mut picture, "");
    line(&mut picture, &format!("names: root zone -> TLDs -> leaf zones; {} -> {}", scenario.zone, servers(scenario)));
    picture
}

/// Greedy: each host joins the first gathering all of whose members are near it.
fn gather(scenario: &Scenario, hosts: &[HostId], under: Duration) -> Vec<Vec<HostId>> {
    let mut gatherings: Vec<Vec<HostId>> = Vec::new();
    for host in hosts {
        let near = |gathering: &&mut Vec<HostId>| gathering.iter().all(|other| scenario.rtt(*host, *other) < under);
        match gatherings.iter_mut().find(near) {
            Some(gathering) => gathering.push(*host),
            None => gatherings.push(vec![*host]),
        }
    }
    gatherings
}

fn describe(scenario: &Scenario, host: &Host) -> String {
    let asks = host
        .resolver
        .map(|id| &scenario.hosts[id.index()])
        .map(|resolver| format!(" asks {} at {} ms", resolver.name, millis(scenario.rtt(host.id, resolver.id))));
    let what = match &host.role {
        Role::Root(program) => format!("root zone ({program:?})"),
        Role::Tld(program, zones) => format!("{} ({program:?})", zones.join(", ")),
        Role::Nameserver(program, zone, _) => format!("{zone} ({program:?})"),
        Role::Resolver { program, ecs } => {
            format!("resolver ({}{})", program.name(), if *ecs { ", sends ECS" } else { "" })
        }
        Role::Origin { names, files } => format!("origin of {} ({} files)", names.join(", "), files.len()),
        Role::Node { dns, seed, .. } => {
            format!("Atoll node{}{}", if *dns { ", DNS" } else { "" }, if *seed { ", seed" } else { "" })
        }
        Role::Client { browser } => if *browser { "client with a browser" } else { "client" }.into(),
        Role::Plain => "host".into(),
    };
    let narrow = host.up.map(|up| format!(", {up} up")).unwrap_or_default();
    format!(
        "{:<14} {:<15} {:<10} {what}{narrow}{}",
        host.name,
        host.id.v4().to_string(),
        host.place,
        asks.unwrap_or_default()
    )
}

fn servers(scenario: &Scenario) -> String {
    let nodes = scenario.with_role(|role| matches!(role, Role::Node { apex: true, .. })).map(|host| host.name.as_str());
    let nodes: Vec<&str> = nodes.collect();
    if nodes.is_empty() { "nobody".into() } else { nodes.join(", ") }
}

fn line(picture: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(picture, "{}", text.trim_end());
}

const REGION: Duration = Duration::from_millis(60);
const SITE: Duration = Duration::from_millis(20);
