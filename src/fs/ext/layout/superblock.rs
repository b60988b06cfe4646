//! The superblock (kernel: `struct ext4_super_block`).

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::checksum::Crc32c;
use super::features::{Compat, Features, Incompat, RoCompat};
use super::{FsBlock, corrupt};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Ino;

/// Where the primary superblock stands, in bytes.
pub const OFFSET: u64 = 1024;
/// The size of a superblock in bytes.
pub const SIZE: usize = 1024;

const MAGIC: u16 = 0xEF53;
const CRC32C_CHECKSUM: u8 = 1;
const FLAGS_UNSIGNED_HASH: u32 = 2;
/// Where mke2fs ends: it takes 256 and more, and goes one step of 8 below where so many inodes are asked for. With fewer, one
/// run of a file would cross thousands of groups; where there is only one, it cannot, and genext2fs makes it as small as it needs.
const MIN_BLOCKS_PER_GROUP: u32 = 248;
const JOURNAL_BACKUP_BLOCKS: u8 = 1;
/// `EXT4_VALID_FS` in `s_state`.
const VALID_FS: u16 = 1;
/// `EXT4_ERROR_FS` in `s_state`.
const ERROR_FS: u16 = 2;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    s_inodes_count: U32,
    s_blocks_count_lo: U32,
    s_r_blocks_count_lo: U32,
    s_free_blocks_count_lo: U32,
    s_free_inodes_count: U32,
    s_first_data_block: U32,
    s_log_block_size: U32,
    s_log_cluster_size: U32,
    s_blocks_per_group: U32,
    s_clusters_per_group: U32,
    s_inodes_per_group: U32,
    s_mtime: U32,
    s_wtime: U32,
    s_mnt_count: U16,
    s_max_mnt_count: U16,
    s_magic: U16,
    s_state: U16,
    s_errors: U16,
    s_minor_rev_level: U16,
    s_lastcheck: U32,
    s_checkinterval: U32,
    s_creator_os: U32,
    s_rev_level: U32,
    s_def_resuid: U16,
    s_def_resgid: U16,
    s_first_ino: U32,
    s_inode_size: U16,
    s_block_group_nr: U16,
    s_feature_compat: U32,
    s_feature_incompat: U32,
    s_feature_ro_compat: U32,
    s_uuid: [u8; 16],
    s_volume_name: [u8; 16],
    s_last_mounted: [u8; 64],
    s_algorithm_usage_bitmap: U32,
    s_prealloc_blocks: u8,
    s_prealloc_dir_blocks: u8,
    s_reserved_gdt_blocks: U16,
    s_journal_uuid: [u8; 16],
    s_journal_inum: U32,
    s_journal_dev: U32,
    s_last_orphan: U32,
    s_hash_seed: [U32; 4],
    s_def_hash_version: u8,
    s_jnl_backup_type: u8,
    s_desc_size: U16,
    s_default_mount_opts: U32,
    s_first_meta_bg: U32,
    s_mkfs_time: U32,
    s_jnl_blocks: [U32; 17],
    s_blocks_count_hi: U32,
    s_r_blocks_count_hi: U32,
    s_free_blocks_count_hi: U32,
    s_min_extra_isize: U16,
    s_want_extra_isize: U16,
    s_flags: U32,
    s_raid_stride: U16,
    s_mmp_update_interval: U16,
    s_mmp_block: U64,
    s_raid_stripe_width: U32,
    s_log_groups_per_flex: u8,
    s_checksum_type: u8,
    s_encryption_level: u8,
    s_reserved_pad: u8,
    s_kbytes_written: U64,
    s_snapshot: [U32; 5],
    s_error_count: U32,
    s_errors_seen: [u8; 168],
    s_usr_quota_inum: U32,
    s_grp_quota_inum: U32,
    s_overhead_clusters: U32,
    s_backup_bgs: [U32; 2],
    s_encrypt_algos: [u8; 4],
    s_encrypt_pw_salt: [u8; 16],
    s_lpf_ino: U32,
    s_prj_quota_inum: U32,
    s_checksum_seed: U32,
    s_times_hi: [u8; 8],
    s_encoding: U16,
    s_encoding_flags: U16,
    s_orphan_file_inum: U32,
    s_reserved: [U32; 94],
    s_checksum: U32,
}

const _: () = assert!(size_of::<Raw>() == SIZE);

/// Where the journal lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalPlace {
    /// In an inode of this file system.
    Inode(Ino),
    /// On another device, whose superblock has this UUID.
    Device([u8; 16]),
}

/// The checksums that group descriptors carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupChecksum {
    /// None.
    None,
    /// CRC-16 over the UUID, the number and the descriptor (`gdt_csum`).
    Crc16,
    /// The lower half of CRC-32C (`metadata_csum`).
    Crc32c,
}

/// A superblock whose numbers agree with one another.
#[derive(Clone, Debug)]
pub struct Superblock {
    /// Features in use.
    pub features: Features,
    /// Bytes per block: a power of two from 1024 to 65536.
    pub block_size: u32,
    /// Bytes per cluster: the block size but for `bigalloc`.
    pub cluster_size: u64,
    /// Blocks in all.
    pub blocks_count: u64,
    /// Inodes in all.
    pub inodes_count: u32,
    /// Free blocks at the last update.
    pub free_blocks: u64,
    /// Blocks that only root may use.
    pub reserved_blocks: u64,
    /// Free inodes at the last update.
    pub free_inodes: u32,
    /// The block that holds the superblock of group 0 (1 for blocks of 1024 bytes).
    pub first_data_block: u32,
    /// Blocks per group, never 0.
    pub blocks_per_group: u32,
    /// Inodes per group, never 0.
    pub inodes_per_group: u32,
    /// Number of groups.
    pub groups_count: u32,
    /// Groups that keep their bitmaps and inode tables together (`flex_bg`): a power of two.
    pub groups_per_flex: u32,
    /// Bytes per inode: a power of two from 128 to the block size.
    pub inode_size: u16,
    /// The first inode that is not reserved.
    pub first_ino: u32,
    /// Bytes per group descriptor: a power of two from 32 to the block size.
    pub desc_size: u16,
    /// The first meta group whose descriptors stand within it.
    pub first_meta_bg: u32,
    /// Blocks kept for more descriptors after the descriptor table.
    pub reserved_gdt_blocks: u16,
    /// The groups with a backup superblock under `sparse_super2`.
    pub backup_bgs: [u32; 2],
    /// The UUID.
    pub uuid: [u8; 16],
    /// The label, without its padding.
    pub volume_name: Vec<u8>,
    /// Where the journal lies, if there is one.
    pub journal: Option<JournalPlace>,
    /// A copy of the journal inode's block map and size, if one was kept.
    pub journal_backup: Option<([u8; 60], u64)>,
    /// The seed of directory hashes.
    pub hash_seed: [u32; 4],
    /// Whether hashes take bytes as unsigned.
    pub hash_unsigned: bool,
    /// The version of hash that new directories get.
    pub def_hash_version: u8,
    /// The encoding of names in directories that ignore case: 1 for UTF-8.
    pub encoding: u16,
    /// The block of the multiple-mount protection.
    pub mmp_block: u64,
    /// Blocks that hold metadata, where mke2fs noted it.
    pub overhead: Option<u64>,
    /// Errors that the kernel has noted.
    pub error_count: u32,
    /// Whether it was unmounted (`EXT4_VALID_FS`); set in use, too, where there is a journal.
    pub is_clean: bool,
    /// Whether the kernel marked it as damaged (`EXT4_ERROR_FS`).
    pub has_errors: bool,
    /// The seed of all metadata checksums, where `metadata_csum` is in use.
    pub checksum_seed: Option<Crc32c>,
    /// The seed of the checksums of attribute values in inodes of their own, which they have in any case.
    pub value_seed: Crc32c,
    /// The number of the group that this copy stands in.
    pub group_of_copy: u16,
    /// Whether the checksum was right, or there is none.
    pub checksum_ok: bool,
}

/// Whether these are the bytes of any ext superblock, however damaged.
pub fn has_magic(bytes: &[u8]) -> bool {
    super::le16(bytes, 0x38) == Some(MAGIC)
}

impl Superblock {
    /// Parses and validates the 1024 bytes of a superblock.
    ///
    /// A wrong checksum is no error here, but noted in [`Superblock::checksum_ok`].
    ///
    /// # Errors
    /// [`ErrorKind::NoFilesystem`] without the magic number, [`ErrorKind::Unsupported`] for a revision or feature not
    /// known, [`ErrorKind::Corrupt`] for numbers that cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let (raw, _) = Raw::read_from_prefix(bytes)
            .map_err(|_| corrupt(format!("superblock of {} bytes", bytes.len())))?;
        if raw.s_magic.get() != MAGIC {
            return Err(Error::new(ErrorKind::NoFilesystem, "no ext2/3/4 superblock"));
        }
        Self::validate(&raw, bytes).map_err(|error| error.context("superblock"))
    }

    fn validate(raw: &Raw, bytes: &[u8]) -> Result<Self> {
        // Revision 0 has no feature fields, 128-byte inodes and 10 reserved inodes.
        let dynamic = match raw.s_rev_level.get() {
            0 => false,
            1 => true,
            other => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("revision {other} is not supported"),
                ));
            }
        };
        let field = |value: U32| if dynamic { value.get() } else { 0 };
        let features = Features {
            compat: Compat::from_bits_retain(field(raw.s_feature_compat)),
            incompat: Incompat::from_bits_retain(field(raw.s_feature_incompat)),
            ro_compat: RoCompat::from_bits_retain(field(raw.s_feature_ro_compat)),
        };
        features.check_readable()?;
        let bit64 = features.incompat.contains(Incompat::BIT64);
        let wide = |lo: U32, hi: U32| {
            u64::from(lo.get()) | if bit64 { u64::from(hi.get()) << 32 } else { 0 }
        };

        let log_block_size = raw.s_log_block_size.get();
        if log_block_size > 6 {
            return Err(corrupt(format!("block size 2^{} KiB", log_block_size)));
        }
        let block_size = 1024_u32 << log_block_size;
        let bigalloc = features.ro_compat.contains(RoCompat::BIGALLOC);
        let cluster_bits = if bigalloc { raw.s_log_cluster_size.get() } else { log_block_size };
        if cluster_bits < log_block_size || cluster_bits > 20 {
            return Err(corrupt(format!(
                "cluster size 2^{cluster_bits} KiB with blocks of {block_size} bytes"
            )));
        }
        let cluster_size = 1024_u64 << cluster_bits;

        let (inode_size, first_ino) =
            if dynamic { (raw.s_inode_size.get(), raw.s_first_ino.get()) } else { (128, 11) };
        if inode_size < 128 || !inode_size.is_power_of_two() || u32::from(inode_size) > block_size {
            return Err(corrupt(format!("inode size {inode_size}")));
        }
        if first_ino < 11 {
            return Err(corrupt(format!("first inode {first_ino}")));
        }
        let desc_size = if bit64 { raw.s_desc_size.get() } else { 32 };
        if desc_size < if bit64 { 64 } else { 32 }
            || !desc_size.is_power_of_two()
            || u32::from(desc_size) > block_size
        {
            return Err(corrupt(format!("group descriptor size {desc_size}")));
        }

        let blocks_count = wide(raw.s_blocks_count_lo, raw.s_blocks_count_hi);
        let first_data_block = raw.s_first_data_block.get();
        if blocks_count <= u64::from(first_data_block)
            || first_data_block > 1
            || blocks_count > u64::MAX >> 17
        {
            return Err(corrupt(format!(
                "{blocks_count} blocks, the first data block being {first_data_block}"
            )));
        }
        let blocks_per_group = raw.s_blocks_per_group.get();
        let clusters_per_group = match bigalloc {
            true => raw.s_clusters_per_group.get(),
            false => blocks_per_group,
        };
        let ratio = 1_u64 << (cluster_bits - log_block_size);
        let blocks_in_groups = blocks_count - u64::from(first_data_block);
        let one_group = blocks_in_groups <= u64::from(blocks_per_group);
        if (blocks_per_group < MIN_BLOCKS_PER_GROUP && !one_group)
            || clusters_per_group > block_size * 8
            || u64::from(clusters_per_group) * ratio != u64::from(blocks_per_group)
        {
            return Err(corrupt(format!("{blocks_per_group} blocks per group")));
        }
        let inodes_per_group = raw.s_inodes_per_group.get();
        if inodes_per_group == 0 || inodes_per_group > block_size * 8 {
            return Err(corrupt(format!("{inodes_per_group} inodes per group")));
        }
        let groups_count = blocks_in_groups.div_ceil(u64::from(blocks_per_group));
        let inodes_count = raw.s_inodes_count.get();
        if groups_count * u64::from(inodes_per_group) != u64::from(inodes_count) {
            return Err(corrupt(format!(
                "{inodes_count} inodes in {groups_count} groups of {inodes_per_group}"
            )));
        }
        let groups_count = u32::try_from(groups_count)
            .expect("no more groups than inodes, and those are 32 bits wide");

        let metadata_csum = features.ro_compat.contains(RoCompat::METADATA_CSUM);
        if metadata_csum && raw.s_checksum_type != CRC32C_CHECKSUM {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("checksum type {} is not supported", raw.s_checksum_type),
            ));
        }
        let seed = match features.incompat.contains(Incompat::CSUM_SEED) {
            true => Crc32c(raw.s_checksum_seed.get()),
            false => Crc32c::START.over(&raw.s_uuid),
        };
        let checksum_ok = !metadata_csum
            || Crc32c::START.over(&bytes[..SIZE - 4]) == Crc32c(raw.s_checksum.get());

        let journal =
            features.compat.contains(Compat::HAS_JOURNAL).then(|| match raw.s_journal_inum.get() {
                0 => JournalPlace::Device(raw.s_journal_uuid),
                ino => JournalPlace::Inode(Ino(u64::from(ino))),
            });
        let name_len = raw.s_volume_name.iter().position(|byte| *byte == 0).unwrap_or(16);
        Ok(Self {
            features,
            block_size,
            cluster_size,
            blocks_count,
            inodes_count,
            free_blocks: wide(raw.s_free_blocks_count_lo, raw.s_free_blocks_count_hi)
                .saturating_mul(ratio),
            reserved_blocks: wide(raw.s_r_blocks_count_lo, raw.s_r_blocks_count_hi),
            free_inodes: raw.s_free_inodes_count.get(),
            first_data_block,
            blocks_per_group,
            inodes_per_group,
            groups_count,
            // As in the kernel, other values mean that each group keeps its own.
            groups_per_flex: match raw.s_log_groups_per_flex {
                bits @ 1..=31 if features.incompat.contains(Incompat::FLEX_BG) => 1 << bits,
                _ => 1,
            },
            inode_size,
            first_ino,
            desc_size,
            first_meta_bg: raw.s_first_meta_bg.get(),
            reserved_gdt_blocks: raw.s_reserved_gdt_blocks.get(),
            backup_bgs: raw.s_backup_bgs.map(U32::get),
            uuid: raw.s_uuid,
            volume_name: raw.s_volume_name[..name_len].to_vec(),
            journal,
            journal_backup: (raw.s_jnl_backup_type == JOURNAL_BACKUP_BLOCKS)
                .then(|| journal_backup(&raw.s_jnl_blocks)),
            hash_seed: raw.s_hash_seed.map(U32::get),
            hash_unsigned: raw.s_flags.get() & FLAGS_UNSIGNED_HASH != 0,
            def_hash_version: raw.s_def_hash_version,
            encoding: raw.s_encoding.get(),
            mmp_block: raw.s_mmp_block.get(),
            overhead: match raw.s_overhead_clusters.get() {
                0 => None,
                clusters => Some(u64::from(clusters) * ratio),
            },
            error_count: raw.s_error_count.get(),
            is_clean: raw.s_state.get() & VALID_FS != 0,
            has_errors: raw.s_state.get() & ERROR_FS != 0,
            checksum_seed: metadata_csum.then_some(seed),
            value_seed: seed,
            group_of_copy: raw.s_block_group_nr.get(),
            checksum_ok,
        })
    }

    /// What checksum the group descriptors carry.
    pub fn group_checksum(&self) -> GroupChecksum {
        if self.checksum_seed.is_some() {
            GroupChecksum::Crc32c
        } else if self.features.ro_compat.contains(RoCompat::GDT_CSUM) {
            GroupChecksum::Crc16
        } else {
            GroupChecksum::None
        }
    }

    /// Group descriptors per block.
    pub fn descs_per_block(&self) -> u32 {
        self.block_size / u32::from(self.desc_size)
    }

    /// Blocks of a group's inode table.
    pub fn inode_table_blocks(&self) -> u64 {
        (u64::from(self.inodes_per_group) * u64::from(self.inode_size))
            .div_ceil(u64::from(self.block_size))
    }

    /// The group that a block belongs to; the blocks before the first group count as its own.
    pub fn group_of(&self, block: FsBlock) -> u32 {
        let group =
            block.0.saturating_sub(self.first_data_block.into()) / u64::from(self.blocks_per_group);
        u32::try_from(group).unwrap_or(u32::MAX)
    }

    /// The first block of a group, which may be past the end where there is no such group.
    pub fn group_first_block(&self, group: u32) -> FsBlock {
        FsBlock(
            u64::from(self.first_data_block) + u64::from(group) * u64::from(self.blocks_per_group),
        )
    }

    /// Whether a group begins with a copy of the superblock (kernel: `ext4_bg_has_super`).
    pub fn group_has_super(&self, group: u32) -> bool {
        if group == 0 {
            return true;
        }
        if self.features.compat.contains(Compat::SPARSE_SUPER2) {
            return self.backup_bgs.contains(&group);
        }
        if group == 1 || !self.features.ro_compat.contains(RoCompat::SPARSE_SUPER) {
            return true;
        }
        let power_of = |base: u32| {
            let mut rest = group;
            while rest % base == 0 {
                rest /= base;
            }
            rest == 1
        };
        power_of(3) || power_of(5) || power_of(7)
    }

    /// The block that holds the descriptor block number `index` (kernel: `descriptor_loc`).
    pub fn desc_block(&self, index: u32) -> FsBlock {
        if !self.features.incompat.contains(Incompat::META_BG) || index < self.first_meta_bg {
            // After the superblock's block, which with clusters is not always the first data block.
            let superblock = u64::from(self.block_size == 1024);
            return FsBlock(superblock + 1 + u64::from(index));
        }
        // Fits: groups are counted in 32 bits, and index counts blocks of descriptors of them.
        let group = index.saturating_mul(self.descs_per_block());
        let mut after_super = u64::from(self.group_has_super(group));
        // With blocks of 1 KiB and bigalloc, group 0 starts at block 0, before the superblock's block.
        if self.block_size == 1024 && group == 0 && self.first_data_block == 0 {
            after_super += 1;
        }
        FsBlock(self.group_first_block(group).0 + after_super)
    }

    /// Where all copies of the descriptor block number `index` stand, the one in use first.
    pub fn desc_block_copies(&self, index: u32) -> impl Iterator<Item = FsBlock> + '_ {
        let meta = self.features.incompat.contains(Incompat::META_BG);
        let in_groups: Vec<u32> = if meta && index >= self.first_meta_bg {
            // The second and the last group of the meta group.
            let first = index.saturating_mul(self.descs_per_block());
            vec![first.saturating_add(1), first.saturating_add(self.descs_per_block() - 1)]
        } else {
            [1, 3, 5, 7, 9].into_iter().chain(self.backup_bgs).collect()
        };
        let copies = in_groups.into_iter().filter_map(move |group| {
            let has_super = self.group_has_super(group);
            if group == 0 || group >= self.groups_count {
                return None;
            }
            let first = self.group_first_block(group).0;
            match meta && index >= self.first_meta_bg {
                true => Some(FsBlock(first + u64::from(has_super))),
                false => has_super.then(|| FsBlock(first + 1 + u64::from(index))),
            }
        });
        std::iter::once(self.desc_block(index)).chain(copies)
    }

    /// How many blocks of a group hold descriptors, or are kept for more of them.
    pub fn group_desc_blocks(&self, group: u32) -> u64 {
        let meta = self.features.incompat.contains(Incompat::META_BG);
        let per_block = self.descs_per_block();
        if meta && group / per_block >= self.first_meta_bg {
            return u64::from([0, 1, per_block - 1].contains(&(group % per_block)));
        }
        match self.group_has_super(group) {
            false => 0,
            true if meta => u64::from(self.first_meta_bg),
            true => {
                u64::from(self.groups_count.div_ceil(per_block))
                    + u64::from(self.reserved_gdt_blocks)
            }
        }
    }

    /// Whether `ino` may be named by a directory entry: the root, or one that is not reserved.
    pub fn is_ordinary_ino(&self, ino: Ino) -> bool {
        ino == Ino(2)
            || (ino.0 >= u64::from(self.first_ino) && ino.0 <= u64::from(self.inodes_count))
    }

    /// Whether `len` blocks from `start` on lie within the file system and not on its first block.
    pub fn has_blocks(&self, start: FsBlock, len: u64) -> bool {
        start.0 > u64::from(self.first_data_block)
            && start.0.checked_add(len).is_some_and(|end| end <= self.blocks_count)
    }

    /// Where a block stands, in bytes. The caller knows that the block exists.
    pub fn byte_of(&self, block: FsBlock) -> u64 {
        block.0.saturating_mul(u64::from(self.block_size))
    }
}

/// `s_jnl_blocks`: the fifteen words of `i_block`, then the upper and the lower half of `i_size`.
fn journal_backup(words: &[U32; 17]) -> ([u8; 60], u64) {
    let mut map = [0; 60];
    for (bytes, word) in map.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.get().to_le_bytes());
    }
    (map, u64::from(words[15].get()) << 32 | u64::from(words[16].get()))
}

#[cfg(test)]
mod tests;
