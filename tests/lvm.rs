//! Files out of logical volumes, by the commands, on a disk that lvm2's own tools made (`testdata/make-lvm.sh`).
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::PathBuf;
use std::process::Output;

use common::{Snapbrowse, run};

fn on_the_disk(arguments: &[&str]) -> Output {
    let snapbrowse = Snapbrowse::new();
    let disk: PathBuf = snapbrowse.home().join("disk");
    let packed = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/lvm.img.gz");
    std::fs::write(&disk, run("gzip", &["-dc", packed])).unwrap();
    snapbrowse.command(arguments).output().unwrap()
}

#[test]
fn a_logical_volume_is_read_by_its_name() {
    for name in ["linear", "striped"] {
        let volume = format!("vg0/{name}");
        let said = on_the_disk(&["cat", "--volume", &volume, "disk", "/name"]);
        assert_eq!(said.stdout, format!("this is {volume}\n").as_bytes(), "{said:?}");
        let numbers = on_the_disk(&["cat", "--volume", &volume, "disk", "/dir/numbers"]).stdout;
        let expected: String = (1..=3000).map(|n| format!("{n:01023}\n")).collect();
        assert!(numbers == expected.as_bytes(), "{volume}: the numbers differ");
    }
}

#[test]
fn without_a_name_the_volumes_are_listed() {
    let said = on_the_disk(&["ls", "disk"]);
    assert_eq!(said.status.code(), Some(10));
    let text = String::from_utf8(said.stderr).unwrap();
    for part in ["p1 (LVM2 physical volume", "vg0/linear (ext2/3/4", "vg0/striped", "--volume NAME"]
    {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_physical_volume_is_no_file_system() {
    let said = on_the_disk(&["ls", "--volume", "p1", "disk"]);
    assert_eq!(said.status.code(), Some(13));
    assert!(String::from_utf8(said.stderr).unwrap().contains("GROUP/VOLUME"));
}
