//! A file system in memory for tests, as well behaved or as hostile as a test wants it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::{
    Attr, DeviceNumber, DirEntry, FileReader, FileType, Filesystem, Ino, Pending, StatFs, Timestamp,
};
use crate::block::Segments;
use crate::error::{Error, ErrorKind, Result};

const ROOT: Ino = Ino(2);

/// A tree of nodes. Paths in its methods are walked by names only; missing directories are made.
#[derive(Clone, Default)]
pub(crate) struct MemoryFs {
    nodes: BTreeMap<Ino, Node>,
    /// What [`Filesystem::check_unchanged`] answers.
    pub(crate) being_written: bool,
}

/// One inode.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) attr: Attr,
    /// The entries of a directory, in listing order. Nothing is checked: names may repeat, or be `..`.
    pub(crate) entries: Vec<(Vec<u8>, Ino)>,
    /// The contents of a file or the target of a link.
    pub(crate) contents: Vec<u8>,
    /// Which parts (start, end) of the contents are data; the rest are holes.
    pub(crate) data: Vec<(u64, u64)>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Listing the attributes fails with this.
    pub(crate) xattrs_failure: Option<ErrorKind>,
    /// Reading the contents from here on never ends.
    pub(crate) hangs_at: Option<u64>,
    /// Reading the contents fails with this.
    pub(crate) failure: Option<ErrorKind>,
    /// The entries of a directory that are listed before `failure`.
    pub(crate) sound: usize,
}

impl MemoryFs {
    /// An empty root directory.
    pub(crate) fn new() -> Self {
        let mut fs = Self::default();
        fs.nodes.insert(ROOT, node(ROOT, FileType::Directory, Vec::new()));
        fs
    }

    /// Adds a node that no directory names yet.
    pub(crate) fn add(&mut self, file_type: FileType, contents: &[u8]) -> Ino {
        let ino = Ino(self.nodes.len() as u64 + 10);
        self.nodes.insert(ino, node(ino, file_type, contents.to_vec()));
        ino
    }

    /// Adds a node at `path`.
    pub(crate) fn put(&mut self, path: &str, file_type: FileType, contents: &[u8]) -> Ino {
        let ino = self.add(file_type, contents);
        self.link(path, ino);
        ino
    }

    /// Adds a regular file at `path`.
    pub(crate) fn file(&mut self, path: &str, contents: &[u8]) -> Ino {
        self.put(path, FileType::Regular, contents)
    }

    /// Adds a symbolic link at `path`.
    pub(crate) fn symlink(&mut self, path: &str, target: &[u8]) -> Ino {
        self.put(path, FileType::Symlink, target)
    }

    /// Makes the directory `path` and those above it.
    pub(crate) fn directory(&mut self, path: &str) -> Ino {
        let mut here = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            here = match self.find(here, name.as_bytes()) {
                Some(ino) => ino,
                None => {
                    let ino = self.add(FileType::Directory, b"");
                    self.entry(here, name.as_bytes(), ino);
                    ino
                }
            };
        }
        here
    }

    /// Names an existing node at `path` too.
    pub(crate) fn link(&mut self, path: &str, ino: Ino) {
        let (directory, name) = path.rsplit_once('/').unwrap();
        let directory = self.directory(directory);
        self.entry(directory, name.as_bytes(), ino);
    }

    /// Adds an entry with any name to a directory.
    pub(crate) fn entry(&mut self, directory: Ino, name: &[u8], ino: Ino) {
        if self.node(ino).attr.file_type != FileType::Directory {
            let links =
                self.nodes.values().flat_map(|node| &node.entries).filter(|(_, to)| *to == ino);
            self.node(ino).attr.nlink = u32::try_from(links.count()).unwrap() + 1;
        }
        self.node(directory).entries.push((name.to_vec(), ino));
    }

    /// A node to change.
    pub(crate) fn node(&mut self, ino: Ino) -> &mut Node {
        self.nodes.get_mut(&ino).unwrap()
    }

    fn find(&self, directory: Ino, name: &[u8]) -> Option<Ino> {
        self.nodes[&directory].entries.iter().find(|(entry, _)| entry == name).map(|(_, ino)| *ino)
    }

    fn get(&self, ino: Ino) -> Result<&Node> {
        self.nodes
            .get(&ino)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("{ino}: not there")))
    }
}

fn node(ino: Ino, file_type: FileType, contents: Vec<u8>) -> Node {
    let size = contents.len() as u64;
    let time = Timestamp { seconds: 1_700_000_000 + ino.0 as i64, nanoseconds: 123_456_789 };
    let directory = file_type == FileType::Directory;
    Node {
        attr: Attr {
            ino,
            file_type,
            permissions: if directory { 0o755 } else { 0o644 },
            nlink: if directory { 2 } else { 1 },
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            rdev: DeviceNumber::default(),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: None,
            generation: 0,
        },
        entries: Vec::new(),
        data: vec![(0, size)],
        contents,
        xattrs: Vec::new(),
        xattrs_failure: None,
        hangs_at: None,
        failure: None,
        sound: 0,
    }
}

fn ready<'a, T: Send + 'a>(result: Result<T>) -> Pending<'a, T> {
    Box::pin(std::future::ready(result))
}

impl Filesystem for MemoryFs {
    fn root(&self) -> Ino {
        ROOT
    }

    fn lookup<'a>(&'a self, dir: Ino, name: &'a [u8]) -> Pending<'a, Ino> {
        ready(self.find(dir, name).ok_or_else(|| Error::new(ErrorKind::NotFound, "no such entry")))
    }

    fn getattr(&self, ino: Ino) -> Pending<'_, Attr> {
        ready(self.get(ino).map(|node| node.attr.clone()))
    }

    fn readdir(&self, dir: Ino, cookie: u64) -> Pending<'_, Vec<DirEntry>> {
        let list = |node: &Node| {
            let dots = [(b".".to_vec(), dir), (b"..".to_vec(), ROOT)];
            let entries = dots.into_iter().chain(node.entries.iter().cloned()).zip(1..);
            let entries = entries.skip(cookie as usize).take(7);
            entries
                .map(|((name, ino), cookie)| DirEntry {
                    ino,
                    name,
                    file_type: self.nodes.get(&ino).map(|node| node.attr.file_type),
                    cookie,
                })
                .collect()
        };
        ready(self.get(dir).and_then(|node| match node.failure {
            Some(kind) if cookie as usize >= node.sound => {
                Err(Error::new(kind, format!("{dir}: as the test wants it")))
            }
            _ => Ok(list(node)),
        }))
    }

    fn readlink(&self, ino: Ino) -> Pending<'_, Vec<u8>> {
        ready(self.get(ino).map(|node| node.contents.clone()))
    }

    fn open(&self, ino: Ino) -> Pending<'_, Arc<dyn FileReader>> {
        ready(self.get(ino).map(|node| Arc::new(node.clone()) as Arc<dyn FileReader>))
    }

    fn listxattr(&self, ino: Ino) -> Pending<'_, Vec<Vec<u8>>> {
        ready(self.get(ino).and_then(|node| match node.xattrs_failure {
            Some(kind) => Err(Error::new(kind, format!("{ino}: as the test wants it"))),
            None => Ok(node.xattrs.iter().map(|(name, _)| name.clone()).collect()),
        }))
    }

    fn getxattr<'a>(&'a self, ino: Ino, name: &'a [u8]) -> Pending<'a, Vec<u8>> {
        let missing = || Error::new(ErrorKind::NoXattr, "no such attribute");
        ready(self.get(ino).and_then(|node| {
            let found = node.xattrs.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone()).ok_or_else(missing)
        }))
    }

    fn statfs(&self) -> Pending<'_, StatFs> {
        ready(Ok(StatFs {
            block_size: 4096,
            blocks: 1000,
            blocks_free: 0,
            blocks_available: 0,
            files: self.nodes.len() as u64,
            files_free: 0,
            name_max: 255,
        }))
    }

    fn check_unchanged(&self) -> Pending<'_, ()> {
        ready(if self.being_written {
            Err(Error::new(ErrorKind::BeingWritten, "the volume is being written"))
        } else {
            Ok(())
        })
    }
}

impl FileReader for Node {
    fn read(&self, offset: u64, len: usize) -> Pending<'_, Segments> {
        if let Some(kind) = self.failure {
            return ready(Err(Error::new(
                kind,
                format!("{}: as the test wants it", self.attr.ino),
            )));
        }
        if self.hangs_at.is_some_and(|at| offset >= at) {
            return Box::pin(std::future::pending());
        }
        let start = usize::try_from(offset).unwrap().min(self.contents.len());
        let end = start.saturating_add(len).min(self.contents.len());
        ready(Ok(Segments::from(self.contents[start..end].to_vec())))
    }

    fn data_range(&self, offset: u64) -> Pending<'_, Option<Range<u64>>> {
        let next = self.data.get(self.data.partition_point(|(_, end)| *end <= offset));
        ready(Ok(next.map(|(start, end)| *start.max(&offset)..*end)))
    }
}
