//! Task Management: ABORT TASK, and no other function, because the others hit other hosts' commands
//! (RFC 7143 sections 11.5 and 11.6).

use super::Serial;
use crate::scsi::LunAddress;

use super::bhs::FINAL;
use super::{Bhs, Sequence};

/// The function code of ABORT TASK.
const ABORT_TASK: u8 = 1;

#[derive(Clone, Copy, Debug)]
pub(crate) struct AbortTask {
    pub(crate) lun: LunAddress,
    pub(crate) itt: u32,
    /// The tag of the command to abort.
    pub(crate) referenced: u32,
    pub(crate) cmd_sn: Serial,
    pub(crate) exp_stat_sn: Serial,
    /// The CmdSN of the command to abort.
    pub(crate) ref_cmd_sn: Serial,
}

impl AbortTask {
    pub(crate) fn encode(&self) -> Bhs {
        let mut bhs = Bhs::new(0x02, FINAL | ABORT_TASK).immediate();
        bhs.put(8, self.lun.0);
        bhs.put_u32(16, self.itt);
        bhs.put_u32(20, self.referenced);
        bhs.put_serial(24, self.cmd_sn);
        bhs.put_serial(28, self.exp_stat_sn);
        bhs.put_serial(32, self.ref_cmd_sn);
        bhs
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct TaskResponse {
    /// 0: done; 1: there is no such task; else a refusal.
    pub(crate) response: u8,
    pub(crate) itt: u32,
    pub(crate) sequence: Sequence,
}

impl TaskResponse {
    pub(crate) fn parse(bhs: &Bhs) -> Self {
        Self { response: bhs.byte(2), itt: bhs.itt(), sequence: Sequence::parse(bhs) }
    }
}
