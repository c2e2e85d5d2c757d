//! The reply to the common question, byte by byte and without allocation (RFC 1035 4.1, RFC 6891 6.1.2): the question again,
//! addresses under its name, an OPT where it had one. All other replies are `reply.rs`'s, which writes the same of these; a test of
//! `hot.rs` holds the two against each other.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::net::IpAddr;

use crate::{
    glance::Common,
    question::{HEADER, OPT},
};

/// What a reply follows from, beside what it names.
pub(crate) struct Brief<'q> {
    /// The question's bytes.
    pub(crate) query: &'q [u8],
    /// The same as it was read.
    pub(crate) common: &'q Common,
    /// Bytes of a datagram that this server takes.
    pub(crate) udp_payload: u16,
}

impl Brief<'_> {
    /// It names these addresses, for so many seconds.
    pub(crate) fn name(&self, ttl: u32, addresses: &[IpAddr], reply: &mut Vec<u8>) -> Option<()> {
        self.head(AA, u8::try_from(addresses.len()).ok()?, reply)?;
        let [t0, t1, t2, t3] = ttl.to_be_bytes();
        for address in addresses {
            // The name is the question's. Each record is written by one step.
            match address {
                IpAddr::V4(v4) => {
                    let [a, b, c, d] = v4.octets();
                    reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, t0, t1, t2, t3, 0, 4, a, b, c, d]);
                }
                IpAddr::V6(v6) => {
                    reply.extend_from_slice(&[0xc0, 12, 0, 28, 0, 1, t0, t1, t2, t3, 0, 16]);
                    reply.extend_from_slice(&v6.octets());
                }
            }
        }
        self.opt(reply);
        Some(())
    }

    /// The same without records, truncated.
    pub(crate) fn cut(&self, reply: &mut Vec<u8>) -> Option<()> {
        reply.clear();
        self.head(AA | TC, 0, reply)?;
        self.opt(reply);
        Some(())
    }

    fn head(&self, flags: u8, answers: u8, reply: &mut Vec<u8>) -> Option<()> {
        let [id0, id1, asked, ..] = *self.query.first_chunk::<HEADER>()?;
        let additional = u8::from(self.common.edns.is_some());
        reply.extend_from_slice(&[id0, id1, QR | flags | asked & RD, 0, 0, 1, 0, answers, 0, 0, 0, additional]);
        reply.extend_from_slice(self.query.get(HEADER..HEADER + self.common.name + 4)?);
        Some(())
    }

    fn opt(&self, reply: &mut Vec<u8>) {
        if let Some(dnssec_ok) = self.common.edns {
            let [size0, size1] = self.udp_payload.to_be_bytes();
            let [kind0, kind1] = OPT.to_be_bytes();
            let flags = if dnssec_ok { 0x80 } else { 0 };
            reply.extend_from_slice(&[0, kind0, kind1, size0, size1, 0, 0, flags, 0, 0, 0]);
        }
    }
}

const QR: u8 = 0x80;
const AA: u8 = 0x04;
const TC: u8 = 0x02;
const RD: u8 = 0x01;
