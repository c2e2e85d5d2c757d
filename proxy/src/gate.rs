//! Raw request heads, before any parser: what is refused at the door.
//!
//! The parser behind us is lenient where request smuggling begins (bare LF, a second equal Content-Length, Content-Length beside
//! Transfer-Encoding), so every head is judged here on its bytes (RFC 9112 2.2, 3, 5, 6, 11.2), line by line as it arrives: a bad
//! first line is refused without waiting for the rest. Only whole, good heads go on. On Coralized names GET and HEAD alone pass,
//! and no request with a body, so what follows a head is the next head; own sites get what they are sent, in one framing only.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use http::StatusCode;

use crate::url::Authority;

/// What a head may measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    /// Bytes of the whole.
    pub(crate) head: usize,
    /// Bytes of the request target.
    pub(crate) target: usize,
    /// Number of fields.
    pub(crate) fields: usize,
    /// Bytes of one field.
    pub(crate) field: usize,
}

/// Why a head was refused. Each is answered with its status and `Connection: close`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// A CR or LF that is not part of CRLF, or a control byte.
    #[error("a line does not end in CRLF")]
    LineEnd,
    /// The request line is not `METHOD SP TARGET SP HTTP/x.y`.
    #[error("malformed request line")]
    RequestLine,
    /// A version that is not spoken here.
    #[error("this version of HTTP is not spoken here")]
    Version,
    /// Expect asks for what nobody here knows.
    #[error("the expectation cannot be met")]
    Expectation,
    /// A method that is not known.
    #[error("method not implemented")]
    UnknownMethod,
    /// A known method other than GET and HEAD.
    #[error("only GET and HEAD are served")]
    Method,
    /// A field name or the space around it.
    #[error("malformed field name")]
    FieldName,
    /// A field value with bytes that may not be there.
    #[error("malformed field value")]
    FieldValue,
    /// Content-Length beside Transfer-Encoding, twice, or not a number.
    #[error("contradictory or malformed body framing")]
    Framing,
    /// A transfer coding other than chunked.
    #[error("transfer coding not implemented")]
    Coding,
    /// A body where none is taken.
    #[error("requests with a body are not served")]
    Body,
    /// Host missing, repeated, malformed, or other than the target's.
    #[error("the Host field is missing, repeated, malformed, or contradicts the target")]
    Host,
    /// The target is too long.
    #[error("the request target is too long")]
    TargetTooLong,
    /// The head is too long or has too many fields.
    #[error("the request head is too large")]
    TooLarge,
    /// The head did not arrive in time.
    #[error("the request head did not arrive in time")]
    TooSlow,
}

impl Refusal {
    /// The status it is answered with.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::LineEnd
            | Self::RequestLine
            | Self::FieldName
            | Self::FieldValue
            | Self::Framing
            | Self::Body
            | Self::Host => StatusCode::BAD_REQUEST,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::UnknownMethod | Self::Coding => StatusCode::NOT_IMPLEMENTED,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// Head and body of the answer, ready to be written before the connection closes.
    pub(crate) fn response(self) -> (String, String) {
        let status = self.status();
        let body = format!("{self}\n");
        let allow = if status == StatusCode::METHOD_NOT_ALLOWED { "Allow: GET, HEAD\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {} {}\r\nServer: atoll\r\n{allow}Content-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            status.as_str(),
            status.canonical_reason().unwrap_or("Refused"),
            body.len()
        );
        (head, body)
    }
}

/// A whole, good head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Its bytes.
    pub(crate) head: usize,
    /// What follows it.
    pub(crate) body: Following,
}

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Following {
    /// The next head.
    Head,
    /// A body of so many bytes.
    Length(u64),
    /// A chunked body.
    Chunks,
}

/// Whether a host is an own site, whose origin may be sent every method, and bodies.
pub(crate) type OwnSite = dyn Fn(&Authority) -> bool + Send + Sync;

/// One head under judgement; fed the same growing buffer until it is done.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Bytes of whole lines judged so far.
    judged: usize,
    /// Bytes searched for a line end so far.
    searched: usize,
    head: Head,
}

/// What the lines so far said.
#[derive(Debug, Default)]
struct Head {
    line: bool,
    http10: bool,
    method: Method,
    target: Target,
    fields: usize,
    host: Option<Authority>,
    length: Option<u64>,
    coding: Option<Coding>,
    expectation: bool,
}

/// What Transfer-Encoding says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Chunked,
    Bad(Refusal),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Method {
    #[default]
    Served,
    /// Known, and passed on where a site is.
    Known,
    /// Answered here, to those whom the configuration names.
    Purge,
    /// Served nowhere, as long as nothing says how: what it asks for is in its body, which no key here knows [RFC 10008].
    Query,
    /// Known, and served nowhere: they are about this proxy, not about a resource.
    Never,
    Unknown,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Target {
    #[default]
    Origin,
    Absolute(Authority),
    /// `CONNECT host:port`, `OPTIONS *`: good forms of methods that are not served.
    Other,
}

impl Gate {
    /// Judges what has arrived. `Ok(None)`: more is needed.
    pub(crate) fn judge(&mut self, bytes: &[u8], limits: HeadLimits, own: &OwnSite) -> Result<Option<Passed>, Refusal> {
        loop {
            let fresh = bytes.get(self.searched..).unwrap_or_default();
            let Some(at) = fresh.iter().position(|byte| *byte == b'\n') else {
                self.searched = bytes.len();
                return self.unfinished(bytes, limits);
            };
            let end = self.searched + at;
            if end >= limits.head {
                return Err(if self.head.line { Refusal::TooLarge } else { Refusal::TargetTooLong });
            }
            let line = bytes.get(self.judged..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r").ok_or(Refusal::LineEnd)?;
            if line.contains(&b'\r') || line.contains(&0) {
                return Err(Refusal::LineEnd);
            }
            self.judged = end + 1;
            self.searched = end + 1;
            if line.is_empty() {
                if !self.head.line {
                    return Err(Refusal::RequestLine);
                }
                let body = self.head.verdict(own)?;
                return Ok(Some(Passed { head: self.judged, body }));
            }
            self.head.take(line, limits)?;
        }
    }

    /// A line is still open: refuse what can no longer become good, so that it is not waited for.
    fn unfinished(&self, bytes: &[u8], limits: HeadLimits) -> Result<Option<Passed>, Refusal> {
        let open = bytes.get(self.judged..).unwrap_or_default();
        if !self.head.line && open.len() > limits.target + REQUEST_LINE_REST {
            return Err(Refusal::TargetTooLong);
        }
        if bytes.len() >= limits.head {
            return Err(Refusal::TooLarge);
        }
        let inner = open.strip_suffix(b"\r").unwrap_or(open);
        if inner.contains(&b'\r') || inner.contains(&0) {
            return Err(Refusal::LineEnd);
        }
        Ok(None)
    }
}

impl Head {
    fn take(&mut self, line: &[u8], limits: HeadLimits) -> Result<(), Refusal> {
        if self.line {
            self.fields += 1;
            if self.fields > limits.fields || line.len() > limits.field {
                return Err(Refusal::TooLarge);
            }
            return self.field(line);
        }
        self.line = true;
        self.request_line(line, limits)
    }

    /// RFC 9112 3: exactly one space between three parts.
    fn request_line(&mut self, line: &[u8], limits: HeadLimits) -> Result<(), Refusal> {
        let line = std::str::from_utf8(line).map_err(|_| Refusal::RequestLine)?;
        let mut parts = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::RequestLine);
        };
        if method.is_empty() || !method.bytes().all(is_token) || target.is_empty() {
            return Err(Refusal::RequestLine);
        }
        if target.len() > limits.target {
            return Err(Refusal::TargetTooLong);
        }
        // The preface of HTTP/2 names itself; everything else must look like a version first.
        self.http10 = match version.strip_prefix("HTTP/").map(str::as_bytes) {
            Some(b"1.1") => false,
            Some(b"1.0") => true,
            Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit() => {
                return Err(Refusal::Version);
            }
            Some(_) | None => return Err(Refusal::RequestLine),
        };
        self.method = Self::method(method);
        self.target = Self::target(method, target)?;
        Ok(())
    }

    fn method(method: &str) -> Method {
        match method {
            "GET" | "HEAD" => Method::Served,
            "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS" => Method::Known,
            "PURGE" => Method::Purge,
            "TRACE" | "CONNECT" | "PRI" => Method::Never,
            "QUERY" => Method::Query,
            _ => Method::Unknown,
        }
    }

    /// RFC 9112 3.2: the form must fit the method.
    fn target(method: &str, target: &str) -> Result<Target, Refusal> {
        if !target.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b'#') {
            return Err(Refusal::RequestLine);
        }
        if method == "CONNECT" {
            return Authority::parse(target).map(|_| Target::Other).map_err(|_| Refusal::RequestLine);
        }
        if target.starts_with('/') {
            return if is_parsed(target) { Ok(Target::Origin) } else { Err(Refusal::RequestLine) };
        }
        if target == "*" && method == "OPTIONS" {
            return Ok(Target::Other);
        }
        // Only http: a client that speaks cleartext cannot mean https here.
        let rest = match target.split_at_checked("http://".len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http://") => rest,
            Some(_) | None => return Err(Refusal::RequestLine),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, after) = rest.split_at_checked(end).unwrap_or_default();
        if !after.is_empty() && !is_parsed(after) {
            return Err(Refusal::RequestLine);
        }
        Authority::parse(authority).map(Target::Absolute).map_err(|_| Refusal::Host)
    }

    /// RFC 9112 5: no space before the colon, no folding, no byte that may not be there.
    fn field(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Refusal::FieldName)?;
        let (name, value) = line.split_at_checked(colon).ok_or(Refusal::FieldName)?;
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.is_empty() || !name.iter().copied().all(is_token) || is_disguised(name) {
            return Err(Refusal::FieldName);
        }
        // The grammar lets bytes over 0x7f through as opaque; what they mean differs per server, so none pass but in entity tags,
        // which are compared and never read [RFC 9110 8.8.3].
        let tag =
            [b"if-none-match".as_slice(), b"if-match", b"if-range"].iter().any(|it| name.eq_ignore_ascii_case(it));
        if !value.iter().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e) || tag && *byte >= 0x80) {
            return Err(Refusal::FieldValue);
        }
        if name.eq_ignore_ascii_case(b"host") {
            let text = std::str::from_utf8(value).map_err(|_| Refusal::Host)?;
            if self.host.replace(Authority::parse(text).map_err(|_| Refusal::Host)?).is_some() {
                return Err(Refusal::Host);
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|digits| digits.parse().ok());
            if self.length.replace(length.ok_or(Refusal::Framing)?).is_some() {
                return Err(Refusal::Framing);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let token = !value.is_empty() && value.iter().copied().all(is_token);
            self.coding = Some(match self.coding {
                None if value.eq_ignore_ascii_case(b"chunked") => Coding::Chunked,
                None if token => Coding::Bad(Refusal::Coding),
                None | Some(_) => Coding::Bad(Refusal::Framing),
            });
        } else if name.eq_ignore_ascii_case(b"expect") && !value.eq_ignore_ascii_case(b"100-continue") {
            self.expectation = true;
        }
        Ok(())
    }

    /// The head is whole: what only all of it can say. Framing first, because a wrong guess there costs most.
    fn verdict(&self, own: &OwnSite) -> Result<Following, Refusal> {
        let site = self.authority().is_some_and(own);
        let open = site && !matches!(self.method, Method::Never | Method::Purge | Method::Query);
        // A body in a GET has no meaning [RFC 9110 9.3.1], and two readers of one stream would have to agree on that.
        let bodies = open && self.method != Method::Served;
        let body = match (self.coding, self.length) {
            (Some(_), Some(_)) => return Err(Refusal::Framing),
            (Some(_), None) if self.http10 => return Err(Refusal::Framing),
            (Some(Coding::Bad(refusal)), None) => return Err(refusal),
            (Some(Coding::Chunked), None) if bodies => Following::Chunks,
            (Some(Coding::Chunked), None) => return Err(Refusal::Framing),
            (None, Some(length @ 1..)) => Following::Length(length),
            (None, Some(0) | None) => Following::Head,
        };
        match self.method {
            Method::Served | Method::Purge => {}
            Method::Known | Method::Unknown if open => {}
            Method::Known | Method::Never => return Err(Refusal::Method),
            Method::Unknown | Method::Query => return Err(Refusal::UnknownMethod),
        }
        if body != Following::Head && !bodies {
            return Err(Refusal::Body);
        }
        match (&self.target, &self.host) {
            (Target::Other, _) => return Err(Refusal::RequestLine),
            (Target::Absolute(_), None) if self.http10 => {}
            (Target::Origin | Target::Absolute(_), None) => return Err(Refusal::Host),
            // ":80" and nothing are one authority.
            (Target::Absolute(target), Some(host)) => {
                let same = target.host() == host.host() && target.port().unwrap_or(80) == host.port().unwrap_or(80);
                if !same {
                    return Err(Refusal::Host);
                }
            }
            (Target::Origin, Some(_)) => {}
        }
        if self.expectation { Err(Refusal::Expectation) } else { Ok(body) }
    }

    /// Whom the request is for.
    fn authority(&self) -> Option<&Authority> {
        match &self.target {
            Target::Absolute(authority) => Some(authority),
            Target::Origin | Target::Other => self.host.as_ref(),
        }
    }
}

/// The gate's rules for a head that HTTP/2's parser has read: what it lets pass of what no HTTP/1 head may say [bad-inputs H18].
pub(crate) fn judge_parsed<B: http_body::Body>(
    request: &http::Request<B>,
    limits: HeadLimits,
    own: &OwnSite,
) -> Result<(), Refusal> {
    let target = request.uri().path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    if target.len() > limits.target {
        return Err(Refusal::TargetTooLong);
    }
    if request.headers().len() > limits.fields {
        return Err(Refusal::TooLarge);
    }
    let authority = request.uri().authority().ok_or(Refusal::Host)?;
    let authority = Authority::parse(authority.as_str()).map_err(|_| Refusal::Host)?;
    let mut head = Head { target: Target::Absolute(authority), ..Head::default() };
    head.method = Head::method(request.method().as_str());
    if !target.starts_with('/') || Head::target(request.method().as_str(), target).is_err() {
        return Err(Refusal::RequestLine);
    }
    for (name, value) in request.headers() {
        if value.as_bytes() != value.as_bytes().trim_ascii() {
            return Err(Refusal::FieldValue);
        }
        let line = [name.as_str().as_bytes(), b":", value.as_bytes()].concat();
        if line.len() > limits.field {
            return Err(Refusal::TooLarge);
        }
        head.field(&line)?;
    }
    if head.host.is_none() {
        head.host = head.authority().cloned();
    }
    let body = head.verdict(own)?;
    // Without a length, only the stream says whether there is a body.
    if body == Following::Head && head.length.is_none() && !request.body().is_end_stream() {
        let takes = head.authority().is_some_and(own) && head.method != Method::Served;
        return if takes { Ok(()) } else { Err(Refusal::Body) };
    }
    Ok(())
}

/// Whether the parser behind takes a path and query, so that what it would refuse is refused here, where refusals are counted.
fn is_parsed(target: &str) -> bool {
    http::uri::PathAndQuery::try_from(target).is_ok()
}

/// A name that some servers read as one that says where a body ends, since to them `_` is `-` [bad-inputs H03].
fn is_disguised(name: &[u8]) -> bool {
    let plain = || name.iter().map(|byte| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() });
    name.contains(&b'_') && (plain().eq(*b"transfer-encoding") || plain().eq(*b"content-length"))
}

/// RFC 9110 5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// Bytes of a request line beside its target, with some room for long methods.
const REQUEST_LINE_REST: usize = 64;

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
