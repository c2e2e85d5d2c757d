//! The HTTP cache: from a Coralized name to bytes, out of memory, disk, a peer or the origin.
//!
//! A request's head is judged on its raw bytes, its host mapped to an origin's URL, and the answer found: in the store, by
//! joining the fetch under way, from a peer that the index names, or, asked once in the network, from the origin. Bytes stream
//! on as they arrive, to every client and every peer that waits for them.
//!
//! ```text
//!   client --> gate --> step --> store hit ------------------------------> deliver --> client
//!                         |                                                  ^
//!                         +--> flight (one per key) <-- fetch -- peers (Streams, named by Index)
//!                                   |                      \---- origin (asked under a lease)
//!   peer ---> serve_peer -----------+--> announce (20 s at the first byte, 1 h when whole)
//! ```
//!
//! What is purged anywhere in the network is used no longer: `purge/`.
//!
//! Read [`Proxy`] first, then `step.rs`: the life of one request.

mod config;
pub use config::{
    AccessFormat, AccessLogConfig, Any, Certificate, Config, FreshnessConfig, Origins, Peers, Query, Ranges, SetCookie,
    Site, SiteOrigin, Timeouts,
};
mod error;
pub use error::StartError;

mod connection;
mod server;
mod shed;
pub use server::Proxy;
mod log;
mod stats;
mod tally;
pub use stats::{Served, Stats};

mod calm;
mod wire;

mod ahead;
pub use ahead::{Ahead, Early, Front, PlainRequest};
mod alarm;
mod chunks;
mod gate;
mod gated;
pub use gated::Gated;
mod hot;
mod http2;
pub use http2::Http2Config;
mod interim;
mod limits;
mod observe;
mod patience;
mod plain;
pub use limits::Limits;

mod fairness;
mod metered;
pub use fairness::{FairnessConfig, Share, Standing};
mod quota;
pub use quota::{Caps, Quota, Used};
mod rate;
pub use rate::Bucket;

mod url;
pub use url::{Authority, OriginUrl, Scheme, UrlError};
mod zone;
pub use zone::{Coralized, Forms, Zone};

mod admit;
mod body;
mod cache;
mod clock;
mod conditions;
mod deliver;
mod flight;
mod forward;
mod found;
mod home;
mod lookup;
mod part;
mod plan;
pub use plan::SlicesConfig;
mod posted;
mod reason;
mod receive;
mod respond;
mod site;
mod slices;
mod step;
mod takedown;
mod wanted;
mod wish;
pub use reason::{Failure, Reason, Source};

mod copies;
pub use copies::{CopiesOf, NodeCopies, StoredCopy};

mod purge;
pub use purge::{NodeAck, PurgeError, PurgeReport, PurgeTarget, Purging};

mod trace;
pub use trace::{Traced, TracedStep, trace_pass};

mod absence;
mod announce;
mod beside;
mod checked;
mod company;
mod complete;
mod digest;
mod fetch;
mod follow_on;
mod following;
mod frames;
mod from_origin;
mod keeper;
mod kept;
mod ledger;
mod liars;
mod memory;
mod peer;
mod recheck;
mod reference;
mod seek;
mod serve_peer;
mod swarm;
mod uploads;
mod variants;
mod vouch;

mod apart;
mod breaker;
mod guard;
mod origin;
mod request_body;
mod resolve;
pub use breaker::BreakerConfig;
pub use guard::{Range, RangeError};

mod date;
mod directives;
mod freshness;
mod meta;
mod stated;
mod structured;
