//! A circuit breaker for each origin: one that cannot be reached again and again is not asked for a while, so that nobody waits for
//! its time-outs; what is stored stands in meanwhile. Then single probes find out whether it is back.
//!
//! ```text
//!   closed --`failures` in a row--> open --pause over--> half open --`successes` in a row--> closed
//!                                    ^  pause doubled       | a probe fails
//!                                    '----------------------'
//! ```
//!
//! Only what is waited for in vain, and says that nobody is there, counts: no connection, no TLS, no head in time. An origin that
//! answers 500, or closes instead of answering, is there; its keys are paused one by one, or whoever knows one URL that it closes on
//! could take a whole site away from everybody. The pause shrinks only after the origin has been well for as long as it had been left alone: one that
//! comes and goes is not asked at the first pause each time.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use tokio::time::Instant;

use atoll_units::span;

use crate::reason::Failure;

/// When an origin is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerConfig {
    /// Failures in a row after which an origin is left alone; 0: never. Less: a short fault becomes a pause, more: more clients wait
    /// for time-outs. \[guess\]
    pub failures: u32,
    /// Probes in a row that must succeed before all go there again. Less: an origin that limps is flooded, more: later recovery. \[guess\]
    pub successes: u32,
    /// First pause; doubles each time a probe fails. [users C4]
    #[serde(with = "span")]
    pub pause_first: Duration,
    /// Longest pause. Longer: an origin that is back waits for us. [users C4]
    #[serde(with = "span")]
    pub pause_most: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failures: 16, successes: 3, pause_first: Duration::from_secs(1), pause_most: Duration::from_secs(30) }
    }
}

/// One origin's breaker. Told the time.
#[derive(Debug)]
struct Circuit {
    state: State,
    /// The last pause; the next is twice as long.
    pause: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// All may go; so many have failed in a row since it closed then.
    Closed { failed: u32, since: Instant },
    /// Nobody may until then.
    Open(Instant),
    /// One at a time may; so many have succeeded.
    HalfOpen { probing: bool, succeeded: u32 },
}

impl Circuit {
    fn new(now: Instant) -> Self {
        Self { state: State::Closed { failed: 0, since: now }, pause: Duration::ZERO }
    }

    /// Whether one may go, and if so, whether as a probe.
    fn enter(&mut self, now: Instant) -> Option<bool> {
        match &mut self.state {
            State::Closed { .. } => Some(false),
            State::Open(until) if now < *until => None,
            State::Open(_) => {
                self.state = State::HalfOpen { probing: true, succeeded: 0 };
                Some(true)
            }
            State::HalfOpen { probing: true, .. } => None,
            State::HalfOpen { probing, .. } => {
                *probing = true;
                Some(true)
            }
        }
    }

    fn succeeded(&mut self, config: &BreakerConfig, now: Instant) {
        match self.state {
            State::Closed { since, .. } => {
                if now.saturating_duration_since(since) >= self.pause {
                    self.pause = Duration::ZERO;
                }
                self.state = State::Closed { failed: 0, since };
            }
            State::HalfOpen { succeeded, .. } if succeeded + 1 < config.successes => {
                self.state = State::HalfOpen { probing: false, succeeded: succeeded + 1 };
            }
            State::HalfOpen { .. } => self.state = State::Closed { failed: 0, since: now },
            // Sent before it opened; the pause stands.
            State::Open(_) => {}
        }
    }

    fn failed(&mut self, config: &BreakerConfig, now: Instant) {
        match self.state {
            State::Closed { failed, since } if failed + 1 < config.failures => {
                self.state = State::Closed { failed: failed + 1, since };
            }
            State::Closed { .. } | State::HalfOpen { .. } => {
                self.pause = (self.pause * 2).clamp(config.pause_first, config.pause_most.max(config.pause_first));
                self.state = State::Open(now + self.pause);
            }
            State::Open(_) => {}
        }
    }

    /// A probe ended without saying anything of the origin.
    fn unsaid(&mut self) {
        if let State::HalfOpen { probing, .. } = &mut self.state {
            *probing = false;
        }
    }

    const fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }
}

/// The breaker of one origin, shared by all who ask it.
#[derive(Debug, Clone)]
pub(crate) struct Breaker {
    circuit: Arc<Mutex<Circuit>>,
    config: Arc<BreakerConfig>,
}

impl Breaker {
    pub(crate) fn new(config: &Arc<BreakerConfig>) -> Self {
        Self { circuit: Arc::new(Mutex::new(Circuit::new(Instant::now()))), config: Arc::clone(config) }
    }

    /// A way to the origin, unless it is left alone now.
    pub(crate) fn enter(&self) -> Result<Way, Failure> {
        if self.config.failures == 0 {
            return Ok(Way { breaker: self.clone(), probe: false, said: true });
        }
        let entered = self.with(|circuit| circuit.enter(Instant::now()));
        let probe = entered.ok_or(Failure::CircuitOpen)?;
        Ok(Way { breaker: self.clone(), probe, said: false })
    }

    /// Whether it is left alone, or only probed.
    pub(crate) fn is_open(&self) -> bool {
        self.with(|circuit| circuit.is_open())
    }

    fn with<R>(&self, ask: impl FnOnce(&mut Circuit) -> R) -> R {
        ask(&mut self.circuit.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One request's way to its origin; says afterwards whether anybody was there.
#[derive(Debug)]
pub(crate) struct Way {
    breaker: Breaker,
    probe: bool,
    said: bool,
}

impl Way {
    /// It may go on for as long as its client likes: somebody else finds out meanwhile too how the origin is.
    pub(crate) fn step_aside(&mut self) {
        if std::mem::take(&mut self.probe) {
            self.breaker.with(Circuit::unsaid);
        }
    }

    /// What came of it; true if the origin is left alone from now on.
    pub(crate) fn ended(mut self, failure: Option<Failure>) -> bool {
        if self.said {
            return false;
        }
        let verdict = failure.map_or(Some(true), |failure| says_absent(failure).then_some(false));
        let Some(well) = verdict else { return false };
        self.said = true;
        let (now, config) = (Instant::now(), Arc::clone(&self.breaker.config));
        self.breaker.with(|circuit| {
            let before = circuit.is_open();
            if well {
                circuit.succeeded(&config, now);
            } else {
                circuit.failed(&config, now);
            }
            !before && circuit.is_open()
        })
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if self.probe && !self.said {
            self.breaker.with(Circuit::unsaid);
        }
    }
}

/// Whether a failure says that nobody is there.
const fn says_absent(failure: Failure) -> bool {
    matches!(
        failure,
        Failure::DnsTimeout
            | Failure::DnsError
            | Failure::ConnectTimeout
            | Failure::ConnectRefused
            | Failure::Tls
            | Failure::ResponseTimeout
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> BreakerConfig {
        BreakerConfig { failures: 3, successes: 2, ..BreakerConfig::default() }
    }

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_after_probes_in_a_row() {
        let (config, start) = (config(), Instant::now());
        let mut circuit = Circuit::new(start);
        for _ in 0..2 {
            circuit.failed(&config, start);
        }
        circuit.succeeded(&config, start);
        for _ in 0..2 {
            circuit.failed(&config, start);
            assert_eq!(circuit.enter(start), Some(false));
        }
        circuit.failed(&config, start);
        assert_eq!(circuit.enter(after(start, 999)), None);
        // One probe at a time.
        assert_eq!(circuit.enter(after(start, 1_000)), Some(true));
        assert_eq!(circuit.enter(after(start, 1_000)), None);
        circuit.succeeded(&config, after(start, 1_100));
        assert_eq!(circuit.enter(after(start, 1_100)), Some(true));
        circuit.succeeded(&config, after(start, 1_200));
        assert_eq!([circuit.enter(after(start, 1_200)), circuit.enter(after(start, 1_200))], [Some(false); 2]);
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_shrink_only_after_as_long_a_time_well() {
        let (config, start) = (config(), Instant::now());
        let mut circuit = Circuit::new(start);
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..3 {
            circuit.failed(&config, now);
        }
        for _ in 0..7 {
            let State::Open(until) = circuit.state else { panic!("not open") };
            pauses.push((until - now).as_secs());
            now = until;
            assert_eq!(circuit.enter(now), Some(true));
            circuit.failed(&config, now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        let close = |circuit: &mut Circuit, at: Instant| {
            for _ in 0..2 {
                assert_eq!(circuit.enter(at), Some(true));
                circuit.succeeded(&config, at);
            }
        };
        let reopened = |circuit: &mut Circuit, at: Instant| {
            for _ in 0..3 {
                circuit.failed(&config, at);
            }
            let State::Open(until) = circuit.state else { panic!("not open") };
            until - at
        };
        now += Duration::from_secs(30);
        close(&mut circuit, now);
        // Well for a moment only: the pause is not forgotten.
        circuit.succeeded(&config, now + Duration::from_secs(29));
        assert_eq!(reopened(&mut circuit, now), Duration::from_secs(30));
        now += Duration::from_secs(30);
        close(&mut circuit, now);
        circuit.succeeded(&config, now + Duration::from_secs(30));
        assert_eq!(reopened(&mut circuit, now), Duration::from_secs(1));
    }

    #[test]
    fn what_closes_or_talks_nonsense_is_there() {
        let breaker = Breaker::new(&Arc::new(BreakerConfig { failures: 1, ..config() }));
        for failure in [Failure::ResponseIncomplete, Failure::Protocol] {
            assert!(!breaker.enter().unwrap().ended(Some(failure)));
        }
        assert!(breaker.enter().unwrap().ended(Some(Failure::ResponseTimeout)));
    }

    #[test]
    fn a_probe_that_says_nothing_gives_its_place_back() {
        let breaker = Breaker::new(&Arc::new(BreakerConfig { failures: 1, pause_first: Duration::ZERO, ..config() }));
        assert!(breaker.enter().unwrap().ended(Some(Failure::ConnectRefused)));
        drop(breaker.enter().unwrap());
        assert!(!breaker.enter().unwrap().ended(Some(Failure::Busy)));
        // One that takes long lets another go, and counts all the same.
        let mut long = breaker.enter().unwrap();
        long.step_aside();
        let other = breaker.enter().unwrap();
        assert!(!long.ended(None));
        drop(other);
        let probe = breaker.enter().unwrap();
        assert_eq!(breaker.enter().unwrap_err(), Failure::CircuitOpen);
        assert!(breaker.is_open());
        assert!(!probe.ended(None));
        assert!(!breaker.is_open());
    }
}
