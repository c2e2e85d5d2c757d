//! A report as a table, as one JSON line, and as the line that runs it again.

use std::fmt::Write as _;

use atoll_overlay::{
    Mode,
    sim::{Metric, Report, Scenario, Setup},
};
use serde_json::{Map, Value, json};

use crate::cli::SimArgs;

/// The numbers beside what they must be.
pub(super) fn text(scenario: Scenario, setup: &Setup, matrix: &str, report: &Report, speed: f64) -> String {
    let mut text = format!(
        "{}  mode {}, {} nodes, {matrix}, seed {}\n",
        scenario.name(),
        mode(setup),
        nodes(scenario, setup),
        setup.seed
    );
    for Metric { name, value, bound } in &report.metrics {
        let must = bound.map_or_else(String::new, |bound| bound.to_string());
        let verdict = match bound {
            Some(bound) if bound.holds(*value) => "ok",
            Some(_) => "MISSED",
            None => "",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<28} {:>16}  {must:<14} {verdict}", shown(*value));
    }
    let _ =
        write!(text, "  {} events, {:.2} million a second, trace {:016x}", report.events, speed / 1e6, report.trace);
    text
}

/// `{"scenario","mode","seed","nodes","matrix","metrics":{NAME:NUMBER}}`; null where nothing was measured.
pub(super) fn json(scenario: Scenario, setup: &Setup, matrix: &str, report: &Report) -> String {
    let metrics: Map<String, Value> =
        report.metrics.iter().map(|metric| (metric.name.clone(), json!(metric.value))).collect();
    json!({
        "scenario": scenario.name(),
        "mode": mode(setup),
        "seed": setup.seed,
        "nodes": nodes(scenario, setup),
        "matrix": matrix,
        "metrics": metrics,
    })
    .to_string()
}

/// What did not hold, and the line that shows it again.
pub(super) fn replay(scenario: Scenario, setup: &Setup, args: &SimArgs, report: &Report) -> String {
    let mut line = format!("BROKEN {}: {}\n", scenario.name(), report.violations.join("; "));
    let _ = write!(
        line,
        "replay: atoll sim {} --nodes {} --seed {} --mode {}",
        args.scenario,
        nodes(scenario, setup),
        setup.seed,
        mode(setup)
    );
    if let Some(minutes) = setup.minutes {
        let _ = write!(line, " --minutes {minutes}");
    }
    if let Some(matrix) = &args.matrix {
        let _ = write!(line, " --matrix {}", matrix.display());
    }
    if setup.churn {
        line.push_str(" --churn");
    }
    line
}

const fn mode(setup: &Setup) -> &'static str {
    match setup.mode {
        Mode::Paper => "paper",
        Mode::Best => "best",
    }
}

fn nodes(scenario: Scenario, setup: &Setup) -> usize {
    setup.nodes.unwrap_or_else(|| scenario.nodes())
}

/// A number with as many places as it bears.
fn shown(value: f64) -> String {
    if value.is_nan() {
        "-".to_owned()
    } else if value.fract() == 0.0 {
        format!("{value:.0}")
    } else if value.abs() >= 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.4}")
    }
}
