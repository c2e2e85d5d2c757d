//! What this server tells others of prefixes: a server that asks how far one is (`scout.rs` asks), and the index, of those that are near
//! its own cluster. What is known of them is `client.rs`'s; how it is found out, `placing.rs`'s.

use std::{
    net::IpAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use atoll_overlay::{Level, Prefix};
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};

use crate::{
    answer::Answer,
    near::Near,
    placement::Placement,
    question::Query,
    redirector::{Errand, Probe, Quest, Redirector},
    respond::Resolved,
    roster::Roster,
    scout::{self, Report},
    waiters::{Patience, Until},
};

impl Redirector {
    /// Answers a server that asks how far this one is from an address; none if the name is no such question, or no server of this
    /// network asks it.
    pub(crate) fn report(&self, now: Instant, query: &Query, from: IpAddr, may_wait: bool) -> Option<Resolved> {
        let (address, looks_on) =
            scout::asked(self.zone().origin(), &query.name).filter(|_| query.kind == RecordType::TXT)?;
        let roster = self.roster();
        let known = roster.addresses.values().any(|(v4, v6)| match from.to_canonical() {
            IpAddr::V4(from) => v4.contains(&from),
            IpAddr::V6(from) => v6.contains(&from),
        });
        if !known {
            return None;
        }
        if !self.may_scout(address) {
            // No report: one without a distance would say that it is too far to tell.
            return Some(Resolved::Answer(Answer::of(ResponseCode::Refused), 0));
        }
        let prefix = Prefix::of(address);
        let wait = self.config.probe.wait;
        let (until, most) = if looks_on { (Until::Found, wait + LOOKS_ON) } else { (Until::Measured, wait) };
        // Before anything is set going: it may be over at once.
        let known = may_wait.then(|| Patience { known: self.waiters().wait(prefix, until), most });
        // What this server measured is true whatever its operator says; which cluster is near is not said against the operator.
        let placement = Placement {
            placed: self.overrides.placement(prefix).is_some(),
            ..self.clients().found(now, prefix, self.config.sources.hints)
        };
        let own = self.own_cluster(&placement, &roster);
        if own.is_some() {
            // Near itself, it looks for who is nearer still.
            self.send_scouts(now, Quest { address, resolver: prefix, first: false });
            self.tell(now, prefix, &placement, &roster);
        }
        let rtt = self.clients().rtt_from_here(now, prefix);
        if self.is_worth_a_moment(address, (&placement, rtt), looks_on)
            && let Some(patience) = known
        {
            return Some(Resolved::Wait(patience));
        }
        if self.config.sources.hints && placement.near.is_none() && !placement.placed {
            // Somebody else may be near, and will have said so by then.
            self.errand(Errand::AskSoon(prefix));
        }
        let near = placement.near.as_deref().cloned().or(own).filter(|_| !placement.placed);
        Some(Resolved::Answer(scout_answer(&query.name, &Report { rtt, near }), 0))
    }

    /// Whether more will be known of a prefix in a moment than a scout could report of it now: its distance, which is measured from
    /// now on, or a nearer cluster, if this server's scouts are on their way.
    fn is_worth_a_moment(
        &self,
        address: IpAddr,
        (placement, rtt): (&Placement, Option<Duration>),
        looks_on: bool,
    ) -> bool {
        if rtt.is_none() && self.config.probes() {
            return self.probes().try_send(Probe { address, search: false }).is_ok();
        }
        let is_near = placement.level > Level::GLOBAL && placement.near.is_none();
        looks_on && is_near && self.clients().is_scouted(Prefix::of(address))
    }

    /// A prefix turned out to be nearer than it seemed, or nobody to be nearer to it: others are told, before anybody asks.
    pub(crate) fn came_nearer(&self, prefix: Prefix) {
        let now = Instant::now();
        let placement = self.clients().placement(now, prefix, self.config.sources.hints);
        self.tell(now, prefix, &placement, &self.roster());
    }

    /// Tells the index of a prefix near this server, so that farther servers hand it over: of a wide cluster only once its scouts
    /// were heard, and found none nearer. The index keeps few pointers under a key, and those of all who are within the wide one would
    /// leave no room for the one that counts.
    pub(crate) fn tell(&self, now: Instant, prefix: Prefix, placement: &Placement, roster: &Roster) {
        if !self.config.sources.hints || self.is_leaving() {
            return;
        }
        let Some(near) = self.own_cluster(placement, roster) else { return };
        let looks_on = near.level < self.zone().innermost() && self.clients().is_scouted(prefix);
        if !looks_on && self.clients().is_to_tell(now, prefix, &near) {
            self.errand(Errand::Tell(prefix, near));
        }
    }

    /// This server's cluster as one near a prefix; none if it is not, or another is nearer.
    fn own_cluster(&self, placement: &Placement, roster: &Roster) -> Option<Near> {
        let own = placement.level > Level::GLOBAL && placement.near.is_none() && !placement.placed;
        let (rtt, ring) = (placement.rtt?, roster.rings.get(usize::from(placement.level.0)).filter(|_| own)?);
        let asked = self.asked_at(roster, placement);
        let proxies =
            placement.distances.nearest(placement.level, &self.config.thresholds, &ring.live, asked, &roster.mute);
        let servers: Vec<_> = roster.me.iter().chain(&ring.servers).take(3).cloned().collect();
        let named = !proxies.is_empty() && !servers.is_empty();
        named.then_some(Near {
            level: placement.level,
            rtt,
            cluster: ring.cluster,
            servers,
            proxies,
            epoch: self.next_epoch(),
        })
    }

    /// A number that rises with each call and, unless the system's clock was set back meanwhile, from run to run.
    fn next_epoch(&self) -> u64 {
        let now = u64::try_from(self.wall_span(Instant::now()).as_micros()).unwrap_or(u64::MAX);
        self.epoch.fetch_max(now, Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::Relaxed)
    }
}

fn scout_answer(name: &Name, report: &Report) -> Answer {
    Answer::with(vec![hickory_proto::rr::Record::from_rdata(name.clone(), 0, scout::write(report))])
}

/// How much longer than for its own measurement a scout lets its answer wait until its neighbours have said how near they are.
/// They are within the first threshold, and measure at once. \[guess\]
pub(crate) const LOOKS_ON: Duration = Duration::from_millis(150);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use atoll_overlay::{Alone, Key, NodeId, NodeInfo, Roles};

    use super::*;
    use crate::{
        Config, Source,
        placing::{
            AskedFor,
            tests::{RESOLVER, redirector, redirector_with, word},
        },
        search::Scouts,
        waiters::Waited,
    };

    /// A server's question to a scout, about this address.
    fn asks_of(redirector: &Redirector, address: IpAddr) -> Query {
        Query {
            header: crate::question::Header::default(),
            name: scout::question(redirector.zone().origin(), 1, address, false).unwrap(),
            kind: RecordType::TXT,
            class: hickory_proto::rr::DNSClass::IN,
            edns: None,
        }
    }

    #[test]
    fn what_the_operator_says_of_a_prefix_is_told_to_nobody_and_sends_nobody_there() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "203.0.113.0/24 level 2\n").unwrap();
        let config = Config { overrides: Some(file.path().to_owned()), ..Config::default() };
        let (redirector, mut errands) = redirector_with(config);
        let (now, prefix) = (Instant::now(), Prefix::of(RESOLVER));
        let placement = redirector.clients().placement(now, prefix, true);
        assert_eq!((placement.level, placement.placed, placement.rtt), (Level(2), true, None));
        let asked_for = AskedFor { prefix, address: RESOLVER, placement, scope: 0, resolver: prefix };
        assert!(redirector.find_out(now, &asked_for, Some(Waited::default())).is_none());
        redirector.tell(now, prefix, &asked_for.placement, &redirector.roster());
        redirector.came_nearer(prefix);
        assert!(errands.try_recv().is_err(), "neither told, nor asked, nor measured");
        // A server that asks hears what was measured here, if anything was.
        let roster = Roster {
            addresses: [(NodeId::from(Key::ZERO), (vec![[192, 0, 2, 1].into()], Vec::new()))].into(),
            ..Roster::clone(&redirector.roster())
        };
        redirector.set_roster(roster);
        redirector.measured(now, prefix, Source::TcpConnect, Duration::from_millis(5));
        let query = asks_of(&redirector, RESOLVER);
        let Some(Resolved::Answer(answer, _)) = redirector.report(now, &query, [192, 0, 2, 1].into(), false) else {
            panic!("a report")
        };
        let report = scout::read_answer(&answer).expect("well formed");
        assert_eq!((report.rtt, report.near), (Some(Duration::from_millis(5)), None));
        assert!(errands.try_recv().is_err(), "and nobody is told");
    }

    #[test]
    fn a_scout_goes_into_its_own_networks_only_where_its_operator_lets_it() {
        let me = || NodeInfo::new(NodeId::from(Key::ZERO), Roles::DNSSRV.with(Roles::PROXY));
        let probed = |config: Config, address: IpAddr| {
            let (redirector, mut probes, mut errands) = Redirector::new(config, Arc::new(Alone::new(me()))).unwrap();
            let addresses = [(NodeId::from(Key::ZERO), (vec![[192, 0, 2, 1].into()], Vec::new()))].into();
            redirector.set_roster(Roster { addresses, ..Roster::default() });
            let query = asks_of(&redirector, address);
            let resolved = redirector.report(Instant::now(), &query, [192, 0, 2, 1].into(), true);
            let went = probes.try_recv().is_ok();
            assert_eq!(matches!(resolved, Some(Resolved::Wait(_))), went);
            if let Some(Resolved::Answer(answer, _)) = resolved {
                assert_eq!((answer.code, scout::read_answer(&answer)), (ResponseCode::Refused, None));
                assert!(errands.try_recv().is_err(), "and nobody is asked");
            }
            // The same of one who asks here: others are sent where this server would go.
            let prefix = Prefix::of(address);
            redirector.measured(Instant::now(), prefix, Source::TcpConnect, Duration::from_millis(70));
            redirector.probed(address, true);
            assert_eq!(matches!(errands.try_recv(), Ok(Errand::Search(_))), went, "{address}");
            went
        };
        let inside: [IpAddr; 6] = ["10.0.0.7", "192.168.1.1", "169.254.169.254", "fd00::1", "fe80::1", "127.0.0.1"]
            .map(|text| text.parse().unwrap());
        let public = Config { listen: vec!["192.0.2.1:53".parse().unwrap()], ..Config::default() };
        for address in inside {
            assert!(!probed(public.clone(), address), "{address}");
        }
        assert!(probed(public.clone(), RESOLVER));
        let ours = Config { private_subnets: vec!["10.0.0.0/8".parse().unwrap()], ..public };
        assert!(probed(ours.clone(), inside[0]) && !probed(ours, inside[1]));
        let local = Config { listen: vec!["127.0.0.1:53".parse().unwrap()], ..Config::default() };
        assert!(probed(local.clone(), inside[5]) && !probed(local, inside[0]));
    }

    #[test]
    fn what_a_busy_moment_made_look_far_is_told_as_near_once_a_quieter_one_measured_it() {
        let (redirector, mut errands) = redirector();
        let (now, prefix) = (Instant::now(), Prefix::of(RESOLVER));
        let mute = [[192, 0, 2, 2].into()].into();
        redirector.set_roster(Roster { mute, ..Roster::clone(&redirector.roster()) });
        let mut told = || {
            redirector.came_nearer(prefix);
            match errands.try_recv() {
                Ok(Errand::Tell(_, near)) => Some((near.level.0, near.proxies.len())),
                _ => None,
            }
        };
        redirector.measured(now, prefix, Source::TcpConnect, Duration::from_millis(41));
        assert_eq!(told(), Some((1, 2)), "nobody asks how far the other is");
        redirector.measured(now, prefix, Source::TcpConnect, Duration::from_millis(17));
        redirector.clients().heard(now, prefix, [(IpAddr::from([192, 0, 2, 2]), Duration::from_millis(24))]);
        assert_eq!(told(), Some((2, 1)), "and the other is not");
        assert_eq!(told(), None, "once");
    }

    #[test]
    fn a_wide_cluster_is_told_of_once_its_scouts_found_none_nearer_and_the_innermost_at_once() {
        let told = |rtt, found: Option<Near>| {
            let (redirector, mut errands) = redirector();
            let (now, prefix) = (Instant::now(), Prefix::of(RESOLVER));
            redirector.measured(now, prefix, Source::TcpConnect, Duration::from_millis(rtt));
            assert!(redirector.clients().is_to_scout(now, prefix, |_| false));
            let mut told = || match errands.try_recv() {
                Ok(Errand::Tell(_, near)) => Some(near.level.0),
                _ => None,
            };
            redirector.came_nearer(prefix);
            let before = told();
            redirector.scouts_found(prefix, found, Scouts::Heard);
            (before, told())
        };
        assert_eq!(told(29, None), (None, Some(1)));
        assert_eq!(told(29, Some(word(2, 80, 17))), (None, None));
        assert_eq!(told(17, None), (Some(2), None));
    }
}
