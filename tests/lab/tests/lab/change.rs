//! What the command line changes in a running lab, through its control socket: cuts of one direction, slowness, signals.

use std::time::{Duration, Instant};

use crate::{
    alone,
    command::{Bench, SMALL},
    skipped,
};

/// Hosts in the order of the scenario.
const WEB: usize = 1;
const USER: usize = 2;

/// What the router counted of a host.
fn counted(bench: &Bench, host: usize, what: &str) -> u64 {
    let status: serde_json::Value = serde_json::from_str(&bench.say(&["status", "--json"])).unwrap();
    status["wan"]["counters"][host][what].as_u64().unwrap_or_else(|| panic!("no `{what}` in {status}"))
}

/// The times of three echoes from `user` to `web`, in milliseconds; what is not answered is missing.
fn echoes(bench: &Bench) -> Vec<f64> {
    let said = bench.run(&["exec", "user", "--", "ping", "-n", "-i", "0.02", "-W", "3", "-c", "3", "198.18.2.1"]);
    let text = String::from_utf8(said.stdout).unwrap();
    let time = |line: &str| line.split("time=").nth(1)?.split(' ').next()?.parse().ok();
    text.lines().filter_map(time).collect()
}

/// Whether `user` gets a page from `web` within so many seconds.
fn gets_the_page(bench: &Bench, seconds: &str) -> bool {
    let page = ["exec", "user", "--", "curl", "-s", "-m", seconds, "-o", "/dev/null", "http://198.18.2.1/a"];
    bench.run(&page).status.success()
}

fn refused(bench: &Bench, arguments: &[&str], expected: &str) {
    let output = bench.run(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{arguments:?}: {said}");
    assert!(said.contains(expected), "{said}\nexpected {expected}");
}

#[test]
fn a_cut_one_way_drops_one_way_and_heals_by_its_pair() {
    if skipped("lab cut --one-way, lab heal A B") {
        return;
    }
    let _alone = alone();
    let bench = Bench::up(SMALL);
    bench.say(&["cut", "web", "user", "--one-way"]);
    let asked = counted(&bench, WEB, "received");
    assert_eq!(echoes(&bench), Vec::<f64>::new());
    // The questions came through, the answers did not.
    assert!(counted(&bench, WEB, "received") >= asked + 3);
    assert!(counted(&bench, WEB, "cut") >= 3);
    assert_eq!(counted(&bench, USER, "cut"), 0);
    bench.say(&["heal", "root", "user"]);
    assert_eq!(echoes(&bench), Vec::<f64>::new(), "another pair was healed");
    bench.say(&["heal", "web", "user"]);
    assert_eq!(echoes(&bench).len(), 3);
    refused(&bench, &["cut", "web", "nobody", "--one-way"], "no host `nobody`");
}

#[test]
fn a_slow_host_is_slow_both_ways_until_it_is_not() {
    if skipped("lab slow, and lab heal of everything") {
        return;
    }
    let _alone = alone();
    let bench = Bench::up(SMALL);
    let slow = |extra: &str| bench.say(&["slow", "us*", extra]);
    let fast_again = || {
        let deadline = Instant::now() + Duration::from_secs(60);
        // Whatever else the machine does: an echo that was not held back for long comes sooner or later.
        while !echoes(&bench).iter().any(|took| *took < 2.0 * EXTRA) {
            assert!(Instant::now() < deadline, "it stays slow");
        }
    };
    for take_back in [&["slow", "user", "0ms"][..], &["heal"]] {
        slow("400ms");
        let slowed = echoes(&bench);
        assert_eq!(slowed.len(), 3, "{slowed:?}");
        assert!(slowed.iter().all(|took| *took >= 2.0 * EXTRA), "{slowed:?}");
        bench.say(take_back);
        fast_again();
    }
    refused(&bench, &["slow", "user", "fast"], "fast");
    refused(&bench, &["slow", "nobody", "1ms"], "no host `nobody`");
}

#[test]
fn a_program_gets_the_signal_that_was_named() {
    if skipped("lab kill --signal STOP, CONT and TERM") {
        return;
    }
    let _alone = alone();
    let bench = Bench::up(SMALL);
    assert!(gets_the_page(&bench, PATIENT));
    bench.say(&["kill", "web", "--signal", "STOP"]);
    assert!(!gets_the_page(&bench, HASTY), "it was stopped");
    bench.say(&["kill", "web", "--signal", "sigcont"]);
    assert!(gets_the_page(&bench, PATIENT));
    bench.say(&["kill", "web", "--signal", "TERM"]);
    assert!(!gets_the_page(&bench, HASTY), "it was ended");
    bench.say(&["start", "web"]);
    assert!(gets_the_page(&bench, PATIENT));
    refused(&bench, &["kill", "web", "--signal", "LOUD"], "`LOUD` is not a signal");
    refused(&bench, &["start", "web"], "runs already");
}

/// What `slow` adds each way, in milliseconds.
const EXTRA: f64 = 400.0;
/// Seconds, for a page that should come, on any machine, and for one that should not.
const PATIENT: &str = "30";
const HASTY: &str = "2";
