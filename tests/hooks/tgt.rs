//! The example for tgt: snapshots that nobody has presented are listed, entered, and revoked when they are idle.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{Need, Snapbrowse, TgtTarget, Tgtd, can_run, crashed_disk, is_mount_point};
use crate::san::wait_until;

const NEEDS: &[Need] =
    &[Need::Fuse, Need::Program("fusermount3"), Need::Program("gzip"), Need::Program("tgtd")];

const PREFIX: &str = "iqn.2026-01.test.tgt:snap-";

/// A tgtd without targets, images that it could serve, and hooks that make it do so.
struct Storage {
    tgtd: Tgtd,
    images: tempfile::TempDir,
    snapbrowse: Snapbrowse,
}

impl Storage {
    fn new(names: &[&str]) -> Self {
        let images = crashed_disk();
        let image = images.path().join("dirty-ext3.img");
        for name in names {
            fs::copy(&image, images.path().join(format!("{name}.img"))).unwrap();
        }
        fs::remove_file(image).unwrap();
        let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/hooks/tgt");
        let argv = format!("['{}', '{}', '{PREFIX}']", hook.display(), images.path().display());
        let snapbrowse = Snapbrowse::new();
        snapbrowse.configure(&format!(
            "[hooks]\npresent = {argv}\nrevoke = {argv}\nlist = {argv}\ntargets = '{PREFIX}*'"
        ));
        Self { tgtd: Tgtd::start(), images, snapbrowse }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.snapbrowse.command(arguments);
        command.envs(self.tgtd.environment());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{arguments:?}: {said}");
        output
    }

    fn portal(&self) -> String {
        format!("iscsi://{}", self.tgtd.address())
    }

    /// The names behind the prefix of what tgtd presents now.
    fn presented(&self) -> Vec<String> {
        let shown = self.tgtd.admin(&["--op", "show", "--mode", "target"]);
        let names = shown.lines().filter_map(|line| line.strip_prefix("Target "));
        let names = names.filter_map(|line| line.split(PREFIX).nth(1));
        names.map(|name| name.trim().to_owned()).collect()
    }

    fn browse(&self, options: &[&str]) -> PathBuf {
        let dir = self.snapbrowse.new_directory();
        let portal = self.portal();
        self.run(&[&["browse"], options, &[&portal, dir.to_str().unwrap()]].concat());
        dir
    }
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("iqn."));
    names.sort();
    names
}

#[test]
fn a_snapshot_is_presented_browsed_and_revoked() {
    if !can_run("a_snapshot_is_presented_browsed_and_revoked", NEEDS) {
        return;
    }
    let mut storage = Storage::new(&["home-2026-11-20", "mail"]);
    // One that is there without hooks, and is none of theirs.
    let always: TgtTarget = storage.tgtd.add_target("always");
    let image = storage.images.path().join("mail.img");
    storage.tgtd.add_lun(&always, 1, &image);
    let dir = storage.browse(&["--idle", "300ms"]);
    let [home, mail] = ["home-2026-11-20", "mail"].map(|name| format!("{PREFIX}{name}"));
    assert_eq!(names(&dir), [always.iqn.as_str(), &home, &mail]);
    assert_eq!(storage.presented(), [""; 0], "a look is no reason");

    assert_eq!(fs::read(dir.join(&home).join("etc/hostname")).unwrap(), b"srv1\n");
    let by_date = dir.join("by-volume/snap-home/2026-11-20/etc/hostname");
    assert_eq!(fs::read(by_date).unwrap(), b"srv1\n");
    assert_eq!(fs::read(dir.join(&always.iqn).join("etc/hostname")).unwrap(), b"srv1\n");
    wait_until("home to be idle", || storage.presented().is_empty());
    // It stays in the list, and comes back by itself.
    assert_eq!(names(&dir), [always.iqn.as_str(), &home, &mail]);
    let open = fs::File::open(dir.join(&home).join("etc/fstab")).unwrap();
    assert_eq!(storage.presented(), ["home-2026-11-20"]);
    assert_eq!(fs::read(dir.join(&mail).join("etc/hostname")).unwrap(), b"srv1\n");
    wait_until("mail to be idle", || storage.presented() == ["home-2026-11-20"]);
    let shown = storage.tgtd.admin(&["--op", "show", "--mode", "target"]);
    assert!(shown.contains("snapbrowse:"), "only this initiator is let in: {shown}");
    drop(open);

    storage.run(&["umount", dir.to_str().unwrap()]);
    assert_eq!(storage.presented(), [""; 0]);
    assert!(!is_mount_point(&dir));
}

#[test]
fn one_command_presents_reads_and_revokes() {
    if !can_run("one_command_presents_reads_and_revokes", NEEDS) {
        return;
    }
    let storage = Storage::new(&["home"]);
    let url = format!("{}/{PREFIX}home/1", storage.portal());
    let output = storage.run(&["cat", "--present", &url, "/etc/hostname"]);
    assert_eq!(output.stdout, b"srv1\n");
    assert_eq!(storage.presented(), [""; 0]);
    // Without being told to it does not.
    let output = storage.command(&["cat", &url, "/etc/hostname"]).output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    let absent = format!("{}/{PREFIX}gone/1", storage.portal());
    let output = storage.command(&["cat", "--present", &absent, "/x"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("gone.img: no such snapshot"), "{said}");
    // Everything that is presented, when the path is in none of them.
    let sources = ["versions", "--present", &url, "/etc/hostname"];
    assert!(String::from_utf8(storage.run(&sources).stdout).unwrap().contains("home"));
    assert_eq!(storage.presented(), [""; 0]);
}
