//! What the reader asks for before it waits for it: on a far device each read that nobody announced is a round trip.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use snapbrowse::Result;
use snapbrowse::block::{BlockSource, ImageFile, ReadFuture, Segments};
use snapbrowse::fs::ext::{Ext, Options};

use crate::common::{Need, can_run, run};
use crate::walk::wait;

/// An image that notes which reads came without a hint before them.
struct Noting {
    image: ImageFile,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    hinted: Vec<Range<u64>>,
    reads: usize,
    unannounced: usize,
}

impl Noting {
    fn note(&self, offset: u64, len: usize) {
        let mut notes = self.notes.lock().unwrap();
        let end = offset + len as u64;
        let announced = notes.hinted.iter().any(|hint| hint.start <= offset && end <= hint.end);
        notes.reads += 1;
        notes.unannounced += usize::from(!announced);
    }
}

impl BlockSource for Noting {
    fn len(&self) -> u64 {
        self.image.len()
    }

    fn block_size(&self) -> u32 {
        self.image.block_size()
    }

    fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        self.note(offset, len);
        self.image.read_at(offset, len)
    }

    fn try_read_at(&self, offset: u64, len: usize) -> Option<Result<Segments>> {
        let answer = self.image.try_read_at(offset, len)?;
        self.note(offset, len);
        Some(answer)
    }

    fn prefetch(&self, ranges: &[Range<u64>]) {
        self.notes.lock().unwrap().hinted.extend_from_slice(ranges);
    }
}

#[test]
fn a_log_mapped_by_indirect_blocks_is_found_in_few_round_trips() {
    if !can_run("ahead", &[Need::Program("mke2fs")]) {
        return;
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(128 << 20).unwrap();
    // 32,768 blocks of a log, 256 of them to each indirect block.
    let path = image.path().to_str().unwrap();
    run("mke2fs", &["-q", "-F", "-t", "ext3", "-b", "1024", "-J", "size=32", path]);
    let image = ImageFile::open(image.path()).unwrap();
    let source = Arc::new(Noting { image, notes: Mutex::default() });
    wait(Ext::open(Arc::clone(&source) as Arc<dyn BlockSource>, Options::default())).unwrap();
    let Notes { reads, unannounced, .. } = &*source.notes.lock().unwrap();
    assert!(*reads >= 128, "{reads} reads: the log has no indirect blocks");
    assert!(*unannounced <= 16, "{unannounced} of {reads} reads were not announced");
}
