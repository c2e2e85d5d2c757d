//! Proxies among themselves: copies found, streamed while they grow, verified, lost and found again.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use atoll_overlay::{Index as _, Key, Level, Streams as _, Value};
use atoll_proxy::OriginUrl;
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Semaphore,
    task::JoinSet,
};

use crate::support::{Do, Net, Origin, config_for, exchange, get, info, noise, ok, soon, until};

fn key(origin: &Origin, path: &str) -> Key {
    OriginUrl::parse(&format!("http://site.test:{}{path}", origin.address.port())).unwrap().key()
}

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

// A slow origin is no failure: its fetcher shows that it lives, and nobody asks a second time.
#[tokio::test]
async fn waiting_on_a_slow_origin_starts_no_second_fetch() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |_, _| {
        let mut steps = ok("Cache-Control: max-age=60\r\n", &Bytes::from_static(b"late"));
        steps.insert(0, Do::Wait(Arc::clone(&held)));
        steps
    })
    .await;
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

/// What a peer of our making answers to any request.
fn frames(meta: &[u8], body: &[u8], end: &[u8]) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
    for (kind, part) in [(b'H', meta), (b'D', body), (b'E', end)] {
        if !part.is_empty() {
            bytes.push(kind);
            bytes.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(part);
        }
    }
    bytes
}

/// The frames a true copy is sent in, as one node sends them: head, then everything after it.
async fn overheard(net: &Arc<Net>, holder: u8, origin: &Origin, path: &str) -> Vec<u8> {
    let ear = net.node(200);
    let mut stream = ear.open(info(holder).id).await.unwrap();
    let port = origin.address.port();
    let request = format!(
        "GET /{} HTTP/1.1\r\nHost: site.test:{port}\r\nAtoll-Url: http://site.test:{port}{path}\r\n\r\n",
        key(origin, path)
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

/// The `H` frame's bytes out of an answer.
fn meta_of(answer: &[u8]) -> Vec<u8> {
    let at = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    // The body is chunked; the first chunk is the head frame.
    let line = answer[at..].windows(2).position(|two| two == b"\r\n").unwrap();
    answer[at + line + 2 + 5..]
        [..usize::from_str_radix(std::str::from_utf8(&answer[at..at + line]).unwrap(), 16).unwrap() - 5]
        .to_vec()
}

// P02: right length, wrong bytes; too short; too long; a wrong digest that fits the wrong bytes.
#[tokio::test]
async fn a_lying_peer_is_found_out_and_another_source_used() {
    let body = noise(1_000);
    let origin = Origin::with_body(body.clone()).await;
    let net = Net::new(Level(1));
    let honest = net.proxy(1, config_for(&origin)).await;
    assert_eq!(get(&honest, &origin.host(), "/").await.body, body);
    until(|| honest.stats().flights == 0).await;
    let meta = meta_of(&overheard(&net, 1, &origin, "/").await);
    let wrong = noise(1_001).slice(..1_000);
    let end = |bytes: &[u8], length: u64| [&length.to_be_bytes()[..], blake3::hash(bytes).as_bytes()].concat();
    let lies = [
        frames(&meta, &wrong, &end(&wrong, 1_000)),
        frames(&meta, &wrong, &end(&body, 1_000)),
        frames(&meta, &body[..900], &end(&body[..900], 900)),
        frames(&meta, &noise(2_000), &end(&noise(2_000), 2_000)),
        frames(&meta, &body, &[]),
        frames(&meta, b"", &[]),
        frames(&[0xff; 40], &body, &end(&body, 1_000)),
        b"HTTP/1.1 200 OK\r\n\r\nD\xff\xff\xff\xff".to_vec(),
        b"HTTP/1.1 500 No\r\n\r\n".to_vec(),
        b"\0\0\0\0".to_vec(),
    ];
    net.kill(1);
    drop(honest);
    for (number, lie) in (10..).zip(lies) {
        let liar = net.node(number);
        tokio::spawn(async move {
            while let Ok((_, mut stream)) = liar.accept().await {
                let mut head = [0; 4_096];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(&lie).await;
            }
        });
        let mut config = config_for(&origin);
        config.peers.patience = Duration::from_millis(400);
        config.peers.stall = Duration::from_millis(400);
        let asker = net.proxy(100 + number, config).await;
        net.plant(key(&origin, "/"), number, Bytes::from_static(&[8, 1]));
        let before = origin.count();
        // The one that begins well and ends early has shown its beginning: its client is cut off.
        if number == 12 {
            let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", origin.host());
            let cut = exchange(asker.local_addrs()[0], request.as_bytes()).await;
            assert!(cut.len() < 1_000 && !cut.ends_with(b"0\r\n\r\n"));
        }
        let response = get(&asker, &origin.host(), "/").await;
        assert!(response.body == body && response.complete, "lie {number} was believed");
        assert_eq!(origin.count(), before + 1, "lie {number}");
        // This asker's own copy is not to serve the next.
        net.kill(100 + number);
        net.kill(number);
    }
}

// A fetcher that breaks off and lives is asked for the rest: the origin is not.
#[tokio::test]
async fn a_fetcher_that_only_stumbled_is_asked_for_the_rest() {
    let body = noise(100_000);
    let origin = Origin::with_body(body.clone()).await;
    let net = Net::new(Level(1));
    let honest = net.proxy(1, config_for(&origin)).await;
    assert_eq!(get(&honest, &origin.host(), "/").await.body, body);
    until(|| honest.stats().flights == 0).await;
    let meta = meta_of(&overheard(&net, 1, &origin, "/").await);
    net.kill(1);
    drop(honest);
    let end = [&100_000_u64.to_be_bytes()[..], blake3::hash(&body).as_bytes()].concat();
    let answers = [frames(&meta, &body[..60_000], &[]), frames(&meta, &body[60_000..], &end)];
    let holder = net.node(10);
    let asked = tokio::spawn(async move {
        let mut heads = Vec::new();
        for answer in answers {
            let (_, mut stream) = holder.accept().await.unwrap();
            let mut head = vec![0; 4_096];
            let count = stream.read(&mut head).await.unwrap();
            heads.push(String::from_utf8(head[..count].to_vec()).unwrap());
            stream.write_all(&answer).await.unwrap();
        }
        heads
    });
    net.lease(key(&origin, "/"), 10);
    let asker = net.proxy(2, config_for(&origin)).await;
    let response = get(&asker, &origin.host(), "/").await;
    assert!(response.body == body, "wrong bytes");
    let heads = soon(asked).await.unwrap();
    assert!(!heads[0].contains("atoll-from") && heads[1].contains("atoll-from: 60000\r\n"), "{heads:?}");
    assert_eq!((origin.count(), asker.stats().origin_requests), (1, 0));
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
