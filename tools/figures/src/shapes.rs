//! Disks of other shapes, beside the ones that the main rows are measured on: a crashed server's, a fragmented file, a
//! large one through indirect blocks. They are made through the kernel's own driver and so need root.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use rustix::fs::{FallocateFlags, fallocate};

use crate::images::{Noise, copy_mounted, deep_tree, run};

/// The block size of all of them.
const BLOCK: u64 = 4096;
/// What the log of the crashed disk holds, in bytes.
pub(crate) const LIVE_LOG: u64 = 56 << 20;
/// Extents of the fragmented file, of one block each.
pub(crate) const EXTENTS: u64 = 50_000;
/// The size of the fragmented file.
pub(crate) const FRAGMENTED: u64 = EXTENTS * BLOCK;
/// The size of the large file.
pub(crate) const HUGE: u64 = 4 << 30;

/// A shape, and how what lies on it is made.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    size: &'static str,
    mke2fs: &'static [&'static str],
    mount: &'static str,
    fill: fn(&Path) -> Result<()>,
    /// Whether the disk is copied while it is mounted, as a snapshot of a running server is.
    crash: bool,
}

/// An ext3 with [`LIVE_LOG`] of a journal without checksums to be played back.
pub(crate) const CRASHED: Shape = Shape {
    name: "crashed-ext3",
    size: "8G",
    mke2fs: &["-t", "ext3", "-J", "size=400"],
    mount: "noatime,data=journal",
    fill: fill_log,
    crash: true,
};

/// An ext4 with one file in [`EXTENTS`] pieces.
pub(crate) const SCATTERED: Shape = Shape {
    name: "scattered",
    size: "1G",
    mke2fs: &["-t", "ext4", "-m", "0"],
    mount: "noatime",
    fill: scatter,
    crash: false,
};

/// An ext3 with one file of [`HUGE`] bytes through indirect blocks of 4 KiB.
pub(crate) const INDIRECT: Shape = Shape {
    name: "indirect",
    size: "6G",
    mke2fs: &["-t", "ext3"],
    mount: "noatime",
    fill: write_huge,
    crash: false,
};

/// The disk of a shape, in `directory`.
pub(crate) fn shaped(directory: &Path, shape: Shape) -> Result<PathBuf> {
    let path = directory.join(format!("{}.img", shape.name));
    if path.exists() {
        return Ok(path);
    }
    eprintln!("making {}", path.display());
    let unfinished = path.with_extension("new");
    let _ = fs::remove_file(&unfinished);
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.arg("-q").args(shape.mke2fs).arg("-d").arg(deep_tree(directory)?);
    run(mke2fs.arg(&unfinished).arg(shape.size))?;
    let mount = tempfile::Builder::new().prefix("figures").tempdir()?;
    let options = format!("loop,{}", shape.mount);
    run(Command::new("mount").args(["-o", &options]).arg(&unfinished).arg(mount.path()))?;
    let copied = path.with_extension("copy");
    let filled = (shape.fill)(mount.path()).and_then(|()| {
        if shape.crash {
            copy_mounted(&unfinished, &copied)?;
        }
        Ok(())
    });
    run(Command::new("umount").arg(mount.path()))?;
    filled?;
    if shape.crash {
        fs::rename(&copied, &unfinished)?;
    }
    fs::rename(unfinished, &path)?;
    Ok(path)
}

/// Several transactions, each ended by the fsync of a file: `sync` would write everything to its place too.
fn fill_log(root: &Path) -> Result<()> {
    let mut noise = Noise(4);
    let mut bytes = vec![0; 1 << 20];
    for transaction in 0..LIVE_LOG >> 23 {
        let mut file = File::create(root.join(format!("transaction-{transaction}")))?;
        for _ in 0..8 {
            noise.fill(&mut bytes);
            file.write_all(&bytes)?;
        }
        file.sync_all()?;
    }
    Ok(())
}

/// Takes all the space, gives every other block back, and writes a file into the gaps.
fn scatter(root: &Path) -> Result<()> {
    let filler = OpenOptions::new().create_new(true).write(true).open(root.join("filler"))?;
    let mut size = 0;
    for step in [64 << 20, 1 << 20, BLOCK] {
        while fallocate(&filler, FallocateFlags::empty(), size, step).is_ok() {
            size += step;
        }
    }
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    // A few more: the file's own extent tree needs room too.
    for gap in 0..EXTENTS + 1000 {
        fallocate(&filler, punch, gap * 2 * BLOCK, BLOCK)?;
    }
    filler.sync_all()?;
    write_noise(&root.join("scattered.bin"), FRAGMENTED)
}

fn write_huge(root: &Path) -> Result<()> {
    write_noise(&root.join("huge.bin"), HUGE)
}

fn write_noise(path: &Path, len: u64) -> Result<()> {
    let mut noise = Noise(5);
    let mut bytes = vec![0; 1 << 20];
    let file = File::create(path)?;
    let mut at = 0;
    while at < len {
        let part = (len - at).min(bytes.len() as u64) as usize;
        noise.fill(&mut bytes[..part]);
        file.write_all_at(&bytes[..part], at)?;
        at += part as u64;
    }
    file.sync_all()?;
    Ok(())
}
