//! What a manager does by itself: dials its peers back, says how they stand, collects its own records, samples what peers serve.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{
    office::Office,
    sample,
    token::{Secret, nonce},
    wire::{Hello, hello_proves},
};
use crate::front::ask::{Bounds, Place, Question, ask};

/// Runs until dropped.
pub(super) async fn watch(office: Arc<Office>) {
    let dialling = Arc::new(Mutex::new(BTreeSet::new()));
    let mut dials = JoinSet::new();
    let mut look = interval(LOOK);
    let mut samples = interval(SAMPLE);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    samples.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stood = BTreeMap::new();
    loop {
        tokio::select! {
            _ = look.tick() => {
                collect(&office);
                look_at(&office);
                tell(&office, &mut stood);
                dial_all(&office, &dialling, &mut dials);
            }
            _ = samples.tick() => {
                if dials.len() < DIALS {
                    dials.spawn(sample::one(Arc::clone(&office)));
                }
            }
            Some(_) = dials.join_next() => {}
            () = office.service.meter.half_full() => collect(&office),
        }
    }
}

/// Dials a peer: the round trip, or why it is not found there.
pub(crate) async fn dial(place: &Place, session: &Secret) -> Result<Duration, String> {
    let nonce = nonce();
    let question = Question::get(format!("/_atoll/hello?nonce={nonce}"));
    let (reply, round_trip) = ask(place, question, HELLO).await.map_err(|error| error.to_string())?;
    let hello = reply.json::<Hello>().map_err(|_| "another machine answers there".to_owned())?;
    let proved = hello_proves(session, &hello.proof, &nonce, &place.to_string());
    if proved { Ok(round_trip) } else { Err("another machine answers there".to_owned()) }
}

fn dial_all(office: &Arc<Office>, dialling: &Arc<Mutex<BTreeSet<String>>>, dials: &mut JoinSet<()>) {
    let due = office.roster().to_dial(Instant::now());
    for (name, place, session) in due {
        let mut under_way = dialling.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.len() >= DIALS || !under_way.insert(name.clone()) {
            continue;
        }
        drop(under_way);
        let (office, dialling) = (Arc::clone(office), Arc::clone(dialling));
        dials.spawn(async move {
            let came = dial(&place, &session).await;
            if let Err(why) = &came {
                tracing::warn!(peer = name, url = %place, "nobody is led to this peer: it is not at its address: {why}");
            }
            office.roster().dialled(Instant::now(), &name, came);
            dialling.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        });
    }
}

/// Logs peers that begin or cease to take clients.
fn tell(office: &Office, stood: &mut BTreeMap<String, bool>) {
    let views = office.roster().views(Instant::now());
    for view in &views {
        let before = stood.insert(view.name.clone(), view.live).unwrap_or(false);
        if view.live && !before {
            tracing::info!(peer = view.name, url = view.url, "takes clients");
        } else if before && !view.live {
            tracing::info!(peer = view.name, url = view.url, "takes no clients: {}", view.standing);
        }
    }
    if stood.len() > views.len() {
        stood.retain(|name, _| views.iter().any(|view| view.name == *name));
    }
}

/// Forgets whom nobody has heard for long, and knows whether anybody is left.
fn look_at(office: &Office) {
    let mut roster = office.roster();
    let now = Instant::now();
    roster.forget(now);
    office.alone.store(!roster.hears(now), Ordering::Relaxed);
}

/// The manager's own records go into the log as its peers' do.
pub(super) fn collect(office: &Office) {
    let (url, private) = office.service.meter.tells_as();
    loop {
        let ended = office.service.meter.take(COLLECTED);
        if ended.is_empty() {
            return;
        }
        office.note(ended.iter().map(|ended| ended.record(&url, private)).collect(), None);
    }
}

/// Between two looks at all peers.
const LOOK: Duration = Duration::from_millis(100);

/// Between two samples. `[guess]`
const SAMPLE: Duration = Duration::from_secs(1);

/// Dials and samples under way.
const DIALS: usize = 64;

/// For a peer to say who it is.
const HELLO: Bounds = Bounds { time: Duration::from_secs(2), bytes: 4_096 };

/// Own records taken at a time.
const COLLECTED: usize = 256;
