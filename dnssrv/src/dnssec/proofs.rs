//! What an answer must hold for those who check signatures: NSEC where something is denied (RFC 9824), DS or its absence at a
//! delegation (RFC 4035 3.1.4), and the questions that only DNSSEC knows (DNSKEY, NSEC, RRSIG).
//!
//! Names that a wildcard or the public names' rules make are signed as if they stood in the zone: no proof is needed that they
//! do not. What lies below a delegation, the levels' own `l0` among them, is not signed.

use std::time::Duration;

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, Record, RecordType},
};

use super::{
    nsec::{NSEC, NXNAME, RRSIG, nsec},
    signer::{Exhausted, Occasion, Signer},
};
use crate::{
    answer::{Answer, Extended},
    zone::Zone,
};

/// A question whose answer is to be signed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// The zone.
    pub(crate) zone: &'a Zone,
    /// The name.
    pub(crate) name: &'a Name,
    /// The type.
    pub(crate) kind: RecordType,
    /// Whether the client takes NXDOMAIN beside a proof that says the same (RFC 9824 5.1).
    pub(crate) compact_ok: bool,
    /// Who for.
    pub(crate) occasion: Occasion,
}

impl Signer {
    /// The answer to a question that nobody but a signer has one to, whether signatures are wanted or not.
    pub(crate) fn own_answer(&self, asked: &Asked<'_>) -> Option<Answer> {
        let kind = u16::from(asked.kind);
        if kind == NXNAME {
            // RFC 9824 3.4: it is in bitmaps only.
            let error = Some(Extended::INVALID_TYPE);
            return Some(Answer { error, ..Answer::of(ResponseCode::FormErr) });
        }
        let types = asked.zone.types(asked.name).filter(|_| matches!(kind, NSEC | RRSIG))?;
        let record = nsec(asked.name, asked.negative(), &types);
        if kind == NSEC {
            return Some(Answer::with(vec![record]));
        }
        // One signature is answer enough, as one record is to ANY (RFC 8482 7).
        Some(match self.sign(&[&record], asked.occasion, false) {
            Ok(signature) => Answer::with(vec![signature]),
            Err(Exhausted) => exhausted(asked.occasion),
        })
    }

    /// The answer with proofs and signatures.
    pub(crate) fn signed(&self, asked: &Asked<'_>, answer: Answer) -> Answer {
        let known = matches!(answer.code, ResponseCode::NoError | ResponseCode::NXDomain | ResponseCode::YXDomain);
        if !known || !asked.zone.origin().zone_of(asked.name) || u16::from(asked.kind) == RRSIG {
            return answer;
        }
        self.with_signatures(asked, asked.with_proofs(answer)).unwrap_or_else(|Exhausted| exhausted(asked.occasion))
    }

    fn with_signatures(&self, asked: &Asked<'_>, mut answer: Answer) -> Result<Answer, Exhausted> {
        let renamed: Vec<Name> =
            answer.answers.iter().filter(|r| r.record_type() == RecordType::DNAME).map(|r| r.name.clone()).collect();
        // The CNAME that a DNAME makes is believed for the DNAME's sake (RFC 6672 5.3.1).
        let made = |record: &Record| {
            let below = |owner: &Name| owner.zone_of(&record.name) && *owner != record.name;
            record.record_type() == RecordType::CNAME && renamed.iter().any(below)
        };
        let mine = |record: &Record| asked.zone.signs(record) && !made(record);
        let delegates = |record: &Record| record.record_type() == RecordType::NS && record.name != *asked.zone.origin();
        for section in [&mut answer.answers, &mut answer.authority, &mut answer.additional] {
            let mut signatures = Vec::new();
            for set in sets(section) {
                if set.first().is_some_and(|first| mine(first) && !delegates(first)) {
                    let lasting = !set.iter().any(|record| denies(record));
                    signatures.push(self.sign(&set, asked.occasion, lasting)?);
                }
            }
            section.extend(signatures);
        }
        Ok(answer)
    }
}

impl Asked<'_> {
    fn with_proofs(&self, mut answer: Answer) -> Answer {
        let origin = self.zone.origin();
        let cut = answer.authority.iter().find(|r| r.record_type() == RecordType::NS && r.name != *origin);
        if let Some(cut) = cut.map(|record| record.name.clone()) {
            if let Some(types) = self.zone.types(&cut) {
                let at_cut = self.zone.at(&cut).iter();
                let ds: Vec<Record> = at_cut.filter(|r| r.record_type() == RecordType::DS).cloned().collect();
                let proof = if ds.is_empty() { vec![nsec(&cut, self.negative(), &types)] } else { ds };
                answer.authority.extend(proof);
            }
            return answer;
        }
        // The proof is kept as long as the denial that it proves (RFC 9077), which may be short: of who is there, seconds.
        let soa = answer.authority.iter().find(|r| r.record_type() == RecordType::SOA && r.name == *origin);
        let Some(ttl) = soa.map(|soa| soa.ttl) else { return answer };
        let denied = last_name(self.name, &answer.answers);
        if answer.code == ResponseCode::NXDomain {
            answer.authority.push(nsec(&denied, ttl, &[NXNAME]));
            if !self.compact_ok {
                answer.code = ResponseCode::NoError;
            }
        } else if let Some(mut types) = self.zone.types(&denied) {
            types.retain(|kind| *kind != u16::from(self.kind));
            answer.authority.push(nsec(&denied, ttl, &types));
        }
        answer
    }

    /// Seconds that what is never there may be kept for.
    fn negative(&self) -> u32 {
        self.zone.soa(None, Duration::MAX).ttl
    }
}

/// Where the chain of aliases ends that begins at a name.
fn last_name(name: &Name, answers: &[Record]) -> Name {
    let mut last = name.clone();
    for record in answers {
        if let RData::CNAME(target) = &record.data
            && record.name == last
        {
            last.clone_from(&target.0);
        }
    }
    last
}

/// Whether a record says that a name does not exist: it is asked for once.
fn denies(record: &Record) -> bool {
    let RData::Unknown { code, rdata } = &record.data else { return false };
    // NXNAME is the first type of the last bitmap's one window, its bit the highest of its seventeenth byte.
    u16::from(*code) == NSEC && rdata.anything.ends_with(&[0x80]) && rdata.anything.iter().nth_back(17) == Some(&17)
}

/// The sets of records in a section, in its order.
fn sets(section: &[Record]) -> Vec<Vec<&Record>> {
    let mut sets: Vec<Vec<&Record>> = Vec::new();
    for record in section {
        let same = |set: &&mut Vec<&Record>| {
            set.first().is_some_and(|first| first.name == record.name && first.record_type() == record.record_type())
        };
        match sets.iter_mut().find(same) {
            Some(set) => set.push(record),
            None => sets.push(vec![record]),
        }
    }
    sets
}

/// No signatures are left this second: a datagram is answered by an order to ask over TCP, where there are others.
fn exhausted(occasion: Occasion) -> Answer {
    metrics::counter!("atoll_dns_signatures_refused_total").increment(1);
    match occasion.connected {
        true => Answer { error: Some(Extended::NOT_READY), ..Answer::of(ResponseCode::ServFail) },
        false => Answer { authoritative: true, cut: true, ..Answer::of(ResponseCode::NoError) },
    }
}
