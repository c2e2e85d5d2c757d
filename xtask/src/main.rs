//! `cargo xtask`: the project's own chores. `test` is README's second command and what CI runs; `lab` starts the small internet;
//! `bench` measures; `fuzz` tries strange inputs for longer than tests do.
//!
//! Everything here calls the tools a developer would call by hand and says which; nothing is hidden in it.

mod fuzz;
mod programs;
mod test;

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use clap::{Parser, Subcommand};

fn main() -> ExitCode {
    let done = match Arguments::parse().chore {
        Chore::Test(options) => test::run(&options),
        Chore::Lab { arguments } => lab(&arguments),
        Chore::Fuzz(options) => fuzz::run(&options),
        Chore::Bench { arguments } => release("atoll-bench", &arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("xtask: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The project's chores.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Runs every test: unit, simulation, whole nodes, real DNS servers; prints the totals
    Test(test::Options),
    /// Runs the lab, a small internet on this machine; `cargo xtask lab help` lists its commands
    Lab {
        /// Handed to the lab as they are.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs every fuzz target for a while
    Fuzz(fuzz::Options),
    /// Measures Atoll beside its peers; `cargo xtask bench help` lists what
    Bench {
        /// Handed to the benches as they are.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// Builds and runs a program of this workspace, optimised.
fn release(package: &str, arguments: &[String]) -> Result<(), String> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", package, "--"]).args(arguments);
    must(&mut command)
}

/// Runs the lab, and what it runs as nodes, optimised.
fn lab(arguments: &[String]) -> Result<(), String> {
    must(built("atoll-lab", "release")?.args(arguments))
}

/// A program of this workspace, built now, together with the node: each alone would build what they share in another way.
fn built(name: &str, profile: &str) -> Result<Command, String> {
    must(cargo().args(["build", "--quiet", "--profile", profile, "--package", "atoll", "--package", name]))?;
    beside(&format!("../{profile}/{name}"))
}

/// A program of this workspace as it was last built, by its path from this one's folder.
fn beside(path: &str) -> Result<Command, String> {
    let own = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    let file = own.parent().unwrap_or_else(|| Path::new(".")).join(path);
    if file.is_file() { Ok(Command::new(file)) } else { Err(format!("{} was not built", file.display())) }
}

/// The cargo that runs this.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command to its end, its output shown, and fails if it does.
fn must(command: &mut Command) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} ended with {status}", line(command))),
        Err(error) => Err(format!("{} could not be started: {error}", line(command))),
    }
}

/// A command as one would type it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// The one place that prints.
#[expect(clippy::print_stdout, reason = "a chore talks to the person who started it")]
fn say(text: &str) {
    println!("{text}");
}
