//! Proxies this server has itself seen answer, lately: asked by `health_check.rs`, k of n with hysteresis, jittered, so many at a
//! time. From these and from what the index says (who is there, who drains, whose quota is spent) it makes the [`Roster`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use atoll_overlay::{Key, Level, NodeInfo, NodesQuery, Roles};
use bytes::Bytes;
use rand::RngExt as _;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    company::Company,
    config::Health,
    health_check::is_there,
    last_good::LastGood,
    near::TOLD_FOR,
    redirector::Redirector,
    roster::{Proxy, Ring, Roster, Server},
    scout::VIEW,
    service::Secure,
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
            && let Some(target) = watch.next_due(now)
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
    targets: BTreeMap<SocketAddr, Target>,
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

/// One address of a proxy.
struct Target {
    /// The last answers, the latest in bit 0; how many there were.
    answers: u32,
    count: u32,
    live: Option<bool>,
    due: Instant,
    asking: bool,
    /// Of a node that the index knows or knew, which says itself where it is. Of others a pointer says so: what becomes of
    /// them counts for pointers alone.
    own: bool,
    /// When the index or a pointer last named it.
    known: Instant,
}

impl Watch {
    /// Nobody seen yet but those handed back from an earlier run.
    pub(crate) fn new(health: Health, levels: u8, fallback: IpAddr, saved: Option<&Bytes>) -> Self {
        let last_good = LastGood::new(Instant::now(), saved.map(AsRef::as_ref), levels, health.candidates);
        Self {
            health,
            levels,
            fallback,
            targets: BTreeMap::new(),
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
        let health = &self.health;
        let Some(target) = self.targets.get_mut(&target) else { return false };
        let before = target.live;
        target.asking = false;
        target.answers = target.answers << 1 | u32::from(good);
        target.count = (target.count + 1).min(health.of);
        let of = u32::MAX >> (32 - target.count.clamp(1, 32));
        let good_ones = (target.answers & of).count_ones();
        target.live = Some(match target.live {
            None => good,
            Some(false) => good_ones >= health.up,
            Some(true) => target.count - good_ones < health.down,
        });
        let pause = if good && target.live == Some(true) { health.interval } else { health.interval / 4 };
        target.due = now + pause.mul_f64(rand::rng().random_range(0.8..1.2));
        target.live != before
    }

    /// A target that is to be asked now; it counts as being asked.
    fn next_due(&mut self, now: Instant) -> Option<SocketAddr> {
        let (address, target) =
            self.targets.iter_mut().filter(|(_, t)| !t.asking && t.due <= now).min_by_key(|(_, t)| t.due)?;
        target.asking = true;
        Some(*address)
    }

    /// The picture answers are made from.
    pub(crate) fn roster(&mut self, now: Instant) -> Roster {
        let mut roster = self.seen.roster.clone();
        self.epoch += 1;
        roster.doubt = u8::try_from(self.health.doubt).unwrap_or(100);
        roster.epoch = self.epoch;
        roster.company = self.company.number();
        roster.me.clone_from(&self.seen.me);
        let answering = self.answering();
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
        let own = || self.targets.iter().filter(|(_, target)| target.own);
        let is_there = |ip: IpAddr| own().any(|(address, target)| address.ip() == ip && target.live != Some(false));
        let dead = own().filter(|(_, target)| target.live == Some(false)).map(|(address, _)| address.ip());
        roster.dead.extend(dead.filter(|ip| !is_there(*ip)));
        roster.absent = self.absent();
        roster.last_good = self.last_good.proxies();
        roster
    }

    /// The addresses that answer.
    fn answering(&self) -> BTreeSet<IpAddr> {
        let answering = self.targets.iter().filter(|(_, target)| target.live == Some(true));
        answering.map(|(address, _)| address.ip()).collect()
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
        live > 0 && self.is_blind(live, asked.count())
    }

    /// Whether fewer of those asked are live than can be believed.
    fn is_blind(&self, live: usize, asked: usize) -> bool {
        asked >= FEW && live * 100 < asked * usize::try_from(self.health.panic).unwrap_or(0)
    }

    /// Those known from pointers that do not answer. Where nearly none does, this server's own sight is the likelier fault.
    fn absent(&self) -> Vec<SocketAddr> {
        let of = |is_v4: bool| {
            let asked = self
                .targets
                .iter()
                .filter(move |(address, target)| !target.own && target.live.is_some() && address.is_ipv4() == is_v4);
            let gone: Vec<SocketAddr> =
                asked.clone().filter(|(_, target)| target.live == Some(false)).map(|(address, _)| *address).collect();
            let asked = asked.count();
            if self.is_blind(asked - gone.len(), asked) { Vec::new() } else { gone }
        };
        [of(true), of(false)].concat()
    }

    /// Asks the proxies of this server's clusters, and those of others that answers name.
    fn retarget(&mut self, rings: &[(Vec<NodeInfo>, Ring)], foreign: &[SocketAddr]) {
        let own: BTreeSet<SocketAddr> = rings.iter().flat_map(|(nodes, _)| nodes).flat_map(targets).collect();
        let now = Instant::now();
        for address in own.iter().chain(foreign) {
            let new = || Target { answers: 0, count: 0, live: None, due: now, asking: false, own: false, known: now };
            let target = self.targets.entry(*address).or_insert_with(new);
            target.own |= own.contains(address);
            target.known = now;
        }
        // Those the index forgot, most often because they died, are asked on while pointers may still speak of them.
        let mut gone: Vec<(Instant, SocketAddr)> =
            self.targets.iter().filter(|(_, t)| t.known < now && !t.asking).map(|(at, t)| (t.known, *at)).collect();
        gone.sort();
        let too_many = gone.len().saturating_sub(self.health.candidates);
        for (at, (known, address)) in gone.into_iter().enumerate() {
            if at < too_many || now.saturating_duration_since(known) >= TOLD_FOR {
                self.targets.remove(&address);
            }
        }
    }

    /// A node as a proxy, with those of its addresses that are in this state, or in any. None if it has none.
    fn proxy(&self, node: &NodeInfo, state: Option<bool>) -> Option<Proxy> {
        let now = |address: &SocketAddr| self.targets.get(address).and_then(|target| target.live);
        let is = |address: &SocketAddr| state.is_none() || now(address) == state;
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

/// Where a node's proxy is asked: its first address of each family, its cleartext port.
fn targets(node: &NodeInfo) -> impl Iterator<Item = SocketAddr> + use<> {
    let port = node.http_ports.first().copied().unwrap_or(80);
    let v4 = node.v4.first().copied().map(IpAddr::V4);
    let v6 = node.v6.first().copied().map(IpAddr::V6);
    v4.into_iter().chain(v6).map(move |address| SocketAddr::new(address, port))
}

/// The addresses of those of these proxies that are no servers of the zone.
fn mute_of(proxies: &[NodeInfo]) -> impl Iterator<Item = IpAddr> {
    let mute = proxies.iter().filter(|node| !node.roles.contain(Roles::DNSSRV));
    mute.flat_map(targets).map(|target| target.ip())
}

/// A proxy's share against others: what it wants, less the busier it is past half of what it can, and less as its quota runs out.
/// In eighths, so that small changes move no site from one proxy to another.
fn share(node: &NodeInfo) -> u16 {
    let calm = 8 - (u32::from(node.load.clamp(50, 100)) - 50) * 6 / 50;
    let left = node.quota_left.map_or(8, |left| u32::try_from(left / (LITTLE / 8)).unwrap_or(u32::MAX).clamp(1, 8));
    let share = u32::from(node.weight) * calm * left / 64;
    u16::try_from(share).unwrap_or(u16::MAX).max(u16::from(node.weight > 0))
}

fn server(node: &NodeInfo) -> Server {
    Server {
        id: node.id,
        v4: node.v4.first().copied(),
        v6: node.v6.first().copied(),
        cluster: node.clusters.first().copied(),
    }
}

/// Bytes of quota left below which a proxy is sent less. \[guess\]
const LITTLE: u64 = 8 << 30;
/// Proxies of a level from which on a share of them means anything. \[guess\]
const FEW: usize = 5;

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

    /// Feeds answers ("+" good, "-" bad) of the first node and writes down its state after each.
    fn check(answers: &str, states: &str) {
        let mut watch = watch();
        let target = SocketAddr::from(([127, 0, 0, 1], 8080));
        let mut seen = String::new();
        for answer in answers.chars() {
            watch.checked(Instant::now(), target, answer == '+');
            seen.push(if watch.targets[&target].live == Some(true) { '+' } else { '-' });
        }
        assert_eq!(seen, states, "after {answers}");
    }

    #[test]
    fn the_first_answer_decides_alone() {
        check("+", "+");
        check("-", "-");
    }

    #[test]
    fn one_bad_answer_kills_nobody_and_one_good_one_raises_nobody() {
        check("++-++-+", "+++++++");
        check("-+-", "---");
    }

    #[test]
    fn two_bad_of_three_kill_and_two_good_of_three_raise() {
        check("+--", "++-");
        check("+-+-", "+++-");
        check("+--++", "++--+");
    }

    #[test]
    fn a_dead_proxy_that_answers_again_is_asked_once_more_soon() {
        let (mut watch, now, soon) = (watch(), Instant::now(), Health::default().interval / 2);
        let target = SocketAddr::from(([127, 0, 0, 1], 8080));
        let mut due = |good| {
            watch.checked(now, target, good);
            (watch.targets[&target].live, watch.targets[&target].due < now + soon)
        };
        assert_eq!([due(false), due(true), due(true)], [(Some(false), true), (Some(false), true), (Some(true), false)]);
    }

    #[test]
    fn each_target_is_asked_once_at_a_time_the_longest_due_first() {
        let mut watch = watch();
        let now = Instant::now();
        let first = watch.next_due(now).unwrap();
        let second = watch.next_due(now).unwrap();
        assert_ne!(first, second);
        assert_eq!(watch.next_due(now), None);
        watch.checked(now, first, true);
        assert_eq!(watch.next_due(now), None, "not before its pause is over");
        assert_eq!(watch.next_due(now + Health::default().interval * 2), Some(first));
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
        assert_eq!(watch.targets.len(), 1, "no more of them than are looked at");
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
        let own = *watch.targets.keys().next().unwrap();
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
    fn a_busy_proxy_and_one_whose_quota_runs_out_have_a_smaller_share_but_never_none() {
        let of = |weight, load, quota_left| share(&NodeInfo { weight, load, quota_left, ..node(1) });
        assert_eq!([0, 50, 75, 100].map(|load| of(100, load, None)), [100, 100, 62, 25]);
        assert_eq!([LITTLE * 9, LITTLE, LITTLE / 2, 1].map(|left| of(100, 0, Some(left))), [100, 100, 50, 12]);
        assert_eq!((of(1, 100, Some(1)), of(0, 0, None)), (1, 0));
    }

    #[test]
    fn each_picture_has_a_later_epoch() {
        let mut watch = watch();
        let now = Instant::now();
        let epochs: Vec<u64> = (0..3).map(|_| watch.roster(now).epoch).collect();
        assert_eq!(epochs, [1, 2, 3]);
    }
}
