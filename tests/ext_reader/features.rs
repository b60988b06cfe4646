//! Features that few kernels mount: mke2fs and debugfs make these images, and the tree that went in is what must come out.

use std::fs;
use std::path::PathBuf;

use snapbrowse::fs::Filesystem;
use snapbrowse::fs::ext::Options;

use crate::common::{Entry, Limits, Manifest, Need, assert_readers_agree, can_run, run};
use crate::walk::{manifest, open, wait};

const NEEDS: &[Need] = &[Need::Root, Need::Program("mke2fs"), Need::Program("debugfs")];

/// A tree, and an image that holds it.
struct Made {
    dir: tempfile::TempDir,
}

impl Made {
    fn new(mke2fs: &[&str]) -> Self {
        let made = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(made.tree()).unwrap();
        let limits = Limits { largest: 5 << 20, entries: 300, long_times: false };
        crate::common::populate(&made.tree(), limits);
        let (tree, image) = (made.tree(), made.image());
        let ends = ["-d", tree.to_str().unwrap(), image.to_str().unwrap(), "100M"];
        run("mke2fs", &[&["-q", "-F", "-t", "ext4", "-b", "1024"], mke2fs, &ends].concat());
        made
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Lets debugfs change something.
    fn set(&self, request: &str) {
        run("debugfs", &["-w", "-R", request, self.image().to_str().unwrap()]);
    }

    /// The tree comes out, the feature is named, and no file of the file system's own shows.
    fn assert_reads(&self, feature: &str) {
        let (found, features) = wait(async {
            let fs = open(&self.image(), 0, Options::default()).await.unwrap();
            let told = (manifest(&fs).await, fs.summary().features.clone());
            assert_readers_agree(fs, feature).await;
            told
        });
        assert!(features.iter().any(|known| known == feature), "{feature}: {features:?}");
        let expected = Manifest::of_tree(&self.tree());
        let facts = |entry: &Entry| {
            (entry.mode, entry.uid, entry.gid, entry.rdev.clone(), entry.digest.clone())
        };
        for (path, expected) in &expected.0 {
            let name = path.escape_ascii();
            assert_eq!(facts(&found.0[path]), facts(expected), "{feature}: {name}");
        }
        // And the directory that mke2fs adds.
        assert_eq!(found.0.len(), expected.0.len() + 1, "{feature}");
    }
}

#[test]
fn files_of_the_file_systems_own_do_not_show() {
    if !can_run("files_of_the_file_systems_own_do_not_show", NEEDS) {
        return;
    }
    for (options, feature) in [
        ("quota", "quota"),
        ("quota,project", "project"),
        ("orphan_file", "orphan_file"),
        ("stable_inodes", "stable_inodes"),
    ] {
        Made::new(&["-I", "256", "-O", options]).assert_reads(feature);
    }
}

#[test]
fn blocks_that_files_share() {
    if !can_run("blocks_that_files_share", NEEDS) {
        return;
    }
    let made = Made::new(&[]);
    fs::write(made.tree().join("one"), [1; 3000]).unwrap();
    fs::write(made.tree().join("other"), [1; 3000]).unwrap();
    for name in ["one", "other"] {
        made.set(&format!("write {} {name}", made.tree().join(name).display()));
    }
    // One extent each: the second one's now names the first one's blocks.
    let image = made.image();
    let bmap = |name: &str| {
        let request = format!("bmap {name} 0");
        let told = run("debugfs", &["-R", &request, image.to_str().unwrap()]);
        String::from_utf8(told).unwrap().trim().parse::<u64>().unwrap()
    };
    made.set(&format!("sif other block[5] {}", bmap("one")));
    made.set("feature shared_blocks");
    assert_eq!(bmap("one"), bmap("other"));
    made.assert_reads("shared_blocks");
}

#[test]
fn a_verity_file_ends_where_its_contents_end() {
    if !can_run("a_verity_file_ends_where_its_contents_end", NEEDS) {
        return;
    }
    let made = Made::new(&["-O", "verity"]);
    // As the kernel keeps them: behind the contents, from the next 64 KiB on, lie the hashes.
    let contents: Vec<u8> = (0..50_000_u32).map(|at| (at >> 3) as u8).collect();
    let mut whole = contents.clone();
    whole.resize(65_536, 0);
    whole.resize(80_000, b'#');
    fs::write(made.tree().join("sealed"), &whole).unwrap();
    made.set(&format!("write {} sealed", made.tree().join("sealed").display()));
    made.set("sif sealed size 50000");
    made.set("sif sealed flags 0x180000");
    fs::write(made.tree().join("sealed"), &contents).unwrap();
    made.assert_reads("verity");
    wait(async {
        let fs = open(&made.image(), 0, Options::default()).await.unwrap();
        let ino = fs.lookup(fs.root(), b"sealed").await.unwrap();
        let reader = Filesystem::open(&fs, ino).await.unwrap();
        assert_eq!(reader.read(0, 100_000).await.unwrap().into_bytes(), contents);
        assert!(reader.read(65_536, 10).await.unwrap().is_empty());
        assert_eq!(reader.data_range(0).await.unwrap(), Some(0..50_000));
        assert_eq!(reader.data_range(50_000).await.unwrap(), None);
    });
}

#[test]
fn a_large_directory_that_ignores_case_is_searched_by_its_index() {
    if !can_run("a_large_directory_that_ignores_case_is_searched_by_its_index", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    let name = |index: u32| format!("Größe-{index}-İ-ﬁ");
    fs::create_dir_all(tree.join("folded")).unwrap();
    for index in 0..1500 {
        fs::write(tree.join("folded").join(name(index)), b"").unwrap();
    }
    let (tree, file) = (tree.to_str().unwrap(), image.to_str().unwrap());
    let features = ["-O", "casefold", "-E", "encoding=utf8", "-b", "1024"];
    run(
        "mke2fs",
        &[&["-q", "-F", "-t", "ext4", "-d", tree], &features[..], &[file, "32M"]].concat(),
    );
    run("debugfs", &["-w", "-R", "sif /folded flags 0x40080000", file]);
    // It makes the index, by the hashes of the folded names.
    let _ = std::process::Command::new("e2fsck").args(["-fyD", file]).output().unwrap();
    wait(async {
        let fs = open(&image, 0, Options::default()).await.unwrap();
        let folded = fs.lookup(fs.root(), b"folded").await.unwrap();
        for index in 0..1500 {
            let ino = fs.lookup(folded, name(index).as_bytes()).await.unwrap();
            let other = format!("GRÖSSE-{index}-i\u{307}-FI");
            assert_eq!(fs.lookup(folded, other.as_bytes()).await.unwrap(), ino, "{other}");
        }
        assert!(fs.lookup(folded, "größe-1500-i-fi".as_bytes()).await.is_err());
    });
}
