//! Targets that come and go under a tree.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::common::{KernelMount, Need, can_run, copy_image};
use crate::san::{NEEDS, San, Tree, configured, contents, digests, text, wait_until};

const FILE: &str = "dir3/file39";

fn same(one: &Path, other: &Path) -> bool {
    fs::read(one).unwrap() == fs::read(other).unwrap()
}

#[test]
fn a_target_made_again_under_its_name_is_not_served_from_old_pages() {
    if !can_run("a_target_made_again_under_its_name_is_not_served_from_old_pages", NEEDS) {
        return;
    }
    let san = San::new();
    let snapbrowse = configured(&san);
    let tree = Tree::mount(&snapbrowse, &["--idle", "200ms"]);
    let [before, after] = [2, 3].map(|seed| contents(&san.disks.source(seed)));
    assert!(contents(&tree.of("exchanged")) == before);
    // Between two logins, while the kernel still has every page of the first.
    wait_until("logout", || san.sessions("exchanged") == 0);
    san.exchange("exchanged", "ext4-3");
    assert!(contents(&tree.of("exchanged")) == after, "old contents");
    wait_until("logout", || san.sessions("exchanged") == 0);
    tree.unmount();
    assert_eq!(san.all_sessions(), 0);
}

#[test]
fn a_later_snapshot_of_the_same_volume_is_not_served_from_old_pages() {
    let needs = [NEEDS, &[Need::Root]].concat();
    if !can_run("a_later_snapshot_of_the_same_volume_is_not_served_from_old_pages", &needs) {
        return;
    }
    let san = San::new();
    let volume = san.disks.image("volume");
    copy_image(&san.disks.image("ext4-2"), &volume);
    let kernel = KernelMount::writable(&volume, 0, "noatime");
    for (image, byte) in [("before", b'1'), ("after", b'2')] {
        let file = fs::File::options().write(true).open(kernel.path().join(FILE)).unwrap();
        file.write_all_at(&[byte; 5000], 0).unwrap();
        file.sync_all().unwrap();
        copy_image(&volume, &san.disks.image(image));
    }
    drop(kernel);
    let [before, after] =
        ["before", "after"].map(|image| fs::read(san.disks.image(image)).unwrap());
    assert!(before[1024..2048] == after[1024..2048], "only the journal tells them apart");

    san.exchange("exchanged", "before");
    let snapbrowse = configured(&san);
    let tree = Tree::mount(&snapbrowse, &["--idle", "200ms"]);
    let begin = || fs::read(tree.of("exchanged").join(FILE)).unwrap()[..5000].to_vec();
    assert!(begin() == [b'1'; 5000]);
    wait_until("logout", || san.sessions("exchanged") == 0);
    san.exchange("exchanged", "after");
    assert!(begin() == [b'2'; 5000], "old contents");
    tree.unmount();
}

#[test]
fn a_target_exchanged_under_an_open_file_is_an_error_and_then_the_new_one() {
    if !can_run("a_target_exchanged_under_an_open_file_is_an_error_and_then_the_new_one", NEEDS) {
        return;
    }
    let san = San::new();
    let snapbrowse = configured(&san);
    let tree = Tree::mount(&snapbrowse, &["--idle", "200ms"]);
    let [before, after] = [2, 3].map(|seed| san.disks.source(seed));
    let held = fs::File::open(tree.of("exchanged").join(FILE)).unwrap();
    assert!(same(&tree.of("exchanged").join(FILE), &before.join(FILE)));
    san.exchange("exchanged", "ext4-3");
    // It may still tell what it read before, and then says that something is wrong; it never tells of the new one.
    let expected = fs::read(before.join(FILE)).unwrap();
    wait_until("the exchange is noticed", || {
        let mut bytes = vec![0; expected.len()];
        match held.read_exact_at(&mut bytes, 0) {
            Ok(()) => {
                assert!(bytes == expected, "the open file has other contents");
                // What is not in memory yet has to be asked for.
                fs::metadata(tree.of("exchanged/dir1")).is_err()
            }
            Err(error) => error.kind() != io::ErrorKind::UnexpectedEof,
        }
    });
    drop(held);
    wait_until("logout", || san.sessions("exchanged") == 0);
    assert!(contents(&tree.of("exchanged")) == contents(&after), "not the new contents");
    tree.unmount();
    assert_eq!(san.all_sessions(), 0);
}

#[test]
fn a_lun_that_vanishes_is_an_error_and_its_neighbours_stay() {
    if !can_run("a_lun_that_vanishes_is_an_error_and_its_neighbours_stay", NEEDS) {
        return;
    }
    let san = San::new();
    let snapbrowse = configured(&san);
    let tree = Tree::mount(&snapbrowse, &[]);
    assert!(fs::read_dir(tree.of("vanishing")).unwrap().count() > 0);
    let (tgtd, target) = san.target("vanishing");
    tgtd.delete_lun(target, 1);
    let output = digests(&tree.of("vanishing")).output().unwrap();
    assert!(text(&output).is_empty() && !output.stderr.is_empty(), "{output:?}");
    assert!(contents(&tree.of("clean")) == contents(&san.disks.source(1)));
    // Deleted altogether, it goes from the list.
    let tid = target.tid.to_string();
    tgtd.admin(&["--op", "delete", "--mode", "target", "--tid", &tid, "--force"]);
    tree.refresh();
    wait_until("it is gone", || !tree.of("vanishing").exists());
    assert!(!tree.path().join("vanishing").is_symlink());
    tree.unmount();
}

#[test]
fn a_new_target_appears_when_it_is_asked_for() {
    if !can_run("a_new_target_appears_when_it_is_asked_for", NEEDS) {
        return;
    }
    let mut san = San::new();
    let snapbrowse = configured(&san);
    let tree = Tree::mount(&snapbrowse, &[]);
    assert!(!tree.of("late").exists());
    let late = san.tgtds[0].add_target("late");
    san.tgtds[0].add_lun(&late, 1, &san.disks.image("ext4-3"));
    // Nobody has told the tree to look.
    wait_until("it is there", || tree.of("late").exists());
    assert!(contents(&tree.of("late")) == contents(&san.disks.source(3)));
    tree.unmount();
}

#[test]
fn a_portal_that_dies_takes_its_targets_only_and_they_come_back_with_it() {
    if !can_run("a_portal_that_dies_takes_its_targets_only_and_they_come_back_with_it", NEEDS) {
        return;
    }
    let mut san = San::new();
    let snapbrowse = configured(&san);
    let tree = Tree::mount(&snapbrowse, &["--idle", "500ms"]);
    let expected = contents(&san.disks.source(1));
    assert!(fs::read_dir(tree.of("home-2026-11-20/dir1")).unwrap().count() > 0);
    assert!(fs::read_dir(tree.of("clean")).unwrap().count() > 0);
    let late = san.tgtds[0].add_target("late");
    tree.refresh();
    wait_until("the new one is there", || tree.of("late").exists());
    san.stop_second();
    // What is read now needs the dead portal: an error within the bound, while the living one answers.
    let dead = digests(&tree.of("home-2026-11-20")).spawn().unwrap();
    assert!(contents(&tree.of("clean")) == expected);
    let output = dead.wait_with_output().unwrap();
    assert!(!output.stderr.is_empty(), "{output:?}");
    // No line for a file that could not be read, and none that is wrong.
    assert!(text(&output).lines().all(|line| expected.lines().any(|known| known == line)));
    // What the living one does not tell of any more goes all the same.
    let tid = late.tid.to_string();
    san.tgtds[0].admin(&["--op", "delete", "--mode", "target", "--tid", &tid]);
    tree.refresh();
    wait_until("it is gone", || !tree.of("late").exists());
    assert!(fs::read_dir(tree.path()).unwrap().count() > 12, "a dead portal takes no names away");
    san.start_second();
    wait_until("its targets are back", || {
        let output = digests(&tree.of("home-2026-11-20")).output().unwrap();
        output.stderr.is_empty() && text(&output) == expected
    });
    assert_eq!(san.sessions("home-2026-11-20"), 1);
    wait_until("logout of all", || san.all_sessions() == 0);
    tree.unmount();
}
