//! A reply's bytes: the question as it came, the records compressed (hickory's encoder), OPT last. If it does not fit over UDP,
//! sets of additional records are left out from the end (RFC 2181 9), but for a referral's addresses, without which it is of no use
//! (RFC 9471). If that is not enough, all records are left out and TC says so.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::{net::IpAddr, time::Duration};

use hickory_proto::{
    op::ResponseCode,
    rr::RecordType,
    serialize::binary::{BinEncodable as _, BinEncoder},
};

use crate::{
    answer::Answer,
    question::{COOKIE, Edns, HEADER, Header, KEEPALIVE, NSID, OPT, PADDING, SUBNET, Subnet},
};

/// What of a reply does not come from the answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    /// Of the query.
    pub(crate) header: Header,
    /// The whole query.
    pub(crate) query: &'a [u8],
    /// The query's EDNS; without it there is none in the reply.
    pub(crate) edns: Option<Edns>,
    /// Bits of the client subnet the answer holds for.
    pub(crate) scope: u8,
    /// The server's part of the cookie, if the client sent its own.
    pub(crate) cookie: Option<([u8; 8], [u8; 16])>,
    /// Whether NXDOMAIN goes beside a proof in short form.
    pub(crate) compact: bool,
    /// Whether nobody may tell what was asked from the reply's length (RFC 8467).
    pub(crate) padded: bool,
    /// How long a connection may idle, if this is one and it was asked.
    pub(crate) keepalive: Option<Duration>,
    /// What NSID says, if anything.
    pub(crate) nsid: &'a str,
    /// What we take over UDP.
    pub(crate) payload: u16,
    /// Bytes the reply may have.
    pub(crate) limit: u16,
}

/// The bytes of a reply, never more than the limit.
pub(crate) fn encode(answer: &Answer, frame: &Frame<'_>) -> Vec<u8> {
    let whole = if answer.cut { None } else { encode_whole(answer, frame) };
    whole.unwrap_or_else(|| truncated(answer, frame))
}

/// The reply without its records, and TC: the client is to ask over TCP. Over TCP it would ask for ever: there it is told to look
/// elsewhere.
pub(crate) fn truncated(answer: &Answer, frame: &Frame<'_>) -> Vec<u8> {
    if frame.limit == u16::MAX {
        return encode_whole(&Answer::of(ResponseCode::ServFail), frame).unwrap_or_default();
    }
    let cut = Answer { authoritative: answer.authoritative, ..Answer::of(answer.code) };
    let mut bytes = encode_whole(&cut, frame).unwrap_or_default();
    if let Some(flags) = bytes.get_mut(2) {
        *flags |= TC;
    }
    bytes
}

fn encode_whole(answer: &Answer, frame: &Frame<'_>) -> Option<Vec<u8>> {
    let opt = frame.edns.map(|edns| opt(answer, frame, &edns)).unwrap_or_default();
    let question = frame.query.get(HEADER..HEADER + frame.header.question)?;
    let code = u16::from(answer.code);
    let authoritative = if answer.authoritative { AA } else { 0 };
    let mut bytes = Vec::with_capacity(512);
    bytes.extend(frame.header.id.to_be_bytes());
    let [_, code] = (code & 0x0f).to_be_bytes();
    bytes.push(QR | frame.header.opcode << 3 | authoritative | u8::from(frame.header.rd));
    // No RA and no AD; CD is cleared (RFC 4035 3.1.6).
    bytes.push(code);
    let count = |records: usize| u16::try_from(records).unwrap_or(u16::MAX).to_be_bytes();
    bytes.extend(count(usize::from(!question.is_empty())));
    bytes.extend(count(answer.answers.len()));
    bytes.extend(count(answer.authority.len()));
    let counts_end = bytes.len();
    bytes.extend(count(0));
    bytes.extend(question);
    let offset = u32::try_from(bytes.len()).ok()?;
    let mut encoder = BinEncoder::with_offset(&mut bytes, offset);
    // It writes names whole before it shortens them: what fits is seen at the end.
    encoder.set_max_size(u16::MAX);
    remember_question(&mut encoder, question);
    for record in answer.answers.iter().chain(&answer.authority) {
        record.emit(&mut encoder).ok()?;
    }
    let is_referral = answer.authority.iter().any(|record| record.record_type() == RecordType::NS);
    let (mut fits, mut additional) = (encoder.offset(), 0);
    // Nothing that was written points into what is cut off: the first that does not fit is the last that is written.
    for set in answer.additional.chunk_by(|a, b| a.name == b.name && a.record_type() == b.record_type()) {
        let written = set.iter().try_for_each(|record| record.emit(&mut encoder));
        let is_over = written.is_err() || encoder.offset() + opt.len() > usize::from(frame.limit);
        if is_over && is_referral {
            return None;
        }
        if is_over {
            break;
        }
        (fits, additional) = (encoder.offset(), additional + set.len());
    }
    bytes.truncate(fits);
    let additional = count(additional + usize::from(!opt.is_empty()));
    bytes.get_mut(counts_end..counts_end + additional.len())?.copy_from_slice(&additional);
    let padding = if frame.padded && !opt.is_empty() { padding(bytes.len() + opt.len()) } else { Vec::new() };
    bytes.extend(lengthened(opt, padding));
    (bytes.len() <= usize::from(frame.limit)).then_some(bytes)
}

/// The option that makes a message of this length one of whole blocks.
fn padding(length: usize) -> Vec<u8> {
    let zeros = (BLOCK - (length + 4) % BLOCK) % BLOCK;
    let mut option = PADDING.to_be_bytes().to_vec();
    option.extend(u16::try_from(zeros).unwrap_or(0).to_be_bytes());
    option.resize(4 + zeros, 0);
    option
}

/// An OPT record with one option more.
fn lengthened(mut opt: Vec<u8>, option: Vec<u8>) -> Vec<u8> {
    opt.extend(option);
    if let Some((head, options)) = opt.split_at_mut_checked(OPT_HEAD)
        && let Some(length) = head.last_chunk_mut::<2>()
    {
        *length = u16::try_from(options.len()).unwrap_or(u16::MAX).to_be_bytes();
    }
    opt
}

/// Lets names point into the question.
fn remember_question(encoder: &mut BinEncoder<'_>, question: &[u8]) {
    // The name is what is left of the question without the root's byte, the type and the class.
    let end = HEADER + question.len().saturating_sub(5);
    let mut at = HEADER;
    while at < end {
        let Some(length) = question.get(at - HEADER) else { return };
        encoder.store_label_pointer(at, end);
        at += usize::from(*length) + 1;
    }
}

fn opt(answer: &Answer, frame: &Frame<'_>, edns: &Edns) -> Vec<u8> {
    let mut options = Vec::new();
    let mut option = |code: u16, data: &[u8]| {
        options.extend(code.to_be_bytes());
        options.extend(u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
        options.extend(data);
    };
    if edns.nsid && !frame.nsid.is_empty() {
        option(NSID, frame.nsid.as_bytes());
    }
    if let Some((client, server)) = frame.cookie {
        option(COOKIE, &[&client[..], &server].concat());
    }
    if let Some(idle) = frame.keepalive {
        // In tenths of a second (RFC 7828 3.1).
        let tenths = u16::try_from(idle.as_millis() / 100).unwrap_or(u16::MAX);
        option(KEEPALIVE, &tenths.to_be_bytes());
    }
    if let Some(subnet) = edns.subnet {
        option(SUBNET, &echo(&subnet, frame.scope));
    }
    if let Some(error) = answer.error {
        option(EXTENDED_ERROR, &[&error.0.to_be_bytes()[..], error.1.as_bytes()].concat());
    }
    let mut opt = vec![0];
    opt.extend(OPT.to_be_bytes());
    opt.extend(frame.payload.to_be_bytes());
    let [_, extended] = (u16::from(answer.code) >> 4).to_be_bytes();
    let flags = if edns.dnssec_ok { DO } else { 0 } | if frame.compact { CO } else { 0 };
    opt.extend([extended, 0, flags, 0]);
    opt.extend(u16::try_from(options.len()).unwrap_or(u16::MAX).to_be_bytes());
    opt.extend(options);
    opt
}

/// Family, prefix and address as they came, with the scope (RFC 7871 7.2.1).
fn echo(subnet: &Subnet, scope: u8) -> Vec<u8> {
    let mut data = subnet.family.to_be_bytes().to_vec();
    data.extend([subnet.prefix, if subnet.prefix == 0 { 0 } else { scope }]);
    let given = usize::from(subnet.prefix).div_ceil(8);
    match subnet.address {
        Some(IpAddr::V4(v4)) => data.extend(v4.octets().iter().take(given)),
        Some(IpAddr::V6(v6)) => data.extend(v6.octets().iter().take(given)),
        None => {}
    }
    data
}

/// What a code is called in metrics: one of a few words.
#[expect(clippy::wildcard_enum_match_arm, reason = "the codes are the protocol's, not ours; metrics name a few")]
pub(crate) const fn code_name(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "noerror",
        ResponseCode::FormErr => "formerr",
        ResponseCode::ServFail => "servfail",
        ResponseCode::NXDomain => "nxdomain",
        ResponseCode::NotImp => "notimp",
        ResponseCode::Refused => "refused",
        ResponseCode::BADVERS => "badvers",
        ResponseCode::BADCOOKIE => "badcookie",
        ResponseCode::YXDomain => "yxdomain",
        _ => "other",
    }
}

const QR: u8 = 0x80;
const AA: u8 = 0x04;
const TC: u8 = 0x02;
const DO: u8 = 0x80;
/// \[RFC 9824 5.1\]
const CO: u8 = 0x40;
/// Bytes of a block that replies fill \[RFC 8467 4.1\].
const BLOCK: usize = 468;
/// Bytes of an OPT record before its options.
const OPT_HEAD: usize = 11;
const EXTENDED_ERROR: u16 = 15;

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::Message,
        rr::{
            Name, RData, Record,
            rdata::{A, NS, TXT},
        },
    };

    use super::*;
    use crate::{answer::Extended, cookie::Cookie};

    /// The types of a message's records, and whether it ends where they do.
    fn types(reply: &[u8]) -> (Vec<u16>, bool) {
        let count = |at: usize| usize::from(u16::from_be_bytes([reply[at], reply[at + 1]]));
        let mut at = HEADER;
        let skip_name = |at: &mut usize| loop {
            let length = usize::from(reply[*at]);
            *at += if length >= 0xc0 { 2 } else { 1 + length };
            if length == 0 || length >= 0xc0 {
                break;
            }
        };
        for _ in 0..count(4) {
            skip_name(&mut at);
            at += 4;
        }
        let records = count(6) + count(8) + count(10);
        let types = (0..records).map(|_| {
            skip_name(&mut at);
            let kind = u16::from_be_bytes([reply[at], reply[at + 1]]);
            at += 10 + usize::from(u16::from_be_bytes([reply[at + 8], reply[at + 9]]));
            kind
        });
        (types.collect(), at == reply.len())
    }

    fn record((kind, name, length, ttl): (u8, u8, u8, u32)) -> Record {
        let names = ["nyud.example.", "www.nyud.example.", "a.b.www.nyud.example.", "ns.other.example.", "."];
        let named = |at: u8| Name::from_ascii(names[usize::from(at) % names.len()]).unwrap();
        let data = match kind % 3 {
            0 => RData::A(A::new(192, 0, 2, length)),
            1 => RData::NS(NS(named(length))),
            _ => RData::TXT(TXT::new(vec!["x".repeat(length.into())])),
        };
        Record::from_rdata(named(name), ttl & 0x7fff_ffff, data)
    }

    #[test]
    fn any_answer_is_encoded_within_its_limit_so_that_it_is_read_again_and_its_opt_stands_last() {
        type Sections = [Vec<(u8, u8, u8, u32)>; 3];
        let query = b"\x07\x07\0\0\0\x01\0\0\0\0\0\0\x03www\x04nyud\x07example\0\0\x01\0\x01";
        bolero::check!().with_type::<(Sections, u16, u16, u8, [u8; 4])>().for_each(
            |(sections, limit, code, with, subnet)| {
                let of = |at: usize| sections[at].iter().copied().map(record).collect::<Vec<_>>();
                let is = |bit: u8| with & 1 << bit != 0;
                let answer = Answer {
                    answers: of(0),
                    authority: of(1),
                    additional: of(2),
                    error: is(0).then_some(Extended::NOT_READY),
                    cut: is(1),
                    ..Answer::of((code & 0xfff).into())
                };
                let prefix = subnet[0] % 33;
                let subnet = Subnet { family: 1, address: Some(IpAddr::from(*subnet)), prefix };
                let cookie = Cookie { client: [1; 8], server: None, returned: false };
                let edns = Edns {
                    nsid: is(2),
                    subnet: is(3).then_some(subnet),
                    cookie: is(4).then_some(cookie),
                    ..Edns::default()
                };
                // Over TCP nothing is cut, and there alone replies are padded.
                let (limit, padded) = if is(5) { (u16::MAX, is(6)) } else { (512 + limit % 3585, false) };
                let frame = Frame {
                    header: Header { id: 0x0707, question: query.len() - HEADER, ..Header::default() },
                    query,
                    edns: is(7).then_some(edns),
                    scope: 24,
                    cookie: edns.cookie.map(|cookie| (cookie.client, [2; 16])),
                    compact: false,
                    padded,
                    keepalive: None,
                    nsid: "one of many",
                    payload: 1232,
                    limit,
                };
                let reply = encode(&answer, &frame);
                assert!(reply.len() <= usize::from(limit), "{} of {limit} bytes", reply.len());
                let read = Message::from_vec(&reply).expect("it is well formed");
                let (types, ends) = types(&reply);
                assert!(ends, "nothing follows the last record");
                let opts: Vec<usize> =
                    types.iter().enumerate().filter(|(_, kind)| **kind == OPT).map(|(at, _)| at).collect();
                assert_eq!(opts, if is(7) { vec![types.len() - 1] } else { Vec::new() }, "one OPT, the last");
                assert_eq!(read.edns.is_some(), is(7));
                let whole = reply[2] & TC == 0 && read.answers.len() == answer.answers.len();
                assert!(whole || read.answers.is_empty(), "all answers or none");
                assert!(!padded || !is(7) || reply.len().is_multiple_of(BLOCK), "{}", reply.len());
            },
        );
    }
}
