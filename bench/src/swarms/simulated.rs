//! The same nodes in the simulator: same ids, rows, tables, keys and questions, and neither loss nor jitter.

use std::time::Duration;

use atoll_overlay::{
    Config, LevelInfo, Levels, NodeId, Put,
    core::{Command, Outcome},
    sim::{Network, Sim},
};
use bytes::Bytes;

use super::{Answer, Question, TTL, VALUE, real::answer};

/// A network of nodes with these ids, each at its row.
pub(super) fn network(config: &Config, network: Network, ids: &[NodeId], rows: &[usize], seed: u64) -> Sim {
    let mut sim = Sim::new(config.clone(), network, seed);
    for (id, row) in ids.iter().zip(rows) {
        sim.add_with_id(*row, Duration::ZERO, *id);
    }
    sim
}

/// Puts and asks as the drivers did, from where they stood.
pub(super) fn replay(
    mut sim: Sim,
    views: &[Vec<LevelInfo>],
    questions: &[Question],
    pause: Duration,
) -> Result<Vec<Answer>, String> {
    sim.resume(views);
    sim.run_for(SPAN);
    for question in questions {
        let put =
            Put { key: question.key, value: Bytes::from_static(VALUE), ttl: TTL, levels: Levels::Only(question.level) };
        sim.command(question.holder, Command::Put(put));
        sim.run_for(pause);
    }
    sim.run_for(SPAN);
    let mut asked = Vec::new();
    for question in questions {
        let at = sim.now();
        asked.push((sim.command(question.asker, Command::Get(question.key, Levels::All)), at));
        sim.run_for(pause);
    }
    sim.run_for(SPAN);
    asked
        .into_iter()
        .map(|(op, at)| match sim.outcome(op) {
            Some((end, Outcome::Get(found))) => Ok(answer(found, end.since(at))),
            other => Err(format!("a simulated get came to {other:?}")),
        })
        .collect()
}

/// Time for what is under way to end.
const SPAN: Duration = Duration::from_secs(5);
