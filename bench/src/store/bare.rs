//! What a store of the same shape can reach on this machine at most: records into buffers, buffers into files, nothing else.
//!
//! ```text
//!   two threads: a body, copied, with its CRC-32, into a buffer of 1 MiB --> one: the buffer into a file of 64 MiB
//!                                                                               --> one: full files are synced
//! ```

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

/// Bytes of a buffer, of a file, and between two calls that have the disk begin.
const BUFFER: usize = 1 << 20;
const FILE: u64 = 64 << 20;
const AHEAD: u64 = 8 << 20;
/// Threads that make records.
const MAKERS: u64 = 2;
/// Bytes before each body, as many as a record of the store has.
const HEAD: usize = 148;

/// What is left to the thread that syncs.
enum Later {
    Begin(File, u64, u64),
    Sync(File),
}

/// Bytes of bodies a second that are stored, syncs included.
pub(crate) fn measure(directory: &Path, bytes: u64, body: usize) -> io::Result<f64> {
    let load: Vec<u8> = (0..=250).cycle().take(body).collect();
    let count = bytes / body as u64;
    let begun = Instant::now();
    thread::scope(|scope| {
        let (full, buffers) = sync_channel(4);
        let (later, syncs) = sync_channel(16);
        for maker in 0..MAKERS {
            let (full, load) = (full.clone(), &load);
            scope.spawn(move || make(&full, load, count / MAKERS + u64::from(maker < count % MAKERS)));
        }
        drop(full);
        let synced = scope.spawn(move || sync(&syncs));
        write(directory, &buffers, &later)?;
        drop(later);
        synced.join().map_err(|_| io::Error::other("the syncs ended early"))?
    })?;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    Ok((count * body as u64) as f64 / begun.elapsed().as_secs_f64())
}

fn make(full: &SyncSender<Vec<u8>>, load: &[u8], count: u64) {
    let mut buffer = Vec::with_capacity(BUFFER);
    for _ in 0..count {
        // The body as it comes, in memory of its own.
        let came = std::hint::black_box(load.to_vec());
        if buffer.len() + HEAD + came.len() > BUFFER
            && full.send(std::mem::replace(&mut buffer, Vec::with_capacity(BUFFER))).is_err()
        {
            return;
        }
        buffer.extend_from_slice(&[0; HEAD - 4]);
        buffer.extend_from_slice(&crc32fast::hash(&came).to_le_bytes());
        buffer.extend_from_slice(&came);
    }
    // Nobody takes it if writing failed, which is told there.
    drop(full.send(buffer));
}

fn write(directory: &Path, buffers: &Receiver<Vec<u8>>, later: &SyncSender<Later>) -> io::Result<()> {
    let gone = |_| io::Error::other("the syncs ended early");
    let (mut number, mut open, mut begun) = (0, None, 0);
    let mut at = FILE;
    for buffer in buffers {
        if at + buffer.len() as u64 > FILE {
            if let Some(file) = open.take() {
                later.send(Later::Sync(file)).map_err(gone)?;
            }
            let file =
                File::options().create(true).truncate(true).write(true).open(directory.join(format!("{number}")))?;
            atoll_sys::file::preallocate(&file, FILE)?;
            (number, open, at, begun) = (number + 1, Some(file), 0, 0);
        }
        let Some(file) = &open else { continue };
        atoll_sys::file::write_at(file, &buffer, at)?;
        at += buffer.len() as u64;
        if at - begun >= AHEAD {
            later.send(Later::Begin(file.try_clone()?, begun, at - begun)).map_err(gone)?;
            begun = at;
        }
    }
    open.map_or(Ok(()), |file| later.send(Later::Sync(file)).map_err(gone))
}

fn sync(later: &Receiver<Later>) -> io::Result<()> {
    for what in later {
        match what {
            Later::Begin(file, from, length) => atoll_sys::file::begin_writing(&file, from, length)?,
            Later::Sync(file) => file.sync_data()?,
        }
    }
    Ok(())
}
