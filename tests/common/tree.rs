//! A tree with everything in it that a restore must keep. Needs root.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use super::run;

/// What the file system can hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest file, in bytes: it has data at its start, in its middle and at its end.
    pub largest: u64,
    /// The entries of one large directory.
    pub entries: u32,
    /// Nanoseconds, and years from 1901 to 2446 (256-byte inodes); else whole seconds to 2038.
    pub long_times: bool,
}

/// Fills `root`.
pub fn populate(root: &Path, limits: Limits) {
    contents(root, limits);
    links(root);
    special_files(root);
    attributes(root);
    large_directory(root, limits.entries);
    owners_and_modes(root);
    times(root, limits.long_times);
}

fn contents(root: &Path, limits: Limits) {
    let dir = root.join("contents");
    fs::create_dir(&dir).unwrap();
    // Around the ends of blocks, of direct blocks and of the first indirect block, for 1 KiB and 4 KiB blocks.
    let edges = [1024, 4096, 12 << 10, 48 << 10, (12 + 256) << 10, (12 + 1024) << 12];
    for length in [0, 1].into_iter().chain(edges.into_iter().flat_map(|edge| edge - 1..=edge + 1)) {
        fs::write(dir.join(format!("{length}-bytes")), noise(length)).unwrap();
    }
    let largest = File::create(dir.join("largest")).unwrap();
    largest.set_len(limits.largest).unwrap();
    for offset in [0, limits.largest / 3, limits.largest / 2 + 1, limits.largest - 7] {
        largest.write_all_at(b"islands", offset).unwrap();
    }
    let holes = File::create(dir.join("holes")).unwrap();
    for piece in 0..64 {
        holes.write_all_at(&noise(4096), piece * 65536).unwrap();
    }
    holes.set_len(64 * 65536).unwrap();
    fs::write(dir.join("name ".repeat(51)), b"255 bytes of name").unwrap();
    let latin1 = std::ffi::OsStr::from_bytes(b"caf\xe9 \n\t\\\"");
    fs::write(dir.join(latin1), b"a name that is not UTF-8").unwrap();
    let deep = (0..30).fold(dir, |dir, level| dir.join(format!("level{level}")));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), b"deep").unwrap();
}

fn links(root: &Path) {
    let dir = root.join("links");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("first"), b"one file, three names").unwrap();
    fs::hard_link(dir.join("first"), dir.join("second")).unwrap();
    fs::hard_link(dir.join("first"), root.join("third")).unwrap();
    // 59 bytes and fewer lie in the inode; a target of 1023 fills a block of 1 KiB with its terminator.
    for length in [1, 59, 60, 61, 1000, 1023] {
        symlink("t".repeat(length), dir.join(format!("to-{length}"))).unwrap();
    }
    symlink("first", dir.join("relative")).unwrap();
    symlink("../../../../../../etc/passwd", dir.join("upwards")).unwrap();
    symlink("loop", dir.join("loop")).unwrap();
}

fn special_files(root: &Path) {
    let dir = root.join("special");
    fs::create_dir(&dir).unwrap();
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, (0, 0)),
        ("null", FileType::CharacterDevice, (1, 3)),
        ("sda1", FileType::BlockDevice, (8, 1)),
        ("high", FileType::BlockDevice, (259, 70000)),
    ] {
        let device = rustix::fs::makedev(device.0, device.1);
        rustix::fs::mknodat(CWD, dir.join(name), kind, Mode::from(0o640), device).unwrap();
    }
}

fn attributes(root: &Path) {
    let dir = root.join("attributes");
    fs::create_dir(&dir).unwrap();
    let file = dir.join("file");
    fs::write(&file, b"with attributes").unwrap();
    let values: [(&str, &[u8]); 4] = [
        ("user.small", b"7"),
        ("user.empty", b""),
        ("user.binary", b"\0\xff\n"),
        ("trusted.overlay.opaque", b"y"),
    ];
    for (name, value) in values {
        rustix::fs::setxattr(&file, name, value, XattrFlags::empty()).unwrap();
    }
    let many = dir.join("many");
    fs::write(&many, b"more than an inode holds").unwrap();
    for number in 0..12 {
        let name = format!("user.number-{number}");
        rustix::fs::setxattr(&many, name.as_str(), &noise(40), XattrFlags::empty()).unwrap();
    }
    run("setfacl", &["-m", "u:1234:rw,g:99:r,m::rwx", file.to_str().unwrap()]);
    run("setfacl", &["-m", "d:u:1234:rwx,d:o::-", dir.to_str().unwrap()]);
}

fn large_directory(root: &Path, entries: u32) {
    let dir = root.join("large");
    fs::create_dir(&dir).unwrap();
    for number in 0..entries {
        let mut file = File::create(dir.join(format!("entry-{number:06}"))).unwrap();
        if number % 500 == 0 {
            writeln!(file, "{number}").unwrap();
        }
    }
}

fn owners_and_modes(root: &Path) {
    let dir = root.join("owners");
    fs::create_dir(&dir).unwrap();
    let all =
        [(0, 0, 0o4755), (1000, 100, 0o2750), (65534, 65534, 0o000), (100_000, 200_000, 0o644)];
    for (uid, gid, mode) in all {
        let file = dir.join(format!("{uid}-{gid}-{mode:o}"));
        fs::write(&file, b"mine").unwrap();
        chown(&file, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    symlink("nowhere", dir.join("link")).unwrap();
    lchown(dir.join("link"), Some(1000), Some(1000)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
}

fn times(root: &Path, long: bool) {
    let dir = root.join("times");
    fs::create_dir(&dir).unwrap();
    let mut all = vec![(0, 0), (1, 0), (-1, 0), (i64::from(i32::MIN), 0), (i64::from(i32::MAX), 0)];
    if long {
        all.extend([(-1, 999_999_999), (1_234_567_890, 123_456_789), (4_294_967_296, 1)]);
        all.extend([(i64::from(i32::MAX) + 1, 0), (15_032_385_535, 999_999_999)]);
    }
    for (seconds, nanoseconds) in all {
        let file = dir.join(format!("at-{seconds}-{nanoseconds}"));
        fs::write(&file, b"then").unwrap();
        set_times(&file, seconds, nanoseconds);
    }
    symlink("nowhere", dir.join("link")).unwrap();
    set_times(&dir.join("link"), 1_000_000_000, 0);
    set_times(&dir, 86400, 0);
}

fn set_times(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Bytes that differ from each other and from those of any other length.
fn noise(length: u64) -> Vec<u8> {
    let mut state = length ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}
