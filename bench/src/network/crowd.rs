//! CoralCDN's flash crowd: 12 files of 41 kB, all cold, asked for 10,000 times at five nodes.

use std::{sync::Arc, time::Instant};

use atoll_store::Store;
use tokio::task::JoinSet;

use super::{
    node::{CARRIERS, Origin, get, overlays, proxy},
    percentile, told,
};
use crate::report::{Report, Row};

pub(super) async fn measure(report: &mut Report) -> Result<(), String> {
    let origin = Origin::start(FILE).await?;
    let nodes = overlays(CARRIERS[0].1, NODES).await?;
    let mut proxies = Vec::new();
    for node in &nodes {
        let store = Store::open(atoll_store::Config::default()).await.map_err(told)?;
        proxies.push(Arc::new(proxy(node, &origin, store)?));
    }
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..AT_ONCE {
        let (proxies, host) = (proxies.clone(), origin.host(0));
        clients.spawn(async move {
            let mut figures = Vec::new();
            for number in (client..REQUESTS).step_by(AT_ONCE) {
                let asked = Instant::now();
                get(&proxies[number % NODES], &host, &format!("/{}", number / NODES % FILES)).await?;
                figures.push(asked.elapsed().as_secs_f64() * 1e3);
            }
            Ok::<_, String>(figures)
        });
    }
    let mut figures = Vec::new();
    while let Some(done) = clients.join_next().await {
        figures.extend(done.map_err(told)??);
    }
    let seconds = began.elapsed().as_secs_f64();
    let requests = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    report.add(Row::new("crowd_origin_requests", requests(origin.requests()), "").against("CoralCDN", 15.0));
    let ungranted = proxies.iter().map(|proxy| proxy.stats().origin_ungranted).sum();
    report.add(Row::new("crowd_ungranted", requests(ungranted), ""));
    report.add(Row::new("crowd_p50", percentile(&mut figures, 0.5), "ms"));
    report.add(Row::new("crowd_p96", percentile(&mut figures, 0.96), "ms"));
    report.add(Row::new("crowd_rate", requests(REQUESTS as u64) / seconds, "req/s"));
    for proxy in &proxies {
        proxy.stop().await;
    }
    for node in &nodes {
        node.stop().await;
    }
    Ok(())
}

const NODES: usize = 5;
const FILES: usize = 12;
const FILE: u64 = 41_000;
const REQUESTS: usize = 10_000;

/// Clients at a time.
const AT_ONCE: usize = 500;
