//! Decides how far to read ahead of the streams that go through an open file.

use std::ops::Range;

const FIRST_WINDOW: u64 = 128 << 10;
/// Every stream gets so far ahead; further only one whose reader has to wait. What is fetched long before it is read
/// has left the processor's caches by then.
const EASY_WINDOW: u64 = 2 << 20;
const LAST_WINDOW: u64 = 16 << 20;
/// A hint goes out when the window has come to lack so much: a queue that runs dry between two hints is no queue.
const HINT_MAX: u64 = 2 << 20;
/// Readers with several requests under way arrive out of order by this much.
const DISORDER: u64 = 1 << 20;
/// More readers of one open file than this get no help.
const STREAMS: usize = 4;

/// The streams of one open file, the last one used in front.
#[derive(Debug, Default)]
pub(super) struct Readahead {
    streams: [Stream; STREAMS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// Where the stream is expected to go on.
    next: u64,
    /// How far ahead of it to be; 0 until it has gone on once.
    window: u64,
    /// Up to where hints were given.
    hinted: u64,
    /// Whether the reader has had to wait since the last hint.
    waited: bool,
}

impl Readahead {
    /// Notes a read, and says what to fetch next: nothing for one that continues no stream.
    pub(super) fn note(&mut self, offset: u64, len: u64, waited: bool) -> Option<Range<u64>> {
        let end = offset.saturating_add(len);
        match self.streams.iter().position(|stream| stream.goes_on(offset)) {
            Some(index) => {
                self.streams[..=index].rotate_right(1);
                self.streams[0].advance(end, waited)
            }
            None => {
                self.streams.rotate_right(1);
                self.streams[0] = Stream { next: end, window: 0, hinted: end, waited: false };
                None
            }
        }
    }
}

impl Stream {
    fn goes_on(&self, offset: u64) -> bool {
        offset == self.next || self.window > 0 && offset.abs_diff(self.next) <= DISORDER
    }

    /// Doubles the window each time that a part of it is used up; beyond [`EASY_WINDOW`] only as long as reads have to
    /// wait.
    fn advance(&mut self, end: u64, waited: bool) -> Option<Range<u64>> {
        self.waited |= waited;
        self.next = self.next.max(end);
        self.hinted = self.hinted.max(self.next);
        let step = (self.window / 2).min(HINT_MAX);
        if self.window > 0 && self.hinted - self.next > self.window - step {
            return None;
        }
        if self.waited || self.window < EASY_WINDOW {
            self.window = (self.window * 2).clamp(FIRST_WINDOW, LAST_WINDOW);
        }
        self.waited = false;
        let from = self.hinted;
        self.hinted = self.next.saturating_add(self.window);
        Some(from..self.hinted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 128 << 10;

    /// Reads each of `starts` in turn, piece by piece, and says how far ahead the hints are in the end.
    fn ahead_of(starts: &[u64], pieces: u64) -> Vec<u64> {
        let mut state = Readahead::default();
        let mut hinted: Vec<u64> = starts.to_vec();
        for piece in 0..pieces {
            for (start, hinted) in starts.iter().zip(&mut hinted) {
                let offset = start + piece * LEN;
                if let Some(range) = state.note(offset, LEN, true) {
                    assert!(range.start >= *hinted && range.start >= offset, "a hint given twice");
                    *hinted = range.end;
                }
            }
        }
        hinted.iter().zip(starts).map(|(hinted, start)| hinted - start - pieces * LEN).collect()
    }

    #[test]
    fn a_stream_opens_the_window() {
        assert!(ahead_of(&[0], 3)[0] >= LEN);
        assert!(ahead_of(&[7 << 30], 1000)[0] >= LAST_WINDOW / 2);
    }

    #[test]
    fn streams_do_not_hinder_each_other() {
        let ahead = ahead_of(&[0, 1 << 30, 2 << 30, 3 << 30], 500);
        assert!(ahead.iter().all(|ahead| *ahead >= LAST_WINDOW / 2), "{ahead:?}");
    }

    #[test]
    fn a_stream_survives_requests_out_of_order() {
        let mut state = Readahead::default();
        let mut end = 0;
        for pair in 0..200 {
            for piece in [2 * pair + 1, 2 * pair] {
                end = state.note(piece * LEN, LEN, true).map_or(end, |range| range.end);
            }
        }
        assert!(end >= 400 * LEN + LAST_WINDOW / 2, "{end}");
    }

    #[test]
    fn a_reader_that_never_waits_is_not_run_away_from() {
        let mut state = Readahead::default();
        let mut end = 0;
        for at in 0..1000 {
            end = state.note(at * LEN, LEN, false).map_or(end, |range| range.end);
        }
        assert!(end <= 1000 * LEN + EASY_WINDOW, "{end}");
    }

    #[test]
    fn random_reads_hint_at_nothing() {
        let mut state = Readahead::default();
        for at in [700, 3, 500, 40, 900, 4, 39] {
            assert_eq!(state.note(at << 18, 4096, true), None);
        }
    }
}
