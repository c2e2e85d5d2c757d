//! Ceilings per client, per node and per origin, and the counters that keep them. Rates and quotas are in `fairness.rs`.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Deserialize;

use atoll_units::size;

use crate::guard::Range;

/// What may be in use at one time. Lower refuses more, higher lets one client or origin take more of the node.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections of all clients; past it a 503 is sent and the connection closed. \[guess\]
    pub connections: usize,
    /// Connections of one client: an IPv4 address or an IPv6 /64. \[guess\]
    pub connections_per_client: usize,
    /// Prefixes whose addresses are not held to `connections_per_client`, though to `connections`: a balancer in front, or a test on the
    /// same machine, speaks for many clients. By default the loopback. More: more that one address may take of the node.
    pub connections_exempt: Vec<Range>,
    /// Requests being answered; past it 503. \[guess\]
    pub requests: usize,
    /// Objects being fetched, until their bodies are there; past it 503. What the store then still has to write is its own to bound.
    /// \[guess\]
    pub flights: usize,
    /// Clients waiting on one fetch; past it 503. [users C5]
    pub waiters: usize,
    /// Variants of one URL; of more the oldest is forgotten. [bad-inputs C06]
    pub variants: usize,
    /// Bytes of a request head; past it 431. [bad-inputs H15]
    #[serde(with = "size")]
    pub head: u64,
    /// Bytes of a request target; past it 414. [bad-inputs H15]
    #[serde(with = "size")]
    pub target: u64,
    /// Fields of a request or response head; past it 431 or 502. \[guess\]
    pub fields: usize,
    /// Bytes of one field of a request head; past it 431. Above what origins take, which is 8 KB at most of them, clients can have them
    /// answer with errors; far below, large cookies are refused. [bad-inputs C03]
    #[serde(with = "size")]
    pub field: u64,
    /// Frames of one HTTP/2 connection that bring nothing (PING, SETTINGS, RST_STREAM, empty DATA and the like), beyond ten a second and
    /// one for each KiB it is sent; past it the connection ends with ENHANCE_YOUR_CALM. Lower cuts off clients that give up many
    /// downloads, higher has more work done for floods. [bad-inputs H17] \[guess\]
    pub idle_frames: u64,
    /// Bytes of a response head of an origin or peer; past it 502. [bad-inputs C13]
    #[serde(with = "size")]
    pub response_head: u64,
    /// Bytes of one object, counted as they arrive; past it the fetch fails. Coral: 50 MB. \[guess\]
    #[serde(with = "size")]
    pub object: u64,
    /// Bytes a second that a client must take of an answer, or send of a body, over the time that it is waited for; who falls behind by
    /// `timeouts.send` is cut. 0: none. Less: clients that drip hold connections for longer, more: thin lines are cut. \[guess\]
    #[serde(with = "size")]
    pub slowest_client: u64,
    /// Bytes a second that an origin must send of a body; one that falls behind by `timeouts.origin_slow` is given up. 0: none. Less:
    /// origins that drip hold flights for longer, more: slow origins are cut. [bad-inputs O07]
    #[serde(with = "size")]
    pub slowest_origin: u64,
    /// Connections to one origin; requests with bodies have half of them at most. \[guess\]
    pub origin_connections: usize,
    /// Requests that wait for a connection to one origin; past it what is stored stands in, else 503. \[guess\]
    pub origin_queue: usize,
    /// Idle connections kept to all origins. \[guess\]
    pub origin_idle: usize,
    /// Streams of peers being served; past it they are closed unanswered. \[guess\]
    pub peer_streams: usize,
    /// Failures, pass marks, scheme upgrades, peers that lied, and what origins contradicted of peers remembered, each. Past it the
    /// oldest is forgotten. \[guess\]
    pub remembered: usize,
}

impl Limits {
    /// The most connections that this client may have.
    pub(crate) fn connections_of(&self, client: IpAddr) -> usize {
        let client = client.to_canonical();
        let exempt = self.connections_exempt.iter().any(|range| range.contains(client));
        if exempt { usize::MAX } else { self.connections_per_client }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_client: 512,
            connections_exempt: ["127.0.0.0/8", "::1/128"].iter().filter_map(|text| text.parse().ok()).collect(),
            requests: 10_000,
            flights: 4_096,
            waiters: 10_000,
            variants: 32,
            head: 32 << 10,
            target: 16 << 10,
            fields: 96,
            field: 8_000,
            idle_frames: 1_000,
            response_head: 64 << 10,
            object: 16 << 30,
            slowest_client: 256,
            slowest_origin: 256,
            origin_connections: 64,
            origin_queue: 1_024,
            origin_idle: 256,
            peer_streams: 1_024,
            remembered: 16_384,
        }
    }
}

/// How many of something each client has open. A client's entry goes with its last.
#[derive(Debug, Default)]
pub(crate) struct PerClient {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One of a client's; gives its place back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    client: IpAddr,
}

impl PerClient {
    /// A place for this client, unless it has `limit` already.
    pub(crate) fn enter(&self, client: IpAddr, limit: usize) -> Option<Place> {
        let client = unit(client);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(client).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Place { open: Arc::clone(&self.open), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

/// What counts as one client: an IPv4 address, an IPv6 /64 (one household has a whole one).
fn unit(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6([a, b, c, d, 0, 0, 0, 0].into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_those_that_are_exempt_have_a_bound_and_by_default_that_is_the_loopback() {
        let limits = Limits::default();
        let of = |limits: &Limits, client: &str| limits.connections_of(client.parse().unwrap());
        for client in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(of(&limits, client), usize::MAX, "{client}");
        }
        for client in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
            assert_eq!(of(&limits, client), 512, "{client}");
        }
        let limits = Limits { connections_exempt: vec!["192.0.2.0/24".parse().unwrap()], ..limits };
        assert_eq!((of(&limits, "192.0.2.1"), of(&limits, "127.0.0.1")), (usize::MAX, 512));
    }

    #[test]
    fn a_client_has_its_limit_and_gets_places_back() {
        let clients = PerClient::default();
        let a: IpAddr = "2001:db8::1".parse().unwrap();
        let same: IpAddr = "2001:db8::2".parse().unwrap();
        let other: IpAddr = "2001:db8:0:1::1".parse().unwrap();
        let first = clients.enter(a, 2);
        let _second = clients.enter(same, 2);
        assert!(clients.enter(a, 2).is_none());
        assert!(clients.enter(other, 2).is_some());
        drop(first);
        assert!(clients.enter(same, 2).is_some());
        assert_eq!(clients.open.lock().unwrap().len(), 1);
    }
}
