//! Notices that a volume is being written: a snapshot never changes.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::block::{self, BlockSource};
use crate::error::{Error, ErrorKind, Result};

/// Places that every writer changes, and what they held at the beginning.
pub(super) struct Watch {
    /// The device itself: the journal's overlay would hide changes.
    source: Arc<dyn BlockSource>,
    places: Vec<(Range<u64>, Bytes)>,
}

impl Watch {
    pub(super) fn new(source: Arc<dyn BlockSource>) -> Self {
        Self { source, places: Vec::new() }
    }

    /// Remembers what these bytes hold now.
    pub(super) async fn add(&mut self, range: Range<u64>) -> Result<()> {
        let len = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|_| Error::new(ErrorKind::InvalidInput, "too much to watch"))?;
        let bytes = block::read(&*self.source, range.start, len).await?.into_bytes();
        self.places.push((range, Bytes::copy_from_slice(&bytes)));
        Ok(())
    }

    /// Looks at the device itself, past every cache.
    pub(super) async fn check_unchanged(&self) -> Result<()> {
        for (range, before) in &self.places {
            let now = self.source.read_fresh(range.start, before.len()).await?.into_bytes();
            if now != *before {
                return Err(Error::new(
                    ErrorKind::BeingWritten,
                    "the volume is being written: not a snapshot?",
                ));
            }
        }
        Ok(())
    }
}
