//! What is kept with an object beside its body: its validators, and the header lines that came with its PUT and go out with it.
//!
//! ```text
//! 0 1 version (1) | 1 1 bytes of ETag | 2 4 bytes of the first block | 6 8 Last-Modified, seconds since 1970
//! 14 ETag | first block: lines that also a 304 carries | second block: the others
//! ```
//!
//! Numbers are little-endian. Lines end in CRLF, as they are sent. Of a PUT's fields all go out again (Hornet's rule) but those
//! that speak of the PUT itself or of its connection, those that are private to one client, and those that are made here.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::time::SystemTime;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{
    answer::{http_date, unix_seconds},
    head::{Head, is},
};

/// An object's metadata, read where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta<'m> {
    /// With its quotes, and `W/` if it is weak.
    pub(super) etag: &'m [u8],
    /// Seconds since 1970.
    pub(super) modified: u64,
    /// Lines that a 200, a 206 and a 304 carry: validators and what governs caching.
    pub(super) validators: &'m [u8],
    /// Lines that only an answer with a body carries.
    pub(super) others: &'m [u8],
}

impl<'m> Meta<'m> {
    /// Reads what [`Draft::finish`] made; none for anything else.
    pub(super) fn read(bytes: &'m [u8]) -> Option<Self> {
        let (front, rest) = bytes.split_first_chunk::<FRONT>()?;
        let [VERSION, etag_length, l0, l1, l2, l3, modified @ ..] = front else { return None };
        let (etag, rest) = rest.split_at_checked(usize::from(*etag_length))?;
        let block = usize::try_from(u32::from_le_bytes([*l0, *l1, *l2, *l3])).ok()?;
        let (validators, others) = rest.split_at_checked(block)?;
        Some(Self { etag, modified: u64::from_le_bytes(*modified), validators, others })
    }
}

/// Metadata of an object whose body is still to come.
#[derive(Debug)]
pub(super) struct Draft {
    etag: Option<Vec<u8>>,
    modified: u64,
    validators: Vec<u8>,
    others: Vec<u8>,
}

impl Draft {
    /// Keeps what a PUT's head says of its object. `dropped` are further names to leave out, in lower case.
    pub(super) fn of(head: &Head, bytes: &[u8], dropped: &[String], now: SystemTime) -> Self {
        let mut draft = Self { etag: None, modified: unix_seconds(now), validators: Vec::new(), others: Vec::new() };
        for field in &head.fields {
            let (Some(name), Some(value)) = (bytes.get(field.name.clone()), bytes.get(field.value.clone())) else {
                continue;
            };
            if name.eq_ignore_ascii_case(b"etag") {
                draft.etag = is_etag(value).then(|| value.to_vec());
            } else if name.eq_ignore_ascii_case(b"last-modified") {
                let date = std::str::from_utf8(value).ok().and_then(|text| httpdate::parse_http_date(text).ok());
                draft.modified = date.map_or(draft.modified, unix_seconds);
            } else if !is_dropped(name, dropped) && !is_of_the_connection(head, bytes, name) {
                let governs = GOVERNING.iter().any(|word| is(bytes, &field.name, word));
                let block = if governs { &mut draft.validators } else { &mut draft.others };
                for part in [name, b": ", value, b"\r\n"] {
                    block.extend_from_slice(part);
                }
            }
        }
        draft
    }

    /// Whether the PUT named no entity tag, so that one is to be made of the body.
    pub(super) fn needs_etag(&self) -> bool {
        self.etag.is_none()
    }

    /// The metadata, with this entity tag if the PUT named none.
    pub(super) fn finish(self, digest: &str) -> Bytes {
        let etag = self.etag.unwrap_or_else(|| format!("\"{digest}\"").into_bytes());
        let mut block = Vec::with_capacity(self.validators.len() + 128);
        for part in [&b"ETag: "[..], &etag, b"\r\nLast-Modified: ", http_date(self.modified).as_bytes(), b"\r\n"] {
            block.extend_from_slice(part);
        }
        block.extend_from_slice(&self.validators);
        let mut bytes = BytesMut::with_capacity(FRONT + etag.len() + block.len() + self.others.len());
        bytes.put_u8(VERSION);
        bytes.put_u8(u8::try_from(etag.len()).unwrap_or_default());
        bytes.put_u32_le(u32::try_from(block.len()).unwrap_or_default());
        bytes.put_u64_le(self.modified);
        bytes.put_slice(&etag);
        bytes.put_slice(&block);
        bytes.put_slice(&self.others);
        bytes.freeze()
    }
}

/// `"..."` or `W/"..."` of bytes that may stand there [RFC 9110 8.8.3], not long.
fn is_etag(value: &[u8]) -> bool {
    let opaque = value.strip_prefix(b"W/").unwrap_or(value);
    let inner = opaque.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    value.len() <= ETAG_LIMIT && inner.is_some_and(|inner| inner.iter().all(|byte| *byte > b' ' && *byte != b'"'))
}

fn is_dropped(name: &[u8], dropped: &[String]) -> bool {
    let same = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
    let begins = |word: &str| name.get(..word.len()).is_some_and(|front| front.eq_ignore_ascii_case(word.as_bytes()));
    DROPPED.iter().any(|word| same(word))
        || BEGINNINGS.iter().any(|word| begins(word))
        || dropped.iter().any(|it| same(it))
}

/// Whether the Connection field says that this one is between client and server only [RFC 9110 7.6.1].
fn is_of_the_connection(head: &Head, bytes: &[u8], name: &[u8]) -> bool {
    let listed =
        |value: &[u8]| value.split(|byte| *byte == b',').any(|word| word.trim_ascii().eq_ignore_ascii_case(name));
    let mut connection = head.fields.iter().filter(|field| is(bytes, &field.name, "connection"));
    connection.any(|field| bytes.get(field.value.clone()).is_some_and(listed))
}

const VERSION: u8 = 1;
const FRONT: usize = 14;
const ETAG_LIMIT: usize = 128;

/// Fields that a 304 carries too [RFC 9110 15.4.5].
const GOVERNING: [&str; 5] = ["cache-control", "content-location", "expires", "vary", "cdn-cache-control"];

/// Fields of a PUT that never go out with its object.
const DROPPED: [&str; 38] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "authorization",
    "cache-status",
    "cdn-loop",
    "connection",
    "content-length",
    "content-range",
    "cookie",
    "cookie2",
    "date",
    "dnt",
    "expect",
    "forwarded",
    "from",
    "host",
    "keep-alive",
    "max-forwards",
    "origin",
    "priority",
    "range",
    "referer",
    "server",
    "set-cookie",
    "set-cookie2",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-real-ip",
];

/// ... and those that begin so.
const BEGINNINGS: [&str; 7] = ["access-control-request-", "atoll-", "if-", "proxy-", "sec-", "want-", "x-forwarded-"];

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::cache::head::HeadLimits;

    fn finished(fields: &str) -> Bytes {
        let text = format!("PUT /1/2 HTTP/1.1\r\n{fields}\r\n");
        let mut head = Head::default();
        assert!(head.read(text.as_bytes(), 0, HeadLimits { bytes: 4096, fields: 64 }).unwrap());
        let draft = Draft::of(&head, text.as_bytes(), &["client-ext".to_owned()], UNIX_EPOCH + Duration::from_secs(10));
        draft.finish("abc")
    }

    #[test]
    fn what_describes_the_object_is_kept_and_what_describes_the_put_is_not() {
        let bytes = finished(
            "Host: a\r\nContent-Type: image/png\r\nX-Mine: 1\r\nContent-Length: 3\r\nCache-Control: max-age=5\r\n\
             Client-Ext: http://x\r\nCookie: secret\r\nSet-Cookie: secret\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
             X-Forwarded-For: 192.0.2.1\r\nIf-None-Match: *\r\nAtoll-Cache: forged\r\n",
        );
        let meta = Meta::read(&bytes).unwrap();
        assert_eq!((meta.etag, meta.modified), (&b"\"abc\""[..], 10));
        let validators =
            "ETag: \"abc\"\r\nLast-Modified: Thu, 01 Jan 1970 00:00:10 GMT\r\nCache-Control: max-age=5\r\n";
        assert_eq!(String::from_utf8_lossy(meta.validators), validators);
        assert_eq!(String::from_utf8_lossy(meta.others), "Content-Type: image/png\r\nX-Mine: 1\r\n");
    }

    #[test]
    fn validators_of_the_put_are_used_if_they_are_well_formed() {
        let bytes = finished("ETag: W/\"v 1\"\r\nLast-Modified: yesterday\r\n");
        assert_eq!(Meta::read(&bytes).map(|meta| (meta.etag, meta.modified)), Some((&b"\"abc\""[..], 10)));
        let bytes = finished("ETag: W/\"v1\"\r\nLast-Modified: Thu, 01 Jan 1970 00:00:05 GMT\r\n");
        assert_eq!(Meta::read(&bytes).map(|meta| (meta.etag, meta.modified)), Some((&b"W/\"v1\""[..], 5)));
    }

    #[test]
    fn any_bytes_are_metadata_or_are_not_without_a_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Some(meta) = Meta::read(bytes) {
                assert_eq!(FRONT + meta.etag.len() + meta.validators.len() + meta.others.len(), bytes.len());
            }
        });
    }
}
