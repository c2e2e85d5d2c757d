//! What can go wrong when a proxy starts, grouped by who must act. What goes wrong with one request is a
//! [`crate::reason::Failure`].

use std::{io, net::SocketAddr};

use crate::url::UrlError;

/// Why the proxy did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration names something that cannot be: the operator must change it.
    #[error("{setting}: {source}")]
    Setting {
        /// Which setting, as written in the file.
        setting: String,
        /// What is wrong with it.
        source: UrlError,
    },
    /// An address could not be bound: in use, not ours, or not permitted.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}
