//! Logout Request and Logout Response (RFC 7143 sections 11.14 and 11.15).

use super::Serial;

use super::bhs::FINAL;
use super::{Bhs, Sequence};

/// What is to end. With one connection per session, closing the session is always what is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogoutReason {
    CloseSession = 0,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct LogoutRequest {
    pub(crate) reason: LogoutReason,
    pub(crate) itt: u32,
    pub(crate) cmd_sn: Serial,
    pub(crate) exp_stat_sn: Serial,
}

impl LogoutRequest {
    /// Immediate, so that a closed command window does not hold it back.
    pub(crate) fn encode(&self) -> Bhs {
        let mut bhs = Bhs::new(0x06, FINAL | self.reason as u8).immediate();
        bhs.put_u32(16, self.itt);
        bhs.put_serial(24, self.cmd_sn);
        bhs.put_serial(28, self.exp_stat_sn);
        bhs
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct LogoutResponse {
    pub(crate) response: u8,
    pub(crate) itt: u32,
    pub(crate) sequence: Sequence,
    /// Seconds to wait before a new login.
    pub(crate) time_to_wait: u16,
}

impl LogoutResponse {
    pub(crate) fn parse(bhs: &Bhs) -> Self {
        Self {
            response: bhs.byte(2),
            itt: bhs.itt(),
            sequence: Sequence::parse(bhs),
            time_to_wait: bhs.u16(40),
        }
    }
}
