//! A query as it came: header, the one question, EDNS (RFC 1035 4.1, RFC 6891, RFC 7871). Nothing is believed, nothing is
//! answered that cannot be; each refusal says which. No name in a query is a pointer, so none can loop.
//!
//! hickory's decoder is not used for queries: it drops the question of what it cannot read, and takes a client subnet of family
//! 0 (which resolvers send to say "none") for malformed.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::{DNSClass, Name, RecordType};

use crate::{cookie::Cookie, near::Reader};

/// A query that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    /// What every reply repeats.
    pub(crate) header: Header,
    /// The name, in the case it came in.
    pub(crate) name: Name,
    /// The type asked for.
    pub(crate) kind: RecordType,
    /// The class asked for.
    pub(crate) class: DNSClass,
    /// The OPT record, if there was one.
    pub(crate) edns: Option<Edns>,
}

/// The part of a query that every reply repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Header {
    /// The id.
    pub(crate) id: u16,
    /// The operation, 0 to 15.
    pub(crate) opcode: u8,
    /// "Recursion desired", repeated.
    pub(crate) rd: bool,
    /// Bytes of the question after the header, if it could be read.
    pub(crate) question: usize,
}

/// What an OPT record said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Edns {
    /// The version.
    pub(crate) version: u8,
    /// Bytes the client takes over UDP.
    pub(crate) payload: u16,
    /// "DNSSEC OK", repeated.
    pub(crate) dnssec_ok: bool,
    /// Whether NSID was asked for.
    pub(crate) nsid: bool,
    /// The client subnet.
    pub(crate) subnet: Option<Subnet>,
    /// The cookie.
    pub(crate) cookie: Option<Cookie>,
    /// Whether it was asked how long a connection may idle.
    pub(crate) keepalive: bool,
    /// Whether it was said instead, which is not a client's to say and means nothing in a datagram (RFC 7828 3.1, 3.2.1).
    pub(crate) says_keepalive: bool,
    /// "Compact answers OK": NXDOMAIN is taken beside a proof in short form (RFC 9824 5.1).
    pub(crate) compact: bool,
    /// Whether the query was padded, and so the reply is to be (RFC 7830 4).
    pub(crate) padded: bool,
}

/// A client subnet (RFC 7871 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet {
    /// 0 (only with a prefix of 0), 1 or 2: repeated.
    pub(crate) family: u16,
    /// Its first address, for families 1 and 2.
    pub(crate) address: Option<IpAddr>,
    /// Bits of the address that are given.
    pub(crate) prefix: u8,
}

/// Why there is no query to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Say nothing: too short, or itself a reply.
    Drop,
    /// FORMERR. Who speaks EDNS is answered so, with what of it could be read (RFC 6891 7).
    Malformed(Header, Option<Edns>),
    /// NOTIMP: an operation other than QUERY. Who speaks EDNS is answered so (RFC 6891 7).
    Operation(Header, Option<Edns>),
    /// No question, and none needed: a cookie is asked for (RFC 7873 5.4).
    Bare(Header, Edns),
}

impl Query {
    /// Reads a message.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let mut from = Reader(bytes);
        let fields: [u8; 12] = from.array().ok_or(Refusal::Drop)?;
        let [id0, id1, flags0, _, counts @ ..] = fields;
        if flags0 & 0x80 != 0 {
            return Err(Refusal::Drop);
        }
        let mut header =
            Header { id: u16::from_be_bytes([id0, id1]), opcode: flags0 >> 3 & 0x0f, rd: flags0 & 1 != 0, question: 0 };
        let counts = pairs(counts);
        if header.opcode != 0 {
            return Err(Refusal::Operation(header, any_edns(&mut from, counts)));
        }
        let [questions, answers, authorities, additionals] = counts;
        let malformed = |edns| Refusal::Malformed(header, edns);
        if questions == 0 {
            let edns = extra(&mut from, answers, authorities, additionals).map_err(malformed)?;
            let asks = |edns: &Edns| edns.cookie.is_some() && from.0.is_empty();
            return Err(edns.filter(asks).map_or_else(|| malformed(edns), |edns| Refusal::Bare(header, edns)));
        }
        if questions != 1 {
            return Err(malformed(any_edns(&mut from, counts)));
        }
        let labels = labels(&mut from).ok_or_else(|| malformed(None))?;
        let name = Name::from_labels(labels).map_err(|_| malformed(None))?;
        let kind = RecordType::from(from.u16().ok_or_else(|| malformed(None))?);
        let class = DNSClass::from(from.u16().ok_or_else(|| malformed(None))?);
        header.question = bytes.len() - HEADER - from.0.len();
        let malformed = |edns| Refusal::Malformed(header, edns);
        let edns = extra(&mut from, answers, authorities, additionals).map_err(malformed)?;
        // What follows the last record belongs to no message.
        if !from.0.is_empty() {
            return Err(malformed(edns));
        }
        Ok(Self { header, name, kind, class, edns })
    }
}

/// The records after the question: only an OPT among the additional ones means anything in a query. An error is what of EDNS could
/// be read before, or in spite of, what is wrong.
fn extra(
    from: &mut Reader<'_>,
    answers: u16,
    authorities: u16,
    additionals: u16,
) -> Result<Option<Edns>, Option<Edns>> {
    // A query answers nothing. IXFR puts its SOA in the authority section.
    let mut wrong = answers != 0;
    for _ in 0..u32::from(answers) + u32::from(authorities) {
        wrong |= record(from).ok_or(None)?.kind == OPT;
    }
    let mut edns = None;
    for _ in 0..additionals {
        let record = record(from).ok_or(edns)?;
        if record.kind == OPT {
            // At most one (RFC 6891 6.1.1), and of the root.
            wrong |= edns.is_some() || !record.root;
            let read = Edns::parse(&record);
            wrong |= read.is_err();
            edns = edns.or_else(|| Some(read.unwrap_or_else(|head| head)));
        }
    }
    if wrong { Err(edns) } else { Ok(edns) }
}

/// The OPT record of a message whose other sections mean something else; none if it cannot be found.
fn any_edns(from: &mut Reader<'_>, [questions, answers, authorities, additionals]: [u16; 4]) -> Option<Edns> {
    for _ in 0..questions {
        skip_name(from)?;
        from.array::<4>()?;
    }
    for _ in 0..u32::from(answers) + u32::from(authorities) {
        record(from)?;
    }
    for _ in 0..additionals {
        let record = record(from)?;
        if record.kind == OPT && record.root {
            return Some(Edns::parse(&record).unwrap_or_else(|head| head));
        }
    }
    None
}

impl Edns {
    /// An error is the record without its options, one of which is malformed.
    fn parse(record: &Raw<'_>) -> Result<Self, Self> {
        let [_, version, flags, _] = record.ttl;
        let head = Self {
            version,
            payload: record.class,
            dnssec_ok: flags & 0x80 != 0,
            compact: flags & 0x40 != 0,
            ..Self::default()
        };
        if version != 0 {
            // Options of another version are not ours to read: BADVERS says so.
            return Ok(head);
        }
        head.with_options(record.data).ok_or(head)
    }

    fn with_options(self, data: &[u8]) -> Option<Self> {
        let mut edns = self;
        let mut from = Reader(data);
        while !from.0.is_empty() {
            let code = from.u16()?;
            let length = from.u16()?;
            let data = from.slice(length.into())?;
            match code {
                NSID => edns.nsid = true,
                // The first one counts (RFC 7873 5.2).
                COOKIE if edns.cookie.is_none() => edns.cookie = Some(Cookie::parse(data)?),
                KEEPALIVE if data.is_empty() => edns.keepalive = true,
                KEEPALIVE => edns.says_keepalive = true,
                PADDING => edns.padded = true,
                SUBNET if edns.subnet.is_none() => edns.subnet = subnet(data)?,
                _ => {}
            }
        }
        Some(edns)
    }
}

/// Some(None): a family we do not know, which is passed over (RFC 7871 7.1.1 leaves it to us). None: malformed.
fn subnet(data: &[u8]) -> Option<Option<Subnet>> {
    let mut from = Reader(data);
    let family = from.u16()?;
    let [prefix, scope] = from.array()?;
    // The scope is the answer's to say (RFC 7871 6).
    if scope != 0 {
        return None;
    }
    let given = from.0;
    let widest: u8 = match family {
        0 if prefix == 0 && given.is_empty() => return Some(Some(Subnet { family, address: None, prefix })),
        1 => 32,
        2 => 128,
        _ => return Some(None),
    };
    // As many octets as the prefix needs, the bits beyond it zero (RFC 7871 6).
    if prefix > widest || given.len() != usize::from(prefix).div_ceil(8) {
        return None;
    }
    let spare = (8 - prefix % 8) % 8;
    if given.last().is_some_and(|last| u32::from(*last) & ((1 << spare) - 1) != 0) {
        return None;
    }
    let mut octets = [0_u8; 16];
    octets.iter_mut().zip(given).for_each(|(to, from)| *to = *from);
    let [a, b, c, d, ..] = octets;
    let address = if family == 1 { Ipv4Addr::new(a, b, c, d).into() } else { Ipv6Addr::from(octets).into() };
    Some(Some(Subnet { family, address: Some(address), prefix }))
}

/// The least TTL of a reply's answers and authority, if there is any: how long HTTP may keep it (RFC 8484 5.1).
pub(crate) fn least_ttl(reply: &[u8]) -> Option<u32> {
    let mut from = Reader(reply);
    let [_, _, _, _, counts @ ..] = from.array::<HEADER>()?;
    let [questions, answers, authorities, _] = pairs(counts);
    for _ in 0..questions {
        skip_name(&mut from)?;
        from.array::<4>()?;
    }
    let count = usize::from(answers) + usize::from(authorities);
    (0..count).map_while(|_| record(&mut from)).map(|record| u32::from_be_bytes(record.ttl)).min()
}

struct Raw<'a> {
    root: bool,
    kind: u16,
    class: u16,
    ttl: [u8; 4],
    data: &'a [u8],
}

fn record<'a>(from: &mut Reader<'a>) -> Option<Raw<'a>> {
    let root = skip_name(from)?;
    let kind = from.u16()?;
    let class = from.u16()?;
    let ttl = from.array()?;
    let length = from.u16()?;
    Some(Raw { root, kind, class, ttl, data: from.slice(length.into())? })
}

/// The labels of the question's name. A pointer there has nothing before it to point to.
fn labels<'a>(from: &mut Reader<'a>) -> Option<Vec<&'a [u8]>> {
    let mut labels = Vec::new();
    let mut length = 1_usize;
    loop {
        let [size] = from.array()?;
        length += usize::from(size) + 1;
        match size {
            0 => return Some(labels),
            1..=63 if length <= 255 => labels.push(from.slice(size.into())?),
            _ => return None,
        }
    }
}

/// Passes over a record's owner, whose pointers need not be followed to know where it ends. Says whether it is the root.
fn skip_name(from: &mut Reader<'_>) -> Option<bool> {
    let mut root = true;
    for _ in 0..128 {
        let [size] = from.array()?;
        match size {
            0 => return Some(root),
            1..=63 => _ = from.slice(size.into())?,
            0xc0.. => {
                let [_] = from.array()?;
                return Some(false);
            }
            64..=0xbf => return None,
        }
        root = false;
    }
    None
}

fn pairs(counts: [u8; 8]) -> [u16; 4] {
    let [a, b, c, d, e, f, g, h] = counts;
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), u16::from_be_bytes([e, f]), u16::from_be_bytes([g, h])]
}

impl Reader<'_> {
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }
}

/// Bytes of a message's header.
pub(crate) const HEADER: usize = 12;
/// The type of the EDNS record.
pub(crate) const OPT: u16 = 41;
/// The option that asks who answers.
pub(crate) const NSID: u16 = 3;
/// The client subnet option.
pub(crate) const SUBNET: u16 = 8;
/// The option that shows where a client is.
pub(crate) const COOKIE: u16 = 10;
/// The option that makes messages of like length.
pub(crate) const PADDING: u16 = 12;
/// The option that says how long a connection may idle.
pub(crate) const KEEPALIVE: u16 = 11;
