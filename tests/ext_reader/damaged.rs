//! What is left of a damaged image is read, and what is lost is named.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use snapbrowse::ErrorKind;
use snapbrowse::fs::Filesystem;
use snapbrowse::fs::ext::{Ext, JournalMode, Options};

use crate::common::{Aspects, Need, can_run, run};
use crate::walk::{manifest, open, wait};

pub(crate) const NEEDS: &[Need] = &[Need::Program("mke2fs"), Need::Program("debugfs")];

/// An image of 64 MiB in blocks of 1 KiB with a tree in it, made without root.
pub(crate) struct Damaged {
    dir: tempfile::TempDir,
}

impl Damaged {
    pub(crate) fn new(mke2fs: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("many")).unwrap();
        for number in 0..2000 {
            fs::write(tree.join(format!("many/entry-{number:05}")), number.to_string()).unwrap();
        }
        fs::write(tree.join("large"), vec![7; 3 << 20]).unwrap();
        let damaged = Self { dir };
        let (tree, image) = (tree.to_str().unwrap(), damaged.image());
        let image = image.to_str().unwrap();
        let common = ["-q", "-F", "-b", "1024", "-d", tree];
        run("mke2fs", &[&common, mke2fs, &[image, "64M"]].concat());
        damaged
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    pub(crate) async fn open(&self) -> snapbrowse::Result<Ext> {
        open(&self.image(), 0, Options::default()).await
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(self.image()).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    /// What debugfs prints.
    pub(crate) fn debugfs(&self, request: &str) -> String {
        let out = run("debugfs", &["-R", request, self.image().to_str().unwrap()]);
        String::from_utf8(out).unwrap()
    }

    /// Lets debugfs change something.
    pub(crate) fn set(&self, request: &str) {
        run("debugfs", &["-w", "-R", request, self.image().to_str().unwrap()]);
    }

    /// Makes the superblock say that there are 2^31 blocks, and as many inodes as go with them.
    fn claim_2_tib(&self) {
        let mut per_group = [0; 4];
        File::open(self.image()).unwrap().read_exact_at(&mut per_group, 1024 + 0x28).unwrap();
        let inodes = (u32::from_le_bytes(per_group) << (31 - 13)).to_le_bytes();
        self.write(1024, &[inodes, (1_u32 << 31).to_le_bytes()].concat());
    }

    /// The number of a block of a file, counted on the device.
    pub(crate) fn block_of(&self, path: &str, block: u64) -> u64 {
        self.debugfs(&format!("bmap {path} {block}")).trim().parse().unwrap()
    }
}

const CHECKSUMS: &[&str] = &["-t", "ext4", "-O", "metadata_csum"];

/// The image with its first blocks damaged by `damage` must read as before.
fn reads_as_before(name: &str, mke2fs: &[&str], damage: fn(&Damaged)) {
    if !can_run(name, NEEDS) {
        return;
    }
    let image = Damaged::new(mke2fs);
    wait(async {
        let before = manifest(&image.open().await.unwrap()).await;
        damage(&image);
        let fs = image.open().await.unwrap();
        let after = manifest(&fs).await;
        before.assert_same(&after, Aspects::All, name);
    });
}

#[test]
fn a_superblock_with_a_wrong_checksum_is_replaced_by_a_backup() {
    reads_as_before(
        "a_superblock_with_a_wrong_checksum_is_replaced_by_a_backup",
        CHECKSUMS,
        |image| image.write(1024 + 0x78, &[0xFF]),
    );
}

#[test]
fn a_superblock_with_wrong_numbers_is_replaced_by_a_backup() {
    reads_as_before(
        "a_superblock_with_wrong_numbers_is_replaced_by_a_backup",
        &["-t", "ext2"],
        |image| image.write(1024 + 0x20, &[0; 8]),
    );
}

#[test]
fn destroyed_group_descriptors_are_replaced_by_backups() {
    reads_as_before("destroyed_group_descriptors_are_replaced_by_backups", CHECKSUMS, |image| {
        image.write(2048, &[0x55; 1024]);
    });
}

#[test]
fn without_a_primary_superblock_a_backup_is_used_only_where_asked_for() {
    if !can_run("without_a_primary_superblock_a_backup_is_used_only_where_asked_for", NEEDS) {
        return;
    }
    let image = Damaged::new(CHECKSUMS);
    wait(async {
        let before = manifest(&image.open().await.unwrap()).await;
        image.write(0, &[0; 16 << 10]);
        let error = image.open().await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NoFilesystem);
        assert!(error.hint().unwrap().contains("--sb 8193"), "{error}");
        let options = Options { superblock: Some(8193), ..Options::default() };
        let fs = open(&image.image(), 0, options).await.unwrap();
        before.assert_same(&manifest(&fs).await, Aspects::All, "by the backup");
        let options = Options { superblock: Some(8194), ..Options::default() };
        let error = open(&image.image(), 0, options).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NoFilesystem);
    });
}

/// All names that a listing gives, and the error at its end.
pub(crate) async fn list(fs: &Ext, path: &[u8]) -> (Vec<Vec<u8>>, Option<ErrorKind>) {
    let dir = fs.lookup(fs.root(), path).await.unwrap();
    let (mut names, mut cookie) = (Vec::new(), 0);
    loop {
        match fs.readdir(dir, cookie).await {
            Ok(batch) if batch.is_empty() => return (names, None),
            Ok(batch) => {
                cookie = batch.last().unwrap().cookie;
                names.extend(batch.into_iter().map(|entry| entry.name));
            }
            Err(error) => return (names, Some(error.kind())),
        }
    }
}

#[test]
fn a_damaged_directory_block_hides_only_its_own_entries() {
    if !can_run("a_damaged_directory_block_hides_only_its_own_entries", NEEDS) {
        return;
    }
    for (mke2fs, kind) in
        [(CHECKSUMS, ErrorKind::BadChecksum), (&["-t", "ext3"][..], ErrorKind::Corrupt)]
    {
        let image = Damaged::new(mke2fs);
        let block = image.block_of("/many", 5);
        wait(async {
            let (all, none) = list(&image.open().await.unwrap(), b"many").await;
            assert_eq!((all.len(), none), (2002, None));
            image.write(block * 1024 + 4, &[3, 0]);
            let fs = image.open().await.unwrap();
            let (rest, error) = list(&fs, b"many").await;
            assert_eq!(error, Some(kind));
            assert!(rest.len() > 1900 && rest.len() < 2002, "{} of {}", rest.len(), all.len());
            let many = fs.lookup(fs.root(), b"many").await.unwrap();
            for name in &all {
                let found = fs.lookup(many, name).await;
                match rest.contains(name) {
                    true => assert!(found.is_ok(), "{found:?}"),
                    false => assert_eq!(found.unwrap_err().kind(), kind),
                }
            }
        });
    }
}

#[test]
fn a_directory_longer_than_its_blocks_is_listed_to_their_end() {
    if !can_run("a_directory_longer_than_its_blocks_is_listed_to_their_end", NEEDS) {
        return;
    }
    let image = Damaged::new(&["-t", "ext2"]);
    wait(async {
        image.set("sif many size 60000000");
        let (names, error) = list(&image.open().await.unwrap(), b"many").await;
        assert_eq!((names.len(), error), (2002, Some(ErrorKind::Corrupt)));
        image.set("sif many size 0xfffff000");
        image.claim_2_tib();
        let (names, error) = list(&image.open().await.unwrap(), b"many").await;
        assert_eq!((names.len(), error), (0, Some(ErrorKind::Corrupt)));
    });
}

#[test]
fn holes_and_a_wrong_count_of_blocks_cut_no_listing() {
    if !can_run("holes_and_a_wrong_count_of_blocks_cut_no_listing", NEEDS) {
        return;
    }
    for mke2fs in [&["-t", "ext2"], CHECKSUMS] {
        let image = Damaged::new(mke2fs);
        wait(async {
            // As the kernel leaves directories that it made in the replay of fast commits.
            for blocks in ["0", "2", "100000"] {
                image.set(&format!("sif many blocks {blocks}"));
                let (names, error) = list(&image.open().await.unwrap(), b"many").await;
                assert_eq!((names.len(), error), (2002, None), "{blocks}");
            }
            let (all, _) = list(&image.open().await.unwrap(), b"many").await;
            image.set("punch many 3 5");
            let fs = image.open().await.unwrap();
            let (names, error) = list(&fs, b"many").await;
            assert!(names.len() > 1800 && names.len() < 2002, "{}", names.len());
            // The names in the hole are lost, and that is told.
            assert_eq!(error, Some(ErrorKind::Corrupt));
            let many = fs.lookup(fs.root(), b"many").await.unwrap();
            let lost = all.iter().find(|name| !names.contains(name)).unwrap();
            assert_eq!(fs.lookup(many, lost).await.unwrap_err().kind(), ErrorKind::Corrupt);
            assert!(fs.lookup(many, names.last().unwrap()).await.is_ok());
        });
    }
}

#[test]
fn a_directory_of_the_same_blocks_over_and_over_ends() {
    if !can_run("a_directory_of_the_same_blocks_over_and_over_ends", NEEDS) {
        return;
    }
    let image = Damaged::new(&["-t", "ext2"]);
    let first = image.block_of("/many", 0);
    let free: Vec<u64> = image
        .debugfs("ffb 2")
        .split_whitespace()
        .filter_map(|word| word.trim_end_matches(',').parse().ok())
        .collect();
    let [upper, lower] = free[..] else { panic!("{free:?}") };
    // All that its doubly indirect block leads to is its own first block: 65536 times 50 names.
    let pointers = |to: u64| (to as u32).to_le_bytes().repeat(256);
    image.write(upper * 1024, &pointers(lower));
    image.write(lower * 1024, &pointers(first));
    image.set(&format!("sif many block[DIND] {upper}"));
    image.set("sif many size 60000000");
    image.set("sif many blocks 4000000");
    wait(async {
        let fs = image.open().await.unwrap();
        let (names, error) = list(&fs, b"many").await;
        assert!((2002..2100).contains(&names.len()), "{} names", names.len());
        assert_eq!(error, Some(ErrorKind::Corrupt));
        let many = fs.lookup(fs.root(), b"many").await.unwrap();
        assert!(fs.lookup(many, b"entry-01999").await.is_ok());
        assert!(fs.lookup(many, b"nothing").await.is_err());
        // The same without a hole in front of it: a name may have stood behind what is looked at.
        image.set(&format!("sif many block[IND] {lower}"));
        let fs = image.open().await.unwrap();
        let behind = fs.lookup(many, b"entry-01999").await.unwrap_err();
        assert_eq!(behind.kind(), ErrorKind::Corrupt, "{behind}");
    });
}

#[test]
fn a_log_larger_than_the_device_is_not_mapped() {
    if !can_run("a_log_larger_than_the_device_is_not_mapped", NEEDS) {
        return;
    }
    let image = Damaged::new(&["-t", "ext4", "-O", "^metadata_csum,^64bit"]);
    image.set("sif <8> size 0x1ffffffc00");
    image.claim_2_tib();
    // No copy of the journal's place.
    image.write(1024 + 0xFD, &[0]);
    wait(async {
        let warnings = image.open().await.unwrap().summary().journal.warnings.clone();
        assert!(warnings.iter().any(|text| text.contains("a log of")), "{warnings:?}");
    });
}

#[test]
fn a_damaged_index_does_not_hinder() {
    if !can_run("a_damaged_index_does_not_hinder", NEEDS) {
        return;
    }
    let image = Damaged::new(&["-t", "ext4", "-O", "^metadata_csum"]);
    run("e2fsck", &["-fyD", image.image().to_str().unwrap()]);
    assert!(image.debugfs("htree_dump /many").contains("Root node dump"), "no index");
    let root = image.block_of("/many", 0);
    wait(async {
        let before = manifest(&image.open().await.unwrap()).await;
        // An unknown hash, and then a table of nonsense.
        for (offset, bytes) in [(28, &[77][..]), (32, &[0xFF; 300])] {
            image.write(root * 1024 + offset, bytes);
            let fs = image.open().await.unwrap();
            before.assert_same(&manifest(&fs).await, Aspects::All, "without the index");
        }
    });
}

/// Where names with one hash fill more than a leaf, the next leaf's hash has its lowest bit set.
#[test]
fn names_whose_hash_began_in_the_leaf_before_are_found() {
    let name = "names_whose_hash_began_in_the_leaf_before_are_found";
    if !can_run(name, NEEDS) {
        return;
    }
    let image = Damaged::new(&["-t", "ext4", "-O", "^metadata_csum"]);
    // Each leaf then begins with a name of exactly the hash that the index has for it.
    run("e2fsck", &["-fyD", image.image().to_str().unwrap()]);
    let root = image.block_of("/many", 0) * 1024;
    let file = File::open(image.image()).unwrap();
    let read = |at| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        byte[0]
    };
    let count = u64::from(read(root + 34));
    assert!(count > 40, "{count} leaves");
    for entry in 1..count {
        let at = root + 32 + entry * 8;
        assert_eq!(read(at) & 1, 0);
        image.write(at, &[read(at) | 1]);
    }
    wait(async {
        let fs = image.open().await.unwrap();
        let many = fs.lookup(fs.root(), b"many").await.unwrap();
        for name in list(&fs, b"many").await.0 {
            let found = fs.lookup(many, &name).await;
            assert!(found.is_ok(), "{}: {found:?}", name.escape_ascii());
        }
    });
}

#[test]
fn a_damaged_inode_is_named_and_its_neighbours_stay() {
    if !can_run("a_damaged_inode_is_named_and_its_neighbours_stay", NEEDS) {
        return;
    }
    let image = Damaged::new(CHECKSUMS);
    let place = image.debugfs("imap /many/entry-00777");
    // "Inode 791 is part of block group 0\n\tlocated at block 1234, offset 0x0600"
    let number = |after: &str| {
        let text = &place[place.find(after).unwrap() + after.len()..];
        let text: String = text.chars().take_while(char::is_ascii_hexdigit).collect();
        text
    };
    let block: u64 = number("at block ").parse().unwrap();
    let offset = u64::from_str_radix(&number("offset 0x"), 16).unwrap();
    image.write(block * 1024 + offset + 4, &[1, 2, 3]);
    wait(async {
        let fs = image.open().await.unwrap();
        let many = fs.lookup(fs.root(), b"many").await.unwrap();
        let ino = fs.lookup(many, b"entry-00777").await.unwrap();
        let error = fs.getattr(ino).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadChecksum);
        assert!(error.to_string().contains(&ino.to_string()), "{error}");
        let ino = fs.lookup(many, b"entry-00778").await.unwrap();
        fs.getattr(ino).await.unwrap();
    });
}

#[test]
fn a_size_that_no_map_can_hold_is_damage() {
    if !can_run("a_size_that_no_map_can_hold_is_damage", NEEDS) {
        return;
    }
    // Three levels of 256 pointers each; numbers of 32 bits.
    let indirect = (12 + 256 + 256 * 256 + 256 * 256 * 256) * 1024;
    let extents = ((1_u64 << 32) - 1) * 1024;
    for (mke2fs, most) in [(&["-t", "ext3"][..], indirect), (CHECKSUMS, extents)] {
        let image = Damaged::new(mke2fs);
        for (size, sound) in [(most, true), (most + 1, false), (1 << 63, false)] {
            image.set(&format!("set_inode_field /large size {size}"));
            wait(async {
                let fs = image.open().await.unwrap();
                let ino = fs.lookup(fs.root(), b"large").await.unwrap();
                let found = fs.getattr(ino).await;
                let found = found.map(|attr| attr.size).map_err(|error| error.kind());
                assert_eq!(found, if sound { Ok(size) } else { Err(ErrorKind::Corrupt) }, "{size}");
            });
        }
    }
}

#[test]
fn what_lies_past_the_end_of_a_cut_image_is_an_error() {
    if !can_run("what_lies_past_the_end_of_a_cut_image_is_an_error", NEEDS) {
        return;
    }
    let image = Damaged::new(CHECKSUMS);
    let last = image.block_of("/large", 3071);
    File::options().write(true).open(image.image()).unwrap().set_len(last * 1024).unwrap();
    wait(async {
        let fs = image.open().await.unwrap();
        assert!(fs.summary().warnings.iter().any(|w| w.contains("the device only")));
        let ino = fs.lookup(fs.root(), b"large").await.unwrap();
        let file = Filesystem::open(&fs, ino).await.unwrap();
        assert_eq!(file.read(0, 1000).await.unwrap().into_bytes(), vec![7; 1000]);
        let error = file.read(3071 << 10, 1024).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("past the end of the device"), "{error}");
    });
}

#[test]
fn without_a_journal_a_snapshot_of_what_was_in_use_is_warned_about() {
    if !can_run("without_a_journal_a_snapshot_of_what_was_in_use_is_warned_about", NEEDS) {
        return;
    }
    for (mke2fs, warned) in [
        (&["-t", "ext2"][..], true),
        (&["-t", "ext4", "-O", "^has_journal"], true),
        (&["-t", "ext3"], false),
    ] {
        let damaged = Damaged::new(mke2fs);
        let warnings = || wait(damaged.open()).unwrap().summary().warnings.clone();
        assert_eq!(warnings(), [""; 0]);
        // As the kernel does when it mounts without a journal.
        damaged.set("set_super_value state 0");
        let found = warnings();
        assert_eq!(found.len(), usize::from(warned), "{found:?}");
        assert!(found.iter().all(|warning| warning.contains("no journal")), "{found:?}");
    }
}

#[test]
fn a_volume_that_is_written_is_noticed() {
    if !can_run("a_volume_that_is_written_is_noticed", NEEDS) {
        return;
    }
    let image = Damaged::new(CHECKSUMS);
    wait(async {
        let fs = image.open().await.unwrap();
        fs.check_unchanged().await.unwrap();
        // The time of the last write in the superblock.
        image.write(1024 + 0x30, &[1]);
        let error = fs.check_unchanged().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BeingWritten);
    });
}

#[test]
fn a_journal_that_is_written_is_noticed_where_it_is_not_used_too() {
    if !can_run("a_journal_that_is_written_is_noticed_where_it_is_not_used_too", NEEDS) {
        return;
    }
    let image = Damaged::new(CHECKSUMS);
    let superblock = image.block_of("<8>", 0) * 1024;
    // The block where the log begins; its checksum is wrong from the first change on.
    for (journal, start) in
        [(JournalMode::Ignore, 1), (JournalMode::Ignore, 2), (JournalMode::Replay, 3)]
    {
        wait(async {
            let options = Options { journal, ..Options::default() };
            let fs = open(&image.image(), 0, options).await.unwrap();
            fs.check_unchanged().await.unwrap();
            image.write(superblock + 0x1C, &[0, 0, 0, start]);
            let error = fs.check_unchanged().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BeingWritten, "{journal:?}, {start}");
        });
    }
}

#[test]
fn a_journal_inode_that_is_damaged_is_replaced_by_the_superblocks_copy() {
    let name = "a_journal_inode_that_is_damaged_is_replaced_by_the_superblocks_copy";
    if !can_run(name, NEEDS) {
        return;
    }
    let image = Damaged::new(&["-t", "ext3", "-I", "256"]);
    let place = image.debugfs("imap <8>");
    let after = |key: &str| place[place.find(key).unwrap() + key.len()..].to_owned();
    let block: u64 = after("at block ").split(',').next().unwrap().parse().unwrap();
    let offset = u64::from_str_radix(after("offset 0x").trim(), 16).unwrap();
    wait(async {
        let before = manifest(&image.open().await.unwrap()).await;
        image.write(block * 1024 + offset, &[0; 256]);
        let fs = image.open().await.unwrap();
        assert!(fs.summary().journal.present);
        before.assert_same(&manifest(&fs).await, Aspects::All, name);
    });
}

#[test]
fn a_damaged_journal_that_is_needed_can_be_left_aside() {
    if !can_run("a_damaged_journal_that_is_needed_can_be_left_aside", NEEDS) {
        return;
    }
    let image = Damaged::new(CHECKSUMS);
    let before = wait(async { manifest(&image.open().await.unwrap()).await });
    image.set("feature needs_recovery");
    let superblock = image.block_of("<8>", 0) * 1024;
    // First its block size, then its magic too.
    for at in [0x0C, 0] {
        image.write(superblock + at, &[0x55; 4]);
        wait(async {
            let opened = async |journal| {
                open(&image.image(), 0, Options { journal, ..Options::default() }).await
            };
            for mode in [JournalMode::Replay, JournalMode::RequireClean] {
                let error = opened(mode).await.err().unwrap();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                assert!(error.message().contains("journal superblock"), "{error}");
                assert!(error.hint().unwrap().contains("--journal ignore"), "{error}");
            }
            let fs = opened(JournalMode::Ignore).await.unwrap();
            before.assert_same(&manifest(&fs).await, Aspects::All, "left aside");
            assert!(fs.summary().journal.warnings[0].contains("not played back"));
        });
    }
}

/// Nothing of its map is needed to read it, but where that is damaged its size hardly is right; the kernel refuses as well.
#[test]
fn an_empty_file_with_a_damaged_map_is_named() {
    if !can_run("an_empty_file_with_a_damaged_map_is_named", NEEDS) {
        return;
    }
    let image = Damaged::new(&["-t", "ext4", "-O", "^metadata_csum"]);
    for (request, sound) in [
        ("sif /large size 0", true),
        ("sif /large block[0] 0", false),
        ("sif /large size 1", false),
    ] {
        image.set(request);
        let result = wait(async {
            let fs = image.open().await.unwrap();
            let ino = fs.lookup(fs.root(), b"large").await.unwrap();
            Filesystem::open(&fs, ino).await?.read(0, 10).await
        });
        assert_eq!(
            result.as_ref().map_err(snapbrowse::Error::kind).err(),
            match sound {
                true => None,
                false => Some(ErrorKind::Corrupt),
            }
        );
    }
}

#[test]
fn where_data_lies_is_told_in_pieces_where_a_map_has_no_end() {
    if !can_run("where_data_lies_is_told_in_pieces_where_a_map_has_no_end", NEEDS) {
        return;
    }
    let image = Damaged::new(&["-t", "ext2"]);
    let first = image.block_of("/large", 0);
    let free = image.debugfs("ffb 3");
    let free = free.split_whitespace().filter_map(|word| word.trim_end_matches(',').parse().ok());
    let [top, upper, lower] = free.collect::<Vec<u64>>()[..] else { panic!("three free blocks") };
    let pointers = |to: u64| (to as u32).to_le_bytes().repeat(256);
    image.write(top * 1024, &pointers(upper));
    image.write(upper * 1024, &pointers(lower));
    image.set(&format!("sif large block[TIND] {top}"));
    image.set("sif large size 16000000000");
    let data_behind = |at: u64| {
        wait(async {
            let fs = image.open().await.unwrap();
            let large = fs.lookup(fs.root(), b"large").await.unwrap();
            fs.open(large).await.unwrap().data_range(at).await.unwrap().unwrap()
        })
    };
    // All 16 million blocks of it are the same one, in as many runs.
    image.write(lower * 1024, &pointers(first));
    let piece = data_behind(100 << 20);
    assert!(piece.start == 100 << 20 && piece.end < 200 << 20, "{piece:?}");
    // None of them is there.
    image.write(lower * 1024, &pointers(0));
    image.set("sif large size 17247252480");
    let block = data_behind(4 << 20);
    assert_eq!(block.end - block.start, 1024);
}
