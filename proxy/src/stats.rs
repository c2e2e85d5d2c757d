//! What the proxy counts: for the status page as [`Stats`], for the metrics exporter by name. No label ever carries a host, a URL
//! or a client.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use atoll_overlay::Level;
use http::{Method, Request, StatusCode, Version};
use serde::Serialize;

use crate::{
    freshness,
    reason::{Failure, Source},
    site::Own,
    step::{Tenant, Told},
    tally::{Flow, Outcome},
};

/// A moment's counts. All but `flights`, `connections`, `peer_streams` and `circuits_open` only grow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Stats {
    /// Requests of clients answered, errors included.
    pub requests: u64,
    /// Where the answers came from.
    pub served: Served,
    /// Requests that shared another's fetch; each also counts under its source.
    pub collapsed: u64,
    /// Answers that were stale, as allowed.
    pub stale: u64,
    /// Requests sent to origins, revalidations included.
    pub origin_requests: u64,
    /// Of these, those the index did not answer for in time.
    pub origin_ungranted: u64,
    /// Body bytes received from origins.
    pub origin_bytes: u64,
    /// Answers that were not stored, by why: words of Cache-Status.
    pub not_stored: BTreeMap<&'static str, u64>,
    /// Body bytes received from peers.
    pub peer_bytes: u64,
    /// Lookups among the near that came back: at most one for each object that was not here, none where nobody is near.
    pub near_lookups: u64,
    /// Those that named a copy.
    pub near_found: u64,
    /// Fetches from peers by what came of them: `ok`, `timeout`, `hash_mismatch`, `stale`, `refused`, `no_room`, `too_large`, `store_failed`.
    pub peer_fetches: BTreeMap<&'static str, u64>,
    /// Fetches that went to the origin because no peer made progress.
    pub hedged: u64,
    /// Times that another peer was faster than one that made no progress.
    pub hedged_by_peers: u64,
    /// Copies sent to peers, whole or in part.
    pub peer_served: u64,
    /// Times that a peer was told that all places for copies were taken.
    pub peer_uploads_refused: u64,
    /// Copies from peers whose bytes were not those promised.
    pub peer_mismatches: u64,
    /// Times that a peer was caught lying.
    pub peer_lies: u64,
    /// Times that an origin said otherwise than what a peer had signed.
    pub peer_contradictions: u64,
    /// Requests and heads refused: by the gate, by policy, by a ceiling.
    pub refused: u64,
    /// Objects being fetched now.
    pub flights: u64,
    /// Connections of clients now.
    pub connections: u64,
    /// Of these, those on which HTTP/1.1 is spoken.
    pub connections_h1: u64,
    /// Of these, those on which HTTP/2 is spoken.
    pub connections_h2: u64,
    /// Streams of peers being served now.
    pub peer_streams: u64,
    /// Times that changed certificates or a changed takedown list came into force.
    pub reloads: u64,
    /// Origins that are left alone now, because they were not there again and again.
    pub circuits_open: u64,
}

/// Answers by where their bytes came from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Served {
    /// The own store, RAM or disk.
    pub local: u64,
    /// Peers, by the nearest level shared with them.
    pub peers: BTreeMap<u8, u64>,
    /// The origin.
    pub origin: u64,
    /// Nobody: an error of ours.
    pub error: u64,
}

/// The counters behind [`Stats`].
#[derive(Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    local: AtomicU64,
    peers: Mutex<BTreeMap<u8, u64>>,
    origin: AtomicU64,
    error: AtomicU64,
    collapsed: AtomicU64,
    stale: AtomicU64,
    origin_requests: AtomicU64,
    origin_ungranted: AtomicU64,
    origin_bytes: AtomicU64,
    not_stored: Mutex<BTreeMap<&'static str, u64>>,
    peer_bytes: AtomicU64,
    near_lookups: AtomicU64,
    near_found: AtomicU64,
    peer_fetches: Mutex<BTreeMap<&'static str, u64>>,
    hedged: AtomicU64,
    hedged_by_peers: AtomicU64,
    peer_served: AtomicU64,
    peer_uploads_refused: AtomicU64,
    peer_mismatches: AtomicU64,
    peer_lies: AtomicU64,
    peer_contradictions: AtomicU64,
    refused: AtomicU64,
    reloads: AtomicU64,
    h1: AtomicU64,
    h2: AtomicU64,
    /// The metrics of what [`Self::hit`] counts on Coralized names, looked up once.
    hits: OnceLock<metrics::Counter>,
    /// The metrics of answers by their outcome, looked up once.
    flows: OnceLock<[Flow; Outcome::ALL.len()]>,
    /// The metrics of what origins answer well, looked up once.
    origins: OnceLock<FromOrigins>,
}

/// The metrics of what comes from origins.
struct FromOrigins {
    duration: metrics::Histogram,
    good: metrics::Counter,
    bytes: metrics::Counter,
}

/// A connection of a client's on which this is spoken, until dropped.
pub(crate) struct Spoke<'a>(&'a AtomicU64);

impl Drop for Spoke<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How a request came, in the words of the metrics.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    proto: &'static str,
    method: &'static str,
}

impl Way {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let known =
            [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS];
        let words = ["get", "head", "post", "put", "delete", "patch", "options"];
        let method = known.iter().zip(words).find(|(known, _)| *known == request.method());
        Self {
            proto: if request.version() == Version::HTTP_2 { "h2" } else { "h1" },
            // Whoever invents methods makes no series of them.
            method: method.map_or("other", |(_, word)| word),
        }
    }
}

impl Counters {
    /// A client's GET was answered out of RAM: as [`Self::answered`] has it, for less. Of so many one is timed, and said to be.
    pub(crate) fn hit(&self, site: Option<&Own>, began: Instant) -> bool {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        add(&self.local, 1);
        let found = site.map_or(&self.hits, |site| &site.hits);
        let hits = found.get_or_init(|| {
            let tenant = site.map_or_else(
                || metrics::SharedString::from(Tenant::CORALIZED),
                |site| metrics::SharedString::from(site.tenant.clone()),
            );
            metrics::counter!(
                "atoll_http_requests_total",
                "proto" => "h1", "method" => "get", "code" => "200", "cache" => Outcome::Hit.word(), "tenant" => tenant
            )
        });
        hits.increment(1);
        let timed = number.is_multiple_of(TIMED_ONE_IN);
        if timed {
            self.flow(Outcome::Hit).began(began.elapsed());
        }
        timed
    }

    /// What is counted of the answers with this outcome.
    pub(crate) fn flow(&self, outcome: Outcome) -> &Flow {
        &self.flows.get_or_init(|| Outcome::ALL.map(Flow::of))[outcome as usize]
    }

    /// A client speaks HTTP/1.1.
    pub(crate) fn speaks_h1(&self) -> Spoke<'_> {
        add(&self.h1, 1);
        Spoke(&self.h1)
    }

    /// A client speaks HTTP/2.
    pub(crate) fn speaks_h2(&self) -> Spoke<'_> {
        add(&self.h2, 1);
        Spoke(&self.h2)
    }

    /// A client's request was answered: its head is on its way after so long.
    pub(crate) fn answered(&self, way: Way, status: StatusCode, told: &Told, after: Duration) {
        add(&self.requests, 1);
        match told.source {
            Some(Source::Memory | Source::Disk) => add(&self.local, 1),
            Some(Source::Peer(Level(level))) => {
                *self.peers.lock().unwrap_or_else(PoisonError::into_inner).entry(level).or_default() += 1;
            }
            Some(Source::Origin) => add(&self.origin, 1),
            None => add(&self.error, 1),
        }
        add(&self.collapsed, u64::from(told.collapsed));
        add(&self.stale, u64::from(told.stale));
        let outcome = Outcome::of(told);
        self.flow(outcome).began(after);
        metrics::counter!(
            "atoll_http_requests_total",
            "proto" => way.proto,
            "method" => way.method,
            "code" => status.as_str().to_owned(),
            "cache" => outcome.word(),
            "tenant" => told.tenant.word()
        )
        .increment(1);
    }

    /// A request goes to an origin.
    pub(crate) fn origin_request(&self) {
        add(&self.origin_requests, 1);
    }

    /// What came of it, after so long.
    pub(crate) fn origin_answer(&self, answer: Result<StatusCode, Failure>, after: Duration) {
        self.origins().duration.record(after.as_secs_f64());
        let result = match answer {
            Ok(status) if freshness::is_server_error(status) => "5xx",
            Ok(status) if status.is_client_error() => "4xx",
            Ok(_) => return self.origins().good.increment(1),
            Err(Failure::Prohibited) => {
                metrics::counter!("atoll_origin_denied_total", "reason" => "private_ip").increment(1);
                "denied"
            }
            Err(_) => "failed",
        };
        metrics::counter!("atoll_origin_requests_total", "result" => result).increment(1);
    }

    /// A fetch went to the origin without the index having granted it.
    pub(crate) fn ungranted(&self) {
        add(&self.origin_ungranted, 1);
        metrics::counter!("atoll_origin_ungranted_total").increment(1);
    }

    pub(crate) fn origin_bytes(&self, count: usize) {
        add(&self.origin_bytes, wide(count));
        self.origins().bytes.increment(wide(count));
    }

    fn origins(&self) -> &FromOrigins {
        self.origins.get_or_init(|| FromOrigins {
            duration: metrics::histogram!("atoll_origin_duration_seconds"),
            good: metrics::counter!("atoll_origin_requests_total", "result" => "ok"),
            bytes: metrics::counter!("atoll_origin_bytes_total"),
        })
    }

    pub(crate) fn peer_bytes(&self, count: usize) {
        add(&self.peer_bytes, wide(count));
    }

    /// A copy was sent to a peer.
    pub(crate) fn peer_served(&self) {
        add(&self.peer_served, 1);
    }

    /// A peer found no place: among those that one growing copy is given to (`growing`), or parts of whole ones (`parts`).
    pub(crate) fn upload_refused(&self, bound: &'static str) {
        add(&self.peer_uploads_refused, 1);
        metrics::counter!("atoll_peer_uploads_refused_total", "bound" => bound).increment(1);
    }

    /// A fetch from a peer ended: `ok`, `timeout`, `hash_mismatch`, `stale`, `refused`, `no_room`, `too_large`, `store_failed`.
    pub(crate) fn peer_fetch(&self, result: &'static str) {
        add(&self.peer_mismatches, u64::from(result == "hash_mismatch"));
        *self.peer_fetches.lock().unwrap_or_else(PoisonError::into_inner).entry(result).or_default() += 1;
        metrics::counter!("atoll_peer_fetch_total", "result" => result).increment(1);
    }

    /// A peer was caught lying.
    pub(crate) fn liar(&self) {
        add(&self.peer_lies, 1);
        metrics::counter!("atoll_peer_lies_total").increment(1);
    }

    /// An origin said otherwise than what a peer had signed.
    pub(crate) fn contradicted(&self) {
        add(&self.peer_contradictions, 1);
        metrics::counter!("atoll_peer_contradictions_total").increment(1);
    }

    /// A lookup among the near came back.
    pub(crate) fn near_lookup(&self, found: bool) {
        add(&self.near_lookups, 1);
        add(&self.near_found, u64::from(found));
        metrics::counter!("atoll_near_lookups_total", "found" => if found { "yes" } else { "no" }).increment(1);
    }

    /// A hedge was decided for one side: the origin, or another peer.
    pub(crate) fn hedge(&self, won: &'static str) {
        add(if won == "origin" { &self.hedged } else { &self.hedged_by_peers }, 1);
        metrics::counter!("atoll_peer_hedge_total", "won" => won).increment(1);
    }

    /// A file was looked at again; whether what it says now came into force, which is said on.
    pub(crate) fn reloaded(&self, changed: bool) -> bool {
        add(&self.reloads, u64::from(changed));
        changed
    }

    /// Something was refused.
    pub(crate) fn refused(&self) {
        add(&self.refused, 1);
    }

    /// The gate refused a head.
    pub(crate) fn head_refused(&self, status: StatusCode) {
        add(&self.refused, 1);
        metrics::counter!("atoll_http_heads_refused_total", "code" => status.as_str().to_owned()).increment(1);
    }

    /// Something was not stored; each such answer counts once.
    pub(crate) fn not_stored(&self, reason: crate::reason::Reason) {
        *self.not_stored.lock().unwrap_or_else(PoisonError::into_inner).entry(reason.word()).or_default() += 1;
        metrics::counter!("atoll_cache_not_stored_total", "reason" => reason.word()).increment(1);
    }

    /// The counts so far; those that are not counted here are zero.
    pub(crate) fn stats(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            requests: get(&self.requests),
            served: Served {
                local: get(&self.local),
                peers: self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                origin: get(&self.origin),
                error: get(&self.error),
            },
            collapsed: get(&self.collapsed),
            stale: get(&self.stale),
            origin_requests: get(&self.origin_requests),
            origin_ungranted: get(&self.origin_ungranted),
            origin_bytes: get(&self.origin_bytes),
            not_stored: self.not_stored.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            peer_bytes: get(&self.peer_bytes),
            near_lookups: get(&self.near_lookups),
            near_found: get(&self.near_found),
            peer_fetches: self.peer_fetches.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            hedged: get(&self.hedged),
            hedged_by_peers: get(&self.hedged_by_peers),
            peer_served: get(&self.peer_served),
            peer_uploads_refused: get(&self.peer_uploads_refused),
            peer_mismatches: get(&self.peer_mismatches),
            peer_lies: get(&self.peer_lies),
            peer_contradictions: get(&self.peer_contradictions),
            refused: get(&self.refused),
            reloads: get(&self.reloads),
            flights: 0,
            connections: 0,
            connections_h1: get(&self.h1),
            connections_h2: get(&self.h2),
            peer_streams: 0,
            circuits_open: 0,
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Of the hits that take the shorter way, one in so many is timed: reading the clock would be felt.
const TIMED_ONE_IN: u64 = 64;
