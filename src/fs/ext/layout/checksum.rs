//! The checksums of ext4's metadata: CRC-32C for `metadata_csum`, CRC-16 for `gdt_csum`.

use crate::error::{Error, ErrorKind, Result};

/// A running CRC-32C as ext4 keeps it: no final inversion, so that sums chain over seeds and fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crc32c(pub u32);

impl Crc32c {
    /// The sum over nothing.
    pub const START: Self = Self(u32::MAX);

    /// The sum with `bytes` added.
    #[must_use]
    pub fn over(self, bytes: &[u8]) -> Self {
        // The crate inverts before and after, as iSCSI wants it; ext4 does neither.
        Self(!crc32c::crc32c_append(!self.0, bytes))
    }

    /// Compares the sum with the one on the disk.
    pub(super) fn check(self, stored: u32) -> Result<()> {
        if self.0 == stored {
            return Ok(());
        }
        Err(mismatch(stored, self.0))
    }
}

/// CRC-16 (polynomial 0x8005, reflected) as the kernel's `crc16()`.
pub(super) fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(seed, |sum, byte| {
        (0..8).fold(sum ^ u16::from(*byte), |sum, _| {
            if sum & 1 == 1 { (sum >> 1) ^ 0xA001 } else { sum >> 1 }
        })
    })
}

pub(super) fn mismatch(stored: u32, calculated: u32) -> Error {
    Error::new(
        ErrorKind::BadChecksum,
        format!("checksum mismatch: stored {stored:#010x}, calculated {calculated:#010x}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_values_of_both_polynomials() {
        assert_eq!(!Crc32c::START.over(b"123456789").0, 0xE306_9283);
        assert_eq!(crc16(0, b"123456789"), 0xBB3D);
    }

    #[test]
    fn sums_chain() {
        assert_eq!(Crc32c::START.over(b"12345").over(b"6789"), Crc32c::START.over(b"123456789"));
    }
}
