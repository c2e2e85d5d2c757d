//! Proxies among themselves: copies found, streamed while they grow, verified, lost and found again.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use atoll_overlay::{Index as _, Key, Level, Streams as _, Value};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    support::{Do, Net, Origin, config_for, get, info, noise, ok, soon, until},
    vouched::{key, overheard},
};

fn gated(body: &Bytes, gate: &Arc<Semaphore>) -> Vec<Do> {
    let head = format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: {}\r\n\r\n", body.len());
    let half = body.len() / 2;
    vec![Do::Send(head.into()), Do::Send(body.slice(..half)), Do::Wait(Arc::clone(gate)), Do::Send(body.slice(half..))]
}

#[tokio::test]
async fn the_second_node_is_served_by_the_first_and_the_origin_asked_once() {
    for (level, detail) in [(2, "peer-l2"), (0, "peer-l0")] {
        let body = noise(300_000);
        let origin = Origin::with_body(body.clone()).await;
        let net = Net::new(Level(level));
        let one = net.proxy(1, config_for(&origin)).await;
        let two = net.proxy(2, config_for(&origin)).await;
        assert_eq!(get(&one, &origin.host(), "/").await.body, body);
        until(|| one.stats().flights == 0).await;
        let response = get(&two, &origin.host(), "/").await;
        assert!(response.body == body);
        assert!(response.cache_status().ends_with(&format!("stored; detail={detail}")), "{}", response.cache_status());
        until(|| two.stats().flights == 0).await;
        assert!(get(&two, &origin.host(), "/").await.cache_status().contains("hit"));
        assert_eq!((origin.count(), two.stats().served.peers[&level], two.stats().origin_requests), (1, 1, 0));
        let whole: Vec<_> = net.puts().into_iter().filter(|(_, put)| put.ttl > Duration::from_secs(20)).collect();
        assert_eq!(whole.len(), 2, "both announced a whole copy");
        assert!(whole.iter().all(|(_, put)| put.ttl <= Duration::from_secs(3_600) && put.value.len() <= 256));
    }
}

#[tokio::test]
async fn nodes_that_come_while_the_origin_sends_stream_from_the_one_that_fetches() {
    let body = noise(3_000_000);
    let gate = Arc::new(Semaphore::new(0));
    let (served, held) = (body.clone(), Arc::clone(&gate));
    let origin = Origin::start(move |_, _| gated(&served, &held)).await;
    let net = Net::new(Level(1));
    let mut proxies = Vec::new();
    for number in 1..=5 {
        proxies.push(Arc::new(net.proxy(number, config_for(&origin)).await));
    }
    let mut clients = JoinSet::new();
    for proxy in &proxies {
        for _ in 0..20 {
            let (proxy, host) = (Arc::clone(proxy), origin.host());
            clients.spawn(async move { get(&proxy, &host, "/").await });
        }
    }
    // Every node has shown half of it before the origin sends the rest.
    until(|| proxies.iter().all(|proxy| proxy.stats().peer_bytes + proxy.stats().origin_bytes >= 1_400_000)).await;
    gate.add_permits(1);
    while let Some(response) = soon(clients.join_next()).await {
        assert!(response.unwrap().body == body, "wrong bytes");
    }
    assert_eq!((origin.count(), net.granted()), (1, 1));
}

#[tokio::test]
async fn a_lone_node_asks_no_index_and_shares_what_it_fetches_once_somebody_comes() {
    let body = noise(3_000_000);
    let gate = Arc::new(Semaphore::new(0));
    let (served, held) = (body.clone(), Arc::clone(&gate));
    let origin = Origin::start(move |number, _| match number {
        0 => ok("Cache-Control: max-age=600\r\n", &served),
        _ => gated(&served, &held),
    })
    .await;
    let net = Net::new(Level(1));
    net.strangers.store(true, Ordering::SeqCst);
    let one = Arc::new(net.proxy(1, config_for(&origin)).await);
    assert!(get(&one, &origin.host(), "/before").await.body == body);
    let (proxy, host) = (Arc::clone(&one), origin.host());
    let first = tokio::spawn(async move { get(&proxy, &host, "/").await });
    until(|| one.stats().origin_bytes >= 4_400_000).await;
    assert_eq!((net.granted(), net.puts().len(), one.stats().origin_ungranted), (0, 0, 0));
    // Somebody comes: the fetch that goes on gets a lease, and what is whole is told of when it is asked for again.
    net.strangers.store(false, Ordering::SeqCst);
    until(|| net.granted() == 1).await;
    let mut patient = config_for(&origin);
    (patient.peers.hedge, patient.peers.patience) = (Duration::from_secs(20), Duration::from_secs(20));
    let two = Arc::new(net.proxy(2, patient).await);
    let (proxy, host) = (Arc::clone(&two), origin.host());
    let second = tokio::spawn(async move { get(&proxy, &host, "/").await });
    until(|| two.stats().peer_bytes > 0).await;
    gate.add_permits(1);
    assert!(soon(first).await.unwrap().body == body && soon(second).await.unwrap().body == body);
    assert!(get(&one, &origin.host(), "/before").await.cache_status().contains("hit"));
    until(|| net.puts().iter().any(|(_, put)| put.key == key(&origin, "/before"))).await;
    assert_eq!(origin.count(), 2);
}

// Nobody was there to be told of its digest when it came: that is made once somebody is.
#[tokio::test]
async fn a_short_copy_from_before_anybody_came_is_named_with_its_digest_and_given_away() {
    let body = noise(20_000);
    let served = body.clone();
    let origin = Origin::start(move |_, _| ok("Cache-Control: max-age=600\r\n", &served)).await;
    let net = Net::new(Level(1));
    net.strangers.store(true, Ordering::SeqCst);
    let one = net.proxy(1, config_for(&origin)).await;
    assert!(get(&one, &origin.host(), "/").await.body == body);
    until(|| one.stats().flights == 0).await;
    net.strangers.store(false, Ordering::SeqCst);
    assert!(get(&one, &origin.host(), "/").await.cache_status().contains("hit"));
    until(|| net.whole_copy(key(&origin, "/"), 1).is_some()).await;
    let digest = blake3::hash(&body);
    let told = net.whole_copy(key(&origin, "/"), 1).unwrap();
    assert!(told.windows(32).any(|part| part == digest.as_bytes()), "the reference has no digest of the body");
    let two = net.proxy(2, config_for(&origin)).await;
    assert!(get(&two, &origin.host(), "/").await.body == body);
    assert_eq!((origin.count(), two.stats().peer_bytes), (1, 20_000));
}

// A slow origin is no failure: its fetcher shows that it lives, and nobody asks a second time.
#[tokio::test]
async fn waiting_on_a_slow_origin_starts_no_second_fetch() {
    let gate = Arc::new(Semaphore::new(0));
    let origin = Origin::behind(&gate, "Cache-Control: max-age=60\r\n", b"late").await;
    let net = Net::new(Level(1));
    let fast = |origin: &Origin| {
        let mut config = config_for(origin);
        config.peers.beat = Duration::from_millis(50);
        config
    };
    let one = Arc::new(net.proxy(1, fast(&origin)).await);
    let two = Arc::new(net.proxy(2, fast(&origin)).await);
    let mut clients = JoinSet::new();
    for proxy in [&one, &two] {
        let (proxy, host) = (Arc::clone(proxy), origin.host());
        clients.spawn(async move { get(&proxy, &host, "/").await });
        until(|| origin.count() == 1).await;
    }
    // Well past every budget: forty beats of 50 ms.
    until(|| net.beats() >= 40).await;
    assert_eq!(origin.count(), 1);
    gate.add_permits(10);
    while let Some(response) = soon(clients.join_next()).await {
        assert_eq!(response.unwrap().body, b"late");
    }
    assert_eq!((origin.count(), two.stats().origin_requests), (1, 0));
}

#[tokio::test]
async fn a_copy_that_is_gone_leads_to_the_origin_again() {
    let body = noise(50_000);
    let origin = Origin::with_body(body.clone()).await;
    let net = Net::new(Level(1));
    let one = net.proxy(1, config_for(&origin)).await;
    let two = net.proxy(2, config_for(&origin)).await;
    assert_eq!(get(&one, &origin.host(), "/").await.body, body);
    until(|| one.stats().flights == 0).await;
    net.kill(1);
    drop(one);
    assert_eq!(get(&two, &origin.host(), "/").await.body, body);
    assert_eq!(origin.count(), 2);
}

// P03: the index names a node that has nothing.
#[tokio::test]
async fn a_reference_to_nothing_costs_one_question() {
    let body = noise(1_000);
    let origin = Origin::with_body(body.clone()).await;
    let net = Net::new(Level(1));
    let _idle = net.proxy(1, config_for(&origin)).await;
    let two = net.proxy(2, config_for(&origin)).await;
    net.plant(key(&origin, "/"), 1, Bytes::from_static(&[8, 1]));
    net.plant(key(&origin, "/"), 9, Bytes::from_static(b"not even a reference"));
    let response = get(&two, &origin.host(), "/").await;
    assert_eq!(response.body, body);
    assert!(response.cache_status().ends_with("detail=origin"));
    assert_eq!(origin.count(), 1);
}

// P10: whoever reaches nobody serves alone.
#[tokio::test]
async fn without_a_root_the_origin_is_asked_and_counted() {
    let origin = Origin::with_body(Bytes::from_static(b"x")).await;
    let net = Net::new(Level(1));
    net.rootless.store(true, Ordering::SeqCst);
    let one = net.proxy(1, config_for(&origin)).await;
    assert_eq!(get(&one, &origin.host(), "/").await.status, 200);
    assert_eq!((origin.count(), one.stats().origin_ungranted), (1, 1));
    until(|| net.puts().iter().any(|(_, put)| put.ttl > Duration::from_secs(20))).await;
}

// P07: a peer that accepts and says nothing.
#[tokio::test]
async fn a_silent_peer_is_hedged_within_its_budget() {
    let origin = Origin::with_body(Bytes::from_static(b"x")).await;
    let net = Net::new(Level(1));
    let silent = net.node(1);
    let held = tokio::spawn(async move {
        let mut streams = Vec::new();
        while let Ok(stream) = silent.accept().await {
            streams.push(stream);
        }
    });
    net.plant(key(&origin, "/"), 1, Bytes::from_static(&[8, 1]));
    let mut config = config_for(&origin);
    config.peers.hedge = Duration::from_millis(50);
    // Were it waited for, the test would end here.
    config.peers.patience = Duration::from_secs(3_600);
    let two = net.proxy(2, config).await;
    assert_eq!(get(&two, &origin.host(), "/").await.body, b"x");
    assert_eq!(two.stats().origin_ungranted, 0, "the root granted the hedge");
    held.abort();
}

/// A reference to a whole copy that nobody has.
fn whole() -> Bytes {
    [&[8, 1, 0x1a, 32][..], &[7; 32]].concat().into()
}

/// A node that takes streams and says this on each, the last of it over and over; nothing: it drops them.
fn says(net: &Arc<Net>, number: u8, words: &'static [&'static [u8]]) {
    let node = net.node(number);
    tokio::spawn(async move {
        let mut held = JoinSet::new();
        while let Ok((_, mut stream)) = node.accept().await {
            let Some((last, before)) = words.split_last() else { continue };
            held.spawn(async move {
                for word in before.iter().chain(std::iter::repeat(last)) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    if stream.write_all(word).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

const LIVES: &[&[u8]] = &[b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"W\0\0\0\0"];
const SILENT: &[&[u8]] = &[b""];

// P07: who has the whole copy has nothing to wait for, so its signs of life are no progress; nor is a line that is cut.
#[tokio::test]
async fn a_whole_copy_that_does_not_begin_is_hedged_whatever_its_holder_says() {
    for words in [LIVES, SILENT, &[]] {
        let origin = Origin::with_body(Bytes::from_static(b"x")).await;
        let net = Net::new(Level(1));
        says(&net, 1, words);
        net.plant(key(&origin, "/"), 1, whole());
        let mut config = config_for(&origin);
        config.peers.hedge = Duration::from_millis(50);
        // Were it waited for, the test would end here.
        config.peers.patience = Duration::from_secs(3_600);
        let asker = net.proxy(2, config).await;
        assert_eq!(get(&asker, &origin.host(), "/").await.body, b"x");
        assert_eq!((origin.count(), asker.stats().origin_ungranted), (1, 0));
    }
}

// P07: a holder whose distance is known gets no more time than it needs.
#[tokio::test]
async fn a_near_holder_is_hedged_by_its_distance() {
    let origin = Origin::with_body(Bytes::from_static(b"x")).await;
    let net = Net::new(Level(1));
    *net.distance.lock().unwrap() = Some(Duration::from_millis(2));
    says(&net, 1, SILENT);
    net.plant(key(&origin, "/"), 1, whole());
    let mut config = config_for(&origin);
    config.peers.near = Duration::from_millis(20);
    // Were it waited for so long, the test would end here.
    (config.peers.hedge, config.peers.patience) = (Duration::from_secs(3_600), Duration::from_secs(3_600));
    let asker = net.proxy(2, config).await;
    assert_eq!(get(&asker, &origin.host(), "/").await.body, b"x");
    assert_eq!((origin.count(), asker.stats().origin_ungranted), (1, 0));
}

// P07: a whole copy so far away that no answer comes in time, of a node that became slow, is waited for no longer than a near one.
#[tokio::test]
async fn a_holder_too_far_to_answer_in_time_is_hedged_at_once() {
    let origin = Origin::with_body(Bytes::from_static(b"x")).await;
    let net = Net::new(Level::GLOBAL);
    says(&net, 1, SILENT);
    net.plant(key(&origin, "/"), 1, whole());
    let mut config = config_for(&origin);
    config.peers.near = Duration::from_millis(20);
    // Were it waited for so long, the test would end here.
    (config.peers.hedge, config.peers.far) = (Duration::from_secs(1_800), Duration::from_secs(1_800));
    config.peers.patience = Duration::from_secs(7_200);
    *net.distance.lock().unwrap() = Some(Duration::from_secs(3_600));
    let asker = net.proxy(2, config).await;
    assert_eq!(get(&asker, &origin.host(), "/").await.body, b"x");
    assert_eq!((origin.count(), asker.stats().origin_ungranted), (1, 0));
}

// P07: of two holders the second is asked before the budget of the first is spent, so the origin is not.
#[tokio::test]
async fn another_holder_is_tried_beside_a_silent_one_before_the_origin() {
    let body = noise(100_000);
    let origin = Origin::with_body(body.clone()).await;
    let net = Net::new(Level(1));
    let (one, node) = net.both(1, config_for(&origin)).await;
    assert!(get(&one, &origin.host(), "/").await.body == body);
    until(|| one.stats().flights == 0).await;
    let (_, put) = net.puts().pop().unwrap();
    says(&net, 10, SILENT);
    net.plant(key(&origin, "/"), 10, whole());
    // Put anew, the good copy is the last in the list.
    node.put(put).await.unwrap();
    let mut config = config_for(&origin);
    config.peers.hedge = Duration::from_secs(4);
    let asker = net.proxy(2, config).await;
    assert!(get(&asker, &origin.host(), "/").await.body == body);
    assert_eq!(origin.count(), 1);
}

/// What the origin does when the fetch is taken up again.
#[derive(Clone, Copy, PartialEq)]
enum Origins {
    /// It knows ranges and has a strong tag.
    Ranged,
    /// It sends all of it again.
    Whole,
    /// It has something else by now.
    Changed,
}

#[tokio::test]
async fn a_fetcher_lost_half_way_costs_one_more_request_and_no_wrong_byte() {
    for kind in [Origins::Ranged, Origins::Whole, Origins::Changed] {
        let body = noise(2_000_000);
        let gate = Arc::new(Semaphore::new(0));
        let (served, held) = (body.clone(), Arc::clone(&gate));
        let origin = Origin::start(move |number, head| {
            let tag = if kind == Origins::Ranged { "ETag: \"v1\"\r\n" } else { "" };
            let head = head.to_ascii_lowercase();
            let from =
                head.split("range: bytes=").nth(1).and_then(|rest| rest.split('-').next()?.parse::<usize>().ok());
            let length = served.len();
            if let Some(from) = from {
                let (last, left) = (length - 1, length - from);
                let range = format!("Content-Range: bytes {from}-{last}/{length}\r\nContent-Length: {left}\r\n");
                let head = format!("HTTP/1.1 206 Partial Content\r\n{tag}{range}\r\n");
                return vec![Do::Send(head.into()), Do::Send(served.slice(from..))];
            }
            let body = if number > 0 && kind == Origins::Changed { vec![7; length].into() } else { served.clone() };
            let mut steps = ok(&format!("{tag}Cache-Control: max-age=60\r\n"), &body);
            if number == 0 {
                steps.truncate(1);
                steps.push(Do::Send(served.slice(..1_000_000)));
                steps.push(Do::Wait(Arc::clone(&held)));
            }
            steps
        })
        .await;
        let net = Net::new(Level(1));
        let mut proxies = Vec::new();
        for number in 1..=4 {
            proxies.push(Arc::new(net.proxy(number, config_for(&origin)).await));
        }
        let ask = |proxy: &Arc<atoll_proxy::Proxy>| {
            let (proxy, host) = (Arc::clone(proxy), origin.host());
            tokio::spawn(async move { get(&proxy, &host, "/").await })
        };
        let _first = ask(&proxies[0]);
        until(|| proxies[0].stats().origin_bytes >= 1_000_000).await;
        let others: Vec<_> = proxies[1..].iter().map(ask).collect();
        until(|| proxies[1..].iter().all(|proxy| proxy.stats().peer_bytes >= 900_000)).await;
        net.kill(1);
        proxies[0].stop().await;
        for other in others {
            let response = soon(other).await.unwrap();
            if kind == Origins::Changed {
                assert!(!response.complete, "bytes of two answers may not be mixed");
            } else {
                assert!(response.body == body, "wrong bytes");
            }
        }
        if kind != Origins::Changed {
            assert_eq!(origin.count(), 2, "one more request");
            assert!(get(&proxies[1], &origin.host(), "/").await.body == body);
        }
    }
}

// Two fetchers meet: the higher lease gives way while nothing has come yet, and takes the fetch up again if the lower's holder
// turns out to be of no use.
#[tokio::test]
async fn a_higher_lease_gives_way_and_comes_back_if_it_must() {
    for useful in [true, false] {
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let origin = Origin::start(move |number, _| {
            let mut steps = ok("Cache-Control: max-age=60\r\n", &Bytes::from_static(b"body"));
            if number != 1 {
                steps.insert(0, Do::Wait(Arc::clone(&held)));
            }
            steps
        })
        .await;
        let net = Net::new(Level(1));
        let mut config = config_for(&origin);
        config.peers.beat = Duration::from_millis(50);
        let one = Arc::new(net.proxy(1, config.clone()).await);
        let two = net.proxy(2, config).await;
        let (asking, host) = (Arc::clone(&one), origin.host());
        let first = tokio::spawn(async move { get(&asking, &host, "/").await });
        until(|| origin.count() == 1).await;
        if useful {
            // The other side of a partition: it has its own root, or none.
            net.rootless.store(true, Ordering::SeqCst);
            assert_eq!(get(&two, &origin.host(), "/").await.body, b"body");
            net.rootless.store(false, Ordering::SeqCst);
        } else {
            net.kill(2);
        }
        let value = Bytes::from_static(&[8, 1]);
        let lower = Value { holder: info(2).id, level: Level(1), value, ttl: Duration::from_secs(20) };
        *net.lower.lock().unwrap() = Some(lower);
        if !useful {
            // The fetch was given up and then taken up again; the second request is answered at once.
            until(|| origin.count() == 2).await;
        }
        let response = soon(first).await.unwrap();
        assert_eq!(response.body, b"body");
        let source = if useful { "detail=peer-l1" } else { "detail=origin" };
        assert!(response.cache_status().ends_with(source), "{}", response.cache_status());
        assert_eq!(origin.count(), 2);
    }
}

#[tokio::test]
async fn what_cannot_be_shared_is_marked_and_everybody_asks_for_themselves() {
    let origin = Origin::start(|number, _| ok("Cache-Control: private\r\n", &format!("{number}").into())).await;
    let net = Net::new(Level(1));
    let one = net.proxy(1, config_for(&origin)).await;
    let two = net.proxy(2, config_for(&origin)).await;
    assert_eq!(get(&one, &origin.host(), "/").await.body, b"0");
    until(|| one.stats().flights == 0).await;
    assert_eq!(get(&two, &origin.host(), "/").await.body, b"1");
    assert_eq!((origin.count(), net.granted()), (2, 1));
}

#[tokio::test]
async fn variants_are_shared_by_their_own_keys() {
    let origin = Origin::start(|_, head| {
        let language = if head.contains("accept-language: de") { "de" } else { "none" };
        ok("Cache-Control: max-age=60\r\nVary: Accept-Language\r\n", &Bytes::from(language))
    })
    .await;
    let net = Net::new(Level(1));
    let one = net.proxy(1, config_for(&origin)).await;
    let two = net.proxy(2, config_for(&origin)).await;
    for proxy in [&one, &two] {
        for language in ["de", "none"] {
            let fields = if language == "de" { "Accept-Language: de\r\n" } else { "" };
            let response = crate::support::get_with(proxy, "GET", &origin.host(), "/", fields).await;
            assert_eq!(response.body, language.as_bytes());
            until(|| proxy.stats().flights == 0).await;
        }
    }
    assert_eq!(origin.count(), 2);
}

// A peer's question is answered from what is here: it starts nothing.
#[tokio::test]
async fn a_peer_s_question_never_reaches_the_origin() {
    let origin = Origin::with_body(Bytes::from_static(b"x")).await;
    let net = Net::new(Level(1));
    let one = net.proxy(1, config_for(&origin)).await;
    let answer = overheard(&net, 1, &origin, "/").await;
    assert!(answer.starts_with(b"HTTP/1.1 404 "), "{}", String::from_utf8_lossy(&answer));
    assert_eq!((origin.count(), one.stats().flights), (0, 0));
}

#[tokio::test]
async fn streams_of_peers_have_a_ceiling() {
    let origin = Origin::with_body(Bytes::from_static(b"x")).await;
    let net = Net::new(Level(1));
    let mut config = config_for(&origin);
    config.limits.peer_streams = 1;
    let one = net.proxy(1, config).await;
    let ear = net.node(2);
    let first = ear.open(info(1).id).await.unwrap();
    until(|| one.stats().peer_streams == 1).await;
    let mut second = ear.open(info(1).id).await.unwrap();
    assert_eq!(soon(second.read_u8()).await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    drop(first);
    until(|| one.stats().peer_streams == 0).await;
}

#[tokio::test]
async fn a_purged_or_stale_copy_is_not_given_to_peers() {
    let origin =
        Origin::start(|_, _| ok("Cache-Control: max-age=0\r\nETag: \"1\"\r\n", &Bytes::from_static(b"x"))).await;
    let net = Net::new(Level(1));
    let one = net.proxy(1, config_for(&origin)).await;
    assert_eq!(get(&one, &origin.host(), "/").await.status, 200);
    until(|| one.stats().flights == 0).await;
    assert!(overheard(&net, 1, &origin, "/").await.starts_with(b"HTTP/1.1 404 "));
}

#[tokio::test]
async fn the_network_in_memory_grants_one_at_a_time() {
    let net = Net::new(Level(1));
    let (one, two) = (net.node(1), net.node(2));
    let ask = || atoll_overlay::Acquire {
        key: Key::ZERO,
        reference: Bytes::new(),
        ttl: Duration::from_secs(20),
        failed: Vec::new(),
    };
    assert!(matches!(one.acquire(ask()).await, Ok(atoll_overlay::Acquired::Granted(_))));
    assert!(matches!(two.acquire(ask()).await, Ok(atoll_overlay::Acquired::References(_))));
}

// P03: what is gone is no longer named.
#[tokio::test]
async fn a_copy_that_is_gone_is_withdrawn_when_it_is_noticed_and_when_it_is_asked_for() {
    let origin = Origin::with_body(noise(1_000)).await;
    let net = Net::new(Level(1));
    let store = crate::support::store().await;
    let node = net.node(1);
    let one = atoll_proxy::Proxy::start(config_for(&origin), node.clone(), node, store.clone()).unwrap();
    for path in ["/noticed", "/asked"] {
        assert_eq!(get(&one, &origin.host(), path).await.status, 200);
        until(|| one.stats().flights == 0 && net.names(key(&origin, path), 1)).await;
    }
    for path in ["/noticed", "/asked"] {
        store.remove(&atoll_store::Key::from_bytes(*key(&origin, path).as_bytes())).await.unwrap();
    }
    let answer = overheard(&net, 1, &origin, "/asked").await;
    assert!(answer.starts_with(b"HTTP/1.1 404 "));
    until(|| !net.names(key(&origin, "/asked"), 1) && !net.names(key(&origin, "/noticed"), 1)).await;
}

#[tokio::test]
async fn an_upstream_only_node_takes_from_peers_and_gives_only_what_it_fetches_under_a_lease() {
    let gate = Arc::new(Semaphore::new(0));
    let (body, held) = (noise(50_000), Arc::clone(&gate));
    let served = body.clone();
    let origin =
        Origin::start(
            move |number, _| {
                if number == 1 { gated(&served, &held) } else { ok("Cache-Control: max-age=600\r\n", &served) }
            },
        )
        .await;
    let net = Net::new(Level(1));
    let other = net.proxy(1, config_for(&origin)).await;
    let mut config = config_for(&origin);
    config.peers.upstream_only = true;
    let thin = Arc::new(net.proxy(2, config).await);
    assert!(get(&other, &origin.host(), "/taken").await.body == body);
    until(|| other.stats().flights == 0).await;
    assert!(get(&thin, &origin.host(), "/taken").await.body == body);
    assert_eq!((origin.count(), thin.stats().origin_requests), (1, 0), "taken from the peer");
    let (asking, host) = (Arc::clone(&thin), origin.host());
    let first = tokio::spawn(async move { get(&asking, &host, "/led").await });
    until(|| origin.count() == 2 && thin.stats().origin_bytes > 0).await;
    let (asking, host) = (Arc::new(other), origin.host());
    let second = tokio::spawn(async move { get(&asking, &host, "/led").await });
    until(|| thin.stats().peer_served == 1).await;
    gate.add_permits(1);
    assert!(soon(first).await.unwrap().body == body && soon(second).await.unwrap().body == body);
    assert_eq!(origin.count(), 2, "while it fetches it gives: the origin is asked once");
    assert!(net.puts().iter().all(|(holder, _)| *holder != info(2).id), "nothing of its own is announced");
    assert!(overheard(&net, 2, &origin, "/taken").await.starts_with(b"HTTP/1.1 404 "));
}

#[tokio::test]
async fn a_lease_whose_fetch_left_nothing_for_others_is_given_back() {
    let body = noise(50_000);
    let origin = Origin::with_body(body.clone()).await;
    let net = Net::new(Level(1));
    let mut config = config_for(&origin);
    config.peers.upstream_only = true;
    let thin = net.proxy(1, config).await;
    assert!(get(&thin, &origin.host(), "/").await.body == body);
    until(|| !net.is_leased(key(&origin, "/"))).await;
    let other = net.proxy(2, config_for(&origin)).await;
    assert!(get(&other, &origin.host(), "/").await.body == body);
    let stats = other.stats();
    assert_eq!((net.granted(), stats.origin_requests, stats.origin_ungranted), (2, 1, 0), "granted at once");
    until(|| other.stats().flights == 0).await;
    assert!(net.is_leased(key(&origin, "/")), "what is there for others keeps its lease");
}

// C11: ten thousand at once want one cold object of five nodes; the first of them hangs up.
#[tokio::test]
async fn ten_thousand_simultaneous_misses_on_five_nodes_cost_one_request() {
    let gate = Arc::new(Semaphore::new(0));
    let (body, held) = (noise(100_000), Arc::clone(&gate));
    let served = body.clone();
    let origin = Origin::start(move |_, _| gated(&served, &held)).await;
    let net = Net::new(Level(1));
    let mut proxies = Vec::new();
    for number in 1..=5 {
        let mut config = config_for(&origin);
        (config.limits.requests, config.limits.waiters) = (20_000, 20_000);
        proxies.push(Arc::new(net.proxy(number, config).await));
    }
    let ask = |proxy: &Arc<atoll_proxy::Proxy>| {
        let (proxy, host) = (Arc::clone(proxy), origin.host());
        async move {
            let request = http::Request::get("/").header("host", host).body(()).unwrap();
            let response = proxy.answer(request).await;
            let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
            body.to_bytes()
        }
    };
    let hasty = tokio::spawn(ask(&proxies[0]));
    until(|| origin.count() == 1).await;
    hasty.abort();
    let mut clients = JoinSet::new();
    for number in 0..10_000 {
        clients.spawn(ask(&proxies[number % 5]));
    }
    until(|| proxies.iter().all(|proxy| proxy.stats().peer_bytes + proxy.stats().origin_bytes >= 40_000)).await;
    gate.add_permits(1);
    while let Some(answer) = soon(clients.join_next()).await {
        assert!(answer.unwrap() == body, "wrong bytes");
    }
    assert_eq!((origin.count(), net.granted()), (1, 1));
}

#[tokio::test]
async fn a_peers_copy_that_is_longer_than_is_stored_here_is_no_want_of_room() {
    let origin = Origin::with_body(noise(30_000)).await;
    let net = Net::new(Level(1));
    let one = net.proxy(1, config_for(&origin)).await;
    assert_eq!(get(&one, &origin.host(), "/").await.status, 200);
    until(|| one.stats().flights == 0).await;
    let mut config = config_for(&origin);
    config.limits.object = 20_000;
    let two = net.proxy(2, config).await;
    get(&two, &origin.host(), "/").await;
    until(|| two.stats().flights == 0).await;
    assert_eq!(two.stats().peer_fetches, [("too_large", 1)].into());
}

// What is coming in holds all the room there is: a copy of a peer's cannot be taken in, but the origin's answer can be passed on.
#[tokio::test]
async fn where_a_peers_copy_has_no_room_the_origins_answer_is_passed_on() {
    let body = noise(30_000);
    let origin = Origin::with_body(body.clone()).await;
    let net = Net::new(Level(1));
    let one = net.proxy(1, config_for(&origin)).await;
    assert!(get(&one, &origin.host(), "/").await.body == body);
    until(|| one.stats().flights == 0).await;
    // Half of the memory is for fills.
    let config = atoll_store::Config { memory: atoll_store::ByteSize::mib(2), ..atoll_store::Config::default() };
    let store = atoll_store::Store::open(config).await.unwrap();
    let node = net.node(2);
    let index = Arc::clone(&node) as Arc<dyn atoll_overlay::Index>;
    let two = atoll_proxy::Proxy::start(config_for(&origin), index, node, store.clone()).unwrap();
    let (key, tags, metadata) = (atoll_store::Key::from_bytes([1; 20]), atoll_store::Tags::default(), Bytes::new());
    let born = store.purge_number();
    let head = atoll_store::Head { key, directory: 0, tags, expires: None, metadata, length: None, born };
    let mut others = [store.writer(head.clone()).unwrap(), store.writer(head).unwrap()];
    for other in &mut others {
        other.append(noise((512 << 10) - 500)).await.unwrap();
    }
    let passed = get(&two, &origin.host(), "/").await;
    assert!(passed.status == 200 && passed.body == body, "{}", passed.status);
    assert!(passed.cache_status().ends_with("no-room"), "{}", passed.cache_status());
    assert_eq!(two.stats().peer_fetches, [("no_room", 1)].into());
    drop(others);
    let stored = get(&two, &origin.host(), "/").await;
    assert!(stored.body == body && stored.cache_status().contains("stored"), "{}", stored.cache_status());
}
