//! Cache-Control fields as values (RFC 9111 5.2), tolerant as that section asks: unknown directives are skipped, a delta that
//! overflows is the largest, one that is no number makes its directive mean the strictest.

use std::time::Duration;

use http::{HeaderMap, header::HeaderName};

/// What a response says of its caching.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Directives {
    /// Stored nowhere.
    pub(crate) no_store: bool,
    /// Revalidated before every use.
    pub(crate) no_cache: bool,
    /// For one user only.
    pub(crate) private: bool,
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
    /// Reads all fields of this name; several fields are one list. `None`: there is no such field.
    pub(crate) fn of(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let mut found = None;
        for value in headers.get_all(name) {
            found.get_or_insert_with(Self::default).take(value.as_bytes());
        }
        found
    }

    /// Reads one field value.
    pub(crate) fn take(&mut self, value: &[u8]) {
        for part in split(value) {
            let (name, argument) = match part.iter().position(|byte| *byte == b'=') {
                Some(at) => {
                    let (name, rest) = part.split_at(at);
                    (name.trim_ascii(), rest.get(1..).map(<[u8]>::trim_ascii))
                }
                None => (part.trim_ascii(), None),
            };
            self.directive(&name.to_ascii_lowercase(), argument);
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
            // With field names both are qualified; treating them as unqualified is the allowed, stricter reading.
            b"no-cache" => self.no_cache = true,
            b"private" => self.private = true,
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
fn delta(text: &[u8]) -> Option<Duration> {
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
        let read = read("Public , MAX-AGE=60,s-maxage = \"30\", x=\"a,no-store\", stale-if-error=5");
        assert!(read.public && !read.no_store);
        assert_eq!(read.max_age, Some(Duration::from_secs(60)));
        assert_eq!(read.s_maxage, Some(Duration::from_secs(30)));
        assert_eq!(read.stale_if_error, Some(Duration::from_secs(5)));
    }

    #[test]
    fn deltas_that_are_no_numbers_mean_zero_and_the_larger_ones_are_clamped() {
        for wrong in ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=a", "max-age=60, max-age=0"] {
            assert_eq!(read(wrong).max_age, Some(Duration::ZERO), "{wrong}");
        }
        assert_eq!(read("max-age=99999999999999999999").max_age, Some(Duration::from_secs(LARGEST_DELTA)));
    }

    #[test]
    fn qualified_forms_count_as_unqualified() {
        assert!(read("no-cache=\"set-cookie\"").no_cache);
        assert!(read("private=\"x, y\", public").public);
        assert!(read("private=x").private);
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
