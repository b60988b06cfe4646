//! Decides how far to read ahead of a stream.

use std::ops::Range;

const FIRST_WINDOW: u64 = 128 << 10;
const LAST_WINDOW: u64 = 16 << 20;
/// Readers with several requests under way arrive out of order by this much.
const DISORDER: u64 = 1 << 20;

/// The state of one stream.
#[derive(Debug, Default)]
pub(super) struct Readahead {
    /// Where the stream is expected to go on.
    next: u64,
    /// How far ahead of it to be.
    window: u64,
    /// Up to where hints were given.
    hinted: u64,
}

impl Readahead {
    /// Notes a read, and says what to fetch next. A stream that goes on doubles the window, any other read closes it.
    pub(super) fn note(&mut self, offset: u64, len: u64) -> Option<Range<u64>> {
        let end = offset.saturating_add(len);
        let goes_on = offset <= self.next && offset.saturating_add(DISORDER) >= self.next
            || offset > self.next && self.window > 0 && offset - self.next <= DISORDER;
        if !goes_on {
            *self = Self { next: end, window: 0, hinted: end };
            return None;
        }
        self.next = self.next.max(end);
        self.hinted = self.hinted.max(self.next);
        if self.window > 0 && self.hinted - self.next > self.window / 2 {
            return None;
        }
        self.window = (self.window * 2).clamp(FIRST_WINDOW, LAST_WINDOW);
        let from = self.hinted;
        self.hinted = self.next.saturating_add(self.window);
        Some(from..self.hinted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_opens_the_window_and_never_hints_twice() {
        let mut state = Readahead::default();
        let mut hinted = 0..0;
        for at in 0..1000 {
            let offset = at << 17;
            if let Some(range) = state.note(offset, 1 << 17) {
                assert!(range.start >= hinted.end && range.start >= offset);
                hinted = range;
            }
            assert!(hinted.end >= offset + (1 << 17), "the reader overtook the hints");
        }
        assert_eq!(state.window, LAST_WINDOW);
    }

    #[test]
    fn random_reads_hint_at_nothing() {
        let mut state = Readahead::default();
        for at in [700, 3, 500, 40, 900] {
            assert_eq!(state.note(at << 22, 4096), None);
        }
    }
}
