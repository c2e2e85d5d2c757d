//! `cargo xtask bench http`: what an answer costs the server, beside the caches that people run today and beside two servers that
//! do nothing else. Each server has core 0; the load and the origin have core 1; contenders take turns within each round, medians
//! stand.
//!
//! ```text
//!   load (core 1) --64 connections--> contender (core 0) --filled once--> origin (core 1)
//! ```
//!
//! | row | asks for |
//! |---|---|
//! | `hit_1k`, `hit_24k`, `hit_1m` | a few objects of that size, all cached |
//! | `hit_zipf` | 10,000 objects of 24 KB in the mean, popularity by Zipf 0.9 |
//! | `miss_24k` | URLs that nobody asked for before |
//! | `flight` | one large file, 200 clients at once, nothing cached |
//! | `idle` | memory of connections that were used once and are kept |
//!
//! A path names its length, `/LENGTH/NAME`, for the origin and for the bare servers alike.

mod bare;
mod crowd;
mod origin;
mod servers;

use std::{fmt, net::SocketAddr};

use clap::{Args, ValueEnum};

use servers::{Contender, Folder, Kind};
pub(crate) use servers::{Serve, serve};

use crate::{
    load::{Load, Target},
    process,
    report::{Report, Row},
    rounds::median,
};

/// What is measured, and how long.
#[derive(Args)]
pub(crate) struct Options {
    /// Measure only these rows; may be given again
    #[arg(long, value_name = "ROW")]
    only: Vec<What>,
    /// One short round of each: a look, no claim
    #[arg(long)]
    quick: bool,
    /// Rounds of each row
    #[arg(long, default_value_t = 5)]
    rounds: u64,
    /// Leave these contenders out; may be given again
    #[arg(long, value_name = "NAME")]
    without: Vec<Kind>,
    /// Bytes of the file that the flight brings
    #[arg(long, default_value_t = 1 << 30)]
    flight: u64,
}

/// The rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    #[value(name = "hit_1k")]
    Hit1k,
    #[value(name = "hit_24k")]
    Hit24k,
    #[value(name = "hit_1m")]
    Hit1m,
    #[value(name = "hit_zipf")]
    HitZipf,
    #[value(name = "miss_24k")]
    Miss24k,
    #[value(name = "flight")]
    Flight,
    #[value(name = "idle")]
    Idle,
}

/// All of them.
const ROWS: [What; 7] =
    [What::Hit1k, What::Hit24k, What::Hit1m, What::HitZipf, What::Miss24k, What::Flight, What::Idle];

/// Measures all of it, or what `--only` names.
pub(crate) fn run(options: &Options) -> Result<Report, String> {
    let mut report = Report::new("http: CPU of the server per answer, one core");
    // What is started inherits the cores of who starts it.
    process::pin(0, &[1])?;
    let folder = Folder::new()?;
    let (_origin, origin) = folder.origin()?;
    for what in ROWS.into_iter().filter(|what| options.only.is_empty() || options.only.contains(what)) {
        match what {
            What::Flight => crowd::flight(&mut report, &folder, origin, options)?,
            What::Idle => crowd::idle(&mut report, &folder, origin, options)?,
            _ => rows(&mut report, &folder, origin, what, options)?,
        }
    }
    report.note(format!("{CONNECTIONS} connections; bare: the same bytes, no cache; epoll: the same, no parser"));
    Ok(report)
}

/// One scenario's figures of one contender.
#[derive(Default)]
struct Figures {
    cpu: Vec<f64>,
    rate: Vec<f64>,
    p99: Vec<f64>,
}

fn rows(report: &mut Report, folder: &Folder, origin: SocketAddr, what: What, options: &Options) -> Result<(), String> {
    let mut contenders = Vec::new();
    for kind in Kind::of(what == What::Miss24k).into_iter().filter(|kind| !options.without.contains(kind)) {
        match Contender::start(kind, folder, origin) {
            Ok(contender) => contenders.push((contender, Figures::default())),
            Err(error) if kind.is_ours() => return Err(error),
            Err(error) => report.note(format!("{kind} is left out: {error}")),
        }
    }
    let rounds = if options.quick { 1 } else { options.rounds };
    let requests = what.requests() / if options.quick { 10 } else { 1 };
    if what != What::Miss24k {
        let targets = what.targets(0);
        for (contender, _) in &contenders {
            // Filled, and asked for often enough that every cache has it where it keeps what is hot.
            let fill = Load { requests: 4 * targets.len() as u64, zipf: 0.0, ..load(contender, &targets, 1) };
            contender.run(&fill)?;
        }
    }
    for round in 0..rounds {
        let targets = what.targets(round + 1);
        for (contender, figures) in &mut contenders {
            let zipf = if what == What::HitZipf { 0.9 } else { 0.0 };
            let load = Load { requests, zipf, ..load(contender, &targets, round + 2) };
            let before = contender.process.cpu_seconds()?;
            let outcome = contender.run(&load)?;
            let used = contender.process.cpu_seconds()? - before;
            figures.cpu.push(used * 1e6 / (outcome.rate() * outcome.seconds));
            figures.rate.push(outcome.rate());
            figures.p99.push(outcome.percentile(0.99));
        }
    }
    add(report, what, "cpu", "us", &mut contenders, |figures| &mut figures.cpu);
    add(report, what, "rate", "1/s", &mut contenders, |figures| &mut figures.rate);
    add(report, what, "p99", "us", &mut contenders, |figures| &mut figures.p99);
    Ok(())
}

fn load<'l>(contender: &Contender, targets: &'l [Target], seed: u64) -> Load<'l> {
    let address = contender.address;
    Load { address, host: "bench.test", connections: CONNECTIONS, requests: 0, targets, zipf: 0.0, seed, core: 1 }
}

/// One row: ours, and each other's.
fn add(
    report: &mut Report,
    what: What,
    figure: &str,
    unit: &str,
    contenders: &mut [(Contender, Figures)],
    of: fn(&mut Figures) -> &mut Vec<f64>,
) {
    let mut medians: Vec<(Kind, f64)> =
        contenders.iter_mut().map(|(contender, figures)| (contender.kind, median(of(figures)))).collect();
    let ours = medians.iter().position(|(kind, _)| kind.is_ours()).map_or(f64::NAN, |at| medians.remove(at).1);
    let mut row = Row::new(&format!("http_{what}_{figure}"), ours, unit);
    for (kind, value) in medians {
        row = row.against(&kind.to_string(), value);
    }
    report.add(row);
}

impl What {
    /// What is asked for; a miss asks for something else in each round.
    fn targets(self, round: u64) -> Vec<Target> {
        let of = |length: u64, count: u64| (0..count).map(|name| target(length, &name.to_string())).collect();
        match self {
            Self::Hit1k => of(1 << 10, 16),
            Self::Hit24k => of(24 << 10, 16),
            Self::Hit1m => of(1 << 20, 4),
            Self::HitZipf => (0..10_000).map(|name: u64| target(mixed(name), &name.to_string())).collect(),
            Self::Miss24k => (0..self.requests()).map(|name| target(24 << 10, &format!("{round}-{name}"))).collect(),
            Self::Flight | Self::Idle => Vec::new(),
        }
    }

    /// Requests of a round.
    const fn requests(self) -> u64 {
        match self {
            Self::Hit1k => 120_000,
            Self::Hit24k | Self::HitZipf => 60_000,
            Self::Hit1m => 4_000,
            Self::Miss24k => 10_000,
            Self::Flight | Self::Idle => 0,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

fn target(length: u64, name: &str) -> Target {
    Target { path: format!("/{length}/{name}"), length }
}

/// Sizes from 2 KB to 70 KB, 24 KB in the mean, the same each time: most are small, few are large.
const fn mixed(name: u64) -> u64 {
    let share = (name.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % 1_000;
    2_000 + share * share * 66 / 1_000
}

/// The length that a path names.
fn length_of(path: &[u8]) -> Option<u64> {
    let digits = path.strip_prefix(b"/")?.split(|byte| *byte == b'/').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Connections of the load.
const CONNECTIONS: usize = 64;
