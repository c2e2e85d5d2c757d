//! The table that `lab test` ends with: what each scenario has come to, held against the list of known failures.

use std::fmt;

use super::{known::Known, list::Definition, outcome::Outcome};

/// What a scenario has come to.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Holds,
    /// It holds, and entries on the list say it would not: their claims.
    Mended(Vec<String>),
    /// It fails as the list says: claims with the part that owns each.
    Known(Vec<String>),
    /// It fails otherwise: the claims that nobody owns yet.
    Fails(Vec<String>),
}

impl Verdict {
    fn word(&self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Mended(_) => "mended",
            Self::Known(_) => "known",
            Self::Fails(_) => "FAILS",
        }
    }

    fn why(&self) -> String {
        match self {
            Self::Holds => String::new(),
            Self::Mended(claims) => format!("take off the list: {}", claims.join(", ")),
            Self::Known(claims) | Self::Fails(claims) => claims.join(", "),
        }
    }
}

/// A scenario's line of the table.
pub(super) struct Row {
    pub(super) definition: &'static Definition,
    pub(super) verdict: Verdict,
    pub(super) seconds: f64,
    pub(super) runs: u32,
}

impl Row {
    pub(super) fn fails(&self) -> bool {
        matches!(self.verdict, Verdict::Fails(_))
    }

    /// It has run again: the last verdict counts.
    pub(super) fn add(&mut self, verdict: Verdict, seconds: f64) {
        self.verdict = verdict;
        self.seconds += seconds;
        self.runs += 1;
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Definition { name, about, .. } = self.definition;
        let runs = if self.runs > 1 { format!("(run {}) ", self.runs) } else { String::new() };
        let (word, why) = (self.verdict.word(), self.verdict.why());
        write!(f, "{name:<14} {about:<46} {:>4.0} s  {word:<8} {runs}{why}", self.seconds)
    }
}

pub(super) fn judge(outcome: &Outcome, known: &[Known], say: &mut dyn FnMut(&str)) -> Verdict {
    let failed = outcome.failed();
    let entry = |claim: &str| known.iter().find(|known| known.covers(&outcome.scenario, claim));
    let mut owned = Vec::new();
    let mut strange = Vec::new();
    for claim in &failed {
        match entry(claim) {
            Some(known) => {
                let part = known.part.word();
                say(&format!("  known failure of {part}: {claim} (when entered: {})", known.figure));
                let figure = outcome.claims.iter().find(|made| made.name == *claim);
                let figure = figure.map_or(String::new(), |made| format!("{:.2} {}, ", made.value, made.unit));
                owned.push(format!("{claim} ({figure}{part})"));
            }
            None => strange.push(claim.clone()),
        }
    }
    let mut mended = Vec::new();
    let holds = |known: &&Known| !failed.iter().any(|claim| known.covers(&outcome.scenario, claim));
    for known in known.iter().filter(|known| known.scenario == outcome.scenario).filter(holds) {
        let claim = &known.claim;
        if outcome.requires(|made| known.covers(&outcome.scenario, made)) {
            say(&format!("  `{claim}` holds again: if it does every time, take it off known-failures.toml"));
            mended.push(claim.clone());
        } else {
            owned.push(format!("{claim} ({}, not asked at this scale)", known.part.word()));
        }
    }
    match (strange.is_empty(), owned.is_empty(), mended.is_empty()) {
        (false, ..) => Verdict::Fails(strange),
        (true, false, _) => Verdict::Known(owned),
        (true, true, false) => Verdict::Mended(mended),
        (true, true, true) => Verdict::Holds,
    }
}

/// As test runners print it; a scenario that fails as is known counts as ignored.
pub(super) fn result_line(passed: usize, failed: usize, ignored: usize) -> String {
    let word = if failed == 0 { "ok" } else { "FAILED" };
    format!("lab test result: {word}. {passed} passed; {failed} failed; {ignored} ignored")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::{
        known::Part,
        outcome::{Claim, Wanted},
    };

    fn outcome(value: f64, error: Option<&str>) -> Outcome {
        let claim = Claim { name: "a/b".into(), value, unit: "%", wanted: Wanted::AtLeast(1.0) };
        Outcome { scenario: "s".into(), claims: vec![claim], error: error.map(String::from), seconds: 0.0 }
    }

    #[test]
    fn only_what_is_on_the_list_may_fail() {
        let entry =
            |claim: &str| Known { scenario: "s".into(), claim: claim.into(), part: Part::Dnssrv, figure: "0".into() };
        let verdict = |outcome: &Outcome, known: &[Known]| judge(outcome, known, &mut |_| ());
        let of = |claims: &[&str]| claims.iter().map(|claim| (*claim).to_owned()).collect::<Vec<_>>();
        assert_eq!(verdict(&outcome(1.0, None), &[]), Verdict::Holds);
        assert_eq!(verdict(&outcome(0.0, None), &[]), Verdict::Fails(of(&["a/b"])));
        assert_eq!(verdict(&outcome(0.0, None), &[entry("a/*")]), Verdict::Known(of(&["a/b (0.00 %, dnssrv)"])));
        assert_eq!(verdict(&outcome(0.0, Some("died")), &[entry("a/b")]), Verdict::Fails(of(&["ran"])));
        let both = of(&["ran (dnssrv)", "a/b (0.00 %, dnssrv)"]);
        assert_eq!(verdict(&outcome(0.0, Some("died")), &[entry("a/b"), entry("ran")]), Verdict::Known(both));
        assert_eq!(verdict(&outcome(1.0, None), &[entry("a/b")]), Verdict::Mended(of(&["a/b"])));
        let mut printed = outcome(0.0, None);
        printed.claims.iter_mut().for_each(|claim| claim.wanted = Wanted::Nothing);
        let unasked = Verdict::Known(of(&["a/b (dnssrv, not asked at this scale)"]));
        assert_eq!(verdict(&printed, &[entry("a/b")]), unasked, "what is only printed has not held");
    }
}
