//! The area of the log that fast commits are in: who is shown them, and damage.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use snapbrowse::ErrorKind;
use snapbrowse::fs::Filesystem as _;
use snapbrowse::fs::ext::Options;

use super::{Crashed, Live, assert_as_replayed, one_file, put, ready, sync};
use crate::common::{Manifest, run};
use crate::walk::{open, wait};

#[test]
fn fast_commits_are_not_shown_to_another_reader() {
    if !ready("fast_commits_are_not_shown_to_another_reader") {
        return;
    }
    let live = Live::new(&[], one_file);
    let recovered = |crashed: &Crashed| {
        wait(async {
            let fs = open(&crashed.image, 0, Options::default()).await.unwrap();
            fs.recovered().err().map(|error| error.kind())
        })
    };
    assert_eq!(recovered(&live.crash()), None);
    put(&live.path().join("d/new"), 2, 5000);
    sync(&live.path().join("d/new"));
    assert_eq!(recovered(&live.crash()), Some(ErrorKind::Unsupported));
}

#[test]
fn a_copy_in_the_log_that_is_damaged_is_a_failure_of_the_journal() {
    if !ready("a_copy_in_the_log_that_is_damaged_is_a_failure_of_the_journal") {
        return;
    }
    let live = Live::new(&[], one_file);
    let crashed = live.crash();
    let damage = || {
        wait(async {
            let fs = open(&crashed.image, 0, Options::default()).await.unwrap();
            fs.check_journal().await.unwrap()
        })
    };
    assert!(damage().is_empty());
    // Of a block that has several copies the last one counts: the one behind the last descriptor is among those.
    let bytes = fs::read(&crashed.image).unwrap();
    let descriptor = [0xC0, 0x3B, 0x39, 0x98, 0, 0, 0, 1];
    let starts = |block: &u32| {
        let at = usize::try_from(log_block(&crashed.image, *block)).unwrap();
        bytes[at..].starts_with(&descriptor)
    };
    let copy = (1..50).rfind(starts).unwrap() + 1;
    let at = log_block(&crashed.image, copy) + 1000;
    let image = OpenOptions::new().read(true).write(true).open(&crashed.image).unwrap();
    let mut byte = [0];
    image.read_exact_at(&mut byte, at).unwrap();
    image.write_all_at(&[byte[0] ^ 1], at).unwrap();
    let found = damage();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].kind(), ErrorKind::BadChecksum);
    assert!(found[0].message().contains(&format!("in log block {copy} ")), "{}", found[0]);
}

#[test]
fn a_torn_fast_commit_and_all_after_it_are_left_out() {
    let test = "a_torn_fast_commit_and_all_after_it_are_left_out";
    if !ready(test) {
        return;
    }
    let live = Live::new(&[], one_file);
    let mut states = vec![live.crash().live];
    for index in 0..3 {
        let file = live.path().join(format!("d/{index}"));
        put(&file, index, 3000);
        // The second commit of each finds nothing new but the time.
        sync(&file);
        states.push(live.crash().live);
    }
    let crashed = live.crash();
    let whole = crashed.read().1.fast_commits;
    assert!(whole >= 3, "{whole} fast commits");
    let area = fast_commit_area(&crashed.image);
    let image = OpenOptions::new().read(true).write(true).open(&crashed.image).unwrap();
    for torn in (0..whole).rev() {
        // Each of these takes one block.
        let at = area + u64::from(torn) * 1024 + 20;
        let mut byte = [0];
        image.read_exact_at(&mut byte, at).unwrap();
        image.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let (found, report) = crashed.read();
        assert_eq!(report.fast_commits, torn);
        assert!(report.warnings[0].contains("a fast commit after transaction"), "{report:?}");
        match (torn, crashed.witness()) {
            // The kernel does not mount then.
            (0, None) => {}
            (_, kernel) => assert_as_replayed(&kernel.unwrap(), &found, "torn"),
        }
        image.write_all_at(&byte, at).unwrap();
        if torn == 0 {
            let names = |manifest: &Manifest| manifest.0.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&found), names(&states[0]));
        }
    }
}

/// Where the fast-commit area begins in an image.
fn fast_commit_area(image: &Path) -> u64 {
    log_block(image, 8193)
}

/// Where a block of the log lies in an image.
fn log_block(image: &Path, block: u32) -> u64 {
    let request = format!("bmap <8> {block}");
    let told = run("debugfs", &["-R", &request, image.to_str().unwrap()]);
    String::from_utf8(told).unwrap().trim().parse::<u64>().unwrap() * 1024
}
