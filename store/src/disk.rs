//! The only file that touches the world: the clock, chance, and the few file calls the store uses.
//!
//! Tests put `double.rs` in its place, which remembers what was synced, tears, and fails at the n-th call.

use std::any::Any;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// One directory and what is in it, by plain names.
pub(crate) trait Disk: Send + Sync {
    /// Holds the directory for this process, made if need be, while the answer lives; `None` if another holds it.
    fn lock(&self) -> io::Result<Option<Box<dyn Any + Send + Sync>>>;
    /// The names of the files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new file of `length` bytes, all zero, room taken, in place of any older one.
    fn create(&self, name: &str, length: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// A file that is there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Unlinks a file; who has it open reads on.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Puts one file in another's place.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes created, renamed and removed names last.
    fn sync_names(&self) -> io::Result<()>;
    /// The time.
    fn now(&self) -> SystemTime;
    /// A number nobody can foresee.
    fn random(&self) -> u64;
}

/// An open file.
pub(crate) trait DiskFile: Send + Sync {
    /// Bytes in the file.
    fn length(&self) -> io::Result<u64>;
    /// Fills the buffer from `offset` on.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Fills the buffer from `offset` on if that needs no wait for the disk; whether it did.
    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool>;
    /// Writes all bytes from `offset` on.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Writes all parts, one behind the other, from `offset` on, in one call if the system has such. Uses them up.
    fn write_parts_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Has the disk begin with what was written there, and does not wait.
    fn begin_writing(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Makes everything written last.
    fn sync(&self) -> io::Result<()>;
}

/// The time.
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// A directory of the file system.
pub(crate) struct Directory {
    path: PathBuf,
    chance: RandomState,
}

const LOCK: &str = "lock";

impl Directory {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, chance: RandomState::new() }
    }
}

impl Disk for Directory {
    fn lock(&self) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        fs::create_dir_all(&self.path)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(self.path.join(LOCK))?;
        let lock = atoll_sys::file::lock(file)?;
        Ok(lock.map(|lock| Box::new(lock) as Box<dyn Any + Send + Sync>))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str, length: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path.join(name);
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path)?;
        if length > 0
            && let Err(error) = atoll_sys::file::preallocate(&file, length)
        {
            drop(fs::remove_file(&path));
            return Err(error);
        }
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.path.join(name))?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync_names(&self) -> io::Result<()> {
        // Elsewhere a directory cannot be opened as a file, and names last on their own.
        if cfg!(unix) { File::open(&self.path)?.sync_all() } else { Ok(()) }
    }

    fn now(&self) -> SystemTime {
        now()
    }

    fn random(&self) -> u64 {
        // The hasher's keys are the system's randomness, new for each.
        RandomState::new().hash_one(self.chance.hash_one(now()))
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        atoll_sys::file::read_at(self, buffer, offset)
    }

    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        atoll_sys::file::read_cached(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        atoll_sys::file::write_at(self, bytes, offset)
    }

    fn write_parts_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        atoll_sys::file::write_parts_at(self, parts, offset)
    }

    fn begin_writing(&self, offset: u64, length: u64) -> io::Result<()> {
        atoll_sys::file::begin_writing(self, offset, length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
