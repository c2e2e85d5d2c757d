//! The storage double: a directory in RAM that remembers what was synced, tears, and fails at the n-th call.
//!
//! Each file has a live image, what a process that is killed leaves behind, and a durable one, what a power cut leaves;
//! in between, any part of what was not synced may have arrived. Names are likewise live or synced.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use crate::disk::{Disk, DiskFile};

/// A directory in RAM.
#[derive(Clone, Default)]
pub(crate) struct Double {
    state: Arc<Mutex<State>>,
    held: Arc<Mutex<Option<Arc<()>>>>,
    /// Writes hang while it is set.
    hang: Arc<AtomicBool>,
    /// Likewise syncs of files.
    hang_syncs: Arc<AtomicBool>,
}

/// When the double fails.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Plan {
    /// Never.
    #[default]
    Sound,
    /// At this call and, for good, at every later one.
    FailFrom(u64),
    /// At this call alone, with this error.
    FailOnce(u64, io::ErrorKind),
    /// At the write that reaches this many bytes in all: it is cut there, and every later call fails.
    CutAt(u64),
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, Arc<Mutex<Image>>>,
    synced_names: BTreeMap<String, Arc<Mutex<Image>>>,
    plan: Plan,
    /// The plan that `resume` puts in force.
    next_plan: Option<Plan>,
    calls: u64,
    written: u64,
    read: u64,
    down: bool,
    chance: u64,
    seconds: u64,
    /// Bytes of all files together that are one too many.
    room: Option<u64>,
}

#[derive(Clone, Default)]
struct Image {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync, in order.
    pending: Vec<(usize, Vec<u8>)>,
    /// The length of the file; images are kept only as far as they are not zero.
    length: usize,
}

struct OpenFile {
    double: Double,
    image: Arc<Mutex<Image>>,
}

impl Double {
    /// A directory whose random numbers are others than those of another `chance`.
    pub(crate) fn drawn(chance: u64) -> Self {
        let double = Self::default();
        double.state().chance = chance;
        double
    }

    pub(crate) fn plan(&self, plan: Plan) {
        let mut state = self.state();
        (state.plan, state.calls, state.written) = (plan, 0, 0);
    }

    /// Makes a plan that is in force, and counts, from `resume` on.
    pub(crate) fn hold(&self, plan: Plan) {
        self.state().next_plan = Some(plan);
    }

    /// Puts the plan in force that was held back, if there is one.
    pub(crate) fn resume(&self) {
        let held = self.state().next_plan.take();
        if let Some(plan) = held {
            self.plan(plan);
        }
    }

    /// Lets writes hang, or go on.
    pub(crate) fn hang(&self, hang: bool) {
        self.hang.store(hang, Ordering::Relaxed);
    }

    /// Lets syncs of files hang, or go on.
    pub(crate) fn hang_syncs(&self, hang: bool) {
        self.hang_syncs.store(hang, Ordering::Relaxed);
    }

    /// Calls that could have failed, and bytes written, since the plan was made.
    pub(crate) fn seen(&self) -> (u64, u64) {
        let state = self.state();
        (state.calls, state.written)
    }

    /// Bytes read so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.state().read
    }

    pub(crate) fn set_room(&self, room: Option<u64>) {
        self.state().room = room;
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.state().seconds += time.as_secs();
    }

    /// Bytes of all files that have a name.
    pub(crate) fn bytes(&self) -> u64 {
        self.state().names.values().map(|image| image.lock().unwrap().length as u64).sum()
    }

    /// The directory as the next process finds it after a kill: everything that was written is there.
    pub(crate) fn after_kill(&self) -> Self {
        self.successor(|state| &state.names, |image| image.live.clone())
    }

    /// The directory after a power cut: what was synced, and of each later write the sectors that `arrived` picks by
    /// number, over all files.
    pub(crate) fn after_power_cut(&self, arrived: impl Fn(u64) -> bool) -> Self {
        let mut sector = 0;
        self.successor(
            |state| &state.synced_names,
            |image| {
                let mut bytes = image.durable.clone();
                for (offset, write) in &image.pending {
                    let mut at = *offset;
                    while at < offset + write.len() {
                        let end = (at / 512 * 512 + 512).min(offset + write.len());
                        if arrived(sector) {
                            put(&mut bytes, at, &write[at - offset..end - offset]);
                        }
                        sector += 1;
                        at = end;
                    }
                }
                bytes
            },
        )
    }

    /// Flips bits of a file.
    pub(crate) fn damage(&self, name: &str, at: usize, mask: u8) {
        let state = self.state();
        let mut image = state.names[name].lock().unwrap();
        if image.live.len() <= at {
            image.live.resize(at + 1, 0);
        }
        image.live[at] ^= mask;
    }

    /// The files, and how long each is as far as it is not zero.
    pub(crate) fn files(&self) -> Vec<(String, usize)> {
        let state = self.state();
        state.names.iter().map(|(name, image)| (name.clone(), image.lock().unwrap().live.len())).collect()
    }

    fn successor(
        &self,
        names: impl Fn(&State) -> &BTreeMap<String, Arc<Mutex<Image>>>,
        mut bytes: impl FnMut(&Image) -> Vec<u8>,
    ) -> Self {
        let state = self.state();
        let mut found = BTreeMap::new();
        for (name, image) in names(&state) {
            let image = image.lock().unwrap();
            let bytes = bytes(&image);
            let image = Image { live: bytes.clone(), durable: bytes, pending: Vec::new(), length: image.length };
            found.insert(name.clone(), Arc::new(Mutex::new(image)));
        }
        let next = State {
            names: found.clone(),
            synced_names: found,
            chance: state.chance + 1_000_000,
            seconds: state.seconds + 60,
            ..State::default()
        };
        Self { state: Arc::new(Mutex::new(next)), ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Counts a call that changes something, and fails it if the plan says so.
    fn step(&self) -> io::Result<()> {
        let mut state = self.state();
        let number = state.calls;
        state.calls += 1;
        match state.plan {
            _ if state.down => Err(io::Error::other("down")),
            Plan::FailFrom(first) if number >= first => Err(io::Error::other("failed for good")),
            Plan::FailOnce(at, kind) if number == at => Err(kind.into()),
            Plan::Sound | Plan::FailFrom(_) | Plan::FailOnce(..) | Plan::CutAt(_) => Ok(()),
        }
    }
}

impl Disk for Double {
    fn lock(&self) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        self.step()?;
        let mut held = self.held.lock().unwrap();
        if held.as_ref().is_some_and(|lock| Arc::strong_count(lock) > 1) {
            return Ok(None);
        }
        let lock = Arc::new(());
        *held = Some(Arc::clone(&lock));
        Ok(Some(Box::new(lock)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.step()?;
        Ok(self.state().names.keys().cloned().collect())
    }

    fn create(&self, name: &str, length: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.step()?;
        let room = self.state().room;
        if room.is_some_and(|room| self.bytes_beside(name) + length > room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let length = usize::try_from(length).unwrap();
        let image = Arc::new(Mutex::new(Image { length, ..Image::default() }));
        self.state().names.insert(name.to_owned(), Arc::clone(&image));
        Ok(Arc::new(OpenFile { double: self.clone(), image }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.step()?;
        let image = self.state().names.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(OpenFile { double: self.clone(), image }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.step()?;
        self.state().names.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.step()?;
        let mut state = self.state();
        let image = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), image);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        self.step()?;
        let mut state = self.state();
        state.synced_names = state.names.clone();
        Ok(())
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + self.state().seconds)
    }

    fn random(&self) -> u64 {
        let mut state = self.state();
        state.chance += 1;
        state.chance.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl Double {
    fn bytes_beside(&self, name: &str) -> u64 {
        let state = self.state();
        let others = state.names.iter().filter(|(other, _)| *other != name);
        others.map(|(_, image)| image.lock().unwrap().length as u64).sum()
    }
}

impl DiskFile for OpenFile {
    fn length(&self) -> io::Result<u64> {
        self.double.step()?;
        Ok(self.image.lock().unwrap().length as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.double.step()?;
        self.double.state().read += buffer.len() as u64;
        let image = self.image.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        if offset + buffer.len() > image.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.fill(0);
        if let Some(bytes) = image.live.get(offset..) {
            let count = bytes.len().min(buffer.len());
            buffer[..count].copy_from_slice(&bytes[..count]);
        }
        Ok(())
    }

    /// A disk that has nothing in memory.
    fn read_cached(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        while self.double.hang.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        self.double.step()?;
        let mut state = self.double.state();
        let before = state.written;
        state.written += bytes.len() as u64;
        let mut count = bytes.len();
        if let Plan::CutAt(cut) = state.plan
            && state.written > cut
        {
            state.down = true;
            count = usize::try_from(cut.saturating_sub(before)).unwrap();
        }
        drop(state);
        let mut image = self.image.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let image = &mut *image;
        put(&mut image.live, offset, &bytes[..count]);
        image.pending.push((offset, bytes[..count].to_vec()));
        image.length = image.length.max(offset + count);
        if count < bytes.len() { Err(io::Error::other("cut")) } else { Ok(()) }
    }

    /// One call, which may be cut anywhere.
    fn write_parts_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.write_at(&bytes, offset)
    }

    /// What the disk may do at any time anyway.
    fn begin_writing(&self, _offset: u64, _length: u64) -> io::Result<()> {
        self.double.step()
    }

    fn sync(&self) -> io::Result<()> {
        while self.double.hang_syncs.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        self.double.step()?;
        let mut image = self.image.lock().unwrap();
        image.durable = image.live.clone();
        image.pending.clear();
        Ok(())
    }
}

fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if image.len() < offset + bytes.len() {
        image.resize(offset + bytes.len(), 0);
    }
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}
