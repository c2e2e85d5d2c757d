//! What was asked and answered: counters for the operator, in memory and through the `metrics` crate. Labels are of a closed
//! list, so that no question can make one.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use atoll_overlay::Level;
use hickory_proto::rr::RecordType;

use crate::{Destination, Source, hot, roster::Family};

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
pub(crate) struct Counters {
    stats: Mutex<Stats>,
    /// What fast paths answered, by family and by level: so no batch of theirs waits for a lock.
    answered: [AtomicU64; 2],
    levels: [AtomicU64; LEVELS],
}

/// What one thread's fast path answered since it last told.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// By family: A, AAAA.
    answered: [u64; 2],
    /// By level, level 0 first.
    levels: [u64; LEVELS],
    /// By what placed who asked.
    placed: [u64; PLACED_BY.len()],
    bytes: u64,
    /// Times that it was told, one in so many of them timed.
    told: u32,
    published: Option<Published>,
}

/// The metrics the fast path adds to. To find them takes longer than to answer, so they are found once in a while: anew, since who
/// collects them may start later.
#[derive(Debug)]
struct Published {
    found: Instant,
    answered: [metrics::Counter; 2],
    bytes: metrics::Counter,
    placed: [Option<metrics::Counter>; PLACED_BY.len()],
    seconds: metrics::Histogram,
}

impl Published {
    fn find(now: Instant) -> Self {
        let answered = [Family::V4, Family::V6].map(|family| {
            let kind = kind_name(hot::kind(family));
            metrics::counter!("atoll_dns_queries_total", "type" => kind, "rcode" => "noerror", "transport" => hot::WAY.name())
        });
        Self {
            found: now,
            answered,
            bytes: metrics::counter!("atoll_dns_response_bytes_total"),
            // Only of those that occur.
            placed: Default::default(),
            seconds: seconds(),
        }
    }
}

impl Tally {
    /// An answer was given.
    pub(crate) fn answered(&mut self, family: Family, level: Level, why: usize, bytes: usize) {
        let [v4, v6] = &mut self.answered;
        *(if family == Family::V4 { v4 } else { v6 }) += 1;
        if let Some(count) = self.levels.get_mut(usize::from(level.0)) {
            *count += 1;
        }
        if let Some(count) = self.placed.get_mut(why) {
            *count += 1;
        }
        self.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }
}

impl Counters {
    /// A question that came then was answered.
    pub(crate) fn answered(
        &self,
        (kind, code): (&'static str, &'static str),
        transport: Transport,
        bytes: usize,
        came: Instant,
    ) {
        let transport = transport.name();
        seconds().record(came.elapsed().as_secs_f64());
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

    /// The fast path's answers to what came then.
    pub(crate) fn add(&self, now: Instant, tally: &mut Tally) {
        let answered = std::mem::take(&mut tally.answered);
        let total: u64 = answered.iter().sum();
        if total == 0 {
            return;
        }
        tally.published.take_if(|published| now.saturating_duration_since(published.found) >= FOUND_AGAIN);
        let published = tally.published.get_or_insert_with(|| Published::find(now));
        let each = answered.into_iter().zip(&self.answered).zip(&published.answered);
        for ((count, sum), metric) in each.filter(|((count, _), _)| *count > 0) {
            sum.fetch_add(count, Ordering::Relaxed);
            metric.increment(count);
        }
        for (count, sum) in tally.levels.iter_mut().zip(&self.levels).filter(|(count, _)| **count > 0) {
            sum.fetch_add(std::mem::take(count), Ordering::Relaxed);
        }
        tally.told = tally.told.wrapping_add(1);
        if tally.told.is_multiple_of(TIMED_ONE_IN) {
            published.seconds.record(now.elapsed().as_secs_f64());
        }
        published.bytes.increment(std::mem::take(&mut tally.bytes));
        let placed = tally.placed.iter_mut().zip(&mut published.placed).zip(PLACED_BY);
        for ((count, metric), why) in placed.filter(|((count, _), _)| **count > 0) {
            let metric = metric.get_or_insert_with(|| metrics::counter!("atoll_dns_answer_source_total", "why" => why));
            metric.increment(std::mem::take(count));
        }
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
    pub(crate) fn measured(&self, source: Source) {
        let source = source.to_string();
        *self.lock().measured.entry(source.clone()).or_default() += 1;
        metrics::counter!("atoll_dns_measured_total", "source" => source).increment(1);
    }

    /// The counters now.
    pub(crate) fn read(&self) -> Stats {
        let mut stats = self.lock().clone();
        let counts = |sums: &[AtomicU64]| sums.iter().map(|sum| sum.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let families = [Family::V4, Family::V6].into_iter().zip(counts(&self.answered));
        for (family, count) in families.filter(|(_, count)| *count > 0) {
            *stats.queries.entry((kind_name(hot::kind(family)), "noerror", hot::WAY.name())).or_default() += count;
        }
        for (at, count) in counts(&self.levels).into_iter().enumerate().filter(|(_, count)| *count > 0) {
            stats.count_level(at, count);
        }
        stats
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
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

fn seconds() -> metrics::Histogram {
    metrics::histogram!("atoll_dns_duration_seconds")
}

/// Of the batches of the fast path one in so many is timed: reading the clock would be felt.
const TIMED_ONE_IN: u32 = 16;

/// What places who asks, as metrics name it.
const PLACED_BY: [&str; 10] = [
    "unknown",
    "override",
    "hint",
    Source::CnameGap.name(),
    Source::ReferralGap.name(),
    Source::TcpConnect.name(),
    Source::Icmp.name(),
    Source::TcpInfo.name(),
    Source::Proxy.name(),
    Source::Neighbour.name(),
];

/// The number of one of these.
pub(crate) fn number(why: &str) -> usize {
    PLACED_BY.iter().position(|one| *one == why).unwrap_or(0)
}

/// As many levels as there can be: the widest and one for each threshold.
const LEVELS: usize = 8;
/// After what time the fast path looks for its metrics again. \[guess\]
const FOUND_AGAIN: Duration = Duration::from_secs(1);

/// A type's word in metrics.
pub(crate) const fn kind_name(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "a",
        RecordType::AAAA => "aaaa",
        RecordType::ANY => "any",
        RecordType::CAA => "caa",
        RecordType::CNAME => "cname",
        RecordType::DNAME => "dname",
        RecordType::DNSKEY => "dnskey",
        RecordType::DS => "ds",
        RecordType::HTTPS => "https",
        RecordType::MX => "mx",
        RecordType::NAPTR => "naptr",
        RecordType::NS => "ns",
        RecordType::PTR => "ptr",
        RecordType::SOA => "soa",
        RecordType::SRV => "srv",
        RecordType::SVCB => "svcb",
        RecordType::TLSA => "tlsa",
        RecordType::TXT => "txt",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_fast_path_answered_counts_with_the_rest_once_it_is_told() {
        let (counters, mut tally, now) = (Counters::default(), Tally::default(), Instant::now());
        counters.answered(("a", "noerror"), Transport::Udp, 100, now);
        for _ in 0..3 {
            tally.answered(Family::V4, Level(2), number("icmp"), 90);
        }
        tally.answered(Family::V6, Level(0), number("override"), 120);
        assert_eq!((tally.placed[number("icmp")], tally.placed[number("override")], tally.placed[0]), (3, 1, 0));
        assert_eq!(counters.read().queries.values().sum::<u64>(), 1);
        // A second time there is nothing left to tell, a while later either.
        for later in [Duration::ZERO, Duration::ZERO, FOUND_AGAIN * 2] {
            counters.add(now + later, &mut tally);
        }
        let stats = counters.read();
        let queries: Vec<_> = stats.queries.into_iter().collect();
        assert_eq!(queries, [(("a", "noerror", "udp"), 4), (("aaaa", "noerror", "udp"), 1)]);
        assert_eq!(stats.levels, [1, 0, 3]);
        assert_eq!(tally.placed, [0; PLACED_BY.len()], "told");
    }
}
