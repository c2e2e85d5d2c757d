//! The common question, answered without allocation: A or AAAA of a site, by a client whose distance is settled, from proxies
//! seen alive. Everything else is passed on to the whole path (`respond.rs`), which gives the same bytes for these, too; a
//! test holds the two against each other.
//!
//! One of these per socket's thread: its places (`places.rs`) and counts are its own, and nobody waits for another. The question is
//! read by `glance.rs`, the reply written by `brief.rs`.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::{net::SocketAddr, sync::Arc, time::Instant};

use atoll_overlay::Level;
use hickory_proto::rr::RecordType;

use crate::{
    Mode, Transport,
    brief::Brief,
    deck::{Deck, Want},
    glance::{Common, Glance},
    limit::Action,
    places::Places,
    redirector::Redirector,
    roster::{Family, Roster, Standing},
    site::Site,
    stats::Tally,
    zone::{Zone, seconds},
};

/// One thread's fast path.
pub(crate) struct Hot {
    redirector: Arc<Redirector>,
    /// The zone's name, and the ends of every site's target relative to it, as a question's bytes in lower case.
    zone: Vec<u8>,
    targets: [Vec<u8>; 2],
    /// Labels of the zone's name.
    depth: usize,
    sheet: Sheet,
    places: Places,
    glance: Glance,
    /// What time it was at the last question.
    moment: Option<(Instant, Moment)>,
    tally: Tally,
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hit {
    /// The reply is written; an empty one is not to be sent.
    Done,
    /// It is for the whole path.
    Passed,
}

/// What there is to choose from, per level and family, as of one roster; and the zone.
struct Sheet {
    version: u64,
    zone: Arc<Zone>,
    decks: Vec<[Option<(Deck, Level)>; 2]>,
    /// Whether there is more than one live proxy.
    others: bool,
    roster: Arc<Roster>,
}

/// A moment as the tables count it.
#[derive(Clone, Copy)]
struct Moment {
    second: u64,
    micros: u64,
}

impl Hot {
    pub(crate) fn new(redirector: Arc<Redirector>) -> Self {
        let whole = redirector.zone();
        let (zone, targets) = whole.wire_names();
        Self {
            redirector,
            zone,
            targets,
            depth: whole.origin().iter().count(),
            sheet: Sheet { version: 0, decks: Vec::new(), others: false, roster: Arc::default(), zone: whole },
            places: Places::new(),
            glance: Glance::new(),
            moment: None,
            tally: Tally::default(),
        }
    }

    /// Answers a question, or passes it on.
    pub(crate) fn answer(&mut self, now: Instant, query: &[u8], from: SocketAddr, reply: &mut Vec<u8>) -> Hit {
        self.try_answer(now, query, from, reply).map_or(Hit::Passed, |()| Hit::Done)
    }

    /// Makes the counts of the last questions known.
    pub(crate) fn flush(&mut self, now: Instant) {
        self.redirector.counters.add(now, &mut self.tally);
    }

    fn try_answer(&mut self, now: Instant, query: &[u8], from: SocketAddr, reply: &mut Vec<u8>) -> Option<()> {
        if self.redirector.is_sampled(query, from) {
            return None;
        }
        let common = self.glance.read(query)?;
        // Signatures are the whole path's.
        if common.edns == Some(true) && self.redirector.signs() {
            return None;
        }
        self.sheet.renew(&self.redirector);
        let site = self.site(&common)?;
        let resolver = from.ip().to_canonical();
        let slot = self.places.slot(&self.redirector, now, resolver)?;
        if self.redirector.config.mode == Mode::Levels && self.redirector.is_expecting(now, resolver, site) {
            return None;
        }
        let moment = self.moment(now);
        let width = self.redirector.heat.asked_in(moment.second, site);
        let known = self.places.get(slot)?;
        let want = Want { count: self.redirector.config.answers, width, turn: known.turn };
        let ([v4, v6], level, why) = (self.sheet.decks.get(usize::from(known.level.0))?, known.level, known.why);
        let of_level = if common.family == Family::V4 { v4 } else { v6 };
        let (deck, level) = match (&known.near, of_level) {
            (Some(near), _) => (near.get(usize::from(common.family == Family::V6))?, level),
            (None, Some((deck, level))) => (deck, *level),
            (None, None) => return None,
        };
        let picked = deck.pick(site, want);
        let alone = match picked.addresses() {
            [] => return None,
            [_] => self.sheet.others,
            _ => false,
        };
        let is_worse = alone || level < known.level;
        let ttl = &self.redirector.config.ttl;
        let ttl = ttl.while_doubtful(ttl.of_live(level, is_worse), self.sheet.roster.is_doubtful(level));
        let charge = known.charge;
        let brief = Brief { query, common: &common, udp_payload: self.redirector.config.limits.udp_payload };
        brief.name(seconds(ttl), picked.addresses(), reply)?;
        match self.redirector.limiter.take(moment.micros, charge, resolver, (query.len(), reply.len())) {
            Action::Send => {}
            Action::Slip => {
                self.redirector.counters.limited(Action::Slip.name());
                brief.cut(reply)?;
            }
            Action::Drop => {
                self.redirector.counters.limited(Action::Drop.name());
                reply.clear();
                return Some(());
            }
        }
        self.tally.answered(common.family, level, why, reply.len());
        Some(())
    }

    /// The site a name stands for, if it does so by itself and for everybody.
    fn site(&mut self, common: &Common) -> Option<Site> {
        let within = self.glance.within(common, &self.zone, self.depth)?;
        match self.redirector.config.mode {
            Mode::Levels => self.glance.target(within.1, &self.targets),
            Mode::Direct if within.0 >= 2 => {
                if !self.sheet.zone.is_common(self.glance.last(within)?) {
                    return None;
                }
                self.glance.host(within)
            }
            Mode::Direct | Mode::Plain => None,
        }
    }

    /// Now, as the tables of rates reckon it: once for all questions of a batch.
    fn moment(&mut self, now: Instant) -> Moment {
        match self.moment {
            Some((known, moment)) if known == now => moment,
            _ => {
                let (heat, limiter) = (&self.redirector.heat, &self.redirector.limiter);
                let moment = Moment { second: heat.second(now), micros: limiter.micros(now) };
                self.moment = Some((now, moment));
                moment
            }
        }
    }
}

impl Sheet {
    fn renew(&mut self, redirector: &Redirector) {
        let version = redirector.version();
        if version == self.version {
            return;
        }
        self.zone = redirector.zone();
        let roster = redirector.roster();
        let live = |level: usize, family| {
            let level = Level(u8::try_from(level).ok()?);
            let (deck, standing, level) = roster.deck(level, family)?;
            (standing == Standing::Live).then_some((deck, level))
        };
        let levels = 0..roster.rings.len();
        self.decks = levels.map(|level| [live(level, Family::V4), live(level, Family::V6)]).collect();
        self.others = roster.rings.first().is_some_and(|ring| ring.live.len() > 1);
        self.roster = roster;
        self.version = version;
    }
}

/// The type a family's addresses are asked by.
pub(crate) const fn kind(family: Family) -> RecordType {
    match family {
        Family::V4 => RecordType::A,
        Family::V6 => RecordType::AAAA,
    }
}

/// Which way the questions answered here come.
pub(crate) const WAY: Transport = Transport::Udp;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::IpAddr, panic::AssertUnwindSafe, sync::Mutex, time::Duration};

    use atoll_overlay::{Alone, Key, NodeId, NodeInfo, Prefix, Roles};
    use atoll_sys::heap::{Used, used};

    use super::*;
    use crate::{
        Config, Source,
        config::RateLimit,
        respond::Outcome,
        roster::{Proxy, Ring, Roster},
        search::Scouts,
    };

    /// A redirector with nine proxies at each level, of them four with IPv6, and a client near, one far and one unknown.
    fn redirector(mode: Mode) -> Arc<Redirector> {
        redirector_of(mode, 0)
    }

    /// The same; a site is hot from so many questions a second.
    fn redirector_of(mode: Mode, hot: u32) -> Arc<Redirector> {
        let me = NodeInfo {
            v4: vec![[192, 0, 2, 1].into()],
            http_ports: vec![80],
            ..NodeInfo::new(NodeId::from(Key::ZERO), Roles::PROXY.with(Roles::DNSSRV))
        };
        let record = |name: &str, kind: &str, data: &str| crate::StaticRecord {
            name: name.to_owned(),
            kind: kind.to_owned(),
            data: data.to_owned(),
            ttl: Duration::from_secs(300),
        };
        let records = vec![record("plain", "A", "192.0.2.7"), record("*.wild", "A", "192.0.2.8")];
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "192.0.1.0/24 level 1\n").unwrap();
        let overrides = Some(file.path().to_owned());
        // Of however many answers a second.
        let rate_limit = RateLimit { per_second: 0, ..RateLimit::default() };
        let config = Config { mode, records, overrides, hot, rate_limit, ..Config::default() };
        let (redirector, ..) = Redirector::new(config, Arc::new(Alone::new(me))).unwrap();
        let proxy = |last: u8| Proxy {
            v4: Some([192, 0, 2, last].into()),
            v6: last.is_multiple_of(2).then(|| [0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()].into()),
            load: last * 10,
            weight: 100,
            port: 0,
        };
        let live = (1..=9).map(proxy).collect();
        let ring = Ring { cluster: Key::ZERO, members: BTreeSet::new(), live, unseen: Vec::new(), servers: Vec::new() };
        redirector.set_roster(Roster { rings: vec![ring; 3], ..Roster::default() });
        let then = Instant::now().checked_sub(Duration::from_secs(90)).unwrap();
        for (client, rtt) in [(NEAR, 5), (FAR, 90)] {
            redirector.measured(then, Prefix::of(client), Source::TcpConnect, Duration::from_millis(rtt));
            redirector.asked(then, Prefix::of(client), None, Vec::new());
        }
        redirector.scouts_found(Prefix::of(FAR), None, Scouts::Back);
        Arc::new(redirector)
    }

    const NEAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 53));
    const FAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 53));
    /// By the operator's word.
    const PLACED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 1, 53));
    const STRANGER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 53));

    struct Both {
        redirector: Arc<Redirector>,
        hot: Mutex<Hot>,
        now: Instant,
    }

    impl Both {
        fn new(mode: Mode) -> Self {
            Self::of(redirector(mode))
        }

        fn of(redirector: Arc<Redirector>) -> Self {
            let hot = Mutex::new(Hot::new(Arc::clone(&redirector)));
            Self { redirector, hot, now: Instant::now() }
        }

        /// The fast path's answer, to whom it knows.
        fn reply(&self, query: &[u8], from: IpAddr) -> Vec<u8> {
            let mut reply = Vec::new();
            let hit = self.hot.lock().unwrap().answer(self.now, query, SocketAddr::new(from, 5353), &mut reply);
            assert_eq!(hit, Hit::Done);
            reply
        }

        /// Asks both paths; what the fast one answers is what the whole one does. Says whether it answered.
        fn check(&self, query: &[u8], from: IpAddr) -> bool {
            let mut reply = Vec::new();
            let from = SocketAddr::new(from, 5353);
            let mut hot = self.hot.lock().unwrap();
            // The first question of a prefix is always passed on.
            for _ in 0..2 {
                reply.clear();
                let now = self.now;
                if hot.answer(now, query, from, &mut reply) == Hit::Passed {
                    continue;
                }
                let Outcome::Reply(whole) = self.redirector.respond(now, query, from, Transport::Tcp, None) else {
                    panic!("the whole path is silent on {query:02x?}");
                };
                assert_eq!(reply, whole, "{query:02x?}");
                return true;
            }
            false
        }
    }

    fn question(name: &[u8], kind: u16, flags: u8, opt: &[u8]) -> Vec<u8> {
        let mut bytes = vec![1, 2, flags, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(!opt.is_empty())];
        for label in name.split(|byte| *byte == b'.').filter(|label| !label.is_empty()) {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label);
        }
        bytes.push(0);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(opt);
        bytes
    }

    const EDNS: &[u8] = &[0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0];
    const DO: &[u8] = &[0, 0, 41, 0, 0, 0, 0, 0x80, 0, 0, 0];

    #[test]
    fn the_common_questions_are_answered_here_and_the_others_passed_on() {
        let target = format!("{}.http.l2.l1.l0.nyud.example", Site::of("www.example.com", 80).label());
        let covered = target.replace(".http.", ".https.");
        for (mode, name) in [
            (Mode::Levels, target.as_str()),
            (Mode::Levels, covered.as_str()),
            (Mode::Direct, "www.Example.com.nyud.EXAMPLE"),
        ] {
            let both = Both::new(mode);
            for from in [NEAR, FAR, PLACED] {
                for (kind, flags, opt) in [(1, 0, EDNS), (28, 1, EDNS), (1, 1, DO), (28, 0, &[])] {
                    assert!(both.check(&question(name.as_bytes(), kind, flags, opt), from), "{mode:?} {from} {kind}");
                }
            }
            assert!(!both.check(&question(name.as_bytes(), 1, 0, EDNS), STRANGER), "{mode:?}");
            let others: [&[u8]; 10] = [
                b"nyud.example",
                b"plain.nyud.example",
                b"x.plain.nyud.example",
                b"a.b.wild.nyud.example",
                b"l0.nyud.example",
                b"com.nyud.example",
                b"www.example.com.8080.nyud.example",
                b"www.-example.com.nyud.example",
                b"www.example.com.notnyud.example",
                b"www.example.org",
            ];
            for other in others {
                assert!(!both.check(&question(other, 1, 0, EDNS), NEAR), "{}", String::from_utf8_lossy(other));
            }
            assert!(!both.check(&question(name.as_bytes(), 16, 0, EDNS), NEAR), "another type");
            assert!(!both.check(&question(name.as_bytes(), 1, 8, EDNS), NEAR), "another operation");
        }
    }

    #[test]
    fn what_is_named_of_a_level_that_is_doubted_is_kept_for_a_moment_on_both_paths() {
        let ttl = |reply: &[u8], question: usize| u32::from_be_bytes(*reply[question + 6..].first_chunk().unwrap());
        for (doubtful, from, expected) in
            [(false, FAR, 60), (true, FAR, 5), (false, NEAR, 30), (true, NEAR, 5), (true, PLACED, 5)]
        {
            let both = Both::new(Mode::Direct);
            let roster = Roster { doubtful: vec![doubtful; 3], ..Roster::clone(&both.redirector.roster()) };
            both.redirector.set_roster(roster);
            let query = question(b"www.example.com.nyud.example", 1, 0, &[]);
            assert!(both.check(&query, from), "{from}");
            let mut reply = Vec::new();
            both.hot.lock().unwrap().answer(both.now, &query, SocketAddr::new(from, 5353), &mut reply);
            assert_eq!(ttl(&reply, query.len()), expected, "{from}, doubtful: {doubtful}");
        }
    }

    #[test]
    fn a_hot_sites_questions_are_answered_alike_whatever_part_of_its_proxies_a_prefix_is_given() {
        let both = Both::of(redirector_of(Mode::Direct, 1));
        let then = both.now.checked_sub(Duration::from_secs(90)).unwrap();
        let query = question(b"www.example.com.nyud.example", 1, 0, &[]);
        // Until its set is as wide as it gets: both paths count the questions of a second.
        for _ in 0..64 {
            both.redirector.respond(both.now, &query, SocketAddr::new(NEAR, 5353), Transport::Tcp, None);
        }
        let mut replies = BTreeSet::new();
        for third in 0..16 {
            let from = IpAddr::from([203, 0, third, 53]);
            both.redirector.measured(then, Prefix::of(from), Source::TcpConnect, Duration::from_millis(5));
            both.redirector.asked(then, Prefix::of(from), None, Vec::new());
            for _ in 0..3 {
                assert!(both.check(&query, from), "{from}");
            }
            replies.insert(both.reply(&query, from));
        }
        assert!(replies.len() > 1, "each prefix has its turn");
    }

    #[test]
    fn of_a_level_only_the_near_ones_are_named_on_both_paths() {
        let both = Both::new(Mode::Direct);
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let me =
            crate::roster::Server { id: Key::ZERO.into(), v4: Some([192, 0, 2, 1].into()), v6: None, cluster: None };
        both.redirector.set_roster(Roster { me: Some(me), ..Roster::clone(&both.redirector.roster()) });
        both.redirector.measured(both.now, Prefix::of(NEAR), Source::TcpConnect, Duration::from_millis(5));
        let heard = [(3, 9), (4, 12), (5, 40)].map(|(last, rtt)| (address(last), Duration::from_millis(rtt)));
        both.redirector.clients().heard(both.now, Prefix::of(NEAR), heard);
        for (kind, answers) in [(1, 2), (28, 1)] {
            let query = question(b"www.example.com.nyud.example", kind, 0, &[]);
            assert!(both.check(&query, NEAR), "{kind}");
            let reply = both.reply(&query, NEAR);
            assert_eq!(reply[7], answers, "{kind}");
            let last = |at: usize| *reply[..reply.len() - at * 16].last().unwrap();
            let named: Vec<u8> = if kind == 1 { vec![last(0), last(1)] } else { vec![last(0)] };
            assert!(named.iter().all(|named| [1, 3, 4].contains(named)), "{named:?}");
        }
    }

    #[test]
    fn an_answer_from_here_asks_the_heap_for_nothing_whatever_the_name() {
        for mode in [Mode::Levels, Mode::Direct] {
            let redirector = redirector(mode);
            let (mut hot, now) = (Hot::new(Arc::clone(&redirector)), Instant::now());
            let questions: Vec<Vec<u8>> = (0..900)
                .map(|number: u64| match mode {
                    Mode::Levels => format!("{}.http.l2.l1.l0.nyud.example", Site(number << 40 | number).label()),
                    _ => format!("www.site{number}.com.nyud.example"),
                })
                .map(|name| question(name.as_bytes(), 1, 0, EDNS))
                .collect();
            let mut reply = Vec::with_capacity(512);
            let mut ask = |query: &[u8]| {
                reply.clear();
                hot.answer(now, query, SocketAddr::new(NEAR, 5353), &mut reply) == Hit::Done && reply[7] == 2
            };
            // The first question of a prefix is passed on, to the whole path.
            assert!(!ask(&questions[0]) && ask(&questions[0]));
            let before = used();
            assert!(questions.iter().all(|query| ask(query)), "{mode:?}");
            assert_eq!(used().since(before), Used::default(), "{mode:?}");
        }
    }

    #[test]
    fn a_dot_inside_a_label_is_no_dot_between_two() {
        let both = Both::new(Mode::Direct);
        let mut query = question(b"a_b.com.nyud.example", 1, 0, EDNS);
        assert!(both.check(&query, NEAR));
        query[14] = b'.';
        assert!(!both.check(&query, NEAR));
    }

    #[test]
    fn both_paths_answer_alike_byte_for_byte() {
        for mode in [Mode::Direct, Mode::Levels] {
            let both = AssertUnwindSafe(Both::new(mode));
            bolero::check!().with_type::<(Vec<(u8, u8)>, u8, u8, u8, bool)>().for_each(
                |(labels, kind, flags, opt, near)| {
                    let words: [&[u8]; 15] = [
                        b"www",
                        b"example",
                        b"com",
                        b"a-b",
                        b"a_b",
                        b"-",
                        b"8080",
                        b"plain",
                        b"wild",
                        b"l0",
                        b"http",
                        b"eo7uvoilv2uwg",
                        b"n-0",
                        b"\xff",
                        b"a+b",
                    ];
                    let mut name = Vec::new();
                    for (word, twist) in labels.iter().take(6) {
                        let word = words[usize::from(*word) % words.len()];
                        let twist = twist.is_multiple_of(5);
                        let upper = |byte: &u8| if twist { byte.to_ascii_uppercase() } else { *byte };
                        name.extend(word.iter().map(upper));
                        name.push(b'.');
                    }
                    if mode == Mode::Levels && !opt.is_multiple_of(3) {
                        name = b"eo7uvoilv2uwg.HTTP.l2.l1.l0.".to_vec();
                    }
                    name.extend(b"nyud.example");
                    let kind = [1, 28, 1, 28, 1, 16, 65, 2][usize::from(*kind) % 8];
                    let opt = [EDNS, DO, &[][..]][usize::from(*opt) % 3];
                    let mut query = question(&name, kind, *flags, opt);
                    // A dot that stands inside a label.
                    query.iter_mut().filter(|byte| **byte == b'+').for_each(|byte| *byte = b'.');
                    both.check(&query, if *near { NEAR } else { FAR });
                },
            );
        }
    }
}
