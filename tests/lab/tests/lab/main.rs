//! The lab as a whole, with real namespaces, devices and servers. Needs root; elsewhere each test says what it could not show.
//!
//! Each test brings up a lab of its own name, so a run that was killed cannot disturb the next: what it left has no living owner
//! and is swept by whoever comes up next. One lab at a time: they measure time and share two cores.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test's helpers fail and speak as tests do")]

mod bench;
mod change;
mod command;
mod distance;
mod exec;
mod names;
mod run;
mod several;
mod user;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use atoll_lab::{Config, Lab, Scale, Scenario, Stop};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static LABS: AtomicUsize = AtomicUsize::new(0);

/// Says why and returns true where labs cannot be made.
fn skipped(what: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    eprintln!("skipped: needs root to make network namespaces; not shown: {what}");
    true
}

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unique_name() -> String {
    format!("t{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed))
}

/// Brings up `hosts` (the `[[host]]` tables) under a name of its own.
fn up(hosts: &str) -> Lab {
    let text = format!("name = \"{}\"\n{hosts}", unique_name());
    let scenario =
        Scenario::parse(&text, Path::new("test.toml"), None, Scale::Short).unwrap_or_else(|error| panic!("{error}"));
    up_scenario(scenario)
}

/// Brings a scenario up; the lab's own program is not that of this process.
fn up_scenario(scenario: Scenario) -> Lab {
    let config = Config { program: Some(env!("CARGO_BIN_EXE_atoll-lab").into()), ..Config::default() };
    Lab::up(scenario, &config, &Stop::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn scenario_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(name)
}

fn namespaces_of(lab: &str) -> Vec<String> {
    let listed = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| name.starts_with(&format!("atoll.{lab}."))).map(String::from).collect()
}
