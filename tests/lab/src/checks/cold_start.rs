//! Scenario 7: nodes whose seed cannot be reached serve alone; after a restart of everything the network is whole within 60 s of the
//! seed's return. Twice: where the seed is dead, so that connections to it are refused, and where it is silent, so that they hang: it
//! runs, newly started as well, and is cut off from the world.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{
    flash_crowd::origin,
    outcome::{Wanted, percent},
    stage::{Stage, http, nodes},
};
use crate::{
    error::{Doing, Error},
    lab::Lab,
    measure::fetch,
    router::Change,
    scenario::{Host, Role},
};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.go_on()?;
    show_in(stage, &lab)?;
    stage.leave(lab);
    Ok(())
}

fn show_in(stage: &mut Stage<'_>, lab: &Lab) -> Result<(), Error> {
    let (seeds, others): (Vec<&Host>, Vec<&Host>) =
        nodes(lab).into_iter().partition(|node| matches!(node.role, Role::Node { seed: true, .. }));
    // A whole network is what is restarted: each node has heard of others, which a restart must not need.
    stage.whole_within(lab, stage.by_scale(Duration::from_secs(20), Duration::from_secs(90)))?;
    restart(lab, &[&seeds[..], &others].concat(), &others)?;
    claim_alone(stage, lab, "", &others);
    lab.start_together(&seeds)?;
    claim_whole(stage, lab, "", Instant::now())?;

    let everybody_else = lab.scenario().hosts.iter().filter(|host| !seeds.iter().any(|seed| seed.id == host.id));
    let from = seeds.iter().map(|seed| seed.id).collect();
    lab.change(Change::Cut { from, to: everybody_else.map(|host| host.id).collect(), one_way: false });
    let all = [&seeds[..], &others].concat();
    restart(lab, &all, &all)?;
    claim_alone(stage, lab, SILENT, &others);
    lab.change(Change::HealAll);
    claim_whole(stage, lab, SILENT, Instant::now())
}

/// Ends nodes as a power cut does, and starts some of them with nothing remembered: what each knew of the others is gone, so that the
/// network must come from its seeds alone.
fn restart(lab: &Lab, ended: &[&Host], started: &[&Host]) -> Result<(), Error> {
    ended.iter().try_for_each(|node| lab.kill(&node.name, Signal::SIGKILL))?;
    for node in ended {
        let state = lab.folder(&node.name)?.join("state");
        let _ = std::fs::remove_dir_all(&state);
        std::fs::create_dir_all(&state).doing(|| format!("make {}", state.display()))?;
    }
    lab.start_together(started)
}

fn claim_alone(stage: &mut Stage<'_>, lab: &Lab, seed: &str, others: &[&Host]) {
    let served = std::thread::scope(|scope| {
        let asking: Vec<_> = others.iter().map(|node| scope.spawn(move || serves(lab, node))).collect();
        asking.into_iter().filter_map(|thread| thread.join().ok()).filter(|served| *served).count()
    });
    stage.claim(format!("{seed}serve_alone"), percent(served, others.len()), "%", Wanted::Exactly(100.0));
}

fn claim_whole(stage: &mut Stage<'_>, lab: &Lab, seed: &str, returned: Instant) -> Result<(), Error> {
    // At short scale twice that: nodes that are not optimised start slowly on a busy machine.
    let bound = stage.by_scale(2 * WHOLE, WHOLE);
    let whole = stage.whole_within(lab, bound)?;
    let wanted = Wanted::AtMost(bound.as_secs_f64());
    stage.claim(format!("{seed}whole_after_the_seed_returned"), whole, "s", wanted);
    // At short scale nobody holds the clusters to anything, so nobody waits for them.
    if let Some(patience) = stage.by_scale(None, Some(WHOLE.saturating_sub(returned.elapsed()))) {
        let before = returned.elapsed().as_secs_f64();
        let clusters = before + stage.clusters_within(lab, patience)?;
        let wanted = Wanted::AtMost(WHOLE.as_secs_f64());
        stage.claim(format!("{seed}clusters_after_the_seed_returned"), clusters, "s", wanted);
    }
    Ok(())
}

fn serves(lab: &Lab, node: &Host) -> bool {
    let Ok((_, files)) = origin(lab) else { return false };
    let name = format!("www.site.test.{}", lab.scenario().zone);
    // Asked from the node itself: what is shown is that it serves, not who finds it.
    let get = || fetch(http(node.id.v4().into()), &name, &files[0].path, Duration::from_secs(30), 1 << 20);
    lab.within(&node.name, get).is_ok_and(|fetched| fetched.is_ok_and(|fetched| fetched.status == 200))
}

/// Within what time of a seed's return all must have found each other.
const WHOLE: Duration = Duration::from_secs(60);
/// What the claims about a silent seed begin with.
const SILENT: &str = "silent_seed/";
