//! Where a site's objects end up in one cluster of 20 proxies: with names that lead a site's clients to the same few proxies
//! (rendezvous hashing, as the redirector does), and with any proxy at random. Objects are asked for by Zipf's law.

use std::sync::Arc;

use atoll_store::Store;
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tokio::task::JoinSet;

use super::{
    node::{CARRIERS, Origin, SITES, get, idle, overlays, proxy},
    told,
};
use crate::report::{Report, Row};

/// What came of one way to answer.
struct Spread {
    copies: f64,
    /// Percent of requests answered from the store of the proxy that was asked.
    home: f64,
}

pub(super) async fn measure(report: &mut Report) -> Result<(), String> {
    let affine = spread(true).await?;
    let random = spread(false).await?;
    report.add(Row::new("cluster_copies_per_object", affine.copies, "").against("random answers", random.copies));
    report.add(Row::new("cluster_home_hits", affine.home, "%").against("random answers", random.home));
    report.note(format!("cluster: {REQUESTS} requests for {OBJECTS} objects of {SITES} sites, {PROXIES} proxies"));
    Ok(())
}

async fn spread(affine: bool) -> Result<Spread, String> {
    let origin = Arc::new(Origin::start(1_000).await?);
    let nodes = overlays(CARRIERS[0].1, PROXIES).await?;
    let mut proxies = Vec::new();
    let mut stores = Vec::new();
    for node in &nodes {
        let store = Store::open(atoll_store::Config::default()).await.map_err(told)?;
        proxies.push(Arc::new(proxy(node, &origin, store.clone())?));
        stores.push(store);
    }
    let homes: Arc<Vec<Vec<usize>>> = Arc::new((0..SITES).map(home).collect());
    let mut clients = JoinSet::new();
    for client in 0..AT_ONCE {
        let (proxies, origin, homes) = (proxies.clone(), Arc::clone(&origin), Arc::clone(&homes));
        clients.spawn(async move {
            let mut random = StdRng::seed_from_u64(client as u64);
            let zipf = Zipf::new();
            for _ in 0..REQUESTS / AT_ONCE {
                let object = zipf.draw(random.random());
                let site = object % SITES;
                let any = random.random_range(0..PROXIES);
                let asked = if affine { *homes[site].choose(&mut random).unwrap_or(&any) } else { any };
                get(&proxies[asked], &origin.host(site), &format!("/{object}")).await?;
            }
            Ok::<_, String>(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done.map_err(told)??;
    }
    let (mut requests, mut local, mut copies) = (0, 0, 0);
    for (proxy, store) in proxies.iter().zip(&stores) {
        idle(proxy).await;
        let stats = proxy.stats();
        requests += stats.requests;
        local += stats.served.local;
        copies += store.stats().objects;
        proxy.stop().await;
    }
    for node in &nodes {
        node.stop().await;
    }
    // What was asked for was fetched from the origin once.
    Ok(Spread { copies: copies as f64 / origin.requests() as f64, home: 100.0 * local as f64 / requests as f64 })
}

/// The proxies that a site's name leads to: those of the highest scores.
fn home(site: usize) -> Vec<usize> {
    let score = |proxy: usize| StdRng::seed_from_u64((site * PROXIES + proxy) as u64).next_u64();
    let mut all: Vec<usize> = (0..PROXIES).collect();
    all.sort_by_key(|proxy| std::cmp::Reverse(score(*proxy)));
    all.truncate(ANSWERS);
    all
}

/// Objects by Zipf's law with exponent 1.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new() -> Self {
        let mut sum = 0.0;
        Self(
            (1..=OBJECTS)
                .map(|rank| {
                    sum += 1.0 / rank as f64;
                    sum
                })
                .collect(),
        )
    }

    /// The object of a number from 0 to 1.
    fn draw(&self, share: f64) -> usize {
        let all = self.0.last().copied().unwrap_or(1.0);
        self.0.partition_point(|sum| *sum < share * all).min(OBJECTS - 1)
    }
}

const PROXIES: usize = 20;
const OBJECTS: usize = 2_000;
const REQUESTS: usize = 20_000;
const AT_ONCE: usize = 40;

/// Addresses in an answer, as the redirector gives by default.
const ANSWERS: usize = 2;
