//! Where the kernel's replay is no witness: what it leaves wrong or does not mount, and what no record tells.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags};
use snapbrowse::ErrorKind;
use snapbrowse::fs::ext::Options;
use snapbrowse::fs::ext4_view::Ext4View;

use super::{Live, assert_as_replayed, bytes, one_file, put, ready, sync, writer};
use crate::common::{Aspects, Manifest, run};
use crate::walk::{attributes, open, wait};

/// They change files, not blocks, and blocks are all that another reader could be shown.
#[test]
fn the_other_reader_is_shown_nothing_rather_than_less() {
    if !ready("the_other_reader_is_shown_nothing_rather_than_less") {
        return;
    }
    let live = Live::new(&[], one_file);
    put(&live.path().join("d/new"), 2, 5000);
    sync(&live.path().join("d/new"));
    let crashed = live.crash();
    wait(async {
        let native = open(&crashed.image, 0, Options::default()).await.unwrap();
        assert!(native.summary().journal.fast_commits > 0);
        let error = Ext4View::open(Arc::new(native)).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("fast commits"), "{error}");
    });
}

/// The kernel's own replay leaves blocks and attributes of what was there before.
#[test]
fn a_new_file_has_nothing_of_what_was_in_its_inode_before() {
    let test = "a_new_file_has_nothing_of_what_was_in_its_inode_before";
    if !ready(test) {
        return;
    }
    let mut in_use = None;
    let mut numbers = BTreeSet::new();
    let live = Live::new(&[], |root| {
        fs::create_dir_all(root.join("d/directory")).unwrap();
        for name in ["d/removed", "d/open"] {
            put(&root.join(name), 1, 9000);
            rustix::fs::setxattr(root.join(name), "user.old", b"1", XattrFlags::empty()).unwrap();
        }
        let inode = |name| fs::metadata(root.join(name)).unwrap().ino();
        numbers.extend(["d/directory", "d/removed", "d/open"].map(inode));
        in_use = Some(writer(&root.join("d/open")));
        fs::remove_file(root.join("d/open")).unwrap();
    });
    fs::remove_dir(live.path().join("d/directory")).unwrap();
    fs::remove_file(live.path().join("d/removed")).unwrap();
    drop(in_use);
    let new = ["a", "b", "c"].map(|name| live.path().join("d").join(name));
    for path in &new {
        File::create(path).unwrap().write_all_at(&bytes(7, 500), 8192).unwrap();
        sync(path);
    }
    assert_eq!(BTreeSet::from(new.map(|path| fs::metadata(path).unwrap().ino())), numbers);
    let crashed = live.crash();
    let (found, report) = crashed.read();
    assert!(report.fast_commits > 0, "{report:?}");
    crashed.assert_as_it_was(&found);
    wait(async {
        let fs = open(&crashed.image, 0, Options::default()).await.unwrap();
        for ino in numbers {
            assert_eq!(attributes(&fs, snapbrowse::fs::Ino(ino)).await, [].into());
        }
    });
}

/// The kernel's own replay leaves it without blocks: it reads as zeros.
#[test]
fn a_file_that_outgrows_its_inode() {
    if !ready("a_file_that_outgrows_its_inode") {
        return;
    }
    let live = Live::new(&["-O", "inline_data", "-I", "256"], |root| {
        for name in ["grows", "grows-and-is-cut"] {
            put(&root.join(name), 1, 20);
        }
    });
    let before = live.commits();
    for (name, mark) in [("grows", 2), ("grows-and-is-cut", 3)] {
        let path = live.path().join(name);
        put(&path, mark, 5000);
        sync(&path);
    }
    let cut = writer(&live.path().join("grows-and-is-cut"));
    cut.set_len(10).unwrap();
    cut.sync_all().unwrap();
    assert!(live.commits() > before, "no fast commit was made");
    let crashed = live.crash();
    let (found, report) = crashed.read();
    assert!(report.fast_commits > 0 && report.warnings.is_empty(), "{report:?}");
    crashed.assert_as_it_was(&found);
    crashed.assert_as_free_as_it_was();
}

#[test]
fn what_no_fast_commit_can_tell_is_in_full_ones() {
    let test = "what_no_fast_commit_can_tell_is_in_full_ones";
    if !ready(test) {
        return;
    }
    type Operation = fn(&Path);
    let operations: [(&str, Operation); 4] = [
        ("symbolic link", |root| symlink("target", root.join("d/link")).unwrap()),
        ("device", |root| {
            run("mknod", &[root.join("d/device").to_str().unwrap(), "c", "5", "1"]);
        }),
        ("attribute", |root| {
            let old = root.join("d/old");
            rustix::fs::setxattr(old, "user.x", b"y", XattrFlags::empty()).unwrap();
        }),
        ("directory renamed", |root| {
            fs::rename(root.join("d/sub"), root.join("d/renamed")).unwrap();
        }),
    ];
    for (what, operate) in operations {
        let live = Live::new(&[], |root| {
            one_file(root);
            fs::create_dir(root.join("d/sub")).unwrap();
        });
        // Fast commits of the transaction that the full one ends: they are old then.
        put(&live.path().join("d/new"), 2, 5000);
        sync(&live.path().join("d/new"));
        let made = live.commits();
        operate(live.path());
        put(&live.path().join("d/old"), 3, 3000);
        sync(&live.path().join("d/old"));
        let crashed = live.crash();
        let (found, report) = crashed.read();
        assert!(made > 0 && report.fast_commits == 0, "{what}: {made}, {report:?}");
        let expected = crashed.witness().expect("the kernel mounts it");
        expected.assert_same(&found, Aspects::All, what);
        crashed.live.assert_same(&found, Aspects::All, what);
    }
}

/// The kernel's replay of these fails, and with it the mount.
#[test]
fn what_the_kernel_does_not_mount_reads_as_it_was() {
    let test = "what_the_kernel_does_not_mount_reads_as_it_was";
    if !ready(test) {
        return;
    }
    type Operation = fn(&Path) -> Option<File>;
    let operations: [(&str, Operation); 3] = [
        ("a new directory that has an index", |root| {
            fs::create_dir(root.join("new")).unwrap();
            for index in 0..60 {
                File::create(root.join(format!("new/{index}-{}", "n".repeat(40)))).unwrap();
            }
            put(&root.join("new/in"), 2, 500);
            sync(&root.join("new/in"));
            None
        }),
        ("an open file without a name", |root| {
            let file = writer(&root.join("d/old"));
            fs::remove_file(root.join("d/old")).unwrap();
            put(&root.join("d/new"), 2, 500);
            sync(&root.join("d/new"));
            Some(file)
        }),
        ("a new directory in the place of an old one", |root| {
            fs::remove_dir(root.join("d/x")).unwrap();
            fs::create_dir(root.join("d/y")).unwrap();
            put(&root.join("d/y/in"), 2, 500);
            sync(&root.join("d/y/in"));
            None
        }),
    ];
    for (what, operate) in operations {
        let live = Live::new(&[], |root| {
            fs::create_dir_all(root.join("d/x")).unwrap();
            put(&root.join("d/old"), 1, 1000);
        });
        let _open = operate(live.path());
        let crashed = live.crash();
        let (found, report) = crashed.read();
        assert!(report.fast_commits > 0, "{what}: {report:?}");
        crashed.assert_as_it_was(&found);
        if let Some(kernel) = crashed.witness() {
            println!("{what}: this kernel mounts it");
            assert_as_replayed(&kernel, &found, what);
        }
    }
}

/// The record of the name comes before that of the inode, which the disk knows nothing of.
#[test]
fn the_name_of_a_file_that_had_none_is_lost_with_a_warning() {
    let test = "the_name_of_a_file_that_had_none_is_lost_with_a_warning";
    if !ready(test) {
        return;
    }
    let live = Live::new(&[], one_file);
    let dir = File::open(live.path().join("d")).unwrap();
    let flags = OFlags::TMPFILE | OFlags::WRONLY;
    let file = rustix::fs::openat(&dir, ".", flags, Mode::from_raw_mode(0o600)).unwrap();
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, open, &dir, "named", AtFlags::SYMLINK_FOLLOW).unwrap();
    rustix::fs::fsync(&file).unwrap();
    let crashed = live.crash();
    let (found, report) = crashed.read();
    println!("{report:?}");
    let kernel = crashed.witness();
    let there = |manifest: &Manifest| manifest.0.contains_key(&b"./d/named"[..]);
    assert_eq!(there(&found), kernel.as_ref().is_some_and(there));
    if report.fast_commits > 0 && !there(&found) {
        assert!(report.warnings[0].contains("the name \"named\""), "{report:?}");
    }
}
