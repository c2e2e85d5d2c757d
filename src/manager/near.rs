//! Which proxies of a network a client of role manager is led to, in order: those of the nearest level first, and there the few
//! nearest by weighted rendezvous of the site, the busy standing back. Pure.
//!
//! Where the node runs dnssrv, too, whose word on who is near a client goes before the index's, the proxies that its answers name for
//! the same client are put first.
//!
//! Beside `choose`, which spreads downloads that the manager itself counts: here nodes tell how busy they are, and nobody stands back
//! who is not busy at all, so that a site stays in its few caches.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use atoll_dnssrv::Lead;
use atoll_overlay::{Level, NodeId, NodeInfo};

use super::choose;

/// A proxy that a client may be led to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Near {
    /// None of one that is known by its address alone: of a cluster far from here.
    pub(super) id: Option<NodeId>,
    pub(super) address: SocketAddr,
    pub(super) level: Level,
    /// How busy it says that it is, 0 to 100.
    pub(super) load: u8,
    /// What it can carry; 1 is the norm.
    pub(super) weight: f64,
    /// Higher is better, among the few nearest.
    pub(super) score: f64,
    /// Whether it is no busier than its share.
    pub(super) calm: bool,
    /// Whether it is one of the few nearest, which share the site's requests.
    pub(super) shares: bool,
    /// Whether DNS answers name it to this client.
    pub(super) named: bool,
}

/// The nodes of one level, the nearest first, with the address at which a client reaches each.
pub(super) type Nodes = (Level, Vec<(NodeInfo, SocketAddr)>);

/// What a choice is made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'w> {
    /// Host and port of the origin.
    pub(super) site: &'w str,
    /// How many of the nearest share a site's requests.
    pub(super) spread: usize,
    /// Nodes that failed this client, by id or address.
    pub(super) not: &'w [String],
}

/// All that take clients, best first, each once. `levels` are those of each level, the inmost first.
pub(super) fn order(levels: &[Nodes], wanted: Wanted<'_>) -> Vec<Near> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for (level, nodes) in levels {
        let fresh = nodes.iter().filter(|(node, address)| {
            takes_clients(node)
                && !wanted.not.iter().any(|not| is_meant(not, node.id, *address))
                && seen.insert(node.id)
        });
        let mut near: Vec<Near> = fresh.map(|(node, address)| Near::of(node, *address, *level, wanted.site)).collect();
        // The few that share are those of the nearest level that has any.
        let few = if all.is_empty() { wanted.spread.min(near.len()) } else { 0 };
        let (sharing, _) = near.split_at_mut(few);
        bound(sharing);
        sharing.sort_by(|a, b| b.calm.cmp(&a.calm).then(b.score.total_cmp(&a.score)));
        all.append(&mut near);
    }
    all
}

/// The same, those that DNS answers lead this client to first.
pub(super) fn led(levels: &[Nodes], leads: &[Lead], wanted: Wanted<'_>) -> Vec<Near> {
    let mut order = order(levels, wanted);
    let mut first: Vec<Near> = Vec::new();
    for lead in leads {
        let known =
            levels.iter().flat_map(|(_, nodes)| nodes).find_map(|(node, _)| Some((node.id, reached(node, lead)?)));
        let Some(address) = known.map(|(_, address)| address).or_else(|| Some((lead.address, lead.port?).into()))
        else {
            // Nobody says at which port it is.
            continue;
        };
        let has_failed = wanted.not.iter().any(|not| is_at(not, address));
        let at = known.and_then(|(id, _)| order.iter().position(|near| near.id == Some(id)));
        match at.map(|at| order.remove(at)) {
            _ if has_failed => {}
            Some(near) => first.push(Near { address, named: true, ..near }),
            None if known.is_none() => first.push(Near::at(address, lead.level)),
            // It takes no clients, or has failed this one, or stands here already by another address.
            None => {}
        }
    }
    // Where all that answers name have failed this client, those in reserve are as they were.
    if !first.is_empty() {
        order.iter_mut().for_each(|near| near.shares = false);
        first.iter_mut().for_each(|near| near.shares = true);
    }
    first.append(&mut order);
    first
}

/// Where a node answers, if it is the one a lead speaks of: by whichever of its addresses, at its cleartext port.
fn reached(node: &NodeInfo, lead: &Lead) -> Option<SocketAddr> {
    let is_its = match lead.address {
        IpAddr::V4(v4) => node.v4.contains(&v4),
        IpAddr::V6(v6) => node.v6.contains(&v6),
    };
    let port = *node.http_ports.first().filter(|_| is_its)?;
    lead.port.is_none_or(|said| said == port).then_some(SocketAddr::new(lead.address, port))
}

/// Whether a text names a node.
pub(super) fn is_meant(said: &str, id: NodeId, address: SocketAddr) -> bool {
    is_at(said, address) || said == id.to_string()
}

fn is_at(said: &str, address: SocketAddr) -> bool {
    said.strip_prefix("http://").unwrap_or(said) == address.to_string()
}

impl Near {
    /// One that the index does not tell of.
    const fn at(address: SocketAddr, level: Level) -> Self {
        let (load, weight, score) = (0, 1.0, 0.0);
        Self { id: None, address, level, load, weight, score, calm: true, shares: true, named: true }
    }

    fn of(node: &NodeInfo, address: SocketAddr, level: Level, site: &str) -> Self {
        let weight = f64::from(node.weight) / NORMAL_WEIGHT;
        let seed = choose::seed(&node.id.to_string());
        let score = choose::score(choose::seed(site), seed, weight);
        let (id, load) = (Some(node.id), node.load);
        Self { id, address, level, load, weight, score, calm: true, shares: false, named: false }
    }
}

/// Marks those that share, and who of them is busier than a quarter above the mean, and busy at all.
fn bound(sharing: &mut [Near]) {
    let total: usize = sharing.iter().map(|near| usize::from(near.load)).sum();
    let mean = total / sharing.len().max(1);
    let most = (mean + mean / 4).max(BUSY);
    for near in sharing {
        near.shares = true;
        near.calm = usize::from(near.load) <= most;
    }
}

const fn takes_clients(node: &NodeInfo) -> bool {
    !node.draining && node.weight > 0 && !matches!(node.quota_left, Some(0))
}

/// The weight of a node that says nothing of it.
const NORMAL_WEIGHT: f64 = 100.0;

/// Load up to which nobody stands back, as in the DNS server. `[guess]`
const BUSY: usize = 70;
