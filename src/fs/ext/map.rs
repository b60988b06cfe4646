//! Walks down a file's block map: from a file block to the run of blocks that it belongs to.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::disk::Disk;
use super::inodes::File;
use super::layout::map::{Child, Found, MapNode, NodeKind, Run};
use super::layout::{FileBlock, FsBlock, extent, indirect};
use crate::error::{Error, Result};

impl Disk {
    /// The run that a block of the file belongs to. Each node is parsed once and kept, and each step goes one level
    /// down, so a walk costs a few look-ups and always ends.
    pub(super) async fn run(&self, file: &File, block: FileBlock) -> Result<Run> {
        let mut found = self.map_root(file).await?.find(block);
        loop {
            let child = match found {
                Found::Run(run) => return Ok(run),
                Found::Child(child) => child,
            };
            let key = (file.ino, child);
            let node = match self.maps.get(&key) {
                Some(node) => node,
                None => self.load_map_node(file, key.1).await?,
            };
            found = node.find(block);
        }
    }

    /// The root of the file's map, which points at nothing that it must not point at.
    pub(super) async fn map_root<'a>(&self, file: &'a File) -> Result<&'a MapNode> {
        let root = file.map_root(&self.sb)?;
        if !file.root_is_checked.load(Ordering::Relaxed) {
            let checked = self.check_targets(file.ino, root).await;
            checked.map_err(|error| error.context(file.ino))?;
            file.root_is_checked.store(true, Ordering::Relaxed);
        }
        Ok(root)
    }

    /// [`Disk::run`] where it needs no waiting.
    pub(super) fn cached_run(&self, file: &File, block: FileBlock) -> Option<Result<Run>> {
        if !file.root_is_checked.load(Ordering::Relaxed) {
            return None;
        }
        match self.find_cached(file, block) {
            Ok((Found::Run(run), _)) => Some(Ok(run)),
            Ok((Found::Child(_), _)) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// What the nodes at hand say about a block: its run, or the node to be read next and whether the data of that
    /// one lies right behind it.
    fn find_cached(&self, file: &File, block: FileBlock) -> Result<(Found, bool)> {
        let root = file.map_root(&self.sb)?;
        let mut found = root.find(block);
        let mut parent: Option<Arc<MapNode>> = None;
        loop {
            let Found::Child(child) = found else { return Ok((found, false)) };
            let key = (file.ino, child);
            let Some(node) = self.maps.get(&key) else {
                let dense = parent.as_deref().unwrap_or(root).is_dense_behind(&key.1);
                return Ok((Found::Child(key.1), dense));
            };
            found = node.find(block);
            parent = Some(node);
        }
    }

    async fn load_map_node(&self, file: &File, child: Child) -> Result<Arc<MapNode>> {
        let bytes = self.read_block(child.block).await?;
        let range = child.range.clone();
        let seed = file.inode.checksum_seed.filter(|_| self.verifies());
        let node = match child.kind {
            NodeKind::Extents { depth } => {
                extent::parse_block(&self.sb, &bytes, depth, range, seed)
            }
            NodeKind::Indirect { level } => indirect::parse_block(&self.sb, &bytes, level, range),
        };
        let named = |error: Error| error.context(child.block).context(file.ino);
        let node = Arc::new(node.map_err(named)?);
        self.check_targets(file.ino, &node).await.map_err(named)?;
        self.maps.insert((file.ino, child), Arc::clone(&node), node.weight());
        Ok(node)
    }

    /// Hints at the data of these file blocks, along the file's runs.
    ///
    /// Where the map is not at hand yet, at the node that is needed next; and at the data behind an indirect block, as
    /// far as its parent tells where that is: then both come with the same read, and the hints go on.
    pub(super) fn prefetch_blocks(&self, file: &File, blocks: Range<u64>) {
        const MOST_RUNS: usize = 256;
        let size = self.block_size();
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut at = blocks.start;
        while at < blocks.end && ranges.len() < MOST_RUNS {
            let Ok((found, dense)) = self.find_cached(file, FileBlock(at)) else { break };
            // The first block on the disk, how many, and where the file goes on behind them.
            let (place, len, next) = match found {
                Found::Run(run) => {
                    let next = run.first.0.saturating_add(run.len).min(blocks.end);
                    let place = run.place.map(|place| place.0 + (at - run.first.0));
                    (place, next - at, next)
                }
                Found::Child(child) if dense => {
                    let next = child.range.end.min(blocks.end);
                    // Its own block too, unless that came with a hint before this one.
                    let skipped = at - child.range.start;
                    let first = if skipped == 0 { 0 } else { skipped + 1 };
                    (Some(child.block.0 + first), next - child.range.start + 1 - first, next)
                }
                Found::Child(child) => {
                    let is_leaf = child.kind == NodeKind::Indirect { level: 0 };
                    let next = if is_leaf { child.range.end } else { blocks.end };
                    (Some(child.block.0), 1, next)
                }
            };
            at = next;
            let Some(place) = place else { continue };
            let start = self.sb.byte_of(FsBlock(place));
            let end = start.saturating_add(len.saturating_mul(size));
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        self.prefetch(&mut ranges);
    }

    /// Hints at the blocks of the map itself that these file blocks need, as far as those at hand tell where they lie;
    /// gives the file block up to which that is all of them.
    pub(super) fn prefetch_map(&self, file: &File, blocks: Range<u64>) -> u64 {
        const MOST: usize = 64;
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut at = blocks.start;
        while at < blocks.end && ranges.len() < MOST {
            let Ok((found, _)) = self.find_cached(file, FileBlock(at)) else { break };
            let child = match found {
                Found::Run(run) => {
                    at = run.first.0.saturating_add(run.len);
                    continue;
                }
                Found::Child(child) => child,
            };
            let start = self.sb.byte_of(child.block);
            ranges.push(start..start.saturating_add(self.block_size()));
            if !child.kind.is_leaf() {
                break;
            }
            at = child.range.end;
        }
        self.prefetch(&mut ranges);
        at
    }
}
