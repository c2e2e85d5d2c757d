//! Root, TLD and leaf nameservers: NSD or Knot DNS over zone files.

use std::path::Path;

use super::{Program, Ready, installed};
use crate::{
    error::Error,
    scenario::{Authority, Host, Scenario},
    zones::{self, Zone},
};

pub(super) fn program(authority: Authority, scenario: &Scenario, host: &Host, folder: &Path) -> Result<Program, Error> {
    let zones = zones::served_by(scenario, host);
    let mut files: Vec<_> = zones.iter().map(|zone| (file_of(zone), zone.text.clone().into_bytes())).collect();
    let (name, command, file, text, arguments) = match authority {
        Authority::Nsd => {
            let text = nsd(host, &zones, folder);
            ("nsd", installed(host, "nsd", "nsd")?, "nsd.conf", text, vec!["-d", "-c", "nsd.conf"])
        }
        Authority::Knot => {
            let text = knot(host, &zones, folder);
            ("knot", installed(host, "knotd", "knot")?, "knot.conf", text, vec!["-c", "knot.conf"])
        }
    };
    files.push((file.into(), text.into_bytes()));
    let arguments = arguments.into_iter().map(String::from).collect();
    Ok(Program { name, command, arguments, files, ready: Ready::Dns, stage: 0 })
}

fn nsd(host: &Host, zones: &[Zone], folder: &Path) -> String {
    let (v4, v6, folder) = (host.id.v4(), host.id.v6(), folder.display());
    let mut text = format!(
        "server:\n  ip-address: {v4}\n  ip-address: {v6}\n  server-count: 1\n  username: \"\"\n  chroot: \"\"\n  database: \"\"\n  \
         zonesdir: \"{folder}\"\n  zonelistfile: \"{folder}/zone.list\"\n  xfrdfile: \"{folder}/xfrd.state\"\n  \
         xfrdir: \"{folder}\"\n  pidfile: \"\"\n  rrl-ratelimit: 0\n\
         remote-control:\n  control-enable: no\n"
    );
    for zone in zones {
        text += &format!("zone:\n  name: \"{}.\"\n  zonefile: \"{}\"\n", zone.name, file_of(zone));
    }
    text
}

fn knot(host: &Host, zones: &[Zone], folder: &Path) -> String {
    let (v4, v6, folder) = (host.id.v4(), host.id.v6(), folder.display());
    let mut text = format!(
        "server:\n    rundir: \"{folder}\"\n    listen: [ \"{v4}@53\", \"{v6}@53\" ]\n    udp-workers: 1\n    tcp-workers: 1\n    \
         background-workers: 1\n    remote-pool-limit: 0\n\
         database:\n    storage: \"{folder}\"\n\
         log:\n  - target: stderr\n    any: info\n\
         template:\n  - id: default\n    storage: \"{folder}\"\n    zonefile-sync: -1\n    zonefile-load: whole\n    journal-content: none\n\
         zone:\n"
    );
    for zone in zones {
        text += &format!("  - domain: \"{}.\"\n    file: \"{}\"\n", zone.name, file_of(zone));
    }
    text
}

fn file_of(zone: &Zone) -> String {
    if zone.name.is_empty() { "root.zone".into() } else { format!("{}.zone", zone.name) }
}
