//! Scenarios 3 and 4: a crowd asks for a few files behind a thin origin; in the fourth a third of the nodes die in the middle.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use nix::sys::signal::Signal;

use super::{
    load::{Crowd, Request, run},
    outcome::{Wanted, quantile},
    stage::{Stage, nodes, say_aside},
};
use crate::{
    address::HostId,
    error::Error,
    lab::Lab,
    scenario::{Host, OriginFile, Role},
};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.up(|_| ())?;
    let settled = stage.wait_for_clusters(&lab)?;
    stage.figure("clusters_after", settled, "s");
    let (origin, files) = origin(&lab)?;
    let name = format!("www.site.test.{}", lab.scenario().zone);
    let crowd = crowd(stage, &name, files, None);
    let mut began = SystemTime::now();
    let requests = run(&lab, &crowd, |_| {
        began = SystemTime::now();
        Ok(())
    })?;
    let log = origin_log(&lab, origin)?;
    // Not optimised and on a busy machine, an acquire may take longer than its time-out: then its node asks by itself.
    let most = Wanted::AtMost(1.5 * files.len() as f64);
    let wanted = stage.by_scale(most, Wanted::Exactly(files.len() as f64));
    stage.claim("origin_requests", log.len() as f64, "", wanted);
    figures(stage, &requests, last_fetch(&log, &crowd, began));
    stage.figures_of_nodes(&lab);
    stage.claim("failed_requests", failed(&requests, |_| true), "", Wanted::Exactly(0.0));
    explain(&requests);
    // CoralCDN's own run of this experiment, for comparison.
    stage.figure("coralcdn_p50", 0.19, "s");
    stage.figure("coralcdn_p96", 2.50, "s");
    let direct =
        Crowd { direct: Some(origin.id.v4().into()), name: "www.site.test", duration: Duration::from_secs(5), ..crowd };
    let baseline = run(&lab, &Crowd { rate: 2, ..direct }, |_| Ok(()))?;
    stage.figure("direct_to_origin_p50", quantile(&seconds(&baseline), 0.5), "s");
    Ok(())
}

/// Kills a third of the nodes a third into the crowd, as power cuts would.
pub(super) fn show_death(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.up_file("flash-crowd", |_| ())?;
    stage.wait_for_clusters(&lab)?;
    let (origin, files) = origin(&lab)?;
    let name = format!("www.site.test.{}", lab.scenario().zone);
    let crowd = crowd(stage, &name, files, None);
    let (killed_at, ttl) = (crowd.duration / 3, stage.longest_ttl());
    let crowd = Crowd { duration: crowd.duration + ttl, ..crowd };
    // A third, of every group some: the groups take turns in the list of nodes.
    let chosen = |(at, _): &(usize, &Host)| [1, 5, 6].contains(&(at % 9));
    let victims: Vec<&Host> = nodes(&lab).into_iter().enumerate().filter(chosen).map(|(_, node)| node).collect();
    let requests = run(&lab, &crowd, |start| {
        stage.wait(killed_at.saturating_sub(start.elapsed()))?;
        victims.iter().try_for_each(|node| lab.kill(&node.name, Signal::SIGKILL))
    })?;
    let log = origin_log(&lab, origin)?;
    stage.claim("origin_requests", log.len() as f64, "", Wanted::AtMost(2.0 * files.len() as f64));
    // A second for the kills themselves, and for what was under way.
    let (begun, slack) = (|request: &Request| request.due + request.late, Duration::from_secs(1));
    let before = failed(&requests, |request| request.due + request.took < killed_at);
    let after = failed(&requests, |request| begun(request) > killed_at + ttl + slack);
    stage.claim("failed_before", before, "", Wanted::Exactly(0.0));
    stage.claim("failed_a_ttl_after", after, "", Wanted::Exactly(0.0));
    stage.figure("failed_within_a_ttl", failed(&requests, |_| true) - before - after, "");
    let lives = |address: &IpAddr| victims.iter().all(|victim| HostId::owner(*address) != Some(victim.id));
    let with_a_choice = failed(&requests, |request| request.addresses.iter().any(lives));
    stage.claim("failed_with_a_living_address", with_a_choice, "", Wanted::Exactly(0.0));
    let second_try =
        requests.iter().filter(|request| request.failure.is_none() && request.first_address_failed).count();
    stage.figure("served_by_a_second_address", second_try as f64, "");
    let (worse, rest): (Vec<Request>, Vec<Request>) =
        requests.iter().cloned().partition(|request| request.addresses.iter().any(lives));
    explain(&worse);
    explain(&rest);
    figures(stage, &requests, Duration::ZERO);
    Ok(())
}

fn crowd<'c>(stage: &Stage<'_>, name: &'c str, files: &'c [OriginFile], direct: Option<IpAddr>) -> Crowd<'c> {
    let (rate, seconds) = stage.by_scale((30, 30), (100, 180));
    Crowd { name, files, rate, duration: Duration::from_secs(seconds), direct }
}

pub(super) fn origin(lab: &Lab) -> Result<(&Host, &[OriginFile]), Error> {
    let origins = lab.scenario().hosts.iter().find_map(|host| match &host.role {
        Role::Origin { files, .. } => Some((host, files.as_slice())),
        _ => None,
    });
    origins.ok_or_else(|| Error::Refused { message: "this scenario needs an origin".into() })
}

/// The requests that an origin logged: when, and from which host.
pub(super) fn origin_log(lab: &Lab, origin: &Host) -> Result<Vec<(f64, Option<HostId>)>, Error> {
    let path = lab.folder(&origin.name)?.join("access.log");
    let text =
        std::fs::read_to_string(&path).map_err(|error| Error::File { file: path, message: error.to_string() })?;
    let line = |line: &str| {
        let mut words = line.split(' ');
        Some((words.next()?.parse().ok()?, HostId::owner(words.next()?.parse().ok()?)))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// When the last object left the origin, since the crowd began.
fn last_fetch(log: &[(f64, Option<HostId>)], crowd: &Crowd<'_>, began: SystemTime) -> Duration {
    let began = began.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let last = log.iter().take(crowd.files.len()).map(|(at, _)| *at).fold(began, f64::max);
    Duration::from_secs_f64(last - began)
}

fn figures(stage: &mut Stage<'_>, requests: &[Request], warm: Duration) {
    stage.figure("requests", requests.len() as f64, "");
    for (name, share) in [("p50", 0.5), ("p96", 0.96)] {
        stage.figure(format!("request_{name}"), quantile(&seconds(requests), share), "s");
        let late: Vec<Request> = requests.iter().filter(|request| request.due > warm).cloned().collect();
        stage.figure(format!("request_{name}_warm"), quantile(&seconds(&late), share), "s");
    }
    parts(stage, requests);
}

fn parts(stage: &mut Stage<'_>, requests: &[Request]) {
    let parts = |request: &Request| [request.late, request.dns, request.http];
    for (at, name) in ["late", "dns", "http"].into_iter().enumerate() {
        let values: Vec<f64> = requests.iter().map(|request| parts(request)[at].as_secs_f64()).collect();
        stage.figure(format!("{name}_p50"), quantile(&values, 0.5), "s");
        stage.figure(format!("{name}_p96"), quantile(&values, 0.96), "s");
    }
}

fn seconds(requests: &[Request]) -> Vec<f64> {
    requests.iter().map(|request| request.took.as_secs_f64()).collect()
}

fn failed(requests: &[Request], counts: impl Fn(&Request) -> bool) -> f64 {
    requests.iter().filter(|request| request.failure.is_some() && counts(request)).count() as f64
}

/// A few failures in words.
fn explain(requests: &[Request]) {
    let failed: Vec<&Request> = requests.iter().filter(|request| request.failure.is_some()).collect();
    for request in failed.iter().step_by(failed.len() / 8 + 1) {
        let failure = request.failure.as_deref().unwrap_or_default();
        let (due, took) = (request.due.as_secs_f64(), request.took.as_secs_f64());
        say_aside(&format!("  at {due:.1} s, file {}, for {took:.1} s: {failure}", request.file));
    }
}
