//! Where the log lies, and how it is read: as little as the budget allows, as much at once as it allows.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::LogRun;
use crate::block::{self, BlockSource};
use crate::error::{Error, ErrorKind, Result};

/// Runs without gaps from log block 0 on, all of them on the device.
pub(super) struct Log {
    source: Arc<dyn BlockSource>,
    runs: Vec<LogRun>,
    block_size: u32,
    blocks: u32,
}

impl Log {
    pub(super) fn new(
        source: Arc<dyn BlockSource>,
        runs: Vec<LogRun>,
        block_size: u32,
    ) -> Result<Self> {
        if !(1024..=65536).contains(&block_size) || !block_size.is_power_of_two() {
            return Err(corrupt(format!("blocks of {block_size} bytes")));
        }
        let device_blocks = source.len() / u64::from(block_size);
        let mut blocks = 0_u32;
        for run in &runs {
            let end = run.fs_block.checked_add(u64::from(run.length));
            if run.log_block != blocks || end.is_none_or(|end| end > device_blocks) {
                return Err(corrupt(format!(
                    "log block {} is mapped to block {} of {device_blocks}",
                    run.log_block, run.fs_block
                )));
            }
            blocks = blocks
                .checked_add(run.length)
                .ok_or_else(|| corrupt("more than 2^32 log blocks"))?;
        }
        Ok(Self { source, runs, block_size, blocks })
    }

    pub(super) fn source(&self) -> &Arc<dyn BlockSource> {
        &self.source
    }

    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// The place of `block` on the device in bytes, and how many blocks from there on lie in order.
    pub(super) fn place(&self, block: u32) -> Option<(u64, u32)> {
        let index = self.runs.partition_point(|run| run.log_block <= block).checked_sub(1)?;
        let run = self.runs[index];
        let skipped = block - run.log_block;
        let left = run.length.checked_sub(skipped).filter(|left| *left > 0)?;
        Some(((run.fs_block + u64::from(skipped)) * u64::from(self.block_size), left))
    }

    /// The contents of one block.
    pub(super) async fn read_block(&self, block: u32) -> Result<Bytes> {
        let place = self.bytes(block).ok_or_else(|| self.no_such_block(block))?;
        let answer = block::read(self.source.as_ref(), place.start, self.block_size as usize);
        Ok(answer.await?.into_bytes())
    }

    fn no_such_block(&self, block: u32) -> Error {
        corrupt(format!("log block {block} of {} does not exist", self.blocks))
    }

    /// The byte range of one block on the device.
    pub(super) fn bytes(&self, block: u32) -> Option<Range<u64>> {
        let (start, _) = self.place(block)?;
        Some(start..start + u64::from(self.block_size))
    }
}

/// The largest single read.
const CHUNK: u64 = 1 << 20;
/// Reads under way ahead of the one waited for, where everything is read.
const AHEAD: u64 = 4;
/// What may be read beyond a quarter of the log already passed.
const SLACK: u64 = 512 << 10;
/// Descriptors asked for ahead of time while they follow each other at equal distances.
const GUESSES: u32 = 8;
/// From this average time of a small read on, bytes cost less than round trips.
const FAR: Duration = Duration::from_millis(2);
/// What a small read is, and how many of them tell the delay.
const SMALL: u64 = 64 << 10;
const SAMPLES: u32 = 8;

/// Reads log blocks in the order of the log, skipping the copies between descriptors.
///
/// Small transactions are read through, large ones are skipped: the next read is twice as long where the last one
/// was of use, and as short as can be where it was not. A budget bounds what is read in vain: a quarter of the log
/// passed so far and [`SLACK`], so that a live log of many GiB costs a fraction of itself, and a small one a read
/// or two. Two cases are read whole: checksums over everything, and a device so far away that a round trip costs
/// more than the bytes it saves.
pub(super) struct LogReader<'a> {
    log: &'a Log,
    end: u32,
    whole: bool,
    window: Range<u32>,
    bytes: Bytes,
    /// Blocks of the window that were asked for.
    used: u32,
    /// Bytes the next read asks for, within the budget.
    next_read: u64,
    prefetched: u32,
    passed: u64,
    read: u64,
    samples: u32,
    waited: Duration,
}

impl<'a> LogReader<'a> {
    /// Reads from `log` up to block `end`; `whole`: every block will be asked for.
    pub(super) fn new(log: &'a Log, end: u32, whole: bool) -> Self {
        Self {
            log,
            end,
            whole,
            window: 0..0,
            bytes: Bytes::new(),
            used: 0,
            next_read: SLACK,
            prefetched: 0,
            passed: 0,
            read: 0,
            samples: 0,
            waited: Duration::ZERO,
        }
    }

    /// The contents of `block`. Cut from a larger read: to be looked at, not kept.
    pub(super) async fn block(&mut self, block: u32) -> Result<Bytes> {
        if !self.window.contains(&block) {
            self.fill(block).await?;
        }
        let size = self.log.block_size as usize;
        let start = (block - self.window.start) as usize * size;
        self.used += 1;
        self.passed += u64::from(self.log.block_size);
        Ok(self.bytes.slice(start..start + size))
    }

    /// Notes that `blocks` blocks from `block` on are passed over unread. `full` says that the descriptor in
    /// front of them had no room for more, so that the next ones probably look the same.
    pub(super) fn skip(&mut self, block: u32, blocks: u32, full: bool) {
        self.passed += u64::from(blocks) * u64::from(self.log.block_size);
        let Some(next) = block.checked_add(blocks).filter(|_| full && !self.whole) else { return };
        if self.window.contains(&next) {
            return;
        }
        self.next_read = self.shortest();
        let guesses = (0..GUESSES)
            .map_while(|index| next.checked_add(index.checked_mul(blocks.checked_add(1)?)?))
            .take_while(|guess| *guess < self.end)
            .filter_map(|guess| self.log.bytes(guess))
            .map(|bytes| bytes.start..(bytes.start + self.shortest()).min(self.log.source.len()));
        self.log.source.prefetch(&guesses.collect::<Vec<_>>());
    }

    /// Two blocks: a commit block, and the descriptor that follows it.
    fn shortest(&self) -> u64 {
        2 * u64::from(self.log.block_size)
    }

    async fn fill(&mut self, block: u32) -> Result<()> {
        let size = u64::from(self.log.block_size);
        let (place, in_order) =
            self.log.place(block).ok_or_else(|| self.log.no_such_block(block))?;
        let in_order = in_order.min(self.end.saturating_sub(block)).max(1);
        let blocks = u32::try_from(self.next_len() / size).unwrap_or(u32::MAX).clamp(1, in_order);
        let len = u64::from(blocks) * size;
        if self.reads_all() {
            self.prefetch_from(block.saturating_add(blocks));
        }
        let started = Instant::now();
        let answer = block::read(self.log.source.as_ref(), place, len as usize).await?;
        if len <= SMALL && self.samples < SAMPLES {
            self.samples += 1;
            self.waited += started.elapsed();
        }
        self.read += len;
        self.used = 0;
        self.window = block..block + blocks;
        self.bytes = answer.into_bytes();
        Ok(())
    }

    fn reads_all(&self) -> bool {
        self.whole || (self.samples == SAMPLES && self.waited >= FAR * SAMPLES)
    }

    fn next_len(&mut self) -> u64 {
        if self.reads_all() {
            return CHUNK;
        }
        let blocks = self.window.end - self.window.start;
        if blocks > 0 && self.used < blocks.div_ceil(8) {
            self.next_read = self.shortest();
        }
        let budget = (self.passed / 4 + SLACK).saturating_sub(self.read);
        let len = self.next_read.min(budget).max(self.shortest());
        self.next_read = (self.next_read * 2).min(CHUNK);
        len
    }

    /// Asks for the next chunks, each once.
    fn prefetch_from(&mut self, block: u32) {
        let size = u64::from(self.log.block_size);
        let chunk = u32::try_from(CHUNK / size).unwrap_or(1).max(1);
        let limit = block.saturating_add(chunk * AHEAD as u32).min(self.end);
        // Not after the log has wrapped around: the end is behind us then, and `limit` below it.
        let mut next = if self.prefetched >= self.end { block } else { block.max(self.prefetched) };
        let mut ranges = Vec::new();
        while next < limit {
            let Some((place, in_order)) = self.log.place(next) else { break };
            let blocks = in_order.min(limit - next);
            ranges.push(place..place + u64::from(blocks) * size);
            next += blocks;
        }
        self.prefetched = next;
        self.log.source.prefetch(&ranges);
    }
}

fn corrupt(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("journal: {what}"))
}
