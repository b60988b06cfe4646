//! The file system as it reads after recovery: a map of blocks to their copies in the log, never the copies
//! themselves.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::{self, FutureExt as _};
use smallvec::SmallVec;

use super::log::Log;
use super::scan::Copy;
use crate::block::{self, BlockSource, ReadFuture, Segments, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::ext::layout::jbd2::{LogFormat, MAGIC};

/// A file system's blocks with the newest copies in its log laid over them.
pub(in crate::fs::ext) struct JournalOverlay {
    base: Arc<dyn BlockSource>,
    log: Log,
    format: LogFormat,
    /// The sequence number of the first transaction.
    first_sequence: u32,
    block_size: u64,
    /// By file-system block, of each block the newest copy first; several only where checksums may make the
    /// older ones count.
    copies: Vec<Copy>,
    /// What is known of each copy; empty where there are no checksums.
    states: Vec<AtomicU8>,
    /// How many were found bad.
    bad: AtomicU64,
}

/// So many bad copies are told of each on its own: a log has room for hundreds of thousands.
const MOST_TOLD: u64 = 5;

/// Not looked at yet.
const UNVERIFIED: u8 = 0;
/// Matches its checksum, or has none.
const GOOD: u8 = 1;
/// Does not match its checksum: recovery leaves such a copy out, and what was there before stays.
const BAD: u8 = 2;

/// One read of the log or of the file system, and the part of it that is asked for.
struct Piece {
    from_log: bool,
    offset: u64,
    len: usize,
    wanted: Range<usize>,
    /// The copies that a read of the log consists of, block by block.
    copies: SmallVec<[usize; 4]>,
}

impl JournalOverlay {
    /// `copies` in the order of the log.
    pub(super) fn new(
        base: Arc<dyn BlockSource>,
        log: Log,
        format: LogFormat,
        first_sequence: u32,
        block_size: u32,
        mut copies: Vec<Copy>,
    ) -> Self {
        // Stable: among copies of one block the newest comes first.
        copies.reverse();
        copies.sort_by_key(|copy| copy.fs_block);
        let mut states = Vec::new();
        if format.features().block_checksums() {
            states.resize_with(copies.len(), || AtomicU8::new(UNVERIFIED));
        } else {
            copies.dedup_by_key(|copy| copy.fs_block);
        }
        let block_size = u64::from(block_size);
        let bad = AtomicU64::new(0);
        Self { base, log, format, first_sequence, block_size, copies, states, bad }
    }

    /// How many file-system blocks have a copy in the log.
    pub(super) fn blocks(&self) -> u64 {
        self.copies.chunk_by(|a, b| a.fs_block == b.fs_block).count() as u64
    }

    /// Reads all copies that count and names those that do not match their checksums: what stands in their place is older
    /// than what was committed.
    pub(in crate::fs::ext) async fn verify(&self) -> Result<Vec<Error>> {
        const AT_ONCE: usize = 32;
        /// More are only counted.
        const MOST: usize = 1000;
        if self.states.is_empty() {
            return Ok(Vec::new());
        }
        let size = self.block_size as usize;
        let mut at = 0;
        while at < self.copies.len() {
            let end = self.copies.len().min(at + AT_ONCE);
            let homes = (at..end)
                .filter(|index| *index == 0 || self.home(*index) != self.home(*index - 1))
                .map(|index| self.home(index))
                .filter(|home| check_range(self.len(), *home, size).is_ok());
            // Each read goes on to older copies until one is good.
            future::try_join_all(homes.map(|home| self.read_at(home, size))).await?;
            at = end;
        }
        let bad = || (0..self.copies.len()).filter(|index| self.state(*index) == BAD);
        let mut errors: Vec<_> = bad()
            .take(MOST)
            .map(|index| {
                let Copy { fs_block, log_block, .. } = self.copies[index];
                let message = format!(
                    "journal: the copy of block {fs_block} in log block {log_block} does not match its checksum"
                );
                Error::new(ErrorKind::BadChecksum, message)
            })
            .collect();
        if let Some(more) = bad().count().checked_sub(MOST).filter(|more| *more > 0) {
            let message = format!("journal: {more} more copies do not match their checksums");
            errors.push(Error::new(ErrorKind::BadChecksum, message));
        }
        Ok(errors)
    }

    fn state(&self, index: usize) -> u8 {
        self.states.get(index).map_or(GOOD, |state| state.load(Ordering::Relaxed))
    }

    /// The first copy to use for a block at or after `block`, looking from entry `from` on.
    fn next_copy(&self, from: usize, block: u64) -> Option<usize> {
        let mut rest = self.copies.get(from..)?;
        rest = &rest[rest.partition_point(|copy| copy.fs_block < block)..];
        while let Some(Copy { fs_block, .. }) = rest.first().copied() {
            let start = self.copies.len() - rest.len();
            let end = start + rest.partition_point(|copy| copy.fs_block == fs_block);
            // The newest copies come first and each is tried before the next, so that the bad ones stand in front. There may
            // be a million of them.
            let (mut bad, mut untried) = (start, end);
            while bad < untried {
                let middle = bad + (untried - bad) / 2;
                if self.state(middle) == BAD { bad = middle + 1 } else { untried = middle }
            }
            if bad < end {
                return Some(bad);
            }
            rest = &self.copies[end..];
        }
        None
    }

    fn first_copy(&self, block: u64) -> usize {
        self.copies.partition_point(|copy| copy.fs_block < block)
    }

    /// Where the block that `index` is a copy of starts; past everything if that is past 2^64.
    fn home(&self, index: usize) -> u64 {
        self.copies[index].fs_block.saturating_mul(self.block_size)
    }

    /// Whether none of the bytes has a copy in the log.
    fn untouched(&self, offset: u64, len: usize) -> bool {
        let end = offset + len as u64;
        let first = self.first_copy(offset / self.block_size);
        first == self.copies.len() || self.home(first) >= end
    }

    /// Cuts a range that lies on the device into reads, as much in one as lies in order.
    fn plan(&self, offset: u64, len: usize) -> SmallVec<[Piece; 4]> {
        let end = offset + len as u64;
        let mut pieces: SmallVec<[Piece; 4]> = SmallVec::new();
        let mut at = offset;
        let mut from = self.first_copy(at / self.block_size);
        while at < end {
            let block = at / self.block_size;
            let next = self.next_copy(from, block);
            from = next.unwrap_or(self.copies.len());
            let copy_start = next.map_or(u64::MAX, |index| self.home(index));
            let piece = match next {
                Some(index) if copy_start <= at => self.log_piece(index, at, end),
                _ => {
                    let len = (end.min(copy_start) - at) as usize;
                    let copies = SmallVec::new();
                    Piece { from_log: false, offset: at, len, wanted: 0..len, copies }
                }
            };
            at += piece.wanted.len() as u64;
            match pieces.last_mut() {
                Some(last) if last.continues_with(&piece) => last.extend(piece),
                _ => pieces.push(piece),
            }
        }
        pieces
    }

    /// The part of one copy that lies in `at..end`; all of it is read where its checksum is to be computed.
    fn log_piece(&self, index: usize, at: u64, end: u64) -> Piece {
        let log_block = self.copies[index].log_block;
        let place =
            self.log.bytes(log_block).expect("the scan saw to it that the log has this block");
        let start = (at % self.block_size) as usize;
        let len = (self.block_size - at % self.block_size).min(end - at) as usize;
        let copies = SmallVec::from_slice(&[index]);
        if self.state(index) == UNVERIFIED {
            let wanted = start..start + len;
            let len = self.block_size as usize;
            return Piece { from_log: true, offset: place.start, len, wanted, copies };
        }
        let offset = place.start + start as u64;
        Piece { from_log: true, offset, len, wanted: 0..len, copies }
    }

    fn source_of(&self, piece: &Piece) -> &dyn BlockSource {
        if piece.from_log { self.log.source().as_ref() } else { self.base.as_ref() }
    }

    /// What was asked for, out of what was read for it; `None` where a copy turns out bad, for a new plan.
    fn finish(&self, piece: &Piece, answer: Segments) -> Option<Segments> {
        if !piece.from_log {
            return Some(answer);
        }
        let bytes = answer.into_bytes();
        let mut sound = true;
        let mut finished = Segments::new();
        let mut start = 0;
        for index in piece.copies.iter().copied() {
            // Blocks in the middle are whole; only the first and the last may be cut.
            let first = (piece.offset + start as u64) % self.block_size;
            let len = (self.block_size - first).min((piece.len - start) as u64) as usize;
            let part = bytes.slice(start..start + len);
            sound &= self.check(index, &part);
            let wanted = piece.wanted.start.max(start)..piece.wanted.end.min(start + len);
            let part = bytes.slice(wanted.clone());
            let from = first as usize + (wanted.start - start);
            if self.copies[index].escaped && from < 4 {
                let magic = MAGIC.to_be_bytes();
                let restored = part.len().min(4 - from);
                finished.push(Bytes::copy_from_slice(&magic[from..from + restored]));
                finished.push(part.slice(restored..));
            } else {
                finished.push(part);
            }
            start += len;
        }
        sound.then_some(finished)
    }

    /// Whether a copy counts; `bytes` is all of it where that is not known yet.
    fn check(&self, index: usize, bytes: &[u8]) -> bool {
        let state = self.state(index);
        if state != UNVERIFIED {
            return state == GOOD;
        }
        let Copy { fs_block, log_block, transaction, checksum, .. } = self.copies[index];
        let sequence = self.first_sequence.wrapping_add(transaction);
        let good = self.format.copy_ok(checksum, sequence, bytes);
        let state = if good { GOOD } else { BAD };
        // Two who look at the same time tell of it once.
        if self.states[index].swap(state, Ordering::Relaxed) == UNVERIFIED && !good {
            match self.bad.fetch_add(1, Ordering::Relaxed) {
                0..MOST_TOLD => tracing::warn!(
                    "journal: the copy of block {fs_block} in log block {log_block} (transaction {sequence}) does \
                     not match its checksum: left out"
                ),
                MOST_TOLD => tracing::warn!(
                    "journal: more copies do not match their checksums: left out, and counted at the end \
                     (`verify` names them)"
                ),
                _ => {}
            }
        }
        good
    }

    async fn read_mapped(&self, offset: u64, len: usize, fresh: bool) -> Result<Segments> {
        // Every round but the last finds at least one more copy bad.
        loop {
            let plan = self.plan(offset, len);
            let reads = plan.iter().map(|piece| {
                let source = self.source_of(piece);
                if fresh {
                    source.read_fresh(piece.offset, piece.len).left_future()
                } else {
                    block::read(source, piece.offset, piece.len).right_future()
                }
            });
            let answers = future::try_join_all(reads).await?;
            let mut whole = Segments::new();
            let finished = plan.iter().zip(answers).try_for_each(|(piece, answer)| {
                whole.append(self.finish(piece, answer)?);
                Some(())
            });
            if finished.is_some() {
                return Ok(whole);
            }
        }
    }

    fn try_read_mapped(&self, offset: u64, len: usize) -> Option<Result<Segments>> {
        'plan: loop {
            let mut whole = Segments::new();
            for piece in &self.plan(offset, len) {
                match self.source_of(piece).try_read_at(piece.offset, piece.len)? {
                    Ok(answer) => match self.finish(piece, answer) {
                        Some(finished) => whole.append(finished),
                        None => continue 'plan,
                    },
                    Err(error) => return Some(Err(error)),
                }
            }
            return Some(Ok(whole));
        }
    }
}

impl Drop for JournalOverlay {
    fn drop(&mut self) {
        let bad = *self.bad.get_mut();
        if bad > MOST_TOLD {
            tracing::warn!(
                "journal: {bad} copies in all did not match their checksums and were left out"
            );
        }
    }
}

impl Piece {
    fn continues_with(&self, next: &Self) -> bool {
        self.from_log
            && next.from_log
            && self.offset + self.len as u64 == next.offset
            && self.wanted.end == self.len
            && next.wanted.start == 0
    }

    fn extend(&mut self, next: Self) {
        self.wanted.end = self.len + next.wanted.end;
        self.len += next.len;
        self.copies.extend(next.copies);
    }
}

impl BlockSource for JournalOverlay {
    fn len(&self) -> u64 {
        self.base.len()
    }

    fn block_size(&self) -> u32 {
        self.base.block_size()
    }

    fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        if let Err(error) = check_range(self.len(), offset, len) {
            return Box::pin(future::ready(Err(error)));
        }
        if self.untouched(offset, len) {
            return self.base.read_at(offset, len);
        }
        Box::pin(self.read_mapped(offset, len, false))
    }

    fn try_read_at(&self, offset: u64, len: usize) -> Option<Result<Segments>> {
        if let Err(error) = check_range(self.len(), offset, len) {
            return Some(Err(error));
        }
        if self.untouched(offset, len) {
            return self.base.try_read_at(offset, len);
        }
        self.try_read_mapped(offset, len)
    }

    fn read_fresh(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        if let Err(error) = check_range(self.len(), offset, len) {
            return Box::pin(future::ready(Err(error)));
        }
        if self.untouched(offset, len) {
            return self.base.read_fresh(offset, len);
        }
        Box::pin(self.read_mapped(offset, len, true))
    }

    fn prefetch(&self, ranges: &[Range<u64>]) {
        let mut from_base = Vec::new();
        let mut from_log = Vec::new();
        for range in ranges {
            let range = range.start..range.end.min(self.len());
            if range.is_empty() {
                continue;
            }
            let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            for piece in self.plan(range.start, len) {
                let ranges = if piece.from_log { &mut from_log } else { &mut from_base };
                ranges.push(piece.offset..piece.offset + piece.len as u64);
            }
        }
        if !from_base.is_empty() {
            self.base.prefetch(&from_base);
        }
        if !from_log.is_empty() {
            self.log.source().prefetch(&from_log);
        }
    }
}
