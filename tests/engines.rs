//! The two readers, one beside the other, on an image that needs recovery.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{Need, assert_readers_agree, can_run, crashed_disk, run};
use snapbrowse::ErrorKind;
use snapbrowse::block::{ImageFile, Slice};
use snapbrowse::fs::ext::{Ext, Options};
use snapbrowse::fs::ext4_view::Ext4View;
use snapbrowse::fs::{Filesystem, Ino};
use snapbrowse_images::engines::Fault;

async fn open(image: &Path, offset: u64) -> Ext {
    let device = Arc::new(ImageFile::open(image).unwrap());
    let len = std::fs::metadata(image).unwrap().len() - offset;
    let volume = Arc::new(Slice::new(device, offset..offset + len, "p1").unwrap());
    Ext::open(volume, Options::default()).await.unwrap()
}

#[tokio::test]
async fn both_read_a_crashed_ext3_alike() {
    let disk = crashed_disk();
    let native = open(&disk.path().join("dirty-ext3.img"), 1 << 20).await;
    assert!(native.summary().journal.replayed);
    let comparison = assert_readers_agree(native, "dirty-ext3").await;
    assert_eq!(comparison.paths, 32);
    let known = [Fault::DistantTimes, Fault::DeviceNumbers, Fault::MissingIndirectBlock];
    assert!(comparison.faults.keys().eq(&known), "{:?}", comparison.faults);
}

#[tokio::test]
async fn both_read_an_ext4_with_checksums_alike() {
    let needs = [Need::Program("mke2fs"), Need::Program("debugfs")];
    if !can_run("both_read_an_ext4_with_checksums_alike", &needs) {
        return;
    }
    let tree = tempfile::tempdir().unwrap();
    for dir in 0..30 {
        let dir = tree.path().join(format!("dir {dir}"));
        std::fs::create_dir(&dir).unwrap();
        for file in 0..40 {
            let text = file.to_string().repeat(file * file);
            std::fs::write(dir.join(format!("file-{file}")), text).unwrap();
        }
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    let (path, files) = (image.path().to_str().unwrap(), tree.path().to_str().unwrap());
    run("truncate", &["-s", "64M", path]);
    let features = "metadata_csum,64bit";
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-O", features, "-d", files, path]);
    // A log that says nothing still needs recovery: the other reader must not see the flag.
    run("debugfs", &["-w", "-R", "feature needs_recovery", path]);
    let comparison = assert_readers_agree(open(image.path(), 0).await, "checksums").await;
    // With the root, and the directory that mke2fs adds.
    assert_eq!(comparison.paths, 2 + 30 + 30 * 40);
    assert!(comparison.faults.is_empty(), "{:?}", comparison.faults);
}

#[tokio::test]
async fn the_other_reader_says_what_it_cannot_do() {
    let disk = crashed_disk();
    let native = open(&disk.path().join("dirty-ext3.img"), 1 << 20).await;
    let view = Ext4View::open(Arc::new(native)).await.unwrap();
    let root = view.root();
    let missing = view.lookup(root, b"not there").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(view.open(root).await.err().unwrap().kind(), ErrorKind::IsDir);
    assert_eq!(view.getattr(Ino(1 << 40)).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(view.getxattr(root, b"user.x").await.unwrap_err().kind(), ErrorKind::NoXattr);
    assert_eq!(view.lookup(root, b"..").await.unwrap(), root);
}
