//! Journals played back in memory, block by block against what e2fsck makes of a copy.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::{KernelMount, Need, can_run, copy_image, find_program, run};
use snapbrowse::block::ImageFile;
use snapbrowse::fs::ext::journal::{JournalReport, LogRun, Recovery, recover, recover_external};
use snapbrowse::{ErrorKind, Result};

/// An image whose journal is to be played back.
struct Dirty {
    dir: tempfile::TempDir,
    block_size: usize,
    /// Where the log lies in the image; nowhere if it is in the file `journal`.
    log: Vec<LogRun>,
}

/// The UUID of journals on a device of their own.
const JOURNAL_UUID: &str = "1db3f677-6832-4adb-bafc-8e4059c30a34";

impl Dirty {
    /// Takes over what `make` leaves at the path it is given.
    fn new(make: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        make(&path);
        let header = String::from_utf8(run("dumpe2fs", &["-h", path.to_str().unwrap()])).unwrap();
        let number = |name: &str| {
            let line = header.lines().find(|line| line.starts_with(name));
            line.unwrap_or_else(|| panic!("no {name}")).split_whitespace().last().unwrap()
        };
        let block_size = number("Block size:").parse().unwrap();
        let log = if dir.path().join("journal").exists() {
            Vec::new()
        } else {
            log_of(&path, number("Total journal blocks:").parse().unwrap())
        };
        Self { dir, block_size, log }
    }

    async fn recover(&self) -> Result<Recovery> {
        let source = Arc::new(ImageFile::open(self.path()).unwrap());
        let block_size = self.block_size as u32;
        if self.log.is_empty() {
            let uuid = *uuid::Uuid::parse_str(JOURNAL_UUID).unwrap().as_bytes();
            let device = Arc::new(ImageFile::open(self.dir.path().join("journal")).unwrap());
            return recover_external(source, device, uuid, block_size).await;
        }
        recover(source, self.log.clone(), block_size).await
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Plays the journal back in memory and on a copy, and compares every block of the device but those that e2fsck
    /// itself writes: the superblock and the log.
    fn assert_as_e2fsck(&self) -> JournalReport {
        let copy = self.dir.path().join("copy");
        copy_image(&self.path(), &copy);
        e2fsck(&copy, &self.dir.path().join("journal"));
        let expected = fs::read(&copy).unwrap();
        let before = fs::read(self.path()).unwrap();
        let (found, report) = wait(async {
            let recovery = self.recover().await.unwrap();
            let found = recovery.source.read_at(0, expected.len()).await.unwrap().into_bytes();
            (found, recovery.report)
        });
        let log: Vec<_> =
            self.log.iter().map(|run| run.fs_block..run.fs_block + u64::from(run.length)).collect();
        let mut played_back = 0;
        for block in 0..expected.len() / self.block_size {
            if log.iter().any(|run| run.contains(&(block as u64))) {
                continue;
            }
            let mut bytes = block * self.block_size..(block + 1) * self.block_size;
            if bytes.contains(&1024) {
                // What lies in front of the superblock; behind it in a larger block are zeros.
                bytes = bytes.start..1024;
            }
            assert!(found[bytes.clone()] == expected[bytes.clone()], "block {block}: {report:?}");
            played_back += u64::from(before[bytes.clone()] != expected[bytes]);
        }
        assert!(report.blocks >= played_back, "{played_back} blocks differ: {report:?}");
        assert!(before == fs::read(self.path()).unwrap(), "the image was written to");
        if report.blocks > 0 {
            assert!(played_back > 0, "nothing was played back, so nothing was tested: {report:?}");
        }
        report
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Where the journal inode's blocks lie, as debugfs maps them.
fn log_of(image: &Path, blocks: u32) -> Vec<LogRun> {
    let mut requests = tempfile::NamedTempFile::new().unwrap();
    let all = (0..blocks).fold(String::new(), |mut all, block| {
        writeln!(all, "bmap <8> {block}").unwrap();
        all
    });
    requests.write_all(all.as_bytes()).unwrap();
    let requests = requests.path().to_str().unwrap();
    let answer = run("debugfs", &["-f", requests, image.to_str().unwrap()]);
    let mut log: Vec<LogRun> = Vec::new();
    let answer = String::from_utf8(answer).unwrap();
    let places = answer.lines().filter_map(|line| line.trim().parse::<u64>().ok());
    for (log_block, fs_block) in (0..blocks).zip(places) {
        match log.last_mut() {
            Some(last) if last.fs_block + u64::from(last.length) == fs_block => last.length += 1,
            _ => log.push(LogRun { log_block, fs_block, length: 1 }),
        }
    }
    assert_eq!(log.iter().map(|run| run.length).sum::<u32>(), blocks);
    log
}

/// Recovers the journal and does nothing else; what it thinks of the file system does not matter.
fn e2fsck(image: &Path, journal: &Path) {
    let mut e2fsck = Command::new(find_program("e2fsck").unwrap());
    e2fsck.args(["-y", "-E", "journal_only"]);
    if journal.exists() {
        // Recovery writes there too.
        let copy = journal.with_extension("copy");
        copy_image(journal, &copy);
        e2fsck.arg("-j").arg(copy);
    }
    let output = e2fsck.arg(image).output().unwrap();
    let code = output.status.code().unwrap_or(8);
    assert!(code & !7 == 0, "e2fsck: {}", String::from_utf8_lossy(&output.stderr));
}

fn mke2fs(image: &Path, arguments: &[&str]) {
    let file = image.to_str().unwrap();
    run("truncate", &["-s", "64M", file]);
    run("mke2fs", &[&["-q", "-F"], arguments, &[file]].concat());
}

/// Ends a transaction as an application does it: `sync` would write in place as well.
fn commit(root: &Path, name: &str) {
    let dir = root.join(name);
    fs::create_dir(&dir).unwrap();
    let mut file = File::create(dir.join("new")).unwrap();
    file.write_all(name.as_bytes()).unwrap();
    file.sync_all().unwrap();
}

/// Creates, renames, truncates and removes, with a commit after each round.
fn work(root: &Path, rounds: usize) {
    for round in 0..rounds {
        let dir = root.join(format!("dir-{round}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..60 {
            let name = dir.join(format!("{}-{file}", "long-name".repeat(10)));
            fs::write(&name, vec![round as u8; file * 100]).unwrap();
            if file % 7 == 0 {
                fs::rename(&name, root.join(format!("moved-{round}-{file}"))).unwrap();
            } else if file % 5 == 0 {
                File::options().write(true).open(&name).unwrap().set_len(10).unwrap();
            }
        }
        if round >= 2 {
            // Directory blocks are metadata: their removal is what leaves revoke records.
            fs::remove_dir_all(root.join(format!("dir-{}", round - 2))).unwrap();
        }
        commit(root, &format!("commit-{round}"));
    }
    fs::write(root.join("not committed"), b"lost").unwrap();
}

fn crash(mke2fs_arguments: &[&str], mount: &str, rounds: usize) -> Dirty {
    Dirty::new(|image| {
        let mounted = image.with_extension("mounted");
        mke2fs(&mounted, mke2fs_arguments);
        let kernel = KernelMount::writable(&mounted, 0, mount);
        work(kernel.path(), rounds);
        copy_image(&mounted, image);
    })
}

const KERNEL: &[Need] =
    &[Need::Root, Need::Program("mke2fs"), Need::Program("debugfs"), Need::Program("e2fsck")];

fn assert_crash(test: &str, mke2fs_arguments: &[&str], mount: &str, rounds: usize) {
    if !can_run(test, KERNEL) {
        return;
    }
    let report = crash(mke2fs_arguments, mount, rounds).assert_as_e2fsck();
    assert!(report.dirty && report.replayed, "{report:?}");
    assert!(report.transactions > 0 && report.blocks > 0, "{report:?}");
    assert_eq!(report.warnings, [""; 0], "{report:?}");
}

#[test]
fn ext3_after_a_crash() {
    assert_crash("ext3_after_a_crash", &["-t", "ext3", "-J", "size=4"], "noatime", 6);
}

#[test]
fn ext3_with_small_blocks_after_a_crash() {
    let test = "ext3_with_small_blocks_after_a_crash";
    assert_crash(test, &["-t", "ext3", "-b", "1024", "-J", "size=2"], "noatime", 12);
}

#[test]
fn ext3_with_data_in_the_journal_after_a_crash() {
    let test = "ext3_with_data_in_the_journal_after_a_crash";
    assert_crash(test, &["-t", "ext3", "-b", "4096", "-J", "size=4"], "data=journal", 6);
}

#[test]
fn ext3_with_a_log_that_wrapped_after_a_crash() {
    let test = "ext3_with_a_log_that_wrapped_after_a_crash";
    assert_crash(test, &["-t", "ext3", "-b", "1024", "-J", "size=1"], "data=journal", 40);
}

#[test]
fn ext4_with_checksums_after_a_crash() {
    let test = "ext4_with_checksums_after_a_crash";
    let features = "64bit,metadata_csum";
    assert_crash(test, &["-t", "ext4", "-O", features, "-J", "size=4"], "noatime", 8);
}

#[test]
fn ext4_with_checksums_of_transactions_after_a_crash() {
    let test = "ext4_with_checksums_of_transactions_after_a_crash";
    let features = "^metadata_csum,^64bit";
    for mount in ["journal_checksum", "data=writeback,journal_async_commit"] {
        assert_crash(test, &["-t", "ext4", "-O", features, "-J", "size=4"], mount, 8);
    }
}

/// An image whose journal debugfs wrote, with random copies in every block that `requests` name.
fn crafted(mke2fs_arguments: &[&str], requests: &[&str]) -> Dirty {
    Dirty::new(|image| {
        mke2fs(image, mke2fs_arguments);
        let journal = image.with_file_name("journal");
        if requests[0].contains("JOURNAL") {
            mke2fs(&journal, &["-O", "journal_dev", "-b", "1024", "-U", JOURNAL_UUID]);
        }
        let random = image.with_extension("random");
        let mut bytes = vec![0; 1 << 20];
        getrandom::fill(&mut bytes).unwrap();
        fs::write(&random, bytes).unwrap();
        let magic = image.with_extension("magic");
        fs::write(&magic, [&0xC03B_3998_u32.to_be_bytes()[..], &[7; 65532]].concat()).unwrap();
        let script = requests.join("\n").replace("RANDOM", random.to_str().unwrap());
        let script = script.replace("MAGIC", magic.to_str().unwrap());
        let script = script.replace("JOURNAL", journal.to_str().unwrap());
        let file = image.with_extension("requests");
        fs::write(&file, script).unwrap();
        run("debugfs", &["-w", "-f", file.to_str().unwrap(), image.to_str().unwrap()]);
    })
}

const DEBUGFS: &[Need] =
    &[Need::Program("mke2fs"), Need::Program("debugfs"), Need::Program("e2fsck")];

/// Every kind of checksum that debugfs can write.
const OPEN: [&str; 3] = ["jo", "jo -c -v 2", "jo -c -v 3"];

#[test]
fn journals_made_by_debugfs() {
    if !can_run("journals_made_by_debugfs", DEBUGFS) {
        return;
    }
    for wide in ["64bit", "^64bit"] {
        for open in OPEN {
            let features = format!("{wide},metadata_csum,has_journal");
            let dirty = crafted(
                &["-t", "ext4", "-b", "1024", "-O", &features, "-J", "size=1"],
                &[
                    open,
                    "jw -b 333,40000-40450 RANDOM",
                    "jw -r 334,40001,40007",
                    "jw -b 40001,334 RANDOM",
                    "jw -b 40300-40310 MAGIC",
                    "jc",
                ],
            );
            let report = dirty.assert_as_e2fsck();
            assert_eq!((report.transactions, report.revokes), (4, 3), "{wide} {open}: {report:?}");
        }
    }
}

#[test]
fn journals_on_a_device_of_their_own() {
    if !can_run("journals_on_a_device_of_their_own", DEBUGFS) {
        return;
    }
    for open in OPEN {
        let attach = format!(
            "feature has_journal\nssv journal_dev 0x9999\nssv journal_uuid {JOURNAL_UUID}\n{open} -f JOURNAL"
        );
        let dirty = crafted(
            &["-t", "ext4", "-b", "1024", "-O", "metadata_csum,^has_journal"],
            &[&attach, "jw -b 333,40000-40450 RANDOM", "jw -r 334,40001,40007", "jc"],
        );
        let report = dirty.assert_as_e2fsck();
        assert_eq!((report.transactions, report.revokes), (2, 3), "{open}: {report:?}");
    }
}

#[test]
fn sequence_numbers_start_again_at_nothing() {
    if !can_run("sequence_numbers_start_again_at_nothing", DEBUGFS) {
        return;
    }
    let mke2fs_arguments = ["-t", "ext4", "-b", "1024", "-O", "^metadata_csum", "-J", "size=1"];
    let first: u32 = u32::MAX - 1;
    let dirty = Dirty::new(|image| {
        mke2fs(image, &mke2fs_arguments);
        let debugfs = |requests: &[&str]| {
            let file = image.with_extension("requests");
            fs::write(&file, requests.join("\n")).unwrap();
            run("debugfs", &["-w", "-f", file.to_str().unwrap(), image.to_str().unwrap()])
        };
        let told = String::from_utf8(debugfs(&["bmap <8> 0"])).unwrap();
        let superblock: u64 = told.lines().last().unwrap().trim().parse().unwrap();
        let device = File::options().write(true).open(image).unwrap();
        // s_sequence.
        device.write_all_at(&first.to_be_bytes(), superblock * 1024 + 0x18).unwrap();
        let random = image.with_extension("random");
        fs::write(&random, [7; 8 << 10]).unwrap();
        let write = |blocks: &str| format!("jw -b {blocks} {}", random.display());
        let writes = ["40000-40004", "40001,40010", "40003,40020-40022"].map(write);
        let [one, two, three] = writes.each_ref().map(String::as_str);
        debugfs(&["jo", one, "jw -r 40002", two, three, "jc"]);
    });
    let report = dirty.assert_as_e2fsck();
    assert_eq!((report.first_sequence, report.transactions), (first, 4), "{report:?}");
    assert_eq!(report.revokes, 1);
}

#[test]
fn damage_inside_a_log() {
    if !can_run("damage_inside_a_log", DEBUGFS) {
        return;
    }
    for open in &OPEN[1..] {
        // One byte of each block that debugfs writes below, and how many file-system blocks have copies then; none
        // where e2fsck plays nothing back and the kernel does not mount.
        let damaged = [
            ("descriptor", None),
            ("copy", Some(2)),
            ("copy", Some(2)),
            ("commit", Some(0)),
            ("revoke", None),
            ("commit", Some(2)),
            ("descriptor", None),
            ("copy", Some(2)),
            ("commit", Some(1)),
        ];
        for (block, (what, blocks)) in (1..).zip(damaged) {
            let dirty = crafted(
                &["-t", "ext4", "-b", "1024", "-O", "metadata_csum", "-J", "size=1"],
                &[open, "jw -b 333,40000 RANDOM", "jw -r 40000", "jw -b 40001 RANDOM", "jc"],
            );
            let path = dirty.path();
            let mut image = fs::read(&path).unwrap();
            // Behind its fields a commit block may hold anything, and e2fsck knows nothing of that yet.
            let at = if what == "commit" { 57 } else { 600 };
            image[(dirty.log[0].fs_block as usize + block) * 1024 + at] ^= 0x10;
            fs::write(&path, image).unwrap();
            let damage = format!("{open}, {what} in log block {block}");
            match blocks {
                Some(blocks) => {
                    let report = dirty.assert_as_e2fsck();
                    assert_eq!(report.blocks, blocks, "{damage}: {report:?}");
                }
                None => {
                    let error = wait(dirty.recover()).err().unwrap();
                    assert_eq!(error.kind(), ErrorKind::BadChecksum, "{damage}: {error}");
                }
            }
        }
    }
}
