//! Who may look at what.

use std::fs;
use std::process::{Command, Output};

use crate::common::{Need, can_run, copy_image, run};
use crate::san::{NEEDS, San, Tree, configured, contents, wait_until};

const FILE: &str = "dir3/file39";

fn as_nobody(program: &str, path: &std::path::Path) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program]);
    command.arg(path).output().unwrap()
}

#[test]
fn a_root_directory_that_is_closed_to_others_is_so_before_the_login_too() {
    let needs = [NEEDS, &[Need::Root, Need::Program("debugfs"), Need::Program("setpriv")]].concat();
    if !can_run("a_root_directory_that_is_closed_to_others_is_so_before_the_login_too", &needs) {
        return;
    }
    let san = San::new();
    let closed = san.disks.image("closed");
    copy_image(&san.disks.image("ext4-1"), &closed);
    run("debugfs", &["-w", "-R", "set_inode_field / mode 040700", closed.to_str().unwrap()]);
    san.exchange("exchanged", "closed");
    let snapbrowse = configured(&san);
    let tree = Tree::mount(&snapbrowse, &["--idle", "200ms", "-o", "allow_other"]);
    let closed = tree.of("exchanged");
    // The files in it are open to everybody, as they are often where nobody gets to them.
    for (program, path) in [("cat", closed.join(FILE)), ("ls", closed.clone())] {
        for state in ["logged out", "logged in"] {
            let output = as_nobody(program, &path);
            assert!(!output.status.success(), "{program}, {state}: {output:?}");
            assert!(output.stdout.is_empty(), "{program}, {state}: {output:?}");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("Permission denied"), "{program}, {state}: {said}");
        }
        assert!(contents(&closed) == contents(&san.disks.source(1)));
        wait_until("logout", || san.all_sessions() == 0);
    }
    // One that is open is open at once.
    let expected = fs::read(san.disks.source(1).join(FILE)).unwrap();
    for place in ["clean", "divided/p1", "locked"] {
        let output = as_nobody("cat", &tree.of(place).join(FILE));
        assert!(output.stdout == expected, "{place}: {}", String::from_utf8_lossy(&output.stderr));
        wait_until("logout", || san.all_sessions() == 0);
        let output = as_nobody("ls", &tree.of(place));
        assert!(String::from_utf8_lossy(&output.stdout).contains("dir3"), "{place}: {output:?}");
    }
    tree.unmount();
}
