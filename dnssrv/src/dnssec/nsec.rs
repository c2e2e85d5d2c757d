//! NSEC records (RFC 4034 4) that say no more than they must (RFC 9824 3): the name asked for, the next one there could be, and
//! the types.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use hickory_proto::rr::{Name, RData, Record, RecordType, rdata::NULL};

use crate::rdata::wire;

/// The NSEC record of a name that has these types, in any order; RRSIG and NSEC are added.
pub(super) fn nsec(owner: &Name, ttl: u32, types: &[u16]) -> Record {
    let mut types = [types, &[RRSIG, NSEC]].concat();
    types.sort_unstable();
    types.dedup();
    let mut data = successor(&wire(&owner.to_lowercase()));
    data.extend(bitmap(&types));
    let data = RData::Unknown { code: RecordType::from(NSEC), rdata: NULL::with(data) };
    Record::from_rdata(owner.clone(), ttl, data)
}

/// The next name in canonical order, or one so near that nobody has names between (RFC 4471 3.1.1): a label of one zero byte in
/// front; where there is no room for it, a zero byte at the end of the first label; else that label's last byte plus one.
fn successor(name: &[u8]) -> Vec<u8> {
    if name.len() + 2 <= LONGEST {
        return [&[1, 0], name].concat();
    }
    let mut next = name.to_vec();
    let Some((first, rest)) = next.split_first_mut() else { return next };
    let length = usize::from(*first);
    if length < 63 && name.len() < LONGEST {
        *first += 1;
        next.insert(length + 1, 0);
        return next;
    }
    if let Some(last) = rest.get_mut(length.saturating_sub(1)) {
        // Capital letters do not occur in canonical form.
        *last = if *last == b'@' { b'[' } else { last.saturating_add(1) };
    }
    next
}

/// Types as windows of bits (RFC 4034 4.1.2); they are given in order.
fn bitmap(types: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = types;
    while let Some(first) = rest.first() {
        let [window, _] = first.to_be_bytes();
        let (here, after) = rest.split_at(rest.iter().take_while(|kind| kind.to_be_bytes()[0] == window).count());
        let mut bits: Vec<u8> = Vec::new();
        for kind in here {
            let [_, low] = kind.to_be_bytes();
            bits.resize(bits.len().max(usize::from(low / 8) + 1), 0);
            if let Some(byte) = bits.get_mut(usize::from(low / 8)) {
                *byte |= 0x80 >> (low % 8);
            }
        }
        bytes.extend([window, u8::try_from(bits.len()).unwrap_or(32)]);
        bytes.extend(bits);
        rest = after;
    }
    bytes
}

/// The type of signatures.
pub(super) const RRSIG: u16 = 46;
/// The type of these records.
pub(super) const NSEC: u16 = 47;
/// In a bitmap: the name does not exist \[RFC 9824 3.2\].
pub(super) const NXNAME: u16 = 128;
/// Bytes a name has at most.
const LONGEST: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bitmap_is_that_of_rfc_4034_4_3() {
        let types = [1, 15, 46, 47, 1234];
        let mut expected = vec![0, 6, 0x40, 0x01, 0, 0, 0, 0x03, 4, 27];
        expected.extend([0; 26]);
        expected.push(0x20);
        assert_eq!(bitmap(&types), expected);
    }

    #[test]
    fn the_next_name_follows_and_is_never_too_long() {
        bolero::check!().with_type::<(Vec<u8>, u8)>().for_each(|(lengths, fill)| {
            let (mut name, mut room) = (Vec::new(), LONGEST - 1);
            for length in lengths {
                let length = usize::from(length % 64).max(1);
                if length + 1 > room {
                    break;
                }
                room -= length + 1;
                name.push(u8::try_from(length).unwrap());
                name.extend(vec![fill.to_ascii_lowercase().min(254); length]);
            }
            name.push(0);
            let next = successor(&name);
            assert!(next.len() <= LONGEST && next != name);
            assert!(canonical(&next) > canonical(&name), "{name:02x?} {next:02x?}");
        });
    }

    /// The labels from the root on: names compare as these do (RFC 4034 6.1).
    fn canonical(mut name: &[u8]) -> Vec<Vec<u8>> {
        let mut labels = Vec::new();
        while let [length @ 1..=255, rest @ ..] = name {
            labels.push(rest[..usize::from(*length)].to_vec());
            name = &rest[usize::from(*length)..];
        }
        labels.reverse();
        labels
    }
}
