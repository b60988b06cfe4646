//! Everything in an image is what the kernel says it is, whichever way it is read, from two different targets.

use std::path::Path;

use crate::common::{
    Aspects, Istgt, IstgtOptions, KernelMount, Limits, MadeImage, Manifest, Need, Snapbrowse, Tgtd,
    can_run, copy_image, make_crashed_disk, run, sha256, sha256_of,
};

const NEEDS: &[Need] = &[
    Need::Root,
    Need::Fuse,
    Need::Program("tgtd"),
    Need::Program("istgt"),
    Need::Program("rsync"),
];

#[test]
fn crashed_ext3_reads_as_after_the_kernels_recovery() {
    if can_run("crashed_ext3_reads_as_after_the_kernels_recovery", NEEDS) {
        crashed_disk_reads_as_after_the_kernels_recovery("ext3");
    }
}

#[test]
fn crashed_ext4_reads_as_after_the_kernels_recovery() {
    if can_run("crashed_ext4_reads_as_after_the_kernels_recovery", NEEDS) {
        crashed_disk_reads_as_after_the_kernels_recovery("ext4");
    }
}

fn crashed_disk_reads_as_after_the_kernels_recovery(kind: &str) {
    let image = make_crashed_disk(kind);
    let unrecovered = KernelMount::without_recovery(&image.path(), image.offset);
    let config = std::fs::read(unrecovered.path().join("etc/foo.conf")).unwrap();
    drop(unrecovered);
    let expected = reads_as_the_kernel_says(&image);
    assert_ne!(expected.0[b"./etc/foo.conf".as_slice()].digest, sha256(&config));
}

/// All of it, through every way out, from tgtd and from istgt; gives what the kernel says.
fn reads_as_the_kernel_says(image: &MadeImage) -> Manifest {
    let replayed = image.dir.path().join("replayed.img");
    copy_image(&image.path(), &replayed);
    let kernel = KernelMount::replaying(&replayed, image.offset);
    let expected = Manifest::of_tree(kernel.path());
    let before = sha256_of(&image.path());

    let mut tgtd = Tgtd::start();
    let target = tgtd.add_target(&image.name);
    tgtd.add_lun(&target, 1, &image.path());
    every_way_out(&tgtd.url(&target, 1), &expected);
    nothing_for_rsync_to_do(&tgtd.url(&target, 1), kernel.path());
    let istgt = Istgt::start(&image.path(), &IstgtOptions::default());
    every_way_out(&istgt.url(), &expected);

    assert_eq!(sha256_of(&image.path()), before, "the image itself has changed");
    expected
}

fn every_way_out(source: &str, expected: &Manifest) {
    let snapbrowse = Snapbrowse::new();
    let found = Manifest::of_stat(&snapbrowse, source, expected.0.keys());
    expected.assert_same(&found, Aspects::Inode, &format!("stat of {source}"));
    extracted(&snapbrowse, source, expected);
    printed(&snapbrowse, source, expected);
    mounted(&snapbrowse, source, expected);
}

fn extracted(snapbrowse: &Snapbrowse, source: &str, expected: &Manifest) {
    let copy = tempfile::tempdir().unwrap();
    snapbrowse.run(["extract", source, "/", "--to", copy.path().to_str().unwrap(), "--quiet"]);
    let mut found = Manifest::of_tree(copy.path());
    // The destination is the caller's directory; only what is in it was restored.
    let root = b".".as_slice();
    found.0.insert(root.to_vec(), expected.0[root].clone());
    expected.assert_same(&found, Aspects::RestoredByRoot, &format!("extract of {source}"));
}

/// Files of an ordinary size; the others would only test the patience.
fn printed(snapbrowse: &Snapbrowse, source: &str, expected: &Manifest) {
    use std::os::unix::ffi::OsStrExt;
    let files = expected.regular_files().filter(|(path, entry)| {
        entry.size < 256 << 20 && (!path.starts_with(b"/large/") || path.ends_with(b"000"))
    });
    for (path, entry) in files {
        let arguments = ["cat".as_ref(), source.as_ref(), std::ffi::OsStr::from_bytes(&path)];
        let found = sha256(&snapbrowse.run(arguments));
        assert_eq!(found, entry.digest, "cat {source} {}", path.escape_ascii());
    }
}

fn mounted(snapbrowse: &Snapbrowse, source: &str, expected: &Manifest) {
    let mount = snapbrowse.mount(source);
    let found = Manifest::of_tree(mount.path());
    expected.assert_same(&found, Aspects::All, &format!("mount of {source}"));
    mount.unmount();
}

/// A second opinion, which also looks at attributes and ACLs.
fn nothing_for_rsync_to_do(source: &str, kernel: &Path) {
    let snapbrowse = Snapbrowse::new();
    let mount = snapbrowse.mount(source);
    // The largest file is all hole, and rsync reads every zero of it; the manifests have compared it.
    let compare = ["-aHAXni", "--checksum", "--delete", "--exclude=/contents/largest"];
    let [from, to] = [kernel, mount.path()].map(|path| format!("{}/", path.to_str().unwrap()));
    let changes = run("rsync", &[&compare[..], &[&from, &to]].concat());
    assert_eq!(String::from_utf8_lossy(&changes), "", "rsync from the kernel's mount to {source}");
    mount.unmount();
}

#[test]
fn ext2_with_small_blocks_reads_as_the_kernel_says() {
    if can_run("ext2_with_small_blocks_reads_as_the_kernel_says", NEEDS) {
        let mke2fs = ["-t", "ext2", "-b", "1024", "-I", "128", "-O", "^filetype"];
        let limits = Limits { largest: 300 << 20, entries: 1000, long_times: false };
        reads_as_the_kernel_says(&MadeImage::new("ext2", "64M", &mke2fs, limits));
    }
}

#[test]
fn ext3_reads_as_the_kernel_says() {
    if can_run("ext3_reads_as_the_kernel_says", NEEDS) {
        let mke2fs = ["-t", "ext3", "-b", "4096"];
        let limits = Limits { largest: 5 << 30, entries: 5000, long_times: true };
        reads_as_the_kernel_says(&MadeImage::new("ext3", "200M", &mke2fs, limits));
    }
}

#[test]
fn ext4_reads_as_the_kernel_says() {
    if can_run("ext4_reads_as_the_kernel_says", NEEDS) {
        let mke2fs = ["-t", "ext4", "-O", "64bit,metadata_csum", "-N", "60000"];
        let limits = Limits { largest: 1 << 40, entries: 50_000, long_times: true };
        reads_as_the_kernel_says(&MadeImage::new("ext4", "400M", &mke2fs, limits));
    }
}
