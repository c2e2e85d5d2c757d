//! Claims with their figures, and how they are printed.

use std::fmt;

use serde_json::json;

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wanted {
    AtLeast(f64),
    AtMost(f64),
    Exactly(f64),
    /// Printed only.
    Nothing,
}

/// One figure of a scenario. Names stay stable once published.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) wanted: Wanted,
}

/// What one scenario has shown.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) scenario: String,
    pub(crate) claims: Vec<Claim>,
    /// Why it ended early.
    pub(crate) error: Option<String>,
    pub(crate) seconds: f64,
}

impl Wanted {
    pub(super) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
            Self::Exactly(wanted) => (value - wanted).abs() < 1e-9,
            Self::Nothing => true,
        }
    }
}

impl Claim {
    pub(crate) fn holds(&self) -> bool {
        // Not a number: nothing was measured, so nothing was shown.
        self.wanted.holds(self.value)
    }
}

impl Outcome {
    /// Whether it ran to its end and every claim holds.
    pub(crate) fn holds(&self) -> bool {
        self.error.is_none() && self.claims.iter().all(Claim::holds)
    }

    /// The names of what failed; `ran` if it ended early.
    pub(crate) fn failed(&self) -> Vec<String> {
        let early = self.error.iter().map(|_| RAN.to_owned());
        let claims = self.claims.iter().filter(|claim| !claim.holds()).map(|claim| claim.name.clone());
        early.chain(claims).collect()
    }

    /// Whether a claim of such a name was made, with a bound; that it ran to its end is always claimed.
    pub(crate) fn requires(&self, named: impl Fn(&str) -> bool) -> bool {
        let bound = |claim: &Claim| claim.wanted != Wanted::Nothing && named(&claim.name);
        named(RAN) || self.claims.iter().any(bound)
    }

    pub(crate) fn to_json(&self) -> String {
        let claims = self.claims.iter().map(|claim| {
            let wanted = match claim.wanted {
                Wanted::AtLeast(value) => json!({ "at_least": value }),
                Wanted::AtMost(value) => json!({ "at_most": value }),
                Wanted::Exactly(value) => json!({ "exactly": value }),
                Wanted::Nothing => json!(null),
            };
            json!({ "name": claim.name, "value": claim.value, "unit": claim.unit, "wanted": wanted, "holds": claim.holds() })
        });
        let claims: Vec<_> = claims.collect();
        json!({ "scenario": self.scenario, "holds": self.holds(), "error": self.error, "seconds": self.seconds, "claims": claims })
            .to_string()
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(value) => write!(f, ">= {value}"),
            Self::AtMost(value) => write!(f, "<= {value}"),
            Self::Exactly(value) => write!(f, "= {value}"),
            Self::Nothing => Ok(()),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.holds() { "holds" } else { "FAILS" };
        writeln!(f, "{} {verdict} ({:.0} s)", self.scenario, self.seconds)?;
        for claim in &self.claims {
            let mark = match (claim.wanted, claim.holds()) {
                (Wanted::Nothing, _) => "    ",
                (_, true) => "ok  ",
                (_, false) => "FAIL",
            };
            let wanted = claim.wanted.to_string();
            writeln!(f, "  {mark} {:<44} {:>10.2} {:<5} {wanted}", claim.name, claim.value, claim.unit)?;
        }
        self.error.iter().try_for_each(|error| writeln!(f, "  FAIL {RAN}: {error}"))
    }
}

/// The claim that every scenario makes: that it ran to its end.
pub(crate) const RAN: &str = "ran";

/// The value that `share` of the values do not exceed (0.5: the median); not a number if there are none.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index between 0 and the length")]
    let at = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// How many of all, in per cent; not a number if there are none.
pub(crate) fn percent(some: usize, all: usize) -> f64 {
    if all == 0 { f64::NAN } else { some as f64 * 100.0 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_does_not_hold() {
        let claim = |value, wanted| Claim { name: "x".into(), value, unit: "", wanted };
        assert!(!claim(f64::NAN, Wanted::AtLeast(0.0)).holds());
        assert!(!claim(f64::NAN, Wanted::AtMost(0.0)).holds());
        assert!(!claim(f64::NAN, Wanted::Exactly(0.0)).holds());
        assert!(claim(12.0, Wanted::Exactly(12.0)).holds());
        assert!(percent(0, 0).is_nan() && quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!([0.0, 0.5, 0.96, 1.0].map(|share| quantile(&values, share)), [1.0, 3.0, 5.0, 5.0]);
    }
}
