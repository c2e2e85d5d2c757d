//! Tokens: what a manager prints and a peer is given, and the proofs made with it, so that it never crosses the network.
//!
//! A token of ours is base32 of: version (1), network id (8 bytes), secret (16 bytes), the manager's `host:port` or `https://host:port`. Any other text of
//! 16 to 256 printable characters is a secret and no more. A proof is BLAKE3 keyed by what the whole text derives to; the manager
//! keeps only that key and finds it by the token's id, a hash of it.

use std::fmt;

use crate::front::ask::Place;

/// What a token says.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    text: String,
    /// The network it opens, and where its manager is, if it says.
    pub(crate) network: Option<NetworkId>,
    pub(crate) manager: Option<Place>,
}

/// A network, told apart from others.
pub(crate) type NetworkId = [u8; 8];

/// The key that a token, or what came of it, proves by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Secret([u8; 32]);

impl Token {
    /// A new one.
    pub(crate) fn make(network: NetworkId, manager: &Place) -> Self {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&network);
        bytes.extend_from_slice(&rand::random::<[u8; SECRET]>());
        let place = if manager.is_secure() { manager.to_string() } else { manager.authority() };
        bytes.extend_from_slice(place.as_bytes());
        let text = base32::encode(ALPHABET, &bytes);
        Self { text, network: Some(network), manager: Some(manager.clone()) }
    }

    /// Reads one. Says what is wrong with a text that cannot be safe.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if !(16..=256).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a token has 16 to 256 printable characters, or it could be guessed".to_owned());
        }
        let own = base32::decode(ALPHABET, text).and_then(|bytes| {
            let (version, rest) = bytes.split_first()?;
            let (network, rest) = rest.split_first_chunk::<8>()?;
            let manager = std::str::from_utf8(rest.get(SECRET..)?).ok()?;
            (*version == VERSION).then(|| Some((*network, Place::parse(manager).ok()?)))?
        });
        let (network, manager) = own.unzip();
        Ok(Self { text: text.to_owned(), network, manager })
    }

    /// The text, for the terminal of whoever lends machines; never for a log.
    pub(crate) fn reveal(&self) -> &str {
        &self.text
    }

    /// The key it proves by.
    pub(crate) fn secret(&self) -> Secret {
        Secret(blake3::derive_key("atoll manager token v1", self.text.as_bytes()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.secret().id())
    }
}

impl Secret {
    /// The key that a manager's login is proved by, to another manager.
    pub(crate) fn of_login(text: &str) -> Self {
        Self(blake3::derive_key("atoll manager login v1", text.trim().as_bytes()))
    }

    /// What it is found by: tells nothing of it.
    pub(crate) fn id(&self) -> String {
        let hash = blake3::derive_key("atoll manager token id v1", &self.0);
        hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// A secret that follows from this one and both sides' nonces.
    pub(crate) fn derived(&self, purpose: &'static str, nonces: [&str; 2]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(purpose);
        hasher.update(&self.0);
        feed(&mut hasher, &nonces.map(str::as_bytes));
        Self(*hasher.finalize().as_bytes())
    }

    /// A proof that whoever says these parts knows the secret; 64 hexadecimal digits.
    pub(crate) fn proof(&self, parts: &[&[u8]]) -> String {
        self.mac(parts).to_string()
    }

    /// Whether a proof is right, in a time that does not depend on how wrong it is.
    pub(crate) fn proves(&self, proof: &str, parts: &[&[u8]]) -> bool {
        blake3::Hash::from_hex(proof).is_ok_and(|proof| proof == self.mac(parts))
    }

    /// For the state file.
    pub(crate) fn to_hex(self) -> String {
        blake3::Hash::from_bytes(self.0).to_string()
    }

    /// From the state file.
    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(|hash| Self(*hash.as_bytes()))
    }

    fn mac(&self, parts: &[&[u8]]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        feed(&mut hasher, parts);
        hasher.finalize()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.id())
    }
}

/// Parts with their lengths, so that no two lists of parts are the same bytes.
fn feed(hasher: &mut blake3::Hasher, parts: &[&[u8]]) {
    for part in parts {
        hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(part);
    }
}

/// A random text to be proved with, once.
pub(crate) fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}

const VERSION: u8 = 1;

/// Random bytes of a token.
const SECRET: usize = 16;

const ALPHABET: base32::Alphabet = base32::Alphabet::Rfc4648Lower { padding: false };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_carries_its_network_and_its_manager() {
        let manager = Place::parse("203.0.113.5:5000").unwrap();
        let token = Token::make([7; 8], &manager);
        let read = Token::parse(token.reveal()).unwrap();
        assert_eq!((read.network, read.manager.as_ref()), (Some([7; 8]), Some(&manager)));
        assert_eq!(read.secret(), token.secret());
        assert_ne!(Token::make([7; 8], &manager).secret(), token.secret());
        assert!(!format!("{token:?}").contains(token.reveal()));
        let tls = Place::parse("https://m.test").unwrap();
        assert_eq!(Token::parse(Token::make([0; 8], &tls).reveal()).unwrap().manager, Some(tls));
        let v6 = Place::parse("[2001:db8::1]:5000").unwrap();
        assert_eq!(Token::parse(Token::make([0; 8], &v6).reveal()).unwrap().manager, Some(v6));
    }

    #[test]
    fn a_word_of_the_operators_is_a_token_if_it_is_long_enough() {
        let own = Token::parse("correct-horse-battery-staple").unwrap();
        assert_eq!((own.network, own.manager), (None, None));
        for wrong in ["", "123456", "1234567890ABCDE", "a token with spaces", &"x".repeat(257)] {
            assert!(Token::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_proof_is_of_these_parts_in_this_order_by_this_secret() {
        let secret = Token::parse("correct-horse-battery-staple").unwrap().secret();
        let proof = secret.proof(&[b"ab", b"c"]);
        assert!(secret.proves(&proof, &[b"ab", b"c"]));
        for parts in [[&b"a"[..], b"bc"], [b"c", b"ab"], [b"abc", b""]] {
            assert!(!secret.proves(&proof, &parts));
        }
        assert!(!secret.derived("test", ["a", "b"]).proves(&proof, &[b"ab", b"c"]));
        assert!(!secret.proves("", &[b"ab", b"c"]) && !secret.proves("\u{e9}", &[]));
        assert_eq!(Secret::from_hex(&secret.to_hex()), Some(secret));
    }

    #[test]
    fn foreign_text_is_no_token_of_ours_and_no_panic() {
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            let encoded = base32::encode(ALPHABET, bytes);
            for text in [String::from_utf8_lossy(bytes).into_owned(), encoded] {
                if let Ok(token) = Token::parse(&text) {
                    assert_eq!(token.reveal(), text.trim());
                }
            }
        });
    }
}
