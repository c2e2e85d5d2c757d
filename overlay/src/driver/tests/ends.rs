//! How nodes end: their peers hear of it at once, and their addresses are free when they say that they have stopped.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Config, config, node, soon, until};
use crate::Streams as _;

/// An address that no other test has: the port of a node that has stopped is free for this one alone.
const LISTENS: [&str; 2] = ["/ip4/127.61.0.1/tcp/0", "/ip4/127.61.0.1/udp/0/quic-v1"];

#[tokio::test]
async fn a_node_that_has_stopped_leaves_its_address_to_the_next_at_once() {
    for listen in LISTENS {
        let listening = Config { listen: vec![listen.to_owned()], ..config(&[]) };
        let seed = node(listening.clone()).await;
        let listen = seed.listen_multiaddrs();
        let other = node(Config { bootstrap: listen.clone(), ..listening }).await;
        until("a link", || other.counts().connections_admitted > 0).await;
        let _held = soon("a stream", other.open_bulk(seed.id())).await.unwrap();
        soon("the end", seed.stop()).await;
        // It fails to start if the port is taken.
        node(Config { listen, ..config(&[]) }).await;
    }
}

#[tokio::test]
async fn who_reads_from_a_node_hears_of_its_end_long_before_pings_fail() {
    for listen in LISTENS {
        let listening = Config {
            listen: vec![listen.to_owned()],
            ping_interval: std::time::Duration::from_secs(300),
            ..config(&[])
        };
        let seed = node(listening.clone()).await;
        let other = node(Config { bootstrap: seed.listen_multiaddrs(), ..listening }).await;
        until("a link", || other.counts().connections_admitted > 0).await;
        let mut stream = soon("a stream", other.open_bulk(seed.id())).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        let (_, _unread) = soon("an incoming stream", seed.accept()).await.unwrap();
        soon("the end", seed.stop()).await;
        let read = soon("word of the end", stream.read(&mut [0])).await;
        assert!(!matches!(read, Ok(1..)), "{listen}: {read:?}");
        until("both connections closed", || other.counts().connections_closed >= 2).await;
    }
}
