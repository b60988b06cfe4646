//! Superblocks for the tests and fuzzers of parsers that need one.

use super::superblock::SIZE;
#[cfg(test)]
use super::superblock::Superblock;

/// The bytes of a small file system of blocks of 1 KiB.
pub(in super::super) fn superblock_bytes() -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    let mut put = |at: usize, value: u32| {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    };
    put(0x00, 1024);
    put(0x04, 8192 + 100);
    put(0x14, 1);
    put(0x20, 8192);
    put(0x24, 8192);
    put(0x28, 512);
    put(0x38, 0xEF53);
    put(0x4C, 1);
    put(0x54, 11);
    put(0x58, 256);
    put(0x60, 0x42);
    put(0x64, 0x1);
    bytes
}

/// The same, parsed.
#[cfg(test)]
pub(in super::super) fn superblock() -> Superblock {
    Superblock::parse(&superblock_bytes()).expect("its numbers agree")
}
