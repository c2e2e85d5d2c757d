//! The lab's subcommands and flags, and nothing else.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::scenario::Scale;

/// A small internet on this machine: network namespaces joined by a router that adds real delays.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every subcommand takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// Which running lab; needed only if there are several.
    #[arg(long, global = true)]
    pub(crate) lab: Option<String>,
    /// The atoll binary to run as nodes; default: the one beside this program, or in PATH.
    #[arg(long, global = true)]
    pub(crate) atoll: Option<PathBuf>,
    /// An RTT matrix (.tri16) or a CSV of cities, in place of the scenario's own.
    #[arg(long, global = true)]
    pub(crate) matrix: Option<PathBuf>,
    /// Where `test` and `run` keep pictures.
    #[arg(long, global = true, default_value = "target/lab")]
    pub(crate) artefacts: PathBuf,
    /// At full scale: more hosts, longer runs.
    #[arg(long, global = true)]
    pub(crate) long: bool,
    /// Have nodes log every question, and say of clients that were sent too far how that came about.
    #[arg(long, global = true)]
    pub(crate) questions: bool,
}

impl Common {
    pub(crate) fn scale(&self) -> Scale {
        if self.long { Scale::Long } else { Scale::Short }
    }

    /// The flags that say what lab is brought up, as they would be typed.
    pub(crate) fn of_a_lab(&self) -> Vec<OsString> {
        let Self { lab: _, atoll, matrix, artefacts: _, long, questions } = self;
        let named = [("--atoll", atoll), ("--matrix", matrix)];
        let named = named.into_iter().filter_map(|(flag, path)| Some([flag.into(), path.clone()?.into()]));
        let set = [("--long", *long), ("--questions", *questions)].into_iter().filter(|(_, set)| *set);
        named.flatten().chain(set.map(|(flag, _)| flag.into())).collect()
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring a scenario up and leave it running.
    Up {
        /// The scenario file.
        file: PathBuf,
        /// Stay here until Ctrl-C, then take it down.
        #[arg(long)]
        foreground: bool,
        /// Report to a waiting parent.
        #[arg(long, hide = true, conflicts_with = "foreground")]
        detached: bool,
    },
    /// Show the hosts, their processes and what the router has done.
    Status {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Run a command inside a host, with the host's network and resolver.
    Exec {
        /// The host.
        host: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Drop everything between hosts: `lab cut a,b c`, `lab cut 'node*' origin`.
    Cut {
        /// Hosts: names and NAME*, separated by commas.
        from: String,
        /// Hosts.
        to: String,
        /// Only from the first to the second.
        #[arg(long)]
        one_way: bool,
    },
    /// Take cuts back: between two sets, or every cut and slowness.
    Heal {
        /// Hosts.
        #[arg(requires = "to")]
        from: Option<String>,
        /// Hosts.
        to: Option<String>,
    },
    /// Delay all packets of hosts, each way: `lab slow node3 200ms`; `0ms` takes it back.
    Slow {
        /// Hosts.
        host: String,
        /// How much.
        extra: String,
    },
    /// End the programs of hosts, by default as a power cut would (kill -9).
    Kill {
        /// Hosts.
        host: String,
        /// TERM, KILL, STOP, CONT ...
        #[arg(long, default_value = "KILL")]
        signal: String,
    },
    /// Start the program of killed hosts again.
    Start {
        /// Hosts.
        host: String,
    },
    /// End a lab and remove everything it made; after a crash too.
    Down {
        /// Every lab.
        #[arg(long)]
        all: bool,
    },
    /// Draw a scenario: who is near whom, and who asks whom.
    Draw {
        /// The scenario file.
        file: PathBuf,
    },
    /// Run the scenarios and print a table; fails if anything outside the list of known failures fails.
    Test {
        /// Only these scenarios.
        only: Vec<String>,
        /// Where labs cannot be made, say so and count the scenarios as skipped.
        #[arg(long)]
        or_skip: bool,
    },
    /// Run one scenario and print its figures: whether its claims hold is the exit code.
    Run {
        /// The name of one that `test` runs, or a file: its hosts with the claims that it names.
        scenario: String,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Be the first process of a lab's PID namespace.
    #[command(hide = true)]
    Init,
    /// Become a command in a host of the lab that `--lab` names.
    #[command(hide = true)]
    Become {
        /// The host.
        host: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labs_own_process_is_told_all_that_says_what_lab_it_is() {
        let flags = ["--atoll", "/a/atoll", "--matrix", "m.csv", "--long", "--questions"];
        let typed = Cli::try_parse_from(["lab", "up", "file.toml"].iter().chain(&flags)).unwrap().common;
        assert_eq!(typed.of_a_lab(), flags.map(OsString::from));
        let plain = Cli::try_parse_from(["lab", "up", "file.toml"]).unwrap().common;
        assert_eq!(plain.of_a_lab(), Vec::<OsString>::new());
    }
}
