//! The kernel's own ext driver, the witness of what an image holds. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::find_program;

/// A kernel mount of an image, gone when dropped.
#[derive(Debug)]
pub struct KernelMount {
    dir: tempfile::TempDir,
}

impl KernelMount {
    /// Mounts what lies at `offset` of `image` for writing.
    pub fn writable(image: &Path, offset: u64, options: &str) -> Self {
        Self::new(image, offset, options)
    }

    /// Mounts it for reading; the kernel plays a dirty journal back **into the image**, so give it a copy.
    pub fn replaying(image: &Path, offset: u64) -> Self {
        // The device must be writable for the recovery, so the mount becomes read-only in a second step.
        let mount = Self::new(image, offset, "noatime");
        let dir = mount.path().to_str().unwrap();
        run("mount", &["-o", "remount,ro,noatime", dir]);
        mount
    }

    /// Mounts it for reading and leaves the journal alone.
    pub fn without_recovery(image: &Path, offset: u64) -> Self {
        Self::new(image, offset, "ro,noload")
    }

    fn new(image: &Path, offset: u64, options: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("kernel").tempdir().unwrap();
        let options = format!("loop,offset={offset},{options}");
        run("mount", &["-o", &options, image.to_str().unwrap(), dir.path().to_str().unwrap()]);
        Self { dir }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for KernelMount {
    fn drop(&mut self) {
        // A program that another test is just starting has this one's open files until it runs.
        let unmount = || Command::new("umount").arg(self.dir.path()).output().unwrap();
        for _ in 0..100 {
            let output = unmount();
            if !String::from_utf8_lossy(&output.stderr).contains("busy") {
                assert!(output.status.success(), "umount: {output:?}");
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("{} stays busy", self.dir.path().display());
    }
}

/// Runs a program to its end and gives what it printed.
///
/// # Panics
/// Where it is missing or fails, with what it said.
pub fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let path = find_program(program).unwrap_or_else(|| PathBuf::from(program));
    let output = Command::new(path).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}: {said}", output.status);
    output.stdout
}

/// Copies an image with its holes.
pub fn copy_image(from: &Path, to: &Path) {
    run("cp", &["--sparse=always", from.to_str().unwrap(), to.to_str().unwrap()]);
}
