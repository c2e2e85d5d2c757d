//! The words of a zone file (RFC 1035 5.1): split at blanks, with quotes and escapes; read as domain names or as character strings,
//! of any bytes. What a word means is `rdata.rs`'s and `master.rs`'s business.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use hickory_proto::rr::Name;

/// The next word, as it is written, and what follows it. A word that begins with a quote ends with the next one; elsewhere quotes only
/// keep blanks together, as in `alpn="h2"`.
pub(crate) fn next(text: &str) -> (&str, &str) {
    let text = text.trim_ascii_start();
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' if quoted && text.starts_with('"') => return text.split_at(at + 1),
            b'"' => quoted = !quoted,
            _ if quoted => {}
            blank if blank.is_ascii_whitespace() => return text.split_at(at),
            _ => {}
        }
    }
    (text, "")
}

/// All words.
pub(crate) fn all(mut text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    loop {
        let (word, rest) = next(text);
        if word.is_empty() {
            return words;
        }
        words.push(word);
        text = rest;
    }
}

/// A word as bytes, in quotes or not.
pub(crate) fn bytes(word: &str) -> Result<Vec<u8>, String> {
    let inner = match word.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').ok_or_else(|| format!("{word}: a quote is not closed"))?,
        None => word,
    };
    Ok(octets(inner)?.into_iter().map(|(octet, _)| octet).collect())
}

/// A character string (RFC 1035 3.3) after its length.
pub(crate) fn string(word: &str) -> Result<Vec<u8>, String> {
    let bytes = bytes(word)?;
    let length = u8::try_from(bytes.len());
    let length = length.map_err(|_| format!("a string has 255 bytes at most, this one {}", bytes.len()))?;
    Ok([&[length], bytes.as_slice()].concat())
}

/// A domain name; without a dot at its end it is relative to the origin, if there is one, which is `@` itself.
pub(crate) fn name(word: &str, origin: Option<&Name>) -> Result<Name, String> {
    let wrong = |reason: &dyn std::fmt::Display| format!("{word:?} is no domain name: {reason}");
    if let (Some(origin), "@") = (origin, word) {
        return Ok(origin.clone());
    }
    if word == "." {
        return Ok(Name::root());
    }
    if !word.is_ascii() {
        return Err(wrong(&"other letters than ASCII's are written as xn-- (RFC 5891)"));
    }
    let octets = octets(word)?;
    let dot = (b'.', false);
    let absolute = octets.last() == Some(&dot);
    let labels = octets.strip_suffix(&[dot]).unwrap_or(&octets).split(|octet| *octet == dot);
    let labels: Vec<Vec<u8>> = labels.map(|label| label.iter().map(|(octet, _)| *octet).collect()).collect();
    if labels.iter().any(Vec::is_empty) {
        return Err(wrong(&"a label is empty"));
    }
    let mut name = Name::from_labels(labels.iter().map(Vec::as_slice)).map_err(|error| wrong(&error))?;
    name.set_fqdn(true);
    match origin.filter(|_| !absolute) {
        Some(origin) => name.append_domain(origin).map_err(|error| wrong(&error)),
        None => Ok(name),
    }
}

/// Each byte with whether it was escaped: `\DDD` is a number, `\` and any other character that character.
fn octets(word: &str) -> Result<Vec<(u8, bool)>, String> {
    let mut octets = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let [first, after @ ..] = rest {
        let octet;
        (octet, rest) = match (first, after) {
            (b'\\', [hundreds @ b'0'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9', after @ ..]) => {
                let number =
                    [hundreds, tens, ones].into_iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
                let number = u8::try_from(number).map_err(|_| format!("{word}: \\{number} is no byte"))?;
                ((number, true), after)
            }
            (b'\\', [b'0'..=b'9', ..] | []) => {
                return Err(format!("{word}: a backslash is followed by three digits or a character"));
            }
            (b'\\', [other, after @ ..]) => ((*other, true), after),
            (plain, after) => ((*plain, false), after),
        };
        octets.push(octet);
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_at_blanks_that_are_not_quoted_or_escaped() {
        let text = "  a\\ b \"c d\"\"e\"\tf=\"g h\" \\\"i ";
        assert_eq!(all(text), ["a\\ b", "\"c d\"", "\"e\"", "f=\"g h\"", "\\\"i"]);
    }

    #[test]
    fn strings_are_bytes_of_any_kind_with_decimal_escapes() {
        for (word, expected) in [
            ("v=DKIM1\\;", &b"v=DKIM1;"[..]),
            ("\"a \\\"b\\\" \\200\\010\"", b"a \"b\" \xc8\n"),
            ("@", b"@"),
            ("\"\"", b""),
            ("a\\\\b", b"a\\b"),
        ] {
            assert_eq!(string(word).unwrap()[1..], *expected, "{word}");
        }
        for wrong in ["\"open", "\\256", "\\12", "\\"] {
            assert!(string(wrong).is_err(), "{wrong}");
        }
        let (most, more) = ("x".repeat(255), "x".repeat(256));
        assert_eq!(string(&most).unwrap().len(), 256);
        assert!(string(&more).unwrap_err().contains("255 bytes at most, this one 256"));
    }

    #[test]
    fn names_have_labels_of_any_bytes() {
        let origin = Name::from_ascii("z.").unwrap();
        for (word, labels) in [
            ("0/25", vec![&b"0/25"[..], b"z"]),
            ("-a+b.=c#d!", vec![b"-a+b", b"=c#d!", b"z"]),
            ("a\\.b.c.", vec![b"a.b", b"c"]),
            ("\\065\\200", vec![b"A\xc8", b"z"]),
            ("@", vec![b"z"]),
            ("\\@", vec![b"@", b"z"]),
            ("*", vec![b"*", b"z"]),
        ] {
            assert_eq!(name(word, Some(&origin)).unwrap().iter().collect::<Vec<_>>(), labels, "{word}");
        }
        let long = format!("{}.", "a.".repeat(127));
        for wrong in ["", "a..b", ".a", "\\.".repeat(64).as_str(), "b\u{fc}cher", long.as_str()] {
            assert!(name(wrong, Some(&origin)).is_err(), "{wrong}");
        }
        assert!(name("www", None).unwrap().is_fqdn() && name(".", None).unwrap().is_root());
    }

    #[test]
    fn any_text_is_split_into_words_that_are_read_or_refused() {
        bolero::check!().for_each(|input| {
            let text = String::from_utf8_lossy(input);
            for word in all(&text) {
                let _ = (bytes(word), string(word), name(word, None));
            }
        });
    }
}
