//! Both ends of a connection in one test, over loopback.

use std::{
    future::poll_fn,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    time::Duration,
};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _, future::join};
use libp2p::{
    Multiaddr, PeerId,
    core::{
        Endpoint, Transport as _,
        muxing::{StreamMuxer as _, StreamMuxerBox, StreamMuxerExt as _},
        transport::{Boxed, DialOpts, ListenerId, PortUse, TransportEvent},
    },
    identity::Keypair,
    multiaddr::Protocol,
};
use quinn::{AsyncUdpSocket as _, rustls::CipherSuite};

mod strangers;

use super::{
    Transport,
    connection::{Connection, Stream},
    listener::{Listener, Unproven},
    tls,
    transport::{DATAGRAM, socket},
    udp::Udp,
    window::{Growth, Window, Windows},
};
use crate::driver::{config::Config, transport::Settings};

type Any = Boxed<(PeerId, StreamMuxerBox)>;

fn bare(keypair: &Keypair) -> Transport {
    with(keypair, 4, None)
}

/// One that listens for four handshakes at a time, and for half of so many from addresses that have not answered.
fn with(keypair: &Keypair, knocks_per_prefix: usize, source: Option<IpAddr>) -> Transport {
    let (timeout, keep_alive) = (Duration::from_secs(10), Duration::from_secs(10));
    let knocks = 4;
    let prologue = String::new();
    let windows = Windows::of(&Config::default());
    let settings = Settings { prologue, source, streams: 64, knocks, knocks_per_prefix, timeout, windows, keep_alive };
    Transport::new(keypair, &settings).unwrap()
}

fn ours(keypair: &Keypair) -> Any {
    bare(keypair).map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection))).boxed()
}

fn theirs(keypair: &Keypair) -> Any {
    let transport = libp2p_quic::tokio::Transport::new(libp2p_quic::Config::new(keypair));
    transport.map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection))).boxed()
}

const HERE: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

async fn listen(transport: &mut Any) -> Multiaddr {
    transport.listen_on(ListenerId::next(), HERE.parse().unwrap()).unwrap();
    match transport.next().await {
        Some(TransportEvent::NewAddress { listen_addr, .. }) => listen_addr,
        other => panic!("{other:?}"),
    }
}

const fn dialling(port_use: PortUse) -> DialOpts {
    DialOpts { role: Endpoint::Dialer, port_use }
}

async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it hangs")
}

/// Connects one to the other, and sends so much there and back over a stream.
async fn there_and_back(mut dialler: Any, mut listener: Any, keys: [&Keypair; 2], bytes: usize) {
    let address = listen(&mut listener).await;
    let dial = dialler.dial(address, dialling(PortUse::New)).unwrap();
    let accept = async {
        match listener.next().await {
            Some(TransportEvent::Incoming { upgrade, .. }) => upgrade.await.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let (dialled, (dialler_peer, mut accepted)) = join(dial, accept).await;
    let (listener_peer, mut dialled) = dialled.unwrap();
    assert_eq!([dialler_peer, listener_peer], keys.map(|key| key.public().to_peer_id()));
    let sent: Vec<u8> = (0..=250).cycle().take(bytes).collect();
    let ask = async {
        let mut stream = poll_fn(|cx| dialled.poll_outbound_unpin(cx)).await.unwrap();
        let (mut read, mut write) = (&mut stream).split();
        let mut back = Vec::new();
        let writing = async {
            write.write_all(&sent).await.unwrap();
            write.close().await.unwrap();
        };
        let (read, ()) = join(read.read_to_end(&mut back), writing).await;
        read.unwrap();
        back
    };
    let answer = async {
        let mut stream = poll_fn(|cx| accepted.poll_inbound_unpin(cx)).await.unwrap();
        let (read, mut write) = (&mut stream).split();
        futures::io::copy(read, &mut write).await.unwrap();
        write.close().await.unwrap();
    };
    let (back, ()) = join(ask, answer).await;
    assert!(back == sent, "{} bytes of {bytes} came back", back.len());
}

#[tokio::test]
async fn it_is_libp2p_s_quic_to_others_from_either_side() {
    let (one, other) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
    within(there_and_back(ours(&one), theirs(&other), [&one, &other], 1 << 20)).await;
    within(there_and_back(theirs(&one), ours(&other), [&one, &other], 1 << 20)).await;
    within(there_and_back(ours(&one), ours(&other), [&one, &other], 1 << 20)).await;
}

async fn next(transport: &mut Transport) -> super::listener::Event {
    poll_fn(|cx| Pin::new(&mut *transport).poll(cx)).await
}

async fn bare_listener() -> (Transport, Multiaddr, ListenerId) {
    listening(bare(&Keypair::generate_ed25519())).await
}

async fn listening(mut listener: Transport) -> (Transport, Multiaddr, ListenerId) {
    let id = ListenerId::next();
    listener.listen_on(id, HERE.parse().unwrap()).unwrap();
    let TransportEvent::NewAddress { listen_addr, .. } = next(&mut listener).await else { panic!("no address") };
    (listener, listen_addr, id)
}

/// The two ends of a connection, and who listened.
async fn connected() -> (Connection, Connection, Transport) {
    let (mut listener, address, _) = within(bare_listener()).await;
    let dial = bare(&Keypair::generate_ed25519()).dial(address, dialling(PortUse::New)).unwrap();
    let accept = async {
        let TransportEvent::Incoming { upgrade, .. } = next(&mut listener).await else { panic!("nobody dialled") };
        upgrade.await.unwrap().1
    };
    let (dialled, accepted) = within(join(dial, accept)).await;
    (dialled.unwrap().1, accepted, listener)
}

#[tokio::test]
async fn datagrams_become_as_long_as_the_path_takes() {
    let (dialled, accepted, _listener) = connected().await;
    let (dialled, accepted) = (dialled.connection, accepted.connection);
    let (mut ping, _) = dialled.open_bi().await.unwrap();
    ping.write_all(b"?").await.unwrap();
    let (_, mut pong) = within(accepted.accept_bi()).await.unwrap();
    let grow = async {
        // Probes go out with what is sent, and each waits for the one before.
        while dialled.stats().path.current_mtu < DATAGRAM - 20 {
            ping.write_all(b"?").await.unwrap();
            pong.read(&mut [0; 9]).await.unwrap();
        }
    };
    within(grow).await;
    assert!(dialled.stats().path.current_mtu <= DATAGRAM);
}

#[tokio::test]
async fn a_peer_that_is_not_read_from_sends_no_more_than_the_first_window() {
    let (dialled, accepted, _listener) = connected().await;
    let first = dialled.window.size();
    let sender = dialled.connection.clone();
    sender.set_send_window(1 << 30);
    let (mut send, _) = sender.open_bi().await.unwrap();
    let sent = vec![0; 4 * first];
    let blocked = async {
        while sender.stats().frame_tx.data_blocked == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        written = send.write_all(&sent) => panic!("{written:?}"),
        () = within(blocked) => {}
    }
    let came = accepted.connection.stats().udp_rx.bytes;
    assert!(came < 2 * u64::try_from(first).unwrap(), "{came} for {first}");
    assert_eq!(accepted.window.size(), first);
}

#[tokio::test]
async fn windows_grow_with_what_moves_out_of_what_all_have() {
    let (one, other, _listener) = connected().await;
    let first = one.window.size();
    let growth = Growth::of(Windows { all: 2 * first, ..Windows::of(&Config::default()) });
    let [a, b] = [one, other].map(|end| Window::new(end.connection.clone(), growth.clone()));
    a.moved(first - 1);
    assert_eq!(a.size(), first);
    a.moved(1);
    b.moved(first);
    assert_eq!([a.size(), b.size()], [2 * first, first]);
    a.moved(9 * first);
    assert_eq!(a.size(), 2 * first);
    drop(a);
    b.moved(0);
    assert_eq!(b.size(), 2 * first);
}

#[tokio::test]
async fn a_member_s_room_for_two_streams_is_out_of_what_all_may_grow_by() {
    let (one, other, _listener) = connected().await;
    let windows = Windows::of(&Config::default());
    let (first, room) = (windows.first, 2 * windows.stream);
    let growth = Growth::of(Windows { all: 2 * (room - first) - 1, ..windows });
    let [a, b] = [one, other].map(|end| Window::new(end.connection.clone(), growth.clone()));
    a.admit();
    b.admit();
    assert_eq!([a.receive(), b.receive()], [room, first], "there is no more for the second");
    // What it may send fits into its room already: one way is paid for.
    a.moved(first);
    assert_eq!([a.size(), a.receive()], [2 * first, room]);
    drop(a);
    b.admit();
    assert_eq!(b.receive(), room);
    drop(b);
    let c = Window::new(connected().await.0.connection.clone(), growth);
    c.admit();
    c.admit();
    assert_eq!(c.receive(), room, "all was given back");
}

#[tokio::test]
async fn a_stream_that_is_read_has_the_windows_grow_at_both_ends() {
    let (mut dialled, mut accepted, _listener) = connected().await;
    let first = dialled.window.size();
    let mut send = poll_fn(|cx| Pin::new(&mut dialled).poll_outbound(cx)).await.unwrap();
    let sent = vec![0; 8 * first];
    let ask = async {
        send.write_all(&sent).await.unwrap();
        send.close().await.unwrap();
    };
    let answer = async {
        let mut receive = poll_fn(|cx| Pin::new(&mut accepted).poll_inbound(cx)).await.unwrap();
        receive.read_to_end(&mut Vec::new()).await.unwrap()
    };
    let ((), came) = within(join(ask, answer)).await;
    assert_eq!(came, sent.len());
    assert!(dialled.window.size() > 2 * first && accepted.window.size() > 2 * first);
}

/// Fills a stream that the other end accepts and does not read; the two.
async fn fill(from: &mut Connection, to: &mut Connection) -> (Stream, Stream) {
    let mut send = poll_fn(|cx| Pin::new(&mut *from).poll_outbound(cx)).await.unwrap();
    send.write_all(b"!").await.unwrap();
    let receive = poll_fn(|cx| Pin::new(&mut *to).poll_inbound(cx)).await.unwrap();
    let (sent, sender) = (vec![0; 1 << 20], from.connection.clone());
    let blocked = || sender.stats().frame_tx.stream_data_blocked + sender.stats().frame_tx.data_blocked;
    let before = blocked();
    let is_full = async {
        while blocked() == before {
            tokio::task::yield_now().await;
        }
    };
    let fills = async {
        loop {
            send.write_all(&sent).await.unwrap();
        }
    };
    tokio::select! {
        () = fills => {}
        () = within(is_full) => {}
    }
    (send, receive)
}

#[tokio::test]
async fn a_stream_that_nobody_reads_leaves_room_for_others_before_and_after_windows_have_grown() {
    for grown in [false, true] {
        let (mut dialled, mut accepted, _listener) = connected().await;
        for end in [&dialled, &accepted] {
            end.window.admit();
            while grown && end.window.size() < Windows::of(&Config::default()).most {
                end.window.moved(1 << 20);
            }
            // Nothing is to be in its way on this side.
            end.connection.set_send_window(1 << 30);
        }
        let _unread = fill(&mut dialled, &mut accepted).await;
        let mut send = poll_fn(|cx| Pin::new(&mut dialled).poll_outbound(cx)).await.unwrap();
        let sent = vec![7; 3 << 20];
        let ask = async {
            send.write_all(&sent).await.unwrap();
            send.close().await.unwrap();
        };
        let answer = async {
            let mut receive = poll_fn(|cx| Pin::new(&mut accepted).poll_inbound(cx)).await.unwrap();
            receive.read_to_end(&mut Vec::new()).await.unwrap()
        };
        assert_eq!(within(join(ask, answer)).await.1, sent.len(), "grown: {grown}");
    }
}

#[tokio::test]
async fn a_stranger_has_the_first_window_and_a_member_room_for_two_full_streams() {
    let (dialled, _accepted, _listener) = connected().await;
    let windows = Windows::of(&Config::default());
    let mut connection = dialled;
    assert_eq!(connection.window.receive(), windows.first);
    let poll = |connection: &mut Connection| {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(connection).poll_inbound(&mut cx).is_pending());
    };
    poll(&mut connection);
    assert_eq!(connection.window.receive(), windows.first);
    crate::driver::lanes::admitted();
    poll(&mut connection);
    assert_eq!([connection.window.receive(), connection.window.size()], [2 * windows.stream, windows.first]);
}

#[tokio::test]
async fn dials_leave_from_the_source_and_from_no_loopback_to_elsewhere() {
    let (here, out) = ("127.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap());
    let source: IpAddr = "127.0.0.9".parse().unwrap();
    let keypair = Keypair::generate_ed25519();
    let mut free = bare(&keypair);
    for at in ["/ip4/127.0.0.3/udp/0/quic-v1", "/ip4/127.0.0.2/udp/0/quic-v1"] {
        free.listen_on(ListenerId::next(), at.parse().unwrap()).unwrap();
    }
    let from = |endpoint: &quinn::Endpoint| endpoint.local_addr().unwrap();
    assert_eq!(from(&free.dialer(here, PortUse::Reuse).unwrap()).ip(), IpAddr::from([127, 0, 0, 2]));
    assert!(from(&free.dialer(out, PortUse::Reuse).unwrap()).ip().is_unspecified());
    let mut bound = with(&keypair, 4, Some(source));
    for at in ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.9/udp/0/quic-v1"] {
        bound.listen_on(ListenerId::next(), at.parse().unwrap()).unwrap();
    }
    let link = from(&bound.dialer(here, PortUse::Reuse).unwrap());
    let bulk = from(&bound.dialer(here, PortUse::New).unwrap());
    assert!(link.ip() == source && bulk.ip() == source && link.port() != bulk.port(), "{link} {bulk}");
    assert_eq!(from(&bound.dialer(here, PortUse::Reuse).unwrap()), link);
}

#[tokio::test]
async fn the_peer_is_who_it_proves_to_be_whoever_was_expected() {
    let keypair = Keypair::generate_ed25519();
    let (mut listener, address, _) = within(listening(bare(&keypair))).await;
    let other = Keypair::generate_ed25519();
    let address = address.with(Protocol::P2p(other.public().to_peer_id()));
    let dial = bare(&other).dial(address, dialling(PortUse::New)).unwrap();
    let accept = async {
        let TransportEvent::Incoming { upgrade, .. } = next(&mut listener).await else { panic!("nobody dialled") };
        upgrade.await.unwrap().0
    };
    let (dialled, accepted) = within(join(dial, accept)).await;
    let found = [dialled.unwrap().0, accepted];
    assert_eq!(found, [&keypair, &other].map(|key| key.public().to_peer_id()));
}

#[tokio::test]
async fn a_listener_that_is_removed_says_so_once_and_no_other_is_removed() {
    let (mut listener, _, id) = within(bare_listener()).await;
    assert!(!listener.remove_listener(ListenerId::next()));
    assert!(listener.remove_listener(id));
    let TransportEvent::ListenerClosed { listener_id, reason: Ok(()) } = within(next(&mut listener)).await else {
        panic!("it did not close")
    };
    assert_eq!(listener_id, id);
    assert!(futures::poll!(Box::pin(next(&mut listener))).is_pending());
    assert!(!listener.remove_listener(id));
}

#[tokio::test]
async fn where_every_address_is_listened_on_each_is_told() {
    let transport = bare(&Keypair::generate_ed25519());
    let endpoint = transport.bind("127.0.0.1:0".parse().unwrap(), None).unwrap();
    let every = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 7_400);
    let (unproven, growth) = (Unproven::new(1), Growth::of(Windows::of(&Config::default())));
    let mut listener = Listener::new(ListenerId::next(), endpoint, every, unproven, growth).unwrap();
    let loopback = async {
        loop {
            match listener.next().await {
                Some(TransportEvent::NewAddress { listen_addr, .. }) => {
                    let at = socket(&listen_addr).unwrap();
                    assert!(at.is_ipv4() && at.port() == 7_400 && !at.ip().is_unspecified(), "{at}");
                    if at.ip().is_loopback() {
                        return;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    };
    within(loopback).await;
}

#[tokio::test]
async fn only_addresses_of_this_quic_are_dialled() {
    let mut transport = bare(&Keypair::generate_ed25519());
    let peer = Keypair::generate_ed25519().public().to_peer_id();
    for (address, fits) in [
        ("/ip4/127.0.0.1/udp/7400/quic-v1".to_owned(), true),
        (format!("/ip6/::1/udp/7400/quic-v1/p2p/{peer}"), true),
        ("/ip4/127.0.0.1/udp/7400/quic".to_owned(), false),
        ("/ip4/127.0.0.1/udp/7400".to_owned(), false),
        ("/ip4/127.0.0.1/tcp/7400".to_owned(), false),
        ("/dns4/example/udp/7400/quic-v1".to_owned(), false),
        ("/ip4/127.0.0.1/udp/7400/quic-v1/p2p-circuit".to_owned(), false),
        ("/ip4/127.0.0.1/udp/0/quic-v1".to_owned(), false),
        ("/ip4/0.0.0.0/udp/7400/quic-v1".to_owned(), false),
    ] {
        let dial = transport.dial(address.parse().unwrap(), dialling(PortUse::Reuse));
        assert_eq!(dial.is_ok(), fits, "{address}");
    }
}

#[tokio::test]
async fn what_is_read_into_has_room_for_what_the_system_gives_and_for_little_more() {
    let socket = Udp::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    let room = socket.max_receive_segments() * usize::from(DATAGRAM);
    // 64 KiB at a time, where it gives more than one datagram at all.
    assert!(room == usize::from(DATAGRAM) || (65_535..75_000).contains(&room), "{room}");
}

#[test]
fn aes_comes_first_where_the_processor_knows_it_and_all_are_offered() {
    let names = |aes| tls::provider(aes).cipher_suites.iter().map(|suite| suite.suite()).collect::<Vec<_>>();
    let (with, without) = (names(true), names(false));
    assert_eq!(with[0], CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(without[0], CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    assert!(with.len() == 3 && with.iter().all(|suite| without.contains(suite)), "{with:?} {without:?}");
}
