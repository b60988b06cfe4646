//! How large a logical unit is: READ CAPACITY (SBC-4 sections 5.20 and 5.21).

use crate::error::{Error, ErrorKind, Result};

/// What READ CAPACITY(10) returns, in bytes.
pub(crate) const READ_CAPACITY_10_LEN: u32 = 8;
/// What READ CAPACITY(16) returns, in bytes.
pub(crate) const READ_CAPACITY_16_LEN: u32 = 32;

/// The number and the size of the logical blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// How many logical blocks there are; at least one.
    pub(crate) blocks: u64,
    /// Bytes in a logical block: a power of two from 512 to 64 KiB.
    pub(crate) block_size: u32,
}

impl Capacity {
    /// Parses the answer to READ CAPACITY(10). `None`: the unit is too large for it.
    pub(crate) fn parse_10(data: &[u8]) -> Result<Option<Self>> {
        let &[a, b, c, d, e, f, g, h, ..] = data else {
            return Err(short("READ CAPACITY(10)", data));
        };
        let last = u32::from_be_bytes([a, b, c, d]);
        if last == u32::MAX {
            return Ok(None);
        }
        Self::new(u64::from(last), u32::from_be_bytes([e, f, g, h])).map(Some)
    }

    /// Parses the answer to READ CAPACITY(16).
    pub(crate) fn parse_16(data: &[u8]) -> Result<Self> {
        let Some((last, rest)) = data.split_first_chunk() else {
            return Err(short("READ CAPACITY(16)", data));
        };
        let Some((block_size, _)) = rest.split_first_chunk() else {
            return Err(short("READ CAPACITY(16)", data));
        };
        Self::new(u64::from_be_bytes(*last), u32::from_be_bytes(*block_size))
    }

    fn new(last: u64, block_size: u32) -> Result<Self> {
        if !block_size.is_power_of_two() || !(512..=65536).contains(&block_size) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "logical blocks of {block_size} bytes: only powers of two from 512 to 65536 are read"
                ),
            ));
        }
        let blocks = last.checked_add(1);
        match blocks.filter(|blocks| blocks.checked_mul(u64::from(block_size)).is_some()) {
            Some(blocks) => Ok(Self { blocks, block_size }),
            None => Err(Error::new(
                ErrorKind::Protocol,
                format!("impossible capacity: last block {last} of {block_size} bytes"),
            )),
        }
    }

    /// Bytes in all.
    pub(crate) fn bytes(self) -> u64 {
        // `new` has checked that it fits.
        self.blocks.saturating_mul(u64::from(self.block_size))
    }
}

fn short(command: &str, data: &[u8]) -> Error {
    Error::new(ErrorKind::Protocol, format!("{command} answered with {} bytes only", data.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_16(last: u64, block_size: u32) -> Vec<u8> {
        let mut data = last.to_be_bytes().to_vec();
        data.extend(block_size.to_be_bytes());
        data.resize(32, 0);
        data
    }

    #[test]
    fn more_than_2_tib() {
        let capacity = Capacity::parse_16(&answer_16(0x1_0000_0000, 4096)).unwrap();
        assert_eq!(capacity.bytes(), 0x1_0000_0001 * 4096);
    }

    #[test]
    fn the_short_form_says_when_it_does_not_suffice() {
        let mut data = [0xff; 8];
        data[4..].copy_from_slice(&512_u32.to_be_bytes());
        assert_eq!(Capacity::parse_10(&data).unwrap(), None);
        data[0] = 0;
        assert_eq!(Capacity::parse_10(&data).unwrap().unwrap().blocks, 0x0100_0000);
    }

    #[test]
    fn impossible_answers_are_errors() {
        assert!(Capacity::parse_16(&answer_16(u64::MAX, 512)).is_err());
        assert!(Capacity::parse_16(&answer_16(u64::MAX / 512, 4096)).is_err());
        for block_size in [0, 1, 520, 131_072] {
            assert!(Capacity::parse_16(&answer_16(9, block_size)).is_err(), "{block_size}");
        }
        assert!(Capacity::parse_16(&[0; 11]).is_err());
        assert!(Capacity::parse_10(&[0; 7]).is_err());
    }
}
