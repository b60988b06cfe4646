//! Logical unit numbers: eight bytes on the wire, a number to people (SAM-5 section 4.7).

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// The eight bytes that address a logical unit in a SCSI command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LunAddress(pub(crate) [u8; 8]);

impl LunAddress {
    /// The greatest number that stands in the first two bytes alone.
    pub(crate) const MAX_FLAT: u64 = 0x3fff;

    /// The usual address of a number: peripheral device addressing below 256, flat space addressing below
    /// 16,384, else the number is itself the eight bytes (as [`LunAddress::number`] gives it).
    pub(crate) fn from_number(number: u64) -> Self {
        let top = match number {
            0..=0xff => number << 48,
            0x100..=Self::MAX_FLAT => (0x4000 | number) << 48,
            _ => number,
        };
        Self(top.to_be_bytes())
    }

    /// The number that people and URLs use.
    pub(crate) fn number(self) -> u64 {
        let whole = u64::from_be_bytes(self.0);
        let first = whole >> 48;
        // A further level, or a bus number in the first: then the eight bytes are the number.
        if whole << 16 != 0 {
            return whole;
        }
        match first >> 14 {
            0 if first <= 0xff => first,
            1 => first & 0x3fff,
            _ => whole,
        }
    }
}

impl fmt::Display for LunAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LUN {}", self.number())
    }
}

/// What REPORT LUNS returned: the addresses that fitted, and how many bytes the whole list needs.
pub(crate) fn parse_report_luns(data: &[u8]) -> Result<(Vec<LunAddress>, u32)> {
    let Some((length, rest)) = data.split_first_chunk() else {
        return Err(short(data));
    };
    let Some((_reserved, list)) = rest.split_at_checked(4) else {
        return Err(short(data));
    };
    let length = u32::from_be_bytes(*length);
    let listed = usize::try_from(length).unwrap_or(usize::MAX).min(list.len());
    let luns = list[..listed].chunks_exact(8);
    let luns = luns.map(|lun| LunAddress(lun.try_into().expect("chunks of eight"))).collect();
    Ok((luns, length.saturating_add(8)))
}

fn short(data: &[u8]) -> Error {
    Error::new(ErrorKind::Protocol, format!("REPORT LUNS answered with {} bytes only", data.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lun_300_is_flat() {
        let address = LunAddress::from_number(300);
        assert_eq!(address.0, [0x41, 0x2c, 0, 0, 0, 0, 0, 0]);
        assert_eq!(address.number(), 300);
    }

    #[test]
    fn every_address_keeps_its_number() {
        for number in [0, 1, 255, 256, 16383] {
            assert_eq!(LunAddress::from_number(number).number(), number);
        }
        // Flat addressing of a small number, an extended address, a second level.
        assert_eq!(LunAddress([0x40, 5, 0, 0, 0, 0, 0, 0]).number(), 5);
        for bytes in
            [[0xd2, 1, 2, 3, 0, 0, 0, 0], [0, 1, 0, 2, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
        {
            assert_eq!(LunAddress::from_number(LunAddress(bytes).number()), LunAddress(bytes));
        }
    }

    #[test]
    fn a_list_that_did_not_fit_says_how_long_it_is() {
        let mut data = 24_u32.to_be_bytes().to_vec();
        data.extend([0; 4]);
        data.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        let (luns, needed) = parse_report_luns(&data).unwrap();
        assert_eq!(luns, [LunAddress::from_number(1)]);
        assert_eq!(needed, 32);
        assert!(parse_report_luns(&data[..7]).is_err());
    }
}
