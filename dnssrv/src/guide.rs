//! The choice that answers are made from, for those who lead clients by other means, such as role manager's redirects: the same
//! placement of a client's network, the same proxies, and the same counts of what is asked for. A client led so is its own resolver.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_overlay::{Level, Prefix};

use crate::{
    Source,
    answer::View,
    placing::AskedFor,
    redirector::Redirector,
    roster::{Choice, Family, Proxy, Roster},
    site::Site,
};

/// Says where clients are to be led. Cheap to clone. It does not keep the server running.
#[derive(Clone)]
pub struct Guide {
    redirector: Arc<Redirector>,
}

/// A proxy that a client is to be led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lead {
    /// Its address.
    pub address: IpAddr,
    /// Where it answers in clear, if that is known here.
    pub port: Option<u16>,
    /// The level at which it is near.
    pub level: Level,
}

impl Guide {
    pub(crate) const fn new(redirector: Arc<Redirector>) -> Self {
        Self { redirector }
    }

    /// The proxies that A answers name for a site to clients at this address, or AAAA answers, if that is of IPv6 and there are any;
    /// best first, none if none is known. `host` and `port` are the origin's. Counts as a question for the site, and has the client's
    /// network measured as a resolver's would be.
    #[must_use]
    pub fn lead(&self, host: &str, port: u16, client: IpAddr) -> Vec<Lead> {
        let now = Instant::now();
        self.redirector.lead(now, Site::of(host, port), client.to_canonical())
    }

    /// Whether this is a proxy that clients may be led to: one known here, or one of another cluster that some were led to lately.
    #[must_use]
    pub fn names(&self, proxy: SocketAddr) -> bool {
        let is_it = |known: &Proxy| known.targets().any(|target| target == proxy);
        self.redirector.roster().proxies().any(is_it) || self.redirector.foreign(Instant::now()).contains(&proxy)
    }

    /// A client's connection was made within this time, as the system saw it.
    pub fn handshake(&self, client: IpAddr, rtt: Duration) {
        if self.redirector.config.sources.tcp_info {
            self.redirector.measured(Instant::now(), Prefix::of(client), Source::TcpInfo, rtt);
        }
    }
}

impl Redirector {
    fn lead(&self, now: Instant, site: Site, client: IpAddr) -> Vec<Lead> {
        let prefix = Prefix::of(client);
        let placement = {
            let mut clients = self.clients();
            clients.is_used(prefix);
            clients.placement(now, prefix, self.config.sources.hints)
        };
        let asked_for = AskedFor { prefix, address: client, placement, scope: 0, resolver: prefix };
        // Nobody waits: what is found out helps the next one.
        let _ = self.find_out(now, &asked_for, None);
        let (placement, roster, zone) = (&asked_for.placement, self.roster(), self.zone());
        let view = View { placement, roster: &roster, prefix, width: self.heat.asked(now, site), below: false };
        let choose = |family| view.choose(&zone, &self.config, site, family);
        let has_any = |choice: &Choice| !choice.addresses.is_empty();
        let six = if client.is_ipv6() { choose(Family::V6).filter(has_any) } else { None };
        let Some(choice) = six.or_else(|| choose(Family::V4)) else { return Vec::new() };
        self.noted(now, prefix, choice.level, placement, &roster);
        let lead = |address: &IpAddr| {
            let named = placement.near.iter().flat_map(|near| &near.proxies);
            let port = named.chain(roster.proxies()).find(|proxy| proxy.has(*address)).map(|proxy| proxy.port);
            Lead { address: *address, port: port.filter(|port| *port > 0), level: choice.level }
        };
        choice.addresses.iter().map(lead).collect()
    }
}

impl Roster {
    /// Every proxy known, those of this server's innermost cluster first.
    fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        let rings = self.rings.iter().rev().flat_map(|ring| ring.live.iter().chain(&ring.unseen));
        rings.chain(self.last_good.iter().flatten())
    }
}
