//! Exit codes, and what is said with them. What needs a target is tested with one elsewhere.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};

use crate::common::{Need, Snapbrowse, can_run, run};
use crate::image::{Image, NEEDS};

const DEBUGFS: Need = Need::Program("debugfs");
const SECRET: &str = "rather-secret-4711";

#[test]
fn each_failure_has_its_code_and_one_line() {
    if !can_run("each_failure_has_its_code_and_one_line", NEEDS) {
        return;
    }
    let image = Image::new();
    let source = image.source();
    let garbage = image.path("garbage");
    fs::write(&garbage, vec![0x5a; 1 << 20]).unwrap();
    let garbage = garbage.to_str().unwrap();
    let mountpoint = image.path("none");
    let mountpoint = mountpoint.to_str().unwrap();
    let lun = "iscsi://127.0.0.1:9/iqn.2026-01.test:t/0";
    let cases: [(i32, &[&str], &str); 16] = [
        (10, &["ls", "/no/such/image"], "/no/such/image"),
        (10, &["ls", "iscis://san/iqn.2026-01.test:t/0"], "written iscsi://HOST[:PORT]/TARGET/LUN"),
        (2, &["ls", "iscsi://127.0.0.1:9/iqn.2026-01.test:t/0/etc"], "an argument of its own"),
        (2, &["ls", lun, "--initiator=iqn.x:a b"], "no initiator's name: it has a ' '"),
        (2, &["ls", lun, "--initiator=host"], "those begin with iqn."),
        (1, &["mount", &source, mountpoint], "no such directory"),
        (2, &["mount", "--log=/no/such/log", &source, "/"], "there is no such directory"),
        (10, &["cat", &source, "/etc/nothing"], "/etc/nothing: no such file"),
        (10, &["stat", &source, "/etc/foo/bar"], "/etc/foo/bar: not a directory"),
        (10, &["ls", &source, "--volume", "p1"], "no volume p1; found whole"),
        (1, &["cat", &source, "/etc"], "/etc: is a directory"),
        (13, &["ls", garbage], "no ext2, ext3 or ext4 file system; found whole"),
        (2, &["cat", "iscsi://127.0.0.1", "/x"], "names a portal"),
        (2, &["discover", "iscsi://127.0.0.1/iqn.2026-01.test:t"], "a portal is needed"),
        (2, &["ls", "iscsi://127.0.0.1/iqn.2026-01.test:t/zero"], "zero"),
        (1, &["ls", "/"], "is a directory"),
    ];
    for (code, arguments, expected) in cases {
        let said = image.snapbrowse.fails(code, arguments);
        assert!(
            said.starts_with("snapbrowse: ") && said.contains(expected),
            "{arguments:?}: {said}"
        );
    }
}

#[test]
fn a_port_of_another_protocol_is_11_and_says_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            stream.unwrap().write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n").unwrap();
        }
    });
    let snapbrowse = Snapbrowse::new();
    let portal = format!("iscsi://127.0.0.1:{port}");
    let target = format!("{portal}/iqn.2026-01.test:t/1");
    let lines: [&[&str]; 2] = [&["discover", &portal], &["ls", &target]];
    for arguments in lines {
        let said = snapbrowse.fails(11, arguments);
        let expected = format!("127.0.0.1:{port} does not speak iSCSI: it answers \"SSH-2.0");
        assert!(said.contains(&expected), "{said}");
    }
}

#[test]
fn usage_errors_are_2_and_help_is_0() {
    let snapbrowse = Snapbrowse::new();
    for arguments in [
        &["frobnicate"][..],
        &["ls"],
        &["ls", "x", "--cache=lots"],
        &["extract", "x", "/"],
        &["./disk.img", "/etc/hostname"],
        &["browse", "--volume=p1", "127.0.0.1:9", "/mnt"],
        &[],
    ] {
        assert_eq!(snapbrowse.output(arguments).status.code(), Some(2), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["extract", "--help"], &["help", "ls"]] {
        let output = snapbrowse.output(arguments);
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{arguments:?}");
    }
    let help = snapbrowse.output(["extract", "--help"]).stdout;
    assert!(String::from_utf8(help).unwrap().contains("Examples:"));
}

#[test]
fn some_of_several_is_3() {
    if !can_run("some_of_several_is_3", NEEDS) {
        return;
    }
    let image = Image::new();
    let source = image.source();
    let to = image.path("to");
    let commands: [&[&str]; 4] = [
        &["cat", &source, "/etc/foo", "/none"],
        &["stat", &source, "/none", "/etc/foo"],
        &["extract", &source, "/none", "/etc", "--to", to.to_str().unwrap()],
        &["tar", &source, "/none", "/etc"],
    ];
    for arguments in commands {
        let said = image.snapbrowse.fails(3, arguments);
        assert!(said.contains("/none: no such file"), "{said}");
    }
    let nothing: [&[&str]; 2] =
        [&["extract", &source, "/none", "--to", to.to_str().unwrap()], &["tar", &source, "/none"]];
    for arguments in nothing {
        image.snapbrowse.fails(10, arguments);
    }
}

#[test]
fn a_directory_with_a_damaged_block_is_shown_without_that() {
    if !can_run("a_directory_with_a_damaged_block_is_shown_without_that", NEEDS) {
        return;
    }
    const NAME: &str = "of-three-hundred-";
    let image = Image::new();
    let tree = image.path("damaged-tree");
    fs::create_dir_all(tree.join("many")).unwrap();
    for index in 0..300 {
        fs::write(tree.join(format!("many/{NAME}{index}")), "x").unwrap();
    }
    let (tree, disk) = (tree.to_str().unwrap().to_owned(), image.path("damaged"));
    let disk = disk.to_str().unwrap();
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "1024", "-d", &tree, disk, "16M"]);
    let block = String::from_utf8(run("debugfs", &["-R", "bmap /many 4", disk])).unwrap();
    let file = fs::OpenOptions::new().write(true).open(disk).unwrap();
    // The length of the first entry.
    file.write_all_at(&[3, 0], block.trim().parse::<u64>().unwrap() * 1024 + 4).unwrap();

    let shown = |arguments: &[&str]| {
        let output = image.snapbrowse.output(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {said}");
        assert!(said.contains("/many: inode"), "{arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let listings: [&[&str]; 5] = [
        &["ls", disk, "/many"],
        &["ls", "-l", disk, "/many"],
        &["ls", "-R", disk],
        &["find", disk, "/many", "--type", "f"],
        &["tar", disk, "/many"],
    ];
    for arguments in listings {
        let names = shown(arguments).matches(NAME).count();
        assert!((250..300).contains(&names), "{arguments:?}: {names} names");
    }
    let verdict = shown(&["verify", disk]);
    let files = verdict.strip_prefix("read 2").is_some_and(|rest| rest[2..].starts_with(" files"));
    assert!(files && verdict.contains("1 cannot be restored"), "{verdict}");
}

#[test]
fn several_file_systems_are_listed() {
    if !can_run("several_file_systems_are_listed", NEEDS) {
        return;
    }
    let image = Image::new();
    let disk = image.path("disk");
    fs::write(&disk, two_partitions(&fs::read(image.path("image")).unwrap())).unwrap();
    let disk = disk.to_str().unwrap();
    let said = image.snapbrowse.fails(10, ["ls", disk]);
    for part in ["p1 (ext2/3/4, 24.0 MiB)", "p2 (ext2/3/4, 24.0 MiB)", "--volume"] {
        assert!(said.contains(part), "no {part} in: {said}");
    }
    assert_eq!(image.prints(&["cat", "--volume=p2", disk, "/etc/foo"]), "foo\n");
    let info = image.json(&["info", disk]);
    assert_eq!(info["table"], "mbr");
    assert_eq!(info["volumes"][1]["filesystem"]["label"], "things");
}

/// The same file system twice, in an MBR's first two partitions.
fn two_partitions(filesystem: &[u8]) -> Vec<u8> {
    const START: usize = 1 << 20;
    let mut disk = vec![0; START];
    let sectors = |bytes: usize| u32::try_from(bytes / 512).unwrap().to_le_bytes();
    for slot in 0..2 {
        let entry = 446 + 16 * slot;
        disk[entry + 4] = 0x83;
        disk[entry + 8..entry + 12].copy_from_slice(&sectors(START + slot * filesystem.len()));
        disk[entry + 12..entry + 16].copy_from_slice(&sectors(filesystem.len()));
    }
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk.extend_from_slice(filesystem);
    disk.extend_from_slice(filesystem);
    disk
}

#[test]
fn password_files_must_be_private() {
    let snapbrowse = Snapbrowse::new();
    let path = snapbrowse.home().join("password");
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    writeln!(file, "{SECRET}").unwrap();
    let path = path.to_str().unwrap();
    let url = "iscsi://127.0.0.1:9/iqn.2026-01.test:t/0";
    let arguments = ["ls", url, "--user", "alice", "--password-file", path];
    // Nobody listens there: the file was taken.
    snapbrowse.fails(11, arguments);
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let said = snapbrowse.fails(1, arguments);
    assert!(said.contains(path) && said.contains("chmod 600"), "{said}");
    let said = snapbrowse.fails(2, ["ls", url, "--user", "alice"]);
    assert!(said.contains("--password-file"), "{said}");
    // Not 10: it is no path of the snapshot that is missing.
    let said = snapbrowse.fails(2, ["ls", url, "--user", "alice", "--password-file", "/none"]);
    assert!(said.contains("password file /none: no such file"), "{said}");
}

#[test]
fn a_secret_in_the_url_is_never_repeated() {
    let snapbrowse = Snapbrowse::new();
    for (url, code) in [
        (format!("iscsi://alice%{SECRET}@127.0.0.1:9/iqn.2026-01.test:t/0"), 11),
        (format!("iscsi://alice%{SECRET}@127.0.0.1:9/iqn.2026-01.test:t/zero"), 2),
        (format!("iscsi://alice%{SECRET}@127.0.0.1:99999/iqn.2026-01.test:t/0"), 2),
        (format!("iscsi://alice%{SECRET}@127.0.0.1:9"), 2),
        (format!("iscsi://alice%x@{SECRET}@127.0.0.1:9/iqn.2026-01.test:t/0"), 11),
        (format!("iscsi://alice%{SECRET}?x@127.0.0.1:9/iqn.2026-01.test:t/0"), 11),
        (format!("iscsi://alice%{SECRET}/iqn.2026-01.test:t/0"), 2),
        (format!("iscsi://alice:{SECRET}/iqn.2026-01.test:t/0"), 2),
        (format!(" ISCSI://alice%{SECRET}@127.0.0.1:9/iqn.2026-01.test:t/0"), 11),
    ] {
        for arguments in
            [&["ls", &url, "-vvv"][..], &["cat", &url, "/x"], &["extract", &url, "/", "--to=."]]
        {
            let output = snapbrowse.output(arguments);
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert_eq!(output.status.code(), Some(code), "{said}");
            assert!(!said.contains(SECRET), "{said}");
        }
    }
}

#[test]
fn the_configuration_is_read_and_a_flag_wins() {
    let snapbrowse = Snapbrowse::new();
    let directory = snapbrowse.home().join(".config/snapbrowse");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("config.toml"), "portals = [\"127.0.0.1:9\"]\ntimeout = \"5s\"\n")
        .unwrap();
    let said = snapbrowse.fails(11, ["discover"]);
    assert!(said.contains("127.0.0.1:9"), "{said}");

    let other = snapbrowse.home().join("other.toml");
    let other = other.to_str().unwrap();
    fs::write(other, "timeout = \"soon\"\n").unwrap();
    let said = snapbrowse.fails(2, ["--config", other, "discover", "127.0.0.1:9"]);
    assert!(said.contains("soon"), "{said}");
    snapbrowse.fails(11, ["--config", other, "--timeout=5s", "discover", "127.0.0.1:9"]);
    fs::write(other, "pasword = \"x\"\n").unwrap();
    let said = snapbrowse.fails(2, ["--config", other, "discover", "127.0.0.1:9"]);
    assert!(said.contains("pasword"), "{said}");
    snapbrowse.fails(2, ["--config", "/no/such/file", "discover", "127.0.0.1:9"]);
}

#[test]
fn what_was_passed_over_at_opening_is_said_before_anything_is_read() {
    let snapbrowse = Snapbrowse::new();
    let disk = snapbrowse.home().join("cut.img");
    run("mke2fs", &["-q", "-t", "ext4", disk.to_str().unwrap(), "16M"]);
    fs::OpenOptions::new().write(true).open(&disk).unwrap().set_len(12 << 20).unwrap();
    for command in ["ls", "verify"] {
        let said = snapbrowse.command([command, disk.to_str().unwrap()]).output().unwrap();
        let text = String::from_utf8(said.stderr).unwrap();
        assert!(text.contains("volume whole: ") && text.contains("device"), "{command}: {text}");
    }
}

#[test]
fn a_journal_on_a_device_of_its_own_has_to_be_named() {
    if !can_run("a_journal_on_a_device_of_its_own_has_to_be_named", &[NEEDS, &[DEBUGFS]].concat()) {
        return;
    }
    let image = Image::new();
    let journal = image.path("journal");
    let journal = journal.to_str().unwrap();
    let (source, uuid) = (image.source(), "1db3f677-6832-4adb-bafc-8e4059c30a34");
    // Blocks of 1 KiB, as the image has them.
    run("mke2fs", &["-q", "-F", "-O", "journal_dev", "-b", "1024", "-U", uuid, journal, "4M"]);
    let (requests, block) = (image.path("requests"), image.path("block"));
    fs::write(&block, [7; 1024]).unwrap();
    let script = format!(
        "feature -has_journal\nfeature has_journal\nssv journal_inum 0\nssv journal_dev 0x9999\n\
         ssv journal_uuid {uuid}\njo -f {journal}\njw -b 20000 {}\njc\n",
        block.display()
    );
    fs::write(&requests, script).unwrap();
    run("debugfs", &["-w", "-f", requests.to_str().unwrap(), &source]);
    let said = image.snapbrowse.fails(13, ["ls", &source]);
    assert!(said.contains(uuid) && said.contains("--journal-device"), "{said}");
    let info = image.json(&["info", "--journal-device", journal, &source]);
    let found = &info["volumes"][0]["filesystem"]["journal"];
    assert_eq!(
        (&found["state"], &found["transactions"]),
        (&"replayed".into(), &1.into()),
        "{found}"
    );
    assert!(!image.prints(&["ls", &source, "/etc", "--journal-device", journal]).is_empty());
}

/// The block of attributes of a file is damaged: its contents are worth having without them.
#[test]
fn a_file_whose_attributes_are_lost_is_copied_without_them() {
    if !can_run(
        "a_file_whose_attributes_are_lost_is_copied_without_them",
        &[NEEDS, &[DEBUGFS]].concat(),
    ) {
        return;
    }
    let image = Image::new();
    let source = image.source();
    let debugfs =
        |request: &str| String::from_utf8(run("debugfs", &["-w", "-R", request, &source])).unwrap();
    // More than the inode has room for.
    fs::write(image.path("value"), [7; 300]).unwrap();
    debugfs(&format!("ea_set -f {} /etc/foo user.lost", image.path("value").display()));
    let told = debugfs("stat /etc/foo");
    let block = told.split("File ACL: ").nth(1).unwrap().split_whitespace().next().unwrap();
    let size = debugfs("stats")
        .split("Block size:")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .trim()
        .to_owned();
    let offset = block.parse::<u64>().unwrap() * size.parse::<u64>().unwrap();
    let file = fs::File::options().write(true).open(&source).unwrap();
    file.write_all_at(&[0; 8], offset).unwrap();

    let said = |arguments: &[&str]| {
        let output = image.snapbrowse.output(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {said}");
        assert!(said.contains("/etc/foo: ") && said.contains("attribute"), "{said}");
        output.stdout
    };
    let shown = String::from_utf8(said(&["stat", &source, "/etc/foo"])).unwrap();
    assert!(shown.contains("Size: 4 "), "{shown}");
    let to = image.path("to");
    said(&["extract", &source, "/etc/foo", "--to", to.to_str().unwrap()]);
    assert_eq!(fs::read(to.join("foo")).unwrap(), b"foo\n");
    let archive = image.path("archive");
    fs::write(&archive, said(&["tar", &source, "/etc/foo"])).unwrap();
    let contents = run("tar", &["-xOf", archive.to_str().unwrap()]);
    assert_eq!(contents, b"foo\n");
    said(&["verify", &source]);
}

#[test]
fn many_bad_copies_in_a_journal_are_counted() {
    if !can_run("many_bad_copies_in_a_journal_are_counted", &[NEEDS, &[DEBUGFS]].concat()) {
        return;
    }
    let image = Image::new();
    let (tree, other, blocks) = (image.path("small"), image.path("journal"), 40);
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), vec![b'F'; blocks << 10]).unwrap();
    fs::write(image.path("data"), vec![b'D'; blocks << 10]).unwrap();
    let path = other.to_str().unwrap();
    let options = ["-q", "-F", "-t", "ext4", "-b", "1024", "-J", "size=1", "-d"];
    run("mke2fs", &[&options[..], &[tree.to_str().unwrap(), path, "16M"]].concat());
    let bmap = |file: &str, block: u32| {
        let told = run("debugfs", &["-R", &format!("bmap {file} {block}"), path]);
        String::from_utf8(told).unwrap().trim().parse::<u64>().unwrap()
    };
    let first = bmap("/file", 0);
    let data = image.path("data");
    let last = first + blocks as u64 - 1;
    let script = format!("jo -c -v 3\njw -b {first}-{last} {}\njc\n", data.display());
    fs::write(image.path("script"), script).unwrap();
    run("debugfs", &["-w", "-f", image.path("script").to_str().unwrap(), path]);
    // Behind the descriptor lie the copies.
    let log = bmap("<8>", 2) * 1024;
    let file = fs::File::options().write(true).open(&other).unwrap();
    file.write_all_at(&vec![b'X'; blocks << 10], log).unwrap();

    let output = image.snapbrowse.output(["cat", path, "/file"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.stdout, vec![b'F'; blocks << 10], "{said}");
    let lines = said.lines().filter(|line| line.contains("journal: "));
    assert_eq!(lines.count(), 5 + 1 + 1, "{said}");
    assert!(said.contains("journal: 40 copies in all"), "{said}");
}
