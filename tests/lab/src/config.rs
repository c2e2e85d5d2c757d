//! The lab's own settings and bounds. What belongs to one internet (hosts, distances, weather) is in its scenario file.

use std::{path::PathBuf, time::Duration};

use crate::units::Size;

/// Settings of one lab; the command line fills in what it was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The `atoll` binary for hosts with the role `node`; `None` looks beside this program, then in PATH.
    pub atoll: Option<PathBuf>,
    /// The lab's own program, `atoll-lab`, which each lab runs once more as the first process of its PID namespace; `None`: the
    /// program of this process, for which alone that is right.
    pub program: Option<PathBuf>,
    /// Ask for the real-time scheduler for the router. Without it distances grow by up to 10 ms when all cores are
    /// busy. `[measured]`
    pub realtime: bool,
    /// How long each host's program may take until it answers, once those before it do. Shorter fails on a busy machine, longer
    /// hides a program that hangs. `[guess]`
    pub start_deadline: Duration,
    /// Queue before a link whose rate the scenario limits and whose queue it does not: 50 full packets. Smaller loses
    /// bursts, larger delays everything behind them. `[guess]`
    pub queue: Size,
    /// Most packets under way in the whole lab, 1,500 bytes each. Lower drops when a fast link is long (200 Mbit/s
    /// over 300 ms hold 5,000), higher costs memory. `[guess]`
    pub most_under_way: usize,
    /// Control connections served at once; more are closed at once. `[guess]`
    pub most_control: usize,
    /// Longest control message in bytes. `[guess]`
    pub longest_control: usize,
    /// Have nodes log every question, which takes all of them off the fast path, so that scenarios can say why a client was sent
    /// where it was.
    pub questions: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            atoll: None,
            program: None,
            realtime: true,
            start_deadline: Duration::from_secs(20),
            queue: Size(75_000),
            most_under_way: 65_536,
            most_control: 8,
            longest_control: 65_536,
            questions: false,
        }
    }
}
