//! Which socket a connection leaves from, and what both sides of it are held to.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::{FutureExt as _, StreamExt as _, stream::SelectAll};
use libp2p::{
    Multiaddr, PeerId,
    core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
    identity::Keypair,
    multiaddr::Protocol,
};
use quinn::{ClientConfig, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig, VarInt};
use socket2::{Domain, Socket, Type};

use super::{
    connection::{Connection, Handshake, shake_hands},
    listener::{Listener, Unproven},
    runtime::{Runtime, Seat},
    tls,
    udp::Udp,
    window::Growth,
};
use crate::driver::transport::Settings;

/// QUIC to and from other nodes.
pub(in crate::driver) struct Transport {
    endpoint: EndpointConfig,
    server: ServerConfig,
    client: ClientConfig,
    listeners: SelectAll<Listener>,
    /// The address that dials start from; if none, the system chooses.
    source: Option<IpAddr>,
    unproven: Unproven,
    growth: Growth,
    /// What links leave from where nothing listens, by IPv4 and by IPv6.
    dialers: [Option<Endpoint>; 2],
    /// To be woken when it listens on more.
    waker: Option<Waker>,
}

/// Why there is no connection, or not any more.
#[derive(Debug, thiserror::Error)]
pub(in crate::driver) enum Error {
    /// The system refused a socket.
    #[error("no UDP socket: {0}")]
    Socket(#[from] io::Error),
    /// It was not even begun.
    #[error("no QUIC connection can be begun: {0}")]
    Connect(#[from] quinn::ConnectError),
    /// It failed, or ended.
    #[error("QUIC: {0}")]
    Connection(#[from] quinn::ConnectionError),
    /// The peer showed no certificate that names it.
    #[error("the peer did not say who it is")]
    Nobody,
}

impl Transport {
    /// One that neither listens nor has dialled.
    ///
    /// # Errors
    /// No certificate can be made for the key.
    pub(in crate::driver) fn new(keypair: &Keypair, settings: &Settings) -> Result<Self, String> {
        let (client, server) = tls::configs(keypair)?;
        let transport = Arc::new(terms(settings));
        let mut client = ClientConfig::new(Arc::new(client));
        client.transport_config(Arc::clone(&transport));
        let mut server = ServerConfig::with_crypto(Arc::new(server));
        // A connection is known by its peer's address.
        server.transport_config(transport).migration(false);
        server
            .max_incoming(settings.knocks.min(KNOCKS))
            .incoming_buffer_size(KNOCK_BYTES)
            .incoming_buffer_size_total(KNOCKS_BYTES);
        // Most addresses need not prove themselves first, so that there is little that a token would spare.
        server.validation_token.sent(0);
        let mut endpoint = EndpointConfig::default();
        endpoint.supported_versions(vec![1]);
        endpoint.max_udp_payload_size(DATAGRAM).map_err(|error| error.to_string())?;
        let (listeners, dialers) = (SelectAll::new(), [None, None]);
        let (unproven, growth) = (Unproven::new(settings.knocks_per_prefix / 2), Growth::of(settings.windows));
        let source = settings.source;
        Ok(Self { endpoint, server, client, listeners, source, unproven, growth, dialers, waker: None })
    }

    /// The endpoint on a socket of that address.
    pub(super) fn bind(&self, at: SocketAddr, server: Option<ServerConfig>) -> io::Result<Endpoint> {
        let socket = roomy(Domain::for_address(at))?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&at.into())?;
        let socket = Udp::new(socket.into())?;
        Endpoint::new_with_abstract_socket(self.endpoint.clone(), server, socket, Arc::new(Runtime))
    }

    /// An endpoint to dial from.
    pub(super) fn dialer(&mut self, to: IpAddr, port_use: PortUse) -> io::Result<Endpoint> {
        let any = if to.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        let source = self.source.filter(|source| source.is_ipv4() == to.is_ipv4());
        let own = SocketAddr::new(source.unwrap_or(any), 0);
        if port_use == PortUse::New {
            return self.bind(own, None);
        }
        let leading = self.listeners.iter().filter(|listener| listener.leads_to(to));
        let leading = leading.filter(|listener| source.is_none_or(|source| listener.local.ip() == source));
        // Always the same one of several, and rather one that leads everywhere.
        if let Some(listener) = leading.min_by_key(|listener| (!listener.is_wild(), listener.local)) {
            return Ok(listener.endpoint.clone());
        }
        if let Some(endpoint) = &self.dialers[usize::from(to.is_ipv6())] {
            return Ok(endpoint.clone());
        }
        let endpoint = self.bind(own, None)?;
        self.dialers[usize::from(to.is_ipv6())] = Some(endpoint.clone());
        Ok(endpoint)
    }
}

impl libp2p::core::Transport for Transport {
    type Output = (PeerId, Connection);
    type Error = Error;
    type ListenerUpgrade = Handshake;
    type Dial = Handshake;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Error>> {
        let at = socket(&address).ok_or(TransportError::MultiaddrNotSupported(address))?;
        let listening = self.bind(at, Some(self.server.clone())).and_then(|endpoint| {
            let local = SocketAddr::new(at.ip(), endpoint.local_addr()?.port());
            Listener::new(id, endpoint, local, self.unproven.clone(), self.growth.clone())
        });
        self.listeners.push(listening.map_err(|error| TransportError::Other(error.into()))?);
        // Dials leave from here now; the socket that they left from goes with the last connection on it.
        self.dialers[usize::from(at.is_ipv6())] = None;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let listener = self.listeners.iter_mut().find(|listener| listener.id == id);
        listener.map(Listener::close).is_some()
    }

    fn dial(&mut self, address: Multiaddr, opts: DialOpts) -> Result<Handshake, TransportError<Error>> {
        let to = socket(&address).filter(|to| to.port() != 0 && !to.ip().is_unspecified() && opts.role.is_dialer());
        let Some(to) = to else { return Err(TransportError::MultiaddrNotSupported(address)) };
        let endpoint = self.dialer(to.ip(), opts.port_use).map_err(|error| TransportError::Other(error.into()))?;
        let (client, growth) = (self.client.clone(), self.growth.clone());
        let handshake = async move {
            let (begun, seat) = Seat::offer(|| endpoint.connect_with(client, to, NAME));
            shake_hands(begun?, seat, growth).await
        };
        Ok(handshake.boxed())
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Handshake, Error>> {
        if let Poll::Ready(Some(event)) = self.listeners.poll_next_unpin(cx) {
            return Poll::Ready(event);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// What a connection is held to.
fn terms(settings: &Settings) -> quinn::TransportConfig {
    let streams = u32::try_from(settings.streams / 2).unwrap_or(u32::MAX);
    let idle = u32::try_from(settings.keep_alive.as_millis().saturating_mul(2)).unwrap_or(u32::MAX);
    let window = |bytes: usize| VarInt::from_u32(u32::try_from(bytes).unwrap_or(u32::MAX));
    let mut lengths = MtuDiscoveryConfig::default();
    lengths.upper_bound(DATAGRAM);
    let mut terms = quinn::TransportConfig::default();
    terms
        .max_concurrent_uni_streams(0_u32.into())
        // As in yamux, half of the streams are for each side.
        .max_concurrent_bidi_streams(streams.into())
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(settings.keep_alive))
        .max_idle_timeout(Some(VarInt::from_u32(idle).into()))
        .allow_spin(false)
        .stream_receive_window(window(settings.windows.stream))
        .receive_window(window(settings.windows.first))
        .send_window(window(settings.windows.first).into_inner())
        .mtu_discovery_config(Some(lengths));
    terms
}

/// A socket with room for as much as the system allows of [`RECEIVE`], and for what it gives by itself if that is more.
fn roomy(domain: Domain) -> io::Result<Socket> {
    let socket = || Socket::new(domain, Type::DGRAM, Some(socket2::Protocol::UDP));
    let asked = socket()?;
    let given = asked.recv_buffer_size()?;
    if given >= RECEIVE {
        return Ok(asked);
    }
    let _ = asked.set_recv_buffer_size(RECEIVE);
    if asked.recv_buffer_size()? < given { socket() } else { Ok(asked) }
}

/// The UDP address of a QUIC multiaddr, with or without the peer that is expected there.
pub(super) fn socket(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let (host, port, version) = (parts.next()?, parts.next()?, parts.next()?);
    let ends = parts.all(|part| matches!(part, Protocol::P2p(_)));
    match (host, port, version) {
        (Protocol::Ip4(ip), Protocol::Udp(port), Protocol::QuicV1) if ends => Some((ip, port).into()),
        (Protocol::Ip6(ip), Protocol::Udp(port), Protocol::QuicV1) if ends => Some((ip, port).into()),
        _ => None,
    }
}

/// The longest datagram, bytes, that is sent where a path is found to take it, and that is taken. Connections begin with 1,200, and
/// each probes what its path takes [RFC 8899]: 1,472 by Ethernet and IPv4. Ten of this length are as much as the system takes in one
/// call, and quinn gives it ten.
pub(super) const DATAGRAM: u16 = 6_500;

/// Bytes of datagrams that the system may hold for a socket until they are read, where it allows so many. A
/// common 208 KiB overflow while the reader's thread waits for its turn. `[measured]`
const RECEIVE: usize = 2 << 20;

/// Handshakes at most that wait to be taken up, which each is when its listener is polled, and bytes at most that are kept of one,
/// and of all, until then; a first datagram of each comes on top. Others are not heard, and try again. `[guess]`
pub(super) const KNOCKS: usize = 1_024;
const KNOCK_BYTES: u64 = 64 << 10;
const KNOCKS_BYTES: u64 = 8 << 20;

/// The name of a server means nothing between peers, and may not be empty.
const NAME: &str = "l";
