//! Reads the area of the fast commits, behind the log proper.

use bytes::Bytes;

use super::log::{Log, LogReader};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::ext::layout::fast_commit::{Change, Scanner};
use crate::fs::ext::layout::jbd2::JournalSuperblock;

/// The most that is read: sixteen times what mke2fs gives blocks of 4 KiB. It bounds the memory, too.
const MAX_BYTES: usize = 16 << 20;

/// What the area holds.
#[derive(Debug, Default)]
pub(super) struct FastCommits {
    /// The changes, in order.
    pub(super) changes: Vec<Change>,
    /// Complete fast commits.
    pub(super) commits: u32,
    /// The block where the next one would be written, and what it holds.
    pub(super) next: Option<(u32, Bytes)>,
    /// What a person should know.
    pub(super) warning: Option<String>,
}

/// Reads the fast commits that continue the log; `sequence` is the number that its next transaction would have.
///
/// # Errors
/// What reading gives; [`ErrorKind::Unsupported`] for features that are not known, and for more than memory is allowed for.
pub(super) async fn read(
    log: &Log,
    superblock: &JournalSuperblock,
    sequence: u32,
) -> Result<FastCommits> {
    let mut found = FastCommits::default();
    if superblock.fast_commit_blocks == 0 {
        return Ok(found);
    }
    let mut scanner = Scanner::new(sequence);
    // The first block tells whether there is more, which is then read whole.
    let mut reader = LogReader::new(log, superblock.max_len, true);
    let mut read = 0;
    // One block is left free between the log and the fast commits.
    for at in superblock.end() + 1..superblock.max_len {
        let block = match read {
            0 => log.read_block(at).await?,
            _ => reader.block(at).await?,
        };
        let before = scanner.commits();
        let more = scanner.block(&block)?;
        if found.next.is_none() {
            found.next = Some((at, Bytes::copy_from_slice(&block)));
        }
        if scanner.commits() > before {
            found.next = None;
        }
        if !more {
            break;
        }
        read += block.len();
        if read > MAX_BYTES {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("fast commits of more than {MAX_BYTES} bytes are not supported"),
            ));
        }
    }
    let scanned = scanner.finish();
    found.commits = scanned.commits;
    found.changes = scanned.changes;
    found.warning = scanned.torn.then(|| {
        format!(
            "journal: a fast commit after transaction {} is incomplete or does not match its checksum: it and all \
             after it are left out",
            sequence.wrapping_sub(1)
        )
    });
    Ok(found)
}
