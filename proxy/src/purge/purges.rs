//! [`Purges`]: takes purges in, gives them out, and says what they mean for an answer.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use atoll_overlay::{Index, NodeId, Roles, Streams, membership::NotBelieved};
use atoll_store::{PurgeKind, PurgeNumber, Store, StoreError};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use tokio::sync::watch;

use super::{
    config::Purging,
    ledger::{Bounds, Entry, Heads, Judged, Ledger, Purge},
    order::PurgeError,
    selector::Selector,
    step::Step,
    talk,
};
use crate::{body::Body, clock, deliver::text, meta::Meta};

/// What this node has purged, and how it keeps in step with others.
pub(crate) struct Purges {
    pub(super) config: Purging,
    pub(super) index: Arc<dyn Index>,
    pub(super) streams: Arc<dyn Streams>,
    pub(super) step: Step,
    store: Store,
    believed: HashSet<NodeId>,
    ledger: Mutex<Ledger>,
    /// Held while a purge is put in force: what the ledger says is applied is.
    applying: tokio::sync::Mutex<()>,
    /// Held from the choice of a number to its use.
    ordering: tokio::sync::Mutex<()>,
    /// The newest number that the store gave to one of these in this process.
    newest: AtomicU64,
    changed: watch::Sender<u64>,
}

/// Why a purge that somebody sent is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    NotBelieved(#[from] NotBelieved),
    #[error("{0} is not among those whose purges are believed here")]
    Stranger(NodeId),
    #[error("it is malformed, or of a version not known here")]
    Malformed,
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
}

impl Purges {
    /// The purges known from an earlier life; `saved` is what [`Self::save`] gave.
    pub(crate) fn new(
        config: &Purging,
        (index, streams, store): (Arc<dyn Index>, Arc<dyn Streams>, Store),
        saved: Option<&Bytes>,
    ) -> Self {
        let bounds = Bounds { records: config.records, signers: config.signers, keep: config.keep };
        let read = saved.and_then(|bytes| Ledger::load(bounds, bytes));
        if saved.is_some() && read.is_none() {
            tracing::warn!(
                "the saved purges cannot be read: they are heard from others again, and copies are revalidated"
            );
        }
        let known = read.as_ref().map(|(_, synced)| *synced);
        let (ledger, _) = read.unwrap_or_else(|| (Ledger::new(bounds), 0));
        store.set_filter(Arc::new(is_meant));
        let holds = store.stats().objects > 0;
        let me = index.me().id;
        let heard = ledger.iter().any(|entry| entry.signer != me);
        Self {
            step: Step::new(known, (holds, heard), config),
            believed: config
                .believed
                .iter()
                .filter_map(|id| id.parse::<atoll_overlay::Key>().ok())
                .map(NodeId::from)
                .collect(),
            ledger: Mutex::new(ledger),
            applying: tokio::sync::Mutex::default(),
            ordering: tokio::sync::Mutex::default(),
            newest: AtomicU64::new(0),
            changed: watch::Sender::new(0),
            config: config.clone(),
            index,
            streams,
            store,
        }
    }

    /// Purges here, and has every node told.
    pub(super) async fn order(&self, selector: Selector, hard: bool) -> Result<(NodeId, u64), PurgeError> {
        let me = self.index.me().id;
        let _turn = self.ordering.lock().await;
        let purge = self.ledger().next(me, unix_millis(clock::now()), selector, hard);
        let number = purge.number;
        let signed = self.index.sign(&purge.to_bytes(), Roles::PURGE)?;
        match self.enter(me, purge, signed.clone()).await? {
            Judged::New | Judged::Known => {}
            Judged::Passed | Judged::TooOld => return Err(PurgeError::Clock),
            Judged::NoRoom => return Err(PurgeError::Signers(self.config.signers)),
        }
        if let Err(error) = self.index.spread(signed).await {
            tracing::warn!(%error, "a purge could not be spread; peers are told one by one");
        }
        self.step.hurry();
        Ok((me, number))
    }

    /// Takes in what somebody signed.
    pub(super) async fn take(&self, signed: &[u8]) -> Result<Judged, Refusal> {
        let (signer, purge) = self.read(signed)?;
        Ok(self.enter(signer, purge, Bytes::copy_from_slice(signed)).await?)
    }

    /// Whose purge this is, if it is one to be believed.
    pub(super) fn read(&self, signed: &[u8]) -> Result<(NodeId, Purge), Refusal> {
        let said = self.index.believe(signed, Roles::PURGE)?;
        if !self.believed.is_empty() && !self.believed.contains(&said.signer) {
            return Err(Refusal::Stranger(said.signer));
        }
        let purge = Purge::from_bytes(&said.words).ok_or(Refusal::Malformed)?;
        if purge.number > unix_millis(clock::now()).saturating_add(FUTURE) {
            return Err(NotBelieved::Future.into());
        }
        Ok((said.signer, purge))
    }

    /// Takes in what was heard, and tells why if it is refused.
    pub(super) async fn hear(&self, signed: &[u8]) {
        match self.take(signed).await {
            Ok(Judged::New | Judged::Known) => {}
            Ok(why @ (Judged::Passed | Judged::TooOld | Judged::NoRoom)) => {
                metrics::counter!("atoll_purges_refused_total").increment(1);
                tracing::debug!(?why, "a purge is not taken");
            }
            Err(error) => Self::refuse(&error),
        }
    }

    /// Counts what is not believed.
    pub(super) fn refuse(error: &Refusal) {
        metrics::counter!("atoll_purges_refused_total").increment(1);
        // No louder: whoever makes noise shall not fill the log.
        tracing::debug!(%error, "a purge is not taken");
    }

    /// Has everything stored confirmed by the origin before it is used again, since purges may have been missed; `then` changes the
    /// ledger in the same turn.
    pub(super) async fn revalidate(&self, why: &str, then: impl FnOnce(&mut Ledger) + Send) -> Result<(), StoreError> {
        let _turn = self.applying.lock().await;
        tracing::warn!(why, "purges may have been missed: everything stored is revalidated");
        self.store.purge(atoll_store::Selector::All, PurgeKind::Soft).await?;
        then(&mut self.ledger());
        self.note_change();
        Ok(())
    }

    /// Answers a peer that compares.
    pub(crate) async fn answer(&self, fields: &HeaderMap) -> Response<Body> {
        let pushed = talk::pushed(fields);
        for signed in pushed {
            self.hear(&signed).await;
        }
        if fields.get(&talk::ATOLL_PURGES).is_none() {
            return text(StatusCode::BAD_REQUEST, "no request of a peer\n");
        }
        talk::answer(&self.ledger(), &talk::heads_in(fields))
    }

    /// What has been applied here.
    pub(crate) fn heads(&self) -> Heads {
        self.ledger().heads()
    }

    /// Whether a copy is older than a purge: one that means it, and that its fetcher had not applied.
    pub(crate) fn outdates(&self, answer: &Meta) -> bool {
        self.ledger().outdates(&answer.vouched.as_of.heads, answer)
    }

    /// Whether a purge has taken an answer whose request began at this number. Nothing but a comparison where none came since.
    pub(crate) fn took(&self, born: PurgeNumber, answer: &Meta) -> bool {
        self.took_answer(born, &answer.url, &answer.fields)
    }

    /// The same of an answer with this URL and these fields.
    pub(crate) fn took_answer(&self, born: PurgeNumber, url: &str, fields: &HeaderMap) -> bool {
        self.newest.load(Ordering::SeqCst) > born.0 && self.ledger().took(born, url, fields)
    }

    /// Whether a hard purge has taken it: nothing of it is kept.
    pub(crate) fn gave_up(&self, born: PurgeNumber, answer: &Meta) -> bool {
        self.ledger().gave_up(born, answer)
    }

    /// Whether a copy received then is to be confirmed by the origin because purges may have been missed.
    pub(crate) fn doubts(&self, received: SystemTime) -> bool {
        self.step.doubts(received, self.config.doubt)
    }

    /// As bytes for the next start.
    pub(crate) fn save(&self) -> Bytes {
        self.ledger().save(self.step.synced())
    }

    /// Counts changes of what [`Self::save`] gives.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Held for moments only.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enter(&self, signer: NodeId, purge: Purge, signed: Bytes) -> Result<Judged, StoreError> {
        let _turn = self.applying.lock().await;
        let now = unix_millis(clock::now());
        let judged = {
            let mut ledger = self.ledger();
            ledger.forget(now);
            ledger.judge(signer, &purge, now)
        };
        if judged != Judged::New {
            return Ok(judged);
        }
        let kind = if purge.hard { PurgeKind::Hard } else { PurgeKind::Soft };
        let applied = self.store.purge(purge.selector.for_store(), kind).await?;
        let late = Duration::from_millis(now.saturating_sub(purge.number));
        metrics::histogram!("atoll_purge_lag_seconds").record(late.as_secs_f64());
        tracing::info!(by = %signer, what = %purge.selector, hard = purge.hard, ?late, "purged");
        self.ledger().add(Entry { signer, purge, signed, applied }, now);
        self.newest.fetch_max(applied.0, Ordering::SeqCst);
        self.note_change();
        Ok(judged)
    }

    pub(super) fn note_change(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// The store's question about an object: whether these words mean it. Rather too much is purged than too little.
fn is_meant(selector: &[u8], metadata: &[u8]) -> bool {
    let answer = Meta::decode_stored(&Bytes::copy_from_slice(metadata));
    Selector::from_bytes(selector).zip(answer).is_none_or(|(selector, answer)| selector.means(&answer))
}

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_millis(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds by which a signer's clock may be ahead: a day, as for certificates.
const FUTURE: u64 = 86_400_000;
