//! `atoll trace` on a network of real nodes: the whole life of a cold request, told by the nodes themselves.

use std::process::Command;

use bytes::Bytes;
use tempfile::TempDir;

use crate::support::{Network, Origin, eventually, get};

/// What `atoll trace` prints for a URL, asked of node 0's socket.
fn traced(network: &Network, folder: &TempDir, url: &str, more: &[&str]) -> String {
    let socket = folder.path().join("node0/state/admin.sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
    command.args(["trace", url, "--socket"]).arg(socket).args(more);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{}\n{}", String::from_utf8_lossy(&output.stderr), network.logs());
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_request_is_told_by_the_node_that_answers_it_and_again_as_a_hit() {
    let folder = TempDir::new().unwrap();
    let origin = Origin::start(Bytes::from(vec![7; 200_000]), 100 << 20).await;
    let network = Network::start(folder.path(), 2, &origin).await;
    let url = format!("http://www.site.test:{}/traced", origin.address.port());
    assert_eq!(get(network.nodes[0].http, &network.host, "/traced").await.unwrap().body.len(), 200_000);
    let at = network.nodes[1].http.to_string();
    let told = tokio::task::block_in_place(|| traced(&network, &folder, &url, &["--node", &at, "--json"]));
    let report: serde_json::Value = serde_json::from_str(&told).unwrap();
    let steps = report["steps"].as_array().unwrap();
    let by_node: Vec<&str> =
        steps.iter().filter(|it| it["by"] == "node").filter_map(|it| it["stage"].as_str()).collect();
    for stage in ["request", "store", "flight", "index", "peer", "kept", "answer"] {
        assert!(by_node.contains(&stage), "{stage} is missing: {told}");
    }
    // One node signed the question, the other believed it, and the index said at which level it was asked.
    assert!(steps.iter().any(|it| it["what"].as_str().unwrap().contains(", level 0: asks ")), "{told}");
    assert_eq!((report["status"].as_u64(), report["bytes"].as_u64()), (Some(200), Some(200_000)));
    assert!(steps.is_sorted_by_key(|it| it["at"].as_u64()));
    assert_eq!(origin.requests(), 1);
    let again = tokio::task::block_in_place(|| traced(&network, &folder, &url, &["--node", &at]));
    assert!(again.contains("a copy in ") && again.contains("hit") && !again.contains("leads the fetch"), "{again}");
    eventually("nobody else is told anything", async || {
        let path = "/.well-known/atoll/trace";
        get(network.nodes[1].http, &network.host, path).await.is_ok_and(|answer| answer.body.len() == 200_000)
    })
    .await;
}
