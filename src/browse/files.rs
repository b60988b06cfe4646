//! The tree as a [`Filesystem`]: its own directories answered here, everything else by the volumes.

use std::future;
use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use crate::block::Segments;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{
    Attr, DeviceNumber, DirEntry, FileReader, FileType, Filesystem, Ino, Pending, StatFs,
    UNCHANGING,
};

use super::Browse;
use super::target::{Lease, Live, Target, stale};
use super::tree::{Kind, Node, NodeId, Place, ROOT, node_ino, volume_ino};

/// How long the kernel may keep names and attributes of the tree's own directories.
const SHORT: Duration = Duration::from_secs(1);

/// How long one who is asked to check permissions again may take to do that.
const COMES_BACK: Duration = Duration::from_millis(250);

/// An inode of a volume, ready to be asked.
struct Inside {
    filesystem: Arc<dyn Filesystem>,
    ino: Ino,
    slot: u32,
    live: Arc<Live>,
    target: Arc<Target>,
    /// Keeps the target logged in as long as this is used.
    _lease: Lease,
}

/// Where an inode number leads.
enum Where {
    Node(NodeId, Node),
    Inside(Inside),
}

impl Browse {
    fn node(&self, id: NodeId) -> Result<Node> {
        self.shared.read().get(id).cloned().ok_or_else(stale)
    }

    /// Where `ino` leads; a target is logged in to on the way.
    async fn enter(&self, ino: Ino) -> Result<Where> {
        match Place::of(ino) {
            Place::Node(id) => {
                let node = self.node(id)?;
                match &node.kind {
                    Kind::Target(target) => {
                        let lease = target.lease();
                        let live = self.shared.log_in(target).await?;
                        match live.direct() {
                            Some(slot) => {
                                inside(target, lease, live, slot, None).map(Where::Inside)
                            }
                            None => Ok(Where::Node(id, node)),
                        }
                    }
                    Kind::Volume(target, slot) => {
                        let lease = target.lease();
                        let live = self.shared.log_in(target).await?;
                        inside(target, lease, live, *slot, None).map(Where::Inside)
                    }
                    _ => Ok(Where::Node(id, node)),
                }
            }
            Place::Inode(slot, ino) => {
                let target = self.shared.read().slot(slot).ok_or_else(stale)?;
                let lease = target.lease();
                let live = self.shared.log_in(&target).await?;
                inside(&target, lease, live, slot, Some(ino)).map(Where::Inside)
            }
        }
    }

    /// The same for requests that only a volume answers.
    async fn enter_volume(&self, ino: Ino) -> Result<Option<Inside>> {
        match self.enter(ino).await? {
            Where::Inside(inside) => Ok(Some(inside)),
            Where::Node(..) => Ok(None),
        }
    }

    /// The number under which the tree shows an inode of a volume.
    fn outer(&self, inside: &Inside, ino: Ino) -> Result<Ino> {
        if ino == inside.filesystem.root() {
            let shown = self.shared.read().shown(inside.slot).ok_or_else(stale)?;
            return Ok(node_ino(shown));
        }
        volume_ino(inside.slot, ino).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("{ino}: a number past 2^32 in a tree of volumes"),
            )
        })
    }

    /// The attributes of a directory, link or file of the tree itself.
    fn node_attr(&self, id: NodeId, node: &Node) -> Attr {
        let (file_type, permissions, size) = match &node.kind {
            Kind::Link(target) => (FileType::Symlink, 0o777, target.len() as u64),
            Kind::Status { json } => {
                (FileType::Regular, 0o444, self.shared.status(*json).len() as u64)
            }
            Kind::Dir | Kind::Target(_) | Kind::Volume(..) => (FileType::Directory, 0o555, 0),
        };
        let nlink = match file_type {
            FileType::Directory => self.shared.read().subdirectories(id).saturating_add(2),
            _ => 1,
        };
        let time = self.shared.started;
        Attr {
            ino: node_ino(id),
            file_type,
            permissions,
            nlink,
            uid: self.shared.owner.0,
            gid: self.shared.owner.1,
            rdev: DeviceNumber::default(),
            size,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: None,
            generation: 0,
        }
    }

    async fn attr_of(&self, ino: Ino) -> Result<Attr> {
        // Looking at a target from outside is no reason to log in: `ls -l` of the root does that to all of them.
        if let Place::Node(id) = Place::of(ino) {
            let node = self.node(id)?;
            let logged_in = match &node.kind {
                Kind::Target(target) => target.live().is_some_and(|live| live.direct().is_some()),
                Kind::Volume(target, _) => target.live().is_some(),
                _ => false,
            };
            if !logged_in {
                return Ok(self.node_attr(id, &node));
            }
        }
        match self.enter(ino).await? {
            Where::Node(id, node) => Ok(self.node_attr(id, &node)),
            Where::Inside(inside) => {
                let attr = inside.ask(inside.filesystem.getattr(inside.ino)).await?;
                Ok(Attr { ino, ..attr })
            }
        }
    }

    /// Before its login a target is open to everybody, whatever its root directory will be.
    async fn make_real(&self, dir: Ino, who: u32) -> Result<bool> {
        let Place::Node(id) = Place::of(dir) else { return Ok(true) };
        let (Kind::Target(target) | Kind::Volume(target, _)) = self.node(id)?.kind else {
            return Ok(true);
        };
        let lease = target.lease();
        let is_real = self.shared.log_in(&target).await?.is_known_to(who);
        if !is_real {
            // It must not be logged out again before whoever asked has come back.
            tokio::spawn(async move {
                tokio::time::sleep(COMES_BACK).await;
                lease.end_unused();
            });
        }
        Ok(is_real)
    }

    async fn find(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        match self.enter(dir).await? {
            Where::Inside(inside) => {
                let found = inside.ask(inside.filesystem.lookup(inside.ino, name)).await?;
                self.outer(&inside, found)
            }
            Where::Node(id, node) => {
                let text = std::str::from_utf8(name).ok();
                let look = || Some(node_ino(self.shared.read().find(id, text?)?));
                match text {
                    Some(".") => return Ok(node_ino(id)),
                    Some("..") => return Ok(node_ino(node.parent)),
                    _ => {}
                }
                if let Some(found) = look() {
                    return Ok(found);
                }
                if id == ROOT && self.shared.refresh_for(name).await {
                    if let Some(found) = look() {
                        return Ok(found);
                    }
                }
                let name = String::from_utf8_lossy(name);
                Err(Error::new(ErrorKind::NotFound, format!("{name}: no such target or directory")))
            }
        }
    }

    async fn list(&self, dir: Ino, cookie: u64) -> Result<Vec<DirEntry>> {
        let inside = match self.enter(dir).await? {
            Where::Node(id, node) => return Ok(self.list_node(id, &node, cookie)),
            Where::Inside(inside) => inside,
        };
        let mut batch = inside.ask(inside.filesystem.readdir(inside.ino, cookie)).await?;
        let top = inside.ino == inside.filesystem.root();
        for entry in &mut batch {
            entry.ino = match entry.name.as_slice() {
                b".." if top => match Place::of(dir) {
                    Place::Node(id) => node_ino(self.node(id)?.parent),
                    Place::Inode(..) => node_ino(ROOT),
                },
                _ => self.outer(&inside, entry.ino)?,
            };
        }
        Ok(batch)
    }

    /// Cookies: 1 and 2 for the two dots, then the number of the node and 2, which only grows.
    fn list_node(&self, id: NodeId, node: &Node, cookie: u64) -> Vec<DirEntry> {
        let dots = [(1, ".", id), (2, "..", node.parent)];
        let dots =
            dots.into_iter().filter(|(at, ..)| *at > cookie).map(|(at, name, id)| DirEntry {
                ino: node_ino(id),
                name: name.into(),
                file_type: Some(FileType::Directory),
                cookie: at,
            });
        let tree = self.shared.read();
        let after = NodeId::try_from(cookie.saturating_sub(2)).unwrap_or(NodeId::MAX);
        let children = tree.children(id, after).map(|(child, node)| DirEntry {
            ino: node_ino(child),
            name: node.name.clone().into_bytes(),
            file_type: Some(match node.kind {
                Kind::Link(_) => FileType::Symlink,
                Kind::Status { .. } => FileType::Regular,
                _ => FileType::Directory,
            }),
            cookie: u64::from(child) + 2,
        });
        dots.chain(children).collect()
    }

    async fn open_file(&self, ino: Ino) -> Result<Arc<dyn FileReader>> {
        match self.enter(ino).await? {
            Where::Inside(inside) => {
                let reader = inside.ask(inside.filesystem.open(inside.ino)).await?;
                Ok(Arc::new(Leased { reader, inside }))
            }
            Where::Node(_, Node { kind: Kind::Status { json }, .. }) => {
                Ok(Arc::new(Text(Bytes::from(self.shared.status(json)))))
            }
            Where::Node(_, node) => {
                Err(Error::new(ErrorKind::IsDir, format!("{}: is a directory", node.name)))
            }
        }
    }
}

impl Inside {
    /// Waits for an answer. A login that has turned out useless is given up, so that the next request makes a new one.
    async fn ask<T>(&self, mut answer: Pending<'_, T>) -> Result<T> {
        // What is in memory is told whatever the target does.
        let at_once = future::poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await;
        let answer = match (at_once, self.target.silence()) {
            (Poll::Ready(answer), _) => answer,
            (Poll::Pending, Some(silence)) => return Err(silence),
            (Poll::Pending, None) => {
                let answer = answer.await;
                if answer.is_ok() {
                    self.target.has_answered();
                }
                answer
            }
        };
        if let Err(error) = &answer {
            self.consider(error);
        }
        answer
    }

    fn consider(&self, error: &Error) {
        match error.kind() {
            // The session may come back, and open files with it.
            ErrorKind::Timeout => self.target.was_silent(error),
            ErrorKind::SessionLost | ErrorKind::LunNotFound => {
                if let Some(broken) = self.target.give_up(&self.live) {
                    tokio::spawn(async move { (broken.open.log_out)().await });
                }
            }
            _ => {}
        }
    }
}

fn inside(
    target: &Arc<Target>,
    lease: Lease,
    live: Arc<Live>,
    slot: u32,
    ino: Option<Ino>,
) -> Result<Inside> {
    let filesystem = live.volume(slot)?.cloned().ok_or_else(stale)?;
    let ino = ino.unwrap_or(filesystem.root());
    Ok(Inside { filesystem, ino, slot, live, target: Arc::clone(target), _lease: lease })
}

impl Filesystem for Browse {
    fn root(&self) -> Ino {
        node_ino(ROOT)
    }

    fn lookup<'a>(&'a self, dir: Ino, name: &'a [u8]) -> Pending<'a, Ino> {
        Box::pin(self.find(dir, name))
    }

    fn getattr(&self, ino: Ino) -> Pending<'_, Attr> {
        Box::pin(self.attr_of(ino))
    }

    fn readdir(&self, dir: Ino, cookie: u64) -> Pending<'_, Vec<DirEntry>> {
        Box::pin(self.list(dir, cookie))
    }

    fn readlink(&self, ino: Ino) -> Pending<'_, Vec<u8>> {
        Box::pin(async move {
            match self.enter(ino).await? {
                Where::Inside(inside) => inside.ask(inside.filesystem.readlink(inside.ino)).await,
                Where::Node(_, Node { kind: Kind::Link(target), .. }) => Ok(target.into_bytes()),
                Where::Node(_, node) => Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("{}: not a symbolic link", node.name),
                )),
            }
        })
    }

    fn open(&self, ino: Ino) -> Pending<'_, Arc<dyn FileReader>> {
        Box::pin(self.open_file(ino))
    }

    fn listxattr(&self, ino: Ino) -> Pending<'_, Vec<Vec<u8>>> {
        Box::pin(async move {
            match self.enter_volume(ino).await? {
                Some(inside) => inside.ask(inside.filesystem.listxattr(inside.ino)).await,
                None => Ok(Vec::new()),
            }
        })
    }

    fn getxattr<'a>(&'a self, ino: Ino, name: &'a [u8]) -> Pending<'a, Vec<u8>> {
        Box::pin(async move {
            // `ls -l` asks every directory of the root for its ACL: that is no reason to log in.
            let outside = match Place::of(ino) {
                Place::Node(id) => match self.node(id)?.kind {
                    Kind::Target(target) => target.live().is_none(),
                    _ => false,
                },
                Place::Inode(..) => false,
            };
            let inside = if outside { None } else { self.enter_volume(ino).await? };
            match inside {
                Some(inside) => inside.ask(inside.filesystem.getxattr(inside.ino, name)).await,
                None => Err(Error::new(ErrorKind::NoXattr, "no such attribute")),
            }
        })
    }

    fn statfs(&self) -> Pending<'_, StatFs> {
        Box::pin(async {
            Ok(StatFs {
                block_size: 4096,
                blocks: 0,
                blocks_free: 0,
                blocks_available: 0,
                files: 0,
                files_free: 0,
                name_max: 255,
            })
        })
    }

    fn prefetch_inodes(&self, inodes: &[Ino]) {
        let Some(slot) = inodes.iter().find_map(|ino| match Place::of(*ino) {
            Place::Inode(slot, _) => Some(slot),
            Place::Node(_) => None,
        }) else {
            return;
        };
        let live = self.shared.read().slot(slot).and_then(|target| target.live());
        let Some(Ok(Some(filesystem))) = live.as_ref().map(|live| live.volume(slot)) else {
            return;
        };
        let inner: Vec<Ino> = inodes
            .iter()
            .filter_map(|ino| match Place::of(*ino) {
                Place::Inode(of, ino) if of == slot => Some(ino),
                _ => None,
            })
            .collect();
        filesystem.prefetch_inodes(&inner);
    }

    fn check_unchanged(&self) -> Pending<'_, ()> {
        // One volume that is being written must not take the others away: only it is answered with errors.
        Box::pin(async {
            for target in self.shared.targets() {
                let lease = target.lease();
                if let Some(live) = target.live() {
                    live.check_unchanged(&target.record().name).await;
                }
                lease.end_unused();
            }
            Ok(())
        })
    }

    fn settle(&self, dir: Ino, who: u32) -> Pending<'_, bool> {
        Box::pin(self.make_real(dir, who))
    }

    fn attr_lifetime(&self, ino: Ino) -> Duration {
        let changes = match Place::of(ino) {
            Place::Inode(..) => false,
            Place::Node(id) => match self.shared.read().get(id) {
                Some(node) => matches!(node.kind, Kind::Target(_) | Kind::Volume(..)),
                None => false,
            },
        };
        // What a login changes must not be kept over it.
        if changes { Duration::ZERO } else { self.lifetime(ino) }
    }

    fn lifetime(&self, ino: Ino) -> Duration {
        match Place::of(ino) {
            Place::Inode(..) => UNCHANGING,
            Place::Node(id) => match self.shared.read().get(id).map(|node| &node.kind) {
                Some(Kind::Status { .. }) => Duration::ZERO,
                _ => SHORT,
            },
        }
    }
}

/// An open file that keeps its target logged in.
struct Leased {
    reader: Arc<dyn FileReader>,
    inside: Inside,
}

impl FileReader for Leased {
    fn read(&self, offset: u64, len: usize) -> Pending<'_, Segments> {
        Box::pin(async move {
            self.inside.live.volume(self.inside.slot)?;
            self.inside.ask(self.reader.read(offset, len)).await
        })
    }

    fn try_read(&self, offset: u64, len: usize) -> Option<Result<Segments>> {
        self.inside.live.volume(self.inside.slot).ok()?;
        self.reader.try_read(offset, len)
    }

    fn data_range(&self, offset: u64) -> Pending<'_, Option<Range<u64>>> {
        Box::pin(self.inside.ask(self.reader.data_range(offset)))
    }
}

/// A text of the tree's own.
struct Text(Bytes);

impl FileReader for Text {
    fn read(&self, offset: u64, len: usize) -> Pending<'_, Segments> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let end = start.saturating_add(len).min(self.0.len());
        let part = Segments::from(self.0.slice(start..end));
        Box::pin(async move { Ok(part) })
    }

    fn data_range(&self, offset: u64) -> Pending<'_, Option<Range<u64>>> {
        let end = self.0.len() as u64;
        Box::pin(async move { Ok((offset < end).then_some(offset..end)) })
    }
}
