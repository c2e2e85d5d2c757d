//! `atoll trace` on a network of real nodes: the whole life of a cold request, told by the nodes themselves.

use std::process::Command;

use bytes::Bytes;
use tempfile::TempDir;

use crate::support::{Network, Origin, Process, eventually, get, listening};

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

// The whole way, from the name to the last byte: DNS says where to go, and the request goes there.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_answers_dns_tells_where_it_leads_and_why_and_the_request_goes_there() {
    let folder = TempDir::new().unwrap();
    let origin = Origin::start(Bytes::from(vec![7; 2_000]), 100 << 20).await;
    let port = origin.address.port();
    let config = format!(
        "[node]\nroles = [\"dnssrv\", \"proxy\"]\nstate = \"{}/state\"\nnetwork = \"test\"\nzone = \"nyud.example\"\n\
         addresses = [\"127.0.0.1\"]\ndrain_wait = \"0s\"\n\n\
         [overlay]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\n[dns]\nlisten = [\"127.0.0.1:0\"]\nmode = \"direct\"\n\n\
         [proxy]\nlisten = [\"127.0.0.1:0\"]\norigins = [\"www.site.test:{port}\"]\n\
         [proxy.hosts]\n\"www.site.test\" = [\"127.0.0.1\"]\n\n[proxy.sites.\"own.test\"]\norigin = \"http://127.0.0.1:{port}\"\n",
        folder.path().display()
    );
    let node = Process::start(folder.path(), &config).await;
    let http = listening(&node.status().await.unwrap(), "http");
    let ask = |url: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
        command.args(["trace", url, "--json", "--socket"]).arg(folder.path().join("state/admin.sock"));
        let output = tokio::task::block_in_place(|| command.output().unwrap());
        (output.status.success(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let url = format!("http://www.site.test:{port}/x");
    let steps_of = |stage: &str| {
        let (_, told, _) = ask(&url);
        let report: serde_json::Value = serde_json::from_str(&told).unwrap_or_default();
        let steps = report["steps"].as_array().cloned().unwrap_or_default();
        let of = |it: &&serde_json::Value| it["by"] == "dns" && it["stage"] == stage;
        steps.iter().filter(of).map(|it| it["what"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    eventually("DNS leads to the node", async || steps_of("answer") == ["127.0.0.1"]).await;
    let why = steps_of("why");
    assert!(!why.is_empty() && why.iter().all(|line| !line.is_empty()), "{why:?}");
    let (good, told, error) = ask(&url);
    assert!(good, "{told}\n{error}\n{}", node.log());
    let report: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((report["address"].as_str(), report["bytes"].as_u64()), (Some(http.as_str()), Some(2_000)), "{told}");
    assert_eq!(report["name"], format!("www.site.test.{port}.nyud.example"), "{told}");
    assert!(report["steps"].as_array().unwrap().iter().any(|it| it["by"] == "node"), "{told}");
    // An own site over TLS is another thing than in clear.
    let (good, told, error) = ask("https://own.test/x");
    assert!(!good && format!("{told}{error}").contains("served"), "{told}{error}");
    let (good, ..) = ask("http://own.test/x");
    assert!(good);
    let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
    command.args(["warm", "https://own.test/x", "--socket"]).arg(folder.path().join("state/admin.sock"));
    let output =
        tokio::task::block_in_place(|| command.arg("--state").arg(folder.path().join("warm")).output().unwrap());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && error.contains("https://own.test/x: ") && !error.contains("verified"),
        "{error}"
    );
}
