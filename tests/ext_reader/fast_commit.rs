//! Fast commits, one operation at a time: each image is copied while it is mounted, after the records of the operation
//! reached its fast-commit area, and must read as the kernel reads it after its own replay, and as it was.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, XattrFlags};
use snapbrowse::ErrorKind;
use snapbrowse::fs::Filesystem as _;
use snapbrowse::fs::ext::{JournalReport, Options};

use crate::common::{Aspects, Entry, KernelMount, Manifest, Need, can_run, copy_image, run};
use crate::walk::{attributes, manifest, open, wait};

/// A file system with the feature, in use.
struct Live {
    dir: tempfile::TempDir,
    kernel: KernelMount,
}

impl Live {
    /// Makes it and lets `prepare` fill it; all of that is in full transactions.
    fn new(mke2fs: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("mounted.img");
        let file = image.to_str().unwrap();
        run("truncate", &["-s", "48M", file]);
        let features = ["-q", "-F", "-t", "ext4", "-J", "size=8", "-O"];
        // Blocks of 1 KiB, so that little is needed for much.
        let features = [&features[..], &["fast_commit"]].concat();
        let size: &[&str] = if mke2fs.contains(&"-b") { &[] } else { &["-b", "1024"] };
        run("mke2fs", &[&features, size, mke2fs, &[file]].concat());
        let kernel = KernelMount::writable(&image, 0, "noatime,commit=600");
        prepare(kernel.path());
        run("sync", &["-f", kernel.path().to_str().unwrap()]);
        let live = Self { dir, kernel };
        live.commit_fully();
        live
    }

    fn path(&self) -> &Path {
        self.kernel.path()
    }

    /// There are no fast commits before the first full one, nor of attributes.
    fn commit_fully(&self) {
        let file = self.path().join("attribute");
        File::create(&file).unwrap();
        rustix::fs::setxattr(&file, "user.a", b"1", XattrFlags::empty()).unwrap();
        sync(&file);
    }

    /// How many fast commits the kernel says it made.
    fn commits(&self) -> u32 {
        let device = run("findmnt", &["-no", "SOURCE", self.path().to_str().unwrap()]);
        let device = String::from_utf8(device).unwrap();
        let name = device.trim().rsplit('/').next().unwrap();
        let told = fs::read_to_string(format!("/proc/fs/ext4/{name}/fc_info")).unwrap();
        let line = told.lines().nth(1).unwrap();
        line.split(' ').next().unwrap().parse().unwrap()
    }

    /// What a crash leaves at this point, and what was there.
    fn crash(&self) -> Crashed {
        let image = self.dir.path().join("crashed.img");
        copy_image(&self.dir.path().join("mounted.img"), &image);
        Crashed { image, live: Manifest::of_tree(self.path()) }
    }
}

struct Crashed {
    image: PathBuf,
    live: Manifest,
}

impl Crashed {
    /// Reads it with the reader under test.
    fn read(&self) -> (Manifest, JournalReport) {
        wait(async {
            let fs = open(&self.image, 0, Options::default()).await.unwrap();
            (manifest(&fs).await, fs.summary().journal.clone())
        })
    }

    /// Reads it with the kernel; `None` where that does not mount it.
    fn witness(&self) -> Option<Manifest> {
        let copy = self.image.with_extension("witness");
        copy_image(&self.image, &copy);
        let mounted = catch_unwind(|| KernelMount::replaying(&copy, 0)).ok()?;
        Some(Manifest::of_tree(mounted.path()))
    }

    /// It reads as it was, apart from what no record tells of directories: links, times, and new blocks.
    fn assert_as_it_was(&self, found: &Manifest) {
        let directory = |entry: &mut Entry| {
            forget_replay(entry);
            entry.nlink = 0;
        };
        let aspects = Aspects::All;
        without(&self.live, directory).assert_same(
            &without(found, directory),
            aspects,
            "as it was",
        );
    }

    /// It reads as after the kernel's replay.
    fn assert_as_the_kernel(&self, found: &Manifest) {
        let expected = self.witness().expect("the kernel mounts it");
        assert_as_replayed(&expected, found, "as the kernel");
    }
}

/// Compares with the kernel's replay, without what that leaves to chance or counts differently: times, sizes and blocks of
/// directories, and the blocks of files.
pub(crate) fn assert_as_replayed(expected: &Manifest, found: &Manifest, what: &str) {
    let blur = |entry: &mut Entry| {
        forget_replay(entry);
        entry.blocks = 0;
    };
    without(expected, blur).assert_same(&without(found, blur), Aspects::All, what);
}

fn without(manifest: &Manifest, blur: impl Fn(&mut Entry)) -> Manifest {
    let mut manifest = manifest.clone();
    manifest.0.values_mut().for_each(blur);
    manifest
}

fn forget_replay(entry: &mut Entry) {
    if entry.mode & 0o170_000 == 0o040_000 {
        entry.size = 0;
        entry.blocks = 0;
        entry.mtime.clear();
        entry.ctime.clear();
    }
}

/// What an operation needs of the test machine.
fn ready(test: &str) -> bool {
    can_run(test, &[Need::Root, Need::Program("mke2fs"), Need::Program("findmnt")])
}

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
    crashed.assert_as_the_kernel(&found);
}

fn sync(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// Bytes that tell a block from its neighbours.
fn bytes(mark: u8, len: usize) -> Vec<u8> {
    (0..len).map(|index| mark ^ (index as u8) ^ ((index >> 8) as u8)).collect()
}

fn put(path: &Path, mark: u8, len: usize) {
    fs::write(path, bytes(mark, len)).unwrap();
}

fn writer(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}

/// A directory with a file of 100,000 bytes.
fn one_file(root: &Path) {
    fs::create_dir(root.join("d")).unwrap();
    put(&root.join("d/old"), 1, 100_000);
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

#[test]
fn fast_commits_are_not_shown_to_another_reader() {
    if !ready("fast_commits_are_not_shown_to_another_reader") {
        return;
    }
    let live = Live::new(&[], one_file);
    let recovered = |crashed: &Crashed| {
        wait(async {
            let fs = open(&crashed.image, 0, Options::default()).await.unwrap();
            fs.recovered().err().map(|error| error.kind())
        })
    };
    assert_eq!(recovered(&live.crash()), None);
    put(&live.path().join("d/new"), 2, 5000);
    sync(&live.path().join("d/new"));
    assert_eq!(recovered(&live.crash()), Some(ErrorKind::Unsupported));
}

#[test]
fn a_copy_in_the_log_that_is_damaged_is_a_failure_of_the_journal() {
    if !ready("a_copy_in_the_log_that_is_damaged_is_a_failure_of_the_journal") {
        return;
    }
    let live = Live::new(&[], one_file);
    let crashed = live.crash();
    let damage = || {
        wait(async {
            let fs = open(&crashed.image, 0, Options::default()).await.unwrap();
            fs.check_journal().await.unwrap()
        })
    };
    assert!(damage().is_empty());
    // Of a block that has several copies the last one counts: the one behind the last descriptor is among those.
    let bytes = fs::read(&crashed.image).unwrap();
    let descriptor = [0xC0, 0x3B, 0x39, 0x98, 0, 0, 0, 1];
    let starts = |block: &u32| {
        let at = usize::try_from(log_block(&crashed.image, *block)).unwrap();
        bytes[at..].starts_with(&descriptor)
    };
    let copy = (1..50).rfind(starts).unwrap() + 1;
    let at = log_block(&crashed.image, copy) + 1000;
    let image = OpenOptions::new().read(true).write(true).open(&crashed.image).unwrap();
    let mut byte = [0];
    image.read_exact_at(&mut byte, at).unwrap();
    image.write_all_at(&[byte[0] ^ 1], at).unwrap();
    let found = damage();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].kind(), ErrorKind::BadChecksum);
    assert!(found[0].message().contains(&format!("in log block {copy} ")), "{}", found[0]);
}

#[test]
fn a_torn_fast_commit_and_all_after_it_are_left_out() {
    let test = "a_torn_fast_commit_and_all_after_it_are_left_out";
    if !ready(test) {
        return;
    }
    let live = Live::new(&[], one_file);
    let mut states = vec![live.crash().live];
    for index in 0..3 {
        let file = live.path().join(format!("d/{index}"));
        put(&file, index, 3000);
        // The second commit of each finds nothing new but the time.
        sync(&file);
        states.push(live.crash().live);
    }
    let crashed = live.crash();
    let whole = crashed.read().1.fast_commits;
    assert!(whole >= 3, "{whole} fast commits");
    let area = fast_commit_area(&crashed.image);
    let image = OpenOptions::new().read(true).write(true).open(&crashed.image).unwrap();
    for torn in (0..whole).rev() {
        // Each of these takes one block.
        let at = area + u64::from(torn) * 1024 + 20;
        let mut byte = [0];
        image.read_exact_at(&mut byte, at).unwrap();
        image.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let (found, report) = crashed.read();
        assert_eq!(report.fast_commits, torn);
        assert!(report.warnings[0].contains("a fast commit after transaction"), "{report:?}");
        match (torn, crashed.witness()) {
            // The kernel does not mount then.
            (0, None) => {}
            (_, kernel) => assert_as_replayed(&kernel.unwrap(), &found, "torn"),
        }
        image.write_all_at(&byte, at).unwrap();
        if torn == 0 {
            let names = |manifest: &Manifest| manifest.0.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&found), names(&states[0]));
        }
    }
}

/// Where the fast-commit area begins in an image.
fn fast_commit_area(image: &Path) -> u64 {
    log_block(image, 8193)
}

/// Where a block of the log lies in an image.
fn log_block(image: &Path, block: u32) -> u64 {
    let request = format!("bmap <8> {block}");
    let told = run("debugfs", &["-R", &request, image.to_str().unwrap()]);
    String::from_utf8(told).unwrap().trim().parse::<u64>().unwrap() * 1024
}
