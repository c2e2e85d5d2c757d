//! What a key does not sign, because nobody would believe it.

use std::time::Duration;

use super::{Term, UnixTime};

/// The caller asked a key for what would be void.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The term is longer than any may be.
    #[error("{} days are more than {} days, the longest there is", days(span), days(&Term::LONGEST))]
    TooLong {
        /// What was asked.
        span: Duration,
    },
    /// The term is empty.
    #[error("the term ends before it begins")]
    Empty,
    /// The admission key ends before the certificate would.
    #[error("the admission key is valid until {until} only")]
    Outlives {
        /// Its end.
        until: UnixTime,
    },
    /// The admission key was not granted all of these roles.
    #[error("the admission key may not admit nodes to all of these roles")]
    Roles,
    /// Serial 0 is what nodes of open networks say of themselves.
    #[error("serial 0 is for open networks")]
    Serial,
    /// An admission key revokes nodes that it admitted, never keys.
    #[error("only the network key revokes admission keys")]
    NotTheirs,
    /// The system gave no randomness.
    #[error(transparent)]
    Randomness(#[from] super::NoRandomness),
}

/// Whole days, rounded up: 90 days and a second are more than 90.
fn days(span: &Duration) -> u64 {
    span.as_secs().div_ceil(86_400)
}
