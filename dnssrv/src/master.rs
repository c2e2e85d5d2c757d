//! Zone files (RFC 1035 5): `$ORIGIN`, `$TTL`, `@`, an owner left out, comments, quotes, parentheses, `\#` data; TTLs as numbers
//! or as `1h30m`. `$INCLUDE` is refused: one file is one unit of reading. One pass, a line at a time, nothing kept but records.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use hickory_proto::rr::{Name, Record};

use crate::{
    rdata,
    words::{self, next},
};

/// Hands each record of a zone file to `each`. An error says the line.
pub(crate) fn read(
    text: &str,
    origin: &Name,
    ttl: u32,
    each: &mut dyn FnMut(Record) -> Result<(), String>,
) -> Result<(), String> {
    let mut state = State { origin: origin.clone(), ttl, owner: None };
    let mut entry = String::new();
    let mut first = 0;
    let mut depth = 0_usize;
    for (at, line) in text.lines().enumerate() {
        if entry.is_empty() {
            first = at + 1;
        }
        depth = strip(line, depth, &mut entry);
        if depth > 0 {
            entry.push(' ');
            continue;
        }
        if !entry.trim().is_empty() {
            state.entry(&entry, each).map_err(|reason| format!("line {first}: {reason}"))?;
        }
        entry.clear();
    }
    if depth > 0 { Err(format!("line {first}: a parenthesis is not closed")) } else { Ok(()) }
}

struct State {
    origin: Name,
    ttl: u32,
    owner: Option<Name>,
}

impl State {
    fn entry(&mut self, entry: &str, each: &mut dyn FnMut(Record) -> Result<(), String>) -> Result<(), String> {
        let (mut word, mut rest) = next(entry);
        match word {
            "$ORIGIN" => {
                self.origin = words::name(rest.trim(), Some(&self.origin))?;
                return Ok(());
            }
            "$TTL" => {
                self.ttl = seconds(rest.trim()).ok_or_else(|| format!("{:?} is no TTL", rest.trim()))?;
                return Ok(());
            }
            _ if word.starts_with('$') => return Err(format!("{word} is not supported")),
            _ => {}
        }
        if entry.starts_with([' ', '\t']) {
            rest = entry;
        } else {
            self.owner = Some(words::name(word, Some(&self.origin))?);
        }
        let owner = self.owner.clone().ok_or("the first record names no owner")?;
        let mut ttl = self.ttl;
        // TTL and class come in either order, each at most once; a type is never mistaken for either.
        for _ in 0..2 {
            let (peeked, after) = next(rest);
            if peeked.eq_ignore_ascii_case("IN") {
                rest = after;
            } else if let Some(given) = seconds(peeked) {
                (ttl, rest) = (given, after);
            }
        }
        (word, rest) = next(rest);
        let kind = rdata::kind(word)?;
        let data = rdata::data(kind, rest, Some(&self.origin)).map_err(|error| format!("{rest:?}: {error}"))?;
        each(Record::from_rdata(owner, ttl, data))
    }
}

/// Adds a line without its comment and parentheses; says how many of these are open after it.
fn strip(line: &str, mut depth: usize, entry: &mut String) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for character in line.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            ';' => break,
            '(' | ')' => {
                depth = if character == '(' { depth + 1 } else { depth.saturating_sub(1) };
                entry.push(' ');
                continue;
            }
            _ => {}
        }
        entry.push(character);
    }
    depth
}

/// A TTL: seconds, or numbers each with a unit of w, d, h, m, s.
fn seconds(text: &str) -> Option<u32> {
    let (mut total, mut number) = (0_u32, None::<u32>);
    for character in text.chars() {
        if let Some(digit) = character.to_digit(10) {
            number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(digit)?);
            continue;
        }
        let unit = match character.to_ascii_lowercase() {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return None,
        };
        total = total.checked_add(number.take()?.checked_mul(unit)?)?;
    }
    match number {
        Some(number) => total.checked_add(number),
        None => (!text.is_empty()).then_some(total),
    }
    .filter(|ttl| *ttl <= 0x7fff_ffff)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn all(text: &str) -> Result<String, String> {
        let mut out = String::new();
        let origin = Name::from_ascii("nyud.example.").unwrap();
        read(text, &origin, 60, &mut |record| {
            writeln!(out, "{record}").unwrap();
            Ok(())
        })?;
        Ok(out)
    }

    #[test]
    fn a_zone_file_as_operators_write_it_is_read() {
        let text = "$TTL 1h ; the default\n@ IN A 192.0.2.1\n  IN MX 10 mail\nmail 300 A 192.0.2.2 ; comment\n\
                    $ORIGIN sub\nlong IN TXT ( \"a;b (c)\"\n  \"second\" )\n\nIN 1h30m IN TYPE65280 \\# 2 00ff\n\
                    www.example.org. 5 CNAME @\n";
        expect_test::expect![[r#"
            nyud.example. 3600 IN A 192.0.2.1
            nyud.example. 3600 IN MX 10 mail.nyud.example.
            mail.nyud.example. 300 IN A 192.0.2.2
            long.sub.nyud.example. 3600 IN TXT a;b (c)second
            IN.sub.nyud.example. 5400 IN Unknown AP8=
            www.example.org. 5 IN CNAME sub.nyud.example.
        "#]]
        .assert_eq(&all(text).unwrap());
    }

    #[test]
    fn what_is_wrong_is_told_by_line() {
        for (text, line) in [
            ("@ A 192.0.2.1\nx A nothing\n", "line 2: "),
            (" A 192.0.2.1\n", "line 1: the first record names no owner"),
            ("x TXT (\n\"a\"\n", "line 1: a parenthesis"),
            ("$INCLUDE other\n", "line 1: $INCLUDE"),
            ("x AXFR y\n", "line 1: "),
            ("@ A 192.0.2.1\nx TXT \"\\256\"\n", "line 2: "),
        ] {
            let error = all(text).unwrap_err();
            assert!(error.starts_with(line), "{text:?}: {error}");
        }
    }

    #[test]
    fn any_text_is_read_or_refused() {
        bolero::check!().for_each(|bytes| {
            let _ = all(&String::from_utf8_lossy(bytes));
        });
    }
}
