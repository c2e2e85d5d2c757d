//! `atoll warm` for a network of nodes: files put into caches before anybody asks for them.
//!
//! ```text
//!   URLs, lists, sitemaps --urls--> what
//!   node here --/nodes--> who: K of each cluster, the same ones for all files of a site
//!   each file: one node fetches it, the others then have it from their peer; read to its end here, counted and hashed
//!   journal: what is done, so that the next run goes on
//!   at the end: each node gives what it has, without fetching anything, and it is compared; the node here is told, for its dashboard
//! ```

mod board;
mod journal;
mod nodes;
mod run;
mod sitemaps;
mod throttle;
mod urls;

pub(crate) use board::Board;
pub use board::{Warmed, WarmedCopy, Warmth};
pub use nodes::{Nodes, Place};
pub(crate) use nodes::{browsers_codings, is_own, secure_own};
pub use run::run;
pub(crate) use urls::listed;
