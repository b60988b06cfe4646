//! The steps that every read goes through, one at a time: `cargo bench`.
#![expect(clippy::unwrap_used, reason = "benches")]
#![allow(missing_docs, reason = "criterion makes a public function")]

use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use snapbrowse::block::{self, BlockSource, CachePool, ReadFuture, Segments, Slice};
use snapbrowse::fs::ext::layout::superblock::{self, Superblock};
use snapbrowse::fs::ext::layout::{FileBlock, dirent, extent};
use snapbrowse::iscsi::is_target_pdu;

/// A device of zeros.
struct Zeros;

impl BlockSource for Zeros {
    fn len(&self) -> u64 {
        1 << 40
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn read_at(&self, _offset: u64, len: usize) -> ReadFuture<'_> {
        Box::pin(async move { Ok(Segments::from(vec![0; len])) })
    }
}

/// Reads that need no waiting, as the FUSE threads make them: through a partition and the cache.
fn cache_hit(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let cache = runtime.block_on(async { CachePool::new(256 << 20).cache(Arc::new(Zeros)) });
    let volume = Slice::new(Arc::new(cache), 1 << 20..1 << 30, "p1").unwrap();
    // By small reads: what large ones bring is let go of as soon as it has been read.
    for start in (0..16 << 20).step_by(32 << 10) {
        runtime.block_on(block::read(&volume, start, 32 << 10)).unwrap();
    }
    let mut group = criterion.benchmark_group("cache hit");
    for len in [4 << 10, 128 << 10, 1 << 20] {
        group.throughput(Throughput::Bytes(len as u64));
        let mut offset = 0;
        group.bench_function(format!("{} KiB", len >> 10), |bencher| {
            bencher.iter(|| {
                offset = (offset + (len as u64) * 7) % (15 << 20);
                volume.try_read_at(black_box(offset), len).unwrap().unwrap()
            });
        });
    }
}

/// Reads of blocks that no cache has, while what was read before makes room: everything that a miss costs but the wire.
fn cache_miss(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let cache = runtime.block_on(async { CachePool::new(64 << 20).cache(Arc::new(Zeros)) });
    let mut block = 0;
    criterion.bench_function("cache miss, 4 KiB", |bencher| {
        bencher.iter(|| {
            block += 1;
            // Far apart, and never the same: each has its own line.
            let offset = block * 7919 % (1 << 24) * (64 << 10);
            runtime.block_on(cache.read_at(black_box(offset), 4096)).unwrap()
        });
    });
}

fn superblock() -> Superblock {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let made = Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&image).arg("64M").status();
    assert!(made.unwrap().success());
    let bytes = std::fs::read(image).unwrap();
    let start = superblock::OFFSET as usize;
    Superblock::parse(&bytes[start..start + superblock::SIZE]).unwrap()
}

/// A leaf of an extent tree with the 340 extents that fit into 4 KiB.
fn extent_leaf() -> Vec<u8> {
    let mut block = vec![0; 4096];
    block[..8].copy_from_slice(&[0x0a, 0xf3, 0x54, 0x01, 0x54, 0x01, 0, 0]);
    for (i, extent) in block[12..].chunks_exact_mut(12).take(340).enumerate() {
        let i = i as u32;
        extent[..4].copy_from_slice(&(i * 8).to_le_bytes());
        extent[4..6].copy_from_slice(&7_u16.to_le_bytes());
        extent[8..].copy_from_slice(&(1000 + i * 11).to_le_bytes());
    }
    block
}

fn extents(criterion: &mut Criterion) {
    let superblock = superblock();
    let leaf = extent_leaf();
    criterion.bench_function("parse an extent leaf of 340", |bencher| {
        bencher.iter(|| {
            extent::parse_block(&superblock, black_box(&leaf), 0, 0..1 << 32, None).unwrap()
        });
    });
    let node = extent::parse_block(&superblock, &leaf, 0, 0..1 << 32, None).unwrap();
    let mut at = 0;
    criterion.bench_function("look up an extent among 340", |bencher| {
        bencher.iter(|| {
            at = (at + 997) % (340 * 8);
            node.find(FileBlock(black_box(at)))
        });
    });
}

/// A full directory block of names with 16 bytes.
fn directory(criterion: &mut Criterion) {
    let superblock = superblock();
    let mut block = vec![0; 4096];
    for (i, entry) in block.chunks_exact_mut(24).enumerate() {
        entry[..4].copy_from_slice(&(100 + i as u32).to_le_bytes());
        entry[4..8].copy_from_slice(&[24, 0, 16, 1]);
        entry[8..].copy_from_slice(format!("file-{i:011}").as_bytes());
    }
    // The last entry reaches to the end of the block.
    let last = 4096 / 24 * 24 - 24;
    block[last + 4..last + 6].copy_from_slice(&((4096 - last) as u16).to_le_bytes());
    assert_eq!(dirent::entries(&superblock, &block, 0).filter(Result::is_ok).count(), 170);
    criterion.bench_function("scan a directory block of 170 entries", |bencher| {
        bencher.iter(|| {
            dirent::entries(&superblock, black_box(&block), 0)
                .map(|entry| entry.unwrap().name.len())
                .sum::<usize>()
        });
    });
}

fn pdus(criterion: &mut Criterion) {
    let mut header = [0; 48];
    header[..8].copy_from_slice(&[0x25, 0x80, 0, 0, 0, 4, 0, 0]);
    criterion.bench_function("parse the header of a Data-In", |bencher| {
        bencher.iter(|| is_target_pdu(black_box(&header)));
    });
}

criterion_group!(benches, cache_hit, cache_miss, extents, directory, pdus);
criterion_main!(benches);
