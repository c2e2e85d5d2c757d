//! Nodes that are cut off, and many that vanish at once: everybody is served on, and the origin sees no herd.

use std::{ops::Range, sync::Arc};

use atoll_overlay::Level;
use tokio::task::JoinSet;

use crate::support::{Net, Origin, config_for, get, info, noise, until};

// P08: a node that is cut off serves its own clients, and is part of the whole again once it is back.
#[tokio::test]
async fn each_side_of_a_partition_serves_and_one_network_is_there_after_it() {
    let body = noise(50_000);
    let origin = Origin::with_body(body.clone()).await;
    let net = Net::new(Level(1));
    let mut proxies = Vec::new();
    for number in 1..=4 {
        proxies.push(net.proxy(number, config_for(&origin)).await);
    }
    net.cut.lock().unwrap().push(info(4).id);
    for proxy in &proxies {
        assert!(get(proxy, &origin.host(), "/during").await.body == body);
        until(|| proxy.stats().flights == 0).await;
    }
    assert_eq!(origin.count(), 2, "once on each side");
    assert_eq!((proxies[3].stats().origin_ungranted, proxies[0].stats().origin_ungranted), (1, 0), "and counted");
    net.cut.lock().unwrap().clear();
    for proxy in proxies.iter().rev() {
        assert!(get(proxy, &origin.host(), "/after").await.body == body);
        until(|| proxy.stats().flights == 0).await;
    }
    assert_eq!(origin.count(), 3, "once in the whole");
}

// P09: half of the holders die at once, and everybody else asks.
#[tokio::test]
async fn the_sudden_loss_of_half_the_holders_makes_no_herd_at_the_origin() {
    let body = noise(50_000);
    let origin = Origin::with_body(body.clone()).await;
    let net = Net::new(Level(1));
    let mut holders = Vec::new();
    for number in 1..=6 {
        let holder = net.proxy(number, config_for(&origin)).await;
        assert!(get(&holder, &origin.host(), "/").await.body == body);
        until(|| holder.stats().flights == 0).await;
        holders.push(holder);
    }
    for number in 1..=3 {
        net.kill(number);
    }
    drop(holders.drain(..3));
    everybody_asks(&net, &origin, 10..18).await;
    assert_eq!(origin.count(), 1);
    // All of them gone: one of those that ask goes to the origin for all.
    for number in (4..=6).chain(10..18) {
        net.kill(number);
    }
    everybody_asks(&net, &origin, 20..26).await;
    assert_eq!(origin.count(), 2);
}

/// New nodes of these numbers ask together. Each stays until all are served: one that leaves with its copy is no holder.
async fn everybody_asks(net: &Arc<Net>, origin: &Origin, numbers: Range<u8>) {
    let mut clients = JoinSet::new();
    for number in numbers {
        let proxy = net.proxy(number, config_for(origin)).await;
        let host = origin.host();
        clients.spawn(async move { (get(&proxy, &host, "/").await, proxy) });
    }
    assert!(clients.join_all().await.iter().all(|(response, _)| response.body == noise(50_000)));
}
