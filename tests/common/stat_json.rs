//! `snapbrowse stat --json` as a manifest.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use base64::Engine as _;
use serde_json::Value;

use super::manifest::{Entry, Manifest};
use super::{Snapbrowse, sha256};

/// As many paths as surely fit into one command line.
const AT_ONCE: usize = 4000;

impl Manifest {
    /// Asks `stat` for every path in `paths` (`./a/b`, as manifests name them). It does not read contents: the digest of a regular
    /// file is empty.
    pub fn of_stat<'a>(
        snapbrowse: &Snapbrowse,
        source: &str,
        paths: impl Iterator<Item = &'a Vec<u8>>,
    ) -> Self {
        let mut manifest = Self::default();
        let paths: Vec<&[u8]> = paths.map(|path| &path[1..]).collect();
        for paths in paths.chunks(AT_ONCE) {
            let mut arguments = ["stat", "--json", source].map(OsString::from).to_vec();
            let name = |path: &[u8]| if path.is_empty() { b"/".to_vec() } else { path.to_vec() };
            arguments.extend(paths.iter().map(|path| OsString::from_vec(name(path))));
            let output = snapbrowse.run(arguments);
            let lines: Vec<&[u8]> = output.trim_ascii_end().split(|&byte| byte == b'\n').collect();
            assert_eq!(lines.len(), paths.len(), "one line for each path");
            for line in lines {
                let (path, entry) = parse(&serde_json::from_slice(line).unwrap());
                let below_root = path.strip_suffix(b"/").unwrap_or(&path);
                manifest.0.insert([b".", below_root].concat(), entry);
            }
        }
        manifest
    }
}

fn parse(stat: &Value) -> (Vec<u8>, Entry) {
    let text = |field: &str| stat[field].as_str().unwrap_or_else(|| panic!("no {field} in {stat}"));
    let number =
        |field: &str| stat[field].as_u64().unwrap_or_else(|| panic!("no {field} in {stat}"));
    let (type_bits, digest) = match text("type") {
        "file" => (0o100_000, String::new()),
        "symlink" => (0o120_000, sha256(&name(stat, "target"))),
        "directory" => (0o040_000, "-".into()),
        "block device" => (0o060_000, "-".into()),
        "character device" => (0o020_000, "-".into()),
        "fifo" => (0o010_000, "-".into()),
        other => panic!("{other}"),
    };
    let device = stat.get("device").and_then(Value::as_str).unwrap_or("0:0");
    let (major, minor) = device.split_once(':').unwrap();
    let entry = Entry {
        mode: type_bits | u32::from_str_radix(text("mode"), 8).unwrap(),
        uid: number("uid").try_into().unwrap(),
        gid: number("gid").try_into().unwrap(),
        nlink: number("links"),
        ino: number("inode"),
        size: number("size"),
        blocks: number("blocks"),
        rdev: format!("{:x}:{:x}", major.parse::<u32>().unwrap(), minor.parse::<u32>().unwrap()),
        atime: time(text("atime")),
        mtime: time(text("mtime")),
        ctime: time(text("ctime")),
        digest,
    };
    (name(stat, "path"), entry)
}

/// A name that may have a second field, in base64, because it is not UTF-8.
fn name(stat: &Value, field: &str) -> Vec<u8> {
    match stat.get(format!("{field}_bytes")).and_then(Value::as_str) {
        Some(bytes) => base64::engine::general_purpose::STANDARD.decode(bytes).unwrap(),
        None => stat[field].as_str().unwrap().as_bytes().to_vec(),
    }
}

fn time(rfc3339: &str) -> String {
    let time: jiff::Timestamp = rfc3339.parse().unwrap();
    let nanoseconds = time.as_nanosecond();
    format!(
        "{}.{:09}",
        nanoseconds.div_euclid(1_000_000_000),
        nanoseconds.rem_euclid(1_000_000_000)
    )
}
