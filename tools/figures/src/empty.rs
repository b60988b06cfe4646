//! A FUSE server of one file that costs nothing to read, or one read of an image each time: the limit of any other.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry,
    ReplyOpen, Request, Session,
};

use crate::images::BIG;

const TTL: Duration = Duration::from_secs(3600);

struct Empty {
    bytes: Vec<u8>,
    /// Where each answer is read from, if not from nowhere.
    image: Option<File>,
}

fn attr(node: INodeNo) -> FileAttr {
    let root = node == INodeNo::ROOT;
    FileAttr {
        ino: node,
        size: if root { 0 } else { BIG },
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if root { FileType::Directory } else { FileType::RegularFile },
        perm: 0o755,
        nlink: 1,
        uid: 65534,
        gid: 65534,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Empty {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_write(1 << 20);
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.entry(&TTL, &attr(INodeNo(2)), Generation(0));
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attr(node));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(1), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let len = u64::from(size).min(BIG.saturating_sub(offset)) as usize;
        let Some(image) = &self.image else {
            return reply.data(&self.bytes[..len.min(self.bytes.len())]);
        };
        let mut bytes = vec![0; len];
        match image.read_exact_at(&mut bytes, offset) {
            Ok(()) => reply.data(&bytes),
            Err(_) => reply.error(Errno::EIO),
        }
    }
}

/// Serves until unmounted, with the threads and options that our own mounts have.
pub(crate) fn serve(mountpoint: &Path, image: Option<&Path>) -> anyhow::Result<()> {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::RO, MountOption::FSName("empty".into())];
    config.n_threads = Some(2);
    config.clone_fd = true;
    let image = image.map(File::open).transpose()?;
    let session = Session::new(Empty { bytes: vec![0; 1 << 20], image }, mountpoint, &config)?;
    session.spawn()?.join()?;
    Ok(())
}
