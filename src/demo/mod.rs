//! `atoll demo`: a whole CDN on this machine without root. Nine nodes in three regions, each the same code as `atoll node`, with
//! a relay between their addresses that holds packets back, so that overlay, DNS servers and clients measure real delays.
//!
//! ```text
//!   client --DNS--> resolver --+                     +--> dnssrv of some region --> CNAME, referral, addresses
//!      |                       +--> relay (delays) --+
//!      +------HTTP-------------+                     +--> proxy --> peers (through the relay) --> origin (384 kbit/s)
//! ```
//!
//! Read [`Demo`] first. The world and its distances are in `world`, the course of events in `tour`, what is claimed in `report`.

mod client;
mod origin;
mod relay;
mod report;
mod resolver;
mod tour;
mod world;

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_overlay::Level;

pub use self::report::{Claim, Report};
pub use self::resolver::ResolveError;
use self::{
    origin::Origin,
    relay::{Ports, Relay},
    report::{Counts, Tally},
    resolver::Resolver,
    world::{Distances, NODES_PER_REGION, Place, REGION_NAMES, REGIONS, client_address},
};
use crate::{config::Config, node::Node};

/// What the demo may be told.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A real origin in place of the built-in one: an http or https URL whose path is the one object.
    pub origin: Option<String>,
    /// Where the nodes keep their state; each has a folder in it.
    pub state: PathBuf,
}

/// A running demo.
pub struct Demo {
    nodes: Vec<Node>,
    resolvers: Vec<Resolver>,
    distances: Arc<Distances>,
    origin: Option<Origin>,
    ports: Ports,
    site: Site,
    _relay: Relay,
}

/// Why the demo could not run. Each says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// This system has no more than 127.0.0.1, or the ports are taken.
    #[error(
        "the demo's addresses cannot be used: {0}; it needs all of 127.0.0.0/8 to be local, as on Linux (on other systems add aliases of the loopback interface), and three free ports"
    )]
    Addresses(#[source] io::Error),
    /// The URL given is none.
    #[error("--origin {0:?} is not an http or https URL, such as http://www.example.com/a.jpg")]
    OriginUrl(String),
    /// A node did not start.
    #[error("a node of the demo did not start: {0}")]
    Node(String),
    /// Clusters went on changing.
    #[error("the clusters did not settle within {0:?}; is the machine very busy? run the demo again")]
    Unsettled(Duration),
    /// DNS failed a client.
    #[error("a client could not resolve its name: {0}")]
    Resolve(#[from] ResolveError),
    /// HTTP failed a client.
    #[error("a client was not served: {0}")]
    Fetch(String),
}

/// The site that clients visit, Coralized.
struct Site {
    host: String,
    http_port: u16,
    paths: Vec<String>,
    /// Digests of the objects, where the origin is ours; else all copies must equal the first one seen.
    digests: std::sync::Mutex<Vec<Option<blake3::Hash>>>,
}

impl Demo {
    /// Starts origin, relay and nodes.
    pub async fn start(options: &Options, say: &dyn Fn(&str)) -> Result<Self, DemoError> {
        let ports = relay::free_ports(WISHED_PORTS).map_err(DemoError::Addresses)?;
        let distances = Arc::new(Distances::default());
        let relay = Relay::start(ports, &distances).await.map_err(DemoError::Addresses)?;
        let origin = match options.origin {
            None => Some(Origin::start().await.map_err(DemoError::Addresses)?),
            Some(_) => None,
        };
        let target = Target::new(options.origin.as_deref(), origin.as_ref())?;
        say(&format!("origin      {}", target.describe(origin.is_some())));
        let mut nodes = Vec::new();
        for place in Place::all() {
            nodes.push(start_node(place, ports, &target, &options.state).await?);
        }
        for region in 0..REGIONS {
            say(&describe_region(region, &distances));
        }
        let servers: Vec<IpAddr> = dnssrvs().map(|place| place.public().into()).collect();
        let resolver = |region| Resolver::new(client_address(region), ports.dns, ZONE, servers.clone());
        let resolvers = (0..REGIONS).map(resolver).collect::<Result<_, _>>()?;
        let site = Site::new(&target, ports.http, origin.is_some());
        Ok(Self { nodes, resolvers, distances, origin, ports, site, _relay: relay })
    }

    /// Runs the tour: clusters form, resolvers find their way, clients of one region after the other fetch everything.
    pub async fn tour(&mut self, say: &dyn Fn(&str)) -> Result<Report, DemoError> {
        let start = Instant::now();
        say("\nwaiting for the nodes to measure each other and form clusters ...");
        let indexes: Vec<_> = self.nodes.iter().map(Node::index).collect();
        let clusters = tour::settle(&indexes).await?;
        for level in [Level(2), Level(1)] {
            say(&format!("level {level}     {}", tour::describe(&clusters, level)));
        }
        say(&format!("            after {:.1} s\n", start.elapsed().as_secs_f64()));
        let sent_to = tour::find_the_way(&mut self.resolvers, &self.site.host).await?;
        for (name, proxies) in REGION_NAMES.iter().zip(&sent_to) {
            let proxies: Vec<_> = proxies.iter().map(ToString::to_string).collect();
            say(&format!("DNS sends {name:<9} to {}", proxies.join(", ")));
        }
        let mut tally = Tally::default();
        for (region, resolver) in self.resolvers.iter_mut().enumerate() {
            let name = REGION_NAMES.get(region).copied().unwrap_or_default();
            say(&format!("clients in {name} fetch {} objects ...", self.site.paths.len()));
            tour::visit_region(region, resolver, &self.site, &mut tally).await?;
        }
        say(&format!("\nwhere each client got its copy (three clients a region)\n{}\n", tally.table(&self.site.paths)));
        let counts = Counts {
            nodes: self.nodes.len(),
            regions: REGIONS,
            objects: self.site.paths.len(),
            origin_requests: self.origin_requests(),
            dns_queries: self.resolvers.iter().map(Resolver::queries).sum(),
        };
        Ok(tally.report(counts))
    }

    /// Lines to try by hand.
    #[must_use]
    pub fn hints(&self) -> String {
        let Ports { http, dns, .. } = self.ports;
        let host = &self.site.host;
        let path = self.site.paths.first().map_or("/", String::as_str);
        let near = Place { region: 0, number: 0 }.public();
        let far = Place { region: 2, number: 0 }.public();
        let dashboard = self.nodes.first().and_then(Node::dashboard_url).unwrap_or_default();
        format!(
            "try it by hand:\n  dig @{near} -p {dns} {host}\n  dig @{near} -p {dns} -b {} {host}   (as a client of the far east)\n  \
             curl --output /dev/null --dump-header - --resolve {host}:{http}:{far} http://{host}:{http}{path}\n\
             dashboard of the first node:\n  {dashboard}",
            client_address(2),
        )
    }

    /// The indexes of all nodes, region by region.
    #[must_use]
    pub fn indexes(&self) -> Vec<Arc<dyn atoll_overlay::Index>> {
        self.nodes.iter().map(Node::index).collect()
    }

    /// Moves two regions (0 to 2) to another RTT while everything runs.
    pub fn set_rtt(&self, a: usize, b: usize, rtt: Duration) {
        self.distances.set_rtt(a, b, rtt);
    }

    /// Stops every node at once.
    pub async fn stop(self) {
        for node in self.nodes {
            node.stop().await;
        }
    }

    /// The origin's own count; that of the proxies where the origin is not ours.
    fn origin_requests(&self) -> u64 {
        let by_proxies = || self.nodes.iter().map(|node| node.status().proxy.origin_requests).sum();
        self.origin.as_ref().map_or_else(by_proxies, Origin::requests)
    }
}

impl Site {
    fn new(target: &Target, http_port: u16, ours: bool) -> Self {
        let count = target.paths.len();
        let digest = |object| ours.then(|| blake3::hash(&origin::content(object)));
        let digests = std::sync::Mutex::new((0..count).map(digest).collect());
        Self { host: target.coralized(), http_port, paths: target.paths.clone(), digests }
    }

    /// Whether these are the bytes of the object.
    fn expects(&self, object: usize, seen: blake3::Hash) -> bool {
        let mut digests = self.digests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        digests.get_mut(object).is_some_and(|digest| *digest.get_or_insert(seen) == seen)
    }
}

/// What the proxies fetch from.
struct Target {
    host: String,
    port: u16,
    /// Where the name leads, if it is not to be looked up.
    address: Option<IpAddr>,
    paths: Vec<String>,
}

impl Target {
    fn new(url: Option<&str>, origin: Option<&Origin>) -> Result<Self, DemoError> {
        if let Some(origin) = origin {
            let (address, port) = (origin.address().ip(), origin.address().port());
            let paths = (0..origin::FILES).map(origin::path).collect();
            return Ok(Self { host: BUILT_IN_HOST.to_owned(), port, address: Some(address), paths });
        }
        let text = url.unwrap_or_default();
        let wrong = || DemoError::OriginUrl(text.to_owned());
        let url: http::Uri = text.parse().map_err(|_| wrong())?;
        let port = match url.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(wrong()),
        };
        let host = url.host().filter(|host| host.parse::<IpAddr>().is_err()).ok_or_else(wrong)?;
        let path = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        Ok(Self {
            host: host.to_owned(),
            port: url.port_u16().unwrap_or(port),
            address: None,
            paths: vec![path.to_owned()],
        })
    }

    /// The name that clients use. Port 80 needs no label.
    fn coralized(&self) -> String {
        match self.port {
            80 => format!("{}.{ZONE}", self.host),
            port => format!("{}.{port}.{ZONE}", self.host),
        }
    }

    fn describe(&self, built_in: bool) -> String {
        let what = if built_in { ", 12 files of 41 KB behind 384 kbit/s" } else { "" };
        format!("{}:{}{what}", self.host, self.port)
    }

    fn hosts(&self) -> String {
        self.address.map_or_else(String::new, |address| format!("[proxy.hosts]\n\"{}\" = [\"{address}\"]\n", self.host))
    }
}

async fn start_node(place: Place, ports: Ports, target: &Target, state: &Path) -> Result<Node, DemoError> {
    let text = configuration(place, ports, target, state);
    let config = Config::parse(&text, Path::new("demo")).map_err(|error| DemoError::Node(error.to_string()))?;
    Node::start(config).await.map_err(|error| DemoError::Node(error.to_string()))
}

/// What an operator would write for this node. It says where the node listens and how it is reached, and no distance.
fn configuration(place: Place, ports: Ports, target: &Target, state: &Path) -> String {
    let Ports { http, dns, overlay } = ports;
    let (public, private) = (place.public(), place.private());
    let folder = state.join(format!("{}-{}", place.region, place.number + 1));
    let roles = if place.number == DNSSRV { "\"dnssrv\", \"proxy\"" } else { "\"proxy\"" };
    let seeds: Vec<_> =
        dnssrvs().filter(|seed| *seed != place).map(|seed| format!("\"{}:{overlay}\"", seed.public())).collect();
    let servers: Vec<_> = dnssrvs()
        .map(|server| format!("{{ name = \"ns{}\", addresses = [\"{}\"] }}", server.region + 1, server.public()))
        .collect();
    let dashboard = if place == (Place { region: 0, number: 0 }) { "listen = [\"127.0.0.1:0\"]\n" } else { "" };
    format!(
        "[node]\nroles = [{roles}]\nstate = {folder:?}\nnetwork = \"demo\"\nzone = \"{ZONE}\"\naddresses = [\"{public}\"]\n\
         http_ports = [{http}]\nbootstrap = [{}]\ndrain_wait = \"0s\"\n\n\
         [overlay]\nlisten = [\"/ip4/{private}/tcp/{overlay}\"]\nadvertise = [\"/ip4/{public}/tcp/{overlay}\"]\n\
         bind_source = \"{private}\"\n\n\
         [dns]\nlisten = [\"{private}:{dns}\"]\nnameservers = [{}]\n\
         [dns.sources]\ntcp_connect = false\nicmp = false\n[dns.probe]\nscouts = 0\n\n\
         [admin]\n{dashboard}\n\
         [proxy]\nlisten = [\"{private}:{http}\"]\norigins = [\"{}:{}\"]\n{}",
        seeds.join(", "),
        servers.join(", "),
        target.host,
        target.port,
        target.hosts(),
    )
}

/// The nodes that serve DNS: the first of each region.
fn dnssrvs() -> impl Iterator<Item = Place> {
    (0..REGIONS).map(|region| Place { region, number: DNSSRV })
}

fn describe_region(region: usize, distances: &Distances) -> String {
    let name = REGION_NAMES.get(region).copied().unwrap_or_default();
    let nodes: Vec<String> =
        (0..NODES_PER_REGION).map(|number| Place { region, number }.public().to_string()).collect();
    let others = (0..REGIONS).filter(|other| *other != region);
    let far: Vec<String> = others
        .map(|other| {
            let name = REGION_NAMES.get(other).copied().unwrap_or_default();
            format!("{} ms to {name}", distances.rtt(region, other).as_millis())
        })
        .collect();
    format!("{name:<11} {} ({})", nodes.join(" "), far.join(", "))
}

/// The zone that the demo serves.
const ZONE: &str = "nyud.example";

/// The built-in origin's name.
const BUILT_IN_HOST: &str = "www.demo.test";

/// Which node of each region serves DNS.
const DNSSRV: usize = 0;

/// Ports that are nice to type; others are taken where these are in use.
const WISHED_PORTS: Ports = Ports { http: 8080, dns: 5300, overlay: 7400 };
