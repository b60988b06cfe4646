//! A file system, read whole through the trait.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use snapbrowse::Result;
use snapbrowse::block::{BlockSource, ImageFile, Slice};
use snapbrowse::fs::ext::{Ext, Options};
use snapbrowse::fs::{Attr, FileType, Filesystem, Ino, Timestamp};

use sha2::{Digest, Sha256};

use crate::common::{Entry, Manifest};

/// Waits for an answer on a runtime of its own.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Opens the file system at `offset` of an image.
pub(crate) async fn open(image: &Path, offset: u64, options: Options) -> Result<Ext> {
    let image: Arc<dyn BlockSource> = Arc::new(ImageFile::open(image)?);
    let len = image.len() - offset;
    Ext::open(Arc::new(Slice::new(image, offset..offset + len, "image")?), options).await
}

/// Opens the file system in an image with its journal in another one.
pub(crate) async fn open_with_journal(image: &Path, journal: &Path) -> Result<Ext> {
    let device = |path| ImageFile::open(path).map(Arc::new);
    Ext::open_with_journal(device(image)?, device(journal)?, Options::default()).await
}

/// All paths with all that `stat` shows and digests of the contents, as [`Manifest::of_tree`] gives them. Every name is
/// looked up as well as listed.
pub(crate) async fn manifest(fs: &dyn Filesystem) -> Manifest {
    let mut manifest = Manifest::default();
    let mut pending = vec![(b".".to_vec(), fs.root())];
    while let Some((path, ino)) = pending.pop() {
        let attr = fs.getattr(ino).await.unwrap();
        if attr.file_type == FileType::Directory {
            let mut cookie = 0;
            loop {
                let batch = fs.readdir(ino, cookie).await.unwrap();
                let Some(last) = batch.last() else { break };
                cookie = last.cookie;
                for entry in batch {
                    let found = fs.lookup(ino, &entry.name).await.unwrap();
                    assert_eq!(found, entry.ino, "{}", entry.name.escape_ascii());
                    if entry.name != b"." && entry.name != b".." {
                        pending.push(([&path[..], b"/", &entry.name].concat(), entry.ino));
                    }
                }
            }
        }
        let entry = entry(fs, &attr).await;
        manifest.0.insert(path, entry);
    }
    manifest
}

/// All extended attributes of a file.
pub(crate) async fn attributes(fs: &dyn Filesystem, ino: Ino) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut attributes = BTreeMap::new();
    for name in fs.listxattr(ino).await.unwrap() {
        let value = fs.getxattr(ino, &name).await.unwrap();
        attributes.insert(name, value);
    }
    attributes
}

async fn entry(fs: &dyn Filesystem, attr: &Attr) -> Entry {
    let time = |time: Timestamp| format!("{}.{:09}", time.seconds, time.nanoseconds);
    Entry {
        mode: attr.file_type.mode_bits() | u32::from(attr.permissions),
        uid: attr.uid,
        gid: attr.gid,
        nlink: u64::from(attr.nlink),
        ino: attr.ino.0,
        size: attr.size,
        blocks: attr.blocks,
        rdev: format!("{:x}:{:x}", attr.rdev.major, attr.rdev.minor),
        atime: time(attr.atime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        digest: match attr.file_type {
            FileType::Symlink => hex(&Sha256::digest(fs.readlink(attr.ino).await.unwrap())),
            FileType::Regular if attr.size <= 1 << 30 => digest(fs, attr.ino, attr.size).await,
            FileType::Regular => format!("sparse:{}", sparse_digest(fs, attr.ino).await),
            _ => "-".into(),
        },
    }
}

async fn digest(fs: &dyn Filesystem, ino: Ino, size: u64) -> String {
    let reader = fs.open(ino).await.unwrap();
    let mut hash = Sha256::new();
    let mut at = 0;
    // An odd length, so that reads begin and end within blocks.
    while at < size {
        let piece = reader.read(at, 100_003).await.unwrap();
        assert_eq!(piece.len() as u64, (size - at).min(100_003));
        piece.pieces().iter().for_each(|piece| hash.update(piece));
        at += piece.len() as u64;
    }
    assert!(reader.read(size, 1).await.unwrap().is_empty());
    hex(&hash.finalize())
}

/// As the kernel's mount is digested: the pieces of 4 KiB that are not zero.
async fn sparse_digest(fs: &dyn Filesystem, ino: Ino) -> String {
    let reader = fs.open(ino).await.unwrap();
    let mut hash = Sha256::new();
    let mut at = 0;
    while let Some(data) = reader.data_range(at).await.unwrap() {
        at = data.start - data.start % 4096;
        while at < data.end {
            let piece = reader.read(at, 4096).await.unwrap().into_bytes();
            if piece.iter().any(|byte| *byte != 0) {
                hash.update(at.to_le_bytes());
                hash.update(&piece);
            }
            at += 4096;
        }
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
