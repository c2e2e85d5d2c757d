//! The least round trips to one prefix: one for each source that measured it, over two windows, so that an old minimum lapses after
//! one to two of them. Time is told.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

/// What measured an RTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The query that followed a CNAME.
    CnameGap,
    /// The query that followed a referral.
    ReferralGap,
    /// A TCP connect to the resolver.
    TcpConnect,
    /// An ICMP echo.
    Icmp,
    /// The handshake of a connection it opened.
    TcpInfo,
    /// The connections of clients, as this node's proxy saw them.
    Proxy,
    /// A node of one of this server's clusters, by the index.
    Neighbour,
}

/// What each source measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Minima {
    by_source: BTreeMap<Source, Minimum>,
}

/// The least of the current and the last window.
#[derive(Debug, Clone, Copy)]
struct Minimum {
    began: Instant,
    current: Option<Duration>,
    last: Option<Duration>,
}

impl Minima {
    /// A source measured an RTT.
    pub(crate) fn measured(&mut self, now: Instant, source: Source, rtt: Duration, window: Duration) {
        let none = Minimum { began: now, current: None, last: None };
        let minimum = self.by_source.entry(source).or_insert(none);
        minimum.turn(now, window);
        minimum.current = Some(minimum.current.map_or(rtt, |known| known.min(rtt)));
    }

    /// The least of all, and what measured it.
    pub(crate) fn least(&self, now: Instant, window: Duration) -> Option<(Duration, Source)> {
        self.each(now, window).map(|(source, rtt)| (rtt, source)).min()
    }

    /// The least of each source.
    pub(crate) fn each(&self, now: Instant, window: Duration) -> impl Iterator<Item = (Source, Duration)> {
        self.by_source.iter().filter_map(move |(source, minimum)| Some((*source, minimum.at(now, window)?)))
    }
}

impl Minimum {
    fn turn(&mut self, now: Instant, window: Duration) {
        let age = now.saturating_duration_since(self.began);
        if age >= window {
            self.last = if age < window * 2 { self.current } else { None };
            self.current = None;
            self.began = now;
        }
    }

    fn at(mut self, now: Instant, window: Duration) -> Option<Duration> {
        self.turn(now, window);
        [self.current, self.last].into_iter().flatten().min()
    }
}

impl Source {
    /// Its word in metrics and explanations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CnameGap => "cname_gap",
            Self::ReferralGap => "referral_gap",
            Self::TcpConnect => "tcp_connect",
            Self::Icmp => "icmp",
            Self::TcpInfo => "tcp_info",
            Self::Proxy => "proxy",
            Self::Neighbour => "neighbour",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_minimum_not_confirmed_lapses_within_two_windows() {
        let (start, mut minima, ms) = (Instant::now(), Minima::default(), Duration::from_millis);
        minima.measured(start, Source::Icmp, ms(10), HOUR);
        minima.measured(start + HOUR, Source::Icmp, ms(90), HOUR);
        minima.measured(start, Source::Proxy, ms(40), HOUR);
        assert_eq!(minima.each(start + HOUR, HOUR).count(), 2);
        assert_eq!(minima.least(start + HOUR, HOUR), Some((ms(10), Source::Icmp)));
        assert_eq!(minima.least(start + HOUR * 2, HOUR), Some((ms(90), Source::Icmp)));
        assert_eq!(minima.least(start + HOUR * 4, HOUR), None);
    }
}
