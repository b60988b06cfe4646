//! `ls`, `stat`, `find`, `info`, and their JSON.

use std::io::Write;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::common::{Need, can_run};
use crate::image::{Image, NEEDS, ODD_NAME};

#[test]
fn ls_prints_one_name_a_line_byte_for_byte() {
    if !can_run("ls_prints_one_name_a_line_byte_for_byte", NEEDS) {
        return;
    }
    let image = Image::new();
    let source = image.source();
    assert_eq!(image.prints(&["ls", &source, "/etc"]), "empty\nfoo\nlink\nsame\n");
    assert_eq!(image.prints(&["ls", &source, "way/"]), "empty\nfoo\nlink\nsame\n");
    assert_eq!(image.prints(&["ls", &source, "/etc/foo"]), "/etc/foo\n");
    let root = image.snapbrowse.run(["ls", &source]);
    assert!(root.split(|&byte| byte == b'\n').any(|name| name == ODD_NAME), "{root:?}");
}

#[test]
fn ls_long_and_recursive() {
    if !can_run("ls_long_and_recursive", NEEDS) {
        return;
    }
    let image = Image::new();
    let source = image.source();
    let long = image.prints(&["ls", "-l", &source, "/etc"]);
    let lines: Vec<&str> = long.lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[1].starts_with("-rw-r----- 2 ") && lines[1].ends_with(" foo"), "{long}");
    assert!(
        lines[2].starts_with("lrwxrwxrwx 1 ") && lines[2].ends_with(" link -> /etc/foo"),
        "{long}"
    );
    let recursive = image.prints(&["ls", "-R", &source, "/etc"]);
    assert_eq!(recursive, "/etc:\nempty\nfoo\nlink\nsame\n\n/etc/empty:\n");
    // With -l a link in the last place is shown itself, unless a slash follows it.
    assert!(image.prints(&["ls", "-l", &source, "/way"]).ends_with(" /way -> etc\n"));
    assert_eq!(image.prints(&["ls", "-l", &source, "/way/"]), long);
}

#[test]
fn a_name_that_equals_its_directory() {
    if !can_run("a_name_that_equals_its_directory", NEEDS) {
        return;
    }
    let image = Image::new();
    std::fs::create_dir_all(image.path("twice/x/x")).unwrap();
    image.make("nested", &image.path("twice"));
    let source = image.path("nested");
    let list = image.json(&["ls", source.to_str().unwrap(), "x"]);
    assert_eq!(list[0]["path"], "x/x");
}

#[test]
fn lists_are_one_json_document() {
    if !can_run("lists_are_one_json_document", NEEDS) {
        return;
    }
    let image = Image::new();
    let source = image.source();
    let list = image.json(&["ls", &source, "/etc"]);
    let paths: Vec<&str> =
        list.as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/etc/empty", "/etc/foo", "/etc/link", "/etc/same"]);
    let foo = &list[1];
    assert_eq!(
        (&foo["type"], &foo["mode"], &foo["links"]),
        (&"file".into(), &"0640".into(), &2.into())
    );
    assert_eq!(foo["inode"], list[3]["inode"]);
    assert_eq!(list[2]["target"], "/etc/foo");
    let mtime = foo["mtime"].as_str().unwrap();
    assert!(mtime.parse::<jiff::Timestamp>().is_ok(), "{mtime}");
    assert_eq!(image.json(&["ls", &source, "/etc/empty"]), Value::Array(Vec::new()));

    let root = image.json(&["ls", "-R", &source]);
    let odd =
        root.as_array().unwrap().iter().find(|entry| entry.get("path_bytes").is_some()).unwrap();
    // base64 of "/odd\xff\x1b[31m"
    assert_eq!((&odd["path_bytes"], &odd["size"]), (&"L29kZP8bWzMxbQ==".into(), &0.into()));
}

#[test]
fn streams_are_json_lines() {
    if !can_run("streams_are_json_lines", NEEDS) {
        return;
    }
    let image = Image::new();
    let source = image.source();
    for arguments in [
        &["stat", "--json", &source, "/etc/foo", "/etc/link"][..],
        &["find", "--json", &source, "/etc", "--name=foo", "--name=link"],
    ] {
        let lines = image.prints(arguments);
        let lines: Vec<Value> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{arguments:?}");
        assert_eq!((&lines[0]["path"], &lines[1]["type"]), (&"/etc/foo".into(), &"symlink".into()));
    }
    assert_eq!(image.json(&["stat", "-L", &source, "/etc/link"])["type"], "file");
}

#[test]
fn find_by_name_kind_size_and_time() {
    if !can_run("find_by_name_kind_size_and_time", NEEDS) {
        return;
    }
    let image = Image::new();
    let source = image.source();
    let find = |arguments: &[&str]| {
        let found = image.snapbrowse.run([&["find", &source], arguments].concat());
        String::from_utf8_lossy(&found).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(find(&["/etc", "--name", "*o*"]), ["/etc/foo"]);
    assert_eq!(find(&["/etc", "--type", "f"]), ["/etc/foo", "/etc/same"]);
    assert_eq!(find(&["/etc", "--type", "d,l"]), ["/etc", "/etc/empty", "/etc/link"]);
    assert_eq!(find(&["--size", "+1MiB"]), ["/holes", "/large"]);
    assert_eq!(find(&["/etc", "--type=f", "--size=4"]), ["/etc/foo", "/etc/same"]);
    assert_eq!(find(&["/etc/foo"]), ["/etc/foo"]);
    assert_eq!(find(&["--newer", "2200-01-01"]), [""; 0]);
    assert_eq!(find(&["/etc", "--older", "2200-01-01", "--name=foo"]), ["/etc/foo"]);
}

#[test]
fn info_describes_device_volume_and_file_system() {
    if !can_run("info_describes_device_volume_and_file_system", NEEDS) {
        return;
    }
    let image = Image::new();
    let info = image.json(&["info", &image.source()]);
    assert_eq!((&info["size"], &info["table"]), (&(24 << 20).into(), &"none".into()));
    let volume = &info["volumes"][0];
    let filesystem = &volume["filesystem"];
    assert_eq!((&filesystem["type"], &filesystem["label"]), (&"ext4".into(), &"things".into()));
    assert_eq!(filesystem["uuid"].as_str().unwrap().len(), 36);
    assert_eq!(filesystem["journal"]["state"], "clean");
    assert!(filesystem["features"].as_array().unwrap().contains(&"extent".into()));
    let text = image.prints(&["info", &image.source()]);
    for part in ["ext4", "things", "24.0 MiB", "journal  clean"] {
        assert!(text.contains(part), "no {part} in:\n{text}");
    }
}

#[test]
fn verify_finds_what_cannot_be_restored() {
    let test = "verify_finds_what_cannot_be_restored";
    if !can_run(test, NEEDS) || !can_run(test, &[Need::Program("debugfs")]) {
        return;
    }
    let image = Image::new();
    let source = image.source();
    let said = image.prints(&["verify", "--data", &source]);
    assert!(said.ends_with(": all can be restored\n"), "{said}");
    let whole = image.json(&["verify", "--data", &source]);
    assert!(whole["bytes"].as_u64().unwrap() > 3_000_000 && whole["failed"] == 0, "{whole}");

    // An inode that does not match its checksum any more.
    let run = |request: &str| {
        crate::common::run("debugfs", &["-w", "-R", request, &source]);
    };
    run("set_inode_field /etc/empty checksum 1");
    let said = image.snapbrowse.output(["verify", &source]);
    let (out, err) =
        (String::from_utf8(said.stdout).unwrap(), String::from_utf8(said.stderr).unwrap());
    assert_eq!(said.status.code(), Some(3), "{out}{err}");
    assert!(
        out.contains("1 cannot be restored") && err.starts_with("snapbrowse: /etc/empty: "),
        "{out}{err}"
    );
}

#[test]
fn versions_puts_identical_copies_together() {
    if !can_run("versions_puts_identical_copies_together", NEEDS) {
        return;
    }
    let image = Image::new();
    image.make("monday", &image.tree());
    let mut foo = std::fs::File::create(image.tree().join("etc/foo")).unwrap();
    foo.write_all(b"changed\n").unwrap();
    foo.set_modified(SystemTime::now() + Duration::from_secs(100)).unwrap();
    image.make("tuesday", &image.tree());
    std::fs::remove_file(image.tree().join("etc/foo")).unwrap();
    image.make("wednesday", &image.tree());
    let path = |name: &str| image.path(name).to_str().unwrap().to_owned();
    let (first, monday, tuesday, wednesday) =
        (image.source(), path("monday"), path("tuesday"), path("wednesday"));
    let versions = image.json(&["versions", &tuesday, &first, &monday, &wednesday, "/etc/foo"]);
    let versions = versions.as_array().unwrap();
    assert_eq!(versions.len(), 2, "{versions:?}");
    assert_eq!(versions[0]["sources"], serde_json::json!([first, monday]));
    assert_eq!(
        (&versions[1]["sources"], &versions[1]["size"]),
        (&serde_json::json!([tuesday]), &8.into())
    );
    assert_eq!(versions[0]["sha256"].as_str().unwrap().len(), 64);
    let said = image.snapbrowse.fails(10, ["versions", &wednesday, "/etc/foo"]);
    assert!(said.contains("in none of 1"), "{said}");
    // A snapshot that was not looked into is none that does not have the file.
    let said = image.snapbrowse.fails(10, ["versions", "/no/such/image", "/etc/foo"]);
    assert!(said.contains("open /no/such/image"), "{said}");
    let output = image.snapbrowse.output(["versions", &monday, "/no/such/image", "/etc/foo"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[test]
fn completions_and_man_pages_can_be_made() {
    let snapbrowse = crate::common::Snapbrowse::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = snapbrowse.run(["generate", "completions", shell]);
        assert!(String::from_utf8(script).unwrap().contains("extract"), "{shell}");
    }
    let directory = snapbrowse.home().join("man");
    snapbrowse.run(["generate", "man", directory.to_str().unwrap()]);
    let page = std::fs::read_to_string(directory.join("snapbrowse-extract.1")).unwrap();
    assert!(page.contains("overwrite"), "{page}");
}
