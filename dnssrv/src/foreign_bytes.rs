//! Foreign bytes: what holds for the reply to any query whatever, found by fuzzing, and the options a query may carry.

use std::{
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_overlay::{Alone, Key, NodeId, NodeInfo, Prefix, Roles};
use atoll_sys::heap::used;
use hickory_proto::{op::Message, rr::RData};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    Config, RateLimit, Source, Transport, redirector::Redirector, respond::Outcome, search::Scouts, waiters::Waited,
};

/// A redirector without a network, alone but for one proxy it has seen.
pub(crate) fn redirector() -> Redirector {
    redirector_with(Config::default())
}

fn redirector_with(config: Config) -> Redirector {
    let me = lone_node();
    let rate_limit = RateLimit { per_second: 0, ..RateLimit::default() };
    let unlimited = Config { rate_limit, ..config };
    let (redirector, ..) = Redirector::new(unlimited, Arc::new(Alone::new(me.clone()))).expect("defaults are good");
    let mut watch = crate::live::Watch::new(redirector.config.health.clone(), 3, [192, 0, 2, 1].into(), None);
    watch.look(&redirector);
    redirector.set_roster(watch.roster(Instant::now()));
    redirector
}

/// A node of both roles.
pub(crate) fn lone_node() -> NodeInfo {
    NodeInfo {
        v4: vec![[192, 0, 2, 1].into()],
        http_ports: vec![80],
        ..NodeInfo::new(NodeId::from(Key::ZERO), Roles::PROXY.with(Roles::DNSSRV))
    }
}

fn from() -> SocketAddr {
    ([203, 0, 113, 53], 5353).into()
}

fn respond(redirector: &Redirector, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
    match redirector.respond(Instant::now(), bytes, from(), transport, Some(Waited::default())) {
        Outcome::Reply(reply) => Some(reply),
        Outcome::Silence => None,
        Outcome::Wait(_) => panic!("waiting is off"),
    }
}

/// What holds for the reply to any bytes at all.
fn check(redirector: &Redirector, bytes: &[u8]) {
    for transport in [Transport::Udp, Transport::Tcp] {
        let Some(reply) = respond(redirector, bytes, transport) else {
            assert!(bytes.len() < 12 || bytes[2] & 0x80 != 0, "only what is no query is left unanswered");
            continue;
        };
        assert_eq!((&reply[..2], reply[2] & 0x80), (&bytes[..2], 0x80), "the same id, and a reply");
        assert!(transport == Transport::Tcp || reply.len() <= 1232);
        let message = Message::from_vec(&reply).expect("a reply is well formed");
        assert!(!message.metadata.recursion_available);
        let question = reply.len().min(12 + message.queries.first().map_or(0, |query| query.name.len() + 4));
        assert_eq!(reply.get(12..question), bytes.get(12..question), "the question byte for byte");
    }
}

#[test]
fn any_bytes_are_answered_by_a_well_formed_reply_or_by_silence() {
    let redirector = AssertUnwindSafe(redirector());
    bolero::check!().for_each(|bytes| check(&redirector, bytes));
}

#[test]
fn any_name_and_type_under_the_zone_is_answered() {
    let redirector = AssertUnwindSafe(redirector());
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), crate::ZoneKey::generate().unwrap()).unwrap();
    let dnssec = crate::Dnssec { key: Some(key.path().to_owned()), ..crate::Dnssec::default() };
    let signed = AssertUnwindSafe(redirector_with(Config { dnssec, mode: crate::Mode::Direct, ..Config::default() }));
    bolero::check!().with_type::<(Vec<(u8, u8)>, u16, bool)>().for_each(|(labels, kind, minimised)| {
        // Labels the zone knows come up far oftener than chance would have them.
        let words: [&[u8]; 12] =
            [b"l0", b"l1", b"l2", b"http", b"ns", b"com", b"8080", b"www", b"*", b"a-b", b"eo7uvoilv2uwg", b"\0"];
        let mut bytes = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for (word, twist) in labels.iter().take(if *minimised { 5 } else { 20 }) {
            let word = words[usize::from(*word) % words.len()];
            bytes.push(u8::try_from(word.len()).unwrap());
            bytes.extend(word.iter().map(|byte| if twist % 7 == 0 { byte.to_ascii_uppercase() } else { *byte }));
        }
        bytes.extend(b"\x04nyud\x07example\0");
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        check(&redirector, &bytes);
        // The same for who wants signatures.
        bytes[11] = 1;
        bytes.extend([0, 0, 41, 4, 0xd0, 0, 0, if *minimised { 0xc0 } else { 0x80 }, 0, 0, 0]);
        check(&signed, &bytes);
    });
}

#[test]
fn any_edns_options_are_answered() {
    let redirector = AssertUnwindSafe(redirector());
    bolero::check!().with_type::<(Vec<u8>, u8, u16, u8, [u8; 2])>().for_each(
        |(data, code, payload, version, flags)| {
            let mut bytes = b"\0\x01\0\0\0\x01\0\0\0\0\0\x01\x02l0\x04nyud\x07example\0\0\x01\0\x01\0\0\x29".to_vec();
            bytes.extend(payload.to_be_bytes());
            bytes.extend([0, version & 1, flags[0], flags[1]]);
            let length = u16::try_from(data.len()).unwrap();
            bytes.extend((length + 4).to_be_bytes());
            bytes.extend([0, code % 16]);
            bytes.extend(length.to_be_bytes());
            bytes.extend(data);
            check(&redirector, &bytes);
        },
    );
}

#[test]
fn a_client_subnet_goes_ahead_of_the_resolver_and_comes_back_with_its_scope() {
    let redirector = redirector();
    let mut roster = crate::roster::Roster::clone(&redirector.roster());
    roster.rings.iter_mut().for_each(|ring| ring.live = ring.unseen.clone());
    roster.doubtful.clear();
    redirector.set_roster(roster);
    let client = Prefix::of([198, 51, 100, 7].into());
    let ask = |prefix: u8, octets: &[u8]| {
        let mut bytes =
            b"\0\x01\0\0\0\x01\0\0\0\0\0\x01\x0dabmfoek5zmb2c\x04http\x02l2\x02l1\x02l0\x04nyud\x07example\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0"
                .to_vec();
        let option = [&[0, 1, prefix, 0], octets].concat();
        bytes.extend(u16::try_from(option.len() + 4).unwrap().to_be_bytes());
        bytes.extend([0, 8]);
        bytes.extend(u16::try_from(option.len()).unwrap().to_be_bytes());
        bytes.extend(option);
        let reply = respond(&redirector, &bytes, Transport::Udp).unwrap();
        let ttl = Message::from_vec(&reply).unwrap().answers[0].ttl;
        (ttl, reply[reply.len() - octets.len() - 1])
    };
    let (unknown, known) = ((5, 24), (30, 24));
    assert_eq!(ask(24, &[198, 51, 100]), unknown);
    redirector.measured(Instant::now(), client, Source::TcpConnect, Duration::from_millis(1));
    redirector.scouts_found(client, None, Scouts::Back);
    assert_eq!(ask(24, &[198, 51, 100]), known);
    assert_eq!(ask(32, &[198, 51, 100, 7]), known);
    assert_eq!(ask(16, &[198, 51]), unknown, "wider than what is told apart, which is said");
    assert_eq!(ask(24, &[198, 51, 101]), unknown, "another prefix");
    let before = redirector.kept();
    for private in
        [[10, 0, 0], [127, 0, 0], [169, 254, 169], [172, 31, 0], [192, 168, 7], [100, 64, 0], [224, 0, 0], [0, 0, 0]]
    {
        assert_eq!(ask(24, &private), (5, 0), "{private:?}: as if it had not come");
    }
    assert_eq!(redirector.kept(), before, "nothing is measured or asked there");
}

#[test]
fn d07_a_private_client_subnet_counts_where_the_operator_says_so() {
    let listed = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let redirector = redirector_with(Config { private_subnets: listed, ..Config::default() });
    let believed = |text: &str| {
        let address: std::net::IpAddr = text.parse().unwrap();
        let family = if address.is_ipv4() { 1 } else { 2 };
        redirector.believed(crate::question::Subnet { family, address: Some(address), prefix: 32 }).is_some()
    };
    for (text, expected) in [
        ("10.1.2.0", true),
        ("192.168.0.0", false),
        ("198.18.0.0", true),
        ("192.0.2.0", true),
        ("fd00::", true),
        ("fe80::", false),
        ("::1", false),
        ("::ffff:127.0.0.1", false),
        ("ff02::", false),
        ("2001:db8::", true),
    ] {
        assert_eq!(believed(text), expected, "{text}");
    }
}

#[test]
fn what_a_neighbour_measured_counts_at_the_levels_shared_with_it() {
    let redirector = redirector();
    let node = |number| NodeId::from(Key::from_bytes([number; 20]));
    let mut roster = crate::roster::Roster::clone(&redirector.roster());
    for (ring, number) in roster.rings.iter_mut().zip([1, 2, 3]) {
        ring.members = (number..=3).map(node).collect();
    }
    redirector.set_roster(roster);
    let now = Instant::now();
    let level = |third: u8, number, millis| {
        let prefix = Prefix::of([198, 51, third, 1].into());
        redirector.asked(now, prefix, None, vec![(node(number), Duration::from_millis(millis))]);
        redirector.explain(now, prefix).level.0
    };
    // Node 3 is in all our clusters, 2 in level 1, 1 in level 0 only; 9 is a stranger.
    assert_eq!((level(1, 3, 5), level(2, 3, 30), level(3, 3, 90)), (2, 1, 0));
    assert_eq!((level(4, 2, 5), level(5, 1, 5), level(6, 9, 5)), (1, 0, 0));
}

#[test]
fn d09_random_names_leave_nothing_behind() {
    for mode in [crate::Mode::Levels, crate::Mode::Direct] {
        let redirector = redirector_with(Config { mode, ..Config::default() });
        let ask = |number: u32| {
            let mut bytes = vec![0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            bytes.extend(format!("\x08{number:08x}\x03com\x04nyud\x07example\0").bytes());
            bytes.extend([0, 1, 0, 1]);
            let reply = respond(&redirector, &bytes, Transport::Udp).expect("a reply");
            assert_eq!((reply[3] & 15, reply[7] > 0), (0, true), "{number:08x}");
        };
        // As many as the gaps of one resolver are remembered by.
        (0..64).for_each(ask);
        let (before, held) = (redirector.kept(), used());
        let names = if std::env::var_os("ATOLL_TEST_LONG").is_some() { 1_000_000 } else { 20_000 };
        (64..names).for_each(ask);
        assert_eq!(redirector.kept(), before, "{mode:?}");
        assert_eq!(used().since(held).bytes, 0, "{mode:?}: whatever was asked for was given back");
    }
}

/// What keeps the answer to a cold prefix quick: nothing is waited for.
#[test]
fn a_prefix_nobody_knows_is_answered_while_its_measurement_is_still_to_begin() {
    for mode in [crate::Mode::Levels, crate::Mode::Direct] {
        let config = Config { mode, wait: false, ..Config::default() };
        let (redirector, mut probes, mut errands) =
            Redirector::new(config, Arc::new(Alone::new(lone_node()))).expect("defaults are good");
        let mut watch = crate::live::Watch::new(redirector.config.health.clone(), 3, [192, 0, 2, 1].into(), None);
        watch.look(&redirector);
        redirector.set_roster(watch.roster(Instant::now()));
        for third in 0..100 {
            let from = SocketAddr::from(([203, 0, third, 53], 5353));
            let mut bytes = vec![0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            bytes.extend(b"\x03www\x07example\x03com\x04nyud\x07example\0\0\x01\0\x01");
            let outcome = redirector.respond(Instant::now(), &bytes, from, Transport::Udp, Some(Waited::default()));
            assert!(matches!(outcome, Outcome::Reply(reply) if reply[7] > 0), "{mode:?}: answered at once");
            // Both wishes are where they were left: nobody has taken them up.
            assert_eq!(probes.try_recv().expect("a probe is wished for").address, from.ip());
            assert!(errands.try_recv().is_ok(), "the index is to be asked");
        }
    }
}

#[test]
fn d12_an_earlier_picture_never_takes_the_place_of_a_later_one() {
    let redirector = redirector();
    let picture = |epoch| crate::roster::Roster { epoch, ..crate::roster::Roster::default() };
    redirector.set_roster(picture(7));
    redirector.set_roster(picture(6));
    assert_eq!(redirector.roster().epoch, 7);
    redirector.set_roster(picture(8));
    assert_eq!(redirector.roster().epoch, 8);
}

/// Resolvers and checkers compare serials: what the network does between two questions is no change of the zone's records.
#[test]
fn d12_the_serial_is_the_operators_wherever_it_stands_and_nothing_that_happens_moves_it() {
    let redirector = redirector_with(Config { serial: 2_026_112_201, ..Config::default() });
    let mut now = Instant::now();
    let mut serials = |redirector: &Redirector| {
        now += Duration::from_secs(3600);
        // The SOA itself, no such name, no such record, and both of a cut.
        let questions: [(&[u8], u16); 5] =
            [(b"", 6), (b"\x01x\x02ns", 1), (b"\x03com", 6), (b"\x02l0", 6), (b"\x02l0", 16)];
        questions.map(|(labels, kind)| {
            let header = &[0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..];
            let bytes = [header, labels, b"\x04nyud\x07example\0", &kind.to_be_bytes(), &[0, 1]].concat();
            let Outcome::Reply(reply) = redirector.respond(now, &bytes, from(), Transport::Udp, None) else {
                panic!("{labels:?} has no reply");
            };
            let message = Message::from_vec(&reply).unwrap();
            let soa = message.answers.iter().chain(&message.authorities).find_map(|record| match &record.data {
                RData::SOA(soa) => Some(soa.serial),
                _ => None,
            });
            soa.unwrap_or_else(|| panic!("{labels:?} has no SOA: {message:?}"))
        })
    };
    assert_eq!(serials(&redirector), [2_026_112_201; 5]);
    redirector.measured(Instant::now(), Prefix::of(from().ip()), Source::TcpConnect, Duration::from_millis(1));
    redirector.set_roster(crate::roster::Roster { epoch: 9, ..crate::roster::Roster::clone(&redirector.roster()) });
    assert_eq!(serials(&redirector), [2_026_112_201; 5]);
}

/// Cookies carry the time. It runs on with this process, whatever becomes of the system's clock: each stays good for its hour.
#[test]
fn d12_a_step_of_the_systems_clock_makes_no_cookie_too_old_or_too_young() {
    let redirector = redirector();
    let start = Instant::now();
    let ask = |after: u64, cookie: &[u8]| {
        let mut bytes = b"\0\x07\0\0\0\x01\0\0\0\0\0\x01\x04nyud\x07example\0\0\x06\0\x01".to_vec();
        let length = u8::try_from(cookie.len()).unwrap();
        bytes.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, length + 4, 0, 10, 0, length]);
        bytes.extend(cookie);
        let Outcome::Reply(reply) =
            redirector.respond(start + Duration::from_secs(after), &bytes, from(), Transport::Udp, None)
        else {
            panic!("no reply");
        };
        // The option ends the reply: 8 bytes of the client's, 16 of ours, the time in the second four of these.
        let ours: [u8; 16] = reply[reply.len() - 16..].try_into().unwrap();
        (ours, u32::from_be_bytes(ours[4..8].try_into().unwrap()))
    };
    let (_, first) = ask(0, &[1; 8]);
    // The test's clock is the process's alone: the system's has not moved by an hour meanwhile.
    assert_eq!(ask(3_600, &[1; 8]).1, first + 3_600);
    assert_eq!(ask(7_200, &[1; 8]).1, first + 7_200);
}

/// Names come whole or not at all: the longest question there can be has a target of a few labels, a hash of all of it.
#[test]
fn d14_the_longest_name_there_can_be_leads_to_a_target_of_its_own_and_nothing_is_cut() {
    let redirector = redirector();
    let target = |last: u8| {
        // 14 bytes of zone and three of the largest labels, and a fourth that fills the name up to 255 bytes.
        let mut bytes = vec![0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for length in [63_u8, 63, 63, 48] {
            bytes.push(length);
            bytes.extend([b'a'].repeat(usize::from(length)));
        }
        let end = bytes.len() - 1;
        bytes[end] = last;
        bytes.extend(b"\x04nyud\x07example\0");
        assert_eq!(bytes.len() - 12, 255);
        bytes.extend([0, 1, 0, 1]);
        let message = Message::from_vec(&respond(&redirector, &bytes, Transport::Udp).unwrap()).unwrap();
        assert!(!message.metadata.truncation);
        match message.answers.first().map(|record| record.data.clone()) {
            Some(RData::CNAME(target)) => target.0.to_ascii(),
            other => panic!("{other:?}"),
        }
    };
    let (one, other) = (target(b'a'), target(b'b'));
    assert!(one.ends_with(".http.l2.l1.l0.nyud.example.") && one.len() < 50, "{one}");
    assert_ne!(one, other, "its last byte counts");
}

#[test]
fn settings_out_of_range_are_named() {
    let refused = |change: fn(&mut Config)| {
        let mut config = Config::default();
        change(&mut config);
        let index = redirector().index;
        Redirector::new(config, index).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(refused(|config| config.thresholds.reverse()).starts_with("dnssrv.thresholds: "));
    assert!(refused(|config| config.answers = 5).starts_with("dnssrv.answers: "));
    assert!(refused(|config| config.limits.udp_payload = 100).starts_with("dnssrv.limits.udp_payload: "));
    assert!(refused(|config| config.health.up = 9).starts_with("dnssrv.health: "));
    assert!(refused(|config| config.zone = ".".to_owned()).starts_with("dnssrv.zone: "));
    assert!(refused(|config| config.listen.clear()).starts_with("dnssrv.listen: "));
    assert!(refused(|config| config.zone = vec!["a".repeat(60); 4].join(".")).starts_with("dnssrv.zone: "));
}

/// A million packets, each a good one with a few bytes changed, cut or put in, through both paths as a socket's thread does it.
#[test]
fn a_million_mutated_packets_are_answered_or_left_without_a_panic() {
    let redirector = Arc::new(redirector());
    let mut roster = crate::roster::Roster::clone(&redirector.roster());
    roster.rings.iter_mut().for_each(|ring| ring.live = ring.unseen.clone());
    redirector.set_roster(roster);
    redirector.measured(Instant::now(), Prefix::of(from().ip()), Source::TcpConnect, Duration::from_millis(1));
    redirector.scouts_found(Prefix::of(from().ip()), None, Scouts::Back);
    let mut hot = crate::hot::Hot::new(Arc::clone(&redirector));
    let name = b"\x0deo7uvoilv2uwg\x04http\x02l2\x02l1\x02l0\x04nyud\x07example\0\0\x01\0\x01";
    let options = [&[0, 3, 0, 0][..], &[0, 8, 0, 7, 0, 1, 24, 0, 192, 0, 2], &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]];
    let seeds: Vec<Vec<u8>> = (0..4)
        .map(|count| {
            let options = options[..count].concat();
            let mut bytes = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
            bytes.extend(name);
            bytes.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, u8::try_from(options.len()).unwrap()]);
            bytes.extend(options);
            bytes
        })
        .collect();
    let mut rng = StdRng::seed_from_u64(8);
    let (mut reply, mut bytes, mut fast, mut silent) = (Vec::new(), Vec::new(), 0, 0);
    let mut now = Instant::now();
    for round in 0..1_000_000 {
        // A clock read for each would take longer than the rest.
        if round % 64 == 0 {
            now = Instant::now();
        }
        bytes.clone_from(&seeds[round % seeds.len()]);
        for _ in 0..rng.random_range(0..4) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..6) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes.insert(at, rng.random()),
                2 => bytes[at] ^= 1 << rng.random_range(0..8),
                3 => bytes[at] = [0, 1, 63, 64, 0xc0, 0xff][rng.random_range(0..6)],
                4 => _ = bytes.remove(at.min(bytes.len() - 2)),
                _ => bytes[at] = rng.random(),
            }
            if bytes.len() < 3 {
                break;
            }
        }
        reply.clear();
        if hot.answer(now, &bytes, from(), &mut reply) == crate::hot::Hit::Done {
            fast += 1;
        } else if let Some(whole) = respond(&redirector, &bytes, Transport::Udp) {
            reply = whole;
        } else {
            silent += 1;
            continue;
        }
        assert!(reply.len() <= 1232 && reply[..2] == bytes[..2] && reply[2] & 0x80 != 0, "{bytes:02x?}");
    }
    assert!(fast > 10_000 && silent > 1_000, "{fast} on the fast path, {silent} left unanswered");
}
