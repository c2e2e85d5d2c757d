//! Peers that are worse than none (bad-inputs P07): a node has copies of what its neighbour is asked for, and then is slow, a black
//! hole, or dead. What that adds to the neighbour's answers, against files that nobody has: asked for just before, since what the origin's
//! answers take depends on how long its connections were idle (TCP begins anew then, RFC 5681 4.1).
//!
//! Whoever holds a file may be the root of its key too, the node that is to say who fetches it. Ids are drawn anew in each run, so the
//! bad node is the one that is the root of most files, and both kinds are asked for and claimed by themselves.

use std::time::Duration;

use atoll_overlay::{Key, NodeId};
use nix::sys::signal::Signal;

use super::{
    flash_crowd::origin,
    outcome::{Wanted, percent, quantile},
    stage::{Stage, http, nodes, say_aside},
};
use crate::{error::Error, lab::Lab, measure::fetch, programs::origin_content, router::Change, scenario::Host};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.up(|_| ())?;
    stage.wait_for_clusters(&lab)?;
    let all = nodes(&lab);
    let (bad, is_root) = root_of_most(&lab, &all)?;
    let asked = all.iter().find(|node| node.id != bad.id).ok_or_else(|| refused("two nodes or more"))?;
    let (roots, others): (Vec<usize>, Vec<usize>) = (0..is_root.len()).partition(|file| is_root[*file]);
    stage.figure("keys_whose_root_is_bad", percent(roots.len(), is_root.len()), "%");
    let (as_root, as_other) = stage.by_scale((3, 4), (5, 10));
    if roots.len() < 3 * as_root || others.len() < 3 * (as_other + UNKNOWN) {
        return Err(refused("more files"));
    }
    let turns: Vec<Turn<'_>> = (0..3)
        .map(|turn| Turn {
            roots: &roots[turn * as_root..(turn + 1) * as_root],
            others: &others[turn * as_other..(turn + 1) * as_other],
            unknown: &others[3 * as_other + turn * UNKNOWN..3 * as_other + (turn + 1) * UNKNOWN],
        })
        .collect();
    let held = turns.iter().flat_map(Turn::files).filter(|file| get(&lab, bad, *file).is_some()).count();
    stage.claim("held_by_the_neighbour", percent(held, 3 * (as_root + as_other)), "%", Wanted::Exactly(100.0));
    // Announced by then, or nobody is misled.
    stage.wait(Duration::from_secs(3))?;
    let mut nobody = Vec::new();
    for (turn, name) in turns.iter().zip(["slow", "hole", "dead"]) {
        if name != "slow" {
            // The others take it for near and alive again, as they did at first.
            lab.change(Change::HealAll);
            stage.wait_for_clusters(&lab)?;
        }
        let without: Vec<f64> = turn.unknown.iter().filter_map(|file| get(&lab, asked, *file)).collect();
        let base = quantile(&without, 0.5);
        nobody.extend(without);
        spoil(&lab, bad, name)?;
        claim(stage, &lab, asked, (name, base), turn);
    }
    stage.figure("nobody_has_it_p50", quantile(&nobody, 0.5), "s");
    stage.figures_of_nodes(&lab);
    Ok(())
}

/// Files asked for while the bad node is in one way bad.
struct Turn<'f> {
    /// Those whose key it is the root of.
    roots: &'f [usize],
    others: &'f [usize],
    /// Those that nobody has, of which none is asked for while it is bad.
    unknown: &'f [usize],
}

impl Turn<'_> {
    /// Every third the bad node is the root of, the first among them: nobody has noticed yet.
    fn files(&self) -> impl Iterator<Item = usize> {
        let (mut roots, mut others) = (self.roots.iter(), self.others.iter());
        let next = move |at: usize| match at % 3 {
            0 => roots.next().or_else(|| others.next()).copied(),
            _ => others.next().or_else(|| roots.next()).copied(),
        };
        (0..).map_while(next)
    }
}

fn spoil(lab: &Lab, bad: &Host, how: &str) -> Result<(), Error> {
    match how {
        "slow" => lab.change(Change::Slow { host: bad.id, extra: SLOW }),
        "hole" => {
            let others = nodes(lab).iter().map(|node| node.id).filter(|id| *id != bad.id).collect();
            lab.change(Change::Cut { from: vec![bad.id], to: others, one_way: false });
        }
        _ => lab.kill(&bad.name, Signal::SIGKILL)?,
    }
    Ok(())
}

fn claim(stage: &mut Stage<'_>, lab: &Lab, asked: &Host, (name, base): (&str, f64), turn: &Turn<'_>) {
    let took: Vec<(usize, Option<f64>)> = turn.files().map(|file| (file, get(lab, asked, file))).collect();
    let failed = took.iter().filter(|(_, took)| took.is_none()).count();
    stage.claim(format!("{name}_failed"), failed as f64, "", Wanted::Exactly(0.0));
    let added = |of: &[usize]| -> Vec<f64> {
        took.iter().filter(|(file, _)| of.contains(file)).filter_map(|(_, took)| Some((*took)? - base)).collect()
    };
    let (others, roots) = (added(turn.others), added(turn.roots));
    // A hedge, and one more question to a root that is near.
    let bound = Wanted::AtMost(stage.by_scale(1.5, 0.3));
    stage.claim(format!("{name}_added_p50"), quantile(&others, 0.5), "s", bound);
    let bound = stage.by_scale(Wanted::Nothing, Wanted::AtMost(0.3));
    stage.claim(format!("{name}_added_worst"), quantile(&others, 1.0), "s", bound);
    // The root cannot be reached, or not in time.
    let bound = stage.by_scale(Wanted::Nothing, Wanted::AtMost(0.6));
    stage.claim(format!("{name}_root_added_worst"), quantile(&roots, 1.0), "s", bound);
}

/// The node that is the root of most files, and of which.
fn root_of_most<'l>(lab: &'l Lab, all: &[&'l Host]) -> Result<(&'l Host, Vec<bool>), Error> {
    let id = |node: &Host| -> Option<NodeId> {
        Some(lab.node_status(&node.name)?["id"].as_str()?.parse::<Key>().ok()?.into())
    };
    let ids: Vec<NodeId> = all.iter().filter_map(|node| id(node)).collect();
    if ids.len() < all.len() {
        return Err(refused("every node to say its id"));
    }
    let (_, files) = origin(lab)?;
    let root = |path: &str| {
        let key = Key::of(format!("http://{SITE}{path}").as_bytes());
        (0..ids.len()).min_by_key(|node| ids[*node].key().distance(&key))
    };
    let roots: Vec<Option<usize>> = files.iter().map(|file| root(&file.path)).collect();
    let share = |node: usize| roots.iter().filter(|root| **root == Some(node)).count();
    let most = (0..ids.len()).max_by_key(|node| share(*node)).ok_or_else(|| refused("two nodes or more"))?;
    Ok((all[most], roots.iter().map(|root| *root == Some(most)).collect()))
}

fn refused(needs: &str) -> Error {
    Error::Refused { message: format!("this scenario needs {needs}") }
}

/// Seconds until a client on a node's own machine had a file from it, byte for byte.
fn get(lab: &Lab, node: &Host, number: usize) -> Option<f64> {
    let (_, files) = origin(lab).ok()?;
    let file = files.get(number)?;
    let name = format!("{SITE}.{}", lab.scenario().zone);
    let get = || fetch(http(node.id.v4().into()), &name, &file.path, PATIENCE, 1 << 20);
    match lab.within(&node.name, get).ok()? {
        Ok(fetched) if fetched.status == 200 && fetched.body == origin_content(&file.path, file.size) => {
            Some(fetched.took.as_secs_f64())
        }
        Ok(fetched) => {
            say_aside(&format!("  {}: status {}, {} bytes", file.path, fetched.status, fetched.body.len()));
            None
        }
        Err(error) => {
            say_aside(&format!("  {}: {error}", file.path));
            None
        }
    }
}

const SITE: &str = "www.site.test";

/// Files asked for before each turn that nobody has.
const UNKNOWN: usize = 3;

/// On each packet from and to the slow node.
const SLOW: Duration = Duration::from_secs(1);

const PATIENCE: Duration = Duration::from_secs(30);
