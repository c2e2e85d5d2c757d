//! What a range cannot tell: words that are no names, and keys that contradict each other. Each finding says what to do next.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use atoll_dnssrv::ServeError;
use atoll_proxy::{Origins, StartError};
use atoll_store::OpenError;

use super::{Config, NodeConfig, Role, parse::Sections};

/// Notes everything that is wrong with a configuration whose keys could all be read.
pub(super) fn check(config: &Config, sections: &mut Sections<'_>) {
    roles(config, sections);
    names(&config.node, sections);
    log(config, sections);
    addresses(config, sections);
    listeners(config, sections);
    // Each crate knows what it can start with; asked last, since what a range has refused already it would refuse again.
    if sections.is_clean() {
        crates(config, sections);
    }
}

/// What the crates themselves refuse, told here before anything starts.
fn crates(config: &Config, sections: &mut Sections<'_>) {
    let mut object = |section: &str, field: &str, reason: String| {
        let path = format!("{section}.{}", field.split(['[', ':']).next().unwrap_or(field).replace('"', ""));
        sections.object(&path, format!("`{field}` in [{section}]: {reason}"), String::new());
    };
    if let Err(error) = config.overlay.check() {
        object("overlay", error.field, error.reason.to_owned());
    }
    match config.store.check() {
        Err(OpenError::Config { field, reason }) => object("store", field, reason),
        Err(other) => object("store", "directory", other.to_string()),
        Ok(()) => {}
    }
    if let Err((field, reason)) = config.cache.check() {
        object("cache", field, reason);
    }
    if config.node.runs(Role::Dnssrv) {
        match config.dns.check() {
            Err(ServeError::Config { field, reason }) => object("dns", &field, reason),
            Err(other) => object("dns", "listen", other.to_string()),
            Ok(()) => {}
        }
    }
    if config.node.runs(Role::Proxy) {
        match config.proxy.check() {
            Err(StartError::Setting { setting, source }) => object("proxy", &setting, source.to_string()),
            Err(error @ StartError::Takedown { .. }) => object("proxy", "takedown", error.to_string()),
            Err(other) => object("proxy", "listen", other.to_string()),
            Ok(()) => {}
        }
    }
    let multiaddrs = [("listen", &config.overlay.listen), ("advertise", &config.overlay.advertise)];
    for (field, multiaddr) in multiaddrs.into_iter().flat_map(|(field, all)| all.iter().map(move |one| (field, one))) {
        if !multiaddr.starts_with('/') || !is_peer(multiaddr) {
            let reason = format!("{multiaddr:?} is no multiaddr, such as \"/ip4/0.0.0.0/tcp/7400\"");
            object("overlay", field, reason);
        }
    }
}

fn roles(config: &Config, sections: &mut Sections<'_>) {
    let roles = &config.node.roles;
    if roles.is_empty() && !sections.has("cache") && sections.is_clean() {
        sections.object(
            "node.roles",
            "this node has no role: there is nothing for it to do".to_owned(),
            "say what it runs: roles = [\"dnssrv\", \"proxy\", \"manager\"], or some of them".to_owned(),
        );
    }
    let nothing_to_serve = config.proxy.origins == Origins::Listed(Vec::new()) && config.proxy.sites.is_empty();
    if config.node.runs(Role::Proxy) && nothing_to_serve && sections.is_clean() {
        sections.object(
            "proxy",
            "role \"proxy\" has no origin it may fetch from: every request would be refused".to_owned(),
            "add origins = [\"www.example.com\"] to [proxy]; \"any\" makes it an open proxy to every public host"
                .to_owned(),
        );
    }
    let mut sorted = roles.clone();
    sorted.sort_unstable();
    if let Some(twice) =
        sorted.windows(2).find_map(|pair| (pair.first() == pair.last()).then(|| pair.first().copied())?)
    {
        let message = format!("role \"{}\" is named twice", twice.word());
        sections.object("node.roles", message, "name each role once".to_owned());
    }
    if config.node.runs(Role::Dnssrv) && config.node.zone.is_empty() && sections.is_clean() {
        sections.object(
            "node.roles",
            "role \"dnssrv\" needs a zone to answer for".to_owned(),
            "add zone = \"cdn.example.org\" to [node], a name that is delegated to this node by NS records; \
             without a domain of your own leave the role out and use \"manager\""
                .to_owned(),
        );
    }
}

fn names(node: &NodeConfig, sections: &mut Sections<'_>) {
    if let Some(wrong) = wrong_name(&node.zone) {
        let next = "a zone is a domain name of at least two labels, such as \"nyud.example\"".to_owned();
        sections.object("node.zone", format!("{:?} is no zone: {wrong}", node.zone), next);
    }
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    if !(1..=64).contains(&node.network.len()) || !node.network.bytes().all(is_word) {
        let message = format!("{:?} is no network name", node.network);
        sections.object("node.network", message, "1 to 64 of a-z, 0-9, . and -, such as \"nyud\"".to_owned());
    }
    if node.site.len() > 32 || node.site.chars().any(char::is_control) {
        let next = "at most 32 bytes without control characters, such as \"berlin-2\"".to_owned();
        sections.object("node.site", format!("{:?} is no site label", node.site), next);
    }
    if node.state.as_os_str().is_empty() {
        let next = "name a directory the node may write to, such as state = \"/var/lib/atoll\"".to_owned();
        sections.object("node.state", "the state directory has no name".to_owned(), next);
    }
    for peer in node.bootstrap.iter().filter(|peer| !is_peer(peer)) {
        let next = PEER_HINT.to_owned();
        sections.object("node.bootstrap", format!("{peer:?} names no node"), next);
    }
}

/// Why a text cannot be a zone; "" is no zone at all and fine.
fn wrong_name(zone: &str) -> Option<String> {
    if zone.is_empty() {
        return None;
    }
    let labels: Vec<&str> = zone.split('.').collect();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // Half of the 253 bytes a name may have, so that names of origins fit in front of it.
    if zone.len() > 126 {
        Some(format!("it has {} bytes, at most 126 leave room for the names of origins", zone.len()))
    } else if labels.len() < 2 {
        Some("it has one label only".to_owned())
    } else {
        labels.into_iter().find(|label| !is_label(label)).map(|label| format!("label {label:?} is not a domain label"))
    }
}

/// Whether a text reads as `HOST:PORT` or as a multiaddr; that it can be reached is seen later.
pub(super) fn is_peer(text: &str) -> bool {
    if text.starts_with('/') {
        return text.split('/').count() >= 5 && !text.contains(char::is_whitespace);
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_fits = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).map_or_else(
        || !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
        |v6| v6.parse::<Ipv6Addr>().is_ok(),
    );
    host_fits && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn log(config: &Config, sections: &mut Sections<'_>) {
    if let Err(error) = crate::log::filter(&config.log.level) {
        let next = "one of error, warn, info, debug, trace, such as level = \"info\"".to_owned();
        sections.object("log.level", format!("{:?} is no log level: {error}", config.log.level), next);
    }
}

fn addresses(config: &Config, sections: &mut Sections<'_>) {
    if config.node.http_ports.contains(&0) {
        sections.object("node.http_ports", "port 0 cannot be reached by a client".to_owned(), "1 to 65535".to_owned());
    }
    for (family, is_one) in [("IPv4", IpAddr::is_ipv4 as fn(&IpAddr) -> bool), ("IPv6", IpAddr::is_ipv6)] {
        if config.node.addresses.iter().filter(|address| is_one(address)).count() > 4 {
            sections.object(
                "node.addresses",
                format!("more than 4 {family} addresses"),
                "at most 4 of each family".to_owned(),
            );
        }
    }
    for address in &config.node.addresses {
        if address.is_unspecified() || address.is_multicast() {
            let next = "name the addresses at which clients reach this node".to_owned();
            sections.object("node.addresses", format!("no client can reach {address}"), next);
        }
    }
    if config.admin.listen.iter().any(|listen| !listen.ip().is_loopback()) && !config.admin.remote {
        sections.object(
            "admin.listen",
            "the admin API would be reachable from other machines, in clear text".to_owned(),
            "listen on a loopback address and tunnel to it, or add remote = true to [admin] if the network between is your own"
                .to_owned(),
        );
    }
}

/// Two listeners on one address and port can both be meant well and still leave one of them deaf.
fn listeners(config: &Config, sections: &mut Sections<'_>) {
    let mut taken: BTreeMap<(u16, bool), Vec<(IpAddr, &'static str)>> = BTreeMap::new();
    for Listen { path, address, udp } in listens(config) {
        if address.port() == 0 {
            continue;
        }
        let others = taken.entry((address.port(), udp)).or_default();
        let clash = others.iter().find(|(other, _)| overlap(*other, address.ip()));
        if let Some((other, holder)) = clash {
            let message = format!(
                "{address} is already taken by {holder}, which listens on {}",
                SocketAddr::new(*other, address.port())
            );
            sections.object(path, message, "give one of them another port or another address".to_owned());
        }
        others.push((address.ip(), path));
    }
}

/// One address a role of this node will listen on.
pub(super) struct Listen {
    path: &'static str,
    address: SocketAddr,
    udp: bool,
}

/// Every listener of the roles this node runs.
pub(super) fn listens(config: &Config) -> impl Iterator<Item = Listen> {
    let mut all = Vec::new();
    let mut add = |path, addresses: &[SocketAddr], udp| {
        all.extend(addresses.iter().map(|address| Listen { path, address: *address, udp }));
    };
    if config.node.runs(Role::Manager) {
        add("manager.listen", &config.manager.listen, false);
    }
    if config.node.runs(Role::Proxy) {
        add("proxy.listen", &config.proxy.listen, false);
        add("proxy.listen_tls", &config.proxy.listen_tls, false);
    }
    if config.node.runs(Role::Dnssrv) {
        add("dns.listen", &config.dns.listen, true);
        add("dns.listen", &config.dns.listen, false);
        add("dns.listen_tls", &config.dns.listen_tls, false);
        add("dns.listen_https", &config.dns.listen_https, false);
    }
    add("admin.listen", &config.admin.listen, false);
    let overlay: Vec<SocketAddr> = config.overlay.listen.iter().filter_map(|listen| socket_address(listen)).collect();
    add("overlay.listen", &overlay, false);
    all.into_iter()
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.address, if self.udp { "UDP" } else { "TCP" }, self.path)
    }
}

/// The address of a multiaddr such as `/ip4/192.0.2.1/tcp/7400`; none for other kinds, which the driver judges.
fn socket_address(multiaddr: &str) -> Option<SocketAddr> {
    let mut parts = multiaddr.strip_prefix('/')?.split('/');
    let (family, address, transport, port) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let address: IpAddr = match family {
        "ip4" => address.parse::<Ipv4Addr>().ok()?.into(),
        "ip6" => address.parse::<Ipv6Addr>().ok()?.into(),
        _ => return None,
    };
    (transport == "tcp").then_some(SocketAddr::new(address, port.parse().ok()?))
}

/// Whether two listeners on one port would be in each other's way. A v6 wildcard is taken not to cover v4 (our listeners say so).
fn overlap(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified())
}

/// How a node is named.
pub(super) const PEER_HINT: &str =
    "write HOST:PORT or a multiaddr, such as \"node1.example.org:7400\" or \"/ip4/192.0.2.1/tcp/7400\"";
