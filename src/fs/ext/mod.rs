//! The ext2, ext3 and ext4 reader: pure parsers of bytes in [`layout`], the asynchronous traversal over them here.

pub mod journal;
pub mod layout;

mod cache;
mod contents;
mod dir;
mod dir_end;
mod disk;
mod file;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod index;
mod inodes;
mod map;
mod naming;
mod open;
mod readahead;
mod recover;
mod replay;
mod statfs;
mod superblocks;
mod symlink;
mod walk_ahead;
mod watch;
mod xattrs;
mod zones;

use std::sync::Arc;

use disk::Disk;
use file::Reader;
use watch::Watch;

use super::{Attr, DirEntry, FileReader, Filesystem, Ino, Pending, StatFs};
use crate::block::BlockSource;
use crate::error::{Error, ErrorKind, Result};

use journal::JournalOverlay;
pub use journal::{JournalMode, JournalReport};

/// The inode of every root directory (`EXT4_ROOT_INO`).
const ROOT: Ino = Ino(2);

/// How to open a file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// What to do about a journal that was not played back.
    pub journal: JournalMode,
    /// The block of the superblock to use, in blocks of the file system; `None` for the primary one, or a backup where that
    /// is damaged.
    pub superblock: Option<u64>,
}

/// Facts about an open file system, for `info`.
#[derive(Clone, Debug)]
pub struct Summary {
    /// `ext2`, `ext3` or `ext4`, by the features in use as blkid tells them.
    pub kind: &'static str,
    /// The volume label, lossily decoded.
    pub label: String,
    /// The UUID.
    pub uuid: [u8; 16],
    /// Names of all features as e2fsprogs spells them.
    pub features: Vec<String>,
    /// Bytes per block.
    pub block_size: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// What was found in the journal.
    pub journal: JournalReport,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// An open ext file system.
pub struct Ext {
    disk: Arc<Disk>,
    overlay: Option<Arc<JournalOverlay>>,
    summary: Summary,
    watch: Watch,
}

impl Ext {
    /// Opens the file system on `source`, playing its journal back in memory.
    ///
    /// # Errors
    /// [`ErrorKind::NoFilesystem`] where there is no ext superblock, [`ErrorKind::Unsupported`] with the name of a
    /// feature that is not read here, [`ErrorKind::Corrupt`], [`ErrorKind::BadChecksum`].
    ///
    pub async fn open(source: Arc<dyn BlockSource>, options: Options) -> Result<Self> {
        open::open(source, None, options).await
    }

    /// The same with the journal on a device of its own.
    ///
    /// # Errors
    /// Those of [`Ext::open`]; [`ErrorKind::InvalidInput`] where `journal_device` is not the journal of this file
    /// system, [`ErrorKind::Usage`] where that needs no device.
    ///
    pub async fn open_with_journal(
        source: Arc<dyn BlockSource>,
        journal_device: Arc<dyn BlockSource>,
        options: Options,
    ) -> Result<Self> {
        open::open(source, Some(journal_device), options).await
    }

    /// The blocks as they read after recovery, the superblock still saying that it is needed.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where fast commits were played back, which change files and not blocks.
    pub fn recovered(&self) -> Result<Arc<dyn BlockSource>> {
        if self.disk.replayed.changes_anything() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "fast commits cannot be played back for another reader",
            ));
        }
        Ok(Arc::clone(&self.disk.source))
    }

    /// Tells this state of the volume from every other one: it is made of what each writer changes, the superblock, the
    /// journal's and the place where the next transaction would stand. `None` where a writer may leave no trace there: in use
    /// without a journal, or with one that was not played back to its end.
    ///
    /// One kind of write shows in none of these: into blocks that a file had already, past the page cache (`O_DIRECT`), on a
    /// volume mounted with `lazytime`, which writes the file's time hours later. Two states between which nothing else was
    /// written are taken for the same.
    pub fn state(&self) -> Option<[u8; 32]> {
        let journal = &self.summary.journal;
        let unread = journal.dirty && !journal.replayed || journal.damaged.is_some();
        if unread || !journal.present && !self.disk.sb.is_clean {
            return None;
        }
        // A log that is full has no place for the next transaction.
        let written = [journal.transactions, journal.fast_commits].map(u32::to_le_bytes);
        Some(self.watch.digest(&written.concat()))
    }

    /// Facts for `info`.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }
}

impl Filesystem for Ext {
    fn root(&self) -> Ino {
        ROOT
    }

    fn lookup<'a>(&'a self, dir: Ino, name: &'a [u8]) -> Pending<'a, Ino> {
        Box::pin(self.disk.lookup(dir, name))
    }

    fn getattr(&self, ino: Ino) -> Pending<'_, Attr> {
        Box::pin(async move { Ok(self.disk.file(ino).await?.inode.attr.clone()) })
    }

    fn readdir(&self, dir: Ino, cookie: u64) -> Pending<'_, Vec<DirEntry>> {
        Box::pin(self.disk.walk(dir, cookie))
    }

    fn readlink(&self, ino: Ino) -> Pending<'_, Vec<u8>> {
        Box::pin(self.disk.readlink(ino))
    }

    fn open(&self, ino: Ino) -> Pending<'_, Arc<dyn FileReader>> {
        Box::pin(async move {
            let reader = Reader::open(Arc::clone(&self.disk), ino).await?;
            Ok(Arc::new(reader) as Arc<dyn FileReader>)
        })
    }

    fn listxattr(&self, ino: Ino) -> Pending<'_, Vec<Vec<u8>>> {
        Box::pin(self.disk.listxattr(ino))
    }

    fn getxattr<'a>(&'a self, ino: Ino, name: &'a [u8]) -> Pending<'a, Vec<u8>> {
        Box::pin(self.disk.getxattr(ino, name))
    }

    fn statfs(&self) -> Pending<'_, StatFs> {
        Box::pin(self.disk.statfs())
    }

    fn prefetch_inodes(&self, inodes: &[Ino]) {
        self.disk.prefetch_inodes(inodes);
    }

    fn check_journal(&self) -> Pending<'_, Vec<Error>> {
        Box::pin(async move {
            let mut damage = match &self.overlay {
                Some(overlay) => overlay.verify().await?,
                None => Vec::new(),
            };
            damage.extend(self.summary.journal.damaged.map(|sequence| {
                let message = format!(
                    "journal: transaction {sequence} is damaged: it and all after it are missing"
                );
                Error::new(ErrorKind::BadChecksum, message)
            }));
            Ok(damage)
        })
    }

    fn check_unchanged(&self) -> Pending<'_, ()> {
        Box::pin(self.watch.check_unchanged())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{Device, wait};

    #[test]
    fn a_log_that_was_not_read_to_its_end_tells_no_state_from_another() {
        let packed = include_bytes!("../../../testdata/fuzz-images/ext4");
        let device = Arc::new(Device::unpack(packed));
        let fs = || wait(Ext::open(Arc::clone(&device) as _, Options::default())).unwrap();
        assert!(fs().state().is_some());
        let changes: [fn(&mut JournalReport); 2] = [
            |journal| (journal.dirty, journal.replayed) = (true, false),
            |journal| (journal.dirty, journal.replayed, journal.damaged) = (true, true, Some(7)),
        ];
        for change in changes {
            let mut fs = fs();
            fs.summary.journal.present = true;
            change(&mut fs.summary.journal);
            assert_eq!(fs.state(), None);
        }
    }
}
