//! A Coralized name leads to a near, live proxy: unbound and BIND resolve it through a real parent's delegation, curl fetches
//! through the answered proxy from a real nginx, and copies outlive the death of a node and its restart.

use std::{net::Ipv4Addr, path::PathBuf};

use crate::{
    namespace::{BIND, NODES, Namespace, UNBOUND},
    support::{Process, eventually},
};

/// The public name of the page's site.
const HOST: &str = "www.site.test.nyud.example";
/// What the page says.
const PAGE: &str = "<h1>an ordinary page</h1>";

#[tokio::test(flavor = "multi_thread")]
async fn real_resolvers_lead_curl_to_live_copies_of_one_origin_fetch() {
    let Some(mut stage) = Namespace::new() else { return };
    stage.start_parent(&delegation());
    stage.start_resolvers();
    stage.start_origin(PAGE);
    let mut nodes = Vec::new();
    for number in 0..NODES.len() {
        nodes.push(start(&stage, number).await);
    }
    for resolver in [UNBOUND, BIND] {
        let both = async || resolve(&stage, resolver).len() == NODES.len();
        eventually(&format!("{resolver} names both proxies\n{}", stage.logs()), both).await;
    }
    let answered = resolve(&stage, UNBOUND);
    let first = NODES.iter().position(|node| Some(node) == answered.first()).unwrap();
    let second = 1 - first;

    let page = curl(&stage, &[NODES[first]]);
    assert!(page.ends_with(PAGE), "{page}\n{}", nodes[first].log());
    assert_eq!(stage.origin_requests(), 1);
    let page = curl(&stage, &[NODES[second]]);
    assert!(page.ends_with(PAGE) && page.contains("peer-l"), "not from the first node's copy: {page}");
    assert_eq!(stage.origin_requests(), 1, "the second node went to the origin");

    nodes[first].kill();
    let page = curl(&stage, &[NODES[first], NODES[second]]);
    assert!(page.ends_with(PAGE), "a client that holds both addresses is not served: {page}");
    let gone = async || resolve(&stage, UNBOUND) == [NODES[second]] && resolve(&stage, BIND) == [NODES[second]];
    eventually("DNS names the living node alone", gone).await;

    nodes[second].kill();
    nodes[first] = start(&stage, first).await;
    let page = curl(&stage, &[NODES[first]]);
    // With nobody there to say what was purged meanwhile, the origin is asked whether the copy is still good.
    assert!(page.ends_with(PAGE) && page.contains("fwd=stale"), "the copy did not outlive the restart: {page}");
    assert_eq!(stage.origin_requests(), 2);
}

/// The delegation as an operator writes it into the parent zone.
fn delegation() -> String {
    let servers = NODES.iter().zip(1..);
    servers.map(|(address, n)| format!("nyud 60 IN NS ns{n}.nyud\nns{n}.nyud 60 IN A {address}\n")).collect()
}

async fn start(stage: &Namespace, number: usize) -> Process {
    let folder: PathBuf = stage.folder.path().join(format!("node{number}"));
    let address = NODES[number];
    let servers: Vec<_> = NODES
        .iter()
        .zip(1..)
        .map(|(address, n)| format!("{{ name = \"ns{n}\", addresses = [\"{address}\"] }}"))
        .collect();
    let config = format!(
        "[node]\nroles = [\"dnssrv\", \"proxy\"]\nstate = \"{}/state\"\nnetwork = \"test\"\nzone = \"nyud.example\"\n\
         addresses = [\"{address}\"]\nbootstrap = [\"{}:7400\"]\n\n\
         [overlay]\nlisten = [\"/ip4/{address}/tcp/7400\"]\n\n\
         [dns]\nlisten = [\"{address}:53\"]\nnameservers = [{}]\n\n\
         [proxy]\nlisten = [\"{address}:80\"]\norigins = [\"www.site.test\"]\nnameservers = [\"{UNBOUND}:53\"]\n",
        folder.display(),
        NODES[1 - number],
        servers.join(", "),
    );
    Process::start_with(stage.command(env!("CARGO_BIN_EXE_atoll")), &folder, &config).await
}

/// The addresses a resolver gives for the public name, sorted.
fn resolve(stage: &Namespace, resolver: Ipv4Addr) -> Vec<Ipv4Addr> {
    let output = stage.run("dig", &[&format!("@{resolver}"), "+short", "+time=2", "+tries=1", HOST, "A"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut addresses: Vec<Ipv4Addr> = text.lines().filter_map(|line| line.parse().ok()).collect();
    addresses.sort_unstable();
    addresses
}

/// Head and body of the page by curl, which tries the addresses in turn.
fn curl(stage: &Namespace, proxies: &[Ipv4Addr]) -> String {
    let addresses: Vec<String> = proxies.iter().map(ToString::to_string).collect();
    let resolve = format!("{HOST}:80:{}", addresses.join(","));
    let url = format!("http://{HOST}/page.html");
    let output =
        stage.run("curl", &["--silent", "--show-error", "--include", "--max-time", "20", "--resolve", &resolve, &url]);
    format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout))
}
