//! Directories: listing, and looking names up one after the other.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::dir_end::MAX_DAMAGED;
use super::disk::Disk;
use super::inodes::File;
use super::layout::dirent::{self, BlockKind, Dirent};
use super::layout::inode::Flags;
use super::layout::{FileBlock, FsBlock, corrupt};
use super::naming::Naming;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{DirEntry, FileType, Ino};

/// The longest name in bytes.
pub(super) const NAME_MAX: usize = 255;
/// How far a listing runs ahead of its reader.
const AHEAD_BYTES: u64 = 1 << 20;

/// The most directories of which damage is remembered.
const MOST_NOTED: usize = 10_000;

/// A directory block, its checksum verified.
pub(super) struct DirBlock {
    pub(super) bytes: Box<[u8]>,
}

/// What listings of a directory passed over.
pub(super) struct Damage {
    first: Error,
    /// How many holes and blocks ...
    places: u64,
    /// ... in front of this block.
    reached: u64,
}

impl Disk {
    /// The inode of a directory.
    pub(super) async fn directory(&self, ino: Ino) -> Result<Arc<File>> {
        let dir = self.file(ino).await?;
        if dir.inode.attr.file_type != FileType::Directory {
            return Err(Error::new(ErrorKind::NotDir, format!("{ino} is not a directory")));
        }
        Ok(dir)
    }

    /// How many blocks a directory has. More than the file system has is damage: directories have no holes.
    pub(super) fn dir_blocks(&self, dir: &File) -> Result<u64> {
        if dir.inode.flags.contains(Flags::INLINE_DATA) {
            return Ok(1);
        }
        let blocks = dir.inode.attr.size.div_ceil(self.block_size());
        if blocks > self.blocks() {
            return Err(corrupt(format!(
                "{}: a directory of {blocks} blocks, the file system has {}",
                dir.ino,
                self.blocks()
            )));
        }
        Ok(blocks)
    }

    /// A block of a directory; `Err` with the number of missing blocks for a hole.
    pub(super) async fn dir_block(
        &self,
        dir: &File,
        at: FileBlock,
    ) -> Result<Result<Arc<DirBlock>, u64>> {
        let key = (dir.ino, at);
        if let Some(block) = self.dirs.get(&key) {
            return Ok(Ok(block));
        }
        if let Some(data) = dir.inline_data(&self.sb)? {
            let bytes = dirent::inline_block(dir.ino, &data)
                .map_err(|error| error.context(dir.ino))?
                .into_boxed_slice();
            return Ok(Ok(self.keep_dir_block(key, bytes)));
        }
        let run = self.run(dir, at).await?;
        let skipped = at.0 - run.first.0;
        let Some(place) = run.place else {
            return Ok(Err(run.len - skipped));
        };
        let place = FsBlock(place.0 + skipped);
        let bytes = self.read_block(place).await?;
        if let Some(seed) = dir.inode.checksum_seed.filter(|_| self.verifies()) {
            let indexed = dir.inode.flags.contains(Flags::INDEX);
            let kind: BlockKind = dirent::kind(&bytes, indexed, at.0 == 0);
            dirent::verify(&bytes, kind, seed)
                .map_err(|error| error.context(place).context(dir.ino))?;
        }
        // A copy of its own: a slice would keep the whole chunk that it was cut from.
        Ok(Ok(self.keep_dir_block(key, Box::from(&*bytes))))
    }

    fn keep_dir_block(&self, key: (Ino, FileBlock), bytes: Box<[u8]>) -> Arc<DirBlock> {
        let block = Arc::new(DirBlock { bytes });
        self.dirs.insert(key, Arc::clone(&block), block.bytes.len());
        block
    }

    /// The entries after `cookie`, which is the position of the next entry in the directory, as in ext2.
    ///
    /// Damage does not hide what can still be read: a damaged block is passed over, and its error is the last answer
    /// of the listing, where the end would be. A hole is damage too: the names in it are lost.
    pub(super) async fn readdir(&self, ino: Ino, cookie: u64) -> Result<Vec<DirEntry>> {
        let dir = self.directory(ino).await?;
        let naming = self.naming(&dir).await?;
        let changes = self.replayed.dir(ino);
        let blocks = match changes.is_some_and(|changes| changes.fresh) {
            true => 0,
            false => self.dir_end(&dir).await?,
        };
        let size = self.block_size();
        let mut at = cookie / size;
        let mut from = (cookie % size) as usize;
        let mut batch = Vec::new();
        while at < blocks && batch.is_empty() {
            self.prefetch_dir(&dir, at, blocks);
            let position = at * size;
            match self.dir_block(&dir, FileBlock(at)).await {
                Ok(Ok(block)) => {
                    let entries = dirent::entries(&self.sb, &block.bytes, from);
                    for entry in entries {
                        let replaced = |name| changes.is_some_and(|changes| changes.knows(name));
                        if entry.as_ref().is_ok_and(|entry| replaced(entry.name)) {
                            continue;
                        }
                        match entry.and_then(|entry| dir_entry(&naming, &entry, position)) {
                            Ok(entry) => batch.push(entry),
                            Err(error) => {
                                let error = error.context(format!("{ino}: {}", FileBlock(at)));
                                if let Err(end) = self.pass_over(ino, at, error) {
                                    // The next call meets it again.
                                    return if batch.is_empty() { Err(end) } else { Ok(batch) };
                                }
                            }
                        }
                    }
                    at += 1;
                }
                Ok(Err(hole)) => {
                    self.pass_over(ino, at, missing(&dir, at))?;
                    at = at.saturating_add(hole);
                }
                Err(error) if is_damage(&error) => {
                    self.pass_over(ino, at, error)?;
                    at += 1;
                }
                Err(error) => return Err(error),
            }
            from = 0;
        }
        if let (Some(changes), true) = (changes, batch.is_empty()) {
            batch = changes.entries(cookie, blocks * size);
        }
        if batch.is_empty() {
            if let Some(damage) = self.noted_damage(ino) {
                return Err(damage);
            }
        }
        Ok(batch)
    }

    /// Remembers what a listing passes over, for its end.
    pub(super) fn note_damage(&self, dir: Ino, error: Error) -> Result<()> {
        let mut damaged = self.lock_damaged();
        if damaged.contains_key(&dir) {
            return Ok(());
        }
        if damaged.len() >= MOST_NOTED {
            return Err(error);
        }
        tracing::warn!("{error}: left out of the directory");
        damaged.insert(dir, Damage { first: error, places: 0, reached: 0 });
        Ok(())
    }

    /// Remembers that a listing passes over the block `at`; an error where it has passed over so many that it ends there.
    fn pass_over(&self, dir: Ino, at: u64, error: Error) -> Result<()> {
        self.note_damage(dir, error.clone())?;
        let mut damaged = self.lock_damaged();
        let Some(damage) = damaged.get_mut(&dir) else { return Ok(()) };
        if damage.places > MAX_DAMAGED {
            return if at < damage.reached { Ok(()) } else { Err(error) };
        }
        // The same again in another listing, or in another entry of the block, is not more damage.
        if at >= damage.reached {
            damage.places += 1;
            damage.reached = at + 1;
        }
        Ok(())
    }

    /// What was passed over first.
    fn noted_damage(&self, dir: Ino) -> Option<Error> {
        self.lock_damaged().get(&dir).map(|damage| damage.first.clone())
    }

    fn lock_damaged(&self) -> MutexGuard<'_, HashMap<Ino, Damage>> {
        self.damaged_dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prefetch_dir(&self, dir: &File, at: u64, blocks: u64) {
        let window = (AHEAD_BYTES / self.block_size()).max(2);
        // Half a window ahead at least, and one hint for half a window at a time.
        if at % (window / 2) == 0 && at + 1 < blocks {
            self.prefetch_blocks(dir, at..blocks.min(at + window));
        }
    }

    /// The inode that `name` stands for in `dir`.
    pub(super) async fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        if name.len() > NAME_MAX {
            return Err(Error::new(
                ErrorKind::NameTooLong,
                format!("a name of {} bytes, at most {NAME_MAX}", name.len()),
            ));
        }
        let key = (dir, name.to_vec());
        let found = match self.names.get(&key) {
            Some(found) => found,
            None => {
                let file = self.directory(dir).await?;
                let found = self.search(&file, name).await?;
                let weight = size_of_val(&key) + name.len();
                self.names.insert(key, found, weight);
                found
            }
        };
        found.ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            Error::new(ErrorKind::NotFound, format!("no entry {name:?} in the directory {dir}"))
        })
    }

    /// The inode that a name stands for; past the cache of names.
    pub(super) async fn search(&self, dir: &File, name: &[u8]) -> Result<Option<Ino>> {
        if name == b"." {
            return Ok(Some(dir.ino));
        }
        if let Some(known) = self.replayed.dir(dir.ino).and_then(|changes| changes.get(name)) {
            return Ok(known.map(|named| named.ino));
        }
        let naming = self.naming(dir).await?;
        // The parent's entry is not in the index, but always in the first block. The index of encrypted names goes by what
        // they were before.
        let indexed = dir.inode.flags.contains(Flags::INDEX)
            && name != b".."
            && !matches!(naming, Naming::Encrypted(_));
        let found = match indexed {
            true => match self.search_index(dir, &naming, name).await {
                Err(error) if is_damage(&error) => {
                    tracing::warn!("{error}: the directory is searched without its index");
                    self.search_all(dir, &naming, name).await?
                }
                // Another version of Unicode may have folded it to something else (kernel: `ext4_lookup` falls back, too).
                Ok(None) if matches!(naming, Naming::Folded) => {
                    self.search_all(dir, &naming, name).await?
                }
                found => found?,
            },
            false => self.search_all(dir, &naming, name).await?,
        };
        match found {
            Some(ino) if !self.sb.is_ordinary_ino(ino) || (ino == dir.ino && name != b"..") => {
                let name = String::from_utf8_lossy(name);
                Err(corrupt(format!("{}: the entry {name:?} stands for {ino}", dir.ino)))
            }
            found => Ok(found),
        }
    }

    /// Looks at every block. A damaged one hinders only where the name is in none of the others.
    async fn search_all(&self, dir: &File, naming: &Naming, name: &[u8]) -> Result<Option<Ino>> {
        let blocks = self.dir_end(dir).await?;
        let mut damage = None;
        let (mut damaged, mut at) = (0, 0);
        while at < blocks && damaged <= MAX_DAMAGED {
            self.prefetch_dir(dir, at, blocks);
            self.searched.fetch_add(1, Ordering::Relaxed);
            let found = match self.dir_block(dir, FileBlock(at)).await {
                Ok(Ok(block)) => self.search_block(dir, FileBlock(at), &block, naming, name),
                Ok(Err(hole)) => {
                    damage = damage.or_else(|| Some(missing(dir, at)));
                    damaged += 1;
                    at = at.saturating_add(hole);
                    continue;
                }
                Err(error) => Err(error),
            };
            match found {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) if is_damage(&error) => {
                    damage = damage.or(Some(error));
                    damaged += 1;
                }
                Err(error) => return Err(error),
            }
            at += 1;
        }
        // The name may stand behind the place where the directory was cut.
        if damage.is_none() && blocks < self.dir_blocks(dir)? {
            damage = self.noted_damage(dir.ino);
        }
        damage.map_or(Ok(None), Err)
    }

    pub(super) fn search_block(
        &self,
        dir: &File,
        at: FileBlock,
        block: &DirBlock,
        naming: &Naming,
        name: &[u8],
    ) -> Result<Option<Ino>> {
        for entry in dirent::entries(&self.sb, &block.bytes, 0) {
            let entry = entry.map_err(|error| error.context(at).context(dir.ino))?;
            if naming.matches(&entry, name) {
                return Ok(Some(entry.ino));
            }
        }
        Ok(None)
    }
}

/// Directories have no holes (kernel: "Directory hole found").
pub(super) fn missing(dir: &File, at: u64) -> Error {
    corrupt(format!("{}: {} is missing", dir.ino, FileBlock(at)))
}

fn dir_entry(naming: &Naming, entry: &Dirent<'_>, position: u64) -> Result<DirEntry> {
    Ok(DirEntry {
        ino: entry.ino,
        name: naming.shown(entry)?,
        file_type: entry.file_type,
        cookie: position + entry.next as u64,
    })
}

/// Whether the fault lies in what was read, and not in reading.
pub(super) fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::BadChecksum | ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::ext::disk::Verify;
    use crate::fs::ext::{ROOT, superblocks};
    use crate::fuzz::{Device, wait};

    #[test]
    fn what_stands_before_damage_is_listed_where_no_more_damage_is_noted() {
        let packed = include_bytes!("../../../testdata/fuzz-images/ext4");
        let device = Arc::new(Device::unpack(packed));
        wait(async {
            let sb = superblocks::find(&*device, None).await.unwrap().sb;
            let disk = Disk::new(device, sb, Verify::Always);
            let root = disk.directory(ROOT).await.unwrap();
            let block = disk.dir_block(&root, FileBlock(0)).await.unwrap().unwrap();
            let mut bytes = block.bytes.clone();
            let entries = || dirent::entries(&disk.sb, &block.bytes, 0);
            let sound: Vec<_> = entries().take(2).map(|entry| entry.unwrap().name).collect();
            let next = entries().nth(1).unwrap().unwrap().next;
            bytes[next + 4..][..2].copy_from_slice(&[3, 0]);
            disk.keep_dir_block((ROOT, FileBlock(0)), bytes);
            let note = |ino| disk.note_damage(Ino(ino), corrupt("as the test wants it"));
            (100..).take(MOST_NOTED).for_each(|ino| note(ino).unwrap());
            note(100).unwrap();
            note(99).unwrap_err();

            let listed = disk.readdir(ROOT, 0).await.unwrap();
            assert_eq!(listed.iter().map(|entry| &*entry.name).collect::<Vec<_>>(), sound);
            let end = disk.readdir(ROOT, listed[1].cookie).await.unwrap_err();
            assert_eq!(end.kind(), ErrorKind::Corrupt);
        });
    }
}
