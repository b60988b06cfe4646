//! Through a tree in order, with the next directories being read while the caller works on one.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};

use crate::error::{Error, ErrorKind, Result};

use super::{Attr, DirEntry, Filesystem, Ino};

/// Directories that are read ahead of the caller.
const AHEAD: usize = 16;

/// Inodes of one directory that are asked for at the same time; those of one directory lie close together.
const INODES: usize = 64;

/// The most entries of one directory that are kept at once, of which each takes some hundred bytes. `mount` and `extract` go
/// through larger ones piece by piece.
const MAX_ENTRIES: usize = 10_000_000;

/// One entry of a directory with what it stands for.
#[derive(Clone, Debug)]
pub struct Found {
    /// The name.
    pub name: Vec<u8>,
    /// Its inode, or why that cannot be read.
    pub attr: Result<Attr>,
}

/// One directory of a [`Walk`].
#[derive(Debug)]
pub struct Listing {
    /// The path that led to it, as it was given to [`Walk::enter`].
    pub path: Vec<u8>,
    /// Its inode.
    pub ino: Ino,
    /// Its entries by name, without `.` and `..`, as far as they can be read.
    pub entries: Vec<Found>,
    /// Why some or all of them cannot.
    pub failure: Option<Error>,
}

/// A way through directories: those that were entered last come first.
pub struct Walk<'a> {
    filesystem: &'a dyn Filesystem,
    /// The next directory last, each with its ticket.
    pending: Vec<(u64, Vec<u8>, Ino)>,
    tickets: u64,
    reading: FuturesUnordered<Pin<Box<dyn Future<Output = Ready> + Send + 'a>>>,
    /// What was read before its turn.
    ready: HashMap<u64, Listed<Found>>,
    started: HashSet<u64>,
    /// Those entered so far.
    seen: HashSet<Ino>,
    /// Those entered last that had been entered before: only what the caller holds already, where any number of names for one
    /// directory would fill `pending`.
    again: VecDeque<(Vec<u8>, Ino)>,
}

type Ready = (u64, Listed<Found>);

/// What can be read of a directory, and why some or all of it cannot.
type Listed<T> = (Vec<T>, Option<Error>);

impl<'a> Walk<'a> {
    /// A walk that has entered nothing yet.
    pub fn new(filesystem: &'a dyn Filesystem) -> Self {
        Self {
            filesystem,
            pending: Vec::new(),
            tickets: 0,
            reading: FuturesUnordered::new(),
            ready: HashMap::new(),
            started: HashSet::new(),
            seen: HashSet::new(),
            again: VecDeque::new(),
        }
    }

    /// Puts directories before all that wait, the first of them next.
    pub fn enter(&mut self, directories: Vec<(Vec<u8>, Ino)>) {
        let (new, again): (Vec<_>, Vec<_>) =
            directories.into_iter().partition(|(_, ino)| self.seen.insert(*ino));
        self.again.extend(again);
        for (path, ino) in new.into_iter().rev() {
            self.pending.push((self.tickets, path, ino));
            self.tickets += 1;
        }
    }

    /// The next directory. One that was met before is an error in its listing: a tree has no second way.
    pub async fn next(&mut self) -> Option<Listing> {
        if let Some((path, ino)) = self.again.pop_front() {
            let what = format!("{ino} is a directory that stands elsewhere already");
            let failure = Some(Error::new(ErrorKind::Corrupt, what));
            return Some(Listing { path, ino, entries: Vec::new(), failure });
        }
        for (ticket, _, ino) in self.pending.iter().rev().take(AHEAD) {
            if self.started.insert(*ticket) {
                let (filesystem, ticket, ino) = (self.filesystem, *ticket, *ino);
                self.reading.push(Box::pin(async move { (ticket, list(filesystem, ino).await) }));
            }
        }
        let (ticket, path, ino) = self.pending.pop()?;
        let (entries, failure) = loop {
            if let Some(listed) = self.ready.remove(&ticket) {
                break listed;
            }
            let (other, listed) = self
                .reading
                .next()
                .await
                .expect("a directory in front is being read until it is ready");
            self.ready.insert(other, listed);
        };
        self.started.remove(&ticket);
        Some(Listing { path, ino, entries, failure })
    }
}

/// All entries of a directory but `.` and `..`, by name, each with its inode.
async fn list(filesystem: &dyn Filesystem, directory: Ino) -> Listed<Found> {
    let (entries, failure) = names(filesystem, directory).await;
    let inodes: Vec<Ino> = entries.iter().map(|entry| entry.ino).collect();
    filesystem.prefetch_inodes(&inodes);
    let look = |entry: DirEntry| async move {
        Found { name: entry.name, attr: filesystem.getattr(entry.ino).await }
    };
    (stream::iter(entries).map(look).buffered(INODES).collect().await, failure)
}

/// All entries of a directory but `.` and `..`, by name; no inode is read. Where it cannot be listed to its end, those that
/// can, and what is wrong; none where the device was silent.
pub async fn names(filesystem: &dyn Filesystem, directory: Ino) -> Listed<DirEntry> {
    let mut entries: Vec<DirEntry> = Vec::new();
    let mut cookie = 0;
    let failure = loop {
        let batch = match filesystem.readdir(directory, cookie).await {
            Ok(batch) => batch,
            // Whoever asks again may be answered in full.
            Err(error) if error.kind().is_silence() => return (Vec::new(), Some(error)),
            Err(error) => break Some(error),
        };
        let Some(last) = batch.last() else { break None };
        cookie = last.cookie;
        if entries.len() > MAX_ENTRIES {
            let error = Error::new(
                ErrorKind::Unsupported,
                format!("{directory}: more than {MAX_ENTRIES} entries in one directory"),
            );
            return (Vec::new(), Some(error.with_hint("`mount` and `extract` have no such bound")));
        }
        entries.extend(batch.into_iter().filter(|entry| entry.name != b"." && entry.name != b".."));
    };
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    (entries, failure)
}

/// `directory` and a name in it.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.strip_suffix(b"/").unwrap_or(directory).to_vec();
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::FileType;
    use crate::fs::memory::MemoryFs;

    /// The paths of all directories in the order of the walk.
    async fn directories(fs: &MemoryFs) -> Vec<(String, Result<usize>)> {
        let mut walk = Walk::new(fs);
        walk.enter(vec![(b"/".to_vec(), fs.root())]);
        let mut all = Vec::new();
        while let Some(listing) = walk.next().await {
            let path = String::from_utf8(listing.path.clone()).unwrap();
            let inside = listing.entries.iter().filter_map(|found| {
                let attr = found.attr.as_ref().unwrap();
                let directory = attr.file_type == FileType::Directory;
                directory.then(|| (join(&listing.path, &found.name), attr.ino))
            });
            walk.enter(inside.collect());
            let count = listing.entries.len();
            all.push((path, listing.failure.map_or(Ok(count), Err)));
        }
        all
    }

    #[tokio::test]
    async fn a_tree_in_the_order_of_names() {
        let mut fs = MemoryFs::new();
        for a in (0..30).rev() {
            for b in (0..3).rev() {
                fs.file(&format!("/{a:02}/{b}/f"), b"");
            }
        }
        let all = directories(&fs).await;
        assert_eq!(all.len(), 1 + 30 + 90);
        assert!(all.is_sorted_by_key(|(path, _)| path.clone()));
        assert_eq!(all.iter().map(|(_, entries)| *entries.as_ref().unwrap()).sum::<usize>(), 210);
    }

    #[tokio::test]
    async fn a_loop_ends() {
        let mut fs = MemoryFs::new();
        let a = fs.directory("/a");
        fs.entry(a, b"self", a);
        let all = directories(&fs).await;
        assert_eq!(all.len(), 3);
        assert_eq!(all[2].1.as_ref().unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[tokio::test]
    async fn names_of_a_directory_that_was_met_do_not_pile_up() {
        let mut fs = MemoryFs::new();
        let dirs: Vec<Ino> = (0..20).map(|name| fs.directory(&format!("/{name:02}"))).collect();
        for dir in &dirs {
            for (name, to) in dirs.iter().enumerate() {
                fs.entry(*dir, format!("{name:02}").as_bytes(), *to);
            }
        }
        let mut walk = Walk::new(&fs);
        walk.enter(vec![(b"/".to_vec(), fs.root())]);
        let mut told = 0;
        while let Some(listing) = walk.next().await {
            told += usize::from(listing.failure.is_some());
            let inside = listing
                .entries
                .iter()
                .map(|found| (join(&listing.path, &found.name), found.attr.as_ref().unwrap().ino));
            walk.enter(inside.collect());
            assert!(walk.pending.len() + walk.again.len() <= 40);
        }
        assert_eq!(told, 400, "each is told all the same");
    }

    #[tokio::test]
    async fn a_bad_directory_stops_nothing_else() {
        let mut fs = MemoryFs::new();
        let bad = fs.directory("/bad");
        fs.node(bad).failure = Some(ErrorKind::BadChecksum);
        fs.file("/good/f", b"");
        let all = directories(&fs).await;
        let failed: Vec<_> =
            all.iter().map(|(path, entries)| (path.as_str(), entries.is_err())).collect();
        assert_eq!(failed, [("/", false), ("/bad", true), ("/good", false)]);
    }

    #[tokio::test]
    async fn what_was_listed_before_a_failure_stays() {
        let mut fs = MemoryFs::new();
        for name in 0..20 {
            fs.file(&format!("/d/{name:02}"), b"");
        }
        let dir = fs.directory("/d");
        fs.node(dir).sound = 14;
        for (kind, listed) in [
            (ErrorKind::Corrupt, 12),
            (ErrorKind::Medium, 12),
            (ErrorKind::Io, 12),
            (ErrorKind::Unsupported, 12),
            (ErrorKind::SessionLost, 0),
        ] {
            fs.node(dir).failure = Some(kind);
            let (entries, failure) = names(&fs, dir).await;
            assert_eq!((entries.len(), failure.unwrap().kind()), (listed, kind));
        }
    }
}
