//! `[admin]`: where the operator reaches the node.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use atoll_units::span;
use serde::Deserialize;

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Its Unix socket, open to the node's own user and to root. Unset: `admin.sock` in the state directory; "": none.
    pub socket: PathBuf,
    /// TCP addresses, at most 16; every request there needs the token. None by default. Port 0 takes any free one.
    pub listen: Vec<SocketAddr>,
    /// Allows TCP addresses other than loopback: the token then crosses the network in clear text.
    pub remote: bool,
    /// Names, beside addresses and `localhost`, under which a browser may reach it, at most 16: others are refused, so that
    /// a foreign page cannot reach it by a name of its own (DNS rebinding).
    pub hosts: Vec<String>,
    /// File that holds the token, 32 to 256 printable characters. Unset: `admin.token` in the state directory, made if absent.
    pub token_file: Option<PathBuf>,
    /// Connections served at once on each address, 1 to 1024; more wait to be accepted. More costs memory. `[guess]`
    pub connections: usize,
    /// How long a client may take to send a request, 100 ms to 60 s. Shorter drops slow clients, longer lets idle ones hold a
    /// connection. `[guess]`
    #[serde(with = "span")]
    pub head_timeout: Duration,
    /// Bytes a request's body may have, 0 to 16777216. No request needs one. `[guess]`
    pub body_limit: usize,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            socket: PathBuf::new(),
            listen: Vec::new(),
            remote: false,
            hosts: Vec::new(),
            token_file: None,
            connections: 64,
            head_timeout: Duration::from_secs(5),
            body_limit: 65_536,
        }
    }
}
