//! The lab's public DNS: a root zone, top-level zones and leaf zones, written from the scenario as zone files (RFC 1035).
//!
//! Every host has the name `HOST.lab` in the root zone. Nameservers' zones are delegated from the deepest zone above
//! them, with glue; so is the Atoll zone, to its nodes that serve DNS. An origin's names stand in the deepest zone.

use std::fmt::Write;

use crate::scenario::{Host, Role, Scenario};

/// One zone as one host serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Zone {
    /// Without a final dot; the root is empty.
    pub(crate) name: String,
    pub(crate) text: String,
}

/// What resolvers start from.
pub(crate) fn root_hints(scenario: &Scenario) -> String {
    let mut text = String::new();
    for host in scenario.with_role(|role| matches!(role, Role::Root(_))) {
        put(&mut text, &format!(". {LONG} NS {}.lab.", host.name));
        addresses(&mut text, &format!("{}.lab.", host.name), LONG, host);
    }
    text
}

/// The zones that a host serves; none unless it is a root, a TLD or a nameserver.
pub(crate) fn served_by(scenario: &Scenario, host: &Host) -> Vec<Zone> {
    let names: Vec<String> = match &host.role {
        Role::Root(_) => vec![String::new()],
        Role::Tld(_, tlds) => tlds.iter().map(|zone| tidy(zone)).collect(),
        Role::Nameserver(_, zone, _) => vec![tidy(zone)],
        Role::Resolver { .. } | Role::Origin { .. } | Role::Node { .. } | Role::Client { .. } | Role::Plain => {
            Vec::new()
        }
    };
    names.into_iter().map(|name| Zone { text: text_of(scenario, &name), name }).collect()
}

/// Every zone of the lab with the hosts that serve it.
fn cuts(scenario: &Scenario) -> Vec<(String, Vec<&Host>)> {
    let mut cuts: Vec<(String, Vec<&Host>)> = Vec::new();
    let mut serve = |zone: String, host| match cuts.iter_mut().find(|(known, _)| *known == zone) {
        Some((_, hosts)) => hosts.push(host),
        None => cuts.push((zone, vec![host])),
    };
    for host in &scenario.hosts {
        match &host.role {
            Role::Root(_) => serve(String::new(), host),
            Role::Tld(_, tlds) => tlds.iter().for_each(|zone| serve(tidy(zone), host)),
            Role::Nameserver(_, zone, _) => serve(tidy(zone), host),
            Role::Node { apex: true, .. } => serve(scenario.zone.clone(), host),
            Role::Node { .. } | Role::Resolver { .. } | Role::Origin { .. } | Role::Client { .. } | Role::Plain => {}
        }
    }
    cuts
}

fn text_of(scenario: &Scenario, zone: &str) -> String {
    let cuts = cuts(scenario);
    let names: Vec<&str> = cuts.iter().map(|(name, _)| name.as_str()).collect();
    let mut text = String::new();
    put(&mut text, &format!("{zone}. {LONG} SOA ns.lab. hostmaster.lab. 1 3600 900 604800 {SHORT}"));
    let own = cuts.iter().find(|(name, _)| name == zone).map(|(_, hosts)| hosts.clone()).unwrap_or_default();
    name_servers(scenario, &mut text, zone, &own);
    for (child, hosts) in &cuts {
        if child != zone && deepest(&names, child, true) == Some(zone) {
            name_servers(scenario, &mut text, child, hosts);
        }
    }
    for host in &scenario.hosts {
        if zone.is_empty() {
            addresses(&mut text, &format!("{}.lab.", host.name), LONG, host);
        }
        match &host.role {
            Role::Origin { names: hosted, .. } => {
                let mine =
                    hosted.iter().map(|name| tidy(name)).filter(|name| deepest(&names, name, false) == Some(zone));
                mine.for_each(|name| addresses(&mut text, &format!("{name}."), SHORT, host));
            }
            Role::Nameserver(_, name, records) if tidy(name) == zone => {
                records.iter().for_each(|record| put(&mut text, record));
            }
            _ => {}
        }
    }
    text
}

/// The NS records of a zone and the addresses of those names: of the root below `lab`, of the Atoll zone right below it
/// (its nodes are configured to say the same), of any other zone below `ns` in it.
fn name_servers(scenario: &Scenario, text: &mut String, zone: &str, hosts: &[&Host]) {
    for host in hosts {
        let name = match zone {
            "" => format!("{}.lab.", host.name),
            atoll if atoll == scenario.zone => format!("{}.{zone}.", host.name),
            other => format!("{}.ns.{other}.", host.name),
        };
        put(text, &format!("{zone}. {LONG} NS {name}"));
        if !zone.is_empty() {
            addresses(text, &name, LONG, host);
        }
    }
}

fn addresses(text: &mut String, name: &str, ttl: u32, host: &Host) {
    put(text, &format!("{name} {ttl} A {}", host.id.v4()));
    put(text, &format!("{name} {ttl} AAAA {}", host.id.v6()));
}

/// The deepest of `zones` that holds `name`; for a zone cut, strictly above it.
fn deepest<'z>(zones: &[&'z str], name: &str, strictly: bool) -> Option<&'z str> {
    let holds = |zone: &&&str| {
        zone.is_empty() && !(strictly && name.is_empty())
            || (!strictly && **zone == name)
            || name.strip_suffix(**zone).is_some_and(|rest| rest.ends_with('.'))
    };
    zones.iter().filter(holds).max_by_key(|zone| zone.len()).copied()
}

fn tidy(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn put(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

/// A day in seconds: what does not change while a lab runs.
const LONG: u32 = 86_400;
/// Origins' addresses and negative answers, in seconds.
const SHORT: u32 = 300;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scale;

    const TEXT: &str = r#"
name = "t"
host = [
    { name = "root", role = "root", at = 0 },
    { name = "tld", role = "tld", tlds = ["example", "test"], at = 1 },
    { name = "static", role = "nameserver", zone = "static.test", records = ["www.static.test. 30 A 198.18.0.99"], at = 2 },
    { name = "n1", role = "node", dns = true, at = 3 },
    { name = "n2", role = "node", at = 4 },
    { name = "web", role = "origin", names = ["www.site.test", "img.static.test"], at = 5 },
]
"#;

    #[test]
    fn each_zone_is_delegated_from_the_deepest_zone_above_it_with_glue() {
        let scenario = Scenario::parse(TEXT, std::path::Path::new("x.toml"), None, Scale::Short).unwrap();
        let zone = |host: &str, name: &str| {
            let zones = served_by(&scenario, scenario.host(host).unwrap());
            zones.into_iter().find(|zone| zone.name == name).unwrap().text
        };
        let has = |text: &str, line: &str| text.lines().any(|known| known == line);
        let root = zone("root", "");
        assert!(has(&root, "test. 86400 NS tld.ns.test.") && has(&root, "tld.ns.test. 86400 A 198.18.2.1"));
        assert!(has(&root, "web.lab. 86400 AAAA 2001:db8:6::1"));
        assert!(!root.contains("static.test."));
        let test = zone("tld", "test");
        assert!(has(&test, "static.test. 86400 NS static.ns.static.test."));
        assert!(has(&test, "www.site.test. 300 A 198.18.6.1"));
        assert!(!test.contains("img.static"));
        let example = zone("tld", "example");
        assert!(has(&example, "nyud.example. 86400 NS n1.nyud.example.") && !example.contains("n2"));
        let leaf = zone("static", "static.test");
        assert!(has(&leaf, "img.static.test. 300 A 198.18.6.1") && has(&leaf, "www.static.test. 30 A 198.18.0.99"));
        assert!(has(&root_hints(&scenario), "root.lab. 86400 A 198.18.1.1"));
    }
}
