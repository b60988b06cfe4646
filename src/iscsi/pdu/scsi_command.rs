//! SCSI Command (RFC 7143 section 11.3).

use super::Serial;
use crate::scsi::{Cdb, LunAddress};

use super::Bhs;
use super::bhs::FINAL;

/// R: data comes in.
const READ: u8 = 0x40;
/// The task attribute SIMPLE.
const SIMPLE: u8 = 1;

#[derive(Clone, Copy, Debug)]
pub(crate) struct ScsiCommand {
    pub(crate) lun: LunAddress,
    pub(crate) itt: u32,
    /// Expected Data Transfer Length.
    pub(crate) expected: u32,
    pub(crate) cmd_sn: Serial,
    pub(crate) exp_stat_sn: Serial,
    pub(crate) cdb: Cdb,
}

impl ScsiCommand {
    pub(crate) fn encode(&self) -> Bhs {
        let read = if self.expected > 0 { READ } else { 0 };
        let mut bhs = Bhs::new(0x01, FINAL | read | SIMPLE);
        bhs.put(8, self.lun.0);
        bhs.put_u32(16, self.itt);
        bhs.put_u32(20, self.expected);
        bhs.put_serial(24, self.cmd_sn);
        bhs.put_serial(28, self.exp_stat_sn);
        bhs.put(32, self.cdb.encode());
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_on_the_wire() {
        let command = ScsiCommand {
            lun: LunAddress::from_number(1),
            itt: 0x0a0b_0c0d,
            expected: 4096,
            cmd_sn: Serial(7),
            exp_stat_sn: Serial(9),
            cdb: Cdb::Read16 { lba: 2, blocks: 8 },
        };
        let mut wire = [0; 48];
        wire[..2].copy_from_slice(&[0x01, 0xc1]);
        wire[9] = 1;
        wire[16..20].copy_from_slice(&[0x0a, 0x0b, 0x0c, 0x0d]);
        wire[22] = 0x10;
        wire[27] = 7;
        wire[31] = 9;
        wire[32] = 0x88;
        wire[41] = 2;
        wire[45] = 8;
        assert_eq!(command.encode().0, wire);
    }
}
