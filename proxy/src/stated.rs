//! What an origin says its body's digest is (RFC 9530): `Repr-Digest` or `Content-Digest` of a whole answer, held against what comes.
//!
//! Of a 200 both are of the same bytes, content coding included. SHA-256 is taken where there is one, else SHA-512; what is malformed,
//! or by another algorithm alone, counts for nothing.

use http::{HeaderMap, HeaderName};
use ring::digest::{Context, SHA256, SHA512};

use crate::structured::{Item, dictionary};

/// A body that is to have a digest.
#[derive(Clone)]
pub(crate) struct Stated {
    context: Context,
    /// In base64, without padding.
    digest: String,
}

impl Stated {
    /// What the fields of a whole answer say.
    pub(crate) fn of(fields: &HeaderMap) -> Option<Box<Self>> {
        [REPR_DIGEST, CONTENT_DIGEST].iter().find_map(|name| {
            let lines: Vec<_> = fields.get_all(name).iter().map(http::HeaderValue::as_bytes).collect();
            if lines.is_empty() {
                return None;
            }
            let members = dictionary(&lines.join(&b", "[..]))?;
            [("sha-256", &SHA256), ("sha-512", &SHA512)].iter().find_map(|(key, algorithm)| {
                let (_, item) = members.iter().find(|(name, _)| name == key)?;
                let Item::Bytes(digest) = item else { return None };
                let digest = digest.trim_end_matches('=').to_owned();
                // Six bits a letter: what cannot be one of this algorithm is none.
                let fits = digest.len() == (algorithm.output_len() * 8).div_ceil(6);
                fits.then(|| Box::new(Self { context: Context::new(algorithm), digest }))
            })
        })
    }

    /// The next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// All of it came: whether it is what was said.
    pub(crate) fn holds(self) -> bool {
        base64(self.context.finish().as_ref()) == self.digest
    }
}

/// Base64 without padding [RFC 4648 4].
fn base64(bytes: &[u8]) -> String {
    let letters = bytes.chunks(3).flat_map(|three| {
        let word = three.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        (0..=three.len()).map(move |place| word >> (18 - 6 * place) & 63)
    });
    letters.filter_map(|six| LETTERS.get(six as usize).copied().map(char::from)).collect()
}

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// Of a message's own content: a part's differs from the whole's.
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

#[cfg(test)]
mod tests {
    use super::*;

    fn stated(name: &'static str, values: &[&str]) -> Option<Box<Stated>> {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(name, value.parse().unwrap());
        }
        Stated::of(&fields)
    }

    #[test]
    fn bytes_are_written_as_rfc_4648_does() {
        for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfb]), "//77");
    }

    // FIPS 180's digests of "abc".
    #[test]
    fn a_body_is_held_against_the_digest_that_is_understood() {
        let sha256 = "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:";
        let sha512 =
            "sha-512=:3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw==:";
        let none = "md5=:kAFQmDzST7DWlj99KOF/cg==:";
        for values in [&[sha256][..], &[sha512], &[none, sha256], &[&format!("{none}, {sha512}")], &[sha256, sha512]] {
            for name in ["repr-digest", "content-digest"] {
                let mut good = stated(name, values).unwrap();
                let mut bad = good.clone();
                good.update(b"a");
                good.update(b"bc");
                assert!(good.holds(), "{values:?}");
                bad.update(b"abd");
                assert!(!bad.holds(), "{values:?}");
            }
        }
        for values in
            [&[none][..], &["sha-256=:AAAA:"], &["sha-256=ungW"], &["noise,,"], &["sha-256=\"a\""], &[""], &[]]
        {
            assert!(stated("repr-digest", values).is_none(), "{values:?}");
        }
    }
}
