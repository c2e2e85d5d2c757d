//! A Coralized name leads to a near, live proxy: real resolvers resolve it through a real parent's delegation, in every form and
//! both modes; curl fetches through the answered proxy from a real nginx, and copies outlive the death of a node and its restart.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Instant,
};

use crate::{
    namespace::{BIND, KNOT, NODES, Namespace, OTHER, POWERDNS, UNBOUND, v6},
    support::{PATIENCE, Process, eventually},
};

/// A zone, how it answers, and its nodes.
struct Zone {
    name: &'static str,
    mode: &'static str,
    nodes: &'static [Ipv4Addr],
}

const LEVELS: Zone = Zone { name: "nyud", mode: "levels", nodes: &NODES };
const DIRECT: Zone = Zone { name: "direct", mode: "direct", nodes: &OTHER };

/// The public name of the page's site.
const HOST: &str = "www.site.test.nyud.example";
/// What the page says.
const PAGE: &str = "<h1>an ordinary page</h1>";

#[tokio::test(flavor = "multi_thread")]
async fn real_resolvers_lead_curl_to_live_copies_of_one_origin_fetch() {
    let Some(mut stage) = Namespace::new() else { return };
    stage.start_parent(&LEVELS.delegation());
    stage.start_resolvers(&[UNBOUND, BIND]);
    stage.start_origin(PAGE);
    let mut nodes = LEVELS.start(&stage).await;
    for resolver in [UNBOUND, BIND] {
        let both = async || resolve(&stage, resolver).len() == NODES.len();
        eventually(&format!("{resolver} names both proxies\n{}", stage.logs()), both).await;
    }
    let answered = resolve(&stage, UNBOUND);
    let first = NODES.iter().position(|node| Some(node) == answered.first()).unwrap();
    let second = 1 - first;

    let page = curl(&stage, &[NODES[first]]);
    assert!(page.ends_with(PAGE), "{page}\n{}", nodes[first].log());
    assert_eq!(stage.origin_requests(), 1);
    let page = curl(&stage, &[NODES[second]]);
    assert!(page.ends_with(PAGE) && page.contains("peer-l"), "not from the first node's copy: {page}");
    assert_eq!(stage.origin_requests(), 1, "the second node went to the origin");

    // What a client has is in the store a moment later.
    let stored = async || curl(&stage, &[NODES[first]]).contains("; hit");
    eventually("the first node has stored its copy", stored).await;
    nodes[first].kill();
    let page = curl(&stage, &[NODES[first], NODES[second]]);
    assert!(page.ends_with(PAGE), "a client that holds both addresses is not served: {page}");
    let gone = async || resolve(&stage, UNBOUND) == [NODES[second]] && resolve(&stage, BIND) == [NODES[second]];
    eventually("DNS names the living node alone", gone).await;

    nodes[second].kill();
    nodes[first] = LEVELS.start_node(&stage, first).await;
    let page = curl(&stage, &[NODES[first]]);
    // With nobody there to say what was purged meanwhile, the origin is asked whether the copy is still good.
    assert!(page.ends_with(PAGE) && page.contains("fwd=stale"), "the copy did not outlive the restart: {page}");
    assert_eq!(stage.origin_requests(), 2);
}

/// What a resolver is to say to a question.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    /// The nodes' addresses, some of them at least, and no others.
    V4,
    V6,
    /// Records of the type, one at least.
    Some,
    /// None, although the name exists.
    None,
    /// That there is no such name.
    NoName,
}

const QUESTIONS: [(&str, &str, Wanted); 19] = [
    ("www.site.test", "A", Wanted::V4),
    ("www.site.test", "AAAA", Wanted::V6),
    ("WwW.SiTe.TeSt", "A", Wanted::V4),
    ("www.site.test.8080", "A", Wanted::V4),
    ("www.site.test.8080", "AAAA", Wanted::V6),
    ("www-site-test", "A", Wanted::V4),
    ("www-site-test", "AAAA", Wanted::V6),
    // The certificate covers names of one label only.
    ("www-site-test", "HTTPS", Wanted::Some),
    ("www.site.test", "HTTPS", Wanted::None),
    ("www.site.test", "TXT", Wanted::None),
    ("a.b.c.d.site.test", "A", Wanted::V4),
    ("test", "A", Wanted::None),
    ("", "MX", Wanted::Some),
    ("", "NS", Wanted::Some),
    ("", "SOA", Wanted::Some),
    ("ns1", "A", Wanted::V4),
    ("ns1", "MX", Wanted::None),
    ("nobody.ns1", "A", Wanted::NoName),
    ("nobody.ns", "AAAA", Wanted::NoName),
];

#[tokio::test(flavor = "multi_thread")]
async fn four_hardened_resolvers_resolve_every_form_of_name_in_both_modes() {
    let Some(mut stage) = Namespace::new() else { return };
    stage.start_parent(&[LEVELS.delegation(), DIRECT.delegation()].concat());
    let resolvers = [UNBOUND, BIND, KNOT, POWERDNS];
    stage.start_resolvers(&resolvers);
    let mut nodes = Vec::new();
    for zone in [LEVELS, DIRECT] {
        nodes.extend(zone.start(&stage).await);
    }
    for zone in [LEVELS, DIRECT] {
        for resolver in resolvers {
            // The nodes have to find each other and see each other alive first.
            let deadline = Instant::now() + PATIENCE;
            loop {
                let wrong = zone.check(&stage, resolver);
                if wrong.is_empty() {
                    break;
                }
                assert!(Instant::now() < deadline, "{resolver}: {wrong:#?}\n{}", stage.logs());
            }
        }
    }
}

impl Zone {
    /// The delegation as an operator writes it into the parent zone.
    fn delegation(&self) -> String {
        let server = |(address, n): (&Ipv4Addr, u8)| {
            let Self { name, .. } = self;
            format!("{name} 60 IN NS ns{n}.{name}\nns{n}.{name} 60 IN A {address}\n")
        };
        self.nodes.iter().zip(1..).map(server).collect()
    }

    async fn start(&self, stage: &Namespace) -> Vec<Process> {
        let mut nodes = Vec::new();
        for number in 0..self.nodes.len() {
            nodes.push(self.start_node(stage, number).await);
        }
        nodes
    }

    async fn start_node(&self, stage: &Namespace, number: usize) -> Process {
        let Self { name, mode, nodes } = self;
        let folder: PathBuf = stage.folder.path().join(format!("{name}{number}"));
        fs::create_dir_all(&folder).unwrap();
        let (certificate, key) = (folder.join("chain.pem"), folder.join("key.pem"));
        if !key.exists() {
            let pair = rcgen::KeyPair::generate().unwrap();
            let made =
                rcgen::CertificateParams::new(vec![format!("*.{name}.example")]).unwrap().self_signed(&pair).unwrap();
            fs::write(&certificate, made.pem()).unwrap();
            fs::write(&key, pair.serialize_pem()).unwrap();
        }
        let (address, second) = (nodes[number], v6(nodes[number]));
        let others = nodes.iter().filter(|other| **other != address).map(|other| format!("\"{other}:7400\""));
        let server = |(address, n): (&Ipv4Addr, u8)| format!("{{ name = \"ns{n}\", addresses = [\"{address}\"] }}");
        let servers: Vec<String> = nodes.iter().zip(1..).map(server).collect();
        let config = format!(
            "[node]\nroles = [\"dnssrv\", \"proxy\"]\nstate = \"{}/state\"\nnetwork = \"{name}\"\nzone = \"{name}.example\"\n\
             addresses = [\"{address}\", \"{second}\"]\nbootstrap = [{}]\n\n\
             [overlay]\nlisten = [\"/ip4/{address}/tcp/7400\"]\n\n\
             [dns]\nlisten = [\"{address}:53\"]\nmode = \"{mode}\"\n\
             ttl = {{ near = \"2s\", global = \"2s\", unknown = \"1s\" }}\nnameservers = [{}]\n\
             records = [{{ name = \"@\", type = \"MX\", data = \"10 mail.example.\" }}]\n\n\
             [proxy]\nlisten = [\"{address}:80\", \"[{second}]:80\"]\nlisten_tls = [\"{address}:443\", \"[{second}]:443\"]\n\
             certificates = [{{ certificate = \"{}\", key = \"{}\" }}]\n\
             origins = [\"www.site.test\"]\nnameservers = [\"{UNBOUND}:53\"]\n",
            folder.display(),
            others.collect::<Vec<_>>().join(", "),
            servers.join(", "),
            certificate.display(),
            key.display(),
        );
        Process::start_with(stage.command(env!("CARGO_BIN_EXE_atoll")), &folder, &config).await
    }

    /// What a resolver says that it should not.
    fn check(&self, stage: &Namespace, resolver: Ipv4Addr) -> Vec<String> {
        let server = format!("@{resolver}");
        let mut arguments = vec![server.as_str(), "+noall", "+comments", "+answer", "+time=5", "+tries=2"];
        let full = |name: &str| format!("{name}{}{}.example.", if name.is_empty() { "" } else { "." }, self.name);
        let names = QUESTIONS.map(|(name, ..)| full(name));
        for (name, (_, kind, _)) in names.iter().zip(&QUESTIONS) {
            arguments.extend([name, *kind]);
        }
        let output = String::from_utf8(stage.run("dig", &arguments).stdout).unwrap();
        let replies: Vec<&str> = output.split(";; Got answer:").skip(1).collect();
        if replies.len() != QUESTIONS.len() {
            return vec![output];
        }
        let asked = QUESTIONS.iter().zip(replies);
        let wrong = asked.filter(|((_, kind, wanted), reply)| !self.is_right(reply, kind, *wanted));
        wrong.map(|(question, reply)| format!("{question:?}: {reply}")).collect()
    }

    fn is_right(&self, reply: &str, kind: &str, wanted: Wanted) -> bool {
        let record = |line: &str| {
            let mut words = line.split_whitespace().skip(3);
            (words.next() == Some(kind)).then(|| words.next().unwrap_or_default().to_owned())
        };
        let lines = reply.lines().filter(|line| !line.starts_with(';'));
        let found: Vec<String> = lines.filter_map(record).collect();
        let among = |known: Vec<IpAddr>| {
            let is_known = |text: &String| text.parse().is_ok_and(|address| known.contains(&address));
            !found.is_empty() && found.iter().all(is_known)
        };
        let (good, nobody) = (reply.contains("status: NOERROR"), reply.contains("status: NXDOMAIN"));
        match wanted {
            Wanted::V4 => good && among(self.nodes.iter().copied().map(IpAddr::V4).collect()),
            Wanted::V6 => good && among(self.nodes.iter().copied().map(v6).map(IpAddr::V6).collect()),
            Wanted::Some => good && !found.is_empty(),
            Wanted::None => good && found.is_empty(),
            Wanted::NoName => nobody && found.is_empty(),
        }
    }
}

/// The addresses a resolver gives for the public name, sorted.
fn resolve(stage: &Namespace, resolver: Ipv4Addr) -> Vec<Ipv4Addr> {
    let output = stage.run("dig", &[&format!("@{resolver}"), "+short", "+time=2", "+tries=1", HOST, "A"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut addresses: Vec<Ipv4Addr> = text.lines().filter_map(|line| line.parse().ok()).collect();
    addresses.sort_unstable();
    addresses
}

/// Head and body of the page by curl, which tries the addresses in turn.
fn curl(stage: &Namespace, proxies: &[Ipv4Addr]) -> String {
    let addresses: Vec<String> = proxies.iter().map(ToString::to_string).collect();
    let resolve = format!("{HOST}:80:{}", addresses.join(","));
    let url = format!("http://{HOST}/page.html");
    let output =
        stage.run("curl", &["--silent", "--show-error", "--include", "--max-time", "20", "--resolve", &resolve, &url]);
    format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout))
}
