//! Memory for the data of commands, used again: a fresh megabyte costs more in page faults than reading it does.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};

/// Shorter buffers are left to the allocator.
const LONG: usize = 64 << 10;
/// Long buffers begin at a page of memory: what is read at whole pages of the device is then copied page by page on its
/// way through FUSE, where the kernel takes each page of ours by itself, and not in two halves each.
const PAGE: usize = 4096;
/// How many buffers are remembered: with reads of 1 MiB, 16 MiB at most stay behind when nobody reads.
const REMEMBERED: usize = 16;

/// Buffers that were given away, and may have come back by being dropped.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    given: VecDeque<BytesMut>,
}

impl Buffers {
    /// An empty buffer with room for `len` bytes.
    pub(super) fn take(&mut self, len: usize) -> BytesMut {
        if len < LONG {
            return BytesMut::with_capacity(len);
        }
        let with_room = len.saturating_add(PAGE);
        // The one that was used last is most likely to be in the processor's cache.
        let free = self.given.iter_mut().rposition(|buffer| buffer.try_reclaim(with_room));
        let mut buffer = match free {
            Some(at) => self.given.remove(at).expect("the position was just found"),
            None => BytesMut::with_capacity(with_room),
        };
        let before_page = buffer.as_ptr().addr().wrapping_neg() % PAGE;
        buffer.resize(before_page, 0);
        buffer.advance(before_page);
        buffer
    }

    /// Gives the contents of a buffer away, and remembers it.
    pub(super) fn give(&mut self, mut buffer: BytesMut) -> BytesMut {
        if buffer.capacity() < LONG {
            return buffer;
        }
        let contents = buffer.split();
        if self.given.len() == REMEMBERED {
            self.given.pop_front();
        }
        self.given.push_back(buffer);
        contents
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_when_its_contents_are_dropped() {
        let mut buffers = Buffers::default();
        let mut first = buffers.take(LONG);
        first.resize(LONG, 7);
        let place = first.as_ptr();
        let contents = buffers.give(first).freeze();
        assert_eq!(contents.len(), LONG);
        assert_ne!(buffers.take(LONG).as_ptr(), place, "the contents are still in use");
        drop(contents);
        let again = buffers.take(LONG);
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
    }

    #[test]
    fn long_buffers_begin_at_a_page_and_have_their_length_behind_it() {
        let mut buffers = Buffers::default();
        for len in [LONG, LONG + 1, 1 << 20, LONG + 512, LONG] {
            let mut buffer = buffers.take(len);
            let place = buffer.as_ptr();
            assert_eq!((place.addr() % PAGE, buffer.len()), (0, 0));
            buffer.resize(len, 7);
            assert_eq!(buffer.as_ptr(), place, "it was moved to grow to {len}");
            drop(buffers.give(buffer));
        }
    }

    #[test]
    fn no_more_than_a_few_are_remembered() {
        let mut buffers = Buffers::default();
        for _ in 0..100 {
            let mut buffer = BytesMut::with_capacity(LONG);
            buffer.resize(LONG, 1);
            buffers.give(buffer);
        }
        assert_eq!(buffers.given.len(), REMEMBERED);
    }
}
