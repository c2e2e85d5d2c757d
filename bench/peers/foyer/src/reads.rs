//! Random reads of one file by plain calls on threads, past the page cache, and by io_uring: what the store's choice of
//! file calls is held against.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};

use crate::{Failure, stream::Chance};

const BLOCK: u64 = 4096;

/// A buffer that O_DIRECT may read into.
#[repr(align(4096))]
struct Aligned([u8; 64 << 10]);

pub fn run(file: &str, body: usize, time: Duration, way: &str, depth: usize) -> Result<(), Failure> {
    let length = std::fs::metadata(file)?.len();
    let body = body.next_multiple_of(BLOCK as usize).min(64 << 10);
    let blocks = length.saturating_sub(body as u64) / BLOCK;
    let before = cpu_seconds()?;
    let begun = Instant::now();
    let reads = match way {
        "pool" | "direct" | "nowait" => {
            threads(&open(file, way == "direct")?, body, begun + time, depth, blocks, way == "nowait")?
        }
        "uring" => uring(&open(file, false)?, body, begun + time, depth, blocks)?,
        "uring-direct" => uring(&open(file, true)?, body, begun + time, depth, blocks)?,
        _ => return Err("WAY is nowait, pool, direct, uring or uring-direct".into()),
    };
    let took = begun.elapsed().as_secs_f64();
    println!("{} {}", reads as f64 / took, (cpu_seconds()? - before) / reads as f64 * 1e6);
    Ok(())
}

fn open(file: &str, direct: bool) -> std::io::Result<File> {
    // 0x4000 is O_DIRECT where this runs, x86-64.
    std::fs::OpenOptions::new().read(true).custom_flags(if direct { 0x4000 } else { 0 }).open(file)
}

/// Tasks hand reads to tokio's blocking threads, `depth` at a time. With `nowait`, as the store does, each first takes what the
/// system has in memory, which needs no thread.
fn threads(
    file: &File,
    body: usize,
    end: Instant,
    depth: usize,
    blocks: u64,
    nowait: bool,
) -> Result<u64, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = std::sync::Arc::new(AtomicU64::new(0));
    runtime.block_on(async {
        let tasks: Vec<_> = (0..depth)
            .map(|task| {
                let (done, mut chance) = (done.clone(), Chance::new(task as u64 + 1));
                let file = file.try_clone();
                tokio::spawn(async move {
                    let file = std::sync::Arc::new(file?);
                    while Instant::now() < end {
                        let (file, at) = (file.clone(), chance.next() % blocks * BLOCK);
                        if nowait {
                            let mut buffer = Box::new(Aligned([0; 64 << 10]));
                            if read_cached(&file, &mut buffer.0[..body], at) {
                                std::hint::black_box(buffer);
                                done.fetch_add(1, Ordering::Relaxed);
                                tokio::task::yield_now().await;
                                continue;
                            }
                        }
                        let read = tokio::task::spawn_blocking(move || {
                            let mut buffer = Box::new(Aligned([0; 64 << 10]));
                            file.read_exact_at(&mut buffer.0[..body], at)?;
                            Ok::<_, std::io::Error>(buffer)
                        });
                        std::hint::black_box(read.await.map_err(std::io::Error::other)??);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok::<_, std::io::Error>(())
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        Ok::<_, Failure>(())
    })?;
    Ok(done.load(Ordering::Relaxed))
}

/// Whether the bytes were there without waiting for the disk.
fn read_cached(file: &File, buffer: &mut [u8], at: u64) -> bool {
    let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: the one part lies within the buffer, which is borrowed until the call has returned.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &part, 1, at as i64, libc::RWF_NOWAIT) };
    read == buffer.len() as isize
}

/// One ring, `depth` reads in flight.
fn uring(file: &File, body: usize, end: Instant, depth: usize, blocks: u64) -> Result<u64, Failure> {
    let mut ring = IoUring::new(depth.next_power_of_two() as u32)?;
    let mut buffers: Vec<_> = (0..depth).map(|_| Box::new(Aligned([0; 64 << 10]))).collect();
    let mut chance = Chance::new(1);
    let mut push = |ring: &mut IoUring, slot: usize, buffer: &mut Aligned| {
        let offset = chance.next() % blocks * BLOCK;
        let read = opcode::Read::new(types::Fd(file.as_raw_fd()), buffer.0.as_mut_ptr(), body as u32);
        let entry = read.offset(offset).build().user_data(slot as u64);
        // SAFETY: the buffer lives until the ring has been drained below, and no two reads in flight share one.
        unsafe { ring.submission().push(&entry) }
    };
    for (slot, buffer) in buffers.iter_mut().enumerate() {
        push(&mut ring, slot, buffer)?;
    }
    let (mut reads, mut in_flight) = (0, depth);
    while in_flight > 0 {
        ring.submit_and_wait(1)?;
        let done: Vec<_> = ring.completion().map(|entry| (entry.user_data() as usize, entry.result())).collect();
        for (slot, result) in done {
            if result != body as i32 {
                return Err(format!("a read gave {result}").into());
            }
            reads += 1;
            if Instant::now() < end {
                // As the store hands each body out in memory of its own.
                buffers[slot] = Box::new(Aligned([0; 64 << 10]));
                push(&mut ring, slot, &mut buffers[slot])?;
            } else {
                in_flight -= 1;
            }
        }
    }
    Ok(reads)
}

fn cpu_seconds() -> Result<f64, Failure> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let rest = text.rsplit_once(')').ok_or("no stat")?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0)
}
