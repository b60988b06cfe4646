//! What the layers above see of any file system: inodes, asynchronously, read-only.

mod attr;
pub mod ext;
pub mod ext4_view;
#[cfg(test)]
pub(crate) mod memory;
mod path;
pub mod walk;

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future;

use crate::block::Segments;
use crate::error::{Error, Result};

pub use attr::{Attr, DeviceNumber, DirEntry, FileType, Ino, StatFs, Timestamp};
pub use path::{LastLink, resolve};

/// An answer under way.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// How long what is known of a snapshot stays true. A snapshot does not change; a day stands for ever.
pub const UNCHANGING: Duration = Duration::from_secs(24 * 60 * 60);

/// A read-only file system, addressed by inode.
///
/// An answer that needs no I/O is ready at the first poll, so a caller may poll once before it spawns.
pub trait Filesystem: Send + Sync + 'static {
    /// The inode of the root directory.
    fn root(&self) -> Ino;

    /// The inode that `name` stands for in `dir`. [`crate::ErrorKind::NotFound`] where there is none.
    fn lookup<'a>(&'a self, dir: Ino, name: &'a [u8]) -> Pending<'a, Ino>;

    /// Everything that `stat` shows.
    fn getattr(&self, ino: Ino) -> Pending<'_, Attr>;

    /// A batch of the entries of `dir` that follow `cookie` (0: from the start), `.` and `..` among them, in an
    /// order that does not change; an empty batch is the end. [`DirEntry::cookie`] continues after an entry.
    fn readdir(&self, dir: Ino, cookie: u64) -> Pending<'_, Vec<DirEntry>>;

    /// The target of a symbolic link.
    fn readlink(&self, ino: Ino) -> Pending<'_, Vec<u8>>;

    /// A reader for the contents of a regular file.
    fn open(&self, ino: Ino) -> Pending<'_, Arc<dyn FileReader>>;

    /// The full names of all extended attributes (`user.x`, `system.posix_acl_access`).
    fn listxattr(&self, ino: Ino) -> Pending<'_, Vec<Vec<u8>>>;

    /// The value of one extended attribute. [`crate::ErrorKind::NoXattr`] where there is none.
    fn getxattr<'a>(&'a self, ino: Ino, name: &'a [u8]) -> Pending<'a, Vec<u8>>;

    /// Sizes and counts of the whole file system.
    fn statfs(&self) -> Pending<'_, StatFs>;

    /// Hints that these inodes will be asked for soon (the entries just listed). Never waits, never fails.
    fn prefetch_inodes(&self, _inodes: &[Ino]) {}

    /// How long what was told of `ino` stays true: its attributes, and the names in it where it is a directory.
    fn lifetime(&self, _ino: Ino) -> Duration {
        UNCHANGING
    }

    /// How long the attributes of `ino` stay true, where that is not as long as the names in it.
    fn attr_lifetime(&self, ino: Ino) -> Duration {
        self.lifetime(ino)
    }

    /// Makes sure that `getattr` tells what permissions in `dir` are to be checked by; `false` where they may have been
    /// checked by something else for the thread `who`, so that this has to be done again.
    fn settle(&self, _dir: Ino, _who: u32) -> Pending<'_, bool> {
        Box::pin(future::ready(Ok(true)))
    }

    /// Damage in the journal that was passed over when it was played back, or would be: files read as if it had not been
    /// committed.
    fn check_journal(&self) -> Pending<'_, Vec<Error>> {
        Box::pin(future::ready(Ok(Vec::new())))
    }

    /// Looks past every cache whether the volume has changed since it was opened; a change is
    /// [`crate::ErrorKind::BeingWritten`].
    fn check_unchanged(&self) -> Pending<'_, ()>;
}

/// One open regular file. It owns the readahead window, so one reader serves one stream.
pub trait FileReader: Send + Sync {
    /// Up to `len` bytes at `offset`; fewer only at the end of the file, none past it.
    fn read(&self, offset: u64, len: usize) -> Pending<'_, Segments>;

    /// The same where it needs no waiting; `None` means: ask [`FileReader::read`].
    fn try_read(&self, _offset: u64, _len: usize) -> Option<Result<Segments>> {
        None
    }

    /// The first range at or after `offset` that holds data, cut at the end of the file; `None` where only a hole
    /// is left. Unwritten extents count as holes. This is SEEK_DATA and SEEK_HOLE in one answer.
    fn data_range(&self, offset: u64) -> Pending<'_, Option<Range<u64>>>;
}
