//! The status byte of a command (SAM-5 section 5.3).

use std::fmt;

/// How the device server ended a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Good,
    CheckCondition,
    Busy,
    ReservationConflict,
    TaskSetFull,
    TaskAborted,
    /// CONDITION MET, ACA ACTIVE and whatever is reserved: nothing that answers a read.
    Other(u8),
}

impl From<u8> for Status {
    fn from(byte: u8) -> Self {
        match byte {
            0x00 => Self::Good,
            0x02 => Self::CheckCondition,
            0x08 => Self::Busy,
            0x18 => Self::ReservationConflict,
            0x28 => Self::TaskSetFull,
            0x40 => Self::TaskAborted,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => f.write_str("good"),
            Self::CheckCondition => f.write_str("check condition"),
            Self::Busy => f.write_str("busy"),
            Self::ReservationConflict => f.write_str("reservation conflict"),
            Self::TaskSetFull => f.write_str("task set full"),
            Self::TaskAborted => f.write_str("task aborted"),
            Self::Other(byte) => write!(f, "status 0x{byte:02x}"),
        }
    }
}
