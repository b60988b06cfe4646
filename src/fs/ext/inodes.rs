//! From an inode's number to the inode: group descriptor, inode table, cache.

use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::dir::is_damage;
use super::disk::{Disk, join};

use super::layout::group::Group;
use super::layout::inode::{Flags, Inode};
use super::layout::map::MapNode;
use super::layout::superblock::Superblock;
use super::layout::{FsBlock, corrupt};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Ino;

/// A file in use: its inode, and the root of its map from the time when it is first needed.
pub(super) struct File {
    pub(super) ino: Ino,
    pub(super) inode: Inode,
    map_root: OnceLock<Result<MapNode>>,
    /// Whether the root points at nothing that it must not point at; the other nodes are looked at as they are read.
    pub(super) root_is_checked: AtomicBool,
}

impl File {
    pub(super) fn new(inode: Inode) -> Self {
        Self {
            ino: inode.attr.ino,
            inode,
            map_root: OnceLock::new(),
            root_is_checked: AtomicBool::new(false),
        }
    }

    /// A file whose map is not the one in its inode.
    pub(super) fn with_map(inode: Inode, map: MapNode) -> Self {
        let file = Self::new(inode);
        file.map_root.set(Ok(map)).expect("it is new");
        file
    }

    /// The root of the block map. A damaged one hinders reading, but not `stat`.
    pub(super) fn map_root(&self, sb: &Superblock) -> Result<&MapNode> {
        self.map_root
            .get_or_init(|| self.inode.map_root(sb).map_err(|error| error.context(self.ino)))
            .as_ref()
            .map_err(Clone::clone)
    }

    /// The contents, where they lie in the inode itself.
    pub(super) fn inline_data(&self, sb: &Superblock) -> Result<Option<Vec<u8>>> {
        self.inode.inline_data(sb).map_err(|error| error.context(self.ino))
    }

    /// Refuses contents that need a key.
    pub(super) fn check_readable(&self) -> Result<()> {
        if self.inode.flags.contains(Flags::ENCRYPT) {
            return Err(Error::new(
                ErrorKind::Encrypted,
                format!("{}: its contents are encrypted, and there is no key", self.ino),
            ));
        }
        Ok(())
    }

    /// Roots are at most fifteen entries, counted whether parsed yet or not.
    fn weight(&self) -> usize {
        const ROOT: usize = 15 * 40;
        size_of::<Self>() + self.inode.weight() + ROOT
    }
}

impl Disk {
    /// The inode with this number.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] for one that is not in use or cannot be, [`crate::ErrorKind::BadChecksum`].
    pub(super) async fn file(&self, ino: Ino) -> Result<Arc<File>> {
        if let Some(file) = self.replayed.file(ino) {
            return file;
        }
        if let Some(file) = self.files.get(&ino) {
            return Ok(file);
        }
        let bytes = self.raw_inode(ino).await?;
        let file = Arc::new(File::new(Inode::parse(&self.sb, ino, &bytes, self.verifies())?));
        self.files.insert(ino, Arc::clone(&file), file.weight());
        Ok(file)
    }

    /// The bytes of the inode with this number, as they lie in its group's table.
    pub(super) async fn raw_inode(&self, ino: Ino) -> Result<Bytes> {
        let (group, index) = self.place_of(ino)?;
        let table = self.group(group).await?;
        let range = self.inode_bytes(table, index);
        Ok(self.read(range.start, usize::from(self.sb.inode_size)).await?.into_bytes())
    }

    /// The group of an inode, and its place in the group's table.
    fn place_of(&self, ino: Ino) -> Result<(u32, u32)> {
        u32::try_from(ino.0)
            .ok()
            .filter(|ino| *ino <= self.sb.inodes_count)
            .and_then(|ino| ino.checked_sub(1))
            .map(|index| (index / self.sb.inodes_per_group, index % self.sb.inodes_per_group))
            .ok_or_else(|| corrupt(format!("{ino} does not exist, of {}", self.sb.inodes_count)))
    }

    fn inode_bytes(&self, group: Group, index: u32) -> Range<u64> {
        let size = u64::from(self.sb.inode_size);
        let start = self.sb.byte_of(group.inode_table) + u64::from(index) * size;
        start..start + size
    }

    /// A group's descriptor, from a backup where it is damaged: an inode table never moves.
    pub(super) async fn group(&self, number: u32) -> Result<Group> {
        if let Some(group) = self.groups.get(&number) {
            return Ok(group);
        }
        let mut damage = None;
        for block in self.sb.desc_block_copies(number / self.sb.descs_per_block()) {
            match self.read_group(number, block, self.verifies()).await {
                Ok(group) => {
                    if let Some(damage) = damage {
                        tracing::warn!("{damage}: the copy in {block} was used instead");
                    }
                    self.groups.insert(number, group, size_of::<Group>());
                    return Ok(group);
                }
                Err(error) if is_damage(&error) => damage = damage.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        let damage = damage.expect("a descriptor has at least one place");
        if damage.kind() != ErrorKind::BadChecksum {
            return Err(damage);
        }
        // No copy matches, but the numbers can be right: the kernel's read-only mount and e2fsck go on with them as
        // well. Were the place wrong, there would be no inodes there.
        let block = self.sb.desc_block(number / self.sb.descs_per_block());
        let group = self.read_group(number, block, false).await?;
        tracing::warn!("{damage}: used all the same");
        self.groups.insert(number, group, size_of::<Group>());
        Ok(group)
    }

    /// [`Disk::group`] where it needs no waiting and the first copy is sound.
    fn cached_group(&self, number: u32) -> Option<Group> {
        if let Some(group) = self.groups.get(&number) {
            return Some(group);
        }
        let range = self.desc_bytes(number, self.sb.desc_block(number / self.sb.descs_per_block()));
        let bytes = self.try_read(range.start, usize::from(self.sb.desc_size))?.ok()?.into_bytes();
        let group = Group::parse(&self.sb, number, &bytes, self.verifies()).ok()?;
        self.groups.insert(number, group, size_of::<Group>());
        Some(group)
    }

    pub(super) async fn read_group(
        &self,
        number: u32,
        block: FsBlock,
        verify: bool,
    ) -> Result<Group> {
        let range = self.desc_bytes(number, block);
        let bytes = self.read(range.start, usize::from(self.sb.desc_size)).await?.into_bytes();
        Group::parse(&self.sb, number, &bytes, verify)
    }

    /// Where a group's descriptor stands in a block of descriptors.
    fn desc_bytes(&self, number: u32, block: FsBlock) -> Range<u64> {
        let size = u64::from(self.sb.desc_size);
        let index = number % self.sb.descs_per_block();
        let start = self.sb.byte_of(block).saturating_add(u64::from(index) * size);
        start..start.saturating_add(size)
    }

    /// Hints at the inodes' table blocks, in the order of the disk; where a group's descriptor is not at hand, at
    /// the descriptor.
    pub(super) fn prefetch_inodes(&self, inodes: &[Ino]) {
        let mut ranges = Vec::new();
        for ino in inodes {
            let Ok((group, index)) = self.place_of(*ino) else {
                continue;
            };
            ranges.push(match self.cached_group(group) {
                Some(table) => self.inode_bytes(table, index),
                None => {
                    let block = self.sb.desc_block(group / self.sb.descs_per_block());
                    self.desc_bytes(group, block)
                }
            });
        }
        join(&mut ranges);
        self.prefetch(&mut ranges);
    }
}
