//! Where those who ask belong, as the redirector goes about finding out: whose distance counts, what is measured and who else is
//! asked. What is known stays in `client.rs`; what others are told of it is `telling.rs`'s.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use crate::{
    Explanation, Mode, Probes, Source,
    gap::{Followed, Sent},
    near::{Near, TOLD_FOR},
    placement::Placement,
    question::{Query, Subnet},
    redirector::{Errand, Probe, Quest, Redirector},
    roster::{Roster, Server},
    search::Scouts,
    waiters::{Patience, Until, Waited},
    zone::Place,
};
use atoll_overlay::{Level, NodeId, NodeInfo, Prefix};

/// Whose distance counts for an answer.
pub(crate) struct AskedFor {
    pub(crate) prefix: Prefix,
    /// The address in it that can be measured.
    pub(crate) address: IpAddr,
    pub(crate) placement: Placement,
    /// Bits of the client subnet that the answer holds for.
    pub(crate) scope: u8,
    /// Who asks.
    pub(crate) resolver: Prefix,
}

impl Redirector {
    /// An RTT was measured.
    pub(crate) fn measured(&self, now: Instant, prefix: Prefix, source: Source, rtt: Duration) {
        let me = self.roster().me.clone();
        let mut clients = self.clients();
        clients.measured(now, prefix, source, rtt);
        let least = clients.rtt_from_here(now, prefix).unwrap_or(rtt);
        clients.heard(now, prefix, me.iter().flat_map(Server::addresses).map(|address| (address, least)));
        drop(clients);
        self.counters.measured(source);
        self.index.observe(prefix, rtt);
    }

    /// The index was asked about a prefix: who is near, and what RTTs nodes saw (proxies, of their clients, among them). A
    /// neighbour's RTT is as good as our own at the levels we share.
    pub(crate) fn asked(
        &self,
        now: Instant,
        prefix: Prefix,
        near: Option<(Near, Duration)>,
        seen: Vec<(NodeId, Duration)>,
    ) {
        let roster = self.roster();
        let mut clients = self.clients();
        for (node, rtt) in seen {
            clients.heard_of(now, prefix, addresses_of(&roster, node).map(|address| (address, rtt)));
            if roster.me.as_ref().is_some_and(|me| me.id == node) {
                // What this node's proxy saw of its clients.
                if self.config.sources.proxies {
                    clients.measured(now, prefix, Source::Proxy, rtt);
                }
                continue;
            }
            let shared = roster.rings.iter().rposition(|ring| ring.members.contains(&node));
            // At level 0 everybody is a neighbour, which says nothing.
            let Some(shared) = shared.filter(|shared| *shared > 0 && self.config.sources.hints) else { continue };
            // Not nearer than the innermost level we share with it.
            let least = self.config.thresholds.get(shared).copied().unwrap_or_default();
            clients.measured(now, prefix, Source::Neighbour, rtt.max(least));
        }
        let near = near.filter(|_| self.config.sources.hints);
        let near = clients.prefer_living(now, prefix, near, |near| roster.lives(near));
        clients.asked(now, prefix, near);
        let placement = clients.placement(now, prefix, self.config.sources.hints);
        drop(clients);
        if placement.near.is_some_and(|near| near.level == self.zone().innermost()) {
            self.waiters().release(prefix);
        }
    }

    /// Whether the index is to be asked about a prefix (again).
    pub(crate) fn is_to_ask(&self, now: Instant, prefix: Prefix) -> bool {
        self.clients().is_to_ask(now, prefix)
    }

    /// Where a prefix is served, and why.
    pub(crate) fn explain(&self, now: Instant, prefix: Prefix) -> Explanation {
        let clients = self.clients();
        let placement = clients.placement(now, prefix, self.config.sources.hints);
        Explanation {
            prefix,
            level: placement.level,
            measured: clients.minima(now, prefix),
            near: placement.near.map(|near| (near.cluster, near.rtt)),
            nodes: placement.distances.iter().collect(),
            settled: placement.settled,
        }
    }

    /// The level a prefix is served at by this server's own distance, and that distance.
    pub(crate) fn own(&self, now: Instant, prefix: Prefix) -> (Level, Option<Duration>) {
        let clients = self.clients();
        let rtt = clients.rtt(now, prefix).map(|(rtt, _)| rtt);
        (rtt.map_or(Level::GLOBAL, |rtt| clients.level(rtt)), rtt)
    }

    /// Whose distance counts: the client's if its subnet came along, else the resolver's. Servers are for the resolver, whoever
    /// its clients are, and so is what leads to them (RFC 7871 7.2.1).
    pub(crate) fn asked_for(&self, now: Instant, query: &Query, resolver: IpAddr, place: &Place<'_>) -> AskedFor {
        let hints = self.config.sources.hints;
        let by_client = self.config.sources.client_subnet && !matches!(place, Place::Cut(_));
        let subnet = query.edns.and_then(|edns| edns.subnet).filter(|_| by_client);
        let subnet = subnet.and_then(|subnet| Some((subnet, self.believed(subnet)?)));
        let mut clients = self.clients();
        let (address, resolver) = (resolver, Prefix::of(resolver));
        clients.is_used(subnet.map_or(resolver, |(_, prefix)| prefix));
        let own = clients.placement(now, resolver, hints);
        let Some((subnet, prefix)) = subnet else {
            return AskedFor { prefix: resolver, address, placement: own, scope: 0, resolver };
        };
        let scope = unit(prefix);
        if subnet.prefix < scope {
            // Too wide for one place: it is answered as the resolver is, and what would be told apart is said (RFC 7871 7.2.1).
            return AskedFor { prefix: resolver, address, placement: own, scope, resolver };
        }
        let theirs = clients.placement(now, prefix, hints);
        // Nothing is known of them yet: they are answered as their resolver would be, for a moment.
        let unknown = Placement { rtt: None, settled: false, placed: false, ..own };
        let placement = if theirs.is_known() { theirs } else { unknown };
        AskedFor { prefix, address: first_host(prefix), placement, scope, resolver }
    }

    /// The prefix a client subnet begins with, if it is to be reckoned with: none that clients of a public resolver can be in, or the
    /// measuring would go into this server's own networks (RFC 7871 11).
    pub(crate) fn believed(&self, subnet: Subnet) -> Option<Prefix> {
        let address = subnet.address.filter(|_| subnet.prefix > 0)?;
        self.is_ours_to_measure(address).then(|| Prefix::of(address))
    }

    fn is_ours_to_measure(&self, address: IpAddr) -> bool {
        !is_private(address) || self.config.private_subnets.iter().any(|network| network.contains(address))
    }

    /// Whether a proxy that a pointer names may be looked for: in this server's own networks only if it is itself served there.
    pub(crate) fn may_dial(&self, address: IpAddr) -> bool {
        self.is_ours_to_measure(address) || self.config.listen.iter().any(|own| is_private(own.ip()))
    }

    /// Whether an address that another server names may be measured, and others asked to measure it. A datagram's sender can be forged,
    /// so inside this server's own networks only what its operator lists; and the loopback, where it is itself served there.
    pub(crate) fn may_scout(&self, address: IpAddr) -> bool {
        let is_served_there = || self.config.listen.iter().any(|own| own.ip().to_canonical().is_loopback());
        self.is_ours_to_measure(address) || (address.to_canonical().is_loopback() && is_served_there())
    }

    /// Has a prefix measured and others asked, if it is time. Says what to wait for, if this question is to wait: `waited` is how it
    /// has so far, none if it may not.
    pub(crate) fn find_out(&self, now: Instant, asked_for: &AskedFor, waited: Option<Waited>) -> Option<Patience> {
        let AskedFor { prefix, address, placement, resolver, .. } = asked_for;
        if placement.placed {
            return None;
        }
        // What this node's own proxy saw is there, too.
        let asks = self.config.sources.hints || self.config.sources.proxies;
        if asks && self.clients().is_to_ask(now, *prefix) {
            self.errand(Errand::Ask(*prefix));
        }
        let is_known = placement.level == self.zone().innermost() || placement.settled;
        let waits = waited.filter(|_| self.config.wait && !is_known);
        let most = waits.map(|waited| self.patience(placement, waited)).filter(|most| !most.is_zero());
        let (probes, is_first) = (self.config.probes(), waited.is_none_or(|waited| waited.times == 0));
        if placement.rtt.is_none() && probes && is_first {
            // Before anything is set going: it may be over at once.
            let patience = most.map(|most| Patience { known: self.waiters().wait(*prefix, Until::Measured), most });
            // A full queue means a flood: the question is answered as it is.
            let wished = self.probes().try_send(Probe { address: *address, search: true });
            return patience.filter(|_| wished.is_ok());
        }
        if placement.rtt.is_some() || !probes {
            self.send_scouts(now, Quest { address: *address, resolver: *resolver, first: true });
        }
        let scouts_are_out = || self.clients().is_scouted(*prefix);
        let most = most.filter(|_| scouts_are_out())?;
        let known = self.waiters().wait(*prefix, Until::Found);
        // They may have been heard in between.
        scouts_are_out().then_some(Patience { known, most })
    }

    /// How long a question may wait yet, so that its answer is back before the resolver asks again.
    fn patience(&self, placement: &Placement, waited: Waited) -> Duration {
        let Probes { wait, wait_scouts, answer_within, direct_within, .. } = self.config.probe;
        let within = if self.config.mode == Mode::Direct { direct_within } else { answer_within };
        let scouts = if self.config.probe.sends_scouts() { wait_scouts } else { Duration::ZERO };
        let was_measured = waited.times == 0 && (placement.rtt.is_some() || !self.config.probes());
        let most = if was_measured { scouts } else { wait + scouts };
        // Of one that is still being measured it is known that it is farther than this took.
        let on_time = placement.rtt.map_or(within / 2, |rtt| within.saturating_sub(rtt));
        most.min(on_time).saturating_sub(waited.time)
    }

    /// An address was probed, whatever came of it.
    pub(crate) fn probed(&self, address: IpAddr, search: bool) {
        let (now, prefix) = (Instant::now(), Prefix::of(address));
        let (own, _) = self.own(now, prefix);
        if search || own > Level::GLOBAL {
            self.send_scouts(now, Quest { address, resolver: prefix, first: search });
        }
        // Nobody need be waited for who could only be as near.
        if own < self.zone().innermost() && self.clients().is_scouted(prefix) {
            self.waiters().measured(prefix);
        } else {
            self.waiters().release(prefix);
        }
    }

    /// Neighbours that say how far they are from a prefix that is placed like this.
    pub(crate) fn asked_at<'r>(&self, roster: &'r Roster, placement: &Placement) -> &'r [Server] {
        roster.asked_at(placement.level, self.config.fellows())
    }

    /// Sends scouts if it is time.
    pub(crate) fn send_scouts(&self, now: Instant, quest: Quest) {
        // What is private to others is another machine to each, and they refuse it.
        if !self.may_scout(quest.address) {
            self.clients().is_private(Prefix::of(quest.address));
            return;
        }
        let (prefix, roster) = (Prefix::of(quest.address), self.roster());
        let lacks = |placement: &Placement| {
            placement.near.is_none() && placement.distances.lack(self.asked_at(&roster, placement))
        };
        if !self.config.probe.sends_scouts() || !self.clients().is_to_scout(now, prefix, lacks) {
            return;
        }
        if !self.errand(Errand::Search(quest)) {
            self.clients().scouts_stayed(prefix);
            self.waiters().release(prefix);
        }
    }

    /// The servers that a resolver is referred to.
    pub(crate) fn servers_of(&self, resolver: Prefix) -> Vec<NodeId> {
        let placement = self.clients().placement(Instant::now(), resolver, self.config.sources.hints);
        self.roster().servers_for(&placement, resolver).into_iter().map(|server| server.id).collect()
    }

    /// A scout said how far it is from a prefix; if it could not tell in time, it is too far to be near.
    pub(crate) fn scout_came(&self, prefix: Prefix, node: &NodeInfo, rtt: Option<Duration>) {
        let addresses = node.v4.iter().copied().map(IpAddr::V4).chain(node.v6.iter().copied().map(IpAddr::V6));
        let (now, mut clients) = (Instant::now(), self.clients());
        match rtt {
            Some(rtt) => clients.heard(now, prefix, addresses.map(|address| (address, rtt))),
            None => clients.not_heard(now, prefix, addresses, self.config.probe.wait + Duration::from_millis(1)),
        }
    }

    /// The nearest cluster that scouts found, if it is nearer than this server's, and how far they are.
    pub(crate) fn scouts_found(&self, prefix: Prefix, near: Option<Near>, scouts: Scouts) {
        let (now, roster) = (Instant::now(), self.roster());
        let mut clients = self.clients();
        let found = near.as_ref().is_some_and(|near| near.level == self.zone().innermost());
        let near = near.map(|near| (near, TOLD_FOR));
        let near = clients.prefer_living(now, prefix, near, |near| roster.lives(near));
        clients.scouted(now, prefix, near, scouts);
        drop(clients);
        if scouts > Scouts::Out {
            self.came_nearer(prefix);
        }
        if found || scouts > Scouts::Out {
            self.waiters().release(prefix);
        }
    }

    /// What the gap between a reply and the query that followed it says.
    pub(crate) fn learn(&self, now: Instant, resolver: Prefix, followed: Followed) {
        let (source, on) = match followed.sent {
            Sent::Alias(_) => (Source::CnameGap, self.config.sources.cname_gap),
            Sent::Referral(_) => (Source::ReferralGap, self.config.sources.referral_gap),
        };
        if on {
            self.measured(now, resolver, source, followed.gap);
        }
    }
}

fn addresses_of(roster: &Roster, node: NodeId) -> impl Iterator<Item = IpAddr> + use<> {
    let (v4, v6) = roster.addresses.get(&node).cloned().unwrap_or_default();
    v4.into_iter().map(IpAddr::V4).chain(v6.into_iter().map(IpAddr::V6))
}

/// The address that stands for a client's subnet when it is measured: its first, most often its router's. No client's own is
/// known here.
fn first_host(prefix: Prefix) -> IpAddr {
    match prefix.address() {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) | 1).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) | 1).into(),
    }
}

/// Bits by which prefixes are told apart: an answer's scope.
fn unit(prefix: Prefix) -> u8 {
    if prefix.address().is_ipv4() { 24 } else { 48 }
}

/// Whether an address is of the reader's own machine or network, or nobody's (RFC 6890). Networks set aside for documentation and
/// benchmarks are nobody's either, but no harm is in measuring there, and experiments use them.
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && b & 0xc0 == 64;
            a == 0 || a >= 224 || shared || v4.is_loopback() || v4.is_private() || v4.is_link_local()
        }
        // The loopback's and the unspecified one's /48 are of no use for anything else.
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            first == 0 || v6.is_multicast() || v6.is_unique_local() || first & 0xffc0 == 0xfe80
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use atoll_overlay::{Alone, Key, Roles};

    use super::*;
    use crate::{
        Config,
        roster::{Proxy, Ring},
    };

    pub(crate) const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 53));

    /// A node that is alone in its innermost cluster with another, and what it was told to do.
    pub(crate) fn redirector() -> (Redirector, tokio::sync::mpsc::Receiver<Errand>) {
        redirector_with(Config::default())
    }

    pub(crate) fn redirector_with(config: Config) -> (Redirector, tokio::sync::mpsc::Receiver<Errand>) {
        let me = NodeInfo::new(NodeId::from(Key::ZERO), Roles::DNSSRV.with(Roles::PROXY));
        let (redirector, _probes, errands) = Redirector::new(config, Arc::new(Alone::new(me))).unwrap();
        let proxy = |last| Proxy { v4: Some([192, 0, 2, last].into()), v6: None, load: 0, weight: 100, port: 0 };
        let ring = || Ring {
            cluster: Key::ZERO,
            members: BTreeSet::new(),
            live: vec![proxy(1), proxy(2)],
            unseen: Vec::new(),
            servers: Vec::new(),
        };
        let me = Server { id: NodeId::from(Key::ZERO), v4: Some([192, 0, 2, 1].into()), v6: None, cluster: None };
        redirector.set_roster(Roster { me: Some(me), rings: vec![ring(), ring(), ring()], ..Roster::default() });
        (redirector, errands)
    }

    #[test]
    fn an_answer_that_waits_is_back_before_its_resolver_asks_again_and_nobody_waits_for_nothing() {
        let me = NodeInfo::new(NodeId::from(Key::ZERO), Roles::DNSSRV);
        let config = Config { wait: true, ..Config::default() };
        let (redirector, _probes, _errands) = Redirector::new(config, Arc::new(Alone::new(me))).unwrap();
        let (now, prefix, ms) = (Instant::now(), Prefix::of(RESOLVER), Duration::from_millis);
        let placed = || redirector.clients().placement(now, prefix, true);
        let first = Waited::default();
        let second = |time| Waited { times: 1, time: ms(time) };
        // 350 ms in all: of a stranger it is known how long he has been measured, of others how long the answer takes.
        assert_eq!(
            [first, second(60), second(175)].map(|waited| redirector.patience(&placed(), waited)),
            [175, 115, 0].map(ms)
        );
        let stranger = AskedFor { prefix, address: RESOLVER, placement: placed(), scope: 0, resolver: prefix };
        let patience = redirector.find_out(now, &stranger, Some(first)).expect("a probe was wished for");
        assert_eq!((patience.most, redirector.waiters().count()), (ms(175), 1));
        redirector.measured(now, prefix, Source::TcpConnect, ms(120));
        assert_eq!([second(120), second(300)].map(|waited| redirector.patience(&placed(), waited)), [110, 0].map(ms));
        let measured = AskedFor { placement: placed(), ..stranger };
        assert!(redirector.find_out(now, &measured, Some(second(120))).is_some(), "scouts were sent");
        redirector.probed(RESOLVER, true);
        redirector.scouts_found(prefix, None, Scouts::Back);
        drop(patience);
        let settled = AskedFor { placement: placed(), ..measured };
        assert!(settled.placement.settled && redirector.find_out(now, &settled, Some(first)).is_none());
        assert_eq!(redirector.waiters().count(), 0, "all who waited were told, and nobody came");
    }

    #[test]
    fn in_mode_direct_a_stranger_waits_until_a_server_can_have_said_that_it_is_near_however_far_both_are() {
        let me = NodeInfo::new(NodeId::from(Key::ZERO), Roles::DNSSRV);
        let ms = Duration::from_millis;
        for rtt in [70, 120, 175, 230].map(ms) {
            let config = Config { mode: Mode::Direct, wait: true, ..Config::default() };
            let wait = config.probe.wait;
            let (redirector, ..) = Redirector::new(config, Arc::new(Alone::new(me.clone()))).unwrap();
            let (now, prefix) = (Instant::now(), Prefix::of(RESOLVER));
            let placed = || redirector.clients().placement(now, prefix, true);
            assert!(redirector.patience(&placed(), Waited::default()) >= rtt, "{rtt:?}: until it is measured");
            redirector.measured(now, prefix, Source::TcpConnect, rtt);
            let left = redirector.patience(&placed(), Waited { times: 1, time: rtt });
            // A server as far as this, 20 ms from the resolver, was asked when the question came; it measures, and its neighbours do.
            assert!(left >= ms(20) + wait + crate::telling::LOOKS_ON, "{rtt:?}: {left:?} are left for its word");
            assert!(rtt * 2 + left < ms(800), "{rtt:?}: the answer is back before it is asked for again");
        }
    }

    #[test]
    fn a_nearer_cluster_whose_proxies_are_dead_gives_way_to_a_wider_one_that_lives() {
        let (redirector, _errands) = redirector();
        let (now, prefix, hour) = (Instant::now(), Prefix::of(RESOLVER), Duration::from_secs(3600));
        let near = |level, last| Near {
            level: Level(level),
            rtt: Duration::from_millis(4),
            cluster: Key::from_bytes([last; 20]),
            servers: vec![Server { id: Key::from_bytes([last; 20]).into(), v4: None, v6: None, cluster: None }],
            proxies: vec![Proxy { v4: Some([192, 0, 2, last].into()), v6: None, load: 0, weight: 100, port: 80 }],
            epoch: 1,
        };
        let die = |dead: &[u8]| {
            let dead = dead.iter().map(|last| IpAddr::from([192, 0, 2, *last])).collect();
            redirector.set_roster(Roster { dead, ..Roster::clone(&redirector.roster()) });
        };
        let level = |at, heard| {
            let at = now + Duration::from_secs(at);
            redirector.asked(at, prefix, Some((heard, hour)), Vec::new());
            redirector.clients().placement(at, prefix, true).level.0
        };
        assert_eq!([level(0, near(2, 70)), level(60, near(1, 80))], [2, 2], "the get did not hear of it, no more");
        die(&[70]);
        let earlier = Near { epoch: 0, proxies: near(1, 80).proxies, ..near(1, 70) };
        assert_eq!(level(60, earlier), 2, "not even where it lives");
        assert_eq!([level(61, near(1, 80)), level(62, near(2, 70))], [1, 1]);
        die(&[70, 80]);
        assert_eq!(level(63, near(2, 70)), 2, "neither is better");
        die(&[70]);
        redirector.scouts_found(prefix, Some(near(1, 80)), Scouts::Back);
        assert_eq!(redirector.clients().placement(now, prefix, true).level.0, 1);
        die(&[]);
        assert_eq!(level(64, near(2, 70)), 2);
    }

    #[test]
    fn what_a_neighbour_saw_is_not_taken_for_this_servers_own_distance() {
        let (redirector, _errands) = redirector();
        let (now, prefix) = (Instant::now(), Prefix::of(RESOLVER));
        let me = redirector.roster().me.clone().and_then(|me| me.addresses().next()).unwrap();
        redirector.clients().measured(now, prefix, Source::Neighbour, Duration::from_millis(17));
        assert_eq!(redirector.clients().rtt_from_here(now, prefix), None);
        redirector.measured(now, prefix, Source::TcpConnect, Duration::from_millis(29));
        let placement = redirector.clients().placement(now, prefix, true);
        assert_eq!(placement.rtt, Some(Duration::from_millis(17)), "some node of the cluster is as near");
        assert_eq!(placement.distances.get(me), Some(Duration::from_millis(29)), "but not this one");
    }

    /// What a server says of a prefix that is near its cluster of a level.
    pub(crate) fn word(level: u8, last: u8, rtt: u64) -> Near {
        let address = [192, 0, 2, last].into();
        Near {
            level: Level(level),
            rtt: Duration::from_millis(rtt),
            cluster: Key::from_bytes([last; 20]),
            servers: vec![Server {
                id: Key::from_bytes([last; 20]).into(),
                v4: Some(address),
                v6: None,
                cluster: None,
            }],
            proxies: vec![Proxy { v4: Some(address), v6: None, load: 0, weight: 100, port: 80 }],
            epoch: 1,
        }
    }

    #[test]
    fn who_measured_a_prefix_as_a_scout_looks_who_is_near_it_before_it_says_that_nobody_is() {
        let (redirector, mut errands) = redirector_with(Config { wait: true, ..Config::default() });
        let (now, prefix) = (Instant::now(), Prefix::of(RESOLVER));
        redirector.measured(now, prefix, Source::TcpConnect, Duration::from_millis(106));
        redirector.asked(now + Duration::from_secs(2), prefix, None, Vec::new());
        let at = now + Duration::from_secs(300);
        let placement = || redirector.clients().placement(at, prefix, true);
        assert_eq!(
            (placement().level, placement().settled),
            (Level::GLOBAL, false),
            "nor keeps it so for whom it is not to wait"
        );
        let asked_for = AskedFor { prefix, address: RESOLVER, placement: placement(), scope: 0, resolver: prefix };
        assert!(redirector.find_out(at, &asked_for, Some(Waited::default())).is_some(), "it waits");
        let sent: Vec<Errand> = std::iter::from_fn(|| errands.try_recv().ok()).collect();
        assert!(sent.iter().any(|errand| matches!(errand, Errand::Search(_))), "{sent:?}");
        assert!(!placement().settled, "while they are out");
        redirector.scouts_found(prefix, Some(word(2, 80, 17)), Scouts::Out);
        assert_eq!((placement().level, placement().settled), (Level(2), true));
    }
}
