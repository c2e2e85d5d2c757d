//! The only place that writes to the terminal: answers to standard output, complaints to standard error.

use std::{fmt, io::Write as _};

/// Writes an answer and a newline to standard output. A reader that has gone away (`atoll url ... | head -1`) is no error.
pub fn say(text: impl fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Writes a complaint and a newline to standard error.
pub fn complain(text: impl fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A foreign text made safe for a terminal and for one line: control characters are shown as escapes.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_not_sent() {
        assert_eq!(plain("a\u{1b}[31m\r\nb ü"), "a\\u{1b}[31m\\r\\nb ü");
    }
}
