//! What is in a tree, one entry for each path, comparable between a kernel mount, a FUSE mount, an extracted copy and
//! the lists in `testdata`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Files beyond this many bytes are digested hole by hole instead of zero by zero.
const SPARSE_FROM: u64 = 1 << 30;

/// Everything by which two files are told apart. Times are `seconds.nanoseconds`, as `stat --format=%.9Y` prints them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `st_mode`: type and permissions.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u64,
    pub ino: u64,
    pub size: u64,
    /// In units of 512 bytes.
    pub blocks: u64,
    /// `major:minor` in hexadecimal.
    pub rdev: String,
    pub atime: String,
    pub mtime: String,
    pub ctime: String,
    /// SHA-256 of the contents or of a link's target; `-` for all else.
    pub digest: String,
}

/// What a comparison looks at.
#[derive(Clone, Copy, Debug)]
pub enum Aspects {
    /// All that `stat` shows, and the contents.
    All,
    /// All that `stat` shows.
    Inode,
    /// What a copy made by root keeps: not inode numbers, ctime and the sizes and link counts of directories, which belong to the
    /// file system that holds the copy. Holes stay holes: a copy takes no more blocks than the original and one MiB.
    RestoredByRoot,
    /// The same without owners, for a copy made by an ordinary user.
    RestoredByUser,
}

/// All paths below a root (`.` for the root itself, else `./a/b`) with their entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest(pub BTreeMap<Vec<u8>, Entry>);

impl Manifest {
    /// Walks a mounted or copied tree.
    pub fn of_tree(root: &Path) -> Self {
        let mut manifest = Self::default();
        manifest.walk(root, b".");
        // Only now: reading changes the time of the last access, also under the file's other names.
        for (name, entry) in &mut manifest.0 {
            entry.digest = digest(&root.join(OsStr::from_bytes(name)), entry);
        }
        manifest
    }

    /// Reads a list that `testdata/lib.sh` wrote.
    pub fn parse(text: &[u8]) -> Self {
        let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        Self(lines.map(parse_line).collect())
    }

    /// How `found` differs from `self` in the given aspects: one line each, nothing where they agree.
    pub fn differences(&self, found: &Self, aspects: Aspects) -> String {
        let mut report = String::new();
        for (path, expected) in &self.0 {
            let name = path.escape_ascii();
            match found.0.get(path) {
                None => writeln!(report, "{name}: missing").unwrap(),
                Some(found) => expected.compare(found, aspects, &name.to_string(), &mut report),
            }
        }
        for path in found.0.keys().filter(|path| !self.0.contains_key(*path)) {
            writeln!(report, "{}: not expected", path.escape_ascii()).unwrap();
        }
        report
    }

    /// # Panics
    /// Where the two differ, with the first differences.
    pub fn assert_same(&self, found: &Self, aspects: Aspects, what: &str) {
        let report = self.differences(found, aspects);
        assert!(
            report.is_empty(),
            "{what}: {} differences (expected, found), the first are\n{}",
            report.lines().count(),
            report.lines().take(20).collect::<Vec<_>>().join("\n")
        );
    }

    /// The part below `dir` (`./a`), as a manifest with its root there.
    pub fn below(&self, dir: &[u8]) -> Self {
        let rest = |path: &Vec<u8>| {
            let rest = path.strip_prefix(dir)?;
            (rest.is_empty() || rest[0] == b'/').then(|| [b".", rest].concat())
        };
        Self(self.0.iter().filter_map(|(path, entry)| Some((rest(path)?, entry.clone()))).collect())
    }

    /// The paths of the regular files, as a path inside the file system (`/a/b`).
    pub fn regular_files(&self) -> impl Iterator<Item = (Vec<u8>, &Entry)> {
        self.0
            .iter()
            .filter(|(_, entry)| entry.mode & 0o170_000 == 0o100_000)
            .map(|(path, entry)| (path.strip_prefix(b".").unwrap().to_vec(), entry))
    }

    fn walk(&mut self, path: &Path, name: &[u8]) {
        let metadata = fs::symlink_metadata(path).unwrap();
        self.0.insert(name.to_vec(), Entry::new(&metadata));
        if metadata.is_dir() {
            for child in fs::read_dir(path).unwrap() {
                let child = child.unwrap();
                let name = [name, b"/", child.file_name().as_bytes()].concat();
                self.walk(&child.path(), &name);
            }
        }
    }
}

impl Entry {
    fn new(metadata: &Metadata) -> Self {
        let kind = metadata.file_type();
        let rdev =
            if kind.is_block_device() || kind.is_char_device() { metadata.rdev() } else { 0 };
        Self {
            mode: metadata.mode(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            nlink: metadata.nlink(),
            ino: metadata.ino(),
            size: metadata.size(),
            blocks: metadata.blocks(),
            rdev: format!("{:x}:{:x}", rustix::fs::major(rdev), rustix::fs::minor(rdev)),
            atime: format!("{}.{:09}", metadata.atime(), metadata.atime_nsec()),
            mtime: format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec()),
            ctime: format!("{}.{:09}", metadata.ctime(), metadata.ctime_nsec()),
            digest: String::new(),
        }
    }

    fn compare(&self, found: &Self, aspects: Aspects, name: &str, report: &mut String) {
        let mut field = |field: &str, expected: &dyn ToString, found: &dyn ToString| {
            let (expected, found) = (expected.to_string(), found.to_string());
            if expected != found {
                writeln!(report, "{name}: {field} {expected}, {found}").unwrap();
            }
        };
        let is_dir = self.mode & 0o170_000 == 0o040_000;
        let all = matches!(aspects, Aspects::All | Aspects::Inode);
        let is_file = self.mode & 0o170_000 == 0o100_000;
        field("mode", &format!("{:o}", self.mode), &format!("{:o}", found.mode));
        if !matches!(aspects, Aspects::RestoredByUser) {
            field("uid", &self.uid, &found.uid);
            field("gid", &self.gid, &found.gid);
        }
        if all || !is_dir {
            field("nlink", &self.nlink, &found.nlink);
            field("size", &self.size, &found.size);
        }
        if all {
            field("ino", &self.ino, &found.ino);
            field("blocks", &self.blocks, &found.blocks);
            field("ctime", &self.ctime, &found.ctime);
        } else if found.blocks > self.blocks + 2048 {
            field("blocks", &self.blocks, &found.blocks);
        }
        field("rdev", &self.rdev, &found.rdev);
        field("atime", &self.atime, &found.atime);
        field("mtime", &self.mtime, &found.mtime);
        if !(is_file && matches!(aspects, Aspects::Inode)) {
            field("digest", &self.digest, &found.digest);
        }
    }
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a whole file.
pub fn sha256_of(path: &Path) -> String {
    let mut file = File::open(path).unwrap();
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).unwrap();
    hex(&hash.finalize())
}

fn digest(path: &Path, entry: &Entry) -> String {
    match entry.mode & 0o170_000 {
        0o120_000 => sha256(fs::read_link(path).unwrap().as_os_str().as_bytes()),
        0o100_000 if entry.size <= SPARSE_FROM => sha256_of(path),
        0o100_000 => format!("sparse:{}", sparse_digest(path)),
        _ => "-".into(),
    }
}

/// A digest of all 4 KiB pieces that are not zero, with their offsets: the same wherever the holes are.
fn sparse_digest(path: &Path) -> String {
    let mut file = File::open(path).unwrap();
    let mut hash = Sha256::new();
    let mut piece = [0; 4096];
    let mut offset = 0;
    while let Ok(data) = rustix::fs::seek(file.as_fd(), rustix::fs::SeekFrom::Data(offset)) {
        let hole = rustix::fs::seek(file.as_fd(), rustix::fs::SeekFrom::Hole(data)).unwrap();
        offset = data - data % 4096;
        file.seek(SeekFrom::Start(offset)).unwrap();
        while offset < hole {
            let read = read_full(&mut file, &mut piece);
            if read == 0 {
                break;
            }
            if piece[..read].iter().any(|&byte| byte != 0) {
                hash.update(offset.to_le_bytes());
                hash.update(&piece[..read]);
            }
            offset += 4096;
        }
        offset = offset.max(hole);
    }
    hex(&hash.finalize())
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    loop {
        match file.read(&mut buffer[filled..]).unwrap() {
            0 => return filled,
            read => filled += read,
        }
    }
}

fn parse_line(line: &[u8]) -> (Vec<u8>, Entry) {
    let fields: Vec<&[u8]> = line.splitn(13, |&byte| byte == b'\t').collect();
    let [fields @ .., path] = fields.as_slice() else { panic!("an empty line") };
    let text = |index: usize| std::str::from_utf8(fields[index]).unwrap().to_owned();
    let number = |index: usize| text(index).parse::<u64>().unwrap();
    let entry = Entry {
        mode: u32::from_str_radix(&text(0), 16).unwrap(),
        uid: number(1).try_into().unwrap(),
        gid: number(2).try_into().unwrap(),
        nlink: number(3),
        ino: number(4),
        size: number(5),
        blocks: number(6),
        rdev: text(7),
        atime: text(8),
        mtime: text(9),
        ctime: text(10),
        digest: text(11),
    };
    (path.to_vec(), entry)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
