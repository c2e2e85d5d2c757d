//! One node whole, in this process: what its parts tell each other.

use std::net::SocketAddr;

use atoll_proxy::{Share, Site, SiteOrigin};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;
use crate::config::Role;

/// An origin that says the same to everybody.
async fn origin(body: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4_096];
            let _ = stream.read(&mut head).await;
            let answer =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {body}\r\n\r\n{}", "x".repeat(body));
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

/// Waits until the network is told this of the node: weight and quota left.
async fn described(node: &Node, expected: (u16, Option<u64>)) {
    let told = || {
        node.parts.describe();
        let me = node.index().me();
        (me.weight, me.quota_left)
    };
    let soon = async {
        while told() != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(Duration::from_secs(60), soon).await.is_ok(), "it says {:?}, not {expected:?}", told());
}

// Design 4: over quota, DNS weight down, then out of DNS; users U6: also after a restart.
#[tokio::test]
async fn a_node_tells_the_network_what_is_left_of_its_share_also_after_a_restart() {
    let origin = origin(9_600).await;
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.node.roles = vec![Role::Proxy];
    config.node.state = folder.path().join("state");
    config.admin.socket = folder.path().join("admin.sock");
    config.overlay.listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
    config.proxy.listen = vec![([127, 0, 0, 1], 0).into()];
    config
        .proxy
        .sites
        .insert("*".to_owned(), Site { origin: SiteOrigin::One(format!("http://{origin}")), ..Site::default() });
    config.proxy.fairness.node = Share { monthly: 10_000, ..Share::default() };
    let node = Node::start(config.clone()).await.unwrap();
    described(&node, (100, Some(10_000))).await;
    let at = node.proxy().unwrap().local_addrs()[0];
    let mut client = TcpStream::connect(at).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: any.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(60), client.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 ") && answer.len() > 9_600);
    described(&node, (0, Some(0))).await;
    node.stop().await;
    let again = Node::start(config).await.unwrap();
    described(&again, (0, Some(0))).await;
    again.stop().await;
}
