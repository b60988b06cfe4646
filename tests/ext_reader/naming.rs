//! Directories whose names are not what they seem: encrypted ones, and ones that ignore case.

use std::fs;
use std::path::{Path, PathBuf};

use snapbrowse::ErrorKind;
use snapbrowse::fs::Filesystem;
use snapbrowse::fs::ext::{Ext, Options};

use crate::common::{Need, can_run, run};
use crate::walk::{open, wait};

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

#[test]
fn encrypted_directories_list_the_names_that_the_kernel_lists() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let packed = testdata("encrypted.img.gz");
    fs::write(&image, run("gzip", &["-dc", packed.to_str().unwrap()])).unwrap();
    let expected = fs::read_to_string(testdata("encrypted.names")).unwrap();
    wait(async {
        let fs = open(&image, 0, Options::default()).await.unwrap();
        let mut found = Vec::new();
        for name in ["few", "many"] {
            let dir = fs.lookup(fs.root(), name.as_bytes()).await.unwrap();
            let mut cookie = 0;
            loop {
                let batch = fs.readdir(dir, cookie).await.unwrap();
                let Some(last) = batch.last() else { break };
                cookie = last.cookie;
                for entry in batch {
                    assert_eq!(fs.lookup(dir, &entry.name).await.unwrap(), entry.ino);
                    if !entry.name.starts_with(b".") {
                        let shown = String::from_utf8(entry.name).unwrap();
                        found.push(format!("{name} {} {shown}", entry.ino.0));
                    }
                    let attr = fs.getattr(entry.ino).await.unwrap();
                    match attr.file_type {
                        snapbrowse::fs::FileType::Regular => {
                            let error = Filesystem::open(&fs, entry.ino).await.err().unwrap();
                            assert_eq!(error.kind(), ErrorKind::Encrypted);
                        }
                        snapbrowse::fs::FileType::Symlink => {
                            let error = fs.readlink(entry.ino).await.unwrap_err();
                            assert_eq!(error.kind(), ErrorKind::Encrypted);
                        }
                        _ => {}
                    }
                }
            }
        }
        let mut expected: Vec<&str> = expected.lines().collect();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected);
    });
}

#[test]
fn a_directory_that_ignores_case_finds_names_in_any_case() {
    let name = "a_directory_that_ignores_case_finds_names_in_any_case";
    if !can_run(name, &[Need::Program("mke2fs"), Need::Program("debugfs")]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    for dir in ["folded", "exact"] {
        fs::create_dir_all(tree.join(dir)).unwrap();
        fs::write(tree.join(dir).join("Straße"), dir).unwrap();
    }
    let (tree, image_name) = (tree.to_str().unwrap(), image.to_str().unwrap());
    let features = ["-O", "casefold,^metadata_csum", "-E", "encoding=utf8"];
    run(
        "mke2fs",
        &[&["-q", "-F", "-t", "ext4", "-d", tree], &features[..], &[image_name, "8M"]].concat(),
    );
    run("debugfs", &["-w", "-R", "set_inode_field /folded flags 0x40080000", image_name]);
    wait(async {
        let fs: Ext = open(&image, 0, Options::default()).await.unwrap();
        let folded = fs.lookup(fs.root(), b"folded").await.unwrap();
        let exact = fs.lookup(fs.root(), b"exact").await.unwrap();
        let ino = fs.lookup(folded, "Straße".as_bytes()).await.unwrap();
        for name in ["STRASSE", "strasse", "STRAßE"] {
            assert_eq!(fs.lookup(folded, name.as_bytes()).await.unwrap(), ino, "{name}");
            let error = fs.lookup(exact, name.as_bytes()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{name}");
        }
        let error = fs.lookup(folded, b"strase").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(fs.lookup(fs.root(), b"FOLDED").await.is_err());
    });
}
