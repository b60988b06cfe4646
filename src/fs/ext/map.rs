//! Walks down a file's block map: from a file block to the run of blocks that it belongs to.

use std::ops::Range;
use std::sync::Arc;

use super::disk::Disk;
use super::inodes::File;
use super::layout::map::{Child, Found, MapNode, NodeKind, Run};
use super::layout::{FileBlock, extent, indirect};
use crate::error::Result;

impl Disk {
    /// The run that a block of the file belongs to. Each node is parsed once and kept, and each step goes one level
    /// down, so a walk costs a few look-ups and always ends.
    pub(super) async fn run(&self, file: &File, block: FileBlock) -> Result<Run> {
        let mut found = file.map_root(&self.sb)?.find(block);
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

    /// [`Disk::run`] where it needs no waiting.
    pub(super) fn cached_run(&self, file: &File, block: FileBlock) -> Option<Result<Run>> {
        let mut found = match file.map_root(&self.sb) {
            Ok(root) => root.find(block),
            Err(error) => return Some(Err(error)),
        };
        loop {
            match found {
                Found::Run(run) => return Some(Ok(run)),
                Found::Child(child) => found = self.maps.get(&(file.ino, child))?.find(block),
            }
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
        let node = node.map_err(|error| error.context(child.block).context(file.ino))?;
        let node = Arc::new(node);
        self.maps.insert((file.ino, child), Arc::clone(&node), node.weight());
        Ok(node)
    }

    /// Hints at the data of these file blocks, along the file's runs; where the map itself is not at hand yet, at
    /// the node that is needed next.
    pub(super) fn prefetch_blocks(&self, file: &File, blocks: Range<u64>) {
        const MOST_RUNS: usize = 256;
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut at = blocks.start;
        while at < blocks.end && ranges.len() < MOST_RUNS {
            let Some(Ok(run)) = self.cached_run(file, FileBlock(at)) else {
                break;
            };
            let skipped = at - run.first.0;
            let len = (run.len - skipped).min(blocks.end - at);
            if let Some(place) = run.place {
                let start = (place.0 + skipped).saturating_mul(self.block_size());
                let end = start.saturating_add(len.saturating_mul(self.block_size()));
                match ranges.last_mut() {
                    Some(last) if last.end == start => last.end = end,
                    _ => ranges.push(start..end),
                }
            }
            at += len;
        }
        self.prefetch(&mut ranges);
    }
}
