//! What goes wrong or is switched off while clients are served: a node that is told to stop, well or at once.

use std::path::Path;

use bytes::Bytes;
use tempfile::TempDir;

use crate::support::{Network, Origin, digest, eventually};

/// Bytes of the file, and how many of them the origin sends a second: two seconds.
const FILE: usize = 512 * 1024;
const SLOW: u64 = 256 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_told_to_stop_finishes_its_downloads_and_told_twice_stops_at_once() {
    let folder = TempDir::new().unwrap();
    let origin = Origin::start(Bytes::from(vec![7; FILE]), SLOW).await;
    let whole = format!("200 {}", blake3::hash(&[7; FILE]));

    let (mut network, download) = downloading(&folder.path().join("well"), &origin, "/well", 1).await;
    network.nodes[0].process.terminate();
    assert_eq!(download.await.unwrap(), Ok(whole), "{}", network.logs());
    let status = ended(&mut network).await;
    assert!(status.success(), "{status}: {}", network.logs());

    let (mut network, download) = downloading(&folder.path().join("at-once"), &origin, "/at-once", 2).await;
    network.nodes[0].process.terminate();
    eventually("the node drains", async || network.logs().contains("left DNS")).await;
    network.nodes[0].process.terminate();
    ended(&mut network).await;
    assert!(download.await.unwrap().is_err(), "the download outlived a node that was to stop at once");
}

/// Bytes of a small file, and how many of them whoever asks first for it ever gets from the origin.
const SMALL: usize = 41_000;
const HALF: usize = 20_000;

// Two sources are lost one after the other while clients of the nodes that stay are in the middle of a body: one dies by SIGKILL, so
// that its streams are reset, the other is stopped by SIGSTOP, so that its streams stay open and nothing comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_dies_or_stalls_in_the_middle_costs_nobody_else_a_byte() {
    let folder = TempDir::new().unwrap();
    let body: Bytes = (0..SMALL).map(|place| u8::try_from(place * 31 % 251).unwrap()).collect();
    let origin = Origin::start_halting(body.clone(), HALF).await;
    let whole = Ok(format!("200 {}", blake3::hash(&body)));
    let network = Network::start(folder.path(), 3, &origin).await;
    for (lost, signal, path) in [(2, "-KILL", "/dies"), (0, "-STOP", "/stalls")] {
        let ask = |number: usize| {
            let (http, host) = (network.nodes[number].http, network.host.clone());
            tokio::spawn(async move { digest(http, &host, path).await })
        };
        let given = async |node: &crate::support::Node| {
            let status = node.process.status().await.unwrap_or_default();
            status["proxy"]["peer_bytes"].as_u64().unwrap_or(0)
        };
        let before = given(&network.nodes[1]).await;
        let _own = ask(lost);
        eventually("the origin has been asked", async || origin.requests_of(path) == 1).await;
        let others: Vec<_> = (0..lost.max(2)).filter(|number| *number != lost).map(ask).collect();
        eventually("a peer streams from it", async || given(&network.nodes[1]).await > before).await;
        network.nodes[lost].process.signal(signal);
        for other in others {
            assert_eq!(other.await.unwrap(), whole, "{path}: {}", network.logs());
        }
    }
}

type Download = tokio::task::JoinHandle<Result<String, String>>;

/// One node whose client is in the middle of a download; the origin has then been asked so often.
async fn downloading(folder: &Path, origin: &Origin, path: &'static str, requests: u64) -> (Network, Download) {
    let network = Network::start(folder, 1, origin).await;
    let (http, host) = (network.nodes[0].http, network.host.clone());
    let download = tokio::spawn(async move { digest(http, &host, path).await });
    eventually("the download runs", async || origin.requests() == requests).await;
    (network, download)
}

async fn ended(network: &mut Network) -> std::process::ExitStatus {
    let process = std::cell::RefCell::new(&mut network.nodes[0].process);
    eventually("the process has ended", async || process.borrow_mut().ended().is_some()).await;
    let status = process.borrow_mut().ended();
    status.unwrap()
}
