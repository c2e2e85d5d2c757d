//! The plain request: GET of a path by HTTP/1.1, with fields that change nothing about an answer that does not vary, or varies by
//! content coding alone. Whatever is taken here the gate would let pass, byte for byte (a test holds them against each other);
//! everything else is left to the gate, and so this may refuse as much as it likes.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use crate::{ahead::PlainRequest, gate::HeadLimits};

/// One plain request, out of the bytes it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plain<'b> {
    /// Path and query.
    pub(crate) target: &'b str,
    /// The value of Host.
    pub(crate) host: &'b str,
    /// The value of Accept-Encoding.
    pub(crate) codings: &'b str,
    /// The value of User-Agent, for the log.
    pub(crate) agent: Option<&'b str>,
    /// The value of Referer, for the log.
    pub(crate) referer: Option<&'b str>,
    /// Bytes of the head.
    pub(crate) length: usize,
}

impl<'b> Plain<'b> {
    /// What of it concerns a front.
    pub(crate) const fn for_front(&self) -> PlainRequest<'b> {
        PlainRequest { target: self.target, agent: self.agent }
    }

    /// Reads the head that these bytes begin with. `None`: it is not plain, or not whole.
    pub(crate) fn read(bytes: &'b [u8], limits: HeadLimits) -> Option<Self> {
        // Looked for only where a head may have ended, so that one that drips in is not read again for each byte.
        if !bytes.ends_with(b"\r\n\r\n") || bytes.len() >= limits.head {
            return None;
        }
        let mut rest = bytes.strip_prefix(b"GET ")?;
        let end = rest.iter().position(|byte| *byte == b' ')?;
        let (target, after) = rest.split_at_checked(end)?;
        let good =
            target.first() == Some(&b'/') && target.len() <= limits.target && target.iter().all(|byte| is_path(*byte));
        rest = after.strip_prefix(b" HTTP/1.1\r\n").filter(|_| good)?;
        let (mut host, mut codings, mut agent, mut referer) = (None, None, None, None);
        let mut fields = 0;
        loop {
            let end = rest.iter().position(|byte| *byte == b'\r')?;
            let (line, after) = rest.split_at_checked(end)?;
            rest = after.strip_prefix(b"\r\n")?;
            if line.is_empty() {
                break;
            }
            if line.len() > limits.field {
                return None;
            }
            fields += 1;
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (name, value) = line.split_at_checked(colon)?;
            let value = value.get(1..)?;
            if !value.iter().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e)) {
                return None;
            }
            let value = value.trim_ascii();
            match Field::of(name)? {
                Field::Host if host.replace(value).is_none() => {}
                Field::Codings if codings.replace(value).is_none() => {}
                Field::Connection if value.eq_ignore_ascii_case(b"keep-alive") => {}
                Field::Agent => agent = agent.or(Some(value)),
                Field::Referer => referer = referer.or(Some(value)),
                Field::Idle => {}
                Field::Host | Field::Codings | Field::Connection => return None,
            }
        }
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let plain = Self {
            target: text(target)?,
            host: text(host?)?,
            codings: text(codings.unwrap_or_default())?,
            agent: agent.and_then(text),
            referer: referer.and_then(text),
            length: bytes.len() - rest.len(),
        };
        (fields <= limits.fields).then_some(plain)
    }
}

/// What a field is to us.
#[derive(Clone, Copy)]
enum Field {
    Host,
    Codings,
    Connection,
    Agent,
    Referer,
    /// It changes nothing.
    Idle,
}

impl Field {
    /// `None`: nobody here knows that it changes nothing.
    fn of(name: &[u8]) -> Option<Self> {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        // By length first: most fields of most clients are decided by one comparison.
        let idle = match name.len() {
            4 if is(b"host") => return Some(Self::Host),
            15 if is(b"accept-encoding") => return Some(Self::Codings),
            10 if is(b"connection") => return Some(Self::Connection),
            10 if is(b"user-agent") => return Some(Self::Agent),
            7 if is(b"referer") => return Some(Self::Referer),
            3 => is(b"dnt"),
            6 => is(b"accept") || is(b"cookie") || is(b"origin"),
            8 => is(b"priority"),
            9 => is(b"sec-ch-ua"),
            14 => is(b"sec-fetch-dest") || is(b"sec-fetch-mode") || is(b"sec-fetch-site") || is(b"sec-fetch-user"),
            15 => is(b"accept-language"),
            16 => is(b"sec-ch-ua-mobile"),
            18 => is(b"sec-ch-ua-platform"),
            25 => is(b"upgrade-insecure-requests"),
            _ => false,
        };
        idle.then_some(Self::Idle)
    }
}

/// What the gate lets into any part of a target.
const fn is_path(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x24..=0x3b | 0x3d | 0x3f..=0x5f | 0x61..=0x7e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gate::{Following, Gate, Passed},
        url::Authority,
    };

    const LIMITS: HeadLimits = HeadLimits { head: 1_024, target: 64, fields: 8, field: 256 };

    fn read(bytes: &[u8]) -> Option<Plain<'_>> {
        Plain::read(bytes, LIMITS)
    }

    /// Whatever is plain passes the gate, as the same bytes.
    fn held_against_the_gate(bytes: &[u8]) {
        let Some(plain) = read(bytes) else { return };
        // Whether the host is one is asked of the whole path when a connection first names it.
        if Authority::parse(plain.host).is_err() {
            return;
        }
        let judged = Gate::default().judge(bytes, LIMITS, &|_| false);
        assert_eq!(judged, Ok(Some(Passed { head: plain.length, body: Following::Head })), "{}", bytes.escape_ascii());
    }

    #[test]
    fn what_clients_usually_send_is_plain() {
        let head =
            b"GET /a?b HTTP/1.1\r\nHost: a.test\r\nUser-Agent: x (y)\r\nAccept: */*\r\naccept-encoding: gzip, br\r\n\
                     Connection: keep-alive\r\nSec-Fetch-Mode: cors\r\n\r\n";
        let length = head.len();
        let (agent, referer) = (Some("x (y)"), None);
        let plain = Plain { target: "/a?b", host: "a.test", codings: "gzip, br", agent, referer, length };
        assert_eq!(read(head), Some(plain));
        let two = [&head[..], b"GET / HTTP/1.1\r\nHost: b\r\n\r\n"].concat();
        assert_eq!(read(&two).map(|plain| plain.length), Some(length), "of several the first");
        held_against_the_gate(head);
        held_against_the_gate(&two);
    }

    #[test]
    fn all_that_may_mean_more_is_not() {
        for line in [
            "Range: bytes=0-1",
            "If-None-Match: \"a\"",
            "Cache-Control: no-cache",
            "Pragma: no-cache",
            "Authorization: x",
            "Content-Length: 0",
            "Transfer-Encoding: chunked",
            "Connection: close",
            "Connection: keep-alive, host",
            "Expect: 100-continue",
            "Upgrade: h2c",
            "CDN-Loop: x",
            "X-Anything: x",
            "Host: b.test",
            "Accept : x",
            " Accept: x",
            "Accept: \u{e9}",
            "Accept: a\nb",
            "Accept",
        ] {
            assert_eq!(read(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{line}\r\n\r\n").as_bytes()), None, "{line}");
        }
        for head in [
            "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n",
            "GET / HTTP/1.1\nHost: a\n\n",
        ] {
            assert_eq!(read(head.as_bytes()), None, "{head}");
        }
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(64));
        assert_eq!(read(long.as_bytes()), None);
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "Accept: x\r\n".repeat(8));
        assert_eq!(read(many.as_bytes()), None);
    }

    #[test]
    fn whatever_is_plain_passes_the_gate() {
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| held_against_the_gate(bytes));
        // Good heads with one byte put in the place of another, which bytes drawn at random never come to.
        let head = b"GET /a HTTP/1.1\r\nHost: a.test\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n";
        for at in 0..head.len() {
            for byte in 0..=255 {
                let mut other = head.to_vec();
                other[at] = byte;
                held_against_the_gate(&other);
            }
        }
    }
}
