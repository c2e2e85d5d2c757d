//! Both ends of a connection in one test, over loopback.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll, time::Duration};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _, future::join};
use libp2p::{
    Multiaddr, PeerId,
    core::{
        Endpoint, Transport as _,
        muxing::{StreamMuxerBox, StreamMuxerExt as _},
        transport::{Boxed, DialOpts, ListenerId, PortUse, TransportEvent},
    },
    identity::Keypair,
};
use quinn::{
    AsyncUdpSocket as _,
    rustls::{self, CipherSuite},
};

use super::{
    Transport, tls,
    transport::{DATAGRAM, KNOCKS, socket},
    udp::Udp,
};
use crate::driver::transport::Settings;

type Any = Boxed<(PeerId, StreamMuxerBox)>;

fn bare(keypair: &Keypair) -> Transport {
    let (timeout, keep_alive) = (Duration::from_secs(10), Duration::from_secs(10));
    let settings = Settings { prologue: String::new(), source: None, streams: 64, timeout, keep_alive };
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
    let (mut listener, id) = (bare(&Keypair::generate_ed25519()), ListenerId::next());
    listener.listen_on(id, HERE.parse().unwrap()).unwrap();
    let TransportEvent::NewAddress { listen_addr, .. } = next(&mut listener).await else { panic!("no address") };
    (listener, listen_addr, id)
}

#[tokio::test]
async fn datagrams_become_as_long_as_the_path_takes() {
    let (mut listener, address, _) = within(bare_listener()).await;
    let dial = bare(&Keypair::generate_ed25519()).dial(address, dialling(PortUse::New)).unwrap();
    let accept = async {
        let TransportEvent::Incoming { upgrade, .. } = next(&mut listener).await else { panic!("nobody dialled") };
        upgrade.await.unwrap().1
    };
    let (dialled, accepted) = within(join(dial, accept)).await;
    let (dialled, accepted) = (dialled.unwrap().1.connection, accepted.connection);
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
async fn whoever_shows_no_certificate_of_libp2p_is_refused() {
    let certified = rcgen::generate_simple_self_signed(["l".to_owned()]).unwrap();
    let plain = (certified.cert.der().clone(), certified.signing_key.serialize_der());
    for shown in [None, Some(plain)] {
        let (mut listener, address, _) = within(bare_listener()).await;
        let client = rustls::ClientConfig::builder_with_provider(Arc::new(tls::provider(true)))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(tls::Verifier));
        let mut client = match shown {
            None => client.with_no_client_auth(),
            Some((certificate, key)) => {
                client.with_client_auth_cert(vec![certificate], key.try_into().unwrap()).unwrap()
            }
        };
        client.alpn_protocols = vec![b"libp2p".to_vec()];
        let client = quinn::crypto::rustls::QuicClientConfig::try_from(client).unwrap();
        let stranger = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(client));
        let dial = stranger.connect_with(config, socket(&address).unwrap(), "l").unwrap();
        let accept = async {
            let TransportEvent::Incoming { upgrade, .. } = next(&mut listener).await else { panic!("nobody dialled") };
            upgrade.await.map(|(peer, _)| peer)
        };
        let (_, accepted) = within(join(dial, accept)).await;
        let error = accepted.unwrap_err().to_string();
        assert!(error.contains("cryptographic handshake failed"), "{error}");
    }
}

#[tokio::test]
async fn handshakes_that_nobody_takes_up_are_put_off_past_their_bound() {
    let (mut listener, address, _) = within(bare_listener()).await;
    let mut dialler = bare(&Keypair::generate_ed25519());
    let mut dials = Vec::new();
    for _ in 0..KNOCKS + 64 {
        let mut dial = dialler.dial(address.clone(), dialling(PortUse::Reuse)).unwrap();
        assert!(futures::poll!(&mut dial).is_pending());
        dials.push(dial);
        // Both endpoints get their turn, and the runtime looks at the sockets.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    let mut waited = 0;
    while let Poll::Ready(event) = poll_fn(|cx| Poll::Ready(Pin::new(&mut listener).poll(cx))).await {
        assert!(matches!(event, TransportEvent::Incoming { .. }));
        waited += 1;
    }
    assert!((KNOCKS / 2..=KNOCKS).contains(&waited), "{waited}");
    // They knock again.
    assert!(matches!(within(next(&mut listener)).await, TransportEvent::Incoming { .. }));
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
    let (mut listener, id) = (bare(&Keypair::generate_ed25519()), ListenerId::next());
    listener.listen_on(id, "/ip4/0.0.0.0/udp/0/quic-v1".parse().unwrap()).unwrap();
    let loopback = async {
        loop {
            match next(&mut listener).await {
                TransportEvent::NewAddress { listen_addr, .. } => {
                    let at = socket(&listen_addr).unwrap();
                    assert!(at.is_ipv4() && at.port() != 0 && !at.ip().is_unspecified(), "{at}");
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
