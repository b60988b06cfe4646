//! Statuses and sense data (SAM-5 section 5.3, SPC-4 section 4.5).

/// GOOD.
pub(crate) const GOOD: u8 = 0x00;
/// CHECK CONDITION.
pub(crate) const CHECK_CONDITION: u8 = 0x02;

/// Sense data: key, additional code and qualifier, and the form they are sent in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// Sense key, 0 to 15.
    pub key: u8,
    /// Additional sense code.
    pub asc: u8,
    /// Additional sense code qualifier.
    pub ascq: u8,
    /// INFORMATION: for medium errors the LBA.
    pub information: Option<u64>,
    /// Descriptor format (72h) instead of fixed format (70h).
    pub descriptor: bool,
}

impl Sense {
    /// Sense data in fixed format without INFORMATION.
    pub const fn new(key: u8, asc: u8, ascq: u8) -> Self {
        Self { key, asc, ascq, information: None, descriptor: false }
    }

    /// The same with the LBA of the failure.
    #[must_use]
    pub const fn at_lba(mut self, lba: u64) -> Self {
        self.information = Some(lba);
        self
    }

    /// The same in descriptor format.
    #[must_use]
    pub const fn descriptor(mut self) -> Self {
        self.descriptor = true;
        self
    }

    /// ILLEGAL REQUEST, invalid command operation code.
    pub const INVALID_OPCODE: Self = Self::new(5, 0x20, 0);
    /// ILLEGAL REQUEST, logical block address out of range.
    pub const OUT_OF_RANGE: Self = Self::new(5, 0x21, 0);
    /// ILLEGAL REQUEST, invalid field in CDB.
    pub const INVALID_FIELD: Self = Self::new(5, 0x24, 0);
    /// ILLEGAL REQUEST, logical unit not supported.
    pub const NO_LUN: Self = Self::new(5, 0x25, 0);
    /// UNIT ATTENTION, power on, reset or bus device reset occurred.
    pub const POWER_ON: Self = Self::new(6, 0x29, 0);
    /// UNIT ATTENTION, capacity data has changed.
    pub const CAPACITY_CHANGED: Self = Self::new(6, 0x2a, 9);
    /// UNIT ATTENTION, reported LUNs data has changed.
    pub const LUNS_CHANGED: Self = Self::new(6, 0x3f, 0x0e);
    /// NOT READY, in process of becoming ready.
    pub const BECOMING_READY: Self = Self::new(2, 4, 1);
    /// MEDIUM ERROR, unrecovered read error.
    pub const READ_ERROR: Self = Self::new(3, 0x11, 0);

    /// The bytes (SPC-4 tables 28 and 48).
    pub(crate) fn encode(self) -> Vec<u8> {
        if self.descriptor {
            let mut bytes = vec![0x72, self.key, self.asc, self.ascq, 0, 0, 0, 0];
            if let Some(information) = self.information {
                bytes.extend([0, 10, 0x80, 0]);
                bytes.extend(information.to_be_bytes());
                bytes[7] = 12;
            }
            return bytes;
        }
        let mut bytes = vec![0; 18];
        bytes[0] = 0x70;
        bytes[2] = self.key;
        bytes[7] = 10;
        bytes[12] = self.asc;
        bytes[13] = self.ascq;
        if let Some(information) = self.information.and_then(|lba| u32::try_from(lba).ok()) {
            bytes[0] |= 0x80;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats() {
        let fixed = Sense::READ_ERROR.at_lba(0x1234).encode();
        assert_eq!((fixed[0], fixed[2], fixed[12], fixed[13]), (0xf0, 3, 0x11, 0));
        assert_eq!(fixed[3..7], [0, 0, 0x12, 0x34]);
        let descriptor = Sense::CAPACITY_CHANGED.descriptor().encode();
        assert_eq!(descriptor, [0x72, 6, 0x2a, 9, 0, 0, 0, 0]);
        let wide = Sense::READ_ERROR.at_lba(1 << 40).descriptor().encode();
        assert_eq!((wide[7], wide[8], wide[9], wide[10]), (12, 0, 10, 0x80));
        assert_eq!(wide[12..], (1_u64 << 40).to_be_bytes());
    }
}
