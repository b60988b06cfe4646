//! Random work, crashes at random points, and the kernel's own recovery as the witness.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;
use snapbrowse::fs::ext::Options;

use crate::common::{
    Aspects, KernelMount, Manifest, Need, assert_readers_agree, can_run, copy_image, run,
};
use crate::fast_commit::assert_as_replayed;
use crate::walk::{manifest, open, wait};

/// Numbers from a seed (xorshift64*), so that a run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let index = usize::try_from(self.below(of.len().max(1) as u64)).unwrap();
        of.get(index)
    }
}

/// What an application does all day, on one tree.
struct Work {
    root: PathBuf,
    random: Random,
    dirs: Vec<PathBuf>,
    files: Vec<PathBuf>,
    made: u64,
    /// Whether fast commits are wanted: what they cannot tell is rare then.
    fast: bool,
}

impl Work {
    fn new(root: &Path, seed: u64, fast: bool) -> Self {
        let (root, dirs) = (root.to_owned(), vec![root.to_owned()]);
        Self { root, random: Random(seed), dirs, files: Vec::new(), made: 0, fast }
    }

    fn new_name(&mut self) -> PathBuf {
        self.made += 1;
        let padding = "x".repeat(usize::try_from(self.random.below(60)).unwrap());
        self.random.pick(&self.dirs).unwrap().join(format!("{}-{padding}", self.made))
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = self.random.below(40_000) >> self.random.below(8);
        let byte = self.random.below(256) as u8;
        (0..len).map(|index| byte ^ (index as u8) ^ ((index >> 8) as u8)).collect()
    }

    fn step(&mut self) {
        let step = self.random.below(20);
        if self.fast && matches!(step, 16 | 17) && self.random.below(40) > 0 {
            return;
        }
        match step {
            0..5 => {
                let (name, bytes) = (self.new_name(), self.bytes());
                fs::write(&name, bytes).unwrap();
                self.files.push(name);
            }
            5..7 => self.with_file(|work, file| {
                let bytes = work.bytes();
                OpenOptions::new().append(true).open(file).unwrap().write_all(&bytes).unwrap();
            }),
            7..9 => self.with_file(|work, file| {
                let (bytes, offset) = (work.bytes(), work.random.below(100_000));
                OpenOptions::new()
                    .write(true)
                    .open(file)
                    .unwrap()
                    .write_all_at(&bytes, offset)
                    .unwrap();
            }),
            9 | 10 => self.with_file(|work, file| {
                let len = work.random.below(60_000);
                OpenOptions::new().write(true).open(file).unwrap().set_len(len).unwrap();
            }),
            11 | 12 => self.with_file(|work, file| {
                let name = work.new_name();
                fs::rename(file, &name).unwrap();
                work.files.retain(|other| other != file);
                work.files.push(name);
            }),
            13 | 14 => self.with_file(|work, file| {
                fs::remove_file(file).unwrap();
                work.files.retain(|other| other != file);
            }),
            15 => self.with_file(|work, file| {
                let name = work.new_name();
                fs::hard_link(file, &name).unwrap();
                work.files.push(name);
            }),
            16 => self.with_file(|work, file| {
                let value = work.bytes();
                let value = &value[..value.len().min(200)];
                // A full attribute block is an answer too.
                let _ = rustix::fs::setxattr(file, "user.random", value, XattrFlags::empty());
            }),
            17 => {
                let name = self.new_name();
                let target = "t".repeat(1 + usize::try_from(self.random.below(120)).unwrap());
                symlink(target, name).unwrap();
            }
            18 => {
                let name = self.new_name();
                fs::create_dir(&name).unwrap();
                self.dirs.push(name);
            }
            _ => self.grow_or_remove_directory(),
        }
    }

    fn with_file(&mut self, act: impl FnOnce(&mut Self, &Path)) {
        if let Some(file) = self.random.pick(&self.files).cloned() {
            act(self, &file);
        }
    }

    /// Many names at once, so that directories get more blocks; and sometimes a directory goes with all in it, which
    /// leaves revoke records.
    fn grow_or_remove_directory(&mut self) {
        let seldom = if self.fast { 15 } else { 2 };
        if self.dirs.len() > 3 && self.random.below(seldom) == 0 {
            let dir = self.dirs.remove(1);
            fs::remove_dir_all(&dir).unwrap();
            self.dirs.retain(|other| !other.starts_with(&dir));
            self.files.retain(|file| !file.starts_with(&dir));
            if self.fast {
                // The kernel cannot replay a fast commit that uses a directory's inode again.
                self.made += 1;
                let name = self.root.join(format!("full-{}", self.made));
                symlink("makes the next commit a full one", name).unwrap();
            }
            return;
        }
        let dir = match self.fast {
            // A new directory that gets an index is beyond the kernel's replay.
            true => self.root.clone(),
            false => self.random.pick(&self.dirs).unwrap().clone(),
        };
        for index in 0..self.random.below(80) {
            let name = dir.join(format!("many-{}-{index}-{}", self.made, "y".repeat(40)));
            File::create(&name).unwrap();
            self.files.push(name);
        }
        self.made += 1;
    }

    /// `sync` would write in place as well, and leave nothing to recover.
    fn commit(&mut self) {
        self.made += 1;
        let mut file = File::create(self.root.join(format!("commit-{}", self.made))).unwrap();
        file.write_all(b"committed").unwrap();
        file.sync_all().unwrap();
    }
}

/// What the points of one kind came to.
#[derive(Debug, Default)]
struct Tally {
    points: u32,
    /// Read differently without recovery: only these prove anything.
    telling: u32,
    /// Had fast commits to play back.
    fast: u32,
    /// Are not among the points, because the kernel could not replay its own fast commits: it cannot where a new directory was
    /// given an index by the time of the commit.
    refused: u32,
}

struct Kind {
    name: &'static str,
    mke2fs: &'static [&'static str],
    mount: &'static str,
}

impl Kind {
    fn fast(&self) -> bool {
        self.mke2fs.contains(&"fast_commit")
    }
}

/// Room for many fast commits, so that it is seldom full.
const FAST: &str = "size=8,fast_commit_size=2048";

const KINDS: [Kind; 7] = [
    Kind { name: "ext3, data=ordered", mke2fs: &["-t", "ext3"], mount: "noatime,data=ordered" },
    Kind { name: "ext3, data=journal", mke2fs: &["-t", "ext3"], mount: "noatime,data=journal" },
    Kind { name: "ext3, data=writeback", mke2fs: &["-t", "ext3"], mount: "noatime,data=writeback" },
    Kind { name: "ext4", mke2fs: &["-t", "ext4"], mount: "noatime" },
    Kind { name: "ext4, 1 KiB blocks", mke2fs: &["-t", "ext4", "-b", "1024"], mount: "noatime" },
    Kind {
        name: "ext4, fast_commit",
        mke2fs: &["-t", "ext4", "-O", "fast_commit", "-J", FAST],
        mount: "noatime",
    },
    Kind {
        name: "ext4, fast_commit, 1 KiB blocks",
        mke2fs: &["-t", "ext4", "-O", "fast_commit", "-J", FAST, "-b", "1024"],
        mount: "noatime",
    },
];

const POINTS_PER_MOUNT: u32 = 10;

/// Crashes one kind of file system at `points` points.
fn crash(kind: &Kind, points: u32) -> Tally {
    let mut tally = Tally::default();
    while tally.points < points && tally.refused * 4 <= points {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).unwrap();
        let seed = u64::from_le_bytes(seed) | 1;
        println!("{}: seed {seed:#x}", kind.name);
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("mounted.img");
        let file = image.to_str().unwrap();
        run("truncate", &["-s", "48M", file]);
        run("mke2fs", &[&["-q", "-F", "-J", "size=8"], kind.mke2fs, &[file]].concat());
        // No commits by the clock: they would fall into the copying.
        let mount = format!("{},commit=600", kind.mount);
        let kernel = KernelMount::writable(&image, 0, &mount);
        let mut work = Work::new(kernel.path(), seed, kind.fast());
        for _ in 0..POINTS_PER_MOUNT.min(points) {
            for _ in 0..1 + work.random.below(4) {
                for _ in 0..work.random.below(60) {
                    work.step();
                }
                work.commit();
            }
            for _ in 0..work.random.below(30) {
                work.step();
            }
            let crashed = dir.path().join("crashed.img");
            copy_image(&image, &crashed);
            compare(kind, &crashed, &mut tally);
        }
    }
    println!("{}: {tally:?}", kind.name);
    assert!(tally.refused * 4 <= points, "too few that the kernel mounts: {tally:?}");
    assert!(!kind.fast() || tally.fast * 4 >= points, "too few fast commits: {tally:?}");
    tally
}

fn compare(kind: &Kind, crashed: &Path, tally: &mut Tally) {
    let witness = crashed.with_extension("witness");
    copy_image(crashed, &witness);
    let kernel = catch_unwind(|| KernelMount::replaying(&witness, 0));
    let (found, fast_commits) = wait(async {
        let fs = open(crashed, 0, Options::default()).await.unwrap();
        let told = (manifest(&fs).await, fs.summary().journal.fast_commits);
        assert_readers_agree(fs, kind.name).await;
        told
    });
    let kernel = match kernel {
        Ok(kernel) => kernel,
        Err(_) if fast_commits > 0 => {
            tally.refused += 1;
            return;
        }
        Err(panic) => resume_unwind(panic),
    };
    let expected = Manifest::of_tree(kernel.path());
    drop(kernel);
    match fast_commits {
        0 => expected.assert_same(&found, Aspects::All, kind.name),
        _ => assert_as_replayed(&expected, &found, kind.name),
    }
    tally.points += 1;
    tally.fast += u32::from(fast_commits > 0);
    let stale = KernelMount::without_recovery(crashed, 0);
    // Without recovery a file system may well contradict itself.
    let stale = catch_unwind(AssertUnwindSafe(|| Manifest::of_tree(stale.path())));
    tally.telling += u32::from(stale.ok().as_ref() != Some(&expected));
}

fn crash_all(test: &str, points_per_kind: u32) {
    if !can_run(test, &[Need::Root, Need::Program("mke2fs")]) {
        return;
    }
    let mut all = Tally::default();
    for kind in &KINDS {
        let tally = crash(kind, points_per_kind);
        all.points += tally.points;
        all.telling += tally.telling;
        all.fast += tally.fast;
        all.refused += tally.refused;
    }
    println!("{all:?}");
    assert!(all.telling * 4 >= all.points * 3, "too few crashes that recovery matters to: {all:?}");
}

#[test]
fn crashes_read_as_after_the_kernels_recovery() {
    crash_all("crashes_read_as_after_the_kernels_recovery", 7);
}

#[test]
#[ignore = "long: 420 points"]
fn many_crashes_read_as_after_the_kernels_recovery() {
    crash_all("many_crashes_read_as_after_the_kernels_recovery", 60);
}
