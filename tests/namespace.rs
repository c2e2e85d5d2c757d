//! A network namespace of the test's own with addresses of 198.18.0.0/15 on its loopback and no way out, and real servers in it:
//! nsd as root, TLD and parent, unbound, BIND, Knot Resolver and PowerDNS Recursor as resolvers, nginx as origin.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::support::PATIENCE;

/// Root, TLDs and parent of the zone.
pub(crate) const PARENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The resolver unbound.
pub(crate) const UNBOUND: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
/// The resolver BIND.
pub(crate) const BIND: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 1);
/// The resolver of Knot.
pub(crate) const KNOT: Ipv4Addr = Ipv4Addr::new(198, 18, 4, 1);
/// The resolver of PowerDNS.
pub(crate) const POWERDNS: Ipv4Addr = Ipv4Addr::new(198, 18, 5, 1);
/// The origin nginx.
pub(crate) const ORIGIN: Ipv4Addr = Ipv4Addr::new(198, 18, 3, 1);
/// The nodes of a zone.
pub(crate) const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 11, 1), Ipv4Addr::new(198, 18, 12, 1)];
/// The node of another.
pub(crate) const OTHER: [Ipv4Addr; 1] = [Ipv4Addr::new(198, 18, 13, 1)];

/// The second address of a node.
pub(crate) fn v6(node: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, node.octets()[2].into(), 0, 0, 0, 0, 1)
}

/// The namespace; dropping it ends what was started in it and removes it.
pub(crate) struct Namespace {
    name: String,
    pub(crate) folder: TempDir,
    servers: Vec<Child>,
}

impl Namespace {
    /// Makes the namespace. None where this user may not: then the reason has been printed.
    pub(crate) fn new() -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("atoll-test-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        match made {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                assert!(!is_root(), "root may make namespaces, yet: {why}");
                println!("skipped: real resolvers need port 53 in a network namespace, and that needs root: {why}");
                return None;
            }
            Err(error) => panic!("`ip` is missing ({error}): run `cargo xtask test --install`"),
        }
        let namespace = Self { name, folder: TempDir::new().unwrap(), servers: Vec::new() };
        namespace.must("ip", &["link", "set", "lo", "up"]);
        let nodes = || NODES.into_iter().chain(OTHER);
        for address in [PARENT, UNBOUND, BIND, KNOT, POWERDNS, ORIGIN].into_iter().chain(nodes()) {
            namespace.must("ip", &["addr", "add", &format!("{address}/32"), "dev", "lo"]);
        }
        for address in nodes().map(v6) {
            namespace.must("ip", &["addr", "add", &format!("{address}/128"), "dev", "lo"]);
        }
        let routes = namespace.run("ip", &["route", "show", "default"]);
        assert!(routes.stdout.is_empty(), "the namespace has a way out");
        Some(namespace)
    }

    /// A command that runs inside.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a command inside to its end.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let output = self.command(program).args(arguments).output();
        output.unwrap_or_else(|error| panic!("{program}: {error}; run `cargo xtask test --install`"))
    }

    fn must(&self, program: &str, arguments: &[&str]) {
        let output = self.run(program, arguments);
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts a server that stays in the foreground; it ends with the namespace.
    fn serve(&mut self, program: &str, arguments: &[&str]) {
        let log = fs::File::create(self.path(&format!("{program}.log"))).unwrap();
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.servers.push(command.spawn().unwrap());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn here(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    /// nsd with the root, `example` (which delegates the zone by these records) and `test` (which has the origin).
    pub(crate) fn start_parent(&mut self, delegation: &str) {
        let soa = "@ 3600 IN SOA ns.example. hostmaster.example. 1 3600 600 86400 60\n";
        self.write("root.zone", &format!(
            "$ORIGIN .\n{soa}@ 3600 IN NS ns.example.\nexample. 3600 IN NS ns.example.\nns.example. 3600 IN A {PARENT}\n\
             test. 3600 IN NS ns.test.\nns.test. 3600 IN A {PARENT}\n"
        ));
        self.write(
            "example.zone",
            &format!("$ORIGIN example.\n{soa}@ 3600 IN NS ns.example.\nns 3600 IN A {PARENT}\n{delegation}"),
        );
        self.write(
            "test.zone",
            &format!("$ORIGIN test.\n{soa}@ 3600 IN NS ns.test.\nns 3600 IN A {PARENT}\nwww.site 60 IN A {ORIGIN}\n"),
        );
        let here = self.here();
        let zone = |name: &str, file: &str| format!("zone:\n  name: \"{name}\"\n  zonefile: \"{file}\"\n");
        let config = format!(
            "server:\n  ip-address: {PARENT}\n  username: \"\"\n  database: \"\"\n  zonesdir: \"{here}\"\n  \
             pidfile: \"{here}/nsd.pid\"\n  xfrdfile: \"{here}/xfrd.state\"\n  zonelistfile: \"{here}/zone.list\"\n  \
             xfrdir: \"{here}\"\nremote-control:\n  control-enable: no\n{}{}{}",
            zone(".", "root.zone"),
            zone("example.", "example.zone"),
            zone("test.", "test.zone"),
        );
        let config = self.write("nsd.conf", &config);
        self.serve("nsd", &["-d", "-c", &config]);
    }

    /// Resolvers at these addresses with the parent as their root, each with all the hardening it has and QNAME minimisation as
    /// strict as it can be. What differs from a resolver on the Internet: the root is the parent's and not signed, `test.` and
    /// reserved networks are not refused, and no IPv6, since questions over it would come from no address of the resolver's.
    pub(crate) fn start_resolvers(&mut self, resolvers: &[Ipv4Addr]) {
        let hints = self.write("root.hints", &format!(". 3600 IN NS ns.example.\nns.example. 3600 IN A {PARENT}\n"));
        let here = self.here().to_owned();
        for resolver in resolvers {
            match *resolver {
                UNBOUND => self.start_unbound(&here, &hints),
                BIND => self.start_bind(&here, &hints),
                KNOT => self.start_knot(&here, &hints),
                POWERDNS => self.start_powerdns(&here, &hints),
                other => panic!("no resolver lives at {other}"),
            }
        }
    }

    fn start_unbound(&mut self, here: &str, hints: &str) {
        let config = self.write("unbound.conf", &format!(
            "server:\n  interface: {UNBOUND}\n  outgoing-interface: {UNBOUND}\n  access-control: 198.18.0.0/15 allow\n  \
             do-ip6: no\n  username: \"\"\n  chroot: \"\"\n  directory: \"{here}\"\n  pidfile: \"\"\n  use-syslog: no\n  \
             root-hints: \"{hints}\"\n  module-config: \"iterator\"\n  local-zone: \"test.\" nodefault\n  \
             qname-minimisation: yes\n  qname-minimisation-strict: yes\n  use-caps-for-id: yes\n  harden-glue: yes\n  \
             harden-below-nxdomain: yes\n  harden-referral-path: yes\n  harden-short-bufsize: yes\n  harden-large-queries: yes\n\
             remote-control:\n  control-enable: no\n"
        ));
        self.serve("unbound", &["-d", "-p", "-c", &config]);
    }

    fn start_bind(&mut self, here: &str, hints: &str) {
        let config = self.write("named.conf", &format!(
            "options {{\n  directory \"{here}\";\n  listen-on {{ {BIND}; }};\n  listen-on-v6 {{ none; }};\n  \
             query-source address {BIND};\n  recursion yes;\n  allow-query {{ any; }};\n  allow-recursion {{ any; }};\n  \
             qname-minimization strict;\n  dnssec-validation no;\n  pid-file \"{here}/named.pid\";\n  \
             session-keyfile \"{here}/session.key\";\n}};\ncontrols {{ }};\nzone \".\" {{ type hint; file \"{hints}\"; }};\n"
        ));
        self.serve("named", &["-g", "-4", "-c", &config]);
    }

    fn start_knot(&mut self, here: &str, hints: &str) {
        let config = self.write("kresd.conf", &format!(
            "net.listen('{KNOT}', 53, {{ kind = 'dns' }})\nnet.ipv6 = false\nnet.outgoing_v4('{KNOT}')\nmode('strict')\n\
             modules = {{ 'hints' }}\nhints.root_file('{hints}')\ntrust_anchors.remove('.')\n\
             policy.add(policy.suffix(policy.PASS, {{ todname('test.') }}))\ncache.open(16 * MB, 'lmdb://{here}/cache')\n"
        ));
        self.serve("kresd", &["-n", "-c", &config, here]);
    }

    fn start_powerdns(&mut self, here: &str, hints: &str) {
        self.write("recursor.conf", &format!(
            "local-address={POWERDNS}\nquery-local-address={POWERDNS}\nallow-from=198.18.0.0/15\nhint-file={hints}\n\
             socket-dir={here}\ndaemon=no\nwrite-pid=no\ndisable-syslog=yes\nquiet=yes\nthreads=1\ndnssec=off\ndont-query=\n\
             security-poll-suffix=\nserve-rfc1918=no\nqname-minimization=yes\nnothing-below-nxdomain=yes\n"
        ));
        self.serve("pdns_recursor", &[&format!("--config-dir={here}")]);
    }

    /// nginx with one page.
    pub(crate) fn start_origin(&mut self, page: &str) {
        let here = self.here().to_owned();
        fs::create_dir_all(self.path("www")).unwrap();
        // The workers may run as another user.
        open_to_all(self.folder.path());
        self.write("www/page.html", page);
        let config = self.write("nginx.conf", &format!(
            "daemon off;\npid {here}/nginx.pid;\nerror_log {here}/nginx-error.log;\nevents {{ }}\nhttp {{\n  \
             access_log {here}/nginx-access.log;\n  client_body_temp_path {here}/body;\n  proxy_temp_path {here}/proxy;\n  \
             fastcgi_temp_path {here}/fastcgi;\n  uwsgi_temp_path {here}/uwsgi;\n  scgi_temp_path {here}/scgi;\n  \
             server {{\n    listen {ORIGIN}:80;\n    root {here}/www;\n    add_header Cache-Control \"max-age=600\";\n  }}\n}}\n"
        ));
        self.serve("nginx", &["-c", &config, "-e", "stderr"]);
    }

    /// GET requests that nginx has answered.
    pub(crate) fn origin_requests(&self) -> usize {
        // nginx logs a request after its last byte has left, and its one worker logs in order: once this OPTIONS is in the log,
        // all that was answered before it is.
        let asked = |log: &str| log.lines().filter(|line| line.contains("\"OPTIONS ")).count();
        let read = || fs::read_to_string(self.path("nginx-access.log")).unwrap_or_default();
        let before = asked(&read());
        self.run("curl", &["--silent", "--max-time", "20", "--request", "OPTIONS", &format!("http://{ORIGIN}/")]);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = read();
            if asked(&log) > before {
                return log.lines().filter(|line| line.contains("\"GET ")).count();
            }
            assert!(Instant::now() < deadline, "nginx does not log\n{}", self.logs());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What the servers have printed, for the message of a failed test.
    pub(crate) fn logs(&self) -> String {
        let logs =
            ["nsd.log", "unbound.log", "named.log", "kresd.log", "pdns_recursor.log", "nginx.log", "nginx-error.log"];
        let read = |name: &&str| fs::read_to_string(self.path(name)).ok().map(|text| format!("--- {name}\n{text}"));
        logs.iter().filter_map(read).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // nginx ends its worker when it is asked to end, not when it is killed.
            let _ = Command::new("kill").arg(server.id().to_string()).status();
        }
        for server in &mut self.servers {
            let _ = server.wait();
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}
