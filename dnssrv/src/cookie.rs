//! DNS cookies (RFC 7873), as RFC 9018 has them made: a client that returns one has shown that it is where it says, and is
//! spared the rate limit. Nothing is kept: a cookie carries when it was made, and the secret of that day follows from one master
//! secret, which servers at one address may share.
//!
//! ```text
//!   server cookie: version 1, three zeros, seconds since 1970 (4 bytes), SipHash-2-4(client cookie, those 8 bytes, address)
//! ```

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::{hash::Hasher as _, net::IpAddr};

use siphasher::sip::SipHasher24;

/// A COOKIE option as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cookie {
    /// The client's part.
    pub(crate) client: [u8; 8],
    /// The server's part, if it has the length of ours.
    pub(crate) server: Option<[u8; 16]>,
    /// Whether a server's part came at all, of whatever length.
    pub(crate) returned: bool,
}

/// What makes and knows cookies.
#[derive(Debug, Clone)]
pub(crate) struct Cookies {
    master: [u8; 16],
}

impl Cookie {
    /// Reads an option's data. None: malformed, which is answered FORMERR (RFC 7873 5.2.2).
    pub(crate) fn parse(data: &[u8]) -> Option<Self> {
        let (client, server) = data.split_first_chunk::<8>()?;
        match server.len() {
            0 | 8..=32 => Some(Self { client: *client, server: server.try_into().ok(), returned: !server.is_empty() }),
            _ => None,
        }
    }
}

impl Cookies {
    /// With a master secret.
    pub(crate) const fn new(master: [u8; 16]) -> Self {
        Self { master }
    }

    /// The server's part for a client, made at a time in seconds since 1970.
    pub(crate) fn make(&self, client: [u8; 8], from: IpAddr, seconds: u32) -> [u8; 16] {
        server_cookie(&self.of_day(seconds), client, from, seconds)
    }

    /// Whether a cookie is one of ours for this client, not older than an hour nor from beyond the next five minutes.
    pub(crate) fn is_good(&self, cookie: &Cookie, from: IpAddr, now: u32) -> bool {
        let Some(server) = cookie.server else { return false };
        let [_, _, _, _, a, b, c, d, ..] = server;
        let made = u32::from_be_bytes([a, b, c, d]);
        // Serial arithmetic (RFC 1982), as RFC 9018 4.3 asks.
        let age = now.wrapping_sub(made).cast_signed();
        (-FROM_AHEAD..=LONGEST).contains(&age) && self.make(cookie.client, from, made) == server
    }

    /// The secret of the day a time lies in: it changes by itself, and yesterday's can still be made.
    fn of_day(&self, seconds: u32) -> [u8; 16] {
        let half = |which: u8| {
            let mut hash = SipHasher24::new_with_key(&self.master);
            hash.write(&[which]);
            hash.write(&(seconds / DAY).to_be_bytes());
            hash.finish().to_be_bytes()
        };
        let mut key = [0; 16];
        key.iter_mut().zip(half(0).into_iter().chain(half(1))).for_each(|(to, from)| *to = from);
        key
    }
}

/// The server's part under a secret (RFC 9018 4).
fn server_cookie(secret: &[u8; 16], client: [u8; 8], from: IpAddr, seconds: u32) -> [u8; 16] {
    let [a, b, c, d] = seconds.to_be_bytes();
    let head = [1, 0, 0, 0, a, b, c, d];
    let mut hash = SipHasher24::new_with_key(secret);
    hash.write(&client);
    hash.write(&head);
    match from.to_canonical() {
        IpAddr::V4(v4) => hash.write(&v4.octets()),
        IpAddr::V6(v6) => hash.write(&v6.octets()),
    }
    let mut cookie = [0; 16];
    cookie.iter_mut().zip(head.into_iter().chain(hash.finish().to_le_bytes())).for_each(|(to, from)| *to = from);
    cookie
}

const DAY: u32 = 86_400;
/// \[RFC 9018 4.3\]
const LONGEST: i32 = 3600;
/// \[RFC 9018 4.3\]
const FROM_AHEAD: i32 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u32 = 1_700_000_000;
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn a_cookie_is_good_for_its_client_for_an_hour_across_the_change_of_secrets() {
        let cookies = Cookies::new([7; 16]);
        let midnight = NOW - NOW % DAY;
        for made in [NOW, midnight - 10] {
            let cookie = Cookie { client: [1; 8], server: Some(cookies.make([1; 8], HERE, made)), returned: true };
            assert!(cookies.is_good(&cookie, HERE, made) && cookies.is_good(&cookie, HERE, made + 3600));
            assert!(!cookies.is_good(&cookie, HERE, made + 3601), "too old");
            assert!(cookies.is_good(&cookie, HERE, made - 300) && !cookies.is_good(&cookie, HERE, made - 301));
            assert!(!cookies.is_good(&cookie, [192, 0, 2, 2].into(), made), "of another address");
            assert!(!cookies.is_good(&Cookie { client: [2; 8], ..cookie }, HERE, made), "of another client");
            assert!(!Cookies::new([8; 16]).is_good(&cookie, HERE, made), "of another server");
        }
    }

    #[test]
    fn a_cookie_is_that_of_rfc_9018_appendix_a_1() {
        let secret = 0xe5e9_73e5_a6b2_a43f_48e7_dc84_9e37_bfcf_u128.to_be_bytes();
        let client = 0x2464_c4ab_cf10_c957_u64.to_be_bytes();
        let made = server_cookie(&secret, client, [198, 51, 100, 100].into(), 1_559_731_985);
        assert_eq!(u128::from_be_bytes(made), 0x0100_0000_5cf7_9f11_1f81_30c3_eee2_9480);
    }

    #[test]
    fn lengths_no_cookie_has_are_malformed() {
        for length in 0..=50 {
            assert_eq!(Cookie::parse(&vec![1; length]).is_some(), matches!(length, 8 | 16..=40), "{length}");
        }
    }
}
