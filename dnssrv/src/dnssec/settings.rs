//! The settings of signing.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use atoll_units::span;

/// How answers are signed: as they are made, by one ECDSA P-256 key, with compact denial of existence. Modes `direct` and `plain`
/// only. \[RFC 4035, 6605, 9824\]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dnssec {
    /// The file of the zone's key, as `atoll key zone` makes it; the same on every server of the zone. None: nothing is signed.
    pub key: Option<PathBuf>,
    /// How long a signature is valid; it is made anew after a quarter of it. Shorter: more are made, and a server whose clock is
    /// off or that cannot sign is out sooner; longer: what was signed by mistake lives on. \[guess\]
    #[serde(with = "span")]
    pub validity: Duration,
    /// Signatures made in one second, and at once: so many for datagrams and as many for connections. Past it a datagram is
    /// answered by an order to ask over TCP, a connection by SERVFAIL. More: a flood of names that do not exist takes more of a
    /// core. \[guess\]
    pub per_second: u32,
    /// Signatures kept; about 250 bytes each. Fewer: more are made. \[guess\]
    pub signatures: usize,
}

impl Default for Dnssec {
    fn default() -> Self {
        Self { key: None, validity: Duration::from_secs(4 * 86_400), per_second: 5000, signatures: 65_536 }
    }
}
