//! The way between two nodes on loopback: a door for each node, before which every connection is held back, both ways, by half the
//! round trip between its ends, in order. Nodes dial from addresses of their own, by which the relay tells who comes.
//!
//! A TCP handshake is answered at the door at once; only what is sent afterwards is late.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
};

/// Half the round trip between any two nodes, by their numbers.
pub(super) type Delays = Arc<Vec<Vec<Duration>>>;

/// The address that a node's connections come from.
pub(super) fn source(node: usize) -> IpAddr {
    let [.., high, low] = u32::try_from(node).unwrap_or(u32::MAX).to_be_bytes();
    Ipv4Addr::new(127, 77, high, low).into()
}

/// Which node this is the address of.
fn node_at(address: IpAddr) -> Option<usize> {
    match address {
        IpAddr::V4(v4) => match v4.octets() {
            [127, 77, high, low] => Some(usize::from(high) << 8 | usize::from(low)),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

/// All doors; dropping it cuts every connection.
pub(super) struct Relay {
    delays: Delays,
    alarms: Arc<Alarms>,
    tasks: JoinSet<()>,
}

impl Relay {
    pub(super) fn new(delays: Delays) -> io::Result<Self> {
        Ok(Self { delays, alarms: Arc::new(Alarms::start()?), tasks: JoinSet::new() })
    }

    /// Whoever comes to this door is led to a node.
    pub(super) fn open(&mut self, door: TcpListener, node: usize, target: SocketAddr) {
        let (delays, alarms) = (Arc::clone(&self.delays), Arc::clone(&self.alarms));
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, from)) = door.accept().await {
                while connections.try_join_next().is_some() {}
                let delay = node_at(from.ip()).and_then(|other| delays.get(other)?.get(node)).copied();
                let Some(delay) = delay else { continue };
                connections.spawn(lead(client, from.ip(), target, delay, Arc::clone(&alarms)));
            }
        });
    }
}

/// A door that is not open yet: who comes waits.
pub(super) async fn door() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
}

async fn lead(client: TcpStream, from: IpAddr, target: SocketAddr, delay: Duration, alarms: Arc<Alarms>) {
    let Ok(node) = dial(from, target).await else { return };
    if client.set_nodelay(true).is_err() || node.set_nodelay(true).is_err() {
        return;
    }
    let (client_in, client_out) = client.into_split();
    let (node_in, node_out) = node.into_split();
    tokio::join!(hold_back(client_in, node_out, delay, &alarms), hold_back(node_in, client_out, delay, &alarms));
}

async fn dial(from: IpAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(target).await
}

/// Copies one direction, each piece late by the delay; the end is late too.
async fn hold_back(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: Duration,
    alarms: &Alarms,
) {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    let read = async move {
        let mut buffer = vec![0; PIECE];
        loop {
            let count = from.read(&mut buffer).await.unwrap_or(0);
            let piece = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
            if sender.send((Instant::now() + delay, piece)).await.is_err() || count == 0 {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = under_way.recv().await {
            alarms.wait_until(due).await;
            let done = if piece.is_empty() { to.shutdown().await } else { to.write_all(&piece).await };
            if done.is_err() || piece.is_empty() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}

/// A thread that wakes tasks: the runtime's own timer does so only every millisecond, which is much of a short way.
struct Alarms(Arc<Clock>);

#[derive(Default)]
struct Clock {
    set: Mutex<Set>,
    changed: Condvar,
}

/// What is to be woken, and when; the number keeps those of one moment apart.
#[derive(Default)]
struct Set {
    waiting: BTreeMap<(Instant, u64), oneshot::Sender<()>>,
    number: u64,
    over: bool,
}

impl Alarms {
    fn start() -> io::Result<Self> {
        let clock = Arc::new(Clock::default());
        let own = Arc::clone(&clock);
        thread::Builder::new().name("delays".to_owned()).spawn(move || own.run())?;
        Ok(Self(clock))
    }

    async fn wait_until(&self, due: Instant) {
        let (sender, woken) = oneshot::channel();
        {
            let mut set = self.0.set.lock().unwrap_or_else(PoisonError::into_inner);
            set.number += 1;
            let key = (due, set.number);
            let first = set.waiting.first_key_value().is_none_or(|(first, _)| key < *first);
            set.waiting.insert(key, sender);
            if first {
                self.0.changed.notify_one();
            }
        }
        // It ends without a word only when the relay does.
        let _ = woken.await;
    }
}

impl Drop for Alarms {
    fn drop(&mut self) {
        self.0.set.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        self.0.changed.notify_one();
    }
}

impl Clock {
    fn run(&self) {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        while !set.over {
            let now = Instant::now();
            set = match set.waiting.first_key_value().map(|((due, _), _)| *due) {
                None => self.changed.wait(set).unwrap_or_else(PoisonError::into_inner),
                Some(due) if due > now => {
                    self.changed.wait_timeout(set, due - now).unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    if let Some((_, sleeper)) = set.waiting.pop_first() {
                        // A connection that was cut meanwhile has nobody to be woken.
                        let _ = sleeper.send(());
                    }
                    set
                }
            };
        }
    }
}

/// Bytes read at once.
const PIECE: usize = 16 * 1024;

/// Pieces under way in one direction; a full pipe holds the sender back.
const PIECES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_come_in_order_and_never_sooner_than_the_way_takes() {
        let way = Duration::from_millis(30);
        let mut relay = Relay::new(Arc::new(vec![vec![way; 2]; 2])).unwrap();
        let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let entrance = door().await.unwrap();
        let at = entrance.local_addr().unwrap();
        relay.open(entrance, 1, node.local_addr().unwrap());
        let mut client = dial(source(0), at).await.unwrap();
        let (mut far, from) = node.accept().await.unwrap();
        assert_eq!(from.ip(), source(0), "the node sees who comes");
        let sent = Instant::now();
        for number in 0..100_u8 {
            client.write_all(&[number]).await.unwrap();
        }
        let mut got = [0; 100];
        far.read_exact(&mut got).await.unwrap();
        assert!(sent.elapsed() >= way);
        assert!((0..100).eq(got));
        let sent = Instant::now();
        far.write_all(b"back").await.unwrap();
        drop(far);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert!(sent.elapsed() >= way && rest == b"back");
    }

    #[tokio::test]
    async fn strangers_find_the_door_shut() {
        let mut relay = Relay::new(Arc::new(vec![vec![Duration::ZERO; 2]; 2])).unwrap();
        let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let entrance = door().await.unwrap();
        let at = entrance.local_addr().unwrap();
        relay.open(entrance, 1, node.local_addr().unwrap());
        let mut stranger = TcpStream::connect(at).await.unwrap();
        assert_eq!(stranger.read(&mut [0]).await.unwrap_or(0), 0);
        assert_eq!(node_at(source(300)), Some(300));
    }
}
