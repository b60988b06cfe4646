//! What the crate `ext4-view` does with images that this program must read: why the reader here is another one. When one of
//! these fails, a newer version has learnt it, and the README should say so.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{Need, can_run, crashed_disk, run};
use ext4_view::{Ext4, Ext4Error};

const NEEDS: &[Need] = &[Need::Program("mke2fs"), Need::Program("debugfs")];

/// A new file system on 16 MiB of old data, holding `files`.
fn image(dir: &Path, mke2fs: &[&str], files: &Path) -> PathBuf {
    let image = dir.join("image");
    fs::write(&image, vec![b'Z'; 16 << 20]).unwrap();
    let (files, file) = (files.to_str().unwrap(), image.to_str().unwrap());
    run("mke2fs", &[&["-q", "-F", "-E", "nodiscard"], mke2fs, &["-d", files, file]].concat());
    image
}

fn load(image: &Path) -> Result<Ext4, Ext4Error> {
    Ext4::load(Box::new(fs::read(image).unwrap()))
}

#[test]
fn it_refuses_every_ext3_that_was_not_unmounted() {
    let disk = crashed_disk();
    let mut file = File::open(disk.path().join("dirty-ext3.img")).unwrap();
    file.seek(SeekFrom::Start(1 << 20)).unwrap();
    let mut partition = Vec::new();
    file.read_to_end(&mut partition).unwrap();
    let refusal = Ext4::load(Box::new(partition)).unwrap_err();
    assert!(refusal.to_string().contains("missing required journal features"), "{refusal}");
}

#[test]
fn it_refuses_inline_data() {
    if !can_run("it_refuses_inline_data", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = tempfile::tempdir().unwrap();
    let image = image(dir.path(), &["-t", "ext4", "-O", "inline_data"], tree.path());
    let refusal = load(&image).unwrap_err();
    assert!(refusal.to_string().contains("unsupported features"), "{refusal}");
}

#[test]
fn it_shows_what_was_deleted_where_an_extent_is_unwritten() {
    if !can_run("it_shows_what_was_deleted_where_an_extent_is_unwritten", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("reserved"), b"").unwrap();
    let image = image(dir.path(), &["-t", "ext4", "-b", "4096"], tree.path());
    for request in ["fallocate /reserved 0 0", "sif /reserved size 4096"] {
        run("debugfs", &["-w", "-R", request, image.to_str().unwrap()]);
    }
    let shown = load(&image).unwrap().read("/reserved").unwrap();
    assert_eq!(shown, vec![b'Z'; 4096], "old data, where the kernel shows zeros");
}

#[test]
fn it_fails_on_small_inodes_with_checksums() {
    if !can_run("it_fails_on_small_inodes_with_checksums", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = tempfile::tempdir().unwrap();
    let image = image(dir.path(), &["-t", "ext4", "-I", "128", "-O", "metadata_csum"], tree.path());
    let failure = load(&image).and_then(|ext4| ext4.read_dir("/").map(drop)).unwrap_err();
    assert!(failure.to_string().contains("inode 2 is truncated"), "{failure}");
}

#[test]
fn it_fails_on_a_hole_over_an_indirect_block() {
    if !can_run("it_fails_on_a_hole_over_an_indirect_block", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = tempfile::tempdir().unwrap();
    let sparse = File::create(tree.path().join("sparse")).unwrap();
    sparse.write_all_at(b"end", 600 << 10).unwrap();
    let image = image(dir.path(), &["-t", "ext2", "-b", "1024"], tree.path());
    let failure = load(&image).unwrap().read("/sparse").unwrap_err();
    assert!(matches!(failure, Ext4Error::Corrupt(_)), "{failure}");
}
