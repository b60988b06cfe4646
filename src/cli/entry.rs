//! One file of the image as `ls`, `stat` and `find` show it.

use serde::Serialize;

use crate::error::Result;
use crate::fs::{Attr, FileType, Filesystem};

use super::output::{json_name, rfc3339};

/// A path with what it stands for.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The path in the image, or a name in a directory.
    pub(crate) path: Vec<u8>,
    pub(crate) attr: Attr,
    /// Where a symbolic link points.
    pub(crate) target: Option<Vec<u8>>,
}

impl Entry {
    /// Reads what a link points to, if it is one.
    pub(crate) async fn read(
        filesystem: &dyn Filesystem,
        path: Vec<u8>,
        attr: Attr,
    ) -> Result<Self> {
        let target = match attr.file_type {
            FileType::Symlink => Some(filesystem.readlink(attr.ino).await?),
            _ => None,
        };
        Ok(Self { path, attr, target })
    }

    /// The entry as JSON has it.
    pub(crate) fn to_json(&self) -> EntryJson {
        let (path, path_bytes) = json_name(&self.path);
        let (target, target_bytes) = self.target.as_deref().map(json_name).unzip();
        let attr = &self.attr;
        let device = matches!(attr.file_type, FileType::BlockDevice | FileType::CharDevice);
        EntryJson {
            path,
            path_bytes,
            file_type: type_name(attr.file_type),
            target,
            target_bytes: target_bytes.flatten(),
            inode: attr.ino.0,
            mode: format!("{:04o}", attr.permissions),
            links: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            size: attr.size,
            blocks: attr.blocks,
            device: device.then(|| format!("{}:{}", attr.rdev.major, attr.rdev.minor)),
            atime: rfc3339(attr.atime),
            mtime: rfc3339(attr.mtime),
            ctime: rfc3339(attr.ctime),
            crtime: attr.crtime.map(rfc3339),
        }
    }
}

/// See [`Entry::to_json`].
#[derive(Debug, Serialize)]
pub(crate) struct EntryJson {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    #[serde(rename = "type")]
    file_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_bytes: Option<String>,
    inode: u64,
    mode: String,
    links: u32,
    uid: u32,
    gid: u32,
    size: u64,
    /// In units of 512 bytes.
    blocks: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    atime: String,
    mtime: String,
    ctime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    crtime: Option<String>,
}

/// The kind of a file in words.
pub(crate) fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::BlockDevice => "block device",
        FileType::CharDevice => "character device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
    }
}

/// The ten characters of `ls -l`.
pub(crate) fn mode_string(attr: &Attr) -> String {
    let kind = match attr.file_type {
        FileType::Regular => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::BlockDevice => 'b',
        FileType::CharDevice => 'c',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
    };
    let mut shown = String::with_capacity(10);
    shown.push(kind);
    // Owner, group, others: read, write, and execute joined with the set-id or sticky bit.
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = attr.permissions >> shift;
        shown.push(if bits & 4 != 0 { 'r' } else { '-' });
        shown.push(if bits & 2 != 0 { 'w' } else { '-' });
        shown.push(match (bits & 1 != 0, attr.permissions & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::memory::MemoryFs;

    #[tokio::test]
    async fn modes_as_ls_shows_them() {
        let mut fs = MemoryFs::new();
        let ino = fs.file("/f", b"");
        for (permissions, shown) in [
            (0o644, "-rw-r--r--"),
            (0o4755, "-rwsr-xr-x"),
            (0o6640, "-rwSr-S---"),
            (0o1777, "-rwxrwxrwt"),
        ] {
            fs.node(ino).attr.permissions = permissions;
            assert_eq!(mode_string(&fs.getattr(ino).await.unwrap()), shown);
        }
    }
}
