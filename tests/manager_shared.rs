//! Managers that are not alone: several in one network, and one that clients and peers reach over TLS.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Output},
};

use http::StatusCode;

use crate::{
    manager_storm::{Lent, body, download},
    support::{Origin, digest, eventually, get, post},
};

/// What machines join the second manager with.
const SECOND: &str = "a-token-for-the-second-one";

#[tokio::test(flavor = "multi_thread")]
async fn two_managers_share_one_network_and_outlive_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (at, elsewhere) = (folder.path(), folder.path().join("elsewhere"));
    let whole = body(500_000);
    let origin = Origin::start(whole.clone(), 1 << 30).await;
    let right = Ok(format!("200 {}", blake3::hash(&whole)));
    let mut first = Lent::manager(at, origin.address, &[]).await;
    let (url, login) = (format!("http://{}", first.address), first.login());
    let login = login.strip_prefix("Bearer ").unwrap();

    // Only with the first one's login.
    let backend = format!("http://{}", origin.address);
    let words =
        ["manager", "--origin", &backend, "--listen", "127.0.0.1:0", "--beside", &url, "--beside-login", "guessed"];
    let mut stranger = Lent::spawn(&at.join("stranger"), &words);
    assert_eq!(stranger.ended().await, Some(1), "{}", stranger.log());
    assert!(stranger.log().contains("wrong login") && first.log().contains("wrong login"), "{}", stranger.log());

    let second = ["--token", SECOND, "--beside", &url, "--beside-login", login];
    let second = Lent::manager(&elsewhere, origin.address, &second).await;
    let one = Lent::peer(at, "one", &first, &[]).await;
    let two = Lent::peer(at, "two", &second, &["--token", SECOND]).await;
    first.is_with(&[&one]).await;
    second.is_with(&[&two]).await;
    know_each_other(&[&first, &second, &one, &two]).await;
    // Each leads to its own machines, and these have their copies from each other.
    for (file, managers) in [("/a", [&first, &second]), ("/b", [&second, &first])] {
        for manager in managers {
            let (got, by) = download(manager.address, file).await.unwrap();
            let peer = if manager.address == first.address { &one } else { &two };
            assert_eq!((Ok(got), by), (right.clone(), peer.address.to_string()), "{file}");
        }
        assert_eq!(origin.requests_of(file), 1, "{file} crossed the backend's line once");
    }
    let listed = first.state().await["managers"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 1, "the first one's operator sees the second");

    // The first dies: its machine serves on, the second admits and leads as before.
    let listen = first.address.to_string();
    first.kill();
    let words = ["peer", "--manager", &format!("http://{}", second.address), "--listen", "127.0.0.1:0", "--token"];
    let mut foreign = Lent::spawn(&at.join("foreign"), &[&words[..], &["a-token-for-the-tests-only"]].concat());
    assert_eq!(foreign.ended().await, Some(1), "{}", foreign.log());
    assert!(foreign.log().contains("wrong token"), "the first one's tokens are its own: {}", foreign.log());
    let three = Lent::peer(at, "three", &second, &["--token", SECOND]).await;
    second.is_with(&[&two, &three]).await;
    know_each_other(&[&second, &one, &two, &three]).await;
    assert_eq!(digest(three.address, "any.test", "/a").await, right);
    assert_eq!(digest(one.address, "any.test", "/c").await, right);
    assert_eq!(digest(three.address, "any.test", "/c").await, right);
    assert_eq!((origin.requests_of("/a"), origin.requests_of("/c")), (1, 1));

    // It comes back, and takes the second's place back: nobody knows that one's machines any more.
    let first = Lent::manager(at, origin.address, &["--listen", &listen]).await;
    first.is_with(&[&one]).await;
    know_each_other(&[&first, &second, &one, &two, &three]).await;
    let key = listed[0]["key"].as_str().unwrap();
    let eject = format!("/_atoll/managers/{key}/eject");
    assert_eq!(post(first.address, &eject, &[]).await.unwrap().status, StatusCode::UNAUTHORIZED);
    let ejected = post(first.address, &eject, &[("authorization", &first.login())]).await.unwrap();
    assert_eq!(ejected.status, StatusCode::ACCEPTED);
    know_each_other(&[&first, &one]).await;
    assert_eq!(digest(one.address, "any.test", "/c").await, right);
}

/// Waits until the overlay of each knows just the others.
async fn know_each_other(all: &[&Lent]) {
    let known = async || {
        for lent in all {
            let status = lent.node_status().await.unwrap_or_default();
            if status["levels"][0]["neighbours"].as_array().map(Vec::len) != Some(all.len() - 1) {
                return false;
            }
        }
        true
    };
    eventually("each knows the others", known).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_came_over_tls_is_led_to_peers_with_tls_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let whole = body(200_000);
    let origin = Origin::start(whole.clone(), 1 << 30).await;
    let (chain, key) = (at.join(Lent::ROOTS), at.join("key.pem"));
    certificate(&chain, &key);
    let tls = ["--certificate", chain.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let manager = Lent::manager(at, origin.address, &tls).await;
    let port = manager.address.port();
    let plain = Lent::peer(at, "plain", &manager, &[]).await;
    // It joins over TLS, is dialled back over TLS, and is named by its certificate.
    let joins = format!("https://localhost:{port}");
    let mut secure = Lent::peer(at, "secure", &manager, &[&tls[..], &["--manager", &joins]].concat()).await;
    let (http, https) = (format!("http://{}", plain.address), format!("https://localhost:{}", secure.address.port()));
    let both = BTreeSet::from([http.clone(), https.clone()]);
    eventually("both take clients", async || manager.live().await == both).await;

    let files: Vec<String> = (0..12).map(|number| format!("/{number}")).collect();
    let mut places = BTreeSet::new();
    for file in &files {
        let led = manager.leads(file).await.unwrap();
        places.insert(led.strip_suffix(file.as_str()).unwrap().to_owned());
        let head = curl(&chain, &["--head", &format!("{joins}{file}")]).await;
        assert!(head.contains(&format!("location: {https}{file}\r\n")), "{head}");
        assert!(!head.contains("http://"), "not even as a duplicate: {head}");
    }
    assert_eq!(places, both, "a client of http goes to either");
    let list = curl(&chain, &[&format!("{joins}/x?mirrorlist=json")]).await;
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["candidates"].as_array().unwrap().len(), 1);
    assert!(list["others"][0]["why"].as_str().unwrap().contains("speaks http alone"), "{list:#}");
    let got = at.join("got");
    curl(&chain, &["--location", "--output", got.to_str().unwrap(), &format!("{joins}/whole")]).await;
    assert!(std::fs::read(&got).unwrap() == whole, "what came over TLS is not what the backend has");
    // Without such a peer the manager serves those who came over TLS.
    secure.kill();
    eventually("it is missed", async || manager.live().await == BTreeSet::from([http.clone()])).await;
    let head = curl(&chain, &["--head", &format!("{joins}/whole")]).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(manager.leads("/whole").await, Some(format!("{http}/whole")));

    // What stands before a manager may have the TLS: then all its clients came over it.
    let behind = Lent::manager(&at.join("behind"), origin.address, &["--public", "https://cdn.test"]).await;
    let peer = Lent::peer(&at.join("behind"), "peer", &behind, &[]).await;
    behind.is_with(&[&peer]).await;
    assert_eq!(get(behind.address, "cdn.test", "/x").await.unwrap().status, StatusCode::OK);
    assert!(behind.log().contains("https://cdn.test:443/PATH"), "{}", behind.log());
}

/// A certificate for this machine that is its own root.
fn certificate(chain: &Path, key: &Path) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let pair = rcgen::KeyPair::generate().unwrap();
    let made = rcgen::CertificateParams::new(names).unwrap().self_signed(&pair).unwrap();
    std::fs::write(chain, made.pem()).unwrap();
    std::fs::write(key, pair.serialize_pem()).unwrap();
}

/// What curl prints for these words.
async fn curl(roots: &Path, words: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--retry", "3", "--cacert"]).arg(roots).args(words);
    let output: Output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
