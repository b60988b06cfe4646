//! An inode's bytes, for changes to single fields (kernel: `struct ext4_inode`).

use std::ops::Range;

use super::extent;
use super::inode::Flags;
use super::{le16, le32};
use crate::fs::FileType;

const MODE_AT: usize = 0;
const SIZE_LO_AT: usize = 4;
const LINKS_COUNT_AT: usize = 26;
const FLAGS_AT: usize = 32;
const I_BLOCK: Range<usize> = 40..100;
const GENERATION_AT: usize = 100;
const SIZE_HIGH_AT: usize = 108;
/// The part that every inode has.
const GOOD_OLD_SIZE: usize = 128;

/// The bytes of an inode in its table: at least 128.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawInode(Box<[u8]>);

impl RawInode {
    /// The inode's bytes; `None` if they are too few.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= GOOD_OLD_SIZE).then(|| Self(bytes.into()))
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it has a link.
    pub fn in_use(&self) -> bool {
        self.links() > 0
    }

    /// How many links it has.
    pub fn links(&self) -> u16 {
        le16(&self.0, LINKS_COUNT_AT).unwrap_or(0)
    }

    /// Sets the number of links.
    pub fn set_links(&mut self, links: u16) {
        self.0[LINKS_COUNT_AT..LINKS_COUNT_AT + 2].copy_from_slice(&links.to_le_bytes());
    }

    /// Whether `told`, an inode's beginning, is of the same file: each new one is given a random number (`i_generation`).
    pub fn is_same_file(&self, told: &[u8]) -> bool {
        le32(&self.0, GENERATION_AT) == le32(told, GENERATION_AT)
    }

    /// What it is, if that is known.
    pub fn file_type(&self) -> Option<FileType> {
        FileType::from_mode(u32::from(le16(&self.0, MODE_AT)?))
    }

    /// Its flags.
    pub fn flags(&self) -> Flags {
        Flags::from_bits_retain(le32(&self.0, FLAGS_AT).unwrap_or(0))
    }

    /// Whether `i_block` holds the root of an extent tree.
    pub fn has_extents(&self) -> bool {
        extent::has_magic(&self.0[I_BLOCK])
    }

    /// Takes all that `told` says but `i_block`; `false` where that is not an inode's beginning.
    #[must_use]
    pub fn replace_fields(&mut self, told: &[u8]) -> bool {
        let fits = (GOOD_OLD_SIZE..=self.0.len()).contains(&told.len());
        if fits {
            self.0[..I_BLOCK.start].copy_from_slice(&told[..I_BLOCK.start]);
            self.0[I_BLOCK.end..told.len()].copy_from_slice(&told[I_BLOCK.end..]);
        }
        fits
    }

    /// Takes `i_block` of an inode's beginning, as [`RawInode::replace_fields`] took the rest.
    pub fn replace_i_block(&mut self, told: &[u8]) {
        self.0[I_BLOCK].copy_from_slice(&told[I_BLOCK]);
    }

    /// No links, no contents, no attributes: nothing of it is left for the next file in its place.
    pub fn delete(&mut self) {
        self.set_links(0);
        self.0[SIZE_LO_AT..SIZE_LO_AT + 4].fill(0);
        self.0[SIZE_HIGH_AT..SIZE_HIGH_AT + 4].fill(0);
        self.0[I_BLOCK].fill(0);
        self.0[GOOD_OLD_SIZE..].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_and_what_was_not_told_stay() {
        let mut raw = RawInode::new(&[1; 256]).unwrap();
        assert!(raw.replace_fields(&[2; 160]));
        let kept = |at: usize| (40..100).contains(&at) || at >= 160;
        assert!(raw.bytes().iter().enumerate().all(|(at, byte)| (*byte == 1) == kept(at)));
        for wrong in [127, 257] {
            assert!(!raw.replace_fields(&vec![3; wrong]));
        }
    }

    #[test]
    fn what_is_deleted_has_nothing_left() {
        let mut raw = RawInode::new(&[1; 256]).unwrap();
        raw.delete();
        assert!(!raw.in_use() && !raw.has_extents());
        assert_eq!(raw.bytes()[4..8], [0; 4]);
        assert_eq!(raw.bytes()[108..112], [0; 4]);
        assert_eq!(raw.bytes()[128..], [0; 128]);
    }

    #[test]
    fn files_are_told_apart_by_their_generation() {
        let raw = RawInode::new(&[1; 256]).unwrap();
        let mut told = [2; 160];
        assert!(!raw.is_same_file(&told));
        told[100..104].fill(1);
        assert!(raw.is_same_file(&told));
    }
}
