//! The proxies as one network, over loopback: `cargo xtask bench network`.
//!
//! ```text
//!   peer     a large object from a peer's store, beside the same bytes over a bare stream of the same carrier
//!   rpc      p95 of lookups between two nodes, idle and while bulk flows between them
//!   crowd    10,000 requests for 12 cold objects at five nodes: what the origin sees
//!   lag      what slow, dead and lying peers add to a request, and a dead lease holder
//!   cluster  copies per object and hits at home over 20 proxies: names that lead a site to the same few, and any at random
//! ```

mod cluster;
mod crowd;
mod giver;
mod lag;
mod node;
mod peer;
mod rpc;

pub(crate) use giver::{Giver, give};

use clap::{Args, ValueEnum};

use crate::{report::Report, rounds::percentile};

/// What is measured, and how large.
#[derive(Args)]
pub(crate) struct Options {
    /// Measure only this; may be given again
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Bytes of the large object
    #[arg(long, default_value_t = 1_000_000_000)]
    bytes: u64,
    /// Rounds of each measurement
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// The parts of the bench.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Peer,
    Rpc,
    Crowd,
    Lag,
    Cluster,
}

/// Measures all of it, or what `--only` names.
pub(crate) fn run(options: &Options) -> Result<Report, String> {
    let mut report = Report::new("network: the proxies as one, over loopback");
    report.note(format!(
        "medians of {} rounds; all nodes, clients and the origin share this process, but for rpc",
        options.rounds
    ));
    report.note(
        "what takes distances is the lab's, `cargo xtask lab --long run SCENARIO`: flash-crowd (clients' times), large-file (200 MB to ten \
         nodes at once), bad-peers (a slow, silent or dead peer, and root of the key), purge (a tag at 20 nodes)"
            .to_owned(),
    );
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(told)?;
    runtime.block_on(async {
        if wanted(Part::Peer) {
            peer::measure(&mut report, options.bytes, options.rounds).await?;
        }
        if wanted(Part::Rpc) {
            rpc::measure(&mut report, options.rounds).await?;
        }
        if wanted(Part::Crowd) {
            crowd::measure(&mut report).await?;
        }
        if wanted(Part::Lag) {
            lag::measure(&mut report).await?;
        }
        if wanted(Part::Cluster) {
            cluster::measure(&mut report).await?;
        }
        Ok::<_, String>(())
    })?;
    Ok(report)
}

/// A setting up that fails, told.
fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}
