//! mount(8), umount(8) and fstab.

use std::path::Path;
use std::process::Output;

use crate::common::{Need, Snapbrowse, TgtTarget, Tgtd, can_run, crashed_disk};
use crate::room::{self, Room, sessions, wait_until};

fn can_mount(test: &str) -> bool {
    can_run(test, &[room::NEEDS, &[Need::Program("mount.fuse3")]].concat())
}

/// A target with the crashed disk.
struct San {
    tgtd: Tgtd,
    target: TgtTarget,
    _disk: tempfile::TempDir,
}

impl San {
    fn new() -> Self {
        let disk = crashed_disk();
        let mut tgtd = Tgtd::start();
        let target = tgtd.add_target("srv1");
        tgtd.add_lun(&target, 1, &disk.path().join("dirty-ext3.img"));
        Self { tgtd, target, _disk: disk }
    }

    fn url(&self) -> String {
        format!("iscsi://{}/{}", self.tgtd.address(), self.target.iqn)
    }
}

fn run(room: &Room, user: &Snapbrowse, line: &[&str]) -> Output {
    room.command(user, line[0]).args(&line[1..]).output().unwrap()
}

/// Mounts with this command, reads, unmounts with umount(8) and waits for the logout.
fn mounts_and_unmounts(room: &Room, san: &San, user: &Snapbrowse, mount: &[&str]) {
    let dir = room.at();
    let mounted = run(room, user, mount);
    assert!(mounted.status.success(), "{mount:?}: {mounted:?}");
    let read = run(room, user, &["cat", dir.join("etc/hostname").to_str().unwrap()]);
    assert_eq!(read.stdout, b"srv1\n", "{mount:?}: {read:?}");
    let table = run(room, user, &["findmnt", "-n", "-o", "FSTYPE,OPTIONS", dir.to_str().unwrap()]);
    let table = String::from_utf8(table.stdout).unwrap();
    for word in ["fuse.snapbrowse", "ro,", "nosuid", "nodev"] {
        assert!(table.contains(word), "{mount:?}: {table}");
    }
    assert_eq!(sessions(&san.tgtd, &san.target), 1);
    let unmounted = run(room, user, &["umount", dir.to_str().unwrap()]);
    assert!(unmounted.status.success(), "{unmounted:?}");
    wait_until("logout", || sessions(&san.tgtd, &san.target) == 0);
}

#[test]
fn mount_finds_the_helper_in_sbin() {
    if !can_mount("mount_finds_the_helper_in_sbin") {
        return;
    }
    let (san, user) = (San::new(), Snapbrowse::new());
    for (kind, link) in
        [("snapbrowse", "mount.snapbrowse"), ("fuse.snapbrowse", "mount.fuse.snapbrowse")]
    {
        let room = Room::new(&[(&user.program(), &format!("/sbin/{link}"))]);
        let (url, at) = (san.url(), room.at());
        let line = ["mount", "-t", kind, &url, at.to_str().unwrap(), "-o", "ro"];
        mounts_and_unmounts(&room, &san, &user, &line);
    }
}

#[test]
fn mount_fuse3_finds_the_program_where_there_is_no_helper() {
    if !can_mount("mount_fuse3_finds_the_program_where_there_is_no_helper") {
        return;
    }
    let (san, user) = (San::new(), Snapbrowse::new());
    let room = Room::new(&[(&user.program(), "/usr/local/bin/snapbrowse")]);
    let (url, at) = (san.url(), room.at());
    let options = "ro,allow_other,_netdev,nofail,noexec";
    let line = ["mount", "-t", "fuse.snapbrowse", &url, at.to_str().unwrap(), "-o", options];
    mounts_and_unmounts(&room, &san, &user, &line);
}

#[test]
fn a_line_of_fstab_with_everything_that_stands_in_one_is_mounted_by_its_directory() {
    if !can_mount("a_line_of_fstab_with_everything_that_stands_in_one_is_mounted_by_its_directory")
    {
        return;
    }
    let (san, user) = (San::new(), Snapbrowse::new());
    let room = Room::new(&[(&user.program(), "/sbin/mount.fuse.snapbrowse")]);
    let fstab = room.path().join("fstab");
    let at = room.at();
    let words = "ro,_netdev,nofail,noauto,users,user=nobody,noexec,nosuid,nodev,exec,suid,dev,noatime,\
        x-systemd.automount,allow_other,volume=p1,timeout=10s,umask=022";
    let line = format!("{} {} fuse.snapbrowse {words} 0 0\n", san.url(), at.display());
    std::fs::write(&fstab, line).unwrap();
    let line = ["mount", "-T", fstab.to_str().unwrap(), at.to_str().unwrap()];
    mounts_and_unmounts(&room, &san, &user, &line);
}

#[test]
fn mount_for_writing_and_mounts_that_fail_say_why_to_user_and_log() {
    if !can_mount("mount_for_writing_and_mounts_that_fail_say_why_to_user_and_log") {
        return;
    }
    let (san, user) = (San::new(), Snapbrowse::new());
    let mut room = Room::new(&[(&user.program(), "/sbin/mount.fuse.snapbrowse")]);
    let gone = format!("iscsi://{}/iqn.2026-01.test.tgt:gone", san.tgtd.address());
    for (source, options, code, said) in [
        (&san.url(), "rw", 1, "snapshots are never written"),
        (&san.url(), "ro,colour=red", 1, "mount option colour"),
        (&san.url(), "ro,volume=p9", 32, "no volume p9"),
        (&gone, "ro", 32, "iqn.2026-01.test.tgt:gone"),
    ] {
        let at = room.at();
        let line = ["mount", "-t", "fuse.snapbrowse", source, at.to_str().unwrap(), "-o", options];
        let failed = run(&room, &user, &line);
        assert_eq!(failed.status.code(), Some(code), "{options}: {failed:?}");
        assert!(String::from_utf8_lossy(&failed.stderr).contains(said), "{options}: {failed:?}");
        room.hears(&["snapbrowse[", said]);
        assert!(!is_mounted(&room, &user, &at), "{options}");
    }
    wait_until("logout", || sessions(&san.tgtd, &san.target) == 0);
}

fn is_mounted(room: &Room, user: &Snapbrowse, dir: &Path) -> bool {
    run(room, user, &["mountpoint", "-q", dir.to_str().unwrap()]).status.success()
}
