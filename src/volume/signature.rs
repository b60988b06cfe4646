//! What a volume holds, told by the magic numbers that file systems and volume managers leave.

use super::Content;
use crate::block::{self, BlockSource};
use crate::error::Result;

/// The start of a volume that one read brings: all usual signatures, and for an ext volume of some hundred GiB
/// the superblock and all group descriptors, which are needed next anyway.
pub(super) const HEAD: u64 = 68 << 10;

/// Bytes that stand at a fixed place.
struct Magic {
    content: Content,
    offset: u64,
    bytes: &'static [u8],
}

const fn magic(name: &'static str, offset: u64, bytes: &'static [u8]) -> Magic {
    Magic { content: Content::Other(name), offset, bytes }
}

/// The label stands in one of the first four sectors.
const fn lvm2_label(sector: u64) -> Magic {
    Magic { content: Content::PhysicalVolume, offset: sector * 512 + 24, bytes: b"LVM2 001" }
}

/// Signatures within [`HEAD`], what contains others before what is contained: a LUKS volume may still hold the
/// remains of a file system.
const NEAR: &[Magic] = &[
    magic("LUKS encrypted volume", 0, b"LUKS\xba\xbe"),
    magic("BitLocker encrypted volume", 3, b"-FVE-FS-"),
    lvm2_label(0),
    lvm2_label(1),
    lvm2_label(2),
    lvm2_label(3),
    magic("Linux software RAID member", 0, b"\xfc\x4e\x2b\xa9"),
    magic("Linux software RAID member", 4096, b"\xfc\x4e\x2b\xa9"),
    magic(
        "bcache device",
        4096 + 24,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
    ),
    magic(
        "bcachefs",
        4096 + 24,
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
    ),
    magic("VDO volume", 0, b"dmvdo001"),
    magic("Oracle ASM disk", 32, b"ORCLDISK"),
    magic("Ceph BlueStore", 0, b"bluestore block device"),
    magic("XFS", 0, b"XFSB"),
    magic("Btrfs", 0x1_0040, b"_BHRfS_M"),
    // The pool's label begins with an XDR name-value list whose first name is "version".
    magic("ZFS pool member", (16 << 10) + 20, b"\0\0\0\x07version"),
    magic("NTFS", 3, b"NTFS    "),
    magic("exFAT", 3, b"EXFAT   "),
    magic("ReFS", 3, b"ReFS\0\0\0\0"),
    magic("FAT", 54, b"FAT12   "),
    magic("FAT", 54, b"FAT16   "),
    magic("FAT", 54, b"FAT     "),
    magic("FAT", 82, b"FAT32   "),
    magic("F2FS", 1024, b"\x10\x20\xf5\xf2"),
    magic("EROFS", 1024, b"\xe2\xe1\xf5\xe0"),
    magic("HFS+", 1024, b"H+\0\x04"),
    magic("HFS+", 1024, b"HX\0\x05"),
    magic("APFS", 32, b"NXSB"),
    magic("JFS", 32 << 10, b"JFS1"),
    magic("ReiserFS", (64 << 10) + 52, b"ReIsEr"),
    magic("GFS2", 64 << 10, b"\x01\x16\x19\x70"),
    magic("OCFS2", 8192, b"OCFSV2"),
    magic("squashfs", 0, b"hsqs"),
    magic("ISO 9660", (32 << 10) + 1, b"CD001"),
    // The last bytes of the first page, whatever the page size of the machine that made it.
    magic("swap", (4 << 10) - 10, b"SWAPSPACE2"),
    magic("swap", (4 << 10) - 10, b"SWAP-SPACE"),
    magic("swap", (16 << 10) - 10, b"SWAPSPACE2"),
    magic("swap", (64 << 10) - 10, b"SWAPSPACE2"),
    magic("GPT partition table", 512, b"EFI PART"),
    magic("GPT partition table", 4096, b"EFI PART"),
];

/// A file system of VMware's begins 1 MiB into its partition (`LVM` header of VMFS-3 to 6).
const VMFS: Magic = magic("VMFS", 1 << 20, b"\x0d\xd0\x01\xc0");

/// Software RAID of the older formats keeps its superblock at the end.
const MD_AT_END: &[u8] = b"\xfc\x4e\x2b\xa9";

/// Recognises what `volume` holds.
///
/// # Errors
/// Those of reading.
pub(super) async fn probe(volume: &dyn BlockSource) -> Result<Content> {
    let len = volume.len();
    let head = block::read(volume, 0, len.min(HEAD) as usize).await?.into_bytes();
    let content = near(&head);
    if content != Content::Unknown {
        return Ok(content);
    }
    if stands(volume, VMFS.offset, VMFS.bytes).await? {
        return Ok(VMFS.content);
    }
    // Format 1.0: 8 KiB before the end, down to a multiple of 4 KiB; 0.90: the last whole 64 KiB.
    let places =
        [len.checked_sub(8 << 10).map(|at| at & !0xfff), (len & !0xffff).checked_sub(64 << 10)];
    for place in places.into_iter().flatten() {
        if stands(volume, place, MD_AT_END).await? {
            return Ok(Content::Other("Linux software RAID member"));
        }
    }
    Ok(Content::Unknown)
}

/// Recognises what begins with `head`.
pub(super) fn near(head: &[u8]) -> Content {
    // LUKS, LVM and the like first: an old superblock may have survived beneath them.
    if let Some(found) = NEAR.iter().find(|magic| is_at(head, magic)) {
        // FAT leaves its mark where boot code of other file systems may have it too; ext lies behind the boot block.
        if !(found.offset < 1024 && found.content == Content::Other("FAT") && is_ext(head)) {
            return found.content;
        }
    }
    if is_ext(head) {
        return if is_external_journal(head) {
            Content::Other("external ext journal")
        } else {
            Content::Ext
        };
    }
    Content::Unknown
}

fn is_at(head: &[u8], magic: &Magic) -> bool {
    let Ok(start) = usize::try_from(magic.offset) else { return false };
    head.get(start..).is_some_and(|rest| rest.starts_with(magic.bytes))
}

async fn stands(volume: &dyn BlockSource, offset: u64, bytes: &[u8]) -> Result<bool> {
    let whole = bytes.len() as u64;
    if offset.checked_add(whole).is_none_or(|end| end > volume.len()) {
        return Ok(false);
    }
    Ok(block::read(volume, offset, bytes.len()).await?.into_bytes() == bytes)
}

/// Fields of the ext superblock, at 1024: `s_magic` is but two bytes, so its neighbours must make sense too.
fn is_ext(head: &[u8]) -> bool {
    let field = |at: usize, len: usize| -> Option<u32> {
        let bytes = head.get(1024 + at..1024 + at + len)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    };
    let s_inodes_count = field(0, 4);
    let s_log_block_size = field(24, 4);
    let s_magic = field(56, 2);
    let s_rev_level = field(76, 4);
    s_magic == Some(0xef53)
        && s_inodes_count.is_some_and(|count| count > 0)
        && s_log_block_size.is_some_and(|log| log <= 6)
        && s_rev_level.is_some_and(|level| level <= 1)
}

/// `s_feature_incompat & JOURNAL_DEV`.
fn is_external_journal(head: &[u8]) -> bool {
    head.get(1024 + 96).is_some_and(|byte| byte & 0x08 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{ReadFuture, Segments, check_range};

    /// Zeros with a few bytes in them.
    struct Sparse {
        len: u64,
        marks: Vec<(u64, Vec<u8>)>,
    }

    impl BlockSource for Sparse {
        fn len(&self) -> u64 {
            self.len
        }

        fn block_size(&self) -> u32 {
            512
        }

        fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
            Box::pin(async move {
                check_range(self.len, offset, len)?;
                let mut bytes = vec![0; len];
                for (at, mark) in &self.marks {
                    for (i, byte) in mark.iter().enumerate() {
                        let place = (at + i as u64).checked_sub(offset);
                        if let Some(place) = place.filter(|place| *place < len as u64) {
                            bytes[place as usize] = *byte;
                        }
                    }
                }
                Ok(Segments::from(bytes))
            })
        }
    }

    async fn content(len: u64, marks: &[(u64, &[u8])]) -> Content {
        let marks = marks.iter().map(|(at, bytes)| (*at, bytes.to_vec())).collect();
        probe(&Sparse { len, marks }).await.unwrap()
    }

    fn ext(incompat: u8) -> Vec<(u64, &'static [u8])> {
        let incompat: &'static [u8] = if incompat == 8 { &[8] } else { &[0x42] };
        vec![
            (1024, &[0, 1, 0, 0]),
            (1024 + 24, &[2]),
            (1024 + 56, &[0x53, 0xef]),
            (1024 + 76, &[1]),
            (1024 + 96, incompat),
        ]
    }

    #[tokio::test]
    async fn every_signature_is_recognised() {
        for magic in NEAR.iter().chain([&VMFS]) {
            let found = content(4 << 20, &[(magic.offset, magic.bytes)]).await;
            assert_eq!(found, magic.content, "at {}", magic.offset);
        }
    }

    #[tokio::test]
    async fn ext_is_told_by_more_than_its_magic() {
        assert_eq!(content(4 << 20, &ext(0)).await, Content::Ext);
        assert_eq!(content(4 << 20, &ext(8)).await, Content::Other("external ext journal"));
        assert_eq!(content(4 << 20, &[(1024 + 56, &[0x53, 0xef])]).await, Content::Unknown);
    }

    #[tokio::test]
    async fn what_contains_goes_before_what_it_contains() {
        let mut marks = ext(0);
        marks.push((0, b"LUKS\xba\xbe"));
        assert_eq!(content(4 << 20, &marks).await, Content::Other("LUKS encrypted volume"));
    }

    #[tokio::test]
    async fn a_boot_block_that_looks_like_fat_does_not_hide_ext() {
        let mut marks = ext(0);
        marks.push((82, b"FAT32   "));
        assert_eq!(content(4 << 20, &marks).await, Content::Ext);
    }

    #[tokio::test]
    async fn raid_superblocks_at_the_end_are_found() {
        let len = (10 << 20) + 5 * 512;
        let raid = Content::Other("Linux software RAID member");
        assert_eq!(content(len, &[((10 << 20) - (64 << 10), MD_AT_END)]).await, raid);
        assert_eq!(content(len, &[((10 << 20) - (8 << 10), MD_AT_END)]).await, raid);
    }

    #[tokio::test]
    async fn short_volumes_are_unknown_and_no_error() {
        for len in [0, 1, 511, 512, 1024 + 57, 4096, 8192] {
            assert_eq!(content(len, &[]).await, Content::Unknown, "{len} bytes");
        }
    }
}
