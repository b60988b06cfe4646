//! A live mount.

use std::fs::OpenOptions;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};
use tokio::sync::oneshot;

use super::farewell::Farewell;
use super::mountpoint::Mountpoint;
use super::mounts::Mounted;
use super::node::Shown;
use super::serve::Server;
use super::view::View;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Filesystem;

/// Threads that read requests, each through a descriptor of its own: one waits for the kernel while the other
/// copies out an answer. More gain nothing where waiting is done elsewhere.
const SESSION_THREADS: usize = 2;

/// How long the users of a mount that is being taken away keep what they have open.
const LINGER: Duration = Duration::from_secs(2);

/// What the kernel is told about a mount.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// The source as /proc/mounts shows it (a URL without its secret, or a path).
    pub source_name: String,
    /// Lets other users in; implies that the kernel checks permissions.
    pub allow_other: bool,
    /// The kernel checks permissions for whoever mounts, too.
    pub strict_permissions: bool,
    /// Lets nothing in it be executed.
    pub no_exec: bool,
    /// How owners and permissions are shown.
    pub shown: Shown,
}

impl MountOptions {
    /// Whether modes and ACLs mean anything: else whoever mounts reads everything, and nobody else anything.
    fn kernel_checks_permissions(&self) -> bool {
        self.allow_other || self.strict_permissions
    }
}

/// A live mount. Dropping it unmounts.
#[derive(Debug)]
pub struct Mount {
    mounted: Option<Mounted>,
    farewell: Farewell,
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Mount {
    /// Mounts; INIT has completed when this returns, so the mount is ready.
    ///
    /// Requests are answered in the session threads where no waiting is needed, else on `runtime`.
    ///
    /// # Errors
    /// [`ErrorKind::Permission`], [`ErrorKind::Io`] with what to do (fusermount3 missing, /dev/fuse closed, ...).
    pub fn new(
        filesystem: Arc<dyn Filesystem>,
        mountpoint: &Mountpoint,
        options: &MountOptions,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self> {
        check_device()?;
        let view = View::new(filesystem, options.shown);
        let farewell = Farewell::new()?;
        let checks = options.kernel_checks_permissions();
        let server = Server::new(view, runtime, checks, farewell.clone());
        let session = Session::new(server, mountpoint.path(), &config(options))
            .map_err(|error| explain(mountpoint, error))?;
        let mounted = Mounted::find(mountpoint.path())?;
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("fuse".to_owned())
            // Nobody may be waiting for the end any more; that is fine.
            .spawn(move || drop(end.send(session.run())))
            .map_err(|error| Error::io("start the FUSE session", error))?;
        Ok(Self { mounted, farewell, ended })
    }

    /// Where it is, while it is there.
    pub(super) fn mounted(&self) -> Option<&Mounted> {
        self.mounted.as_ref()
    }

    /// Where the outcome is to be told, when all is over: [`unmount`](super::unmount) waits for it.
    pub fn farewell(&self) -> Farewell {
        self.farewell.clone()
    }

    /// Waits until the mount is gone, whoever unmounted it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where the FUSE device failed.
    pub async fn ended(&mut self) -> Result<()> {
        let end = (&mut self.ended).await;
        self.mounted = None;
        match end {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Error::io("the FUSE session", error)),
            Err(_) => Err(Error::new(ErrorKind::Io, "the FUSE session broke off")),
        }
    }

    /// Takes the mount away, even from under its users: they keep what they have open for a moment, and get errors
    /// when this process is gone.
    ///
    /// # Errors
    /// As fusermount3 or the kernel reports them.
    pub async fn unmount(mut self) -> Result<()> {
        if let Some(mounted) = self.mounted.take() {
            mounted.clear()?;
            // Whether the last user has gone or not, it is out of sight.
            let _ = tokio::time::timeout(LINGER, self.ended()).await;
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            if let Err(error) = mounted.clear() {
                tracing::warn!("{error}");
            }
        }
    }
}

fn config(options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::FSName(plain(&options.source_name)),
        // `MountOption::Subtype` is left out of a mount that root makes without fusermount3.
        MountOption::CUSTOM("subtype=snapbrowse".to_owned()),
    ];
    if options.no_exec {
        config.mount_options.push(MountOption::NoExec);
    }
    if options.allow_other {
        config.acl = SessionACL::All;
    }
    if options.kernel_checks_permissions() {
        // With others let in: else every local user could read the snapshot's /etc/shadow.
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    config.n_threads = Some(SESSION_THREADS);
    config.clone_fd = true;
    config
}

/// A source's name without what means something in a list of options or in /proc/mounts.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c == ',' || c == '\\' || c.is_control() { '_' } else { c }).collect()
}

/// Opens /dev/fuse once, only to say clearly what is wrong where that fails.
fn check_device() -> Result<()> {
    match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(error) => {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "it is open to everyone on most systems; as root: chmod 666 /dev/fuse"
                }
                _ => "load the kernel's module; as root: modprobe fuse",
            };
            Err(Error::io("open /dev/fuse", error).with_hint(hint))
        }
    }
}

/// What a failed mount means. fuser hands on fusermount3's own words.
fn explain(mountpoint: &Mountpoint, error: io::Error) -> Error {
    let said = error.to_string();
    let said = said.trim().trim_start_matches("fusermount3: ").trim_start_matches("fusermount: ");
    let what = format!("mount on {}", mountpoint.path().display());
    if error.kind() == io::ErrorKind::NotFound {
        return Error::new(ErrorKind::Io, format!("{what}: fusermount3 is missing"))
            .with_hint("install the package fuse3");
    }
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        _ => ErrorKind::Io,
    };
    let explained = Error::new(kind, format!("{what}: {said}"));
    let hint = if said.contains("user_allow_other") {
        "as root: add the line user_allow_other to /etc/fuse.conf"
    } else if said.contains("no write access") || said.contains("ermission denied") {
        "use a directory that belongs to you"
    } else if said.contains("Operation not permitted") {
        "fusermount3 must be setuid root, or this process needs CAP_SYS_ADMIN"
    } else {
        return explained.with_source(error);
    };
    explained.with_hint(hint).with_source(error)
}

#[cfg(test)]
#[path = "mount_tests.rs"]
mod tests;
