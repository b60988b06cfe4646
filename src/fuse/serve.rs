//! The requests of the kernel, each handed to the [`View`] and its answer handed back.

use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use tokio::runtime::Handle;

use super::errno::{device_errno, errno, is_ordinary};
use super::farewell::Farewell;
use super::handles::Handles;
use super::node;
use super::rest::Rest;
use super::view::{Full, Listing, SeekTo, View, Want};
use crate::error::Error;
use crate::fs::{FileReader, UNCHANGING};

/// How much use passes between two looks whether the volume is being written.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The largest request. It also sets how many pages one read may ask for.
const MAX_REQUEST: u32 = 1 << 20;

/// Readahead requests that the kernel may have under way.
const MAX_BACKGROUND: u16 = 64;

/// The extended attribute of the root, listed nowhere, that names the process behind the mount, and the descriptor that
/// it tells the outcome through.
pub(super) const PROCESS_XATTR: &str = "user.snapbrowse.process";

/// What the session threads share.
pub(super) struct Server {
    view: Arc<View>,
    files: Arc<Handles<dyn FileReader>>,
    directories: Arc<Handles<Listing>>,
    watch: Arc<Watch>,
    rest: Rest,
    runtime: Handle,
    kernel_checks_permissions: bool,
    farewell: Farewell,
}

impl Server {
    pub(super) fn new(
        view: View,
        runtime: Handle,
        kernel_checks_permissions: bool,
        farewell: Farewell,
    ) -> Self {
        Self {
            view: Arc::new(view),
            files: Arc::default(),
            directories: Arc::default(),
            watch: Arc::default(),
            rest: Rest::default(),
            runtime,
            kernel_checks_permissions,
            farewell,
        }
    }

    /// Runs `work`, which ends by sending a reply: here and now as far as it goes without waiting, the rest on the
    /// runtime. An answer from memory costs no switch to another thread.
    fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        let _context = self.runtime.enter();
        self.watch.used(&self.view);
        let mut work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work);
        // A panic here must cost one request (its dropped reply says EIO), not a thread that serves the mount.
        let poll = std::panic::catch_unwind(AssertUnwindSafe(|| {
            work.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        }));
        if let Ok(Poll::Pending) = poll {
            self.runtime.spawn(work);
            self.rest.handed_on();
        } else {
            self.rest.answered();
        }
    }
}

/// Looks after every [`CHECK_INTERVAL`] of use whether the volume is being written. An idle mount sets no timer.
#[derive(Debug, Default)]
struct Watch {
    scheduled: AtomicBool,
}

impl Watch {
    /// Takes note of a request; called in the runtime's context.
    fn used(self: &Arc<Self>, view: &Arc<View>) {
        if self.scheduled.load(Ordering::Relaxed) || self.scheduled.swap(true, Ordering::Relaxed) {
            return;
        }
        let (watch, view) = (Arc::clone(self), Arc::clone(view));
        tokio::spawn(async move {
            tokio::time::sleep(CHECK_INTERVAL).await;
            match view.check_unchanged().await {
                Ok(()) => watch.scheduled.store(false, Ordering::Relaxed),
                // Nothing is answered any more, so there is nothing left to watch.
                Err(error) => tracing::error!("{error}; every further request is answered EIO"),
            }
        });
    }
}

/// The errno for a failed request; what is not an everyday answer goes to the log too.
fn refuse(request: &str, view: &View, node: INodeNo, error: &Error) -> Errno {
    if !is_ordinary(error.kind()) {
        tracing::warn!("{request} {}: {error}", view.ino(node));
    }
    // In a tree of targets it helps to know which of them refuse a login; one file system is one device, open already.
    if view.is_a_tree_of_targets() { errno(error.kind()) } else { device_errno(error.kind()) }
}

/// Where the kernel has checked permissions for a thread (`checked`) by attributes that were not the real ones yet, it has to do that again: with
/// `ESTALE` it begins the whole path anew, and whoever asked sees nothing of it.
async fn settle(checked: Option<u32>, view: &View, dir: INodeNo) -> Result<(), Errno> {
    let Some(who) = checked else { return Ok(()) };
    match view.settle(dir, who).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Errno::ESTALE),
        Err(error) => Err(refuse("enter", view, dir, &error)),
    }
}

impl fuser::Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Not FUSE_READDIRPLUS_AUTO: by that the kernel takes attributes with the first reply of a listing only, if nothing
        // is looked at before the last, and asks for those of all other entries one by one. Their inodes are read anyway.
        let mut wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_CACHE_SYMLINKS;
        if self.kernel_checks_permissions {
            // The ACLs too: without them a file's group would get what the mask allows.
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        for flag in wanted {
            // An older kernel works without; it is only slower.
            if config.add_capabilities(flag).is_err() {
                tracing::debug!("the kernel has no {flag:?}");
            }
        }
        // Each setter only fails for values out of its range, and then keeps what was there.
        let _ = config.set_max_write(MAX_REQUEST);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, request: &Request, dir: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (view, name) = (Arc::clone(&self.view), name.as_bytes().to_vec());
        let checked = self.kernel_checks_permissions.then(|| request.pid());
        self.run(async move {
            if let Err(errno) = settle(checked, &view, dir).await {
                return reply.error(errno);
            }
            let found = view.lookup(dir, &name).await;
            let ttl = view.lifetime(dir);
            match found {
                Ok(Some((attr, generation))) => {
                    let attr_ttl = view.attr_lifetime(attr.ino).min(ttl);
                    reply.entry_with_ttls(&attr_ttl, &ttl, &attr, generation);
                }
                // Node 0 with a time to live: the kernel remembers that there is no such name.
                Ok(None) => reply.entry(&ttl, &absent(), Generation(0)),
                Err(error) => reply.error(refuse("look up in", &view, dir, &error)),
            }
        });
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let view = Arc::clone(&self.view);
        self.run(async move {
            match view.attr(node).await {
                Ok(attr) => reply.attr(&view.attr_lifetime(node), &attr),
                Err(error) => reply.error(refuse("stat", &view, node, &error)),
            }
        });
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        let view = Arc::clone(&self.view);
        self.run(async move {
            match view.readlink(node).await {
                Ok(target) => reply.data(&target),
                Err(error) => reply.error(refuse("readlink", &view, node, &error)),
            }
        });
    }

    fn open(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let (view, files) = (Arc::clone(&self.view), Arc::clone(&self.files));
        self.run(async move {
            match view.open(node).await {
                Ok(file) => {
                    // What is true for no time at all has no size that holds either: it is read to its end.
                    let cache = match view.lifetime(node) {
                        Duration::ZERO => FopenFlags::FOPEN_DIRECT_IO,
                        _ => FopenFlags::FOPEN_KEEP_CACHE,
                    };
                    reply.opened(files.insert(file), cache | FopenFlags::FOPEN_NOFLUSH);
                }
                Err(error) => reply.error(refuse("open", &view, node, &error)),
            }
        });
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(file) = self.files.get(handle) else {
            return reply.error(Errno::EBADF);
        };
        let (view, len) = (Arc::clone(&self.view), size as usize);
        self.run(async move {
            let answer = match view.check_readable() {
                Err(changed) => Err(changed),
                Ok(()) => match file.try_read(offset, len) {
                    Some(answer) => answer,
                    None => file.read(offset, len).await,
                },
            };
            match answer {
                // One piece goes out as it is; a reply of several is put together first.
                Ok(segments) => reply.data(&segments.into_bytes()),
                Err(error) => {
                    refuse("read", &view, node, &error);
                    reply.error(device_errno(error.kind()));
                }
            }
        });
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.files.remove(handle);
        reply.ok();
    }

    fn opendir(&self, request: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let (view, directories) = (Arc::clone(&self.view), Arc::clone(&self.directories));
        let checked = self.kernel_checks_permissions.then(|| request.pid());
        self.run(async move {
            if let Err(errno) = settle(checked, &view, node).await {
                return reply.error(errno);
            }
            let cache = if view.lifetime(node) == UNCHANGING {
                FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR
            } else {
                FopenFlags::empty()
            };
            reply.opened(directories.insert(Arc::default()), cache);
        });
    }

    fn readdir(
        &self,
        _: &Request,
        dir: INodeNo,
        handle: FileHandle,
        cookie: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(listing) = self.directories.get(handle) else {
            return reply.error(Errno::EBADF);
        };
        let view = Arc::clone(&self.view);
        self.run(async move {
            let listed = view.list(dir, &listing, cookie, Want::Names, |listed| {
                let entry = listed.entry;
                let name = OsStr::from_bytes(&entry.name);
                Full::from(reply.add(INodeNo(entry.ino.0), entry.cookie, listed.file_type(), name))
            });
            match listed.await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(refuse("list", &view, dir, &error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        dir: INodeNo,
        handle: FileHandle,
        cookie: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(listing) = self.directories.get(handle) else {
            return reply.error(Errno::EBADF);
        };
        let view = Arc::clone(&self.view);
        self.run(async move {
            let listed = view.list(dir, &listing, cookie, Want::Attributes, |listed| {
                let entry = listed.entry;
                let (ttl, (attr, generation)) = match listed.attr() {
                    Some(known) => {
                        let ttl = view.lifetime(dir).min(view.attr_lifetime(known.0.ino));
                        (ttl, known)
                    }
                    None => {
                        let attr = node::unreadable(entry.ino, entry.file_type);
                        (Duration::ZERO, (attr, Generation(0)))
                    }
                };
                let name = OsStr::from_bytes(&entry.name);
                Full::from(reply.add(attr.ino, entry.cookie, name, &ttl, &attr, generation))
            });
            match listed.await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(refuse("list", &view, dir, &error)),
            }
        });
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.directories.remove(handle);
        reply.ok();
    }

    fn statfs(&self, _: &Request, node: INodeNo, reply: ReplyStatfs) {
        let view = Arc::clone(&self.view);
        self.run(async move {
            match view.statfs().await {
                Ok(stat) => reply.statfs(
                    stat.blocks,
                    stat.blocks_free,
                    stat.blocks_available,
                    stat.files,
                    stat.files_free,
                    stat.block_size,
                    stat.name_max,
                    stat.block_size,
                ),
                Err(error) => reply.error(refuse("statfs", &view, node, &error)),
            }
        });
    }

    fn getxattr(&self, _: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if node == INodeNo::ROOT && name == PROCESS_XATTR {
            let process = format!("{} {}", std::process::id(), self.farewell.number());
            return reply_xattr(reply, size, Ok(process.into_bytes()));
        }
        let (view, name) = (Arc::clone(&self.view), name.as_bytes().to_vec());
        self.run(async move {
            let value = view.getxattr(node, &name).await;
            reply_xattr(reply, size, value.map_err(|e| refuse("getxattr", &view, node, &e)));
        });
    }

    fn listxattr(&self, request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let (view, user) = (Arc::clone(&self.view), request.uid());
        self.run(async move {
            let names = view.listxattr(node, user).await;
            reply_xattr(reply, size, names.map_err(|e| refuse("listxattr", &view, node, &e)));
        });
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        // "Not implemented" means to the kernel: always allowed, and do not ask again. Writing is refused by the
        // read-only mount, and where others are let in the kernel checks permissions itself and never comes here.
        reply.error(Errno::ENOSYS);
    }

    fn lseek(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        // SEEK_DATA and SEEK_HOLE in <linux/fs.h>; the kernel answers all others itself.
        let to = match whence {
            3 => SeekTo::Data,
            4 => SeekTo::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(Errno::ENXIO);
        };
        let Some(file) = self.files.get(handle) else {
            return reply.error(Errno::EBADF);
        };
        let view = Arc::clone(&self.view);
        self.run(async move {
            match view.seek(node, &*file, offset, to).await {
                Ok(found) => match found.and_then(|found| i64::try_from(found).ok()) {
                    Some(found) => reply.offset(found),
                    None => reply.error(Errno::ENXIO),
                },
                Err(error) => reply.error(refuse("seek in", &view, node, &error)),
            }
        });
    }
}

/// `getxattr(2)`'s three answers: the size where 0 bytes are offered, the value where it fits, else `ERANGE`.
fn reply_xattr(reply: ReplyXattr, offered: u32, value: Result<Vec<u8>, Errno>) {
    match value {
        Err(errno) => reply.error(errno),
        Ok(value) => match u32::try_from(value.len()) {
            Ok(len) if offered == 0 => reply.size(len),
            Ok(len) if len <= offered => reply.data(&value),
            _ => reply.error(Errno::ERANGE),
        },
    }
}

/// The attributes beside node 0; nobody looks at them.
fn absent() -> FileAttr {
    node::unreadable(crate::fs::Ino(0), None)
}
