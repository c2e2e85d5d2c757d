//! Crowds over a few nodes: one object that nearly all want, and nodes that come and go meanwhile. What the origin sees is counted, and
//! what each node has to give (issue 8; bad-inputs C11, P13).

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use atoll_overlay::Level;
use atoll_proxy::{Config, Proxy};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::support::{Do, Net, Origin, alone, config_for, get, noise, ok, soon, until};

/// Peers are waited for, however busy the machine is.
fn patient(origin: &Origin) -> Config {
    let mut config = config_for(origin);
    (config.peers.hedge, config.peers.patience) = (Duration::from_secs(20), Duration::from_secs(20));
    config
}

/// Has each of these nodes asked for its paths, some at a time; every answer is whole.
async fn ask_all(origin: &Origin, body: &Bytes, asks: impl Iterator<Item = (Arc<Proxy>, String)>) {
    let mut under_way = JoinSet::new();
    for (proxy, path) in asks {
        let (host, body) = (origin.host(), body.clone());
        under_way.spawn(async move {
            let response = get(&proxy, &host, &path).await;
            assert!(response.complete && response.body == body, "{path}: {} bytes", response.body.len());
        });
        if under_way.len() >= 40 {
            soon(under_way.join_next()).await.unwrap().unwrap();
        }
    }
    while let Some(asked) = soon(under_way.join_next()).await {
        asked.unwrap();
    }
}

/// No node fetches any more.
async fn settled(proxies: impl Iterator<Item = &Arc<Proxy>>) {
    for proxy in proxies {
        until(|| proxy.stats().flights == 0).await;
    }
}

// Nine of ten requests are for one object.
#[tokio::test]
async fn an_object_that_takes_nine_of_ten_requests_costs_the_origin_one_and_no_node_more_than_a_copy_for_each_other() {
    const NODES: u8 = 5;
    let body = noise(20_000);
    let origin = Origin::with_body(body.clone()).await;
    let net = Net::new(Level(1));
    let mut proxies = Vec::new();
    for number in 1..=NODES {
        proxies.push(Arc::new(net.proxy(number, patient(&origin)).await));
    }
    let paths =
        (0..1_000_usize).map(|at| if at % 10 < 9 { "/hot".to_owned() } else { format!("/{}", at / 10 * 7 % 60) });
    let paths: Vec<String> = paths.collect();
    let asked: BTreeSet<&String> = paths.iter().collect();
    // Places that have nothing to do with which path it is.
    let asks = paths.iter().enumerate().map(|(at, path)| (Arc::clone(&proxies[at / 3 % proxies.len()]), path.clone()));
    ask_all(&origin, &body, asks).await;
    settled(proxies.iter()).await;
    let hot = origin.heads().iter().filter(|head| head.starts_with("GET /hot ")).count();
    assert_eq!((hot, origin.count()), (1, asked.len()));
    assert_eq!(proxies.iter().map(|proxy| proxy.stats().origin_ungranted).sum::<u64>(), 0);
    // A node takes what it lacks once; a copy has 20 KB, with its head and its words no more than 22.
    for by in 1..=NODES {
        for to in (1..=NODES).filter(|to| *to != by) {
            let given = net.given(by, to);
            assert!(given <= asked.len() * 22_000, "node {by} gave {given} bytes to {to}");
        }
    }
    let taken: u64 = proxies.iter().map(|proxy| proxy.stats().peer_bytes).sum();
    assert!(taken <= u64::from(NODES - 1) * asked.len() as u64 * 20_000, "{taken} bytes came from peers");
}

// A third of the nodes goes each minute, and as many come; the clients of all go on.
#[tokio::test]
async fn while_a_third_of_the_nodes_comes_and_goes_the_origin_is_asked_once_for_each_object() {
    const FILES: usize = 12;
    let body = noise(41_000);
    let origin = Origin::with_body(body.clone()).await;
    let net = Net::new(Level(1));
    let (mut live, mut next) = (VecDeque::new(), 1_u8);
    for minute in 0..6 {
        while live.len() < 6 {
            live.push_back((next, Arc::new(net.proxy(next, patient(&origin)).await)));
            next += 1;
        }
        let asks = (0..FILES).flat_map(|file| {
            live.iter()
                .enumerate()
                .map(move |(place, (_, proxy))| (Arc::clone(proxy), format!("/{}", (file + place) % FILES)))
        });
        ask_all(&origin, &body, asks).await;
        settled(live.iter().map(|(_, proxy)| proxy)).await;
        assert_eq!(origin.count(), FILES, "in minute {minute}");
        for (number, proxy) in live.drain(..2) {
            net.kill(number);
            proxy.stop().await;
        }
    }
}

// A lone client is given all that is short in one frame; in a crowd everybody has a first piece of what is long before anybody has two.
#[tokio::test]
async fn a_lone_client_has_large_pieces_and_a_crowd_takes_turns() {
    for (length, crowd, first) in
        [(40_000, 1, 40_000), (100_000, 1, 64 << 10), (40_000, 3, 40_000), (100_000, 3, 16 << 10)]
    {
        let gate = Arc::new(Semaphore::new(0));
        let (body, held) = (noise(length), Arc::clone(&gate));
        let origin = Origin::start(move |_, _| {
            let mut steps = ok("Cache-Control: max-age=60\r\n", &body);
            steps.insert(1, Do::Wait(Arc::clone(&held)));
            steps
        })
        .await;
        let proxy = alone(config_for(&origin)).await;
        let ask = async || {
            let request = http::Request::get("/").header("host", origin.host()).body(()).unwrap();
            proxy.answer(request).await.into_body()
        };
        let together = futures::future::join_all((0..crowd).map(|_| ask()));
        // What is short waits for its first bytes; of what is long all have the head before there are any.
        let (mut bodies, ()) = tokio::join!(together, async {
            until(|| origin.count() == 1).await;
            if length <= 64 << 10 {
                gate.add_permits(1);
            }
        });
        gate.add_permits(1);
        until(|| proxy.stats().flights == 0).await;
        let mut pieces = Vec::new();
        for body in &mut bodies {
            pieces.push(body.frame().await.unwrap().unwrap().into_data().unwrap().len());
        }
        assert_eq!(pieces, vec![first; pieces.len()], "{length} bytes for {crowd}");
    }
}
