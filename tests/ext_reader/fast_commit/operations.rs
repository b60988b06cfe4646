//! One operation at a time: after a crash it must read as the kernel reads it after its own replay, and as it was.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{FallocateFlags, XattrFlags};
use snapbrowse::fs::ext::Options;

use super::{Live, bytes, one_file, put, ready, sync, writer};
use crate::walk::{attributes, open, wait};

/// One operation: `prepare` in full transactions, then `operate`, which ends in fast commits.
fn operation(
    test: &str,
    mke2fs: &[&str],
    prepare: impl FnOnce(&Path),
    operate: impl FnOnce(&Path),
) {
    if !ready(test) {
        return;
    }
    let live = Live::new(mke2fs, prepare);
    let before = live.commits();
    operate(live.path());
    let made = live.commits() - before;
    let crashed = live.crash();
    let (found, report) = crashed.read();
    println!("{test}: {made} fast commits, {report:?}");
    assert!(made > 0 && report.fast_commits > 0, "no fast commit was made");
    crashed.assert_as_it_was(&found);
    crashed.assert_as_free_as_it_was();
    crashed.assert_as_the_kernel(&found);
}

#[test]
fn a_new_file() {
    operation("a_new_file", &[], one_file, |root| {
        put(&root.join("d/new"), 2, 5000);
        sync(&root.join("d/new"));
    });
}

#[test]
fn a_file_that_grows() {
    operation("a_file_that_grows", &[], one_file, |root| {
        let mut file = OpenOptions::new().append(true).open(root.join("d/old")).unwrap();
        for mark in 0..20 {
            file.write_all(&bytes(mark, 777)).unwrap();
            file.sync_all().unwrap();
        }
    });
}

#[test]
fn a_file_that_is_cut_and_grows_again() {
    operation("a_file_that_is_cut_and_grows_again", &[], one_file, |root| {
        let file = writer(&root.join("d/old"));
        for len in [30_000, 80_000, 10, 0, 7000] {
            file.set_len(len).unwrap();
            file.write_all_at(&bytes(9, 5), len.saturating_sub(5)).unwrap();
            file.sync_all().unwrap();
        }
    });
}

#[test]
fn holes_that_are_punched_and_blocks_that_are_reserved() {
    let test = "holes_that_are_punched_and_blocks_that_are_reserved";
    operation(test, &[], one_file, |root| {
        let file = writer(&root.join("d/old"));
        let fallocate = |flags, at, len| rustix::fs::fallocate(&file, flags, at, len).unwrap();
        fallocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 10_240, 20_480);
        file.sync_all().unwrap();
        fallocate(FallocateFlags::empty(), 200_000, 50_000);
        file.sync_all().unwrap();
        fallocate(FallocateFlags::ZERO_RANGE, 50_000, 30_000);
        file.sync_all().unwrap();
        // Part of what was reserved is written, so that one extent becomes three.
        file.write_all_at(&bytes(3, 3000), 220_000).unwrap();
        file.sync_all().unwrap();
    });
}

#[test]
fn a_file_in_many_pieces() {
    operation("a_file_in_many_pieces", &[], one_file, |root| {
        let file = writer(&root.join("d/old"));
        for index in 0..60 {
            file.write_all_at(&bytes(index, 1500), 200_000 + u64::from(index) * 7168).unwrap();
            if index % 5 == 0 {
                file.sync_all().unwrap();
            }
        }
        file.sync_all().unwrap();
        // A tree of extents lies on the disk by now: the next change goes on from it.
        rustix::fs::setxattr(root.join("attribute"), "user.b", b"2", XattrFlags::empty()).unwrap();
        file.sync_all().unwrap();
        for index in (0..60).step_by(7) {
            file.write_all_at(&bytes(index, 1024), 203_000 + u64::from(index) * 7168).unwrap();
        }
        file.sync_all().unwrap();
    });
}

#[test]
fn names_that_come_and_go() {
    let prepare = |root: &Path| {
        one_file(root);
        fs::create_dir(root.join("e")).unwrap();
        for name in ["e/victim", "e/two", "e/gone", "d/stays"] {
            put(&root.join(name), 4, 1234);
        }
        fs::hard_link(root.join("e/two"), root.join("e/names")).unwrap();
    };
    operation("names_that_come_and_go", &[], prepare, |root| {
        fs::rename(root.join("d/old"), root.join("e/victim")).unwrap();
        fs::remove_file(root.join("e/names")).unwrap();
        fs::remove_file(root.join("e/gone")).unwrap();
        fs::hard_link(root.join("d/stays"), root.join("e/also")).unwrap();
        fs::rename(root.join("d/stays"), root.join("d/renamed")).unwrap();
        sync(&root.join("e/also"));
        // The name of one that went, and one more commit over the same names.
        put(&root.join("e/gone"), 5, 10);
        sync(&root.join("e/gone"));
        fs::rename(root.join("e/also"), root.join("e/gone")).unwrap();
        sync(&root.join("e/gone"));
    });
}

#[test]
fn modes_owners_and_times() {
    operation("modes_owners_and_times", &[], one_file, |root| {
        let file = root.join("d/old");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o4701)).unwrap();
        std::os::unix::fs::chown(&file, Some(70_000), Some(80_000)).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(5_000_000_000, 123_456_789);
        let times = fs::FileTimes::new().set_accessed(time).set_modified(time);
        writer(&file).set_times(times).unwrap();
        sync(&file);
    });
}

#[test]
fn attributes_stay_with_what_changes() {
    let test = "attributes_stay_with_what_changes";
    if !ready(test) {
        return;
    }
    let small = |root: &Path| (root.join("d/old"), "user.small", vec![7; 20]);
    let large = |root: &Path| (root.join("d/old"), "user.large", vec![8; 700]);
    let live = Live::new(&[], |root| {
        one_file(root);
        for (path, name, value) in [small(root), large(root)] {
            rustix::fs::setxattr(path, name, &value, XattrFlags::empty()).unwrap();
        }
    });
    let file = live.path().join("d/old");
    OpenOptions::new().append(true).open(&file).unwrap().write_all(b"more").unwrap();
    sync(&file);
    let crashed = live.crash();
    let (found, report) = crashed.read();
    assert!(report.fast_commits > 0, "{report:?}");
    crashed.assert_as_it_was(&found);
    crashed.assert_as_the_kernel(&found);
    let ino = snapbrowse::fs::Ino(crashed.live.0[&b"./d/old"[..]].ino);
    let kept = wait(async {
        let fs = open(&crashed.image, 0, Options::default()).await.unwrap();
        attributes(&fs, ino).await
    });
    let expected = [(b"user.large".to_vec(), vec![8; 700]), (b"user.small".to_vec(), vec![7; 20])];
    assert_eq!(kept, expected.into());
}

#[test]
fn new_directories_and_what_is_in_them() {
    operation("new_directories_and_what_is_in_them", &[], one_file, |root| {
        fs::create_dir_all(root.join("d/a/b/c")).unwrap();
        fs::create_dir(root.join("d/empty")).unwrap();
        put(&root.join("d/a/b/c/deep"), 6, 300);
        put(&root.join("d/a/file"), 7, 3000);
        sync(&root.join("d/a/b/c/deep"));
        sync(&root.join("d/a/file"));
        fs::rename(root.join("d/a/file"), root.join("d/a/b/moved")).unwrap();
        sync(&root.join("d/a/b/moved"));
    });
}

#[test]
fn directories_that_go() {
    let prepare = |root: &Path| {
        one_file(root);
        fs::create_dir(root.join("d/gone")).unwrap();
    };
    operation("directories_that_go", &[], prepare, |root| {
        fs::remove_dir(root.join("d/gone")).unwrap();
        fs::create_dir(root.join("d/short")).unwrap();
        sync(&root.join("d/old"));
        fs::remove_dir(root.join("d/short")).unwrap();
        put(&root.join("d/last"), 3, 3);
        sync(&root.join("d/last"));
    });
}

#[test]
fn many_names_in_an_indexed_directory() {
    let prepare = |root: &Path| {
        one_file(root);
        for index in 0..700 {
            File::create(root.join(format!("d/{index}-{}", "n".repeat(40)))).unwrap();
        }
    };
    operation("many_names_in_an_indexed_directory", &[], prepare, |root| {
        let name = |index: u32| root.join(format!("d/{index}-{}", "n".repeat(40)));
        for index in (0..300).step_by(3) {
            fs::rename(name(index), root.join(format!("d/renamed-{index}"))).unwrap();
            fs::remove_file(name(index + 1)).unwrap();
        }
        for index in 1000..1100 {
            put(&name(index), index as u8, 10);
        }
        for index in 1000..1100 {
            sync(&name(index));
        }
    });
}

#[test]
fn inode_numbers_that_are_used_again() {
    let prepare = |root: &Path| {
        fs::create_dir(root.join("d")).unwrap();
        for index in 0..20 {
            put(&root.join(format!("d/{index}")), index, 9000);
        }
    };
    operation("inode_numbers_that_are_used_again", &[], prepare, |root| {
        for index in 0..20 {
            fs::remove_file(root.join(format!("d/{index}"))).unwrap();
        }
        for index in 0..30 {
            let file = root.join(format!("d/new-{index}"));
            put(&file, index, 10 * usize::from(index));
            writer(&file).set_len(4000).unwrap();
        }
        for index in 0..30 {
            sync(&root.join(format!("d/new-{index}")));
        }
    });
}

#[test]
fn files_and_directories_within_their_inodes() {
    let test = "files_and_directories_within_their_inodes";
    let prepare = |root: &Path| {
        fs::create_dir(root.join("d")).unwrap();
        fs::create_dir(root.join("d/sub")).unwrap();
        put(&root.join("d/inline"), 1, 120);
    };
    operation(test, &["-O", "inline_data", "-I", "256"], prepare, |root| {
        // Contents within an inode are attributes, and those are in full commits.
        fs::rename(root.join("d/inline"), root.join("d/renamed")).unwrap();
        fs::set_permissions(root.join("d/renamed"), fs::Permissions::from_mode(0o600)).unwrap();
        sync(&root.join("d/renamed"));
        fs::hard_link(root.join("d/renamed"), root.join("d/sub/linked")).unwrap();
        put(&root.join("d/large"), 2, 3000);
        sync(&root.join("d/large"));
    });
}

#[test]
fn blocks_of_4_kib() {
    operation("blocks_of_4_kib", &["-b", "4096"], one_file, |root| {
        put(&root.join("d/new"), 2, 50_000);
        sync(&root.join("d/new"));
        writer(&root.join("d/old")).set_len(50_000).unwrap();
        sync(&root.join("d/old"));
    });
}
