//! How the program ends: the exit codes that scripts rely on.

use std::process::ExitCode;

use crate::error::ErrorKind;

/// The ways to end. Their numbers are part of the command line's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Everything was done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// Some of it failed, and each failure was named.
    Partly = 3,
    /// No such path, LUN or volume.
    NotFound = 10,
    /// No connection to the portal.
    Connect = 11,
    /// The target refused the login.
    Login = 12,
    /// No readable file system, or a damaged one.
    Filesystem = 13,
    /// A signal ended it.
    Interrupted = 130,
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotFound
            | ErrorKind::NotDir
            | ErrorKind::NameTooLong
            | ErrorKind::VolumeNotFound
            | ErrorKind::LunNotFound => Self::NotFound,
            ErrorKind::Connect | ErrorKind::NoAnswer => Self::Connect,
            ErrorKind::Login => Self::Login,
            ErrorKind::NoFilesystem
            | ErrorKind::Corrupt
            | ErrorKind::BadChecksum
            | ErrorKind::Unsupported => Self::Filesystem,
            ErrorKind::BeingWritten => Self::Partly,
            ErrorKind::Usage => Self::Usage,
            ErrorKind::Interrupted => Self::Interrupted,
            ErrorKind::IsDir
            | ErrorKind::Loop
            | ErrorKind::InvalidInput
            | ErrorKind::Encrypted
            | ErrorKind::NoXattr
            | ErrorKind::ReadOnly
            | ErrorKind::SessionLost
            | ErrorKind::PathClosed
            | ErrorKind::Timeout
            | ErrorKind::Protocol
            | ErrorKind::Scsi
            | ErrorKind::Medium
            | ErrorKind::Io
            | ErrorKind::Stale
            | ErrorKind::Busy
            | ErrorKind::Exists
            | ErrorKind::Permission => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
