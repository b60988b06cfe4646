//! Reading the contents of a file.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future;

use super::disk::Disk;
use super::inodes::File;
use super::layout::FileBlock;
use super::readahead::Readahead;
use crate::block::Segments;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{FileReader, FileType, Ino, Pending};

/// The runs that one question for data goes through: a hostile map has any number of them.
const MOST_RUNS: usize = 1 << 16;

/// An open regular file.
pub(super) struct Reader {
    disk: Arc<Disk>,
    file: Arc<File>,
    /// All of the contents, where they lie in the inode.
    inline: Option<Bytes>,
    readahead: Mutex<Readahead>,
}

impl Reader {
    pub(super) async fn open(disk: Arc<Disk>, ino: Ino) -> Result<Self> {
        let file = disk.file(ino).await?;
        match file.inode.attr.file_type {
            FileType::Regular => {}
            FileType::Directory => {
                return Err(Error::new(ErrorKind::IsDir, format!("{ino} is a directory")));
            }
            _ => {
                let what = format!("{ino} is not a regular file");
                return Err(Error::new(ErrorKind::InvalidInput, what));
            }
        }
        file.check_readable()?;
        let inline = file.inline_data(&disk.sb)?.map(Bytes::from);
        if inline.is_none() && file.inode.attr.size == 0 {
            // Nothing will be read, so that nobody would see that its map is damaged, and its size likely too.
            disk.map_root(&file).await?;
        }
        Ok(Self { disk, file, inline, readahead: Mutex::default() })
    }

    fn inline(&self, offset: u64, len: usize) -> Option<Segments> {
        let inline = self.inline.as_ref()?;
        let start = offset.min(inline.len() as u64) as usize;
        let end = start.saturating_add(len).min(inline.len());
        Some(Segments::from(inline.slice(start..end)))
    }

    /// Tells the source what comes next, if the reader goes on as before.
    fn read_ahead(&self, offset: u64, len: u64, waited: bool) {
        let mut readahead = self.readahead.lock().unwrap_or_else(PoisonError::into_inner);
        let hint = readahead.note(offset, len, waited);
        drop(readahead);
        let Some(range) = hint else { return };
        let size = self.disk.block_size();
        let end = range.end.min(self.file.inode.attr.size);
        self.disk.prefetch_blocks(&self.file, range.start / size..end.div_ceil(size));
    }

    async fn read_all(&self, offset: u64, len: usize) -> Result<Segments> {
        if let Some(answer) = self.inline(offset, len) {
            return Ok(answer);
        }
        let plan = self.disk.plan(&self.file, offset, len).await?;
        // The read itself begins first, what comes after it next, and then both are waited for.
        let ahead = async { self.read_ahead(offset, len as u64, true) };
        let (answer, ()) = future::join(self.disk.read_plan(&self.file, plan), ahead).await;
        answer
    }

    /// See [`FileReader::data_range`]. A range of very many runs comes in pieces, and behind as many holes a block counts as
    /// data: it reads as zeros, as it should.
    async fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let bytes = self.file.inode.attr.size;
        let size = self.disk.block_size();
        if self.inline.is_some() {
            return Ok((offset < bytes).then_some(offset..bytes));
        }
        let mut at = offset;
        let mut data: Option<Range<u64>> = None;
        let mut runs = 0;
        while at < bytes {
            if runs == MOST_RUNS {
                return Ok(data.or(Some(at..at.saturating_add(size).min(bytes))));
            }
            runs += 1;
            // What is in memory comes without waiting, and whoever asks has to be able to give up.
            tokio::task::consume_budget().await;
            let run = self.disk.run(&self.file, FileBlock(at / size)).await?;
            let end = (run.first.0.saturating_add(run.len)).saturating_mul(size).min(bytes);
            match (run.place, &mut data) {
                (Some(_), Some(range)) => range.end = end,
                (Some(_), None) => data = Some(at..end),
                (None, Some(_)) => break,
                (None, None) => {}
            }
            at = end;
        }
        Ok(data)
    }
}

impl FileReader for Reader {
    fn read(&self, offset: u64, len: usize) -> Pending<'_, Segments> {
        Box::pin(self.read_all(offset, len))
    }

    fn try_read(&self, offset: u64, len: usize) -> Option<Result<Segments>> {
        if let Some(answer) = self.inline(offset, len) {
            return Some(Ok(answer));
        }
        let answer = self.disk.try_read_file(&self.file, offset, len)?;
        self.read_ahead(offset, len as u64, false);
        Some(answer)
    }

    fn data_range(&self, offset: u64) -> Pending<'_, Option<Range<u64>>> {
        Box::pin(self.next_data(offset))
    }
}
