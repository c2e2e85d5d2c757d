//! Nodes of a network in this process, and an origin that counts.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use atoll_overlay::{
    Index, LevelInfo, NodeInfo, Roles, Streams,
    driver::{self, Identity, Overlay},
};
use atoll_proxy::{Origins, Proxy};
use atoll_store::Store;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::told;

/// The carriers, with what a node listens on.
pub(super) const CARRIERS: [(&str, &str); 2] =
    [("tcp", "/ip4/127.0.0.1/tcp/0"), ("quic", "/ip4/127.0.0.1/udp/0/quic-v1")];

/// A node of the overlay that joins by these.
pub(super) async fn overlay(listen: &str, bootstrap: Vec<String>) -> Result<Overlay, String> {
    let config = driver::Config {
        network: "bench".to_owned(),
        listen: vec![listen.to_owned()],
        bootstrap,
        admission: driver::Admission::Open,
        // The bound is what one peer may ask in earnest; here one peer asks all it can.
        messages_per_peer: 1_000_000,
        ..driver::Config::default()
    };
    let identity = Identity::generate();
    let info = NodeInfo { v4: vec![Ipv4Addr::LOCALHOST], ..NodeInfo::new(identity.node_id("bench", 0), Roles::PROXY) };
    driver::start(config, atoll_overlay::Config::default(), &identity, info, None).await.map_err(told)
}

/// So many nodes that all know one another.
pub(super) async fn overlays(listen: &str, count: usize) -> Result<Vec<Overlay>, String> {
    let seed = overlay(listen, Vec::new()).await?;
    let seeds = seed.listen_multiaddrs();
    let mut nodes = vec![seed];
    while nodes.len() < count {
        nodes.push(overlay(listen, seeds.clone()).await?);
    }
    acquainted(&nodes).await?;
    Ok(nodes)
}

/// Waits until all know all.
pub(super) async fn acquainted(nodes: &[Overlay]) -> Result<(), String> {
    let why = "the nodes did not find one another";
    all_know_all(nodes, Duration::from_secs(60), why, |levels| levels.first()).await
}

/// Waits until all are in one nearest cluster, as nodes within 20 ms are: what is said of near peers holds for them then.
pub(super) async fn near(nodes: &[Overlay]) -> Result<(), String> {
    let why = "the nodes did not become one cluster";
    all_know_all(nodes, Duration::from_secs(120), why, |levels| levels.last()).await
}

/// Waits until each node has all others as neighbours in the level that is picked of its own.
async fn all_know_all(
    nodes: &[Overlay],
    limit: Duration,
    why: &str,
    pick: impl Fn(&[LevelInfo]) -> Option<&LevelInfo>,
) -> Result<(), String> {
    let knows = |node: &Overlay| pick(&node.levels()).map_or(0, |level| level.neighbours.len());
    let deadline = Instant::now() + limit;
    while nodes.iter().any(|node| knows(node) + 1 < nodes.len()) {
        if Instant::now() > deadline {
            return Err(why.to_owned());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A proxy on a node, in front of an origin.
pub(super) fn proxy(node: &Overlay, origin: &Origin, store: Store) -> Result<Proxy, String> {
    let mut config = atoll_proxy::Config {
        listen: Vec::new(),
        origins: Origins::Listed(vec![format!("*.test:{}", origin.address.port()), origin.site(0)]),
        allow_ranges: vec!["127.0.0.0/8".parse().map_err(told)?],
        ..atoll_proxy::Config::default()
    };
    for site in 0..SITES {
        config.hosts.insert(format!("s{site}.test"), vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    }
    config.limits.requests = 20_000;
    config.limits.waiters = 20_000;
    config.limits.object = 4 << 30;
    config.peers.recheck_one_in = 0;
    let (index, streams) = (Arc::new(node.clone()) as Arc<dyn Index>, Arc::new(node.clone()) as Arc<dyn Streams>);
    Proxy::start(config, index, streams, store).map_err(told)
}

/// Asks a proxy, in this process; the status and the bytes of the body.
pub(super) async fn get(proxy: &Proxy, host: &str, path: &str) -> Result<(StatusCode, u64), String> {
    let request = Request::get(path).header("host", host).body(()).map_err(told)?;
    let response = proxy.answer(request).await;
    let status = response.status();
    let mut body = response.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(told)?.into_data() {
            bytes += data.len() as u64;
        }
    }
    if status == StatusCode::OK { Ok((status, bytes)) } else { Err(format!("{host}{path}: {status}")) }
}

/// Waits until a proxy fetches nothing.
pub(super) async fn idle(proxy: &Proxy) {
    while proxy.stats().flights > 0 {
        sleep(Duration::from_millis(1)).await;
    }
}

/// An origin that sends so many bytes under every path.
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    requests: Arc<AtomicU64>,
}

impl Origin {
    pub(super) async fn start(bytes: u64) -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(told)?;
        let address = listener.local_addr().map_err(told)?;
        let requests = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, bytes, Arc::clone(&count)));
            }
        });
        Ok(Self { address, requests })
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// One of its sites as an origin.
    pub(super) fn site(&self, number: usize) -> String {
        format!("s{number}.test:{}", self.address.port())
    }

    /// The same under its Coralized name.
    pub(super) fn host(&self, number: usize) -> String {
        format!("s{number}.test.{}.nyud.example", self.address.port())
    }
}

async fn serve(mut stream: TcpStream, bytes: u64, requests: Arc<AtomicU64>) {
    let block = Bytes::from(vec![7; 256 << 10]);
    let mut head = Vec::new();
    loop {
        if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
            return;
        }
        let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        head.drain(..end + 4);
        requests.fetch_add(1, Ordering::SeqCst);
        let fields = format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=3600\r\nContent-Length: {bytes}\r\n\r\n");
        if stream.write_all(fields.as_bytes()).await.is_err() {
            return;
        }
        let mut left = bytes;
        while left > 0 {
            let piece = block.slice(..usize::try_from(left).unwrap_or(usize::MAX).min(block.len()));
            left -= piece.len() as u64;
            if stream.write_all(&piece).await.is_err() {
                return;
            }
        }
    }
}

/// Sites that every origin has.
pub(super) const SITES: usize = 200;
