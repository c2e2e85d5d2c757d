//! `cargo xtask test`: every test of the workspace, then the lab's scenarios, then the dependency check, then one line with the
//! totals.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

use clap::Args;

use crate::{beside, built, cargo, line, must, programs, say};

/// How to run the tests.
#[derive(Args)]
pub(crate) struct Options {
    /// Fetch the real servers that the tests talk to, by the system's package manager, after naming them
    #[arg(long)]
    install: bool,
    /// Run at full scale: longer simulations, more clients, whole scenarios in the lab
    #[arg(long)]
    long: bool,
}

/// Runs the tests. Fails if one fails, if none ran, or if a program that they need is missing.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let missing = programs::missing();
    if options.install && !missing.is_empty() {
        programs::install(&missing)?;
    }
    let missing = programs::missing();
    if !missing.is_empty() {
        return Err(programs::hint(&missing));
    }
    if !programs::is_root() {
        say("not root: the tests that need network namespaces (real resolvers, lab) will say that they were skipped");
    }
    let mut totals = Totals::default();
    for selection in SELECTIONS {
        let start = Instant::now();
        let mut command = cargo();
        command.arg("test").args(*selection).args(["--no-fail-fast"]);
        // Whole nodes measure round trips, and a test beside them on a small machine would be measured with them.
        command.env("RUST_TEST_THREADS", "1");
        if options.long {
            command.env("ATOLL_TEST_LONG", "1");
        }
        totals.add(count(&mut command)?);
        say(&format!("   took {:.0?}", start.elapsed()));
    }
    totals.add(lab(options)?);
    say("checking the dependency tree with cargo-deny");
    must(cargo().args(["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]))?;
    say(&format!("{} passed, {} failed, {} skipped", totals.passed, totals.failed, totals.skipped));
    match totals {
        Totals { failed: 0, broken: 0, passed: 1.., .. } => Ok(()),
        Totals { failed: 0, broken: 0, .. } => Err("no test ran".to_owned()),
        Totals { failed, broken, .. } => Err(format!("{failed} tests failed, {broken} test programs did not end well")),
    }
}

/// Runs the lab's scenarios: with the programs that the tests have just built, or, at full scale, with optimised ones.
fn lab(options: &Options) -> Result<Totals, String> {
    let start = Instant::now();
    let mut command = if options.long { built("atoll-lab", "release")? } else { beside("atoll-lab")? };
    command.args(["test", "--or-skip"]);
    if options.long {
        command.arg("--long");
    }
    let totals = count(&mut command)?;
    say(&format!("   took {:.0?}", start.elapsed()));
    Ok(totals)
}

/// What `cargo test` is asked for: one selection, so that each dependency is built once.
const SELECTIONS: &[&[&str]] = &[&["--workspace"]];

/// Test results as the runners of all test programs printed them.
#[derive(Default)]
struct Totals {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Runs of cargo that failed without a failed test in them: a crash, or code that does not compile.
    broken: u64,
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.broken += other.broken;
    }

    /// Reads a line such as `test result: ok. 5 passed; 0 failed; 1 ignored; …`.
    fn read(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result:").and_then(|(_, rest)| rest.split_once(". ")) else {
            return;
        };
        for part in counts.split(';') {
            let mut words = part.split_whitespace();
            let Some(number) = words.next().and_then(|word| word.parse::<u64>().ok()) else { continue };
            match words.next() {
                Some("passed") => self.passed += number,
                Some("failed") => self.failed += number,
                Some("ignored") => self.skipped += number,
                _ => {}
            }
        }
    }
}

/// Runs a command that prints results as test runners do, its output shown, and counts.
fn count(command: &mut Command) -> Result<Totals, String> {
    say(&format!("running {}", line(command)));
    let mut child =
        command.stdout(Stdio::piped()).spawn().map_err(|error| format!("{} did not start: {error}", line(command)))?;
    let mut totals = Totals::default();
    if let Some(output) = child.stdout.take() {
        for text in BufReader::new(output).lines() {
            let text = text.map_err(|error| format!("its output broke off: {error}"))?;
            totals.read(&text);
            say(&text);
        }
    }
    let status = child.wait().map_err(|error| format!("it is gone: {error}"))?;
    if !status.success() && totals.failed == 0 {
        totals.broken += 1;
    }
    Ok(totals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runners_lines_are_summed() {
        let mut totals = Totals::default();
        totals.read("test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        totals.read("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out");
        totals.read("test some::name ... ok");
        assert_eq!((totals.passed, totals.failed, totals.skipped), (7, 3, 1));
    }
}
