//! What nodes tell the index of their copies, and whether these are to be had then (issue 8; bad-inputs P03, P08, C10); and of how
//! far their clients are.

use std::{sync::atomic::Ordering, time::Duration};

use atoll_overlay::{Level, Prefix};
use atoll_proxy::{Config, PurgeTarget};
use bytes::Bytes;

use crate::{
    purge::quick,
    support::{Net, Origin, config_for, config_site, get, get_with, info, noise, ok, soon, until},
    vouched::key,
};

// P08: what could not be said is said once it can be.
#[tokio::test]
async fn a_copy_that_could_not_be_announced_is_announced_once_the_index_answers() {
    let origin = Origin::with_body(noise(1_000)).await;
    let net = Net::new(Level(1));
    let one = net.proxy(1, config_for(&origin)).await;
    net.cut_off(1);
    assert_eq!(get(&one, &origin.host(), "/").await.status, 200);
    until(|| one.stats().flights == 0).await;
    net.heal(1);
    until(|| net.names(key(&origin, "/"), 1)).await;
}

// P03: a node that was started anew does not know what it announced in the life before.
#[tokio::test]
async fn what_an_earlier_life_announced_is_withdrawn_when_it_is_asked_for_in_vain() {
    let origin = Origin::with_body(noise(1_000)).await;
    let net = Net::new(Level(1));
    let _one = net.proxy(1, config_for(&origin)).await;
    let two = net.proxy(2, config_for(&origin)).await;
    net.plant(key(&origin, "/"), 1, Bytes::from_static(&[8, 1]));
    assert_eq!(get(&two, &origin.host(), "/").await.status, 200);
    until(|| !net.names(key(&origin, "/"), 1)).await;
}

// An own site's rules say how long its answers are fresh, between nodes as well.
#[tokio::test]
async fn what_is_fresh_by_an_own_site_s_rules_alone_is_shared() {
    let origin = Origin::start(|_, _| ok("Cache-Control: max-age=50\r\nAge: 100\r\n", &noise(1_000))).await;
    let net = Net::new(Level(1));
    let mut config = config_site(&origin);
    for site in config.sites.values_mut() {
        site.ttl_least = Some(Duration::from_secs(3_600));
    }
    let one = net.proxy(1, config.clone()).await;
    let two = net.proxy(2, config).await;
    for proxy in [&one, &two] {
        assert_eq!(get(proxy, "own.test", "/").await.status, 200);
        until(|| proxy.stats().flights == 0).await;
    }
    assert_eq!(origin.count(), 1);
}

// C10: exact also for what stands beside a copy: without its fetcher's words it can be given to nobody.
#[tokio::test]
async fn a_purge_of_something_else_leaves_a_large_relayed_copy_to_be_shared() {
    let body = noise(2_000_000);
    let served = body.clone();
    let origin = Origin::start(move |_, _| ok("Cache-Control: max-age=600\r\nXkey: a\r\n", &served)).await;
    let net = Net::new(Level(1));
    let one = net.proxy(1, config_for(&origin)).await;
    let two = net.proxy(2, config_for(&origin)).await;
    for proxy in [&one, &two] {
        assert!(get(proxy, &origin.host(), "/img/x").await.body == body);
        until(|| proxy.stats().flights == 0).await;
    }
    one.stop().await;
    net.kill(1);
    let site = format!("http://site.test:{}", origin.address.port());
    for other in [
        PurgeTarget::Prefix(format!("{site}/other/")),
        PurgeTarget::Url(format!("{site}/{}", "y".repeat(1_000))),
        PurgeTarget::Tag { tag: "aa".to_owned(), host: Some("site.test".to_owned()) },
        PurgeTarget::Host("site.test:1".to_owned()),
    ] {
        two.purge(other, true, Duration::ZERO).await.unwrap();
    }
    let three = net.proxy(3, config_for(&origin)).await;
    assert!(get(&three, &origin.host(), "/img/x").await.body == body);
    assert_eq!(origin.count(), 1);
}

// What stands under variants and slices is announced under their keys alone.
#[tokio::test]
async fn copies_of_a_url_are_found_where_only_variants_or_slices_are_held() {
    let body = noise(1_000_000);
    let served = body.clone();
    let origin = Origin::start(move |_, head| {
        let range =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
        let fields = "Cache-Control: max-age=600\r\n";
        match range.as_deref().and_then(|range| range.split_once('-')) {
            Some((first, last)) if head.contains("/large") => {
                let first: usize = first.parse().unwrap();
                let last = last.parse().unwrap_or(served.len() - 1).min(served.len() - 1);
                let part = served.slice(first..=last);
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\n{fields}ETag: \"1\"\r\nContent-Range: bytes {first}-{last}/{}\r\n\
                     Content-Length: {}\r\n\r\n",
                    served.len(),
                    part.len()
                );
                vec![crate::support::Do::Send(head.into()), crate::support::Do::Send(part)]
            }
            _ => ok(&format!("{fields}Vary: Accept\r\n"), &Bytes::from_static(b"varies")),
        }
    })
    .await;
    let net = Net::new(Level(1));
    net.acquainted.store(true, Ordering::SeqCst);
    let mut config = quick(&origin);
    (config.slices.over, config.slices.size) = (500_000, 250_000);
    let one = net.proxy(1, config.clone()).await;
    let two = net.proxy(2, config).await;
    assert_eq!(get(&two, &origin.host(), "/varies").await.body, b"varies");
    let part = get_with(&two, "GET", &origin.host(), "/large", "Range: bytes=300000-300009\r\n").await;
    assert_eq!((part.status, &part.body[..]), (206, &body[300_000..300_010]));
    until(|| two.stats().flights == 0).await;
    let two = info(2).id.to_string();
    for (path, tier, length) in [("/varies", "ram", 6), ("/large", "slices", 250_000)] {
        let url = format!("http://site.test:{}{path}", origin.address.port());
        let found = soon(one.copies(&url)).await.unwrap();
        let at_two = found.nodes.iter().find(|node| node.node == two).unwrap();
        let copy = at_two.copies.iter().find(|copy| copy.tier == tier);
        assert_eq!(copy.map(|copy| (copy.length, copy.fresh > 500)), Some((length, true)), "{found:?}");
    }
}

// P09: nodes are started anew one after the other, then half are lost at once: no herd comes to the origin, and no client notices.
#[tokio::test]
async fn a_rolling_restart_and_the_loss_of_half_cost_the_origin_nothing() {
    const OBJECTS: usize = 12;
    let body = noise(100_000);
    let origin = Origin::with_body(body.clone()).await;
    let net = Net::new(Level(1));
    let mut proxies = Vec::new();
    for number in 1..=4 {
        proxies.push(net.proxy(number, config_for(&origin)).await);
    }
    let asked_of = async |proxy: &atoll_proxy::Proxy| {
        for object in 0..OBJECTS {
            let answer = soon(get(proxy, &origin.host(), &format!("/{object}"))).await;
            assert!(answer.complete && answer.body == body, "{object}: {}", answer.status);
        }
        until(|| proxy.stats().flights == 0).await;
    };
    for proxy in &proxies {
        asked_of(proxy).await;
    }
    for place in 0..4_u8 {
        let before = proxies.remove(0);
        before.stop().await;
        net.kill(1 + place);
        // With an empty store, as if its disk had been lost too.
        proxies.push(net.proxy(11 + place, config_for(&origin)).await);
        asked_of(proxies.last().unwrap()).await;
    }
    net.kill(11);
    net.kill(12);
    let late = net.proxy(21, config_for(&origin)).await;
    asked_of(&late).await;
    assert_eq!(origin.count(), OBJECTS);
}

// The handshake of a client's connection says how far its prefix is: DNS servers find it in the index.
#[tokio::test]
async fn how_far_a_client_is_is_told_once_for_its_prefix_unless_switched_off() {
    let origin = Origin::with_body(noise(1_000)).await;
    for observe in [true, false] {
        let net = Net::new(Level(1));
        let one = net.proxy(1, Config { observe, ..config_for(&origin) }).await;
        for _ in 0..3 {
            assert_eq!(get(&one, &origin.host(), "/").await.status, 200);
        }
        let observed = net.observed();
        let expected = usize::from(observe && cfg!(target_os = "linux"));
        assert_eq!(observed.len(), expected, "{observed:?}");
        let here = Prefix::of(std::net::Ipv4Addr::LOCALHOST.into());
        assert!(observed.iter().all(|(prefix, rtt)| *prefix == here && !rtt.is_zero()), "{observed:?}");
    }
}
