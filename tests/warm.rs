//! `atoll warm` on a network of real nodes.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

use crate::{
    browser::Browser,
    support::{Network, Origin, eventually},
};

/// Runs `atoll warm` with node 0 as the one that knows the others.
fn warm(folder: &TempDir, state: &Path, what: &[&str]) -> Output {
    tokio::task::block_in_place(|| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
        command.arg("warm").args(what).args(["--copies", "3", "--rate", "100MB", "--state"]).arg(state);
        command.arg("--socket").arg(folder.path().join("node0/state/admin.sock")).output().unwrap()
    })
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_what_a_sitemap_names_are_in_the_caches_of_each_cluster_and_the_origin_was_asked_once_each() {
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("warm.jsonl");
    let site = |port| format!("http://www.site.test:{port}");
    let sitemap = |address: std::net::SocketAddr| {
        let site = site(address.port());
        let text =
            format!("<urlset><url><loc>{site}/one?a=1&amp;b=2</loc></url><url><loc>{site}/two</loc></url></urlset>");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(text.as_bytes()).unwrap();
        gzip.finish().unwrap().into()
    };
    let origin = Origin::start_with(sitemap, 100 << 20).await;
    let network = Network::start(folder.path(), 3, &origin).await;
    let site = site(origin.address.port());
    let list = folder.path().join("list");
    std::fs::write(&list, format!("# what else\nftp://www.site.test/no\n{site}/three\n")).unwrap();
    let (direct, map, list) = (format!("{site}/zero"), format!("{site}/sitemap.xml.gz"), list.display().to_string());
    // One that no node may fetch keeps it from being all done.
    let refused = "http://www.site.test:1/refused";
    let first = warm(&folder, &state, &[&direct, refused, "--sitemap", &map, "--list", &list]);
    let told = said(&first);
    assert!(first.status.code() == Some(1) && told.contains("403") && state.exists(), "{told}\n{}", network.logs());
    assert_eq!(told.matches("verified, blake3 ").count(), 12, "four files at three nodes each: {told}");
    assert_eq!(told.matches("NOT FETCHED").count(), 3, "{told}");
    assert_eq!(origin.requests(), 5, "the sitemap and four files: {told}");
    let folder_of_page = folder.path().to_owned();
    let status = network.nodes[0].process.status().await.unwrap();
    assert!(told.contains("refused: ftp://www.site.test/no: "), "{told}");
    let page = move || shown_on_the_dashboard(&folder_of_page, &crate::support::listening(&status, "admin"));
    tokio::task::spawn_blocking(page).await.unwrap();
    // What is done is not done again: the sitemap is read, and what is there is asked for by its head.
    let before = answered(&network).await;
    let again = warm(&folder, &state, &[&direct, "--sitemap", &map, "--list", &list]);
    let told = said(&again);
    assert!(again.status.code() == Some(1) && !state.exists(), "what is refused stays so: {told}\n{}", network.logs());
    assert_eq!((told.matches("verified, blake3 ").count(), origin.requests()), (12, 5), "{told}");
    assert_eq!(answered(&network).await - before, 1 + 12);
}

/// The page of the node that was asked shows each file with the word of each of its nodes.
fn shown_on_the_dashboard(folder: &Path, admin: &str) {
    let pages = folder.join("browser");
    std::fs::create_dir(&pages).unwrap();
    let Some(mut browser) = Browser::start(&pages) else { return println!("SKIPPED: the page, for want of chromium") };
    let token = std::fs::read_to_string(folder.join("node0/state/admin.token")).unwrap();
    browser.screen(360, 740);
    browser.open(&format!("http://{admin}/#token={}", token.trim()));
    browser.until("document.querySelectorAll('#warm-list tbody tr').length === 5");
    browser.until("document.getElementById('warm-list').innerText.split('3 of 3').length === 5");
    browser.until("document.getElementById('warm-list').innerText.includes('0 of 3')");
    browser.eval("document.querySelectorAll('#warm-list details').forEach(box => box.open = true)");
    browser.until("document.getElementById('warm-list').innerText.split('verified, ').length === 13");
    browser.until("document.getElementById('warm-list').innerText.split('not fetched').length === 4");
    assert_eq!(browser.eval("document.documentElement.scrollWidth <= 360"), true, "a phone must scroll sideways");
}

/// Requests that all proxies have answered.
async fn answered(network: &Network) -> u64 {
    let mut sum = 0;
    for node in &network.nodes {
        sum += node.process.status().await.unwrap()["proxy"]["requests"].as_u64().unwrap();
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_told() {
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("state");
    for (what, why) in [(&["http://a.test/"][..], "no node answers"), (&[][..], "required")] {
        let output = warm(&folder, &state, what);
        assert!(!output.status.success() && said(&output).contains(why), "{}", said(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_killed_goes_on_where_it_was() {
    const FILES: usize = 4;
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("warm.jsonl");
    let origin = Origin::start(bytes::Bytes::from(vec![7; 50_000]), 100 << 20).await;
    let network = Network::start(folder.path(), 1, &origin).await;
    let urls: Vec<String> =
        (0..FILES).map(|number| format!("http://www.site.test:{}/{number}", origin.address.port())).collect();
    let command = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
        command.arg("warm").args(&urls).args(["--copies", "1"]).args(more).arg("--state").arg(&state);
        command.arg("--socket").arg(folder.path().join("node0/state/admin.sock"));
        command
    };
    let noted = || std::fs::read_to_string(&state).unwrap_or_default().lines().count();
    // Half a second for each file.
    let mut cut = command(&["--rate", "800kbit"]).spawn().unwrap();
    eventually("two files are noted", async || noted() > 1).await;
    cut.kill().unwrap();
    cut.wait().unwrap();
    eventually("nothing is fetched any more", async || network.streaming().await == 0).await;
    let before = answered(&network).await;
    let output = tokio::task::block_in_place(|| command(&[]).output().unwrap());
    let told = said(&output);
    assert!(output.status.success() && !state.exists(), "{told}\n{}", network.logs());
    assert_eq!(told.matches("verified, blake3 ").count(), FILES, "{told}");
    assert_eq!(origin.requests(), FILES as u64, "{told}");
    let asked = answered(&network).await - before;
    // Once to fetch it and once to look at it, for each that was not noted; the request that was cut may count late.
    assert!(asked < 2 * FILES as u64, "what was noted is only looked at: {asked} requests\n{told}");
}
