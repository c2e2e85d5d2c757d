//! What others may do to this server, and with it to third parties: forged sources, floods, connections that never finish.

use hickory_proto::rr::RecordType;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::support::*;

const NAME: &str = "www.example.com.nyud.example";
/// What it is an alias of.
const TARGET: &str = "eo7uvoilv2uwg.http.l2.l1.l0.nyud.example";

/// An option as OPT carries it.
fn option(code: u8, data: &[u8]) -> Vec<u8> {
    [&[0, code, 0, u8::try_from(data.len()).unwrap()], data].concat()
}

fn with_cookie(data: &[u8]) -> Vec<u8> {
    with_opt(query(NAME, RecordType::A), 0, 1232, &option(10, data))
}

/// The cookie at the end of a reply: the client's part and the server's.
fn cookie_of(reply: &[u8]) -> &[u8] {
    let (rest, cookie) = reply.split_at(reply.len() - 24);
    assert!(rest.ends_with(&[0, 10, 0, 24]), "{reply:02x?}");
    cookie
}

#[tokio::test]
async fn d08_a_cookie_is_given_known_again_and_malformed_ones_are_refused() {
    let (_server, address) = alone(|_| {}).await;
    let reply = exchange(address, &with_cookie(&[7; 8])).await;
    let cookie = cookie_of(&reply).to_vec();
    assert_eq!((&cookie[..8], cookie[8]), (&[7; 8][..], 1), "the client's part, then version 1");
    let again = exchange(address, &with_cookie(&cookie)).await;
    assert_eq!((again[3] & 0x0f, &cookie_of(&again)[..8]), (0, &[7; 8][..]));
    // One of another server is no mistake: it is answered, with ours.
    let foreign = exchange(address, &with_cookie(&[[7; 8].as_slice(), &[9; 8]].concat())).await;
    assert_eq!((foreign[3] & 0x0f, cookie_of(&foreign)[8]), (0, 1));
    for length in [0, 7, 9, 15, 41] {
        let refused = exchange(address, &with_cookie(&vec![1; length])).await;
        assert_eq!((refused[3] & 0x0f, message(&refused).edns.is_some()), (1, true), "{length} bytes");
    }
    let (_server, address) = alone(|config| config.cookies = false).await;
    assert!(exchange(address, &with_cookie(&[7; 8])).await.ends_with(&[0, 0]), "no option");
}

/// A query with a cookie and without a question.
fn bare(cookie: &[u8]) -> Vec<u8> {
    let mut bare = with_cookie(cookie);
    bare.drain(12..12 + query(NAME, RecordType::A).len() - 12);
    bare[5] = 0;
    bare
}

#[tokio::test]
async fn a_cookie_without_a_question_is_said_to_be_good_or_bad_as_rfc_7873_5_4_has_it() {
    let (server, address) = alone(|_| {}).await;
    let code = |reply: &[u8]| u16::from(message(reply).metadata.response_code);
    let given = exchange(address, &bare(&[7; 8])).await;
    let good = cookie_of(&given).to_vec();
    assert_eq!((code(&given), given[5], good[8]), (0, 0, 1), "the client's part alone: it is given ours");
    assert_eq!(code(&exchange(address, &bare(&good)).await), 0, "ours, returned");
    for (what, server) in [("forged", &[9; 16][..]), ("short", &[9; 8]), ("long", &[9; 32])] {
        let reply = exchange(address, &bare(&[&[7; 8], server].concat())).await;
        assert_eq!((code(&reply), reply[5], cookie_of(&reply)[8]), (23, 0, 1), "{what}: BADCOOKIE, with a good one");
    }
    assert_eq!(server.stats().queries[&("unread", "badcookie", "udp")], 3);
    let (_server, address) = alone(|config| config.cookies = false).await;
    for cookie in [&[7; 8][..], &good] {
        let reply = exchange(address, &bare(cookie)).await;
        assert_eq!((code(&reply), message(&reply).edns.is_some()), (1, true), "without cookies it asks nothing");
    }
}

#[tokio::test]
async fn d08_a_flood_from_one_prefix_gets_less_than_twice_its_bytes_and_a_cookie_lifts_the_limit() {
    let (server, address) = alone(|config| {
        config.rate_limit.exempt.clear();
        config.rate_limit.per_second = 100;
    })
    .await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(address).await.unwrap();
    let mut marked = query("l0.nyud.example", RecordType::NS);
    let (mut bytes_in, mut bytes_out, mut sent, mut cut) = (0, 0, 0_u64, 0_u64);
    let mut buffer = [0; 4096];
    let seen = || {
        let stats = server.stats();
        let udp: u64 = stats.queries.iter().filter(|((.., way), _)| *way == "udp").map(|(_, n)| n).sum();
        udp + stats.limited.get("drop").copied().unwrap_or(0)
    };
    while sent < 3_000 {
        for _ in 0..30 {
            marked[..2].copy_from_slice(&u16::try_from(sent).unwrap().to_be_bytes());
            bytes_in += socket.send(&marked).await.unwrap();
            sent += 1;
        }
        // No faster than it is looked at, or the system drops some unseen.
        until("every question was answered or dropped", async || seen() >= sent).await;
        while let Ok(length) = socket.try_recv(&mut buffer) {
            bytes_out += length;
            cut += u64::from(buffer[2] & 2 != 0);
        }
    }
    assert_eq!(exchange_tcp(address, &marked).await[3] & 0x0f, 0, "no limit holds TCP back");
    let limited = server.stats().limited;
    assert!(bytes_out <= 2 * bytes_in, "{bytes_in} in, {bytes_out} out");
    assert!(cut > 0 && limited["slip"] > 1_000 && limited["drop"] > 1_000, "{cut} cut, {limited:?}");

    let over_tcp = exchange_tcp(address, &with_cookie(&[7; 8])).await;
    for _ in 0..200 {
        let reply = exchange(address, &with_cookie(cookie_of(&over_tcp))).await;
        assert_eq!(reply[2] & 2, 0, "not cut");
    }
}

#[tokio::test]
async fn d10_a_thousand_pipelined_questions_and_a_half_closed_connection_are_answered() {
    let (_server, address) = alone(|_| {}).await;
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let bytes = query(NAME, RecordType::A);
    let framed = [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat();
    let sending = tokio::spawn(async move {
        writer.write_all(&framed.repeat(1_000)).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut all = Vec::new();
    timeout(DEADLINE, reader.read_to_end(&mut all)).await.expect("it ends in time").unwrap();
    sending.await.unwrap();
    let mut rest = all.as_slice();
    let mut replies = 0;
    while let [high, low, after @ ..] = rest {
        rest = &after[usize::from(u16::from_be_bytes([*high, *low]))..];
        replies += 1;
    }
    assert_eq!(replies, 1_000);
}

/// Far more connections than there are places, none of which ever asks: those that idle longest give way, so that whoever asks is
/// answered, over UDP and over TCP.
#[tokio::test]
async fn d10_ten_thousand_idle_connections_leave_questions_answered() {
    const PLACES: usize = 100;
    let (_server, address) = alone(|config| {
        config.limits.tcp_connections = PLACES;
        config.limits.tcp_idle = 10 * DEADLINE;
    })
    .await;
    let question = query(NAME, RecordType::A);
    let mut idle = std::collections::VecDeque::new();
    for number in 0..10_000 {
        idle.push_back(TcpStream::connect(address).await.unwrap());
        // Twice as many as there are places stay open here: who was closed there is let go.
        if idle.len() > 2 * PLACES {
            idle.pop_front();
        }
        if number % 100 == 99 {
            assert_eq!(exchange(address, &question).await[3] & 15, 0, "{number} over UDP");
            assert_eq!(exchange_tcp(address, &question).await[3] & 15, 0, "{number} over TCP");
        }
    }
    let open = || idle.iter().filter(|stream| is_open(stream)).count();
    until("no more are open than there are places", async || open() <= PLACES).await;
    assert!(open() > PLACES / 2, "no more were closed than had to be: {} are open", open());
}

fn is_open(stream: &TcpStream) -> bool {
    stream.try_read(&mut [0; 1]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[tokio::test]
async fn a_client_that_asks_is_told_how_long_its_connection_may_idle() {
    let (_server, address) = alone(|config| config.limits.tcp_idle = std::time::Duration::from_millis(12_300)).await;
    let asks = with_opt(query(NAME, RecordType::A), 0, 1232, &option(11, &[]));
    assert!(exchange_tcp(address, &asks).await.ends_with(&[0, 11, 0, 2, 0, 123]), "in tenths of a second");
    assert!(exchange(address, &asks).await.ends_with(&[0, 0]), "RFC 7828 3.2.1: not over UDP");
    let tells = with_opt(query(NAME, RecordType::A), 0, 1232, &option(11, &[0, 1]));
    let refused = exchange_tcp(address, &tells).await;
    assert_eq!((refused[3] & 0x0f, message(&refused).edns.is_some()), (1, true), "RFC 7828 3.1: a client says no time");
    assert_eq!(exchange(address, &tells).await[3] & 0x0f, 0, "RFC 7828 3.2.1: over UDP it means nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_over_udp_leaves_questions_over_tcp_answered() {
    let (server, address) = alone(|_| {}).await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flood = {
        let stop = std::sync::Arc::clone(&stop);
        let bytes = query(NAME, RecordType::A);
        std::thread::spawn(move || {
            // Nobody reads the replies: far more comes in than this machine can answer.
            let sockets: Vec<_> = (0..8).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
            let mut sent = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for socket in &sockets {
                    sent += u64::from(socket.send_to(&bytes, address).is_ok());
                }
            }
            sent
        })
    };
    let udp = || server.stats().queries.iter().filter(|((.., way), _)| *way == "udp").map(|(_, n)| n).sum::<u64>();
    until("the flood runs", async || udp() > 1_000).await;
    for _ in 0..50 {
        let began = udp();
        assert_eq!(exchange_tcp(address, &query(NAME, RecordType::A)).await[3] & 0x0f, 0);
        until("the flood goes on", async || udp() > began).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(flood.join().unwrap() > 1_000);
}

#[tokio::test]
async fn why_an_answer_is_as_it_is_is_told_to_those_allowed_to_ask() {
    let why = format!("why.{NAME}");
    let (_server, address) = alone(|config| config.why = vec!["127.0.0.0/8".parse().unwrap()]).await;
    let reply = message(&exchange(address, &query(&why, RecordType::TXT)).await);
    let text: String = reply.answers.iter().map(|record| format!("{} {}\n", record.ttl, record.data)).collect();
    for part in ["site ", "prefix 127.0.0.0/24", "level 0", "candidate 127.0.0.1"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(reply.answers.iter().all(|record| record.ttl == 0));
    let about_itself = message(&exchange(address, &query("WHY.nyud.example", RecordType::TXT)).await);
    assert_eq!(about_itself.answers[0].record_type(), RecordType::TXT);
    for outside in ["why.www.example.org", "why.example", "why.a.b.notnyud.example"] {
        let reply = exchange(address, &with_opt(query(outside, RecordType::TXT), 0, 1232, &[])).await;
        assert_eq!((reply[3] & 15, reply[2] & 4, reply[7]), (5, 0, 0), "{outside}: refused, without authority");
        assert_eq!(reply[reply.len() - 6..][..6], [0, 15, 0, 2, 0, 20], "{outside}: extended error 20");
    }
    let (_server, address) = alone(|_| {}).await;
    let reply = message(&exchange(address, &query(&why, RecordType::TXT)).await);
    assert_eq!(reply.answers[0].record_type(), RecordType::CNAME, "off by default: a public name like any other");
}

#[tokio::test]
async fn sampled_questions_are_logged_as_json_lines_without_the_clients_last_bits() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("queries");
    let (_server, address) = alone(|config| {
        config.query_log.file = Some(file.clone());
        config.query_log.one_in = 1;
    })
    .await;
    exchange(address, &query(NAME, RecordType::A)).await;
    exchange(address, &query("a\"b.example.org", RecordType::AAAA)).await;
    exchange(address, &query(TARGET, RecordType::A)).await;
    let mut update = query(NAME, RecordType::A);
    update[2] = 5 << 3;
    exchange(address, &update).await;
    let lines = async || std::fs::read_to_string(&file).unwrap_or_default().lines().count() == 4;
    until("all are written", lines).await;
    let text = std::fs::read_to_string(&file).unwrap();
    let line = text.lines().next().unwrap();
    for part in [
        "\"client\":\"127.0.0.0/24\"",
        "\"transport\":\"udp\"",
        "\"name\":\"www.example.com.nyud.example.\"",
        "\"type\":\"A\"",
        "\"rcode\":\"noerror\"",
    ] {
        assert!(line.starts_with("{\"time\":") && line.ends_with('}') && line.contains(part), "{part} in {line}");
    }
    let placed = text.lines().nth(2).unwrap();
    assert!(placed.contains(",\"level\":") && placed.contains(",\"placed_by\":\""), "{placed}");
    let refused = text.lines().nth(3).unwrap();
    assert!(refused.contains("\"transport\":\"udp\",\"rcode\":\"notimp\",\"bytes\":12"), "{refused}");
    assert!(text.contains("a\\\\\\\"b") || text.contains("a\\\"b"), "quotes are escaped: {text}");
}
