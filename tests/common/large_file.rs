//! A file that takes a while to read, and the program that is reading it.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};

use super::{Snapbrowse, disk, pattern, run, sha256};

/// A file system with one file that is several times what the program holds between the target and a pipe.
pub struct LargeFile {
    pub image: PathBuf,
    /// SHA-256 of the file.
    pub digest: String,
}

impl LargeFile {
    pub fn new(dir: &Path) -> Self {
        let (root, image) = (dir.join("root"), dir.join("image"));
        std::fs::create_dir(&root).unwrap();
        let contents = pattern(96 << 20, 15);
        disk(&root, "large", &contents);
        let (root, file) = (root.to_str().unwrap(), image.to_str().unwrap());
        run("mke2fs", &["-q", "-t", "ext4", "-d", root, file, "128M"]);
        Self { image, digest: sha256(&contents) }
    }
}

/// The program, writing the large file to a pipe.
pub struct Cat {
    process: Child,
    pipe: ChildStdout,
    so_far: Vec<u8>,
}

impl Cat {
    pub fn start(snapbrowse: &Snapbrowse, url: &str) -> Self {
        let mut command = snapbrowse.command(["cat", url, "/large"]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pipe = process.stdout.take().unwrap();
        Self { process, pipe, so_far: Vec::new() }
    }

    /// Reads until so much has come.
    pub fn read(&mut self, len: usize) {
        let more = len - self.so_far.len();
        let count = self.pipe.by_ref().take(more as u64).read_to_end(&mut self.so_far).unwrap();
        assert_eq!(count, more);
    }

    /// Reads the rest and compares the whole; gives what was said on standard error.
    pub fn ends_with(mut self, digest: &str) -> String {
        self.pipe.read_to_end(&mut self.so_far).unwrap();
        drop(self.pipe);
        let output = self.process.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{}: {said}", output.status);
        assert_eq!(sha256(&self.so_far), digest, "{said}");
        said
    }
}
