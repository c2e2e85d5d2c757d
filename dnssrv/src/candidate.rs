//! A node as the index tells of it, read as this server needs it: where its proxy is asked, which share of the clients it wants, and
//! what it is as a server of the zone. Pure.

use std::net::{IpAddr, SocketAddr};

use atoll_overlay::{NodeInfo, Roles};

use crate::roster::Server;

/// Where a node's proxy is asked: its first address of each family, its cleartext port.
pub(crate) fn targets(node: &NodeInfo) -> impl Iterator<Item = SocketAddr> + use<> {
    let port = node.http_ports.first().copied().unwrap_or(80);
    let v4 = node.v4.first().copied().map(IpAddr::V4);
    let v6 = node.v6.first().copied().map(IpAddr::V6);
    v4.into_iter().chain(v6).map(move |address| SocketAddr::new(address, port))
}

/// The addresses of those of these proxies that are no servers of the zone.
pub(crate) fn mute_of(proxies: &[NodeInfo]) -> impl Iterator<Item = IpAddr> {
    let mute = proxies.iter().filter(|node| !node.roles.contain(Roles::DNSSRV));
    mute.flat_map(targets).map(|target| target.ip())
}

/// A proxy's share against others: what it wants, less the busier it is past half of what it can, and less as its quota runs out.
/// In eighths, so that small changes move no site from one proxy to another.
pub(crate) fn share(node: &NodeInfo) -> u16 {
    let calm = 8 - (u32::from(node.load.clamp(50, 100)) - 50) * 6 / 50;
    let left = node.quota_left.map_or(8, |left| u32::try_from(left / (LITTLE / 8)).unwrap_or(u32::MAX).clamp(1, 8));
    let share = u32::from(node.weight) * calm * left / 64;
    u16::try_from(share).unwrap_or(u16::MAX).max(u16::from(node.weight > 0))
}

/// As a server of the zone.
pub(crate) fn server(node: &NodeInfo) -> Server {
    Server {
        id: node.id,
        v4: node.v4.first().copied(),
        v6: node.v6.first().copied(),
        cluster: node.clusters.first().copied(),
    }
}

/// Bytes of quota left below which a proxy is sent less. \[guess\]
const LITTLE: u64 = 8 << 30;

#[cfg(test)]
mod tests {
    use atoll_overlay::{Key, NodeId};

    use super::*;

    fn node() -> NodeInfo {
        NodeInfo::new(NodeId::from(Key::from_bytes([1; 20])), Roles::PROXY)
    }

    #[test]
    fn a_busy_proxy_and_one_whose_quota_runs_out_have_a_smaller_share_but_never_none() {
        let of = |weight, load, quota_left| share(&NodeInfo { weight, load, quota_left, ..node() });
        assert_eq!([0, 50, 75, 100].map(|load| of(100, load, None)), [100, 100, 62, 25]);
        assert_eq!([LITTLE * 9, LITTLE, LITTLE / 2, 1].map(|left| of(100, 0, Some(left))), [100, 100, 50, 12]);
        assert_eq!((of(1, 100, Some(1)), of(0, 0, None)), (1, 0));
    }
}
