//! Gets from the RAM tier: 100,000 objects of 16 B to 4 KiB that all fit, asked for by Zipf 1.0, on one thread and on two.
//! Beside foyer stands a bare standard map of counted references, without locks, eviction or purges: the anchor.

use crate::report::{Report, Row};
use crate::rounds::median;
use crate::store::child::figures_of;
use crate::store::peers::Peers;

const OBJECTS: &str = "100000";
const SECONDS: &str = "2";

pub(crate) fn measure(report: &mut Report, peers: &Peers, rounds: usize) -> Result<(), String> {
    for threads in ["1", "2"] {
        let (mut ours, mut theirs, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.extend(figures_of(&["memory", OBJECTS, threads, SECONDS])?.first().map(|rate| rate / 1e6));
            let words = ["memory", OBJECTS, threads, SECONDS];
            bare.extend(figures_of(&["map", OBJECTS, threads, SECONDS])?.first().map(|rate| rate / 1e6));
            theirs.extend(peers.run(&words)?.and_then(|it| it.first().map(|rate| rate / 1e6)));
        }
        let row = Row::new(&format!("get_ram_{threads}_threads"), median(&mut ours), "M/s")
            .against("bare_map", median(&mut bare));
        report.add(if theirs.is_empty() { row } else { row.against("foyer", median(&mut theirs)) });
    }
    Ok(())
}
