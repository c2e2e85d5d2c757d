//! Which addresses may be dialled as an origin: the SSRF guard. Pure. The deny-set follows the special-purpose registries
//! (RFC 6890 and updates); addresses that embed an IPv4 address (6to4, Teredo, NAT64, mapped) are refused whole.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use serde::Deserialize;

/// The rules for one proxy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guard {
    /// Prefixes allowed although special.
    pub(crate) allow: Vec<Range>,
    /// Addresses with port that are never dialled, whatever else allows them.
    pub(crate) protected: Vec<SocketAddr>,
}

/// Why an address may not be dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Prohibited {
    /// It lies in a range that is not the public internet.
    #[error("{0} lies in {1}, which is not public")]
    Range(IpAddr, &'static str),
    /// It belongs to this network's own nodes.
    #[error("{0} is a node's own address")]
    Own(SocketAddr),
}

impl Guard {
    /// Checks every address of a name: one that is prohibited refuses the whole set, since the order of answers is the
    /// attacker's. `exempt` names a configured origin: only own addresses are refused then.
    pub(crate) fn check(&self, addresses: &[SocketAddr], own: &[SocketAddr], exempt: bool) -> Result<(), Prohibited> {
        for address in addresses {
            let plain = SocketAddr::new(address.ip().to_canonical(), address.port());
            if self.protected.iter().chain(own).any(|own| is_at(*own, plain)) {
                return Err(Prohibited::Own(plain));
            }
            if exempt || self.allow.iter().any(|range| range.contains(plain.ip())) {
                continue;
            }
            if let Some(range) = special(address.ip()) {
                return Err(Prohibited::Range(address.ip(), range));
            }
        }
        Ok(())
    }
}

/// Whether dialling `address` reaches a listener at `own`. One that listens on every address is reached at any loopback
/// address; its public ones are listed beside it.
fn is_at(own: SocketAddr, address: SocketAddr) -> bool {
    own.port() == address.port()
        && (own.ip().to_canonical() == address.ip()
            || own.ip().is_unspecified() && (address.ip().is_loopback() || address.ip().is_unspecified()))
}

/// The special range an address lies in, if any.
fn special(address: IpAddr) -> Option<&'static str> {
    SPECIAL.iter().find(|(range, _)| range.contains(address)).map(|(_, name)| *name)
}

/// A prefix such as `10.0.0.0/8` or `fc00::/7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Range {
    base: IpAddr,
    bits: u8,
}

/// The text is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no prefix such as \"127.0.0.0/8\"")]
pub struct RangeError(String);

impl Range {
    /// Whether the address lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                u32::from(base) & mask == u32::from(address) & mask
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                u128::from(base) & mask == u128::from(address) & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let parsed = text.split_once('/').and_then(|(base, bits)| {
            let base: IpAddr = base.parse().ok()?;
            let bits: u8 = bits.parse().ok()?;
            (bits <= if base.is_ipv4() { 32 } else { 128 }).then_some(Self { base, bits })
        });
        parsed.ok_or_else(|| RangeError(text.to_owned()))
    }
}

impl TryFrom<String> for Range {
    type Error = RangeError;

    fn try_from(text: String) -> Result<Self, RangeError> {
        text.parse()
    }
}

const fn v4(a: u8, b: u8, c: u8, bits: u8) -> Range {
    Range { base: IpAddr::V4(Ipv4Addr::new(a, b, c, 0)), bits }
}

const fn v6(a: u16, b: u16, c: u16, bits: u8) -> Range {
    Range { base: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), bits }
}

const MAPPED: Range = Range { base: IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0)), bits: 96 };

/// What is not the public internet.
const SPECIAL: &[(Range, &str)] = &[
    (v4(0, 0, 0, 8), "0.0.0.0/8 (this host)"),
    (v4(10, 0, 0, 8), "10.0.0.0/8 (private)"),
    (v4(100, 64, 0, 10), "100.64.0.0/10 (shared)"),
    (v4(127, 0, 0, 8), "127.0.0.0/8 (loopback)"),
    (v4(169, 254, 0, 16), "169.254.0.0/16 (link local)"),
    (v4(172, 16, 0, 12), "172.16.0.0/12 (private)"),
    (v4(192, 0, 0, 24), "192.0.0.0/24 (protocol assignments)"),
    (v4(192, 0, 2, 24), "192.0.2.0/24 (documentation)"),
    (v4(192, 88, 99, 24), "192.88.99.0/24 (6to4 relay)"),
    (v4(192, 168, 0, 16), "192.168.0.0/16 (private)"),
    (v4(198, 18, 0, 15), "198.18.0.0/15 (benchmarks)"),
    (v4(198, 51, 100, 24), "198.51.100.0/24 (documentation)"),
    (v4(203, 0, 113, 24), "203.0.113.0/24 (documentation)"),
    (v4(224, 0, 0, 4), "224.0.0.0/4 (multicast)"),
    (v4(240, 0, 0, 4), "240.0.0.0/4 (reserved)"),
    (MAPPED, "::ffff:0:0/96 (IPv4-mapped)"),
    (v6(0, 0, 0, 8), "::/8 (unspecified, loopback, IPv4-compatible)"),
    (v6(0x64, 0xff9b, 0, 96), "64:ff9b::/96 (NAT64)"),
    (v6(0x64, 0xff9b, 1, 48), "64:ff9b:1::/48 (local NAT64)"),
    (v6(0x100, 0, 0, 64), "100::/64 (discard)"),
    (v6(0x2001, 0, 0, 23), "2001::/23 (Teredo, protocol assignments)"),
    (v6(0x2001, 0xdb8, 0, 32), "2001:db8::/32 (documentation)"),
    (v6(0x2002, 0, 0, 16), "2002::/16 (6to4)"),
    (v6(0x3fff, 0, 0, 20), "3fff::/20 (documentation)"),
    (v6(0x5f00, 0, 0, 16), "5f00::/16 (segment routing)"),
    (v6(0xfc00, 0, 0, 7), "fc00::/7 (unique local)"),
    (v6(0xfe80, 0, 0, 10), "fe80::/10 (link local)"),
    (v6(0xfec0, 0, 0, 10), "fec0::/10 (site local)"),
    (v6(0xff00, 0, 0, 8), "ff00::/8 (multicast)"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), 80)
    }

    #[test]
    fn every_address_that_is_not_public_is_refused() {
        let guard = Guard::default();
        for inside in [
            "0.0.0.1",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "198.51.100.1",
            "203.0.113.1",
            "::",
            "::1",
            "::127.0.0.1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "::ffff:8.8.8.8",
            "::ffff:10.0.0.1",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001:0:1::1",
            "2001:db8::1",
            "3fff::1",
        ] {
            assert!(guard.check(&[at(inside)], &[], false).is_err(), "{inside}");
        }
        for public in ["8.8.8.8", "1.1.1.1", "100.63.255.255", "172.32.0.1", "192.1.0.1", "2606:4700::1", "2a00::1"] {
            assert_eq!(guard.check(&[at(public)], &[], false), Ok(()), "{public}");
        }
    }

    #[test]
    fn one_bad_answer_refuses_the_whole_set() {
        let guard = Guard::default();
        assert!(guard.check(&[at("8.8.8.8"), at("10.0.0.1")], &[], false).is_err());
    }

    #[test]
    fn own_addresses_are_refused_even_where_the_range_or_origin_is_allowed() {
        let guard = Guard { allow: vec!["127.0.0.0/8".parse().unwrap()], protected: vec![at("127.0.0.9")] };
        assert_eq!(guard.check(&[at("127.0.0.1")], &[], false), Ok(()));
        assert!(guard.check(&[at("127.0.0.9")], &[], true).is_err());
        let everywhere: SocketAddr = "0.0.0.0:80".parse().unwrap();
        assert!(guard.check(&[at("127.0.0.1")], &[everywhere], true).is_err());
        assert!(guard.check(&[at("::ffff:127.0.0.9")], &[], false).is_err());
    }

    #[test]
    fn a_prefix_has_a_base_and_a_fitting_length() {
        assert!("127.0.0.0/8".parse::<Range>().unwrap().contains("127.1.2.3".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Range>().unwrap().contains("9.9.9.9".parse().unwrap()));
        for wrong in ["127.0.0.0", "127.0.0.0/33", "::/129", "/8", "a/8", "10/8"] {
            assert!(wrong.parse::<Range>().is_err(), "{wrong}");
        }
    }
}
