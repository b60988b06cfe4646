//! A journal on a device of its own has room for fast commits too.

use std::fs;
use std::path::Path;

use snapbrowse::ErrorKind;
use snapbrowse::fs::ext::Options;

use super::{Live, one_file, put, ready, sync, writer};
use crate::common::run;
use crate::walk::{open, open_with_journal, wait};

/// A device of an image, detached when dropped.
pub(super) struct LoopDevice(String);

impl LoopDevice {
    pub(super) fn attach(image: &Path) -> Self {
        let name = run("losetup", &["--find", "--show", image.to_str().unwrap()]);
        Self(String::from_utf8(name).unwrap().trim().to_owned())
    }

    pub(super) fn path(&self) -> &str {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        run("losetup", &["--detach", &self.0]);
    }
}

impl Live {
    /// With the journal on a device of its own.
    fn with_external_journal(prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("journal.img");
        journal_device(&journal);
        Self::in_directory(dir, Some(LoopDevice::attach(&journal)), &[], prepare)
    }
}

fn journal_device(image: &Path) {
    let image = image.to_str().unwrap();
    run("mke2fs", &["-q", "-F", "-O", "journal_dev", "-b", "1024", image, "8M"]);
}

#[test]
fn they_are_played_back_from_there() {
    if !ready("they_are_played_back_from_there") {
        return;
    }
    let live = Live::with_external_journal(one_file);
    for (name, len) in [("d/new", 5000), ("d/more", 70_000)] {
        put(&live.path().join(name), 2, len);
        sync(&live.path().join(name));
    }
    fs::rename(live.path().join("d/new"), live.path().join("d/renamed")).unwrap();
    writer(&live.path().join("d/old")).set_len(30_000).unwrap();
    for name in ["d/renamed", "d/old"] {
        sync(&live.path().join(name));
    }
    let crashed = live.crash();
    let (found, report) = crashed.read();
    assert!(report.transactions > 0 && report.fast_commits >= 3, "{report:?}");
    crashed.assert_as_it_was(&found);
    crashed.assert_as_free_as_it_was();
    crashed.assert_as_the_kernel(&found);
}

#[test]
fn without_the_right_device_nothing_is_read() {
    if !ready("without_the_right_device_nothing_is_read") {
        return;
    }
    let lives = [Live::with_external_journal(one_file), Live::new(&[], one_file)];
    let [crashed, inside] = lives.each_ref().map(Live::crash);
    let other = crashed.image.with_extension("other");
    journal_device(&other);
    wait(async {
        let error = open(&crashed.image, 0, Options::default()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.hint().unwrap().contains("--journal-device"), "{error}");
        for (image, journal, kind, said) in [
            (&crashed.image, &other, ErrorKind::InvalidInput, "this is journal "),
            (&crashed.image, &inside.image, ErrorKind::InvalidInput, "not an external journal"),
            (&inside.image, &other, ErrorKind::Usage, "inside the file system"),
        ] {
            let error = open_with_journal(image, journal).await.err().unwrap();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.message().contains(said), "{error}");
        }
    });
}
