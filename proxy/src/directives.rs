//! Cache-Control fields as values (RFC 9111 5.2), tolerant as that section asks: unknown directives are skipped, a delta that
//! overflows is the largest, one that is no number makes its directive mean the strictest. Targeted fields (RFC 9213) say the same
//! in a strict form of their own.

use std::{borrow::Cow, time::Duration};

use http::{HeaderMap, header::HeaderName};

use crate::structured::{Item, dictionary};

/// What a response says of its caching.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Directives {
    /// Stored nowhere.
    pub(crate) no_store: bool,
    /// Revalidated before every use.
    pub(crate) no_cache: bool,
    /// These fields are not sent on from a stored answer.
    pub(crate) no_cache_fields: Vec<HeaderName>,
    /// For one user only.
    pub(crate) private: bool,
    /// These fields are for one user only.
    pub(crate) private_fields: Vec<HeaderName>,
    /// For everyone, even where the request was authorised.
    pub(crate) public: bool,
    /// Never used stale.
    pub(crate) must_revalidate: bool,
    /// Never used stale by a shared cache.
    pub(crate) proxy_revalidate: bool,
    /// Freshness.
    pub(crate) max_age: Option<Duration>,
    /// Freshness in a shared cache.
    pub(crate) s_maxage: Option<Duration>,
    /// May be used stale so long while it is revalidated [RFC 5861 3].
    pub(crate) stale_while_revalidate: Option<Duration>,
    /// May be used stale so long while the origin fails [RFC 5861 4].
    pub(crate) stale_if_error: Option<Duration>,
    /// Stored only where the status is understood.
    pub(crate) must_understand: bool,
}

impl Directives {
    /// Reads all Cache-Control fields; several are one list.
    pub(crate) fn of(headers: &HeaderMap, name: &HeaderName) -> Self {
        let mut found = Self::default();
        for value in headers.get_all(name) {
            found.take(value.as_bytes());
        }
        found
    }

    /// Reads a targeted field [RFC 9213 2.1]. `None`: absent, empty or malformed, and so to be ignored.
    pub(crate) fn targeted(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let mut text = Vec::new();
        for value in headers.get_all(name) {
            if !text.is_empty() {
                text.extend_from_slice(b", ");
            }
            text.extend_from_slice(value.as_bytes());
        }
        let mut found = Self::default();
        for (key, item) in dictionary(&text)? {
            let argument = match item {
                Item::Boolean(false) => continue,
                Item::Boolean(true) => None,
                // Below zero, and what is no number, means none at all.
                Item::Integer(number) => Some(number.to_string()),
                Item::Text(text) if matches!(&*key, "no-cache" | "private") => Some(text),
                Item::Text(_) | Item::Bytes(_) | Item::Other => Some(String::new()),
            };
            found.directive(key.as_bytes(), argument.as_deref().map(str::as_bytes));
        }
        Some(found)
    }

    /// Reads one field value.
    pub(crate) fn take(&mut self, value: &[u8]) {
        for (name, argument) in members(value) {
            self.directive(&name, argument);
        }
    }

    fn directive(&mut self, name: &[u8], argument: Option<&[u8]>) {
        // Of two equal directives the stricter counts.
        let least = |old: Option<Duration>| {
            let new = argument.and_then(delta).unwrap_or(Duration::ZERO);
            Some(old.map_or(new, |old| old.min(new)))
        };
        match name {
            b"no-store" => self.no_store = true,
            b"no-cache" => match field_names(argument) {
                Some(names) => self.no_cache_fields.extend(names),
                None => self.no_cache = true,
            },
            b"private" => match field_names(argument) {
                Some(names) => self.private_fields.extend(names),
                None => self.private = true,
            },
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"max-age" => self.max_age = least(self.max_age),
            b"s-maxage" => self.s_maxage = least(self.s_maxage),
            b"stale-while-revalidate" => self.stale_while_revalidate = least(self.stale_while_revalidate),
            b"stale-if-error" => self.stale_if_error = least(self.stale_if_error),
            _ => {}
        }
    }
}

/// The directives of a field with their arguments, names in lower case.
pub(crate) fn members(value: &[u8]) -> impl Iterator<Item = (Cow<'_, [u8]>, Option<&[u8]>)> {
    split(value).map(|part| match part.iter().position(|byte| *byte == b'=') {
        Some(at) => {
            let (name, rest) = part.split_at(at);
            // A space beside the sign stays in the argument: it makes a number none.
            let spaced = name.ends_with(b" ") || name.ends_with(b"\t");
            let argument = rest.get(1..).unwrap_or_default().trim_ascii_end();
            (lower(name.trim_ascii()), Some(if spaced { SPACED } else { argument }))
        }
        None => (lower(part.trim_ascii()), None),
    })
}

/// A name in lower case, as most are written.
fn lower(name: &[u8]) -> Cow<'_, [u8]> {
    if name.iter().any(u8::is_ascii_uppercase) { name.to_ascii_lowercase().into() } else { name.into() }
}

/// The names in the argument of a qualified directive. `None`: there are none, or not only names, so that the whole is meant.
fn field_names(argument: Option<&[u8]>) -> Option<Vec<HeaderName>> {
    let argument = argument?.trim_ascii();
    let argument = argument.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(argument);
    let names = argument.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty());
    let names: Result<Vec<_>, _> = names.map(HeaderName::from_bytes).collect();
    names.ok().filter(|names| !names.is_empty() && names.len() <= NAMES)
}

/// In place of an argument that a space parts from its name: no number, no list of names.
const SPACED: &[u8] = b" ";

/// Fields that one directive may name; more and the whole is meant.
const NAMES: usize = 64;

/// The members of a list; commas inside quotes do not part them.
fn split(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let mut escaped = false;
    value.split(move |byte| {
        let parts = *byte == b',' && !quoted;
        match *byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
        parts
    })
}

/// Delta-seconds, with or without quotes [RFC 9111 1.2.2].
pub(crate) fn delta(text: &[u8]) -> Option<Duration> {
    let text = text.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(text);
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = std::str::from_utf8(text).ok()?.parse::<u64>().unwrap_or(LARGEST_DELTA);
    Some(Duration::from_secs(seconds.min(LARGEST_DELTA)))
}

/// What a delta that overflows means [RFC 9111 1.2.2].
const LARGEST_DELTA: u64 = 1 << 31;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Directives {
        let mut directives = Directives::default();
        directives.take(value.as_bytes());
        directives
    }

    #[test]
    fn directives_are_read_in_any_case_and_spacing() {
        let read = read("Public , MAX-AGE=60,s-maxage=\"30\", x=\"a,no-store\", stale-if-error=5");
        assert!(read.public && !read.no_store);
        assert_eq!(read.max_age, Some(Duration::from_secs(60)));
        assert_eq!(read.s_maxage, Some(Duration::from_secs(30)));
        assert_eq!(read.stale_if_error, Some(Duration::from_secs(5)));
    }

    #[test]
    fn deltas_that_are_no_numbers_mean_zero_and_the_larger_ones_are_clamped() {
        for wrong in [
            "max-age",
            "max-age=",
            "max-age=-1",
            "max-age=1.5",
            "max-age=a",
            "max-age= 60",
            "max-age =60",
            "max-age=60, max-age=0",
        ] {
            assert_eq!(read(wrong).max_age, Some(Duration::ZERO), "{wrong}");
        }
        assert_eq!(read("max-age=99999999999999999999").max_age, Some(Duration::from_secs(LARGEST_DELTA)));
    }

    #[test]
    fn qualified_forms_name_fields_and_others_mean_all() {
        let names = |list: &[HeaderName]| list.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>();
        let qualified = read("no-cache=\"set-cookie, A\", private=x, max-age=3");
        assert!(!qualified.no_cache && !qualified.private);
        assert_eq!(names(&qualified.no_cache_fields), ["set-cookie", "a"]);
        assert_eq!(names(&qualified.private_fields), ["x"]);
        for all in ["no-cache", "no-cache=", "no-cache=\"\"", "no-cache=\"a b\"", "no-cache=\"a", "no-cache =a"] {
            assert!(read(all).no_cache, "{all}");
        }
        assert!(read("no-cache=\"a\", no-cache").no_cache);
    }

    // RFC 9213 2.1
    #[test]
    fn targeted_fields_are_strict_dictionaries() {
        static NAME: HeaderName = HeaderName::from_static("cdn-cache-control");
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(&NAME, value.parse().unwrap());
            }
            Directives::targeted(&headers, &NAME)
        };
        let age = |values: &[&str]| read(values).and_then(|it| it.max_age).map(|age| age.as_secs());
        assert_eq!(age(&["max-age=60"]), Some(60));
        assert_eq!(age(&["max-age=60, max-age=5"]), Some(5));
        assert_eq!(age(&["no-store", "max-age=7"]), Some(7));
        assert_eq!(age(&["max-age=999999999999"]), Some(LARGEST_DELTA));
        for zero in ["max-age=-60", "max-age=\"60\"", "max-age=60.5", "max-age", "max-age=a"] {
            assert_eq!(age(&[zero]), Some(0), "{zero}");
        }
        for ignored in ["", "MAX-AGE=60", "max-age =60", "max-age= 60", "max-age=60,", "max-age=60 no-store"] {
            assert_eq!(read(&[ignored]), None, "{ignored}");
        }
        assert!(!read(&["no-store=?0, max-age=1"]).unwrap().no_store);
        assert_eq!(read(&["private=\"a, b\""]).unwrap().private_fields.len(), 2);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            let mut directives = Directives::default();
            directives.take(bytes);
            assert!(directives.max_age.is_none_or(|age| age <= Duration::from_secs(LARGEST_DELTA)));
        });
    }
}
