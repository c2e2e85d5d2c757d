//! What the simulator itself costs: the process's memory, and events a second.

use atoll_overlay::sim::{Bound, Metric, Report};

/// Adds both to a report.
pub(super) fn add(report: &mut Report, speed: f64) {
    let mut hold = |name: &str, value: f64, bound: Bound| {
        report.metrics.push(Metric { name: name.to_owned(), value, bound: Some(bound) });
    };
    hold("rss_bytes", peak().unwrap_or(f64::NAN), Bound::AtMost(1.2e9));
    hold("events_per_s", speed, Bound::AtLeast(1e6));
}

/// The most memory this process has had, in bytes; none where the system does not say.
fn peak() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u32 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(f64::from(kib) * 1024.0)
}
