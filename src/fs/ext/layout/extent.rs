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

#[cfg(test)]
mod tests {
    use super::super::FileBlock;
    use super::super::map::{Found, Run};
    use super::super::sample::superblock;
    use super::*;

    /// A node with room for four entries, as in an inode.
    fn node(depth: u16, entries: &[[u32; 3]]) -> Vec<u8> {
        let mut node = Vec::new();
        for half in [MAGIC, entries.len() as u16, 4, depth, 0, 0] {
            node.extend_from_slice(&half.to_le_bytes());
        }
        for word in entries.as_flattened() {
            node.extend_from_slice(&word.to_le_bytes());
        }
        node.resize(60, 0);
        node
    }

    fn run(root: &MapNode, block: u64) -> (u64, u64, Option<u64>) {
        match root.find(FileBlock(block)) {
            Found::Run(Run { first, len, place }) => (first.0, len, place.map(|place| place.0)),
            Found::Child(child) => panic!("{child:?}"),
        }
    }

    #[test]
    fn written_unwritten_and_missing_blocks() {
        // Length and the upper half of the place share the second word.
        let root = node(0, &[[0, 2, 500], [2, 0x8003, 502], [10, 1, 600]]);
        let root = parse_root(&superblock(), &root).unwrap();
        assert_eq!(run(&root, 1), (0, 2, Some(500)));
        assert_eq!(run(&root, 4), (2, 3, None));
        assert_eq!(run(&root, 7), (5, 5, None));
        assert_eq!(run(&root, 10), (10, 1, Some(600)));
        assert_eq!(run(&root, 11), (11, (1 << 32) - 11, None));
    }

    fn refusal(node: &[u8]) -> String {
        parse_root(&superblock(), node).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_number_is_named() {
        let good = node(0, &[[0, 2, 500], [2, 3, 502]]);
        for (at, value, says) in [
            (0, 0, "extent magic 0xf300, expected 0xf30a"),
            (2, 5, "5 extents of at most 4"),
            (4, 5, "2 extents of at most 5 in a node with room for 4"),
            (4, 0, "2 extents of at most 0"),
            (6, 17, "extent depth 17, at most 16"),
            (16, 0, "extent of 0 blocks at block 500"),
            (22, 1, "extent of 2 blocks at block 66036"),
            (24, 1, "extent at file block 1, expected within 2"),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            let message = refusal(&bad);
            assert!(message.contains(says), "{message}");
        }
        assert!(refusal(&node(1, &[])).contains("index without entries"));
        assert!(refusal(&node(1, &[[0, 9000, 0]])).contains("points at block 9000"));
        assert!(refusal(&good[..11]).contains("extent"));
    }

    #[test]
    fn children_get_the_range_up_to_the_next_and_must_keep_to_it() {
        let root = parse_root(&superblock(), &node(1, &[[0, 700, 0], [50, 701, 0]])).unwrap();
        let children: Vec<_> = root.children().collect();
        assert_eq!((children[0].range.clone(), children[0].block), (0..50, FsBlock(700)));
        assert_eq!(children[1].range, 50..1 << 32);
        let sb = superblock();
        let child = |entries: &[[u32; 3]], depth| {
            parse_block(&sb, &node(depth, entries), 0, 50..60, None).map_err(|e| e.to_string())
        };
        assert!(child(&[[50, 10, 800]], 0).is_ok());
        assert!(child(&[], 0).is_ok());
        assert!(child(&[[50, 11, 800]], 0).unwrap_err().contains("within 50..60"));
        assert!(child(&[[51, 2, 800]], 0).unwrap_err().contains("its parent says 50"));
        assert!(child(&[[50, 702, 0]], 1).unwrap_err().contains("depth 1, expected 0"));
    }

    #[test]
    fn the_checksum_stands_after_the_last_possible_entry() {
        let mut block = node(0, &[[0, 1, 800]]);
        block.resize(1024, 0);
        let seed = Crc32c(7);
        let sum = seed.over(&block[..60]).0;
        block[60..64].copy_from_slice(&sum.to_le_bytes());
        assert!(parse_block(&superblock(), &block, 0, 0..10, Some(seed)).is_ok());
        block[59] = 1;
        let error = parse_block(&superblock(), &block, 0, 0..10, Some(seed)).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::BadChecksum);
    }
}
