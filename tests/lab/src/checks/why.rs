//! Why a client was sent where it was: what each node wrote of its resolver's questions, and how those that answered explain it now.
//! A share that is too low names a client; this leads from there to the decision that was wrong.

use std::{collections::BTreeSet, fs, time::Duration};

use super::stage::{nodes, say_aside};
use crate::{address::HostId, lab::Lab, measure::fetch_locally, programs::node::QUESTIONS, scenario::Host};

/// Says on stderr how a client's resolver came to its answer about a site: the last questions about it, of all nodes, in the order
/// of their time, and what the nodes that were asked know of the resolver's prefixes.
pub(super) fn say(lab: &Lab, client: &str, site: &str) {
    if !lab.config().questions {
        return;
    }
    let resolver = lab.scenario().host(client).ok().and_then(|client| client.resolver);
    let Some(resolver) = resolver else { return };
    let target = nodes(lab).first().and_then(|node| target(lab, &node.name, resolver, site));
    let words: Vec<&str> = std::iter::once(site).chain(target.as_deref()).collect();
    let mut lines: Vec<Line> = nodes(lab).into_iter().flat_map(|node| written(lab, node, resolver, &words)).collect();
    lines.sort_by(|one, other| one.time.total_cmp(&other.time));
    let last = lines.split_off(lines.len().saturating_sub(LINES));
    last.iter().for_each(|line| say_aside(&format!("    {:.3} {}: {}", line.time, line.node, line.text)));
    let asked: BTreeSet<&str> = last.iter().map(|line| line.node.as_str()).collect();
    for node in asked {
        for line in explained(lab, node, resolver, site) {
            say_aside(&format!("    {node} now: {line}"));
        }
    }
}

/// A line of a node's query log.
struct Line {
    time: f64,
    node: String,
    text: String,
}

/// The label that names of this site lead to in mode `levels`.
fn target(lab: &Lab, node: &str, resolver: HostId, site: &str) -> Option<String> {
    let lines = explained(lab, node, resolver, site);
    let (_, rest) = lines.iter().find_map(|line| line.split_once("name of site "))?;
    Some(rest.chars().take_while(char::is_ascii_alphanumeric).collect())
}

/// What a node wrote of a resolver's questions for names with one of these labels, or for the cuts above them.
fn written(lab: &Lab, node: &Host, resolver: HostId, labels: &[&str]) -> Vec<Line> {
    let file = lab.folder(&node.name).map(|folder| folder.join(QUESTIONS));
    let text = file.ok().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    let mut lines = Vec::new();
    for line in text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()) {
        let word = |key: &str| line[key].as_str().unwrap_or_default();
        let (client, _) = word("client").split_once('/').unwrap_or_default();
        let (name, kind) = (word("name"), word("type"));
        let lower = name.to_ascii_lowercase();
        let is_cut = ["l0.", "l1.", "l2."].iter().any(|cut| lower.starts_with(cut));
        let is_about = is_cut || lower.split('.').any(|label| labels.contains(&label));
        if client.parse().ok().and_then(HostId::owner) != Some(resolver) || !is_about {
            continue;
        }
        let placed = format!("level {} placed by `{}`", line["level"], word("placed_by"));
        let text = format!("{name} {kind} from {client}: {}, {placed}", word("rcode"));
        lines.push(Line { time: line["time"].as_f64().unwrap_or_default(), node: node.name.clone(), text });
    }
    lines
}

/// How a node explains what it would answer now, for each of the resolver's addresses.
fn explained(lab: &Lab, node: &str, resolver: HostId, site: &str) -> Vec<String> {
    let socket = lab.folder(node).map(|folder| folder.join("state/admin.sock"));
    let Ok(socket) = socket else { return Vec::new() };
    let name = format!("www.{site}.test.{}", lab.scenario().zone);
    let ask = |from: String| {
        let path = format!("/explain?name={name}&from={from}");
        fetch_locally(&socket, &path, PATIENCE, LONGEST)
            .map(|answer| String::from_utf8_lossy(&answer.body).into_owned())
    };
    let texts = [resolver.v4().to_string(), resolver.v6().to_string()].map(ask);
    let lines = |text: String| serde_json::from_str::<Vec<String>>(&text).unwrap_or_else(|_| vec![text]);
    texts.into_iter().flatten().flat_map(lines).collect()
}

/// Questions said of one answer.
const LINES: usize = 14;
/// How long a node may take to explain itself, and how much it may say.
const PATIENCE: Duration = Duration::from_secs(2);
const LONGEST: usize = 64 << 10;
