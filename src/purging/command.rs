//! `atoll purge`: asks a node over its admin socket, and says who has applied it and what to do about the others.

use std::{fmt::Write as _, path::Path, time::Duration};

use super::PurgeReport;
use crate::{
    admin::{self, ClientError},
    cli::PurgeArgs,
    out::plain,
};

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What to print.
    pub told: String,
    /// Whether all that was asked for is done: with `--wait`, every node known has applied it.
    pub done: bool,
}

/// Purges what the command line names.
///
/// # Errors
/// No node answers, or it refuses.
pub async fn purge(socket: &Path, args: &PurgeArgs) -> Result<Outcome, ClientError> {
    let orders = args.orders().map_err(|reason| ClientError::Refused { reason })?;
    let mut outcome = Outcome { told: String::new(), done: true };
    for order in orders {
        let path = format!("/purge?{}", order.query());
        let body = admin::post(socket, &path, order.wait + PATIENCE).await?;
        let report: PurgeReport = serde_json::from_slice(&body)
            .map_err(|error| ClientError::Strange { path: socket.to_owned(), reason: error.to_string() })?;
        outcome.done &= order.wait.is_zero() || report.missing() == 0;
        let told =
            if args.json { serde_json::to_string(&report).unwrap_or_default() } else { tell(&report, order.wait) };
        if !outcome.told.is_empty() {
            outcome.told.push('\n');
        }
        outcome.told.push_str(&told);
    }
    Ok(outcome)
}

/// A report in words.
fn tell(report: &PurgeReport, wait: Duration) -> String {
    let kind = if report.hard { "hard: gone" } else { "soft: asked for again before it is used" };
    let mut told = format!("purged {} ({kind})\n  {}", plain(&report.what), plain(&report.purge));
    let missing = report.missing();
    // Writing to a String does not fail.
    let _ = write!(told, "\n  applied by {} of {} nodes known", report.applied, report.known);
    for node in &report.nodes {
        let heard = node.heard.map_or_else(|| "never heard of".to_owned(), |ago| format!("last heard of {ago} s ago"));
        let word = if node.applied { "applied".to_owned() } else { format!("missing, {heard}") };
        let _ = write!(told, "\n    {}  {word}", plain(&node.node));
    }
    if missing > 0 && wait.is_zero() {
        told.push_str("\n  the others are being told; --wait waits for them");
    } else if missing > 0 {
        told.push_str(
            "\n  the missing ones are told as soon as they are reached, and until then ask the origin about what they hold.\n  \
             What to do now: look whether they run (`atoll status` there), and stop those that do and cannot be reached.",
        );
    }
    told
}

/// How long a node may take to answer beside the waiting.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::purging::NodeAck;

    #[test]
    fn who_is_missing_is_named_with_what_to_do() {
        let node = |node: &str, applied, heard| NodeAck { node: node.to_owned(), applied, heard };
        let mut report = PurgeReport {
            purge: "id-7".to_owned(),
            what: "tag a\u{1b}[2J".to_owned(),
            known: 2,
            applied: 1,
            nodes: vec![node("two", false, Some(12)), node("one", true, Some(0))],
            ..PurgeReport::default()
        };
        let told = tell(&report, Duration::from_secs(1));
        assert!(told.contains("applied by 1 of 2") && told.contains("two  missing, last heard of 12 s ago"), "{told}");
        assert!(told.contains("What to do now") && !told.contains('\u{1b}'), "{told}");
        report.known = 1;
        assert!(!tell(&report, Duration::from_secs(1)).contains("What to do"));
    }
}
