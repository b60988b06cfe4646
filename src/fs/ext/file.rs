//! Reading the contents of a file.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use smallvec::SmallVec;

use super::disk::Disk;
use super::inodes::File;
use super::layout::FileBlock;
use super::layout::map::Run;
use super::readahead::Readahead;
use crate::block::Segments;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{FileReader, FileType, Ino, Pending};

/// An open regular file.
pub(super) struct Reader {
    disk: Arc<Disk>,
    file: Arc<File>,
    readahead: Mutex<Readahead>,
}

/// Bytes of an answer that lie side by side on the disk, or are zeros.
struct Piece {
    place: Option<u64>,
    len: u64,
}

/// A read, as far as it is known where its bytes lie.
struct Plan {
    at: u64,
    end: u64,
    pieces: SmallVec<[Piece; 2]>,
}

impl Plan {
    fn next_block(&self, block_size: u64) -> Option<FileBlock> {
        (self.at < self.end).then(|| FileBlock(self.at / block_size))
    }

    /// Adds the run that [`Plan::next_block`] belongs to.
    fn push(&mut self, run: Run, block_size: u64) {
        // Runs are 32-bit blocks of at most 64 KiB, but for holes, which may have no end.
        let run_start = run.first.0.saturating_mul(block_size);
        let run_end = run_start.saturating_add(run.len.saturating_mul(block_size));
        let skipped = self.at - run_start;
        let len = run_end.min(self.end) - self.at;
        let place = run.place.map(|place| place.0 * block_size + skipped);
        self.at += len;
        match self.pieces.last_mut() {
            Some(Piece { place: Some(start), len: before }) if place == Some(*start + *before) => {
                *before += len;
            }
            Some(Piece { place: None, len: before }) if place.is_none() => *before += len,
            _ => self.pieces.push(Piece { place, len }),
        }
    }
}

impl Reader {
    pub(super) async fn open(disk: Arc<Disk>, ino: Ino) -> Result<Self> {
        let file = disk.file(ino).await?;
        match file.inode.attr.file_type {
            FileType::Regular => Ok(Self { disk, file, readahead: Mutex::default() }),
            FileType::Directory => {
                Err(Error::new(ErrorKind::IsDir, format!("{ino} is a directory")))
            }
            _ => Err(Error::new(ErrorKind::InvalidInput, format!("{ino} is not a regular file"))),
        }
    }

    /// An empty plan for as much of the range as the file has.
    fn plan(&self, offset: u64, len: usize) -> Plan {
        let end = offset.saturating_add(len as u64).min(self.file.inode.attr.size);
        Plan { at: offset.min(end), end, pieces: SmallVec::new() }
    }

    /// Tells the source what comes next, if the reader goes on as before.
    fn read_ahead(&self, offset: u64, len: u64) {
        let hint = self.readahead.lock().unwrap_or_else(PoisonError::into_inner).note(offset, len);
        let Some(range) = hint else { return };
        let size = self.disk.block_size();
        let end = range.end.min(self.file.inode.attr.size);
        self.disk.prefetch_blocks(&self.file, range.start / size..end.div_ceil(size));
    }

    async fn read_all(&self, offset: u64, len: usize) -> Result<Segments> {
        let mut plan = self.plan(offset, len);
        let size = self.disk.block_size();
        while let Some(block) = plan.next_block(size) {
            plan.push(self.disk.run(&self.file, block).await?, size);
        }
        self.read_ahead(offset, len as u64);
        if plan.pieces.len() > 1 {
            let range = |piece: &Piece| piece.place.map(|start| start..start + piece.len);
            self.disk.prefetch(&mut plan.pieces.iter().filter_map(range).collect());
        }
        let mut answer = Segments::new();
        for piece in plan.pieces {
            answer.append(match piece.place {
                Some(start) => self
                    .disk
                    .read(start, piece.len as usize)
                    .await
                    .map_err(|error| error.context(self.file.ino))?,
                None => Segments::zeros(piece.len as usize),
            });
        }
        Ok(answer)
    }

    async fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let bytes = self.file.inode.attr.size;
        let size = self.disk.block_size();
        let mut at = offset;
        let mut data: Option<Range<u64>> = None;
        while at < bytes {
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
        let mut plan = self.plan(offset, len);
        let size = self.disk.block_size();
        while let Some(block) = plan.next_block(size) {
            match self.disk.cached_run(&self.file, block)? {
                Ok(run) => plan.push(run, size),
                Err(error) => return Some(Err(error)),
            }
        }
        let mut answer = Segments::new();
        for piece in plan.pieces {
            match piece.place {
                None => answer.append(Segments::zeros(piece.len as usize)),
                Some(start) => match self.disk.try_read(start, piece.len as usize)? {
                    Ok(bytes) => answer.append(bytes),
                    Err(error) => return Some(Err(error.context(self.file.ino))),
                },
            }
        }
        self.read_ahead(offset, len as u64);
        Some(Ok(answer))
    }

    fn data_range(&self, offset: u64) -> Pending<'_, Option<Range<u64>>> {
        Box::pin(self.next_data(offset))
    }
}
