//! Images to read: made by mke2fs and filled by the kernel, or as a crash leaves them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{KernelMount, Limits, populate, run};

/// An image and where its file system lies.
#[derive(Debug)]
pub struct MadeImage {
    pub dir: tempfile::TempDir,
    pub name: String,
    /// In bytes.
    pub offset: u64,
}

impl MadeImage {
    /// Runs mke2fs and fills the new file system through the kernel. Needs root.
    pub fn new(name: &str, size: &str, mke2fs: &[&str], limits: Limits) -> Self {
        let image = Self { dir: tempfile::tempdir().unwrap(), name: name.into(), offset: 0 };
        let path = image.path();
        let file = path.to_str().unwrap();
        run("truncate", &["-s", size, file]);
        run("mke2fs", &[&["-q", "-F"], mke2fs, &[file]].concat());
        populate(KernelMount::writable(&path, 0, "noatime").path(), limits);
        image
    }

    /// The image file.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name).with_extension("img")
    }
}

/// A disk copied while the kernel had it mounted, an ext3 or ext4 in its one partition. The script that makes it fails
/// where the journal does not matter. Needs root.
pub fn make_crashed_disk(kind: &str) -> MadeImage {
    let dir = tempfile::tempdir().unwrap();
    let script = testdata("make-crashed-disk.sh");
    run(script.to_str().unwrap(), &[kind, dir.path().to_str().unwrap()]);
    MadeImage { dir, name: format!("dirty-{kind}"), offset: 1 << 20 }
}

/// Such an ext3 disk, made before and kept in `testdata`: a directory with `dirty-ext3.img` and `dirty-ext3.manifest`. Needs
/// nothing.
pub fn crashed_disk() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let image = std::fs::File::create(dir.path().join("dirty-ext3.img")).unwrap();
    let unpacked = Command::new("gzip")
        .arg("-dc")
        .arg(testdata("dirty-ext3.img.gz"))
        .stdin(Stdio::null())
        .stdout(image)
        .status()
        .unwrap();
    assert!(unpacked.success(), "gzip: {unpacked}");
    std::fs::copy(testdata("dirty-ext3.manifest"), dir.path().join("dirty-ext3.manifest")).unwrap();
    dir
}

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}
