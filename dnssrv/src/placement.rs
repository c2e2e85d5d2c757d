//! Where a prefix belongs, as everything that chooses by it is told: `client.rs` by what is known of the prefix, `overrides.rs` by the
//! operator's word.

use std::{sync::Arc, time::Duration};

use atoll_overlay::Level;

use crate::{distances::Distances, near::Near};

/// Where a prefix belongs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Placement {
    /// The level at which it is served: of this server's cluster there, or of `near`.
    pub(crate) level: Level,
    /// The RTT from here, if measured.
    pub(crate) rtt: Option<Duration>,
    /// A foreign cluster that is nearer to it than this server's.
    pub(crate) near: Option<Arc<Near>>,
    /// Whether this is known well enough to be kept: measured, and others asked unless nothing could be nearer.
    pub(crate) settled: bool,
    /// How far nodes are from it, this one included.
    pub(crate) distances: Distances,
    /// Whether the operator's file says so. It holds for this server's answers and is no measurement, so nobody else is told.
    pub(crate) placed: bool,
}

impl Placement {
    /// Whether anything says where this prefix belongs.
    pub(crate) const fn is_known(&self) -> bool {
        self.rtt.is_some() || self.near.is_some() || self.placed
    }
}
