//! Text Request and Text Response (RFC 7143 sections 11.10 and 11.11).

use super::Serial;

use super::bhs::FINAL;
use super::{Bhs, Outgoing, Sequence};

/// C: the text goes on in the next PDU.
const CONTINUE: u8 = 0x40;

#[derive(Clone, Debug)]
pub(crate) struct TextRequest {
    /// LUN of the Text Response that this one continues, else zeros.
    pub(crate) lun: [u8; 8],
    pub(crate) itt: u32,
    /// From the response that this one continues, else [`super::NO_TAG`].
    pub(crate) ttt: u32,
    pub(crate) cmd_sn: Serial,
    pub(crate) exp_stat_sn: Serial,
    pub(crate) text: Vec<u8>,
}

impl TextRequest {
    pub(crate) fn encode(self) -> Outgoing {
        let mut bhs = Bhs::new(0x04, FINAL);
        bhs.put(8, self.lun);
        bhs.put_u32(16, self.itt);
        bhs.put_u32(20, self.ttt);
        bhs.put_serial(24, self.cmd_sn);
        bhs.put_serial(28, self.exp_stat_sn);
        Outgoing { bhs, data: self.text }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct TextResponse {
    pub(crate) last: bool,
    pub(crate) more: bool,
    pub(crate) lun: [u8; 8],
    pub(crate) itt: u32,
    pub(crate) ttt: u32,
    pub(crate) sequence: Sequence,
}

impl TextResponse {
    pub(crate) fn parse(bhs: &Bhs) -> Self {
        Self {
            last: bhs.flags() & FINAL != 0,
            more: bhs.flags() & CONTINUE != 0,
            lun: bhs.array(8),
            itt: bhs.itt(),
            ttt: bhs.u32(20),
            sequence: Sequence::parse(bhs),
        }
    }
}
