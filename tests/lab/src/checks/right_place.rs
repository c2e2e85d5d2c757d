//! Scenario 1: after one warm-up query each, clients are sent to near proxies, whichever resolver program they use.

use std::{collections::BTreeMap, time::Duration};

use super::{
    outcome::{Wanted, percent, quantile},
    page,
    stage::{MIDDLE, NEAR, Stage, look_up_all, ms, named, nodes, say_aside},
};
use crate::{
    error::Error,
    lab::Lab,
    scenario::{DnsMode, Host, Role},
    units::millis,
};

/// One answer as a client sees it.
struct Sent {
    client: String,
    node: String,
    program: &'static str,
    to: Duration,
    best: Duration,
}

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    for mode in [DnsMode::Levels, DnsMode::Direct] {
        let lab = stage.up(|scenario| scenario.dns_mode = mode)?;
        let settled = stage.wait_for_clusters(&lab)?;
        stage.figure(format!("{}/clusters_after", mode.word()), settled, "s");
        show_mode(stage, &lab, mode)?;
        if mode == DnsMode::Levels {
            page::show(stage, &lab, mode.word())?;
        }
    }
    Ok(())
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
    let (mut sent, mut asked, mut wrong) = (Vec::new(), 0, Vec::new());
    for site in 0..stage.by_scale(4, 12) {
        for (client, answer) in look_up_all(lab, &format!("www.site{site}.test.{zone}.")) {
            asked += 1;
            match answer {
                Ok(answer) => match named(&answer).first() {
                    Some(to) => sent.push(judge(lab, client, *to)),
                    None => wrong.push(format!("{} got {} without an address", client.name, answer.code)),
                },
                Err(error) => wrong.push(format!("{}: {error}", client.name)),
            }
        }
    }
    stage.claim(format!("{mode}/answered"), percent(sent.len(), asked), "%", Wanted::AtLeast(100.0));
    claims(stage, mode, &sent.iter().collect::<Vec<_>>());
    explain(mode, &sent);
    wrong.iter().for_each(|line| say_aside(&format!("  {mode}: {line}")));
    for program in first.keys() {
        let of: Vec<&Sent> = sent.iter().filter(|sent| sent.program == *program).collect();
        // At short scale a program has two resolvers: too few to judge it alone.
        match stage.by_scale(false, true) {
            true => claims(stage, &format!("{mode}/{program}"), &of),
            false => figures(stage, &format!("{mode}/{program}"), &of),
        }
    }
    Ok(())
}

fn judge(lab: &Lab, client: &Host, to: crate::address::HostId) -> Sent {
    let scenario = lab.scenario();
    let best = nodes(lab).iter().map(|node| scenario.rtt(client.id, node.id)).min().unwrap_or_default();
    let node = scenario.hosts.get(to.index()).map(|node| node.name.clone()).unwrap_or_default();
    Sent { client: client.name.clone(), node, program: program(lab, client), to: scenario.rtt(client.id, to), best }
}

/// Who was sent too far.
fn explain(mode: &str, sent: &[Sent]) {
    let limit = |sent: &Sent| if sent.best < NEAR { NEAR } else { MIDDLE };
    let far = sent.iter().filter(|sent| sent.best < MIDDLE && sent.to >= limit(sent)).map(|sent| {
        let (to, best) = (millis(sent.to), millis(sent.best));
        format!("  {mode}: {} sent to {} at {to} ms, one is at {best} ms", sent.client, sent.node)
    });
    let mut lines: Vec<String> = far.collect();
    lines.sort();
    lines.dedup();
    lines.iter().for_each(|line| say_aside(line));
}

fn figures(stage: &mut Stage<'_>, of: &str, sent: &[&Sent]) {
    let median =
        |of: &dyn Fn(&Sent) -> Duration| quantile(&sent.iter().map(|sent| ms(of(sent))).collect::<Vec<_>>(), 0.5);
    stage.figure(format!("{of}/best_rtt_p50"), median(&|sent| sent.best), "ms");
    stage.figure(format!("{of}/rtt_p50"), median(&|sent| sent.to), "ms");
}

fn claims(stage: &mut Stage<'_>, of: &str, sent: &[&Sent]) {
    let share = |could: &dyn Fn(&Sent) -> bool, under: Duration| {
        let could: Vec<_> = sent.iter().filter(|sent| could(sent)).collect();
        percent(could.iter().filter(|sent| sent.to < under).count(), could.len())
    };
    let near = share(&|sent| sent.best < NEAR, NEAR);
    let middle = share(&|sent| sent.best >= NEAR && sent.best < MIDDLE, MIDDLE);
    // A draw in which no client has a proxy that near shows nothing either way.
    for (name, value, least) in [("near_when_near_exists", near, 95.0), ("middle_when_middle_exists", middle, 90.0)] {
        let wanted = if value.is_nan() { Wanted::Nothing } else { stage.share(least) };
        stage.claim(format!("{of}/{name}"), value, "%", wanted);
    }
    let median =
        |of: &dyn Fn(&Sent) -> Duration| quantile(&sent.iter().map(|sent| ms(of(sent))).collect::<Vec<_>>(), 0.5);
    let best = median(&|sent| sent.best);
    stage.figure(format!("{of}/best_rtt_p50"), best, "ms");
    // At short scale a median of few: held to no more than what is near at all.
    let most = (best * 1.3).max(best + stage.by_scale(ms(NEAR), 10.0));
    stage.claim(format!("{of}/rtt_p50"), median(&|sent| sent.to), "ms", Wanted::AtMost(most));
}

pub(super) fn program(lab: &Lab, client: &Host) -> &'static str {
    match client.resolver.map(|id| &lab.scenario().hosts[id.index()].role) {
        Some(Role::Resolver { program, .. }) => program.name(),
        _ => "none",
    }
}
