//! Real nodes on loopback: they join, stream, lose each other, and keep strangers out.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

use super::{
    Config, Identity, Overlay, StartError,
    lanes::{Lanes, Terms},
    start,
    start::{Saved, prepare},
};
use crate::{Index as _, NodeId, NodeInfo, Roles, StreamError, Streams as _};

mod closed;
mod ends;
mod network;
mod silent;
mod stranger;
use stranger::Stranger;

/// What every await in these tests is bounded by.
const DEADLINE: Duration = Duration::from_secs(30);

/// A node's settings: a port of its own on loopback, and impatience.
fn config(bootstrap: &[SocketAddr]) -> Config {
    Config {
        network: "test".to_owned(),
        listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        bootstrap: bootstrap.iter().map(SocketAddr::to_string).collect(),
        rejoin_first: Duration::from_millis(100),
        rejoin_longest: Duration::from_secs(1),
        certificate_timeout: Duration::from_secs(1),
        ..Config::default()
    }
}

/// A node on the runtime of the test.
async fn node_here(config: Config, lanes: std::sync::Arc<Lanes>) -> Overlay {
    let (identity, core) = (Identity::generate(), crate::Config::default());
    let started = prepare(config, core, &identity, info(), Saved::default(), lanes).await;
    let (overlay, driver) = started.unwrap();
    tokio::spawn(async move { driver.run().await.tell.map(|tell| tell.send(())) });
    overlay
}

async fn node(config: Config) -> Overlay {
    start(config, crate::Config::default(), &Identity::generate(), info(), None).await.unwrap()
}

/// The lanes of a node that the test runs itself.
fn lanes() -> std::sync::Arc<Lanes> {
    Lanes::new(Terms::of(&Config::default()))
}

fn info() -> NodeInfo {
    NodeInfo::new(NodeId::from(crate::Key::ZERO), Roles::PROXY)
}

fn at(node: &Overlay) -> SocketAddr {
    node.listen_addrs()[0]
}

/// Waits until something holds; fails past the deadline, saying what did not come.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    let wait = async {
        while !holds() {
            pace.tick().await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, wait).await.is_ok(), "never: {what}");
}

/// Bounds a future by the deadline.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// Waits until one node can open a byte stream to another, and opens it.
async fn open(from: &Overlay, to: &Overlay) -> crate::ByteStream {
    let attempt = async {
        loop {
            match from.open(to.id()).await {
                Ok(stream) => break stream,
                Err(StreamError::Unknown(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    soon("a byte stream", attempt).await
}

#[tokio::test]
async fn five_megabytes_cross_a_byte_stream_unchanged() {
    let seed = node(config(&[])).await;
    let other = node(config(&[at(&seed)])).await;
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let mut to = open(&other, &seed).await;
    let sent = bytes.clone();
    let send = tokio::spawn(async move {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
        let mut echo = Vec::new();
        to.read_to_end(&mut echo).await.unwrap();
        echo
    });
    let (from, mut stream) = soon("an incoming stream", seed.accept()).await.unwrap();
    assert_eq!(from, other.id());
    let mut got = Vec::new();
    soon("the end of the stream", stream.read_to_end(&mut got)).await.unwrap();
    assert!(got == bytes);
    stream.write_all(&got).await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(soon("the echo", send).await.unwrap() == bytes);
}

#[tokio::test]
async fn streams_after_the_first_take_a_connection_of_their_own() {
    let seed = node(config(&[])).await;
    let other = node(config(&[at(&seed)])).await;
    let mut streams = vec![open(&other, &seed).await];
    until("a second dial", || other.counts().dials >= 2).await;
    let burst = (0..100).map(|_| open(&other, &seed));
    streams.extend(futures::future::join_all(burst).await);
    for stream in &mut streams {
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
    }
    for _ in 0..streams.len() {
        let (from, mut stream) = soon("an incoming stream", seed.accept()).await.unwrap();
        assert_eq!((from, stream.read_u8().await.unwrap()), (other.id(), b'x'));
    }
    assert_eq!(other.counts().dials, 2, "one link, one bulk connection");
}

#[tokio::test]
async fn a_stream_for_much_takes_a_bulk_connection_or_the_link_where_none_comes() {
    // Where this one says it is, connections are taken and nothing is said.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let advertise = vec![format!("/ip4/127.0.0.1/tcp/{}", mute.local_addr().unwrap().port())];
    for (advertise, bulk) in [(Vec::new(), true), (advertise, false)] {
        let seed = node(Config { advertise, ..config(&[]) }).await;
        let other = node(Config { open_timeout: DEADLINE, ..config(&[at(&seed)]) }).await;
        until("a link", || other.counts().connections_admitted > 0).await;
        let mut stream = soon("a stream", other.open_bulk(seed.id())).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        let (_, mut stream) = soon("an incoming stream", seed.accept()).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        let counts = other.counts();
        assert_eq!(if bulk { counts.dials } else { counts.connections_admitted }, if bulk { 2 } else { 1 });
    }
}

#[tokio::test]
async fn bulk_leaves_the_threads_of_messages_on_both_sides() {
    // By QUIC quinn has a task for the connection, and one for the socket that is dialled from.
    for (listen, dialled, accepted) in [("/ip4/127.0.0.1/tcp/0", 1, 1), ("/ip4/127.0.0.1/udp/0/quic-v1", 3, 2)] {
        let (ours, theirs) = (lanes(), lanes());
        let listening = Config { listen: vec![listen.to_owned()], ..config(&[]) };
        let seed = node_here(listening.clone(), theirs.clone()).await;
        let other = node_here(Config { bootstrap: seed.listen_multiaddrs(), ..listening }, ours.clone()).await;
        until("a link", || other.counts().connections_admitted > 0).await;
        soon("an answer", other.get(crate::Key::ZERO, crate::Levels::All)).await.unwrap();
        assert_eq!((ours.tasks(), theirs.tasks()), (0, 0), "{listen}: messages alone went there");
        let mut stream = soon("a stream", other.open_bulk(seed.id())).await.unwrap();
        let sent = vec![7; 3_000_000];
        let send = async {
            stream.write_all(&sent).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let take = async {
            let (_, mut stream) = seed.accept().await.unwrap();
            let mut came = Vec::new();
            stream.read_to_end(&mut came).await.unwrap();
            came
        };
        let ((), came) = soon("the bytes", async { tokio::join!(send, take) }).await;
        assert!(came == sent);
        assert_eq!((ours.tasks(), theirs.tasks()), (dialled, accepted), "{listen}: some of it stayed with the links");
    }
}

#[tokio::test]
async fn streams_nobody_accepts_are_reset_past_the_queue() {
    let seed = node(Config { accept_queue: 2, ..config(&[]) }).await;
    let other = node(config(&[at(&seed)])).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut stream = open(&other, &seed).await;
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        streams.push(stream);
    }
    until("refused streams", || seed.counts().streams_refused == 3).await;
    assert_eq!(seed.counts().streams_accepted, 2);
}

#[tokio::test]
async fn streams_past_the_bound_are_refused_and_the_rest_go_on() {
    let seed = node(config(&[])).await;
    // 32 streams both ways leave this side 8.
    let other = node(Config { streams: 32, dial_queue: 1, ..config(&[at(&seed)]) }).await;
    let mut streams = vec![open(&other, &seed).await];
    until("a bulk connection", || other.counts().connections_admitted >= 2).await;
    let refused = loop {
        match soon("an answer", other.open(seed.id())).await {
            Ok(stream) => streams.push(stream),
            Err(error) => break error,
        }
        assert!(streams.len() < 32);
    };
    assert!(refused.to_string().contains("too many streams"), "{refused}");
    assert_eq!(streams.len(), 1 + 8, "one on the link, eight on the bulk connection");
    streams.truncate(8);
    drop(soon("a place given back", other.open(seed.id())).await.unwrap());
}

#[tokio::test]
async fn dials_past_the_bound_fail_at_once() {
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let seeds: Vec<_> = silent.iter().map(|listener| listener.local_addr().unwrap()).collect();
    let rejoin_first = Duration::from_secs(60);
    let lone = node(Config { dials: 8, rejoin_first, rejoin_longest: rejoin_first, ..config(&seeds) }).await;
    until("two dials too many", || lone.counts().dials_failed == 2).await;
    assert_eq!(lone.counts().dials, 10);
}

#[tokio::test]
async fn connections_past_the_bound_are_closed() {
    let member = node(Config { connections: 2, ..config(&[]) }).await;
    let mut admitted = Vec::new();
    for _ in 0..2 {
        let mut stranger = Stranger::connect("test", at(&member)).await;
        assert!(soon("a greeting", stranger.greet(|_| ())).await.is_some());
        admitted.push(stranger);
    }
    let mut third = Stranger::connect("test", at(&member)).await;
    soon("being cut", third.closed()).await;
    assert_eq!(member.counts().connections_admitted, 2);
}

#[tokio::test]
async fn a_link_without_use_is_closed() {
    let member = node(Config { idle_timeout: Duration::from_secs(1), ..config(&[]) }).await;
    let mut silent = Stranger::connect("test", at(&member)).await;
    assert!(soon("a greeting", silent.greet(|_| ())).await.is_some());
    soon("being let go", silent.closed()).await;
    assert_eq!(member.counts().broken, 0);
}

#[tokio::test]
async fn two_that_dial_each_other_end_up_with_one_link() {
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let impatient = || Config { idle_timeout: Duration::from_secs(1), ..config(&[]) };
    let a = node(Config { bootstrap: vec![address.to_string()], ..impatient() }).await;
    let listen = vec![format!("/ip4/127.0.0.1/tcp/{}", address.port())];
    let b = node(Config { listen, bootstrap: vec![at(&a).to_string()], ..impatient() }).await;
    let links = |node: &Overlay| node.counts().connections_admitted - node.counts().connections_closed;
    until("one link", || links(&a) == 1 && links(&b) == 1).await;
    drop(open(&a, &b).await);
}

#[tokio::test]
async fn a_stream_to_an_unknown_or_stopped_node_fails_and_says_so() {
    let seed = node(config(&[])).await;
    let other = node(Config { open_timeout: Duration::from_millis(500), ..config(&[at(&seed)]) }).await;
    let nobody = NodeId::from(crate::Key::of(b"nobody"));
    assert_eq!(other.open(nobody).await.err(), Some(StreamError::Unknown(nobody)));
    drop(open(&other, &seed).await);
    soon("a stop", seed.stop()).await;
    let refused = async {
        loop {
            match other.open(seed.id()).await {
                Err(StreamError::Unreachable(id, _)) => break id,
                Ok(_) | Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    assert_eq!(soon("a refusal", refused).await, seed.id());
    assert_eq!(soon("no more streams", seed.accept()).await.err(), Some(StreamError::NoPeers));
}

// P10
#[tokio::test]
async fn a_seed_that_comes_up_later_is_found() {
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let early = node(config(&[address])).await;
    until("a failed dial", || early.counts().dials_failed > 0).await;
    let listen = vec![format!("/ip4/127.0.0.1/tcp/{}", address.port())];
    let seed = node(Config { listen, ..config(&[]) }).await;
    drop(open(&early, &seed).await);
}

#[tokio::test]
async fn a_node_that_is_its_own_seed_does_not_dial_itself() {
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let listen = vec![format!("/ip4/127.0.0.1/tcp/{}", address.port())];
    let lone = node(Config { listen, ..config(&[address]) }).await;
    let other = node(config(&[at(&lone)])).await;
    drop(open(&other, &lone).await);
    // Only to see whether the other one is where it says.
    assert!(lone.counts().dials <= 1);
}

#[tokio::test]
async fn dials_start_from_the_configured_address() {
    let seed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = vec!["/ip4/127.1.0.1/tcp/0".to_owned()];
    let source = Some("127.1.0.1".parse().unwrap());
    let node = node(Config { listen, bind_source: source, ..config(&[seed.local_addr().unwrap()]) }).await;
    let (_, from) = soon("a dial", seed.accept()).await.unwrap();
    assert_eq!(from.ip(), at(&node).ip());
}

#[tokio::test]
async fn others_dial_the_advertised_address_not_the_one_listened_on() {
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let advertise = vec![format!("/ip4/127.0.0.1/tcp/{}", relay.local_addr().unwrap().port())];
    let hidden = node(Config { advertise, ..config(&[]) }).await;
    let source = Some("127.1.0.2".parse().unwrap());
    let viewer = node(Config { bind_source: source, ..config(&[at(&hidden)]) }).await;
    // The first stream takes the link to the seed's address; the bulk connection goes where the node says it is.
    drop(open(&viewer, &hidden).await);
    let (_, from) = soon("a dial", relay.accept()).await.unwrap();
    assert_eq!(Some(from.ip()), source);
}

#[tokio::test]
async fn a_seed_may_be_named() {
    let seed = node(config(&[])).await;
    let bootstrap = vec![format!("localhost:{}", at(&seed).port())];
    let other = node(Config { bootstrap, ..config(&[]) }).await;
    drop(open(&other, &seed).await);
}

#[tokio::test]
async fn a_used_port_is_refused_at_start() {
    let first = node(config(&[])).await;
    let listen = vec![format!("/ip4/127.0.0.1/tcp/{}", at(&first).port())];
    let taken = Config { listen: listen.clone(), ..config(&[]) };
    match start(taken, crate::Config::default(), &Identity::generate(), info(), None).await.err() {
        Some(StartError::Listen { address, source }) => {
            assert_eq!((address, source.kind()), (listen[0].clone(), std::io::ErrorKind::AddrInUse));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_by_name() {
    let refused = async |config: Config| {
        let error = start(config, crate::Config::default(), &Identity::generate(), info(), None).await.err();
        error.unwrap_or_else(|| panic!("it started")).to_string()
    };
    let base = || config(&[]);
    assert!(refused(Config { network: "A B".to_owned(), ..base() }).await.contains("network"));
    assert!(refused(Config { idle_timeout: Duration::ZERO, ..base() }).await.contains("idle_timeout"));
    assert!(refused(Config { dial_queue: 512, ..base() }).await.contains("dial_queue"));
    assert!(refused(Config { listen: vec!["127.0.0.1".to_owned()], ..base() }).await.contains("127.0.0.1"));
    assert!(refused(Config { bootstrap: vec!["seed".to_owned()], ..base() }).await.contains("\"seed\""));
}

#[tokio::test]
async fn a_stranger_of_another_network_fails_in_the_handshake() {
    let member = node(config(&[])).await;
    let stranger = soon("the end of a dial", Stranger::connect("other", at(&member))).await;
    assert!(stranger.is_refused());
    assert_eq!(member.counts(), super::Counts::default());
}

#[tokio::test]
async fn a_stranger_with_a_bad_certificate_gets_no_byte() {
    let member = node(config(&[])).await;
    for spoil in [stranger::other_network, stranger::other_peer, stranger::expired, stranger::serial] {
        let before = member.counts().strangers;
        let mut stranger = Stranger::connect("test", at(&member)).await;
        let answer = soon("an end", stranger.greet(spoil)).await;
        assert_eq!(answer, None);
        soon("being cut", stranger.closed()).await;
        assert_eq!(member.counts().strangers, before + 1);
    }
}

#[tokio::test]
async fn a_stranger_without_certificate_is_not_listened_to_and_cut_in_time() {
    let member = node(config(&[])).await;
    let mut stranger = Stranger::connect("test", at(&member)).await;
    let answer = soon("an end", stranger.say("/atoll/test/rpc/1", b"\0\0\0\x01x")).await;
    assert_eq!(answer, b"");
    soon("being cut", stranger.closed()).await;
    let counts = member.counts();
    assert_eq!((counts.messages_received, counts.messages_malformed, counts.broken), (0, 0, 1));
}

#[tokio::test]
async fn an_oversized_frame_or_greeting_is_cut_without_allocation() {
    let member = node(config(&[])).await;
    // Allocating what these claim would abort the test process.
    for length in [1_u32 << 31, u32::MAX] {
        let before = member.counts().broken;
        let mut admitted = Stranger::connect("test", at(&member)).await;
        assert!(soon("a greeting", admitted.greet(|_| ())).await.is_some());
        drop(soon("an end", admitted.say("/atoll/test/rpc/1", &length.to_be_bytes())).await);
        soon("being cut", admitted.closed()).await;
        let mut unknown = Stranger::connect("test", at(&member)).await;
        let answer = soon("an end", unknown.say("/atoll/test/auth/1", &length.to_be_bytes())).await;
        assert_eq!(answer, b"");
        soon("being cut", unknown.closed()).await;
        assert_eq!(member.counts().broken, before + 2);
    }
    let other = node(config(&[at(&member)])).await;
    drop(open(&other, &member).await);
}

#[tokio::test]
async fn frames_that_are_no_messages_are_counted_and_change_nothing() {
    let member = node(config(&[])).await;
    let mut admitted = Stranger::connect("test", at(&member)).await;
    assert!(soon("a greeting", admitted.greet(|_| ())).await.is_some());
    let mut frames = Vec::new();
    for _ in 0..100 {
        frames.extend_from_slice(&[0, 0, 0, 3, 0xff, 0xff, 0xff]);
    }
    let say = admitted.say("/atoll/test/rpc/1", &frames);
    tokio::select! {
        _ = say => panic!("a member is not cut for what is not understood"),
        () = until("malformed frames", || member.counts().messages_malformed == 100) => {}
    }
}

#[tokio::test]
async fn a_flood_of_messages_is_dropped_unread_past_the_budget() {
    let member = node(Config { messages_per_peer: 10, ..config(&[]) }).await;
    let mut admitted = Stranger::connect("test", at(&member)).await;
    assert!(soon("a greeting", admitted.greet(|_| ())).await.is_some());
    let frames = [0, 0, 0, 3, 0xff, 0xff, 0xff].repeat(1_000);
    let say = admitted.say("/atoll/test/rpc/1", &frames);
    tokio::select! {
        _ = say => panic!("a flood is no reason to cut a member"),
        () = until("all arrived", || member.counts().flooded + member.counts().messages_malformed == 1_000) => {}
    }
    // Twenty at once, and ten for each second that the rest took.
    let read = member.counts().messages_malformed;
    assert!((20..1_000).contains(&read), "{read}");
}

/// A datagram cut out of a handshake, from an address that never answers, as a spoofed one does not.
#[tokio::test]
async fn quic_sends_an_unproven_address_at_most_three_times_what_came_from_it() {
    let listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
    let member = node(Config { listen, handshake_timeout: Duration::from_secs(2), ..config(&[]) }).await;
    let address: libp2p::Multiaddr = member.listen_multiaddrs().swap_remove(0).parse().unwrap();
    let to = super::address::socket(&address).unwrap();
    let trap = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let bait = super::address::of_socket(super::Carrier::Quic, trap.local_addr().unwrap());
    let dial = tokio::spawn(async move {
        Stranger::connect_as(&Identity::generate(), "atoll test", bait).await;
    });
    let mut buffer = vec![0; 2_048];
    // The whole first flight, since a large key share takes two datagrams.
    let mut flight =
        vec![soon("an initial packet", trap.recv_from(&mut buffer)).await.map(|(n, _)| buffer[..n].to_vec())];
    while let Ok(more) = tokio::time::timeout(Duration::from_millis(100), trap.recv_from(&mut buffer)).await {
        flight.push(more.map(|(n, _)| buffer[..n].to_vec()));
    }
    let flight: Vec<Vec<u8>> = flight.into_iter().map(Result::unwrap).collect();
    let spoofed = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for datagram in &flight {
        spoofed.send_to(datagram, to).await.unwrap();
    }
    let came: usize = flight.iter().map(Vec::len).sum();
    let (mut sent, mut most) = (0, vec![0; 2_048]);
    // Retransmissions count: it goes on until the member has given the handshake up.
    while let Ok(received) = tokio::time::timeout(Duration::from_secs(3), spoofed.recv_from(&mut most)).await {
        sent += received.unwrap().0;
    }
    dial.abort();
    assert!(sent > 0 && sent <= 3 * came, "{sent} bytes for {came}");
}

#[tokio::test]
async fn a_thousand_half_open_connections_do_not_keep_a_member_out() {
    let member = node(config(&[])).await;
    let mut silent = Vec::new();
    for _ in 0..1_000 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.66:0".parse().unwrap()).unwrap();
        silent.push(soon("a connect", socket.connect(at(&member))).await.unwrap());
    }
    until("refused connections", || member.counts().crowded >= 900).await;
    let other = node(config(&[at(&member)])).await;
    drop(open(&other, &member).await);
    assert!(silent.len() == 1_000 && TcpStream::connect(at(&member)).await.is_ok());
}
