//! What an origin says its body's digest is (RFC 9530): `Repr-Digest` or `Content-Digest` of a whole answer, held against what comes.
//!
//! Of a 200 both are of the same bytes, content coding included. SHA-256 is taken where there is one, else SHA-512; what is malformed,
//! or by another algorithm alone, counts for nothing.

use http::{HeaderMap, HeaderName};
use ring::digest::{Context, SHA256, SHA512};

use crate::structured::{Item, dictionary};

/// A body that is to have a digest.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Stated {
    context: Context,
    digest: Vec<u8>,
}

impl Stated {
    /// What the fields of a whole answer say.
    pub(crate) fn of(fields: &HeaderMap) -> Option<Box<Self>> {
        [REPR_DIGEST, CONTENT_DIGEST].iter().find_map(|name| Self::in_field(fields, name))
    }

    /// Whether a stored answer and what a 304 or an answer to HEAD says of it are of the same bytes, as far as both say so by one
    /// algorithm. Such an answer has no content, and its `Content-Digest` is of that [RFC 9530 2].
    pub(crate) fn agree(stored: &HeaderMap, confirmed: &HeaderMap) -> bool {
        let (known, said) = (Self::of(stored), Self::in_field(confirmed, &REPR_DIGEST));
        said.zip(known)
            .is_none_or(|(said, known)| said.digest.len() != known.digest.len() || said.digest == known.digest)
    }

    fn in_field(fields: &HeaderMap, name: &HeaderName) -> Option<Box<Self>> {
        let lines: Vec<_> = fields.get_all(name).iter().map(http::HeaderValue::as_bytes).collect();
        if lines.is_empty() {
            return None;
        }
        let members = dictionary(&lines.join(&b", "[..]))?;
        [("sha-256", &SHA256), ("sha-512", &SHA512)].iter().find_map(|(key, algorithm)| {
            let (_, item) = members.iter().find(|(name, _)| name == key)?;
            let Item::Bytes(digest) = item else { return None };
            let digest = decode(digest).filter(|digest| digest.len() == algorithm.output_len())?;
            Some(Box::new(Self { context: Context::new(algorithm), digest }))
        })
    }

    /// The next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// All of it came: whether it is what was said.
    pub(crate) fn holds(self) -> bool {
        self.context.finish().as_ref() == self.digest
    }
}

/// Base64 \[RFC 4648 4\]. The padding may be left out, and what its last letter says beyond the bytes may be anything \[RFC 9651 4.2.7\].
fn decode(text: &str) -> Option<Vec<u8>> {
    let letters = text.trim_end_matches('=');
    let padding = text.len() - letters.len();
    if letters.len() % 4 == 1 || padding > 0 && (padding > 2 || !text.len().is_multiple_of(4)) {
        return None;
    }
    let mut bytes = Vec::with_capacity(letters.len() * 3 / 4);
    for four in letters.as_bytes().chunks(4) {
        let mut word = 0_u32;
        for letter in four {
            let six = LETTERS.iter().position(|it| it == letter)?;
            word = word << 6 | u32::try_from(six).ok()?;
        }
        word <<= 6 * (4 - four.len());
        bytes.extend(word.to_be_bytes().iter().skip(1).take(four.len() - 1));
    }
    Some(bytes)
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
    fn bytes_are_read_as_rfc_4648_writes_them() {
        let good =
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob"), ("Zm9vYmE", "fooba")];
        for (text, bytes) in good {
            assert_eq!(decode(text).unwrap(), bytes.as_bytes(), "{text}");
        }
        assert_eq!(decode("//77").unwrap(), [0xff, 0xfe, 0xfb]);
        // Bits that are left over.
        assert_eq!((decode("Zh==").unwrap(), decode("Zm9").unwrap()), (b"f".to_vec(), b"fo".to_vec()));
        for text in ["Z", "Z===", "Zg=", "Zm9v=", "Zm9v==", "Zm8==", "Z=g=", "Zm-_", "Zm9v Yg", "===="] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    // FIPS 180's digests of "abc".
    #[test]
    fn a_body_is_held_against_the_digest_that_is_understood() {
        let sha256 = "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:";
        let sha512 =
            "sha-512=:3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw==:";
        let loose = "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa3:";
        let none = "md5=:kAFQmDzST7DWlj99KOF/cg==:";
        for values in
            [&[sha256][..], &[sha512], &[loose], &[none, sha256], &[&format!("{none}, {sha512}")], &[sha256, sha512]]
        {
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
        let malformed = sha256.replace("Fa0=", "=Fa0");
        for values in [
            &[none][..],
            &["sha-256=:AAAA:"],
            &["sha-256=ungW"],
            &[&malformed],
            &["noise,,"],
            &["sha-256=\"a\""],
            &[""],
            &[],
        ] {
            assert!(stated("repr-digest", values).is_none(), "{values:?}");
        }
    }
}
