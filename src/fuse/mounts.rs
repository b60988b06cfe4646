//! The kernel's table of mounts, and taking a mount of ours out of it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::UnmountFlags;

use crate::error::{Error, ErrorKind, Result};

/// The type under which /proc/mounts shows mounts of ours.
pub(super) const FS_TYPE: &str = "fuse.snapbrowse";

/// One line of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// `major:minor` of the mounted file system: no two live mounts of ours share it.
    pub(super) device: String,
    pub(super) mountpoint: PathBuf,
    pub(super) fs_type: String,
    /// The user and group that mounted it, where the file system says so (FUSE does).
    pub(super) owner: Option<(u32, u32)>,
}

impl Mounted {
    /// What is mounted on `mountpoint`, the uppermost where mounts are stacked. The path must be free of links.
    pub(super) fn find(mountpoint: &Path) -> Result<Option<Self>> {
        let table = std::fs::read("/proc/self/mountinfo")
            .map_err(|e| Error::io("read /proc/self/mountinfo", e))?;
        let lines = table.split(|byte| *byte == b'\n');
        Ok(lines.filter_map(Self::parse).rfind(|mounted| mounted.mountpoint == mountpoint))
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
        let mountpoint = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
        // A variable number of optional fields ends with a dash.
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let fs_type = String::from_utf8(fields.next()?.to_vec()).ok()?;
        let super_options = std::str::from_utf8(fields.nth(1)?).ok()?;
        let id = |name| {
            let mut options = super_options.split(',');
            options.find_map(|option| option.strip_prefix(name)).and_then(|id| id.parse().ok())
        };
        let owner = id("user_id=").zip(id("group_id="));
        Some(Self { device, mountpoint, fs_type, owner })
    }

    pub(super) fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    /// Unmounts. Fails where it is in use, unless `lazily`: then it is out of sight at once, and gone when the last
    /// user closes it.
    pub(super) fn unmount(&self, lazily: Lazily) -> Result<()> {
        let shown = self.mountpoint.display();
        if rustix::process::geteuid().is_root() {
            let flags = match lazily {
                Lazily::No => UnmountFlags::NOFOLLOW,
                Lazily::Yes => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
            };
            return rustix::mount::unmount(&self.mountpoint, flags).map_err(|errno| {
                let error = Error::io(format_args!("unmount {shown}"), errno.into());
                if errno == rustix::io::Errno::BUSY { busy(error) } else { error }
            });
        }
        let mut command = Command::new("fusermount3");
        command.arg("-u");
        if lazily == Lazily::Yes {
            command.arg("-z");
        }
        let output =
            command.arg("--").arg(&self.mountpoint).stdin(Stdio::null()).output().map_err(|e| {
                Error::io("run fusermount3", e).with_hint("install the package fuse3")
            })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let error = Error::new(ErrorKind::Io, format!("unmount {shown}: {}", said.trim()));
        Err(if said.contains("busy") { busy(error) } else { error })
    }

    /// Unmounts lazily if it is still there: nothing else that may be mounted in its place by now is touched.
    pub(super) fn clear(&self) -> Result<()> {
        match Self::find(&self.mountpoint)? {
            Some(now) if now.device == self.device && now.is_ours() => self.unmount(Lazily::Yes),
            _ => Ok(()),
        }
    }
}

/// Whether an unmount waits for its users or leaves them what they have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lazily {
    No,
    Yes,
}

fn busy(error: Error) -> Error {
    error.with_hint("a process has a file open in it or works in it; `fuser -vm` names it")
}

/// Spaces, tabs, newlines and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_with_optional_fields_and_a_space_in_its_path() {
        let line = br"36 35 0:45 / /mnt/a\040b\134c ro,nosuid shared:1 master:2 - fuse.snapbrowse iscsi://h/t/1 ro,user_id=1000,group_id=100";
        let mounted = Mounted::parse(line).unwrap();
        assert_eq!(mounted.device, "0:45");
        assert_eq!(mounted.mountpoint, Path::new(r"/mnt/a b\c"));
        assert!(mounted.is_ours());
        assert_eq!(mounted.owner, Some((1000, 100)));
    }

    #[test]
    fn other_mounts_are_not_ours_and_short_lines_are_skipped() {
        let line = b"22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw";
        let mounted = Mounted::parse(line).unwrap();
        assert!(!mounted.is_ours());
        assert_eq!(mounted.owner, None);
        assert_eq!(Mounted::parse(b"22 1 8:1 / / rw,relatime"), None);
        assert_eq!(Mounted::parse(b""), None);
    }

    #[test]
    fn the_root_directory_is_always_mounted() {
        assert!(Mounted::find(Path::new("/")).unwrap().is_some());
        assert_eq!(Mounted::find(Path::new("/no/such/mount")).unwrap(), None);
    }
}
