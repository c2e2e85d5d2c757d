//! What the scenarios must show: each is a file in tests/lab/scenarios and a function here that turns running labs into claims.
//!
//! A claim that a part of Atoll cannot meet yet stands in tests/lab/known-failures.toml with the part that owns it (`known`). Read
//! [`Definition`] first, then `stage` for what the functions work with.

mod cold_start;
mod distances;
mod far_resolver;
mod flash_crowd;
mod known;
mod load;
mod locked_in;
mod names;
mod outcome;
mod partition;
mod right_place;
mod stage;

use std::{path::Path, time::Instant};

pub(crate) use self::outcome::Outcome;
pub(crate) use self::stage::Setting;
use self::{known::Known, stage::Stage};
use crate::error::Error;

/// One scenario.
struct Definition {
    /// Its name, and that of its file.
    name: &'static str,
    /// What it is about, for the table.
    about: &'static str,
    /// Makes its claims; an error is the claim `ran` failing.
    show: fn(&mut Stage<'_>) -> Result<(), Error>,
}

/// In the order `lab test` runs them.
const ALL: [Definition; 9] = [
    Definition { name: "distances", about: "the lab's own distances under load", show: distances::show },
    Definition { name: "names", about: "four resolvers, a delegation chain, a thin origin", show: names::show },
    Definition { name: "right-place", about: "clients are sent to near proxies", show: right_place::show },
    Definition { name: "locked-in", about: "refreshes stay with the near cluster", show: locked_in::show },
    Definition { name: "flash-crowd", about: "a crowd, one origin fetch per object", show: flash_crowd::show },
    Definition { name: "death", about: "a third of the nodes die in a crowd", show: flash_crowd::show_death },
    Definition { name: "partition", about: "the world in two, and whole again", show: partition::show },
    Definition { name: "far-resolver", about: "ECS finds the client, not its resolver", show: far_resolver::show },
    Definition { name: "cold-start", about: "no seed reachable, and a restart of all", show: cold_start::show },
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
/// not on the list of known failures. What is on it and holds is named: it may come and go with the weather, so it fails nothing.
pub(crate) fn all(only: &[String], setting: &Setting, say: &mut dyn FnMut(&str)) -> Result<bool, Error> {
    for name in only {
        find(name)?;
    }
    let known = known::list();
    let mut rows = Vec::new();
    let mut good = true;
    for definition in ALL.iter().filter(|definition| only.is_empty() || only.iter().any(|name| name == definition.name))
    {
        let outcome = run(definition, setting);
        if setting.stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        say(outcome.to_string().trim_end());
        let (word, fine) = judge(&outcome, &known, say);
        good &= fine;
        rows.push(format!("{:<14} {:<50} {word:<8} {:>5.0} s", definition.name, definition.about, outcome.seconds));
    }
    say("");
    rows.iter().for_each(|row| say(row));
    Ok(good)
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

/// The word for the table, and whether it may stand.
fn judge(outcome: &Outcome, known: &[Known], say: &mut dyn FnMut(&str)) -> (&'static str, bool) {
    let failed = outcome.failed();
    let strange: Vec<&String> =
        failed.iter().filter(|claim| !known.iter().any(|known| known.covers(&outcome.scenario, claim))).collect();
    for claim in &failed {
        if let Some(known) = known.iter().find(|known| known.covers(&outcome.scenario, claim)) {
            say(&format!("  known failure of {:?}: {claim} (when entered: {})", known.part, known.figure));
        }
    }
    let mine = known.iter().filter(|known| known.scenario == outcome.scenario);
    let mended: Vec<&Known> =
        mine.filter(|known| !failed.iter().any(|claim| known.covers(&outcome.scenario, claim))).collect();
    for known in &mended {
        say(&format!("  `{}` holds again: take it off known-failures.toml", known.claim));
    }
    match (failed.is_empty(), strange.is_empty()) {
        (true, _) if mended.is_empty() => ("holds", true),
        (true, _) => ("mended", true),
        (false, true) => ("known", true),
        (false, false) => ("FAILS", false),
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
        let claim = Claim { name: "a/b".into(), value, unit: "", wanted: Wanted::AtLeast(1.0) };
        Outcome { scenario: "s".into(), claims: vec![claim], error: error.map(String::from), seconds: 0.0 }
    }

    #[test]
    fn only_what_is_on_the_list_may_fail() {
        let entry =
            |claim: &str| Known { scenario: "s".into(), claim: claim.into(), part: Part::Dnssrv, figure: "0".into() };
        let word = |outcome: &Outcome, known: &[Known]| judge(outcome, known, &mut |_| ());
        assert_eq!(word(&outcome(1.0, None), &[]), ("holds", true));
        assert_eq!(word(&outcome(0.0, None), &[]), ("FAILS", false));
        assert_eq!(word(&outcome(0.0, None), &[entry("a/*")]), ("known", true));
        assert_eq!(word(&outcome(0.0, Some("died")), &[entry("a/b")]), ("FAILS", false));
        assert_eq!(word(&outcome(0.0, Some("died")), &[entry("a/b"), entry("ran")]), ("known", true));
        assert_eq!(word(&outcome(1.0, None), &[entry("a/b")]), ("mended", true));
    }
}
