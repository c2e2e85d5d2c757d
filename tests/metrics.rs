//! `/metrics` of a node that has done a bit of everything: every metric that operators were promised is there, with its labels; and
//! every one that the program counts stands in docs/metrics.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    task::JoinSet,
};

use crate::support::{Process, eventually, get, listening};

/// What must be there once the node has done it, and labels of one of its series; a histogram by its count.
const PROMISED: &[(&str, &[(&str, &str)])] = &[
    ("atoll_build_info", &[]),
    (
        "atoll_http_requests_total",
        &[("proto", "h1"), ("method", "get"), ("code", "200"), ("cache", "miss"), ("tenant", "own.test")],
    ),
    ("atoll_http_requests_total", &[("cache", "hit"), ("tenant", "own.test")]),
    ("atoll_http_requests_total", &[("cache", "revalidated"), ("tenant", "own.test")]),
    ("atoll_http_requests_total", &[("cache", "pass"), ("method", "post"), ("tenant", "own.test")]),
    ("atoll_http_requests_total", &[("cache", "peer"), ("tenant", "coralized")]),
    ("atoll_http_requests_total", &[("cache", "denied"), ("code", "421"), ("tenant", "none")]),
    ("atoll_http_heads_refused_total", &[("code", "400")]),
    ("atoll_http_request_duration_seconds_count", &[("phase", "ttfb"), ("cache", "miss")]),
    ("atoll_http_request_duration_seconds_count", &[("phase", "total"), ("cache", "miss")]),
    ("atoll_http_request_duration_seconds_count", &[("phase", "total"), ("cache", "peer")]),
    ("atoll_http_response_bytes_total", &[("cache", "hit")]),
    ("atoll_http_response_bytes_total", &[("cache", "peer")]),
    ("atoll_http_connections", &[("state", "open"), ("proto", "h1")]),
    ("atoll_http_connections", &[("state", "open"), ("proto", "h2")]),
    ("atoll_http_connections", &[("state", "new"), ("proto", "none")]),
    ("atoll_cache_objects", &[("tier", "ram")]),
    ("atoll_cache_objects", &[("tier", "disk")]),
    ("atoll_cache_bytes", &[("tier", "ram")]),
    ("atoll_cache_bytes", &[("tier", "disk")]),
    ("atoll_cache_evictions_total", &[("reason", "ram-full")]),
    ("atoll_cache_evictions_total", &[("reason", "disk-full")]),
    ("atoll_cache_evictions_total", &[("reason", "purged")]),
    ("atoll_cache_checksum_failures_total", &[]),
    ("atoll_cache_disk_state", &[("disk", "STORE")]),
    ("atoll_cache_fill_inflight", &[]),
    ("atoll_cache_not_stored_total", &[("reason", "no-store")]),
    ("atoll_origin_requests_total", &[("result", "ok")]),
    ("atoll_origin_duration_seconds_count", &[]),
    ("atoll_origin_bytes_total", &[]),
    ("atoll_origin_denied_total", &[("reason", "private_ip")]),
    ("atoll_origin_denied_total", &[("reason", "port")]),
    ("atoll_origin_denied_total", &[("reason", "policy")]),
    ("atoll_origin_denied_total", &[("reason", "loop")]),
    ("atoll_origin_circuit_open", &[]),
    ("atoll_dns_queries_total", &[("type", "a"), ("rcode", "noerror"), ("transport", "udp")]),
    ("atoll_dns_response_bytes_total", &[]),
    ("atoll_dns_duration_seconds_count", &[]),
    ("atoll_dns_answer_source_total", &[]),
    ("atoll_dns_rrl_total", &[("action", "slip")]),
    ("atoll_dns_rrl_total", &[("action", "drop")]),
    ("atoll_dht_rpcs_total", &[("rpc", "acquire"), ("result", "references")]),
    ("atoll_dht_rpcs_total", &[("rpc", "acquire"), ("result", "granted")]),
    ("atoll_dht_peers", &[("level", "0")]),
    ("atoll_peer_fetch_total", &[("result", "ok")]),
    ("atoll_config_last_reload_success", &[]),
    ("atoll_config_epoch", &[]),
    ("atoll_tls_cert_not_after_seconds", &[("name", "own.test")]),
    ("atoll_quota_bytes", &[("period", "day"), ("kind", "used")]),
    ("atoll_quota_bytes", &[("period", "day"), ("kind", "limit")]),
];

/// Promised as well, but counted only of what no test can have happen at will.
const RARE: &[&str] = &["atoll_peer_hedge_total", "atoll_purge_lag_seconds", "atoll_dht_lookup_seconds"];

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_that_operators_were_promised_is_there_with_its_labels() {
    let folder = tempfile::tempdir().unwrap();
    let origin = origin().await;
    let first = Process::start(&folder.path().join("first"), &config(&folder.path().join("first"), None, origin)).await;
    let seed = listening(&first.status().await.unwrap(), "overlay");
    let here = folder.path().join("second");
    std::fs::create_dir(&here).unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["own.test".to_owned()]).unwrap();
    std::fs::write(here.join("chain.pem"), made.cert.pem()).unwrap();
    std::fs::write(here.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let second = Process::start(&here, &config(&here, Some(&seed), origin)).await;
    let acquainted = async || {
        let status = second.status().await.unwrap_or_default();
        status["levels"][0]["neighbours"].as_array().is_some_and(|known| !known.is_empty())
    };
    eventually("the two know each other", acquainted).await;
    let status = second.status().await.unwrap();
    let at = |service: &str| -> SocketAddr { listening(&status, service).parse().unwrap() };
    let (http, dns) = (at("http"), at("dns"));
    let elsewhere: SocketAddr = listening(&first.status().await.unwrap(), "http").parse().unwrap();
    let coralized = format!("www.site.test.{}.nyud.example", origin.port());
    assert_eq!(get(elsewhere, &coralized, "/shared").await.unwrap().status, 200);
    busy(http, &coralized).await;
    let mut kept = TcpStream::connect(http).await.unwrap();
    kept.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    ask(dns);
    let socket = here.join("state/admin.sock");
    let store = here.join("store").display().to_string();
    let missing = async || {
        let page = page(&socket).await;
        // What a peer had to give may have been found at the origin, on a machine that does much else.
        let number = rand::random::<u32>();
        let path = format!("/shared?{number}");
        let _ = (get(elsewhere, &coralized, &path).await, get(http, &coralized, &path).await);
        ask(dns);
        let lacks = |(name, labels): &&(&str, &[(&str, &str)])| {
            let has = |(label, value): &(&str, &str)| {
                let value = if *value == "STORE" { &store } else { *value };
                format!("{label}=\"{value}\"")
            };
            let labels: Vec<_> = labels.iter().map(has).collect();
            !page.iter().any(|line| {
                let (series, value) = line.rsplit_once(' ').unwrap();
                series.split('{').next() == Some(name)
                    && labels.iter().all(|label| series.contains(label.as_str()))
                    && value.parse::<f64>().is_ok()
            })
        };
        PROMISED.iter().filter(lacks).map(|(name, labels)| format!("{name} {labels:?}")).collect::<Vec<_>>()
    };
    let left = std::sync::Mutex::new(Vec::new());
    let all = async || {
        let found = missing().await;
        let done = found.is_empty();
        *left.lock().unwrap() = found;
        done
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(100), eventually("all of them", all)).await;
    assert!(waited.is_ok(), "missing: {:?}", left.lock().unwrap());
    drop(kept);
}

/// Requests of all kinds.
async fn busy(http: SocketAddr, coralized: &str) {
    for (host, path, status) in [
        ("own.test", "/a", 200),
        ("own.test", "/a", 200),
        ("own.test", "/renewed", 200),
        ("own.test", "/renewed", 200),
        ("own.test", "/private", 200),
        (coralized, "/shared", 200),
        ("elsewhere.test", "/", 421),
        ("www.site.test.22.nyud.example", "/", 403),
        ("www.example.com.nyud.example", "/", 403),
        ("inside.wild.test.nyud.example", "/", 403),
    ] {
        assert_eq!(get(http, host, path).await.unwrap().status.as_u16(), status, "{host} {path}");
    }
    for request in [
        "POST /a HTTP/1.1\r\nHost: own.test\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi".to_owned(),
        "GET /\r\nHost: own.test\r\n\r\n".to_owned(),
        format!("GET /x HTTP/1.1\r\nHost: {coralized}\r\nConnection: close\r\nCDN-Loop: atoll-test\r\n\r\n"),
    ] {
        let mut stream = TcpStream::connect(http).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 "), "{request}");
    }
}

/// More questions at once than the rate allows.
fn ask(dns: SocketAddr) {
    let asker = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut question = vec![1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["www", "site", "test", "nyud", "example"] {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    for _ in 0..200 {
        asker.send_to(&question, dns).unwrap();
    }
}

/// The samples of `/metrics`.
async fn page(socket: &Path) -> Vec<String> {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    body.lines().filter(|line| line.starts_with("atoll_")).map(str::to_owned).collect()
}

fn config(folder: &Path, seed: Option<&str>, origin: SocketAddr) -> String {
    let bootstrap = seed.map_or_else(String::new, |seed| format!("bootstrap = [\"{seed}\"]\n"));
    let (here, port) = (folder.display(), origin.port());
    let certified = seed.map_or_else(String::new, |_| {
        format!(
            "listen_tls = [\"127.0.0.1:0\"]\ncertificates = [{{ certificate = \"{here}/chain.pem\", key = \"{here}/key.pem\" }}]\n"
        )
    });
    format!(
        "[node]\nroles = [\"dnssrv\", \"proxy\"]\nstate = \"{here}/state\"\nnetwork = \"test\"\nzone = \"nyud.example\"\n\
         addresses = [\"127.0.0.1\"]\n{bootstrap}\n[overlay]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\n\
         [dns]\nlisten = [\"127.0.0.1:0\"]\nmode = \"direct\"\n[dns.rate_limit]\nper_second = 5\nexempt = []\n\n\
         [store]\ndirectory = \"{here}/store\"\n\n\
         [proxy]\nlisten = [\"127.0.0.1:0\"]\n{certified}origins = [\"www.site.test:{port}\", \"*.wild.test\"]\n\
         [proxy.hosts]\n\"www.site.test\" = [\"127.0.0.1\"]\n\"inside.wild.test\" = [\"10.0.0.1\"]\n\
         [proxy.sites.\"own.test\"]\norigin = \"http://{origin}\"\n\
         [proxy.peers]\nhedge = \"5s\"\nnear = \"5s\"\n[proxy.fairness.node]\ndaily = \"1GiB\"\n\n\
         [admin]\nlisten = []\n"
    )
}

/// An origin whose `/renewed` is to be asked about each time, and whose `/private` is for one.
async fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(converse(stream));
        }
    });
    address
}

async fn converse(mut stream: TcpStream) {
    let mut buffer = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut buffer).await {
        let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        buffer.clear();
        let fields = match head.split(' ').nth(1) {
            Some("/renewed") => "Cache-Control: max-age=0",
            Some("/private") => "Cache-Control: no-store",
            _ => "Cache-Control: max-age=3600",
        };
        let answer = if head.contains("if-none-match") {
            format!("HTTP/1.1 304 Not Modified\r\n{fields}\r\nETag: \"a\"\r\n\r\n")
        } else {
            format!("HTTP/1.1 200 OK\r\n{fields}\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\nhello")
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[test]
fn what_is_counted_is_documented_and_what_is_documented_is_counted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut counted = BTreeMap::new();
    for folder in ["src", "proxy/src", "dnssrv/src", "store/src"] {
        sources(&root.join(folder), &mut counted);
    }
    assert!(counted.len() > 50, "{}", counted.len());
    let text = std::fs::read_to_string(root.join("docs/metrics.md")).unwrap();
    let documented: BTreeSet<_> = names(&text).collect();
    for (name, file) in &counted {
        assert!(documented.contains(name), "{name}, which {} counts, is not in docs/metrics.md", file.display());
    }
    for name in &documented {
        assert!(counted.contains_key(name), "nothing counts {name}, which docs/metrics.md has");
    }
    let promised = PROMISED.iter().map(|(name, _)| name.trim_end_matches("_count")).chain(RARE.iter().copied());
    for name in promised {
        assert!(documented.contains(name), "{name} is promised");
    }
}

/// The metrics of all source files of a folder, tests apart, with the file that names them.
fn sources(folder: &Path, found: &mut BTreeMap<String, PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
            continue;
        }
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        if !file.ends_with(".rs") || file.contains("test") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for quoted in code.split('"').filter(|part| part.starts_with("atoll_")) {
            if names(quoted).next().as_deref() == Some(quoted) {
                found.insert(quoted.to_owned(), path.clone());
            }
        }
    }
}

/// The words that look like a metric's name.
fn names(text: &str) -> impl Iterator<Item = String> + '_ {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
    words.filter(|word| word.starts_with("atoll_") && !CRATES.contains(word)).map(str::to_owned)
}

/// Crates of ours.
const CRATES: [&str; 8] = [
    "atoll_overlay",
    "atoll_dnssrv",
    "atoll_proxy",
    "atoll_store",
    "atoll_sys",
    "atoll_tls",
    "atoll_units",
    "atoll_bench",
];
