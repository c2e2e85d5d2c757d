//! The dashboard's page of peers: each number is the one that the node's status has (issue 8).

use std::{net::SocketAddr, path::Path};

use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    browser::Browser,
    support::{Origin, Process, eventually, get, listening},
};

/// Bytes of a file, and of a day's share.
const FILE: usize = 30_000;
const SHARE: u64 = 512 << 20;

/// What stands on the page, and where in a status.
const TILES: [(&str, &str); 8] = [
    ("Lookups nearby", "near_lookups"),
    ("Hedged by the origin", "hedged"),
    ("Hedged by peers", "hedged_by_peers"),
    ("Without the index's word", "origin_ungranted"),
    ("Copies given", "peer_served"),
    ("Being given", "peer_streams"),
    ("Caught lying", "peer_lies"),
    ("Came whole", "peer_fetches/ok"),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_peers_shows_the_numbers_of_the_status() {
    let folder = TempDir::new().unwrap();
    let origin = Origin::start(Bytes::from(vec![7; FILE]), 100 << 20).await;
    let one =
        Process::start(&folder.path().join("one"), &config(&folder.path().join("one"), None, origin.address)).await;
    let seed = listening(&one.status().await.unwrap(), "overlay");
    let at = folder.path().join("two");
    let two = Process::start(&at, &config(&at, Some(&seed), origin.address)).await;
    eventually("they know each other", async || {
        let status = two.status().await.unwrap_or_default();
        status["levels"][0]["neighbours"].as_array().is_some_and(|all| !all.is_empty())
    })
    .await;
    let host = format!("www.site.test.{}.nyud.example", origin.address.port());
    let http = |status: &Value| listening(status, "http").parse::<SocketAddr>().unwrap();
    let (first, second) = (http(&one.status().await.unwrap()), http(&two.status().await.unwrap()));
    let said = async |name: &str| {
        let status = one.status().await.unwrap_or_default();
        status["proxy"].pointer(&format!("/{name}")).and_then(Value::as_u64).unwrap_or(0)
    };
    // What one node has the other takes from it, unless the machine is too busy for a peer's time: then the next.
    for (name, from, to) in [("peer_fetches/ok", second, first), ("peer_served", first, second)] {
        let number = std::cell::Cell::new(0);
        eventually("a copy goes from one to the other", async || {
            let path = format!("/{name}/{}", number.replace(number.get() + 1));
            for node in [from, to] {
                assert_eq!(get(node, &host, &path).await.unwrap().body.len(), FILE);
            }
            said(name).await > 0
        })
        .await;
    }
    for number in 0..16 {
        assert_eq!(get(second, &host, &format!("/{number}")).await.unwrap().body.len(), FILE);
    }
    // Then it is silent: whoever names it as a holder is overtaken by the origin.
    two.signal("-STOP");
    for number in 0..16 {
        assert_eq!(get(first, &host, &format!("/{number}")).await.unwrap().body.len(), FILE);
        if said("hedged").await > 0 {
            break;
        }
    }
    eventually("nothing is under way", async || {
        let status = one.status().await.unwrap();
        status["proxy"]["flights"] == 0 && status["proxy"]["peer_streams"] == 0
    })
    .await;
    let status = one.status().await.unwrap()["proxy"].clone();
    let counts = |name: &str| status.pointer(&format!("/{name}")).and_then(Value::as_u64).unwrap_or(0);
    assert!(counts("peer_fetches/ok") > 0 && counts("hedged") > 0, "{status}");
    let day = status["shares"].as_array().unwrap().iter().find(|one| one["period"] == "day").unwrap().clone();
    assert!(day["used"].as_u64().unwrap() > FILE as u64 && day["limit"] == SHARE, "{day}");
    let expected: Vec<(&str, String)> = TILES.iter().map(|(tile, name)| (*tile, counts(name).to_string())).collect();
    let left = SHARE - day["used"].as_u64().unwrap();
    let admin = listening(&one.status().await.unwrap(), "admin");
    let at = folder.path().to_owned();
    let looked = tokio::task::spawn_blocking(move || shows(&at, &admin, &expected, left));
    if !looked.await.unwrap() {
        println!("SKIPPED: the page, for want of chromium");
    }
    two.signal("-CONT");
}

/// Waits until the first node's page shows these numbers, and so many bytes of the share as left. False without Chromium.
fn shows(folder: &Path, admin: &str, expected: &[(&str, String)], left: u64) -> bool {
    let pages = folder.join("browser");
    std::fs::create_dir(&pages).unwrap();
    let token = std::fs::read_to_string(folder.join("one/state/admin.token")).unwrap();
    let Some(mut browser) = Browser::start(&pages) else { return false };
    browser.open(&format!("http://{admin}/#token={}", token.trim()));
    let tile = |name: &str| {
        format!("[...document.querySelectorAll('#peers div')].find(it => it.children[0].textContent === \"{name}\")")
    };
    for (name, value) in expected {
        browser.until(&format!("{}?.children[1].textContent === '{value}'", tile(name)));
    }
    let mib = format!("{:.0} MiB of 512 MiB", left as f64 / f64::from(1 << 20));
    browser.until(&format!("{}?.children[1].textContent === '{mib}'", tile("Share of this day left")));
    true
}

fn config(folder: &Path, seed: Option<&str>, origin: SocketAddr) -> String {
    let bootstrap = seed.map_or_else(String::new, |seed| format!("bootstrap = [\"{seed}\"]\n"));
    format!(
        "[node]\nroles = [\"proxy\"]\nstate = \"{}/state\"\nnetwork = \"test\"\nzone = \"nyud.example\"\n\
         addresses = [\"127.0.0.1\"]\ndrain_wait = \"0s\"\n{bootstrap}\n\
         [overlay]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\n\
         [proxy]\nlisten = [\"127.0.0.1:0\"]\norigins = [\"www.site.test:{}\"]\n\
         [proxy.hosts]\n\"www.site.test\" = [\"127.0.0.1\"]\n\n[proxy.fairness.node]\ndaily = \"{}MiB\"\n\n\
         [admin]\nlisten = [\"127.0.0.1:0\"]\n",
        folder.display(),
        origin.port(),
        SHARE >> 20,
    )
}
