//! The tags of an answer, and the 64 bits that stand for them in the store.
//!
//! Tags come in four fields: `Cache-Groups` (RFC 9875: a list of strings), `Surrogate-Key` and `xkey` (words between spaces) and
//! `Cache-Tag` (between commas). They are told apart by every byte, case included. The bits are a Bloom filter of all the tags and
//! the URL: they only spare the store from asking; whether a purge means an object, its metadata decides.

use atoll_overlay::Key;
use atoll_store::Tags;
use http::{HeaderMap, HeaderName};

use crate::structured;

/// Every tag of an answer. A tag that is given twice comes twice.
pub(crate) fn tags_of(fields: &HeaderMap) -> Vec<String> {
    let mut found = Vec::new();
    let lines: Vec<_> = fields.get_all(&CACHE_GROUPS).iter().map(http::HeaderValue::as_bytes).collect();
    if !lines.is_empty() {
        // One bad byte and the field counts for nothing [RFC 9651 4.2].
        found.extend(structured::strings(&lines.join(&b", "[..])).unwrap_or_default());
    }
    let mut split = |name: &HeaderName, ends: fn(char) -> bool| {
        for value in fields.get_all(name) {
            let text = String::from_utf8_lossy(value.as_bytes());
            found.extend(text.split(ends).map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned));
        }
    };
    split(&SURROGATE_KEY, |c| c.is_ascii_whitespace());
    split(&XKEY, |c| c.is_ascii_whitespace());
    split(&CACHE_TAG, |c| c == ',');
    found
}

/// The bits of an answer with this place and these fields.
pub(crate) fn bits(place: &str, fields: &HeaderMap) -> Tags {
    let of_tags = tags_of(fields).iter().fold(0, |bits, tag| bits | of_tag(tag));
    Tags::from_bits(of_tags | of_place(place))
}

/// The bits of one tag.
pub(crate) fn of_tag(tag: &str) -> u64 {
    three_bits(&[b"tag ", tag.as_bytes()].concat())
}

/// The bits of one URL without its scheme.
pub(crate) fn of_place(place: &str) -> u64 {
    three_bits(&[b"url ", place.as_bytes()].concat())
}

/// Three bits of 64, some of which may be one: with a handful of tags, a stranger's three are all set once in a hundred times.
fn three_bits(text: &[u8]) -> u64 {
    let key = Key::of(text);
    key.as_bytes().iter().take(3).fold(0, |bits, byte| bits | 1 << (byte % 64))
}

static CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");
static SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
static XKEY: HeaderName = HeaderName::from_static("xkey");
static CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(*name, value.parse().unwrap());
        }
        fields
    }

    #[test]
    fn tags_come_from_four_fields_each_by_its_own_rules() {
        let check = |lines: &[(&'static str, &str)], expect: &[&str]| assert_eq!(tags_of(&fields(lines)), expect);
        check(&[("cache-groups", r#""a", "b c";x=1, "q\"\\""#)], &["a", "b c", "q\"\\"]);
        check(&[("cache-groups", "\"a\""), ("cache-groups", "\"b\"")], &["a", "b"]);
        check(&[("cache-groups", "a, \"b\"")], &[]);
        check(&[("cache-groups", "\"a")], &[]);
        check(&[("surrogate-key", " a  aa\tA "), ("xkey", "x,y .*")], &["a", "aa", "A", "x,y", ".*"]);
        check(&[("cache-tag", "a b, c ,,d")], &["a b", "c", "d"]);
        check(&[], &[]);
    }

    #[test]
    fn the_bits_of_an_answer_hold_those_of_each_of_its_tags_and_of_its_place() {
        let bits = bits("a.test/x", &fields(&[("xkey", "one two three")])).bits();
        for part in [of_tag("one"), of_tag("two"), of_tag("three"), of_place("a.test/x")] {
            assert!(part != 0 && bits & part == part);
        }
        bolero::check!().with_iterations(5_000).for_each(|bytes: &[u8]| {
            if let Ok(value) = http::HeaderValue::from_bytes(bytes) {
                tags_of(&HeaderMap::from_iter([(CACHE_GROUPS.clone(), value.clone()), (XKEY.clone(), value)]));
            }
        });
    }
}
