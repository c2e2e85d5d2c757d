//! The common question, read without allocation (RFC 1035 4.1): one for A or AAAA, with an OPT that has no options or with none; its
//! name in lower case, and the site that it stands for. What is not common is left to `question.rs` and `zone.rs`, which say the
//! same of these; a test of `hot.rs` holds the two against each other.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use siphasher::sip::SipHasher24;

use crate::{
    question::HEADER,
    roster::Family,
    site::{self, Site},
};

/// The name of the question that was read last.
pub(crate) struct Glance {
    /// In lower case, each label after its length; what stands behind it is nobody's. With room to end its last block.
    lower: [u8; LONGEST + BLOCK],
    /// Where its labels begin.
    starts: [u8; 128],
}

/// A question of the common form.
#[derive(Clone, Copy)]
pub(crate) struct Common {
    /// Bytes of the name, the root's included.
    pub(crate) name: usize,
    pub(crate) labels: usize,
    pub(crate) family: Family,
    /// Whether there is an OPT, and its flag DO.
    pub(crate) edns: Option<bool>,
}

impl Glance {
    pub(crate) const fn new() -> Self {
        Self { lower: [0; LONGEST + BLOCK], starts: [0; 128] }
    }

    /// Reads a question, unless it has anything about it that is not common.
    pub(crate) fn read(&mut self, query: &[u8]) -> Option<Common> {
        let (header, rest) = query.split_first_chunk::<HEADER>()?;
        let edns = match header {
            [_, _, flags, _, 0, 1, 0, 0, 0, 0, 0, edns @ (0 | 1)] if flags & 0xf8 == 0 => *edns == 1,
            _ => return None,
        };
        let (mut name, mut labels) = (0, 0);
        loop {
            let length = usize::from(*rest.get(name)?);
            if length == 0 {
                break;
            }
            if length > 63 {
                return None;
            }
            *self.starts.get_mut(labels)? = u8::try_from(name).ok()?;
            labels += 1;
            name += 1 + length;
        }
        name += 1;
        if name > 255 {
            return None;
        }
        // Lengths are less than any letter and stay as they are. Whole blocks take one turn each.
        self.lower.get_mut(..name)?.copy_from_slice(rest.get(..name)?);
        let (blocks, _) = self.lower.as_chunks_mut::<BLOCK>();
        blocks.iter_mut().take(name.div_ceil(BLOCK)).for_each(|block| block.make_ascii_lowercase());
        let (fixed, rest) = rest.get(name..)?.split_first_chunk::<4>()?;
        let family = match fixed {
            [0, 1, 0, 1] => Family::V4,
            [0, 28, 0, 1] => Family::V6,
            _ => return None,
        };
        let edns = match (edns, rest) {
            (false, []) => None,
            // The root, OPT, any size, version 0, no options.
            (true, [0, 0, 41, _, _, _, 0, flags, _, 0, 0]) => Some(flags & 0x80 != 0),
            _ => return None,
        };
        Some(Common { name, labels, family, edns })
    }

    /// How many labels of the name are in front of a zone of this name and of so many labels, and of how many bytes they are. None if
    /// it lies outside.
    pub(crate) fn within(&self, common: &Common, zone: &[u8], depth: usize) -> Option<(usize, usize)> {
        let relative = common.name.checked_sub(zone.len())?;
        if self.lower.get(relative..common.name)? != zone {
            return None;
        }
        let count = common.labels.checked_sub(depth)?;
        // The zone's first label begins where a label does.
        (usize::from(*self.starts.get(..common.labels)?.get(count)?) == relative).then_some((count, relative))
    }

    /// The site whose label goes before one of these ends of a name, if nothing else does.
    pub(crate) fn target(&self, relative: usize, ends: &[Vec<u8>]) -> Option<Site> {
        let name = self.lower.get(..relative)?;
        let label = ends.iter().find_map(|end| name.strip_suffix(end.as_slice()))?;
        label.split_first().filter(|(length, _)| **length == 13).and_then(|(_, label)| Site::of_label(label))
    }

    /// The last of so many labels, after its length.
    pub(crate) fn last(&self, (count, relative): (usize, usize)) -> Option<&[u8]> {
        let start = usize::from(*self.starts.get(count.checked_sub(1)?)?);
        self.lower.get(start..relative)
    }

    /// The site of the host that so many labels are, at port 80; none if no host is called that. The name is used up by it.
    pub(crate) fn host(&mut self, (count, relative): (usize, usize)) -> Option<Site> {
        for start in self.starts.get(1..count)? {
            *self.lower.get_mut(usize::from(*start))? = b'.';
        }
        // What stands around the host is taken for letters of it.
        *self.lower.first_mut()? = b'a';
        self.lower.get_mut(relative..)?.first_chunk_mut::<BLOCK>()?.fill(b'a');
        let (blocks, _) = self.lower.as_chunks::<BLOCK>();
        let seen = blocks.iter().take(relative.div_ceil(BLOCK)).map(Seen::of).fold(Seen::default(), Seen::and);
        // A dot more is one inside a label.
        if seen.others || seen.dots + 1 != count {
            return None;
        }
        if seen.hyphens && !site::is_host(self.lower.get(1..relative)?) {
            return None;
        }
        let port = b":80";
        self.lower.get_mut(relative..relative + port.len())?.copy_from_slice(port);
        Some(Site(SipHasher24::new().hash(self.lower.get(1..relative + port.len())?)))
    }
}

/// What a text has in it that hosts may have.
#[derive(Clone, Copy, Default)]
struct Seen {
    dots: usize,
    hyphens: bool,
    /// Whether there is anything that they may not.
    others: bool,
}

impl Seen {
    /// Without branches, so that many bytes take one step.
    fn of(block: &[u8; BLOCK]) -> Self {
        let (mut dots, mut hyphens, mut others) = (0_u8, 0_u8, 0_u8);
        for byte in block {
            let (dot, hyphen) = (*byte == b'.', *byte == b'-');
            let good = byte.is_ascii_lowercase() | byte.is_ascii_digit() | (*byte == b'_') | dot | hyphen;
            dots += u8::from(dot);
            hyphens |= u8::from(hyphen);
            others |= u8::from(!good);
        }
        Self { dots: dots.into(), hyphens: hyphens != 0, others: others != 0 }
    }

    const fn and(self, other: Self) -> Self {
        Self { dots: self.dots + other.dots, hyphens: self.hyphens | other.hyphens, others: self.others | other.others }
    }
}

/// Bytes of a name, with one to spare.
const LONGEST: usize = 256;
/// Bytes of a name that are looked at by one step: as wide as the machine's registers, or some of them.
const BLOCK: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(labels: &[&[u8]]) -> (Glance, Common) {
        let mut query = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in labels {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(*label);
        }
        query.extend([0, 0, 1, 0, 1]);
        let mut glance = Glance::new();
        let common = glance.read(&query).expect("a common question");
        (glance, common)
    }

    fn host(labels: &[&[u8]]) -> Option<Site> {
        let (mut glance, common) = read(&[labels, &[b"nyud", b"example"]].concat());
        let within = glance.within(&common, b"\x04nyud\x07example\0", 2).expect("it lies in the zone");
        glance.host(within)
    }

    #[test]
    fn a_host_is_hashed_as_the_site_that_it_is_and_what_is_none_is_not() {
        let long = [b'x'; 63];
        for labels in [
            &[&b"www"[..], b"example", b"com"][..],
            &[b"WWW", b"a-b", b"c_d", b"1"],
            &[&long, &long, &long, b"xyzabcd", b"com"],
            &[b"a", b"b"],
        ] {
            let text = labels.join(&b'.').to_ascii_lowercase();
            assert_eq!(host(labels), Some(Site::of(std::str::from_utf8(&text).unwrap(), 80)), "{labels:02x?}");
        }
        for labels in [
            // A dot, or what else no host has, inside a label.
            &[&b"a.b"[..], b"com"][..],
            &[b".", b"com"],
            &[b"a*", b"com"],
            &[b"a\xff", b"com"],
            &[b"a", b"b:80"],
            &[b"-a", b"com"],
            &[b"a-", b"com"],
            &[b"a", b"-"],
        ] {
            assert_eq!(host(labels), None, "{labels:02x?}");
        }
    }

    #[test]
    fn what_is_seen_of_any_text_is_what_the_rule_for_hosts_says() {
        bolero::check!().with_type::<Vec<Vec<u8>>>().for_each(|labels| {
            let alphabet = b"ab09-_.*Z";
            let labels: Vec<Vec<u8>> = labels
                .iter()
                .filter(|label| !label.is_empty())
                .take(12)
                .map(|label| label.iter().take(15).map(|byte| alphabet[usize::from(byte % 9)]).collect())
                .collect();
            if labels.is_empty() {
                return;
            }
            let plain = labels.iter().all(|label| !label.contains(&b'.'));
            let text = labels.join(&b'.').to_ascii_lowercase();
            let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
            assert_eq!(host(&labels).is_some(), plain && site::is_host(&text), "{}", String::from_utf8_lossy(&text));
        });
    }
}
