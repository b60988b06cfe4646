//! One file on its way out: what is read of it first, and how it is put down.

use std::fs::File;
use std::io::{self, IoSlice};

use futures_util::{StreamExt, stream};
use rustix::io::Errno;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::block::Segments;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Attr, FileType, Filesystem};

use super::contents::{Contents, xattrs_to_keep};
use super::dest::{Directory, Name, Temporary};
use super::metadata::{self, Rights, Target, Xattrs};

/// Chunks between reading and writing of one large file.
const CHUNKS_IN_FLIGHT: usize = 4;

/// Files of one batch that are read at the same time.
const READS_IN_FLIGHT: usize = 32;

/// The most pieces that one `pwritev` takes (IOV_MAX of Linux).
const MOST_PIECES: usize = 1024;

/// Anything but a directory, found and not yet read.
pub(super) struct Item {
    pub(super) name: Name,
    /// The path in the image, for messages.
    pub(super) from: Vec<u8>,
    pub(super) attr: Attr,
}

impl Item {
    /// Says on which file something failed.
    pub(super) fn named(&self, error: Error) -> Error {
        error.context(String::from_utf8_lossy(&self.from))
    }
}

/// What the destination said, about the file at `from` in the image.
pub(super) fn put_failed(from: &[u8], error: io::Error) -> Error {
    let shown = String::from_utf8_lossy(from);
    match Errno::from_io_error(&error) {
        Some(Errno::EXIST) => Error::io(shown, error).with_hint("use --overwrite to replace it"),
        Some(Errno::LOOP | Errno::NOTDIR) => Error::new(
            ErrorKind::Exists,
            format!("{shown}: the destination has something else than a directory there"),
        ),
        // What is missing is missing in the destination: the path in the image is there.
        Some(Errno::NOENT) => {
            Error::new(ErrorKind::Io, format!("{shown}: the destination has gone"))
                .with_source(error)
        }
        // A full or read-only file system is not that of the snapshot.
        _ => Error::io(format!("{shown}: cannot be put into the destination"), error),
    }
}

/// How files are put down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) overwrite: bool,
    pub(super) rights: Rights,
}

/// How a file came out.
pub(super) struct Restored {
    /// Contents in bytes, holes not counted.
    pub(super) bytes: u64,
    /// What of its metadata could not be kept, in words.
    pub(super) lost: String,
    /// Why some of its attributes could not be read.
    pub(super) unread: Vec<Error>,
}

/// What is read of an item before it is put down: its attributes, why some of them cannot be read, and its contents.
type Whole = (Xattrs, Vec<Error>, Body);

/// Contents of a small item, or what stands for them.
enum Body {
    File(Vec<(u64, Segments)>),
    Symlink(Vec<u8>),
    Node,
}

/// Reads all of `items`, many at a time, then puts them down in `directory`.
pub(super) async fn copy_batch(
    filesystem: &dyn Filesystem,
    directory: &Directory,
    items: Vec<Item>,
    manner: Manner,
) -> Vec<(Item, Result<Restored>)> {
    let read = |mut item: Item| async {
        let contents = async {
            let (xattrs, unread) = xattrs_to_keep(filesystem, &mut item.attr).await;
            Ok((xattrs, unread, read_body(filesystem, &item).await?))
        };
        let contents: Result<_> = contents.await;
        (item, contents)
    };
    let read: Vec<_> =
        stream::iter(items).map(read).buffer_unordered(READS_IN_FLIGHT).collect().await;
    let directory = directory.clone();
    let put = move || {
        let put = |(item, contents): (Item, Result<Whole>)| {
            let result = match contents {
                Ok((xattrs, unread, body)) => put(&directory, &item, &xattrs, body, manner)
                    .map(|restored| Restored { unread, ..restored })
                    .map_err(|error| put_failed(&item.from, error)),
                Err(error) => Err(item.named(error)),
            };
            (item, result)
        };
        read.into_iter().map(put).collect()
    };
    blocking(put).await
}

async fn read_body(filesystem: &dyn Filesystem, item: &Item) -> Result<Body> {
    let ino = item.attr.ino;
    match item.attr.file_type {
        FileType::Regular => {
            let mut data = Vec::new();
            // An empty one too: that it cannot be opened is all that may tell that it is damaged.
            let reader = filesystem.open(ino).await?;
            let mut contents = Contents::new(&*reader, item.attr.size);
            while let Some(chunk) = contents.next().await? {
                data.push(chunk);
            }
            Ok(Body::File(data))
        }
        FileType::Symlink => filesystem.readlink(ino).await.map(Body::Symlink),
        _ => Ok(Body::Node),
    }
}

/// Puts a small item down.
fn put(
    directory: &Directory,
    item: &Item,
    xattrs: &Xattrs,
    body: Body,
    manner: Manner,
) -> io::Result<Restored> {
    match body {
        Body::File(data) => {
            let mut writing = Writing::start(directory)?;
            for (offset, data) in data {
                writing.write(offset, &data)?;
            }
            writing.finish(item, xattrs, manner)
        }
        Body::Symlink(target) => {
            finish(directory.temporary_symlink(&target)?, item, xattrs, manner)
        }
        Body::Node => {
            let (kind, device) = node(&item.attr);
            finish(directory.temporary_node(kind, device)?, item, xattrs, manner)
        }
    }
}

/// The type and number as mknod(2) takes them.
fn node(attr: &Attr) -> (rustix::fs::FileType, u64) {
    use rustix::fs::FileType as Kind;
    let kind = Kind::from_raw_mode(attr.file_type.mode_bits());
    match kind {
        Kind::BlockDevice | Kind::CharacterDevice => {
            (kind, rustix::fs::makedev(attr.rdev.major, attr.rdev.minor))
        }
        _ => (kind, 0),
    }
}

/// Finishes what cannot be opened.
fn finish(
    temporary: Temporary,
    item: &Item,
    xattrs: &Xattrs,
    manner: Manner,
) -> io::Result<Restored> {
    let lost = metadata::apply(Target::named(temporary.at()), &item.attr, xattrs, manner.rights);
    temporary.keep_as(&item.name, manner.overwrite)?;
    Ok(Restored { bytes: 0, lost, unread: Vec::new() })
}

/// A regular file that is being written.
struct Writing {
    temporary: Temporary,
    file: File,
    end: u64,
    bytes: u64,
}

impl Writing {
    fn start(directory: &Directory) -> io::Result<Self> {
        let (temporary, file) = directory.temporary_file()?;
        Ok(Self { temporary, file, end: 0, bytes: 0 })
    }

    fn write(&mut self, mut offset: u64, data: &Segments) -> io::Result<()> {
        self.bytes += data.len() as u64;
        for pieces in data.pieces().chunks(MOST_PIECES) {
            let mut slices: Vec<IoSlice<'_>> =
                pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let mut left = slices.as_mut_slice();
            while !left.is_empty() {
                match rustix::io::pwritev(&self.file, left, offset) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        offset += written as u64;
                        IoSlice::advance_slices(&mut left, written);
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.end = self.end.max(offset);
        Ok(())
    }

    fn finish(self, item: &Item, xattrs: &Xattrs, manner: Manner) -> io::Result<Restored> {
        let Self { temporary, file, end, bytes } = self;
        if end < item.attr.size {
            // A hole at the end.
            file.set_len(item.attr.size)?;
        }
        let lost = metadata::apply(Target::open(&file), &item.attr, xattrs, manner.rights);
        // On network file systems only this says that something could not be written: no room, a quota.
        nix::unistd::close(file)?;
        temporary.keep_as(&item.name, manner.overwrite)?;
        Ok(Restored { bytes, lost, unread: Vec::new() })
    }
}

/// Copies one large file, reading ahead of the disk. `progress` hears of every chunk.
pub(super) async fn copy_large(
    filesystem: &dyn Filesystem,
    directory: &Directory,
    mut item: Item,
    manner: Manner,
    progress: impl Fn(u64),
) -> (Item, Result<Restored>) {
    let result = stream_large(filesystem, directory, &mut item, manner, progress).await;
    (item, result)
}

/// What the reader tells the thread that writes. Without a `Finish` at the end the file is not kept.
enum Step {
    Data(u64, Segments),
    Finish(Box<(Item, Xattrs)>),
}

async fn stream_large(
    filesystem: &dyn Filesystem,
    directory: &Directory,
    item: &mut Item,
    manner: Manner,
    progress: impl Fn(u64),
) -> Result<Restored> {
    let (xattrs, unread) = xattrs_to_keep(filesystem, &mut item.attr).await;
    let named = |error: Error| item.named(error);
    let reader = filesystem.open(item.attr.ino).await.map_err(named)?;
    let mut contents = Contents::new(&*reader, item.attr.size);
    let (steps, received) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let directory = directory.clone();
    let writer = spawn_blocking(move || write_large(&directory, received, manner));
    let read = async {
        while let Some((offset, data)) = contents.next().await? {
            let len = data.len() as u64;
            if steps.send(Step::Data(offset, data)).await.is_err() {
                // The writer knows why.
                return Ok(());
            }
            progress(len);
        }
        let item =
            Item { name: item.name.clone(), from: item.from.clone(), attr: item.attr.clone() };
        let _ = steps.send(Step::Finish(Box::new((item, xattrs)))).await;
        Ok(())
    };
    let read: Result<()> = read.await;
    drop(steps);
    let written = joined(writer).await;
    read.map_err(named)?;
    match written.map_err(|error| put_failed(&item.from, error))? {
        Some(restored) => Ok(Restored { unread, ..restored }),
        None => Err(named(Error::new(ErrorKind::Interrupted, "not copied to its end"))),
    }
}

fn write_large(
    directory: &Directory,
    mut steps: mpsc::Receiver<Step>,
    manner: Manner,
) -> io::Result<Option<Restored>> {
    let mut writing = Writing::start(directory)?;
    while let Some(step) = steps.blocking_recv() {
        match step {
            Step::Data(offset, data) => writing.write(offset, &data)?,
            Step::Finish(last) => {
                let (item, xattrs) = &*last;
                return writing.finish(item, xattrs, manner).map(Some);
            }
        }
    }
    Ok(None)
}

/// Runs what waits for the local disk where it holds up nothing else.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(spawn_blocking(work)).await
}

async fn joined<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(result) => result,
        // Blocking work is not cancelled while someone waits for it, so this is a panic of its own.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
