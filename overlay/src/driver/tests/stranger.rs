//! A peer that speaks libp2p and obeys none of our rules unless told to.

use std::{net::SocketAddr, time::Duration};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, swarm};
use tokio::sync::oneshot;

use super::super::{
    Carrier, Identity, NodeCert, address,
    certificate::{GREETING_LIMIT, Greeting, Papers, Purpose},
    config::Config,
    frame::{FrameReader, FrameWriter},
    quic::Windows,
    transport,
};
use super::lanes;

/// It runs only while one of its futures is awaited.
pub(super) struct Stranger {
    swarm: Swarm<libp2p_stream::Behaviour>,
    me: PeerId,
    member: Option<PeerId>,
    messages: libp2p_stream::IncomingStreams,
    taken: Vec<libp2p::Stream>,
}

impl Stranger {
    /// Dials a member, with the handshake of this network.
    pub(super) async fn connect(network: &str, to: SocketAddr) -> Self {
        Self::connect_as(&Identity::generate(), &format!("atoll {network}"), address::of_socket(Carrier::Tcp, to)).await
    }

    /// The same with this key, this prologue and any carrier.
    pub(super) async fn connect_as(identity: &Identity, prologue: &str, to: Multiaddr) -> Self {
        let mut swarm = swarm(identity, prologue);
        // It takes messages and reads none: what is not taken would be a reason to cut it.
        let messages = swarm.behaviour().new_control().accept(StreamProtocol::new("/atoll/test/rpc/1")).unwrap();
        swarm.dial(to).unwrap();
        let member = loop {
            match swarm.select_next_some().await {
                swarm::SwarmEvent::ConnectionEstablished { peer_id, .. } => break Some(peer_id),
                swarm::SwarmEvent::OutgoingConnectionError { .. } => break None,
                _ => {}
            }
        };
        Self { swarm, me: identity.peer_id(), member, messages, taken: Vec::new() }
    }

    /// Listens where a member will dial it, and answers the member's greeting with these papers, or not at all. Returns what of the
    /// overlay the member sent until it hung up: bytes on substreams for messages or byte streams.
    pub(super) async fn pose(
        identity: &Identity,
        prologue: &str,
        carrier: Carrier,
        papers: Option<Papers>,
        told: oneshot::Sender<Multiaddr>,
    ) -> Vec<u8> {
        let mut swarm = swarm(identity, prologue);
        let listen = address::of_socket(carrier, SocketAddr::from(([127, 0, 0, 1], 0)));
        swarm.listen_on(listen).unwrap();
        let mut control = swarm.behaviour().new_control();
        let mut auth = control.accept(StreamProtocol::new("/atoll/test/auth/1")).unwrap();
        let mut rpc = control.accept(StreamProtocol::new("/atoll/test/rpc/1")).unwrap();
        let mut http = control.accept(StreamProtocol::new("/http/1.1")).unwrap();
        let (mut told, mut leaked, mut greeted) = (Some(told), Vec::new(), Vec::new());
        loop {
            tokio::select! {
                event = swarm.select_next_some() => match event {
                    swarm::SwarmEvent::NewListenAddr { address, .. } => told.take().unwrap().send(address).unwrap(),
                    swarm::SwarmEvent::ConnectionClosed { .. } => return leaked,
                    _ => {}
                },
                Some((_, mut stream)) = auth.next() => {
                    if let Some(papers) = papers.clone() {
                        let greeting = Greeting { papers, purpose: Purpose::Link, addresses: Vec::new() }.encode();
                        FrameWriter::send(&mut stream, &greeting).await.unwrap();
                    }
                    greeted.push(stream);
                }
                Some((_, mut stream)) = rpc.next() => drop(stream.read_to_end(&mut leaked).await),
                Some((_, mut stream)) = http.next() => drop(stream.read_to_end(&mut leaked).await),
            }
        }
    }

    /// Whether the handshake failed.
    pub(super) const fn is_refused(&self) -> bool {
        self.member.is_none()
    }

    /// Opens a substream, writes these bytes, and returns what comes back until it ends.
    pub(super) async fn say(&mut self, protocol: &'static str, bytes: &[u8]) -> Vec<u8> {
        let mut control = self.swarm.behaviour().new_control();
        let member = self.member.unwrap();
        let talk = async move {
            let mut answer = Vec::new();
            if let Ok(mut stream) = control.open_stream(member, StreamProtocol::new(protocol)).await {
                let _ = stream.write_all(bytes).await;
                let _ = stream.flush().await;
                let _ = stream.read_to_end(&mut answer).await;
            }
            answer
        };
        tokio::pin!(talk);
        loop {
            tokio::select! {
                answer = &mut talk => return answer,
                Some((_, stream)) = self.messages.next() => self.taken.push(stream),
                _ = self.swarm.select_next_some() => {}
            }
        }
    }

    /// Shows a certificate that is good but for what is spoilt, and returns the member's, if it shows one.
    pub(super) async fn greet(&mut self, spoil: fn(&mut NodeCert)) -> Option<Greeting> {
        let mut cert = NodeCert::self_made("test", &self.me, 4_000_000_000);
        spoil(&mut cert);
        self.show(Papers::SelfMade(cert)).await
    }

    /// Shows these papers, and returns the member's greeting, if it shows one.
    pub(super) async fn show(&mut self, papers: Papers) -> Option<Greeting> {
        let greeting = Greeting { papers, purpose: Purpose::Link, addresses: Vec::new() }.encode();
        let mut frame = Vec::new();
        FrameWriter::send(&mut frame, &greeting).await.unwrap();
        let answer = self.say("/atoll/test/auth/1", &frame).await;
        if answer.is_empty() {
            return None;
        }
        let reply = FrameReader::new(GREETING_LIMIT).next(&mut answer.as_slice()).await.unwrap();
        Some(Greeting::decode(&reply).unwrap())
    }

    /// Waits until the member has closed the connection.
    pub(super) async fn closed(&mut self) {
        while self.swarm.connected_peers().next().is_some() {
            self.swarm.select_next_some().await;
        }
    }
}

fn swarm(identity: &Identity, prologue: &str) -> Swarm<libp2p_stream::Behaviour> {
    let settings = transport::Settings {
        prologue: prologue.to_owned(),
        source: None,
        streams: 16,
        knocks: 16,
        knocks_per_prefix: 16,
        timeout: Duration::from_secs(5),
        windows: Windows::of(&Config::default()),
        keep_alive: Duration::from_secs(30),
    };
    let transport = transport::build(identity, &settings, &lanes()).unwrap();
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(60));
    Swarm::new(transport, libp2p_stream::Behaviour::new(), identity.peer_id(), config)
}

pub(super) fn other_network(cert: &mut NodeCert) {
    cert.network = "other".to_owned();
}

pub(super) fn other_peer(cert: &mut NodeCert) {
    cert.peer_id = PeerId::random().to_bytes();
}

pub(super) fn expired(cert: &mut NodeCert) {
    cert.not_after = 1;
}

pub(super) fn serial(cert: &mut NodeCert) {
    cert.serial = 1;
}
