//! Group descriptors (kernel: `struct ext4_group_desc`).

use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::checksum::{crc16, mismatch};
use super::superblock::{GroupChecksum, Superblock};
use super::{FsBlock, corrupt};
use crate::error::Result;

const CHECKSUM_AT: usize = 0x1E;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    bg_block_bitmap_lo: U32,
    bg_inode_bitmap_lo: U32,
    bg_inode_table_lo: U32,
    bg_free_blocks_count_lo: U16,
    bg_free_inodes_count_lo: U16,
    bg_used_dirs_count_lo: U16,
    bg_flags: U16,
    bg_exclude_bitmap_lo: U32,
    bg_block_bitmap_csum_lo: U16,
    bg_inode_bitmap_csum_lo: U16,
    bg_itable_unused_lo: U16,
    bg_checksum: U16,
}

/// What a reader needs of a group: where its inodes and bitmaps lie, and what is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// The first block of its inode table; the whole table lies within the file system.
    pub inode_table: FsBlock,
    /// The bitmap of its blocks, wherever the descriptor says.
    pub block_bitmap: FsBlock,
    /// The bitmap of its inodes, wherever the descriptor says.
    pub inode_bitmap: FsBlock,
    /// Free clusters, which are blocks but for `bigalloc`.
    pub free_clusters: u32,
    /// Free inodes.
    pub free_inodes: u32,
}

impl Group {
    /// Parses the descriptor of group `number` from its `desc_size` bytes, and verifies its checksum where
    /// `verify` says so.
    ///
    /// # Errors
    /// [`crate::ErrorKind::BadChecksum`], or [`crate::ErrorKind::Corrupt`] for an inode table outside the file system.
    pub fn parse(sb: &Superblock, number: u32, bytes: &[u8], verify: bool) -> Result<Self> {
        Self::validate(sb, number, bytes, verify)
            .map_err(|error| error.context(format!("group {number}")))
    }

    fn validate(sb: &Superblock, number: u32, bytes: &[u8], verify: bool) -> Result<Self> {
        let bytes = bytes
            .get(..usize::from(sb.desc_size))
            .ok_or_else(|| corrupt(format!("descriptor of {} bytes", bytes.len())))?;
        let (raw, _) = Raw::ref_from_prefix(bytes).expect("descriptors have at least 32 bytes");
        let stored = raw.bg_checksum.get();
        if let (true, Some(sum)) = (verify, checksum(sb, number, bytes)) {
            if sum != stored {
                return Err(mismatch(u32::from(stored), u32::from(sum)));
            }
        }
        let block = |lo: U32, hi_at| {
            let hi = super::le32(bytes, hi_at).unwrap_or(0);
            FsBlock(u64::from(lo.get()) | u64::from(hi) << 32)
        };
        let inode_table = block(raw.bg_inode_table_lo, 0x28);
        let wide = |lo: U16, hi_at| {
            u32::from(lo.get()) | u32::from(super::le16(bytes, hi_at).unwrap_or(0)) << 16
        };
        if !sb.has_blocks(inode_table, sb.inode_table_blocks()) {
            return Err(corrupt(format!(
                "inode table at {inode_table}, outside the {} blocks of the file system",
                sb.blocks_count
            )));
        }
        Ok(Self {
            inode_table,
            block_bitmap: block(raw.bg_block_bitmap_lo, 0x20),
            inode_bitmap: block(raw.bg_inode_bitmap_lo, 0x24),
            free_clusters: wide(raw.bg_free_blocks_count_lo, 0x2C),
            free_inodes: wide(raw.bg_free_inodes_count_lo, 0x2E),
        })
    }
}

/// Kernel: `ext4_group_desc_csum`. The checksum's own field counts as zero, or not at all with CRC-16.
fn checksum(sb: &Superblock, number: u32, bytes: &[u8]) -> Option<u16> {
    let number = number.to_le_bytes();
    let (before, after) = (&bytes[..CHECKSUM_AT], &bytes[CHECKSUM_AT + 2..]);
    match sb.group_checksum() {
        GroupChecksum::None => None,
        GroupChecksum::Crc16 => {
            let sum = crc16(crc16(crc16(u16::MAX, &sb.uuid), &number), before);
            Some(crc16(sum, after))
        }
        GroupChecksum::Crc32c => {
            let seed = sb.checksum_seed.expect("metadata_csum always has a seed");
            let sum = seed.over(&number).over(before).over(&[0, 0]).over(after);
            Some(sum.0 as u16)
        }
    }
}
