//! Peers that lie about purges and about the copies they pass on (issue 8; bad-inputs C10, P02, P03): what nobody signed counts for
//! nothing. And networks that are split (P08).

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use atoll_overlay::{Level, NodeId, Streams as _};
use atoll_proxy::Config;
use bytes::Bytes;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Semaphore,
};

use crate::{
    purge::{edition, editions, quick, tag},
    support::{Do, Net, Node, Origin, get, info, noise, ok, soon, until},
    vouched::{Framed, answers, frames_of, key, overheard, wire},
};

/// An answer to `GET /purges`, as a peer may make it up.
#[derive(Clone, PartialEq, prost::Message)]
struct Told {
    #[prost(message, repeated, tag = "1")]
    chains: Vec<Chain>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    records: Vec<Bytes>,
    #[prost(bool, tag = "3")]
    more: bool,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    floors: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Chain {
    #[prost(bytes = "bytes", tag = "1")]
    signer: Bytes,
    #[prost(uint64, tag = "2")]
    head: u64,
    /// Where floors stood before they were signed.
    #[prost(uint64, tag = "3")]
    floor: u64,
}

/// Answers every question about purges so; who has asked.
fn tells(node: Arc<Node>, told: &Told) -> Arc<Mutex<Vec<NodeId>>> {
    let body = told.encode_to_vec();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((from, mut stream)) = node.accept().await {
            let _ = stream.read(&mut [0; 4_096]).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
            noted.lock().unwrap().push(from);
        }
    });
    asked
}

fn millis() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A purge of something else, as it is signed: version, soft, number, previous, a tag without host.
fn words(number: u64, previous: u64) -> Vec<u8> {
    [&[1, 0][..], &number.to_be_bytes(), &previous.to_be_bytes(), &[5, 0, 4], b"else", &[0, 0]].concat()
}

// C10, P03: else one peer could have everybody pass over a signer's purges, and make its numbers those of the future.
#[tokio::test]
async fn what_was_forgotten_counts_in_its_signer_s_words_only() {
    let now = Arc::new(AtomicUsize::new(1));
    let origin = editions(&now).await;
    let net = Net::new(Level(1));
    net.acquainted.store(true, Ordering::SeqCst);
    let one = net.proxy(1, quick(&origin)).await;
    let two = net.proxy(2, quick(&origin)).await;
    let by = |number: u8, words: &[u8]| Bytes::from([&info(number).id.key().as_bytes()[..], words].concat());
    let far =
        |signer| Chain { signer: Bytes::copy_from_slice(info(signer).id.key().as_bytes()), head: 9, floor: 1 << 62 };
    let told = Told {
        chains: vec![far(1), far(2), Chain { floor: u64::MAX, ..far(1) }],
        floors: vec![
            Bytes::from_static(b"noise"),
            by(1, b"noise"),
            // Of nobody here, and of a day that is not yet.
            by(77, &words(millis(), 0)),
            by(1, &words(millis() + 10 * 86_400_000, 0)),
            by(2, &words(1 << 62, 0)),
        ],
        ..Told::default()
    };
    let asked = tells(net.node(9), &told);
    let by_both = |from: usize| {
        let asked = asked.lock().unwrap();
        [1, 2].iter().all(|number| asked[from..].contains(&info(*number).id))
    };
    for path in ["/a/x", "/b/x"] {
        for proxy in [&one, &two] {
            assert_eq!(edition(proxy, &origin, path, "*/*").await, "1");
        }
    }
    let (requests, before) = (origin.count(), asked.lock().unwrap().len());
    until(|| by_both(before)).await;
    for proxy in [&one, &two] {
        assert_eq!(edition(proxy, &origin, "/a/x", "*/*").await, "1");
    }
    assert_eq!(origin.count(), requests, "nothing was marked to be asked for again");
    now.store(2, Ordering::SeqCst);
    let report = soon(one.purge(tag("a"), true, Duration::ZERO)).await.unwrap();
    assert_eq!(report.purge.split('-').next_back().unwrap().len(), millis().to_string().len(), "{report:?}");
    until(|| two.purges(9).len() == 1).await;
    for (path, expect) in [("/a/x", "2"), ("/b/x", "1")] {
        for proxy in [&one, &two] {
            assert_eq!(edition(proxy, &origin, path, "*/*").await, expect, "{path}");
        }
    }
    // The other way round.
    soon(two.purge(tag("b"), true, Duration::ZERO)).await.unwrap();
    until(|| one.purges(9).len() == 2).await;
    assert_eq!(edition(&one, &origin, "/b/x", "*/*").await, "2");
}

// C10: what nobody has any more was missed all the same.
#[tokio::test]
async fn a_node_that_was_away_has_all_confirmed_if_what_it_missed_was_forgotten() {
    let now = Arc::new(AtomicUsize::new(1));
    let origin = editions(&now).await;
    let net = Net::new(Level(1));
    net.acquainted.store(true, Ordering::SeqCst);
    let mut short = quick(&origin);
    short.purges.records = 1;
    // It holds on to what it has, doubts or not.
    let mut trusting = quick(&origin);
    (trusting.purges.doubt, trusting.purges.gap) = (Duration::from_secs(3_600), Duration::from_secs(3_600));
    let one = net.proxy(1, short).await;
    let two = net.proxy(2, trusting).await;
    assert_eq!(edition(&two, &origin, "/a/x", "*/*").await, "1");
    net.cut_off(2);
    now.store(2, Ordering::SeqCst);
    for gone in ["a", "c", "d"] {
        one.purge(tag(gone), true, Duration::ZERO).await.unwrap();
    }
    assert_eq!(edition(&two, &origin, "/a/x", "*/*").await, "1");
    net.heal(2);
    soon(async { while edition(&two, &origin, "/a/x", "*/*").await != "2" {} }).await;
    // Once: what was confirmed stands.
    let requests = origin.count();
    let heard = soon(one.purge(tag("e"), true, Duration::from_secs(30))).await.unwrap();
    assert_eq!(heard.missing(), 0);
    assert_eq!(edition(&two, &origin, "/a/x", "*/*").await, "2");
    assert_eq!(origin.count(), requests);
}

/// A network in which node 1 fetched this path and was overheard, and is gone.
async fn relayed(origin: &Origin, path: &str) -> (Arc<Net>, Vec<Framed>) {
    relayed_by(quick(origin), origin, path).await
}

/// The same by a node with these settings.
async fn relayed_by(config: Config, origin: &Origin, path: &str) -> (Arc<Net>, Vec<Framed>) {
    let net = Net::new(Level(1));
    net.acquainted.store(true, Ordering::SeqCst);
    let fetcher = net.proxy(1, config).await;
    get(&fetcher, &origin.host(), path).await;
    until(|| fetcher.stats().flights == 0).await;
    let frames = frames_of(&overheard(&net, 1, origin, path).await);
    assert_eq!(frames[0].0, b'H', "{frames:?}");
    fetcher.stop().await;
    net.kill(1);
    (net, frames)
}

/// The same copy, said to be so many milliseconds old: the last word on it counts.
fn aged(frames: &[Framed], mut age: u64) -> Vec<Framed> {
    let mut frames = frames.to_vec();
    frames[0].1.push(0x30);
    while age >= 0x80 {
        frames[0].1.push(u8::try_from(age & 0x7f | 0x80).unwrap());
        age >>= 7;
    }
    frames[0].1.push(u8::try_from(age).unwrap());
    frames
}

const REFERENCE: Bytes = Bytes::from_static(&[8, 1]);

// P03: a relay that keeps what was purged, and says that it has applied all there is.
#[tokio::test]
async fn a_copy_from_before_a_purge_is_refused_whatever_its_sender_says_it_applied() {
    let fields = "Cache-Control: max-age=3600\r\nXkey: a\r\n";
    let origin = Origin::start(move |number, _| ok(fields, &number.to_string().into())).await;
    let (net, before) = relayed(&origin, "/a/x").await;
    let asker = net.proxy(2, quick(&origin)).await;
    let report = asker.purge(tag("a"), false, Duration::ZERO).await.unwrap();
    let claim = format!("HTTP/1.1 200 OK\r\nAtoll-Purges: {}\r\n", report.purge.replace('-', ":"));
    answers(&net, 10, [claim.as_bytes(), &wire(&before)["HTTP/1.1 200 OK\r\n".len()..]].concat());
    net.plant(key(&origin, "/a/x"), 10, REFERENCE);
    assert_eq!(get(&asker, &origin.host(), "/a/x").await.body, b"1");
    assert_eq!((origin.count(), asker.stats().peer_bytes, asker.stats().peer_lies), (2, 0, 0));
    until(|| asker.stats().flights == 0).await;
    // What was fetched after it is given on, by one who never heard of it too.
    net.kill(10);
    let three = net.proxy(3, quick(&origin)).await;
    assert_eq!(get(&three, &origin.host(), "/a/x").await.body, b"1");
    assert_eq!(origin.count(), 2);
}

// P03: what has had its time is no copy, and nobody makes it younger than its fetcher knew it.
#[tokio::test]
async fn a_copy_is_as_old_as_its_fetcher_signed_and_no_stale_one_is_taken() {
    let day: u64 = 86_400;
    let origin = Origin::start(move |_, head| {
        let fields = if head.contains("/old") {
            format!("Cache-Control: max-age={}\r\nAge: {}\r\n", 40 * day, 30 * day)
        } else if head.contains("/stale") {
            format!("Cache-Control: max-age=60\r\nAge: {}\r\n", 30 * day)
        } else {
            "Cache-Control: max-age=60\r\n".to_owned()
        };
        ok(&fields, &Bytes::from_static(b"body"))
    })
    .await;
    // Stale, and honestly said so.
    let (net, good) = relayed(&origin, "/x").await;
    answers(&net, 10, wire(&aged(&good, 1_000 * day)));
    net.plant(key(&origin, "/x"), 10, REFERENCE);
    let asker = net.proxy(2, quick(&origin)).await;
    let answer = get(&asker, &origin.host(), "/x").await;
    assert!(!answer.cache_status().contains("peer"), "{}", answer.cache_status());
    assert_eq!((origin.count(), asker.stats().peer_bytes, asker.stats().peer_lies), (2, 0, 0));
    // Thirty days old, and said to be of now, and to grow still: here it would be stale.
    let mut lasting = quick(&origin);
    lasting.freshness.minimum = Duration::from_secs(40 * day);
    let (net, good) = relayed_by(lasting, &origin, "/stale").await;
    let mut grows = aged(&good, 0);
    grows[0].1.extend_from_slice(&[0x4a, 0]);
    answers(&net, 10, wire(&grows));
    net.plant(key(&origin, "/stale"), 10, REFERENCE);
    let asker = net.proxy(2, quick(&origin)).await;
    let before = origin.count();
    let answer = get(&asker, &origin.host(), "/stale").await;
    assert!(!answer.cache_status().contains("peer"), "{}", answer.cache_status());
    assert_eq!((origin.count() - before, asker.stats().peer_bytes, asker.stats().peer_lies), (1, 0, 0));
    // Thirty days old, and said to be of now.
    let (net, good) = relayed(&origin, "/old").await;
    answers(&net, 10, wire(&aged(&good, 0)));
    net.plant(key(&origin, "/old"), 10, REFERENCE);
    let asker = net.proxy(2, quick(&origin)).await;
    let answer = get(&asker, &origin.host(), "/old").await;
    assert!(answer.cache_status().contains("peer"), "{}", answer.cache_status());
    let age: u64 = answer.field("age").unwrap().parse().unwrap();
    assert!((29 * day..31 * day).contains(&age), "{age}");
}

// P02: the liar is gone after a few bytes, and those that are right contradict them.
#[tokio::test]
async fn who_contradicts_a_liar_is_not_taken_for_one_and_the_origin_names_it() {
    let (right, wrong) = (noise(200_000), noise(200_001).slice(..200_000));
    let fields = "Cache-Control: max-age=600\r\nETag: \"1\"\r\n";
    let served = right.clone();
    let origin = Origin::start(move |_, _| ok(fields, &served)).await;
    let gate = Arc::new(Semaphore::new(0));
    let (held, made_up) = (Arc::clone(&gate), wrong.slice(..10));
    let evil = Origin::start_at(([127, 0, 0, 2], origin.address.port()).into(), move |_, _| {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 200000\r\n\r\n");
        vec![Do::Send(head.into()), Do::Send(made_up.clone()), Do::Wait(Arc::clone(&held))]
    })
    .await;
    // An honest fetcher's copy, which two nodes pass on.
    let (_, good) = relayed(&origin, "/").await;
    let net = Net::new(Level(1));
    let mut config = quick(&origin);
    config.hosts.insert("site.test".to_owned(), vec!["127.0.0.2".parse().unwrap()]);
    let liar = Arc::new(net.proxy(5, config).await);
    let (asked, host) = (Arc::clone(&liar), origin.host());
    let first = tokio::spawn(async move { get(&asked, &host, "/").await });
    until(|| evil.count() == 1 && liar.stats().origin_bytes == 10).await;
    let mut config = quick(&origin);
    config.peers.contradicted = 1;
    let asker = Arc::new(net.proxy(2, config).await);
    let (asked, host) = (Arc::clone(&asker), origin.host());
    let client = tokio::spawn(async move { get(&asked, &host, "/").await });
    until(|| asker.stats().peer_bytes == 10).await;
    for relay in [3, 4] {
        answers(&net, relay, wire(&good));
        net.plant(key(&origin, "/"), relay, REFERENCE);
    }
    net.kill(5);
    liar.stop().await;
    assert!(!soon(client).await.unwrap().complete, "what was shown was wrong");
    drop(soon(first).await);
    assert_eq!((asker.liars(), asker.stats().peer_lies), (vec![info(5).id], 1));
    until(|| asker.stats().flights == 0).await;
    let again = get(&asker, &origin.host(), "/").await;
    assert!(again.complete && again.body == right);
}

// P08: each side goes on by itself, what one side purged stays purged, and both agree once they meet.
#[tokio::test]
async fn a_purge_on_one_side_of_a_split_network_reaches_the_other_when_it_heals_and_is_not_undone() {
    let now = Arc::new(AtomicUsize::new(1));
    let origin = editions(&now).await;
    let net = Net::new(Level(1));
    net.acquainted.store(true, Ordering::SeqCst);
    let mut proxies = Vec::new();
    for number in 1..=5 {
        proxies.push(net.proxy(number, quick(&origin)).await);
    }
    for proxy in &proxies {
        assert_eq!(edition(proxy, &origin, "/a/x", "*/*").await, "1");
    }
    net.split(&[1, 2]);
    now.store(2, Ordering::SeqCst);
    // Ordered on both sides, of different things.
    let report = soon(proxies[0].purge(tag("a"), true, Duration::ZERO)).await.unwrap();
    let (signer, _) = report.purge.split_once('-').unwrap();
    assert_eq!(signer, info(1).id.to_string());
    soon(proxies[4].purge(tag("z"), true, Duration::ZERO)).await.unwrap();
    let has = |place: usize, what: &str| proxies[place].purges(9).iter().any(|purge| purge.what == what);
    until(|| has(1, "tag a") && has(2, "tag z") && has(3, "tag z")).await;
    for place in [0, 1] {
        // A copy of the other side's would be of before the purge.
        assert_eq!(edition(&proxies[place], &origin, "/a/x", "*/*").await, "2");
    }
    for place in [2, 3, 4] {
        let there = edition(&proxies[place], &origin, "/a/x", "*/*").await;
        assert!(!has(place, "tag a") && ["1", "2"].contains(&there.as_str()));
    }
    net.split(&[]);
    until(|| (0..5).all(|place| has(place, "tag a") && has(place, "tag z"))).await;
    until(|| proxies.iter().all(|proxy| proxy.purges(9).iter().all(|purge| purge.applied == 5))).await;
    for proxy in &proxies {
        assert_eq!(edition(proxy, &origin, "/a/x", "*/*").await, "2");
    }
}

// C10: an error that was remembered is not what the origin says after the purge, at no node.
#[tokio::test]
async fn a_purge_has_every_node_forget_the_failures_that_it_means() {
    let origin = Origin::start(|number, head| {
        if number < 2 && head.contains("/a/") {
            return vec![Do::Send("HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno".into())];
        }
        ok("Cache-Control: max-age=3600\r\n", &Bytes::from_static(b"good"))
    })
    .await;
    let net = Net::new(Level(1));
    net.acquainted.store(true, Ordering::SeqCst);
    let mut lasting = quick(&origin);
    let long = Duration::from_secs(3_600);
    (lasting.freshness.negative_first, lasting.freshness.negative_most) = (long, long);
    let one = net.proxy(1, lasting.clone()).await;
    let two = net.proxy(2, lasting).await;
    for path in ["/a/x", "/a/y"] {
        assert_eq!(get(&two, &origin.host(), path).await.status, 500);
        until(|| two.stats().flights == 0).await;
        assert_eq!((get(&two, &origin.host(), path).await.status, origin.count() <= 2), (500, true));
    }
    let site = format!("http://site.test:{}", origin.address.port());
    let other = atoll_proxy::PurgeTarget::Prefix(format!("{site}/b/"));
    soon(one.purge(other, false, Duration::from_secs(30))).await.unwrap();
    assert_eq!(get(&two, &origin.host(), "/a/x").await.status, 500, "it means something else");
    let meant = atoll_proxy::PurgeTarget::Prefix(format!("{site}/a/"));
    let report = soon(one.purge(meant, false, Duration::from_secs(30))).await.unwrap();
    assert_eq!(report.missing(), 0);
    for path in ["/a/x", "/a/y"] {
        assert_eq!(get(&two, &origin.host(), path).await.body, b"good");
    }
}
