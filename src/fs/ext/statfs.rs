//! Sizes and counts of the whole file system.

use super::dir::NAME_MAX;
use super::disk::Disk;
use crate::fs::StatFs;

impl Disk {
    pub(super) fn statfs(&self) -> StatFs {
        let sb = &self.sb;
        StatFs {
            block_size: sb.block_size,
            blocks: sb.blocks_count,
            blocks_free: sb.free_blocks,
            blocks_available: sb.free_blocks.saturating_sub(sb.reserved_blocks),
            files: u64::from(sb.inodes_count),
            files_free: u64::from(sb.free_inodes),
            name_max: NAME_MAX as u32,
        }
    }
}
