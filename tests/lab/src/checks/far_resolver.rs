//! Scenario 6: clients whose resolver is far away but sends ECS get a proxy near themselves, as in scenario 1.

use super::{
    nearness::Answers,
    stage::{Stage, look_up_all},
};
use crate::error::Error;

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.up(|_| ())?;
    stage.wait_for_clusters(&lab)?;
    look_up_all(&lab, &format!("www.site.test.{}.", lab.scenario().zone));
    // Until what was answered to strangers has lapsed.
    stage.wait(stage.refresh())?;
    Answers::about(stage.by_scale(5, 10), stage, &lab).claim(stage, &lab, "ecs");
    Ok(())
}
