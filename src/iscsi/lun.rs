//! One logical unit as a source of blocks.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::block::{BlockSource, ReadFuture, Segments, check_range};
use crate::error::Result;
use crate::scsi::{Cdb, LunAddress};

use super::driver::{Handle, Request};
use super::unit::Unit;

/// The longest READ, in bytes, even where the target would take a longer one: beyond it nothing gets faster.
const MAX_READ: u32 = 1 << 20;

/// One logical unit of a session, as a [`BlockSource`].
///
/// A read that passes what the target takes in one command is several commands, in flight together.
#[derive(Debug)]
pub struct Lun {
    handle: Handle,
    address: LunAddress,
    /// The unit and its target, for messages.
    name: String,
    len: u64,
    block_size: u32,
    /// The longest READ, in blocks.
    max_blocks: u32,
    long_reads: bool,
}

impl Lun {
    pub(super) fn new(handle: Handle, address: LunAddress, target: &str, unit: Unit) -> Self {
        let capacity = unit.facts.capacity;
        let wanted = MAX_READ / capacity.block_size;
        let max_blocks = match unit.limits.maximum_transfer {
            0 => wanted,
            limit => wanted.min(limit),
        };
        // READ(10) counts blocks in 16 bits; `wanted` is at most 2,048.
        handle.tell(Request::Watch(address, unit.facts));
        Self {
            handle,
            address,
            name: format!("{address} of {target}"),
            len: capacity.bytes(),
            block_size: capacity.block_size,
            max_blocks,
            long_reads: unit.long_reads,
        }
    }

    /// The logical unit number.
    pub fn number(&self) -> u64 {
        self.address.number()
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
        let deadline = self.handle.deadline();
        let mut answers = SmallVec::<[_; 4]>::new();
        while lba < after {
            let blocks = u32::try_from(after - lba).unwrap_or(u32::MAX).min(self.max_blocks);
            let expected = blocks * self.block_size;
            let answer = self.handle.start(self.address, self.cdb(lba, blocks), expected, deadline);
            answers.push((lba, blocks, answer));
            lba += u64::from(blocks);
        }
        let mut segments = Segments::new();
        for (lba, blocks, answer) in answers {
            let data = Handle::wait(answer).await.map_err(|error| {
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

impl Drop for Lun {
    fn drop(&mut self) {
        self.handle.tell(Request::Unwatch(self.address));
    }
}
