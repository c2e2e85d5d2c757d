//! The redirector: an authoritative DNS server that leads each client to a near, live proxy. It answers for one zone from
//! memory: a public name is a CNAME into a tree of levels, real referrals lead each resolver to servers near it, and those give
//! the addresses of proxies they have themselves seen answer. It knows the network only as an [`Index`](atoll_overlay::Index).
//!
//! ```text
//!   resolver            server.rs           respond.rs                        answer.rs (pure)
//!      |-- query bytes --->|--- question.rs --->|-- place, placement, roster --->|
//!      |<-- reply bytes ---|<---- reply.rs -----|<-------- records, TTLs --------|
//!                                               |
//!      gap.rs, probe.rs, scout.rs: how far? -> placing.rs, client.rs ---> near.rs, hints.rs <---> Index: who is near?
//!      live.rs: who answers over HTTP? ---> roster.rs          dnssec/: proofs and signatures
//!      hot.rs: the common question, by itself                  guide.rs: the same choice for redirects
//! ```
//!
//! Read [`serve`] and [`Server`] first, then `answer.rs`, where the design is.

mod company;
mod config;
pub use config::{ApexServer, Config, Health, Limits, Mode, QueryLog, RateLimit, StaticRecord, Ttls};
mod measuring;
pub use measuring::{Probes, Sources};

mod network;
pub use network::Network;

mod error;
pub use error::ServeError;

mod server;
mod udp;
pub use server::{Server, serve};
mod connection;
mod doh;
mod later;
mod seats;

mod brief;
mod glance;
mod hot;
mod places;
mod redirector;
pub use redirector::Explanation;
mod explain;
mod guide;
mod respond;
pub use guide::{Guide, Lead};
mod query_log;

mod cookie;
mod limit;
mod question;
mod reply;

mod answer;
mod chain;
mod deck;
mod heat;
mod roster;
mod site;
mod zone;

mod loc;
mod master;
mod plain;
mod rdata;
mod serial;
mod service;
mod words;

mod dnssec;
pub use dnssec::{Dnssec, ZoneKey, ZoneKeyError};

mod candidate;
mod client;
mod distances;
mod gap;
mod health_check;
mod hints;
mod last_good;
mod live;
mod minima;
pub use minima::Source;
mod near;
mod nearest;
mod overrides;
mod placement;
mod placing;
mod probe;
mod scout;
mod search;
mod targets;
mod telling;
mod waiters;

mod atlas;
pub use atlas::Destination;
mod stats;
pub use stats::{Stats, Transport};

#[cfg(test)]
mod foreign_bytes;
#[cfg(test)]
mod never_empty;
#[cfg(test)]
mod script;
#[cfg(test)]
mod switches;

/// Tests count what they ask of the heap.
#[cfg(test)]
#[global_allocator]
static HEAP: atoll_sys::heap::Counted = atoll_sys::heap::Counted;
