//! One member's header in a PAX archive (POSIX.1-2024, `pax`, "pax Interchange Format"): a ustar header, and before
//! it an extended header with what ustar has no room for.

use bytes::Bytes;
use tar::{EntryType, Header};

use crate::fs::{Attr, FileType, Timestamp};

use super::metadata::Xattrs;

/// Archives are made of blocks of this size.
pub(super) const BLOCK: u64 = 512;

/// The longest name and link target that ustar holds without its prefix field.
const USTAR_NAME: usize = 100;

/// The largest user or group that seven octal digits hold.
const USTAR_ID: u32 = 0o7_777_777;

/// The largest size that eleven octal digits hold.
const USTAR_SIZE: u64 = 0o77_777_777_777;

/// What a member is, beyond its attributes.
pub(super) enum Kind<'a> {
    /// By its own type.
    Plain,
    /// The target of a symbolic link.
    Symlink(&'a [u8]),
    /// Another name of a member that was written before.
    HardLink(&'a [u8]),
    /// A file with holes, in version 1.0 of GNU tar's sparse format: a map of this many bytes and the data together.
    Sparse {
        /// Bytes that follow the header, without padding.
        stored: u64,
    },
}

/// The header blocks of a member called `name`.
pub(super) fn header(name: &[u8], attr: &Attr, xattrs: &Xattrs, kind: &Kind<'_>) -> Bytes {
    let mut records = Records::default();
    let mut header = Header::new_ustar();
    let (entry_type, size) = match kind {
        Kind::HardLink(_) => (EntryType::Link, 0),
        Kind::Sparse { stored } => (EntryType::Regular, *stored),
        Kind::Plain | Kind::Symlink(_) => match attr.file_type {
            FileType::Regular => (EntryType::Regular, attr.size),
            FileType::Directory => (EntryType::Directory, 0),
            FileType::Symlink => (EntryType::Symlink, 0),
            FileType::BlockDevice => (EntryType::Block, 0),
            FileType::CharDevice => (EntryType::Char, 0),
            FileType::Fifo | FileType::Socket => (EntryType::Fifo, 0),
        },
    };
    header.set_entry_type(entry_type);
    header.set_size(size);
    if size > USTAR_SIZE {
        records.add("size", size.to_string().as_bytes());
    }
    if let Kind::Sparse { .. } = kind {
        records.add("GNU.sparse.major", b"1");
        records.add("GNU.sparse.minor", b"0");
        records.add("GNU.sparse.name", name);
        records.add("GNU.sparse.realsize", attr.size.to_string().as_bytes());
        // A reader that does not know the format shows by this name that it does not.
        put_name(&mut header.as_old_mut().name, &sparse_name(name));
    } else if !put_name(&mut header.as_old_mut().name, name) {
        records.add("path", name);
    }
    if let Kind::Symlink(target) | Kind::HardLink(target) = kind {
        if !put_name(&mut header.as_old_mut().linkname, target) {
            records.add("linkpath", target);
        }
    }
    header.set_mode(attr.permissions.into());
    for (key, id) in [("uid", attr.uid), ("gid", attr.gid)] {
        if id > USTAR_ID {
            records.add(key, id.to_string().as_bytes());
        }
    }
    header.set_uid(attr.uid.min(USTAR_ID).into());
    header.set_gid(attr.gid.min(USTAR_ID).into());
    if matches!(attr.file_type, FileType::BlockDevice | FileType::CharDevice) {
        // Numbers beyond seven octal digits do not exist on Linux.
        let set = header
            .set_device_major(attr.rdev.major)
            .and_then(|()| header.set_device_minor(attr.rdev.minor));
        set.expect("a ustar header has device numbers");
    }
    header.set_mtime(u64::try_from(attr.mtime.seconds).unwrap_or(0).min(USTAR_SIZE));
    records.add("mtime", time(attr.mtime).as_bytes());
    records.add("atime", time(attr.atime).as_bytes());
    if !matches!(kind, Kind::HardLink(_)) {
        for (name, value) in xattrs {
            records.add(xattr_key(name), value);
        }
    }
    header.set_cksum();

    let mut blocks = records.blocks();
    blocks.extend_from_slice(header.as_bytes());
    blocks.into()
}

/// A key ends at its first `=`, so GNU tar writes names with one, and with the `%` of that, in other words.
fn xattr_key(name: &[u8]) -> Vec<u8> {
    let mut key = b"SCHILY.xattr.".to_vec();
    for byte in name {
        match byte {
            b'=' => key.extend_from_slice(b"%3D"),
            b'%' => key.extend_from_slice(b"%25"),
            byte => key.push(*byte),
        }
    }
    key
}

/// Zeros up to the next whole block.
pub(super) fn padding(len: u64) -> usize {
    // Less than a block.
    (len.next_multiple_of(BLOCK) - len) as usize
}

/// GNU tar's `%d/GNUSparseFile.%p/%f`.
fn sparse_name(name: &[u8]) -> Vec<u8> {
    let (directory, file) = match name.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => name.split_at(slash + 1),
        None => (&b"./"[..], name),
    };
    let mut placed = [directory, b"GNUSparseFile.0/", file].concat();
    placed.truncate(USTAR_NAME);
    placed
}

/// Puts a name into a field of 100 bytes; says whether it fits.
fn put_name(field: &mut [u8; USTAR_NAME], name: &[u8]) -> bool {
    let len = name.len().min(USTAR_NAME);
    field[..len].copy_from_slice(&name[..len]);
    name.len() <= USTAR_NAME
}

/// Seconds with nanoseconds as a decimal fraction, negative before 1970.
fn time(time: Timestamp) -> String {
    let Timestamp { seconds, nanoseconds } = time;
    match (seconds, nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (seconds @ 0.., nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
        // Our nanoseconds count forwards: -0.25 s is second -1 and 750,000,000 ns.
        (seconds, nanoseconds) => {
            format!(
                "-{}.{:09}",
                seconds.saturating_add(1).unsigned_abs(),
                1_000_000_000 - nanoseconds
            )
        }
    }
}

/// The extended header: `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn add(&mut self, key: impl AsRef<[u8]>, value: &[u8]) {
        let rest = key.as_ref().len() + value.len() + 3;
        let mut len = rest + digits(rest);
        if digits(len) > digits(rest) {
            len += 1;
        }
        self.0.extend_from_slice(format!("{len} ").as_bytes());
        self.0.extend_from_slice(key.as_ref());
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    /// The header's own header, then the records, padded.
    fn blocks(self) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        put_name(&mut header.as_old_mut().name, b"./PaxHeaders/member");
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(self.0.len() as u64);
        header.set_cksum();
        let mut blocks = header.as_bytes().to_vec();
        blocks.extend_from_slice(&self.0);
        blocks.resize(blocks.len() + padding(self.0.len() as u64), 0);
        blocks
    }
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for value in 0..2000 {
            let mut records = Records::default();
            records.add("k", &vec![b'v'; value]);
            let text = String::from_utf8(records.0).unwrap();
            let (len, _) = text.split_once(' ').unwrap();
            assert_eq!(len.parse::<usize>().unwrap(), text.len());
        }
    }

    /// As `tar --xattrs -c` of GNU tar 1.34 writes them.
    #[test]
    fn an_attribute_name_does_not_end_at_its_own_equals_sign() {
        assert_eq!(xattr_key(b"user.a=b"), b"SCHILY.xattr.user.a%3Db");
        assert_eq!(xattr_key(b"user.%3D"), b"SCHILY.xattr.user.%253D");
        assert_eq!(xattr_key(b"user.plain"), b"SCHILY.xattr.user.plain");
    }

    #[test]
    fn times_before_1970() {
        let at = |seconds, nanoseconds| time(Timestamp { seconds, nanoseconds });
        assert_eq!(at(5, 0), "5");
        assert_eq!(at(5, 1), "5.000000001");
        assert_eq!(at(-5, 0), "-5");
        assert_eq!(at(-1, 750_000_000), "-0.250000000");
        assert_eq!(at(-2, 1), "-1.999999999");
    }
}
