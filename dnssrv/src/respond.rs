//! From a query's bytes to a reply's, out of memory alone: who asks, what is known of them, the answer, what the answer makes
//! one expect. What must wait for others (probes, the index) is left as an errand in a bounded queue and helps the next query.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use atoll_overlay::{Level, Prefix};
use hickory_proto::{
    op::ResponseCode,
    rr::{DNSClass, RecordType},
};

use crate::{
    Mode, Transport,
    answer::{Answer, View, answer},
    cookie::Cookie,
    dnssec::Signing,
    gap::Sent,
    limit::Action,
    placing::AskedFor,
    question::{Edns, Header, Query, Refusal},
    redirector::Redirector,
    reply::{Frame, code_name, encode, truncated},
    stats::kind_name,
    waiters::{Patience, Waited},
    zone::Place,
};

/// Bytes a client without EDNS takes over UDP (RFC 1035 4.2.1).
const PLAIN: u16 = 512;

/// What becomes of a query.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Nothing.
    Silence,
    /// A reply.
    Reply(Vec<u8>),
    /// It is to be asked again, without waiting, once this is over.
    Wait(Patience),
}

/// A message as it came.
pub(crate) struct Asked<'a> {
    pub(crate) now: Instant,
    pub(crate) bytes: &'a [u8],
    pub(crate) from: SocketAddr,
    pub(crate) transport: Transport,
}

/// An answer with the scope it holds for, or what to wait for first.
pub(crate) enum Resolved {
    Answer(Answer, u8),
    Wait(Patience),
}

impl Redirector {
    /// Answers a query. `waited`: how it was put off so far until more is known of who asks; none if it may not be.
    pub(crate) fn respond(
        &self,
        now: Instant,
        bytes: &[u8],
        from: SocketAddr,
        transport: Transport,
        waited: Option<Waited>,
    ) -> Outcome {
        let asked = Asked { now, bytes, from, transport };
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(Refusal::Drop) => {
                self.counters.dropped();
                return Outcome::Silence;
            }
            Err(Refusal::Malformed(header, edns)) => return self.refuse(&asked, header, edns, ResponseCode::FormErr),
            Err(Refusal::Operation(header, edns)) => return self.refuse(&asked, header, edns, ResponseCode::NotImp),
            Err(Refusal::Bare(header, edns)) => {
                let code = self.code_without_question(&asked, &edns);
                return self.refuse(&asked, header, Some(edns), code);
            }
        };
        if transport.is_stream() && query.edns.is_some_and(|edns| edns.says_keepalive) {
            return self.refuse(&asked, query.header, query.edns, ResponseCode::FormErr);
        }
        let zone = self.zone();
        let signing = self.signing(&zone, &asked, &query);
        let own = || signing.as_ref().and_then(Signing::own_answer);
        let (answer, scope) = match unanswerable(&query).or_else(own) {
            Some(answer) => (answer, 0),
            None => match self.resolve(now, &query, from, waited) {
                Resolved::Answer(answer, scope) => (answer, scope),
                Resolved::Wait(known) => return Outcome::Wait(known),
            },
        };
        let mut answer = match &signing {
            Some(signing) => signing.signed(answer),
            None => answer,
        };
        answer.cut |= self.is_to_cut(&asked, &answer);
        let frame = self.frame(&asked, query.header, query.edns, scope);
        let outcome = self.reply(&asked, &answer, &frame, kind_name(query.kind));
        if self.is_sampled(bytes, from) {
            self.note(&asked, Some((&query.name, query.kind)), &answer, &outcome);
        }
        outcome
    }

    /// The bytes of a reply, unless the rate limit keeps it back.
    fn reply(&self, asked: &Asked<'_>, answer: &Answer, frame: &Frame<'_>, kind: &'static str) -> Outcome {
        let mut bytes = encode(answer, frame);
        let address = asked.from.ip().to_canonical();
        if asked.transport == Transport::Udp && !self.has_good_cookie(asked, frame.edns.as_ref()) {
            match self.limiter.check(asked.now, address, asked.bytes.len(), bytes.len()) {
                Action::Send => {}
                Action::Slip => {
                    self.counters.limited(Action::Slip.name());
                    // Without what would make it longer than the question.
                    let edns = frame.edns.map(|edns| Edns { nsid: false, subnet: None, ..edns });
                    bytes = truncated(answer, &Frame { edns, ..*frame });
                }
                Action::Drop => {
                    self.counters.limited(Action::Drop.name());
                    return Outcome::Silence;
                }
            }
        }
        self.counters.answered((kind, code_name(answer.code)), asked.transport, bytes.len(), asked.now);
        Outcome::Reply(bytes)
    }

    fn has_good_cookie(&self, asked: &Asked<'_>, edns: Option<&Edns>) -> bool {
        let cookie = edns.and_then(|edns| edns.cookie).filter(|_| self.config.cookies);
        cookie.is_some_and(|cookie| self.cookies.is_good(&cookie, asked.from.ip(), self.wall(asked.now)))
    }

    /// What a query with a cookie and no question is answered by (RFC 7873 5.4); it means nothing where there are no cookies.
    fn code_without_question(&self, asked: &Asked<'_>, edns: &Edns) -> ResponseCode {
        match edns.cookie.filter(|_| self.config.cookies) {
            None => ResponseCode::FormErr,
            Some(cookie) if cookie.returned && !self.has_good_cookie(asked, Some(edns)) => ResponseCode::BADCOOKIE,
            Some(_) => ResponseCode::NoError,
        }
    }

    fn resolve(&self, now: Instant, query: &Query, from: SocketAddr, waited: Option<Waited>) -> Resolved {
        if let Some(answer) = self.why_answer(now, &query.name, query.kind, from.ip()) {
            return Resolved::Answer(answer, 0);
        }
        let zone = self.zone();
        let place = zone.locate(&query.name);
        let resolver = from.ip().to_canonical();
        let followed = self.gaps().came(now, resolver, &place);
        if let Some(followed) = followed {
            self.learn(now, Prefix::of(resolver), followed);
        }
        if matches!(place, Place::Missing(_))
            && let Some(report) = self.report(now, query, resolver, waited.is_some_and(|waited| waited.times == 0))
        {
            return report;
        }
        let asked_for = self.asked_for(now, query, resolver, &place);
        if self.depends_on_who_asks(&place)
            && let Some(known) = self.find_out(now, &asked_for, waited.filter(|_| self.is_worth_waiting(&place)))
        {
            return Resolved::Wait(known);
        }
        let AskedFor { prefix, placement, scope, .. } = asked_for;
        let roster = self.roster();
        let below = matches!(place, Place::Cut(cut) if self.is_asked_below(now, resolver, query, cut));
        let width = match (place, self.config.mode) {
            (Place::Target(site), _) | (Place::Public(site), Mode::Direct) => self.heat.asked(now, site),
            _ => 1,
        };
        let view = View { placement: &placement, roster: &roster, prefix, below, width };
        let answer = answer(&zone, &self.config, place, &query.name, query.kind, view);
        if let Some(sent) = answer.sent {
            self.gaps().sent(now, resolver, sent, &zone.sites_above(&query.name));
        }
        match answer.level {
            Some(level) => {
                let why = self.noted(now, prefix, level, &placement, &roster);
                Resolved::Answer(Answer { why: Some(why), ..answer }, scope)
            }
            // What depends on nobody holds for everybody.
            None => Resolved::Answer(answer, 0),
        }
    }

    /// Whether a cut is asked for from below it: by whoever was just referred there, or for the sake of its NS themselves, as checkers
    /// of delegations do. Resolvers that minimise by NS speak EDNS.
    fn is_asked_below(&self, now: Instant, resolver: IpAddr, query: &Query, cut: Level) -> bool {
        let for_its_own_sake = query.kind == RecordType::NS && query.edns.is_none();
        for_its_own_sake || self.gaps().is_sent(now, resolver, Sent::Referral(cut))
    }

    /// Whether the answer depends on who asks, or that to the question which is to be expected next.
    fn depends_on_who_asks(&self, place: &Place<'_>) -> bool {
        match place {
            Place::Cut(_) | Place::Target(_) => true,
            // The CNAME depends on nobody, but who follows it will be answered soon.
            Place::Public(_) => true,
            // Nor does this, but who minimises names asks for one below it next (RFC 9156 2), here or at another server.
            Place::Empty(_) => true,
            Place::Outside | Place::Apex(_) | Place::Plain(_) | Place::Missing(_) => false,
            Place::Node(..) | Place::Server(..) => false,
        }
    }

    /// An alias depends on nobody, nor does the lack of records; the question that follows may wait.
    fn is_worth_waiting(&self, place: &Place<'_>) -> bool {
        match place {
            Place::Public(_) => self.config.mode == Mode::Direct,
            _ => !matches!(place, Place::Empty(_)),
        }
    }

    fn refuse(&self, asked: &Asked<'_>, header: Header, edns: Option<Edns>, code: ResponseCode) -> Outcome {
        let answer = Answer::of(code);
        let outcome = self.reply(asked, &answer, &self.frame(asked, header, edns, 0), "unread");
        if self.is_sampled(asked.bytes, asked.from) {
            self.note(asked, None, &answer, &outcome);
        }
        outcome
    }

    fn frame<'a>(&'a self, asked: &Asked<'a>, header: Header, edns: Option<Edns>, scope: u8) -> Frame<'a> {
        let payload = self.config.limits.udp_payload;
        let limit = match (asked.transport, edns) {
            (Transport::Tcp | Transport::Tls | Transport::Https, _) => u16::MAX,
            (Transport::Udp, Some(edns)) => edns.payload.max(PLAIN).min(payload),
            (Transport::Udp, None) => PLAIN,
        };
        let cookie = edns.and_then(|edns| edns.cookie).filter(|_| self.config.cookies);
        let cookie = cookie
            .map(|Cookie { client, .. }| (client, self.cookies.make(client, asked.from.ip(), self.wall(asked.now))));
        let keepalive = edns.is_some_and(|edns| edns.keepalive) && asked.transport.is_stream();
        Frame {
            header,
            query: asked.bytes,
            edns,
            scope,
            cookie,
            compact: self.signs() && edns.is_some_and(|edns| edns.compact && edns.dnssec_ok),
            padded: asked.transport.is_secret() && edns.is_some_and(|edns| edns.padded),
            keepalive: keepalive.then_some(self.config.limits.tcp_idle),
            nsid: &self.config.nsid,
            payload,
            limit,
        }
    }
}

/// What is answered whatever the name: other versions, classes and types that are no data.
fn unanswerable(query: &Query) -> Option<Answer> {
    if query.edns.is_some_and(|edns| edns.version != 0) {
        return Some(Answer::of(ResponseCode::BADVERS));
    }
    if query.class != DNSClass::IN {
        return Some(Answer::of(ResponseCode::Refused));
    }
    match u16::from(query.kind) {
        // OPT is no type to ask for.
        0 | 41 => Some(Answer::of(ResponseCode::FormErr)),
        // IXFR, AXFR: nobody has a copy of this zone.
        251 | 252 => Some(Answer::of(ResponseCode::Refused)),
        // Any other there may be records of, and if there are none, that is the answer (RFC 8906 3.1.4).
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use atoll_overlay::{Alone, Key, NodeId, NodeInfo, Roles};
    use hickory_proto::op::{Message, Query as Question};

    use super::*;
    use crate::{Config, placing::tests::RESOLVER};

    /// Whether a stranger's question waits, and whether it has the stranger measured.
    fn check(mode: Mode, name: &str) -> (bool, bool) {
        let me = NodeInfo::new(NodeId::from(Key::ZERO), Roles::DNSSRV.with(Roles::PROXY));
        let config = Config { mode, wait: true, ..Config::default() };
        let (redirector, mut probes, _errands) = Redirector::new(config, Arc::new(Alone::new(me))).unwrap();
        let mut message = Message::query();
        let name = format!("{name}.{}", redirector.zone().origin().to_ascii());
        message.add_query(Question::query(name.parse().unwrap(), RecordType::A));
        let from = SocketAddr::new(RESOLVER, 4096);
        let bytes = message.to_vec().unwrap();
        let outcome = redirector.respond(Instant::now(), &bytes, from, Transport::Udp, Some(Waited::default()));
        (matches!(outcome, Outcome::Wait(_)), probes.try_recv().is_ok())
    }

    #[test]
    fn a_minimised_question_waits_for_nothing_and_has_the_one_that_follows_it_answered_sooner() {
        for mode in [Mode::Direct, Mode::Levels] {
            assert_eq!(check(mode, "com"), (false, true), "{mode:?}");
            assert_eq!(check(mode, "www.example.com"), (mode == Mode::Direct, true), "{mode:?}");
            assert_eq!(check(mode, "www.example.com.l0"), (false, false), "{mode:?}: no such name");
        }
        assert_eq!(check(Mode::Levels, "http.l2.l1.l0"), (false, true));
        assert_eq!(check(Mode::Plain, "com"), (false, false), "there nothing depends on who asks");
    }
}
