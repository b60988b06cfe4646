//! A device in memory that costs only what differs from zeros.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::block::{BlockSource, ReadFuture, Segments, check_range};
use crate::error::Result;

/// The unit in which it keeps what it holds.
pub(crate) const PIECE: usize = 1024;

/// A device whose bytes are zeros but for some pieces.
#[derive(Clone)]
pub(crate) struct Device {
    len: u64,
    sector: u32,
    pieces: BTreeMap<u64, Cow<'static, [u8]>>,
}

impl Device {
    /// Zeros, in sectors of `sector` bytes.
    pub(crate) fn new(len: u64, sector: u32) -> Self {
        Self { len, sector, pieces: BTreeMap::new() }
    }

    /// A device as `testdata/make-fuzz-images.sh` packs it: its length in 64 bits, and its pieces that are not zeros, each behind its
    /// number in 32 bits.
    pub(crate) fn unpack(packed: &'static [u8]) -> Self {
        let (len, rest) = packed.split_first_chunk().expect("a length stands first");
        let mut device = Self::new(u64::from_le_bytes(*len), 512);
        for record in rest.chunks_exact(4 + PIECE) {
            let (number, piece) = record.split_first_chunk().expect("a number stands first");
            let number = u64::from(u32::from_le_bytes(*number));
            device.pieces.insert(number, Cow::Borrowed(piece));
        }
        device
    }

    /// The numbers of all pieces that hold anything.
    pub(crate) fn used(&self) -> Vec<u64> {
        self.pieces.keys().copied().collect()
    }

    /// Writes what fits in front of the end.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let fits = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut rest = &bytes[..bytes.len().min(fits)];
        let mut at = offset;
        while !rest.is_empty() {
            let start = (at % PIECE as u64) as usize;
            let (now, later) = rest.split_at(rest.len().min(PIECE - start));
            let piece = self.pieces.entry(at / PIECE as u64).or_insert(Cow::Borrowed(&[0; PIECE]));
            piece.to_mut()[start..start + now.len()].copy_from_slice(now);
            at += now.len() as u64;
            rest = later;
        }
    }

    /// The bytes of a range, zeros past the end.
    pub(crate) fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            let at = offset.saturating_add(done as u64);
            let start = (at % PIECE as u64) as usize;
            let count = (PIECE - start).min(len - done);
            if let Some(piece) = self.pieces.get(&(at / PIECE as u64)) {
                bytes[done..done + count].copy_from_slice(&piece[start..start + count]);
            }
            done += count;
        }
        bytes
    }

    fn read(&self, offset: u64, len: usize) -> Result<Segments> {
        check_range(self.len, offset, len)?;
        Ok(Segments::from(self.bytes(offset, len)))
    }
}

impl BlockSource for Device {
    fn len(&self) -> u64 {
        self.len
    }

    fn block_size(&self) -> u32 {
        self.sector
    }

    fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        Box::pin(std::future::ready(self.read(offset, len)))
    }

    fn try_read_at(&self, offset: u64, len: usize) -> Option<Result<Segments>> {
        Some(self.read(offset, len))
    }
}
