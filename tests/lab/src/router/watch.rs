//! What the router notes of the DNS that passes: who asked whom, and the servers each was referred to. Only what goes over UDP is
//! seen, and of what a host did with it nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hickory_proto::{
    op::Message,
    rr::{Name, RData},
};

use crate::address::{HostId, datagram_of};

/// All that was noted. Time is a `Duration` since the router's start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    /// Questions by sender and receiver, whether or not the receiver lives.
    pub(crate) questions: BTreeMap<(HostId, HostId), u64>,
    /// The same by the deepest zone above the name asked for whose referral, held by the sender then, named the receiver; the root for
    /// none.
    pub(crate) led: BTreeMap<(HostId, HostId), BTreeMap<Name, usize>>,
    /// Replies by who asked and who replied.
    pub(crate) replies: BTreeMap<(HostId, HostId), u64>,
    /// The names that were in questions, by sender and receiver; the first [`MOST`] of each pair.
    pub(crate) names: BTreeMap<(HostId, HostId), BTreeSet<Name>>,
    /// The last referral to each zone that a host was given.
    referrals: BTreeMap<HostId, BTreeMap<Name, Referral>>,
    /// When it was asked for what was noted.
    pub(crate) at: Duration,
}

#[derive(Clone, Debug)]
struct Referral {
    /// As named, the first first.
    servers: Vec<HostId>,
    until: Duration,
}

impl Watch {
    /// Takes note of a packet.
    pub(crate) fn note(&mut self, now: Duration, from: HostId, to: HostId, packet: &[u8]) {
        match datagram_of(packet) {
            Some((_, DNS, question)) => {
                *self.questions.entry((from, to)).or_default() += 1;
                self.note_question(now, (from, to), question);
            }
            Some((DNS, _, reply)) => {
                *self.replies.entry((to, from)).or_default() += 1;
                self.note_reply(now, to, reply);
            }
            _ => {}
        }
    }

    /// The zones under this one that a host holds a referral to, deepest last, each with its servers in the order they were named.
    pub(crate) fn held(&self, host: HostId, zone: &Name) -> Vec<(Name, Vec<HostId>)> {
        let referrals = self.referrals.get(&host).into_iter().flatten();
        let held = referrals.filter(|(cut, referral)| zone.zone_of(cut) && *cut != zone && self.at < referral.until);
        let mut held: Vec<_> = held.map(|(cut, referral)| (cut.clone(), referral.servers.clone())).collect();
        held.sort_by_key(|(cut, _)| cut.num_labels());
        held
    }

    fn note_question(&mut self, now: Duration, pair: (HostId, HostId), question: &[u8]) {
        let Ok(message) = Message::from_vec(question) else { return };
        let Some(name) = message.queries.first().map(|query| query.name().to_lowercase()) else { return };
        let zone = self.zone_that_led(now, pair, &name);
        *self.led.entry(pair).or_default().entry(zone).or_default() += 1;
        let known = self.names.entry(pair).or_default();
        if known.len() < MOST {
            known.insert(name);
        }
    }

    fn zone_that_led(&self, now: Duration, (from, to): (HostId, HostId), name: &Name) -> Name {
        let led = |(cut, referral): &(&Name, &Referral)| {
            cut.zone_of(name) && now < referral.until + LATE && referral.servers.contains(&to)
        };
        let referrals = self.referrals.get(&from).into_iter().flatten().filter(led);
        referrals.map(|(cut, _)| cut).max_by_key(|cut| cut.num_labels()).cloned().unwrap_or_else(Name::root)
    }

    fn note_reply(&mut self, now: Duration, to: HostId, reply: &[u8]) {
        let Ok(message) = Message::from_vec(reply) else { return };
        if !message.answers.is_empty() || message.metadata.authoritative {
            return;
        }
        let named = |name: &Name| {
            let glue = message.additionals.iter().filter(|record| record.name.to_lowercase() == *name);
            glue.filter_map(|record| HostId::owner(record.data.ip_addr()?)).collect::<Vec<_>>()
        };
        let (mut servers, mut owner) = (Vec::new(), None);
        for record in &message.authorities {
            if let RData::NS(server) = &record.data {
                for host in named(&server.0.to_lowercase()) {
                    if !servers.contains(&host) {
                        servers.push(host);
                    }
                }
                owner = Some((record.name.to_lowercase(), Duration::from_secs(record.ttl.into())));
            }
        }
        let Some((cut, ttl)) = owner else { return };
        let cuts = self.referrals.entry(to).or_default();
        if cuts.len() < MOST || cuts.contains_key(&cut) {
            cuts.insert(cut, Referral { servers, until: now + ttl });
        }
    }
}

const DNS: u16 = 53;
/// How much later than here a referral lapses where it was sent: the way there, and whole seconds.
const LATE: Duration = Duration::from_millis(1500);
/// Zones noted per host, and names per pair.
const MOST: usize = 256;

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::Query,
        rr::{
            Record, RecordType,
            rdata::{A, NS},
        },
    };

    use super::*;

    fn packet(from: u16, to: u16, message: &Message) -> Vec<u8> {
        let mut packet = vec![0x45; 20];
        packet[9] = 17;
        packet.extend(from.to_be_bytes());
        packet.extend(to.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(message.to_vec().unwrap());
        packet
    }

    #[test]
    fn a_referral_is_held_until_it_lapses_and_questions_count_apart_from_replies() {
        let hosts: Vec<HostId> = (0..3).filter_map(HostId::new).collect();
        let (zone, cut) = (Name::from_ascii("x.").unwrap(), Name::from_ascii("l0.x.").unwrap());
        let server = Name::from_ascii("a.l0.x.").unwrap();
        let mut message = Message::query();
        message.authorities.push(Record::from_rdata(cut.clone(), 30, RData::NS(NS(server.clone()))));
        message.additionals.push(Record::from_rdata(server, 30, RData::A(A(hosts[2].v4()))));
        let mut watch = Watch::default();
        watch.note(Duration::ZERO, hosts[0], hosts[1], &packet(53, 4096, &message));
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii("L0.x.").unwrap(), RecordType::A));
        watch.note(Duration::ZERO, hosts[1], hosts[0], &packet(4096, 53, &question));
        assert_eq!(watch.held(hosts[1], &zone), [(cut, vec![hosts[2]])]);
        watch.note(Duration::ZERO, hosts[1], hosts[2], &packet(4096, 53, &Message::query()));
        assert_eq!(watch.questions[&(hosts[1], hosts[0])], 1);
        assert_eq!(watch.questions[&(hosts[1], hosts[2])], 1);
        assert_eq!(watch.names[&(hosts[1], hosts[0])], BTreeSet::from([Name::from_ascii("l0.x.").unwrap()]));
        assert_eq!(watch.replies, BTreeMap::from([((hosts[1], hosts[0]), 1)]));
        watch.at = Duration::from_secs(30);
        assert!(watch.held(hosts[1], &zone).is_empty());
    }

    #[test]
    fn a_question_is_led_by_the_deepest_referral_held_when_it_is_asked() {
        let hosts: Vec<HostId> = (0..4).filter_map(HostId::new).collect();
        let (asker, near) = (hosts[1], hosts[2]);
        let mut watch = Watch::default();
        let refer = |watch: &mut Watch, at: u64, cut: &str, to: HostId| {
            let (cut, server) = (Name::from_ascii(cut).unwrap(), Name::from_ascii(format!("a.{cut}")).unwrap());
            let mut message = Message::query();
            message.authorities.push(Record::from_rdata(cut, 30, RData::NS(NS(server.clone()))));
            message.additionals.push(Record::from_rdata(server, 30, RData::A(A(to.v4()))));
            watch.note(Duration::from_secs(at), hosts[0], asker, &packet(53, 4096, &message));
        };
        let ask = |watch: &mut Watch, at: u64, name: &str, to: HostId| {
            let mut question = Message::query();
            question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
            watch.note(Duration::from_secs(at), asker, to, &packet(4096, 53, &question));
        };
        refer(&mut watch, 0, "x.", near);
        refer(&mut watch, 0, "l0.x.", near);
        ask(&mut watch, 1, "a.L0.x.", near);
        ask(&mut watch, 1, "a.x.", near);
        ask(&mut watch, 1, "a.l0.x.", hosts[3]);
        ask(&mut watch, 29, "a.l0.x.", near);
        ask(&mut watch, 32, "a.l0.x.", near);
        // Of those that another referral names it is known from then on.
        refer(&mut watch, 40, "l0.x.", hosts[3]);
        ask(&mut watch, 41, "a.l0.x.", hosts[3]);
        ask(&mut watch, 41, "a.l0.x.", near);
        let led =
            |to| watch.led[&(asker, to)].iter().map(|(zone, count)| (zone.to_ascii(), *count)).collect::<Vec<_>>();
        let is = |zones: &[(&str, usize)]| {
            zones.iter().map(|(zone, count)| ((*zone).to_owned(), *count)).collect::<Vec<_>>()
        };
        assert_eq!(led(near), is(&[(".", 2), ("x.", 1), ("l0.x.", 2)]));
        assert_eq!(led(hosts[3]), is(&[(".", 1), ("l0.x.", 1)]));
    }
}
