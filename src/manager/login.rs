//! The operator's login: 256 random bits in the state directory, sent as `Authorization: Bearer TOKEN`, or as the password of a
//! basic login, so that `curl -u :TOKEN` works.

use http::{HeaderMap, header};

use super::token::Secret;
use crate::state::{Kept, State, StateError};

/// The secret, as a hash of it: comparing hashes takes the same time however wrong a guess is; and the key that it is proved by without
/// being said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Login {
    hash: blake3::Hash,
    secret: Secret,
}

impl Login {
    /// Reads the state's, or makes one; with the text, for the terminal.
    pub(crate) fn load(state: &State) -> Result<(Self, String), StateError> {
        let bytes = state.load_or_make(Kept::Token, || {
            format!("{:032x}{:032x}\n", rand::random::<u128>(), rand::random::<u128>()).into()
        })?;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        Ok((Self { hash: blake3::hash(text.as_bytes()), secret: Secret::of_login(&text) }, text))
    }

    /// What another manager proves that it knows the login by.
    pub(crate) const fn secret(&self) -> Secret {
        self.secret
    }

    /// Whether a request comes from the operator. One that a page of another origin makes does not, whatever it carries.
    pub(crate) fn opens(&self, fields: &HeaderMap) -> bool {
        let foreign = fields.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none");
        let offered = fields.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        !foreign
            && offered.and_then(secret_of).is_some_and(|secret| blake3::hash(secret.trim().as_bytes()) == self.hash)
    }
}

/// What is offered by an Authorization field; schemes are matched without case [RFC 9110 11.1].
fn secret_of(value: &str) -> Option<String> {
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = base64(rest.trim())?;
    Some(String::from_utf8(pair).ok()?.split_once(':')?.1.to_owned())
}

/// Decodes base64 [RFC 4648 4]; none if it is none.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for byte in text.trim_end_matches('=').bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_opens_as_bearer_or_as_a_password_and_from_no_foreign_page() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let (login, text) = Login::load(&state).unwrap();
        assert_eq!(Login::load(&state).unwrap().1, text);
        let opens = |fields: &[(&'static str, String)]| {
            login.opens(
                &fields
                    .iter()
                    .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
                    .collect(),
            )
        };
        assert!(opens(&[("authorization", format!("Bearer {text}"))]));
        assert!(opens(&[("authorization", format!("bearer {text}")), ("sec-fetch-site", "same-origin".into())]));
        assert!(!opens(&[("authorization", format!("Bearer {text}")), ("sec-fetch-site", "cross-site".into())]));
        for wrong in [String::new(), "Bearer".into(), "Bearer x".into(), format!("Digest {text}"), text.clone()] {
            assert!(!opens(&[("authorization", wrong.clone())]), "{wrong}");
        }
        assert!(!opens(&[]));
    }

    #[test]
    fn basic_logins_are_read_as_curl_writes_them() {
        // printf ':open sesame' | base64
        assert_eq!(secret_of("Basic Om9wZW4gc2VzYW1l").as_deref(), Some("open sesame"));
        assert_eq!(secret_of("Basic dXNlcjphOmI=").as_deref(), Some("a:b"));
        assert_eq!(secret_of("Basic \u{7f}"), None);
        bolero::check!().with_iterations(10_000).for_each(|bytes: &[u8]| {
            let _ = secret_of(&String::from_utf8_lossy(bytes));
        });
    }
}
