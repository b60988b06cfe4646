//! From bytes of a file to bytes of the disk.

use futures_util::future::try_join_all;
use smallvec::SmallVec;

use super::disk::Disk;
use super::inodes::File;
use super::layout::FileBlock;
use super::layout::map::Run;
use crate::block::Segments;
use crate::error::Result;

/// Bytes of an answer that lie side by side on the disk, or are zeros.
struct Piece {
    place: Option<u64>,
    len: u64,
}

/// A read, as far as it is known where its bytes lie.
pub(super) struct Plan {
    at: u64,
    end: u64,
    pieces: SmallVec<[Piece; 2]>,
}

impl Plan {
    /// Nothing yet of as much of the range as the file has.
    fn new(file: &File, offset: u64, len: usize) -> Self {
        let end = offset.saturating_add(len as u64).min(file.inode.attr.size);
        Self { at: offset.min(end), end, pieces: SmallVec::new() }
    }

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

impl Disk {
    /// Up to `len` bytes of a file whose contents lie in blocks.
    pub(super) async fn read_file(&self, file: &File, offset: u64, len: usize) -> Result<Segments> {
        let plan = self.plan(file, offset, len).await?;
        self.read_plan(file, plan).await
    }

    /// Where the bytes of a read lie.
    pub(super) async fn plan(&self, file: &File, offset: u64, len: usize) -> Result<Plan> {
        let size = self.block_size();
        let mut plan = Plan::new(file, offset, len);
        while let Some(block) = plan.next_block(size) {
            plan.push(self.run(file, block).await?, size);
        }
        Ok(plan)
    }

    /// Reads what was planned; what lies side by side on the disk is one read.
    pub(super) async fn read_plan(&self, file: &File, plan: Plan) -> Result<Segments> {
        if plan.pieces.len() > 1 {
            // All that are to be waited for, not one after the other.
            let range = |piece: &Piece| piece.place.map(|start| start..start + piece.len);
            self.prefetch(&mut plan.pieces.iter().filter_map(range).collect());
        }
        let reads = plan.pieces.iter().map(|piece| async {
            let len = piece.len as usize;
            match piece.place {
                Some(start) => self.read(start, len).await,
                None => Ok(Segments::zeros(len)),
            }
        });
        let mut answer = Segments::new();
        for part in try_join_all(reads).await.map_err(|error| error.context(file.ino))? {
            answer.append(part);
        }
        Ok(answer)
    }

    /// [`Disk::read_file`] where it needs no waiting.
    pub(super) fn try_read_file(
        &self,
        file: &File,
        offset: u64,
        len: usize,
    ) -> Option<Result<Segments>> {
        let size = self.block_size();
        let mut plan = Plan::new(file, offset, len);
        while let Some(block) = plan.next_block(size) {
            match self.cached_run(file, block)? {
                Ok(run) => plan.push(run, size),
                Err(error) => return Some(Err(error)),
            }
        }
        let mut answer = Segments::new();
        for piece in plan.pieces {
            let len = piece.len as usize;
            match piece.place {
                None => answer.append(Segments::zeros(len)),
                Some(start) => match self.try_read(start, len)? {
                    Ok(bytes) => answer.append(bytes),
                    Err(error) => return Some(Err(error.context(file.ino))),
                },
            }
        }
        Some(Ok(answer))
    }
}
