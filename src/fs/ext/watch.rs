//! Notices that a volume is being written: a snapshot never changes.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::block::{self, BlockSource};
use crate::error::{Error, ErrorKind, Result};

/// Places that every writer changes, and what they held at the beginning.
#[derive(Default)]
pub(super) struct Watch {
    places: Vec<Place>,
}

struct Place {
    /// The device itself: the journal's overlay would hide changes.
    source: Arc<dyn BlockSource>,
    offset: u64,
    before: Bytes,
}

impl Watch {
    /// Remembers what these bytes hold now.
    pub(super) async fn add(
        &mut self,
        source: &Arc<dyn BlockSource>,
        range: Range<u64>,
    ) -> Result<()> {
        let len = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|_| Error::new(ErrorKind::InvalidInput, "too much to watch"))?;
        let bytes = block::read(&**source, range.start, len).await?.into_bytes();
        let before = Bytes::copy_from_slice(&bytes);
        self.places.push(Place { source: Arc::clone(source), offset: range.start, before });
        Ok(())
    }

    /// Looks at the device itself, past every cache.
    pub(super) async fn check_unchanged(&self) -> Result<()> {
        for Place { source, offset, before } in &self.places {
            let now = source.read_fresh(*offset, before.len()).await?.into_bytes();
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
