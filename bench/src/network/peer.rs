//! A large object from a peer's store to a node that has nothing, beside the same bytes over a bare libp2p stream between the same
//! two machines' worth of overlay: what HTTP, checking, signing and storing cost.

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use atoll_overlay::{Streams as _, driver::Overlay};
use atoll_store::{ByteSize, Store};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    node::{CARRIERS, Origin, get, idle, overlays, proxy},
    told,
};
use crate::{
    report::{Report, Row},
    rounds::median,
};

pub(super) async fn measure(report: &mut Report, bytes: u64, rounds: usize) -> Result<(), String> {
    for (carrier, listen) in CARRIERS {
        let scratch = tempfile::tempdir_in("target").or_else(|_| tempfile::tempdir()).map_err(told)?;
        let origin = Origin::start(bytes).await?;
        // Two for the proxies, two for the bare stream: a proxy takes all streams of its node.
        let nodes = overlays(listen, 4).await?;
        let [from, to, bare_from, bare_to] = &nodes[..] else { return Err("four nodes".to_owned()) };
        let store = async |name: &str| {
            let directory = scratch.path().join(format!("{carrier}-{name}"));
            // One object may take half of it, and none is to make room for another.
            let capacity = ByteSize(bytes * (rounds as u64 + 1) + (512 << 20));
            let config = atoll_store::Config { directory: Some(directory), capacity, ..atoll_store::Config::default() };
            Store::open(config).await.map_err(told)
        };
        let holder = proxy(from, &origin, store("from").await?)?;
        let asker = Arc::new(proxy(to, &origin, store("to").await?)?);
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        let (mut work, mut bare_work) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let path = format!("/{round}");
            get(&holder, &origin.host(0), &path).await?;
            idle(&holder).await;
            // No row waits for what was written before it.
            let written = scratch.path().to_owned();
            tokio::task::spawn_blocking(move || settle(&written)).await.map_err(told)?.map_err(told)?;
            let busy = worked()?;
            bare.push(copied(bare_from, bare_to, bytes, &AtomicU64::default()).await?);
            bare_work.push(per_gigabyte(worked()? - busy, bytes));
            let (began, busy) = (Instant::now(), worked()?);
            let (_, came) = get(&asker, &origin.host(0), &path).await?;
            if came != bytes {
                return Err(format!("{came} bytes came of {bytes}"));
            }
            ours.push(rate(bytes, began));
            // The end of the answer comes before that of storing it, which is work for it, too.
            idle(&asker).await;
            work.push(per_gigabyte(worked()? - busy, bytes));
        }
        if asker.stats().peer_bytes < bytes * rounds as u64 {
            return Err(format!("the copies did not come from the peer: {:?}", asker.stats()));
        }
        let row = Row::new(&format!("peer_fetch_{carrier}"), median(&mut ours), "MB/s");
        report.add(row.against("bare libp2p stream", median(&mut bare)));
        let row = Row::new(&format!("peer_fetch_{carrier}_cpu"), median(&mut work), "s/GB");
        report.add(row.against("bare libp2p stream", median(&mut bare_work)));
        for proxy in [&holder, asker.as_ref()] {
            proxy.stop().await;
        }
        for node in &nodes {
            node.stop().await;
        }
    }
    report.note(format!("peer_fetch: {bytes} bytes from the store of one node into the store of another"));
    Ok(())
}

/// The same bytes over one stream, read, counted and dropped: megabytes a second.
async fn copied(from: &Overlay, to: &Overlay, bytes: u64, counted: &AtomicU64) -> Result<f64, String> {
    let (giver, asker) = (from.clone(), to.id());
    let began = Instant::now();
    let mut reading = to.open_bulk(from.id()).await.map_err(told)?;
    // A stream is told of with its first byte.
    reading.write_all(b"?").await.map_err(told)?;
    reading.flush().await.map_err(told)?;
    let giving = tokio::spawn(async move {
        // Proxies on other nodes take this one for theirs and ask it things.
        let mut stream = loop {
            let (peer, stream) = giver.accept().await.map_err(told)?;
            if peer == asker {
                break stream;
            }
        };
        let block = vec![7; 128 << 10];
        let mut left = bytes;
        while left > 0 {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
            stream.write_all(&block[..count]).await.map_err(told)?;
            left -= count as u64;
        }
        stream.shutdown().await.map_err(told)
    });
    let mut buffer = vec![0; 256 << 10];
    let mut came = 0;
    while let count @ 1.. = reading.read(&mut buffer).await.map_err(told)? {
        came += count as u64;
        counted.fetch_add(count as u64, Ordering::Relaxed);
    }
    giving.await.map_err(told)??;
    if came == bytes { Ok(rate(bytes, began)) } else { Err(format!("{came} bytes came of {bytes}")) }
}

/// Waits until all files in a directory, and below it, are on the disk; those that go meanwhile need not be.
fn settle(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        match File::open(&path) {
            Ok(_) if path.is_dir() => settle(&path)?,
            Ok(file) => file.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn rate(bytes: u64, began: Instant) -> f64 {
    bytes as f64 / 1e6 / began.elapsed().as_secs_f64()
}

/// Seconds that the processors worked for this process until now, both nodes and both ways.
fn worked() -> Result<f64, String> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).map_err(told)?;
    let seconds = |span: nix::sys::time::TimeVal| span.tv_sec() as f64 + span.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn per_gigabyte(seconds: f64, bytes: u64) -> f64 {
    seconds * 1e9 / bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    // More than all windows and buffers on the way hold, and than a fill keeps in RAM.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_large_copy_comes_whole_from_a_peer_by_either_carrier() {
        let mut report = Report::new("a test");
        let measured = measure(&mut report, 32 << 20, 1);
        tokio::time::timeout(std::time::Duration::from_secs(60), measured).await.expect("it hangs").unwrap();
    }
}
