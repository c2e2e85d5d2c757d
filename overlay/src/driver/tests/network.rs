//! The core over real sockets: what the index promises, seen from outside.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
};

use super::{Config, DEADLINE, Identity, Overlay, at, config, info, lanes, node, node_here, soon, start, until};
use crate::{Acquire, Acquired, Found, Index as _, Key, Level, Levels, NodesQuery, Put, Roles, Streams as _};

/// Nodes that one knows at level 0, itself not counted.
fn known(node: &Overlay) -> usize {
    node.levels().first().map_or(0, |global| global.neighbours.len())
}

fn knows(node: &Overlay, other: &Overlay) -> bool {
    let id = other.id();
    node.levels().first().is_some_and(|global| global.neighbours.iter().any(|info| info.id == id))
}

/// Nodes that joined by the first of them and all know one another.
async fn network(count: usize) -> Vec<Overlay> {
    let seed = node(config(&[])).await;
    let address = at(&seed);
    let mut nodes = vec![seed];
    for _ in 1..count {
        nodes.push(node(config(&[address])).await);
    }
    until("everybody known to everybody", || nodes.iter().all(|node| known(node) == count - 1)).await;
    nodes
}

fn put(key: Key, value: &'static [u8]) -> Put {
    Put { key, value: Bytes::from_static(value), ttl: Duration::from_secs(60), levels: Levels::All }
}

#[tokio::test]
async fn nodes_that_join_by_one_seed_find_each_other() {
    let nodes = network(5).await;
    let query = NodesQuery { level: Level::GLOBAL, count: 10, target: None, services: Roles::PROXY };
    assert_eq!(nodes[4].nodes(&query).len(), 5);
}

#[tokio::test]
async fn what_one_node_puts_every_other_gets() {
    let nodes = network(4).await;
    let key = Key::of(b"an object");
    soon("a put", nodes[1].put(put(key, b"here"))).await.unwrap();
    // The putter itself is told nothing: its own pointer is no news to it.
    for node in nodes.iter().filter(|node| node.id() != nodes[1].id()) {
        match soon("a get", node.get(key, Levels::All)).await.unwrap() {
            Found::Values { values, .. } => {
                let seen: Vec<_> = values.iter().map(|value| (value.holder, value.value.as_ref())).collect();
                assert_eq!(seen, [(nodes[1].id(), b"here".as_slice())]);
            }
            Found::Nothing => panic!("{} found nothing", node.id()),
        }
    }
    let missing = soon("a get", nodes[0].get(Key::of(b"nothing"), Levels::All)).await;
    assert_eq!(missing.unwrap(), Found::Nothing);
}

#[tokio::test]
async fn of_five_that_ask_at_once_one_may_fetch() {
    let nodes = network(5).await;
    let key = Key::of(b"cold");
    let ask = |node: &Overlay| {
        let (node, reference) = (node.clone(), Bytes::copy_from_slice(node.id().key().as_bytes()));
        let acquire = Acquire { key, reference, ttl: Duration::from_secs(20), failed: Vec::new() };
        async move { node.acquire(acquire).await }
    };
    let answers = soon("five answers", join_all(nodes.iter().map(ask))).await;
    let granted: Vec<_> = nodes.iter().zip(&answers).filter(|(_, a)| matches!(a, Ok(Acquired::Granted(_)))).collect();
    assert_eq!(granted.len(), 1, "{answers:?}");
    let holder = granted[0].0.id();
    for answer in &answers {
        match answer {
            Ok(Acquired::Granted(_)) => {}
            Ok(Acquired::References(values)) => {
                assert!(values.iter().any(|value| value.holder == holder), "{values:?}")
            }
            other => panic!("{other:?}"),
        }
    }
    // A holder named by the index can be streamed from.
    let other = nodes.iter().find(|node| node.id() != holder).unwrap();
    drop(soon("a stream", other.open(holder)).await.unwrap());
}

#[tokio::test]
async fn a_killed_node_is_noticed() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let seed = node(config(&[])).await;
    let address = at(&seed);
    // It runs on a runtime that ends without a farewell.
    let start = async move { node_here(config(&[address]), lanes()).await };
    let victim = runtime.spawn(start).await.unwrap();
    until("the victim known", || knows(&seed, &victim)).await;
    runtime.shutdown_background();
    until("the victim forgotten", || known(&seed) == 0).await;
}

#[tokio::test]
async fn a_node_that_stops_is_forgotten_at_once() {
    let nodes = network(3).await;
    soon("a stop", nodes[1].stop()).await;
    until("the leaver forgotten", || !knows(&nodes[0], &nodes[1]) && !knows(&nodes[2], &nodes[1])).await;
    let refused = nodes[1].get(Key::ZERO, Levels::All).await;
    assert_eq!(refused, Err(crate::IndexError::Stopped));
}

#[tokio::test]
async fn saved_peers_find_the_network_with_the_seed_down() {
    let nodes = network(3).await;
    let identity = Identity::generate();
    let settings = config(&[at(&nodes[0])]);
    let first = start(settings.clone(), crate::Config::default(), &identity, info(), None).await.unwrap();
    until("a full view", || known(&first) == 3).await;
    let saved = first.save_peers();
    soon("a stop", first.stop()).await;
    soon("a stop", nodes[0].stop()).await;
    let again = start(settings, crate::Config::default(), &identity, info(), Some(saved)).await.unwrap();
    assert_eq!(again.id(), first.id());
    until("the others found again", || knows(&again, &nodes[1]) && knows(&again, &nodes[2])).await;
}

#[tokio::test]
async fn damaged_saved_peers_are_nobody() {
    let saved = Some(Bytes::from_static(&[0xff; 100]));
    let lone = start(config(&[]), crate::Config::default(), &Identity::generate(), info(), saved).await.unwrap();
    assert_eq!(known(&lone), 0);
}

#[tokio::test]
async fn a_peer_that_is_not_where_it_says_enters_no_table_and_no_answer() {
    let seed = node(config(&[])).await;
    // Nothing listens where this one says it is, and nobody else can: the port is taken.
    let taken = TcpSocket::new_v4().unwrap();
    taken.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let advertise = vec![format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port())];
    let liar = node(Config { advertise, ..config(&[at(&seed)]) }).await;
    until("the seed known to the liar", || knows(&liar, &seed)).await;
    let honest = node(config(&[at(&seed)])).await;
    until("the honest one known", || knows(&seed, &honest) && knows(&honest, &seed)).await;
    until("the dial-back failed", || seed.counts().dials_failed > 0).await;
    // It can ask, and is answered.
    soon("a put", liar.put(put(Key::of(b"lie"), b"here"))).await.unwrap();
    assert!(!knows(&seed, &liar), "seed {:?}", seed.counts());
    assert!(!knows(&honest, &liar), "honest {:?}", honest.counts());
}

#[tokio::test]
async fn a_peer_that_says_it_is_somebody_else_is_not_believed() {
    // The address is that of another node: the handshake there tells.
    let (seed, victim) = (node(config(&[])).await, node(config(&[])).await);
    let advertise = vec![format!("/ip4/127.0.0.1/tcp/{}", at(&victim).port())];
    let liar = node(Config { advertise, ..config(&[at(&seed)]) }).await;
    until("the dial-back failed", || seed.counts().dials_failed > 0).await;
    assert!(!knows(&seed, &liar) && known(&victim) == 0);
}

#[tokio::test]
async fn a_changed_description_reaches_the_others() {
    let nodes = network(3).await;
    let mut changed = nodes[1].me();
    changed.load = 77;
    nodes[1].describe(changed);
    let sees = |node: &Overlay| {
        let neighbours = node.levels().swap_remove(0).neighbours;
        neighbours.iter().any(|info| info.id == nodes[1].id() && info.load == 77)
    };
    until("the new load seen", || sees(&nodes[0]) && sees(&nodes[2])).await;
}

#[tokio::test]
async fn a_record_spread_by_one_is_heard_by_all_once() {
    let nodes = network(4).await;
    let mut hears: Vec<_> = nodes.iter().map(|node| node.spreads()).collect();
    soon("a spread", nodes[2].spread(Bytes::from_static(b"purge"))).await.unwrap();
    for hear in &mut hears {
        let spread = soon("the record", hear.recv()).await.unwrap();
        assert_eq!((spread.signer, spread.record.as_ref()), (nodes[2].id(), b"purge".as_slice()));
        assert!(hear.try_recv().is_err());
    }
}

/// Forwards one direction, each piece this much later, as a link of that length would.
async fn forward(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf, delay: Duration) {
    let (pieces, mut held) = mpsc::channel::<(tokio::time::Instant, Vec<u8>)>(1_024);
    let write = async move {
        while let Some((due, piece)) = held.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
    };
    let read = async move {
        let mut piece = vec![0; 65_536];
        while let Ok(count @ 1..) = from.read(&mut piece).await {
            let due = tokio::time::Instant::now() + delay;
            if pieces.send((due, piece[..count].to_vec())).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(write, read);
}

/// A relay to an address that holds back what comes from each source as long as it is away.
async fn relay(at: &str, to: SocketAddr, away: fn(IpAddr) -> Duration) -> SocketAddr {
    let listener = TcpListener::bind(at).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, from)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(to).await else { continue };
            near.set_nodelay(true).unwrap();
            far.set_nodelay(true).unwrap();
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(forward(near_in, far_out, away(from.ip())));
            tokio::spawn(forward(far_in, near_out, away(from.ip())));
        }
    });
    address
}

/// A relay to an address that, once told, loses what comes over the connections that stand then, and keeps them open.
async fn silenced(to: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, silent) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
    let lost = Arc::clone(&silent);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(to).await else { continue };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            for (mut from, mut to) in [(near_in, far_out), (far_in, near_out)] {
                let lost = Arc::clone(&lost);
                tokio::spawn(async move {
                    let mut piece = vec![0; 65_536];
                    while let Ok(count @ 1..) = from.read(&mut piece).await {
                        if !lost.load(Ordering::Relaxed) && to.write_all(&piece[..count]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        }
    });
    (address, silent)
}

#[tokio::test]
async fn a_link_that_went_silent_is_left_for_a_new_one() {
    let seed = node(config(&[])).await;
    let (relay, silent) = silenced(at(&seed)).await;
    // By far sooner than a keep-alive ping, or TCP, would notice.
    let other = node(Config { silence: Duration::from_secs(1), ..config(&[relay]) }).await;
    until("each known to the other", || knows(&seed, &other) && knows(&other, &seed)).await;
    silent.store(true, Ordering::Relaxed);
    until("the silent link closed", || other.counts().connections_closed > 0).await;
    let heard = other.counts().messages_received;
    until("words over a new one", || other.counts().messages_received > heard).await;
    until("each known to the other again", || knows(&seed, &other) && knows(&other, &seed)).await;
}

#[tokio::test]
async fn an_exchange_on_a_warm_link_costs_one_round_trip() {
    let round_trip = Duration::from_millis(80);
    let seed = node(config(&[])).await;
    let far = relay("127.0.0.1:0", at(&seed), |_| Duration::from_millis(40)).await;
    let other = node(config(&[far])).await;
    let measured = || other.levels().first()?.neighbours.first()?.rtt;
    // The minimum is what is kept, so one undisturbed exchange is enough.
    until("a round trip", || measured().is_some_and(|rtt| rtt < round_trip * 3 / 2)).await;
    assert!(measured().is_some_and(|rtt| rtt >= round_trip));
}

#[tokio::test]
async fn a_message_on_a_warm_link_costs_no_substream() {
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let settings = || Config { listen: vec![listen.to_owned()], ..config(&[]) };
        let seed = node(settings()).await;
        let bootstrap = seed.listen_multiaddrs();
        let other = node(Config { bootstrap, ..settings() }).await;
        until("linked", || knows(&seed, &other) && knows(&other, &seed)).await;
        soon("a first get", other.get(Key::of(b"nothing"), Levels::All)).await.unwrap();
        let before = [other.counts(), seed.counts()];
        for number in 0..50_u8 {
            soon("a get", other.get(Key::of(&[number]), Levels::All)).await.unwrap();
        }
        let after = [other.counts(), seed.counts()];
        for (before, after) in before.iter().zip(&after) {
            assert!(after.messages_sent >= before.messages_sent + 50, "{after:?}");
            assert_eq!(after.substreams, before.substreams);
        }
    }
}

/// Nodes of region 127.R.0.0/16 on addresses of their own, reached by others through relays at 127.R.1.N only.
async fn regions(count: u8, each: u8) -> Vec<Overlay> {
    // Thresholds and delays are far apart, since a busy machine adds tens of milliseconds to what it measures.
    let index = crate::Config {
        thresholds: vec![Duration::from_millis(200), Duration::from_millis(100)],
        probe_fast: Duration::from_millis(100),
        check_every: Duration::from_secs(1),
        dwell: Duration::from_millis(500),
        dwell_max: Duration::from_secs(2),
        ..crate::Config::default()
    };
    let mut nodes: Vec<Overlay> = Vec::new();
    let mut seed = Vec::new();
    for (region, place) in (1..=count).flat_map(|region| (1..=each).map(move |place| (region, place))) {
        // The port must be known to the relay before the node starts, and the relay's to the node.
        let own = TcpListener::bind(format!("127.{region}.0.{place}:0")).await.unwrap().local_addr().unwrap();
        let away = [near_one, near_two, near_three][usize::from(region) - 1];
        let advertised = relay(&format!("127.{region}.1.{place}:0"), own, away).await;
        let settings = Config {
            listen: vec![format!("/ip4/{}/tcp/{}", own.ip(), own.port())],
            advertise: vec![format!("/ip4/{}/tcp/{}", advertised.ip(), advertised.port())],
            bind_source: Some(own.ip()),
            certificate_timeout: Duration::from_secs(5),
            ..config(&seed)
        };
        nodes.push(start(settings, index.clone(), &Identity::generate(), info(), None).await.unwrap());
        if seed.is_empty() {
            seed.push(advertised);
        }
    }
    nodes
}

/// One way inside a region 2 ms, between regions 60 ms more for each step.
fn away(region: u8, from: IpAddr) -> Duration {
    let IpAddr::V4(from) = from else { return Duration::ZERO };
    Duration::from_millis(2 + 60 * u64::from(from.octets()[1].abs_diff(region)))
}

fn near_one(from: IpAddr) -> Duration {
    away(1, from)
}

fn near_two(from: IpAddr) -> Duration {
    away(2, from)
}

fn near_three(from: IpAddr) -> Duration {
    away(3, from)
}

#[tokio::test]
async fn clusters_follow_delays_that_only_the_wire_knows() {
    let nodes = regions(3, 3).await;
    // Round trips: 4 ms in a region, 124 ms to the next one, 244 ms to the one after that.
    let same = |level: usize, a: &Overlay, b: &Overlay| a.levels()[level].cluster == b.levels()[level].cluster;
    let settled = || {
        nodes.chunks(3).all(|region| region.iter().all(|node| same(2, node, &region[0]) && known(node) == 8))
            && !same(2, &nodes[0], &nodes[3])
            && !same(2, &nodes[3], &nodes[6])
            && !same(1, &nodes[0], &nodes[6])
    };
    let key = Key::of(b"far object");
    let level = async |node: &Overlay| match node.get(key, Levels::All).await {
        Ok(Found::Values { values, .. }) => {
            values.iter().find(|value| value.holder == nodes[0].id()).map(|one| one.level)
        }
        Ok(Found::Nothing) | Err(_) => None,
    };
    // On a busy machine clusters form, break and form again: what is asked for is one moment at which all of it holds.
    let formed = async {
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        loop {
            pace.tick().await;
            if settled()
                && nodes[0].put(put(key, b"here")).await.is_ok()
                && level(&nodes[1]).await == Some(Level(2))
                && level(&nodes[8]).await == Some(Level::GLOBAL)
            {
                break;
            }
        }
    };
    assert!(tokio::time::timeout(DEADLINE * 2, formed).await.is_ok(), "never: a cluster for each region");
}

#[tokio::test]
async fn whoever_watches_a_get_or_an_acquire_is_told_whom_it_asks_at_which_level() {
    use std::sync::{Arc, Mutex};

    use crate::{Question, Teller};

    let nodes = network(3).await;
    let key = Key::of(b"watched");
    let told: Arc<Mutex<Vec<Question>>> = Arc::default();
    let teller = || {
        let told = Arc::clone(&told);
        Teller::new(move |question| told.lock().unwrap().push(question))
    };
    soon("a put", nodes[1].put(put(key, b"here"))).await.unwrap();
    let found = soon("a get", nodes[0].get_told(key, Levels::Only(Level::GLOBAL), teller())).await.unwrap();
    assert!(matches!(found, Found::Values { .. }));
    let asked = std::mem::take(&mut *told.lock().unwrap());
    assert!(!asked.is_empty() && asked.iter().all(|question| question.level == Level::GLOBAL), "{asked:?}");
    let acquire = Acquire { key, reference: Bytes::new(), ttl: Duration::from_secs(20), failed: Vec::new() };
    soon("an acquire", nodes[2].acquire_told(acquire, teller())).await.unwrap();
    assert!(!told.lock().unwrap().is_empty());
}
