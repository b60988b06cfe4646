//! Notices that a volume is being written: a snapshot never changes.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::journal::Seen;
use crate::block::BlockSource;
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
    /// Remembers what stood at `offset` when it was looked at. Reading it once more for this would miss what was
    /// written between.
    pub(super) fn add(&mut self, source: &Arc<dyn BlockSource>, offset: u64, seen: &[u8]) {
        let before = Bytes::copy_from_slice(seen);
        self.places.push(Place { source: Arc::clone(source), offset, before });
    }

    /// The same with what was seen of a log.
    pub(super) fn add_all(&mut self, source: &Arc<dyn BlockSource>, seen: &[Seen]) {
        seen.iter().for_each(|seen| self.add(source, seen.offset, &seen.bytes));
    }

    /// What was seen at these places and is known `besides`, in short: another one where the volume was written between
    /// two looks.
    pub(super) fn digest(&self, besides: &[u8]) -> [u8; 32] {
        let mut digest = Sha256::new_with_prefix(besides);
        for Place { offset, before, .. } in &self.places {
            digest.update(offset.to_le_bytes());
            digest.update((before.len() as u64).to_le_bytes());
            digest.update(before);
        }
        digest.finalize().into()
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
