//! A signed zone before real validators: unbound, BIND, Knot Resolver and PowerDNS Recursor, which hold its DS as trust anchor, and
//! `delv`, which asks this server itself. What they find true, proven not to be, or not signed, is so; with another key nothing is.

use std::{net::SocketAddr, path::Path};

use atoll_dnssrv::{Config, Mode, Server, ZoneKey};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};

use crate::{
    differential::TEXT,
    real::{Kind, Real, Validator, ask, run},
    support::*,
};

const ZONE: &str = "nyud.example";
const ALL: [Validator; 4] = [Validator::Unbound, Validator::Bind, Validator::Knot, Validator::PowerDns];

struct Stage {
    server: Server,
    address: SocketAddr,
    key: ZoneKey,
    folder: tempfile::TempDir,
}

async fn stage(mode: Mode, change: impl FnOnce(&mut Config)) -> Stage {
    let folder = tempfile::tempdir().unwrap();
    let text = ZoneKey::generate().unwrap();
    std::fs::write(folder.path().join("key"), &text).unwrap();
    std::fs::write(folder.path().join("zone"), TEXT).unwrap();
    let (server, address) = alone(|config: &mut Config| {
        config.mode = mode;
        config.zone_file = Some(folder.path().join("zone"));
        config.dnssec.key = Some(folder.path().join("key"));
        change(config);
    })
    .await;
    Stage { server, address, key: ZoneKey::from_pem(&text).unwrap(), folder }
}

/// A question that wants signatures, and takes NXDOMAIN beside a proof if `compact`.
fn wanting(name: &str, kind: RecordType, compact: bool) -> Vec<u8> {
    let mut bytes = with_opt(query(name, kind), 0, 1232, &[]);
    let flags = bytes.len() - 4;
    bytes[flags] = if compact { 0xc0 } else { 0x80 };
    bytes
}

fn full(name: &str) -> String {
    if name == "@" { ZONE.to_owned() } else { format!("{name}.{ZONE}") }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Records of the type asked for, proven.
    Proven,
    /// No records, proven.
    Absent,
    /// The same, where NXDOMAIN may be told by those who know RFC 9824.
    Nobody,
    /// Records, proven not to be signed.
    Unsigned,
}

use Then::{Absent, Nobody, Proven, Unsigned};

const STATIC: &[(&str, u16, Then)] = &[
    ("@", 6, Proven),
    ("@", 2, Proven),
    ("@", 16, Proven),
    ("@", 48, Proven),
    ("toapex", 2, Proven),
    ("toapex", 6, Proven),
    ("www", 1, Proven),
    ("WwW", 28, Proven),
    ("www", 15, Absent),
    ("alias2", 1, Proven),
    ("dangling", 1, Nobody),
    ("toempty", 1, Absent),
    ("nobody.www", 1, Nobody),
    ("nobody", 28, Nobody),
    ("ent", 1, Absent),
    ("c.d.e", 16, Absent),
    ("x.wild", 1, Proven),
    ("a.b.wild", 16, Proven),
    ("a.b.wild", 28, Absent),
    ("*.wild", 1, Proven),
    ("x.deep.wild", 1, Nobody),
    ("x.walias", 1, Proven),
    ("x.wdangle", 1, Nobody),
    ("sub.*.star", 1, Proven),
    ("sub", 43, Absent),
    ("secure", 43, Proven),
    ("a.tree", 1, Proven),
    ("b.tree", 1, Proven),
    ("nobody.tree", 1, Nobody),
    ("x.w.tree", 16, Proven),
    ("_sip._tcp", 33, Proven),
    ("mx2", 15, Proven),
    ("odd", 65_280, Proven),
    ("www.sub", 1, Unsigned),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_validators_believe_a_signed_zone_of_plain_records() {
    let stage = stage(Mode::Plain, |_| {}).await;
    let (ds, address) = (stage.key.ds(ZONE).unwrap(), stage.address);
    let checked = tokio::task::spawn_blocking(move || {
        let below = "$ORIGIN sub.nyud.example.\n@ 60 SOA ns hostmaster 1 60 60 60 60\n@ 60 NS ns\nns 60 A 192.0.2.60\nwww 60 A 192.0.2.61\n";
        let sub = Real::start(Kind::Nsd, "sub.nyud.example", below);
        let zones = [(ZONE, address), ("sub.nyud.example", sub.address)];
        ALL.map(|kind| check(kind, &ds, &zones, STATIC))
    });
    let wrong: Vec<String> = checked.await.unwrap().into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    drop(stage.server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_validators_believe_public_names_of_a_signed_zone_in_direct_mode() {
    let stage = stage(Mode::Direct, |_| {}).await;
    let (ds, address) = (stage.key.ds(ZONE).unwrap(), stage.address);
    let questions: &[(&str, u16, Then)] = &[
        ("www.example.com", 1, Proven),
        ("www-example-com", 1, Proven),
        ("www.example.com.8080", 1, Proven),
        ("www.example.com", 28, Absent),
        ("www.example.com", 65, Absent),
        ("www.example.com", 16, Absent),
        ("com", 1, Absent),
        ("x.mail", 1, Nobody),
        ("a.b.wild", 1, Proven),
        ("l0", 43, Absent),
        ("@", 6, Proven),
    ];
    let checked = tokio::task::spawn_blocking(move || ALL.map(|kind| check(kind, &ds, &[(ZONE, address)], questions)));
    let wrong: Vec<String> = checked.await.unwrap().into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    drop(stage.server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_believes_a_zone_that_another_key_signs() {
    let stage = stage(Mode::Plain, |_| {}).await;
    let other = ZoneKey::from_pem(&ZoneKey::generate().unwrap()).unwrap();
    let (ds, address) = (other.ds(ZONE).unwrap(), stage.address);
    let codes = tokio::task::spawn_blocking(move || {
        ALL.map(|kind| {
            let resolver = Real::resolve(kind, &ds, &[(ZONE, address)]);
            // It asks again and again before it gives up on what it cannot believe.
            ask(resolver.address, &asking("www.nyud.example", 1), 3 * DEADLINE).map(|reply| reply[3] & 15)
        })
    });
    assert_eq!(codes.await.unwrap(), [Some(2); 4], "SERVFAIL");
    drop(stage.server);
}

fn asking(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = wanting(name, RecordType::from(kind), false);
    // RD.
    bytes[2] |= 1;
    bytes
}

fn check(kind: Validator, ds: &str, zones: &[(&str, SocketAddr)], questions: &[(&str, u16, Then)]) -> Vec<String> {
    let resolver = Real::resolve(kind, ds, zones);
    let mut wrong = Vec::new();
    // Knot Resolver asks a forwarder of the zone below for its DS, not the zone above, and there is none: no fault of either zone's.
    let answerable = |name: &str| kind != Validator::Knot || !matches!(name, "sub" | "www.sub");
    for (name, number, then) in questions.iter().filter(|(name, ..)| answerable(name)) {
        let reply = ask(resolver.address, &asking(&full(name), *number), DEADLINE).expect("the resolver answers");
        let message = Message::from_vec(&reply).unwrap();
        let has = message.answers.iter().any(|record| u16::from(record.record_type()) == *number);
        let (code, proven) = (message.metadata.response_code, message.metadata.authentic_data);
        let right = match then {
            Proven => code == ResponseCode::NoError && has && proven,
            Absent => code == ResponseCode::NoError && !has && proven,
            Nobody => matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) && !has && proven,
            Unsigned => code == ResponseCode::NoError && has && !proven,
        };
        if !right {
            wrong.push(format!("{kind:?} {name} {number}: {code} ad={proven} {:?}, not {then:?}", message.answers));
        }
    }
    if !wrong.is_empty() {
        wrong.push(resolver.log());
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delv_finds_every_kind_of_answer_valid() {
    let stage = stage(Mode::Plain, |_| {}).await;
    let dnskey = stage.key.dnskey(ZONE).unwrap();
    let key = dnskey.rsplit(' ').next().unwrap();
    let anchor = format!("trust-anchors {{ {ZONE}. static-key 257 3 13 \"{key}\"; }};\n");
    std::fs::write(stage.folder.path().join("anchor"), anchor).unwrap();
    let (folder, port) = (stage.folder.path().to_owned(), stage.address.port().to_string());
    let outputs = tokio::task::spawn_blocking(move || {
        let ask = |name: &str, kind: &str| delv(&folder, &port, name, kind);
        [
            ("www", "A"),
            ("a.b.wild", "TXT"),
            ("a.tree", "A"),
            ("www", "MX"),
            ("nobody.www", "A"),
            ("ent", "A"),
            ("sub", "DS"),
        ]
        .map(|(name, kind)| (name, ask(name, kind)))
    });
    for (name, output) in outputs.await.unwrap() {
        assert!(output.contains("fully validated"), "{name}: {output}");
    }
    drop(stage.server);
}

fn delv(folder: &Path, port: &str, name: &str, kind: &str) -> String {
    let root = format!("+root={ZONE}");
    run("delv", &["@127.0.0.1", "-p", port, "-a", "anchor", &root, &full(name), kind], folder)
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_denied_in_short_form_and_nxdomain_told_to_who_takes_it() {
    let stage = stage(Mode::Plain, |_| {}).await;
    for (compact, code, flags) in [(false, 0, 0x80), (true, 3, 0xc0)] {
        let reply = exchange(stage.address, &wanting("nobody.www.nyud.example", RecordType::A, compact)).await;
        assert_eq!((reply[3] & 15, reply[reply.len() - 4]), (code, flags));
        let message = message(&reply);
        let kinds: Vec<u16> = message.authorities.iter().map(|record| record.record_type().into()).collect();
        assert_eq!(kinds, [6, 47, 46, 46]);
        // \000 in front, RRSIG, NSEC and NXNAME.
        let next = [&[1, 0][..], b"\x06nobody\x03www\x04nyud\x07example\0", &[0, 17, 0, 0, 0, 0, 0, 3]].concat();
        assert!(reply.windows(next.len()).any(|window| window == next), "{reply:02x?}");
    }
    // Who wants no signatures is told in the old way.
    assert_eq!(exchange(stage.address, &query("nobody.www.nyud.example", RecordType::A)).await[3] & 15, 3);
    let meta = exchange(stage.address, &wanting("www.nyud.example", RecordType::from(128), false)).await;
    assert_eq!(meta[3] & 15, 1, "RFC 9824 3.5: NXNAME is no type to ask for");
    // By way of an alias the key is found, too, and never denied.
    let aliased = message(&exchange(stage.address, &wanting("toapex.nyud.example", RecordType::from(48), false)).await);
    let kinds: Vec<u16> = aliased.answers.iter().map(|record| record.record_type().into()).collect();
    assert_eq!((kinds, aliased.authorities.len()), (vec![5, 48, 46, 46], 0));
    for (kind, has) in [(47, 47), (46, 46), (48, 12)] {
        let name = if kind == 48 { "nyud.example" } else { "www.nyud.example" };
        let reply = message(&exchange(stage.address, &wanting(name, RecordType::from(kind), false)).await);
        assert!(!reply.answers.is_empty(), "type {kind}");
        assert!(u16::from(reply.answers[0].record_type()) == kind, "type {kind}, not {has}");
    }
}

#[tokio::test]
async fn the_proof_that_there_is_no_record_is_kept_no_longer_than_the_answer() {
    let stage = stage(Mode::Direct, |_| {}).await;
    let reply =
        message(&exchange(stage.address, &wanting("www.example.com.nyud.example", RecordType::AAAA, false)).await);
    let ttls: Vec<(u16, u32)> =
        reply.authorities.iter().map(|record| (record.record_type().into(), record.ttl)).collect();
    assert_eq!(ttls, [(6, 5), (47, 5), (46, 5), (46, 5)], "RFC 9077");
    // The zone file's SOA says 300 s.
    let reply = message(&exchange(stage.address, &wanting("www.nyud.example", RecordType::MX, false)).await);
    assert!(reply.authorities.iter().all(|record| record.ttl == 300), "{:?}", reply.authorities);
}

#[tokio::test]
async fn a_flood_of_names_that_do_not_exist_has_so_many_signatures_and_no_more() {
    let stage = stage(Mode::Plain, |config| {
        config.dnssec.per_second = 50;
        config.dnssec.signatures = 64;
    })
    .await;
    let mut refused = 0;
    for number in 0..400 {
        let reply =
            exchange(stage.address, &wanting(&format!("n{number}.www.nyud.example"), RecordType::A, false)).await;
        assert_eq!(reply[3] & 15, 0, "never an error");
        if reply[2] & 2 != 0 {
            refused += 1;
            assert_eq!(message(&reply).authorities.len(), 0, "what is cut is short");
        }
    }
    assert!(refused > 100, "{refused} of 400 were sent to TCP");
    // A connection cannot be forged: it has signatures of its own.
    let over_tcp = exchange_tcp(stage.address, &wanting("www.nyud.example", RecordType::A, false)).await;
    assert_eq!(
        (over_tcp[3] & 15, message(&over_tcp).answers.len()),
        (0, 3),
        "two addresses, and a signature over them"
    );
}
