//! A whole file system: opened, walked and read, whatever bytes of it are changed.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use super::super::{Ext, JournalMode, Options};
use crate::error::Result;
use crate::fs::{Attr, FileType, Filesystem, Ino};
use crate::fuzz::{Device, Input, PIECE, wait};

/// File systems of few blocks and many features, and the pieces of each that hold anything.
static IMAGES: LazyLock<Vec<(Device, Vec<u64>)>> = LazyLock::new(|| {
    macro_rules! packed {
        ($($name:literal)*) => {
            [$(&include_bytes!(concat!("../../../../testdata/fuzz-images/", $name))[..]),*]
        };
    }
    // New ones stand last, so that the seeds keep their meaning.
    packed![
        "ext2" "ext3-dirty" "ext4" "ext4-inline" "ext4-clusters" "ext4-names" "ext4-fast-commits"
    ]
    .into_iter()
    .map(|packed| {
        let device = Device::unpack(packed);
        let used = device.used();
        (device, used)
    })
    .collect()
});

/// Entries of one image that are looked at.
const ENTRIES: usize = 2000;
/// Bytes that are read at each place of a file, and places.
const READ: usize = 16 << 10;
const PLACES: usize = 8;

/// Changes one of the images as the input says: its first byte chooses the image, then each record writes some bytes, or copies
/// one piece over another. Reads all that can be reached then.
///
/// # Panics
/// Where a promise of the reader's is broken.
pub fn image(bytes: &[u8]) {
    let mut input = Input(bytes);
    let Some(choice) = input.byte() else { return };
    let (device, used) = &IMAGES[usize::from(choice & 0x3F) % IMAGES.len()];
    let mut device = device.clone();
    while change(&mut device, used, &mut input).is_some() {}
    let journal = match choice >> 6 {
        0 | 1 => JournalMode::Replay,
        2 => JournalMode::Ignore,
        _ => JournalMode::RequireClean,
    };
    wait(async {
        let options = Options { journal, ..Options::default() };
        let Ok(fs) = Ext::open(Arc::new(device), options).await else { return };
        fs.check_unchanged().await.expect("nobody writes to it");
        let _ = fs.statfs().await;
        walk(&fs).await;
    });
}

fn change(device: &mut Device, used: &[u64], input: &mut Input<'_>) -> Option<()> {
    let (kind, piece, at) = (input.byte()?, input.half()?, input.half()?);
    let piece = used[usize::from(piece) % used.len()] * PIECE as u64;
    let offset = piece + u64::from(at) % PIECE as u64;
    match kind & 3 {
        0 => device.write(offset, &[input.byte()?]),
        1 => device.write(offset, &input.half()?.to_le_bytes()),
        2 => device.write(offset, &input.word()?.to_le_bytes()),
        _ => {
            let from = used[usize::from(at) % used.len()] * PIECE as u64;
            device.write(piece, &device.bytes(from, PIECE));
        }
    }
    Some(())
}

/// Enters each directory once and reads what stands in it.
async fn walk(fs: &Ext) {
    let mut seen = HashSet::new();
    let mut pending = vec![fs.root()];
    let mut left = ENTRIES;
    while let Some(ino) = pending.pop() {
        let Some(rest) = left.checked_sub(1) else { return };
        left = rest;
        attributes(fs, ino).await;
        let Ok(attr) = fs.getattr(ino).await else { continue };
        let _ = match attr.file_type {
            FileType::Directory if seen.insert(ino) => {
                let listed = list(fs, ino, &mut pending).await;
                // What the reader does ahead has its turn.
                tokio::task::yield_now().await;
                listed
            }
            FileType::Regular => read(fs, &attr).await,
            FileType::Symlink => fs.readlink(ino).await.map(|target| {
                assert!(!target.is_empty() && !target.contains(&0) && target.len() < 65536);
            }),
            _ => Ok(()),
        };
    }
}

async fn attributes(fs: &Ext, ino: Ino) {
    for name in fs.listxattr(ino).await.unwrap_or_default() {
        if let Ok(value) = fs.getxattr(ino, &name).await {
            assert!(value.len() <= 1 << 24);
        }
    }
}

async fn list(fs: &Ext, dir: Ino, pending: &mut Vec<Ino>) -> Result<()> {
    let (mut cookie, mut count) = (0, 0);
    loop {
        let batch = fs.readdir(dir, cookie).await?;
        let Some(last) = batch.last() else { return Ok(()) };
        assert!(batch.is_sorted_by_key(|entry| entry.cookie) && batch[0].cookie > cookie);
        cookie = last.cookie;
        for entry in batch {
            assert!(!entry.name.is_empty() && entry.name.len() <= 255);
            assert!(!entry.name.contains(&b'/') && !entry.name.contains(&0));
            // Another entry of the same name may come first.
            let _ = fs.lookup(dir, &entry.name).await;
            count += 1;
            if entry.name != b"." && entry.name != b".." && count <= ENTRIES {
                pending.push(entry.ino);
            }
        }
    }
}

/// Reads the start and the end of a file, and the start of each of its first islands of data; between them are zeros.
async fn read(fs: &Ext, attr: &Attr) -> Result<()> {
    let reader = Filesystem::open(fs, attr.ino).await?;
    let mut places = vec![0, attr.size.saturating_sub(READ as u64)];
    let mut at = 0;
    for _ in 0..PLACES {
        let Some(data) = reader.data_range(at).await? else { break };
        assert!(at <= data.start && data.start < data.end && data.end <= attr.size);
        if at < data.start {
            let len = usize::try_from(data.start - at).unwrap_or(READ).min(READ);
            let hole = reader.read(at, len).await?.into_bytes();
            assert!(hole.len() == len && hole.iter().all(|byte| *byte == 0), "data in a hole");
        }
        places.push(data.start);
        at = data.end;
    }
    for at in places {
        let expected = usize::try_from(attr.size - at).unwrap_or(READ).min(READ);
        let bytes = reader.read(at, READ).await?.into_bytes();
        assert_eq!(bytes.len(), expected, "at byte {at} of {}", attr.size);
        if let Some(again) = reader.try_read(at, READ) {
            assert!(again?.into_bytes() == bytes, "the same bytes, read twice");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::walk::names;

    /// Else nothing deep would be tried.
    #[test]
    fn every_image_is_sound_and_has_its_journal_played_back() {
        let (mut replayed, mut fast_commits) = (0, 0);
        for (device, _) in IMAGES.iter() {
            wait(async {
                let fs = Ext::open(Arc::new(device.clone()), Options::default()).await.unwrap();
                let report = &fs.summary().journal;
                assert_eq!(report.replayed, report.dirty);
                replayed += u32::from(report.replayed);
                fast_commits += report.fast_commits;
                let many = fs.lookup(fs.root(), b"many").await.unwrap();
                assert_eq!(names(&fs, many).await.0.len(), 60);
                for name in ["small", "sparse", "deep/larger"] {
                    let path = format!("/{name}");
                    let found = crate::fs::resolve(&fs, path.as_bytes(), crate::fs::LastLink::Keep);
                    match found.await {
                        Ok(attr) => read(&fs, &attr).await.unwrap(),
                        // Removed by the last of the fast commits.
                        Err(_) => assert_eq!((name, replayed), ("small", 2)),
                    }
                }
            });
        }
        assert_eq!(replayed, 2);
        assert!(fast_commits > 3, "{fast_commits}");
    }
}
