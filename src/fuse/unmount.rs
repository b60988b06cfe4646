//! Taking a mount away from outside, and waiting for the process behind it.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
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
    let process = process_behind(&mounted)?;
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
fn process_behind(mounted: &Mounted) -> Result<Option<OwnedFd>> {
    let pid = match asked(&mounted.mountpoint) {
        // Not even root may look into a user's mount; the user may.
        Err(rustix::io::Errno::ACCESS) => ask_as_owner(mounted),
        answer => answer.ok(),
    };
    let Some(pid) = pid.and_then(|text| text.trim().parse().ok()).and_then(Pid::from_raw) else {
        return Ok(None);
    };
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => Ok(Some(handle)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(errno) => {
            let what = format!("watch process {}", pid.as_raw_nonzero());
            Err(Error::io(what, errno.into()))
        }
    }
}

/// The number of the process, as it says itself.
fn asked(mountpoint: &Path) -> rustix::io::Result<String> {
    let mut answer = [0; 16];
    let len = rustix::fs::getxattr(mountpoint, PROCESS_XATTR, &mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..len]).into_owned())
}

/// The same, asked by another process under the account of whoever mounted it.
fn ask_as_owner(mounted: &Mounted) -> Option<String> {
    let (user, group) = mounted.owner?;
    let output = Command::new("/proc/self/exe")
        .arg0(ASK_NAME)
        .arg(&mounted.mountpoint)
        .uid(user)
        .gid(group)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()
}

/// The name that such a process is started under, and knows its task by.
pub(super) const ASK_NAME: &str = "snapbrowse-ask";

/// The task of that process, with the arguments after its name.
pub(super) fn ask(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let mountpoint = PathBuf::from(arguments.next()?);
    Some(match asked(&mountpoint) {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    })
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
