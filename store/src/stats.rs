//! What a store holds and has met, in numbers.

/// A store in numbers; counts are since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Objects on disk, or in RAM if those are more: what is on disk may be in RAM as well.
    pub objects: u64,
    /// Objects on disk.
    pub index_objects: u64,
    /// Objects held whole in RAM.
    pub memory_objects: u64,
    /// Bytes of the RAM tier in use, overhead included.
    pub memory_bytes: u64,
    /// Bytes that fills under way hold in RAM.
    pub fill_bytes: u64,
    /// Objects and slices that left the RAM tier to make room.
    pub memory_evictions: u64,
    /// Purges kept one by one.
    pub purges: u64,
    /// Objects on disk that sweeps cleared away.
    pub purged: u64,
    /// Bytes of RAM that the index of the disk takes.
    pub index_bytes: u64,
    /// Bytes of the files on disk, dropped ones that are still read included.
    pub disk_bytes: u64,
    /// Objects and slices that left the disk with their segment.
    pub disk_evictions: u64,
    /// Records that were not what had been written.
    pub checksum_failures: u64,
    /// File calls that failed.
    pub disk_errors: u64,
    /// How the disk does; of several, how the worst does.
    pub disk: DiskState,
}

/// How the disk does; of several, how the worst does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DiskState {
    /// There is none: everything is in RAM.
    #[default]
    Absent,
    /// It is written and read.
    Working,
    /// It failed: nothing is written until the next try, reads may still succeed.
    Failed,
    /// It failed again and again, now or before the last start, and is remembered as bad: nothing is written to it.
    Bad,
}
