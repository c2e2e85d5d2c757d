//! The node behind a front: a proxy with no listeners of its own, before one backend, in the manager's private network.

use std::{net::IpAddr, path::Path, time::Duration};

use atoll_overlay::driver::Admission;

use super::{ask::Place, site::Site};
use crate::config::{Config, Role};

/// What the node is made of.
#[derive(Debug, Clone)]
pub(crate) struct Behind<'b> {
    /// The front's own directory; the node has one inside.
    pub(crate) state: &'b Path,
    pub(crate) site: &'b Site,
    /// The network's name.
    pub(crate) network: &'b str,
    /// Nodes to ask first.
    pub(crate) bootstrap: Vec<String>,
    /// Where the overlay listens; port 0 takes any.
    pub(crate) overlay: (IpAddr, u16),
    /// Where clients reach the front.
    pub(crate) url: &'b Place,
    /// How long running fetches may take to end.
    pub(crate) grace: Duration,
}

impl Behind<'_> {
    /// The configuration of such a node.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::default();
        let state = self.state.join("node");
        config.store.directory = Some(state.join("cache"));
        config.admin.socket = state.join("admin.sock");
        config.node.state = state;
        config.node.roles = vec![Role::Proxy];
        config.node.network = self.network.to_owned();
        config.node.bootstrap.clone_from(&self.bootstrap);
        config.node.drain_wait = Duration::ZERO;
        config.node.drain_grace = self.grace;
        let host = self.url.host().trim_start_matches('[').trim_end_matches(']');
        config.node.addresses = host.parse().into_iter().collect();
        config.node.http_ports = vec![self.url.port()];
        // Members show a certificate, which the manager puts in the node's directory.
        config.overlay.admission = Admission::Closed;
        config.overlay.network = self.network.to_owned();
        config.overlay.bootstrap.clone_from(&self.bootstrap);
        let (address, port) = self.overlay;
        let family = if address.is_ipv4() { "ip4" } else { "ip6" };
        config.overlay.listen = vec![format!("/{family}/{address}/tcp/{port}")];
        config.proxy.network = self.network.to_owned();
        config.proxy.listen = Vec::new();
        config.proxy.sites = [self.site.configured()].into();
        // A backend that says nothing about freshness is asked again after this: a file server's usual silence.
        config.proxy.freshness.default = Duration::from_secs(60);
        config
    }
}

/// The overlay's port of a running node, from its status.
pub(crate) fn overlay_port(status: &crate::Status) -> Option<u16> {
    let own = status.listen.iter().find(|listening| listening.service == "overlay")?;
    own.address.rsplit_once(':')?.1.parse().ok()
}
