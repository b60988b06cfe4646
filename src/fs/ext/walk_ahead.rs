//! Reads the next directories of a walk before it comes to them: otherwise each costs it several round trips, one
//! after the other.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::Disk;
use super::layout::{FileBlock, dirent};
use crate::error::Result;
use crate::fs::{DirEntry, FileType, Ino};

/// Directories whose subdirectories are remembered: a walk is in one of each level.
const FAMILIES: usize = 16;
/// How many subdirectories of one directory are remembered.
const CHILDREN: usize = 1 << 14;
/// How many directories ahead of a walk to be.
const AHEAD: usize = 16;
/// How many blocks ahead of a listing to be, with the inodes of their entries.
const BLOCKS: u64 = 32;

/// The subdirectories of what was listed last: walks come to them in the order of the listing.
#[derive(Debug, Default)]
pub(super) struct WalkAhead {
    families: Mutex<VecDeque<Family>>,
}

/// A directory and how far the walk through its subdirectories has come.
#[derive(Debug)]
struct Family {
    parent: Ino,
    /// The cookie up to which the parent was listed.
    listed: u64,
    children: Vec<Ino>,
    /// The place of the child that comes next if the walk goes on.
    next: usize,
    /// How many to be ahead of it.
    window: usize,
    /// The place up to which children were read ahead.
    ahead: usize,
}

impl WalkAhead {
    /// Notes a batch of the entries of `parent` after `cookie`.
    fn note(&self, parent: Ino, cookie: u64, batch: &[DirEntry]) {
        let Some(last) = batch.last() else { return };
        let is_child = |entry: &&DirEntry| {
            entry.file_type == Some(FileType::Directory)
                && entry.name != b"."
                && entry.name != b".."
        };
        let mut children = batch.iter().filter(is_child).map(|entry| entry.ino).peekable();
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let known = families.iter().position(|family| family.parent == parent);
        if let Some(family) = known.and_then(|at| families.get_mut(at)) {
            if family.listed == cookie {
                let room = CHILDREN.saturating_sub(family.children.len());
                family.children.extend(children.take(room));
                family.listed = last.cookie;
            }
            return;
        }
        if children.peek().is_none() {
            return;
        }
        families.truncate(FAMILIES - 1);
        families.push_front(Family {
            parent,
            listed: last.cookie,
            children: children.take(CHILDREN).collect(),
            next: 0,
            window: 0,
            ahead: 0,
        });
    }

    /// `directory` is about to be listed: whether it was read ahead, and which ones to read ahead now.
    fn visit(&self, directory: Ino) -> (bool, Vec<Ino>) {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |family: &Family| family.place_of(directory);
        let found = families.iter().enumerate().find_map(|(at, family)| Some((at, find(family)?)));
        let Some((at, place)) = found else {
            return (false, Vec::new());
        };
        families.make_contiguous()[..=at].rotate_right(1);
        let family = families.front_mut().expect("a family was just found");
        let (was_ahead, next) = family.visit(place);
        (was_ahead, family.children[next].to_vec())
    }
}

impl Family {
    fn place_of(&self, child: Ino) -> Option<usize> {
        if self.children.get(self.next) == Some(&child) {
            return Some(self.next);
        }
        self.children.iter().position(|known| *known == child)
    }

    /// The window doubles with each directory of a walk, and closes where the walk turns out to be none.
    fn visit(&mut self, place: usize) -> (bool, Range<usize>) {
        let goes_on = place == self.next;
        let was_ahead = goes_on && place < self.ahead;
        self.next = place + 1;
        if !goes_on {
            (self.window, self.ahead) = (0, self.next);
            return (was_ahead, 0..0);
        }
        self.window = (self.window * 2).clamp(1, AHEAD);
        let from = self.ahead.max(self.next);
        self.ahead = self.children.len().min(self.next + self.window).max(from);
        (was_ahead, from..self.ahead)
    }
}

impl Disk {
    /// [`Disk::readdir`], with the rest of the directory and the next ones on their way.
    pub(super) async fn walk(self: &Arc<Self>, dir: Ino, cookie: u64) -> Result<Vec<DirEntry>> {
        let mut was_ahead = false;
        if cookie == 0 {
            let next;
            (was_ahead, next) = self.walk_ahead.visit(dir);
            for next in next {
                self.spawn_list_ahead(next, 0..BLOCKS);
            }
        }
        let at = cookie / self.block_size();
        if !was_ahead && cookie % self.block_size() == 0 && at % (BLOCKS / 2) == 0 {
            let from = if at == 0 { 0 } else { at + BLOCKS / 2 };
            self.spawn_list_ahead(dir, from..at + BLOCKS);
        }
        let batch = self.readdir(dir, cookie).await?;
        self.walk_ahead.note(dir, cookie, &batch);
        Ok(batch)
    }

    fn spawn_list_ahead(self: &Arc<Self>, dir: Ino, blocks: Range<u64>) {
        // Without a runtime nobody is there to do it beside the caller.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let disk = Arc::clone(self);
            runtime.spawn(async move { disk.list_ahead(dir, blocks).await });
        }
    }

    /// Brings blocks of a directory and the inodes of their entries into the caches. Whoever lists it will meet the
    /// errors.
    async fn list_ahead(&self, dir: Ino, blocks: Range<u64>) {
        let Ok(dir) = self.directory(dir).await else { return };
        let end = blocks.end.min(self.dir_blocks(&dir).unwrap_or(0));
        self.prefetch_blocks(&dir, blocks.start..end);
        let mut inodes = Vec::new();
        for at in blocks.start..end {
            let Ok(Ok(block)) = self.dir_block(&dir, FileBlock(at)).await else { continue };
            let entries = dirent::entries(&self.sb, &block.bytes, 0);
            inodes.extend(entries.filter_map(|entry| Some(entry.ok()?.ino)));
        }
        self.prefetch_inodes(&inodes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: Ino = Ino(2);

    /// Entries for the directories `children`, one file between each two.
    fn batch(children: Range<u64>) -> Vec<DirEntry> {
        let entry = |number: u64, file_type| DirEntry {
            ino: Ino(number),
            name: number.to_string().into_bytes(),
            file_type: Some(file_type),
            cookie: number,
        };
        children
            .flat_map(|child| [entry(child, FileType::Directory), entry(child, FileType::Regular)])
            .collect()
    }

    #[test]
    fn a_walk_is_kept_ahead_of_and_nothing_is_read_twice() {
        let ahead = WalkAhead::default();
        ahead.note(PARENT, 0, &batch(10..60));
        ahead.note(PARENT, 59, &batch(60..110));
        let mut read = Vec::new();
        for child in 10..110 {
            assert!(child == 10 || read.contains(&Ino(child)), "{child} was not read ahead");
            let (was_ahead, next) = ahead.visit(Ino(child));
            assert_eq!(was_ahead, child > 10);
            read.extend(next);
            let most = (child as usize + 1 + AHEAD).min(110);
            assert!(read.iter().all(|ino| ino.0 < most as u64), "too far ahead of {child}");
        }
        assert_eq!(read, (11..110).map(Ino).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_no_walk_reads_nothing_ahead() {
        let ahead = WalkAhead::default();
        ahead.note(PARENT, 0, &batch(10..60));
        for child in [33, 12, 59, 14, 40] {
            assert_eq!(ahead.visit(Ino(child)), (false, vec![]), "{child}");
        }
        assert_eq!(ahead.visit(Ino(7)), (false, vec![]));
    }

    #[test]
    fn each_level_of_a_tree_is_a_walk_of_its_own() {
        let ahead = WalkAhead::default();
        ahead.note(PARENT, 0, &batch(10..20));
        for child in 10..15 {
            let next = ahead.visit(Ino(child)).1;
            assert!(child > 12 || !next.is_empty(), "after {child}");
            ahead.note(Ino(child), 0, &batch(child * 100..child * 100 + 5));
            for grandchild in 0..4 {
                let next = ahead.visit(Ino(child * 100 + grandchild)).1;
                assert!(grandchild > 1 || !next.is_empty(), "after {child}, {grandchild}");
            }
        }
    }

    #[test]
    fn a_listing_that_is_repeated_changes_nothing_and_few_are_kept() {
        let ahead = WalkAhead::default();
        for parent in 0..100 {
            for _ in 0..2 {
                ahead.note(Ino(1000 + parent), 0, &batch(10..20));
            }
        }
        let families = ahead.families.lock().unwrap();
        assert_eq!(families.len(), FAMILIES);
        assert!(families.iter().all(|family| family.children.len() == 10));
    }
}
