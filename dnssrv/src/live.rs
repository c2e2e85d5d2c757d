//! Proxies this server has itself seen answer, lately: asked by `health_check.rs`, so many at a time; when again, and which of them
//! count as alive, is `targets.rs`'s. From these and from what the index says (who is there, who drains, whose quota is spent;
//! `candidate.rs`) it makes the [`Roster`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use atoll_overlay::{Key, Level, NodeInfo, NodesQuery, Roles};
use bytes::Bytes;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    candidate::{mute_of, server, share, targets},
    company::Company,
    config::Health,
    health_check::is_there,
    last_good::LastGood,
    redirector::Redirector,
    roster::{Proxy, Ring, Roster, Server},
    scout::VIEW,
    service::Secure,
    targets::{Targets, is_blind},
};

/// Watches proxies for as long as it is polled.
pub(crate) async fn run(redirector: Arc<Redirector>, mut watch: Watch) {
    let health = redirector.config.health.clone();
    let mut each = tokio::time::interval(health.refresh.max(Duration::from_millis(1)));
    each.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut checks: JoinSet<(SocketAddr, bool)> = JoinSet::new();
    loop {
        let looks = tokio::select! {
            _ = each.tick() => true,
            () = redirector.refresh.notified() => true,
            Some(done) = checks.join_next() => {
                // A check that panicked is ours to repair, and its target is asked again.
                let changed = done.is_ok_and(|(target, good)| watch.checked(Instant::now(), target, good));
                if changed {
                    redirector.set_roster(watch.roster(Instant::now()));
                }
                false
            }
        };
        if looks {
            watch.look(&redirector);
            redirector.set_roster(watch.roster(Instant::now()));
        }
        let now = Instant::now();
        while checks.len() < health.concurrent.max(1)
            && let Some(target) = watch.targets.next_due(now)
        {
            let limit = health.timeout;
            checks.spawn(async move { (target, matches!(timeout(limit, is_there(target)).await, Ok(Ok(true)))) });
        }
    }
}

/// What is known of proxies and servers.
pub(crate) struct Watch {
    health: Health,
    levels: u8,
    /// This server's address where the index knows none.
    fallback: IpAddr,
    targets: Targets,
    seen: Seen,
    last_good: LastGood,
    /// Of the last picture made.
    epoch: u64,
    company: Company,
}

/// What the index said last.
#[derive(Default)]
struct Seen {
    me: Option<Server>,
    rings: Vec<(Vec<NodeInfo>, Ring)>,
    roster: Roster,
    /// Whether these are all proxies and servers of the widest level: no more are known than are looked at.
    are_all: bool,
}

impl Watch {
    /// Nobody seen yet but those handed back from an earlier run.
    pub(crate) fn new(health: Health, levels: u8, fallback: IpAddr, saved: Option<&Bytes>) -> Self {
        let last_good = LastGood::new(Instant::now(), saved.map(AsRef::as_ref), levels, health.candidates);
        Self {
            health,
            levels,
            fallback,
            targets: Targets::default(),
            seen: Seen::default(),
            last_good,
            epoch: 0,
            company: Company::default(),
        }
    }

    /// Asks the index who is there.
    pub(crate) fn look(&mut self, redirector: &Redirector) {
        let index = redirector.index.as_ref();
        let me = index.me();
        let clusters = index.levels();
        let leaving = redirector.is_leaving() || me.draining;
        let query = |level, services| NodesQuery { level, count: self.health.candidates, target: None, services };
        let serves = |node: &NodeInfo| !node.draining && node.quota_left != Some(0);
        // A weight of 0 says that it wants none of the traffic; as a server of the zone it may be named all the same.
        let willing = |node: &NodeInfo| serves(node) && node.weight > 0;
        let others = |services, wanted: &dyn Fn(&NodeInfo) -> bool| {
            let nodes = index.nodes(&query(Level::GLOBAL, services));
            nodes.iter().any(|node| node.id != me.id && wanted(node))
        };
        // Whoever is alone stays, come what may: a zone without servers or proxies helps nobody.
        let stays = |node: &NodeInfo| if node.id == me.id { !leaving && willing(node) } else { willing(node) };
        let (last_proxy, last_server) = (!others(Roles::PROXY, &willing), !others(Roles::DNSSRV, &serves));
        let wall = SystemTime::now();
        let mut roster = Roster::default();
        let mut rings = Vec::new();
        let mut unwilling = Vec::new();
        let mut are_all = false;
        for level in (0..self.levels).map(Level) {
            let proxies = index.nodes(&query(level, Roles::PROXY));
            let servers = index.nodes(&query(level, Roles::DNSSRV));
            for node in proxies.iter().chain(&servers).chain([&me]) {
                roster.addresses.insert(node.id, (node.v4.clone(), node.v6.clone()));
            }
            for (node, secure) in proxies.iter().filter_map(|node| Some((node, Secure::of(node, wall)?))) {
                roster.secure.extend(targets(node).map(|target| (target.ip(), secure.clone())));
            }
            roster.mute.extend(mute_of(&proxies));
            if level == Level::GLOBAL {
                are_all = proxies.len().max(servers.len()) < self.health.candidates;
                // Those that may ask, or be asked, how far they are: the far ones, too.
                let all = index.nodes(&NodesQuery { count: VIEW, ..query(level, Roles::DNSSRV) });
                self.company.named(Instant::now(), all.iter().map(|node| node.id));
                roster.addresses.extend(all.into_iter().map(|node| (node.id, (node.v4, node.v6))));
            }
            let members = proxies.iter().chain(&servers).map(|node| node.id).collect();
            let servers = servers.iter().filter(|node| node.id != me.id && !node.draining).map(server).collect();
            let cluster = clusters.iter().find(|info| info.level == level).map_or(Key::ZERO, |info| info.cluster);
            let ring = Ring { cluster, members, servers, live: Vec::new(), unseen: Vec::new() };
            let named = |node: &NodeInfo| stays(node) || (last_proxy && node.id == me.id);
            let (proxies, gone): (Vec<_>, Vec<_>) = proxies.into_iter().partition(named);
            unwilling.extend(gone.iter().flat_map(targets).map(|target| target.ip()));
            rings.push((proxies, ring));
        }
        let myself = Some(self.myself(&me)).filter(|_| !leaving || last_server);
        let asked = || index.nodes(&query(Level::GLOBAL, Roles::DNSSRV)).into_iter().chain([me.clone()]);
        asked().flat_map(|node| targets(&node)).for_each(|target| {
            roster.mute.remove(&target.ip());
        });
        self.last_good.forget(&unwilling);
        // Pointers in the index may still name them.
        roster.dead.clone_from(&unwilling);
        roster.unwilling = unwilling;
        self.retarget(&rings, &redirector.foreign(Instant::now()));
        self.seen = Seen { me: myself, rings, roster, are_all };
    }

    /// A target was asked. Says whether it counts otherwise than before.
    fn checked(&mut self, now: Instant, target: SocketAddr, good: bool) -> bool {
        self.targets.checked(&self.health, now, target, good)
    }

    /// The picture answers are made from.
    pub(crate) fn roster(&mut self, now: Instant) -> Roster {
        let mut roster = self.seen.roster.clone();
        self.epoch += 1;
        roster.doubt = u8::try_from(self.health.doubt).unwrap_or(100);
        roster.epoch = self.epoch;
        roster.company = self.company.number();
        roster.me.clone_from(&self.seen.me);
        let answering = self.targets.answering();
        for (at, (nodes, ring)) in self.seen.rings.iter().enumerate() {
            let mut live: Vec<Proxy> = nodes.iter().filter_map(|node| self.proxy(node, Some(true))).collect();
            if self.is_panic(live.len(), nodes) {
                live = nodes.iter().filter_map(|node| self.proxy(node, None)).collect();
            }
            let unseen: Vec<Proxy> = nodes.iter().filter_map(|node| self.proxy(node, None)).collect();
            self.last_good.seen(now, at, &live);
            let (seen, known) = seen_of(&answering, unseen.iter().chain(self.last_good.of(at)));
            let is_cut = at == 0 && self.seen.are_all && self.health.doubt > 0;
            let is_cut = is_cut && (self.company.is_just_back(now) || self.is_one_missed(&unseen, &answering));
            roster.doubtful.push(roster.are_too_few(seen, known) || is_cut);
            roster.rings.push(Ring { live, unseen, ..ring.clone() });
        }
        roster.dead.extend(self.targets.dead());
        roster.absent = self.targets.absent(&self.health);
        roster.last_good = self.last_good.proxies();
        roster
    }

    /// Whether a proxy that was live lately answers and the index does not know it: it was cut off and has not found back yet, and
    /// may be nearer to many than those that are known. Not of nearer levels, whose clusters proxies leave.
    fn is_one_missed(&self, known: &[Proxy], answering: &BTreeSet<IpAddr>) -> bool {
        let known: BTreeSet<IpAddr> = known.iter().flat_map(Proxy::addresses).collect();
        let is_missed = |proxy: &Proxy| {
            let mut addresses = proxy.addresses();
            proxy.addresses().all(|one| !known.contains(&one)) && addresses.any(|one| answering.contains(&one))
        };
        self.last_good.of(0).any(is_missed)
    }

    /// Whether so few are live that this server's own sight is the likelier fault: then all are named again, for to send
    /// everybody to a few would be the end of those, too. None at all is the last good set's case.
    fn is_panic(&self, live: usize, nodes: &[NodeInfo]) -> bool {
        let asked = nodes
            .iter()
            .filter(|node| self.proxy(node, Some(true)).is_some() || self.proxy(node, Some(false)).is_some());
        live > 0 && is_blind(&self.health, live, asked.count())
    }

    /// Asks the proxies of this server's clusters, and those of others that answers name.
    fn retarget(&mut self, rings: &[(Vec<NodeInfo>, Ring)], foreign: &[SocketAddr]) {
        let own = rings.iter().flat_map(|(nodes, _)| nodes).flat_map(targets).collect();
        self.targets.set(Instant::now(), &own, foreign, self.health.candidates);
    }

    /// A node as a proxy, with those of its addresses that are in this state, or in any. None if it has none.
    fn proxy(&self, node: &NodeInfo, state: Option<bool>) -> Option<Proxy> {
        let is = |address: &SocketAddr| state.is_none() || self.targets.is_live(*address) == state;
        let port = targets(node).map(|target| target.port()).next().unwrap_or(0);
        let mut proxy = Proxy { v4: None, v6: None, load: node.load, weight: share(node), port };
        for address in targets(node).filter(is) {
            match address.ip() {
                IpAddr::V4(v4) => proxy.v4 = Some(v4),
                IpAddr::V6(v6) => proxy.v6 = Some(v6),
            }
        }
        (proxy.v4.is_some() || proxy.v6.is_some()).then_some(proxy)
    }

    fn myself(&self, me: &NodeInfo) -> Server {
        let mut myself = server(me);
        if myself.v4.is_none() && myself.v6.is_none() {
            match self.fallback {
                IpAddr::V4(v4) => myself.v4 = Some(v4).filter(|v4| !v4.is_unspecified()),
                IpAddr::V6(v6) => myself.v6 = Some(v6).filter(|v6| !v6.is_unspecified()),
            }
        }
        myself
    }
}

/// How many of these proxies are at addresses that answer, and how many they are. With those that were lately: the index forgets the
/// dead, and those that a cut parts from it.
fn seen_of<'p>(answering: &BTreeSet<IpAddr>, proxies: impl Iterator<Item = &'p Proxy>) -> (usize, usize) {
    // One may have been seen over either family alone, or over both: those first, so that these find them.
    let mut proxies: Vec<&Proxy> = proxies.collect();
    proxies.sort_by_key(|proxy| proxy.v4.is_none() || proxy.v6.is_none());
    let (mut numbers, mut answers) = (BTreeMap::new(), Vec::new());
    for proxy in proxies {
        let number = proxy.addresses().find_map(|one| numbers.get(&one).copied()).unwrap_or(answers.len());
        numbers.extend(proxy.addresses().map(|address| (address, number)));
        let good = proxy.addresses().any(|address| answering.contains(&address));
        match answers.get_mut(number) {
            Some(answers) => *answers |= good,
            None => answers.push(good),
        }
    }
    (answers.iter().filter(|answers| **answers).count(), answers.len())
}

#[cfg(test)]
mod tests {
    use atoll_overlay::NodeId;

    use super::*;

    fn node(last: u8) -> NodeInfo {
        NodeInfo {
            v4: vec![[127, 0, 0, last].into()],
            http_ports: vec![8080],
            ..NodeInfo::new(NodeId::from(Key::from_bytes([last; 20])), Roles::PROXY)
        }
    }

    fn watch() -> Watch {
        let mut watch = Watch::new(Health::default(), 3, [127, 0, 0, 1].into(), None);
        let ring = Ring {
            cluster: Key::ZERO,
            members: BTreeSet::new(),
            live: Vec::new(),
            unseen: Vec::new(),
            servers: Vec::new(),
        };
        let rings = vec![(vec![node(1), node(2)], ring)];
        watch.retarget(&rings, &[]);
        watch.seen.rings = rings;
        watch
    }

    #[test]
    fn the_last_good_set_outlives_its_proxies_and_a_restart() {
        let mut watch = watch();
        let address = |last| SocketAddr::from(([127, 0, 0, last], 8080));
        for good in [true, false, false] {
            watch.checked(Instant::now(), address(1), good);
            watch.roster(Instant::now());
        }
        let roster = watch.roster(Instant::now());
        assert!(roster.rings[0].live.is_empty());
        assert_eq!(roster.dead, [IpAddr::from([127, 0, 0, 1])]);
        let saved = crate::last_good::write(&roster.last_good);
        let again = Watch::new(Health::default(), 3, [127, 0, 0, 1].into(), Some(&saved)).roster(Instant::now());
        let addresses =
            |roster: &Roster| roster.last_good[0].iter().map(|proxy| (proxy.v4, proxy.v6)).collect::<Vec<_>>();
        assert_eq!(addresses(&again), addresses(&roster));
        assert_eq!(again.last_good[0][0].v4, Some([127, 0, 0, 1].into()));
    }

    #[test]
    fn one_that_the_index_forgot_counts_as_dead_while_pointers_may_name_it() {
        let mut watch = watch();
        let address = SocketAddr::from(([127, 0, 0, 1], 8080));
        watch.retarget(&[], &[]);
        watch.checked(Instant::now(), address, false);
        assert_eq!(watch.roster(Instant::now()).dead, [address.ip()]);
        watch.health.candidates = 1;
        watch.retarget(&[], &[]);
        assert_eq!(watch.targets.count(), 1, "no more of them than are looked at");
    }

    #[test]
    fn proxies_of_another_cluster_are_looked_at_while_answers_name_them() {
        let mut watch = watch();
        let foreign = SocketAddr::from(([127, 0, 9, 9], 8080));
        let (rings, now) = (watch.seen.rings.clone(), Instant::now());
        watch.retarget(&rings, &[foreign]);
        assert!(watch.roster(now).dead.is_empty(), "who was not asked yet is believed to be there");
        watch.checked(now, foreign, false);
        let roster = watch.roster(now);
        assert_eq!((&roster.dead[..], &roster.absent[..], roster.rings[0].live.len()), (&[][..], &[foreign][..], 0));
    }

    #[test]
    fn a_pointer_that_names_a_wrong_port_makes_no_node_dead_and_blindness_makes_nobody_absent() {
        let mut watch = watch();
        let (rings, now) = (watch.seen.rings.clone(), Instant::now());
        let own = SocketAddr::from(([127, 0, 0, 1], 8080));
        let wrong = SocketAddr::new(own.ip(), 1);
        watch.retarget(&rings, &[wrong]);
        watch.checked(now, own, true);
        watch.checked(now, wrong, false);
        let roster = watch.roster(now);
        assert_eq!((&roster.dead[..], &roster.absent[..]), (&[][..], &[wrong][..]));
        let far: Vec<SocketAddr> = (1..=6).map(|last| SocketAddr::from(([127, 0, 9, last], 8080))).collect();
        watch.retarget(&rings, &far);
        for target in &far {
            watch.checked(now, *target, false);
        }
        assert!(watch.roster(now).absent.is_empty(), "all at once: this server cannot see them");
    }

    #[test]
    fn when_nearly_all_seem_dead_health_is_ignored_and_when_some_come_back_it_counts_again() {
        let mut watch = watch();
        let nodes: Vec<NodeInfo> = (1..=10).map(node).collect();
        watch.seen.rings[0].0 = nodes.clone();
        let rings = watch.seen.rings.clone();
        watch.retarget(&rings, &[]);
        let now = Instant::now();
        let state = |watch: &mut Watch, last: u8, good| {
            for _ in 0..3 {
                watch.checked(now, SocketAddr::from(([127, 0, 0, last], 8080)), good);
            }
        };
        (1..=10).for_each(|last| state(&mut watch, last, last <= 2));
        assert_eq!(watch.roster(now).rings[0].live.len(), 2, "a fifth is not fewer than a fifth");
        state(&mut watch, 2, false);
        assert_eq!(watch.roster(now).rings[0].live.len(), 10);
        state(&mut watch, 1, false);
        assert!(watch.roster(now).rings[0].live.is_empty(), "none: the last good set");
        (1..=4).for_each(|last| state(&mut watch, last, true));
        assert_eq!(watch.roster(now).rings[0].live.len(), 4);
    }

    #[test]
    fn a_level_whose_proxies_mostly_stopped_answering_is_doubted_even_if_the_index_forgot_them() {
        let mut watch = watch();
        watch.health.doubt = 50;
        let nodes: Vec<NodeInfo> = (1..=6).map(node).collect();
        watch.seen.rings[0].0 = nodes.clone();
        let rings = watch.seen.rings.clone();
        watch.retarget(&rings, &[]);
        let now = Instant::now();
        let answers = |watch: &mut Watch, all: std::ops::RangeInclusive<u8>, good| {
            for last in all {
                for _ in 0..3 {
                    watch.checked(now, SocketAddr::from(([127, 0, 0, last], 8080)), good);
                }
            }
        };
        answers(&mut watch, 1..=2, true);
        assert_eq!(watch.roster(now).doubtful, [true], "few are seen alive yet");
        answers(&mut watch, 3..=6, true);
        assert_eq!(watch.roster(now).doubtful, [false]);
        // A cut: the index knows two, the others do not answer any more.
        watch.seen.rings[0].0.truncate(2);
        let rings = watch.seen.rings.clone();
        watch.retarget(&rings, &[]);
        answers(&mut watch, 4..=6, false);
        assert_eq!(watch.roster(now).doubtful, [false], "half is not less than half");
        answers(&mut watch, 3..=3, false);
        let roster = watch.roster(now);
        assert_eq!((&roster.doubtful[..], roster.rings[0].live.len()), (&[true][..], 2));
        let later = now + Duration::from_secs(600);
        assert_eq!(watch.roster(later).doubtful, [false], "long dead, they are nobody's hope");
        watch.health.doubt = 0;
        assert_eq!(watch.roster(now).doubtful, [false], "switched off");
    }

    #[test]
    fn the_widest_level_is_doubted_while_the_index_misses_a_proxy_that_answers() {
        let mut watch = watch();
        let mut nodes: Vec<NodeInfo> = (1..=4).map(node).collect();
        for at in [0, 1] {
            let ring = watch.seen.rings[0].1.clone();
            watch.seen.rings.truncate(at);
            watch.seen.rings.push((nodes.clone(), ring));
        }
        watch.seen.rings.insert(0, watch.seen.rings[0].clone());
        watch.seen.rings.truncate(2);
        let rings = watch.seen.rings.clone();
        watch.seen.are_all = true;
        watch.retarget(&rings, &[]);
        let now = Instant::now();
        let all = |watch: &mut Watch, good| {
            for last in 1..=4 {
                watch.checked(now, SocketAddr::from(([127, 0, 0, last], 8080)), good);
            }
        };
        all(&mut watch, true);
        assert_eq!(watch.roster(now).doubtful, [false; 2]);
        // It is back before the index knows of it again.
        nodes.truncate(3);
        watch.seen.rings.iter_mut().for_each(|ring| ring.0.clone_from(&nodes));
        let rings = watch.seen.rings.clone();
        watch.retarget(&rings, &[]);
        assert_eq!(watch.roster(now).doubtful, [true, false], "who left a nearer cluster is not missed there");
        watch.seen.are_all = false;
        assert_eq!(watch.roster(now).doubtful, [false; 2], "more are known than are looked at");
        watch.seen.are_all = true;
        let gone = SocketAddr::from(([127, 0, 0, 4], 8080));
        let _ = [(); 3].map(|()| watch.checked(now, gone, false));
        assert_eq!(watch.roster(now).doubtful, [false; 2], "one that is gone is no longer missed");
        watch.company.named(now, [1, 2].map(|last| node(last).id).into_iter());
        assert_eq!(watch.roster(now).doubtful, [false; 2], "who is new was not cut off");
        let later = now + Duration::from_secs(60);
        watch.company.named(now + Duration::from_secs(1), [2].map(|last| node(last).id).into_iter());
        watch.company.named(later, [1].map(|last| node(last).id).into_iter());
        let roster = watch.roster(later);
        assert_eq!((&roster.doubtful[..], roster.company), (&[true, false][..], 2), "it was away");
    }

    #[test]
    fn a_proxy_of_two_families_is_one_whichever_of_them_it_was_seen_over() {
        let answering = BTreeSet::new();
        let proxy = |v4: Option<u8>, v6: Option<u16>| Proxy {
            v4: v4.map(|last| [127, 0, 0, last].into()),
            v6: v6.map(|last| [0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into()),
            load: 0,
            weight: 100,
            port: 8080,
        };
        for proxies in [
            [proxy(Some(1), None), proxy(None, Some(1)), proxy(Some(1), Some(1))],
            [proxy(None, Some(1)), proxy(Some(1), Some(1)), proxy(Some(1), None)],
        ] {
            assert_eq!(seen_of(&answering, proxies.iter()), (0, 1), "{proxies:?}");
        }
        assert_eq!(seen_of(&answering, [proxy(Some(1), Some(1)), proxy(Some(2), None)].iter()), (0, 2));
    }

    #[test]
    fn each_picture_has_a_later_epoch() {
        let mut watch = watch();
        let now = Instant::now();
        let epochs: Vec<u64> = (0..3).map(|_| watch.roster(now).epoch).collect();
        assert_eq!(epochs, [1, 2, 3]);
    }
}
