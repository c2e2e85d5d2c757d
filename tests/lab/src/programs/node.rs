//! Atoll nodes: the `atoll` binary with a configuration made from a template.
//!
//! In the template `{{name}}`, `{{v4}}`, `{{v6}}`, `{{zone}}`, `{{folder}}`, `{{port}}` stand for the host's own, `{{roles}}` for the
//! list of its roles, `{{seeds}}` for the list of `ADDRESS:PORT` of the other seeds, `{{apex}}` for the zone's nameservers, `{{mode}}` for
//! how dnssrv answers, `{{ttls}}` for its TTLs where they are not the defaults, and `{{questions}}` for the query log if there is one.

use std::path::{Path, PathBuf};

use super::{Program, Ready};
use crate::{
    config::Config,
    error::Error,
    scenario::{Host, Role, Scale, Scenario},
};

pub(super) fn program(scenario: &Scenario, host: &Host, folder: &Path, config: &Config) -> Result<Program, Error> {
    let Role::Node { dns, template, .. } = &host.role else { unreachable!("only nodes run Atoll") };
    let template = match template {
        None => OWN_TEMPLATE.to_owned(),
        Some(file) => std::fs::read_to_string(file)
            .map_err(|error| Error::File { file: file.clone(), message: format!("cannot be read: {error}") })?,
    };
    let text = fill(&template, scenario, host, *dns, (folder, config));
    if let Some(left) = text.lines().find(|line| line.contains("{{")) {
        let file = host_template(host);
        return Err(Error::File { file, message: format!("`{}`: no such word to fill in", left.trim()) });
    }
    let arguments = ["node", "--config", "atoll.toml"].map(String::from).to_vec();
    let files = vec![("atoll.toml".into(), text.into_bytes()), ("state/.keep".into(), Vec::new())];
    Ok(Program { name: "atoll", command: binary(host, config)?, arguments, files, ready: Ready::Http, stage: 2 })
}

fn fill(template: &str, scenario: &Scenario, host: &Host, dns: bool, (folder, config): (&Path, &Config)) -> String {
    let seeds = scenario.with_role(|role| matches!(role, Role::Node { seed: true, .. }));
    let seeds = seeds.filter(|seed| seed.id != host.id).map(|seed| format!("\"{}:{PORT}\"", seed.id.v4()));
    let servers = scenario.with_role(|role| matches!(role, Role::Node { apex: true, .. })).map(|server| {
        format!("{{ name = \"{}\", addresses = [\"{}\", \"{}\"] }}", server.name, server.id.v4(), server.id.v6())
    });
    let roles = if dns { "[\"dnssrv\", \"proxy\"]" } else { "[\"proxy\"]" };
    let log = || format!("file = \"{}/{QUESTIONS}\"\none_in = 1", folder.display());
    let questions = if config.questions { log() } else { String::new() };
    let words = [
        ("{{name}}", host.name.clone()),
        ("{{v4}}", host.id.v4().to_string()),
        ("{{v6}}", host.id.v6().to_string()),
        ("{{zone}}", scenario.zone.clone()),
        ("{{folder}}", folder.display().to_string()),
        ("{{port}}", PORT.to_string()),
        ("{{roles}}", roles.into()),
        ("{{seeds}}", list(seeds)),
        ("{{apex}}", list(servers)),
        ("{{mode}}", scenario.dns_mode.word().into()),
        ("{{ttls}}", ttls(scenario.scale).into()),
        ("{{questions}}", questions),
    ];
    words.iter().fold(template.to_owned(), |text, (word, value)| text.replace(word, value))
}

/// At short scale a refresh comes after seconds, so that CI sees several.
fn ttls(scale: Scale) -> &'static str {
    match scale {
        Scale::Short => "near = \"6s\"\nglobal = \"8s\"\nunknown = \"2s\"\ndelegation_unknown = \"5s\"",
        Scale::Long => "",
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn host_template(host: &Host) -> PathBuf {
    match &host.role {
        Role::Node { template: Some(file), .. } => file.clone(),
        _ => PathBuf::from("tests/lab/templates/node.toml"),
    }
}

/// As told, or beside this program, or in PATH.
fn binary(host: &Host, config: &Config) -> Result<PathBuf, Error> {
    if let Some(told) = &config.atoll {
        return match told.is_file() {
            true => Ok(std::path::absolute(told).unwrap_or_else(|_| told.clone())),
            false => Err(Error::File { file: told.clone(), message: "no such program (--atoll)".into() }),
        };
    }
    let own = std::env::current_exe().ok();
    // Test programs live one folder deeper; the lab may be of one profile and the node of the other.
    let folders = own.iter().flat_map(|own| own.ancestors().skip(1).take(2));
    let profiles = |folder: &Path| ["", "../release", "../debug"].map(|profile| folder.join(profile).join("atoll"));
    let beside = folders.flat_map(profiles).find(|path| path.is_file());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = || std::env::split_paths(&path).map(|folder| folder.join("atoll")).find(|path| path.is_file());
    beside.or_else(in_path).ok_or_else(|| Error::Refused {
        message: format!(
            "host `{}` needs the program `atoll`: build it with `cargo build`, or name it with --atoll",
            host.name
        ),
    })
}

const OWN_TEMPLATE: &str = include_str!("../../templates/node.toml");
/// Where nodes that log questions write them, in their folder.
pub(crate) const QUESTIONS: &str = "queries.json";
/// Where nodes listen for each other.
const PORT: u16 = 7400;
