//! Looking a name up by its hash (kernel: `ext4_dx_find_entry`).

use std::sync::Arc;

use super::dir::DirBlock;
use super::disk::Disk;
use super::inodes::File;
use super::layout::htree::{self, Node};
use super::layout::{FileBlock, corrupt};
use super::naming::Naming;
use crate::error::Result;
use crate::fs::Ino;

/// The most leaves that names with the same hash may lie in: as many names collide in no directory that is not made for it,
/// and that can be searched block by block.
const MAX_LEAVES: u64 = 1 << 12;

/// A level of the way down: an index node, and the entry taken there.
struct Step {
    block: Arc<DirBlock>,
    entry: usize,
}

impl Disk {
    /// Looks a name up through the directory's index.
    ///
    /// # Errors
    /// Also where the index is damaged or of a kind not known; the caller can still look at every block.
    pub(super) async fn search_index(
        &self,
        dir: &File,
        naming: &Naming,
        name: &[u8],
    ) -> Result<Option<Ino>> {
        let blocks = self.dir_blocks(dir)?;
        let in_index = |error: crate::Error| error.context(format!("{}: index", dir.ino));
        let block = self.indexed_block(dir, FileBlock(0)).await?;
        let (root, node) = htree::parse_root(&self.sb, &block.bytes).map_err(in_index)?;
        let hash = naming.hash(&root.hasher, name);
        let entry = node.search(hash);
        let mut path = vec![Step { block, entry }];
        for _ in 0..root.levels {
            let next = self.step(&path, path.len() - 1)?.1;
            let block = self.indexed_block(dir, next).await?;
            let entry = htree::parse_node(&self.sb, &block.bytes).map_err(in_index)?.search(hash);
            path.push(Step { block, entry });
        }
        // A sound index names each leaf once, so more leaves than blocks would be a circle.
        for _ in 0..blocks.min(MAX_LEAVES) {
            let at = self.step(&path, path.len() - 1)?.1;
            let leaf = self.indexed_block(dir, at).await?;
            if let Some(ino) = self.search_block(dir, at, &leaf, naming, name)? {
                return Ok(Some(ino));
            }
            if !self.advance(dir, &mut path, hash).await? {
                return Ok(None);
            }
        }
        Err(corrupt(format!("{}: index: leaves without end for the same hash", dir.ino)))
    }

    /// Goes on to the next leaf if names with this hash continue there: its hash is marked by the lowest bit then.
    async fn advance(&self, dir: &File, path: &mut Vec<Step>, hash: u32) -> Result<bool> {
        let depth = path.len();
        // Up to the lowest node that has an entry left, ...
        let mut level = depth - 1;
        loop {
            let (node, _) = self.step(path, level)?;
            let next = path[level].entry + 1;
            if next < node.len() {
                if node.hash(next) != hash | 1 {
                    return Ok(false);
                }
                path[level].entry = next;
                break;
            }
            match level.checked_sub(1) {
                Some(above) => level = above,
                None => return Ok(false),
            }
        }
        // ... and down again along first entries.
        path.truncate(level + 1);
        while path.len() < depth {
            let at = self.step(path, path.len() - 1)?.1;
            let block = self.indexed_block(dir, at).await?;
            path.push(Step { block, entry: 0 });
        }
        Ok(true)
    }

    /// The node at a level of the path, and the block that its entry points at.
    fn step<'a>(&self, path: &'a [Step], level: usize) -> Result<(Node<'a>, FileBlock)> {
        let step = &path[level];
        let node = match level {
            0 => htree::parse_root(&self.sb, &step.block.bytes)?.1,
            _ => htree::parse_node(&self.sb, &step.block.bytes)?,
        };
        Ok((node, node.block(step.entry)))
    }

    async fn indexed_block(&self, dir: &File, at: FileBlock) -> Result<Arc<DirBlock>> {
        if at.0 >= self.dir_blocks(dir)? {
            return Err(corrupt(format!("{}: index: {at} is past the end", dir.ino)));
        }
        self.dir_block(dir, at)
            .await?
            .map_err(|_| corrupt(format!("{}: index: {at} is a hole", dir.ino)))
    }
}
