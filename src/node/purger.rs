//! Purges of a running node: given to its proxy, written to the state directory before they are acknowledged, and again whenever
//! others have purged.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use atoll_proxy::Proxy;

use super::parts::Parts;
use crate::{
    purging::{CopiesOf, Order, PurgeReport, Purger},
    state::{Kept, State, StateError},
};

#[async_trait]
impl Purger for Parts {
    async fn purge(&self, order: Order) -> Result<PurgeReport, String> {
        let Some(proxy) = self.proxy() else { return Err("this node runs no proxy".to_owned()) };
        let report = proxy.purge(order.target, order.hard, order.wait).await.map_err(|error| error.to_string())?;
        let file = self.purges_file(proxy);
        let saved = tokio::task::spawn_blocking(move || file.save()).await.map_err(|error| error.to_string())?;
        saved.map_err(|error| {
            format!("in force, and lost if this node stops before others have heard of it: {error}")
        })?;
        Ok(report)
    }

    fn purges(&self) -> Vec<PurgeReport> {
        self.proxy().map_or_else(Vec::new, |proxy| proxy.purges(SHOWN))
    }

    async fn copies(&self, url: &str) -> Result<CopiesOf, String> {
        let Some(proxy) = self.proxy() else { return Err("this node runs no proxy".to_owned()) };
        proxy.copies(url).await.map_err(|error| error.to_string())
    }
}

/// Where purges are kept, and what there is to keep.
pub(super) struct PurgesFile {
    pub(super) state: Arc<State>,
    pub(super) proxy: Arc<Proxy>,
}

impl PurgesFile {
    fn save(&self) -> Result<(), StateError> {
        self.state.save_made(Kept::Purges, || self.proxy.save_purges())
    }
}

/// Writes what others have purged, a moment after it came. Runs until aborted.
pub(super) async fn keep(parts: Arc<Parts>) {
    let Some(proxy) = parts.proxy() else { return };
    let mut changes = proxy.purge_changes();
    while changes.changed().await.is_ok() {
        // Many at once are written once.
        tokio::time::sleep(PAUSE).await;
        changes.mark_unchanged();
        let parts = Arc::clone(&parts);
        let _ = tokio::task::spawn_blocking(move || save(&parts)).await;
    }
}

/// Writes the purges known.
pub(super) fn save(parts: &Parts) {
    if let Some(proxy) = parts.proxy()
        && let Err(error) = parts.purges_file(proxy).save()
    {
        tracing::warn!(%error, "purges could not be saved");
    }
}

/// Purges shown to an operator, newest first.
const SHOWN: usize = 64;

/// How long a change may stay unwritten: what a crash loses is heard from others again.
const PAUSE: Duration = Duration::from_millis(200);
