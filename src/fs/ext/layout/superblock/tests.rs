use super::super::sample::{superblock, superblock_bytes};
use super::*;

fn refusal(at: usize, value: u32) -> (ErrorKind, String) {
    let mut bytes = superblock_bytes();
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let error = Superblock::parse(&bytes).unwrap_err();
    (error.kind(), error.to_string())
}

#[test]
fn a_wrong_number_is_named() {
    for (at, value, says) in [
        (0x00, 1025, "1025 inodes in 2 groups of 512"),
        (0x04, 0, "0 blocks"),
        (0x14, 2, "the first data block being 2"),
        (0x18, 7, "block size 2^7 KiB"),
        (0x20, 0, "0 blocks per group"),
        (0x20, 240, "240 blocks per group"),
        (0x20, 8193, "8193 blocks per group"),
        (0x28, 0, "0 inodes per group"),
        (0x28, 8193, "8193 inodes per group"),
        (0x54, 1, "first inode 1"),
        (0x58, 127, "inode size 127"),
        (0x58, 192, "inode size 192"),
        (0x58, 2048, "inode size 2048"),
    ] {
        let (kind, message) = refusal(at, value);
        assert_eq!(kind, ErrorKind::Corrupt, "{message}");
        assert!(message.contains(says), "{message}");
    }
}

/// With one group no run crosses groups: genext2fs makes file systems as small as that.
#[test]
fn only_several_groups_have_a_least_size() {
    let with_blocks = |count: u32| {
        let mut bytes = superblock_bytes();
        let inodes = 512 * (count - 1).div_ceil(128);
        for (at, value) in [(0x00, inodes), (0x04, count), (0x20, 128), (0x24, 128)] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        Superblock::parse(&bytes)
    };
    // The first data block is block 1.
    assert_eq!(with_blocks(1 + 128).unwrap().groups_count, 1);
    let error = with_blocks(1 + 128 + 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("128 blocks per group"), "{error}");
}

#[test]
fn what_is_foreign_is_refused_by_name() {
    assert_eq!(refusal(0x38, 0).0, ErrorKind::NoFilesystem);
    let (kind, message) = refusal(0x4C, 2);
    assert_eq!((kind, message.contains("revision 2")), (ErrorKind::Unsupported, true));
    let (kind, message) = refusal(0x60, 0x43);
    assert_eq!((kind, message.contains("compression")), (ErrorKind::Unsupported, true));
}

#[test]
fn backups_stand_in_the_first_group_and_in_powers() {
    let sb = superblock();
    let with: Vec<u32> = (0..100).filter(|group| sb.group_has_super(*group)).collect();
    assert_eq!(with, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81]);
}
