//! The hash index of a directory (kernel: `struct dx_root`, `struct dx_node`).

use super::checksum::Crc32c;
use super::features::Incompat;
use super::hash::{Algorithm, Hasher};
use super::superblock::Superblock;
use super::{FileBlock, corrupt, le16, le32};
use crate::error::{Error, ErrorKind, Result};

const ROOT_INFO_AT: usize = 24;
const ROOT_ENTRIES_AT: usize = 32;
const NODE_ENTRIES_AT: usize = 8;
const ENTRY_LEN: usize = 8;

/// What the root says about the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// How names are hashed.
    pub hasher: Hasher,
    /// Levels of index nodes below the root.
    pub levels: u8,
}

/// A node of the index: hashes in ascending order, and the directory block that holds names from each hash on.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    entries: &'a [u8],
}

/// Parses the first block of an indexed directory.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for a hash not known, [`ErrorKind::Corrupt`].
pub fn parse_root<'a>(sb: &Superblock, block: &'a [u8]) -> Result<(Root, Node<'a>)> {
    let info = block
        .get(ROOT_INFO_AT..ROOT_ENTRIES_AT)
        .ok_or_else(|| corrupt("no room for the root of the index"))?;
    let [0, 0, 0, 0, version, 8, levels, flags] = *info else {
        return Err(corrupt("the root of the index is not one"));
    };
    // Large directories may have one level more (kernel: `ext4_dir_htree_level`).
    let max_levels = if sb.features.incompat.contains(Incompat::LARGEDIR) { 2 } else { 1 };
    if levels > max_levels || flags & 1 != 0 {
        return Err(corrupt(format!("index of {levels} levels, flags {flags:#x}")));
    }
    let root = Root { hasher: hasher(sb, version)?, levels };
    Ok((root, node(sb, block, ROOT_ENTRIES_AT)?))
}

/// The hash with this number (kernel: `DX_HASH_LEGACY` and on). The first three take bytes as the superblock says.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for one not known, or one that needs a key.
pub fn hasher(sb: &Superblock, version: u8) -> Result<Hasher> {
    let (algorithm, unsigned) = match version {
        0 => (Algorithm::Legacy, sb.hash_unsigned),
        1 => (Algorithm::HalfMd4, sb.hash_unsigned),
        2 => (Algorithm::Tea, sb.hash_unsigned),
        3 => (Algorithm::Legacy, true),
        4 => (Algorithm::HalfMd4, true),
        5 => (Algorithm::Tea, true),
        other => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("hash version {other} of a directory index is not supported"),
            ));
        }
    };
    Ok(Hasher { algorithm, unsigned, seed: sb.hash_seed })
}

/// Parses a node below the root.
///
/// # Errors
/// [`ErrorKind::Corrupt`].
pub fn parse_node<'a>(sb: &Superblock, block: &'a [u8]) -> Result<Node<'a>> {
    node(sb, block, NODE_ENTRIES_AT)
}

fn node<'a>(sb: &Superblock, block: &'a [u8], at: usize) -> Result<Node<'a>> {
    let (limit, count) =
        limit_and_count(block, at).ok_or_else(|| corrupt("no room for the index's entries"))?;
    let tail = if sb.checksum_seed.is_some() { ENTRY_LEN } else { 0 };
    let expected = block.len().saturating_sub(at + tail) / ENTRY_LEN;
    if limit != expected || count == 0 || count > limit {
        return Err(corrupt(format!(
            "{count} entries of at most {limit} in an index node with room for {expected}"
        )));
    }
    Ok(Node { entries: &block[at..at + count * ENTRY_LEN] })
}

/// The first entry has no hash; limit and count stand in its place (`struct dx_countlimit`).
fn limit_and_count(block: &[u8], at: usize) -> Option<(usize, usize)> {
    Some((usize::from(le16(block, at)?), usize::from(le16(block, at + 2)?)))
}

impl Node<'_> {
    /// The number of entries, never 0.
    pub fn len(&self) -> usize {
        self.entries.len() / ENTRY_LEN
    }

    /// Whether there are no entries, which no node is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The smallest hash below entry `index`: 0 for the first.
    pub fn hash(&self, index: usize) -> u32 {
        match index {
            0 => 0,
            index => le32(self.entries, index * ENTRY_LEN).expect("callers stay below len"),
        }
    }

    /// The directory block that entry `index` points at.
    pub fn block(&self, index: usize) -> FileBlock {
        let raw = le32(self.entries, index * ENTRY_LEN + 4).expect("callers stay below len");
        FileBlock(u64::from(raw & 0x0FFF_FFFF))
    }

    /// The entry that covers `hash`: the last one that does not begin after it.
    pub fn search(&self, hash: u32) -> usize {
        let (mut low, mut high) = (0, self.len());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.hash(middle) <= hash { low = middle } else { high = middle }
        }
        low
    }
}

/// Verifies the checksum of an index node (kernel: `ext4_dx_csum`): it covers the entries in use, and stands after the
/// last possible one.
pub(super) fn verify(block: &[u8], seed: Crc32c) -> Result<()> {
    let none = || Error::new(ErrorKind::BadChecksum, "no checksum in the index node");
    let first_len = usize::from(le16(block, 4).ok_or_else(none)?);
    let whole = first_len == block.len() || (block.len() == 1 << 16 && first_len == 0xFFFF);
    let at = match (whole, first_len) {
        (true, _) => NODE_ENTRIES_AT,
        (false, 12) => ROOT_ENTRIES_AT,
        (false, _) => return Err(none()),
    };
    let (limit, count) = limit_and_count(block, at).ok_or_else(none)?;
    let tail = at + limit * ENTRY_LEN;
    let used = block.get(..at + count * ENTRY_LEN).ok_or_else(none)?;
    let reserved = block.get(tail..tail + 4).ok_or_else(none)?;
    let stored = le32(block, tail + 4).ok_or_else(none)?;
    seed.over(used).over(reserved).over(&[0; 4]).check(stored)
}
