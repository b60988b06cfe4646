//! Bytes to and from iSCSI PDUs (RFC 7143 section 11), one file per PDU. Only what an initiator that reads sends
//! has an encoder, and only what it receives has a parser.

mod asynchronous;
mod bhs;
mod data_in;
mod frame;
mod login;
mod logout;
mod nop;
mod reject;
mod scsi_command;
mod scsi_response;
mod serial;
mod task;
mod text;

pub(crate) use asynchronous::{AsyncEvent, AsyncMessage};
pub(crate) use bhs::{BHS_LEN, Bhs, NO_TAG, Sequence};
pub(crate) use data_in::DataIn;
pub(crate) use frame::{Digests, Outgoing, padding, write_header};
pub(crate) use login::{LoginRequest, LoginResponse, Stage};
pub(crate) use logout::{LogoutReason, LogoutRequest, LogoutResponse};
pub(crate) use nop::{NopIn, NopOut};
pub(crate) use reject::{Reject, rejected_header};
pub(crate) use scsi_command::ScsiCommand;
pub(crate) use scsi_response::{Residual, ScsiResponse, sense_data};
pub(crate) use serial::Serial;
pub(crate) use task::{AbortTask, TaskResponse};
pub(crate) use text::{TextRequest, TextResponse};

/// A PDU that a target sends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Incoming {
    NopIn(NopIn),
    ScsiResponse(ScsiResponse),
    Task(TaskResponse),
    Login(LoginResponse),
    Text(TextResponse),
    DataIn(DataIn),
    Logout(LogoutResponse),
    /// Ready To Transfer: never right here, because nothing is written.
    R2t,
    Async(AsyncMessage),
    Reject(Reject),
}

impl Incoming {
    /// Parses a header. `Err` is the opcode of something that no target sends.
    pub(crate) fn parse(bhs: &Bhs) -> Result<Self, u8> {
        Ok(match bhs.opcode() {
            0x20 => Self::NopIn(NopIn::parse(bhs)),
            0x21 => Self::ScsiResponse(ScsiResponse::parse(bhs)),
            0x22 => Self::Task(TaskResponse::parse(bhs)),
            0x23 => Self::Login(LoginResponse::parse(bhs)),
            0x24 => Self::Text(TextResponse::parse(bhs)),
            0x25 => Self::DataIn(DataIn::parse(bhs)),
            0x26 => Self::Logout(LogoutResponse::parse(bhs)),
            0x31 => Self::R2t,
            0x32 => Self::Async(AsyncMessage::parse(bhs)),
            0x3f => Self::Reject(Reject::parse(bhs)),
            other => return Err(other),
        })
    }
}
