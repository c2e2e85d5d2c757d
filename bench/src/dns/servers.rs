//! The servers under load, each a process of its own; ours and the bare loop are this program, started again.

use std::{
    fs,
    hash::{DefaultHasher, Hasher as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use atoll_dnssrv::{ApexServer, Config, Dnssec, Mode};
use atoll_overlay::{
    Acquire, Acquired, Alone, Beat, Found, Index, IndexError, Key, Lease, LevelInfo, Levels, Marker, NodeId, NodeInfo,
    NodesQuery, Prefix, Put, Roles, Spread, Stored,
};
use atoll_sys::datagrams::Batch;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::broadcast,
};

use super::{hickory, load::question};
use crate::process::Process;

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contender {
    Bare,
    Atoll,
    /// Atoll that sleeps at once while no question is there.
    Asleep,
    /// Atoll with a key.
    Signed,
    Nsd,
    Knot,
    Gdnsd,
    /// hickory-server with the least of a handler.
    Hickory,
}

/// What the configurations and logs of the servers are written to.
pub(super) struct Folder(tempfile::TempDir);

/// Serve as one of the contenders, for the bench itself
#[derive(Args)]
pub(crate) struct Serve {
    what: What,
    address: SocketAddr,
    #[arg(long)]
    zone_file: Option<PathBuf>,
    #[arg(long)]
    key: Option<PathBuf>,
    /// Stays awake for no question (`limits.udp_awake`)
    #[arg(long)]
    asleep: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Bare,
    Hickory,
    Direct,
    Plain,
}

impl Contender {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Atoll => "atoll",
            Self::Asleep => "atoll, udp_awake 0",
            Self::Signed => "atoll, signed",
            Self::Nsd => "nsd",
            Self::Knot => "knot",
            Self::Gdnsd => "gdnsd",
            Self::Hickory => "hickory",
        }
    }

    pub(super) fn is_here(self) -> bool {
        match self {
            Self::Bare | Self::Atoll | Self::Asleep | Self::Signed | Self::Hickory => true,
            Self::Nsd => find("nsd").is_some(),
            Self::Knot => find("knotd").is_some(),
            Self::Gdnsd => find("gdnsd").is_some(),
        }
    }

    /// Starts it on core 0 and waits for its first answer.
    pub(super) fn start(self, folder: &Folder) -> Result<(Process, SocketAddr), String> {
        let address = folder.address();
        let mut command = match self {
            Self::Bare | Self::Atoll | Self::Asleep | Self::Signed | Self::Hickory => {
                let mut command = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
                let what = match self {
                    Self::Bare => "bare",
                    Self::Hickory => "hickory",
                    Self::Atoll | Self::Asleep | Self::Signed | Self::Nsd | Self::Knot | Self::Gdnsd => "direct",
                };
                command.args(["dns-serve", what, &address.to_string()]);
                if self == Self::Asleep {
                    command.arg("--asleep");
                }
                if self == Self::Signed {
                    let key = atoll_dnssrv::ZoneKey::generate().map_err(|error| error.to_string())?;
                    command.arg("--key").arg(folder.write("key", &key)?);
                }
                command
            }
            Self::Nsd => {
                let config = folder.write("nsd.conf", &nsd(folder.0.path(), address))?;
                let mut command = Command::new(find("nsd").unwrap_or_default());
                command.arg("-d").arg("-c").arg(config);
                command
            }
            Self::Knot => {
                let config = folder.write("knot.conf", &knot(folder.0.path(), address))?;
                let mut command = Command::new(find("knotd").unwrap_or_default());
                command.arg("-c").arg(config).arg("-s").arg(folder.0.path().join("control"));
                command
            }
            Self::Gdnsd => {
                let mut command = Command::new(find("gdnsd").unwrap_or_default());
                command.arg("-c").arg(gdnsd(folder, address)?).arg("start");
                command
            }
        };
        let process = Process::spawn(&mut command, &[0])?;
        wait(address, "www.site1.com")?;
        Ok((process, address))
    }
}

impl Folder {
    pub(super) fn new() -> Result<Self, String> {
        let folder = Self(tempfile::tempdir().map_err(|error| error.to_string())?);
        let zone = format!("{APEX}* A 192.0.2.1\n* A 192.0.2.2\n");
        folder.write("zone", &zone)?;
        Ok(folder)
    }

    /// A loopback address whose port is free now.
    pub(super) fn address(&self) -> SocketAddr {
        let taken = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        taken.unwrap_or_else(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, 5300)))
    }

    pub(super) fn large_zone(&self, records: u32) -> Result<PathBuf, String> {
        let lines: String = (0..records).map(|at| format!("h{at} A {}\n", Ipv4Addr::from(0x0a00_0000 + at))).collect();
        self.write("large", &(APEX.to_owned() + &lines))
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.0.path().join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }
}

/// Waits until a server has an address for a name.
pub(super) fn wait(address: SocketAddr, name: &str) -> Result<(), String> {
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    socket.set_read_timeout(Some(Duration::from_millis(5))).map_err(|error| error.to_string())?;
    let began = Instant::now();
    let mut buffer = [0; 512];
    while began.elapsed() < Duration::from_secs(20) {
        let _ = socket.send_to(&question(name, 1), address);
        if let Ok((length, _)) = socket.recv_from(&mut buffer)
            && buffer.get(..length).is_some_and(|reply| matches!(reply, [_, _, _, _, _, _, 0, count, ..] if *count > 0))
        {
            return Ok(());
        }
    }
    Err(format!("{address} does not answer"))
}

/// Runs one of our own servers until it is killed.
pub(crate) fn serve(serve: &Serve) -> Result<(), String> {
    match serve.what {
        What::Bare => bare(serve.address),
        What::Hickory => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| error.to_string())?.block_on(hickory::serve(serve.address))
        }
        What::Direct | What::Plain => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.map_err(|error| error.to_string())?.block_on(ours(serve))
        }
    }
}

/// The least an authority can do: find the end of the question, answer with two addresses that depend on the name.
fn bare(address: SocketAddr) -> Result<(), String> {
    let socket = UdpSocket::bind(address).map_err(|error| error.to_string())?;
    let mut batch = Batch::new(16, 512);
    loop {
        batch.receive(&socket, Duration::ZERO).map_err(|error| error.to_string())?;
        batch.answer(&socket, |query, _, reply| {
            let mut at = 12;
            while let Some(length) = query.get(at).filter(|length| **length > 0) {
                at += usize::from(*length) + 1;
            }
            let Some(question) = query.get(12..at + 5) else { return };
            let mut hash = DefaultHasher::new();
            hash.write(question);
            let [a, b, ..] = hash.finish().to_be_bytes();
            reply.extend(query.iter().take(2));
            reply.extend([0x84, 0, 0, 1, 0, 2, 0, 0, 0, 1]);
            reply.extend(question);
            for last in [a, b] {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, last]);
            }
            reply.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
        });
    }
}

/// Our server, in direct mode among 32 live proxies, or with a zone file alone.
async fn ours(serve: &Serve) -> Result<(), String> {
    let proxies = proxies().await.map_err(|error| error.to_string())?;
    let mode = if serve.zone_file.is_some() { Mode::Plain } else { Mode::Direct };
    let listen = vec![serve.address];
    // As many signatures as it can make: what one costs is measured.
    let dnssec = Dnssec { key: serve.key.clone(), per_second: 1_000_000, ..Dnssec::default() };
    let ns1 = ApexServer { name: "ns1".to_owned(), addresses: vec![serve.address.ip()] };
    let nameservers = if mode == Mode::Direct { vec![ns1] } else { Vec::new() };
    let zone_file = serve.zone_file.clone();
    let mut config = Config { listen, mode, nameservers, dnssec, zone_file, ..Config::default() };
    if serve.asleep {
        config.limits.udp_awake = Duration::ZERO;
    }
    let index = Many { alone: Alone::new(proxies[0].clone()), proxies };
    let _server = atoll_dnssrv::serve(config, Arc::new(index), None).await.map_err(|error| error.to_string())?;
    std::future::pending().await
}

/// 32 nodes on the loopback's addresses, all of whose proxies are one listener that says that they are there.
async fn proxies() -> std::io::Result<Vec<NodeInfo>> {
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nServer: atoll\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let node = |last: u8| NodeInfo {
        v4: vec![[127, 0, 0, last].into()],
        http_ports: vec![port],
        ..NodeInfo::new(NodeId::from(Key::from_bytes([last; 20])), Roles::PROXY.with(Roles::DNSSRV))
    };
    Ok((1..=32).map(node).collect())
}

/// An index that knows these nodes at every level and nothing else.
struct Many {
    alone: Alone,
    proxies: Vec<NodeInfo>,
}

#[async_trait]
impl Index for Many {
    async fn put(&self, put: Put) -> Result<Stored, IndexError> {
        self.alone.put(put).await
    }

    async fn get(&self, key: Key, levels: Levels) -> Result<Found, IndexError> {
        self.alone.get(key, levels).await
    }

    async fn withdraw(&self, key: Key) -> Result<(), IndexError> {
        self.alone.withdraw(key).await
    }

    async fn acquire(&self, acquire: Acquire) -> Result<Acquired, IndexError> {
        self.alone.acquire(acquire).await
    }

    async fn beat(&self, lease: &Lease, progress: Bytes) -> Result<Beat, IndexError> {
        self.alone.beat(lease, progress).await
    }

    async fn release(&self, lease: Lease) -> Result<(), IndexError> {
        self.alone.release(lease).await
    }

    async fn pass(&self, lease: Lease, marker: Marker) -> Result<(), IndexError> {
        self.alone.pass(lease, marker).await
    }

    fn nodes(&self, query: &NodesQuery) -> Vec<NodeInfo> {
        self.proxies.iter().take(query.count).cloned().collect()
    }

    fn me(&self) -> NodeInfo {
        self.alone.me()
    }

    fn describe(&self, info: NodeInfo) {
        self.alone.describe(info);
    }

    fn levels(&self) -> Vec<LevelInfo> {
        self.alone.levels()
    }

    fn observe(&self, prefix: Prefix, rtt: Duration) {
        self.alone.observe(prefix, rtt);
    }

    async fn spread(&self, record: Bytes) -> Result<(), IndexError> {
        self.alone.spread(record).await
    }

    fn spreads(&self) -> broadcast::Receiver<Spread> {
        self.alone.spreads()
    }
}

fn nsd(folder: &Path, address: SocketAddr) -> String {
    let (folder, ip, port) = (folder.display(), address.ip(), address.port());
    format!(
        "server:\n ip-address: {ip}@{port}\n do-ip6: no\n username: \"\"\n zonesdir: \"{folder}\"\n \
         pidfile: \"{folder}/nsd.pid\"\n xfrdfile: \"\"\n zonelistfile: \"{folder}/zones\"\n xfrdir: \"{folder}\"\n \
         server-count: 1\n rrl-ratelimit: 0\n minimal-responses: yes\n\
         remote-control:\n control-enable: no\nzone:\n name: nyud.example\n zonefile: zone\n"
    )
}

fn knot(folder: &Path, address: SocketAddr) -> String {
    let (folder, ip, port) = (folder.display(), address.ip(), address.port());
    format!(
        "server:\n  rundir: {folder}\n  listen: {ip}@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
         database:\n  storage: {folder}\n\
         zone:\n  - domain: nyud.example\n    storage: {folder}\n    file: zone\n    journal-content: none\n    \
         zonefile-sync: -1\n"
    )
}

/// A folder of configuration: each answer is one of 32 pairs of addresses, by weight.
fn gdnsd(folder: &Folder, address: SocketAddr) -> Result<PathBuf, String> {
    let own = folder.0.path().join("gdnsd");
    fs::create_dir_all(own.join("zones")).map_err(|error| format!("{}: {error}", own.display()))?;
    let pairs: String = (0..32)
        .map(|at| format!("g{at} => {{ a => [ 192.0.2.{}, 1 ], b => [ 192.0.2.{}, 1 ] }}\n", 2 * at + 1, 2 * at + 2))
        .collect();
    let shown = own.display();
    let config = format!(
        "options => {{ listen => {address}, run_dir => {shown}, state_dir => {shown}, udp_threads => 1, tcp_threads => 1 }}\n\
         plugins => {{ weighted => {{ pool => {{ service_types => [], multi => false\n{pairs}}} }} }}\n"
    );
    folder.write("gdnsd/zones/nyud.example", &format!("{APEX}* 30 DYNA weighted!pool\n"))?;
    folder.write("gdnsd/config", &config)?;
    Ok(own)
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

const APEX: &str = "$ORIGIN nyud.example.\n$TTL 30\n@ SOA ns1 hostmaster 1 14400 3600 1209600 300\n@ NS ns1\n\
                    ns1 A 127.0.0.1\n";
