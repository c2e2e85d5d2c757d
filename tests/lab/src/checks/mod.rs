//! What the scenarios must show: each is a file in tests/lab/scenarios and a function here that turns running labs into claims.
//!
//! A claim that a part of Atoll cannot meet yet stands in tests/lab/known-failures.toml with the part that owns it (`known`). Read
//! [`Definition`] first, then `stage` for what the functions work with.

mod cities;
mod cold_start;
mod death;
mod distances;
mod far_resolver;
mod flash_crowd;
mod known;
mod load;
mod locked_in;
mod names;
mod nearness;
mod outcome;
mod page;
mod partition;
mod purge;
mod right_place;
mod stage;

use std::{fmt, path::Path, time::Instant};

pub(crate) use self::outcome::Outcome;
pub(crate) use self::stage::Setting;
use self::{known::Known, stage::Stage};
use crate::{error::Error, scenario::Scale};

/// One scenario.
struct Definition {
    /// Its name, and that of its file.
    name: &'static str,
    /// What it is about, for the table.
    about: &'static str,
    /// What may run at the same time.
    beside: Beside,
    /// Makes its claims; an error is the claim `ran` failing.
    show: fn(&mut Stage<'_>) -> Result<(), Error>,
}

/// What may run beside a scenario.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// Nothing: it claims speed or distance.
    Nothing,
    /// Others, at short scale, where it claims neither.
    OthersAtShortScale,
    /// Others: it mostly waits.
    Others,
}

impl Beside {
    fn others(self, scale: Scale) -> bool {
        match self {
            Self::Nothing => false,
            Self::OthersAtShortScale => scale == Scale::Short,
            Self::Others => true,
        }
    }
}

/// In the order `lab test` runs them.
const ALL: [Definition; 11] = [
    Definition {
        name: "distances",
        beside: Beside::Nothing,
        about: "the lab's own distances under load",
        show: distances::show,
    },
    Definition {
        name: "names",
        beside: Beside::OthersAtShortScale,
        about: "four resolvers, a delegation chain, a thin origin",
        show: names::show,
    },
    Definition {
        name: "cities",
        beside: Beside::Nothing,
        about: "a first look: curl finds its city's node",
        show: cities::show,
    },
    Definition {
        name: "right-place",
        beside: Beside::Nothing,
        about: "clients are sent to near proxies",
        show: right_place::show,
    },
    Definition {
        name: "locked-in",
        beside: Beside::Nothing,
        about: "refreshes stay with the near cluster",
        show: locked_in::show,
    },
    Definition {
        name: "flash-crowd",
        beside: Beside::Nothing,
        about: "a crowd, one origin fetch per object",
        show: flash_crowd::show,
    },
    Definition {
        name: "death",
        beside: Beside::Nothing,
        about: "a third of the nodes die in a crowd",
        show: death::show,
    },
    Definition {
        name: "partition",
        beside: Beside::Others,
        about: "the world in two, and whole again",
        show: partition::show,
    },
    Definition {
        name: "far-resolver",
        beside: Beside::Nothing,
        about: "ECS finds the client, not its resolver",
        show: far_resolver::show,
    },
    Definition {
        name: "cold-start",
        beside: Beside::Others,
        about: "no seed reachable, and a restart of all",
        show: cold_start::show,
    },
    Definition {
        name: "purge",
        beside: Beside::Others,
        about: "a tag is purged while a node is away",
        show: purge::show,
    },
];

/// Their names.
#[cfg(test)]
const NAMES: [&str; ALL.len()] = {
    let mut names = [""; ALL.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = ALL[at].name;
        at += 1;
    }
    names
};

/// Runs the scenarios (all if `only` is empty) and prints what each has shown, then a table. Returns whether nothing failed that is
/// not on the list of known failures. What is on it and holds is named: it may come and go with the weather, so it fails nothing. At
/// short scale, on a machine that may be anybody's, a scenario fails that does so twice; the table says which ran twice.
pub(crate) fn all(only: &[String], setting: &Setting, say: &mut dyn FnMut(&str)) -> Result<bool, Error> {
    for name in only {
        find(name)?;
    }
    let known = known::list();
    let chosen = ALL.iter().filter(|definition| only.is_empty() || only.iter().any(|name| name == definition.name));
    let (patient, alone): (Vec<_>, Vec<_>) = chosen.partition(|definition| definition.beside.others(setting.scale));
    let mut rows = Vec::new();
    let mut note = |definition, outcome: Outcome, say: &mut dyn FnMut(&str)| {
        say(outcome.to_string().trim_end());
        rows.push(Row { definition, verdict: judge(&outcome, &known, say), seconds: outcome.seconds, runs: 1 });
    };
    for definition in alone {
        let outcome = run(definition, setting);
        stopped(setting)?;
        note(definition, outcome, say);
    }
    for (definition, outcome) in side_by_side(&patient, setting) {
        stopped(setting)?;
        note(definition, outcome, say);
    }
    for row in rows.iter_mut().filter(|row| setting.scale == Scale::Short && row.fails()) {
        say(&format!("{} has failed; once more, by itself", row.definition.name));
        let outcome = run(row.definition, setting);
        stopped(setting)?;
        say(outcome.to_string().trim_end());
        row.add(judge(&outcome, &known, say), outcome.seconds);
    }
    say("");
    rows.iter().for_each(|row| say(&row.to_string()));
    let count = |is: fn(&Verdict) -> bool| rows.iter().filter(|row| is(&row.verdict)).count();
    let failed = count(|verdict| matches!(verdict, Verdict::Fails(_)));
    let known = count(|verdict| matches!(verdict, Verdict::Known(_)));
    say(&result_line(rows.len() - failed - known, failed, known));
    Ok(failed == 0)
}

/// Runs scenarios at the same time.
fn side_by_side(definitions: &[&'static Definition], setting: &Setting) -> Vec<(&'static Definition, Outcome)> {
    std::thread::scope(|scope| {
        let started: Vec<_> =
            definitions.iter().map(|definition| (*definition, scope.spawn(|| run(definition, setting)))).collect();
        let ended = started.into_iter().map(|(definition, thread)| match thread.join() {
            Ok(outcome) => (definition, outcome),
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ended.collect()
    })
}

fn stopped(setting: &Setting) -> Result<(), Error> {
    match setting.stop.load(std::sync::atomic::Ordering::Relaxed) {
        true => Err(Error::Interrupted),
        false => Ok(()),
    }
}

/// What is printed where no scenario can run.
pub(crate) fn skipped() -> String {
    result_line(0, 0, ALL.len())
}

/// As test runners print it; a scenario that fails as is known counts as ignored.
fn result_line(passed: usize, failed: usize, ignored: usize) -> String {
    let word = if failed == 0 { "ok" } else { "FAILED" };
    format!("lab test result: {word}. {passed} passed; {failed} failed; {ignored} ignored")
}

/// Runs one scenario.
pub(crate) fn one(name: &str, setting: &Setting) -> Result<Outcome, Error> {
    let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or(name);
    Ok(run(find(stem)?, setting))
}

fn find(name: &str) -> Result<&'static Definition, Error> {
    ALL.iter().find(|definition| definition.name == name).ok_or_else(|| Error::NoScenario {
        name: name.into(),
        known: ALL.iter().map(|definition| definition.name).collect::<Vec<_>>().join(", "),
    })
}

fn run(definition: &Definition, setting: &Setting) -> Outcome {
    let start = Instant::now();
    let mut stage = Stage::new(definition.name, setting);
    let shown = (definition.show)(&mut stage);
    Outcome {
        scenario: definition.name.into(),
        claims: stage.claims(),
        error: shown.err().map(|error| error.to_string()),
        seconds: start.elapsed().as_secs_f64(),
    }
}

/// What a scenario has come to.
#[derive(Debug, PartialEq)]
enum Verdict {
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
struct Row {
    definition: &'static Definition,
    verdict: Verdict,
    seconds: f64,
    runs: u32,
}

impl Row {
    fn fails(&self) -> bool {
        matches!(self.verdict, Verdict::Fails(_))
    }

    /// It has run again: the last verdict counts.
    fn add(&mut self, verdict: Verdict, seconds: f64) {
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

fn judge(outcome: &Outcome, known: &[Known], say: &mut dyn FnMut(&str)) -> Verdict {
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
