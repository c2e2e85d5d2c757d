//! What the command line changes in a running lab, through its control socket: cuts of one direction, slowness, signals.

use std::time::{Duration, Instant};

use crate::{
    alone,
    bench::{Bench, SMALL, assert_refused},
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

/// The times of three echoes from `user` to `web`, in milliseconds, each within so many seconds; what is not answered is missing.
fn echoes(bench: &Bench, within: &str) -> Vec<f64> {
    let said = bench.run(&["exec", "user", "--", "ping", "-n", "-i", "0.02", "-W", within, "-c", "3", "198.18.2.1"]);
    let text = String::from_utf8(said.stdout).unwrap();
    let time = |line: &str| line.split("time=").nth(1)?.split(' ').next()?.parse().ok();
    text.lines().filter_map(time).collect()
}

fn refused(bench: &Bench, arguments: &[&str], expected: &str) {
    assert_refused(&bench.run(arguments), 1, expected);
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
    assert_eq!(echoes(&bench, SOON), Vec::<f64>::new());
    // The questions came through, the answers did not.
    assert!(counted(&bench, WEB, "received") >= asked + 3);
    assert!(counted(&bench, WEB, "cut") >= 3);
    assert_eq!(counted(&bench, USER, "cut"), 0);
    bench.say(&["heal", "root", "user"]);
    assert_eq!(echoes(&bench, SOON), Vec::<f64>::new(), "another pair was healed");
    bench.say(&["heal", "web", "user"]);
    assert_eq!(echoes(&bench, LATE).len(), 3);
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
        while !echoes(&bench, LATE).iter().any(|took| *took < 2.0 * EXTRA) {
            assert!(Instant::now() < deadline, "it stays slow");
        }
    };
    for take_back in [&["slow", "user", "0ms"][..], &["heal"]] {
        slow("400ms");
        let slowed = echoes(&bench, LATE);
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
    assert!(bench.gets_the_page());
    bench.say(&["kill", "web", "--signal", "STOP"]);
    assert!(bench.gets_no_page(), "it was stopped");
    bench.say(&["kill", "web", "--signal", "sigcont"]);
    assert!(bench.gets_the_page());
    bench.say(&["kill", "web", "--signal", "TERM"]);
    assert!(bench.gets_no_page(), "it was ended");
    bench.say(&["start", "web"]);
    assert!(bench.gets_the_page());
    refused(&bench, &["kill", "web", "--signal", "LOUD"], "`LOUD` is not a signal");
    refused(&bench, &["start", "web"], "runs already");
}

/// What `slow` adds each way, in milliseconds.
const EXTRA: f64 = 400.0;
/// Seconds: for echoes that should not come, and for those that should, on any machine.
const SOON: &str = "2";
const LATE: &str = "60";
