//! What all parts of the reader share: the blocks, the superblock, and the caches of what was parsed and verified.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::cache::ByteLru;
use super::dir::{Damage, DirBlock};
use super::inodes::File;
use super::layout::group::Group;
use super::layout::map::{Child, MapNode};
use super::layout::superblock::Superblock;
use super::layout::{FileBlock, FsBlock, corrupt};
use super::replay::Replayed;
use super::walk_ahead::WalkAhead;
use super::zones::Zones;
use crate::block::{self, BlockSource, Segments};
use crate::error::Result;
use crate::fs::Ino;

/// Bytes for each of the caches; together they stay below 16 MiB.
const FILES_BYTES: usize = 5 << 20;
const MAPS_BYTES: usize = 4 << 20;
const DIRS_BYTES: usize = 4 << 20;
const NAMES_BYTES: usize = 2 << 20;
const GROUPS_BYTES: usize = 512 << 10;
const DIR_ENDS_BYTES: usize = 64 << 10;
const ZONES_BYTES: usize = 256 << 10;

/// Whether checksums are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verify {
    /// Each structure is verified when it is parsed.
    Always,
    /// Before recovery a checksum may be wrong and no sign of damage: the newer copy lies in the log.
    BeforeRecovery,
}

/// The file system's blocks with their meaning.
pub(super) struct Disk {
    pub(super) source: Arc<dyn BlockSource>,
    pub(super) sb: Superblock,
    pub(super) verify: Verify,
    /// What fast commits changed, which stands before all else.
    pub(super) replayed: Replayed,
    pub(super) groups: ByteLru<u32, Group>,
    /// The journal's blocks, as far as they are known.
    pub(super) log: Zones,
    /// The blocks of metadata, by the first group of those that were looked at together.
    pub(super) zones: ByteLru<u32, Arc<Zones>>,
    pub(super) files: ByteLru<Ino, Arc<File>>,
    pub(super) maps: ByteLru<(Ino, Child), Arc<MapNode>>,
    pub(super) dirs: ByteLru<(Ino, FileBlock), Arc<DirBlock>>,
    pub(super) names: ByteLru<(Ino, Vec<u8>), Option<Ino>>,
    /// Where directories end whose maps were looked through.
    pub(super) dir_ends: ByteLru<Ino, u64>,
    /// Directories with blocks that could not be listed.
    pub(super) damaged_dirs: Mutex<HashMap<Ino, Damage>>,
    pub(super) walk_ahead: WalkAhead,
    /// How many blocks of directories were looked at for want of an index.
    pub(super) searched: AtomicU64,
}

impl Disk {
    pub(super) fn new(source: Arc<dyn BlockSource>, sb: Superblock, verify: Verify) -> Self {
        Self {
            source,
            sb,
            verify,
            replayed: Replayed::default(),
            groups: ByteLru::new(GROUPS_BYTES),
            log: Zones::default(),
            zones: ByteLru::new(ZONES_BYTES),
            files: ByteLru::new(FILES_BYTES),
            maps: ByteLru::new(MAPS_BYTES),
            dirs: ByteLru::new(DIRS_BYTES),
            names: ByteLru::new(NAMES_BYTES),
            dir_ends: ByteLru::new(DIR_ENDS_BYTES),
            damaged_dirs: Mutex::default(),
            walk_ahead: WalkAhead::default(),
            searched: AtomicU64::new(0),
        }
    }

    pub(super) fn verifies(&self) -> bool {
        self.verify == Verify::Always
    }

    pub(super) fn block_size(&self) -> u64 {
        u64::from(self.sb.block_size)
    }

    /// How many blocks there are: those that the superblock counts, as far as the device reaches.
    pub(super) fn blocks(&self) -> u64 {
        self.sb.blocks_count.min(self.source.len() / self.block_size())
    }

    /// Reads bytes that the file system says exist, so that a device too short is damage.
    pub(super) async fn read(&self, offset: u64, len: usize) -> Result<Segments> {
        self.check_present(offset, len)?;
        block::read(&*self.source, offset, len).await
    }

    /// [`Disk::read`] where it needs no waiting.
    pub(super) fn try_read(&self, offset: u64, len: usize) -> Option<Result<Segments>> {
        if let Err(error) = self.check_present(offset, len) {
            return Some(Err(error));
        }
        self.source.try_read_at(offset, len)
    }

    fn check_present(&self, offset: u64, len: usize) -> Result<()> {
        block::check_range(self.source.len(), offset, len).map_err(|_| {
            corrupt(format!(
                "block {} lies past the end of the device, which has {} bytes",
                offset / self.block_size(),
                self.source.len()
            ))
            .with_hint("the image or LUN was cut short")
        })
    }

    /// Reads one block of metadata.
    pub(super) async fn read_block(&self, block: FsBlock) -> Result<Bytes> {
        let len = self.sb.block_size as usize;
        Ok(self.read(self.sb.byte_of(block), len).await?.into_bytes())
    }

    /// Hints at bytes to come, as far as the device has them.
    pub(super) fn prefetch(&self, ranges: &mut Vec<Range<u64>>) {
        let end = self.source.len();
        ranges.retain(|range| range.start < range.end && range.end <= end);
        if !ranges.is_empty() {
            self.source.prefetch(ranges);
        }
    }
}

/// Puts ranges into order, and makes one of those that touch.
pub(super) fn join(ranges: &mut Vec<Range<u64>>) {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, range| {
        let joined = next.start <= range.end;
        if joined {
            range.end = range.end.max(next.end);
        }
        joined
    });
}
