//! The keeper of one flight: beats its lease every 300 ms while bytes, or the origin's silence, go on; keeps the growing copy
//! announced; gives way to a lower lease while nothing has come yet.

use std::{
    convert::Infallible,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use atoll_overlay::{Acquire, Acquired, Beat, Key, Lease, Marker, Value};
use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::{
    cache::Cache,
    flight::{Flight, Lead},
    reference::Reference,
};

/// Keeps a flight's lease beating and its reference alive while the flight lasts, in the task of whoever leads it.
pub(crate) struct Keeper {
    held: Arc<Held>,
    superseded: watch::Receiver<Option<Value>>,
}

/// What the keeper reports on.
struct Held {
    cache: Arc<Cache>,
    flight: Arc<Flight>,
    state: Mutex<State>,
}

struct State {
    key: Key,
    lease: Option<Lease>,
    /// None was granted, since there was nobody to ask, or nobody answered.
    leaseless: bool,
    /// Bytes have come: the copy is announced and kept so.
    announced: bool,
    /// The next beat is to announce it.
    due: bool,
    /// What a lease that is granted after all is for.
    late: Late,
}

/// What becomes of a lease that is granted while the flight ends.
#[derive(Clone)]
enum Late {
    /// It is beaten while the flight goes on.
    Held,
    /// The copy is whole: this is where.
    Told(Bytes),
    /// There is nothing to show for it.
    GivenBack,
}

/// What waiting under a lease came to.
pub(crate) enum Kept<T> {
    Ready(T),
    Superseded(Value),
}

impl Keeper {
    /// The keeper, and what it does as long as it is polled.
    pub(crate) fn start(cache: &Arc<Cache>, lead: &Lead, key: Key) -> (Self, impl Future<Output = Infallible> + use<>) {
        let state = State { key, lease: None, leaseless: false, announced: false, due: false, late: Late::Held };
        let state = Mutex::new(state);
        let held = Arc::new(Held { cache: Arc::clone(cache), flight: lead.flight(), state });
        let (tell, superseded) = watch::channel(None);
        let kept = keep(Arc::clone(&held), tell);
        (Self { held, superseded }, kept)
    }

    pub(crate) fn hold(&self, lease: Lease) {
        self.held.state().lease = Some(lease);
    }

    /// The origin is asked without a lease, since nobody else is there, or the root of the key did not answer in time. While the fetch goes
    /// on one is asked for, as soon as somebody is there: so others learn of it.
    pub(crate) fn without_lease(&self) {
        self.held.state().leaseless = true;
    }

    /// The first bytes are here, of so many. What is soon whole is announced as that, or with the next beat if it is not: until then
    /// the lease's own reference names this node.
    pub(crate) fn announce(&self, length: Option<u64>) {
        let mut state = self.held.state();
        state.announced = true;
        if length.is_some_and(|length| length <= SOON_WHOLE) {
            state.due = true;
            return;
        }
        if let Some(announcer) = self.held.cache.announcer() {
            announcer.growing(state.key, &self.held.flight.reference());
        }
    }

    /// Replaces the lease by a marker, beside what goes on.
    pub(crate) fn pass(&self, marker: Marker) {
        let Some(lease) = self.held.state().lease.take() else { return };
        let held = Arc::clone(&self.held);
        tokio::spawn(async move { held.mark(lease, marker).await });
    }

    /// The flight goes on under a variant's key, which is acquired anew. If somebody else has it, this answer, which is here
    /// already, goes on beside theirs. Only then does the URL's key say by what its answers vary: whoever reads that finds the
    /// variant taken.
    pub(crate) fn vary(&self, names: Vec<String>, variant: Key) {
        let lease = {
            let mut state = self.held.state();
            state.key = variant;
            if state.leaseless {
                return;
            }
            state.lease.take()
        };
        let acquire = Acquire {
            key: variant,
            reference: self.held.flight.reference().value(),
            ttl: self.held.cache.config.peers.reference_fill,
            failed: Vec::new(),
        };
        let held = Arc::clone(&self.held);
        tokio::spawn(async move {
            if let Ok(Acquired::Granted(granted)) = held.cache.index.acquire(acquire).await {
                held.granted(granted).await;
            }
            if let Some(lease) = lease {
                held.mark(lease, Marker::Vary(names)).await;
            }
        });
    }

    /// The copy is whole: the lease ends with its reference, which stands for as long as the copy is fresh.
    pub(crate) fn whole(&self, key: Key, reference: Reference, fresh: impl FnOnce() -> Duration) {
        // A node that gives nothing away has nothing to say; its lease is given back when the flight ends.
        let lease = if self.held.cache.config.peers.upstream_only {
            None
        } else {
            let mut state = self.held.state();
            state.late = Late::Told(reference.value());
            state.lease.take()
        };
        if let Some(lease) = lease {
            let (held, value) = (Arc::clone(&self.held), reference.value());
            tokio::spawn(async move { held.tell(lease, value).await });
        }
        let Some(announcer) = self.held.cache.announcer() else { return };
        let fresh = fresh();
        // Peers are given fresh copies only.
        if !fresh.is_zero() {
            announcer.whole(key, reference, fresh);
        }
    }

    /// The flight ended well. A lease that is held still has nothing to show for it: whoever asks next is to be granted one at once, and
    /// not to wait until it lapses.
    pub(crate) fn release(&self) {
        let lease = {
            let mut state = self.held.state();
            if matches!(state.late, Late::Held) {
                state.late = Late::GivenBack;
            }
            state.lease.take()
        };
        if let Some(lease) = lease {
            let held = Arc::clone(&self.held);
            tokio::spawn(async move { held.release(lease).await });
        }
    }

    /// Waits for the origin, showing everyone that it is waited for.
    pub(crate) async fn beating<T>(&self, lead: &Lead, waited: impl Future<Output = T>) -> T {
        tokio::pin!(waited);
        loop {
            tokio::select! {
                biased;
                done = &mut waited => return done,
                () = sleep(SIGN_OF_LIFE) => lead.beat(),
            }
        }
    }

    /// As [`Self::beating`]; gives way to a lower lease.
    pub(crate) async fn alive<T>(&self, lead: &Lead, waited: impl Future<Output = T>) -> Kept<T> {
        let mut superseded = self.superseded.clone();
        // A holder that was given way to before, and failed, is not given way to again.
        superseded.mark_unchanged();
        let lower = async {
            let changed = superseded.changed().await;
            let value = superseded.borrow().clone();
            match (changed, value) {
                (Ok(()), Some(value)) => value,
                (Ok(()), None) | (Err(_), _) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            done = self.beating(lead, waited) => Kept::Ready(done),
            value = lower => Kept::Superseded(value),
        }
    }
}

impl Held {
    /// A lease for what goes on already; or who else has one.
    async fn lease_at_last(&self, key: Key, reference: &Reference) -> Option<Value> {
        let ttl = self.cache.config.peers.reference_fill;
        let acquire = Acquire { key, reference: reference.value(), ttl, failed: Vec::new() };
        let acquired = self.cache.index.acquire(acquire).await;
        let mut state = self.state();
        // What turned out meanwhile to be a variant of its own needs a lease of its own, and so does what got no answer.
        state.leaseless = state.key != key || acquired.is_err();
        if state.leaseless {
            return None;
        }
        match acquired {
            Ok(Acquired::Granted(lease)) => {
                state.lease = Some(lease);
                None
            }
            Ok(Acquired::References(values)) => values.into_iter().next(),
            Ok(Acquired::Marked(_)) | Err(_) => None,
        }
    }

    /// Another has a lower lease than this one: who that is, if this fetch gives way to it.
    fn gives_way(&self, lease: Lease, to: Value) -> Option<Value> {
        let mut state = self.state();
        // Of several beats under way the first says it.
        if state.lease != Some(lease) {
            return None;
        }
        state.lease = None;
        // Once bytes flow somebody depends on them, and this fetch goes on beside the other.
        (!state.announced).then_some(to)
    }

    /// A lease is granted, be it late.
    async fn granted(&self, lease: Lease) {
        let late = {
            let mut state = self.state();
            if matches!(state.late, Late::Held) {
                state.lease = Some(lease);
            }
            state.late.clone()
        };
        match late {
            Late::Held => {}
            Late::Told(value) => self.tell(lease, value).await,
            Late::GivenBack => self.release(lease).await,
        }
    }

    /// A last beat, which says where the copy is.
    async fn tell(&self, lease: Lease, value: Bytes) {
        if let Err(error) = self.cache.index.beat(&lease, value).await {
            tracing::debug!(%error, "a last beat was lost; the announcement says the same");
        }
    }

    /// The index has its own time-out, after which the lease lapses.
    async fn release(&self, lease: Lease) {
        if let Err(error) = self.cache.index.release(lease).await {
            tracing::debug!(%error, "a lease could not be given back");
        }
    }

    /// The index has its own time-out.
    async fn mark(&self, lease: Lease, marker: Marker) {
        if let Err(error) = self.cache.index.pass(lease, marker).await {
            tracing::debug!(%error, "a lease could not be replaced by a marker");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What goes on beside the fetch: a beat every 300 ms, the growing copy announced again before its 20 s are over.
async fn keep(held: Arc<Held>, superseded: watch::Sender<Option<Value>>) -> Infallible {
    let peers = &held.cache.config.peers;
    let mut told = Instant::now();
    let mut rounds = interval(peers.beat);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    rounds.tick().await;
    // The root of a key may be far, and a beat on its way may have to be sent again: the next does not wait for it.
    let mut beats = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some((lease, beat)) = beats.next(), if !beats.is_empty() => {
                if let Ok(Beat::Superseded(value)) = beat && let Some(value) = held.gives_way(lease, value) {
                    superseded.send_replace(Some(value));
                }
                continue;
            }
            _ = rounds.tick() => {}
        }
        let (lease, announced, due, key, leaseless, ended) = {
            let mut state = held.state();
            let few = held.flight.is_for_few();
            // Nobody else may have it: whoever asks next fetches anew.
            let ended = if few { state.lease.take() } else { None };
            state.leaseless &= !few;
            state.announced &= !few;
            let due = std::mem::take(&mut state.due);
            (state.lease, state.announced, due, state.key, state.leaseless, ended)
        };
        if let Some(ended) = ended {
            held.release(ended).await;
        }
        let reference = held.flight.reference();
        if announced && (due || told.elapsed() >= peers.reference_fill / 2) {
            told = Instant::now();
            if let Some(announcer) = held.cache.announcer() {
                announcer.growing(key, &reference);
            }
        }
        let lease = match lease {
            Some(lease) => lease,
            None if leaseless && !held.cache.index.is_alone() => {
                if let Some(value) = held.lease_at_last(key, &reference).await
                    && !announced
                {
                    superseded.send_replace(Some(value));
                }
                continue;
            }
            None => continue,
        };
        if beats.len() < BEATS {
            let index = Arc::clone(&held.cache.index);
            beats.push(async move { (lease, index.beat(&lease, reference.value()).await) });
        }
    }
}

/// Beats of one lease on their way at once: more than come to be within the time that the index gives each.
const BEATS: usize = 8;

/// How often a fetcher shows that the origin is still waited for: well within a peer's patience of 250 ms.
const SIGN_OF_LIFE: Duration = Duration::from_millis(100);

/// Bytes of a body that is likely to be whole before the next beat: what comes with the head, and a window or two more.
const SOON_WHOLE: u64 = 64 << 10;
