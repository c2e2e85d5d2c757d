//! What can go wrong here, grouped by who must act.

use std::net::SocketAddr;

/// Why the redirector could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The operator must change the configuration.
    #[error("dnssrv.{field}: {reason}")]
    Config {
        /// Which setting, by its path in the configuration.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The operator must free or change an address.
    #[error("cannot listen on {address} ({transport}): {source}")]
    Bind {
        /// The address refused.
        address: SocketAddr,
        /// `"udp"` or `"tcp"`.
        transport: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl ServeError {
    pub(crate) fn config(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config { field: field.into(), reason: reason.into() }
    }
}
