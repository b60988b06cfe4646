//! Asynchronous Message: the target speaks unasked (RFC 7143 section 11.9).

use super::{Bhs, Sequence};

/// What the target announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AsyncEvent {
    /// 0: sense data in the data segment.
    Scsi,
    /// 1: log out within so many seconds.
    LogoutRequested { within: u16 },
    /// 2: this connection will be dropped; reconnect after so many seconds.
    ConnectionDrop { time_to_wait: u16 },
    /// 3: all connections of the session will be dropped; reconnect after so many seconds.
    SessionDrop { time_to_wait: u16 },
    /// 4: negotiate parameters within so many seconds.
    Negotiate { within: u16 },
    /// 255 or reserved.
    Other(u8),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct AsyncMessage {
    pub(crate) lun: [u8; 8],
    pub(crate) sequence: Sequence,
    pub(crate) event: AsyncEvent,
}

impl AsyncMessage {
    pub(crate) fn parse(bhs: &Bhs) -> Self {
        let (parameter2, parameter3) = (bhs.u16(40), bhs.u16(42));
        let event = match bhs.byte(36) {
            0 => AsyncEvent::Scsi,
            1 => AsyncEvent::LogoutRequested { within: parameter3 },
            2 => AsyncEvent::ConnectionDrop { time_to_wait: parameter2 },
            3 => AsyncEvent::SessionDrop { time_to_wait: parameter2 },
            4 => AsyncEvent::Negotiate { within: parameter3 },
            other => AsyncEvent::Other(other),
        };
        Self { lun: bhs.array(8), sequence: Sequence::parse(bhs), event }
    }
}
