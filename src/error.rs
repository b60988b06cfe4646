//! One error type for all layers: a small kind that programs act on, and a sentence that people act on.

use std::fmt;
use std::sync::Arc;

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure this is. Exit codes (`cli`) and errno values (`fuse`) are each one exhaustive match
/// on it, so a new kind cannot be forgotten in either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such path, or no such directory entry.
    NotFound,
    /// A path component that is not a directory.
    NotDir,
    /// A directory where a file is needed.
    IsDir,
    /// Too many symbolic links.
    Loop,
    /// A name longer than the file system allows.
    NameTooLong,
    /// A request that makes no sense for its object: `readlink` of a file, an offset past the end of a device.
    InvalidInput,
    /// An on-disk structure contradicts itself or its surroundings.
    Corrupt,
    /// An on-disk structure does not match its checksum.
    BadChecksum,
    /// Something valid that this program does not read; the message names it.
    Unsupported,
    /// Contents that need a key.
    Encrypted,
    /// No such extended attribute.
    NoXattr,
    /// An attempt to write.
    ReadOnly,
    /// No readable file system where one is needed.
    NoFilesystem,
    /// No volume of that name, or several and none named.
    VolumeNotFound,
    /// The target has no such LUN, or several and none named.
    LunNotFound,
    /// No connection to the portal: name resolution, refusal, unreachable.
    Connect,
    /// A connection, or a login over it, that nobody answered.
    NoAnswer,
    /// The target refused the login.
    Login,
    /// The session was lost and could not be brought back.
    SessionLost,
    /// This port of the target does not serve the LUN now; another one may.
    PathClosed,
    /// A deadline passed.
    Timeout,
    /// The peer broke the protocol.
    Protocol,
    /// The target answered a command with an error that retries do not mend.
    Scsi,
    /// The device could not read these blocks (SCSI medium or hardware error).
    Medium,
    /// A local file operation failed: the image file, the destination, the mount point.
    Io,
    /// A destination that exists already.
    Exists,
    /// The local system does not permit it.
    Permission,
    /// The volume changed while it was read: not a snapshot.
    BeingWritten,
    /// The command line or the configuration is wrong.
    Usage,
    /// What a number stood for is gone.
    Stale,
    /// As much is in use as may be.
    Busy,
    /// A signal ended the work.
    Interrupted,
}

impl ErrorKind {
    /// Whether such a failure says nothing about what was to be read, only that the device was not there in time.
    pub(crate) fn is_silence(self) -> bool {
        use ErrorKind::{Connect, Login, NoAnswer, PathClosed, SessionLost, Timeout};
        matches!(self, Connect | Login | NoAnswer | PathClosed | SessionLost | Timeout)
    }
}

/// What failed, on what, why, and what to do about it, in one line.
///
/// Cheap to clone, because one failed read may have many waiters.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure described by `message`: an object and a cause, lower case, no final full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, message: message.into(), hint: None, source: None }))
    }

    /// A failed local operation: `what` names the operation and its object; the system's reason is appended.
    pub fn io(what: impl fmt::Display, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::PermissionDenied => ErrorKind::Permission,
            std::io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        let reason = source.to_string();
        // The standard library appends "(os error 17)", which says nothing that the words before it do not.
        let reason = reason.split(" (os error ").next().unwrap_or_default();
        Self::new(kind, format!("{what}: {reason}")).with_source(source)
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The sentence without the hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the user can do about it, if anything is known.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Says in front on what object this happened: `context("inode 12")` gives `inode 12: ...`.
    #[must_use]
    pub fn context(self, object: impl fmt::Display) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.0);
        inner.message = format!("{object}: {}", inner.message);
        Self(Arc::new(inner))
    }

    /// The same, unless the message names the object at its beginning already.
    #[must_use]
    pub fn about(self, object: &str) -> Self {
        match self.0.message.strip_prefix(object).is_some_and(|rest| rest.starts_with(": ")) {
            true => self,
            false => self.context(object),
        }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.0);
        inner.hint = Some(hint.into());
        Self(Arc::new(inner))
    }

    /// Keeps the cause for [`std::error::Error::source`].
    #[must_use]
    pub fn with_source(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.0);
        inner.source = Some(Arc::new(source));
        Self(Arc::new(inner))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_goes_in_front_and_the_hint_stays_last() {
        let error = Error::new(ErrorKind::Corrupt, "extent depth 9, at most 5")
            .with_hint("try `snapbrowse info`")
            .context("inode 12");
        assert_eq!(
            error.to_string(),
            "inode 12: extent depth 9, at most 5 (try `snapbrowse info`)"
        );
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn what_the_message_is_about_stands_in_it_once() {
        let refused = Error::new(ErrorKind::Login, "refused").context("iqn.x:a");
        assert_eq!(refused.clone().about("iqn.x:a").to_string(), "iqn.x:a: refused");
        assert_eq!(refused.about("iqn.x").to_string(), "iqn.x: iqn.x:a: refused");
    }
}
