//! An answer in a few pieces, so that nothing is copied only to make it contiguous.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

/// A run of bytes in order, held as a few shared buffers.
///
/// A piece pins the whole buffer that it was cut from: whoever keeps a small piece for long copies it.
#[derive(Clone, Debug, Default)]
pub struct Segments {
    pieces: SmallVec<[Bytes; 2]>,
    len: usize,
}

impl Segments {
    /// No bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// `len` zero bytes: a hole. Costs no memory beyond one shared page of zeros.
    pub fn zeros(len: usize) -> Self {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let mut segments = Self::new();
        while segments.len < len {
            let piece = (len - segments.len).min(ZEROS.len());
            segments.push(Bytes::from_static(&ZEROS[..piece]));
        }
        segments
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a piece.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Appends all pieces of another run.
    pub fn append(&mut self, other: Self) {
        self.len += other.len;
        self.pieces.extend(other.pieces);
    }

    /// The pieces in order; none is empty.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// One contiguous buffer: free where there is one piece, else a copy.
    pub fn into_bytes(mut self) -> Bytes {
        match self.pieces.len() {
            0 => Bytes::new(),
            1 => self.pieces.remove(0),
            _ => {
                let mut whole = BytesMut::with_capacity(self.len);
                for piece in &self.pieces {
                    whole.extend_from_slice(piece);
                }
                whole.freeze()
            }
        }
    }

    /// The bytes of `range`, which must lie within; shares the buffers.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let mut part = Self::new();
        let mut start = 0;
        for piece in &self.pieces {
            let from = range.start.max(start) - start;
            let to = range.end.min(start + piece.len()).saturating_sub(start);
            if from < to {
                part.push(piece.slice(from..to));
            }
            start += piece.len();
        }
        part
    }

    /// Keeps the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        let mut left = len.min(self.len);
        self.len = left;
        self.pieces.retain(|piece| {
            let keep = left.min(piece.len());
            piece.truncate(keep);
            left -= keep;
            keep > 0
        });
    }
}

impl From<Bytes> for Segments {
    fn from(piece: Bytes) -> Self {
        let mut segments = Self::new();
        segments.push(piece);
        segments
    }
}

impl From<Vec<u8>> for Segments {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_in_order_and_truncate_at_a_byte() {
        let mut segments = Segments::from(b"abc".to_vec());
        segments.push(Bytes::new());
        segments.append(Segments::from(b"defg".to_vec()));
        assert_eq!(segments.len(), 7);
        segments.truncate(4);
        assert_eq!(segments.pieces().len(), 2);
        assert_eq!(segments.into_bytes(), &b"abcd"[..]);
    }

    #[test]
    fn a_slice_may_cross_pieces() {
        let mut segments = Segments::from(b"abc".to_vec());
        segments.append(Segments::from(b"defg".to_vec()));
        segments.append(Segments::from(b"h".to_vec()));
        for (from, to) in [(0, 8), (1, 2), (2, 5), (3, 7), (7, 8), (4, 4)] {
            let slice = segments.slice(from..to);
            assert_eq!(slice.into_bytes(), &b"abcdefgh"[from..to]);
        }
    }

    #[test]
    fn zeros_of_any_length() {
        assert_eq!(Segments::zeros(200_000).into_bytes(), vec![0; 200_000]);
        assert!(Segments::zeros(0).is_empty());
    }
}
