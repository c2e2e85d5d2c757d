//! What every authoritative server owes its clients, byte by byte over sockets. The rows D01-D06 are those of the list of bad
//! inputs this server is held to.

use std::net::SocketAddr;

use hickory_proto::{
    op::ResponseCode,
    rr::{RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

use crate::support::*;

const NAME: &str = "www.example.com.nyud.example";

/// The code in a reply's header.
fn code(reply: &[u8]) -> u8 {
    reply[3] & 0x0f
}

fn header(question_count: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 0, 0];
    bytes.extend(question_count.to_be_bytes());
    bytes.extend([0; 6]);
    bytes
}

fn with_question(question: &[u8]) -> Vec<u8> {
    [&header(1)[..], question].concat()
}

const FORMERR: u8 = 1;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;

#[tokio::test]
async fn d01_what_is_no_query_is_left_unanswered() {
    let (server, address) = alone(|_| {}).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(address).await.unwrap();
    let good = query(NAME, RecordType::A);
    for length in 0..12 {
        socket.send(&good[..length]).await.unwrap();
    }
    let mut reply = good.clone();
    reply[2] |= 0x80;
    socket.send(&reply).await.unwrap();
    // A reply to any of these would have come before this one's.
    let mut marked = good;
    marked[0] = 0x77;
    socket.send(&marked).await.unwrap();
    let mut buffer = [0; 512];
    timeout(DEADLINE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(buffer[0], 0x77);
    assert_eq!(server.stats().dropped, 13);
}

#[tokio::test]
async fn d01_malformed_queries_get_formerr_with_their_own_id() {
    let (_server, address) = alone(|_| {}).await;
    let name = |labels: &[&[u8]]| {
        let mut bytes: Vec<u8> =
            labels.iter().flat_map(|label| [&[u8::try_from(label.len()).unwrap()], *label].concat()).collect();
        bytes.extend([0, 0, 1, 0, 1]);
        bytes
    };
    let long: Vec<&[u8]> = vec![&[b'a'; 63]; 4];
    let mut answers = query(NAME, RecordType::A);
    answers[7] = 1;
    let mut promised = query(NAME, RecordType::A);
    promised[11] = 1;
    let malformed: Vec<(&str, Vec<u8>)> = vec![
        ("no question", header(0)),
        ("two questions", [header(2), query(NAME, RecordType::A)[12..].repeat(2)].concat()),
        ("65535 questions", [header(65_535), query(NAME, RecordType::A)[12..].to_vec()].concat()),
        ("a question that is not there", header(1)),
        ("a label of 64", with_question(&[&[64][..], &[b'a'; 64], &[0, 0, 1, 0, 1]].concat())),
        ("a label of an unassigned kind", with_question(&[0x80, 0, 0, 1, 0, 1])),
        ("a name of 257", with_question(&name(&long))),
        ("a pointer to itself", with_question(&[0xc0, 12, 0, 1, 0, 1])),
        ("a loop of pointers", with_question(&[1, b'a', 0xc0, 12, 0, 1, 0, 1])),
        ("a pointer forward", with_question(&[0xc0, 14, 0, 0, 1, 0, 1])),
        ("a pointer past the end", with_question(&[0xff, 0xff, 0, 1, 0, 1])),
        ("a question cut short", query(NAME, RecordType::A)[..30].to_vec()),
        ("a type cut short", query(NAME, RecordType::A)[..40].to_vec()),
        ("junk at the end", [query(NAME, RecordType::A), vec![0]].concat()),
        ("an answer in a query", answers),
        ("an additional record that is not there", promised),
    ];
    for (what, bytes) in malformed {
        let reply = exchange(address, &bytes).await;
        assert_eq!((code(&reply), &reply[..2], reply[2] & 0x80), (FORMERR, &bytes[..2], 0x80), "{what}");
        let over_tcp = exchange_tcp(address, &bytes).await;
        assert_eq!(over_tcp, reply, "{what}, over TCP");
    }
}

#[tokio::test]
async fn d01_a_message_of_65535_bytes_over_tcp_gets_formerr() {
    let (_server, address) = alone(|_| {}).await;
    let mut bytes = query(NAME, RecordType::A);
    bytes.resize(65_535, 0);
    assert_eq!(code(&exchange_tcp(address, &bytes).await), FORMERR);
}

#[tokio::test]
async fn d02_other_operations_are_not_implemented() {
    let (_server, address) = alone(|_| {}).await;
    for opcode in [1_u8, 2, 3, 4, 5, 6, 15] {
        let mut bytes = query("nyud.example", RecordType::SOA);
        bytes[2] = opcode << 3;
        let reply = exchange(address, &bytes).await;
        assert_eq!((code(&reply), reply[2] >> 3 & 0x0f), (NOTIMP, opcode), "opcode {opcode}");
        assert_eq!(reply.len(), 12, "opcode {opcode}: no OPT for who sent none");
        // An UPDATE may have records in each section; what is behind them is found all the same.
        let mut updating = with_opt(bytes, 0, 1232, &[]);
        updating.splice(12..12, *b"\x01x\0\0\x06\0\x01");
        updating[5] += 1;
        let reply = exchange(address, &updating).await;
        let message = message(&reply);
        assert_eq!((code(&reply), reply[2] >> 3 & 0x0f), (NOTIMP, opcode), "opcode {opcode} with EDNS");
        assert!(message.edns.is_some() && message.queries.is_empty(), "opcode {opcode}: RFC 6891 7");
    }
}

#[tokio::test]
async fn d02_transfers_other_classes_and_types_without_data_are_refused() {
    let (_server, address) = alone(|_| {}).await;
    for (kind, expected) in [(251_u16, REFUSED), (252, REFUSED), (249, 0), (250, 0), (253, 0), (41, FORMERR)] {
        let bytes = query("nyud.example", RecordType::from(kind));
        assert_eq!(code(&exchange_tcp(address, &bytes).await), expected, "type {kind}");
        assert_eq!(code(&exchange(address, &bytes).await), expected, "type {kind}");
    }
    for (name, class) in [("version.bind", 3), (NAME, 3), (NAME, 4), (NAME, 254), (NAME, 255)] {
        let mut bytes = query(name, RecordType::TXT);
        *bytes.last_mut().unwrap() = class;
        assert_eq!(code(&exchange(address, &bytes).await), REFUSED, "{name} in class {class}");
    }
}

#[tokio::test]
async fn d03_another_edns_version_gets_badvers_and_ours() {
    let (_server, address) = alone(|_| {}).await;
    for version in [1, 255] {
        // Options of an unknown version are not looked at, however broken.
        let reply = exchange(address, &with_opt(query(NAME, RecordType::A), version, 1232, &[0, 8, 0xff])).await;
        let message = message(&reply);
        let edns = message.edns.as_ref().unwrap();
        assert_eq!((code(&reply), edns.rcode_high(), edns.version()), (0, 1, 0));
        assert!(message.answers.is_empty());
    }
}

#[tokio::test]
async fn d03_broken_edns_gets_formerr_and_unknown_options_and_flags_are_passed_over() {
    let (_server, address) = alone(|_| {}).await;
    let plain = || query(NAME, RecordType::A);
    let twice = with_opt(with_opt(plain(), 0, 1232, &[]), 0, 1232, &[]);
    let mut not_root = plain();
    not_root[11] = 1;
    not_root.extend([1, b'a', 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    let mut in_answer = with_opt(plain(), 0, 1232, &[]);
    (in_answer[7], in_answer[11]) = (1, 0);
    let mut in_authority = with_opt(plain(), 0, 1232, &[]);
    (in_authority[9], in_authority[11]) = (1, 0);
    let short_option = with_opt(plain(), 0, 1232, &[0xff, 0xff, 0, 9, 1]);
    let half_option = with_opt(plain(), 0, 1232, &[0xff, 0xff, 0]);
    for (what, bytes) in [
        ("two OPT", twice),
        ("an OPT of another name", not_root),
        ("OPT as an answer", in_answer),
        ("OPT as authority", in_authority),
        ("an option longer than the record", short_option),
        ("half an option", half_option),
    ] {
        let reply = exchange(address, &bytes).await;
        let edns = message(&reply).edns;
        assert_eq!(code(&reply), FORMERR, "{what}");
        // An OPT that counts as an answer is none.
        assert_eq!(edns.is_some(), !what.starts_with("OPT as"), "{what}: RFC 6891 7");
    }
    let mut strange = with_opt(plain(), 0, 1232, &[0xff, 0xfe, 0, 2, 7, 7]);
    let flags = strange.len() - 6 - 3;
    strange[flags] = 0x7f;
    let reply = exchange(address, &strange).await;
    let message = message(&reply);
    assert_eq!((code(&reply), message.answers.len()), (0, 1));
    assert!(message.edns.unwrap().options().as_ref().is_empty());
}

#[tokio::test]
async fn d03_a_udp_reply_is_no_longer_than_the_client_takes_or_1232_and_tcp_has_the_rest() {
    let text = "x".repeat(200);
    let (_server, address) = alone(|config| {
        for (name, count) in [("some", 4_u8), ("many", 40)] {
            for number in 0..count {
                config.records.push(plain_record(name, &format!("\"{number}{text}\"")));
            }
        }
    })
    .await;
    // Four records need about 900 bytes, forty more than any datagram may have.
    for (name, payload, cut) in [
        ("some", None, true),
        ("some", Some(0), true),
        ("some", Some(511), true),
        ("some", Some(1232), false),
        ("some", Some(65_535), false),
        ("many", Some(4096), true),
        ("many", Some(65_535), true),
    ] {
        let plain = query(&format!("{name}.nyud.example"), RecordType::TXT);
        let bytes = payload.map_or_else(|| plain.clone(), |payload| with_opt(plain.clone(), 0, payload, &[]));
        let reply = exchange(address, &bytes).await;
        let limit = usize::from(payload.unwrap_or(0).clamp(512, 1232));
        assert!(reply.len() <= limit, "{name} {payload:?}: {} bytes", reply.len());
        assert_eq!(reply[2] & 2 != 0, cut, "{name} {payload:?}: TC");
        let whole = exchange_tcp(address, &bytes).await;
        assert_eq!((whole[2] & 2, message(&whole).answers.len()), (0, if name == "some" { 4 } else { 40 }));
    }
}

fn plain_record(name: &str, data: &str) -> atoll_dnssrv::StaticRecord {
    atoll_dnssrv::StaticRecord {
        name: name.to_owned(),
        kind: "TXT".to_owned(),
        data: data.to_owned(),
        ttl: std::time::Duration::from_secs(60),
    }
}

#[tokio::test]
async fn d03_what_is_only_additional_is_left_out_before_a_reply_is_cut() {
    let (_server, address) = alone(|config| {
        for number in 0..8 {
            let host = format!("a-mail-server-of-some-length-{number}");
            for (name, kind, data) in [
                ("post", "MX", format!("{number} {host}.nyud.example.")),
                (host.as_str(), "A", format!("192.0.2.{number}")),
                (host.as_str(), "AAAA", format!("2001:db8::{number}")),
            ] {
                config.records.push(atoll_dnssrv::StaticRecord { kind: kind.to_owned(), ..plain_record(name, &data) });
            }
        }
    })
    .await;
    let asked = query("post.nyud.example", RecordType::MX);
    for (bytes, fewest, most) in [(asked.clone(), 1, 15), (with_opt(asked, 0, 1232, &[]), 16, 16)] {
        let reply = exchange(address, &bytes).await;
        let message = message(&reply);
        assert_eq!((reply[2] & 2, message.answers.len()), (0, 8), "RFC 2181 9");
        assert!((fewest..=most).contains(&message.additionals.len()), "{}", message.additionals.len());
    }
}

#[tokio::test]
async fn d04_any_unknown_types_https_and_aaaa_of_a_name_with_addresses_never_deny_the_name() {
    let (_server, address) = alone(|_| {}).await;
    let alias = message(&exchange(address, &query(NAME, RecordType::A)).await);
    let target = alias.answers[0].data.to_string();
    let any = message(&exchange(address, &query(&target, RecordType::ANY)).await);
    assert!(matches!(any.answers[0].data, RData::HINFO(_)), "RFC 8482");
    for kind in [RecordType::from(65_280), RecordType::HTTPS, RecordType::SVCB, RecordType::AAAA, RecordType::TXT] {
        let reply = message(&exchange(address, &query(&target, kind)).await);
        let soa: Vec<_> = reply.authorities.iter().map(hickory_proto::rr::Record::record_type).collect();
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{kind}");
        assert_eq!((reply.answers.len(), soa), (0, vec![RecordType::SOA]), "{kind}");
    }
}

#[tokio::test]
async fn d05_empty_non_terminals_exist_and_public_names_do_at_every_depth() {
    let (_server, address) = alone(|_| {}).await;
    for empty in ["com", "8080", "http.l2.l1.l0", "ns.l0", "ns"] {
        let reply = message(&exchange(address, &query(&format!("{empty}.nyud.example"), RecordType::NS)).await);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{empty}");
        assert_eq!(reply.authorities[0].record_type(), RecordType::SOA, "{empty}");
        assert!(reply.answers.is_empty() && reply.metadata.authoritative, "{empty}");
    }
    for depth in 2..=6 {
        let name = format!("{}.nyud.example", ["a"; 6][..depth].join("."));
        let reply = message(&exchange(address, &query(&name, RecordType::A)).await);
        assert_eq!(reply.answers[0].record_type(), RecordType::CNAME, "{name}");
    }
    for missing in ["*.example.com", "x.ns", "x.l0"] {
        let reply = message(&exchange(address, &query(&format!("{missing}.nyud.example"), RecordType::A)).await);
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "{missing}");
        assert_eq!(reply.authorities[0].record_type(), RecordType::SOA, "{missing}");
    }
}

#[tokio::test]
async fn d06_names_of_others_are_refused_without_a_hint_where_to_go() {
    let (_server, address) = alone(|_| {}).await;
    for name in ["", "example", "example.com", "notnyud.example", "nyud.example.com"] {
        let reply = exchange(address, &with_opt(query(name, RecordType::NS), 0, 1232, &[])).await;
        let message = message(&reply);
        assert_eq!(code(&reply), REFUSED, "{name:?}");
        assert!(message.answers.is_empty() && message.authorities.is_empty() && message.additionals.is_empty());
        assert!(reply.ends_with(&[0, 15, 0, 2, 0, 20]), "{name:?}: extended error 20");
    }
}

#[tokio::test]
async fn d06_the_question_comes_back_byte_for_byte_and_flags_as_they_must() {
    let (_server, address) = alone(|_| {}).await;
    for name in ["wWw.ExAmPlE.cOm.NyUd.eXaMpLe", "COM.nyud.example", "l0.NYUD.example", "Example.ORG"] {
        let mut bytes = query(name, RecordType::A);
        // RD; AD, CD and the bit that means nothing.
        (bytes[2], bytes[3]) = (1, 0x70);
        let reply = exchange(address, &bytes).await;
        assert_eq!(reply[12..bytes.len()], bytes[12..], "{name}");
        assert_eq!(reply[2] & 1, 1, "{name}: RD is repeated");
        assert_eq!(reply[3] & 0xf0, 0, "{name}: no RA, no AD, no CD");
    }
}

#[tokio::test]
async fn d07_a_client_subnet_comes_back_with_a_scope_or_is_refused_if_malformed() {
    let (_server, address) = alone(|_| {}).await;
    let with = |data: &[u8]| {
        let option = [&[0, 8, 0, u8::try_from(data.len()).unwrap()][..], data].concat();
        with_opt(query(NAME, RecordType::A), 0, 1232, &option)
    };
    for (what, data) in [
        ("longer than the address", &[0, 1, 33, 0, 1, 2, 3, 4, 5][..]),
        ("a bit beyond the prefix", &[0, 1, 23, 0, 1, 2, 3]),
        ("a scope in a query", &[0, 1, 24, 24, 1, 2, 3]),
        ("too few octets", &[0, 1, 24, 0, 1, 2]),
        ("too many octets", &[0, 1, 24, 0, 1, 2, 3, 4]),
        ("no family", &[0]),
    ] {
        let reply = exchange(address, &with(data)).await;
        assert_eq!((code(&reply), message(&reply).edns.is_some()), (FORMERR, true), "{what}");
    }
    for (what, data) in [
        ("an IPv4 prefix", &[0, 1, 24, 0, 192, 0, 2][..]),
        ("an IPv6 prefix", &[0, 2, 48, 0, 0x20, 1, 0xd, 0xb8, 0, 1]),
        ("nothing said", &[0, 1, 0, 0]),
        ("family 0", &[0, 0, 0, 0]),
    ] {
        let reply = exchange(address, &with(data)).await;
        assert_eq!(code(&reply), 0, "{what}");
        // An alias depends on nobody: its scope is 0, which is also what came.
        assert!(reply.ends_with(data), "{what}: {reply:?}");
    }
    let unknown_family = exchange(address, &with(&[0, 3, 8, 0, 1])).await;
    assert!(code(&unknown_family) == 0 && unknown_family.ends_with(&[0, 0]), "an unknown family is passed over");
}

#[tokio::test]
async fn nsid_is_given_to_who_asks_and_only_if_configured() {
    let (_server, address) = alone(|config| config.nsid = "here".to_owned()).await;
    let reply = exchange(address, &with_opt(query(NAME, RecordType::A), 0, 1232, &[0, 3, 0, 0])).await;
    assert!(reply.ends_with(b"\0\x03\0\x04here"));
    let (_server, address) = alone(|_| {}).await;
    let reply = exchange(address, &with_opt(query(NAME, RecordType::A), 0, 1232, &[0, 3, 0, 0])).await;
    assert!(reply.ends_with(&[0, 0]));
}

#[tokio::test]
async fn several_questions_over_one_connection_are_answered_in_order() {
    let (_server, address) = alone(|_| {}).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut sent = Vec::new();
    for id in 0..100_u8 {
        let mut bytes = query(NAME, RecordType::A);
        bytes[1] = id;
        sent.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
        sent.extend(bytes);
    }
    stream.write_all(&sent).await.unwrap();
    for id in 0..100_u8 {
        let mut length = [0; 2];
        timeout(DEADLINE, stream.read_exact(&mut length)).await.unwrap().unwrap();
        let mut reply = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply[1], id);
    }
}

#[tokio::test]
async fn past_the_limit_the_connection_that_idled_longest_makes_room_and_who_is_exempt_has_no_limit() {
    let idle = std::time::Duration::from_secs(600);
    let limits = |config: &mut atoll_dnssrv::Config| {
        config.limits.tcp_per_prefix = 2;
        config.limits.tcp_idle = idle;
    };
    let (_server, address) = alone(|config| {
        limits(config);
        config.rate_limit.exempt.clear();
    })
    .await;
    let mut first = TcpStream::connect(address).await.unwrap();
    assert!(is_answered(&mut first).await);
    let mut second = TcpStream::connect(address).await.unwrap();
    assert!(is_answered(&mut second).await && is_answered(&mut first).await, "now the second has idled longer");
    let mut third = TcpStream::connect(address).await.unwrap();
    let ended = timeout(DEADLINE, second.read(&mut [0; 1])).await.expect("it is closed in time");
    assert!(matches!(ended, Ok(0) | Err(_)));
    assert!(is_answered(&mut third).await && is_answered(&mut first).await);
    assert_eq!(code(&exchange(address, &query(NAME, RecordType::A)).await), 0, "datagrams are answered all the same");

    let (_server, address) = alone(limits).await;
    let mut many = Vec::new();
    for _ in 0..40 {
        many.push(TcpStream::connect(address).await.unwrap());
    }
    for one in &mut many {
        assert!(is_answered(one).await, "the loopback is exempt");
    }
}

#[tokio::test]
async fn a_connection_with_a_part_of_a_question_idles_like_any_other() {
    let (_server, address) = alone(|config| {
        config.limits.tcp_per_prefix = 1;
        config.limits.tcp_idle = std::time::Duration::from_secs(600);
        config.rate_limit.exempt.clear();
    })
    .await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    let bytes = query(NAME, RecordType::A);
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    // A whole one and the beginning of the next come together.
    slow.write_all(&[&length[..], &bytes, &length, &bytes[..5]].concat()).await.unwrap();
    let mut answered = [0; 2];
    timeout(DEADLINE, slow.read_exact(&mut answered)).await.expect("in time").unwrap();
    slow.read_exact(&mut vec![0; u16::from_be_bytes(answered).into()]).await.unwrap();
    until("the next one finds a place", async || {
        let mut next = TcpStream::connect(address).await.unwrap();
        is_answered(&mut next).await
    })
    .await;
    let ended = timeout(DEADLINE, slow.read(&mut [0; 1])).await.expect("it is closed in time");
    assert!(matches!(ended, Ok(0) | Err(_)));
}

/// Whether a question over a connection is answered.
async fn is_answered(stream: &mut TcpStream) -> bool {
    let bytes = query(NAME, RecordType::A);
    let framed = [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat();
    let mut length = [0; 2];
    let answered = async {
        stream.write_all(&framed).await?;
        stream.read_exact(&mut length).await?;
        let mut reply = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut reply).await
    };
    timeout(DEADLINE, answered).await.expect("in time").is_ok()
}

#[tokio::test]
async fn questions_that_wait_for_a_measurement_hold_up_none_behind_them() {
    let (_server, address) = alone(|config| {
        config.mode = atoll_dnssrv::Mode::Direct;
        config.wait = true;
        config.sources.tcp_connect = true;
        config.private_subnets = vec!["127.0.0.0/8".parse().unwrap()];
        // One probe a second: the last of the questions below would wait for half a minute.
        config.probe.per_second = 1;
        config.probe.wait = DEADLINE;
        config.probe.direct_within = DEADLINE * 4;
    })
    .await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let by_client = |third: u8| {
        let subnet = [&[0, 8, 0, 7, 0, 1, 24, 0][..], &[127, 99, third]].concat();
        with_opt(query(NAME, RecordType::A), 0, 1232, &subnet)
    };
    let mut all: Vec<Vec<u8>> = (0..30).map(by_client).collect();
    all.push(query("nyud.example", RecordType::SOA));
    let mut sent = Vec::new();
    for (id, bytes) in (0..).zip(&all) {
        sent.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
        sent.extend([0, id]);
        sent.extend(&bytes[2..]);
    }
    stream.write_all(&sent).await.unwrap();
    let mut before = 0;
    loop {
        let mut length = [0; 2];
        timeout(DEADLINE, stream.read_exact(&mut length)).await.expect("in time").unwrap();
        let mut reply = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut reply).await.unwrap();
        if reply[1] == 30 {
            break;
        }
        before += 1;
    }
    assert!(before < 30, "all of them were answered before the one behind");
}

#[tokio::test]
async fn an_address_in_use_is_named_in_the_error() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = taken.local_addr().unwrap();
    let me = node(1, std::net::Ipv4Addr::LOCALHOST, 1, 1);
    let index = Fake::new(&me, &[&[&me]], &std::sync::Arc::default());
    let error = atoll_dnssrv::serve(config(address), index, None).await.err().expect("the port is taken");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn questions_are_counted_by_type_code_and_transport() {
    let (server, address) = alone(|_| {}).await;
    exchange(address, &query(NAME, RecordType::A)).await;
    exchange(address, &query("example.org", RecordType::AAAA)).await;
    exchange_tcp(address, &query("nyud.example", RecordType::SOA)).await;
    let counted: Vec<_> = server.stats().queries.into_iter().collect();
    let expected = [(("a", "noerror", "udp"), 1), (("aaaa", "refused", "udp"), 1), (("soa", "noerror", "tcp"), 1)];
    assert_eq!(counted, expected);
}

#[tokio::test]
async fn connections_past_the_limit_in_all_are_closed_and_so_are_silent_ones() {
    let (_server, address) = alone(|config| {
        config.limits.tcp_connections = 1;
        config.limits.tcp_idle = std::time::Duration::from_millis(100);
    })
    .await;
    // Half a length, then nothing: a slow client is a silent one.
    for _ in 0..2 {
        let mut silent = TcpStream::connect(address).await.unwrap();
        silent.write_all(&[0]).await.unwrap();
        assert!(matches!(timeout(DEADLINE, silent.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_))));
    }
    let mut held = TcpStream::connect(address).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    assert!(matches!(timeout(DEADLINE, held.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_))), "it makes room");
    assert!(matches!(timeout(DEADLINE, second.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_))));
}

#[tokio::test]
async fn a_length_of_zero_ends_a_connection() {
    let (_server, address) = alone(|_| {}).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[0, 0]).await.unwrap();
    assert!(matches!(timeout(DEADLINE, stream.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_))));
}

#[tokio::test]
async fn several_sockets_share_an_address_and_all_answer() {
    let (server, address) = alone(|config| config.limits.udp_sockets = 4).await;
    // The kernel spreads clients by their port.
    for _ in 0..32 {
        assert_eq!(code(&exchange(address, &query(NAME, RecordType::A)).await), 0);
    }
    assert_eq!(server.stats().queries.values().sum::<u64>(), 32);
}

#[tokio::test]
async fn plain_records_are_taken_up_anew_and_bad_ones_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("zone");
    std::fs::write(&file, "old TXT \"1\"\n").unwrap();
    let mut config = config(([127, 0, 0, 1], 0).into());
    config.zone_file = Some(file.clone());
    let me = node(1, std::net::Ipv4Addr::LOCALHOST, 1, 1);
    let index = Fake::new(&me, &[&[&me], &[&me], &[&me]], &std::sync::Arc::default());
    let server = atoll_dnssrv::serve(config.clone(), index, None).await.expect("a free port");
    let address = server.local_addrs()[0];
    let has = async |name: &str| {
        let reply = message(&exchange(address, &query(&format!("{name}.nyud.example"), RecordType::TXT)).await);
        reply.answers.first().map(|record| record.data.to_string())
    };
    assert_eq!((has("old").await, has("more").await), (Some("1".to_owned()), None));
    std::fs::write(&file, "old TXT \"2\"\n").unwrap();
    config.records.push(plain_record("more", "\"3\""));
    server.reload(&config).expect("good records");
    assert_eq!((has("old").await, has("more").await), (Some("2".to_owned()), Some("3".to_owned())));
    std::fs::write(&file, "old TXT \"4\n").unwrap();
    let error = server.reload(&config).expect_err("a quote is not closed").to_string();
    assert!(error.contains("zone_file") && error.contains("line 1"), "{error}");
    assert_eq!(has("old").await, Some("2".to_owned()));
}

#[tokio::test]
async fn plain_records_are_answered_beside_public_names() {
    let (_server, address) = alone(|config| config.records.push(plain_record("@", "\"here\""))).await;
    let apex = message(&exchange(address, &query("nyud.example", RecordType::TXT)).await);
    assert_eq!(apex.answers[0].data.to_string(), "\"here\"".trim_matches('"'));
    assert!(apex.metadata.authoritative);
    let alias = message(&exchange(address, &query(NAME, RecordType::TXT)).await);
    assert!(matches!(alias.answers[0].data, RData::CNAME(_)));
}
