//! Prefetch: files that peers are to have before a storm. Each file is given to the peers that clients will be led to for it; these
//! say with every beat how far they are.
//!
//! `POST /_atoll/warm` with `{"copies":K,"files":[PATH, ...]}` answers `{"id":N}`; `GET /_atoll/warm/N` answers [`Progress`].

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::{office::Office, wire::Warmed};
use crate::front::body::{FrontBody, json, text};

/// All that was asked for, the oldest forgotten first.
#[derive(Debug, Default)]
pub(crate) struct Warms {
    jobs: Mutex<VecDeque<Job>>,
}

#[derive(Debug)]
struct Job {
    id: u64,
    copies: Vec<Copy>,
}

/// One file at one peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Copy {
    pub(crate) peer: String,
    pub(crate) url: String,
    #[serde(flatten)]
    pub(crate) at: Warmed,
}

/// What is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// Peers that are to have each file.
    pub(crate) copies: usize,
    /// Paths of the backend.
    pub(crate) files: Vec<String>,
}

/// How far a job is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) id: u64,
    pub(crate) copies: Vec<Copy>,
}

/// Answers what is asked about warming.
pub(super) fn answer(office: &Office, words: &[&str], is_get: bool, body: Option<Bytes>) -> Response<FrontBody> {
    match (words, is_get) {
        (["_atoll", "warm"], false) => {
            let wanted = body.and_then(|body| serde_json::from_slice::<Wanted>(&body).ok());
            let Some(wanted) = wanted else { return text(StatusCode::BAD_REQUEST, "this is no list of files") };
            if let Some(wrong) = wanted.files.iter().find(|file| !is_path(file)) {
                return text(
                    StatusCode::BAD_REQUEST,
                    &format!("{wrong:?} is no path of the backend, such as /big.iso"),
                );
            }
            match office.warms.begin(office, &wanted) {
                Ok(id) => json(StatusCode::ACCEPTED, &Progress { id, copies: office.warms.of(id).unwrap_or_default() }),
                Err(why) => text(StatusCode::CONFLICT, why),
            }
        }
        (["_atoll", "warm", id], true) => match id.parse().ok().and_then(|id| Some((id, office.warms.of(id)?))) {
            Some((id, copies)) => json(StatusCode::OK, &Progress { id, copies }),
            None => text(StatusCode::NOT_FOUND, "no such job, or it is forgotten"),
        },
        _ => text(StatusCode::NOT_FOUND, "POST /_atoll/warm, then GET /_atoll/warm/N"),
    }
}

impl Warms {
    fn begin(&self, office: &Office, wanted: &Wanted) -> Result<u64, &'static str> {
        if wanted.files.len() > FILES {
            return Err("at most 1000 files at a time");
        }
        let now = Instant::now();
        let mut copies = Vec::new();
        for file in &wanted.files {
            let homes = office.roster().homes(now, file, wanted.copies.clamp(1, COPIES));
            let at = |(peer, url): (String, crate::front::ask::Place)| Copy {
                peer,
                url: url.to_string(),
                at: Warmed { path: file.clone(), ..Warmed::default() },
            };
            copies.extend(homes.into_iter().map(at));
        }
        if copies.is_empty() {
            return Err("no peer takes clients now: there is nobody to give the files to");
        }
        let mut jobs = self.lock();
        let id = jobs.back().map_or(1, |last| last.id + 1);
        if jobs.len() >= JOBS {
            jobs.pop_front();
        }
        jobs.push_back(Job { id, copies });
        Ok(id)
    }

    /// Takes in how far a peer is; what it is to fetch still, at most [`AT_ONCE`].
    pub(crate) fn orders(&self, peer: &str, warmed: &[Warmed]) -> Vec<String> {
        let mut jobs = self.lock();
        let mut left: BTreeMap<String, ()> = BTreeMap::new();
        let copies = jobs.iter_mut().flat_map(|job| &mut job.copies);
        for copy in copies.filter(|copy| copy.peer == peer && !copy.at.done && copy.at.error.is_empty()) {
            if let Some(at) = warmed.iter().find(|at| at.path == copy.at.path) {
                copy.at = Warmed { error: crate::out::plain(&at.error).chars().take(200).collect(), ..at.clone() };
            }
            if !copy.at.done && copy.at.error.is_empty() && left.len() < AT_ONCE {
                left.insert(copy.at.path.clone(), ());
            }
        }
        left.into_keys().collect()
    }

    fn of(&self, id: u64) -> Option<Vec<Copy>> {
        self.lock().iter().find(|job| job.id == id).map(|job| job.copies.clone())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a text can be asked of the backend.
fn is_path(file: &str) -> bool {
    file.starts_with('/')
        && file.len() <= 16_384
        && file.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b'#')
}

/// Files in a job.
const FILES: usize = 1_000;

/// Peers that get one file.
const COPIES: usize = 64;

/// Jobs remembered.
const JOBS: usize = 64;

/// Files a peer fetches at a time.
const AT_ONCE: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_told_what_is_left_and_a_failure_ends_a_file() {
        let warms = Warms::default();
        let copy = |path: &str| Copy {
            peer: "p".to_owned(),
            url: String::new(),
            at: Warmed { path: path.to_owned(), ..Warmed::default() },
        };
        warms.lock().push_back(Job { id: 1, copies: ["/a", "/b", "/c"].map(copy).to_vec() });
        assert_eq!(warms.orders("other", &[]), Vec::<String>::new());
        assert_eq!(warms.orders("p", &[]), ["/a", "/b"]);
        let whole = Warmed { path: "/a".into(), got: 5, total: Some(5), done: true, error: String::new() };
        let broken = Warmed { path: "/b".into(), error: "404\u{1b}".into(), ..Warmed::default() };
        assert_eq!(warms.orders("p", &[whole, broken]), ["/c"]);
        let copies = warms.of(1).unwrap();
        assert!(copies[0].at.done && copies[1].at.error == "404\\u{1b}");
        assert!(warms.of(2).is_none());
    }
}
