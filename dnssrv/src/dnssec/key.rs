//! A zone's key: one ECDSA P-256 key (algorithm 13, RFC 6605) that signs everything, the DNSKEY set included. It lies in a PEM
//! file (PKCS #8), as other signers import and export it. What the parent and resolvers need of it is printed as records.

use std::fmt::Write as _;

use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};

use crate::{rdata::wire, zone::absolute};

/// A zone's key.
pub struct ZoneKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    data: Vec<u8>,
}

/// Why there is no key. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ZoneKeyError {
    /// The system has no randomness.
    #[error("the system gave no randomness to make a key from")]
    Randomness,
    /// The text is no key.
    #[error("this is no PKCS #8 private key in PEM form: {0}")]
    Text(String),
    /// The text is a key of another kind.
    #[error("this is no ECDSA P-256 key with its public half: {0}; make one with `atoll key zone`")]
    Kind(String),
    /// The zone's name is none.
    #[error("{0}")]
    Zone(String),
}

impl ZoneKey {
    /// A new key, as the text of its file.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate() -> Result<String, ZoneKeyError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        let key = key.map_err(|_| ZoneKeyError::Randomness)?;
        let mut text = "-----BEGIN PRIVATE KEY-----\n".to_owned();
        for line in base64(key.as_ref()).as_bytes().chunks(64) {
            text.extend(line.iter().copied().map(char::from).chain(['\n']));
        }
        Ok(text + "-----END PRIVATE KEY-----\n")
    }

    /// The key in a file's text.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn from_pem(text: &str) -> Result<Self, ZoneKeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes());
        let der = der.map_err(|error| ZoneKeyError::Text(error.to_string()))?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random);
        let pair = pair.map_err(|error| ZoneKeyError::Kind(error.to_string()))?;
        let mut data = vec![1, FLAGS, PROTOCOL, ALGORITHM];
        // The point without the byte that says it is not compressed (RFC 6605 4).
        data.extend(pair.public_key().as_ref().iter().skip(1));
        Ok(Self { pair, random, data })
    }

    /// What the parent of a zone is given: its DS record as a zone file has it (RFC 4509).
    ///
    /// # Errors
    /// The name is none.
    pub fn ds(&self, zone: &str) -> Result<String, ZoneKeyError> {
        let zone = absolute(zone).map_err(ZoneKeyError::Zone)?;
        let hash = digest(&SHA256, &[wire(&zone), self.data.clone()].concat());
        let mut hex = String::new();
        for byte in hash.as_ref() {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02X}");
        }
        Ok(format!("{zone} 3600 IN DS {} {ALGORITHM} 2 {hex}", self.tag()))
    }

    /// The key itself as a record of the zone: a trust anchor for resolvers that cannot use the parent's DS.
    ///
    /// # Errors
    /// The name is none.
    pub fn dnskey(&self, zone: &str) -> Result<String, ZoneKeyError> {
        let zone = absolute(zone).map_err(ZoneKeyError::Zone)?;
        let point = self.data.get(4..).unwrap_or_default();
        Ok(format!("{zone} 3600 IN DNSKEY 257 {PROTOCOL} {ALGORITHM} {}", base64(point)))
    }

    /// The number by which signatures name the key (RFC 4034 B).
    #[must_use]
    pub fn tag(&self) -> u16 {
        let sum = self.data.chunks(2).fold(0_u32, |sum, pair| {
            let [high, low] = [pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0)];
            sum + u32::from(u16::from_be_bytes([high, low]))
        });
        let [.., high, low] = (sum + (sum >> 16 & 0xffff)).to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    /// The data of its DNSKEY record.
    pub(super) fn data(&self) -> &[u8] {
        &self.data
    }

    /// A signature: r and s (RFC 6605 4). None if the system has no randomness.
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        Some(self.pair.sign(&self.random, message).ok()?.as_ref().to_vec())
    }
}

impl std::fmt::Debug for ZoneKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZoneKey").field("tag", &self.tag()).finish_non_exhaustive()
    }
}

/// RFC 4648 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = usize::try_from(bits >> (18 - 6 * place) & 63).ok().and_then(|at| DIGITS.get(at));
            text.push(if place <= chunk.len() { digit.copied().map_or('=', char::from) } else { '=' });
        }
    }
    text
}

/// Low byte of the flags: zone key, secure entry point. The high byte is 1.
const FLAGS: u8 = 1;
/// \[RFC 4034 2.1.2\]
const PROTOCOL: u8 = 3;
/// ECDSAP256SHA256 \[RFC 6605 5\].
pub(super) const ALGORITHM: u8 = 13;

/// The record type of keys.
pub(super) const DNSKEY: u16 = 48;

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6605 6.1.
    const EXAMPLE: &str = "GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA==";

    #[test]
    fn a_made_key_is_read_again_and_no_other_text_is() {
        let text = ZoneKey::generate().unwrap();
        let key = ZoneKey::from_pem(&text).unwrap();
        assert!(key.dnskey("nyud.example").unwrap().starts_with("nyud.example. 3600 IN DNSKEY 257 3 13 "));
        assert!(ZoneKey::from_pem("nothing").is_err());
        assert!(ZoneKey::from_pem(&text.replace("PRIVATE", "PUBLIC")).is_err());
        assert!(key.ds("not a name..").is_err());
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn tag_and_digest_are_those_of_rfc_6605() {
        let pair = ZoneKey::from_pem(&ZoneKey::generate().unwrap()).unwrap();
        let point: Vec<u8> = {
            let digits = |byte: u8| {
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|d| *d == byte)
            };
            let bits = EXAMPLE.bytes().filter_map(digits).collect::<Vec<_>>();
            bits.chunks(4)
                .flat_map(|four| {
                    let number = four.iter().fold(0_u32, |n, six| n << 6 | u32::try_from(*six).unwrap())
                        << (6 * (4 - four.len()));
                    number.to_be_bytes()[1..four.len()].to_vec()
                })
                .collect()
        };
        let example = ZoneKey { data: [&[1, 1, 3, 13][..], &point].concat(), ..pair };
        assert_eq!(example.tag(), 55648);
        let ds = example.ds("example.net").unwrap();
        assert_eq!(
            ds,
            "example.net. 3600 IN DS 55648 13 2 B4C8C1FE2E7477127B27115656AD6256F424625BF5C1E2770CE6D6E37DF61D17"
        );
    }
}
