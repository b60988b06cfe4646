//! A part of another source: a partition.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{BlockSource, ReadFuture, Segments, check_range};
use crate::error::{Error, Result};

/// A byte range of another source, with a name for its errors.
#[derive(Clone)]
pub struct Slice {
    source: Arc<dyn BlockSource>,
    range: Range<u64>,
    name: Arc<str>,
}

impl Slice {
    /// The bytes `range` of `source`, called `name` where something fails.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidInput`] where the range runs backwards or past the end of `source`.
    pub fn new(
        source: Arc<dyn BlockSource>,
        range: Range<u64>,
        name: impl Into<Arc<str>>,
    ) -> Result<Self> {
        let name = name.into();
        if range.start > range.end || range.end > source.len() {
            return Err(Error::new(
                crate::ErrorKind::InvalidInput,
                format!(
                    "{name}: bytes {} to {} do not lie on the device of {} bytes",
                    range.start,
                    range.end,
                    source.len()
                ),
            ));
        }
        Ok(Self { source, range, name })
    }

    /// Where a range of the slice begins on the source below.
    fn place(&self, offset: u64, len: usize) -> Result<u64> {
        check_range(self.len(), offset, len).map_err(|error| error.context(&self.name))?;
        // No overflow: check_range has shown offset <= end - start.
        Ok(self.range.start + offset)
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slice").field("name", &self.name).field("range", &self.range).finish()
    }
}

impl BlockSource for Slice {
    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn block_size(&self) -> u32 {
        self.source.block_size()
    }

    fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        Box::pin(async move {
            let at = self.place(offset, len)?;
            self.source.read_at(at, len).await.map_err(|error| error.context(&self.name))
        })
    }

    fn try_read_at(&self, offset: u64, len: usize) -> Option<Result<Segments>> {
        let at = self.place(offset, len).ok()?;
        let answer = self.source.try_read_at(at, len)?;
        Some(answer.map_err(|error| error.context(&self.name)))
    }

    fn read_fresh(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        Box::pin(async move {
            let at = self.place(offset, len)?;
            self.source.read_fresh(at, len).await.map_err(|error| error.context(&self.name))
        })
    }

    fn prefetch(&self, ranges: &[Range<u64>]) {
        let below: SmallVec<[Range<u64>; 8]> = ranges
            .iter()
            .filter(|range| range.start < range.end && range.start < self.len())
            .map(|range| {
                self.range.start + range.start..self.range.start + range.end.min(self.len())
            })
            .collect();
        self.source.prefetch(&below);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::error::ErrorKind;

    /// Holds its position in each byte (mod 256) and remembers the hints.
    #[derive(Default)]
    struct Positions {
        hints: Mutex<Vec<Range<u64>>>,
    }

    impl BlockSource for Positions {
        fn len(&self) -> u64 {
            1000
        }

        fn block_size(&self) -> u32 {
            4096
        }

        fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
            Box::pin(async move {
                if offset >= 600 {
                    return Err(Error::new(ErrorKind::Medium, "unreadable"));
                }
                Ok(Segments::from(
                    (offset..offset + len as u64).map(|i| i as u8).collect::<Vec<_>>(),
                ))
            })
        }

        fn prefetch(&self, ranges: &[Range<u64>]) {
            self.hints.lock().unwrap().extend_from_slice(ranges);
        }
    }

    fn slice(range: Range<u64>) -> Result<Slice> {
        Slice::new(Arc::new(Positions::default()), range, "p1")
    }

    #[tokio::test]
    async fn reads_are_shifted_and_bounded() {
        let slice = slice(100..700).unwrap();
        assert_eq!((slice.len(), slice.block_size()), (600, 4096));
        assert_eq!(slice.read_at(5, 3).await.unwrap().into_bytes(), vec![105, 106, 107]);
        assert_eq!(slice.read_fresh(0, 1).await.unwrap().into_bytes(), vec![100]);
        for (offset, len) in [(600, 1), (599, 2), (u64::MAX, 1), (u64::MAX, usize::MAX)] {
            let error = slice.read_at(offset, len).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().starts_with("p1: "), "{error}");
        }
    }

    #[tokio::test]
    async fn an_error_below_gets_the_name_in_front() {
        let slice = slice(100..700).unwrap();
        let error = slice.read_at(500, 1).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::Medium, "p1: unreadable")
        );
    }

    #[test]
    fn a_range_that_is_not_on_the_device_is_refused() {
        for (start, end) in [(0, 1001), (600, 500), (1001, 1001)] {
            assert_eq!(slice(start..end).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        assert!(slice(1000..1000).unwrap().is_empty());
    }

    #[test]
    fn hints_stay_within_the_slice() {
        let positions = Arc::new(Positions::default());
        let slice =
            Slice::new(Arc::clone(&positions) as Arc<dyn BlockSource>, 100..700, "p1").unwrap();
        let backwards = Range { start: 9, end: 3 };
        slice.prefetch(&[0..10, 590..u64::MAX, 600..700, backwards]);
        assert_eq!(*positions.hints.lock().unwrap(), [100..110, 690..700]);
    }
}
