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
