//! Shows a [`Filesystem`] through FUSE; the only place that knows `fuser`.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::fs::Filesystem;

/// What the kernel is told about a mount.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// The source as /proc/mounts shows it (a URL without its secret, or a path).
    pub source_name: String,
    /// Lets other users in; implies that the kernel checks permissions.
    pub allow_other: bool,
}

/// A live mount. Dropping it unmounts.
pub struct Mount {}

impl Mount {
    /// Mounts; INIT has completed when this returns, so the mount is ready.
    ///
    /// Requests are answered in the session threads where no waiting is needed, else on `runtime`.
    ///
    /// # Errors
    /// [`ErrorKind::Permission`], [`ErrorKind::Io`] with what to do (fusermount3 missing, /dev/fuse closed, ...).
    pub fn new(
        _filesystem: Arc<dyn Filesystem>,
        _mountpoint: &Path,
        _options: &MountOptions,
        _runtime: tokio::runtime::Handle,
    ) -> Result<Self> {
        Err(Error::new(ErrorKind::Unsupported, "FUSE is not there yet"))
    }

    /// Waits until the mount is gone, whoever unmounted it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where the FUSE device failed.
    pub fn wait(self) -> Result<()> {
        Ok(())
    }
}
