//! This crate's settings: unit, range, what worsens in each direction, and where the default comes from.

use std::path::PathBuf;
use std::time::Duration;

use atoll_units::{ByteSize, span};
use serde::{Deserialize, Serialize};

use crate::error::OpenError;

/// Who leaves the RAM tier first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Eviction {
    /// A small queue sifts out what is asked for once, a large one keeps the rest [S3-FIFO, SOSP 2023].
    #[default]
    S3Fifo,
    /// The oldest first \[Hornet\].
    Fifo,
}

/// How a store is laid out and what it may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the segment files are; none keeps everything in RAM. One process per directory.
    pub directory: Option<PathBuf>,
    /// Further directories, one a disk. Each key has its home in one of them; a disk that fails for good is left out.
    pub more_directories: Vec<PathBuf>,
    /// Bytes on disk in each directory, fills under way included; at least four segments. Less: more misses. More: a fuller disk. \[guess\]
    pub capacity: ByteSize,
    /// Bytes of bodies and metadata in the RAM tier. Less: more disk reads. More: less page cache for everyone. \[guess\]
    pub memory: ByteSize,
    /// Bytes of one segment file, 1 MiB to 2 GiB. Smaller: more files and syncs. Larger: coarser eviction and a longer
    /// scan of the last one after a crash. \[guess\]
    pub segment: ByteSize,
    /// Bytes of one slice of a large body, 64 KiB to a quarter of a segment; rounded down to 64 KiB. Smaller: more
    /// index entries. Larger: more memory per fill and per reader. \[design 4: 2 MiB\]
    pub slice: ByteSize,
    /// Bytes of metadata an object may carry. Less: refuses long header blocks. More: longer reads per hit. \[guess\]
    pub metadata_limit: ByteSize,
    /// Bytes that fills under way may hold in RAM, all together; none begins without room for the first 64 KiB of what is known to
    /// come. Less: fills refused in a burst. More: RAM. \[guess\]
    pub fill_memory: ByteSize,
    /// Bytes of one large body that may wait in RAM for the disk while more of it comes, beyond one slice, 0 to 1 GiB; none while fills
    /// hold half of `fill_memory`, or half of what they may on disk. Less: the network and the disk take turns. More: RAM for each
    /// fill. \[guess\]
    pub write_behind: ByteSize,
    /// Bytes of small objects that may wait for each disk, 64 KiB to 1 GiB, of which each counts for 16 KiB at least. What comes beyond
    /// and can do without the disk for now is held in RAM alone, and written once it is asked for again; what RAM cannot take,
    /// and what the disk has an older one of, waits. Less: a slow disk gets less. More: `fill_memory`, of which it is a part, is full of what waits. \[guess\]
    pub write_queue: ByteSize,
    /// Who leaves the RAM tier first.
    pub eviction: Eviction,
    /// Percent of the RAM tier for S3-FIFO's small queue, 1 to 50. Less: one scan sweeps it. More: less room for what
    /// is asked for again. \[S3-FIFO: 10\]
    pub small_queue_percent: u8,
    /// Percent of a reclaimed segment that second-chance reinsertion may keep, 0 to 75. Less: hot objects are lost with
    /// their segment. More: more bytes written for each byte stored. \[guess\]
    pub reinsertion_percent: u8,
    /// Requests for an object, lately, before it is written to disk, 1 to 15; 1 writes everything. It is held in RAM before.
    /// More: a disk that lasts longer, and more misses: on every published CDN trace 2 misses more than 1. \[S3-FIFO\]
    pub admission: u8,
    /// Purges kept one by one, 16 to 1,048,576; at half of it a sweep settles and forgets them. Less: more sweeps. More:
    /// RAM, 100 bytes or so each. \[guess\]
    pub purge_limit: u32,
    /// Percent of one core that the sweep after a purge may take, 1 to 100. Less: what was purged holds its room for
    /// longer. More: slower reads meanwhile. \[guess\]
    pub sweep_percent: u8,
    /// Disk reads at a time, and disk writes at a time; 1 to 256. Less: an idle disk. More: threads. \[guess\]
    pub io_depth: u16,
    /// How long nothing is written after the disk failed, 100 ms to 1 h. Less: time lost on a dead disk. More: RAM alone
    /// for longer once it is well again. \[guess\]
    #[serde(with = "span")]
    pub disk_retry: Duration,
    /// Tries to write that fail one after another before a disk is given up and remembered as bad, 1 to 1,000. Less: a
    /// passing fault costs the disk. More: time lost on a dead one. \[guess\]
    pub disk_failures: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: None,
            more_directories: Vec::new(),
            capacity: ByteSize::gib(8),
            memory: ByteSize::mib(256),
            segment: ByteSize::mib(64),
            slice: ByteSize::mib(2),
            metadata_limit: ByteSize::kib(64),
            fill_memory: ByteSize::mib(128),
            write_behind: ByteSize::mib(8),
            write_queue: ByteSize::mib(64),
            eviction: Eviction::S3Fifo,
            small_queue_percent: 10,
            reinsertion_percent: 50,
            admission: 1,
            purge_limit: 65_536,
            sweep_percent: 15,
            io_depth: 16,
            disk_retry: Duration::from_secs(10),
            disk_failures: 8,
        }
    }
}

/// Bytes in one piece of a body: the unit that is checksummed on disk and handed out from RAM.
pub(crate) const PIECE: u64 = 64 << 10;

impl Config {
    /// Refuses what cannot work, naming the field.
    pub fn check(&self) -> Result<(), OpenError> {
        let refuse = |field, reason: &str| Err(OpenError::Config { field, reason: reason.to_owned() });
        if self.slice.0 < PIECE {
            return refuse("slice", "is under 64 KiB");
        }
        if self.metadata_limit.0 > ByteSize::mib(1).0 {
            return refuse("metadata_limit", "is over 1 MiB");
        }
        if self.write_behind.0 > ByteSize::gib(1).0 {
            return refuse("write_behind", "is over 1 GiB");
        }
        if !(PIECE..=ByteSize::gib(1).0).contains(&self.write_queue.0) {
            return refuse("write_queue", "is not within 64 KiB to 1 GiB");
        }
        if !(1..=50).contains(&self.small_queue_percent) {
            return refuse("small_queue_percent", "is not within 1 to 50");
        }
        if self.reinsertion_percent > 75 {
            return refuse("reinsertion_percent", "is over 75");
        }
        if !(16..=1 << 20).contains(&self.purge_limit) {
            return refuse("purge_limit", "is not within 16 to 1048576");
        }
        if !(1..=256).contains(&self.io_depth) {
            return refuse("io_depth", "is not within 1 to 256");
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&self.disk_retry) {
            return refuse("disk_retry", "is not within 100 ms to 1 h");
        }
        if !(1..=15).contains(&self.admission) {
            return refuse("admission", "is not within 1 to 15");
        }
        if !(1..=100).contains(&self.sweep_percent) {
            return refuse("sweep_percent", "is not within 1 to 100");
        }
        if !(1..=1000).contains(&self.disk_failures) {
            return refuse("disk_failures", "is not within 1 to 1000");
        }
        if self.more_directories.len() > 64 {
            return refuse("more_directories", "has more than 64 entries");
        }
        if self.directory.is_none() {
            let alone = self.more_directories.is_empty();
            return if alone { Ok(()) } else { refuse("more_directories", "is set without `directory`") };
        }
        if !(ByteSize::mib(1).0..=ByteSize::gib(2).0).contains(&self.segment.0) {
            return refuse("segment", "is not within 1 MiB to 2 GiB");
        }
        if self.slice.0 > self.segment.0 / 4 {
            return refuse("slice", "is over a quarter of a segment");
        }
        if self.metadata_limit.0 > self.segment.0 / 4 {
            return refuse("metadata_limit", "is over a quarter of a segment");
        }
        if self.capacity.0 / 4 < self.segment.0 {
            return refuse("capacity", "is under four segments");
        }
        Ok(())
    }

    /// Bytes of a slice, whole pieces.
    pub(crate) fn slice_bytes(&self) -> u64 {
        self.slice.0 / PIECE * PIECE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_works_in_ram_and_on_disk() {
        Config::default().check().unwrap();
        Config { directory: Some("x".into()), ..Config::default() }.check().unwrap();
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let disk = Config { directory: Some("x".into()), ..Config::default() };
        let cases = [
            ("slice", Config { slice: ByteSize(1), ..disk.clone() }),
            ("slice", Config { slice: ByteSize::mib(17), ..disk.clone() }),
            ("segment", Config { segment: ByteSize::kib(1), ..disk.clone() }),
            ("capacity", Config { capacity: ByteSize::mib(255), ..disk.clone() }),
            ("metadata_limit", Config { metadata_limit: ByteSize::mib(2), ..disk.clone() }),
            ("write_behind", Config { write_behind: ByteSize::gib(2), ..disk.clone() }),
            ("write_queue", Config { write_queue: ByteSize(0), ..disk.clone() }),
            ("purge_limit", Config { purge_limit: 1, ..disk.clone() }),
            ("io_depth", Config { io_depth: 0, ..disk.clone() }),
            ("admission", Config { admission: 0, ..disk.clone() }),
            ("sweep_percent", Config { sweep_percent: 101, ..disk.clone() }),
            ("disk_failures", Config { disk_failures: 0, ..disk.clone() }),
            ("more_directories", Config { directory: None, more_directories: vec!["y".into()], ..disk.clone() }),
            ("disk_retry", Config { disk_retry: Duration::ZERO, ..disk.clone() }),
            ("reinsertion_percent", Config { reinsertion_percent: 76, ..disk.clone() }),
            ("small_queue_percent", Config { small_queue_percent: 0, ..disk }),
        ];
        for (expected, config) in cases {
            let Err(OpenError::Config { field, .. }) = config.check() else { panic!("{expected} accepted") };
            assert_eq!(field, expected);
        }
    }
}
