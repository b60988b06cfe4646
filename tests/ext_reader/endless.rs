//! Directories of a small image that claim to fill a large one: what is there is listed, and the end comes soon.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use snapbrowse::block::{BlockSource, ReadFuture, check_range};
use snapbrowse::fs::ext::{Ext, Options};
use snapbrowse::fs::{Filesystem as _, Ino};
use snapbrowse::{Error, ErrorKind};

use crate::allocations;
use crate::common::{Need, can_run, run};
use crate::walk::wait;

const BLOCK: usize = 4096;
const HASH_SEED: &str = "00000000-0000-0000-0000-000000000001";
/// 1 TiB.
const BLOCKS: u64 = 1 << 28;
/// Reads of the device that one question about a directory may cost: those of 64 MiB of damaged blocks, and some more.
const MOST_READS: u64 = 20_000;
const MOST_MEMORY: usize = 64 << 20;

/// A device that holds little and is zeros from there on. It counts what it is asked.
struct Sparse {
    start: Vec<u8>,
    reads: AtomicU64,
}

impl BlockSource for Sparse {
    fn len(&self) -> u64 {
        BLOCKS * BLOCK as u64
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        Box::pin(async move {
            check_range(self.len(), offset, len)?;
            self.reads.fetch_add(1, Ordering::Relaxed);
            let start = self.start.len().min(usize::try_from(offset).unwrap());
            let known = &self.start[start..self.start.len().min(start + len)];
            let mut bytes = known.to_vec();
            bytes.resize(len, 0);
            Ok(bytes.into())
        })
    }
}

/// The bytes of an image with a directory `big`, which has a name and whose map `forge` replaces: it is given the directory's
/// first block, and gives `i_block` and blocks to be written.
fn image(flags: u32, forge: impl FnOnce(u32) -> ([u32; 15], Vec<(u32, Vec<u32>)>)) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (image, script) = (dir.path().join("image"), dir.path().join("requests"));
    let seed = format!("hash_seed={HASH_SEED}");
    // With `meta_bg` the place of the descriptors does not grow over the root when there are said to be more groups.
    let features = "^has_journal,^metadata_csum,^uninit_bg,^resize_inode,meta_bg,large_dir";
    let image_name = image.to_str().unwrap();
    let arguments = ["-q", "-F", "-t", "ext4", "-b", "4096", "-O", features, "-E", &seed];
    run("mke2fs", &[&arguments[..], &[image_name, "8M"]].concat());
    let debugfs = |requests: &str| {
        fs::write(&script, requests).unwrap();
        let said = run("debugfs", &["-w", "-f", script.to_str().unwrap(), image_name]);
        String::from_utf8(said).unwrap()
    };
    let said = debugfs("mkdir big\nmkdir big/there\nbmap big 0\n");
    let first = said.lines().last().unwrap().trim().parse().unwrap();
    let (i_block, blocks) = forge(first);
    let mut requests = format!(
        "set_inode_field big flags {flags:#x}\nset_inode_field big size {}\n",
        BLOCKS * BLOCK as u64
    );
    let names = (0..12).map(|index| index.to_string());
    let names = names.chain(["IND", "DIND", "TIND"].map(String::from));
    for (name, word) in names.zip(i_block) {
        requests += &format!("set_inode_field big block[{name}] {word}\n");
    }
    let groups = BLOCKS / 32768;
    requests += &format!("set_super_value inodes_count {}\n", groups * inodes_per_group(&image));
    requests += &format!("set_super_value blocks_count {BLOCKS}\n");
    debugfs(&requests);
    let mut bytes = fs::read(&image).unwrap();
    for (block, words) in blocks {
        bytes[block as usize * BLOCK..][..BLOCK].fill(0);
        put(&mut bytes, block, 0, &words);
    }
    bytes
}

fn inodes_per_group(image: &Path) -> u64 {
    let bytes = fs::read(image).unwrap();
    u32::from_le_bytes(bytes[1024 + 0x28..][..4].try_into().unwrap()).into()
}

/// A node of an extent tree in words, of entries in words.
fn extent_node(depth: u32, entries: &[[u32; 3]]) -> Vec<u32> {
    let header = [0xF30A | (entries.len() as u32) << 16, 340 | depth << 16, 0];
    [&header[..], entries.as_flattened()].concat()
}

/// Puts words into a block of an image.
fn put(bytes: &mut [u8], block: u32, skip: usize, words: &[u32]) {
    let place = &mut bytes[block as usize * BLOCK + skip..][..words.len() * 4];
    for (place, word) in place.chunks_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}

/// Lists the directory and looks for a name that is not there, twice; gives the error at the end of the listing.
fn ends_soon(bytes: Vec<u8>) -> Error {
    let device = Arc::new(Sparse { start: bytes, reads: AtomicU64::new(0) });
    let reads = || device.reads.swap(0, Ordering::Relaxed);
    let (error, memory) = allocations::peak(|| {
        wait(async {
            let fs = Ext::open(device.clone(), Options::default()).await.unwrap();
            let big = fs.lookup(fs.root(), b"big").await.unwrap();
            let mut ends = Vec::new();
            for _ in 0..2 {
                reads();
                ends.push(list(&fs, big).await);
                assert!(reads() < MOST_READS, "a listing without end");
                fs.lookup(big, b"there").await.unwrap();
                fs.lookup(big, b"not_there").await.unwrap_err();
                assert!(reads() < MOST_READS, "a search without end");
            }
            ends.remove(0)
        })
    });
    assert!(memory < MOST_MEMORY, "{memory} bytes");
    error
}

async fn list(fs: &Ext, dir: Ino) -> Error {
    let (mut names, mut cookie) = (Vec::new(), 0);
    loop {
        match fs.readdir(dir, cookie).await {
            Ok(batch) => {
                cookie = batch.last().expect("no end without an error").cookie;
                names.extend(batch.into_iter().map(|entry| entry.name));
            }
            Err(error) => {
                assert_eq!(names, [&b"."[..], b"..", b"there"]);
                return error;
            }
        }
    }
}

const NEEDS: [Need; 2] = [Need::Program("mke2fs"), Need::Program("debugfs")];

#[test]
fn a_directory_of_zeros() {
    if !can_run("a_directory_of_zeros", &NEEDS) {
        return;
    }
    // Each block of it is in its own place, behind what a group may begin with, and of zeros: 166 GiB.
    const LENGTH: u32 = 32000;
    let bytes = image(0x80000, |first| {
        let mut root =
            extent_node(1, &[0, 1, 2, 3].map(|leaf| [leaf * 340 * LENGTH, 1900 + leaf, 0]));
        root[1] = 4 | 1 << 16;
        let leaf = |leaf: u32| {
            let extents = (0..340).map(|index| {
                let number = leaf * 340 + index;
                [number * LENGTH, LENGTH, (number + 1) * 32768 + 512]
            });
            let mut extents: Vec<_> = extents.collect();
            if leaf == 0 {
                extents[0] = [0, 1, first];
            }
            (1900 + leaf, extent_node(0, &extents))
        };
        (root.try_into().unwrap(), (0..4).map(leaf).collect())
    });
    let error = ends_soon(bytes);
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn a_directory_of_holes() {
    if !can_run("a_directory_of_holes", &NEEDS) {
        return;
    }
    // All indirect blocks are the same one, and the lowest one names no block.
    let bytes = image(0, |first| {
        let mut root = [0; 15];
        (root[0], root[14]) = (first, 1900);
        let all = |block| vec![block; BLOCK / 4];
        (root, vec![(1900, all(1901)), (1901, all(1902)), (1902, all(0))])
    });
    let error = ends_soon(bytes);
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn an_index_whose_leaves_have_no_end() {
    if !can_run("an_index_whose_leaves_have_no_end", &NEEDS) {
        return;
    }
    let request = format!("dx_hash -h half_md4 -s {HASH_SEED} not_there");
    let told = run("debugfs", &["-R", &request]);
    let told = String::from_utf8(told).unwrap();
    let hash = told.split("is 0x").nth(1).unwrap().split(' ').next().unwrap();
    let hash = u32::from_str_radix(hash, 16).unwrap();
    // Every entry goes on with the same hash, at the same node or leaf below.
    let entries = |count: u32, below: u32| {
        let mut words = vec![count | count << 16, below];
        words.extend((1..count).flat_map(|_| [hash | 1, below]));
        words
    };
    let node = |below| [vec![0, BLOCK as u32], entries(511, below)].concat();
    let mut place = 0;
    let mut bytes = image(0x1000, |first| {
        place = first;
        let mut root = [0; 15];
        root[..4].copy_from_slice(&[first, 1900, 1901, 1902]);
        (root, vec![(1900, node(2)), (1901, node(3)), (1902, vec![0, BLOCK as u32])])
    });
    // The name goes to the leaf: ".." fills what was its block, and within that lies the index.
    let named = bytes[place as usize * BLOCK + 24..][..4].try_into().unwrap();
    let name = [u32::from_le_bytes(named), BLOCK as u32 | 5 << 16 | 2 << 24];
    put(&mut bytes, 1902, 0, &[&name[..], &[u32::from_le_bytes(*b"ther"), b'e'.into()]].concat());
    put(&mut bytes, place, 16, &[(BLOCK as u32 - 12) | 2 << 16 | 2 << 24]);
    put(&mut bytes, place, 24, &[0, 0x0002_0801]);
    put(&mut bytes, place, 32, &entries(508, 1));
    ends_soon(bytes);
}
