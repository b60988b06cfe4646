//! The directory that a mount covers.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::mounts::Mounted;
use super::unmount::{asked, resolve};
use crate::error::{Error, ErrorKind, Result};

/// How long a dead mount is left to the watchdog of its process: two that clear one path at the same time could take
/// away what has been mounted in between.
const WATCHDOGS_TURN: Duration = Duration::from_millis(500);

/// An existing directory, fit to be mounted on, as an absolute path without links.
///
/// Checked before the login, so that a mistake in the path costs no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mountpoint(PathBuf);

impl Mountpoint {
    /// Checks `path`; a mount of ours whose process was killed is taken away from it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] or [`ErrorKind::Permission`] where it is no directory or cannot be entered,
    /// [`ErrorKind::Exists`] where it holds files or a mount of ours already.
    pub fn new(path: &Path) -> Result<Self> {
        let shown = path.display();
        let failed = |error: std::io::Error| {
            match error.kind() {
                // Not what was to be mounted is missing.
                std::io::ErrorKind::NotFound => {
                    Error::new(ErrorKind::Io, format!("mount point {shown}: no such directory"))
                        .with_source(error)
                }
                _ => Error::io(format!("mount point {shown}"), error),
            }
        };
        let directory = resolve(path).map_err(failed)?;
        if is_dead(&directory) {
            clear_dead(&directory)?;
        }
        if let Some(mounted) = Mounted::find(&directory)? {
            if mounted.is_ours() {
                return Err(Error::new(
                    ErrorKind::Exists,
                    format!("mount point {shown}: something is mounted there already"),
                )
                .with_hint(format!("take it away with `snapbrowse umount {shown}`")));
            }
        }
        let mut entries = directory.read_dir().map_err(failed)?;
        if entries.next().is_some() {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("mount point {shown}: the directory is not empty"),
            )
            .with_hint("its files would be hidden; use an empty directory"));
        }
        Ok(Self(directory))
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Whether something is mounted there whose process was killed. The path itself may be known to the kernel still; this
/// question is one that it asks the process.
fn is_dead(directory: &Path) -> bool {
    asked(directory).is_err_and(|errno| errno == rustix::io::Errno::NOTCONN)
}

/// Takes a dead mount of ours away, if the watchdog of the killed process does not.
fn clear_dead(directory: &Path) -> Result<()> {
    let until = Instant::now() + WATCHDOGS_TURN;
    while let Some(mounted) = Mounted::find(directory)?.filter(Mounted::is_ours) {
        if Instant::now() >= until {
            let shown = directory.display();
            tracing::warn!("{shown}: taking away what a killed process left mounted there");
            return mounted.clear();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_directory_is_taken_by_its_real_path() {
        let temporary = tempfile::tempdir().unwrap();
        let real = temporary.path().join("real");
        std::fs::create_dir(&real).unwrap();
        let link = temporary.path().join("link");
        std::os::unix::fs::symlink("real", &link).unwrap();
        let mountpoint = Mountpoint::new(&link).unwrap();
        assert_eq!(mountpoint.path(), real.canonicalize().unwrap());
    }

    #[test]
    fn what_cannot_be_mounted_on_is_refused_with_its_reason() {
        let temporary = tempfile::tempdir().unwrap();
        let missing = Mountpoint::new(&temporary.path().join("no")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Io);
        assert!(missing.message().contains("no such directory"), "{missing}");

        let file = temporary.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let not_a_directory = Mountpoint::new(&file).unwrap_err();
        assert!(not_a_directory.message().contains("Not a directory"), "{not_a_directory}");

        let full = Mountpoint::new(temporary.path()).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::Exists);
        assert!(full.message().contains("not empty"), "{full}");
    }
}
