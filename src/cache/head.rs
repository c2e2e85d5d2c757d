//! The raw head of one request: bytes in, method, target and fields out, or what is wrong with it (RFC 9112 2.2, 3, 5, 6).
//!
//! Strict where requests are smuggled: a line ends in CRLF, a name is a token with the colon straight behind it, no folding, one
//! Content-Length that is a plain number, never beside a Transfer-Encoding. Such a head says nothing certain about where the
//! next one begins, so it ends the connection; everything else that can be wrong with a request leaves the connection alive and
//! is for [`target`](super::target) and [`service`](super::service) to say.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::ops::Range;

use super::answer::Status;

/// What a head may measure.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadLimits {
    /// Bytes of the whole.
    pub(super) bytes: usize,
    /// Number of fields.
    pub(super) fields: usize,
}

/// A head, as places in the bytes it was read from. Kept and filled anew for each request of a connection.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes of the whole, the empty line included.
    pub(super) length: usize,
    /// The method's bytes.
    pub(super) method: Range<usize>,
    /// The request target's bytes.
    pub(super) target: Range<usize>,
    /// HTTP/1.0 rather than 1.1.
    pub(super) old: bool,
    /// Every field, in order.
    pub(super) fields: Vec<Field>,
    /// Bytes of body that follow.
    pub(super) body: Option<u64>,
    /// A body of unknown length follows.
    pub(super) chunked: bool,
    /// Whether the client wants the connection to go on.
    pub(super) keep_alive: bool,
    /// What the client expects before it sends a body.
    pub(super) expect: Expect,
    /// How many Host fields came.
    pub(super) hosts: usize,
    /// `Connection: close` came.
    close: bool,
    /// `Connection: keep-alive` came.
    stay: bool,
}

/// One field's name and value, white space around it left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: Range<usize>,
    pub(super) value: Range<usize>,
}

/// The Expect field [RFC 9110 10.1.1].
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    #[default]
    Nothing,
    /// `100-continue`
    Continue,
    /// Something nobody defined.
    Unknown,
}

/// A head after which nothing on this connection can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) status: Status,
    pub(super) line: &'static str,
}

impl Head {
    /// Reads a head from the front of `bytes`; false if it is not all there. `seen` is how many of these bytes an earlier call
    /// found without an end.
    pub(super) fn read(&mut self, bytes: &[u8], seen: usize, limits: HeadLimits) -> Result<bool, Malformed> {
        let Some(length) = end_of(bytes, seen) else {
            return if bytes.len() >= limits.bytes { Err(too_long(bytes, limits.bytes)) } else { Ok(false) };
        };
        if length > limits.bytes {
            return Err(too_long(bytes, limits.bytes));
        }
        self.fields.clear();
        self.length = length;
        (self.body, self.chunked, self.hosts, self.expect) = (None, false, 0, Expect::Nothing);
        (self.close, self.stay) = (false, false);
        let lines = bytes.get(..length).unwrap_or_default();
        let first = line_at(lines, 0).ok_or(BAD_LINE)?;
        self.request_line(lines, first.clone())?;
        let mut at = first.end + 2;
        loop {
            let line = line_at(lines, at).ok_or(BAD_LINE)?;
            if line.is_empty() {
                break;
            }
            at = line.end + 2;
            if self.fields.len() == limits.fields {
                return Err(Malformed {
                    status: Status::FIELDS_TOO_LARGE,
                    line: "the request has too many header fields",
                });
            }
            self.field(lines, line)?;
        }
        if self.chunked && self.body.is_some() {
            return Err(bad("Content-Length beside Transfer-Encoding"));
        }
        if self.chunked && self.old {
            return Err(bad("Transfer-Encoding in HTTP/1.0"));
        }
        self.keep_alive = !self.close && (!self.old || self.stay);
        Ok(true)
    }

    /// The value of the first field of this name, given in lower case.
    pub(super) fn value<'b>(&self, bytes: &'b [u8], name: &str) -> Option<&'b [u8]> {
        let found = self.fields.iter().find(|field| is(bytes, &field.name, name))?;
        bytes.get(found.value.clone())
    }

    fn request_line(&mut self, bytes: &[u8], line: Range<usize>) -> Result<(), Malformed> {
        let text = bytes.get(line.clone()).unwrap_or_default();
        let mut spaces = text.iter().enumerate().filter(|(_, byte)| **byte == b' ').map(|(at, _)| line.start + at);
        let (Some(first), Some(second), None) = (spaces.next(), spaces.next(), spaces.next()) else {
            return Err(bad("the request line is not METHOD TARGET HTTP/1.1"));
        };
        (self.method, self.target) = (line.start..first, first + 1..second);
        let method = bytes.get(self.method.clone()).unwrap_or_default();
        if method.is_empty() || method.len() > METHOD_LIMIT || !method.iter().all(|byte| is_token(*byte)) {
            return Err(bad("the method is no word"));
        }
        let target = bytes.get(self.target.clone()).unwrap_or_default();
        if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
            return Err(bad("the request target is empty or has bytes that may not be there"));
        }
        self.old = match bytes.get(second + 1..line.end).unwrap_or_default() {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
                let line = "only HTTP/1.1 and HTTP/1.0 are spoken here";
                return Err(Malformed { status: Status::VERSION_NOT_SUPPORTED, line });
            }
            _ => return Err(bad("the request line does not end in HTTP/1.1")),
        };
        Ok(())
    }

    fn field(&mut self, bytes: &[u8], line: Range<usize>) -> Result<(), Malformed> {
        let text = bytes.get(line.clone()).unwrap_or_default();
        let colon = text.iter().position(|byte| *byte == b':').ok_or(bad("a header line without a colon"))?;
        let (name, rest) = (text.get(..colon).unwrap_or_default(), text.get(colon + 1..).unwrap_or_default());
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(bad("a header name is empty or has bytes that may not be there"));
        }
        if !rest.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f)) {
            return Err(bad("a header value has bytes that may not be there"));
        }
        let value = rest.trim_ascii();
        let blank = rest.len() - rest.trim_ascii_start().len();
        let start = line.start + colon + 1 + blank;
        let field = Field { name: line.start..line.start + colon, value: start..start + value.len() };
        self.note(name, value)?;
        self.fields.push(field);
        Ok(())
    }

    /// Keeps what a field says about the connection and the body.
    fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let named = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
        match name.len() {
            4 if named("host") => self.hosts += 1,
            6 if named("expect") => {
                let known = value.eq_ignore_ascii_case(b"100-continue");
                self.expect = if known { Expect::Continue } else { Expect::Unknown };
            }
            10 if named("connection") => {
                for word in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    self.close |= word.eq_ignore_ascii_case(b"close");
                    self.stay |= word.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if named("content-length") => {
                let length = number(value).ok_or(bad("Content-Length is no plain number"))?;
                if self.body.replace(length).is_some() {
                    return Err(bad("Content-Length came twice"));
                }
            }
            17 if named("transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(bad("a Transfer-Encoding other than chunked"));
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether the bytes at a place are this word, given in lower case.
pub(super) fn is(bytes: &[u8], place: &Range<usize>, word: &str) -> bool {
    bytes.get(place.clone()).is_some_and(|found| found.eq_ignore_ascii_case(word.as_bytes()))
}

/// Plain decimal digits that fit 64 bits.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, byte| {
        byte.is_ascii_digit().then(|| sum.checked_mul(10)?.checked_add(u64::from(byte - b'0'))).flatten()
    })
}

/// The byte after the first empty line. The line before it may have been seen by an earlier call.
fn end_of(bytes: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(3);
    let tail = bytes.get(from..)?;
    let mut at = 0;
    loop {
        // Lines are found by their CR: a head has few of them, whatever its length.
        at += tail.get(at..)?.iter().position(|byte| *byte == b'\r')?;
        match tail.get(at..at + 4) {
            Some(b"\r\n\r\n") => return Some(from + at + 4),
            Some(_) => at += 1,
            None => return None,
        }
    }
}

/// The line that begins at `start`, without its CRLF; none if it holds a lone CR or LF.
fn line_at(bytes: &[u8], start: usize) -> Option<Range<usize>> {
    let rest = bytes.get(start..)?;
    let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'))?;
    rest.get(end..)?.starts_with(b"\r\n").then_some(start..start + end)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

const fn bad(line: &'static str) -> Malformed {
    Malformed { status: Status::BAD_REQUEST, line }
}

/// What is wrong with a head longer than `limit`, of which more may be there by now.
fn too_long(bytes: &[u8], limit: usize) -> Malformed {
    if bytes.iter().take(limit).any(|byte| *byte == b'\n') {
        Malformed { status: Status::FIELDS_TOO_LARGE, line: "the request head is longer than is read here" }
    } else {
        Malformed { status: Status::TARGET_TOO_LONG, line: "the request line is longer than is read here" }
    }
}

const BAD_LINE: Malformed = bad("a line does not end in CRLF");

/// The longest method there is any use for.
const METHOD_LIMIT: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 1024, fields: 8 };

    fn read(text: &str) -> Result<Option<Head>, Malformed> {
        let mut head = Head::default();
        Ok(head.read(text.as_bytes(), 0, LIMITS)?.then_some(head))
    }

    #[test]
    fn a_head_is_read_whole_and_what_follows_is_left() {
        let text = "PUT /1/2?tag1=3 HTTP/1.1\r\nHost: a\r\nContent-Length:  5 \r\nClient-Ext:\r\n\r\nhello";
        let head = read(text).unwrap().unwrap();
        assert_eq!((&text[head.method.clone()], &text[head.target.clone()]), ("PUT", "/1/2?tag1=3"));
        assert_eq!((&text[head.length..], head.body, head.keep_alive), ("hello", Some(5), true));
        assert_eq!(head.value(text.as_bytes(), "client-ext"), Some(&b""[..]));
        assert_eq!(head.value(text.as_bytes(), "host"), Some(&b"a"[..]));
    }

    #[test]
    fn a_head_in_bits_of_any_size_is_read_as_one() {
        let text = "GET /1/2 HTTP/1.1\r\nHost: a\r\n\r\n";
        let whole = read(text).unwrap().unwrap();
        for cut in 0..text.len() {
            let mut head = Head::default();
            assert!(!head.read(&text.as_bytes()[..cut], 0, LIMITS).unwrap(), "{cut}");
            assert!(head.read(text.as_bytes(), cut, LIMITS).unwrap(), "{cut}");
            assert_eq!(head, whole);
        }
    }

    #[test]
    fn a_connection_goes_on_as_version_and_client_say() {
        for (version, connection, goes_on) in [
            ("1.1", "", true),
            ("1.1", "Connection: x, Close\r\n", false),
            ("1.1", "Connection: close, keep-alive\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
        ] {
            let text = format!("GET /1/2 HTTP/{version}\r\nHost: a\r\n{connection}\r\n");
            assert_eq!(read(&text).unwrap().unwrap().keep_alive, goes_on, "{text}");
        }
    }

    /// H01 to H06, H15: the head says nothing certain about where the next begins.
    #[test]
    fn what_smuggles_is_refused() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: -1\r\n",
            "Content-Length:\r\n",
            "Content-Length: 18446744073709551616\r\n",
            "Transfer-Encoding: ,chunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: \u{b}chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Transfer-Encoding:\r\n chunked\r\n",
            " Host: a\r\n",
            "Host\r\n",
            ": a\r\n",
            "X: a\0b\r\n",
            "X: a\nY: b\r\n",
            "X: a\rb\r\n",
        ] {
            let told = read(&format!("GET /1/2 HTTP/1.1\r\n{fields}\r\n")).unwrap_err();
            assert_eq!(told.status, Status::BAD_REQUEST, "{fields:?}");
        }
        for (line, status) in [
            ("GET  /1/2 HTTP/1.1", Status::BAD_REQUEST),
            ("GET /1/2", Status::BAD_REQUEST),
            ("GET /1/2 HTTP/1.32", Status::BAD_REQUEST),
            ("GET /1/2 HTTP/2.0", Status::VERSION_NOT_SUPPORTED),
            ("G\"T /1/2 HTTP/1.1", Status::BAD_REQUEST),
            (" /1/2 HTTP/1.1", Status::BAD_REQUEST),
            ("GET /1/\u{fc} HTTP/1.1", Status::BAD_REQUEST),
            ("GET /1/2 HTTP/1.1\nHost: a", Status::BAD_REQUEST),
        ] {
            assert_eq!(read(&format!("{line}\r\n\r\n")).unwrap_err().status, status, "{line:?}");
        }
        let old = "PUT /1/2 HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(read(old).unwrap_err().status, Status::BAD_REQUEST);
    }

    #[test]
    fn a_head_over_the_limits_is_refused_before_its_end() {
        let line = format!("GET /{}", "1".repeat(1024));
        assert_eq!(read(&line).unwrap_err().status, Status::TARGET_TOO_LONG);
        assert_eq!(read(&format!("{line} HTTP/1.1\r\nX: 1\r\n\r\n")).unwrap_err().status, Status::TARGET_TOO_LONG);
        let long = format!("GET /1/2 HTTP/1.1\r\nX: {}", "1".repeat(1024));
        assert_eq!(read(&long).unwrap_err().status, Status::FIELDS_TOO_LARGE);
        let many = format!("GET /1/2 HTTP/1.1\r\n{}\r\n", "X: 1\r\n".repeat(9));
        assert_eq!(read(&many).unwrap_err().status, Status::FIELDS_TOO_LARGE);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic_and_every_place_lies_within() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let mut head = Head::default();
            if head.read(bytes, 0, LIMITS) == Ok(true) {
                assert!(head.length <= bytes.len());
                assert!(bytes.get(head.target.clone()).is_some() && bytes.get(head.method.clone()).is_some());
                for field in &head.fields {
                    assert!(bytes.get(field.name.clone()).is_some() && bytes.get(field.value.clone()).is_some());
                }
            }
        });
    }
}
