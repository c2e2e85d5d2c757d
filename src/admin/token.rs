//! The token that opens the admin API over TCP: 256 random bits, kept in the state directory or in a file of the operator's.

use std::path::{Path, PathBuf};

use crate::state::{Kept, State, StateError};

/// The secret and where it is kept. Its `Debug` does not show it.
pub(super) struct Token {
    secret: String,
    path: PathBuf,
}

impl Token {
    /// Reads the operator's file, or else the state directory's, making that if it is not there.
    pub(super) fn load(file: Option<&Path>, state: &State) -> Result<Self, TokenError> {
        let path = file.map_or_else(|| state.path(Kept::Token), Path::to_owned);
        let bytes = match file {
            Some(file) => std::fs::read(file).map_err(|error| StateError::Io {
                doing: "read token file",
                path: file.to_owned(),
                error,
            })?,
            None => state.load_or_make(Kept::Token, make)?,
        };
        let secret = std::str::from_utf8(&bytes).unwrap_or_default().trim().to_owned();
        if !(32..=256).contains(&secret.len()) || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Malformed(path));
        }
        Ok(Self { secret, path })
    }

    /// Whether this is the token, in a time that does not depend on where a wrong one differs.
    pub(super) fn is(&self, offered: &[u8]) -> bool {
        let secret = self.secret.as_bytes();
        let differing =
            secret.iter().zip(offered).fold(0, |seen, (ours, theirs)| std::hint::black_box(seen | (ours ^ theirs)));
        (differing == 0) & (secret.len() == offered.len())
    }

    /// The secret itself, for the dashboard's address that the demo prints.
    pub(super) fn reveal(&self) -> &str {
        &self.secret
    }

    /// Where it is kept.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({})", self.path.display())
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    /// The file cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The file holds something else.
    #[error("{} holds no token: 32 to 256 printable characters are needed; remove it and a new one is made", .0.display())]
    Malformed(PathBuf),
}

fn make() -> Vec<u8> {
    let random: [u8; 32] = rand::random();
    let mut text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    text.push('\n');
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let token = Token::load(None, &state).unwrap();
        assert_eq!(token.reveal().len(), 64);
        assert_eq!(Token::load(None, &state).unwrap().reveal(), token.reveal());
        assert!(!format!("{token:?}").contains(token.reveal()));
    }

    #[test]
    fn only_the_whole_token_is_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let token = Token::load(None, &State::open(folder.path()).unwrap()).unwrap();
        let secret = token.reveal().as_bytes();
        assert!(token.is(secret));
        assert!(!token.is(b""));
        assert!(!token.is(&secret[..63]));
        assert!(!token.is(&[secret, b"a"].concat()));
        let mut wrong = secret.to_vec();
        wrong[63] ^= 1;
        assert!(!token.is(&wrong));
    }

    #[test]
    fn a_token_too_short_to_be_safe_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "hunter2\n").unwrap();
        assert!(matches!(Token::load(Some(&file), &state), Err(TokenError::Malformed(_))));
    }
}
