//! The peers' program: a workspace of its own, built when the bench runs, so that nothing of theirs is ever part of Atoll.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::report::Report;

/// The program that drives foyer and plain file calls; absent if it could not be built.
pub(crate) struct Peers {
    program: Option<PathBuf>,
}

impl Peers {
    /// Builds it; a peer that cannot be built is noted and left out.
    pub(crate) fn build(report: &mut Report) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/foyer");
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| folder.join("target"), |target| PathBuf::from(target).join("peers"));
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["build", "--quiet", "--release", "--locked"]).current_dir(&folder);
        let built = command.env("CARGO_TARGET_DIR", &target).status();
        if !built.is_ok_and(|status| status.success()) {
            report.note(format!("foyer is left out: {} could not be built", folder.display()));
            return Self { program: None };
        }
        Self { program: Some(target.join("release/atoll-bench-foyer")) }
    }

    /// The figures that one measurement of the peers' program prints; `None` if it is not there.
    pub(crate) fn run(&self, words: &[&str]) -> Result<Option<Vec<f64>>, String> {
        let Some(program) = &self.program else { return Ok(None) };
        figures(Command::new(program).args(words)).map(Some)
    }
}

/// The figures that a program prints.
pub(crate) fn figures(command: &mut Command) -> Result<Vec<f64>, String> {
    let output = command.output().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{}: {}", command.get_program().display(), said.trim_end()));
    }
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    printed.split_whitespace().map(|word| word.parse::<f64>().map_err(|_| format!("{word:?} is no figure"))).collect()
}
