//! A file system in the kernel's terms: nodes, attributes, listings, seeks. Everything that FUSE answers is
//! worked out here, without FUSE.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use fuser::{FileAttr, Generation, INodeNo};

use super::node::{self, Nodes, Shown};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Attr, DirEntry, FileReader, Filesystem, Ino, StatFs, UNCHANGING};

/// The most touching pieces of data that a search for a hole goes through: a damaged map has them without end.
const MOST_PIECES: u64 = 16;

/// A file system as the kernel is shown it.
///
/// Once the volume is known to be changing under us, nothing more is told about it: what was read before and what
/// would be read now belong to different states, and together they are wrong data.
pub(super) struct View {
    fs: Arc<dyn Filesystem>,
    nodes: Nodes,
    shown: Shown,
    changed: OnceLock<Error>,
}

impl View {
    pub(super) fn new(fs: Arc<dyn Filesystem>, shown: Shown) -> Self {
        Self { nodes: Nodes::new(fs.root()), fs, shown, changed: OnceLock::new() }
    }

    /// The inode behind a node.
    pub(super) fn ino(&self, node: INodeNo) -> Ino {
        self.nodes.ino(node)
    }

    /// The file system, unless it has been found to change.
    fn fs(&self) -> Result<&dyn Filesystem> {
        match self.changed.get() {
            None => Ok(&*self.fs),
            Some(changed) => Err(changed.clone()),
        }
    }

    /// Looks whether the volume is still what was opened. From the first change on, every request fails.
    ///
    /// # Errors
    /// [`ErrorKind::BeingWritten`] when the change is found, once.
    pub(super) async fn check_unchanged(&self) -> Result<()> {
        match self.fs()?.check_unchanged().await {
            Err(error) if error.kind() == ErrorKind::BeingWritten => {
                self.changed.get_or_init(|| error.clone());
                Err(error)
            }
            // A failed look is no change; whoever needs those blocks is told.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// How long the kernel may keep what it is told of a node, and of the names in it.
    pub(super) fn lifetime(&self, node: INodeNo) -> Duration {
        self.fs.lifetime(self.ino(node))
    }

    /// How long the kernel may keep the attributes of a node.
    pub(super) fn attr_lifetime(&self, node: INodeNo) -> Duration {
        self.fs.attr_lifetime(self.ino(node))
    }

    /// Whether the kernel has checked permissions in `dir` by its real attributes for the thread `who`.
    pub(super) async fn settle(&self, dir: INodeNo, who: u32) -> Result<bool> {
        self.fs()?.settle(self.ino(dir), who).await
    }

    /// Whether there is more below the root than the one file system of a snapshot, which never changes.
    pub(super) fn is_a_tree_of_targets(&self) -> bool {
        self.lifetime(INodeNo::ROOT) != UNCHANGING
    }

    pub(super) async fn attr(&self, node: INodeNo) -> Result<FileAttr> {
        let attr = self.fs()?.getattr(self.ino(node)).await?;
        Ok(node::file_attr(attr.ino.0, &attr, self.shown))
    }

    /// The node that `name` stands for; `None` where there is none, which the kernel may remember too.
    pub(super) async fn lookup(
        &self,
        dir: INodeNo,
        name: &[u8],
    ) -> Result<Option<(FileAttr, Generation)>> {
        let fs = self.fs()?;
        let ino = match fs.lookup(self.ino(dir), name).await {
            Ok(ino) => ino,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if ino.0 == 0 {
            return Err(Error::new(ErrorKind::Corrupt, "a directory entry names inode 0"));
        }
        let attr = fs.getattr(ino).await?;
        Ok(Some(self.entry(&attr)))
    }

    /// An answer to a lookup names the node in `ino`.
    fn entry(&self, attr: &Attr) -> (FileAttr, Generation) {
        let node = self.nodes.node(attr.ino);
        (node::file_attr(node.0, attr, self.shown), Generation(attr.generation.into()))
    }

    pub(super) async fn readlink(&self, node: INodeNo) -> Result<Vec<u8>> {
        self.fs()?.readlink(self.ino(node)).await
    }

    pub(super) async fn open(&self, node: INodeNo) -> Result<Arc<dyn FileReader>> {
        self.fs()?.open(self.ino(node)).await
    }

    /// Whether reading through an open file may go on.
    pub(super) fn check_readable(&self) -> Result<()> {
        self.fs().map(|_| ())
    }

    pub(super) async fn statfs(&self) -> Result<StatFs> {
        self.fs()?.statfs().await
    }

    pub(super) async fn getxattr(&self, node: INodeNo, name: &[u8]) -> Result<Vec<u8>> {
        let value = self.fs()?.getxattr(self.ino(node), name).await?;
        Ok(self.shown.mask_acl(name, value))
    }

    /// All names that `user` may know of, each ended by a NUL, as `listxattr(2)` hands them out. `trusted.*` is
    /// root's alone, as the kernel's ext4 has it: nobody else could read the values.
    pub(super) async fn listxattr(&self, node: INodeNo, user: u32) -> Result<Vec<u8>> {
        let names = self.fs()?.listxattr(self.ino(node)).await?;
        let shown = names.into_iter().filter(|name| user == 0 || !name.starts_with(b"trusted."));
        Ok(shown.flat_map(|name| name.into_iter().chain([0])).collect())
    }

    /// `SEEK_DATA` or `SEEK_HOLE` from `offset`; `None` is past the end (`ENXIO`).
    pub(super) async fn seek(
        &self,
        node: INodeNo,
        file: &dyn FileReader,
        offset: u64,
        to: SeekTo,
    ) -> Result<Option<u64>> {
        let size = self.fs()?.getattr(self.ino(node)).await?.size;
        if offset >= size {
            return Ok(None);
        }
        match to {
            SeekTo::Data => Ok(file.data_range(offset).await?.map(|range| range.start.max(offset))),
            SeekTo::Hole => {
                let mut at = offset;
                // The answer after so many is a hole of no length: there SEEK_DATA answers the same place, and whoever asks
                // goes on from it.
                for _ in 0..MOST_PIECES {
                    let Some(range) = file.data_range(at).await? else { break };
                    // Ranges may touch; the hole begins where the next one does not.
                    if range.start > at || range.end <= at {
                        break;
                    }
                    at = range.end;
                    tokio::task::consume_budget().await;
                }
                Ok(Some(at.min(size)))
            }
        }
    }

    /// Hands the entries of `dir` after `cookie` to `add`, until that says that it is full or there are no more.
    ///
    /// An inode that cannot be read costs its entry the attributes. A device that does not answer ends the reply: every other
    /// inode would be waited for as long, and who waits for a reply cannot be killed.
    ///
    /// # Errors
    /// Only where not one entry was added: else the reply carries those, and the next call meets the error again.
    pub(super) async fn list(
        &self,
        dir: INodeNo,
        listing: &Listing,
        mut cookie: u64,
        want: Want,
        mut add: impl FnMut(Listed<'_>) -> Full + Send,
    ) -> Result<()> {
        let fs = self.fs()?;
        // In a tree of targets one that is silent must not hide the others.
        let is_one_device = self.lifetime(dir) == UNCHANGING;
        let mut added = false;
        loop {
            let mut batch = match listing.take(cookie) {
                Some(batch) => batch,
                None => match self.batch(self.ino(dir), cookie).await {
                    Ok(batch) => batch,
                    Err(_) if added => return Ok(()),
                    Err(error) => return Err(error),
                },
            };
            if batch.is_empty() {
                return Ok(());
            }
            while let Some(entry) = batch.pop_front() {
                // The file types are not in the directories of an old ext2.
                let attr = if want == Want::Attributes || entry.file_type.is_none() {
                    match fs.getattr(entry.ino).await {
                        Ok(attr) => Some(attr),
                        Err(error) if is_one_device && error.kind().is_silence() => {
                            return if added { Ok(()) } else { Err(error) };
                        }
                        Err(_) => None,
                    }
                } else {
                    None
                };
                let next = entry.cookie;
                if add(Listed { entry: &entry, attr: attr.as_ref(), view: self }) == Full::Yes {
                    batch.push_front(entry);
                    listing.keep(cookie, batch);
                    return Ok(());
                }
                added = true;
                cookie = next;
            }
        }
    }

    async fn batch(&self, dir: Ino, cookie: u64) -> Result<VecDeque<DirEntry>> {
        let fs = self.fs()?;
        let batch = fs.readdir(dir, cookie).await?;
        // Names alone too: whoever lists a directory looks at its entries next, each with a request of its own.
        let inodes: Vec<Ino> = batch.iter().map(|entry| entry.ino).collect();
        fs.prefetch_inodes(&inodes);
        Ok(batch.into())
    }
}

/// Which of the two `lseek(2)` is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeekTo {
    Data,
    Hole,
}

/// Whether a listing carries what `stat` shows (READDIRPLUS) or names and types only (READDIR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Names,
    Attributes,
}

/// Whether a reply has no room for the entry offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    No,
    Yes,
}

impl From<bool> for Full {
    fn from(full: bool) -> Self {
        if full { Self::Yes } else { Self::No }
    }
}

/// One entry on its way into a reply.
pub(super) struct Listed<'a> {
    pub(super) entry: &'a DirEntry,
    attr: Option<&'a Attr>,
    view: &'a View,
}

impl Listed<'_> {
    /// The type, from the directory or else from the inode.
    pub(super) fn file_type(&self) -> fuser::FileType {
        let known = self.entry.file_type.or(self.attr.map(|attr| attr.file_type));
        node::file_type(known.unwrap_or(crate::fs::FileType::Regular))
    }

    /// The attributes under the node's number; `None` where the inode cannot be read.
    pub(super) fn attr(&self) -> Option<(FileAttr, Generation)> {
        let attr = self.attr?;
        match self.entry.name.as_slice() {
            // The kernel takes no node from these two: only the number that `ls -ai` shows.
            b"." | b".." => {
                Some((node::file_attr(attr.ino.0, attr, self.view.shown), Generation(0)))
            }
            _ => Some(self.view.entry(attr)),
        }
    }
}

/// An open directory: the entries that were read but did not fit into the last reply.
#[derive(Debug, Default)]
pub(super) struct Listing {
    rest: Mutex<Option<(u64, VecDeque<DirEntry>)>>,
}

impl Listing {
    fn take(&self, cookie: u64) -> Option<VecDeque<DirEntry>> {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        rest.take_if(|(at, _)| *at == cookie).map(|(_, entries)| entries)
    }

    fn keep(&self, cookie: u64, entries: VecDeque<DirEntry>) {
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some((cookie, entries));
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
