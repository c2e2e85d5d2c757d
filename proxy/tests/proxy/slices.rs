//! Ranges of large objects: rows G01 and G04, and what flights and peers make of slices. Slices are 16 KiB here, and large is over
//! 64 KiB.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use atoll_overlay::Level;
use atoll_proxy::{Config, Proxy, SlicesConfig};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use crate::support::{
    Do, Net, Origin, Response, alone, config_for, config_site, get, get_with, noise, ok, raw, soon, until,
};

const SLICE: u64 = 16 << 10;

fn sliced(config: Config) -> Config {
    Config { slices: SlicesConfig { over: 64 << 10, size: SLICE }, ..config }
}

fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// What an honest origin answers to a GET of this body, with or without a range.
fn honest(head: &str, tag: &str, body: &Bytes) -> Vec<Do> {
    let fields = format!("Cache-Control: max-age=3600\r\nETag: {tag}\r\n");
    let range = field(head, "range").filter(|_| field(head, "if-range").is_none_or(|wanted| wanted == tag));
    let ends = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((first, last)) = ends else { return ok(&fields, body) };
    let total = body.len();
    let (first, last) = match first.parse::<usize>() {
        Ok(first) => (first, last.parse().unwrap_or(total).min(total - 1)),
        Err(_) => (total - last.parse::<usize>().unwrap().min(total), total - 1),
    };
    if first >= total {
        return raw(&format!("HTTP/1.1 416 No\r\nContent-Range: bytes */{total}\r\nContent-Length: 0\r\n\r\n"));
    }
    let piece = body.slice(first..=last);
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\n{fields}Content-Range: bytes {first}-{last}/{total}\r\nContent-Length: {}\r\n\r\n",
        piece.len()
    );
    vec![Do::Send(head.into()), Do::Send(piece)]
}

async fn large(body: &Bytes) -> Origin {
    let body = body.clone();
    Origin::start(move |_, head| honest(head, "\"one\"", &body)).await
}

async fn range(proxy: &Proxy, host: &str, range: &str) -> Response {
    get_with(proxy, "GET", host, "/large", &format!("Range: bytes={range}\r\n")).await
}

async fn landed(proxy: &Proxy) {
    until(|| proxy.stats().flights == 0).await;
}

// G01
#[tokio::test]
async fn a_byte_of_a_large_object_costs_its_origin_two_slices_at_most() {
    let body = noise(200_000);
    let origin = large(&body).await;
    for (config, host) in [(config_for(&origin), origin.host()), (config_site(&origin), "any.test".to_owned())] {
        let proxy = alone(sliced(config)).await;
        let mut before = 0;
        for at in [199_999_usize, 0, 100_000, 16_383, 16_384, 130_001, 100_001] {
            let response = range(&proxy, &host, &format!("{at}-{at}")).await;
            assert_eq!((response.status, &response.body[..]), (206, &body[at..=at]), "{at}");
            assert_eq!(response.field("content-range"), Some(format!("bytes {at}-{at}/200000")));
            landed(&proxy).await;
            let spent = proxy.stats().origin_bytes;
            assert!(spent - before <= 2 * SLICE, "{at} cost {}", spent - before);
            before = spent;
        }
        let asked = origin.count();
        let again = range(&proxy, &host, "100000-100009").await;
        assert_eq!((&again.body[..], origin.count()), (&body[100_000..100_010], asked), "{}", again.cache_status());
        assert!(again.cache_status().starts_with("atoll; hit; "), "{}", again.cache_status());
        let beyond = range(&proxy, &host, "200000-").await;
        assert_eq!((beyond.status, beyond.field("content-range").as_deref()), (416, Some("bytes */200000")));
    }
}

// A range is refused with 503 where there is no room for its first slice; one that is half-way waits for room, but not for ever.
#[tokio::test]
async fn a_range_that_is_half_way_waits_for_room_and_one_that_begins_is_refused() {
    let body = noise(200_000);
    for room in [true, false] {
        let (gate, served) = (Arc::new(Semaphore::new(0)), body.clone());
        let held = Arc::clone(&gate);
        let origin = Origin::start(move |_, head| {
            let mut steps = honest(head, "\"one\"", &served);
            if head.starts_with("GET /held ") {
                steps.insert(0, Do::Wait(Arc::clone(&held)));
            }
            steps
        })
        .await;
        let mut config = sliced(config_for(&origin));
        config.limits.flights = 1;
        if !room {
            config.timeouts.connect = std::time::Duration::from_millis(200);
        }
        let proxy = Arc::new(alone(config).await);
        assert_eq!(range(&proxy, &origin.host(), "0-9").await.status, 206);
        landed(&proxy).await;
        let (other, host) = (Arc::clone(&proxy), origin.host());
        let other = tokio::spawn(async move { get(&other, &host, "/held").await });
        until(|| origin.count() == 2).await;
        let refused = range(&proxy, &origin.host(), "100000-100009").await;
        assert_eq!((refused.status, refused.field("retry-after").as_deref()), (503, Some("1")));
        let (half, host) = (Arc::clone(&proxy), origin.host());
        let half = tokio::spawn(async move { range(&half, &host, "0-39999").await });
        if room {
            until(|| proxy.stats().served.local >= 1).await;
            gate.add_permits(10);
            assert!(soon(other).await.unwrap().body == body);
        }
        let got = soon(half).await.unwrap();
        assert_eq!((got.status, got.complete), (206, room));
        assert!(body[..40_000].starts_with(&got.body) && got.body.len() as u64 >= SLICE, "{}", got.body.len());
        gate.add_permits(10);
    }
}

// G01: the ratio of what origins send to what the client takes.
#[tokio::test]
async fn a_network_that_has_much_more_fetched_than_it_takes_is_refused_and_no_other_is() {
    let body = noise(400_000);
    let origin = large(&body).await;
    let mut config = sliced(config_for(&origin));
    config.fairness.unearned = 8 * SLICE;
    let proxy = alone(config).await;
    // Whoever takes what is fetched owes nothing.
    let all = range(&proxy, &origin.host(), "0-199999").await;
    assert!(all.status == 206 && all.body[..] == body[..200_000], "{}", all.status);
    landed(&proxy).await;
    let (mut served, mut refused) = (0, None);
    for at in (200_000..400_000).step_by(20_000) {
        let response = range(&proxy, &origin.host(), &format!("{at}-{at}")).await;
        landed(&proxy).await;
        match response.status {
            206 if refused.is_none() => served += 1,
            503 => refused = Some(response),
            other => panic!("{other} at {at}"),
        }
    }
    let refused = refused.expect("one is refused at last");
    assert!((2..=8).contains(&served), "{served}");
    assert!(refused.field("retry-after").is_some(), "{:?}", refused.fields);
    assert!(proxy.stats().origin_bytes < 200_000 + (2 * served + 3) * SLICE, "{}", proxy.stats().origin_bytes);
    let elsewhere = TcpSocket::new_v4().unwrap();
    elsewhere.bind(([127, 9, 9, 9], 0).into()).unwrap();
    let mut stream = soon(elsewhere.connect(proxy.local_addrs()[0])).await.unwrap();
    let request = format!(
        "GET /large HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nRange: bytes=390000-390000\r\n\r\n",
        origin.host()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(Response::read(&answer, false).status, 206, "another network");
}

#[tokio::test]
async fn a_range_across_slices_is_what_the_origin_has_and_each_slice_is_asked_for_once() {
    let body = noise(200_000);
    let origin = large(&body).await;
    let proxy = Arc::new(alone(sliced(config_for(&origin))).await);
    let mut clients = JoinSet::new();
    for (first, last) in [(50_000, 199_999), (60_000, 150_000), (50_001, 120_000), (199_000, 199_999), (70_000, 70_000)]
    {
        let (proxy, host) = (Arc::clone(&proxy), origin.host());
        clients.spawn(async move { (first, last, range(&proxy, &host, &format!("{first}-{last}")).await) });
    }
    while let Some(found) = soon(clients.join_next()).await {
        let (first, last, response) = found.unwrap();
        assert_eq!((response.status, response.complete), (206, true), "{first} {:?}", response.fields);
        assert!(response.body == body[first..=last], "{first}-{last} is wrong");
    }
    landed(&proxy).await;
    let mut asked: Vec<_> = origin.heads().iter().map(|head| field(head, "range").unwrap().to_owned()).collect();
    asked.sort();
    let before = asked.len();
    asked.dedup();
    assert_eq!(asked.len(), before, "a slice was asked for twice: {asked:?}");
    assert!(before <= 11, "{asked:?}");
    let open = range(&proxy, &origin.host(), "190000-").await;
    assert_eq!((&open.body[..], origin.count()), (&body[190_000..], before));
    let last = range(&proxy, &origin.host(), "-100").await;
    assert_eq!((&last.body[..], origin.count()), (&body[199_900..], before));
}

#[tokio::test]
async fn a_client_that_leaves_half_way_ends_the_fetching_with_the_slice() {
    let body = noise(4 << 20);
    let origin = large(&body).await;
    let proxy = alone(sliced(config_for(&origin))).await;
    let mut client = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
    let request = format!("GET /large HTTP/1.1\r\nHost: {}\r\nRange: bytes=100000-\r\n\r\n", origin.host());
    client.write_all(request.as_bytes()).await.unwrap();
    let mut some = [0; 1_000];
    soon(client.read_exact(&mut some)).await.unwrap();
    drop(client);
    until(|| proxy.stats().connections == 0).await;
    landed(&proxy).await;
    assert!(proxy.stats().origin_bytes < 4 << 20, "{}", proxy.stats().origin_bytes);
}

// G04
#[tokio::test]
async fn versions_are_never_mixed() {
    let (old, new) = (noise(200_000), noise(200_001));
    let version = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Semaphore::new(0));
    let (state, held, bodies) = (Arc::clone(&version), Arc::clone(&gate), [old.clone(), new.clone()]);
    let origin = Origin::start(move |_, head| {
        let at = state.load(Ordering::SeqCst);
        let mut steps = honest(head, ["\"one\"", "\"two\""][at], &bodies[at]);
        if field(head, "range").is_some_and(|range| range.starts_with("bytes=98304-")) {
            steps.insert(0, Do::Wait(Arc::clone(&held)));
        }
        steps
    })
    .await;
    let proxy = Arc::new(alone(sliced(config_for(&origin))).await);
    assert_eq!(range(&proxy, &origin.host(), "0-9").await.body, old[..10]);
    landed(&proxy).await;
    // Half-way through, the object changes: what is there must not be continued with the other.
    let (reading, host) = (Arc::clone(&proxy), origin.host());
    let half = tokio::spawn(async move { range(&reading, &host, "50000-150000").await });
    until(|| origin.heads().iter().any(|head| head.contains("bytes=98304-"))).await;
    version.store(1, Ordering::SeqCst);
    gate.add_permits(100);
    let half = half.await.unwrap();
    assert!(half.complete == (half.body == old[50_000..=150_000]), "a mixture was passed off as whole");
    assert!(old[50_000..].starts_with(&half.body), "bytes of the other version");
    landed(&proxy).await;
    let after = range(&proxy, &origin.host(), "180000-180099").await;
    assert_eq!((after.status, after.field("etag").as_deref()), (206, Some("\"two\"")));
    assert_eq!(
        (&after.body[..], after.field("content-range").as_deref()),
        (&new[180_000..180_100], Some("bytes 180000-180099/200001"))
    );
    assert_eq!(range(&proxy, &origin.host(), "0-9").await.body, new[..10], "the slices of the old one are not used");
}

// G04: an origin without ranges, one that answers another range, one without a strong tag.
#[tokio::test]
async fn what_cannot_be_cut_is_fetched_whole() {
    let body = noise(200_000);
    for (kind, most) in [("no ranges", 1), ("another range", 2), ("weak tag", 2), ("no store", 3)] {
        let sent = body.clone();
        let origin = Origin::start(move |_, head| match (kind, field(head, "range")) {
            ("no ranges", _) | (_, None) => honest("", "\"one\"", &sent),
            ("another range", Some(_)) => honest("range: bytes=5-9", "\"one\"", &sent),
            ("weak tag", Some(_)) => honest(head, "W/\"one\"", &sent),
            (_, Some(_)) => {
                let mut steps = honest(head, "\"one\"", &sent);
                if let Do::Send(bytes) = &mut steps[0] {
                    *bytes = String::from_utf8_lossy(bytes).replace("max-age=3600", "no-store").into();
                }
                steps
            }
        })
        .await;
        let proxy = alone(sliced(config_for(&origin))).await;
        for _ in 0..2 {
            let response = range(&proxy, &origin.host(), "150000-150009").await;
            assert_eq!((response.status, &response.body[..]), (206, &body[150_000..150_010]), "{kind}");
            landed(&proxy).await;
        }
        assert!(origin.count() <= most, "{kind}: {} requests", origin.count());
    }
}

#[tokio::test]
async fn what_is_small_comes_whole_with_its_first_range() {
    let body = noise(10_000);
    let origin = large(&body).await;
    let proxy = alone(sliced(config_for(&origin))).await;
    assert_eq!(range(&proxy, &origin.host(), "5000-5009").await.body, body[5_000..5_010]);
    landed(&proxy).await;
    let whole = get(&proxy, &origin.host(), "/large").await;
    assert_eq!((whole.status, origin.count()), (200, 1), "{}", whole.cache_status());
    assert!(whole.body == body && whole.field("content-range").is_none());
}

#[tokio::test]
async fn another_node_has_its_slices_from_the_first() {
    let body = noise(200_000);
    let origin = large(&body).await;
    let net = Net::new(Level(1));
    let one = net.proxy(1, sliced(config_for(&origin))).await;
    let two = net.proxy(2, sliced(config_for(&origin))).await;
    assert_eq!(range(&one, &origin.host(), "100000-100009").await.body, body[100_000..100_010]);
    landed(&one).await;
    let other = range(&two, &origin.host(), "100000-100009").await;
    assert_eq!((&other.body[..], origin.count()), (&body[100_000..100_010], 1), "{}", other.cache_status());
    assert!(
        other.cache_status().contains("fwd=partial") && other.cache_status().contains("peer-l1"),
        "{}",
        other.cache_status()
    );
}

#[tokio::test]
async fn a_whole_copy_and_a_whole_fetch_serve_ranges_too_and_unsafe_methods_end_slices() {
    let body = noise(200_000);
    let origin = large(&body).await;
    let proxy = alone(sliced(config_site(&origin))).await;
    assert_eq!(range(&proxy, "any.test", "100000-149999").await.body, body[100_000..150_000]);
    landed(&proxy).await;
    let asked = origin.count();
    let posted = get_with(&proxy, "POST", "any.test", "/large", "Content-Length: 0\r\n").await;
    assert_eq!(posted.status, 200);
    assert_eq!(range(&proxy, "any.test", "100000-149999").await.body, body[100_000..150_000]);
    landed(&proxy).await;
    assert!(origin.count() > asked + 1, "what was stored before the POST was used");
    assert!(get(&proxy, "any.test", "/large").await.body == body);
    landed(&proxy).await;
    let asked = origin.count();
    assert_eq!(range(&proxy, "any.test", "0-99999").await.body, body[..100_000]);
    assert_eq!(origin.count(), asked);
}

// What is never fresh is asked about anew, but not fetched whole.
#[tokio::test]
async fn what_must_be_validated_each_time_costs_slices_too() {
    let body = noise(200_000);
    let sent = body.clone();
    let origin = Origin::start(move |_, head| {
        let mut steps = honest(head, "\"one\"", &sent);
        if let Do::Send(bytes) = &mut steps[0] {
            *bytes = String::from_utf8_lossy(bytes).replace("max-age=3600", "no-cache").into();
        }
        steps
    })
    .await;
    let proxy = alone(sliced(config_for(&origin))).await;
    for (at, requests) in [(100_000_usize, 1), (100_001, 2), (150_000, 3)] {
        let response = range(&proxy, &origin.host(), &format!("{at}-{at}")).await;
        assert_eq!((response.status, &response.body[..]), (206, &body[at..=at]), "{at}");
        landed(&proxy).await;
        assert_eq!(origin.count(), requests);
    }
    assert!(proxy.stats().origin_bytes <= 3 * SLICE);
}

// A slice whose peer is lost half-way is finished by the origin: its rest, not the whole's.
#[tokio::test]
async fn a_slice_half_way_from_a_peer_is_finished_from_the_origin() {
    let body = noise(200_000);
    let (sent, gate) = (body.clone(), Arc::new(Semaphore::new(0)));
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |_, head| {
        let mut steps = honest(head, "\"one\"", &sent);
        if field(head, "range") == Some("bytes=98304-114687")
            && let Some(Do::Send(piece)) = steps.pop()
        {
            steps.extend([Do::Send(piece.slice(..8_000)), Do::Wait(Arc::clone(&held)), Do::Close]);
        }
        steps
    })
    .await;
    let net = Net::new(Level(1));
    let one = Arc::new(net.proxy(1, sliced(config_for(&origin))).await);
    let two = Arc::new(net.proxy(2, sliced(config_for(&origin))).await);
    assert_eq!(range(&one, &origin.host(), "0-9").await.body, body[..10]);
    landed(&one).await;
    let (first, host) = (Arc::clone(&one), origin.host());
    let slow = tokio::spawn(async move { range(&first, &host, "100000-100009").await });
    until(|| origin.heads().iter().any(|head| head.contains("bytes=98304-"))).await;
    let (second, host) = (Arc::clone(&two), origin.host());
    let other = tokio::spawn(async move { range(&second, &host, "100000-110000").await });
    // The second has had the beginning from the first by the time the first dies.
    until(|| two.stats().peer_bytes >= 1_000).await;
    net.kill(1);
    one.stop().await;
    gate.add_permits(10);
    let other = soon(other).await.unwrap();
    assert_eq!(other.status, 206, "{:?}", other.fields);
    assert!(other.complete && other.body == body[100_000..=110_000], "{} bytes", other.body.len());
    slow.abort();
}

// G05, as updaters ask: true parts, and of a large object no more than these.
#[tokio::test]
async fn several_ranges_of_a_large_object_are_parts_out_of_slices() {
    let body = noise(400_000);
    let origin = large(&body).await;
    let proxy = alone(sliced(config_for(&origin))).await;
    let response = range(&proxy, &origin.host(), "10-19, 300000-350000,-5").await;
    assert_eq!((response.status, response.complete), (206, true), "{:?}", response.fields);
    let kind = response.field("content-type").unwrap();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut expected = Vec::new();
    for (first, last) in [(10, 19), (300_000, 350_000), (399_995, 399_999)] {
        expected.extend_from_slice(
            format!("\r\n--{boundary}\r\nContent-Range: bytes {first}-{last}/400000\r\n\r\n").as_bytes(),
        );
        expected.extend_from_slice(&body[first..=last]);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert!(response.body == expected, "{} bytes, not {}", response.body.len(), expected.len());
    landed(&proxy).await;
    assert!(proxy.stats().origin_bytes <= 6 * SLICE, "{}", proxy.stats().origin_bytes);
}

// RFC 9110 14.1.2, 15.5.17: one that can be had is enough.
#[tokio::test]
async fn of_several_ranges_those_that_are_there_are_served_whatever_comes_first() {
    let body = noise(200_000);
    let origin = large(&body).await;
    for (asked, first, last) in
        [("999999999-,0-4", 0, 4), ("999999999-,-5", 199_995, 199_999), ("-5,999999999-", 199_995, 199_999)]
    {
        let proxy = alone(sliced(config_for(&origin))).await;
        let response = range(&proxy, &origin.host(), asked).await;
        assert_eq!((response.status, &response.body[..]), (206, &body[first..=last]), "{asked}");
        assert_eq!(response.field("content-range"), Some(format!("bytes {first}-{last}/200000")), "{asked}");
        landed(&proxy).await;
        assert_eq!(range(&proxy, &origin.host(), "999999999-,200000-").await.status, 416, "{asked}");
    }
    let proxy = alone(sliced(config_for(&origin))).await;
    let none = range(&proxy, &origin.host(), "999999999-,200000-").await;
    assert_eq!((none.status, none.field("content-range").as_deref()), (416, Some("bytes */200000")));
}
