//! An image file or a block device of the local machine.

use std::fs::{File, OpenOptions};
use std::io::IoSliceMut;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use super::{BlockSource, ReadFuture, Segments, check_range};
use crate::error::{Error, ErrorKind, Result};

/// The most that one [`BlockSource::prefetch`] asks of the kernel, in bytes.
const PREFETCH_MAX: u64 = 32 << 20;

/// The page cache drops whole pages only; no page of any machine is smaller.
const PAGE: u64 = 4096;

/// Longer reads get memory that is used again: the allocator would ask the kernel for fresh pages each time.
const LONG: usize = 64 << 10;
/// How many such pieces of memory are kept.
const SPARE: usize = 8;

/// A local image file or block device, opened read-only.
///
/// The kernel's page cache is its cache: a [`super::Cache`] above it would hold everything twice.
#[derive(Debug)]
pub struct ImageFile {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    path: PathBuf,
    len: u64,
    block_size: u32,
    /// Cleared where the file system under the image knows no `RWF_NOWAIT`.
    nowait: AtomicBool,
    spare: Mutex<Vec<Vec<u8>>>,
}

/// Memory of a long read, which goes back to `home` with the last use of the answer.
struct Lent {
    memory: Vec<u8>,
    /// The answer in it, from a page on: the kernel takes it page by page when FUSE hands it on.
    answer: Range<usize>,
    home: Arc<Inner>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.answer.clone()]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut spare = self.home.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE {
            spare.push(std::mem::take(&mut self.memory));
        }
    }
}

impl ImageFile {
    /// Opens `path` and takes its length, which is fixed from then on.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Permission`], [`ErrorKind::Io`]; [`ErrorKind::InvalidInput`] where it
    /// is neither a regular file nor a block device.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed =
            |error: std::io::Error| Error::io(format_args!("open {}", path.display()), error);
        // Without O_NONBLOCK, opening a FIFO would wait for a writer; reads of files and disks do not mind it.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits() as i32)
            .open(path)
            .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let file_type = metadata.file_type();
        let (len, block_size) = if file_type.is_file() {
            (metadata.len(), 512)
        } else if file_type.is_block_device() {
            let len = rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|e| failed(e.into()))?;
            let block_size = rustix::fs::ioctl_blksszget(&file).map_err(|e| failed(e.into()))?;
            (len, block_size)
        } else {
            let what = if file_type.is_dir() { "a directory" } else { "neither a file nor a disk" };
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("open {}: is {what}", path.display()),
            )
            .with_hint("give an image file, a block device or an iscsi:// URL"));
        };
        Ok(Self {
            inner: Arc::new(Inner {
                file,
                path: path.to_owned(),
                len,
                block_size,
                nowait: AtomicBool::new(true),
                spare: Mutex::default(),
            }),
        })
    }
}

impl Inner {
    /// Reads what the page cache holds; `None` where the disk would have to be asked.
    fn read_cached(self: &Arc<Self>, offset: u64, len: usize) -> Option<Bytes> {
        if !self.nowait.load(Ordering::Relaxed) {
            return None;
        }
        if len < LONG {
            let mut buffer = vec![0; len];
            return self.fill_cached(offset, &mut buffer).then(|| Bytes::from(buffer));
        }
        let mut memory = {
            let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
            spare.pop().unwrap_or_default()
        };
        let with_room = len.checked_add(PAGE as usize)?;
        if memory.len() < with_room {
            memory = vec![0; with_room];
        }
        let start = memory.as_ptr().addr().wrapping_neg() % PAGE as usize;
        let mut lent = Lent { memory, answer: start..start + len, home: Arc::clone(self) };
        let answer = &mut lent.memory[start..start + len];
        self.fill_cached(offset, answer).then(|| Bytes::from_owner(lent))
    }

    /// Whether all of `buffer` could be filled without waiting.
    fn fill_cached(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let len = buffer.len();
        let mut slices = [IoSliceMut::new(buffer)];
        match rustix::io::preadv2(&self.file, &mut slices, offset, ReadWriteFlags::NOWAIT) {
            // In part: the rest is on the disk, or the file has become shorter; the waiting read tells which.
            Ok(n) => n == len,
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.nowait.store(false, Ordering::Relaxed);
                false
            }
            Err(_) => false,
        }
    }

    /// Reads exactly `len` bytes, waiting for the disk; the range must lie within `self.len`.
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let what = || format!("read {len} bytes at {offset} of {}", self.path.display());
        let mut buffer = Vec::with_capacity(len);
        while buffer.len() < len {
            let at = offset + buffer.len() as u64;
            match rustix::io::pread(&self.file, spare_capacity(&mut buffer), at) {
                Ok(0) => {
                    let was = self.len;
                    return Err(Error::new(
                        ErrorKind::Io,
                        format!("{}: the file ends at {at}, but had {was} bytes at first", what()),
                    )
                    .with_hint("the image was cut short while it was being read"));
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(Error::io(what(), error.into())),
            }
        }
        // The allocator may have given more room than was asked for, and the file may be that long.
        buffer.truncate(len);
        Ok(buffer)
    }

    /// Reads on a thread that may wait.
    fn read_blocking(
        self: &Arc<Self>,
        offset: u64,
        len: usize,
        prepare: fn(&Self, u64, usize),
    ) -> ReadFuture<'static> {
        let inner = Arc::clone(self);
        Box::pin(async move {
            check_range(inner.len, offset, len).map_err(|e| e.context(inner.path.display()))?;
            let read = tokio::task::spawn_blocking(move || {
                prepare(&inner, offset, len);
                inner.read(offset, len)
            });
            match read.await {
                Ok(answer) => answer.map(Segments::from),
                Err(stopped) => {
                    let error = Error::new(ErrorKind::Interrupted, "the program is ending");
                    Err(error.with_source(stopped))
                }
            }
        })
    }

    /// Lets go of the cached pages of a range, so that the next read asks the device.
    fn forget(&self, offset: u64, len: usize) {
        let start = offset / PAGE * PAGE;
        let end = (offset + len as u64).next_multiple_of(PAGE);
        self.advise(start..end, Advice::DontNeed);
    }

    fn advise(&self, range: Range<u64>, advice: Advice) {
        if let Some(len) = NonZeroU64::new(range.end.saturating_sub(range.start)) {
            // Advice only: a file system that does not take it costs nothing but the speed.
            let _ = rustix::fs::fadvise(&self.file, range.start, Some(len), advice);
        }
    }
}

impl BlockSource for ImageFile {
    fn len(&self) -> u64 {
        self.inner.len
    }

    fn block_size(&self) -> u32 {
        self.inner.block_size
    }

    fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        self.inner.read_blocking(offset, len, |_, _, _| {})
    }

    fn try_read_at(&self, offset: u64, len: usize) -> Option<Result<Segments>> {
        if check_range(self.inner.len, offset, len).is_err() {
            return None;
        }
        self.inner.read_cached(offset, len).map(|bytes| Ok(Segments::from(bytes)))
    }

    fn read_fresh(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        self.inner.read_blocking(offset, len, Inner::forget)
    }

    fn prefetch(&self, ranges: &[Range<u64>]) {
        let mut left = PREFETCH_MAX;
        for range in ranges {
            let end = range.end.min(self.inner.len).min(range.start.saturating_add(left));
            self.inner.advise(range.start..end, Advice::WillNeed);
            left -= end.saturating_sub(range.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(len: usize) -> (tempfile::TempDir, PathBuf, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.img");
        let bytes: Vec<u8> = (0..len).map(|i| (i / 7 % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        (directory, path, bytes)
    }

    #[tokio::test]
    async fn reads_any_range_waiting_or_not() {
        let (_directory, path, bytes) = image(300_001);
        let image = ImageFile::open(&path).unwrap();
        assert_eq!((image.len(), image.block_size()), (300_001, 512));
        image.prefetch(&[0..100_000, 299_000..u64::MAX]);
        for (offset, len) in [(0, 300_001), (1, 4096), (299_999, 2), (300_001, 0)] {
            let expected = &bytes[offset..offset + len];
            let waited = image.read_at(offset as u64, len).await.unwrap().into_bytes();
            assert_eq!(waited, expected, "{len} at {offset}");
            let fresh = image.read_fresh(offset as u64, len).await.unwrap().into_bytes();
            assert_eq!(fresh, expected, "{len} at {offset}, fresh");
            if let Some(at_once) = image.try_read_at(offset as u64, len) {
                assert_eq!(at_once.unwrap().into_bytes(), expected, "{len} at {offset}, at once");
            }
        }
    }

    #[tokio::test]
    async fn memory_that_is_used_again_holds_the_new_answer_only() {
        let (_directory, path, bytes) = image(1 << 20);
        let image = ImageFile::open(&path).unwrap();
        let read = |offset: usize, len: usize| match image.try_read_at(offset as u64, len) {
            Some(answer) => answer.unwrap().into_bytes(),
            None => Bytes::copy_from_slice(&bytes[offset..offset + len]),
        };
        for (offset, len) in [(0, 512 << 10), (7, LONG), (300_000, 128 << 10), (5, LONG + 1)] {
            let first = read(offset, len);
            let second = read(offset + 1000, len);
            assert_eq!(first, bytes[offset..offset + len], "{len} at {offset}");
            assert_eq!(second, bytes[offset + 1000..offset + 1000 + len], "{len} after {offset}");
        }
    }

    #[tokio::test]
    async fn a_range_past_the_end_is_refused_with_the_name() {
        let (_directory, path, _) = image(1000);
        let image = ImageFile::open(&path).unwrap();
        let error = image.read_at(999, 2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("disk.img"), "{error}");
        assert!(image.try_read_at(999, 2).is_none());
    }

    #[tokio::test]
    async fn a_file_cut_short_underneath_is_an_error_not_data() {
        let (_directory, path, _) = image(10_000);
        let image = ImageFile::open(&path).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(5_000).unwrap();
        assert!(image.try_read_at(4_000, 2_000).is_none());
        let error = image.read_at(4_000, 2_000).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("disk.img: the file ends at 5000"), "{error}");
        assert_eq!(image.read_at(4_000, 1_000).await.unwrap().len(), 1_000);
    }

    #[test]
    fn only_files_and_disks_are_opened() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for path in [directory.path(), &fifo, Path::new("/dev/null")] {
            let error = ImageFile::open(path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
        let error = ImageFile::open(directory.path().join("missing")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
