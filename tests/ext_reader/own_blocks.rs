//! Blocks that the file system keeps for itself: no contents are taken from them, and that costs no sound file.

use std::fs;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use snapbrowse::block::{BlockSource, ImageFile, ReadFuture};
use snapbrowse::fs::Filesystem;
use snapbrowse::fs::ext::{Ext, Options};
use snapbrowse::{Error, ErrorKind};

use crate::common::can_run;
use crate::damaged::{Damaged, NEEDS, list};
use crate::walk::wait;

/// `tune2fs -j` makes it in a mounted ext2, as `/.journal`; the kernel shows it like any other file.
#[test]
fn a_journal_that_has_a_name_is_read_like_any_file() {
    if !can_run("a_journal_that_has_a_name_is_read_like_any_file", NEEDS) {
        return;
    }
    let image = Damaged::new(&["-t", "ext2"]);
    let (first, last) = (image.block_of("large", 0), image.block_of("large", 3071));
    // Magic number, type, sequence; block size, blocks, the first of the log; the next sequence, and that it is empty.
    let words = [0xC03B_3998_u32, 4, 0, 1024, 3072, 1, 1, 0];
    let mut superblock: Vec<u8> = words.into_iter().flat_map(u32::to_be_bytes).collect();
    superblock.resize(1024, 0);
    image.write(first * 1024, &superblock);
    let told = image.debugfs("stat large");
    let ino = told.split_whitespace().nth(1).unwrap();
    image.set("feature has_journal");
    image.set(&format!("ssv journal_inum {ino}"));
    wait(async {
        let fs = image.open().await.unwrap();
        assert_eq!(fs.summary().warnings, [""; 0]);
        let log = fs.lookup(fs.root(), b"large").await.unwrap();
        let read = fs.open(log).await.unwrap().read(0, 3 << 20).await.unwrap().into_bytes();
        assert_eq!(read[..1024], superblock);
        assert!(read.len() == 3 << 20 && read[1024..].iter().all(|byte| *byte == 7));
        // Another file has nothing to do there.
        image.set(&format!("sif many/entry-00007 block[0] {last}"));
        let fs = image.open().await.unwrap();
        let many = fs.lookup(fs.root(), b"many").await.unwrap();
        let other = fs.lookup(many, b"entry-00007").await.unwrap();
        let error = fs.open(other).await.unwrap().read(0, 5).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    });
}

#[test]
fn contents_are_never_taken_from_the_file_systems_own_blocks() {
    if !can_run("contents_are_never_taken_from_the_file_systems_own_blocks", NEEDS) {
        return;
    }
    // Without checksums nothing but the place tells; the last one keeps the tables of all groups in the first.
    for (mke2fs, field, node) in [
        (&["-t", "ext3"][..], "block[3]", 12),
        (&["-t", "ext3", "-O", "flex_bg"], "block[3]", 12),
        (&["-t", "ext4", "-O", "^metadata_csum", "-g", "1024"], "block[5]", 0),
    ] {
        let image = Damaged::new(mke2fs);
        let stats = image.debugfs("stats");
        let descriptor = stats.lines().find(|line| line.contains("Group  1:")).unwrap();
        let number = |what: &str| -> u64 {
            let rest = descriptor.split(what).nth(1).unwrap().trim_start();
            rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
        };
        for own in [
            number("block bitmap at"),
            number("inode bitmap at"),
            number("inode table at"),
            number("inode table at") + 3,
            image.block_of("<8>", 500),
        ] {
            let message = format!("{mke2fs:?}: block {own}");
            assert!(own > 1, "{message}");
            let before = fs::read(image.image()).unwrap();
            wait(async {
                let large = image.open().await.unwrap();
                let ino = large.lookup(large.root(), b"large").await.unwrap();
                let sound = large.open(ino).await.unwrap().read(0, 3 << 20).await.unwrap();
                assert_eq!(sound.len(), 3 << 20, "{message}");

                image.set(&format!("sif large {field} {own}"));
                let fs = image.open().await.unwrap();
                let read = async |name: &[u8]| {
                    let file = fs.lookup(fs.root(), name).await?;
                    fs.open(file).await?.read(node * 1024, 1024).await
                };
                let error = read(b"large").await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{message}");
                assert!(error.to_string().contains("the file system's own"), "{error}");
                // It is its own damage only.
                let (names, none) = list(&fs, b"many").await;
                assert_eq!((names.len(), none), (2002, None), "{message}");
            });
            fs::write(image.image(), before).unwrap();
        }
    }
}

/// A device that reads no descriptors any more once it is told so.
struct Failing {
    image: ImageFile,
    descriptors: Range<u64>,
    fails: AtomicBool,
}

impl BlockSource for Failing {
    fn len(&self) -> u64 {
        self.image.len()
    }

    fn block_size(&self) -> u32 {
        self.image.block_size()
    }

    fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        if self.fails.load(Ordering::Relaxed) && self.descriptors.contains(&offset) {
            return Box::pin(async { Err(Error::new(ErrorKind::Medium, "unreadable")) });
        }
        self.image.read_at(offset, len)
    }
}

#[test]
fn descriptors_that_cannot_be_read_keep_no_file_from_being_read() {
    if !can_run("descriptors_that_cannot_be_read_keep_no_file_from_being_read", NEEDS) {
        return;
    }
    let image = Damaged::new(&["-t", "ext3", "-g", "256"]);
    wait(async {
        let device = Arc::new(Failing {
            image: ImageFile::open(image.image()).unwrap(),
            descriptors: 2048..2048 + 256 * 32,
            fails: AtomicBool::new(false),
        });
        let fs = Ext::open(device.clone(), Options::default()).await.unwrap();
        let large = fs.lookup(fs.root(), b"large").await.unwrap();
        let file = fs.open(large).await.unwrap();
        device.fails.store(true, Ordering::Relaxed);
        fs.statfs().await.unwrap_err();
        assert!(*file.read(0, 3 << 20).await.unwrap().into_bytes() == [7; 3 << 20]);
    });
}
