//! What a manager costs: redirects per CPU-second beside nginx's `return 302`, files that it serves itself beside the proxy's own
//! listener, and memory with ten thousand idle clients and a thousand peers. The peers are simulated: they join, beat and say who they are, and serve nothing.
//!
//! ```text
//!   server on core 0 <--GET, keep-alive-- clients on core 1      requests / CPU-seconds of the server
//! ```

mod alone;
mod peers;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};

use crate::{
    cache::atoll,
    process::{Process, pin},
    report::{Report, Row},
    rounds::median,
};

/// What is measured.
#[derive(Args)]
pub(crate) struct Options {
    /// Measure only this part
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Redirects, and memory.
    Leading,
    /// Files that a manager without peers serves.
    Alone,
}

/// Runs it.
pub(crate) fn run(options: &Options) -> Result<Report, String> {
    let mut report = Report::new("manager: redirects, files served alone, and memory");
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    if options.only != Some(Part::Alone) {
        leading(&mut report, folder.path())?;
    }
    if options.only != Some(Part::Leading) {
        alone::rows(&mut report, folder.path())?;
    }
    Ok(report)
}

fn leading(report: &mut Report, folder: &Path) -> Result<(), String> {
    let origin = origin()?;
    let manager = Manager::start(folder, origin)?;
    let nginx = Nginx::start(folder);
    let few = peers::Peers::join(manager.address, 3, 1)?;
    manager.wait_until_leading()?;
    let figures = redirects(&manager, nginx.as_ref().ok())?;
    match &nginx {
        Ok(_) => {
            report.add(Row::new("redirects_3_peers", figures.0, "/cpu-s").against("nginx", figures.1));
        }
        Err(why) => {
            report.note(format!("nginx is not measured: {why}"));
            report.add(Row::new("redirects_3_peers", figures.0, "/cpu-s"));
        }
    }
    let empty = manager.process.resident()?;
    let many = peers::Peers::join(manager.address, PEERS - 3, 4)?;
    thread::sleep(SETTLE);
    let with_peers = manager.process.resident()?;
    report.add(Row::new("redirects_1000_peers", redirects(&manager, None)?.0, "/cpu-s"));
    let before = manager.process.resident()?;
    let idle = idle_clients(manager.address)?;
    thread::sleep(SETTLE);
    let with_clients = manager.process.resident()?;
    report.add(Row::new("resident_3_peers", empty / MIB, "MiB"));
    report.add(Row::new("resident_1000_peers", with_peers / MIB, "MiB"));
    #[expect(clippy::cast_precision_loss, reason = "ten thousand")]
    let each = (with_clients - before) / idle.len() as f64 / 1024.0;
    report.add(Row::new("resident_10000_idle_clients_1000_peers", with_clients / MIB, "MiB"));
    report.add(Row::new("idle_client", each, "KiB"));
    report.note(format!(
        "server on core 0, {CONNECTIONS} keep-alive clients on core 1; medians of {ROUNDS} rounds, interleaved; the figure is requests \
         per second of the server's own CPU time, so more is better; the peers' beats are in it"
    ));
    drop((idle, few, many));
    Ok(())
}

/// Ours and, if it runs, nginx's.
fn redirects(manager: &Manager, nginx: Option<&Nginx>) -> Result<(f64, f64), String> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(one_round(&manager.process, manager.address)?);
        if let Some(nginx) = nginx {
            theirs.push(one_round(&nginx.process, nginx.address)?);
        }
    }
    Ok((median(&mut ours), median(&mut theirs)))
}

/// Requests per CPU-second of a server.
fn one_round(server: &Process, address: SocketAddr) -> Result<f64, String> {
    let before = server.cpu_seconds()?;
    let clients: Vec<_> = (0..CONNECTIONS).map(|client| thread::spawn(move || ask_many(address, client))).collect();
    for client in clients {
        client.join().map_err(|_| "a client broke off".to_owned())??;
    }
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let requests = (CONNECTIONS * REQUESTS) as f64;
    Ok(requests / (server.cpu_seconds()? - before))
}

fn ask_many(address: SocketAddr, client: usize) -> Result<(), String> {
    // The thread's own id: Linux pins threads by it.
    pin(nix::unistd::gettid().as_raw().unsigned_abs(), &[1])?;
    let broke = |error: std::io::Error| format!("{address}: {error}");
    let mut stream = TcpStream::connect(address).map_err(broke)?;
    stream.set_nodelay(true).map_err(broke)?;
    let mut buffer = [0; 4096];
    for number in 0..REQUESTS {
        let request = format!("GET /files/{client}/{number} HTTP/1.1\r\nHost: bench\r\n\r\n");
        stream.write_all(request.as_bytes()).map_err(broke)?;
        let answer = read_answer(&mut stream, &mut buffer).map_err(broke)?;
        if !answer.starts_with("HTTP/1.1 302") {
            return Err(format!("{address} does not redirect: {}", answer.lines().next().unwrap_or_default()));
        }
    }
    Ok(())
}

/// The head of one answer; its body is read and dropped.
fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<String> {
    let mut seen = Vec::new();
    loop {
        let count = stream.read(buffer)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        seen.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let text = String::from_utf8_lossy(&seen).into_owned();
        let Some(end) = text.find("\r\n\r\n") else { continue };
        let lower = text.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")).and_then(|n| n.parse().ok());
        if seen.len() >= end + 4 + length.unwrap_or(0_usize) {
            return Ok(text);
        }
    }
}

/// Clients that asked once and keep their connection.
fn idle_clients(address: SocketAddr) -> Result<Vec<TcpStream>, String> {
    let broke = |error: std::io::Error| format!("an idle client: {error}");
    let mut idle = Vec::with_capacity(IDLE);
    let mut buffer = [0; 4096];
    for _ in 0..IDLE {
        let mut stream = TcpStream::connect(address).map_err(broke)?;
        stream.write_all(b"GET /files/idle HTTP/1.1\r\nHost: bench\r\n\r\n").map_err(broke)?;
        read_answer(&mut stream, &mut buffer).map_err(broke)?;
        idle.push(stream);
    }
    Ok(idle)
}

/// A backend that answers everything with one byte.
fn origin() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            // A client that breaks off is its own concern.
            let _ = stream.read(&mut head);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nCache-Control: max-age=3600\r\nConnection: close\r\n\r\nx",
            );
        }
    });
    Ok(address)
}

struct Manager {
    process: Process,
    address: SocketAddr,
}

impl Manager {
    fn start(folder: &Path, origin: SocketAddr) -> Result<Self, String> {
        let program = atoll()?;
        let address = free_port()?;
        let mut command = Command::new(program);
        command.args(["manager", "--origin", &format!("http://{origin}"), "--listen", &address.to_string()]);
        command
            .args(["--token", peers::TOKEN, "--uses", "100000", "--log", "none", "--state"])
            .arg(folder.join("manager"));
        let process = Process::spawn(&mut command, &[0])?;
        wait_for(address)?;
        Ok(Self { process, address })
    }

    fn wait_until_leading(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = [0; 4096];
        while Instant::now() < deadline {
            let mut stream = TcpStream::connect(self.address).map_err(|error| error.to_string())?;
            stream.write_all(b"GET /x HTTP/1.1\r\nHost: bench\r\n\r\n").map_err(|error| error.to_string())?;
            let answer = read_answer(&mut stream, &mut buffer).map_err(|error| error.to_string())?;
            if answer.starts_with("HTTP/1.1 302") {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Err("the manager leads nobody to the peers".to_owned())
    }
}

struct Nginx {
    process: Process,
    address: SocketAddr,
}

impl Nginx {
    fn start(folder: &Path) -> Result<Self, String> {
        let address = free_port()?;
        let config = folder.join("nginx.conf");
        let text = format!(
            "daemon off;\nworker_processes 1;\npid {0}/nginx.pid;\nerror_log /dev/null;\nevents {{ worker_connections 1024; }}\n\
             http {{ access_log off; keepalive_requests 1000000;\nclient_body_temp_path {0}/t; proxy_temp_path {0}/t; \
             fastcgi_temp_path {0}/t; uwsgi_temp_path {0}/t; scgi_temp_path {0}/t;\n\
             server {{ listen {address}; location / {{ return 302 http://127.1.0.1:5001$request_uri; }} }} }}\n",
            folder.display()
        );
        fs::write(&config, text).map_err(|error| error.to_string())?;
        let mut command = Command::new("nginx");
        let process = Process::spawn(command.arg("-p").arg(folder).arg("-c").arg(&config), &[0])?;
        wait_for(address)?;
        Ok(Self { process, address })
    }
}

fn free_port() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    listener.local_addr().map_err(|error| error.to_string())
}

fn wait_for(address: SocketAddr) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        if Instant::now() > deadline {
            return Err(format!("nobody listens at {address}"));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

const ROUNDS: usize = 5;
const CONNECTIONS: usize = 8;
/// Of each client in a round.
const REQUESTS: usize = 2_500;
const PEERS: usize = 1_000;
const IDLE: usize = 10_000;
const MIB: f64 = 1024.0 * 1024.0;
/// For the manager to find what has just joined, and for its memory to settle.
const SETTLE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);
