//! Clearing a mount away whose process was killed.
//!
//! When a process dies the kernel closes its end of a pipe, whatever killed it. A second, idle process waits for
//! that and takes the dead mount away, so that nobody meets "transport endpoint is not connected" afterwards.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

use super::mount::Mount;
use super::mounts::{FS_TYPE, Mounted};
use crate::error::{Error, Result};

/// The name that the second process is started under, and knows its task by.
pub(super) const NAME: &str = "snapbrowse-watchdog";

/// What it hears when there is nothing left to do.
const DISMISSED: u8 = b'.';

/// The process that watches over this one.
#[derive(Debug)]
pub struct Watchdog {
    process: Option<Child>,
}

impl Watchdog {
    /// Starts it: this program once more, under another name.
    ///
    /// # Errors
    /// Where no process can be started.
    pub fn start(mount: &Mount) -> Result<Self> {
        let Some(mounted) = mount.mounted() else { return Ok(Self { process: None }) };
        let process = Command::new("/proc/self/exe")
            .arg0(NAME)
            .arg(&mounted.device)
            .arg(&mounted.mountpoint)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is meant for the one that it watches over.
            .process_group(0)
            .spawn()
            .map_err(|error| Error::io("start the watchdog", error))?;
        Ok(Self { process: Some(process) })
    }

    /// Ends it: the mount is gone.
    pub fn dismiss(mut self) {
        let Some(mut process) = self.process.take() else { return };
        if let Some(mut pipe) = process.stdin.take() {
            // If it is gone already, the better.
            let _ = pipe.write_all(&[DISMISSED]);
        }
        let _ = process.wait();
    }
}

/// The task of a process that was started by [`Watchdog::start`], with the arguments after its name.
pub(super) fn watch(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let device = arguments.next()?.into_string().ok()?;
    let mountpoint = PathBuf::from(arguments.next()?);
    let mounted = Mounted { device, mountpoint, fs_type: FS_TYPE.to_owned(), owner: None };
    let mut byte = [0];
    let dismissed = std::io::stdin().read_exact(&mut byte).is_ok();
    // There is nobody to tell of a failure.
    let cleared = dismissed || mounted.clear().is_ok();
    Some(if cleared { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
