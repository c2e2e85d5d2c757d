//! The arguments of `atoll sim`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `atoll sim`
#[derive(Debug, Args)]
pub struct SimArgs {
    /// lookup, hot-key, clusters, flash-crowd, churn, kill, partition, adversary, idle, loss, cost; all of them; or a file
    #[arg(value_name = "SCENARIO")]
    pub scenario: String,
    /// How many nodes; the scenario's own number if not given
    #[arg(long, value_name = "N")]
    pub nodes: Option<usize>,
    /// Round trips between sites, a .tri16 file; 490 PlanetLab hosts if not given
    #[arg(long, value_name = "FILE")]
    pub matrix: Option<PathBuf>,
    /// The same seed gives the same run
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Virtual minutes of the main part
    #[arg(long, value_name = "M")]
    pub minutes: Option<u64>,
    /// Coral as published, or this project's
    #[arg(long)]
    pub mode: Option<SimMode>,
    /// Let nodes come and go meanwhile, with a median session of 60 minutes
    #[arg(long)]
    pub churn: bool,
    /// Print one JSON line a scenario instead of the table
    #[arg(long)]
    pub json: bool,
    /// Draw the figures into this directory as SVG
    #[arg(long, value_name = "DIRECTORY")]
    pub plots: Option<PathBuf>,
}

/// `--mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SimMode {
    /// Coral as published
    Paper,
    /// This project's
    Best,
}
