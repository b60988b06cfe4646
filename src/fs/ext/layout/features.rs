//! The three feature sets of the superblock, with the names that e2fsprogs gives them.

use crate::error::{Error, ErrorKind, Result};

bitflags::bitflags! {
    /// Features that may be ignored (`s_feature_compat`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Compat: u32 {
        /// A journal exists.
        const HAS_JOURNAL = 0x4;
        /// Directories may have a hash index.
        const DIR_INDEX = 0x20;
        /// At most two backup superblocks, named in `s_backup_bgs`.
        const SPARSE_SUPER2 = 0x200;
        /// The journal may end in a fast-commit area.
        const FAST_COMMIT = 0x400;
        /// A file of orphaned inodes exists.
        const ORPHAN_FILE = 0x1000;
        const _ = !0;
    }
}

bitflags::bitflags! {
    /// Features that must be understood for reading (`s_feature_incompat`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Incompat: u32 {
        /// Compressed files; never part of the kernel.
        const COMPRESSION = 0x1;
        /// Directory entries hold the file type.
        const FILETYPE = 0x2;
        /// The journal has not been played back.
        const RECOVER = 0x4;
        /// This is an external journal and no file system.
        const JOURNAL_DEV = 0x8;
        /// Group descriptors stand in their meta groups.
        const META_BG = 0x10;
        /// Files may be mapped by extents.
        const EXTENTS = 0x40;
        /// More than 2^32 blocks.
        const BIT64 = 0x80;
        /// Protection against mounting twice.
        const MMP = 0x100;
        /// Bitmaps and inode tables of several groups lie together.
        const FLEX_BG = 0x200;
        /// Large attribute values in inodes of their own.
        const EA_INODE = 0x400;
        /// Data in directory entries; never part of the kernel.
        const DIRDATA = 0x1000;
        /// The checksum seed stands in the superblock.
        const CSUM_SEED = 0x2000;
        /// Directories over 2 GiB or with three index levels.
        const LARGEDIR = 0x4000;
        /// Small files within their inodes.
        const INLINE_DATA = 0x8000;
        /// Encrypted files and names.
        const ENCRYPT = 0x10000;
        /// Directories that ignore case.
        const CASEFOLD = 0x20000;
        const _ = !0;
    }
}

bitflags::bitflags! {
    /// Features that must be understood for writing (`s_feature_ro_compat`). A reader may pass over all others, known or
    /// not: `quota` and `project` (accounting), `verity` (contents are read without their Merkle tree), `shared_blocks`
    /// (blocks with several owners, never written), `read-only`, `orphan_present` (what is orphaned has no name), `replica`
    /// and `snapshot` (never part of the kernel).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RoCompat: u32 {
        /// Backup superblocks in groups 0, 1 and the powers of 3, 5 and 7.
        const SPARSE_SUPER = 0x1;
        /// A file over 2 GiB exists.
        const LARGE_FILE = 0x2;
        /// Never used.
        const BTREE_DIR = 0x4;
        /// Block counts of inodes have 48 bits.
        const HUGE_FILE = 0x8;
        /// Group descriptors have a CRC-16.
        const GDT_CSUM = 0x10;
        /// Directories with more than 65,000 subdirectories.
        const DIR_NLINK = 0x20;
        /// Inodes have room for more fields.
        const EXTRA_ISIZE = 0x40;
        /// Space is allocated in clusters.
        const BIGALLOC = 0x200;
        /// Metadata has CRC-32C checksums.
        const METADATA_CSUM = 0x400;
        const _ = !0;
    }
}

const COMPAT_NAMES: [(u32, &str); 12] = [
    (0x1, "dir_prealloc"),
    (0x2, "imagic_inodes"),
    (0x4, "has_journal"),
    (0x8, "ext_attr"),
    (0x10, "resize_inode"),
    (0x20, "dir_index"),
    (0x40, "lazy_bg"),
    (0x100, "exclude_bitmap"),
    (0x200, "sparse_super2"),
    (0x400, "fast_commit"),
    (0x800, "stable_inodes"),
    (0x1000, "orphan_file"),
];

const INCOMPAT_NAMES: [(u32, &str); 16] = [
    (0x1, "compression"),
    (0x2, "filetype"),
    (0x4, "needs_recovery"),
    (0x8, "journal_dev"),
    (0x10, "meta_bg"),
    (0x40, "extent"),
    (0x80, "64bit"),
    (0x100, "mmp"),
    (0x200, "flex_bg"),
    (0x400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x2000, "metadata_csum_seed"),
    (0x4000, "large_dir"),
    (0x8000, "inline_data"),
    (0x10000, "encrypt"),
    (0x20000, "casefold"),
];

const RO_COMPAT_NAMES: [(u32, &str); 17] = [
    (0x1, "sparse_super"),
    (0x2, "large_file"),
    (0x4, "btree_dir"),
    (0x8, "huge_file"),
    (0x10, "uninit_bg"),
    (0x20, "dir_nlink"),
    (0x40, "extra_isize"),
    (0x80, "snapshot"),
    (0x100, "quota"),
    (0x200, "bigalloc"),
    (0x400, "metadata_csum"),
    (0x800, "replica"),
    (0x1000, "read-only"),
    (0x2000, "project"),
    (0x4000, "shared_blocks"),
    (0x8000, "verity"),
    (0x10000, "orphan_present"),
];

fn names(bits: u32, known: &[(u32, &str)], set: char) -> impl Iterator<Item = String> {
    (0..32).map(|bit| (bit, 1_u32 << bit)).filter(move |(_, mask)| bits & mask != 0).map(
        move |(bit, mask)| match known.iter().find(|(flag, _)| *flag == mask) {
            Some((_, name)) => (*name).to_owned(),
            None => format!("FEATURE_{set}{bit}"),
        },
    )
}

/// All features in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Those that may be ignored.
    pub compat: Compat,
    /// Those that a reader must understand.
    pub incompat: Incompat,
    /// Those that a writer must understand. A reader may pass over any of them: that is what the set is for.
    pub ro_compat: RoCompat,
}

impl Features {
    /// The names of all features, in the order of `dumpe2fs`.
    pub fn names(self) -> Vec<String> {
        names(self.compat.bits(), &COMPAT_NAMES, 'C')
            .chain(names(self.incompat.bits(), &INCOMPAT_NAMES, 'I'))
            .chain(names(self.ro_compat.bits(), &RO_COMPAT_NAMES, 'R'))
            .collect()
    }

    /// The names of features that not even e2fsprogs has a name for, and that do not hinder reading.
    pub fn unknown_but_harmless(self) -> Vec<String> {
        self.names().into_iter().filter(|name| name.starts_with("FEATURE_")).collect()
    }

    /// Refuses what this reader does not understand.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] with the names.
    pub fn check_readable(self) -> Result<()> {
        if self.incompat.contains(Incompat::JOURNAL_DEV) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "this is an external journal (feature journal_dev), not a file system",
            ));
        }
        let readable = Incompat::FILETYPE
            | Incompat::RECOVER
            | Incompat::META_BG
            | Incompat::EXTENTS
            | Incompat::BIT64
            | Incompat::MMP
            | Incompat::FLEX_BG
            | Incompat::CSUM_SEED
            | Incompat::EA_INODE
            | Incompat::LARGEDIR
            | Incompat::INLINE_DATA
            | Incompat::ENCRYPT
            | Incompat::CASEFOLD;
        let foreign: Vec<String> =
            names(self.incompat.bits() & !readable.bits(), &INCOMPAT_NAMES, 'I').collect();
        match foreign.as_slice() {
            [] => Ok(()),
            [one] => {
                Err(Error::new(ErrorKind::Unsupported, format!("feature {one} is not supported")))
            }
            several => Err(Error::new(
                ErrorKind::Unsupported,
                format!("features {} are not supported", several.join(", ")),
            )),
        }
    }

    /// `ext2`, `ext3` or `ext4`, as blkid tells them apart.
    pub fn kind(self) -> &'static str {
        let incompat3 = Incompat::FILETYPE | Incompat::RECOVER | Incompat::META_BG;
        let ro_compat3 = RoCompat::SPARSE_SUPER | RoCompat::LARGE_FILE | RoCompat::BTREE_DIR;
        if !incompat3.contains(self.incompat) || !ro_compat3.contains(self.ro_compat) {
            "ext4"
        } else if self.compat.contains(Compat::HAS_JOURNAL) {
            "ext3"
        } else {
            "ext2"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(incompat: u32) -> Features {
        Features {
            compat: Compat::HAS_JOURNAL,
            incompat: Incompat::from_bits_retain(incompat),
            ro_compat: RoCompat::empty(),
        }
    }

    #[test]
    fn foreign_features_are_refused_by_name() {
        let error = features(0x2 | 0x1).check_readable().unwrap_err();
        assert_eq!(error.to_string(), "feature compression is not supported");
        let error = features(0x2 | 0x1000 | 0x8000_0000).check_readable().unwrap_err();
        assert_eq!(error.to_string(), "features dirdata, FEATURE_I31 are not supported");
        assert!(features(0x2 | 0x40).check_readable().is_ok());
    }

    #[test]
    fn kinds_follow_blkid() {
        assert_eq!(features(0x6).kind(), "ext3");
        assert_eq!(features(0x42).kind(), "ext4");
        assert_eq!(Features { compat: Compat::empty(), ..features(0x2) }.kind(), "ext2");
    }
}
