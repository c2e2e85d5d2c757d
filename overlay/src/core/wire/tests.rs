//! The codec reads what it wrote, writes what it always wrote, and takes nothing over its caps.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::{
    Certificate, Key, Lease, Level, Marker, NodeId, NodeInfo, Roles,
    core::{
        Age,
        message::{
            Acquisition, Beaten, ClusterTag, Held, LeaseState, Pointer, Refusal, Reply, Request, Room, Seen,
            SpreadRecord, Verdict, Want,
        },
    },
};

/// Nodes are written as their four-byte handle; odd ones have no record, and none is read back from it.
struct Numbers;

impl Book for Numbers {
    fn record(&self, peer: Peer) -> Option<Bytes> {
        peer.0.is_multiple_of(2).then(|| Bytes::copy_from_slice(&peer.0.to_be_bytes()))
    }

    fn intern(&mut self, record: &[u8]) -> Option<Contact> {
        let number = u32::from_be_bytes(record.try_into().ok()?);
        number.is_multiple_of(2).then(|| contact(number))
    }
}

fn contact(number: u32) -> Contact {
    Contact { peer: Peer(number), id: NodeId::of("test", 0, &number.to_be_bytes()) }
}

fn key(byte: u8) -> Key {
    Key::from_bytes([byte; Key::BYTES])
}

fn pointer(number: u32) -> Pointer {
    let (clusters, value) = (vec![key(1), key(2)], Bytes::from_static(b"v"));
    Pointer { holder: contact(number), clusters, value, ttl: Duration::from_millis(1_500) }
}

fn info() -> NodeInfo {
    NodeInfo {
        id: Key::ZERO.into(),
        v4: vec!["192.0.2.1".parse().unwrap()],
        v6: vec!["2001:db8::1".parse().unwrap()],
        http_ports: vec![80, 8_080],
        roles: Roles::PROXY.with(Roles::DNSSRV),
        load: 7,
        weight: 100,
        quota_left: Some(1 << 40),
        draining: true,
        rtt: None,
        clusters: Vec::new(),
        site: "north".to_owned(),
        certificates: vec![Certificate { name: "*.nyud.example".to_owned(), expires: 1_800_000_000 }],
        version: "0.1.0".to_owned(),
    }
}

/// One body of every kind.
fn every_body() -> Vec<Body> {
    let lease = Lease { epoch: 2, counter: 3, key: key(9) };
    let leased = LeaseState::Leased { lease, holder: pointer(4) };
    let vary = Marker::Vary(vec!["accept".to_owned(), "accept-language".to_owned()]);
    let marked = LeaseState::Marked { marker: vary.clone(), ttl: Duration::from_secs(9) };
    let spread = SpreadRecord { signer: key(5).into(), record: Bytes::from_static(b"purge") };
    let (ttl, reference) = (Duration::from_secs(20), Bytes::from_static(b"ref"));
    let unreached = vec![NodeId::from(key(8))];
    let requests = [
        Request::Ping,
        Request::Neighbours { level: Level(2), nearest: true },
        Request::Step { level: Level(1), key: key(6), aim: key(7), want: Want::Nodes },
        Request::Step { level: Level(1), key: key(6), aim: key(7), want: Want::Values },
        Request::Step { level: Level(1), key: key(6), aim: key(7), want: Want::Room { ttl } },
        Request::Store { level: Level(0), key: key(6), value: reference.clone(), ttl },
        Request::Seek { level: Level(2), widest: Level(0), key: key(6), seeker: key(7).into(), hops: 24 },
        Request::Copy { level: Level(1), key: key(6), values: vec![pointer(2), pointer(4)] },
        Request::Withdraw { key: key(6) },
        Request::Acquire {
            key: key(6),
            reference: reference.clone(),
            ttl,
            failed: vec![key(1).into(), key(2).into()],
            unreached: unreached.clone(),
        },
        Request::Beat { lease, reference, ttl, unreached },
        Request::Pass { lease, marker: Marker::Pass(Duration::from_secs(30)) },
        Request::Pass { lease, marker: vary.clone() },
        Request::Hold { key: key(9), state: leased.clone() },
        Request::Hold { key: key(9), state: marked.clone() },
        Request::SpreadKeys { from: 100 },
        Request::SpreadGet { short: u64::MAX },
    ];
    let nodes = vec![contact(2), contact(4)];
    let room = Room { loaded: true, count: 4, soonest: ttl };
    let replies = [
        Reply::Pong,
        Reply::Wait,
        Reply::Nodes(nodes.clone()),
        Reply::Step { seen: Seen::Nothing, nodes: nodes.clone() },
        Reply::Step { seen: Seen::Values(vec![pointer(2), pointer(6)]), nodes: Vec::new() },
        Reply::Step { seen: Seen::Room(room), nodes: nodes.clone() },
        Reply::Sought { level: Level(1), values: vec![pointer(2)] },
        Reply::Stored(Verdict::Accepted),
        Reply::Stored(Verdict::Full),
        Reply::Done,
        Reply::Acquired(Acquisition::References(vec![pointer(2)])),
        Reply::Acquired(Acquisition::Granted(lease)),
        Reply::Acquired(Acquisition::Marked(vary)),
        Reply::Acquired(Acquisition::Elsewhere(nodes.clone())),
        Reply::Beaten(Beaten::Kept),
        Reply::Beaten(Beaten::Superseded(pointer(8))),
        Reply::Beaten(Beaten::Elsewhere(nodes)),
        Reply::Held(Held::Yes(Vec::new())),
        Reply::Held(Held::Yes(vec![pointer(2)])),
        Reply::Held(Held::Other(leased)),
        Reply::Held(Held::Other(marked)),
        Reply::SpreadKeys { shorts: vec![1, u64::MAX], more: true },
        Reply::Spread(spread.clone()),
        Reply::Refused(Refusal::Keys),
    ];
    let requests = requests.into_iter().map(|request| Body::Request { id: 300, request });
    let spent = Duration::from_micros(40);
    let replies = replies.into_iter().map(|reply| Body::Reply { id: 300, spent, reply });
    let hello = Body::Hello(Box::new(Hello { info: Arc::new(info()), spreads: 77 }));
    [hello, Body::Goodbye, Body::Spread(spread)].into_iter().chain(requests).chain(replies).collect()
}

fn with_header(body: Body) -> Message {
    let tag = ClusterTag { id: key(3), age: Age::of_seconds(60), size: 12 };
    Message { header: Arc::new(Header { clusters: vec![tag, tag].into(), ..Header::default() }), body }
}

#[test]
fn every_kind_of_message_is_read_as_it_was_written() {
    for body in every_body() {
        let message = with_header(body);
        let bytes = message.encode(&Numbers);
        assert_eq!(Message::decode(&bytes, &mut Numbers).as_ref(), Ok(&message));
        assert!(bytes.len() <= Message::AIM, "{} bytes: {message:?}", bytes.len());
    }
}

#[test]
fn version_1_is_written_as_ever() {
    let check = |body: Body, golden: Expect| {
        let bytes = Message { header: Arc::default(), body }.encode(&Numbers);
        golden.assert_eq(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    };
    let find = |wanted: &Request| {
        let is_wanted = |body: &Body| matches!(body, Body::Request { request, .. } if request == wanted);
        every_body().into_iter().find(is_wanted).unwrap()
    };
    check(find(&Request::Ping), expect!["081010ac02"]);
    let step = Request::Step { level: Level(1), key: key(6), aim: key(7), want: Want::Values };
    check(
        find(&step),
        expect![
            "081210ac022a1406060606060606060606060606060606060606063214070707070707070707070707070707070707070738016001"
        ],
    );
    let spent = Duration::from_micros(40);
    let references = Reply::Acquired(Acquisition::References(vec![pointer(2)]));
    check(
        Body::Reply { id: 300, spent, reply: references },
        expect![
            "084710ac0218285a360a04000000021228010101010101010101010101010101010101010102020202020202020202020202020202020202021a017620dc0b"
        ],
    );
    check(
        Body::Hello(Box::new(Hello { info: Arc::new(info()), spreads: 77 })),
        expect![
            "08014a550a04c0000201121020010db80000000000000000000000011a0400501f902003280730643880808080802040014a056e6f727468520e2a2e6e7975642e6578616d706c655a08000000006b49d2006205302e312e30684d"
        ],
    );
    let tagged = with_header(Body::Goodbye).encode(&Numbers);
    expect!["0802221c03030303030303030303030303030303030303030000003c0000000c221c03030303030303030303030303030303030303030000003c0000000c"].assert_eq(&tagged.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
}

/// Every kind of message in the bytes of version 1. Only lines may come; one that changes breaks those who run that version.
#[test]
fn the_golden_bytes_of_version_1_are_read_and_written_alike() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let kind = |bytes: &[u8]| Frame::decode(bytes).unwrap().kind;
    let line = |bytes: Bytes| format!("{} {}\n", kind(&bytes), hex(&bytes));
    let written: String = every_body().into_iter().map(|body| line(with_header(body).encode(&Numbers))).collect();
    assert_eq!(written, include_str!("version1.golden"));
    let mut kinds = std::collections::BTreeSet::new();
    for (line, body) in include_str!("version1.golden").lines().zip(every_body()) {
        let digits = line.split_once(' ').unwrap().1;
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        assert_eq!(Message::decode(&bytes, &mut Numbers), Ok(with_header(body)));
        kinds.insert(kind(&bytes));
    }
    let known = [1..4, 16..30, 64..86].into_iter().flatten();
    assert_eq!(kinds, known.collect(), "each kind of frame has a line");
}

#[test]
fn a_length_over_the_limit_is_refused_unread() {
    let long = vec![0; Message::LIMIT + 1];
    assert_eq!(Message::decode(&long, &mut Numbers), Err(DecodeError::TooLong { length: Message::LIMIT + 1 }));
}

#[test]
fn length_prefixes_of_2_to_the_31_and_2_to_the_63_allocate_nothing_and_are_refused() {
    // Field 9, a byte string, with such a length.
    for length in [&[0xff, 0xff, 0xff, 0xff, 0x07][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f][..]] {
        let bytes = [&[0x08, 0x03, 0x4a][..], length].concat();
        assert!(matches!(Message::decode(&bytes, &mut Numbers), Err(DecodeError::Malformed(_))));
    }
}

#[test]
fn more_nodes_values_ids_or_names_than_a_message_may_carry_are_refused() {
    let refused = |frame: &Frame, field| {
        let bytes = frame.encode_to_vec();
        assert_eq!(Message::decode(&bytes, &mut Numbers), Err(DecodeError::Field(field)));
    };
    let many = |count: usize| vec![Bytes::from_static(&[0, 0, 0, 2]); count];
    refused(&Frame { kind: kind::NODES, nodes: many(Reply::NODES + 1), ..Frame::default() }, "nodes");
    refused(&Frame { kind: kind::NODES, nodes: vec![vec![0; RECORD_LIMIT + 1].into()], ..Frame::default() }, "nodes");
    refused(&Frame { kind: kind::REFERENCES, values: many(Reply::VALUES + 1), ..Frame::default() }, "values");
    refused(&Frame { kind: kind::PING, clusters: many(Header::LEVELS + 1), ..Frame::default() }, "clusters");
    refused(&Frame { kind: kind::PING, clusters: many(1), ..Frame::default() }, "cluster");
    let key = Bytes::copy_from_slice(&[1; Key::BYTES]);
    let nine = Bytes::from(vec![1; 9 * Key::BYTES]);
    refused(&Frame { kind: kind::ACQUIRE, key: key.clone(), ids: nine, ..Frame::default() }, "ids");
    let value = Bytes::from(vec![1; Pointer::LIMIT + 1]);
    refused(&Frame { kind: kind::STORE, key: key.clone(), value, ..Frame::default() }, "value");
    let value = Bytes::from(vec![1; SpreadRecord::LIMIT + 1]);
    refused(&Frame { kind: kind::SPREAD, key: key.clone(), value, ..Frame::default() }, "record");
    refused(&Frame { kind: kind::MARKED, names: many(17), ..Frame::default() }, "names");
    refused(&Frame { kind: kind::STEP, key, level: 300, ..Frame::default() }, "level");
    refused(&Frame { kind: kind::WITHDRAW, ..Frame::default() }, "key");
    refused(&Frame { kind: kind::HELD_OTHER_LEASE, key: Bytes::from_static(&[0; 20]), ..Frame::default() }, "holder");
}

#[test]
fn kinds_of_a_later_version_are_told_apart_from_nonsense_and_later_fields_are_skipped() {
    for kind in [0, 15, 30, 63, 4_000] {
        let bytes = Frame { kind, ..Frame::default() }.encode_to_vec();
        assert_eq!(Message::decode(&bytes, &mut Numbers), Err(DecodeError::Unknown), "kind {kind}");
    }
    let mut later = Frame { kind: kind::PING, id: 5, ..Frame::default() }.encode_to_vec();
    later.extend([0xa2, 0x06, 0x02, 1, 2]); // field 100
    let ping = Body::Request { id: 5, request: Request::Ping };
    assert_eq!(Message::decode(&later, &mut Numbers).map(|message| message.body), Ok(ping));
}

#[test]
fn deep_nesting_is_refused() {
    // Groups within groups, each opening field 100.
    let deep = [0xa3, 0x06].repeat(Message::LIMIT / 2);
    assert!(matches!(Message::decode(&deep, &mut Numbers), Err(DecodeError::Malformed(_))));
}

#[test]
fn nodes_without_a_record_are_left_out_and_so_is_what_does_not_fit() {
    let body =
        Body::Reply { id: 1, spent: Duration::ZERO, reply: Reply::Nodes(vec![contact(2), contact(3), contact(4)]) };
    let bytes = with_header(body).encode(&Numbers);
    let Ok(Message { body: Body::Reply { reply: Reply::Nodes(nodes), .. }, .. }) =
        Message::decode(&bytes, &mut Numbers)
    else {
        panic!("nodes")
    };
    assert_eq!(nodes, [contact(2), contact(4)]);

    struct Long;
    impl Book for Long {
        fn record(&self, _: Peer) -> Option<Bytes> {
            Some(vec![7; RECORD_LIMIT].into())
        }
        fn intern(&mut self, _: &[u8]) -> Option<Contact> {
            Some(contact(2))
        }
    }
    let nodes = (0..8).map(contact).collect();
    let full = with_header(Body::Reply { id: 1, spent: Duration::ZERO, reply: Reply::Nodes(nodes) });
    let bytes = full.encode(&Long);
    assert!(bytes.len() <= Message::AIM);
    let read = Message::decode(&bytes, &mut Long).unwrap();
    assert!(matches!(read.body, Body::Reply { reply: Reply::Nodes(nodes), .. } if nodes.len() == 4));
    let values = vec![Pointer { value: vec![1; Pointer::LIMIT].into(), ..pointer(2) }; Reply::VALUES];
    let spent = Duration::ZERO;
    let full = Body::Reply { id: 1, spent, reply: Reply::Step { seen: Seen::Values(values), nodes: Vec::new() } };
    assert!(with_header(full).encode(&Long).len() <= Message::LIMIT);
}

proptest! {
    #[test]
    fn what_is_read_from_any_bytes_is_written_and_read_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        again(&bytes);
    }

    #[test]
    fn a_changed_byte_never_makes_a_message_that_cannot_be_written_again(
        which in 0..every_body().len(),
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
    ) {
        let mut bytes = with_header(every_body().swap_remove(which)).encode(&Numbers).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = to;
        again(&bytes);
    }
}

#[test]
fn fuzz_decoding() {
    bolero::check!().for_each(|bytes: &[u8]| again(bytes));
}

/// Reading, writing and reading again gives the same message, within the limit.
fn again(bytes: &[u8]) {
    let Ok(message) = Message::decode(bytes, &mut Numbers) else { return };
    let written = message.encode(&Numbers);
    assert!(written.len() <= Message::LIMIT);
    assert_eq!(Message::decode(&written, &mut Numbers), Ok(message));
}
