//! The dashboard's page of objects: a URL's variants each for itself, and a holder that does not answer.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Instant,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    browser::Browser,
    support::{Network, PATIENCE, listening},
};

/// An origin whose answers vary by language, and say in which they are.
async fn polyglot() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while matches!(stream.read_buf(&mut seen).await, Ok(1..)) {
                    let Some(end) = seen.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
                    let head = String::from_utf8(seen.drain(..end + 4).collect()).unwrap().to_ascii_lowercase();
                    let language = if head.contains("accept-language: de") { "de" } else { "en" };
                    let varies = if head.starts_with("get /varied") { "Vary: Accept-Language\r\n" } else { "" };
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: max-age=3600\r\n\
                         {varies}Content-Language: {language}\r\n\r\n{language}"
                    );
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// What a proxy has for somebody who reads this language.
async fn ask(proxy: SocketAddr, host: &str, path: &str, language: &str) -> String {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept-Language: {language}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    answer.split("\r\n\r\n").nth(1).unwrap().to_owned()
}

/// The first node's dashboard, opened; none without Chromium.
fn dashboard(folder: &Path, admin: &str) -> Option<Browser> {
    let token = std::fs::read_to_string(folder.join("node0/state/admin.token")).unwrap();
    let pages = folder.join("browser");
    std::fs::create_dir(&pages).unwrap();
    let mut browser = Browser::start(&pages)?;
    browser.open(&format!("http://{admin}/#token={}", token.trim()));
    browser.until("!document.getElementById('objects').hidden");
    Some(browser)
}

/// Looks a URL up, and waits for what is told.
fn search(browser: &mut Browser, url: &str) {
    browser.eval(&format!("document.getElementById('search-url').value = '{url}'"));
    browser.eval("document.getElementById('search').requestSubmit()");
    browser.until("document.getElementById('search-told').textContent.includes('nodes asked')");
}

/// Looks a URL up until what is shown is as awaited: clients have answers before stores and the index have copies.
fn search_until(browser: &mut Browser, url: &str, awaited: impl Fn(&mut Browser) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        search(browser, url);
        if awaited(browser) {
            return;
        }
        assert!(Instant::now() < deadline, "never so\n{}", browser.eval("document.body.innerText"));
    }
}

/// Whether so many of two nodes asked are said to have copies.
fn told_of(browser: &mut Browser, held: usize) -> bool {
    let told = format!("copies at {held} of 2 nodes");
    browser.eval(&format!("document.getElementById('search-told').textContent.includes('{told}')")) == true
}

/// The lines of the table that hold this text.
fn lines(browser: &mut Browser, text: &str) -> u64 {
    let lines = "[...document.querySelectorAll('#copies tr')]";
    browser.eval(&format!("{lines}.filter(line => line.innerText.includes('{text}')).length")).as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_objects_shows_each_variant_at_each_node() {
    let folder = tempfile::tempdir().unwrap();
    let network = Network::before(folder.path(), 2, polyglot().await).await;
    let host = network.host.clone();
    for (node, language) in [(0, "en"), (0, "de"), (1, "de")] {
        assert_eq!(ask(network.nodes[node].http, &host, "/varied", language).await, language);
    }
    let admin = listening(&network.nodes[0].process.status().await.unwrap(), "admin");
    let at = folder.path().to_owned();
    let looked = tokio::task::spawn_blocking(move || {
        let Some(mut browser) = dashboard(&at, &admin) else { return false };
        search_until(&mut browser, &format!("http://{host}/varied"), |browser| {
            told_of(browser, 2)
                && lines(browser, "Accept-Language; en") == 1
                && lines(browser, "Accept-Language; de") == 2
        });
        // A line each under this node's name, and the other node's alone.
        assert_eq!(lines(&mut browser, "this node"), 2);
        true
    });
    if !looked.await.unwrap() {
        println!("SKIPPED: the page, for want of chromium");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_objects_says_which_holder_does_not_answer() {
    let folder = tempfile::tempdir().unwrap();
    let network = Network::before(folder.path(), 2, polyglot().await).await;
    let host = network.host.clone();
    // Of some of them this node keeps the word of who has them; of the others it is the silent one that does.
    let paths: Vec<String> = (0..16).map(|number| format!("/plain/{number}")).collect();
    for node in &network.nodes {
        for path in &paths {
            assert_eq!(ask(node.http, &host, path, "en").await, "en");
        }
    }
    let admin = listening(&network.nodes[0].process.status().await.unwrap(), "admin");
    let at = folder.path().to_owned();
    let looked = tokio::task::spawn_blocking(move || {
        let Some(mut browser) = dashboard(&at, &admin) else { return false };
        let deadline = Instant::now() + PATIENCE;
        // It may be stopped before it has told anybody of its copies: then it tells while both are looked up again.
        loop {
            for path in &paths {
                search_until(&mut browser, &format!("http://{host}{path}"), |browser| told_of(browser, 2));
            }
            network.nodes[1].process.signal("-STOP");
            let silent = paths.iter().any(|path| {
                search(&mut browser, &format!("http://{host}{path}"));
                lines(&mut browser, "does not answer") == 1
            });
            if silent {
                break;
            }
            network.nodes[1].process.signal("-CONT");
            assert!(Instant::now() < deadline, "nobody is said not to answer\n{}", network.logs());
        }
        assert!(told_of(&mut browser, 1), "{}", browser.eval("document.body.innerText"));
        assert_eq!(browser.eval("document.querySelectorAll('#copies td.warn').length"), 1);
        assert_eq!(lines(&mut browser, "this node"), 1);
        true
    });
    if !looked.await.unwrap() {
        println!("SKIPPED: the page, for want of chromium");
    }
}
