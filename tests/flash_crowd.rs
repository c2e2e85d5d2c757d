//! A flash crowd: 500 clients at five nodes want one cold file from a slow origin, and the origin is asked once.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinSet};

use crate::support::{Network, Origin, digest, eventually};

/// Clients that ask at once.
const CLIENTS: usize = 500;
/// Nodes they ask.
const NODES: usize = 5;
/// Bytes of the file.
const FILE: usize = 5 * 1024 * 1024;
/// Bytes a second that the origin sends: the download takes five seconds.
const SLOW: u64 = 1024 * 1024;
/// What a node may grow by at its peak: far less than 100 clients times the file, enough for one copy, its index and buffers.
const MEMORY: u64 = 160 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_clients_cost_the_origin_one_request() {
    let folder = TempDir::new().unwrap();
    let body = body();
    let origin = Origin::start(body.clone(), SLOW).await;
    let network = Network::start(folder.path(), NODES, &origin).await;
    let before: Vec<_> = network.nodes.iter().map(|node| node.process.peak_memory().unwrap_or(0)).collect();
    // The first client asks, so that its node leads, and hangs up.
    let first = network.nodes[0].http;
    let mut hasty = TcpStream::connect(first).await.unwrap();
    let request = format!("GET /crowd HTTP/1.1\r\nHost: {}\r\n\r\n", network.host);
    hasty.write_all(request.as_bytes()).await.unwrap();
    eventually("the origin has been asked", async || origin.requests() == 1).await;
    drop(hasty);
    let proxies: Vec<_> = network.nodes.iter().map(|node| node.http).collect();
    let digests = crowd(&proxies, &network.host, "/crowd").await;
    assert_eq!(digests, BTreeSet::from([Ok(format!("200 {}", blake3::hash(&body)))]), "{}", network.logs());
    assert_eq!(origin.requests(), 1, "{}", network.logs());
    for (node, before) in network.nodes.iter().zip(before) {
        let grown = node.process.peak_memory().unwrap_or(0).saturating_sub(before);
        assert!(grown < MEMORY, "a node grew by {grown} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_the_leading_node_costs_one_more_request() {
    let folder = TempDir::new().unwrap();
    let body = body();
    // Slow enough that the leader cannot be done before it is killed, however busy the machine.
    let origin = Origin::start(body.clone(), SLOW / 4).await;
    let mut network = Network::start(folder.path(), NODES, &origin).await;
    let leader = network.nodes[0].http;
    let host = network.host.clone();
    let lost = tokio::spawn({
        let host = host.clone();
        async move { digest(leader, &host, "/crowd").await }
    });
    eventually("the origin has been asked", async || origin.requests() == 1).await;
    let others: Vec<_> = network.nodes[1..].iter().map(|node| node.http).collect();
    let crowd = tokio::spawn(async move { crowd(&others, &host, "/crowd").await });
    eventually("others stream from the leader", async || network.streaming().await >= 2).await;
    network.nodes[0].process.kill();
    let digests = crowd.await.unwrap();
    assert_eq!(digests, BTreeSet::from([Ok(format!("200 {}", blake3::hash(&body)))]), "{}", network.logs());
    assert!(lost.await.unwrap().is_err(), "the killed node's own client cannot have got the whole file");
    assert!(origin.requests() <= 2, "{} requests\n{}", origin.requests(), network.logs());
}

/// All clients at once, spread over the proxies; what they got, by digest, or why they got nothing.
async fn crowd(proxies: &[SocketAddr], host: &str, path: &str) -> BTreeSet<Result<String, String>> {
    let host: Arc<str> = host.into();
    let path: Arc<str> = path.into();
    let mut clients = JoinSet::new();
    for proxy in proxies.iter().copied().cycle().take(CLIENTS) {
        let (host, path) = (Arc::clone(&host), Arc::clone(&path));
        clients.spawn(async move { digest(proxy, &host, &path).await });
    }
    clients.join_all().await.into_iter().collect()
}

fn body() -> Bytes {
    (0..FILE).map(|place| u8::try_from(place.wrapping_mul(2_654_435_761) >> 13 & 0xFF).unwrap()).collect()
}
