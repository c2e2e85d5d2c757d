//! Scenario 4: a third of the nodes die in the middle of a crowd, as power cuts would have it.
//!
//! A client is right to use what it was answered before for as long as that answer said. So it may fail for one TTL after the
//! deaths: the TTL of its own answers, which a near client's are shorter than a far one's. It may not fail while an address it was
//! given lives, and not afterwards, neither at a proxy nor for want of an answer to its question. At full scale the TTL runs from the
//! last death, so that noticing it must fit in; at short scale, where TTLs are a few seconds, from when it must have been noticed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use hickory_proto::rr::Name;
use nix::sys::signal::Signal;

use super::{
    flash_crowd::{crowd, explain, failed, figures, origin, requests_for},
    load::{Crowd, Request, run},
    outcome::Wanted,
    stage::{Stage, nodes, say_aside},
};
use crate::{
    address::HostId,
    error::Error,
    lab::Lab,
    scenario::{Host, Role},
};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.go_on()?;
    stage.wait_for_clusters(&lab)?;
    let (origin, files) = origin(&lab)?;
    // A site of which no node has heard, also where another crowd has been.
    let site = last_name(origin);
    let name = format!("{site}.{}", lab.scenario().zone);
    let crowd = crowd(stage, &name, files, None);
    let killed_at = crowd.duration / 3;
    let crowd = Crowd { duration: crowd.duration + stage.longest_ttl(), ..crowd };
    // A third, of every group some: the groups take turns in the list of nodes.
    let chosen = |(at, _): &(usize, &Host)| [1, 5, 6].contains(&(at % 9));
    let victims: Vec<&Host> = nodes(&lab).into_iter().enumerate().filter(chosen).map(|(_, node)| node).collect();
    let mut all_dead = killed_at;
    let requests = run(&lab, &crowd, |start| {
        stage.wait(killed_at.saturating_sub(start.elapsed()))?;
        victims.iter().try_for_each(|node| lab.kill(&node.name, Signal::SIGKILL))?;
        all_dead = start.elapsed();
        Ok(())
    })?;
    let fetched = requests_for(&lab, origin, site)?;
    stage.claim("origin_requests", fetched as f64, "", Wanted::AtMost(2.0 * files.len() as f64));
    let ttls = own_ttls(&requests, killed_at);
    let shown = Shown {
        requests: &requests,
        killed_at,
        all_dead,
        noticed: all_dead + stage.by_scale(NOTICED, Duration::ZERO),
        ttls,
    };
    let lives = |address: &IpAddr| victims.iter().all(|victim| HostId::owner(*address) != Some(victim.id));
    shown.claims(stage, lives);
    let (worse, rest): (Vec<Request>, Vec<Request>) = requests.iter().cloned().partition(|request| {
        shown.is_after(request) || request.addresses.iter().any(lives) || request.addresses.is_empty()
    });
    explain(&worse);
    explain(&rest);
    explain_unresolved(&lab, &requests, &victims);
    figures(stage, &requests, files.len());
    Ok(())
}

fn last_name(origin: &Host) -> &str {
    match &origin.role {
        Role::Origin { names, .. } => names.last().map_or("", String::as_str),
        _ => "",
    }
}

/// Of clients that got no answer: whom their resolvers had been referred to, and who of these had died.
fn explain_unresolved(lab: &Lab, requests: &[Request], victims: &[&Host]) {
    let unanswered: BTreeSet<HostId> =
        requests.iter().filter(|request| request.addresses.is_empty()).map(|request| request.client).collect();
    let (zone, hosts) =
        (Name::from_ascii(format!("{}.", lab.scenario().zone)).unwrap_or_default(), &lab.scenario().hosts);
    let name = |host: &HostId| {
        let died = if victims.iter().any(|victim| victim.id == *host) { ", dead" } else { "" };
        format!("{}{died}", hosts[host.index()].name)
    };
    for client in unanswered.iter().map(|client| &hosts[client.index()]) {
        let held = client.resolver.map(|resolver| lab.watch().held(resolver, &zone)).unwrap_or_default();
        for (cut, servers) in held {
            let servers: Vec<String> = servers.iter().map(name).collect();
            say_aside(&format!("  {}: {cut} is served by {servers:?}", client.name));
        }
    }
}

/// What was asked while nodes died.
struct Shown<'r> {
    requests: &'r [Request],
    /// When the first died, since the crowd began.
    killed_at: Duration,
    /// When the last had died, and from when on no answer may name one of them.
    all_dead: Duration,
    noticed: Duration,
    /// Of each client.
    ttls: BTreeMap<HostId, Duration>,
}

impl Shown<'_> {
    /// Whether a request began when nothing that its client was told before the deaths was to be used any more.
    fn is_after(&self, request: &Request) -> bool {
        let ttl = self.ttls.get(&request.client).copied().unwrap_or_default();
        request.begun() > self.noticed + ttl + WHOLE_SECONDS
    }

    fn claims(&self, stage: &mut Stage<'_>, lives: impl Fn(&IpAddr) -> bool) {
        let count = |is: &dyn Fn(&Request) -> bool| failed(self.requests, is);
        let is_before = |request: &Request| request.ended() < self.killed_at;
        let unresolved = |request: &Request| request.addresses.is_empty();
        stage.claim("failed_before", count(&is_before), "", Wanted::Exactly(0.0));
        stage.claim("failed_a_ttl_after", count(&|request| self.is_after(request)), "", Wanted::Exactly(0.0));
        stage.figure("unresolved_a_ttl_after", count(&|request| self.is_after(request) && unresolved(request)), "");
        let within = |request: &Request| !is_before(request) && !self.is_after(request);
        stage.figure("failed_within_a_ttl", count(&within), "");
        stage.figure("unresolved_within_a_ttl", count(&|request| within(request) && unresolved(request)), "");
        // As seconds from the last death to the last request that failed, and the TTLs of that client's answers.
        let last = self.requests.iter().filter(|request| request.failure.is_some()).map(Request::begun).max();
        stage.figure("failed_last_after", last.unwrap_or_default().saturating_sub(self.all_dead).as_secs_f64(), "s");
        let ttl = |ttl: Option<&Duration>| ttl.map_or(f64::NAN, Duration::as_secs_f64);
        stage.figure("own_ttl_least", ttl(self.ttls.values().min()), "s");
        stage.figure("own_ttl_most", ttl(self.ttls.values().max()), "s");
        let with_a_choice = count(&|request| request.addresses.iter().any(&lives));
        stage.claim("failed_with_a_living_address", with_a_choice, "", Wanted::Exactly(0.0));
        let rescued = self.requests.iter().filter(|request| self.is_rescued(request, &lives));
        // Else nobody had anything to try, and the claim above says nothing.
        let wanted = stage.by_scale(Wanted::Nothing, Wanted::AtLeast(1.0));
        stage.claim("served_though_the_first_address_is_dead", rescued.count() as f64, "", wanted);
    }

    /// Whether a request was served after the deaths although the first address it was told was dead.
    fn is_rescued(&self, request: &Request, lives: impl Fn(&IpAddr) -> bool) -> bool {
        let is_dead = request.addresses.first().is_some_and(|first| !lives(first));
        request.failure.is_none() && request.begun() >= self.all_dead && is_dead
    }
}

/// The TTL of each client's answers before a moment: the longest it saw, for its resolver counts down what it keeps.
fn own_ttls(requests: &[Request], before: Duration) -> BTreeMap<HostId, Duration> {
    let mut ttls = BTreeMap::new();
    for request in requests.iter().filter(|request| request.begun() < before) {
        let ttl: &mut Duration = ttls.entry(request.client).or_default();
        *ttl = request.ttl.max(*ttl);
    }
    ttls
}

/// What servers may take to notice a death, at short scale: as long as at full scale, where TTLs are five times as long and it is
/// none of them. Two checks: one after six seconds at most, the other within one and a half of it.
const NOTICED: Duration = Duration::from_secs(8);
/// Resolvers count whole seconds.
const WHOLE_SECONDS: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_fail_for_the_longest_ttl_it_was_told_before_the_deaths() {
        let requests =
            [(0, 1, 6), (0, 3, 4), (0, 9, 60), (1, 2, 8)].map(|(client, due, ttl)| Request::example(client, due, ttl));
        let (killed_at, all_dead) = (Duration::from_secs(5), Duration::from_secs(6));
        let ttls = own_ttls(&requests, killed_at);
        let shown = Shown { requests: &requests, killed_at, all_dead, noticed: all_dead, ttls };
        assert_eq!(shown.ttls.values().map(Duration::as_secs).collect::<Vec<_>>(), [6, 8]);
        assert_eq!([13, 14].map(|due| shown.is_after(&Request::example(0, due, 30))), [false, true]);
        assert_eq!([15, 16].map(|due| shown.is_after(&Request::example(1, due, 30))), [false, true]);
        assert!(shown.is_after(&Request::example(2, 8, 30)), "who was told nothing has nothing to wait for");
    }

    #[test]
    fn only_who_was_served_after_the_deaths_and_told_a_dead_address_first_was_rescued() {
        let (dead, living) = (IpAddr::from([198, 18, 0, 1]), IpAddr::from([198, 18, 0, 2]));
        let all_dead = Duration::from_secs(6);
        let shown =
            Shown { requests: &[], killed_at: all_dead, all_dead, noticed: all_dead, ttls: BTreeMap::default() };
        let is_rescued = |due, addresses: [IpAddr; 2], failure: Option<&str>| {
            let request = Request {
                addresses: addresses.to_vec(),
                failure: failure.map(Into::into),
                by_another_address: true,
                ..Request::example(0, due, 5)
            };
            shown.is_rescued(&request, |address| *address == living)
        };
        assert!(is_rescued(6, [dead, living], None));
        assert!(!is_rescued(5, [dead, living], None), "it may have lived yet");
        assert!(!is_rescued(6, [living, dead], None), "that one was slow");
        assert!(!is_rescued(6, [dead, living], Some("dead")));
    }
}
