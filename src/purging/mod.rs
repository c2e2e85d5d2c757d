//! Purges as an operator meets them: an order, given by `atoll purge` or by HTTP, and the report of who has applied it.
//!
//! ```text
//!   atoll purge --tag a --wait --> Order --query--> POST /purge --> Purger (the node's proxy) --> PurgeReport, node by node
//! ```

mod order;
pub(crate) use crate::percent::{escape, unescape};
pub use order::{Order, WAIT_LIMIT};

mod command;
pub use command::{Outcome, purge};

use async_trait::async_trait;
pub use atoll_proxy::{CopiesOf, NodeAck, NodeCopies, PurgeReport, PurgeTarget, StoredCopy};

/// What the admin API asks of a node that holds copies.
#[async_trait]
pub trait Purger: Send + Sync {
    /// Purges, waits as long as the order says, and tells who has applied it; or why nothing was purged.
    async fn purge(&self, order: Order) -> Result<PurgeReport, String>;

    /// The purges known, newest first.
    fn purges(&self) -> Vec<PurgeReport>;

    /// Every copy of a URL that this node and those it knows to hold one have; or why that is no URL.
    async fn copies(&self, url: &str) -> Result<CopiesOf, String>;
}
