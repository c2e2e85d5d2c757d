//! Scenario 7: nodes whose seed cannot be reached serve alone; after a restart of everything the network is whole within 60 s of
//! the seed's return.

use std::time::Duration;

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
    let whole = stage.clusters_within(&lab, Duration::from_secs(60))?;
    stage.claim("whole_after_the_seed_returned", whole, "s", Wanted::AtMost(60.0));
    Ok(())
}

fn serves(lab: &Lab, node: &Host) -> bool {
    let Ok((_, files)) = origin(lab) else { return false };
    let name = format!("www.site.test.{}", lab.scenario().zone);
    // Asked from the node itself: what is shown is that it serves, not who finds it.
    let get = || fetch(http(node.id.v4().into()), &name, &files[0].path, Duration::from_secs(15), 1 << 20);
    lab.within(&node.name, get).is_ok_and(|fetched| fetched.is_ok_and(|fetched| fetched.status == 200))
}
