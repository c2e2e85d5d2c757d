//! How bytes reach another node: names resolved, TCP, Noise with the network's name as prologue (so that nodes of different networks
//! fail in the handshake), yamux.
//!
//! libp2p's own TCP dials either from wherever the system likes or, with port reuse, from the listening port, which allows one
//! connection per peer address and silently falls back to the former. [`Tcp`] dials from a configured source address and any port.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use libp2p::{
    Multiaddr, PeerId,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, DialOpts, ListenerId, Transport, TransportError, TransportEvent},
        upgrade::Version,
    },
    dns, noise, tcp, yamux,
};
use tokio::net::{TcpSocket, TcpStream};
use tracing::warn;

use super::{address, identity::Identity};

/// What the transport needs to know of the configuration.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// What both ends of a handshake must know.
    pub(super) prologue: String,
    pub(super) source: Option<IpAddr>,
    pub(super) streams: usize,
    pub(super) timeout: Duration,
}

/// The whole stack.
pub(super) fn build(identity: &Identity, settings: &Settings) -> Result<Boxed<(PeerId, StreamMuxerBox)>, String> {
    let noise = noise::Config::new(identity.keypair()).map_err(|error| error.to_string())?;
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(settings.streams);
    let tcp =
        || Tcp { inner: tcp::tokio::Transport::new(tcp::Config::default().nodelay(true)), source: settings.source };
    let named = dns::tokio::Transport::system(tcp()).unwrap_or_else(|error| {
        warn!(%error, "the system's resolver configuration cannot be read: nodes are dialled by address only");
        dns::tokio::Transport::custom(tcp(), dns::ResolverConfig::default(), dns::ResolverOpts::default())
    });
    Ok(named
        .upgrade(Version::V1Lazy)
        .authenticate(noise.with_prologue(settings.prologue.clone().into_bytes()))
        .multiplex(yamux)
        .timeout(settings.timeout)
        .boxed())
}

/// libp2p's TCP transport, but for the address that dials start from.
struct Tcp {
    inner: tcp::tokio::Transport,
    source: Option<IpAddr>,
}

impl Transport for Tcp {
    type Output = tcp::tokio::TcpStream;
    type Error = io::Error;
    type ListenerUpgrade = <tcp::tokio::Transport as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<tcp::tokio::TcpStream>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, _: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let Some(to) = address::socket(&address) else { return Err(TransportError::MultiaddrNotSupported(address)) };
        let source = self.source.filter(|source| source.is_ipv4() == to.is_ipv4());
        Ok(Box::pin(connect(to, source)))
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

async fn connect(to: SocketAddr, source: Option<IpAddr>) -> io::Result<tcp::tokio::TcpStream> {
    let stream = match source {
        Some(source) => {
            let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.bind(SocketAddr::new(source, 0))?;
            socket.connect(to).await?
        }
        None => TcpStream::connect(to).await?,
    };
    stream.set_nodelay(true)?;
    Ok(tcp::tokio::TcpStream(stream))
}
