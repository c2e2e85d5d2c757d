//! What a running node does by the clock: it saves what must survive, and tells its peers how busy it is.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{MissedTickBehavior, interval};

use super::parts::Parts;
use crate::state::Kept;

/// Runs until aborted.
pub(super) async fn keep(parts: Arc<Parts>) {
    tokio::join!(by_the_clock(Arc::clone(&parts)), super::purger::keep(parts));
}

async fn by_the_clock(parts: Arc<Parts>) {
    let mut describe = interval(DESCRIBE);
    let mut save_all = interval(SAVE);
    let (mut look, mut dns_set) = (interval(LOOK), None);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    describe.set_missed_tick_behavior(MissedTickBehavior::Delay);
    save_all.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = describe.tick() => parts.describe(),
            _ = save_all.tick() => save(&parts).await,
            _ = look.tick() => save_dns_set(&parts, &mut dns_set).await,
        }
    }
}

/// Writes peers, the last good DNS set and what was sent. What cannot be written is said and tried again next time.
pub(super) async fn save(parts: &Arc<Parts>) {
    let parts = Arc::clone(parts);
    let write = move || {
        save_revocations(&parts);
        super::purger::save(&parts);
        for (kept, bytes) in
            [(Kept::Peers, parts.peers()), (Kept::DnsSet, parts.dns_set()), (Kept::Shares, parts.shares())]
        {
            let Some(bytes) = bytes else { continue };
            if let Err(error) = parts.state().save(kept, &bytes) {
                tracing::warn!(%error, "state could not be saved");
            }
        }
    };
    // Syncing a file may take its time.
    let _ = tokio::task::spawn_blocking(write).await;
}

/// Writes the last good DNS set if it is another than the one written last: the first answers of the next start are made of it.
async fn save_dns_set(parts: &Arc<Parts>, last: &mut Option<Bytes>) {
    let set = parts.dns_set();
    if set == *last {
        return;
    }
    let (parts, bytes) = (Arc::clone(parts), set.clone());
    let write = move || bytes.is_none_or(|bytes| parts.state().save(Kept::DnsSet, &bytes).is_ok());
    // What cannot be written is said when all is saved.
    if tokio::task::spawn_blocking(write).await.unwrap_or(false) {
        *last = set;
    }
}

/// Writes the revocations known, unless it is an open network.
pub(super) fn save_revocations(parts: &Parts) {
    if let Some(bytes) = parts.overlay().save_revocations()
        && let Err(error) = parts.state().save(Kept::Revocations, &bytes)
    {
        tracing::warn!(%error, "revocations could not be saved");
    }
}

/// How often peers hear of this node's load.
const DESCRIBE: Duration = Duration::from_secs(5);

/// How often it is looked whether the set of live proxies has changed.
const LOOK: Duration = Duration::from_secs(1);

/// How often state is written: what is lost by a crash is at most so old.
const SAVE: Duration = Duration::from_secs(30);
