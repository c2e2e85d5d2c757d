//! The store's engine against its goals: `cargo xtask bench store`.
//!
//! ```text
//!   ratio    hit ratios of S3-FIFO, FIFO and LRU on three streams                    in this process
//!   memory   gets from the RAM tier                                                  a child each, in turn with foyer
//!   disk     puts to disk, the bare device and a bare store, ways to read                 a child each, in turn with foyer
//!   index    ten million small objects: memory, restart, purge under traffic         children that are killed
//! ```
//!
//! Figures of ours are taken in child processes of this program (`store-child`), as those of peers are, so that neither
//! profits from what ran before. Everything on disk is in one temporary directory, which is removed.

mod bare;
mod child;
mod disk;
mod index;
mod memory;
mod peers;
mod ratio;
mod stream;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

pub(crate) use child::{Task, run_task};

use crate::report::Report;

/// What is measured, and how large.
#[derive(Args)]
pub(crate) struct Options {
    /// Measure only this; may be given again
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Objects of 64 bytes for the index's figures
    #[arg(long, default_value_t = 10_000_000)]
    objects: u64,
    /// Bytes that each round of puts writes
    #[arg(long, default_value_t = 2 << 30)]
    bytes: u64,
    /// Rounds of each measurement
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where to write; a new directory in it is made and removed
    #[arg(long, value_name = "DIRECTORY", default_value = "target")]
    scratch: PathBuf,
}

/// The parts of the bench.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Ratio,
    Memory,
    Disk,
    Index,
}

/// Measures all of it, or what `--only` names.
pub(crate) fn run(options: &Options) -> Result<Report, String> {
    let mut report = Report::new("store: the engine");
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    std::fs::create_dir_all(&options.scratch).map_err(|error| format!("{}: {error}", options.scratch.display()))?;
    let scratch = tempfile::tempdir_in(&options.scratch).map_err(|error| error.to_string())?;
    if wanted(Part::Ratio) {
        ratio::measure(&mut report)?;
    }
    if wanted(Part::Memory) || wanted(Part::Disk) {
        let peers = peers::Peers::build(&mut report);
        if wanted(Part::Memory) {
            memory::measure(&mut report, &peers, options.rounds)?;
        }
        if wanted(Part::Disk) {
            disk::measure(&mut report, &peers, scratch.path(), options)?;
        }
    }
    if wanted(Part::Index) {
        index::measure(&mut report, scratch.path(), options.objects)?;
    }
    Ok(report)
}

/// A setting up that fails, told.
fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}
