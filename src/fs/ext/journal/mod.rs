//! The journal, played back in memory: a map from file-system blocks to their newest copies in the log.

use std::sync::Arc;

use crate::block::BlockSource;
use crate::error::{Error, ErrorKind, Result};

/// What to do about a journal that was not played back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum JournalMode {
    /// Read the file system as it would be after recovery.
    #[default]
    Replay,
    /// Read the blocks as they lie on the disk.
    Ignore,
    /// Refuse a file system that needs recovery.
    RequireClean,
}

/// What was found in the journal, for `info`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalReport {
    /// Whether the file system has a journal.
    pub present: bool,
    /// Whether it needed recovery (the `needs_recovery` feature and a live log).
    pub dirty: bool,
    /// Whether recovery was done, in memory.
    pub replayed: bool,
    /// Committed transactions found in the log.
    pub transactions: u32,
    /// File-system blocks that read differently after recovery.
    pub blocks: u64,
    /// Revoke records found.
    pub revokes: u64,
    /// The sequence number that the first transaction of the live log has.
    pub first_sequence: u32,
    /// What a person should know: corrupt log blocks that were passed over, ...
    pub warnings: Vec<String>,
}

/// Where the log lies: `length` log blocks from `log_block` on stand at `fs_block` and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRun {
    /// First block, counted in the log.
    pub log_block: u32,
    /// First block, counted on the device that holds the log.
    pub fs_block: u64,
    /// Number of blocks.
    pub length: u32,
}

/// The result of a recovery in memory.
pub struct Recovery {
    /// The file system as it reads after recovery.
    pub source: Arc<dyn BlockSource>,
    /// What was found.
    pub report: JournalReport,
}

/// Reads the live part of the log and lays its newest copies over `source` (passes scan, revoke, replay of
/// e2fsck's and the kernel's `jbd2/recovery.c`).
///
/// `log` gives the log's place on `source`, in order and without gaps; `block_size` is the file system's.
///
/// # Errors
/// [`ErrorKind::Corrupt`] or [`ErrorKind::BadChecksum`] for a journal superblock that cannot be used,
/// [`ErrorKind::Unsupported`] with the name of a journal feature that is not known.
pub async fn recover(
    _source: Arc<dyn BlockSource>,
    _log: Vec<LogRun>,
    _block_size: u32,
) -> Result<Recovery> {
    Err(Error::new(ErrorKind::Unsupported, "journals are not there yet"))
}
