//! NOP-Out and NOP-In: pings both ways (RFC 7143 sections 11.18 and 11.19).

use super::Serial;

use super::bhs::FINAL;
use super::{Bhs, NO_TAG, Sequence};

#[derive(Clone, Copy, Debug)]
pub(crate) struct NopOut {
    /// The LUN of the NOP-In that this answers, else zeros.
    pub(crate) lun: [u8; 8],
    /// Our ping's tag, or [`NO_TAG`] where this answers the target's.
    pub(crate) itt: u32,
    /// The target's ping's tag, or [`NO_TAG`] where this is our own ping.
    pub(crate) ttt: u32,
    pub(crate) cmd_sn: Serial,
    pub(crate) exp_stat_sn: Serial,
}

impl NopOut {
    /// Always immediate: a ping must pass a closed command window.
    pub(crate) fn encode(&self) -> Bhs {
        let mut bhs = Bhs::new(0x00, FINAL).immediate();
        bhs.put(8, self.lun);
        bhs.put_u32(16, self.itt);
        bhs.put_u32(20, self.ttt);
        bhs.put_serial(24, self.cmd_sn);
        bhs.put_serial(28, self.exp_stat_sn);
        bhs
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct NopIn {
    pub(crate) lun: [u8; 8],
    pub(crate) itt: u32,
    pub(crate) ttt: u32,
    pub(crate) sequence: Sequence,
}

impl NopIn {
    pub(crate) fn parse(bhs: &Bhs) -> Self {
        Self { lun: bhs.array(8), itt: bhs.itt(), ttt: bhs.u32(20), sequence: Sequence::parse(bhs) }
    }

    /// Whether the target waits for a NOP-Out with its tag.
    pub(crate) fn wants_answer(&self) -> bool {
        self.ttt != NO_TAG
    }
}
