//! Partition tables as sfdisk writes them: every partition where sfdisk itself says that it is.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::{Need, can_run, find_program, run};
use serde_json::Value;
use snapbrowse::block::{BlockSource, ImageFile};
use snapbrowse::volume::{Content, Scan, Table, scan};

/// Divides a disk as `script` says and scans it.
fn divided(disk: &Path, script: &str) -> Scan {
    let file = std::fs::File::create(disk).unwrap();
    file.set_len(256 << 20).unwrap();
    let mut sfdisk = Command::new(find_program("sfdisk").unwrap())
        .arg("--quiet")
        .arg(disk)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    sfdisk.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(sfdisk.wait().unwrap().success(), "sfdisk refused {script:?}");
    scanned(disk)
}

fn scanned(disk: &Path) -> Scan {
    let device: Arc<dyn BlockSource> = Arc::new(ImageFile::open(disk).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(scan(&device)).unwrap()
}

/// Number, first byte and length of each partition by sfdisk, without the extended one.
fn by_sfdisk(disk: &Path) -> Vec<(String, u64, u64)> {
    let json =
        Command::new(find_program("sfdisk").unwrap()).arg("--json").arg(disk).output().unwrap();
    let table: Value = serde_json::from_slice(&json.stdout).unwrap();
    let node = disk.to_str().unwrap();
    let partitions = table["partitiontable"]["partitions"].as_array().unwrap();
    let mut found: Vec<_> = partitions
        .iter()
        .filter(|partition| !["5", "f", "85"].contains(&partition["type"].as_str().unwrap()))
        .map(|partition| {
            let number = partition["node"].as_str().unwrap().strip_prefix(node).unwrap();
            let number: u32 = number.parse().unwrap();
            let sectors = |field: &str| partition[field].as_u64().unwrap() * 512;
            (number, sectors("start"), sectors("size"))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(number, start, size)| (format!("p{number}"), start, size)).collect()
}

fn by_scan(scan: &Scan) -> Vec<(String, u64, u64)> {
    let volumes = scan.volumes.iter();
    volumes.map(|v| (v.name.clone(), v.range.clone().unwrap().start, v.size)).collect()
}

#[test]
fn a_gpt_reads_as_sfdisk_wrote_it() {
    if !can_run("a_gpt_reads_as_sfdisk_wrote_it", &[Need::Program("sfdisk")]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    let script = "label: gpt\n\
        1: size=10MiB, type=U, name=\"EFI\"\n\
        2: size=20MiB, type=S\n\
        7: size=30MiB, type=V, name=\"grüße\"\n\
        90: size=40MiB, type=L\n";
    let scan = divided(&disk, script);
    assert_eq!((scan.table, &scan.warnings), (Table::Gpt, &Vec::new()));
    assert_eq!(by_scan(&scan), by_sfdisk(&disk));
    let kinds: Vec<_> = scan.volumes.iter().map(|v| v.partition_type.as_str()).collect();
    assert_eq!(kinds, ["EFI system", "Linux swap", "Linux LVM", "Linux filesystem"]);
    assert_eq!(scan.volumes[2].label, "grüße");
}

#[test]
fn a_boot_record_with_logical_partitions_reads_as_sfdisk_wrote_it() {
    let name = "a_boot_record_with_logical_partitions_reads_as_sfdisk_wrote_it";
    if !can_run(name, &[Need::Program("sfdisk")]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    let script = "label: dos\n\
        1: size=10MiB, type=83\n\
        3: size=10MiB, type=7\n\
        4: type=f\n\
        5: size=5MiB, type=83\n\
        6: size=6MiB, type=82\n\
        7: size=7MiB, type=8e\n\
        8: size=8MiB, type=83\n";
    let scan = divided(&disk, script);
    assert_eq!((scan.table, &scan.warnings), (Table::Mbr, &Vec::new()));
    assert_eq!(by_scan(&scan), by_sfdisk(&disk));
    assert_eq!(scan.volumes.len(), 6);

    // Deleting one in the middle renumbers the others; adding one again makes a chain out of order.
    run("sfdisk", &["--quiet", "--delete", disk.to_str().unwrap(), "6"]);
    assert_eq!(by_scan(&scanned(&disk)), by_sfdisk(&disk));
    let added = format!("echo 'size=2MiB, type=83' | sfdisk --quiet --append {}", disk.display());
    run("sh", &["-c", &added]);
    let scan = scanned(&disk);
    assert_eq!(by_scan(&scan), by_sfdisk(&disk));
    assert_eq!((scan.volumes.len(), &scan.warnings), (6, &Vec::new()));
}

#[test]
fn what_mkfs_made_is_recognised() {
    let programs = [Need::Program("sfdisk"), Need::Program("mke2fs"), Need::Program("mkswap")];
    if !can_run("what_mkfs_made_is_recognised", &programs) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    divided(&disk, "label: gpt\nstart=1MiB, size=60MiB\nstart=64MiB, size=60MiB\n");
    run("mke2fs", &["-q", "-t", "ext3", "-E", "offset=1048576", disk.to_str().unwrap(), "60M"]);
    let swap = directory.path().join("swap");
    std::fs::File::create(&swap).unwrap().set_len(60 << 20).unwrap();
    run("mkswap", &["--quiet", swap.to_str().unwrap()]);
    let mut file = std::fs::OpenOptions::new().write(true).open(&disk).unwrap();
    file.seek(SeekFrom::Start(64 << 20)).unwrap();
    std::io::copy(&mut std::fs::File::open(&swap).unwrap(), &mut file).unwrap();
    let contents: Vec<_> = scanned(&disk).volumes.iter().map(|v| v.content).collect();
    assert_eq!(contents, [Content::Ext, Content::Other("swap")]);

    // Over the whole disk: what remains of the GPT no longer counts.
    let whole = directory.path().join("whole");
    std::fs::File::create(&whole).unwrap().set_len(64 << 20).unwrap();
    run("mke2fs", &["-q", "-t", "ext4", whole.to_str().unwrap()]);
    let scan = scanned(&whole);
    assert_eq!((scan.table, scan.volumes[0].content), (Table::None, Content::Ext));
    assert_eq!(scan.volumes[0].name, "whole");
}
