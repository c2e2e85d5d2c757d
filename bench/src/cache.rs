//! `bench cache`: `atoll cache` beside nginx. Each server has the first core, the load generator the second; objects of 24 KB in
//! the mean, popularity by Zipf 0.9. Both keep an access log, buffered.
//!
//! * `hot`: the set fits Atoll's RAM tier; nginx serves the same files from the page cache, with sendfile and its file cache on.
//! * `disk`: the set is four times Atoll's RAM tier; nginx holds it in proxy_cache, filled before, from an origin of its own.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    load::{Load, Outcome, Target},
    process::{self, Process},
    report::{Report, Row},
    rounds::median,
};

/// Adds the rows of both scenarios to a report.
pub(crate) fn rows(report: &mut Report) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let atoll = atoll()?;
    scenario(report, &Scenario { name: "hot", objects: 2_000, memory_mib: 256 }, &atoll, &folder.path().join("hot"))?;
    scenario(report, &Scenario { name: "disk", objects: 11_000, memory_mib: 64 }, &atoll, &folder.path().join("disk"))?;
    report.note(format!(
        "one core serves, another asks over {CONNECTIONS} connections; {ROUNDS} interleaved rounds of {REQUESTS} requests, medians"
    ));
    Ok(())
}

/// The bench as a whole.
pub(crate) fn bench() -> Result<Report, String> {
    let mut report = Report::new("cache: GET of 24 KB in the mean, beside nginx");
    rows(&mut report)?;
    Ok(report)
}

struct Scenario {
    name: &'static str,
    objects: u64,
    memory_mib: u64,
}

/// A server under measurement and what the rounds found.
struct Contender {
    name: String,
    process: Process,
    address: SocketAddr,
    /// Microseconds of CPU a request, requests a second, and the latency of 99 of 100.
    found: [Vec<f64>; 3],
}

fn scenario(report: &mut Report, scenario: &Scenario, atoll: &Path, folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder.join("files/1")).map_err(|error| error.to_string())?;
    let targets: Vec<Target> = (1..=scenario.objects).map(target).collect();
    let mut ours = start_atoll(atoll, scenario, folder)?;
    let mut filler = Filler::connect(ours.address)?;
    for (target, id) in targets.iter().zip(1..) {
        let body = body(id, target.length);
        fs::write(folder.join("files").join(format!("1/{id}")), &body).map_err(|error| error.to_string())?;
        filler.put(&target.path, &body)?;
    }
    let mut peers = Vec::new();
    match start_nginx(scenario, folder) {
        Ok(nginx) => peers.push(nginx),
        Err(error) => report.note(format!("nginx is left out: {error}")),
    }
    // Filled, warm and checked, whole, before anything is measured.
    for contender in std::iter::once(&ours).chain(&peers) {
        let once = Load { requests: 2 * scenario.objects, zipf: 0.0, ..load(contender.address, &targets, 1) };
        for load in [Load { requests: REQUESTS / 2, ..load(contender.address, &targets, 1) }, once] {
            contender.run(&load)?;
        }
    }
    for round in 0..ROUNDS {
        for contender in std::iter::once(&mut ours).chain(&mut peers) {
            let before = contender.process.cpu_seconds()?;
            let outcome = contender.run(&load(contender.address, &targets, round + 2))?;
            let used = contender.process.cpu_seconds()? - before;
            let found = [used * 1e6 / (outcome.rate() * outcome.seconds), outcome.rate(), outcome.percentile(0.99)];
            contender.found.iter_mut().zip(found).for_each(|(all, one)| all.push(one));
        }
    }
    for (at, (what, unit)) in [("cpu", "us"), ("rate", "/s"), ("p99", "us")].into_iter().enumerate() {
        let mut row = Row::new(&format!("cache_{}_24k_{what}", scenario.name), median(&mut ours.found[at]), unit);
        for peer in &mut peers {
            row = row.against("nginx", median(&mut peer.found[at]));
        }
        report.add(row);
    }
    Ok(())
}

fn load(address: SocketAddr, targets: &[Target], seed: u64) -> Load<'_> {
    Load { address, host: "bench", connections: CONNECTIONS, requests: REQUESTS, targets, zipf: 0.9, seed, core: 1 }
}

impl Contender {
    /// Every answer must be right.
    fn run(&self, load: &Load<'_>) -> Result<Outcome, String> {
        load.run().and_then(Outcome::all_right).map_err(|error| format!("{}: {error}", self.name))
    }
}

/// Sizes from 2 KB to 70 KB, 24 KB in the mean, the same each time: most are small, few are large.
fn target(id: u64) -> Target {
    let mixed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let share = mixed % 1_000;
    Target { path: format!("/1/{id}"), length: 2_000 + share * share * 66 / 1_000 }
}

fn body(id: u64, length: u64) -> Vec<u8> {
    (0..length).map(|at| (id ^ (at >> 3)).wrapping_mul(0x9e37_79b9).to_le_bytes()[2]).collect()
}

fn start_atoll(atoll: &Path, scenario: &Scenario, folder: &Path) -> Result<Contender, String> {
    let address = free_address()?;
    let shown = folder.display();
    let config = format!(
        "[cache]\nlisten = [\"{address}\"]\nworkers = 1\naccess_log = \"{shown}/access\"\n[log]\nfile = \"{shown}/errors\"\n\
         [store]\ndirectory = \"{shown}/store\"\nmemory = \"{}MiB\"\ncapacity = \"2GiB\"\n",
        scenario.memory_mib
    );
    let file = folder.join("atoll.toml");
    fs::write(&file, config).map_err(|error| error.to_string())?;
    start(Command::new(atoll).arg("cache").arg("-c").arg(&file), address)
}

fn start_nginx(scenario: &Scenario, folder: &Path) -> Result<Contender, String> {
    let (address, origin) = (free_address()?, free_address()?);
    let shown = folder.display();
    let serve = if scenario.name == "hot" {
        format!("server {{ listen {address}; root {shown}/files; }}")
    } else {
        format!(
            "proxy_cache_path {shown}/proxy levels=1:2 keys_zone=all:64m max_size=2g inactive=1d use_temp_path=off;\n\
             server {{ listen {address}; location / {{ proxy_pass http://{origin}; proxy_cache all; proxy_cache_valid 200 1d; }} }}\n\
             server {{ listen {origin}; root {shown}/files; access_log off; }}"
        )
    };
    // As many files as nginx may have open, but for its connections: past that it would refuse some.
    let limit = atoll_sys::limits::raise_open_files().map_err(|error| error.to_string())?.unwrap_or(1024);
    let kept = limit.saturating_sub(limit / 4).min(32_768);
    let config = format!(
        "user root; worker_processes 1; worker_rlimit_nofile {limit}; worker_cpu_affinity 0001; daemon off; pid {shown}/nginx.pid; error_log {shown}/nginx.errors;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 1h;\n\
         open_file_cache max={kept} inactive=1h; open_file_cache_valid 1h; default_type application/octet-stream;\n\
         access_log {shown}/nginx.access combined buffer=64k flush=1s;\n{serve} }}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config).map_err(|error| error.to_string())?;
    let program = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].into_iter().find(|path| Path::new(path).exists());
    start(Command::new(program.unwrap_or("nginx")).arg("-c").arg(&file), address)
}

/// Starts a server on the first core and waits until it accepts.
fn start(command: &mut Command, address: SocketAddr) -> Result<Contender, String> {
    // What is started inherits the cores of who starts it, its threads and children too.
    process::pin(0, &[0])?;
    let started = Process::spawn(command, &[0]);
    process::pin(0, &[0, 1])?;
    let process = started?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(address).is_err() {
        if Instant::now() > deadline {
            return Err(format!("{} does not listen on {address}", command.get_program().display()));
        }
        sleep(Duration::from_millis(20));
    }
    let name = command.get_program().display().to_string();
    Ok(Contender { name, process, address, found: Default::default() })
}

/// Fills a cache over one connection.
struct Filler {
    stream: BufReader<TcpStream>,
}

impl Filler {
    fn connect(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address).map_err(|error| format!("{address}: {error}"))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    fn put(&mut self, path: &str, body: &[u8]) -> Result<(), String> {
        let told = self.exchange(path, body).map_err(|error| format!("PUT {path}: {error}"))?;
        if told.starts_with("HTTP/1.1 201") { Ok(()) } else { Err(format!("PUT {path}: {told}")) }
    }

    /// The head of the answer; the line after it is read too.
    fn exchange(&mut self, path: &str, body: &[u8]) -> std::io::Result<String> {
        let length = body.len();
        let head = format!("PUT {path}?expire=86400 HTTP/1.1\r\nHost: bench\r\nContent-Length: {length}\r\n\r\n");
        self.stream.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        let mut told = String::new();
        while !told.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut told)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.stream.read_line(&mut String::new())?;
        Ok(told)
    }
}

fn free_address() -> Result<SocketAddr, String> {
    TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).map_err(|error| error.to_string())
}

/// The program itself, built as it is shipped.
pub(crate) fn atoll() -> Result<PathBuf, String> {
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let program = here.with_file_name("atoll");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built =
        Command::new(cargo).args(["build", "--quiet", "--release", "--package", "atoll", "--bin", "atoll"]).status();
    match built {
        Ok(status) if status.success() => Ok(program),
        // Started by hand, beside a program that is there.
        _ if program.exists() => Ok(program),
        Ok(status) => Err(format!("building atoll ended with {status}")),
        Err(error) => Err(format!("cargo: {error}")),
    }
}

/// Connections of the load.
const CONNECTIONS: usize = 64;

/// Requests of a round.
const REQUESTS: u64 = 30_000;

/// Rounds.
const ROUNDS: u64 = 5;
