//! The first look that docs/lab.md offers: in a lab of named cities an ordinary `curl` finds the page, through the node of its city.

use super::{
    flash_crowd::{origin, origin_log},
    outcome::{Wanted, percent},
    stage::{Stage, clients, look_up_all, named},
};
use crate::{error::Error, lab::Lab, scenario::Host};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.up(|_| ())?;
    stage.wait_for_clusters(&lab)?;
    let (origin, files) = origin(&lab)?;
    let name = format!("www.site.test.{}", lab.scenario().zone);
    let clients = clients(&lab);
    look_up_all(&lab, &format!("{name}."));
    // Until what was answered to strangers has lapsed.
    stage.wait(stage.refresh())?;
    let served = clients.iter().filter(|client| fetches(&lab, client, &format!("http://{name}{}", files[0].path)));
    stage.claim("served_by_curl", percent(served.count(), clients.len()), "%", Wanted::Exactly(100.0));
    let answers = look_up_all(&lab, &format!("{name}."));
    let at_home = answers.iter().filter(|(client, answer)| {
        let first = answer.as_ref().ok().and_then(|answer| named(answer).first().copied());
        first.is_some_and(|node| lab.scenario().hosts[node.index()].row == client.row)
    });
    stage.claim("sent_to_their_own_city", percent(at_home.count(), answers.len()), "%", Wanted::Exactly(100.0));
    stage.claim(
        "origin_requests",
        origin_log(&lab, origin)?.len() as f64,
        "",
        Wanted::AtMost(stage.by_scale(2.0, 1.0)),
    );
    Ok(())
}

/// Whether a host's `curl`, which asks the resolver in its /etc/resolv.conf, gets the page.
fn fetches(lab: &Lab, client: &Host, url: &str) -> bool {
    let command = ["curl", "--silent", "--fail", "--max-time", "30", "--output", "/dev/null", url];
    lab.run(&client.name, &command).is_ok_and(|output| output.status.success())
}
