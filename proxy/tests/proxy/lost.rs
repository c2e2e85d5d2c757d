//! Sources that are lost in the middle of a body: they die, fall silent, or break off in turn. Whoever has the first bytes gets the
//! last ones (issue 8; bad-inputs P07, P09, C11).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use atoll_overlay::{Level, Streams as _};
use atoll_proxy::{Config, Origins, Proxy};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Semaphore,
    task::JoinHandle,
};

use crate::{
    support::{Do, Net, Origin, Response, config_for, get, info, noise, ok, soon, until},
    vouched::{key, overheard},
};

/// What an origin does with the question for the rest, or for all once more.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    /// It knows ranges.
    Ranges,
    /// It knows none, and has no tag.
    SendsAll,
    /// Nor does it say how long it is.
    SendsAllInChunks,
    /// It refuses once, then knows ranges.
    RefusesFirst,
    /// It breaks off in the middle of the rest once.
    BreaksOffFirst,
    /// It closes without a word twice.
    ClosesFirst,
    /// It has a tag, but what it makes of ranges is of no use.
    RefusesRanges,
}

impl Then {
    const ALL: [Self; 7] = [
        Self::Ranges,
        Self::SendsAll,
        Self::SendsAllInChunks,
        Self::RefusesFirst,
        Self::BreaksOffFirst,
        Self::ClosesFirst,
        Self::RefusesRanges,
    ];

    fn has_tag(self) -> bool {
        !matches!(self, Self::SendsAll | Self::SendsAllInChunks)
    }

    /// Requests that one answer costs whose first source was lost.
    fn requests(self) -> usize {
        match self {
            Self::Ranges | Self::SendsAll | Self::SendsAllInChunks => 2,
            Self::RefusesFirst | Self::BreaksOffFirst | Self::RefusesRanges => 3,
            Self::ClosesFirst => 4,
        }
    }
}

/// An origin that sends so many bytes of a body to the first who asks, and no more.
async fn halting(body: Bytes, cut: usize, then: Then) -> Origin {
    let nobody = Arc::new(Semaphore::new(0));
    Origin::start(move |number, head| {
        let tag = if then.has_tag() { "ETag: \"v1\"\r\n" } else { "" };
        if number == 0 {
            let mut steps = all(then, tag, &body, body.len());
            steps.truncate(1);
            steps.push(Do::Send(in_chunks(then, &body.slice(..cut))));
            steps.push(Do::Wait(Arc::clone(&nobody)));
            return steps;
        }
        let asked = head.to_ascii_lowercase();
        let from = asked.split("range: bytes=").nth(1).and_then(|rest| rest.split('-').next()?.parse::<usize>().ok());
        let mut steps = match from {
            Some(_) if then == Then::RefusesRanges => {
                vec![Do::Send("HTTP/1.1 416 No\r\nContent-Length: 0\r\n\r\n".into())]
            }
            Some(from) => rest(tag, &body, from),
            None => all(then, tag, &body, body.len()),
        };
        match then {
            Then::RefusesFirst if number == 1 => {
                vec![Do::Send("HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno".into())]
            }
            Then::BreaksOffFirst if number == 1 => {
                let Some(Do::Send(bytes)) = steps.pop() else { panic!("no body") };
                vec![steps.remove(0), Do::Send(bytes.slice(..bytes.len() / 2)), Do::Close]
            }
            Then::ClosesFirst if number <= 2 => vec![Do::Close],
            Then::Ranges
            | Then::SendsAll
            | Then::SendsAllInChunks
            | Then::RefusesFirst
            | Then::BreaksOffFirst
            | Then::ClosesFirst
            | Then::RefusesRanges => steps,
        }
    })
    .await
}

fn all(then: Then, tag: &str, body: &Bytes, length: usize) -> Vec<Do> {
    if then != Then::SendsAllInChunks {
        assert_eq!(body.len(), length);
        return ok(&format!("{tag}Cache-Control: max-age=60\r\n"), body);
    }
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n";
    vec![Do::Send(head.into()), Do::Send(in_chunks(then, body)), Do::Send("0\r\n\r\n".into())]
}

fn in_chunks(then: Then, bytes: &Bytes) -> Bytes {
    match then {
        Then::SendsAllInChunks => [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat().into(),
        _ => bytes.clone(),
    }
}

fn rest(tag: &str, body: &Bytes, from: usize) -> Vec<Do> {
    let (length, left) = (body.len(), body.len() - from);
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\n{tag}Content-Range: bytes {from}-{}/{length}\r\nContent-Length: {left}\r\n\r\n",
        length - 1
    );
    vec![Do::Send(head.into()), Do::Send(body.slice(from..))]
}

/// Peers are waited for, however busy the machine is.
fn patient(origin: &Origin) -> Config {
    let mut config = config_for(origin);
    (config.peers.hedge, config.peers.patience) = (Duration::from_secs(20), Duration::from_secs(20));
    config
}

fn ask(proxy: &Arc<Proxy>, origin: &Origin) -> JoinHandle<Response> {
    let (proxy, host) = (Arc::clone(proxy), origin.host());
    tokio::spawn(async move { get(&proxy, &host, "/").await })
}

// C11: the bodies of a flash crowd, 41 KB each, wherever they are when the fetcher dies.
#[tokio::test]
async fn a_fetcher_that_dies_at_any_byte_costs_no_client_one() {
    let body = noise(41_000);
    for then in Then::ALL {
        // To the last byte: of a body in chunks nothing may be missing but the word that it ends.
        let last = if then == Then::SendsAllInChunks { body.len() } else { body.len() - 1 };
        for cut in [1, 20_000, last] {
            let origin = halting(body.clone(), cut, then).await;
            let net = Net::new(Level(1));
            let one = Arc::new(net.proxy(1, config_for(&origin)).await);
            let two = Arc::new(net.proxy(2, patient(&origin)).await);
            let _first = ask(&one, &origin);
            until(|| one.stats().origin_bytes >= cut as u64).await;
            let second = ask(&two, &origin);
            until(|| two.stats().peer_bytes >= cut as u64).await;
            net.kill(1);
            one.stop().await;
            let response = soon(second).await.unwrap();
            assert!(response.complete && response.body == body, "{then:?} at {cut}: {} bytes", response.body.len());
            assert_eq!(origin.count(), then.requests(), "{then:?} at {cut}: {:?}", origin.heads());
            until(|| two.stats().flights == 0).await;
            assert!(get(&two, &origin.host(), "/").await.cache_status().contains("hit"), "{then:?} at {cut}");
        }
    }
}

// RFC 9110 13.1.5: all of it under another tag is another body, however alike they begin. Rather a broken answer than a mixed one.
#[tokio::test]
async fn the_rest_of_another_version_that_begins_alike_is_not_taken() {
    let body = noise(41_000);
    let other: Bytes = [&body[..40_000], &[0; 1_000]].concat().into();
    let nobody = Arc::new(Semaphore::new(0));
    let served = body.clone();
    let origin = Origin::start(move |number, _| {
        if number > 0 {
            return ok("ETag: \"v2\"\r\nCache-Control: max-age=60\r\n", &other);
        }
        let mut steps = ok("ETag: \"v1\"\r\nCache-Control: max-age=60\r\n", &served);
        steps.truncate(1);
        steps.extend([Do::Send(served.slice(..20_000)), Do::Wait(Arc::clone(&nobody))]);
        steps
    })
    .await;
    let net = Net::new(Level(1));
    let one = Arc::new(net.proxy(1, config_for(&origin)).await);
    let two = Arc::new(net.proxy(2, patient(&origin)).await);
    let _first = ask(&one, &origin);
    until(|| one.stats().origin_bytes >= 20_000).await;
    let second = ask(&two, &origin);
    until(|| two.stats().peer_bytes >= 20_000).await;
    net.kill(1);
    one.stop().await;
    let response = soon(second).await.unwrap();
    assert!(!response.complete && body.starts_with(&response.body), "{} bytes", response.body.len());
    let after = get(&two, &origin.host(), "/").await;
    assert!(after.body != body && after.body.ends_with(&[0; 1_000]), "the new version, whole: {after:?}");
}

// A relay whose own source died goes on from the origin, which breaks off in turn: whoever follows the relay gets it all in words that
// cover each byte, and takes nobody for a liar.
#[tokio::test]
async fn whoever_follows_a_node_that_goes_on_elsewhere_gets_every_byte_signed() {
    let body = noise(300_000);
    let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (served, held, count) = (body.clone(), Arc::clone(&gate), Arc::clone(&asked));
    let origin = Origin::start(move |number, head| {
        count.fetch_add(1, Ordering::SeqCst);
        let tag = "ETag: \"v1\"\r\n";
        let from = head.split("ange: bytes=").nth(1).and_then(|rest| rest.split('-').next()?.parse::<usize>().ok());
        let mut steps = match from {
            None => all(Then::Ranges, tag, &served, served.len()),
            Some(from) => rest(tag, &served, from),
        };
        if number < 2 {
            let Some(Do::Send(bytes)) = steps.pop() else { panic!("no body") };
            // The second ends in the middle of a chunk.
            steps.push(Do::Send(bytes.slice(..100_001)));
            steps.push(Do::Wait(Arc::clone(&held)));
            steps.push(Do::Close);
        }
        steps
    })
    .await;
    let net = Net::new(Level(1));
    let mut proxies = Vec::new();
    for number in 1..=3 {
        proxies.push(Arc::new(net.proxy(number, patient(&origin)).await));
    }
    let _first = ask(&proxies[0], &origin);
    until(|| proxies[0].stats().origin_bytes >= 100_001).await;
    let second = ask(&proxies[1], &origin);
    until(|| proxies[1].stats().peer_bytes >= 100_001).await;
    net.kill(1);
    proxies[0].stop().await;
    until(|| proxies[1].stats().origin_bytes >= 100_001).await;
    let third = ask(&proxies[2], &origin);
    until(|| proxies[2].stats().peer_bytes >= 200_000).await;
    gate.add_permits(10);
    for response in [second, third] {
        let response = soon(response).await.unwrap();
        assert!(response.complete && response.body == body, "{} bytes", response.body.len());
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    assert!(proxies[1..].iter().all(|proxy| proxy.liars().is_empty()), "an honest node was taken for a liar");
    let ear = overheard(&net, 3, &origin, "/").await;
    assert!(ear.starts_with(b"HTTP/1.1 200 "), "what it kept is good for others");
}

// An origin that has something else for each asker under one tag: the fetcher passed on what it was given, and is no liar for that.
#[tokio::test]
async fn an_origin_that_answers_each_node_differently_has_no_fetcher_taken_for_a_liar() {
    let (theirs, mine) = (noise(41_000), noise(41_001).slice(..41_000));
    let (gate, fields) = (Arc::new(Semaphore::new(0)), "ETag: \"v1\"\r\nCache-Control: max-age=60\r\n");
    let (served, held) = (theirs.clone(), Arc::clone(&gate));
    let origin = Origin::start(move |number, _| match number {
        0 | 1 => ok(fields, &served),
        2 => {
            let mut steps = ok(fields, &served);
            steps.pop();
            steps.extend([Do::Send(served.slice(..20_000)), Do::Wait(Arc::clone(&held))]);
            steps
        }
        _ => ok(fields, &mine),
    })
    .await;
    let port = origin.address.port();
    let two_hosts = || {
        let mut config = patient(&origin);
        config.origins = Origins::Listed(["site", "other"].map(|host| format!("{host}.test:{port}")).to_vec());
        config.hosts.insert("other.test".to_owned(), vec![origin.address.ip()]);
        config
    };
    let net = Net::new(Level(1));
    let fetcher = Arc::new(net.proxy(1, two_hosts()).await);
    let relay = net.proxy(3, two_hosts()).await;
    let (same, other) = (origin.host(), format!("other.test.{port}.nyud.example"));
    for host in [&same, &other] {
        for proxy in [fetcher.as_ref(), &relay] {
            assert!(get(proxy, host, "/before").await.body == theirs);
            until(|| proxy.stats().flights == 0).await;
        }
    }
    let _first = ask(&fetcher, &origin);
    until(|| fetcher.stats().origin_bytes >= 102_000).await;
    let asker = Arc::new(net.proxy(2, two_hosts()).await);
    let second = ask(&asker, &origin);
    until(|| asker.stats().peer_bytes >= 20_000).await;
    net.kill(1);
    fetcher.stop().await;
    assert!(!soon(second).await.unwrap().complete, "of two bodies none is made");
    assert_eq!((asker.liars(), asker.stats().peer_contradictions, origin.count()), (Vec::new(), 1, 4));
    assert_eq!((asker.stats().peer_lies, asker.doubted()), (0, vec![(info(1).id, "site.test".to_owned())]));
    assert!(get(&asker, &other, "/before").await.body == theirs);
    assert_eq!(origin.count(), 4, "what it signed of another host is believed");
    assert!(get(&asker, &same, "/before").await.body != theirs);
    assert_eq!((origin.count(), asker.stats().origin_ungranted), (5, 0), "of this host the origin is believed");
}

// P07: a peer that sends half of a copy and then nothing, or is gone: with what it said of its copy, growing or whole.
#[tokio::test]
async fn a_peer_that_stalls_or_breaks_off_half_way_is_left_for_the_origin() {
    let body = noise(600_000);
    let origin = Origin::start({
        let body = body.clone();
        move |_, head| {
            let from = head.split("ange: bytes=").nth(1).and_then(|rest| rest.split('-').next()?.parse().ok());
            match from {
                None => ok("ETag: \"v1\"\r\nCache-Control: max-age=3600\r\n", &body),
                Some(from) => rest("ETag: \"v1\"\r\n", &body, from),
            }
        }
    })
    .await;
    let net = Net::new(Level(1));
    let honest = net.proxy(1, config_for(&origin)).await;
    assert!(get(&honest, &origin.host(), "/").await.body == body);
    until(|| honest.stats().flights == 0).await;
    let answer = overheard(&net, 1, &origin, "/").await;
    let whole = net.puts().pop().unwrap().1.value;
    net.kill(1);
    for (number, (reference, holds)) in
        (10_u8..).zip([(Bytes::from_static(&[8, 1]), true), (whole.clone(), true), (whole, false)])
    {
        halves(&net, number, answer[..answer.len() / 2].to_vec(), holds);
        let mut config = patient(&origin);
        // What it says comes in one go. Only that it says no more is told by the time.
        config.peers.stall = Duration::from_secs(if holds { 2 } else { 20 });
        let asker = net.proxy(100 + number, config).await;
        net.plant(key(&origin, "/"), number, reference);
        let before = origin.count();
        let response = get(&asker, &origin.host(), "/").await;
        assert!(response.complete && response.body == body, "{number}: {} bytes", response.body.len());
        assert!(asker.stats().peer_bytes > 100_000, "{number}: the peer gave nothing");
        assert!(asker.stats().origin_bytes < 500_000, "{number}: all of it came from the origin");
        assert_eq!((origin.count(), asker.liars().len()), (before + 1, 0), "{number}");
        net.kill(100 + number);
        net.kill(number);
    }
}

/// Answers every request with these bytes; then it closes, or never says another.
fn halves(net: &Arc<Net>, number: u8, bytes: Vec<u8>, holds: bool) {
    let node = net.node(number);
    tokio::spawn(async move {
        let mut streams = Vec::new();
        while let Ok((_, mut stream)) = node.accept().await {
            let mut head = [0; 4_096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(&bytes).await;
            if holds {
                streams.push(stream);
            }
        }
    });
}

// An origin that is down for good is asked so often and no more.
#[tokio::test]
async fn the_rest_is_asked_for_a_bounded_number_of_times() {
    let body = noise(41_000);
    let nobody = Arc::new(Semaphore::new(0));
    let served = body.clone();
    let origin = Origin::start(move |number, _| {
        let mut steps = ok("ETag: \"v1\"\r\nCache-Control: max-age=60\r\n", &served);
        if number > 0 {
            return vec![Do::Send("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".into())];
        }
        steps.pop();
        steps.extend([Do::Send(served.slice(..30_000)), Do::Wait(Arc::clone(&nobody))]);
        steps
    })
    .await;
    let net = Net::new(Level(1));
    let one = Arc::new(net.proxy(1, config_for(&origin)).await);
    let mut config = patient(&origin);
    config.peers.resumes = 2;
    let two = Arc::new(net.proxy(2, config).await);
    let _first = ask(&one, &origin);
    until(|| one.stats().origin_bytes >= 30_000).await;
    let second = ask(&two, &origin);
    until(|| two.stats().peer_bytes >= 30_000).await;
    net.kill(1);
    one.stop().await;
    let response = soon(second).await.unwrap();
    assert!(!response.complete && body.starts_with(&response.body), "what there is was good");
    assert_eq!(origin.count(), 1 + 3, "once, and twice more");
}
