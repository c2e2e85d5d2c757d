//! The answers: a name and a type, what is known of who asks, and who is there, to records and TTLs. Pure: no clock, no I/O.
//!
//! Why a full name (`SITE.http.l2.l1.l0`) is answered with addresses, not with a referral to a level: a server cannot know which
//! cut the question came through. A referral to where the resolver already is would be lame, and one to a wider cut reads as "no
//! such record" to some resolvers. Those that minimise names ask for the cuts one by one, and there a referral is always right.
//!
//! A referral names the servers of the resolver's cluster whatever cut was asked for; a cut within the resolver's level is
//! delegated, a deeper one exists without records.

use std::{net::IpAddr, time::Duration};

use atoll_overlay::{Level, NodeId, Prefix};
use hickory_proto::{
    op::ResponseCode,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, NS},
    },
};

use crate::{
    Config, Mode, chain,
    deck::Want,
    gap::Sent,
    placement::Placement,
    plain::holds,
    redirector::turn,
    roster::{Choice, Family, Proxy, Roster, Server, Standing},
    service,
    site::Site,
    zone::{Closest, Place, Zone, seconds},
};

/// What is known when a question is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    /// Where the one who asks belongs.
    pub(crate) placement: &'a Placement,
    /// Who is there.
    pub(crate) roster: &'a Roster,
    /// Over what the choice of servers is spread.
    pub(crate) prefix: Prefix,
    /// How many times its usual set a site's proxies are to be, because it is hot.
    pub(crate) width: usize,
    /// Whether whoever asks for a cut does so from below it: BIND does, if it minimises strictly, once it was referred there; so do
    /// checkers of delegations. There the NS are the answer, and a referral would be lame. Above it, BIND takes addresses from a
    /// referral only.
    pub(crate) below: bool,
}

/// A reply but for the header and EDNS.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// How it went.
    pub(crate) code: ResponseCode,
    /// Whether this is an authority's own data.
    pub(crate) authoritative: bool,
    /// Answer section.
    pub(crate) answers: Vec<Record>,
    /// Authority section.
    pub(crate) authority: Vec<Record>,
    /// Additional section, but for OPT.
    pub(crate) additional: Vec<Record>,
    /// What went wrong in detail (RFC 8914).
    pub(crate) error: Option<Extended>,
    /// The level of the cluster named, if the answer depends on who asks.
    pub(crate) level: Option<Level>,
    /// What placed who asks, if it does.
    pub(crate) why: Option<&'static str>,
    /// What the next query may follow.
    pub(crate) sent: Option<Sent>,
    /// Whether it is left out and to be asked for over TCP.
    pub(crate) cut: bool,
}

/// An extended error: its code and a word on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extended(pub(crate) u16, pub(crate) &'static str);

impl Extended {
    /// None of our business.
    pub(crate) const NOT_AUTHORITATIVE: Self = Self(20, "");
    /// A type that is no type to ask for.
    pub(crate) const INVALID_TYPE: Self = Self(30, "");
    /// Too many signatures were made this second.
    pub(crate) const NOT_READY: Self = Self(14, "too many signatures, ask again");
    const STALE: Self = Self(3, "no proxy is seen alive, these were last");
    const UNSEEN: Self = Self(0, "no proxy has been seen alive yet");
    const NOBODY: Self = Self(22, "no proxy is known");
    const STRANGER: Self = Self(0, "this node is not known here");
}

/// Answers a question whose name is at a place in the zone.
pub(crate) fn answer(
    zone: &Zone,
    config: &Config,
    place: Place<'_>,
    name: &Name,
    kind: RecordType,
    view: View<'_>,
) -> Answer {
    let asked = Asked { zone, config, name, kind, view };
    // In a zone of plain records its SOA alone says how long.
    let negative = if config.mode == Mode::Plain { Duration::MAX } else { config.ttl.negative };
    match place {
        Place::Outside => Answer { error: Some(Extended::NOT_AUTHORITATIVE), ..Answer::of(ResponseCode::Refused) },
        Place::Apex(records) => asked.apex(records),
        Place::Plain(_) => chain::answer(zone, config, name, kind),
        Place::Empty(closest) => asked.nothing(closest, negative),
        Place::Missing(closest) => Answer { code: ResponseCode::NXDomain, ..asked.nothing(closest, negative) },
        Place::Public(site) => asked.public(site, config.ttl.alias),
        Place::Node(id, site) => asked.node(id, site),
        Place::Cut(level) => asked.cut(level),
        Place::Target(site) => asked.addresses(site, Some(zone.innermost())),
        Place::Server(closest, id) => asked.server(closest, id),
    }
}

struct Asked<'a> {
    zone: &'a Zone,
    config: &'a Config,
    name: &'a Name,
    kind: RecordType,
    view: View<'a>,
}

impl Asked<'_> {
    fn apex(&self, records: &[Record]) -> Answer {
        match self.kind {
            RecordType::NS if !holds(records, RecordType::NS) => self.apex_servers(),
            _ => chain::answer(self.zone, self.config, self.name, self.kind),
        }
    }

    fn apex_servers(&self) -> Answer {
        let servers = self.view.roster.servers_apart(self.view.prefix, true);
        let (set, glue) = self.name_servers(None, &servers, self.config.ttl.delegation);
        Answer { additional: glue, ..Answer::with(set) }
    }

    fn public(&self, site: Site, ttl: Duration) -> Answer {
        match self.config.mode {
            Mode::Direct => self.addresses(site, None),
            Mode::Levels => match self.zone.target(site, self.is_one_label()) {
                Some(target) => Answer {
                    sent: Some(Sent::Alias(site)),
                    ..Answer::with(vec![self.record(self.name, ttl, RData::CNAME(CNAME(target)))])
                },
                None => Answer::of(ResponseCode::ServFail),
            },
            // The zone knows none in this mode.
            Mode::Plain => self.nothing(None, self.config.ttl.negative),
        }
    }

    fn node(&self, id: NodeId, site: Site) -> Answer {
        let Some((v4, v6)) = self.view.roster.addresses.get(&id) else {
            // The node is gone, or new: the site is served all the same, by whoever else is there.
            return self.public(site, self.config.ttl.unknown);
        };
        let ttl = self.config.ttl.near;
        let v4 = v4.iter().map(|v4| RData::A((*v4).into()));
        let v6 = v6.iter().map(|v6| RData::AAAA((*v6).into()));
        let data: Vec<RData> = match self.kind {
            RecordType::A => v4.collect(),
            RecordType::AAAA => v6.collect(),
            RecordType::HTTPS => {
                let addresses: Vec<IpAddr> = v4.chain(v6).filter_map(|data| data.ip_addr()).collect();
                service::data(&self.host(), &addresses, &self.view.roster.secure).into_iter().collect()
            }
            RecordType::ANY => return self.minimal(),
            _ => Vec::new(),
        };
        if data.is_empty() {
            return self.nothing(None, ttl);
        }
        Answer::with(data.into_iter().map(|data| self.record(self.name, ttl, data)).collect())
    }

    fn cut(&self, level: Level) -> Answer {
        let placement = self.view.placement;
        let outer = level.0.checked_sub(1).map(Level);
        let known = placement.is_known();
        let measurable = self.config.sources.referral_gap && self.config.mode == Mode::Levels;
        let delegated = placement.level >= level || (!known && measurable);
        if !delegated {
            // A nearer server may delegate it: only who has a near cluster keeps this for long.
            let ttl = match (placement.settled, placement.level) {
                (false, _) => self.config.ttl.unknown,
                (true, Level::GLOBAL) => self.config.ttl.delegation_unknown,
                (true, _) => self.config.ttl.negative,
            };
            return Answer { level: Some(placement.level), ..self.nothing(outer, ttl) };
        }
        if let Some(answer) = self.at_cut(level, outer) {
            return answer;
        }
        match level {
            _ if known => self.referral(level, &self.servers()),
            Level::GLOBAL => self.referral(level, &self.view.roster.servers_apart(self.view.prefix, true)),
            _ => self.call_back(level),
        }
    }

    /// What this server says of a delegated cut as the authority for either side of it: no question of these is asked on the way
    /// further down (RFC 9156 2.3), so that none needs the referral.
    fn at_cut(&self, level: Level, outer: Closest) -> Option<Answer> {
        let negative = self.config.ttl.negative;
        match self.kind {
            // The one type that belongs to the outer side (RFC 4035 3.1.4.1).
            RecordType::DS => Some(self.nothing(outer, negative)),
            RecordType::SOA => Some(Answer::with(vec![self.zone.soa(Some(level), negative)])),
            RecordType::ANY => Some(self.minimal()),
            RecordType::NS => None,
            RecordType::A | RecordType::AAAA if !self.view.below => None,
            // Who was just referred here asks for the name itself, and another referral would be lame. Or the first one was lost.
            RecordType::A | RecordType::AAAA => Some(self.nothing(Some(level), self.config.ttl.unknown)),
            _ => Some(self.nothing(Some(level), negative)),
        }
    }

    /// A referral of an unknown resolver to this server alone, for a moment: by coming back it is measured. Resolvers spread
    /// their queries over a set and would not come back; and one that turns out to be far is soon to look elsewhere.
    fn call_back(&self, cut: Level) -> Answer {
        let roster = self.view.roster;
        let me: Vec<Server> = roster.me.iter().cloned().collect();
        let servers = if me.is_empty() { roster.servers_at(cut, self.view.prefix) } else { me };
        self.referral_for(self.config.ttl.unknown, cut, &servers)
    }

    fn server(&self, closest: Closest, id: NodeId) -> Answer {
        let ttl = self.config.ttl.delegation;
        let roster = self.view.roster;
        let near = self.view.placement.near.as_ref();
        let near = near.and_then(|near| near.servers.iter().find(|server| server.id == id));
        let me = roster.me.as_ref().filter(|me| me.id == id);
        let (v4, v6) = match (roster.addresses.get(&id), me.or(near)) {
            (Some((v4, v6)), _) => (v4.clone(), v6.clone()),
            (None, Some(server)) => (server.v4.into_iter().collect(), server.v6.into_iter().collect()),
            // Another server named it, so it may well exist: the resolver is to ask on.
            (None, None) => return Answer { error: Some(Extended::STRANGER), ..Answer::of(ResponseCode::ServFail) },
        };
        let data: Vec<RData> = match self.kind {
            RecordType::A => v4.into_iter().map(|v4| RData::A(v4.into())).collect(),
            RecordType::AAAA => v6.into_iter().map(|v6| RData::AAAA(v6.into())).collect(),
            RecordType::ANY => return self.minimal(),
            _ => Vec::new(),
        };
        if data.is_empty() {
            return self.nothing(closest, self.config.ttl.negative);
        }
        Answer::with(data.into_iter().map(|data| self.record(self.name, ttl, data)).collect())
    }

    /// The addresses of a site's proxies for whoever asks, or how they are reached over TLS.
    fn addresses(&self, site: Site, closest: Closest) -> Answer {
        let family = match self.kind {
            RecordType::AAAA => Family::V6,
            RecordType::ANY => return self.minimal(),
            RecordType::HTTPS => return self.service(site, closest),
            _ => Family::V4,
        };
        let Some(choice) = self.view.choose(self.zone, self.config, site, family) else {
            return Answer { error: Some(Extended::NOBODY), ..Answer::of(ResponseCode::ServFail) };
        };
        let ttl = self.lifetime(&choice);
        let error = match choice.standing {
            Standing::Live => None,
            Standing::LastGood => Some(Extended::STALE),
            Standing::Unseen => Some(Extended::UNSEEN),
        };
        let level = Some(choice.level);
        let wanted = matches!(self.kind, RecordType::A | RecordType::AAAA);
        if !wanted || choice.addresses.is_empty() {
            return Answer { level, ..self.nothing(closest, ttl) };
        }
        let data = choice.addresses.into_iter().map(RData::from);
        let records = data.map(|data| self.record(self.name, ttl, data)).collect();
        Answer { error, level, ..Answer::with(records) }
    }

    /// How a site's proxies are reached over TLS: those that A and AAAA name for the same client, if all can show a certificate.
    fn service(&self, site: Site, closest: Closest) -> Answer {
        let choices = [Family::V4, Family::V6].map(|family| self.view.choose(self.zone, self.config, site, family));
        let Some(ttl) = choices.iter().flatten().map(|choice| self.lifetime(choice)).min() else {
            return Answer { error: Some(Extended::NOBODY), ..Answer::of(ResponseCode::ServFail) };
        };
        let level = choices.iter().flatten().map(|choice| choice.level).next();
        let live = choices.iter().flatten().all(|choice| choice.standing == Standing::Live);
        let addresses: Vec<IpAddr> = choices.iter().flatten().flat_map(|choice| choice.addresses.clone()).collect();
        match service::data(&self.host(), &addresses, &self.view.roster.secure).filter(|_| live) {
            Some(data) => Answer { level, ..Answer::with(vec![self.record(self.name, ttl, data)]) },
            None => Answer { level, ..self.nothing(closest, ttl) },
        }
    }

    /// The name that a browser asks a certificate for: a target stands for any public name of one label, or for none that is
    /// known here.
    fn host(&self) -> String {
        let origin = self.zone.origin().to_ascii();
        let name = match self.zone.locate(self.name) {
            Place::Target(_) if Zone::is_covered(self.name) => format!("*.{origin}"),
            Place::Target(_) => String::new(),
            _ => self.name.to_ascii().to_ascii_lowercase(),
        };
        name.trim_end_matches('.').to_owned()
    }

    fn is_one_label(&self) -> bool {
        self.name.iter().count() == self.zone.origin().iter().count() + 1
    }

    fn lifetime(&self, choice: &Choice) -> Duration {
        let ttl = &self.config.ttl;
        let others = self.view.roster.rings.first().is_some_and(|ring| ring.live.len() > 1);
        let kept = match choice.standing {
            Standing::LastGood | Standing::Unseen => return ttl.unknown,
            Standing::Live if !self.view.placement.settled => ttl.unknown,
            // Farther away than whoever asks belongs, for as long as nobody there is seen alive: not to be kept beyond that.
            Standing::Live if choice.level < self.view.placement.level => ttl.of_live(choice.level, true),
            Standing::Live => ttl.of_live(choice.level, others && choice.addresses.len() == 1),
        };
        ttl.while_doubtful(kept, choice.doubtful)
    }

    /// The servers of the cluster of whoever asks.
    fn servers(&self) -> Vec<Server> {
        self.view.roster.servers_for(self.view.placement, self.view.prefix)
    }

    fn referral(&self, cut: Level, servers: &[Server]) -> Answer {
        let placement = self.view.placement;
        let ttl = match (placement.settled, placement.level) {
            (false, _) => self.config.ttl.delegation_unknown,
            (true, Level::GLOBAL) => self.config.ttl.delegation_far,
            (true, _) => self.config.ttl.delegation,
        };
        self.referral_for(ttl, cut, servers)
    }

    fn referral_for(&self, ttl: Duration, cut: Level, servers: &[Server]) -> Answer {
        let (authority, additional) = self.name_servers(Some(cut), servers, ttl);
        if authority.is_empty() {
            return Answer { error: Some(Extended::NOBODY), ..Answer::of(ResponseCode::ServFail) };
        }
        let (level, sent) = (Some(self.view.placement.level), Some(Sent::Referral(cut)));
        if self.kind == RecordType::NS
            && (self.view.below || (cut == Level::GLOBAL && !self.view.is_of_apex(self.zone)))
        {
            return Answer { additional, level, sent, ..Answer::with(authority) };
        }
        Answer { authority, additional, level, sent, ..Answer::of(ResponseCode::NoError) }
    }

    /// An NS set under a zone's name and the addresses of its servers, which have names in that zone.
    fn name_servers(&self, closest: Closest, servers: &[Server], ttl: Duration) -> (Vec<Record>, Vec<Record>) {
        let owner = self.zone.name_of(closest);
        let (mut set, mut glue) = (Vec::new(), Vec::new());
        for server in servers.iter().filter(|server| server.v4.is_some() || server.v6.is_some()) {
            let Some(name) = self.zone.server_name(closest, server.id) else { continue };
            let v4 = server.v4.map(|v4| RData::A(v4.into()));
            let v6 = server.v6.map(|v6| RData::AAAA(v6.into()));
            glue.extend(v4.into_iter().chain(v6).map(|data| self.record(&name, ttl, data)));
            set.push(self.record(owner, ttl, RData::NS(NS(name))));
        }
        (set, glue)
    }

    /// No such record, to be kept this long (RFC 2308 2.2).
    fn nothing(&self, closest: Closest, ttl: Duration) -> Answer {
        Answer { authority: vec![self.zone.soa(closest, ttl)], ..Answer::with(Vec::new()) }
    }

    /// The least answer to ANY.
    fn minimal(&self) -> Answer {
        Answer::with(vec![chain::minimal(self.name, seconds(self.config.ttl.negative))])
    }

    fn record(&self, name: &Name, ttl: Duration, data: RData) -> Record {
        Record::from_rdata(name.clone(), seconds(ttl), data)
    }
}

impl View<'_> {
    /// A site's proxies for whoever asks. Whoever is not known here and asks a server that is none of the apex's was referred to it,
    /// and most referrals name servers near to whom they are given: a resolver of two families is met over the second one like
    /// this.
    pub(crate) fn choose(&self, zone: &Zone, config: &Config, site: Site, family: Family) -> Option<Choice> {
        let View { placement, roster, width, prefix, .. } = *self;
        let want = Want { count: config.answers, width, turn: turn(prefix) };
        let asked = |level| roster.asked_at(level, config.fellows());
        let nearest = |level, proxies: &[Proxy]| {
            placement.distances.nearest(level, &config.thresholds, proxies, asked(level), &roster.mute)
        };
        let anywhere = |level| roster.choose(site, level, family, want, &nearest);
        match &placement.near {
            Some(near) => roster.choose_near(site, near, family, want, &nearest).or_else(|| anywhere(Level::GLOBAL)),
            None if !placement.is_known() && !self.is_of_apex(zone) => anywhere(zone.innermost()),
            None => anywhere(placement.level),
        }
    }

    /// Whether this server may be asked as one of the apex's: it is, or the configuration does not tell.
    fn is_of_apex(&self, zone: &Zone) -> bool {
        let me = self.roster.me.as_ref();
        let mine = |record: &Record| {
            let address = record.data.ip_addr();
            me.is_none_or(|me| {
                address.is_some() && (address == me.v4.map(Into::into) || address == me.v6.map(Into::into))
            })
        };
        let configured = zone.servers();
        configured.is_empty() || configured.iter().any(|(_, records)| records.is_empty() || records.iter().any(mine))
    }
}

impl Answer {
    /// A reply of a code alone.
    pub(crate) const fn of(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
            error: None,
            level: None,
            why: None,
            sent: None,
            cut: false,
        }
    }

    /// Records with authority.
    pub(crate) fn with(answers: Vec<Record>) -> Self {
        Self { authoritative: true, answers, ..Self::of(ResponseCode::NoError) }
    }
}
