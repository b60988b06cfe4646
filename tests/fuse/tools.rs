//! What the usual tools print of a tree that uses all of what ext4 can hold.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};

use crate::common::{KernelMount, Limits, MadeImage, Need, Snapbrowse, can_run, copy_image, run};

/// What [`Limits`] know nothing of.
fn more(root: &Path) {
    let dir = root.join("more");
    fs::create_dir(&dir).unwrap();
    mknodat(CWD, dir.join("socket"), FileType::Socket, Mode::from(0o755), 0).unwrap();
    fs::create_dir(dir.join(OsStr::from_bytes(b"caf\xe9"))).unwrap();
    fs::write(dir.join(OsStr::from_bytes(b"caf\xe9/\xff\xfe")), b"").unwrap();
    symlink(OsStr::from_bytes(&[0xE9; 2000]), dir.join("far")).unwrap();
    let set = |name: &str, attribute: &str, value: &[u8]| {
        let path = dir.join(name);
        if !path.is_symlink() {
            fs::write(&path, b"").unwrap();
        }
        lsetxattr(&path, attribute, value, XattrFlags::empty()).unwrap();
    };
    // In the inode, in a block of their own, in an inode of their own.
    set("short", "user.short", b"7");
    set("long", "user.long", &[b'v'; 2000]);
    set("longest", "user.longest", &[b'v'; 20_000]);
    set("longest", "trusted.beside", b"in the inode");
    set("longest", "security.beside", b"\0in the inode\0");
    set("far", "trusted.of-a-link", &[b'v'; 3000]);
    // Not a program that runs with rights, but it has the form of one.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set("program", "security.capability", &capability);
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    for directory in ["team", "team/within"] {
        fs::create_dir(dir.join(directory)).unwrap();
        run("setfacl", &["-m", "u:1234:rwx,g:2345:r-x,m::rwx", &path(directory)]);
        run("setfacl", &["-d", "-m", "u:1234:rw,u:70000:-,g:2345:x,o::-", &path(directory)]);
    }
    // With what it inherits.
    fs::write(dir.join("team/within/file"), b"").unwrap();
    fs::hard_link(dir.join("team/within/file"), dir.join("team/again")).unwrap();
}

/// What a command prints in `dir`, cut behind each `end` and sorted: the two list directories in orders of their own.
fn printed(dir: &Path, command: &str, end: &str) -> Vec<String> {
    let output = Command::new("sh").args(["-c", command]).current_dir(dir).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{command}: {said}");
    let text = output.stdout.escape_ascii().to_string();
    let mut records: Vec<_> = text.split(end).map(str::to_owned).collect();
    records.sort();
    records
}

#[test]
fn the_usual_tools_print_what_they_print_of_the_kernels_mount() {
    let name = "the_usual_tools_print_what_they_print_of_the_kernels_mount";
    let needs = [Need::Root, Need::Fuse, Need::Program("getfacl"), Need::Program("getfattr")];
    if !can_run(name, &needs) {
        return;
    }
    let limits = Limits { largest: 1 << 33, entries: 300, long_times: true };
    let image =
        MadeImage::new("tools", "200M", &["-t", "ext4", "-b", "4096", "-O", "ea_inode"], limits);
    more(KernelMount::writable(&image.path(), 0, "noatime").path());
    let copy = image.dir.path().join("copy.img");
    copy_image(&image.path(), &copy);
    let kernel = KernelMount::replaying(&copy, 0);
    let snapbrowse = Snapbrowse::new();
    let mount = snapbrowse.mount(image.path().to_str().unwrap());
    let find = "find . -printf '%p %i %y %M %n %U %G %s %b %S %l %A@ %T@ %C@\\0'";
    let devices = "find . '(' -type b -o -type c ')' -exec stat -c '%n %F %t:%T' {} +";
    for (command, end, least) in [
        ("getfacl -R -P -n -p .", "\\n\\n", 400),
        ("getfattr -R -P -h -d -m - .", "\\n\\n", 10),
        ("getfattr -R -P -h -d -m - -e hex .", "\\n\\n", 10),
        (find, "\\x00", 400),
        (devices, "\\n", 3),
    ] {
        let expected = printed(kernel.path(), command, end);
        let found = printed(mount.path(), command, end);
        assert!(expected.len() >= least, "{command}: {} records", expected.len());
        for (expected, found) in expected.iter().zip(&found) {
            assert_eq!(found, expected, "{command}");
        }
        assert_eq!(found.len(), expected.len(), "{command}");
    }
    mount.unmount();
}
