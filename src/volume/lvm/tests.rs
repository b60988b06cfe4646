//! Against a disk that lvm2's own tools made (`testdata/make-lvm.sh`), and damaged copies of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::block::{self, BlockSource, ImageFile, Slice};
use crate::error::ErrorKind;

use super::group::{PhysicalVolumes, VolumeGroup};
use super::{Found, assemble, free_name};

const PART: u64 = 22 << 20;
const PARTS: [u64; 2] = [2048 * 512, 47104 * 512];

fn disk() -> Vec<u8> {
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/lvm.img.gz");
    let unpacked = Command::new("gzip").args(["-dc", image]).stderr(Stdio::inherit()).output();
    unpacked.unwrap().stdout
}

/// The two physical volumes of `disk`.
fn parts(disk: &[u8]) -> Vec<(String, Arc<dyn BlockSource>)> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(disk).unwrap();
    let device: Arc<dyn BlockSource> = Arc::new(ImageFile::open(file.path()).unwrap());
    let part = |(n, start): (usize, u64)| {
        let name = format!("p{}", n + 1);
        let slice = Slice::new(device.clone(), start..start + PART, name.clone()).unwrap();
        (name, Arc::new(slice) as Arc<dyn BlockSource>)
    };
    PARTS.into_iter().enumerate().map(part).collect()
}

fn volume(found: &Found, name: &str) -> Arc<dyn BlockSource> {
    found.volumes.iter().find(|(known, _)| known == name).unwrap().1.clone()
}

/// The file `dir/numbers` that the script put into each volume: 3,000 lines of 1 KiB.
fn numbers() -> String {
    (1..=3000).map(|n| format!("{n:01023}\n")).collect()
}

#[tokio::test]
async fn volumes_are_put_together_as_lvm2_says() {
    let found = assemble(parts(&disk()), []).await;
    assert_eq!(found.warnings, [""; 0]);
    let names: Vec<_> = found.volumes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["vg0/linear", "vg0/striped"]);
    for name in names {
        let volume = volume(&found, name);
        assert_eq!(volume.len(), 6 << 20, "{name}");
        let whole = block::read(&*volume, 0, 6 << 20).await.unwrap().into_bytes();
        assert_eq!(whole[1080..1082], [0x53, 0xef], "{name}: no ext superblock");
        let numbers = numbers();
        assert!(
            memchr_all(&whole, numbers.as_bytes()),
            "{name}: its blocks are not in the order in which mke2fs wrote them"
        );
        // Reads that begin and end anywhere agree with the whole.
        for (offset, len) in [(0, 1), (65_535, 2), (1_048_575, 70_000), (3 << 20, 3 << 20)] {
            let part = block::read(&*volume, offset, len).await.unwrap().into_bytes();
            assert_eq!(part, whole[offset as usize..offset as usize + len], "{name} {offset}");
        }
        let past = volume.read_at((6 << 20) - 1, 2).await.unwrap_err();
        assert_eq!(past.kind(), ErrorKind::InvalidInput);
    }
}

#[tokio::test]
async fn a_group_that_has_the_name_of_a_partition_gets_another_one() {
    let found = assemble(parts(&disk()), ["p1", "vg0", "vg0~2"].map(str::to_owned)).await;
    let names: Vec<_> = found.volumes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["vg0~3/linear", "vg0~3/striped"]);
    assert!(found.warnings[0].contains("vg0 is shown as vg0~3"), "{:?}", found.warnings);
    // Two of one name, as a copy of a disk beside it makes them.
    let mut taken = std::collections::HashSet::from(["p1".to_owned()]);
    let names = ["p1", "vg", "vg"].map(|name| free_name(name, &mut taken));
    assert_eq!(names, ["p1~2", "vg", "vg~2"]);
}

/// mke2fs lays the file out in one run here, so its bytes stand in the image as they are.
fn memchr_all(image: &[u8], contents: &[u8]) -> bool {
    image.chunks_exact(1024).zip(0..).filter(|(block, _)| *block == &contents[..1024]).any(
        |(_, n)| {
            let n: usize = n;
            contents.chunks_exact(1024).enumerate().all(|(k, line)| {
                // An indirect extent block may stand between two runs: look a few blocks further.
                (0..64).any(|gap| {
                    image.get((n + k + gap) * 1024..(n + k + gap + 1) * 1024) == Some(line)
                })
            })
        },
    )
}

#[tokio::test]
async fn a_volume_on_a_missing_disk_is_named_and_the_others_are_read() {
    let mut parts = parts(&disk());
    parts.truncate(1);
    let found = assemble(parts, []).await;
    assert_eq!(found.volumes.len(), 1);
    assert_eq!(found.volumes[0].0, "vg0/linear");
    assert_eq!(found.warnings.len(), 1);
    assert!(
        found.warnings[0].starts_with("vg0/striped: its physical volume pv1 ("),
        "{:?}",
        found.warnings
    );
}

#[tokio::test]
async fn one_damaged_metadata_text_is_replaced_by_the_copy_on_the_other_disk() {
    let mut disk = disk();
    // Every text of the first disk's ring: behind its header at 4 KiB.
    disk[PARTS[0] as usize + 4096 + 512..][..64 << 10].fill(b'x');
    let found = assemble(parts(&disk), []).await;
    assert_eq!(found.volumes.len(), 2, "{:?}", found.warnings);
    assert_eq!(found.warnings.len(), 1);
    assert!(found.warnings[0].contains("the text's checksum is wrong"), "{:?}", found.warnings);
}

#[tokio::test]
async fn a_flipped_byte_in_label_or_area_header_is_noticed() {
    for (at, said) in [(512 + 40, "label's checksum"), (4096 + 41, "header's checksum")] {
        let mut disk = disk();
        for part in PARTS {
            disk[part as usize + at] ^= 1;
        }
        let found = assemble(parts(&disk), []).await;
        assert!(found.volumes.is_empty());
        assert_eq!(found.warnings.len(), 2, "{:?}", found.warnings);
        assert!(
            found.warnings.iter().all(|warning| warning.contains(said)),
            "{:?}",
            found.warnings
        );
    }
}

/// The kinds of mapping that a group's text describes, without a disk beneath.
fn why_not(segments: &str) -> String {
    why_not_of("", segments, "")
}

/// The same with more said of the physical volume, and with more logical volumes.
fn why_not_of(physical: &str, segments: &str, others: &str) -> String {
    let text = format!(
        "vg {{\nid = \"g\"\nseqno = 1\nextent_size = 8\nphysical_volumes {{\npv0 {{\nid = \"a-b\"\n{physical}\n\
         pe_start = 8\n}}\n}}\nlogical_volumes {{\nlv {{\nstatus = [\"READ\", \"VISIBLE\"]\n{segments}\n}}\n{others}\n}}\n}}"
    );
    let device: Arc<dyn BlockSource> = Arc::new(
        Slice::new(parts(&vec![0; 48 << 20]).remove(0).1, 0..10 * 4096, "pv".to_owned()).unwrap(),
    );
    let physical = PhysicalVolumes::from([("ab".to_owned(), device)]);
    let group = VolumeGroup::parse(&text).unwrap();
    let volume = group.logical_volumes(&physical).next().unwrap().1;
    volume.map_or_else(|error| error.to_string(), |_| "fine".to_owned())
}

#[test]
fn what_is_out_of_date_is_refused() {
    let segment = "segment1 {\nstart_extent = 0\nextent_count = 2\ntype = \"striped\"\nstripes = [\"pv0\", 0]\n}";
    assert_eq!(why_not_of("flags = []", segment, ""), "fine");
    let missing = why_not_of("flags = [\"MISSING\"]", segment, "");
    assert!(missing.contains("pv0 (a-b) is marked as missing"), "{missing}");
    // As lvm2 writes it while `lvconvert --merge` is under way: only the origin is visible.
    let snapshot = |store: &str, origin: &str| {
        format!(
            "snapshot0 {{\nstatus = [\"READ\", \"WRITE\"]\nsegment1 {{\nstart_extent = 0\nextent_count = 2\n\
             type = \"snapshot\"\nchunk_size = 8\norigin = \"{origin}\"\n{store} = \"snap\"\n}}\n}}"
        )
    };
    let merging = why_not_of("", segment, &snapshot("merging_store", "lv"));
    assert!(merging.contains("a snapshot is being merged into it"), "{merging}");
    assert_eq!(why_not_of("", segment, &snapshot("merging_store", "other")), "fine");
    assert_eq!(why_not_of("", segment, &snapshot("cow_store", "lv")), "fine");
}

#[test]
fn as_many_volumes_as_a_text_can_hold_are_looked_at_at_once() {
    let volumes: String =
        (0..100_000).map(|n| format!("l{n} {{\nstatus = [\"VISIBLE\"]\n}}\n")).collect();
    let text = format!(
        "vg {{\nid = \"g\"\nseqno = 1\nextent_size = 8\nlogical_volumes {{\n{volumes}}}\n}}"
    );
    let group = VolumeGroup::parse(&text).unwrap();
    let physical = PhysicalVolumes::new();
    assert_eq!(group.logical_volumes(&physical).filter(|(_, why)| why.is_err()).count(), 100_000);
}

#[test]
fn mappings_that_are_not_read_or_make_no_sense_are_refused_by_name() {
    let segment = |n: u32, start: u32, count: u32, rest: &str| {
        format!("segment{n} {{\nstart_extent = {start}\nextent_count = {count}\n{rest}\n}}\n")
    };
    let linear = |at: u32| format!("type = \"striped\"\nstripes = [\"pv0\", {at}]");
    assert_eq!(why_not(&segment(1, 0, 9, &linear(0))), "fine");
    let cases = [
        (segment(1, 0, 2, "type = \"raid1\""), "type raid1 are not supported"),
        (segment(1, 0, 2, "type = \"thin\""), "type thin are not supported"),
        (segment(1, 0, 10, &linear(0)), "pass the end of pv0"),
        (segment(1, 0, 1, &linear(9)), "pass the end of pv0"),
        (segment(1, 1, 2, &linear(0)), "leave a gap or overlap at byte 0"),
        (segment(1, 0, 2, &linear(0)) + &segment(2, 1, 2, &linear(4)), "gap or overlap"),
        (segment(1, 0, 0, &linear(0)), "0 bytes on 1 stripes"),
        (segment(1, 0, 2, "type = \"striped\"\nstripes = []"), "on 0 stripes"),
        (
            segment(
                1,
                0,
                4,
                "type = \"striped\"\nstripe_size = 0\nstripes = [\"pv0\", 0, \"pv0\", 2]",
            ),
            "stripes of 0 bytes",
        ),
        (segment(1, 0, u32::MAX, &linear(u32::MAX)), "pass the end of pv0"),
        (String::new(), "no segments"),
    ];
    for (text, said) in cases {
        assert!(why_not(&text).contains(said), "{text}: {}", why_not(&text));
    }
}
