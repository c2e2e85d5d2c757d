//! The text form of a plain record's type and data. Whatever has names or character strings in it is read here, by `words.rs`;
//! the rest by hickory; `TYPE65280` and `\# LENGTH HEX` are for any type (RFC 3597 5).

use std::str::FromStr as _;

use hickory_proto::{
    rr::{
        Name, RData, RecordType,
        rdata::{MX, NAPTR, NULL, SOA, SRV, TXT},
    },
    serialize::binary::{BinEncodable as _, BinEncoder},
};

use crate::words;

/// The type of a record that renames what lies below it (RFC 6672).
pub(crate) const DNAME: RecordType = RecordType::DNAME;

/// A type by its name, or as `TYPE` and its number.
pub(crate) fn kind(text: &str) -> Result<RecordType, String> {
    let upper = text.to_ascii_uppercase();
    let number = upper.strip_prefix("TYPE").and_then(|number| number.parse::<u16>().ok());
    let unread = UNREAD.iter().find(|(name, _)| *name == upper).map(|(_, number)| *number);
    let kind = match number.or(unread) {
        Some(number) => RecordType::from(number),
        None => RecordType::from_str(&upper).map_err(|_| format!("{text:?} is no record type"))?,
    };
    match u16::from(kind) {
        // OPT, the types of questions, the ones of DNSSEC that only a signer makes.
        0 | 41 | 46 | 47 | 48 | 50 | 51 | 128..=255 => Err(format!("a plain record cannot be {kind}")),
        _ => Ok(kind),
    }
}

/// A record's data. Names in it without a dot at their end are relative to `origin`, if there is one.
pub(crate) fn data(kind: RecordType, text: &str, origin: Option<&Name>) -> Result<RData, String> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("\\#") {
        return generic(kind, rest);
    }
    let words = words::all(text);
    let name = |text: &str| words::name(text, origin);
    let number = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is no number of 16 bits"));
    let data = match (kind, words.as_slice()) {
        (RecordType::DNAME, [target]) => opaque(kind, wire(&name(target)?)),
        (RecordType::DS | RecordType::CDS, [tag, algorithm, digest, hex @ ..]) => {
            let octet = |text: &str| text.parse::<u8>().map_err(|_| format!("{text:?} is no number of 8 bits"));
            let mut bytes = number(tag)?.to_be_bytes().to_vec();
            bytes.extend([octet(algorithm)?, octet(digest)?]);
            bytes.extend(unhex(&hex.concat())?);
            opaque(kind, bytes)
        }
        (RecordType::HTTPS | RecordType::SVCB, [_, target, ..]) => service(kind, text, name(target)?)?,
        (RecordType::NS, [host]) => RData::NS(hickory_proto::rr::rdata::NS(name(host)?)),
        (RecordType::CNAME, [target]) => RData::CNAME(hickory_proto::rr::rdata::CNAME(name(target)?)),
        (RecordType::SOA, [server, contact, numbers @ ..]) => {
            let numbers = numbers.iter().map(|text| text.parse()).collect::<Result<Vec<u32>, _>>();
            let Ok([serial, refresh, retry, expire, minimum]) = numbers.as_deref() else {
                return Err("a SOA ends in five numbers of seconds".to_owned());
            };
            let seconds = |number: u32| i32::try_from(number).map_err(|_| format!("{number} is past 2^31 seconds"));
            let (refresh, retry, expire) = (seconds(*refresh)?, seconds(*retry)?, seconds(*expire)?);
            RData::SOA(SOA::new(name(server)?, name(contact)?, *serial, refresh, retry, expire, *minimum))
        }
        (RecordType::PTR, [target]) => RData::PTR(hickory_proto::rr::rdata::PTR(name(target)?)),
        (RecordType::TXT, [_, ..]) => {
            let strings = words.iter().map(|word| words::string(word)).collect::<Result<Vec<_>, _>>()?;
            RData::TXT(TXT::from_bytes(strings.iter().filter_map(|string| string.get(1..)).collect()))
        }
        (RecordType::CAA, [flags, tag, value]) => {
            let flags = flags.parse::<u8>().map_err(|_| format!("{flags:?} is no number of 8 bits"))?;
            let tag = words::string(tag)?;
            if tag.len() < 2 || !tag.iter().skip(1).all(u8::is_ascii_alphanumeric) {
                return Err("a CAA record's tag is letters and digits".to_owned());
            }
            opaque(kind, [&[flags][..], &tag, &words::bytes(value)?].concat())
        }
        (RecordType::NAPTR, [order, preference, flags, services, pattern, replacement]) => {
            let string = |word: &str| Ok::<_, String>(words::string(word)?.split_off(1).into_boxed_slice());
            let (order, preference) = (number(order)?, number(preference)?);
            let (flags, services, pattern) = (string(flags)?, string(services)?, string(pattern)?);
            RData::NAPTR(NAPTR::new(order, preference, flags, services, pattern, name(replacement)?))
        }
        (RecordType::MX, [preference, host]) => RData::MX(MX::new(number(preference)?, name(host)?)),
        (RecordType::SRV, [priority, weight, port, host]) => {
            RData::SRV(SRV::new(number(priority)?, number(weight)?, number(port)?, name(host)?))
        }
        _ => return other(kind, text, origin),
    };
    Ok(data)
}

/// Data of the types that hickory has no structure for, or that have neither names nor strings in them.
fn other(kind: RecordType, text: &str, origin: Option<&Name>) -> Result<RData, String> {
    let words = words::all(text);
    // In lower case, which is their canonical form (RFC 4034 6.2) and means the same.
    let name = |text: &str| Ok::<_, String>(wire(&words::name(text, origin)?.to_lowercase()));
    let number = |text: &str| {
        let number = text.parse::<u16>().map_err(|_| format!("{text:?} is no number of 16 bits"));
        Ok::<_, String>(number?.to_be_bytes().to_vec())
    };
    let strings = || words.iter().map(|word| words::string(word)).collect::<Result<Vec<_>, _>>();
    let bytes = match (u16::from(kind), words.as_slice()) {
        (HINFO, [_, _]) | (SPF, [_, ..]) => strings()?.concat(),
        (RP, [mailbox, text]) => [name(mailbox)?, name(text)?].concat(),
        (AFSDB | RT | KX, [preference, host]) => [number(preference)?, name(host)?].concat(),
        (URI, [priority, weight, target]) => [number(priority)?, number(weight)?, words::bytes(target)?].concat(),
        (LOC, words) => crate::loc::data(words)?,
        (HINFO | SPF | RP | AFSDB | RT | KX | URI, _) => return Err(format!("{text:?} is no data of this type")),
        _ => return RData::try_from_str(kind, text).map_err(|error| error.to_string()),
    };
    Ok(opaque(kind, bytes))
}

/// Whether data can be sent: what cannot would be found out by whoever asks for it.
pub(crate) fn check(data: &RData) -> Result<(), String> {
    let mut bytes = Vec::new();
    data.emit(&mut BinEncoder::new(&mut bytes)).map_err(|error| error.to_string())?;
    // A message has room for it beside its longest name.
    if bytes.len() <= LONGEST { Ok(()) } else { Err(format!("{} bytes fit into no answer", bytes.len())) }
}

/// A record of RFC 9460, its target in full.
fn service(kind: RecordType, text: &str, target: Name) -> Result<RData, String> {
    match RData::try_from_str(kind, text).map_err(|error| error.to_string())? {
        RData::HTTPS(mut https) => {
            https.0.target_name = target;
            // In any order here, in this one in messages (RFC 9460 2.1, 2.2).
            https.0.svc_params.sort_by_key(|(key, _)| *key);
            Ok(RData::HTTPS(https))
        }
        RData::SVCB(mut svcb) => {
            svcb.target_name = target;
            svcb.svc_params.sort_by_key(|(key, _)| *key);
            Ok(RData::SVCB(svcb))
        }
        other => Ok(other),
    }
}

/// The target of a DNAME's data as [`data`] makes it.
pub(crate) fn renamed_to(data: &RData) -> Option<Name> {
    let RData::Unknown { rdata, .. } = data else { return None };
    let mut labels = Vec::new();
    let mut rest = rdata.anything.as_slice();
    while let [length @ 1..=63, after @ ..] = rest {
        let (label, after) = after.split_at_checked(usize::from(*length))?;
        labels.push(label);
        rest = after;
    }
    let mut name = Name::from_labels(labels).ok()?;
    name.set_fqdn(true);
    (rest == [0]).then_some(name)
}

/// The bytes of a name, uncompressed.
pub(crate) fn wire(name: &Name) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 1);
    for label in name.iter() {
        bytes.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        bytes.extend(label);
    }
    bytes.push(0);
    bytes
}

fn generic(kind: RecordType, text: &str) -> Result<RData, String> {
    let mut words = text.split_ascii_whitespace();
    let length: usize = words.next().and_then(|word| word.parse().ok()).ok_or("no length follows \\#")?;
    let bytes = unhex(&words.collect::<String>())?;
    if bytes.len() != length {
        return Err(format!("\\# says {length} bytes, there are {}", bytes.len()));
    }
    let data = opaque(kind, bytes);
    if kind == DNAME && renamed_to(&data).is_none() {
        return Err("the data of a DNAME is a name".to_owned());
    }
    Ok(data)
}

fn opaque(code: RecordType, bytes: Vec<u8>) -> RData {
    RData::Unknown { code, rdata: NULL::with(bytes) }
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0);
    let digits = digits.ok_or_else(|| format!("{text:?} is no even number of hexadecimal digits"))?;
    Ok(digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

const HINFO: u16 = 13;
const RP: u16 = 17;
const AFSDB: u16 = 18;
const RT: u16 = 21;
const LOC: u16 = 29;
const KX: u16 = 36;
const SPF: u16 = 99;
const URI: u16 = 256;
/// Types that hickory does not know by name.
const UNREAD: [(&str, u16); 7] =
    [("RP", RP), ("AFSDB", AFSDB), ("RT", RT), ("LOC", LOC), ("KX", KX), ("SPF", SPF), ("URI", URI)];
/// Bytes of data that fit into a message with header, question, the record's own head and OPT.
const LONGEST: usize = 65_535 - 12 - 259 - 12 - 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_with_names_and_strings_of_any_kind_becomes_the_bytes_that_are_sent() {
        let origin = Name::from_ascii("z.").unwrap();
        let sent = |name: &str, text: &str| {
            let mut bytes = Vec::new();
            let data =
                data(kind(name).unwrap(), text, Some(&origin)).unwrap_or_else(|error| panic!("{name} {text}: {error}"));
            data.emit(&mut BinEncoder::new(&mut bytes)).unwrap();
            bytes
        };
        for (name, text, expected) in [
            ("TXT", "v=DKIM1\\; k=rsa", &b"\x08v=DKIM1;\x05k=rsa"[..]),
            ("TXT", "@ \"a\\200\"", b"\x01@\x02a\xc8"),
            ("CAA", "128 issue \"ca.example.org\\; a=b\"", b"\x80\x05issueca.example.org; a=b"),
            ("SPF", "\"v=spf1 -all\"", b"\x0bv=spf1 -all"),
            ("HINFO", "PC \"a b\"", b"\x02PC\x03a b"),
            ("RP", "admin.example. @", b"\x05admin\x07example\0\x01z\0"),
            ("AFSDB", "1 DB", b"\0\x01\x02db\x01z\0"),
            ("URI", "10 1 \"ftp://a.example/b c\"", b"\0\x0a\0\x01ftp://a.example/b c"),
            (
                "NAPTR",
                "1 2 \"u\" \"sip\" \"!^.*$!\\\\1!\" next",
                b"\0\x01\0\x02\x01u\x03sip\x09!^.*$!\\1!\x04next\x01z\0",
            ),
            ("HTTPS", "1 . port=8443 alpn=h2", b"\0\x01\0\0\x01\0\x03\x02h2\0\x03\0\x02\x20\xfb"),
            ("NS", "0/25\\.x", b"\x060/25.x\x01z\0"),
        ] {
            assert_eq!(sent(name, text), expected, "{name} {text}");
        }
        assert_eq!(sent("LOC", "0 N 0 E 0").len(), 16);
    }

    #[test]
    fn what_could_never_be_sent_is_refused() {
        let long = "x".repeat(256);
        assert!(data(RecordType::TXT, &long, None).unwrap_err().contains("255 bytes at most"));
        for (kind, text) in [(RecordType::HTTPS, "1 . alpn=h2 alpn=h3"), (RecordType::SVCB, "1 . port=1 port=2")] {
            assert!(data(kind, text, None).and_then(|data| check(&data)).is_err(), "{text}");
        }
        let opaque = |length| opaque(RecordType::from(65_280), vec![0; length]);
        assert!(check(&opaque(60_000)).is_ok() && check(&opaque(65_400)).is_err());
    }

    #[test]
    fn types_and_data_of_any_kind_are_read_and_what_is_none_is_refused() {
        assert_eq!(kind("type65280"), Ok(RecordType::Unknown(65280)));
        assert_eq!(kind("TYPE1"), Ok(RecordType::A));
        for wrong in ["TYPE255", "AXFR", "OPT", "RRSIG", "NONSENSE", "TYPE65536"] {
            assert!(kind(wrong).is_err(), "{wrong}");
        }
        let origin = Name::from_ascii("nyud.example.").unwrap();
        let renamed = data(DNAME, "other", Some(&origin)).unwrap();
        assert_eq!(renamed_to(&renamed).unwrap().to_string(), "other.nyud.example.");
        assert_eq!(data(RecordType::A, "\\# 4 c0000201", None).unwrap(), opaque(RecordType::A, vec![192, 0, 2, 1]));
        for (kind, text) in [(RecordType::HTTPS, "1 . alpn=h2 port=8443"), (RecordType::SVCB, "0 www")] {
            let data = data(kind, text, Some(&origin)).unwrap().to_string();
            assert_eq!(data, text.replace(" www", " www.nyud.example.").replace("h2 ", "h2, "));
        }
        let ds = data(RecordType::DS, "1 13 2 00ff", None).unwrap();
        assert_eq!(ds, opaque(RecordType::DS, vec![0, 1, 13, 2, 0, 255]));
        for (kind, wrong) in [
            (RecordType::A, "\\# 3 c0000201"),
            (RecordType::A, "192.0.2"),
            (RecordType::DS, "1 13 2 0"),
            (RecordType::MX, "ten mail"),
            (DNAME, "\\# 1 05"),
            (RecordType::SRV, "1 2 3"),
        ] {
            assert!(data(kind, wrong, Some(&origin)).is_err(), "{kind} {wrong}");
        }
    }
}
