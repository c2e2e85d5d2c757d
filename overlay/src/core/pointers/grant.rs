//! Why a root granted a fetch: what an operator asks who sees an object fetched twice.

use std::fmt;

use crate::{Key, Lease, NodeId};

/// A fetch that this node granted as the root of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// What is fetched.
    pub key: Key,
    /// Who fetches it.
    pub holder: NodeId,
    /// By what right.
    pub lease: Lease,
    /// Why nobody was named instead.
    pub why: Why,
    /// Nearer nodes that this one stands in for, since they do not answer in time.
    pub standing_in: usize,
    /// Other nodes that hold the lease too.
    pub copies: usize,
}

/// Why a fetch was granted rather than somebody named who has a copy or fetches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Nothing was known of the key.
    First,
    /// The last fetch ended and left nothing to share.
    GivenBack,
    /// The last holder was not heard of for too long.
    Lapsed,
    /// The last holder failed an asker, and the root.
    Silent,
    /// The last holder is the root itself, which does not answer.
    RootSilent,
    /// All that have copies failed the asker.
    CopiesFailed,
    /// The marker of the last fetch ran out.
    MarkerOver,
}

impl Why {
    /// As it stands in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::GivenBack => "given-back",
            Self::Lapsed => "lapsed",
            Self::Silent => "holder-silent",
            Self::RootSilent => "root-silent",
            Self::CopiesFailed => "copies-failed",
            Self::MarkerOver => "marker-over",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.as_str())
    }
}
