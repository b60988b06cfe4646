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
fn it_refuses_many_features() {
    if !can_run("it_refuses_many_features", NEEDS) {
        return;
    }
    for feature in
        ["inline_data", "ea_inode", "meta_bg,^resize_inode", "mmp", "large_dir", "casefold"]
    {
        let dir = tempfile::tempdir().unwrap();
        let tree = tempfile::tempdir().unwrap();
        let image = image(dir.path(), &["-t", "ext4", "-O", feature], tree.path());
        let refusal = load(&image).expect_err(feature);
        assert!(refusal.to_string().contains("unsupported features"), "{feature}: {refusal}");
    }
}

/// Gives debugfs requests, in which DATA stands for a file that holds blocks of `D`.
fn debugfs(image: &Path, requests: &[&str]) {
    let (script, data) = (image.with_extension("requests"), image.with_extension("data"));
    fs::write(&data, vec![b'D'; 64 << 10]).unwrap();
    fs::write(&script, requests.join("\n").replace("DATA", data.to_str().unwrap())).unwrap();
    run("debugfs", &["-w", "-f", script.to_str().unwrap(), image.to_str().unwrap()]);
}

/// The number of a block of a file, counted on the device.
fn block_of(image: &Path, path: &str, block: u32) -> u64 {
    let request = format!("bmap {path} {block}");
    let answer = run("debugfs", &["-R", &request, image.to_str().unwrap()]);
    String::from_utf8(answer).unwrap().trim().parse().unwrap()
}

/// An ext4 of blocks of 1 KiB with a journal of 1024, and a file of two blocks of `F` whose first block is number `.1`.
fn with_file(dir: &Path) -> (PathBuf, u64) {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("file"), [b'F'; 2048]).unwrap();
    let image = image(dir, &["-t", "ext4", "-b", "1024", "-J", "size=1"], tree.path());
    let block = block_of(&image, "/file", 0);
    (image, block)
}

#[test]
fn it_refuses_journals_with_other_checksums_than_the_newest() {
    if !can_run("it_refuses_journals_with_other_checksums_than_the_newest", NEEDS) {
        return;
    }
    for (open, refused) in [("jo", true), ("jo -c -v 2", true), ("jo -c -v 3", false)] {
        let dir = tempfile::tempdir().unwrap();
        let (image, block) = with_file(dir.path());
        debugfs(&image, &[open, &format!("jw -b {block} DATA"), "jc"]);
        match load(&image) {
            Ok(ext4) => assert_eq!(ext4.read("/file").unwrap()[..1024], [b'D'; 1024], "{open}"),
            Err(refusal) => assert!(refused, "{open}: {refusal}"),
        }
    }
}

#[test]
fn it_plays_back_what_a_later_transaction_revoked() {
    if !can_run("it_plays_back_what_a_later_transaction_revoked", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, block) = with_file(dir.path());
    // Each is a transaction of its own.
    let requests = [&format!("jw -b {block} DATA"), &format!("jw -r {block}")];
    debugfs(&image, &["jo -c -v 3", requests[0], requests[1], "jc"]);
    let shown = load(&image).unwrap().read("/file").unwrap();
    assert_eq!(shown[..1024], [b'D'; 1024], "where e2fsck leaves the block alone");
}

#[test]
fn it_leaves_out_what_lies_behind_the_end_of_a_log_that_wraps() {
    if !can_run("it_leaves_out_what_lies_behind_the_end_of_a_log_that_wraps", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, block) = with_file(dir.path());
    let requests = [format!("jw -b {block} DATA"), format!("jw -b {} DATA", block + 1)];
    debugfs(&image, &["jo -c -v 3", &requests[0], &requests[1], "jc"]);
    // The log's two transactions of three blocks, so that the second one is the first after the end.
    let log = block_of(&image, "<8>", 0) * 1024;
    let file = File::options().read(true).write(true).open(&image).unwrap();
    let mut transactions = [0; 6 * 1024];
    file.read_exact_at(&mut transactions, log + 1024).unwrap();
    let (first, second) = transactions.split_at(3 * 1024);
    file.write_all_at(first, log + (1024 - 3) * 1024).unwrap();
    file.write_all_at(second, log + 1024).unwrap();
    let mut superblock = [0; 1024];
    file.read_exact_at(&mut superblock, log).unwrap();
    superblock[0x1C..0x20].copy_from_slice(&(1024_u32 - 3).to_be_bytes());
    superblock[0xFC..0x100].fill(0);
    let checksum = !crc32c::crc32c(&superblock);
    superblock[0xFC..0x100].copy_from_slice(&checksum.to_be_bytes());
    file.write_all_at(&superblock, log).unwrap();

    let shown = load(&image).unwrap().read("/file").unwrap();
    assert_eq!(shown, [[b'D'; 1024], [b'F'; 1024]].concat(), "where e2fsck plays both back");
    run("e2fsck", &["-y", "-E", "journal_only", image.to_str().unwrap()]);
    assert_eq!(load(&image).unwrap().read("/file").unwrap(), [b'D'; 2048]);
}

#[test]
fn it_fails_on_times_before_1970_and_after_2038() {
    if !can_run("it_fails_on_times_before_1970_and_after_2038", NEEDS) {
        return;
    }
    for (time, extra, sound) in
        [("1", "0", true), ("0xffffffff", "0", false), ("0x80000000", "1", false)]
    {
        let dir = tempfile::tempdir().unwrap();
        let (image, _) = with_file(dir.path());
        let requests =
            [format!("sif /file mtime @{time}"), format!("sif /file mtime_extra {extra}")];
        debugfs(&image, &[&requests[0], &requests[1]]);
        assert_eq!(load(&image).unwrap().metadata("/file").is_ok(), sound, "{time} {extra}");
    }
}

/// An image with an indexed directory of names that are not ASCII.
fn with_index(dir: &Path, flags: &str) -> (PathBuf, Vec<String>) {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("many")).unwrap();
    let names: Vec<_> = (0..300).map(|number| format!("n\u{e4}m\u{e9}-{number}")).collect();
    for name in &names {
        fs::write(tree.path().join("many").join(name), b"").unwrap();
    }
    let image = image(dir, &["-t", "ext4", "-b", "1024"], tree.path());
    debugfs(&image, &[&format!("ssv flags {flags}")]);
    let _ = std::process::Command::new("e2fsck").arg("-fyD").arg(&image).output().unwrap();
    (image, names)
}

#[test]
fn it_does_not_find_names_by_hashes_of_unsigned_bytes() {
    if !can_run("it_does_not_find_names_by_hashes_of_unsigned_bytes", NEEDS) {
        return;
    }
    for (flags, all) in [("1", true), ("2", false)] {
        let dir = tempfile::tempdir().unwrap();
        let (image, names) = with_index(dir.path(), flags);
        let ext4 = load(&image).unwrap();
        let found = names.iter().filter(|name| ext4.metadata(&*format!("/many/{name}")).is_ok());
        assert_eq!(found.count() == names.len(), all, "flags {flags}");
    }
}

#[test]
fn it_panics_on_two_bytes_of_an_index() {
    if !can_run("it_panics_on_two_bytes_of_an_index", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, _) = with_index(dir.path(), "1");
    let root = block_of(&image, "/many", 0) * 1024;
    // How many entries it has.
    File::options().write(true).open(&image).unwrap().write_all_at(&[0xFF; 2], root + 34).unwrap();
    let ext4 = load(&image).unwrap();
    let list = std::panic::AssertUnwindSafe(|| ext4.read_dir("/many").map(Iterator::count));
    assert!(std::panic::catch_unwind(list).is_err());
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
