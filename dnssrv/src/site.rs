//! Public names: which origin a name under the zone stands for, and the one label that is left of it further down.
//!
//! Three forms are read, all relative to the zone: `www.example.com` (any depth), `www.example.com.8080` (with a port label),
//! and `www-example-com` (one label: `.` as `-`, `-` as `--`; what a wildcard certificate can cover). What the origin is, is the
//! proxy's business; here a name only decides which few proxies a site's requests meet in.
//!
//! `SITE`, the label in `SITE.http.l2.l1.l0`, is the lower-case RFC 4648 base32 without padding of the eight bytes, most
//! significant first, of `SipHash-2-4(key 0, "HOST:PORT")`, HOST in lower case, PORT in decimal (80 if the name has none).

use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

/// A site as placement knows it: a hash of origin host and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Site(pub(crate) u64);

/// What a name relative to the zone is, in the space of public names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Public {
    /// The name of a site.
    Site(Site),
    /// Nothing itself, but names of sites lie below it: `com`, `8080`, `com.8080`.
    Above,
    /// No host could be called that.
    Impossible,
}

impl Site {
    /// The site of an origin.
    #[must_use]
    pub(crate) fn of(host: &str, port: u16) -> Self {
        let mut hash = SipHasher24::new();
        hash.write(format!("{}:{port}", host.to_ascii_lowercase()).as_bytes());
        Self(hash.finish())
    }

    /// The site a label stands for, if it is one.
    #[must_use]
    pub(crate) fn from_label(label: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(label).ok().filter(|text| text.len() == LABEL_LENGTH)?;
        let bytes: [u8; 8] = base32::decode(ALPHABET, text)?.try_into().ok()?;
        let site = Self(u64::from_be_bytes(bytes));
        // Spare bits at the end make several texts of one number; only the one we write is a name.
        (site.label() == text).then_some(site)
    }

    /// The site of a label in lower case, read without allocation.
    pub(crate) fn of_label(label: &[u8]) -> Option<Self> {
        let digit = |byte: &u8| match byte {
            b'a'..=b'z' => Some(u64::from(byte - b'a')),
            b'2'..=b'7' => Some(u64::from(byte - b'2' + 26)),
            _ => None,
        };
        let (last, label) = label.split_last().filter(|(_, label)| label.len() + 1 == LABEL_LENGTH)?;
        let mut bits = 0;
        for byte in label {
            bits = bits << 5 | digit(byte)?;
        }
        // 12 digits of 5 bits, and 4 of the last one's; the one that is spare is zero, or the label is another way to write a site.
        let last = digit(last).filter(|last| last & 1 == 0)?;
        Some(Self(bits << 4 | last >> 1))
    }

    /// Its label.
    #[must_use]
    pub(crate) fn label(self) -> String {
        base32::encode(ALPHABET, &self.0.to_be_bytes())
    }
}

/// Whether a text in lower case is labels a host may have, with dots between: what [`public`] takes for a dotted name, once the
/// last label is known to be no port.
pub(crate) fn is_host(text: &[u8]) -> bool {
    let mut before = b'.';
    for byte in text.iter().chain(b".") {
        let good = match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'_' => true,
            // A label has no hyphen at its edges.
            b'-' => before != b'.',
            b'.' => before != b'.' && before != b'-',
            _ => false,
        };
        if !good {
            return false;
        }
        before = *byte;
    }
    true
}

/// Reads a name relative to the zone: its labels in lower case, the leftmost first.
#[must_use]
pub(crate) fn public(labels: &[&[u8]]) -> Public {
    let Some(labels) = labels.iter().map(|label| host_label(label)).collect::<Option<Vec<&str>>>() else {
        return Public::Impossible;
    };
    let (host, port) = match port(&labels) {
        Port::None => (labels.as_slice(), None),
        Port::Some(port, host) => (host, Some(port)),
        Port::Impossible => return Public::Impossible,
    };
    if let [label] = host
        && label.contains('-')
        && let Some(decoded) = decode(label)
    {
        return one_label(&decoded, port);
    }
    match host {
        [] | [_] => Public::Above,
        [..] => Public::Site(Site::of(&host.join("."), port.unwrap_or(HTTP))),
    }
}

fn one_label(decoded: &str, outer: Option<u16>) -> Public {
    let labels: Vec<&str> = decoded.split('.').collect();
    // A label that stands for no host is one like any other: names of sites lie below it, so it exists (RFC 8020).
    if labels.iter().any(|label| host_label(label.as_bytes()).is_none()) {
        return Public::Above;
    }
    match (port(&labels), outer) {
        (Port::None, _) if labels.len() > 1 => Public::Site(Site::of(decoded, outer.unwrap_or(HTTP))),
        (Port::Some(port, host), None) if host.len() > 1 => Public::Site(Site::of(&host.join("."), port)),
        (Port::None | Port::Some(..) | Port::Impossible, _) => Public::Above,
    }
}

/// Undoes the one-label form. None if the label is something else: a top-level domain such as `xn--p1ai`.
fn decode(label: &str) -> Option<String> {
    let mut host = String::with_capacity(label.len());
    let mut rest = label.bytes().peekable();
    while let Some(byte) = rest.next() {
        host.push(match byte {
            b'-' if rest.next_if_eq(&b'-').is_some() => '-',
            b'-' => '.',
            other => char::from(other),
        });
    }
    // A label that starts with `xn--` is taken for punycode by everyone else, so it may stand only for a host that does, too.
    (!label.starts_with("xn--") || host.starts_with("xn--")).then_some(host)
}

enum Port<'a, 'b> {
    None,
    Some(u16, &'a [&'b str]),
    Impossible,
}

/// The port label: the last one, if it is all digits.
fn port<'a, 'b>(labels: &'a [&'b str]) -> Port<'a, 'b> {
    let Some((last, host)) = labels.split_last() else { return Port::None };
    if !last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Port::None;
    }
    match last.parse::<u16>() {
        Ok(port) if port > 0 && !last.starts_with('0') => Port::Some(port, host),
        Ok(_) | Err(_) => Port::Impossible,
    }
}

/// A label a host may have: letters, digits, `-` inside, and `_`, which some hosts use against RFC 952.
fn host_label(label: &[u8]) -> Option<&str> {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let edges = label.first() != Some(&b'-') && label.last() != Some(&b'-');
    if label.is_empty() || !edges || !label.iter().all(good) {
        return None;
    }
    std::str::from_utf8(label).ok()
}

const ALPHABET: base32::Alphabet = base32::Alphabet::Rfc4648Lower { padding: false };
const LABEL_LENGTH: usize = 13;
const HTTP: u16 = 80;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Public {
        public(&name.split('.').map(str::as_bytes).collect::<Vec<_>>())
    }

    #[test]
    fn the_dotted_the_one_label_and_the_port_form_name_one_site() {
        let site = Public::Site(Site::of("www.example.com", 80));
        assert_eq!(of("www.example.com"), site);
        assert_eq!(of("www-example-com"), site);
        assert_eq!(of("www.example.com.80"), site);
        let other_port = Public::Site(Site::of("www.example.com", 8080));
        assert_eq!(of("www.example.com.8080"), other_port);
        assert_eq!(of("www-example-com-8080"), other_port);
        assert_eq!(of("www-example-com.8080"), other_port);
        assert_eq!(of("a--b-example-com"), Public::Site(Site::of("a-b.example.com", 80)));
        assert_eq!(of("xn----bcher--kva-example"), Public::Site(Site::of("xn--bcher-kva.example", 80)));
    }

    #[test]
    fn what_lies_above_public_names_is_no_public_name() {
        for name in ["com", "8080", "com.8080", "xn--p1ai", "localhost"] {
            assert_eq!(of(name), Public::Above, "{name}");
        }
    }

    #[test]
    fn below_what_does_not_exist_nothing_does() {
        assert_eq!((of("a---b"), of("www.a---b")), (Public::Above, Public::Site(Site::of("www.a---b", 80))));
        bolero::check!().with_type::<(Vec<u8>, u8)>().for_each(|(bytes, more)| {
            let alphabet = b"a1-_.0*8";
            let text: Vec<u8> = bytes.iter().map(|byte| alphabet[usize::from(byte % 8)]).collect();
            let outer: Vec<&[u8]> = text.split(|byte| *byte == b'.').filter(|label| !label.is_empty()).collect();
            let words: [&[u8]; 4] = [b"www", b"a-b", b"8080", b"com"];
            let inner = [&[words[usize::from(more % 4)]], outer.as_slice()].concat();
            if public(&outer) == Public::Impossible {
                assert_eq!(public(&inner), Public::Impossible, "{}", String::from_utf8_lossy(&text));
            }
        });
    }

    #[test]
    fn what_no_host_is_called_is_impossible() {
        for name in
            ["*", "*.example.com", "a..b", "-a.example.com", "example.com.0", "example.com.65536", "a b.example.com"]
        {
            assert_eq!(of(name), Public::Impossible, "{name}");
        }
    }

    #[test]
    fn a_label_leads_back_to_its_site_and_nothing_else_does() {
        let site = Site::of("www.example.com", 80);
        // The label is part of cached names: it may not change between versions.
        expect_test::expect!["eo7uvoilv2uwg"].assert_eq(&site.label());
        assert_eq!(Site::from_label(site.label().as_bytes()), Some(site));
        assert_eq!(Site::of_label(site.label().as_bytes()), Some(site));
        for wrong in ["", "short", "toolongtobeasite", "1111111111111", "abcdefghijklz"] {
            assert_eq!(Site::from_label(wrong.as_bytes()), None, "{wrong}");
            assert_eq!(Site::of_label(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
