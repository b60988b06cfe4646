//! What the crate `ext4-view` does with images that this program must read: why the reader here is another one. When one of
//! these fails, a newer version has learnt it, and the README should say so.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Need, can_run, crashed_disk, run};
use ext4_view::{Ext4, Ext4Error};
use snapbrowse::block::ImageFile;
use snapbrowse::fs::ext::{Ext, Options};
use snapbrowse_images::engines::{Condition, Fault, compare};

const NEEDS: &[Need] = &[Need::Program("mke2fs"), Need::Program("debugfs")];

/// A new file system on 16 MiB of old data, holding `files`.
fn image(dir: &Path, mke2fs: &[&str], files: &Path) -> PathBuf {
    let image = dir.join("image");
    fs::write(&image, vec![b'Z'; 16 << 20]).unwrap();
    let (files, file) = (files.to_str().unwrap(), image.to_str().unwrap());
    run("mke2fs", &[&["-q", "-F", "-E", "nodiscard"], mke2fs, &["-d", files, file]].concat());
    image
}

fn load(image: &Path) -> Result<Ext4, Ext4Error> {
    Ext4::load(Box::new(fs::read(image).unwrap()))
}

#[test]
fn it_refuses_every_ext3_that_was_not_unmounted() {
    let disk = crashed_disk();
    let mut file = File::open(disk.path().join("dirty-ext3.img")).unwrap();
    file.seek(SeekFrom::Start(1 << 20)).unwrap();
    let mut partition = Vec::new();
    file.read_to_end(&mut partition).unwrap();
    let refusal = Ext4::load(Box::new(partition)).unwrap_err();
    assert!(refusal.to_string().contains("missing required journal features"), "{refusal}");
}

#[test]
fn it_refuses_many_features() {
    if !can_run("it_refuses_many_features", NEEDS) {
        return;
    }
    for feature in
        ["inline_data", "ea_inode", "meta_bg,^resize_inode", "mmp", "large_dir", "casefold"]
    {
        let dir = tempfile::tempdir().unwrap();
        let tree = tempfile::tempdir().unwrap();
        let image = image(dir.path(), &["-t", "ext4", "-O", feature], tree.path());
        let refusal = load(&image).expect_err(feature);
        assert!(refusal.to_string().contains("unsupported features"), "{feature}: {refusal}");
    }
}

/// Gives debugfs requests, in which DATA stands for a file that holds blocks of `D`.
fn debugfs(image: &Path, requests: &[&str]) {
    let (script, data) = (image.with_extension("requests"), image.with_extension("data"));
    fs::write(&data, vec![b'D'; 64 << 10]).unwrap();
    fs::write(&script, requests.join("\n").replace("DATA", data.to_str().unwrap())).unwrap();
    run("debugfs", &["-w", "-f", script.to_str().unwrap(), image.to_str().unwrap()]);
}

/// The number of a block of a file, counted on the device.
fn block_of(image: &Path, path: &str, block: u32) -> u64 {
    let request = format!("bmap {path} {block}");
    let answer = run("debugfs", &["-R", &request, image.to_str().unwrap()]);
    String::from_utf8(answer).unwrap().trim().parse().unwrap()
}

/// An ext4 of blocks of 1 KiB with a journal of 1024, and a file of two blocks of `F` whose first block is number `.1`.
fn with_file(dir: &Path) -> (PathBuf, u64) {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("file"), [b'F'; 2048]).unwrap();
    let image = image(dir, &["-t", "ext4", "-b", "1024", "-J", "size=1"], tree.path());
    let block = block_of(&image, "/file", 0);
    (image, block)
}

#[test]
fn it_refuses_journals_with_other_checksums_than_the_newest() {
    if !can_run("it_refuses_journals_with_other_checksums_than_the_newest", NEEDS) {
        return;
    }
    for (open, refused) in [("jo", true), ("jo -c -v 2", true), ("jo -c -v 3", false)] {
        let dir = tempfile::tempdir().unwrap();
        let (image, block) = with_file(dir.path());
        debugfs(&image, &[open, &format!("jw -b {block} DATA"), "jc"]);
        match load(&image) {
            Ok(ext4) => assert_eq!(ext4.read("/file").unwrap()[..1024], [b'D'; 1024], "{open}"),
            Err(refusal) => assert!(refused, "{open}: {refusal}"),
        }
    }
}

#[test]
fn it_plays_back_what_a_later_transaction_revoked() {
    if !can_run("it_plays_back_what_a_later_transaction_revoked", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, block) = with_file(dir.path());
    // Each is a transaction of its own.
    let requests = [&format!("jw -b {block} DATA"), &format!("jw -r {block}")];
    debugfs(&image, &["jo -c -v 3", requests[0], requests[1], "jc"]);
    let shown = load(&image).unwrap().read("/file").unwrap();
    assert_eq!(shown[..1024], [b'D'; 1024], "where e2fsck leaves the block alone");
}

#[test]
fn it_leaves_out_what_lies_behind_the_end_of_a_log_that_wraps() {
    if !can_run("it_leaves_out_what_lies_behind_the_end_of_a_log_that_wraps", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, block) = with_file(dir.path());
    let requests = [format!("jw -b {block} DATA"), format!("jw -b {} DATA", block + 1)];
    debugfs(&image, &["jo -c -v 3", &requests[0], &requests[1], "jc"]);
    // The log's two transactions of three blocks, so that the second one is the first after the end.
    let log = block_of(&image, "<8>", 0) * 1024;
    let file = File::options().read(true).write(true).open(&image).unwrap();
    let mut transactions = [0; 6 * 1024];
    file.read_exact_at(&mut transactions, log + 1024).unwrap();
    let (first, second) = transactions.split_at(3 * 1024);
    file.write_all_at(first, log + (1024 - 3) * 1024).unwrap();
    file.write_all_at(second, log + 1024).unwrap();
    let mut superblock = [0; 1024];
    file.read_exact_at(&mut superblock, log).unwrap();
    superblock[0x1C..0x20].copy_from_slice(&(1024_u32 - 3).to_be_bytes());
    superblock[0xFC..0x100].fill(0);
    let checksum = !crc32c::crc32c(&superblock);
    superblock[0xFC..0x100].copy_from_slice(&checksum.to_be_bytes());
    file.write_all_at(&superblock, log).unwrap();

    let shown = load(&image).unwrap().read("/file").unwrap();
    assert_eq!(shown, [[b'D'; 1024], [b'F'; 1024]].concat(), "where e2fsck plays both back");
    run("e2fsck", &["-y", "-E", "journal_only", image.to_str().unwrap()]);
    assert_eq!(load(&image).unwrap().read("/file").unwrap(), [b'D'; 2048]);
}

#[test]
fn it_fails_on_times_before_1970_and_after_2038() {
    if !can_run("it_fails_on_times_before_1970_and_after_2038", NEEDS) {
        return;
    }
    for (time, extra, sound) in
        [("1", "0", true), ("0xffffffff", "0", false), ("0x80000000", "1", false)]
    {
        let dir = tempfile::tempdir().unwrap();
        let (image, _) = with_file(dir.path());
        let requests =
            [format!("sif /file mtime @{time}"), format!("sif /file mtime_extra {extra}")];
        debugfs(&image, &[&requests[0], &requests[1]]);
        assert_eq!(load(&image).unwrap().metadata("/file").is_ok(), sound, "{time} {extra}");
    }
}

/// An image with an indexed directory of names that are not ASCII.
fn with_index(dir: &Path, flags: &str) -> (PathBuf, Vec<String>) {
    with_index_in(dir, flags, &["-t", "ext4", "-b", "1024"])
}

fn with_index_in(dir: &Path, flags: &str, mke2fs: &[&str]) -> (PathBuf, Vec<String>) {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("many")).unwrap();
    let names: Vec<_> = (0..300).map(|number| format!("n\u{e4}m\u{e9}-{number}")).collect();
    for name in &names {
        fs::write(tree.path().join("many").join(name), b"").unwrap();
    }
    let image = image(dir, mke2fs, tree.path());
    debugfs(&image, &[&format!("ssv flags {flags}")]);
    let _ = std::process::Command::new("e2fsck").arg("-fyD").arg(&image).output().unwrap();
    (image, names)
}

#[test]
fn it_does_not_find_names_by_hashes_of_unsigned_bytes() {
    if !can_run("it_does_not_find_names_by_hashes_of_unsigned_bytes", NEEDS) {
        return;
    }
    for (flags, all) in [("1", true), ("2", false)] {
        let dir = tempfile::tempdir().unwrap();
        let (image, names) = with_index(dir.path(), flags);
        let ext4 = load(&image).unwrap();
        let found = names.iter().filter(|name| ext4.metadata(&*format!("/many/{name}")).is_ok());
        assert_eq!(found.count() == names.len(), all, "flags {flags}");
    }
}

#[test]
fn it_panics_on_two_bytes_of_an_index() {
    if !can_run("it_panics_on_two_bytes_of_an_index", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, _) = with_index(dir.path(), "1");
    let root = block_of(&image, "/many", 0) * 1024;
    // How many entries it has.
    File::options().write(true).open(&image).unwrap().write_all_at(&[0xFF; 2], root + 34).unwrap();
    let ext4 = load(&image).unwrap();
    let list = std::panic::AssertUnwindSafe(|| ext4.read_dir("/many").map(Iterator::count));
    assert!(std::panic::catch_unwind(list).is_err());
}

#[test]
fn it_shows_what_was_deleted_where_an_extent_is_unwritten() {
    if !can_run("it_shows_what_was_deleted_where_an_extent_is_unwritten", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("reserved"), b"").unwrap();
    let image = image(dir.path(), &["-t", "ext4", "-b", "4096"], tree.path());
    for request in ["fallocate /reserved 0 0", "sif /reserved size 4096"] {
        run("debugfs", &["-w", "-R", request, image.to_str().unwrap()]);
    }
    let shown = load(&image).unwrap().read("/reserved").unwrap();
    assert_eq!(shown, vec![b'Z'; 4096], "old data, where the kernel shows zeros");
}

#[test]
fn it_fails_on_small_inodes_with_checksums() {
    if !can_run("it_fails_on_small_inodes_with_checksums", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = tempfile::tempdir().unwrap();
    let image = image(dir.path(), &["-t", "ext4", "-I", "128", "-O", "metadata_csum"], tree.path());
    let failure = load(&image).and_then(|ext4| ext4.read_dir("/").map(drop)).unwrap_err();
    assert!(failure.to_string().contains("inode 2 is truncated"), "{failure}");
}

#[test]
fn it_fails_on_a_hole_over_an_indirect_block() {
    if !can_run("it_fails_on_a_hole_over_an_indirect_block", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = tempfile::tempdir().unwrap();
    let sparse = File::create(tree.path().join("sparse")).unwrap();
    sparse.write_all_at(b"end", 600 << 10).unwrap();
    let image = image(dir.path(), &["-t", "ext2", "-b", "1024"], tree.path());
    let failure = load(&image).unwrap().read("/sparse").unwrap_err();
    assert!(matches!(failure, Ext4Error::Corrupt(_)), "{failure}");
}

/// What it does otherwise than our reader with an image.
fn faults(image: &Path, condition: Condition) -> Vec<Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let comparison = runtime.block_on(async {
        let native = Ext::open(Arc::new(ImageFile::open(image).unwrap()), Options::default());
        compare(Arc::new(native.await.unwrap()), condition).await.unwrap()
    });
    assert!(comparison.unexplained.is_empty(), "{:#?}", comparison.unexplained);
    comparison.faults.into_keys().collect()
}

/// Writes into an image.
fn write(image: &Path, offset: u64, bytes: &[u8]) {
    File::options().write(true).open(image).unwrap().write_all_at(bytes, offset).unwrap();
}

/// Where an inode lies in an image.
fn place_of(image: &Path, path: &str) -> u64 {
    let told = run("debugfs", &["-R", &format!("imap {path}"), image.to_str().unwrap()]);
    let told = String::from_utf8(told).unwrap();
    let (block, offset) = told.rsplit_once("block ").unwrap().1.split_once(", offset ").unwrap();
    let offset = u64::from_str_radix(offset.trim().trim_start_matches("0x"), 16).unwrap();
    block.parse::<u64>().unwrap() * 1024 + offset
}

/// Without checksums, so that a test can write into it.
const PLAIN: &[&str] = &["-t", "ext4", "-b", "1024", "-J", "size=1", "-O", "^metadata_csum,^64bit"];

/// Such a file system with two files and a link.
fn plain(dir: &Path) -> PathBuf {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("file"), [b'F'; 2048]).unwrap();
    fs::write(tree.path().join("fill"), [b'f'; 2048]).unwrap();
    std::os::unix::fs::symlink("file", tree.path().join("link")).unwrap();
    image(dir, PLAIN, tree.path())
}

#[test]
fn it_opens_no_file_system_without_file_types() {
    if !can_run("it_opens_no_file_system_without_file_types", NEEDS) {
        return;
    }
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let image = image(dir.path(), &["-t", "ext2", "-O", "^filetype"], tree.path());
    assert!(load(&image).unwrap_err().to_string().contains("missing required features"));
    assert_eq!(faults(&image, Condition::Clean), [Fault::NoFileTypes]);
}

#[test]
fn it_opens_nothing_for_one_bad_checksum() {
    if !can_run("it_opens_nothing_for_one_bad_checksum", NEEDS) {
        return;
    }
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let image = image(dir.path(), &["-t", "ext4", "-b", "1024"], tree.path());
    let sound = fs::read(&image).unwrap();
    // The count of free inodes in the descriptor of the second group, then the superblock's count of mounts.
    for (offset, fault) in
        [(2048 + 64 + 14, Fault::GroupChecksum), (1024 + 0x34, Fault::NoBackupSuperblock)]
    {
        write(&image, offset, &[0x55; 2]);
        assert!(matches!(load(&image), Err(Ext4Error::Corrupt(_))), "{fault}");
        assert_eq!(faults(&image, Condition::Damaged), [fault]);
        fs::write(&image, &sound).unwrap();
    }
}

/// `i_extra_isize` says which of the fields behind the first 128 bytes an inode has; what follows are its attributes.
#[test]
fn it_takes_for_times_what_lies_behind_the_fields_of_an_inode() {
    if !can_run("it_takes_for_times_what_lies_behind_the_fields_of_an_inode", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = plain(dir.path());
    let sound = fs::read(&image).unwrap();
    let inode = place_of(&image, "/file");
    // Only the checksum's upper half and the change's time are there.
    write(&image, inode + 0x80, &8_u16.to_le_bytes());
    for (extra, read) in [(1234 << 2, Some(1234)), (u32::MAX, None)] {
        write(&image, inode + 0x88, &extra.to_le_bytes());
        let shown = load(&image).unwrap().metadata("/file");
        assert_eq!(shown.ok().map(|shown| shown.modified().nanoseconds()), read);
        assert_eq!(faults(&image, Condition::Clean), [Fault::TimesPastFields]);
    }
    fs::write(&image, sound).unwrap();
    assert_eq!(faults(&image, Condition::Clean), []);
}

#[test]
fn it_follows_no_extents_deeper_than_five_levels() {
    if !can_run("it_follows_no_extents_deeper_than_five_levels", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = plain(dir.path());
    let (inode, data) = (place_of(&image, "/file"), block_of(&image, "/file", 0));
    let node = |depth: u16, room: u16, target: u64| {
        let mut node = Vec::new();
        [0xF30A, 1, room, depth, 0, 0].iter().for_each(|half| node.extend(half.to_le_bytes()));
        node.extend([0; 4]);
        let low = u32::try_from(target).unwrap().to_le_bytes();
        match depth {
            0 => node.extend([&[2, 0, 0, 0][..], &low].concat()),
            _ => node.extend([&low[..], &[0; 4]].concat()),
        }
        node
    };
    for (levels, known) in [(5, &[][..]), (6, &[Fault::DeepExtents])] {
        // The nodes fill the last blocks, which nobody uses.
        let place = |depth: u16| (16 << 10) - 1 - u64::from(depth);
        write(&image, place(0) * 1024, &node(0, 84, data));
        for depth in 1..levels {
            write(&image, place(depth) * 1024, &node(depth, 84, place(depth - 1)));
        }
        write(&image, inode + 0x28, &node(levels, 4, place(levels - 1)));
        assert_eq!(load(&image).unwrap().read("/file").is_ok(), levels == 5);
        assert_eq!(faults(&image, Condition::Clean), known);
    }
}

#[test]
fn it_lists_no_encrypted_directory() {
    let dir = tempfile::tempdir().unwrap();
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/encrypted.img.gz");
    let image = dir.path().join("image");
    fs::write(&image, run("gzip", &["-dc", packed.to_str().unwrap()])).unwrap();
    assert!(matches!(load(&image).unwrap().read_dir("/few"), Err(Ext4Error::Encrypted)));
    assert_eq!(faults(&image, Condition::Clean), [Fault::EncryptedDirectory]);
}

/// Written by what knows no types: zero stands for unknown.
#[test]
fn it_lists_no_directory_with_an_entry_without_a_type() {
    if !can_run("it_lists_no_directory_with_an_entry_without_a_type", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = plain(dir.path());
    let root = block_of(&image, "/", 0) * 1024;
    // That of the first entry, `.`.
    write(&image, root + 7, &[0]);
    let mut list = load(&image).unwrap().read_dir("/").unwrap();
    assert!(matches!(list.next(), Some(Err(Ext4Error::Corrupt(_)))));
    assert_eq!(faults(&image, Condition::Clean), [Fault::EntryWithoutType]);
}

#[test]
fn it_finds_no_names_by_the_legacy_hash() {
    if !can_run("it_finds_no_names_by_the_legacy_hash", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, names) = with_index(dir.path(), "1\nssv def_hash_version legacy");
    let found = load(&image).unwrap().metadata(&*format!("/many/{}", names[0]));
    assert!(matches!(found, Err(Ext4Error::Incompatible(_))), "{found:?}");
    assert_eq!(faults(&image, Condition::Clean), [Fault::LegacyHash]);
    let (image, _) = with_index(dir.path(), "2");
    assert_eq!(faults(&image, Condition::Clean), [Fault::UnsignedHash]);
}

#[test]
fn it_takes_no_link_with_a_long_component() {
    if !can_run("it_takes_no_link_with_a_long_component", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (len, known) in [(255, &[][..]), (256, &[Fault::LongComponent])] {
        let tree = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("t".repeat(len), tree.path().join("link")).unwrap();
        let image = image(dir.path(), &["-t", "ext4", "-b", "1024"], tree.path());
        assert_eq!(load(&image).unwrap().read_link("/link").is_ok(), len == 255);
        assert_eq!(faults(&image, Condition::Clean), known);
    }
}

/// The kernel takes the field for an upper half of the size of regular files only.
#[test]
fn it_takes_links_for_longer_than_they_can_be() {
    if !can_run("it_takes_links_for_longer_than_they_can_be", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = plain(dir.path());
    let link = place_of(&image, "/link");
    write(&image, link + 0x6C, &[1]);
    assert_eq!(load(&image).unwrap().symlink_metadata("/link").unwrap().len(), 4 + (1 << 32));
    assert_eq!(faults(&image, Condition::Damaged), [Fault::MeaninglessSize]);
}

#[test]
fn it_cannot_tell_apart_two_entries_of_one_name() {
    if !can_run("it_cannot_tell_apart_two_entries_of_one_name", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = plain(dir.path());
    let block = block_of(&image, "/", 0);
    let root = &fs::read(&image).unwrap()[block as usize * 1024..][..1024];
    let name = root.windows(4).position(|four| four == b"fill").unwrap();
    write(&image, block * 1024 + name as u64, b"file");
    assert_eq!(faults(&image, Condition::Damaged), [Fault::TwoEntriesOfOneName]);
}

/// Each makes of damage what it can, and ours names what it passes over. In a file system that e2fsck calls clean none of
/// these would do.
#[test]
fn it_stops_at_damage_or_does_not_see_it() {
    if !can_run("it_stops_at_damage_or_does_not_see_it", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let plain = plain(dir.path());
    let sound = fs::read(&plain).unwrap();
    let inode = place_of(&plain, "/file");
    let directory = block_of(&plain, "/", 0) * 1024;
    let indexes = tempfile::tempdir().unwrap();
    let (indexed, _) = with_index_in(indexes.path(), "1", PLAIN);
    let root = block_of(&indexed, "/many", 0) * 1024;
    let with_index = fs::read(&indexed).unwrap();
    let cases = [
        // Nothing is there any more that the name could stand for.
        (&plain, &sound, inode + 0x1A, [0; 2], Fault::SilentAboutDamage),
        // A name with a zero byte.
        (&plain, &sound, directory + 12 + 8, [0; 2], Fault::StopsAtDamage),
        // How many entries the index has.
        (&indexed, &with_index, root + 34, [0xFF; 2], Fault::DamagedIndex),
    ];
    for (image, sound, offset, bytes, fault) in cases {
        fs::write(image, sound).unwrap();
        write(image, offset, &bytes);
        assert_eq!(faults(image, Condition::Damaged), [fault], "at {offset}");
        let clean = std::panic::catch_unwind(|| faults(image, Condition::Clean));
        assert!(clean.is_err(), "{fault}: {clean:?}");
    }
}
