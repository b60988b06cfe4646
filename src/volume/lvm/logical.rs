//! A logical volume: extents on physical volumes, read as one device.

use std::ops::Range;
use std::sync::Arc;

use futures_util::future;

use crate::block::{self, BlockSource, ReadFuture, Segments, check_range};
use crate::error::Result;

/// One stripe of a segment: a run of bytes on a physical volume.
#[derive(Clone)]
pub(super) struct Stripe {
    pub(super) source: Arc<dyn BlockSource>,
    /// The first byte on `source`.
    pub(super) start: u64,
}

/// A part of a logical volume whose mapping is one formula.
#[derive(Clone)]
pub(super) struct Segment {
    /// The bytes of the logical volume that it covers.
    pub(super) range: Range<u64>,
    /// At least one; the bytes go round them in units of `stripe_size`.
    pub(super) stripes: Vec<Stripe>,
    /// Bytes per turn; the whole segment where there is one stripe.
    pub(super) stripe_size: u64,
}

/// Segments in order and without gaps, from byte 0 to the end.
pub(super) struct LogicalVolume {
    name: String,
    segments: Vec<Segment>,
    len: u64,
    block_size: u32,
}

impl LogicalVolume {
    /// `segments` must follow on each other from 0; every stripe must lie within its source.
    pub(super) fn new(name: String, segments: Vec<Segment>) -> Self {
        let len = segments.last().map_or(0, |segment| segment.range.end);
        let block_size = segments
            .iter()
            .flat_map(|segment| &segment.stripes)
            .map(|stripe| stripe.source.block_size())
            .max()
            .unwrap_or(512);
        Self { name, segments, len, block_size }
    }

    /// The pieces of physical volumes that hold a range inside the volume, in order.
    fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = (&dyn BlockSource, u64, usize)> {
        let mut at = range.start;
        std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let index = self.segments.partition_point(|segment| segment.range.end <= at);
            let segment = &self.segments[index];
            let within = at - segment.range.start;
            let turn = within / segment.stripe_size;
            let stripes = segment.stripes.len() as u64;
            let stripe = &segment.stripes[(turn % stripes) as usize];
            let in_turn = within % segment.stripe_size;
            let place = stripe.start + turn / stripes * segment.stripe_size + in_turn;
            let len = (segment.stripe_size - in_turn).min(segment.range.end.min(range.end) - at);
            at += len;
            Some((&*stripe.source, place, len as usize))
        })
    }
}

impl BlockSource for LogicalVolume {
    fn len(&self) -> u64 {
        self.len
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        Box::pin(async move {
            let named = |error: crate::Error| error.context(&self.name);
            check_range(self.len, offset, len).map_err(named)?;
            let reads = self
                .pieces(offset..offset + len as u64)
                .map(|(source, place, len)| block::read(source, place, len));
            let mut answer = Segments::new();
            for piece in future::try_join_all(reads).await.map_err(named)? {
                answer.append(piece);
            }
            Ok(answer)
        })
    }

    fn try_read_at(&self, offset: u64, len: usize) -> Option<Result<Segments>> {
        check_range(self.len, offset, len).ok()?;
        let mut answer = Segments::new();
        for (source, place, len) in self.pieces(offset..offset + len as u64) {
            // A failure is told by `read_at`, which names the volume.
            answer.append(source.try_read_at(place, len)?.ok()?);
        }
        Some(Ok(answer))
    }

    fn read_fresh(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        Box::pin(async move {
            check_range(self.len, offset, len)?;
            let reads = self
                .pieces(offset..offset + len as u64)
                .map(|(source, place, len)| source.read_fresh(place, len));
            let mut answer = Segments::new();
            for piece in future::try_join_all(reads).await? {
                answer.append(piece);
            }
            Ok(answer)
        })
    }

    fn prefetch(&self, ranges: &[Range<u64>]) {
        for range in ranges {
            for (source, place, len) in self.pieces(range.start..range.end.min(self.len)) {
                source.prefetch(&[place..place + len as u64]);
            }
        }
    }
}
