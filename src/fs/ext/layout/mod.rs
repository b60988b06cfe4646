//! On-disk structures of ext2/3/4: pure functions from bytes to validated values, one file per structure.
//!
//! Each file has the raw layout with the kernel's field names (`fs/ext4/ext4.h`, `ext4_extents.h`, `xattr.h`), and
//! a type that holds only what has been checked. Nothing here does I/O or allocates by an unchecked number.

pub mod acl;
pub mod checksum;
pub mod dirent;
pub mod extent;
pub mod fast_commit;
pub mod features;
pub mod group;
pub mod hash;
pub mod htree;
pub mod indirect;
pub mod inode;
pub mod jbd2;
pub mod map;
pub mod mmp;
pub mod raw_inode;
#[cfg(any(test, fuzzing))]
pub(super) mod sample;
pub mod superblock;
pub mod xattr;

use std::fmt;

use crate::error::{Error, ErrorKind};

/// A block of the file system, counted from its start in units of the file system's block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FsBlock(pub u64);

impl fmt::Display for FsBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}", self.0)
    }
}

/// A block of a file, counted from the file's start in units of the file system's block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileBlock(pub u64);

impl fmt::Display for FileBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file block {}", self.0)
    }
}

/// A structure that contradicts itself or its surroundings.
pub(super) fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

/// The little-endian 16-bit number at `at`, where `bytes` reaches that far.
pub(super) fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(field.try_into().expect("two bytes were taken")))
}

/// The little-endian 32-bit number at `at`, where `bytes` reaches that far.
pub(super) fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().expect("four bytes were taken")))
}
