//! Whatever bytes change in an image: no panic, no hang, and what is read is read without a word only where it is right
//! to be.

use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use snapbrowse::Result;
use snapbrowse::block::{BlockSource, ReadFuture, Segments, check_range};
use snapbrowse::fs::ext::{Ext, Options};

use crate::common::{Need, can_run, run};
use crate::survey::survey;
use crate::walk::wait;

/// A device in memory.
struct Memory(Vec<u8>);

impl BlockSource for Memory {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        Box::pin(async move { self.read(offset, len) })
    }

    fn try_read_at(&self, offset: u64, len: usize) -> Option<Result<Segments>> {
        Some(self.read(offset, len))
    }
}

impl Memory {
    fn read(&self, offset: u64, len: usize) -> Result<Segments> {
        check_range(self.len(), offset, len)?;
        let start = usize::try_from(offset).unwrap();
        Ok(Segments::from(self.0[start..start + len].to_vec()))
    }
}

/// A sequence of numbers that begins at a seed (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// The bytes of a small file system that has some of everything.
fn image(mke2fs: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    for name in ["many", "deep/deeper/deepest"] {
        fs::create_dir_all(tree.join(name)).unwrap();
    }
    for number in 0..150 {
        let name = format!("many/a-long-name-so-that-there-are-blocks-{number}");
        fs::write(tree.join(name), number.to_string()).unwrap();
    }
    // Enough for a second level of the map, with holes.
    let sparse = fs::File::create(tree.join("deep/sparse")).unwrap();
    for at in 0..60 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"island", at * 9000).unwrap();
    }
    std::os::unix::fs::symlink("t".repeat(40), tree.join("short")).unwrap();
    std::os::unix::fs::symlink("t".repeat(400), tree.join("long")).unwrap();
    let tree = tree.to_str().unwrap();
    let common = ["-q", "-F", "-b", "1024", "-N", "256", "-d", tree];
    run("mke2fs", &[&common, mke2fs, &[image.to_str().unwrap(), "4M"]].concat());
    // Indexes, which mke2fs does not make.
    let _ = std::process::Command::new("e2fsck").arg("-fyD").arg(&image).output().unwrap();
    fs::read(image).unwrap()
}

/// Damages an image in one of several ways; `used` are its blocks of 1 KiB that hold anything.
fn damage(bytes: &mut [u8], used: &[usize], numbers: &mut Numbers) {
    match numbers.below(4) {
        // Some bytes of the superblock or of the descriptors, ...
        0 => {
            for _ in 0..=numbers.below(3) {
                bytes[1024 + numbers.below(2048)] = numbers.next() as u8;
            }
        }
        // ... of any other block, ...
        1 | 2 => {
            for _ in 0..=numbers.below(20) {
                let block = used[numbers.below(used.len())].max(2);
                bytes[block * 1024 + numbers.below(1024)] = numbers.next() as u8;
            }
        }
        // ... or a whole block, exchanged for another one.
        _ => {
            let from = used[numbers.below(used.len())];
            let to = used[numbers.below(used.len())].max(3);
            bytes.copy_within(from * 1024..(from + 1) * 1024, to * 1024);
        }
    }
}

fn survives(name: &str, mke2fs: &[&str], rounds: u32) {
    if !can_run(name, &[Need::Program("mke2fs"), Need::Program("e2fsck")]) {
        return;
    }
    let sound = image(mke2fs);
    let used: Vec<usize> = (0..sound.len() / 1024)
        .filter(|block| sound[block * 1024..][..1024].iter().any(|byte| *byte != 0))
        .collect();
    let seed = std::hash::RandomState::new().build_hasher().finish();
    println!("{name}: seed {seed:#x}");
    let mut numbers = Numbers(seed);
    let (mut opened, mut failed) = (0, 0);
    for round in 0..rounds {
        let mut bytes = sound.clone();
        damage(&mut bytes, &used, &mut numbers);
        println!("{name}: round {round}");
        wait(async {
            if let Ok(fs) = Ext::open(Arc::new(Memory(bytes)), Options::default()).await {
                opened += 1;
                failed += survey(&fs).await.errors.len();
            }
        });
    }
    assert!(opened > rounds / 4, "{opened} of {rounds} could be opened: nothing was tested");
    assert!(failed > 0, "no damage was ever noticed: nothing was tested");
}

#[test]
fn damaged_block_maps() {
    survives("damaged_block_maps", &["-t", "ext3", "-J", "size=1", "-O", "dir_index"], 150);
}

#[test]
fn damaged_extents() {
    let mke2fs = ["-t", "ext4", "-O", "^metadata_csum,^has_journal", "-I", "256"];
    survives("damaged_extents", &mke2fs, 150);
}

#[test]
fn damaged_inline_data() {
    let mke2fs = ["-t", "ext4", "-O", "^metadata_csum,^has_journal,inline_data", "-I", "256"];
    survives("damaged_inline_data", &mke2fs, 150);
}

#[test]
fn damage_under_checksums() {
    let mke2fs = ["-t", "ext4", "-O", "metadata_csum,^has_journal", "-I", "256"];
    survives("damage_under_checksums", &mke2fs, 100);
}
