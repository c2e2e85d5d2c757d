//! What the scenarios must show: each is a file in tests/lab/scenarios and a function here that turns running labs into claims.
//!
//! A claim that a part of Atoll cannot meet yet stands in tests/lab/known-failures.toml with the part that owns it (`known`). Read
//! [`Definition`] and the list of all in `list` first, then `stage` for what the functions work with.

mod bad_peers;
mod cities;
mod cold_start;
mod death;
mod distances;
mod far_resolver;
mod flash_crowd;
mod known;
mod large_file;
mod list;
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
mod table;
mod visit;
mod why;

use std::{
    path::{Path, PathBuf},
    sync::mpsc::sync_channel,
    time::Instant,
};

pub(crate) use self::list::scenario_names;
pub(crate) use self::outcome::Outcome;
pub(crate) use self::stage::Setting;
use self::{
    list::{ALL, Definition, Sequence, VISIT, find, schedule},
    stage::Stage,
    table::{Row, Verdict, judge, result_line},
};
use crate::{
    error::Error,
    scenario::{Scale, Scenario},
};

/// Runs the scenarios (all if `only` is empty) and prints what each has shown, then a table. Returns whether nothing failed that is
/// not on the list of known failures. What is on it and holds is named: it may come and go with the weather, so it fails nothing. At
/// short scale, on a machine that may be anybody's, a scenario fails that does so twice; the table says which ran twice.
pub(crate) fn all(only: &[String], setting: &Setting, say: &mut dyn FnMut(&str)) -> Result<bool, Error> {
    for name in only {
        find(name)?;
    }
    let known = known::list();
    let named = |definition: &Definition| only.iter().any(|name| name == definition.name);
    let every = ALL.iter().chain(named(&VISIT).then_some(&VISIT));
    let chosen = every.filter(|definition| only.is_empty() || named(definition));
    let mut rows = Vec::new();
    for together in schedule(chosen, setting.scale) {
        side_by_side(&together, setting, |definition, outcome| {
            say(outcome.to_string().trim_end());
            rows.push(Row {
                definition,
                verdict: judge(&outcome, &known, &mut *say),
                seconds: outcome.seconds,
                runs: 1,
            });
        });
        stopped(setting)?;
    }
    rows.sort_by_key(|row| ALL.iter().position(|definition| definition.name == row.definition.name));
    for row in rows.iter_mut().filter(|row| setting.scale == Scale::Short && row.fails()) {
        say(&format!("{} has failed; once more, by itself", row.definition.name));
        let outcome = run(row.definition, row.definition.name, &row.definition.path(), setting);
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

/// Runs sequences of scenarios at the same time; `note` hears of each as it ends.
fn side_by_side(sequences: &[Sequence], setting: &Setting, mut note: impl FnMut(&'static Definition, Outcome)) {
    let (sender, ended) = sync_channel(ALL.len());
    std::thread::scope(|scope| {
        for sequence in sequences {
            let sender = sender.clone();
            scope.spawn(move || {
                for definition in sequence {
                    let outcome = run(definition, definition.name, &definition.path(), setting);
                    // Who was interrupted has nothing to say, and nobody to say it to.
                    if stopped(setting).is_err() || sender.send((*definition, outcome)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        ended.iter().for_each(|(definition, outcome)| note(definition, outcome));
    });
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

/// A scenario that was asked for.
pub(crate) struct Chosen {
    definition: &'static Definition,
    name: String,
    file: PathBuf,
}

/// Finds what `lab run` is to run: a scenario by its name, or a file, whose hosts are to show what its key `claims` says, else what the
/// scenario of its name shows, else [`VISIT`]. The file is sound when this returns.
pub(crate) fn choose(what: &str, matrix: Option<&Path>, scale: Scale) -> Result<Chosen, Error> {
    let is_file = what.contains(['/', '.']);
    if !is_file {
        let definition = find(what)?;
        let file = definition.path();
        Scenario::read(&file, matrix, scale)?;
        return Ok(Chosen { definition, name: definition.name.into(), file });
    }
    let file = PathBuf::from(what);
    let scenario = Scenario::read(&file, matrix, scale)?;
    let definition = find(scenario.claims.as_ref().unwrap_or(&scenario.name)).unwrap_or(&VISIT);
    Ok(Chosen { definition, name: scenario.name, file })
}

/// Runs it.
pub(crate) fn one(chosen: &Chosen, setting: &Setting) -> Outcome {
    run(chosen.definition, &chosen.name, &chosen.file, setting)
}

/// Runs a scenario under a name with the hosts of a file.
fn run(definition: &Definition, name: &str, file: &Path, setting: &Setting) -> Outcome {
    let start = Instant::now();
    let mut stage = Stage::new(name, file, setting);
    let shown = (definition.show)(&mut stage);
    Outcome {
        scenario: name.into(),
        claims: stage.claims(),
        error: shown.err().map(|error| error.to_string()),
        seconds: start.elapsed().as_secs_f64(),
    }
}
