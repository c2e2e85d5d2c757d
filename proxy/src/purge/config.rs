//! How purges are passed on and kept.

use std::time::Duration;

use serde::Deserialize;

use atoll_units::span;

use crate::guard::Range;

/// Purges.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Purging {
    /// Prefixes whose clients may purge a URL by the method `PURGE`. Empty: nobody. More: whoever reaches this port from there
    /// purges in the whole network. [bad-inputs H09]
    pub from: Vec<Range>,
    /// Node ids whose purges are believed, 40 hexadecimal digits each. Empty: those that the network's key gave the right to, and in an
    /// open network everybody. \[guess\]
    pub believed: Vec<String>,
    /// How often a peer is asked what it has purged. Shorter: more traffic, longer: a node that was cut off is behind for longer.
    /// \[guess\]
    #[serde(with = "span")]
    pub exchange: Duration,
    /// How long a peer may take to answer that. Shorter: slow peers count as cut off, longer: dead ones delay. \[guess\]
    #[serde(with = "span")]
    pub patience: Duration,
    /// A node that no peer answers has copies confirmed by the origin that are older than this. Shorter: more load on the origin,
    /// longer: what was purged elsewhere meanwhile is used for longer. [design 5]
    #[serde(with = "span")]
    pub doubt: Duration,
    /// A node that asked others twice in vain, and had no answer for so long, takes itself for cut off. Shorter: a busy network makes
    /// nodes ask the origin, longer: what was purged elsewhere meanwhile is used for longer. \[measured\]
    #[serde(with = "span")]
    pub unheard: Duration,
    /// Without any neighbour for so long, a node takes itself for alone, and doubts no longer. \[guess\]
    #[serde(with = "span")]
    pub alone: Duration,
    /// A purge that is missing between others is looked for this long; then everything is revalidated. \[guess\]
    #[serde(with = "span")]
    pub gap: Duration,
    /// How long purges are kept. A node away longer has everything revalidated. [design 5]
    #[serde(with = "span")]
    pub keep: Duration,
    /// Purges kept, about 1 KB each; past it the oldest is forgotten, and whoever has not heard of it has everything revalidated.
    /// \[guess\]
    pub records: usize,
    /// Signers known; purges of more are refused. \[guess\]
    pub signers: usize,
    /// Nodes of which is known what they have applied; past it the one longest unheard is forgotten. \[guess\]
    pub nodes: usize,
    /// Nodes that are told of a purge at a time, beside its spreading. \[guess\]
    pub at_once: usize,
}

impl Default for Purging {
    fn default() -> Self {
        Self {
            from: Vec::new(),
            believed: Vec::new(),
            exchange: Duration::from_secs(1),
            patience: Duration::from_secs(1),
            doubt: Duration::from_secs(2),
            unheard: Duration::from_secs(3),
            alone: Duration::from_secs(3_600),
            gap: Duration::from_secs(10),
            keep: Duration::from_secs(30 * 86_400),
            records: 4_096,
            signers: 64,
            nodes: 4_096,
            at_once: 32,
        }
    }
}
