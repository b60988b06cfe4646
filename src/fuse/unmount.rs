//! Taking a mount away from outside, and waiting for the process behind it.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

use super::farewell::Outcome;
use super::mounts::{Lazily, Mounted};
use super::serve::PROCESS_XATTR;
use crate::error::{Error, ErrorKind, Result};

/// Unmounts `path` and returns when the process behind it is gone, with what it says of its end: whether its session is
/// logged out by then, and the snapshot revoked. `None` where there was no such process, or where it was killed over it.
///
/// The process is asked for its number through the mount itself, so there is no file to go stale; one that was
/// killed answers nothing, and its mount is only cleared away.
///
/// # Errors
/// [`ErrorKind::NotFound`] where no mount of ours is there, [`ErrorKind::Io`] where it is in use,
/// [`ErrorKind::Timeout`] where the process outlives `patience`.
pub fn unmount(path: &Path, patience: Duration) -> Result<Option<Outcome>> {
    let mountpoint = resolve(path).map_err(|error| Error::io(path.display(), error))?;
    let mounted = Mounted::find(&mountpoint)?.filter(Mounted::is_ours).ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            format!("{}: nothing of snapbrowse's is mounted there", path.display()),
        )
    })?;
    let process = process_behind(&mounted)?;
    mounted.unmount(Lazily::No)?;
    let Some(process) = process else { return Ok(None) };
    wait(&process.handle, patience).map_err(|error| error.context(path.display()))?;
    Ok(process.memory.and_then(Outcome::read))
}

/// The path without links. A dead mount cannot be looked at, but the directory that it lies in can.
pub(super) fn resolve(path: &Path) -> std::io::Result<PathBuf> {
    path.canonicalize().or_else(|error| {
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Err(error),
        };
        match path.file_name() {
            Some(name) if error.kind() != std::io::ErrorKind::NotFound => {
                Ok(parent.canonicalize()?.join(name))
            }
            _ => Err(error),
        }
    })
}

/// The process that serves a mount.
struct Process {
    handle: OwnedFd,
    /// Where it tells the outcome.
    memory: Option<File>,
}

/// The process that serves a mount; `None` where there is none any more, or where it does not say.
fn process_behind(mounted: &Mounted) -> Result<Option<Process>> {
    let answer = match asked(&mounted.mountpoint) {
        // Not even root may look into a user's mount; the user may.
        Err(rustix::io::Errno::ACCESS) => ask_as_owner(mounted),
        answer => answer.ok(),
    };
    let answer = answer.unwrap_or_default();
    let mut numbers = answer.split_whitespace().map_while(|text| text.parse::<i32>().ok());
    let Some(pid) = numbers.next().and_then(Pid::from_raw) else { return Ok(None) };
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => {
            let memory = numbers.next().and_then(|number| {
                File::open(format!("/proc/{}/fd/{number}", pid.as_raw_nonzero())).ok()
            });
            Ok(Some(Process { handle, memory }))
        }
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(errno) => {
            let what = format!("watch process {}", pid.as_raw_nonzero());
            Err(Error::io(what, errno.into()))
        }
    }
}

/// The numbers of the process and of the descriptor, as it says itself.
pub(super) fn asked(mountpoint: &Path) -> rustix::io::Result<String> {
    let mut answer = [0; 32];
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
