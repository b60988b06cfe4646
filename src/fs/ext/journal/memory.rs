//! A device in memory that notes what is read from it, and logs on it.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::testlog::{BLOCK, TestLog};
use super::{Recovery, recover};
use crate::block::{BlockSource, ReadFuture, Segments, check_range};
use crate::error::Result;
use crate::fs::ext::layout::jbd2::Features;

/// A device in memory that notes what is read from it.
pub(super) struct Memory {
    bytes: Bytes,
    reads: Mutex<Vec<Range<u64>>>,
}

impl Memory {
    pub(super) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { bytes: bytes.into(), reads: Mutex::default() })
    }

    /// Byte ranges read so far.
    pub(super) fn reads(&self) -> Vec<Range<u64>> {
        self.reads.lock().unwrap().clone()
    }

    fn get(&self, offset: u64, len: usize) -> Result<Segments> {
        check_range(self.len(), offset, len)?;
        self.reads.lock().unwrap().push(offset..offset + len as u64);
        let start = usize::try_from(offset).unwrap();
        Ok(self.bytes.slice(start..start + len).into())
    }
}

impl BlockSource for Memory {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        Box::pin(std::future::ready(self.get(offset, len)))
    }

    fn try_read_at(&self, offset: u64, len: usize) -> Option<Result<Segments>> {
        Some(self.get(offset, len))
    }
}

impl TestLog {
    pub(super) fn new(features: Features) -> Self {
        Self::sized(features, 64, 1, 1)
    }

    pub(super) async fn recover(&self) -> Result<Recovery> {
        recover(Memory::new(self.device()), self.runs(), BLOCK as u32).await
    }
}
