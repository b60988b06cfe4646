//! The commands that this program can send: this list is the proof that it only reads.

/// A vital product data page (SPC-5 section 7.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VpdPage {
    Supported = 0x00,
    UnitSerialNumber = 0x80,
    DeviceIdentification = 0x83,
    BlockLimits = 0xb0,
    BlockDeviceCharacteristics = 0xb1,
}

/// A command descriptor block, before it is bytes.
///
/// There is no variant that writes, formats, reserves or changes a mode page, and no way to encode bytes that
/// are not one of these variants. Allocation lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cdb {
    /// SPC-5 section 6.47
    TestUnitReady,
    /// SPC-5 section 6.6
    Inquiry { allocation: u16 },
    /// INQUIRY with EVPD.
    Vpd { page: VpdPage, allocation: u16 },
    /// SPC-5 section 6.33; SELECT REPORT 0: the addressable logical units.
    ReportLuns { allocation: u32 },
    /// MAINTENANCE IN, service action 0Ah (SPC-5 section 6.36)
    ReportTargetPortGroups { allocation: u32 },
    /// SBC-4 section 5.20
    ReadCapacity10,
    /// SERVICE ACTION IN(16), service action 10h (SBC-4 section 5.21)
    ReadCapacity16,
    /// SBC-4 section 5.16
    Read10 { lba: u32, blocks: u16 },
    /// SBC-4 section 5.18
    Read16 { lba: u64, blocks: u32 },
}

impl Cdb {
    /// The block as iSCSI carries it: 16 bytes, zeros behind a shorter one (RFC 7143 section 11.3.5).
    pub(crate) fn encode(self) -> [u8; 16] {
        let mut cdb = [0; 16];
        match self {
            Self::TestUnitReady => {}
            Self::Inquiry { allocation } => {
                cdb[0] = 0x12;
                cdb[3..5].copy_from_slice(&allocation.to_be_bytes());
            }
            Self::Vpd { page, allocation } => {
                cdb[0] = 0x12;
                cdb[1] = 1;
                cdb[2] = page as u8;
                cdb[3..5].copy_from_slice(&allocation.to_be_bytes());
            }
            Self::ReportLuns { allocation } => {
                cdb[0] = 0xa0;
                cdb[6..10].copy_from_slice(&allocation.to_be_bytes());
            }
            Self::ReportTargetPortGroups { allocation } => {
                cdb[0] = 0xa3;
                cdb[1] = 0x0a;
                cdb[6..10].copy_from_slice(&allocation.to_be_bytes());
            }
            Self::ReadCapacity10 => cdb[0] = 0x25,
            Self::ReadCapacity16 => {
                cdb[0] = 0x9e;
                cdb[1] = 0x10;
                let allocation = super::READ_CAPACITY_16_LEN;
                cdb[10..14].copy_from_slice(&allocation.to_be_bytes());
            }
            Self::Read10 { lba, blocks } => {
                cdb[0] = 0x28;
                cdb[2..6].copy_from_slice(&lba.to_be_bytes());
                cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
            }
            Self::Read16 { lba, blocks } => {
                cdb[0] = 0x88;
                cdb[2..10].copy_from_slice(&lba.to_be_bytes());
                cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
            }
        }
        cdb
    }

    /// The command's name in the standards.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TestUnitReady => "TEST UNIT READY",
            Self::Inquiry { .. } | Self::Vpd { .. } => "INQUIRY",
            Self::ReportLuns { .. } => "REPORT LUNS",
            Self::ReportTargetPortGroups { .. } => "REPORT TARGET PORT GROUPS",
            Self::ReadCapacity10 => "READ CAPACITY(10)",
            Self::ReadCapacity16 => "READ CAPACITY(16)",
            Self::Read10 { .. } => "READ(10)",
            Self::Read16 { .. } => "READ(16)",
        }
    }

    /// Whether this reads the medium: its data counts only when the unit is the one that was opened.
    pub(crate) fn reads_medium(self) -> bool {
        matches!(self, Self::Read10 { .. } | Self::Read16 { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_16_carries_a_64_bit_address() {
        let cdb = Cdb::Read16 { lba: 0x0102_0304_0506_0708, blocks: 0x0a0b }.encode();
        assert_eq!(cdb, [0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x0a, 0x0b, 0, 0]);
    }

    #[test]
    fn read_10_carries_a_32_bit_address() {
        let cdb = Cdb::Read10 { lba: 0x0102_0304, blocks: 0x0506 }.encode();
        assert_eq!(cdb[..10], [0x28, 0, 1, 2, 3, 4, 0, 5, 6, 0]);
    }

    #[test]
    fn every_command_is_a_reading_one() {
        let all = [
            Cdb::TestUnitReady,
            Cdb::Inquiry { allocation: 36 },
            Cdb::Vpd { page: VpdPage::DeviceIdentification, allocation: 255 },
            Cdb::ReportLuns { allocation: 16 },
            Cdb::ReportTargetPortGroups { allocation: 16 },
            Cdb::ReadCapacity10,
            Cdb::ReadCapacity16,
            Cdb::Read10 { lba: 0, blocks: 1 },
            Cdb::Read16 { lba: 0, blocks: 1 },
        ];
        for cdb in all {
            let bytes = cdb.encode();
            let service_action = bytes[1] & 0x1f;
            let allowed = match bytes[0] {
                0x00 | 0x12 | 0x25 | 0x28 | 0x88 | 0xa0 => true,
                0x9e => service_action == 0x10,
                0xa3 => service_action == 0x0a,
                _ => false,
            };
            assert!(allowed, "{cdb:?}");
        }
    }
}
