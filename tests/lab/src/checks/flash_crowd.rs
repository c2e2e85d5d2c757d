//! Scenario 3: a crowd asks for a few files behind a thin origin.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{
    load::{Crowd, Request, run},
    outcome::{Wanted, quantile},
    stage::{Stage, nodes, say_aside},
};
use crate::{
    address::HostId,
    error::{Doing as _, Error},
    lab::Lab,
    programs::LOG,
    scenario::{Host, OriginFile, Role},
    units::millis,
};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.up(|_| ())?;
    let settled = stage.wait_for_clusters(&lab)?;
    stage.figure("clusters_after", settled, "s");
    let (origin, files) = origin(&lab)?;
    let name = format!("{SITE}.{}", lab.scenario().zone);
    let crowd = crowd(stage, &name, files, None);
    let requests = run(&lab, &crowd, |_| Ok(()))?;
    let fetched = requests_for(&lab, origin, SITE)?;
    keep_fetches(stage, &lab, origin)?;
    // Not optimised and on a busy machine, an acquire may take longer than its time-out: then its node asks by itself.
    let most = Wanted::AtMost(1.5 * files.len() as f64);
    let wanted = stage.by_scale(most, Wanted::Exactly(files.len() as f64));
    stage.claim("origin_requests", fetched as f64, "", wanted);
    let warm = figures(stage, &requests, files.len());
    stage.figures_of_nodes(&lab);
    stage.claim("failed_requests", failed(&requests, |_| true), "", Wanted::Exactly(0.0));
    explain(&requests);
    // CoralCDN's own run of this experiment, for comparison.
    stage.figure("coralcdn_p50", 0.19, "s");
    stage.figure("coralcdn_p96", 2.50, "s");
    let direct = Crowd { direct: Some(origin.id.v4().into()), name: SITE, duration: Duration::from_secs(5), ..crowd };
    let baseline = run(&lab, &Crowd { rate: 2, ..direct }, |_| Ok(()))?;
    for ((name, share), warm) in SHARES.into_iter().zip(warm) {
        let direct = quantile(&seconds(&baseline), share);
        stage.figure(format!("direct_to_origin_{name}"), direct, "s");
        // A busy machine and programs that are not optimised do not make a thin line any wider.
        stage.claim(format!("warm_over_direct_{name}"), warm / direct, "", Wanted::AtMost(1.0));
    }
    stage.leave(lab);
    Ok(())
}

pub(super) fn crowd<'c>(
    stage: &Stage<'_>,
    name: &'c str,
    files: &'c [OriginFile],
    direct: Option<IpAddr>,
) -> Crowd<'c> {
    let (rate, seconds) = stage.by_scale((30, 30), (100, 180));
    Crowd { name, files, rate, duration: Duration::from_secs(seconds), direct }
}

/// The first origin that has any files.
pub(super) fn origin(lab: &Lab) -> Result<(&Host, &[OriginFile]), Error> {
    let mut origins = lab.scenario().hosts.iter().filter_map(|host| match &host.role {
        Role::Origin { files, .. } if !files.is_empty() => Some((host, files.as_slice())),
        _ => None,
    });
    origins.next().ok_or_else(|| Error::Refused { message: "this scenario needs an origin with files".into() })
}

/// The requests that an origin logged: from which host each came.
pub(super) fn origin_log(lab: &Lab, origin: &Host) -> Result<Vec<Option<HostId>>, Error> {
    let text = origin_lines(lab, origin)?;
    let asker = |line: &str| line.split(' ').nth(1)?.parse().ok().and_then(HostId::owner);
    Ok(text.lines().map(asker).collect())
}

/// How many requests for a site its origin has logged.
pub(super) fn requests_for(lab: &Lab, origin: &Host, site: &str) -> Result<usize, Error> {
    let lines = origin_lines(lab, origin)?;
    Ok(lines.lines().filter(|line| line.split(' ').nth(2) == Some(site)).count())
}

/// Keeps what explains an object that was fetched twice: the origin's log, and from those of the nodes who granted whom a fetch and why,
/// and who asked the origin under which lease.
fn keep_fetches(stage: &Stage<'_>, lab: &Lab, origin: &Host) -> Result<(), Error> {
    let mut lines = origin_lines(lab, origin)?;
    for node in nodes(lab) {
        let path = lab.folder(&node.name)?.join(LOG);
        let log = std::fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
        let telling = log.lines().filter(|line| EXPLAINS.iter().any(|words| line.contains(words)));
        telling.for_each(|line| lines.extend([&node.name, " ", line, "\n"]));
    }
    let kept = stage.artefact("fetches.log")?;
    std::fs::write(&kept, lines).doing(|| format!("write {}", kept.display()))
}

fn origin_lines(lab: &Lab, origin: &Host) -> Result<String, Error> {
    let path = lab.folder(&origin.name)?.join("access.log");
    std::fs::read_to_string(&path).map_err(|error| Error::File { file: path, message: error.to_string() })
}

/// When each object had reached some client whole, since the crowd began: so the last had left the origin. The origin's own log
/// would be early: it notes a response once its machine has taken it, which a thin line may be long in carrying. Never, if one
/// reached nobody.
fn all_have_left(requests: &[Request], files: usize) -> Duration {
    let first = |file: usize| {
        let whole = requests.iter().filter(|request| request.file == file && request.failure.is_none());
        whole.map(Request::ended).min().unwrap_or(Duration::MAX)
    };
    (0..files).map(first).max().unwrap_or_default()
}

/// How long requests took, all of them and those sent after the last object had left the origin; of the latter the two quantiles.
pub(super) fn figures(stage: &mut Stage<'_>, requests: &[Request], files: usize) -> [f64; 2] {
    stage.figure("requests", requests.len() as f64, "");
    let cold = all_have_left(requests, files);
    let warm: Vec<f64> =
        requests.iter().filter(|request| request.due > cold).map(|request| request.took.as_secs_f64()).collect();
    stage.figure("requests_warm", warm.len() as f64, "");
    let warm = SHARES.map(|(name, share)| {
        stage.figure(format!("request_{name}"), quantile(&seconds(requests), share), "s");
        (name, quantile(&warm, share))
    });
    for ((name, took), most) in warm.into_iter().zip(MOST_WARM) {
        let wanted = stage.by_scale(Wanted::Nothing, Wanted::AtMost(most));
        stage.claim(format!("request_{name}_warm"), took, "s", wanted);
    }
    let raced = requests.iter().filter(|request| request.by_another_address).count();
    stage.figure("served_by_another_address", raced as f64, "");
    parts(stage, requests);
    explain_slow(requests, cold);
    warm.map(|(_, took)| took)
}

fn parts(stage: &mut Stage<'_>, requests: &[Request]) {
    let parts = |request: &Request| [request.late, request.dns, request.http];
    for (at, name) in ["late", "dns", "http"].into_iter().enumerate() {
        let values: Vec<f64> = requests.iter().map(|request| parts(request)[at].as_secs_f64()).collect();
        stage.figure(format!("{name}_p50"), quantile(&values, 0.5), "s");
        stage.figure(format!("{name}_p96"), quantile(&values, 0.96), "s");
    }
}

/// Of requests sent after the last object had left the origin and slower than they may be: what took the time, for whom and when.
fn explain_slow(requests: &[Request], cold: Duration) {
    let most = Duration::from_secs_f64(MOST_WARM[1]);
    let slow: Vec<&Request> = requests.iter().filter(|request| request.due > cold && request.took > most).collect();
    let mut by_part: BTreeMap<&str, Vec<&Request>> = BTreeMap::new();
    for request in slow {
        let parts = [(request.late, "waiting for a hand"), (request.dns, "DNS"), (request.http, "HTTP")];
        let (_, part) = parts.into_iter().max().unwrap_or_default();
        by_part.entry(part).or_default().push(request);
    }
    for (part, slow) in by_part {
        say_aside(&format!("  {} slow requests: {part}", slow.len()));
        for one in slow.iter().step_by(slow.len() / 12 + 1) {
            let (at, parts) = (one.due.as_secs_f64(), [one.late, one.dns, one.http].map(millis));
            let (client, to) = (one.client.index(), &one.addresses);
            say_aside(&format!(
                "    host {client} at {at:.1} s, file {}: late, DNS, HTTP {parts:?} ms, told {to:?}",
                one.file
            ));
        }
    }
}

fn seconds(requests: &[Request]) -> Vec<f64> {
    requests.iter().map(|request| request.took.as_secs_f64()).collect()
}

pub(super) fn failed(requests: &[Request], counts: impl Fn(&Request) -> bool) -> f64 {
    requests.iter().filter(|request| request.failure.is_some() && counts(request)).count() as f64
}

/// A few failures in words.
pub(super) fn explain(requests: &[Request]) {
    let failed: Vec<&Request> = requests.iter().filter(|request| request.failure.is_some()).collect();
    for request in failed.iter().step_by(failed.len() / 8 + 1) {
        let failure = request.failure.as_deref().unwrap_or_default();
        let (due, took) = (request.due.as_secs_f64(), request.took.as_secs_f64());
        say_aside(&format!("  at {due:.1} s, file {}, for {took:.1} s: {failure}", request.file));
    }
}

/// What nodes say in their logs of fetches.
const EXPLAINS: [&str; 2] = ["a fetch is granted", "the origin is asked"];
/// Whose files they ask for.
const SITE: &str = "www.site.test";
/// The quantiles that are looked at.
const SHARES: [(&str, f64); 2] = [("p50", 0.5), ("p96", 0.96)];
/// What these may be of requests sent after the last object left the origin, in seconds: CoralCDN had 0.19 and 2.50 over its whole run.
const MOST_WARM: [f64; 2] = [0.15, 0.6];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_left_the_origin_once_some_client_has_it_whole() {
        let request = |file: usize, due: u32, failure: Option<&str>| Request {
            file,
            failure: failure.map(String::from),
            ..Request::example(0, due, 30)
        };
        let requests = [request(0, 4, None), request(0, 1, None), request(1, 0, Some("dead")), request(1, 6, None)];
        assert_eq!(all_have_left(&requests, 1), Duration::from_secs(2));
        assert_eq!(all_have_left(&requests, 2), Duration::from_secs(7));
        assert_eq!(all_have_left(&requests, 3), Duration::MAX);
    }
}
