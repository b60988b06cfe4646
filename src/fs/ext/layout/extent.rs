//! Extent trees (kernel: `ext4_extents.h`).

use std::ops::Range;

use super::checksum::Crc32c;
use super::map::{Entry, MapNode, NodeKind, Target};
use super::superblock::Superblock;
use super::{FsBlock, corrupt, le16, le32};
use crate::error::{Error, Result};

const MAGIC: u16 = 0xF30A;
/// Five levels are enough for any file and the kernel takes no more; e2fsck calls deeper trees clean.
const MAX_DEPTH: u16 = 16;
const HEADER_LEN: usize = 12;
const ENTRY_LEN: usize = 12;
/// `EXT_INIT_MAX_LEN`: a longer extent is allocated but not written.
const INIT_MAX_LEN: u16 = 0x8000;

struct Header {
    entries: u16,
    max: u16,
    depth: u16,
}

fn header(bytes: &[u8]) -> Result<Header> {
    let short = || corrupt(format!("extent node of {} bytes", bytes.len()));
    let magic = le16(bytes, 0).ok_or_else(short)?;
    if magic != MAGIC {
        return Err(corrupt(format!("extent magic {magic:#06x}, expected {MAGIC:#06x}")));
    }
    let header = Header {
        entries: le16(bytes, 2).ok_or_else(short)?,
        max: le16(bytes, 4).ok_or_else(short)?,
        depth: le16(bytes, 6).ok_or_else(short)?,
    };
    let room = bytes.len().saturating_sub(HEADER_LEN) / ENTRY_LEN;
    if header.max == 0 || usize::from(header.max) > room || header.entries > header.max {
        return Err(corrupt(format!(
            "{} extents of at most {} in a node with room for {room}",
            header.entries, header.max
        )));
    }
    if header.depth > 0 && header.entries == 0 {
        return Err(corrupt("extent index without entries"));
    }
    Ok(header)
}

/// Whether these bytes are a node of an extent tree.
pub(super) fn has_magic(bytes: &[u8]) -> bool {
    le16(bytes, 0) == Some(MAGIC)
}

/// The root of a tree, from the 60 bytes of `i_block`.
///
/// # Errors
/// [`crate::ErrorKind::Corrupt`] where entries overlap, descend, or leave the file system.
pub fn parse_root(sb: &Superblock, i_block: &[u8]) -> Result<MapNode> {
    let header = header(i_block)?;
    if header.depth > MAX_DEPTH {
        return Err(corrupt(format!("extent depth {}, at most {MAX_DEPTH}", header.depth)));
    }
    entries(sb, i_block, &header, 0..1 << 32)
}

/// A node in a block of its own, at `depth`, which maps the file blocks of `range` as its parent says. `seed` is the
/// inode's checksum seed, where checksums are to be verified.
///
/// # Errors
/// As [`parse_root`], and [`crate::ErrorKind::BadChecksum`].
pub fn parse_block(
    sb: &Superblock,
    block: &[u8],
    depth: u16,
    range: Range<u64>,
    seed: Option<Crc32c>,
) -> Result<MapNode> {
    let header = header(block)?;
    if header.depth != depth {
        return Err(corrupt(format!("extent depth {}, expected {depth}", header.depth)));
    }
    if let Some(seed) = seed {
        // The checksum follows the last possible entry (`struct ext4_extent_tail`).
        let tail = HEADER_LEN + ENTRY_LEN * usize::from(header.max);
        let stored = le32(block, tail).ok_or_else(|| corrupt("no room for the extent checksum"))?;
        seed.over(&block[..tail]).check(stored)?;
    }
    // As the kernel demands, the first entry of a node begins where its parent says.
    if header.entries > 0 {
        let first = u64::from(le32(block, HEADER_LEN).unwrap_or(0));
        if first != range.start {
            return Err(corrupt(format!(
                "extent node begins at file block {first}, its parent says {}",
                range.start
            )));
        }
    }
    entries(sb, block, &header, range)
}

fn entries(sb: &Superblock, node: &[u8], header: &Header, range: Range<u64>) -> Result<MapNode> {
    let raw = node[HEADER_LEN..].chunks_exact(ENTRY_LEN).take(usize::from(header.entries));
    let mut entries: Vec<Entry> = Vec::with_capacity(usize::from(header.entries));
    let mut free_from = range.start;
    for entry in raw {
        let number = |at| le32(entry, at).expect("an entry has twelve bytes");
        let half = |at| le16(entry, at).expect("an entry has twelve bytes");
        let first = u64::from(number(0));
        if first < free_from || first >= range.end {
            return Err(out_of_order(first, free_from, range.end));
        }
        let (len, target) = if header.depth == 0 {
            let start = FsBlock(u64::from(half(6)) << 32 | u64::from(number(8)));
            let (len, written) = match half(4) {
                len @ 0..=INIT_MAX_LEN => (u64::from(len), true),
                len => (u64::from(len - INIT_MAX_LEN), false),
            };
            if len == 0 || !sb.has_blocks(start, len) {
                return Err(corrupt(format!("extent of {len} blocks at {start}")));
            }
            (len, if written { Target::Data(start) } else { Target::Unwritten })
        } else {
            let block = FsBlock(u64::from(half(8)) << 32 | u64::from(number(4)));
            if !sb.has_blocks(block, 1) {
                return Err(corrupt(format!("extent index points at {block}")));
            }
            if let Some(previous) = entries.last_mut() {
                previous.len = first - previous.first;
            }
            // Reaches to the next entry, which is not known yet.
            let kind = NodeKind::Extents { depth: header.depth - 1 };
            (1, Target::Child(block, kind))
        };
        if len > range.end - first {
            return Err(out_of_order(first + len, free_from, range.end));
        }
        free_from = first + len;
        entries.push(Entry { first, len, target });
    }
    if let (Some(last), true) = (entries.last_mut(), header.depth > 0) {
        last.len = range.end - last.first;
    }
    Ok(MapNode::new(range, entries))
}

fn out_of_order(found: u64, from: u64, to: u64) -> Error {
    corrupt(format!("extent at file block {found}, expected within {from}..{to}"))
}
