//! Mounts to compare: ours, qemu-storage-daemon with fuse2fs, the kernel's own, and an empty one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::process::{Cost, Daemon, as_user, cpu_time, peak_memory, wait_until};
use crate::serve::Tgtd;

/// A name that needs no file to be kept in.
pub(crate) const INITIATOR: &str = "iqn.2026-01.org.snapbrowse:figures";

/// Something mounted, and the processes that serve it.
pub(crate) struct Mounted {
    directory: TempDir,
    /// How it is unmounted, innermost first.
    unmount: Vec<(&'static str, PathBuf)>,
    daemons: Vec<Daemon>,
}

impl Mounted {
    fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("figures").tempdir()?;
        std::os::unix::fs::chown(directory.path(), Some(65534), Some(65534)).ok();
        Ok(Self { directory, unmount: Vec::new(), daemons: Vec::new() })
    }

    /// Where the files are.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("files")
    }

    /// The process that serves it, where it is one.
    pub(crate) fn process(&self) -> Result<u32> {
        Ok(self.daemons.first().context("no process serves it")?.id())
    }

    /// What the serving processes have cost so far.
    pub(crate) fn cost(&self) -> Result<Cost> {
        let mut cost = Cost::default();
        for daemon in &self.daemons {
            cost.cpu += cpu_time(daemon.id())?;
            cost.peak += peak_memory(daemon.id())?;
        }
        Ok(cost)
    }

    /// Our own, by an ordinary user.
    pub(crate) fn ours(binary: &Path, source: &str) -> Result<Self> {
        Self::by_us(binary, "mount", source)
    }

    /// Our tree of all targets of a portal, by an ordinary user.
    pub(crate) fn tree(binary: &Path, portal: &str) -> Result<Self> {
        Self::by_us(binary, "browse", portal)
    }

    fn by_us(binary: &Path, command: &str, source: &str) -> Result<Self> {
        let mut mounted = Self::new()?;
        make_directory(&mounted.path())?;
        let mut program = as_user(binary.to_str().context("a path in UTF-8")?);
        program.args([command, "-f", "--initiator", INITIATOR, source]).arg(mounted.path());
        mounted.daemons.push(Daemon::start(&mut program)?);
        mounted.unmount.push(("fusermount3", mounted.path()));
        wait_until("our mount", || is_mounted(&mounted.path()))?;
        Ok(mounted)
    }

    /// The LUN as a file by qemu-storage-daemon, and fuse2fs upon it.
    pub(crate) fn qemu(tgtd: &Tgtd) -> Result<Self> {
        let mut mounted = Self::new()?;
        let disk = mounted.directory.path().join("disk");
        std::fs::write(&disk, "")?;
        let export =
            format!("type=fuse,id=e,node-name=disk,mountpoint={},writable=off", disk.display());
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--blockdev", &tgtd.blockdev(), "--export", &export]);
        mounted.daemons.push(Daemon::start(command.stderr(Stdio::null()))?);
        mounted.unmount.push(("fusermount3", disk.clone()));
        wait_until("qemu-storage-daemon", || is_mounted(&disk))?;
        mounted.fuse2fs(&disk)?;
        Ok(mounted)
    }

    /// fuse2fs upon an image file.
    pub(crate) fn fuse2fs_of(image: &Path) -> Result<Self> {
        let mut mounted = Self::new()?;
        mounted.fuse2fs(image)?;
        Ok(mounted)
    }

    fn fuse2fs(&mut self, disk: &Path) -> Result<()> {
        make_directory(&self.path())?;
        let mut command = Command::new("fuse2fs");
        command.arg(disk).arg(self.path()).args(["-f", "-o", "ro"]);
        self.daemons.push(Daemon::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?);
        self.unmount.insert(0, ("fusermount3", self.path()));
        wait_until("fuse2fs", || is_mounted(&self.path()))
    }

    /// The kernel's, through a loop device.
    pub(crate) fn kernel(image: &Path) -> Result<Self> {
        let mut mounted = Self::new()?;
        make_directory(&mounted.path())?;
        let status = Command::new("mount")
            .args(["-o", "loop,ro"])
            .arg(image)
            .arg(mounted.path())
            .status()?;
        ensure!(status.success(), "mount");
        mounted.unmount.push(("umount", mounted.path()));
        Ok(mounted)
    }

    /// A server that answers every read with the same bytes at once: what the kernel and fuser leave room for. With an
    /// image it reads each answer from there: what reading leaves room for.
    pub(crate) fn empty(image: Option<&Path>) -> Result<Self> {
        let mut mounted = Self::new()?;
        make_directory(&mounted.path())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve-empty").arg(mounted.path()).args(image);
        mounted.daemons.push(Daemon::start(&mut command)?);
        mounted.unmount.push(("fusermount3", mounted.path()));
        wait_until("the empty mount", || is_mounted(&mounted.path()))?;
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for (program, path) in &self.unmount {
            let mut command = Command::new(program);
            if *program == "fusermount3" {
                command.arg("-u");
            }
            let _ = command.arg(path).stderr(Stdio::null()).status();
        }
        // Time to say good-bye to the target.
        for daemon in &mut self.daemons {
            for _ in 0..100 {
                if matches!(daemon.child.try_wait(), Ok(Some(_))) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn make_directory(path: &Path) -> Result<()> {
    std::fs::create_dir(path)?;
    std::os::unix::fs::chown(path, Some(65534), Some(65534)).ok();
    Ok(())
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let path = path.to_string_lossy();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(&path))
}
