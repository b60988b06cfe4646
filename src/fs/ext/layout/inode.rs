//! Inodes (kernel: `struct ext4_inode`).

use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::checksum::{Crc32c, mismatch};
use super::corrupt;
use super::features::{Incompat, RoCompat};
use super::map::MapNode;
use super::superblock::Superblock;
use super::{extent, indirect};
use crate::error::Result;
use crate::fs::{Attr, DeviceNumber, FileType, Ino, Timestamp};

/// The size of the part that every inode has.
const GOOD_OLD_SIZE: usize = 128;

const CHECKSUM_LO_AT: usize = 0x7C;
const CHECKSUM_HI_AT: usize = 0x82;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    i_mode: U16,
    i_uid: U16,
    i_size_lo: U32,
    i_atime: U32,
    i_ctime: U32,
    i_mtime: U32,
    i_dtime: U32,
    i_gid: U16,
    i_links_count: U16,
    i_blocks_lo: U32,
    i_flags: U32,
    i_version: U32,
    i_block: [u8; 60],
    i_generation: U32,
    i_file_acl_lo: U32,
    i_size_high: U32,
    i_obso_faddr: U32,
    i_blocks_high: U16,
    i_file_acl_high: U16,
    i_uid_high: U16,
    i_gid_high: U16,
    i_checksum_lo: U16,
    i_reserved: U16,
}

const _: () = assert!(size_of::<Raw>() == GOOD_OLD_SIZE);

/// Offsets of the fields after the first 128 bytes; each exists only as far as `i_extra_isize` reaches.
mod extra {
    pub(super) const CTIME: usize = 0x84;
    pub(super) const MTIME: usize = 0x88;
    pub(super) const ATIME: usize = 0x8C;
    pub(super) const CRTIME: usize = 0x90;
    pub(super) const CRTIME_EXTRA: usize = 0x94;
}

bitflags::bitflags! {
    /// Inode flags (`i_flags`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u32 {
        /// Compressed clusters; never part of the kernel.
        const COMPRBLK = 0x200;
        /// Encrypted.
        const ENCRYPT = 0x800;
        /// A directory with a hash index.
        const INDEX = 0x1000;
        /// `i_blocks` counts file-system blocks.
        const HUGE_FILE = 0x4_0000;
        /// Mapped by extents.
        const EXTENTS = 0x8_0000;
        /// Holds the value of an extended attribute.
        const EA_INODE = 0x20_0000;
        /// The contents lie within the inode.
        const INLINE_DATA = 0x1000_0000;
        /// A directory that ignores case.
        const CASEFOLD = 0x4000_0000;
        const _ = !0;
    }
}

/// A validated inode.
#[derive(Clone, Debug)]
pub struct Inode {
    /// What `stat` shows.
    pub attr: Attr,
    /// Flags.
    pub flags: Flags,
    /// The block of extended attributes, 0 for none.
    pub file_acl: u64,
    /// `i_block`: block pointers, the root of the extent tree, or the target of a fast symlink.
    pub i_block: [u8; 60],
    /// What follows the fields of a large inode: extended attributes, where there are any.
    pub tail: Box<[u8]>,
    /// The seed for checksums of structures that belong to this inode.
    pub checksum_seed: Option<Crc32c>,
}

impl Inode {
    /// Parses the `inode_size` bytes of inode `ino`, and verifies its checksum where `verify` says so.
    ///
    /// # Errors
    /// [`crate::ErrorKind::BadChecksum`]; [`crate::ErrorKind::Corrupt`], also for an inode not in use.
    pub fn parse(sb: &Superblock, ino: Ino, bytes: &[u8], verify: bool) -> Result<Self> {
        Self::validate(sb, ino, bytes, verify).map_err(|error| error.context(ino))
    }

    fn validate(sb: &Superblock, ino: Ino, bytes: &[u8], verify: bool) -> Result<Self> {
        let bytes = bytes
            .get(..usize::from(sb.inode_size))
            .ok_or_else(|| corrupt(format!("{} bytes", bytes.len())))?;
        let (raw, _) = Raw::ref_from_prefix(bytes).expect("inodes have at least 128 bytes");
        let mode = raw.i_mode.get();
        let nlink = raw.i_links_count.get();
        if nlink == 0 {
            return Err(corrupt("not in use, or deleted"));
        }
        let extra_len = extra_len(bytes)?;
        // The fields of a large inode, as far as they exist.
        let fields = &bytes[..GOOD_OLD_SIZE + extra_len];
        let field = |at| super::le32(fields, at);

        let checksum_seed = sb.checksum_seed.map(|seed| {
            // Inode numbers have 32 bits on the disk.
            seed.over(&(ino.0 as u32).to_le_bytes()).over(&raw.i_generation.get().to_le_bytes())
        });
        if let (true, Some(seed)) = (verify, checksum_seed) {
            check(seed, bytes, fields.len())?;
        }

        let file_type = FileType::from_mode(u32::from(mode))
            .ok_or_else(|| corrupt(format!("mode {mode:#o} names no file type")))?;
        let flags = Flags::from_bits_retain(raw.i_flags.get());
        let large =
            file_type == FileType::Regular || sb.features.incompat.contains(Incompat::LARGEDIR);
        let size = u64::from(raw.i_size_lo.get())
            | if large { u64::from(raw.i_size_high.get()) << 32 } else { 0 };
        if size > max_size(sb, flags) {
            return Err(corrupt(format!("size {size}, more than its map can hold")));
        }
        // Where Linux has them, whoever made the file system: the kernel asks the creator for nothing else either.
        let (uid_high, gid_high) =
            (u32::from(raw.i_uid_high.get()), u32::from(raw.i_gid_high.get()));
        let device_node = matches!(file_type, FileType::BlockDevice | FileType::CharDevice);
        let attr = Attr {
            ino,
            file_type,
            permissions: mode & 0o7777,
            nlink: u32::from(nlink),
            uid: u32::from(raw.i_uid.get()) | uid_high << 16,
            gid: u32::from(raw.i_gid.get()) | gid_high << 16,
            rdev: if device_node { device(&raw.i_block) } else { DeviceNumber::default() },
            size,
            blocks: blocks(sb, raw, flags) + inline_blocks(file_type, flags, size),
            atime: time(raw.i_atime, field(extra::ATIME)),
            mtime: time(raw.i_mtime, field(extra::MTIME)),
            ctime: time(raw.i_ctime, field(extra::CTIME)),
            crtime: field(extra::CRTIME)
                .map(|seconds| time(U32::new(seconds), field(extra::CRTIME_EXTRA))),
            generation: raw.i_generation.get(),
        };
        let acl_high = match sb.features.incompat.contains(Incompat::BIT64) {
            true => u64::from(raw.i_file_acl_high.get()) << 32,
            false => 0,
        };
        let tail = &bytes[fields.len()..];
        let has_xattrs = bytes.len() > GOOD_OLD_SIZE && super::xattr::has_inode_magic(tail);
        Ok(Self {
            attr,
            flags,
            file_acl: u64::from(raw.i_file_acl_lo.get()) | acl_high,
            i_block: raw.i_block,
            tail: if has_xattrs { tail.into() } else { Box::default() },
            checksum_seed,
        })
    }

    /// A file of `size` bytes with this map and nothing else known of it, as the superblock keeps the journal's.
    pub fn with_map(ino: Ino, i_block: [u8; 60], size: u64) -> Self {
        let extents = extent::has_magic(&i_block);
        let time = Timestamp::default();
        Self {
            attr: Attr {
                ino,
                file_type: FileType::Regular,
                permissions: 0,
                nlink: 1,
                uid: 0,
                gid: 0,
                rdev: DeviceNumber::default(),
                size,
                blocks: 0,
                atime: time,
                mtime: time,
                ctime: time,
                crtime: None,
                generation: 0,
            },
            flags: if extents { Flags::EXTENTS } else { Flags::empty() },
            file_acl: 0,
            i_block,
            tail: Box::default(),
            checksum_seed: None,
        }
    }

    /// What it takes up outside the inode, in units of 512 bytes (`i_blocks`).
    pub fn i_blocks(&self) -> u64 {
        let inline = inline_blocks(self.attr.file_type, self.flags, self.attr.size);
        self.attr.blocks.saturating_sub(inline)
    }

    /// The contents, where they lie in the inode itself: what fits into `i_block`, and the rest as an attribute. `None`
    /// where they lie in blocks.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`].
    pub fn inline_data(&self, sb: &Superblock) -> Result<Option<Vec<u8>>> {
        if !self.flags.contains(Flags::INLINE_DATA) {
            return Ok(None);
        }
        if self.flags.contains(Flags::EXTENTS)
            || !sb.features.incompat.contains(Incompat::INLINE_DATA)
        {
            return Err(corrupt("contents both within the inode and in blocks"));
        }
        let mut data = self.i_block.to_vec();
        if let Some(rest) = super::xattr::inline_rest(&self.tail)? {
            data.extend_from_slice(rest);
        }
        let size = usize::try_from(self.attr.size).ok().filter(|size| *size <= data.len());
        let size = size.ok_or_else(|| {
            corrupt(format!("{} bytes of {} within the inode", data.len(), self.attr.size))
        })?;
        data.truncate(size);
        Ok(Some(data))
    }

    /// The root of the file's block map.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`].
    pub fn map_root(&self, sb: &Superblock) -> Result<MapNode> {
        if self.flags.contains(Flags::INLINE_DATA) {
            return Err(corrupt("contents within the inode, not in blocks"));
        }
        match self.flags.contains(Flags::EXTENTS) {
            true => extent::parse_root(sb, &self.i_block),
            false => indirect::parse_root(sb, &self.i_block),
        }
    }

    /// The target of a symbolic link that is stored in the inode itself; `None` where a block holds it (kernel:
    /// `ext4_inode_is_fast_symlink`).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] for a length that does not fit.
    pub fn fast_symlink(&self, sb: &Superblock) -> Result<Option<&[u8]>> {
        if self.flags.contains(Flags::INLINE_DATA) {
            return Ok(None);
        }
        let target = usize::try_from(self.attr.size)
            .ok()
            .filter(|len| *len > 0 && *len < self.i_block.len())
            .map(|len| &self.i_block[..len]);
        // Attribute values in inodes of their own count in `i_blocks` as well, so that only the size tells.
        if sb.features.incompat.contains(Incompat::EA_INODE) {
            return Ok(target);
        }
        let acl_blocks = if self.file_acl != 0 { sb.cluster_size >> 9 } else { 0 };
        if self.attr.blocks != acl_blocks {
            return Ok(None);
        }
        target.map(Some).ok_or_else(|| {
            corrupt(format!("symbolic link of {} bytes in its inode", self.attr.size))
        })
    }

    /// Memory in use, in bytes.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.tail.len()
    }
}

/// The end of what a map can hold: 32-bit block numbers, or three levels of indirect blocks (kernel: `ext4_get_maxbytes`).
fn max_size(sb: &Superblock, flags: Flags) -> u64 {
    const NUMBERS: u64 = (1 << 32) - 1;
    let pointers = u64::from(sb.block_size / 4);
    let blocks = match flags.contains(Flags::EXTENTS) {
        true => NUMBERS,
        // At most 2^14 pointers a block.
        false => NUMBERS.min(12 + pointers + pointers.pow(2) + pointers.pow(3)),
    };
    blocks * u64::from(sb.block_size)
}

/// How many bytes of fields follow the first 128 (`i_extra_isize`).
fn extra_len(bytes: &[u8]) -> Result<usize> {
    let Some(len) = super::le16(bytes, GOOD_OLD_SIZE) else {
        return Ok(0);
    };
    let len = usize::from(len);
    if len % 4 != 0 || len > bytes.len() - GOOD_OLD_SIZE {
        return Err(corrupt(format!("i_extra_isize {len} in {} bytes", bytes.len())));
    }
    Ok(len)
}

/// Kernel: `ext4_inode_csum_verify`. The checksum's fields count as zero; an inode without room for the upper half
/// has only the lower one.
fn check(seed: Crc32c, bytes: &[u8], fields_len: usize) -> Result<()> {
    let (old, large) = bytes.split_at(GOOD_OLD_SIZE);
    let lo = super::le16(bytes, CHECKSUM_LO_AT).expect("inodes have at least 128 bytes");
    let sum = seed.over(&old[..CHECKSUM_LO_AT]).over(&[0, 0]).over(&old[CHECKSUM_LO_AT + 2..]);
    if fields_len < CHECKSUM_HI_AT + 2 {
        let sum = sum.over(large).0 & 0xFFFF;
        return if sum == u32::from(lo) { Ok(()) } else { Err(mismatch(u32::from(lo), sum)) };
    }
    let hi = super::le16(bytes, CHECKSUM_HI_AT).expect("the fields reach past it");
    let at = CHECKSUM_HI_AT - GOOD_OLD_SIZE;
    sum.over(&large[..at])
        .over(&[0, 0])
        .over(&large[at + 2..])
        .check(u32::from(lo) | u32::from(hi) << 16)
}

/// What a file within its inode is shown to take up: as the kernel, so that tools do not take it for one hole.
fn inline_blocks(file_type: FileType, flags: Flags, size: u64) -> u64 {
    let inline = file_type == FileType::Regular && flags.contains(Flags::INLINE_DATA);
    if inline { size.div_ceil(512) } else { 0 }
}

/// `i_blocks` in units of 512 bytes (kernel: `ext4_inode_blocks`).
fn blocks(sb: &Superblock, raw: &Raw, flags: Flags) -> u64 {
    let lo = u64::from(raw.i_blocks_lo.get());
    if !sb.features.ro_compat.contains(RoCompat::HUGE_FILE) {
        return lo;
    }
    let blocks = lo | u64::from(raw.i_blocks_high.get()) << 32;
    match flags.contains(Flags::HUGE_FILE) {
        true => blocks * u64::from(sb.block_size / 512),
        false => blocks,
    }
}

/// Seconds are signed 32 bits; the extra word adds two bits of epochs on top and thirty of nanoseconds.
fn time(seconds: U32, extra: Option<u32>) -> Timestamp {
    let extra = extra.unwrap_or(0);
    Timestamp {
        seconds: i64::from(seconds.get() as i32) + (i64::from(extra & 3) << 32),
        nanoseconds: (extra >> 2).min(999_999_999),
    }
}

/// Device numbers: 8 + 8 bits in the first word, or else 12 + 20 bits in the second (kernel: `old_decode_dev`,
/// `new_decode_dev`).
fn device(i_block: &[u8; 60]) -> DeviceNumber {
    let word = |at| super::le32(i_block, at).expect("sixty bytes");
    match word(0) {
        0 => {
            let new = word(4);
            DeviceNumber {
                major: (new & 0xF_FF00) >> 8,
                minor: (new & 0xFF) | ((new >> 12) & 0xF_FF00),
            }
        }
        old => DeviceNumber { major: (old >> 8) & 0xFF, minor: old & 0xFF },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(value: i32, extra: u32) -> i64 {
        time(U32::new(value as u32), Some(extra)).seconds
    }

    #[test]
    fn times_reach_from_1901_to_2446() {
        assert_eq!(seconds(i32::MIN, 0), -2_147_483_648);
        assert_eq!(seconds(-1, 0), -1);
        assert_eq!(seconds(i32::MIN, 1), 2_147_483_648);
        assert_eq!(seconds(i32::MAX, 3), 15_032_385_535);
        assert_eq!(time(U32::new(5), Some(7 << 2)).nanoseconds, 7);
        assert_eq!(time(U32::new(5), None).nanoseconds, 0);
    }

    #[test]
    fn devices_in_both_encodings() {
        let mut i_block = [0; 60];
        i_block[..4].copy_from_slice(&0x0801_u32.to_le_bytes());
        assert_eq!(device(&i_block), DeviceNumber { major: 8, minor: 1 });
        i_block[..4].fill(0);
        // Major 259, minor 0x12345, as `mknod` of a large number writes it.
        i_block[4..8].copy_from_slice(&0x1231_0345_u32.to_le_bytes());
        assert_eq!(device(&i_block), DeviceNumber { major: 259, minor: 0x12345 });
    }
}
