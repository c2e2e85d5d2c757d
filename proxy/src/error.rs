//! What can go wrong when a proxy starts, grouped by who must act. What goes wrong with one request is a
//! [`crate::reason::Failure`].

use std::{io, net::SocketAddr, path::PathBuf};

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
    /// The access log cannot be opened.
    #[error("{}: {source}", file.display())]
    AccessLog {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The takedown list cannot be read or followed: the operator must mend it, since without it what must not be served would be.
    #[error("{}: {source}", file.display())]
    Takedown {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A certificate or key cannot be read or used: the operator must change the file.
    #[error(transparent)]
    Certificate(#[from] atoll_tls::CertificateError),
    /// TLS is listened for and there is no certificate.
    #[error("listen_tls needs at least one certificate")]
    NoCertificate,
}
