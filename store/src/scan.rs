//! Everything on disk, record by record: what is verified, and what is exported.

use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::Engine;
use crate::key::Key;
use crate::load::Fault;
use crate::record::{Kind, Place};
use crate::segment::name;
use crate::tiers::Tiers;
use crate::walk::Walk;

/// How much of each record is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Header and metadata.
    Heads,
    /// All of it, held against its checksums.
    Bodies,
}

/// A pass over what is on disk, a batch of records at a time, oldest first.
pub struct Scan {
    tiers: Arc<Tiers>,
    depth: Depth,
    course: Course,
    total: u64,
}

/// How far a pass is. It is away on a blocking thread while a batch is read.
#[derive(Default)]
struct Course {
    /// The disk and number of each segment that is to come, and its bytes.
    segments: std::vec::IntoIter<(usize, u64, u64)>,
    walk: Option<(usize, Walk)>,
    done: u64,
}

/// Some records.
#[derive(Debug, Default)]
pub struct Batch {
    /// Keys that lead to a record among these: what a get would find, unless it is purged or has expired.
    pub live: Vec<Key>,
    /// Records that were read.
    pub records: u64,
    /// Those that are not what was written, or cannot be read.
    pub damaged: Vec<Damage>,
}

/// Where a record is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment's file.
    pub file: PathBuf,
    /// The record's offset there, in bytes; `None` if the whole segment cannot be read.
    pub offset: Option<u64>,
    /// What is wrong.
    pub reason: String,
}

/// Records in a batch.
const BATCH: u64 = 256;

impl Scan {
    pub(crate) fn new(tiers: Arc<Tiers>, depth: Depth) -> Self {
        let segments: Vec<_> = tiers.disks.iter().flat_map(Engine::segment_sizes).collect();
        let total = segments.iter().map(|(_, _, bytes)| bytes).sum();
        let course = Course { segments: segments.into_iter(), ..Course::default() };
        Self { tiers, depth, course, total }
    }

    /// Bytes of all segments.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes of the segments that are done.
    pub fn done(&self) -> u64 {
        self.course.done
    }

    /// The next records; `None` at the end. Reads on a blocking thread.
    pub async fn next(&mut self) -> Option<Batch> {
        let (tiers, depth, mut course) = (Arc::clone(&self.tiers), self.depth, std::mem::take(&mut self.course));
        let read = self.tiers.pool.read(move || {
            let batch = course.batch(&tiers, depth);
            (course, batch)
        });
        let (course, batch) = read.await.ok()?;
        self.course = course;
        batch
    }
}

impl Course {
    fn batch(&mut self, tiers: &Tiers, depth: Depth) -> Option<Batch> {
        let mut batch = Batch::default();
        while batch.records < BATCH {
            let Some((disk, walk)) = &mut self.walk else {
                match self.segments.next() {
                    Some((disk, number, bytes)) => self.begin(tiers, disk, number, bytes, &mut batch),
                    None if batch.records == 0 && batch.damaged.is_empty() => return None,
                    None => break,
                }
                continue;
            };
            let engine = tiers.disks.at(*disk)?;
            let number = walk.segment.header.number;
            let Some((entry, head)) = walk.next() else {
                self.done += walk.segment.header.size;
                self.walk = None;
                continue;
            };
            batch.records += 1;
            let here = Place { segment: number, offset: entry.offset };
            let checked = head.and_then(|(header, _)| {
                if depth == Depth::Bodies {
                    let read = engine.read(&walk.segment, entry.offset, u64::from(entry.length))?;
                    engine.body(&walk.segment, entry.offset, &read)?;
                }
                Ok(header)
            });
            let offset = Some(u64::from(entry.offset) * crate::record::UNIT);
            match checked {
                Ok(header) => {
                    let there = engine.index.get(entry.hash).is_some_and(|spot| engine.place(spot) == here);
                    if there && !matches!(header.kind, Kind::Slice | Kind::Tombstone) {
                        batch.live.push(header.key);
                    }
                }
                Err(fault) => batch.damaged.push(tiers.damage(*disk, number, offset, &fault)),
            }
        }
        Some(batch)
    }

    fn begin(&mut self, tiers: &Tiers, disk: usize, number: u64, bytes: u64, batch: &mut Batch) {
        let segment = tiers.disks.at(disk).and_then(|engine| engine.segment_numbered(number));
        let Some(segment) = segment else { return self.done += bytes };
        let fault = match Walk::new(segment) {
            Ok(Some(walk)) => return self.walk = Some((disk, walk)),
            Ok(None) => Fault::Corrupt(crate::record::DecodeError::Checksum),
            Err(error) => Fault::Io(error),
        };
        self.done += bytes;
        batch.damaged.push(tiers.damage(disk, number, None, &fault));
    }
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan").field("done", &self.course.done).field("total", &self.total).finish_non_exhaustive()
    }
}

impl Tiers {
    fn damage(&self, disk: usize, segment: u64, offset: Option<u64>, fault: &Fault) -> Damage {
        let reason = match fault {
            Fault::Io(error) => error.to_string(),
            Fault::Corrupt(error) => error.to_string(),
            Fault::Other => "the record is another's".to_owned(),
        };
        Damage { file: self.disks.place(disk).join(name(segment)), offset, reason }
    }
}

impl Engine {
    fn segment_sizes(&self) -> Vec<(usize, u64, u64)> {
        let segments = self.segments.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        segments.values().map(|segment| (self.number, segment.header.number, segment.header.size)).collect()
    }
}
