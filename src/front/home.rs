//! Where a manager or a peer writes: one directory, named by the operator or else one of the user's own that no other process has.
//! Several peers on one machine so find one each, and the same ones again after a restart.

use std::path::PathBuf;

use crate::state::{State, StateError};

/// Opens the directory given, else the first free of `atoll/KIND`, `atoll/KIND-2`, ... among the user's state.
pub(crate) fn open(given: Option<PathBuf>, kind: &str) -> Result<State, StateError> {
    if let Some(given) = given {
        return State::open(&given);
    }
    let base = base().join("atoll");
    for number in 2..=MOST {
        match State::open(&base.join(name(kind, number - 1))) {
            Err(StateError::InUse(_)) => {}
            opened => return opened,
        }
    }
    State::open(&base.join(name(kind, MOST)))
}

/// Where [`open`] puts the first of its kind.
pub(crate) fn first(kind: &str) -> PathBuf {
    base().join("atoll").join(kind)
}

fn name(kind: &str, number: usize) -> String {
    if number == 1 { kind.to_owned() } else { format!("{kind}-{number}") }
}

/// The user's directory for state, by the convention of the system.
fn base() -> PathBuf {
    let of = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    of("XDG_STATE_HOME")
        .or_else(|| of("LOCALAPPDATA"))
        .or_else(|| of("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(std::env::temp_dir)
}

/// Processes of one kind on one machine that find a directory of their own.
const MOST: usize = 64;
