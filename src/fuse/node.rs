//! Inodes as the FUSE protocol names and describes them.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, INodeNo};

use crate::fs::{Attr, DeviceNumber, FileType, Ino, Timestamp};

/// FUSE calls the root node 1, and ext calls it inode 2. The two numbers change places and every other inode keeps
/// its own, so no two nodes share a number, not even where a damaged directory names inode 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nodes {
    root: Ino,
}

impl Nodes {
    pub(super) fn new(root: Ino) -> Self {
        Self { root }
    }

    /// The inode behind a node that the kernel names.
    pub(super) fn ino(self, node: INodeNo) -> Ino {
        self.swap(Ino(node.0))
    }

    /// The node that stands for an inode.
    pub(super) fn node(self, ino: Ino) -> INodeNo {
        INodeNo(self.swap(ino).0)
    }

    fn swap(self, ino: Ino) -> Ino {
        match ino {
            Ino(1) => self.root,
            ino if ino == self.root => Ino(1),
            ino => ino,
        }
    }
}

pub(super) fn file_type(file_type: FileType) -> fuser::FileType {
    match file_type {
        FileType::Regular => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
    }
}

/// How owners and permissions are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// All files are this user's.
    pub uid: Option<u32>,
    /// All files are this group's.
    pub gid: Option<u32>,
    /// No file has these permissions.
    pub umask: u16,
}

impl Shown {
    /// An access ACL (`system.posix_acl_access` or `_default`, as the kernel hands it out) under the same umask: where
    /// there is one it decides, and the mode does not. Anything else stays as it is.
    pub(super) fn mask_acl(self, name: &[u8], mut value: Vec<u8>) -> Vec<u8> {
        if !name.starts_with(b"system.posix_acl_") {
            return value;
        }
        // A version (32 bits), then entries of a tag and permissions (16 bits each) and an id (32 bits), all little-endian.
        for entry in value.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
            let class = match entry[0] {
                0x01 => self.umask >> 6, // ACL_USER_OBJ
                0x20 => self.umask,      // ACL_OTHER
                _ => self.umask >> 3,
            };
            entry[2] &= !(class & 7) as u8;
        }
        value
    }
}

/// What `stat` shows, under the number `ino`.
pub(super) fn file_attr(ino: u64, attr: &Attr, shown: Shown) -> FileAttr {
    let mtime = system_time(attr.mtime);
    FileAttr {
        ino: INodeNo(ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime,
        ctime: system_time(attr.ctime),
        crtime: attr.crtime.map_or(mtime, system_time),
        kind: file_type(attr.file_type),
        perm: attr.permissions & !shown.umask,
        nlink: attr.nlink,
        uid: shown.uid.unwrap_or(attr.uid),
        gid: shown.gid.unwrap_or(attr.gid),
        rdev: encode_device(attr.rdev),
        blksize: 4096,
        flags: 0,
    }
}

/// Stands for an inode that cannot be read, in a listing with attributes: its name and its type are known, and with
/// no time to live the kernel asks again before it shows anything more, and is then told the error.
pub(super) fn unreadable(ino: Ino, file_type: Option<FileType>) -> FileAttr {
    let attr = Attr {
        ino,
        file_type: file_type.unwrap_or(FileType::Regular),
        permissions: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: DeviceNumber::default(),
        size: 0,
        blocks: 0,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        crtime: None,
        generation: 0,
    };
    file_attr(ino.0, &attr, Shown::default())
}

fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let second = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    second
        .and_then(|second| second.checked_add(Duration::from_nanos(time.nanoseconds.into())))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The kernel's 32-bit form (`new_encode_dev`): 12 bits of major number in the middle of 20 bits of minor number.
fn encode_device(device: DeviceNumber) -> u32 {
    (device.minor & 0xff) | ((device.major & 0xfff) << 8) | ((device.minor & 0xf_ff00) << 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_and_inode_1_change_places() {
        let nodes = Nodes::new(Ino(2));
        assert_eq!(nodes.node(Ino(2)), INodeNo::ROOT);
        assert_eq!(nodes.ino(INodeNo::ROOT), Ino(2));
        assert_eq!(nodes.node(Ino(1)), INodeNo(2));
        assert_eq!(nodes.ino(INodeNo(2)), Ino(1));
        assert_eq!(nodes.node(Ino(11)), INodeNo(11));
        assert_eq!(nodes.ino(INodeNo(11)), Ino(11));
    }

    #[test]
    fn a_root_that_is_inode_1_stays() {
        let nodes = Nodes::new(Ino(1));
        assert_eq!(nodes.node(Ino(1)), INodeNo::ROOT);
        assert_eq!(nodes.ino(INodeNo(2)), Ino(2));
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds_after_the_second() {
        let time = system_time(Timestamp { seconds: -2, nanoseconds: 750_000_000 });
        let before = SystemTime::UNIX_EPOCH.duration_since(time).unwrap();
        assert_eq!(before, Duration::from_millis(1250));
        let end_of_ext4 = system_time(Timestamp { seconds: 15_032_385_535, nanoseconds: 1 });
        assert_eq!(
            end_of_ext4.duration_since(SystemTime::UNIX_EPOCH).unwrap(),
            Duration::new(15_032_385_535, 1)
        );
    }

    #[test]
    fn large_device_numbers_are_packed_as_the_kernel_packs_them() {
        assert_eq!(encode_device(DeviceNumber { major: 8, minor: 1 }), 0x801);
        assert_eq!(encode_device(DeviceNumber { major: 0xabc, minor: 0xd_ef12 }), 0xdefa_bc12);
    }

    #[test]
    fn an_acl_gives_no_more_than_the_umask_leaves() {
        let entry = |tag: u8, permissions: u8| [tag, 0, permissions, 0, 9, 0, 0, 0];
        let acl = |permissions: [u8; 4]| {
            let tags = [0x01, 0x02, 0x10, 0x20];
            let entries = tags.into_iter().zip(permissions).flat_map(|(tag, p)| entry(tag, p));
            [2, 0, 0, 0].into_iter().chain(entries).collect::<Vec<u8>>()
        };
        let shown = Shown { umask: 0o027, ..Shown::default() };
        let masked = shown.mask_acl(b"system.posix_acl_access", acl([7, 7, 6, 5]));
        assert_eq!(masked, acl([7, 5, 4, 0]));
        assert_eq!(shown.mask_acl(b"user.x", acl([7; 4])), acl([7; 4]));
        assert_eq!(shown.mask_acl(b"system.posix_acl_access", vec![2, 0]), [2, 0]);
    }
}
