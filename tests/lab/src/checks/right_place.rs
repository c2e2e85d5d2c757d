//! Scenario 1: after one warm-up query each, clients are sent to near proxies, whichever resolver program they use.

use std::{collections::BTreeMap, time::Instant};

use super::{
    nearness::{Answers, Sent, claims, figures, program},
    outcome::{Wanted, quantile},
    page,
    stage::{Stage, look_up_all, ms},
};
use crate::{error::Error, lab::Lab, scenario::DnsMode};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    for mode in [DnsMode::Levels, DnsMode::Direct] {
        let lab = bring_up(stage, mode)?;
        let settled = stage.wait_for_clusters(&lab)?;
        stage.figure(format!("{}/clusters_after", mode.word()), settled, "s");
        show_mode(stage, &lab, mode)?;
        if mode == DnsMode::Levels {
            page::show(stage, &lab, mode.word())?;
        }
    }
    Ok(())
}

/// The largest lab of all, so the one to say how long it takes until all hosts are there.
fn bring_up(stage: &mut Stage<'_>, mode: DnsMode) -> Result<Lab, Error> {
    let (begun, mode_word) = (Instant::now(), mode.word());
    let lab = stage.up(|scenario| scenario.dns_mode = mode)?;
    let took = begun.elapsed().as_secs_f64();
    let hosts = lab.status().hosts;
    let up = hosts.iter().filter(|host| host.alive != Some(false)).count();
    stage.claim(format!("{mode_word}/hosts_up"), up as f64, "", Wanted::Exactly(hosts.len() as f64));
    stage.claim(format!("{mode_word}/hosts"), hosts.len() as f64, "", Wanted::AtLeast(30.0));
    let wanted = stage.by_scale(Wanted::Nothing, Wanted::AtMost(SECONDS));
    stage.claim(format!("{mode_word}/up_after"), took, "s", wanted);
    Ok(lab)
}

fn show_mode(stage: &mut Stage<'_>, lab: &Lab, mode: DnsMode) -> Result<(), Error> {
    let mode = mode.word();
    let zone = &lab.scenario().zone;
    let mut first: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (client, answer) in look_up_all(lab, &format!("www.site.test.{zone}.")) {
        if let Ok(answer) = answer {
            first.entry(program(lab, client)).or_default().push(ms(answer.took));
        }
    }
    for (program, times) in &first {
        stage.figure(format!("{mode}/first_lookup_p50/{program}"), quantile(times, 0.5), "ms");
    }
    // Until what was answered to strangers has lapsed.
    stage.wait(stage.refresh())?;
    let answers = Answers::about(stage.by_scale(4, 12), stage, lab);
    answers.claim(stage, lab, mode);
    for program in first.keys() {
        let of: Vec<&Sent> = answers.sent.iter().filter(|sent| sent.program == *program).collect();
        // At short scale a program has two resolvers: too few to judge it alone.
        match stage.by_scale(false, true) {
            true => claims(stage, &format!("{mode}/{program}"), &of),
            false => figures(stage, &format!("{mode}/{program}"), &of),
        }
    }
    Ok(())
}

/// What all hosts may take to start, in seconds, at full scale; at short scale a busy machine starts programs that are not optimised.
const SECONDS: f64 = 30.0;
