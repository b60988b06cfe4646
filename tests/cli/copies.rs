//! `cat`, `extract` and `tar`: what comes out is what was there.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Aspects, Manifest, Need, can_run, run};
use crate::image::{Image, NEEDS};

#[test]
fn cat_joins_files() {
    if !can_run("cat_joins_files", NEEDS) {
        return;
    }
    let image = Image::new();
    let source = image.source();
    assert_eq!(image.prints(&["cat", &source, "/etc/foo", "way/link"]), "foo\nfoo\n");
    for path in ["large", "holes"] {
        assert_eq!(
            image.snapbrowse.run(["cat", &source, path]),
            fs::read(image.tree().join(path)).unwrap()
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    if !can_run("a_reader_that_goes_away_is_no_failure", NEEDS) {
        return;
    }
    let image = Image::new();
    let source = image.source();
    let commands: [&[&str]; 3] =
        [&["cat", &source, "/large", "/large"], &["tar", &source, "/"], &["find", &source, "/"]];
    for arguments in commands {
        let mut child = image
            .snapbrowse
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 1];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn extract_restores_what_mke2fs_was_given() {
    if !can_run("extract_restores_what_mke2fs_was_given", NEEDS) {
        return;
    }
    let image = Image::new();
    let to = image.path("to");
    let said = image.prints(&["extract", &image.source(), "/", "--to", to.to_str().unwrap()]);
    assert!(said.starts_with("restored ") && said.lines().count() == 1, "{said}");
    fs::remove_dir(to.join("lost+found")).unwrap();
    // mke2fs keeps no fractions of seconds, so the times are compared elsewhere, with the kernel's.
    let (mut expected, mut found) = (Manifest::of_tree(&image.tree()), Manifest::of_tree(&to));
    for manifest in [&mut expected, &mut found] {
        for entry in manifest.0.values_mut() {
            entry.atime.clear();
            entry.mtime.truncate(10);
        }
        let root = manifest.0.get_mut(b".".as_slice()).unwrap();
        root.mtime.clear();
        root.mode = 0;
    }
    expected.assert_same(&found, Aspects::RestoredByUser, "extract");
    let inode = |path: &str| fs::metadata(to.join(path)).unwrap().ino();
    assert_eq!(inode("etc/foo"), inode("etc/same"));
    assert!(fs::metadata(to.join("holes")).unwrap().blocks() * 512 <= 64 << 10);
}

#[test]
fn extract_in_json_and_in_silence() {
    if !can_run("extract_in_json_and_in_silence", NEEDS) {
        return;
    }
    let image = Image::new();
    let source = image.source();
    let to = image.path("to");
    let to = to.to_str().unwrap();
    let summary = image.json(&["extract", &source, "/etc/foo", "/etc/empty", "--to", to]);
    assert_eq!((&summary["files"], &summary["directories"]), (&1.into(), &1.into()));
    assert_eq!((&summary["bytes"], &summary["failed"]), (&4.into(), &0.into()));
    assert_eq!(image.prints(&["extract", "-q", &source, "/large", "--to", to]), "");
}

#[test]
fn the_other_engine_says_what_it_leaves_out() {
    let test = "the_other_engine_says_what_it_leaves_out";
    if !can_run(test, NEEDS) || !can_run(test, &[Need::Program("debugfs")]) {
        return;
    }
    let image = Image::new();
    let source = image.source();
    run("debugfs", &["-w", "-R", "mknod null c 1 3", &source]);
    let to = image.path("to");
    let arguments = ["--engine=ext4-view", "extract", &source, "/null", "/etc", "--to"];
    let output = image.snapbrowse.output(arguments.iter().copied().chain(to.to_str()));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("null: ext4-view does not tell the number of a device"), "{said}");
    assert_eq!(said.matches("warning: ext4-view does not tell of hard links").count(), 1, "{said}");
    assert_eq!(fs::read(to.join("etc/same")).unwrap(), b"foo\n");
    assert!(!to.join("null").exists());

    let mount = to.to_str().unwrap();
    let refused: [&[&str]; 5] = [
        &["stat", &source, "/"],
        &["find", &source],
        &["tar", &source, "/"],
        &["verify", &source],
        &["mount", "-f", &source, mount],
    ];
    for arguments in refused {
        let said = image.snapbrowse.fails(2, [&["--engine=ext4-view"], arguments].concat());
        assert!(said.contains("only ls, cat and extract"), "{arguments:?}: {said}");
    }
    assert!(image.prints(&["--engine=ext4-view", "ls", &source, "/etc"]).starts_with("empty\n"));
}

#[test]
fn a_full_destination_gets_what_fits_finished() {
    let test = "a_full_destination_gets_what_fits_finished";
    if !can_run(test, NEEDS) || !can_run(test, &[Need::Program("unshare")]) {
        return;
    }
    let image = Image::new();
    let tree = image.path("much");
    fs::create_dir_all(tree.join("d/small")).unwrap();
    fs::write(tree.join("d/small/one"), "1").unwrap();
    fs::hard_link(tree.join("d/small/one"), tree.join("d/small/two")).unwrap();
    // More than fits, in the directory that is read first.
    fs::write(tree.join("d/large"), vec![1; 4 << 20]).unwrap();
    fs::set_permissions(tree.join("d"), fs::Permissions::from_mode(0o751)).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::open(tree.join("d")).unwrap().set_modified(old).unwrap();
    image.make("much.img", &tree);
    let to = image.path("small");
    fs::create_dir(&to).unwrap();
    // A mount that nobody else sees, and that goes with the shell.
    let script = r#"
        mount -t tmpfs -o size=1m none "$3" || exit 99
        "$1" extract --json "$2" /d --to "$3"
        echo "exit $?"
        stat -c "%n %a %Y" "$3"/d
        ls "$3"/d
    "#;
    let mut shell = image.snapbrowse.command_of("unshare");
    shell.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    shell.arg(image.snapbrowse.program()).arg(image.path("much.img")).arg(&to);
    let output = shell.output().unwrap();
    let (said, complaint) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let full = "/d/large: cannot be put into the destination: No space left";
    assert!(complaint.contains(full), "{complaint}");
    // What there was of the large file is not counted.
    let bytes = said.lines().find(|line| line.contains("bytes")).unwrap();
    assert!(["0,", "1,"].iter().any(|end| bytes.ends_with(&format!(": {end}"))), "{said}");
    assert!(said.contains("\"directories\": ") && said.contains("exit 1\n"), "{said}{complaint}");
    assert!(said.contains("/d 751 1000000000\n"), "{said}{complaint}");
    assert!(!said.contains("snapbrowse-") && !said.contains("large"), "{said}");
}

#[test]
fn an_archive_holds_what_extract_restores() {
    let test = "an_archive_holds_what_extract_restores";
    if !can_run(test, NEEDS) || !can_run(test, &[Need::Program("tar")]) {
        return;
    }
    let image = Image::new();
    let source = image.source();
    let (extracted, unpacked) = (image.path("extracted"), image.path("unpacked"));
    image.prints(&["extract", &source, "/", "--to", extracted.to_str().unwrap()]);
    fs::create_dir(&unpacked).unwrap();
    let archive = image.snapbrowse.run(["tar", &source, "/"]);
    assert_eq!(archive.len() % 512, 0);
    assert!(archive.len() < 5 << 20, "the holes were written out");
    unpack(&archive, &unpacked);
    // GNU tar reads the times of access from an archive and restores them nowhere.
    let manifest = |tree: &Path| {
        let mut manifest = Manifest::of_tree(tree);
        manifest.0.values_mut().for_each(|entry| entry.atime.clear());
        manifest
    };
    let same = |a: &Path, b: &Path| {
        manifest(a).assert_same(&manifest(b), Aspects::RestoredByUser, "tar");
    };
    same(&extracted, &unpacked);
    let inode = |path: &str| fs::metadata(unpacked.join(path)).unwrap().ino();
    assert_eq!(inode("etc/foo"), inode("etc/same"));

    // A part of the tree has the name that extract gives it.
    fs::remove_dir_all(&unpacked).unwrap();
    fs::create_dir(&unpacked).unwrap();
    unpack(&image.snapbrowse.run(["tar", &source, "/etc/", "/large"]), &unpacked);
    same(&extracted.join("etc"), &unpacked.join("etc"));
    assert_eq!(
        fs::read(unpacked.join("large")).unwrap(),
        fs::read(image.tree().join("large")).unwrap()
    );
}

fn unpack(archive: &[u8], to: &Path) {
    let file = to.with_extension("tar");
    fs::write(&file, archive).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-xpf").arg(&file).arg("-C").arg(to);
    let output = tar.output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        output.stderr.escape_ascii()
    );
}

#[test]
fn a_signal_ends_a_command_that_waits_for_its_reader() {
    if !can_run("a_signal_ends_a_command_that_waits_for_its_reader", NEEDS) {
        return;
    }
    let image = Image::new();
    for number in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let mut child = image
            .snapbrowse
            .command(["cat", &image.source(), "/large", "/large", "/large", "/large"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 1];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, number).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
    }
}

#[test]
fn odd_names_are_escaped_in_messages() {
    if !can_run("odd_names_are_escaped_in_messages", NEEDS) {
        return;
    }
    let image = Image::new();
    let (source, to) = (image.source(), image.path("to"));
    let odd = std::ffi::OsStr::from_bytes(crate::image::ODD_NAME);
    let arguments = ["extract".as_ref(), source.as_ref(), odd, "--to".as_ref(), to.as_os_str()];
    image.snapbrowse.run(arguments);
    let said = image.snapbrowse.fails(1, arguments);
    assert!(said.contains("File exists") && said.contains("--overwrite"), "{said}");
    assert!(!said.contains('\x1b'), "{said}");
}
