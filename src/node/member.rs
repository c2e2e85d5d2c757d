//! The node's place in a closed network, as its state directory holds it: the certificate, read at start and again whenever the
//! file changes, and the folder `revoke`, in which an operator puts revocations to be spread.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use atoll_overlay::{
    driver::{Admission, MembershipError, RevokeError},
    membership::{Membership, Revocation, TextError},
};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval},
};

use super::{StartError, parts::Parts};
use crate::{
    config::Config,
    state::{self, Kept, State},
};

/// The certificate in the state directory, if the network is closed. None if there is no such file.
pub(super) fn load(config: &Config, state: &State) -> Result<Option<Membership>, StartError> {
    if config.overlay.admission == Admission::Open {
        return Ok(None);
    }
    let Some(bytes) = state.load(Kept::Certificate)? else { return Ok(None) };
    let read = Membership::from_text(&String::from_utf8_lossy(&bytes));
    read.map(Some).map_err(|error| failed(state, &error))
}

/// A start that failed for want of a good certificate, with what to do.
pub(super) fn failed(state: &State, error: &dyn std::error::Error) -> StartError {
    let path = state.path(Kept::Certificate);
    let folder = state.directory().display();
    StartError::Membership(format!(
        "{error} ({}); `atoll key node --state {folder}` prints its public key, `atoll key admit` where the admission key is makes \
         the certificate, and docs/membership.md shows the whole way",
        path.display()
    ))
}

/// Watches the certificate and the folder for revocations, until aborted. `asked` makes it look at once.
pub(super) async fn watch(parts: Arc<Parts>, asked: Arc<Notify>) {
    let mut shown = parts.state().load(Kept::Certificate).ok().flatten();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = asked.notified() => tracing::info!("looking for a renewed certificate and for revocations"),
        }
        renew(&parts, &mut shown).await;
        for file in revocations(&parts.state().directory().join(INBOX)) {
            take(&parts, &file).await;
        }
    }
}

/// Shows the certificate in the file from now on, if it is another one than was looked at last.
async fn renew(parts: &Parts, shown: &mut Option<Vec<u8>>) {
    let Ok(Some(bytes)) = parts.state().load(Kept::Certificate) else { return };
    if shown.as_ref() == Some(&bytes) {
        return;
    }
    let outcome = match Membership::from_text(&String::from_utf8_lossy(&bytes)) {
        Ok(membership) => parts.overlay().renew(membership).await.map(|()| membership).map_err(RenewError::from),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(membership) => {
            tracing::info!(until = %membership.certificate.term.not_after, "the certificate was renewed");
        }
        Err(error) => tracing::warn!(%error, "the new certificate is of no use; the one known stays"),
    }
    *shown = Some(bytes);
}

/// Spreads the revocation in a file, then removes it; one that is refused is put aside under another name.
async fn take(parts: &Parts, file: &Path) {
    let outcome = match state::read(file).map(|bytes| Revocation::from_text(&String::from_utf8_lossy(&bytes))) {
        Ok(Ok(revocation)) => parts.overlay().revoke(revocation).await.map_err(|error: RevokeError| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let moved = match outcome {
        Ok(()) => {
            // Kept before the file goes: a node that stops here still knows.
            super::keep::save_revocations(parts);
            tracing::info!(file = %file.display(), "a place was taken back, and every node is told");
            fs::remove_file(file)
        }
        Err(error) => {
            tracing::warn!(file = %file.display(), error, "a revocation is of no use, and is put aside as .refused");
            fs::rename(file, aside(file))
        }
    };
    if let Err(error) = moved {
        tracing::warn!(file = %file.display(), %error, "a revocation cannot be put away and is looked at again");
    }
}

/// The files in a folder that have not been put aside, at most [`AT_ONCE`]; none if there is no such folder.
fn revocations(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).into_iter().flatten().filter_map(io::Result::ok).map(|entry| entry.path());
    files.filter(|path| path.is_file() && path.extension().is_none_or(|end| end != REFUSED)).take(AT_ONCE).collect()
}

fn aside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(REFUSED);
    name.into()
}

/// Why a renewal was not taken.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Text(#[from] TextError),
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Files taken in one look.
const AT_ONCE: usize = 64;

/// The folder in the state directory.
const INBOX: &str = "revoke";

/// What the names of refused files end in.
const REFUSED: &str = "refused";
