//! Who is there: the proxies seen alive and the servers of each level, as one picture that answers are made from. Which level's
//! are used is decided here, which of them in `deck.rs`. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hasher as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use atoll_overlay::{Key, Level, NodeId, Prefix};
use siphasher::sip::SipHasher24;

use crate::{
    deck::{Deck, Want},
    near::Near,
    placement::Placement,
    service::Offers,
    site::Site,
};

/// The network as this server sees it at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roster {
    /// Rises with every picture made: an earlier one never takes the place of a later one.
    pub(crate) epoch: u64,
    /// Rises when servers come back that had been away (`company.rs`).
    pub(crate) company: u64,
    /// This server, unless it is leaving.
    pub(crate) me: Option<Server>,
    /// What is in this server's cluster at each level, level 0 first.
    pub(crate) rings: Vec<Ring>,
    /// Live proxies as they last were, by level: for the day when none is left.
    pub(crate) last_good: Vec<Vec<Proxy>>,
    /// Addresses that no answer names: they were asked and did not answer, or are `unwilling`.
    pub(crate) dead: Vec<IpAddr>,
    /// Those of them whose nodes want no clients: they drain, say, and are no sign that anything is wrong.
    pub(crate) unwilling: Vec<IpAddr>,
    /// Proxies that are only known from pointers, and that do not answer where these say.
    pub(crate) absent: Vec<SocketAddr>,
    /// Addresses of proxies that are no servers of the zone: nobody asks them how far they are from anyone.
    pub(crate) mute: BTreeSet<IpAddr>,
    /// Percent of proxies that must be seen alive for answers that name them to be kept long.
    pub(crate) doubt: u8,
    /// Of each level, whether fewer are, or of the widest one whether some were cut off and may be nearer to many. Of a foreign
    /// cluster see [`Self::choose_near`].
    pub(crate) doubtful: Vec<bool>,
    /// What proxies offer over TLS.
    pub(crate) secure: Offers,
    /// Addresses of every node known.
    pub(crate) addresses: BTreeMap<NodeId, (Vec<Ipv4Addr>, Vec<Ipv6Addr>)>,
}

/// One level.
#[derive(Debug, Clone)]
pub(crate) struct Ring {
    /// The cluster's id.
    pub(crate) cluster: Key,
    /// Its nodes, as far as they are looked at.
    pub(crate) members: BTreeSet<NodeId>,
    /// Proxies seen alive.
    pub(crate) live: Vec<Proxy>,
    /// All proxies, seen alive or not: for the day when none ever was, because all are new or this server reaches none.
    pub(crate) unseen: Vec<Proxy>,
    /// Servers of this zone, this one not among them.
    pub(crate) servers: Vec<Server>,
}

/// A proxy as answers name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// Where it answers over IPv4.
    pub(crate) v4: Option<Ipv4Addr>,
    /// Where it answers over IPv6.
    pub(crate) v6: Option<Ipv6Addr>,
    /// 0 idle, 100 full.
    pub(crate) load: u8,
    /// Its share against others; 100 is the norm.
    pub(crate) weight: u16,
    /// Where it answers in clear, so that others can look for themselves; 0: not known.
    pub(crate) port: u16,
}

/// A server of this zone as referrals name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// Which.
    pub(crate) id: NodeId,
    /// Where over IPv4, if anywhere.
    pub(crate) v4: Option<Ipv4Addr>,
    /// Where over IPv6, if anywhere.
    pub(crate) v6: Option<Ipv6Addr>,
    /// Its cluster at level 1, if it said so.
    pub(crate) cluster: Option<Key>,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// How sure one can be of proxies chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Seen alive.
    Live,
    /// Seen alive once; none is now.
    LastGood,
    /// Nobody has been seen alive yet.
    Unseen,
}

/// Proxies for a site.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// Their addresses of the family asked for, best first. Empty if they have none of it.
    pub(crate) addresses: Vec<IpAddr>,
    /// How sure one can be.
    pub(crate) standing: Standing,
    /// The level they were found at.
    pub(crate) level: Level,
    /// All that they were chosen from.
    pub(crate) deck: Deck,
    /// Whether so many like them are dead that these may soon be, too.
    pub(crate) doubtful: bool,
}

impl Roster {
    /// Proxies for a site from this level, else wider ones, else the last good ones, else any; `nearest` says which of a level's
    /// live ones are near enough to whoever asks. None if no proxy is known at all.
    pub(crate) fn choose(
        &self,
        site: Site,
        level: Level,
        family: Family,
        want: Want,
        nearest: &dyn Fn(Level, &[Proxy]) -> Vec<Proxy>,
    ) -> Option<Choice> {
        let (deck, standing, level) = self.deck_of(level, family, nearest)?;
        let doubtful = self.is_doubtful(level);
        Some(Choice { addresses: deck.pick(site, want).addresses().to_vec(), standing, level, deck, doubtful })
    }

    /// Whether too few of a level's proxies are seen alive for answers to be kept long.
    pub(crate) fn is_doubtful(&self, level: Level) -> bool {
        self.doubtful.get(usize::from(level.0)).copied().unwrap_or(false)
    }

    /// What there is to choose from at a level, for those who are near to all of it.
    pub(crate) fn deck(&self, level: Level, family: Family) -> Option<(Deck, Standing, Level)> {
        self.deck_of(level, family, &|_, proxies| proxies.to_vec())
    }

    /// A level whose proxies lack IPv6 has them all the same: another level must not add what would lead IPv6 clients farther than
    /// IPv4 ones. One that lacks IPv4 is passed over while another has it: nobody is to be left without an address.
    fn deck_of(
        &self,
        level: Level,
        family: Family,
        nearest: &dyn Fn(Level, &[Proxy]) -> Vec<Proxy>,
    ) -> Option<(Deck, Standing, Level)> {
        let level_of = |at: usize| Level(u8::try_from(at).unwrap_or(u8::MAX));
        let inward = usize::from(level.0).min(self.rings.len().saturating_sub(1));
        let rings = || (0..=inward).rev().filter_map(|at| Some((at, self.rings.get(at)?)));
        let last = |at: usize| self.last_good.get(at).map_or(&[][..], Vec::as_slice);
        let ways = || {
            rings()
                .map(|(at, ring)| (Standing::Live, at, ring.live.as_slice()))
                .chain((0..=inward).rev().map(|at| (Standing::LastGood, at, last(at))))
                .chain(rings().map(|(at, ring)| (Standing::Unseen, at, ring.unseen.as_slice())))
        };
        let fits = |proxies: &[Proxy]| family == Family::V6 || proxies.iter().any(|proxy| proxy.v4.is_some());
        let way = ways().find(|(.., proxies)| !proxies.is_empty() && fits(proxies));
        let (standing, at, proxies) = way.or_else(|| ways().find(|(.., proxies)| !proxies.is_empty()))?;
        let chosen = if standing == Standing::Live { nearest(level_of(at), proxies) } else { proxies.to_vec() };
        let deck = Deck::of(&chosen, family);
        let none_near = family == Family::V4 && deck.cards().next().is_none();
        Some((if none_near { Deck::of(proxies, family) } else { deck }, standing, level_of(at)))
    }

    /// Proxies for a site of a foreign cluster, as the server near it named them, less the addresses found dead here. None if
    /// none of the family is left.
    pub(crate) fn choose_near(
        &self,
        site: Site,
        near: &Near,
        family: Family,
        want: Want,
        nearest: &dyn Fn(Level, &[Proxy]) -> Vec<Proxy>,
    ) -> Option<Choice> {
        let living = near.proxies.iter().map(|proxy| self.living(proxy));
        let proxies: Vec<Proxy> = living.filter(|proxy| proxy.address(family).is_some()).collect();
        // Of a foreign cluster this server knows what the pointer names, and looks at no more: of these so many must live. One that is
        // not looked at yet counts as alive, and one that drains does not count.
        let is_willing = |address: &IpAddr| !self.unwilling.contains(address);
        let named = near.proxies.iter().filter_map(|proxy| proxy.address(family)).filter(is_willing).count();
        let doubtful = self.are_too_few(proxies.len(), named);
        let proxies = nearest(near.level, &proxies);
        let deck = Deck::of(&proxies, family);
        let addresses: Vec<IpAddr> = deck.pick(site, want).addresses().to_vec();
        let lacks_v6 = family == Family::V6 && near.proxies.iter().all(|proxy| proxy.v6.is_none());
        let is_left = near.proxies.iter().any(|proxy| self.living(proxy).v4.is_some());
        let found = !addresses.is_empty() || (lacks_v6 && is_left);
        found.then_some(Choice { addresses, standing: Standing::Live, level: near.level, deck, doubtful })
    }

    /// Whether some proxy of a foreign cluster was not found dead here.
    pub(crate) fn lives(&self, near: &Near) -> bool {
        let is_alive = |proxy: Proxy| proxy.v4.is_some() || proxy.v6.is_some();
        near.proxies.iter().any(|proxy| is_alive(self.living(proxy)))
    }

    /// A foreign proxy with those of its addresses that were not found dead here.
    fn living(&self, proxy: &Proxy) -> Proxy {
        let alive = |address: IpAddr| {
            !self.dead.contains(&address) && !self.absent.contains(&SocketAddr::new(address, proxy.port))
        };
        Proxy {
            v4: proxy.v4.filter(|v4| alive((*v4).into())),
            v6: proxy.v6.filter(|v6| alive((*v6).into())),
            ..proxy.clone()
        }
    }

    /// Whether so many of so many are too few for answers that name them to be kept long.
    pub(crate) fn are_too_few(&self, live: usize, known: usize) -> bool {
        live * 100 < known * usize::from(self.doubt)
    }

    /// The servers of a level that tell this one how far they are from prefixes near all of them, as many at most: neighbours at the
    /// innermost one.
    pub(crate) fn asked_at(&self, level: Level, most: usize) -> &[Server] {
        let innermost = usize::from(level.0) + 1 == self.rings.len() && level > Level::GLOBAL;
        let servers = self.rings.get(usize::from(level.0)).filter(|_| innermost).map_or(&[][..], |ring| &ring.servers);
        servers.get(..servers.len().min(most)).unwrap_or_default()
    }

    /// Servers for a resolver that belongs there.
    pub(crate) fn servers_for(&self, placement: &Placement, prefix: Prefix) -> Vec<Server> {
        match &placement.near {
            Some(near) => self.servers_near(near, prefix),
            None if placement.level > Level::GLOBAL => self.servers_at(placement.level, prefix),
            None => self.servers_apart(prefix, false),
        }
    }

    /// Servers for a resolver that belongs to this server's cluster at a level: this one, two more of the cluster and one of the
    /// next wider. Which ones is spread by prefix. A cluster of fewer is filled up with wider ones: a delegation outlives its servers
    /// by up to an hour, and of two both are soon gone.
    pub(crate) fn servers_at(&self, level: Level, prefix: Prefix) -> Vec<Server> {
        let mut set: Vec<Server> = self.me.iter().cloned().collect();
        let mut at = usize::from(level.0);
        let cluster: Vec<Server> = self.ranked(at, prefix).collect();
        set.extend(cluster.iter().take(OF_CLUSTER.saturating_sub(set.len())).cloned());
        while at > 0 && set.len() < OF_CLUSTER + OF_WIDER {
            at -= 1;
            let left = OF_CLUSTER + OF_WIDER - set.len();
            let outside = |server: &Server| !cluster.iter().chain(&set).any(|known| known.id == server.id);
            let wider: Vec<Server> = self.ranked(at, prefix).filter(outside).take(left).collect();
            set.extend(wider);
        }
        set
    }

    /// Servers of different clusters, for a resolver nobody is known to be near to: one of them may be. `with_me` puts this
    /// server first; else it stands back, being far.
    pub(crate) fn servers_apart(&self, prefix: Prefix, with_me: bool) -> Vec<Server> {
        let mut set: Vec<Server> = self.me.iter().filter(|_| with_me).cloned().collect();
        let mut rest: Vec<Server> = Vec::new();
        for server in self.ranked(0, prefix) {
            let same = |known: &Server| known.cluster.is_some() && known.cluster == server.cluster;
            let mine = !with_me && self.me.as_ref().is_some_and(same);
            if mine || set.iter().any(same) { rest.push(server) } else { set.push(server) }
        }
        set.extend(rest);
        set.truncate(OF_CLUSTER + OF_WIDER);
        if set.is_empty() {
            set.extend(self.me.clone());
        }
        set
    }

    /// Servers of a foreign cluster, and one of the next wider; more, where fewer of that cluster are known than a set has. Of the
    /// cluster at level 1 around one farther in is whoever says that it is in the same one, and if nobody does, anybody will do.
    pub(crate) fn servers_near(&self, near: &Near, prefix: Prefix) -> Vec<Server> {
        let living = near.servers.iter().filter(|server| self.is_living(server));
        let mut set: Vec<Server> = living.take(OF_CLUSTER).cloned().collect();
        let is_named = |server: &Server| near.servers.iter().any(|near| near.id == server.id);
        let (named, others): (Vec<Server>, Vec<Server>) =
            self.ranked(0, prefix).chain(self.me.clone()).partition(is_named);
        let is_inside = near.level > Level(1);
        let region = |server: &Server| server.cluster.filter(|_| is_inside);
        let is_around =
            |server: &Server| region(server).is_some_and(|own| named.iter().any(|n| region(n) == Some(own)));
        let (next, rest): (Vec<Server>, Vec<Server>) = others.into_iter().partition(is_around);
        let left = OF_CLUSTER + OF_WIDER - set.len();
        set.extend(next.into_iter().chain(rest).take(left));
        set
    }

    fn is_living(&self, server: &Server) -> bool {
        let dead = |address: Option<IpAddr>| address.is_none_or(|address| self.dead.contains(&address));
        !(dead(server.v4.map(Into::into)) && dead(server.v6.map(Into::into)))
    }

    fn ranked(&self, level: usize, prefix: Prefix) -> impl Iterator<Item = Server> + use<> {
        let mut servers = self.rings.get(level).map(|ring| ring.servers.clone()).unwrap_or_default();
        // Dead as a proxy, dead as a server: both are one node, and this is heard of sooner than what the index says.
        if servers.iter().any(|server| self.is_living(server)) {
            servers.retain(|server| self.is_living(server));
        }
        servers.sort_by_cached_key(|server| {
            let mut hash = SipHasher24::new();
            hash.write(prefix.key().as_bytes());
            hash.write(server.id.key().as_bytes());
            (hash.finish(), server.id)
        });
        servers.into_iter()
    }
}

impl Server {
    /// Its addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

impl Proxy {
    /// Its addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// Whether this is one of its addresses.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.v4.map(IpAddr::V4) == Some(address) || self.v6.map(IpAddr::V6) == Some(address)
    }

    /// Where it is asked whether it is there, if that is known.
    pub(crate) fn targets(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        let (addresses, port) = ([self.v4.map(IpAddr::V4), self.v6.map(IpAddr::V6)], self.port);
        addresses.into_iter().flatten().filter(move |_| port > 0).map(move |address| SocketAddr::new(address, port))
    }

    /// The address of a family.
    pub(crate) fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }
}

/// Servers of the cluster in an NS set. \[design\]
const OF_CLUSTER: usize = 3;
/// Servers of the next wider cluster in an NS set. \[design\]
const OF_WIDER: usize = 1;
