//! Everything in an image is what the kernel says it is.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::buffer::spare_capacity;
use snapbrowse::fs::ext::Options;
use snapbrowse::fs::{Filesystem, Ino};

use crate::common::{
    Aspects, KernelMount, Limits, MadeImage, Manifest, Need, assert_readers_agree, can_run,
    copy_image, crashed_disk, run,
};
use crate::walk::{attributes, manifest, open, wait};

/// Makes an image, and compares all that is in it with the kernel's mount.
fn reads_as_the_kernel_says(name: &'static str, size: &str, mke2fs: &[&str], limits: Limits) {
    with_more_reads_as_the_kernel_says(name, size, mke2fs, limits, |_| {});
}

/// The same with more in the image, put there by `more`.
fn with_more_reads_as_the_kernel_says(
    name: &'static str,
    size: &str,
    mke2fs: &[&str],
    limits: Limits,
    more: fn(&Path),
) {
    if !can_run(name, &[Need::Root, Need::Program("mke2fs")]) {
        return;
    }
    let image = MadeImage::new(name, size, mke2fs, limits);
    more(KernelMount::writable(&image.path(), 0, "noatime").path());
    let copy = image.dir.path().join("copy.img");
    copy_image(&image.path(), &copy);
    let kernel = KernelMount::replaying(&copy, 0);
    let expected = Manifest::of_tree(kernel.path());
    wait(async {
        let fs = open(&image.path(), 0, Options::default()).await.unwrap();
        let found = manifest(&fs).await;
        expected.assert_same(&found, Aspects::All, name);
        for (path, entry) in &found.0 {
            let expected = attributes_the_kernel_shows(kernel.path(), path);
            let found = attributes(&fs, Ino(entry.ino)).await;
            assert_eq!(found, expected, "{name}: {}", path.escape_ascii());
        }
        let (expected, found) =
            (rustix::fs::statvfs(kernel.path()).unwrap(), fs.statfs().await.unwrap());
        let expected = [
            expected.f_bsize,
            expected.f_blocks,
            expected.f_bfree,
            expected.f_bavail,
            expected.f_files,
            expected.f_ffree,
            expected.f_namemax,
        ];
        let found = [
            u64::from(found.block_size),
            found.blocks,
            found.blocks_free,
            found.blocks_available,
            found.files,
            found.files_free,
            u64::from(found.name_max),
        ];
        assert_eq!(found, expected, "{name}: statfs");
        fs.check_unchanged().await.unwrap();
        assert_readers_agree(fs, name).await;
    });
}

fn attributes_the_kernel_shows(root: &Path, path: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let path = root.join(OsStr::from_bytes(path));
    let mut names = Vec::with_capacity(65536);
    rustix::fs::llistxattr(&path, spare_capacity(&mut names)).unwrap();
    let value = |name: &[u8]| {
        let mut value = Vec::with_capacity(65536);
        rustix::fs::lgetxattr(&path, name, spare_capacity(&mut value)).unwrap();
        (name.to_vec(), value)
    };
    names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(value).collect()
}

const SMALL: Limits = Limits { largest: 300 << 20, entries: 1000, long_times: false };
const LARGE: Limits = Limits { largest: 1 << 40, entries: 20_000, long_times: true };

#[test]
fn crashed_ext3_reads_as_after_recovery() {
    let disk = crashed_disk();
    let list = std::fs::read(disk.path().join("dirty-ext3.manifest")).unwrap();
    let found = wait(async {
        let image = disk.path().join("dirty-ext3.img");
        let fs = open(&image, 1 << 20, Options::default()).await.unwrap();
        let found = manifest(&fs).await;
        assert_readers_agree(fs, "dirty-ext3").await;
        found
    });
    Manifest::parse(&list).assert_same(&found, Aspects::All, "dirty-ext3");
}

#[test]
fn ext2_with_small_blocks_and_inodes() {
    let mke2fs =
        ["-t", "ext2", "-b", "1024", "-I", "128", "-O", "^filetype,^sparse_super,^resize_inode"];
    reads_as_the_kernel_says("ext2_with_small_blocks_and_inodes", "64M", &mke2fs, SMALL);
}

/// Owners have the same upper halves whoever made the file system.
#[test]
fn ext2_of_the_hurd() {
    let mke2fs = ["-t", "ext2", "-o", "hurd", "-I", "128"];
    with_more_reads_as_the_kernel_says("ext2_of_the_hurd", "64M", &mke2fs, SMALL, |root| {
        let file = root.join("owned");
        fs::write(&file, b"").unwrap();
        std::os::unix::fs::chown(&file, Some(100_000), Some(200_000)).unwrap();
    });
}

#[test]
fn ext3() {
    let limits = Limits { largest: 5 << 30, entries: 5000, long_times: true };
    reads_as_the_kernel_says("ext3", "200M", &["-t", "ext3", "-b", "4096"], limits);
}

#[test]
fn ext4_with_all_checksums() {
    let mke2fs = ["-t", "ext4", "-O", "64bit,metadata_csum,metadata_csum_seed", "-N", "60000"];
    reads_as_the_kernel_says("ext4_with_all_checksums", "400M", &mke2fs, LARGE);
}

#[test]
fn ext4_with_small_blocks_and_crc16() {
    let mke2fs = ["-t", "ext4", "-b", "1024", "-O", "^64bit,^metadata_csum,uninit_bg,^flex_bg"];
    let limits = Limits { largest: 1 << 30, entries: 5000, long_times: true };
    reads_as_the_kernel_says("ext4_with_small_blocks_and_crc16", "200M", &mke2fs, limits);
}

#[test]
fn ext4_with_meta_groups_and_two_backups() {
    let mke2fs =
        ["-t", "ext4", "-b", "2048", "-g", "4096", "-O", "meta_bg,^resize_inode,sparse_super2,mmp"];
    let limits = Limits { largest: 1 << 36, entries: 5000, long_times: true };
    let name = "ext4_with_meta_groups_and_two_backups";
    reads_as_the_kernel_says(name, "200M", &mke2fs, limits);
}

#[test]
fn ext4_with_clusters() {
    let mke2fs = ["-t", "ext4", "-O", "bigalloc", "-C", "65536"];
    let limits = Limits { largest: 1 << 36, entries: 3000, long_times: true };
    reads_as_the_kernel_says("ext4_with_clusters", "400M", &mke2fs, limits);
}

#[test]
fn ext4_with_contents_in_inodes_and_large_attributes() {
    let mke2fs = ["-t", "ext4", "-b", "4096", "-I", "512", "-O", "inline_data,ea_inode,large_dir"];
    let limits = Limits { largest: 1 << 33, entries: 5000, long_times: true };
    let name = "ext4_with_contents_in_inodes_and_large_attributes";
    with_more_reads_as_the_kernel_says(name, "400M", &mke2fs, limits, |root| {
        for len in 40..400 {
            fs::write(root.join(format!("file-{len}")), vec![len as u8; len]).unwrap();
            symlink("t".repeat(len), root.join(format!("link-{len}"))).unwrap();
        }
        for entries in 0..30 {
            let dir = root.join(format!("dir-{entries}"));
            fs::create_dir(&dir).unwrap();
            for entry in 0..entries {
                fs::write(dir.join(format!("entry-{entry}")), b"").unwrap();
            }
        }
        for len in [3000, 4096, 5000, 65536] {
            let file = root.join(format!("attribute-{len}"));
            fs::write(&file, b"").unwrap();
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&file, "user.large", &vec![len as u8; len], flags).unwrap();
            rustix::fs::setxattr(&file, "user.small", b"beside", flags).unwrap();
        }
    });
}

#[test]
fn ext4_with_large_attributes_of_symbolic_links() {
    let mke2fs = ["-t", "ext4", "-b", "4096", "-O", "ea_inode"];
    let name = "ext4_with_large_attributes_of_symbolic_links";
    with_more_reads_as_the_kernel_says(name, "64M", &mke2fs, SMALL, |root| {
        for len in [10, 59, 60, 300] {
            let link = root.join(format!("link-{len}"));
            symlink("t".repeat(len), &link).unwrap();
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::lsetxattr(&link, "trusted.large", &[7; 9000], flags).unwrap();
        }
    });
}

/// The kernel of a machine with small pages does not mount these; mke2fs fills them, and e2fsck makes the indexes.
#[test]
fn blocks_larger_than_a_page() {
    let name = "blocks_larger_than_a_page";
    if !can_run(name, &[Need::Root, Need::Program("mke2fs"), Need::Program("e2fsck")]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    fs::create_dir(&tree).unwrap();
    let limits = Limits { largest: 20 << 20, entries: 3000, long_times: false };
    crate::common::populate(&tree, limits);
    let expected = Manifest::of_tree(&tree);
    for (kind, size) in [("ext4", "8192"), ("ext2", "16384"), ("ext3", "32768"), ("ext4", "65536")]
    {
        let (tree, file) = (tree.to_str().unwrap(), image.to_str().unwrap());
        let mke2fs =
            ["-q", "-F", "-t", kind, "-b", size, "-O", "dir_index", "-d", tree, file, "1G"];
        let _ = fs::remove_file(&image);
        run("mke2fs", &mke2fs);
        let _ = std::process::Command::new("e2fsck").args(["-fyD", file]).output().unwrap();
        let found = wait(async {
            let fs = open(&image, 0, Options::default()).await.unwrap();
            let found = manifest(&fs).await;
            assert_readers_agree(fs, &format!("blocks of {size} bytes")).await;
            found
        });
        for (path, expected) in &expected.0 {
            let found = &found.0[path];
            let facts = |entry: &crate::common::Entry| {
                (entry.mode, entry.uid, entry.gid, entry.rdev.clone(), entry.digest.clone())
            };
            assert_eq!(facts(found), facts(expected), "{size}: {}", path.escape_ascii());
        }
        // And the directory that mke2fs adds.
        assert_eq!(found.0.len(), expected.0.len() + 1, "blocks of {size} bytes");
    }
}
