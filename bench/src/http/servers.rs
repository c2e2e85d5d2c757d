//! The servers under load, each a process of its own on core 0; ours is the program as it is shipped, the bare ones and the origin
//! are this program, started again.

use std::{
    fmt, fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};

use super::{bare, origin};
use crate::{
    cache::atoll,
    load::{Load, Outcome},
    process::{self, Process},
};

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    Atoll,
    Nginx,
    /// nginx with open_file_cache.
    NginxOfc,
    Haproxy,
    Varnish,
    TrafficServer,
    /// hyper and nothing behind it.
    Bare,
    Epoll,
}

/// Serve as one of the contenders or as the origin, for the bench itself
#[derive(Args)]
pub(crate) struct Serve {
    what: What,
    address: SocketAddr,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Origin,
    Bare,
    Epoll,
}

/// Runs one of our own servers until it is killed.
pub(crate) fn serve(serve: &Serve) -> Result<(), String> {
    match serve.what {
        What::Origin => origin::serve(serve.address),
        What::Bare => bare::hyper(serve.address),
        What::Epoll => bare::epoll(serve.address),
    }
}

/// What the configurations, caches and logs of the servers are written to: in RAM where the system has a place for that, since a
/// disk that writes behind would be measured in place of those that cache on it.
pub(super) struct Folder(tempfile::TempDir);

/// A server under measurement.
pub(super) struct Contender {
    pub(super) kind: Kind,
    pub(super) process: Process,
    pub(super) address: SocketAddr,
    /// Its files; they go with it.
    _place: tempfile::TempDir,
}

impl Kind {
    /// Those who can be asked for hits, or for misses.
    pub(super) fn of(misses: bool) -> Vec<Self> {
        let all = [
            Self::Atoll,
            Self::Nginx,
            Self::NginxOfc,
            Self::Haproxy,
            Self::Varnish,
            Self::TrafficServer,
            Self::Bare,
            Self::Epoll,
        ];
        let fits = |kind: &Self| !misses || !matches!(kind, Self::NginxOfc | Self::Bare | Self::Epoll);
        all.into_iter().filter(fits).collect()
    }

    pub(super) const fn is_ours(self) -> bool {
        matches!(self, Self::Atoll)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Atoll => "atoll",
            Self::Nginx => "nginx",
            Self::NginxOfc => "nginx_ofc",
            Self::Haproxy => "haproxy",
            Self::Varnish => "varnish",
            Self::TrafficServer => "traffic_server",
            Self::Bare => "bare_hyper",
            Self::Epoll => "bare_epoll",
        })
    }
}

impl Contender {
    /// Starts it on core 0, and waits until it accepts.
    pub(super) fn start(kind: Kind, folder: &Folder, origin: SocketAddr) -> Result<Self, String> {
        Self::start_with(kind, folder, origin, "512MiB")
    }

    /// The same; ours with so much RAM for what it stores.
    pub(super) fn start_with(kind: Kind, folder: &Folder, origin: SocketAddr, memory: &str) -> Result<Self, String> {
        let address = free_address()?;
        let held = folder.place(kind)?;
        let place = held.path();
        let shown = place.display();
        let command = match kind {
            Kind::Atoll => {
                let mut command = Command::new(atoll()?);
                command.arg("node").arg("--config").arg(written(
                    place,
                    "atoll.toml",
                    &atoll_config(place, address, origin, memory),
                )?);
                command
            }
            Kind::Nginx | Kind::NginxOfc => {
                let mut command = Command::new(find("nginx")?);
                let config = nginx(place, address, origin, kind == Kind::NginxOfc);
                command.arg("-c").arg(written(place, "nginx.conf", &config)?);
                command
            }
            Kind::Haproxy => {
                let mut command = Command::new(find("haproxy")?);
                command.arg("-db").arg("-f").arg(written(place, "haproxy.cfg", &haproxy(address, origin))?);
                command
            }
            Kind::Varnish => {
                let vcl = format!(
                    "vcl 4.1;\nbackend default {{ .host = \"{}\"; .port = \"{}\"; }}\n",
                    origin.ip(),
                    origin.port()
                );
                let mut command = Command::new(find("varnishd")?);
                command.args(["-F", "-j", "none", "-s", "malloc,4G", "-p", "timeout_idle=600"]);
                command.arg("-a").arg(address.to_string()).arg("-n").arg(format!("{shown}/work"));
                command.arg("-f").arg(written(place, "varnish.vcl", &vcl)?);
                command
            }
            Kind::TrafficServer => {
                let program = find("traffic_server")?;
                let folder =
                    traffic_server(place, address, origin, program.parent().unwrap_or_else(|| Path::new("/usr/bin")))?;
                let mut command = Command::new(program);
                command.env("TS_RUNROOT", folder);
                command
            }
            Kind::Bare => this("bare", address)?,
            Kind::Epoll => this("epoll", address)?,
        };
        let process = started(command, 0, address)?;
        Ok(Self { kind, process, address, _place: held })
    }

    /// Every answer must be right.
    pub(super) fn run(&self, load: &Load<'_>) -> Result<Outcome, String> {
        load.run().and_then(Outcome::all_right).map_err(|error| format!("{}: {error}", self.kind))
    }
}

impl Folder {
    pub(super) fn new() -> Result<Self, String> {
        tempfile::tempdir_in(IN_RAM).or_else(|_| tempfile::tempdir()).map(Self).map_err(|error| error.to_string())
    }

    /// The origin, on core 1.
    pub(super) fn origin(&self) -> Result<(Process, SocketAddr), String> {
        let address = free_address()?;
        Ok((started(this("origin", address)?, 1, address)?, address))
    }

    /// A new folder for a contender.
    fn place(&self, kind: Kind) -> Result<tempfile::TempDir, String> {
        let place = tempfile::Builder::new().prefix(&kind.to_string()).tempdir_in(self.0.path());
        place.map_err(|error| error.to_string())
    }
}

fn atoll_config(place: &Path, address: SocketAddr, origin: SocketAddr, memory: &str) -> String {
    let shown = place.display();
    format!(
        "[node]\nroles = [\"proxy\"]\nstate = \"{shown}/state\"\n[overlay]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\
         [store]\nmemory = \"{memory}\"\n[log]\nfile = \"{shown}/log\"\n\
         [proxy]\nlisten = [\"{address}\"]\n[proxy.sites.\"*\"]\norigin = \"http://{origin}\"\n\
         [proxy.limits]\nconnections_per_client = 20000\n[proxy.timeouts]\nkeep_alive = \"10m\"\nsend = \"10m\"\n"
    )
}

fn nginx(place: &Path, address: SocketAddr, origin: SocketAddr, open_files: bool) -> String {
    let shown = place.display();
    let open_files = if open_files { "open_file_cache max=32768 inactive=1h; open_file_cache_valid 1h;" } else { "" };
    format!(
        "user root; worker_processes 1; worker_rlimit_nofile 65536; daemon off; pid {shown}/pid; error_log {shown}/errors;\n\
         events {{ worker_connections 16384; }}\n\
         http {{ sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 1h; access_log off;\n\
         {open_files} proxy_cache_path {shown}/cache levels=1:2 keys_zone=all:64m max_size=8g inactive=1d use_temp_path=off;\n\
         upstream origin {{ server {origin}; keepalive 64; }}\n\
         server {{ listen {address}; location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_cache all; }} }} }}\n"
    )
}

fn haproxy(address: SocketAddr, origin: SocketAddr) -> String {
    format!(
        "global\n nbthread 1\n maxconn 8000\ndefaults\n mode http\n timeout client 1h\n timeout server 1h\n timeout connect 5s\n \
         timeout http-keep-alive 1h\ncache all\n total-max-size 4095\n max-object-size 2000000\n max-age 86400\n\
         frontend front\n bind {address}\n http-request cache-use all\n http-response cache-store all\n \
         default_backend back\nbackend back\n server origin {origin}\n"
    )
}

/// Where its files are; one thread that serves, and a RAM cache as large as ours.
fn traffic_server(place: &Path, address: SocketAddr, origin: SocketAddr, programs: &Path) -> Result<PathBuf, String> {
    let shown = place.display();
    let prefix = programs.parent().unwrap_or_else(|| Path::new("/")).display();
    let programs = programs.display();
    for folder in ["cache", "run", "log"] {
        fs::create_dir(place.join(folder)).map_err(|error| format!("{shown}/{folder}: {error}"))?;
    }
    let records = [
        format!("http.server_ports STRING {}:ip-in={}", address.port(), address.ip()),
        "exec_thread.autoconfig INT 0".to_owned(),
        "exec_thread.limit INT 1".to_owned(),
        "exec_thread.affinity INT 0".to_owned(),
        "accept_threads INT 0".to_owned(),
        "task_threads INT 1".to_owned(),
        "cache.threads_per_disk INT 1".to_owned(),
        "cache.ram_cache.size INT 512M".to_owned(),
        "http.wait_for_cache INT 2".to_owned(),
        "http.cache.required_headers INT 0".to_owned(),
        "http.keep_alive_no_activity_timeout_in INT 3600".to_owned(),
        "net.connections_throttle INT 30000".to_owned(),
        "log.logging_enabled INT 0".to_owned(),
        "crash_log_helper STRING NULL".to_owned(),
        "admin.user_id STRING #-1".to_owned(),
    ];
    let records: String = records.iter().map(|record| format!("CONFIG proxy.config.{record}\n")).collect();
    written(place, "records.config", &records)?;
    written(place, "remap.config", &format!("map / http://{origin}/\n"))?;
    written(place, "storage.config", &format!("{shown}/cache 4G\n"))?;
    written(place, "plugin.config", "")?;
    written(place, "ip_allow.yaml", "ip_allow:\n  - {apply: in, ip_addrs: 0/0, action: allow, methods: ALL}\n")?;
    let folders = format!(
        "prefix: {shown}\nexec_prefix: {shown}\nbindir: {programs}\nsbindir: {programs}\nsysconfdir: {shown}\ndatadir: {shown}/cache\n\
         includedir: {prefix}/include\nlibdir: {prefix}/lib/trafficserver\nlibexecdir: {prefix}/lib/trafficserver/modules\n\
         localstatedir: {shown}/run\nruntimedir: {shown}/run\nlogdir: {shown}/log\ncachedir: {shown}/cache\n"
    );
    written(place, "runroot.yaml", &folders)?;
    Ok(place.to_owned())
}

fn written(place: &Path, name: &str, text: &str) -> Result<PathBuf, String> {
    let path = place.join(name);
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

/// This program, as a server.
fn this(what: &str, address: SocketAddr) -> Result<Command, String> {
    let mut command = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
    command.args(["http-serve", what, &address.to_string()]);
    Ok(command)
}

/// Starts a server on a core and waits until it accepts.
fn started(mut command: Command, core: usize, address: SocketAddr) -> Result<Process, String> {
    // Threads and children are on the cores of who starts them.
    process::pin(0, &[core])?;
    let started = Process::spawn(&mut command, &[core]);
    process::pin(0, &[1])?;
    let process = started?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(address).is_err() {
        if Instant::now() > deadline {
            return Err(format!("{} does not listen on {address}", command.get_program().display()));
        }
        sleep(Duration::from_millis(20));
    }
    Ok(process)
}

fn find(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file()).ok_or_else(|| "not installed".to_owned())
}

fn free_address() -> Result<SocketAddr, String> {
    TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).map_err(|error| error.to_string())
}

/// A file system in RAM, where there is one.
const IN_RAM: &str = "/dev/shm";
