//! What checkers of delegations and of EDNS ask an authoritative server before they call a zone clean: RFC 8906 8 (DNS flag day's
//! questions), RFC 2181, RFC 1912 and RIPE-203 (delegation and SOA). A zone with two servers in each mode, every question over
//! UDP and TCP at both.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use atoll_dnssrv::{ApexServer, Mode, Server, StaticRecord, serve};
use atoll_overlay::Prefix;
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};

use crate::support::*;

const ZONE: &str = "nyud.example";

/// Two servers of one zone, with mail and a page of its own.
struct Pair {
    servers: [Server; 2],
    addresses: [SocketAddr; 2],
}

impl Pair {
    /// Each pair in a network of its own, both at one port. Without measuring, answers do not change with what becomes known.
    async fn start(mode: Mode, network: u8, measures: bool) -> Self {
        let places = [1, 2].map(|last| Ipv4Addr::new(127, 31, network, last));
        let nodes = [node(1, places[0], 1, 1), node(2, places[1], 1, 1)];
        let (all, pointers) = ([&nodes[0], &nodes[1]], Arc::default());
        let start = async |at: usize, port: u16| {
            let mut settings = config((places[at], port).into());
            settings.mode = mode;
            settings.sources.tcp_connect = measures;
            settings.sources.cname_gap = measures;
            settings.sources.referral_gap = measures;
            settings.nameservers = servers(&places);
            settings.records = plain_records();
            serve(settings, Fake::new(&nodes[at], &[&all, &all, &all], &pointers), None).await
        };
        for _ in 0..5 {
            let first = start(0, 0).await.expect("a free port");
            let port = first.local_addrs()[0].port();
            // Somebody else may have it at the second address.
            let Ok(second) = start(1, port).await else { continue };
            let addresses = places.map(|place| (place, port).into());
            return Self { servers: [first, second], addresses };
        }
        panic!("no port is free at both addresses");
    }

    /// What both servers say over both transports.
    async fn ask(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut replies = Vec::new();
        for address in self.addresses {
            replies.push(exchange(address, bytes).await);
            replies.push(exchange_tcp(address, bytes).await);
        }
        replies
    }

    /// The one answer that all give.
    async fn agree(&self, name: &str, kind: RecordType) -> Message {
        let replies = self.ask(&query(name, kind)).await;
        let messages: Vec<Message> = replies.iter().map(|reply| message(reply)).collect();
        for other in &messages[1..] {
            let records = |message: &Message| {
                let all = message.answers.iter().chain(&message.authorities).chain(&message.additionals);
                all.map(ToString::to_string).collect::<BTreeSet<_>>()
            };
            assert_eq!(records(&messages[0]), records(other), "{name} {kind}");
            assert_eq!(messages[0].metadata, other.metadata, "{name} {kind}");
        }
        messages[0].clone()
    }
}

fn servers(places: &[Ipv4Addr; 2]) -> Vec<ApexServer> {
    let server = |(number, place): (u16, &Ipv4Addr)| ApexServer {
        name: format!("ns{number}"),
        addresses: vec![IpAddr::V4(*place), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number).into()],
    };
    (1..).zip(places).map(server).collect()
}

fn plain_records() -> Vec<StaticRecord> {
    let record = |name: &str, kind: &str, data: &str| StaticRecord {
        name: name.to_owned(),
        kind: kind.to_owned(),
        data: data.to_owned(),
        ttl: std::time::Duration::from_secs(3600),
    };
    vec![
        record("@", "A", "192.0.2.80"),
        record("@", "MX", "10 mail.nyud.example."),
        record("@", "TXT", "\"v=spf1 mx -all\""),
        record("@", "CAA", "0 issue \"ca.example\""),
        record("mail", "A", "192.0.2.25"),
    ]
}

const MODES: [Mode; 3] = [Mode::Levels, Mode::Direct, Mode::Plain];

async fn pairs(test: u8) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for (at, mode) in (0..).zip(MODES) {
        pairs.push(Pair::start(mode, 10 * test + at, false).await);
    }
    pairs
}

/// A question for the zone's SOA with these two bytes of flags.
fn soa_with(flags: [u8; 2]) -> Vec<u8> {
    let mut bytes = query(ZONE, RecordType::SOA);
    bytes[2..4].copy_from_slice(&flags);
    bytes
}

/// The same with an OPT record of a version, flags and options.
fn soa_with_opt(version: u8, flags: u16, options: &[u8]) -> Vec<u8> {
    let mut bytes = with_opt(query(ZONE, RecordType::SOA), version, 1232, options);
    let at = bytes.len() - options.len() - 4;
    bytes[at..at + 2].copy_from_slice(&flags.to_be_bytes());
    bytes
}

const NSID: &[u8] = &[0, 3, 0, 0];
const EXPIRE: &[u8] = &[0, 9, 0, 0];
const NO_SUBNET: &[u8] = &[0, 8, 0, 4, 0, 1, 0, 0];
const COOKIE: &[u8] = &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
const PADDING: &[u8] = &[0, 12, 0, 2, 0, 0];
const UNKNOWN: &[u8] = &[0, 100, 0, 0];

#[tokio::test]
async fn plain_questions_of_rfc_8906_get_a_soa_with_no_flag_but_aa_and_rd() {
    for pair in pairs(0).await {
        for (what, flags, expected) in [
            ("nothing set", [0, 0], [0x84, 0]),
            ("RD", [1, 0], [0x85, 0]),
            ("AA and TC", [6, 0], [0x84, 0]),
            ("RA", [0, 0x80], [0x84, 0]),
            ("the reserved bit", [0, 0x40], [0x84, 0]),
            ("AD", [0, 0x20], [0x84, 0]),
            ("CD", [0, 0x10], [0x84, 0]),
            ("all", [7, 0xf0], [0x85, 0]),
        ] {
            for reply in pair.ask(&soa_with(flags)).await {
                assert_eq!(reply[2..4], expected, "{what}");
                let message = message(&reply);
                assert!(message.edns.is_none(), "{what}: no OPT for who sent none");
                assert_eq!(message.answers[0].record_type(), RecordType::SOA, "{what}");
            }
        }
        for kind in [RecordType::from(666), RecordType::from(1000), RecordType::from(65_535)] {
            let none = pair.agree(ZONE, kind).await;
            assert_eq!((none.metadata.response_code, none.answers.len()), (ResponseCode::NoError, 0), "{kind}");
            assert!(none.metadata.authoritative && none.authorities[0].record_type() == RecordType::SOA, "{kind}");
        }
    }
}

#[tokio::test]
async fn other_operations_of_rfc_8906_get_notimp_with_no_other_flag() {
    for pair in pairs(1).await {
        for opcode in 1..16_u8 {
            // A header alone, and with a question and all flags.
            let mut header = soa_with([opcode << 3, 0]);
            header.truncate(12);
            header[5] = 0;
            for bytes in [header, soa_with([opcode << 3 | 6, 0xf0])] {
                for reply in pair.ask(&bytes).await {
                    assert_eq!((&reply[2..4], reply.len()), (&[0x80 | opcode << 3, 4][..], 12), "opcode {opcode}");
                }
            }
        }
    }
}

#[tokio::test]
async fn every_edns_question_of_rfc_8906_gets_opt_version_0_and_none_of_what_is_unknown() {
    for pair in pairs(2).await {
        let all = [NSID, EXPIRE, NO_SUBNET, COOKIE, PADDING, UNKNOWN].concat();
        for (version, flags, options) in [
            (0, 0, &[][..]),
            (0, 0x8000, &[]),
            (0, 0x0040, &[]),
            (0, 0x7fff, &[]),
            (0, 0, UNKNOWN),
            (0, 0, NSID),
            (0, 0, EXPIRE),
            (0, 0, NO_SUBNET),
            (0, 0, COOKIE),
            (0, 0, PADDING),
            (0, 0x8000, &all),
            (1, 0, &[]),
            (1, 0x8000, &[]),
            (1, 0x0040, &[]),
            (1, 0, UNKNOWN),
            (255, 0xffff, &all),
        ] {
            let what = format!("version {version}, flags {flags:04x}, options {options:02x?}");
            for reply in pair.ask(&soa_with_opt(version, flags, options)).await {
                let message = message(&reply);
                let edns = message.edns.as_ref().expect("OPT in the reply");
                let bad = version != 0;
                // BADVERS is 16: nothing in the header, 1 in OPT.
                assert_eq!(
                    (reply[2..4].to_vec(), edns.rcode_high()),
                    (vec![if bad { 0x80 } else { 0x84 }, 0], u8::from(bad)),
                    "{what}"
                );
                assert_eq!(edns.version(), 0, "{what}");
                assert_eq!(message.answers.len(), usize::from(!bad), "{what}");
                let (dnssec_ok, others) = (edns.flags().dnssec_ok, edns.flags().z);
                assert_eq!((dnssec_ok, others), (flags & 0x8000 != 0, 0), "{what}: DO comes back, the others do not");
                let known: Vec<u16> = edns.options().as_ref().iter().map(|(code, _)| u16::from(*code)).collect();
                assert!(known.iter().all(|code| matches!(code, 8 | 10)), "{what}: {known:?}");
            }
        }
    }
}

#[tokio::test]
async fn both_servers_name_the_same_servers_with_the_same_addresses_and_a_soa_that_checkers_accept() {
    for pair in pairs(3).await {
        let set = pair.agree(ZONE, RecordType::NS).await;
        assert!(set.metadata.authoritative && set.authorities.is_empty());
        let names: Vec<Name> = set.answers.iter().filter_map(target).collect();
        assert_eq!(
            names.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["ns1.nyud.example.", "ns2.nyud.example."]
        );
        for name in &names {
            let glue: BTreeSet<IpAddr> =
                set.additionals.iter().filter(|record| record.name == *name).filter_map(|r| r.data.ip_addr()).collect();
            let mut own = BTreeSet::new();
            for kind in [RecordType::A, RecordType::AAAA] {
                let found = pair.agree(&name.to_ascii(), kind).await;
                assert!(found.metadata.authoritative, "{name} {kind}");
                own.extend(found.answers.iter().filter_map(|record| record.data.ip_addr()));
            }
            assert_eq!((glue.len(), &glue), (2, &own), "{name}: glue is what the zone says");
            let alias = pair.agree(&name.to_ascii(), RecordType::CNAME).await;
            assert!(alias.answers.is_empty() && alias.metadata.response_code == ResponseCode::NoError, "RFC 2181 10.3");
        }
        let found = pair.agree(ZONE, RecordType::SOA).await;
        let [Record { data: RData::SOA(soa), ttl, .. }] = found.answers.as_slice() else { panic!("{found:?}") };
        assert!(names.contains(&soa.mname), "the first of them is the primary");
        assert_eq!(soa.rname.to_string(), "hostmaster.nyud.example.");
        assert!(soa.serial > 0);
        assert!(soa.refresh >= 14_400 && soa.retry >= 3600 && soa.retry < soa.refresh, "{soa}");
        assert!(soa.expire >= 604_800 && soa.expire >= 7 * soa.refresh, "{soa}");
        assert!((300..=86_400).contains(&soa.minimum) && *ttl >= 300, "{soa}, TTL {ttl}");
    }
}

#[tokio::test]
async fn the_apex_answers_for_every_type_and_is_no_alias() {
    for pair in pairs(4).await {
        for (kind, count) in [
            (RecordType::A, 1),
            (RecordType::MX, 1),
            (RecordType::TXT, 1),
            (RecordType::CAA, 1),
            (RecordType::CNAME, 0),
            (RecordType::AAAA, 0),
            (RecordType::DS, 0),
            (RecordType::DNSKEY, 0),
            (RecordType::CDS, 0),
            (RecordType::CDNSKEY, 0),
            (RecordType::NSEC, 0),
            (RecordType::NSEC3PARAM, 0),
            (RecordType::HTTPS, 0),
            (RecordType::SRV, 0),
        ] {
            let found = pair.agree(ZONE, kind).await;
            assert_eq!((found.metadata.response_code, found.answers.len()), (ResponseCode::NoError, count), "{kind}");
            assert!(found.metadata.authoritative && !found.metadata.recursion_available, "{kind}");
            let denied: Vec<(String, RecordType)> =
                found.authorities.iter().map(|r| (r.name.to_string(), r.record_type())).collect();
            let soa = vec![("nyud.example.".to_owned(), RecordType::SOA)];
            assert_eq!(denied, if count == 0 { soa } else { Vec::new() }, "{kind}");
        }
        let mail = pair.agree(ZONE, RecordType::MX).await;
        assert_eq!(
            mail.additionals.iter().filter_map(|r| r.data.ip_addr()).collect::<Vec<_>>(),
            [Ipv4Addr::new(192, 0, 2, 25)]
        );
    }
}

#[tokio::test]
async fn a_name_in_any_case_has_the_same_records_and_comes_back_as_it_was_asked() {
    for pair in pairs(5).await {
        for (name, mixed) in [
            ("nyud.example", "NyUd.eXaMpLe"),
            ("ns1.nyud.example", "nS1.NYUD.example"),
            ("nobody.mail.nyud.example", "NoBoDy.MaIl.nYuD.example"),
            ("www.example.com.nyud.example", "wWw.ExAmPlE.cOm.NyUd.ExAmPlE"),
            ("com.nyud.example", "CoM.nyud.EXAMPLE"),
            ("l0.nyud.example", "L0.nyud.EXAMPLE"),
            ("eo7uvoilv2uwg.http.l2.l1.l0.nyud.example", "eO7UvOiLv2UwG.HtTp.L2.l1.L0.nyud.example"),
        ] {
            for kind in
                [RecordType::A, RecordType::AAAA, RecordType::NS, RecordType::SOA, RecordType::MX, RecordType::TXT]
            {
                if name.starts_with("l0") && matches!(kind, RecordType::A | RecordType::AAAA | RecordType::NS) {
                    // Whoever was referred there a moment ago is answered otherwise.
                    continue;
                }
                let replies = [pair.ask(&query(name, kind)).await, pair.ask(&query(mixed, kind)).await];
                for (plain, other) in replies[0].iter().zip(&replies[1]) {
                    let asked = query(mixed, kind);
                    assert_eq!(other[12..asked.len()], asked[12..], "{mixed} {kind}: the question as it came");
                    let records = |reply: &[u8]| {
                        let found = message(reply);
                        let all = found.answers.iter().chain(&found.authorities).map(|r| r.to_string().to_lowercase());
                        (found.metadata.response_code, found.metadata.authoritative, all.collect::<BTreeSet<_>>())
                    };
                    assert_eq!(records(plain), records(other), "{mixed} {kind}");
                }
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_resolved_transferred_or_referred_for_strangers() {
    for pair in pairs(6).await {
        for (name, kind) in [
            ("", RecordType::NS),
            ("", RecordType::SOA),
            ("localhost", RecordType::A),
            ("example", RecordType::NS),
            ("xn--nameservertest.example.org", RecordType::SOA),
            ("1.0.0.127.in-addr.arpa", RecordType::PTR),
        ] {
            let mut bytes = query(name, kind);
            bytes[2] |= 1;
            for reply in pair.ask(&bytes).await {
                let found = message(&reply);
                assert_eq!(found.metadata.response_code, ResponseCode::Refused, "{name} {kind}");
                assert!(!found.metadata.recursion_available && !found.metadata.authoritative, "{name} {kind}");
                assert_eq!(reply[6..12], [0; 6], "{name} {kind}: no record of any kind");
            }
        }
        for kind in [RecordType::AXFR, RecordType::IXFR] {
            for reply in pair.ask(&query(ZONE, kind)).await {
                assert_eq!((reply[3], &reply[6..12]), (5, &[0; 6][..]), "{kind}");
            }
        }
    }
}

#[tokio::test]
async fn a_cut_asked_at_its_own_servers_has_its_soa_its_servers_and_denials_of_its_own() {
    let pair = Pair::start(Mode::Levels, 200, true).await;
    // Whoever asks is near: all cuts are delegated.
    let address = pair.addresses[0];
    until("whoever asks is known to be near", async || {
        exchange(address, &query("l0.nyud.example", RecordType::SOA)).await;
        let known = pair.servers[0].explain(Prefix::of(Ipv4Addr::LOCALHOST.into()));
        known.settled && known.level.0 == 2
    })
    .await;
    for (cut, above) in [("l0", ""), ("l1.l0", "l0."), ("l2.l1.l0", "l1.l0.")] {
        let cut = format!("{cut}.nyud.example");
        let above = format!("{above}nyud.example.");
        let ask = async |kind: RecordType| message(&exchange(address, &query(&cut, kind)).await);
        let soa = ask(RecordType::SOA).await;
        assert!(soa.metadata.authoritative && soa.answers[0].record_type() == RecordType::SOA, "{soa:?}");
        // Who speaks EDNS may be on the way down and takes addresses from a referral only; who does not asks for these records.
        let down = message(&exchange(address, &with_opt(query(&cut, RecordType::NS), 0, 1232, &[])).await);
        assert!(!down.metadata.authoritative && down.answers.is_empty(), "{down:?}");
        let set = ask(RecordType::NS).await;
        assert!(set.metadata.authoritative, "{set:?}");
        assert_eq!(down.authorities.len(), set.answers.len());
        let names: Vec<Name> = set.answers.iter().filter_map(target).collect();
        assert!(names.len() == 2 && set.authorities.is_empty(), "{set:?}");
        for name in names {
            let glue: Vec<_> = set.additionals.iter().filter(|r| r.name == name).map(|r| r.data.clone()).collect();
            let own = message(&exchange(address, &query(&name.to_ascii(), RecordType::A)).await);
            assert!(own.metadata.authoritative, "{name}");
            assert_eq!(own.answers.iter().map(|r| r.data.clone()).collect::<Vec<_>>(), glue, "{name}");
        }
        let denied = ask(RecordType::MX).await;
        assert_eq!((denied.metadata.authoritative, denied.answers.len()), (true, 0));
        assert_eq!(denied.authorities[0].name.to_string(), format!("{cut}."), "the cut's own SOA");
        let ds = ask(RecordType::DS).await;
        assert_eq!((ds.metadata.authoritative, ds.authorities[0].name.to_string()), (true, above), "the parent's");
    }
}

fn target(record: &Record) -> Option<Name> {
    if let RData::NS(ns) = &record.data { Some(ns.0.clone()) } else { None }
}
