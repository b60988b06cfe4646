//! The two readers, one beside the other, on an image that needs recovery.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use common::{Need, can_run, crashed_disk, run};
use snapbrowse::block::{ImageFile, Slice};
use snapbrowse::fs::ext::{Ext, Options};
use snapbrowse::fs::ext4_view::Ext4View;
use snapbrowse::fs::{FileType, Filesystem, Ino};
use snapbrowse::{ErrorKind, Result};

async fn open_both(image: &Path, offset: u64) -> (Arc<Ext>, Ext4View) {
    let device = Arc::new(ImageFile::open(image).unwrap());
    let len = std::fs::metadata(image).unwrap().len() - offset;
    let volume = Arc::new(Slice::new(device, offset..offset + len, "p1").unwrap());
    let native = Arc::new(Ext::open(volume, Options::default()).await.unwrap());
    let view = Ext4View::open(Arc::clone(&native)).await.unwrap();
    (native, view)
}

/// Names in byte order with their inodes, `.` and `..` left out.
async fn entries(fs: &dyn Filesystem, dir: Ino) -> Vec<(Vec<u8>, Ino)> {
    let mut all = Vec::new();
    let mut cookie = 0;
    loop {
        let batch = fs.readdir(dir, cookie).await.unwrap();
        let Some(last) = batch.last() else { break };
        cookie = last.cookie;
        all.extend(batch.into_iter().map(|entry| (entry.name, entry.ino)));
    }
    all.retain(|(name, _)| name != b"." && name != b"..");
    all.sort();
    all
}

async fn contents(fs: &dyn Filesystem, ino: Ino, size: u64) -> Result<Vec<u8>> {
    let reader = fs.open(ino).await?;
    let mut whole = Vec::new();
    while (whole.len() as u64) < size {
        let piece = reader.read(whole.len() as u64, 100_000).await?;
        assert!(!piece.is_empty());
        whole.extend_from_slice(&piece.into_bytes());
    }
    assert!(reader.read(size, 10).await?.is_empty());
    Ok(whole)
}

/// Compares everything that both tell, and gives the number of files.
fn compare<'a>(
    native: &'a Ext,
    view: &'a Ext4View,
    at: (Ino, Ino),
) -> Pin<Box<dyn Future<Output = u32> + 'a>> {
    Box::pin(async move {
        let mut files = 0;
        let ours = entries(native, at.0).await;
        let theirs = entries(view, at.1).await;
        let names = |entries: &[(Vec<u8>, Ino)]| -> Vec<_> {
            entries.iter().map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(names(&ours), names(&theirs));
        for ((name, our), (_, their)) in ours.into_iter().zip(theirs) {
            let what = name.escape_ascii().to_string();
            let a = native.getattr(our).await.unwrap();
            let b = match view.getattr(their).await {
                // The crate's known fault: a time before 1970.
                Err(error) if a.mtime.seconds < 0 => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                    continue;
                }
                // It does not tell the number of a device.
                Err(error)
                    if matches!(a.file_type, FileType::CharDevice | FileType::BlockDevice) =>
                {
                    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                    continue;
                }
                theirs => theirs.unwrap(),
            };
            assert_eq!(view.lookup(at.1, &name).await.unwrap(), their, "{what}");
            assert_eq!(
                (a.file_type, a.permissions, a.uid, a.gid, a.size, a.mtime, a.atime),
                (b.file_type, b.permissions, b.uid, b.gid, b.size, b.mtime, b.atime),
                "{what}"
            );
            match a.file_type {
                FileType::Directory => files += compare(native, view, (our, their)).await,
                FileType::Symlink => {
                    let target = native.readlink(our).await.unwrap();
                    assert_eq!(target, view.readlink(their).await.unwrap(), "{what}");
                }
                FileType::Regular => {
                    let ours = contents(native, our, a.size).await.unwrap();
                    match contents(view, their, a.size).await {
                        // The crate's known fault: a hole where an indirect block would be.
                        Err(error) if what == "sparse.img" => {
                            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                        }
                        theirs => assert!(ours == theirs.unwrap(), "{what}"),
                    }
                    files += 1;
                }
                _ => {}
            }
        }
        files
    })
}

#[tokio::test]
async fn both_read_a_crashed_ext3_alike() {
    let disk = crashed_disk();
    let (native, view) = open_both(&disk.path().join("dirty-ext3.img"), 1 << 20).await;
    assert!(native.summary().journal.replayed);
    let files = compare(&native, &view, (native.root(), view.root())).await;
    assert!(files > 10, "{files} files");
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
    let (native, view) = open_both(image.path(), 0).await;
    assert_eq!(compare(&native, &view, (native.root(), view.root())).await, 30 * 40);
}

#[tokio::test]
async fn the_other_reader_says_what_it_cannot_do() {
    let disk = crashed_disk();
    let (_, view) = open_both(&disk.path().join("dirty-ext3.img"), 1 << 20).await;
    let root = view.root();
    let missing = view.lookup(root, b"not there").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(view.open(root).await.err().unwrap().kind(), ErrorKind::IsDir);
    assert_eq!(view.getattr(Ino(1 << 40)).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(view.getxattr(root, b"user.x").await.unwrap_err().kind(), ErrorKind::NoXattr);
    assert_eq!(view.lookup(root, b"..").await.unwrap(), root);
}
