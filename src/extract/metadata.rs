//! Owner, mode, extended attributes and times of what was restored.

use std::ffi::{CStr, CString};
use std::fmt::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::{Errno, Result};

use crate::error::Error;
use crate::fs::{Attr, FileType, Timestamp};

/// Names with their values.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Permission bits that make a program run with its owner's or group's rights.
const SET_ID: u16 = 0o6000;

/// The permissions of the owning group; with an ACL, its mask.
pub(super) const GROUP: u16 = 0o070;

/// The attributes that hold the ACL of a file or directory, and that of what is made in a directory.
pub(super) const ACCESS_ACL: &CStr = c"system.posix_acl_access";
pub(super) const DEFAULT_ACL: &CStr = c"system.posix_acl_default";

/// Sets everything that `attr` and `xattrs` say, in the only order in which no step undoes or forbids another: a change
/// of owner clears set-id bits and capabilities, a mode without write permission closes a file to attributes of its
/// owner, and everything changes times.
///
/// Returns what could not be kept, in words; empty where all was.
pub(super) fn apply(target: Target<'_>, attr: &Attr, xattrs: &Xattrs, rights: Rights) -> String {
    let mut lost = Lost(String::new());
    let mut permissions = attr.permissions;
    match rights {
        Rights::Root => {
            if let Err(error) = target.set_owner(attr.uid, attr.gid) {
                lost.add(&format!("owner {}:{}", attr.uid, attr.gid), error);
                permissions &= !SET_ID;
            }
        }
        Rights::User => permissions &= !SET_ID,
    }
    // With another owner these bits would lend out the wrong identity.
    if permissions != attr.permissions {
        lost.add("set-id bits", Errno::PERM);
    }
    for (name, value) in xattrs {
        let set =
            if rights.may_set(name) { target.set_xattr(name, value) } else { Err(Errno::PERM) };
        if let Err(error) = set {
            lost.add(&format!("attribute {}", String::from_utf8_lossy(name)), error);
            // They were its mask; without it the owning group would get what the ACL denies.
            if *name == ACCESS_ACL.to_bytes() && permissions & GROUP != 0 {
                lost.add("the group's permissions", error);
                permissions &= !GROUP;
            }
        }
    }
    if attr.file_type != FileType::Symlink {
        lost.check("mode", target.set_mode(permissions));
    }
    lost.check("times", target.set_times(attr.atime, attr.mtime));
    lost.0
}

/// What of a directory is not as `attr` and `xattrs` say, in words, as far as we could set it; empty where nothing is.
/// Times are not compared: what was put into the directory has changed them.
pub(super) fn difference(
    directory: impl AsFd,
    attr: &Attr,
    xattrs: &Xattrs,
    rights: Rights,
) -> std::io::Result<String> {
    let found = rustix::fs::fstat(&directory)?;
    let mut different = Vec::new();
    if rights == Rights::Root && (found.st_uid, found.st_gid) != (attr.uid, attr.gid) {
        different.push("owner".to_owned());
    }
    if Mode::from_raw_mode(found.st_mode) != Mode::from_raw_mode(attr.permissions.into()) {
        different.push("mode".to_owned());
    }
    for (name, value) in xattrs {
        // One byte more than it should have, so that a longer one does not fit or shows.
        let mut held = vec![0; value.len() + 1];
        let key = CString::new(name.as_slice())?;
        match rustix::fs::fgetxattr(&directory, &key, &mut held) {
            Ok(len) if held[..len] == **value => {}
            _ => different.push(format!("attribute {}", String::from_utf8_lossy(name))),
        }
    }
    Ok(different.join(", "))
}

/// What the system lets us set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    /// Everything.
    Root,
    /// Not the owner, and of the extended attributes only `user.*` and ACLs.
    User,
}

impl Rights {
    pub(super) fn ours() -> Self {
        if rustix::process::geteuid().is_root() { Self::Root } else { Self::User }
    }

    /// Whether an attribute of this name can be set at all.
    pub(super) fn may_set(self, xattr: &[u8]) -> bool {
        self == Self::Root || xattr.starts_with(b"user.") || xattr.starts_with(b"system.posix_acl_")
    }
}

/// What is being finished.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// A file or directory that is open.
    Open(BorrowedFd<'a>),
    /// Something that cannot be opened for this (links, devices), under its temporary name.
    Named(BorrowedFd<'a>, &'a CStr),
}

impl Target<'_> {
    fn set_owner(self, uid: u32, gid: u32) -> Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match self {
            Self::Open(fd) => rustix::fs::fchown(fd, uid, gid),
            Self::Named(directory, name) => {
                rustix::fs::chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    fn set_mode(self, permissions: u16) -> Result<()> {
        let mode = Mode::from_raw_mode(permissions.into());
        match self {
            Self::Open(fd) => rustix::fs::fchmod(fd, mode),
            // The name is our own temporary one, so there is no link to follow.
            Self::Named(directory, name) => {
                rustix::fs::chmodat(directory, name, mode, AtFlags::empty())
            }
        }
    }

    fn set_xattr(self, name: &[u8], value: &[u8]) -> Result<()> {
        let key = CString::new(name).map_err(|_| Errno::INVAL)?;
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, &key, value, XattrFlags::empty()),
            Self::Named(directory, name) => {
                rustix::fs::lsetxattr(path(directory, name), &key, value, XattrFlags::empty())
            }
        }
    }

    /// Takes away what something new got from the directory that it was made in: the image names all who have access.
    pub(super) fn remove_acls(self) -> Result<()> {
        for acl in [ACCESS_ACL, DEFAULT_ACL] {
            let removed = match self {
                Self::Open(fd) => rustix::fs::fremovexattr(fd, acl),
                Self::Named(directory, name) => {
                    rustix::fs::lremovexattr(path(directory, name), acl)
                }
            };
            match removed {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn set_times(self, atime: Timestamp, mtime: Timestamp) -> Result<()> {
        let timespec =
            |time: Timestamp| Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
        let times = Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) };
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, &times),
            Self::Named(directory, name) => {
                rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }
}

impl<'a> Target<'a> {
    pub(super) fn open(fd: &'a impl AsFd) -> Self {
        Self::Open(fd.as_fd())
    }

    pub(super) fn named((directory, name): (&'a impl AsFd, &'a CStr)) -> Self {
        Self::Named(directory.as_fd(), name)
    }
}

/// There is no call for attributes that takes a directory and a name; /proc leads through the open directory.
fn path(directory: BorrowedFd<'_>, name: &CStr) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    path
}

/// What could not be kept, as one sentence.
struct Lost(String);

impl Lost {
    fn check(&mut self, what: &str, result: Result<()>) {
        if let Err(error) = result {
            self.add(what, error);
        }
    }

    fn add(&mut self, what: &str, error: Errno) {
        let separator = if self.0.is_empty() { "" } else { ", " };
        // Writing to a String cannot fail.
        let failure = Error::io(format_args!("{what} not kept"), error.into());
        let _ = write!(self.0, "{separator}{}", failure.message());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::memory::MemoryFs;

    #[test]
    fn an_ordinary_user_is_told_what_is_left_out() {
        let mut image = MemoryFs::new();
        let ino = image.file("/su", b"");
        let mut attr = image.node(ino).attr.clone();
        attr.permissions = 0o4751;
        let xattrs: Xattrs = [&b"security.selinux"[..], b"trusted.x", b"user.x"]
            .map(|name| (name.to_vec(), b"v".to_vec()))
            .into();
        let file = tempfile::NamedTempFile::new().unwrap();
        let lost = apply(Target::open(file.as_file()), &attr, &xattrs, Rights::User);
        let parts: Vec<&str> = lost.split(", ").collect();
        let why = "not kept: Operation not permitted";
        assert_eq!(parts.len(), 3, "{lost}");
        for (part, what) in parts.iter().zip(["set-id bits", "security.selinux", "trusted.x"]) {
            assert!(part.contains(what) && part.contains(why), "{lost}");
        }
        let stat = rustix::fs::fstat(&file).unwrap();
        assert_eq!(stat.st_mode & 0o7777, 0o751);
    }
}
