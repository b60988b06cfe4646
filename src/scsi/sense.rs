//! Why a command failed: sense data, fixed and descriptor form (SPC-5 section 4.4).

use std::fmt;

/// The sense key (SPC-5 table 49).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SenseKey {
    NoSense,
    RecoveredError,
    NotReady,
    MediumError,
    HardwareError,
    IllegalRequest,
    UnitAttention,
    DataProtect,
    BlankCheck,
    AbortedCommand,
    Other(u8),
}

/// Sense key, additional sense code and qualifier, and the LBA where the device names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sense {
    pub(crate) key: SenseKey,
    pub(crate) asc: u8,
    pub(crate) ascq: u8,
    /// The INFORMATION field, where it is valid: for a medium error, the block.
    pub(crate) information: Option<u64>,
}

impl Sense {
    /// Parses sense data; `None` where it is neither form. What was cut off reads as zero.
    pub(crate) fn parse(data: &[u8]) -> Option<Self> {
        let byte = |at: usize| data.get(at).copied().unwrap_or(0);
        match byte(0) & 0x7f {
            0x70 | 0x71 => {
                let valid = byte(0) & 0x80 != 0;
                let information = u32::from_be_bytes([byte(3), byte(4), byte(5), byte(6)]);
                Some(Self {
                    key: SenseKey::from(byte(2) & 0x0f),
                    asc: byte(12),
                    ascq: byte(13),
                    information: valid.then_some(u64::from(information)),
                })
            }
            0x72 | 0x73 => Some(Self {
                key: SenseKey::from(byte(1) & 0x0f),
                asc: byte(2),
                ascq: byte(3),
                information: information_descriptor(data.get(8..).unwrap_or_default()),
            }),
            _ => None,
        }
    }

    /// Additional sense code and qualifier as one number: 0x2900 for 29/00.
    pub(crate) fn code(&self) -> u16 {
        u16::from_be_bytes([self.asc, self.ascq])
    }
}

/// The information descriptor (type 0) among the descriptors, where it is valid.
fn information_descriptor(mut rest: &[u8]) -> Option<u64> {
    while let [kind, length, tail @ ..] = rest {
        let (body, tail) = tail.split_at_checked(usize::from(*length))?;
        if *kind == 0 {
            let [flags, _, information @ ..] = body else { return None };
            let information = u64::from_be_bytes(*information.first_chunk()?);
            return (flags & 0x80 != 0).then_some(information);
        }
        rest = tail;
    }
    None
}

impl From<u8> for SenseKey {
    fn from(key: u8) -> Self {
        match key {
            0x0 => Self::NoSense,
            0x1 => Self::RecoveredError,
            0x2 => Self::NotReady,
            0x3 => Self::MediumError,
            0x4 => Self::HardwareError,
            0x5 => Self::IllegalRequest,
            0x6 => Self::UnitAttention,
            0x7 => Self::DataProtect,
            0x8 => Self::BlankCheck,
            0xb => Self::AbortedCommand,
            other => Self::Other(other),
        }
    }
}

impl SenseKey {
    /// Whether the command succeeded all the same.
    pub(crate) fn keeps_data(self) -> bool {
        matches!(self, Self::NoSense | Self::RecoveredError)
    }

    fn number(self) -> u8 {
        match self {
            Self::NoSense => 0x0,
            Self::RecoveredError => 0x1,
            Self::NotReady => 0x2,
            Self::MediumError => 0x3,
            Self::HardwareError => 0x4,
            Self::IllegalRequest => 0x5,
            Self::UnitAttention => 0x6,
            Self::DataProtect => 0x7,
            Self::BlankCheck => 0x8,
            Self::AbortedCommand => 0xb,
            Self::Other(number) => number,
        }
    }
}

impl fmt::Display for SenseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSense => "no sense",
            Self::RecoveredError => "recovered error",
            Self::NotReady => "not ready",
            Self::MediumError => "medium error",
            Self::HardwareError => "hardware error",
            Self::IllegalRequest => "illegal request",
            Self::UnitAttention => "unit attention",
            Self::DataProtect => "data protect",
            Self::BlankCheck => "blank check",
            Self::AbortedCommand => "aborted command",
            Self::Other(number) => return write!(f, "sense key {number:x}"),
        })
    }
}

impl fmt::Display for Sense {
    /// `medium error, unrecovered read error (3/11/00)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        if let Some(name) = code_name(self.code()) {
            write!(f, ", {name}")?;
        }
        write!(f, " ({:x}/{:02x}/{:02x})", self.key.number(), self.asc, self.ascq)
    }
}

/// The names of SPC-5 annex F that a reader of disks can meet.
fn code_name(code: u16) -> Option<&'static str> {
    Some(match code {
        0x0400 => "logical unit not ready, cause not reportable",
        0x0401 => "logical unit is becoming ready",
        0x0402 => "logical unit not ready, initializing command required",
        0x0403 => "logical unit not ready, manual intervention required",
        0x0404 => "logical unit not ready, format in progress",
        0x0405 => "logical unit not ready, rebuild in progress",
        0x0407 => "logical unit not ready, operation in progress",
        0x0409 => "logical unit not ready, self-test in progress",
        0x040a => "logical unit not accessible, asymmetric access state transition",
        0x040b => "logical unit not accessible, target port in standby state",
        0x040c => "logical unit not accessible, target port in unavailable state",
        0x0412 => "logical unit not ready, offline",
        0x041b => "logical unit not ready, host fence",
        0x0800 => "logical unit communication failure",
        0x0801 => "logical unit communication time-out",
        0x0b00 => "warning",
        0x1100 => "unrecovered read error",
        0x1101 => "read retries exhausted",
        0x1104 => "unrecovered read error, auto reallocate failed",
        0x1400 => "recorded entity not found",
        0x1700 => "recovered data with no error correction applied",
        0x2000 => "invalid command operation code",
        0x2100 => "logical block address out of range",
        0x2400 => "invalid field in CDB",
        0x2500 => "logical unit not supported",
        0x2600 => "invalid field in parameter list",
        0x2700 => "write protected",
        0x2800 => "not ready to ready change, medium may have changed",
        0x2900 => "power on, reset, or bus device reset occurred",
        0x2901 => "power on occurred",
        0x2902 => "SCSI bus reset occurred",
        0x2903 => "bus device reset function occurred",
        0x2904 => "device internal reset",
        0x2907 => "I_T nexus loss occurred",
        0x2a01 => "mode parameters changed",
        0x2a03 => "reservations preempted",
        0x2a04 => "reservations released",
        0x2a05 => "registrations preempted",
        0x2a06 => "asymmetric access state changed",
        0x2a09 => "capacity data has changed",
        0x2f00 => "commands cleared by another initiator",
        0x3a00 => "medium not present",
        0x3e01 => "logical unit failure",
        0x3f01 => "microcode has been changed",
        0x3f03 => "inquiry data has changed",
        0x3f05 => "device identifier changed",
        0x3f0e => "reported LUNs data has changed",
        0x4400 => "internal target failure",
        0x4700 => "SCSI parity error",
        0x4900 => "invalid message error",
        0x4b00 => "data phase error",
        0x4e00 => "overlapped commands attempted",
        0x5500 => "system resource failure",
        0x5d00 => "failure prediction threshold exceeded",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_form() {
        let mut data = [0; 18];
        data[0] = 0xf0;
        data[2] = 0x03;
        data[3..7].copy_from_slice(&0x1234_u32.to_be_bytes());
        data[12] = 0x11;
        let sense = Sense::parse(&data).unwrap();
        assert_eq!(sense.information, Some(0x1234));
        assert_eq!(sense.to_string(), "medium error, unrecovered read error (3/11/00)");
        data[0] = 0x70;
        assert_eq!(Sense::parse(&data).unwrap().information, None);
    }

    #[test]
    fn descriptor_form_with_a_64_bit_lba() {
        let mut data = vec![0x72, 0x03, 0x11, 0x01, 0, 0, 0, 20];
        data.extend([2, 6, 0, 0, 0, 0, 0, 0]);
        data.extend([0, 10, 0x80, 0]);
        data.extend(0x1_0000_0002_u64.to_be_bytes());
        let sense = Sense::parse(&data).unwrap();
        assert_eq!((sense.code(), sense.information), (0x1101, Some(0x1_0000_0002)));
        data[18] = 0;
        assert_eq!(Sense::parse(&data).unwrap().information, None);
        data.truncate(22);
        assert_eq!(Sense::parse(&data).unwrap().information, None);
    }

    #[test]
    fn neither_form() {
        assert_eq!(Sense::parse(&[]), None);
        assert_eq!(Sense::parse(&[0x7f, 5]), None);
        let cut = Sense::parse(&[0x70, 0, 6]).unwrap();
        assert_eq!(cut.to_string(), "unit attention (6/00/00)");
    }
}
