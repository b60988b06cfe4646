//! The crate `ext4-view` as a second reader, over the same blocks after recovery: an independent witness.
//!
//! It is synchronous, path based and bound to one thread, so it lives on a thread of its own and is handed work
//! through a channel. What it does not tell is made up or left out:
//! - inode numbers are given out in the order in which paths are met (the root is 2): they hold for this open
//!   file system only, and hard links look like separate files, each with one link;
//! - the time of the last change of an inode is given as that of its contents, the blocks in use are computed from
//!   the size, and there are no extended attributes;
//! - devices have no numbers and are refused;
//! - holes look like zeros: a file is one range of data.
//!
//! Its known faults (unwritten extents shown as data among them) are its own: `native` is the engine to restore
//! with.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use ext4_view::{Ext4, Ext4Error, Ext4Read, File, Metadata, PathBuf};
use futures_util::future;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::ext::Ext;
use super::{
    Attr, DeviceNumber, DirEntry, FileReader, FileType, Filesystem, Ino, Pending, StatFs, Timestamp,
};
use crate::block::{BlockSource, Segments};
use crate::error::{Error, ErrorKind, Result};

/// No single request to the crate takes as long as this: it hangs then.
const PATIENCE: Duration = Duration::from_secs(120);
/// The longest single read it is asked for.
const MAX_READ: usize = 1 << 20;
const ROOT: Ino = Ino(2);

/// A file system read by `ext4-view`.
pub struct Ext4View {
    native: Arc<Ext>,
    worker: Worker,
}

impl Ext4View {
    /// Opens what `native` has open, its journal played back, once more. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] and [`ErrorKind::Corrupt`] as the crate sees it.
    pub async fn open(native: Arc<Ext>) -> Result<Self> {
        let source = CleanSource { source: native.recovered()?, runtime: Handle::current() };
        let worker = Worker::start(source).await?;
        Ok(Self { native, worker })
    }
}

impl Filesystem for Ext4View {
    fn root(&self) -> Ino {
        ROOT
    }

    fn lookup<'a>(&'a self, dir: Ino, name: &'a [u8]) -> Pending<'a, Ino> {
        let name = name.to_vec();
        Box::pin(self.worker.ask(move |view| {
            let path = view.child(dir, &name)?;
            view.ext4.symlink_metadata(&path).map_err(|error| failed(&error, &path))?;
            Ok(view.ino_of(path))
        }))
    }

    fn getattr(&self, ino: Ino) -> Pending<'_, Attr> {
        Box::pin(self.worker.ask(move |view| {
            let path = view.path(ino)?;
            let metadata =
                view.ext4.symlink_metadata(path).map_err(|error| failed(&error, path))?;
            attr(ino, &metadata)
        }))
    }

    fn readdir(&self, dir: Ino, cookie: u64) -> Pending<'_, Vec<DirEntry>> {
        Box::pin(self.worker.ask(move |view| view.readdir(dir, cookie)))
    }

    fn readlink(&self, ino: Ino) -> Pending<'_, Vec<u8>> {
        Box::pin(self.worker.ask(move |view| {
            let path = view.path(ino)?;
            let target = view.ext4.read_link(path).map_err(|error| failed(&error, path))?;
            Ok(<PathBuf as AsRef<[u8]>>::as_ref(&target).to_vec())
        }))
    }

    fn open(&self, ino: Ino) -> Pending<'_, Arc<dyn FileReader>> {
        Box::pin(async move {
            let open = move |view: &mut View| Ok(view.file(ino)?.metadata().len());
            let size = self.worker.ask(open).await?;
            Ok(Arc::new(Reader { worker: self.worker.clone(), ino, size }) as Arc<dyn FileReader>)
        })
    }

    fn listxattr(&self, _ino: Ino) -> Pending<'_, Vec<Vec<u8>>> {
        Box::pin(future::ready(Ok(Vec::new())))
    }

    fn getxattr<'a>(&'a self, _ino: Ino, _name: &'a [u8]) -> Pending<'a, Vec<u8>> {
        let error = Error::new(ErrorKind::NoXattr, "ext4-view shows no extended attributes");
        Box::pin(future::ready(Err(error)))
    }

    fn statfs(&self) -> Pending<'_, StatFs> {
        self.native.statfs()
    }

    fn check_journal(&self) -> Pending<'_, Vec<Error>> {
        self.native.check_journal()
    }

    fn check_unchanged(&self) -> Pending<'_, ()> {
        self.native.check_unchanged()
    }
}

struct Reader {
    worker: Worker,
    ino: Ino,
    size: u64,
}

impl FileReader for Reader {
    fn read(&self, offset: u64, len: usize) -> Pending<'_, Segments> {
        let ino = self.ino;
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(left);
        Box::pin(async move {
            let mut whole = Segments::new();
            while whole.len() < len {
                let at = offset + whole.len() as u64;
                let now = (len - whole.len()).min(MAX_READ);
                whole.push(self.worker.ask(move |view| view.read(ino, at, now)).await?);
            }
            Ok(whole)
        })
    }

    fn data_range(&self, offset: u64) -> Pending<'_, Option<std::ops::Range<u64>>> {
        let range = (offset < self.size).then_some(offset..self.size);
        Box::pin(future::ready(Ok(range)))
    }
}

type Job = Box<dyn FnOnce(&mut View) + Send>;

/// The way to the thread that the crate lives on; the thread ends with the last of these.
#[derive(Clone)]
struct Worker {
    jobs: mpsc::Sender<Job>,
}

impl Worker {
    async fn start(source: CleanSource) -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (opened, is_open) = oneshot::channel();
        std::thread::Builder::new()
            .name("ext4-view".into())
            .spawn(move || {
                let load = || Ext4::load(Box::new(source)).map_err(|error| failed(&error, "/"));
                let mut view = match guarded(load) {
                    Ok(ext4) => View::new(ext4),
                    Err(error) => {
                        // Nobody listens any more where the answer cannot be delivered.
                        let _ = opened.send(Err(error));
                        return;
                    }
                };
                let _ = opened.send(Ok(()));
                for job in queue {
                    job(&mut view);
                }
            })
            .map_err(|error| Error::io("starting a thread for ext4-view", error))?;
        answer(is_open).await?;
        Ok(Self { jobs })
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut View) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, replied) = oneshot::channel();
        let job: Job = Box::new(move |view| {
            let _ = reply.send(guarded(|| question(view)));
        });
        // Where the thread is gone, so is `reply`.
        let _ = self.jobs.send(job);
        answer(replied).await
    }
}

/// Turns a panic of the crate into an error. Its state is only read afterwards, and borrows end with the unwinding.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no reason given");
        Err(Error::new(ErrorKind::Corrupt, format!("ext4-view panicked: {said}")))
    })
}

async fn answer<T>(reply: oneshot::Receiver<Result<T>>) -> Result<T> {
    match tokio::time::timeout(PATIENCE, reply).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(Error::new(ErrorKind::Io, "the ext4-view thread has ended")),
        Err(_) => Err(Error::new(ErrorKind::Timeout, "ext4-view does not come to an end")),
    }
}

/// What the thread holds: the crate's file system, and the inode numbers given out.
struct View {
    ext4: Ext4,
    /// The path of inode `n` at `n - 2`.
    paths: Vec<PathBuf>,
    inodes: HashMap<Vec<u8>, Ino>,
    /// The directory listed last.
    listing: Option<(Ino, Vec<DirEntry>)>,
    /// The file read last: a stream does not seek.
    open: Option<(Ino, File)>,
}

impl View {
    fn new(ext4: Ext4) -> Self {
        let mut view =
            Self { ext4, paths: Vec::new(), inodes: HashMap::new(), listing: None, open: None };
        view.ino_of(PathBuf::new("/"));
        view
    }

    fn path(&self, ino: Ino) -> Result<&PathBuf> {
        let index = ino.0.checked_sub(ROOT.0).and_then(|index| usize::try_from(index).ok());
        index
            .and_then(|index| self.paths.get(index))
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no {ino}")))
    }

    fn ino_of(&mut self, path: PathBuf) -> Ino {
        let next = Ino(ROOT.0 + self.paths.len() as u64);
        let key = <PathBuf as AsRef<[u8]>>::as_ref(&path).to_vec();
        let ino = *self.inodes.entry(key).or_insert(next);
        if ino == next {
            self.paths.push(path);
        }
        ino
    }

    fn child(&self, dir: Ino, name: &[u8]) -> Result<PathBuf> {
        let path = self.path(dir)?;
        let bytes: &[u8] = path.as_ref();
        let parent = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash.max(1));
        let malformed =
            |_| Error::new(ErrorKind::InvalidInput, "a name that ext4-view does not take");
        match name {
            b"." => Ok(path.clone()),
            b".." => PathBuf::try_from(&bytes[..parent]).map_err(malformed),
            _ => {
                let name = PathBuf::try_from(name).map_err(malformed)?;
                Ok(path.join(name))
            }
        }
    }

    fn readdir(&mut self, dir: Ino, cookie: u64) -> Result<Vec<DirEntry>> {
        if self.listing.as_ref().is_none_or(|(listed, _)| *listed != dir) {
            let entries = self.list(dir)?;
            self.listing = Some((dir, entries));
        }
        let entries = self.listing.as_ref().map_or(&[][..], |(_, entries)| entries);
        let from = usize::try_from(cookie).unwrap_or(usize::MAX);
        Ok(entries.get(from..).unwrap_or_default().to_vec())
    }

    fn list(&mut self, dir: Ino) -> Result<Vec<DirEntry>> {
        let path = self.path(dir)?.clone();
        let mut entries = Vec::new();
        for entry in self.ext4.read_dir(&path).map_err(|error| failed(&error, &path))? {
            let entry = entry.map_err(|error| failed(&error, &path))?;
            let name = entry.file_name().as_ref().to_vec();
            let child = self.child(dir, &name)?;
            entries.push(DirEntry {
                ino: self.ino_of(child),
                file_type: entry.file_type().ok().map(file_type),
                name,
                cookie: entries.len() as u64 + 1,
            });
        }
        Ok(entries)
    }

    fn file(&mut self, ino: Ino) -> Result<&mut File> {
        let file = match self.open.take() {
            Some((open, file)) if open == ino => file,
            _ => {
                let path = self.path(ino)?;
                // The crate would follow a symbolic link here.
                let metadata =
                    self.ext4.symlink_metadata(path).map_err(|error| failed(&error, path))?;
                if metadata.is_symlink() {
                    return Err(Error::new(ErrorKind::InvalidInput, format!("{ino}: a symlink")));
                }
                self.ext4.open(path).map_err(|error| failed(&error, path))?
            }
        };
        Ok(&mut self.open.insert((ino, file)).1)
    }

    fn read(&mut self, ino: Ino, offset: u64, len: usize) -> Result<Bytes> {
        let name = self.path(ino)?.clone();
        let file = self.file(ino)?;
        if file.position() != offset {
            file.seek_to(offset).map_err(|error| failed(&error, &name))?;
        }
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match file.read_bytes(&mut bytes[filled..]).map_err(|error| failed(&error, &name))? {
                0 => {
                    let message = format!("file ends {} bytes early", len - filled);
                    return Err(Error::new(ErrorKind::Corrupt, message));
                }
                read => filled += read,
            }
        }
        Ok(bytes.into())
    }
}

fn attr(ino: Ino, metadata: &Metadata) -> Result<Attr> {
    let file_type = file_type(metadata.file_type());
    if matches!(file_type, FileType::CharDevice | FileType::BlockDevice) {
        let why = "ext4-view does not tell the number of a device";
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    let time = |time: ext4_view::Timestamp| Timestamp {
        seconds: time.seconds(),
        nanoseconds: time.nanoseconds(),
    };
    Ok(Attr {
        ino,
        file_type,
        permissions: metadata.mode() & 0o7777,
        nlink: 1,
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: DeviceNumber::default(),
        size: metadata.len(),
        blocks: metadata.len().div_ceil(512),
        atime: time(metadata.accessed()),
        mtime: time(metadata.modified()),
        ctime: time(metadata.modified()),
        crtime: metadata.created().map(time),
        generation: 0,
    })
}

fn file_type(kind: ext4_view::FileType) -> FileType {
    match kind {
        ext4_view::FileType::BlockDevice => FileType::BlockDevice,
        ext4_view::FileType::CharacterDevice => FileType::CharDevice,
        ext4_view::FileType::Directory => FileType::Directory,
        ext4_view::FileType::Fifo => FileType::Fifo,
        ext4_view::FileType::Regular => FileType::Regular,
        ext4_view::FileType::Socket => FileType::Socket,
        ext4_view::FileType::Symlink => FileType::Symlink,
    }
}

fn failed(error: &Ext4Error, path: impl AsRef<[u8]>) -> Error {
    let kind = match error {
        Ext4Error::Io(source) => {
            if let Some(ours) = source.downcast_ref::<Error>() {
                return ours.clone();
            }
            ErrorKind::Io
        }
        Ext4Error::NotFound => ErrorKind::NotFound,
        Ext4Error::IsADirectory => ErrorKind::IsDir,
        Ext4Error::NotADirectory => ErrorKind::NotDir,
        Ext4Error::TooManySymlinks => ErrorKind::Loop,
        Ext4Error::PathTooLong => ErrorKind::NameTooLong,
        Ext4Error::Encrypted => ErrorKind::Encrypted,
        Ext4Error::Incompatible(_) => ErrorKind::Unsupported,
        Ext4Error::Corrupt(_) => ErrorKind::Corrupt,
        _ => ErrorKind::InvalidInput,
    };
    let path = String::from_utf8_lossy(path.as_ref()).into_owned();
    Error::new(kind, format!("{path}: ext4-view: {error}"))
}

/// Shows a file system after recovery as one that needs none: the crate would play the journal back itself, and
/// refuses most journals.
struct CleanSource {
    source: Arc<dyn BlockSource>,
    runtime: Handle,
}

impl CleanSource {
    const SUPERBLOCK: u64 = 1024;
    const SUPERBLOCK_LEN: usize = 1024;

    fn read_below(&self, offset: u64, len: usize) -> Result<Bytes> {
        let answer = match self.source.try_read_at(offset, len) {
            Some(answer) => answer,
            None => self.runtime.block_on(self.source.read_at(offset, len)),
        };
        Ok(answer?.into_bytes())
    }

    /// The superblock without `needs_recovery`, its checksum made anew.
    fn superblock(&self) -> Result<Vec<u8>> {
        const INCOMPAT: usize = 0x60;
        const RECOVER: u8 = 0x04;
        const CHECKSUM: usize = 0x3FC;
        let mut bytes = self.read_below(Self::SUPERBLOCK, Self::SUPERBLOCK_LEN)?.to_vec();
        if bytes[INCOMPAT] & RECOVER != 0 {
            bytes[INCOMPAT] &= !RECOVER;
            // Not inverted at the end, as everywhere in ext4; of no effect without `metadata_csum`.
            let checksum = !crc32c::crc32c(&bytes[..CHECKSUM]);
            bytes[CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        }
        Ok(bytes)
    }
}

impl Ext4Read for CleanSource {
    fn read(
        &mut self,
        start: u64,
        destination: &mut [u8],
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        destination.copy_from_slice(&self.read_below(start, destination.len())?);
        let end = start.saturating_add(destination.len() as u64);
        let superblock = Self::SUPERBLOCK..Self::SUPERBLOCK + Self::SUPERBLOCK_LEN as u64;
        if start < superblock.end && end > superblock.start {
            let bytes = self.superblock()?;
            let from = start.max(superblock.start);
            let len = (end.min(superblock.end) - from) as usize;
            let within = (from - superblock.start) as usize;
            destination[(from - start) as usize..][..len]
                .copy_from_slice(&bytes[within..within + len]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_crate_becomes_an_error() {
        let error = guarded::<()>(|| panic!("index {} out of range", 7)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().ends_with("ext4-view panicked: index 7 out of range"), "{error}");
        assert_eq!(guarded(|| Ok(1)).unwrap(), 1);
    }
}
