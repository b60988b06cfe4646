//! Whatever bytes change in an image: no panic, no hang, no memory without bound; and where everything has a checksum, nothing
//! wrong without a word.

use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use snapbrowse::Result;
use snapbrowse::block::{BlockSource, ReadFuture, Segments, check_range};
use snapbrowse::fs::ext::{Ext, Options};

use crate::allocations;
use crate::common::{Need, can_run, run};
use crate::survey::{Survey, survey};
use crate::walk::wait;

/// What opening and reading one image of a few MiB may hold in memory: the reader's caches take up to 16 MiB, a read of the
/// survey 1 MiB.
const MOST_MEMORY: usize = 32 << 20;
/// What it may take of a processor's time, in a build for debugging, on a busy machine.
const MOST_TIME: Duration = Duration::from_secs(20);

/// A device in memory.
struct Memory(Vec<u8>);

impl BlockSource for Memory {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        Box::pin(async move { self.read(offset, len) })
    }

    fn try_read_at(&self, offset: u64, len: usize) -> Option<Result<Segments>> {
        Some(self.read(offset, len))
    }
}

impl Memory {
    fn read(&self, offset: u64, len: usize) -> Result<Segments> {
        check_range(self.len(), offset, len)?;
        let start = usize::try_from(offset).unwrap();
        Ok(Segments::from(self.0[start..start + len].to_vec()))
    }
}

/// A sequence of numbers that begins at a seed (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// A kind of file system.
struct Kind {
    name: &'static str,
    mke2fs: &'static [&'static str],
    /// How debugfs opens the journal, where transactions are to be left in it.
    journal: Option<&'static str>,
}

const fn kind(
    name: &'static str,
    mke2fs: &'static [&'static str],
    journal: Option<&'static str>,
) -> Kind {
    Kind { name, mke2fs, journal }
}

const KINDS: [Kind; 10] = [
    kind("ext2", &["-t", "ext2", "-I", "128", "-O", "^resize_inode"], None),
    kind("ext3", &["-t", "ext3", "-J", "size=1"], None),
    kind("ext3 with a live journal", &["-t", "ext3", "-J", "size=1"], Some("jo")),
    kind("extents", &["-t", "ext4", "-O", "^metadata_csum,^has_journal,64bit"], None),
    kind("checksums", CHECKSUMS, None),
    kind("ext4 with a live journal", &["-t", "ext4", "-J", "size=1"], Some("jo -c -v 3")),
    kind(
        "inline data",
        &["-t", "ext4", "-O", "^metadata_csum,^has_journal,inline_data,ea_inode"],
        None,
    ),
    kind(
        "inline data under checksums",
        &["-t", "ext4", "-O", "metadata_csum,^has_journal,inline_data,ea_inode"],
        None,
    ),
    kind("clusters", &["-t", "ext4", "-O", "^has_journal,bigalloc", "-C", "4096"], None),
    kind(
        "meta groups",
        &["-t", "ext4", "-O", "^has_journal,^resize_inode,^metadata_csum,meta_bg,uninit_bg"],
        None,
    ),
];

const CHECKSUMS: &[&str] = &["-t", "ext4", "-O", "metadata_csum,^has_journal"];

/// What stands in every block of data, to tell it by.
const DATA: &[u8] = b"DATA";

/// The bytes of a small file system that has some of everything.
fn image(kind: &Kind) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    for name in ["many", "deep/deeper/deepest"] {
        fs::create_dir_all(tree.join(name)).unwrap();
    }
    for number in 0..150 {
        let name = format!("many/a-long-name-so-that-there-are-blocks-{number}");
        fs::write(tree.join(name), if number < 50 { DATA } else { b"" }).unwrap();
    }
    // Enough for a second level of the map, with holes.
    let sparse = fs::File::create(tree.join("deep/sparse")).unwrap();
    for at in 0..60 {
        sparse.write_all_at(DATA, at * 9000).unwrap();
    }
    std::os::unix::fs::symlink("t".repeat(40), tree.join("short")).unwrap();
    std::os::unix::fs::symlink("DATA".repeat(100), tree.join("long")).unwrap();
    let tree = tree.to_str().unwrap();
    let common = ["-q", "-F", "-b", "1024", "-N", "256", "-d", tree];
    run("mke2fs", &[&common, kind.mke2fs, &[image.to_str().unwrap(), "4M"]].concat());
    // Indexes, which mke2fs does not make.
    let _ = std::process::Command::new("e2fsck").arg("-fyD").arg(&image).output().unwrap();
    let large = if kind.mke2fs.concat().contains("ea_inode") { 5000 } else { 500 };
    fs::write(dir.path().join("value"), vec![b'v'; large]).unwrap();
    let value = dir.path().join("value");
    debugfs(&image, &format!("ea_set -f {} /deep/sparse user.large", value.display()));
    debugfs(&image, "ea_set /many user.small 7");
    if let Some(open) = kind.journal {
        leave_transactions(&image, open, dir.path());
    }
    fs::read(image).unwrap()
}

fn debugfs(image: &Path, requests: &str) -> String {
    let script = image.with_extension("requests");
    fs::write(&script, requests).unwrap();
    let script = script.to_str().unwrap();
    String::from_utf8(run("debugfs", &["-w", "-f", script, image.to_str().unwrap()])).unwrap()
}

/// Puts blocks of a directory into the log as they are, and spoils them in their place.
fn leave_transactions(image: &Path, open: &str, dir: &Path) {
    let device = fs::File::options().read(true).write(true).open(image).unwrap();
    let mut requests = format!("{open}\n");
    for block in 1..4 {
        let bmap = debugfs(image, &format!("bmap /many {block}"));
        let place: u64 = bmap.lines().last().unwrap().trim().parse().unwrap();
        let mut copy = [0; 1024];
        device.read_exact_at(&mut copy, place * 1024).unwrap();
        let file = dir.join(format!("copy-{block}"));
        fs::write(&file, copy).unwrap();
        requests += &format!("jw -b {place} {}\njw -r {}\n", file.display(), place + 1000);
        device.write_all_at(&[0xFF; 1024], place * 1024).unwrap();
    }
    debugfs(image, &(requests + "jc\n"));
}

/// Damages an image in one of several ways; `blocks` are those of 1 KiB that may be damaged.
fn damage(bytes: &mut [u8], blocks: &[usize], exchange: bool, numbers: &mut Numbers) {
    let some = |numbers: &mut Numbers| blocks[numbers.below(blocks.len())] * 1024;
    match numbers.below(if exchange { 7 } else { 6 }) {
        // Some bytes of the superblock or of the descriptors, ...
        0 => {
            for _ in 0..=numbers.below(3) {
                bytes[1024 + numbers.below(2048)] = numbers.next() as u8;
            }
        }
        // ... a single byte or a single bit of any block, ...
        1 | 2 => {
            let at = some(numbers) + numbers.below(1024);
            bytes[at] ^=
                if numbers.below(2) == 0 { numbers.next() as u8 } else { 1 << numbers.below(8) };
        }
        // ... several bytes of several blocks, ...
        3 | 4 => {
            for _ in 0..=numbers.below(20) {
                let at = some(numbers) + numbers.below(1024);
                bytes[at] = numbers.next() as u8;
            }
        }
        // ... a whole block, by noise or zeros, ...
        5 => {
            let (at, noise) = (some(numbers), numbers.below(2) == 0);
            bytes[at..at + 1024].fill_with(|| if noise { numbers.next() as u8 } else { 0 });
        }
        // ... or by another block.
        _ => {
            let (from, to) = (some(numbers), some(numbers).max(3 * 1024));
            bytes.copy_within(from..from + 1024, to);
        }
    }
}

/// What was read of how many images.
#[derive(Debug, Default)]
struct Tally {
    images: u32,
    opened: u32,
    failures: usize,
    memory: usize,
    time: Duration,
}

/// Opens an image and reads all of it.
fn read_all(bytes: Vec<u8>, tally: &mut Tally) -> Option<Survey> {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
    };
    let started = now();
    let (found, memory) = allocations::peak(|| {
        wait(async {
            let fs = Ext::open(Arc::new(Memory(bytes)), Options::default()).await.ok()?;
            Some(survey(&fs).await)
        })
    });
    let time = now() - started;
    assert!(memory < MOST_MEMORY, "{memory} bytes of memory");
    assert!(time < MOST_TIME, "{time:?}");
    tally.images += 1;
    tally.opened += u32::from(found.is_some());
    tally.failures += found.as_ref().map_or(0, |found| found.errors.len());
    tally.memory = tally.memory.max(memory);
    tally.time = tally.time.max(time);
    found
}

/// The blocks that hold anything, with those of data or without.
fn used_blocks(image: &[u8], with_data: bool) -> Vec<usize> {
    let is_data = |block: &[u8]| block.windows(DATA.len()).any(|bytes| bytes == DATA);
    let counts =
        |block: &[u8]| block.iter().any(|byte| *byte != 0) && (with_data || !is_data(block));
    let blocks = image.chunks(1024).enumerate();
    blocks.filter(|(_, block)| counts(block)).map(|(number, _)| number).collect()
}

fn seeded(what: &str) -> Numbers {
    let seed = std::hash::RandomState::new().build_hasher().finish();
    println!("{what}: seed {seed:#x}");
    Numbers(seed)
}

/// Damages and reads `rounds` images of a kind.
fn survives(kind: &Kind, rounds: u32) -> Tally {
    let sound = image(kind);
    let used = used_blocks(&sound, true);
    let mut tally = Tally::default();
    let whole = read_all(sound.clone(), &mut tally).unwrap();
    assert!(
        whole.errors.is_empty() && whole.found.len() > 150,
        "{}: {:?}",
        kind.name,
        whole.errors
    );
    let mut numbers = seeded(kind.name);
    for round in 0..rounds {
        let mut bytes = sound.clone();
        damage(&mut bytes, &used, true, &mut numbers);
        println!("{}: round {round}", kind.name);
        read_all(bytes, &mut tally);
    }
    println!("{}: {tally:?}", kind.name);
    assert!(tally.opened > rounds / 4, "{}: {tally:?}: nothing was tested", kind.name);
    assert!(tally.failures > 0, "{}: no damage was ever noticed", kind.name);
    tally
}

const NEEDS: [Need; 3] =
    [Need::Program("mke2fs"), Need::Program("e2fsck"), Need::Program("debugfs")];

#[test]
fn damaged_images() {
    if can_run("damaged_images", &NEEDS) {
        for kind in &KINDS {
            survives(kind, 30);
        }
    }
}

#[test]
#[ignore = "takes many minutes"]
fn ten_thousand_damaged_images() {
    if can_run("ten_thousand_damaged_images", &NEEDS) {
        let tallies = KINDS.iter().map(|kind| survives(kind, 1000));
        let images: u32 = tallies.map(|tally| tally.images).sum();
        assert!(images >= 10_000, "{images}");
    }
}

/// Damages metadata under checksums: what is read then is what stood there before, or something on the way to it is
/// reported.
fn nothing_wrong_without_a_word(rounds: u32) {
    let kind = Kind { name: "checksums", mke2fs: CHECKSUMS, journal: None };
    let sound = image(&kind);
    let metadata = used_blocks(&sound, false);
    let mut tally = Tally::default();
    let expected = read_all(sound.clone(), &mut tally).unwrap().found;
    let mut numbers = seeded("metadata under checksums");
    for round in 0..rounds {
        let mut bytes = sound.clone();
        // A block of a directory in the place of another one has the right checksum: it does not count its place.
        damage(&mut bytes, &metadata, false, &mut numbers);
        println!("metadata under checksums: round {round}");
        let Some(found) = read_all(bytes, &mut tally) else { continue };
        let reported = |path: &[u8]| {
            found.errors.iter().any(|(at, _)| {
                path.strip_prefix(&at[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            })
        };
        for (path, shown) in &expected {
            let right = found.found.get(path) == Some(shown);
            assert!(right || reported(path), "{}: wrong without a word", path.escape_ascii());
        }
        let surplus = found.found.keys().find(|path| !expected.contains_key(*path));
        assert_eq!(surplus, None, "a name that was not there");
    }
    println!("metadata under checksums: {tally:?}");
    assert!(tally.opened > rounds / 2 && tally.failures > 0, "{tally:?}: nothing was tested");
}

#[test]
fn damage_under_checksums() {
    if can_run("damage_under_checksums", &NEEDS) {
        nothing_wrong_without_a_word(150);
    }
}

#[test]
#[ignore = "takes minutes"]
fn much_damage_under_checksums() {
    if can_run("much_damage_under_checksums", &NEEDS) {
        nothing_wrong_without_a_word(3000);
    }
}
