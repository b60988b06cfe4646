//! Plays fast commits back in memory (kernel: `ext4_fc_replay` in `fs/ext4/fast_commit.c`).
//!
//! The changes are told in terms of inodes, names and ranges, and stay so: nothing of the kernel's work on bitmaps, trees and
//! directory blocks is needed to read what they come to. What is not as the kernel leaves it:
//! - directories keep their times, sizes and blocks: the kernel gives them the time of the replay, and enters the names once
//!   more;
//! - the blocks that a file takes up are those that its writer counted: the kernel counts anew, and without attribute blocks;
//! - where a record tells of a file without links (one in use when its last name went), or of a new directory in the place of
//!   one just removed, the kernel does not mount. Here both come out as they were meant;
//! - a new file in the place of a removed one has none of its attributes and blocks: the kernel leaves them there;
//! - a file that has outgrown its inode has its contents: the kernel leaves it without blocks.

mod runs;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::disk::Disk;
use super::inodes::File;
use super::layout::FsBlock;
use super::layout::corrupt;
use super::layout::fast_commit::{Change, Dentry};
use super::layout::inode::{Flags, Inode};
use super::layout::raw_inode::RawInode;
use super::layout::superblock::Superblock;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{DirEntry, FileType, Ino};
use runs::{FILE_BLOCKS, Runs};

/// The most runs that all changed maps may have together: 16 MiB.
const MAX_RUNS: usize = 1 << 18;
/// The most bytes of inodes that may be changed.
const MAX_INODE_BYTES: usize = 32 << 20;

/// The most blocks of directories without an index that may be looked at for names: 4 GiB of 4 KiB each. A crafted log has
/// room for a hundred thousand names, which would each be looked for in a directory of any length.
const MAX_SEARCHED: u64 = 1 << 20;

/// More warnings are not told one by one.
const MAX_WARNINGS: usize = 1000;

/// What fast commits changed: it stands before what lies on the disk.
#[derive(Default)]
pub(super) struct Replayed {
    files: HashMap<Ino, Result<Arc<File>>>,
    dirs: HashMap<Ino, DirChanges>,
    /// What there is less of now than the disk's own counts say.
    freed: Usage,
}

/// What files take up.
#[derive(Clone, Copy, Default)]
struct Usage {
    inodes: i64,
    /// In units of 512 bytes.
    blocks: i64,
}

impl Usage {
    fn of(sb: &Superblock, ino: Ino, raw: &RawInode) -> Self {
        match Inode::parse(sb, ino, raw.bytes(), false) {
            Ok(inode) => {
                Self { inodes: 1, blocks: inode.i_blocks().try_into().unwrap_or(i64::MAX) }
            }
            Err(_) => Self::default(),
        }
    }

    /// Adds the difference between what was and what is.
    fn add_change(&mut self, before: Self, after: Self) {
        let add =
            |sum: i64, before: i64, after: i64| sum.saturating_add(before).saturating_sub(after);
        self.inodes = add(self.inodes, before.inodes, after.inodes);
        self.blocks = add(self.blocks, before.blocks, after.blocks);
    }
}

impl Replayed {
    /// How many units of 512 bytes and how many inodes are free that are not by the disk's own counts, or fewer.
    pub(super) fn freed(&self) -> (i64, i64) {
        (self.freed.blocks, self.freed.inodes)
    }

    /// The inode after replay; `None` where it is as on the disk.
    pub(super) fn file(&self, ino: Ino) -> Option<Result<Arc<File>>> {
        self.files.get(&ino).cloned()
    }

    /// What has changed in a directory, if anything.
    pub(super) fn dir(&self, ino: Ino) -> Option<&DirChanges> {
        self.dirs.get(&ino)
    }

    /// Whether anything has changed.
    pub(super) fn changes_anything(&self) -> bool {
        !self.files.is_empty()
    }
}

/// What has changed in a directory.
#[derive(Debug, Default)]
pub(super) struct DirChanges {
    /// It is new: what its blocks hold does not count.
    pub(super) fresh: bool,
    /// What the names stand for that were changed; `None`: nothing any more.
    names: BTreeMap<Vec<u8>, Option<Named>>,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) ino: Ino,
    file_type: FileType,
}

impl DirChanges {
    /// Whether what the disk says of this name does not count.
    pub(super) fn knows(&self, name: &[u8]) -> bool {
        self.names.contains_key(name)
    }

    /// What a name stands for, `Some(None)` for nothing; `None` where the disk knows.
    pub(super) fn get(&self, name: &[u8]) -> Option<Option<Named>> {
        match self.names.get(name) {
            None if self.fresh => Some(None),
            known => known.copied(),
        }
    }

    /// The next entries after `cookie`, those of the disk ending at `first`.
    pub(super) fn entries(&self, cookie: u64, first: u64) -> Vec<DirEntry> {
        const MOST: usize = 1000;
        let entry = |(index, (name, named)): (u64, (&Vec<u8>, &Option<Named>))| {
            named.map(|Named { ino, file_type }| DirEntry {
                ino,
                name: name.clone(),
                file_type: Some(file_type),
                cookie: first + index + 1,
            })
        };
        let skipped = usize::try_from(cookie.saturating_sub(first)).unwrap_or(usize::MAX);
        (0..).zip(&self.names).skip(skipped).filter_map(entry).take(MOST).collect()
    }
}

/// Plays the changes back over `disk`, which knows nothing of them yet; gives what a person should know as well.
///
/// # Errors
/// What reading gives; [`ErrorKind::Unsupported`] with the name of what cannot be played back exactly,
/// [`ErrorKind::Corrupt`] for changes that contradict themselves or the file system.
pub(super) async fn replay(disk: &Disk, changes: Vec<Change>) -> Result<(Replayed, Vec<String>)> {
    let mut replay =
        Replay { disk, nodes: HashMap::new(), dirs: HashMap::new(), runs: 0, warnings: Vec::new() };
    for change in changes {
        replay.change(change).await?;
    }
    let Replay { nodes, mut dirs, warnings, .. } = replay;
    let mut files = HashMap::with_capacity(nodes.len());
    let mut freed = Usage::default();
    for (ino, node) in nodes {
        let file = node.file(disk, ino);
        freed.add_change(node.before, Usage::of(&disk.sb, ino, &node.raw));
        if node.raw.file_type() != Some(FileType::Directory) {
            dirs.remove(&ino);
        }
        files.insert(ino, file.map(Arc::new));
    }
    Ok((Replayed { files, dirs, freed }, warnings))
}

/// Changes so far.
struct Replay<'a> {
    disk: &'a Disk,
    nodes: HashMap<Ino, Node>,
    dirs: HashMap<Ino, DirChanges>,
    /// Runs in the maps of all nodes.
    runs: usize,
    warnings: Vec<String>,
}

/// An inode that a change was about.
struct Node {
    raw: RawInode,
    /// What it took up on the disk.
    before: Usage,
    /// The map, where it is no longer the one in the inode.
    map: Option<Runs>,
    /// Whether a record told its fields, and not only the disk.
    told: bool,
}

impl Node {
    /// Leaves nothing of it; gives the number of runs that its map had.
    fn delete(&mut self) -> usize {
        self.raw.delete();
        self.map.take().map_or(0, |map| map.len())
    }

    fn file(&self, disk: &Disk, ino: Ino) -> Result<File> {
        let inode = Inode::parse(&disk.sb, ino, self.raw.bytes(), false)?;
        Ok(match &self.map {
            None => File::new(inode),
            Some(map) => File::with_map(inode, map.to_map()),
        })
    }
}

impl Replay<'_> {
    async fn change(&mut self, change: Change) -> Result<()> {
        match change {
            Change::Inode { ino, raw } => self.inode(number(ino), &raw).await,
            Change::AddRange { ino, first, len, place } => {
                self.range(number(ino), first, len, place).await
            }
            Change::DelRange { ino, first, len } => self.range(number(ino), first, len, None).await,
            Change::Create(dentry) => self.create(dentry).await,
            Change::Link(dentry) => self.link(dentry).await,
            Change::Unlink(dentry) => self.unlink(dentry).await,
        }
    }

    /// `ext4_fc_replay_inode`. The map stays what it was, and so do the attributes, which are not in the record.
    async fn inode(&mut self, ino: Ino, told: &[u8]) -> Result<()> {
        // With checksums nobody can change the generation of a file (kernel: `EXT4_IOC_SETVERSION`).
        let fixed = self.disk.sb.checksum_seed.is_some();
        let node = self.node(ino).await?;
        // A file that had lost its name and was in use is freed without a record, and tables may not be initialised.
        if !node.raw.is_same_file(told) && (fixed || !node.raw.in_use()) {
            let runs = node.delete();
            self.runs -= runs;
        }
        let node = self.node(ino).await?;
        if !node.raw.replace_fields(told) {
            return Err(bad(ino, format!("a record of {} bytes", told.len())));
        }
        node.told = true;
        if !node.raw.in_use() {
            return Ok(());
        }
        // Of others the record does not restore all: a link's target, a device's number. No kernel writes one.
        if !matches!(node.raw.file_type(), Some(FileType::Regular | FileType::Directory)) {
            return Err(unsupported(ino, "a record of neither a file nor a directory"));
        }
        let flags = node.raw.flags();
        if flags.contains(Flags::INLINE_DATA) {
            node.raw.replace_i_block(told);
            node.map = None;
        } else if !flags.contains(Flags::EXTENTS) {
            if node.map.is_some() {
                return Err(unsupported(ino, "blocks of a file without extents"));
            }
        } else if node.map.is_none() && !node.raw.has_extents() {
            node.map = Some(Runs::default());
        }
        Ok(())
    }

    /// `ext4_fc_replay_add_range` and `ext4_fc_replay_del_range`: the file blocks lie at `place` and after, or nowhere.
    async fn range(
        &mut self,
        ino: Ino,
        first: u32,
        len: u32,
        place: Option<FsBlock>,
    ) -> Result<()> {
        let disk = self.disk;
        let range = u64::from(first)..u64::from(first) + u64::from(len);
        let exists = place.is_none_or(|place| disk.sb.has_blocks(place, u64::from(len)));
        if range.end > FILE_BLOCKS || !exists {
            return Err(bad(ino, format!("{len} blocks from {first} on at {place:?}")));
        }
        let runs_left = MAX_RUNS.saturating_sub(self.runs);
        let node = self.node(ino).await?;
        if !node.raw.in_use() {
            return Ok(());
        }
        // Contents that have outgrown their inode: what says so, the record of the inode, stands behind those of its blocks.
        let inline = node.raw.flags().contains(Flags::INLINE_DATA);
        if !inline && !node.raw.flags().contains(Flags::EXTENTS) {
            return Err(unsupported(ino, "blocks of a file without extents"));
        }
        let before = node.map.as_ref().map_or(0, Runs::len);
        let mut map = match node.map.take() {
            Some(map) => map,
            None if inline => Runs::default(),
            None => Runs::of_file(disk, &node.file(disk, ino)?, runs_left).await?,
        };
        map.set(range, place);
        let after = map.len();
        node.map = Some(map);
        self.runs = (self.runs - before).saturating_add(after);
        Ok(())
    }

    /// `ext4_fc_replay_create`. Like there, a new directory has one link, and its parent none more.
    async fn create(&mut self, dentry: Dentry) -> Result<()> {
        let (ino, parent) = (number(dentry.ino), number(dentry.parent));
        let node = self.node(ino).await?;
        if !node.raw.in_use() {
            self.note_lost(&dentry);
            return Ok(());
        }
        if node.raw.file_type() == Some(FileType::Directory) {
            node.map = Some(Runs::default());
            let named = |ino| Some(Named { ino, file_type: FileType::Directory });
            let names = [(b".".to_vec(), named(ino)), (b"..".to_vec(), named(parent))];
            self.dirs.insert(ino, DirChanges { fresh: true, names: names.into() });
        }
        self.add(&dentry).await?;
        self.node(ino).await?.raw.set_links(1);
        Ok(())
    }

    /// `ext4_fc_replay_link`.
    async fn link(&mut self, dentry: Dentry) -> Result<()> {
        let ino = number(dentry.ino);
        if !self.node(ino).await?.raw.in_use() {
            self.note_lost(&dentry);
            return Ok(());
        }
        if self.add(&dentry).await? {
            let raw = &mut self.node(ino).await?.raw;
            raw.set_links(raw.links().saturating_add(1));
        }
        Ok(())
    }

    /// `ext4_fc_replay_unlink`: a name that stands for another inode stays, and counts as gone.
    async fn unlink(&mut self, dentry: Dentry) -> Result<()> {
        let (ino, parent) = (number(dentry.ino), number(dentry.parent));
        if !self.node(ino).await?.raw.in_use() || !self.node(parent).await?.raw.in_use() {
            return Ok(());
        }
        match self.find(parent, &dentry.name).await? {
            None => return Ok(()),
            Some(found) if found == ino => {
                self.dirs.entry(parent).or_default().names.insert(dentry.name.into_vec(), None);
            }
            Some(_) => {}
        }
        let node = self.node(ino).await?;
        // Directories have one name, whatever their links count (kernel: `ext4_rmdir`, where `ext4_fc_replay_unlink` takes
        // one link away). That they are renamed is in no fast commit.
        let is_directory = node.raw.file_type() == Some(FileType::Directory);
        match node.raw.links() - 1 {
            links if links > 0 && !is_directory => node.raw.set_links(links),
            _ => {
                let runs = node.delete();
                self.runs -= runs;
            }
        }
        Ok(())
    }

    /// Enters a name, unless it is there; says whether it was not.
    async fn add(&mut self, dentry: &Dentry) -> Result<bool> {
        let (ino, parent) = (number(dentry.ino), number(dentry.parent));
        if !self.node(parent).await?.raw.in_use()
            || self.find(parent, &dentry.name).await?.is_some()
        {
            return Ok(false);
        }
        let node = self.node(ino).await?;
        let file_type = node.raw.file_type().ok_or_else(|| bad(ino, "no file type"))?;
        let names = &mut self.dirs.entry(parent).or_default().names;
        names.insert(dentry.name.to_vec(), Some(Named { ino, file_type }));
        Ok(true)
    }

    /// What a name stands for at this point of the replay.
    async fn find(&mut self, dir: Ino, name: &[u8]) -> Result<Option<Ino>> {
        if matches!(name, b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
            return Err(bad(dir, format!("the name {:?}", String::from_utf8_lossy(name))));
        }
        let disk = self.disk;
        let file = self.node(dir).await?.file(disk, dir)?;
        if file.inode.attr.file_type != FileType::Directory {
            return Err(bad(dir, "a name in what is not a directory"));
        }
        // Which of the names on the disk is meant is not sure there.
        if file.inode.flags.intersects(Flags::CASEFOLD | Flags::ENCRYPT) {
            return Err(unsupported(
                dir,
                "a name in a directory that ignores case or is encrypted",
            ));
        }
        if let Some(known) = self.dirs.get(&dir).and_then(|changes| changes.get(name)) {
            return Ok(known.map(|named| named.ino));
        }
        if disk.searched.load(Ordering::Relaxed) > MAX_SEARCHED {
            return Err(unsupported(dir, "so many names in directories without an index"));
        }
        disk.search(&file, name).await
    }

    /// The inode as it is at this point of the replay.
    async fn node(&mut self, ino: Ino) -> Result<&mut Node> {
        if !self.nodes.contains_key(&ino) {
            if !self.disk.sb.is_ordinary_ino(ino) {
                return Err(bad(ino, "not an ordinary file"));
            }
            let size = usize::from(self.disk.sb.inode_size);
            if self.nodes.len() >= MAX_INODE_BYTES / size {
                return Err(unsupported(ino, "more changed inodes than memory is allowed for"));
            }
            let bytes = self.disk.raw_inode(ino).await?;
            let raw = RawInode::new(&bytes).expect("inodes have at least 128 bytes");
            // A checksum that is wrong does not hinder the kernel.
            match Inode::parse(&self.disk.sb, ino, raw.bytes(), true) {
                Err(error) if error.kind() == ErrorKind::BadChecksum => {
                    self.warn(format!("{error}: a fast commit goes on from it all the same"));
                }
                _ => {}
            }
            let before = Usage::of(&self.disk.sb, ino, &raw);
            self.nodes.insert(ino, Node { raw, before, map: None, told: false });
        }
        Ok(self.nodes.get_mut(&ino).expect("it is there by now"))
    }

    /// A name for an inode that nothing was told of: the kernel leaves it out.
    fn note_lost(&mut self, dentry: &Dentry) {
        let ino = number(dentry.ino);
        if self.nodes.get(&ino).is_some_and(|node| node.told) {
            return;
        }
        self.warn(format!(
            "journal: fast commit: the name {:?} in the directory {} is left out: {ino} is not in use",
            String::from_utf8_lossy(&dentry.name),
            number(dentry.parent)
        ));
    }

    fn warn(&mut self, text: String) {
        match self.warnings.len() {
            0..MAX_WARNINGS => self.warnings.push(text),
            MAX_WARNINGS => self.warnings.push("journal: fast commit: and more like that".into()),
            _ => {}
        }
    }
}

fn number(ino: u32) -> Ino {
    Ino(u64::from(ino))
}

fn bad(ino: Ino, what: impl Into<String>) -> Error {
    corrupt(what).context(ino).context("journal: fast commit")
}

fn unsupported(ino: Ino, what: &str) -> Error {
    let message = format!("{what} is not supported");
    Error::new(ErrorKind::Unsupported, message).context(ino).context("journal: fast commit")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::ext::disk::Verify;
    use crate::fs::ext::superblocks;
    use crate::fuzz::{Device, wait};

    #[test]
    fn names_are_not_looked_for_without_end() {
        let packed = include_bytes!("../../../../testdata/fuzz-images/ext4");
        let device = Arc::new(Device::unpack(packed));
        wait(async {
            let sb = superblocks::find(&*device, None).await.unwrap().sb;
            let disk = Disk::new(device, sb, Verify::Always);
            let link = || {
                // The root directory stands for itself under another name: only that it is looked for matters.
                let dentry = Dentry { parent: 2, ino: 2, name: (*b"another").into() };
                vec![Change::Link(dentry)]
            };
            replay(&disk, link()).await.unwrap();
            let each = disk.searched.load(Ordering::Relaxed);
            assert!(each > 0);
            disk.searched.store(MAX_SEARCHED + 1, Ordering::Relaxed);
            let error = replay(&disk, link()).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        });
    }
}
