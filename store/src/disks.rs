//! The disks of a store: each key has its home on one of them, and a disk that failed for good is left out.
//!
//! Homes are drawn by rendezvous hashing under the seeds in the directories: a disk more or less moves only the keys that it
//! gains or gives up. A disk that is given up while the store runs takes no more writes; its keys live in RAM. A note in
//! its directory, and in the others' for when it cannot be written, keeps it out at the next start, and its keys move to
//! the others. It is used again once emptied, since what it held may be older than what took its place.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::Config;
use crate::disk::Disk;
use crate::engine::{Engine, Shape};
use crate::error::OpenError;
use crate::key::Key;
use crate::purge_log::Book;
use crate::recover::{self, Refusal, VERSION};
use crate::stats::{DiskState, Stats};

/// A directory and the calls that reach it.
pub(crate) type Place = (PathBuf, Arc<dyn Disk>);

/// The disks in use.
#[derive(Default)]
pub(crate) struct Disks {
    engines: Box<[Engine]>,
    places: Box<[PathBuf]>,
    /// Whether a note stands that this one was given up.
    noted: Box<[AtomicBool]>,
    /// The worst state of those that are left out.
    left_out: DiskState,
}

impl Disks {
    /// Opens all of them, leaving out those that are bad. Blocks.
    pub(crate) fn open(mut places: Vec<Place>, config: &Config, book: &Arc<Book>) -> Result<Self, OpenError> {
        let shape = Shape {
            segment: config.segment.0 / 16 * 16,
            capacity: config.capacity.0,
            reinsertion_percent: u64::from(config.reinsertion_percent),
            retry: config.disk_retry,
            failures: config.disk_failures,
        };
        let mut left_out = DiskState::Absent;
        loop {
            let (number, refusal) = match open_all(&places, shape, book) {
                Ok(engines) => {
                    let noted = places.iter().map(|_| AtomicBool::new(false)).collect();
                    let places = places.into_iter().map(|(path, _)| path).collect();
                    return Ok(Self { engines: engines.into(), places, noted, left_out });
                }
                Err(refused) => refused,
            };
            let (directory, _) = places.remove(number);
            match refusal {
                Refusal::Bad => {
                    tracing::error!(?directory, "a disk that was given up is left out; empty it once it is well");
                    left_out = DiskState::Bad;
                }
                Refusal::Disk(action, error) if !is_mistake(&error) => {
                    tracing::error!(?directory, action, %error, "a disk that fails is left out");
                    left_out = left_out.max(DiskState::Failed);
                }
                Refusal::Disk(action, source) => return Err(OpenError::Disk { directory, action, source }),
                Refusal::Locked => return Err(OpenError::Locked { directory }),
                Refusal::Version(found) => {
                    return Err(OpenError::Version { directory, found, supported: VERSION });
                }
                Refusal::Foreign(reason) => return Err(OpenError::Foreign { directory, reason }),
            }
        }
    }

    /// The home of a key; none if everything is in RAM.
    pub(crate) fn of(&self, key: &Key) -> Option<&Engine> {
        match &*self.engines {
            [] => None,
            [only] => Some(only),
            // By bits of the hash that the index leaves aside, or its shards would fill unevenly.
            several => several.iter().max_by_key(|engine| engine.hash(key) & 0xff_ffff),
        }
    }

    /// A disk by its number.
    pub(crate) fn at(&self, number: usize) -> Option<&Engine> {
        self.engines.get(number)
    }

    /// The directory of a disk.
    pub(crate) fn place(&self, number: usize) -> &Path {
        self.places.get(number).map_or_else(|| Path::new(""), PathBuf::as_path)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Engine> {
        self.engines.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.engines.is_empty()
    }

    /// Notes on disk which disks were given up since, in each directory that takes the note. Blocks.
    pub(crate) fn note_bad(&self) {
        for ((bad, place), noted) in self.engines.iter().zip(&self.places).zip(&self.noted) {
            if !bad.is_bad() || noted.swap(true, Ordering::Relaxed) {
                continue;
            }
            tracing::error!(directory = ?place, "a disk is given up: nothing is written to it any more");
            metrics::counter!("atoll_store_disks_given_up_total").increment(1);
            let place = place.display().to_string();
            let mut notes = 0;
            for engine in &self.engines {
                let seed = (engine.number != bad.number).then_some(bad.seed);
                notes += u32::from(recover::write_bad(&*engine.disk, seed, &place).is_ok());
            }
            if notes == 0 {
                tracing::warn!(directory = place, "that the disk is bad could not be noted anywhere");
            }
        }
    }

    /// The directory of each disk in use, and how it does.
    pub(crate) fn states(&self) -> Vec<(PathBuf, DiskState)> {
        self.places.iter().cloned().zip(self.engines.iter().map(Engine::state)).collect()
    }

    /// Adds what the disks know.
    pub(crate) fn report(&self, stats: &mut Stats) {
        stats.disk = stats.disk.max(self.left_out);
        self.engines.iter().for_each(|engine| engine.report(stats));
    }
}

/// Opens these, or says which one stands in the way.
fn open_all(places: &[Place], shape: Shape, book: &Arc<Book>) -> Result<Vec<Engine>, (usize, Refusal)> {
    let mut findings = Vec::new();
    for (number, (_, disk)) in places.iter().enumerate() {
        findings.push(recover::find(Arc::clone(disk)).map_err(|refusal| (number, refusal))?);
    }
    for (number, finding) in findings.iter().enumerate() {
        if findings.iter().any(|other| other.distrusts(finding)) {
            return Err((number, Refusal::Bad));
        }
    }
    recover::open(findings, shape, book)
}

/// Whether an error of opening is the operator's to mend, not the disk's.
fn is_mistake(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, InvalidInput, NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), AlreadyExists | InvalidInput | NotADirectory | NotFound | PermissionDenied)
}
