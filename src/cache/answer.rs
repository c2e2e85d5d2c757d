//! Response heads, written into a buffer that its connection keeps: statuses, the date, the one-line answers.

use std::{
    cell::RefCell,
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A status and its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    /// The three digits.
    pub(super) code: u16,
    reason: &'static str,
}

impl Status {
    pub(super) const CONTINUE: Self = Self::of(100, "Continue");
    pub(super) const OK: Self = Self::of(200, "OK");
    pub(super) const CREATED: Self = Self::of(201, "Created");
    pub(super) const ACCEPTED: Self = Self::of(202, "Accepted");
    pub(super) const NO_CONTENT: Self = Self::of(204, "No Content");
    pub(super) const PARTIAL: Self = Self::of(206, "Partial Content");
    pub(super) const NOT_MODIFIED: Self = Self::of(304, "Not Modified");
    pub(super) const BAD_REQUEST: Self = Self::of(400, "Bad Request");
    pub(super) const NOT_FOUND: Self = Self::of(404, "Not Found");
    pub(super) const METHOD_NOT_ALLOWED: Self = Self::of(405, "Method Not Allowed");
    pub(super) const TIMEOUT: Self = Self::of(408, "Request Timeout");
    pub(super) const LENGTH_REQUIRED: Self = Self::of(411, "Length Required");
    pub(super) const PRECONDITION_FAILED: Self = Self::of(412, "Precondition Failed");
    pub(super) const TOO_LARGE: Self = Self::of(413, "Content Too Large");
    pub(super) const TARGET_TOO_LONG: Self = Self::of(414, "URI Too Long");
    pub(super) const RANGE: Self = Self::of(416, "Range Not Satisfiable");
    pub(super) const EXPECTATION_FAILED: Self = Self::of(417, "Expectation Failed");
    pub(super) const FIELDS_TOO_LARGE: Self = Self::of(431, "Request Header Fields Too Large");
    pub(super) const VERSION_NOT_SUPPORTED: Self = Self::of(505, "HTTP Version Not Supported");
    pub(super) const INSUFFICIENT_STORAGE: Self = Self::of(507, "Insufficient Storage");

    const fn of(code: u16, reason: &'static str) -> Self {
        Self { code, reason }
    }
}

/// A response head under construction.
#[derive(Debug, Default)]
pub(super) struct Out {
    bytes: Vec<u8>,
}

impl Out {
    /// Begins a head: the status line and the date.
    pub(super) fn begin(&mut self, status: Status, now: SystemTime) -> &mut Self {
        self.bytes.clear();
        self.text("HTTP/1.1 ").number(u64::from(status.code)).text(" ").text(status.reason).text("\r\nDate: ");
        push_date(&mut self.bytes, now);
        self.text("\r\n")
    }

    /// Adds text as it is.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.raw(text.as_bytes())
    }

    /// Adds bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Adds a number in decimal digits.
    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        push_number(&mut self.bytes, number);
        self
    }

    /// Adds a field with a number.
    pub(super) fn field(&mut self, name: &str, value: u64) -> &mut Self {
        self.text(name).text(": ").number(value).text("\r\n")
    }

    /// Ends the head, saying whether the connection goes on: HTTP/1.0 needs to be told that it does, HTTP/1.1 that it does not.
    pub(super) fn end(&mut self, old: bool, keep_alive: bool) {
        if !keep_alive {
            self.text("Connection: close\r\n");
        } else if old {
            self.text("Connection: keep-alive\r\n");
        }
        self.text("\r\n");
    }

    /// What there is to be sent.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Interim answer: the client may send its body.
    pub(super) fn go_on(&mut self) {
        self.bytes.clear();
        self.text("HTTP/1.1 ").number(u64::from(Status::CONTINUE.code)).text(" Continue\r\n\r\n");
    }

    /// Gives back what a long header block made it grow to.
    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to(KEPT);
    }
}

/// An answer of one line, or of none at all.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) status: Status,
    /// Without its newline; empty for an answer that has no body.
    pub(super) line: String,
    /// Further fields, each with its CRLF.
    pub(super) fields: String,
}

impl Told {
    /// A line of text.
    pub(super) fn new(status: Status, line: impl Into<String>) -> Self {
        Self { status, line: line.into(), fields: String::new() }
    }

    /// With a field more.
    pub(super) fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        // Writing to a string does not fail.
        let _ = write!(self.fields, "{name}: {value}\r\n");
        self
    }

    /// Writes the whole answer; `head_only` leaves the line out but for its length.
    pub(super) fn write(&self, out: &mut Out, now: SystemTime, old: bool, keep_alive: bool, head_only: bool) {
        out.begin(self.status, now).text(&self.fields);
        if self.status == Status::METHOD_NOT_ALLOWED {
            out.text("Allow: GET, HEAD, PUT, POST, DELETE, DEL\r\n");
        }
        if self.status != Status::NO_CONTENT {
            let kind = if self.line.starts_with('{') { "application/json" } else { "text/plain; charset=utf-8" };
            out.text("Content-Type: ").text(kind).text("\r\nCache-Control: no-store\r\n");
            out.field("Content-Length", self.line.len() as u64 + 1);
        }
        out.end(old, keep_alive);
        if self.status != Status::NO_CONTENT && !head_only {
            out.text(&self.line).text("\n");
        }
    }
}

/// Adds a number in decimal digits.
pub(super) fn push_number(bytes: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut left = number;
    let mut at = digits.len();
    while at == digits.len() || left > 0 {
        at -= 1;
        digits[at] = b'0' + u8::try_from(left % 10).unwrap_or_default();
        left /= 10;
    }
    bytes.extend_from_slice(&digits[at..]);
}

/// Whole seconds since 1970.
pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A date as HTTP writes it [RFC 9110 5.6.7].
pub(super) fn http_date(unix_seconds: u64) -> String {
    // The last date that can be written so, for a clock that is far off.
    let last = 253_402_300_799;
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix_seconds.min(last)))
}

fn push_date(bytes: &mut Vec<u8>, now: SystemTime) {
    thread_local! {
        /// The second that was written last, and how.
        static DATE: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let second = unix_seconds(now);
    DATE.with_borrow_mut(|(known, text)| {
        if *known != second {
            *known = second;
            *text = http_date(second);
        }
        bytes.extend_from_slice(text.as_bytes());
    });
}

/// Bytes of buffer that an idle connection keeps.
const KEPT: usize = 2_048;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn a_line_is_told_whole_by_its_length_alone_to_head_and_not_at_all_without_content() {
        let mut out = Out::default();
        Told::new(Status::NOT_FOUND, "no such object").write(&mut out, at(784_111_777), false, true, false);
        let text = "HTTP/1.1 404 Not Found\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/plain; charset=utf-8\r\n\
                    Cache-Control: no-store\r\nContent-Length: 15\r\n\r\nno such object\n";
        assert_eq!(String::from_utf8_lossy(out.bytes()), text);
        Told::new(Status::NOT_FOUND, "no such object").write(&mut out, at(784_111_777), true, true, true);
        let head = text.replace("\r\n\r\nno such object\n", "\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(String::from_utf8_lossy(out.bytes()), head);
        Told::new(Status::NO_CONTENT, "").write(&mut out, at(784_111_778), false, false, false);
        let text = "HTTP/1.1 204 No Content\r\nDate: Sun, 06 Nov 1994 08:49:38 GMT\r\nConnection: close\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(out.bytes()), text);
    }

    #[test]
    fn numbers_are_written_as_format_does() {
        for number in [0, 7, 10, 65_535, u64::MAX] {
            let mut out = Out::default();
            out.number(number);
            assert_eq!(out.bytes(), number.to_string().as_bytes());
        }
    }
}
