//! Taking a mount away from outside, and waiting for the process behind it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

use super::mounts::{Lazily, Mounted};
use super::serve::PROCESS_XATTR;
use crate::error::{Error, ErrorKind, Result};

/// Unmounts `path` and returns when the process behind it is gone: its session is logged out by then, and the
/// snapshot can be revoked.
///
/// The process is asked for its number through the mount itself, so there is no file to go stale; one that was
/// killed answers nothing, and its mount is only cleared away.
///
/// # Errors
/// [`ErrorKind::NotFound`] where no mount of ours is there, [`ErrorKind::Io`] where it is in use,
/// [`ErrorKind::Timeout`] where the process outlives `patience`.
pub fn unmount(path: &Path, patience: Duration) -> Result<()> {
    let mountpoint = resolve(path)?;
    let mounted = Mounted::find(&mountpoint)?.filter(Mounted::is_ours).ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            format!("{}: nothing of snapbrowse's is mounted there", path.display()),
        )
    })?;
    let process = process_behind(&mountpoint)?;
    mounted.unmount(Lazily::No)?;
    match process {
        Some(process) => wait(&process, patience).map_err(|error| error.context(path.display())),
        None => Ok(()),
    }
}

/// The path without links. A dead mount cannot be looked at, but the directory that it lies in can.
fn resolve(path: &Path) -> Result<PathBuf> {
    path.canonicalize()
        .or_else(|error| {
            let parent = match path.parent() {
                Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
                Some(parent) => parent,
                None => return Err(error),
            };
            match path.file_name() {
                Some(name) => Ok(parent.canonicalize()?.join(name)),
                None => Err(error),
            }
        })
        .map_err(|error| Error::io(path.display(), error))
}

/// A handle on the process that serves a mount; `None` where there is none any more, or where it does not say.
fn process_behind(mountpoint: &Path) -> Result<Option<OwnedFd>> {
    let mut answer = [0; 16];
    let Ok(len) = rustix::fs::getxattr(mountpoint, PROCESS_XATTR, &mut answer) else {
        return Ok(None);
    };
    let pid = std::str::from_utf8(&answer[..len])
        .ok()
        .and_then(|text| text.parse().ok())
        .and_then(Pid::from_raw);
    let Some(pid) = pid else { return Ok(None) };
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => Ok(Some(handle)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(errno) => {
            Err(Error::io(format_args!("watch process {}", pid.as_raw_nonzero()), errno.into()))
        }
    }
}

fn wait(process: &OwnedFd, patience: Duration) -> Result<()> {
    let timeout = Timespec::try_from(patience)
        .map_err(|_| Error::new(ErrorKind::Usage, "a timeout beyond all bounds"))?;
    let mut ready = [PollFd::new(process, PollFlags::IN)];
    // An interrupted wait counts as over: whoever interrupts does not want to wait.
    match rustix::event::poll(&mut ready, Some(&timeout)) {
        Ok(0) => Err(Error::new(
            ErrorKind::Timeout,
            format!("unmounted, but not logged out after {}", humantime::format_duration(patience)),
        )),
        Ok(_) => Ok(()),
        Err(errno) => Err(Error::io("wait for the logout", errno.into())),
    }
}
