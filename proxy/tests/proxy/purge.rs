//! Purges among proxies: rows C10 and P03, and who may purge.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use atoll_overlay::{Index as _, Level, Roles};
use atoll_proxy::{Config, Proxy, PurgeTarget};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
};

use crate::support::{
    Do, Net, Origin, alone, config_for, config_site, exchange, get, get_with, ok, soon, store, until,
};

/// An origin of numbered editions: `/TAG+TAG/x` carries these tags, and says which edition it is. A copy of the edition is confirmed.
pub(crate) async fn editions(edition: &Arc<AtomicUsize>) -> Origin {
    let edition = Arc::clone(edition);
    Origin::start(move |_, head| {
        let tags = head.split(['/', ' ']).nth(2).unwrap().replace('+', " ");
        let edition = edition.load(Ordering::SeqCst);
        if head.to_ascii_lowercase().contains(&format!("if-none-match: \"{edition}\"")) {
            return vec![Do::Send("HTTP/1.1 304 Not Modified\r\n\r\n".into())];
        }
        let fields = format!("Cache-Control: max-age=3600\r\nXkey: {tags}\r\nVary: Accept\r\nETag: \"{edition}\"\r\n");
        ok(&fields, &edition.to_string().into())
    })
    .await
}

/// Peers are asked at once, and a node that is cut off doubts everything.
pub(crate) fn quick(origin: &Origin) -> Config {
    let mut config = config_for(origin);
    config.purges.exchange = Duration::from_millis(20);
    config.purges.doubt = Duration::ZERO;
    config
}

pub(crate) async fn edition(proxy: &Proxy, origin: &Origin, path: &str, accept: &str) -> String {
    let fields = format!("Accept: {accept}\r\n");
    let answer = soon(get_with(proxy, "GET", &origin.host(), path, &fields)).await;
    until(|| proxy.stats().flights == 0).await;
    String::from_utf8(answer.body).unwrap()
}

pub(crate) fn tag(tag: &str) -> PurgeTarget {
    PurgeTarget::Tag { tag: tag.to_owned(), host: None }
}

// C10
#[tokio::test]
async fn a_tag_is_purged_at_every_node_with_all_variants_and_nothing_else_is() {
    let now = Arc::new(AtomicUsize::new(1));
    let origin = editions(&now).await;
    let net = Net::new(Level(1));
    net.acquainted.store(true, Ordering::SeqCst);
    let mut proxies = Vec::new();
    for number in 1..=3 {
        proxies.push(net.proxy(number, quick(&origin)).await);
    }
    let paths =
        [("/a/x", true), ("/b+a/x", true), ("/aa/x", false), ("/A/x", false), ("/.*/x", false), ("/b/x", false)];
    for (round, hard) in [(1, false), (2, true)] {
        now.store(round, Ordering::SeqCst);
        let everything = soon(proxies[0].purge(PurgeTarget::All, true, Duration::from_secs(10))).await.unwrap();
        assert_eq!(everything.missing(), 0);
        for (path, _) in paths {
            for proxy in &proxies {
                for accept in ["text/html", "image/png"] {
                    assert_eq!(edition(proxy, &origin, path, accept).await, round.to_string(), "{path}");
                }
            }
        }
        now.store(round + 10, Ordering::SeqCst);
        let report = soon(proxies[round - 1].purge(tag("a"), hard, Duration::from_secs(10))).await.unwrap();
        assert_eq!((report.known, report.missing(), report.hard), (3, 0, hard));
        for (path, purged) in paths {
            let expect = if purged { round + 10 } else { round };
            for proxy in &proxies {
                for accept in ["text/html", "image/png"] {
                    assert_eq!(edition(proxy, &origin, path, accept).await, expect.to_string(), "{path} {accept}");
                }
            }
        }
    }
}

// C10: what was asked for before a purge goes to those who asked before it, and to nobody else.
#[tokio::test]
async fn a_fill_under_way_is_beaten() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |number, _| {
        let mut steps = ok("Cache-Control: max-age=3600\r\nCache-Groups: \"a\"\r\n", &Bytes::from(number.to_string()));
        // The first stops before its head, the third within its body.
        match number {
            0 => steps.insert(0, Do::Wait(Arc::clone(&held))),
            2 => {
                let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=3600\r\nCache-Groups: \"a\"\r\nContent-Length: 2\r\n\r\n2";
                steps = vec![Do::Send(head.into()), Do::Wait(Arc::clone(&held)), Do::Send("2".into())];
            }
            _ => {}
        }
        steps
    })
    .await;
    let net = Net::new(Level(1));
    net.acquainted.store(true, Ordering::SeqCst);
    let one = Arc::new(net.proxy(1, quick(&origin)).await);
    let two = net.proxy(2, quick(&origin)).await;
    let later = |path: &'static str| {
        let (proxy, host) = (Arc::clone(&one), origin.host());
        tokio::spawn(async move { get(&proxy, &host, path).await.body })
    };
    // Nobody knows yet that what comes carries the tag.
    let before = later("/x");
    until(|| origin.count() == 1).await;
    soon(two.purge(tag("a"), true, Duration::from_secs(10))).await.unwrap();
    let after = later("/x");
    gate.add_permits(1);
    assert_eq!((soon(before).await.unwrap(), soon(after).await.unwrap()), (b"0".to_vec(), b"1".to_vec()));
    until(|| one.stats().flights == 0).await;
    for proxy in [&*one, &two] {
        assert_eq!(get(proxy, &origin.host(), "/x").await.body, b"1");
    }
    // The head is there, with the tag.
    let mut before = TcpStream::connect(one.local_addrs()[0]).await.unwrap();
    let request = format!("GET /y HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", origin.host());
    before.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n2") {
        assert!(soon(before.read_buf(&mut seen)).await.unwrap() > 0);
    }
    soon(two.purge(tag("a"), false, Duration::from_secs(10))).await.unwrap();
    assert_eq!(soon(later("/y")).await.unwrap(), b"3");
    assert_eq!(soon(get(&two, &origin.host(), "/y")).await.body, b"3");
    gate.add_permits(1);
    soon(before.read_to_end(&mut seen)).await.unwrap();
    assert!(seen.ends_with(b"\r\n\r\n22"));
    until(|| one.stats().flights == 0).await;
    for proxy in [&*one, &two] {
        assert_eq!(get(proxy, &origin.host(), "/y").await.body, b"3");
    }
    assert_eq!(origin.count(), 4);
}

// C10, P03: a node that was cut off gives out nothing that was purged meanwhile, neither to clients nor to peers.
#[tokio::test]
async fn a_node_that_was_cut_off_asks_the_origin_and_catches_up() {
    let now = Arc::new(AtomicUsize::new(1));
    let origin = editions(&now).await;
    let net = Net::new(Level(1));
    net.acquainted.store(true, Ordering::SeqCst);
    let one = net.proxy(1, quick(&origin)).await;
    // It keeps quiet, so that it is peers' doing if nobody takes its copy.
    let mut quiet = quick(&origin);
    quiet.purges.exchange = Duration::from_secs(60);
    let two = net.proxy(2, quiet).await;
    let three = net.proxy(3, quick(&origin)).await;
    for proxy in [&two, &three] {
        assert_eq!(edition(proxy, &origin, "/a/x", "*/*").await, "1");
    }
    net.cut_off(2);
    net.cut_off(3);
    now.store(2, Ordering::SeqCst);
    let report = soon(one.purge(tag("a"), true, Duration::from_millis(100))).await.unwrap();
    assert_eq!(report.missing(), 2, "{report:?}");
    net.heal(2);
    // The index still names the second node's copy, which is refused.
    assert_eq!(edition(&one, &origin, "/a/x", "*/*").await, "2");
    assert_eq!(one.stats().peer_bytes, 0);
    // The third has noticed that nobody answers, and asks the origin about what it has.
    soon(async { while edition(&three, &origin, "/a/x", "*/*").await != "2" {} }).await;
    now.store(3, Ordering::SeqCst);
    assert_eq!(edition(&three, &origin, "/a/x", "*/*").await, "3", "again and again");
    net.heal(3);
    until(|| one.purges(9).iter().all(|purge| purge.applied >= 2)).await;
    until(|| three.purges(9).len() == 1).await;
    // In step again it uses what it holds.
    soon(async {
        loop {
            let before = origin.count();
            edition(&three, &origin, "/a/x", "*/*").await;
            if origin.count() == before {
                break;
            }
        }
    })
    .await;
}

// C10, P08: how long it may go on without having asked anybody says nothing of how long it may without an answer.
#[tokio::test]
async fn a_node_notices_that_it_is_cut_off_by_questions_that_nobody_answers() {
    let now = Arc::new(AtomicUsize::new(1));
    let origin = editions(&now).await;
    let net = Net::new(Level(1));
    net.acquainted.store(true, Ordering::SeqCst);
    let mut patient = quick(&origin);
    (patient.purges.patience, patient.purges.unheard) = (Duration::from_secs(3_600), Duration::from_millis(100));
    let one = net.proxy(1, patient.clone()).await;
    let two = net.proxy(2, patient).await;
    let heard = soon(one.purge(tag("before"), true, Duration::from_secs(10))).await.unwrap();
    assert_eq!(heard.missing(), 0, "{heard:?}");
    assert_eq!(edition(&two, &origin, "/a/x", "*/*").await, "1");
    net.cut_off(2);
    now.store(2, Ordering::SeqCst);
    one.purge(tag("a"), false, Duration::ZERO).await.unwrap();
    soon(async { while edition(&two, &origin, "/a/x", "*/*").await != "2" {} }).await;
}

#[tokio::test]
async fn what_is_purged_survives_a_restart_and_a_store_without_it_is_revalidated() {
    let now = Arc::new(AtomicUsize::new(1));
    let origin = editions(&now).await;
    let folder = tempfile::tempdir().unwrap();
    // The last hold on the directory goes with the last task of the proxy before.
    let open = async || {
        let config =
            atoll_store::Config { directory: Some(folder.path().to_owned()), ..atoll_store::Config::default() };
        soon(async {
            loop {
                match atoll_store::Store::open(config.clone()).await {
                    Err(atoll_store::OpenError::Locked { .. }) => tokio::task::yield_now().await,
                    opened => return opened.unwrap(),
                }
            }
        })
        .await
    };
    let start = |store, saved| {
        let alone = Arc::new(atoll_overlay::Alone::new(crate::support::info(0)));
        Proxy::start_knowing(quick(&origin), Arc::clone(&alone) as _, alone, store, saved).unwrap()
    };
    let store = open().await;
    let proxy = start(store.clone(), None);
    assert_eq!(edition(&proxy, &origin, "/a/x", "*/*").await, "1");
    assert_eq!(edition(&proxy, &origin, "/b/x", "*/*").await, "1");
    now.store(2, Ordering::SeqCst);
    proxy.purge(tag("a"), true, Duration::ZERO).await.unwrap();
    let saved = proxy.save_purges();
    proxy.stop().await;
    drop(proxy);
    store.close().await;
    let store = open().await;
    let proxy = start(store.clone(), Some(saved));
    assert_eq!(proxy.purges(9).len(), 1);
    assert_eq!(edition(&proxy, &origin, "/a/x", "*/*").await, "2");
    assert_eq!(edition(&proxy, &origin, "/b/x", "*/*").await, "1");
    proxy.stop().await;
    drop(proxy);
    store.close().await;
    // The state directory is lost: nobody knows what was purged meanwhile.
    let proxy = start(open().await, None);
    assert_eq!(edition(&proxy, &origin, "/b/x", "*/*").await, "2");
}

// P03: what it received just before it went off is no younger for that.
#[tokio::test]
async fn a_node_that_was_off_confirms_what_it_held_before_until_somebody_answers() {
    let now = Arc::new(AtomicUsize::new(1));
    let origin = editions(&now).await;
    let net = Net::new(Level(1));
    net.acquainted.store(true, Ordering::SeqCst);
    let mut trusting = quick(&origin);
    trusting.purges.doubt = Duration::from_secs(3_600);
    let one = net.proxy(1, trusting.clone()).await;
    let kept = store().await;
    let start = |saved| {
        let node = net.node(2);
        Proxy::start_knowing(trusting.clone(), Arc::clone(&node) as _, node, kept.clone(), saved).unwrap()
    };
    let two = start(None);
    let heard = soon(one.purge(tag("before"), true, Duration::from_secs(10))).await.unwrap();
    assert_eq!(heard.missing(), 0, "{heard:?}");
    assert_eq!(edition(&two, &origin, "/a/x", "*/*").await, "1");
    let saved = two.save_purges();
    two.stop().await;
    net.cut_off(2);
    now.store(2, Ordering::SeqCst);
    one.purge(tag("a"), true, Duration::ZERO).await.unwrap();
    let two = start(Some(saved));
    assert_eq!(edition(&two, &origin, "/a/x", "*/*").await, "2");
}

#[tokio::test]
async fn urls_prefixes_and_hosts_are_purged_by_any_of_their_names() {
    let now = Arc::new(AtomicUsize::new(0));
    let origin = editions(&now).await;
    let proxy = alone(quick(&origin)).await;
    let (port, host) = (origin.address.port(), origin.host());
    let long = format!("/a/{}", "x".repeat(2_000));
    let all = ["/a/x", "/a/x?q", "/a/xy", "/b/x", &long];
    for (target, purged) in [
        (PurgeTarget::Url(format!("http://site.test:{port}/a/x")), &all[..1]),
        (PurgeTarget::Url(format!("https://site.test:{port}/a/x")), &all[..1]),
        (PurgeTarget::Url(format!("http://{host}/a/x")), &all[..1]),
        (PurgeTarget::Url(format!("{host}{long}")), &all[4..]),
        (PurgeTarget::Prefix(format!("http://site.test:{port}/a/x")), &all[..2]),
        (PurgeTarget::Prefix(format!("http://site.test:{port}/b/")), &all[3..4]),
        (PurgeTarget::Host("Site.test".to_owned()), &all[..]),
        (PurgeTarget::Host(format!("site.test:{port}")), &all[..]),
        (PurgeTarget::Host(host.clone()), &all[..]),
        (PurgeTarget::Tag { tag: "b".to_owned(), host: Some(host.clone()) }, &all[3..4]),
        (PurgeTarget::Host("site.test:1".to_owned()), &[]),
        (PurgeTarget::Host("other.test".to_owned()), &[]),
    ] {
        proxy.purge(PurgeTarget::All, true, Duration::ZERO).await.unwrap();
        let before = now.fetch_add(1, Ordering::SeqCst) + 1;
        for path in all {
            assert_eq!(edition(&proxy, &origin, path, "*/*").await, before.to_string());
        }
        let after = now.fetch_add(1, Ordering::SeqCst) + 1;
        proxy.purge(target.clone(), false, Duration::ZERO).await.unwrap();
        for path in all {
            let expect = if purged.contains(&path) { after } else { before };
            assert_eq!(edition(&proxy, &origin, path, "*/*").await, expect.to_string(), "{target:?} {path}");
        }
    }
    for wrong in
        [PurgeTarget::Url("http://".to_owned()), PurgeTarget::Host("a b".to_owned()), tag(""), tag(&"x".repeat(301))]
    {
        assert!(proxy.purge(wrong, false, Duration::ZERO).await.is_err());
    }
}

// RFC 9110 15.4.5: what a 304 says replaces what was said, tags too.
#[tokio::test]
async fn tags_that_a_confirmation_brings_can_be_purged_by() {
    let origin = Origin::start(|number, _| match number {
        0 => ok("Cache-Control: max-age=0\r\nETag: \"1\"\r\nXkey: old\r\n", &Bytes::from_static(b"first")),
        1 => vec![Do::Send(
            "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\nCache-Control: max-age=60\r\nXkey: new\r\n\r\n".into(),
        )],
        _ => ok("Cache-Control: max-age=60\r\n", &Bytes::from_static(b"later")),
    })
    .await;
    let proxy = alone(quick(&origin)).await;
    for expect in ["first", "first", "first"] {
        assert_eq!(edition(&proxy, &origin, "/", "*/*").await, expect);
    }
    assert_eq!(origin.count(), 2);
    proxy.purge(tag("old"), true, Duration::ZERO).await.unwrap();
    assert_eq!(edition(&proxy, &origin, "/", "*/*").await, "first");
    proxy.purge(tag("new"), true, Duration::ZERO).await.unwrap();
    assert_eq!(edition(&proxy, &origin, "/", "*/*").await, "later");
}

// H09: PURGE is for those whom the configuration names.
#[tokio::test]
async fn the_method_purge_is_off_then_for_some_and_never_for_strangers() {
    let now = Arc::new(AtomicUsize::new(1));
    let origin = editions(&now).await;
    let allow = |ranges: &[&str]| {
        let mut config = config_site(&origin);
        config.purges.from = ranges.iter().map(|range| range.parse().unwrap()).collect();
        config
    };
    for (ranges, status) in [(&[][..], 405), (&["192.0.2.0/24"], 403), (&["192.0.2.0/24", "127.0.0.0/8"], 200)] {
        let proxy = alone(allow(ranges)).await;
        let edition = async || String::from_utf8(get(&proxy, "own.test", "/a/x").await.body).unwrap();
        now.store(1, Ordering::SeqCst);
        assert_eq!(edition().await, "1");
        until(|| proxy.stats().flights == 0).await;
        now.store(2, Ordering::SeqCst);
        let answer = get_with(&proxy, "PURGE", "own.test", "/a/x", "").await;
        assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&answer.body));
        assert_eq!(edition().await, if status == 200 { "2" } else { "1" });
        let body = b"PURGE /a/x HTTP/1.1\r\nHost: own.test\r\nContent-Length: 5\r\n\r\nhello";
        assert!(exchange(proxy.local_addrs()[0], body).await.starts_with(b"HTTP/1.1 4"));
    }
}

#[tokio::test]
async fn purges_of_strangers_replays_and_noise_are_refused_and_room_is_bounded() {
    let now = Arc::new(AtomicUsize::new(1));
    let origin = editions(&now).await;
    let net = Net::new(Level(1));
    let mut config = quick(&origin);
    config.purges.believed = vec![crate::support::info(1).id.to_string(), crate::support::info(2).id.to_string()];
    config.purges.records = 16;
    let one = net.proxy(1, config.clone()).await;
    let (two, three) = (net.node(2), net.node(3));
    // What peers push comes in by the same door as what is spread; the proxy's own node hears it.
    let push = async |node: &crate::support::Node, words: &[u8]| {
        let signed = node.sign(words, Roles::PURGE).unwrap();
        let text: String = signed.iter().map(|byte| format!("{byte:02x}")).collect();
        let request = format!(
            "GET /purges HTTP/1.1\r\nHost: peer\r\nAtoll-Purges: \r\nAtoll-Purge: {text}\r\nConnection: close\r\n\r\n"
        );
        let mut stream = atoll_overlay::Streams::open(node, crate::support::info(1).id).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    };
    let millis = |ahead: u64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        u64::try_from(now).unwrap() + ahead
    };
    // Version, soft, number, previous, everything.
    let words =
        |number: u64, previous: u64| [&[1, 0][..], &number.to_be_bytes(), &previous.to_be_bytes(), &[0]].concat();
    let first = millis(0);
    push(&two, &words(first, 0)).await;
    assert_eq!(one.purges(99).len(), 1);
    for refused in
        [words(first, 0), words(first - 1, 0), words(millis(90_000_000), first), b"noise".to_vec(), words(1, 0)]
    {
        push(&two, &refused).await;
    }
    push(&three, &words(millis(5), 0)).await;
    assert_eq!(one.purges(99).len(), 1, "no replay, no stranger, nothing of the future or of long ago");
    for count in 1..=40 {
        push(&two, &words(first + count, first + count - 1)).await;
    }
    assert_eq!(one.purges(99).len(), 16);
}
