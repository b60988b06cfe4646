//! Sizes and counts of the whole file system (kernel: `ext4_statfs`).

use super::dir::NAME_MAX;
use super::disk::Disk;
use super::layout::features::{Incompat, RoCompat};
use super::layout::superblock::JournalPlace;
use crate::error::Result;
use crate::fs::StatFs;

/// Beyond this many groups (2 TiB) the superblock's own counts have to do: those of the groups are more exact after a
/// crash, but all descriptors would have to be read.
const MOST_GROUPS: u32 = 1 << 14;

/// The groups of 1 EiB in blocks of 4 KiB.
const ALL_GROUPS: u32 = 1 << 23;

impl Disk {
    pub(super) async fn statfs(&self) -> Result<StatFs> {
        let sb = &self.sb;
        let (free_blocks, free_inodes) = match self.count_free().await {
            Ok(Some(counts)) => counts,
            Ok(None) => (sb.free_blocks, u64::from(sb.free_inodes)),
            Err(error) if super::dir::is_damage(&error) => {
                (sb.free_blocks, u64::from(sb.free_inodes))
            }
            Err(error) => return Err(error),
        };
        let (units, inodes) = self.replayed.freed();
        let free_blocks = free_blocks
            .saturating_add_signed(units / (i64::from(sb.block_size) / 512))
            .min(sb.blocks_count);
        let free_inodes = free_inodes.saturating_add_signed(inodes).min(sb.inodes_count.into());
        let overhead = self.overhead().await.min(sb.blocks_count);
        let reserved = sb.reserved_blocks.saturating_add(self.reserved_by_kernel());
        Ok(StatFs {
            block_size: sb.block_size,
            blocks: sb.blocks_count - overhead,
            blocks_free: free_blocks,
            blocks_available: free_blocks.saturating_sub(reserved),
            files: u64::from(sb.inodes_count),
            files_free: free_inodes,
            name_max: NAME_MAX as u32,
        })
    }

    /// Free blocks and inodes, summed over all groups.
    async fn count_free(&self) -> Result<Option<(u64, u64)>> {
        if self.sb.groups_count > MOST_GROUPS {
            return Ok(None);
        }
        let ratio = self.sb.cluster_size / self.block_size();
        let (mut blocks, mut inodes) = (0_u64, 0_u64);
        for number in 0..self.sb.groups_count {
            let group = self.group(number).await?;
            blocks = blocks.saturating_add(u64::from(group.free_clusters) * ratio);
            inodes = inodes.saturating_add(u64::from(group.free_inodes));
        }
        Ok(Some((blocks, inodes)))
    }

    /// Clusters that the kernel keeps for extents that must be split (`ext4_set_resv_clusters`), in blocks.
    fn reserved_by_kernel(&self) -> u64 {
        if !self.sb.features.incompat.contains(Incompat::EXTENTS) {
            return 0;
        }
        let ratio = self.sb.cluster_size / self.block_size();
        (self.sb.blocks_count / ratio / 50).min(4096) * ratio
    }

    /// Blocks that hold metadata (`ext4_calculate_overhead`). With clusters only mke2fs knows; and of more groups than any
    /// file system has, counting would take minutes.
    async fn overhead(&self) -> u64 {
        let sb = &self.sb;
        if sb.features.ro_compat.contains(RoCompat::BIGALLOC) || sb.groups_count > ALL_GROUPS {
            return sb.overhead.unwrap_or(0);
        }
        let table = sb.inode_table_blocks();
        let groups: u64 = (0..sb.groups_count)
            .map(|group| {
                u64::from(sb.group_has_super(group)) + sb.group_desc_blocks(group) + table + 2
            })
            .sum();
        let journal = match sb.journal {
            Some(JournalPlace::Inode(ino)) => match self.file(ino).await {
                Ok(file) => file.inode.attr.size / self.block_size(),
                Err(_) => 0,
            },
            _ => 0,
        };
        u64::from(sb.first_data_block) + groups + journal
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::Verify;
    use super::super::layout::sample::superblock_bytes;
    use super::super::layout::superblock::{OFFSET, Superblock};
    use super::*;
    use crate::fuzz::{Device, wait};

    #[test]
    fn sixteen_million_groups_are_not_counted() {
        let mut bytes = superblock_bytes();
        let mut put = |at: usize, value: u32| {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        };
        // Small groups with one inode each.
        let groups = u32::MAX / 256;
        put(0x00, groups);
        put(0x04, groups * 256);
        put(0x14, 0);
        put(0x18, 2);
        put(0x20, 256);
        put(0x24, 256);
        put(0x28, 1);
        let sb = Superblock::parse(&bytes).unwrap();
        assert_eq!(sb.groups_count, groups);
        let mut device = Device::new(1 << 20, 512);
        device.write(OFFSET, &bytes);
        let disk = Disk::new(std::sync::Arc::new(device), sb, Verify::Always);
        let statfs = wait(disk.statfs()).unwrap();
        assert_eq!(statfs.blocks, u64::from(groups * 256));
    }
}
