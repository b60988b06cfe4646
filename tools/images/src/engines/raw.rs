//! The file system's bytes as both readers get them: what a fault is recognised by. Shares no code with either.

use std::sync::Arc;

use anyhow::{Result, ensure};
use snapbrowse::block::{BlockSource, read};
use snapbrowse::fs::Ino;

const SUPERBLOCK: u64 = 1024;
const METADATA_CSUM: u32 = 0x400;
const BIT64: u32 = 0x80;
const CSUM_SEED: u32 = 0x2000;
/// No more blocks of one file are looked at.
const MOST_BLOCKS: u64 = 1 << 16;
/// `EXT_INIT_MAX_LEN`: an extent with a greater length is not written.
const INIT_MAX_LEN: u16 = 0x8000;

/// A superblock and what lies where it says.
pub(super) struct Raw {
    source: Arc<dyn BlockSource>,
    superblock: Vec<u8>,
    pub(super) block_size: u64,
}

/// An extent as it stands in its leaf.
pub(super) struct Extent {
    first: u64,
    /// With the mark of an unwritten one.
    len: u16,
    start: u64,
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |two| u16::from_le_bytes(two.try_into().expect("two")))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_le_bytes(four.try_into().expect("four")))
}

impl Raw {
    pub(super) async fn open(source: Arc<dyn BlockSource>) -> Result<Self> {
        let superblock = read(&*source, SUPERBLOCK, 1024).await?.into_bytes().to_vec();
        let log = le32(&superblock, 0x18);
        ensure!(log <= 6, "blocks of 2^{log} KiB");
        Ok(Self { source, superblock, block_size: 1024 << log })
    }

    pub(super) fn incompat(&self) -> u32 {
        le32(&self.superblock, 0x60)
    }

    pub(super) fn has_checksums(&self) -> bool {
        le32(&self.superblock, 0x64) & METADATA_CSUM != 0
    }

    pub(super) fn inode_size(&self) -> usize {
        usize::from(le16(&self.superblock, 0x58))
    }

    /// Whether names are hashed as unsigned bytes (`EXT2_FLAGS_UNSIGNED_HASH`).
    pub(super) fn hashes_unsigned(&self) -> bool {
        le32(&self.superblock, 0x160) & 2 != 0
    }

    /// Whether the superblock is not what its checksum says.
    pub(super) fn superblock_is_damaged(&self) -> bool {
        let sum = !crc32c::crc32c(&self.superblock[..0x3FC]);
        self.has_checksums() && sum != le32(&self.superblock, 0x3FC)
    }

    /// Whether the descriptor of a group is not what its checksum says.
    pub(super) async fn descriptor_is_damaged(&self) -> Result<bool> {
        let blocks = u64::from(le32(&self.superblock, 4)) - u64::from(le32(&self.superblock, 0x14));
        let groups = blocks.div_ceil(u64::from(le32(&self.superblock, 0x20)).max(1));
        let uuid = &self.superblock[0x68..0x78];
        let seed = match self.incompat() & CSUM_SEED {
            0 => !crc32c::crc32c(uuid),
            _ => le32(&self.superblock, 0x270),
        };
        for group in 0..u32::try_from(groups)? {
            let mut bytes = self.descriptor(group).await?;
            let stored = le16(&bytes, 0x1E);
            bytes[0x1E..0x20].fill(0);
            // `crc32c_append` inverts on the way in and out, as ext4 does only at the very beginning.
            let sum = crc32c::crc32c_append(!seed, &group.to_le_bytes());
            let sum = !crc32c::crc32c_append(sum, &bytes);
            if sum as u16 != stored {
                return Ok(self.has_checksums());
            }
        }
        Ok(false)
    }

    async fn descriptor(&self, group: u32) -> Result<Vec<u8>> {
        let size = match self.incompat() & BIT64 {
            0 => 32,
            _ => u64::from(le16(&self.superblock, 0xFE)),
        };
        ensure!((32..=1024).contains(&size), "descriptors of {size} bytes");
        let per_block = self.block_size / size;
        // Behind the superblock, which block 1 holds where blocks have 1 KiB.
        let first = if self.block_size == 1024 { 2 } else { 1 };
        let block = first + u64::from(group) / per_block;
        let offset = block * self.block_size + u64::from(group) % per_block * size;
        self.bytes(offset, size).await
    }

    pub(super) async fn inode(&self, ino: Ino) -> Result<Inode> {
        let index = u32::try_from(ino.0)? - 1;
        let per_group = le32(&self.superblock, 0x28).max(1);
        let descriptor = self.descriptor(index / per_group).await?;
        let high = if self.incompat() & BIT64 == 0 { 0 } else { le32(&descriptor, 0x28) };
        let table = u64::from(high) << 32 | u64::from(le32(&descriptor, 8));
        let size = self.inode_size() as u64;
        let offset = table * self.block_size + u64::from(index % per_group) * size;
        Ok(Inode { bytes: self.bytes(offset, size).await? })
    }

    /// A block; nothing where there is none.
    pub(super) async fn block(&self, block: u64) -> Result<Vec<u8>> {
        self.bytes(block.saturating_mul(self.block_size), self.block_size).await
    }

    async fn bytes(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let bytes = read(&*self.source, offset, usize::try_from(len)?).await?;
        Ok(bytes.into_bytes().to_vec())
    }

    /// All extents of a file in their order, as far as the tree can be read.
    pub(super) async fn extents(&self, inode: &Inode) -> Vec<Extent> {
        let mut found = Vec::new();
        let mut nodes = vec![inode.block_area().to_vec()];
        while let Some(node) = nodes.pop() {
            let entries = usize::from(le16(&node, 2));
            let entries = node.get(12..).unwrap_or_default().chunks_exact(12).take(entries);
            if le16(&node, 6) == 0 {
                found.extend(entries.map(|entry| Extent {
                    first: u64::from(le32(entry, 0)),
                    len: le16(entry, 4),
                    start: u64::from(le16(entry, 6)) << 32 | u64::from(le32(entry, 8)),
                }));
                continue;
            }
            let mut children = Vec::new();
            for entry in entries {
                let block = u64::from(le16(entry, 8)) << 32 | u64::from(le32(entry, 4));
                children.extend(self.block(block).await.ok());
            }
            nodes.extend(children.into_iter().rev());
            if found.len() as u64 + nodes.len() as u64 > MOST_BLOCKS {
                break;
            }
        }
        found
    }

    /// Whether a file without extents has no block of pointers somewhere before its end: a hole over all that it would
    /// point to.
    pub(super) async fn lacks_indirect_block(&self, inode: &Inode) -> bool {
        let per_block = self.block_size / 4;
        let end = inode.size().div_ceil(self.block_size);
        let mut pending = Vec::new();
        let mut first = 12;
        for depth in 1..=3_u32 {
            let pointer = le32(inode.block_area(), 44 + 4 * depth as usize);
            pending.push((u64::from(pointer), depth, first));
            first += per_block.pow(depth);
        }
        let mut looked = 0;
        while let Some((block, depth, first)) = pending.pop() {
            if first >= end || looked > MOST_BLOCKS {
                continue;
            }
            if block == 0 {
                return true;
            }
            looked += 1;
            if depth > 1 {
                let Ok(pointers) = self.block(block).await else { continue };
                let each = per_block.pow(depth - 1);
                pending.extend((0..per_block).map(|index| {
                    let pointer = le32(&pointers, 4 * index as usize);
                    (u64::from(pointer), depth - 1, first + index * each)
                }));
            }
        }
        false
    }

    /// The blocks of a directory as far as they are mapped.
    pub(super) async fn directory(&self, inode: &Inode) -> Vec<Vec<u8>> {
        let mut places: Vec<u64> = Vec::new();
        if inode.has_extents() {
            for extent in self.extents(inode).await {
                places.extend(extent.start..extent.start + u64::from(extent.len & !INIT_MAX_LEN));
            }
        } else {
            let area = inode.block_area();
            places.extend((0..12).map(|index| u64::from(le32(area, 4 * index))));
            for level in 0..3_usize {
                let mut level_blocks = vec![u64::from(le32(area, 48 + 4 * level))];
                for _ in 0..=level {
                    let mut next = Vec::new();
                    for block in level_blocks.iter().filter(|block| **block != 0) {
                        let pointers = self.block(*block).await.unwrap_or_default();
                        next.extend(pointers.chunks_exact(4).map(|four| u64::from(le32(four, 0))));
                    }
                    level_blocks = next;
                }
                places.extend(level_blocks);
            }
        }
        let mut blocks = Vec::new();
        let within = inode.size().div_ceil(self.block_size).min(MOST_BLOCKS) as usize;
        for place in places.into_iter().filter(|place| *place != 0).take(within) {
            blocks.extend(self.block(place).await.ok());
        }
        blocks
    }
}

/// An inode as it lies in its table.
pub(super) struct Inode {
    bytes: Vec<u8>,
}

impl Inode {
    pub(super) fn has_flag(&self, flag: u32) -> bool {
        le32(&self.bytes, 0x20) & flag != 0
    }

    pub(super) fn has_extents(&self) -> bool {
        self.has_flag(0x8_0000)
    }

    /// Of its contents.
    pub(super) fn size(&self) -> u64 {
        u64::from(le32(&self.bytes, 0x6C)) << 32 | u64::from(le32(&self.bytes, 4))
    }

    /// Whether it says that something other than a regular file, whose size has no upper half, is 4 GiB long.
    pub(super) fn has_meaningless_size(&self) -> bool {
        le16(&self.bytes, 0) & 0o170_000 != 0o100_000 && le32(&self.bytes, 0x6C) != 0
    }

    pub(super) fn block_area(&self) -> &[u8] {
        self.bytes.get(0x28..0x28 + 60).unwrap_or_default()
    }

    /// How deep the root of its extent tree says that the tree is.
    pub(super) fn extent_depth(&self) -> u16 {
        le16(self.block_area(), 6)
    }

    /// Where the fields end that the inode has (`i_extra_isize`).
    fn fields_end(&self) -> usize {
        if self.bytes.len() <= 128 { 128 } else { 128 + usize::from(le16(&self.bytes, 0x80)) }
    }

    /// Whether it has room for all times, and fewer of them: a reader that asks only how large inodes are takes what
    /// follows its fields for times.
    pub(super) fn lacks_time_fields(&self) -> bool {
        self.bytes.len() >= 0x98 && self.fields_end() < 0x98
    }

    /// Whether one of its times lies before 1970 or after 2038, by the bit that has to do with it.
    pub(super) fn has_distant_time(&self) -> bool {
        let crtime = (self.fields_end() >= 0x94).then_some(0x90);
        [8, 0xC, 0x10].into_iter().chain(crtime).any(|at| le32(&self.bytes, at) >> 31 == 1)
    }
}

/// The block that a file block is taken from by a reader that does not know of unwritten extents: their mark makes them
/// longer by as much as it counts, and what follows comes late. `None` in a hole.
pub(super) fn place_by_marked_lengths(extents: &[Extent], block: u64) -> Option<u64> {
    let mut at = 0;
    for extent in extents {
        if block < extent.first.max(at) {
            return None;
        }
        at = extent.first.max(at);
        if block < at + u64::from(extent.len) {
            return Some(extent.start + (block - at));
        }
        at += u64::from(extent.len);
    }
    None
}

/// The block that a file block is to be read from; `None` where there are zeros.
pub(super) fn place(extents: &[Extent], block: u64) -> Option<u64> {
    let holds = |extent: &&Extent| {
        let end = extent.first + u64::from(extent.len);
        extent.len <= INIT_MAX_LEN && (extent.first..end).contains(&block)
    };
    extents.iter().find(holds).map(|extent| extent.start + (block - extent.first))
}

pub(super) fn has_unwritten(extents: &[Extent]) -> bool {
    extents.iter().any(|extent| extent.len > INIT_MAX_LEN)
}

/// The types that the entries of a directory's block give, as far as the lengths of the entries can be followed.
pub(super) fn entry_types(block: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    let mut at = 0;
    while at + 8 <= block.len() {
        let len = usize::from(le16(block, at + 4));
        if len < 8 {
            break;
        }
        if le32(block, at) != 0 {
            types.push(block[at + 7]);
        }
        at += len;
    }
    types
}

/// The hash that an index says it is made by (`dx_root_info.hash_version`).
pub(super) fn index_hash(root: &[u8]) -> Option<u8> {
    root.get(0x1C).copied()
}
