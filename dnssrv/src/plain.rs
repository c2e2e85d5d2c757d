//! The plain records of the zone as a tree of names, and where a search in it ends (RFC 1034 4.3.2, RFC 4592 2 and 3.3, RFC
//! 6672): at a name, at an empty non-terminal, at a wildcard, at a delegation, below a DNAME, or nowhere. It answers nothing.
//!
//! A name is found from the zone downwards, so that whatever lies below a delegation or a DNAME is occluded without being told
//! apart when it is added.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::collections::{HashMap, HashSet};

use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::rdata::DNAME;

/// The tree. A name is kept by its labels relative to the zone, lower-case, each after its length: so every ancestor's key is
/// the end of its descendant's, and a search allocates nothing but the question's own.
#[derive(Debug)]
pub(crate) struct Plain {
    origin: Name,
    /// Every name that exists, those without records (empty non-terminals) included; the zone itself under the empty key.
    names: HashMap<Box<[u8]>, Vec<Record>>,
    /// A bit for each label right below the zone, which others may share: without it there is no such label.
    tops: [u64; 4],
}

/// Where a search ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found<'z> {
    /// At records, the name's own or those of the wildcard that covers it.
    Here(&'z [Record]),
    /// At a name without records.
    Empty,
    /// Nowhere, but some name between the zone and this one exists: so this one does not, and only a wildcard there could help.
    Missing,
    /// Nowhere, and nothing but the zone itself is above it.
    Unsaid,
    /// At (true) or below a delegation with these records at its top.
    Delegated(&'z [Record], bool),
    /// Below a DNAME.
    Renamed(&'z Record),
}

impl Plain {
    /// No records yet.
    pub(crate) fn new(origin: Name) -> Self {
        Self { origin, names: HashMap::from([(Box::default(), Vec::new())]), tops: [0; 4] }
    }

    /// Whether the records of the two are not the same, in whatever order.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        // No name has the same data twice.
        let same = |mine: &[Record], theirs: &[Record]| {
            let in_another_order = || {
                let theirs: HashSet<&RData> = theirs.iter().map(|record| &record.data).collect();
                mine.iter().all(|record| theirs.contains(&record.data))
            };
            mine == theirs || (mine.len() == theirs.len() && in_another_order())
        };
        self.names.len() != other.names.len()
            || self.names.iter().any(|(name, mine)| other.names.get(name).is_none_or(|theirs| !same(mine, theirs)))
    }

    /// Adds a record whose owner lies in the zone. One there already is passed over.
    pub(crate) fn add(&mut self, record: Record) -> Result<(), String> {
        if !self.origin.zone_of(&record.name) {
            return Err(format!("{} does not lie in {}", record.name, self.origin));
        }
        let kind = record.record_type();
        let wild = record.name.iter().next().is_some_and(|first| first == b"*");
        if wild && matches!(kind, RecordType::NS | RecordType::DNAME) {
            // Names it covers have it as a record like any other: nothing is delegated or renamed but below the "*" itself.
            tracing::warn!(name = %record.name, %kind, "what this means at a wildcard is not defined (RFC 4592 4)");
        }
        let relative = Relative::new(&record.name, &self.origin);
        if let Some((word, bit)) = relative.suffixes_from_the_zone().nth(1).and_then(spot)
            && let Some(word) = self.tops.get_mut(word)
        {
            *word |= bit;
        }
        for above in relative.suffixes().skip(1) {
            if !self.names.contains_key(above) {
                self.names.insert(above.into(), Vec::new());
            }
        }
        let records = self.names.entry(relative.wire().into()).or_default();
        if records.iter().any(|known| known.data == record.data) {
            return Ok(());
        }
        // The records of a set share one TTL (RFC 2181 5.2): the first one's.
        let ttl = records.iter().find(|known| known.record_type() == kind).map_or(record.ttl, |known| known.ttl);
        let holds_alias = records.iter().any(|known| known.record_type() == RecordType::CNAME);
        if holds_alias || (kind == RecordType::CNAME && !records.is_empty()) {
            return Err(format!("{} has a CNAME beside other records", record.name));
        }
        if kind == DNAME && records.iter().any(|known| known.record_type() == DNAME) {
            return Err(format!("{} has two DNAMEs", record.name));
        }
        if records.is_empty() {
            // Most names have one.
            records.reserve_exact(1);
        }
        records.push(Record::from_rdata(record.name, ttl, record.data));
        Ok(())
    }

    /// Where the search for a name ends.
    pub(crate) fn find(&self, name: &Relative) -> Found<'_> {
        let mut closest: &[u8] = &[];
        for at in name.suffixes_from_the_zone() {
            let Some(records) = self.names.get(at) else { return self.wildcard(closest) };
            if !at.is_empty() && holds(records, RecordType::NS) {
                return Found::Delegated(records, at == name.wire());
            }
            if at == name.wire() {
                return if records.is_empty() { Found::Empty } else { Found::Here(records) };
            }
            if let Some(renamed) = records.iter().find(|record| record.record_type() == DNAME) {
                return Found::Renamed(renamed);
            }
            closest = at;
        }
        Found::Unsaid
    }

    /// The records at a name of the zone itself or at an owner as it is, however occluded: for glue and additional data.
    pub(crate) fn at(&self, name: &Name) -> &[Record] {
        if !self.origin.zone_of(name) {
            return &[];
        }
        self.names.get(Relative::new(name, &self.origin).wire()).map_or(&[], Vec::as_slice)
    }

    /// The longest TTL of a record.
    pub(crate) fn longest_ttl(&self) -> u32 {
        self.names.values().flatten().map(|record| record.ttl).max().unwrap_or(0)
    }

    /// Whether nothing exists under a label right below the zone, given as in a key.
    pub(crate) fn leaves_open(&self, label: &[u8]) -> bool {
        let may_be = spot(label).and_then(|(word, bit)| Some(self.tops.get(word)? & bit != 0));
        may_be == Some(false) || !self.names.contains_key(label)
    }

    fn wildcard(&self, closest: &[u8]) -> Found<'_> {
        let key = [&b"\x01*"[..], closest].concat();
        match self.names.get(key.as_slice()) {
            // A wildcard that is an empty non-terminal covers names all the same: with no records (RFC 4592 2.2.2).
            Some(records) if records.is_empty() => Found::Empty,
            Some(records) => Found::Here(records),
            None if closest.is_empty() => Found::Unsaid,
            None => Found::Missing,
        }
    }
}

/// Which bit is a label's, by its length and its edges: a word and the bit in it.
fn spot(label: &[u8]) -> Option<(usize, u64)> {
    let ([length, first, ..], Some(last)) = (label, label.last()) else { return None };
    let number = length.wrapping_mul(7).wrapping_add(first.wrapping_mul(31)).wrapping_add(last.wrapping_mul(131));
    Some((usize::from(number >> 6), 1 << (number & 63)))
}

/// A name relative to the zone: its labels in lower case, each after its length, the leftmost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relative {
    wire: Vec<u8>,
    /// Where each label begins.
    starts: Vec<usize>,
}

impl Relative {
    /// Of a name in the zone.
    pub(crate) fn new(name: &Name, origin: &Name) -> Self {
        let depth = usize::from(name.num_labels().saturating_sub(origin.num_labels()));
        let (mut wire, mut starts) = (Vec::with_capacity(64), Vec::with_capacity(depth));
        // num_labels leaves a leading "*" out, so that labels are counted from the end here.
        let labels = name.iter().count().saturating_sub(origin.iter().count());
        for label in name.iter().take(labels) {
            starts.push(wire.len());
            wire.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
            wire.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        Self { wire, starts }
    }

    /// All of it.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// Its labels, the leftmost first.
    pub(crate) fn labels(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        let ends = self.starts.iter().skip(1).copied().chain([self.wire.len()]);
        self.starts.iter().zip(ends.collect::<Vec<_>>()).filter_map(|(start, end)| self.wire.get(start + 1..end))
    }

    /// It and its ancestors below the zone and the zone's own, empty one.
    fn suffixes(&self) -> impl Iterator<Item = &[u8]> {
        self.starts.iter().filter_map(|start| self.wire.get(*start..)).chain([&[][..]])
    }

    fn suffixes_from_the_zone(&self) -> impl Iterator<Item = &[u8]> {
        [&[][..]].into_iter().chain(self.starts.iter().rev().filter_map(|start| self.wire.get(*start..)))
    }
}

/// Whether a name has records of a type.
pub(crate) fn holds(records: &[Record], kind: RecordType) -> bool {
    records.iter().any(|record| record.record_type() == kind)
}

/// The name that records point to and whose addresses help whoever reads them: of NS, MX, SRV, HTTPS and SVCB (RFC 9460 4.1).
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the types are the protocol's, not ours; some of them point to hosts"
)]
pub(crate) fn host(data: &RData) -> Option<&Name> {
    match data {
        RData::NS(ns) => Some(&ns.0),
        RData::MX(mx) => Some(&mx.exchange),
        RData::SRV(srv) => Some(&srv.target),
        // An alias (priority 0) is asked for by itself.
        RData::HTTPS(https) if https.0.svc_priority > 0 => Some(&https.0.target_name),
        RData::SVCB(svcb) if svcb.svc_priority > 0 => Some(&svcb.target_name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, net::Ipv4Addr};

    use atoll_sys::heap::used;

    use super::*;
    use crate::{Config, Mode, zone::Zone};

    /// What keeps a start short, however many records there are.
    #[test]
    fn a_zone_ten_times_as_large_asks_ten_times_as_often_for_memory_to_be_loaded() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let config = Config { mode: Mode::Plain, zone_file: Some(file.path().to_owned()), ..Config::default() };
        let load = |records: u32| {
            let mut text =
                "$TTL 300\n@ SOA ns1 hostmaster 1 14400 3600 1209600 300\n@ NS ns1\nns1 A 127.0.0.1\n".to_owned();
            for at in 0..records {
                writeln!(text, "h{at} A {}", Ipv4Addr::from(0x0a00_0000 + at)).unwrap();
            }
            std::fs::write(file.path(), text).unwrap();
            let before = used();
            let zone = Zone::new(&config).unwrap();
            let used = used().since(before);
            drop(zone);
            (used.times, used.bytes)
        };
        let (small, large) = (load(2_000), load(20_000));
        assert!(large.0 <= small.0 * 11 && large.0 <= 20 * 20_000, "{small:?}, {large:?}");
        assert!(large.1 <= 600 * 20_000, "{} bytes a record", large.1 / 20_000);
    }

    #[test]
    fn a_label_is_open_exactly_if_no_name_is_at_or_below_it() {
        let origin = Name::from_ascii("nyud.example.").unwrap();
        bolero::check!().with_type::<Vec<Vec<u8>>>().for_each(|names| {
            let alphabet = b"abcxyz";
            let label = |bytes: &[u8]| -> String {
                bytes.iter().take(3).map(|byte| char::from(alphabet[usize::from(byte % 6)])).collect()
            };
            let labels: Vec<String> = names.iter().map(|name| label(name)).filter(|label| !label.is_empty()).collect();
            let mut plain = Plain::new(origin.clone());
            let (held, asked) = labels.split_at(labels.len() / 2);
            for (at, label) in held.iter().enumerate() {
                let inner = if at % 2 == 0 { "" } else { "www." };
                let name = Name::from_ascii(format!("{inner}{label}.nyud.example.")).unwrap();
                let record = Record::from_rdata(name, 300, RData::A(Ipv4Addr::LOCALHOST.into()));
                plain.add(record).unwrap();
            }
            for label in asked.iter().chain(held) {
                let key = [&[u8::try_from(label.len()).unwrap()][..], label.as_bytes()].concat();
                assert_eq!(plain.leaves_open(&key), !held.contains(label), "{label} beside {held:?}");
            }
        });
    }
}
