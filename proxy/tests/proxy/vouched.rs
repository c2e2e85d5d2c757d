//! Who vouches for a copy: what liars in the middle come to, what is passed on with it, and how fetchers that lie are found out.

use std::{sync::Arc, time::Duration};

use atoll_overlay::{Key, Level, Streams as _};
use atoll_proxy::OriginUrl;
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Semaphore,
};

use crate::support::{Do, Net, Origin, Response, config_for, get, info, noise, ok, proof_of, soon, until};

pub(crate) fn key(origin: &Origin, path: &str) -> Key {
    OriginUrl::parse(&format!("http://site.test:{}{path}", origin.address.port())).unwrap().key()
}

/// What a node answers to a peer's request, as bytes.
pub(crate) async fn overheard(net: &Arc<Net>, holder: u8, origin: &Origin, path: &str) -> Vec<u8> {
    overheard_with(net, holder, origin, path, "Atoll-Version: 2\r\n").await
}

/// The same with these fields beside the URL.
async fn overheard_with(net: &Arc<Net>, holder: u8, origin: &Origin, path: &str, fields: &str) -> Vec<u8> {
    let ear = net.node(200);
    let mut stream = ear.open(info(holder).id).await.unwrap();
    let port = origin.address.port();
    let request = format!(
        "GET /{} HTTP/1.1\r\nHost: site.test:{port}\r\nAtoll-Url: http://site.test:{port}{path}\r\n{fields}\r\n",
        key(origin, path)
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

/// A frame: its kind and its bytes.
pub(crate) type Framed = (u8, Vec<u8>);

/// The frames of such an answer, a chunk's bytes in one of its own.
pub(crate) fn frames_of(answer: &[u8]) -> Vec<Framed> {
    let body = Response::read(answer, false).body;
    let (mut rest, mut frames) = (&body[..], Vec::new());
    while let Some((head, after)) = rest.split_first_chunk::<5>() {
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        let (bytes, next) = after.split_at(length);
        match head[0] {
            b'D' => frames.extend(bytes.chunks(64 << 10).map(|chunk| (b'D', chunk.to_vec()))),
            kind => frames.push((kind, bytes.to_vec())),
        }
        rest = next;
    }
    frames
}

/// The frames as a peer sends them.
pub(crate) fn wire(frames: &[Framed]) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
    for (kind, part) in frames {
        bytes.push(*kind);
        bytes.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

/// The same frames but for one.
fn with(frames: &[Framed], kind: u8, change: impl Fn(&mut Vec<u8>)) -> Vec<Framed> {
    let mut frames = frames.to_vec();
    let one = frames.iter_mut().find(|(it, _)| *it == kind).unwrap();
    change(&mut one.1);
    frames
}

fn without(frames: &[Framed], kind: u8) -> Vec<Framed> {
    frames.iter().filter(|(it, _)| *it != kind).cloned().collect()
}

/// Answers every request with these bytes.
pub(crate) fn answers(net: &Arc<Net>, number: u8, bytes: Vec<u8>) {
    let node = net.node(number);
    tokio::spawn(async move {
        while let Ok((_, mut stream)) = node.accept().await {
            let mut head = [0; 4_096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(&bytes).await;
        }
    });
}

/// A network in which node 1 had this body, and what it sent of it.
async fn taught(body: &Bytes) -> (Origin, Arc<Net>, Vec<Framed>) {
    let origin = Origin::with_body(body.clone()).await;
    let net = Net::new(Level(1));
    let honest = net.proxy(1, config_for(&origin)).await;
    assert!(get(&honest, &origin.host(), "/").await.body == *body);
    until(|| honest.stats().flights == 0).await;
    let frames = frames_of(&overheard(&net, 1, &origin, "/").await);
    net.kill(1);
    (origin, net, frames)
}

/// The code with which a node breaks off that has no line to spare.
const BUSY: u8 = 4;

const REFERENCE: Bytes = Bytes::from_static(&[8, 1]);

// P02: wrong bytes of the right length, right bytes with wrong headers, truncated, endless, and words that nobody said.
#[tokio::test]
async fn a_lying_peer_is_found_out_and_another_source_used() {
    let body = noise(1_000);
    let (origin, net, good) = taught(&body).await;
    assert_eq!(good.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), b"HSDE");
    let turn = |bytes: &mut Vec<u8>, at: usize| bytes[at] ^= 1;
    let header = |meta: &mut Vec<u8>| {
        let at = meta.windows(12).position(|it| it == b"max-age=3600").unwrap();
        meta[at + 8] = b'9';
    };
    let lies = [
        wire(&with(&good, b'D', |data| turn(data, 500))),
        wire(&with(&good, b'H', header)),
        wire(&with(&good, b'H', |meta| turn(meta, 40))),
        wire(&with(&good, b'H', |meta| *meta = vec![0xff; 40])),
        wire(&with(&good, b'D', |data| data.truncate(900))),
        wire(&with(&good, b'D', |data| data.extend_from_slice(&noise(70_000)))),
        wire(&with(&good, b'S', |group| turn(group, 20))),
        wire(&with(&good, b'S', |group| *group.last_mut().unwrap() ^= 1)),
        wire(&with(&good, b'S', |group| group.truncate(10))),
        wire(&without(&good, b'S')),
        wire(&without(&without(&good, b'S'), b'D')),
        wire(&good[..1]),
        b"HTTP/1.1 200 OK\r\n\r\nD\xff\xff\xff\xff".to_vec(),
        b"HTTP/1.1 500 No\r\n\r\n".to_vec(),
        b"\0\0\0\0".to_vec(),
    ];
    for (number, lie) in (10..).zip(lies) {
        answers(&net, number, lie);
        let mut config = config_for(&origin);
        config.peers.patience = Duration::from_millis(400);
        config.peers.stall = Duration::from_millis(400);
        let asker = net.proxy(100 + number, config).await;
        net.plant(key(&origin, "/"), number, REFERENCE);
        let before = origin.count();
        let response = get(&asker, &origin.host(), "/").await;
        assert!(response.body == body && response.complete, "lie {number} was believed");
        assert_eq!(origin.count(), before + 1, "lie {number}");
        // This asker's own copy is not to serve the next.
        net.kill(100 + number);
        net.kill(number);
    }
    // What needs no `E`, since its end was signed, is no lie.
    answers(&net, 60, wire(&without(&good, b'E')));
    let asker = net.proxy(160, config_for(&origin)).await;
    net.plant(key(&origin, "/"), 60, REFERENCE);
    let before = origin.count();
    assert!(get(&asker, &origin.host(), "/").await.body == body && origin.count() == before);
}

// What clients may ask a node for, it may ask others for; and who refuses a question has not lied.
#[tokio::test]
async fn a_long_url_comes_from_a_peer_and_one_that_refuses_is_no_liar() {
    let origin = Origin::with_body(noise(1_000)).await;
    let net = Net::new(Level(1));
    let holder = net.proxy(1, config_for(&origin)).await;
    let path = format!("/{}", "x".repeat(12_000));
    assert_eq!(get(&holder, &origin.host(), &path).await.status, 200);
    until(|| net.whole_copy(key(&origin, &path), 1).is_some()).await;
    let asker = net.proxy(2, config_for(&origin)).await;
    let answer = get(&asker, &origin.host(), &path).await;
    assert!(answer.complete && answer.cache_status().contains("peer"), "{}", answer.cache_status());
    assert_eq!((origin.count(), asker.stats().peer_lies), (1, 0));
    answers(&net, 10, b"HTTP/1.1 431 Too Large\r\nConnection: close\r\n\r\n".to_vec());
    net.plant(key(&origin, "/y"), 10, REFERENCE);
    assert!(get(&asker, &origin.host(), "/y").await.complete);
    assert_eq!((origin.count(), asker.liars()), (2, Vec::new()));
}

// A network is upgraded node by node.
#[tokio::test]
async fn nodes_of_two_versions_are_no_liars_to_each_other() {
    let body = noise(1_000);
    let (origin, net, good) = taught(&body).await;
    let other = with(&good, b'H', |meta| meta.extend_from_slice(&[8, 1]));
    answers(&net, 10, wire(&other));
    net.plant(key(&origin, "/"), 10, REFERENCE);
    let asker = net.proxy(2, config_for(&origin)).await;
    assert!(get(&asker, &origin.host(), "/").await.body == body);
    assert_eq!((origin.count(), asker.stats().peer_lies), (2, 0));
    until(|| net.whole_copy(key(&origin, "/"), 2).is_some()).await;
    for fields in ["", "Atoll-Version: 1\r\n", "Atoll-Version: x\r\n"] {
        let answer = overheard_with(&net, 2, &origin, "/", fields).await;
        assert!(answer.starts_with(b"HTTP/1.1 404 "), "{fields:?}");
    }
}

// The bytes before a lie are good and stand; the lie is never seen; the rest comes from elsewhere; the liar is asked no more.
#[tokio::test]
async fn a_lie_half_way_costs_a_change_of_source_and_no_client_sees_it() {
    let body = noise(200_000);
    let (origin, net, good) = taught(&body).await;
    let mut lie = good.clone();
    let mut seen = 0;
    for (_, data) in lie.iter_mut().filter(|(kind, _)| *kind == b'D') {
        if (seen..seen + data.len()).contains(&150_000) {
            data[150_000 - seen] ^= 1;
        }
        seen += data.len();
    }
    answers(&net, 10, wire(&lie));
    net.plant(key(&origin, "/"), 10, REFERENCE);
    let asker = net.proxy(2, config_for(&origin)).await;
    let response = get(&asker, &origin.host(), "/").await;
    assert!(response.body == body && response.complete, "wrong bytes");
    assert_eq!((origin.count(), asker.stats().peer_lies, asker.stats().peer_bytes), (2, 1, 131_072));
    assert_eq!(asker.liars(), [info(10).id]);
    // It names itself for something else: it is not even asked.
    net.plant(key(&origin, "/other"), 10, REFERENCE);
    assert!(get(&asker, &origin.host(), "/other").await.body == body);
    assert_eq!((origin.count(), asker.stats().peer_lies), (3, 1));
}

#[tokio::test]
async fn what_a_relay_passes_on_is_in_its_fetcher_s_words_small_or_large() {
    for length in [0, 1_000, 3_000_000] {
        let body = noise(length);
        let origin = Origin::with_body(body.clone()).await;
        let net = Net::new(Level(1));
        let one = net.proxy(1, config_for(&origin)).await;
        let two = net.proxy(2, config_for(&origin)).await;
        for proxy in [&one, &two] {
            assert!(get(proxy, &origin.host(), "/").await.body == body);
            until(|| proxy.stats().flights == 0).await;
        }
        net.kill(1);
        drop(one);
        let frames = frames_of(&overheard(&net, 2, &origin, "/").await);
        let signed: Vec<_> = frames.iter().filter(|(kind, _)| *kind == b'S').collect();
        assert!(!signed.is_empty());
        for (_, group) in signed {
            let proof = &group[group.len() - 52..];
            assert_eq!(&proof[..20], info(1).id.key().as_bytes(), "signed by the fetcher");
        }
        let three = net.proxy(3, config_for(&origin)).await;
        assert!(get(&three, &origin.host(), "/").await.body == body);
        assert_eq!((origin.count(), two.stats().peer_served), (1, 2));
    }
}

// A copy that began at a peer and ended at the origin is passed on in the words of both.
#[tokio::test]
async fn a_copy_of_two_sources_is_vouched_for_by_both() {
    let body = noise(300_000);
    let (origin, net, good) = taught(&body).await;
    // Up to some byte within the second chunk, then the peer hangs up.
    let mut half = Vec::new();
    for frame in &good {
        half.push(frame.clone());
        if frame.0 == b'D' {
            half.push((b'D', good.iter().filter(|(kind, _)| *kind == b'D').nth(1).unwrap().1[..100].to_vec()));
            break;
        }
    }
    answers(&net, 10, wire(&half));
    net.plant(key(&origin, "/"), 10, REFERENCE);
    let two = net.proxy(2, config_for(&origin)).await;
    assert!(get(&two, &origin.host(), "/").await.body == body);
    until(|| two.stats().flights == 0).await;
    let before = origin.count();
    net.kill(10);
    let frames = frames_of(&overheard(&net, 2, &origin, "/").await);
    let signers: Vec<_> =
        frames.iter().filter(|(kind, _)| *kind == b'S').map(|(_, group)| group[group.len() - 52]).collect();
    assert!(signers.contains(&info(1).id.key().as_bytes()[0]) && signers.contains(&info(2).id.key().as_bytes()[0]));
    let three = net.proxy(3, config_for(&origin)).await;
    assert!(get(&three, &origin.host(), "/").await.body == body);
    assert_eq!(origin.count(), before);
}

// A fetcher that breaks off and lives is asked for the rest: the origin is not.
#[tokio::test]
async fn a_fetcher_that_only_stumbled_is_asked_for_the_rest() {
    let body = noise(100_000);
    let (origin, net, good) = taught(&body).await;
    let chunk = good.iter().position(|(kind, _)| *kind == b'D').unwrap();
    // All of the first chunk and a little of the second; then from the second on, as an honest node would go on.
    let (mut first, mut rest) = (good[..chunk + 2].to_vec(), good.clone());
    first.last_mut().unwrap().1.truncate(10);
    rest.remove(chunk);
    let holder = net.node(10);
    let asked = tokio::spawn(async move {
        let mut heads = Vec::new();
        for answer in [wire(&first), wire(&rest)] {
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
    assert!(!heads[0].contains("atoll-from") && heads[1].contains("atoll-from: 65536\r\n"), "{heads:?}");
    assert_eq!((origin.count(), asker.stats().origin_requests), (1, 0));
}

// Behind a line that its copies fill a fetcher says that it is busy, and the next question to it is lost: it lives, and the origin was asked.
#[tokio::test]
async fn a_fetcher_that_was_busy_and_then_fell_silent_is_asked_again() {
    let body = noise(100_000);
    let (origin, net, good) = taught(&body).await;
    let holder = net.node(10);
    let asked = tokio::spawn(async move {
        let mut streams = Vec::new();
        for answer in [wire(&[(b'X', vec![BUSY])]), Vec::new(), wire(&good)] {
            let (_, mut stream) = holder.accept().await.unwrap();
            let count = stream.read(&mut [0; 4_096]).await.unwrap();
            assert!(count > 0, "no question");
            stream.write_all(&answer).await.unwrap();
            // What is not answered stays open: silence, not an end.
            streams.push(stream);
            if !answer.is_empty() {
                streams.clear();
            }
        }
    });
    net.lease(key(&origin, "/"), 10);
    let mut config = config_for(&origin);
    (config.peers.hedge, config.peers.far) = (Duration::from_millis(20), Duration::ZERO);
    config.peers.patience = Duration::from_millis(100);
    let asker = net.proxy(2, config).await;
    let response = get(&asker, &origin.host(), "/").await;
    assert!(response.body == body, "wrong bytes");
    soon(asked).await.unwrap();
    assert_eq!((origin.count(), asker.stats().origin_requests), (1, 0));
}

// What the fetcher itself makes up is signed and consistent: only the origin can tell.
#[tokio::test]
async fn a_fetcher_that_lies_is_found_out_by_a_sampled_fetch_and_its_copy_goes() {
    let (right, wrong) = (noise(200_000), noise(200_001).slice(..200_000));
    let tagged = |body: &Bytes| ok("Cache-Control: max-age=600\r\nETag: \"1\"\r\n", body);
    let served = right.clone();
    let origin = Origin::start(move |_, _| tagged(&served)).await;
    let made_up = wrong.clone();
    // Node 1 takes another machine for the site.
    let evil = Origin::start_at(([127, 0, 0, 2], origin.address.port()).into(), move |_, _| tagged(&made_up)).await;
    let net = Net::new(Level(1));
    let mut config = config_for(&origin);
    config.hosts.insert("site.test".to_owned(), vec!["127.0.0.2".parse().unwrap()]);
    let liar = net.proxy(1, config).await;
    assert!(get(&liar, &origin.host(), "/").await.body == wrong && evil.count() == 1);
    until(|| liar.stats().flights == 0).await;
    let mut config = config_for(&origin);
    (config.peers.recheck_one_in, config.peers.recheck_after) = (1, Duration::from_millis(1));
    config.peers.contradicted = 1;
    let asker = net.proxy(2, config).await;
    assert!(get(&asker, &origin.host(), "/").await.body == wrong);
    until(|| asker.stats().peer_lies == 1).await;
    assert_eq!(asker.liars(), [info(1).id]);
    until(|| !net.names(key(&origin, "/"), 2)).await;
    assert!(get(&asker, &origin.host(), "/").await.body == right, "the copy is gone and the liar not believed");
}

#[tokio::test]
async fn a_sampled_fetch_finds_nothing_wrong_with_an_honest_copy_or_a_new_version() {
    let body = noise(100_000);
    let served = body.clone();
    let origin = Origin::start(move |number, _| {
        let fields = if number < 2 { "ETag: \"1\"\r\n" } else { "ETag: \"2\"\r\n" };
        ok(&format!("Cache-Control: max-age=600\r\n{fields}"), &if number < 2 { served.clone() } else { noise(9) })
    })
    .await;
    let net = Net::new(Level(1));
    let one = net.proxy(1, config_for(&origin)).await;
    assert!(get(&one, &origin.host(), "/").await.body == body);
    until(|| one.stats().flights == 0).await;
    for (number, asked) in [(2, 2), (3, 3)] {
        let mut config = config_for(&origin);
        (config.peers.recheck_one_in, config.peers.recheck_after) = (1, Duration::from_millis(1));
        let asker = net.proxy(number, config).await;
        assert!(get(&asker, &origin.host(), "/").await.body == body);
        until(|| origin.count() == asked).await;
        let hit = get(&asker, &origin.host(), "/").await;
        assert!(hit.body == body && hit.cache_status().contains("hit") && asker.stats().peer_lies == 0);
    }
}

// P07: alive, and so slow that nobody should wait for it.
#[tokio::test]
async fn a_peer_that_crawls_with_a_whole_copy_is_left_for_another_source() {
    let body = noise(100_000);
    let (origin, net, good) = taught(&body).await;
    let bytes = wire(&good);
    let node = net.node(10);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((_, mut stream)) = node.accept().await {
            let bytes = bytes.clone();
            held.push(tokio::spawn(async move {
                let mut head = [0; 4_096];
                let _ = stream.read(&mut head).await;
                let head = bytes.len() - 100_000;
                let _ = stream.write_all(&bytes[..head]).await;
                for byte in bytes[head..].chunks(10) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    if stream.write_all(byte).await.is_err() {
                        return;
                    }
                }
            }));
        }
    });
    let whole = [&[8, 1, 0x1a, 32][..], &[7; 32]].concat();
    net.plant(key(&origin, "/"), 10, whole.into());
    let mut config = config_for(&origin);
    // Were it waited for, the test would end here.
    config.peers.stall = Duration::from_secs(3_600);
    let asker = net.proxy(2, config).await;
    assert!(get(&asker, &origin.host(), "/").await.body == body);
    assert_eq!((asker.stats().peer_lies, asker.stats().origin_ungranted), (0, 0));
}

// What nobody can vouch for any more is not passed on.
#[tokio::test]
async fn nodes_that_cannot_sign_give_nothing_that_would_have_to_be_believed() {
    let body = noise(10_000);
    let (origin, net, good) = taught(&body).await;
    let meta = &good[0].1;
    // Signed by a node for itself, over another head.
    let forged = proof_of(info(10).id, b"something else");
    let mut lie = meta[..meta.len() - forged.len()].to_vec();
    lie.extend_from_slice(&forged);
    answers(&net, 10, wire(&with(&good, b'H', |it| it.clone_from(&lie))));
    net.plant(key(&origin, "/"), 10, REFERENCE);
    let asker = net.proxy(2, config_for(&origin)).await;
    assert!(get(&asker, &origin.host(), "/").await.body == body);
    assert_eq!((asker.liars(), origin.count()), (vec![info(10).id], 2));
    // It is not asked any more, and the root is told why.
    net.plant(key(&origin, "/other"), 10, REFERENCE);
    assert!(get(&asker, &origin.host(), "/other").await.body == body);
    assert_eq!(asker.stats().origin_ungranted, 0);
}

// P13: what is hot loads no node more than its uploads. One line out is not shared among all who want a large file: the second is led to the first.
#[tokio::test]
async fn a_large_growing_copy_is_handed_from_peer_to_peer() {
    let body = noise(6 << 20);
    let gate = Arc::new(Semaphore::new(0));
    let (served, held) = (body.clone(), Arc::clone(&gate));
    let origin = Origin::start(move |_, _| {
        let head = format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: {}\r\n\r\n", served.len());
        let half = served.len() / 2;
        vec![
            Do::Send(head.into()),
            Do::Send(served.slice(..half)),
            Do::Wait(Arc::clone(&held)),
            Do::Send(served.slice(half..)),
        ]
    })
    .await;
    let net = Net::new(Level(1));
    let mut proxies = Vec::new();
    for number in 1..=5 {
        let mut config = config_for(&origin);
        config.peers.uploads = 1;
        proxies.push(Arc::new(net.proxy(number, config).await));
    }
    let mut clients = Vec::new();
    for (place, proxy) in proxies.iter().enumerate() {
        let (asked, host) = (Arc::clone(proxy), origin.host());
        clients.push(tokio::spawn(async move { get(&asked, &host, "/").await }));
        if place == 0 {
            until(|| proxy.stats().origin_bytes >= 3 << 20).await;
        }
    }
    until(|| proxies[1..].iter().all(|proxy| proxy.stats().peer_bytes >= 2 << 20)).await;
    assert_eq!(net.most_fed(), 1, "each feeds one at a time");
    let refused = proxies.iter().map(|proxy| proxy.stats().peer_uploads_refused).sum::<u64>();
    assert!(refused >= 3, "all but one of four found no place at the first they asked: {refused}");
    gate.add_permits(1);
    for client in clients {
        assert!(soon(client).await.unwrap().body == body);
    }
    assert_eq!((origin.count(), proxies.iter().map(|proxy| proxy.stats().origin_ungranted).sum::<u64>()), (1, 0));
}

// Of those that wait for a large copy together the nearest has it from its fetcher, and the others from that one: a chain that goes to and fro
// between far regions loses time with each long way.
#[tokio::test]
async fn a_large_copy_is_handed_to_the_nearest_of_those_that_wait_for_it() {
    let body = noise(6 << 20);
    let gate = Arc::new(Semaphore::new(0));
    let (served, held) = (body.clone(), Arc::clone(&gate));
    let origin = Origin::start(move |_, _| {
        let head = format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: {}\r\n\r\n", served.len());
        vec![Do::Wait(Arc::clone(&held)), Do::Send(head.into()), Do::Send(served.clone())]
    })
    .await;
    let net = Net::new(Level(1));
    let mut clients = Vec::new();
    for number in 1..=6 {
        net.distances.lock().unwrap().insert(info(number).id, Duration::from_millis(100 - 10 * u64::from(number)));
        let mut config = config_for(&origin);
        config.peers.uploads = 1;
        // However long all take to come, nobody gives up the one that fetches.
        (config.peers.hedge, config.peers.patience) = (Duration::from_secs(3_600), Duration::from_secs(3_600));
        let (proxy, host) = (net.proxy(number, config).await, origin.host());
        clients.push(tokio::spawn(async move { (get(&proxy, &host, "/").await.body, proxy) }));
        until(|| if number == 1 { origin.count() == 1 } else { net.given(1, number) > 0 }).await;
    }
    gate.add_permits(1);
    for client in clients {
        assert!(soon(client).await.unwrap().0 == body);
    }
    let by_the_fetcher: Vec<_> = (2..=6).filter(|to| net.given(1, *to) > 1 << 20).collect();
    assert_eq!((by_the_fetcher, origin.count()), (vec![6], 1));
}
