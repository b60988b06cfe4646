//! Where fuzzers come in: each function takes any bytes and must neither panic nor break a promise of what it tries.
//!
//! The targets in `fuzz/` call these; the tests below replay the seeds in `testdata/fuzz` on stable Rust.

mod image;

use std::ops::Range;
use std::sync::Arc;

use super::disk::{Disk, Verify};
use super::layout::checksum::Crc32c;
use super::layout::dirent::{self, BlockKind, Dirent};
use super::layout::group::Group;
use super::layout::inode::Inode;
use super::layout::map::{Found, MapNode, NodeKind};
use super::layout::superblock::{self, Superblock};
use super::layout::{FileBlock, acl, extent, htree, indirect, mmp, sample, xattr};
use super::naming::{Naming, NokeyHash};
use crate::fs::Ino;
use crate::fuzz::{Device, Input, wait};

pub use super::journal::fuzz::journal;
pub use image::image;

/// More blocks than any file has: three levels of blocks of 64 KiB map some 2^42.
const ALL_BLOCKS: u64 = 1 << 43;

/// A superblock, the descriptor of a group, and what is calculated from them.
///
/// # Panics
/// Where a promise is broken, as all of these.
pub fn superblock(bytes: &[u8]) {
    let mut input = Input(bytes);
    let first = input.padded(superblock::SIZE);
    let descriptor = input.padded(64);
    let _ = mmp::mounted_by(input.0);
    let Ok(sb) = Superblock::parse(&first) else { return };
    assert!(sb.block_size.is_power_of_two() && sb.inode_size.is_power_of_two());
    for group in [0, 1, 3, 49, sb.groups_count / 2, sb.groups_count - 1] {
        let index = group / sb.descs_per_block();
        assert_eq!(sb.desc_block_copies(index).next(), Some(sb.desc_block(index)));
        sb.desc_block_copies(index).for_each(|block| assert_eq!(sb.byte_of(block) % 1024, 0));
        let _ = sb.group_desc_blocks(group);
        for verify in [false, true] {
            if let Ok(group) = Group::parse(&sb, group, &descriptor, verify) {
                assert!(sb.has_blocks(group.inode_table, 1));
            }
        }
    }
    let _ = sb.features.names();
    let mut device = Device::new(1 << 40, 512);
    device.write(superblock::OFFSET, &first);
    device.write(sb.byte_of(sb.desc_block(0)), &descriptor);
    let disk = Disk::new(Arc::new(device), sb, Verify::BeforeRecovery);
    let statfs = wait(disk.statfs()).expect("no read fails");
    assert!(statfs.blocks_free >= statfs.blocks_available);
}

/// An inode of a file system of some kind, with all that lies within it.
pub fn inode(bytes: &[u8]) {
    let mut input = Input(bytes);
    let Some(choices) = input.byte() else { return };
    let sb = sample(choices);
    let bytes = input.padded(usize::from(sb.inode_size));
    let _ = Inode::parse(&sb, Ino(12), &bytes, true);
    let Ok(inode) = Inode::parse(&sb, Ino(12), &bytes, false) else { return };
    let attr = &inode.attr;
    assert!([attr.atime, attr.mtime, attr.ctime].iter().all(|time| time.nanoseconds < 1 << 30));
    if let Ok(Some(data)) = inode.inline_data(&sb) {
        assert_eq!(data.len() as u64, attr.size);
        if let Ok(block) = dirent::inline_block(Ino(12), &data) {
            entries(&sb, &block);
        }
    }
    if let Ok(Some(target)) = inode.fast_symlink(&sb) {
        assert_eq!(target.len() as u64, attr.size);
    }
    if let Ok(root) = inode.map_root(&sb) {
        map(&sb, &root, 0..ALL_BLOCKS);
    }
    if let Ok(all) = xattr::parse_inode(&inode.tail) {
        attributes(&all);
    }
}

/// The root of an extent tree, and a block of it.
pub fn extents(bytes: &[u8]) {
    let mut input = Input(bytes);
    let Some(choices) = input.byte() else { return };
    let sb = sample(choices);
    let root = input.padded(60);
    let block = input.padded(sb.block_size.min(4096) as usize);
    let Ok(root) = extent::parse_root(&sb, &root) else { return };
    map(&sb, &root, 0..1 << 32);
    for child in root.children().take(4) {
        let NodeKind::Extents { depth } = child.kind else { panic!("{child:?}") };
        let range = child.range.clone();
        if let Ok(node) = extent::parse_block(&sb, &block, depth, range.clone(), None) {
            map(&sb, &node, range.clone());
        }
        let _ = extent::parse_block(&sb, &block, depth, range, Some(Crc32c(7)));
    }
}

/// Direct and indirect pointers.
pub fn block_map(bytes: &[u8]) {
    let mut input = Input(bytes);
    let Some(choices) = input.byte() else { return };
    let sb = sample(choices);
    let root = input.padded(60).try_into().expect("sixty bytes");
    let block = input.padded(sb.block_size.min(4096) as usize);
    let Ok(root) = indirect::parse_root(&sb, &root) else { return };
    map(&sb, &root, 0..ALL_BLOCKS);
    for child in root.children() {
        let NodeKind::Indirect { level } = child.kind else { panic!("{child:?}") };
        if let Ok(node) = indirect::parse_block(&sb, &block, level, child.range.clone()) {
            map(&sb, &node, child.range);
        }
    }
}

/// A block of a directory, whose names are plain, folded or encrypted.
pub fn directory(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (Some(choices), Some(kind)) = (input.byte(), input.byte()) else { return };
    let sb = sample(choices);
    let name = input.take(usize::from(kind >> 4));
    // Short blocks are what directories within their inodes have.
    let block = match kind & 8 {
        0 => input.padded(sb.block_size as usize),
        _ => input.0.to_vec(),
    };
    for indexed in [false, true] {
        let _ = dirent::verify(&block, dirent::kind(&block, indexed, false), Crc32c(7));
    }
    let naming = match kind & 7 {
        0..=2 => Naming::Plain,
        3 | 4 => Naming::Folded,
        5 => Naming::Encrypted(NokeyHash::Stored),
        _ => Naming::Encrypted(NokeyHash::Of(htree::hasher(&sb, kind & 7).ok())),
    };
    for entry in entries(&sb, &block) {
        let _ = naming.matches(&entry, name);
        let Ok(shown) = naming.shown(&entry) else { continue };
        assert!(!shown.is_empty() && !shown.contains(&b'/') && !shown.contains(&0));
        assert!(shown.len() <= 255, "{} bytes", shown.len());
        assert!(naming.matches(&entry, &shown), "it is found by the name that it is shown by");
    }
    let _ = dirent::inline_block(Ino(12), &block);
}

/// All entries up to the first damaged one. A listing can go on behind each of them.
fn entries<'a>(sb: &'a Superblock, block: &'a [u8]) -> Vec<Dirent<'a>> {
    let all: Vec<_> = dirent::entries(sb, block, 0).map_while(Result::ok).collect();
    assert!(all.is_sorted_by_key(|entry| entry.next));
    for (at, entry) in all.iter().enumerate().step_by(7) {
        let rest = dirent::entries(sb, block, entry.next).map_while(Result::ok);
        assert!(rest.eq(all[at + 1..].iter().copied()));
    }
    all
}

/// The root and a node of a directory's index.
pub fn htree(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (Some(choices), Some(len)) = (input.byte(), input.byte()) else { return };
    let sb = sample(choices);
    let name = input.take(usize::from(len));
    let block = input.padded(sb.block_size.min(4096) as usize);
    for version in 0..7 {
        if let Ok(hasher) = htree::hasher(&sb, version) {
            assert_eq!(hasher.hash(name) & 1, 0);
        }
    }
    let _ = dirent::verify(&block, BlockKind::Index, Crc32c(7));
    let root = htree::parse_root(&sb, &block).ok();
    let hash = root.as_ref().map_or(0, |(root, _)| root.hasher.hash(name));
    for node in root.map(|(_, node)| node).into_iter().chain(htree::parse_node(&sb, &block)) {
        let found = node.search(hash);
        assert!(found < node.len() && !node.is_empty());
        assert!(node.hash(found) <= hash, "the names before it are looked for there");
        (0..node.len()).for_each(|index| assert!(node.block(index).0 < 1 << 28));
    }
}

/// A block of attributes, the attributes of an inode, and an ACL.
pub fn xattrs(bytes: &[u8]) {
    use super::layout::FsBlock;
    if let Ok(all) = xattr::parse_inode(bytes) {
        attributes(&all);
    }
    let mut input = Input(bytes);
    let block = input.padded(1024);
    let _ = xattr::parse_block(&block, FsBlock(77), Some(Crc32c(7)));
    if let Ok(all) = xattr::parse_block(&block, FsBlock(77), None) {
        attributes(&all);
    }
    if let Ok(acl) = acl::to_xattr(bytes) {
        assert_eq!(acl.len() % 8, 4);
        assert!(acl.len() <= 2 * bytes.len());
    }
}

fn attributes(all: &[xattr::Entry<'_>]) {
    for entry in all {
        let _ = entry.full_name();
        let _ = entry.check_hash_of_inode(Crc32c(7));
        if let xattr::Value::Here(value) = entry.value {
            let _ = entry.check_hash(value);
            let _ = entry.decode(value);
        }
    }
}

/// Every block of `range` belongs to one run or child, none of which leaves the file system.
fn map(sb: &Superblock, node: &MapNode, range: Range<u64>) {
    let mut at = range.start;
    let mut children = node.children();
    while at < range.end {
        let end = match node.find(FileBlock(at)) {
            Found::Run(run) => {
                assert!(run.first.0 <= at, "{run:?}");
                assert!(run.place.is_none_or(|place| sb.has_blocks(place, run.len)), "{run:?}");
                let end = run.first.0.saturating_add(run.len);
                assert!(run.place.is_none() || end <= range.end, "{run:?}");
                end
            }
            Found::Child(child) => {
                assert!(child.range.start <= at && sb.has_blocks(child.block, 1), "{child:?}");
                assert!(child.range.end <= range.end, "{child:?}");
                let end = child.range.end;
                assert_eq!(children.next(), Some(child), "children come in their order");
                end
            }
        };
        assert!(end > at, "{} belongs to nothing", FileBlock(at));
        at = end;
    }
    assert_eq!(children.next(), None);
}

/// A file system with some of the features that change how structures are read.
fn sample(choices: u8) -> Superblock {
    let mut bytes = sample::superblock_bytes();
    let mut put = |at: usize, value: u32| {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    };
    // Blocks of 1, 4 or 64 KiB; inodes of 128, 256 or 512 bytes.
    let (log, inode_size) = ([0, 2, 6, 0][usize::from(choices & 3)], [256, 128, 512, 256]);
    put(0x18, log);
    put(0x14, u32::from(log == 0));
    put(0x58, inode_size[usize::from(choices >> 2 & 3)]);
    // ext2, ext4, and ext4 with everything.
    let (incompat, ro_compat) = match choices >> 4 & 3 {
        0 => (0, 0),
        1 => (0x42, 0x8),
        2 => (0x42 | 0x400 | 0x4000 | 0x8000, 0x8 | 0x400),
        _ => (0x42 | 0x80 | 0x400 | 0x4000 | 0x8000 | 0x10000 | 0x20000, 0x8),
    };
    put(0x60, incompat);
    put(0x64, ro_compat);
    bytes[0xFC] = 1;
    bytes[0xFE] = 64;
    bytes[0x175] = 1;
    Superblock::parse(&bytes).expect("its numbers agree")
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use crate::fuzz::replay;

    proptest! {
        #[test]
        fn any_bytes(bytes in vec(any::<u8>(), 0..600)) {
            super::inode(&bytes);
            super::extents(&bytes);
            super::block_map(&bytes);
            super::directory(&bytes);
            super::htree(&bytes);
            super::xattrs(&bytes);
            super::journal(&bytes);
        }

        #[test]
        fn any_damage(bytes in vec(any::<u8>(), 0..60)) {
            super::image(&bytes);
        }
    }

    #[test]
    fn seeds_of_superblocks() {
        replay("superblock", super::superblock);
    }

    #[test]
    fn seeds_of_inodes() {
        replay("inode", super::inode);
    }

    #[test]
    fn seeds_of_extents() {
        replay("extents", super::extents);
    }

    #[test]
    fn seeds_of_block_maps() {
        replay("block_map", super::block_map);
    }

    #[test]
    fn seeds_of_directories() {
        replay("directory", super::directory);
    }

    #[test]
    fn seeds_of_indexes() {
        replay("htree", super::htree);
    }

    #[test]
    fn seeds_of_attributes() {
        replay("xattrs", super::xattrs);
    }

    #[test]
    fn seeds_of_journals() {
        replay("journal", super::journal);
    }

    #[test]
    fn seeds_of_images() {
        replay("image", super::image);
    }

    #[test]
    fn every_kind_of_sample_can_be_made() {
        (0..=255).for_each(|choices| drop(super::sample(choices)));
    }
}
