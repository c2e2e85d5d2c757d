//! How keys and certificates are kept in files: lines for people after `#`, then one line `KIND 1 HEX`, so that a file taken for
//! another is named as what it is.

use super::Malformed;

/// What a file may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    NetworkKey,
    AdmissionKey,
    Membership,
    Revocation,
}

/// The text is not what was wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// It is something else of ours.
    #[error("this is {is}, not {wanted}")]
    Other {
        /// What it is.
        is: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// It is nothing of ours, or damaged.
    #[error("this is not {wanted}, or it is damaged")]
    Damaged {
        /// What it should be.
        wanted: &'static str,
    },
    /// It is of a version that this program does not know.
    #[error("this is {wanted} of version {version}, of which this program knows nothing; a newer one does")]
    Version {
        /// What it is.
        wanted: &'static str,
        /// As it says.
        version: String,
    },
}

/// The file's text: what it is, notes for people, the line that counts.
pub(super) fn write(kind: Kind, bytes: &[u8], notes: &[(&str, String)]) -> String {
    let mut text = format!("# {}{}\n", kind.name(), kind.advice());
    for (name, value) in notes {
        text.push_str(&format!("# {name}: {value}\n"));
    }
    text.push_str(&format!("{} {VERSION} {}\n", kind.word(), hex(bytes)));
    text
}

/// What the file's text holds.
pub(super) fn read<T>(
    text: &str,
    kind: Kind,
    parse: impl FnOnce(&[u8]) -> Result<T, Malformed>,
) -> Result<T, TextError> {
    let wanted = kind.name();
    let damaged = TextError::Damaged { wanted };
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (Some(line), None) = (lines.next(), lines.next()) else { return Err(damaged) };
    let mut words = line.split_whitespace();
    let (Some(word), Some(version), Some(bytes), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(damaged);
    };
    if let Some(other) = Kind::ALL.into_iter().find(|other| other.word() == word && *other != kind) {
        return Err(TextError::Other { is: other.name(), wanted });
    }
    if word != kind.word() {
        return Err(damaged);
    }
    if version != VERSION {
        return Err(TextError::Version { wanted, version: version.chars().take(8).collect() });
    }
    unhex(bytes).and_then(|bytes| parse(&bytes).ok()).ok_or(damaged)
}

impl Kind {
    const ALL: [Self; 4] = [Self::NetworkKey, Self::AdmissionKey, Self::Membership, Self::Revocation];

    const fn word(self) -> &'static str {
        match self {
            Self::NetworkKey => "atoll-network-key",
            Self::AdmissionKey => "atoll-admission-key",
            Self::Membership => "atoll-certificate",
            Self::Revocation => "atoll-revocation",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::NetworkKey => "a network key",
            Self::AdmissionKey => "an admission key",
            Self::Membership => "a node's certificate",
            Self::Revocation => "a revocation",
        }
    }

    const fn advice(self) -> &'static str {
        match self {
            Self::NetworkKey => ". SECRET: keep it offline; whoever has it decides who is a member.",
            Self::AdmissionKey => ". SECRET: whoever has it can admit nodes until it expires.",
            Self::Membership => ". No secret: it is of use only to the node that holds the key named here.",
            Self::Revocation => ". No secret: any member can spread it.",
        }
    }
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of hexadecimal digits, an even number of them.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// Of all of them.
const VERSION: &str = "1";
