//! SCSI Response (RFC 7143 section 11.4).

use super::{Bhs, Sequence};

/// Response 0x00: the command completed at the target, `status` is valid.
const COMPLETED: u8 = 0x00;

/// How the amount of data differed from what was expected (flags O and U).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Residual {
    None,
    /// So many bytes were expected and not sent.
    Underflow(u32),
    /// So many bytes more than expected were there to send.
    Overflow(u32),
}

impl Residual {
    /// O and U stand at the same bits in SCSI Response and Data-In.
    pub(crate) fn parse(bhs: &Bhs) -> Self {
        let count = bhs.u32(44);
        match bhs.flags() & 0x06 {
            0x02 => Self::Underflow(count),
            0x04 => Self::Overflow(count),
            _ => Self::None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct ScsiResponse {
    /// [`COMPLETED`], or a failure of the target itself.
    pub(crate) response: u8,
    pub(crate) status: u8,
    pub(crate) itt: u32,
    pub(crate) sequence: Sequence,
    pub(crate) residual: Residual,
}

impl ScsiResponse {
    pub(crate) fn parse(bhs: &Bhs) -> Self {
        Self {
            response: bhs.byte(2),
            status: bhs.byte(3),
            itt: bhs.itt(),
            sequence: Sequence::parse(bhs),
            residual: Residual::parse(bhs),
        }
    }

    pub(crate) fn is_completed(&self) -> bool {
        self.response == COMPLETED
    }
}

/// The sense data in a SCSI Response's data segment: a length of two bytes, then so many.
pub(crate) fn sense_data(segment: &[u8]) -> &[u8] {
    match segment {
        [high, low, rest @ ..] => {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            &rest[..length.min(rest.len())]
        }
        _ => &[],
    }
}
