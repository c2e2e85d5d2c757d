//! Real authoritative servers with a zone of the test's own, and real resolvers that trust the key of one and ask for it where
//! they are told, on a free port of 127.0.0.1, in a folder that goes with them.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hickory_proto::rr::RecordType;

use crate::support::{DEADLINE, query};

/// A running server, ended when dropped.
pub(crate) struct Real {
    pub(crate) address: SocketAddr,
    child: Child,
    folder: tempfile::TempDir,
}

/// Which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Nsd,
    Knot,
    Bind,
}

/// A resolver that checks signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validator {
    Unbound,
    Bind,
    Knot,
    PowerDns,
}

impl Real {
    /// Serves a zone and answers. A port that somebody else takes first is exchanged for another.
    pub(crate) fn start(kind: Kind, zone: &str, text: &str) -> Self {
        for _ in 0..5 {
            if let Some(server) = Self::try_start(kind, zone, text) {
                return server;
            }
        }
        panic!("{kind:?} does not start");
    }

    /// Resolves a zone whose key has this DS, asking these servers for the zones named; those below the first are not signed.
    pub(crate) fn resolve(kind: Validator, ds: &str, zones: &[(&str, SocketAddr)]) -> Self {
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            let address = free();
            let config = folder.path().join(if kind == Validator::PowerDns { "recursor.conf" } else { "config" });
            fs::write(&config, kind.config(ds, zones, folder.path(), address)).unwrap();
            let mut command = Command::new(program(kind.name()));
            match kind {
                Validator::Unbound => command.arg("-d").arg("-c").arg(&config),
                Validator::Bind => command.arg("-g").arg("-c").arg(&config),
                Validator::Knot => command.arg("-n").arg("-c").arg(&config).arg(folder.path()),
                Validator::PowerDns => command.arg(format!("--config-dir={}", folder.path().display())),
            };
            // A name that each has an answer to out of itself.
            let own = if matches!(kind, Validator::Unbound | Validator::Bind) { "version.bind" } else { "localhost" };
            if let Some(server) = Self::wait_for(command, address, folder, &query(own, RecordType::A)) {
                return server;
            }
        }
        panic!("{kind:?} does not start");
    }

    fn try_start(kind: Kind, zone: &str, text: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let address = free();
        fs::write(folder.path().join("zone"), text).unwrap();
        let config = folder.path().join("config");
        fs::write(&config, kind.config(zone, folder.path(), address)).unwrap();
        let mut command = Command::new(program(kind.name()));
        match kind {
            Kind::Nsd => command.arg("-d").arg("-c").arg(&config),
            Kind::Knot => command.arg("-c").arg(&config).arg("-s").arg(folder.path().join("control")),
            Kind::Bind => command.arg("-g").arg("-4").arg("-c").arg(&config),
        };
        Self::wait_for(command, address, folder, &query(zone, RecordType::SOA))
    }

    /// Starts a server and waits until it answers a question; none if it ends instead.
    fn wait_for(mut command: Command, address: SocketAddr, folder: tempfile::TempDir, question: &[u8]) -> Option<Self> {
        let log = fs::File::create(folder.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut server = Self { address, child, folder };
        let began = Instant::now();
        while began.elapsed() < DEADLINE {
            if server.child.try_wait().unwrap().is_some() {
                return None;
            }
            if ask(address, question, Duration::from_millis(100)).is_some_and(|reply| reply[3] & 0x0f != 2) {
                return Some(server);
            }
        }
        panic!("{command:?} does not answer:\n{}", server.log());
    }

    /// What it printed.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Nsd => "nsd",
            Self::Knot => "knotd",
            Self::Bind => "named",
        }
    }

    fn config(self, zone: &str, folder: &Path, address: SocketAddr) -> String {
        let (folder, ip, port) = (folder.display(), address.ip(), address.port());
        match self {
            Self::Nsd => format!(
                "server:\n ip-address: {ip}@{port}\n do-ip6: no\n username: \"\"\n zonesdir: \"{folder}\"\n\
                 pidfile: \"{folder}/pid\"\n xfrdfile: \"\"\n zonelistfile: \"{folder}/zones\"\n xfrdir: \"{folder}\"\n\
                 server-count: 1\n rrl-ratelimit: 0\n minimal-responses: yes\n hide-version: yes\n\
                 remote-control:\n control-enable: no\nzone:\n name: {zone}\n zonefile: zone\n"
            ),
            Self::Knot => format!(
                "server:\n  rundir: {folder}\n  listen: {ip}@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
                 database:\n  storage: {folder}\n\
                 zone:\n  - domain: {zone}\n    storage: {folder}\n    file: zone\n    journal-content: none\n    zonefile-sync: -1\n"
            ),
            Self::Bind => format!(
                "options {{\n directory \"{folder}\";\n listen-on port {port} {{ {ip}; }};\n listen-on-v6 {{ none; }};\n recursion no;\n \
                 minimal-responses no-auth;\n minimal-any no;\n zero-no-soa-ttl no;\n check-names primary ignore;\n pid-file none;\n session-keyfile none;\n}};\n\
                 controls {{ }};\nzone \"{zone}\" {{ type primary; file \"{folder}/zone\"; check-names ignore; check-mx ignore; \
                 check-integrity no; }};\n"
            ),
        }
    }
}

impl Validator {
    const fn name(self) -> &'static str {
        match self {
            Self::Unbound => "unbound",
            Self::Bind => "named",
            Self::Knot => "kresd",
            Self::PowerDns => "pdns_recursor",
        }
    }

    fn config(self, ds: &str, zones: &[(&str, SocketAddr)], folder: &Path, address: SocketAddr) -> String {
        let words: Vec<&str> = ds.split_whitespace().collect();
        let [signed, _, _, _, tag, algorithm, kind, digest] = words.as_slice() else { panic!("{ds} is no DS") };
        let (path, ip, port) = (folder, address.ip(), address.port());
        let folder = folder.display();
        match self {
            Self::Unbound => {
                let stub = |(zone, server): &(&str, SocketAddr)| {
                    format!("stub-zone:\n name: \"{zone}\"\n stub-addr: {}@{}\n", server.ip(), server.port())
                };
                format!(
                    "server:\n interface: {ip}@{port}\n do-ip6: no\n username: \"\"\n chroot: \"\"\n directory: \"{folder}\"\n \
                     pidfile: \"\"\n use-syslog: no\n do-not-query-localhost: no\n module-config: \"validator iterator\"\n \
                     trust-anchor: \"{ds}\"\n harden-dnssec-stripped: yes\n aggressive-nsec: yes\n val-log-level: 2\n num-threads: 1\n\
                     remote-control:\n control-enable: no\n{}",
                    zones.iter().map(stub).collect::<String>()
                )
            }
            Self::Bind => {
                let forward = |(zone, server): &(&str, SocketAddr)| {
                    let (ip, port) = (server.ip(), server.port());
                    format!("zone \"{zone}\" {{ type forward; forward only; forwarders {{ {ip} port {port}; }}; }};\n")
                };
                format!(
                    "options {{\n directory \"{folder}\";\n listen-on port {port} {{ {ip}; }};\n listen-on-v6 {{ none; }};\n recursion yes;\n \
                     allow-query {{ any; }};\n dnssec-validation yes;\n pid-file none;\n session-keyfile none;\n}};\ncontrols {{ }};\n\
                     trust-anchors {{ {signed} static-ds {tag} {algorithm} {kind} \"{digest}\"; }};\n{}",
                    zones.iter().map(forward).collect::<String>()
                )
            }
            Self::Knot => {
                let forward = |(zone, server): &(&str, SocketAddr)| {
                    let (ip, port) = (server.ip(), server.port());
                    format!("policy.add(policy.suffix(policy.FORWARD('{ip}@{port}'), {{ todname('{zone}') }}))\n")
                };
                format!(
                    "net.listen('{ip}', {port}, {{ kind = 'dns' }})\nnet.ipv6 = false\n\
                     trust_anchors.remove('.')\ntrust_anchors.add('{ds}')\ncache.open(16 * MB, 'lmdb://{folder}/cache')\n{}",
                    zones.iter().rev().map(forward).collect::<String>()
                )
            }
            Self::PowerDns => {
                let forward = |(zone, server): &(&str, SocketAddr)| format!("{zone}={}:{}", server.ip(), server.port());
                let anchor = format!("clearTA()\naddTA('{signed}', '{tag} {algorithm} {kind} {digest}')\n");
                fs::write(path.join("anchor.lua"), anchor).unwrap();
                format!(
                    "local-address={ip}\nlocal-port={port}\nsocket-dir={folder}\ndaemon=no\nwrite-pid=no\ndisable-syslog=yes\n\
                     quiet=yes\nthreads=1\ndnssec=validate\ndont-query=\nsecurity-poll-suffix=\nlua-config-file={folder}/anchor.lua\n\
                     forward-zones={}\n",
                    zones.iter().map(forward).collect::<Vec<_>>().join(", ")
                )
            }
        }
    }
}

/// What a program prints, on either of its outputs, when run in a folder.
pub(crate) fn run(name: &str, arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(program(name)).args(arguments).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("{name}: {error}"));
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed; cargo xtask test --install brings it"))
}

/// The reply to a datagram, if one comes in time.
pub(crate) fn ask(address: SocketAddr, query: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    // A datagram may be lost on a busy machine: it is sent again, as every resolver does.
    socket.set_read_timeout(Some(patience / 10)).unwrap();
    let mut buffer = vec![0; 65_535];
    for _ in 0..10 {
        let until = Instant::now() + patience / 10;
        // What went wrong with the last one may be told here.
        let _ = socket.send(query);
        while Instant::now() < until {
            match socket.recv(&mut buffer) {
                Ok(length) if answers(&buffer[..length], query) => {
                    buffer.truncate(length);
                    return Some(buffer);
                }
                // A port that was thought to be free may be this socket's own; and who is not there yet may come.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(_) => return None,
            }
        }
    }
    None
}

/// Whether this is a reply, and to this question.
fn answers(reply: &[u8], query: &[u8]) -> bool {
    reply.len() >= 12 && reply[..2] == query[..2] && reply[2] & 0x80 != 0
}

/// The reply over a connection.
pub(crate) fn ask_tcp(address: SocketAddr, query: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&[&u16::try_from(query.len()).unwrap().to_be_bytes()[..], query].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut reply = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut reply).unwrap();
    reply
}

/// An address whose port is free over both transports now.
fn free() -> SocketAddr {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}
