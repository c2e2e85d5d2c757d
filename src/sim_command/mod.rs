//! `atoll sim`: runs the papers' experiments and ours in virtual time, and shows what came out beside what must come out.
//!
//! ```text
//!   arguments, scenario file --Setup--> overlay::sim --Report--> table | JSON line | SVG
//! ```

mod figures;
mod memory;
mod table;

use std::{
    fs,
    io::IsTerminal as _,
    path::Path,
    time::{Duration, Instant},
};

use atoll_overlay::{
    Mode,
    sim::{Matrix, MatrixError, Report, Scenario, Setup},
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    cli::{SimArgs, SimMode},
    config::{ScenarioFile, ScenarioFileError},
    out::say,
};

/// Runs what the arguments ask for. Whether every number was as it must be.
///
/// # Errors
/// The scenario, its file or the matrix is not one, or a figure cannot be written.
pub fn run(args: &SimArgs) -> Result<bool, SimError> {
    let (scenarios, mut setup) = asked(&args.scenario)?;
    setup.nodes = args.nodes.or(setup.nodes);
    setup.seed = args.seed.unwrap_or(setup.seed);
    setup.minutes = args.minutes.or(setup.minutes);
    setup.churn |= args.churn;
    if let Some(mode) = args.mode {
        setup.mode = match mode {
            SimMode::Paper => Mode::Paper,
            SimMode::Best => Mode::Best,
        };
    }
    let mut matrix = "planetlab490".to_owned();
    if let Some(file) = &args.matrix {
        setup.matrix = Some(read_matrix(file)?);
        matrix =
            file.file_stem().map_or_else(|| file.display().to_string(), |stem| stem.to_string_lossy().into_owned());
    }
    let mut good = true;
    for scenario in scenarios {
        let (mut report, speed) = timed(scenario, &setup, !args.json);
        if scenario == Scenario::Cost {
            memory::add(&mut report, speed);
        }
        good &= report.is_good();
        if args.json {
            say(table::json(scenario, &setup, &matrix, &report));
        } else {
            say(table::text(scenario, &setup, &matrix, &report, speed));
        }
        if !report.violations.is_empty() {
            say(table::replay(scenario, &setup, args, &report));
        }
        if let Some(directory) = &args.plots {
            figures::draw(directory, &report).map_err(SimError::Figure)?;
        }
    }
    Ok(good)
}

/// What cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// There is no such scenario, and no such file.
    #[error(
        "no scenario {0:?}: there are lookup, hot-key, clusters, flash-crowd, churn, kill, partition, adversary, idle, loss, cost, all, and files"
    )]
    Unknown(String),
    /// The scenario file is none.
    #[error(transparent)]
    File(#[from] ScenarioFileError),
    /// The matrix cannot be read.
    #[error("{0}: {1}")]
    Unreadable(String, std::io::Error),
    /// The matrix is none.
    #[error("{0}: {1}")]
    Matrix(String, MatrixError),
    /// A figure cannot be drawn.
    #[error("cannot draw a figure: {0}")]
    Figure(String),
}

/// The scenarios of this name or in this file, and what they are run with.
fn asked(name: &str) -> Result<(Vec<Scenario>, Setup), SimError> {
    if name == "all" {
        // The last is a hundred thousand nodes for ten minutes: asked for by name.
        let all = Scenario::ALL.into_iter().filter(|one| *one != Scenario::Cost);
        return Ok((all.collect(), Setup::default()));
    }
    if let Some(scenario) = Scenario::named(name) {
        return Ok((vec![scenario], Setup::default()));
    }
    if !Path::new(name).exists() {
        return Err(SimError::Unknown(name.to_owned()));
    }
    let file = ScenarioFile::load(Path::new(name))?;
    let scenario = Scenario::named(&file.scenario).ok_or(SimError::Unknown(file.scenario))?;
    Ok((vec![scenario], file.setup))
}

fn read_matrix(file: &Path) -> Result<Matrix, SimError> {
    let shown = || file.display().to_string();
    let bytes = fs::read(file).map_err(|error| SimError::Unreadable(shown(), error))?;
    Matrix::parse(&bytes).map_err(|error| SimError::Matrix(shown(), error))
}

/// Runs a scenario, with a bar on a terminal. Its report, and the events simulated per second of real time once the network stood.
fn timed(scenario: Scenario, setup: &Setup, talks: bool) -> (Report, f64) {
    let bar = if talks && std::io::stderr().is_terminal() { ProgressBar::new(1_000) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{msg:12} {wide_bar} {percent:>3} %  {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(scenario.name());
    let (mut began, mut ended) = (None, None);
    let mut shown = Duration::ZERO;
    let report = scenario.run(setup, &mut |done, events| {
        // The network stands: from now on its memory is read, over and over.
        if began.is_none() && scenario == Scenario::Cost {
            let _ = atoll_sys::memory::join_pages();
        }
        let now = Instant::now();
        let (start, _) = *began.get_or_insert((now, events));
        ended = Some((now, events));
        if now - start >= shown {
            shown = now - start + Duration::from_millis(100);
            bar.set_position(per_mille(done));
        }
    });
    bar.finish_and_clear();
    let speed = match (began, ended) {
        (Some((start, before)), Some((end, after))) => {
            let events = u32::try_from(after - before).unwrap_or(u32::MAX);
            f64::from(events) / (end - start).as_secs_f64().max(1e-9)
        }
        _ => 0.0,
    };
    (report, speed)
}

/// A share as thousandths, for the bar.
fn per_mille(share: f64) -> u64 {
    (0_u32..1_000).rev().find(|at| share * 1_000.0 >= f64::from(*at)).map_or(0, u64::from)
}
