//! Bytes that can be read by position: image files, LUNs, slices of them, and the cache above them.

mod cache;
mod image;
mod segments;
mod slice;

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

use crate::error::{Error, ErrorKind, Result};

pub use cache::{Cache, CachePool, CacheStats};
pub use image::ImageFile;
pub use segments::Segments;
pub use slice::Slice;

/// An answer under way.
pub type ReadFuture<'a> = Pin<Box<dyn Future<Output = Result<Segments>> + Send + 'a>>;

/// A device or a part of one: a fixed number of bytes, readable at any byte offset, never written.
///
/// Retries are the business of the source that owns a connection; whoever reads from a source does not repeat.
/// Dropping a future is always allowed and cancels nothing that others wait for.
pub trait BlockSource: Send + Sync + 'static {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether there is nothing to read at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The logical block size in bytes (512 or 4096): partition tables count in it.
    fn block_size(&self) -> u32;

    /// Reads exactly `len` bytes at `offset`; need not be aligned. A range past the end is
    /// [`ErrorKind::InvalidInput`] (see [`check_range`]), never a short answer.
    fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_>;

    /// The same where it needs no waiting (a cache hit), without a boxed future at every hop; `None` means:
    /// ask [`BlockSource::read_at`].
    fn try_read_at(&self, _offset: u64, _len: usize) -> Option<Result<Segments>> {
        None
    }

    /// Reads past every cache, from the device itself: for noticing that a volume is being written.
    fn read_fresh(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        self.read_at(offset, len)
    }

    /// A hint that these byte ranges will be read soon. Never waits, never fails, may be ignored.
    fn prefetch(&self, _ranges: &[Range<u64>]) {}
}

/// Reads through the synchronous path where that suffices, else waits.
pub async fn read(source: &dyn BlockSource, offset: u64, len: usize) -> Result<Segments> {
    match source.try_read_at(offset, len) {
        Some(answer) => answer,
        None => source.read_at(offset, len).await,
    }
}

/// The guard at the top of every `read_at`: `offset + len` must not pass `source_len`.
pub fn check_range(source_len: u64, offset: u64, len: usize) -> Result<()> {
    let end = u64::try_from(len).ok().and_then(|len| offset.checked_add(len));
    if end.is_some_and(|end| end <= source_len) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidInput,
        format!(
            "read of {len} bytes at {offset} passes the end of the device ({source_len} bytes)"
        ),
    ))
}
