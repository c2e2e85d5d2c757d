//! What can go wrong here, grouped by who must act: the caller asked wrongly, we are out of room, the disk failed.

use std::io;
use std::path::PathBuf;

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The caller's: a setting cannot work.
    #[error("store setting `{field}`: {reason}")]
    Config {
        /// The name of the setting.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The operator's: another process holds the directory.
    #[error("store directory {directory:?} is in use by another process")]
    Locked {
        /// The directory that is held.
        directory: PathBuf,
    },
    /// The operator's: the directory was written by another version.
    #[error("store directory {directory:?} has format version {found}, this program reads version {supported}")]
    Version {
        /// The directory that was opened.
        directory: PathBuf,
        /// The version in the directory.
        found: u64,
        /// The version that this program reads and writes.
        supported: u64,
    },
    /// The operator's: the directory's format file is there but unreadable, so it may not be a store at all.
    #[error("store directory {directory:?}: {reason}")]
    Foreign {
        /// The directory that was opened.
        directory: PathBuf,
        /// What was found in place of a store.
        reason: String,
    },
    /// The disk's.
    #[error("store directory {directory:?}: {action}: {source}")]
    Disk {
        /// The directory that was opened.
        directory: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What the system answered.
        source: io::Error,
    },
}

/// Why something was not stored or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The caller's: the metadata is longer than the limit.
    #[error("metadata of {length} bytes is over the limit of {limit}")]
    MetadataTooLong {
        /// Bytes of metadata.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The caller's: a purge's opaque selector is longer than the limit.
    #[error("filter of {length} bytes is over the limit of {limit}")]
    FilterTooLong {
        /// Bytes of filter.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The caller's: the body ended before or after the length it was announced with.
    #[error("body of {found} bytes was announced with {expected}")]
    Length {
        /// Bytes announced.
        expected: u64,
        /// Bytes appended.
        found: u64,
    },
    /// The caller's: an append was refused or abandoned, so the body has a hole.
    #[error("an earlier append to this body did not succeed")]
    Broken,
    /// We are out of room: no object of this size is stored here.
    #[error("object of {length} bytes or more is over the limit of {limit}")]
    TooLarge {
        /// Bytes announced or reached.
        length: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// We are out of room: fills under way hold all that fills may hold.
    #[error("fills under way hold {held} bytes of the {limit} they may hold")]
    NoRoom {
        /// Bytes held by fills under way.
        held: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The disk failed; the RAM tier goes on.
    #[error("disk: {0}")]
    Disk(#[source] io::Error),
}

/// Why bytes that were there could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The writer gave up before the body was whole.
    #[error("the fill was aborted")]
    Aborted,
    /// The bytes were evicted meanwhile.
    #[error("the bytes were evicted")]
    Lost,
    /// The bytes on disk are not those that were written.
    #[error("checksum of the stored bytes does not match")]
    Corrupt,
    /// The disk failed.
    #[error("disk: {0}")]
    Io(#[source] io::Error),
}
