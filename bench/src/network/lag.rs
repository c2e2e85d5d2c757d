//! What bad peers add to a request: holders that the index names and that are slow, dead or lying, against asking the origin with
//! nobody named; and a holder of a lease that died.

use std::time::{Duration, Instant};

use atoll_overlay::{Acquire, Index as _, Key, Levels, NodeId, Put, Streams as _, driver::Overlay};
use atoll_proxy::{OriginUrl, Proxy};
use atoll_store::Store;
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::sleep,
};

use super::{
    node::{CARRIERS, Origin, get, near, overlays, proxy},
    percentile, told,
};
use crate::report::{Report, Row};

/// What is wrong with a holder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It takes the stream and says nothing.
    Silent,
    /// A kilobyte a second, of an answer that is no copy yet.
    Slow,
    /// It sends what nobody vouches for.
    Lying,
    /// It is gone.
    Dead,
}

pub(super) async fn measure(report: &mut Report) -> Result<(), String> {
    let origin = Origin::start(10_000).await?;
    let mut nobody = requests(&origin, None).await?;
    let base = percentile(&mut nobody, 0.99);
    let direct = percentile(&mut nobody, 0.5);
    report.add(Row::new("no_peer_p50", direct, "ms"));
    for (name, fault) in
        [("silent", Fault::Silent), ("slow", Fault::Slow), ("lying", Fault::Lying), ("dead", Fault::Dead)]
    {
        let mut figures = requests(&origin, Some(fault)).await?;
        let added = percentile(&mut figures, 0.99) - direct;
        report.add(Row::new(&format!("added_p99_{name}_peer"), added, "ms").against("no peer", base - direct));
    }
    let mut figures = Vec::new();
    for _ in 0..LEASES {
        figures.push(dead_lease(&origin).await?);
    }
    report.add(Row::new("dead_lease_holder_worst", percentile(&mut figures, 1.0), "ms"));
    report.note(format!(
        "added latency over {EACH} requests each, every one at a key that the index names a bad holder for"
    ));
    Ok(())
}

/// Requests one after the other, each for a new key that a bad holder is named for: milliseconds of each.
async fn requests(origin: &Origin, fault: Option<Fault>) -> Result<Vec<f64>, String> {
    let nodes = overlays(CARRIERS[0].1, 3).await?;
    near(&nodes).await?;
    let store = Store::open(atoll_store::Config::default()).await.map_err(told)?;
    let asker = proxy(&nodes[0], origin, store)?;
    // The third is there so that the roots of keys are spread.
    let holder = &nodes[1];
    let mut acting = None;
    if let Some(fault) = fault {
        acting = Some(tokio::spawn(act(holder.clone(), fault)));
        for number in 0..EACH {
            name(holder, origin, number).await?;
        }
        if fault == Fault::Dead {
            holder.stop().await;
        }
    }
    let mut figures = Vec::new();
    for number in 0..EACH {
        figures.push(timed(&asker, origin, number).await?);
    }
    if let Some(acting) = acting {
        acting.abort();
    }
    finish(&asker, &nodes).await;
    Ok(figures)
}

async fn finish(asker: &Proxy, nodes: &[Overlay]) {
    asker.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

async fn timed(asker: &Proxy, origin: &Origin, number: usize) -> Result<f64, String> {
    let began = Instant::now();
    // Each host is of its own, so that no failure of one shows in another.
    get(asker, &origin.host(number % super::node::SITES), &format!("/{number}")).await?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

fn key(origin: &Origin, number: usize) -> Result<Key, String> {
    let url = format!("http://{}/{number}", origin.site(number % super::node::SITES));
    OriginUrl::parse(&url).map(|url| url.key()).map_err(told)
}

/// Puts a reference of this node to a whole copy that it does not have.
async fn name(holder: &Overlay, origin: &Origin, number: usize) -> Result<(), String> {
    let mut value = vec![8, 1, 0x1a, 32];
    value.extend_from_slice(&[7; 32]);
    let put =
        Put { key: key(origin, number)?, value: value.into(), ttl: Duration::from_secs(600), levels: Levels::All };
    holder.put(put).await.map(drop).map_err(told)
}

/// Takes what streams come, badly.
async fn act(node: Overlay, fault: Fault) {
    while let Ok((_, mut stream)) = node.accept().await {
        tokio::spawn(async move {
            let mut head = [0; 4_096];
            let _ = stream.read(&mut head).await;
            match fault {
                Fault::Silent | Fault::Dead => sleep(Duration::from_secs(60)).await,
                Fault::Slow => {
                    for byte in b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nW\0\0\0\0W\0\0\0\0".chunks(1) {
                        sleep(Duration::from_millis(1)).await;
                        let _ = stream.write_all(byte).await;
                    }
                    sleep(Duration::from_secs(60)).await;
                }
                Fault::Lying => {
                    let lie = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nH\0\0\0\x04liar";
                    let _ = stream.write_all(lie).await;
                }
            }
        });
    }
}

/// A request for a key whose fetcher died right after it was granted: milliseconds until the body is whole.
async fn dead_lease(origin: &Origin) -> Result<f64, String> {
    let nodes = overlays(CARRIERS[0].1, 4).await?;
    let store = Store::open(atoll_store::Config::default()).await.map_err(told)?;
    let asker = proxy(&nodes[0], origin, store)?;
    let holder = &nodes[1];
    // A key whose root is neither of the two.
    let (me, its) = (nodes[0].id(), holder.id());
    let root_of = |key: Key| nodes.iter().map(Overlay::id).min_by_key(|id: &NodeId| id.key().distance(&key));
    let mut number = usize::MAX / 2;
    while root_of(key(origin, number)?).is_none_or(|root| root == me || root == its) {
        number += 1;
    }
    let reference = Bytes::from_static(&[8, 1]);
    let acquire = Acquire { key: key(origin, number)?, reference, ttl: Duration::from_secs(20), failed: Vec::new() };
    let granted = holder.acquire(acquire).await.map_err(told)?;
    if !matches!(granted, atoll_overlay::Acquired::Granted(_)) {
        return Err(format!("no grant but {granted:?}"));
    }
    holder.stop().await;
    let spent = timed(&asker, origin, number).await;
    finish(&asker, &nodes).await;
    spent
}

/// Requests for each fault.
const EACH: usize = 100;

/// Holders of leases that die.
const LEASES: usize = 5;
