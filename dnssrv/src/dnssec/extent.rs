//! What of the zone is signed: everything down to its delegations, and of these only what belongs to the parent's side (RFC 4035
//! 2.2). The levels' `l0` is a delegation like any other: what lies below is for others to answer, too, and is not signed.

use atoll_overlay::Level;
use hickory_proto::rr::{Name, Record, RecordType};

use super::{key::DNSKEY, nsec::NSEC};
use crate::{
    plain::Found,
    zone::{Place, Zone},
};

impl Zone {
    /// The types a name has, or may have for some who ask; none if it does not exist or is not this zone's to sign for.
    pub(super) fn types(&self, name: &Name) -> Option<Vec<u16>> {
        Some(match self.locate(name) {
            Place::Apex(records) => {
                [kinds(records), numbers(&[RecordType::SOA, RecordType::NS]), vec![DNSKEY]].concat()
            }
            Place::Plain(Found::Here(records)) => kinds(records),
            Place::Plain(Found::Delegated(records, true)) => {
                let of_parent = numbers(&[RecordType::NS, RecordType::DS]);
                kinds(records).into_iter().filter(|kind| of_parent.contains(kind)).collect()
            }
            Place::Plain(Found::Empty) | Place::Empty(None) => Vec::new(),
            Place::Public(_) | Place::Node(..) => numbers(&[RecordType::A, RecordType::AAAA, RecordType::HTTPS]),
            Place::Server(None, _) => numbers(&[RecordType::A, RecordType::AAAA]),
            Place::Cut(Level::GLOBAL) => numbers(&[RecordType::NS]),
            Place::Plain(Found::Delegated(_, false) | Found::Renamed(_) | Found::Missing | Found::Unsaid) => {
                return None;
            }
            Place::Outside | Place::Missing(_) | Place::Empty(Some(_)) | Place::Cut(_) => return None,
            Place::Target(_) | Place::Server(Some(_), _) => return None,
        })
    }

    /// Whether a record is this zone's to sign.
    pub(super) fn signs(&self, record: &Record) -> bool {
        let of_parent = record.record_type() == RecordType::DS || u16::from(record.record_type()) == NSEC;
        match self.locate(&record.name) {
            Place::Plain(Found::Delegated(_, at)) => at && of_parent,
            Place::Cut(level) => level == Level::GLOBAL && of_parent,
            Place::Outside | Place::Target(_) => false,
            Place::Server(closest, _) | Place::Empty(closest) | Place::Missing(closest) => closest.is_none(),
            Place::Apex(_) | Place::Public(_) | Place::Node(..) => true,
            Place::Plain(Found::Here(_) | Found::Empty | Found::Missing | Found::Unsaid | Found::Renamed(_)) => true,
        }
    }
}

fn kinds(records: &[Record]) -> Vec<u16> {
    records.iter().map(|record| u16::from(record.record_type())).collect()
}

fn numbers(kinds: &[RecordType]) -> Vec<u16> {
    kinds.iter().copied().map(u16::from).collect()
}
