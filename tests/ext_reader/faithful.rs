//! Everything in an image is what the kernel says it is.

use snapbrowse::fs::Filesystem;
use snapbrowse::fs::ext::Options;

use crate::common::{
    Aspects, KernelMount, Limits, MadeImage, Manifest, Need, can_run, copy_image, crashed_disk,
};
use crate::walk::{manifest, open, wait};

/// Makes an image, and compares all that is in it with the kernel's mount.
fn reads_as_the_kernel_says(name: &'static str, size: &str, mke2fs: &[&str], limits: Limits) {
    if !can_run(name, &[Need::Root, Need::Program("mke2fs")]) {
        return;
    }
    let image = MadeImage::new(name, size, mke2fs, limits);
    let copy = image.dir.path().join("copy.img");
    copy_image(&image.path(), &copy);
    let kernel = KernelMount::replaying(&copy, 0);
    let expected = Manifest::of_tree(kernel.path());
    let found = wait(async {
        let fs = open(&image.path(), 0, Options::default()).await.unwrap();
        let found = manifest(&fs).await;
        fs.check_unchanged().await.unwrap();
        found
    });
    expected.assert_same(&found, Aspects::All, name);
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
        manifest(&fs).await
    });
    Manifest::parse(&list).assert_same(&found, Aspects::All, "dirty-ext3");
}

#[test]
fn ext2_with_small_blocks_and_inodes() {
    let mke2fs =
        ["-t", "ext2", "-b", "1024", "-I", "128", "-O", "^filetype,^sparse_super,^resize_inode"];
    reads_as_the_kernel_says("ext2_with_small_blocks_and_inodes", "64M", &mke2fs, SMALL);
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
