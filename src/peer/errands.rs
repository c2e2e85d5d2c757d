//! What a manager asks of a peer besides serving: to dial another peer, and to fetch files before a storm.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use tokio::task::JoinSet;

use super::lender::Lender;
use crate::{
    front::ask::{Bounds, Place, Question, ask},
    manager::wire::{Check, Checked, Hello, Warmed},
};

/// Errands under way and what came of them.
#[derive(Debug, Default)]
pub(crate) struct Errands {
    shared: Arc<Results>,
    tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Results {
    checked: Mutex<Vec<Checked>>,
    warmed: Mutex<BTreeMap<String, Warmed>>,
}

impl Errands {
    /// Dials other peers; a bounded number, more are left out and asked of somebody else.
    pub(crate) fn check(&mut self, checks: Vec<Check>) {
        while self.tasks.try_join_next().is_some() {}
        for check in checks.into_iter().take(ERRANDS.saturating_sub(self.tasks.len())) {
            let shared = Arc::clone(&self.shared);
            self.tasks.spawn(async move {
                let checked = dial(check).await;
                let mut done = lock(&shared.checked);
                if done.len() < ERRANDS {
                    done.push(checked);
                }
            });
        }
    }

    /// Fetches files that are not under way yet.
    pub(crate) fn warm(&mut self, lender: &Arc<Lender>, files: Vec<String>) {
        for file in files {
            let mut warmed = lock(&self.shared.warmed);
            if self.tasks.len() >= ERRANDS || warmed.contains_key(&file) {
                continue;
            }
            warmed.insert(file.clone(), Warmed { path: file.clone(), ..Warmed::default() });
            drop(warmed);
            let (shared, lender) = (Arc::clone(&self.shared), Arc::clone(lender));
            self.tasks.spawn(async move {
                let error = fetch(&lender, &shared, &file).await.err().unwrap_or_default();
                let mut warmed = lock(&shared.warmed);
                if let Some(at) = warmed.get_mut(&file) {
                    at.done = error.is_empty();
                    at.error = error;
                }
            });
        }
    }

    /// What came since the last time; of files, those that have ended are told once more and then forgotten.
    pub(crate) fn results(&self) -> (Vec<Checked>, Vec<Warmed>) {
        let checked = lock(&self.shared.checked).clone();
        let warmed = lock(&self.shared.warmed).values().cloned().collect();
        (checked, warmed)
    }

    /// These results have arrived.
    pub(crate) fn told(&self, checked: usize, warmed: &[Warmed]) {
        lock(&self.shared.checked).drain(..checked);
        let ended = warmed.iter().filter(|at| at.done || !at.error.is_empty());
        let mut all = lock(&self.shared.warmed);
        ended.for_each(|at| {
            all.remove(&at.path);
        });
    }
}

async fn dial(check: Check) -> Checked {
    let failed =
        |error: String| Checked { peer: check.peer.clone(), nonce: check.nonce.clone(), proof: String::new(), error };
    let place = match Place::parse(&check.url) {
        Ok(place) => place,
        Err(error) => return failed(error),
    };
    let question = Question::get(format!("/_atoll/hello?nonce={}", check.nonce));
    match ask(&place, question, BOUNDS).await {
        Ok((reply, _)) => match reply.json::<Hello>() {
            Ok(hello) => Checked { proof: hello.proof, ..failed(String::new()) },
            Err(_) => failed("another machine answers there".to_owned()),
        },
        Err(error) => failed(error.to_string()),
    }
}

/// Fetches a file as a client would, for nobody, and says how far it is.
async fn fetch(lender: &Lender, shared: &Results, file: &str) -> Result<(), String> {
    let request = lender.service.site.get(file).ok_or("the path cannot be asked for")?;
    let answer = lender.service.proxy.answer(request).await;
    if !answer.status().is_success() {
        return Err(format!("the backend answers {}", answer.status()));
    }
    let mut body = answer.into_body();
    let total = body.size_hint().exact();
    let note = |bytes: u64| {
        if let Some(at) = lock(&shared.warmed).get_mut(file) {
            at.got += bytes;
            at.total = total;
        }
    };
    note(0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        note(frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX)));
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Errands at a time.
const ERRANDS: usize = 16;

/// For another peer to say who it is.
const BOUNDS: Bounds = Bounds { time: Duration::from_secs(2), bytes: 4_096 };
