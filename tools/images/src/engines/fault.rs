//! The closed list of what `ext4-view` does otherwise, and how each is recognised by what lies on the disk.

use std::fmt;

use anyhow::Result;
use snapbrowse::fs::{DirEntry, FileType, Ino};
use snapbrowse::{Error, ErrorKind};

use super::Condition;
use super::raw::{self, Raw};

/// Why the two readers do not tell the same: faults and limits of `ext4-view`. The last three are counted only where e2fsck
/// finds damage, of which each makes what it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// It opens no file system with such a feature.
    UnsupportedFeature,
    /// It opens no file system whose directories do not keep the types of files.
    NoFileTypes,
    /// Fast commits change files, and no blocks that another reader could be shown.
    FastCommits,
    /// It refuses all of a file system for the checksum of one group.
    GroupChecksum,
    /// It does not look for another superblock.
    NoBackupSuperblock,
    /// It takes inodes of 128 bytes for cut short where metadata has checksums.
    SmallInodes,
    /// It refuses inodes with a time before 1970 or after 2038.
    DistantTimes,
    /// It takes bytes behind the fields of an inode (`i_extra_isize`) for its times.
    TimesPastFields,
    /// It does not tell the numbers of devices.
    DeviceNumbers,
    /// It shows unwritten extents as data, and what follows them from the wrong place.
    UnwrittenExtents,
    /// It fails where a hole takes the place of an indirect block.
    MissingIndirectBlock,
    /// It takes no extent tree deeper than five levels, as the kernel.
    DeepExtents,
    /// It lists no directory whose names are encrypted.
    EncryptedDirectory,
    /// It lists no directory in which an entry does not give the type of its file.
    EntryWithoutType,
    /// It finds no names by the legacy hash.
    LegacyHash,
    /// It hashes bytes as signed ones where the file system says unsigned.
    UnsignedHash,
    /// It takes no symbolic link with a component of more than 255 bytes.
    LongComponent,
    /// It cannot tell apart two entries of one name.
    TwoEntriesOfOneName,
    /// It takes the upper half of a size for one where only files have it.
    MeaninglessSize,
    /// Damaged: it stops where we name the damage and read what is left.
    StopsAtDamage,
    /// Damaged: it reads on without a word where we name the damage.
    SilentAboutDamage,
    /// Damaged: it does not find a name by a damaged index, where we look through all blocks.
    DamagedIndex,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnsupportedFeature => "features it does not take",
            Self::NoFileTypes => "no file types in directories",
            Self::FastCommits => "fast commits",
            Self::GroupChecksum => "a wrong checksum of a group",
            Self::NoBackupSuperblock => "no backup superblock used",
            Self::SmallInodes => "inodes of 128 bytes with checksums",
            Self::DistantTimes => "times before 1970 or after 2038",
            Self::TimesPastFields => "times read past i_extra_isize",
            Self::DeviceNumbers => "no device numbers",
            Self::UnwrittenExtents => "unwritten extents as data",
            Self::MissingIndirectBlock => "a hole over an indirect block",
            Self::DeepExtents => "extents deeper than five levels",
            Self::EncryptedDirectory => "encrypted directories",
            Self::EntryWithoutType => "directory entries without a type",
            Self::LegacyHash => "the legacy hash",
            Self::UnsignedHash => "unsigned hashes",
            Self::LongComponent => "link targets with long components",
            Self::TwoEntriesOfOneName => "two entries of one name",
            Self::MeaninglessSize => "sizes over 32 bits of what is no file",
            Self::StopsAtDamage => "damage: stops at what we name and read past",
            Self::SilentAboutDamage => "damage: silent about what we name",
            Self::DamagedIndex => "damage: names not found by a damaged index",
        })
    }
}

/// Features that `ext4-view` 1.0 takes: filetype, recover, extent, 64bit, flex_bg, csum_seed, encrypt.
const TAKEN: u32 = 0x2 | 0x4 | 0x40 | 0x80 | 0x200 | 0x2000 | 0x1_0000;
const FILETYPE: u32 = 0x2;
const ENCRYPT: u32 = 0x800;
const INDEX: u32 = 0x1000;
const NAME_MAX: usize = 255;

fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::BadChecksum)
}

/// What is known of the file system whose readers differ.
pub(super) struct Scene {
    pub(super) raw: Raw,
    pub(super) condition: Condition,
    /// Our reader goes by a backup.
    pub(super) backup: bool,
}

impl Scene {
    fn damaged(&self) -> bool {
        self.condition == Condition::Damaged
    }

    /// Why `ext4-view` does not open the file system.
    pub(super) async fn opening(&self, error: &Error) -> Result<Option<Fault>> {
        let incompat = self.raw.incompat();
        let unsupported = error.kind() == ErrorKind::Unsupported;
        Ok(if unsupported && incompat & !TAKEN != 0 {
            Some(Fault::UnsupportedFeature)
        } else if unsupported && incompat & FILETYPE == 0 {
            Some(Fault::NoFileTypes)
        } else if is_damage(error) && self.raw.superblock_is_damaged() && self.backup {
            Some(Fault::NoBackupSuperblock)
        } else if is_damage(error) && self.raw.descriptor_is_damaged().await? {
            Some(Fault::GroupChecksum)
        } else {
            None
        })
    }

    /// Why it does not find `name` in `dir`, or cannot read its inode `ino`.
    pub(super) async fn attributes(
        &self,
        dir: Ino,
        path: &[u8],
        (ino, file_type): (Ino, FileType),
        error: &Error,
    ) -> Result<Option<Fault>> {
        if self.backup && is_damage(error) {
            return Ok(Some(Fault::NoBackupSuperblock));
        }
        if self.raw.has_checksums() && self.raw.inode_size() == 128 && is_damage(error) {
            return Ok(Some(Fault::SmallInodes));
        }
        let is_device = matches!(file_type, FileType::BlockDevice | FileType::CharDevice);
        if error.kind() == ErrorKind::Unsupported && is_device {
            return Ok(Some(Fault::DeviceNumbers));
        }
        let inode = self.raw.inode(ino).await?;
        if error.kind() == ErrorKind::Corrupt && error.message().contains("invalid timestamp") {
            if inode.has_distant_time() {
                return Ok(Some(Fault::DistantTimes));
            }
            if inode.lacks_time_fields() {
                return Ok(Some(Fault::TimesPastFields));
            }
        }
        let parent = self.raw.inode(dir).await?;
        if !parent.has_flag(INDEX) {
            return Ok(None);
        }
        let blocks = self.raw.directory(&parent).await;
        let hash = blocks.first().and_then(|root| raw::index_hash(root));
        if error.kind() == ErrorKind::Unsupported && !matches!(hash, Some(1 | 2)) {
            return Ok(Some(Fault::LegacyHash));
        }
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if error.kind() == ErrorKind::NotFound && self.raw.hashes_unsigned() && !name.is_ascii() {
            return Ok(Some(Fault::UnsignedHash));
        }
        let index = error.kind() == ErrorKind::NotFound || is_damage(error);
        Ok((index && self.damaged()).then_some(Fault::DamagedIndex))
    }

    /// Why it lists a directory not at all, where we list all but `ours`.
    pub(super) async fn listing(
        &self,
        dir: Ino,
        ours: Option<&Error>,
        error: &Error,
    ) -> Result<Option<Fault>> {
        if self.backup && is_damage(error) {
            return Ok(Some(Fault::NoBackupSuperblock));
        }
        if self.raw.has_checksums() && self.raw.inode_size() == 128 && is_damage(error) {
            return Ok(Some(Fault::SmallInodes));
        }
        let inode = self.raw.inode(dir).await?;
        if error.kind() == ErrorKind::Encrypted && inode.has_flag(ENCRYPT) {
            return Ok(Some(Fault::EncryptedDirectory));
        }
        if !is_damage(error) {
            return Ok(None);
        }
        let types = self.raw.directory(&inode).await;
        if types
            .iter()
            .flat_map(|block| raw::entry_types(block))
            .any(|kind| !(1..=7).contains(&kind))
        {
            return Ok(Some(Fault::EntryWithoutType));
        }
        Ok((ours.is_some() && self.damaged()).then_some(Fault::StopsAtDamage))
    }

    /// Why it does not read the target of a symbolic link.
    pub(super) async fn target(
        &self,
        ino: Ino,
        target: &[u8],
        error: &Error,
    ) -> Result<Option<Fault>> {
        let long = target.split(|byte| *byte == b'/').any(|part| part.len() > NAME_MAX);
        if is_damage(error) && long {
            return Ok(Some(Fault::LongComponent));
        }
        self.size(ino).await
    }

    /// Why it takes something for longer than it is.
    pub(super) async fn size(&self, ino: Ino) -> Result<Option<Fault>> {
        Ok(self.raw.inode(ino).await?.has_meaningless_size().then_some(Fault::MeaninglessSize))
    }

    /// Why it does not read contents.
    pub(super) async fn unread(&self, ino: Ino, error: &Error) -> Result<Option<Fault>> {
        let inode = self.raw.inode(ino).await?;
        if !is_damage(error) {
            return Ok(None);
        }
        Ok(if !inode.has_extents() {
            self.raw.lacks_indirect_block(&inode).await.then_some(Fault::MissingIndirectBlock)
        } else if raw::has_unwritten(&self.raw.extents(&inode).await) {
            Some(Fault::UnwrittenExtents)
        } else {
            (inode.extent_depth() > 5).then_some(Fault::DeepExtents)
        })
    }

    /// Why it reads something else at `offset`.
    pub(super) async fn contents(
        &self,
        ino: Ino,
        offset: u64,
        ours: &[u8],
        theirs: &[u8],
    ) -> Result<Option<Fault>> {
        let inode = self.raw.inode(ino).await?;
        let extents = match inode.has_extents() {
            true => self.raw.extents(&inode).await,
            false => Vec::new(),
        };
        if !raw::has_unwritten(&extents) {
            return Ok(None);
        }
        let size = self.raw.block_size as usize;
        for (index, (ours, theirs)) in ours.chunks(size).zip(theirs.chunks(size)).enumerate() {
            let block = offset / self.raw.block_size + index as u64;
            let place = raw::place(&extents, block);
            let shown = raw::place_by_marked_lengths(&extents, block);
            // The fault is theirs only where what we read is right.
            if ours != theirs
                && !(self.holds(place, ours).await? && self.holds(shown, theirs).await?)
            {
                return Ok(None);
            }
        }
        Ok(Some(Fault::UnwrittenExtents))
    }

    /// Whether a block, or a hole, begins with these bytes.
    async fn holds(&self, place: Option<u64>, bytes: &[u8]) -> Result<bool> {
        Ok(match place {
            Some(place) => self.raw.block(place).await?.starts_with(bytes),
            None => bytes.iter().all(|byte| *byte == 0),
        })
    }

    /// Why one of the times is not ours.
    pub(super) async fn time(&self, ino: Ino) -> Result<Option<Fault>> {
        Ok(self.raw.inode(ino).await?.lacks_time_fields().then_some(Fault::TimesPastFields))
    }

    /// Whether we may fail where it does too: at damage, or for want of a key.
    pub(super) fn may_fail(&self, error: &Error) -> bool {
        self.damaged() || error.kind() == ErrorKind::Encrypted
    }

    /// Why it reads what we do not.
    pub(super) fn ours(&self, error: &Error) -> Option<Fault> {
        (self.damaged() && is_damage(error)).then_some(Fault::SilentAboutDamage)
    }
}

/// Whether an entry has the name of the one before it; they are sorted by name.
pub(super) fn is_second(entries: &[DirEntry], index: usize) -> bool {
    index.checked_sub(1).is_some_and(|before| entries[before].name == entries[index].name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use snapbrowse::block::ImageFile;

    use super::*;

    /// A block of 1s, an unwritten one over old 2s, which `ext4-view` shows, and one of 3s.
    #[tokio::test]
    async fn unwritten_extents_are_no_excuse_for_us() {
        let mut image = vec![0; 32 << 10];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        // Inodes per group and their size; the table in block 5, where inode 1 has extents: blocks 10, 11 and 12.
        put(1024 + 0x28, &[16]);
        put(1024 + 0x58, &[128]);
        put(2048 + 8, &[5]);
        put(5 * 1024 + 0x22, &[8]);
        put(5 * 1024 + 0x28, &[0x0A, 0xF3, 3, 0, 4]);
        for (index, unwritten) in [(0, 0), (1, 0x80), (2, 0)] {
            let at = 5 * 1024 + 0x28 + 12 + 12 * usize::from(index);
            put(at, &[index, 0, 0, 0, 1, unwritten, 0, 0, 10 + index]);
            put((10 + usize::from(index)) * 1024, &[index + 1; 1024]);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), image).unwrap();
        let source = Arc::new(ImageFile::open(file.path()).unwrap());
        let raw = Raw::open(source).await.unwrap();
        let scene = Scene { raw, condition: Condition::Clean, backup: false };

        let blocks = |of: [u8; 3]| of.map(|byte| [byte; 1024]).concat();
        let theirs = blocks([1, 2, 3]);
        for (ours, fault) in
            [([1, 0, 3], Some(Fault::UnwrittenExtents)), ([9, 0, 3], None), ([1, 9, 3], None)]
        {
            let found = scene.contents(Ino(1), 0, &blocks(ours), &theirs).await.unwrap();
            assert_eq!(found, fault, "{ours:?}");
        }
    }
}
