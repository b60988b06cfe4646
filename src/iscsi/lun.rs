//! One logical unit as a source of blocks.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::block::{BlockSource, ReadFuture, Segments, check_range};
use crate::error::Result;
use crate::scsi::Cdb;

use super::paths::{PathInfo, Paths};
use super::unit::{self, Unit};

/// The longest READ, in bytes, even where the target would take a longer one: beyond it nothing gets faster.
const MAX_READ: u32 = 1 << 20;

/// One logical unit of a session, as a [`BlockSource`].
///
/// A read that passes what the target takes in one command is several commands, in flight together. Where the session
/// knows several portals, long reading is shared among them, and each takes over for the others.
#[derive(Debug)]
pub struct Lun {
    paths: Arc<Paths>,
    /// The unit and its target, for messages.
    name: String,
    len: u64,
    block_size: u32,
    /// The longest READ, in blocks.
    max_blocks: u32,
    long_reads: bool,
}

impl Lun {
    pub(super) fn new(paths: Paths, name: String, unit: &Unit) -> Self {
        let capacity = unit.facts.capacity;
        let wanted = MAX_READ / capacity.block_size;
        let max_blocks = match unit.limits.maximum_transfer {
            0 => wanted,
            limit => wanted.min(limit),
        };
        // READ(10) counts blocks in 16 bits; `wanted` is at most 2,048.
        Self {
            paths: Arc::new(paths),
            name,
            len: capacity.bytes(),
            block_size: capacity.block_size,
            max_blocks,
            long_reads: unit.long_reads,
        }
    }

    /// The logical unit number.
    pub fn number(&self) -> u64 {
        self.paths.found().address.number()
    }

    /// The ways that lead to it, in use or not.
    pub fn paths(&self) -> Vec<PathInfo> {
        self.paths.report()
    }

    /// Opens every path that is not open yet, within the time that a login may take; see [`Lun::paths`] for what came
    /// of it. Reading does so by itself after some megabytes.
    pub async fn open_paths(&self) {
        self.paths.open_all().await;
    }

    /// The rotation rate of the medium in revolutions per minute, 0 where it does not rotate; `None` where the device
    /// does not say.
    ///
    /// # Errors
    /// Those of a command that gets no answer.
    pub async fn rotation_rate(&self) -> Result<Option<u16>> {
        let found = self.paths.found();
        let about = unit::characteristics(&self.paths.any(), found.address, &found.pages).await;
        Ok(about.map_err(|error| error.context(&self.name))?.rotation_rate)
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Segments> {
        check_range(self.len, offset, len)?;
        if len == 0 {
            return Ok(Segments::new());
        }
        let block_size = u64::from(self.block_size);
        // `check_range` has shown that the end fits.
        let end = offset + len as u64;
        let (mut lba, after) = (offset / block_size, end.div_ceil(block_size));
        let deadline = Instant::now() + self.paths.timeout();
        let mut answers = SmallVec::<[_; 4]>::new();
        while lba < after {
            let blocks = u32::try_from(after - lba).unwrap_or(u32::MAX).min(self.max_blocks);
            let expected = blocks * self.block_size;
            let answer = self.paths.start(self.cdb(lba, blocks), expected, deadline);
            answers.push((lba, blocks, answer));
            lba += u64::from(blocks);
        }
        let mut segments = Segments::new();
        for (lba, blocks, answer) in answers {
            let data = self.paths.finish(answer).await.map_err(|error| {
                error.context(format_args!("{}: read of {blocks} blocks at LBA {lba}", self.name))
            })?;
            let data: Bytes = data.freeze();
            // Only the first and the last command can bring more than was asked for.
            let start = lba * block_size;
            let from = offset.saturating_sub(start);
            let to = (end - start).min(data.len() as u64);
            segments.push(data.slice(from as usize..to as usize));
        }
        Ok(segments)
    }

    fn cdb(&self, lba: u64, blocks: u32) -> Cdb {
        match (u32::try_from(lba), u16::try_from(blocks)) {
            (Ok(lba), Ok(blocks)) if !self.long_reads => Cdb::Read10 { lba, blocks },
            _ => Cdb::Read16 { lba, blocks },
        }
    }
}

impl BlockSource for Lun {
    fn len(&self) -> u64 {
        self.len
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        Box::pin(self.read(offset, len))
    }
}
