//! The relay between the demo's addresses: it listens at every public address, holds each packet back for as long as it would
//! be on its way, and passes it on to the host's private address from the sender's own address, so that both ends see each
//! other as they would across a network.
//!
//! A TCP handshake is answered by the loopback at once; only what is sent afterwards is late. So the demo switches off
//! whatever measures handshakes, and what dnssrvs ask each other to measure.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::world::{Distances, Place};

/// A running relay; dropping it cuts every connection.
pub(super) struct Relay {
    _tasks: JoinSet<()>,
}

/// The ports that are relayed at every node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    /// The proxies'.
    pub http: u16,
    /// The dnssrvs', UDP and TCP.
    pub dns: u16,
    /// The overlay's.
    pub overlay: u16,
}

impl Relay {
    /// Listens at the public address of every node. Fails if a port is taken.
    pub(super) async fn start(ports: Ports, distances: &Arc<Distances>) -> io::Result<Self> {
        let mut tasks = JoinSet::new();
        for place in Place::all() {
            for port in [ports.http, ports.dns, ports.overlay] {
                let listener = TcpListener::bind((place.public(), port)).await?;
                tasks.spawn(relay_tcp(listener, (place.private(), port).into(), Arc::clone(distances)));
            }
            let socket = UdpSocket::bind((place.public(), ports.dns)).await?;
            tasks.spawn(relay_udp(socket, (place.private(), ports.dns).into(), Arc::clone(distances)));
        }
        Ok(Self { _tasks: tasks })
    }
}

/// Ports at which every host of the world can listen: those wished for, else any that are free.
pub(super) fn free_ports(wished: Ports) -> io::Result<Ports> {
    let mut taken = Vec::new();
    let mut pick = |wish: u16| {
        let candidates = std::iter::once(wish).chain((0..64).map(|_| rand::random_range(SPARE_PORTS)));
        let port = candidates.into_iter().find(|port| !taken.contains(port) && is_free(*port));
        taken.extend(port);
        port.ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, "no port is free at every address of the demo"))
    };
    Ok(Ports { http: pick(wished.http)?, dns: pick(wished.dns)?, overlay: pick(wished.overlay)? })
}

fn is_free(port: u16) -> bool {
    let free = |address: Ipv4Addr| {
        std::net::TcpListener::bind((address, port)).is_ok() && std::net::UdpSocket::bind((address, port)).is_ok()
    };
    Place::all().all(|place| free(place.public()) && free(place.private()))
}

async fn relay_tcp(listener: TcpListener, target: SocketAddr, distances: Arc<Distances>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((client, from)) if connections.len() < CONNECTIONS => {
                connections.spawn(relay_connection(client, from.ip(), target, Arc::clone(&distances)));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "the relay could not accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn relay_connection(client: TcpStream, from: IpAddr, target: SocketAddr, distances: Arc<Distances>) {
    let Ok(server) = dial_from(from, target).await else { return };
    // Without this, small frames would wait for acknowledgements and the delay would not be ours.
    if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
        return;
    }
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let there = hold_back(client_in, server_out, (from, target.ip()), &distances);
    let back = hold_back(server_in, client_out, (target.ip(), from), &distances);
    tokio::join!(there, back);
}

async fn dial_from(from: IpAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind((from, 0).into())?;
    timeout(DIAL, socket.connect(target)).await?
}

/// Copies one direction, each piece late by the distance at the moment it came; the end of the stream is late too.
async fn hold_back(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    (a, b): (IpAddr, IpAddr),
    distances: &Distances,
) {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    let read = async move {
        let mut buffer = vec![0; PIECE];
        loop {
            let count = from.read(&mut buffer).await.unwrap_or(0);
            let piece = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
            let due = Instant::now() + distances.one_way(a, b);
            if sender.send((due, piece)).await.is_err() || count == 0 {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = under_way.recv().await {
            sleep_until(due).await;
            let done = if piece.is_empty() { to.shutdown().await } else { to.write_all(&piece).await };
            if done.is_err() || piece.is_empty() {
                return;
            }
        }
    };
    // When the receiver is gone the reader stops at its next piece; when the sender is gone the rest is still delivered.
    tokio::join!(read, write);
}

/// Passes datagrams on from a socket of the sender's own address, one a sender, and the answers back.
async fn relay_udp(socket: UdpSocket, target: SocketAddr, distances: Arc<Distances>) {
    let socket = Arc::new(socket);
    let senders: Arc<Mutex<BTreeMap<SocketAddr, Arc<UdpSocket>>>> = Arc::default();
    let mut buffer = vec![0; DATAGRAM];
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok((count, from)) = socket.recv_from(&mut buffer).await else { continue };
        let known = senders.lock().unwrap_or_else(PoisonError::into_inner).get(&from).cloned();
        let upstream = match known {
            Some(upstream) => upstream,
            None => {
                let Ok(upstream) = UdpSocket::bind((from.ip(), 0)).await else { continue };
                if tasks.len() >= DATAGRAMS || upstream.connect(target).await.is_err() {
                    continue;
                }
                let upstream = Arc::new(upstream);
                senders.lock().unwrap_or_else(PoisonError::into_inner).insert(from, Arc::clone(&upstream));
                let (back, answers, distances) = (Arc::clone(&socket), Arc::clone(&upstream), Arc::clone(&distances));
                let senders = Arc::clone(&senders);
                tasks.spawn(async move {
                    relay_answers(&answers, &back, from, target.ip(), &distances).await;
                    senders.lock().unwrap_or_else(PoisonError::into_inner).remove(&from);
                });
                upstream
            }
        };
        let due = Instant::now() + distances.one_way(from.ip(), target.ip());
        let datagram = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
        tasks.spawn(async move {
            sleep_until(due).await;
            // A lost datagram is what UDP promises.
            let _ = upstream.send(&datagram).await;
        });
    }
}

async fn relay_answers(from: &UdpSocket, back: &UdpSocket, to: SocketAddr, server: IpAddr, distances: &Distances) {
    let mut buffer = vec![0; DATAGRAM];
    while let Ok(Ok(count)) = timeout(UDP_IDLE, from.recv(&mut buffer)).await {
        sleep_until(Instant::now() + distances.one_way(server, to.ip())).await;
        let _ = back.send_to(buffer.get(..count).unwrap_or_default(), to).await;
    }
}

/// Bytes read at once.
const PIECE: usize = 16 * 1024;

/// Pieces under way in one direction; a full pipe holds the sender back, as a network would.
const PIECES: usize = 256;

/// Connections relayed at once to one port of one node.
const CONNECTIONS: usize = 1_024;

/// Bytes of the largest datagram.
const DATAGRAM: usize = 65_535;

/// Datagrams and senders under way to one node.
const DATAGRAMS: usize = 4_096;

/// How long a sender of datagrams is remembered after the last answer.
const UDP_IDLE: Duration = Duration::from_secs(10);

/// How long a node may take to accept.
const DIAL: Duration = Duration::from_secs(5);

/// How long to wait before accepting again after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where to look when a wished port is taken: below the range that systems hand out by themselves.
const SPARE_PORTS: std::ops::Range<u16> = 20_000..30_000;
