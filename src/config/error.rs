//! What is wrong with a configuration, told so that the operator can mend it without a manual: file, line, column, the line
//! itself, what is allowed, an example, and what to do next.

use std::{fmt, path::PathBuf};

/// Everything found wrong with one file. Nothing was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as the operator named it.
    pub file: PathBuf,
    /// At least one; at most [`ConfigError::SHOWN`] are kept.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// Problems kept: past it an operator mends these first.
    pub const SHOWN: usize = 20;
}

/// One thing wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problem {
    /// Where, if it stands somewhere in the file.
    pub place: Option<Place>,
    /// What is wrong, with the value that was found.
    pub message: String,
    /// What to do about it: the nearest key, what is allowed, an example. One a line.
    pub help: Vec<String>,
}

/// A spot in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Characters it covers on its line, at least 1.
    pub width: usize,
    /// The line itself, made safe for a terminal and cut to a readable length.
    pub text: String,
}

impl Place {
    /// The spot of a byte range. Ranges outside the text count as its end.
    #[must_use]
    pub fn of(text: &str, range: std::ops::Range<usize>) -> Self {
        let start = floor(text, range.start);
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let rest = text.get(line_start..).unwrap_or_default();
        let whole_line = rest.lines().next().unwrap_or_default();
        let in_line = start - line_start;
        let column = text.get(line_start..start).unwrap_or_default().chars().count();
        let end = floor(whole_line, floor(text, range.end.max(start)) - line_start);
        let width = whole_line.get(in_line..end).map_or(0, |covered| covered.chars().count());
        let shown: String = whole_line.chars().take(WIDTH).map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { line: before.matches('\n').count() + 1, column: column + 1, width: width.max(1), text: shown }
    }
}

/// The last character boundary at or before a byte position.
fn floor(text: &str, position: usize) -> usize {
    text.floor_char_boundary(position.min(text.len()))
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display().to_string().escape_debug().to_string();
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            problem.write(f, &file)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Problem {
    /// Its line and column; what stands nowhere comes last.
    pub(super) fn order(&self) -> (usize, usize) {
        self.place.as_ref().map_or((usize::MAX, 0), |place| (place.line, place.column))
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, file: &str) -> fmt::Result {
        match &self.place {
            None => write!(f, "{file}: {}", self.message)?,
            Some(place) => {
                write!(f, "{file}:{}:{}: {}", place.line, place.column, self.message)?;
                let number = place.line.to_string();
                let margin = " ".repeat(number.len());
                write!(f, "\n  {number} | {}", place.text)?;
                if place.column <= WIDTH {
                    let width = place.width.min(WIDTH + 1 - place.column);
                    write!(f, "\n  {margin} | {}{}", " ".repeat(place.column - 1), "^".repeat(width))?;
                }
            }
        }
        self.help.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// Characters of a line that are shown.
const WIDTH: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let place = Place::of("a = 1\nü = 'ö' # x\n", 11..15);
        assert_eq!((place.line, place.column, place.width), (2, 5, 3));
        assert_eq!(place.text, "ü = 'ö' # x");
    }

    #[test]
    fn a_place_outside_the_text_is_its_end() {
        let place = Place::of("a = 1", 90..95);
        assert_eq!((place.line, place.column, place.width), (1, 6, 1));
        assert_eq!(Place::of("", 0..0).line, 1);
    }

    #[test]
    fn control_characters_of_the_file_do_not_reach_the_terminal() {
        let place = Place::of("a = '\u{1b}[31m'\n", 4..6);
        assert_eq!(place.text, "a = ' [31m'");
    }
}
