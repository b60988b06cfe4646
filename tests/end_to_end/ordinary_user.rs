//! No root anywhere: tgtd aside, everything is done by an ordinary user.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::common::{Aspects, Manifest, Need, Snapbrowse, Tgtd, User, can_run, crashed_disk};

const NEEDS: &[Need] = &[Need::Fuse, Need::Program("fusermount3"), Need::Program("tgtd")];

/// Whoever runs the tests, or `nobody` where that is root.
fn ordinary_user() -> Snapbrowse {
    let root = rustix::process::geteuid().is_root();
    Snapbrowse::run_by(if root { User::Nobody } else { User::Caller })
}

#[test]
fn an_ordinary_user_mounts_and_restores() {
    if !can_run("an_ordinary_user_mounts_and_restores", NEEDS) {
        return;
    }
    let disk = crashed_disk();
    let expected = Manifest::parse(&fs::read(disk.path().join("dirty-ext3.manifest")).unwrap());
    let mut tgtd = Tgtd::start();
    let target = tgtd.add_target("ordinary");
    tgtd.add_lun(&target, 1, &disk.path().join("dirty-ext3.img"));
    let source = tgtd.url(&target, 1);
    let snapbrowse = ordinary_user();

    // Not even root may look into the mount, so the user's own programs do.
    let mount = snapbrowse.mount(&source);
    let inside = |path: &[u8]| mount.path().join(std::ffi::OsStr::from_bytes(&path[1..]));
    let (paths, digests): (Vec<PathBuf>, Vec<&str>) = expected
        .regular_files()
        .map(|(path, entry)| (inside(&path), entry.digest.as_str()))
        .unzip();
    // -z: names as they are, each line ended by NUL.
    let output = snapbrowse.command_of("sha256sum").arg("-z").args(&paths).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = output.stdout.split(|&byte| byte == 0).filter(|line| !line.is_empty());
    let found: Vec<_> =
        lines.map(|line| String::from_utf8_lossy(&line[..64]).into_owned()).collect();
    assert_eq!(found, digests);
    mount.unmount();

    let to = snapbrowse.home().join("restored");
    let made = snapbrowse.command_of("mkdir").arg(&to).status().unwrap();
    assert!(made.success());
    snapbrowse.run(["extract", "--quiet", &source, "/home", "--to", to.to_str().unwrap()]);
    let found = Manifest::of_tree(&to.join("home"));
    expected.below(b"./home").assert_same(&found, Aspects::RestoredByUser, "extract");
}
