//! A node in a process of its own, as nodes are, that gives bulk to whoever opens a stream to it; and this process' side of it.

use std::{
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use atoll_overlay::{ByteStream, Index as _, NodeId, Streams as _, driver::Overlay};
use clap::Args;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::sleep,
};

use super::{node::overlay, told};
use crate::process::{Process, cores};

/// What the other process is told.
#[derive(Args)]
pub(crate) struct Giver {
    /// The multiaddr to listen on
    #[arg(long)]
    listen: String,
    /// The multiaddr of the node to join
    #[arg(long)]
    join: String,
}

/// The other process: gives until it is ended.
pub(crate) fn give(giver: &Giver) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(told)?;
    runtime.block_on(async {
        let node = overlay(&giver.listen, vec![giver.join.clone()]).await?;
        loop {
            let (_, stream) = node.accept().await.map_err(told)?;
            // One that is reset ends alone.
            tokio::spawn(flow(stream));
        }
    })
}

async fn flow(mut stream: ByteStream) -> std::io::Result<()> {
    stream.read_u8().await?;
    let block = vec![7; 128 << 10];
    let mut left = FLOW;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        stream.write_all(&block[..count]).await?;
        left -= count as u64;
    }
    stream.shutdown().await
}

/// A node here, one in another process, and the latter's id. They know each other.
pub(super) async fn pair(listen: &str) -> Result<(Overlay, Process, NodeId), String> {
    let node = overlay(listen, Vec::new()).await?;
    let join = node.listen_multiaddrs().into_iter().next().ok_or("it listens nowhere")?;
    let mut command = Command::new(std::env::current_exe().map_err(told)?);
    command.args(["network-giver", "--listen", listen, "--join", &join]);
    let process = Process::spawn(&mut command, &cores()?)?;
    let deadline = Instant::now() + PATIENCE;
    let other = loop {
        if let Some(other) = node.levels().first().and_then(|global| global.neighbours.first()) {
            break other.id;
        }
        if Instant::now() > deadline {
            return Err(format!("the node in the other process did not join within {PATIENCE:?}"));
        }
        sleep(Duration::from_millis(5)).await;
    };
    Ok((node, process, other))
}

/// Takes one bulk stream after the other, for as long as this is polled; why that ended.
pub(super) async fn take(node: &Overlay, from: NodeId, counted: &AtomicU64) -> String {
    loop {
        if let Err(error) = one(node, from, counted).await {
            return error;
        }
    }
}

async fn one(node: &Overlay, from: NodeId, counted: &AtomicU64) -> Result<(), String> {
    let mut stream = node.open_bulk(from).await.map_err(told)?;
    // A stream is told of with its first byte.
    stream.write_all(b"?").await.map_err(told)?;
    stream.flush().await.map_err(told)?;
    let mut buffer = vec![0; 256 << 10];
    while let count @ 1.. = stream.read(&mut buffer).await.map_err(told)? {
        counted.fetch_add(count as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Bytes of one bulk stream; one follows the other.
const FLOW: u64 = 1_000_000_000;

/// How long the other process may take to join.
const PATIENCE: Duration = Duration::from_secs(60);
