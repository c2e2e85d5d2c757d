//! Large copies that several peers have whole: they come from several at once, and a bad one costs its part only (issue 8; bad-inputs
//! P02, P07).

use std::{sync::Arc, time::Duration};

use atoll_overlay::{Level, Streams as _};
use atoll_proxy::{Config, Proxy};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    support::{Net, Origin, config_for, get, info, noise, soon, until},
    vouched::{Framed, answers, frames_of, key, overheard, wire},
};

/// Slices of 256 KiB of what is over 1 MiB.
fn sliced(origin: &Origin) -> Config {
    let mut config = config_for(origin);
    (config.slices.over, config.slices.size) = (1 << 20, 256 << 10);
    config
}

/// The same, and peers are waited for, however busy the machine is.
fn patient(origin: &Origin) -> Config {
    let mut config = sliced(origin);
    let long = Duration::from_secs(30);
    (config.peers.hedge, config.peers.patience, config.peers.stall, config.peers.slowest) = (long, long, long, 0);
    // Its own copy is not to serve the next.
    config.peers.upstream_only = true;
    config
}

/// A network in which nodes 1 to `count` have this body, which the origin sent once.
async fn held(body: &Bytes, count: u8, parts: usize) -> (Origin, Arc<Net>, Vec<Proxy>) {
    let origin = Origin::with_body(body.clone()).await;
    let net = Net::new(Level(1));
    let mut holders = Vec::new();
    for number in 1..=count {
        let mut config = sliced(&origin);
        config.peers.parts = parts;
        let holder = net.proxy(number, config).await;
        assert!(get(&holder, &origin.host(), "/").await.body == *body);
        until(|| net.whole_copy(key(&origin, "/"), number).is_some()).await;
        holders.push(holder);
    }
    assert_eq!(origin.count(), 1);
    (origin, net, holders)
}

#[tokio::test]
async fn a_large_copy_comes_from_several_peers_at_once_and_from_as_many_as_the_operator_says() {
    let body = noise(3_000_000);
    let (origin, net, _holders) = held(&body, 4, 16).await;
    for (asker, sources) in [(11, 3), (12, 1)] {
        let mut config = patient(&origin);
        config.peers.sources = sources;
        let proxy = net.proxy(asker, config).await;
        let response = soon(get(&proxy, &origin.host(), "/")).await;
        assert!(response.complete && response.body == body, "{sources}: {} bytes", response.body.len());
        until(|| proxy.stats().flights == 0).await;
        let givers = (1..=4).filter(|holder| net.given(*holder, asker) > 200_000).count();
        assert_eq!(givers, sources);
        assert!(get(&proxy, &origin.host(), "/").await.cache_status().contains("hit"));
    }
    assert_eq!(origin.count(), 1);
}

// P02, P07
#[tokio::test]
async fn of_several_one_that_lies_or_is_lost_costs_the_rest_of_its_part() {
    let body = noise(3_000_000);
    // The honest one gives no parts, so that nobody else does what the bad one is to do.
    let (origin, net, _holders) = held(&body, 1, 0).await;
    let good = frames_of(&overheard(&net, 1, &origin, "/").await);
    let whole = net.whole_copy(key(&origin, "/"), 1).unwrap();
    let chunk = good.iter().position(|(kind, _)| *kind == b'D').unwrap() + 2;
    let mut lie: Vec<Framed> = good.clone();
    lie[chunk].1[7] ^= 1;
    for (bad, bytes, liars) in [(20, wire(&lie), vec![info(20).id]), (21, wire(&good[..chunk]), Vec::new())] {
        answers(&net, bad, bytes);
        net.plant_first(key(&origin, "/"), bad, whole.clone());
        let asker = 100 + bad;
        let proxy = net.proxy(asker, patient(&origin)).await;
        let response = soon(get(&proxy, &origin.host(), "/")).await;
        assert!(response.complete && response.body == body, "{bad}: {} bytes", response.body.len());
        until(|| proxy.stats().flights == 0).await;
        assert_eq!((proxy.liars(), origin.count()), (liars, 1), "{bad}");
        // What came before stands.
        let rest = body.len() - (128 << 10);
        let given = net.given(1, asker);
        assert!((rest..rest + 64_000).contains(&given), "{bad}: {given} of {rest}");
        net.kill(bad);
    }
}

// P07: alive, and silent in the middle of its part.
#[tokio::test]
async fn of_several_one_that_falls_silent_is_helped() {
    let body = noise(3_000_000);
    let (origin, net, _holders) = held(&body, 2, 16).await;
    let good = frames_of(&overheard(&net, 1, &origin, "/").await);
    let whole = net.whole_copy(key(&origin, "/"), 1).unwrap();
    let chunk = good.iter().position(|(kind, _)| *kind == b'D').unwrap();
    let bytes = wire(&good[..=chunk]);
    let node = net.node(20);
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((_, mut stream)) = node.accept().await {
            let _ = stream.read(&mut [0; 4_096]).await;
            let _ = stream.write_all(&bytes).await;
            silent.push(stream);
        }
    });
    net.plant_first(key(&origin, "/"), 20, whole);
    let mut config = sliced(&origin);
    (config.peers.stall, config.peers.slowest) = (Duration::from_secs(3_600), 0);
    let proxy = net.proxy(3, config).await;
    let response = soon(get(&proxy, &origin.host(), "/")).await;
    assert!(response.complete && response.body == body && origin.count() == 1);
}

// Nothing may be held ahead: they can only help with what is needed now.
#[tokio::test]
async fn several_peers_bring_a_large_copy_without_memory_for_what_comes_early() {
    let body = noise(3_000_000);
    let (origin, net, _holders) = held(&body, 3, 16).await;
    let mut config = patient(&origin);
    config.peers.ahead = 0;
    let proxy = net.proxy(11, config).await;
    let response = soon(get(&proxy, &origin.host(), "/")).await;
    assert!(response.complete && response.body == body && origin.count() == 1);
}

/// What a node answers to one who asks for a part that ends there.
async fn part_of(net: &Arc<Net>, holder: u8, origin: &Origin, to: u64) -> Vec<Framed> {
    let ear = net.node(201);
    let mut stream = ear.open(info(holder).id).await.unwrap();
    let port = origin.address.port();
    let request = format!(
        "GET /{} HTTP/1.1\r\nHost: site.test:{port}\r\nAtoll-Version: 2\r\nAtoll-Url: http://site.test:{port}/\r\nAtoll-To: \
         {to}\r\n\r\n",
        key(origin, "/")
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    frames_of(&answer)
}

#[tokio::test]
async fn a_peer_gives_the_part_that_is_asked_for_and_so_many_at_a_time() {
    let body = noise(3_000_000);
    // From the origin, and from a peer in its fetcher's words.
    let (origin, net, _holders) = held(&body, 2, 1).await;
    for holder in [1, 2] {
        for (to, bytes) in [(1, 65_536..=524_288), (600_000, 655_360..=1_048_576), (3_000_000, 3_000_000..=3_000_000)] {
            let frames = part_of(&net, holder, &origin, to).await;
            let given: usize = frames.iter().filter(|(kind, _)| *kind == b'D').map(|(_, data)| data.len()).sum();
            assert!(bytes.contains(&given), "{given} bytes of {to} from {holder}");
        }
    }
    let (origin, net, _holders) = held(&body, 1, 0).await;
    assert_eq!(part_of(&net, 1, &origin, 65_536).await, [(b'X', vec![4])], "no place: others are to be asked");
}

// However few parts each gives at a time, and however many ask.
#[tokio::test]
async fn a_crowd_gets_a_large_copy_from_peers_that_give_one_part_at_a_time() {
    let body = noise(3_000_000);
    let (origin, net, _holders) = held(&body, 2, 1).await;
    let mut askers = tokio::task::JoinSet::new();
    for number in 10..16 {
        let proxy = net.proxy(number, sliced(&origin)).await;
        let host = origin.host();
        askers.spawn(async move { (get(&proxy, &host, "/").await, proxy) });
    }
    while let Some(asked) = soon(askers.join_next()).await {
        let (response, _proxy) = asked.unwrap();
        assert!(response.complete && response.body == body, "{} bytes", response.body.len());
    }
    assert_eq!(origin.count(), 1);
}
