//! Bad inputs of `atoll manager`, and what else clients and backends do to it; files put in place before a storm.

use std::{
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{StatusCode, header};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    manager_storm::{Lent, body, download, location},
    support::{Origin, PATIENCE, digest, eventually, get, get_with},
};

/// A backend that answers each target with the bytes that a function makes of it, and closes.
struct Scripted {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Scripted {
    async fn start(at: Option<SocketAddr>, answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(at.unwrap_or_else(|| ([127, 0, 0, 1], 0).into())).await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(answer);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = Arc::clone(&answer);
                connections.spawn(async move {
                    let mut head = Vec::new();
                    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let target = head.split(' ').nth(1).unwrap_or_default();
                    let _ = stream.write_all(&answer(target)).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { address, _tasks: tasks }
    }
}

fn ok(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nCache-Control: max-age=60\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A target sent byte for byte, and the whole answer.
async fn raw(to: SocketAddr, target: &str) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_targets_reach_the_backend_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Scripted::start(None, ok).await;
    let manager = Lent::manager(folder.path(), origin.address, &[]).await;
    let long = format!("/{}", "x".repeat(10_000));
    let targets = [
        "/a/../b",
        "/..",
        "/a%2Fb%2f",
        "/%2e%2e/%00",
        "//a//b",
        "/a;b?c=%20&d",
        "/?",
        "/a?mirrorlist=no&not=me",
        &long,
    ];
    for target in targets {
        let answer = raw(manager.address, target).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with(&format!("\r\n\r\n{target}")),
            "{target}: {answer}"
        );
    }
    let peer = Lent::peer(folder.path(), "peer", &manager, &[]).await;
    manager.is_with(&[&peer]).await;
    for target in targets {
        let answer = raw(manager.address, target).await;
        let location = format!("\r\nlocation: http://{}{target}\r\n", peer.address);
        assert!(answer.starts_with("HTTP/1.1 302") && answer.contains(&location), "{target}: {answer}");
        let answer = raw(peer.address, target).await;
        assert!(answer.ends_with(&format!("\r\n\r\n{target}")), "{target}: {answer}");
    }
    // What is no request for a file, at the manager and at a peer.
    for at in [manager.address, peer.address] {
        let too_long = format!("/{}", "x".repeat(40_000));
        assert!(raw(at, &too_long).await.starts_with("HTTP/1.1 414"));
        for (request, status) in [
            ("POST /x HTTP/1.1\r\nHost: m\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx", "405"),
            ("GET /x HTTP/1.1\r\nHost: m\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "400"),
            ("GET /x HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
            ("GET /x HTTP/1.1\nHost: m\n\n", "400"),
            ("GET /_atoll/nothing HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n", "4"),
        ] {
            let mut stream = TcpStream::connect(at).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        }
    }
    // A HEAD and a range are led like any other request.
    let head = raw_method(manager.address, "HEAD").await;
    assert!(head.starts_with("HTTP/1.1 302") && head.ends_with("\r\n\r\n"), "{head}");
    let part = get_with(peer.address, "/abcdef", &[("range", "bytes=1-2")]).await.unwrap();
    assert_eq!((part.status, &part.body[..]), (StatusCode::PARTIAL_CONTENT, &b"ab"[..]));
}

/// The head and body of one answer, less what changes with each.
async fn answer_to(to: SocketAddr, target: &str, field: &str) -> (Vec<String>, String) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: {to}\r\n{field}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    loop {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "{target} was cut");
        let text = String::from_utf8_lossy(&seen).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let mut lines: Vec<String> = head.lines().map(str::to_ascii_lowercase).collect();
        let length = lines.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() == length.unwrap_or(0) {
            lines.retain(|line| !["date:", "age:", "cache-status:"].iter().any(|name| line.starts_with(name)));
            lines[1..].sort();
            return (lines, body.to_owned());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_before_the_parser_is_what_the_parser_would_have_brought() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Scripted::start(None, |target| match target {
        "/moved" => b"HTTP/1.1 200 OK\r\nContent-Location: /else\r\nCache-Control: max-age=60\r\nDate: Sun, 01 Nov 2026 00:00:00 GMT\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx".to_vec(),
        _ => ok(target),
    })
    .await;
    let manager = Lent::manager(folder.path(), origin.address, &["--redirect-above", "7B"]).await;
    // A field that nobody knows is for the parser.
    let (early, late) = ("", "X-Odd: 1\r\n");
    let targets = ["/", "/small", "/moved", "/a%2Fb/../c?d=e&not=me", "/?mirrorlist=yes", "/robots.txt"];
    let own =
        ["/_ws/", "/_log", "/_atoll/x", "/.well-known/atoll/health", "/.well-known/atoll/health?x", "/x?mirrorlist"];
    let alike = async |at: SocketAddr, targets: &[&str]| {
        for target in targets {
            // The first may fetch it; then it lies in RAM.
            answer_to(at, target, late).await;
            let (one, other) = (answer_to(at, target, early).await, answer_to(at, target, late).await);
            assert_eq!(one, other, "{target}");
        }
    };
    alike(manager.address, &targets).await;
    alike(manager.address, &own).await;
    let peers =
        [Lent::peer(folder.path(), "one", &manager, &[]).await, Lent::peer(folder.path(), "two", &manager, &[]).await];
    manager.is_with(&[&peers[0], &peers[1]]).await;
    alike(manager.address, &["/", "/small", "/moved"]).await;
    alike(peers[0].address, &targets).await;
    alike(peers[0].address, &own).await;
    // Two redirects may lead to either of the two, and are the same but for that.
    let led = async |field: &str| {
        let (lines, body) = answer_to(manager.address, "/a%2Fb/../c?d=e", field).await;
        let shape = |line: String| {
            let line = peers.iter().fold(line, |line, peer| line.replace(&peer.address.to_string(), "PEER"));
            if line.starts_with("atoll-node: ") { "atoll-node".to_owned() } else { line }
        };
        (lines.into_iter().map(shape).collect::<Vec<_>>(), body)
    };
    let (one, other) = (led(early).await, led(late).await);
    assert_eq!(one, other);
    let link = "link: <http://PEER/a%2fb/../c?d=e>; rel=duplicate; pri=1".to_owned();
    assert!(one.0[0].starts_with("http/1.1 302") && one.0.contains(&link), "{one:?}");
    // Each is in the log, with the client's own words, whichever way it went.
    let words = "User-Agent: once \"quoted\"\r\n";
    for at in [manager.address, peers[0].address] {
        answer_to(at, "/small", words).await;
        answer_to(at, "/small", &format!("{words}X-Odd: 1\r\n")).await;
    }
    let login = manager.login();
    let told = async || {
        let log = get_with(manager.address, "/_log?key=/small", &[("authorization", &login)]).await.unwrap();
        let log = String::from_utf8(log.body.to_vec()).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let of = |line: &serde_json::Value| {
            line["data"]["user_agent"] == "once \"quoted\"" && line["data"]["source"] == "memory"
        };
        lines.filter(of).count() == 4
    };
    eventually("all are told", told).await;
}

async fn raw_method(to: SocketAddr, method: &str) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let request = format!("{method} /x HTTP/1.1\r\nHost: m\r\nRange: bytes=0-1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_goes_to_standard_output_also_into_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Scripted::start(None, ok).await;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_atoll"));
    command.args(["manager", "--origin", &format!("http://{}", origin.address), "--listen", "127.0.0.1:0"]);
    command.args(["--log", "-", "--state"]).arg(folder.path().join("state"));
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(child.stdout.take().unwrap()));
    let mut next = async |mark: &'static str| {
        tokio::time::timeout(PATIENCE, async {
            loop {
                let line = lines.next_line().await.unwrap().unwrap();
                if line.contains(mark) {
                    return line;
                }
            }
        })
        .await
        .unwrap()
    };
    let address = next("listens on").await;
    let address = address.split_once("http://").unwrap().1.parse().unwrap();
    assert_eq!(get(address, "m", "/logged").await.unwrap().status, StatusCode::OK);
    let line: serde_json::Value = serde_json::from_str(&next("/logged").await).unwrap();
    assert_eq!((&line["data"]["key"], &line["data"]["success"]), (&"/logged".into(), &true.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_away_is_told_of_and_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let place = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    let manager = Lent::manager(folder.path(), address, &[]).await;
    eventually("it says so", async || manager.log().contains("the backend cannot be reached now")).await;
    let answer = get(manager.address, "m", "/x").await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.headers["proxy-status"], "atoll; error=connection_refused");
    let _origin = Scripted::start(Some(address), ok).await;
    let back = async || get(manager.address, "m", "/x").await.is_ok_and(|answer| answer.status == StatusCode::OK);
    eventually("it is asked again", back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_leads_back_is_a_loop_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let place = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = place.local_addr().unwrap();
    drop(place);
    let manager = Lent::manager(folder.path(), own, &["--listen", &own.to_string()]).await;
    // Refused as one of our own addresses before it is dialled, or seen as a loop when it comes back.
    let ends = [StatusCode::FORBIDDEN, StatusCode::LOOP_DETECTED];
    assert!(ends.contains(&get(manager.address, "m", "/x").await.unwrap().status), "{}", manager.log());
    let peer = Lent::peer(folder.path(), "peer", &manager, &[]).await;
    manager.is_with(&[&peer]).await;
    assert!(ends.contains(&get(peer.address, "m", "/y").await.unwrap().status), "{}", peer.log());
    drop((manager, peer));
    // One that redirects to itself by its own name leads its clients on through the manager.
    let origin = Scripted::start(None, |target| {
        format!(
            "HTTP/1.1 302 Found\r\nLocation: http://ORIGIN{target}x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        .into_bytes()
    });
    let origin = origin.await;
    let manager = Lent::manager(&folder.path().join("second"), origin.address, &[]).await;
    let led = get(manager.address, "m", "/a").await.unwrap();
    assert_eq!(location(&led).as_deref(), Some("http://ORIGIN/ax"), "another host's name is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_length_arrives_whole() {
    let folder = tempfile::tempdir().unwrap();
    let whole = body(3_000_000);
    let sent = whole.clone();
    let origin = Scripted::start(None, move |_| {
        let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nCache-Control: max-age=60\r\n\r\n".to_vec();
        for piece in sent.chunks(70_000) {
            answer.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            answer.extend_from_slice(piece);
            answer.extend_from_slice(b"\r\n");
        }
        answer.extend_from_slice(b"0\r\n\r\n");
        answer
    })
    .await;
    let manager = Lent::manager(folder.path(), origin.address, &[]).await;
    let peers =
        [Lent::peer(folder.path(), "one", &manager, &[]).await, Lent::peer(folder.path(), "two", &manager, &[]).await];
    manager.is_with(&[&peers[0], &peers[1]]).await;
    let mut clients = JoinSet::new();
    for _ in 0..12 {
        clients.spawn(download(manager.address, "/chunked"));
    }
    for got in clients.join_all().await {
        assert_eq!(got.unwrap().0, format!("200 {}", blake3::hash(&whole)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_during_the_storm_is_never_mixed() {
    const SIZE: usize = 1_000_000;
    let folder = tempfile::tempdir().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    // Every answer is another version, and none stays fresh.
    let origin = Scripted::start(None, move |_| {
        let version = u8::try_from(counter.fetch_add(1, Ordering::SeqCst) % 200).unwrap();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\nETag: \"v{version}\"\r\nCache-Control: max-age=0\r\nConnection: close\r\n\r\n"
        );
        [head.as_bytes(), &vec![version; SIZE]].concat()
    })
    .await;
    let manager = Lent::manager(folder.path(), origin.address, &[]).await;
    let peers =
        [Lent::peer(folder.path(), "one", &manager, &[]).await, Lent::peer(folder.path(), "two", &manager, &[]).await];
    manager.is_with(&[&peers[0], &peers[1]]).await;
    let versions: Vec<String> = (0..200).map(|version| format!("200 {}", blake3::hash(&vec![version; SIZE]))).collect();
    for _ in 0..4 {
        let mut clients = JoinSet::new();
        for client in 0..10 {
            let at = [manager.address, peers[0].address, peers[1].address][client % 3];
            clients.spawn(whole(at));
        }
        for got in clients.join_all().await {
            let got = got.unwrap();
            assert!(versions.contains(&got), "a mixture: {got}");
        }
    }
    assert!(asked.load(Ordering::SeqCst) > 1, "the file did not change");
}

/// The digest of what one machine gives, led on or not.
async fn whole(at: SocketAddr) -> Result<String, String> {
    download(at, "/changing").await.map(|(digest, _)| digest)
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_put_in_place_before_a_storm_and_described_by_a_metalink() {
    let folder = tempfile::tempdir().unwrap();
    let whole = body(2_000_000);
    let origin = Origin::start(whole.clone(), 1 << 30).await;
    let manager = Lent::manager(folder.path(), origin.address, &[]).await;
    let peers =
        [Lent::peer(folder.path(), "one", &manager, &[]).await, Lent::peer(folder.path(), "two", &manager, &[]).await];
    manager.is_with(&[&peers[0], &peers[1]]).await;
    let login = manager.login();
    let warm = |files: &'static [&'static str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
        command.args(["warm", "--manager", &format!("http://{}", manager.address), "--login"]);
        command.arg(login.strip_prefix("Bearer ").unwrap()).args(files);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let warmed = warm(&["/big.iso", "http://anywhere/second.iso"]).await.unwrap();
    let said = String::from_utf8(warmed.stdout).unwrap();
    assert!(warmed.status.success() && said.matches("2.0 MB").count() == 4, "{said}");
    assert_eq!(origin.requests(), 2, "each file crossed the backend's line once");
    for peer in &peers {
        assert_eq!(digest(peer.address, "any", "/big.iso").await.unwrap(), format!("200 {}", blake3::hash(&whole)));
    }
    assert_eq!(origin.requests(), 2);
    // Its size is known by now: a Metalink with its digests, and every machine that has it.
    let described = async || {
        let led = get(manager.address, "m", "/big.iso").await.unwrap();
        let links = led.headers.get_all(header::LINK).iter().map(|link| link.to_str().unwrap().to_owned());
        links.collect::<Vec<_>>().join(", ").contains("rel=describedby")
    };
    eventually("the file is known to be large", described).await;
    let link = get(manager.address, "m", "/big.iso.meta4").await.unwrap();
    assert_eq!(link.headers[header::CONTENT_TYPE], "application/metalink4+xml");
    let link = String::from_utf8(link.body.to_vec()).unwrap();
    let urls = link.matches("<url ").count();
    assert!(link.contains("<size>2000000</size>") && link.contains("<file name=\"big.iso\">") && urls == 3, "{link}");
    let sum = Command::new("sha256sum")
        .arg("-")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut sum = sum.unwrap();
    std::io::Write::write_all(&mut sum.stdin.take().unwrap(), &whole).unwrap();
    let sum = String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap();
    assert!(link.contains(&format!("<hash type=\"sha-256\">{}</hash>", &sum[..64])), "{link}\n{sum}");
    // Without the login nothing is fetched for anybody.
    let mut foreign = Command::new(env!("CARGO_BIN_EXE_atoll"));
    foreign.args(["warm", "--manager", &format!("http://{}", manager.address), "--login", "wrong", "/x"]);
    let foreign = tokio::task::spawn_blocking(move || foreign.output().unwrap()).await.unwrap();
    assert!(!foreign.status.success() && String::from_utf8_lossy(&foreign.stderr).contains("401"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_ends_what_a_machine_gives_and_drain_ends_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::start(body(1_000_000), 1 << 30).await;
    let manager = Lent::manager(
        folder.path(),
        origin.address,
        &["--private", "--redirect-above", "10kB", "--redirect-status", "307"],
    )
    .await;
    let mut peer = Lent::peer(folder.path(), "peer", &manager, &["--daily", "2MB"]).await;
    manager.is_with(&[&peer]).await;
    for _ in 0..2 {
        let led = get(manager.address, "m", "/x").await.unwrap();
        assert_eq!(led.status, StatusCode::TEMPORARY_REDIRECT);
        download(manager.address, "/x").await.unwrap();
    }
    // The log is followed as it grows, and names networks, not people.
    let followed = follow(&manager, 2).await;
    assert!(followed.iter().all(|line| line["data"]["remote_addr"] == "127.0.0.0"), "{followed:?}");
    assert!(followed.iter().all(|line| line["data"]["key"] == "/x" && line["data"]["total"] == 1_000_000));
    eventually("it is spent", async || manager.live().await.is_empty()).await;
    assert!(manager.says_of(&peer, "standing").await.as_str().unwrap().contains("quota is spent"));
    let spent = get(peer.address, "m", "/x").await.unwrap();
    assert_eq!(spent.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(spent.headers[header::RETRY_AFTER].to_str().unwrap().parse::<u32>().unwrap() > 0);
    // `atoll drain` on the peer's machine.
    let mut drain = Command::new(env!("CARGO_BIN_EXE_atoll"));
    drain.arg("drain").arg("--state").arg(folder.path().join("peer/state"));
    let drained = tokio::task::spawn_blocking(move || drain.output().unwrap()).await.unwrap();
    assert!(drained.status.success(), "{drained:?}");
    assert_eq!(peer.ended().await, Some(0), "{}", peer.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_are_served_at_the_manager_and_large_ones_led_to_a_peer() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Scripted::start(None, |target| match target {
        "/edge" => ok(&"e".repeat(10_000)),
        "/large" => ok(&"l".repeat(10_001)),
        _ => ok("small"),
    });
    let origin = origin.await;
    let manager = Lent::manager(folder.path(), origin.address, &["--redirect-above", "10kB"]).await;
    let peer = Lent::peer(folder.path(), "peer", &manager, &[]).await;
    manager.is_with(&[&peer]).await;
    for (file, here) in [("/small", true), ("/edge", true), ("/large", false)] {
        // Nobody knows its size before somebody had it; then those up to the bound are the manager's.
        let (first, by) = download(manager.address, file).await.unwrap();
        assert_eq!(by, peer.address.to_string(), "{file}");
        eventually("the manager hears of it", async || {
            let files = manager.files().await;
            files.iter().any(|known| known == file)
        })
        .await;
        let (again, by) = download(manager.address, file).await.unwrap();
        let place = if here { manager.address } else { peer.address };
        assert_eq!((&again, by), (&first, place.to_string()), "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_ends_peers_and_the_manager_well_or_at_once_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let whole = body(3_000_000);
    let origin = Origin::start(whole.clone(), 1 << 30).await;
    let mut manager = Lent::manager(folder.path(), origin.address, &[]).await;
    let slow = ["--rate", "500kB"];
    let mut first = Lent::peer(folder.path(), "first", &manager, &slow).await;
    let mut second = Lent::peer(folder.path(), "second", &manager, &slow).await;
    manager.is_with(&[&first, &second]).await;
    let begin = |peer: &Lent, file: &'static str| {
        let address = peer.address;
        tokio::spawn(async move { digest(address, "any.test", file).await })
    };
    let runs = async |peer: &Lent| {
        eventually("a download runs", async || manager.says_of(peer, "in_flight").await == 1).await;
    };
    // Well: what runs finishes, and the manager sees how far it is meanwhile.
    let finishing = begin(&first, "/finished");
    runs(&first).await;
    let name = manager.says_of(&first, "name").await.as_str().unwrap().to_owned();
    asked(&manager, &["--node", &name]).await;
    let leaving = async || {
        manager.says_of(&first, "standing").await == "it is leaving" && manager.says_of(&first, "in_flight").await == 1
    };
    eventually("it is seen to leave", leaving).await;
    assert_eq!(finishing.await.unwrap(), Ok(format!("200 {}", blake3::hash(&whole))), "{}", first.log());
    assert_eq!(first.ended().await, Some(0), "{}", first.log());
    // At once, while it leaves.
    let cut = begin(&second, "/cut");
    runs(&second).await;
    let name = manager.says_of(&second, "name").await.as_str().unwrap().to_owned();
    asked(&manager, &["--node", &name]).await;
    eventually("it leaves", async || second.log().contains("leaving: 1 downloads run")).await;
    asked(&manager, &["--node", &name, "--now"]).await;
    assert_eq!(second.ended().await, Some(0), "{}", second.log());
    assert!(cut.await.unwrap().is_err() && second.log().contains("at once"), "{}", second.log());
    // On its own machine, at once.
    let mut third = Lent::peer(folder.path(), "third", &manager, &slow).await;
    manager.is_with(&[&third]).await;
    let cut = begin(&third, "/third");
    runs(&third).await;
    let state = folder.path().join("third/state");
    told(&["--state", state.to_str().unwrap(), "--now"]).await;
    assert_eq!(third.ended().await, Some(0), "{}", third.log());
    assert!(cut.await.unwrap().is_err(), "{}", third.log());
    // The manager itself.
    asked(&manager, &["--now"]).await;
    assert_eq!(manager.ended().await, Some(0), "{}", manager.log());
}

/// `atoll drain` with the manager's login.
async fn asked(manager: &Lent, words: &[&str]) {
    let (url, login) = (format!("http://{}", manager.address), manager.login());
    let mut all = vec!["--manager", &url, "--login", login.strip_prefix("Bearer ").unwrap()];
    all.extend(words);
    told(&all).await;
}

/// `atoll drain` with these words, which must succeed.
async fn told(words: &[&str]) {
    let mut drain = Command::new(env!("CARGO_BIN_EXE_atoll"));
    drain.arg("drain").args(words);
    let drained = tokio::task::spawn_blocking(move || drain.output().unwrap()).await.unwrap();
    assert!(drained.status.success(), "{drained:?}");
}

/// Follows the log until so many whole downloads were told.
async fn follow(manager: &Lent, downloads: usize) -> Vec<serde_json::Value> {
    let mut stream = TcpStream::connect(manager.address).await.unwrap();
    let request =
        format!("GET /_log?follow=1&key=/x HTTP/1.1\r\nHost: m\r\nAuthorization: {}\r\n\r\n", manager.login());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut told = Vec::new();
    let mut seen = Vec::new();
    while told.len() < downloads {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut seen)).await.unwrap().unwrap();
        assert!(read > 0, "the log ended");
        let text = String::from_utf8_lossy(&seen).into_owned();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        told = lines.filter(|line| line["data"]["status"] == 200).collect();
    }
    told
}
