//! An ext4 with a bit of everything that an ordinary user can make, by mke2fs.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::common::{Need, Snapbrowse, run};

/// What the tests of this binary need; all of them run without root.
pub(crate) const NEEDS: &[Need] = &[Need::Program("mke2fs")];

/// A name that is not UTF-8 and would colour a terminal.
pub(crate) const ODD_NAME: &[u8] = b"odd\xff\x1b[31m";

/// The image, a place for copies, and the program.
pub(crate) struct Image {
    pub(crate) snapbrowse: Snapbrowse,
    directory: tempfile::TempDir,
}

impl Image {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        populate(&tree);
        let image = Self { snapbrowse: Snapbrowse::new(), directory };
        image.make("image", &tree);
        image
    }

    /// Another image with the contents of `tree`.
    pub(crate) fn make(&self, name: &str, tree: &Path) {
        let path = self.path(name);
        let (path, tree) = (path.to_str().unwrap(), tree.to_str().unwrap());
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-L", "things", "-d", tree, path, "24M"]);
    }

    /// The image as SOURCE.
    pub(crate) fn source(&self) -> String {
        self.path("image").to_str().unwrap().to_owned()
    }

    /// What the image was made from.
    pub(crate) fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    /// A path beside the image.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What a command prints; it must succeed.
    pub(crate) fn prints(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.snapbrowse.run(arguments)).unwrap()
    }

    /// What a command prints, as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.prints(&[arguments, &["--json"]].concat())).unwrap()
    }
}

fn populate(tree: &Path) {
    fs::create_dir_all(tree.join("etc/empty")).unwrap();
    fs::write(tree.join("etc/foo"), "foo\n").unwrap();
    fs::set_permissions(tree.join("etc/foo"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(tree.join("etc/foo"), tree.join("etc/same")).unwrap();
    symlink("/etc/foo", tree.join("etc/link")).unwrap();
    symlink("etc", tree.join("way")).unwrap();
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
    fs::write(tree.join("large"), large).unwrap();
    let holes = fs::File::create(tree.join("holes")).unwrap();
    for at in [0, 1 << 20, 3 << 20] {
        std::os::unix::fs::FileExt::write_all_at(&holes, &[7; 5000], at).unwrap();
    }
    holes.set_len((4 << 20) + 17).unwrap();
    fs::write(tree.join(std::ffi::OsStr::from_bytes(ODD_NAME)), "").unwrap();
    let long = "n".repeat(200);
    fs::create_dir(tree.join(&long)).unwrap();
    fs::write(tree.join(&long).join(&long), "long").unwrap();
}
