//! The hollow double: a directory that holds more than the machine could, for bodies made of one word over and over.
//!
//! A write of a segment is kept as the word it repeats, or as its bytes if it is none. Segments are written once: a write
//! over another is a failure of the test. Everything written outlives the store that wrote it, as after a kill.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use crate::disk::{Disk, DiskFile};

/// A directory whose segments take next to no RAM.
#[derive(Clone, Default)]
pub(crate) struct Hollow {
    files: Arc<Mutex<BTreeMap<String, Arc<HollowFile>>>>,
    read: Arc<AtomicU64>,
}

struct HollowFile {
    length: Mutex<u64>,
    writes: Mutex<BTreeMap<u64, Write>>,
    /// Whether what was written may be written over.
    rewritten: bool,
    read: Arc<AtomicU64>,
}

enum Write {
    Bytes(Vec<u8>),
    Word { word: [u8; WORD], length: usize },
}

/// Bytes in a word.
pub(crate) const WORD: usize = 8;
/// Shorter writes are kept as they are.
const SHORT: usize = 4096;

impl Hollow {
    /// Bytes read so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files().values().map(|file| *file.length.lock().unwrap()).sum()
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Arc<HollowFile>>> {
        self.files.lock().unwrap()
    }
}

impl Disk for Hollow {
    fn lock(&self) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        Ok(Some(Box::new(())))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }

    fn create(&self, name: &str, length: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file = Arc::new(HollowFile {
            length: Mutex::new(length),
            writes: Mutex::default(),
            rewritten: !name.ends_with(".segment"),
            read: Arc::clone(&self.read),
        });
        self.files().insert(name.to_owned(), Arc::clone(&file));
        Ok(Arc::new(Open(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.files().get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Open(file)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files().remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000)
    }

    fn random(&self) -> u64 {
        self.bytes().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// A file that is open.
struct Open(Arc<HollowFile>);

impl DiskFile for Open {
    fn length(&self) -> io::Result<u64> {
        Ok(*self.0.length.lock().unwrap())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        if end > self.length()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        buffer.fill(0);
        let writes = self.0.writes.lock().unwrap();
        // Backwards from the last that begins before the end, until one ends before the beginning.
        for (at, write) in writes.range(..end).rev() {
            if at + write.length() as u64 <= offset {
                break;
            }
            let (from, to) = (offset.max(*at), end.min(at + write.length() as u64));
            let part = |from: u64, base: u64| usize::try_from(from - base).unwrap();
            write.copy(part(from, *at), &mut buffer[part(from, offset)..part(to, offset)]);
        }
        Ok(())
    }

    /// A disk that has nothing in memory.
    fn read_cached(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        let mut writes = self.0.writes.lock().unwrap();
        let before = writes.range(..end).next_back().map_or(0, |(at, write)| at + write.length() as u64);
        if before > offset {
            assert!(self.0.rewritten, "{offset} is written again");
            // Small files are kept in one piece.
            let mut whole = Vec::new();
            for (at, write) in std::mem::take(&mut *writes) {
                let at = usize::try_from(at).unwrap();
                whole.resize(whole.len().max(at + write.length()), 0);
                write.copy(0, &mut whole[at..at + write.length()]);
            }
            let (from, to) = (usize::try_from(offset).unwrap(), usize::try_from(end).unwrap());
            whole.resize(whole.len().max(to), 0);
            whole[from..to].copy_from_slice(bytes);
            writes.insert(0, Write::Bytes(whole));
        } else {
            writes.insert(offset, Write::new(bytes));
        }
        let mut length = self.0.length.lock().unwrap();
        *length = end.max(*length);
        Ok(())
    }

    fn write_parts_at(&self, parts: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        for part in parts {
            self.write_at(part, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn begin_writing(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Write {
    fn new(bytes: &[u8]) -> Self {
        match bytes.first_chunk() {
            Some(word) if bytes.len() > SHORT && bytes[WORD..] == bytes[..bytes.len() - WORD] => {
                Self::Word { word: *word, length: bytes.len() }
            }
            Some(_) | None => Self::Bytes(bytes.to_vec()),
        }
    }

    fn length(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Word { length, .. } => *length,
        }
    }

    /// Fills the buffer with what was written from `from` on.
    fn copy(&self, from: usize, buffer: &mut [u8]) {
        match self {
            Self::Bytes(bytes) => buffer.copy_from_slice(&bytes[from..from + buffer.len()]),
            Self::Word { word, .. } => {
                let run = word.repeat(buffer.len() / WORD + 2);
                buffer.copy_from_slice(&run[from % WORD..from % WORD + buffer.len()]);
            }
        }
    }
}
