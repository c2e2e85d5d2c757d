//! What was asked and answered: counters for the operator, in memory and through the `metrics` crate. Labels are of a closed
//! list, so that no question can make one.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use hickory_proto::rr::RecordType;

/// Which way a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
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
    /// Prefixes whose RTT was measured, by source in lower-case words.
    pub measured: BTreeMap<String, u64>,
}

/// The counters as they run.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Stats>);

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
    pub(crate) fn placed(&self, level: atoll_overlay::Level, why: &'static str) {
        let mut stats = self.lock();
        let at = usize::from(level.0);
        if stats.levels.len() <= at {
            stats.levels.resize(at + 1, 0);
        }
        if let Some(count) = stats.levels.get_mut(at) {
            *count += 1;
        }
        drop(stats);
        metrics::counter!("atoll_dns_answer_source_total", "why" => why).increment(1);
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
        }
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
