//! What a purge means: one URL, everything below a prefix, a host, a tag, or all. The words of a purge on the wire, and the filter
//! that the store hands back to ask about an object, are the same bytes.
//!
//! Layout: kind 1 (0 all, 1 host, 2 prefix, 3 URL, 4 a long URL, 5 tag), then texts as length 2 and bytes: host | prefix | URL |
//! host, SHA-1 of the URL | tag, host or nothing. URLs and prefixes go without scheme: one page under http and https is one page.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::fmt;

use atoll_overlay::Key;
use http::HeaderMap;

use super::tags;
use crate::meta::Meta;

/// Which answers are meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Selector {
    /// Every one.
    All,
    /// Those of a host; with a port, of that port alone, the scheme's own where a URL names none.
    Host(String),
    /// Those whose URL begins so: `host/directory`, which also means `host/directory/x`, but never `host/directoryx`.
    Prefix(String),
    /// Those to one URL, with all variants.
    Url(String),
    /// The same for a URL too long to be spelled out.
    LongUrl {
        /// Its host.
        host: String,
        /// SHA-1 of the URL.
        hash: Key,
    },
    /// Those that carry a tag.
    Tag {
        /// The tag, byte for byte.
        tag: String,
        /// Only of this host; with a port, of that port alone.
        host: Option<String>,
    },
}

impl Selector {
    /// Bytes of a text at most. A URL above it goes by its hash.
    pub(crate) const TEXT: usize = 300;

    /// One URL, without its scheme.
    pub(crate) fn url(place: &str) -> Self {
        if place.len() <= Self::TEXT {
            return Self::Url(place.to_owned());
        }
        Self::LongUrl { host: host_of(place).to_owned(), hash: Key::of(place.as_bytes()) }
    }

    /// Whether an answer is meant.
    pub(crate) fn means(&self, meta: &Meta) -> bool {
        self.means_answer(&meta.url, &meta.fields)
    }

    /// The same of an answer with this URL and these fields.
    pub(crate) fn means_answer(&self, url: &str, fields: &HeaderMap) -> bool {
        let place = place_of(url);
        match self {
            Self::All => true,
            Self::Host(host) => is_of(host, url),
            Self::Prefix(prefix) => place
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with(['/', '?'])),
            Self::Url(meant) => place == meant,
            Self::LongUrl { hash, .. } => Key::of(place.as_bytes()) == *hash,
            Self::Tag { tag, host } => {
                host.as_ref().is_none_or(|host| is_of(host, url)) && tags::tags_of(fields).contains(tag)
            }
        }
    }

    /// As the store is told.
    pub(crate) fn for_store(&self) -> atoll_store::Selector {
        let tags = |host: Option<&str>, mask| atoll_store::Selector::Tags {
            directory: host.map(|host| crate::cache::directory_of(without_port(host))),
            mask,
            value: mask,
            filter: Some(self.to_bytes().into()),
        };
        match self {
            Self::All => atoll_store::Selector::All,
            Self::Host(host) => tags(Some(host), 0),
            Self::Prefix(prefix) => tags(Some(host_of(prefix)), 0),
            Self::Url(url) => tags(Some(host_of(url)), tags::of_place(url)),
            Self::LongUrl { host, .. } => tags(Some(host), 0),
            Self::Tag { tag, host } => tags(host.as_deref(), tags::of_tag(tag)),
        }
    }

    /// The layout above.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut put = |kind: u8, texts: &[&[u8]]| {
            bytes.push(kind);
            for text in texts {
                bytes.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
                bytes.extend_from_slice(text);
            }
        };
        match self {
            Self::All => put(0, &[]),
            Self::Host(host) => put(1, &[host.as_bytes()]),
            Self::Prefix(prefix) => put(2, &[prefix.as_bytes()]),
            Self::Url(url) => put(3, &[url.as_bytes()]),
            Self::LongUrl { host, hash } => put(4, &[host.as_bytes(), hash.as_bytes()]),
            Self::Tag { tag, host } => put(5, &[tag.as_bytes(), host.as_deref().unwrap_or_default().as_bytes()]),
        }
        bytes
    }

    /// Reads the layout above. `None`: malformed, too long, or of a kind not known here.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, mut rest) = bytes.split_first()?;
        let mut take = || {
            let (length, after) = rest.split_first_chunk::<2>()?;
            let (text, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            rest = after;
            (text.len() <= Self::TEXT).then_some(text)
        };
        let mut text = || String::from_utf8(take()?.to_vec()).ok().filter(|text| !text.is_empty());
        let found = match kind {
            0 => Self::All,
            1 => Self::Host(text()?),
            2 => Self::Prefix(text()?),
            3 => Self::Url(text()?),
            4 => Self::LongUrl { host: text()?, hash: Key::from_bytes(take()?.try_into().ok()?) },
            5 => {
                let tag = text()?;
                let host = String::from_utf8(take()?.to_vec()).ok()?;
                Self::Tag { tag, host: Some(host).filter(|host| !host.is_empty()) }
            }
            _ => return None,
        };
        rest.is_empty().then_some(found)
    }
}

/// As the operator reads it.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("everything"),
            Self::Host(host) => write!(f, "host {host}"),
            Self::Prefix(prefix) => write!(f, "prefix {prefix}"),
            Self::Url(url) => write!(f, "URL {url}"),
            Self::LongUrl { host, hash } => write!(f, "URL {host}/... with hash {hash}"),
            Self::Tag { tag, host: None } => write!(f, "tag {tag}"),
            Self::Tag { tag, host: Some(host) } => write!(f, "tag {tag} of host {host}"),
        }
    }
}

/// A URL without its scheme.
pub(crate) fn place_of(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, place)| place)
}

/// The authority of a URL without scheme.
pub(crate) fn host_of(place: &str) -> &str {
    place.split(['/', '?']).next().unwrap_or_default()
}

fn without_port(authority: &str) -> &str {
    with_port(authority).0
}

fn with_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => (host, Some(port)),
        Some(_) | None => (authority, None),
    }
}

/// Whether a URL is of this host: with a port of that one, which no URL in its one form names if it is its scheme's; else of any.
fn is_of(host: &str, url: &str) -> bool {
    let (host, port) = with_port(host);
    let (name, named) = with_port(host_of(place_of(url)));
    let usual = if url.starts_with("https:") { "443" } else { "80" };
    name == host && port.is_none_or(|port| named.unwrap_or(usual) == port)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use http::StatusCode;

    use super::*;

    fn answer(url: &str, tags: &str) -> Meta {
        Meta {
            url: url.to_owned(),
            status: StatusCode::OK,
            fields: HeaderMap::from_iter([(http::HeaderName::from_static("xkey"), tags.parse().unwrap())]),
            received: SystemTime::UNIX_EPOCH,
            initial_age: Duration::ZERO,
            validator: [0; 16],
            length: None,
            digest: None,
            undigested: false,
            varies_by: Vec::new(),
            variants: Vec::new(),
            vouched: crate::vouch::Vouched::default(),
        }
    }

    fn tag(tag: &str, host: Option<&str>) -> Selector {
        Selector::Tag { tag: tag.to_owned(), host: host.map(str::to_owned) }
    }

    // C10: tag `a` never touches `aa`, nor what a pattern would match.
    #[test]
    fn a_tag_is_met_exactly() {
        let answer = answer("http://a.test/x", "aa b.b A");
        for (selector, meant) in [
            (tag("aa", None), true),
            (tag("a", None), false),
            (tag("aaa", None), false),
            (tag("A", None), true),
            (tag("b.b", None), true),
            (tag("b-b", None), false),
            (tag(".*", None), false),
            (tag("", None), false),
            (tag("aa b.b", None), false),
            (tag("aa", Some("a.test")), true),
            (tag("aa", Some("test")), false),
        ] {
            assert_eq!(selector.means(&answer), meant, "{selector}");
        }
    }

    // C10: two tags whose bits are the same stay two tags.
    #[test]
    fn a_tag_with_the_same_bits_is_another_tag() {
        let bits = tags::of_tag("news");
        let twin =
            (0..).map(|number| format!("t{number}")).find(|other| tags::of_tag(other) & bits == tags::of_tag(other));
        let twin = twin.unwrap();
        let answer = answer("http://a.test/", "news");
        let all = tags::bits("a.test/", &answer.fields).bits();
        assert_eq!(all & tags::of_tag(&twin), tags::of_tag(&twin), "the store asks about it");
        assert!(!tag(&twin, None).means(&answer) && tag("news", None).means(&answer));
    }

    #[test]
    fn hosts_prefixes_and_urls_end_where_they_end() {
        let host = |text: &str| Selector::Host(text.to_owned());
        let prefix = |text: &str| Selector::Prefix(text.to_owned());
        for (selector, url, meant) in [
            (host("a.test"), "http://a.test/x", true),
            (host("a.test"), "https://a.test:8443/", true),
            (host("a.test:8443"), "https://a.test:8443/", true),
            (host("a.test:8443"), "https://a.test/", false),
            (host("a.test:80"), "http://a.test/", true),
            (host("a.test:80"), "https://a.test/", false),
            (host("a.test:80"), "http://a.test:8080/", false),
            (host("a.test:443"), "https://a.test/x", true),
            (host("a.test:443"), "http://a.test/x", false),
            (tag("t", Some("a.test:443")), "https://a.test/x", true),
            (tag("t", Some("a.test:443")), "http://a.test/x", false),
            (host("[2001:db8::1]"), "http://[2001:db8::1]:81/x", true),
            (host("[2001:db8::1]:80"), "http://[2001:db8::1]/x", true),
            (host("a.test"), "http://www.a.test/", false),
            (host("a.test"), "http://a.tests/", false),
            (prefix("a.test/img"), "http://a.test/img", true),
            (prefix("a.test/img"), "http://a.test/img/x.png", true),
            (prefix("a.test/img"), "http://a.test/img?x", true),
            (prefix("a.test/img"), "http://a.test/imgs/x", false),
            (prefix("a.test/img/"), "https://a.test/img/x/y", true),
            (prefix("a.test/img/"), "https://a.test/img", false),
            (Selector::url("a.test/x"), "http://a.test/x", true),
            (Selector::url("a.test/x"), "https://a.test/x", true),
            (Selector::url("a.test/x"), "http://a.test/x?q", false),
            (Selector::url("a.test/x"), "http://a.test/xy", false),
            (Selector::All, "http://b.test/", true),
        ] {
            assert_eq!(selector.means(&answer(url, "t")), meant, "{selector}: {url}");
        }
        let long = format!("a.test/{}", "x".repeat(5_000));
        assert!(Selector::url(&long).means(&answer(&format!("http://{long}"), "")));
        assert!(!Selector::url(&long).means(&answer(&format!("http://{long}y"), "")));
    }

    #[test]
    fn selectors_survive_as_bytes_and_foreign_bytes_are_none() {
        let all = [
            Selector::All,
            Selector::Host("a.test:80".to_owned()),
            Selector::Prefix("a.test/x".to_owned()),
            Selector::url("a.test/"),
            Selector::url(&format!("a.test/{}", "x".repeat(1_000))),
            tag("t", None),
            tag("ü", Some("a.test")),
        ];
        for selector in all {
            assert_eq!(Selector::from_bytes(&selector.to_bytes()), Some(selector));
        }
        assert_eq!(Selector::from_bytes(&[0, 0]), None);
        assert_eq!(Selector::from_bytes(&tag(&"x".repeat(Selector::TEXT + 1), None).to_bytes()), None);
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            if let Some(read) = Selector::from_bytes(bytes) {
                assert_eq!(read.to_bytes(), bytes);
            }
        });
    }
}
