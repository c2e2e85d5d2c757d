//! Who is not who they should be, and what they cost: wrong certificates from either side, and handshakes from made-up addresses.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll};

use futures::future::join;
use libp2p::{
    core::{
        Transport as _,
        transport::{PortUse, TransportEvent},
    },
    identity::Keypair,
    tls::certificate,
};
use quinn::{
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
    rustls::{
        ClientConfig, ServerConfig, SignatureScheme,
        client::ResolvesClientCert,
        crypto::aws_lc_rs::sign::any_supported_type,
        pki_types::{CertificateDer, PrivateKeyDer},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
        version::TLS13,
    },
};
use tokio::net::UdpSocket;

use super::{bare, bare_listener, dialling, listening, next, tls, with, within};
use crate::driver::{
    address::{Carrier, of_socket},
    quic::transport::socket,
};

/// Shows this, whatever is asked for.
#[derive(Debug, Clone)]
struct Shows(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }
}

/// What a peer may show, by which protocol, and whether that is taken.
fn shown() -> Vec<(&'static str, Shows, &'static str, bool)> {
    let libp2p = || certificate::generate(&Keypair::generate_ed25519()).unwrap();
    let shows = |chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>| {
        Shows(Some(Arc::new(CertifiedKey::new(chain, any_supported_type(&key).unwrap()))))
    };
    let ours = || {
        let (certificate, key) = libp2p();
        shows(vec![certificate], key)
    };
    let plain = rcgen::generate_simple_self_signed(["l".to_owned()]).unwrap();
    let plain_key = PrivateKeyDer::try_from(plain.signing_key.serialize_der()).unwrap();
    let ((first, key), (second, other_key)) = (libp2p(), libp2p());
    vec![
        ("one of libp2p's", ours(), "libp2p", true),
        ("none", Shows(None), "libp2p", false),
        ("a plain one", shows(vec![plain.cert.der().clone()], plain_key), "libp2p", false),
        ("two", shows(vec![first.clone(), second], key), "libp2p", false),
        ("another's", shows(vec![first], other_key), "libp2p", false),
        ("another protocol", ours(), "h3", false),
    ]
}

fn check(what: &str, taken: bool, result: Result<(), String>) {
    match result {
        Ok(()) => assert!(taken, "{what} was taken"),
        Err(error) => assert!(!taken && error.contains("cryptographic handshake failed"), "{what}: {error}"),
    }
}

#[tokio::test]
async fn whoever_dials_shows_one_certificate_of_libp2p_s_that_is_its_own() {
    for (what, shows, protocol, taken) in shown() {
        let (mut listener, address, _) = within(bare_listener()).await;
        let mut client = ClientConfig::builder_with_provider(Arc::new(tls::provider(true)))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(tls::Verifier))
            .with_client_cert_resolver(Arc::new(shows));
        client.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let client = QuicClientConfig::try_from(client).unwrap();
        let stranger = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(client));
        let dial = stranger.connect_with(config, socket(&address).unwrap(), "l").unwrap();
        let accept = async {
            let TransportEvent::Incoming { upgrade, .. } = next(&mut listener).await else { panic!("nobody dialled") };
            upgrade.await.map(drop).map_err(|error| error.to_string())
        };
        let (_dialled, accepted) = within(join(dial, accept)).await;
        check(what, taken, accepted);
    }
}

#[tokio::test]
async fn whoever_is_dialled_shows_one_certificate_of_libp2p_s_that_is_its_own() {
    for (what, shows, protocol, taken) in shown() {
        let mut server = ServerConfig::builder_with_provider(Arc::new(tls::provider(true)))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(tls::Verifier))
            .with_cert_resolver(Arc::new(shows));
        server.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).unwrap()));
        let stranger = quinn::Endpoint::server(server, "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = of_socket(Carrier::Quic, stranger.local_addr().unwrap());
        let dial = bare(&Keypair::generate_ed25519()).dial(address, dialling(PortUse::New)).unwrap();
        let accept = async { stranger.accept().await.unwrap().await };
        let (dialled, _accepted) = within(join(dial, accept)).await;
        check(what, taken, dialled.map(drop).map_err(|error| error.to_string()));
    }
}

/// The first datagrams of so many handshakes.
async fn initials(count: usize) -> Vec<Vec<u8>> {
    let trap = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = of_socket(Carrier::Quic, trap.local_addr().unwrap());
    let mut dialler = bare(&Keypair::generate_ed25519());
    let (mut seen, mut firsts, mut buffer) = (Vec::new(), Vec::new(), vec![0; 9_000]);
    while firsts.len() < count {
        let dial = tokio::spawn(dialler.dial(address.clone(), dialling(PortUse::New)).unwrap());
        loop {
            let (length, from) = within(trap.recv_from(&mut buffer)).await.unwrap();
            if !seen.contains(&from) {
                seen.push(from);
                firsts.push(buffer[..length].to_vec());
                break;
            }
        }
        dial.abort();
    }
    firsts
}

/// A socket that sends this and answers nothing.
async fn mute(sends: &[u8], to: &libp2p::Multiaddr) -> UdpSocket {
    let socket_of_it = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket_of_it.send_to(sends, socket(to).unwrap()).await.unwrap();
    socket_of_it
}

async fn received(by: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 9_000];
    let length = within(by.recv(&mut buffer)).await.unwrap();
    buffer.truncate(length);
    buffer
}

#[tokio::test]
async fn a_handshake_that_is_not_taken_up_was_not_begun() {
    let (mut listener, address, _) = within(bare_listener()).await;
    let dial = bare(&Keypair::generate_ed25519()).dial(address, dialling(PortUse::New)).unwrap();
    let deny = async { drop(next(&mut listener).await) };
    let (dialled, ()) = within(join(dial, deny)).await;
    let error = dialled.map(drop).unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn past_a_bound_an_address_proves_itself_before_its_handshake_takes_a_place() {
    // Two of them.
    let (mut listener, address, _) = within(bare_listener()).await;
    let initials = initials(4).await;
    let (mut held, mut strangers) = (Vec::new(), Vec::new());
    for initial in &initials[..2] {
        strangers.push(mute(initial, &address).await);
        let knock = within(next(&mut listener)).await;
        assert!(matches!(knock, TransportEvent::Incoming { .. }));
        held.push(knock);
    }
    let spoofed = mute(&initials[2], &address).await;
    let answer = tokio::select! {
        answer = received(&spoofed) => answer,
        event = next(&mut listener) => panic!("{event:?}"),
    };
    // A Retry [RFC 9000 17.2.5].
    assert_eq!(answer[0] & 0xf0, 0xf0);
    let honest = bare(&Keypair::generate_ed25519()).dial(address.clone(), dialling(PortUse::New)).unwrap();
    let accept = async {
        let TransportEvent::Incoming { upgrade, .. } = next(&mut listener).await else { panic!("nobody dialled") };
        upgrade.await.map(drop).unwrap();
    };
    within(join(honest, accept)).await.0.unwrap();
    // A place that is given back is for the next.
    held.pop();
    strangers.push(mute(&initials[3], &address).await);
    assert!(matches!(within(next(&mut listener)).await, TransportEvent::Incoming { .. }));
}

#[tokio::test]
async fn handshakes_that_nobody_takes_up_are_not_heard_past_their_bound() {
    let (mut listener, address, _) = within(listening(with(&Keypair::generate_ed25519(), 64, None))).await;
    let mut strangers = Vec::new();
    for initial in initials(6).await {
        strangers.push(mute(&initial, &address).await);
    }
    // Of another version, which is answered at once, and so after all before it were seen.
    let mut last = vec![0; 1_200];
    last[..6].copy_from_slice(&[0xc0, 0x0a, 0x0a, 0x0a, 0x0a, 8]);
    last[14] = 8;
    received(&mute(&last, &address).await).await;
    let mut waited = 0;
    while let Poll::Ready(event) = poll_fn(|cx| Poll::Ready(Pin::new(&mut listener).poll(cx))).await {
        assert!(matches!(event, TransportEvent::Incoming { .. }));
        waited += 1;
    }
    assert_eq!(waited, 4);
}
