//! Scenario 6: clients whose resolver is far away but sends ECS get a proxy near themselves.

use super::{
    outcome::{Wanted, percent, quantile},
    stage::{MIDDLE, NEAR, Stage, look_up_all, ms, named, nodes},
};
use crate::error::Error;

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.up(|_| ())?;
    stage.wait_for_clusters(&lab)?;
    let zone = &lab.scenario().zone;
    look_up_all(&lab, &format!("www.site.test.{zone}."));
    stage.wait(stage.refresh())?;
    let (mut near, mut could, mut asked, mut answered, mut rtts) = (0, 0, 0, 0, Vec::new());
    for site in 0..stage.by_scale(5, 10) {
        for (client, answer) in look_up_all(&lab, &format!("www.site{site}.test.{zone}.")) {
            asked += 1;
            let Some(to) = answer.ok().and_then(|answer| named(&answer).first().copied()) else { continue };
            answered += 1;
            let rtt = |node| lab.scenario().rtt(client.id, node);
            let best = nodes(&lab).iter().map(|node| rtt(node.id)).min().unwrap_or_default();
            let limit = if best < NEAR { NEAR } else { MIDDLE };
            if best < MIDDLE {
                could += 1;
                near += usize::from(rtt(to) < limit);
            }
            rtts.push(ms(rtt(to)));
        }
    }
    stage.claim("answered", percent(answered, asked), "%", Wanted::Exactly(100.0));
    stage.claim("near_the_client", percent(near, could), "%", stage.share(90.0));
    stage.figure("rtt_p50", quantile(&rtts, 0.5), "ms");
    Ok(())
}
