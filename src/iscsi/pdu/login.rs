//! Login Request and Login Response (RFC 7143 sections 11.12 and 11.13).

use super::Serial;

use super::{Bhs, Outgoing, Sequence};

/// T: ready to leave the stage.
const TRANSIT: u8 = 0x80;
/// C: the text goes on in the next PDU.
const CONTINUE: u8 = 0x40;

/// The stages of a login, as CSG and NSG number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Security = 0,
    Operational = 1,
    FullFeature = 3,
}

impl Stage {
    fn parse(bits: u8) -> Option<Self> {
        match bits & 3 {
            0 => Some(Self::Security),
            1 => Some(Self::Operational),
            3 => Some(Self::FullFeature),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct LoginRequest {
    /// The stage that the text belongs to.
    pub(crate) stage: Stage,
    /// Where we are ready to go (T and NSG).
    pub(crate) transit: Option<Stage>,
    pub(crate) more: bool,
    pub(crate) isid: [u8; 6],
    pub(crate) tsih: u16,
    pub(crate) itt: u32,
    pub(crate) cmd_sn: Serial,
    pub(crate) exp_stat_sn: Serial,
    pub(crate) text: Vec<u8>,
}

impl LoginRequest {
    pub(crate) fn encode(self) -> Outgoing {
        let mut flags = (self.stage as u8) << 2;
        if let Some(next) = self.transit {
            flags |= TRANSIT | next as u8;
        }
        if self.more {
            flags |= CONTINUE;
        }
        // Always immediate; CID 0 and both versions 0 stay zero.
        let mut bhs = Bhs::new(0x03, flags).immediate();
        bhs.put(8, self.isid);
        bhs.put(14, self.tsih.to_be_bytes());
        bhs.put_u32(16, self.itt);
        bhs.put_serial(24, self.cmd_sn);
        bhs.put_serial(28, self.exp_stat_sn);
        Outgoing { bhs, data: self.text }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct LoginResponse {
    pub(crate) transit: bool,
    pub(crate) more: bool,
    /// `None` where the bits name no stage.
    pub(crate) stage: Option<Stage>,
    /// NSG, meaningful with `transit`.
    pub(crate) next: Option<Stage>,
    pub(crate) version_active: u8,
    pub(crate) tsih: u16,
    pub(crate) itt: u32,
    pub(crate) sequence: Sequence,
    pub(crate) status_class: u8,
    pub(crate) status_detail: u8,
}

impl LoginResponse {
    pub(crate) fn parse(bhs: &Bhs) -> Self {
        Self {
            transit: bhs.flags() & TRANSIT != 0,
            more: bhs.flags() & CONTINUE != 0,
            stage: Stage::parse(bhs.flags() >> 2),
            next: Stage::parse(bhs.flags()),
            version_active: bhs.byte(3),
            tsih: bhs.u16(14),
            itt: bhs.itt(),
            sequence: Sequence::parse(bhs),
            status_class: bhs.byte(36),
            status_detail: bhs.byte(37),
        }
    }
}
