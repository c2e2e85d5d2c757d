//! Nodes, origins and clients for the whole-node tests: real processes of the program on loopback, each in a folder of its own,
//! all ports picked by the system. Whatever a test starts ends with it, by pid.

use std::{
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

/// How long a test waits for a condition before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until a condition holds; fails the test with its name if it does not within [`PATIENCE`].
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within {PATIENCE:?}: {what}");
}

/// One process of `atoll node`.
pub(crate) struct Process {
    child: Child,
    folder: PathBuf,
    log: PathBuf,
}

impl Process {
    /// Writes the configuration and starts a node; returns once its admin socket answers.
    pub(crate) async fn start(folder: &Path, config: &str) -> Self {
        Self::start_with(Command::new(env!("CARGO_BIN_EXE_atoll")), folder, config).await
    }

    /// The same with a command in front, such as one that enters a namespace.
    pub(crate) async fn start_with(mut command: Command, folder: &Path, config: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let file = folder.join("atoll.toml");
        std::fs::write(&file, config).unwrap();
        let log = folder.join("log");
        let output = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        command.arg("node").arg("--config").arg(&file);
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let process = Self { child: command.spawn().unwrap(), folder: folder.to_owned(), log };
        let deadline = Instant::now() + PATIENCE;
        while process.status().await.is_none() {
            assert!(Instant::now() < deadline, "the node did not come up:\n{}", process.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        process
    }

    /// `/status` by the admin socket.
    pub(crate) async fn status(&self) -> Option<serde_json::Value> {
        self.asked("/status").await
    }

    /// What the admin socket says to a path.
    pub(crate) async fn admin(&self, path: &str) -> serde_json::Value {
        self.asked(path).await.unwrap_or_else(|| panic!("no {path}:\n{}", self.log()))
    }

    async fn asked(&self, path: &str) -> Option<serde_json::Value> {
        ask_socket(&self.folder.join("state/admin.sock"), path).await
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// The most memory it ever had resident, in bytes. Linux only; elsewhere none.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::File::open(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = BufReader::new(status).lines().map_while(Result::ok).find(|line| line.starts_with("VmHWM:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An origin that counts its requests and can be slow.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    /// What was asked for, in turn.
    targets: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Origin {
    /// Serves one body under every path, at most so many bytes a second to each connection.
    pub(crate) async fn start(body: Bytes, bytes_per_second: u64) -> Self {
        Self::start_with(|_| body, bytes_per_second).await
    }

    /// The same with a body that may name the origin.
    pub(crate) async fn start_with(body: impl FnOnce(SocketAddr) -> Bytes, bytes_per_second: u64) -> Self {
        Self::start_at_pace(body, Pace::Rate(bytes_per_second)).await
    }

    /// Serves one body under every path; whoever asks first for a path gets so many bytes of it, and never another.
    pub(crate) async fn start_halting(body: Bytes, bytes: usize) -> Self {
        Self::start_at_pace(|_| body, Pace::HaltsFirst(bytes)).await
    }

    async fn start_at_pace(body: impl FnOnce(SocketAddr) -> Bytes, pace: Pace) -> Self {
        let listener = loop {
            let port = rand::random_range(8_000..9_000);
            if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                break listener;
            }
        };
        let address = listener.local_addr().unwrap();
        let body = body(address);
        let targets = Arc::new(Mutex::default());
        let asked = Arc::clone(&targets);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(converse(stream, body.clone(), pace, Arc::clone(&asked)));
            }
        });
        Self { address, targets, _tasks: tasks }
    }

    /// GET requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.targets.lock().unwrap().len() as u64
    }

    /// Those for one path and query.
    pub(crate) fn requests_of(&self, target: &str) -> usize {
        self.targets.lock().unwrap().iter().filter(|asked| *asked == target).count()
    }
}

/// How an origin sends its body.
#[derive(Clone, Copy)]
enum Pace {
    /// So many bytes a second at most.
    Rate(u64),
    /// So many bytes to the first who asks for a path, and all to the others.
    HaltsFirst(usize),
}

async fn converse(mut stream: TcpStream, body: Bytes, pace: Pace, targets: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let Ok(count @ 1..) = stream.read(&mut buffer).await else { return };
        head.extend_from_slice(&buffer[..count]);
        let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let asked = String::from_utf8(head.drain(..end + 4).collect()).unwrap();
        let target = asked.split(' ').nth(1).unwrap().to_owned();
        let is_first = {
            let mut targets = targets.lock().unwrap();
            let known = targets.contains(&target);
            targets.push(target);
            !known
        };
        let text = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nCache-Control: max-age=3600\r\nETag: \"one\"\r\n\r\n",
            body.len()
        );
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
        let rate = match pace {
            Pace::Rate(rate) => rate,
            Pace::HaltsFirst(bytes) => {
                if stream.write_all(if is_first { &body[..bytes] } else { &body }).await.is_err() {
                    return;
                }
                if is_first {
                    std::future::pending::<()>().await;
                }
                continue;
            }
        };
        let start = Instant::now();
        let mut sent = 0_u64;
        for piece in body.chunks(16 * 1024) {
            sent += piece.len() as u64;
            if stream.write_all(piece).await.is_err() {
                return;
            }
            sleep_until(start + Duration::from_secs_f64(sent as f64 / rate as f64)).await;
        }
    }
}

/// What an admin socket says to a path, if it answers.
pub(crate) async fn ask_socket(socket: &Path, path: &str) -> Option<serde_json::Value> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let request = Request::get(path).header(header::HOST, "localhost").body(Empty::<Bytes>::new()).unwrap();
    let answer = timeout(Duration::from_secs(5), exchange(stream, request)).await.ok()?.ok()?;
    (answer.status == StatusCode::OK).then(|| serde_json::from_slice(&answer.body).unwrap())
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Asks a proxy for a path of a host.
pub(crate) async fn get(proxy: SocketAddr, host: &str, path: &str) -> Result<Answer, BoxedError> {
    let stream = TcpStream::connect(proxy).await?;
    let request = Request::get(path).header(header::HOST, host).body(Empty::<Bytes>::new())?;
    exchange(stream, request).await
}

/// Asks for a path with fields of the request's own.
pub(crate) async fn get_with(to: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Result<Answer, BoxedError> {
    ask(Method::GET, to, path, fields).await
}

/// Posts nothing to a path.
pub(crate) async fn post(to: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Result<Answer, BoxedError> {
    ask(Method::POST, to, path, fields).await
}

async fn ask(method: Method, to: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Result<Answer, BoxedError> {
    let stream = TcpStream::connect(to).await?;
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, to.to_string());
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    exchange(stream, request.body(Empty::<Bytes>::new())?).await
}

/// Asks a proxy for a path of a host and keeps only the digest of the body, so that a crowd fits into memory.
pub(crate) async fn digest(proxy: SocketAddr, host: &str, path: &str) -> Result<String, String> {
    let fetch = async {
        let stream = TcpStream::connect(proxy).await?;
        let request = Request::get(path).header(header::HOST, host).body(Empty::<Bytes>::new())?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let mut response = sender.send_request(request).await?;
        let mut hasher = blake3::Hasher::new();
        while let Some(frame) = response.body_mut().frame().await {
            if let Ok(data) = frame?.into_data() {
                hasher.update(&data);
            }
        }
        driver.abort();
        Ok::<_, BoxedError>(format!("{} {}", response.status().as_u16(), hasher.finalize()))
    };
    fetch.await.map_err(|error| error.to_string())
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<Answer, BoxedError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    driver.abort();
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

/// Nodes that form one network in front of one origin.
pub(crate) struct Network {
    pub(crate) nodes: Vec<Node>,
    /// The Coralized name of the origin.
    pub(crate) host: String,
}

/// One of them.
pub(crate) struct Node {
    pub(crate) process: Process,
    /// Where its proxy listens.
    pub(crate) http: SocketAddr,
}

impl Network {
    /// Starts so many nodes, each in its own folder, and waits until everybody knows everybody.
    pub(crate) async fn start(folder: &Path, count: usize, origin: &Origin) -> Self {
        Self::before(folder, count, origin.address).await
    }

    /// The same for an origin at this address.
    pub(crate) async fn before(folder: &Path, count: usize, origin: SocketAddr) -> Self {
        let mut nodes = Vec::new();
        let mut seed = None;
        for number in 0..count {
            let node = Node::start(&folder.join(format!("node{number}")), seed.as_deref(), origin).await;
            if seed.is_none() {
                seed = Some(listening(&node.process.status().await.unwrap(), "overlay"));
            }
            nodes.push(node);
        }
        let network = Self { nodes, host: format!("www.site.test.{}.nyud.example", origin.port()) };
        let acquainted = async || {
            for node in &network.nodes {
                let status = node.process.status().await.unwrap_or_default();
                if status["levels"][0]["neighbours"].as_array().map_or(0, Vec::len) + 1 < count {
                    return false;
                }
            }
            true
        };
        eventually("every node knows every other", acquainted).await;
        network
    }

    /// A node of the network that had ended, started again in its folder; it finds the others by one that runs.
    pub(crate) async fn again(&self, folder: &Path, number: usize, origin: SocketAddr) -> Node {
        let mut seed = None;
        for node in &self.nodes {
            if let Some(status) = node.process.status().await {
                seed = Some(listening(&status, "overlay"));
            }
        }
        Node::start(&folder.join(format!("node{number}")), seed.as_deref(), origin).await
    }

    /// How many nodes have a fetch under way.
    pub(crate) async fn streaming(&self) -> usize {
        let mut streaming = 0;
        for node in &self.nodes {
            let status = node.process.status().await.unwrap_or_default();
            streaming += usize::from(status["proxy"]["flights"].as_u64().unwrap_or(0) > 0);
        }
        streaming
    }

    /// Every node's log, for the message of a failed test.
    pub(crate) fn logs(&self) -> String {
        let logs =
            self.nodes.iter().enumerate().map(|(number, node)| format!("--- node {number}\n{}", node.process.log()));
        logs.collect()
    }
}

impl Node {
    async fn start(folder: &Path, seed: Option<&str>, origin: SocketAddr) -> Self {
        let process = Process::start(folder, &config(folder, seed, origin)).await;
        let status = process.status().await.unwrap();
        Self { process, http: listening(&status, "http").parse().unwrap() }
    }
}

/// A proxy on loopback that may fetch from this origin. On a busy machine a good peer may take long, and would cost an origin request.
fn config(folder: &Path, seed: Option<&str>, origin: SocketAddr) -> String {
    let bootstrap = seed.map_or_else(String::new, |seed| format!("bootstrap = [\"{seed}\"]\n"));
    format!(
        "[node]\nroles = [\"proxy\"]\nstate = \"{}/state\"\nnetwork = \"test\"\nzone = \"nyud.example\"\n\
         addresses = [\"127.0.0.1\"]\ndrain_wait = \"0s\"\n{bootstrap}\n\
         [overlay]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\n\
         [proxy]\nlisten = [\"127.0.0.1:0\"]\norigins = [\"www.site.test:{}\"]\n\
         [proxy.hosts]\n\"www.site.test\" = [\"{}\"]\n\n\
         [proxy.peers]\nhedge = \"5s\"\nnear = \"5s\"\n\n\
         [admin]\nlisten = [\"127.0.0.1:0\"]\n",
        folder.display(),
        origin.port(),
        origin.ip(),
    )
}

/// The first address of a service in a status.
pub(crate) fn listening(status: &serde_json::Value, service: &str) -> String {
    let all = status["listen"].as_array().unwrap();
    let of_service = all.iter().find(|listen| listen["service"] == service);
    of_service.unwrap_or_else(|| panic!("no {service} in {all:?}"))["address"].as_str().unwrap().to_owned()
}
