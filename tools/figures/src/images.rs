//! The disks that everything is measured on: made once, kept between runs.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The large file, in bytes.
pub(crate) const BIG: u64 = 1 << 30;
/// The small files and the directories that they lie in.
pub(crate) const FILES: usize = 50_000;
const DIRECTORIES: usize = 100;
/// The small file, five directories deep.
pub(crate) const DEEP: &str = "/a/b/c/d/e/small.txt";

/// Numbers without a pattern that a compressing target or file system could use (splitmix64).
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A disk to be made: a file system of one type over the whole device.
#[derive(Clone, Copy)]
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    size: &'static str,
    options: &'static [&'static str],
    whole_tree: bool,
}

/// ext4 as mke2fs makes it.
pub(crate) const EXT4: Recipe =
    Recipe { name: "ext4", size: "8G", options: &["-t", "ext4"], whole_tree: true };
/// ext3 with indirect blocks of 1 KiB.
pub(crate) const EXT3: Recipe = Recipe {
    name: "ext3-1k",
    size: "8G",
    options: &["-t", "ext3", "-b", "1024"],
    whole_tree: true,
};
/// A large one with next to nothing in it.
pub(crate) const SPARSE: Recipe =
    Recipe { name: "ext4-16t", size: "16380G", options: &["-t", "ext4"], whole_tree: false };

/// The disk of a recipe, in `directory`.
pub(crate) fn disk(directory: &Path, recipe: Recipe) -> Result<PathBuf> {
    let path = directory.join(format!("{}.img", recipe.name));
    if path.exists() {
        return Ok(path);
    }
    eprintln!("making {}", path.display());
    let tree = if recipe.whole_tree { tree(directory)? } else { deep_tree(directory)? };
    let unfinished = path.with_extension("new");
    let mut mke2fs = Command::new("mke2fs");
    let _ = fs::remove_file(&unfinished);
    mke2fs.arg("-q").args(recipe.options).arg("-d").arg(tree).arg(&unfinished).arg(recipe.size);
    ensure!(mke2fs.status().context("mke2fs")?.success(), "mke2fs failed");
    fs::rename(unfinished, &path)?;
    Ok(path)
}

/// An 8 GiB ext3 with the small files as a crash leaves it: copied while it was mounted. Needs root.
pub(crate) fn crashed(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("ext3-crashed.img");
    if path.exists() {
        return Ok(path);
    }
    ensure!(rustix::process::geteuid().is_root(), "only root can make a crashed disk");
    eprintln!("making {}", path.display());
    let (live, unfinished) = (path.with_extension("live"), path.with_extension("new"));
    let _ = fs::remove_file(&live);
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-t", "ext3", "-d"]).arg(tree(directory)?.join("many")).arg(&live).arg("8G");
    run(&mut mke2fs)?;
    let mountpoint = tempfile::tempdir()?;
    run(Command::new("mount").args(["-o", "loop"]).arg(&live).arg(mountpoint.path()))?;
    let copied = write_and_copy(mountpoint.path(), &live, &unfinished);
    run(Command::new("umount").arg(mountpoint.path()))?;
    copied?;
    fs::remove_file(live)?;
    fs::rename(unfinished, &path)?;
    Ok(path)
}

/// Copies a disk while it is mounted, as a snapshot of a running server is made: the copy must have a journal to be
/// played back.
pub(crate) fn copy_mounted(live: &Path, copy: &Path) -> Result<()> {
    run(Command::new("cp").arg("--sparse=always").arg(live).arg(copy))?;
    let header = Command::new("dumpe2fs").arg("-h").arg(copy).output()?;
    let header = String::from_utf8_lossy(&header.stdout).into_owned();
    ensure!(header.contains("needs_recovery"), "the copy is clean");
    Ok(())
}

/// Commits files to the journal, and copies the disk before they are written to their places.
fn write_and_copy(mountpoint: &Path, live: &Path, copy: &Path) -> Result<()> {
    for n in 0..200 {
        fs::write(mountpoint.join(format!("new-{n}")), "written before the crash\n")?;
    }
    File::create(mountpoint.join("committed"))?.sync_all()?;
    copy_mounted(live, copy)
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

pub(crate) fn deep_tree(directory: &Path) -> Result<PathBuf> {
    let tree = directory.join("small-tree");
    let file = tree.join(&DEEP[1..]);
    fs::create_dir_all(file.parent().context("the file lies in a directory")?)?;
    let mut bytes = vec![0; 2048];
    Noise(1).fill(&mut bytes);
    fs::write(file, bytes)?;
    Ok(tree)
}

fn tree(directory: &Path) -> Result<PathBuf> {
    let tree = directory.join("tree");
    if tree.join("done").exists() {
        return Ok(tree);
    }
    let mut noise = Noise(2);
    let mut bytes = vec![0; 1 << 20];
    noise.fill(&mut bytes);
    let deep = tree.join(&DEEP[1..]);
    fs::create_dir_all(deep.parent().context("the file lies in a directory")?)?;
    fs::write(deep, &bytes[..2048])?;
    for directory in 0..DIRECTORIES {
        let path = tree.join(format!("many/d{directory:03}"));
        fs::create_dir_all(&path)?;
        for file in 0..FILES / DIRECTORIES {
            let len = 200 + (noise.next() % 9600) as usize;
            let from = (noise.next() % (1 << 19)) as usize;
            fs::write(path.join(format!("file-{file:04}.dat")), &bytes[from..from + len])?;
        }
    }
    let mut big = File::create(tree.join("big.bin"))?;
    for _ in 0..BIG / bytes.len() as u64 {
        noise.fill(&mut bytes);
        big.write_all(&bytes)?;
    }
    File::create(tree.join("done"))?;
    Ok(tree)
}
