//! Fast commits: each image is copied while it is mounted, after records reached its fast-commit area.

mod beyond;
mod external;
mod log;
mod operations;

use std::fs::{self, File, OpenOptions};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;
use snapbrowse::fs::Filesystem as _;
use snapbrowse::fs::ext::{Ext, JournalReport, Options};

use self::external::LoopDevice;
use crate::common::{Aspects, Entry, KernelMount, Manifest, Need, can_run, copy_image, run};
use crate::walk::{manifest, open, open_with_journal, wait};

/// A file system with the feature, in use.
struct Live {
    kernel: KernelMount,
    /// Where the journal lies on a device of its own, whose image is `journal.img`.
    journal: Option<LoopDevice>,
    dir: tempfile::TempDir,
}

impl Live {
    /// Makes it and lets `prepare` fill it; all of that is in full transactions.
    fn new(mke2fs: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        Self::in_directory(tempfile::tempdir().unwrap(), None, mke2fs, prepare)
    }

    fn in_directory(
        dir: tempfile::TempDir,
        journal: Option<LoopDevice>,
        mke2fs: &[&str],
        prepare: impl FnOnce(&Path),
    ) -> Self {
        let image = dir.path().join("mounted.img");
        let file = image.to_str().unwrap();
        run("truncate", &["-s", "48M", file]);
        let features = ["-q", "-F", "-t", "ext4", "-O", "fast_commit", "-J"];
        // Blocks of 1 KiB, so that little is needed for much.
        let place = match &journal {
            None => "size=8".to_owned(),
            Some(device) => format!("device={}", device.path()),
        };
        let features = [&features[..], &[&place]].concat();
        let size: &[&str] = if mke2fs.contains(&"-b") { &[] } else { &["-b", "1024"] };
        run("mke2fs", &[&features, size, mke2fs, &[file]].concat());
        let kernel = KernelMount::writable(&image, 0, "noatime,commit=600");
        prepare(kernel.path());
        run("sync", &["-f", kernel.path().to_str().unwrap()]);
        let live = Self { kernel, journal, dir };
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
        let journal = self.journal.as_ref().map(|_| {
            let copy = self.dir.path().join("crashed-journal.img");
            copy_image(&self.dir.path().join("journal.img"), &copy);
            copy
        });
        let free = free_of_tree(self.path());
        Crashed { image, journal, live: Manifest::of_tree(self.path()), free }
    }
}

struct Crashed {
    image: PathBuf,
    journal: Option<PathBuf>,
    live: Manifest,
    /// How many blocks and inodes were free.
    free: [u64; 2],
}

/// How many blocks and inodes are free.
fn free_of_tree(root: &Path) -> [u64; 2] {
    let counts = rustix::fs::statvfs(root).unwrap();
    [counts.f_bfree, counts.f_ffree]
}

impl Crashed {
    /// Reads it with the reader under test.
    fn read(&self) -> (Manifest, JournalReport) {
        wait(async {
            let fs = self.open().await;
            (manifest(&fs).await, fs.summary().journal.clone())
        })
    }

    async fn open(&self) -> Ext {
        let opened = match &self.journal {
            None => open(&self.image, 0, Options::default()).await,
            Some(journal) => open_with_journal(&self.image, journal).await,
        };
        opened.unwrap()
    }

    /// Reads it with the kernel; `None` where that does not mount it.
    fn witness(&self) -> Option<Manifest> {
        let copy = self.image.with_extension("witness");
        copy_image(&self.image, &copy);
        let journal = self.journal.as_ref().map(|journal| {
            let copy = journal.with_extension("witness");
            copy_image(journal, &copy);
            LoopDevice::attach(&copy)
        });
        let mounted = catch_unwind(|| match &journal {
            None => KernelMount::replaying(&copy, 0),
            Some(device) => {
                let options = format!("noatime,journal_path={}", device.path());
                KernelMount::writable(&copy, 0, &options)
            }
        });
        Some(Manifest::of_tree(mounted.ok()?.path()))
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

    /// What is free is what was: not so where a file was open without a name.
    fn assert_as_free_as_it_was(&self) {
        let counts = wait(async { self.open().await.statfs().await }).unwrap();
        assert_eq!([counts.blocks_free, counts.files_free], self.free);
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
    can_run(
        test,
        &[Need::Root, Need::Program("mke2fs"), Need::Program("findmnt"), Need::Program("losetup")],
    )
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
