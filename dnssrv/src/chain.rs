//! Answers from plain records (RFC 1034 4.3.2): aliases and renamings followed inside the zone (RFC 6604, RFC 6672), wildcards,
//! referrals with glue, "no such record" and "no such name". Pure.

use std::time::Duration;

use hickory_proto::{
    op::ResponseCode,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, HINFO},
    },
};

use crate::{
    Config,
    answer::Answer,
    plain::{Found, holds, host},
    rdata::renamed_to,
    zone::{Place, Zone, seconds},
};

/// Answers a question whose name is at a place of plain records.
pub(crate) fn answer(zone: &Zone, config: &Config, name: &Name, kind: RecordType) -> Answer {
    let mut chain = Chain { zone, config, kind, answers: Vec::new(), seen: Vec::new() };
    let mut name = name.clone();
    loop {
        match chain.step(&name) {
            Step::On(next) => {
                chain.seen.push(std::mem::replace(&mut name, next));
                // A loop, or an endless chain: what there is of it is the answer (RFC 1034 3.6.2).
                if chain.seen.contains(&name) || chain.seen.len() >= config.limits.aliases {
                    return chain.end(ResponseCode::NoError);
                }
            }
            Step::End(answer) => return answer,
        }
    }
}

struct Chain<'a> {
    zone: &'a Zone,
    config: &'a Config,
    kind: RecordType,
    answers: Vec<Record>,
    seen: Vec<Name>,
}

enum Step {
    On(Name),
    End(Answer),
}

impl Chain<'_> {
    fn step(&mut self, name: &Name) -> Step {
        match self.zone.locate(name) {
            Place::Apex(records) => match self.kind {
                RecordType::SOA => {
                    self.answers.push(self.zone.own_soa());
                    Step::End(self.end(ResponseCode::NoError))
                }
                // They are taken from who is there, for whoever asks for them under this name.
                RecordType::NS if !holds(records, RecordType::NS) => Step::End(self.end(ResponseCode::NoError)),
                _ => self.here(name, records),
            },
            Place::Plain(Found::Here(records)) => self.here(name, records),
            Place::Plain(Found::Renamed(record)) => self.rename(name, record),
            Place::Plain(Found::Delegated(records, at)) => Step::End(self.delegated(name, records, at)),
            Place::Plain(Found::Empty) | Place::Empty(_) => Step::End(self.nothing(ResponseCode::NoError)),
            Place::Plain(Found::Missing | Found::Unsaid) | Place::Missing(_) => {
                Step::End(self.nothing(ResponseCode::NXDomain))
            }
            // Names of others, and those whose answer depends on who asks: the resolver asks on.
            Place::Outside | Place::Public(_) | Place::Node(..) | Place::Cut(_) | Place::Target(_) => {
                Step::End(self.end(ResponseCode::NoError))
            }
            Place::Server(..) => Step::End(self.end(ResponseCode::NoError)),
        }
    }

    fn here(&mut self, name: &Name, records: &[Record]) -> Step {
        let found: Vec<Record> = records.iter().filter(|record| record.record_type() == self.kind).cloned().collect();
        let alias = records.iter().find_map(|record| match &record.data {
            RData::CNAME(target) => Some((record.ttl, target.0.clone())),
            _ => None,
        });
        match alias {
            _ if !found.is_empty() => {
                let additional = self.addresses(found.iter());
                self.answers.extend(found.into_iter().map(|record| owned_by(name, record.ttl, record.data)));
                Step::End(Answer { additional, ..self.end(ResponseCode::NoError) })
            }
            Some((ttl, target)) => {
                self.answers.push(owned_by(name, ttl, RData::CNAME(CNAME(target.clone()))));
                if self.kind == RecordType::ANY { Step::End(self.end(ResponseCode::NoError)) } else { Step::On(target) }
            }
            None if self.kind == RecordType::ANY => {
                self.answers.push(minimal(name, seconds(self.config.ttl.negative)));
                Step::End(self.end(ResponseCode::NoError))
            }
            None => Step::End(self.nothing(ResponseCode::NoError)),
        }
    }

    /// The DNAME, and a CNAME made from it that holds for this name alone (RFC 6672 2.2, 3.1).
    fn rename(&mut self, name: &Name, record: &Record) -> Step {
        // A renaming that renames its own outcome never ends: each counts once.
        if self.answers.contains(record) {
            return Step::End(self.end(ResponseCode::NoError));
        }
        self.answers.push(record.clone());
        let kept = name.iter().count().saturating_sub(record.name.iter().count());
        let target = renamed_to(&record.data).and_then(|to| {
            let labels = name.iter().take(kept).chain(to.iter()).collect::<Vec<_>>();
            Name::from_labels(labels).ok()
        });
        let Some(mut target) = target else { return Step::End(self.end(ResponseCode::YXDomain)) };
        target.set_fqdn(true);
        self.answers.push(owned_by(name, record.ttl, RData::CNAME(CNAME(target.clone()))));
        if self.kind == RecordType::CNAME || self.kind == RecordType::ANY {
            return Step::End(self.end(ResponseCode::NoError));
        }
        Step::On(target)
    }

    fn delegated(&mut self, name: &Name, records: &[Record], at: bool) -> Answer {
        if at && self.kind == RecordType::DS {
            // DS is the one type that belongs to this side of a cut (RFC 4034 5).
            let found: Vec<Record> = records.iter().filter(|r| r.record_type() == self.kind).cloned().collect();
            if found.is_empty() {
                return self.nothing(ResponseCode::NoError);
            }
            self.answers.extend(found.into_iter().map(|record| owned_by(name, record.ttl, record.data)));
            return self.end(ResponseCode::NoError);
        }
        let servers: Vec<Record> = records.iter().filter(|r| r.record_type() == RecordType::NS).cloned().collect();
        let additional = self.addresses(servers.iter());
        let authoritative = !self.answers.is_empty();
        Answer { authoritative, authority: servers, additional, ..self.end(ResponseCode::NoError) }
    }

    /// Addresses in the zone of the hosts that records point to.
    fn addresses<'r>(&self, records: impl Iterator<Item = &'r Record>) -> Vec<Record> {
        let mut additional = Vec::new();
        let mut seen: Vec<&Name> = Vec::new();
        for host in records.filter_map(|record| host(&record.data)) {
            if !seen.contains(&host) {
                seen.push(host);
                additional.extend(self.zone.addresses(host).cloned());
            }
        }
        additional
    }

    fn nothing(&mut self, code: ResponseCode) -> Answer {
        // As long as the SOA itself says (RFC 2308 5): these are the operator's own records.
        Answer { authority: vec![self.zone.soa(None, Duration::MAX)], ..self.end(code) }
    }

    fn end(&mut self, code: ResponseCode) -> Answer {
        Answer { authoritative: true, answers: std::mem::take(&mut self.answers), ..Answer::of(code) }
    }
}

/// The least answer to ANY (RFC 8482 4.2).
pub(crate) fn minimal(name: &Name, ttl: u32) -> Record {
    owned_by(name, ttl, RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new())))
}

fn owned_by(name: &Name, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name.clone(), ttl, data)
}
