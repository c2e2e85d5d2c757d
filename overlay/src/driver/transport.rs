//! How bytes reach another node. Names are resolved; then TCP, Noise with the network's name as prologue (so that nodes of different
//! networks fail in the handshake) and yamux, or QUIC, where TLS has no place for it and the exchange of certificates tells networks
//! apart. QUIC sends at most three times what it received before an address has answered [RFC 9000 8.1].
//!
//! libp2p's own TCP dials either from wherever the system likes or, with port reuse, from the listening port, which allows one
//! connection per peer address and silently falls back to the former. [`Tcp`] dials from a configured source address and any port.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, TryFutureExt as _, future::BoxFuture};
use libp2p::{
    Multiaddr, PeerId,
    core::{
        muxing::StreamMuxerBox,
        transport::{
            Boxed, DialOpts, ListenerId, PortUse, Transport, TransportError, TransportEvent, timeout::TransportTimeout,
        },
        upgrade::Version,
    },
    dns, noise, tcp, yamux,
};
use tokio::{
    net::{TcpSocket, TcpStream},
    runtime::Handle,
};
use tracing::warn;

use super::{
    address::{self, Carrier},
    homed::Homed,
    identity::Identity,
    lanes::Lanes,
    quic,
};

/// What the transport needs to know of the configuration.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// What both ends of a handshake must know.
    pub(super) prologue: String,
    pub(super) source: Option<IpAddr>,
    pub(super) streams: usize,
    /// Handshakes that may wait to be taken up.
    pub(super) knocks: usize,
    /// The same of one prefix. Half as many by QUIC may be from addresses that have not answered yet.
    pub(super) knocks_per_prefix: usize,
    pub(super) timeout: Duration,
    /// What may be under way by QUIC.
    pub(super) windows: quic::Windows,
    /// An idle QUIC connection says that often that it lives; twice that without a word, and it is dead.
    pub(super) keep_alive: Duration,
}

/// The whole stack.
pub(super) fn build(
    identity: &Identity,
    settings: &Settings,
    lanes: &Arc<Lanes>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, String> {
    let noise = noise::Config::new(identity.keypair()).map_err(|error| error.to_string())?;
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(settings.streams);
    let noise = noise.with_prologue(settings.prologue.clone().into_bytes());
    let both = || -> Result<_, String> {
        let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
        let tcp = Tcp { inner: tcp, source: settings.source, link_bytes: lanes.link_bytes() }
            .upgrade(Version::V1Lazy)
            .authenticate(noise.clone())
            .multiplex(yamux.clone())
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
        let quic = quic::Transport::new(identity.keypair(), settings)?;
        let quic = Quic { inner: quic, source: settings.source, listens: Vec::new(), lanes: Arc::clone(lanes) }
            .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
        Ok(tcp.or_transport(quic).map(|either, _| either.into_inner()))
    };
    let named = match dns::tokio::Transport::system(both()?) {
        Ok(named) => named,
        Err(error) => {
            warn!(%error, "the system's resolver configuration cannot be read: nodes are dialled by address only");
            dns::tokio::Transport::custom(both()?, dns::ResolverConfig::default(), dns::ResolverOpts::default())
        }
    };
    Ok(TransportTimeout::new(named, settings.timeout).boxed())
}

/// QUIC, but where an address to start from is configured, it dials only if it listens there. Links leave from a
/// listening socket, and bulk connections, which ask for a new port, from a socket each.
struct Quic {
    inner: quic::Transport,
    source: Option<IpAddr>,
    /// What this node listens on by QUIC.
    listens: Vec<IpAddr>,
    lanes: Arc<Lanes>,
}

impl Transport for Quic {
    type Output = <quic::Transport as Transport>::Output;
    type Error = quic::Error;
    type ListenerUpgrade = <quic::Transport as Transport>::ListenerUpgrade;
    type Dial = <quic::Transport as Transport>::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<quic::Error>> {
        let ip = address::ip(&address);
        self.inner.listen_on(id, address)?;
        self.listens.extend(ip);
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<quic::Error>> {
        let source =
            self.source.filter(|source| Some(source.is_ipv4()) == address::ip(&address).map(|ip| ip.is_ipv4()));
        if source.is_some_and(|source| !self.listens.contains(&source)) {
            // It would leave from another address than the one configured.
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        let bulk = (opts.port_use == PortUse::New).then(|| self.lanes.bulk()).flatten();
        // The runtime that watches its socket.
        let _entered = bulk.as_ref().map(Handle::enter);
        self.inner.dial(address, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, quic::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// libp2p's TCP transport, but for the address that dials start from.
struct Tcp {
    inner: tcp::tokio::Transport,
    source: Option<IpAddr>,
    link_bytes: u64,
}

impl Transport for Tcp {
    type Output = Homed;
    type Error = io::Error;
    type ListenerUpgrade = BoxFuture<'static, io::Result<Homed>>;
    type Dial = BoxFuture<'static, io::Result<Homed>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, _: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let to = address::socket(&address).filter(|_| address::carrier(&address) == Carrier::Tcp);
        let Some(to) = to else { return Err(TransportError::MultiaddrNotSupported(address)) };
        let source = self.source.filter(|source| source.is_ipv4() == to.is_ipv4());
        Ok(Box::pin(connect(to, source, self.link_bytes)))
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        let most = self.link_bytes;
        let homed = |event: TransportEvent<_, _>| {
            event.map_upgrade(|upgrade: <tcp::tokio::Transport as Transport>::ListenerUpgrade| {
                upgrade.map_ok(move |stream| Homed::new(stream, most)).boxed()
            })
        };
        Pin::new(&mut self.inner).poll(cx).map(homed)
    }
}

async fn connect(to: SocketAddr, source: Option<IpAddr>, link_bytes: u64) -> io::Result<Homed> {
    let stream = match source {
        Some(source) => {
            let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.bind(SocketAddr::new(source, 0))?;
            socket.connect(to).await?
        }
        None => TcpStream::connect(to).await?,
    };
    stream.set_nodelay(true)?;
    Ok(Homed::new(tcp::tokio::TcpStream(stream), link_bytes))
}
