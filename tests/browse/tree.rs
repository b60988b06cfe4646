//! What the tree shows, and what it costs the targets.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;

use crate::common::can_run;
use crate::san::{
    FIRST, NEEDS, SECOND, San, Tree, configured, contents, digests, text, wait_until,
};

#[test]
fn the_root_lists_every_target_of_both_portals_before_any_login() {
    if !can_run("the_root_lists_every_target_of_both_portals_before_any_login", NEEDS) {
        return;
    }
    let san = San::new();
    let snapbrowse = configured(&san);
    let tree = Tree::mount(&snapbrowse, &[]);
    // As `ls -l` does: a look at each, its ACL too.
    let listed = Command::new("ls").arg("-la").arg(tree.path()).output().unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let names: BTreeSet<String> = fs::read_dir(tree.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in FIRST.iter().chain(SECOND) {
        assert!(names.contains(&format!("iqn.2026-01.test.tgt:{name}")), "{name}: {names:?}");
        assert!(names.contains(*name), "{name}: {names:?}");
        assert!(fs::metadata(tree.of(name)).unwrap().is_dir());
    }
    let dated = fs::read_link(tree.path().join("by-volume/home/2026-11-20")).unwrap();
    assert_eq!(dated, Path::new("../../iqn.2026-01.test.tgt:home-2026-11-20"));
    assert_eq!(san.all_sessions(), 0);
    assert_eq!(tree.status("clean")["state"], "logged out");
    tree.unmount();
    assert_eq!(san.all_sessions(), 0);
}

#[test]
fn every_sort_of_target_shows_its_files_or_an_errno_that_fits() {
    if !can_run("every_sort_of_target_shows_its_files_or_an_errno_that_fits", NEEDS) {
        return;
    }
    let san = San::new();
    let snapbrowse = configured(&san);
    let tree = Tree::mount(&snapbrowse, &[]);
    let [first, second] = [1, 2].map(|seed| contents(&san.disks.source(seed)));
    assert!(first != second && first.lines().count() == 40);
    for (path, expected) in [
        ("clean", &first),
        ("locked", &first),
        ("divided/p1", &first),
        ("divided/p2", &second),
        ("two/lun1", &first),
        ("two/lun2", &second),
        ("exchanged", &second),
        ("home-2026-11-20", &first),
    ] {
        assert!(contents(&tree.of(path)) == *expected, "{path} differs");
    }
    assert_eq!(fs::read(tree.of("crashed/etc/hostname")).unwrap(), b"srv1\n");
    for volume in ["linear", "striped"] {
        let name = fs::read_to_string(tree.of(&format!("lvm/vg0/{volume}/name"))).unwrap();
        assert_eq!(name, format!("this is vg0/{volume}\n"));
    }
    let volumes = &tree.status("two")["volumes"];
    for (at, lun) in [(0, "lun1"), (1, "lun2")] {
        let summary = volumes[at]["summary"].as_str().unwrap();
        assert!(summary.contains(&format!("on {lun} of 8.0 MiB")), "{summary}");
    }
    for (name, errno, said) in [
        ("refused", Errno::ACCESS, "login"),
        ("empty", Errno::MEDIUMTYPE, "no disk"),
        ("blank", Errno::MEDIUMTYPE, "no readable file system"),
    ] {
        let listing = fs::read_dir(tree.of(name)).unwrap().collect::<io::Result<Vec<_>>>();
        let error = listing.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()), "{name}: {error}");
        let status = tree.status(name);
        let last = status["last_error"].as_str().unwrap();
        assert!(status["state"] == "failed" && last.contains(said), "{status}");
    }
    tree.unmount();
    assert_eq!(san.all_sessions(), 0);
}

#[test]
fn eight_processes_at_once_read_what_the_targets_hold_through_one_session_each() {
    if !can_run(
        "eight_processes_at_once_read_what_the_targets_hold_through_one_session_each",
        NEEDS,
    ) {
        return;
    }
    let san = San::new();
    let snapbrowse = configured(&san);
    let tree = Tree::mount(&snapbrowse, &[]);
    let [first, second] = [1, 2].map(|seed| contents(&san.disks.source(seed)));
    let places = ["clean", "divided/p2", "locked", "two/lun2", "home-2026-11-20", "exchanged"];
    let readers: Vec<_> = (0..8)
        .map(|reader| {
            let place = places[reader % places.len()];
            (place, digests(&tree.of(place)).spawn().unwrap())
        })
        .collect();
    for (place, reader) in readers {
        let output = reader.wait_with_output().unwrap();
        assert!(output.stderr.is_empty(), "{place}: {output:?}");
        let expected =
            if ["clean", "locked", "home-2026-11-20"].contains(&place) { &first } else { &second };
        assert!(text(&output) == *expected, "{place} differs");
    }
    for name in ["clean", "divided", "locked", "two", "home-2026-11-20", "exchanged"] {
        assert_eq!((san.sessions(name), tree.status(name)["logins"].as_u64()), (1, Some(1)));
    }
    assert_eq!(san.all_sessions(), 6);
    tree.unmount();
    assert_eq!(san.all_sessions(), 0);
}

#[test]
fn what_is_not_used_is_logged_out_and_comes_back() {
    if !can_run("what_is_not_used_is_logged_out_and_comes_back", NEEDS) {
        return;
    }
    let san = San::new();
    let snapbrowse = configured(&san);
    let tree = Tree::mount(&snapbrowse, &["--idle", "200ms"]);
    let expected = contents(&san.disks.source(1));
    let held = fs::File::open(tree.of("clean/dir3/file39")).unwrap();
    assert!(contents(&tree.of("locked")) == expected);
    wait_until("logout of the idle", || san.sessions("locked") == 0);
    assert_eq!(san.sessions("clean"), 1, "an open file keeps its target");
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut &held, &mut bytes).unwrap();
    assert!(bytes == fs::read(san.disks.source(1).join("dir3/file39")).unwrap());
    drop(held);
    wait_until("logout of all", || san.all_sessions() == 0);
    for round in 2..4 {
        assert!(contents(&tree.of("locked")) == expected);
        assert_eq!(tree.status("locked")["logins"], round);
        wait_until("logout of all", || san.all_sessions() == 0);
    }
    tree.unmount();
}

#[test]
fn no_more_targets_are_logged_in_than_may_be() {
    if !can_run("no_more_targets_are_logged_in_than_may_be", NEEDS) {
        return;
    }
    let san = San::new();
    let snapbrowse = configured(&san);
    let tree = Tree::mount(&snapbrowse, &["--max-sessions", "2"]);
    let names = ["clean", "crashed", "locked", "divided", "exchanged", "vanishing"];
    // As find over the root would do.
    for name in names {
        assert!(fs::read_dir(tree.of(name)).unwrap().count() > 0, "{name}");
        assert!(san.all_sessions() <= 2, "{name}");
    }
    // All at once: those who come too late wait for a moment.
    let list = |name| Command::new("ls").arg(tree.of(name)).stdout(Stdio::null()).spawn().unwrap();
    for mut process in names.map(list) {
        assert!(process.wait().unwrap().success());
    }
    assert!(san.all_sessions() <= 2);
    tree.unmount();
    assert_eq!(san.all_sessions(), 0);
}
