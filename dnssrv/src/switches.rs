//! Each source of round trips has a switch of its own: on it measures, off it does not, whatever else is on. Of those that act on the
//! network by themselves see `probe.rs` and `tests/sources.rs`.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_overlay::{Alone, Key, Level, NodeId, NodeInfo, Prefix, Roles};
use hickory_proto::rr::{Name, RecordType};
use tokio::sync::mpsc::Receiver;

use crate::{
    Config, RateLimit, Source, Sources, Transport,
    near::Near,
    question::Query,
    redirector::{Errand, Probe, Redirector},
    respond::Outcome,
    roster::{Proxy, Ring, Roster, Server},
    site::Site,
    zone::Place,
};

const RESOLVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 53));
const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));

/// A redirector whose only neighbour is at level 1, with what it wants done.
struct Stage {
    redirector: Redirector,
    probes: Receiver<Probe>,
    errands: Receiver<Errand>,
}

fn neighbour() -> NodeId {
    Key::from_bytes([9; 20]).into()
}

fn stage(config: Config) -> Stage {
    let me = NodeInfo::new(NodeId::from(Key::ZERO), Roles::DNSSRV.with(Roles::PROXY));
    let rate_limit = RateLimit { per_second: 0, ..RateLimit::default() };
    let config = Config { rate_limit, ..config };
    let (redirector, probes, errands) = Redirector::new(config, Arc::new(Alone::new(me))).unwrap();
    let ring = |members: &[NodeId]| Ring {
        cluster: Key::ZERO,
        members: members.iter().copied().collect::<BTreeSet<_>>(),
        live: vec![Proxy { v4: Some([192, 0, 2, 1].into()), v6: None, load: 0, weight: 100, port: 0 }],
        unseen: Vec::new(),
        servers: Vec::new(),
    };
    let me = Server { id: NodeId::from(Key::ZERO), v4: Some([192, 0, 2, 1].into()), v6: None, cluster: None };
    let rings = vec![ring(&[neighbour()]), ring(&[neighbour()]), ring(&[])];
    redirector.set_roster(Roster { me: Some(me), rings, ..Roster::default() });
    Stage { redirector, probes, errands }
}

impl Stage {
    fn of(sources: Sources) -> Self {
        stage(Config { sources, ..Config::default() })
    }

    fn ask(&self, at: Instant, name: &str, options: &[u8]) {
        let mut query = vec![1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        query.extend(
            name.split('.').flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat()),
        );
        query.extend([0, 0, 1, 0, 1, 0, 0, 41, 4, 0xd0, 0, 0, 0, 0]);
        query.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
        query.extend(options);
        let outcome = self.redirector.respond(at, &query, SocketAddr::new(RESOLVER, 5353), Transport::Udp, None);
        assert!(matches!(outcome, Outcome::Reply(_)), "{name}");
    }

    /// What measured a prefix.
    fn measured(&self, of: IpAddr) -> Vec<(Source, Duration)> {
        self.redirector.explain(Instant::now(), Prefix::of(of)).measured
    }
}

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

fn target() -> String {
    format!("{}.http.l2.l1.l0.nyud.example", Site::of("www.example.com", 80).label())
}

/// Whether a query that follows this one measures.
fn gap_after(first: &str, sources: Sources) -> Vec<(Source, Duration)> {
    let (stage, now) = (Stage::of(sources), Instant::now());
    stage.ask(now, first, &[]);
    stage.ask(now + 7 * MS, &target(), &[]);
    stage.measured(RESOLVER)
}

#[test]
fn the_gap_after_an_alias_measures_unless_switched_off() {
    let public = "www.example.com.nyud.example";
    assert_eq!(gap_after(public, Sources::default()), [(Source::CnameGap, 7 * MS)]);
    assert_eq!(gap_after(public, Sources { cname_gap: false, ..Sources::default() }), []);
    let other = Sources { referral_gap: false, ..Sources::default() };
    assert_eq!(gap_after(public, other), [(Source::CnameGap, 7 * MS)], "its own switch alone");
}

#[test]
fn the_gap_after_a_referral_measures_unless_switched_off() {
    let cut = "l0.nyud.example";
    assert_eq!(gap_after(cut, Sources::default()), [(Source::ReferralGap, 7 * MS)]);
    assert_eq!(gap_after(cut, Sources { referral_gap: false, ..Sources::default() }), []);
    let other = Sources { cname_gap: false, ..Sources::default() };
    assert_eq!(gap_after(cut, other), [(Source::ReferralGap, 7 * MS)], "its own switch alone");
}

#[test]
fn a_client_subnet_is_heeded_unless_switched_off() {
    for (on, expected) in [(true, (Prefix::of(CLIENT), 24)), (false, (Prefix::of(RESOLVER), 0))] {
        let stage = Stage::of(Sources { client_subnet: on, ..Sources::default() });
        let subnet = [0, 8, 0, 7, 0, 1, 24, 0, 198, 51, 100];
        let mut query = b"\x01\x02\0\0\0\x01\0\0\0\0\0\x01\x03www\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\x0b".to_vec();
        query.extend(subnet);
        let query = Query::parse(&query).unwrap();
        let place = Place::Target(Site::of("www.example.com", 80));
        let asked_for = stage.redirector.asked_for(Instant::now(), &query, RESOLVER, &place);
        assert_eq!((asked_for.prefix, asked_for.scope), expected, "on: {on}");
    }
}

#[test]
fn the_index_is_asked_for_what_proxies_and_other_servers_know_and_each_is_heeded_unless_switched_off() {
    for (proxies, hints) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut stage = Stage::of(Sources { proxies, hints, ..Sources::default() });
        let (now, prefix) = (Instant::now(), Prefix::of(RESOLVER));
        stage.ask(now, &target(), &[]);
        let asks = std::iter::from_fn(|| stage.errands.try_recv().ok()).any(|errand| matches!(errand, Errand::Ask(_)));
        assert_eq!(asks, proxies || hints, "proxies: {proxies}, hints: {hints}");
        let near = Near {
            level: Level(2),
            rtt: 3 * MS,
            cluster: Key::from_bytes([7; 20]),
            servers: Vec::new(),
            proxies: Vec::new(),
            epoch: 0,
        };
        let seen = vec![(NodeId::from(Key::ZERO), 70 * MS), (neighbour(), 80 * MS)];
        stage.redirector.asked(now, prefix, Some((near, HOUR)), seen);
        let mut expected = Vec::new();
        expected.extend(proxies.then_some((Source::Proxy, 70 * MS)));
        expected.extend(hints.then_some((Source::Neighbour, 80 * MS)));
        assert_eq!(stage.measured(RESOLVER), expected, "proxies: {proxies}, hints: {hints}");
        let handed = stage.redirector.explain(now, prefix).near;
        assert_eq!(handed.is_some(), hints, "a cluster that another server told of; proxies: {proxies}");
    }
}

#[test]
fn nobody_is_probed_and_no_scout_is_sent_at_a_rate_of_none() {
    for (per_second, sends) in [(100, true), (0, false)] {
        let config = Config::default();
        let probe = crate::Probes { per_second, ..config.probe.clone() };
        let mut stage = stage(Config { probe, ..config });
        let now = Instant::now();
        for _ in 0..3 {
            stage.ask(now, "www.example.com.nyud.example", &[]);
            stage.ask(now, &target(), &[]);
        }
        // Neither for one whose distance another source told, nor for another server.
        stage.redirector.measured(now, Prefix::of(RESOLVER), Source::CnameGap, 300 * MS);
        stage.ask(now, &target(), &[]);
        stage.redirector.probed(RESOLVER, true);
        let probes = std::iter::from_fn(|| stage.probes.try_recv().ok()).count();
        let scouts = std::iter::from_fn(|| stage.errands.try_recv().ok())
            .filter(|errand| matches!(errand, Errand::Search(_) | Errand::Ahead(_)))
            .count();
        assert_eq!((probes > 0, scouts > 0), (sends, sends), "{per_second} a second");
        let name = Name::from_ascii(target()).unwrap();
        assert!(!stage.redirector.chosen(now, &name, RESOLVER).is_empty(), "{}: it is answered", RecordType::A);
    }
}

#[test]
fn a_handshake_that_the_node_saw_measures_unless_switched_off() {
    for tcp_info in [true, false] {
        let Stage { redirector, .. } = Stage::of(Sources { tcp_info, ..Sources::default() });
        let redirector = Arc::new(redirector);
        crate::Guide::new(Arc::clone(&redirector)).handshake(CLIENT, 7 * MS);
        let measured = redirector.explain(Instant::now(), Prefix::of(CLIENT)).measured;
        assert_eq!(measured, tcp_info.then_some((Source::TcpInfo, 7 * MS)).into_iter().collect::<Vec<_>>());
    }
}
