//! What places those who ask, beside the gaps that `levels.rs` is about: the handshake of a connection, what the node's own proxy
//! saw, and the operator's word, which goes before all.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use atoll_dnssrv::{Mode, Source, serve};
use atoll_overlay::{Level, Prefix, Value};
use bytes::Bytes;
use hickory_proto::rr::RecordType;

use crate::support::*;

const NAME: &str = "www.example.com.nyud.example";

fn here() -> Prefix {
    Prefix::of(Ipv4Addr::LOCALHOST.into())
}

#[tokio::test]
async fn a_resolver_nobody_knows_is_sent_to_tcp_where_its_handshake_measures_it() {
    let (server, address) = alone(|config| {
        config.mode = Mode::Direct;
        config.sources.tcp_info = true;
        config.probe.cut_one_in = 1;
    })
    .await;
    let question = query(NAME, RecordType::A);
    let cut = exchange(address, &question).await;
    assert_eq!((cut[2] & 2, message(&cut).answers.len()), (2, 0), "TC, and nothing else");
    let plain = exchange(address, &query("nobody.example.org", RecordType::A)).await;
    assert_eq!(plain[2] & 2, 0, "what depends on nobody is answered");
    assert_eq!(message(&exchange_tcp(address, &question).await).answers.len(), 1);
    if cfg!(target_os = "linux") {
        let measured = server.explain(here()).measured;
        assert!(matches!(measured.as_slice(), [(Source::TcpInfo, _)]), "{measured:?}");
        assert_eq!(message(&exchange(address, &question).await).answers.len(), 1, "from now on over UDP");
    }
}

#[tokio::test]
async fn a_handshake_of_a_resolver_measures_nothing_where_that_is_switched_off() {
    let (server, address) = alone(|config| {
        config.mode = Mode::Direct;
        config.sources.tcp_info = false;
        config.probe.cut_one_in = 1;
    })
    .await;
    let question = query(NAME, RecordType::A);
    assert_eq!(exchange(address, &question).await[2] & 2, 0, "nobody is sent to TCP for nothing");
    assert_eq!(message(&exchange_tcp(address, &question).await).answers.len(), 1);
    assert_eq!(server.explain(here()).measured, []);
}

#[tokio::test]
async fn what_the_nodes_own_proxy_saw_places_a_prefix_unless_switched_off() {
    for on in [true, false] {
        let me = node(1, Ipv4Addr::LOCALHOST, 1, 1);
        let pointers = std::sync::Arc::default();
        let index = Fake::new(&me, &[&[&me], &[&me], &[&me]], &pointers);
        let seen = Value {
            holder: me.id,
            level: Level(0),
            value: Bytes::copy_from_slice(&7_000_u32.to_be_bytes()),
            ttl: Duration::from_secs(60),
        };
        pointers.lock().unwrap().insert(here().key(), vec![seen]);
        let mut config = config(([127, 0, 0, 1], 0).into());
        config.mode = Mode::Direct;
        config.sources.proxies = on;
        let server = serve(config, index, None).await.unwrap();
        let placed = async || {
            exchange(server.local_addrs()[0], &query(NAME, RecordType::A)).await;
            let told = server.explain(here());
            told.measured == [(Source::Proxy, Duration::from_millis(7))] && told.level == Level(2)
        };
        if on {
            until("the proxy's word places the prefix", placed).await;
        } else {
            until("the index was asked", async || {
                server.stats().map.iter().any(|one| one.answers > 20) || placed().await
            })
            .await;
            assert_eq!(server.explain(here()).measured, []);
        }
    }
}

#[tokio::test]
async fn the_operators_word_goes_before_what_is_measured_and_may_change() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("overrides");
    std::fs::write(&file, "127.0.0.0/8 at 192.0.2.77\n").unwrap();
    let (server, address) = alone(|config| {
        config.mode = Mode::Direct;
        config.overrides = Some(file.clone());
        config.why = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let addresses = async || {
        let reply = message(&exchange(address, &query(NAME, RecordType::A)).await);
        reply.answers.iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<IpAddr>>()
    };
    assert_eq!(addresses().await, [IpAddr::from([192, 0, 2, 77])]);
    let why = message(&exchange(address, &query(&format!("why.{NAME}"), RecordType::TXT)).await);
    let why: String = why.answers.iter().map(|record| format!("{}\n", record.data)).collect();
    assert!(why.contains("placed by the file of overrides"), "{why}");
    assert_eq!(server.stats().map[0].source, "override");
    std::fs::write(&file, "127.0.0.0/8 level 1\n").unwrap();
    let later = std::time::SystemTime::now() + Duration::from_secs(9);
    std::fs::File::options().append(true).open(&file).unwrap().set_modified(later).unwrap();
    until("the change is taken up", async || server.reload_overrides() || server.explain(here()).level == Level(1))
        .await;
    assert_eq!(addresses().await, [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    assert_eq!(server.explain(here()).level, Level(1));
}
