//! Where a file's blocks lie: one node of its map, whether extent tree or indirect blocks.

use std::ops::Range;

use super::{FileBlock, FsBlock};

/// What a child node is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A node of an extent tree; 0 is a leaf.
    Extents {
        /// Levels below it.
        depth: u16,
    },
    /// An indirect block; 0 points at data.
    Indirect {
        /// Levels of indirect blocks below it.
        level: u8,
    },
}

impl NodeKind {
    /// Whether it points at data and at no further nodes.
    pub fn is_leaf(self) -> bool {
        matches!(self, Self::Extents { depth: 0 } | Self::Indirect { level: 0 })
    }
}

/// A child to read next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Child {
    /// Where it lies.
    pub block: FsBlock,
    /// What it must be.
    pub kind: NodeKind,
    /// The file blocks that it maps, and no others.
    pub range: Range<u64>,
}

/// A run of file blocks that lie side by side, or that are all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first file block.
    pub first: FileBlock,
    /// How many blocks, never 0.
    pub len: u64,
    /// Where the first block lies; `None` reads as zeros (a hole, or allocated but not written).
    pub place: Option<FsBlock>,
}

/// What a node says about a file block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The whole run that the block belongs to, as far as this node knows.
    Run(Run),
    /// Its child knows.
    Child(Child),
}

/// An entry: file blocks `first..first + len`. Entries of a node ascend and do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) first: u64,
    pub(super) len: u64,
    pub(super) target: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Data(FsBlock),
    Unwritten,
    Child(FsBlock, NodeKind),
}

/// A validated node: what it says lies within the range that its parent gave it, so that walking down always ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapNode {
    range: Range<u64>,
    entries: Box<[Entry]>,
}

impl MapNode {
    /// The caller has checked that the entries ascend within `range` without overlap.
    pub(super) fn new(range: Range<u64>, entries: Vec<Entry>) -> Self {
        Self { range, entries: entries.into_boxed_slice() }
    }

    /// A map of a whole file in one node. The runs ascend and do not overlap.
    pub fn of_runs(runs: impl Iterator<Item = (u64, u64, FsBlock)>) -> Self {
        let entry = |(first, len, block)| Entry { first, len, target: Target::Data(block) };
        Self::new(0..1 << 32, runs.map(entry).collect())
    }

    /// What the node says about a block. Blocks past its range are holes.
    pub fn find(&self, block: FileBlock) -> Found {
        let after = self.entries.partition_point(|entry| entry.first <= block.0);
        let hole_start = match after.checked_sub(1).map(|before| self.entries[before]) {
            Some(entry) if block.0 - entry.first < entry.len => {
                let range = entry.first..entry.first + entry.len;
                let run = |place| Run { first: FileBlock(entry.first), len: entry.len, place };
                return match entry.target {
                    Target::Data(start) => Found::Run(run(Some(start))),
                    Target::Unwritten => Found::Run(run(None)),
                    Target::Child(block, kind) => Found::Child(Child { block, kind, range }),
                };
            }
            Some(entry) => entry.first + entry.len,
            None => self.range.start.min(block.0),
        };
        let hole_end = match self.entries.get(after) {
            Some(next) => next.first,
            None if block.0 < self.range.end => self.range.end,
            None => u64::MAX,
        };
        Found::Run(Run { first: FileBlock(hole_start), len: hole_end - hole_start, place: None })
    }

    /// All that it points at, children and data: the first block, and how many.
    pub fn targets(&self) -> impl Iterator<Item = (FsBlock, u64)> + '_ {
        self.entries.iter().filter_map(|entry| match entry.target {
            Target::Data(block) => Some((block, entry.len)),
            Target::Child(block, _) => Some((block, 1)),
            Target::Unwritten => None,
        })
    }

    /// The blocks of all children, in the order of the file.
    pub fn children(&self) -> impl Iterator<Item = Child> + '_ {
        self.entries.iter().filter_map(|entry| match entry.target {
            Target::Child(block, kind) => {
                Some(Child { block, kind, range: entry.first..entry.first + entry.len })
            }
            Target::Data(_) | Target::Unwritten => None,
        })
    }

    /// Whether the data of a lowest indirect block lies between it and the next block of the map: those are just so
    /// far apart, which is how all writers lay out a file that they do not have to break up.
    pub fn is_dense_behind(&self, child: &Child) -> bool {
        let after = self.entries.partition_point(|entry| entry.first < child.range.end);
        let between = (child.range.end - child.range.start).saturating_add(1);
        child.kind == NodeKind::Indirect { level: 0 }
            && matches!(self.entries.get(after).map(|entry| entry.target),
                Some(Target::Child(next, _)) if next.0.checked_sub(child.block.0) == Some(between))
    }

    /// Memory in use, in bytes.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> MapNode {
        MapNode::new(
            10..100,
            vec![
                Entry { first: 20, len: 5, target: Target::Data(FsBlock(1000)) },
                Entry { first: 25, len: 5, target: Target::Unwritten },
                Entry {
                    first: 40,
                    len: 60,
                    target: Target::Child(FsBlock(7), NodeKind::Extents { depth: 0 }),
                },
            ],
        )
    }

    fn run(first: u64, len: u64, place: Option<u64>) -> Found {
        Found::Run(Run { first: FileBlock(first), len, place: place.map(FsBlock) })
    }

    #[test]
    fn every_block_belongs_to_one_run_or_child() {
        let node = node();
        assert_eq!(node.find(FileBlock(12)), run(10, 10, None));
        assert_eq!(node.find(FileBlock(22)), run(20, 5, Some(1000)));
        assert_eq!(node.find(FileBlock(29)), run(25, 5, None));
        assert_eq!(node.find(FileBlock(30)), run(30, 10, None));
        let Found::Child(child) = node.find(FileBlock(99)) else { panic!("a child") };
        assert_eq!((child.block, child.range), (FsBlock(7), 40..100));
    }

    #[test]
    fn data_lies_between_indirect_blocks_that_are_just_so_far_apart() {
        let kind = NodeKind::Indirect { level: 0 };
        let entry = |(index, block): (u64, u64)| {
            let target = Target::Child(FsBlock(block), kind);
            Entry { first: index * 256, len: 256, target }
        };
        let node = MapNode::new(0..1024, (0..).zip([5000, 5257, 6000, 6257]).map(entry).collect());
        let dense: Vec<_> = node.children().map(|child| node.is_dense_behind(&child)).collect();
        assert_eq!(dense, [true, false, true, false]);
    }

    #[test]
    fn past_the_end_is_a_hole() {
        assert_eq!(node().find(FileBlock(100)), run(100, u64::MAX - 100, None));
    }
}
