//! What nodes tell the index of their copies, and whether these are to be had then (issue 8; bad-inputs P03, P08, C10).

use std::time::Duration;

use atoll_overlay::Level;
use atoll_proxy::PurgeTarget;
use bytes::Bytes;

use crate::{
    support::{Net, Origin, config_for, config_site, get, noise, ok, until},
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
