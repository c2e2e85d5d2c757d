//! The text form of a plain record's type and data: hickory's for the types it reads; `TYPE65280` and `\# LENGTH HEX` for any
//! (RFC 3597 5); DNAME and DS, which hickory does not read, from their own text forms.

use std::str::FromStr as _;

use hickory_proto::rr::{
    Name, RData, RecordType,
    rdata::{MX, NULL, SOA, SRV},
};

/// The type of a record that renames what lies below it (RFC 6672).
pub(crate) const DNAME: RecordType = RecordType::DNAME;

/// A type by its name, or as `TYPE` and its number.
pub(crate) fn kind(text: &str) -> Result<RecordType, String> {
    let upper = text.to_ascii_uppercase();
    let number = upper.strip_prefix("TYPE").and_then(|number| number.parse::<u16>().ok());
    let kind = match number {
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
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let name = |text: &str| name(text, origin);
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
        (RecordType::MX, [preference, host]) => RData::MX(MX::new(number(preference)?, name(host)?)),
        (RecordType::SRV, [priority, weight, port, host]) => {
            RData::SRV(SRV::new(number(priority)?, number(weight)?, number(port)?, name(host)?))
        }
        _ => return RData::try_from_str(kind, text).map_err(|error| error.to_string()),
    };
    Ok(data)
}

/// A record of RFC 9460, its target in full.
fn service(kind: RecordType, text: &str, target: Name) -> Result<RData, String> {
    match RData::try_from_str(kind, text).map_err(|error| error.to_string())? {
        RData::HTTPS(mut https) => {
            https.0.target_name = target;
            Ok(RData::HTTPS(https))
        }
        RData::SVCB(mut svcb) => {
            svcb.target_name = target;
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

/// A domain name; `@` is the origin.
pub(crate) fn name(text: &str, origin: Option<&Name>) -> Result<Name, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{text:?} is no domain name: {error}");
    if let (Some(origin), "@") = (origin, text) {
        return Ok(origin.clone());
    }
    let mut name = Name::from_ascii(text).map_err(|error| wrong(&error))?;
    match origin {
        Some(origin) if !text.ends_with('.') => name.append_domain(origin).map_err(|error| wrong(&error)),
        _ => {
            name.set_fqdn(true);
            Ok(name)
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
