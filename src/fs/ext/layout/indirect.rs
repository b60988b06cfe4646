//! Direct and indirect block pointers of ext2 and ext3.

use std::ops::Range;

use super::map::{Entry, MapNode, NodeKind, Target};
use super::superblock::Superblock;
use super::{FsBlock, corrupt};
use crate::error::Result;

const DIRECT: usize = 12;

/// The map in the 60 bytes of `i_block`: twelve direct pointers, then one indirect block of each level.
///
/// # Errors
/// [`crate::ErrorKind::Corrupt`] where a pointer leaves the file system.
pub fn parse_root(sb: &Superblock, i_block: &[u8; 60]) -> Result<MapNode> {
    let mut entries = data_runs(sb, pointers(&i_block[..DIRECT * 4]), 0)?;
    let per_block = u64::from(sb.block_size / 4);
    let mut first = DIRECT as u64;
    // At most 2^14 pointers a block: the third level spans 2^42 blocks.
    let mut span = per_block;
    for (level, pointer) in (0_u8..3).zip(pointers(&i_block[DIRECT * 4..])) {
        if pointer != 0 {
            let target = child(sb, pointer, level)?;
            entries.push(Entry { first, len: span, target });
        }
        first += span;
        span *= per_block;
    }
    Ok(MapNode::new(0..first, entries))
}

/// An indirect block with `level` levels of indirect blocks below it, which maps the file blocks of `range`.
///
/// # Errors
/// [`crate::ErrorKind::Corrupt`] where a pointer leaves the file system.
pub fn parse_block(sb: &Superblock, block: &[u8], level: u8, range: Range<u64>) -> Result<MapNode> {
    let per_block = (block.len() / 4).max(1) as u64;
    let entries = match level.checked_sub(1) {
        None => data_runs(sb, pointers(block), range.start)?,
        Some(below) => {
            let span = (range.end - range.start) / per_block;
            let mut entries = Vec::new();
            for (index, pointer) in (0..).zip(pointers(block)) {
                if pointer != 0 {
                    let target = child(sb, pointer, below)?;
                    entries.push(Entry { first: range.start + index * span, len: span, target });
                }
            }
            entries
        }
    };
    Ok(MapNode::new(range, entries))
}

fn pointers(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().expect("chunks of four bytes")))
}

fn child(sb: &Superblock, pointer: u32, level: u8) -> Result<Target> {
    let block = FsBlock(u64::from(pointer));
    if !sb.has_blocks(block, 1) {
        return Err(corrupt(format!("pointer to {block}, of {}", sb.blocks_count)));
    }
    Ok(Target::Child(block, NodeKind::Indirect { level }))
}

/// Joins pointers to blocks that lie side by side.
fn data_runs(
    sb: &Superblock,
    pointers: impl Iterator<Item = u32>,
    first: u64,
) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    for (at, pointer) in (first..).zip(pointers).filter(|(_, pointer)| *pointer != 0) {
        let block = FsBlock(u64::from(pointer));
        if !sb.has_blocks(block, 1) {
            return Err(corrupt(format!("pointer to {block}, of {}", sb.blocks_count)));
        }
        if let Some(Entry { first, len, target: Target::Data(start) }) = entries.last_mut() {
            if *first + *len == at && start.0 + *len == block.0 {
                *len += 1;
                continue;
            }
        }
        entries.push(Entry { first: at, len: 1, target: Target::Data(block) });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::super::FileBlock;
    use super::super::map::{Child, Found, Run};
    use super::super::sample::superblock;
    use super::*;

    fn words(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    }

    fn root(pointers: [u32; 15]) -> Result<MapNode> {
        parse_root(&superblock(), &words(pointers).try_into().unwrap())
    }

    #[test]
    fn blocks_side_by_side_are_one_run() {
        let root = root([500, 501, 502, 0, 504, 505, 600, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        let run = |block| match root.find(FileBlock(block)) {
            Found::Run(Run { first, len, place }) => (first.0, len, place.map(|place| place.0)),
            Found::Child(child) => panic!("{child:?}"),
        };
        assert_eq!(run(1), (0, 3, Some(500)));
        assert_eq!(run(3), (3, 1, None));
        assert_eq!(run(5), (4, 2, Some(504)));
        assert_eq!(run(6), (6, 1, Some(600)));
        assert_eq!(run(100).2, None);
    }

    #[test]
    fn each_level_maps_256_times_as_much() {
        let root = root([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 700, 701, 702]).unwrap();
        let child = |block| match root.find(FileBlock(block)) {
            Found::Child(Child { block, kind, range }) => (block.0, kind, range),
            Found::Run(run) => panic!("{run:?}"),
        };
        let level = |level| NodeKind::Indirect { level };
        assert_eq!(child(12), (700, level(0), 12..268));
        assert_eq!(child(268), (701, level(1), 268..268 + 65536));
        let third = 268 + 65536;
        assert_eq!(child(third), (702, level(2), third..third + (1 << 24)));
        let block = words((0..256).map(|index| if index == 3 { 800 } else { 0 }));
        let node = parse_block(&superblock(), &block, 1, 268..268 + 65536).unwrap();
        let children: Vec<_> = node.children().collect();
        let range = 268 + 3 * 256..268 + 4 * 256;
        assert_eq!(children, [Child { block: FsBlock(800), kind: level(0), range }]);
    }

    #[test]
    fn pointers_out_of_the_file_system_are_refused() {
        let mut pointers = [0; 15];
        for at in [0, 11, 12, 13, 14] {
            pointers[at] = 9000;
            let message = root(pointers).unwrap_err().to_string();
            assert!(message.contains("pointer to block 9000, of 8292"), "{message}");
            pointers[at] = 0;
        }
    }
}
