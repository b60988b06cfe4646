//! How far a directory is listed: a hostile map can name the same blocks over and over, or blocks where nothing was ever
//! written, which would make a small image a directory without end.

use std::collections::BTreeMap;
use std::ops::Range;

use super::dir::{is_damage, missing};
use super::disk::Disk;
use super::inodes::File;
use super::layout::{FileBlock, corrupt};
use crate::error::{Error, Result};

/// Up to this size a directory may say what it likes.
const SMALL_BYTES: u64 = 4 << 20;
/// The most pieces that a larger one may lie in.
const MAX_RUNS: usize = 1 << 20;
/// The most holes, and blocks that cannot be read, that a listing or a search passes over.
pub(super) const MAX_DAMAGED: u64 = 1 << 14;

impl Disk {
    /// How many blocks of a directory are to be looked at. `i_blocks` does not tell: the kernel's own replay of fast commits
    /// leaves new directories without a count.
    pub(super) async fn dir_end(&self, dir: &File) -> Result<u64> {
        let blocks = self.dir_blocks(dir)?;
        if blocks.saturating_mul(self.block_size()) <= SMALL_BYTES {
            return Ok(blocks);
        }
        if let Some(end) = self.dir_ends.get(&dir.ino) {
            return Ok(end);
        }
        let end = match self.distinct_blocks(dir, blocks).await? {
            None => blocks,
            Some((end, damage)) => {
                let damage = damage.context(dir.ino);
                self.note_damage(dir.ino, damage)?;
                end
            }
        };
        self.dir_ends.insert(dir.ino, end, size_of::<u64>());
        Ok(end)
    }

    /// How far a directory's blocks lie in places of their own, and what ends that; `None` where nothing does.
    async fn distinct_blocks(&self, dir: &File, blocks: u64) -> Result<Option<(u64, Error)>> {
        let mut places = Places::default();
        let mut damaged = 0;
        let mut at = 0;
        while at < blocks {
            let (end, damage) = match self.run(dir, FileBlock(at)).await {
                Ok(run) => {
                    let end = run.first.0.saturating_add(run.len);
                    let place = run.place.map(|place| place.0..place.0.saturating_add(run.len));
                    if place.clone().is_some_and(|place| !places.add(place)) {
                        let what = "blocks that are its own already, or in too many pieces";
                        return Ok(Some((at, corrupt(format!("{}: {what}", FileBlock(at))))));
                    }
                    (end, place.is_none().then(|| missing(dir, at)))
                }
                Err(error) if is_damage(&error) => (at + 1, Some(error)),
                Err(error) => return Err(error),
            };
            // The listing itself will say what is wrong.
            if let Some(damage) = damage {
                damaged += 1;
                if damaged > MAX_DAMAGED {
                    return Ok(Some((at, damage)));
                }
            }
            at = end;
        }
        Ok(None)
    }
}

/// Places on the disk, none of them twice.
#[derive(Default)]
struct Places(BTreeMap<u64, u64>);

impl Places {
    /// Adds a range; `false` where some of it is there, or there are too many.
    fn add(&mut self, range: Range<u64>) -> bool {
        let before = self.0.range(..range.end).next_back();
        if before.is_some_and(|(_, end)| *end > range.start) || self.0.len() >= MAX_RUNS {
            return false;
        }
        self.0.insert(range.start, range.end);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_place_counts_twice() {
        let mut places = Places::default();
        assert!(places.add(10..20));
        assert!(places.add(30..40));
        assert!(places.add(20..30));
        for again in [10..11, 19..20, 5..11, 39..50, 0..100] {
            assert!(!places.add(again.clone()), "{again:?}");
        }
        assert!(places.add(0..10));
    }
}
