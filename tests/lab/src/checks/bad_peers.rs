//! Peers that are worse than none (bad-inputs P07): a node has copies of what its neighbour is asked for, and then is slow, a black
//! hole, or dead. What that adds to the neighbour's answers, against files that nobody has.

use std::time::Duration;

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
    let missing = || Error::Refused { message: "this scenario needs five nodes or more".into() };
    let (asked, bad) = (all.get(2).ok_or_else(missing)?, all.get(4).ok_or_else(missing)?);
    let each = stage.by_scale(5, 10);
    let held = (0..3 * each).filter(|file| get(&lab, bad, *file).is_some()).count();
    stage.claim("held_by_the_neighbour", percent(held, 3 * each), "%", Wanted::Exactly(100.0));
    // Announced by then, or nobody is misled.
    stage.wait(Duration::from_secs(3))?;
    let nobody: Vec<f64> = (3 * each..4 * each).filter_map(|file| get(&lab, asked, file)).collect();
    let base = quantile(&nobody, 0.5);
    stage.figure("nobody_has_it_p50", base, "s");
    let others: Vec<_> = all.iter().map(|node| node.id).filter(|id| *id != bad.id).collect();
    for (turn, name) in ["slow", "hole", "dead"].into_iter().enumerate() {
        match name {
            "slow" => lab.change(Change::Slow { host: bad.id, extra: SLOW }),
            "hole" => {
                lab.change(Change::HealAll);
                lab.change(Change::Cut { from: vec![bad.id], to: others.clone(), one_way: false });
            }
            _ => {
                lab.change(Change::HealAll);
                lab.kill(&bad.name, Signal::SIGKILL)?;
            }
        }
        let took: Vec<f64> = (turn * each..(turn + 1) * each).filter_map(|file| get(&lab, asked, file)).collect();
        stage.claim(format!("{name}_failed"), (each - took.len()) as f64, "", Wanted::Exactly(0.0));
        // A hedge, and one more question to a root that is near.
        let bound = Wanted::AtMost(stage.by_scale(1.5, 0.3));
        stage.claim(format!("{name}_added_p50"), quantile(&took, 0.5) - base, "s", bound);
        // Of some keys the bad node may be the root as well: then it cannot be reached.
        let bound = stage.by_scale(Wanted::Nothing, Wanted::AtMost(0.6));
        stage.claim(format!("{name}_added_worst"), quantile(&took, 1.0) - base, "s", bound);
    }
    stage.figures_of_nodes(&lab);
    Ok(())
}

/// Seconds until a client on a node's own machine had a file from it, byte for byte.
fn get(lab: &Lab, node: &Host, number: usize) -> Option<f64> {
    let (_, files) = origin(lab).ok()?;
    let file = files.get(number)?;
    let name = format!("www.site.test.{}", lab.scenario().zone);
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

/// On each packet from and to the slow node.
const SLOW: Duration = Duration::from_secs(1);

const PATIENCE: Duration = Duration::from_secs(30);
