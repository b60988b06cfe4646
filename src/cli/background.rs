//! Going on in the background, without `fork`: the program starts itself again with the same arguments and waits
//! until the second process says that it is ready, or ends.
//!
//! The arguments reach it through a pipe: a URL may hold a password, and everybody can read the command line of a
//! process for as long as it lives.
//!
//! Everything that can fail (the login, the mount) happens in the second process while it still shares the first
//! one's terminal and process group: its messages are seen, Ctrl-C reaches it, and autofs, which knows its own
//! mounts by their process group, lets it through. Only then does it leave.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

use crate::error::{Error, ErrorKind, Result};

use super::log;

/// Names the process that waits. It must be the parent, so that no process further down mistakes itself.
const WAITING: &str = "SNAPBROWSE_WAITING";

/// This process is to go on in the background.
#[derive(Debug)]
pub(crate) struct Background(());

/// The command line that is meant, and whether this is the second process.
pub(crate) fn arguments() -> (Vec<OsString>, Option<Background>) {
    let own = std::env::args_os().collect();
    let Some(background) = Background::is_wanted() else { return (own, None) };
    let mut handed_on = Vec::new();
    match std::io::stdin().read_to_end(&mut handed_on) {
        Ok(_) if !handed_on.is_empty() => {
            let arguments = handed_on.strip_suffix(&[END]).unwrap_or(&handed_on);
            let arguments = arguments.split(|byte| *byte == END);
            (arguments.map(|text| OsString::from_vec(text.to_vec())).collect(), Some(background))
        }
        // Whoever started us was killed over it: nobody waits any more, which is found out in time.
        _ => (own, Some(background)),
    }
}

impl Background {
    /// Whether this is the second process.
    fn is_wanted() -> Option<Self> {
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
        rustix::stdio::dup2_stdin(&null).map_err(|errno| failed(errno.into()))?;
        rustix::stdio::dup2_stdout(&null).map_err(|errno| failed(errno.into()))?;
        rustix::stdio::dup2_stderr(&null).map_err(|errno| failed(errno.into()))
    }
}

/// What the second process writes to its standard output, a pipe, when it is ready.
const READY: u8 = b'\n';

/// What ends an argument in the pipe; none holds it.
const END: u8 = 0;

/// Starts the second process for the same `arguments`; returns when it is ready, or with its exit code.
///
/// # Errors
/// Where it cannot be started, or is killed.
pub(crate) fn start(arguments: &[OsString]) -> Result<ExitCode> {
    let failed = |error| Error::io("start a process in the background", error);
    let mut command = Command::new("/proc/self/exe");
    let (name, rest) = arguments.split_first().expect("a program has a name");
    let mut child = command
        .arg0(name)
        .args(rest.iter().map(|argument| without_secrets(argument)))
        .env(WAITING, std::process::id().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut pipe) = child.stdin.take() {
        let handed_on: Vec<u8> = arguments
            .iter()
            .flat_map(|text| text.as_bytes().iter().copied().chain([END]))
            .collect();
        // One that has ended already says so by its exit code.
        let _ = pipe.write_all(&handed_on);
    }
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

/// An argument as everybody may see it: a URL that may hold a password is cut off.
fn without_secrets(argument: &OsStr) -> OsString {
    let text = argument.to_string_lossy();
    let at = text.to_ascii_lowercase().find("://").map(|at| at + "://".len());
    match at {
        Some(at) if text[at..].contains('@') || text[at..].contains("password=") => {
            format!("{}...", &text[..at]).into()
        }
        _ => argument.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_hold_a_password_is_not_shown() {
        for (argument, shown) in [
            ("iscsi://san/iqn.x/0", "iscsi://san/iqn.x/0"),
            ("/dev/disk@1", "/dev/disk@1"),
            ("ISCSI://bob%secret@san/iqn.x/0", "ISCSI://..."),
            (" iscsi://bob:se@cret@san/iqn.x/0", " iscsi://..."),
            ("iscsi://san/iqn.x/0?target_password=secret", "iscsi://..."),
            ("--journal-device=iscsi://bob%secret@san", "--journal-device=iscsi://..."),
            ("ro,journal_device=iscsi://b%s@san,volume=p1", "ro,journal_device=iscsi://..."),
        ] {
            assert_eq!(without_secrets(OsStr::new(argument)), shown, "{argument}");
        }
    }
}
