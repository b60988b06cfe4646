//! Going on in the background, without `fork`: the program starts itself again with the same arguments and waits
//! until the second process says that it is ready, or ends.
//!
//! Everything that can fail (the login, the mount) happens in the second process while it still shares the first
//! one's terminal and process group: its messages are seen, Ctrl-C reaches it, and autofs, which knows its own
//! mounts by their process group, lets it through. Only then does it leave.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

use crate::error::{Error, ErrorKind, Result};

use super::log;

/// Names the process that waits. It must be the parent, so that no process further down mistakes itself.
const WAITING: &str = "SNAPBROWSE_WAITING";

/// This process is to go on in the background.
#[derive(Debug)]
pub(crate) struct Background(());

impl Background {
    /// Whether this is the second process.
    pub(crate) fn is_wanted() -> Option<Self> {
        let waiting: i32 = std::env::var(WAITING).ok()?.parse().ok()?;
        let parent = rustix::process::getppid()?.as_raw_nonzero().get();
        if parent != waiting {
            return None;
        }
        // It was started as /proc/self/exe; ps and pgrep are to find it by its name. Only that is lost on failure.
        let _ = rustix::thread::set_name(c"snapbrowse");
        Some(Self(()))
    }

    /// Lets the first process end with success, and leaves its session, its terminal and its directory.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`] where nobody waits any more.
    pub(crate) fn ready(self) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("go to the background", error);
        rustix::process::setsid().map_err(|errno| failed(errno.into()))?;
        rustix::process::chdir("/").map_err(|errno| failed(errno.into()))?;
        log::to_syslog();
        let null = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(|error| Error::io("open /dev/null", error))?;
        std::io::stdout().write_all(&[READY]).and_then(|()| std::io::stdout().flush()).map_err(
            |_| Error::new(ErrorKind::Interrupted, "nobody waits for the mount any more"),
        )?;
        rustix::stdio::dup2_stdout(&null).map_err(|errno| failed(errno.into()))?;
        rustix::stdio::dup2_stderr(&null).map_err(|errno| failed(errno.into()))
    }
}

/// What the second process writes to its standard output, a pipe, when it is ready.
const READY: u8 = b'\n';

/// Starts the second process; returns when it is ready, or with its exit code.
///
/// # Errors
/// Where it cannot be started, or is killed.
pub(crate) fn start() -> Result<ExitCode> {
    let failed = |error| Error::io("start a process in the background", error);
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let mut child = command
        .args(arguments)
        .env(WAITING, std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if says_ready(&mut child) {
        return Ok(ExitCode::SUCCESS);
    }
    // It has said itself what went wrong.
    let status = child.wait().map_err(failed)?;
    match status.code() {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))),
        None => Err(Error::new(ErrorKind::Io, format!("the background process died: {status}"))),
    }
}

fn says_ready(child: &mut Child) -> bool {
    let mut byte = [0];
    child.stdout.take().is_some_and(|mut pipe| pipe.read_exact(&mut byte).is_ok())
}
