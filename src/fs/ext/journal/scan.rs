//! The passes over the log: what was committed, what was revoked, and which copies are left.

use std::collections::HashMap;

use bytes::Bytes;

use super::log::{Log, LogReader};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::ext::layout::jbd2::{
    BlockType, Commit, CommitState, Features, Header, JournalSuperblock, LogFormat, crc32_be,
};

/// The most copies kept: at 24 bytes each this bounds the memory, at 4 KiB blocks it is a live log of 16 GiB.
const MAX_COPIES: usize = 4 << 20;
/// Contents of revoke blocks kept between the passes; what is beyond is read twice.
const MAX_REVOKE_BYTES: usize = 4 << 20;

/// A copy of a file-system block in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) fs_block: u64,
    pub(super) log_block: u32,
    /// How many transactions of this log came before the one that it belongs to. Sequence numbers wrap at 2^32,
    /// which no log can hold: counted from the first one they are plain numbers.
    pub(super) transaction: u32,
    pub(super) checksum: u32,
    pub(super) escaped: bool,
}

/// A revoke block that the first pass met.
struct RevokeBlock {
    log_block: u32,
    transaction: u32,
    /// Its contents, unless there were too many of them to keep.
    kept: Option<Bytes>,
}

/// What the log holds.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Committed and not revoked, in the order of the log.
    pub(super) copies: Vec<Copy>,
    /// Committed transactions.
    pub(super) transactions: u32,
    /// Revoke records found in them.
    pub(super) revokes: u64,
    /// The block after the last commit block: where the next transaction would start.
    pub(super) next_block: u32,
    /// What that block held when it ended the log; `None` where the log is full.
    pub(super) next_contents: Option<Bytes>,
    /// The number of a transaction that is damaged, so that it and all after it do not count.
    pub(super) damaged: Option<u32>,
    /// What was passed over.
    pub(super) warnings: Vec<String>,
}

/// Runs the passes.
///
/// # Errors
/// What reading gives; [`ErrorKind::Unsupported`] for a log with more copies than memory is allowed for;
/// [`ErrorKind::BadChecksum`] or [`ErrorKind::Corrupt`] for a descriptor or revoke block that cannot be trusted: with
/// it, nothing of the log can be.
pub(super) async fn scan(log: &Log, superblock: &JournalSuperblock) -> Result<Scan> {
    let format = superblock.format();
    let whole = format.features().contains(Features::CSUM_V1);
    let mut pass = ScanPass {
        superblock,
        format,
        reader: LogReader::new(log, superblock.end(), whole),
        at: superblock.start,
        visited: 0,
        transaction: 0,
        end: None,
        suspect: false,
        last_commit_seconds: 0,
        crc32: !0,
        revoke_blocks: Vec::new(),
        revoke_bytes: 0,
        found: Scan { next_block: superblock.start, ..Scan::default() },
    };
    pass.run().await?;
    let end = pass.end.unwrap_or(pass.transaction);
    let ScanPass { mut found, mut revoke_blocks, .. } = pass;
    found.transactions = end;
    found.copies.retain(|copy| copy.transaction < end);
    revoke_blocks.retain(|block| block.transaction < end);
    if !revoke_blocks.is_empty() {
        revoke(log, format, revoke_blocks, &mut found).await?;
    }
    Ok(found)
}

/// Whether the scan goes on after a block.
enum Step {
    On,
    End,
}

/// The first pass: finds the end of the log, and what is in it on the way.
struct ScanPass<'a> {
    superblock: &'a JournalSuperblock,
    format: LogFormat,
    reader: LogReader<'a>,
    at: u32,
    visited: u32,
    /// The transaction that is being read, counted from the first.
    transaction: u32,
    /// The first transaction that does not count, where a checksum said so.
    end: Option<u32>,
    /// A descriptor or revoke block of this transaction does not match its checksum: damage, or remains of an
    /// older life of the log. The commit block will tell.
    suspect: bool,
    last_commit_seconds: u64,
    crc32: u32,
    revoke_blocks: Vec<RevokeBlock>,
    revoke_bytes: usize,
    found: Scan,
}

impl ScanPass<'_> {
    async fn run(&mut self) -> Result<()> {
        loop {
            let here = self.at;
            if !self.advance(1) {
                return Ok(());
            }
            let block = self.reader.block(here).await?;
            if here == self.found.next_block {
                // Not a slice, which would keep the larger read that it was cut from.
                self.found.next_contents = Some(Bytes::copy_from_slice(&block));
            }
            let Some(header) = Header::parse(&block) else { return Ok(()) };
            if header.sequence != self.sequence() {
                return Ok(());
            }
            let step = match header.block_type {
                BlockType::Descriptor => self.descriptor(&block).await?,
                BlockType::Commit => self.commit(&block)?,
                BlockType::Revoke => {
                    self.suspect |= !self.format.tail_ok(&block);
                    self.revoke(here, &block);
                    Step::On
                }
                BlockType::Other(_) => Step::End,
            };
            if matches!(step, Step::End) {
                return Ok(());
            }
        }
    }

    fn sequence(&self) -> u32 {
        self.superblock.sequence.wrapping_add(self.transaction)
    }

    /// Moves on by `blocks`, around the end of the log; `false` once every block of it was visited.
    fn advance(&mut self, blocks: u32) -> bool {
        let (first, end) = (self.superblock.first, self.superblock.end());
        self.visited = self.visited.saturating_add(blocks);
        if self.visited > end - first {
            self.found.warnings.push(format!(
                "journal: transaction {} runs into its own start, taken as not committed",
                self.sequence()
            ));
            return false;
        }
        let mut at = u64::from(self.at) + u64::from(blocks);
        if at >= u64::from(end) {
            at -= u64::from(end - first);
        }
        self.at = u32::try_from(at).expect("`blocks` is at most the length of the log");
        true
    }

    async fn descriptor(&mut self, block: &[u8]) -> Result<Step> {
        self.suspect |= !self.format.tail_ok(block);
        let whole = self.format.features().contains(Features::CSUM_V1)
            && !self.suspect
            && self.end.is_none();
        if whole {
            self.crc32 = crc32_be(self.crc32, block);
        }
        let first_copy = self.at;
        let mut count = 0_u32;
        for tag in self.format.tags(block) {
            let log_block = self.at;
            if !self.advance(1) {
                return Ok(Step::End);
            }
            if whole {
                let copy = self.reader.block(log_block).await?;
                self.crc32 = crc32_be(self.crc32, &copy);
            }
            if self.found.copies.len() >= MAX_COPIES {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("a journal with more than {MAX_COPIES} live blocks is not supported"),
                ));
            }
            self.found.copies.push(Copy {
                fs_block: tag.fs_block,
                log_block,
                transaction: self.transaction,
                checksum: tag.checksum,
                escaped: tag.escaped,
            });
            count += 1;
        }
        if !whole {
            let full = count as usize >= self.format.tags_per_block(block.len());
            self.reader.skip(first_copy, count, full);
        }
        Ok(Step::On)
    }

    fn revoke(&mut self, log_block: u32, block: &[u8]) {
        let kept = (self.revoke_bytes < MAX_REVOKE_BYTES).then(|| Bytes::copy_from_slice(block));
        self.revoke_bytes += kept.as_ref().map_or(0, Bytes::len);
        self.revoke_blocks.push(RevokeBlock { log_block, transaction: self.transaction, kept });
    }

    fn commit(&mut self, block: &[u8]) -> Result<Step> {
        let Some(commit) = Commit::parse(block) else { return Ok(Step::End) };
        let newer = commit.seconds >= self.last_commit_seconds;
        if self.suspect {
            if newer {
                return Err(Error::new(
                    ErrorKind::BadChecksum,
                    format!(
                        "journal: a descriptor or revoke block of transaction {} does not match its checksum",
                        self.sequence()
                    ),
                ));
            }
            return Ok(Step::End);
        }
        let features = self.format.features();
        let mut sound = true;
        if features.contains(Features::CSUM_V1) {
            if self.end.is_some() {
                // The transaction before was incomplete and this one is there: it was not the last one.
                return Ok(Step::On);
            }
            sound = commit.transaction_ok(self.crc32);
            if sound {
                self.crc32 = !0;
            }
        }
        let state = self.format.commit_state(block);
        if sound && state == CommitState::Torn {
            self.found.warnings.push(format!(
                "journal: the commit block of transaction {} is incomplete; what it says is whole, and used",
                self.sequence()
            ));
        }
        if !sound || state == CommitState::Bad {
            if !newer {
                return Ok(Step::End);
            }
            self.end = Some(self.transaction);
            self.found.warnings.push(format!(
                "journal: transaction {} does not match its checksum: it and all after it are left out",
                self.sequence()
            ));
            // With that, its commit block may have been there first, and nothing is wrong.
            if !features.contains(Features::ASYNC_COMMIT) {
                self.found.damaged = Some(self.sequence());
                return Ok(Step::On);
            }
        }
        self.last_commit_seconds = commit.seconds;
        self.transaction += 1;
        if self.end.is_none() {
            self.found.next_block = self.at;
            self.found.next_contents = None;
        }
        Ok(Step::On)
    }
}

/// The second pass, and what of the third can be done now: drops the copies that a revoke record of the same or
/// a later transaction voids, wherever in the log it stands.
async fn revoke(
    log: &Log,
    format: LogFormat,
    blocks: Vec<RevokeBlock>,
    found: &mut Scan,
) -> Result<()> {
    // Only blocks that have copies are in it, so that a log full of revoke records costs no memory.
    let mut voided_by: HashMap<u64, Option<u32>> =
        found.copies.iter().map(|copy| (copy.fs_block, None)).collect();
    for RevokeBlock { log_block, transaction, kept } in blocks {
        let block = match kept {
            Some(block) => block,
            None => log.read_block(log_block).await?,
        };
        let Some(records) = format.revoked(&block) else {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "journal: the revoke block at log block {log_block} claims more records than fit into it"
                ),
            ));
        };
        for fs_block in records {
            found.revokes += 1;
            if let Some(last) = voided_by.get_mut(&fs_block) {
                *last = (*last).max(Some(transaction));
            }
        }
    }
    found.copies.retain(|copy| {
        let last = voided_by.get(&copy.fs_block).copied().flatten();
        last.is_none_or(|last| copy.transaction > last)
    });
    Ok(())
}
