//! Scenario 7: nodes whose seed cannot be reached serve alone; after a restart of everything the network is whole within 60 s of
//! the seed's return.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{
    flash_crowd::origin,
    outcome::{Wanted, percent},
    stage::{Stage, http, nodes},
};
use crate::{
    error::Error,
    lab::Lab,
    measure::fetch,
    scenario::{Host, Role},
};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.up_file("flash-crowd", |_| ())?;
    stage.wait_for_clusters(&lab)?;
    for node in nodes(&lab) {
        lab.kill(&node.name, Signal::SIGKILL)?;
    }
    let (seeds, others): (Vec<&Host>, Vec<&Host>) =
        nodes(&lab).into_iter().partition(|node| matches!(node.role, Role::Node { seed: true, .. }));
    // A restart must work from the seed alone: what each remembers of the others goes too.
    for node in &others {
        let state = lab.folder(&node.name)?.join("state");
        let _ = std::fs::remove_dir_all(&state);
        std::fs::create_dir_all(&state).map_err(|source| Error::Io { doing: "make a state folder".into(), source })?;
        lab.start(&node.name)?;
    }
    let served = others.iter().filter(|node| serves(&lab, node)).count();
    stage.claim("serve_alone", percent(served, others.len()), "%", Wanted::Exactly(100.0));
    for seed in &seeds {
        lab.start(&seed.name)?;
    }
    let returned = Instant::now();
    // At short scale twice that: nodes that are not optimised start slowly on a busy machine.
    let bound = stage.by_scale(2 * WHOLE, WHOLE);
    let whole = stage.whole_within(&lab, bound)?;
    stage.claim("whole_after_the_seed_returned", whole, "s", Wanted::AtMost(bound.as_secs_f64()));
    let patience = stage.by_scale(Duration::from_secs(20), WHOLE.saturating_sub(returned.elapsed()));
    let before = returned.elapsed().as_secs_f64();
    let clusters = before + stage.clusters_within(&lab, patience)?;
    let wanted = stage.by_scale(Wanted::Nothing, Wanted::AtMost(WHOLE.as_secs_f64()));
    stage.claim("clusters_after_the_seed_returned", clusters, "s", wanted);
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
