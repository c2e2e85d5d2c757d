//! What a trace found, and how it is printed: a line a step, in the order of their times.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::out::plain;

/// One request, followed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The URL at its origin.
    pub url: String,
    /// The name under which a client asks DNS; "" where none can be made of the URL.
    pub name: String,
    /// The id of the node that answered; "" if it told nothing.
    pub node: String,
    /// Where it was asked.
    pub address: String,
    /// The HTTP status; 0 if there was no answer.
    pub status: u16,
    /// Bytes of the body.
    pub bytes: u64,
    /// BLAKE3 of the body, 64 hexadecimal digits.
    pub blake3: String,
    /// What was done, in the order of their times.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Step {
    /// Microseconds since the trace began. What the node asked tells counts from when the request was sent to it, so that the way
    /// there is missing.
    pub at: u64,
    /// Who did it: `dns`, `client`, `node`.
    pub by: String,
    /// What it is about.
    pub stage: String,
    /// What was done or found.
    pub what: String,
}

impl Report {
    pub(super) fn add(&mut self, at: std::time::Duration, by: &str, stage: &str, what: impl Into<String>) {
        let at = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        self.steps.push(Step { at, by: by.to_owned(), stage: stage.to_owned(), what: what.into() });
    }
}

/// What other nodes say cannot move the terminal's cursor.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short: String = self.node.chars().take(8).collect();
        let node = if short.is_empty() { "which told nothing".to_owned() } else { plain(&short) };
        writeln!(f, "{}", plain(&self.url))?;
        if !self.name.is_empty() {
            writeln!(f, "  as {}", plain(&self.name))?;
        }
        writeln!(f, "  at {}, node {node}", plain(&self.address))?;
        for Step { at, by, stage, what } in &self.steps {
            let (whole, part) = (at / 1_000, at % 1_000 / 100);
            writeln!(f, "{whole:>7}.{part} ms  {:<6} {:<8} {}", plain(by), plain(stage), plain(what))?;
        }
        let Self { status, bytes, blake3, .. } = self;
        write!(f, "  status {status}, {bytes} bytes, blake3 {}", plain(blake3))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::expect;

    use super::*;

    #[test]
    fn a_trace_reads_as_a_timeline_and_moves_no_cursor() {
        let mut report = Report {
            url: "http://www.example.com/a".to_owned(),
            name: "www.example.com.nyud.example".to_owned(),
            node: "0123456789".to_owned(),
            address: "127.0.0.1:8080".to_owned(),
            status: 200,
            bytes: 5,
            blake3: "ab".to_owned(),
            steps: Vec::new(),
        };
        report.add(Duration::from_micros(90), "dns", "why", "level 2, settled");
        report.add(Duration::from_micros(12_345), "node", "store", "nothing\u{1b}[2J");
        expect![[r#"
            http://www.example.com/a
              as www.example.com.nyud.example
              at 127.0.0.1:8080, node 01234567
                  0.0 ms  dns    why      level 2, settled
                 12.3 ms  node   store    nothing\u{1b}[2J
              status 200, 5 bytes, blake3 ab"#]]
        .assert_eq(&report.to_string());
    }
}
