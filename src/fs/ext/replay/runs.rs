//! A file's map that can be changed.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::disk::Disk;
use super::super::inodes::File;
use super::super::layout::map::MapNode;
use super::super::layout::{FileBlock, FsBlock};
use crate::error::{Error, ErrorKind, Result};

/// File blocks are numbered with 32 bits.
pub(super) const FILE_BLOCKS: u64 = 1 << 32;

/// Runs by their first file block, with their length and place. What is in none of them reads as zeros.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Runs(BTreeMap<u64, (u64, FsBlock)>);

impl Runs {
    /// The map of a file, which may have `most` runs.
    ///
    /// # Errors
    /// Those of reading the map; [`ErrorKind::Unsupported`] for more runs.
    pub(super) async fn of_file(disk: &Disk, file: &File, most: usize) -> Result<Self> {
        let mut runs = Self::default();
        let mut at = 0;
        while at < FILE_BLOCKS {
            let run = disk.run(file, FileBlock(at)).await?;
            if let Some(place) = run.place {
                if runs.len() >= most {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        format!("{}: a file in more than {most} pieces", file.ino),
                    ));
                }
                runs.0.insert(run.first.0, (run.len, place));
            }
            at = run.first.0.saturating_add(run.len);
        }
        Ok(runs)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The file blocks of `range` lie at `place` and after, or nowhere.
    pub(super) fn set(&mut self, range: Range<u64>, place: Option<FsBlock>) {
        let touched: Vec<_> = self
            .0
            .range(..range.end)
            .rev()
            .map(|(first, (len, place))| (*first, *len, *place))
            .take_while(|(first, len, _)| first + len > range.start)
            .collect();
        for (first, len, place) in touched {
            self.0.remove(&first);
            if first < range.start {
                self.0.insert(first, (range.start - first, place));
            }
            if first + len > range.end {
                let skipped = range.end - first;
                self.0.insert(range.end, (len - skipped, FsBlock(place.0 + skipped)));
            }
        }
        if let Some(place) = place {
            self.0.insert(range.start, (range.end - range.start, place));
        }
    }

    /// The map as files have it.
    pub(super) fn to_map(&self) -> MapNode {
        MapNode::of_runs(self.0.iter().map(|(first, (len, place))| (*first, *len, *place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(list: &[(u64, u64, u64)]) -> Runs {
        Runs(list.iter().map(|(first, len, place)| (*first, (*len, FsBlock(*place)))).collect())
    }

    #[test]
    fn a_range_replaces_what_it_covers_and_cuts_the_rest() {
        let before = || runs(&[(0, 10, 100), (10, 10, 200), (30, 5, 300)]);
        let after = |range, place: Option<u64>| {
            let mut runs = before();
            runs.set(range, place.map(FsBlock));
            runs
        };
        assert_eq!(
            after(4..6, None),
            runs(&[(0, 4, 100), (6, 4, 106), (10, 10, 200), (30, 5, 300)])
        );
        assert_eq!(after(5..32, Some(900)), runs(&[(0, 5, 100), (5, 27, 900), (32, 3, 302)]));
        assert_eq!(after(0..FILE_BLOCKS, None), Runs::default());
        assert_eq!(after(20..30, None), before());
        assert_eq!(after(10..20, Some(200)), before());
    }
}
