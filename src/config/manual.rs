//! The commented example file as the one manual of the configuration: an error quotes from it what a key means, what is
//! allowed and an example, so that the two cannot differ.
//!
//! Its form: `[section]`, then for each key a block of `# ` comment lines and the line `key = value`, with a `#` straight
//! before the key where the value is the default. A key whose comment says "Unset by default." shows an example instead.

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

/// What the example file says about one key.
pub(super) fn entry(section: &str, key: &str) -> Option<Entry<'static>> {
    entries(EXAMPLE).into_iter().find(|entry| entry.section == section && entry.key == key)
}

/// The sections that have a key of this name.
pub(super) fn sections_with(key: &str) -> Vec<&'static str> {
    entries(EXAMPLE).into_iter().filter(|entry| entry.key == key).map(|entry| entry.section).collect()
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
