//! Leases as a fetch goes on: its beats, and what is granted late, or when the fetch is over.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use atoll_overlay::{Key, Level};
use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::{
    support::{Do, Net, Origin, Response, config_for, get, get_with, ok, until},
    vouched::key,
};

/// An answer that varies, and the key under which it stands for who accepts `a/b`.
async fn varying() -> (Origin, Key) {
    let origin =
        Origin::start(|_, _| ok("Cache-Control: max-age=600\r\nVary: Accept\r\n", &Bytes::from_static(b"x"))).await;
    let port = origin.address.port();
    let variant = Key::of(format!("http://site.test:{port}/\naccept:=a/b").as_bytes());
    (origin, variant)
}

async fn ask(proxy: &atoll_proxy::Proxy, origin: &Origin) -> Response {
    get_with(proxy, "GET", &origin.host(), "/", "Accept: a/b\r\n").await
}

#[tokio::test]
async fn one_that_comes_after_the_copy_is_whole_says_where_that_is() {
    let (origin, variant) = varying().await;
    let net = Net::new(Level(1));
    let word = Arc::new(Semaphore::new(0));
    *net.late.lock().unwrap() = Some((variant, Arc::clone(&word)));
    let one = net.proxy(1, config_for(&origin)).await;
    assert_eq!(ask(&one, &origin).await.status, 200);
    until(|| one.stats().flights == 0 && net.names(variant, 1)).await;
    assert!(!net.is_leased(variant));
    word.add_permits(1);
    until(|| net.leased_copy(variant).is_some() && net.leased_copy(variant) == net.whole_copy(variant, 1)).await;
    // The URL's own says by what its answers vary.
    until(|| !net.is_leased(key(&origin, "/")) && net.standing().1 == 1).await;
}

#[tokio::test]
async fn one_that_comes_after_a_copy_that_is_for_nobody_else_is_given_back() {
    let (origin, variant) = varying().await;
    let net = Net::new(Level(1));
    let word = Arc::new(Semaphore::new(0));
    *net.late.lock().unwrap() = Some((variant, Arc::clone(&word)));
    let mut config = config_for(&origin);
    config.peers.upstream_only = true;
    let one = net.proxy(1, config).await;
    assert_eq!(ask(&one, &origin).await.status, 200);
    until(|| one.stats().flights == 0).await;
    let before = net.granted();
    word.add_permits(1);
    until(|| net.granted() == before + 1 && !net.is_leased(variant)).await;
}

/// An origin that answers once it is let, by a permit a request.
async fn held() -> (Origin, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |_, _| {
        let mut steps = ok("Cache-Control: max-age=600\r\n", &Bytes::from_static(b"x"));
        steps.insert(0, Do::Wait(Arc::clone(&held)));
        steps
    })
    .await;
    (origin, gate)
}

#[tokio::test]
async fn a_beat_that_is_not_answered_keeps_no_other_back() {
    let (origin, gate) = held().await;
    let net = Net::new(Level(1));
    net.mute.store(true, Ordering::SeqCst);
    let mut config = config_for(&origin);
    config.peers.beat = Duration::from_millis(20);
    let one = net.proxy(1, config).await;
    let host = origin.host();
    let asked = tokio::spawn(async move { get(&one, &host, "/").await });
    until(|| net.beats() >= 3).await;
    gate.add_permits(1);
    assert_eq!(asked.await.unwrap().body, b"x");
}

#[tokio::test]
async fn a_fetch_that_no_root_granted_in_time_gets_its_lease_while_it_goes_on() {
    let (origin, gate) = held().await;
    let net = Net::new(Level(1));
    net.rootless.store(true, Ordering::SeqCst);
    let mut config = config_for(&origin);
    config.peers.beat = Duration::from_millis(20);
    let one = Arc::new(net.proxy(1, config).await);
    let (asking, host) = (Arc::clone(&one), origin.host());
    let asked = tokio::spawn(async move { get(&asking, &host, "/").await });
    until(|| origin.count() == 1).await;
    assert_eq!(one.stats().origin_ungranted, 1);
    assert!(!net.is_leased(key(&origin, "/")));
    net.rootless.store(false, Ordering::SeqCst);
    until(|| net.is_leased(key(&origin, "/")) && net.beats() > 0).await;
    gate.add_permits(1);
    assert_eq!(asked.await.unwrap().body, b"x");
    assert_eq!((origin.count(), one.stats().origin_ungranted), (1, 1));
}
