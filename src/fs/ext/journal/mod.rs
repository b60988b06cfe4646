//! The journal, played back in memory: a map from file-system blocks to their newest copies in the log.

mod external;
mod fast;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod log;
#[cfg(test)]
mod memory;
mod overlay;
mod scan;
#[cfg(any(test, fuzzing))]
mod testlog;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::block::BlockSource;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::ext::layout::fast_commit::Change;
use crate::fs::ext::layout::jbd2::JournalSuperblock;

pub use external::recover_external;
use log::Log;
pub(in crate::fs::ext) use overlay::JournalOverlay;

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
    /// Complete fast commits found behind the log.
    pub fast_commits: u32,
    /// The sequence number that the first transaction of the live log has.
    pub first_sequence: u32,
    /// The number of a committed transaction that is damaged: it and all after it were left out.
    pub damaged: Option<u32>,
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

impl LogRun {
    /// Its blocks on the device that holds the log.
    pub fn fs_blocks(&self) -> Range<u64> {
        self.fs_block..self.fs_block.saturating_add(self.length.into())
    }
}

/// The result of a recovery in memory.
pub struct Recovery {
    /// The file system as it reads after recovery.
    pub source: Arc<dyn BlockSource>,
    /// What was found.
    pub report: JournalReport,
    /// The changes of the fast commits, in order. They are told in terms of inodes and names and stand on top of `source`.
    pub fast_commits: Vec<Change>,
    /// The copies that stand before blocks of the file system, where there is a live log.
    overlay: Option<Arc<JournalOverlay>>,
    /// What changes on the device that holds the log when somebody writes to the file system: the journal superblock,
    /// and the block where the next transaction would start.
    pub watch: Vec<Seen>,
}

impl Recovery {
    /// The copies that stand before blocks of the file system, where there is a live log.
    pub(in crate::fs::ext) fn overlay(&self) -> Option<Arc<JournalOverlay>> {
        self.overlay.clone()
    }
}

/// Bytes of a device as they were when they were made use of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Where they stand.
    pub offset: u64,
    /// What they were.
    pub bytes: Bytes,
}

/// Reads the live part of the log and lays its newest copies over `source` (passes scan, revoke, replay of
/// e2fsck's and the kernel's `jbd2/recovery.c`).
///
/// `log` gives the log's place on `source`, in order and without gaps; `block_size` is the file system's.
///
/// Damage inside the log is treated as e2fsck treats it, with a warning: a copy that does not match its checksum is
/// left out when it is read, and a commit block that does not ends the log.
///
/// # Errors
/// [`ErrorKind::Corrupt`] or [`ErrorKind::BadChecksum`] for a journal superblock, a descriptor or a revoke block that
/// cannot be used: the kernel does not mount then, and what lies on the disk is older than what was committed.
/// [`ErrorKind::Unsupported`] with the name of a journal feature that is not known.
pub async fn recover(
    source: Arc<dyn BlockSource>,
    log: Vec<LogRun>,
    block_size: u32,
) -> Result<Recovery> {
    let log = Log::new(Arc::clone(&source), log, block_size)?;
    recover_from(source, log, 0, block_size).await.map_err(hint)
}

/// Says how to go on where the journal cannot be used.
pub(super) fn hint(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::BadChecksum | ErrorKind::Unsupported => {
            error.with_hint("`--journal ignore` reads the file system as it lies on the disk")
        }
        _ => error,
    }
}

/// The same with the journal superblock in log block `superblock_at`.
async fn recover_from(
    source: Arc<dyn BlockSource>,
    log: Log,
    superblock_at: u32,
    block_size: u32,
) -> Result<Recovery> {
    let block = log.read_block(superblock_at).await?;
    let superblock = JournalSuperblock::parse(&block)?;
    check_geometry(&superblock, &log, block_size)?;
    // A journal inside a file system is not shared; what its superblock says of it is of no interest.
    if superblock_at != 0 && superblock.users > 1 {
        let message =
            format!("a journal shared by {} file systems is not supported", superblock.users);
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let mut report = JournalReport {
        present: true,
        first_sequence: superblock.sequence,
        ..JournalReport::default()
    };
    report.warnings.extend(aborted(&superblock));
    let seen = |at, bytes| log.bytes(at).map(|place| Seen { offset: place.start, bytes });
    let mut watch: Vec<_> = seen(superblock_at, block).into_iter().collect();
    if superblock.start == 0 {
        return Ok(Recovery { source, report, fast_commits: Vec::new(), overlay: None, watch });
    }
    report.dirty = true;
    let found = scan::scan(&log, &superblock).await?;
    let next = superblock.sequence.wrapping_add(found.transactions);
    let fast = fast::read(&log, &superblock, next).await?;
    watch.extend(found.next_contents.and_then(|bytes| seen(found.next_block, bytes)));
    watch.extend(fast.next.and_then(|(block, bytes)| seen(block, bytes)));
    report.transactions = found.transactions;
    report.revokes = found.revokes;
    report.fast_commits = fast.commits;
    report.damaged = found.damaged;
    report.warnings.extend(found.warnings);
    report.warnings.extend(fast.warning);
    let format = superblock.format();
    let overlay =
        JournalOverlay::new(source, log, format, superblock.sequence, block_size, found.copies);
    report.replayed = true;
    report.blocks = overlay.blocks();
    let overlay = Arc::new(overlay);
    let source = Arc::clone(&overlay) as Arc<dyn BlockSource>;
    Ok(Recovery { source, report, fast_commits: fast.changes, overlay: Some(overlay), watch })
}

/// What the kernel noted when it stopped using the journal (`s_errno`). It marks the file system as damaged when it mounts it
/// the next time (`ext4_clear_journal_err`).
fn aborted(superblock: &JournalSuperblock) -> Option<String> {
    let errno = superblock.errno.checked_abs().filter(|errno| *errno != 0)?;
    let reason = std::io::Error::from_raw_os_error(errno).to_string();
    let reason = reason.split(" (os error ").next().unwrap_or_default();
    Some(format!(
        "journal: the kernel stopped using it because of an error ({reason}): the file system may be damaged, and what was \
         changed after that is missing"
    ))
}

fn check_geometry(superblock: &JournalSuperblock, log: &Log, block_size: u32) -> Result<()> {
    let fault = if superblock.block_size != block_size {
        format!("blocks of {} bytes in a file system of {block_size}", superblock.block_size)
    } else if superblock.max_len > log.blocks() {
        format!("{} blocks in a log of {}", superblock.max_len, log.blocks())
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Corrupt, format!("journal superblock: {fault}")))
}
