//! TOML text to sections, gathering every mistake instead of stopping at the first: an offending entry is noted, taken out,
//! and the section read again.

use std::{collections::BTreeMap, ops::Range};

use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    error::{ConfigError, Place, Problem},
    manual,
};

/// A file that is valid TOML, being read section by section.
pub(super) struct Sections<'t> {
    text: &'t str,
    tables: DeTable<'t>,
    places: BTreeMap<String, Range<usize>>,
    problems: Vec<Problem>,
}

impl<'t> Sections<'t> {
    /// Splits the text into its sections. Syntax errors end here, several at once.
    pub(super) fn parse(text: &'t str, known: &[&str]) -> Result<Self, Vec<Problem>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let problem = |error: &toml::de::Error| Problem {
                place: error.span().map(|span| Place::of(text, span)),
                message: format!("this is not TOML: {}", error.message()),
                help: Vec::new(),
            };
            let mut problems: Vec<Problem> = errors.iter().map(problem).collect();
            problems.sort_by_key(Problem::order);
            // After the first mistake of a line the parser guesses, and its further complaints mislead.
            problems.dedup_by_key(|problem| problem.order().0);
            problems.truncate(ConfigError::SHOWN);
            return Err(problems);
        }
        let mut sections = Self { text, tables: root.into_inner(), places: BTreeMap::new(), problems: Vec::new() };
        note_places(&sections.tables, "", &mut sections.places);
        sections.refuse_unknown(known);
        Ok(sections)
    }

    /// Reads one section, which may be absent; what cannot be read is noted and stays at its default.
    pub(super) fn read<T: DeserializeOwned + Default>(&mut self, name: &str) -> T {
        let Some(mut value) = self.tables.remove(name) else { return T::default() };
        if !value.get_ref().is_table() {
            self.note(value.span(), format!("`{name}` is a section and written as [{name}]"), Vec::new());
            return T::default();
        }
        while self.problems.len() < ConfigError::SHOWN {
            let error = match T::deserialize(ValueDeserializer::from(value.clone())) {
                Ok(section) => {
                    if let DeValue::Table(table) = value.get_ref() {
                        self.hold_to_ranges(table, name);
                    }
                    return section;
                }
                Err(error) => error,
            };
            let span = error.span().unwrap_or_else(|| value.span());
            let Some(table) = table_of(&mut value) else { break };
            let taken = take_out(table, &span, name);
            let (section, key) = taken.as_ref().map_or((name, None), |taken| (&*taken.section, Some(&*taken.key)));
            let (message, help) = explain(&error, section, key);
            self.note(span, message, help);
            if taken.is_none() {
                break;
            }
        }
        T::default()
    }

    /// Notes what is wrong with a key that was read well, such as a value out of range or two that contradict each other.
    pub(super) fn object(&mut self, path: &str, message: String, next: String) {
        let section = path.split_once('.').map_or(path, |(section, _)| section);
        let span = self.places.get(path).or_else(|| self.places.get(section)).cloned();
        let mut help = vec![next];
        help.retain(|line| !line.is_empty());
        let place = span.map(|span| Place::of(self.text, span));
        self.push(Problem { place, message, help });
    }

    /// Whether the file itself says anything about this key, `section.key`.
    pub(super) fn has(&self, path: &str) -> bool {
        self.places.contains_key(path)
    }

    /// Whether nothing is wrong so far. If something is, a key that seems to be absent may only be misspelt.
    pub(super) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// Everything noted so far, in the order of the file.
    pub(super) fn finish(self) -> Vec<Problem> {
        let mut problems = self.problems;
        problems.sort_by_key(Problem::order);
        problems
    }

    fn refuse_unknown(&mut self, known: &[&str]) {
        let unknown: Vec<(String, Range<usize>, bool)> = self
            .tables
            .iter()
            .filter(|(key, _)| !known.contains(&&**key.get_ref()))
            .map(|(key, value)| (key.get_ref().to_string(), key.span(), value.get_ref().is_table()))
            .collect();
        for (key, span, is_section) in unknown {
            let (message, mut help) = if is_section {
                (format!("unknown section [{}]", key.escape_debug()), Vec::new())
            } else {
                let message = format!("key `{}` stands in no section", key.escape_debug());
                (message, belongs_in(&key).into_iter().collect())
            };
            if let Some(near) = nearest(&key, known.iter().copied()) {
                help.push(format!("did you mean [{near}]?"));
            }
            help.push(format!("sections: {}", known.join(", ")));
            self.note(span, message, help);
        }
    }

    /// Holds what was written, which could be read, to the documented ranges.
    fn hold_to_ranges(&mut self, table: &DeTable<'_>, section: &str) {
        for (key, value) in table {
            if let DeValue::Table(inner) = value.get_ref() {
                self.hold_to_ranges(inner, &format!("{section}.{}", key.get_ref()));
            }
            let Some(entry) = manual::entry(section, key.get_ref()) else { continue };
            if let Some(range) = entry.range()
                && let Err(allowed) = range.check(value.get_ref())
            {
                let help = vec![allowed, format!("{}: {}", entry.key, entry.comment), example(entry)];
                self.note(value.span(), format!("`{}` in [{section}] is out of range", entry.key), help);
            }
        }
    }

    fn note(&mut self, span: Range<usize>, message: String, help: Vec<String>) {
        let place = Some(Place::of(self.text, span));
        self.push(Problem { place, message, help });
    }

    fn push(&mut self, problem: Problem) {
        if self.problems.len() < ConfigError::SHOWN {
            self.problems.push(problem);
        }
    }
}

/// Where each key of the file stands: its path, dotted, to its value's bytes.
fn note_places(table: &DeTable<'_>, above: &str, places: &mut BTreeMap<String, Range<usize>>) {
    for (key, value) in table {
        let path = if above.is_empty() { key.get_ref().to_string() } else { format!("{above}.{}", key.get_ref()) };
        if let DeValue::Table(inner) = value.get_ref() {
            note_places(inner, &path, places);
            places.insert(path, key.span());
        } else {
            places.insert(path, value.span());
        }
    }
}

/// The entry that an error was about.
struct Taken {
    section: String,
    key: String,
}

/// Removes the innermost entry of a table whose key or value holds the span. Spans that hold no entry remove nothing.
fn take_out(table: &mut DeTable<'_>, span: &Range<usize>, section: &str) -> Option<Taken> {
    let holds = |outer: &Range<usize>| outer.start <= span.start && span.end <= outer.end;
    for (key, value) in table.iter_mut() {
        let inner_section = format!("{section}.{}", key.get_ref());
        if let Some(inner) = table_of(value)
            && let Some(taken) = take_out(inner, span, &inner_section)
        {
            return Some(taken);
        }
    }
    let found = table.iter().find(|(key, value)| holds(&key.span()) || holds(&value.span()));
    let key = found.map(|(key, _)| key.get_ref().to_string())?;
    table.remove(&*key);
    Some(Taken { section: section.to_owned(), key })
}

fn table_of<'v, 't>(value: &'v mut Spanned<DeValue<'t>>) -> Option<&'v mut DeTable<'t>> {
    match value.get_mut() {
        DeValue::Table(table) => Some(table),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_) => None,
    }
}

/// What the reader's error means to an operator, and what to do about it.
fn explain(error: &toml::de::Error, section: &str, key: Option<&str>) -> (String, Vec<String>) {
    let said = error.message();
    if let Some((key, expected)) = unknown_field(said) {
        let mut help = Vec::new();
        if let Some(near) = nearest(key, expected.iter().copied()) {
            help.push(format!("did you mean `{near}`?"));
        }
        help.extend(belongs_in(key));
        if !expected.is_empty() {
            help.push(format!("[{section}] knows: {}", expected.join(", ")));
        }
        return (format!("unknown key `{}` in [{section}]", key.escape_debug()), help);
    }
    let mut help = Vec::new();
    if let Some((variant, expected)) = unknown_variant(said)
        && let Some(near) = nearest(variant, expected.iter().copied())
    {
        help.push(format!("did you mean \"{near}\"?"));
    }
    if let Some(entry) = key.and_then(|key| manual::entry(section, key)) {
        help.push(format!("{}: {}", entry.key, entry.comment));
        help.push(example(entry));
    }
    let whole = said.lines().collect::<Vec<_>>().join(" ");
    (
        key.map_or_else(
            || format!("[{section}]: {whole}"),
            |key| format!("`{}` in [{section}]: {whole}", key.escape_debug()),
        ),
        help,
    )
}

fn example(entry: &manual::Entry<'_>) -> String {
    format!("for example: {} = {}", entry.key, entry.value)
}

/// The section in which a key of this name would be at home.
fn belongs_in(key: &str) -> Option<String> {
    let sections = manual::sections_with(key);
    (!sections.is_empty()).then(|| format!("`{key}` belongs in [{}]", sections.join("] or [")))
}

fn unknown_field(said: &str) -> Option<(&str, Vec<&str>)> {
    unknown(said.strip_prefix("unknown field `")?)
}

fn unknown_variant(said: &str) -> Option<(&str, Vec<&str>)> {
    unknown(said.strip_prefix("unknown variant `")?)
}

/// Serde writes: NAME`, expected `a` or `b` / one of `a`, `b` / there are no fields.
fn unknown(rest: &str) -> Option<(&str, Vec<&str>)> {
    // The name is the file's and may itself hold a backquote; the list of what is expected is ours and holds none.
    let (name, expected) = rest.rsplit_once("`, expected ").or_else(|| rest.rsplit_once("`, there are no"))?;
    Some((name, expected.split('`').skip(1).step_by(2).collect()))
}

/// The known word most like the one found, if any is like it at all.
pub(super) fn nearest<'k>(found: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    // The measure is quadratic in the length, and nothing that long is like any of our words.
    if found.len() > 64 {
        return None;
    }
    let found = found.to_ascii_lowercase().replace('-', "_");
    known
        .map(|word| (strsim::damerau_levenshtein(&found, word), word))
        .filter(|(distance, word)| *distance <= (word.len() / 3).max(1))
        .min()
        .map(|(_, word)| word)
}
