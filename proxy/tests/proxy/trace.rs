//! `Atoll-Trace`: what a member of the network may see of a request, and that nobody else sees anything.

use atoll_overlay::Level;
use atoll_proxy::{Proxy, Traced, trace_pass};
use bytes::Bytes;

use crate::support::{Net, Origin, config_for, get, get_with, ok, until};

const TRACES: &str = "/.well-known/atoll/trace";

async fn read(proxy: &Proxy, pass: &str) -> Traced {
    let response = get_with(proxy, "GET", "any.test", TRACES, &format!("Atoll-Trace: {pass}\r\n")).await;
    assert_eq!(response.status, 200);
    serde_json::from_slice(&response.body).unwrap()
}

fn stages(traced: &Traced) -> Vec<&str> {
    traced.steps.iter().map(|step| step.stage.as_str()).collect()
}

#[tokio::test]
async fn a_cold_request_is_told_from_the_store_to_the_peer_that_sends() {
    let origin = Origin::with_body(Bytes::from_static(b"body")).await;
    let net = Net::new(Level(1));
    let one = net.proxy(1, config_for(&origin)).await;
    let (two, node) = net.both(2, config_for(&origin)).await;
    assert_eq!(get(&one, &origin.host(), "/").await.status, 200);
    until(|| one.stats().flights == 0).await;
    let pass = trace_pass(node.as_ref()).unwrap();
    let field = format!("Atoll-Trace: {pass}\r\n");
    let response = get_with(&two, "GET", &origin.host(), "/", &field).await;
    assert!(response.body == b"body" && response.field("atoll-trace").is_none());
    until(|| two.stats().flights == 0).await;
    let traced = read(&two, &pass).await;
    let told = stages(&traced);
    for (before, after) in [("request", "store"), ("store", "flight"), ("flight", "index"), ("index", "peer")] {
        let place = |stage| told.iter().position(|one| *one == stage).unwrap_or_else(|| panic!("no {stage}: {told:?}"));
        assert!(place(before) < place(after), "{told:?}");
    }
    assert!(told.contains(&"kept") && told.contains(&"answer") && !told.contains(&"origin"), "{told:?}");
    assert!(traced.steps.iter().any(|step| step.what.contains("detail=peer-l1")));
    assert!(traced.steps.is_sorted_by_key(|step| step.at));
    assert_eq!(traced.node.len(), 40);
}

#[tokio::test]
async fn a_trace_says_why_nothing_was_stored_and_the_origin_never_sees_the_field() {
    let origin = Origin::start(|_, _| ok("Cache-Control: private\r\n", &Bytes::from_static(b"x"))).await;
    let net = Net::new(Level(1));
    let (proxy, node) = net.both(1, config_for(&origin)).await;
    let pass = trace_pass(node.as_ref()).unwrap();
    let field = format!("Atoll-Trace: {pass}\r\n");
    assert_eq!(get_with(&proxy, "GET", &origin.host(), "/", &field).await.status, 200);
    let traced = read(&proxy, &pass).await;
    assert!(traced.steps.iter().any(|step| step.what == "not stored: private"), "{traced:?}");
    assert!(traced.steps.iter().any(|step| step.stage == "origin" && step.what.contains("lease")), "{traced:?}");
    assert!(!origin.heads()[0].contains("atoll-trace"));
}

#[tokio::test]
async fn an_outsider_gets_no_detail() {
    let origin = Origin::with_body(Bytes::from_static(b"body")).await;
    let net = Net::new(Level(1));
    let (proxy, node) = net.both(1, config_for(&origin)).await;
    let good = trace_pass(node.as_ref()).unwrap();
    let (rest, proof) = good.rsplit_once('-').unwrap();
    let mut parts = good.split('-');
    let (_, time, nonce) = (parts.next(), parts.next().unwrap(), parts.next().unwrap());
    let old: u64 = time.parse::<u64>().unwrap() - 3_600;
    for forged in [
        format!("{rest}-{}", "0".repeat(proof.len())),
        format!("1-{old}-{nonce}-{proof}"),
        format!("1-{time}-{}-{proof}", "0".repeat(32)),
        "1---".to_owned(),
        String::new(),
    ] {
        let field = format!("Atoll-Trace: {forged}\r\n");
        assert_eq!(get_with(&proxy, "GET", &origin.host(), "/", &field).await.body, b"body");
        let read = get_with(&proxy, "GET", &origin.host(), TRACES, &field).await;
        assert!(read.field("content-type") != Some("application/json".to_owned()), "{forged}");
    }
    // A good pass that was never used shows nothing either.
    let field = format!("Atoll-Trace: {good}\r\n");
    let read = get_with(&proxy, "GET", &origin.host(), TRACES, &field).await;
    assert!(read.field("content-type") != Some("application/json".to_owned()));
}
