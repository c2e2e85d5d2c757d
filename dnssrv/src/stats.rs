//! What was asked and answered: counters for the operator, in memory and through the `metrics` crate. Labels are of a closed
//! list, so that no question can make one.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use atoll_overlay::Level;
use hickory_proto::rr::RecordType;

use crate::{Destination, hot, roster::Family};

/// Which way a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
    /// Over TLS (RFC 7858).
    Tls,
    /// Over HTTPS (RFC 8484).
    Https,
}

/// Counters since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Questions by type, response code and transport, all in lower-case words (`("a", "noerror", "udp")`).
    pub queries: BTreeMap<(&'static str, &'static str, &'static str), u64>,
    /// Answers that depended on who asked, by level, level 0 first.
    pub levels: Vec<u64>,
    /// Datagrams that were not answered: too short, or themselves replies.
    pub dropped: u64,
    /// Replies over UDP that the rate limit kept back, by what was done: `slip` or `drop`.
    pub limited: BTreeMap<&'static str, u64>,
    /// Proxies seen alive, by level.
    pub live: Vec<usize>,
    /// Where answers went: the prefixes that were answered most, 64 at most.
    pub map: Vec<Destination>,
    /// Prefixes whose RTT was measured, by source in lower-case words.
    pub measured: BTreeMap<String, u64>,
}

impl Stats {
    fn count_level(&mut self, at: usize, more: u64) {
        if self.levels.len() <= at {
            self.levels.resize(at + 1, 0);
        }
        if let Some(count) = self.levels.get_mut(at) {
            *count += more;
        }
    }
}

/// The counters as they run.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Stats>);

/// What one thread's fast path answered since it last told.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// By family: A, AAAA.
    answered: [u64; 2],
    /// By level, level 0 first.
    levels: [u64; 8],
    bytes: u64,
}

impl Tally {
    /// An answer was given.
    pub(crate) fn answered(&mut self, family: Family, level: Level, bytes: usize) {
        let [v4, v6] = &mut self.answered;
        *(if family == Family::V4 { v4 } else { v6 }) += 1;
        if let Some(count) = self.levels.get_mut(usize::from(level.0)) {
            *count += 1;
        }
        self.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }
}

impl Counters {
    /// A question was answered.
    pub(crate) fn answered(&self, kind: &'static str, code: &'static str, transport: Transport, bytes: usize) {
        let transport = transport.name();
        *self.lock().queries.entry((kind, code, transport)).or_default() += 1;
        metrics::counter!("atoll_dns_queries_total", "type" => kind, "rcode" => code, "transport" => transport)
            .increment(1);
        metrics::counter!("atoll_dns_response_bytes_total").increment(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// An answer named a cluster, for this reason.
    pub(crate) fn placed(&self, level: Level, why: &'static str) {
        self.lock().count_level(usize::from(level.0), 1);
        metrics::counter!("atoll_dns_answer_source_total", "why" => why).increment(1);
    }

    /// The fast path's answers, all of them placed by an RTT.
    pub(crate) fn add(&self, tally: &mut Tally) {
        let tally = std::mem::take(tally);
        let total: u64 = tally.answered.iter().sum();
        if total == 0 {
            return;
        }
        let mut stats = self.lock();
        for (family, count) in [Family::V4, Family::V6].into_iter().zip(tally.answered).filter(|(_, count)| *count > 0)
        {
            let kind = kind_name(hot::kind(family));
            *stats.queries.entry((kind, "noerror", hot::WAY.name())).or_default() += count;
            metrics::counter!("atoll_dns_queries_total", "type" => kind, "rcode" => "noerror", "transport" => hot::WAY.name())
                .increment(count);
        }
        for (at, count) in tally.levels.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            stats.count_level(at, count);
        }
        drop(stats);
        metrics::counter!("atoll_dns_response_bytes_total").increment(tally.bytes);
        metrics::counter!("atoll_dns_answer_source_total", "why" => "rtt").increment(total);
    }

    /// A datagram was left unanswered.
    pub(crate) fn dropped(&self) {
        self.lock().dropped += 1;
        metrics::counter!("atoll_dns_dropped_total").increment(1);
    }

    /// A reply was kept back.
    pub(crate) fn limited(&self, action: &'static str) {
        *self.lock().limited.entry(action).or_default() += 1;
        metrics::counter!("atoll_dns_rrl_total", "action" => action).increment(1);
    }

    /// A prefix was measured.
    pub(crate) fn measured(&self, source: crate::Source) {
        let source = source.to_string();
        *self.lock().measured.entry(source.clone()).or_default() += 1;
        metrics::counter!("atoll_dns_measured_total", "source" => source).increment(1);
    }

    /// The counters now.
    pub(crate) fn read(&self) -> Stats {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Stats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport {
    /// Its word in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Https => "https",
        }
    }

    /// Whether messages follow each other on one connection that may idle.
    pub(crate) const fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }

    /// Whether nobody on the way sees what is asked.
    pub(crate) const fn is_secret(self) -> bool {
        matches!(self, Self::Tls | Self::Https)
    }
}

/// A type's word in metrics.
pub(crate) const fn kind_name(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "a",
        RecordType::AAAA => "aaaa",
        RecordType::ANY => "any",
        RecordType::CNAME => "cname",
        RecordType::DS => "ds",
        RecordType::HTTPS => "https",
        RecordType::MX => "mx",
        RecordType::NS => "ns",
        RecordType::SOA => "soa",
        RecordType::SVCB => "svcb",
        RecordType::TXT => "txt",
        _ => "other",
    }
}
