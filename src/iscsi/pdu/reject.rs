//! Reject: the target did not like a PDU (RFC 7143 section 11.17).

use super::{BHS_LEN, Bhs, Sequence};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Reject {
    pub(crate) reason: u8,
    pub(crate) sequence: Sequence,
}

impl Reject {
    pub(crate) fn parse(bhs: &Bhs) -> Self {
        Self { reason: bhs.byte(2), sequence: Sequence::parse(bhs) }
    }

    /// The reason in words.
    pub(crate) fn reason_name(&self) -> &'static str {
        match self.reason {
            0x02 => "data digest error",
            0x03 => "SNACK reject",
            0x04 => "protocol error",
            0x05 => "command not supported",
            0x06 => "immediate command reject, too many immediate commands",
            0x07 => "task in progress",
            0x08 => "invalid data acknowledgement",
            0x09 => "invalid PDU field",
            0x0a => "out of resources",
            0x0b => "negotiation reset",
            0x0c => "waiting for logout",
            _ => "unknown reason",
        }
    }
}

/// The header of the rejected PDU, which comes back in the data segment.
pub(crate) fn rejected_header(segment: &[u8]) -> Option<Bhs> {
    segment.first_chunk::<BHS_LEN>().map(|bytes| Bhs(*bytes))
}
