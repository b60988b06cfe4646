//! SCSI Data-In (RFC 7143 section 11.7).

use super::{Bhs, Residual, Sequence};

/// S: `status` is valid and ends the command.
const STATUS: u8 = 0x01;

#[derive(Clone, Copy, Debug)]
pub(crate) struct DataIn {
    /// The command's SCSI status, where this PDU carries it.
    pub(crate) status: Option<u8>,
    pub(crate) itt: u32,
    pub(crate) sequence: Sequence,
    pub(crate) data_sn: u32,
    pub(crate) offset: u32,
    /// Meaningful with `status`.
    pub(crate) residual: Residual,
    pub(crate) len: usize,
}

impl DataIn {
    pub(crate) fn parse(bhs: &Bhs) -> Self {
        let has_status = bhs.flags() & STATUS != 0;
        Self {
            status: has_status.then(|| bhs.byte(3)),
            itt: bhs.itt(),
            sequence: Sequence::parse(bhs),
            data_sn: bhs.u32(36),
            offset: bhs.u32(40),
            residual: if has_status { Residual::parse(bhs) } else { Residual::None },
            len: bhs.data_len(),
        }
    }
}
