//! As mount(8), fstab and autofs call it, and the options that they hand on.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{Need, Snapbrowse, User, can_run, crashed_disk, is_mount_point, run};

const NEEDS: &[Need] = &[Need::Fuse, Need::Program("fusermount3"), Need::Program("gzip")];

/// Calls the program through a link of this name.
fn call(snapbrowse: &Snapbrowse, name: &str, arguments: &[&OsStr]) -> Output {
    let link = snapbrowse.home().join(name);
    if !link.is_symlink() {
        std::os::unix::fs::symlink(snapbrowse.program(), &link).unwrap();
    }
    let mut command: Command = snapbrowse.command_of(&link);
    command.args(arguments).output().unwrap()
}

#[test]
fn a_link_of_either_name_mounts_as_mount_expects() {
    if !can_run("a_link_of_either_name_mounts_as_mount_expects", NEEDS) {
        return;
    }
    let disk = crashed_disk();
    let image = disk.path().join("dirty-ext3.img");
    let snapbrowse = Snapbrowse::new();
    for name in ["mount.snapbrowse", "mount.fuse.snapbrowse"] {
        let dir = snapbrowse.new_directory();
        let options = "ro,_netdev,noatime,volume=p1";
        let mut arguments = vec![image.as_os_str(), dir.as_os_str()];
        arguments.extend(["-n", "-t", "fuse.snapbrowse", "-o", options].map(OsStr::new));
        let mounted = call(&snapbrowse, name, &arguments);
        assert!(mounted.status.success(), "{mounted:?}");
        assert_eq!(fs::read(dir.join("etc/hostname")).unwrap(), b"srv1\n");
        snapbrowse.run([OsStr::new("umount"), dir.as_os_str()]);
    }
}

#[test]
fn as_a_helper_it_ends_as_mount_documents() {
    if !can_run("as_a_helper_it_ends_as_mount_documents", NEEDS) {
        return;
    }
    let disk = crashed_disk();
    let image = disk.path().join("dirty-ext3.img");
    let snapbrowse = Snapbrowse::new();
    let dir = snapbrowse.new_directory();
    let call = |source: &Path, options: &[&str]| {
        let mut arguments = vec![source.as_os_str(), dir.as_os_str()];
        arguments.extend(options.iter().map(OsStr::new));
        call(&snapbrowse, "mount.snapbrowse", &arguments)
    };
    for (code, source, options, said) in [
        (32, Path::new("/no/such/image"), &["-o", "ro"][..], "/no/such/image"),
        (32, &image, &["-o", "volume=p9"], "p9"),
        (1, &image, &["-o", "rw"], "never written"),
        (1, &image, &["-o", "colour=red"], "colour"),
        (1, &image, &["-N", "/run/ns"], "namespace"),
        // Fake, not foreground.
        (0, &image, &["-f"], ""),
    ] {
        let output = call(source, options);
        assert_eq!(output.status.code(), Some(code), "{options:?}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{output:?}");
        assert!(!is_mount_point(&dir), "{options:?}");
    }
    let sloppy = call(&image, &["-s", "-o", "colour=red"]);
    assert!(sloppy.status.success(), "{sloppy:?}");
    assert!(is_mount_point(&dir));
    snapbrowse.run([OsStr::new("umount"), dir.as_os_str()]);
}

#[test]
fn owners_and_permissions_are_shown_as_asked() {
    if !can_run("owners_and_permissions_are_shown_as_asked", NEEDS) {
        return;
    }
    let disk = crashed_disk();
    let image = disk.path().join("dirty-ext3.img");
    let snapbrowse = Snapbrowse::new();
    let options = ["--uid", "1234", "--umask", "077", "-o", "gid=99"];
    let mount = snapbrowse.mount_with(&options, image.to_str().unwrap());
    let stat = fs::metadata(mount.path().join("etc/hostname")).unwrap();
    assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o077), (1234, 99, 0));
    // Also where the kernel learned it from a listing.
    for entry in fs::read_dir(mount.path().join("etc")).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().uid(), 1234);
    }
    mount.unmount();
}

#[test]
fn with_strict_permissions_the_modes_apply_to_the_one_who_mounts() {
    let needs = [NEEDS, &[Need::Root]].concat();
    if !can_run("with_strict_permissions_the_modes_apply_to_the_one_who_mounts", &needs) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("secret"), b"root's").unwrap();
    run("chmod", &["600", tree.join("secret").to_str().unwrap()]);
    let image = dir.path().join("image");
    let (tree, file) = (tree.to_str().unwrap(), image.to_str().unwrap());
    run("mke2fs", &["-q", "-t", "ext4", "-d", tree, file, "8M"]);
    run("chmod", &["711", dir.path().to_str().unwrap()]);
    let nobody = Snapbrowse::run_by(User::Nobody);
    for (options, readable) in [
        (&[][..], true),
        (&["--strict-permissions"], false),
        (&["-o", "default_permissions"], false),
    ] {
        let mount = nobody.mount_with(options, file);
        let read = nobody.command_of("cat").arg(mount.path().join("secret")).output().unwrap();
        assert_eq!(read.status.success(), readable, "{options:?}: {read:?}");
        mount.unmount();
    }
}
