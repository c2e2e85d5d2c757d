//! Purges: what is no longer to be used, said once by one node, signed, and in force at every node.
//!
//! ```text
//!   operator --order--> Purges --signed--> Index::spread --> every node: believed? new? --> Store::purge, ledger
//!                          |                                                ^
//!                          +---- exchange: heads, what the other lacks -----+   every second with some peer, and
//!                                                                               with all until they have applied it
//! ```
//!
//! An object is purged if its request to the origin began before the purge was applied here; the store's numbers say so. A copy from
//! a peer is refused if a purge means it that its fetcher had not applied: it signs its heads with the copy's. A node that was cut off, or has
//! just started, has what it holds confirmed by the origin until it is in step again. Read [`Purges`] first, then `ledger`.

mod purges;
pub(crate) use purges::{Purges, unix_millis};
mod step;

mod ledger;
pub(crate) use ledger::Heads;
mod selector;
pub(crate) use selector::{host_of, place_of};
mod tags;
pub(crate) use tags::{bits, tags_of};

mod talk;
pub(crate) use talk::{PATH, get};

mod order;
pub(crate) use order::origin_url;
pub use order::{NodeAck, PurgeError, PurgeReport, PurgeTarget};
mod method;
pub(crate) use method::purge as purge_method;

mod config;
pub use config::Purging;
