//! The commented example file as the one manual of the configuration: an error quotes from it what a key means, what is
//! allowed and an example, so that the two cannot differ.
//!
//! Its form: `[section]`, then for each key a block of `# ` comment lines and the line `key = value`, with a `#` straight
//! before the key where the value is the default. A key whose comment says "Unset by default." shows an example instead. A
//! comment's last words may be "Range: 1s to 1h.", "Range: 64KiB to 1GiB.", "Range: 0 to 100." or "Range: 0 to 4 entries.":
//! that is what [`Range::check`] holds a file to, so what is documented is what is enforced.

use std::sync::OnceLock;

use atoll_units::{ByteSize, span};
use toml::de::DeValue;

/// The file itself, as shipped.
pub const EXAMPLE: &str = include_str!("../../atoll.example.toml");

/// One key of the example file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    /// The section's dotted name.
    pub(super) section: &'a str,
    /// The key within the section.
    pub(super) key: &'a str,
    /// What the comment says, as one paragraph.
    pub(super) comment: String,
    /// What stands right of the `=`.
    pub(super) value: &'a str,
    /// Whether the value shown is what holds if the key is left out.
    pub(super) is_default: bool,
}

/// All keys of an example file, in its order.
pub(super) fn entries(example: &str) -> Vec<Entry<'_>> {
    let mut section = "";
    let mut comment: Vec<&str> = Vec::new();
    let mut found = Vec::new();
    for line in example.lines() {
        if let Some(name) = section_of(line) {
            section = name;
            comment.clear();
        } else if let Some((key, value)) = key_of(line) {
            let comment = std::mem::take(&mut comment).join(" ");
            let is_default = line.starts_with('#') && !comment.contains(UNSET);
            found.push(Entry { section, key, comment, value, is_default });
        } else if let Some(text) = line.strip_prefix("# ") {
            comment.push(text.trim());
        } else {
            comment.clear();
        }
    }
    found
}

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range<'a> {
    unit: Unit,
    least: u128,
    most: u128,
    /// As the comment puts it.
    text: &'a str,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// A bare number.
    Number,
    /// Nanoseconds.
    Duration,
    /// Bytes.
    Size,
    /// Entries of a list.
    Entries,
}

impl Entry<'_> {
    /// The range its comment gives, if any.
    pub(super) fn range(&self) -> Option<Range<'_>> {
        let (_, text) = self.comment.rsplit_once("Range: ")?;
        let text = text.strip_suffix('.')?;
        let (least, most) = text.split_once(" to ")?;
        let (most, entries) = most.strip_suffix(" entries").map_or((most, false), |most| (most, true));
        let quantity =
            |unit, of: fn(&str) -> Option<u128>| Some(Range { unit, least: of(least)?, most: of(most)?, text });
        if entries {
            quantity(Unit::Entries, number)
        } else {
            quantity(Unit::Number, number)
                .or_else(|| quantity(Unit::Duration, nanoseconds))
                .or_else(|| quantity(Unit::Size, bytes))
        }
    }
}

impl Range<'_> {
    /// What is wrong with a value, if it can be told. What is no quantity of the right kind is for the reader to refuse.
    pub(super) fn check(&self, value: &DeValue<'_>) -> Result<(), String> {
        let found = match (self.unit, value) {
            (Unit::Entries, DeValue::Array(list)) => Some(list.len() as u128),
            (Unit::Duration, DeValue::String(text)) => nanoseconds(text),
            (Unit::Size, DeValue::String(text)) => bytes(text),
            (Unit::Number | Unit::Size, DeValue::Integer(integer)) => {
                u128::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok()
            }
            // A list of durations: each of them.
            (Unit::Duration | Unit::Number, DeValue::Array(list)) => {
                return list.iter().try_for_each(|entry| self.check(entry.get_ref()));
            }
            _ => None,
        };
        match found {
            Some(found) if !(self.least..=self.most).contains(&found) => Err(format!("allowed: {}", self.text)),
            Some(_) | None => Ok(()),
        }
    }
}

fn number(text: &str) -> Option<u128> {
    text.parse().ok()
}

fn nanoseconds(text: &str) -> Option<u128> {
    span::parse(text).map(|duration| duration.as_nanos())
}

fn bytes(text: &str) -> Option<u128> {
    ByteSize::parse(text).map(|ByteSize(bytes)| u128::from(bytes))
}

/// What the example file says about one key.
pub(super) fn entry(section: &str, key: &str) -> Option<&'static Entry<'static>> {
    shipped().iter().find(|entry| entry.section == section && entry.key == key)
}

/// The sections that have a key of this name.
pub(super) fn sections_with(key: &str) -> Vec<&'static str> {
    shipped().iter().filter(|entry| entry.key == key).map(|entry| entry.section).collect()
}

/// The keys of the example file as shipped.
fn shipped() -> &'static [Entry<'static>] {
    static SHIPPED: OnceLock<Vec<Entry<'static>>> = OnceLock::new();
    SHIPPED.get_or_init(|| entries(EXAMPLE))
}

fn section_of(line: &str) -> Option<&str> {
    line.strip_prefix('#').unwrap_or(line).strip_prefix('[')?.strip_suffix(']').filter(|name| is_word(name))
}

fn key_of(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.strip_prefix('#').unwrap_or(line).split_once(" = ")?;
    is_word(key).then_some((key, value))
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.".contains(&byte))
}

/// The words that mark a key without a default.
const UNSET: &str = "Unset by default.";
