//! A file system in memory for the tests of this layer: small, exact, and failing where it is told to.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::block::Segments;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{
    Attr, DeviceNumber, DirEntry, FileReader, FileType, Filesystem, Ino, Pending, StatFs, Timestamp,
};

/// The root is inode 2, as ext has it.
pub(super) const ROOT: Ino = Ino(2);

/// How many entries one `readdir` gives.
const BATCH: usize = 7;

#[derive(Default)]
pub(super) struct Memory {
    nodes: HashMap<Ino, Node>,
    broken: HashMap<Ino, ErrorKind>,
    slow: Option<Slow>,
    types_in_directories: bool,
    pub(super) changed: AtomicBool,
    pub(super) listings: AtomicUsize,
    pub(super) prefetched: Mutex<Vec<Ino>>,
}

/// A lookup of this name says that it has begun, and waits.
struct Slow {
    name: Vec<u8>,
    begun: Arc<Notify>,
    gate: Arc<Notify>,
}

struct Node {
    attr: Attr,
    body: Body,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

enum Body {
    Directory(Vec<(Vec<u8>, Ino)>),
    File(Arc<File>),
    Symlink(Vec<u8>),
}

/// A file whose contents lie in these ranges, in order; the rest are holes.
struct File {
    size: u64,
    data: Vec<(u64, Bytes)>,
}

impl Memory {
    pub(super) fn new() -> Self {
        let mut memory = Self { types_in_directories: true, ..Self::default() };
        let entries = vec![(b".".to_vec(), ROOT), (b"..".to_vec(), ROOT)];
        memory.insert(ROOT, FileType::Directory, 4096, Body::Directory(entries));
        memory
    }

    /// As an old ext2 without the `filetype` feature.
    pub(super) fn without_types_in_directories(mut self) -> Self {
        self.types_in_directories = false;
        self
    }

    fn insert(&mut self, ino: Ino, file_type: FileType, size: u64, body: Body) {
        let time = Timestamp { seconds: -3, nanoseconds: 5 };
        let attr = Attr {
            ino,
            file_type,
            permissions: 0o640,
            nlink: 1,
            uid: 12,
            gid: 34,
            rdev: DeviceNumber::default(),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: None,
            generation: 77,
        };
        self.nodes.insert(ino, Node { attr, body, xattrs: Vec::new() });
    }

    /// Adds a name to the root directory, whether or not there is such an inode.
    pub(super) fn link(&mut self, name: &[u8], ino: Ino) {
        let Some(Node { body: Body::Directory(entries), .. }) = self.nodes.get_mut(&ROOT) else {
            panic!("the root is a directory");
        };
        entries.push((name.to_vec(), ino));
    }

    /// Adds a file of `size` bytes with data in these places.
    pub(super) fn file(&mut self, name: &[u8], ino: Ino, size: u64, data: &[(u64, &[u8])]) {
        let data = data.iter().map(|(at, bytes)| (*at, Bytes::copy_from_slice(bytes))).collect();
        self.insert(ino, FileType::Regular, size, Body::File(Arc::new(File { size, data })));
        self.link(name, ino);
    }

    pub(super) fn symlink(&mut self, name: &[u8], ino: Ino, target: &[u8]) {
        let size = target.len() as u64;
        self.insert(ino, FileType::Symlink, size, Body::Symlink(target.to_vec()));
        self.link(name, ino);
    }

    pub(super) fn xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) {
        let node = self.nodes.get_mut(&ino).expect("an inode that was added");
        node.xattrs.push((name.to_vec(), value.to_vec()));
    }

    /// Every request for this inode fails.
    pub(super) fn break_inode(&mut self, ino: Ino, kind: ErrorKind) {
        self.broken.insert(ino, kind);
    }

    /// A lookup of `name` waits until it is let go by the second; the first tells that it has begun.
    pub(super) fn slow_lookup(&mut self, name: &[u8]) -> (Arc<Notify>, Arc<Notify>) {
        let (begun, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let slow = Slow { name: name.to_vec(), begun: Arc::clone(&begun), gate: Arc::clone(&gate) };
        self.slow = Some(slow);
        (begun, gate)
    }

    fn node(&self, ino: Ino) -> Result<&Node> {
        if let Some(kind) = self.broken.get(&ino) {
            return Err(Error::new(*kind, format!("{ino} is broken")));
        }
        self.nodes.get(&ino).ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("no {ino}")))
    }

    fn entries(&self, dir: Ino) -> Result<&[(Vec<u8>, Ino)]> {
        match &self.node(dir)?.body {
            Body::Directory(entries) => Ok(entries),
            _ => Err(Error::new(ErrorKind::NotDir, format!("{dir} is no directory"))),
        }
    }

    fn batch(&self, dir: Ino, cookie: u64) -> Result<Vec<DirEntry>> {
        let entries = self.entries(dir)?.iter().enumerate();
        let after = entries.skip(usize::try_from(cookie).expect("a cookie given out below"));
        let batch = after.take(BATCH).map(|(index, (name, ino))| DirEntry {
            ino: *ino,
            name: name.clone(),
            file_type: self
                .types_in_directories
                .then(|| self.nodes.get(ino).map_or(FileType::Fifo, |node| node.attr.file_type)),
            cookie: index as u64 + 1,
        });
        Ok(batch.collect())
    }
}

impl Filesystem for Memory {
    fn root(&self) -> Ino {
        ROOT
    }

    fn lookup<'a>(&'a self, dir: Ino, name: &'a [u8]) -> Pending<'a, Ino> {
        Box::pin(async move {
            if let Some(slow) = self.slow.as_ref().filter(|slow| slow.name == name) {
                slow.begun.notify_one();
                slow.gate.notified().await;
            }
            let found = self.entries(dir)?.iter().find(|(entry, _)| entry == name);
            found
                .map(|(_, ino)| *ino)
                .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such name"))
        })
    }

    fn getattr(&self, ino: Ino) -> Pending<'_, Attr> {
        Box::pin(async move { Ok(self.node(ino)?.attr.clone()) })
    }

    fn readdir(&self, dir: Ino, cookie: u64) -> Pending<'_, Vec<DirEntry>> {
        self.listings.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { self.batch(dir, cookie) })
    }

    fn readlink(&self, ino: Ino) -> Pending<'_, Vec<u8>> {
        Box::pin(async move {
            match &self.node(ino)?.body {
                Body::Symlink(target) => Ok(target.clone()),
                _ => Err(Error::new(ErrorKind::InvalidInput, format!("{ino} is no link"))),
            }
        })
    }

    fn open(&self, ino: Ino) -> Pending<'_, Arc<dyn FileReader>> {
        Box::pin(async move {
            match &self.node(ino)?.body {
                Body::File(file) => Ok(Arc::clone(file) as Arc<dyn FileReader>),
                _ => Err(Error::new(ErrorKind::IsDir, format!("{ino} is no file"))),
            }
        })
    }

    fn listxattr(&self, ino: Ino) -> Pending<'_, Vec<Vec<u8>>> {
        Box::pin(async move {
            Ok(self.node(ino)?.xattrs.iter().map(|(name, _)| name.clone()).collect())
        })
    }

    fn getxattr<'a>(&'a self, ino: Ino, name: &'a [u8]) -> Pending<'a, Vec<u8>> {
        Box::pin(async move {
            let found = self.node(ino)?.xattrs.iter().find(|(known, _)| known == name);
            found
                .map(|(_, value)| value.clone())
                .ok_or_else(|| Error::new(ErrorKind::NoXattr, "no such attribute"))
        })
    }

    fn statfs(&self) -> Pending<'_, StatFs> {
        Box::pin(async {
            Ok(StatFs {
                block_size: 1024,
                blocks: 1000,
                blocks_free: 300,
                blocks_available: 200,
                files: 50,
                files_free: 40,
                name_max: 255,
            })
        })
    }

    fn prefetch_inodes(&self, inodes: &[Ino]) {
        self.prefetched.lock().expect("no test panics here").extend_from_slice(inodes);
    }

    fn check_unchanged(&self) -> Pending<'_, ()> {
        Box::pin(async {
            match self.changed.load(Ordering::Relaxed) {
                false => Ok(()),
                true => Err(Error::new(ErrorKind::BeingWritten, "the volume is being written")),
            }
        })
    }
}

impl FileReader for File {
    fn read(&self, offset: u64, len: usize) -> Pending<'_, Segments> {
        let end = self.size.min(offset.saturating_add(len as u64));
        let mut answer = Segments::new();
        let mut at = offset;
        for (start, bytes) in &self.data {
            let from = at.max(*start);
            let to = end.min(start + bytes.len() as u64);
            if from < to {
                answer.append(Segments::zeros((from - at) as usize));
                answer.push(bytes.slice((from - start) as usize..(to - start) as usize));
                at = to;
            }
        }
        answer.append(Segments::zeros(end.saturating_sub(at) as usize));
        // Not ready at the first poll, as a read that has to wait for the target.
        Box::pin(async move {
            tokio::task::yield_now().await;
            Ok(answer)
        })
    }

    fn data_range(&self, offset: u64) -> Pending<'_, Option<Range<u64>>> {
        let mut ranges = self.data.iter().map(|(start, bytes)| *start..start + bytes.len() as u64);
        let found = ranges.find(|range| range.end > offset);
        Box::pin(async move { Ok(found) })
    }
}
