//! The way through the image: directories several at a time, their files in batches, in the order of the inodes,
//! which is roughly that of the disk.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};
use rustix::io::Errno;
use tokio::sync::Semaphore;

use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Attr, DirEntry, FileType, Filesystem, Ino};

use super::contents::xattrs_to_keep;
use super::dest::{Destination, Directory, Name, RelPath};
use super::item::{Item, Manner, Restored, blocking, copy_batch, copy_large, put_failed};
use super::metadata::{self, Rights, Target, Xattrs};
use super::{Options, Report};

/// Directories that are worked on at the same time.
const DIRECTORIES: usize = 8;

/// Batches and large files of one directory that are under way at the same time.
const BATCHES: usize = 4;

/// Files in a batch: enough that handing it to another thread costs nothing per file.
const BATCH_FILES: usize = 64;

/// A larger file goes by itself, in chunks.
const LARGE: u64 = 1 << 20;

/// Contents held in memory by all batches together, in units of [`UNIT`] bytes.
const BUDGET: u32 = 24 << 10;
const UNIT: u64 = 1 << 10;

/// What a large file holds in memory while it is copied: the chunks between reader and writer.
const LARGE_SHARE: u32 = 6 << 10;

/// Inodes read at the same time.
const INODES: usize = 64;

/// Something that was asked for.
pub(super) struct Root {
    /// Its name in the destination; none for a directory whose entries go into the destination itself.
    pub(super) name: Option<Name>,
    pub(super) from: Vec<u8>,
    pub(super) attr: Attr,
}

/// A directory that is still to be copied.
struct Pending {
    /// Where to: the parent, and a name unless it is the destination itself.
    parent: RelPath,
    name: Option<Name>,
    from: Vec<u8>,
    attr: Attr,
    /// Which root it belongs to: within one, a directory has one parent.
    root: usize,
}

/// A directory whose metadata is set, or compared where it is not ours to set, when everything is in it.
struct Unfinished {
    ours: bool,
    to: RelPath,
    from: Vec<u8>,
    attr: Attr,
    xattrs: Xattrs,
}

/// Where the first link of a file went.
#[derive(Clone)]
struct Place {
    directory: RelPath,
    name: Name,
}

/// Another name of a file that is copied elsewhere.
struct Link {
    first: Place,
    to: Place,
    from: Vec<u8>,
    ino: Ino,
}

/// Hard links, over the whole extraction.
#[derive(Default)]
struct Links {
    first: HashMap<Ino, Place>,
    /// Those of `first` that were copied. Without this, a second name could become a link to an older file that
    /// stood in the way of the first.
    copied: HashSet<Ino>,
    later: Vec<Link>,
}

/// One run of `extract`.
pub(super) struct Extraction {
    filesystem: Arc<dyn Filesystem>,
    destination: Arc<Destination>,
    manner: Manner,
    report: Arc<Report>,
    memory: Semaphore,
    links: Mutex<Links>,
    /// With `--overwrite`: the names given so far. A second file for one of them would replace what this run made,
    /// and a hard link to the first could become one to the second.
    given: Mutex<HashMap<RelPath, HashSet<Name>>>,
    /// The directories met so far below each root.
    seen: Mutex<HashSet<(usize, Ino)>>,
    unfinished: Mutex<Vec<Unfinished>>,
    /// Why nothing new is begun any more. What is under way comes to its end: files must not appear in a directory
    /// that is being finished.
    stopped: OnceLock<Error>,
}

impl Extraction {
    pub(super) fn new(
        filesystem: Arc<dyn Filesystem>,
        destination: Arc<Destination>,
        options: Options,
        report: Arc<Report>,
    ) -> Self {
        Self {
            filesystem,
            destination,
            manner: Manner { overwrite: options.overwrite, rights: Rights::ours() },
            report,
            memory: Semaphore::new(BUDGET as usize),
            links: Mutex::default(),
            given: Mutex::default(),
            seen: Mutex::default(),
            unfinished: Mutex::default(),
            stopped: OnceLock::new(),
        }
    }

    /// Copies everything.
    ///
    /// # Errors
    /// Where the destination takes no more; what is there by then is finished.
    pub(super) async fn run(self, roots: Vec<Root>) -> Result<()> {
        let mut pending = Vec::new();
        for (index, root) in roots.into_iter().enumerate().rev() {
            let Root { name, from, attr } = root;
            match name {
                Some(name) if attr.file_type != FileType::Directory => {
                    self.copy_alone(Item { name, from, attr }).await;
                }
                name => {
                    lock(&self.seen).insert((index, attr.ino));
                    pending.push(Pending {
                        parent: RelPath::default(),
                        name,
                        from,
                        attr,
                        root: index,
                    });
                }
            }
        }
        // Depth first, so that what waits stays small.
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < DIRECTORIES && self.stopped.get().is_none() {
                match pending.pop() {
                    Some(directory) => running.push(self.copy_directory(directory)),
                    None => break,
                }
            }
            match running.next().await {
                Some(found) => pending.extend(found),
                None => break,
            }
        }
        drop(running);
        self.finish().await
    }

    /// Copies a file that was asked for by itself.
    async fn copy_alone(&self, item: Item) {
        let root = RelPath::default();
        let Some(item) = self.claim(item, &root) else { return };
        match self.destination.directory(&root) {
            Ok(directory) => self.copy_group(&directory, Group::alone(item)).await,
            Err(error) => self.tell(put_failed(&item.from, error)),
        }
    }

    /// Makes one directory and copies all files in it. Returns the directories in it.
    async fn copy_directory(&self, pending: Pending) -> Vec<Pending> {
        let Pending { parent, name, from, mut attr, root } = pending;
        let named = |error: Error| error.context(String::from_utf8_lossy(&from));
        let (to, directory, made) = match self.make_directory(&parent, name).await {
            Ok(made) => made,
            Err(error) => {
                self.tell(put_failed(&from, error));
                return Vec::new();
            }
        };
        // What stood there before is not ours to change, unless we are told so; --to itself never is, and stands
        // for nothing in the image.
        if made || !to.is_root() {
            let (xattrs, unread) = xattrs_to_keep(&*self.filesystem, &mut attr).await;
            unread.into_iter().for_each(|error| self.report.failure(&named(error)));
            let unfinished = Unfinished {
                ours: made || self.manner.overwrite,
                to: to.clone(),
                from: from.clone(),
                attr: attr.clone(),
                xattrs,
            };
            lock(&self.unfinished).push(unfinished);
        }
        self.report.directory_done();
        let found = Mutex::new(Vec::new());
        let here = Here { from: &from, to: &to, root, found: &found };
        let groups = stream::unfold(0, |cookie| self.next_groups(&here, attr.ino, cookie))
            .flat_map(stream::iter)
            .boxed();
        groups.for_each_concurrent(BATCHES, |group| self.copy_group(&directory, group)).await;
        found.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    async fn make_directory(
        &self,
        parent: &RelPath,
        name: Option<Name>,
    ) -> io::Result<(RelPath, Directory, bool)> {
        let destination = Arc::clone(&self.destination);
        let parent = parent.clone();
        blocking(move || match name {
            None => Ok((parent.clone(), destination.directory(&parent)?, destination.created())),
            Some(name) => {
                let (directory, made) = destination.make(&parent, &name)?;
                Ok((parent.join(&name), directory, made))
            }
        })
        .await
    }

    /// Reads on in a directory: the next files in groups, and where to go on. The end is where no entries come.
    async fn next_groups(
        &self,
        here: &Here<'_>,
        directory: Ino,
        cookie: u64,
    ) -> Option<(Vec<Group>, u64)> {
        if self.stopped.get().is_some() {
            return None;
        }
        let entries = match self.filesystem.readdir(directory, cookie).await {
            Ok(entries) => entries,
            Err(error) => {
                self.report.failure(&error.context(String::from_utf8_lossy(here.from)));
                return None;
            }
        };
        let next = entries.last()?.cookie;
        let inodes: Vec<Ino> = entries.iter().map(|entry| entry.ino).collect();
        self.filesystem.prefetch_inodes(&inodes);
        let items: Vec<Option<Item>> = stream::iter(entries)
            .filter(|entry| std::future::ready(entry.name != b"." && entry.name != b".."))
            .map(|entry| self.look(here, entry))
            .buffered(INODES)
            .collect()
            .await;
        let mut files = Vec::new();
        for item in items.into_iter().flatten() {
            if item.attr.file_type == FileType::Directory {
                // Here and not when its turn comes: any number of names for one directory would wait until then.
                if !lock(&self.seen).insert((here.root, item.attr.ino)) {
                    let loops = "a directory that was copied already stands here again; not copied";
                    self.report.failure(&item.named(Error::new(ErrorKind::Corrupt, loops)));
                    continue;
                }
                let Item { name, from, attr } = item;
                let pending = Pending {
                    parent: here.to.clone(),
                    name: Some(name),
                    from,
                    attr,
                    root: here.root,
                };
                lock(here.found).push(pending);
            } else if let Some(item) = self.claim(item, here.to) {
                files.push(item);
            }
        }
        Some((Group::split(files), next))
    }

    /// What an entry stands for; a failure is told.
    async fn look(&self, here: &Here<'_>, entry: DirEntry) -> Option<Item> {
        let mut from = here.from.strip_suffix(b"/").unwrap_or(here.from).to_vec();
        from.push(b'/');
        from.extend_from_slice(&entry.name);
        let look =
            async { Ok((Name::parse(&entry.name)?, self.filesystem.getattr(entry.ino).await?)) };
        let looked: Result<_> = look.await;
        match looked {
            Ok((name, attr)) => Some(Item { name, from, attr }),
            Err(error) => {
                self.report.failure(&error.context(String::from_utf8_lossy(&from)));
                None
            }
        }
    }

    /// Takes the name in the destination for a file, and keeps a further name of a file for later; the first is to
    /// be copied now.
    fn claim(&self, item: Item, directory: &RelPath) -> Option<Item> {
        if self.manner.overwrite
            && !lock(&self.given).entry(directory.clone()).or_default().insert(item.name.clone())
        {
            let why =
                "another file of this run has the same place in the destination; not restored";
            self.report.failure(&item.named(Error::new(ErrorKind::Exists, why)));
            return None;
        }
        if item.attr.nlink < 2 {
            return Some(item);
        }
        let to = Place { directory: directory.clone(), name: item.name.clone() };
        let mut links = lock(&self.links);
        match links.first.get(&item.attr.ino).cloned() {
            Some(first) => {
                links.later.push(Link { first, to, from: item.from, ino: item.attr.ino });
                None
            }
            None => {
                links.first.insert(item.attr.ino, to);
                Some(item)
            }
        }
    }

    async fn copy_group(&self, directory: &Directory, group: Group) {
        let share =
            self.memory.acquire_many(group.share).await.expect("the semaphore is never closed");
        if self.stopped.get().is_some() {
            return;
        }
        let filesystem = &*self.filesystem;
        match group.items {
            Items::Batch(items) => {
                let items = self.without_taken(directory, items).await;
                for (item, result) in copy_batch(filesystem, directory, items, self.manner).await {
                    if let Ok(restored) = &result {
                        self.report.bytes_done(restored.bytes);
                    }
                    self.count(&item, result);
                }
            }
            Items::Large(item) => {
                for item in self.without_taken(directory, vec![item]).await {
                    let copied = AtomicU64::new(0);
                    let progress = |bytes| {
                        copied.fetch_add(bytes, Ordering::Relaxed);
                        self.report.bytes_done(bytes);
                    };
                    let (item, result) =
                        copy_large(filesystem, directory, item, self.manner, progress).await;
                    if result.is_err() {
                        self.report.bytes_undone(copied.into_inner());
                    }
                    self.count(&item, result);
                }
            }
        }
        drop(share);
    }

    /// Tells of the files whose place is taken, before anything of them is read: they may be large and far away. The
    /// others come back; what appears later is left alone all the same.
    async fn without_taken(&self, directory: &Directory, items: Vec<Item>) -> Vec<Item> {
        if self.manner.overwrite {
            return items;
        }
        let directory = directory.clone();
        let look = move || items.into_iter().partition(|item| directory.has(&item.name));
        let (taken, free): (Vec<Item>, Vec<Item>) = blocking(look).await;
        for item in taken {
            self.tell(put_failed(&item.from, Errno::EXIST.into()));
        }
        free
    }

    fn count(&self, item: &Item, result: Result<Restored>) {
        let restored = match result {
            Ok(restored) => restored,
            Err(error) => return self.tell(error),
        };
        self.report.file_done();
        self.count_foreign(&item.attr);
        if item.attr.nlink > 1 {
            lock(&self.links).copied.insert(item.attr.ino);
        }
        restored.unread.into_iter().for_each(|error| self.report.failure(&item.named(error)));
        if !restored.lost.is_empty() {
            self.report.failure(&item.named(Error::new(ErrorKind::Permission, restored.lost)));
        }
    }

    fn count_foreign(&self, attr: &Attr) {
        let ours = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        if self.manner.rights == Rights::User && (attr.uid, attr.gid) != ours {
            self.report.foreign_seen();
        }
    }

    /// Tells of a failure; one that makes going on senseless is kept for the end, and stops everything.
    fn tell(&self, error: Error) {
        if !takes_no_more(&error) {
            self.report.failure(&error);
        } else if let Err(further) = self.stopped.set(error) {
            self.report.failure(&further);
        }
    }

    /// Makes the further names of files, then gives the directories their metadata, the deepest first: a directory
    /// may be closed even to us when it has its own mode.
    async fn finish(self) -> Result<()> {
        blocking(move || {
            let Links { copied, later, .. } = std::mem::take(&mut *lock(&self.links));
            for link in later {
                match self.link(&link, &copied) {
                    Ok(()) => self.report.file_done(),
                    Err(error) => self.tell(error),
                }
            }
            let unfinished = std::mem::take(&mut *lock(&self.unfinished));
            let (ours, others): (Vec<_>, Vec<_>) =
                unfinished.into_iter().rev().partition(|directory| directory.ours);
            for directory in ours {
                self.finish_directory(&directory);
            }
            for directory in others {
                self.compare_directory(&directory);
            }
            match self.stopped.into_inner() {
                None => Ok(()),
                Some(error) => Err(error.with_hint(
                    "stopped; each file under its own name is complete, but not all are there",
                )),
            }
        })
        .await
    }

    fn link(&self, link: &Link, copied: &HashSet<Ino>) -> Result<()> {
        let Link { first, to, from, ino } = link;
        if !copied.contains(ino) {
            let why = "another name of a file that was not restored";
            return Err(Error::new(ErrorKind::Io, why).context(String::from_utf8_lossy(from)));
        }
        let make = || {
            let (source, target) = (
                self.destination.directory(&first.directory)?,
                self.destination.directory(&to.directory)?,
            );
            let temporary = target.temporary_link(&source, &first.name)?;
            temporary.keep_as(&to.name, self.manner.overwrite)
        };
        make().map_err(|error| put_failed(from, error))
    }

    fn finish_directory(&self, unfinished: &Unfinished) {
        let Unfinished { to, from, attr, xattrs, .. } = unfinished;
        self.count_foreign(attr);
        let failure = match self.destination.directory(to) {
            Ok(directory) => {
                let lost =
                    metadata::apply(Target::open(directory.fd()), attr, xattrs, self.manner.rights);
                if lost.is_empty() {
                    return;
                }
                Error::new(ErrorKind::Permission, lost).context(String::from_utf8_lossy(from))
            }
            Err(error) => put_failed(from, error),
        };
        self.report.failure(&failure);
    }

    /// Says what is not as in the image on a directory that stood there before.
    fn compare_directory(&self, unfinished: &Unfinished) {
        let Unfinished { to, from, attr, xattrs, .. } = unfinished;
        let compare = || {
            let directory = self.destination.directory(to)?;
            metadata::difference(directory.fd(), attr, xattrs, self.manner.rights)
        };
        let failure = match compare() {
            Ok(difference) if difference.is_empty() => return,
            Ok(difference) => {
                let kept = format!("the directory exists and keeps its own {difference}");
                Error::new(ErrorKind::Exists, kept)
                    .with_hint("use --overwrite to restore it")
                    .context(String::from_utf8_lossy(from))
            }
            Err(error) => put_failed(from, error),
        };
        self.report.failure(&failure);
    }
}

/// Where a listing stands.
struct Here<'a> {
    from: &'a [u8],
    to: &'a RelPath,
    root: usize,
    found: &'a Mutex<Vec<Pending>>,
}

/// Files that are copied together.
struct Group {
    items: Items,
    /// What they hold in memory, in [`UNIT`]s.
    share: u32,
}

enum Items {
    Batch(Vec<Item>),
    Large(Item),
}

impl Group {
    /// Sorts files by inode and puts small ones together.
    fn split(mut files: Vec<Item>) -> Vec<Self> {
        files.sort_by_key(|item| item.attr.ino);
        let mut groups = Vec::new();
        let mut batch = Vec::new();
        let mut share = 0;
        for item in files {
            if is_large(&item) {
                groups.push(Self { items: Items::Large(item), share: LARGE_SHARE });
                continue;
            }
            share += small_share(&item);
            batch.push(item);
            if batch.len() == BATCH_FILES || share >= LARGE_SHARE {
                groups.push(Self { items: Items::Batch(std::mem::take(&mut batch)), share });
                share = 0;
            }
        }
        if !batch.is_empty() {
            groups.push(Self { items: Items::Batch(batch), share });
        }
        groups
    }

    fn alone(item: Item) -> Self {
        match is_large(&item) {
            true => Self { items: Items::Large(item), share: LARGE_SHARE },
            false => Self { share: small_share(&item), items: Items::Batch(vec![item]) },
        }
    }
}

fn is_large(item: &Item) -> bool {
    item.attr.file_type == FileType::Regular && item.attr.size > LARGE
}

/// At most [`LARGE`] bytes, so it fits the type and the budget.
fn small_share(item: &Item) -> u32 {
    let size = if item.attr.file_type == FileType::Regular { item.attr.size.min(LARGE) } else { 0 };
    u32::try_from(size.div_ceil(UNIT)).expect("LARGE / UNIT fits") + 1
}

/// Whether the destination is full or cannot be written at all: every further file would fail as well.
fn takes_no_more(error: &Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    source.is_some_and(|source: &io::Error| {
        matches!(source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
