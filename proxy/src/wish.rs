//! What a client asks of the cache (RFC 9111 5.2.1): heeded on own sites, where the operator's rules allow it. On Coralized names
//! nobody may make the network ask an origin anew.

use std::time::Duration;

use http::{HeaderMap, header};

use crate::{
    directives::{delta, members},
    freshness::{Lifetime, State},
    reason::Reason,
};

/// The directives of a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wish {
    /// Nothing that was not asked of the origin just now.
    pub(crate) no_cache: bool,
    /// Nothing of the answer is to be stored.
    pub(crate) no_store: bool,
    /// Nothing older.
    pub(crate) max_age: Option<Duration>,
    /// Nothing that will not stay fresh for so long.
    pub(crate) min_fresh: Option<Duration>,
    /// So stale is good enough.
    pub(crate) max_stale: Option<Duration>,
    /// So stale is good enough if the origin fails [RFC 5861 4].
    pub(crate) stale_if_error: Option<Duration>,
    /// No origin is to be asked.
    pub(crate) only_if_cached: bool,
    /// It has a condition that none but the origin is to judge [RFC 9111 4.3.2]. Where clients' wishes are not heeded, it is ignored
    /// [RFC 9110 13.1.1].
    pub(crate) origin_judges: bool,
}

/// What to do with a stored answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Send it; why, if it is stale.
    Send(Option<Reason>),
    /// Send it, and renew it beside.
    SendAndRenew,
    /// Ask the origin first.
    Renew {
        /// Whether it may stand in if the origin fails.
        if_error: bool,
        /// Only this client wants it asked.
        asked_for: bool,
    },
}

impl Wish {
    /// Reads a request's fields. Pragma counts where there is no Cache-Control [RFC 9111 5.4].
    pub(crate) fn of(request: &HeaderMap) -> Self {
        let mut wish = Self::default();
        for value in request.get_all(header::CACHE_CONTROL) {
            for (name, argument) in members(value.as_bytes()) {
                let span = || argument.and_then(delta);
                // Of several the stricter counts.
                let least = |other: Option<Duration>| {
                    let most = span().unwrap_or_default();
                    Some(other.map_or(most, |other| other.min(most)))
                };
                match &*name {
                    b"no-cache" => wish.no_cache = true,
                    b"no-store" => wish.no_store = true,
                    b"only-if-cached" => wish.only_if_cached = true,
                    b"max-age" => wish.max_age = least(wish.max_age),
                    b"min-fresh" => wish.min_fresh = wish.min_fresh.max(span()),
                    b"stale-if-error" => wish.stale_if_error = least(wish.stale_if_error),
                    b"max-stale" if argument.is_none() => {
                        wish.max_stale.get_or_insert(Duration::MAX);
                    }
                    b"max-stale" => wish.max_stale = least(wish.max_stale),
                    _ => {}
                }
            }
        }
        wish.origin_judges = [header::IF_MATCH, header::IF_UNMODIFIED_SINCE].iter().any(|it| request.contains_key(it));
        if !request.contains_key(header::CACHE_CONTROL) {
            let pragma = request.get_all(header::PRAGMA).iter().flat_map(|value| members(value.as_bytes()));
            wish.no_cache = pragma.map(|(name, _)| name).any(|name| *name == *b"no-cache");
        }
        wish
    }

    /// What is to be done with an answer of this age.
    pub(crate) fn judge(&self, lifetime: Lifetime, age: Duration) -> Use {
        let mut state = lifetime.state(age);
        let stale = age.saturating_sub(lifetime.fresh);
        let accepts = lifetime.on_request && self.stale_if_error.is_some_and(|most| stale < most);
        if matches!(state, State::Stale { .. } | State::Refresh)
            && !self.no_cache
            && self.max_age.is_none_or(|most| age <= most)
            && lifetime.on_request
            && self.max_stale.is_some_and(|most| stale <= most)
        {
            return Use::Send(Some(Reason::MaxStale));
        }
        let refused = self.no_cache
            // Of no age is only what the origin says now.
            || self.max_age.is_some_and(|most| age > most || most.is_zero())
            || self.min_fresh.is_some_and(|least| lifetime.fresh.saturating_sub(age) < least);
        if refused && !matches!(state, State::Stale { .. }) {
            let if_error = accepts || lifetime.if_error > Duration::ZERO;
            return Use::Renew { if_error, asked_for: matches!(state, State::Fresh(_)) };
        }
        if self.max_age.is_some() && state == State::Refresh {
            // Who names an age means it; without max-stale nothing stale is wanted [RFC 9111 5.2.1.1].
            state = State::Stale { if_error: lifetime.if_error > Duration::ZERO };
        }
        match state {
            State::Fresh(_) => Use::Send(None),
            State::Refresh => Use::SendAndRenew,
            State::Stale { if_error } => Use::Renew { if_error: if_error || accepts, asked_for: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(fields: &[(&'static str, &'static str)]) -> Wish {
        Wish::of(&fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect())
    }

    fn judge(control: &'static str, age: u64) -> Use {
        let seconds = Duration::from_secs;
        let lifetime =
            Lifetime { fresh: seconds(100), while_revalidate: seconds(10), if_error: seconds(50), on_request: true };
        wish(&[("cache-control", control)]).judge(lifetime, seconds(age))
    }

    #[test]
    fn a_client_may_ask_for_fresher_or_staler_answers() {
        let asked = Use::Renew { if_error: true, asked_for: true };
        let stale = Use::Renew { if_error: true, asked_for: false };
        for (control, age, use_) in [
            ("x", 50, Use::Send(None)),
            ("no-cache", 0, asked),
            ("max-age=49", 50, asked),
            ("max-age=50", 50, Use::Send(None)),
            ("max-age=0", 1, asked),
            ("max-age=0", 0, asked),
            ("max-age=x", 1, asked),
            ("min-fresh=50", 50, Use::Send(None)),
            ("min-fresh=51", 50, asked),
            ("", 105, Use::SendAndRenew),
            ("max-age=200", 105, stale),
            ("", 120, stale),
            ("max-stale", 1_000, Use::Send(Some(Reason::MaxStale))),
            ("max-stale=20", 120, Use::Send(Some(Reason::MaxStale))),
            ("max-stale=19", 120, stale),
            ("max-stale=20, max-age=110", 120, stale),
            ("max-stale, no-cache", 120, stale),
            ("max-age=40, max-age=60", 50, asked),
            ("max-age=60, max-age=40", 50, asked),
            ("min-fresh=60, min-fresh=40", 50, asked),
            ("max-stale=20, max-stale=19", 120, stale),
            ("max-stale=19, max-stale=20", 120, stale),
            ("max-stale, max-stale=19", 120, stale),
            ("max-stale=19, max-stale", 120, stale),
            ("max-stale=x", 120, stale),
            ("max-stale=20, max-stale", 120, Use::Send(Some(Reason::MaxStale))),
            ("max-stale, max-stale=20", 120, Use::Send(Some(Reason::MaxStale))),
            ("stale-if-error=51, stale-if-error=50", 150, Use::Renew { if_error: false, asked_for: false }),
            ("stale-if-error=50, stale-if-error=51", 150, Use::Renew { if_error: false, asked_for: false }),
            ("stale-if-error=x, stale-if-error=51", 150, Use::Renew { if_error: false, asked_for: false }),
            ("stale-if-error=51", 150, stale),
            ("stale-if-error=50", 150, Use::Renew { if_error: false, asked_for: false }),
        ] {
            assert_eq!(judge(control, age), use_, "{control} at {age}");
        }
    }

    #[test]
    fn pragma_counts_alone_and_what_must_be_renewed_is() {
        assert!(wish(&[("pragma", "x, No-Cache")]).no_cache);
        assert!(!wish(&[("pragma", "no-cache"), ("cache-control", "x")]).no_cache);
        let strict = Lifetime { fresh: Duration::ZERO, ..Lifetime::default() };
        for control in ["max-stale", "stale-if-error=60"] {
            let judged = wish(&[("cache-control", control)]).judge(strict, Duration::from_secs(1));
            assert_eq!(judged, Use::Renew { if_error: false, asked_for: false }, "{control}");
        }
    }
}
