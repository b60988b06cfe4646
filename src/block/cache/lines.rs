//! What the cache holds: lines of 64 KiB in two lists, the least recently used at the end of each.
//!
//! A line collects pieces of what the source answered. A map entry per 64 KiB rather than per block keeps a
//! stream cheap (two look-ups for a FUSE read of 128 KiB), and a line need not be full, so that one inode
//! costs one block and not 64 KiB of the wire.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use lru::LruCache;
use smallvec::{SmallVec, smallvec};

use crate::block::Segments;

/// Bytes of the device that share one entry.
pub(super) const LINE: u64 = 64 << 10;

/// Memory that a line and a buffer cost besides their bytes: list node, table entry, piece, counters.
const OVERHEAD: usize = 320;

/// The most bytes of large reads that are kept, however large the budget. They are read once as a rule, the kernel
/// keeps what went through FUSE, and memory that is used again while it is warm costs far less than new pages; so
/// this needs to hold the readahead of a few streams and no more.
const LARGE_MAX: usize = 64 << 20;

/// How many large lines are kept that a stream has read to their end: enough for requests that overtake each other by
/// a megabyte. Memory that is used again so soon is still in the processor's caches, and is not where it was read
/// sixty megabytes ago.
const READ_OUT_MAX: usize = 32;

/// Which of the two lists a line is in.
///
/// A small read costs a round trip for little, a large one costs little per byte: small reads (inodes,
/// directories, extent trees, small files) are dear to repeat and are kept apart from what streams through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Small,
    Large,
}

impl Class {
    /// Reads of at most this many bytes are small ones.
    const SMALL_MAX: u64 = 32 << 10;

    /// The class of a read of `len` bytes.
    pub(super) fn of(len: u64) -> Self {
        if len <= Self::SMALL_MAX { Self::Small } else { Self::Large }
    }
}

/// One contiguous piece of an answer. Among the large lines it may be cut over several, and its memory is free only
/// when the last of them is gone: so it is charged in full until then. A small line has its buffers for itself, as a
/// copy where need be: one inode must not hold a megabyte.
struct Buffer {
    bytes: Bytes,
}

impl Buffer {
    fn cost(&self) -> usize {
        self.bytes.len() + OVERHEAD
    }
}

/// A part of a buffer within a line.
struct Piece {
    /// The place in the line.
    range: Range<usize>,
    /// Where that place begins in the buffer.
    at: usize,
    buffer: Arc<Buffer>,
}

/// The pieces of one line, in order, never overlapping.
#[derive(Default)]
struct Line {
    pieces: SmallVec<[Piece; 1]>,
    /// Whether a small read has used it while it was among the large ones.
    looked_at: bool,
}

impl Line {
    /// Parts of `range` that no piece holds.
    fn gaps(&self, range: Range<usize>) -> SmallVec<[Range<usize>; 2]> {
        let mut gaps = SmallVec::new();
        let mut at = range.start;
        for piece in &self.pieces {
            if piece.range.start >= range.end {
                break;
            }
            if piece.range.start > at {
                gaps.push(at..piece.range.start);
            }
            at = at.max(piece.range.end);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    fn add(&mut self, piece: Piece) {
        let place = self.pieces.partition_point(|held| held.range.start < piece.range.start);
        self.pieces.insert(place, piece);
    }
}

/// Which device, and which line of it.
type Key = (u32, u64);

/// One list and the memory that its lines keep: every buffer once, as long as a line holds a part of it.
struct List {
    lines: LruCache<Key, Line>,
    used: usize,
}

impl List {
    fn new() -> Self {
        Self { lines: LruCache::unbounded(), used: 0 }
    }

    /// Gives the gaps in `part` of a line their places in `buffer`, which begins at `start` of the device.
    fn fill(&mut self, key: Key, part: Range<usize>, start: u64, buffer: &Arc<Buffer>) {
        let line = self.lines.get_or_insert_mut(key, Line::default);
        for range in line.gaps(part) {
            let at = (key.1 * LINE + range.start as u64 - start) as usize;
            line.add(Piece { range, at, buffer: Arc::clone(buffer) });
        }
    }

    /// Charges a buffer that has just been given its places, if it got any.
    fn charge(&mut self, buffer: &Arc<Buffer>) {
        if Arc::strong_count(buffer) > 1 {
            self.used += buffer.cost();
        }
    }

    fn release(&mut self, line: Line) {
        for piece in line.pieces {
            // Only lines hold buffers, and all of them are behind one lock, so the last one is known.
            if let Some(buffer) = Arc::into_inner(piece.buffer) {
                self.used -= buffer.cost();
            }
        }
    }
}

/// The two lists under one budget.
pub(super) struct Lines {
    small: List,
    large: List,
    /// Large lines that were read to their end, the first of them in front; some may be gone.
    read_out: VecDeque<Key>,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { small: List::new(), large: List::new(), read_out: VecDeque::new() }
    }

    /// Memory in use, in bytes.
    pub(super) fn used(&self) -> usize {
        self.small.used + self.large.used
    }

    /// The bytes of `range`, if all of them are here; counts as a use.
    pub(super) fn get(&mut self, device: u32, range: Range<u64>) -> Option<Segments> {
        let class = Class::of(range.end - range.start);
        let mut answer = Segments::new();
        // Neighbouring lines often share a buffer: then they are answered as one segment.
        let mut run: Option<Run> = None;
        for (line, part) in split(range) {
            let mut at = part.start;
            let read_out = part.end as u64 == LINE;
            for piece in &self.touch((device, line), class, read_out)?.pieces {
                if piece.range.end <= at {
                    continue;
                }
                if piece.range.start > at || at >= part.end {
                    break;
                }
                let until = piece.range.end.min(part.end);
                let from = piece.at + (at - piece.range.start);
                let to = piece.at + (until - piece.range.start);
                at = until;
                match &mut run {
                    Some(run) if run.continues(piece, from) => run.to = to,
                    _ => {
                        if let Some(done) = run.replace(Run::new(piece, from, to)) {
                            answer.push(done.into_bytes());
                        }
                    }
                }
            }
            if at < part.end {
                return None;
            }
        }
        if let Some(done) = run {
            answer.push(done.into_bytes());
        }
        Some(answer)
    }

    /// The line, and what its use means for it. The second small read takes it over to the small ones; a first one
    /// may be that of the block of pointers which streams by amid the data that it points at. A stream that has read
    /// the line to its end will not come back, and its memory is still warm: it is among the next to go.
    fn touch(&mut self, key: Key, class: Class, read_out: bool) -> Option<&Line> {
        if self.small.lines.promote(&key) {
            return self.small.lines.peek(&key);
        }
        if class == Class::Large {
            if read_out {
                self.pass(key);
            }
            return self.large.lines.peek(&key);
        }
        let line = self.large.lines.get_mut(&key)?;
        if !std::mem::replace(&mut line.looked_at, true) {
            return self.large.lines.peek(&key);
        }
        let line = self.large.lines.pop(&key)?;
        for piece in &line.pieces {
            let start = key.1 * LINE + piece.range.start as u64;
            let bytes = &piece.buffer.bytes[piece.at..piece.at + piece.range.len()];
            self.insert_small(key, piece.range.clone(), start, Bytes::copy_from_slice(bytes));
        }
        self.large.release(line);
        self.small.lines.peek(&key)
    }

    /// A stream has read `range` by a large read while it was coming in.
    pub(super) fn stream_past(&mut self, device: u32, range: Range<u64>) {
        for (line, part) in split(range) {
            if part.end as u64 == LINE {
                self.pass((device, line));
            }
        }
    }

    /// Makes a large line that was read to its end one of the next to go.
    fn pass(&mut self, key: Key) {
        if self.large.lines.contains(&key) {
            self.large.lines.demote(&key);
            self.read_out.push_back(key);
        }
    }

    /// Parts of `range` that are not here, in order; parts that touch are one.
    pub(super) fn missing(&self, device: u32, range: Range<u64>) -> SmallVec<[Range<u64>; 4]> {
        let mut missing: SmallVec<[Range<u64>; 4]> = SmallVec::new();
        for (line, part) in split(range) {
            let key = (device, line);
            let gaps = match self.small.lines.peek(&key).or_else(|| self.large.lines.peek(&key)) {
                Some(held) => held.gaps(part),
                None => smallvec![part],
            };
            for gap in gaps {
                let start = line * LINE + gap.start as u64;
                let end = line * LINE + gap.end as u64;
                match missing.last_mut() {
                    Some(last) if last.end == start => last.end = end,
                    _ => missing.push(start..end),
                }
            }
        }
        missing
    }

    /// Takes in an answer that begins at `start`. What is here already stays, but for a few blocks of a line that a
    /// large read brings as a whole: the others must not be copied only because of those.
    pub(super) fn insert(&mut self, device: u32, start: u64, answer: &Segments, class: Class) {
        let mut start = start;
        for bytes in answer.pieces() {
            let buffer = Arc::new(Buffer { bytes: bytes.clone() });
            let end = start + bytes.len() as u64;
            for (line, part) in split(start..end) {
                let key = (device, line);
                if class == Class::Large && part.len() as u64 == LINE {
                    if let Some(few) = self.small.lines.pop(&key) {
                        self.small.release(few);
                    }
                }
                let is_small = class == Class::Small && !self.large.lines.contains(&key)
                    || self.small.lines.contains(&key);
                if !is_small {
                    self.large.fill(key, part, start, &buffer);
                } else if part.len() == bytes.len() {
                    self.insert_small(key, part, start, bytes.clone());
                } else {
                    let from = line * LINE + part.start as u64;
                    let at = (from - start) as usize;
                    let copy = Bytes::copy_from_slice(&bytes[at..at + part.len()]);
                    self.insert_small(key, part, from, copy);
                }
            }
            self.large.charge(&buffer);
            start = end;
        }
    }

    /// Gives a small line bytes of its own, which begin at `start` of the device.
    fn insert_small(&mut self, key: Key, part: Range<usize>, start: u64, bytes: Bytes) {
        let buffer = Arc::new(Buffer { bytes });
        self.small.fill(key, part, start, &buffer);
        self.small.charge(&buffer);
    }

    /// Evicts until at most `budget` bytes are in use, of large reads [`LARGE_MAX`], and of what streams have done
    /// with [`READ_OUT_MAX`] lines.
    ///
    /// What streams through goes first, down to a quarter of the budget: so no stream, however long, evicts small
    /// reads, and no number of small reads leaves a stream without room for its readahead.
    pub(super) fn shrink_to(&mut self, budget: usize) {
        while self.read_out.len() > READ_OUT_MAX {
            let line = self.read_out.pop_front().and_then(|key| self.large.lines.pop(&key));
            if let Some(line) = line {
                self.large.release(line);
            }
        }
        while self.used() > budget || self.large.used > LARGE_MAX {
            let list = if self.large.used > budget / 4 || self.small.lines.is_empty() {
                &mut self.large
            } else {
                &mut self.small
            };
            let Some((_, line)) = list.lines.pop_lru() else { break };
            list.release(line);
        }
    }

    /// Drops every line of a device.
    pub(super) fn forget(&mut self, device: u32) {
        for list in [&mut self.small, &mut self.large] {
            let mut gone = Vec::new();
            list.lines.retain(|key, line| {
                let keep = key.0 != device;
                if !keep {
                    gone.push(std::mem::take(line));
                }
                keep
            });
            for line in gone {
                list.release(line);
            }
        }
    }
}

/// A growing part of one buffer.
struct Run {
    bytes: Bytes,
    buffer: *const Buffer,
    from: usize,
    to: usize,
}

impl Run {
    fn new(piece: &Piece, from: usize, to: usize) -> Self {
        Self { bytes: piece.buffer.bytes.clone(), buffer: Arc::as_ptr(&piece.buffer), from, to }
    }

    fn continues(&self, piece: &Piece, from: usize) -> bool {
        self.to == from && std::ptr::eq(self.buffer, Arc::as_ptr(&piece.buffer))
    }

    fn into_bytes(mut self) -> Bytes {
        self.bytes.truncate(self.to);
        self.bytes.advance(self.from);
        self.bytes
    }
}

/// The lines that a range touches, each with the part of it that lies within.
fn split(range: Range<u64>) -> impl Iterator<Item = (u64, Range<usize>)> {
    let lines =
        if range.is_empty() { 0..0 } else { range.start / LINE..(range.end - 1) / LINE + 1 };
    lines.map(move |line| {
        let start = range.start.max(line * LINE) - line * LINE;
        let end = (range.end - line * LINE).min(LINE);
        (line, start as usize..end as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    fn answer(len: u64) -> Segments {
        Segments::from(vec![7; len as usize])
    }

    #[test]
    fn a_range_is_split_at_line_borders() {
        let parts: Vec<_> = split(60 * KIB..129 * KIB).collect();
        assert_eq!(parts, [(0, 60 << 10..64 << 10), (1, 0..64 << 10), (2, 0..1 << 10)]);
        assert_eq!(split(5..5).count(), 0);
        assert_eq!(split(64 * KIB..128 * KIB).count(), 1);
    }

    #[test]
    fn what_is_missing_is_named_in_as_few_ranges_as_possible() {
        let mut lines = Lines::new();
        assert_eq!(lines.missing(0, 0..300 * KIB)[..], [0..300 * KIB]);
        lines.insert(0, 4 * KIB, &answer(4 * KIB), Class::Small);
        lines.insert(0, 100 * KIB, &answer(100 * KIB), Class::Large);
        assert_eq!(
            lines.missing(0, 0..300 * KIB)[..],
            [0..4 * KIB, 8 * KIB..100 * KIB, 200 * KIB..300 * KIB]
        );
        assert_eq!(lines.missing(0, 5 * KIB..6 * KIB)[..], []);
        assert_eq!(lines.missing(1, 5 * KIB..6 * KIB)[..], [5 * KIB..6 * KIB]);
    }

    #[test]
    fn an_answer_over_several_lines_comes_back_as_one_segment() {
        let mut lines = Lines::new();
        let bytes: Vec<u8> = (0..200 << 10).map(|i: u32| (i / 251) as u8).collect();
        lines.insert(0, 10 * KIB, &Segments::from(bytes.clone()), Class::Large);
        let got = lines.get(0, 11 * KIB..209 * KIB).unwrap();
        assert_eq!(got.pieces().len(), 1);
        assert_eq!(got.into_bytes(), &bytes[1 << 10..199 << 10]);
        assert!(lines.get(0, 9 * KIB..11 * KIB).is_none());
        assert!(lines.get(0, 209 * KIB..211 * KIB).is_none());
    }

    #[test]
    fn overlapping_answers_keep_what_was_first() {
        let mut lines = Lines::new();
        lines.insert(0, 4 * KIB, &Segments::from(vec![1; 4096]), Class::Small);
        lines.insert(0, 0, &Segments::from(vec![2; 12 << 10]), Class::Small);
        let got = lines.get(0, 0..12 * KIB).unwrap().into_bytes();
        assert_eq!((got[0], got[4096], got[8192]), (2, 1, 2));
        let before = lines.used();
        lines.insert(0, 0, &Segments::from(vec![3; 12 << 10]), Class::Small);
        assert_eq!(lines.used(), before, "nothing of it was needed, so nothing is charged");
    }

    #[test]
    fn a_buffer_is_charged_until_its_last_line_goes() {
        let mut lines = Lines::new();
        lines.insert(0, 0, &answer(1 << 20), Class::Large);
        let whole = lines.used();
        assert!(whole >= 1 << 20);
        for left in (0..16).rev() {
            assert_eq!(lines.used(), whole);
            let (_, line) = lines.large.lines.pop_lru().unwrap();
            lines.large.release(line);
            assert_eq!(lines.large.lines.len(), left);
        }
        assert_eq!(lines.used(), 0);
    }

    #[test]
    fn small_reads_out_of_a_stream_hold_their_line_and_no_more() {
        let mut lines = Lines::new();
        for megabyte in 0..200 {
            lines.insert(0, megabyte << 20, &answer(1 << 20), Class::Large);
            for _ in 0..2 {
                assert!(lines.get(0, (megabyte << 20) + 100..(megabyte << 20) + 200).is_some());
            }
            lines.shrink_to(256 << 20);
        }
        assert!(lines.small.used < 200 * (70 << 10));
        assert!(lines.large.used <= LARGE_MAX);
        assert!(lines.get(0, 0..64 * KIB).is_some());
        lines.shrink_to(0);
        assert_eq!(lines.used(), 0);
    }

    #[test]
    fn a_single_look_at_a_line_of_a_stream_copies_nothing() {
        let mut lines = Lines::new();
        lines.insert(0, 0, &answer(1 << 20), Class::Large);
        for line in 0..16 {
            assert!(lines.get(0, line * LINE..line * LINE + KIB).is_some());
        }
        assert_eq!((lines.small.lines.len(), lines.small.used), (0, 0));
    }

    #[test]
    fn a_stream_takes_over_the_small_lines_that_it_brings_whole() {
        let mut lines = Lines::new();
        lines.insert(0, 4 * KIB, &Segments::from(vec![1; 4096]), Class::Small);
        lines.insert(0, MIB, &Segments::from(vec![1; 4096]), Class::Small);
        lines.insert(0, 0, &answer((1 << 20) + 8 * KIB), Class::Large);
        assert!(lines.small.used < 13 << 10);
        let left: Vec<_> = lines.small.lines.iter().map(|(key, _)| *key).collect();
        assert_eq!(left, [(0, 16)], "of the last line only a part has come");
        let got = lines.get(0, 0..MIB + 8 * KIB).unwrap().into_bytes();
        assert_eq!((got[0], got[4096], got[1 << 20], got[(1 << 20) + 4096]), (7, 7, 1, 7));
        lines.shrink_to(0);
        assert_eq!(lines.used(), 0);
    }

    #[test]
    fn a_long_stream_evicts_no_small_reads() {
        let mut lines = Lines::new();
        let budget = 4 << 20;
        lines.insert(0, 0, &answer(4 * KIB), Class::Small);
        for megabyte in 1..100 {
            lines.insert(0, megabyte << 20, &answer(1 << 20), Class::Large);
            lines.shrink_to(budget);
            assert!(lines.used() <= budget);
        }
        assert!(lines.get(0, 0..4 * KIB).is_some());
        assert!(lines.get(0, 99 << 20..100 << 20).is_some());
        assert!(lines.get(0, 1 << 20..2 << 20).is_none());
    }

    #[test]
    fn what_a_stream_has_read_goes_before_what_it_will_read() {
        let mut lines = Lines::new();
        let budget = 8 << 20;
        for megabyte in 0..6 {
            lines.insert(0, megabyte << 20, &answer(1 << 20), Class::Large);
        }
        for megabyte in 6..100 {
            // Five ahead of the reader, who takes 128 KiB at a time, not at the borders of lines.
            for part in 0..8 {
                let start = ((megabyte - 6) << 20) + part * 128 * KIB + 4 * KIB;
                let got = lines.get(0, start..start + 128 * KIB);
                assert!(got.is_some(), "{start} is gone before it was read");
            }
            lines.insert(0, megabyte << 20, &answer(1 << 20), Class::Large);
            lines.shrink_to(budget);
        }
    }

    #[test]
    fn what_a_stream_has_done_with_is_soon_free() {
        let mut lines = Lines::new();
        for megabyte in 0..100 {
            lines.insert(0, megabyte << 20, &answer(1 << 20), Class::Large);
            assert!(lines.get(0, megabyte << 20..(megabyte + 1) << 20).is_some());
            lines.shrink_to(256 << 20);
            assert!(lines.used() <= 4 << 20, "{} after {megabyte} MiB", lines.used());
        }
        assert!(lines.get(0, 99 << 20..100 << 20).is_some(), "the last of it is still there");
    }

    #[test]
    fn a_large_budget_is_not_for_streams() {
        let mut lines = Lines::new();
        for megabyte in 0..100 {
            lines.insert(0, megabyte << 20, &answer(1 << 20), Class::Large);
            lines.shrink_to(1 << 30);
        }
        assert!(lines.large.used <= LARGE_MAX);
        assert!(lines.get(0, 40 << 20..100 << 20).is_some());
    }

    #[test]
    fn small_reads_leave_a_stream_its_quarter() {
        let mut lines = Lines::new();
        let budget = 4 << 20;
        lines.insert(0, 0, &answer(512 * KIB), Class::Large);
        for block in 0..10_000 {
            lines.insert(0, (1 << 30) + block * 4096, &answer(4096), Class::Small);
            lines.shrink_to(budget);
            assert!(lines.used() <= budget);
        }
        assert!(lines.get(0, 0..512 * KIB).is_some());
        assert!(lines.get(0, (1 << 30) + 9_999 * 4096..(1 << 30) + 10_000 * 4096).is_some());
    }

    #[test]
    fn a_device_that_is_gone_leaves_nothing() {
        let mut lines = Lines::new();
        for device in [0, 1] {
            lines.insert(device, 0, &answer(4096), Class::Small);
            lines.insert(device, 1 << 20, &answer(1 << 20), Class::Large);
        }
        let both = lines.used();
        lines.forget(0);
        assert_eq!(lines.used(), both / 2);
        assert!(lines.get(0, 0..4096).is_none());
        assert!(lines.get(1, 0..4096).is_some());
    }
}
