//! `atoll manager` and `atoll peer` end to end, as their users run them: a download storm, deaths, hangs, and those who must not
//! get in.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use bytes::Bytes;
use http::{StatusCode, header};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};

use crate::support::{Answer, Origin, PATIENCE, ask_socket, digest, eventually, get, get_with, post};

/// What peers join with, unless the test is about that.
const TOKEN: &str = "a-token-for-the-tests-only";

/// One process of `atoll manager` or `atoll peer`, ended with the test.
pub(crate) struct Lent {
    child: Child,
    folder: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Lent {
    /// A file of roots in the folder above those of managers and peers: whom they believe over TLS.
    pub(crate) const ROOTS: &str = "roots.pem";

    /// Starts a manager and returns once it says where it listens.
    pub(crate) async fn manager(folder: &Path, origin: SocketAddr, more: &[&str]) -> Self {
        let origin = format!("http://{origin}");
        let mut words = vec!["manager", "--origin", &origin, "--log", "none"];
        if !more.contains(&"--listen") {
            words.extend(["--listen", "127.0.0.1:0"]);
        }
        if !more.contains(&"--token") {
            words.extend(["--token", TOKEN]);
        }
        words.extend(more);
        Self::start(&folder.join("manager"), &words, "listens on  http://").await
    }

    /// Starts a peer and returns once it says where it serves.
    pub(crate) async fn peer(folder: &Path, name: &str, manager: &Self, more: &[&str]) -> Self {
        let manager = format!("http://{}", manager.address);
        let mut words = vec!["peer", "--listen", "127.0.0.1:0"];
        if !more.contains(&"--manager") {
            words.extend(["--manager", &manager]);
        }
        if !more.contains(&"--token") {
            words.extend(["--token", TOKEN]);
        }
        words.extend(more);
        Self::start(&folder.join(name), &words, "listens on  http://").await
    }

    async fn start(folder: &Path, words: &[&str], mark: &str) -> Self {
        let mut lent = Self::spawn(folder, words);
        let said = async || lent_log(folder).lines().find_map(|line| line.split_once(mark)?.1.parse().ok());
        let deadline = Instant::now() + PATIENCE;
        lent.address = loop {
            if let Some(address) = said().await {
                break address;
            }
            assert!(Instant::now() < deadline, "{words:?} did not come up:\n{}", lent.log());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        };
        lent
    }

    /// Starts one and waits for nothing.
    pub(crate) fn spawn(folder: &Path, words: &[&str]) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
        command.args(words).arg("--state").arg(folder.join("state"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let roots = folder.parent().unwrap().join(Self::ROOTS);
        if roots.exists() {
            command.env("SSL_CERT_FILE", roots);
        }
        let address = ([127, 0, 0, 1], 0).into();
        Self { child: command.spawn().unwrap(), folder: folder.to_owned(), address }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn log(&self) -> String {
        lent_log(&self.folder)
    }

    /// Waits until it has ended; its exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn login(&self) -> String {
        let token = std::fs::read_to_string(self.folder.join("state/admin.token")).unwrap();
        format!("Bearer {}", token.trim())
    }

    /// What the manager's page is told.
    pub(crate) async fn state(&self) -> serde_json::Value {
        let answer = get_with(self.address, "/_atoll/state", &[("authorization", &self.login())]).await;
        answer.ok().and_then(|answer| serde_json::from_slice(&answer.body).ok()).unwrap_or_default()
    }

    /// What the node behind says of itself.
    pub(crate) async fn node_status(&self) -> Option<serde_json::Value> {
        ask_socket(&self.folder.join("state/node/admin.sock"), "/status").await
    }

    /// Peers that take clients, by their URLs.
    pub(crate) async fn live(&self) -> BTreeSet<String> {
        let state = self.state().await;
        let peers = state["peers"].as_array().cloned().unwrap_or_default();
        let live = peers.iter().filter(|peer| peer["live"] == true);
        live.map(|peer| peer["url"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until exactly these take clients.
    pub(crate) async fn is_with(&self, peers: &[&Self]) {
        let wanted: BTreeSet<String> = peers.iter().map(|peer| format!("http://{}", peer.address)).collect();
        let deadline = Instant::now() + PATIENCE;
        while self.live().await != wanted {
            assert!(Instant::now() < deadline, "not live: {wanted:?}\n{:#}\n{}", self.state().await, self.log());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Where a client is led for a path.
    pub(crate) async fn leads(&self, path: &str) -> Option<String> {
        location(&get(self.address, "manager.test", path).await.unwrap())
    }

    /// The files that the page lists.
    pub(crate) async fn files(&self) -> Vec<String> {
        let files = self.state().await["files"].as_array().cloned().unwrap_or_default();
        files.iter().map(|file| file["file"].as_str().unwrap().to_owned()).collect()
    }

    /// What one peer's line of the page says.
    pub(crate) async fn says_of(&self, peer: &Self, field: &str) -> serde_json::Value {
        let url = format!("http://{}", peer.address);
        let state = self.state().await;
        let peers = state["peers"].as_array().cloned().unwrap_or_default();
        peers.into_iter().find(|peer| peer["url"] == url).unwrap_or_default()[field].clone()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lent_log(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("log")).unwrap_or_default()
}

pub(crate) fn location(answer: &Answer) -> Option<String> {
    Some(answer.headers.get(header::LOCATION)?.to_str().unwrap().to_owned())
}

fn is_long() -> bool {
    std::env::var_os("ATOLL_TEST_LONG").is_some()
}

pub(crate) fn body(size: usize) -> Bytes {
    (0..size).map(|place| u8::try_from(place.wrapping_mul(2_654_435_761) >> 13 & 0xFF).unwrap()).collect()
}

/// One client: led by the manager, served by whom it says; the digest, and the server.
pub(crate) async fn download(manager: SocketAddr, path: &str) -> Result<(String, String), String> {
    let led = get(manager, "manager.test", path).await.map_err(|error| error.to_string())?;
    let Some(location) = location(&led) else {
        return Ok((format!("{} {}", led.status.as_u16(), blake3::hash(&led.body)), manager.to_string()));
    };
    let (place, path) = location.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let digest = digest(place.parse().unwrap(), place, &format!("/{path}")).await?;
    Ok((digest, place.to_owned()))
}

/// So many clients at once.
async fn storm(manager: SocketAddr, clients: usize, path: &'static str) -> Vec<Result<(String, String), String>> {
    let mut set = JoinSet::new();
    for _ in 0..clients {
        set.spawn(download(manager, path));
    }
    set.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_on_three_lent_machines_costs_the_origin_one_copy() {
    let (clients, size) = if is_long() { (300, 200_000_000) } else { (60, 4_000_000) };
    let folder = tempfile::tempdir().unwrap();
    let body = body(size);
    let origin = Origin::start(body.clone(), (size / 2) as u64).await;
    let manager = Lent::manager(folder.path(), origin.address, &[]).await;
    // Alone, it serves by itself.
    let alone = get(manager.address, "manager.test", "/alone").await.unwrap();
    assert_eq!((alone.status, alone.body.len()), (StatusCode::OK, size));
    let mut peers = Vec::new();
    for number in 1..=3 {
        peers.push(Lent::peer(folder.path(), &format!("peer{number}"), &manager, &[]).await);
    }
    manager.is_with(&peers.iter().collect::<Vec<_>>()).await;

    let answers = storm(manager.address, clients, "/storm?v=1").await;
    let mut carried = BTreeMap::<String, usize>::new();
    for answer in answers {
        let (digest, by) = answer.unwrap();
        assert_eq!(digest, format!("200 {}", blake3::hash(&body)), "{}", manager.log());
        *carried.entry(by).or_default() += 1;
    }
    // The manager takes samples of what it served before meanwhile, and a peer may ask for these.
    assert_eq!(origin.requests_of("/storm?v=1"), 1, "{}", manager.log());
    assert_eq!(carried.len(), 3, "{carried:?}");
    assert!(carried.values().all(|share| (20..=45).contains(&(share * 100 / clients))), "{carried:?}");
    // The operator sees it: every record arrives, and what the backend was spared.
    let total = (clients * size) as u64;
    eventually("all records arrive", async || manager.state().await["sent_by_peers"].as_u64() >= Some(total)).await;
    let state = manager.state().await;
    assert!(state["saved"].as_u64().unwrap() >= total - 2 * size as u64, "{state:#}");
    assert_eq!(state["files"][0]["file"], "/storm?v=1");
    log_shows_every_download(&manager, clients, total).await;
    the_choice_is_explained(&manager).await;
}

/// `/_log` for those who log in, filtered.
async fn log_shows_every_download(manager: &Lent, clients: usize, total: u64) {
    assert_eq!(get(manager.address, "m", "/_log").await.unwrap().status, StatusCode::UNAUTHORIZED);
    let login = manager.login();
    let ask = async |query: &str| {
        let answer = get_with(manager.address, &format!("/_log{query}"), &[("authorization", &login)]).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect::<Vec<_>>()
    };
    // The manager's own samples are ranges.
    let mut lines = ask("?key=/storm").await;
    lines.retain(|line| line["data"]["status"] == 200);
    assert_eq!(lines.len(), clients);
    assert_eq!(lines.iter().map(|line| line["data"]["bytes"].as_u64().unwrap()).sum::<u64>(), total);
    assert!(lines.iter().all(|line| line["data"]["success"] == true && line["data"]["action"] == "LOG"));
    let peer = lines[0]["peer"].as_str().unwrap();
    assert!(ask(&format!("?key=/storm&peer={peer}")).await.iter().all(|line| line["peer"] == peer));
    assert_eq!(ask("?key=/nothing").await.len(), 0);
    assert_eq!(ask("?lines=3").await.len(), 3);
}

async fn the_choice_is_explained(manager: &Lent) {
    let list = get(manager.address, "m", "/storm?v=1&mirrorlist=json").await.unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list.body).unwrap();
    assert_eq!((list["file"].as_str(), list["candidates"].as_array().unwrap().len()), (Some("/storm?v=1"), 3));
    let first = list["candidates"][0]["node"].as_str().unwrap().to_owned();
    let page = get(manager.address, "m", "/storm?mirrorlist").await.unwrap();
    assert!(page.headers[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/html"));
    // A client that the first failed is led to another, and its query is the backend's again.
    let led = get(manager.address, "m", &format!("/storm?v=1&not={first}")).await.unwrap();
    let to = location(&led).unwrap();
    assert!(to.ends_with("/storm?v=1") && list["candidates"][0]["url"] != to.as_str(), "{to}");
    assert!(led.headers[header::LINK].to_str().unwrap().contains("rel=duplicate"));
    assert_eq!(led.headers[header::CACHE_CONTROL], "no-store");
}

#[tokio::test(flavor = "multi_thread")]
async fn deaths_and_departures_cut_nothing_that_need_not_be_cut() {
    let folder = tempfile::tempdir().unwrap();
    let body = body(6_000_000);
    let origin = Origin::start(body.clone(), 1 << 30).await;
    let mut manager = Lent::manager(folder.path(), origin.address, &[]).await;
    // Slow enough that a download lasts some seconds.
    let slow = ["--rate", "2MB/s"];
    let mut peers = Vec::new();
    for number in 1..=3 {
        peers.push(Lent::peer(folder.path(), &format!("peer{number}"), &manager, &slow).await);
    }
    manager.is_with(&peers.iter().collect::<Vec<_>>()).await;

    // SIGKILL in the middle: curl goes on elsewhere where it was.
    let home = manager.leads("/killed").await.unwrap();
    let victim = peers.iter().position(|peer| home.contains(&peer.address.to_string())).unwrap();
    let file = folder.path().join("killed");
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--location",
        "--retry",
        "20",
        "--retry-all-errors",
        "--retry-delay",
        "1",
        "-C",
        "-",
    ]);
    let curl = curl.arg("-o").arg(&file).arg(format!("http://{}/killed", manager.address)).spawn().unwrap();
    let begun = async || std::fs::metadata(&file).is_ok_and(|file| (100_000..5_000_000).contains(&file.len()));
    eventually("curl has a part", begun).await;
    peers[victim].kill();
    let done = tokio::task::spawn_blocking(move || curl.wait_with_output().unwrap()).await.unwrap();
    assert!(done.status.success(), "{done:?}");
    assert!(std::fs::read(&file).unwrap() == body, "the file is not what the backend has");
    peers.remove(victim);

    // SIGTERM: what runs finishes, nobody new comes, and it leaves.
    let led = manager.leads("/left").await.unwrap();
    let leaver = peers.iter().position(|peer| led.contains(&peer.address.to_string())).unwrap();
    let running = tokio::spawn(storm_at(peers[leaver].address, 2, "/left"));
    eventually("downloads run", async || manager.says_of(&peers[leaver], "in_flight").await == 2).await;
    peers[leaver].signal("-TERM");
    for got in running.await.unwrap() {
        assert_eq!(got, Ok(format!("200 {}", blake3::hash(&body))), "{}", peers[leaver].log());
    }
    assert_eq!(peers[leaver].ended().await, Some(0), "{}", peers[leaver].log());
    assert!(peers[leaver].log().contains("all downloads finished"), "{}", peers[leaver].log());
    peers.remove(leaver);
    manager.is_with(&[&peers[0]]).await;

    // The manager dies: downloads finish, the peer serves on, and it joins again.
    let running = tokio::spawn(storm_at(peers[0].address, 2, "/orphaned"));
    eventually("downloads run", async || manager.says_of(&peers[0], "in_flight").await == 2).await;
    let listen = manager.address.to_string();
    manager.kill();
    for got in running.await.unwrap() {
        assert_eq!(got, Ok(format!("200 {}", blake3::hash(&body))));
    }
    let alone = digest(peers[0].address, "any.test", "/killed").await;
    assert_eq!(alone, Ok(format!("200 {}", blake3::hash(&body))));
    drop(manager);
    let manager = Lent::manager(folder.path(), origin.address, &["--listen", &listen]).await;
    manager.is_with(&[&peers[0]]).await;
    eventually("records from the break arrive", async || {
        manager.state().await["sent_by_peers"].as_u64() >= Some(18_000_000)
    })
    .await;
}

/// Downloads straight from one machine.
async fn storm_at(address: SocketAddr, clients: usize, path: &'static str) -> Vec<Result<String, String>> {
    let mut set = JoinSet::new();
    for _ in 0..clients {
        set.spawn(async move { digest(address, "any.test", path).await });
    }
    set.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_peer_gets_no_client_until_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::start(body(1_000), 1 << 30).await;
    let manager = Lent::manager(folder.path(), origin.address, &[]).await;
    let hung = Lent::peer(folder.path(), "hung", &manager, &[]).await;
    let other = Lent::peer(folder.path(), "other", &manager, &[]).await;
    manager.is_with(&[&hung, &other]).await;
    hung.signal("-STOP");
    // From two seconds on nobody is led there; what a busy machine adds comes to the other's beats as well.
    eventually("the hung one is left out", async || {
        manager.live().await == BTreeSet::from([format!("http://{}", other.address)])
    })
    .await;
    for number in 0..20 {
        let led = manager.leads(&format!("/{number}")).await.unwrap_or_default();
        assert!(!led.contains(&hung.address.to_string()), "{led}");
    }
    hung.signal("-CONT");
    manager.is_with(&[&hung, &other]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_must_not_get_in_is_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::start(body(1_000), 1 << 30).await;
    let manager = Lent::manager(folder.path(), origin.address, &["--uses", "2"]).await;
    let url = format!("http://{}", manager.address);
    let refused = async |name: &str, token: &str, why: &str| {
        let words = ["peer", "--manager", &url, "--listen", "127.0.0.1:0", "--token", token];
        let mut peer = Lent::spawn(&folder.path().join(name), &words);
        assert_eq!(peer.ended().await, Some(1), "{}", peer.log());
        assert!(peer.log().contains(why), "{}", peer.log());
        assert!(manager.log().contains(why), "the manager says so too:\n{}", manager.log());
    };
    refused("wrong", "not-the-token-of-this-one", "wrong token").await;
    // One that says it is where another listens.
    let foreign = format!("http://{}", origin.address);
    let liar = Lent::peer(folder.path(), "liar", &manager, &["--advertise", &foreign]).await;
    eventually("it is not found there", async || manager.log().contains("it is not at its address")).await;
    assert!(manager.live().await.is_empty());
    assert_eq!(manager.leads("/x").await, None, "the manager serves by itself");
    drop(liar);
    let mut good = Lent::peer(folder.path(), "good", &manager, &[]).await;
    manager.is_with(&[&good]).await;
    refused("third", TOKEN, "this token is spent").await;
    // Removed by the operator: told so, and let in neither as itself nor with its token.
    let name = manager.says_of(&good, "name").await.as_str().unwrap().to_owned();
    let login = manager.login();
    let eject = format!("/_atoll/peers/{name}/eject");
    assert_eq!(post(manager.address, &eject, &[]).await.unwrap().status, StatusCode::UNAUTHORIZED);
    let ejected = post(manager.address, &eject, &[("authorization", &login)]).await.unwrap();
    assert_eq!(ejected.status, StatusCode::ACCEPTED);
    assert_eq!(good.ended().await, Some(1), "{}", good.log());
    assert!(good.log().contains("removed by the operator"), "{}", good.log());
    refused("good", TOKEN, "removed by the operator").await;
    refused("fourth", TOKEN, "a machine that came with it was removed").await;
    assert!(manager.live().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_serves_wrong_bytes_is_ejected() {
    let folder = tempfile::tempdir().unwrap();
    let body = body(300_000);
    let origin = Origin::start(body.clone(), 1 << 30).await;
    let manager = Lent::manager(folder.path(), origin.address, &[]).await;
    // Stands before a peer and turns a byte of what it passes on.
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", relay.local_addr().unwrap());
    let liar = Lent::peer(folder.path(), "liar", &manager, &["--advertise", &url]).await;
    let behind = liar.address;
    let relaying = tokio::spawn(async move {
        while let Ok((client, _)) = relay.accept().await {
            tokio::spawn(lie(client, behind));
        }
    });
    eventually("the liar takes clients", async || manager.live().await == BTreeSet::from([url.clone()])).await;
    let (got, by) = download(manager.address, "/file").await.unwrap();
    assert_eq!(by, url.strip_prefix("http://").unwrap());
    assert_ne!(got, format!("200 {}", blake3::hash(&body)), "the relay did not lie");
    eventually("the liar is ejected", async || manager.log().contains("it served wrong bytes of /file")).await;
    assert!(manager.live().await.is_empty());
    let (got, by) = download(manager.address, "/file").await.unwrap();
    assert_eq!((got, by), (format!("200 {}", blake3::hash(&body)), manager.address.to_string()));
    relaying.abort();
}

/// Passes one connection on, with a byte turned in every larger piece that is not about the peer itself.
async fn lie(mut client: TcpStream, behind: SocketAddr) {
    let mut peer = TcpStream::connect(behind).await.unwrap();
    let mut first = [0; 12];
    let count = client.peek(&mut first).await.unwrap_or(0);
    let honest = first[..count].starts_with(b"GET /_atoll");
    let (mut from_client, mut to_client) = client.split();
    let (mut from_peer, mut to_peer) = peer.split();
    let back = async {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_peer.read(&mut piece).await {
            if !honest && count > 2_000 {
                piece[count - 1] ^= 1;
            }
            if to_client.write_all(&piece[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = back => {}
        _ = tokio::io::copy(&mut from_client, &mut to_peer) => {}
    }
}
