//! What a failed request is called on the other side of the kernel.

use fuser::Errno;
use rustix::io::Errno as Raw;

use crate::error::ErrorKind;

/// The errno that a kind of failure is answered with.
pub(super) fn errno(kind: ErrorKind) -> Errno {
    let raw = match kind {
        ErrorKind::NotFound => Raw::NOENT,
        ErrorKind::NotDir => Raw::NOTDIR,
        ErrorKind::IsDir => Raw::ISDIR,
        ErrorKind::Loop => Raw::LOOP,
        ErrorKind::NameTooLong => Raw::NAMETOOLONG,
        ErrorKind::InvalidInput | ErrorKind::Usage => Raw::INVAL,
        // What the kernel's own ext4 answers for a damaged structure and for a wrong checksum.
        ErrorKind::Corrupt => Raw::UCLEAN,
        ErrorKind::BadChecksum => Raw::BADMSG,
        ErrorKind::Unsupported => Raw::OPNOTSUPP,
        ErrorKind::Encrypted => Raw::NOKEY,
        ErrorKind::NoXattr => Raw::NODATA,
        ErrorKind::ReadOnly => Raw::ROFS,
        ErrorKind::NoFilesystem => Raw::MEDIUMTYPE,
        ErrorKind::VolumeNotFound | ErrorKind::LunNotFound => Raw::NXIO,
        ErrorKind::Connect => Raw::HOSTUNREACH,
        ErrorKind::Login | ErrorKind::Permission => Raw::ACCESS,
        ErrorKind::NoAnswer | ErrorKind::Timeout => Raw::TIMEDOUT,
        ErrorKind::SessionLost
        | ErrorKind::PathClosed
        | ErrorKind::Protocol
        | ErrorKind::Scsi
        | ErrorKind::Medium
        | ErrorKind::Io
        | ErrorKind::BeingWritten => Raw::IO,
        ErrorKind::Exists => Raw::EXIST,
        ErrorKind::Stale => Raw::STALE,
        ErrorKind::Busy => Raw::BUSY,
        ErrorKind::Interrupted => Raw::INTR,
    };
    Errno::from_i32(raw.raw_os_error())
}

/// The errno of a failure of what is open already: programs know `EIO` for a device that is gone, not `EHOSTUNREACH`.
pub(super) fn device_errno(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::Connect | ErrorKind::NoAnswer | ErrorKind::Login | ErrorKind::Timeout => {
            Errno::EIO
        }
        kind => errno(kind),
    }
}

/// Whether a failure is an everyday answer (a path that does not exist) rather than something to report.
pub(super) fn is_ordinary(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::NotDir
            | ErrorKind::IsDir
            | ErrorKind::Loop
            | ErrorKind::NameTooLong
            | ErrorKind::InvalidInput
            | ErrorKind::NoXattr
            | ErrorKind::ReadOnly
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_keeps_the_names_that_the_kernel_gives_it() {
        assert_eq!(errno(ErrorKind::Corrupt).code(), 117);
        assert_eq!(errno(ErrorKind::BadChecksum).code(), 74);
        assert_eq!(errno(ErrorKind::Encrypted).code(), 126);
        assert_eq!(errno(ErrorKind::NoXattr).code(), 61);
        assert_eq!(errno(ErrorKind::ReadOnly).code(), 30);
        assert_eq!(errno(ErrorKind::Medium).code(), 5);
    }

    #[test]
    fn a_lost_target_is_eio_to_a_reader_and_named_to_a_visitor() {
        assert_eq!(device_errno(ErrorKind::Connect).code(), 5);
        assert_eq!(device_errno(ErrorKind::Timeout).code(), 5);
        assert_eq!(errno(ErrorKind::Connect).code(), 113);
        assert_eq!(errno(ErrorKind::Timeout).code(), 110);
        assert_eq!(errno(ErrorKind::NoAnswer).code(), 110);
        assert_eq!(device_errno(ErrorKind::NoAnswer).code(), 5);
    }
}
