//! The blocks that belong to the file system itself: no file can have its contents there (kernel: `block_validity.c`).
//!
//! Without `metadata_csum` nothing else tells a pointer that was damaged, and what it points at would be shown as
//! contents.

use std::ops::Range;
use std::sync::Arc;

use super::dir::is_damage;
use super::disk::{Disk, Verify, join};
use super::layout::map::MapNode;
use super::layout::superblock::JournalPlace;
use super::layout::{FsBlock, corrupt};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Ino;

/// Groups that are looked at together, at most. Larger flex groups are rare, and knowing all of what lies in their first
/// group would cost more reads than the file.
const MOST_GROUPS: u32 = 64;

/// Blocks that are taken: those of the journal, or the superblocks, descriptors, bitmaps and inode tables that some groups
/// keep among their own.
#[derive(Default)]
pub(super) struct Zones(Vec<Range<u64>>);

impl Zones {
    /// Joins ranges in any order, of which some may be empty.
    pub(super) fn new(mut ranges: Vec<Range<u64>>) -> Self {
        ranges.retain(|range| !range.is_empty());
        join(&mut ranges);
        Self(ranges)
    }

    fn touches(&self, blocks: &Range<u64>) -> bool {
        let after = self.0.partition_point(|zone| zone.end <= blocks.start);
        self.0.get(after).is_some_and(|zone| zone.start < blocks.end)
    }

    fn weight(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.0)
    }
}

impl Disk {
    /// Refuses a node of the map of `ino` that points into metadata or the journal.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`], and those of reading the groups' descriptors.
    pub(super) async fn check_targets(&self, ino: Ino, node: &MapNode) -> Result<()> {
        if self.verify == Verify::BeforeRecovery {
            // The descriptors may be out of date, and recovery reads nothing but the journal.
            return Ok(());
        }
        // A journal that was made in a mounted ext2 is a file like others, `/.journal`, until e2fsck hides it.
        let is_log = self.sb.journal == Some(JournalPlace::Inode(ino));
        let together = self.sb.groups_per_flex.min(MOST_GROUPS);
        let mut known: Option<(u32, Arc<Zones>)> = None;
        for (start, len) in node.targets() {
            let blocks = start.0..start.0.saturating_add(len);
            let refused = || {
                let own = "among which are the file system's own";
                Err(corrupt(format!("{len} blocks from {start} on, {own}")))
            };
            if !is_log && self.log.touches(&blocks) {
                return refused();
            }
            let last = self.sb.group_of(FsBlock(blocks.end - 1)) / together;
            for set in self.sb.group_of(start) / together..=last {
                let first = set * together;
                let zones = match &known {
                    Some((known, zones)) if *known == first => zones,
                    _ => &known.insert((first, self.zones(first, together).await?)).1,
                };
                if zones.touches(&blocks) {
                    return refused();
                }
            }
        }
        Ok(())
    }

    /// What `count` groups from `first` on keep in the blocks of these groups.
    async fn zones(&self, first: u32, count: u32) -> Result<Arc<Zones>> {
        if let Some(zones) = self.zones.get(&first) {
            return Ok(zones);
        }
        let end = first.saturating_add(count).min(self.sb.groups_count);
        let theirs = self.sb.group_first_block(first).0..self.sb.group_first_block(end).0;
        let mut ranges = Vec::new();
        for number in first..end {
            let start = self.sb.group_first_block(number).0;
            let copies =
                u64::from(self.sb.group_has_super(number)) + self.sb.group_desc_blocks(number);
            ranges.push(start..start + copies);
            let block = self.sb.desc_block(number / self.sb.descs_per_block());
            let group = match self.groups.get(&number) {
                Some(group) => group,
                None => match self.read_group(number, block, true).await {
                    Ok(group) => group,
                    // Whoever needs an inode of it is told. What cannot be read must not keep from reading the rest, and
                    // what is damaged is not to be held against others.
                    Err(error) if is_damage(&error) || is_unreadable(&error) => continue,
                    Err(error) => return Err(error),
                },
            };
            let table = group.inode_table.0;
            ranges.push(table..table + self.sb.inode_table_blocks());
            let bitmaps = [group.block_bitmap, group.inode_bitmap];
            ranges.extend(bitmaps.map(|bitmap| bitmap.0..bitmap.0.saturating_add(1)));
        }
        ranges.retain(|range| theirs.start <= range.start && range.end <= theirs.end);
        let zones = Arc::new(Zones::new(ranges));
        self.zones.insert(first, Arc::clone(&zones), zones.weight());
        Ok(zones)
    }
}

/// Whether the device has the place, but not what it held.
fn is_unreadable(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Medium | ErrorKind::Io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_touches_is_found() {
        let zones = Zones::new(vec![30..40, 10..12, 12..20, 35..36, 50..50]);
        for blocks in [19..20, 5..11, 0..100, 25..31, 39..45] {
            assert!(zones.touches(&blocks), "{blocks:?}");
        }
        for blocks in [0..10, 20..30, 40..60] {
            assert!(!zones.touches(&blocks), "{blocks:?}");
        }
    }
}
