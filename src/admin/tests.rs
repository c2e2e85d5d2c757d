//! The admin API as a client meets it: over real sockets, by raw bytes.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;
use crate::{
    state::State,
    status::{Status, StatusSource},
};

/// A node that can be drained and does nothing else.
#[derive(Default)]
struct Node {
    draining: AtomicBool,
}

impl StatusSource for Node {
    fn status(&self) -> Status {
        Status { id: "an-id".to_owned(), draining: self.draining.load(Ordering::Relaxed), ..Status::default() }
    }

    fn explain(&self, name: &str, from: std::net::IpAddr) -> Option<Vec<String>> {
        (name != "no name").then(|| vec![format!("{name} for {from}")])
    }

    fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn stop_now(&self) {
        self.drain();
    }
}

/// An admin API on a free port and on a socket in a temporary folder.
struct Bench {
    admin: Admin,
    token: String,
    node: Arc<Node>,
    _folder: TempDir,
}

impl Bench {
    async fn start(change: impl FnOnce(&mut AdminConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(&folder.path().join("state")).unwrap();
        let mut config = AdminConfig {
            socket: folder.path().join("admin.sock"),
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            ..AdminConfig::default()
        };
        change(&mut config);
        let node = Arc::new(Node::default());
        let admin = Admin::start(&config, &state, node.clone()).await.unwrap();
        let token = std::fs::read_to_string(admin.token_path().unwrap()).unwrap().trim().to_owned();
        Self { admin, token, node, _folder: folder }
    }

    /// Sends raw bytes over TCP, HERE and TOKEN filled in, and reads to the end.
    async fn tcp(&self, request: &str) -> String {
        let address = self.admin.addresses()[0];
        let request = request.replace("HERE", &address.to_string()).replace("TOKEN", &self.token);
        exchange(TcpStream::connect(address).await.unwrap(), request.as_bytes()).await
    }

    /// A whole request with the token.
    async fn ask(&self, line: &str) -> String {
        self.tcp(&format!("{line} HTTP/1.1\r\nHost: HERE\r\nAuthorization: Bearer TOKEN\r\nConnection: close\r\n\r\n"))
            .await
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> String {
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // A server that closes on unread bytes resets the connection after its answer: what came before it counts.
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "no end of {:?}", String::from_utf8_lossy(&answer));
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn with_the_token_the_node_tells_how_it_is() {
    let bench = Bench::start(|_| {}).await;
    let health = bench.ask("GET /health").await;
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("{\"status\":\"ok\"}"), "{health}");
    let status = bench.ask("GET /status").await;
    assert!(status.contains("application/json") && status.contains("\"id\":\"an-id\""), "{status}");
    let metrics = bench.ask("GET /metrics").await;
    assert!(
        metrics.contains("text/plain; version=0.0.4") && metrics.contains("\natoll_uptime_seconds 0\n"),
        "{metrics}"
    );
    let head = bench.ask("HEAD /status").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn a_drain_turns_health_red_at_once() {
    let bench = Bench::start(|_| {}).await;
    let answer = bench.ask("POST /drain").await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    assert!(bench.node.draining.load(Ordering::Relaxed));
    assert!(bench.ask("GET /health").await.starts_with("HTTP/1.1 503"));
}

#[tokio::test]
async fn without_the_token_tcp_tells_nothing_and_does_nothing() {
    let bench = Bench::start(|_| {}).await;
    for line in ["GET /status", "GET /health", "GET /metrics", "GET /nothing", "POST /drain"] {
        for authorization in ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic TOKEN\r\n"] {
            let answer =
                bench.tcp(&format!("{line} HTTP/1.1\r\nHost: HERE\r\n{authorization}Connection: close\r\n\r\n")).await;
            assert!(
                answer.starts_with("HTTP/1.1 401") && answer.contains("www-authenticate: Bearer"),
                "{line}: {answer}"
            );
            assert!(!answer.contains("an-id"), "{answer}");
        }
    }
    assert!(!bench.node.draining.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_foreign_name_or_page_is_turned_away() {
    let bench = Bench::start(|config| config.hosts = vec!["atoll.test".to_owned()]).await;
    for (host, more) in
        [("evil.example", ""), ("HERE", "Origin: http://evil.example\r\n"), ("HERE", "Sec-Fetch-Site: cross-site\r\n")]
    {
        let request = format!(
            "POST /drain HTTP/1.1\r\nHost: {host}\r\n{more}Authorization: Bearer TOKEN\r\nConnection: close\r\n\r\n"
        );
        let answer = bench.tcp(&request).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{host} {more}: {answer}");
    }
    assert!(!bench.node.draining.load(Ordering::Relaxed));
    let named = "GET /health HTTP/1.1\r\nHost: atoll.test\r\nAuthorization: Bearer TOKEN\r\nConnection: close\r\n\r\n";
    assert!(bench.tcp(named).await.starts_with("HTTP/1.1 200"));
    assert!(
        bench
            .tcp("GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 403")
    );
}

#[tokio::test]
async fn an_unknown_path_and_a_wrong_method_are_told_apart() {
    let bench = Bench::start(|_| {}).await;
    for path in ["/nothing", "/status/", "/../../etc/passwd", "/%2e%2e/etc/passwd", "/dashboard.html", "//status"] {
        let answer = bench.ask(&format!("GET {path}")).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
    let wrong = bench.ask("GET /drain").await;
    assert!(wrong.starts_with("HTTP/1.1 405") && wrong.contains("\r\nallow: POST\r\n"), "{wrong}");
    let wrong = bench.ask("DELETE /status").await;
    assert!(wrong.starts_with("HTTP/1.1 405") && wrong.contains("\r\nallow: GET, HEAD\r\n"), "{wrong}");
    assert!(!bench.node.draining.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let bench = Bench::start(|config| config.body_limit = 1_000).await;
    let head = "POST /drain HTTP/1.1\r\nHost: HERE\r\nAuthorization: Bearer TOKEN\r\nConnection: close\r\n";
    let announced = bench.tcp(&format!("{head}Content-Length: 1073741824\r\n\r\n")).await;
    assert!(announced.starts_with("HTTP/1.1 413"), "{announced}");
    let chunked =
        bench.tcp(&format!("{head}Transfer-Encoding: chunked\r\n\r\n3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1_001))).await;
    assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
    assert!(!bench.node.draining.load(Ordering::Relaxed));
    let small = bench.tcp(&format!("{head}Content-Length: 1000\r\n\r\n{}", "x".repeat(1_000))).await;
    assert!(small.starts_with("HTTP/1.1 202"), "{small}");
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let bench = Bench::start(|config| {
        config.connections = 1;
        config.head_timeout = Duration::from_millis(100);
    })
    .await;
    let address = bench.admin.addresses()[0];
    let _silent = TcpStream::connect(address).await.unwrap();
    let _slow = {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /health HT").await.unwrap();
        stream
    };
    // Behind both in the queue of the one slot: served once they are gone.
    assert!(bench.ask("GET /health").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_page_needs_no_token_holds_none_and_runs_only_its_own_script() {
    let bench = Bench::start(|_| {}).await;
    let get = "GET / HTTP/1.1\r\nHost: HERE\r\nConnection: close\r\n\r\n";
    let (first, second) = (bench.tcp(get).await, bench.tcp(get).await);
    assert!(first.starts_with("HTTP/1.1 200") && first.contains("text/html"), "{first}");
    assert!(!first.contains(&bench.token) && !first.contains("NONCE"));
    let policy = |page: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
        line.trim().to_owned()
    };
    assert!(policy(&first).starts_with("default-src 'none'; script-src 'nonce-"), "{}", policy(&first));
    assert!(!policy(&first).contains("unsafe"));
    assert_ne!(policy(&first), policy(&second));
    let nonce = policy(&first).split('\'').find_map(|word| word.strip_prefix("nonce-").map(str::to_owned)).unwrap();
    assert_eq!(first.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
    // Nothing from outside, and nothing foreign ever parsed as markup.
    for banned in [
        "http://",
        "https://",
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "src=",
        "@import",
        "url(",
    ] {
        assert!(!include_str!("dashboard.html").contains(banned), "{banned}");
    }
    let url = bench.admin.dashboard_url().unwrap();
    assert_eq!(url, format!("http://{}/#token={}", bench.admin.addresses()[0], bench.token));
}

#[cfg(unix)]
#[tokio::test]
async fn the_socket_is_its_owners_and_needs_no_token() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::start(|_| {}).await;
    let socket = bench.admin.socket().unwrap().to_owned();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fetch_status(&socket).await.unwrap().id, "an-id");
    bench.admin.stop().await;
    assert!(!socket.exists());
    assert!(matches!(fetch_status(&socket).await, Err(ClientError::Unreachable { .. })));
}

#[cfg(unix)]
#[tokio::test]
async fn a_socket_left_by_a_dead_node_is_taken_over_a_living_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(&folder.path().join("state")).unwrap();
    let config = AdminConfig { socket: folder.path().join("admin.sock"), ..AdminConfig::default() };
    // A dead node's: bound, then dropped without being removed.
    drop(std::os::unix::net::UnixListener::bind(&config.socket).unwrap());
    let living = Admin::start(&config, &state, Arc::new(Node::default())).await.unwrap();
    let error = Admin::start(&config, &state, Arc::new(Node::default())).await.unwrap_err().to_string();
    assert!(error.contains("a node that is running answers there"), "{error}");
    assert!(fetch_status(&config.socket).await.is_ok());
    living.stop().await;
    std::fs::write(&config.socket, b"precious").unwrap();
    let error = Admin::start(&config, &state, Arc::new(Node::default())).await.unwrap_err().to_string();
    assert!(error.contains("something that is no socket"), "{error}");
    assert_eq!(std::fs::read(&config.socket).unwrap(), b"precious");
}

#[tokio::test]
async fn a_used_port_is_told_with_its_holder() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(folder.path()).unwrap();
    let config = AdminConfig { listen: vec![held.local_addr().unwrap()], ..AdminConfig::default() };
    let error = Admin::start(&config, &state, Arc::new(Node::default())).await.unwrap_err().to_string();
    assert!(error.contains(&format!("TCP port {}", held.local_addr().unwrap().port())), "{error}");
    #[cfg(target_os = "linux")]
    assert!(error.contains(&std::process::id().to_string()), "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_name_is_explained_for_a_client_and_what_is_no_name_is_refused() {
    let bench = Bench::start(|_| {}).await;
    let socket = bench.admin.socket().unwrap().to_owned();
    let ask = async |path: &str| fetch_lines(&socket, path).await;
    let lines = ask("/explain?name=a%2Eexample&from=2001:db8::1").await.unwrap();
    assert_eq!(lines, ["a.example for 2001:db8::1"]);
    for wrong in
        ["/explain", "/explain?name=a.example", "/explain?name=%2&from=::1", "/explain?name=no%20name&from=::1"]
    {
        assert!(ask(wrong).await.is_err(), "{wrong}");
    }
}
