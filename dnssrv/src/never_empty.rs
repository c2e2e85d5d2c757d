//! A law of the whole redirector: whoever asks whatever in whatever order, over either family, with or without a client subnet,
//! while RTTs and pointers come in: the full name of a site always has an address as long as a proxy is known, and is never
//! referred anywhere. An empty answer would be kept, and a client left with an alias that leads nowhere.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_overlay::{Alone, Key, Level, NodeId, NodeInfo, Prefix, Roles};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RecordType},
};
use proptest::prelude::*;

use crate::{
    Config, Mode, RateLimit, Source, Transport,
    near::Near,
    redirector::Redirector,
    respond::Outcome,
    roster::{Proxy, Ring, Roster, Server},
    search::Scouts,
};

/// Something that happens to a redirector.
#[derive(Debug, Clone)]
enum Event {
    /// A question of one of the names below, by one of the resolvers below.
    Question { name: usize, resolver: usize, kind: u16, subnet: bool },
    /// An RTT in milliseconds was measured to a resolver.
    Measured { resolver: usize, source: u8, rtt: u64 },
    /// Scouts came back with a cluster of a level and one proxy, which may be dead, or dead over IPv4.
    Scouted { resolver: usize, level: u8, number: u8 },
    /// Time went by, in milliseconds.
    Waited(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let question = (0..NAMES.len(), 0..4_usize, prop::sample::select(vec![1_u16, 28, 2, 65, 255]), any::<bool>())
        .prop_map(|(name, resolver, kind, subnet)| Event::Question { name, resolver, kind, subnet });
    let measured =
        (0..4_usize, 0..5_u8, 1..300_u64).prop_map(|(resolver, source, rtt)| Event::Measured { resolver, source, rtt });
    let scouted = (0..4_usize, 0..3_u8, prop::sample::select(vec![3, DEAD_V4, DEAD]))
        .prop_map(|(resolver, level, number)| Event::Scouted { resolver, level, number });
    let waited = (0..3_000_u64).prop_map(Event::Waited);
    prop::collection::vec(prop_oneof![8 => question, 2 => measured, 1 => scouted, 1 => waited], 1..40)
}

proptest! {
    #[test]
    fn a_full_name_has_an_address_whoever_asks_in_whatever_order(events in events(), direct in any::<bool>()) {
        let redirector = redirector(if direct { Mode::Direct } else { Mode::Levels });
        let mut now = Instant::now();
        for event in events {
            match event {
                Event::Waited(millis) => now += Duration::from_millis(millis),
                Event::Measured { resolver, source, rtt } => {
                    let source = [
                        Source::CnameGap, Source::ReferralGap, Source::TcpConnect, Source::Icmp, Source::Neighbour,
                    ][usize::from(source)];
                    redirector.measured(now, Prefix::of(RESOLVERS[resolver]), source, Duration::from_millis(rtt));
                }
                Event::Scouted { resolver, level, number } => {
                    let near = (level > 0).then(|| near(level, number));
                    redirector.scouts_found(Prefix::of(RESOLVERS[resolver]), near, Scouts::Back);
                }
                Event::Question { name, resolver, kind, subnet } => {
                    let reply = ask(&redirector, now, NAMES[name], RESOLVERS[resolver], kind, subnet);
                    let is_full = NAMES[name].contains("http") || (direct && NAMES[name].starts_with("www"));
                    prop_assert_ne!(reply.metadata.response_code, ResponseCode::NXDomain);
                    if is_full && matches!(kind, 1 | 28) && !subnet {
                        let said = redirector.chosen(now, &full(NAMES[name]), RESOLVERS[resolver]);
                        let named: Vec<IpAddr> = reply.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
                        let said: Vec<IpAddr> = said.into_iter().filter(|one| one.is_ipv4() == (kind == 1)).collect();
                        prop_assert_eq!(said, named, "what is explained is what is answered");
                    }
                    if is_full && matches!(kind, 1 | 28) {
                        let found = reply.answers.iter().filter(|record| record.data.ip_addr().is_some()).count();
                        prop_assert!(found > 0 && reply.metadata.authoritative, "{}: {reply:#?}", NAMES[name]);
                        let referred = reply.authorities.iter().any(|record| record.record_type() == RecordType::NS);
                        prop_assert!(!referred, "{reply:#?}");
                    }
                }
            }
        }
    }
}

/// Two resolvers of both families each.
const RESOLVERS: [IpAddr; 4] = [
    IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 53)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 53)),
    IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 53)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 53)),
];

/// Names under the zone: two sites, their targets, and what resolvers that minimise ask on the way.
const NAMES: [&str; 9] = [
    "www.example.com",
    "www.example.org",
    "eo7uvoilv2uwg.http.l2.l1.l0",
    "abmfoek5zmb2c.http.l2.l1.l0",
    "l2.l1.l0",
    "l1.l0",
    "l0",
    "com",
    "",
];

fn full(name: &str) -> Name {
    Name::from_ascii(format!("{name}.nyud.example.")).unwrap()
}

fn ask(redirector: &Redirector, now: Instant, name: &str, from: IpAddr, kind: u16, subnet: bool) -> Message {
    let mut bytes = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(subnet)];
    for label in name.split('.').filter(|label| !label.is_empty()).chain(["nyud", "example"]) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    if subnet {
        // 192.0.2.0/24.
        bytes.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 11, 0, 8, 0, 7, 0, 1, 24, 0, 192, 0, 2]);
    }
    match redirector.respond(now, &bytes, SocketAddr::new(from, 5353), Transport::Udp, None) {
        Outcome::Reply(reply) => Message::from_vec(&reply).expect("a reply is well formed"),
        other => panic!("{name}: {other:?}"),
    }
}

/// A redirector of a cluster of two, with two more proxies far away, all with both families.
fn redirector(mode: Mode) -> Redirector {
    let me = NodeInfo {
        v4: vec![[192, 0, 2, 1].into()],
        http_ports: vec![80],
        ..NodeInfo::new(NodeId::from(Key::ZERO), Roles::PROXY.with(Roles::DNSSRV))
    };
    let rate_limit = RateLimit { per_second: 0, ..RateLimit::default() };
    let config = Config { mode, rate_limit, ..Config::default() };
    let (redirector, ..) = Redirector::new(config, Arc::new(Alone::new(me))).expect("defaults are good");
    let ring = |numbers: &[u8]| Ring {
        cluster: Key::ZERO,
        members: numbers.iter().map(|number| server(*number).id).collect(),
        live: numbers.iter().map(|number| proxy(*number)).collect(),
        unseen: Vec::new(),
        servers: numbers.iter().filter(|number| **number > 1).map(|number| server(*number)).collect(),
    };
    redirector.set_roster(Roster {
        epoch: 1,
        me: Some(server(1)),
        rings: vec![ring(&[1, 2, 3, 4]), ring(&[1, 2]), ring(&[2])],
        dead: vec![[192, 0, 2, DEAD].into(), v6(DEAD).into(), [192, 0, 2, DEAD_V4].into()],
        absent: Vec::new(),
        ..Roster::default()
    });
    redirector
}

fn near(level: u8, number: u8) -> Near {
    let cluster = Key::from_bytes([7; 20]);
    Near {
        level: Level(level),
        rtt: Duration::from_millis(4),
        cluster,
        servers: vec![server(number)],
        proxies: vec![proxy(number)],
        epoch: 0,
    }
}

fn proxy(number: u8) -> Proxy {
    // The level-1 neighbour is seen over IPv6 only.
    let v4 = (number != 2).then(|| [192, 0, 2, number].into());
    Proxy { v4, v6: Some(v6(number)), load: 0, weight: 100, port: 0 }
}

fn server(number: u8) -> Server {
    let id = NodeId::from(Key::from_bytes([number; 20]));
    Server { id, v4: Some([192, 0, 2, number].into()), v6: Some(v6(number)), cluster: None }
}

fn v6(number: u8) -> std::net::Ipv6Addr {
    [0x2001, 0xdb8, 9, 0, 0, 0, 0, number.into()].into()
}

/// The number of a node that was found dead.
const DEAD: u8 = 9;
/// The number of one that was found dead over IPv4.
const DEAD_V4: u8 = 8;
