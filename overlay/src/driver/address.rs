//! Addresses of nodes: which multiaddrs are accepted as such, `HOST:PORT` as operators write it, and what a node may say of where it
//! is. An address is IPv4, IPv6 or a DNS name with a TCP port, or a UDP port for QUIC, and nothing else: no relays, no peer id inside.

use std::net::{IpAddr, SocketAddr};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use serde::{Deserialize, Serialize};

/// What carries a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carrier {
    /// TCP, Noise and yamux: 2.6 round trips to connect, 25 KiB a connection. `[facts C]`
    Tcp,
    /// QUIC version 1 over UDP: 1.1 round trips to connect, 80 KiB a connection; a lost packet delays one stream. `[facts C]`
    Quic,
}

/// Addresses in a contact record or greeting at most.
pub(super) const LIMIT: usize = 3;

/// Bytes of one address at most; a DNS name longer than about 60 characters does not fit.
const BYTES: usize = 72;

/// The address in these bytes, if it is one that may be dialled.
pub(super) fn parse(bytes: &[u8]) -> Option<Multiaddr> {
    if bytes.len() > BYTES {
        return None;
    }
    let address = Multiaddr::try_from(bytes.to_vec()).ok()?;
    is_dialable(&address).then_some(address)
}

/// Whether this is a host and a port to dial.
pub(super) fn is_dialable(address: &Multiaddr) -> bool {
    let mut parts = address.iter();
    let host = match parts.next() {
        Some(Protocol::Ip4(ip)) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        Some(Protocol::Ip6(ip)) => !ip.is_unspecified() && !ip.is_multicast(),
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => !name.is_empty(),
        _ => false,
    };
    let port = match (parts.next(), parts.next(), parts.next()) {
        (Some(Protocol::Tcp(port)), None, None) | (Some(Protocol::Udp(port)), Some(Protocol::QuicV1), None) => port,
        _ => 0,
    };
    host && port != 0 && address.len() <= BYTES
}

/// The address alone: libp2p says behind it whom it expects there.
pub(super) fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address
}

/// What carries connections to this address. Of no meaning for one that cannot be dialled.
pub(super) fn carrier(address: &Multiaddr) -> Carrier {
    if matches!(address.iter().nth(1), Some(Protocol::Udp(_))) { Carrier::Quic } else { Carrier::Tcp }
}

/// The IP address in it, if it has one.
pub(super) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    }
}

/// The IP address and port it starts with, if it does.
pub(super) fn socket(address: &Multiaddr) -> Option<SocketAddr> {
    match address.iter().nth(1)? {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(SocketAddr::new(ip(address)?, port)),
        _ => None,
    }
}

/// The address of an IP address and port.
pub(super) fn of_socket(carrier: Carrier, socket: SocketAddr) -> Multiaddr {
    let host = Protocol::from(socket.ip());
    match carrier {
        Carrier::Tcp => Multiaddr::from_iter([host, Protocol::Tcp(socket.port())]),
        Carrier::Quic => Multiaddr::from_iter([host, Protocol::Udp(socket.port()), Protocol::QuicV1]),
    }
}

/// Whether it leads back into this machine.
pub(super) fn is_loopback(address: &Multiaddr) -> bool {
    ip(address).is_some_and(|ip| ip.to_canonical().is_loopback())
}

/// A node to join by: an address, and its peer id where the operator gave one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seed {
    pub(super) address: Multiaddr,
    pub(super) peer: Option<PeerId>,
}

impl Seed {
    /// Reads `HOST:PORT`, `[IPV6]:PORT`, or a multiaddr with or without `/p2p/PEER`.
    pub(super) fn parse(text: &str) -> Result<Self, AddressError> {
        let refused = |reason| AddressError { text: text.to_owned(), reason };
        if !text.starts_with('/') {
            let address = host_and_port(text).ok_or_else(|| refused("it is neither HOST:PORT nor a multiaddr"))?;
            return Ok(Self { address, peer: None });
        }
        let mut address = text.parse::<Multiaddr>().map_err(|_| refused("it is no multiaddr"))?;
        let peer = match address.iter().last() {
            Some(Protocol::P2p(peer)) => {
                address.pop();
                Some(peer)
            }
            _ => None,
        };
        if !is_dialable(&address) {
            return Err(refused("only a host with /tcp/PORT or /udp/PORT/quic-v1, PORT not 0, can be dialled"));
        }
        Ok(Self { address, peer })
    }
}

/// An address to listen on: an IP address and a port, 0 allowed.
pub(super) fn parse_listen(text: &str) -> Result<Multiaddr, AddressError> {
    let refused = |reason| AddressError { text: text.to_owned(), reason };
    let address = text.parse::<Multiaddr>().map_err(|_| refused("it is no multiaddr"))?;
    let mut parts = address.iter();
    let host = matches!(parts.next(), Some(Protocol::Ip4(_) | Protocol::Ip6(_)));
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Protocol::Tcp(_)), None, None) | (Some(Protocol::Udp(_)), Some(Protocol::QuicV1), None) if host => {
            Ok(address)
        }
        _ => Err(refused("only an IP address with /tcp/PORT or /udp/PORT/quic-v1 can be listened on")),
    }
}

/// An address for others to dial.
pub(super) fn parse_advertised(text: &str) -> Result<Multiaddr, AddressError> {
    Seed::parse(text).map(|seed| seed.address)
}

fn host_and_port(text: &str) -> Option<Multiaddr> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse::<u16>().ok().filter(|port| *port != 0)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match bare.unwrap_or(host).parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => Protocol::Ip4(ip),
        Ok(IpAddr::V6(ip)) if bare.is_some() => Protocol::Ip6(ip),
        Ok(IpAddr::V6(_)) => return None,
        Err(_) if is_name(host) => Protocol::Dns(host.to_owned().into()),
        Err(_) => return None,
    };
    let address = Multiaddr::from_iter([host, Protocol::Tcp(port)]);
    is_dialable(&address).then_some(address)
}

fn is_name(host: &str) -> bool {
    let letters = |label: &str| label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    host.trim_end_matches('.').split('.').all(|label| (1..64).contains(&label.len()) && letters(label))
}

/// An address in the configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the address {text:?} cannot be used: {reason}")]
pub struct AddressError {
    /// As it stands in the configuration.
    pub text: String,
    /// Why not.
    pub reason: &'static str,
}

#[cfg(test)]
mod tests {
    use super::{Seed, is_dialable, parse, parse_listen};

    #[test]
    fn a_seed_is_host_and_port_or_a_multiaddr() {
        let cases = [
            ("127.0.0.1:7400", "/ip4/127.0.0.1/tcp/7400"),
            ("[::1]:7400", "/ip6/::1/tcp/7400"),
            ("seed.example.net:7400", "/dns/seed.example.net/tcp/7400"),
            ("/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.1/tcp/1"),
            ("/dns4/a.test/tcp/7400", "/dns4/a.test/tcp/7400"),
            ("/ip4/192.0.2.1/udp/1/quic-v1", "/ip4/192.0.2.1/udp/1/quic-v1"),
        ];
        for (text, address) in cases {
            let seed = Seed::parse(text).unwrap();
            assert_eq!((seed.address.to_string().as_str(), seed.peer), (address, None), "{text}");
        }
        let peer = libp2p::PeerId::random();
        let seed = Seed::parse(&format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}")).unwrap();
        assert_eq!(seed.peer, Some(peer));
        let bad = [
            "",
            ":1",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "::1:7400",
            "a b:1",
            "/ip4/1.2.3.4",
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/1.2.3.4/udp/1",
            "/ip4/1.2.3.4/udp/0/quic-v1",
            "/ip4/1.2.3.4/tcp/1/quic-v1",
            "/ip4/224.0.0.1/tcp/1",
            "0.0.0.0:80",
        ];
        for text in bad {
            assert!(Seed::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_an_ip_address_and_a_port_is_listened_on() {
        assert!(parse_listen("/ip4/127.1.0.1/tcp/0").is_ok());
        assert!(parse_listen("/ip4/127.1.0.1/udp/0/quic-v1").is_ok());
        assert!(parse_listen("/ip4/127.1.0.1/udp/0").is_err());
        assert!(parse_listen("/dns/localhost/tcp/1").is_err());
        assert!(parse_listen("127.0.0.1:1").is_err());
    }

    #[test]
    fn foreign_bytes_become_a_dialable_address_or_none() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Some(address) = parse(bytes) {
                assert!(is_dialable(&address));
            }
        });
    }
}
