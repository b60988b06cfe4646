//! The main job by whoever clones the repository: no root, no kernel, the disk from `testdata`, an image file.

use std::fs;

use crate::common::{Aspects, Manifest, Snapbrowse, crashed_disk, sha256, sha256_of};

#[test]
fn the_crashed_disk_reads_as_the_kernel_once_read_it() {
    use std::os::unix::ffi::OsStrExt;
    let disk = crashed_disk();
    let image = disk.path().join("dirty-ext3.img");
    let source = image.to_str().unwrap();
    let before = sha256_of(&image);
    let expected = Manifest::parse(&fs::read(disk.path().join("dirty-ext3.manifest")).unwrap());
    let snapbrowse = Snapbrowse::new();

    let found = Manifest::of_stat(&snapbrowse, source, expected.0.keys());
    expected.assert_same(&found, Aspects::Inode, "stat");

    for (path, entry) in expected.regular_files() {
        let arguments = ["cat".as_ref(), image.as_os_str(), std::ffi::OsStr::from_bytes(&path)];
        assert_eq!(sha256(&snapbrowse.run(arguments)), entry.digest, "cat {}", path.escape_ascii());
    }

    let copy = tempfile::tempdir().unwrap();
    snapbrowse.run(["extract", "--quiet", source, "/home", "--to", copy.path().to_str().unwrap()]);
    let found = Manifest::of_tree(&copy.path().join("home"));
    let root = rustix::process::geteuid().is_root();
    let aspects = if root { Aspects::RestoredByRoot } else { Aspects::RestoredByUser };
    expected.below(b"./home").assert_same(&found, aspects, "extract");
    assert_eq!(sha256_of(&image), before, "the image itself has changed");
}
