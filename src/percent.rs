//! Percent-encoding [RFC 3986 2.1], as queries have it.

/// Text with its escapes read; none if one of them is none, or no text comes of it.
pub(crate) fn unescape(text: &str) -> Option<String> {
    let (bytes, sound) = read(text);
    String::from_utf8(bytes).ok().filter(|_| sound)
}

/// The same; what is no escape, or no text, stays or is marked.
pub(crate) fn unescape_leniently(text: &str) -> String {
    String::from_utf8_lossy(&read(text).0).into_owned()
}

/// Percent-encodes all but what a query may always hold.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' => {
                escaped.push(char::from(byte))
            }
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

/// The bytes that a text stands for, broken escapes for themselves; whether there was none.
fn read(text: &str) -> (Vec<u8>, bool) {
    let mut bytes = Vec::with_capacity(text.len());
    let mut sound = true;
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = after.split_first_chunk::<2>().filter(|_| *first == b'%');
        let read = escape.and_then(|([high, low], after)| Some((digit(*high)? << 4 | digit(*low)?, after)));
        sound &= *first != b'%' || read.is_some();
        let (byte, after) = read.unwrap_or((*first, after));
        bytes.push(byte);
        rest = after;
    }
    (bytes, sound)
}

/// What a hexadecimal digit is worth.
fn digit(byte: u8) -> Option<u8> {
    u8::try_from(char::from(byte).to_digit(16)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_and_broken_ones_refused_or_left() {
        for (text, meant) in [("/a%20b%2Fc", "/a b/c"), ("", ""), ("%c3%BC", "ü")] {
            assert_eq!(unescape(text).as_deref(), Some(meant));
            assert_eq!(unescape_leniently(text), meant);
        }
        for broken in ["100%", "%zz%4", "%+1", "%4"] {
            assert_eq!((unescape(broken), unescape_leniently(broken)), (None, broken.to_owned()));
        }
        assert_eq!((unescape("%ff"), unescape_leniently("%ff")), (None, "\u{fffd}".to_owned()));
    }

    #[test]
    fn whatever_is_escaped_is_read_as_it_was() {
        bolero::check!().with_iterations(10_000).for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            let escaped = escape(&text);
            assert!(escaped.is_ascii() && unescape(&escaped).as_deref() == Some(&*text));
            let _ = (unescape(&text), unescape_leniently(&text));
        });
    }
}
